//! Schedules that end, and devices that move or go out of service: no slot is left unaccounted, each gap has its cause, and
//! no connection outlives its use.

use model::plant::Link;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::ending::device;
use super::*;

#[tokio::test]
async fn configure_while_a_poll_is_in_flight_leaves_no_slot_unaccounted() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    node.configure(plant(64 * MIB, WhenFull::Refuse)).await;
    let (group, grid) = node.grid();
    let batcher = Batcher::start(node.replica.clone(), node.leads(), READINGS, &node.spawner);
    batcher.push(&node.polled(group, grid, 0)).expect("there is room in the queue");
    node.until("slot 0 is in", |state| state.grids[&group].next == 1).await;

    // Slot 40 lies well behind where the grid is about to end, and cannot be committed.
    node.replica.close_to_samples(true);
    batcher.push(&node.polled(group, grid, 40)).expect("there is room in the queue");
    timeout(SOON, batcher.drain()).await.expect("it is refused at once");
    let mut changed = plant(64 * MIB, WhenFull::Refuse);
    changed.devices[0].groups[0].schedule.as_mut().expect("polled").period = Duration::from_millis(200);
    node.configure(changed).await;
    node.until("slot 40 is in a gap", |state| {
        let ends = |record: &EffectRecord| {
            matches!(record, EffectRecord::Gap { grid: known, last: 40, .. } if *known == grid)
        };
        state.effects.values().any(|effects| effects.records.iter().any(ends))
    })
    .await;
    let mut next = 1;
    for (first, slots, cause) in &node.gaps()[&grid] {
        assert_eq!((*first, *cause), (next, Cause::Configuration));
        next = first + slots;
    }
    assert_eq!(next, 41, "slots 1 to 40, once each");
}

#[tokio::test]
async fn a_leader_that_closes_a_schedule_says_how_far_it_has_come_when_it_proposes_that() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    node.configure(plant(64 * MIB, WhenFull::Refuse)).await;
    let (group, grid) = node.grid();
    let line = node.read(|state| state.grids[&group].line);
    let batcher = Batcher::start(node.replica.clone(), node.leads(), READINGS, &node.spawner);
    batcher.push(&node.polled(group, grid, 0)).expect("there is room in the queue");
    node.until("slot 0 is in", |state| state.grids[&group].next == 1).await;
    // Said when slot 0 had just been read, and proposed when nine more had passed.
    let mut changed = plant(64 * MIB, WhenFull::Refuse);
    changed.devices[0].groups[0].schedule.as_mut().expect("polled").period = Duration::from_millis(200);
    let stale = Command::Configure {
        base: node.read(State::revision),
        bundle: b"bundle".to_vec(),
        plant: Box::new(changed),
        elapsed: vec![(group, Duration::ZERO)],
        discard: Vec::new(),
        request: Request::default(),
    };
    node.until_begun(&line, 10).await;
    let outcome = node.propose(stale).await;
    assert!(matches!(outcome, store::Outcome::Configured { .. }), "{outcome}");
    let [(first, slots, cause)] = node.gaps()[&grid][..] else { panic!("one gap: {:?}", node.gaps()) };
    assert_eq!((first, cause), (1, Cause::Configuration));
    let opened = node.read(|state| state.grids[&group].line.first);
    let end = line.nominal(first + slots);
    let apart = opened.nanos_since(end);
    assert!((0..=200_000_000).contains(&apart), "{apart} ns lie in neither grid");
}

/// A device that answers every request for registers with zeros.
async fn answer_with_zeros(listener: TcpListener) -> std::io::Result<()> {
    loop {
        let (mut connection, _) = listener.accept().await?;
        let mut request = [0; 12];
        while connection.read_exact(&mut request).await.is_ok() {
            let bytes = request[11] * 2;
            let mut answer = request[..4].to_vec();
            answer.extend([0, bytes + 3, request[6], request[7], bytes]);
            answer.resize(answer.len() + usize::from(bytes), 0);
            connection.write_all(&answer).await?;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_answers_at_another_address_was_down_until_then() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    node.configure(plant(64 * MIB, WhenFull::Refuse)).await;
    let (group, grid) = node.grid();
    node.acquire();
    node.until("nobody listens, which is said", |state| state.grids[&group].next > 0).await;
    let said = node.read(|state| state.grids[&group].next);
    let line = node.read(|state| state.grids[&group].line);
    node.until_begun(&line, said + 3).await;
    let device = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut moved = plant(64 * MIB, WhenFull::Refuse);
    let Link::ModbusTcp(link) = &mut moved.devices[0].link else { panic!("it is polled") };
    link.port = device.local_addr().expect("bound").port();
    node.spawner.spawn("device", answer_with_zeros(device));
    node.configure(moved).await;
    node.until("it is read", |state| state.grids[&group].next > said).await;
    let gaps = &node.gaps()[&grid];
    assert!(gaps.iter().any(|(first, ..)| *first == said), "{gaps:?}");
    assert!(gaps.iter().all(|(.., cause)| *cause == Cause::DeviceDown), "{gaps:?}");
}

#[tokio::test]
async fn a_device_that_is_taken_out_of_service_loses_its_connection() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let (address, mut answers) = device(1).await;
    let document = PLANT.replace("127.0.0.1:9", &address.to_string());
    node.configure(read_bundle(&Bundle::of_document(document)).expect("it is valid").plant).await;
    let (group, _) = node.grid();
    node.acquire();
    node.until("it is read", |state| state.grids[&group].next > 1).await;
    let disable = Command::SetDeviceEnabled {
        device: "press".to_owned(),
        enabled: false,
        until: None,
        elapsed: Vec::new(),
        request: Request::default(),
    };
    assert_eq!(node.propose(disable).await, store::Outcome::Done);
    let closed = async { while answers.changed().await.is_ok() {} };
    timeout(SOON, closed).await.expect("the connection ends");
}
