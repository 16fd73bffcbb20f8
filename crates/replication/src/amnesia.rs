//! A node that lost what it had acknowledged: it runs no Raft, and its peer port says so and nothing else.
//!
//! - Whoever calls it learns at once that only a person can help, instead of taking it for a node that is down.
//! - Nothing of its data directory is read any more, and nothing changed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use model::{BootId, Clock, ClusterId, Member, NodeId, Role, StoreId};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use openraft_rt_tokio::TokioRuntime;
use runtime::Spawner;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::lease::LeaseTimes;
use crate::network::{
    Acceptor, Applied, Identity, NetworkOptions, PeerHandler, PeerService, PeerTable, Place, ProposeError,
    Refusal, ServiceParts, SnapshotFile, SnapshotMeta, Stopped, accept_peers, serve,
};
use crate::start::FORMATS;
use crate::type_config::{TypeConfig, Vote};

/// What a node without memory still needs.
pub struct AmnesicParts {
    /// The cluster's name in the node file.
    pub cluster_name: String,
    /// This node's name.
    pub name: String,
    /// The lease profile: bounds how long connections may stand still.
    pub times: LeaseTimes,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Lets peers in.
    pub acceptor: Arc<dyn Acceptor>,
    /// The peer port, bound.
    pub listener: TcpListener,
    /// Starts the task that answers.
    pub spawner: Spawner,
}

/// Answers peers until the spawner's tasks end.
pub fn answer_amnesic(parts: AmnesicParts) {
    let AmnesicParts { cluster_name, name, times, clock, acceptor, listener, spawner } = parts;
    // Which number and which directory it was, it does not say: it is none of them any more.
    let identity = Identity {
        cluster: ClusterId::default(),
        cluster_name,
        node: NodeId(0),
        name,
        store: StoreId::default(),
        role: Role::Gateway,
        formats: FORMATS,
        lease: times.lease,
        boot: BootId::default(),
        pristine: false,
        address: String::new(),
        api: String::new(),
    };
    let options = NetworkOptions::for_lease(times.lease);
    let incoming = accept_peers(Box::new(listener), options.keep_alive_timeout, acceptor);
    let service = PeerService::<TokioRuntime>::new(ServiceParts {
        handler: Arc::new(NoMemory),
        identity: watch::Sender::new(identity).subscribe(),
        table: PeerTable::new(),
        clock,
        options,
        spawner: spawner.clone(),
    });
    let stop = spawner.token().clone();
    spawner.spawn("peer port", serve(service, incoming, stop.cancelled_owned()));
}

/// Stands behind the peer port of such a node; every message is refused before it is asked anything else.
struct NoMemory;

type Raft = TypeConfig<TokioRuntime>;

#[tonic::async_trait]
impl PeerHandler<TokioRuntime> for NoMemory {
    fn member(&self, _: NodeId) -> Option<Member> {
        None
    }

    fn was_removed(&self, _: NodeId) -> bool {
        false
    }

    fn place(&self, _: &Identity) -> Place {
        Place::default()
    }

    fn free_bytes(&self) -> u64 {
        0
    }

    fn is_amnesic(&self) -> bool {
        true
    }

    fn may_vote(&self) -> bool {
        false
    }

    fn may_append(&self) -> Result<(), Refusal> {
        Err(Refusal::Amnesic)
    }

    fn may_install(&self, _: u64) -> Result<(), Refusal> {
        Err(Refusal::Amnesic)
    }

    fn staging(&self) -> &Path {
        Path::new("")
    }

    fn append(
        &self,
        _: BoxStream<'static, AppendEntriesRequest<Raft>>,
    ) -> BoxStream<'static, Result<StreamAppendResult<Raft>, Stopped>> {
        futures::stream::iter([Err(Stopped)]).boxed()
    }

    async fn vote(&self, _: VoteRequest<Raft>) -> Result<VoteResponse<Raft>, Stopped> {
        Err(Stopped)
    }

    async fn pre_vote(&self, _: VoteRequest<Raft>) -> Result<VoteResponse<Raft>, Stopped> {
        Err(Stopped)
    }

    async fn transfer_leader(
        &self,
        _: TransferLeaderRequest<Raft>,
    ) -> Result<TransferLeaderResponse<Raft>, Stopped> {
        Err(Stopped)
    }

    async fn install_snapshot(&self, _: Vote, _: SnapshotMeta, _: SnapshotFile) -> Result<Vote, Refusal> {
        Err(Refusal::Amnesic)
    }

    fn propose(&self, _: Bytes, _: Duration) -> BoxFuture<'static, Result<Applied, ProposeError>> {
        futures::future::ready(Err(ProposeError::Stopped)).boxed()
    }
}
