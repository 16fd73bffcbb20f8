//! A log entry, in memory and as a value of the `entries` family.
//!
//! Layout of the value, all numbers big-endian:
//! `[format: u8 = 2][kind: u8][term: u64][chain: 16 bytes][CRC-32 of the payload: u32][CRC-32 of all this and the
//! position: u32][payload]`.
//!
//! - The chain hash of an entry covers its own term, position and payload, and the chain hash before it. It is
//!   computed by each node for itself and never sent: two logs with equal chain hashes at a position are equal up to it.

use bytes::Bytes;
use model::{Position, Term};

use crate::engine::EngineError;
use crate::ledger::{Body, LogId, Membership};

const FORMAT: u8 = 2;
/// What precedes the checksum of the header.
const CHECKED: usize = 1 + 1 + 8 + 16 + 4;
const HEADER: usize = CHECKED + 4;

/// A hash over a log from its beginning.
pub type ChainHash = [u8; 16];

/// One entry of the log.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its term and position.
    pub id: LogId,
    /// What it holds.
    pub body: Body,
}

impl Entry {
    /// Bytes of payload, roughly what it costs to store or send.
    pub fn len(&self) -> usize {
        match &self.body {
            Body::Command(bytes) => bytes.len(),
            Body::Blank | Body::Membership(_) => 0,
        }
    }

    /// Whether it holds no application data.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn kind_and_payload(&self) -> (u8, Bytes) {
        match &self.body {
            Body::Blank => (0, Bytes::new()),
            Body::Membership(membership) => {
                let json =
                    serde_json::to_vec(membership).expect("a membership holds nothing that JSON cannot");
                (1, Bytes::from(json))
            }
            Body::Command(bytes) => (2, bytes.clone()),
        }
    }

    /// The value to store, and the chain hash behind this entry.
    pub(crate) fn encode(&self, before: &ChainHash) -> (Bytes, ChainHash) {
        let (kind, payload) = self.kind_and_payload();
        let crc = crc32fast::hash(&payload);
        let chain = chain(before, self.id, kind, crc);
        let mut value = Vec::with_capacity(HEADER + payload.len());
        value.extend([FORMAT, kind]);
        value.extend(self.id.term.0.to_be_bytes());
        value.extend(chain);
        value.extend(crc.to_be_bytes());
        value.extend(header_crc(self.id.index, &value).to_be_bytes());
        value.extend_from_slice(&payload);
        (Bytes::from(value), chain)
    }

    /// Reads what [`Entry::encode`] wrote.
    pub(crate) fn decode(index: Position, value: &Bytes) -> Result<(Self, ChainHash), EngineError> {
        let damaged = |what: &str| EngineError::Damaged(format!("log entry {index}: {what}"));
        match value.first() {
            Some(&FORMAT) => {}
            Some(other) => return Err(damaged(&format!("format {other} is not known to this version"))),
            None => return Err(damaged("empty")),
        }
        if value.len() < HEADER {
            return Err(damaged("shorter than its header"));
        }
        if header_crc(index, &value[..CHECKED]).to_be_bytes() != value[CHECKED..HEADER] {
            return Err(damaged("checksum of the header does not match"));
        }
        let kind = value[1];
        let term = u64::from_be_bytes(value[2..10].try_into().expect("eight bytes"));
        let chain: ChainHash = value[10..26].try_into().expect("sixteen bytes");
        let crc = u32::from_be_bytes(value[26..30].try_into().expect("four bytes"));
        let payload = value.slice(HEADER..);
        if crc32fast::hash(&payload) != crc {
            return Err(damaged("checksum does not match"));
        }
        let body = match kind {
            0 => Body::Blank,
            1 => {
                let parsed = serde_json::from_slice::<Membership>(&payload);
                Body::Membership(parsed.map_err(|error| damaged(&error.to_string()))?)
            }
            2 => Body::Command(payload),
            other => return Err(damaged(&format!("kind {other} is not known to this version"))),
        };
        Ok((Self { id: LogId { term: Term(term), index }, body }, chain))
    }
}

/// The position is no part of the value, but an entry at a wrong one is as damaged.
fn header_crc(index: Position, header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(&index.0.to_be_bytes());
    hasher.finalize()
}

fn chain(before: &ChainHash, id: LogId, kind: u8, crc: u32) -> ChainHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    hasher.update(&id.term.0.to_be_bytes());
    hasher.update(&id.index.0.to_be_bytes());
    hasher.update(&[kind]);
    hasher.update(&crc.to_be_bytes());
    hasher.finalize().as_bytes()[..16].try_into().expect("a hash has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, payload: &'static [u8]) -> Entry {
        Entry {
            id: LogId { term: Term(3), index: Position(index) },
            body: Body::Command(Bytes::from_static(payload)),
        }
    }

    #[test]
    fn an_entry_survives_its_stored_form() {
        let (value, chain) = entry(7, b"payload").encode(&[1; 16]);
        let (read, read_chain) = Entry::decode(Position(7), &value).expect("just encoded");
        assert_eq!(read.id, entry(7, b"").id);
        assert!(matches!(read.body, Body::Command(bytes) if bytes == "payload"));
        assert_eq!(read_chain, chain);
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let (value, _) = entry(7, b"payload").encode(&[1; 16]);
        for place in 0..value.len() * 8 {
            let mut bad = value.to_vec();
            bad[place / 8] ^= 1 << (place % 8);
            let read = Entry::decode(Position(7), &bad.into());
            assert!(matches!(read, Err(EngineError::Damaged(_))), "bit {place} was flipped: {read:?}");
        }
    }

    #[test]
    fn an_entry_of_another_position_is_damaged() {
        let (value, _) = entry(7, b"payload").encode(&[1; 16]);
        assert!(matches!(Entry::decode(Position(8), &value), Err(EngineError::Damaged(_))));
    }

    #[test]
    fn the_chain_depends_on_everything_before() {
        let chains = |payloads: [&'static [u8]; 2]| {
            payloads
                .iter()
                .zip(1..)
                .fold([0; 16], |before, (payload, index)| entry(index, payload).encode(&before).1)
        };
        assert_ne!(chains([b"a", b"b"]), chains([b"x", b"b"]));
        assert_eq!(chains([b"a", b"b"]), chains([b"a", b"b"]));
    }
}
