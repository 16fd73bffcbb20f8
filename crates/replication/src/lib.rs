//! Agree on the order of commands; say who leads and until when.

mod elections;
mod founding;
mod handler;
mod lease;
mod network;
mod proposer;
mod reign;
mod replica;
mod snapshots;
mod start;
mod storage;
#[cfg(test)]
mod suite;
mod type_config;

pub use lease::{Leadership, LeaseTimes};
pub use network::{
    Applied, ClockEstimate, Connector, Identity, NetworkOptions, PeerEvent, PeerEvents, PeerInfo, PeerIo,
    PeerStanding, PeerTable, ProposeError, Refusal, TcpConnector,
};
pub use replica::{MembershipError, Replica, Status};
pub use start::{ReplicaParts, StartError};
