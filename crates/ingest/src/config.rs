//! Bounds of the push service.

use std::time::Duration;

use crate::batcher::BatcherLimits;

/// Bounds of the push service of one node. The defaults suit a small industrial computer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngestConfig {
    /// Streams at the same time.
    pub max_streams: usize,
    /// Unanswered messages of one stream.
    pub window_messages: u32,
    /// Size of all unanswered messages of one stream, in bytes.
    pub window_bytes: u32,
    /// Size of one message, in bytes, counted as `ingest.proto` says.
    pub max_message_bytes: u32,
    /// Tags that one stream may declare.
    pub max_tags: u32,
    /// Size of the dictionaries of all streams, in bytes.
    pub dictionary_bytes: u32,
    /// Size of all unanswered messages of all streams, in bytes; at least one message.
    pub memory_bytes: u32,
    /// A new stream must say something within this time.
    pub first_message: Duration,
    /// A stream on which nothing happens for this time is ended.
    pub idle: Duration,
    /// A proposal without an answer for this time has an unknown outcome.
    pub proposal_timeout: Duration,
    /// When stopping: how long undecided messages are waited for.
    pub grace: Duration,
    /// The queue of the node.
    pub batcher: BatcherLimits,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            max_streams: 1_024,
            window_messages: 1_024,
            window_bytes: 4 << 20,
            max_message_bytes: 512 << 10,
            max_tags: 65_536,
            dictionary_bytes: 32 << 20,
            memory_bytes: 16 << 20,
            first_message: Duration::from_secs(10),
            idle: Duration::from_secs(15 * 60),
            proposal_timeout: Duration::from_secs(3),
            grace: Duration::from_secs(3),
            batcher: BatcherLimits::default(),
        }
    }
}
