//! A body: samples taken apart into columns, and put together again.

use std::sync::Arc;

use model::batch::{BatchHeader, Sample};
use model::{Reading, Timestamp, Value, ValueType};

use super::bytes::{Reader, put_varint, zigzag};
use super::runs::{RunWriter, TagWriter, Verdict, read_tags, read_times, read_types, read_verdicts};
use super::{BatchError, DecodeError, MAX_ELEMENTS, MAX_SAMPLES, WORTH_COMPRESSING, numbers};

/// Added to the number of a type for an array of it.
const ARRAY: u8 = 0x80;

/// Types whose values are numbers, and their widths in bytes.
const NUMBERS: [(ValueType, usize); 8] = [
    (ValueType::I16, 2),
    (ValueType::U16, 2),
    (ValueType::I32, 4),
    (ValueType::U32, 4),
    (ValueType::I64, 8),
    (ValueType::U64, 8),
    (ValueType::F32, 4),
    (ValueType::F64, 8),
];

fn type_number(value_type: ValueType) -> u8 {
    match value_type {
        ValueType::Bool => 0,
        ValueType::I16 => 1,
        ValueType::U16 => 2,
        ValueType::I32 => 3,
        ValueType::U32 => 4,
        ValueType::I64 => 5,
        ValueType::U64 => 6,
        ValueType::F32 => 7,
        ValueType::F64 => 8,
        ValueType::String => 9,
        ValueType::Bytes => 10,
    }
}

/// The element type, and whether it is an array of them. Numbers that no type has are reserved: what bears one is
/// neither guessed at nor passed over.
fn type_from_number(number: u8) -> Result<(ValueType, bool), DecodeError> {
    let element = ValueType::ALL.into_iter().find(|element| type_number(*element) == number & !ARRAY);
    element.map(|element| (element, number & ARRAY != 0)).ok_or(DecodeError::UnknownType { number })
}

/// The samples of a batch, taken apart.
#[derive(Debug)]
pub(super) struct Columns<'a> {
    samples: &'a [Sample],
    types: RunWriter<u8>,
    lengths: Vec<u8>,
    elements: usize,
    values: Values<'a>,
}

/// Scalars and elements of arrays, by type.
#[derive(Debug, Default)]
struct Values<'a> {
    bools: Vec<bool>,
    numbers: [Vec<u64>; NUMBERS.len()],
    strings: Vec<&'a [u8]>,
    bytes: Vec<&'a [u8]>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(samples: &'a [Sample]) -> Result<Self, BatchError> {
        if samples.len() > MAX_SAMPLES {
            return Err(BatchError::TooLarge { what: "samples", found: samples.len(), limit: MAX_SAMPLES });
        }
        let types = RunWriter::new(|out, number| out.push(number));
        let mut columns =
            Self { samples, types, lengths: Vec::new(), elements: 0, values: Values::default() };
        for value in samples.iter().filter_map(|sample| sample.reading.value()) {
            match value {
                Value::Array(element, items) => columns.push_array(*element, items)?,
                scalar => {
                    columns.types.push(type_number(scalar.value_type()));
                    columns.values.push(scalar)?;
                }
            }
        }
        Ok(columns)
    }

    fn push_array(&mut self, element: ValueType, items: &'a [Value]) -> Result<(), BatchError> {
        self.elements += items.len();
        if self.elements > MAX_ELEMENTS {
            return Err(BatchError::TooLarge { what: "elements", found: self.elements, limit: MAX_ELEMENTS });
        }
        self.types.push(type_number(element) | ARRAY);
        put_varint(&mut self.lengths, items.len() as u64);
        for item in items {
            if item.value_type() != element {
                return Err(BatchError::MixedArray);
            }
            self.values.push(item)?;
        }
        Ok(())
    }

    pub(super) fn write(self, oldest: Timestamp, out: &mut Vec<u8>) {
        let mut tags = TagWriter::new();
        let mut times = RunWriter::new(|out, delta: i64| put_varint(out, zigzag(delta)));
        let mut verdicts = RunWriter::new(put_varint);
        let mut before = oldest.0;
        for sample in self.samples {
            tags.push(sample.tag);
            times.push(sample.source_time.0.wrapping_sub(before));
            before = sample.source_time.0;
            verdicts.push(Verdict::code(&sample.reading));
        }
        put_varint(out, self.samples.len() as u64);
        out.extend_from_slice(&tags.finish());
        out.extend_from_slice(&times.finish());
        out.extend_from_slice(&verdicts.finish());
        out.extend_from_slice(&self.types.finish());
        out.extend_from_slice(&self.lengths);
        self.values.write(out);
    }
}

impl<'a> Values<'a> {
    #[inline]
    fn push(&mut self, value: &'a Value) -> Result<(), BatchError> {
        match value {
            Value::Bool(value) => self.bools.push(*value),
            Value::I16(value) => self.numbers[0].push(u64::from(value.cast_unsigned())),
            Value::U16(value) => self.numbers[1].push(u64::from(*value)),
            Value::I32(value) => self.numbers[2].push(u64::from(value.cast_unsigned())),
            Value::U32(value) => self.numbers[3].push(u64::from(*value)),
            Value::I64(value) => self.numbers[4].push(value.cast_unsigned()),
            Value::U64(value) => self.numbers[5].push(*value),
            Value::F32(value) => self.numbers[6].push(u64::from(value.to_bits())),
            Value::F64(value) => self.numbers[7].push(value.to_bits()),
            Value::String(value) => self.strings.push(value.as_bytes()),
            Value::Bytes(value) => self.bytes.push(value),
            Value::Array(..) => return Err(BatchError::MixedArray),
        }
        Ok(())
    }

    fn write(self, out: &mut Vec<u8>) {
        let numbers = self.numbers.iter().zip(NUMBERS);
        let blobs = self.strings.iter().chain(&self.bytes);
        let expected = out.len()
            + self.bools.len() / 8
            + numbers.map(|(column, (_, width))| column.len() * width).sum::<usize>()
            + blobs.map(|blob| blob.len()).sum::<usize>();
        let will_be_compressed = expected >= WORTH_COMPRESSING;
        write_bools(&self.bools, out);
        for (column, (_, width)) in self.numbers.iter().zip(NUMBERS) {
            numbers::write(column, width, will_be_compressed, out);
        }
        write_blobs(&self.strings, out);
        write_blobs(&self.bytes, out);
    }
}

fn write_bools(bools: &[bool], out: &mut Vec<u8>) {
    let pack = |eight: &[bool]| eight.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
    out.extend(bools.chunks(8).map(pack));
}

fn write_blobs(blobs: &[&[u8]], out: &mut Vec<u8>) {
    for blob in blobs {
        put_varint(out, blob.len() as u64);
    }
    for blob in blobs {
        out.extend_from_slice(blob);
    }
}

/// Puts the samples of a body together.
pub(super) fn read(body: &[u8], header: &BatchHeader) -> Result<Vec<Sample>, DecodeError> {
    let mut reader = Reader::new(body);
    let count = reader.count(MAX_SAMPLES)?;
    if count != header.count as usize {
        return Err(DecodeError::Corrupt("a count that is not the header's"));
    }
    let tags = read_tags(&mut reader, count)?;
    let times = read_times(&mut reader, count, header.oldest)?;
    let verdicts = read_verdicts(&mut reader, count)?;
    let is_bad = |verdict: &Verdict| matches!(verdict, Verdict::Bad(_));
    let bad: usize = verdicts.iter().filter(|(verdict, _)| is_bad(verdict)).map(|(_, length)| length).sum();
    let mut values = ValueReader::new(&mut reader, count - bad)?;
    reader.finish()?;

    let mut samples = Vec::with_capacity(count);
    let mut places = tags.into_iter().zip(times);
    for (verdict, length) in verdicts {
        for (tag, source_time) in places.by_ref().take(length) {
            let reading = match verdict {
                Verdict::Good => Reading::Good(values.next()?),
                Verdict::Uncertain(status) => Reading::Uncertain(values.next()?, status),
                Verdict::Bad(status) => Reading::Bad(status),
            };
            samples.push(Sample { tag, source_time, reading });
        }
    }
    Ok(samples)
}

/// Gives the values of a body in the order of its samples.
struct ValueReader<'a> {
    /// Element type, whether arrays of it, and how many values in a row.
    types: std::vec::IntoIter<(ValueType, bool, usize)>,
    current: (ValueType, bool, usize),
    lengths: std::vec::IntoIter<usize>,
    scalars: Scalars<'a>,
}

/// Scalars and elements of arrays, by type; as many as types and lengths say.
#[derive(Default)]
struct Scalars<'a> {
    bools: &'a [u8],
    next_bool: usize,
    numbers: [std::vec::IntoIter<u64>; NUMBERS.len()],
    strings: std::vec::IntoIter<&'a str>,
    bytes: std::vec::IntoIter<&'a [u8]>,
}

const TOO_FEW: DecodeError = DecodeError::Corrupt("there are fewer values than samples");

impl<'a> ValueReader<'a> {
    fn new(reader: &mut Reader<'a>, count: usize) -> Result<Self, DecodeError> {
        let mut types = Vec::new();
        let mut arrays = Vec::new();
        let mut totals = [0; ValueType::ALL.len()];
        for (number, length) in read_types(reader, count)? {
            let (element, is_array) = type_from_number(number)?;
            types.push((element, is_array, length));
            if is_array {
                arrays.push((element, length));
            } else {
                totals[usize::from(type_number(element))] += length;
            }
        }
        let mut lengths = Vec::new();
        let mut left = MAX_ELEMENTS;
        for (element, array_count) in arrays {
            for _ in 0..array_count {
                let length = reader.count(left)?;
                left -= length;
                totals[usize::from(type_number(element))] += length;
                lengths.push(length);
            }
        }
        let scalars = Scalars::read(reader, &totals)?;
        let (types, lengths) = (types.into_iter(), lengths.into_iter());
        Ok(Self { types, current: (ValueType::Bool, false, 0), lengths, scalars })
    }

    #[inline]
    fn next(&mut self) -> Result<Value, DecodeError> {
        while self.current.2 == 0 {
            self.current = self.types.next().ok_or(TOO_FEW)?;
        }
        self.current.2 -= 1;
        let (element, is_array, _) = self.current;
        if !is_array {
            return self.scalars.next(element);
        }
        let length = self.lengths.next().ok_or(TOO_FEW)?;
        let items = (0..length).map(|_| self.scalars.next(element)).collect::<Result<Arc<[Value]>, _>>()?;
        Ok(Value::Array(element, items))
    }
}

impl<'a> Scalars<'a> {
    fn read(reader: &mut Reader<'a>, totals: &[usize; ValueType::ALL.len()]) -> Result<Self, DecodeError> {
        let total = |element| totals[usize::from(type_number(element))];
        let mut scalars = Self { bools: read_bools(reader, total(ValueType::Bool))?, ..Self::default() };
        for (column, (element, width)) in scalars.numbers.iter_mut().zip(NUMBERS) {
            let count = total(element);
            if count > 0 {
                *column = numbers::read(reader, count, width)?.into_iter();
            }
        }
        let strings = read_blobs(reader, total(ValueType::String))?;
        let strings: Result<Vec<&str>, _> = strings.into_iter().map(std::str::from_utf8).collect();
        let strings = strings.map_err(|_| DecodeError::Corrupt("a string is not UTF-8"))?;
        scalars.strings = strings.into_iter();
        scalars.bytes = read_blobs(reader, total(ValueType::Bytes))?.into_iter();
        Ok(scalars)
    }

    #[inline]
    fn next(&mut self, element: ValueType) -> Result<Value, DecodeError> {
        let mut number = |column: usize| self.numbers[column].next().ok_or(TOO_FEW);
        // The casts cut off nothing: a column holds no more bytes of a number than its type has.
        Ok(match element {
            ValueType::Bool => {
                let byte = self.bools.get(self.next_bool / 8).ok_or(TOO_FEW)?;
                let bit = byte >> (self.next_bool % 8) & 1;
                self.next_bool += 1;
                Value::Bool(bit == 1)
            }
            ValueType::I16 => Value::I16(number(0)? as i16),
            ValueType::U16 => Value::U16(number(1)? as u16),
            ValueType::I32 => Value::I32(number(2)? as i32),
            ValueType::U32 => Value::U32(number(3)? as u32),
            ValueType::I64 => Value::I64(number(4)? as i64),
            ValueType::U64 => Value::U64(number(5)?),
            ValueType::F32 => Value::F32(f32::from_bits(number(6)? as u32)),
            ValueType::F64 => Value::F64(f64::from_bits(number(7)?)),
            ValueType::String => Value::String(self.strings.next().ok_or(TOO_FEW)?.into()),
            ValueType::Bytes => Value::Bytes(self.bytes.next().ok_or(TOO_FEW)?.into()),
        })
    }
}

fn read_bools<'a>(reader: &mut Reader<'a>, count: usize) -> Result<&'a [u8], DecodeError> {
    let bools = reader.take(count.div_ceil(8))?;
    match bools.last() {
        Some(last) if !count.is_multiple_of(8) && last >> (count % 8) != 0 => {
            Err(DecodeError::Corrupt("unused bits are not 0"))
        }
        _ => Ok(bools),
    }
}

fn read_blobs<'a>(reader: &mut Reader<'a>, count: usize) -> Result<Vec<&'a [u8]>, DecodeError> {
    let mut lengths = Vec::new();
    for _ in 0..count {
        lengths.push(reader.count(super::MAX_BODY)?);
    }
    lengths.into_iter().map(|length| reader.take(length)).collect()
}
