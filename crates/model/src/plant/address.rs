//! Modbus notation: where a value is, and in which order its words and bytes come.

use serde::{Deserialize, Serialize};

/// One of the four tables of a Modbus device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// Read-write bits, function code 1; `0xxxx` in manuals.
    Coil,
    /// Read-only bits, function code 2; `1xxxx`.
    Discrete,
    /// Read-only words, function code 4; `3xxxx`.
    Input,
    /// Read-write words, function code 3; `4xxxx`.
    Holding,
}

/// Where a value begins, counted from zero as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModbusAddress {
    /// The table.
    pub table: Table,
    /// The first register or bit, from zero.
    pub offset: u16,
    /// One bit of that register, 0 the least significant; only in tables of words.
    pub bit: Option<u8>,
}

/// How the words and bytes of a number of more than 16 bits are ordered, relative to big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub struct WordOrder {
    /// The two bytes of each word are exchanged.
    pub swap_bytes: bool,
    /// The two words of each 32 bits are exchanged.
    pub swap_words: bool,
    /// The two 32-bit halves of 64 bits are exchanged.
    pub swap_halves: bool,
}
