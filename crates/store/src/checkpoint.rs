//! Ledger checkpoints: the ledger as it was at a position S, whole. A snapshot is one of these, and nothing else: what is
//! undelivered travels by ordinary replication.
//!
//! Layout: `HFCKPT1\n`, `[length of the header: u32 big-endian]`, the header as JSON, then per row
//! `[key length: u16][key][value length: u32][value]`, at last 32 bytes of BLAKE3 over everything before.
//!
//! - This is how it travels. How it lies on a disk is [`paged`].
//! - Two nodes that cut a checkpoint at the same position write the same bytes, but for the chain hash.

pub(crate) mod paged;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::engine::EngineError;
use crate::entry::ChainHash;
use crate::ledger::{Ledger, LogId, Membership};

const MAGIC: &[u8; 8] = b"HFCKPT1\n";
const HASH: usize = blake3::OUT_LEN;
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
    /// The checkpoint of a ledger whose changes have been taken. Takes as long as the ledger is large.
    pub(crate) fn of(ledger: &Ledger, at: LogId, chain: ChainHash) -> Self {
        #[cfg(test)]
        crate::slow::begins();
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

    /// The bytes that travel.
    #[cfg(test)]
    pub(crate) fn encode(&self) -> Bytes {
        let mut rows = BytesMut::new();
        for (key, value) in &self.rows {
            put_row(&mut rows, key, value);
        }
        seal(MAGIC, &self.header, &[&rows])
    }

    /// Reads and checks what came from a peer.
    pub fn decode(file: &Bytes) -> Result<Self, EngineError> {
        let (magic, header, rows) = unseal(file)?;
        if magic != *MAGIC {
            return Err(damaged("not a checkpoint of this version"));
        }
        let rows = read_rows(rows)?;
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

fn damaged(what: &str) -> EngineError {
    EngineError::Damaged(format!("checkpoint: {what}"))
}

fn put_row(to: &mut BytesMut, key: &[u8], value: &[u8]) {
    to.put_u16(u16::try_from(key.len()).expect("keys are short"));
    to.put_slice(key);
    to.put_u32(u32::try_from(value.len()).expect("rows are far below 4 GiB"));
    to.put_slice(value);
}

fn read_rows(mut rest: &[u8]) -> Result<Rows, EngineError> {
    let mut take = |length: usize| {
        let (taken, left) = rest.split_at_checked(length)?;
        rest = left;
        Some(taken)
    };
    let mut rows = Vec::new();
    let mut read = || {
        while let Some(length) = take(2) {
            let key = take(u16::from_be_bytes(length.try_into().ok()?) as usize)?.to_vec();
            let length = u32::from_be_bytes(take(4)?.try_into().ok()?);
            rows.push((key, take(length as usize)?.to_vec()));
        }
        Some(())
    };
    read().ok_or_else(|| damaged("ends in the middle of a row"))?;
    Ok(rows)
}

/// `magic`, header and body in one file, with a hash over all.
fn seal(magic: &[u8; 8], header: &CheckpointHeader, body: &[&[u8]]) -> Bytes {
    let header = serde_json::to_vec(header).expect("a header holds nothing that JSON cannot");
    let mut file = BytesMut::new();
    file.put_slice(magic);
    file.put_u32(u32::try_from(header.len()).expect("a header is small"));
    file.put_slice(&header);
    body.iter().for_each(|part| file.put_slice(part));
    let hash = blake3::hash(&file);
    file.put_slice(hash.as_bytes());
    file.freeze()
}

/// The opposite of [`seal`]; checks the hash.
fn unseal(file: &Bytes) -> Result<([u8; 8], CheckpointHeader, &[u8]), EngineError> {
    if file.len() > MOST_BYTES {
        return Err(damaged("larger than any checkpoint"));
    }
    let (body, hash) = file.split_last_chunk::<HASH>().ok_or_else(|| damaged("too short"))?;
    if blake3::hash(body).as_bytes() != hash && !runtime::mutant("snapshot-is-not-checked") {
        return Err(damaged("checksum does not match"));
    }
    let parts = || {
        let (magic, rest) = body.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (header, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        Some((*magic, header, rest))
    };
    let (magic, header, rest) = parts().ok_or_else(|| damaged("too short"))?;
    let header = serde_json::from_slice(header).map_err(|error| damaged(&error.to_string()))?;
    Ok((magic, header, rest))
}
