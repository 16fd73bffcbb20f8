//! The mapping, example by example and by random records that are read back.

use std::sync::Arc;
use std::time::Duration;

use model::ids::GridId;
use model::record::{GridSlot, TagFacts};
use model::{Cause, Lineage, Ordinal, Position, SampleKey, StatusCode, Term, Timestamp, ValueType};
use proptest::prelude::*;

use super::*;

fn sample_of(reading: Reading, value_type: ValueType) -> SampleRecord {
    SampleRecord {
        key: SampleKey { lineage: Lineage::from_random(0), position: Position(41), ordinal: Ordinal(7) },
        tag: Arc::new(TagFacts {
            id: "hall-2/press-1/ram".into(),
            value_type,
            unit: "bar".into(),
            device: "hall-2/press-1".into(),
            group: "fast".into(),
        }),
        reading,
        source_time: Timestamp(1_500_000_000_000_000_001),
        gateway_time: Timestamp(1_500_000_000_000_000_002),
        slot: Some(GridSlot { grid: GridId(3), slot: 9 }),
        node: "gateway-a".into(),
        term: Term(5),
    }
}

fn value_text(value: Value) -> String {
    let mut out = Vec::new();
    write_value(&mut out, &value);
    String::from_utf8(out).expect("JSON is UTF-8")
}

#[test]
fn a_sample_prints_its_members_in_the_settled_order() {
    let text = record(&Record::Sample(sample_of(Reading::Good(Value::F32(0.1)), ValueType::F32)));
    assert_eq!(
        String::from_utf8(text).expect("UTF-8"),
        "{\"key\":\"00000000/41/7\",\"tag\":\"hall-2/press-1/ram\",\"value\":0.1,\"type\":\"f32\",\"unit\":\"bar\",\
         \"quality\":\"good\",\"status\":\"Good\",\"source_time\":\"2017-07-14T02:40:00.000000001Z\",\
         \"gateway_time\":\"2017-07-14T02:40:00.000000002Z\",\"device\":\"hall-2/press-1\",\"group\":\"fast\",\
         \"grid\":\"3\",\"slot\":\"9\",\"node\":\"gateway-a\",\"term\":\"5\"}"
    );
}

#[test]
fn a_bad_sample_has_no_value_and_keeps_its_type() {
    let bad = Record::Sample(sample_of(Reading::Bad(StatusCode::BAD_TIMEOUT), ValueType::F32));
    let json: serde_json::Value = serde_json::from_slice(&record(&bad)).expect("JSON");
    assert_eq!(json["value"], serde_json::Value::Null);
    assert_eq!((&json["quality"], &json["status"]), (&"bad".into(), &"BadTimeout".into()));
    assert_eq!(json["type"], "f32");
}

#[test]
fn numbers_follow_the_proto3_mapping() {
    assert_eq!(value_text(Value::I64(i64::MIN)), "\"-9223372036854775808\"");
    assert_eq!(value_text(Value::U64(u64::MAX)), "\"18446744073709551615\"");
    assert_eq!(value_text(Value::I32(-5)), "-5");
    assert_eq!(value_text(Value::F64(f64::NAN)), "\"NaN\"");
    assert_eq!(value_text(Value::F32(f32::NEG_INFINITY)), "\"-Infinity\"");
    assert_eq!(value_text(Value::F32(16_777_216.0)), "16777216.0");
    assert_eq!(value_text(Value::F32(0.1)), "0.1");
    assert_eq!(value_text(Value::F64(f64::from(0.1_f32))), "0.10000000149011612");
    assert_eq!(value_text(Value::Bytes(Arc::from(&[0xff_u8, 0][..]))), "\"/wA=\"");
    let array = Value::Array(ValueType::I64, Arc::from([Value::I64(1), Value::I64(2)]));
    assert_eq!(value_text(array), "[\"1\",\"2\"]");
}

#[test]
fn a_key_inside_a_string_does_not_look_like_a_key() {
    let value = Value::String("{\"key\":\"00000000/1/1\"".into());
    let text = record(&Record::Sample(sample_of(Reading::Good(value), ValueType::String)));
    assert_eq!(String::from_utf8(text).expect("UTF-8").matches("\"key\":\"").count(), 1);
}

#[test]
fn an_envelope_keeps_kinds_apart_and_cursors_around() {
    let sample = sample_of(Reading::Good(Value::Bool(true)), ValueType::Bool);
    let gap = gap_of(SampleKey { ordinal: Ordinal::FIRST_EFFECT, ..sample.key });
    let delivery = Delivery {
        cluster: "plant-7".into(),
        destination: "historian".into(),
        after: Cursor::at(Position(41)),
        upto: Cursor::at(Position(42)),
        historical: true,
        records: vec![Record::Sample(sample.clone()), Record::Sample(sample), Record::Gap(gap)],
    };
    let mut body = Body::default();
    delivery.records.iter().for_each(|record| body.push(record));
    let text = body.finish(&delivery, delivery.after, delivery.upto, false);
    let json: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!((&json["cluster"], &json["destination"]), (&"plant-7".into(), &"historian".into()));
    assert_eq!(
        (&json["after"], &json["upto"], &json["historical"]),
        (&"41/0".into(), &"42/0".into(), &true.into())
    );
    let counts =
        ["samples", "gaps", "openings", "expiries"].map(|list| json[list].as_array().expect("a list").len());
    assert_eq!(counts, [2, 1, 0, 0]);
    assert_eq!(json["gaps"][0]["slots"], "3");
}

fn gap_of(key: SampleKey) -> GapRecord {
    GapRecord {
        key,
        device: "press".into(),
        group: "fast".into(),
        grid: GridId(3),
        first_slot: 7,
        last_slot: 9,
        from: Timestamp(7),
        to: Timestamp(10),
        cause: Cause::Failover,
        node: "gateway-a".into(),
        term: Term(5),
    }
}

#[test]
fn what_is_no_record_is_refused_by_member() {
    assert!(matches!(parse(b"[1"), Err(ParseError::Syntax(_))));
    let text = record(&Record::Sample(sample_of(Reading::Good(Value::I16(3)), ValueType::I16)));
    let text = String::from_utf8(text).expect("UTF-8");
    let wrong = text.replace("\"value\":3", "\"value\":70000");
    let error = parse(wrong.as_bytes()).expect_err("70000 is no i16").to_string();
    assert!(error.contains("\"value\"") && error.contains("i16"), "{error}");
    let wrong = text.replace("00000000/41/7", "41/7");
    assert!(parse(wrong.as_bytes()).expect_err("no lineage").to_string().contains("\"key\""));
}

fn any_key() -> impl Strategy<Value = SampleKey> {
    (any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|(lineage, position, ordinal)| SampleKey {
        lineage: Lineage::from_random(lineage),
        position: Position(position),
        ordinal: Ordinal(ordinal),
    })
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
        // From bits, so that subnormal numbers, infinities and NaN occur.
        ValueType::F32 => any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))).boxed(),
        ValueType::F64 => any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))).boxed(),
        ValueType::String => any::<String>().prop_map(|text| Value::String(text.into())).boxed(),
        ValueType::Bytes => any::<Vec<u8>>().prop_map(|bytes| Value::Bytes(bytes.into())).boxed(),
    }
}

fn any_value() -> impl Strategy<Value = (ValueType, Value)> {
    proptest::sample::select(ValueType::ALL.to_vec()).prop_flat_map(|value_type| {
        let array = proptest::collection::vec(any_scalar(value_type), 0..4)
            .prop_map(move |values| Value::Array(value_type, values.into()));
        prop_oneof![3 => any_scalar(value_type), 1 => array].prop_map(move |value| (value_type, value))
    })
}

fn any_sample() -> impl Strategy<Value = Record> {
    let words = (any::<String>(), any::<String>(), any::<String>(), any::<String>(), any::<String>());
    let times = (any::<i64>(), any::<i64>());
    let slot = proptest::option::of((any::<u64>(), any::<u64>()));
    (any_key(), words, any_value(), any::<u32>(), times, slot, any::<u64>()).prop_map(
        |(
            key,
            (id, unit, device, group, node),
            (value_type, value),
            status,
            (source, gateway),
            slot,
            term,
        )| {
            let status = StatusCode(status);
            let reading = match status.quality() {
                model::Quality::Good => Reading::Good(value),
                model::Quality::Uncertain => Reading::Uncertain(value, status),
                model::Quality::Bad => Reading::Bad(status),
            };
            Record::Sample(SampleRecord {
                key,
                tag: Arc::new(TagFacts { id, value_type, unit, device, group }),
                reading,
                source_time: Timestamp(source),
                gateway_time: Timestamp(gateway),
                slot: slot.map(|(grid, slot)| GridSlot { grid: GridId(grid), slot }),
                node: node.into(),
                term: Term(term),
            })
        },
    )
}

fn any_other() -> impl Strategy<Value = Record> {
    let cause = proptest::sample::select(Cause::ALL.to_vec());
    let numbers = (any::<u64>(), any::<u32>(), any::<u32>(), any::<u64>());
    let times = (any::<i64>(), any::<i64>());
    let replaces = proptest::option::of(any::<u64>());
    (any_key(), any::<String>(), any::<String>(), cause, numbers, times, replaces, any::<Duration>(), 0..3)
        .prop_map(
            |(key, word, node, cause, (grid, first, more, term), (from, to), replaces, period, kind)| {
                let (node, grid, term) = (Arc::from(node), GridId(grid), Term(term));
                let cursor =
                    |ordinal| Cursor { position: Position(u64::from(first)), ordinal: Ordinal(ordinal) };
                match kind {
                    0 => Record::Gap(GapRecord {
                        key,
                        device: word.as_str().into(),
                        group: word.into(),
                        grid,
                        first_slot: u64::from(first),
                        last_slot: u64::from(first) + u64::from(more),
                        from: Timestamp(from),
                        to: Timestamp(to),
                        cause,
                        node,
                        term,
                    }),
                    1 => Record::Opening(OpeningRecord {
                        key,
                        device: word.as_str().into(),
                        group: word.into(),
                        grid,
                        first: Timestamp(from),
                        period,
                        replaces: replaces.map(GridId),
                        cause,
                        node,
                        term,
                    }),
                    _ => Record::Expiry(ExpiryRecord {
                        key,
                        destination: word.into(),
                        from: cursor(first),
                        to: cursor(more),
                        cause,
                        samples: u64::from(more),
                        node,
                        term,
                    }),
                }
            },
        )
}

/// Equality that takes a NaN as itself: `==` on records is that of IEEE 754.
fn is_same(left: &Record, right: &Record) -> bool {
    let (Record::Sample(a), Record::Sample(b)) = (left, right) else {
        return left == right;
    };
    let without_value = |sample: &SampleRecord| SampleRecord {
        reading: Reading::Bad(sample.reading.status()),
        ..sample.clone()
    };
    let values_agree = match (a.reading.value(), b.reading.value()) {
        (Some(a), Some(b)) => same_value(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    without_value(a) == without_value(b) && a.reading.quality() == b.reading.quality() && values_agree
}

fn same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        // JSON's NaN has no payload and no sign.
        (Value::F32(a), Value::F32(b)) if a.is_nan() => b.is_nan(),
        (Value::F64(a), Value::F64(b)) if a.is_nan() => b.is_nan(),
        (Value::Array(ty, a), Value::Array(other, b)) => {
            ty == other && a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same_value(a, b))
        }
        _ => a.is_identical(b),
    }
}

proptest! {
    #[test]
    fn any_record_is_read_back_the_same(original in prop_oneof![4 => any_sample(), 1 => any_other()]) {
        // A good reading has no room for a status other than Good.
        let text = record(&original);
        let back = parse(&text).map_err(|error| TestCaseError::fail(format!("{error}: {}", String::from_utf8_lossy(&text))))?;
        prop_assert!(is_same(&original, &back), "{:?}\n{:?}\n{}", original, back, String::from_utf8_lossy(&text));
    }
}
