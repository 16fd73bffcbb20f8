//! From a data directory to a running replica: who we are, founding or returning, and the tasks around Raft.
//!
//! - A cluster is founded only if all listed members answer and are pristine. The first of the list founds it; the
//!   others take the cluster's id from the founder.
//! - A node whose directory is bound to a cluster returns to it and founds nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::command::Command;
use model::ids::{ClusterId, Term};
use model::{BootId, Cause, Clock, Lineage, Member, NodeId, Role};
use openraft::async_runtime::WatchReceiver as _;
use openraft::{AsyncRuntime, Config, ServerState, SnapshotPolicy};
use rand::Rng;
use runtime::Spawner;
use runtime::random::{Random, id_bits};
use store::Store;
use store::engine::Engine;
use tokio::net::TcpListener;
use tokio::sync::{OnceCell, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{info, warn};

use crate::elections;
use crate::handler::{Contact, Handler};
use crate::lease::{LeaseCell, LeaseTimes, Leadership};
use crate::network::{
    Connector, Identity, NetworkOptions, NetworkParts, PeerEvents, PeerNetworkFactory, PeerService, PeerTable, Proposals,
    ServiceParts, accept_tcp, clear_staging, serve,
};
use crate::proposer::Proposer;
use crate::replica::{Inner, RaftOf, Replica};
use crate::storage::{LogStore, StateMachine};
use crate::type_config::{CommittedLeaderId, Payload, Reply};

/// Format versions of log, snapshots and peer messages that this version reads and writes.
const FORMATS: std::ops::RangeInclusive<u32> = 1..=1;
/// How often a founding node looks for the others, and says whom it waits for.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often the horizon is compared with the checkpoints.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(5);
/// How long the lease may be lost before a leader stops its heartbeats, so that a link that only sends does not keep
/// the others from electing another.
const MUTE_AFTER: Duration = Duration::from_secs(2);

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
    /// The lease profile.
    pub times: LeaseTimes,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Reaches peers.
    pub connector: Arc<dyn Connector>,
    /// The peer port, bound; taken when the replica starts.
    pub listener: Option<TcpListener>,
    /// Where snapshots are staged.
    pub staging: PathBuf,
    /// Bytes free for the data directory above the reserve.
    pub free_bytes: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Alarming news of peers.
    pub events: PeerEvents,
    /// Starts tasks on Raft's own runtime.
    pub spawner: Spawner,
    /// For ids.
    pub random: Random,
}

/// Why a replica cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The node is not among the members it lists.
    #[error("{name} is not among the members of the node file: {listed}")]
    NotListed {
        /// This node.
        name: String,
        /// Who is listed.
        listed: String,
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
    /// Starts a replica: founds the cluster, joins its founding, or returns to it.
    pub async fn start(mut parts: ReplicaParts<E>) -> Result<Self, StartError> {
        // The tasks around Raft end before the store's, which were started by the parent.
        parts.spawner = parts.spawner.child();
        let network_options = NetworkOptions::for_lease(parts.times.lease);
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
        };
        let (identity, identity_seen) = watch::channel(identity);
        let table = PeerTable::new();
        clear_staging(&parts.staging).await?;
        let slot: Arc<OnceCell<Self>> = Arc::default();
        serve_peers(&mut parts, &slot, &identity_seen, &table, &network_options)?;
        let network = PeerNetworkFactory::<RT>::new(NetworkParts {
            identity: identity_seen,
            connector: Arc::clone(&parts.connector),
            options: network_options.clone(),
            table: table.clone(),
            events: parts.events.clone(),
            clock: Arc::clone(&parts.clock),
            spawner: parts.spawner.clone(),
        });

        let founders = match bound {
            Some(_) => None,
            None => Some(found(&mut parts, &network, &identity).await?),
        };
        let node = identity.borrow().node;
        let inner = assemble(&parts, node, network, &network_options, table).await?;
        let replica = Self { inner: Arc::new(inner) };
        if slot.set(replica.clone()).is_err() {
            unreachable!("a replica is started once");
        }
        if let Some(Some(members)) = founders {
            let refused = |error: openraft::errors::RaftError<_, _>| StartError::Raft(error.to_string());
            replica.inner.raft.initialize(members).await.map_err(refused)?;
        }
        replica.start_tasks(identity.borrow().cluster, parts.random);
        Ok(replica)
    }

    fn start_tasks(&self, cluster: ClusterId, random: Random) {
        let spawner = &self.inner.spawner;
        let stop = spawner.token();
        let run = |task: Self| (task, stop.clone());
        let (replica, token) = run(self.clone());
        spawner.spawn("lease", async move { replica.keep_lease(token).await });
        let (replica, token) = run(self.clone());
        spawner.spawn("reign", async move { replica.reign(token, cluster, random).await });
        let (replica, token) = run(self.clone());
        spawner.spawn("elections", async move { replica.campaign(token).await });
        let (replica, token) = run(self.clone());
        spawner.spawn("snapshots", async move { replica.purge_behind_horizon(token).await });
    }

    /// Copies what openraft knows of leadership into the cell.
    async fn keep_lease(self, stop: tokio_util::sync::CancellationToken) -> Result<(), String> {
        let inner = &self.inner;
        let mut metrics = inner.raft.metrics();
        let mut muted_until: Option<Instant> = None;
        loop {
            let (leads, acknowledged) = {
                let seen = metrics.borrow_and_update();
                if let Err(fatal) = &seen.running_state {
                    return if stop.is_cancelled() { Ok(()) } else { Err(format!("raft has ended: {fatal}")) };
                }
                let leads = (seen.state == ServerState::Leader).then_some(Term(seen.current_term));
                let voters: Vec<u64> = seen.membership_config.membership().voter_ids().collect();
                let alone = voters.as_slice() == [inner.node.0];
                let acknowledged = seen.last_quorum_acked.as_ref().map(|at| **at);
                (leads, if alone { Some(Instant::now()) } else { acknowledged.map(to_instant::<RT>) })
            };
            inner.cell.update(leads, acknowledged);
            let now = Instant::now();
            let lost = leads.is_some()
                && acknowledged.is_some_and(|at| now.duration_since(at) > inner.times.lease + MUTE_AFTER);
            match muted_until {
                None if lost => {
                    warn!("no majority has answered for {MUTE_AFTER:?}: heartbeats stop for a while");
                    inner.raft.runtime_config().heartbeat(false);
                    muted_until = Some(now + inner.times.lease * 2);
                }
                Some(until) if leads.is_none() || now >= until => {
                    inner.raft.runtime_config().heartbeat(true);
                    muted_until = None;
                }
                _ => {}
            }
            tokio::select! {
                changed = metrics.changed() => {
                    if changed.is_err() {
                        return if stop.is_cancelled() { Ok(()) } else { Err("raft has ended".to_owned()) };
                    }
                }
                // A single voter gets no acknowledgements; and muting must end although nothing changes.
                () = sleep(inner.times.heartbeat) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Begins this node's reigns: proposes `Lead`, waits for it, hands out leadership; takes it back at the end.
    async fn reign(
        self,
        stop: tokio_util::sync::CancellationToken,
        cluster: ClusterId,
        mut random: Random,
    ) -> Result<(), String> {
        let inner = &self.inner;
        let mut metrics = inner.raft.metrics();
        loop {
            let leads = {
                let seen = metrics.borrow_and_update();
                (seen.state == ServerState::Leader).then_some(Term(seen.current_term))
            };
            let held = inner.leadership.borrow().as_ref().map(Leadership::term);
            if held.is_some() && held != leads {
                info!(term = %held.unwrap_or_default(), "leadership has ended");
                inner.leadership.send_replace(None);
            }
            if let Some(term) = leads
                && held != leads
                && !inner.cell.is_barred(term)
            {
                tokio::select! {
                    () = self.begin_reign(term, cluster, &mut random) => {}
                    () = stop.cancelled() => return Ok(()),
                }
            }
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return Ok(()) },
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    async fn begin_reign(&self, term: Term, cluster: ClusterId, random: &mut Random) {
        let inner = &self.inner;
        let handed_over = inner.contact.was_handed_over(inner.times.lease);
        let cause = if handed_over { Cause::Switchover } else { Cause::Failover };
        let lead = Command::Lead { node: inner.node, name: inner.name.clone(), cause };
        if !self.insist(term, &lead).await {
            return;
        }
        if inner.store.keeper().read(|state| state.cluster.is_none()) {
            let lineage = Lineage::from_random(random.random());
            let found = Command::Found { cluster, name: self.cluster_name(), lineage };
            if !self.insist(term, &found).await {
                return;
            }
        }
        info!(%term, %cause, "leading");
        inner.leadership.send_replace(Some(inner.cell.leadership(term)));
    }

    /// Proposes a command that must come first, until it is applied or the term is over.
    async fn insist(&self, term: Term, command: &Command) -> bool {
        let inner = &self.inner;
        let bytes = match wire::entry::encode(&self.stamp(), command) {
            Ok(bytes) => bytes,
            Err(error) => {
                warn!(%error, "a command cannot be encoded");
                return false;
            }
        };
        loop {
            let (reply, outcome) = oneshot::channel();
            let write = inner.raft.write(Payload(bytes.clone()));
            let write = write.with_leader(CommittedLeaderId::new(term.0)).responder(Reply(reply));
            if write.await.is_err() {
                return false;
            }
            if matches!(outcome.await, Ok(Ok(_))) {
                return true;
            }
            let still_leads = {
                let metrics = inner.raft.metrics();
                let seen = metrics.borrow_watched();
                seen.state == ServerState::Leader && seen.current_term == term.0
            };
            if !still_leads {
                return false;
            }
            // No majority has answered yet: it is about to, or this node will cease to lead.
            sleep(Duration::from_millis(2)).await;
        }
    }

    fn cluster_name(&self) -> String {
        self.inner.cluster_name.clone()
    }

    /// Campaigns in this node's turn.
    async fn campaign(self, stop: tokio_util::sync::CancellationToken) -> Result<(), String> {
        let inner = &self.inner;
        let mut next = inner.contact.quarantine_ends();
        loop {
            tokio::select! {
                () = sleep_until(next) => {}
                () = stop.cancelled() => return Ok(()),
            }
            let now = Instant::now();
            next = now + elections::TURN;
            if now < inner.contact.quarantine_ends() {
                continue;
            }
            inner.raft.runtime_config().elect(self.may_lead());
            let Some(rank) = self.rank() else { continue };
            let turn = elections::turn(inner.contact.last_leader(), rank, &inner.times);
            if turn > now {
                next = turn.min(now + inner.times.lease);
                continue;
            }
            if inner.raft.trigger().elect(true).await.is_err() {
                return Err("raft has ended".to_owned());
            }
        }
    }

    fn may_lead(&self) -> bool {
        self.inner.store.keeper().read(|state| !state.drained.contains_key(&self.inner.node))
    }

    /// This node's turn in an election; none for a leader, a learner, a witness or a drained node.
    fn rank(&self) -> Option<u32> {
        let inner = &self.inner;
        let (voters, leader) = {
            let metrics = inner.raft.metrics();
            let seen = metrics.borrow_watched();
            if seen.state == ServerState::Leader {
                return None;
            }
            let membership = seen.membership_config.membership();
            let voters: Vec<(NodeId, Member)> = membership
                .voter_ids()
                .filter_map(|id| Some((NodeId(id), membership.get_node(&id)?.clone())))
                .collect();
            (voters, seen.current_leader.map(NodeId))
        };
        inner.store.keeper().read(|state| {
            let plant = state.catalog().map(|catalog| Arc::clone(catalog.plant()));
            let preference = |member: &Member| {
                plant.as_ref().and_then(|plant| plant.cluster.preferred.iter().position(|name| *name == member.name))
            };
            let candidates = voters
                .iter()
                .filter(|(node, member)| member.role == Role::Gateway && !state.drained.contains_key(node))
                .map(|(node, member)| (*node, preference(member)));
            elections::rank(inner.node, candidates, leader)
        })
    }

    /// Turns checkpoints that the horizon has passed into snapshots, and purges the log behind them.
    async fn purge_behind_horizon(self, stop: tokio_util::sync::CancellationToken) -> Result<(), String> {
        let inner = &self.inner;
        let mut ticks = interval(SNAPSHOT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut purged = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            let Some(at) = inner.store.keeper().newest_snapshot_position() else { continue };
            if purged >= Some(at) {
                continue;
            }
            let ended = |_| "raft has ended".to_owned();
            inner.raft.trigger().snapshot().await.map_err(ended)?;
            inner.raft.trigger().purge_log(at.index.0).await.map_err(ended)?;
            let snapshot = inner.raft.metrics().borrow_watched().snapshot.as_ref().map(crate::storage::from_log_id);
            if snapshot >= Some(at) {
                purged = Some(at);
            }
        }
    }
}

fn to_instant<RT: AsyncRuntime>(at: openraft::alias::InstantOf<crate::type_config::TypeConfig<RT>>) -> Instant {
    // Every runtime we use has tokio's clock; its age is what counts.
    use openraft::Instant as _;
    Instant::now() - at.elapsed()
}

fn serve_peers<E: Engine, RT: AsyncRuntime>(
    parts: &mut ReplicaParts<E>,
    slot: &Arc<OnceCell<Replica<E, RT>>>,
    identity: &watch::Receiver<Identity>,
    table: &PeerTable,
    options: &NetworkOptions,
) -> Result<(), StartError> {
    let handler = Handler {
        replica: Arc::clone(slot),
        staging: parts.staging.clone(),
        free_bytes: Arc::clone(&parts.free_bytes),
    };
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
    let incoming = accept_tcp(listener, options.keep_alive_timeout);
    let stop = parts.spawner.token().clone();
    parts.spawner.spawn("peer port", async move { serve(service, incoming, stop.cancelled_owned()).await });
    Ok(())
}

/// Waits until it is known which cluster this node belongs to. Returns the members if this node founds it.
async fn found<E: Engine, RT: AsyncRuntime>(
    parts: &mut ReplicaParts<E>,
    network: &PeerNetworkFactory<RT>,
    identity: &watch::Sender<Identity>,
) -> Result<Option<BTreeMap<u64, Member>>, StartError> {
    let place = parts.members.iter().position(|(name, _)| *name == parts.name);
    let Some(place) = place else {
        let listed = parts.members.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(StartError::NotListed { name: parts.name.clone(), listed });
    };
    let node = NodeId(place as u64 + 1);
    let stop = parts.spawner.token().clone();
    let mut waiting_for = String::new();
    loop {
        let (known, missing) = look_around(parts, network, node, identity).await;
        let founded = known.values().find(|peer| !peer.cluster.is_unknown()).map(|peer| peer.cluster);
        let adopted = match founded {
            Some(cluster) => Some((cluster, None)),
            None if missing.is_empty() && place == 0 => {
                let cluster = ClusterId::from(id_bits(&mut parts.random));
                Some((cluster, Some(founding_members(parts, &known))))
            }
            None => None,
        };
        if let Some((cluster, members)) = adopted {
            parts.store.bind(cluster, node).await.map_err(io::Error::from)?;
            identity.send_modify(|identity| (identity.cluster, identity.node) = (cluster, node));
            info!(%cluster, %node, founder = members.is_some(), "belonging to cluster {}", parts.cluster_name);
            if members.is_some() {
                wait_until_others_belong(parts, network, node, identity).await;
            }
            return Ok(members);
        }
        let missing = if missing.is_empty() { parts.members[0].0.clone() } else { missing.join(", ") };
        if missing != waiting_for {
            info!("waiting for {missing} to found cluster {}", parts.cluster_name);
            waiting_for = missing;
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return Err(StartError::Cancelled),
        }
    }
}

/// Gives the other founding members time to take over the cluster's id, so that they answer the first request for a vote.
async fn wait_until_others_belong<E: Engine, RT: AsyncRuntime>(
    parts: &ReplicaParts<E>,
    network: &PeerNetworkFactory<RT>,
    me: NodeId,
    identity: &watch::Sender<Identity>,
) {
    let until = Instant::now() + LOOK_EVERY * 10;
    while Instant::now() < until {
        let (known, _) = look_around(parts, network, me, identity).await;
        let belonging = known.values().filter(|peer| !peer.cluster.is_unknown()).count();
        if belonging == parts.members.len() {
            return;
        }
        sleep(LOOK_EVERY / 4).await;
    }
}

/// Asks every other listed member who it is. Those that do not answer, or are not pristine members of no cluster, are
/// missing.
async fn look_around<E: Engine, RT: AsyncRuntime>(
    parts: &ReplicaParts<E>,
    network: &PeerNetworkFactory<RT>,
    me: NodeId,
    identity: &watch::Sender<Identity>,
) -> (BTreeMap<u64, Identity>, Vec<String>) {
    let mut known = BTreeMap::from([(me.0, identity.borrow().clone())]);
    let mut missing = Vec::new();
    for (id, (name, address)) in (1..).zip(&parts.members) {
        if id == me.0 {
            continue;
        }
        match network.ask(address).await {
            Ok(peer) if peer.name != *name => {
                warn!("{address} is {}, not {name}: compare the member lists of the node files", peer.name);
                missing.push(name.clone());
            }
            Ok(peer) if peer.pristine || !peer.cluster.is_unknown() => {
                known.insert(id, peer);
            }
            Ok(_) => missing.push(name.clone()),
            Err(error) => {
                tracing::debug!(%error, name, "member does not answer yet");
                missing.push(name.clone());
            }
        }
    }
    (known, missing)
}

fn founding_members<E>(parts: &ReplicaParts<E>, known: &BTreeMap<u64, Identity>) -> BTreeMap<u64, Member> {
    let member = |(id, (name, address)): (u64, &(String, String))| {
        let peer = &known[&id];
        let member = Member {
            name: name.clone(),
            address: address.clone(),
            store: peer.store,
            role: peer.role,
            lease: peer.lease,
        };
        (id, member)
    };
    (1..).zip(&parts.members).map(member).collect()
}

async fn assemble<E: Engine, RT: AsyncRuntime>(
    parts: &ReplicaParts<E>,
    node: NodeId,
    network: PeerNetworkFactory<RT>,
    options: &NetworkOptions,
    table: PeerTable,
) -> Result<Inner<E, RT>, StartError> {
    let config = raft_config(&parts.cluster_name, &parts.times).map_err(StartError::Raft)?;
    let machine = StateMachine::new(parts.store.keeper().clone());
    let log = LogStore::new(&parts.store);
    let raft: RaftOf<E, RT> = openraft::Raft::new(node.0, Arc::new(config), network.clone(), log, machine)
        .await
        .map_err(|error| StartError::Raft(error.to_string()))?;
    let (proposer, proposing) = Proposer::new(raft.clone());
    parts.spawner.spawn("proposals", proposing.run(parts.spawner.token().clone()));
    let (leader, leader_seen) = watch::channel(None);
    follow_leader(&raft, node, leader, &parts.spawner);
    let quarantine = if parts.store.is_pristine() { Duration::ZERO } else { parts.times.quarantine() };
    Ok(Inner {
        node,
        name: parts.name.clone(),
        cluster_name: parts.cluster_name.clone(),
        boot: parts.boot,
        times: parts.times,
        clock: Arc::clone(&parts.clock),
        store: parts.store.clone(),
        raft,
        cell: LeaseCell::new(parts.times),
        leadership: watch::Sender::new(None),
        proposer,
        forward: Proposals::start(network, leader_seen, options, &parts.spawner),
        peers: table,
        contact: Contact::new(quarantine),
        spawner: parts.spawner.clone(),
    })
}

/// Tells the forwarder who leads.
fn follow_leader<E: Engine, RT: AsyncRuntime>(
    raft: &RaftOf<E, RT>,
    node: NodeId,
    leader: watch::Sender<Option<(NodeId, Member)>>,
    spawner: &Spawner,
) {
    let mut metrics = raft.metrics();
    let stop = spawner.token().clone();
    spawner.spawn("leader watch", async move {
        loop {
            let current = {
                let seen = metrics.borrow_and_update();
                let membership = seen.membership_config.membership();
                seen.current_leader
                    .filter(|id| *id != node.0)
                    .and_then(|id| Some((NodeId(id), membership.get_node(&id)?.clone())))
            };
            leader.send_if_modified(|known| {
                let changed = *known != current;
                if changed && let Some((_, member)) = &current {
                    info!(leader = member.name, "following");
                }
                *known = current;
                changed
            });
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return Ok::<(), StartError>(()) },
                () = stop.cancelled() => return Ok(()),
            }
        }
    });
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
        send_snapshot_timeout: 60_000,
        ..Config::default()
    };
    config.validate().map_err(|error| error.to_string())
}
