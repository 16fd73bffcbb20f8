//! The store on a disk: what survives, what is noticed, what comes back.
//!
//! - [`model`]: random operations, crashes and reopenings against a model, on both engines.
//! - [`amnesia`]: a directory that lost what it had promised is refused, and no other one is.
//! - [`snapshots`]: checkpoints, installs, floors, and the disk that comes back behind them.
//! - [`crash_points`]: where these can be interrupted, and what must hold between them.
//! - [`failures`]: a commit or sync that fails acknowledges nothing from then on.
//! - [`bytes`]: what samples cost.
//! - [`startup`]: how much an opening reads, and whose directory it opens.

#![allow(clippy::unwrap_used, reason = "helpers of tests end a test like the test itself")]

mod amnesia;
mod bytes;
mod crash_points;
mod failures;
mod model;
mod snapshots;
mod startup;
mod support;
