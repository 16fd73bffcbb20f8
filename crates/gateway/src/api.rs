//! The gRPC listener (7611): what stands there beside admin and ingest.
//!
//! Health (`grpc.health.v1`) and reflection, so that generic tools can find out what is served here and how it does.

use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

/// Services that reflection lists; the packages of peers and log are described and not served here.
const LISTED: [&str; 3] = ["holdfast.v1.Admin", "holdfast.v1.Ingest", "grpc.health.v1.Health"];

/// Health, as `reporter` is told it, and reflection.
pub(crate) fn health_and_reflection(reporter: HealthReporter) -> Routes {
    let health = HealthServer::new(HealthService::from_health_reporter(reporter));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(wire::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let reflection = LISTED.into_iter().fold(reflection, |listed, name| listed.with_service_name(name));
    let reflection = reflection.build_v1().expect("the descriptors are those of the build");
    Routes::new(health).add_service(reflection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptors_of_the_build_can_be_reflected() {
        drop(health_and_reflection(HealthReporter::new()));
    }
}
