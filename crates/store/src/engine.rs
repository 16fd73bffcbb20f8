//! The seam between what must survive and what keeps it: a small ordered store with explicit durability.
//!
//! Two implementations are real: [`rocks`] on a disk, and [`sim`], a disk in memory that knows pending from
//! durable and can tear, lose and fail.
//!
//! - A commit is atomic: after a crash all of its writes are there, or none.
//! - Commits become durable in the order they were made: if one survived, all earlier ones did.
//! - After [`Durability::Sync`] has returned `Ok`, the commit survives any crash. A [`Durability::Lazy`] commit is
//!   visible at once and may be lost, with everything after it.
//! - What an opening finds is durable: a killed process may leave commits behind that were never synced, and whoever
//!   opens the disk again builds on them.
//! - An error of a commit is final. The caller must stop using the engine and end the process; nothing is retried.
//! - Reads see every commit that has returned. They are synchronous and short.

#[cfg(test)]
mod contract;
pub mod rocks;
pub mod sim;

use std::future::Future;

use bytes::Bytes;

/// A family of keys with its own order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Log index (8 bytes, big-endian) to encoded entry. Written in ascending order, deleted from the front.
    Entries,
    /// Vote, committed, floor, identity: a handful of keys.
    Raft,
    /// What `apply` produced: rows of the ledger.
    Ledger,
}

impl Family {
    /// All families.
    pub const ALL: [Self; 3] = [Self::Entries, Self::Raft, Self::Ledger];

    /// Its name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::Entries => "entries",
            Self::Raft => "raft",
            Self::Ledger => "ledger",
        }
    }
}

/// When a commit counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// When later reads see it.
    Lazy,
    /// When it survives a power cut.
    Sync,
}

/// One write of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put(Family, Vec<u8>, Bytes),
    /// Removes a key.
    Delete(Family, Vec<u8>),
    /// Removes all keys from the first (inclusive) to the second (exclusive); rare.
    DeleteRange(Family, Vec<u8>, Vec<u8>),
}

/// The disk, or what stands for it, said no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Reading or writing failed; the process must end.
    #[error("{operation}: {reason}")]
    Failed {
        /// What was being done.
        operation: &'static str,
        /// What the system said.
        reason: String,
    },
    /// What was read is not what was written.
    #[error("damaged data (HF-4105): {0}")]
    Damaged(String),
}

impl From<EngineError> for std::io::Error {
    fn from(error: EngineError) -> Self {
        Self::other(error)
    }
}

/// A small ordered store with explicit durability. See the module for its promises.
pub trait Engine: Send + Sync + 'static {
    /// Whether [`Engine::commit`] blocks whoever polls it.
    const COMMIT_BLOCKS: bool;

    /// Applies all writes atomically. At most one commit is in flight at a time (there is one commit loop).
    fn commit(
        &self,
        writes: Vec<Write>,
        durability: Durability,
    ) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// The value of a key.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Keys and values from `from` (inclusive) to `to` (exclusive; `None` for the end), in order, until
    /// `limit_bytes` of values have been read; at least one if there is one.
    fn range(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        limit_bytes: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, EngineError>;

    /// The greatest key of a family.
    fn last(&self, family: Family) -> Result<Option<(Vec<u8>, Bytes)>, EngineError>;

    /// Gives back the disk space of keys below `key`, as far as that is cheap: those keys may stay readable or
    /// vanish, at any time. Runs beside commits and may take seconds. Returns the bytes that the family still has on
    /// disk; what shares a file with a needed key counts among them.
    fn drop_below(&self, family: Family, key: &[u8])
    -> impl Future<Output = Result<u64, EngineError>> + Send;

    /// Bytes on disk.
    fn disk_usage(&self) -> Result<u64, EngineError>;

    /// Writes a small file beside the families, whole and durable when it returns: aside, synced, renamed, and the
    /// directory synced.
    fn write_file(&self, name: &str, bytes: Bytes) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Reads such a file.
    fn read_file(&self, name: &str) -> Result<Option<Bytes>, EngineError>;

    /// Names of such files, in order. Leftovers of an interrupted `write_file` are not among them.
    fn list_files(&self) -> Result<Vec<String>, EngineError>;

    /// Removes such a file; it is no error if it is not there.
    fn remove_file(&self, name: &str) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Overwrites one slot of [`SLOT_BYTES`] of a two-slot file in place and syncs it: cheaper than `write_file`, but a
    /// crash may tear the slot being written (never the other one).
    fn write_slot(
        &self,
        name: &str,
        slot: usize,
        bytes: [u8; SLOT_BYTES],
    ) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Reads both slots of such a file; absent if it was never written.
    fn read_slots(&self, name: &str) -> Result<Option<[[u8; SLOT_BYTES]; 2]>, EngineError>;
}

/// Size of one slot of a two-slot file: a disk sector, so that it is usually not torn.
pub const SLOT_BYTES: usize = 512;

/// The key of a log index.
pub fn index_key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}
