//! The frame of a log entry: who proposed what, readable without touching the samples.
//!
//! Owns the frame and the kinds of commands. Does not own positions and terms (they are the store's keys), nor the
//! entries that openraft makes for itself.
//!
//! - [`open`] gives back exactly what [`encode`] or [`encode_append`] was given; payloads are slices of the entry.
//! - A kind, field, value or format that this version does not know is [`OpenError::Newer`], never skipped and never
//!   taken for damage: the node must stop, and be upgraded. Damage is found first, by the checksum.
//! - The samples of an entry are fewer than 2³¹, where the ordinals of other records begin; no two have the same.
//! - Opening allocates at most a small multiple of the entry's length (about a hundred bytes for each batch that two
//!   bytes of a hostile header can claim), and two documents of 64 MiB for a `Configure`.
//!
//! # Format 1
//!
//! ```text
//! offset   length
//! 0        1        format = 1
//! 1        1        kind: field number of the command in `EntryHeader`
//! 2        4        h, length of the header, little-endian
//! 6        h        header: holdfast.log.v1.EntryHeader, protobuf, fields in ascending order
//! 6+h      …        payloads of an `Append`, one after the other, each as long as its batch's header says
//! end−4    4        CRC-32 (ISO-HDLC, as in zlib) of everything before, little-endian
//! ```
//!
//! The first two bytes and the checksum's place and meaning are the same in every format to come. The format of a
//! payload is described in [`crate::batch`], that of documents in [`crate::packed`].

mod command;

use bytes::{BufMut as _, Bytes, BytesMut};
use model::batch::BatchHeader;
use model::command::{Command, Stamp};
use model::{Ordinal, Timestamp};
use prost::Message as _;

use crate::convert::{ConvertError, required};
use crate::packed::PackError;
use crate::proto::log as proto;
use proto::entry_header::Command as Body;

pub use crate::batch::{BatchError, DecodeError, EncodedBatch};

/// The format that this version writes; it reads no other.
pub const FORMAT: u8 = 1;

/// Format, kind and length of the header.
const PREFIX: usize = 6;
/// The checksum.
const SUFFIX: usize = 4;

/// Which command an entry holds, as a number that never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// [`Command::Found`].
    Found = 2,
    /// [`Command::Lead`].
    Lead = 3,
    /// [`Command::Append`].
    Append = 4,
    /// [`Command::Acknowledge`].
    Acknowledge = 5,
    /// [`Command::Missed`].
    Missed = 6,
    /// [`Command::Reclock`].
    Reclock = 7,
    /// [`Command::Truncate`].
    Truncate = 8,
    /// [`Command::Configure`].
    Configure = 9,
    /// [`Command::SetDeviceEnabled`].
    SetDeviceEnabled = 10,
    /// [`Command::SetDestinationPaused`].
    SetDestinationPaused = 11,
    /// [`Command::SetDrained`].
    SetDrained = 12,
    /// [`Command::RetryQuarantine`].
    RetryQuarantine = 13,
    /// [`Command::Event`].
    Event = 14,
    /// [`Command::SetAlarm`].
    SetAlarm = 16,
    /// [`Command::SettleRetries`].
    SettleRetries = 17,
    /// [`Command::Stage`].
    Stage = 20,
    /// [`Command::ConfigureStaged`].
    ConfigureStaged = 21,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 17] = [
        Self::Found,
        Self::Lead,
        Self::Append,
        Self::Acknowledge,
        Self::Missed,
        Self::Reclock,
        Self::Truncate,
        Self::Configure,
        Self::SetDeviceEnabled,
        Self::SetDestinationPaused,
        Self::SetDrained,
        Self::RetryQuarantine,
        Self::Event,
        Self::SetAlarm,
        Self::SettleRetries,
        Self::Stage,
        Self::ConfigureStaged,
    ];

    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// The kind of a command.
    pub fn of(command: &Command) -> Self {
        match command {
            Command::Found { .. } => Self::Found,
            Command::Lead { .. } => Self::Lead,
            Command::Append { .. } => Self::Append,
            Command::Acknowledge { .. } => Self::Acknowledge,
            Command::Missed { .. } => Self::Missed,
            Command::Reclock { .. } => Self::Reclock,
            Command::Truncate { .. } => Self::Truncate,
            Command::Configure { .. } => Self::Configure,
            Command::SetDeviceEnabled { .. } => Self::SetDeviceEnabled,
            Command::SetDestinationPaused { .. } => Self::SetDestinationPaused,
            Command::SetDrained { .. } => Self::SetDrained,
            Command::RetryQuarantine { .. } => Self::RetryQuarantine,
            Command::Event(_) => Self::Event,
            Command::SetAlarm { .. } => Self::SetAlarm,
            Command::SettleRetries { .. } => Self::SettleRetries,
            Command::Stage { .. } => Self::Stage,
            Command::ConfigureStaged { .. } => Self::ConfigureStaged,
        }
    }

    fn of_body(body: &Body) -> Self {
        match body {
            Body::Found(_) => Self::Found,
            Body::Lead(_) => Self::Lead,
            Body::Append(_) => Self::Append,
            Body::Acknowledge(_) => Self::Acknowledge,
            Body::Missed(_) => Self::Missed,
            Body::Reclock(_) => Self::Reclock,
            Body::Truncate(_) => Self::Truncate,
            Body::Configure(_) => Self::Configure,
            Body::SetDeviceEnabled(_) => Self::SetDeviceEnabled,
            Body::SetDestinationPaused(_) => Self::SetDestinationPaused,
            Body::SetDrained(_) => Self::SetDrained,
            Body::RetryQuarantine(_) => Self::RetryQuarantine,
            Body::Event(_) => Self::Event,
            Body::SetAlarm(_) => Self::SetAlarm,
            Body::SettleRetries(_) => Self::SettleRetries,
            Body::Stage(_) => Self::Stage,
            Body::ConfigureStaged(_) => Self::ConfigureStaged,
        }
    }
}

/// Why a command cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Samples travel beside their headers: use [`encode_append`].
    #[error("an append is encoded together with its payloads")]
    IsAppend,
    /// A document of the command cannot be packed.
    #[error(transparent)]
    Document(#[from] PackError),
    /// The command's header would not fit its length field.
    #[error("the command has {length} bytes, more than an entry can hold")]
    TooLarge {
        /// Its length.
        length: usize,
    },
}

/// Why an entry cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// These are not the bytes that were written.
    #[error("the log entry is corrupt: {what}")]
    Corrupt {
        /// What is wrong.
        what: &'static str,
    },
    /// A newer version wrote it: this node must stop until it is upgraded.
    #[error("the log entry (format {format}, kind {kind}) was written by a newer version")]
    Newer {
        /// Its format.
        format: u8,
        /// Its kind.
        kind: u8,
    },
}

/// An entry, opened.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    /// Who proposed it, and when.
    pub stamp: Stamp,
    /// What it changes.
    pub command: Command,
    /// The samples of an [`Command::Append`], still encoded; empty for every other command.
    pub payloads: Payloads,
}

/// The encoded batches of an entry: slices of it, not copies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payloads {
    batches: Vec<EncodedBatch>,
}

impl Payloads {
    /// How many batches there are.
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The batch with this number, counted from 0.
    ///
    /// # Panics
    /// Where there are not that many; [`Command::Append`] has as many headers.
    pub fn get(&self, index: usize) -> EncodedBatch {
        self.batches[index].clone()
    }

    /// All batches in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &EncodedBatch> {
        self.batches.iter()
    }
}

/// What the header of an entry says of it, without the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The command.
    pub kind: Kind,
    /// Who proposed it, and when.
    pub stamp: Stamp,
    /// Number of batches.
    pub batches: usize,
    /// Number of samples of all batches.
    pub samples: u64,
    /// Source time of the oldest sample, where there are samples.
    pub oldest: Option<Timestamp>,
    /// Source time of the newest sample, where there are samples.
    pub newest: Option<Timestamp>,
}

/// Encodes every command but [`Command::Append`].
pub fn encode(stamp: &Stamp, command: &Command) -> Result<Bytes, EncodeError> {
    let body = command::to_body(command)?.ok_or(EncodeError::IsAppend)?;
    let header = proto::EntryHeader { stamp: Some(stamp.into()), command: Some(body) };
    let length = header.encoded_len();
    if u32::try_from(length).is_err() {
        return Err(EncodeError::TooLarge { length });
    }
    Ok(frame(Kind::of(command), &header, &[]))
}

/// Encodes an [`Command::Append`] of these batches; their payloads are copied once.
pub fn encode_append(stamp: &Stamp, batches: &[EncodedBatch]) -> Bytes {
    let append = proto::Append { batches: batches.iter().map(EncodedBatch::framed_header).collect() };
    let header = proto::EntryHeader { stamp: Some(stamp.into()), command: Some(Body::Append(append)) };
    frame(Kind::Append, &header, batches)
}

fn frame(kind: Kind, header: &proto::EntryHeader, batches: &[EncodedBatch]) -> Bytes {
    let length = header.encoded_len();
    let payloads: usize = batches.iter().map(|batch| batch.payload.len()).sum();
    let mut entry = BytesMut::with_capacity(PREFIX + length + payloads + SUFFIX);
    entry.put_u8(FORMAT);
    entry.put_u8(kind as u8);
    entry.put_u32_le(
        u32::try_from(length).expect("checked for commands; batches in memory have smaller headers"),
    );
    header.encode_raw(&mut entry);
    for batch in batches {
        entry.put_slice(&batch.payload);
    }
    let checksum = crc32fast::hash(&entry);
    entry.put_u32_le(checksum);
    entry.freeze()
}

/// Opens an entry: checksum, header, places of the payloads. Samples stay encoded.
pub fn open(entry: Bytes) -> Result<Opened, OpenError> {
    let sealed = entry.len().checked_sub(SUFFIX).filter(|length| *length >= PREFIX);
    let sealed = sealed.ok_or(OpenError::Corrupt { what: "it is too short" })?;
    let (content, checksum) = entry.split_at(sealed);
    if crc32fast::hash(content).to_le_bytes() != checksum {
        return Err(OpenError::Corrupt { what: "the checksum" });
    }
    let header = Header::read(&entry.slice(..sealed))?;
    let payloads = header.payloads(&entry.slice(..sealed))?;
    let newer_or_corrupt = header.refuse();
    let proto::EntryHeader { stamp, command } = header.message;
    let open = || {
        let stamp = required(stamp, "a stamp")?.try_into()?;
        let command = command::from_body(required(command, "a command")?)?;
        Ok(Opened { stamp, command, payloads })
    };
    open().map_err(newer_or_corrupt)
}

/// Which command an entry holds, by its second byte alone; `None` where this version does not know it.
pub fn kind(entry: &[u8]) -> Option<Kind> {
    match entry {
        [FORMAT, number, ..] => Kind::from_number(*number),
        _ => None,
    }
}

/// Reads what the header says, and neither checks the checksum nor looks at a payload: for entries that were opened
/// before, because without the checksum damage may look like a newer version.
pub fn peek(entry: &Bytes) -> Result<Summary, OpenError> {
    let sealed = entry.len().checked_sub(SUFFIX).ok_or(OpenError::Corrupt { what: "it is too short" })?;
    let header = Header::read(&entry.slice(..sealed))?;
    let mut summary = Summary {
        kind: header.kind,
        stamp: required(header.message.stamp.clone(), "a stamp")
            .and_then(Stamp::try_from)
            .map_err(header.refuse())?,
        batches: 0,
        samples: 0,
        oldest: None,
        newest: None,
    };
    if let Some(Body::Append(append)) = &header.message.command {
        summary.batches = append.batches.len();
        for batch in &append.batches {
            let oldest = Timestamp(batch.gateway_time.wrapping_add(batch.oldest));
            let newest = Timestamp(oldest.0.wrapping_add(batch.span as i64));
            summary.samples += u64::from(batch.count);
            summary.oldest = Some(summary.oldest.map_or(oldest, |before| before.min(oldest)));
            summary.newest = Some(summary.newest.map_or(newest, |before| before.max(newest)));
        }
    }
    Ok(summary)
}

/// Prefix and header of an entry.
struct Header {
    kind: Kind,
    message: proto::EntryHeader,
    /// Where the payloads begin.
    end: usize,
}

impl Header {
    /// Reads it from an entry without its checksum.
    fn read(content: &Bytes) -> Result<Self, OpenError> {
        let corrupt = |what| OpenError::Corrupt { what };
        let &[format, number, a, b, c, d, ref rest @ ..] = &content[..] else {
            return Err(corrupt("it is too short"));
        };
        let newer = OpenError::Newer { format, kind: number };
        if format > FORMAT {
            return Err(newer);
        }
        if format < FORMAT || number <= 1 {
            return Err(corrupt("format or kind"));
        }
        let kind = Kind::from_number(number).ok_or(newer)?;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > rest.len() {
            return Err(corrupt("the length of its header"));
        }
        let end = PREFIX + length;
        let message =
            proto::EntryHeader::decode(content.slice(PREFIX..end)).map_err(|_| corrupt("its header"))?;
        // Fields that this version does not know were left out when the message was read.
        if message.encoded_len() < length {
            return Err(newer);
        }
        if message.encoded_len() > length || message.command.as_ref().map(Kind::of_body) != Some(kind) {
            return Err(corrupt("its header is not of its kind"));
        }
        Ok(Self { kind, message, end })
    }

    /// Finds the payloads behind it; they must fill the entry.
    fn payloads(&self, content: &Bytes) -> Result<Payloads, OpenError> {
        let mut rest = content.slice(self.end..);
        let (mut batches, mut samples) = (Vec::new(), 0_u64);
        if let Some(Body::Append(append)) = &self.message.command {
            batches.reserve(append.batches.len());
            for batch in &append.batches {
                let length = batch.payload_length as usize;
                if length > rest.len() {
                    return Err(OpenError::Corrupt { what: "the length of a payload" });
                }
                let header = BatchHeader::try_from(batch.clone()).map_err(self.refuse())?;
                samples += u64::from(header.count);
                batches.push(EncodedBatch { header, payload: rest.split_to(length) });
            }
        }
        if samples >= u64::from(Ordinal::FIRST_EFFECT.0) {
            return Err(OpenError::Corrupt { what: "the number of its samples" });
        }
        if rest.is_empty() {
            Ok(Payloads { batches })
        } else {
            Err(OpenError::Corrupt { what: "its length" })
        }
    }

    /// How an error of conversion ends: the message was whole, so it may be newer.
    fn refuse(&self) -> impl Fn(ConvertError) -> OpenError + use<> {
        let kind = self.kind as u8;
        move |error| match error {
            ConvertError::Malformed(what) => OpenError::Corrupt { what },
            ConvertError::Unknown(_) => OpenError::Newer { format: FORMAT, kind },
        }
    }
}

#[cfg(test)]
mod tests;
