//! What the push service has done since its start, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IngestCounters {
    /// Streams open now.
    pub streams: u64,
    /// Streams that were turned away because there were too many.
    pub streams_refused: u64,
    /// Messages acknowledged.
    pub messages_acknowledged: u64,
    /// Samples in them.
    pub samples_acknowledged: u64,
    /// Messages whose content was wrong.
    pub messages_rejected: u64,
    /// Messages that were not taken, or whose outcome was not found out.
    pub messages_refused: u64,
    /// Bytes of unanswered messages now.
    pub bytes_held: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) streams_refused: AtomicU64,
    pub(crate) messages_acknowledged: AtomicU64,
    pub(crate) samples_acknowledged: AtomicU64,
    pub(crate) messages_rejected: AtomicU64,
    pub(crate) messages_refused: AtomicU64,
}

impl Counts {
    pub(crate) fn read(&self) -> IngestCounters {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        IngestCounters {
            streams_refused: read(&self.streams_refused),
            messages_acknowledged: read(&self.messages_acknowledged),
            samples_acknowledged: read(&self.samples_acknowledged),
            messages_rejected: read(&self.messages_rejected),
            messages_refused: read(&self.messages_refused),
            ..IngestCounters::default()
        }
    }
}

pub(crate) fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}
