//! What words and bits mean.
//!
//! Pure and total: any words give a reading, never a panic. A value that cannot be understood is bad, not guessed.
//!
//! - Order. On the wire each register comes high byte first (Modbus Application Protocol 1.1b3, §4.2); a
//!   [`WordOrder`] says what the device did otherwise. Text, bytes and bits know the order of bytes in a word only:
//!   words of a text are never exchanged.
//! - BCD gives `u16` (four digits) and `u32` (eight digits); anything scaled gives `f64`.

use std::sync::Arc;

use model::plant::address::WordOrder;
use model::plant::{Encoding, ModbusPoint, Scaling};
use model::{Reading, StatusCode, Value, ValueType};

use super::plan::registers;

const UNDECODABLE: Reading = Reading::Bad(StatusCode::BAD_DECODING_ERROR);

/// What a device answered for one value: its registers in order, or one bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raw<'a> {
    /// From a table of words, as many as the value takes.
    Words(&'a [u16]),
    /// From a table of bits.
    Bit(bool),
}

/// The words of one value, and what each order would make of them.
#[derive(Debug, Clone, PartialEq)]
pub struct RawView {
    /// As they came; empty for a bit.
    pub words: Vec<u16>,
    /// Each order that makes a difference for this type, the plain one first.
    pub readings: Vec<(WordOrder, Reading)>,
}

/// The reading that a device's answer for a point amounts to.
pub fn decode(point: &ModbusPoint, raw: Raw<'_>) -> Reading {
    match raw {
        Raw::Bit(bit) if point.encoding == Encoding::Plain(ValueType::Bool) => {
            scale(Value::Bool(bit), point.scaling)
        }
        Raw::Words(words) if words.len() == usize::from(registers(point.encoding)) => {
            match value(point, words) {
                Some(value) => scale(value, point.scaling),
                None => UNDECODABLE,
            }
        }
        Raw::Bit(_) | Raw::Words(_) => UNDECODABLE,
    }
}

/// Decodes the same answer in every order: half of all commissioning is finding the right one.
pub fn view(point: &ModbusPoint, raw: Raw<'_>) -> RawView {
    let words = match raw {
        Raw::Words(words) => words.to_vec(),
        Raw::Bit(_) => Vec::new(),
    };
    let decoded_as = |word_order| (word_order, decode(&ModbusPoint { word_order, ..*point }, raw));
    let readings = match raw {
        Raw::Bit(_) => vec![decoded_as(point.word_order)],
        Raw::Words(_) => orders_of(point.encoding).map(decoded_as).collect(),
    };
    RawView { words, readings }
}

/// The orders that differ for values of an encoding: two for one word, texts and bytes, four for two words, eight
/// for four.
pub fn orders_of(encoding: Encoding) -> impl Iterator<Item = WordOrder> {
    let count = match encoding {
        Encoding::Text(_) | Encoding::Raw(_) => 2,
        _ => registers(encoding) * 2,
    };
    (0..count).map(|flags| WordOrder {
        swap_bytes: flags & 1 != 0,
        swap_words: flags & 2 != 0,
        swap_halves: flags & 4 != 0,
    })
}

fn value(point: &ModbusPoint, words: &[u16]) -> Option<Value> {
    let order = point.word_order;
    Some(match point.encoding {
        Encoding::Plain(ValueType::Bool) => {
            let word = in_order::<1>(words, order)?[0];
            Value::Bool(match point.address.bit {
                Some(bit) => word.checked_shr(u32::from(bit)).filter(|_| bit < 16)? & 1 == 1,
                None => word != 0,
            })
        }
        Encoding::Plain(ValueType::I16) => Value::I16(number::<1>(words, order)? as u16 as i16),
        Encoding::Plain(ValueType::U16) => Value::U16(number::<1>(words, order)? as u16),
        Encoding::Plain(ValueType::I32) => Value::I32(number::<2>(words, order)? as u32 as i32),
        Encoding::Plain(ValueType::U32) => Value::U32(number::<2>(words, order)? as u32),
        Encoding::Plain(ValueType::F32) => Value::F32(f32::from_bits(number::<2>(words, order)? as u32)),
        Encoding::Plain(ValueType::I64) => Value::I64(number::<4>(words, order)? as i64),
        Encoding::Plain(ValueType::U64) => Value::U64(number::<4>(words, order)?),
        Encoding::Plain(ValueType::F64) => Value::F64(f64::from_bits(number::<4>(words, order)?)),
        // Their length is in `Text` and `Raw`; plain ones do not exist in a valid plant.
        Encoding::Plain(ValueType::String | ValueType::Bytes) => return None,
        Encoding::Bcd16 => Value::U16(decimal(number::<1>(words, order)?, 4)? as u16),
        Encoding::Bcd32 => Value::U32(decimal(number::<2>(words, order)?, 8)?),
        Encoding::Text(length) => {
            let mut text = bytes(words, order, length);
            if let Some(end) = text.iter().position(|byte| *byte == 0) {
                text.truncate(end);
            }
            Value::String(String::from_utf8(text).ok()?.into())
        }
        Encoding::Raw(length) => Value::Bytes(Arc::from(bytes(words, order, length))),
    })
}

/// The words of a number in big-endian order; `None` unless there are exactly `N`, which is 1, 2 or 4.
fn in_order<const N: usize>(words: &[u16], order: WordOrder) -> Option<[u16; N]> {
    let mut words: [u16; N] = words.try_into().ok()?;
    if order.swap_bytes {
        words = words.map(u16::swap_bytes);
    }
    if order.swap_words {
        for pair in words.chunks_exact_mut(2) {
            pair.swap(0, 1);
        }
    }
    if order.swap_halves && N == 4 {
        words.rotate_left(2);
    }
    Some(words)
}

fn number<const N: usize>(words: &[u16], order: WordOrder) -> Option<u64> {
    Some(in_order::<N>(words, order)?.iter().fold(0, |number, word| number << 16 | u64::from(*word)))
}

/// `digits` decimal digits of four bits each; `None` if one of them is above 9.
fn decimal(bcd: u64, digits: u32) -> Option<u32> {
    (0..digits).rev().try_fold(0, |number, place| {
        let digit = (bcd >> (4 * place) & 0xF) as u32;
        (digit <= 9).then_some(number * 10 + digit)
    })
}

fn bytes(words: &[u16], order: WordOrder, length: u16) -> Vec<u8> {
    let in_word = |word: &u16| if order.swap_bytes { word.to_le_bytes() } else { word.to_be_bytes() };
    let mut bytes: Vec<u8> = words.iter().flat_map(in_word).collect();
    bytes.truncate(usize::from(length));
    bytes
}

/// Applies a scale. A finite number that leaves the range of `f64` is out of range; a NaN or an infinity that the
/// device sent stays what it is.
fn scale(value: Value, scaling: Option<Scaling>) -> Reading {
    let Some(Scaling { factor, offset }) = scaling else { return Reading::Good(value) };
    let number = match value {
        Value::Bool(bit) => f64::from(u8::from(bit)),
        Value::I16(number) => f64::from(number),
        Value::U16(number) => f64::from(number),
        Value::I32(number) => f64::from(number),
        Value::U32(number) => f64::from(number),
        Value::I64(number) => number as f64,
        Value::U64(number) => number as f64,
        Value::F32(number) => f64::from(number),
        Value::F64(number) => number,
        // Nothing to multiply; validation refuses a scale here.
        Value::String(_) | Value::Bytes(_) | Value::Array(..) => return UNDECODABLE,
    };
    let scaled = number * factor + offset;
    if number.is_finite() && !scaled.is_finite() {
        return Reading::Bad(StatusCode::BAD_OUT_OF_RANGE);
    }
    Reading::Good(Value::F64(scaled))
}

#[cfg(test)]
mod tests {
    use model::plant::address::{ModbusAddress, Table};
    use proptest::prelude::*;

    use super::*;

    const ABCD: WordOrder = WordOrder { swap_bytes: false, swap_words: false, swap_halves: false };
    const CDAB: WordOrder = WordOrder { swap_words: true, ..ABCD };
    const BADC: WordOrder = WordOrder { swap_bytes: true, ..ABCD };
    const DCBA: WordOrder = WordOrder { swap_bytes: true, swap_words: true, ..ABCD };

    fn point(encoding: Encoding, word_order: WordOrder) -> ModbusPoint {
        let address = ModbusAddress { table: Table::Holding, offset: 0, bit: None };
        ModbusPoint { address, encoding, word_order, scaling: None }
    }

    fn read(encoding: Encoding, word_order: WordOrder, words: &[u16]) -> Reading {
        decode(&point(encoding, word_order), Raw::Words(words))
    }

    fn good(value: Value) -> Reading {
        Reading::Good(value)
    }

    fn text(text: &str) -> Reading {
        good(Value::String(text.into()))
    }

    #[test]
    fn numbers_of_every_type_and_order() {
        use ValueType::*;
        let pi = std::f32::consts::PI;
        let e = std::f64::consts::E;
        for (value_type, order, words, expected) in [
            (Bool, ABCD, &[0_u16] as &[u16], Value::Bool(false)),
            (Bool, ABCD, &[0x0100], Value::Bool(true)),
            (I16, ABCD, &[0xFFFE], Value::I16(-2)),
            (I16, BADC, &[0xFEFF], Value::I16(-2)),
            (I16, CDAB, &[0xFFFE], Value::I16(-2)),
            (U16, ABCD, &[0xFFFE], Value::U16(65_534)),
            (I32, ABCD, &[0xFFFF, 0xFFFD], Value::I32(-3)),
            (U32, ABCD, &[0x0102, 0x0304], Value::U32(0x0102_0304)),
            (U32, CDAB, &[0x0304, 0x0102], Value::U32(0x0102_0304)),
            (U32, BADC, &[0x0201, 0x0403], Value::U32(0x0102_0304)),
            (U32, DCBA, &[0x0403, 0x0201], Value::U32(0x0102_0304)),
            (F32, ABCD, &[0x4049, 0x0FDB], Value::F32(pi)),
            (F32, CDAB, &[0x0FDB, 0x4049], Value::F32(pi)),
            (F32, BADC, &[0x4940, 0xDB0F], Value::F32(pi)),
            (F32, DCBA, &[0xDB0F, 0x4940], Value::F32(pi)),
            (I64, ABCD, &[0xFFFF, 0xFFFF, 0xFFFF, 0xFFFC], Value::I64(-4)),
            (U64, ABCD, &[1, 2, 3, 4], Value::U64(0x0001_0002_0003_0004)),
            (U64, CDAB, &[2, 1, 4, 3], Value::U64(0x0001_0002_0003_0004)),
            (U64, WordOrder { swap_halves: true, ..ABCD }, &[3, 4, 1, 2], Value::U64(0x0001_0002_0003_0004)),
            (U64, WordOrder { swap_halves: true, ..CDAB }, &[4, 3, 2, 1], Value::U64(0x0001_0002_0003_0004)),
            (
                U64,
                WordOrder { swap_halves: true, ..DCBA },
                &[0x0400, 0x0300, 0x0200, 0x0100],
                Value::U64(0x0001_0002_0003_0004),
            ),
            (F64, ABCD, &[0x4005, 0xBF0A, 0x8B14, 0x5769], Value::F64(e)),
        ] {
            assert_eq!(
                read(Encoding::Plain(value_type), order, words),
                good(expected),
                "{value_type} {order:?} {words:04X?}"
            );
        }
    }

    #[test]
    fn bits_of_a_register_count_from_the_least_significant() {
        let mut bit = point(Encoding::Plain(ValueType::Bool), ABCD);
        for (place, expected) in [(0, true), (1, false), (3, true), (15, true)] {
            bit.address.bit = Some(place);
            assert_eq!(decode(&bit, Raw::Words(&[0x8009])), good(Value::Bool(expected)), "bit {place}");
        }
        bit.address.bit = Some(16);
        assert_eq!(decode(&bit, Raw::Words(&[0xFFFF])), UNDECODABLE);
        bit.address.bit = Some(8);
        bit.word_order = BADC;
        assert_eq!(decode(&bit, Raw::Words(&[0x0001])), good(Value::Bool(true)));
    }

    #[test]
    fn decimal_digits_above_nine_are_bad() {
        assert_eq!(read(Encoding::Bcd16, ABCD, &[0x0987]), good(Value::U16(987)));
        assert_eq!(read(Encoding::Bcd16, BADC, &[0x8709]), good(Value::U16(987)));
        assert_eq!(read(Encoding::Bcd32, ABCD, &[0x9999, 0x9999]), good(Value::U32(99_999_999)));
        assert_eq!(read(Encoding::Bcd32, CDAB, &[0x5678, 0x1234]), good(Value::U32(12_345_678)));
        assert_eq!(read(Encoding::Bcd16, ABCD, &[0x09A7]), UNDECODABLE);
        assert_eq!(read(Encoding::Bcd32, ABCD, &[0xF000, 0]), UNDECODABLE);
    }

    #[test]
    fn text_ends_at_its_length_or_the_first_nul() {
        let words = [0x4142, 0x4300, 0x4444];
        assert_eq!(read(Encoding::Text(6), ABCD, &words), text("ABC"));
        assert_eq!(read(Encoding::Text(3), BADC, &[0x4241, 0x4443]), text("ABC"));
        assert_eq!(read(Encoding::Text(6), CDAB, &words), text("ABC"), "words of a text are not exchanged");
        assert_eq!(read(Encoding::Text(2), ABCD, &[0x0041]), text(""));
        assert_eq!(read(Encoding::Text(4), ABCD, &[0xC3A4, 0x2020]), text("ä  "));
        assert_eq!(read(Encoding::Text(2), ABCD, &[0xC328]), UNDECODABLE);
        let whole = read(Encoding::Raw(5), ABCD, &words);
        assert_eq!(whole, good(Value::Bytes([0x41, 0x42, 0x43, 0, 0x44].into())));
    }

    #[test]
    fn scaling_gives_a_double() {
        let mut scaled = point(Encoding::Plain(ValueType::I16), ABCD);
        scaled.scaling = Some(Scaling { factor: 0.5, offset: -1.0 });
        assert_eq!(decode(&scaled, Raw::Words(&[0xFFFE])), good(Value::F64(-2.0)));
        scaled.scaling = Some(Scaling { factor: f64::MAX, offset: 0.0 });
        assert_eq!(decode(&scaled, Raw::Words(&[3])), Reading::Bad(StatusCode::BAD_OUT_OF_RANGE));
        scaled.encoding = Encoding::Plain(ValueType::F32);
        match decode(&scaled, Raw::Words(&[0x7FC0, 0])) {
            Reading::Good(Value::F64(number)) => assert!(number.is_nan()),
            other => panic!("a NaN of the device stays a NaN, found {other:?}"),
        }
    }

    #[test]
    fn bits_are_truth_values_only() {
        let mut coil = point(Encoding::Plain(ValueType::Bool), ABCD);
        coil.address.table = Table::Coil;
        assert_eq!(decode(&coil, Raw::Bit(true)), good(Value::Bool(true)));
        coil.encoding = Encoding::Plain(ValueType::U16);
        assert_eq!(decode(&coil, Raw::Bit(true)), UNDECODABLE);
    }

    #[test]
    fn the_raw_view_shows_every_order_that_matters() {
        let seen = view(&point(Encoding::Plain(ValueType::U32), ABCD), Raw::Words(&[0x0102, 0x0304]));
        let numbers: Vec<_> = seen.readings.iter().map(|(_, reading)| reading.value().cloned()).collect();
        let expected = [0x0102_0304, 0x0201_0403, 0x0304_0102, 0x0403_0201];
        assert_eq!(numbers, expected.map(|number| Some(Value::U32(number))));
        assert_eq!(seen.words, [0x0102, 0x0304]);
        assert_eq!(orders_of(Encoding::Plain(ValueType::U16)).count(), 2);
        assert_eq!(orders_of(Encoding::Plain(ValueType::F64)).count(), 8);
        assert_eq!(orders_of(Encoding::Text(40)).count(), 2);
    }

    fn any_order() -> impl Strategy<Value = WordOrder> {
        any::<(bool, bool, bool)>().prop_map(|(swap_bytes, swap_words, swap_halves)| WordOrder {
            swap_bytes,
            swap_words,
            swap_halves,
        })
    }

    /// What a device of that order would send: written from the memory layout, not from the decoder.
    fn encode(big_endian: &[u8], order: WordOrder) -> Vec<u16> {
        let mut bytes = big_endian.to_vec();
        if order.swap_halves && bytes.len() == 8 {
            bytes.rotate_right(4);
        }
        if order.swap_words {
            bytes.chunks_exact_mut(4).for_each(|four| four.rotate_right(2));
        }
        if order.swap_bytes {
            bytes.chunks_exact_mut(2).for_each(<[u8]>::reverse);
        }
        bytes.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]])).collect()
    }

    proptest! {
        #[test]
        fn numbers_survive_any_order_bit_for_bit(bits: u64, order in any_order()) {
            let (whole, half, word) = (bits.to_be_bytes(), (bits as u32).to_be_bytes(), (bits as u16).to_be_bytes());
            for (value_type, bytes, expected) in [
                (ValueType::U64, &whole[..], Value::U64(bits)),
                (ValueType::I64, &whole[..], Value::I64(bits as i64)),
                (ValueType::F64, &whole[..], Value::F64(f64::from_bits(bits))),
                (ValueType::U32, &half[..], Value::U32(bits as u32)),
                (ValueType::I32, &half[..], Value::I32(bits as i32)),
                (ValueType::F32, &half[..], Value::F32(f32::from_bits(bits as u32))),
                (ValueType::U16, &word[..], Value::U16(bits as u16)),
                (ValueType::I16, &word[..], Value::I16(bits as i16)),
            ] {
                let reading = read(Encoding::Plain(value_type), order, &encode(bytes, order));
                let value = reading.value().expect("a number always decodes");
                prop_assert!(value.is_identical(&expected), "{value:?} instead of {expected:?}, {order:?}");
            }
        }

        #[test]
        fn decimal_numbers_survive(number in 0_u32..100_000_000, order in any_order()) {
            let digits = u32::from_str_radix(&number.to_string(), 16).expect("decimal digits are hexadecimal digits");
            prop_assert_eq!(
                read(Encoding::Bcd32, order, &encode(&digits.to_be_bytes(), order)),
                good(Value::U32(number))
            );
        }

        #[test]
        fn text_survives(content in "[^\\x00]{0,40}", swap_bytes: bool) {
            let length = content.len() as u16;
            let order = WordOrder { swap_bytes, ..ABCD };
            let mut bytes = content.clone().into_bytes();
            bytes.resize(usize::from(length.div_ceil(2).max(1)) * 2, 0);
            prop_assert_eq!(read(Encoding::Text(length), order, &encode(&bytes, order)), text(&content));
        }

        #[test]
        fn any_words_decode_without_a_panic(
            words in prop::collection::vec(any::<u16>(), 0..8),
            length in 0_u16..20,
            order in any_order(),
            bit in prop::option::of(any::<u8>()),
        ) {
            let encodings = ValueType::ALL.map(Encoding::Plain).into_iter().chain([
                Encoding::Bcd16, Encoding::Bcd32, Encoding::Text(length), Encoding::Raw(length),
            ]);
            for encoding in encodings {
                let mut point = point(encoding, order);
                point.address.bit = bit;
                let reading = decode(&point, Raw::Words(&words));
                if words.len() != usize::from(registers(encoding)) {
                    prop_assert_eq!(reading, UNDECODABLE);
                }
            }
        }
    }
}
