//! The answering side of the peer port.
//!
//! - Every message passes the same checks before the [`PeerHandler`] sees it: this node remembers what it promised,
//!   the message is meant for this node, cluster and data directory, and the sender is who it says it is.
//! - Votes, pre-votes and transfers pass only while the handler says that this node may vote; appends with entries
//!   only while there is room for them. A snapshot may pass where entries do not: it makes room.
//! - A snapshot is installed by a task of its own: the caller may go, the staged file stays until it is done with. Until
//!   then a leader that sends again gets `Busy`: what is being installed is in memory.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use model::{Clock, Member, NodeId};
use openraft::AsyncRuntime;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use runtime::Spawner;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};
use wire::proto::peer as pb;
use wire::proto::peer::peer_server::Peer;

use super::NetworkOptions;
use super::client::Place;
use super::convert::{self, Malformed, SnapshotMeta};
use super::identity::{Identity, Sender, Target};
use super::listen::FarEnd;
use super::proposals::{self, Applied, ProposeError};
use super::refusal::Refusal;
use super::snapshot::{self, SnapshotFile};
use super::table::PeerTable;
use crate::type_config::{TypeConfig, Vote};

/// Snapshots under way at once: that of the leader, and one of a leader that does not know yet that it was deposed.
const TRANSFERS: usize = 2;

/// Raft on this node has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("raft has ended on this node")]
pub(crate) struct Stopped;

impl From<Stopped> for Refusal {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

/// What stands behind the peer port.
#[tonic::async_trait]
pub(crate) trait PeerHandler<RT: AsyncRuntime>: Send + Sync + 'static {
    /// The member of that number, as far as this node's membership knows.
    fn member(&self, node: NodeId) -> Option<Member>;
    /// Whether a node of that number was a member and is none any more, surely and for ever.
    fn was_removed(&self, node: NodeId) -> bool;
    /// What this node's cluster knows of a data directory that asks to belong; notes that it asks.
    fn place(&self, asker: &Identity) -> Place;
    /// Bytes free for the data directory above the reserve.
    fn free_bytes(&self) -> u64;
    /// This node lost what it had acknowledged: it answers nothing else any more.
    fn is_amnesic(&self) -> bool;
    /// Whether a vote may be forwarded now: not in quarantine, and no own leadership that may still be live.
    fn may_vote(&self) -> bool;
    /// Whether entries may be appended now; an error is answered instead.
    fn may_append(&self) -> Result<(), Refusal>;
    /// Whether a snapshot of so many bytes may be staged and installed now; an error is answered instead.
    fn may_install(&self, bytes: u64) -> Result<(), Refusal>;
    /// The folder in which snapshots are staged.
    fn staging(&self) -> &Path;

    /// Appends, one answer for each request, in order; ends after the first answer that is no acknowledgement.
    fn append(
        &self,
        requests: BoxStream<'static, AppendEntriesRequest<TypeConfig<RT>>>,
    ) -> BoxStream<'static, Result<StreamAppendResult<TypeConfig<RT>>, Stopped>>;
    /// Answers a request for a vote.
    async fn vote(
        &self,
        request: VoteRequest<TypeConfig<RT>>,
    ) -> Result<VoteResponse<TypeConfig<RT>>, Stopped>;
    /// Answers whether a vote would be granted.
    async fn pre_vote(
        &self,
        request: VoteRequest<TypeConfig<RT>>,
    ) -> Result<VoteResponse<TypeConfig<RT>>, Stopped>;
    /// Campaigns at once.
    async fn transfer_leader(
        &self,
        request: TransferLeaderRequest<TypeConfig<RT>>,
    ) -> Result<TransferLeaderResponse<TypeConfig<RT>>, Stopped>;
    /// Installs a snapshot that is staged, checked and synced; answers this node's vote afterwards. The file is
    /// removed when this returns.
    async fn install_snapshot(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        file: SnapshotFile,
    ) -> Result<Vote, Refusal>;

    /// Proposes an encoded command for another node. The call itself takes the command's place in the order of
    /// proposals; the future only waits.
    fn propose(
        &self,
        command: Bytes,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Applied, ProposeError>>;
}

/// What the answering side is made of.
pub(crate) struct ServiceParts<RT> {
    /// What stands behind it.
    pub(crate) handler: Arc<dyn PeerHandler<RT>>,
    /// Who we are, now and later.
    pub(crate) identity: watch::Receiver<Identity>,
    /// Where what peers say is kept.
    pub(crate) table: PeerTable,
    /// Our wall clock.
    pub(crate) clock: Arc<dyn Clock>,
    /// Times and bounds.
    pub(crate) options: NetworkOptions,
    /// Runs installations.
    pub(crate) spawner: Spawner,
}

/// The generated service in front of a [`PeerHandler`]. Cheap to clone.
pub(crate) struct PeerService<RT> {
    shared: Arc<Shared<RT>>,
}

struct Shared<RT> {
    parts: ServiceParts<RT>,
    transfers: Arc<Mutex<BTreeSet<u64>>>,
}

impl<RT> Clone for PeerService<RT> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<RT: AsyncRuntime> PeerService<RT> {
    /// The service of one node.
    pub(crate) fn new(parts: ServiceParts<RT>) -> Self {
        Self { shared: Arc::new(Shared { parts, transfers: Arc::default() }) }
    }

    pub(super) fn options(&self) -> &NetworkOptions {
        &self.shared.parts.options
    }
}

/// A snapshot on its way from the leader of a term, until it is installed.
struct Transfer {
    term: u64,
    under_way: Arc<Mutex<BTreeSet<u64>>>,
}

impl Transfer {
    /// `None` while another one of that leader is under way, or too many are.
    fn begin(term: u64, under_way: &Arc<Mutex<BTreeSet<u64>>>) -> Option<Self> {
        let mut terms = under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = terms.len() < TRANSFERS && terms.insert(term);
        begins.then(|| Self { term, under_way: Arc::clone(under_way) })
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.term);
    }
}

impl<RT: AsyncRuntime> Shared<RT> {
    fn handler(&self) -> &dyn PeerHandler<RT> {
        &*self.parts.handler
    }

    fn refuse(&self, refusal: Refusal) -> Status {
        refusal.by(self.parts.identity.borrow().node)
    }

    fn malformed(&self, what: Malformed) -> Status {
        Refusal::Malformed.because(format!("node {}: {what}", self.parts.identity.borrow().node))
    }

    /// The checks that every message but `Hello` passes.
    fn admit(&self, envelope: Option<&pb::Envelope>, far_end: &FarEnd) -> Result<(), Status> {
        self.check_sender(envelope, far_end).map(|_| ()).map_err(|refusal| self.refuse(refusal))
    }

    fn check_sender(
        &self,
        envelope: Option<&pb::Envelope>,
        far_end: &FarEnd,
    ) -> Result<(Sender, Option<Member>), Refusal> {
        if self.handler().is_amnesic() {
            return Err(Refusal::Amnesic);
        }
        let sender = self.parts.identity.borrow().check(envelope)?;
        if self.handler().was_removed(sender.node) {
            return Err(Refusal::Removed);
        }
        let member = self.handler().member(sender.node);
        sender.check(member.as_ref(), far_end.proven())?;
        Ok((sender, member))
    }

    /// Notes that the sender of a heartbeat is alive. Only members, so that strangers cannot fill the table: when it
    /// introduced itself this node may have been starting, or too new to know its members.
    fn admit_heartbeat(&self, envelope: Option<&pb::Envelope>, far_end: &FarEnd) -> Result<(), Status> {
        let checked = self.check_sender(envelope, far_end);
        let (sender, member) = checked.map_err(|refusal| self.refuse(refusal))?;
        if member.is_some() {
            self.parts.table.spoke(sender.node, far_end.introduction_of(sender));
        }
        Ok(())
    }

    fn admit_vote(&self, envelope: Option<&pb::Envelope>, far_end: &FarEnd) -> Result<(), Status> {
        self.admit(envelope, far_end)?;
        match self.handler().may_vote() {
            true => Ok(()),
            false => Err(self.refuse(Refusal::VotesWithheld)),
        }
    }

    /// Checks and reads a request for a vote, be it a real one or not.
    fn read_vote(&self, request: Request<pb::VoteRequest>) -> Result<VoteRequest<TypeConfig<RT>>, Status> {
        let far_end = FarEnd::of(request.extensions());
        let request = request.into_inner();
        self.admit_vote(request.envelope.as_ref(), &far_end)?;
        convert::vote_request_from_proto(request).map_err(|what| self.malformed(what))
    }

    fn voted(
        &self,
        answer: Result<VoteResponse<TypeConfig<RT>>, Stopped>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        let answer = answer.map_err(|Stopped| self.refuse(Refusal::Stopped))?;
        Ok(Response::new(convert::vote_response_to_proto(&answer)))
    }

    /// Checks and reads one append of a stream.
    fn read_append(
        &self,
        request: pb::AppendRequest,
        sequence: u64,
        far_end: &FarEnd,
    ) -> Result<AppendEntriesRequest<TypeConfig<RT>>, Status> {
        self.admit(request.envelope.as_ref(), far_end)?;
        if request.sequence != sequence {
            return Err(self.malformed(Malformed("sequence")));
        }
        if !request.entries.is_empty() {
            self.handler().may_append().map_err(|refusal| self.refuse(refusal))?;
        }
        convert::append_from_proto(request).map_err(|what| self.malformed(what))
    }

    fn greet(&self, request: pb::HelloRequest, far_end: &FarEnd) -> Result<(), Refusal> {
        if self.handler().is_amnesic() {
            return Err(Refusal::Amnesic);
        }
        let me = self.parts.identity.borrow().clone();
        let peer = Identity::from_proto(request.introduction).map_err(|_| Refusal::Malformed)?;
        peer.check_name(far_end.proven())?;
        if request.target != 0 && me.node.0 != 0 && request.target != me.node.0 {
            return Err(Refusal::WrongTarget);
        }
        let meant = convert::id_from_bytes(&request.target_store).map_err(|_| Refusal::Malformed)?;
        if meant != [0; 16] && meant != me.store.0 {
            return Err(Refusal::WrongStore);
        }
        let same_cluster = !peer.cluster.is_unknown() && peer.cluster == me.cluster;
        if same_cluster && self.handler().was_removed(peer.node) {
            return Err(Refusal::Removed);
        }
        let member = self.handler().member(peer.node);
        let store = member.as_ref().map(|member| member.store).unwrap_or_default();
        me.check_introduction(&peer, Target { node: peer.node, store })?;
        let sender = Sender { node: peer.node, store: peer.store };
        sender.check(member.as_ref(), far_end.proven())?;
        // Only members, so that strangers cannot fill the table; and only a new connection, because one that is kept up says
        // nothing of who leads.
        if far_end.introduced(peer.clone()) && member.is_some() {
            self.parts.table.heard(peer.node, peer);
        }
        Ok(())
    }

    fn join(&self, request: pb::JoinRequest, far_end: &FarEnd) -> Result<Place, Refusal> {
        if self.handler().is_amnesic() {
            return Err(Refusal::Amnesic);
        }
        let me = self.parts.identity.borrow().clone();
        if me.cluster.is_unknown() {
            return Err(Refusal::Unbound);
        }
        let asker = Identity::from_proto(request.introduction).map_err(|_| Refusal::Malformed)?;
        me.check_introduction(&asker, Target { node: asker.node, store: asker.store })?;
        match far_end.proven() {
            Some(name) if name != asker.name => Err(Refusal::WrongName),
            _ => Ok(self.handler().place(&asker)),
        }
    }

    /// Installs a staged snapshot whatever becomes of the caller.
    fn install(
        self: &Arc<Self>,
        staged: snapshot::Staged,
        transfer: Transfer,
    ) -> oneshot::Receiver<Result<Vote, Refusal>> {
        let (answer, answered) = oneshot::channel();
        let shared = self.clone();
        self.parts.spawner.spawn("install snapshot", async move {
            let file = SnapshotFile::Path(staged.path.clone());
            let installed = shared.handler().install_snapshot(staged.vote, staged.meta, file).await;
            if let Err(error) = snapshot::remove_staged(&staged.path).await
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %staged.path.display(), %error, "staged snapshot not removed");
            }
            // Before the answer, on which the next one may follow at once.
            drop(transfer);
            if answer.send(installed).is_err() {
                tracing::debug!("the sender of the snapshot has gone");
            }
            Ok::<(), Stopped>(())
        });
        answered
    }
}

#[tonic::async_trait]
impl<RT: AsyncRuntime> Peer for PeerService<RT> {
    type AppendStream = BoxStream<'static, Result<pb::AppendResponse, Status>>;
    type ProposeStream = BoxStream<'static, Result<pb::ProposeResponse, Status>>;

    async fn hello(&self, request: Request<pb::HelloRequest>) -> Result<Response<pb::HelloResponse>, Status> {
        let shared = &self.shared;
        let far_end = FarEnd::of(request.extensions());
        shared.greet(request.into_inner(), &far_end).map_err(|refusal| shared.refuse(refusal))?;
        let introduction = Some(shared.parts.identity.borrow().to_proto());
        let clock = convert::timestamp_to_bits(shared.parts.clock.now());
        Ok(Response::new(pb::HelloResponse {
            introduction,
            clock,
            free_bytes: shared.handler().free_bytes(),
        }))
    }

    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinResponse>, Status> {
        let shared = &self.shared;
        let far_end = FarEnd::of(request.extensions());
        let place = shared.join(request.into_inner(), &far_end).map_err(|refusal| shared.refuse(refusal))?;
        let cluster = convert::id_to_bytes(shared.parts.identity.borrow().cluster.as_bytes());
        let members = place.members.iter().map(|(node, member)| convert::member_to_proto(*node, member));
        Ok(Response::new(pb::JoinResponse { cluster, node: place.node.0, members: members.collect() }))
    }

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let far_end = FarEnd::of(request.extensions());
        let refused: Arc<Mutex<Option<Status>>> = Arc::default();
        let reading = (self.shared.clone(), request.into_inner(), refused.clone());
        let requests = futures::stream::unfold((reading, 0_u64), move |(mut reading, sequence)| {
            let far_end = far_end.clone();
            async move {
                let (shared, stream, refused) = &mut reading;
                let read =
                    stream.next().await?.and_then(|request| shared.read_append(request, sequence, &far_end));
                match read {
                    Ok(request) => Some((request, (reading, sequence + 1))),
                    Err(status) => {
                        *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
                        None
                    }
                }
            }
        });
        let shared = self.shared.clone();
        let answers = shared.parts.handler.append(requests.boxed()).zip(futures::stream::iter(0_u64..));
        let answers = answers.map(move |(result, sequence)| match result {
            Ok(result) => Ok(convert::append_result_to_proto(sequence, &result)),
            Err(Stopped) => Err(shared.refuse(Refusal::Stopped)),
        });
        // What was read is answered first, then the refusal that ended the reading.
        let last_word = async move { refused.lock().unwrap_or_else(PoisonError::into_inner).take() };
        let answers = answers.chain(last_word.into_stream().filter_map(|word| async move { word.map(Err) }));
        Ok(Response::new(answers.boxed()))
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        let shared = &self.shared;
        let far_end = FarEnd::of(request.extensions());
        let request = request.into_inner();
        shared.admit_heartbeat(request.envelope.as_ref(), &far_end)?;
        let request = convert::heartbeat_from_proto::<RT>(request).map_err(|what| shared.malformed(what))?;
        let answer = shared.handler().append(futures::stream::iter([request]).boxed()).next().await;
        let Some(Ok(result)) = answer else { return Err(shared.refuse(Refusal::Stopped)) };
        let result = Some(convert::append_result_to_proto(0, &result));
        let clock = convert::timestamp_to_bits(shared.parts.clock.now());
        Ok(Response::new(pb::HeartbeatResponse {
            result,
            clock,
            free_bytes: shared.handler().free_bytes(),
            votes: shared.handler().may_vote(),
        }))
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteResponse>, Status> {
        let request = self.shared.read_vote(request)?;
        self.shared.voted(self.shared.handler().vote(request).await)
    }

    async fn pre_vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        let request = self.shared.read_vote(request)?;
        self.shared.voted(self.shared.handler().pre_vote(request).await)
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let shared = &self.shared;
        let far_end = FarEnd::of(request.extensions());
        let request = request.into_inner();
        shared.admit_vote(request.envelope.as_ref(), &far_end)?;
        let request = convert::transfer_from_proto::<RT>(request).map_err(|what| shared.malformed(what))?;
        let answer = shared.handler().transfer_leader(request).await;
        let answer = answer.map_err(|Stopped| shared.refuse(Refusal::Stopped))?;
        Ok(Response::new(convert::transfer_response_to_proto(&answer)))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotPart>>,
    ) -> Result<Response<pb::SnapshotResponse>, Status> {
        let shared = &self.shared;
        let far_end = FarEnd::of(request.extensions());
        let mut parts = request.into_inner();
        let stall_limit = shared.parts.options.snapshot_stall_limit;
        let first = timeout(stall_limit, parts.next())
            .await
            .map_err(|_| snapshot::StageError::Stalled.into_status())?;
        let header = match first.transpose()?.and_then(|part| part.part) {
            Some(pb::snapshot_part::Part::Header(header)) => header,
            _ => return Err(shared.malformed(Malformed("start of a snapshot"))),
        };
        shared.admit(header.envelope.as_ref(), &far_end)?;
        shared.handler().may_install(header.length).map_err(|refusal| shared.refuse(refusal))?;
        let term = header.vote.as_ref().map_or(0, |vote| vote.term);
        let transfer = Transfer::begin(term, &shared.transfers);
        let transfer = transfer.ok_or_else(|| shared.refuse(Refusal::Busy))?;
        let staged = snapshot::stage(shared.handler().staging(), header, parts, stall_limit).await;
        let staged = staged.map_err(snapshot::StageError::into_status)?;
        let installed = shared.install(staged, transfer).await.unwrap_or(Err(Refusal::Stopped));
        let vote = installed.map_err(|refusal| shared.refuse(refusal))?;
        Ok(Response::new(pb::SnapshotResponse { vote: Some(convert::vote_to_proto(&vote)) }))
    }

    async fn propose(
        &self,
        request: Request<Streaming<pb::ProposeRequest>>,
    ) -> Result<Response<Self::ProposeStream>, Status> {
        let far_end = FarEnd::of(request.extensions());
        let shared = self.shared.clone();
        let window = shared.parts.options.propose_window;
        // `map` calls the handler in the order of the stream; only the waiting is out of order.
        let answers = request.into_inner().map(move |request| {
            let admitted = request.and_then(|request| {
                shared.admit(request.envelope.as_ref(), &far_end)?;
                Ok(request)
            });
            let waiting = admitted.map(|pb::ProposeRequest { id, command, patience_nanos, .. }| {
                let patience = Duration::from_nanos(patience_nanos);
                (id, shared.handler().propose(command, patience))
            });
            async move {
                let (id, answer) = waiting?;
                Ok(proposals::answer_to_proto(id, answer.await))
            }
        });
        Ok(Response::new(answers.buffer_unordered(window).boxed()))
    }
}
