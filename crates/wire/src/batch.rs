//! Samples in columns: the payload of a batch, as it lies in a log entry.
//!
//! Owns the payload's format and its bounds. The batch's identity and times are in its header, which travels in the
//! entry's header (see [`crate::entry`]) and which decoding needs.
//!
//! - What was encoded comes back to the bit, NaN payloads and the status of every reading included.
//! - Decoding never panics and allocates at most about 100 MiB, whatever the bytes: [`MAX_SAMPLES`],
//!   [`MAX_ELEMENTS`] and [`MAX_BODY`] are checked before anything is allocated.
//! - The bytes depend on nothing but the batch and the version of zstd.
//!
//! # Format, version 1
//!
//! ```text
//! payload    version:u8 = 1, flags:u8, then
//!            flags = 0: body
//!            flags = 1: length of the body:u32, then the body as one zstd frame
//! body       count:varint, tags, times, readings, types, lengths, values
//! ```
//!
//! Fixed-width integers are little-endian. `varint` is LEB128 (as in protobuf), at most 10 bytes; `zigzag` is a varint
//! of a signed integer `n` as `(n << 1) ^ (n >> 63)`. `count` equals the header's and is at most 2¹⁸. The body is at
//! most 16 MiB. *Runs* follow each other without a count until they cover what the column has; no run is empty or too
//! long. Nothing follows the values.
//!
//! - **tags**: runs `start:zigzag, (length − 1) << 1 | step :varint`. `start` counts from the last id of the run before
//!   (from 0 at first); the ids of a run are `start, start + step, …`, all within 32 bits.
//! - **times**: runs `delta:zigzag, length − 1 :varint`. Each sample of the run is `delta` nanoseconds after the sample
//!   before it; the first counts from the header's `oldest`. Arithmetic wraps at 64 bits.
//! - **readings**: runs `status << 2 | kind :varint, length − 1 :varint`; kind 0 good (status 0), 1 uncertain, 2 bad.
//! - **types**: of all samples that are not bad, runs `type:u8, length − 1 :varint`. 0 bool, 1 i16, 2 u16, 3 i32,
//!   4 u32, 5 i64, 6 u64, 7 f32, 8 f64, 9 string, 10 bytes; plus 128 for an array of these.
//! - **lengths**: the number of elements of each array, varints; at most 2²⁰ in all.
//! - **values**: a column for each type that has values, by type number. It holds the scalars and the elements of
//!   arrays in the order of the samples; how many follows from types and lengths.
//!
//! The column of `n` values:
//! - *bool*: `⌈n / 8⌉` bytes, the first value in the least significant bit, unused bits 0.
//! - *string, bytes*: `n` lengths as varints, then the bytes of all, one after the other. Strings are UTF-8.
//! - *numbers* of `w` bytes (floats as their IEEE 754 bits): a mode:u8, then
//!   - mode 0, **planes**: a mask:u8, then for k = 0 … w−1 the k-th least significant byte of every number (a plane):
//!     `n` bytes, or a single one if bit k of the mask says that all are equal;
//!   - mode 1, **delta planes**: the first number in `w` bytes, then as in mode 0 the n−1 differences between
//!     neighbours, each wrapped to `w` bytes and zigzagged within them;
//!   - mode 2, **delta varints**: the same differences, the first from 0, as varints.

mod bytes;
mod columns;
mod numbers;
mod runs;

use std::cell::RefCell;

use ::bytes::Bytes;
use model::batch::{Batch, BatchHeader};
use prost::Message as _;

use crate::compress;
use crate::proto::log as proto;

/// Samples in one batch at most.
pub const MAX_SAMPLES: usize = 1 << 18;

/// Elements of arrays in one batch at most.
pub const MAX_ELEMENTS: usize = 1 << 20;

/// Bytes of one body before compression at most: 16 MiB.
pub const MAX_BODY: usize = 16 << 20;

const VERSION: u8 = 1;
const PLAIN: u8 = 0;
const COMPRESSED: u8 = 1;

/// Bytes before a plain body.
const PLAIN_PREFIX: usize = 2;
/// Bytes before a compressed body.
const COMPRESSED_PREFIX: usize = 6;

/// Below this, compression is not tried.
const WORTH_COMPRESSING: usize = 256;

/// A thread keeps its scratch space up to this size.
const KEPT_SCRATCH: usize = 1 << 20;

/// A batch as it travels: its header, and its samples encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedBatch {
    /// What is known of it without decoding.
    pub header: BatchHeader,
    /// The samples, in the format of this module.
    pub payload: Bytes,
}

/// Why a batch cannot be encoded; splitting it helps in the first case only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// It exceeds [`MAX_SAMPLES`], [`MAX_ELEMENTS`] or [`MAX_BODY`].
    #[error("the batch has {found} {what}, at most {limit} are possible")]
    TooLarge {
        /// Of what there is too much.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much there may be.
        limit: usize,
    },
    /// An array holds an element that is not of its type, or another array.
    #[error("an array holds an element that is not of its type")]
    MixedArray,
}

/// Why a payload cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No version of this software wrote it, or not with this header.
    #[error("the payload of a batch is corrupt: {0}")]
    Corrupt(&'static str),
    /// It holds values of a type that is reserved for later versions.
    #[error("the payload of a batch holds values of type {number}, which this version does not know")]
    UnknownType {
        /// The number of the type.
        number: u8,
    },
    /// A newer version wrote it.
    #[error("the payload of a batch has format {version}, newer than {VERSION}")]
    Newer {
        /// Its format.
        version: u8,
    },
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    body: Vec<u8>,
    frame: Vec<u8>,
}

impl EncodedBatch {
    /// Encodes the samples of a batch.
    pub fn encode(batch: &Batch) -> Result<Self, BatchError> {
        let columns = columns::Columns::of(batch.samples())?;
        let header = batch.header();
        let payload = SCRATCH.with_borrow_mut(|scratch| {
            scratch.body.clear();
            columns.write(header.oldest, &mut scratch.body);
            let payload = seal(scratch);
            scratch.body.shrink_to(KEPT_SCRATCH);
            scratch.frame.truncate(KEPT_SCRATCH);
            scratch.frame.shrink_to(KEPT_SCRATCH);
            payload
        })?;
        Ok(Self { header, payload })
    }

    /// Decodes the samples. What comes back has exactly this header.
    pub fn decode(&self) -> Result<Batch, DecodeError> {
        let corrupt = DecodeError::Corrupt;
        let samples = match *self.payload {
            [VERSION, PLAIN, ref body @ ..] if body.len() <= MAX_BODY => columns::read(body, &self.header)?,
            [VERSION, COMPRESSED, a, b, c, d, ref frame @ ..] => {
                let length = u32::from_le_bytes([a, b, c, d]) as usize;
                if length > MAX_BODY {
                    return Err(corrupt("the body is too long"));
                }
                let body = compress::decompress(frame, length).map_err(|_| corrupt("the compressed body"))?;
                columns::read(&body, &self.header)?
            }
            [version, ..] if version > VERSION => return Err(DecodeError::Newer { version }),
            _ => return Err(corrupt("the first bytes")),
        };
        let BatchHeader { source, node, revision, gateway_time, .. } = self.header;
        let batch =
            Batch::new(source, node, revision, gateway_time, samples).map_err(|_| corrupt("no samples"))?;
        if batch.header() == self.header {
            Ok(batch)
        } else {
            Err(corrupt("times or readings that are not the header's"))
        }
    }

    /// Bytes it adds to an entry, header included.
    pub fn encoded_len(&self) -> usize {
        let header = self.framed_header();
        let length = header.encoded_len();
        1 + prost::length_delimiter_len(length) + length + self.payload.len()
    }

    /// The header as it stands in an entry.
    pub(crate) fn framed_header(&self) -> proto::BatchHeader {
        let payload_length =
            u32::try_from(self.payload.len()).expect("a payload is a body of 16 MiB or less");
        proto::BatchHeader { payload_length, ..proto::BatchHeader::from(&self.header) }
    }
}

/// Puts a body into its payload, compressed if that saves more than a tenth.
fn seal(scratch: &mut Scratch) -> Result<Bytes, BatchError> {
    let Scratch { body, frame } = scratch;
    if body.len() > MAX_BODY {
        return Err(BatchError::TooLarge { what: "bytes", found: body.len(), limit: MAX_BODY });
    }
    if body.len() >= WORTH_COMPRESSING {
        let room = COMPRESSED_PREFIX + body.len() * 9 / 10;
        if frame.len() < room {
            frame.resize(room, 0);
        }
        if let Some(length) = compress::compress_into(body, &mut frame[COMPRESSED_PREFIX..room]) {
            let body_length = u32::try_from(body.len()).expect("a body has 16 MiB or less");
            frame[0] = VERSION;
            frame[1] = COMPRESSED;
            frame[PLAIN_PREFIX..COMPRESSED_PREFIX].copy_from_slice(&body_length.to_le_bytes());
            return Ok(Bytes::copy_from_slice(&frame[..COMPRESSED_PREFIX + length]));
        }
    }
    let mut payload = Vec::with_capacity(PLAIN_PREFIX + body.len());
    payload.extend_from_slice(&[VERSION, PLAIN]);
    payload.extend_from_slice(body);
    Ok(payload.into())
}

#[cfg(test)]
mod tests;
