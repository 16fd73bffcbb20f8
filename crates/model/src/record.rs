//! What a destination is handed: records, each with a key that never changes.
//!
//! The same record goes to every destination; whether it is late (`historical`) belongs to the [`Delivery`],
//! because it may differ between a first send and a retry.

use std::sync::Arc;
use std::time::Duration;

use crate::gap::Cause;
use crate::ids::{GridId, Term};
use crate::position::{Cursor, SampleKey};
use crate::reading::Reading;
use crate::time::Timestamp;
use crate::value::ValueType;

/// One sample as the far side sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleRecord {
    /// Its name for ever.
    pub key: SampleKey,
    /// What is the same for all samples of the tag.
    pub tag: Arc<TagFacts>,
    /// Value, quality and status.
    pub reading: Reading,
    /// When the source produced it.
    pub source_time: Timestamp,
    /// When the gateway received it.
    pub gateway_time: Timestamp,
    /// The slot it was read in; pushed samples have none.
    pub slot: Option<GridSlot>,
    /// Name of the node that read or took it.
    pub node: Arc<str>,
    /// The term in which it was committed.
    pub term: Term,
}

/// What is the same for all samples of a tag under one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TagFacts {
    /// The full id, `device/name`.
    pub id: String,
    /// The type of its values.
    pub value_type: ValueType,
    /// Engineering unit; empty where none is given.
    pub unit: String,
    /// The device's id.
    pub device: String,
    /// The poll group's id; empty where there is none.
    pub group: String,
}

/// A slot of a grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GridSlot {
    /// The grid.
    pub grid: GridId,
    /// The slot's number, from 0.
    pub slot: u64,
}

/// A run of slots without samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapRecord {
    /// Its name for ever.
    pub key: SampleKey,
    /// The device's id.
    pub device: Arc<str>,
    /// The poll group's id.
    pub group: Arc<str>,
    /// The grid.
    pub grid: GridId,
    /// The first slot without a sample.
    pub first_slot: u64,
    /// The last slot without a sample.
    pub last_slot: u64,
    /// Nominal time of the first slot.
    pub from: Timestamp,
    /// Nominal time of the slot after the last (exclusive end).
    pub to: Timestamp,
    /// Why.
    pub cause: Cause,
    /// Name of the node that led when the gap was recorded.
    pub node: Arc<str>,
    /// The term in which it was recorded.
    pub term: Term,
}

impl GapRecord {
    /// How many slots it covers.
    pub fn slots(&self) -> u64 {
        self.last_slot - self.first_slot + 1
    }
}

/// A poll group's schedule begins, or begins anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpeningRecord {
    /// Its name for ever.
    pub key: SampleKey,
    /// The device's id.
    pub device: Arc<str>,
    /// The poll group's id.
    pub group: Arc<str>,
    /// The grid that begins.
    pub grid: GridId,
    /// Nominal time of its slot 0.
    pub first: Timestamp,
    /// From one slot to the next.
    pub period: Duration,
    /// The grid it replaces.
    pub replaces: Option<GridId>,
    /// Why it begins.
    pub cause: Cause,
    /// Name of the node that led.
    pub node: Arc<str>,
    /// The term.
    pub term: Term,
}

/// What a destination will never be handed, because the buffer had to give it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiryRecord {
    /// Its name for ever.
    pub key: SampleKey,
    /// The destination it concerns.
    pub destination: Arc<str>,
    /// Where its cursor stood.
    pub from: Cursor,
    /// Where its cursor was moved to.
    pub to: Cursor,
    /// Why.
    pub cause: Cause,
    /// How many samples lay between (before the destination's route is applied).
    pub samples: u64,
    /// The node that led.
    pub node: Arc<str>,
    /// The term.
    pub term: Term,
}

/// Anything that has a key and is delivered in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A sample.
    Sample(SampleRecord),
    /// A run of slots without samples.
    Gap(GapRecord),
    /// A schedule begins.
    Opening(OpeningRecord),
    /// Something was given up.
    Expiry(ExpiryRecord),
}

impl Record {
    /// Its name for ever.
    pub fn key(&self) -> SampleKey {
        match self {
            Self::Sample(sample) => sample.key,
            Self::Gap(gap) => gap.key,
            Self::Opening(opening) => opening.key,
            Self::Expiry(expiry) => expiry.key,
        }
    }
}

/// A run of records for one destination, in key order, and the cursors around it.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// The destination's id.
    pub destination: Arc<str>,
    /// The cursor before it: everything earlier has been acknowledged.
    pub after: Cursor,
    /// The cursor behind it, once it is acknowledged.
    pub upto: Cursor,
    /// Whether it is a backlog being drained rather than live data.
    pub historical: bool,
    /// The records; never empty.
    pub records: Vec<Record>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Lineage;
    use crate::position::{Ordinal, Position};

    #[test]
    fn a_gap_counts_both_of_its_ends() {
        let gap = GapRecord {
            key: SampleKey {
                lineage: Lineage::from_random(1),
                position: Position(9),
                ordinal: Ordinal::FIRST_EFFECT,
            },
            device: "press".into(),
            group: "fast".into(),
            grid: GridId(1),
            first_slot: 7,
            last_slot: 9,
            from: Timestamp(0),
            to: Timestamp(3),
            cause: Cause::Failover,
            node: "gateway-a".into(),
            term: Term(2),
        };
        assert_eq!(gap.slots(), 3);
    }
}
