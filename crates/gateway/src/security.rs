//! Who is talked to, and how: TLS on the peer port and the API, or plaintext where the node file says so.
//!
//! - Handshakes run side by side, so many at once and each in so much time; whoever was let in must begin to speak.
//! - Who was refused is said once, not for each attempt.
//! - The files are looked at every so often and at SIGHUP; new ones serve new connections, bad ones change nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use hyper_util::rt::TokioIo;
use model::Clock as _;
use replication::{Acceptor, Arrival, ConnectError, Connector, PeerConnection, Refusal, TcpConnector};
use runtime::SystemClock;
use tls::{Keeper, Prompt, Standing, Subject, Wrong, explain, greeted};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};
use tracing::{debug, error, info, warn};

use crate::admin::CERTIFICATE_LIMIT;

/// Handshakes of callers at once; the rest wait in the kernel.
const HANDSHAKES: usize = 256;
/// How long a handshake may take, and then the first bytes.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The same refusal is said again after this.
const SAY_AGAIN: Duration = Duration::from_secs(600);
/// While a call on a connection to the API waits for its answer, the far end is pinged this often, …
const PING_EVERY: Duration = Duration::from_secs(5);
/// … and given up if it has not answered that within this time: a long deadline is for those who live.
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// How long nobody is accepted after accepting failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Refusals said in that time: whoever knocks from everywhere does not fill the log.
const MAX_SAID: usize = 64;

/// Says whom the node lets in. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Security {
    /// None: plaintext.
    keeper: Option<Keeper>,
    said: Arc<Mutex<Said>>,
    /// Peers by name, and where they were found.
    met: Arc<Mutex<BTreeMap<String, String>>>,
}

/// What was said, and when.
type Said = BTreeMap<String, Instant>;

impl Security {
    /// TLS with what `keeper` keeps, or plaintext.
    pub(crate) fn new(keeper: Option<Keeper>) -> Self {
        Self { keeper, said: Arc::default(), met: Arc::default() }
    }

    /// What is in use, if this is TLS.
    pub(crate) fn keeper(&self) -> Option<&Keeper> {
        self.keeper.as_ref()
    }

    /// Opens connections to peers over `tcp`.
    pub(crate) fn connector(&self, tcp: TcpConnector) -> SecureConnector {
        SecureConnector { tcp, security: self.clone() }
    }

    /// Lets peers in.
    pub(crate) fn acceptor(&self) -> Arc<dyn Acceptor> {
        Arc::new(SecureAcceptor(self.clone()))
    }

    /// The callers of the API. An error of one connection does not end the stream.
    pub(crate) fn callers(self, listener: TcpListener) -> impl Stream<Item = Result<Caller, Infallible>> {
        let handshakes = sockets(listener).map(move |stream| {
            let security = self.clone();
            async move { timeout(PATIENCE, security.let_in(stream)).await.ok().flatten() }
        });
        handshakes.buffer_unordered(HANDSHAKES).filter_map(async |caller| caller.map(Ok))
    }

    async fn let_in(&self, stream: TcpStream) -> Option<Caller> {
        let Some(keeper) = &self.keeper else {
            return Some(Caller { io: Box::new(Prompt::new(stream, PATIENCE)), identity: None });
        };
        let from = stream.peer_addr().map(|address| address.ip().to_string()).unwrap_or_default();
        match keeper.accept_caller(stream).await {
            Ok((io, subject)) => {
                Some(Caller { io: Box::new(Prompt::new(io, PATIENCE)), identity: Some(subject) })
            }
            Err(error) => {
                self.say("a caller of the API was not let in", &from, &error);
                None
            }
        }
    }

    /// Says who was refused, unless that was said a moment ago.
    fn say(&self, what: &str, who: &str, refused: &io::Error) {
        // Without a word of TLS it was only a connection that broke.
        let Some(reason) = explain(refused) else { return };
        let text = format!("{what}: {who}: {reason}");
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|_, at| at.elapsed() < SAY_AGAIN);
        if said.len() < MAX_SAID && !said.contains_key(&text) {
            warn!("HF-1210: {text}");
            said.insert(text, Instant::now());
        }
    }

    /// Shakes hands with the peers whose certificates will end soon, and does no more: connections last for weeks, and a
    /// renewed certificate is seen on a new one only.
    async fn look_at_ending(&self, keeper: &Keeper) {
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let soon = SystemClock.now().plus(CERTIFICATE_LIMIT);
        for dates in keeper.certificates().into_iter().filter(|dates| dates.standing(soon) != Standing::Valid)
        {
            let Some(address) = met.get(&dates.name) else { continue };
            let shaking = async {
                let stream = TcpStream::connect(address).await?;
                keeper.connect_peer(stream, Some(&dates.name)).await.map(drop)
            };
            if let Ok(Err(error)) = timeout(PATIENCE, shaking).await {
                debug!(peer = dates.name, %error, "the certificate was not seen again");
            }
        }
    }

    /// Looks at the files every so often, and at SIGHUP; and again at certificates that will end soon.
    pub(crate) async fn follow_files(self, stop: CancellationToken) -> io::Result<()> {
        let mut hang_up = signal(SignalKind::hangup())?;
        let Some(keeper) = self.keeper.clone() else {
            // Asked to read certificates where there are none: nothing to do, and no reason to end.
            while stop.run_until_cancelled(hang_up.recv()).await.is_some() {}
            return Ok(());
        };
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut complained = Vec::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = hang_up.recv() => complained.clear(),
                () = stop.cancelled() => return Ok(()),
            }
            let reading = keeper.clone();
            match tokio::task::spawn_blocking(move || reading.reload()).await.map_err(io::Error::other)? {
                Ok(changed) => {
                    if changed {
                        info!("new certificates are in use for new connections");
                    }
                    complained.clear();
                }
                Err(problems) if problems != complained => {
                    for problem in &problems {
                        error!("{problem}; the certificates read before stay in use");
                    }
                    complained = problems;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = self.look_at_ending(&keeper) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }
}

/// Opens connections to peers, and knows who answered.
#[derive(Debug, Clone)]
pub(crate) struct SecureConnector {
    tcp: TcpConnector,
    security: Security,
}

#[tonic::async_trait]
impl Connector for SecureConnector {
    async fn connect(&self, address: &str, name: Option<&str>) -> Result<PeerConnection, ConnectError> {
        let Some(keeper) = &self.security.keeper else { return self.tcp.connect(address, name).await };
        let stream = self.tcp.open(address).await?;
        let opening = async {
            let (io, proven) = keeper.connect_peer(stream, name).await?;
            Ok((greeted(io).await?, proven))
        };
        match opening.await {
            Ok((io, proven)) => {
                let mut met = self.security.met.lock().unwrap_or_else(PoisonError::into_inner);
                met.insert(proven.clone(), address.to_owned());
                Ok(PeerConnection { io: Box::new(io), proven: Some(proven) })
            }
            Err(error) => {
                self.security.say("a peer was not talked to", address, &error);
                Err(refused(error))
            }
        }
    }
}

/// What a failed handshake is to the peer network: whoever proves to be somebody else is refused, as after `Hello`.
fn refused(error: io::Error) -> ConnectError {
    let refusal = match Keeper::objection(&error) {
        Some(Wrong::Cluster { .. }) => Refusal::WrongCluster,
        Some(Wrong::Name { .. }) => Refusal::WrongName,
        Some(Wrong::NoSubject | Wrong::NotANode(_)) => Refusal::Untrusted,
        None if Keeper::is_refusal(&error) => Refusal::Untrusted,
        None => {
            let reason = explain(&error).unwrap_or_else(|| error.to_string());
            return ConnectError::Io(io::Error::new(error.kind(), reason));
        }
    };
    let detail = explain(&error).unwrap_or_else(|| error.to_string());
    ConnectError::Refused { refusal, detail }
}

struct SecureAcceptor(Security);

#[tonic::async_trait]
impl Acceptor for SecureAcceptor {
    async fn accept(&self, arrival: Arrival) -> io::Result<PeerConnection> {
        let Some(keeper) = &self.0.keeper else {
            return Ok(PeerConnection::plain(Prompt::new(arrival.io, PATIENCE)));
        };
        let from = arrival.from.map(|address| address.to_string()).unwrap_or_default();
        match keeper.accept_peer(arrival.io).await {
            Ok((io, name)) => {
                Ok(PeerConnection { io: Box::new(Prompt::new(io, PATIENCE)), proven: Some(name) })
            }
            Err(error) => {
                self.0.say("a peer was not let in", &from, &error);
                Err(error)
            }
        }
    }
}

/// Connects to the API of a node, `host:port`: over TLS with what `keeper` keeps, or in plaintext. A node that dies breaks
/// the calls that wait for it, whatever their deadlines are.
pub async fn connect_api(
    keeper: Option<Keeper>,
    address: &str,
    tune: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| reason_of(&error))?;
    let endpoint = endpoint.tcp_nodelay(true);
    let endpoint = tune(endpoint.http2_keep_alive_interval(PING_EVERY).keep_alive_timeout(PONG_WITHIN));
    let Some(keeper) = keeper else { return endpoint.connect().await.map_err(|error| reason_of(&error)) };
    let address: Arc<str> = address.into();
    let connector = tower::service_fn(move |_| {
        let (keeper, address) = (keeper.clone(), Arc::clone(&address));
        async move {
            let stream = TcpStream::connect(&*address).await?;
            stream.set_nodelay(true)?;
            let (stream, _) = keeper.connect_api(stream).await?;
            Ok::<_, io::Error>(TokioIo::new(greeted(stream).await?))
        }
    });
    endpoint.connect_with_connector(connector).await.map_err(|error| reason_of(&error))
}

/// Why a connection failed or broke: what TLS says, else the deepest cause.
pub fn reason_of(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(reason) = explain(error) {
        return reason;
    }
    let mut deepest: &dyn std::error::Error = error;
    while let Some(deeper) = deepest.source() {
        deepest = deeper;
    }
    deepest.to_string()
}

fn sockets(listener: TcpListener) -> impl Stream<Item = TcpStream> {
    futures::stream::unfold(listener, async |listener| {
        loop {
            match listener.accept().await.and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream)) {
                Ok(stream) => return Some((stream, listener)),
                Err(error) => {
                    warn!(%error, "a connection to the API was not accepted");
                    // Out of file descriptors: trying again at once would only burn the processor.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// A connection to the API.
pub(crate) struct Caller {
    io: Box<dyn ApiIo>,
    identity: Option<Subject>,
}

/// A byte stream of the API.
trait ApiIo: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> ApiIo for T {}

/// Whom a connection to the API has proven to be; nobody in plaintext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity(pub(crate) Option<Subject>);

impl Connected for Caller {
    type ConnectInfo = Identity;

    fn connect_info(&self) -> Identity {
        Identity(self.identity.clone())
    }
}

impl AsyncRead for Caller {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl AsyncWrite for Caller {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
