//! Where sockets become connections to peers, at both ends: the seam for TLS and for simulated networks.
//!
//! A connection brings the name that its far end has proven; a plain one has proven nothing.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use super::refusal::Refusal;

/// A byte stream to a peer.
pub trait PeerIo: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> PeerIo for T {}

/// A connection to a peer.
pub struct PeerConnection {
    /// Its bytes.
    pub io: Box<dyn PeerIo>,
    /// The name that the far end has proven, where it has proven one.
    pub proven: Option<String>,
}

impl PeerConnection {
    /// A connection on which nothing is proven.
    pub fn plain(io: impl PeerIo) -> Self {
        Self { io: Box::new(io), proven: None }
    }
}

impl fmt::Debug for PeerConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerConnection").field("proven", &self.proven).finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody was reached, or nobody who speaks as expected.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Whoever answers there is not who was meant.
    #[error("{detail}")]
    Refused {
        /// Why.
        refusal: Refusal,
        /// For people.
        detail: String,
    },
}

/// Opens connections to peers. The caller bounds the time.
#[tonic::async_trait]
pub trait Connector: Send + Sync + 'static {
    /// A new connection to `address` (`host:port`), where the member `name` should answer; or anybody of the cluster.
    async fn connect(&self, address: &str, name: Option<&str>) -> Result<PeerConnection, ConnectError>;
}

/// A socket on which nothing was said yet.
pub struct Arrival {
    /// Its bytes.
    pub io: Box<dyn PeerIo>,
    /// Where it comes from, where that is known.
    pub from: Option<IpAddr>,
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("from", &self.from).finish_non_exhaustive()
    }
}

/// The peer port, bound.
#[tonic::async_trait]
pub trait Listener: Send + Sync + 'static {
    /// The next socket. It is given up when the far end acknowledges nothing for `user_timeout`.
    async fn accept(&self, user_timeout: Duration) -> io::Result<Arrival>;
}

#[tonic::async_trait]
impl Listener for TcpListener {
    async fn accept(&self, user_timeout: Duration) -> io::Result<Arrival> {
        let (stream, address) = TcpListener::accept(self).await?;
        tune(&stream, user_timeout)?;
        Ok(Arrival { io: Box::new(stream), from: Some(address.ip()) })
    }
}

/// Makes connections of accepted sockets. The caller bounds the time.
#[tonic::async_trait]
pub trait Acceptor: Send + Sync + 'static {
    /// Lets a peer in, or not; the reason is told by the acceptor.
    async fn accept(&self, arrival: Arrival) -> io::Result<PeerConnection>;
}

/// Lets everybody in, and proves nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainAcceptor;

#[tonic::async_trait]
impl Acceptor for PlainAcceptor {
    async fn accept(&self, arrival: Arrival) -> io::Result<PeerConnection> {
        Ok(PeerConnection { io: arrival.io, proven: None })
    }
}

/// Plain TCP: no delay, and unacknowledged bytes give the connection up after `user_timeout` (RFC 5482).
#[derive(Debug, Clone)]
pub struct TcpConnector {
    user_timeout: Duration,
}

impl TcpConnector {
    /// A connector whose connections break when the peer's kernel acknowledges nothing for `user_timeout`.
    pub fn new(user_timeout: Duration) -> Self {
        Self { user_timeout }
    }

    /// A new stream to `address` (`host:port`).
    pub async fn open(&self, address: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        tune(&stream, self.user_timeout)?;
        Ok(stream)
    }
}

#[tonic::async_trait]
impl Connector for TcpConnector {
    async fn connect(&self, address: &str, _: Option<&str>) -> Result<PeerConnection, ConnectError> {
        Ok(PeerConnection::plain(self.open(address).await?))
    }
}

/// Sets what both ends of a peer connection need.
fn tune(stream: &TcpStream, user_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    set_user_timeout(stream, user_timeout)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn set_user_timeout(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(timeout))
}

/// Elsewhere HTTP/2 pings alone find a dead peer.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn set_user_timeout(_stream: &TcpStream, _timeout: Duration) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_options_are_set_on_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let stream = TcpStream::connect(address).await.expect("the listener is there");
        tune(&stream, Duration::from_millis(700)).expect("both options are known");
        assert!(stream.nodelay().expect("readable"));
        #[cfg(target_os = "linux")]
        assert_eq!(
            socket2::SockRef::from(&stream).tcp_user_timeout().expect("readable"),
            Some(Duration::from_millis(700))
        );
    }
}
