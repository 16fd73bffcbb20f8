//! A node on a simulated machine: the real replica on the machine's disk and network, watched at each millisecond, and
//! around it as much of a gateway as the ledger needs to have something to do.
//!
//! - Its pushes come from [`crate::pushers`]; what acquisition would read is one batch for each slot that is due, while
//!   the lease is live. There is no driver and no forwarder: what is delivered goes from the buffer to the account of
//!   the run.
//! - A process ends by itself only when its disk was told to fail.

use std::cell::{Cell, RefCell, RefMut};
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{FutureExt as _, LocalBoxFuture};
use futures::stream::{FuturesUnordered, StreamExt as _};
use model::batch::Source;
use model::{BootId, Cause, Clock, Position, Revision, Role, StoreId, Term, Timestamp};
use replication::{
    Belonging, Leadership, LeaseEvents, LeaseTimes, PeerEvents, PlainAcceptor, Replica, ReplicaParts,
    SeededRuntime, Standing, Windows, seeded,
};
use runtime::random::generator;
use runtime::{Spawner, Supervisor};
use store::engine::sim::SimEngine;
use store::{BatchOutcome, OpenError, Outcome, Store, StoreOptions};
use tokio::sync::watch;
use tokio::time::interval;

use crate::account::Progress;
use crate::clock::DriftingClock;
use crate::network::{SimConnector, SimListener, address};
use crate::orders::{Order, PATIENCE, batch};
use crate::world::{FOUNDERS, MACHINES, Shared, View, World, branch, name};

/// How often a node looks for orders and at its lease.
const TICK: Duration = Duration::from_millis(1);
/// How often its log and buffer are compared with the others', in milliseconds.
const LOOK_EVERY: u64 = 5;
/// How often its ledger is.
const COMPARE_EVERY: u64 = 100;
/// Bytes free on every disk.
const FREE: u64 = 1 << 40;

/// A node that belongs to the cluster.
pub(crate) struct Process {
    shared: Shared,
    pub(crate) machine: usize,
    pub(crate) replica: Replica<SimEngine, SeededRuntime>,
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
    is_reading: Cell<bool>,
    progress: RefCell<Progress>,
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
        world.machines[machine].has_ended = true;
        world.machines[machine].view = None;
        match world.machines[machine].failures.checked_sub(1) {
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
    let (disk, clock, disks) = {
        let world = shared.borrow_mut();
        let of = &world.machines[machine];
        (Arc::clone(&of.disk), Arc::clone(&of.clock), of.disks)
    };
    let engine = Arc::new(SimEngine::open(&disk).map_err(|error| text(&error))?);
    let birth = StoreId::from((machine as u128 + 1) << 32 | u128::from(disks));
    let opened = Store::open(engine, StoreOptions { tail_bytes: 1 << 20, birth }, &spawner).await;
    let store = opened.map_err(|error| {
        if matches!(error, OpenError::Amnesic { .. }) {
            shared.borrow_mut().violated(format!("{}: {error}", name(machine)));
        }
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
        free_bytes: Arc::new(|| FREE),
        snapshot_bytes: Arc::new(|| FREE),
        events: PeerEvents::new(|_| {}),
        lease_events: LeaseEvents::default(),
        spawner,
        random: generator(Some(seed)),
    };
    let started = Box::pin(Replica::start(parts)).await;
    let replica: Replica<SimEngine, SeededRuntime> = started.map_err(|error| text(&error))?;
    Ok(Process {
        shared: shared.clone(),
        machine,
        leadership: replica.leadership(),
        replica,
        clock,
        held: RefCell::default(),
        acts: Cell::default(),
        handing_over: Cell::default(),
        hand_overs: Cell::default(),
        is_reading: Cell::default(),
        progress: RefCell::default(),
    })
}

impl Process {
    /// Not to be kept while waiting.
    pub(crate) fn world(&self) -> RefMut<'_, World> {
        self.shared.borrow_mut()
    }

    /// What the machine's clock shows.
    pub(crate) fn wall_clock(&self) -> Timestamp {
        self.clock.now()
    }

    /// The revision of the plant in force here.
    pub(crate) fn revision(&self) -> Revision {
        self.replica.store().keeper().read(|state| state.revision())
    }

    /// The right to act, if this node has it now.
    pub(crate) fn leadership_held(&self) -> Option<Leadership> {
        self.held.borrow().clone().filter(Leadership::is_live)
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

    /// Takes what was applied to the account; returns the position before which all of it is there.
    pub(crate) fn read_buffer(&self) -> Position {
        let mut progress = self.progress.borrow_mut();
        let mut world = self.world();
        let checked = world.account.read_buffer(&mut progress, self.replica.store());
        world.check(checked);
        progress.read()
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
            if let Some((leadership, source)) = self.due_slot() {
                at_work.push(self.read_slot(leadership, source).boxed_local());
            }
            while let Some(order) = self.next_order() {
                at_work.push(self.carry_out(order).boxed_local());
            }
        }
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
        let (applied, is_configured) =
            store.keeper().read(|state| (state.applied_position().0, state.revision() > Revision(0)));
        let of = &mut world.machines[self.machine];
        of.is_removed |= status.standing == Standing::Removed;
        of.view = Some(View {
            node: status.node,
            acts: None,
            applied,
            voters: status.voters.into_iter().flatten().collect(),
            members: status.members,
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
        world.machines[self.machine].is_handing_over = self.hand_overs.get() > 0;
        let acts = live.map(Leadership::term);
        if self.acts.replace(acts) != acts {
            let what =
                acts.map_or_else(|| "may act no more".to_owned(), |term| format!("acts in term {term}"));
            world.note(Some(self.machine), what);
        }
        acts
    }

    /// The next slot, if it is due and this node may read it.
    fn due_slot(&self) -> Option<(Leadership, Source)> {
        if self.is_reading.get() || self.world().is_quiet {
            return None;
        }
        let leadership = self.leadership_held()?;
        let grids = self.replica.store().keeper().open_grids();
        let (group, grid, _) = grids.into_iter().next()?;
        let last = grid.line.slots_until(self.clock.now()).checked_sub(1)?;
        let source = Source::Polled { group, grid: grid.id, slot: last, skipped: Cause::Late };
        if last < grid.next {
            return None;
        }
        self.is_reading.set(true);
        Some((leadership, source))
    }

    async fn read_slot(&self, leadership: Leadership, source: Source) {
        let read = batch(source, self.replica.node(), self.revision(), self.clock.now());
        let placed = Box::pin(self.replica.append_in(&leadership, &[read], PATIENCE)).await;
        self.is_reading.set(false);
        let Source::Polled { slot, .. } = source else { return };
        let what = match placed.map(|applied| applied.outcome) {
            Ok(Outcome::Appended { batches, .. }) => match batches.first() {
                Some(BatchOutcome::Accepted) => "is in the log".to_owned(),
                other => format!("is not in the log: {other:?}"),
            },
            Ok(other) => format!("was answered with {other}"),
            Err(error) => format!("has an unknown fate: {error}"),
        };
        self.world().note(Some(self.machine), format!("slot {slot} {what}"));
    }
}
