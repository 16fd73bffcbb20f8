//! What an account was told by whoever ran it, beside what the simulated parts saw: by it, a history that is over can be
//! judged again.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::causes::Allowance;
use super::{Account, Begun, ClockSet, Fault};

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
