//! What goes wrong in a run, and when it is mended: all of it drawn from the run's seed.
//!
//! - Machines lose their power (what was not durable is lost, slots are torn, nobody hears a connection close) or have
//!   their process killed, and are switched on again. A process that has ended by itself is, too.
//! - With its power a machine may lose what its disk had said to be durable: more than its node can fail to notice. One at a
//!   time, while all vote, and it is replaced before the next.
//! - Links are cut in both directions or one, held back so that everything arrives at once later, or slow. Those to the
//!   device and to the destination are cut: what is held back there would be a request that nobody can take back.
//! - Disks are slow, fail at some operation, have no room for samples as far as their node is told, or none at all. Clocks are
//!   set, and drift; monotonic ones differ in rate, by less than the lease allows for.
//! - The device and the destination misbehave by themselves, see [`crate::field`] and [`crate::archive`].
//! - Not here: processes that stand still while time passes, because a simulated host cannot be stopped.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use runtime::random::Random;
use store::engine::sim::Operation;
use turmoil::Sim;

use crate::world::{ARCHIVE, DISK_LATENCY, FREE, HOSTS, MACHINES, Shared, TANK, World, name};

/// The longest that a healthy link takes.
pub(crate) const LINK_LATENCY: Duration = Duration::from_millis(4);
/// Milliseconds from one fault to the next, at most.
const FAULT_WITHIN: u64 = 500;
/// Milliseconds until one is mended, at most.
const MEND_WITHIN: u64 = 2_000;
/// A monotonic clock gains one or two milliseconds in so many: at most 0.45 %, where 0.5 % are allowed for.
const GAINS_EVERY: (u64, u64) = (450, 2_000);
/// How often a disk whose power is cut has lied.
const LIES: f64 = 0.15;
/// How long a process may take to notice that something did not fit on its disk, in milliseconds.
const NOTICES_WITHIN: u64 = 2_000;
/// Operations of which one fails.
const FAILS_WITHIN: u64 = 20;

/// A pair of hosts, the smaller number first.
type Pair = (usize, usize);

/// What is wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Cut,
    /// From the first of the pair to the second, or back.
    CutOneWay {
        back: bool,
    },
    Held,
    Slow,
}

/// What is mended some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mend {
    Link(Pair),
    Disk(usize),
    Room(usize),
    Power(usize),
}

/// Everything that is wrong now, and when it ends.
pub(crate) struct Faults {
    random: Random,
    shared: Shared,
    links: BTreeMap<Pair, Trouble>,
    /// By when, and in which order.
    mends: BTreeMap<(u64, u64), Mend>,
    number: u64,
    next: u64,
    /// How often something went wrong.
    pub(crate) count: u64,
}

impl Faults {
    pub(crate) fn new(random: Random, shared: Shared) -> Self {
        Self { random, shared, links: BTreeMap::new(), mends: BTreeMap::new(), number: 0, next: 0, count: 0 }
    }

    /// Mends what is due, and whatever has ended by itself.
    pub(crate) fn mend(&mut self, sim: &mut Sim<'_>) {
        let now = self.shared.borrow_mut().now();
        while let Some(entry) = self.mends.first_entry().filter(|entry| entry.key().0 <= now) {
            let mend = entry.remove();
            self.apply(sim, mend);
        }
        for machine in 0..MACHINES {
            let (has_ended, is_removed) = {
                let world = self.shared.borrow_mut();
                let of = &world.machines[machine];
                (of.is_on && of.has_ended, of.is_on && of.is_removed)
            };
            if has_ended || is_removed {
                self.switch_off(sim, machine, false);
            }
            if is_removed {
                let mut world = self.shared.borrow_mut();
                world.wipe(machine);
                world.note(Some(machine), "gets an empty disk");
            }
        }
    }

    /// Lets something go wrong, if it is time.
    pub(crate) fn strike(&mut self, sim: &mut Sim<'_>) {
        let now = self.shared.borrow_mut().now();
        if now < self.next {
            return;
        }
        self.next = now + self.random.random_range(20..FAULT_WITHIN);
        self.count += 1;
        let victim = self.victim();
        match self.random.random_range(0..100) {
            0..12 => self.power_fails(sim, victim),
            12..22 => self.is_killed(sim, victim),
            22..36 => self.is_isolated(sim, victim),
            36..56 => self.link_fails(sim),
            56..66 => self.edge_fails(sim, victim),
            66..76 => self.disk_slows_down(victim),
            76..82 => self.disk_fails(victim),
            82..86 => self.disk_fills(victim),
            86..91 => {
                let by = self.random.random_range(-3_000..=3_000);
                self.on(victim, format!("its clock is set by {by} ms"), |world| {
                    world.machines[victim].clock.set_by(by);
                });
            }
            91..95 => {
                let every = self.random.random_range(GAINS_EVERY.0..GAINS_EVERY.1);
                let gains = self.random.random_bool(0.7).then_some(every);
                self.on(victim, format!("its monotonic clock gains something every {gains:?} ms"), |world| {
                    world.machines[victim].gains_every = gains;
                });
            }
            _ => {
                let drift = self.random.random_range(-500..=500);
                self.on(victim, format!("its clock drifts by {drift} ppm"), |world| {
                    world.machines[victim].clock.set_drift(drift);
                });
            }
        }
    }

    /// Mends everything.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>) {
        for mend in std::mem::take(&mut self.mends).into_values() {
            self.apply(sim, mend);
        }
        self.shared.borrow_mut().note(None, "everything is mended");
    }

    /// The leader more often than the others.
    fn victim(&mut self) -> usize {
        let leader = self.shared.borrow_mut().leader().map(|(machine, _)| machine);
        match leader {
            Some(leader) if self.random.random_bool(0.4) => leader,
            _ => self.random.random_range(0..MACHINES),
        }
    }

    fn on(&self, machine: usize, what: String, change: impl FnOnce(&mut World)) {
        let mut world = self.shared.borrow_mut();
        world.note(Some(machine), what);
        change(&mut world);
    }

    fn mend_later(&mut self, mend: Mend) {
        let at = self.shared.borrow_mut().now() + self.random.random_range(50..MEND_WITHIN);
        self.number += 1;
        self.mends.insert((at, self.number), mend);
    }

    fn is_on(&self, machine: usize) -> bool {
        self.shared.borrow_mut().machines[machine].is_on
    }

    fn power_fails(&mut self, sim: &mut Sim<'_>, machine: usize) {
        if self.is_on(machine) {
            self.switch_off(sim, machine, true);
        }
    }

    fn is_killed(&mut self, sim: &mut Sim<'_>, machine: usize) {
        if self.is_on(machine) {
            self.switch_off(sim, machine, false);
        }
    }

    fn is_isolated(&mut self, sim: &Sim<'_>, machine: usize) {
        for other in (0..MACHINES).filter(|other| *other != machine) {
            self.trouble(sim, pair(machine, other), Trouble::Cut);
        }
    }

    fn link_fails(&mut self, sim: &Sim<'_>) {
        let one = self.random.random_range(0..MACHINES);
        let other = (one + self.random.random_range(1..MACHINES)) % MACHINES;
        let back = self.random.random_bool(0.5);
        let troubles = [Trouble::Cut, Trouble::CutOneWay { back }, Trouble::Held, Trouble::Slow];
        let trouble = *troubles.choose(&mut self.random).expect("there are some");
        self.trouble(sim, pair(one, other), trouble);
    }

    /// The way to the device or the destination.
    fn edge_fails(&mut self, sim: &Sim<'_>, machine: usize) {
        let edge = if self.random.random_bool(0.5) { TANK } else { ARCHIVE };
        let back = self.random.random_bool(0.5);
        let troubles = [Trouble::Cut, Trouble::CutOneWay { back }];
        let trouble = *troubles.choose(&mut self.random).expect("there are some");
        self.trouble(sim, pair(machine, edge), trouble);
    }

    fn trouble(&mut self, sim: &Sim<'_>, pair: Pair, trouble: Trouble) {
        // One trouble at a time: turmoil does not say what two of them come to.
        if self.links.contains_key(&pair) {
            return;
        }
        let (one, other) = (name(pair.0), name(pair.1));
        self.shared.borrow_mut().note(None, format!("between {one} and {other}: {trouble:?}"));
        match trouble {
            Trouble::Cut => sim.partition(one, other),
            Trouble::CutOneWay { back: false } => sim.partition_oneway(one, other),
            Trouble::CutOneWay { back: true } => sim.partition_oneway(other, one),
            Trouble::Held => sim.hold(one, other),
            Trouble::Slow => {
                let most = Duration::from_millis(self.random.random_range(10..100));
                sim.set_link_max_message_latency(one, other, most);
            }
        }
        self.links.insert(pair, trouble);
        self.mend_later(Mend::Link(pair));
    }

    fn disk_slows_down(&mut self, machine: usize) {
        let most = Duration::from_millis(self.random.random_range(5..300));
        self.on(machine, format!("its disk takes up to {most:?}"), |world| {
            world.machines[machine].disk.set_latency(Duration::ZERO, most);
        });
        self.mend_later(Mend::Disk(machine));
    }

    /// Its node is told that there is no room for samples; or nothing fits at all, which a process does not survive.
    fn disk_fills(&mut self, machine: usize) {
        let overflows = self.random.random_bool(0.3);
        let what = if overflows { "nothing fits on its disk" } else { "its disk has no room for samples" };
        self.on(machine, what.to_owned(), |world| {
            let of = &mut world.machines[machine];
            of.free.store(0, Ordering::Relaxed);
            if overflows {
                of.disk.set_capacity(Some(0));
                of.overflows_until = u64::MAX;
            }
        });
        self.mend_later(Mend::Room(machine));
    }

    fn disk_fails(&mut self, machine: usize) {
        let operations = [Operation::Commit, Operation::Sync, Operation::WriteFile, Operation::WriteSlot];
        let operation = *operations.choose(&mut self.random).expect("there are some");
        let nth = self.random.random_range(1..=FAILS_WITHIN);
        self.on(machine, format!("its disk fails at {operation:?} number {nth}"), |world| {
            let of = &mut world.machines[machine];
            of.failures += 1;
            of.disk.fail(operation, nth);
        });
    }

    /// Ends the process on a machine, and switches it on again some time. With `cuts_power`, its disk keeps only what
    /// was durable, and nothing that its death would tell others reaches them.
    fn switch_off(&mut self, sim: &mut Sim<'_>, machine: usize, cuts_power: bool) {
        let what = if cuts_power { "loses its power" } else { "its process is killed" };
        self.on(machine, what.to_owned(), |world| world.machines[machine].is_on = false);
        let silent: Vec<usize> = (0..HOSTS)
            .filter(|other| {
                cuts_power && *other != machine && !self.links.contains_key(&pair(machine, *other))
            })
            .collect();
        for other in &silent {
            sim.partition(name(machine), name(*other));
        }
        sim.crash(name(machine));
        for other in &silent {
            sim.repair(name(machine), name(*other));
        }
        let mut world = self.shared.borrow_mut();
        if cuts_power {
            world.machines[machine].disk.crash(&mut self.random);
            if world.bears_a_lie() && self.random.random_bool(LIES) {
                let forgotten = world.machines[machine].disk.forget_last(usize::MAX);
                world.machines[machine].has_lied = forgotten > 0;
                world.note(Some(machine), format!("its disk forgets {forgotten} commits that were durable"));
            }
        }
        world.forget_process(machine);
        drop(world);
        self.mend_later(Mend::Power(machine));
    }

    fn apply(&mut self, sim: &mut Sim<'_>, mend: Mend) {
        match mend {
            Mend::Disk(machine) => self.on(machine, "its disk is fast again".to_owned(), |world| {
                world.machines[machine].disk.set_latency(DISK_LATENCY.0, DISK_LATENCY.1);
            }),
            Mend::Room(machine) => self.on(machine, "its disk has room again".to_owned(), |world| {
                let noticed = world.now() + NOTICES_WITHIN;
                let of = &mut world.machines[machine];
                of.free.store(FREE, Ordering::Relaxed);
                of.disk.set_capacity(None);
                of.overflows_until = of.overflows_until.min(noticed);
            }),
            Mend::Power(machine) => {
                self.on(machine, "is switched on".to_owned(), |world| world.machines[machine].is_on = true);
                sim.bounce(name(machine));
            }
            Mend::Link(pair) => {
                let Some(trouble) = self.links.remove(&pair) else { return };
                let (one, other) = (name(pair.0), name(pair.1));
                self.shared.borrow_mut().note(None, format!("between {one} and {other}: mended"));
                match trouble {
                    Trouble::Cut => sim.repair(one, other),
                    Trouble::CutOneWay { back: false } => sim.repair_oneway(one, other),
                    Trouble::CutOneWay { back: true } => sim.repair_oneway(other, one),
                    Trouble::Held => sim.release(one, other),
                    Trouble::Slow => sim.set_link_max_message_latency(one, other, LINK_LATENCY),
                }
            }
        }
    }
}

fn pair(one: usize, other: usize) -> Pair {
    (one.min(other), one.max(other))
}
