//! Durations and sizes as people write them: `500ms`, `4h`, `20GiB`.
//!
//! Owns the text forms only; inside, a time is a [`Duration`] and a size a number of bytes.
//!
//! - What is printed here is read back as the same value.
//! - There are no fractions and no default unit: `1.5s` is written `1500ms`.

use std::time::Duration;

/// Name and nanoseconds, the largest first.
const TIMES: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Name and bytes; the binary ones first and the largest first, which is how sizes are printed.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

/// A text that is no duration or size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found:?}")]
pub struct InvalidUnit {
    /// What was expected, with an example.
    pub expected: &'static str,
    /// What was there instead.
    pub found: String,
}

/// Reads a duration: whole numbers with a unit (`d h m s ms us ns`), the larger units first: `500ms`, `1h30m`.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidUnit> {
    let wrong = || InvalidUnit {
        expected: "a duration such as \"500ms\", \"1s\" or \"4h\" (whole numbers; units d, h, m, s, ms, us)",
        found: text.to_owned(),
    };
    let mut total: u128 = 0;
    let mut below = u128::MAX;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, behind) = split_number(rest).ok_or_else(wrong)?;
        let letters = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (name, behind) = behind.split_at(letters);
        let (_, nanos) = TIMES.iter().find(|(known, _)| *known == name).ok_or_else(wrong)?;
        if *nanos >= below {
            return Err(wrong());
        }
        below = *nanos;
        total = total.checked_add(u128::from(number) * nanos).ok_or_else(wrong)?;
        rest = behind;
    }
    // Everything that is timed here is counted in nanoseconds of an `i64` somewhere.
    let nanos = i64::try_from(total).ok().and_then(|nanos| u64::try_from(nanos).ok()).ok_or_else(wrong)?;
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_nanos(nanos)) }
}

/// Prints a duration so that [`parse_duration`] reads it back.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    if rest == 0 {
        return "0s".to_owned();
    }
    // One unit where it comes out even (`90s`, `1500ms` read better than `1m30s`), otherwise several.
    if let Some((name, nanos)) = TIMES[3..].iter().find(|(_, nanos)| rest.is_multiple_of(*nanos))
        && rest / nanos < 10_000
        && !rest.is_multiple_of(60_000_000_000)
    {
        return format!("{}{name}", rest / nanos);
    }
    let mut text = String::new();
    for (name, nanos) in TIMES {
        if rest >= nanos {
            text.push_str(&format!("{}{name}", rest / nanos));
            rest %= nanos;
        }
    }
    text
}

/// Reads a size: a whole number with a unit (`B`, `KiB MiB GiB TiB`, `kB MB GB TB`).
pub fn parse_bytes(text: &str) -> Result<u64, InvalidUnit> {
    let wrong = || InvalidUnit {
        expected: "a size such as \"20GiB\" (a whole number; units B, KiB, MiB, GiB, TiB, kB, MB, GB, TB)",
        found: text.to_owned(),
    };
    let (number, name) = split_number(text).ok_or_else(wrong)?;
    let (_, factor) = SIZES.iter().find(|(known, _)| *known == name).ok_or_else(wrong)?;
    number.checked_mul(*factor).ok_or_else(wrong)
}

/// Prints a size so that [`parse_bytes`] reads it back, in the largest binary unit that comes out even.
pub fn format_bytes(bytes: u64) -> String {
    let even = SIZES.iter().find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor));
    let (name, factor) = even.copied().unwrap_or(("B", 1));
    format!("{}{name}", bytes / factor)
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_duration_survives_its_text_form(nanos in 0..=i64::MAX as u64, zeros in 0..16_u32) {
            let duration = Duration::from_nanos(nanos / 10_u64.pow(zeros) * 10_u64.pow(zeros));
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn a_size_survives_its_text_form(bytes: u64, shift in 0..60_u32) {
            let bytes = bytes >> shift << shift;
            prop_assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_makes_the_readers_panic(text in "[0-9]{0,30}[a-zA-Z]{0,3}[0-9]{0,3}.{0,2}") {
            let _ = (parse_duration(&text), parse_bytes(&text));
        }
    }

    #[test]
    fn durations_read_as_they_are_written() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        for text in ["", "5", "s", "1.5s", "-1s", "1 s", "1s1h", "1s1s", "5 fortnights", "99999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_print_as_people_write_them() {
        for text in ["500ms", "1s", "90s", "1m", "4h", "1500ms", "1h30m", "7d"] {
            assert_eq!(format_duration(parse_duration(text).expect(text)), text);
        }
    }

    #[test]
    fn sizes_read_and_print() {
        assert_eq!(parse_bytes("20GiB"), Ok(20 << 30));
        assert_eq!(parse_bytes("5MB"), Ok(5_000_000));
        assert_eq!(format_bytes(20 << 30), "20GiB");
        assert_eq!(format_bytes(0), "0B");
        for text in ["", "20", "20 GiB", "20gib", "1.5GiB", "99999999TiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
