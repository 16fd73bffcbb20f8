//! What a node stands on, opened in order: ports, disk, certificates, store, and on them the replica.
//!
//! - Ports are bound and the data directory is opened before anything else starts: what is wrong is said at once.
//! - Raft has a small runtime of its own, so that nothing else can delay a heartbeat.
//! - As long as the node belongs to no cluster, its ports say what it waits for.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::{BootId, Clock, StoreId};
use replication::{
    Belonging, LeaseEvents, PeerEvent, PeerEvents, Refusal, Replica, ReplicaParts, StartError, TcpConnector,
};
use runtime::random::{Random, branch, id_bits};
use runtime::{DeadMan, Lapse, Spawner};
use store::engine::rocks::{Claim, RocksEngine};
use store::{OpenError, Store, StoreOptions};
use tls::Keeper;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::NodeError;
use crate::config::{Fence, NodeConfig};
use crate::dialing::Redirecting;
use crate::notice::{self, Boards};
use crate::security::Security;
use crate::space::{self, Space};
use crate::waiting;

/// Threads of Raft's own runtime.
const RAFT_THREADS: usize = 2;

/// How long the end of Raft's runtime is waited for; longer only takes a disk that does not answer.
const RAFT_ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Raft's own runtime. When it is dropped its tasks have ended, and with them what they held of the store: a process must not
/// exit while RocksDB is still being closed.
pub(super) struct RaftRuntime(Option<tokio::runtime::Runtime>);

impl RaftRuntime {
    /// Starts it, and gives the way to start tasks on it.
    pub(super) fn start() -> io::Result<(Self, Handle)> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RAFT_THREADS)
            .thread_name("raft")
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        Ok((Self(Some(runtime)), handle))
    }
}

impl Drop for RaftRuntime {
    fn drop(&mut self) {
        let Some(runtime) = self.0.take() else { return };
        // On a thread of its own: no runtime can be waited for where tasks of another one run.
        let ending = std::thread::Builder::new().name("raft-end".to_owned());
        let ended = ending.spawn(move || runtime.shutdown_timeout(RAFT_ENDS_WITHIN));
        if ended.map(std::thread::JoinHandle::join).is_ok_and(|ended| ended.is_ok()) {
            return;
        }
        error!("the threads of Raft did not end in order");
    }
}

/// Listeners, bound.
pub(super) struct Listeners {
    pub(super) peers: TcpListener,
    pub(super) admin: TcpListener,
    pub(super) health: Option<TcpListener>,
}

impl Listeners {
    pub(super) async fn bind(config: &NodeConfig) -> Result<Self, NodeError> {
        let health = match config.listen.health {
            Some(address) => Some(bind("health", address).await?),
            None => None,
        };
        let peers = bind("peers", config.listen.peers).await?;
        Ok(Self { peers, admin: bind("admin", config.listen.admin).await?, health })
    }
}

/// What a node is started with.
pub(super) struct Starting<'a> {
    pub(super) config: &'a NodeConfig,
    pub(super) clock: &'a Arc<dyn Clock>,
    /// What all parts of the node draw from.
    pub(super) random: Random,
    /// Starts the tasks of Raft and the store.
    pub(super) raft: Spawner,
    pub(super) on_raft: Handle,
    /// Starts what else ends last.
    pub(super) inner: Spawner,
    /// Starts what touches the outside world.
    pub(super) outer: Spawner,
    /// Tells the egress lease, where there is one, what operations rely on.
    pub(super) egress: Option<watch::Sender<Option<Lapse>>>,
}

/// Why this node takes part no more: it lost what it had acknowledged.
pub(super) struct Amnesic(pub(super) String);

/// What was opened.
pub(super) struct Ground {
    pub(super) space: Space,
    pub(super) security: Security,
    pub(super) store: Result<Store<RocksEngine>, Amnesic>,
}

impl Starting<'_> {
    /// Opens the disk, the certificates and the store.
    pub(super) async fn open(&mut self) -> Result<Ground, NodeError> {
        let config = self.config;
        // Nothing is written there before: it may be somebody else's, or another node's that runs.
        let claim = Claim::take(&config.data_dir)?;
        let probe = space::probe(config.data_dir.clone(), config.disk_limit.is_some());
        let (space, space_keeper) = Space::open(&config.data_dir, probe, config.disk_limit)?;
        self.inner.spawn("space", space_keeper.run(self.inner.token().clone()));
        let security = security(config, self.clock)?;
        let follow = security.clone().follow_files(self.outer.token().clone());
        self.outer.spawn("certificates", follow);
        let engine = Arc::new(RocksEngine::open_claimed(claim, &config.memory.database())?);
        let birth = StoreId::from(id_bits(&mut self.random));
        let options = StoreOptions { tail_bytes: config.memory.tail(), birth };
        let store = match Store::open(engine, options, &self.raft).await {
            Ok(store) => Ok(store),
            Err(OpenError::Amnesic { reason }) => Err(Amnesic(reason)),
            Err(source) => return Err(NodeError::Store { path: config.data_dir.clone(), source }),
        };
        Ok(Ground { space, security, store })
    }

    /// Starts the replica, which founds its cluster, finds it again or joins it; `stop` gives up waiting.
    pub(super) async fn replica(
        &mut self,
        store: Store<RocksEngine>,
        space: Space,
        security: &Security,
        (peers, boards): (TcpListener, Boards<'_>),
        stop: &CancellationToken,
    ) -> Result<Replica<RocksEngine>, NodeError> {
        let config = self.config;
        let belonging = Belonging {
            join: config.join.clone(),
            address: config.address.clone(),
            waiting: watch::Sender::new(None),
        };
        let waiting = match store.identity().member {
            Some(_) => None,
            None => {
                let notice = waiting::notice(&config.name, belonging.waiting.subscribe());
                Some(notice::serve(notice, boards, security, &self.outer)?)
            }
        };
        let parts = ReplicaParts {
            store,
            cluster_name: config.cluster.clone(),
            name: config.name.clone(),
            role: config.role,
            boot: BootId::from(id_bits(&mut self.random)),
            members: config.members.clone(),
            belonging,
            times: config.times,
            windows: config.memory.windows(),
            api: config.api_address(),
            clock: Arc::clone(self.clock),
            connector: Arc::new(Redirecting::new(
                security.connector(TcpConnector::new(config.times.lease / 2)),
                config.dial.clone(),
            )),
            acceptor: security.acceptor(),
            listener: Some(Box::new(peers)),
            staging: config.data_dir.join("incoming"),
            free_bytes: Arc::new({
                let space = space.clone();
                move || space.free_bytes()
            }),
            snapshot_bytes: Arc::new(move || space.snapshot_bytes()),
            events: PeerEvents::new(report),
            lease_events: lease_events(config.fence, self.egress.take()).map_err(NodeError::DeadMan)?,
            spawner: self.raft.clone(),
            random: branch(&mut self.random),
        };
        #[allow(clippy::disallowed_methods, reason = "its end is awaited in the next line")]
        let starting = self.on_raft.spawn(Replica::start(parts));
        let replica = tokio::select! {
            started = starting => started.map_err(io::Error::other)??,
            () = stop.cancelled() => return Err(NodeError::Replica(StartError::Cancelled)),
        };
        if let Some(waiting) = waiting {
            waiting.cancel();
        }
        Ok(replica)
    }
}

/// Whoever keeps this process, and what it has sent, from outliving its lease.
fn lease_events(fence: Fence, egress: Option<watch::Sender<Option<Lapse>>>) -> io::Result<LeaseEvents> {
    if !fence.dead_man {
        info!("[fence] dead-man = false: the kernel lets this process go on however long it stood still");
    }
    let dead_man = fence.dead_man.then(DeadMan::start).transpose()?;
    Ok(LeaseEvents::new(move |lapse| {
        if let Some(dead_man) = &dead_man {
            dead_man.follow(lapse);
        }
        if let Some(egress) = &egress {
            egress.send_replace(lapse);
        }
    }))
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

fn report(event: PeerEvent) {
    match event {
        PeerEvent::LogShortened { node, acknowledged, conflict } => {
            error!(%node, acknowledged, conflict, "HF-4104: a node has lost what it had acknowledged: replace it");
        }
        PeerEvent::Refused { node, refusal: Refusal::Amnesic } => {
            error!(%node, "HF-4104: a node has lost what it had acknowledged: replace it");
        }
        PeerEvent::Refused { node, refusal } => {
            error!(%node, %refusal, "a peer and this node refuse each other")
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn whoever_has_dropped_the_runtime_of_raft_finds_nothing_of_it_left() {
        let (runtime, on_raft) = RaftRuntime::start().expect("threads can be started");
        let store = Arc::new(());
        let (begins, begun) = oneshot::channel();
        let held = Arc::clone(&store);
        on_raft.spawn_blocking(move || {
            begins.send(()).expect("the test waits for it");
            // Closing a database takes its time.
            std::thread::sleep(Duration::from_millis(100));
            drop(held);
        });
        begun.await.expect("it begins");
        drop(runtime);
        assert_eq!(Arc::strong_count(&store), 1);
    }
}
