//! Values and their types: scalars, strings, bytes, and arrays of these.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::InvalidId;

/// The type of a delivered value. Arrays have the type of their elements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueType {
    /// True or false.
    #[default]
    Bool,
    /// Signed 16 bits.
    I16,
    /// Unsigned 16 bits.
    U16,
    /// Signed 32 bits.
    I32,
    /// Unsigned 32 bits.
    U32,
    /// Signed 64 bits.
    I64,
    /// Unsigned 64 bits.
    U64,
    /// IEEE 754, 32 bits.
    F32,
    /// IEEE 754, 64 bits.
    F64,
    /// UTF-8 text.
    String,
    /// Anything else.
    Bytes,
}

impl ValueType {
    /// Every type, in the order of the configuration reference.
    pub const ALL: [Self; 11] = [
        Self::Bool,
        Self::I16,
        Self::U16,
        Self::I32,
        Self::U32,
        Self::I64,
        Self::U64,
        Self::F32,
        Self::F64,
        Self::String,
        Self::Bytes,
    ];

    /// The name used in configuration and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::I16 => "i16",
            Self::U16 => "u16",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::U64 => "u64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::String => "string",
            Self::Bytes => "bytes",
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ValueType {
    type Err = InvalidId;

    /// Accepts our names and the IEC 61131-3 names (`INT`, `REAL`, …) in capitals.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Ok(match text {
            "bool" | "BOOL" => Self::Bool,
            "i16" | "INT" => Self::I16,
            "u16" | "UINT" | "WORD" => Self::U16,
            "i32" | "DINT" => Self::I32,
            "u32" | "UDINT" | "DWORD" => Self::U32,
            "i64" | "LINT" => Self::I64,
            "u64" | "ULINT" | "LWORD" => Self::U64,
            "f32" | "REAL" => Self::F32,
            "f64" | "LREAL" => Self::F64,
            "string" | "STRING" => Self::String,
            "bytes" => Self::Bytes,
            _ => {
                return Err(InvalidId {
                    expected: "a type (bool, i16 … f64, string, bytes)",
                    found: text.to_owned(),
                });
            }
        })
    }
}

/// One value as it was read.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// Signed 16 bits.
    I16(i16),
    /// Unsigned 16 bits.
    U16(u16),
    /// Signed 32 bits.
    I32(i32),
    /// Unsigned 32 bits.
    U32(u32),
    /// Signed 64 bits.
    I64(i64),
    /// Unsigned 64 bits.
    U64(u64),
    /// IEEE 754, 32 bits, every bit pattern kept.
    F32(f32),
    /// IEEE 754, 64 bits, every bit pattern kept.
    F64(f64),
    /// UTF-8 text.
    String(Arc<str>),
    /// Anything else.
    Bytes(Arc<[u8]>),
    /// Several values of one type.
    Array(ValueType, Arc<[Value]>),
}

impl Value {
    /// Bytes that it takes besides those of the enum itself.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::String(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Array(_, values) => values.iter().map(|value| size_of::<Self>() + value.heap_bytes()).sum(),
            _ => 0,
        }
    }

    /// The type; for arrays that of the elements.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::Bool(_) => ValueType::Bool,
            Self::I16(_) => ValueType::I16,
            Self::U16(_) => ValueType::U16,
            Self::I32(_) => ValueType::I32,
            Self::U32(_) => ValueType::U32,
            Self::I64(_) => ValueType::I64,
            Self::U64(_) => ValueType::U64,
            Self::F32(_) => ValueType::F32,
            Self::F64(_) => ValueType::F64,
            Self::String(_) => ValueType::String,
            Self::Bytes(_) => ValueType::Bytes,
            Self::Array(element, _) => *element,
        }
    }

    /// Whether both are the same to the bit (unlike `==`, a NaN is the same as itself and 0.0 differs from -0.0).
    pub fn is_identical(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::F32(a), Self::F32(b)) => a.to_bits() == b.to_bits(),
            (Self::F64(a), Self::F64(b)) => a.to_bits() == b.to_bits(),
            (Self::Array(a, left), Self::Array(b, right)) => {
                a == b
                    && left.len() == right.len()
                    && left.iter().zip(right.iter()).all(|(l, r)| l.is_identical(r))
            }
            _ => self == other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_names_survive_their_text_form() {
        for ty in ValueType::ALL {
            assert_eq!(ty.name().parse::<ValueType>(), Ok(ty));
        }
        assert_eq!("LREAL".parse::<ValueType>(), Ok(ValueType::F64));
        assert!("float".parse::<ValueType>().is_err());
    }

    #[test]
    fn identity_is_by_bits() {
        assert!(Value::F32(f32::NAN).is_identical(&Value::F32(f32::NAN)));
        assert!(!Value::F64(0.0).is_identical(&Value::F64(-0.0)));
    }
}
