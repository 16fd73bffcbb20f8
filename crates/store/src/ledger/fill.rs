//! How full the buffer is: bytes and samples accepted since the beginning, marked along the number line.
//!
//! Owns the count; what is done about it is the leader's policy. It is not what lies on a disk: that differs from node to
//! node, and follows when files are given back.
//!
//! - A mark counts everything up to and including its position. There is one every [`SPACING`] or [`EVERY`], and at most
//!   [`MARKS`] of them: when there are more, every other one goes, so that a long backlog is known more coarsely.
//! - The newest mark at or below the horizon stays: it says what had gone.

use std::collections::BTreeMap;
use std::time::Duration;

use model::Position;
use serde::{Deserialize, Serialize};

/// Bytes from one mark to the next.
const SPACING: u64 = 4 << 20;
/// Command time from one mark to the next.
const EVERY: Duration = Duration::from_secs(60);
/// Marks kept at most: a few hundred kilobytes of rows.
const MARKS: usize = 4_096;
/// What an entry costs besides its command.
const ENTRY: u64 = 64;

/// What had been accepted up to and including a position.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Bytes of entries.
    pub bytes: u64,
    /// Samples accepted.
    pub samples: u64,
    /// When, in steady command time.
    pub at: Duration,
}

/// What was accepted since the beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fill {
    /// Bytes of entries that hold samples.
    pub bytes: u64,
    /// Samples accepted.
    pub samples: u64,
    /// Marks along the way.
    pub marks: BTreeMap<Position, Mark>,
}

impl Fill {
    /// Counts an entry; gives the marks that were set or removed.
    pub(super) fn add(&mut self, at: Position, now: Duration, bytes: usize, samples: u64) -> Vec<Position> {
        self.bytes += bytes as u64 + ENTRY;
        self.samples += samples;
        let due = match self.marks.last_key_value() {
            None => true,
            Some((_, mark)) => self.bytes - mark.bytes >= SPACING || now.saturating_sub(mark.at) >= EVERY,
        };
        if !due {
            return Vec::new();
        }
        self.marks.insert(at, Mark { bytes: self.bytes, samples: self.samples, at: now });
        let mut changed = vec![at];
        if self.marks.len() > MARKS {
            let every_other: Vec<Position> = self.marks.keys().copied().step_by(2).collect();
            // The first and the last stay where they are.
            for position in every_other.into_iter().skip(1).filter(|position| *position != at) {
                self.marks.remove(&position);
                changed.push(position);
            }
        }
        changed
    }

    /// Forgets what only positions at or below the horizon need; gives the marks that were removed.
    pub(super) fn forget_below(&mut self, horizon: Position) -> Vec<Position> {
        let mut gone: Vec<Position> = self.marks.range(..=horizon).map(|(position, _)| *position).collect();
        gone.pop();
        for position in &gone {
            self.marks.remove(position);
        }
        gone
    }

    /// Bytes behind `position` (exclusive), between marks in proportion. `applied` is where the count stands.
    pub fn bytes_behind(&self, position: Position, applied: Position) -> u64 {
        if position >= applied {
            return 0;
        }
        let (from, below) =
            self.marks.range(..=position).next_back().map_or((0, 0), |(at, mark)| (at.0, mark.bytes));
        let next = self.marks.range(position.next()..).next();
        let (to, above) = next.map_or((applied.0, self.bytes), |(at, mark)| (at.0, mark.bytes));
        let passed =
            u128::from(above - below) * u128::from(position.0 - from) / u128::from((to - from).max(1));
        self.bytes - below - u64::try_from(passed).unwrap_or(u64::MAX).min(above - below)
    }

    /// The first mark behind which at most `bytes` remain.
    pub fn keeping(&self, bytes: u64) -> Option<Position> {
        let fits = |mark: &Mark| self.bytes - mark.bytes <= bytes;
        self.marks.iter().find(|(_, mark)| fits(mark)).map(|(position, _)| *position)
    }

    /// The last mark at or before `position`.
    pub fn marked_until(&self, position: Position) -> Option<Position> {
        self.marks.range(..=position).next_back().map(|(position, _)| *position)
    }

    /// The last mark set at or before `at`, in steady command time.
    pub fn marked_by(&self, at: Duration) -> Option<Position> {
        self.marks.iter().rev().find(|(_, mark)| mark.at <= at).map(|(position, _)| *position)
    }

    /// The first mark at or behind `position`.
    pub fn mark_from(&self, position: Position) -> Option<(Position, Mark)> {
        self.marks.range(position..).next().map(|(position, mark)| (*position, *mark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// `entries` of a mebibyte and ten samples each, from position 1, a second apart.
    fn filled(entries: u64) -> Fill {
        let mut fill = Fill::default();
        for position in 1..=entries {
            fill.add(Position(position), Duration::from_secs(position), MIB, 10);
        }
        fill
    }

    #[test]
    fn what_lies_behind_a_position_is_known_to_a_fraction_of_a_mark() {
        let fill = filled(100);
        let entry = MIB as u64 + ENTRY;
        for position in [0, 1, 37, 99] {
            let expected = (100 - position) * entry;
            let seen = fill.bytes_behind(Position(position), Position(100));
            assert!(seen.abs_diff(expected) <= entry, "behind {position}: {seen}, not {expected}");
        }
        assert_eq!(fill.bytes_behind(Position(100), Position(100)), 0);
    }

    #[test]
    fn truncation_forgets_marks_and_the_count_goes_on() {
        let mut fill = filled(100);
        let before = fill.bytes_behind(Position(50), Position(100));
        let gone = fill.forget_below(Position(50));
        assert!(!gone.is_empty());
        assert_eq!(fill.bytes_behind(Position(50), Position(100)), before);
        assert_eq!(fill.samples, 1_000);
    }

    #[test]
    fn what_is_kept_begins_at_a_mark() {
        let fill = filled(100);
        let position = fill.keeping(20 * (MIB as u64 + ENTRY)).expect("there are marks");
        assert!((80..=84).contains(&position.0), "{position}");
        let (at, mark) = fill.mark_from(position).expect("it is a mark");
        assert_eq!((at, mark.samples), (position, position.0 * 10));
        assert_eq!(fill.marked_by(Duration::from_secs(50)).map(|at| at.0 <= 50), Some(true));
    }

    #[test]
    fn marks_are_bounded() {
        let mut fill = Fill::default();
        for position in 1..=3 * MARKS as u64 {
            fill.add(Position(position), Duration::ZERO, SPACING as usize, 1);
        }
        assert!(fill.marks.len() <= MARKS, "{}", fill.marks.len());
        assert_eq!(fill.marks.last_key_value().map(|(at, _)| at.0), Some(3 * MARKS as u64));
    }

    #[test]
    fn an_hour_of_little_is_marked_by_the_minute() {
        let mut fill = Fill::default();
        for second in 0..3_600 {
            fill.add(Position(second + 1), Duration::from_secs(second), 100, 1);
        }
        assert_eq!(fill.marks.len(), 60);
    }
}
