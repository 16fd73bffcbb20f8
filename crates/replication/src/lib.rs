//! Agree on the order of commands; say who leads and until when.

mod network;
mod storage;
mod type_config;

pub use network::{
    ClockEstimate, Connector, Identity, NetworkOptions, PeerEvent, PeerEvents, PeerInfo, PeerIo, PeerStanding, PeerTable,
    Refusal, TcpConnector,
};
