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
//!   busy with other things can cause them, so they fail no account; whoever runs it reads of each one. Elections outside of
//!   every fault, and slots missed while nothing was done, are counted by themselves: the proof kit bounds them.
//! - A gap's cause must be so: what was done to the cluster is told to the account for that.
//! - A finished history can be judged again, without anything else: it ends with what the account was told ([`Told`]).

mod causes;
mod files;
mod histories;
mod keys;
mod named;
mod polled;
mod pushed;
mod questions;
mod reigns;
mod report;
mod seen;
mod settle;
mod told;
mod turns;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use model::{SampleKey, Timestamp};

use crate::plant::{Plant, Polled};
use causes::Causes;
pub use files::{count_other_rows, count_rows, enter_files};
pub use histories::{SharedAccount, replay};
use keys::Keys;
use named::Named;
use polled::DeviceBook;
use pushed::PusherBook;
pub use questions::Figures;
use reigns::Reigns;
pub use report::{Calm, FailoverSeen, Report, SwitchoverSeen, Uncaused, Verdict};
pub use seen::{GapSeen, Number, OpeningSeen, SampleSeen};
use told::Begun;
pub use told::{ClockSet, Effect, Fault, Told};

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

    fn wall(&self, monotonic_ns: u64) -> Timestamp {
        Timestamp(i64::try_from(monotonic_ns).unwrap_or(i64::MAX).saturating_add(self.wall_offset))
    }

    fn monotonic(&self, wall: Timestamp) -> u64 {
        u64::try_from(wall.0.saturating_sub(self.wall_offset)).unwrap_or_default()
    }
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
