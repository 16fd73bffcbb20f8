//! The limits of the buffer and the disk: what is refused, what is dropped, and what passes.

use model::plant::Link;

use super::*;

#[tokio::test]
async fn a_full_buffer_refuses_and_accounts() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    node.configure(plant(2 * MIB, WhenFull::Refuse)).await;
    node.retain();
    let (group, grid) = node.grid();
    let batcher = Batcher::start(node.replica.clone(), node.leads(), READINGS, &node.spawner);
    batcher.push(&node.polled(group, grid, 0)).expect("there is room in the queue");
    node.until("slot 0 is in", |state| state.grids[&group].next == 1).await;

    let mut accepted = 0;
    while !node.replica.is_closed_to_samples() {
        match node.push(accepted + 1).await {
            Ok(()) => accepted += 1,
            Err(error) => assert!(matches!(error, ProposeError::NoSpace { .. }), "{error}"),
        }
        assert!(accepted < 1_000, "it never fills");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let refused = node.push(accepted + 1).await;
    assert!(
        matches!(refused, Err(ProposeError::NoSpace { retry_after }) if !retry_after.is_zero()),
        "{refused:?}"
    );
    assert_eq!(
        node.buffered(),
        (1..=accepted).collect::<Vec<_>>(),
        "what was accepted is kept, and nothing else"
    );
    batcher.push(&node.polled(group, grid, 1)).expect("there is room in the queue");
    batcher.push(&node.polled(group, grid, 2)).expect("there is room in the queue");
    batcher.drain().await;
    assert_eq!(node.read(|state| state.grids[&group].next), 1, "no slot was committed");

    // The destination takes everything: acknowledgements pass.
    let next = node.read(|state| Cursor::at(state.applied_position().next()));
    let acknowledge = Command::Acknowledge { destination: HISTORIAN, next, rejected: Vec::new() };
    assert_eq!(node.propose(acknowledge).await, store::Outcome::Done);
    node.until_closed(false).await;
    node.push(accepted + 1).await.expect("there is room again, and no number was lost");
    batcher.push(&node.polled(group, grid, 3)).expect("there is room in the queue");
    node.until("slot 3 is in", |state| state.grids[&group].next == 4).await;
    assert_eq!(node.gaps()[&grid], [(1, 2, Cause::DiskFull)], "one gap, with its cause");
}

#[tokio::test]
async fn a_device_that_went_silent_while_there_was_no_room_is_bad_as_soon_as_there_is() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let device = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut plant = plant(64 * MIB, WhenFull::Refuse);
    let Link::ModbusTcp(link) = &mut plant.devices[0].link else { panic!("it is polled") };
    link.port = device.local_addr().expect("bound").port();
    node.configure(plant).await;
    let (group, grid) = node.grid();
    node.replica.close_to_samples(true);
    node.acquire();
    // It hangs up. Asked once more, it has been said to be silent, and that was refused.
    for _ in 0..3 {
        drop(timeout(SOON, device.accept()).await.expect("it is asked").expect("it is connected to"));
    }
    drop(device);
    assert_eq!(node.read(|state| state.grids[&group].next), 0, "no slot was committed");
    node.replica.close_to_samples(false);
    // Long before a piece of its gap would be said.
    node.until("a batch of bad readings is in", |state| state.grids[&group].next > 0).await;
    let gaps = &node.gaps()[&grid];
    assert!(matches!(gaps[..], [(0, _, Cause::DiskFull), ..]), "{gaps:?}");
}

#[tokio::test]
async fn what_finds_the_queue_full_is_lost_until_something_behind_it_is_in() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    node.configure(plant(64 * MIB, WhenFull::Refuse)).await;
    let (group, grid) = node.grid();
    let batcher = Batcher::start(node.replica.clone(), node.leads(), 1_000, &node.spawner);
    let source = Source::Polled { group, grid, slot: 0, skipped: Cause::Late };
    assert_eq!(batcher.push(&node.batch(source, 1, 10_000)), Err(Cause::Overload));
    assert!(batcher.has_lost(grid));
    batcher.push(&node.polled(group, grid, 1)).expect("there is room in the queue");
    node.until("slot 1 is in", |state| state.grids[&group].next == 2).await;
    batcher.drain().await;
    assert!(!batcher.has_lost(grid));
    assert_eq!(node.gaps()[&grid], [(0, 1, Cause::Overload)]);
}

#[tokio::test]
async fn drop_oldest_records_what_it_dropped() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    node.configure(plant(8 * MIB, WhenFull::DropOldest)).await;
    node.retain();
    let mut accepted = 0;
    while node.read(|state| state.horizon.0 == 0) {
        accepted += 1;
        node.push(accepted).await.expect("nothing is refused");
        assert!(accepted < 1_000, "nothing is ever dropped");
    }
    let expiries: Vec<EffectRecord> = node.read(|state| {
        let records = state.effects.values().flat_map(|effects| &effects.records);
        records.filter(|record| matches!(record, EffectRecord::Expiry { .. })).cloned().collect()
    });
    let [EffectRecord::Expiry { id, from, to, samples, cause, .. }] = expiries.as_slice() else {
        panic!("one record for the one destination: {expiries:?}")
    };
    let horizon = node.read(|state| state.horizon);
    assert_eq!((*id, *cause, *to), (HISTORIAN, Cause::DiskFull, Cursor::at(horizon.next())));
    assert!(from < to);
    assert_eq!(node.read(|state| state.destinations[&HISTORIAN].cursor), *to, "moved in the same apply");
    let kept = node.buffered();
    assert_eq!(kept.last(), Some(&accepted), "the newest stays");
    assert_eq!(
        samples / 10 + kept.len() as u64,
        accepted,
        "what was dropped and what is left are all there was"
    );
}

#[tokio::test]
async fn a_full_disk_refuses_samples_and_lets_its_way_out_pass() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    node.configure(plant(64 * MIB, WhenFull::Refuse)).await;
    node.retain();
    node.push(1).await.expect("there is room");
    node.free.store(space::ROOM_FOR_SAMPLES - 1, Ordering::Relaxed);
    node.until_closed(true).await;
    assert!(matches!(node.push(2).await, Err(ProposeError::NoSpace { .. })));
    let next = node.read(|state| Cursor::at(state.applied_position().next()));
    node.propose(Command::Acknowledge { destination: HISTORIAN, next, rejected: Vec::new() }).await;
    node.until("what was delivered is given up", |state| state.horizon >= state.last_deliverable).await;
    node.free.store(space::ROOM_AGAIN, Ordering::Relaxed);
    node.until_closed(false).await;
    node.push(2).await.expect("there is room again");
}

#[tokio::test]
async fn a_full_disk_has_the_log_given_back_once_it_is_delivered_without_waiting_for_the_schedule() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    node.configure(plant(64 * MIB, WhenFull::Refuse)).await;
    node.retain();
    for sequence in 1..=60 {
        node.push(sequence).await.expect("there is room");
    }
    let last = node.read(|state| state.last_deliverable);
    node.free.store(space::ROOM_FOR_SAMPLES - 1, Ordering::Relaxed);
    node.until_closed(true).await;
    let next = node.read(|state| Cursor::at(state.applied_position().next()));
    node.propose(Command::Acknowledge { destination: HISTORIAN, next, rejected: Vec::new() }).await;
    let store = node.replica.store();
    let given_back = async {
        while store.log().ends().floor.is_none_or(|floor| floor.index < last) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, given_back).await.expect("a checkpoint of the schedule would take ten minutes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_below_its_reserve_stays_up() {
    let nodes = cluster(3).await;
    let leading = leader(&nodes).await;
    let node = &nodes[leading];
    let [one, two] = [&nodes[(leading + 1) % 3], &nodes[(leading + 2) % 3]];
    node.configure(plant(64 * MIB, WhenFull::Refuse)).await;
    node.retain();
    one.until("it follows", |state| state.revision() == Revision(1)).await;
    one.free.store(0, Ordering::Relaxed);
    let lags_at = one.read(State::applied_position);
    for sequence in 1..=20 {
        node.push(sequence).await.expect("two of three have room");
    }
    let behind = one.read(State::applied_position);
    assert!(behind.0 <= lags_at.0 + 2, "it takes no entries: {behind} after {lags_at}");
    assert_eq!(one.replica.status().leader, Some(node.replica.node()), "it is up and hears the leader");

    // With the other one full too no majority has room: the leader refuses before Raft sees anything.
    two.free.store(0, Ordering::Relaxed);
    node.until_closed(true).await;
    assert!(matches!(node.push(21).await, Err(ProposeError::NoSpace { .. })));
    assert!(node.replica.leadership().borrow().is_some(), "nobody was deposed");

    one.free.store(1 << 40, Ordering::Relaxed);
    node.until_closed(false).await;
    node.push(21).await.expect("a majority has room again");
    one.until("it has caught up", |state| state.sessions.values().any(|session| session.last == 21)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_own_disk_is_full_hands_over_to_a_node_that_has_room() {
    let nodes = cluster(3).await;
    let first = leader(&nodes).await;
    for node in &nodes {
        node.lead();
    }
    nodes[first].push(1).await.expect("there is room");
    nodes[first].free.store(0, Ordering::Relaxed);
    let mut leadership = nodes[first].replica.leadership();
    let yielded = leadership.wait_for(Option::is_none);
    timeout(SOON, yielded).await.expect("it hands over").expect("the replica runs");
    let second = leader(&nodes).await;
    assert_ne!(second, first);
    nodes[second].until_closed(false).await;
    nodes[second].push(2).await.expect("a majority has room, and the new leader too");
}
