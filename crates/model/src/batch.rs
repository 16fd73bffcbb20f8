//! Batches: samples of one source that are proposed, accepted or refused together.

use crate::gap::Cause;
use crate::ids::{GridId, GroupId, NodeId, Revision, SessionId, TagId};
use crate::reading::Reading;
use crate::time::Timestamp;

/// One reading of one tag at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The tag.
    pub tag: TagId,
    /// When the source produced it; for polled values the gateway's wall clock when the answer arrived.
    pub source_time: Timestamp,
    /// What was read.
    pub reading: Reading,
}

/// Where a batch comes from, which is also its identity: `apply` accepts each identity once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// One slot of one poll group. Fenced by the term of the entry that carries it.
    Polled {
        /// The poll group.
        group: GroupId,
        /// The opening of its schedule that the slot belongs to.
        grid: GridId,
        /// The slot's number on that grid.
        slot: u64,
        /// Why slots before this one were not read, if any were not and no new leader explains it.
        skipped: Cause,
    },
    /// The next message of one session. No term fences it: it may be proposed again after a failover.
    Pushed {
        /// The session, made by the ingesting node.
        session: SessionId,
        /// Its number in the session, from 1.
        sequence: u64,
    },
}

/// What is known of a batch without decoding its samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Where it comes from.
    pub source: Source,
    /// The node that read or took the samples.
    pub node: NodeId,
    /// The configuration revision under which they were read or taken.
    pub revision: Revision,
    /// When this gateway received them.
    pub gateway_time: Timestamp,
    /// Number of samples; never 0.
    pub count: u32,
    /// Source time of the oldest sample.
    pub oldest: Timestamp,
    /// Source time of the newest sample.
    pub newest: Timestamp,
    /// Whether every reading is bad.
    pub all_bad: bool,
}

/// A batch with its samples. Never empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    source: Source,
    node: NodeId,
    revision: Revision,
    gateway_time: Timestamp,
    samples: Vec<Sample>,
}

/// A batch must hold at least one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a batch must hold at least one sample")]
pub struct EmptyBatch;

impl Batch {
    /// Makes a batch; refuses one without samples.
    pub fn new(
        source: Source,
        node: NodeId,
        revision: Revision,
        gateway_time: Timestamp,
        samples: Vec<Sample>,
    ) -> Result<Self, EmptyBatch> {
        if samples.is_empty() || u32::try_from(samples.len()).is_err() {
            return Err(EmptyBatch);
        }
        Ok(Self { source, node, revision, gateway_time, samples })
    }

    /// The samples, in order.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The samples, by value.
    pub fn into_samples(self) -> Vec<Sample> {
        self.samples
    }

    /// What is known of it without its samples.
    pub fn header(&self) -> BatchHeader {
        let times = self.samples.iter().map(|sample| sample.source_time);
        BatchHeader {
            source: self.source,
            node: self.node,
            revision: self.revision,
            gateway_time: self.gateway_time,
            count: u32::try_from(self.samples.len()).expect("checked in new"),
            oldest: times.clone().min().expect("checked in new"),
            newest: times.max().expect("checked in new"),
            all_bad: self.samples.iter().all(|sample| sample.reading.value().is_none()),
        }
    }
}
