//! The one place that opens sockets to peers, and the seam for TLS and for simulated networks.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A byte stream to a peer.
pub trait PeerIo: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> PeerIo for T {}

/// Opens byte streams to peers. The caller bounds the time.
#[tonic::async_trait]
pub trait Connector: Send + Sync + 'static {
    /// A new stream to `address` (`host:port`).
    async fn connect(&self, address: &str) -> io::Result<Box<dyn PeerIo>>;
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
}

#[tonic::async_trait]
impl Connector for TcpConnector {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn PeerIo>> {
        let stream = TcpStream::connect(address).await?;
        tune(&stream, self.user_timeout)?;
        Ok(Box::new(stream))
    }
}

/// Sets what both ends of a peer connection need.
pub(super) fn tune(stream: &TcpStream, user_timeout: Duration) -> io::Result<()> {
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
    use tokio::net::TcpListener;

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
