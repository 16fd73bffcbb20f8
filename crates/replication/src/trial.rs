//! Real replicas on trial: a cluster in one process, on simulated disks, over loopback connections that can be cut.
//!
//! - Everything between openraft and the disk's platter is what a node runs. Time is tokio's paused clock: no test waits,
//!   and none depends on how fast the machine is.
//! - While a test lets time pass ([`Cluster::until`], [`Cluster::run_for`]) it is watched at each millisecond that no two
//!   nodes may act at once: what a lease had promised to an operation holds, whatever becomes of its holder. And that a node
//!   which would be ended if it stood still is ended before another acts.
//! - A crash is a power cut: the links break, the disk keeps what was durable, and nobody cleans up.
//! - All that is drawn comes from fixed seeds, in openraft too ([`SeededRuntime`]). A run does not repeat to the millisecond
//!   for that: its connections are the machine's.

mod changes;
mod drained;
mod faults;
mod leases;
mod phases;
mod seeds;
mod warming;
mod wires;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use model::{BootId, Clock, NodeId, Permit as _, Position, Role, StoreId, Timestamp};
use openraft::AsyncRuntime;
use openraft::async_runtime::WatchReceiver as _;
use runtime::random::{Random, generator};
use runtime::{Lapse, Supervisor};
use store::engine::sim::{SimDisk, SimEngine};
use store::{Store, StoreOptions};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::chance::SeededRuntime;
use crate::founding::Belonging;
use crate::lease::{Leadership, LeaseEvents, LeaseTimes};
use crate::network::{PeerEvents, PlainAcceptor, Windows};
use crate::replica::Replica;
use crate::start::ReplicaParts;
use wires::{Wire, Wires};

/// No test waits longer (of its own time) for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a test looks.
const LOOK: Duration = Duration::from_millis(1);

/// What openraft draws from.
type Generator = <SeededRuntime as AsyncRuntime>::ThreadLocalRng;
type TestReplica = Replica<SimEngine, SeededRuntime>;

/// The seed of a node's process.
fn seed(number: u64, boot: u64) -> u64 {
    number << 8 | boot
}

/// What goes wrong inside a replica. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Mischief {
    apply: watch::Sender<bool>,
    panics: Arc<AtomicBool>,
}

impl Default for Mischief {
    fn default() -> Self {
        Self { apply: watch::Sender::new(true), panics: Arc::default() }
    }
}

impl Mischief {
    /// Called inside the Raft core.
    pub(crate) fn on_append(&self) {
        assert!(!self.panics.load(Ordering::SeqCst), "expected in this test: the core panics");
    }

    /// Called before each entry is applied.
    pub(crate) async fn before_apply(&self) {
        self.apply.subscribe().wait_for(|goes_on| *goes_on).await.expect("the sender is here");
    }

    /// Lets the Raft core panic at the next entry.
    pub(crate) fn panic_in_core(&self) {
        self.panics.store(true, Ordering::SeqCst);
    }

    fn let_apply(&self, goes_on: bool) {
        self.apply.send_replace(goes_on);
    }
}

/// A wall clock that goes as fast as the trial's time, and is right.
#[derive(Debug)]
struct TrialClock {
    origin: Instant,
}

impl Clock for TrialClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000).plus(self.origin.elapsed())
    }
}

/// One node: what survives its crashes, and its process.
struct Node {
    number: u64,
    disk: Arc<SimDisk>,
    /// What its disk has free for entries.
    free: Arc<AtomicU64>,
    times: LeaseTimes,
    staging: tempfile::TempDir,
    boots: u64,
    running: Option<Running>,
    /// Until when an operation of this node may be acting.
    promised: Option<(Leadership, Instant)>,
}

struct Running {
    replica: TestReplica,
    supervisor: Supervisor,
    mischief: Mischief,
    /// When what its operations rely on lapses, as it reported last.
    relied_on: Arc<Mutex<Option<Lapse>>>,
    /// What openraft would have drawn from next when it had started.
    drawn: Generator,
}

/// A cluster of real replicas. Nodes are meant by their number, from 1.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    wires: Arc<Wires>,
    clock: Arc<TrialClock>,
    random: Random,
    /// What crashed, and is still noticing it.
    wrecks: Vec<Running>,
}

impl Cluster {
    /// Founds a cluster with one node for each of `times`, and waits for its first leader.
    pub(crate) async fn found<const N: usize>(times: [LeaseTimes; N]) -> Self {
        let nodes = (1..).zip(times).map(|(number, times)| Node {
            number,
            disk: disk(number),
            free: Arc::new(AtomicU64::new(1 << 30)),
            times,
            staging: tempfile::tempdir().expect("a folder"),
            boots: 0,
            running: None,
            promised: None,
        });
        let mut cluster = Self {
            nodes: nodes.collect(),
            wires: Arc::default(),
            clock: Arc::new(TrialClock { origin: Instant::now() }),
            random: generator(Some(7)),
            wrecks: Vec::new(),
        };
        let (members, wires, clock) = cluster.surroundings();
        let starting = cluster.nodes.iter_mut().map(|node| node.start(&members, &wires, &clock));
        futures::future::join_all(starting).await;
        cluster.until("a first leader", |cluster| cluster.leader().is_some()).await;
        cluster
    }

    fn members(&self) -> Vec<(String, String)> {
        self.nodes.iter().map(|node| (name(node.number), address(node.number))).collect()
    }

    /// What every node is told when it starts.
    fn surroundings(&self) -> (Vec<(String, String)>, Arc<Wires>, Arc<TrialClock>) {
        (self.members(), Arc::clone(&self.wires), Arc::clone(&self.clock))
    }

    fn node(&self, number: u64) -> &Node {
        &self.nodes[number as usize - 1]
    }

    fn running(&self, number: u64) -> &Running {
        self.node(number).running.as_ref().expect("the node runs")
    }

    /// A node's replica.
    pub(crate) fn replica(&self, number: u64) -> &TestReplica {
        &self.running(number).replica
    }

    fn mischief(&self, number: u64) -> &Mischief {
        &self.running(number).mischief
    }

    fn disk(&self, number: u64) -> &SimDisk {
        &self.node(number).disk
    }

    fn set_free(&self, number: u64, bytes: u64) {
        self.node(number).free.store(bytes, Ordering::SeqCst);
    }

    /// The node that may act now.
    pub(crate) fn leader(&self) -> Option<u64> {
        let acts = |node: &&Node| node.leadership().is_some_and(|held| held.check().is_ok());
        self.nodes.iter().find(acts).map(|node| node.number)
    }

    /// All nodes but this one.
    fn others(&self, than: u64) -> Vec<u64> {
        self.nodes.iter().map(|node| node.number).filter(|number| *number != than).collect()
    }

    /// The leader and the two others of three.
    fn three(&self) -> (u64, u64, u64) {
        let leader = self.leader().expect("somebody leads");
        let others = self.others(leader);
        (leader, others[0], others[1])
    }

    fn leadership(&self, number: u64) -> Leadership {
        self.node(number).leadership().expect("it leads")
    }

    fn term(&self, number: u64) -> u64 {
        self.replica(number).inner.raft.metrics().borrow_watched().current_term
    }

    /// Lets time pass until `condition` holds.
    pub(crate) async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < until, "expected within {PATIENCE:?}: {what}; found {}", self.account());
            sleep(LOOK).await;
            self.look();
        }
    }

    fn applied(&self, node: u64) -> Position {
        self.replica(node).store().keeper().read(|state| state.applied_position())
    }

    async fn until_all_applied_alike(&mut self) {
        self.until("all nodes to have applied the same", |cluster| {
            let applied: BTreeSet<_> =
                cluster.nodes.iter().map(|node| cluster.applied(node.number)).collect();
            applied.len() == 1
        })
        .await;
    }

    /// Lets time pass.
    async fn run_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            sleep(LOOK).await;
            self.look();
        }
    }

    /// Asserts that no two nodes may act at once.
    fn look(&mut self) {
        let now = Instant::now();
        for node in &mut self.nodes {
            // Its operations had all ended when it gave up.
            let given_up = |held: &Leadership| {
                let running = node.running.as_ref();
                running.is_some_and(|running| running.replica.inner.cell.is_barred(held.term()))
            };
            node.promised = node.promised.take().filter(|(held, until)| *until > now && !given_up(held));
            if let Some(held) = node.leadership().filter(|held| held.check().is_ok()) {
                let until =
                    (now + held.remaining()).max(node.promised.as_ref().map_or(now, |(_, until)| *until));
                node.promised = Some((held, until));
            }
        }
        let acting: Vec<u64> =
            self.nodes.iter().filter(|node| node.promised.is_some()).map(|node| node.number).collect();
        assert!(acting.len() < 2, "nodes {acting:?} may act at once: {}", self.account());
        for (node, running) in self.nodes.iter().filter_map(|node| Some((node, node.running.as_ref()?))) {
            let relied_on = *running.relied_on.lock().expect("nobody panics with it");
            let is_in_time = match node.leadership().filter(|held| held.check().is_ok()) {
                Some(held) => relied_on.map(|lapse| lapse.at) >= held.deadline(),
                None if acting.iter().any(|number| *number != node.number) => {
                    relied_on.is_none_or(|lapse| lapse.deadly <= now)
                }
                None => true,
            };
            assert!(
                is_in_time,
                "{acting:?} acts, and node {} relies on {relied_on:?} at {now:?}: {}",
                node.number,
                self.account()
            );
        }
    }

    /// What is worth knowing when a test fails.
    fn account(&self) -> String {
        let of = |node: &Node| match &node.running {
            None => format!("node {} is down", node.number),
            Some(running) => {
                let status = running.replica.status();
                let lease = node.leadership().map(|held| held.remaining());
                format!(
                    "node {} is {} of term {}, leader {:?}, log to {}, applied {}, lease {lease:?}",
                    node.number, status.standing, status.term, status.leader, status.last, status.applied
                )
            }
        };
        self.nodes.iter().map(of).collect::<Vec<_>>().join("; ")
    }

    /// Cuts the power of a node. No time passes.
    #[allow(clippy::disallowed_methods, reason = "a test is the end that everything it spawned comes to")]
    fn crash(&mut self, number: u64) {
        self.wires.unplug(number);
        let disk = Arc::clone(&self.node(number).disk);
        disk.crash(&mut self.random);
        let node = &mut self.nodes[number as usize - 1];
        let running = node.running.take().expect("only what runs can crash");
        running.replica.inner.spawner.token().cancel();
        let replica = running.replica.clone();
        tokio::spawn(async move { replica.shut_down().await });
        self.wrecks.push(running);
    }

    /// Starts a node that crashed.
    async fn restart(&mut self, number: u64) {
        let (members, wires, clock) = self.surroundings();
        self.nodes[number as usize - 1].start(&members, &wires, &clock).await;
    }

    /// Cuts a node off from everybody, or connects it again.
    fn isolate(&self, number: u64, cut: bool) {
        for other in self.others(number) {
            self.wires.cut(number, other, cut);
            self.wires.cut(other, number, cut);
        }
    }
}

impl Node {
    fn leadership(&self) -> Option<Leadership> {
        self.running.as_ref().and_then(|running| running.replica.inner.leadership.borrow().clone())
    }

    async fn start(&mut self, members: &[(String, String)], wires: &Arc<Wires>, clock: &Arc<TrialClock>) {
        self.boots += 1;
        let number = self.number;
        let seed = seed(number, self.boots);
        let (supervisor, spawner) = Supervisor::new();
        let engine = Arc::new(SimEngine::open(&self.disk).expect("the disk is not in use"));
        let options = StoreOptions { tail_bytes: 1 << 20, birth: StoreId::from(u128::from(number)) };
        let store = Store::open(engine, options, &spawner).await.expect("the directory opens");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        wires.plug_in(number, &address(number), listener.local_addr().expect("bound"));
        let mischief = Mischief::default();
        let relied_on = Arc::<Mutex<Option<Lapse>>>::default();
        let reported = Arc::clone(&relied_on);
        let parts = ReplicaParts {
            store,
            cluster_name: "plant-7".to_owned(),
            name: name(number),
            role: Role::Gateway,
            boot: BootId::from(u128::from(number << 32 | self.boots)),
            members: members.to_vec(),
            api: String::new(),
            belonging: Belonging { address: address(number), ..Belonging::default() },
            times: self.times,
            windows: Windows::default(),
            clock: Arc::clone(clock) as Arc<dyn Clock>,
            connector: Arc::new(Wire::of(number, wires)),
            acceptor: Arc::new(PlainAcceptor),
            listener: Some(Box::new(listener)),
            staging: self.staging.path().join(self.boots.to_string()),
            free_bytes: {
                let free = Arc::clone(&self.free);
                Arc::new(move || free.load(Ordering::SeqCst))
            },
            snapshot_bytes: Arc::new(|| 1 << 30),
            events: PeerEvents::new(|_| {}),
            lease_events: LeaseEvents::new(move |lapse| {
                *reported.lock().expect("nobody panics with it") = lapse
            }),
            spawner,
            random: generator(Some(seed)),
            mischief: mischief.clone(),
        };
        let starting = TestReplica::start(parts).map(|started| (started, SeededRuntime::thread_rng()));
        let (started, drawn) = SeededRuntime::scope(seed, starting).await;
        let replica = started.expect("the replica starts");
        self.running = Some(Running { replica, supervisor, mischief, relied_on, drawn });
    }
}

fn disk(number: u64) -> Arc<SimDisk> {
    let disk = SimDisk::new(number);
    disk.set_latency(Duration::from_millis(1), Duration::from_millis(2));
    disk
}

fn name(number: u64) -> String {
    format!("gateway-{number}")
}

fn address(number: u64) -> String {
    format!("{}:7610", name(number))
}
