//! Reigns: the lease is kept, `Lead` is proposed, leadership is handed out and taken back.
//!
//! - One task follows openraft's metrics, which change with every entry, and tells the others of the little in them that
//!   concerns leadership. What only renews the lease it looks at a few times in each heartbeat.
//! - A reign begins only when the `Lead` of its term is applied: applying it decides everything proposed before it.
//! - Whether this node may reign is judged by a ledger that has caught up to the start of the term, not before: what was
//!   committed under the leader before may not be applied here yet.
//! - A drained node that was elected reigns only if nobody who may lead answers it.
//! - Leadership is taken back as soon as openraft says that this node does not lead; its lease ends by itself before.
//! - If the Raft core ends, its metrics say so or their channel closes, and that ends the node.

use std::time::Duration;

use model::command::Command;
use model::ids::Term;
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

use crate::lease::{Leadership, News, shortest};
use crate::muting::{MUTE_AFTER, Muting};
use crate::replica::Replica;
use crate::successor::{Candidate, choose};
use crate::type_config::{CommittedLeaderId, Payload, Reply, TypeConfig};

/// How often a leader that only hands over looks whether somebody has all it has.
const PASS_ON_EVERY: Duration = Duration::from_millis(10);
/// How many times in the time of a heartbeat the lease is renewed from what openraft knows, at most.
const RENEWALS: u32 = 8;
/// For how many leases nobody who may lead has answered a drained leader when it takes itself for the only one.
const ALONE_AFTER: u32 = 2;

impl<E: Engine, RT: AsyncRuntime> Replica<E, RT> {
    /// Copies what openraft knows of leadership to where it is needed.
    pub(crate) async fn follow_raft(self, stop: CancellationToken) -> Result<(), String> {
        let inner = &self.inner;
        let (mut metrics, mut server) = (inner.raft.metrics(), inner.raft.server_metrics());
        let mut muting = Muting::default();
        let (mut sends, mut looks_again) = (true, false);
        loop {
            // The smaller metrics are set before those that are read here: what changes in between must not count as seen.
            drop(server.borrow_and_update());
            let news = {
                let seen = metrics.borrow_and_update();
                if let Err(fatal) = &seen.running_state {
                    return if stop.is_cancelled() {
                        Ok(())
                    } else {
                        Err(format!("raft has ended: {fatal}"))
                    };
                }
                self.note_leader(&seen);
                self.news(&seen)
            };
            inner.cell.update(news);
            inner.leads.send_if_modified(|leads| std::mem::replace(leads, news.leads) != news.leads);
            let before = sends;
            sends = muting.sends(Instant::now(), news.leads, news.acknowledged, inner.times.lease);
            if sends != before {
                if !sends {
                    warn!("no majority has answered for {MUTE_AFTER:?}: heartbeats stop for a while");
                }
                inner.raft.runtime_config().heartbeat(sends);
            }
            let waits_for_majority = news.leads.is_some() && !inner.cell.is_live();
            let at_once = waits_for_majority || std::mem::take(&mut looks_again);
            let renewed = async {
                if !at_once {
                    sleep(inner.times.heartbeat / RENEWALS).await;
                }
                metrics.changed().await
            };
            tokio::select! {
                changed = renewed => {
                    if changed.is_err() {
                        return if stop.is_cancelled() { Ok(()) } else { Err("raft has ended".to_owned()) };
                    }
                }
                // Those that are read may be set a moment later. Its end is that of the others.
                Ok(()) = server.changed() => looks_again = true,
                // A single voter gets no acknowledgements; muting must end, and a suspension be noticed, although
                // nothing changes.
                () = sleep(inner.times.heartbeat) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    fn news(&self, seen: &openraft::RaftMetrics<TypeConfig<RT>>) -> News {
        let inner = &self.inner;
        let leads = (seen.state == ServerState::Leader).then_some(Term(seen.current_term));
        let membership = seen.membership_config.membership();
        let memberships = [&seen.membership_config, &seen.committed_membership_config];
        // A change that is not committed may still be undone, and with it that nobody else votes.
        let alone = memberships.iter().all(|known| is_alone(known.membership(), inner.node));
        let acknowledged = match seen.last_quorum_acked.as_ref() {
            _ if alone => Some(Instant::now()),
            at => at.map(|at| to_instant::<RT>(**at)),
        };
        let voters = membership.voter_ids().map(|id| {
            let configured = membership.get_node(&id).map(|member| member.lease).unwrap_or_default();
            let said = inner.peers.get(NodeId(id)).and_then(|peer| peer.identity).map(|peer| peer.lease);
            (configured, if id == inner.node.0 { Some(inner.times.lease) } else { said })
        });
        News { leads, acknowledged, lease: shortest(inner.times.lease, voters) }
    }

    /// Tells the forwarder of proposals who leads, if that is another node.
    fn note_leader(&self, seen: &openraft::RaftMetrics<TypeConfig<RT>>) {
        let membership = seen.membership_config.membership();
        let other = seen.current_leader.filter(|id| *id != self.inner.node.0);
        let current = other.and_then(|id| Some((NodeId(id), membership.get_node(&id)?.clone())));
        self.inner.leader.send_if_modified(|known| {
            let changed = *known != current;
            if changed && let Some((_, member)) = &current {
                info!(leader = member.name, "following");
            }
            *known = current;
            changed
        });
    }

    /// Begins this node's reigns: proposes `Lead`, waits for it, hands out leadership; takes it back at the end.
    pub(crate) async fn reign(self, stop: CancellationToken, mut random: Random) -> Result<(), String> {
        let inner = &self.inner;
        let mut follows = inner.leads.subscribe();
        loop {
            let leads = *follows.borrow_and_update();
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
                    () = self.begin_reign(term, &mut random) => {}
                    () = stop.cancelled() => return Ok(()),
                }
            }
            tokio::select! {
                changed = follows.changed() => if changed.is_err() { return Ok(()) },
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    async fn begin_reign(&self, term: Term, random: &mut Random) {
        let inner = &self.inner;
        if !self.catch_up(term).await {
            return;
        }
        if self.is_drained() {
            if !self.pass_on(term).await {
                return;
            }
            warn!(
                %term,
                "this node leads although it is drained, because nobody else can: it yields as soon as another may lead"
            );
        }
        let cause = if self.was_handed_over(term) { Cause::Switchover } else { Cause::Failover };
        let leaderless = self.leaderless(term);
        let lead = Command::Lead { node: inner.node, name: inner.name.clone(), cause, leaderless };
        if !runtime::mutant("reign-begins-without-lead") && !self.insist(term, &lead).await {
            return;
        }
        if inner.store.keeper().read(|state| state.cluster.is_none()) {
            let lineage = Lineage::from_random(random.random());
            let (cluster, name) = (inner.cluster, inner.cluster_name.clone());
            let found = Command::Found { cluster, name, lineage };
            if !self.insist(term, &found).await {
                return;
            }
        }
        info!(%term, %cause, "leading");
        inner.leadership.send_replace(Some(inner.cell.hand_out(term)));
    }

    /// Whether this node was elected for `term` because the leader before had ended in order and asked it to, however long
    /// that took. The term of a leader that only passed on what it alone had is that of no reign.
    fn was_handed_over(&self, term: Term) -> bool {
        let by = self.inner.contact.handed_over_by();
        let before = self.inner.store.keeper().read(|state| state.reign().map(|reign| reign.term));
        before == Some(by) && term.0 == by.0 + 1
    }

    /// For how long this node had known of nobody who leads, itself included, when it was elected for `term`; `None` if
    /// it has known of nobody since its start.
    fn leaderless(&self, term: Term) -> Option<Duration> {
        let known = self.inner.contact.heard().max(self.inner.cell.led_before(term));
        known.map(|at| at.elapsed())
    }

    /// Waits until an entry of `term` itself is applied, and with it everything that was committed before it. `false` if
    /// the term is over first.
    async fn catch_up(&self, term: Term) -> bool {
        let keeper = self.inner.store.keeper();
        let (mut applied, mut metrics) = (keeper.applied(), self.inner.raft.metrics());
        loop {
            applied.mark_unchanged();
            drop(metrics.borrow_and_update());
            if !self.still_leads(term) {
                return false;
            }
            if keeper.read(|state| state.applied.is_some_and(|last| last.term == term)) {
                return true;
            }
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return false },
                changed = metrics.changed() => if changed.is_err() { return false },
            }
        }
    }

    /// A drained node that had to lead, because it alone had what the others lacked or nobody else was there: its log
    /// reaches them by itself, and one of them takes over. No leadership is handed out and no `Lead` proposed meanwhile.
    /// `true` if nobody is there who could: then it reigns itself.
    async fn pass_on(&self, term: Term) -> bool {
        let inner = &self.inner;
        info!(%term, "leading only to hand over, because this node is drained");
        let alone_after = inner.times.lease * ALONE_AFTER;
        let mut alone_at = Instant::now() + alone_after;
        let mut asked = false;
        while self.still_leads(term) {
            let mut candidates = self.candidates();
            if candidates.iter().any(Candidate::is_there) {
                alone_at = Instant::now() + alone_after;
            } else if !asked && Instant::now() >= alone_at {
                return true;
            }
            let last = self.status().last;
            candidates.retain(|candidate| candidate.confirmed >= last);
            if !asked && let Ok(to) = choose(&candidates, None) {
                info!(%to, "handing leadership over");
                // Once: a failed transfer ends this term's leadership for good, and the others elect.
                inner.cell.raise_barrier(term);
                asked = true;
                if inner.raft.trigger().transfer_leader(to.0).await.is_err() {
                    return false;
                }
            }
            sleep(PASS_ON_EVERY).await;
        }
        false
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
            let write = write.with_leader(CommittedLeaderId::new(term.0)).responder(Reply::to(reply));
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

fn to_instant<RT: AsyncRuntime>(at: openraft::alias::InstantOf<TypeConfig<RT>>) -> Instant {
    // Every runtime we use has tokio's clock; its age is what counts.
    use openraft::Instant as _;
    Instant::now() - at.elapsed()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use openraft::{Membership, StoredMembership};

    use super::*;
    use crate::lease::LeaseTimes;
    use crate::trial::Cluster;

    fn membership(voters: Vec<BTreeSet<u64>>) -> Membership<u64, Member> {
        let nodes: BTreeMap<u64, Member> = [(1, Member::default()), (2, Member::default())].into();
        Membership::new(voters, nodes).expect("each voter is a member")
    }

    #[test]
    fn a_learner_does_not_keep_a_voter_from_being_alone() {
        assert!(is_alone(&membership(vec![[1].into()]), NodeId(1)));
        assert!(!is_alone(&membership(vec![[1].into(), [1, 2].into()]), NodeId(1)));
        assert!(!is_alone(&membership(vec![[2].into()]), NodeId(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_alone_before_that_is_committed() {
        let cluster = Cluster::found([LeaseTimes::LAN]).await;
        let replica = cluster.replica(1);
        let mut seen = replica.inner.raft.metrics().borrow_watched().clone();
        seen.last_quorum_acked = None;
        assert!(replica.news(&seen).acknowledged.is_some(), "there is nobody to ask");
        let before = membership(vec![[1, 2].into()]);
        seen.committed_membership_config = Arc::new(StoredMembership::new(None, before));
        assert_eq!(replica.news(&seen).acknowledged, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_begins_a_reign_is_proposed_in_that_term_or_not_at_all() {
        let cluster = Cluster::found([LeaseTimes::LAN]).await;
        let replica = cluster.replica(1);
        let before = replica.store().log().ends().last;
        let earlier = Term(replica.status().term.0 - 1);
        let (node, name) = (replica.node(), replica.name().to_owned());
        let lead = Command::Lead { node, name, cause: Cause::Failover, leaderless: None };
        assert!(!replica.insist(earlier, &lead).await, "it leads in a later term");
        assert_eq!(replica.store().log().ends().last, before);
    }
}
