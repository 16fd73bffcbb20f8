//! Bytes to model and back.
//!
//! This crate owns every byte format of ours: what lies in the log, what nodes say to each other and what the API
//! says. It decides nothing, opens no file and no socket.
//!
//! - [`entry`]: the frame of a log entry, readable without its payloads.
//! - [`batch`]: samples in columns, as they travel inside an entry.
//! - [`packed`]: documents that travel inside a command: the plant and the files it was written in.
//! - [`convert`]: the small messages of `holdfast.log.v1` to model and back, for the ledger too.
//! - [`proto`]: the code generated from `/proto`.
//! - [`times`], [`values`]: moments, lengths of time and readings in `holdfast.v1`.
//!
//! Invariants:
//! - Everything that lies on a disk bears a version; what is newer is told from what is broken.
//! - No bytes, however hostile, make a decoder panic or allocate more than a stated bound.

pub mod batch;
mod compress;
pub mod convert;
pub mod entry;
pub mod packed;
pub mod proto;
pub mod times;
pub mod values;

#[cfg(test)]
mod strategies;

pub use batch::EncodedBatch;
pub use convert::ConvertError;

/// The compiled `.proto` files, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Paths of all methods of all services, `/SERVICE/METHOD`.
pub fn methods() -> Vec<String> {
    use prost::Message as _;
    let descriptors = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("made by the build");
    let services = descriptors.file.iter().flat_map(|file| {
        file.service.iter().map(move |service| (format!("{}.{}", file.package(), service.name()), service))
    });
    let path = |(name, service): (String, &prost_types::ServiceDescriptorProto)| {
        service.method.iter().map(|method| format!("/{name}/{}", method.name())).collect::<Vec<_>>()
    };
    services.flat_map(path).collect()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    #[test]
    fn reflection_knows_every_package() {
        let descriptors =
            prost_types::FileDescriptorSet::decode(super::FILE_DESCRIPTOR_SET).expect("made by the build");
        for package in ["holdfast.log.v1", "holdfast.peer.v1", "holdfast.v1"] {
            assert!(descriptors.file.iter().any(|file| file.package() == package), "{package} is missing");
        }
    }
}
