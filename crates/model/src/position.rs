//! Coordinates on the one number line: a position is a Raft log index, for the log, the buffer, cursors and
//! truncation alike.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{InvalidId, Lineage};

/// A Raft log index. 0 stands before the first entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl Position {
    /// Before the first entry.
    pub const ZERO: Self = Self(0);

    /// The position that follows.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for Position {
    fn from(raw: u64) -> Self {
        Self(raw)
    }
}

/// A place inside one entry.
///
/// Samples are counted over *all* batches of an entry, refused ones included, so that a key never depends on
/// state. Records that `apply` makes (gaps, openings, expiries) count from [`Ordinal::FIRST_EFFECT`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ordinal(pub u32);

impl Ordinal {
    /// The first sample of an entry.
    pub const ZERO: Self = Self(0);
    /// The first record made by `apply` rather than proposed.
    pub const FIRST_EFFECT: Self = Self(1 << 31);

    /// The ordinal that follows.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Ordinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a destination has confirmed, as the *next* place to deliver: everything before it is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cursor {
    /// The entry that holds the next record.
    pub position: Position,
    /// Its place in that entry.
    pub ordinal: Ordinal,
}

impl Cursor {
    /// The cursor before the first record of `position`.
    pub fn at(position: Position) -> Self {
        Self { position, ordinal: Ordinal::ZERO }
    }

    /// The cursor just behind the record at (`position`, `ordinal`).
    pub fn behind(position: Position, ordinal: Ordinal) -> Self {
        Self { position, ordinal: ordinal.next() }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.position, self.ordinal)
    }
}

impl FromStr for Cursor {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parse = || {
            let (position, ordinal) = text.split_once('/')?;
            Some(Self { position: Position(position.parse().ok()?), ordinal: Ordinal(ordinal.parse().ok()?) })
        };
        parse().ok_or_else(|| InvalidId { expected: "a cursor POSITION/ORDINAL", found: text.to_owned() })
    }
}

/// The name of one record for ever: no failover, retry or term changes it. Receivers deduplicate by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleKey {
    /// Which line of positions this is.
    pub lineage: Lineage,
    /// The entry.
    pub position: Position,
    /// The place in the entry.
    pub ordinal: Ordinal,
}

impl SampleKey {
    /// The cursor just before the record.
    pub fn before(self) -> Cursor {
        Cursor { position: self.position, ordinal: self.ordinal }
    }

    /// The cursor just behind the record.
    pub fn behind(self) -> Cursor {
        Cursor::behind(self.position, self.ordinal)
    }
}

impl fmt::Display for SampleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.lineage, self.position, self.ordinal)
    }
}

impl FromStr for SampleKey {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let wrong = || InvalidId { expected: "a key LINEAGE/POSITION/ORDINAL", found: text.to_owned() };
        let (lineage, cursor) = text.split_once('/').ok_or_else(wrong)?;
        let lineage = lineage.parse().map_err(|_| wrong())?;
        let Cursor { position, ordinal } = cursor.parse().map_err(|_| wrong())?;
        Ok(Self { lineage, position, ordinal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_cursors_survive_their_text_form() {
        let key = SampleKey {
            lineage: Lineage::from_random(7),
            position: Position(41),
            ordinal: Ordinal::FIRST_EFFECT,
        };
        assert_eq!(key.to_string().parse::<SampleKey>(), Ok(key));
        let cursor = Cursor::behind(Position(41), Ordinal(6));
        assert_eq!(cursor.to_string(), "41/7");
        assert_eq!("41/7".parse::<Cursor>(), Ok(cursor));
        assert!("41".parse::<Cursor>().is_err());
        assert!("41/7".parse::<SampleKey>().is_err());
    }
}
