//! Modbus notation: where a value is, and in which order its words and bytes come.
//!
//! Owns the two ways of writing an address and the names of word orders. Reads no device.
//!
//! - `holding|input|coil|discrete:N` counts from zero, as the requests do (Modbus Application Protocol 1.1b3, §4.4).
//! - `4xxxx` or `4xxxxx`, `3…`, `1…`, `0…` is the one-based notation of manuals: 40001 is `holding:0`.
//! - `.B` behind either of them selects one bit of a register, 0 the least significant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Registers or bits in one table of a Modbus device.
pub const TABLE_SIZE: u32 = 65_536;

/// The highest one-based number that has five digits with the digit of its table in front.
const FIVE_DIGITS: u32 = 9_999;

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

impl Table {
    /// Every table.
    pub const ALL: [Self; 4] = [Self::Coil, Self::Discrete, Self::Input, Self::Holding];

    /// The name in front of the colon.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coil => "coil",
            Self::Discrete => "discrete",
            Self::Input => "input",
            Self::Holding => "holding",
        }
    }

    /// Whether it holds single bits; the others hold words of 16.
    pub fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }

    /// The digit that manuals put in front.
    fn digit(self) -> char {
        match self {
            Self::Coil => '0',
            Self::Discrete => '1',
            Self::Input => '3',
            Self::Holding => '4',
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a value begins, counted from zero as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModbusAddress {
    /// The table.
    pub table: Table,
    /// The first register or bit, from zero.
    pub offset: u16,
    /// One bit of that register, 0 the least significant; only in tables of words.
    pub bit: Option<u8>,
}

impl ModbusAddress {
    /// Both notations, for listings and errors: `holding:100 = 40101`.
    pub fn both(&self) -> String {
        format!("{self} = {}", self.one_based())
    }

    /// The notation of manuals: five digits where they suffice, otherwise six.
    pub fn one_based(&self) -> String {
        let number = u32::from(self.offset) + 1;
        let width = if number <= FIVE_DIGITS { 4 } else { 5 };
        let digit = self.table.digit();
        match self.bit {
            Some(bit) => format!("{digit}{number:0width$}.{bit}"),
            None => format!("{digit}{number:0width$}"),
        }
    }

    /// Whether a value of `count` registers (or bits) that begins here stays inside its table.
    pub fn has_room_for(&self, count: u16) -> bool {
        u32::from(self.offset) + u32::from(count) <= TABLE_SIZE
    }

    /// What the author of `text` probably meant, where it is the number of a manual behind the name of a table:
    /// `holding:40101` is a legal address, and almost always a mistake for `holding:100`.
    pub fn likely_meant(text: &str) -> Option<Self> {
        let (table, rest) = text.split_once(':')?;
        let meant: Self = rest.parse().ok()?;
        (meant.table.name() == table).then_some(meant)
    }
}

impl fmt::Display for ModbusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.table, self.offset)?;
        match self.bit {
            Some(bit) => write!(f, ".{bit}"),
            None => Ok(()),
        }
    }
}

/// A text that is no Modbus address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// It has the form of neither notation.
    #[error("expected an address such as \"holding:100\" or \"40101\", found {0:?}")]
    Malformed(String),
    /// The word in front of the colon is none of the four tables.
    #[error("expected one of the tables holding, input, coil, discrete in front of the colon, found {0:?}")]
    UnknownTable(String),
    /// The number does not fit its table.
    #[error("expected {expected}, found {found:?}")]
    OutOfRange {
        /// What fits.
        expected: &'static str,
        /// What was there instead.
        found: String,
    },
    /// A bit of something that is one bit already.
    #[error("expected no bit behind a {0}, which is one bit itself")]
    BitOfBit(Table),
}

impl FromStr for ModbusAddress {
    type Err = InvalidAddress;

    /// Accepts both notations, with or without a bit.
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let (place, bit) = match text.split_once('.') {
            Some((place, bit)) => (place, Some(parse_bit(bit)?)),
            None => (text, None),
        };
        let (table, offset) = match place.split_once(':') {
            Some((table, number)) => parse_named(text, table, number)?,
            None => parse_one_based(text, place)?,
        };
        if bit.is_some() && table.is_bits() {
            return Err(InvalidAddress::BitOfBit(table));
        }
        Ok(Self { table, offset, bit })
    }
}

fn parse_bit(text: &str) -> Result<u8, InvalidAddress> {
    let bit = digits(text).and_then(|number| u8::try_from(number).ok()).filter(|bit| *bit < 16);
    bit.ok_or_else(|| InvalidAddress::OutOfRange {
        expected: "a bit from 0 to 15 behind the point",
        found: text.to_owned(),
    })
}

fn parse_named(text: &str, table: &str, number: &str) -> Result<(Table, u16), InvalidAddress> {
    let known = Table::ALL.into_iter().find(|known| known.name() == table);
    let table = known.ok_or_else(|| InvalidAddress::UnknownTable(table.to_owned()))?;
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(InvalidAddress::Malformed(text.to_owned()));
    }
    let offset = number.parse().map_err(|_| InvalidAddress::OutOfRange {
        expected: "a number from 0 to 65535 behind the colon",
        found: number.to_owned(),
    })?;
    Ok((table, offset))
}

fn parse_one_based(text: &str, place: &str) -> Result<(Table, u16), InvalidAddress> {
    let malformed = || InvalidAddress::Malformed(text.to_owned());
    if !matches!(place.len(), 5 | 6) {
        return Err(malformed());
    }
    let table =
        Table::ALL.into_iter().find(|table| place.starts_with(table.digit())).ok_or_else(malformed)?;
    let number = digits(&place[1..]).ok_or_else(malformed)?;
    let offset = number.checked_sub(1).and_then(|offset| u16::try_from(offset).ok());
    let offset = offset.ok_or_else(|| InvalidAddress::OutOfRange {
        expected: "a number from 1 to 65536 behind the digit of the table",
        found: text.to_owned(),
    })?;
    Ok((table, offset))
}

/// A short run of ASCII digits as a number; no sign, no spaces.
fn digits(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// How the words and bytes of a number of more than 16 bits are ordered, relative to big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WordOrder {
    /// The two bytes of each word are exchanged.
    pub swap_bytes: bool,
    /// The two words of each 32 bits are exchanged.
    pub swap_words: bool,
    /// The two 32-bit halves of 64 bits are exchanged.
    pub swap_halves: bool,
}

/// Name, then whether bytes, words and halves are exchanged.
///
/// The names of four letters come first and so are the ones printed. Each says which end comes first and holds for
/// 32 and 64 bits alike: `cdab` (least significant word first) of 64 bits is `ghefcdab`.
const WORD_ORDERS: [(&str, bool, bool, bool); 12] = [
    ("abcd", false, false, false),
    ("cdab", false, true, true),
    ("badc", true, false, false),
    ("dcba", true, true, true),
    ("abcdefgh", false, false, false),
    ("badcfehg", true, false, false),
    ("cdabghef", false, true, false),
    ("dcbahgfe", true, true, false),
    ("efghabcd", false, false, true),
    ("fehgbadc", true, false, true),
    ("ghefcdab", false, true, true),
    ("hgfedcba", true, true, true),
];

impl WordOrder {
    /// Every accepted name, the four that hold for all widths first.
    pub fn names() -> impl Iterator<Item = &'static str> {
        WORD_ORDERS.iter().map(|(name, ..)| *name)
    }

    /// The name for a value of so many registers: of 32 bits and less the four letters, of 64 bits the eight.
    pub fn name_for(self, registers: u16) -> &'static str {
        let wide = registers > 2;
        let fits = |&&(name, bytes, words, halves): &&(&str, bool, bool, bool)| {
            let same_halves = if wide { halves == self.swap_halves } else { name.len() == 4 };
            (name.len() == 8) == wide && (bytes, words) == (self.swap_bytes, self.swap_words) && same_halves
        };
        WORD_ORDERS.iter().find(fits).expect("each width has a name for each order").0
    }

    /// The name used in configuration, which is read back as the same order.
    pub fn name(self) -> &'static str {
        let named = WORD_ORDERS.iter().find(|(_, bytes, words, halves)| {
            (*bytes, *words, *halves) == (self.swap_bytes, self.swap_words, self.swap_halves)
        });
        named.expect("the eight names of 64 bits are all there are").0
    }
}

impl fmt::Display for WordOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that is no word order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a word order (abcd, cdab, badc, dcba, or one of the eight of 64 bits), found {0:?}")]
pub struct InvalidWordOrder(pub String);

impl FromStr for WordOrder {
    type Err = InvalidWordOrder;

    fn from_str(text: &str) -> Result<Self, InvalidWordOrder> {
        let found = WORD_ORDERS.iter().find(|(name, ..)| *name == text);
        found
            .map(|&(_, swap_bytes, swap_words, swap_halves)| Self { swap_bytes, swap_words, swap_halves })
            .ok_or_else(|| InvalidWordOrder(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> ModbusAddress {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    prop_compose! {
        fn any_address()(table in 0..4_usize, offset: u16, bit in proptest::option::of(0..16_u8)) -> ModbusAddress {
            let table = Table::ALL[table];
            ModbusAddress { table, offset, bit: bit.filter(|_| !table.is_bits()) }
        }
    }

    proptest! {
        #[test]
        fn an_address_survives_both_notations(address in any_address()) {
            prop_assert_eq!(address.to_string().parse(), Ok(address));
            prop_assert_eq!(address.one_based().parse(), Ok(address));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,12}") {
            if let Ok(address) = text.parse::<ModbusAddress>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }

    #[test]
    fn both_notations_name_the_same_register() {
        assert_eq!(address("holding:100"), address("40101"));
        assert_eq!(address("holding:100"), address("400101"));
        assert_eq!(address("holding:0").both(), "holding:0 = 40001");
        assert_eq!(address("40101").both(), "holding:100 = 40101");
        assert_eq!(address("40105.3").both(), "holding:104.3 = 40105.3");
        assert_eq!(address("00001").both(), "coil:0 = 00001");
        assert_eq!(address("10008").both(), "discrete:7 = 10008");
        assert_eq!(address("365536").both(), "input:65535 = 365536");
        assert_eq!(address("holding:9998").one_based(), "49999");
        assert_eq!(address("holding:9999").one_based(), "410000");
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_was_expected() {
        for (text, part) in [
            ("", "found \"\""),
            ("holding", "holding:100"),
            ("register:4", "holding, input, coil, discrete"),
            ("Holding:4", "holding, input, coil, discrete"),
            ("holding:", "holding:100"),
            ("holding:-1", "holding:100"),
            ("holding:+1", "holding:100"),
            ("holding:65536", "0 to 65535"),
            ("40000", "1 to 65536"),
            ("465537", "1 to 65536"),
            ("20001", "holding:100"),
            ("4001", "holding:100"),
            ("4000001", "holding:100"),
            ("4é001", "holding:100"),
            ("holding:1.16", "0 to 15"),
            ("holding:1.", "0 to 15"),
            ("coil:1.0", "one bit itself"),
            ("00001.0", "one bit itself"),
        ] {
            let error = text.parse::<ModbusAddress>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_manual_number_behind_a_table_name_is_suspicious() {
        assert_eq!(ModbusAddress::likely_meant("holding:40101"), Some(address("holding:100")));
        assert_eq!(ModbusAddress::likely_meant("input:30001.2"), Some(address("input:0.2")));
        assert_eq!(ModbusAddress::likely_meant("holding:30101"), None, "a real offset in that table");
        assert_eq!(ModbusAddress::likely_meant("holding:100"), None);
        assert_eq!(ModbusAddress::likely_meant("40101"), None);
    }

    #[test]
    fn a_value_may_reach_the_last_register_and_not_beyond() {
        assert!(address("holding:65534").has_room_for(2));
        assert!(!address("holding:65535").has_room_for(2));
    }

    #[test]
    fn every_word_order_has_one_printed_name() {
        for name in WordOrder::names() {
            let order: WordOrder = name.parse().expect(name);
            assert_eq!(order.name().parse(), Ok(order), "{name}");
        }
        let orders: std::collections::HashSet<WordOrder> =
            WordOrder::names().map(|name| name.parse().expect(name)).collect();
        assert_eq!(orders.len(), 8);
        assert_eq!(
            "cdab".parse::<WordOrder>(),
            "ghefcdab".parse::<WordOrder>(),
            "least significant word first"
        );
        assert!("abdc".parse::<WordOrder>().is_err());
    }

    #[test]
    fn a_word_order_is_named_for_the_width_of_the_value() {
        for flags in 0..8 {
            let order = WordOrder {
                swap_bytes: flags & 1 != 0,
                swap_words: flags & 2 != 0,
                swap_halves: flags & 4 != 0,
            };
            assert_eq!(order.name_for(4).parse(), Ok(order));
            assert_eq!(order.name_for(4).len(), 8);
            let narrow: WordOrder = order.name_for(2).parse().expect("a name");
            assert_eq!((narrow.swap_bytes, narrow.swap_words), (order.swap_bytes, order.swap_words));
            assert_eq!(order.name_for(2).len(), 4);
        }
    }
}
