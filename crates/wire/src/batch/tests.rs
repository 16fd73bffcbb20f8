use std::sync::Arc;

use model::batch::Sample;
use model::{NodeId, Reading, Revision, SessionId, Source, StatusCode, TagId, Timestamp, Value, ValueType};
use proptest::prelude::*;

use super::*;
use crate::strategies::any_batch;

const NOW: Timestamp = Timestamp(1_700_000_000_123_456_789);

fn batch(samples: Vec<Sample>) -> Batch {
    let source = Source::Pushed { session: SessionId::from(7), sequence: 1 };
    Batch::new(source, NodeId(1), Revision(3), NOW, samples).expect("not empty")
}

fn good(tag: u32, at: Timestamp, value: Value) -> Sample {
    Sample { tag: TagId(tag), source_time: at, reading: Reading::Good(value) }
}

/// Equality to the bit; `==` would find every NaN different from itself.
fn same(left: &Sample, right: &Sample) -> bool {
    let identical = match (left.reading.value(), right.reading.value()) {
        (Some(left), Some(right)) => left.is_identical(right),
        (left, right) => left.is_none() && right.is_none(),
    };
    let facts =
        |sample: &Sample| (sample.tag, sample.source_time, sample.reading.quality(), sample.reading.status());
    identical && facts(left) == facts(right)
}

fn round_trip(batch: &Batch) -> EncodedBatch {
    let encoded = EncodedBatch::encode(batch).expect("within the bounds");
    let decoded = encoded.decode().expect("what was encoded can be decoded");
    assert_eq!(decoded.header(), batch.header());
    assert_eq!(decoded.samples().len(), batch.samples().len());
    for (decoded, original) in decoded.samples().iter().zip(batch.samples()) {
        assert!(same(decoded, original), "expected {original:?}, found {decoded:?}");
    }
    encoded
}

/// A reproducible stream of numbers (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From −1 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }
}

/// One slot of 1,000 tags that each walk at random: neighbours have nothing to do with each other.
fn thousand_floats() -> Batch {
    let mut numbers = Numbers(1);
    let mut levels: Vec<f64> = (0..1_000).map(|_| 50.0 + 30.0 * numbers.unit()).collect();
    for _ in 0..20 {
        levels.iter_mut().for_each(|level| *level += 0.05 * numbers.unit());
    }
    batch((0..1_000).map(|n| good(500 + n, NOW, Value::F32(levels[n as usize] as f32))).collect())
}

/// 1,000 samples of one walk.
fn one_walk() -> Batch {
    let mut numbers = Numbers(2);
    let mut level = 50.0;
    let mut sample = |n: u32| {
        level += 0.05 * numbers.unit();
        good(500 + n, NOW, Value::F32(level as f32))
    };
    batch((0..1_000).map(&mut sample).collect())
}

/// One slot of a machine: half of it floats, some counters, some bits, a recipe.
fn mixed(count: u32) -> Batch {
    let mut numbers = Numbers(3);
    let mut value = |n: u32| match n % 10 {
        0..5 => Value::F32((20.0 + 5.0 * numbers.unit()) as f32),
        5 | 6 => Value::I16((numbers.next() % 2_000) as i16),
        7 => Value::U32(1_000_000 + (numbers.next() % 1_000) as u32),
        8 => Value::Bool(numbers.next().is_multiple_of(2)),
        _ if n % 60 == 59 => Value::String("recipe 17".into()),
        _ => Value::F64(100.0 * numbers.unit()),
    };
    batch((0..count).map(|n| good(40 + n, NOW, value(n))).collect())
}

proptest! {
    #[test]
    fn every_batch_comes_back_to_the_bit(batch in any_batch()) {
        round_trip(&batch);
    }

    #[test]
    fn random_bytes_never_make_the_decoder_panic(
        payload in proptest::collection::vec(any::<u8>(), 0..300), count in 1..40_u32, version: bool,
    ) {
        let mut payload = payload;
        if version && payload.len() >= 2 {
            payload[..2].copy_from_slice(&[VERSION, PLAIN]);
            // A count that agrees lets the bytes get further.
            if payload.len() > 2 {
                payload[2] = count as u8;
            }
        }
        let header = BatchHeader { count, ..thousand_floats().header() };
        let encoded = EncodedBatch { header, payload: payload.into() };
        if let Ok(batch) = encoded.decode() {
            prop_assert_eq!(batch.header(), header);
        }
    }

    #[test]
    fn damaged_payloads_never_make_the_decoder_panic(
        batch in any_batch(), flips in proptest::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..6), cut: bool,
    ) {
        let encoded = EncodedBatch::encode(&batch).expect("within the bounds");
        let mut payload = encoded.payload.to_vec();
        for (place, bit) in &flips {
            let place = place.index(payload.len());
            payload[place] ^= 1 << bit;
        }
        if cut {
            payload.truncate(flips[0].0.index(payload.len()));
        }
        let damaged = EncodedBatch { header: encoded.header, payload: payload.into() };
        if let Ok(decoded) = damaged.decode() {
            prop_assert_eq!(decoded.header(), encoded.header);
        }
    }
}

#[test]
fn extreme_times_and_tags_come_back() {
    let at = |tag, nanos| good(tag, Timestamp(nanos), Value::Bool(true));
    round_trip(&batch(vec![at(u32::MAX, i64::MAX), at(0, i64::MIN), at(u32::MAX, 0), at(u32::MAX, -1)]));
    round_trip(&batch(vec![at(u32::MAX - 1, 5), at(u32::MAX, 5)]));
}

#[test]
fn a_batch_of_nothing_but_bad_readings_is_tiny() {
    let bad =
        |tag| Sample { tag: TagId(tag), source_time: NOW, reading: Reading::Bad(StatusCode::BAD_TIMEOUT) };
    let encoded = round_trip(&batch((0..60).map(bad).collect()));
    assert!(encoded.payload.len() <= 16, "{} bytes", encoded.payload.len());
}

#[test]
fn the_bytes_of_a_known_batch_do_not_change() {
    let values = [Value::F32(1.5), Value::F32(1.75), Value::Bool(true), Value::I16(-2)];
    let mut samples: Vec<Sample> = (10..).zip(values).map(|(tag, value)| good(tag, NOW, value)).collect();
    samples.push(Sample { tag: TagId(14), source_time: NOW, reading: Reading::Bad(StatusCode::BAD_TIMEOUT) });
    samples.push(good(
        20,
        NOW.plus_nanos(1_000),
        Value::Array(ValueType::String, Arc::from([Value::String("ab".into())])),
    ));
    let encoded = round_trip(&batch(samples));
    #[rustfmt::skip]
    let expected: &[u8] = &[
        1, 0, // version, plain
        6, // count
        20, 4 << 1 | 1, 12, 0, // tags: five from 10, one from 14 + 6
        0, 4, 0xD0, 0x0F, 0, // times: five at the oldest, one 1,000 ns later
        0, 3, 0x82, 0x80, 0xA0, 0x81, 0x20, 0, 0, 0, // readings: four good, one timed out, one good
        7, 1, 0, 0, 1, 0, 0x89, 0, // types: two f32, a bool, an i16, an array of strings
        1, // length of the array
        1, // bools
        2, 3, // i16: differences, −2
        0, 0b1011, 0, 0, 0xC0, 0xE0, 0x3F, // f32: planes, all equal but the third
        2, b'a', b'b', // strings
    ];
    assert_eq!(encoded.payload, expected);
}

#[test]
fn a_slot_of_slowly_changing_floats_takes_less_than_four_bytes_a_sample() {
    let scattered = round_trip(&thousand_floats()).payload.len();
    let walk = round_trip(&one_walk()).payload.len();
    assert!(scattered < 3_500, "{scattered} bytes for 1,000 samples");
    assert!(walk < 2_600, "{walk} bytes for 1,000 samples");
}

#[test]
fn a_mixed_slot_takes_less_than_five_bytes_a_sample() {
    let length = round_trip(&mixed(60)).encoded_len();
    assert!(length < 300, "{length} bytes for 60 samples");
}

#[test]
fn what_is_too_large_is_refused_before_it_is_committed() {
    let many = batch((0..=MAX_SAMPLES as u32).map(|n| good(n, NOW, Value::Bool(true))).collect());
    assert!(matches!(EncodedBatch::encode(&many), Err(BatchError::TooLarge { what: "samples", .. })));

    let half: Arc<[Value]> = vec![Value::Bool(false); MAX_ELEMENTS / 2 + 1].into();
    let arrays =
        |n| batch((0..n).map(|n| good(n, NOW, Value::Array(ValueType::Bool, Arc::clone(&half)))).collect());
    round_trip(&arrays(1));
    assert!(matches!(EncodedBatch::encode(&arrays(2)), Err(BatchError::TooLarge { what: "elements", .. })));

    let blob = |length| batch(vec![good(1, NOW, Value::Bytes(vec![0; length].into()))]);
    round_trip(&blob(MAX_BODY - 100));
    assert!(matches!(EncodedBatch::encode(&blob(MAX_BODY)), Err(BatchError::TooLarge { what: "bytes", .. })));
}

#[test]
fn an_array_that_is_not_of_one_type_is_refused() {
    let array = |items: Vec<Value>| batch(vec![good(1, NOW, Value::Array(ValueType::I16, items.into()))]);
    assert_eq!(EncodedBatch::encode(&array(vec![Value::U16(1)])), Err(BatchError::MixedArray));
    let nested = Value::Array(ValueType::I16, Arc::from([]));
    assert_eq!(EncodedBatch::encode(&array(vec![nested])), Err(BatchError::MixedArray));
}

#[test]
fn a_few_bytes_cannot_stand_for_many_samples() {
    let claim = |count: u64| {
        let mut body = Vec::new();
        bytes::put_varint(&mut body, count);
        body.extend_from_slice(&[0]);
        bytes::put_varint(&mut body, (count - 1) << 1);
        body.extend_from_slice(&[0]);
        bytes::put_varint(&mut body, count - 1);
        body.extend_from_slice(&[2]);
        bytes::put_varint(&mut body, count - 1);
        let (count, all_bad) = (count as u32, true);
        let header = BatchHeader { count, oldest: NOW, newest: NOW, all_bad, ..thousand_floats().header() };
        EncodedBatch { header, payload: [&[VERSION, PLAIN], &body[..]].concat().into() }.decode()
    };
    assert!(claim(MAX_SAMPLES as u64).is_ok());
    assert_eq!(claim(MAX_SAMPLES as u64 + 1), Err(DecodeError::Corrupt("a count is too high")));
}

#[test]
fn a_body_that_promises_too_much_is_refused_before_it_is_decompressed() {
    let payload = [&[VERSION, COMPRESSED][..], &(MAX_BODY as u32 + 1).to_le_bytes(), &[0; 40]].concat();
    let encoded = EncodedBatch { header: thousand_floats().header(), payload: payload.into() };
    assert_eq!(encoded.decode(), Err(DecodeError::Corrupt("the body is too long")));
}

#[test]
fn a_newer_payload_is_told_from_a_broken_one() {
    let header = thousand_floats().header();
    let decode =
        |payload: &'static [u8]| EncodedBatch { header, payload: Bytes::from_static(payload) }.decode();
    assert_eq!(decode(&[2, 0, 1]), Err(DecodeError::Newer { version: 2 }));
    assert_eq!(decode(&[1, 2, 1]), Err(DecodeError::Corrupt("the first bytes")));
    assert_eq!(decode(&[]), Err(DecodeError::Corrupt("the first bytes")));
}

#[test]
fn a_value_of_a_reserved_type_is_refused_by_its_number() {
    let one = |value: Value| round_trip(&batch(vec![good(1, NOW, value)]));
    let array =
        |items: &[i16]| Value::Array(ValueType::I16, items.iter().map(|item| Value::I16(*item)).collect());
    // Both are written in two bytes: only the number of the type differs.
    let (signed, unsigned) = (one(Value::I16(7)), one(Value::U16(7)));
    let differs: Vec<usize> =
        (0..signed.payload.len()).filter(|at| signed.payload[*at] != unsigned.payload[*at]).collect();
    let [place] = differs[..] else { panic!("{signed:?} and {unsigned:?} differ at {differs:?}") };
    let of_type = |number: u8| {
        let mut payload = signed.payload.to_vec();
        payload[place] = number;
        EncodedBatch { header: signed.header, payload: payload.into() }.decode()
    };
    assert!(of_type(signed.payload[place]).is_ok());
    for number in (11..=0x7F).chain(0x8B..=0xFF) {
        assert_eq!(of_type(number), Err(DecodeError::UnknownType { number }));
    }
    // Arrays have their place already.
    one(array(&[1, -2, 3]));
}

#[test]
fn a_payload_under_another_header_is_refused() {
    let encoded = EncodedBatch::encode(&mixed(60)).expect("within the bounds");
    let under = |header| EncodedBatch { header, payload: encoded.payload.clone() }.decode();
    assert!(under(BatchHeader { count: 61, ..encoded.header }).is_err());
    assert!(under(BatchHeader { newest: NOW.plus_nanos(1), ..encoded.header }).is_err());
    assert!(under(BatchHeader { all_bad: true, ..encoded.header }).is_err());
}
