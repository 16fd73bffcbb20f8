//! The peer network: how nodes of one cluster reach each other, and what they say of themselves.
//!
//! It owns connections, the handshake, the translation between `holdfast.peer.v1` and openraft, and the checks
//! that every message passes. It does not own the log, the state machine or any decision about leading: behind
//! the server stands a [`PeerHandler`], in front of the client stands openraft.
//!
//! - Two connections per peer, shared by all who talk to it: *bulk* (appends, snapshots, proposals) and *control*
//!   (heartbeats, votes, transfer), so that a large message cannot delay a heartbeat.
//! - A connection is made when it is first needed, or before by [`crate::warming`], one attempt at a time, and opens with
//!   `Hello`: a peer that is not the node, cluster or data directory meant is refused there and again in each message.
//! - Every call has a deadline; an outstanding append without an answer ends its stream.
//! - An acknowledgement never vouches for a request sent after the one it answers ([`hold_back`]).
//! - A follower that no longer holds what it acknowledged is refused before openraft sees it ([`tripwire`]).

mod answers;
mod append;
mod client;
mod connector;
mod convert;
mod hold_back;
mod identity;
mod link;
mod listen;
mod outcome;
mod proposals;
mod refusal;
mod server;
mod snapshot;
mod table;
mod tripwire;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use model::NodeId;

pub use connector::{
    Acceptor, Arrival, ConnectError, Connector, Listener, PeerConnection, PeerIo, PlainAcceptor, TcpConnector,
};
pub use identity::Identity;
pub use proposals::{Applied, ProposeError};
pub use refusal::Refusal;
pub use table::{ClockEstimate, PeerInfo, PeerStanding, PeerTable};

pub(crate) use client::{AskError, PeerNetworkFactory, Place};
pub(crate) use convert::SnapshotMeta;
pub(crate) use link::NetworkParts;
pub(crate) use listen::{accept_peers, serve};
pub(crate) use proposals::Proposals;
pub(crate) use server::{PeerHandler, PeerService, ServiceParts, Stopped};
pub(crate) use snapshot::{SnapshotFile, clear_staging, read_staged};

/// Largest message in either direction, bytes. A proposal is far smaller; this bounds what a stranger can make us
/// hold.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;

/// Bytes that may be on their way at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Commands on their way into a leader's log and not yet applied.
    pub proposals: usize,
    /// Commands on their way to the leader.
    pub forwarded: usize,
    /// Entries on their way to each follower.
    pub appends: usize,
}

impl Windows {
    /// No command is larger; at least as much fits into each window of commands.
    pub const LARGEST_COMMAND: usize = 8 << 20;
}

impl Default for Windows {
    fn default() -> Self {
        Self { proposals: 32 << 20, forwarded: 16 << 20, appends: 8 << 20 }
    }
}

/// Times and bounds of the peer network: times follow from the lease.
#[derive(Debug, Clone)]
pub(crate) struct NetworkOptions {
    /// How long one attempt to connect may take, handshake included.
    pub(crate) connect_timeout: Duration,
    /// How long after a failed attempt calls fail at once instead of trying again.
    pub(crate) retry_pause: Duration,
    /// Pause between HTTP/2 pings.
    pub(crate) keep_alive_interval: Duration,
    /// How long the answer to a ping may take before the connection is given up.
    pub(crate) keep_alive_timeout: Duration,
    /// How long the oldest unanswered append may wait before its stream is given up. The deadline of the call
    /// applies where it is longer.
    pub(crate) stall_limit: Duration,
    /// How long a snapshot transfer may pass without progress.
    pub(crate) snapshot_stall_limit: Duration,
    /// Requests in flight on one append stream.
    pub(crate) append_window: usize,
    /// Bytes in flight on one append stream. One request is always admitted.
    pub(crate) append_window_bytes: usize,
    /// Forwarded proposals in flight.
    pub(crate) propose_window: usize,
    /// Bytes of forwarded proposals in flight.
    pub(crate) propose_window_bytes: usize,
}

impl NetworkOptions {
    /// The options for a lease of `lease`.
    pub(crate) fn for_lease(lease: Duration) -> Self {
        let windows = Windows::default();
        Self {
            connect_timeout: lease.max(Duration::from_millis(250)),
            retry_pause: lease / 10,
            keep_alive_interval: lease / 4,
            keep_alive_timeout: lease / 2,
            // A disk stall of a follower is no reason to begin its stream anew; pings find a dead peer sooner.
            stall_limit: (lease * 2).max(Duration::from_secs(1)),
            snapshot_stall_limit: (lease * 4).max(Duration::from_secs(10)),
            append_window: 64,
            append_window_bytes: windows.appends,
            propose_window: 256,
            propose_window_bytes: windows.forwarded,
        }
    }

    /// The same with other windows.
    pub(crate) fn with_windows(self, windows: &Windows) -> Self {
        Self { append_window_bytes: windows.appends, propose_window_bytes: windows.forwarded, ..self }
    }
}

/// Something about a peer that the node must react to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerEvent {
    /// The follower reported a conflict at or below what it had acknowledged in the same reign: it lost synced
    /// entries. It gets nothing more from this node.
    LogShortened {
        /// The follower.
        node: NodeId,
        /// Index that it had acknowledged.
        acknowledged: u64,
        /// Index at which it now disagrees.
        conflict: u64,
    },
    /// A peer refused us, or we refused it, for a reason that does not pass by itself.
    Refused {
        /// The peer.
        node: NodeId,
        /// Why.
        refusal: Refusal,
    },
}

/// Where [`PeerEvent`]s go. Called from network tasks: it must not block.
#[derive(Clone)]
pub struct PeerEvents(Arc<dyn Fn(PeerEvent) + Send + Sync>);

impl PeerEvents {
    /// Events are handed to `report`.
    pub fn new(report: impl Fn(PeerEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(report))
    }

    fn report(&self, event: PeerEvent) {
        (self.0)(event);
    }
}

impl fmt::Debug for PeerEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerEvents")
    }
}
