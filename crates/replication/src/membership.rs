//! Changes of membership: add, promote, replace, remove, and finishing what a dead leader began.
//!
//! - One change at a time, by the leader alone. A number is never given twice: the ledger remembers every number that was
//!   ever given, and a change that was not committed has told nobody its number.
//! - A node becomes a voter only when it is caught up, and no change is begun that the live nodes could not commit.
//! - A leader never removes itself: it hands over first, because openraft's own step-down passes by the barrier. One that a
//!   dead leader had begun to remove ([`Status::is_leaving`]) leaves it to the next to finish that.
//! - No change is begun before the last one is finished: what comes of both together nobody has asked for.
//! - [`check_removal`] and [`is_caught_up`] are pure functions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::{Member, NodeId};
use openraft::async_runtime::WatchReceiver as _;
use openraft::{AsyncRuntime, ChangeMembers, ServerState};
use store::engine::Engine;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::founding::member_of;
use crate::joiners::Joiner;
use crate::lease::Leadership;
use crate::network::{AskError, PeerStanding, Refusal};
use crate::replica::{Replica, Status};
use crate::successor::NoSuccessor;
use crate::type_config::TypeConfig;

/// How long a change of membership or a transfer may take.
pub const MEMBERSHIP_PATIENCE: Duration = Duration::from_secs(10);
/// How often a leader looks whether a change was left unfinished, and a silent node whether it was removed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A node that has not heard from a leader for this many leases asks whether it still belongs.
const SILENT_LEASES: u32 = 8;
/// Entries that a learner may lack when it is made a voter.
const MAY_LACK_ENTRIES: u64 = 256;
/// Their bytes.
const MAY_LACK_BYTES: u64 = 8 << 20;
/// Bytes of entries from which the mean size of the others is estimated.
const SAMPLE_BYTES: usize = 1 << 20;

/// A node was added, or had been before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// Its number.
    pub node: NodeId,
    /// It was a member already, with the same data directory.
    pub already: bool,
}

/// How far a member lacks the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// Entries that it has not confirmed.
    pub entries: u64,
    /// Their bytes, estimated from the next of them.
    pub bytes: u64,
}

/// Whether a member may become a voter without holding the others up.
fn is_caught_up(lag: Lag) -> bool {
    lag.entries <= MAY_LACK_ENTRIES && lag.bytes <= MAY_LACK_BYTES
}

/// What is known of the voters when one of them is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voters {
    /// How many there are.
    pub all: usize,
    /// How many of them answer, this leader included.
    pub live: usize,
    /// Whether the one that goes answers.
    pub goes_live: bool,
}

/// Why a voter does not go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemovalRefused {
    /// Nothing would be left.
    #[error("it is the only voter: there is nothing without it")]
    Last,
    /// The remaining voters that answer would be no majority: the change could never be committed.
    #[error(
        "of the {left} voters that would be left only {live} answer, which is no majority: bring one back, or remove one that \
         does not answer first"
    )]
    NoQuorum {
        /// Voters that would be left.
        left: usize,
        /// How many of these answer.
        live: usize,
    },
    /// It can be done; afterwards none may fail although one may now.
    #[error(
        "afterwards {left} voters are left and none of them may fail any more; add another one first, or say --force"
    )]
    AtStake {
        /// Voters that would be left.
        left: usize,
    },
}

/// Why the membership was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Ask the leader.
    #[error("not the leader (it is {leader:?})")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// It cannot be done now; the reason says what to do.
    #[error("{0}")]
    Refused(String),
    /// The node at the address given cannot become a member; the reason says what to do.
    #[error("{0}")]
    NotTaken(String),
    /// It cannot become a voter yet.
    #[error("{name} is not caught up: it lacks {} entries (about {} KiB)", .lag.entries, .lag.bytes >> 10)]
    Behind {
        /// The learner.
        name: String,
        /// What it lacks.
        lag: Lag,
    },
    /// A voter cannot go.
    #[error(transparent)]
    QuorumAtStake(RemovalRefused),
    /// Nobody can take leadership over.
    #[error(transparent)]
    NoSuccessor(#[from] NoSuccessor),
    /// Not known within the time given.
    #[error("no answer within {0:?}: the change may still happen, look at `member list`")]
    Unknown(Duration),
}

/// Whether a voter may go. `force` accepts that no further one may fail afterwards; nothing can force a change that the
/// live voters cannot commit.
pub fn check_removal(voters: Voters, force: bool) -> Result<(), RemovalRefused> {
    let spare = |live: usize, all: usize| live.checked_sub(all / 2 + 1);
    let left = voters.all.saturating_sub(1);
    if left == 0 {
        return Err(RemovalRefused::Last);
    }
    let live = voters.live.saturating_sub(usize::from(voters.goes_live));
    let Some(spare_after) = spare(live, left) else {
        return Err(RemovalRefused::NoQuorum { left, live });
    };
    let spare_before = spare(voters.live, voters.all).unwrap_or(0);
    if spare_after == 0 && spare_before > 0 && !force {
        return Err(RemovalRefused::AtStake { left });
    }
    Ok(())
}

/// The number of the next member: one that nobody ever had.
fn next_number(ever: impl IntoIterator<Item = u64>, now: impl IntoIterator<Item = u64>) -> NodeId {
    let ever = ever.into_iter().filter(|_| !runtime::mutant("number-is-given-twice"));
    NodeId(ever.chain(now).max().unwrap_or(0) + 1)
}

impl<E: Engine, RT: AsyncRuntime> Replica<E, RT> {
    /// Nodes that ask to belong.
    pub fn joiners(&self) -> Vec<Joiner> {
        self.inner.joiners.list()
    }

    /// Adds the node that answers at `address` and calls itself `name` as a learner: it receives the log and does not
    /// vote. `instead_of` is the member that it will replace, which alone may have the same name. A node that was added
    /// before keeps its number.
    pub async fn add(
        &self,
        name: &str,
        address: &str,
        instead_of: Option<NodeId>,
    ) -> Result<Added, MembershipError> {
        let _turn = self.take_turn_to_change().await?;
        let peer = self.inner.network.ask(address).await.map_err(|error| not_taken(address, &error))?;
        let status = self.status();
        if let Some((node, known)) = status.members.iter().find(|(_, known)| known.store == peer.store) {
            return match known.name == name {
                true => Ok(Added { node: *node, already: true }),
                false => Err(MembershipError::NotTaken(format!(
                    "the node at {address} is member {} already",
                    known.name
                ))),
            };
        }
        if peer.name != name {
            return Err(MembershipError::NotTaken(format!(
                "at {address} is {}, not {name}: compare its node file",
                peer.name
            )));
        }
        if !peer.cluster.is_unknown() || !peer.pristine {
            let (why, node) = (if peer.cluster == self.cluster() { "this" } else { "another" }, &peer.name);
            return Err(MembershipError::NotTaken(format!(
                "the data directory of {node} has belonged to {why} cluster already: give it an empty one and start it again"
            )));
        }
        let taken = status.members.iter().find(|(id, known)| known.name == name && instead_of != Some(**id));
        if taken.is_some() {
            return Err(MembershipError::NotTaken(format!(
                "there is a member {name} already, with another data directory: `holdfast member replace {name} \
                 {name}={address}`"
            )));
        }
        let ever = self.inner.store.keeper().read(|state| state.node_names.keys().map(|id| id.0).max());
        let node = next_number(ever, status.members.keys().map(|id| id.0));
        info!(%node, name, address, "adding a learner");
        let change = self.inner.raft.add_learner(node.0, member_of(&peer, address), false);
        self.change(change).await?;
        self.inner.joiners.forget(peer.store);
        Ok(Added { node, already: false })
    }

    /// How far a member lacks this leader's log.
    pub fn lag(&self, node: NodeId) -> Option<Lag> {
        let status = self.status();
        if status.leader != Some(status.node) || !status.members.contains_key(&node) {
            return None;
        }
        let ends = self.inner.store.log().ends();
        let floor = ends.floor.map_or(0, |floor| floor.index.0);
        let confirmed = status.matched.get(&node).map_or(0, |at| at.0);
        let entries = status.behind(node).unwrap_or(status.last.0);
        if entries == 0 {
            return Some(Lag { entries, bytes: 0 });
        }
        // What was purged is not sent: a checkpoint stands for it.
        let from = confirmed.max(floor) + 1;
        let sample = self.inner.store.log().read(from, status.last.0 + 1, SAMPLE_BYTES).unwrap_or_default();
        let bytes: u64 = sample.iter().map(|entry| entry.len() as u64).sum();
        let mean = bytes.checked_div(sample.len() as u64).unwrap_or(0);
        Some(Lag { entries, bytes: mean.saturating_mul(status.last.0.saturating_sub(from - 1)) })
    }

    /// Makes a learner a voter, if it is caught up.
    pub async fn promote(&self, node: NodeId) -> Result<(), MembershipError> {
        let _turn = self.take_turn_to_change().await?;
        let status = self.status();
        if status.votes(node) {
            return Ok(());
        }
        self.check_caught_up(node)?;
        let change = ChangeMembers::AddVoterIds([node.0].into());
        self.change(self.inner.raft.change_membership(change, true)).await
    }

    /// Makes `new` a voter and removes `old`, in one change. `old` must not be this node.
    pub async fn replace(&self, old: NodeId, new: NodeId) -> Result<(), MembershipError> {
        let _turn = self.take_turn_to_change().await?;
        let status = self.status();
        self.refuse_self(old)?;
        if !status.votes(new) {
            self.check_caught_up(new)?;
        }
        let Some(current) = status.voters.last() else { return Ok(()) };
        let mut voters = current.clone();
        voters.insert(new.0);
        if !voters.remove(&old.0) {
            let only_learner = ChangeMembers::RemoveNodes([old.0].into());
            let both = ChangeMembers::Batch(vec![ChangeMembers::AddVoterIds([new.0].into()), only_learner]);
            return self.change(self.inner.raft.change_membership(both, false)).await;
        }
        let change = ChangeMembers::ReplaceAllVoters(voters);
        self.change(self.inner.raft.change_membership(change, false)).await
    }

    /// Removes a member, voter or not. It must not be this node: hand leadership over first.
    pub async fn remove(&self, node: NodeId, force: bool) -> Result<(), MembershipError> {
        let _turn = self.take_turn_to_change().await?;
        self.refuse_self(node)?;
        let status = self.status();
        let is_voter = status.voters.iter().any(|voters| voters.contains(&node.0));
        if !is_voter {
            let change = ChangeMembers::RemoveNodes([node.0].into());
            return self.change(self.inner.raft.change_membership(change, false)).await;
        }
        check_removal(self.voters(&status, node), force).map_err(MembershipError::QuorumAtStake)?;
        let change = ChangeMembers::RemoveVoters([node.0].into());
        self.change(self.inner.raft.change_membership(change, false)).await
    }

    /// What is known of the voters, if `goes` is to go.
    pub fn voters(&self, status: &Status, goes: NodeId) -> Voters {
        let voters: BTreeSet<u64> = status.voters.iter().flatten().copied().collect();
        let live = |id: &&u64| self.is_live(status, NodeId(**id));
        Voters {
            all: voters.len(),
            live: voters.iter().filter(live).count(),
            goes_live: voters.contains(&goes.0) && self.is_live(status, goes),
        }
    }

    /// Whether a member has answered lately; this node always has.
    fn is_live(&self, status: &Status, node: NodeId) -> bool {
        let silence = self.inner.times.lease * 2;
        node == status.node
            || self.inner.peers.get(node).is_some_and(|peer| {
                let well = matches!(peer.standing, PeerStanding::Reachable | PeerStanding::Heard);
                well && peer.last_seen.is_some_and(|seen| seen.elapsed() < silence)
            })
    }

    /// Whether a member may become a voter now: it answers, has confirmed something, and lacks little.
    pub fn check_caught_up(&self, node: NodeId) -> Result<(), MembershipError> {
        let status = self.status();
        let name = status.members.get(&node).map_or_else(|| format!("#{node}"), |member| member.name.clone());
        if !self.is_live(&status, node) {
            return Err(MembershipError::Refused(format!(
                "{name} does not answer: start it, then try again"
            )));
        }
        match self.lag(node) {
            Some(lag) if is_caught_up(lag) && status.behind(node).is_some() => Ok(()),
            lag => Err(MembershipError::Behind { name, lag: lag.unwrap_or(Lag { entries: 0, bytes: 0 }) }),
        }
    }

    fn refuse_self(&self, node: NodeId) -> Result<(), MembershipError> {
        if node != self.inner.node {
            return Ok(());
        }
        Err(MembershipError::Refused(
            "a leader does not remove itself: hand leadership over first".to_owned(),
        ))
    }

    /// Only a leader whose `Lead` is applied changes the membership, one change at a time.
    pub(crate) async fn take_turn(&self) -> Result<SemaphorePermit<'_>, MembershipError> {
        let turn = timeout(MEMBERSHIP_PATIENCE, self.inner.changes.acquire()).await;
        let Ok(Ok(turn)) = turn else {
            let text = "another change of membership is being made: try again in a moment";
            return Err(MembershipError::Refused(text.to_owned()));
        };
        self.own_leadership().map(|_| turn)
    }

    /// The same, where no change is left that has begun and is not finished.
    async fn take_turn_to_change(&self) -> Result<SemaphorePermit<'_>, MembershipError> {
        let turn = self.take_turn().await?;
        if self.status().voters.len() > 1 {
            let text =
                "a change of membership that was begun before is not finished yet: try again in a moment";
            return Err(MembershipError::Refused(text.to_owned()));
        }
        Ok(turn)
    }

    /// This node's leadership, or who leads instead. Nothing is borrowed meanwhile: what says who leads borrows the same.
    pub(crate) fn own_leadership(&self) -> Result<Leadership, MembershipError> {
        let held = self.inner.leadership.borrow().clone();
        held.ok_or_else(|| MembershipError::NotLeader { leader: self.status().leader })
    }

    async fn change<T, X>(
        &self,
        change: impl Future<Output = Result<T, openraft::errors::RaftError<TypeConfig<RT>, X>>>,
    ) -> Result<(), MembershipError>
    where
        X: std::fmt::Display
            + std::fmt::Debug
            + openraft::TryAsRef<openraft::errors::ForwardToLeader<TypeConfig<RT>>>,
    {
        match timeout(MEMBERSHIP_PATIENCE, change).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(match error.forward_to_leader() {
                Some(forward) => MembershipError::NotLeader { leader: forward.leader_id.map(NodeId) },
                None => MembershipError::Refused(error.to_string()),
            }),
            Err(_) => Err(MembershipError::Unknown(MEMBERSHIP_PATIENCE)),
        }
    }

    /// Finishes a change that a dead leader left half done; notices that this node was removed.
    pub(crate) async fn mend_membership(self, stop: CancellationToken) -> Result<(), String> {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            self.finish_change().await;
            if !self.is_removed() && self.finds_itself_removed().await {
                self.inner.removed.send_replace(true);
                self.inner.raft.runtime_config().elect(false);
                error!(
                    node = %self.inner.node,
                    "HF-3110: this node was removed from the cluster and takes no part any more; stop it, or empty its data \
                     directory and add it again"
                );
            }
        }
    }

    /// Whether this node was removed from the cluster.
    pub fn is_removed(&self) -> bool {
        *self.inner.removed.borrow()
    }

    async fn finish_change(&self) {
        let Ok(_turn) = self.inner.changes.try_acquire() else { return };
        let is_left_joint = {
            let metrics = self.inner.raft.metrics();
            let seen = metrics.borrow_watched();
            let committed = &seen.committed_membership_config;
            self.inner.leadership.borrow().is_some()
                && seen.state == ServerState::Leader
                && committed.log_id() == seen.membership_config.log_id()
                && committed.membership().get_joint_config().len() > 1
        };
        // Without itself it would be no leader any more to openraft, and lead on: who takes over finishes it.
        if !is_left_joint || self.status().is_leaving() {
            return;
        }
        info!("finishing a change of membership that an earlier leader began");
        let flatten = ChangeMembers::AddVoterIds(BTreeSet::new());
        if let Err(error) = self.change(self.inner.raft.change_membership(flatten, false)).await {
            warn!(%error, "the change of membership is not finished yet");
        }
    }

    /// By its own ledger, or because a member says so.
    async fn finds_itself_removed(&self) -> bool {
        let me = self.inner.node;
        if self.inner.store.keeper().read(|state| state.was_removed(me)) {
            return true;
        }
        let quiet = self.inner.contact.last_leader() + self.inner.times.lease * SILENT_LEASES;
        if self.inner.leadership.borrow().is_some() || Instant::now() < quiet {
            return false;
        }
        let members: BTreeMap<NodeId, Member> = self.status().members;
        let others = members.iter().filter(|(node, _)| **node != me);
        let asked = others.map(|(_, member)| self.inner.network.ask(&member.address));
        let said = futures::future::join_all(asked).await;
        said.iter().any(|answer| matches!(answer, Err(AskError::Refused(Refusal::Removed))))
    }

    fn cluster(&self) -> model::ClusterId {
        self.inner.cluster
    }
}

fn not_taken(address: &str, error: &AskError) -> MembershipError {
    MembershipError::NotTaken(match error {
        AskError::Refused(Refusal::WrongCluster) => {
            format!(
                "the node at {address} is meant for another cluster: compare [cluster] name in its node file"
            )
        }
        AskError::Refused(Refusal::Amnesic) => {
            format!(
                "the node at {address} has lost data that it had acknowledged: stop it, empty its data directory and start it \
                 again"
            )
        }
        AskError::Refused(refusal) => {
            format!("the node at {address} and this cluster refuse each other: {refusal}")
        }
        AskError::Unreachable(reason) => format!("nobody answers there ({reason}): start the node first"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters(all: usize, live: usize, goes_live: bool) -> Voters {
        Voters { all, live, goes_live }
    }

    #[test]
    fn a_dead_voter_may_go_without_force() {
        assert_eq!(check_removal(voters(3, 2, false), false), Ok(()));
        assert_eq!(check_removal(voters(4, 3, false), false), Ok(()));
    }

    #[test]
    fn a_live_voter_goes_without_force_only_if_another_may_still_fail() {
        assert_eq!(check_removal(voters(3, 3, true), false), Err(RemovalRefused::AtStake { left: 2 }));
        assert_eq!(check_removal(voters(3, 3, true), true), Ok(()));
        assert_eq!(check_removal(voters(4, 4, true), false), Ok(()));
        assert_eq!(check_removal(voters(5, 5, true), false), Ok(()));
    }

    #[test]
    fn nothing_forces_a_change_that_the_live_voters_cannot_commit() {
        let refused = Err(RemovalRefused::NoQuorum { left: 2, live: 1 });
        assert_eq!(check_removal(voters(3, 2, true), true), refused);
        assert_eq!(check_removal(voters(1, 1, true), true), Err(RemovalRefused::Last));
    }

    #[test]
    fn a_number_is_never_given_twice() {
        assert_eq!(next_number([1, 2, 3, 9], [1, 2, 3]), NodeId(10), "9 was removed");
        assert_eq!(next_number([1, 2, 3], [1, 2, 3, 4]), NodeId(5), "4 is not committed yet");
    }

    #[test]
    fn few_large_entries_are_as_far_behind_as_many_small_ones() {
        assert!(is_caught_up(Lag { entries: 10, bytes: 1 << 20 }));
        assert!(!is_caught_up(Lag { entries: 10, bytes: 64 << 20 }));
        assert!(!is_caught_up(Lag { entries: 100_000, bytes: 1 << 20 }));
    }
}
