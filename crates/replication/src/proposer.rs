//! The one door to the log on a leader: proposals in order, bounded in bytes, each with an answer.
//!
//! - Commands enter the log in the order in which they were queued here.
//! - Nothing but `Lead` passes before the `Lead` of this term is applied: applying it decides what came before.
//! - What is in flight is bounded by byte permits, because openraft bounds only counts.
//! - While the gate is closed, samples are refused and everything else passes: acknowledgements and truncation are the
//!   way out of a full disk.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use model::ids::Term;
use model::{NodeId, Position};
use openraft::errors::{ClientWriteError, ForwardReason};
use openraft::raft::{ClientWriteResponse, ClientWriteResult};
use openraft::{AsyncRuntime, Raft};
use store::engine::Engine;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use wire::entry::Kind;

use crate::network::{Applied, ProposeError, Windows};
use crate::storage::StateMachine;
use crate::type_config::{CommittedLeaderId, Payload, Reply, TypeConfig};

/// Commands waiting to be handed to openraft; bytes are bounded above.
const QUEUE: usize = 1_024;
/// When a proposal that found no room should be tried again.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_millis(50);
/// When samples that found the buffer full should be tried again: destinations need a while to take some.
const RETRY_FULL_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

type Answer = oneshot::Sender<Result<Applied, ProposeError>>;

/// A command on its way, and who waits for it.
struct Proposal {
    command: Bytes,
    term: Term,
    answer: Answer,
    room: OwnedSemaphorePermit,
}

/// Queues proposals of this node's own reign. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Proposer {
    queue: mpsc::Sender<Proposal>,
    room: Arc<Semaphore>,
    /// No samples pass.
    closed: Arc<AtomicBool>,
}

/// The task that hands proposals to openraft, in order.
pub(crate) struct ProposerTask<E: Engine, RT: AsyncRuntime> {
    raft: Raft<TypeConfig<RT>, StateMachine<E>>,
    queue: mpsc::Receiver<Proposal>,
}

/// The answer to come.
pub(crate) struct Pending(oneshot::Receiver<Result<Applied, ProposeError>>);

impl Pending {
    pub(crate) async fn answer(self) -> Result<Applied, ProposeError> {
        self.0.await.unwrap_or(Err(ProposeError::Unknown))
    }
}

impl Proposer {
    pub(crate) fn new<E: Engine, RT: AsyncRuntime>(
        raft: Raft<TypeConfig<RT>, StateMachine<E>>,
        windows: &Windows,
    ) -> (Self, ProposerTask<E, RT>) {
        let (queue, proposals) = mpsc::channel(QUEUE);
        let room = Arc::new(Semaphore::new(windows.proposals.max(Windows::LARGEST_COMMAND)));
        let proposer = Self { queue, room, closed: Arc::default() };
        (proposer, ProposerTask { raft, queue: proposals })
    }

    /// Lets samples pass, or refuses them.
    pub(crate) fn close_to_samples(&self, closed: bool) {
        self.closed.store(closed, Ordering::Relaxed);
    }

    /// Whether samples are refused.
    pub(crate) fn is_closed_to_samples(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Refuses samples while the gate is closed.
    fn admit(&self, command: &Bytes) -> Result<(), ProposeError> {
        let is_closed = self.is_closed_to_samples() && !runtime::mutant("closed-gate-lets-samples-pass");
        let refused = is_closed && wire::entry::kind(command) == Some(Kind::Append);
        if refused { Err(ProposeError::NoSpace { retry_after: RETRY_FULL_AFTER }) } else { Ok(()) }
    }

    /// Takes a place in the order at once, or refuses.
    pub(crate) fn try_propose(&self, term: Term, command: Bytes) -> Result<Pending, ProposeError> {
        self.admit(&command)?;
        let overloaded = || ProposeError::Overloaded { retry_after: RETRY_AFTER };
        let bytes = Self::bytes(&command)?;
        let room = Arc::clone(&self.room).try_acquire_many_owned(bytes).map_err(|_| overloaded())?;
        let (answer, pending) = oneshot::channel();
        let proposal = Proposal { command, term, answer, room };
        self.queue.try_send(proposal).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => overloaded(),
            mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped,
        })?;
        Ok(Pending(pending))
    }

    /// Takes a place in the order, waiting for room.
    pub(crate) async fn propose(&self, term: Term, command: Bytes) -> Result<Pending, ProposeError> {
        self.admit(&command)?;
        let bytes = Self::bytes(&command)?;
        let stopped = |_| ProposeError::Stopped;
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await.map_err(stopped)?;
        let (answer, pending) = oneshot::channel();
        let proposal = Proposal { command, term, answer, room };
        self.queue.send(proposal).await.map_err(|_| ProposeError::Stopped)?;
        Ok(Pending(pending))
    }

    fn bytes(command: &Bytes) -> Result<u32, ProposeError> {
        let bytes = command.len().max(256);
        if bytes > Windows::LARGEST_COMMAND {
            return Err(ProposeError::Invalid(format!("a command of {bytes} bytes is too large")));
        }
        Ok(u32::try_from(bytes).expect("checked just above"))
    }
}

impl<E: Engine, RT: AsyncRuntime> ProposerTask<E, RT> {
    /// Runs until told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), ProposeError> {
        while let Some(Some(proposal)) = stop.run_until_cancelled(self.queue.recv()).await {
            let Proposal { command, term, answer, room } = proposal;
            let waiter = Waiter(Arc::new(Mutex::new(Some((answer, room)))));
            // An entry is applied, or discarded by another leader's log. If Raft ends before, this is dropped.
            let told = waiter.clone();
            let reply = Reply::new(move |result: ClientWriteResult<TypeConfig<RT>>| {
                told.tell(answer_of::<RT>(result));
            });
            let write = self.raft.write(Payload(command));
            let write = write.with_leader(CommittedLeaderId::new(term.0)).responder(reply);
            if write.await.is_err() {
                waiter.tell(Err(ProposeError::Stopped));
                return if stop.is_cancelled() { Ok(()) } else { Err(ProposeError::Stopped) };
            }
        }
        Ok(())
    }
}

/// Who waits for a proposal, told once; with the last clone it learns that nobody knows.
#[derive(Clone)]
struct Waiter(Arc<Mutex<Option<(Answer, OwnedSemaphorePermit)>>>);

impl Waiter {
    fn tell(&self, outcome: Result<Applied, ProposeError>) {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((answer, room)) = waiting {
            // There is room again before somebody makes use of the answer.
            drop(room);
            drop(answer.send(outcome));
        }
    }
}

fn answer_of<RT: AsyncRuntime>(result: ClientWriteResult<TypeConfig<RT>>) -> Result<Applied, ProposeError> {
    match result {
        Ok(ClientWriteResponse { log_id, data, .. }) => Ok(Applied {
            term: Term(log_id.committed_leader_id().term),
            position: Position(log_id.index()),
            outcome: data,
        }),
        Err(ClientWriteError::ForwardToLeader(forward)) => match forward.reason {
            ForwardReason::LeaseExpired => Err(ProposeError::NoQuorum),
            _ => Err(ProposeError::NotLeader { leader: forward.leader_id.map(NodeId) }),
        },
        Err(ClientWriteError::LogEntryDiscarded(_)) => Err(ProposeError::Unknown),
        Err(other) => Err(ProposeError::Invalid(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use model::command::{Command, Request};

    use super::*;
    use crate::lease::LeaseTimes;
    use crate::trial::Cluster;

    #[tokio::test(start_paused = true)]
    async fn what_was_queued_in_an_earlier_reign_of_the_same_node_is_refused() {
        let cluster = Cluster::found([LeaseTimes::LAN]).await;
        let replica = cluster.replica(1);
        let order = Command::SetDrained { node: NodeId(1), drained: false, request: Request::default() };
        let bytes = wire::entry::encode(&replica.stamp(), &order).expect("it can be encoded");
        let propose = async |term: Term| {
            let pending = replica.inner.proposer.try_propose(term, bytes.clone()).expect("there is room");
            pending.answer().await
        };
        let term = replica.status().term;
        let earlier = propose(Term(term.0 - 1)).await;
        assert!(matches!(earlier, Err(ProposeError::NotLeader { .. })), "{earlier:?}");
        assert!(propose(term).await.is_ok());
    }
}
