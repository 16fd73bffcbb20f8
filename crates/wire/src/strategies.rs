//! Random things for property tests: everything that can be encoded, and what is likely in a plant.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::batch::{Batch, BatchHeader, Sample};
use model::command::{Command, Event, RefusedAgain, Rejection, Request, Severity, Stamp};
use model::plant::address::{ModbusAddress, Table, WordOrder};
use model::plant::route::Route;
use model::plant::{
    ClusterPolicy, Csv, Destination, DestinationKind, Device, Encoding, Failback, Group, Http, Link,
    ModbusPoint, ModbusTcp, Plant, Retention, Scaling, Schedule, Secret, Standby, Start, Tag, WhenFull,
};
use model::{
    AlarmKind, BootId, Cause, ClusterId, Cursor, GridId, GroupId, Lineage, NodeId, Ordinal, Position,
    Reading, Revision, SessionId, Source, StatusCode, TagId, Timestamp, Value, ValueType,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn any_type() -> impl Strategy<Value = ValueType> {
    proptest::sample::select(&ValueType::ALL[..])
}

fn any_scalar(value_type: ValueType) -> BoxedStrategy<Value> {
    match value_type {
        ValueType::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        ValueType::I16 => any::<i16>().prop_map(Value::I16).boxed(),
        ValueType::U16 => any::<u16>().prop_map(Value::U16).boxed(),
        ValueType::I32 => any::<i32>().prop_map(Value::I32).boxed(),
        ValueType::U32 => any::<u32>().prop_map(Value::U32).boxed(),
        ValueType::I64 => any::<i64>().prop_map(Value::I64).boxed(),
        ValueType::U64 => any::<u64>().prop_map(Value::U64).boxed(),
        // From bits, so that no NaN is left out.
        ValueType::F32 => any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))).boxed(),
        ValueType::F64 => any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))).boxed(),
        ValueType::String => ".{0,12}".prop_map(|text| Value::String(text.into())).boxed(),
        ValueType::Bytes => vec(any::<u8>(), 0..12).prop_map(|bytes| Value::Bytes(bytes.into())).boxed(),
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    any_type().prop_flat_map(|value_type| {
        let array = vec(any_scalar(value_type), 0..6)
            .prop_map(move |items| Value::Array(value_type, Arc::from(items)));
        prop_oneof![4 => any_scalar(value_type), 1 => array]
    })
}

fn any_reading() -> impl Strategy<Value = Reading> {
    prop_oneof![
        6 => any_value().prop_map(Reading::Good),
        1 => (any_value(), any::<u32>()).prop_map(|(value, status)| Reading::Uncertain(value, StatusCode(status))),
        2 => prop_oneof![Just(StatusCode::BAD_TIMEOUT), any::<u32>().prop_map(StatusCode)].prop_map(Reading::Bad),
    ]
}

/// Tags and times both as they usually are and as they might be.
fn any_sample() -> impl Strategy<Value = Sample> {
    let tag = prop_oneof![10_u32..14, any::<u32>()];
    let time = prop_oneof![Just(1_700_000_000_000_000_000), 0..3_i64, any::<i64>()];
    (tag, time, any_reading()).prop_map(|(tag, time, reading)| Sample {
        tag: TagId(tag),
        source_time: Timestamp(time),
        reading,
    })
}

pub(crate) fn any_cause() -> impl Strategy<Value = Cause> {
    proptest::sample::select(&Cause::ALL[..])
}

pub(crate) fn any_source() -> impl Strategy<Value = Source> {
    prop_oneof![
        (any::<u32>(), any::<u64>(), any::<u64>(), any_cause()).prop_map(|(group, grid, slot, skipped)| {
            Source::Polled { group: group.into(), grid: grid.into(), slot, skipped }
        }),
        (any::<u128>(), any::<u64>())
            .prop_map(|(session, sequence)| Source::Pushed { session: SessionId::from(session), sequence }),
    ]
}

pub(crate) fn any_batch() -> impl Strategy<Value = Batch> {
    let ids = (any::<u64>(), any::<u64>(), any::<i64>());
    let mixed = vec(any_sample(), 1..60);
    (any_source(), ids, prop_oneof![mixed, any_alike()]).prop_map(
        |(source, (node, revision, at), samples)| {
            Batch::new(source, NodeId(node), Revision(revision), Timestamp(at), samples)
                .expect("at least one sample")
        },
    )
}

/// Many samples of one type on a schedule, as a group of registers gives them.
fn any_alike() -> impl Strategy<Value = Vec<Sample>> {
    (any_type(), any::<u16>(), any::<i32>(), any::<u8>(), 0..3_i64).prop_flat_map(
        |(value_type, tag, at, step, pace)| {
            let sample = move |(index, value): (usize, Value)| Sample {
                tag: TagId(u32::from(tag) + index as u32 * u32::from(step & 1)),
                source_time: Timestamp(i64::from(at) + index as i64 * pace),
                reading: Reading::Good(value),
            };
            vec(any_scalar(value_type), 1..400)
                .prop_map(move |values| values.into_iter().enumerate().map(sample).collect())
        },
    )
}

pub(crate) fn any_batch_header() -> impl Strategy<Value = BatchHeader> {
    let times = (any::<i64>(), any::<i64>(), any::<i64>());
    (any_source(), any::<u64>(), any::<u64>(), 1..=u32::MAX, times, any::<bool>()).prop_map(
        |(source, node, revision, count, (gateway_time, one, other), all_bad)| BatchHeader {
            source,
            node: NodeId(node),
            revision: Revision(revision),
            gateway_time: Timestamp(gateway_time),
            count,
            oldest: Timestamp(one.min(other)),
            newest: Timestamp(one.max(other)),
            all_bad,
        },
    )
}

pub(crate) fn any_stamp() -> impl Strategy<Value = Stamp> {
    (any::<i64>(), any::<u128>()).prop_map(|(at, boot)| Stamp { at: Timestamp(at), boot: BootId::from(boot) })
}

fn any_request() -> impl Strategy<Value = Request> {
    (".{0,9}", ".{0,20}").prop_map(|(principal, reason)| Request { principal, reason })
}

fn any_elapsed() -> impl Strategy<Value = Vec<(GroupId, Duration)>> {
    let one = (any::<u32>(), any::<u64>());
    vec(one.prop_map(|(group, nanos)| (GroupId(group), Duration::from_nanos(nanos))), 0..5)
}

fn any_duration() -> impl Strategy<Value = Duration> {
    (0..1_000_000_u64, 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
}

fn any_cursor() -> impl Strategy<Value = Cursor> {
    (any::<u64>(), any::<u32>())
        .prop_map(|(position, ordinal)| Cursor { position: Position(position), ordinal: Ordinal(ordinal) })
}

fn any_rejection() -> impl Strategy<Value = Rejection> {
    (any_cursor(), ".{0,20}", vec(any::<u8>(), 0..40)).prop_map(|(cursor, reason, record)| Rejection {
        position: cursor.position,
        ordinal: cursor.ordinal,
        reason,
        record,
    })
}

fn any_event() -> impl Strategy<Value = Event> {
    let severity = prop_oneof![Just(Severity::Info), Just(Severity::Warning), Just(Severity::Alarm)];
    (severity, ".{0,20}", ".{0,60}").prop_map(|(severity, subject, text)| Event { severity, subject, text })
}

/// Every command but an append.
pub(crate) fn any_command() -> impl Strategy<Value = Command> {
    prop_oneof![any_reign_command(), any_retention_command(), any_admin_command()]
}

fn any_reign_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        (any::<u128>(), ".{0,9}", any::<u64>()).prop_map(|(cluster, name, lineage)| Command::Found {
            cluster: ClusterId::from(cluster),
            name,
            lineage: Lineage::from_random(lineage),
        }),
        (any::<u64>(), ".{0,9}", any_cause(), any::<Option<u64>>()).prop_map(
            |(node, name, cause, leaderless)| Command::Lead {
                node: NodeId(node),
                name,
                cause,
                leaderless: leaderless.map(Duration::from_nanos),
            }
        ),
        (any::<u32>(), any::<u64>(), any::<u64>(), any_cause()).prop_map(|(group, grid, last, cause)| {
            Command::Missed { group: group.into(), grid: grid.into(), last, cause }
        }),
        (any_elapsed(), vec((any::<u64>(), any::<u64>()), 0..5)).prop_map(|(elapsed, next)| {
            let next = next.into_iter().map(|(grid, slot)| (GridId(grid), slot)).collect();
            Command::Reclock { elapsed, next }
        }),
        any_event().prop_map(Command::Event),
        (proptest::sample::select(&AlarmKind::ALL[..]), any::<bool>(), any_event()).prop_map(
            |(kind, raised, Event { severity, subject, text })| Command::SetAlarm {
                kind,
                subject,
                raised,
                severity,
                text
            }
        ),
    ]
}

fn any_refused_again() -> impl Strategy<Value = RefusedAgain> {
    (any_cursor(), ".{0,20}").prop_map(|(cursor, reason)| RefusedAgain {
        position: cursor.position,
        ordinal: cursor.ordinal,
        reason,
    })
}

fn any_places() -> impl Strategy<Value = Vec<(Position, Ordinal)>> {
    vec(any_cursor().prop_map(|cursor| (cursor.position, cursor.ordinal)), 0..4)
}

fn any_retention_command() -> impl Strategy<Value = Command> {
    let loss = (any::<u32>(), any::<u64>()).prop_map(|(destination, samples)| (destination.into(), samples));
    prop_oneof![
        (any::<u32>(), any_cursor(), vec(any_rejection(), 0..4)).prop_map(|(destination, next, rejected)| {
            Command::Acknowledge { destination: destination.into(), next, rejected }
        }),
        (any::<u64>(), option::of(vec(loss, 0..4)))
            .prop_map(|(below, overrun)| Command::Truncate { below: Position(below), overrun }),
        (".{0,9}", any_places(), any_request())
            .prop_map(|(destination, keys, request)| Command::RetryQuarantine { destination, keys, request }),
        (any::<u32>(), any_places(), vec(any_refused_again(), 0..4)).prop_map(
            |(destination, accepted, refused)| Command::SettleRetries {
                destination: destination.into(),
                accepted,
                refused,
            }
        ),
    ]
}

fn any_admin_command() -> impl Strategy<Value = Command> {
    let documents = (vec(any::<u8>(), 0..400), any_plant());
    prop_oneof![
        (any::<u64>(), documents, any_elapsed(), vec(".{0,9}", 0..3), any_request()).prop_map(
            |(base, (bundle, plant), elapsed, discard, request)| Command::Configure {
                base: Revision(base),
                bundle,
                plant: Box::new(plant),
                elapsed,
                discard,
                request,
            }
        ),
        (any::<u128>(), any::<u32>(), any::<u32>(), vec(any::<u8>(), 0..400)).prop_map(
            |(document, part, parts, data)| Command::Stage { document: document.into(), part, parts, data }
        ),
        (any::<u64>(), any::<u128>(), any_elapsed(), vec(".{0,9}", 0..3), any_request()).prop_map(
            |(base, document, elapsed, discard, request)| Command::ConfigureStaged {
                base: Revision(base),
                document: document.into(),
                elapsed,
                discard,
                request,
            }
        ),
        (".{0,9}", any::<bool>(), option::of(any::<i64>()), any_elapsed(), any_request()).prop_map(
            |(device, enabled, until, elapsed, request)| Command::SetDeviceEnabled {
                device,
                enabled,
                until: until.map(Timestamp),
                elapsed,
                request,
            }
        ),
        (".{0,9}", any::<bool>(), any_request()).prop_map(|(destination, paused, request)| {
            Command::SetDestinationPaused { destination, paused, request }
        }),
        (any::<u64>(), any::<bool>(), any_request()).prop_map(|(node, drained, request)| {
            Command::SetDrained { node: NodeId(node), drained, request }
        }),
    ]
}

fn finite() -> impl Strategy<Value = f64> {
    any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |number| number.is_finite())
}

pub(crate) fn any_plant() -> impl Strategy<Value = Plant> {
    let cluster =
        (vec("[a-z]{1,4}", 0..3), option::of(any_duration())).prop_map(|(preferred, settle)| ClusterPolicy {
            preferred,
            failback: settle.map_or(Failback::Manual, |settle| Failback::Auto { settle }),
        });
    let retention =
        (any::<u64>(), any::<bool>(), any_duration()).prop_map(|(max_bytes, refuse, keep_delivered)| {
            let when_full = if refuse { WhenFull::Refuse } else { WhenFull::DropOldest };
            Retention { max_bytes, when_full, keep_delivered }
        });
    (cluster, retention, vec(any_device(), 0..3), vec(any_destination(), 0..3)).prop_map(
        |(cluster, retention, devices, destinations)| Plant { cluster, retention, devices, destinations },
    )
}

fn any_device() -> impl Strategy<Value = Device> {
    let modbus = (any::<u16>(), any::<u8>(), any_duration(), any::<bool>(), any::<bool>()).prop_map(
        |(port, unit_id, timeout, slow, warm)| {
            Link::ModbusTcp(ModbusTcp {
                host: "10.0.5.11".into(),
                port,
                unit_id,
                timeout,
                slow,
                standby: if warm { Standby::Warm } else { Standby::Cold },
                max_gap: 8,
                max_registers: 125,
            })
        },
    );
    let labels = vec(("[a-z]{1,3}", ".{0,3}"), 0..3).prop_map(BTreeMap::from_iter);
    (".{1,9}", prop_oneof![modbus, Just(Link::Push)], any::<bool>(), labels, vec(any_group(), 0..3)).prop_map(
        |(id, link, enabled, labels, groups)| Device {
            id,
            link,
            enabled,
            labels,
            description: String::new(),
            groups,
        },
    )
}

fn any_group() -> impl Strategy<Value = Group> {
    let schedule = (any_duration(), any_duration()).prop_map(|(period, offset)| Schedule { period, offset });
    (".{1,9}", option::of(schedule), vec(any_tag(), 1..4)).prop_map(|(id, schedule, tags)| Group {
        id,
        schedule,
        enabled: true,
        tags,
    })
}

fn any_tag() -> impl Strategy<Value = Tag> {
    let encoding = prop_oneof![
        any_type().prop_map(Encoding::Plain),
        Just(Encoding::Bcd16),
        Just(Encoding::Bcd32),
        any::<u16>().prop_map(Encoding::Text),
        any::<u16>().prop_map(Encoding::Raw),
    ];
    let scaling = (finite(), finite()).prop_map(|(factor, offset)| Scaling { factor, offset });
    let point = (any::<u16>(), option::of(0..16_u8), encoding, any::<bool>(), option::of(scaling)).prop_map(
        |(offset, bit, encoding, swap_words, scaling)| ModbusPoint {
            address: ModbusAddress { table: Table::Holding, offset, bit },
            encoding,
            word_order: WordOrder { swap_words, ..WordOrder::default() },
            scaling,
        },
    );
    (".{1,9}", option::of(point), any_type(), ".{0,3}").prop_map(|(name, point, value_type, unit)| Tag {
        name,
        point,
        value_type,
        unit,
        description: "ram, rod side".into(),
    })
}

fn any_destination() -> impl Strategy<Value = Destination> {
    let token = prop_oneof![
        Just(None),
        "[a-z]{1,8}".prop_map(|path| Some(Secret::File(PathBuf::from(path)))),
        "[A-Z]{1,8}".prop_map(|name| Some(Secret::Env(name))),
    ];
    let http = (".{0,20}", token, option::of(".{0,20}"), any_duration(), any::<u32>()).prop_map(
        |(url, token, ca, timeout, max_records)| {
            DestinationKind::Http(Http { url, token, ca, timeout, max_records })
        },
    );
    let csv = ("[a-z/]{1,20}", any_duration(), any::<u32>()).prop_map(|(directory, every, max_rows)| {
        DestinationKind::Csv(Csv { directory: directory.into(), every, max_rows })
    });
    let routes = vec(vec(".{1,9}", 0..3).prop_map(|tags| Route { tags }), 0..3);
    (".{1,9}", prop_oneof![http, csv], any::<bool>(), any::<bool>(), routes).prop_map(
        |(id, kind, required, now, routes)| Destination {
            id,
            kind,
            required,
            start: if now { Start::Now } else { Start::Oldest },
            routes,
        },
    )
}

/// A plant of one tag with this scale.
pub(crate) fn scaled_plant(factor: f64) -> Plant {
    let point = ModbusPoint {
        address: ModbusAddress { table: Table::Holding, offset: 100, bit: None },
        encoding: Encoding::Plain(ValueType::I16),
        word_order: WordOrder::default(),
        scaling: Some(Scaling { factor, offset: 0.0 }),
    };
    let tag = Tag {
        name: "level".into(),
        point: Some(point),
        value_type: ValueType::F64,
        unit: "m".into(),
        description: String::new(),
    };
    let group = Group { id: "fast".into(), schedule: None, enabled: true, tags: vec![tag] };
    let device = Device {
        id: "press".into(),
        link: Link::Push,
        enabled: true,
        labels: BTreeMap::new(),
        description: String::new(),
        groups: vec![group],
    };
    Plant { devices: vec![device], ..Plant::default() }
}
