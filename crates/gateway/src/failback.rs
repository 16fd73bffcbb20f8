//! Failback: leadership returns to the preferred node, and leaves a drained one.
//!
//! - Automatically only if the plant document says so, and only to a node that has been fit to lead for the settle time,
//!   which doubles each time that node has lost leadership again soon after it got it (the ledger counts that, so that a
//!   failover does not forget it). By hand at any time: then the status says that it is possible.
//! - A drained leader hands over as soon as anybody may take over, whatever the document says about failback; so does one
//!   whose removal a dead leader had begun.
//! - [`Watch::decide`] is the policy, without a clock of its own; [`run`] only looks and asks for the switchover.

use std::collections::BTreeMap;
use std::time::Duration;

use model::NodeId;
use model::plant::Failback;
use replication::{Candidate, MembershipError, Replica};
use store::engine::Engine;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::leading::Switchover;

/// How often a leader looks whether leadership should go elsewhere.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The settle time doubles at most this often.
const DOUBLINGS: u32 = 10;

/// What a decision is made from.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// What the plant document says.
    pub(crate) mode: Failback,
    /// This leader's own place among the preferred.
    pub(crate) own_preference: Option<usize>,
    /// An operator keeps this leader from leading.
    pub(crate) is_drained: bool,
    /// A change that is not finished removes this leader.
    pub(crate) is_leaving: bool,
    /// The other members.
    pub(crate) candidates: Vec<Candidate>,
    /// How often in a row each node lost leadership soon after it got it back.
    pub(crate) relapses: BTreeMap<NodeId, u32>,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nobody is better.
    Stay,
    /// Leadership could go there; an administrator decides.
    Possible(NodeId),
    /// Leadership goes there, if the node stays fit, at this time.
    Settling(NodeId, Instant),
    /// Leadership goes there now.
    HandOver(NodeId, Reason),
}

/// Why leadership goes elsewhere by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// This leader is drained.
    Drained,
    /// This leader is being removed.
    Leaving,
    /// The other is preferred.
    Preferred,
}

/// Since when each member has been fit to lead, without a break.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    fit_since: BTreeMap<NodeId, Instant>,
}

impl Watch {
    /// What should happen now. To be called often: a node that was unfit in between is noticed only when looked at.
    pub(crate) fn decide(&mut self, now: Instant, facts: &Facts) -> Decision {
        let fit = || facts.candidates.iter().filter(|candidate| candidate.unfit.is_none());
        self.fit_since.retain(|node, _| fit().any(|candidate| candidate.node == *node));
        for candidate in fit() {
            self.fit_since.entry(candidate.node).or_insert(now);
        }
        if (facts.is_leaving || facts.is_drained)
            && let Ok(to) = replication::choose(&facts.candidates, None)
        {
            let reason = if facts.is_leaving { Reason::Leaving } else { Reason::Drained };
            return Decision::HandOver(to, reason);
        }
        let own = facts.own_preference.unwrap_or(usize::MAX);
        let better = fit().filter_map(|candidate| Some((candidate.preference?, candidate.node)));
        let Some((_, best)) = better.filter(|(preference, _)| *preference < own).min() else {
            return Decision::Stay;
        };
        let Failback::Auto { settle } = facts.mode else { return Decision::Possible(best) };
        let relapses = facts.relapses.get(&best).copied().unwrap_or(0);
        let due = self.fit_since[&best] + settle.saturating_mul(1 << relapses.min(DOUBLINGS));
        match due <= now {
            true => Decision::HandOver(best, Reason::Preferred),
            false => Decision::Settling(best, due),
        }
    }
}

/// What this leader knows.
pub(crate) fn facts<E: Engine>(replica: &Replica<E>) -> Facts {
    let (candidates, is_leaving) = (replica.candidates(), replica.status().is_leaving());
    let (me, name) = (replica.node(), replica.name());
    replica.store().keeper().read(|state| {
        let policy = state.plant().cluster.clone();
        Facts {
            own_preference: policy.preferred.iter().position(|preferred| preferred == name),
            mode: policy.failback,
            is_drained: state.drained.contains_key(&me),
            is_leaving,
            candidates,
            relapses: state.relapses.clone(),
        }
    })
}

/// Looks and acts while this node leads, until told to stop.
pub(crate) async fn run<E: Engine>(
    replica: Replica<E>,
    switchover: Switchover,
    stop: CancellationToken,
) -> Result<(), MembershipError> {
    let leadership = replica.leadership();
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::default();
    let mut announced = Decision::Stay;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return Ok(()),
        }
        if leadership.borrow().is_none() {
            watch = Watch::default();
            announced = Decision::Stay;
            continue;
        }
        let decision = watch.decide(Instant::now(), &facts(&replica));
        if decision != announced {
            announce(decision);
            announced = decision;
        }
        if let Decision::HandOver(to, reason) = decision {
            // Whoever is best placed in the end may take over from a leader that only has to go.
            let wanted = (reason == Reason::Preferred).then_some(to);
            match switchover.request(wanted).await {
                Ok(leader) => info!(%leader, "leadership has gone where it belongs"),
                Err(error) => warn!(%to, %error, "leadership did not go where it belongs"),
            }
            // If it did not, the node must prove itself anew.
            watch = Watch::default();
        }
    }
}

fn announce(decision: Decision) {
    match decision {
        Decision::Stay => {}
        Decision::Possible(to) => info!(%to, "leadership could return to a preferred node"),
        Decision::Settling(to, due) => {
            let settle = due.saturating_duration_since(Instant::now());
            info!(%to, ?settle, "leadership returns to a preferred node when it has settled");
        }
        Decision::HandOver(to, reason) => info!(%to, ?reason, "leadership goes elsewhere"),
    }
}

#[cfg(test)]
mod tests {
    use model::Position;
    use replication::Unfit;

    use super::*;

    const SETTLE: Duration = Duration::from_secs(60);
    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn candidate(node: NodeId, preference: Option<usize>, unfit: Option<Unfit>) -> Candidate {
        Candidate { node, name: format!("node-{node}"), preference, confirmed: Position(9), unfit }
    }

    fn facts(unfit: Option<Unfit>) -> Facts {
        Facts {
            mode: Failback::Auto { settle: SETTLE },
            own_preference: None,
            is_drained: false,
            is_leaving: false,
            candidates: vec![candidate(A, Some(0), unfit), candidate(B, None, None)],
            relapses: BTreeMap::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn leadership_returns_when_the_preferred_node_has_settled() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        assert_eq!(watch.decide(start, &facts(None)), Decision::Settling(A, start + SETTLE));
        let almost = start + SETTLE - Duration::from_millis(1);
        assert_eq!(watch.decide(almost, &facts(None)), Decision::Settling(A, start + SETTLE));
        assert_eq!(watch.decide(start + SETTLE, &facts(None)), Decision::HandOver(A, Reason::Preferred));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_falters_settles_anew() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        watch.decide(start, &facts(None));
        let faltered = start + SETTLE / 2;
        assert_eq!(watch.decide(faltered, &facts(Some(Unfit::Unreachable))), Decision::Stay);
        let again = faltered + Duration::from_secs(1);
        assert_eq!(watch.decide(again, &facts(None)), Decision::Settling(A, again + SETTLE));
    }

    #[tokio::test(start_paused = true)]
    async fn leadership_does_not_return_to_a_node_without_room() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        for seconds in [0, 60, 120] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(watch.decide(now, &facts(Some(Unfit::Full))), Decision::Stay, "it would give it back");
        }
        let emptied = start + Duration::from_secs(180);
        assert_eq!(watch.decide(emptied, &facts(None)), Decision::Settling(A, emptied + SETTLE));
    }

    #[tokio::test(start_paused = true)]
    async fn the_settle_time_doubles_with_each_relapse() {
        for (relapses, factor) in [(0, 1), (1, 2), (3, 8), (200, 1 << DOUBLINGS)] {
            let (mut watch, start) = (Watch::default(), Instant::now());
            let facts = Facts { relapses: [(A, relapses)].into(), ..facts(None) };
            assert_eq!(watch.decide(start, &facts), Decision::Settling(A, start + SETTLE * factor));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn by_hand_it_is_only_possible() {
        let facts = Facts { mode: Failback::Manual, ..facts(None) };
        assert_eq!(Watch::default().decide(Instant::now(), &facts), Decision::Possible(A));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_less_preferred_takes_over() {
        let facts = Facts { own_preference: Some(0), ..facts(None) };
        assert_eq!(Watch::default().decide(Instant::now(), &facts), Decision::Stay);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drained_leader_goes_at_once_and_to_anybody_who_may_lead() {
        let drained = Facts { is_drained: true, mode: Failback::Manual, ..facts(Some(Unfit::Drained)) };
        assert_eq!(Watch::default().decide(Instant::now(), &drained), Decision::HandOver(B, Reason::Drained));
        let alone = Facts { candidates: vec![candidate(A, None, Some(Unfit::Drained))], ..drained };
        assert_eq!(Watch::default().decide(Instant::now(), &alone), Decision::Stay, "it goes on leading");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_is_being_removed_goes_at_once() {
        let leaving = Facts { is_leaving: true, is_drained: true, ..facts(Some(Unfit::Unreachable)) };
        assert_eq!(Watch::default().decide(Instant::now(), &leaving), Decision::HandOver(B, Reason::Leaving));
    }
}
