//! Elections: who campaigns, and when.
//!
//! - openraft's own timer is only the backstop. Each eligible follower campaigns (with a pre-vote) at
//!   `last contact + L + 2 ms + rank · 60 ms`, so that the best candidate goes first and nobody waits for a random time.
//! - Who has given its vote to another waits as if it had heard from a leader: a leader that hands over is silent about
//!   itself, and would otherwise take the turn of its own successor.
//! - After a start, a voter that may have promised a lease neither votes nor campaigns until that lease is over
//!   (quarantine), be it a longer one than it grants now. Appends are acknowledged meanwhile.
//! - A drained node campaigns in two cases only. When it has just refused a candidate whose log is shorter than its own:
//!   it leads then to hand over ([`crate::reign`]), because nobody else could win. And as the last resort, when nobody has
//!   led for [`LAST_RESORT`] leases and nobody who may lead answers: without a leader it could not even be resumed.
//! - A leader that has given up and is not taken over from within as many leases, although another voter answers, stands in
//!   the way: it is silent for the rest of its term, and openraft lets no leader stand for election. Its process ends; as a
//!   follower it may stand again.
//! - Who stood in vain stands again after a random time: candidates that were cut off from each other would otherwise go
//!   on standing at the same moments when they are not any more.
//! - Policy is two pure functions, [`rank`] and [`turn`]; the loop only looks at the clock.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use model::{Member, NodeId, Role, StoreId, Term};
use openraft::async_runtime::WatchReceiver as _;
use openraft::{AsyncRuntime, ServerState};
use rand::Rng as _;
use runtime::random::Random;
use store::engine::Engine;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::lease::LeaseTimes;
use crate::replica::Replica;

/// From one candidate's turn to the next, and from one attempt to the next.
const TURN: Duration = Duration::from_millis(60);
/// For how many leases nobody has led when a drained node may: whoever was only being restarted is back by then.
const LAST_RESORT: u32 = 10;
/// What is added to L, so that the voters' own leases have run out for sure.
const AFTER_LEASE: Duration = Duration::from_millis(2);

impl<E: Engine, RT: AsyncRuntime> Replica<E, RT> {
    /// Campaigns in this node's turn.
    pub(crate) async fn campaign(self, stop: CancellationToken, mut random: Random) -> Result<(), String> {
        let inner = &self.inner;
        let mut next = inner.contact.quarantine_ends();
        let granted = inner.store.granted_lease().map_err(|error| error.to_string())?;
        let mut longer_lease = granted.filter(|granted| *granted > inner.times.lease);
        let mut voted = Voted::default();
        // When somebody last answered whom this node must not forestall.
        let mut answered = None;
        // Since when it has led nobody, and let nobody lead.
        let mut spent_since = None;
        // How often it has stood in vain since somebody led.
        let mut in_vain = 0;
        loop {
            tokio::select! {
                () = sleep_until(next) => {}
                () = stop.cancelled() => return Ok(()),
            }
            let now = Instant::now();
            next = now + TURN;
            let part = self.own_part();
            // Looked at after the part, so that no vote given in between is overlooked.
            let voted_at = voted.look(self.vote(), now);
            if let Some(longer) = longer_lease.take() {
                debug!(?longer, lease = ?inner.times.lease, "no lease of an earlier process is left");
                inner.store.grant_lease(inner.times.lease).await.map_err(|error| error.to_string())?;
            }
            inner.raft.runtime_config().elect(self.may_lead());
            // Whatever its part is: once it follows, it was taken over from.
            spent_since = self.is_spent().then(|| spent_since.unwrap_or(now));
            let Some(part) = part else {
                if spent_since.is_some_and(|since| now >= since + inner.times.lease * LAST_RESORT) {
                    if stop.run_until_cancelled(self.any_voter_answers()).await == Some(true) {
                        return Err("leadership was given up and nobody has taken it over".to_owned());
                    }
                    next = Instant::now() + inner.times.lease;
                }
                continue;
            };
            let silent_since = voted_at.max(Some(inner.contact.last_leader())).max(answered);
            let my_turn = part.turn(silent_since.unwrap_or(now), &inner.times);
            if my_turn > now {
                next = my_turn.min(now + inner.times.lease);
                in_vain = 0;
                continue;
            }
            if let Part::LastResort { before, .. } = &part {
                let answers = tokio::select! {
                    answers = self.any_answers(before) => answers,
                    () = stop.cancelled() => return Ok(()),
                };
                if answers {
                    answered = Some(Instant::now());
                    continue;
                }
                debug!("nobody leads and nobody answers who may: standing for election although drained");
            }
            if !self.stand().await {
                return Err("raft has ended".to_owned());
            }
            next = Instant::now() + until_again(in_vain, &mut random);
            in_vain += 1;
        }
    }

    /// Whether this node still leads by the term, and has given its leadership up.
    fn is_spent(&self) -> bool {
        let metrics = self.inner.raft.metrics();
        let seen = metrics.borrow_watched();
        seen.state == ServerState::Leader && self.inner.cell.is_barred(Term(seen.current_term))
    }

    async fn any_voter_answers(&self) -> bool {
        let status = self.status();
        let others = status.members.iter().filter(|(node, _)| **node != status.node && status.votes(**node));
        let others: Vec<_> = others.map(|(_, member)| (member.address.clone(), member.store)).collect();
        self.any_answers(&others).await
    }

    /// Whether one of these members answers, with the data directory that it votes with.
    async fn any_answers(&self, members: &[(String, StoreId)]) -> bool {
        let ask = async |(address, store): &(String, StoreId)| {
            let answer = self.inner.network.ask(address).await;
            answer.is_ok_and(|peer| peer.store == *store)
        };
        join_all(members.iter().map(ask)).await.contains(&true)
    }

    /// Campaigns now, unless this node's own lease or that of most others runs. `false` if Raft has ended.
    pub(crate) async fn stand(&self) -> bool {
        // With a pre-vote: without one a node would bypass the lease that it has granted.
        self.inner.raft.trigger().elect(!runtime::mutant("election-bypasses-the-lease")).await.is_ok()
    }

    /// The term this node is in, and whether it has voted there for another that does not lead yet.
    fn vote(&self) -> (Term, bool) {
        let metrics = self.inner.raft.metrics();
        let seen = metrics.borrow_watched();
        let is_own = seen.vote.leader_id.voted_for == self.inner.node.0;
        (Term(seen.current_term), !is_own && !seen.vote.committed)
    }

    fn may_lead(&self) -> bool {
        !self.is_removed() && !self.is_drained()
    }

    /// Whether an operator keeps this node from leading.
    pub(crate) fn is_drained(&self) -> bool {
        self.inner.store.keeper().read(|state| state.drained.contains_key(&self.inner.node))
    }

    /// How this node takes part in an election; not at all if it leads, only learns, is a witness, or is drained and not
    /// needed.
    fn own_part(&self) -> Option<Part> {
        let inner = &self.inner;
        if self.is_removed() {
            return None;
        }
        let (voters, leader) = {
            let metrics = inner.raft.metrics();
            let seen = metrics.borrow_watched();
            if seen.state == ServerState::Leader {
                return None;
            }
            let membership = seen.membership_config.membership();
            let voters: Vec<(NodeId, Member)> = membership
                .voter_ids()
                .filter_map(|id| Some((NodeId(id), membership.get_node(&id)?.clone())))
                .collect();
            (voters, seen.current_leader.map(NodeId))
        };
        let must_pass_on = inner.contact.has_refused_shorter(inner.times.lease * 2);
        inner.store.keeper().read(|state| {
            let plant = state.catalog().map(|catalog| Arc::clone(catalog.plant()));
            let preference = |member: &Member| {
                let plant = plant.as_ref()?;
                plant.cluster.preferred.iter().position(|name| *name == member.name)
            };
            let gateways = voters.iter().filter(|(_, member)| member.role == Role::Gateway);
            let (drained, free): (Vec<_>, Vec<_>) =
                gateways.partition(|(node, _)| state.drained.contains_key(node));
            let ranked = |members: &[&(NodeId, Member)]| {
                let members = members.iter().map(|(node, member)| (*node, preference(member)));
                rank(inner.node, members, leader)
            };
            if !state.drained.contains_key(&inner.node) {
                return ranked(&free).map(|rank| Part::Candidate { rank });
            }
            let rank = ranked(&drained)? + u32::try_from(free.len()).ok()?;
            if must_pass_on {
                return Some(Part::Candidate { rank });
            }
            let before = free.iter().map(|(_, member)| (member.address.clone(), member.store));
            Some(Part::LastResort { rank, before: before.collect() })
        })
    }
}

/// How long a candidate that stood in vain waits before it stands again. Turns keep candidates apart the first time; who
/// could not be heard then, all of them, would go on standing at one time, and each votes for itself.
fn until_again(in_vain: u32, random: &mut Random) -> Duration {
    TURN + TURN.mul_f64(random.random_range(0.0..=f64::from(in_vain.min(4) + 1)))
}

/// How a node takes part in an election.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// In its turn.
    Candidate {
        /// Its place among those who may campaign.
        rank: u32,
    },
    /// It is drained: only if nobody has led for long, and none of the others answers.
    LastResort {
        /// Its place behind all who are not drained.
        rank: u32,
        /// Where those are reached, and their data directories.
        before: Vec<(String, StoreId)>,
    },
}

impl Part {
    /// When its turn comes, if nobody has led since `silent_since`.
    fn turn(&self, silent_since: Instant, times: &LeaseTimes) -> Instant {
        match self {
            Self::Candidate { rank } => turn(silent_since, *rank, times),
            Self::LastResort { rank, .. } => {
                turn(silent_since + times.lease * (LAST_RESORT - 1), *rank, times)
            }
        }
    }
}

/// When this node was last seen to have voted for another.
#[derive(Debug, Default)]
struct Voted {
    term: Option<Term>,
    at: Option<Instant>,
}

impl Voted {
    /// Takes a look at the vote; a term that was there from the beginning was not voted in by this process.
    fn look(&mut self, (term, for_another): (Term, bool), now: Instant) -> Option<Instant> {
        let is_new = self.term.is_some_and(|known| known < term);
        self.term = Some(term);
        if is_new && for_another {
            self.at = Some(now);
        }
        self.at
    }
}

/// The place of `me` among those who may campaign: preferred nodes first, in order, then by number. `None` if it may
/// not campaign at all.
fn rank(
    me: NodeId,
    candidates: impl IntoIterator<Item = (NodeId, Option<usize>)>,
    gone: Option<NodeId>,
) -> Option<u32> {
    let mut order: Vec<(usize, NodeId)> = candidates
        .into_iter()
        .filter(|(node, _)| Some(*node) != gone)
        .map(|(node, preference)| (preference.unwrap_or(usize::MAX), node))
        .collect();
    order.sort_unstable();
    order.iter().position(|(_, node)| *node == me).and_then(|place| u32::try_from(place).ok())
}

/// When a node of that rank campaigns, if nobody has led since `contact`.
fn turn(contact: Instant, rank: u32, times: &LeaseTimes) -> Instant {
    contact + times.lease + AFTER_LEASE + TURN * rank
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: [(NodeId, Option<usize>); 3] =
        [(NodeId(1), None), (NodeId(2), Some(0)), (NodeId(3), Some(1))];

    #[test]
    fn preferred_nodes_come_first() {
        assert_eq!(rank(NodeId(2), THREE, None), Some(0));
        assert_eq!(rank(NodeId(3), THREE, None), Some(1));
        assert_eq!(rank(NodeId(1), THREE, None), Some(2));
    }

    #[test]
    fn the_turn_of_the_leader_that_is_gone_is_not_waited_for() {
        assert_eq!(rank(NodeId(3), THREE, Some(NodeId(2))), Some(0));
    }

    #[test]
    fn who_is_no_candidate_has_no_turn() {
        assert_eq!(rank(NodeId(4), THREE, None), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_voted_for_another_waits_for_it() {
        let mut voted = Voted::default();
        let start = Instant::now();
        assert_eq!(voted.look((Term(4), true), start), None, "before this process");
        let later = start + TURN;
        assert_eq!(voted.look((Term(5), false), later), None, "its own candidacy");
        assert_eq!(voted.look((Term(6), true), later), Some(later));
        assert_eq!(voted.look((Term(6), true), later + TURN), Some(later), "once for each vote");
        assert_eq!(voted.look((Term(6), false), later + TURN), Some(later), "it leads now");
        assert!(turn(later, 0, &LeaseTimes::LAN) > later + LeaseTimes::LAN.lease);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drained_node_waits_until_whoever_was_only_restarted_is_back() {
        let (silent, times) = (Instant::now(), LeaseTimes::LAN);
        let last = Part::LastResort { rank: 1, before: Vec::new() }.turn(silent, &times);
        assert!(last > silent + times.lease * LAST_RESORT);
        assert_eq!(last - times.lease * (LAST_RESORT - 1), Part::Candidate { rank: 1 }.turn(silent, &times));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_turn_comes_after_the_lease() {
        let contact = Instant::now();
        assert!(turn(contact, 0, &LeaseTimes::LAN) > contact + LeaseTimes::LAN.lease);
        assert_eq!(turn(contact, 2, &LeaseTimes::LAN) - turn(contact, 1, &LeaseTimes::LAN), TURN);
    }
}
