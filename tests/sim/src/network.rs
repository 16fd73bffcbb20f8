//! The peer network of a simulated cluster: turmoil's streams behind the seams of `replication`.
//!
//! - Whoever is not reached is refused at once: turmoil drops a request to connect that a partition is in the way of.
//! - Nothing is sent again: bytes that a partition took leave a connection that stands still, as a broken wire does,
//!   until the pings of HTTP/2 give it up.

use std::io;
use std::time::Duration;

use replication::{Arrival, ConnectError, Connector, Listener, PeerConnection};
use turmoil::net::{TcpListener, TcpStream};

/// Where every machine listens for its peers.
pub(crate) const PORT: u16 = 7610;

/// The address of a machine, as node files have it.
pub(crate) fn address(machine: &str) -> String {
    format!("{machine}:{PORT}")
}

/// Connects to other machines.
pub(crate) struct SimConnector;

#[tonic::async_trait]
impl Connector for SimConnector {
    async fn connect(&self, address: &str, _: Option<&str>) -> Result<PeerConnection, ConnectError> {
        let unknown = || io::Error::from(io::ErrorKind::NotFound);
        let (machine, port) = address.rsplit_once(':').ok_or_else(unknown)?;
        let port: u16 = port.parse().map_err(|_| unknown())?;
        Ok(PeerConnection::plain(TcpStream::connect((machine, port)).await?))
    }
}

/// The peer port of one machine.
pub(crate) struct SimListener(TcpListener);

impl SimListener {
    pub(crate) async fn bind() -> io::Result<Self> {
        Ok(Self(TcpListener::bind(("0.0.0.0", PORT)).await?))
    }
}

#[tonic::async_trait]
impl Listener for SimListener {
    async fn accept(&self, _: Duration) -> io::Result<Arrival> {
        let (stream, from) = self.0.accept().await?;
        Ok(Arrival { io: Box::new(stream), from: Some(from.ip()) })
    }
}
