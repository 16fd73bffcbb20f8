//! One replica: openraft, fed and fenced.
//!
//! - Owns the Raft core and the tasks around it: the lease, the reign, elections, snapshots, proposals, the peer port.
//! - What it hands out has no openraft type in it: [`Leadership`], [`Applied`], [`Status`].
//! - A proposal made on any node reaches the leader; on the leader it waits for nothing but room and its own `Lead`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::command::{Command, Stamp};
use model::ids::{ClusterId, Term};
use model::{BootId, Clock, Member, NodeId, Position};
use openraft::async_runtime::WatchReceiver as _;
use openraft::{AsyncRuntime, Raft, ServerState};
use runtime::Spawner;
use store::Store;
use store::engine::Engine;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use wire::entry::EncodedBatch;

use crate::chance::SeededRuntime;
use crate::contact::Contact;
use crate::joiners::Joiners;
use crate::lease::{Leadership, LeaseCell, LeaseTimes};
use crate::membership::{MEMBERSHIP_PATIENCE, MembershipError};
use crate::network::{Applied, PeerNetworkFactory, PeerTable, Proposals, ProposeError};
use crate::proposer::{Pending, Proposer};
use crate::storage::StateMachine;
use crate::type_config::TypeConfig;

pub(crate) type RaftOf<E, RT> = Raft<TypeConfig<RT>, StateMachine<E>>;

/// How long the end of Raft is waited for.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);

/// A replica of the cluster. Cheap to clone.
pub struct Replica<E: Engine, RT: AsyncRuntime = SeededRuntime> {
    pub(crate) inner: Arc<Inner<E, RT>>,
}

impl<E: Engine, RT: AsyncRuntime> Clone for Replica<E, RT> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

pub(crate) struct Inner<E: Engine, RT: AsyncRuntime> {
    pub(crate) node: NodeId,
    pub(crate) cluster: ClusterId,
    pub(crate) name: String,
    pub(crate) cluster_name: String,
    pub(crate) boot: BootId,
    pub(crate) times: LeaseTimes,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Store<E>,
    pub(crate) raft: RaftOf<E, RT>,
    pub(crate) cell: LeaseCell,
    /// The term in which openraft says that this node leads.
    pub(crate) leads: watch::Sender<Option<Term>>,
    /// Who leads, if that is another node.
    pub(crate) leader: watch::Sender<Option<(NodeId, Member)>>,
    pub(crate) leadership: watch::Sender<Option<Leadership>>,
    pub(crate) proposer: Proposer,
    pub(crate) forward: Proposals,
    pub(crate) peers: PeerTable,
    pub(crate) network: PeerNetworkFactory<RT>,
    pub(crate) joiners: Joiners,
    /// One change of membership at a time.
    pub(crate) changes: Semaphore,
    /// This node was removed from the cluster.
    pub(crate) removed: watch::Sender<bool>,
    pub(crate) contact: Contact,
    /// Bytes free here above the reserve.
    pub(crate) free_bytes: Arc<dyn Fn() -> u64 + Send + Sync>,
    pub(crate) spawner: Spawner,
}

/// A proposal that has its place in the order, and is not decided.
pub struct Placed {
    pending: Pending,
    leadership: Leadership,
    until: Instant,
}

impl Placed {
    /// What becomes of it; not waited for when the reign is over, or for longer than was said.
    pub async fn outcome(self) -> Result<Applied, ProposeError> {
        let Self { pending, leadership, until } = self;
        tokio::select! {
            biased;
            outcome = timeout_at(until, pending.answer()) => outcome.unwrap_or(Err(ProposeError::Unknown)),
            // The next `Lead` decides it.
            () = leadership.over() => Err(ProposeError::Unknown),
        }
    }
}

/// What a node is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It leads.
    Leader,
    /// It votes, and follows whoever leads.
    Follower,
    /// It stands for election.
    Candidate,
    /// It receives the log and does not vote.
    Learner,
    /// It was removed from the cluster.
    Removed,
    /// Raft has ended on it.
    Stopped,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
            Self::Removed => "removed",
            Self::Stopped => "stopped",
        })
    }
}

/// What this node knows of the cluster's agreement, for status and alarms.
#[derive(Debug, Clone)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// The term it is in.
    pub term: Term,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// What it is itself.
    pub standing: Standing,
    /// The last entry it has.
    pub last: Position,
    /// The last entry it knows to be committed.
    pub committed: Position,
    /// The last entry it has applied.
    pub applied: Position,
    /// Sets of voters, two while membership changes.
    pub voters: Vec<BTreeSet<u64>>,
    /// All members.
    pub members: BTreeMap<NodeId, Member>,
    /// Whether this node holds a live lease.
    pub holds_lease: bool,
    /// How far each follower has confirmed the log; on a leader only.
    pub matched: BTreeMap<NodeId, Position>,
}

impl<E: Engine, RT: AsyncRuntime> Replica<E, RT> {
    /// This node's number.
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// This node's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its cluster's name.
    pub fn cluster_name(&self) -> &str {
        &self.inner.cluster_name
    }

    /// This process.
    pub fn boot(&self) -> BootId {
        self.inner.boot
    }

    /// The store: buffer, ledger, log.
    pub fn store(&self) -> &Store<E> {
        &self.inner.store
    }

    /// What peers said of themselves.
    pub fn peers(&self) -> &PeerTable {
        &self.inner.peers
    }

    /// The lease's times.
    pub fn times(&self) -> LeaseTimes {
        self.inner.times
    }

    /// The shortest lease of all voters, as far as this node knows.
    pub fn lease(&self) -> Duration {
        self.inner.cell.length()
    }

    /// How long an operation on the outside world may usually take, by that lease.
    pub fn usual_operation(&self) -> Duration {
        self.inner.cell.usual_operation()
    }

    /// This node's leadership: `Some` once the `Lead` of its term is applied, `None` when that term is over. The lease
    /// may run out and be renewed in between: ask the [`Leadership`].
    pub fn leadership(&self) -> watch::Receiver<Option<Leadership>> {
        self.inner.leadership.subscribe()
    }

    /// The stamp of a command proposed now.
    pub fn stamp(&self) -> Stamp {
        Stamp { at: self.inner.clock.now(), boot: self.inner.boot }
    }

    /// Bytes free for this node's data directory above the reserve.
    pub fn free_bytes(&self) -> u64 {
        (self.inner.free_bytes)()
    }

    /// Bytes free above the reserve, as far as samples need them: of this node, which would write them first, and of the
    /// fullest voter that a majority cannot do without. A voter that has not said counts as having room.
    pub fn room(&self) -> u64 {
        let own = (self.inner.free_bytes)();
        let metrics = self.inner.raft.metrics();
        let sets = metrics.borrow_watched().membership_config.membership().get_joint_config().clone();
        let peers = self.inner.peers.subscribe();
        let peers = peers.borrow();
        let free = |voter: &u64| match NodeId(*voter) {
            node if node == self.inner.node => own,
            node => peers.get(&node).and_then(|peer| peer.free_bytes).unwrap_or(u64::MAX),
        };
        let majorities = sets.iter().map(|voters| room_of_majority(voters.iter().map(free).collect()));
        majorities.fold(own, u64::min)
    }

    /// While this node leads: refuses samples on their way into the log, or lets them pass again.
    pub fn close_to_samples(&self, closed: bool) {
        self.inner.proposer.close_to_samples(closed);
    }

    /// Whether this node, if it leads, refuses samples.
    pub fn is_closed_to_samples(&self) -> bool {
        self.inner.proposer.is_closed_to_samples()
    }

    /// Proposes a command and waits until it is applied on the leader, for at most `patience`.
    pub async fn propose(&self, command: &Command, patience: Duration) -> Result<Applied, ProposeError> {
        self.propose_encoded(self.encoded(command)?, patience).await
    }

    /// Proposes encoded batches as one entry; see [`Replica::propose`].
    pub async fn append(
        &self,
        batches: &[EncodedBatch],
        patience: Duration,
    ) -> Result<Applied, ProposeError> {
        self.propose_encoded(wire::entry::encode_append(&self.stamp(), batches), patience).await
    }

    /// Proposes an encoded command.
    pub async fn propose_encoded(&self, command: Bytes, patience: Duration) -> Result<Applied, ProposeError> {
        let term = self.inner.leadership.borrow().as_ref().map(Leadership::term);
        match term {
            Some(term) => self.propose_at(term, command, patience).await,
            None => self.inner.forward.submit(command, patience).await?.answer().await,
        }
    }

    /// Proposes what only the leader of one reign may say, in that reign or not at all: it is never handed to another
    /// leader, and openraft refuses it in another term. When the reign is over, its outcome is not waited for.
    pub async fn propose_in(
        &self,
        leadership: &Leadership,
        command: &Command,
        patience: Duration,
    ) -> Result<Applied, ProposeError> {
        self.propose_within(leadership, self.encoded(command)?, patience).await
    }

    /// Proposes encoded batches as one entry, in the reign in which they were read; see [`Replica::propose_in`].
    pub async fn append_in(
        &self,
        leadership: &Leadership,
        batches: &[EncodedBatch],
        patience: Duration,
    ) -> Result<Applied, ProposeError> {
        self.place_in(leadership, batches, patience).await?.outcome().await
    }

    /// The same in two steps: when this returns, the entry has its place in the order of proposals.
    pub async fn place_in(
        &self,
        leadership: &Leadership,
        batches: &[EncodedBatch],
        patience: Duration,
    ) -> Result<Placed, ProposeError> {
        let bytes = wire::entry::encode_append(&self.stamp(), batches);
        self.place_within(leadership, bytes, patience).await
    }

    /// A command as it is proposed now. What closes schedules says how far they can have come by this moment: whoever asks
    /// again, for want of a leader or as the leader itself, would otherwise cut off what was missed meanwhile.
    fn encoded(&self, command: &Command) -> Result<Bytes, ProposeError> {
        let mut command = command.clone();
        if let Some(elapsed) = command.elapsed_at_most_mut() {
            *elapsed = self.inner.store.keeper().elapsed_at_most();
        }
        wire::entry::encode(&self.stamp(), &command).map_err(|error| ProposeError::Invalid(error.to_string()))
    }

    async fn propose_within(
        &self,
        leadership: &Leadership,
        command: Bytes,
        patience: Duration,
    ) -> Result<Applied, ProposeError> {
        self.place_within(leadership, command, patience).await?.outcome().await
    }

    async fn place_within(
        &self,
        leadership: &Leadership,
        command: Bytes,
        patience: Duration,
    ) -> Result<Placed, ProposeError> {
        let until = Instant::now() + patience;
        tokio::select! {
            biased;
            () = leadership.over() => Err(ProposeError::NotLeader { leader: self.status().leader }),
            placed = self.place(leadership.term(), command, until) => {
                placed.map(|pending| Placed { pending, leadership: leadership.clone(), until })
            }
        }
    }

    async fn propose_at(
        &self,
        term: Term,
        command: Bytes,
        patience: Duration,
    ) -> Result<Applied, ProposeError> {
        let until = Instant::now() + patience;
        let pending = self.place(term, command, until).await?;
        timeout_at(until, pending.answer()).await.unwrap_or(Err(ProposeError::Unknown))
    }

    async fn place(&self, term: Term, command: Bytes, until: Instant) -> Result<Pending, ProposeError> {
        let overloaded = ProposeError::Overloaded { retry_after: Duration::from_millis(100) };
        timeout_at(until, self.inner.proposer.propose(term, command)).await.unwrap_or(Err(overloaded))
    }

    /// What this node knows of the agreement.
    pub fn status(&self) -> Status {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let standing = match metrics.state {
            _ if metrics.running_state.is_err() => Standing::Stopped,
            _ if self.is_removed() => Standing::Removed,
            ServerState::Leader => Standing::Leader,
            ServerState::Follower => Standing::Follower,
            ServerState::Candidate => Standing::Candidate,
            ServerState::Learner => Standing::Learner,
            ServerState::Shutdown => Standing::Stopped,
        };
        let membership = metrics.membership_config.membership();
        let matched = metrics.replication.iter().flatten();
        Status {
            node: self.inner.node,
            term: Term(metrics.current_term),
            leader: metrics.current_leader.map(NodeId),
            standing,
            last: Position(metrics.last_log_index.unwrap_or(0)),
            committed: Position(metrics.local_committed.as_ref().map_or(0, |id| id.index())),
            applied: Position(metrics.last_applied.as_ref().map_or(0, |id| id.index())),
            voters: membership.get_joint_config().clone(),
            members: membership.nodes().map(|(id, member)| (NodeId(*id), member.clone())).collect(),
            holds_lease: self.inner.leadership.borrow().as_ref().is_some_and(Leadership::is_live),
            matched: matched
                .filter_map(|(id, at)| Some((NodeId(*id), Position(at.as_ref()?.index()))))
                .collect(),
        }
    }

    /// Asks Raft's core for a sign of life, and waits for it. `false`: it has ended.
    pub async fn core_answers(&self) -> bool {
        self.inner.raft.with_raft_state(|_| ()).await.is_ok()
    }

    /// Hands leadership to `wanted`, if that may lead now, or to the best, and says who reigns then. Stop and drain before:
    /// once the successor is found, leadership ends for the rest of this term; if nobody is, nothing has changed. After a
    /// failed transfer the members elect another. Whoever goes afterwards goes when the next reign has begun: its first
    /// entries may need this node's confirmation.
    pub async fn transfer_leadership(&self, wanted: Option<NodeId>) -> Result<NodeId, MembershipError> {
        let leadership = self.own_leadership()?;
        let to = tokio::select! {
            biased;
            // A later term of this node's own has no barrier yet.
            () = leadership.over() => return Err(MembershipError::NotLeader { leader: self.status().leader }),
            to = self.ready_successor(wanted) => to?,
        };
        tracing::info!(%to, "handing leadership over");
        self.give_up(&leadership);
        let stopped = |_| MembershipError::Refused("this node is stopping".to_owned());
        self.inner.raft.trigger().transfer_leader(to.0).await.map_err(stopped)?;
        let keeper = self.inner.store.keeper();
        let (mut applied, mut metrics) = (keeper.applied(), self.inner.raft.metrics());
        let moved = async {
            loop {
                applied.mark_unchanged();
                let reign = keeper.read(|state| state.reign().map(|reign| (reign.term, reign.node)));
                if let Some((term, leader)) = reign
                    && term > leadership.term()
                {
                    return Some(leader);
                }
                tokio::select! {
                    changed = applied.changed() => if changed.is_err() { return None },
                    // Only their end is news.
                    changed = metrics.changed() => if changed.is_err() { return None },
                }
            }
        };
        match timeout(MEMBERSHIP_PATIENCE, moved).await {
            Ok(Some(leader)) => {
                if leader != to {
                    tracing::warn!(%to, %leader, "leadership went elsewhere");
                }
                Ok(leader)
            }
            Ok(None) => Err(MembershipError::Refused("this node is stopping".to_owned())),
            Err(_) => Err(MembershipError::Unknown(MEMBERSHIP_PATIENCE)),
        }
    }

    /// Gives leadership up for the rest of its term, whether or not anybody takes it over. Every operation must have ended,
    /// or the lease have run out: this node may vote for another at once.
    pub fn give_up(&self, leadership: &Leadership) {
        self.inner.cell.raise_barrier(leadership.term());
        self.inner.leadership.send_if_modified(|held| held.take_if(|held| *held == *leadership).is_some());
    }

    /// Ends Raft on this node.
    pub async fn shut_down(&self) {
        self.inner.spawner.token().cancel();
        match timeout(SHUTDOWN_PATIENCE, self.inner.raft.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "raft did not end in order"),
            // It waits for a disk that does not answer, and will end with the process.
            Err(_) => tracing::warn!("raft had not ended after {SHUTDOWN_PATIENCE:?}"),
        }
    }
}

/// The free space of the fullest voter that a majority needs: of three the second-worst decides.
fn room_of_majority(mut free: Vec<u64>) -> u64 {
    free.sort_unstable_by(|left, right| right.cmp(left));
    free.get(free.len() / 2).copied().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::room_of_majority;

    #[test]
    fn a_majority_must_have_room() {
        assert_eq!(room_of_majority(vec![10, 0, 30]), 10, "the second-worst of three decides");
        assert_eq!(room_of_majority(vec![10, 0, 0]), 0);
        assert_eq!(room_of_majority(vec![0, 7]), 0, "two need both");
        assert_eq!(room_of_majority(vec![9]), 9);
        assert_eq!(room_of_majority(vec![5, 4, 3, 2, 1]), 3);
    }
}
