//! One connection to one peer: made when needed, one attempt at a time, replaced when it breaks.
//!
//! - An attempt has its own deadline and goes on when the caller that caused it gives up: a heartbeat's patience is
//!   far shorter than a handshake may take.
//! - While a peer is down, calls fail at once for a short pause; the first call after it causes the next attempt.
//! - A connection is handed out only after `Hello` has shown who answers there. It never reconnects by itself, so
//!   nobody else can stand at its far end later.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use model::{Clock, Member, NodeId};
use openraft::AsyncRuntime;
use openraft::errors::{NetworkError, RPCError, StreamingError, Unreachable};
use runtime::Spawner;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use wire::proto::peer as pb;
use wire::proto::peer::peer_client::PeerClient;

use super::connector::{ConnectError, Connector, PeerIo};
use super::convert::{self, Malformed};
use super::identity::{Identity, Target};
use super::refusal::Refusal;
use super::table::{Exchange, PeerTable};
use super::{MAX_MESSAGE, NetworkOptions, PeerEvent, PeerEvents};
use crate::type_config::TypeConfig;

/// HTTP/2 windows: a snapshot and appends side by side must fill a gigabit link at 20 ms.
pub(super) const STREAM_WINDOW: u32 = 4 << 20;
pub(super) const CONNECTION_WINDOW: u32 = 16 << 20;

/// What the calling side is made of, and all links of a node share.
pub(crate) struct NetworkParts {
    /// Who we are, now and later.
    pub(crate) identity: watch::Receiver<Identity>,
    /// Opens byte streams.
    pub(crate) connector: Arc<dyn Connector>,
    /// Times and bounds.
    pub(crate) options: NetworkOptions,
    /// Where what peers say is kept.
    pub(crate) table: PeerTable,
    /// Where alarming news goes.
    pub(crate) events: PeerEvents,
    /// Our wall clock, compared with that of peers.
    pub(crate) clock: Arc<dyn Clock>,
    /// Runs attempts to connect; on Raft's runtime.
    pub(crate) spawner: Spawner,
}

/// Why a call gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallFailure {
    /// No connection, or no answer in time.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The connection or the stream broke; another may be made at once.
    #[error("broken: {0}")]
    Broken(String),
    /// Refused, by the peer or by us.
    #[error("refused ({refusal}): {detail}")]
    Refused {
        /// Why.
        refusal: Refusal,
        /// For people.
        detail: String,
    },
}

impl CallFailure {
    pub(super) fn late(what: &str) -> Self {
        Self::Unreachable(format!("{what}: no answer in time"))
    }

    pub(super) fn refused(refusal: Refusal) -> Self {
        Self::Refused { refusal, detail: refusal.to_string() }
    }

    /// What a status means. A deadline that the server noticed first is a deadline all the same.
    pub(super) fn of(status: &Status) -> Self {
        let detail = explain(status);
        match (Refusal::of(status), status.code()) {
            (Some(refusal), _) => Self::Refused { refusal, detail },
            (None, Code::DeadlineExceeded) => Self::Unreachable(detail),
            (None, _) => Self::Broken(detail),
        }
    }

    /// openraft's view: back off, unless a connection broke that stood.
    pub(super) fn into_rpc<RT: AsyncRuntime>(self) -> RPCError<TypeConfig<RT>> {
        match self {
            Self::Broken(_) => NetworkError::new(&self).into(),
            _ => Unreachable::new(&self).into(),
        }
    }

    /// The same for snapshots.
    pub(super) fn into_streaming<RT: AsyncRuntime>(self) -> StreamingError<TypeConfig<RT>> {
        self.into_rpc::<RT>().into()
    }
}

impl From<Malformed> for CallFailure {
    fn from(malformed: Malformed) -> Self {
        Self::Refused { refusal: Refusal::Malformed, detail: malformed.to_string() }
    }
}

/// A status with the causes below it, which name the socket error.
fn explain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A connection that answered `Hello` as it should.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: PeerClient<Channel>,
    number: u64,
}

enum State {
    Idle,
    Connecting,
    Up(Connection),
    Down { until: Instant, failure: CallFailure },
}

/// One connection to one peer.
pub(super) struct Link {
    context: Arc<NetworkParts>,
    target: Target,
    name: String,
    address: String,
    state: Arc<watch::Sender<State>>,
    connections: Arc<AtomicU64>,
}

impl Link {
    /// A link without a connection; nothing is sent.
    pub(super) fn new(context: Arc<NetworkParts>, node: NodeId, member: &Member) -> Self {
        Self {
            context,
            target: Target { node, store: member.store },
            name: member.name.clone(),
            address: member.address.clone(),
            state: Arc::new(watch::Sender::new(State::Idle)),
            connections: Arc::new(AtomicU64::new(0)),
        }
    }

    /// The connection, made first where there is none.
    pub(super) async fn connection(&self, deadline: Instant) -> Result<Connection, CallFailure> {
        let mut changes = self.state.subscribe();
        loop {
            let mut answer = None;
            let mut start = false;
            self.state.send_if_modified(|state| {
                match state {
                    State::Up(connection) => answer = Some(Ok(connection.clone())),
                    State::Connecting => {}
                    State::Down { until, failure } if Instant::now() < *until => {
                        answer = Some(Err(failure.clone()))
                    }
                    State::Idle | State::Down { .. } => {
                        *state = State::Connecting;
                        start = true;
                    }
                }
                start
            });
            if let Some(answer) = answer {
                return answer;
            }
            if start {
                self.start_attempt();
            }
            match timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(CallFailure::late("connect")),
            }
        }
    }

    /// Sends one call with a deadline for everything, the connection included.
    pub(super) async fn call<M, T, F>(
        &self,
        message: M,
        patience: Duration,
        send: impl FnOnce(PeerClient<Channel>, Request<M>) -> F,
    ) -> Result<T, CallFailure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let patience = patience * if runtime::mutant("call-has-no-deadline") { 10_000 } else { 1 };
        let deadline = Instant::now() + patience;
        let connection = self.connection(deadline).await?;
        let mut request = Request::new(message);
        // So that the peer stops as well. Doubled, because the timer that this sets on our side, too, must not ring
        // before ours: it reads like a broken connection.
        request.set_timeout(deadline.duration_since(Instant::now()) * 2);
        match timeout_at(deadline, send(connection.client.clone(), request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failed(&connection, &status)),
            Err(_) => Err(self.gave_up(CallFailure::late("call"))),
        }
    }

    /// The same for what may be said twice: if the connection turns out to be broken, once more on a new one. A follower uses
    /// it seldom, and nobody notices before when it breaks.
    pub(super) async fn call_again<M: Clone, T, F>(
        &self,
        message: M,
        patience: Duration,
        send: impl FnOnce(PeerClient<Channel>, Request<M>) -> F + Copy,
    ) -> Result<T, CallFailure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + patience;
        match self.call(message.clone(), patience, send).await {
            Err(CallFailure::Broken(_)) => {
                self.call(message, deadline.saturating_duration_since(Instant::now()), send).await
            }
            outcome => outcome,
        }
    }

    /// A call on `connection` failed with `status`: notes it and says what it means.
    pub(super) fn failed(&self, connection: &Connection, status: &Status) -> CallFailure {
        let failure = CallFailure::of(status);
        // Statuses that the peer sent have no source; those made on our side say that the connection broke.
        let broken = std::error::Error::source(status).is_some();
        if broken && !matches!(failure, CallFailure::Refused { .. }) {
            self.state.send_if_modified(|state| {
                let ours = matches!(state, State::Up(current) if current.number == connection.number);
                if ours {
                    *state = State::Idle;
                }
                ours
            });
        }
        self.gave_up(failure)
    }

    /// Notes a failure in the peer table.
    pub(super) fn gave_up(&self, failure: CallFailure) -> CallFailure {
        self.context.note(self.target.node, &failure);
        failure
    }

    fn start_attempt(&self) {
        let attempt = Attempt {
            context: self.context.clone(),
            target: self.target,
            name: self.name.clone(),
            address: self.address.clone(),
            state: self.state.clone(),
            number: self.connections.fetch_add(1, Ordering::Relaxed),
            done: false,
        };
        let name = format!("connect to node {}", self.target.node);
        self.context.spawner.spawn(name, async move {
            attempt.run().await;
            Ok::<(), CallFailure>(())
        });
    }
}

impl NetworkParts {
    fn note(&self, node: NodeId, failure: &CallFailure) {
        match failure {
            CallFailure::Refused { refusal, .. } => {
                if self.table.refused(node, *refusal) && refusal.is_lasting() {
                    self.events.report(PeerEvent::Refused { node, refusal: *refusal });
                }
            }
            CallFailure::Unreachable(reason) | CallFailure::Broken(reason) => {
                self.table.unreachable(node, reason, self.options.stall_limit);
            }
        }
    }

    /// Connects to whoever answers at `address` and introduces us; the answer is checked against `expected`.
    pub(super) async fn establish(
        &self,
        address: &str,
        expected: Target,
    ) -> Result<(PeerClient<Channel>, Introduced), CallFailure> {
        self.establish_with(address, None, expected).await
    }

    /// The same where the member `name` should answer.
    async fn establish_with(
        &self,
        address: &str,
        name: Option<&str>,
        expected: Target,
    ) -> Result<(PeerClient<Channel>, Introduced), CallFailure> {
        let connection = self.connector.connect(address, name).await.map_err(|error| match error {
            ConnectError::Io(error) => CallFailure::Unreachable(format!("{address}: {error}")),
            ConnectError::Refused { refusal, detail } => {
                CallFailure::Refused { refusal, detail: format!("{address}: {detail}") }
            }
        })?;
        let channel = self.channel(connection.io).await?;
        let mut client = PeerClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let me = self.identity.borrow().clone();
        let request = pb::HelloRequest {
            introduction: Some(me.to_proto()),
            target: expected.node.0,
            target_store: convert::id_to_bytes(expected.store.as_bytes()),
        };
        let (sent, started) = (self.clock.now(), Instant::now());
        let answer = client.hello(request).await.map_err(|status| CallFailure::of(&status))?.into_inner();
        let theirs = convert::timestamp_from_bits(answer.clock);
        let exchange = Exchange { sent, theirs, round_trip: started.elapsed() };
        let identity = Identity::from_proto(answer.introduction)?;
        me.check_introduction(&identity, expected).map_err(CallFailure::refused)?;
        identity.check_name(connection.proven.as_deref()).map_err(CallFailure::refused)?;
        Ok((client, Introduced { identity, exchange, free_bytes: answer.free_bytes }))
    }

    /// HTTP/2 on an open stream, for as long as that stream lives and no longer.
    async fn channel(&self, io: Box<dyn PeerIo>) -> Result<Channel, CallFailure> {
        let mut only = Some(TokioIo::new(io));
        let connector = tower::service_fn(move |_| {
            let io = only.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
            std::future::ready(io)
        });
        // The connector knows where to; HTTP/2 only wants a name.
        Endpoint::from_static("http://peer.holdfast.internal")
            .http2_keep_alive_interval(self.options.keep_alive_interval)
            .keep_alive_timeout(self.options.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .connect_with_connector(connector)
            .await
            .map_err(|error| CallFailure::Unreachable(error.to_string()))
    }
}

/// What a handshake gave.
pub(super) struct Introduced {
    pub(super) identity: Identity,
    pub(super) exchange: Exchange,
    pub(super) free_bytes: u64,
}

/// One attempt to connect.
struct Attempt {
    context: Arc<NetworkParts>,
    target: Target,
    name: String,
    address: String,
    state: Arc<watch::Sender<State>>,
    number: u64,
    done: bool,
}

impl Attempt {
    async fn run(mut self) {
        let context = self.context.clone();
        let options = &context.options;
        let name = Some(self.name.as_str()).filter(|name| !name.is_empty());
        let work = timeout(options.connect_timeout, context.establish_with(&self.address, name, self.target));
        let outcome = tokio::select! {
            outcome = work => outcome.unwrap_or_else(|_| Err(CallFailure::late(&self.address))),
            () = context.spawner.token().cancelled() => return,
        };
        match outcome {
            Ok((client, peer)) => {
                let node = self.target.node;
                tracing::debug!(%node, address = self.address, "connected to peer");
                context.table.met(node, peer.identity, peer.exchange, peer.free_bytes);
                self.finish(State::Up(Connection { client, number: self.number }));
            }
            Err(failure) => {
                context.note(self.target.node, &failure);
                // Nothing changes by asking again at once where a person must act.
                let lasting =
                    matches!(&failure, CallFailure::Refused { refusal, .. } if refusal.is_lasting());
                let pause = if lasting { options.retry_pause * 10 } else { options.retry_pause };
                self.finish(State::Down { until: Instant::now() + pause, failure });
            }
        }
    }

    fn finish(&mut self, state: State) {
        self.done = true;
        self.state.send_replace(state);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.done {
            self.state.send_replace(State::Idle);
        }
    }
}
