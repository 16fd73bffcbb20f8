//! The calling side: what openraft uses to reach peers.
//!
//! - A client made by the factory is a handle: it never connects by itself, and all clients of one peer share its
//!   two links, with whoever keeps these warm. A member whose address or store changed gets new links.
//! - Errors are openraft's classes: `Unreachable` (back off) for everything that will not pass at once, `Network`
//!   for a connection that broke and may be replaced.
//! - A failed pre-vote is a failure, never a grant.
//! - Votes and transfers may take all the time that openraft gives them: whoever is asked waits for its disk, and a try that
//!   is given up costs a hand-over its order. All other calls end before openraft drops them, so that the table learns
//!   whom they did not reach.

use std::collections::BTreeMap;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt};
use model::{Member, NodeId};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{AsyncRuntime, OptionalSend};
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use wire::proto::peer as pb;
use wire::proto::peer::peer_client::PeerClient;

use super::identity::{Identity, Target};
use super::link::{CallFailure, Link, NetworkParts};
use super::refusal::Refusal;
use super::snapshot::{self, SnapshotFile};
use super::table::Exchange;
use super::tripwire::Tripwire;
use super::{PeerEvent, append, convert};
use crate::type_config::{TypeConfig, Vote};

/// One peer: its links, and what it acknowledged.
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) context: Arc<NetworkParts>,
    pub(super) bulk: Link,
    control: Link,
    member: Member,
    tripwire: Mutex<Tripwire>,
}

impl Peer {
    pub(super) fn target(&self) -> Target {
        Target { node: self.node, store: self.member.store }
    }

    pub(super) fn envelope(&self) -> pb::Envelope {
        self.context.identity.borrow().envelope(self.target())
    }

    /// Fails while the follower is known to have lost what it acknowledged.
    pub(super) fn check_tripwire(&self) -> Result<(), CallFailure> {
        let tripwire = self.tripwire.lock().unwrap_or_else(PoisonError::into_inner);
        tripwire.check().map_err(|loss| CallFailure::Unreachable(loss.to_string()))
    }

    /// Shows a result to the tripwire before openraft sees it.
    pub(super) fn watch_result<RT: AsyncRuntime>(
        &self,
        vote: &Vote,
        result: &StreamAppendResult<TypeConfig<RT>>,
    ) -> Result<(), CallFailure> {
        let mut tripwire = self.tripwire.lock().unwrap_or_else(PoisonError::into_inner);
        let tripped = match result {
            Ok(matching) => {
                tripwire.acknowledged(vote, *matching);
                return Ok(());
            }
            Err(StreamAppendError::HigherVote(_)) => return Ok(()),
            Err(StreamAppendError::Conflict(at)) => tripwire.conflict(vote, at),
        };
        drop(tripwire);
        tripped.map_err(|tripped| {
            if tripped.first {
                let (acknowledged, conflict) = (tripped.loss.acknowledged, tripped.loss.conflict);
                self.context.events.report(PeerEvent::LogShortened {
                    node: self.node,
                    acknowledged,
                    conflict,
                });
            }
            self.bulk.gave_up(CallFailure::Unreachable(tripped.loss.to_string()))
        })
    }

    async fn heartbeat<RT: AsyncRuntime>(
        &self,
        request: AppendEntriesRequest<TypeConfig<RT>>,
        patience: Duration,
    ) -> Result<StreamAppendResult<TypeConfig<RT>>, CallFailure> {
        self.check_tripwire()?;
        let message = convert::heartbeat_to_proto(self.envelope(), &request);
        let (sent, started) = (self.context.clock.now(), Instant::now());
        let call = self
            .control
            .call(message, patience, |mut client, message| async move { client.heartbeat(message).await });
        let answer = call.await?;
        let theirs = convert::timestamp_from_bits(answer.clock);
        let exchange = Exchange { sent, theirs, round_trip: started.elapsed() };
        self.context.table.answered(self.node, exchange, answer.free_bytes);
        self.context.table.votes(self.node, answer.votes);
        let result = answer.result.ok_or(convert::Malformed("heartbeat result"))?;
        let result = convert::append_result_from_proto::<RT>(result)?;
        self.watch_result(&request.vote, &result)?;
        Ok(result)
    }
}

/// Makes openraft's clients, and gives other parts access to the same links. Cheap to clone.
pub(crate) struct PeerNetworkFactory<RT> {
    context: Arc<NetworkParts>,
    peers: Arc<Mutex<BTreeMap<NodeId, Arc<Peer>>>>,
    runtime: PhantomData<fn() -> RT>,
}

impl<RT> Clone for PeerNetworkFactory<RT> {
    fn clone(&self) -> Self {
        Self { context: self.context.clone(), peers: self.peers.clone(), runtime: PhantomData }
    }
}

impl<RT: AsyncRuntime> PeerNetworkFactory<RT> {
    /// A network without connections.
    pub(crate) fn new(parts: NetworkParts) -> Self {
        Self { context: Arc::new(parts), peers: Arc::default(), runtime: PhantomData }
    }

    /// Asks whoever answers at `address` who it is, on a connection of its own that ends afterwards. For founding
    /// and joining, when numbers and stores are not known yet.
    pub(crate) async fn ask(&self, address: &str) -> Result<Identity, AskError> {
        let anybody = Target { node: NodeId(0), store: Default::default() };
        let (_, peer) = self.within(address, self.context.establish(address, anybody)).await?;
        Ok(peer.identity)
    }

    /// Asks whoever answers at `address` who it is and, if it belongs to a cluster, whether that knows our data
    /// directory.
    pub(crate) async fn ask_to_join(&self, address: &str) -> Result<(Identity, Place), AskError> {
        let anybody = Target { node: NodeId(0), store: Default::default() };
        let work = async {
            let (mut client, peer) = self.context.establish(address, anybody).await?;
            if peer.identity.cluster.is_unknown() {
                return Ok((peer.identity, Place::default()));
            }
            let me = self.context.identity.borrow().to_proto();
            let answer = client.join(pb::JoinRequest { introduction: Some(me) }).await;
            let answer = answer.map_err(|status| CallFailure::of(&status))?.into_inner();
            let members = answer.members.into_iter().map(convert::member_from_proto);
            let members = members.collect::<Result<_, _>>()?;
            Ok((peer.identity, Place { node: NodeId(answer.node), members }))
        };
        self.within(address, work).await
    }

    /// What `work` at `address` gives within the time that one attempt may take.
    async fn within<T>(
        &self,
        address: &str,
        work: impl Future<Output = Result<T, CallFailure>>,
    ) -> Result<T, AskError> {
        match timeout(self.context.options.connect_timeout, work).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(CallFailure::Refused { refusal, .. })) => Err(AskError::Refused(refusal)),
            Ok(Err(failure)) => Err(AskError::Unreachable(failure.to_string())),
            Err(_) => Err(AskError::Unreachable(format!("{address}: no answer in time"))),
        }
    }

    /// Calls a member on both connections, so that they stand when they are needed: one that turns out to be broken is made
    /// anew. Whom that does not reach is for the table to know.
    pub(crate) async fn keep_warm(&self, node: NodeId, member: &Member) {
        let peer = self.peer(node, member);
        let hello = pb::HelloRequest {
            introduction: Some(self.context.identity.borrow().to_proto()),
            target: node.0,
            target_store: convert::id_to_bytes(member.store.as_bytes()),
        };
        let patience = self.context.options.connect_timeout;
        for link in [&peer.control, &peer.bulk] {
            let (sent, started) = (self.context.clock.now(), Instant::now());
            let call = link.call_again(hello.clone(), patience, |mut client, hello| async move {
                client.hello(hello).await
            });
            match call.await {
                Ok(answer) => {
                    let theirs = convert::timestamp_from_bits(answer.clock);
                    let exchange = Exchange { sent, theirs, round_trip: started.elapsed() };
                    self.context.table.told(node, exchange, answer.free_bytes);
                }
                Err(failure) => tracing::debug!(%node, %failure, "a connection is not kept up"),
            }
        }
    }

    /// The shared links of a peer.
    pub(super) fn peer(&self, node: NodeId, member: &Member) -> Arc<Peer> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&node).filter(|peer| peer.member == *member) {
            return peer.clone();
        }
        let peer = Arc::new(Peer {
            node,
            context: self.context.clone(),
            bulk: Link::new(self.context.clone(), node, member),
            control: Link::new(self.context.clone(), node, member),
            member: member.clone(),
            tripwire: Mutex::default(),
        });
        peers.insert(node, peer.clone());
        peer
    }

    fn client(&self, target: u64, member: &Member, appends: Appends) -> PeerNetwork<RT> {
        PeerNetwork { peer: self.peer(NodeId(target), member), appends, runtime: PhantomData }
    }
}

/// What a cluster knows of a data directory that asks to belong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its number; 0 if it has none.
    pub(crate) node: NodeId,
    /// All members, by number; none if the answering node has not learned of any yet.
    pub(crate) members: BTreeMap<u64, Member>,
}

/// Why nobody told us who stands at an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody answered.
    #[error("{0}")]
    Unreachable(String),
    /// Somebody answered, and one of us refused the other.
    #[error("{0}")]
    Refused(Refusal),
}

impl<RT: AsyncRuntime> RaftNetworkFactory<TypeConfig<RT>> for PeerNetworkFactory<RT> {
    type Network = PeerNetwork<RT>;

    async fn new_client(&mut self, target: u64, node: &Member) -> PeerNetwork<RT> {
        self.client(target, node, Appends::Streamed)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> PeerNetwork<RT> {
        self.client(target, node, Appends::OneByOne)
    }
}

/// How a client sends appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Appends {
    /// Pipelined on the bulk connection.
    Streamed,
    /// Heartbeats, each a call on the control connection.
    OneByOne,
}

/// openraft's handle of one peer.
pub(crate) struct PeerNetwork<RT> {
    peer: Arc<Peer>,
    appends: Appends,
    runtime: PhantomData<fn() -> RT>,
}

impl<RT: AsyncRuntime> NetBackoff<TypeConfig<RT>> for PeerNetwork<RT> {
    fn backoff(&self) -> Option<Backoff> {
        // An attempt costs the peer nothing while it is down, and its return should be noticed soon.
        let pause = self.peer.context.options.retry_pause;
        let pauses = (1..).map(move |attempt: u32| pause * attempt.min(8));
        Some(Backoff::new(pauses))
    }
}

impl<RT: AsyncRuntime> NetStreamAppend<TypeConfig<RT>> for PeerNetwork<RT> {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig<RT>>, RPCError<TypeConfig<RT>>>>,
            RPCError<TypeConfig<RT>>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig<RT>>> + OptionalSend + Unpin + 'static,
    {
        let (peer, patience) = (self.peer.clone(), option.soft_ttl());
        match self.appends {
            Appends::Streamed => std::future::ready(Ok(append::open::<RT, S>(peer, input, patience))).boxed(),
            Appends::OneByOne => {
                let answers = input.then(move |request| {
                    let peer = peer.clone();
                    async move { peer.heartbeat(request, patience).await.map_err(CallFailure::into_rpc) }
                });
                std::future::ready(Ok(answers.boxed())).boxed()
            }
        }
    }
}

impl<RT: AsyncRuntime> PeerNetwork<RT> {
    /// Sends a request for a vote, as a real one or to hear whether it would be granted, and reads the answer.
    async fn ask_for_vote<F>(
        &self,
        request: VoteRequest<TypeConfig<RT>>,
        patience: Duration,
        send: impl FnOnce(PeerClient<Channel>, Request<pb::VoteRequest>) -> F + Copy,
    ) -> Result<VoteResponse<TypeConfig<RT>>, RPCError<TypeConfig<RT>>>
    where
        F: Future<Output = Result<Response<pb::VoteResponse>, Status>>,
    {
        let message = convert::vote_request_to_proto(self.peer.envelope(), &request);
        let call = self.peer.control.call_again(message, patience, send);
        let answer = call.await.map_err(CallFailure::into_rpc)?;
        convert::vote_response_from_proto(answer).map_err(|error| CallFailure::from(error).into_rpc())
    }
}

impl<RT: AsyncRuntime> NetVote<TypeConfig<RT>> for PeerNetwork<RT> {
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig<RT>>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig<RT>>, RPCError<TypeConfig<RT>>> {
        self.ask_for_vote(request, option.hard_ttl(), |mut client, message| async move {
            client.vote(message).await
        })
        .await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig<RT>>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig<RT>>, RPCError<TypeConfig<RT>>> {
        self.ask_for_vote(request, option.hard_ttl(), |mut client, message| async move {
            client.pre_vote(message).await
        })
        .await
    }
}

impl<RT: AsyncRuntime> NetTransferLeader<TypeConfig<RT>> for PeerNetwork<RT> {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig<RT>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig<RT>>, RPCError<TypeConfig<RT>>> {
        let message = convert::transfer_to_proto(self.peer.envelope(), &request);
        let call =
            self.peer.control.call_again(message, option.hard_ttl(), |mut client, message| async move {
                client.transfer_leader(message).await
            });
        let answer = call.await.map_err(CallFailure::into_rpc)?;
        convert::transfer_response_from_proto(answer).map_err(|error| CallFailure::from(error).into_rpc())
    }
}

impl<RT: AsyncRuntime> NetSnapshot<TypeConfig<RT>> for PeerNetwork<RT> {
    type SnapshotData = SnapshotFile;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig<RT>, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig<RT>>, StreamingError<TypeConfig<RT>>> {
        let SnapshotFile::Bytes(bytes) = snapshot.snapshot else {
            unreachable!("the storage hands out snapshots in memory");
        };
        let patience = option.soft_ttl();
        // Boxed, because it is large and awaited inside openraft's own futures.
        let sending = Box::pin(snapshot::send::<RT>(&self.peer, vote, snapshot.meta, bytes, patience));
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            answer = sending => answer,
        }
    }
}
