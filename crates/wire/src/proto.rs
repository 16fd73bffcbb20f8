//! Code generated from `/proto`; the `.proto` files are its documentation.
//!
//! A package without a file yet is an empty module.

/// Entries of the replicated log (`holdfast.log.v1`); lies on disks.
#[allow(
    missing_docs,
    unreachable_pub,
    rustdoc::all,
    clippy::all,
    clippy::unwrap_used,
    clippy::large_futures,
    reason = "generated"
)]
pub mod log {
    include!(concat!(env!("OUT_DIR"), "/holdfast.log.v1.rs"));
}

/// What nodes say to each other (`holdfast.peer.v1`).
#[allow(
    missing_docs,
    unreachable_pub,
    rustdoc::all,
    clippy::all,
    clippy::unwrap_used,
    clippy::large_futures,
    reason = "generated"
)]
pub mod peer {
    include!(concat!(env!("OUT_DIR"), "/holdfast.peer.v1.rs"));
}

/// What people and programs say to the cluster (`holdfast.v1`): gRPC, and proto3 JSON through serde.
#[allow(
    missing_docs,
    unreachable_pub,
    rustdoc::all,
    clippy::all,
    clippy::unwrap_used,
    clippy::large_futures,
    reason = "generated"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/holdfast.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/holdfast.v1.serde.rs"));
}

impl v1::push_request::Samples {
    /// The message alone, for whoever carries it by other means than gRPC.
    pub fn to_bytes(&self) -> Vec<u8> {
        prost::Message::encode_to_vec(self)
    }
}
