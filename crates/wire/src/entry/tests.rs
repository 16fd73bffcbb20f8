use model::batch::{Batch, Sample, Source};
use model::{BootId, Cause, NodeId, Position, Reading, Revision, SessionId, StatusCode, TagId};
use proptest::prelude::*;

use super::*;
use crate::strategies::{any_batch, any_command, any_stamp};

/// Bytes of an [`encode_append`] besides the batches, at most: frame, stamp and lengths.
const APPEND_OVERHEAD: usize = 64;

fn stamp() -> Stamp {
    Stamp { at: Timestamp(1_700_000_000_000_000_000), boot: BootId::from(9) }
}

fn lead() -> Command {
    Command::Lead { node: NodeId(2), name: "gateway-b".into(), cause: Cause::Failover, leaderless: None }
}

fn encoded(batches: &[Batch]) -> Vec<EncodedBatch> {
    batches.iter().map(|batch| EncodedBatch::encode(batch).expect("within the bounds")).collect()
}

/// An entry of this prefix and header whose checksum is right.
fn sealed(format: u8, kind: u8, header: &[u8], payloads: &[u8]) -> Bytes {
    let mut entry = vec![format, kind];
    entry.extend_from_slice(&(header.len() as u32).to_le_bytes());
    entry.extend_from_slice(header);
    entry.extend_from_slice(payloads);
    entry.extend_from_slice(&crc32fast::hash(&entry).to_le_bytes());
    entry.into()
}

fn header_of(body: Body) -> Vec<u8> {
    proto::EntryHeader { stamp: Some((&stamp()).into()), command: Some(body) }.encode_to_vec()
}

proptest! {
    #[test]
    fn every_command_comes_back(stamp in any_stamp(), command in any_command()) {
        let entry = encode(&stamp, &command).expect("representable");
        let summary = peek(&entry).expect("just written");
        prop_assert_eq!(summary.kind, Kind::of(&command));
        prop_assert_eq!(summary.stamp, stamp);
        prop_assert_eq!(open(entry), Ok(Opened { stamp, command, payloads: Payloads::default() }));
    }

    #[test]
    fn every_append_comes_back_without_a_copy(stamp in any_stamp(), batches in proptest::collection::vec(any_batch(), 0..4)) {
        let batches = encoded(&batches);
        let entry = encode_append(&stamp, &batches);
        let foretold: usize = batches.iter().map(EncodedBatch::encoded_len).sum();
        prop_assert!(entry.len() <= foretold + APPEND_OVERHEAD, "{} bytes, {foretold} foretold", entry.len());

        let opened = open(entry.clone()).expect("just written");
        let headers: Vec<BatchHeader> = batches.iter().map(|batch| batch.header).collect();
        prop_assert_eq!(opened.command, Command::Append { batches: headers });
        prop_assert_eq!(opened.payloads.len(), batches.len());
        for (index, batch) in batches.iter().enumerate() {
            let found = opened.payloads.get(index);
            prop_assert_eq!(&found, batch);
            prop_assert!(entry.as_ptr_range().contains(&found.payload.as_ptr()), "a payload was copied");
        }
    }

    #[test]
    fn a_summary_counts_what_an_append_holds(batches in proptest::collection::vec(any_batch(), 1..4)) {
        let summary = peek(&encode_append(&stamp(), &encoded(&batches))).expect("just written");
        let times = || batches.iter().flat_map(|batch| batch.samples()).map(|sample| sample.source_time);
        prop_assert_eq!(summary.batches, batches.len());
        prop_assert_eq!(summary.samples, times().count() as u64);
        prop_assert_eq!(summary.oldest, times().min());
        prop_assert_eq!(summary.newest, times().max());
    }

    #[test]
    fn a_damaged_entry_is_corrupt_and_never_newer(
        command in any_command(), place: prop::sample::Index, bit in 0..8_u8,
    ) {
        let mut entry = encode(&stamp(), &command).expect("representable").to_vec();
        let place = place.index(entry.len());
        entry[place] ^= 1 << bit;
        prop_assert_eq!(open(entry.into()), Err(OpenError::Corrupt { what: "the checksum" }));
    }

    #[test]
    fn hostile_bytes_under_a_right_checksum_never_panic(
        kind in 0..18_u8, header: Vec<u8>, payloads: Vec<u8>, length in proptest::option::of(any::<u32>()),
    ) {
        let mut entry = sealed(FORMAT, kind, &header, &payloads).to_vec();
        if let Some(length) = length {
            entry[2..6].copy_from_slice(&length.to_le_bytes());
            let end = entry.len() - SUFFIX;
            let checksum = crc32fast::hash(&entry[..end]);
            entry[end..].copy_from_slice(&checksum.to_le_bytes());
        }
        let entry = Bytes::from(entry);
        let _ = peek(&entry);
        if let Ok(opened) = open(entry) {
            prop_assert_eq!(Kind::of(&opened.command) as u8, kind);
        }
    }

    #[test]
    fn damaged_headers_under_a_right_checksum_never_panic(
        batches in proptest::collection::vec(any_batch(), 0..3),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..4),
    ) {
        let mut entry = encode_append(&stamp(), &encoded(&batches)).to_vec();
        let end = entry.len() - SUFFIX;
        for (place, bit) in flips {
            entry[place.index(end)] ^= 1 << bit;
        }
        let checksum = crc32fast::hash(&entry[..end]);
        entry[end..].copy_from_slice(&checksum.to_le_bytes());
        if let Ok(opened) = open(entry.into()) {
            for batch in opened.payloads.iter() {
                let _ = batch.decode();
            }
        }
    }
}

#[test]
fn an_append_is_not_encoded_without_its_payloads() {
    let append = Command::Append { batches: Vec::new() };
    assert!(matches!(encode(&stamp(), &append), Err(EncodeError::IsAppend)));
}

#[test]
fn kinds_are_the_field_numbers_of_their_messages() {
    for kind in Kind::ALL {
        assert_eq!(Kind::from_number(kind as u8), Some(kind));
    }
    let header = header_of(Body::Event(proto::Event::default()));
    let stamp_length = proto::Stamp::from(&stamp()).encoded_len() + 2;
    let expected = Kind::Event as u8 * 8 + 2;
    assert_eq!(header[stamp_length], expected, "field number and wire type of the command");
}

#[test]
fn the_bytes_of_a_known_entry_do_not_change() {
    let entry =
        encode(&stamp(), &Command::Truncate { below: Position(300), overrun: None }).expect("representable");
    #[rustfmt::skip]
    let expected: &[u8] = &[
        1, 8, // format, kind
        34, 0, 0, 0, // length of the header
        10, 27, // stamp
        9, 0, 0, 0x2A, 0x36, 0xFE, 0x9C, 0x97, 0x17, // its time
        18, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, // its boot id
        66, 3, 8, 0xAC, 2, // truncate, below 300
        0x95, 0xF3, 0x2A, 0x11, // checksum
    ];
    assert_eq!(entry, expected);
}

#[test]
fn a_newer_format_kind_field_or_value_is_newer_and_not_corrupt() {
    let known =
        header_of(Body::Lead(proto::Lead { node: 1, name: "a".into(), cause: 1, leaderless_nanos: None }));
    let lead = Kind::Lead as u8;
    assert!(open(sealed(FORMAT, lead, &known, &[])).is_ok());

    let newer = |format, kind| Err(OpenError::Newer { format, kind });
    assert_eq!(open(sealed(2, lead, &known, &[])), newer(2, lead), "format");
    assert_eq!(open(sealed(FORMAT, 99, &known, &[])), newer(FORMAT, 99), "kind");
    let further_field = [&known[..], &[0xA0, 0x06, 1]].concat();
    assert_eq!(open(sealed(FORMAT, lead, &further_field, &[])), newer(FORMAT, lead), "field of the header");
    let value =
        header_of(Body::Lead(proto::Lead { node: 1, name: "a".into(), cause: 77, leaderless_nanos: None }));
    assert_eq!(open(sealed(FORMAT, lead, &value, &[])), newer(FORMAT, lead), "value of an enumeration");
    let configure = proto::Configure {
        bundle: Some(proto::Packed { version: 2, ..Default::default() }),
        ..Default::default()
    };
    let configure = header_of(Body::Configure(configure));
    let kind = Kind::Configure as u8;
    assert_eq!(open(sealed(FORMAT, kind, &configure, &[])), newer(FORMAT, kind), "version of a document");
}

#[test]
fn what_no_version_writes_is_corrupt() {
    let is_corrupt = |entry: Bytes| matches!(open(entry), Err(OpenError::Corrupt { .. }));
    let header =
        header_of(Body::Lead(proto::Lead { node: 1, name: "a".into(), cause: 1, leaderless_nanos: None }));
    let lead = Kind::Lead as u8;
    assert!(is_corrupt(Bytes::new()));
    assert!(is_corrupt(Bytes::from_static(&[1, 3, 0, 0])));
    assert!(is_corrupt(sealed(0, lead, &header, &[])), "format 0");
    assert!(is_corrupt(sealed(FORMAT, 0, &header, &[])), "kind 0");
    assert!(is_corrupt(sealed(FORMAT, Kind::Missed as u8, &header, &[])), "another kind than its header's");
    assert!(is_corrupt(sealed(FORMAT, lead, &header, &[0])), "something behind its header");
    assert!(is_corrupt(sealed(FORMAT, lead, &[], &[])), "no header");
    let no_cause =
        header_of(Body::Lead(proto::Lead { node: 1, name: "a".into(), cause: 0, leaderless_nanos: None }));
    assert!(is_corrupt(sealed(FORMAT, lead, &no_cause, &[])), "no cause");
    let no_stamp =
        proto::EntryHeader { stamp: None, command: Some(Body::Reclock(proto::Reclock::default())) };
    assert!(is_corrupt(sealed(FORMAT, Kind::Reclock as u8, &no_stamp.encode_to_vec(), &[])), "no stamp");
}

#[test]
fn payloads_must_fill_the_entry() {
    let batch = any_batch_of_one();
    let framed = batch.framed_header();
    let header = header_of(Body::Append(proto::Append { batches: vec![framed] }));
    let append = Kind::Append as u8;
    assert!(open(sealed(FORMAT, append, &header, &batch.payload)).is_ok());
    let longer = [&batch.payload[..], &[0]].concat();
    assert_eq!(
        open(sealed(FORMAT, append, &header, &longer)),
        Err(OpenError::Corrupt { what: "its length" })
    );
    let shorter = &batch.payload[1..];
    assert_eq!(
        open(sealed(FORMAT, append, &header, shorter)),
        Err(OpenError::Corrupt { what: "the length of a payload" })
    );
}

fn any_batch_of_one() -> EncodedBatch {
    use model::{Reading, Revision, Sample, SessionId, Source, StatusCode, TagId};
    let sample =
        Sample { tag: TagId(1), source_time: Timestamp(5), reading: Reading::Bad(StatusCode::BAD_TIMEOUT) };
    let source = Source::Pushed { session: SessionId::from(1), sequence: 1 };
    let batch = Batch::new(source, NodeId(1), Revision(1), Timestamp(6), vec![sample]).expect("not empty");
    EncodedBatch::encode(&batch).expect("within the bounds")
}

#[test]
fn a_lead_is_small() {
    let entry = encode(&stamp(), &lead()).expect("representable");
    assert!(entry.len() < 64, "{} bytes", entry.len());
}

#[test]
fn an_append_of_more_samples_than_there_are_ordinals_for_is_corrupt() {
    let source = Source::Pushed { session: SessionId::from(7), sequence: 1 };
    let reading = Reading::Bad(StatusCode::BAD);
    let sample = Sample { tag: TagId(1), source_time: stamp().at, reading };
    let batch = Batch::new(source, NodeId(1), Revision(3), stamp().at, vec![sample]).expect("not empty");
    let one = EncodedBatch::encode(&batch).expect("within the bounds");
    let opened = |counts: [u32; 2]| {
        let batches = counts.map(|count| EncodedBatch {
            header: BatchHeader { count, ..one.header },
            payload: one.payload.clone(),
        });
        open(encode_append(&stamp(), &batches)).map(|opened| opened.payloads.len())
    };
    let corrupt = Err(OpenError::Corrupt { what: "the number of its samples" });
    assert_eq!(opened([1 << 30, (1 << 30) - 1]), Ok(2));
    assert_eq!(opened([1 << 30, 1 << 30]), corrupt);
    assert_eq!(opened([u32::MAX, 1]), corrupt, "in 32 bits the sum would be 0");
}
