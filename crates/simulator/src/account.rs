//! The account of a run: what devices answered and pushers were promised, against what arrived.
//!
//! Pure: it is told what the simulated parts saw and never asks a node. [`Account::settle`] may be called at any
//! moment; what is still on its way is *pending* and becomes *lost* only when something later has arrived (delivery
//! is in order), or when the run is over.
//!
//! - A read is numbered by its device; the number travels in the values, so each value names the read it came from.
//! - A read of some registers alone is a part of the scan around the read of the first one, and a value names which.
//! - A read that was answered and not delivered is excused by a slot, between its delivered neighbours, that is in a
//!   gap record or bad; one slot excuses one read, and hardly any where the gap says that nothing was read. So is a read
//!   of the slot that the next leader has read as well, and delivered.
//! - Every slot from 0 to the highest known of a grid is in exactly one of: sampled, bad, in a gap, unaccounted. A
//!   grid that is replaced ends where its successor begins, to one period: all nodes share this machine's clock. Where
//!   a clock was set, the opening says so, and its time is not compared.
//! - What a receiver has refused for what it holds may come later than what stands behind it; come it must.
//! - A polled sample bears a time from its own read: none before the device got the request, and none behind the request
//!   of the next read of the same node that was delivered. A device hears of a request later than its node sent it, and an
//!   answer has left it before its node takes the time. There is no tolerance but for how well this machine's two clocks are
//!   known against each other. Where a clock was set, the opening says so, or whoever set it.
//! - A key names one record, over HTTP and in files. What came over HTTP stands in files once: a sample as often as it was
//!   committed, a gap or an opening once.
//! - In each reign one node polls, and nothing of it stands behind the beginning of a later one. While one asks, no other
//!   asks any device.
//! - An election that nobody caused and slots missed at a switchover are *notes*: they lose nothing, and a machine that is
//!   busy with other things can cause them, so they do not fail a run; whoever runs it reads of each one.
//! - A gap's cause must be so: what was done to the cluster is told to the account for that.
//! - A finished history can be judged again, without anything else: it ends with what the account was told ([`Told`]).

mod causes;
mod histories;
mod keys;
mod named;
mod polled;
mod pushed;
mod reigns;
mod report;
mod told;
mod turns;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use model::{Position, SampleKey, Timestamp};
use serde::{Deserialize, Serialize};

use crate::plant::{Plant, Polled};
use causes::{Allowance, Causes};
pub use histories::{SharedAccount, count_other_rows, count_rows, enter_files, replay};
use keys::Keys;
use named::Named;
use polled::{Clocks, DeviceBook};
use pushed::PusherBook;
use reigns::{Reign, Reigns};
pub use report::{Calm, FailoverSeen, Report, SwitchoverSeen, Uncaused, Verdict};
pub use told::Told;

/// How exactly the machine's wall clock is known against its monotonic one.
const EXACT_NS: i64 = 1_000_000;

/// What a value can be in the simulated plant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// Counted.
    Whole(u64),
    /// Measured.
    Real(f64),
}

/// A sample as a destination saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleSeen {
    /// Its key.
    pub key: SampleKey,
    /// Full id of its tag.
    pub tag: String,
    /// Its device.
    pub device: String,
    /// Absent where the sample is bad.
    pub value: Option<Number>,
    /// Grid and slot, if it was polled.
    pub slot: Option<(u64, u64)>,
    /// When its source produced it.
    pub source_time: Timestamp,
    /// When the gateway took it.
    pub gateway_time: Timestamp,
    /// The term in which it was committed.
    pub term: u64,
    /// The node that took it: it led, if the sample was polled.
    pub node: String,
}

/// A gap record as a destination saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct GapSeen {
    /// Its key.
    pub key: SampleKey,
    /// The device.
    pub device: String,
    /// The grid.
    pub grid: u64,
    /// The first slot in it.
    pub first: u64,
    /// The last slot in it.
    pub last: u64,
    /// Nominal time of the first slot.
    pub from: Timestamp,
    /// Nominal time of the slot behind the last.
    pub to: Timestamp,
    /// Why.
    pub cause: String,
}

/// The opening of a grid as a destination saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct OpeningSeen {
    /// The device.
    pub device: String,
    /// The grid.
    pub grid: u64,
    /// Nominal time of its slot 0.
    pub first: Timestamp,
    /// From one slot to the next, in nanoseconds.
    pub period_ns: i64,
    /// The grid it replaces.
    pub replaces: Option<u64>,
    /// Why it was opened.
    pub cause: String,
}

/// What a fault is expected to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Another node takes over.
    Failover,
    /// Leadership is handed over.
    Switchover,
    /// Nobody else leads.
    None,
}

/// Something that was done to the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// In words: `kill -9 node-1`.
    pub name: String,
    /// What it is expected to do.
    pub effect: Effect,
    /// When it began, in monotonic nanoseconds.
    pub began_ns: u64,
    /// When another node had read every device; the beginning, where nobody takes over.
    pub taken_over_ns: u64,
    /// When the cluster was whole again.
    pub ended_ns: u64,
}

/// The account of one run.
#[derive(Debug)]
pub struct Account {
    devices: BTreeMap<String, DeviceBook>,
    pushers: BTreeMap<String, PusherBook>,
    /// The highest key of each tag that came for the first time.
    highest: HashMap<String, SampleKey>,
    /// What the receiver has refused for what it holds, and when it first did, in monotonic nanoseconds.
    refused: BTreeMap<SampleKey, u64>,
    reigns: Reigns,
    /// Wall clock minus monotonic clock, in nanoseconds, and by how much that was more at the end.
    wall_offset: i64,
    wall_moved: i64,
    clocks: Vec<ClockSet>,
    keys: Keys,
    named: Named,
    faults: Vec<Fault>,
    /// Faults that are not over, or never came to their end.
    begun: Vec<Begun>,
    causes: Causes,
    overlaps: u64,
    delivered: u64,
    duplicates: u64,
    filed_twice: u64,
    out_of_order: u64,
    /// Samples that nobody produced.
    phantoms: u64,
    /// Records that came again with other bytes.
    conflicts: u64,
    doubts: Vec<String>,
    /// Lines and rows that make no sense.
    misread: Vec<String>,
    has_files: bool,
}

/// The wall clock of a node was set, or is not that of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockSet {
    /// Where devices see the node come from; `None`: those of all nodes.
    pub node: Option<IpAddr>,
    /// From when on, in monotonic nanoseconds.
    pub began_ns: u64,
    /// When it was right again; the largest number, if it stays wrong.
    pub ended_ns: u64,
}

/// Something that is being done to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Begun {
    effect: Effect,
    began_ns: u64,
}

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
    /// An empty account of `plant`. `wall_offset`: wall clock minus monotonic clock, in nanoseconds.
    pub fn new(plant: &Plant, wall_offset: i64) -> Self {
        let devices = plant.devices.iter().map(|device| (device.id.clone(), DeviceBook::new(device.clone())));
        let pushers =
            plant.pushers.iter().map(|pusher| (pusher.id.clone(), PusherBook::new(pusher.content.clone())));
        Self {
            devices: devices.collect(),
            pushers: pushers.collect(),
            highest: HashMap::new(),
            refused: BTreeMap::new(),
            reigns: Reigns::default(),
            wall_offset,
            wall_moved: 0,
            clocks: Vec::new(),
            keys: Keys::default(),
            named: Named::default(),
            faults: Vec::new(),
            begun: Vec::new(),
            causes: Causes::default(),
            overlaps: 0,
            delivered: 0,
            duplicates: 0,
            filed_twice: 0,
            out_of_order: 0,
            phantoms: 0,
            conflicts: 0,
            doubts: Vec::new(),
            misread: Vec::new(),
            has_files: false,
        }
    }

    /// A device got the first byte of a request at this moment, which it answered with values.
    pub fn asked(&mut self, device: &str, ordinal: u64, node: IpAddr, began_ns: u64) {
        if let Some(book) = self.devices.get_mut(device) {
            book.asked(ordinal, node, began_ns);
        }
    }

    /// A device got the first byte of a request at this moment, which it did not answer with values.
    pub fn asked_in_vain(&mut self, device: &str, node: IpAddr, began_ns: u64) {
        if let Some(book) = self.devices.get_mut(device) {
            book.asked_in_vain(node, began_ns);
        }
    }

    /// A device answered a read with values.
    pub fn answered(&mut self, device: &str, ordinal: u64, node: IpAddr, at_ns: u64) {
        if let Some(book) = self.devices.get_mut(device) {
            book.answered(ordinal, node, at_ns);
        }
    }

    /// A device answered a read of so many registers, from one on, with values.
    pub fn answered_span(
        &mut self,
        device: &str,
        (start, count): (u16, u16),
        ordinal: u64,
        node: IpAddr,
        at_ns: u64,
    ) {
        if let Some(book) = self.devices.get_mut(device) {
            book.answered_span((start, count), ordinal, node, at_ns);
        }
    }

    /// A device saw requests of two nodes at one time.
    pub fn overlapped(&mut self) {
        self.overlaps += 1;
    }

    /// A pusher sends a message, for the first time or again.
    pub fn sent(&mut self, pusher: &str, number: u64, base_time: i64) {
        if let Some(book) = self.pushers.get_mut(pusher) {
            book.sent(number, base_time);
        }
    }

    /// A pusher was told that a message is safe.
    pub fn acknowledged(&mut self, pusher: &str, number: u64) {
        if let Some(book) = self.pushers.get_mut(pusher) {
            book.acknowledged(number);
        }
    }

    /// The HTTP receiver has refused a record for what it holds.
    pub fn refused(&mut self, key: SampleKey, at_ns: u64) {
        self.refused.entry(key).or_insert(at_ns);
    }

    /// The HTTP receiver got a sample; `is_new`: under a key that had not come before.
    pub fn received(&mut self, sample: &SampleSeen, is_new: bool) {
        if sample.tag.starts_with('$') {
            return;
        }
        if !is_new {
            self.duplicates += 1;
            return;
        }
        self.delivered += 1;
        let highest = self.highest.entry(sample.tag.clone()).or_insert(sample.key);
        self.out_of_order += u64::from(sample.key < *highest && !self.refused.contains_key(&sample.key));
        *highest = sample.key.max(*highest);
        self.reigns.received(sample);
        let is_known = if let Some(book) = self.devices.get_mut(&sample.device) {
            book.received(sample)
        } else if let Some(book) = self.pushers.get_mut(&sample.device) {
            book.received(sample)
        } else {
            false
        };
        self.phantoms += u64::from(!is_known);
    }

    /// The HTTP receiver got a gap record.
    pub fn received_gap(&mut self, gap: &GapSeen, is_new: bool) {
        if !is_new {
            self.duplicates += 1;
            return;
        }
        match self.devices.get_mut(&gap.device) {
            Some(book) => book.received_gap(gap.clone()),
            None => self.phantoms += 1,
        }
    }

    /// The HTTP receiver was told that a grid begins.
    pub fn received_opening(&mut self, opening: OpeningSeen, is_new: bool) {
        if !is_new {
            self.duplicates += 1;
            return;
        }
        match self.devices.get_mut(&opening.device) {
            Some(book) => book.received_opening(opening),
            None => self.phantoms += 1,
        }
    }

    /// A sample stands in a CSV file.
    pub fn filed(&mut self, device: &str, tag: &str, slot: Option<(u64, u64)>, source_time: Timestamp) {
        self.file(device, tag, slot, source_time);
    }

    /// The same, and what became of it.
    fn file(&mut self, device: &str, tag: &str, slot: Option<(u64, u64)>, source_time: Timestamp) -> Filed {
        self.has_files = true;
        if tag.starts_with('$') {
            return Filed::Unknown;
        }
        let filed = match (self.devices.get_mut(device), self.pushers.get_mut(device), slot) {
            (Some(book), _, Some(slot)) => book.filed(tag, slot),
            (None, Some(book), None) => book.filed(tag, source_time),
            _ => Filed::Unknown,
        };
        match filed {
            Filed::Expected => {}
            Filed::Twice => self.filed_twice += 1,
            Filed::Unknown => self.phantoms += 1,
        }
        filed
    }

    /// Something is being done to the cluster from now on. It explains a change of leader even if it never comes to its
    /// end.
    pub fn begins_to_suffer(&mut self, effect: Effect, began_ns: u64) {
        self.begun.push(Begun { effect, began_ns });
    }

    /// Something was done to the cluster from `began_ns` to `done_ns` that may cost slots, and a leader, until reading
    /// goes on.
    pub fn disturbed(&mut self, began_ns: u64, done_ns: u64) {
        self.causes.disturbances.push((began_ns, done_ns));
    }

    /// Something was done to a device from `began_ns` to `done_ns` that may keep it from being read, or from being
    /// read in time.
    pub fn device_failed(&mut self, device: &str, began_ns: u64, done_ns: u64) {
        self.causes.failed_devices.push((device.to_owned(), began_ns, done_ns));
    }

    /// Gaps may have these causes: the run brings them about by other means than what it says of the cluster.
    pub fn allow(&mut self, causes: &[&str]) {
        self.causes.allowed.extend(causes.iter().map(|cause| (*cause).to_owned()));
    }

    /// The same of gaps that meet the time between two moments.
    pub fn allow_within(&mut self, causes: &[&str], from_ns: u64, until_ns: u64) {
        let allowances =
            causes.iter().map(|cause| Allowance { cause: (*cause).to_owned(), from_ns, until_ns });
        self.causes.allowed_within.extend(allowances);
    }

    /// Something was done to the cluster, and is over.
    pub fn suffered(&mut self, fault: Fault) {
        self.begun.retain(|begun| begun.began_ns != fault.began_ns);
        self.faults.push(fault);
    }

    /// A node's wall clock was set: the times of what it read then are not compared.
    pub fn clock_was_set(&mut self, clock: ClockSet) {
        self.clocks.push(clock);
    }

    /// The wall clock minus the monotonic one at the end: the machine's own clock may have been set meanwhile.
    pub fn wall_clock_ends(&mut self, wall_offset: i64) {
        self.wall_moved = wall_offset.saturating_sub(self.wall_offset);
    }

    /// So many records came again with other bytes than the first time.
    pub fn conflicted(&mut self, records: u64) {
        self.conflicts += records;
    }

    /// A line or a row makes no sense, which is a doubt too: until it is read again by something that understands it.
    fn misread(&mut self, doubt: String) {
        self.misread.push(doubt);
    }

    /// Something keeps this run from proving anything.
    pub fn doubt(&mut self, doubt: impl Into<String>) {
        self.doubts.push(doubt.into());
    }

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

    fn wall(&self, monotonic_ns: u64) -> Timestamp {
        Timestamp(i64::try_from(monotonic_ns).unwrap_or(i64::MAX).saturating_add(self.wall_offset))
    }

    fn monotonic(&self, wall: Timestamp) -> u64 {
        u64::try_from(wall.0.saturating_sub(self.wall_offset)).unwrap_or_default()
    }

    fn clocks(&self) -> Clocks<'_> {
        let (start, end) = (self.wall_offset, self.wall_offset.saturating_add(self.wall_moved));
        let (least, most) =
            (start.min(end).saturating_sub(EXACT_NS), start.max(end).saturating_add(EXACT_NS));
        Clocks { least, most, set: &self.clocks }
    }

    /// Reigns that no fault explains, with their terms.
    fn spurious_elections(&self) -> Vec<(u64, &Reign)> {
        let over = self.faults.iter().map(|fault| (fault.effect, fault.began_ns, fault.ended_ns));
        let begun = self.begun.iter().map(|begun| (begun.effect, begun.began_ns, u64::MAX));
        let disturbed = self.disturbed_windows().map(|(from, to)| (Effect::Failover, from, to));
        let causes = over
            .chain(begun)
            .chain(disturbed)
            .filter(|(effect, ..)| *effect != Effect::None)
            .map(|(_, began_ns, ended_ns)| self.wall(began_ns)..=self.wall(ended_ns));
        self.reigns.unexplained(causes.collect())
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

    /// Files hold all gaps and openings that had come over HTTP at this moment: each is demanded.
    pub fn rows_are_due(&mut self, until_ns: u64) {
        self.named.due_ns = Some(until_ns);
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

    /// The account at the end: what is pending now has been lost.
    pub fn settle(&self) -> Report {
        let mut report = Report {
            delivered: self.delivered,
            duplicates: self.duplicates,
            filed_twice: self.filed_twice,
            out_of_order: self.out_of_order,
            device_overlaps: self.overlaps,
            requests_astray: self.requests_astray(),
            uncaused: self.uncaused(),
            stale_reigns: self.reigns.stale(),
            conflicts: self.conflicts,
            keys_astray: self.keys.astray(),
            records_unfiled: if self.has_files { self.named.unfiled() } else { 0 },
            records_filed_twice: self.named.filed_twice(),
            ..Report::default()
        };
        let (mut wrong, mut hidden) = (self.phantoms, 0);
        let clocks = self.clocks();
        report.times_astray = self.devices.values().map(|book| book.times_astray(&clocks)).sum();
        report.notes.extend(note_of_clock(self.wall_moved));
        for tally in self.devices.values().map(DeviceBook::settle) {
            report.reads_answered += tally.reads;
            report.lost += tally.lost + tally.pending;
            report.slots_expected += tally.expected;
            report.slots_sampled += tally.sampled;
            report.slots_bad += tally.bad;
            report.slots_in_gaps += tally.in_gaps;
            report.slots_unaccounted += tally.unaccounted;
            report.keys_astray += tally.rekeyed;
            wrong += tally.wrong;
            hidden += tally.hidden;
        }
        for tally in self.pushers.values().map(PusherBook::settle) {
            report.pushed_acked += tally.acknowledged;
            report.lost += tally.lost + tally.pending;
            report.duplicates += tally.again;
            wrong += tally.wrong;
        }
        for fault in &self.faults {
            match fault.effect {
                Effect::Failover => report.failovers.push(FailoverSeen {
                    fault: fault.name.clone(),
                    gap_ms: self.longest_silence(fault.began_ns, fault.taken_over_ns) / 1_000_000,
                }),
                Effect::Switchover => {
                    let missed = self.slots_missed(fault.began_ns, fault.taken_over_ns);
                    report.notes.extend(note_of_switchover(&fault.name, &missed));
                    report.switchovers.push(SwitchoverSeen { slots_missed: missed.values().sum() });
                }
                Effect::None => {}
            }
        }
        let spurious = self.spurious_elections();
        report.spurious_elections = spurious.len() as u64;
        report.notes.extend(spurious.into_iter().map(|(term, reign)| note_of_election(term, reign)));
        let unfiled = if self.has_files { self.unfiled() } else { 0 };
        report.lost += unfiled;
        let gaps = self.judge_gaps(report.slots_expected, hidden);
        report.notes.extend(gaps.notes);
        report.calm = gaps.calm;
        let doubts = self.misread.iter().chain(&self.doubts).cloned().collect();
        report.judge(wrong, unfiled, gaps.problems, doubts);
        report
    }
}

fn note_of_election(term: u64, reign: &Reign) -> String {
    let node = reign.node().unwrap_or("a node");
    format!("an election that nobody caused: {node} led in term {term} from {}", reign.began())
}

fn note_of_clock(moved: i64) -> Option<String> {
    let is_worth_it = moved.abs() > EXACT_NS;
    is_worth_it.then(|| format!("this machine's own wall clock was set meanwhile, by {moved} ns"))
}

fn note_of_switchover(name: &str, missed: &BTreeMap<String, u64>) -> Option<String> {
    let causes: Vec<String> = missed.iter().map(|(cause, slots)| format!("{cause} {slots}")).collect();
    (!causes.is_empty()).then(|| format!("slots missed at the {name}: {}", causes.join(", ")))
}

/// Slots in gap records by cause.
fn by_cause<'a>(gaps: impl Iterator<Item = &'a GapSeen>) -> BTreeMap<String, u64> {
    let mut causes = BTreeMap::new();
    for gap in gaps {
        *causes.entry(gap.cause.clone()).or_default() += gap.last - gap.first + 1;
    }
    causes
}

/// What became of a row of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filed {
    /// Its sample stands in files as often as it was committed.
    Expected,
    /// Its sample stands in files more often.
    Twice,
    /// Nobody produced such a sample, or the other destination never got it.
    Unknown,
}

#[cfg(test)]
mod tests;
