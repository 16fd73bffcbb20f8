//! The one thing that a node says which cannot take part: on its API to every call, on its health listener, and to its
//! service manager.
//!
//! - It answers nothing else: there is no ledger, no leader and nobody to forward to.
//! - `/healthz` is well: the process serves, and starting it again would help nobody.
//! - The listeners' sockets are shared with what may come later, so that no port is closed in between.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use runtime::Spawner;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::metadata::MetadataValue;

use crate::admin::CODE;
use crate::security::Security;
use crate::systemd::Herald;

/// Where it is said.
pub(crate) struct Boards<'a> {
    pub(crate) admin: &'a TcpListener,
    pub(crate) health: Option<&'a TcpListener>,
    pub(crate) herald: &'a Herald,
}

/// What is said. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Notice {
    /// The code of the error.
    code: &'static str,
    /// What follows it; it may change.
    text: Arc<dyn Fn() -> String + Send + Sync>,
}

impl Notice {
    pub(crate) fn new(code: &'static str, text: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { code, text: Arc::new(text) }
    }

    /// The text, with its code.
    pub(crate) fn text(&self) -> String {
        format!("{}: {}", self.code, (self.text)())
    }

    fn as_grpc(&self) -> Response {
        let mut status = Status::failed_precondition(self.text());
        status.metadata_mut().insert(CODE, MetadataValue::from_static(self.code));
        status.into_http::<axum::body::Body>()
    }

    fn as_http(&self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, self.text() + "\n").into_response()
    }
}

/// Answers until the token returned is cancelled.
pub(crate) fn serve(
    notice: Notice,
    boards: Boards<'_>,
    security: &Security,
    spawner: &Spawner,
) -> io::Result<CancellationToken> {
    boards.herald.stands_apart(notice.clone());
    let stop = spawner.token().child_token();
    let (api, said) = (share(boards.admin)?, notice.clone());
    let router = Router::new().fallback(move || std::future::ready(said.as_grpc()));
    let routes = tonic::service::Routes::from(router);
    let incoming = security.clone().callers(api);
    let until = stop.clone().cancelled_owned();
    spawner.spawn("notice on the api", async move {
        tonic::transport::Server::builder()
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, until)
            .await
    });
    if let Some(health) = boards.health {
        let health = share(health)?;
        let router = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .fallback(move || std::future::ready(notice.as_http()));
        let until = stop.clone().cancelled_owned();
        spawner.spawn("notice on the health listener", async move {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_bears_its_code_wherever_it_is_read() {
        let notice = Notice::new("HF-3109", || "node-4 belongs to no cluster yet".to_owned());
        assert_eq!(notice.as_http().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(notice.as_grpc().headers()[CODE], "HF-3109");
        assert_eq!(notice.text(), "HF-3109: node-4 belongs to no cluster yet");
    }
}
