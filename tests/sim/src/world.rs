//! What the machines of a run, its pushers, its operator and its faults have in common.
//!
//! - A run has one thread, and nobody keeps a borrow of the world while waiting for anything.
//! - Everything that happens is noted as an [`Event`]; the sequence of events is what a seed must repeat.
//! - The first violation ends the run.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::{Member, NodeId, Term};
use store::engine::sim::SimDisk;

use crate::account::{Account, Violation};
use crate::clock::{DriftingClock, TrueTime};
use crate::orders::Order;
use crate::pushers::Pusher;

/// Machines of a run: three found the cluster, the others join and replace.
pub(crate) const MACHINES: usize = 4;
/// How many of them found it.
pub(crate) const FOUNDERS: usize = 3;

/// The host of the device, and that of the destination.
pub(crate) const TANK: usize = MACHINES;
pub(crate) const ARCHIVE: usize = MACHINES + 1;
/// All hosts: machines first.
pub(crate) const HOSTS: usize = MACHINES + 2;

/// Bytes free on a disk that is not full.
pub(crate) const FREE: u64 = 1 << 40;

/// How long a healthy disk takes.
pub(crate) const DISK_LATENCY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(2));

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Milliseconds since the run began.
    at: u64,
    /// To which host, if to one.
    host: Option<usize>,
    what: String,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Some(host) => write!(f, "{:>7} {}: {}", self.at, name(host), self.what),
            None => write!(f, "{:>7} {}", self.at, self.what),
        }
    }
}

/// What the process on a machine says of itself.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) node: NodeId,
    /// The term in which it holds a live lease.
    pub(crate) acts: Option<Term>,
    pub(crate) applied: u64,
    pub(crate) voters: BTreeSet<u64>,
    pub(crate) members: BTreeMap<NodeId, Member>,
    /// Who is kept from leading.
    pub(crate) drained: BTreeSet<NodeId>,
    pub(crate) is_configured: bool,
}

/// What survives the processes on a machine, and what is known of the one that runs.
pub(crate) struct Machine {
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) clock: Arc<DriftingClock>,
    /// Its monotonic clock gains something every so many milliseconds, if it does.
    pub(crate) gains_every: Option<u64>,
    /// Bytes free on its disk, as it is told.
    pub(crate) free: Arc<AtomicU64>,
    /// Processes so far.
    pub(crate) boots: u64,
    /// Disks so far.
    pub(crate) disks: u64,
    /// Its power is on.
    pub(crate) is_on: bool,
    /// How often its disk was told to fail some time: so many processes may end by themselves.
    pub(crate) failures: u32,
    /// Until then processes may end by themselves, because nothing more fits on its disk.
    pub(crate) overflows_until: u64,
    /// Its disk has forgotten what it had said to be durable.
    pub(crate) has_lied: bool,
    /// Its node has found that out, and takes part no more.
    pub(crate) is_amnesic: bool,
    /// Its process has ended by itself.
    pub(crate) has_ended: bool,
    /// The cluster has told it, or whoever asked for it, that it was removed.
    pub(crate) is_removed: bool,
    /// Its process may have given leadership up since it was looked at last.
    pub(crate) is_handing_over: bool,
    pub(crate) orders: VecDeque<Order>,
    /// Absent until its process belongs to the cluster.
    pub(crate) view: Option<View>,
}

/// Everything that a run consists of, but the network and the processes.
pub(crate) struct World {
    pub(crate) seed: u64,
    truth: TrueTime,
    pub(crate) machines: Vec<Machine>,
    pub(crate) pushers: Vec<Pusher>,
    pub(crate) account: Account,
    events: Vec<Event>,
    violation: Option<Violation>,
}

impl World {
    pub(crate) fn new(seed: u64, pushers: Vec<Pusher>) -> Self {
        let truth = TrueTime::default();
        let machine = |number| Machine {
            disk: disk(seed, number, 1),
            clock: Arc::new(DriftingClock::new(&truth)),
            gains_every: None,
            free: Arc::new(AtomicU64::new(FREE)),
            boots: 0,
            disks: 1,
            is_on: true,
            failures: 0,
            overflows_until: 0,
            has_lied: false,
            is_amnesic: false,
            has_ended: false,
            is_removed: false,
            is_handing_over: false,
            orders: VecDeque::new(),
            view: None,
        };
        let machines = (0..MACHINES).map(machine).collect();
        Self {
            seed,
            truth,
            machines,
            pushers,
            account: Account::default(),
            events: Vec::new(),
            violation: None,
        }
    }

    /// Milliseconds since the run began.
    pub(crate) fn now(&self) -> u64 {
        self.truth.load(Ordering::Relaxed)
    }

    pub(crate) fn set_now(&mut self, now: u64) {
        self.truth.store(now, Ordering::Relaxed);
    }

    pub(crate) fn note(&mut self, host: Option<usize>, what: impl Into<String>) {
        let event = Event { at: self.now(), host, what: what.into() };
        self.events.push(event);
    }

    /// Something is wrong; only the first such thing is worth telling.
    pub(crate) fn violated(&mut self, violation: impl Into<Violation>) {
        self.violation.get_or_insert_with(|| violation.into());
    }

    /// The same for what was checked.
    pub(crate) fn check(&mut self, checked: Result<(), Violation>) {
        if let Err(violation) = checked {
            self.violated(violation);
        }
    }

    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    pub(crate) fn events(&self) -> &[Event] {
        &self.events
    }

    /// Whether the cluster would live on if a disk had lied: no other one has that was not replaced, and all machines vote, so
    /// that a majority is left whatever change of the membership is under way.
    pub(crate) fn bears_a_lie(&self) -> bool {
        let all_vote = self.leader().is_some_and(|(_, view)| view.voters.len() == MACHINES);
        all_vote && self.machines.iter().all(|machine| !machine.has_lied)
    }

    /// The machine that may act now, and what it says of itself.
    pub(crate) fn leader(&self) -> Option<(usize, &View)> {
        let views = self.machines.iter().enumerate();
        let mut views = views.filter_map(|(machine, of)| Some((machine, of.view.as_ref()?)));
        views.find(|(_, view)| view.acts.is_some())
    }

    /// The process of a machine is gone, and nobody hears from it what became of what it was asked.
    pub(crate) fn forget_process(&mut self, machine: usize) {
        let of = &mut self.machines[machine];
        (of.view, of.has_ended) = (None, false);
        of.orders.clear();
        if std::mem::take(&mut of.is_handing_over) {
            self.account.gave_up(machine);
        }
        for pusher in &mut self.pushers {
            pusher.lose_machine(machine);
        }
    }

    /// Gives a machine an empty disk.
    pub(crate) fn wipe(&mut self, machine: usize) {
        let seed = self.seed;
        let of = &mut self.machines[machine];
        of.disks += 1;
        of.disk = disk(seed, machine, of.disks);
        (of.failures, of.is_removed) = (0, false);
        (of.has_lied, of.is_amnesic) = (false, false);
    }
}

/// The world as everybody has it who lives in it.
#[derive(Clone)]
pub(crate) struct Shared(Rc<RefCell<World>>);

impl Shared {
    pub(crate) fn new(world: World) -> Self {
        Self(Rc::new(RefCell::new(world)))
    }

    /// Not to be kept while waiting.
    pub(crate) fn borrow_mut(&self) -> RefMut<'_, World> {
        self.0.borrow_mut()
    }
}

impl Machine {
    /// Whether it is told that its disk has no room for samples.
    pub(crate) fn is_full(&self) -> bool {
        self.free.load(Ordering::Relaxed) < FREE
    }
}

/// How a host is called.
pub(crate) fn name(host: usize) -> String {
    match host {
        TANK => "tank".to_owned(),
        ARCHIVE => "archive".to_owned(),
        machine => format!("gateway-{}", machine + 1),
    }
}

/// A seed for a part of a run: `part` differs for each.
pub(crate) fn branch(seed: u64, part: u64) -> u64 {
    // splitmix64: neighbouring seeds and parts have nothing in common.
    let mut mixed = seed.wrapping_add(part.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn disk(seed: u64, machine: usize, number: u64) -> Arc<SimDisk> {
    let disk = SimDisk::new(branch(seed, 0x1000 + (machine as u64) * 0x100 + number));
    disk.set_latency(DISK_LATENCY.0, DISK_LATENCY.1);
    disk
}
