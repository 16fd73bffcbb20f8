//! Elections: who campaigns, and when.
//!
//! - openraft's own timer is only the backstop. Each eligible follower campaigns (with a pre-vote) at
//!   `last contact + L + 2 ms + rank · 60 ms`, and again every 60 ms, so that the best candidate goes first and nobody
//!   waits for a random time.
//! - After a start, a voter that may have promised a lease neither votes nor campaigns until that lease is over
//!   (quarantine). Appends are acknowledged meanwhile.
//! - Policy is here as pure functions; [`crate::replica`] runs it.

use std::time::Duration;

use model::NodeId;
use tokio::time::Instant;

use crate::lease::LeaseTimes;

/// From one candidate's turn to the next, and from one attempt to the next.
pub(crate) const TURN: Duration = Duration::from_millis(60);
/// What is added to L, so that the voters' own leases have run out for sure.
const AFTER_LEASE: Duration = Duration::from_millis(2);

/// The place of `me` among those who may campaign: preferred nodes first, in order, then by number. `None` if it may
/// not campaign at all.
pub(crate) fn rank(
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
pub(crate) fn turn(contact: Instant, rank: u32, times: &LeaseTimes) -> Instant {
    contact + times.lease + AFTER_LEASE + TURN * rank
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: [(NodeId, Option<usize>); 3] = [(NodeId(1), None), (NodeId(2), Some(0)), (NodeId(3), Some(1))];

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
    async fn the_first_turn_comes_after_the_lease() {
        let contact = Instant::now();
        assert!(turn(contact, 0, &LeaseTimes::LAN) > contact + LeaseTimes::LAN.lease);
        assert_eq!(turn(contact, 2, &LeaseTimes::LAN) - turn(contact, 1, &LeaseTimes::LAN), TURN);
    }
}
