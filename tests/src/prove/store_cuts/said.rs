//! What a writer says of itself: what it begins, before it begins it, and what the store has acknowledged.
//!
//! - A line each, in one piece, in the order of the store's queue: an operation that was never begun cannot be found.
//! - The last line of a writer that was killed may be missing, never half there: a pipe takes a line whole or not at
//!   all. Only what was found is longer than that, and a half of it is dropped by whoever reads.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use simulator::history::monotonic_ns;
use store::Entry;
use store::ledger::Body;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Said {
    /// It opens the directory, which writes already.
    Opens {},
    /// The store is open, and holds this. The writer waits for a line until it goes on.
    Found(Found),
    /// The operation of this number begins, at this time in monotonic nanoseconds.
    Begins(u64, Operation, u64),
    /// All operations up to this number are acknowledged, and were so at this time, in monotonic nanoseconds.
    Acknowledged(u64, u64),
    /// It applies its log and writes a checkpoint, and says nothing until that is done.
    MakesRoom {},
    /// It cannot go on.
    Failed(String),
}

impl Said {
    /// The operation of this number begins now.
    pub(super) fn begins(number: u64, operation: Operation) -> Self {
        Self::Begins(number, operation, monotonic_ns())
    }

    /// All operations up to this number are acknowledged by now.
    pub(super) fn acknowledged(number: u64) -> Self {
        Self::Acknowledged(number, monotonic_ns())
    }

    /// Whether it is an acknowledgement of that time or later.
    pub(super) fn is_acknowledged_since(&self, moment_ns: u64) -> bool {
        matches!(self, Self::Acknowledged(_, at_ns) if *at_ns >= moment_ns)
    }
}

/// What changes a log or a vote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Operation {
    Vote(Voted),
    /// Entries, the first of which has this index.
    Append(u64, Vec<Held>),
    /// No entry behind this index stays.
    Truncate(u64),
    /// No entry up to this index stays.
    Purge(u64),
}

/// A vote: the term, for whom, and whether that node is known to have won.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Voted {
    pub(super) term: u64,
    pub(super) node: u64,
    pub(super) committed: bool,
}

/// An entry, as far as it is compared: its term, and a hash of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held(pub(super) u64, pub(super) u64);

/// What a store holds when it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Found {
    /// The id of the data directory.
    pub(super) store: String,
    pub(super) vote: Option<Voted>,
    /// The last entry that was purged; 0 for none.
    pub(super) floor: u64,
    /// Each entry with its index, as they were read.
    pub(super) log: Vec<(u64, Held)>,
    pub(super) last: u64,
    pub(super) applied: u64,
    /// Of the ledger on the disk.
    pub(super) digest: String,
    /// Of a ledger to which the log was applied, from its newest checkpoint on if it does not begin at the beginning.
    pub(super) recomputed: String,
}

impl From<&Entry> for Held {
    /// With a hash that has nothing to do with those of the store.
    fn from(entry: &Entry) -> Self {
        let mut hasher = DefaultHasher::new();
        match &entry.body {
            Body::Blank => 0_u8.hash(&mut hasher),
            Body::Command(bytes) => (1_u8, bytes).hash(&mut hasher),
            Body::Membership(membership) => (2_u8, format!("{membership:?}")).hash(&mut hasher),
        }
        Self(entry.id.term.0, hasher.finish())
    }
}

/// Says it at once.
pub(super) fn tell(said: &Said) -> io::Result<()> {
    let mut line = serde_json::to_string(said)?;
    line.push('\n');
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

/// Begins a line, whatever somebody else has written into this one.
pub(super) fn clear() -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(b"\n")?;
    out.flush()
}

/// Reads a line; nothing where it is not one of a writer.
pub(super) fn read(line: &[u8]) -> Option<serde_json::Result<Said>> {
    (line.starts_with(b"{") && line.ends_with(b"\n")).then(|| serde_json::from_slice(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_line_is_read_as_it_was_said_and_no_other_line_is_one() {
        let append = Operation::Append(7, vec![Held(3, u64::MAX), Held(3, 1)]);
        for said in [Said::Opens {}, Said::begins(1, append), Said::Found(Found::default())] {
            let line = format!("{}\n", serde_json::to_string(&said).unwrap());
            assert_eq!(read(line.as_bytes()).unwrap().unwrap(), said);
            assert!(read(&line.as_bytes()[..line.len() - 1]).is_none(), "half of {line}");
        }
        for other in ["\n", "running 1 test\n", ""] {
            assert!(read(other.as_bytes()).is_none(), "{other:?}");
        }
        assert!(read(b"{\"Begins\":[1]}\n").unwrap().is_err());
    }
}
