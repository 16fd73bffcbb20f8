//! Agree on the order of commands; say who leads and until when.

mod amnesia;
mod chance;
mod contact;
mod draining;
mod elections;
mod founding;
mod handler;
mod joiners;
mod lease;
mod membership;
mod muting;
mod network;
mod proposer;
mod reign;
mod replica;
mod snapshots;
mod start;
mod storage;
mod successor;
#[cfg(test)]
mod suite;
#[cfg(test)]
mod trial;
mod type_config;
mod warming;

pub use amnesia::{AmnesicParts, answer_amnesic};
pub use chance::{SeededRuntime, seeded};
pub use draining::{DrainError, DrainRefused};
pub use founding::{Belonging, Waiting};
pub use joiners::Joiner;
pub use lease::{Leadership, LeaseEvents, LeaseTimes};
pub use membership::{
    Added, Lag, MEMBERSHIP_PATIENCE, MembershipError, RemovalRefused, Voters, check_removal,
};
pub use network::{
    Acceptor, Applied, Arrival, ClockEstimate, ConnectError, Connector, Identity, Listener, PeerConnection,
    PeerEvent, PeerEvents, PeerInfo, PeerIo, PeerStanding, PeerTable, PlainAcceptor, ProposeError, Refusal,
    TcpConnector, Windows,
};
pub use replica::{Placed, Replica, Standing, Status};
pub use start::{ReplicaParts, StartError};
pub use successor::{Candidate, NoSuccessor, ROOM_TO_LEAD, Unfit, choose};
