//! Drained nodes, on real replicas: they vote, pass on what they alone have, and lead only where nobody else could.

#![allow(clippy::disallowed_methods, reason = "a test is the end that everything it spawned comes to")]

use model::command::{Command, Request};

use super::*;

const LAN: LeaseTimes = LeaseTimes::LAN;
const L: Duration = LAN.lease;

impl Cluster {
    /// An operator's order, given to the node that leads.
    async fn order(&self, node: u64, drained: bool) {
        let leader = self.leader().expect("somebody leads");
        let order = Command::SetDrained { node: NodeId(node), drained, request: Request::default() };
        self.replica(leader).propose(&order, PATIENCE).await.expect("a majority is there");
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
    cluster.until("it leads", |cluster| cluster.replica(second).status().role == "leader").await;
    cluster.run_for(L / 5).await;
    cluster.mischief(second).let_apply(true);
    cluster.until("somebody reigns", |cluster| cluster.leader().is_some()).await;
    assert_ne!(cluster.leader(), Some(second), "{}", cluster.account());
}
