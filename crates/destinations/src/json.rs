//! The record as JSON, the same on every destination and in quarantine, and the envelope of an HTTP request.
//!
//! - The mapping is proto3's: 64-bit integers, NaN and infinities as strings, bytes in base 64, durations as
//!   seconds with an `s`. What does not exist (the value of a bad sample, the slot of a pushed one) is `null`.
//! - A 32-bit float prints as the shortest decimal that gives the same 32 bits; the payload of a NaN is not kept.
//! - `key` is the first member of every record, and `"key":"` occurs nowhere inside a string: receivers may find
//!   keys without parsing the rest.

mod parse;

use model::record::{ExpiryRecord, GapRecord, OpeningRecord, SampleRecord};
use model::{Cursor, Delivery, Reading, Record, Value};

pub use parse::{ParseError, parse};

use crate::text::{self, Times};

/// One record as a JSON object; [`parse()`] reads it back.
pub fn record(record: &Record) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let mut times = Times::default();
    match record {
        Record::Sample(sample) => write_sample(&mut out, &mut times, sample),
        Record::Gap(gap) => write_gap(&mut out, &mut times, gap),
        Record::Opening(opening) => write_opening(&mut out, &mut times, opening),
        Record::Expiry(expiry) => write_expiry(&mut out, expiry),
    }
    out
}

/// Collects records for one request.
#[derive(Debug, Default)]
pub(crate) struct Body {
    samples: Vec<u8>,
    gaps: Vec<u8>,
    openings: Vec<u8>,
    expiries: Vec<u8>,
    times: Times,
}

impl Body {
    /// A body with room for `bytes` of samples.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { samples: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Adds a record behind the others of its kind.
    pub(crate) fn push(&mut self, record: &Record) {
        match record {
            Record::Sample(sample) => write_sample(separated(&mut self.samples), &mut self.times, sample),
            Record::Gap(gap) => write_gap(separated(&mut self.gaps), &mut self.times, gap),
            Record::Opening(opening) => {
                write_opening(separated(&mut self.openings), &mut self.times, opening)
            }
            Record::Expiry(expiry) => write_expiry(separated(&mut self.expiries), expiry),
        }
    }

    /// How many bytes the records take.
    pub(crate) fn len(&self) -> usize {
        self.samples.len() + self.gaps.len() + self.openings.len() + self.expiries.len()
    }

    /// The whole request: the envelope of `delivery`, with the cursors around what was pushed. It says so where records
    /// are `retried`: they lie before the cursor that the receiver has seen.
    pub(crate) fn finish(self, delivery: &Delivery, after: Cursor, upto: Cursor, retried: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len() + 256);
        out.extend_from_slice(b"{\"cluster\":");
        text::quoted(&mut out, &delivery.cluster);
        out.extend_from_slice(b",\"destination\":");
        text::quoted(&mut out, &delivery.destination);
        out.extend_from_slice(b",\"after\":\"");
        text::cursor(&mut out, after);
        out.extend_from_slice(b"\",\"upto\":\"");
        text::cursor(&mut out, upto);
        out.extend_from_slice(b"\",\"historical\":");
        out.extend_from_slice(if delivery.historical { b"true" } else { b"false" });
        if retried {
            out.extend_from_slice(b",\"retried\":true");
        }
        let lists = [
            (&b",\"samples\":["[..], self.samples),
            (b",\"gaps\":[", self.gaps),
            (b",\"openings\":[", self.openings),
            (b",\"expiries\":[", self.expiries),
        ];
        for (name, list) in lists {
            out.extend_from_slice(name);
            out.extend_from_slice(&list);
            out.push(b']');
        }
        out.push(b'}');
        out
    }
}

fn separated(list: &mut Vec<u8>) -> &mut Vec<u8> {
    if !list.is_empty() {
        list.push(b',');
    }
    list
}

fn write_sample(out: &mut Vec<u8>, times: &mut Times, sample: &SampleRecord) {
    let SampleRecord { key, tag, reading, source_time, gateway_time, slot, node, term } = sample;
    write_key(out, *key);
    out.extend_from_slice(b"\",\"tag\":");
    text::quoted(out, &tag.id);
    out.extend_from_slice(b",\"value\":");
    match reading.value() {
        Some(value) => write_value(out, value),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"type\":\"");
    out.extend_from_slice(type_of(sample).name().as_bytes());
    out.extend_from_slice(b"\",\"unit\":");
    text::quoted(out, &tag.unit);
    out.extend_from_slice(b",\"quality\":\"");
    out.extend_from_slice(reading.quality().name().as_bytes());
    out.extend_from_slice(b"\",\"status\":\"");
    write_status(out, reading);
    out.extend_from_slice(b"\",\"source_time\":\"");
    times.write(out, *source_time);
    out.extend_from_slice(b"\",\"gateway_time\":\"");
    times.write(out, *gateway_time);
    out.extend_from_slice(b"\",\"device\":");
    text::quoted(out, &tag.device);
    out.extend_from_slice(b",\"group\":");
    text::quoted(out, &tag.group);
    match slot {
        Some(slot) => {
            write_count(out, b",\"grid\":\"", slot.grid.0);
            write_count(out, b",\"slot\":\"", slot.slot);
        }
        None => out.extend_from_slice(b",\"grid\":null,\"slot\":null"),
    }
    write_origin(out, node, term.0);
}

/// The type of the value itself where there is one, else that of its tag.
pub(crate) fn type_of(sample: &SampleRecord) -> model::ValueType {
    sample.reading.value().map_or(sample.tag.value_type, Value::value_type)
}

fn write_gap(out: &mut Vec<u8>, times: &mut Times, gap: &GapRecord) {
    write_key(out, gap.key);
    out.extend_from_slice(b"\",\"device\":");
    text::quoted(out, &gap.device);
    out.extend_from_slice(b",\"group\":");
    text::quoted(out, &gap.group);
    write_count(out, b",\"grid\":\"", gap.grid.0);
    write_count(out, b",\"first_slot\":\"", gap.first_slot);
    write_count(out, b",\"last_slot\":\"", gap.last_slot);
    write_count(out, b",\"slots\":\"", gap.slots());
    out.extend_from_slice(b",\"from\":\"");
    times.write(out, gap.from);
    out.extend_from_slice(b"\",\"to\":\"");
    times.write(out, gap.to);
    out.extend_from_slice(b"\",\"cause\":\"");
    out.extend_from_slice(gap.cause.name().as_bytes());
    out.push(b'"');
    write_origin(out, &gap.node, gap.term.0);
}

fn write_opening(out: &mut Vec<u8>, times: &mut Times, opening: &OpeningRecord) {
    write_key(out, opening.key);
    out.extend_from_slice(b"\",\"device\":");
    text::quoted(out, &opening.device);
    out.extend_from_slice(b",\"group\":");
    text::quoted(out, &opening.group);
    write_count(out, b",\"grid\":\"", opening.grid.0);
    out.extend_from_slice(b",\"first\":\"");
    times.write(out, opening.first);
    out.extend_from_slice(b"\",\"period\":\"");
    write_period(out, opening.period);
    out.push(b'"');
    match opening.replaces {
        Some(grid) => write_count(out, b",\"replaces\":\"", grid.0),
        None => out.extend_from_slice(b",\"replaces\":null"),
    }
    out.extend_from_slice(b",\"cause\":\"");
    out.extend_from_slice(opening.cause.name().as_bytes());
    out.push(b'"');
    write_origin(out, &opening.node, opening.term.0);
}

fn write_expiry(out: &mut Vec<u8>, expiry: &ExpiryRecord) {
    write_key(out, expiry.key);
    out.extend_from_slice(b"\",\"destination\":");
    text::quoted(out, &expiry.destination);
    out.extend_from_slice(b",\"from\":\"");
    text::cursor(out, expiry.from);
    out.extend_from_slice(b"\",\"to\":\"");
    text::cursor(out, expiry.to);
    out.extend_from_slice(b"\",\"cause\":\"");
    out.extend_from_slice(expiry.cause.name().as_bytes());
    out.push(b'"');
    write_count(out, b",\"samples\":\"", expiry.samples);
    write_origin(out, &expiry.node, expiry.term.0);
}

fn write_key(out: &mut Vec<u8>, key: model::SampleKey) {
    out.extend_from_slice(b"{\"key\":\"");
    text::key(out, key);
}

fn write_count(out: &mut Vec<u8>, name: &[u8], count: u64) {
    out.extend_from_slice(name);
    text::unsigned(out, count);
    out.push(b'"');
}

fn write_origin(out: &mut Vec<u8>, node: &str, term: u64) {
    out.extend_from_slice(b",\"node\":");
    text::quoted(out, node);
    write_count(out, b",\"term\":\"", term);
    out.push(b'}');
}

/// Appends the OPC UA name of the status, or its number in hexadecimal.
pub(crate) fn write_status(out: &mut Vec<u8>, reading: &Reading) {
    let status = reading.status();
    match status.name() {
        Some(name) => out.extend_from_slice(name.as_bytes()),
        None => out.extend_from_slice(status.to_string().as_bytes()),
    }
}

/// Appends a duration as proto3 does: seconds with three, six or nine decimals where there are any, and an `s`.
pub(crate) fn write_period(out: &mut Vec<u8>, period: std::time::Duration) {
    text::unsigned(out, period.as_secs());
    let nanos = period.subsec_nanos();
    let decimals = match nanos {
        0 => String::new(),
        millis if millis % 1_000_000 == 0 => format!(".{:03}", millis / 1_000_000),
        micros if micros % 1_000 == 0 => format!(".{:06}", micros / 1_000),
        nanos => format!(".{nanos:09}"),
    };
    out.extend_from_slice(decimals.as_bytes());
    out.push(b's');
}

/// Appends a value.
pub(crate) fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::I16(number) => text::signed(out, i64::from(*number)),
        Value::U16(number) => text::unsigned(out, u64::from(*number)),
        Value::I32(number) => text::signed(out, i64::from(*number)),
        Value::U32(number) => text::unsigned(out, u64::from(*number)),
        Value::I64(number) => {
            out.push(b'"');
            text::signed(out, *number);
            out.push(b'"');
        }
        Value::U64(number) => {
            out.push(b'"');
            text::unsigned(out, *number);
            out.push(b'"');
        }
        Value::F32(number) => {
            if let Err(name) = text::f32(out, *number) {
                text::quoted(out, name);
            }
        }
        Value::F64(number) => {
            if let Err(name) = text::f64(out, *number) {
                text::quoted(out, name);
            }
        }
        Value::String(string) => text::quoted(out, string),
        Value::Bytes(bytes) => {
            out.push(b'"');
            text::bytes(out, bytes);
            out.push(b'"');
        }
        Value::Array(_, values) => {
            out.push(b'[');
            for (place, value) in values.iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                write_value(out, value);
            }
            out.push(b']');
        }
    }
}

#[cfg(test)]
mod tests;
