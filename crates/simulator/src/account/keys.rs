//! Keys of records: each names one record for ever, at every destination.
//!
//! - Under a key stands a hash of what a row of a CSV file says of its record, in 32 bits: one change in four thousand
//!   million goes unnoticed.
//! - What comes again under a key must be what came first, and a row must be what came over HTTP under its key.
//! - The other direction is not kept here: a polled sample under a second key stands in its slot twice, and how often a
//!   pushed one may come follows from how often it was sent.
//! - When records were accepted for the first time is known to the entry.
//! - Memory: four bytes for each record, and about a hundred for each entry.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher as _};

use model::{Lineage, Ordinal, Position, SampleKey};

/// No entry holds as many records; a key that says so is no key.
const MOST_ORDINALS: u32 = 1 << 24;

/// Keys that were seen, and what they name.
#[derive(Debug, Default)]
pub(super) struct Keys {
    entries: BTreeMap<(Lineage, Position), Entry>,
    astray: u64,
}

/// What is known of the records of one entry of the log, by ordinal; 0 for those that have not come.
#[derive(Debug, Default)]
struct Entry {
    samples: Vec<u32>,
    effects: Vec<u32>,
    /// When the last of them was answered for the first time, in monotonic nanoseconds.
    came_ns: u64,
}

/// What a row says, hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text(u32);

impl Text {
    /// Of a row of these cells.
    pub(super) fn of<'a>(cells: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hasher = DefaultHasher::new();
        for cell in cells {
            hasher.write(cell.as_bytes());
            hasher.write(b",");
        }
        Self((hasher.finish() as u32).max(1))
    }
}

impl Keys {
    /// A record came over HTTP; `is_new`: under a key that had not come before.
    pub(super) fn came(&mut self, key: SampleKey, text: Text, is_new: bool, at_ns: u64) {
        let entry = self.entries.entry((key.lineage, key.position)).or_default();
        let is_right = match entry.known_mut(key.ordinal) {
            Some(known) if is_new && *known == 0 => {
                *known = text.0;
                entry.came_ns = entry.came_ns.max(at_ns);
                true
            }
            Some(known) => !is_new && *known == text.0,
            None => false,
        };
        self.astray += u64::from(!is_right);
    }

    /// A record stands in a file; `came`: it is known to have come over HTTP, whatever its key was there.
    pub(super) fn filed(&mut self, key: SampleKey, text: Text, came: bool) {
        let entry = self.entries.get(&(key.lineage, key.position));
        let is_right = match entry.map_or(0, |entry| entry.known(key.ordinal)) {
            0 => !came,
            known => known == text.0,
        };
        self.astray += u64::from(!is_right);
    }

    /// How often a key named something else than before, or a record stood in a file under another key.
    pub(super) fn astray(&self) -> u64 {
        self.astray
    }

    /// Positions in order, and when everything up to there that was ever accepted had been accepted, or refused before that,
    /// in monotonic nanoseconds.
    pub(super) fn accepted(&self) -> Vec<(Position, u64)> {
        let mut until_ns = 0;
        let mut accepted = Vec::with_capacity(self.entries.len());
        for ((_, position), entry) in &self.entries {
            until_ns = entry.came_ns.max(until_ns);
            accepted.push((*position, until_ns));
        }
        accepted
    }
}

impl Entry {
    fn known(&self, ordinal: Ordinal) -> u32 {
        let (list, place) = match ordinal.0.checked_sub(Ordinal::FIRST_EFFECT.0) {
            Some(place) => (&self.effects, place),
            None => (&self.samples, ordinal.0),
        };
        list.get(place as usize).copied().unwrap_or_default()
    }

    /// `None` if it cannot be an ordinal.
    fn known_mut(&mut self, ordinal: Ordinal) -> Option<&mut u32> {
        let (list, place) = match ordinal.0.checked_sub(Ordinal::FIRST_EFFECT.0) {
            Some(place) => (&mut self.effects, place),
            None => (&mut self.samples, ordinal.0),
        };
        if place >= MOST_ORDINALS {
            return None;
        }
        let place = place as usize;
        if place >= list.len() {
            list.resize(place + 1, 0);
        }
        list.get_mut(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(position: u64, ordinal: u32) -> SampleKey {
        let lineage = Lineage::from_random(1);
        SampleKey { lineage, position: Position(position), ordinal: Ordinal(ordinal) }
    }

    fn text(words: &str) -> Text {
        Text::of(words.split(' '))
    }

    #[test]
    fn what_comes_again_under_its_key_and_stands_in_a_file_under_it_is_right() {
        let mut keys = Keys::default();
        let effect = Ordinal::FIRST_EFFECT.0;
        for (ordinal, words) in [(0, "a"), (1, "b"), (effect, "c")] {
            keys.came(key(7, ordinal), text(words), true, 10);
            keys.came(key(7, ordinal), text(words), false, 20);
            keys.filed(key(7, ordinal), text(words), true);
        }
        keys.filed(key(8, 0), text("what came over HTTP never"), false);
        assert_eq!(keys.astray(), 0);
    }

    #[test]
    fn a_key_that_names_two_records_is_astray() {
        let mut keys = Keys::default();
        keys.came(key(7, 0), text("a"), true, 10);
        keys.came(key(7, 0), text("b"), false, 20);
        assert_eq!(keys.astray(), 1, "it came again as another");
        keys.came(key(7, 0), text("b"), true, 20);
        assert_eq!(keys.astray(), 2, "it was given once more");
        keys.came(key(7, 1), text("a"), false, 20);
        assert_eq!(keys.astray(), 3, "it came again, and never before");
        keys.filed(key(7, 0), text("b"), true);
        assert_eq!(keys.astray(), 4, "it names another record in a file");
        keys.came(key(7, MOST_ORDINALS), text("a"), true, 20);
        assert_eq!(keys.astray(), 5, "it cannot be one");
    }

    #[test]
    fn a_record_that_stands_in_a_file_under_another_key_is_astray() {
        let mut keys = Keys::default();
        keys.came(key(7, 0), text("a"), true, 10);
        keys.filed(key(9, 0), text("a"), true);
        assert_eq!(keys.astray(), 1);
    }

    #[test]
    fn what_lies_before_a_position_was_accepted_when_the_last_of_it_was() {
        let mut keys = Keys::default();
        for (position, at_ns) in [(5, 30), (7, 20), (9, 40)] {
            keys.came(key(position, 0), text("a"), true, at_ns);
        }
        keys.came(key(5, 0), text("a"), false, 99);
        assert_eq!(keys.accepted(), [(Position(5), 30), (Position(7), 30), (Position(9), 40)]);
    }
}
