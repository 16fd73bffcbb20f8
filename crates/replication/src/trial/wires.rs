//! The links between the nodes of a trial: loopback connections, each direction of which can be cut.
//!
//! - A cut direction delivers nothing and says nothing; what was under way arrives when it is healed, if the connection
//!   still stands then.
//! - A node that is unplugged loses all its connections; others that connect to it are refused until it is plugged in.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::network::{ConnectError, Connector, PeerConnection};

/// How often a cut direction is looked at.
const LOOK: Duration = Duration::from_millis(1);

/// All links of a cluster.
#[derive(Default)]
pub(super) struct Wires {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sockets: BTreeMap<String, (u64, SocketAddr)>,
    cut: BTreeSet<(u64, u64)>,
    /// How often each node has tried to connect where.
    dialled: BTreeMap<(u64, String), usize>,
    /// How often each node was unplugged.
    unplugged: BTreeMap<u64, u64>,
}

impl State {
    fn plugs(&self, from: u64, to: u64) -> (u64, u64) {
        let of = |node| self.unplugged.get(&node).copied().unwrap_or(0);
        (of(from), of(to))
    }
}

impl Wires {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it is held")
    }

    /// Where a node listens.
    pub(super) fn plug_in(&self, node: u64, address: &str, socket: SocketAddr) {
        self.state().sockets.insert(address.to_owned(), (node, socket));
    }

    /// Breaks all connections of a node.
    pub(super) fn unplug(&self, node: u64) {
        let mut state = self.state();
        state.sockets.retain(|_, (of, _)| *of != node);
        *state.unplugged.entry(node).or_default() += 1;
    }

    /// Cuts or heals the direction from one node to another.
    pub(super) fn cut(&self, from: u64, to: u64, cut: bool) {
        let mut state = self.state();
        if cut {
            state.cut.insert((from, to))
        } else {
            state.cut.remove(&(from, to))
        };
    }

    /// How often a node has tried to connect to an address.
    pub(super) fn dialled(&self, from: u64, address: &str) -> usize {
        self.state().dialled.get(&(from, address.to_owned())).copied().unwrap_or(0)
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.state().cut.contains(&(from, to))
    }
}

/// Connects one node to the others.
pub(super) struct Wire {
    from: u64,
    wires: Arc<Wires>,
}

impl Wire {
    pub(super) fn of(node: u64, wires: &Arc<Wires>) -> Self {
        Self { from: node, wires: Arc::clone(wires) }
    }
}

#[tonic::async_trait]
impl Connector for Wire {
    async fn connect(&self, address: &str, _: Option<&str>) -> Result<PeerConnection, ConnectError> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        *self.wires.state().dialled.entry((self.from, address.to_owned())).or_default() += 1;
        let (to, socket) = self.wires.state().sockets.get(address).copied().ok_or_else(refused)?;
        // A handshake needs both directions.
        while self.wires.is_cut(self.from, to) || self.wires.is_cut(to, self.from) {
            sleep(LOOK).await;
        }
        let plugs = self.wires.state().plugs(self.from, to);
        let stream = TcpStream::connect(socket).await?;
        stream.set_nodelay(true)?;
        let pause = || Box::pin(sleep(Duration::ZERO));
        let wires = Arc::clone(&self.wires);
        Ok(PeerConnection::plain(Line {
            stream,
            from: self.from,
            to,
            plugs,
            wires,
            reading: pause(),
            writing: pause(),
        }))
    }
}

/// One connection, at the end of the node that made it.
struct Line {
    stream: TcpStream,
    from: u64,
    to: u64,
    plugs: (u64, u64),
    wires: Arc<Wires>,
    reading: Pin<Box<Sleep>>,
    writing: Pin<Box<Sleep>>,
}

impl Line {
    /// Ready when bytes pass from one node to the other.
    fn passes(&mut self, cx: &mut Context<'_>, outwards: bool) -> Poll<io::Result<()>> {
        let (from, to) = if outwards { (self.from, self.to) } else { (self.to, self.from) };
        let pause = if outwards { &mut self.writing } else { &mut self.reading };
        loop {
            let state = self.wires.state();
            if state.plugs(self.from, self.to) != self.plugs {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if !state.cut.contains(&(from, to)) {
                return Poll::Ready(Ok(()));
            }
            drop(state);
            ready!(pause.as_mut().poll(cx));
            pause.as_mut().reset(Instant::now() + LOOK);
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.passes(cx, false))?;
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.passes(cx, true))?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
