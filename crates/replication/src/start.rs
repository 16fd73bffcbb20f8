//! From a data directory to a running replica: its parts, openraft's settings, and the tasks around Raft.
//!
//! - A node whose directory is bound to a cluster returns to it; any other waits for its founding first.
//! - The peer port answers from the beginning, so that a founding node can be found.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::ids::ClusterId;
use model::{BootId, Clock, NodeId, Role};
use openraft::{AsyncRuntime, Config, SnapshotPolicy};
use runtime::Spawner;
use runtime::random::{Random, branch};
use store::Store;
use store::engine::Engine;
use tokio::sync::{OnceCell, Semaphore, watch};

use crate::contact::Contact;
use crate::founding::{self, Belonging};
use crate::handler::Handler;
use crate::joiners::Joiners;
use crate::lease::{self, LeaseCell, LeaseEvents, LeaseTimes, Suspension};
use crate::network::{
    Acceptor, Connector, Identity, Listener, NetworkOptions, NetworkParts, PeerEvents, PeerNetworkFactory,
    PeerService, PeerTable, Proposals, ServiceParts, Windows, accept_peers, clear_staging, serve,
};
use crate::proposer::Proposer;
use crate::replica::{Inner, RaftOf, Replica};
use crate::storage::{LogStore, StateMachine};

/// Format versions of log, snapshots and peer messages that this version reads and writes.
pub(crate) const FORMATS: std::ops::RangeInclusive<u32> = 1..=1;

/// What a replica is made of.
pub struct ReplicaParts<E> {
    /// The open data directory.
    pub store: Store<E>,
    /// The cluster's name in the node file.
    pub cluster_name: String,
    /// This node's name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// This process.
    pub boot: BootId,
    /// All founding members by name, in the order of the node file; empty for a node that joins.
    pub members: Vec<(String, String)>,
    /// How a node that belongs to no cluster yet finds one.
    pub belonging: Belonging,
    /// The lease profile.
    pub times: LeaseTimes,
    /// What may be on its way between the nodes.
    pub windows: Windows,
    /// Where the other nodes reach this node's API, `host:port`; empty where it has none.
    pub api: String,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Reaches peers.
    pub connector: Arc<dyn Connector>,
    /// Lets peers in.
    pub acceptor: Arc<dyn Acceptor>,
    /// The peer port, bound; taken when the replica starts.
    pub listener: Option<Box<dyn Listener>>,
    /// Where snapshots are staged.
    pub staging: PathBuf,
    /// Bytes free for the data directory above the reserve.
    pub free_bytes: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Bytes free for a snapshot, which may use some of what entries may not.
    pub snapshot_bytes: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Alarming news of peers.
    pub events: PeerEvents,
    /// News of what this node's operations may rely on.
    pub lease_events: LeaseEvents,
    /// Starts tasks on Raft's own runtime.
    pub spawner: Spawner,
    /// For ids, and for when a candidate stands again.
    pub random: Random,
    /// What goes wrong inside.
    #[cfg(test)]
    pub(crate) mischief: crate::trial::Mischief,
}

/// Why a replica cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The node is not among the members it lists.
    #[error("HF-1104: {name} is not among the members of the node file: {listed}")]
    NotListed {
        /// This node.
        name: String,
        /// Who is listed.
        listed: String,
    },
    /// The data directory is another cluster's.
    #[error(
        "HF-1305: the data directory belongs to cluster {found}, the node file says {configured}; name that cluster, or an \
         empty directory"
    )]
    AnotherCluster {
        /// Whose it is.
        found: String,
        /// What the node file says.
        configured: String,
    },
    /// It was told to stop before all members had answered.
    #[error("stopped while waiting for the members of the cluster")]
    Cancelled,
    /// The data directory or the network said no.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Raft refused to start.
    #[error("raft does not start: {0}")]
    Raft(String),
}

impl<E: Engine, RT: AsyncRuntime> Replica<E, RT> {
    /// Starts a replica: founds the cluster, joins it once it is known there, or returns to it.
    pub async fn start(mut parts: ReplicaParts<E>) -> Result<Self, StartError> {
        // The tasks around Raft end before the store's, which were started by the parent.
        parts.spawner = parts.spawner.child();
        refuse_another_cluster(&parts.store, &parts.cluster_name)?;
        let network_options = NetworkOptions::for_lease(parts.times.lease).with_windows(&parts.windows);
        let bound = parts.store.identity().member;
        let identity = Identity {
            cluster: bound.map_or_else(ClusterId::default, |(cluster, _)| cluster),
            cluster_name: parts.cluster_name.clone(),
            node: bound.map_or(NodeId(0), |(_, node)| node),
            name: parts.name.clone(),
            store: parts.store.identity().store,
            role: parts.role,
            formats: FORMATS,
            lease: parts.times.lease,
            boot: parts.boot,
            pristine: parts.store.is_pristine() && bound.is_none(),
            address: parts.belonging.address.clone(),
            api: parts.api.clone(),
        };
        let (identity, identity_seen) = watch::channel(identity);
        let table = PeerTable::new();
        clear_staging(&parts.staging).await?;
        let slot: Arc<OnceCell<Self>> = Arc::default();
        let (roster, roster_seen) = watch::channel(BTreeMap::new());
        let joiners = Joiners::default();
        let handler = Handler {
            replica: Arc::clone(&slot),
            keeper: parts.store.keeper().clone(),
            roster: roster_seen,
            joiners: joiners.clone(),
            staging: parts.staging.clone(),
            free_bytes: Arc::clone(&parts.free_bytes),
            snapshot_bytes: Arc::clone(&parts.snapshot_bytes),
        };
        serve_peers(&mut parts, handler, &identity_seen, &table, &network_options)?;
        let network = PeerNetworkFactory::<RT>::new(NetworkParts {
            identity: identity_seen,
            connector: Arc::clone(&parts.connector),
            options: network_options.clone(),
            table: table.clone(),
            events: parts.events.clone(),
            clock: Arc::clone(&parts.clock),
            spawner: parts.spawner.clone(),
        });

        let founds = parts.members.first().is_some_and(|(first, _)| *first == parts.name);
        let founders = match bound {
            // A founder that was interrupted before its first entry goes on.
            Some(_) if !(founds && parts.store.is_pristine()) => None,
            _ => founding::belong(&mut parts, &network, &identity, &roster).await?,
        };
        let (node, cluster) = (identity.borrow().node, identity.borrow().cluster);
        let inner = assemble(&parts, (cluster, node), network, &network_options, table, joiners).await?;
        let replica = Self { inner: Arc::new(inner) };
        if slot.set(replica.clone()).is_err() {
            unreachable!("a replica is started once");
        }
        if let Some(members) = founders {
            let refused = |error: openraft::errors::RaftError<_, _>| StartError::Raft(error.to_string());
            replica.inner.raft.initialize(members).await.map_err(refused)?;
        }
        replica.start_tasks(parts.random);
        Ok(replica)
    }

    fn start_tasks(&self, mut random: Random) {
        let for_elections = branch(&mut random);
        let spawner = &self.inner.spawner;
        let stop = spawner.token();
        spawner.spawn("raft watch", self.clone().follow_raft(stop.clone()));
        spawner.spawn("reign", self.clone().reign(stop.clone(), random));
        spawner.spawn("elections", self.clone().campaign(stop.clone(), for_elections));
        spawner.spawn("snapshots", self.clone().purge_behind_horizon(stop.clone()));
        spawner.spawn("membership", self.clone().mend_membership(stop.clone()));
        spawner.spawn("links", self.clone().keep_links_warm(stop.clone()));
    }
}

/// What a directory has applied says whose it is; before that, its peers do.
fn refuse_another_cluster<E: Engine>(store: &Store<E>, configured: &str) -> Result<(), StartError> {
    let found = store.keeper().read(|state| state.cluster.as_ref().map(|cluster| cluster.name.clone()));
    match found {
        Some(found) if found != configured => {
            Err(StartError::AnotherCluster { found, configured: configured.to_owned() })
        }
        _ => Ok(()),
    }
}

fn serve_peers<E: Engine, RT: AsyncRuntime>(
    parts: &mut ReplicaParts<E>,
    handler: Handler<E, RT>,
    identity: &watch::Receiver<Identity>,
    table: &PeerTable,
    options: &NetworkOptions,
) -> Result<(), StartError> {
    let service = PeerService::new(ServiceParts {
        handler: Arc::new(handler),
        identity: identity.clone(),
        table: table.clone(),
        clock: Arc::clone(&parts.clock),
        options: options.clone(),
        spawner: parts.spawner.clone(),
    });
    let taken = || io::Error::other("the peer port was already taken by another replica");
    let listener = parts.listener.take().ok_or_else(taken)?;
    let acceptor = Arc::clone(&parts.acceptor);
    let incoming = accept_peers(listener, options.keep_alive_timeout, acceptor);
    let stop = parts.spawner.token().clone();
    parts.spawner.spawn("peer port", serve(service, incoming, stop.cancelled_owned()));
    Ok(())
}

async fn assemble<E: Engine, RT: AsyncRuntime>(
    parts: &ReplicaParts<E>,
    (cluster, node): (ClusterId, NodeId),
    network: PeerNetworkFactory<RT>,
    options: &NetworkOptions,
    table: PeerTable,
    joiners: Joiners,
) -> Result<Inner<E, RT>, StartError> {
    let config = raft_config(&parts.cluster_name, &parts.times).map_err(StartError::Raft)?;
    let machine = StateMachine::new(parts.store.keeper().clone());
    let log = LogStore::new(&parts.store);
    #[cfg(test)]
    let (machine, log) = (machine.with(&parts.mischief), log.with(&parts.mischief));
    let raft: RaftOf<E, RT> = openraft::Raft::new(node.0, Arc::new(config), network.clone(), log, machine)
        .await
        .map_err(|error| StartError::Raft(error.to_string()))?;
    let (proposer, proposing) = Proposer::new(raft.clone(), &parts.windows);
    parts.spawner.spawn("proposals", proposing.run(parts.spawner.token().clone()));
    let (leader, leader_seen) = watch::channel(None);
    let quarantine = quarantine(parts, node).await?;
    Ok(Inner {
        node,
        cluster,
        name: parts.name.clone(),
        cluster_name: parts.cluster_name.clone(),
        boot: parts.boot,
        times: parts.times,
        clock: Arc::clone(&parts.clock),
        store: parts.store.clone(),
        raft,
        cell: LeaseCell::new(parts.times, Suspension::of_this_machine(), parts.lease_events.clone()),
        leads: watch::Sender::new(None),
        leader,
        leadership: watch::Sender::new(None),
        proposer,
        forward: Proposals::start(network.clone(), leader_seen, options, &parts.spawner),
        peers: table,
        network,
        joiners,
        changes: Semaphore::new(1),
        removed: watch::Sender::new(false),
        contact: Contact::new(quarantine),
        free_bytes: Arc::clone(&parts.free_bytes),
        spawner: parts.spawner.clone(),
    })
}

/// How long this node votes for nobody: for the longest lease that a leader may count on, which is that of its profile, the
/// one that the membership has recorded, or one that an earlier process of it has granted. A node that never answered
/// anything need not wait.
async fn quarantine<E: Engine>(parts: &ReplicaParts<E>, node: NodeId) -> Result<Duration, StartError> {
    let granted = parts.store.granted_lease().map_err(io::Error::from)?;
    let longest = granted.unwrap_or_default().max(parts.times.lease);
    if granted != Some(longest) {
        // Before the first one is granted.
        parts.store.grant_lease(longest).await.map_err(io::Error::from)?;
    }
    if parts.store.is_pristine() || runtime::mutant("restarted-voter-votes-at-once") {
        return Ok(Duration::ZERO);
    }
    let recorded = parts.store.keeper().read(|state| Some(state.membership.nodes.get(&node.0)?.lease));
    Ok(lease::quarantine(longest.max(recorded.unwrap_or_default())))
}

/// openraft's settings; each that is not its default has its reason in docs/adr/0001 or beside it.
fn raft_config(cluster: &str, times: &LeaseTimes) -> Result<Config, String> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: cluster.to_owned(),
        heartbeat_interval: millis(times.heartbeat),
        // The backstop behind our own ranked trigger.
        election_timeout_min: millis(times.lease.mul_f64(0.8)),
        // This is openraft's leader lease, L.
        election_timeout_max: millis(times.lease),
        heartbeat_min_interval: Some(0),
        enable_pre_vote: Some(true),
        // With it, a disk stall that costs the lease would also cost an election.
        quorum_loss_probe_interval: None,
        // An automatic hand-over would pass by the barrier.
        removed_leader_step_down: openraft::StepDownPolicy::Never,
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        // Until the quarantine is over, and while this node is drained.
        enable_elect: false,
        max_payload_entries: 64,
        max_append_entries: Some(64),
        api_channel_size: Some(1_024),
        api_batch_linger_ms: 0,
        // A slow apply must not depose the leader.
        state_machine_channel_size: Some(4_096),
        // Checkpoints and purging are ours.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX / 2,
        install_snapshot_timeout: 60_000,
        ..Config::default()
    };
    config.validate().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use model::command::{Command, Stamp};
    use model::{BootId, ClusterId, Lineage, Position, Term, Timestamp};
    use runtime::Supervisor;
    use store::engine::sim::{SimDisk, SimEngine};
    use store::{Body, LogId, StoreOptions};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_directory_of_another_cluster_is_refused_by_name() {
        let (_supervisor, spawner) = Supervisor::new();
        let engine = SimEngine::open(&SimDisk::new(7)).expect("a fresh disk opens");
        let options = StoreOptions { tail_bytes: 1 << 20, birth: 7.into() };
        let store = Store::open(Arc::new(engine), options, &spawner).await.expect("a new store opens");
        assert!(refuse_another_cluster(&store, "plant-8").is_ok(), "it belongs to nobody yet");

        let (cluster, lineage) = (ClusterId::from(7_u128), Lineage::from_random(7));
        let found = Command::Found { cluster, name: "plant-7".to_owned(), lineage };
        let stamp = Stamp { at: Timestamp(0), boot: BootId::from(1) };
        let body = Body::Command(wire::entry::encode(&stamp, &found).expect("it can be encoded"));
        store.keeper().apply(LogId { term: Term(1), index: Position(1) }, &body).expect("it can be read");
        assert!(refuse_another_cluster(&store, "plant-7").is_ok());
        let error = refuse_another_cluster(&store, "plant-8").expect_err("it is another one's").to_string();
        assert!(error.contains("plant-7") && error.contains("plant-8"), "{error}");
    }
}
