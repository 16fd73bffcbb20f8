//! The health listener: `/healthz`, `/readyz`, `/leader` and `/metrics`, for orchestrators, load balancers and
//! Prometheus.
//!
//! - `/healthz`: 200 while this process serves. `/readyz`: 200 while it belongs to a cluster with a majority.
//!   `/leader`: 200 on the node with a live lease and nowhere else; otherwise 503, naming the leader.
//! - Answers from memory (but for the size of the data directory), changes nothing, and says nothing that is secret.

mod metrics;

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use ingest::PushService;
use replication::Standing;
use store::engine::Engine;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::{Acting, AdminService};
use crate::pushing::PushedTags;
use metrics::MetricsWriter;

/// What the listener stands on.
pub(crate) struct HealthParts<E: Engine> {
    /// The admin service, which knows the facts.
    pub(crate) admin: AdminService<E>,
    /// The push service, for its figures.
    pub(crate) pushes: PushService<PushedTags<E>>,
}

/// Serves until told to stop.
pub(crate) async fn serve<E: Engine>(
    listener: TcpListener,
    parts: HealthParts<E>,
    stop: CancellationToken,
) -> Result<(), io::Error> {
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready::<E>))
        .route("/leader", get(leader::<E>))
        .route("/metrics", get(metrics::<E>))
        .with_state(Arc::new(parts));
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn ready<E: Engine>(State(parts): State<Arc<HealthParts<E>>>) -> impl IntoResponse {
    match readiness(parts.admin.has_majority(), parts.admin.replica().status().standing) {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

fn readiness(majority: bool, standing: Standing) -> Result<(), &'static str> {
    match (standing, majority) {
        (Standing::Stopped, _) => Err("this node has stopped"),
        (Standing::Removed, _) => Err("this node was removed from the cluster"),
        (_, false) => Err("no majority of the nodes answers"),
        (_, true) => Ok(()),
    }
}

async fn leader<E: Engine>(State(parts): State<Arc<HealthParts<E>>>) -> impl IntoResponse {
    match parts.admin.acting() {
        Acting::Here => (StatusCode::OK, format!("{}\n", parts.admin.replica().name())),
        Acting::Elsewhere(name) => (StatusCode::SERVICE_UNAVAILABLE, format!("{name}\n")),
        Acting::Nobody => (StatusCode::SERVICE_UNAVAILABLE, "no leader is known\n".to_owned()),
    }
}

async fn metrics<E: Engine>(State(parts): State<Arc<HealthParts<E>>>) -> impl IntoResponse {
    let mut writer = MetricsWriter::default();
    metrics::write_status(&mut writer, &parts.admin.status_here());
    metrics::write_lateness(&mut writer, &parts.admin.devices_here());
    metrics::write_pushes(&mut writer, &parts.pushes.counters());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], writer.into_text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_majority_is_alive_and_not_ready() {
        assert_eq!(readiness(true, Standing::Follower), Ok(()));
        assert!(readiness(false, Standing::Leader).is_err());
        assert!(readiness(true, Standing::Stopped).is_err());
    }
}
