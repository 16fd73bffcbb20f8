//! What the batcher is told and what it says.

use std::time::Duration;

use model::{Lineage, Ordinal, Position};
use wire::EncodedBatch;

/// Bounds and times of the batcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatcherLimits {
    /// Proposals in flight at most.
    pub in_flight: usize,
    /// Payload bytes of one proposal at most; a single larger message is proposed alone.
    pub proposal_bytes: usize,
    /// Messages of one proposal at most.
    pub proposal_messages: usize,
    /// How long everything may fail before waiting messages are refused.
    pub patience: Duration,
    /// How long a refused client is told to wait, and messages are refused at once.
    pub retry_after: Duration,
    /// Pause after the first failed proposal; doubles up to `longest_pause`.
    pub first_pause: Duration,
    /// Longest pause between failed proposals.
    pub longest_pause: Duration,
    /// How long a message may be undecided. Then a new session is begun, long before the ledger forgets the old one:
    /// a forgotten number would be accepted twice.
    pub undecided: Duration,
}

impl Default for BatcherLimits {
    fn default() -> Self {
        Self {
            in_flight: 4,
            proposal_bytes: 256 << 10,
            proposal_messages: 1_024,
            patience: Duration::from_secs(5),
            retry_after: Duration::from_secs(1),
            first_pause: Duration::from_millis(20),
            longest_pause: Duration::from_millis(500),
            undecided: Duration::from_secs(12 * 3_600),
        }
    }
}

/// One client stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// How often a stream was sent back. Messages of an earlier generation are refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// One proposal in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlightId(pub u64);

/// What to propose.
#[derive(Debug)]
pub struct Proposal {
    /// To be given back to [`Batcher::settled`](super::Batcher::settled).
    pub flight: FlightId,
    /// The batches, numbered.
    pub batches: Vec<EncodedBatch>,
}

/// What is to be told to a client about the message that came with the ticket.
#[derive(Debug)]
pub struct Answer<T> {
    /// What came with the message.
    pub ticket: T,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is committed, once.
    Accepted(Option<Place>),
    /// It is not and will not be committed. The stream goes on with this message and the generation given here.
    Refused {
        /// Why.
        reason: RefusalReason,
        /// When to try again.
        retry_after: Duration,
        /// The stream's new generation.
        generation: Generation,
    },
    /// Nobody can say whether it is or will be committed, and this node will not find out. The stream goes on with
    /// this message and the generation given here.
    Undecided {
        /// The stream's new generation.
        generation: Generation,
    },
}

/// Where a message was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The lineage of the position.
    pub lineage: Lineage,
    /// The entry.
    pub position: Position,
    /// Ordinal of the message's first sample.
    pub ordinal: Ordinal,
}

/// Why messages are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum RefusalReason {
    /// No leader, no majority, or no answer.
    #[error("no majority of the nodes answers; nothing can be committed")]
    NoQuorum,
    /// The buffer or the disk is full.
    #[error("the buffer is full until destinations have taken some of it")]
    NoSpace,
    /// The cluster has more to do than it can.
    #[error("the cluster has more to do than it can")]
    Overloaded,
    /// This node is stopping.
    #[error("this node is stopping")]
    Stopping,
    /// The plant has changed so often since it was queued that nobody knows its tags.
    #[error("the plant has changed too often since it was sent; its tags have to be looked up again")]
    RevisionGone,
    /// An earlier message of the stream was not taken.
    #[error("an earlier message of the stream was not taken")]
    OutOfOrder,
}

/// A message was not taken into the queue.
#[derive(Debug)]
pub struct NotQueued<T> {
    /// What came with it.
    pub ticket: T,
    /// Why: always [`Verdict::Refused`]. Where its generation is over, the answer that ended it is under way.
    pub verdict: Verdict,
}
