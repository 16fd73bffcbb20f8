//! Records as a destination saw them, over HTTP or in files.

use model::{SampleKey, Timestamp};

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
