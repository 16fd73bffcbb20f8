//! What an account was told by whoever ran it, beside what the simulated parts saw: by it, a history that is over can be
//! judged again.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Account;
use super::causes::Allowance;

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
pub(super) struct Begun {
    pub(super) effect: Effect,
    pub(super) began_ns: u64,
}

/// Everything that an account was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// What was done to the cluster, and is over.
    pub faults: Vec<Fault>,
    /// When something else was done that may cost slots, and when that was over, in monotonic nanoseconds.
    pub disturbances: Vec<(u64, u64)>,
    /// Devices to which something was done, from when until when.
    #[serde(default)]
    pub failed_devices: Vec<(String, u64, u64)>,
    pub(super) wall_offset: i64,
    #[serde(default)]
    pub(super) wall_moved: i64,
    #[serde(default)]
    pub(super) clocks: Vec<ClockSet>,
    pub(super) begun: Vec<Begun>,
    pub(super) allowed: BTreeSet<String>,
    /// Absent in histories from before there were any.
    #[serde(default)]
    pub(super) allowed_within: Vec<Allowance>,
    pub(super) conflicts: u64,
    /// Absent in histories from before rows of gaps were demanded.
    #[serde(default)]
    pub(super) rows_due_ns: Option<u64>,
    pub(super) doubts: Vec<String>,
}

impl Account {
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
    pub(super) fn misread(&mut self, doubt: String) {
        self.misread.push(doubt);
    }

    /// Something keeps this run from proving anything.
    pub fn doubt(&mut self, doubt: impl Into<String>) {
        self.doubts.push(doubt.into());
    }

    /// Files hold all gaps and openings that had come over HTTP at this moment: each is demanded.
    pub fn rows_are_due(&mut self, until_ns: u64) {
        self.named.due_ns = Some(until_ns);
    }

    /// What it was told until now.
    pub fn told(&self) -> Told {
        Told {
            faults: self.faults.clone(),
            disturbances: self.causes.disturbances.clone(),
            failed_devices: self.causes.failed_devices.clone(),
            wall_offset: self.wall_offset,
            wall_moved: self.wall_moved,
            clocks: self.clocks.clone(),
            begun: self.begun.clone(),
            allowed: self.causes.allowed.clone(),
            allowed_within: self.causes.allowed_within.clone(),
            conflicts: self.conflicts,
            rows_due_ns: self.named.due_ns,
            doubts: self.doubts.clone(),
        }
    }

    /// Forgets what it was told, and is told this instead.
    pub(super) fn take(&mut self, told: Told) {
        self.faults = told.faults;
        self.causes.disturbances = told.disturbances;
        self.causes.failed_devices = told.failed_devices;
        self.wall_offset = told.wall_offset;
        self.wall_moved = told.wall_moved;
        self.clocks = told.clocks;
        self.begun = told.begun;
        self.causes.allowed = told.allowed;
        self.causes.allowed_within = told.allowed_within;
        self.conflicts = told.conflicts;
        self.named.due_ns = told.rows_due_ns;
        self.doubts = told.doubts;
    }
}
