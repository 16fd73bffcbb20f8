//! A node on a simulated machine: the real replica on the machine's disk and network, and what the gateway does with it,
//! watched at each millisecond.
//!
//! - It reads the device of [`crate::field`], delivers to the destination of [`crate::archive`], gives up what was delivered,
//!   hands over where another should lead, and takes what [`crate::pushers`] push: all that is [`Duties`].
//! - Its monotonic clock may be faster than those of the others, by less than the lease allows for.
//! - A process ends by itself only when its disk was told to fail. One that finds that its disk has forgotten something does
//!   nothing more; its machine is replaced.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{FutureExt as _, LocalBoxFuture};
use futures::stream::{FuturesUnordered, StreamExt as _};
use gateway::config::Hooks;
use gateway::live::Live;
use gateway::{Duties, DutyParts, FieldDoor, Gate, Memory};
use model::{BootId, Clock, Revision, Role, StoreId, Term, Timestamp};
use replication::{
    Belonging, Leadership, LeaseEvents, LeaseTimes, PeerEvents, PlainAcceptor, Replica, ReplicaParts,
    Standing, Windows, seeded,
};
use runtime::random::generator;
use runtime::{Spawner, Supervisor};
use store::engine::sim::SimEngine;
use store::{OpenError, Store, StoreOptions};
use tokio::sync::{mpsc, watch};
use tokio::time::{advance, interval};
use wire::proto::v1::PushRequest;

use crate::account::Progress;
use crate::archive::SimBuilder;
use crate::clock::DriftingClock;
use crate::field::SimDialler;
use crate::network::{SimConnector, SimListener, address};
use crate::orders::Order;
use crate::world::{FOUNDERS, FREE, MACHINES, Shared, View, World, branch, name};

/// How often a node looks for orders and at its lease.
const TICK: Duration = Duration::from_millis(1);
/// How often its log and buffer are compared with the others', in milliseconds.
const LOOK_EVERY: u64 = 5;
/// How often its ledger is.
const COMPARE_EVERY: u64 = 100;
/// By how much a faster clock is moved at a time. It gains one millisecond by that or two: a step of the simulation ends when
/// the clock has moved by one, and it depends on the step's beginning whether that is part of it.
const GAIN: Duration = Duration::from_millis(2);

/// A node that belongs to the cluster.
pub(crate) struct Process {
    shared: Shared,
    pub(crate) machine: usize,
    pub(crate) replica: Replica<SimEngine>,
    pub(crate) duties: Duties<SimEngine>,
    doors: RefCell<BTreeMap<usize, Door>>,
    clock: Arc<DriftingClock>,
    leadership: watch::Receiver<Option<Leadership>>,
    /// The leadership that was held last.
    held: RefCell<Option<Leadership>>,
    /// The term in which the lease was live when it was looked at last.
    acts: Cell<Option<Term>>,
    /// The term in which it has begun to hand over.
    handing_over: Cell<Option<Term>>,
    /// How many attempts to hand over have not come to their end.
    hand_overs: Cell<u32>,
    /// When its monotonic clock gained last, in milliseconds of the run.
    gained_at: Cell<u64>,
    progress: RefCell<Progress>,
}

/// Where the messages of a pusher go in.
pub(crate) struct Door {
    /// Which of its streams.
    pub(crate) stream: u64,
    pub(crate) requests: mpsc::Sender<PushRequest>,
}

/// One process on a machine, from its start until the machine is switched off.
pub(crate) async fn run(shared: Shared, machine: usize, staging: PathBuf) -> turmoil::Result {
    let (boot, seed) = {
        let mut world = shared.borrow_mut();
        world.machines[machine].boots += 1;
        let boot = world.machines[machine].boots;
        world.note(Some(machine), format!("process {boot} starts"));
        (boot, branch(world.seed, 0x10_0000 + (machine as u64) * 0x1_0000 + boot))
    };
    let ended = seeded(seed, Box::pin(live(&shared, machine, (boot, seed), staging))).await;
    {
        let mut world = shared.borrow_mut();
        world.note(Some(machine), format!("process {boot} ends by itself: {ended}"));
        world.machines[machine].has_ended = !world.machines[machine].is_amnesic;
        world.machines[machine].view = None;
        let overflows = world.now() < world.machines[machine].overflows_until;
        match world.machines[machine].failures.checked_sub(1) {
            _ if overflows || world.machines[machine].is_amnesic => {}
            Some(left) => world.machines[machine].failures = left,
            None => world.violated(format!("process {boot} on {} ended by itself: {ended}", name(machine))),
        }
    }
    // What is left of it stays until the machine is switched off.
    std::future::pending::<()>().await;
    Ok(())
}

/// Returns why the process ends.
async fn live(shared: &Shared, machine: usize, (boot, seed): (u64, u64), staging: PathBuf) -> String {
    let (mut supervisor, spawner) = Supervisor::new();
    let starting = Box::pin(start(shared, machine, (boot, seed), spawner, staging));
    let started = tokio::select! {
        biased;
        failure = supervisor.failure() => Err(failure.to_string()),
        started = starting => started,
    };
    match started {
        Ok(process) => process.serve(&mut supervisor).await,
        Err(reason) => reason,
    }
}

async fn start(
    shared: &Shared,
    machine: usize,
    (boot, seed): (u64, u64),
    spawner: Spawner,
    staging: PathBuf,
) -> Result<Process, String> {
    let text = |error: &dyn Display| error.to_string();
    let (disk, clock, free, disks) = {
        let world = shared.borrow_mut();
        let of = &world.machines[machine];
        (Arc::clone(&of.disk), Arc::clone(&of.clock), Arc::clone(&of.free), of.disks)
    };
    let engine = Arc::new(SimEngine::open(&disk).map_err(|error| text(&error))?);
    let birth = StoreId::from((machine as u128 + 1) << 32 | u128::from(disks));
    let opened = Store::open(engine, StoreOptions { tail_bytes: 1 << 20, birth }, &spawner).await;
    let store = opened.map_err(|error| {
        let mut world = shared.borrow_mut();
        if world.machines[machine].has_lied {
            world.machines[machine].is_amnesic = true;
        } else if matches!(error, OpenError::Amnesic { .. }) {
            world.violated(format!("{}: {error}", name(machine)));
        }
        drop(world);
        text(&error)
    })?;
    let listener = SimListener::bind().await.map_err(|error| text(&error))?;
    let others = (0..MACHINES).filter(|other| *other != machine).map(|other| address(&name(other)));
    let founders = (0..FOUNDERS).map(|founder| (name(founder), address(&name(founder))));
    // Only a first disk founds: what comes later was wiped, and joins.
    let (members, join) = match machine < FOUNDERS && disks == 1 {
        true => (founders.collect(), Vec::new()),
        false => (Vec::new(), others.collect()),
    };
    let parts = ReplicaParts {
        store,
        cluster_name: "plant-7".to_owned(),
        name: name(machine),
        role: Role::Gateway,
        boot: BootId::from((machine as u128 + 1) << 32 | u128::from(boot)),
        members,
        belonging: Belonging { join, address: address(&name(machine)), ..Belonging::default() },
        times: LeaseTimes::LAN,
        windows: Windows::default(),
        api: String::new(),
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        connector: Arc::new(SimConnector),
        acceptor: Arc::new(PlainAcceptor),
        listener: Some(Box::new(listener)),
        staging: staging.join(boot.to_string()),
        free_bytes: Arc::new(move || free.load(Ordering::Relaxed)),
        snapshot_bytes: Arc::new(|| FREE),
        events: PeerEvents::new(|_| {}),
        lease_events: LeaseEvents::default(),
        spawner: spawner.clone(),
        random: generator(Some(seed)),
    };
    let started = Box::pin(Replica::start(parts)).await;
    let replica: Replica<SimEngine> = started.map_err(|error| text(&error))?;
    let duties = Duties::start(duties(&replica, &clock, seed, spawner));
    Ok(Process {
        shared: shared.clone(),
        machine,
        leadership: replica.leadership(),
        replica,
        duties,
        doors: RefCell::default(),
        clock,
        held: RefCell::default(),
        acts: Cell::default(),
        handing_over: Cell::default(),
        hand_overs: Cell::default(),
        gained_at: Cell::default(),
        progress: RefCell::default(),
    })
}

/// What the gateway is started with, on the hosts of the run.
fn duties(
    replica: &Replica<SimEngine>,
    clock: &Arc<DriftingClock>,
    seed: u64,
    spawner: Spawner,
) -> DutyParts<SimEngine> {
    DutyParts {
        replica: replica.clone(),
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        live: Live::default(),
        destinations: Arc::new(SimBuilder),
        dialler: Arc::new(SimDialler),
        gate: Gate::default(),
        field: FieldDoor::default(),
        memory: Memory::default(),
        hooks: Hooks::default(),
        random: generator(Some(branch(seed, 1))),
        spawner,
    }
}

impl Process {
    /// Where the messages of each pusher go in. Not to be kept while waiting.
    pub(crate) fn doors(&self) -> RefMut<'_, BTreeMap<usize, Door>> {
        self.doors.borrow_mut()
    }

    /// Not to be kept while waiting.
    pub(crate) fn world(&self) -> RefMut<'_, World> {
        self.shared.borrow_mut()
    }

    /// What the machine's clock shows.
    pub(crate) fn wall_clock(&self) -> Timestamp {
        self.clock.now()
    }

    /// Notes how something ended that was asked of the node.
    pub(crate) fn note_outcome<T: Display, E: Display>(&self, what: &str, outcome: Result<T, E>) {
        let text = match outcome {
            Ok(done) => format!("{what}: {done}"),
            Err(error) => format!("{what} failed: {error}"),
        };
        self.world().note(Some(self.machine), text);
    }

    /// From now on leadership may be given up before its lease has run out.
    pub(crate) fn begin_to_hand_over(&self) {
        self.handing_over.set(self.held.borrow().as_ref().map(Leadership::term));
        self.hand_overs.set(self.hand_overs.get() + 1);
        self.world().machines[self.machine].is_handing_over = true;
    }

    /// An attempt to hand over is over. What came of it is seen when the lease is looked at next.
    pub(crate) fn end_to_hand_over(&self) {
        self.hand_overs.set(self.hand_overs.get() - 1);
    }

    /// Does what is asked of the node until an essential task of it ends; returns why.
    async fn serve(&self, supervisor: &mut Supervisor) -> String {
        let mut ticks = interval(TICK);
        let mut at_work: FuturesUnordered<LocalBoxFuture<'_, ()>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                failure = supervisor.failure() => return failure.to_string(),
                Some(()) = at_work.next() => continue,
                _ = ticks.tick() => {}
            }
            self.look();
            if self.gains_now() {
                advance(GAIN).await;
            }
            while let Some(order) = self.next_order() {
                at_work.push(self.carry_out(order).boxed_local());
            }
        }
    }

    /// Whether the monotonic clock of the machine is moved now, beside the time that passes.
    fn gains_now(&self) -> bool {
        let (now, every) = {
            let world = self.world();
            (world.now(), world.machines[self.machine].gains_every)
        };
        // It makes a tick more, which is in the same millisecond.
        every.is_some_and(|every| now.is_multiple_of(every)) && self.gained_at.replace(now) < now
    }

    fn next_order(&self) -> Option<Order> {
        self.world().machines[self.machine].orders.pop_front()
    }

    /// Shows what there is to see.
    fn look(&self) {
        let mut world = self.world();
        let acts = self.look_at_lease(&mut world);
        let now = world.now();
        if now.is_multiple_of(LOOK_EVERY) || world.machines[self.machine].view.is_none() {
            self.look_at_all(&mut world);
        }
        if let Some(view) = &mut world.machines[self.machine].view {
            view.acts = acts;
        }
        if now.is_multiple_of(COMPARE_EVERY) {
            let compared = world.account.compare_ledger(self.replica.store());
            world.check(compared);
            let applied = self.replica.store().keeper().read(|state| state.applied_position());
            world.note(Some(self.machine), format!("has applied {applied}"));
        }
    }

    fn look_at_all(&self, world: &mut World) {
        let status = self.replica.status();
        let store = self.replica.store();
        let mut progress = self.progress.borrow_mut();
        let looked = world.account.look(&mut progress, (status.term, status.committed), store);
        world.check(looked);
        let (applied, is_configured, drained) = store.keeper().read(|state| {
            let drained = state.drained.keys().copied().collect();
            (state.applied_position().0, state.revision() > Revision(0), drained)
        });
        let of = &mut world.machines[self.machine];
        of.is_removed |= status.standing == Standing::Removed;
        of.view = Some(View {
            node: status.node,
            acts: None,
            applied,
            voters: status.voters.into_iter().flatten().collect(),
            members: status.members,
            drained,
            is_configured,
        });
    }

    /// The term in which the lease is live.
    fn look_at_lease(&self, world: &mut World) -> Option<Term> {
        let mut held = self.held.borrow_mut();
        if let Some(current) = self.leadership.borrow().clone() {
            *held = Some(current);
        }
        let live = held.as_ref().filter(|held| held.is_live());
        let yields = self.hand_overs.get() > 0 || self.yields_by_itself(world);
        if let Some(held) = live.filter(|_| yields) {
            self.handing_over.set(Some(held.term()));
        }
        if let Some(held) = live {
            let now = world.now();
            match world.account.acts(self.machine, now, held) {
                Ok(true) => {
                    let complete = world.account.check_complete(held.term(), self.replica.store());
                    world.check(complete);
                }
                Ok(false) => {}
                Err(violation) => world.violated(violation),
            }
        } else if let Some(held) = held.as_ref()
            && held.is_over()
            && self.handing_over.get() == Some(held.term())
        {
            world.account.gave_up(self.machine);
        }
        world.machines[self.machine].is_handing_over = yields;
        let acts = live.map(Leadership::term);
        if self.acts.replace(acts) != acts {
            let what =
                acts.map_or_else(|| "may act no more".to_owned(), |term| format!("acts in term {term}"));
            world.note(Some(self.machine), what);
        }
        acts
    }

    /// Whether the gateway may give leadership up without being asked: nobody leads who is drained or being removed, or whose
    /// disk is full, if another can.
    fn yields_by_itself(&self, world: &World) -> bool {
        let is_drained = |node| self.replica.store().keeper().read(|state| state.drained.contains_key(&node));
        let is_leaving = self.replica.status().is_leaving();
        is_leaving || world.machines[self.machine].is_full() || is_drained(self.replica.node())
    }
}
