//! The connections of followers, before one of them needs them.

use super::*;
use crate::warming::ROUND;

const LAN: LeaseTimes = LeaseTimes::LAN;

#[tokio::test(start_paused = true)]
async fn a_successor_has_its_connections_before_it_needs_them() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (leader, target, third) = cluster.three();
    cluster.run_for(ROUND * 2).await;
    let dialled = |cluster: &Cluster| [leader, third].map(|to| cluster.wires.dialled(target, &address(to)));
    let before = dialled(&cluster);
    let handed_over = cluster.replica(leader).clone().transfer_leadership(Some(NodeId(target))).await;
    assert_eq!(handed_over, Ok(NodeId(target)));
    cluster.run_for(LAN.lease).await;
    assert_eq!(dialled(&cluster), before, "to the leader before and to the third");
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_is_gone_is_called_at_a_slow_pace_until_it_is_back() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (_, follower, gone) = cluster.three();
    cluster.run_for(ROUND * 2).await;
    let dialled = |cluster: &Cluster| cluster.wires.dialled(follower, &address(gone));
    cluster.crash(gone);
    let before = dialled(&cluster);
    cluster.run_for(ROUND * 12).await;
    let in_vain = dialled(&cluster) - before;
    assert!((12..=26).contains(&in_vain), "{in_vain} attempts in 12 rounds, on two connections");
    cluster.restart(gone).await;
    cluster.run_for(ROUND * 2).await;
    let back = dialled(&cluster);
    cluster.run_for(ROUND * 2).await;
    assert_eq!(dialled(&cluster), back, "they stand");
}
