//! The seam between the gateway and a field protocol: one scan of one group, and its four possible failures.
//!
//! Owns no socket and no schedule. Invariants of every implementation:
//! - a scan gives one reading per tag of the group, in the plant's order, or none at all;
//! - bytes leave only through a [`FencedStream`](crate::fenced::FencedStream);
//! - dropping the future of a scan ends it: what was in flight is closed hard, nothing is sent afterwards.

use std::future::Future;
use std::time::Duration;

use model::{Reading, StatusCode, Timestamp};
use tokio::time::Instant;

/// A device as its driver sees it.
pub trait Driver: Send + Sync + 'static {
    /// Reads one poll group once.
    ///
    /// `start_by` bounds the wait for a shared connection: a scan that could not begin by then is
    /// [`ScanError::Late`] (or silent, where there is no connection at all) and has sent nothing. Once begun, each
    /// request is bounded by the device's response cap and by the permit.
    ///
    /// # Panics
    /// If the device has no such group: the index is the caller's own.
    fn scan(
        &self,
        group: GroupIndex,
        start_by: Instant,
    ) -> impl Future<Output = Result<Scan, ScanError>> + Send;
}

/// The place of a group in [`model::plant::Device::groups`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupIndex(pub usize);

/// What one scan gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// One reading per tag of the group, in the plant's order, with the wall clock when its answer arrived.
    pub readings: Vec<(Timestamp, Reading)>,
    /// When the first byte of the first request left.
    pub started: Instant,
    /// When the last answer was complete.
    pub finished: Instant,
}

/// Why a scan gave no readings. The variants are what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The device does not answer: its slot is bad, the following ones are a gap.
    #[error("device is silent: {reason}")]
    Silent {
        /// The status that the bad readings bear.
        status: StatusCode,
        /// For people.
        reason: Silence,
    },
    /// The connection was busy with other units until `start_by`: the slot is a gap, the device is not to blame.
    #[error("connection was busy until the scan should have begun")]
    Late,
    /// The permit is gone: stop.
    #[error("no permit to read")]
    Fenced,
    /// The driver was closed.
    #[error("driver is closed")]
    Stopped,
}

impl From<Silence> for ScanError {
    fn from(reason: Silence) -> Self {
        Self::Silent { status: reason.status(), reason }
    }
}

/// In which way a device does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// The host name has no address.
    #[error("host name not resolved: {reason}")]
    UnknownHost {
        /// What the resolver said.
        reason: String,
    },
    /// The connection was refused, or there is no route.
    #[error("no connection: {reason}")]
    Unreachable {
        /// What the operating system said.
        reason: String,
    },
    /// The connection was neither accepted nor refused.
    #[error("no connection within {after:?}")]
    ConnectTimeout {
        /// How long was waited.
        after: Duration,
    },
    /// A first connection is still being made.
    #[error("no connection yet")]
    Connecting,
    /// A request was sent and not answered in full.
    #[error("{}", no_answer(*after, *of))]
    NoAnswer {
        /// How long was waited.
        after: Duration,
        /// The device's timeout, if the lease is what bounded the wait.
        of: Option<Duration>,
    },
    /// The connection ended in the middle of an exchange.
    #[error("connection lost: {reason}")]
    Broken {
        /// What is known of it.
        reason: String,
    },
    /// The answer does not belong to the question.
    #[error("answer not understood: {reason}")]
    Malformed {
        /// What was expected and what came.
        reason: String,
    },
    /// A gateway in front of the device says that it cannot reach it.
    #[error("unit {unit} does not answer its own gateway (exception 0x{code:02X})")]
    UnitDown {
        /// The unit id.
        unit: u8,
        /// The exception code, 0x0A or 0x0B.
        code: u8,
    },
}

/// Says within what time no answer came, and what to do if the lease left the device less than its timeout.
fn no_answer(after: Duration, of: Option<Duration>) -> String {
    match of {
        None => format!("no answer within {after:?}"),
        Some(of) => format!(
            "HF-5104: no answer within {after:?} of its timeout of {of:?}; slow = true lets a device take longer"
        ),
    }
}

impl Silence {
    /// The status that readings of a silent device bear.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::UnknownHost { .. }
            | Self::Unreachable { .. }
            | Self::Connecting
            | Self::UnitDown { .. } => StatusCode::BAD_NO_COMMUNICATION,
            Self::ConnectTimeout { .. } | Self::NoAnswer { .. } => StatusCode::BAD_TIMEOUT,
            Self::Broken { .. } => StatusCode::BAD_COMMUNICATION_ERROR,
            Self::Malformed { .. } => StatusCode::BAD_DECODING_ERROR,
        }
    }
}
