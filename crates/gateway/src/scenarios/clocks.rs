//! Wrong clocks and clocks that are set: grids are opened anew, and little is missed.

use super::*;

#[tokio::test]
async fn a_step_within_a_reign_is_a_reclock() {
    for step_millis in [3_600_000, -3_600_000, 700] {
        let nodes = cluster(1).await;
        let node = &nodes[leader(&nodes).await];
        let began = std::time::Instant::now();
        node.configure(plant(64 * MIB, WhenFull::Refuse)).await;
        let (group, grid) = node.grid();
        node.acquire();
        node.until("it is read", |state| state.grids[&group].next > 0).await;
        node.clock.ahead_millis.store(step_millis, Ordering::Relaxed);
        let set = node.clock.now();
        node.until("the grid is opened anew", |state| {
            state.grids.get(&group).is_some_and(|open| open.id != grid && open.next > 0)
        })
        .await;
        let line = node.read(|state| state.grids[&group].line);
        let (first, now) = (line.first, node.clock.now());
        assert!(
            set < first && first <= now.plus(line.period),
            "{step_millis} ms: the new grid begins at {first}, by a clock that was set to {set} and shows {now}"
        );
        let said = node.gaps().get(&grid).into_iter().flatten().map(|(first, slots, _)| first + slots).max();
        let (said, passed) = (said.unwrap_or(0), began.elapsed().as_nanos() / line.period.as_nanos());
        // Both ends are rounded, and a slot may be on its way.
        assert!(u128::from(said) <= passed + 3, "{step_millis} ms: {said} slots in {passed} periods");
    }
}

#[tokio::test]
async fn a_new_leader_with_a_wrong_clock_opens_the_grids_anew_before_it_reads() {
    for step_millis in [3_600_000, -3_600_000] {
        let nodes = cluster(1).await;
        let node = &nodes[leader(&nodes).await];
        node.configure(plant(64 * MIB, WhenFull::Refuse)).await;
        let (group, grid) = node.grid();
        let stop = node.acquire();
        node.until("it is read", |state| state.grids[&group].next > 0).await;
        stop.cancel();
        node.clock.ahead_millis.store(step_millis, Ordering::Relaxed);
        node.acquire();
        node.until("the new grid is read", |state| {
            state.grids.get(&group).is_some_and(|open| open.id != grid && open.next > 0)
        })
        .await;
        let missed: u64 = node.gaps().values().flatten().map(|(_, slots, _)| slots).sum();
        assert!(missed < 100, "{step_millis} ms: {missed} slots of 100 ms are said to be missed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_whose_clock_stayed_ahead_when_the_last_ones_was_set_back_invents_no_gap() {
    let mut nodes = cluster(3).await;
    let leading = leader(&nodes).await;
    nodes[leading].configure(plant(64 * MIB, WhenFull::Refuse)).await;
    let (group, grid) = nodes[leading].grid();
    nodes[leading].acquire();
    nodes[leading].until("it is read", |state| state.grids[&group].next > 0).await;
    nodes[leading].clock.ahead_millis.store(-300_000, Ordering::Relaxed);
    for node in &nodes {
        node.until("the new grid is read", |state| {
            state.grids.get(&group).is_some_and(|open| open.id != grid && open.next > 0)
        })
        .await;
    }
    let killed = nodes.remove(leading);
    killed.replica.shut_down().await;

    let node = &nodes[leader(&nodes).await];
    node.acquire();
    node.until("something is said in its reign", |state| {
        let begun = state.reign().map(|reign| reign.position);
        state.grids.get(&group).is_some_and(|open| open.next > 0 && Some(open.touched) > begun)
    })
    .await;
    // Everything was waited for, and nothing for as long as the clocks are apart: 3,000 slots.
    let missed: u64 = node.gaps().values().flatten().map(|(_, slots, _)| slots).sum();
    assert!(missed < 1_500, "{missed} slots of 100 ms are said to be missed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plant_applied_through_a_node_with_a_wrong_clock_opens_its_grids_on_the_leaders() {
    let nodes = cluster(3).await;
    let leading = leader(&nodes).await;
    let follower = &nodes[(leading + 1) % 3];
    follower.clock.ahead_millis.store(3_600_000, Ordering::Relaxed);
    follower.until("it follows", |state| state.reign().is_some()).await;
    let hears = async {
        while follower.replica.status().leader != Some(nodes[leading].replica.node()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, hears).await.expect("it hears the leader");
    follower.configure(plant(64 * MIB, WhenFull::Refuse)).await;
    let leader = &nodes[leading];
    let first = leader.read(|state| state.grids.values().next().map(|grid| grid.line.first)).expect("a grid");
    let apart = first.nanos_since(leader.clock.now());
    assert!(apart.abs() < 60_000_000_000, "{apart} ns from the leader's clock");
}
