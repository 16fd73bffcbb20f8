//! The types that openraft is told to use. Nothing outside this crate sees any of them.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use model::Member;
use openraft::OptionalSend;
use openraft::RaftTypeConfig;
use openraft::impls::{BoxedErrorSource, EntryPayload, InlineBatch};
use openraft::raft::responder::Responder;
use openraft_rt_tokio::TokioRuntime;
use store::Outcome;
use tokio::sync::oneshot;

/// openraft's type parameters, generic over its runtime so that a simulation can bring a deterministic one.
pub(crate) struct TypeConfig<RT = TokioRuntime>(PhantomData<fn() -> RT>);

/// An application entry: one encoded command, opaque here.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What is done with the answer to a proposal, at once and where openraft gives it; dropped if it never will.
pub(crate) struct Reply<T>(Box<dyn FnOnce(T) + Send>);

impl<T: Send + 'static> Reply<T> {
    /// Whatever `take` does, which must be short.
    pub(crate) fn new(take: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(take))
    }

    /// Sends it. Whoever asked may have stopped waiting; that is no news.
    pub(crate) fn to(sender: oneshot::Sender<T>) -> Self {
        Self::new(move |answer| drop(sender.send(answer)))
    }
}

impl<C, T> Responder<C, T> for Reply<T>
where
    C: RaftTypeConfig,
    T: OptionalSend + 'static,
{
    fn on_complete(self, answer: T) {
        (self.0)(answer);
    }
}

/// A term and the node voted for; in the log only the term remains, so a term is a fencing epoch.
pub(crate) type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
pub(crate) type Vote = openraft::impls::Vote<LeaderId>;
/// What of a leader is in the log: its term.
pub(crate) type CommittedLeaderId = <LeaderId as openraft::vote::RaftLeaderId>::Committed;
/// (term, index).
pub(crate) type LogId = openraft::impls::LogId<CommittedLeaderId>;
pub(crate) type EntryBody = EntryPayload<Payload, u64, Member>;
pub(crate) type Entry = openraft::impls::Entry<CommittedLeaderId, EntryBody>;

impl<RT: openraft::AsyncRuntime> RaftTypeConfig for TypeConfig<RT> {
    type D = Payload;
    type R = Outcome;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = EntryBody;
    type Entry = Entry;
    type AsyncRuntime = RT;
    type Responder<T>
        = Reply<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

// Derives would demand the same of `RT`.
impl<RT> Clone for TypeConfig<RT> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<RT> Copy for TypeConfig<RT> {}
impl<RT> Default for TypeConfig<RT> {
    fn default() -> Self {
        Self(PhantomData)
    }
}
impl<RT> fmt::Debug for TypeConfig<RT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypeConfig")
    }
}
impl<RT> PartialEq for TypeConfig<RT> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<RT> Eq for TypeConfig<RT> {}
impl<RT> PartialOrd for TypeConfig<RT> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<RT> Ord for TypeConfig<RT> {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}
