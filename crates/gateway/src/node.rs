//! From a node file to a running node, and back to nothing in order.
//!
//! - Raft has a small runtime of its own, so that nothing else can delay a heartbeat.
//! - Ports are bound and the data directory is opened before anything else starts: what is wrong is said at once.
//! - Stopping in order: hand leadership over, answer what is decided, leave, close the store. Each part has an end, and
//!   whoever waits for a part waits longer than that. Where nobody can take over, nothing is waited for that a majority
//!   would have to say.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use destinations::NodeFacts;
use futures::FutureExt as _;
use model::{BootId, Clock, Permit as _, SessionId, StoreId};
use replication::{
    Belonging, PeerEvent, PeerEvents, Refusal, Replica, ReplicaParts, StartError, TcpConnector,
};
use runtime::random::{generator, id_bits};
use runtime::{Failure, Spawner, Supervisor};
use store::engine::rocks::{self, RocksEngine};
use store::{OpenError, Store, StoreOptions};
use tls::Keeper;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic_health::server::HealthReporter;
use tracing::{error, info, warn};

use crate::admin::AdminService;
use crate::amnesia;
use crate::api;
use crate::config::NodeConfig;
use crate::dialing::Redirecting;
use crate::failback;
use crate::field::FieldDoor;
use crate::health::{self, HealthParts};
use crate::hooks;
use crate::leading::{self, Leading, LeadingParts, Switchover};
use crate::live::Live;
use crate::notice::{self, Boards};
use crate::pushing::{PushedTags, ReplicatedLog};
use crate::roles::RoleLayer;
use crate::security::Security;
use crate::space::{self, Space};
use crate::waiting;
use crate::watching::Watch;

/// Threads of Raft's own runtime.
const RAFT_THREADS: usize = 2;
/// How long the store may take to end.
const GRACE: Duration = Duration::from_secs(10);
/// How long what touches the outside world may take to end, longer than any part of it; hooks come on top.
const OUTER_GRACE: Duration = leading::ENDS_WITHIN.saturating_add(Duration::from_secs(2));
/// For how many leases a leader that gave leadership up waits until it knows who leads.
const LEASES_UNTIL_KNOWN: u32 = 3;

/// Why a node does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A port cannot be bound.
    #[error(
        "HF-1103: cannot listen on {address} ({what}): {source}; is another node running, or the address not of this \
         machine?"
    )]
    Bind {
        /// What for.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] rocks::OpenError),
    /// The store refuses to open.
    #[error("HF-4105: the data directory {path} cannot be opened: {source}")]
    Store {
        /// Where.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// The certificates cannot be used.
    #[error("the certificates cannot be used: {0}")]
    Tls(#[from] tls::UnusableError),
    /// The replica does not start.
    #[error(transparent)]
    Replica(#[from] StartError),
    /// An essential task ended.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The system said no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A node that runs.
pub struct RunningNode {
    /// Absent on a node that lost its memory.
    part: Option<Part>,
    /// Ends first: what touches the outside world.
    outer: Supervisor,
    /// Ends last: Raft and the store.
    inner: Supervisor,
    _raft_runtime: RaftRuntime,
}

/// What takes part in the cluster.
struct Part {
    replica: Replica<RocksEngine>,
    switchover: Switchover,
    /// How long hooks may take: a hand-over waits for them.
    hook_limit: Duration,
}

/// Raft's own runtime. It cannot be waited for where it is dropped; by then nothing of it matters any more.
struct RaftRuntime(Option<tokio::runtime::Runtime>);

impl Drop for RaftRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Listeners, bound.
struct Listeners {
    peers: TcpListener,
    admin: TcpListener,
    health: Option<TcpListener>,
}

/// Where callers come in, and who is let in.
struct Doors {
    admin: TcpListener,
    health: Option<TcpListener>,
    security: Security,
}

impl RunningNode {
    /// Starts a node; resolves when its replica runs, or with the first thing that is wrong. `stop` gives up waiting. A node
    /// whose directory lost what it had acknowledged runs as well, and does nothing but say so.
    pub async fn start(
        config: NodeConfig,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) -> Result<Self, NodeError> {
        let mut random = generator(None);
        let listeners = Listeners::bind(&config).await?;
        std::fs::create_dir_all(&config.data_dir).map_err(|error| rocks::OpenError::Unusable {
            path: config.data_dir.clone(),
            reason: error.to_string(),
        })?;
        let raft_runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RAFT_THREADS)
            .thread_name("raft")
            .enable_all()
            .build()?;
        let on_raft = raft_runtime.handle().clone();
        let raft_runtime = RaftRuntime(Some(raft_runtime));
        let (inner, inner_spawner) = Supervisor::new();
        let (outer, outer_spawner) = Supervisor::new();
        let raft_spawner = inner_spawner.on(on_raft.clone());

        let probe = space::probe(config.data_dir.clone(), config.disk_limit.is_some());
        let (space, space_keeper) = Space::open(&config.data_dir, probe, config.disk_limit)?;
        inner_spawner.spawn("space", space_keeper.run(inner_spawner.token().clone()));
        let security = security(&config, &clock)?;
        let follow = security.clone().follow_files(outer_spawner.token().clone());
        outer_spawner.spawn("certificates", follow);
        let engine = Arc::new(RocksEngine::open(&config.data_dir, &config.memory.database())?);
        let options =
            StoreOptions { tail_bytes: config.memory.tail(), birth: StoreId::from(id_bits(&mut random)) };
        let opened = Store::open(engine, options, &raft_spawner).await;
        let Listeners { peers, admin, health } = listeners;
        let boards = Boards { admin: &admin, health: health.as_ref() };
        let store = match opened {
            Ok(store) => store,
            Err(OpenError::Amnesic { reason }) => {
                amnesia::stand_by(&config, &reason, (peers, boards), &security, clock, &outer_spawner)?;
                return Ok(Self { part: None, outer, inner, _raft_runtime: raft_runtime });
            }
            Err(source) => return Err(NodeError::Store { path: config.data_dir, source }),
        };
        let belonging = Belonging {
            join: config.join.clone(),
            address: config.address.clone(),
            waiting: watch::Sender::new(None),
        };
        let waiting = match store.identity().member {
            Some(_) => None,
            None => {
                let notice = waiting::notice(&config.name, belonging.waiting.subscribe());
                Some(notice::serve(notice, boards, &security, &outer_spawner)?)
            }
        };
        let parts = ReplicaParts {
            store,
            cluster_name: config.cluster.clone(),
            name: config.name.clone(),
            role: config.role,
            boot: BootId::from(id_bits(&mut random)),
            members: config.members.clone(),
            belonging,
            times: config.times,
            windows: config.memory.windows(),
            api: config.api_address(),
            clock: Arc::clone(&clock),
            connector: Arc::new(Redirecting::new(
                security.connector(TcpConnector::new(config.times.lease / 2)),
                config.dial.clone(),
            )),
            acceptor: security.acceptor(),
            listener: Some(peers),
            staging: config.data_dir.join("incoming"),
            free_bytes: Arc::new(move || space.free_bytes()),
            events: PeerEvents::new(report),
            spawner: raft_spawner,
            random: generator(None),
        };
        #[allow(clippy::disallowed_methods, reason = "its end is awaited in the next line")]
        let starting = on_raft.spawn(Replica::start(parts));
        let replica = tokio::select! {
            started = starting => started.map_err(io::Error::other)??,
            () = stop.cancelled() => return Err(NodeError::Replica(StartError::Cancelled)),
        };
        if let Some(waiting) = waiting {
            waiting.cancel();
        }
        let (live, field) = (Live::default(), FieldDoor::default());
        let switchover = start_leading(&config, &replica, &clock, &live, &field, &outer_spawner);
        let yielding = space::hand_over_when_full(replica.clone(), switchover.clone());
        outer_spawner.spawn(
            "room",
            outer_spawner.token().clone().run_until_cancelled_owned(yielding).map(|_| Ok::<(), Failure>(())),
        );
        let service = AdminService::new(
            replica.clone(),
            live,
            switchover.clone(),
            Arc::clone(&clock),
            &*config.cluster,
        )
        .with_certificates(security.keeper().cloned())
        .with_memory(config.memory)
        .with_field(field);
        let doors = Doors { admin, health, security };
        serve(service, &config, &replica, &clock, doors, &outer_spawner);
        info!(node = %replica.node(), name = config.name, cluster = config.cluster, "node is running");
        let part = Some(Part { replica, switchover, hook_limit: config.hooks.timeout });
        Ok(Self { part, outer, inner, _raft_runtime: raft_runtime })
    }

    /// Runs until `stop`, or until something essential fails. Ends in order either way.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), NodeError> {
        let failed = tokio::select! {
            () = stop.cancelled() => None,
            failure = self.outer.failure() => Some(failure),
            failure = self.inner.failure() => Some(failure),
        };
        if let Some(failure) = &failed {
            error!(%failure, "the node ends");
        } else {
            info!("stopping");
            if let Some(part) = &self.part {
                part.yield_leadership().await;
            }
        }
        let hook_limit = self.part.as_ref().map_or(Duration::ZERO, |part| part.hook_limit);
        if !self.outer.shut_down(OUTER_GRACE + hook_limit).await {
            warn!("some tasks were still running at the end");
        }
        if let Some(part) = &self.part {
            part.replica.shut_down().await;
        }
        if !self.inner.shut_down(GRACE).await {
            warn!("the store was still being written at the end");
        }
        match failed {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        }
    }
}

impl Part {
    /// A leader hands over before it goes, if anybody can take over.
    async fn yield_leadership(&self) {
        let Some(held) = self.replica.leadership().borrow().clone() else { return };
        if held.check().is_err() {
            // Without a majority nobody can be elected, and what is not committed will not be.
            warn!("leadership is not handed over: no majority answers");
            return;
        }
        let lease = self.replica.times().lease;
        let given_up = async {
            held.lost(lease).await;
            if held.is_over() {
                sleep(lease * LEASES_UNTIL_KNOWN).await;
            }
        };
        tokio::select! {
            handed_over = self.switchover.request(None) => match handed_over {
                Ok(to) => info!(%to, "leadership was handed over"),
                Err(error) => warn!(%error, "leadership was not handed over"),
            },
            () = given_up => warn!("leadership is given up, and nobody is known to lead yet"),
            () = sleep(OUTER_GRACE + self.hook_limit) => warn!("leadership was not handed over in time"),
        }
    }
}

impl Listeners {
    async fn bind(config: &NodeConfig) -> Result<Self, NodeError> {
        let health = match config.listen.health {
            Some(address) => Some(bind("health", address).await?),
            None => None,
        };
        let peers = bind("peers", config.listen.peers).await?;
        Ok(Self { peers, admin: bind("admin", config.listen.admin).await?, health })
    }
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address).await.map_err(|source| NodeError::Bind { what, address, source })
}

/// TLS with the certificates of the node file, or plaintext.
fn security(config: &NodeConfig, clock: &Arc<dyn Clock>) -> Result<Security, NodeError> {
    let Some(credentials) = config.tls.clone() else {
        info!("plaintext: whoever reaches the ports on this machine's loopback may do everything");
        return Ok(Security::new(None));
    };
    if credentials.key_is_exposed() {
        let key = credentials.files().key.display();
        warn!("HF-1208: everybody on this machine can read {key}: `chmod 600 {key}`");
    }
    info!(subject = credentials.subject().uri(), until = %credentials.certificate().until, "certificate read");
    Ok(Security::new(Some(Keeper::new(credentials, Arc::clone(clock))?)))
}

fn start_leading(
    config: &NodeConfig,
    replica: &Replica<RocksEngine>,
    clock: &Arc<dyn Clock>,
    live: &Live,
    field: &FieldDoor,
    spawner: &Spawner,
) -> Switchover {
    let hooks = hooks::start(config.hooks.clone(), &config.cluster, replica, spawner);
    let (leading, switchover) = Leading::new(LeadingParts {
        replica: replica.clone(),
        clock: Arc::clone(clock),
        live: live.clone(),
        facts: node_facts(config),
        bind: config.field_bind,
        field: field.clone(),
        readings: config.memory.readings(),
        hooks,
        spawner: spawner.clone(),
    });
    spawner.spawn("leading", leading.run());
    let watching = failback::run(replica.clone(), switchover.clone(), spawner.token().clone());
    spawner.spawn("failback", watching);
    switchover
}

fn node_facts(config: &NodeConfig) -> NodeFacts {
    NodeFacts {
        name: config.name.clone(),
        cluster: config.cluster.clone(),
        data_dir: config.data_dir.clone(),
        vars: config.vars.clone(),
    }
}

/// Opens the API and, where it is wanted, the health listener: both tell what the one admin service knows.
fn serve(
    service: AdminService<RocksEngine>,
    config: &NodeConfig,
    replica: &Replica<RocksEngine>,
    clock: &Arc<dyn Clock>,
    Doors { admin, health, security }: Doors,
    spawner: &Spawner,
) {
    let session = SessionId::from(id_bits(&mut generator(None)));
    let log = Arc::new(ReplicatedLog::start(replica.clone(), spawner));
    let tags = Arc::new(PushedTags(replica.clone()));
    let pushes =
        ingest::start(spawner, log, tags, Arc::clone(clock), replica.node(), session, config.memory.pushes());
    let reporter = HealthReporter::new();
    let service = service.keeping_gaps(spawner).reporting_health(reporter.clone(), spawner);
    let routes = api::health_and_reflection(reporter)
        .add_service(service.clone().into_server())
        .add_service(pushes.clone().into_server());
    let watch = Watch::new(service.clone(), node_facts(config));
    spawner.spawn("watch", watch.run(spawner.token().clone()));
    let api = tonic::transport::Server::builder()
        .layer(RoleLayer)
        // A client that is gone without a word must not hold its stream for ever.
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .add_routes(routes);
    let stop = spawner.token().clone();
    let incoming = security.callers(admin);
    spawner.spawn(
        "api",
        async move { api.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await },
    );
    if let Some(listener) = health {
        let stop = spawner.token().clone();
        let parts = HealthParts { admin: service, pushes };
        spawner.spawn("health", health::serve(listener, parts, stop));
    }
}

fn report(event: PeerEvent) {
    match event {
        PeerEvent::LogShortened { node, acknowledged, conflict } => {
            error!(%node, acknowledged, conflict, "a node has lost what it had acknowledged: replace it");
        }
        PeerEvent::Refused { node, refusal: Refusal::Amnesic } => {
            error!(%node, "HF-4104: a node has lost what it had acknowledged: replace it");
        }
        PeerEvent::Refused { node, refusal } => {
            error!(%node, %refusal, "a peer and this node refuse each other")
        }
    }
}
