//! Values and readings in `holdfast.v1`, as records have them.
//!
//! - Integers of 64 bits, NaN and infinities are strings, bytes are base64, a bad reading's value is null: as in the
//!   records that destinations are sent.
//! - For people and programs that look; what is delivered and stored never passes here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::{Quality, Reading, StatusCode, Timestamp, Value};
use pbjson_types::value::Kind;
use pbjson_types::{ListValue, Value as ProtoValue};

use crate::proto::v1;
use crate::times::timestamp_to_proto;

/// A reading for a message.
pub fn reading_to_proto(reading: &Reading, source_time: Timestamp) -> v1::Reading {
    let (quality, status, value) = match reading {
        Reading::Good(value) => (Quality::Good, StatusCode::GOOD, kind(value)),
        Reading::Uncertain(value, status) => (Quality::Uncertain, *status, kind(value)),
        Reading::Bad(status) => (Quality::Bad, *status, Kind::NullValue(0)),
    };
    v1::Reading {
        quality: quality.name().to_owned(),
        status: status.to_string(),
        value: Some(ProtoValue { kind: Some(value) }),
        source_time: Some(timestamp_to_proto(source_time)),
    }
}

/// The value of a reading, for people; none where it is bad.
pub fn text_of(reading: &v1::Reading) -> Option<String> {
    text(reading.value.as_ref()?.kind.as_ref()?)
}

fn text(kind: &Kind) -> Option<String> {
    Some(match kind {
        Kind::NullValue(_) | Kind::StructValue(_) => return None,
        Kind::NumberValue(number) => number.to_string(),
        Kind::StringValue(text) => text.clone(),
        Kind::BoolValue(truth) => truth.to_string(),
        Kind::ListValue(list) => {
            let texts = list.values.iter().map(|value| value.kind.as_ref().and_then(text));
            let texts: Vec<String> = texts.map(|text| text.unwrap_or_else(|| "null".to_owned())).collect();
            format!("[{}]", texts.join(", "))
        }
    })
}

fn kind(value: &Value) -> Kind {
    let whole = |number: i64| Kind::StringValue(number.to_string());
    match value {
        Value::Bool(truth) => Kind::BoolValue(*truth),
        Value::I16(number) => Kind::NumberValue(f64::from(*number)),
        Value::U16(number) => Kind::NumberValue(f64::from(*number)),
        Value::I32(number) => Kind::NumberValue(f64::from(*number)),
        Value::U32(number) => Kind::NumberValue(f64::from(*number)),
        Value::I64(number) => whole(*number),
        Value::U64(number) => Kind::StringValue(number.to_string()),
        // The shortest decimal that is this number in 32 bits, not the longer one of 64.
        Value::F32(number) => real(number.to_string().parse().unwrap_or(f64::from(*number))),
        Value::F64(number) => real(*number),
        Value::String(text) => Kind::StringValue(text.to_string()),
        Value::Bytes(bytes) => Kind::StringValue(STANDARD.encode(bytes)),
        Value::Array(_, values) => Kind::ListValue(ListValue {
            values: values.iter().map(|value| ProtoValue { kind: Some(kind(value)) }).collect(),
        }),
    }
}

fn real(number: f64) -> Kind {
    let named = |name: &str| Kind::StringValue(name.to_owned());
    match number {
        n if n.is_nan() => named("NaN"),
        f64::INFINITY => named("Infinity"),
        f64::NEG_INFINITY => named("-Infinity"),
        n => Kind::NumberValue(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: Value) -> String {
        let reading = reading_to_proto(&Reading::Good(value), Timestamp(0));
        serde_json::to_string(&reading.value).expect("JSON")
    }

    #[test]
    fn values_are_written_as_in_records() {
        let cases = [
            (Value::Bool(true), "true"),
            (Value::I16(-2), "-2.0"),
            (Value::U64(u64::MAX), "\"18446744073709551615\""),
            (Value::F32(0.1), "0.1"),
            (Value::F64(f64::NAN), "\"NaN\""),
            (Value::F32(f32::NEG_INFINITY), "\"-Infinity\""),
            (Value::String("a".into()), "\"a\""),
            (Value::Bytes([1, 2].into()), "\"AQI=\""),
        ];
        for (value, expected) in cases {
            assert_eq!(json(value.clone()), expected, "{value:?}");
        }
    }

    #[test]
    fn a_bad_reading_has_no_value_and_says_why() {
        let bad = reading_to_proto(&Reading::Bad(StatusCode::BAD_TIMEOUT), Timestamp(0));
        assert_eq!((bad.quality.as_str(), bad.status.as_str()), ("bad", "BadTimeout"));
        assert_eq!(text_of(&bad), None);
        let good = reading_to_proto(&Reading::Good(Value::F64(42.0)), Timestamp(0));
        assert_eq!(text_of(&good).as_deref(), Some("42"));
    }
}
