//! Whether what gap records give as their cause is so.
//!
//! - A change of leader, a missing majority and a node that stood still need something that was done to the cluster
//!   between the two reads around the gap: by the devices' monotonic clock, whatever the nodes' clocks say. A change of
//!   leader may be an election instead, which is a note where nobody caused it.
//! - A device that is silent, or late, is explained by what was done to it between the two reads around the gap.
//! - What a busy machine does by itself may take a share of all slots; all but `late` is a note. How much of it comes while
//!   nothing is done, and nothing was done a moment before, is counted by itself ([`Calm`]).
//! - `configuration` and `disabled` are whoever runs it; any other cause is one that the run allows.
//! - Where a cause says that nothing was read, no more reads may have been answered than were in flight ([`reads_in`]).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::polled::DeviceBook;
use super::questions::by_cause;
use super::{Account, Calm, GapSeen};

/// A scan that could not begin in time; nothing was read.
pub(super) const LATE: &str = "late";
/// Reads of a device behind which reading goes on.
const GOES_ON: usize = 10;
/// Between a read and the moment at which its node took it, on a machine that does much else.
const TAKEN_NS: u64 = 1_000_000_000;
/// What was done to a cluster may cost it slots, or a leader, for so long afterwards.
const SETTLES_NS: u64 = 2_000_000_000;
/// One slot in so many may be missed because the machine is busy.
const BUSY: u64 = 4;
/// An answered read may stand where nothing is read once in so many slots. Honest scans are none: they did not begin.
const HIDDEN: u64 = 100;
/// What was read for so long may be uncommitted on a machine that does much else.
const IN_FLIGHT_NS: i64 = 5_000_000_000;

/// What may explain a gap, beside the faults.
#[derive(Debug, Default)]
pub(super) struct Causes {
    /// When something was done, and when that was over.
    pub(super) disturbances: Vec<(u64, u64)>,
    /// Devices to which something was done, from when until when.
    pub(super) failed_devices: Vec<(String, u64, u64)>,
    /// Causes that need no other reason.
    pub(super) allowed: BTreeSet<String>,
    /// Causes that need no other reason for some time.
    pub(super) allowed_within: Vec<Allowance>,
}

/// A cause that gaps may have if they meet the time between two moments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Allowance {
    pub(super) cause: String,
    pub(super) from_ns: u64,
    pub(super) until_ns: u64,
}

impl Causes {
    /// Whether a gap between two reads may have this cause.
    fn allows(&self, cause: &str, before_ns: u64, behind_ns: u64) -> bool {
        let is_met = |allowance: &Allowance| {
            allowance.cause == cause && allowance.from_ns <= behind_ns && allowance.until_ns >= before_ns
        };
        self.allowed.contains(cause) || self.allowed_within.iter().any(is_met)
    }
}

/// How much may have been read in the slots of a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reads {
    /// Each slot may hide an answered read.
    Any,
    /// What was in flight when it began.
    InFlight,
    /// Nothing.
    None,
}

/// How much may have been read in a gap with this cause.
pub(super) fn reads_in(cause: &str) -> Reads {
    match cause {
        LATE => Reads::None,
        // A schedule that has ended, or a process that stands still.
        "configuration" | "disabled" | "paused" => Reads::InFlight,
        // The others cannot be judged. Who led before, or had no room for it, has read on. `no-quorum` is also what was read
        // while followers answered heartbeats and stored nothing, for as long as that lasts. And a device that answers later
        // than it may is `device-down`, and has answered all the same.
        _ => Reads::Any,
    }
}

/// In how many slots of a gap's schedule reads may be in flight at one time.
pub(super) fn in_flight(gap: &GapSeen) -> u64 {
    let slots = i64::try_from(gap.last - gap.first + 1).unwrap_or(i64::MAX);
    let period = (gap.to.nanos_since(gap.from) / slots).max(1);
    (IN_FLIGHT_NS / period).unsigned_abs() + 1
}

/// What becomes of a gap's cause.
enum Why {
    Known,
    Busy,
    Unknown,
}

/// What is wrong with the causes of gaps, a sentence each, and what is only worth a note.
pub(super) struct Judged {
    pub(super) problems: Vec<String>,
    pub(super) notes: Vec<String>,
    pub(super) calm: Calm,
}

/// These windows, and until what was done in them has settled.
pub(super) fn settled(windows: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    windows.into_iter().map(|(from, to)| (from, to.saturating_add(SETTLES_NS))).collect()
}

/// Whether the time between two moments meets one of these windows.
pub(super) fn meets(windows: &[(u64, u64)], before_ns: u64, behind_ns: u64) -> bool {
    windows.iter().any(|(from, to)| *from <= behind_ns && *to >= before_ns)
}

impl Causes {
    /// Whether something was done to a device between two moments.
    pub(super) fn has_failed(&self, device: &str, before_ns: u64, behind_ns: u64) -> bool {
        let meets = |from: u64, to: u64| from <= behind_ns && to >= before_ns;
        self.failed_devices.iter().any(|(failed, from, to)| failed == device && meets(*from, *to))
    }
}

impl Account {
    /// Judges all gap records of a run with so many `slots`, in which so many answered reads are `hidden` where nothing
    /// is read.
    pub(super) fn judge_gaps(&self, slots: u64, hidden: u64) -> Judged {
        let windows = self.windows();
        let (mut busy, mut unknown) = (Vec::new(), Vec::new());
        for book in self.devices.values() {
            for gap in book.gaps() {
                match self.why(book, gap, &windows) {
                    Why::Known => {}
                    Why::Busy => busy.push(gap),
                    Why::Unknown => unknown.push(gap),
                }
            }
        }
        let mut problems = Vec::new();
        for (cause, missed) in by_cause(unknown.iter().copied()) {
            let first = unknown.iter().find(|gap| gap.cause == cause);
            let first =
                first.map(|gap| format!(": {} from slot {} on", gap.device, gap.first)).unwrap_or_default();
            problems.push(format!("{missed} slots are in gaps `{cause}` that nothing explains{first}"));
        }
        let mut notes = Vec::new();
        let calm = self.calm(&busy);
        let busy = by_cause(busy.into_iter());
        let missed: u64 = busy.values().sum();
        if missed.saturating_mul(BUSY) > slots {
            problems.push(format!("{missed} slots of {slots} are in gaps that no fault explains: {busy:?}"));
        }
        for (cause, missed) in busy.iter().filter(|(cause, _)| *cause != LATE) {
            notes.push(format!("{missed} slots are in gaps `{cause}` that only a busy machine explains"));
        }
        if hidden.saturating_mul(HIDDEN) > slots {
            problems
                .push(format!("{hidden} reads were answered, and stand in gaps in which nothing is read"));
        }
        Judged { problems, notes, calm }
    }

    /// What a busy machine took while nothing was done. A device is read once for each slot that was not missed.
    fn calm(&self, busy: &[&GapSeen]) -> Calm {
        let of_devices = self.causes.failed_devices.iter().map(|(_, from, to)| (*from, *to));
        let windows = settled(self.windows().into_iter().chain(of_devices).collect());
        let is_calm = |gap: &&&GapSeen| {
            let around = self.devices.get(&gap.device).map(|book| book.reads_around(gap));
            around.is_some_and(|(before_ns, behind_ns)| !meets(&windows, before_ns, behind_ns))
        };
        let missed = by_cause(busy.iter().filter(is_calm).copied());
        let moments = self.devices.values().flat_map(|book| book.moments_of_reads());
        let read = moments.filter(|at_ns| !meets(&windows, *at_ns, *at_ns)).count() as u64;
        Calm { slots: read + missed.values().sum::<u64>(), missed }
    }

    fn why(&self, book: &DeviceBook, gap: &GapSeen, windows: &[(u64, u64)]) -> Why {
        let (before_ns, behind_ns) = book.reads_around(gap);
        let meets_fault = || meets(windows, before_ns, behind_ns);
        let meets_election = || {
            let from = self.wall(before_ns.saturating_sub(TAKEN_NS));
            // What led before the first read is not known.
            before_ns == 0
                || self.reigns.begin_within(&(from..=self.wall(behind_ns.saturating_add(TAKEN_NS))))
        };
        match gap.cause.as_str() {
            "configuration" | "disabled" => Why::Known,
            cause if self.causes.allows(cause, before_ns, behind_ns) => Why::Known,
            "failover" | "switchover" if meets_fault() || meets_election() => Why::Known,
            "no-quorum" | "paused" if meets_fault() => Why::Known,
            LATE | "device-down" if self.causes.has_failed(&gap.device, before_ns, behind_ns) => Why::Known,
            // A device of ours that is woken late does not answer in time.
            LATE | "no-quorum" | "paused" | "device-down" => Why::Busy,
            _ => Why::Unknown,
        }
    }

    /// From when until when something done to the cluster may cost slots.
    pub(super) fn windows(&self) -> Vec<(u64, u64)> {
        let over = self.faults.iter().map(|fault| (fault.began_ns, fault.ended_ns));
        let begun = self.begun.iter().map(|begun| (begun.began_ns, u64::MAX));
        over.chain(begun).chain(self.disturbed_windows()).collect()
    }

    /// The same of what ended when reading went on.
    pub(super) fn disturbed_windows(&self) -> impl Iterator<Item = (u64, u64)> {
        let goes_on = move |since_ns| {
            let moments = self.devices.values().map(|book| book.read_behind(since_ns, GOES_ON));
            moments.map(|moment| moment.unwrap_or(u64::MAX)).max().unwrap_or(u64::MAX)
        };
        self.causes.disturbances.iter().map(move |(began_ns, done_ns)| (*began_ns, goes_on(*done_ns)))
    }
}
