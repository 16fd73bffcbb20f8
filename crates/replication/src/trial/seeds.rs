//! What fixed seeds repeat.

use super::*;

const LAN: LeaseTimes = LeaseTimes::LAN;

/// The leaders with their terms, before and after the first one's crash; and how far openraft had drawn on each node.
async fn run() -> ([(u64, u64); 2], [Generator; 3]) {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let drawn = [1, 2, 3].map(|node| cluster.running(node).drawn.clone());
    cluster.run_for(LAN.lease * 2).await;
    let (first, second, third) = cluster.three();
    let founded = (first, cluster.term(first));
    cluster.until_nothing_is_under_way(&[second, third]).await;
    cluster.crash(first);
    let next = cluster.until_another_leads(first).await;
    ([founded, (next, cluster.term(next))], drawn)
}

/// Not compared is when something happened, and in which order within some milliseconds: that a loopback socket is ready is
/// news from the machine, for which the paused clock does not wait, and what tokio draws itself (`select!`) is not seeded.
#[tokio::test(start_paused = true)]
async fn the_same_seeds_elect_the_same_leaders_in_the_same_terms_and_openraft_draws_the_same() {
    let (reigns, drawn) = run().await;
    assert_eq!(run().await, (reigns, drawn.clone()));
    for (number, drawn) in (1..).zip(drawn) {
        let at_first = SeededRuntime::scope(seed(number, 1), async { SeededRuntime::thread_rng() }).await;
        assert_ne!(drawn, at_first, "openraft on node {number} has drawn from its seed");
    }
}
