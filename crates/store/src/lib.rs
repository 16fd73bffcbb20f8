//! Keep one log and its ledger on one disk, crash-safe.

mod outcome;

pub use outcome::{BatchOutcome, Outcome, Refusal};
