//! A Modbus TCP device: it answers reads from a [`RegisterSource`], misbehaves when told to, and writes down who asked
//! what and when.
//!
//! Frames are its own (Modbus Messaging on TCP/IP 1.0b, §3.1.3): the moments of the first and the last byte must be
//! known, and 500 of these must fit beside the nodes under test.
//!
//! - Each read request has an ordinal, counted per unit from 1, and one line in the history when it ends.
//! - A request ends with the last byte of its answer; unanswered, when its connection ends or after
//!   [`Config::response_cap`], whichever comes first.
//! - Only function codes 1 to 4 exist; anything else is an illegal function.

pub mod overlap;
mod serve;
mod source;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::plant::address::Table;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::debug;

use crate::history::{History, Kind, monotonic_ns};
use overlap::{Interval, Overlap, Ticket, Watch};
pub use source::{Proof, ReadRequest, RegisterSource};

/// Overlaps that are kept with their particulars; the rest is only counted. One is too many already.
const KEPT_OVERLAPS: usize = 100;

/// What a device is.
#[derive(Clone)]
pub struct Config {
    /// Its name in the history.
    pub name: String,
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What its registers hold.
    pub source: Arc<dyn RegisterSource>,
    /// Where it writes what it saw.
    pub history: Option<History>,
    /// Connections it bears; one more is closed as it is accepted.
    pub max_connections: usize,
    /// How long an unanswered request counts as open.
    pub response_cap: Duration,
}

/// How a device answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Behaviour {
    /// How long it takes to answer.
    pub delay: Duration,
    /// What it answers.
    pub manner: Manner,
}

/// What a device answers. What is not [`Manner::Right`] counts as refused or unanswered, whatever it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// What its registers hold.
    #[default]
    Right,
    /// Nothing until told otherwise; then what it owes.
    Paused,
    /// This exception.
    Exception(u8),
    /// One register or eight bits too few.
    Short,
    /// What its registers hold, as the answer to the request before.
    OtherTransaction,
    /// What its registers hold, as the answer of another unit.
    OtherUnit,
    /// What its registers hold, framed as on a serial line: rubbish on this one.
    Serial,
    /// The first half of what its registers hold, and then no more on this connection.
    Half,
    /// What its registers hold, on the connections that there are: each new one is closed.
    Full,
    /// It closes the connection, and each new one.
    HangUp,
    /// Nobody listens, and all connections have ended.
    Away,
}

/// How many requests a device has seen, by their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Answered with values.
    pub answered: u64,
    /// Answered with an exception.
    pub refused: u64,
    /// Not answered, or not in full.
    pub unanswered: u64,
    /// Pairs of requests of different nodes that were open at one moment.
    pub overlaps: u64,
}

/// The connections that a device has borne.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connections {
    /// All that were served.
    pub served: u64,
    /// Those that were closed at once for want of room.
    pub turned_away: u64,
    /// The most that were served at one time.
    pub most: usize,
}

/// A running device. It ends, with all its connections, when this is dropped.
pub struct ModbusServer {
    address: SocketAddr,
    device: Arc<Device>,
    /// One task, which owns the listener and the tasks of its connections.
    _serving: JoinSet<()>,
}

/// What a line of the history says of a read, beyond [`crate::history::Entry`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadSeen {
    /// Where the request came from.
    pub peer: SocketAddr,
    /// The unit it was for.
    pub unit: u8,
    /// The table, by function code.
    pub function: u8,
    /// The first register or bit.
    pub start: u16,
    /// How many.
    pub count: u16,
    /// Which read request of this unit it was, from 1.
    pub ordinal: u64,
    /// When its first byte came.
    pub first_byte_ns: u64,
    /// When the last byte of the answer left, or it was given up.
    pub last_byte_ns: u64,
    /// The exception, if that was the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exception: Option<u8>,
    /// FNV-1a of the words of the answer, high byte first; 0 without.
    pub hash: u64,
}

/// What connections of one device share.
struct Device {
    config: Config,
    behaviour: watch::Sender<Orders>,
    ordinals: Vec<AtomicU64>,
    state: Mutex<State>,
}

/// The behaviour, and how often all connections were told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Orders {
    behaviour: Behaviour,
    hang_ups: u64,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    connections: Connections,
    watch: Watch,
    overlaps: Vec<Overlap>,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Answered(Vec<u16>),
    Refused(u8),
    Unanswered,
}

impl Config {
    /// A device on a free local port that proves completeness and keeps no history.
    pub fn new(name: impl Into<String>, source: impl RegisterSource) -> Self {
        Self {
            name: name.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            source: Arc::new(source),
            history: None,
            max_connections: 8,
            response_cap: Duration::from_secs(1),
        }
    }
}

impl ModbusServer {
    /// Binds and serves.
    pub async fn start(config: Config) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let device = Arc::new(Device::new(config));
        let mut serving = JoinSet::new();
        serving.spawn(serve::accept(listener, address, Arc::clone(&device)));
        Ok(Self { address, device, _serving: serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells the device how to answer from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.device.behaviour.send_modify(|orders| orders.behaviour = behaviour);
    }

    /// Ends all connections once; new ones are accepted.
    pub fn drop_connections(&self) {
        self.device.behaviour.send_modify(|orders| orders.hang_ups += 1);
    }

    /// What it has seen so far.
    pub fn counts(&self) -> Counts {
        self.device.with_state(|state| state.counts)
    }

    /// The connections that it has borne so far.
    pub fn connections(&self) -> Connections {
        self.device.with_state(|state| state.connections)
    }

    /// How many requests it has not answered yet.
    pub fn open_requests(&self) -> usize {
        self.device.with_state(|state| state.watch.open_requests())
    }

    /// The first overlaps with their particulars, at most a hundred; [`Counts::overlaps`] counts them all.
    pub fn overlaps(&self) -> Vec<Overlap> {
        self.device.with_state(|state| state.overlaps.clone())
    }
}

impl ReadSeen {
    /// When and by whom the device was occupied.
    pub fn interval(&self) -> Interval {
        Interval { node: self.peer.ip(), first_ns: self.first_byte_ns, last_ns: self.last_byte_ns }
    }
}

impl Device {
    fn new(config: Config) -> Self {
        let ordinals = (0..=u8::MAX).map(|_| AtomicU64::new(0)).collect();
        Self { config, behaviour: watch::Sender::default(), ordinals, state: Mutex::default() }
    }

    /// Numbers a request and counts it as open.
    fn begin(&self, peer: SocketAddr, unit: u8, first_byte_ns: u64) -> (u64, Ticket) {
        let ordinal = self.ordinals[usize::from(unit)].fetch_add(1, Ordering::Relaxed) + 1;
        (ordinal, self.with_state(|state| state.watch.begin(peer.ip(), first_byte_ns)))
    }

    /// Counts a request as ended now, and writes it down.
    fn end(&self, request: &ReadRequest, first_byte_ns: u64, ticket: Ticket, end: End) {
        let last_byte_ns = monotonic_ns();
        let overlaps = self.with_state(|state| {
            let overlaps = state.watch.end(ticket, last_byte_ns);
            state.counts.overlaps += overlaps.len() as u64;
            let room = KEPT_OVERLAPS - state.overlaps.len();
            state.overlaps.extend(overlaps.iter().take(room));
            *match end {
                End::Answered(_) => &mut state.counts.answered,
                End::Refused(_) => &mut state.counts.refused,
                End::Unanswered => &mut state.counts.unanswered,
            } += 1;
            overlaps
        });
        let Config { name, history: Some(history), .. } = &self.config else { return };
        for overlap in overlaps {
            history.record_at(last_byte_ns, name, Kind::Fail, "overlap", &overlap);
        }
        let (kind, words, exception) = match end {
            End::Answered(words) => (Kind::Ok, words, None),
            End::Refused(code) => (Kind::Fail, Vec::new(), Some(code)),
            End::Unanswered => (Kind::Info, Vec::new(), None),
        };
        let seen = ReadSeen {
            peer: request.peer,
            unit: request.unit,
            function: function_of(request.table),
            start: request.start,
            count: request.count,
            ordinal: request.ordinal,
            first_byte_ns,
            last_byte_ns,
            exception,
            hash: if words.is_empty() { 0 } else { hash(&words) },
        };
        history.record_at(last_byte_ns, name, kind, "read", &seen);
    }

    fn with_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for ModbusServer {
    fn drop(&mut self) {
        debug!(device = self.device.config.name, counts = ?self.counts(), "device ends");
    }
}

impl fmt::Debug for ModbusServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModbusServer").field("address", &self.address).finish_non_exhaustive()
    }
}

/// FNV-1a, 64 bits, over the words, high byte first (<http://www.isthe.com/chongo/tech/comp/fnv/>).
pub fn hash(words: &[u16]) -> u64 {
    words.iter().flat_map(|word| word.to_be_bytes()).fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

fn function_of(table: Table) -> u8 {
    match table {
        Table::Coil => 1,
        Table::Discrete => 2,
        Table::Holding => 3,
        Table::Input => 4,
    }
}

#[cfg(test)]
mod tests;
