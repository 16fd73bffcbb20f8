//! What belongs together: how many runs of which fault class, with how many faults each, and what may be left out.
//!
//! - A profile's seed decides everything: the seed of each run follows from it ([`seed_of`]).
//! - A class is left out as a whole, because the machine cannot do it, and only where the profile says so; `release`
//!   leaves out nothing.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;

use super::run::{Assignment, RunReport};
use super::{classes, store_cuts};

/// A fault class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The power of one store is cut while it writes.
    StoreCuts,
    /// Processes are killed.
    Kills,
    /// The leader stands still.
    Pauses,
    /// The power of one, two or three nodes is cut.
    Power,
    /// The wires between the nodes form each of the 64 directed graphs.
    Graphs,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// What is run, in this order.
    pub parts: &'static [Part],
    /// What a lesser machine may leave out: a class, or one check of it, as `class/I12`.
    pub may_skip: &'static [&'static str],
}

const fn part(class: Class, runs: u32, times: u32) -> Part {
    Part { class, runs, times }
}

/// What needs root: network namespaces and loop devices.
const NEED_ROOT: &[&str] = &["store-cuts", "kills", "pauses", "power", "graphs"];

/// All profiles.
pub const PROFILES: [Profile; 3] = [
    Profile {
        name: "quick",
        parts: &[
            part(Class::StoreCuts, 2, 50),
            part(Class::Kills, 1, 6),
            part(Class::Power, 1, 4),
            part(Class::Graphs, 1, 12),
            part(Class::Pauses, 1, 4),
        ],
        may_skip: NEED_ROOT,
    },
    Profile {
        name: "nightly",
        parts: &[
            part(Class::StoreCuts, 20, 50),
            part(Class::Kills, 15, 10),
            part(Class::Power, 5, 10),
            part(Class::Graphs, 1, 64),
            part(Class::Pauses, 5, 10),
        ],
        may_skip: NEED_ROOT,
    },
    Profile {
        name: "release",
        parts: &[
            part(Class::StoreCuts, 40, 50),
            part(Class::Kills, 30, 10),
            part(Class::Power, 10, 10),
            part(Class::Graphs, 1, 64),
            part(Class::Pauses, 10, 10),
        ],
        may_skip: &[],
    },
];

impl Profile {
    /// The profile of this name.
    pub fn named(name: &str) -> Option<Self> {
        PROFILES.into_iter().find(|profile| profile.name == name)
    }

    /// Whether a check of a class may be skipped where the machine cannot make it.
    pub fn may_skip(&self, class: &str, check: &str) -> bool {
        let invariant = check.split(' ').next().unwrap_or_default();
        self.may_skip.iter().any(|allowed| match allowed.split_once('/') {
            Some((of_class, only)) => of_class == class && only == invariant,
            None => *allowed == class,
        })
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names: Vec<&str> = PROFILES.iter().map(|profile| profile.name).collect();
        Profile::named(name).ok_or_else(|| format!("there is no profile {name:?}: {}", names.join(", ")))
    }
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::StoreCuts, Self::Kills, Self::Pauses, Self::Power, Self::Graphs];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::StoreCuts => "store-cuts",
            Self::Kills => "kills",
            Self::Pauses => "pauses",
            Self::Power => "power",
            Self::Graphs => "graphs",
        }
    }

    /// What a run of so many faults takes at most, on a slow machine: one that takes longer hangs.
    pub fn limit(self, times: u32) -> Duration {
        let each = match self {
            Self::StoreCuts => Duration::from_secs(10),
            Self::Kills | Self::Power | Self::Graphs => Duration::from_secs(90),
            // A pause takes up to a minute itself.
            Self::Pauses => Duration::from_secs(150),
        };
        Duration::from_secs(300) + each * times
    }

    /// Runs it.
    pub fn run(self, assignment: &Assignment) -> LocalBoxFuture<'_, anyhow::Result<RunReport>> {
        match self {
            Self::StoreCuts => store_cuts::run(assignment).boxed_local(),
            Self::Kills => classes::kills::run(assignment).boxed_local(),
            Self::Pauses => classes::pauses::run(assignment).boxed_local(),
            Self::Power => classes::power::run(assignment).boxed_local(),
            Self::Graphs => classes::graphs::run(assignment).boxed_local(),
        }
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
        assert!(release.may_skip.is_empty());
    }

    #[test]
    fn names_lead_to_what_they_name() {
        for class in Class::ALL {
            assert_eq!(class.name().parse(), Ok(class));
        }
        assert!("kill".parse::<Class>().is_err());
        for profile in PROFILES {
            let known =
                |name: &&str| name.split('/').next().is_some_and(|class| class.parse::<Class>().is_ok());
            assert!(profile.may_skip.iter().all(known), "{:?}", profile.may_skip);
        }
    }
}
