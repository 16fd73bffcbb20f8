//! Keep one log and its ledger on one disk, crash-safe.
//!
//! Samples are written once: the log *is* the buffer. Its visible part is `(floor, last]`, the buffer is
//! `(horizon, applied]`, and always `floor <= horizon`.
//!
//! - [`engine`]: the seam to the disk, RocksDB or simulated.
//! - [`Log`]: entries and votes, through one commit loop with group commit.
//! - [`ledger`]: what `apply` makes of the log; [`Keeper`] applies to it and keeps its checkpoints.
//! - [`Store`]: opens a data directory, after checking that it remembers what it promised.
//!
//! This crate knows nothing of elections or networks, and never decodes a sample.

mod amnesia;
mod answers;
mod checkpoint;
mod checkpoints;
mod commit;
pub mod engine;
mod entry;
mod floor;
mod keeper;
pub mod ledger;
mod log;
mod outcome;
mod phases;
#[cfg(test)]
mod slow;
pub mod staging;
mod store;

pub use checkpoint::{Checkpoint, CheckpointHeader};
pub use commit::Done;
pub use entry::{ChainHash, Entry};
pub use keeper::{Keeper, Received, Relief, Snapshot};
pub use ledger::{Body, LogId, Membership};
pub use log::{Log, LogEnds, Vote};
pub use outcome::{BatchOutcome, Outcome, Refusal, Thing};
pub use store::{Buffered, Identity, OpenError, Store, StoreOptions};
