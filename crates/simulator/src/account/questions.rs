//! What anybody may ask of an account while it grows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::Position;

use super::polled::DeviceBook;
use super::pushed::PusherBook;
use super::{Account, GapSeen, OpeningSeen};

/// What is on the screen while the run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Samples delivered.
    pub delivered: u64,
    /// Answered or acknowledged, and not yet delivered.
    pub pending: u64,
    /// Lost for certain.
    pub lost: u64,
    /// Requests of two nodes at one device at one time.
    pub overlaps: u64,
    /// Slots in gap records.
    pub slots_in_gaps: u64,
}

impl Account {
    /// The longest time between two answered reads of one device that ends in `[from_ns, until_ns]`, in nanoseconds. A
    /// silence that still lasts at the end counts up to there.
    pub fn longest_silence(&self, from_ns: u64, until_ns: u64) -> u64 {
        self.devices.values().map(|book| book.longest_silence(from_ns, until_ns)).max().unwrap_or_default()
    }

    /// Who read each device last, and when.
    pub fn last_reads(&self) -> impl Iterator<Item = (&str, Option<(IpAddr, u64)>)> {
        self.devices.iter().map(|(id, book)| (id.as_str(), book.last_read()))
    }

    /// When every device had been read by another node than `victim` since `from_ns`.
    pub fn taken_over_ns(&self, from_ns: u64, victim: IpAddr) -> Option<u64> {
        let first = |book: &DeviceBook| book.first_read(from_ns, &|node| node != victim);
        self.devices.values().map(first).collect::<Option<Vec<u64>>>()?.into_iter().max()
    }

    /// How many reads every device has answered since `from_ns`, at least, to `nodes` that satisfy the condition.
    pub fn reads_since(&self, from_ns: u64, is_wanted: impl Fn(IpAddr) -> bool) -> usize {
        self.devices.values().map(|book| book.reads_since(from_ns, &is_wanted)).min().unwrap_or_default()
    }

    /// How many reads a device has answered between two moments, and when it answered the first of them.
    pub fn reads_of(&self, device: &str, from_ns: u64, until_ns: u64) -> (usize, Option<u64>) {
        self.devices.get(device).map_or((0, None), |book| book.reads_between(from_ns, until_ns))
    }

    /// Slots in gap records that meet the time between two moments, by cause.
    pub fn slots_missed(&self, began_ns: u64, ended_ns: u64) -> BTreeMap<String, u64> {
        let (from, to) = (self.wall(began_ns), self.wall(ended_ns));
        by_cause(self.gaps().filter(|gap| gap.from < to && gap.to > from))
    }

    /// Samples that pushers were told are safe.
    pub fn pushed_acked(&self) -> u64 {
        self.pushers.values().map(|book| book.settle().acknowledged).sum()
    }

    /// Positions in order, and when all records up to there that were ever accepted over HTTP had been, in monotonic
    /// nanoseconds.
    pub fn accepted(&self) -> Vec<(Position, u64)> {
        self.keys.accepted()
    }

    /// The figures of this moment.
    pub fn figures(&self) -> Figures {
        let mut figures =
            Figures { delivered: self.delivered, overlaps: self.overlaps, ..Figures::default() };
        for tally in self.devices.values().map(DeviceBook::settle) {
            figures.lost += tally.lost;
            figures.pending += tally.pending;
            figures.slots_in_gaps += tally.in_gaps;
        }
        for tally in self.pushers.values().map(PusherBook::settle) {
            figures.lost += tally.lost;
            figures.pending += tally.pending;
        }
        figures
    }

    /// Samples that were delivered over HTTP and stand in no file.
    pub fn unfiled(&self) -> u64 {
        let polled: u64 = self.devices.values().map(DeviceBook::unfiled).sum();
        let pushed: u64 = self.pushers.values().map(PusherBook::unfiled).sum();
        polled + pushed
    }

    /// Gaps and openings that were delivered over HTTP.
    pub fn gaps_and_openings(&self) -> u64 {
        self.named.count()
    }

    /// Gap records, all devices together.
    pub fn gaps(&self) -> impl Iterator<Item = &GapSeen> {
        self.devices.values().flat_map(DeviceBook::gaps)
    }

    /// Openings of grids, all devices together.
    pub fn openings(&self) -> impl Iterator<Item = &OpeningSeen> {
        self.devices.values().flat_map(DeviceBook::openings)
    }

    /// Slots in gap records by cause.
    pub fn gap_causes(&self) -> BTreeMap<String, u64> {
        by_cause(self.gaps())
    }
}

/// Slots in gap records by cause.
pub(super) fn by_cause<'a>(gaps: impl Iterator<Item = &'a GapSeen>) -> BTreeMap<String, u64> {
    let mut causes = BTreeMap::new();
    for gap in gaps {
        *causes.entry(gap.cause.clone()).or_default() += gap.last - gap.first + 1;
    }
    causes
}
