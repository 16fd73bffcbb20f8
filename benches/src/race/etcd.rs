//! etcd: three members, and a client of its gRPC interface with so many puts in flight on one connection.
//!
//! - It answers when a majority has synced a put.
//! - Each put has a key of its own; the value is the message.
//! - Protocol: `KV.Put` of `rpc.proto`, package `etcdserverpb`. A request is two fields, an answer is not looked into.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::{BoxFuture, FutureExt, try_join_all};
use model::Clock as _;
use runtime::SystemClock;
use simulator::pusher::Content;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::rival::{self, Rival, Tally};
use super::{Client, Order, PAUSE, Racer};
use crate::push;
use crate::world::Bench;

const PROGRAM: &str = "etcd";
const PUT: &str = "/etcdserverpb.KV/Put";
const CONNECTING: Duration = Duration::from_millis(300);
/// Metrics are far shorter.
const METRICS_BYTES: u64 = 4 << 20;

pub(super) struct Etcd {
    rival: Rival,
    content: Content,
    /// Keys given so far.
    keys: Arc<AtomicU64>,
}

pub(super) fn version() -> anyhow::Result<String> {
    rival::version(PROGRAM)
}

impl Etcd {
    pub(super) async fn start(bench: &Bench) -> anyhow::Result<Self> {
        let program = rival::find(PROGRAM)?;
        let rival = Rival::start(bench, "race-etcd", |nodes, node| {
            let url = |address: SocketAddr| format!("http://{address}");
            let members: Vec<String> =
                nodes.iter().map(|node| format!("{}={}", node.name, url(node.peers))).collect();
            let mut command = Command::new(&program);
            command.arg("--name").arg(&node.name).arg("--data-dir").arg(&node.data);
            command.args(["--listen-client-urls", &url(node.api), "--advertise-client-urls", &url(node.api)]);
            command.args(["--listen-peer-urls", &url(node.peers)]);
            command.args(["--initial-advertise-peer-urls", &url(node.peers)]);
            command.args(["--initial-cluster", &members.join(","), "--initial-cluster-state", "new"]);
            Ok(command)
        })?;
        Ok(Self { rival, content: push::content(), keys: Arc::default() })
    }

    /// The node that says that it leads, if all say something.
    async fn find_leader(&self) -> anyhow::Result<Option<usize>> {
        let asked = try_join_all(self.rival.nodes.iter().map(|node| leads(node.api))).await?;
        Ok(asked.into_iter().position(|leads| leads))
    }
}

impl Racer for Etcd {
    fn leader(&self) -> BoxFuture<'_, anyhow::Result<usize>> {
        let found = move || async move { self.find_leader().await.ok().flatten() };
        self.rival.until("a leader", found).boxed()
    }

    fn client(&self, order: Order, stop: CancellationToken) -> anyhow::Result<Client> {
        let channel = |address: SocketAddr| -> anyhow::Result<Channel> {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
            Ok(endpoint.connect_timeout(CONNECTING).tcp_nodelay(true).connect_lazy())
        };
        let channels = self.rival.nodes.iter().map(|node| channel(node.api));
        let progress = Arc::<Tally>::default();
        let putter = Putter {
            channels: channels.collect::<anyhow::Result<_>>()?,
            order,
            content: self.content.clone(),
            keys: Arc::clone(&self.keys),
            tally: Arc::clone(&progress),
        };
        Ok(Client { progress, work: putter.run(stop).boxed() })
    }

    fn kill(&self, node: usize) -> BoxFuture<'_, anyhow::Result<()>> {
        self.rival.kill(node).boxed()
    }

    fn end(self: Box<Self>) -> BoxFuture<'static, anyhow::Result<()>> {
        self.rival.end().boxed()
    }
}

/// Whether a node leads, by its own metrics.
async fn leads(address: SocketAddr) -> anyhow::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    stream.take(METRICS_BYTES).read_to_string(&mut text).await?;
    let figure = text.lines().find_map(|line| line.strip_prefix("etcd_server_is_leader "));
    Ok(figure.context("it does not say whether it leads")? == "1")
}

/// A client that puts.
struct Putter {
    channels: Vec<Channel>,
    order: Order,
    content: Content,
    keys: Arc<AtomicU64>,
    tally: Arc<Tally>,
}

impl Putter {
    async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let all = try_join_all((0..self.order.window).map(|_| self.keep_putting()));
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = all => ended.map(drop),
        }
    }

    /// One put after the other, until one fails that should not.
    async fn keep_putting(&self) -> anyhow::Result<()> {
        let mut node = self.order.node;
        loop {
            let number = self.keys.fetch_add(1, Ordering::Relaxed);
            let value = self.content.encoded(number, SystemClock.now());
            let request = put_request(format!("race/{number:012}").as_bytes(), &value);
            let sent = Instant::now();
            while let Err(left) = self.put(node, request.clone()).await {
                if !self.order.goes_on {
                    return Err(left);
                }
                node = (node + 1) % self.channels.len();
                if node == self.order.node {
                    sleep(PAUSE).await;
                }
            }
            self.tally.acknowledge(sent.elapsed());
        }
    }

    async fn put(&self, node: usize, request: Bytes) -> anyhow::Result<()> {
        let mut client = Grpc::new(self.channels[node].clone());
        let asking = async {
            client.ready().await?;
            client.unary(Request::new(request), PathAndQuery::from_static(PUT), Encoded).await?;
            anyhow::Ok(())
        };
        timeout(self.order.patience(), asking).await.context("no acknowledgement in time")?
    }
}

/// `PutRequest { bytes key = 1; bytes value = 2; }`.
fn put_request(key: &[u8], value: &[u8]) -> Bytes {
    const LENGTH_DELIMITED: u8 = 2;
    // Number and kind of a field, and its length, take one byte and at most ten.
    let mut request = BytesMut::with_capacity(key.len() + value.len() + 22);
    for (number, field) in [(1, key), (2, value)] {
        request.put_u8((number << 3) | LENGTH_DELIMITED);
        let mut length = field.len();
        while length >= 0x80 {
            request.put_u8(length as u8 | 0x80);
            length >>= 7;
        }
        request.put_u8(length as u8);
        request.put_slice(field);
    }
    request.freeze()
}

/// Requests that are encoded already, and answers that nobody looks into.
#[derive(Debug, Clone, Copy)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, request: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&request);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        from.advance(from.remaining());
        Ok(Some(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_is_two_fields() {
        assert_eq!(&put_request(b"k", b"xyz")[..], b"\x0a\x01k\x12\x03xyz");
        let long = put_request(b"", &[7; 300]);
        assert_eq!(&long[..5], b"\x0a\x00\x12\xac\x02");
        assert_eq!(long.len(), 305);
    }
}
