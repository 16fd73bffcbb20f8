//! Changes of membership, on real replicas, that their leader did not finish.

#![allow(clippy::disallowed_methods, reason = "a test is the end that everything it spawned comes to")]

use openraft::ChangeMembers;

use super::*;
use crate::membership::MembershipError;

const LAN: LeaseTimes = LeaseTimes::LAN;
const L: Duration = LAN.lease;

/// Longer than it takes a leader to look for what is not finished.
const A_LOOK: Duration = Duration::from_secs(3);

#[tokio::test(start_paused = true)]
async fn a_leader_that_an_unfinished_change_removes_begins_none_and_leaves_it_to_the_next() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    cluster.run_for(L * 2).await;
    let (leader, second, leaving) = cluster.three();
    let is_joint = |cluster: &Cluster, node| cluster.replica(node).status().voters.len() == 2;
    // Without the second there is no majority of those who stay.
    cluster.isolate(second, true);
    let raft = cluster.replica(leader).inner.raft.clone();
    let removal = ChangeMembers::RemoveVoters([leaving].into());
    let change = tokio::spawn(async move { raft.change_membership(removal, false).await });
    cluster.until("half of the change", |cluster| is_joint(cluster, leaving)).await;
    change.abort();
    cluster.isolate(second, false);
    cluster.until("all to have that half", |cluster| is_joint(cluster, second)).await;

    // Nobody would hand over to it; it may be elected all the same.
    let replica = cluster.replica(leader).clone();
    replica.give_up(&cluster.leadership(leader));
    replica.inner.raft.trigger().transfer_leader(leaving).await.expect("raft runs");
    cluster.until("the one that leaves to lead", |cluster| cluster.leader() == Some(leaving)).await;
    assert!(cluster.replica(leaving).status().is_leaving() && !cluster.replica(leader).status().is_leaving());
    let refused = cluster.replica(leaving).remove(NodeId(second), true).await;
    let is_unfinished =
        matches!(&refused, Err(MembershipError::Refused(why)) if why.contains("not finished yet"));
    assert!(is_unfinished, "{refused:?}");
    cluster.run_for(A_LOOK).await;
    assert!(is_joint(&cluster, leaving), "it would lead without being a member");

    let handed_over = cluster.hands_over(leaving, second);
    cluster.until("the change to be finished", |cluster| !is_joint(cluster, second)).await;
    handed_over.await.expect("no panic").expect("it has led");
    let voters = BTreeSet::from([leader, second]);
    assert_eq!(cluster.replica(second).status().voters, [voters], "{}", cluster.account());
}
