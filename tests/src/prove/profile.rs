//! Fault classes, and what belongs together: how many runs of which class, with how many faults each.
//!
//! - A profile's seed decides everything: the seed of each run follows from it ([`seed_of`]).
//! - A class is left out as a whole, because the machine cannot do it, and only where the profile says so; `release`
//!   leaves out nothing.
//! - A class is a variant, and a row that holds everything else of it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;

use super::liveness::Bounds;
use super::run::{Assignment, RunReport};
use super::{classes, store_cuts};

/// A fault class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The power of one store is cut while it writes.
    StoreCuts,
    /// Processes are killed.
    Kills,
    /// The power of one, two or three nodes is cut.
    Power,
    /// The wires between the nodes form each of the 64 directed graphs.
    Graphs,
    /// What lies between the nodes goes down and up in a drawn rhythm, is reset, or unplugged.
    Flapping,
    /// What nodes say to each other is delayed, lost, overtaken, doubled or squeezed.
    Wires,
    /// The leader stands still.
    Pauses,
    /// The leader is frozen in its control group.
    Freezes,
    /// What could break a lease is brought about.
    Leases,
    /// Nodes are given little of the processors.
    Starved,
    /// A node may hold little memory.
    Memory,
    /// Processes are told to end.
    Stops,
    /// Calls that reach a disk fail.
    DiskErrors,
    /// Syncs take long.
    SlowDisks,
    /// The disks of one, two or three nodes fill up.
    FullDisks,
    /// A file of one node is damaged.
    Corruption,
    /// A node's data directory is lost.
    Wiped,
    /// Wall clocks jump.
    Clocks,
    /// The HTTP receiver is away, slow or wrong.
    Receivers,
    /// Devices are silent, slow or away, refuse, or answer what nobody asked.
    Devices,
}

/// Runs of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The class.
    pub class: Class,
    /// How many runs, each with a seed of its own.
    pub runs: u32,
    /// How many faults in each.
    pub times: u32,
}

/// Runs that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// What is run, in this order.
    pub parts: Vec<Part>,
    /// Whether a lesser machine may leave out classes that it cannot run.
    pub may_skip: bool,
}

/// What a class needs of the machine. Each needs what stands before it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Volumes of its own.
    Volumes,
    /// Hosts with networks of their own.
    Hosts,
    /// Something that no other class needs, or hardly one.
    More,
}

/// What there is to know of a class.
struct Row {
    name: &'static str,
    /// What a fault takes at most, in seconds, on a slow machine.
    limit: u64,
    needs: Needs,
    /// Runs, and faults in each, of every profile in [`PROFILES`].
    wanted: [(u32, u32); 3],
    run: fn(&Assignment) -> LocalBoxFuture<'_, anyhow::Result<RunReport>>,
}

/// All profiles, in the order of [`Row::wanted`], and whether they may be lessened.
const PROFILES: [(&str, bool); 3] = [("quick", true), ("nightly", true), ("release", false)];

impl Profile {
    /// The profile of this name.
    pub fn named(name: &str) -> Option<Self> {
        let place = PROFILES.iter().position(|(known, _)| *known == name)?;
        let (name, may_skip) = PROFILES[place];
        let part = |class: Class| {
            let (runs, times) = class.row().wanted[place];
            Part { class, runs, times }
        };
        Some(Self { name, parts: Class::ALL.map(part).into(), may_skip })
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = PROFILES.map(|(name, _)| name);
        Profile::named(name).ok_or_else(|| format!("there is no profile {name:?}: {}", names.join(", ")))
    }
}

impl Class {
    /// All of them, in the order in which they are run.
    pub const ALL: [Self; 20] = [
        Self::StoreCuts,
        Self::Kills,
        Self::Power,
        Self::Graphs,
        Self::Flapping,
        Self::Wires,
        Self::Pauses,
        Self::Freezes,
        Self::Leases,
        Self::Starved,
        Self::Memory,
        Self::Stops,
        Self::DiskErrors,
        Self::SlowDisks,
        Self::FullDisks,
        Self::Corruption,
        Self::Wiped,
        Self::Clocks,
        Self::Receivers,
        Self::Devices,
    ];

    fn row(self) -> Row {
        use Needs::{Hosts, More, Volumes};
        let row = |name, limit, needs, wanted, run| Row { name, limit, needs, wanted, run };
        match self {
            Self::StoreCuts => row("store-cuts", 10, Volumes, [(2, 50), (20, 50), (40, 50)], |assignment| {
                store_cuts::run(assignment).boxed_local()
            }),
            Self::Kills => row("kills", 90, Hosts, [(1, 6), (15, 10), (30, 10)], |assignment| {
                classes::kills::run(assignment).boxed_local()
            }),
            Self::Power => row("power", 90, Hosts, [(1, 4), (5, 10), (10, 10)], |assignment| {
                classes::power::run(assignment).boxed_local()
            }),
            Self::Graphs => row("graphs", 90, Hosts, [(1, 12), (1, 64), (1, 64)], |assignment| {
                classes::graphs::run(assignment).boxed_local()
            }),
            Self::Flapping => row("flapping", 90, Hosts, [(1, 3), (3, 14), (5, 21)], |assignment| {
                classes::flapping::run(assignment).boxed_local()
            }),
            Self::Wires => row("wires", 180, More, [(1, 3), (5, 12), (10, 12)], |assignment| {
                classes::wires::run(assignment).boxed_local()
            }),
            Self::Pauses => row("pauses", 150, Hosts, [(1, 4), (5, 10), (10, 10)], |assignment| {
                classes::pauses::run(assignment).boxed_local()
            }),
            Self::Freezes => row("freezes", 150, More, [(1, 3), (5, 10), (10, 10)], |assignment| {
                classes::freezes::run(assignment).boxed_local()
            }),
            Self::Leases => row("leases", 180, Hosts, [(1, 3), (5, 14), (20, 14)], |assignment| {
                classes::leases::run(assignment).boxed_local()
            }),
            Self::Starved => row("starved", 120, More, [(1, 2), (2, 10), (10, 10)], |assignment| {
                classes::starved::run(assignment).boxed_local()
            }),
            Self::Memory => row("memory", 120, More, [(1, 2), (2, 10), (10, 10)], |assignment| {
                classes::memory::run(assignment).boxed_local()
            }),
            Self::Stops => row("stops", 180, Hosts, [(1, 4), (5, 10), (10, 10)], |assignment| {
                classes::stops::run(assignment).boxed_local()
            }),
            Self::DiskErrors => row("disk-errors", 150, Hosts, [(1, 3), (5, 10), (10, 10)], |assignment| {
                classes::disk_errors::run(assignment).boxed_local()
            }),
            Self::SlowDisks => row("slow-disks", 120, Hosts, [(1, 3), (5, 10), (10, 10)], |assignment| {
                classes::slow_disks::run(assignment).boxed_local()
            }),
            Self::FullDisks => row("full-disks", 150, Hosts, [(1, 2), (4, 10), (8, 10)], |assignment| {
                classes::full_disks::run(assignment).boxed_local()
            }),
            Self::Corruption => row("corruption", 400, Hosts, [(1, 2), (10, 10), (20, 10)], |assignment| {
                classes::corruption::run(assignment).boxed_local()
            }),
            Self::Wiped => row("wiped", 300, Hosts, [(1, 2), (3, 10), (5, 10)], |assignment| {
                classes::wiped::run(assignment).boxed_local()
            }),
            Self::Clocks => row("clocks", 200, Hosts, [(1, 4), (5, 10), (10, 10)], |assignment| {
                classes::clocks::run(assignment).boxed_local()
            }),
            // It may be left alone for twenty seconds, and files are waited for as long.
            Self::Receivers => row("receivers", 180, Hosts, [(1, 2), (5, 10), (10, 10)], |assignment| {
                classes::receivers::run(assignment).boxed_local()
            }),
            Self::Devices => row("devices", 120, Hosts, [(1, 4), (5, 10), (10, 10)], |assignment| {
                classes::devices::run(assignment).boxed_local()
            }),
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// What it needs of the machine.
    pub fn needs(self) -> Needs {
        self.row().needs
    }

    /// Of so many faults of a run, how many must have bitten: a fault that did not proves nothing.
    pub fn must_bite(self, times: u32) -> u32 {
        match self {
            // The writer may have synced everything just then: with the longest of its pauses it has most of the time. More
            // than half are expected to bite, and chance alone hardly falls below a quarter.
            Self::StoreCuts => (times / 4).max(1),
            _ => times,
        }
    }

    /// What it promises of the time after its faults and in them; or why it promises nothing.
    pub fn bounds(self) -> Result<Bounds, &'static str> {
        match self {
            Self::StoreCuts => Err("there is no cluster: one store is written and opened"),
            Self::Leases => Ok(classes::leases::BOUNDS),
            Self::DiskErrors => Ok(classes::disk_errors::BOUNDS),
            Self::FullDisks => Ok(classes::full_disks::BOUNDS),
            Self::Corruption => Ok(classes::corruption::BOUNDS),
            Self::Clocks => Ok(classes::clocks::BOUNDS),
            Self::Receivers => Ok(classes::receivers::BOUNDS),
            Self::Kills
            | Self::Power
            | Self::Graphs
            | Self::Flapping
            | Self::Wires
            | Self::Pauses
            | Self::Freezes
            | Self::Starved
            | Self::Memory
            | Self::Stops
            | Self::SlowDisks
            | Self::Wiped
            | Self::Devices => Ok(Bounds::USUAL),
        }
    }

    /// What a run of so many faults takes at most, on a slow machine: one that takes longer hangs.
    pub fn limit(self, times: u32) -> Duration {
        Duration::from_secs(300) + Duration::from_secs(self.row().limit) * times
    }

    /// Runs it.
    pub fn run(self, assignment: &Assignment) -> LocalBoxFuture<'_, anyhow::Result<RunReport>> {
        (self.row().run)(assignment)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Class {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name);
        let found = Self::ALL.into_iter().find(|class| class.name() == name);
        found.ok_or_else(|| format!("there is no class {name:?}: {}", names.join(", ")))
    }
}

/// The seed of run `number` (from 0) of a class: FNV-1a of `SEED/class/number` in 64 bits, mixed as the last step of
/// splitmix64 does (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
pub fn seed_of(seed: u64, class: Class, number: u32) -> u64 {
    let text = format!("{seed}/{class}/{number}");
    let mut mixed = text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_of_runs_stay_what_they_are_and_differ() {
        assert_eq!(seed_of(1, Class::Kills, 0), 0xEE15_9C2E_5800_BB2B);
        assert_eq!(seed_of(1, Class::Kills, 1), 0xA524_537A_26D7_DACA);
        assert_eq!(seed_of(2, Class::Kills, 0), 0xE27D_DCA1_3204_0A64);
        assert_ne!(seed_of(1, Class::Pauses, 0), seed_of(1, Class::Kills, 0));
    }

    #[test]
    fn a_release_leaves_out_nothing_and_reaches_what_is_promised() {
        let release = Profile::named("release").expect("it is there");
        let promised = [
            (Class::StoreCuts, 2_000),
            (Class::Kills, 300),
            (Class::Power, 100),
            (Class::Graphs, 64),
            (Class::Pauses, 100),
        ];
        for (class, faults) in promised {
            let of_class = release.parts.iter().filter(|part| part.class == class);
            assert_eq!(of_class.map(|part| part.runs * part.times).sum::<u32>(), faults, "{class}");
        }
        assert!(!release.may_skip && release.parts.iter().all(|part| part.runs * part.times > 0));
    }

    #[test]
    fn every_fault_must_bite_but_a_power_cut_that_finds_everything_synced() {
        for class in Class::ALL {
            let expected = if class == Class::StoreCuts { [1, 1, 1, 12] } else { [1, 4, 5, 50] };
            assert_eq!([1, 4, 5, 50].map(|times| class.must_bite(times)), expected, "{class}");
        }
    }

    #[test]
    fn names_lead_to_what_they_name() {
        for class in Class::ALL {
            assert_eq!(class.name().parse(), Ok(class));
        }
        assert!("kill".parse::<Class>().is_err());
        for (name, _) in PROFILES {
            assert_eq!(name.parse::<Profile>().map(|profile| profile.name), Ok(name));
        }
    }
}
