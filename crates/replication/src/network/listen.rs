//! The listening end of the peer port: connections that were accepted, and the HTTP/2 server on them.
//!
//! - A connection brings the name that its peer has proven: the [`Acceptor`] has established TLS before it comes here.
//! - It remembers how its peer introduced itself: whether that is a member may be known only later.
//! - Handshakes run side by side, so many at once and each in so much time: one that stands still holds up nobody.
//! - When the server has stopped, no connection stands any more: a peer notices at once.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt};
use openraft::AsyncRuntime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Extensions;
use tonic::transport::server::Connected;
use wire::proto::peer::peer_server::PeerServer;

use super::MAX_MESSAGE;
use super::connector::{Acceptor, Arrival, Listener, PeerConnection, PeerIo};
use super::identity::{Identity, Sender};
use super::link::{CONNECTION_WINDOW, STREAM_WINDOW};
use super::server::PeerService;

/// How long calls in progress may go on after the server was told to stop.
const GRACE: Duration = Duration::from_millis(500);
/// Calls at once on one connection; a peer needs a handful.
const CALLS: u32 = 256;

/// Handshakes at once. A cluster has a handful of peers; the rest are strangers.
const HANDSHAKES: usize = 64;
/// How long a handshake may take. A peer gives its own end up sooner.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// How long nobody is accepted after accepting failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection that was accepted: plain, or TLS already established.
pub(crate) struct Accepted {
    io: Box<dyn PeerIo>,
    far_end: FarEnd,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Who stands at the far end of a connection. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct FarEnd {
    proven: Option<String>,
    introduction: Arc<OnceLock<Identity>>,
}

impl FarEnd {
    /// The name that its certificate proves, where there is one.
    pub(super) fn proven(&self) -> Option<&str> {
        self.proven.as_deref()
    }

    /// It introduced itself. `true` the first time, which counts.
    pub(super) fn introduced(&self, introduction: Identity) -> bool {
        self.introduction.set(introduction).is_ok()
    }

    /// How it introduced itself, if it is `sender`.
    pub(super) fn introduction_of(&self, sender: Sender) -> Option<&Identity> {
        self.introduction.get().filter(|peer| (peer.node, peer.store) == (sender.node, sender.store))
    }

    pub(super) fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }
}

impl Accepted {
    /// A connection that lives until its peer or [`serve`] ends it.
    pub(crate) fn new(connection: PeerConnection) -> Self {
        let never = CancellationToken::new();
        let PeerConnection { io, proven } = connection;
        let far_end = FarEnd { proven, ..FarEnd::default() };
        Self { io, far_end, cut: Box::pin(never.cancelled_owned()) }
    }
}

impl Connected for Accepted {
    type ConnectInfo = FarEnd;

    fn connect_info(&self) -> FarEnd {
        self.far_end.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut this.io).poll_read(cx, into)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Accepts connections for [`serve`]. An error of one connection does not end the stream.
pub(crate) fn accept_peers(
    listener: Box<dyn Listener>,
    user_timeout: Duration,
    acceptor: Arc<dyn Acceptor>,
) -> impl Stream<Item = io::Result<Accepted>> {
    let handshakes = sockets(listener, user_timeout).map(move |arrival| {
        let acceptor = Arc::clone(&acceptor);
        async move { timeout(HANDSHAKE_LIMIT, acceptor.accept(arrival)).await }
    });
    handshakes.buffer_unordered(HANDSHAKES).filter_map(async |accepted| match accepted {
        Ok(Ok(connection)) => Some(Ok(Accepted::new(connection))),
        Ok(Err(error)) => {
            tracing::debug!(%error, "peer connection not let in");
            None
        }
        Err(_) => {
            tracing::debug!("peer connection given up during its handshake");
            None
        }
    })
}

fn sockets(listener: Box<dyn Listener>, user_timeout: Duration) -> impl Stream<Item = Arrival> {
    futures::stream::unfold(listener, move |listener| async move {
        loop {
            match listener.accept(user_timeout).await {
                Ok(arrival) => return Some((arrival, listener)),
                Err(error) => {
                    tracing::warn!(%error, "peer connection not accepted");
                    // Out of file descriptors: trying again at once would only burn the processor.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// Answers peers on `incoming` until `stop`; afterwards no connection stands any more.
pub(crate) async fn serve<RT: AsyncRuntime>(
    service: PeerService<RT>,
    incoming: impl Stream<Item = io::Result<Accepted>> + Send,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let options = service.options().clone();
    let cut = CancellationToken::new();
    // Cut as well if this future is dropped.
    let _cut_on_drop = cut.clone().drop_guard();
    let incoming = incoming.map(|accepted| {
        accepted.map(|accepted| Accepted { cut: Box::pin(cut.clone().cancelled_owned()), ..accepted })
    });
    let server = PeerServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let (begin, told) = oneshot::channel::<()>();
    let serving = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(options.keep_alive_interval))
        .http2_keepalive_timeout(Some(options.keep_alive_timeout))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(CALLS)
        .add_service(server)
        .serve_with_incoming_shutdown(incoming, told.map(|_| ()));
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = stop => drop(begin),
    }
    // Streams of a leader do not end by themselves.
    match timeout(GRACE, serving).await {
        Ok(ended) => ended,
        Err(_) => Ok(()),
    }
}
