//! Reigns: the lease is kept, `Lead` is proposed, leadership is handed out and taken back.
//!
//! - A reign begins only when the `Lead` of its term is applied: applying it decides everything proposed before it.
//! - Leadership is taken back as soon as openraft says that this node does not lead; its lease ends by itself before.
//! - If the Raft core ends, its metrics say so or their channel closes, and that ends the node.

use std::time::Duration;

use model::command::Command;
use model::ids::{ClusterId, Term};
use model::{Cause, Lineage};
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
                let voters: Vec<u64> = seen.membership_config.membership().voter_ids().collect();
                let alone = voters.as_slice() == [inner.node.0];
                let acknowledged = seen.last_quorum_acked.as_ref().map(|at| **at);
                (leads, if alone { Some(Instant::now()) } else { acknowledged.map(to_instant::<RT>) })
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
            let still_leads = {
                let metrics = inner.raft.metrics();
                let seen = metrics.borrow_watched();
                seen.state == ServerState::Leader && seen.current_term == term.0
            };
            if !still_leads {
                return false;
            }
            // No majority has answered yet: it is about to, or this node will cease to lead.
            sleep(Duration::from_millis(2)).await;
        }
    }
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
    use super::*;

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
