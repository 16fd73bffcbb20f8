//! Ledger checkpoints: the ledger as it was at a position S, in a file of its own. A snapshot is one of these, and
//! nothing else: what is undelivered travels by ordinary replication.
//!
//! Layout: `HFCKPT1\n`, `[length of the header: u32 big-endian]`, the header as JSON, then per row
//! `[key length: u16][key][value length: u32][value]`, at last 32 bytes of BLAKE3 over everything before.
//!
//! - Written aside, synced and renamed before anybody is told that it exists.
//! - Two nodes that cut a checkpoint at the same position write the same bytes, but for the chain hash.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::engine::EngineError;
use crate::entry::ChainHash;
use crate::ledger::{Ledger, LogId, Membership};

const MAGIC: &[u8; 8] = b"HFCKPT1\n";
const HASH: usize = 32;
/// No checkpoint that is larger is accepted from a peer.
const MOST_BYTES: usize = 256 << 20;

/// What a checkpoint says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointHeader {
    /// The last entry it covers.
    pub at: LogId,
    /// The membership as of that entry.
    pub membership: Membership,
    /// Chain hash of the log behind that entry.
    pub chain: ChainHash,
    /// Digest of the ledger, in hexadecimal.
    pub digest: String,
    /// Number of rows.
    pub rows: u64,
}

/// Keys and values of the ledger, in order of the keys.
pub(crate) type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// A ledger at a position, whole.
#[derive(Debug)]
pub struct Checkpoint {
    /// What it says of itself.
    pub header: CheckpointHeader,
    /// The rows, in order of their keys.
    pub(crate) rows: Rows,
}

impl Checkpoint {
    /// Cuts a checkpoint of a ledger whose changes have been taken.
    pub(crate) fn cut(ledger: &Ledger, at: LogId, chain: ChainHash) -> Self {
        let rows = ledger.rows();
        let header = CheckpointHeader {
            at,
            membership: ledger.state().membership.clone(),
            chain,
            digest: ledger.digest().to_string(),
            rows: rows.len() as u64,
        };
        Self { header, rows }
    }

    /// The name of the file for a checkpoint at `at`; names sort by position.
    pub(crate) fn file_name(at: LogId) -> String {
        format!("checkpoint-{:020}-{}", at.index.0, at.term.0)
    }

    /// Whether a file holds a checkpoint.
    pub(crate) fn is_file_name(name: &str) -> bool {
        name.starts_with("checkpoint-")
    }

    /// The bytes of the file.
    pub(crate) fn encode(&self) -> Bytes {
        let header = serde_json::to_vec(&self.header).expect("a header holds nothing that JSON cannot");
        let mut file = BytesMut::new();
        file.put_slice(MAGIC);
        file.put_u32(u32::try_from(header.len()).expect("a header is small"));
        file.put_slice(&header);
        for (key, value) in &self.rows {
            file.put_u16(u16::try_from(key.len()).expect("keys are short"));
            file.put_slice(key);
            file.put_u32(u32::try_from(value.len()).expect("rows are far below 4 GiB"));
            file.put_slice(value);
        }
        let hash = blake3::hash(&file);
        file.put_slice(hash.as_bytes());
        file.freeze()
    }

    /// Reads and checks a file, from this disk or from a peer.
    pub fn decode(file: &Bytes) -> Result<Self, EngineError> {
        let damaged = |what: &str| EngineError::Damaged(format!("checkpoint: {what}"));
        if file.len() > MOST_BYTES {
            return Err(damaged("larger than any checkpoint"));
        }
        let body_end = file.len().checked_sub(HASH).ok_or_else(|| damaged("too short"))?;
        let (body, hash) = file.split_at(body_end);
        if blake3::hash(body).as_bytes() != hash {
            return Err(damaged("checksum does not match"));
        }
        let mut rest =
            body.strip_prefix(MAGIC.as_slice()).ok_or_else(|| damaged("not a checkpoint of this version"))?;
        let mut take = |length: usize| {
            let (taken, left) = rest.split_at_checked(length)?;
            rest = left;
            Some(taken)
        };
        let mut read = || -> Option<(Vec<u8>, Rows)> {
            let length = u32::from_be_bytes(take(4)?.try_into().ok()?);
            let header = take(length as usize)?.to_vec();
            let mut rows = Vec::new();
            while let Some(length) = take(2) {
                let key = take(u16::from_be_bytes(length.try_into().ok()?) as usize)?.to_vec();
                let length = u32::from_be_bytes(take(4)?.try_into().ok()?);
                rows.push((key, take(length as usize)?.to_vec()));
            }
            Some((header, rows))
        };
        let (header, rows) = read().ok_or_else(|| damaged("ends in the middle of a row"))?;
        let header: CheckpointHeader =
            serde_json::from_slice(&header).map_err(|error| damaged(&error.to_string()))?;
        if header.rows != rows.len() as u64 {
            return Err(damaged("rows are missing"));
        }
        Ok(Self { header, rows })
    }

    /// The ledger it holds, checked against its digest.
    pub(crate) fn ledger(&self) -> Result<Ledger, EngineError> {
        let ledger = Ledger::from_rows(self.rows.iter().cloned())
            .map_err(|error| EngineError::Damaged(error.to_string()))?;
        if ledger.digest().to_string() != self.header.digest {
            return Err(EngineError::Damaged("checkpoint: digest does not match its rows".to_owned()));
        }
        Ok(ledger)
    }
}
