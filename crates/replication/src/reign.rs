//! Reigns: the lease is kept, `Lead` is proposed, leadership is handed out and taken back.
//!
//! - A reign begins only when the `Lead` of its term is applied: applying it decides everything proposed before it.
//! - Leadership is taken back as soon as openraft says that this node does not lead; its lease ends by itself before.
//! - If the Raft core ends, its metrics say so or their channel closes, and that ends the node.

use std::time::Duration;

use model::command::Command;
use model::ids::{ClusterId, Term};
use model::{Cause, Lineage, Member, NodeId};
use openraft::async_runtime::WatchReceiver as _;
use openraft::{AsyncRuntime, ServerState};
use rand::Rng;
use runtime::random::Random;
use store::engine::Engine;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::lease::Leadership;
use crate::replica::Replica;
use crate::type_config::{CommittedLeaderId, Payload, Reply, TypeConfig};

/// How long the lease may be lost before a leader stops its heartbeats, so that a link that only sends does not keep
/// the others from electing another.
const MUTE_AFTER: Duration = Duration::from_secs(2);

/// How often a leader that only hands over looks whether somebody has all it has.
const PASS_ON_EVERY: Duration = Duration::from_millis(10);

impl<E: Engine, RT: AsyncRuntime> Replica<E, RT> {
    /// Copies what openraft knows of leadership into the cell.
    pub(crate) async fn keep_lease(self, stop: CancellationToken) -> Result<(), String> {
        let inner = &self.inner;
        let mut metrics = inner.raft.metrics();
        let mut muted_until: Option<Instant> = None;
        let mut leading_since: Option<(Term, Instant)> = None;
        loop {
            let (leads, acknowledged) = {
                let seen = metrics.borrow_and_update();
                if let Err(fatal) = &seen.running_state {
                    return if stop.is_cancelled() {
                        Ok(())
                    } else {
                        Err(format!("raft has ended: {fatal}"))
                    };
                }
                let leads = (seen.state == ServerState::Leader).then_some(Term(seen.current_term));
                let memberships = [&seen.membership_config, &seen.committed_membership_config];
                // A change that is not committed may still be undone, and with it that nobody else votes.
                let alone = memberships.iter().all(|known| is_alone(known.membership(), inner.node));
                let acknowledged = seen.last_quorum_acked.as_ref().map(|at| **at).map(to_instant::<RT>);
                let shortest = self.shortest_lease(seen.membership_config.membership());
                let acknowledged = if alone { Some(Instant::now()) } else { acknowledged };
                (leads, acknowledged.map(|at| counted_from(at, inner.times.lease, shortest)))
            };
            inner.cell.update(leads, acknowledged);
            let now = Instant::now();
            leading_since = leads.map(|term| match leading_since {
                Some((known, since)) if known == term => (known, since),
                _ => (term, now),
            });
            let lost = is_mute(acknowledged, leading_since, now, inner.times.lease);
            match muted_until {
                None if lost => {
                    warn!("no majority has answered for {MUTE_AFTER:?}: heartbeats stop for a while");
                    inner.raft.runtime_config().heartbeat(false);
                    muted_until = Some(now + inner.times.lease * 2);
                }
                Some(until) if leads.is_none() || now >= until => {
                    inner.raft.runtime_config().heartbeat(true);
                    muted_until = None;
                }
                _ => {}
            }
            tokio::select! {
                changed = metrics.changed() => {
                    if changed.is_err() {
                        return if stop.is_cancelled() { Ok(()) } else { Err("raft has ended".to_owned()) };
                    }
                }
                // A single voter gets no acknowledgements; and muting must end although nothing changes.
                () = sleep(inner.times.heartbeat) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// The shortest lease that any voter promises: what it said of itself last and what the membership says, because it
    /// may be about to start again with either.
    fn shortest_lease(&self, membership: &openraft::Membership<u64, Member>) -> Duration {
        let own = self.inner.times.lease;
        let peers = self.inner.peers.subscribe();
        let peers = peers.borrow();
        let voters = membership.voter_ids().filter(|id| *id != self.inner.node.0);
        let leases = voters.flat_map(|id| {
            let recorded = membership.get_node(&id).map(|member| member.lease);
            let said = peers.get(&NodeId(id)).and_then(|peer| Some(peer.identity.as_ref()?.lease));
            [recorded, said]
        });
        leases.flatten().filter(|lease| !lease.is_zero()).fold(own, Duration::min)
    }

    /// Begins this node's reigns: proposes `Lead`, waits for it, hands out leadership; takes it back at the end.
    pub(crate) async fn reign(
        self,
        stop: CancellationToken,
        cluster: ClusterId,
        mut random: Random,
    ) -> Result<(), String> {
        let inner = &self.inner;
        let mut metrics = inner.raft.metrics();
        loop {
            let leads = {
                let seen = metrics.borrow_and_update();
                (seen.state == ServerState::Leader).then_some(Term(seen.current_term))
            };
            let held = inner.leadership.borrow().as_ref().map(Leadership::term);
            if held.is_some() && held != leads {
                info!(term = %held.unwrap_or_default(), "leadership has ended");
                inner.leadership.send_replace(None);
            }
            if let Some(term) = leads
                && held != leads
                && !inner.cell.is_barred(term)
            {
                tokio::select! {
                    () = self.begin_reign(term, cluster, &mut random) => {}
                    () = stop.cancelled() => return Ok(()),
                }
            }
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return Ok(()) },
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    async fn begin_reign(&self, term: Term, cluster: ClusterId, random: &mut Random) {
        let inner = &self.inner;
        if self.is_drained() {
            return self.pass_on(term).await;
        }
        let handed_over = inner.contact.was_handed_over(inner.times.lease);
        let cause = if handed_over { Cause::Switchover } else { Cause::Failover };
        let lead = Command::Lead { node: inner.node, name: inner.name.clone(), cause };
        if !self.insist(term, &lead).await {
            return;
        }
        if inner.store.keeper().read(|state| state.cluster.is_none()) {
            let lineage = Lineage::from_random(random.random());
            let found = Command::Found { cluster, name: inner.cluster_name.clone(), lineage };
            if !self.insist(term, &found).await {
                return;
            }
        }
        info!(%term, %cause, "leading");
        inner.leadership.send_replace(Some(inner.cell.leadership(term)));
    }

    /// A drained node that had to lead, because it alone had what the others lacked: its log reaches them by itself, and
    /// one of them takes over. No leadership is handed out and no `Lead` proposed meanwhile.
    async fn pass_on(&self, term: Term) {
        let inner = &self.inner;
        inner.cell.raise_barrier(term);
        info!(%term, "leading only to hand over, because this node is drained");
        let mut asked = false;
        while self.still_leads(term) {
            let last = self.status().last;
            let mut candidates = self.candidates();
            candidates.retain(|candidate| candidate.confirmed >= last);
            if !asked && let Ok(to) = crate::successor::choose(&candidates, None) {
                info!(%to, "handing leadership over");
                // Once: a failed transfer ends this term's leadership for good, and the others elect.
                asked = inner.raft.trigger().transfer_leader(to.0).await.is_ok();
            }
            sleep(PASS_ON_EVERY).await;
        }
    }

    fn still_leads(&self, term: Term) -> bool {
        let metrics = self.inner.raft.metrics();
        let seen = metrics.borrow_watched();
        seen.state == ServerState::Leader && seen.current_term == term.0
    }

    /// Proposes a command that must come first, until it is applied or the term is over.
    async fn insist(&self, term: Term, command: &Command) -> bool {
        let inner = &self.inner;
        let bytes = match wire::entry::encode(&self.stamp(), command) {
            Ok(bytes) => bytes,
            Err(error) => {
                warn!(%error, "a command cannot be encoded");
                return false;
            }
        };
        loop {
            let (reply, outcome) = oneshot::channel();
            let write = inner.raft.write(Payload(bytes.clone()));
            let write = write.with_leader(CommittedLeaderId::new(term.0)).responder(Reply(reply));
            if write.await.is_err() {
                return false;
            }
            if matches!(outcome.await, Ok(Ok(_))) {
                return true;
            }
            if !self.still_leads(term) {
                return false;
            }
            // No majority has answered yet: it is about to, or this node will cease to lead.
            sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Whether `node` is the only voter.
fn is_alone(membership: &openraft::Membership<u64, Member>, node: NodeId) -> bool {
    let mut voters = membership.voter_ids();
    voters.next() == Some(node.0) && voters.next().is_none()
}

/// When an acknowledgement must be taken to have been sent, so that a lease of our own length, counted from there, ends
/// no later than the shortest one that a voter has promised.
fn counted_from(acknowledged: Instant, own: Duration, shortest: Duration) -> Instant {
    let shift = own.saturating_sub(shortest);
    // A clock that has not run that long cannot be shifted: then nothing is promised at all.
    acknowledged.checked_sub(shift).unwrap_or(acknowledged)
}

/// Whether no majority has answered for so long that a leader must fall silent. One that was never answered counts from
/// when it began to lead.
fn is_mute(
    acknowledged: Option<Instant>,
    leading_since: Option<(Term, Instant)>,
    now: Instant,
    lease: Duration,
) -> bool {
    let Some((_, since)) = leading_since else { return false };
    // Acknowledged under an earlier reign says nothing of this one.
    let heard = acknowledged.map_or(since, |at| at.max(since));
    now.duration_since(heard) > lease + MUTE_AFTER
}

fn to_instant<RT: AsyncRuntime>(at: openraft::alias::InstantOf<TypeConfig<RT>>) -> Instant {
    // Every runtime we use has tokio's clock; its age is what counts.
    use openraft::Instant as _;
    Instant::now() - at.elapsed()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::lease::{LeaseCell, LeaseTimes};

    #[tokio::test(start_paused = true)]
    async fn a_voter_with_a_shorter_lease_shortens_the_leaders() {
        tokio::time::advance(Duration::from_secs(60)).await;
        let (own, short) = (LeaseTimes::LAN, LeaseTimes::LAN_FAST);
        let sent = Instant::now();
        let cell = LeaseCell::new(own);
        cell.update(Some(Term(3)), Some(counted_from(sent, own.lease, short.lease)));
        let deadline = cell.leadership(Term(3)).deadline().expect("it leads");
        assert!(
            deadline < sent + short.lease,
            "the voter may help to elect another from {:?} on",
            short.lease
        );
        assert_eq!(counted_from(sent, own.lease, own.lease), sent);
    }

    #[test]
    fn a_learner_does_not_keep_a_voter_from_being_alone() {
        let nodes: BTreeMap<u64, Member> = [(1, Member::default()), (2, Member::default())].into();
        let membership = |voters: Vec<std::collections::BTreeSet<u64>>| {
            openraft::Membership::new(voters, nodes.clone()).expect("each voter is a member")
        };
        assert!(is_alone(&membership(vec![[1].into()]), NodeId(1)));
        assert!(!is_alone(&membership(vec![[1].into(), [1, 2].into()]), NodeId(1)));
        assert!(!is_alone(&membership(vec![[2].into()]), NodeId(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_no_majority_ever_answered_falls_silent() {
        let lease = Duration::from_millis(500);
        let since = Instant::now();
        let leading = Some((Term(3), since));
        let late = since + lease + MUTE_AFTER + Duration::from_millis(1);
        assert!(!is_mute(None, leading, since + lease, lease), "it has only begun");
        assert!(is_mute(None, leading, late, lease));
        assert!(!is_mute(Some(since + lease), leading, late, lease), "a majority has answered since");
        assert!(!is_mute(None, None, late, lease), "who does not lead has nothing to keep silent about");
    }
}
