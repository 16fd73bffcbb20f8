//! From the columns of a message to samples: all of it, or every reason why not.

use std::sync::Arc;

use model::{Quality, Reading, Sample, StatusCode, Timestamp, Value, ValueType};
use wire::proto::v1::push_request::Samples;
use wire::proto::v1::push_response::{ContentProblem, Reason, Rejected};

use crate::dictionary::Dictionary;

/// Reasons told for one message.
const MAX_REASONS: usize = 16;

/// Size of a message as `ingest.proto` counts it.
pub(crate) fn size_of(message: &Samples) -> usize {
    let text = message.strings.iter().map(|text| 24 + text.len()).sum::<usize>();
    let blobs = message.blobs.iter().map(|blob| 24 + blob.len()).sum::<usize>();
    let scalars = message.bools.len()
        + message.signed.len()
        + message.unsigned.len()
        + message.floats.len()
        + message.doubles.len();
    4 * (message.tags.len() + message.statuses.len()) + 8 * (message.times.len() + scalars) + text + blobs
}

/// Reads the samples of a message.
pub(crate) fn read_samples(
    message: &Samples,
    dictionary: &Dictionary,
    max_bytes: u32,
) -> Result<Vec<Sample>, Rejected> {
    let mut faults = Faults::default();
    let (count, size) = (message.tags.len(), size_of(message));
    if count == 0 {
        faults.add(ContentProblem::Empty, None, "the message has no samples".to_owned());
    }
    if size > max_bytes as usize {
        let text = format!("the message counts {size} bytes, at most {max_bytes} are possible");
        faults.add(ContentProblem::TooLarge, None, text);
    }
    for (column, length) in [("times", message.times.len()), ("statuses", message.statuses.len())] {
        if length != 0 && length != count {
            let text = format!("the column {column} has {length} values for {count} samples");
            faults.add(ContentProblem::Columns, None, text);
        }
    }
    if !faults.reasons.is_empty() {
        return Err(faults.reject(message.sequence));
    }

    let mut columns = Columns { message, used: [0; COLUMNS.len()] };
    let mut samples = Vec::with_capacity(count);
    let mut has_unknown_type = false;
    for index in 0..count {
        let time = read_time(message, index, &mut faults);
        let (tag, value_type) = match dictionary.get(message.tags[index]) {
            Ok(found) => found,
            Err(text) => {
                has_unknown_type = true;
                faults.add(ContentProblem::Tag, Some(index), text);
                continue;
            }
        };
        let reading = read_reading(&mut columns, index, value_type, &mut faults);
        if let (Some(source_time), Some(reading)) = (time, reading) {
            samples.push(Sample { tag, source_time, reading });
        }
    }
    // Without the type of each sample nobody can say how long the columns should be.
    if !has_unknown_type {
        columns.check(&mut faults);
    }
    if faults.reasons.is_empty() { Ok(samples) } else { Err(faults.reject(message.sequence)) }
}

/// A message that turned out too large for one batch.
pub(crate) fn reject_too_large(sequence: u64, text: String) -> Rejected {
    let mut faults = Faults::default();
    faults.add(ContentProblem::TooLarge, None, text);
    faults.reject(sequence)
}

fn read_time(message: &Samples, index: usize, faults: &mut Faults) -> Option<Timestamp> {
    let delta = message.times.get(index).copied().unwrap_or(0);
    let time = message.base_time.checked_add(delta).map(Timestamp);
    if time.is_none() {
        let text = format!("{} ns {delta:+} ns is outside the years 1677 to 2262", message.base_time);
        faults.add(ContentProblem::Time, Some(index), text);
    }
    time
}

fn read_reading(
    columns: &mut Columns<'_>,
    index: usize,
    value_type: ValueType,
    faults: &mut Faults,
) -> Option<Reading> {
    let status = StatusCode(columns.message.statuses.get(index).copied().unwrap_or(0));
    let quality = status.quality();
    if quality == Quality::Bad {
        return Some(Reading::Bad(status));
    }
    // Its value is used up in any case, so that later samples find theirs.
    let value = match columns.take(value_type) {
        Ok(value) => value,
        Err(text) => {
            faults.add(ContentProblem::Value, Some(index), text);
            return None;
        }
    };
    match quality {
        Quality::Uncertain => value.map(|value| Reading::Uncertain(value, status)),
        _ if status == StatusCode::GOOD => value.map(Reading::Good),
        _ => {
            let text = format!("of the good statuses only 0 can be kept, not {status}");
            faults.add(ContentProblem::Value, Some(index), text);
            None
        }
    }
}

const COLUMNS: [&str; 7] = ["bools", "signed", "unsigned", "floats", "doubles", "strings", "blobs"];
const BOOLS: usize = 0;
const SIGNED: usize = 1;
const UNSIGNED: usize = 2;
const FLOATS: usize = 3;
const DOUBLES: usize = 4;
const STRINGS: usize = 5;
const BLOBS: usize = 6;

/// The value columns of a message, and how many values of each are used up.
struct Columns<'a> {
    message: &'a Samples,
    used: [usize; COLUMNS.len()],
}

impl Columns<'_> {
    /// The next value for a tag of this type; `None` where the column has no more, an error where it does not fit.
    fn take(&mut self, value_type: ValueType) -> Result<Option<Value>, String> {
        let message = self.message;
        Ok(match value_type {
            ValueType::Bool => self.next(BOOLS, &message.bools).copied().map(Value::Bool),
            ValueType::I16 => self.signed()?.map(Value::I16),
            ValueType::I32 => self.signed()?.map(Value::I32),
            ValueType::I64 => self.signed()?.map(Value::I64),
            ValueType::U16 => self.unsigned()?.map(Value::U16),
            ValueType::U32 => self.unsigned()?.map(Value::U32),
            ValueType::U64 => self.unsigned()?.map(Value::U64),
            ValueType::F32 => self.next(FLOATS, &message.floats).copied().map(Value::F32),
            ValueType::F64 => self.next(DOUBLES, &message.doubles).copied().map(Value::F64),
            ValueType::String => {
                self.next(STRINGS, &message.strings).map(|text| Value::String(text.as_str().into()))
            }
            ValueType::Bytes => {
                self.next(BLOBS, &message.blobs).map(|blob| Value::Bytes(Arc::from(&blob[..])))
            }
        })
    }

    fn signed<T: TryFrom<i64>>(&mut self) -> Result<Option<T>, String> {
        let value = self.next(SIGNED, &self.message.signed).copied();
        value
            .map(|value| T::try_from(value).map_err(|_| misfit(value, std::any::type_name::<T>())))
            .transpose()
    }

    fn unsigned<T: TryFrom<u64>>(&mut self) -> Result<Option<T>, String> {
        let value = self.next(UNSIGNED, &self.message.unsigned).copied();
        value
            .map(|value| T::try_from(value).map_err(|_| misfit(value, std::any::type_name::<T>())))
            .transpose()
    }

    fn next<'b, T>(&mut self, column: usize, values: &'b [T]) -> Option<&'b T> {
        let value = values.get(self.used[column]);
        self.used[column] += 1;
        value
    }

    fn check(&self, faults: &mut Faults) {
        let Samples { bools, signed, unsigned, floats, doubles, strings, blobs, .. } = self.message;
        let lengths = [
            bools.len(),
            signed.len(),
            unsigned.len(),
            floats.len(),
            doubles.len(),
            strings.len(),
            blobs.len(),
        ];
        for ((name, length), used) in COLUMNS.iter().zip(lengths).zip(self.used) {
            if length != used {
                let text = format!("the column {name} has {length} values, the samples need {used}");
                faults.add(ContentProblem::Columns, None, text);
            }
        }
    }
}

fn misfit(value: impl std::fmt::Display, value_type: &str) -> String {
    format!("{value} does not fit the type {value_type}")
}

#[derive(Debug, Default)]
struct Faults {
    reasons: Vec<Reason>,
    more: u32,
}

impl Faults {
    fn add(&mut self, problem: ContentProblem, sample: Option<usize>, text: String) {
        if self.reasons.len() == MAX_REASONS {
            self.more = self.more.saturating_add(1);
            return;
        }
        let sample = sample.and_then(|index| u32::try_from(index).ok());
        self.reasons.push(Reason { problem: problem.into(), sample, text });
    }

    fn reject(self, sequence: u64) -> Rejected {
        Rejected { sequence, reasons: self.reasons, more: self.more }
    }
}

#[cfg(test)]
mod tests {
    use model::TagId;
    use wire::proto::v1::push_request::Type;

    use super::*;
    use crate::dictionary::tests::{Catalog, declare};

    const ALL: [(&str, u32, ValueType, Type); 11] = [
        ("d/bool", 1, ValueType::Bool, Type::Bool),
        ("d/i16", 2, ValueType::I16, Type::I16),
        ("d/u16", 3, ValueType::U16, Type::U16),
        ("d/i32", 4, ValueType::I32, Type::I32),
        ("d/u32", 5, ValueType::U32, Type::U32),
        ("d/i64", 6, ValueType::I64, Type::I64),
        ("d/u64", 7, ValueType::U64, Type::U64),
        ("d/f32", 8, ValueType::F32, Type::F32),
        ("d/f64", 9, ValueType::F64, Type::F64),
        ("d/string", 10, ValueType::String, Type::String),
        ("d/bytes", 11, ValueType::Bytes, Type::Bytes),
    ];

    fn dictionary() -> Dictionary {
        let catalog = Catalog::new(&ALL.map(|(name, id, ty, _)| (name, id, ty)));
        let mut dictionary = Dictionary::default();
        dictionary
            .declare(&catalog, declare(&ALL.map(|(name, _, _, ty)| (name, ty))), 99)
            .expect("within the rules");
        dictionary
    }

    fn read(message: &Samples) -> Result<Vec<Sample>, Rejected> {
        read_samples(message, &dictionary(), 1_000)
    }

    fn problems(message: &Samples) -> Vec<(ContentProblem, Option<u32>)> {
        let rejected = read(message).expect_err("it should be rejected");
        rejected.reasons.iter().map(|reason| (reason.problem(), reason.sample)).collect()
    }

    #[test]
    fn every_type_arrives_to_the_bit() {
        let nan = f32::from_bits(0x7FC0_1234);
        let message = Samples {
            sequence: 1,
            base_time: 1_000,
            tags: (0..11).collect(),
            times: (0..11).map(|index| index - 5).collect(),
            bools: vec![true],
            signed: vec![-32_768, i64::from(i32::MIN), i64::MIN],
            unsigned: vec![65_535, u64::from(u32::MAX), u64::MAX],
            floats: vec![nan],
            doubles: vec![-0.0],
            strings: vec!["Grün".to_owned()],
            blobs: vec![vec![0, 255].into()],
            ..Samples::default()
        };
        let samples = read(&message).expect("all is right");
        let expected = [
            Value::Bool(true),
            Value::I16(i16::MIN),
            Value::U16(u16::MAX),
            Value::I32(i32::MIN),
            Value::U32(u32::MAX),
            Value::I64(i64::MIN),
            Value::U64(u64::MAX),
            Value::F32(nan),
            Value::F64(-0.0),
            Value::String("Grün".into()),
            Value::Bytes(Arc::from([0, 255])),
        ];
        assert_eq!(samples.len(), expected.len());
        for (index, (sample, expected)) in samples.iter().zip(&expected).enumerate() {
            assert_eq!(sample.tag, TagId(index as u32 + 1));
            assert_eq!(sample.source_time, Timestamp(995 + index as i64));
            let Reading::Good(value) = &sample.reading else { panic!("{sample:?} should be good") };
            assert!(value.is_identical(expected), "{value:?} should be {expected:?}");
        }
    }

    #[test]
    fn a_bad_sample_has_no_value_and_an_uncertain_one_has() {
        let message = Samples {
            tags: vec![7, 7, 7],
            statuses: vec![StatusCode::BAD_TIMEOUT.0, 0, StatusCode::UNCERTAIN.0],
            floats: vec![1.0, 2.0],
            ..Samples::default()
        };
        let readings: Vec<_> = read(&message).expect("all is right").into_iter().map(|s| s.reading).collect();
        let expected = [
            Reading::Bad(StatusCode::BAD_TIMEOUT),
            Reading::Good(Value::F32(1.0)),
            Reading::Uncertain(Value::F32(2.0), StatusCode::UNCERTAIN),
        ];
        assert_eq!(readings, expected);
    }

    #[test]
    fn every_fault_of_a_message_is_told() {
        let message = Samples {
            base_time: i64::MAX,
            tags: vec![1, 99, 2],
            times: vec![0, 0, 1],
            statuses: vec![0, 0, 0x0030_0000],
            signed: vec![32_768],
            unsigned: vec![1],
            ..Samples::default()
        };
        let expected = [
            (ContentProblem::Value, Some(0)),
            (ContentProblem::Tag, Some(1)),
            (ContentProblem::Time, Some(2)),
            (ContentProblem::Value, Some(2)),
        ];
        assert_eq!(problems(&message), expected);
    }

    #[test]
    fn columns_that_are_too_long_or_too_short_are_named() {
        let message =
            Samples { tags: vec![0, 7], floats: vec![1.0, 2.0], doubles: vec![3.0], ..Samples::default() };
        let rejected = read(&message).expect_err("three columns are wrong");
        let texts: Vec<_> = rejected.reasons.iter().map(|reason| reason.text.as_str()).collect();
        let expected = [
            "the column bools has 0 values, the samples need 1",
            "the column floats has 2 values, the samples need 1",
            "the column doubles has 1 values, the samples need 0",
        ];
        assert_eq!(texts, expected);
        let times =
            Samples { tags: vec![0, 0], times: vec![1], bools: vec![true, true], ..Samples::default() };
        assert_eq!(problems(&times), [(ContentProblem::Columns, None)]);
    }

    #[test]
    fn an_empty_message_and_a_large_one_are_rejected() {
        assert_eq!(problems(&Samples::default()), [(ContentProblem::Empty, None)]);
        let large = Samples { tags: vec![9], strings: vec!["x".repeat(1_000)], ..Samples::default() };
        assert_eq!(problems(&large), [(ContentProblem::TooLarge, None)]);
    }

    #[test]
    fn the_list_of_reasons_ends_and_says_how_many_more_there_are() {
        let message = Samples { tags: vec![99; 20], ..Samples::default() };
        let rejected = read(&message).expect_err("no tag is known");
        assert_eq!((rejected.reasons.len(), rejected.more), (MAX_REASONS, 20 - MAX_REASONS as u32));
    }
}
