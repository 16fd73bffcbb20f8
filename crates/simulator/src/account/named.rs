//! Records that are no samples, and stand for slots: each gap and each opening of a grid that came over HTTP stands in CSV
//! files once.
//!
//! - Demanded is what had come when whoever ran it found that files held all of it: what comes behind that moment may be in a
//!   file that its node did not finish any more.
//! - What stands in files and has not come is not judged here: it may still have been on its way.

use std::collections::BTreeMap;

use model::SampleKey;

/// Gaps and openings that came over HTTP.
#[derive(Debug, Default)]
pub(super) struct Named {
    records: BTreeMap<SampleKey, Fate>,
    /// Up to when those that came are demanded, in monotonic nanoseconds; `None`: nobody has said so.
    pub(super) due_ns: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Fate {
    came_ns: u64,
    /// How many rows of files it has.
    rows: u64,
}

impl Named {
    /// One came over HTTP for the first time.
    pub(super) fn came(&mut self, key: SampleKey, at_ns: u64) {
        self.records.entry(key).or_insert(Fate { came_ns: at_ns, rows: 0 });
    }

    /// A record with this key stands in a file.
    pub(super) fn filed(&mut self, key: SampleKey) {
        if let Some(record) = self.records.get_mut(&key) {
            record.rows += 1;
        }
    }

    /// How many have come.
    pub(super) fn count(&self) -> u64 {
        self.records.len() as u64
    }

    /// Those that are demanded, and stand in no file.
    pub(super) fn unfiled(&self) -> u64 {
        let is_due = |record: &&Fate| self.due_ns.is_some_and(|due_ns| record.came_ns <= due_ns);
        self.records.values().filter(is_due).filter(|record| record.rows == 0).count() as u64
    }

    /// Rows of records that have one already.
    pub(super) fn filed_twice(&self) -> u64 {
        self.records.values().map(|record| record.rows.saturating_sub(1)).sum()
    }
}
