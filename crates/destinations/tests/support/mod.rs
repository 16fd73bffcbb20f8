//! What the tests of all destinations share: deliveries, permits, a plant.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unreachable_pub, reason = "a module of each test, with nobody outside")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use holdfast_destinations::{AnyDestination, NodeFacts, Reign};
use model::ids::GridId;
use model::plant::{self, DestinationKind, Start};
use model::record::{ExpiryRecord, GapRecord, GridSlot, OpeningRecord, SampleRecord, TagFacts};
use model::{
    Cause, Cursor, Delivery, Fenced, Lineage, Ordinal, Permit, Position, Reading, Record, SampleKey, Term,
    Timestamp, Value,
};

pub fn lineage() -> Lineage {
    Lineage::from_random(7)
}

pub fn key(position: u64, ordinal: u32) -> SampleKey {
    SampleKey { lineage: lineage(), position: Position(position), ordinal: Ordinal(ordinal) }
}

pub fn sample(position: u64, ordinal: u32) -> Record {
    sample_of(position, ordinal, "ram", Value::F32(ordinal as f32))
}

pub fn sample_of(position: u64, ordinal: u32, tag: &str, value: Value) -> Record {
    Record::Sample(SampleRecord {
        key: key(position, ordinal),
        tag: Arc::new(TagFacts {
            id: format!("press/{tag}"),
            value_type: value.value_type(),
            unit: String::new(),
            device: "press".into(),
            group: "fast".into(),
        }),
        reading: Reading::Good(value),
        source_time: Timestamp(position as i64),
        gateway_time: Timestamp(position as i64),
        slot: Some(GridSlot { grid: GridId(1), slot: position }),
        node: "gateway-a".into(),
        term: Term(1),
    })
}

pub fn gap(position: u64) -> Record {
    Record::Gap(GapRecord {
        key: SampleKey { ordinal: Ordinal::FIRST_EFFECT, ..key(position, 0) },
        device: "press".into(),
        group: "fast".into(),
        grid: GridId(1),
        first_slot: 1,
        last_slot: 3,
        from: Timestamp(0),
        to: Timestamp(3),
        cause: Cause::Failover,
        node: "gateway-a".into(),
        term: Term(1),
    })
}

pub fn opening(position: u64) -> Record {
    Record::Opening(OpeningRecord {
        key: SampleKey { ordinal: Ordinal::FIRST_EFFECT, ..key(position, 0) },
        device: "press".into(),
        group: "fast".into(),
        grid: GridId(1),
        first: Timestamp(0),
        period: Duration::from_millis(100),
        replaces: None,
        cause: Cause::Configuration,
        node: "gateway-a".into(),
        term: Term(1),
    })
}

pub fn expiry(position: u64) -> Record {
    Record::Expiry(ExpiryRecord {
        key: SampleKey { ordinal: Ordinal::FIRST_EFFECT, ..key(position, 0) },
        destination: "historian".into(),
        from: Cursor::at(Position(1)),
        to: Cursor::at(Position(2)),
        cause: Cause::DiskFull,
        samples: 12,
        node: "gateway-a".into(),
        term: Term(1),
    })
}

/// Samples 0 … `count` − 1 of one position, as one delivery.
pub fn one_entry(position: u64, count: u32) -> Delivery {
    delivery((0..count).map(|ordinal| sample(position, ordinal)).collect())
}

/// A delivery that begins at its first record's position and ends behind its last record's.
pub fn delivery(records: Vec<Record>) -> Delivery {
    let first = records.first().expect("records").key();
    let last = records.last().expect("records").key();
    Delivery {
        cluster: "plant-7".into(),
        destination: "historian".into(),
        after: Cursor { position: first.position, ordinal: first.ordinal },
        upto: Cursor::at(last.position.next()),
        historical: false,
        records,
    }
}

pub fn reign(term: u64, cursor: Cursor) -> Reign {
    Reign { term: Term(term), cursor, lineages: vec![(Position(1), lineage())] }
}

pub fn node(name: &str) -> NodeFacts {
    NodeFacts { name: name.into(), cluster: "plant-7".into(), ..NodeFacts::default() }
}

pub fn build(kind: DestinationKind, node: &NodeFacts) -> AnyDestination {
    let destination = plant::Destination {
        id: "historian".into(),
        kind,
        required: true,
        start: Start::Now,
        routes: Vec::new(),
    };
    AnyDestination::build(&destination, node).expect("a destination that can be built")
}

/// Always allowed.
pub struct Granted;

impl Permit for Granted {
    fn check(&self) -> Result<(), Fenced> {
        Ok(())
    }

    fn remaining(&self) -> Duration {
        Duration::from_secs(1)
    }
    fn usual_operation(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn held_for(&self) -> Duration {
        Duration::MAX
    }
}

/// Allowed for so many questions, or until it is ended.
pub struct Limited {
    left: AtomicU32,
    ended: AtomicBool,
}

impl Limited {
    pub fn to(questions: u32) -> Self {
        Self { left: AtomicU32::new(questions), ended: AtomicBool::new(false) }
    }

    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

impl Permit for Limited {
    fn check(&self) -> Result<(), Fenced> {
        let take_one = |left: u32| left.checked_sub(1);
        let was_left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take_one).is_ok();
        if was_left && !self.ended.load(Ordering::SeqCst) { Ok(()) } else { Err(Fenced) }
    }

    fn remaining(&self) -> Duration {
        Duration::ZERO
    }
    fn usual_operation(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn held_for(&self) -> Duration {
        Duration::MAX
    }
}
