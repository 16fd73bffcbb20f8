//! The wires between the nodes: a small TCP relay, so that one can be cut without privileges.
//!
//! - One listener for each ordered pair of nodes: whoever dials it is known by the port it dials.
//! - A wire has two directions, and each can be cut alone. Bytes in a cut direction are neither carried nor refused:
//!   nobody is told, as with a pulled cable. When it is mended they arrive late, as after a retransmission.
//! - Bounded: 16 KiB for each direction of each connection; what is not carried stays with its sender.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::debug;

const BUFFER: usize = 16 * 1024;
/// An accept error (too many open files) passes by itself.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Carries what nodes say to each other, for as long as it lives.
#[derive(Debug)]
pub struct Relay {
    /// Where node `.0` dials node `.1`.
    addresses: Vec<((usize, usize), SocketAddr)>,
    wires: Wires,
    /// One task for each listener, which owns the tasks of its connections.
    _carrying: JoinSet<()>,
}

/// Which directions are whole. Cheap to clone.
#[derive(Debug, Clone)]
struct Wires {
    nodes: usize,
    /// By `from * nodes + to`.
    is_whole: Arc<[watch::Sender<bool>]>,
}

impl Relay {
    /// Opens a listener for each pair of nodes, given the addresses of their peer ports.
    pub async fn start(peers: &[SocketAddr]) -> io::Result<Self> {
        let nodes = peers.len();
        let is_whole = (0..nodes * nodes).map(|_| watch::Sender::new(true)).collect();
        let wires = Wires { nodes, is_whole };
        let mut addresses = Vec::new();
        let mut carrying = JoinSet::new();
        for from in 0..nodes {
            for to in (0..nodes).filter(|to| *to != from) {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                addresses.push(((from, to), listener.local_addr()?));
                let (target, pair) = (peers[to], wires.pair(from, to));
                carrying.spawn(carry_each(listener, move |near| carry(near, target, pair.clone())));
            }
        }
        Ok(Self { addresses, wires, _carrying: carrying })
    }

    /// Where node `from` dials node `to`.
    pub fn address(&self, from: usize, to: usize) -> Option<SocketAddr> {
        self.addresses.iter().find(|(pair, _)| *pair == (from, to)).map(|(_, address)| *address)
    }

    /// Cuts or mends what `from` says to `to`.
    pub fn set(&self, from: usize, to: usize, is_whole: bool) {
        self.wires.direction(from, to).send_replace(is_whole);
    }

    /// Cuts or mends everything between a node and its peers, both ways.
    pub fn set_all_of(&self, node: usize, is_whole: bool) {
        for peer in (0..self.wires.nodes).filter(|peer| *peer != node) {
            self.set(node, peer, is_whole);
            self.set(peer, node, is_whole);
        }
    }
}

impl Wires {
    fn direction(&self, from: usize, to: usize) -> &watch::Sender<bool> {
        &self.is_whole[from * self.nodes + to]
    }

    fn pair(&self, from: usize, to: usize) -> Pair {
        Pair { there: self.direction(from, to).subscribe(), back: self.direction(to, from).subscribe() }
    }
}

/// Both directions between the node that dialled and the other.
#[derive(Debug, Clone)]
struct Pair {
    there: watch::Receiver<bool>,
    back: watch::Receiver<bool>,
}

/// Accepts connections for ever, and has each carried. They end with this; what befalls one of them ends that one alone.
pub async fn carry_each<F>(listener: TcpListener, carry: impl Fn(TcpStream) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let carrying = carry(stream);
                connections.spawn(async move {
                    if let Err(error) = carrying.await {
                        debug!(%error, "a connection that was carried ended");
                    }
                });
            }
            Err(error) => {
                debug!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Carries one connection until either side ends it.
async fn carry(near: TcpStream, target: SocketAddr, mut pair: Pair) -> io::Result<()> {
    whole(&mut pair.there).await?;
    whole(&mut pair.back).await?;
    let far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    // The end of one direction ends both: peers never half-close.
    tokio::select! {
        ended = pump(near_read, far_write, pair.there) => ended,
        ended = pump(far_read, near_write, pair.back) => ended,
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut wire: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await?;
        // What was read just before the cut is on the wire, too; and so is the news that a side has ended.
        whole(&mut wire).await?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count]).await?;
    }
}

/// Waits until the direction is whole. An error once the relay is gone.
async fn whole(wire: &mut watch::Receiver<bool>) -> io::Result<()> {
    match wire.wait_for(|is_whole| *is_whole).await {
        Ok(_) => Ok(()),
        Err(_) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);
    /// Loopback carries a byte in microseconds; this is long enough to show that it did not come.
    const A_WHILE: Duration = Duration::from_millis(150);

    struct Line {
        relay: Relay,
        dialler: TcpStream,
        target: TcpStream,
    }

    /// Node 0 has dialled node 1, and each has heard the other.
    async fn connected() -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let unused = SocketAddr::from(([127, 0, 0, 1], 9));
        let peers = [unused, listener.local_addr().expect("bound")];
        let relay = Relay::start(&peers).await.expect("free ports");
        let mut dialler = TcpStream::connect(relay.address(0, 1).expect("a pair")).await.expect("it listens");
        let (mut target, _) = timeout(SOON, listener.accept()).await.expect("soon").expect("relayed");
        assert_eq!(say(&mut dialler, &mut target).await, Some(1));
        assert_eq!(say(&mut target, &mut dialler).await, Some(1));
        Line { relay, dialler, target }
    }

    /// One byte; how many arrived.
    async fn say(from: &mut TcpStream, to: &mut TcpStream) -> Option<usize> {
        from.write_all(b"x").await.expect("the kernel takes a byte");
        hear(to, SOON).await
    }

    async fn hear(to: &mut TcpStream, limit: Duration) -> Option<usize> {
        let mut buffer = [0; 8];
        timeout(limit, to.read(&mut buffer)).await.ok().map(|count| count.expect("the connection lives"))
    }

    #[tokio::test]
    async fn a_cut_wire_is_silent_both_ways_and_delivers_late_when_mended() {
        let mut line = connected().await;
        line.relay.set_all_of(1, false);
        line.dialler.write_all(b"ab").await.expect("taken");
        line.target.write_all(b"c").await.expect("taken");
        assert_eq!(hear(&mut line.target, A_WHILE).await, None);
        assert_eq!(hear(&mut line.dialler, A_WHILE).await, None);
        line.relay.set_all_of(1, true);
        assert_eq!(hear(&mut line.target, SOON).await, Some(2));
        assert_eq!(hear(&mut line.dialler, SOON).await, Some(1));
    }

    #[tokio::test]
    async fn one_direction_can_be_cut_alone() {
        let mut line = connected().await;
        line.relay.set(0, 1, false);
        line.dialler.write_all(b"a").await.expect("taken");
        assert_eq!(hear(&mut line.target, A_WHILE).await, None);
        assert_eq!(say(&mut line.target, &mut line.dialler).await, Some(1));
    }

    #[tokio::test]
    async fn an_end_is_passed_on() {
        let mut line = connected().await;
        drop(line.target);
        assert_eq!(hear(&mut line.dialler, SOON).await, Some(0));
    }

    #[tokio::test]
    async fn a_new_connection_over_a_cut_wire_reaches_nobody_until_it_is_mended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let peers = [SocketAddr::from(([127, 0, 0, 1], 9)), listener.local_addr().expect("bound")];
        let relay = Relay::start(&peers).await.expect("free ports");
        relay.set(1, 0, false);
        let _dialler = TcpStream::connect(relay.address(0, 1).expect("a pair")).await.expect("it listens");
        assert!(timeout(A_WHILE, listener.accept()).await.is_err(), "the answer could not come back");
        relay.set(1, 0, true);
        assert!(timeout(SOON, listener.accept()).await.is_ok());
    }
}
