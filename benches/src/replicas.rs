//! Three replicas in this process, over loopback and RocksDB: the way of a command into the log, and nothing else of a
//! gateway.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::future::try_join_all;
use model::{BootId, Role, StoreId, Term};
use replication::{Belonging, LeaseTimes, PeerEvents, PlainAcceptor, Replica, ReplicaParts, TcpConnector};
use runtime::random::{generator, id_bits};
use runtime::{Supervisor, SystemClock};
use store::engine::rocks::{RocksEngine, RocksOptions};
use store::{Store, StoreOptions};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep, timeout};

/// As a node is put together.
const RAFT_THREADS: usize = 2;
const TAIL_BYTES: usize = 32 << 20;
const FOUNDING: Duration = Duration::from_secs(60);
const TRY_EVERY: Duration = Duration::from_millis(20);
/// How long an orderly end may take.
const GRACE: Duration = Duration::from_secs(20);

/// Three replicas that have found each other.
pub(crate) struct Replicas {
    nodes: Vec<One>,
}

struct One {
    replica: Replica<RocksEngine>,
    supervisor: Supervisor,
    /// Raft's own, as in a node.
    runtime: RaftRuntime,
}

/// Cannot be waited for where it is dropped.
struct RaftRuntime(Option<Runtime>);

impl Drop for RaftRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Replicas {
    /// Founds a cluster whose data directories lie in `folder`.
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Self> {
        let mut listeners = Vec::new();
        let mut members = Vec::new();
        for number in 1..=3 {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            members.push((format!("node-{number}"), listener.local_addr()?.to_string()));
            listeners.push(listener);
        }
        let starting = listeners.into_iter().zip(1..).map(|(listener, number)| {
            One::start(directory(folder, number), format!("node-{number}"), members.clone(), listener)
        });
        let nodes = timeout(FOUNDING, try_join_all(starting)).await.context("no cluster was founded")??;
        let replicas = Self { nodes };
        replicas.leader().await?;
        Ok(replicas)
    }

    /// The replica that leads, and its term.
    pub(crate) async fn leader(&self) -> anyhow::Result<(&Replica<RocksEngine>, Term)> {
        let until = Instant::now() + FOUNDING;
        while Instant::now() < until {
            for node in &self.nodes {
                if let Some(leadership) = &*node.replica.leadership().borrow() {
                    return Ok((&node.replica, leadership.term()));
                }
            }
            sleep(TRY_EVERY).await;
        }
        anyhow::bail!("nobody leads")
    }

    /// Ends all three in order.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        for node in &self.nodes {
            node.replica.shut_down().await;
        }
        for One { replica, supervisor, runtime } in self.nodes {
            drop(replica);
            anyhow::ensure!(supervisor.shut_down(GRACE).await, "a store did not end in time");
            drop(runtime);
        }
        Ok(())
    }
}

/// The data directory of a node.
pub(crate) fn directory(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("node-{number}"))
}

impl One {
    async fn start(
        directory: PathBuf,
        name: String,
        members: Vec<(String, String)>,
        listener: TcpListener,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        let mut random = generator(None);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RAFT_THREADS)
            .thread_name("raft")
            .enable_all()
            .build()?;
        let on_raft = runtime.handle().clone();
        let runtime = RaftRuntime(Some(runtime));
        let (supervisor, spawner) = Supervisor::new();
        let spawner = spawner.on(on_raft.clone());
        let engine = Arc::new(RocksEngine::open(&directory, &RocksOptions::default())?);
        let options = StoreOptions { tail_bytes: TAIL_BYTES, birth: StoreId::from(id_bits(&mut random)) };
        let store = Store::open(engine, options, &spawner).await?;
        let parts = ReplicaParts {
            store,
            cluster_name: "bench".to_owned(),
            name,
            role: Role::Gateway,
            boot: BootId::from(id_bits(&mut random)),
            members,
            belonging: Belonging::default(),
            times: LeaseTimes::LAN,
            windows: replication::Windows::default(),
            api: String::new(),
            clock: Arc::new(SystemClock),
            connector: Arc::new(TcpConnector::new(LeaseTimes::LAN.lease / 2)),
            acceptor: Arc::new(PlainAcceptor),
            listener: Some(Box::new(listener)),
            staging: directory.join("incoming"),
            free_bytes: Arc::new(|| u64::MAX),
            snapshot_bytes: Arc::new(|| u64::MAX),
            events: PeerEvents::new(|event| eprintln!("between replicas: {event:?}")),
            lease_events: replication::LeaseEvents::default(),
            spawner,
            random,
        };
        let replica = on_raft.spawn(Replica::start(parts)).await??;
        Ok(Self { replica, supervisor, runtime })
    }
}
