//! The words of one command.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use model::Timestamp;

/// The words of one command: `key=value` and the rest, in order.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    line: String,
    pub(crate) words: Vec<String>,
    named: BTreeMap<String, String>,
}

impl Arguments {
    pub(crate) fn parse(line: &str) -> Self {
        let mut arguments = Self { line: line.to_owned(), ..Self::default() };
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some((key, value)) => {
                    let before = arguments.named.insert(key.to_owned(), value.to_owned());
                    assert!(before.is_none(), "{key} is given twice: {line}");
                }
                None => arguments.words.push(word.to_owned()),
            }
        }
        arguments
    }

    pub(crate) fn word(&self, place: usize) -> &str {
        self.words.get(place).unwrap_or_else(|| panic!("word {place} is missing: {}", self.line))
    }

    pub(crate) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|known| known == word)
    }

    pub(crate) fn text(&self, key: &str) -> &str {
        self.named.get(key).unwrap_or_else(|| panic!("{key}= is missing: {}", self.line))
    }

    pub(crate) fn get<T: FromStr>(&self, key: &str) -> Option<T> {
        let value = self.named.get(key)?;
        Some(value.parse().unwrap_or_else(|_| panic!("{key}={value} cannot be read: {}", self.line)))
    }

    pub(crate) fn need<T: FromStr>(&self, key: &str) -> T {
        self.get(key).unwrap_or_else(|| panic!("{key}= is missing: {}", self.line))
    }

    pub(crate) fn list(&self, key: &str) -> impl Iterator<Item = &str> {
        self.named.get(key).map(|value| value.split(',')).into_iter().flatten()
    }

    /// `name:value,…`.
    pub(crate) fn pairs(&self, key: &str) -> impl Iterator<Item = (&str, &str)> {
        self.list(key)
            .map(|pair| pair.split_once(':').unwrap_or_else(|| panic!("{pair} is no pair: {}", self.line)))
    }

    pub(crate) fn duration(&self, key: &str) -> Option<Duration> {
        self.named.get(key).map(|value| duration(value))
    }

    pub(crate) fn timestamp(&self, key: &str) -> Option<Timestamp> {
        self.named.get(key).map(|value| match value.strip_prefix('-') {
            Some(before) => Timestamp::default().plus_nanos(-(duration(before).as_nanos() as i64)),
            None => Timestamp::default().plus(duration(value)),
        })
    }
}

/// `1.5s`, `100ms`, `2m`, `1h`.
pub(crate) fn duration(text: &str) -> Duration {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or_else(|| panic!("{text} has no unit"));
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().unwrap_or_else(|_| panic!("{text} is no duration"));
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => panic!("{text} has an unknown unit"),
    };
    Duration::from_nanos((number * seconds * 1e9).round() as u64)
}

/// Seconds, with the decimals that are needed.
pub(crate) fn seconds(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let (whole, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let decimals = format!("{rest:09}");
    match decimals.trim_end_matches('0') {
        "" => format!("{sign}{whole}s"),
        decimals => format!("{sign}{whole}.{decimals}s"),
    }
}
