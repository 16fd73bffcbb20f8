//! The limits of the buffer and the disk, and wrong clocks, on replicas in this process: simulated disks, a free space and
//! a wall clock that tests set.

mod ending;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use destinations::NodeFacts;
use drivers::modbus::WarmConnections;
use model::batch::{Batch, Sample, Source};
use model::command::{Command, Request};
use model::plant::document::{Bundle, read_bundle};
use model::plant::{Link, Plant, Standby as Wanted, WhenFull};
use model::{
    BootId, Cause, Clock, Cursor, DestinationId, GridId, GroupId, Reading, Revision, Role, SessionId, TagId,
    Timestamp, Value,
};
use replication::{
    Belonging, Leadership, LeaseTimes, PeerEvents, PlainAcceptor, ProposeError, Replica, ReplicaParts,
    TcpConnector,
};
use runtime::random::generator;
use runtime::{Failure, Spawner, Supervisor, SystemClock};
use store::engine::sim::{SimDisk, SimEngine};
use store::ledger::{EffectRecord, State};
use store::{Store, StoreOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use wire::EncodedBatch;

use crate::acquisition::{self, AcquisitionParts, Batcher};
use crate::config::Hooks;
use crate::field::FieldDoor;
use crate::leading::{Leading, LeadingParts};
use crate::live::Live;
use crate::standby::Standby;
use crate::{hooks, retention, space};

mod pushes;
mod reading;
mod retries;

/// No test waits longer for what must happen.
const SOON: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(5);
const MIB: u64 = 1 << 20;
const READINGS: usize = 1 << 20;
const HISTORIAN: DestinationId = DestinationId(1);

const PLANT: &str = r#"version = 1
[[device]]
id = "press"
driver = "modbus-tcp"
address = "127.0.0.1:9"
[[device.group]]
id = "fast"
period = "100ms"
tag = [{ name = "pressure", address = "40101", type = "f32", unit = "bar" }]
[[destination]]
id = "historian"
kind = "http"
url = "http://127.0.0.1:18080/ingest"
start = "oldest"
"#;

/// The system's clock, ahead by what a test says.
#[derive(Default)]
struct TestClock {
    ahead_millis: AtomicI64,
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus_nanos(self.ahead_millis.load(Ordering::Relaxed) * 1_000_000)
    }
}

/// One node without its outer parts.
struct Node {
    replica: Replica<SimEngine>,
    clock: Arc<TestClock>,
    free: Arc<AtomicU64>,
    disk: Arc<SimDisk>,
    spawner: Spawner,
    _supervisor: Supervisor,
    _staging: tempfile::TempDir,
}

/// A cluster of so many nodes, one of which leads.
async fn cluster(size: usize) -> Vec<Node> {
    let mut listeners = Vec::new();
    for _ in 0..size {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.expect("a free port"));
    }
    let members: Vec<(String, String)> = (1..)
        .zip(&listeners)
        .map(|(number, listener)| {
            (format!("node-{number}"), listener.local_addr().expect("bound").to_string())
        })
        .collect();
    // Several nodes share the machine with other tests: nothing here is about who leads.
    let times = if size > 1 { LeaseTimes::WAN } else { LeaseTimes::LAN };
    let starting =
        (1_u64..).zip(listeners).map(|(number, listener)| node(number, times, listener, members.clone()));
    timeout(SOON, futures::future::join_all(starting)).await.expect("they found their cluster")
}

async fn node(number: u64, times: LeaseTimes, listener: TcpListener, members: Vec<(String, String)>) -> Node {
    let (supervisor, spawner) = Supervisor::new();
    let staging = tempfile::tempdir().expect("a temporary folder");
    let disk = SimDisk::new(number);
    let engine = SimEngine::open(&disk).expect("a fresh disk opens");
    let options = StoreOptions { tail_bytes: 1 << 20, birth: u128::from(number).into() };
    let store = Store::open(Arc::new(engine), options, &spawner).await.expect("a new store opens");
    let clock = Arc::new(TestClock::default());
    let free = Arc::new(AtomicU64::new(1 << 40));
    let probed = Arc::clone(&free);
    let parts = ReplicaParts {
        store,
        cluster_name: "plant-7".into(),
        name: format!("node-{number}"),
        role: Role::Gateway,
        boot: BootId::from(u128::from(number)),
        members,
        belonging: Belonging::default(),
        times,
        windows: replication::Windows::default(),
        api: String::new(),
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        connector: Arc::new(TcpConnector::new(Duration::from_millis(250))),
        acceptor: Arc::new(PlainAcceptor),
        listener: Some(listener),
        staging: staging.path().join("incoming"),
        free_bytes: Arc::new(move || probed.load(Ordering::Relaxed)),
        events: PeerEvents::new(|_| ()),
        spawner: spawner.clone(),
        random: generator(Some(number)),
    };
    let replica = Replica::start(parts).await.expect("it starts");
    Node { replica, clock, free, disk, spawner, _supervisor: supervisor, _staging: staging }
}

/// The node that leads.
async fn leader(nodes: &[Node]) -> usize {
    let leads = nodes.iter().map(|node| {
        let mut leadership = node.replica.leadership();
        Box::pin(async move { drop(leadership.wait_for(Option::is_some).await.expect("the replica runs")) })
    });
    timeout(SOON, futures::future::select_all(leads)).await.expect("somebody leads").1
}

fn plant(max_bytes: u64, when_full: WhenFull) -> Plant {
    let mut plant = read_bundle(&Bundle::of_document(PLANT)).expect("it is valid").plant;
    plant.retention.max_bytes = max_bytes;
    plant.retention.when_full = when_full;
    plant
}

impl Node {
    async fn propose(&self, command: Command) -> store::Outcome {
        loop {
            match self.replica.propose(&command, PATIENCE).await {
                Ok(applied) => return applied.outcome,
                // On a busy machine the lease may run out for a moment.
                Err(ProposeError::NoQuorum) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("it is not committed: {error}"),
            }
        }
    }

    async fn configure(&self, plant: Plant) {
        let command = Command::Configure {
            base: self.read(State::revision),
            bundle: b"bundle".to_vec(),
            plant: Box::new(plant),
            elapsed: Vec::new(),
            discard: Vec::new(),
            request: Request::default(),
        };
        let outcome = self.propose(command).await;
        assert!(matches!(outcome, store::Outcome::Configured { .. }), "{outcome}");
    }

    fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        self.replica.store().keeper().read(read)
    }

    fn leads(&self) -> Leadership {
        self.replica.leadership().borrow().clone().expect("it leads")
    }

    /// Starts to lead whenever this node has leadership, and to hand over when its disk is full.
    fn lead(&self) {
        let facts = NodeFacts {
            name: self.replica.name().to_owned(),
            cluster: "plant-7".to_owned(),
            data_dir: self._staging.path().to_owned(),
            vars: BTreeMap::new(),
        };
        let (leading, switchover) = Leading::new(LeadingParts {
            replica: self.replica.clone(),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            live: Live::default(),
            facts,
            bind: None,
            field: FieldDoor::default(),
            readings: READINGS,
            hooks: hooks::start(Hooks::default(), "plant-7", &self.replica, &self.spawner),
            spawner: self.spawner.clone(),
        });
        self.spawner.spawn("leading", leading.run());
        let yielding = space::hand_over_when_full(self.replica.clone(), switchover);
        let stop = self.spawner.token().clone();
        self.spawner.spawn("room", async move {
            stop.run_until_cancelled(yielding).await;
            Ok::<(), Failure>(())
        });
    }

    /// Starts to keep the horizon and the gate.
    fn retain(&self) {
        let leadership = self.leads();
        let run = retention::run(self.replica.clone(), leadership, self.spawner.token().clone());
        self.spawner.spawn("retention", run);
    }

    /// Starts to read.
    fn acquire(&self) -> CancellationToken {
        let leadership = self.leads();
        let parts = AcquisitionParts {
            replica: self.replica.clone(),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            live: Live::default(),
            bind: None,
            field: FieldDoor::default(),
            readings: READINGS,
            spawner: self.spawner.clone(),
        };
        let stop = self.spawner.token().child_token();
        self.spawner.spawn(
            "acquisition",
            acquisition::run(Arc::new(parts), leadership, WarmConnections::default(), stop.clone()),
        );
        stop
    }

    /// Waits until the ledger is as `wanted`.
    async fn until(&self, what: &str, wanted: impl Fn(&State) -> bool) {
        let mut applied = self.replica.store().keeper().applied();
        let reached = async {
            while !self.read(&wanted) {
                applied.changed().await.expect("the ledger is open");
            }
        };
        timeout(SOON, reached).await.unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"));
    }

    /// Waits until samples are refused, or taken.
    async fn until_closed(&self, closed: bool) {
        let reached = async {
            while self.replica.is_closed_to_samples() != closed {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, reached).await.unwrap_or_else(|_| panic!("not within {SOON:?}: closed = {closed}"));
    }

    /// Pushes about 100 kB in ten samples.
    async fn push(&self, sequence: u64) -> Result<(), ProposeError> {
        let source = Source::Pushed { session: SessionId::from(7), sequence };
        let batch = EncodedBatch::encode(&self.batch(source, 10, 10_000)).expect("it is small");
        loop {
            match self.replica.append(std::slice::from_ref(&batch), PATIENCE).await {
                Err(ProposeError::NoQuorum) => tokio::time::sleep(Duration::from_millis(20)).await,
                other => return other.map(|_| ()),
            }
        }
    }

    fn polled(&self, group: GroupId, grid: GridId, slot: u64) -> Batch {
        self.batch(Source::Polled { group, grid, slot, skipped: Cause::Late }, 1, 8)
    }

    fn batch(&self, source: Source, samples: u32, bytes: usize) -> Batch {
        use rand::RngCore as _;
        let mut random = generator(Some(u64::from(samples)));
        let mut sample = |number: u32| {
            let mut noise = vec![0; bytes];
            random.fill_bytes(&mut noise);
            let value = Value::Bytes(noise.into());
            Sample { tag: TagId(1 + number), source_time: Timestamp(0), reading: Reading::Good(value) }
        };
        let samples = (0..samples).map(&mut sample).collect();
        Batch::new(source, self.replica.node(), Revision(1), self.clock.now(), samples).expect("not empty")
    }

    /// Accepted samples in the buffer, and the sequence numbers that they came under.
    fn buffered(&self) -> Vec<u64> {
        let (mut found, mut next) = (Vec::new(), self.read(|state| state.horizon.next()));
        loop {
            let (entries, reached) = self.replica.store().read_buffer(next, 1 << 20).expect("it can be read");
            if entries.is_empty() {
                return found;
            }
            next = reached;
            for entry in entries {
                let Some(command) = entry.command else { continue };
                let opened = wire::entry::open(command).expect("it was written here");
                let Command::Append { batches } = opened.command else { continue };
                found.extend(batches.iter().filter_map(|header| match header.source {
                    Source::Pushed { sequence, .. } => Some(sequence),
                    Source::Polled { .. } => None,
                }));
            }
        }
    }

    /// The first slots of all gaps, how many they are, and why, by grid; for records still above the horizon.
    fn gaps(&self) -> BTreeMap<GridId, Vec<(u64, u64, Cause)>> {
        let mut gaps: BTreeMap<GridId, Vec<_>> = BTreeMap::new();
        self.read(|state| {
            for record in state.effects.values().flat_map(|effects| &effects.records) {
                if let EffectRecord::Gap { grid, first, last, cause, .. } = record {
                    gaps.entry(*grid).or_default().push((*first, last - first + 1, *cause));
                }
            }
        });
        gaps
    }

    fn grid(&self) -> (GroupId, GridId) {
        self.read(|state| state.grids.iter().map(|(group, grid)| (*group, grid.id)).next().expect("a grid"))
    }
}

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
    node.until("what was delivered is given up", |state| state.horizon >= state.last_delivered).await;
    node.free.store(space::ROOM_AGAIN, Ordering::Relaxed);
    node.until_closed(false).await;
    node.push(2).await.expect("there is room again");
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
    while node.clock.now() < line.nominal(10) {
        tokio::time::sleep(line.period).await;
    }
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
    while node.clock.now() < line.nominal(said + 3) {
        tokio::time::sleep(line.period).await;
    }
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
async fn a_step_within_a_reign_is_a_reclock() {
    for step_millis in [3_600_000, -3_600_000, 700] {
        let nodes = cluster(1).await;
        let node = &nodes[leader(&nodes).await];
        node.configure(plant(64 * MIB, WhenFull::Refuse)).await;
        let (group, grid) = node.grid();
        node.acquire();
        node.until("it is read", |state| state.grids[&group].next > 0).await;
        node.clock.ahead_millis.store(step_millis, Ordering::Relaxed);
        node.until("the grid is opened anew", |state| {
            state.grids.get(&group).is_some_and(|open| open.id != grid && open.next > 0)
        })
        .await;
        let (line, next) = node.read(|state| (state.grids[&group].line, state.grids[&group].next));
        let apart = line.nominal(next).nanos_since(node.clock.now());
        assert!(
            apart.abs() < 5_000_000_000,
            "{step_millis} ms: the new grid lies {apart} ns from the new clock"
        );
        let missed: u64 = node.gaps().get(&grid).into_iter().flatten().map(|(_, slots, _)| slots).sum();
        assert!(missed < 50, "{step_millis} ms: {missed} slots of 100 ms are said to be missed");
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

/// The plant with its device at `address`, to which followers hold a connection or none.
fn warm_plant(address: SocketAddr, standby: Wanted) -> Plant {
    let mut plant = plant(64 * MIB, WhenFull::Refuse);
    let Link::ModbusTcp(link) = &mut plant.devices[0].link else { panic!("it is polled") };
    (link.host, link.port, link.standby) = (address.ip().to_string(), address.port(), standby);
    plant
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_holds_a_silent_connection_to_a_warm_device_and_takes_it_along_when_it_leads() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let device = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = device.local_addr().expect("bound");
    node.configure(warm_plant(address, Wanted::Warm)).await;
    let mut standby = Standby::new(node.replica.clone(), None, node.spawner.clone());
    let accepted = async |standby: &mut Standby<SimEngine>| {
        tokio::select! {
            () = standby.follow() => panic!("it follows until it is dropped"),
            accepted = timeout(SOON, device.accept()) => accepted.expect("in time").expect("accepted").0,
        }
    };
    let held = accepted(&mut standby).await;
    let disable = |enabled| Command::SetDeviceEnabled {
        device: "press".to_owned(),
        enabled,
        until: None,
        elapsed: Vec::new(),
        request: Request::default(),
    };
    let closed = async |standby: &mut Standby<SimEngine>, connection: &TcpStream| {
        let ended = async {
            loop {
                connection.readable().await.expect("it can be waited for");
                match connection.try_read(&mut [0]) {
                    // It only seemed to be readable.
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    end => return end,
                }
            }
        };
        tokio::select! {
            () = standby.follow() => panic!("it follows until it is dropped"),
            ended = timeout(SOON, ended) => ended.expect("in time"),
        }
    };
    node.propose(disable(false)).await;
    let end = closed(&mut standby, &held).await;
    assert!(matches!(end, Ok(0) | Err(_)), "nothing was sent, and it is closed: {end:?}");

    node.propose(disable(true)).await;
    let open = async {
        loop {
            let held = accepted(&mut standby).await;
            // It was accepted a moment before this side knows.
            let warm = standby.release().await;
            if !warm.is_empty() {
                return (held, warm);
            }
        }
    };
    let (held, warm) = timeout(SOON, open).await.expect("in time");
    assert_eq!(warm.len(), 1);
    assert_eq!(standby.release().await.len(), 0, "it is handed over once");
    let mut byte = [0];
    let unsent = held.try_read(&mut byte).map_err(|error| error.kind());
    assert!(!matches!(unsent, Ok(1..)), "a follower says nothing: {unsent:?}");
}
