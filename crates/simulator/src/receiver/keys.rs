//! Which keys were seen: a bit for each, found in a request without parsing it.
//!
//! - `"key":"` occurs in a request only where a record begins: inside a JSON string its quotes are escaped.
//! - Memory: one bit for each sample and about a hundred bytes for each entry.

use std::collections::BTreeMap;

/// Ordinals from here on name records that are not samples.
const FIRST_EFFECT: u32 = 1 << 31;
/// No entry holds as many records; a key that says so is no key.
const MOST_ORDINALS: u32 = 1 << 24;
const OPENING: &[u8] = b"{\"key\":\"";

/// A key as it stands in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) lineage: [u8; 8],
    pub(super) position: u64,
    pub(super) ordinal: u32,
}

impl Key {
    /// Reads `LINEAGE/POSITION/ORDINAL` up to the closing quote.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let (lineage, rest) = text.split_first_chunk()?;
        let (position, rest) = number(rest.strip_prefix(b"/")?, b'/')?;
        let (ordinal, _) = number(rest, b'"')?;
        Some(Self { lineage: *lineage, position, ordinal: u32::try_from(ordinal).ok()? })
    }

    /// Whether it names a sample rather than a gap, an opening or an expiry.
    pub(super) fn is_sample(&self) -> bool {
        self.ordinal < FIRST_EFFECT
    }
}

/// The digits before `end`, and what follows it.
fn number(text: &[u8], end: u8) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (at, &byte) in text.iter().enumerate() {
        if byte == end && at > 0 {
            return Some((number, &text[at + 1..]));
        }
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    None
}

/// Calls `each` with every key of a request and what follows from where its record begins, in order. `false` if a key
/// could not be read.
pub(super) fn scan<'a>(body: &'a [u8], mut each: impl FnMut(Key, &'a [u8])) -> bool {
    let mut rest = body;
    while let Some(at) = rest.iter().position(|&byte| byte == b'{') {
        rest = &rest[at..];
        let Some(text) = rest.strip_prefix(OPENING) else {
            rest = &rest[1..];
            continue;
        };
        let Some(key) = Key::read(text) else {
            return false;
        };
        each(key, rest);
        rest = text;
    }
    true
}

/// A set of keys.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    /// Few: one for each life of a cluster.
    lineages: Vec<([u8; 8], BTreeMap<u64, Entry>)>,
    /// The entry that was touched last, taken out of its map: neighbours share it.
    current: Option<(usize, u64, Entry)>,
}

/// The records of one entry that were seen.
#[derive(Debug, Default)]
struct Entry {
    samples: Vec<u64>,
    effects: Vec<u64>,
}

impl KeySet {
    /// Adds a key. `Some(true)` if it is new, `Some(false)` if it was there, `None` if it cannot be a key.
    pub(super) fn insert(&mut self, key: Key) -> Option<bool> {
        let place = key.ordinal % FIRST_EFFECT;
        if place >= MOST_ORDINALS {
            return None;
        }
        let entry = self.entry(key.lineage, key.position);
        let bits = if key.is_sample() { &mut entry.samples } else { &mut entry.effects };
        let (word, bit) = ((place / 64) as usize, 1_u64 << (place % 64));
        if word >= bits.len() {
            bits.resize(word + 1, 0);
        }
        let is_new = bits[word] & bit == 0;
        bits[word] |= bit;
        Some(is_new)
    }

    fn entry(&mut self, lineage: [u8; 8], position: u64) -> &mut Entry {
        let index = match self.lineages.iter().position(|(known, _)| *known == lineage) {
            Some(index) => index,
            None => {
                self.lineages.push((lineage, BTreeMap::new()));
                self.lineages.len() - 1
            }
        };
        let is_current = self.current.as_ref().is_some_and(|(at, held, _)| (*at, *held) == (index, position));
        if !is_current {
            if let Some((at, held, entry)) = self.current.take() {
                self.lineages[at].1.insert(held, entry);
            }
            let entry = self.lineages[index].1.remove(&position).unwrap_or_default();
            self.current = Some((index, position, entry));
        }
        &mut self.current.as_mut().expect("it was put there").2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(position: u64, ordinal: u32) -> Key {
        Key { lineage: *b"00000000", position, ordinal }
    }

    #[test]
    fn keys_are_found_in_order_and_not_inside_strings() {
        let body =
            br#"{"samples":[{"key":"00000000/1/2","tag":"{\"key\":\"00000000/9/9\""},{"key":"00000000/1/3"}],
                        "gaps":[{"key":"00000000/1/2147483648","slots":"3"}]}"#;
        let mut found = Vec::new();
        assert!(scan(body, |key, _| found.push(key)));
        assert_eq!(found, [key(1, 2), key(1, 3), key(1, FIRST_EFFECT)]);
        assert!(!found[2].is_sample());
    }

    #[test]
    fn what_is_no_key_is_noticed() {
        for wrong in ["00000000/1", "00000000/x/1\"", "000/1/1\"", "00000000//1\"", "00000000/1/4294967296\""]
        {
            let body = format!("{{\"key\":\"{wrong}");
            assert!(!scan(body.as_bytes(), |_, _| {}), "{wrong}");
        }
        assert_eq!(KeySet::default().insert(key(1, MOST_ORDINALS)), None);
    }

    #[test]
    fn a_set_knows_what_it_has_seen_however_it_comes() {
        let mut set = KeySet::default();
        let keys = [key(1, 0), key(1, 200), key(7, 0), key(1, FIRST_EFFECT), key(2, 63), key(2, 64)];
        for wanted in [true, false] {
            for key in keys {
                assert_eq!(set.insert(key), Some(wanted), "{key:?}");
            }
        }
        assert_eq!(set.insert(Key { lineage: *b"11111111", ..key(1, 0) }), Some(true));
    }
}
