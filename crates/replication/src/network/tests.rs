//! Client and server against each other on loopback, with everything that can stand between them.

#![allow(clippy::disallowed_methods, reason = "a test is the end that everything it spawned comes to")]

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use model::{Member, NodeId, Position, StoreId, Term};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError};
use openraft::network::{NetSnapshot, NetStreamAppend, NetVote, RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EntryPayload, StoredMembership};
use openraft_rt_tokio::TokioRuntime;
use runtime::{Spawner, Supervisor, SystemClock};
use store::Outcome;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::client::PeerNetwork;
use super::identity::tests::identity;
use super::*;
use crate::type_config::{Entry, LogId, Payload, TypeConfig, Vote};

type C = TypeConfig<TokioRuntime>;
type Append = AppendEntriesRequest<C>;
type AppendResult = StreamAppendResult<C>;

/// No test waits longer for what must happen.
const SOON: Duration = Duration::from_secs(10);
const TTL: Duration = Duration::from_secs(4);

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(term.into(), index)
}

fn last_of(request: &Append) -> Option<LogId> {
    request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id)
}

/// Entries (`previous`, `last`] of term 3, each with `bytes` bytes.
fn append(previous: u64, last: u64, bytes: usize) -> Append {
    let payload = || EntryPayload::Normal(Payload(Bytes::from(vec![7; bytes])));
    let entries = (previous + 1..=last).map(|index| Entry { log_id: log_id(3, index), payload: payload() });
    AppendEntriesRequest {
        vote: Vote::new_committed(3, 1),
        prev_log_id: Some(log_id(3, previous)),
        entries: entries.collect(),
        leader_commit: None,
    }
}

/// How a test node answers appends.
type AnswerAppend = Arc<dyn Fn(Append) -> BoxFuture<'static, AppendResult> + Send + Sync>;
type AnswerProposal = Box<dyn Fn(Bytes) -> BoxFuture<'static, Result<Applied, ProposeError>> + Send + Sync>;

/// What stands behind a peer port in tests.
struct Handler {
    members: BTreeMap<u64, Member>,
    knows_members: AtomicBool,
    removed: Vec<u64>,
    amnesic: AtomicBool,
    may_vote: AtomicBool,
    disk_full: AtomicBool,
    snapshot_fits: AtomicU64,
    votes: AtomicUsize,
    vote_hangs: AtomicBool,
    appends: Arc<Mutex<Vec<Append>>>,
    answer: AnswerAppend,
    answer_proposal: AnswerProposal,
    staging: tempfile::TempDir,
    installed: Mutex<Vec<(SnapshotMeta, Vec<u8>)>>,
    /// An installation ends only while this holds.
    installs_end: watch::Sender<bool>,
}

impl Handler {
    fn new() -> Self {
        Self {
            members: BTreeMap::new(),
            knows_members: AtomicBool::new(true),
            removed: Vec::new(),
            amnesic: AtomicBool::new(false),
            may_vote: AtomicBool::new(true),
            disk_full: AtomicBool::new(false),
            snapshot_fits: AtomicU64::new(u64::MAX),
            votes: AtomicUsize::new(0),
            vote_hangs: AtomicBool::new(false),
            appends: Arc::default(),
            answer: Arc::new(|request| std::future::ready(Ok(last_of(&request))).boxed()),
            answer_proposal: Box::new(|_| {
                std::future::ready(Err(ProposeError::NotLeader { leader: None })).boxed()
            }),
            staging: tempfile::tempdir().expect("a folder"),
            installed: Mutex::default(),
            installs_end: watch::Sender::new(true),
        }
    }

    fn answering(
        answer: impl Fn(Append) -> BoxFuture<'static, AppendResult> + Send + Sync + 'static,
    ) -> Self {
        Self { answer: Arc::new(answer), ..Self::new() }
    }

    fn installed(&self) -> usize {
        self.installed.lock().expect("no panic").len()
    }
}

#[tonic::async_trait]
impl PeerHandler<TokioRuntime> for Handler {
    fn member(&self, node: NodeId) -> Option<Member> {
        self.members.get(&node.0).filter(|_| self.knows_members.load(Ordering::Relaxed)).cloned()
    }

    fn was_removed(&self, node: NodeId) -> bool {
        self.removed.contains(&node.0)
    }

    fn place(&self, asker: &Identity) -> Place {
        let known = self.members.iter().find(|(_, member)| member.store == asker.store);
        Place { node: NodeId(known.map_or(0, |(node, _)| *node)), members: self.members.clone() }
    }

    fn free_bytes(&self) -> u64 {
        1 << 30
    }

    fn is_amnesic(&self) -> bool {
        self.amnesic.load(Ordering::Relaxed)
    }

    fn may_vote(&self) -> bool {
        self.may_vote.load(Ordering::Relaxed)
    }

    fn may_append(&self) -> Result<(), Refusal> {
        if self.disk_full.load(Ordering::Relaxed) { Err(Refusal::DiskFull) } else { Ok(()) }
    }

    fn may_install(&self, bytes: u64) -> Result<(), Refusal> {
        if bytes > self.snapshot_fits.load(Ordering::Relaxed) { Err(Refusal::DiskFull) } else { Ok(()) }
    }

    fn staging(&self) -> &Path {
        self.staging.path()
    }

    fn append(
        &self,
        requests: BoxStream<'static, Append>,
    ) -> BoxStream<'static, Result<AppendResult, Stopped>> {
        // Like openraft: requests are taken in at once, answers are given in order and end with a refusal.
        let (answer, appends) = (self.answer.clone(), self.appends.clone());
        let (taken, answers) = mpsc::channel(64);
        let mut requests = requests;
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                appends.lock().expect("no panic").push(request.clone());
                if taken.send(answer(request)).await.is_err() {
                    break;
                }
            }
        });
        let answers = ReceiverStream::new(answers).then(|answer| answer);
        let until_refused = answers.scan(false, |over, answer| {
            let before = std::mem::replace(over, answer.is_err());
            std::future::ready((!before).then_some(Ok(answer)))
        });
        until_refused.boxed()
    }

    async fn vote(&self, request: VoteRequest<C>) -> Result<VoteResponse<C>, Stopped> {
        self.votes.fetch_add(1, Ordering::Relaxed);
        if self.vote_hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        Ok(VoteResponse::new(request.vote, None, true))
    }

    async fn pre_vote(&self, request: VoteRequest<C>) -> Result<VoteResponse<C>, Stopped> {
        self.vote(request).await
    }

    async fn transfer_leader(
        &self,
        _: TransferLeaderRequest<C>,
    ) -> Result<TransferLeaderResponse<C>, Stopped> {
        Ok(Ok(()))
    }

    async fn install_snapshot(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        file: SnapshotFile,
    ) -> Result<Vote, Refusal> {
        let SnapshotFile::Path(path) = file else { panic!("what arrives is staged in a file") };
        let content = std::fs::read(path).expect("staged");
        self.installed.lock().expect("no panic").push((meta, content));
        self.installs_end.subscribe().wait_for(|ends| *ends).await.expect("the sender is here");
        Ok(vote)
    }

    fn propose(&self, command: Bytes, _: Duration) -> BoxFuture<'static, Result<Applied, ProposeError>> {
        (self.answer_proposal)(command)
    }
}

/// Lets everybody in, as if they had proven this name.
struct Proving(Option<&'static str>);

#[tonic::async_trait]
impl Acceptor for Proving {
    async fn accept(&self, arrival: Arrival) -> io::Result<PeerConnection> {
        Ok(PeerConnection { io: arrival.io, proven: self.0.map(str::to_owned) })
    }
}

/// A peer port in this process.
struct Node {
    handler: Arc<Handler>,
    table: PeerTable,
    address: SocketAddr,
    stop: CancellationToken,
    stopped: tokio::task::JoinHandle<()>,
}

impl Node {
    async fn start(node: u64, handler: Handler) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::start_on(listener, identity(node), Arc::new(handler), None)
    }

    fn start_on(
        listener: TcpListener,
        me: Identity,
        handler: Arc<Handler>,
        proven: Option<&'static str>,
    ) -> Self {
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let (supervisor, spawner) = Supervisor::new();
        let table = PeerTable::new();
        let service = PeerService::new(ServiceParts {
            handler: handler.clone(),
            identity: watch::Sender::new(me).subscribe(),
            table: table.clone(),
            clock: Arc::new(SystemClock),
            options: NetworkOptions::for_lease(Duration::from_millis(500)),
            spawner,
        });
        let until = stop.clone();
        let stopped = tokio::spawn(async move {
            let user_timeout = Duration::from_millis(500);
            let acceptor = Arc::new(Proving(proven));
            let incoming = accept_peers(Box::new(listener), user_timeout, acceptor);
            serve(service, incoming, until.cancelled()).await.expect("serving");
            supervisor.shut_down(SOON).await;
        });
        Self { handler, table, address, stop, stopped }
    }

    fn member(&self, node: u64) -> Member {
        member_at(node, &self.address.to_string())
    }

    async fn kill(self) -> SocketAddr {
        self.stop.cancel();
        timeout(SOON, self.stopped).await.expect("stops in time").expect("no panic");
        self.address
    }
}

fn member_at(node: u64, address: &str) -> Member {
    Member {
        name: format!("gateway-{node}"),
        address: address.to_owned(),
        store: StoreId::from(u128::from(node)),
        ..Member::default()
    }
}

/// The calling side of node 1.
struct Caller {
    network: PeerNetworkFactory<TokioRuntime>,
    table: PeerTable,
    events: Arc<Mutex<Vec<PeerEvent>>>,
    spawner: Spawner,
    _supervisor: Supervisor,
    connector: Arc<Counting>,
}

impl Caller {
    fn new() -> Self {
        Self::with(|_| (), Spoil::Nothing)
    }

    fn with(change: impl FnOnce(&mut NetworkOptions), spoil: Spoil) -> Self {
        let (supervisor, spawner) = Supervisor::new();
        let (table, events) = (PeerTable::new(), Arc::<Mutex<Vec<PeerEvent>>>::default());
        let mut options = NetworkOptions::for_lease(Duration::from_millis(500));
        change(&mut options);
        let connector = Arc::new(Counting {
            tcp: TcpConnector::new(Duration::from_millis(500)),
            attempts: AtomicUsize::new(0),
            spoil,
        });
        let seen = events.clone();
        let network = PeerNetworkFactory::new(NetworkParts {
            identity: watch::Sender::new(identity(1)).subscribe(),
            connector: connector.clone(),
            options,
            table: table.clone(),
            events: PeerEvents::new(move |event| seen.lock().expect("no panic").push(event)),
            clock: Arc::new(SystemClock),
            spawner: spawner.clone(),
        });
        Self { network, table, events, spawner, _supervisor: supervisor, connector }
    }

    async fn client(&self, node: u64, member: &Member) -> PeerNetwork<TokioRuntime> {
        self.network.clone().new_client(node, member).await
    }

    async fn vote(&self, node: u64, member: &Member, ttl: Duration) -> Result<VoteResponse<C>, RPCError<C>> {
        let request = VoteRequest::new(Vote::new(4, 1), None);
        self.client(node, member).await.vote(request, RPCOption::new(ttl)).await
    }

    async fn heartbeat(&self, node: u64, member: &Member) -> Result<AppendResult, RPCError<C>> {
        let mut client = self.network.clone().new_heartbeat_client(node, member).await;
        let request = futures::stream::iter([append(5, 5, 0)]);
        let mut answers = client.stream_append(request, RPCOption::new(TTL)).await?;
        answers.next().await.expect("one answer for one request")
    }

    fn events(&self) -> Vec<PeerEvent> {
        self.events.lock().expect("no panic").clone()
    }

    fn attempts(&self) -> usize {
        self.connector.attempts.load(Ordering::Relaxed)
    }

    fn standing(&self, node: u64) -> Option<PeerStanding> {
        self.table.get(NodeId(node)).map(|peer| peer.standing)
    }
}

/// What happens to bytes on their way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoil {
    Nothing,
    /// One byte in the middle of the first long run of equal bytes is changed.
    OneByteOfARun,
}

/// Counts attempts to connect, and spoils what is sent.
struct Counting {
    tcp: TcpConnector,
    attempts: AtomicUsize,
    spoil: Spoil,
}

#[tonic::async_trait]
impl Connector for Counting {
    async fn connect(&self, address: &str, name: Option<&str>) -> Result<PeerConnection, ConnectError> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let PeerConnection { io, .. } = self.tcp.connect(address, name).await?;
        Ok(match self.spoil {
            Spoil::Nothing => PeerConnection { io, proven: None },
            Spoil::OneByteOfARun => PeerConnection::plain(Spoiling { io, done: false }),
        })
    }
}

struct Spoiling {
    io: Box<dyn PeerIo>,
    done: bool,
}

impl AsyncRead for Spoiling {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl AsyncWrite for Spoiling {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        const RUN: usize = 512;
        let run = bytes.windows(RUN).position(|run| run.iter().all(|byte| *byte == 0x5A));
        let Some(at) = run.filter(|_| !self.done) else {
            return Pin::new(&mut self.io).poll_write(cx, bytes);
        };
        let mut spoilt = bytes.to_vec();
        spoilt[at + RUN / 2] ^= 1;
        let written = Pin::new(&mut self.io).poll_write(cx, &spoilt);
        if let Poll::Ready(Ok(written)) = &written {
            self.done = *written > at + RUN / 2;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.unwrap_or_else(|_| panic!("expected within {SOON:?}: {what}"))
}

/// Polls until `condition` holds.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    soon(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

fn assert_unreachable<T: std::fmt::Debug>(result: &Result<T, RPCError<C>>) {
    assert!(matches!(result, Err(RPCError::Unreachable(_))), "expected Unreachable, found {result:?}");
}

mod appends;
mod calls;
mod forwarding;
mod snapshots;
