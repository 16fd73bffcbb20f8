//! A reading: what one attempt to read one tag gave. A bad reading has no value that could be misused.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::InvalidId;
use crate::value::Value;

/// The severity of a status, as in OPC UA Part 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quality {
    /// The value can be used.
    Good,
    /// There is a value, and a doubt about it.
    Uncertain,
    /// There is no value.
    Bad,
}

impl Quality {
    /// The name used in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Uncertain => "uncertain",
            Self::Bad => "bad",
        }
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An OPC UA status code (Part 6, annex A). The two highest bits are the severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusCode(pub u32);

impl StatusCode {
    /// All is well.
    pub const GOOD: Self = Self(0x0000_0000);
    /// A value of doubtful worth, for no named reason.
    pub const UNCERTAIN: Self = Self(0x4000_0000);
    /// The last value known before communication failed.
    pub const UNCERTAIN_LAST_USABLE_VALUE: Self = Self(0x4090_0000);
    /// No value, for no named reason.
    pub const BAD: Self = Self(0x8000_0000);
    /// The device did not answer in time.
    pub const BAD_TIMEOUT: Self = Self(0x800A_0000);
    /// The connection could not be made or broke.
    pub const BAD_COMMUNICATION_ERROR: Self = Self(0x8005_0000);
    /// No connection to the device at present.
    pub const BAD_NO_COMMUNICATION: Self = Self(0x8031_0000);
    /// The address does not exist in the device.
    pub const BAD_NODE_ID_UNKNOWN: Self = Self(0x8034_0000);
    /// The device refused what was asked.
    pub const BAD_NOT_SUPPORTED: Self = Self(0x803D_0000);
    /// The device reports a failure of its own.
    pub const BAD_DEVICE_FAILURE: Self = Self(0x808B_0000);
    /// The answer could not be understood.
    pub const BAD_DECODING_ERROR: Self = Self(0x8007_0000);
    /// The device is busy; asking again later may help.
    pub const BAD_RESOURCE_UNAVAILABLE: Self = Self(0x8004_0000);
    /// The value is outside what its type can hold.
    pub const BAD_OUT_OF_RANGE: Self = Self(0x803C_0000);

    const NAMES: [(Self, &'static str); 13] = [
        (Self::GOOD, "Good"),
        (Self::UNCERTAIN, "Uncertain"),
        (Self::UNCERTAIN_LAST_USABLE_VALUE, "UncertainLastUsableValue"),
        (Self::BAD, "Bad"),
        (Self::BAD_TIMEOUT, "BadTimeout"),
        (Self::BAD_COMMUNICATION_ERROR, "BadCommunicationError"),
        (Self::BAD_NO_COMMUNICATION, "BadNoCommunication"),
        (Self::BAD_NODE_ID_UNKNOWN, "BadNodeIdUnknown"),
        (Self::BAD_NOT_SUPPORTED, "BadNotSupported"),
        (Self::BAD_DEVICE_FAILURE, "BadDeviceFailure"),
        (Self::BAD_DECODING_ERROR, "BadDecodingError"),
        (Self::BAD_RESOURCE_UNAVAILABLE, "BadResourceUnavailable"),
        (Self::BAD_OUT_OF_RANGE, "BadOutOfRange"),
    ];

    /// The severity. The combination that OPC UA reserves counts as bad.
    pub fn quality(self) -> Quality {
        match self.0 >> 30 {
            0 => Quality::Good,
            1 => Quality::Uncertain,
            _ => Quality::Bad,
        }
    }

    /// The name in the specification, where this table knows it.
    pub fn name(self) -> Option<&'static str> {
        Self::NAMES.iter().find(|(code, _)| *code == self).map(|(_, name)| *name)
    }
}

impl fmt::Display for StatusCode {
    /// The specification's name, or `0x` and eight hexadecimal digits where it has none here.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "0x{:08X}", self.0),
        }
    }
}

impl FromStr for StatusCode {
    type Err = InvalidId;

    /// Accepts what [`Display`](fmt::Display) prints.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let named = Self::NAMES.iter().find(|(_, name)| *name == text).map(|(code, _)| *code);
        let numbered = || u32::from_str_radix(text.strip_prefix("0x")?, 16).ok().map(Self);
        named.or_else(numbered).ok_or_else(|| InvalidId { expected: "a status code", found: text.to_owned() })
    }
}

/// What one attempt to read one tag gave.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// A value that can be used.
    Good(Value),
    /// A value, and why it is in doubt (a status of severity *uncertain*).
    Uncertain(Value, StatusCode),
    /// No value, and why (a status of severity *bad*).
    Bad(StatusCode),
}

impl Reading {
    /// The severity.
    pub fn quality(&self) -> Quality {
        match self {
            Self::Good(_) => Quality::Good,
            Self::Uncertain(..) => Quality::Uncertain,
            Self::Bad(_) => Quality::Bad,
        }
    }

    /// The status code.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Good(_) => StatusCode::GOOD,
            Self::Uncertain(_, status) | Self::Bad(status) => *status,
        }
    }

    /// The value, where there is one.
    pub fn value(&self) -> Option<&Value> {
        match self {
            Self::Good(value) | Self::Uncertain(value, _) => Some(value),
            Self::Bad(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severity_comes_from_the_two_highest_bits() {
        assert_eq!(StatusCode::GOOD.quality(), Quality::Good);
        assert_eq!(StatusCode::UNCERTAIN_LAST_USABLE_VALUE.quality(), Quality::Uncertain);
        assert_eq!(StatusCode::BAD_TIMEOUT.quality(), Quality::Bad);
        assert_eq!(StatusCode(0xC000_0000).quality(), Quality::Bad);
    }

    #[test]
    fn an_unnamed_code_prints_as_its_number() {
        assert_eq!(StatusCode::BAD_TIMEOUT.to_string(), "BadTimeout");
        assert_eq!(StatusCode(0x8012_0000).to_string(), "0x80120000");
    }

    #[test]
    fn codes_survive_their_text_form() {
        for code in [StatusCode::GOOD, StatusCode::BAD_TIMEOUT, StatusCode(0x8012_0000)] {
            assert_eq!(code.to_string().parse::<StatusCode>(), Ok(code));
        }
        assert!("BadWeather".parse::<StatusCode>().is_err());
    }
}
