//! How a connection to a field device is made.
//!
//! The seam between the driver and the network below it: a [`Dialler`] gives streams of bytes, and [`Origin`] is the one
//! that has sockets. Every connection that it makes:
//! - is closed hard: lingering is off from the start, so that however it ends, whatever is unsent is discarded and
//!   the device sees a reset at once. Many devices bear only a few connections and keep a dead one for minutes;
//! - sends small frames at once, and notices a peer that has vanished, while idle and while sending.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;

use crate::driver::Silence;

/// Where a device listens; devices behind the same one share a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct HostPort {
    pub(super) host: String,
    pub(super) port: u16,
}

/// A connection to a device: bytes in both directions. It ends by being dropped, and the device notices that at once. What
/// is written leaves at once, and nothing later: the permit is asked where it is written.
pub trait DeviceStream: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin + 'static> DeviceStream for S {}

/// A connection being made.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn DeviceStream>, Silence>> + Send + 'a>>;

/// Makes connections to devices.
pub trait Dialler: fmt::Debug + Send + Sync + 'static {
    /// Connects within `cap` (name resolution included). Sends nothing. Dropping the future gives up.
    fn dial<'a>(&'a self, host: &'a str, port: u16, cap: Duration) -> Dialling<'a>;
}

/// Sockets of this machine, and what connections to devices are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Origin {
    /// Their local address, where it is not the system's choice.
    pub bind: Option<IpAddr>,
    /// The mark of what they send, for packet filters of this machine; Linux only, and only with CAP_NET_ADMIN.
    pub mark: Option<u32>,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Dialler for Origin {
    fn dial<'a>(&'a self, host: &'a str, port: u16, cap: Duration) -> Dialling<'a> {
        Box::pin(async move {
            match timeout(cap, try_addresses((host, port), *self, cap)).await {
                Ok(outcome) => Ok(Box::new(outcome?) as Box<dyn DeviceStream>),
                Err(_elapsed) => Err(Silence::ConnectTimeout { after: cap }),
            }
        })
    }
}

async fn try_addresses(to: (&str, u16), origin: Origin, cap: Duration) -> Result<TcpStream, Silence> {
    let addresses =
        lookup_host(to).await.map_err(|error| Silence::UnknownHost { reason: error.to_string() })?;
    let mut last =
        Silence::UnknownHost { reason: "no address of the family of the local address".to_owned() };
    let is_of_family =
        |address: &SocketAddr| origin.bind.is_none_or(|bind| bind.is_ipv4() == address.is_ipv4());
    for address in addresses.filter(is_of_family) {
        match connect(address, origin, cap).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Silence::Unreachable { reason: format!("{address}: {error}") },
        }
    }
    Err(last)
}

async fn connect(address: SocketAddr, origin: Origin, cap: Duration) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    socket.set_zero_linger()?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(3));
    SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
    limit_unacknowledged(&socket, cap)?;
    if let Some(mark) = origin.mark {
        set_mark(&socket, mark)?;
    }
    if let Some(bind) = origin.bind {
        socket.bind(SocketAddr::new(bind, 0))?;
    }
    socket.connect(address).await
}

#[cfg(target_os = "linux")]
fn set_mark(socket: &TcpSocket, mark: u32) -> io::Result<()> {
    SockRef::from(socket).set_mark(mark)
}

/// Not offered here, and nothing is sent without it.
#[cfg(not(target_os = "linux"))]
fn set_mark(_socket: &TcpSocket, _mark: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The kernel gives up a connection whose bytes stay unacknowledged for the response cap, so that nothing is
/// retransmitted long after the request has failed.
#[cfg(target_os = "linux")]
fn limit_unacknowledged(socket: &TcpSocket, cap: Duration) -> io::Result<()> {
    SockRef::from(socket).set_tcp_user_timeout(Some(cap))
}

/// Not offered here; the response cap closes the socket all the same.
#[cfg(not(target_os = "linux"))]
fn limit_unacknowledged(_socket: &TcpSocket, _cap: Duration) -> io::Result<()> {
    Ok(())
}
