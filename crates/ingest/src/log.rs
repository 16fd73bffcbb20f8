//! The seam to agreement: what this crate asks of the replicated log, and nothing more.
//!
//! The gateway implements [`Log`] on `replication`, which forwards to the leader where this node follows.

use std::future::Future;

use model::{Lineage, Ordinal, Position, SessionId, Term};
use tokio::sync::watch;
use wire::EncodedBatch;

/// Proposes batches of push sessions, and knows what has become of them.
pub trait Log: Send + Sync + 'static {
    /// Proposes batches of one session, in order, as one entry; resolves when their outcome is known or cannot be.
    ///
    /// - Several proposals are in flight at once. They reach the log in the order in which the returned futures are
    ///   first polled, or not at all; another order costs proposals, never samples.
    /// - Every error but [`ProposeError::Unknown`] and [`ProposeError::Stopped`] is a promise that *this copy* is
    ///   not in the log and never will be. Where bytes may have reached a leader, the answer is `Unknown`.
    /// - Dropping the future gives up the answer, not the proposal.
    fn propose(
        &self,
        batches: Vec<EncodedBatch>,
    ) -> impl Future<Output = Result<Proposed, ProposeError>> + Send;

    /// The last sequence applied for the session on this node's ledger; 0 for a session it does not know.
    fn applied(&self, session: SessionId) -> u64;

    /// The term whose `Lead` this node has applied; changes when a later one is. Entries of earlier terms are then
    /// decided, and [`Log::applied`] counts them.
    fn reign(&self) -> watch::Receiver<Term>;
}

/// An entry was committed and applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// Where it is.
    pub position: Position,
    /// The lineage of that position.
    pub lineage: Lineage,
    /// What `apply` said to each batch, in order.
    pub outcomes: Vec<Outcome>,
}

/// What `apply` said to one batch of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the buffer.
    Accepted {
        /// Ordinal of its first sample.
        first_ordinal: Ordinal,
    },
    /// It was accepted before, from an earlier copy.
    Already,
    /// Sequences before it are missing; this copy does nothing.
    Expected {
        /// The next sequence of the session.
        sequence: u64,
    },
    /// It was made under a revision of which too little is kept. No copy of it is ever accepted, and its number is not used
    /// up: nothing behind it in its session is accepted either.
    RevisionGone,
}

/// No answer of `apply`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ProposeError {
    /// No leader is known, or the one asked does not lead.
    #[error("no leader is known")]
    NoLeader,
    /// The leader does not reach a majority and takes nothing.
    #[error("no majority of the nodes answers")]
    NoQuorum,
    /// The buffer or the disk is full.
    #[error("the buffer is full")]
    NoSpace,
    /// The leader has more to do than it can.
    #[error("the leader is overloaded")]
    Overloaded,
    /// It was sent and not answered: it may be committed, now or later.
    #[error("the outcome of a proposal is unknown")]
    Unknown,
    /// This node's log has ended; nothing more will be answered. Like `Unknown` otherwise.
    #[error("the log of this node has stopped")]
    Stopped,
}

impl ProposeError {
    /// Whether the copy that was proposed may be in the log, now or later.
    pub fn may_commit(self) -> bool {
        matches!(self, Self::Unknown | Self::Stopped)
    }
}
