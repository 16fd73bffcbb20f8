//! The floor file: what this node has promised, kept beside the database so that a database that forgets is found out.
//!
//! - Two slots of one file, written in turn, each synced: a crash may tear the one being written, never both.
//! - It is written before a vote is answered, before the log is shortened, and otherwise every 100 ms or 16 MiB:
//!   what a disk silently forgets within that window cannot be noticed.

use model::ids::{StoreId, Term};
use model::{NodeId, Position};

use crate::engine::{Engine, EngineError, SLOT_BYTES};
use crate::entry::ChainHash;
use crate::ledger::LogId;
use crate::log::Vote;

const NAME: &str = "floor";
const MAGIC: &[u8; 8] = b"HFFLOOR1";
const BODY: usize = 8 + 8 + 16 + 8 + 8 + 1 + 8 + 8 + 16;

/// What this node has promised: to remember this vote, and a log up to this entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Promise {
    /// The data directory.
    pub(crate) store: StoreId,
    /// The last vote answered.
    pub(crate) vote: Vote,
    /// The last entry known to be durable.
    pub(crate) last: LogId,
    /// The chain hash behind it.
    pub(crate) chain: ChainHash,
}

/// Writes promises, alternating between the two slots.
#[derive(Debug)]
pub(crate) struct FloorFile {
    sequence: u64,
}

impl FloorFile {
    /// Reads the newest promise.
    pub(crate) fn open<E: Engine>(engine: &E) -> Result<(Self, Option<Promise>), EngineError> {
        let Some(slots) = engine.read_slots(NAME)? else {
            return Ok((Self { sequence: 0 }, None));
        };
        let newest = slots.iter().filter_map(decode).max_by_key(|(sequence, _)| *sequence);
        match newest {
            Some((sequence, promise)) => Ok((Self { sequence }, Some(promise))),
            // The very first write was torn: nothing had been promised yet. Both torn cannot come from one crash.
            None if slots.iter().any(|slot| slot.iter().all(|byte| *byte == 0)) => {
                Ok((Self { sequence: 0 }, None))
            }
            None => Err(EngineError::Damaged("both slots of the floor file are unreadable".to_owned())),
        }
    }

    /// Writes a promise; it is durable when this returns.
    pub(crate) async fn write<E: Engine>(
        &mut self,
        engine: &E,
        promise: &Promise,
    ) -> Result<(), EngineError> {
        self.sequence += 1;
        engine.write_slot(NAME, (self.sequence % 2) as usize, encode(self.sequence, promise)).await
    }
}

fn encode(sequence: u64, promise: &Promise) -> [u8; SLOT_BYTES] {
    let mut body = Vec::with_capacity(BODY + 4);
    body.extend(MAGIC);
    body.extend(sequence.to_be_bytes());
    body.extend(promise.store.as_bytes());
    body.extend(promise.vote.term.0.to_be_bytes());
    body.extend(promise.vote.node.0.to_be_bytes());
    body.push(u8::from(promise.vote.committed));
    body.extend(promise.last.term.0.to_be_bytes());
    body.extend(promise.last.index.0.to_be_bytes());
    body.extend(promise.chain);
    assert_eq!(body.len(), BODY, "the layout of the floor file is fixed");
    body.extend(crc32fast::hash(&body).to_be_bytes());
    let mut slot = [0; SLOT_BYTES];
    slot[..body.len()].copy_from_slice(&body);
    slot
}

fn decode(slot: &[u8; SLOT_BYTES]) -> Option<(u64, Promise)> {
    let (body, rest) = slot.split_at(BODY);
    let crc = u32::from_be_bytes(rest[..4].try_into().ok()?);
    if crc32fast::hash(body) != crc || !body.starts_with(MAGIC) {
        return None;
    }
    let number = |from: usize| Some(u64::from_be_bytes(body.get(from..from + 8)?.try_into().ok()?));
    let promise = Promise {
        store: StoreId(body[16..32].try_into().ok()?),
        vote: Vote { term: Term(number(32)?), node: NodeId(number(40)?), committed: body[48] == 1 },
        last: LogId { term: Term(number(49)?), index: Position(number(57)?) },
        chain: body[65..81].try_into().ok()?,
    };
    Some((number(8)?, promise))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise(index: u64) -> Promise {
        Promise {
            store: StoreId::from(9),
            vote: Vote { term: Term(4), node: NodeId(2), committed: true },
            last: LogId { term: Term(4), index: Position(index) },
            chain: [7; 16],
        }
    }

    #[test]
    fn a_promise_survives_its_stored_form() {
        assert_eq!(decode(&encode(5, &promise(41))), Some((5, promise(41))));
    }

    #[test]
    fn a_torn_slot_is_not_a_promise() {
        let mut slot = encode(5, &promise(41));
        slot[60] ^= 0x10;
        assert_eq!(decode(&slot), None);
    }
}
