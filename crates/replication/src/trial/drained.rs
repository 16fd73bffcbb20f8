//! Drained nodes, on real replicas: they vote, pass on what they alone have, and lead only where nobody else could. A leader
//! that has given up in vain, and that they wait for, makes way.

#![allow(clippy::disallowed_methods, reason = "a test is the end that everything it spawned comes to")]

use model::command::{Command, Request};
use tokio::time::timeout;

use super::*;
use crate::replica::Standing;

const LAN: LeaseTimes = LeaseTimes::LAN;
const L: Duration = LAN.lease;

impl Cluster {
    /// An operator's order, given to the node that leads.
    async fn order(&self, node: u64, drained: bool) {
        let leader = self.leader().expect("somebody leads");
        let order = Command::SetDrained { node: NodeId(node), drained, request: Request::default() };
        self.replica(leader).propose(&order, PATIENCE).await.expect("a majority is there");
    }

    /// A leader gives up for a successor that is cut off.
    async fn give_up_in_vain(&self, leader: u64, successor: u64) {
        self.isolate(successor, true);
        let replica = self.replica(leader);
        replica.give_up(&self.leadership(leader));
        replica.inner.raft.trigger().transfer_leader(successor).await.expect("raft runs");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_drained_by_an_entry_that_it_has_not_applied_yet_does_not_reign() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    cluster.run_for(L * 2).await;
    let (leader, second, _) = cluster.three();
    cluster.mischief(second).let_apply(false);
    cluster.order(second, true).await;
    assert!(!cluster.replica(second).is_drained(), "its ledger does not know yet");

    // As if it had been asked to take over just before.
    let old = cluster.replica(leader).inner.clone();
    old.cell.raise_barrier(cluster.leadership(leader).term());
    old.leadership.send_replace(None);
    old.raft.trigger().transfer_leader(second).await.expect("raft runs");
    cluster.until("it leads", |cluster| cluster.replica(second).status().standing == Standing::Leader).await;
    cluster.run_for(L / 5).await;
    cluster.mischief(second).let_apply(true);
    cluster.until("somebody reigns", |cluster| cluster.leader().is_some()).await;
    assert_ne!(cluster.leader(), Some(second), "{}", cluster.account());
}

/// A cluster whose followers are both drained; its leader comes first.
async fn with_drained_followers() -> (Cluster, u64, u64, u64) {
    let mut cluster = Cluster::found([LAN; 3]).await;
    cluster.run_for(L * 2).await;
    let (leader, second, third) = cluster.three();
    for follower in [second, third] {
        cluster.order(follower, true).await;
    }
    cluster.until_all_applied_alike().await;
    (cluster, leader, second, third)
}

#[tokio::test(start_paused = true)]
async fn where_only_drained_nodes_are_left_one_leads_as_the_last_resort_and_can_be_resumed() {
    let (mut cluster, leader, ..) = with_drained_followers().await;
    cluster.crash(leader);
    let crashed = Instant::now();
    let resort = cluster.until_another_leads(leader).await;
    let waited = crashed.elapsed();
    assert!(waited > L * 9 && waited < L * 15, "after {waited:?}");
    cluster.order(resort, false).await;
    cluster.until("it is drained no more", |cluster| !cluster.replica(resort).is_drained()).await;

    // What it was needed for is over: whoever is not drained leads like any other.
    cluster.restart(leader).await;
    cluster.until_all_applied_alike().await;
    assert_eq!(cluster.leader(), Some(resort));
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_does_not_forestall_one_that_answers() {
    let (mut cluster, leader, second, third) = with_drained_followers().await;
    cluster.crash(leader);
    // Just before their turn; it must not vote for a lease yet.
    cluster.run_for(L * 10 - Duration::from_millis(50)).await;
    cluster.restart(leader).await;
    cluster
        .until("it leads again", |cluster| {
            for drained in [second, third] {
                let standing = cluster.replica(drained).status().standing;
                assert_ne!(standing, Standing::Leader, "{}", cluster.account());
            }
            cluster.leader() == Some(leader)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_that_was_elected_hands_over_to_one_that_comes_back() {
    let (mut cluster, leader, second, third) = with_drained_followers().await;
    cluster.crash(leader);
    let leads = |cluster: &Cluster, node| cluster.replica(node).status().standing == Standing::Leader;
    cluster.until("one of them is elected", |cluster| leads(cluster, second) || leads(cluster, third)).await;
    cluster.restart(leader).await;
    cluster.until("somebody reigns", |cluster| cluster.leader().is_some()).await;
    assert_eq!(cluster.leader(), Some(leader), "{}", cluster.account());
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_passes_on_what_it_alone_has() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    cluster.run_for(L * 2).await;
    let (leader, drained, third) = cluster.three();
    cluster.order(drained, true).await;
    cluster.until_all_applied_alike().await;
    cluster.isolate(third, true);
    // The same again: what matters is that the third does not get it.
    cluster.order(drained, true).await;
    cluster.crash(leader);
    let last = |node: u64| cluster.replica(node).store().log().ends().last;
    assert!(last(drained) > last(third), "nobody votes for the third");
    cluster.isolate(third, false);
    assert_eq!(cluster.until_another_leads(leader).await, third);
}

/// A cluster whose leader has given up for a successor that is cut off; the third is drained and waits for both. The leader
/// comes first, then the third.
async fn with_spent_leader() -> (Cluster, u64, u64) {
    let mut cluster = Cluster::found([LAN; 3]).await;
    cluster.run_for(L * 2).await;
    let (leader, successor, third) = cluster.three();
    cluster.order(third, true).await;
    cluster.until_all_applied_alike().await;
    cluster.give_up_in_vain(leader, successor).await;
    (cluster, leader, third)
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_gave_up_long_ago_has_all_its_time_when_it_does_so_again() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    cluster.run_for(L * 2).await;
    let (leader, successor, third) = cluster.three();
    cluster.give_up_in_vain(leader, successor).await;
    assert_eq!(cluster.until_another_leads(leader).await, third);
    cluster.run_for(L * 10).await;
    let may_take_over = |cluster: &Cluster| cluster.replica(third).successor(Some(NodeId(leader))).is_ok();
    cluster.until("it may take over again", may_take_over).await;
    let handed_over = cluster.replica(third).clone().transfer_leadership(Some(NodeId(leader))).await;
    assert_eq!(handed_over, Ok(NodeId(leader)));
    assert_eq!(cluster.until_another_leads(third).await, leader);
    cluster.give_up_in_vain(leader, successor).await;
    let running = cluster.nodes[leader as usize - 1].running.as_mut().expect("it runs");
    let failure = timeout(L * 5, running.supervisor.failure()).await;
    assert!(failure.is_err(), "it was taken over from the first time: {failure:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_gave_up_in_vain_ends_and_leads_when_it_is_back() {
    let (mut cluster, leader, _) = with_spent_leader().await;
    let mut running = cluster.nodes[leader as usize - 1].running.take().expect("it runs");
    let began = Instant::now();
    let failure = timeout(L * 15, running.supervisor.failure()).await.expect("it stands in the way");
    assert_eq!(failure.task, "elections", "{failure}");
    assert!(began.elapsed() > L * 10, "its successor had only {:?}", began.elapsed());
    cluster.nodes[leader as usize - 1].running = Some(running);
    cluster.crash(leader);
    cluster.restart(leader).await;
    cluster.until("it leads again", |cluster| cluster.leader() == Some(leader)).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_gave_up_in_vain_does_not_end_while_no_other_voter_answers() {
    let (mut cluster, leader, third) = with_spent_leader().await;
    cluster.crash(third);
    let running = cluster.nodes[leader as usize - 1].running.as_mut().expect("it runs");
    let failure = timeout(L * 15, running.supervisor.failure()).await;
    assert!(failure.is_err(), "it would be back in vain: {failure:?}");
}
