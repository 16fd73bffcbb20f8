//! What is asked of a node, and where: the API and the health listener. Both tell what the one admin service knows.

use std::time::Duration;

use ingest::PushService;
use runtime::Spawner;
use store::engine::rocks::RocksEngine;
use tokio::net::TcpListener;
use tonic_health::server::HealthReporter;

use super::node_facts;
use crate::admin::AdminService;
use crate::api;
use crate::config::NodeConfig;
use crate::health::{self, HealthParts};
use crate::pushing::PushedTags;
use crate::roles::RoleLayer;
use crate::security::Security;
use crate::watching::Watch;

/// Where callers come in, and who is let in.
pub(super) struct Doors {
    pub(super) admin: TcpListener,
    pub(super) health: Option<TcpListener>,
    pub(super) security: Security,
}

/// Opens the API and, where it is wanted, the health listener.
pub(super) fn serve(
    service: AdminService<RocksEngine>,
    pushes: PushService<PushedTags<RocksEngine>>,
    config: &NodeConfig,
    Doors { admin, health, security }: Doors,
    spawner: &Spawner,
) {
    let reporter = HealthReporter::new();
    let service = service.keeping_gaps(spawner).reporting_health(reporter.clone(), spawner);
    let routes = api::health_and_reflection(reporter)
        .add_service(service.clone().into_server())
        .add_service(pushes.clone().into_server());
    let watch = Watch::new(service.clone(), node_facts(config));
    spawner.spawn("watch", watch.run(spawner.token().clone()));
    let api = tonic::transport::Server::builder()
        .layer(RoleLayer)
        // A client that is gone without a word must not hold its stream for ever.
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .add_routes(routes);
    let stop = spawner.token().clone();
    let incoming = security.callers(admin);
    spawner.spawn(
        "api",
        async move { api.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await },
    );
    if let Some(listener) = health {
        let stop = spawner.token().clone();
        let parts = HealthParts { admin: service, pushes };
        spawner.spawn("health", health::serve(listener, parts, stop));
    }
}
