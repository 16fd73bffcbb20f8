//! What scenarios on replicas in this process stand on: nodes without their outer parts, with simulated disks, a free space
//! and a wall clock that tests set.

mod clocks;
mod ending;
mod forwarding;
mod limits;
mod pushes;
mod reading;
mod receiver;
mod retries;
mod schedules;
mod shares;
mod standby;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use destinations::NodeFacts;
use drivers::modbus::{Origin, WarmConnections};
use model::batch::{Batch, Sample, Source};
use model::command::{Command, Request};
use model::plant::document::{Bundle, read_bundle};
use model::plant::{Plant, WhenFull};
use model::slots::GridLine;
use model::{
    BootId, Cause, Clock, Cursor, DestinationId, GridId, GroupId, Reading, Revision, Role, SessionId, TagId,
    Timestamp, Value,
};
use replication::{
    Belonging, Leadership, LeaseTimes, PeerEvents, PlainAcceptor, ProposeError, Replica, ReplicaParts,
    TcpConnector,
};
use runtime::random::generator;
use runtime::{Spawner, Supervisor, SystemClock};
use store::engine::sim::{SimDisk, SimEngine};
use store::ledger::{EffectRecord, State};
use store::{Store, StoreOptions};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use wire::EncodedBatch;

use crate::acquisition::{self, AcquisitionParts, Batcher};
use crate::config::Hooks;
use crate::egress::Gate;
use crate::field::FieldDoor;
use crate::leading::{Leading, LeadingParts, Switchover};
use crate::live::Live;
use crate::{hooks, retention, space};

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
        listener: Some(Box::new(listener)),
        staging: staging.path().join("incoming"),
        free_bytes: Arc::new(move || probed.load(Ordering::Relaxed)),
        snapshot_bytes: Arc::new(|| 1 << 40),
        events: PeerEvents::new(|_| ()),
        lease_events: replication::LeaseEvents::default(),
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

    fn facts(&self) -> NodeFacts {
        NodeFacts {
            name: self.replica.name().to_owned(),
            cluster: "plant-7".to_owned(),
            data_dir: self._staging.path().to_owned(),
            vars: BTreeMap::new(),
        }
    }

    /// Starts to lead whenever this node has leadership, and to hand over when its disk is full or somebody asks.
    fn lead(&self) -> Switchover {
        let (leading, switchover) = Leading::new(LeadingParts {
            replica: self.replica.clone(),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            live: Live::default(),
            destinations: Arc::new(self.facts()),
            dialler: Arc::new(Origin::default()),
            gate: Gate::default(),
            field: FieldDoor::default(),
            readings: READINGS,
            hooks: hooks::start(Hooks::default(), "plant-7", &self.replica, &self.spawner),
            random: generator(Some(7)),
            spawner: self.spawner.clone(),
        });
        self.spawner.spawn("leading", leading.run());
        let stop = self.spawner.token().clone();
        let yielding = space::hand_over_when_full(self.replica.clone(), switchover.clone(), stop);
        self.spawner.spawn("room", yielding);
        switchover
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
            dialler: Arc::new(Origin::default()),
            field: FieldDoor::default(),
            readings: READINGS,
            random: generator(Some(7)),
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

    /// Waits until slot `slot` of a grid has begun, by this node's clock.
    async fn until_begun(&self, line: &GridLine, slot: u64) {
        let begun = async {
            // A wall clock cannot be waited for: it may be set.
            while self.clock.now() < line.nominal(slot) {
                tokio::time::sleep(line.period).await;
            }
        };
        timeout(SOON, begun).await.unwrap_or_else(|_| panic!("slot {slot} does not begin within {SOON:?}"));
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
