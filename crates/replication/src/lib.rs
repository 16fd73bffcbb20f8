//! Agree on the order of commands; say who leads and until when.

mod elections;
mod handler;
mod lease;
mod network;
mod proposer;
mod replica;
mod start;
mod storage;
#[cfg(test)]
mod suite;
mod type_config;

pub use network::{
    ClockEstimate, Connector, Identity, NetworkOptions, PeerEvent, PeerEvents, PeerInfo, PeerIo, PeerStanding, PeerTable,
    Applied, ProposeError, Refusal, TcpConnector,
};
pub use lease::{LeaseTimes, Leadership};
pub use replica::{MembershipError, Replica, Status};
pub use start::{ReplicaParts, StartError};
