//! What a node answers while it belongs to no cluster yet: on its API and on its health listener it says what it waits
//! for, and what the administrator must type.
//!
//! - It answers nothing else: there is no ledger, no leader and nobody to forward to.
//! - It ends when the node belongs; the listeners' sockets are shared with what comes then, so that no port is closed.

use std::io;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use replication::Waiting;
use runtime::Spawner;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::metadata::MetadataValue;

use crate::admin::CODE;
use crate::security::Security;

/// The code of the one answer there is.
const BELONGS_NOWHERE: &str = "HF-3109";

/// Where a waiting node answers.
pub(crate) struct WaitingListeners<'a> {
    pub(crate) admin: &'a TcpListener,
    pub(crate) health: Option<&'a TcpListener>,
}

/// Answers until the token returned is cancelled.
pub(crate) fn serve(
    name: &str,
    listeners: WaitingListeners<'_>,
    waiting: watch::Receiver<Option<Waiting>>,
    security: &Security,
    spawner: &Spawner,
) -> io::Result<CancellationToken> {
    let stop = spawner.token().child_token();
    let (api, says) = (share(listeners.admin)?, Says { name: name.to_owned(), waiting });
    let admin_says = says.clone();
    let router = Router::new().fallback(move || std::future::ready(admin_says.as_grpc()));
    let routes = tonic::service::Routes::from(router);
    let incoming = security.clone().callers(api);
    let until = stop.clone().cancelled_owned();
    spawner.spawn("waiting api", async move {
        tonic::transport::Server::builder()
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, until)
            .await
    });
    if let Some(health) = listeners.health {
        let health = share(health)?;
        let router = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .fallback(move || std::future::ready(says.as_http()));
        let until = stop.clone().cancelled_owned();
        spawner.spawn("waiting health", async move {
            axum::serve(health, router).with_graceful_shutdown(until).await
        });
    }
    Ok(stop)
}

/// Another handle of a listening socket.
fn share(listener: &TcpListener) -> io::Result<TcpListener> {
    let shared = rustix::io::dup(listener)?;
    TcpListener::from_std(std::net::TcpListener::from(shared))
}

#[derive(Clone)]
struct Says {
    name: String,
    waiting: watch::Receiver<Option<Waiting>>,
}

impl Says {
    fn text(&self) -> String {
        let waiting = self.waiting.borrow().clone();
        match waiting {
            Some(Waiting { text, command: Some(command) }) => {
                format!("{BELONGS_NOWHERE}: {} belongs to no cluster yet: {text}; type: {command}", self.name)
            }
            Some(Waiting { text, command: None }) => {
                format!("{BELONGS_NOWHERE}: {} belongs to no cluster yet: {text}", self.name)
            }
            None => format!("{BELONGS_NOWHERE}: {} is starting; ask again in a moment", self.name),
        }
    }

    fn as_grpc(&self) -> Response {
        let mut status = Status::failed_precondition(self.text());
        status.metadata_mut().insert(CODE, MetadataValue::from_static(BELONGS_NOWHERE));
        status.into_http::<axum::body::Body>()
    }

    fn as_http(&self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, self.text() + "\n").into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_that_belongs_nowhere_says_what_to_type() {
        let says = Says {
            name: "node-4".into(),
            waiting: watch::Sender::new(Some(Waiting {
                text: "it waits to be added".into(),
                command: Some("holdfast member add node-4=10.0.0.4:7610".into()),
            }))
            .subscribe(),
        };
        let http = says.as_http();
        assert_eq!(http.status(), StatusCode::SERVICE_UNAVAILABLE);
        let grpc = says.as_grpc();
        assert_eq!(grpc.headers()[CODE], BELONGS_NOWHERE);
        assert!(says.text().ends_with("type: holdfast member add node-4=10.0.0.4:7610"), "{}", says.text());
    }
}
