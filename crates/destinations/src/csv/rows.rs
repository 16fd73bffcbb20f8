//! Records as rows: fixed headers, UTC, RFC 4180 (comma, CRLF, quotes where needed).
//!
//! Values read as in JSON, without its quotes: a bad sample's value is empty, bytes are base 64, an array is its
//! JSON text. What does not exist is empty.

use model::record::{ExpiryRecord, GapRecord, OpeningRecord, SampleRecord};
use model::{Record, Value};

use super::name::Kind;
use crate::json;
use crate::text::{self, Times};

type Writer = csv::Writer<Vec<u8>>;

/// The kind of file a record belongs into.
pub(super) fn kind_of(record: &Record) -> Kind {
    match record {
        Record::Sample(_) => Kind::Samples,
        Record::Gap(_) => Kind::Gaps,
        Record::Opening(_) => Kind::Openings,
        Record::Expiry(_) => Kind::Expiries,
    }
}

fn header(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Samples => &[
            "key",
            "tag",
            "value",
            "type",
            "unit",
            "quality",
            "status",
            "source_time",
            "gateway_time",
            "device",
            "group",
            "grid",
            "slot",
            "node",
            "term",
        ],
        Kind::Gaps => &[
            "key",
            "device",
            "group",
            "grid",
            "first_slot",
            "last_slot",
            "slots",
            "from",
            "to",
            "cause",
            "node",
            "term",
        ],
        Kind::Openings => {
            &["key", "device", "group", "grid", "first", "period", "replaces", "cause", "node", "term"]
        }
        Kind::Expiries => &["key", "destination", "from", "to", "cause", "samples", "node", "term"],
    }
}

/// Rows of one kind on their way to a file.
#[derive(Debug)]
pub(super) struct Rows {
    writer: Writer,
    cell: Vec<u8>,
    times: Times,
}

impl Rows {
    /// The header, and no rows yet.
    pub(super) fn with_header(kind: Kind) -> Self {
        let mut rows = Self { writer: writer(), cell: Vec::new(), times: Times::default() };
        for name in header(kind) {
            rows.text(name);
        }
        rows.end();
        rows
    }

    /// Adds a row.
    pub(super) fn push(&mut self, record: &Record) {
        match record {
            Record::Sample(sample) => self.sample(sample),
            Record::Gap(gap) => self.gap(gap),
            Record::Opening(opening) => self.opening(opening),
            Record::Expiry(expiry) => self.expiry(expiry),
        }
        self.end();
    }

    /// Bytes that [`Rows::take`] would give, or a little less.
    pub(super) fn len(&self) -> usize {
        self.writer.get_ref().len()
    }

    /// The bytes of all rows since the last call.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::replace(&mut self.writer, writer()).into_inner().expect("a Vec takes every byte")
    }

    fn sample(&mut self, sample: &SampleRecord) {
        self.cell(|out, _| text::key(out, sample.key));
        self.text(&sample.tag.id);
        match sample.reading.value() {
            Some(Value::String(string)) => self.text(string),
            value => self.cell(|out, _| write_value(out, value)),
        }
        self.text(json::type_of(sample).name());
        self.text(&sample.tag.unit);
        self.text(sample.reading.quality().name());
        self.cell(|out, _| json::write_status(out, &sample.reading));
        self.cell(|out, times| times.write(out, sample.source_time));
        self.cell(|out, times| times.write(out, sample.gateway_time));
        self.text(&sample.tag.device);
        self.text(&sample.tag.group);
        self.count(sample.slot.map(|slot| slot.grid.0));
        self.count(sample.slot.map(|slot| slot.slot));
        self.text(&sample.node);
        self.count(Some(sample.term.0));
    }

    fn gap(&mut self, gap: &GapRecord) {
        self.cell(|out, _| text::key(out, gap.key));
        self.text(&gap.device);
        self.text(&gap.group);
        for number in [gap.grid.0, gap.first_slot, gap.last_slot, gap.slots()] {
            self.count(Some(number));
        }
        self.cell(|out, times| times.write(out, gap.from));
        self.cell(|out, times| times.write(out, gap.to));
        self.text(gap.cause.name());
        self.text(&gap.node);
        self.count(Some(gap.term.0));
    }

    fn opening(&mut self, opening: &OpeningRecord) {
        self.cell(|out, _| text::key(out, opening.key));
        self.text(&opening.device);
        self.text(&opening.group);
        self.count(Some(opening.grid.0));
        self.cell(|out, times| times.write(out, opening.first));
        self.cell(|out, _| json::write_period(out, opening.period));
        self.count(opening.replaces.map(|grid| grid.0));
        self.text(opening.cause.name());
        self.text(&opening.node);
        self.count(Some(opening.term.0));
    }

    fn expiry(&mut self, expiry: &ExpiryRecord) {
        self.cell(|out, _| text::key(out, expiry.key));
        self.text(&expiry.destination);
        self.cell(|out, _| text::cursor(out, expiry.from));
        self.cell(|out, _| text::cursor(out, expiry.to));
        self.text(expiry.cause.name());
        self.count(Some(expiry.samples));
        self.text(&expiry.node);
        self.count(Some(expiry.term.0));
    }

    fn text(&mut self, text: &str) {
        self.writer.write_field(text).expect("a Vec takes every byte");
    }

    fn count(&mut self, count: Option<u64>) {
        self.cell(|out, _| {
            if let Some(count) = count {
                text::unsigned(out, count);
            }
        });
    }

    fn cell(&mut self, write: impl FnOnce(&mut Vec<u8>, &mut Times)) {
        self.cell.clear();
        write(&mut self.cell, &mut self.times);
        self.writer.write_field(&self.cell).expect("a Vec takes every byte");
    }

    fn end(&mut self) {
        self.writer.write_record(None::<&[u8]>).expect("a Vec takes every byte");
    }
}

fn writer() -> Writer {
    csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).flexible(true).from_writer(Vec::new())
}

fn write_value(out: &mut Vec<u8>, value: Option<&Value>) {
    match value {
        None => {}
        Some(Value::I64(number)) => text::signed(out, *number),
        Some(Value::U64(number)) => text::unsigned(out, *number),
        Some(Value::Bytes(bytes)) => text::bytes(out, bytes),
        Some(Value::F32(number)) => {
            if let Err(name) = text::f32(out, *number) {
                out.extend_from_slice(name.as_bytes());
            }
        }
        Some(Value::F64(number)) => {
            if let Err(name) = text::f64(out, *number) {
                out.extend_from_slice(name.as_bytes());
            }
        }
        Some(other) => json::write_value(out, other),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::record::TagFacts;
    use model::{Lineage, Ordinal, Position, Reading, SampleKey, StatusCode, Term, Timestamp, ValueType};

    use super::*;

    fn row(reading: Reading, value_type: ValueType) -> String {
        let sample = SampleRecord {
            key: SampleKey { lineage: Lineage::from_random(0), position: Position(41), ordinal: Ordinal(7) },
            tag: Arc::new(TagFacts {
                id: "press, \"left\"/ram".into(),
                value_type,
                unit: "bar".into(),
                device: "press".into(),
                group: "fast".into(),
            }),
            reading,
            source_time: Timestamp(1),
            gateway_time: Timestamp(2),
            slot: None,
            node: "gateway-a".into(),
            term: Term(5),
        };
        let mut rows = Rows::with_header(Kind::Samples);
        rows.take();
        rows.push(&Record::Sample(sample));
        String::from_utf8(rows.take()).expect("UTF-8")
    }

    #[test]
    fn a_row_is_quoted_where_rfc_4180_says_so_and_ends_in_crlf() {
        assert_eq!(
            row(Reading::Good(Value::String("a\r\nb".into())), ValueType::String),
            "00000000/41/7,\"press, \"\"left\"\"/ram\",\"a\r\nb\",string,bar,good,Good,\
             1970-01-01T00:00:00.000000001Z,1970-01-01T00:00:00.000000002Z,press,fast,,,gateway-a,5\r\n"
        );
    }

    #[test]
    fn values_are_plain_and_a_bad_one_is_empty() {
        let value = |reading, value_type| {
            let row = row(reading, value_type);
            row.split("ram\",").nth(1).and_then(|rest| rest.split(",bar").next()).expect("a row").to_owned()
        };
        assert_eq!(value(Reading::Good(Value::I64(i64::MIN)), ValueType::I64), "-9223372036854775808,i64");
        assert_eq!(value(Reading::Good(Value::F32(f32::NAN)), ValueType::F32), "NaN,f32");
        assert_eq!(value(Reading::Good(Value::F32(0.1)), ValueType::F32), "0.1,f32");
        assert_eq!(value(Reading::Bad(StatusCode::BAD_TIMEOUT), ValueType::F32), ",f32");
        let array = Value::Array(ValueType::F32, Arc::from([Value::F32(1.5), Value::F32(2.0)]));
        assert_eq!(value(Reading::Good(array), ValueType::F32), "\"[1.5,2.0]\",f32");
    }
}
