//! The memory of one node: one figure, and what each part may hold of it.
//!
//! - Every queue, cache and window that is bounded in bytes has its bound from here, as a share of the figure. What has
//!   no bound of its own (the plant and the ledger, connections, bodies of requests, the program) has the rest, about
//!   two fifths.
//! - Queues and windows grow no further than helps: more in flight makes nothing faster. Caches and the windows of
//!   pushers grow with the figure.
//! - The figure is what the node aims at, not a wall: what it really holds is shown beside it, and told in the log when it
//!   is more.

use ingest::IngestConfig;
use replication::Windows;
use store::engine::rocks::RocksOptions;

const MIB: u64 = 1 << 20;
/// The shares are those of this figure, which is also the default.
const WHOLE: u64 = 512 * MIB;
/// Memtables of the families that are no entries.
const SMALL_MEMTABLES: u64 = 16 * MIB;
/// Memtables of entries that are kept at one time: one being filled, others being written.
const ENTRY_MEMTABLES: u64 = 3;

/// The memory that a node may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    limit: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { limit: WHOLE }
    }
}

impl Memory {
    /// The least that a node works in.
    pub const LEAST: u64 = 256 * MIB;

    /// A limit in bytes; `None` if it is less than a node works in.
    pub fn limited_to(bytes: u64) -> Option<Self> {
        (bytes >= Self::LEAST).then_some(Self { limit: bytes })
    }

    /// The figure itself.
    pub fn limit(self) -> u64 {
        self.limit
    }

    /// What the database may gather and cache. Memtables are also the grain in which disk comes back: they stop growing.
    pub(crate) fn database(self) -> RocksOptions {
        let memtables = self.share(112).min(112 * MIB).saturating_sub(SMALL_MEMTABLES);
        RocksOptions {
            block_cache_bytes: bytes(self.share(16)),
            entries_memtable_bytes: bytes(memtables / ENTRY_MEMTABLES),
            ..RocksOptions::default()
        }
    }

    /// Entries of the log's end that are read from memory.
    pub(crate) fn tail(self) -> usize {
        bytes(self.share(32))
    }

    /// What may be on its way between the nodes.
    pub(crate) fn windows(self) -> Windows {
        Windows {
            proposals: bytes(self.share(32).min(32 * MIB)),
            forwarded: bytes(self.share(16).min(16 * MIB)),
            appends: bytes(self.share(8).min(8 * MIB)),
        }
    }

    /// Readings that wait to be proposed.
    pub(crate) fn readings(self) -> usize {
        bytes(self.share(32).min(32 * MIB))
    }

    /// What pushers may have unanswered, and the names that they have declared.
    pub(crate) fn pushes(self) -> IngestConfig {
        let bound = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        IngestConfig {
            memory_bytes: bound(self.share(16)),
            dictionary_bytes: bound(self.share(32)),
            ..IngestConfig::default()
        }
    }

    /// So many parts of 512.
    fn share(self, parts: u64) -> u64 {
        // First divided: no limit is so large that this overflows.
        self.limit / 512 * parts
    }
}

fn bytes(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that has a bound, with two followers to send to.
    fn bounded(memory: Memory) -> u64 {
        let (database, windows, pushes) = (memory.database(), memory.windows(), memory.pushes());
        let parts = [
            database.block_cache_bytes,
            database.entries_memtable_bytes * ENTRY_MEMTABLES as usize,
            memory.tail(),
            windows.proposals,
            windows.forwarded,
            windows.appends * 2,
            memory.readings(),
            pushes.memory_bytes as usize,
            pushes.dictionary_bytes as usize,
        ];
        parts.iter().map(|part| *part as u64).sum::<u64>() + SMALL_MEMTABLES
    }

    #[test]
    fn a_third_of_the_figure_at_least_is_left_for_what_has_no_bound() {
        for limit in [Memory::LEAST, WHOLE, 4 * WHOLE, 64 * WHOLE] {
            let memory = Memory::limited_to(limit).expect("enough");
            assert!(bounded(memory) <= limit / 3 * 2, "{} of {limit}", bounded(memory));
        }
    }

    #[test]
    fn every_part_grows_with_the_figure_or_has_all_that_helps() {
        let small = Memory::limited_to(Memory::LEAST).expect("enough");
        let (usual, large) = (Memory::default(), Memory::limited_to(8 * WHOLE).expect("enough"));
        assert_eq!(usual.database(), RocksOptions::default(), "the defaults are made for the default");
        assert_eq!(usual.windows(), Windows::default());
        assert_eq!(usual.pushes(), IngestConfig::default());
        assert!(small.tail() < usual.tail() && usual.tail() < large.tail());
        assert!(small.pushes().memory_bytes < usual.pushes().memory_bytes);
        assert!(small.readings() < usual.readings());
        assert!(small.windows().proposals < usual.windows().proposals);
        assert!(small.database().entries_memtable_bytes < usual.database().entries_memtable_bytes);
        assert!(large.database().block_cache_bytes > usual.database().block_cache_bytes);
        assert_eq!(large.windows(), usual.windows());
        assert_eq!(large.database().entries_memtable_bytes, usual.database().entries_memtable_bytes);
    }

    #[test]
    fn the_largest_command_and_message_fit_into_the_smallest_windows() {
        let small = Memory::limited_to(Memory::LEAST).expect("enough");
        let (windows, pushes) = (small.windows(), small.pushes());
        assert!(
            windows.proposals >= Windows::LARGEST_COMMAND && windows.forwarded >= Windows::LARGEST_COMMAND
        );
        assert!(pushes.memory_bytes >= pushes.max_message_bytes);
        assert_eq!(Memory::limited_to(Memory::LEAST - 1), None);
        assert!(Memory::limited_to(u64::MAX).expect("enough").pushes().memory_bytes == u32::MAX);
    }
}
