//! Take pushed samples, on any node, and answer only after commit.
//!
//! - [`PushService`]: the gRPC service `Ingest` (`proto/holdfast/v1/ingest.proto` is its documentation), to be mounted
//!   by the gateway.
//! - [`batcher`]: the one queue of a node, with go-back-N; pure rules.
//! - [`Log`] and [`TagResolver`]: the two seams that the gateway implements.
//!
//! Not here: who leads, how a proposal reaches it, what the plant is. This crate knows no Raft.
//!
//! Invariants
//! - A message is acknowledged only after it was committed and applied.
//! - Memory is bounded before it is used: bytes of unanswered messages per node, messages and bytes per stream,
//!   streams, declared tags. Beyond a bound the stream is not read; only the number of streams is refused.
//! - No stream is a task of its own: each is driven by the reading of its responses and ends with its connection.

pub mod batcher;
mod config;
mod counters;
mod dictionary;
mod intake;
mod log;
mod memory;
mod samples;
mod service;
mod stream;
mod tags;

pub use config::IngestConfig;
pub use counters::IngestCounters;
pub use log::{Log, Outcome, ProposeError, Proposed};
pub use service::{PushService, Responses, start};
pub use tags::{TagResolver, Unresolved};
