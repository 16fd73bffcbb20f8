//! Numbers, times and strings as text, for JSON and CSV alike.
//!
//! Written by hand because every delivered sample passes here several times; `json`'s property test compares it
//! with an independent parser.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use model::{Cursor, SampleKey, Timestamp};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends a whole number.
pub(crate) fn unsigned(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

/// Appends a whole number with its sign.
pub(crate) fn signed(out: &mut Vec<u8>, number: i64) {
    if number < 0 {
        out.push(b'-');
    }
    unsigned(out, number.unsigned_abs());
}

/// Appends `position/ordinal`.
pub(crate) fn cursor(out: &mut Vec<u8>, cursor: Cursor) {
    unsigned(out, cursor.position.0);
    out.push(b'/');
    unsigned(out, u64::from(cursor.ordinal.0));
}

/// Appends `lineage/position/ordinal`.
pub(crate) fn key(out: &mut Vec<u8>, key: SampleKey) {
    out.extend_from_slice(key.lineage.as_str().as_bytes());
    out.push(b'/');
    unsigned(out, key.position.0);
    out.push(b'/');
    unsigned(out, u64::from(key.ordinal.0));
}

/// Appends the shortest decimal that gives the same 32 bits; the name of what JSON has no number for is the error.
pub(crate) fn f32(out: &mut Vec<u8>, number: f32) -> Result<(), &'static str> {
    match named(f64::from(number)) {
        Some(name) => Err(name),
        None => {
            serde_json::to_writer(out, &number).expect("a Vec takes every byte");
            Ok(())
        }
    }
}

/// Appends the shortest decimal that gives the same 64 bits; the name of what JSON has no number for is the error.
pub(crate) fn f64(out: &mut Vec<u8>, number: f64) -> Result<(), &'static str> {
    match named(number) {
        Some(name) => Err(name),
        None => {
            serde_json::to_writer(out, &number).expect("a Vec takes every byte");
            Ok(())
        }
    }
}

fn named(number: f64) -> Option<&'static str> {
    if number.is_nan() {
        Some("NaN")
    } else if number == f64::INFINITY {
        Some("Infinity")
    } else if number == f64::NEG_INFINITY {
        Some("-Infinity")
    } else {
        None
    }
}

/// Appends base 64 with padding.
pub(crate) fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    // Room for the padded text: four characters for every three bytes begun.
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).expect("the room was measured");
    out.truncate(start + written);
}

/// Appends a JSON string with its quotes. Only what JSON demands is escaped.
pub(crate) fn quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[plain..at]);
        plain = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(control >> 4)]);
                out.push(HEX[usize::from(control & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[plain..]);
    out.push(b'"');
}

/// A name of which every byte but ASCII letters, digits, `-` and `_` is written as `%` and two hexadecimal digits:
/// safe in file names of every system and in headers, and no two names become one.
pub(crate) fn plain_name(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            plain.push(char::from(byte));
        } else {
            plain.push('%');
            plain.push(char::from(HEX[usize::from(byte >> 4)]));
            plain.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    plain
}

/// Prints times as RFC 3339 with nine decimals and `Z`. Remembers the last second, because neighbours share it.
#[derive(Debug, Default)]
pub(crate) struct Times {
    second: Option<i64>,
    /// `YYYY-MM-DDTHH:MM:SS.` of that second.
    text: [u8; 20],
}

impl Times {
    /// Appends a time.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>, time: Timestamp) {
        const NANOS: i64 = 1_000_000_000;
        let second = time.0.div_euclid(NANOS);
        if self.second != Some(second) {
            let whole = self.text.len();
            let mut text = [0; 30];
            write!(&mut text[..], "{time}").expect("a time prints as 30 characters");
            self.text.copy_from_slice(&text[..whole]);
            self.second = Some(second);
        }
        out.extend_from_slice(&self.text);
        let mut nanos = time.0.rem_euclid(NANOS);
        let mut digits = *b"000000000Z";
        for place in digits[..9].iter_mut().rev() {
            *place = b'0' + (nanos % 10) as u8;
            nanos /= 10;
        }
        out.extend_from_slice(&digits);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn times_print_as_the_model_prints_them(times in proptest::collection::vec(any::<i64>(), 1..4)) {
            let mut writer = Times::default();
            for time in times {
                for near in [time, time.saturating_add(1), time.saturating_sub(1)] {
                    let mut out = Vec::new();
                    writer.write(&mut out, Timestamp(near));
                    prop_assert_eq!(String::from_utf8(out).expect("ASCII"), Timestamp(near).to_string());
                }
            }
        }

        #[test]
        fn strings_are_read_back_by_another_parser(text: String) {
            let mut out = Vec::new();
            quoted(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("valid JSON"), text);
        }

        #[test]
        fn whole_numbers_print_in_full(number: i64) {
            let mut out = Vec::new();
            signed(&mut out, number);
            prop_assert_eq!(String::from_utf8(out).expect("ASCII"), number.to_string());
        }
    }

    #[test]
    fn names_become_safe_and_stay_apart() {
        assert_eq!(plain_name("hall-2/Presse Süd.1"), "hall-2%2fPresse%20S%c3%bcd%2e1");
        assert_ne!(plain_name("a/b"), plain_name("a%2fb"));
    }
}
