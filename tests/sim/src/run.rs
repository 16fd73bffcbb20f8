//! One run: a cluster is founded, lives through faults, is healed, and must then be well.
//!
//! - After everything is mended, somebody acts within [`LEADS_WITHIN`], pushes are acknowledged again, all members come to
//!   have applied the same, and the destination has everything.
//! - Real is what a node does in its cluster: replication, the store, and of the gateway acquisition with its driver,
//!   forwarding, retention, switchovers, and ingest behind its door. Not real are: disks, networks and clocks; the sockets
//!   to devices, in the place of which are simulated connections; what a destination does with a delivery (HTTP, files),
//!   of which the seam is what is left; the transport of pushes, whose streams begin in the process that takes them; RocksDB;
//!   the API, health, alarms and system tags, hooks, the egress lease and the dead man, which are those of a machine.
//! - What a run does follows from its seed alone, as far as that is in our hands. Not seeded are: tokio's choices among
//!   ready branches (`select!`), unless it is built with `--cfg tokio_unstable`, as `make sim` does; the order in which
//!   threads finish that read and write staged snapshots; the keys of hash maps, over none of which our code decides;
//!   how long HTTP/2 remembers a stream that was reset, and the dates in its headers.
//! - `select!` of the crate futures chooses by a generator of its thread, which goes on from one run to the next. So each
//!   run has a process of its own; two in one process are two stories.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, UNIX_EPOCH};

use runtime::random::{Random, generator};
use serde::{Deserialize, Serialize};
use turmoil::{Builder, Sim};

use crate::account::Violation;
use crate::archive;
use crate::faults::{Faults, LINK_LATENCY};
use crate::field;
use crate::node;
use crate::operator::Operator;
use crate::orders::Order;
use crate::panics;
use crate::pushers::{Pusher, push};
use crate::world::{ARCHIVE, MACHINES, Shared, TANK, World, branch, name};

/// Sessions that push.
const PUSHERS: usize = 3;
/// Milliseconds in which a cluster is founded.
const FOUNDED_WITHIN: u64 = 5_000;
/// Milliseconds in which somebody leads when everything is mended.
const LEADS_WITHIN: u64 = 3_000;
/// Milliseconds in which all is well then.
const WELL_WITHIN: u64 = 15_000;
/// The part of a run in which there are faults.
const TROUBLED: (u64, u64) = (7, 10);

/// What came of a run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    /// In words, in order.
    pub(crate) events: Vec<String>,
    pub(crate) verdict: Result<Figures, Violation>,
}

/// What happened in a run, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) ticks: u64,
    pub(crate) faults: u64,
    pub(crate) processes: u64,
    pub(crate) reigns: u64,
    pub(crate) pushes: u64,
    pub(crate) slots: u64,
    pub(crate) reads: u64,
    pub(crate) records: u64,
}

impl Figures {
    /// The sums of both.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            ticks: self.ticks + other.ticks,
            faults: self.faults + other.faults,
            processes: self.processes + other.processes,
            reigns: self.reigns + other.reigns,
            pushes: self.pushes + other.pushes,
            slots: self.slots + other.slots,
            reads: self.reads + other.reads,
            records: self.records + other.records,
        }
    }
}

/// Runs a cluster for about `ticks` milliseconds of its time.
pub(crate) fn run(seed: u64, ticks: u64) -> Report {
    panics::forget();
    let shared = Shared::new(World::new(seed, (0..PUSHERS).map(Pusher::new).collect()));
    let course = AssertUnwindSafe(|| Course::new(seed, shared.clone())?.complete(ticks));
    let verdict = catch_unwind(course).unwrap_or_else(|_| Err("the run itself panicked".to_owned()));
    // A panic says more than what came of it.
    let verdict = panics::first().map_or(verdict, |panic| Err(format!("panicked: {panic}")));
    let events = shared.borrow_mut().events().iter().map(ToString::to_string).collect();
    Report { seed, events, verdict }
}

/// A run under way.
struct Course {
    shared: Shared,
    sim: Sim<'static>,
    faults: Faults,
    operator: Operator,
    pushing: Random,
    _staging: tempfile::TempDir,
}

impl Course {
    fn new(seed: u64, shared: Shared) -> Result<Self, Violation> {
        let staging = tempfile::tempdir().map_err(|error| format!("no folder for snapshots: {error}"))?;
        let mut sim = Builder::new()
            .rng_seed(branch(seed, 1))
            .epoch(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
            .tick_duration(Duration::from_millis(1))
            .simulation_duration(Duration::MAX)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(LINK_LATENCY)
            .tcp_capacity(1 << 12)
            .enable_random_order()
            .build();
        for machine in 0..MACHINES {
            let (shared, folder) = (shared.clone(), staging.path().join(name(machine)));
            sim.host(name(machine), move || node::run(shared.clone(), machine, folder.clone()));
        }
        let of_tank = shared.clone();
        sim.host(name(TANK), move || field::run(of_tank.clone()));
        let of_archive = shared.clone();
        sim.host(name(ARCHIVE), move || archive::run(of_archive.clone()));
        let random = |part| generator(Some(branch(seed, part)));
        Ok(Self {
            faults: Faults::new(random(2), shared.clone()),
            operator: Operator::new(random(3)),
            pushing: random(4),
            shared,
            sim,
            _staging: staging,
        })
    }

    fn complete(mut self, ticks: u64) -> Result<Figures, Violation> {
        self.found()?;
        while self.now() < ticks * TROUBLED.0 / TROUBLED.1 {
            self.faults.strike(&mut self.sim);
            self.operator.order(&mut self.shared.borrow_mut());
            self.step(true)?;
        }
        if self.faults.count == 0 {
            return Err("nothing went wrong, so nothing was shown: it takes more ticks".to_owned());
        }
        self.faults.heal(&mut self.sim);
        self.until("somebody to lead", LEADS_WITHIN, true, |world| world.leader().is_some())?;
        self.serve()?;
        while self.now() < ticks {
            self.step(true)?;
        }
        self.come_to_rest()?;
        let world = self.shared.borrow_mut();
        world.account.settle()?;
        Ok(Figures {
            ticks: world.now(),
            faults: self.faults.count,
            processes: world.machines.iter().map(|machine| machine.boots).sum(),
            reigns: world.account.reigns() as u64,
            pushes: world.account.pushes(),
            slots: world.account.slots() as u64,
            reads: world.account.reads() as u64,
            records: world.account.records() as u64,
        })
    }

    /// A first leader, and a plant.
    fn found(&mut self) -> Result<(), Violation> {
        self.until("a first leader", FOUNDED_WITHIN, false, |world| world.leader().is_some())?;
        {
            let mut world = self.shared.borrow_mut();
            let leader = world.leader().map(|(machine, _)| machine);
            if let Some(leader) = leader {
                world.machines[leader].orders.push_back(Order::Configure);
            }
        }
        self.until("a plant", FOUNDED_WITHIN, false, |world| {
            world.leader().is_some_and(|(_, view)| view.is_configured)
        })
    }

    /// Each pusher has something acknowledged again.
    fn serve(&mut self) -> Result<(), Violation> {
        let acknowledged =
            |world: &World| -> Vec<u32> { world.pushers.iter().map(Pusher::acknowledged).collect() };
        let before = acknowledged(&self.shared.borrow_mut());
        self.until("pushes to be acknowledged", WELL_WITHIN, true, |world| {
            acknowledged(world).iter().zip(&before).all(|(now, before)| now > before)
        })
    }

    /// Nothing new is pushed, all members have applied the same, and everything is delivered.
    fn come_to_rest(&mut self) -> Result<(), Violation> {
        self.until("all members to have applied the same", WELL_WITHIN, false, |world| {
            let Some((_, leader)) = world.leader() else { return false };
            let applied = |machine: usize| world.machines[machine].view.as_ref().map(|view| view.applied);
            let is_member =
                |machine: &usize| leader.members.values().any(|known| known.name == name(*machine));
            let is_idle = world.pushers.iter().all(Pusher::is_idle);
            let takes_part = |machine: &usize| is_member(machine) && !world.machines[*machine].is_amnesic;
            is_idle
                && (0..MACHINES).filter(takes_part).all(|machine| applied(machine) == Some(leader.applied))
        })?;
        // Long enough for all ledgers to be compared once more.
        for _ in 0..200 {
            self.step(false)?;
        }
        self.until("the destination to have everything", WELL_WITHIN, false, |world| {
            world.account.owes_nothing()
        })
    }

    fn now(&self) -> u64 {
        self.shared.borrow_mut().now()
    }

    fn until(
        &mut self,
        what: &str,
        within: u64,
        pushes: bool,
        holds: impl Fn(&World) -> bool,
    ) -> Result<(), Violation> {
        let deadline = self.now() + within;
        while !holds(&self.shared.borrow_mut()) {
            if self.now() >= deadline {
                return Err(format!("expected within {within} ms: {what}"));
            }
            self.step(pushes)?;
        }
        Ok(())
    }

    /// Lets a millisecond pass.
    fn step(&mut self, pushes: bool) -> Result<(), Violation> {
        self.faults.mend(&mut self.sim);
        if pushes {
            push(&mut self.shared.borrow_mut(), &mut self.pushing);
        }
        self.sim.step().map_err(|error| format!("a host failed: {error}"))?;
        let mut world = self.shared.borrow_mut();
        let now = world.now() + 1;
        world.set_now(now);
        match (world.violation(), panics::first()) {
            (_, Some(panic)) => Err(format!("panicked: {panic}")),
            (Some(violation), None) => Err(violation.clone()),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICKS: u64 = 4_000;

    #[test]
    fn a_cluster_lives_through_a_short_run_of_faults() {
        let report = run(1, TICKS);
        let figures = report.verdict.unwrap_or_else(|violation| panic!("seed {}: {violation}", report.seed));
        let Figures { pushes, slots, reads, records, .. } = figures;
        assert!(pushes > 0 && slots > 0 && reads > 0 && records > 0, "{figures:?}");
    }

    #[test]
    fn two_seeds_are_two_stories() {
        assert_ne!(run(2, TICKS).events, run(3, TICKS).events);
    }
}
