//! NATS JetStream: one stream on file storage with three replicas, and a client of its text protocol.
//!
//! - It answers when a majority has taken a message, and syncs later: `sync_interval` is left as it is, two minutes.
//! - A message names the inbox of its acknowledgement, whose last part is the number of the message.
//! - Protocol: <https://docs.nats.io/reference/reference-protocols/nats-protocol>; what JetStream is asked:
//!   <https://docs.nats.io/reference/reference-protocols/nats_api_reference>.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use futures::future::{BoxFuture, FutureExt};
use model::Clock as _;
use rand::Rng;
use runtime::SystemClock;
use runtime::random::generator;
use serde::Deserialize;
use simulator::nodes::layout::{NodePlan, toml_text};
use simulator::pusher::Content;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::rival::{self, ASKING, Rival, Tally};
use super::{Client, Order, PAUSE, Racer};
use crate::push;
use crate::world::Bench;

const PROGRAM: &str = "nats-server";
const STREAM: &str = "RACE";
const SUBJECT: &str = "race";
const REPLICAS: usize = 3;
const HELLO: &str = r#"{"verbose":false,"pedantic":false,"lang":"rust","version":"0","protocol":1}"#;

pub(super) struct Nats {
    rival: Rival,
    content: Content,
}

pub(super) fn version() -> anyhow::Result<String> {
    rival::version(PROGRAM)
}

impl Nats {
    pub(super) async fn start(bench: &Bench) -> anyhow::Result<Self> {
        let program = rival::find(PROGRAM)?;
        let rival = Rival::start(bench, "race-nats", |nodes, node| {
            std::fs::write(&node.file, settings(nodes, node))?;
            let mut command = Command::new(&program);
            command.arg("-c").arg(&node.file);
            Ok(command)
        })?;
        Ok(Self { rival, content: push::content() })
    }

    /// Makes the stream, or finds it: the node that leads it, if all its replicas are up to date.
    async fn find_leader(&self) -> anyhow::Result<Option<usize>> {
        let request = serde_json::json!({
            "name": STREAM, "subjects": [SUBJECT], "retention": "limits", "storage": "file",
            "num_replicas": REPLICAS, "max_bytes": -1, "discard": "old",
        });
        let mut connection = Connection::open(self.rival.nodes[0].api).await?;
        let mut asking = BytesMut::new();
        let subject = format!("$JS.API.STREAM.CREATE.{STREAM}");
        publish(&mut asking, &subject, &connection.inbox, 0, request.to_string().as_bytes());
        connection.writer.write_all(&asking).await?;
        let answer = loop {
            if let Said::Message { body, .. } = connection.hear().await? {
                break body;
            }
        };
        Ok(leader_in(&answer)?.and_then(|name| self.rival.nodes.iter().position(|node| node.name == name)))
    }
}

impl Racer for Nats {
    fn leader(&self) -> BoxFuture<'_, anyhow::Result<usize>> {
        let found = move || async move { self.find_leader().await.ok().flatten() };
        self.rival.until("a stream with a leader", found).boxed()
    }

    fn client(&self, order: Order, stop: CancellationToken) -> anyhow::Result<Client> {
        let progress = Arc::<Tally>::default();
        let publisher = Publisher {
            addresses: self.rival.nodes.iter().map(|node| node.api).collect(),
            order,
            content: self.content.clone(),
            tally: Arc::clone(&progress),
            pending: BTreeMap::new(),
            published: 0,
        };
        Ok(Client { progress, work: publisher.run(stop).boxed() })
    }

    fn kill(&self, node: usize) -> BoxFuture<'_, anyhow::Result<()>> {
        self.rival.kill(node).boxed()
    }

    fn end(self: Box<Self>) -> BoxFuture<'static, anyhow::Result<()>> {
        self.rival.end().boxed()
    }
}

/// The file of a node. Its strings are written as those of TOML are.
fn settings(nodes: &[NodePlan], node: &NodePlan) -> String {
    let routes: Vec<String> = nodes.iter().map(|node| format!("\"nats://{}\"", node.peers)).collect();
    format!(
        "server_name: {}\nlisten: \"{}\"\njetstream {{\n  store_dir: {}\n}}\ncluster {{\n  name: \"race\"\n  \
         listen: \"{}\"\n  routes: [{}]\n}}\n",
        toml_text(&node.name),
        node.api,
        toml_text(&node.data.display().to_string()),
        node.peers,
        routes.join(", "),
    )
}

/// The answer to the question for a stream, as far as it matters.
#[derive(Debug, Deserialize)]
struct StreamAnswer {
    cluster: Option<StreamCluster>,
}

#[derive(Debug, Deserialize)]
struct StreamCluster {
    leader: Option<String>,
    #[serde(default)]
    replicas: Vec<StreamReplica>,
}

#[derive(Debug, Deserialize)]
struct StreamReplica {
    current: bool,
}

/// The name of the leader in an answer, if all replicas are there and up to date.
fn leader_in(answer: &[u8]) -> anyhow::Result<Option<String>> {
    let Some(cluster) = serde_json::from_slice::<StreamAnswer>(answer)?.cluster else { return Ok(None) };
    let is_whole =
        cluster.replicas.len() + 1 == REPLICAS && cluster.replicas.iter().all(|replica| replica.current);
    Ok(cluster.leader.filter(|_| is_whole))
}

/// A client that publishes.
struct Publisher {
    addresses: Vec<SocketAddr>,
    order: Order,
    content: Content,
    tally: Arc<Tally>,
    /// Messages without acknowledgement, and when each was first sent.
    pending: BTreeMap<u64, Instant>,
    published: u64,
}

impl Publisher {
    async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut node = self.order.node;
        loop {
            let Err(left) = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                left = self.publish_to(node) => left,
            };
            if !self.order.goes_on {
                return Err(left);
            }
            node = (node + 1) % self.addresses.len();
            if node == self.order.node {
                sleep(PAUSE).await;
            }
        }
    }

    /// Keeps the window full until the connection breaks.
    async fn publish_to(&mut self, node: usize) -> anyhow::Result<Infallible> {
        let opening = timeout(ASKING, Connection::open(self.addresses[node]));
        let Connection { mut reader, mut writer, mut incoming, inbox } =
            opening.await.context("no connection in time")??;
        let mut outgoing = BytesMut::new();
        self.publish_pending(&mut outgoing, &inbox);
        let mut wanted_by = Instant::now() + self.order.patience();
        loop {
            while self.pending.len() < self.order.window {
                self.published += 1;
                self.pending.insert(self.published, Instant::now());
                self.publish(&mut outgoing, &inbox, self.published);
            }
            tokio::select! {
                read = reader.read_buf(&mut incoming) => {
                    ensure!(read? > 0, "the node ended the connection");
                    while let Some(said) = Said::take(&mut incoming)? {
                        match said {
                            Said::Ping => outgoing.extend_from_slice(b"PONG\r\n"),
                            Said::Message { number, body } => if self.hear(number, &body)? {
                                wanted_by = Instant::now() + self.order.patience();
                            },
                            Said::Pong | Said::Other => {}
                        }
                    }
                }
                written = writer.write_buf(&mut outgoing), if !outgoing.is_empty() => {
                    ensure!(written? > 0, "the node takes no more");
                }
                () = sleep_until(wanted_by) => {
                    ensure!(self.order.goes_on, "no acknowledgement in time");
                    // What still waits here need not be sent again.
                    if outgoing.is_empty() {
                        self.publish_pending(&mut outgoing, &inbox);
                    }
                    wanted_by = Instant::now() + self.order.patience();
                }
            }
        }
    }

    fn publish_pending(&self, outgoing: &mut BytesMut, inbox: &str) {
        for number in self.pending.keys() {
            self.publish(outgoing, inbox, *number);
        }
    }

    /// A message is made when it is sent, as all clients do.
    fn publish(&self, outgoing: &mut BytesMut, inbox: &str, number: u64) {
        let payload = self.content.encoded(number, SystemClock.now());
        publish(outgoing, SUBJECT, inbox, number, &payload);
    }

    /// Whether this acknowledges a message that had no acknowledgement.
    fn hear(&mut self, number: u64, body: &[u8]) -> anyhow::Result<bool> {
        if body.starts_with(br#"{"error""#) {
            ensure!(self.order.goes_on, "refused: {}", String::from_utf8_lossy(body));
            return Ok(false);
        }
        let sent = self.pending.remove(&number);
        if let Some(sent) = sent {
            self.tally.acknowledge(sent.elapsed());
        }
        Ok(sent.is_some())
    }
}

/// A connection that has subscribed to its inbox.
struct Connection {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    incoming: BytesMut,
    inbox: String,
}

impl Connection {
    async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let inbox = format!("_INBOX.{:016x}", generator(None).random::<u64>());
        let mut connection = Self { reader, writer, incoming: BytesMut::new(), inbox };
        let hello = format!("CONNECT {HELLO}\r\nSUB {}.* 1\r\nPING\r\n", connection.inbox);
        connection.writer.write_all(hello.as_bytes()).await?;
        while connection.hear().await? != Said::Pong {}
        Ok(connection)
    }

    async fn hear(&mut self) -> anyhow::Result<Said> {
        loop {
            if let Some(said) = Said::take(&mut self.incoming)? {
                return Ok(said);
            }
            ensure!(self.reader.read_buf(&mut self.incoming).await? > 0, "the node ended the connection");
        }
    }
}

/// Writes a message whose acknowledgement comes to a part of the inbox.
fn publish(outgoing: &mut BytesMut, subject: &str, inbox: &str, number: u64, payload: &[u8]) {
    // There is always room in memory.
    let _ = write!(outgoing, "PUB {subject} {inbox}.{number} {}\r\n", payload.len());
    outgoing.extend_from_slice(payload);
    outgoing.extend_from_slice(b"\r\n");
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Ping,
    Pong,
    /// To a part of the inbox.
    Message {
        number: u64,
        body: Bytes,
    },
    Other,
}

impl Said {
    /// Takes the first thing out of what has arrived, if it is whole.
    fn take(incoming: &mut BytesMut) -> anyhow::Result<Option<Self>> {
        let Some(end) = incoming.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let line = std::str::from_utf8(&incoming[..end]).context("a line is no text")?;
        let mut words = line.split_ascii_whitespace();
        let said = match words.next().unwrap_or_default() {
            "PING" => Self::Ping,
            "PONG" => Self::Pong,
            "INFO" | "+OK" => Self::Other,
            "MSG" => {
                let number = words.next().and_then(|inbox| inbox.rsplit('.').next()?.parse::<u64>().ok());
                let length = words.next_back().and_then(|length| length.parse::<usize>().ok());
                let (Some(number), Some(length)) = (number, length) else { bail!("not understood: {line}") };
                let from = end + 2;
                if incoming.len() < from + length + 2 {
                    return Ok(None);
                }
                incoming.advance(from);
                let body = incoming.split_to(length).freeze();
                incoming.advance(2);
                return Ok(Some(Self::Message { number, body }));
            }
            _ => bail!("the node says: {line}"),
        };
        incoming.advance(end + 2);
        Ok(Some(said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_understood_however_it_is_cut() {
        let text =
            b"INFO {\"a\":1} \r\nPING\r\nMSG _INBOX.a.17 1  26\r\n{\"stream\":\"RACE\", \"seq\":1}\r\n\
                     MSG _INBOX.a.18 1 from.here 2\r\n\r\n\r\nPONG\r\n";
        let mut incoming = BytesMut::new();
        let mut seen = Vec::new();
        for byte in text {
            incoming.extend_from_slice(&[*byte]);
            seen.extend(Said::take(&mut incoming).expect("it is understood"));
        }
        let message = |number, body: &'static [u8]| Said::Message { number, body: Bytes::from_static(body) };
        let acknowledgement = message(17, br#"{"stream":"RACE", "seq":1}"#);
        assert_eq!(seen, [Said::Other, Said::Ping, acknowledgement, message(18, b"\r\n"), Said::Pong]);
        assert!(incoming.is_empty());
        assert!(Said::take(&mut BytesMut::from(&b"-ERR 'Authorization Violation'\r\n"[..])).is_err());
    }

    #[test]
    fn a_message_names_the_inbox_of_its_acknowledgement() {
        let mut outgoing = BytesMut::new();
        publish(&mut outgoing, "race", "_INBOX.a", 7, b"xyz");
        assert_eq!(&outgoing[..], b"PUB race _INBOX.a.7 3\r\nxyz\r\n");
    }

    #[test]
    fn a_stream_has_a_leader_once_all_its_replicas_are_up_to_date() {
        let answer = |second: bool| {
            let replicas = serde_json::json!([{"name": "node-1", "current": true, "active": 1, "lag": 1},
                                              {"name": "node-3", "current": second}]);
            let cluster = serde_json::json!({"name": "race", "leader": "node-2", "replicas": replicas});
            serde_json::json!({"type": "t", "cluster": cluster, "did_create": true}).to_string()
        };
        let leader = |text: &str| leader_in(text.as_bytes()).expect("it is JSON");
        assert_eq!(leader(&answer(true)).as_deref(), Some("node-2"));
        assert_eq!(leader(&answer(false)), None);
        assert_eq!(leader(r#"{"type":"t","error":{"code":503,"description":"no suitable peers"}}"#), None);
    }
}
