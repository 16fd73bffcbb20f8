//! From a node file to a running node, and back to nothing in order.
//!
//! - What it stands on is opened first (`starting`), what is asked of it last (`serving`).
//! - Stopping in order: hand leadership over, answer what is decided, leave, close the store. Each part has an end, and
//!   whoever waits for a part waits longer than that. Where nobody can take over, nothing is waited for that a majority
//!   would have to say.

mod serving;
mod starting;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use destinations::NodeFacts;
use drivers::modbus::Origin;
use model::Clock;
use replication::{Replica, StartError};
use runtime::random::{Random, branch};
use runtime::{Failure, Supervisor};
use store::OpenError;
use store::engine::rocks::{self, RocksEngine};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::AdminService;
use crate::amnesia;
use crate::config::NodeConfig;
use crate::duties::{Duties, DutyParts};
use crate::egress::{self, Gate};
use crate::field::FieldDoor;
use crate::leading::{self, Switchover};
use crate::live::Live;
use crate::notice::Boards;
use crate::systemd::{Herald, Manager};
use serving::Doors;
use starting::{Amnesic, Ground, Listeners, RaftRuntime, Starting};

/// How long the store may take to end.
const GRACE: Duration = Duration::from_secs(10);
/// How long what touches the outside world may take to end, longer than any part of it; hooks come on top.
const OUTER_GRACE: Duration = leading::ENDS_WITHIN.saturating_add(Duration::from_secs(2));
/// For how many leases a leader that gave leadership up waits until somebody reigns.
const LEASES_UNTIL_KNOWN: u32 = 4;

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
    #[error(
        "HF-4105: the data directory {path} cannot be opened: {source}; look at the disk, then replace this node"
    )]
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
    /// The system has no timer that ends this process.
    #[error(
        "HF-1105: the system gives this node no timer that would end it if it stood still: {0}; raise its limit of pending \
         signals (`ulimit -i`), in a container put an init before it (`docker run --init`), or do without: `dead-man = false` \
         in [fence]"
    )]
    DeadMan(#[source] io::Error),
    /// nftables does not do what it should.
    #[error(
        "HF-1106: nftables cannot hold back what this node would send to devices: {0}; give it CAP_NET_ADMIN and the program \
         nft, or do without: `nftables = false` in [fence]"
    )]
    Egress(#[source] io::Error),
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
    herald: Herald,
    _raft_runtime: RaftRuntime,
}

/// What takes part in the cluster.
struct Part {
    replica: Replica<RocksEngine>,
    switchover: Switchover,
    /// How long hooks may take: a hand-over waits for them.
    hook_limit: Duration,
}

impl RunningNode {
    /// Starts a node; resolves when its replica runs, or with the first thing that is wrong. `stop` gives up waiting. A node
    /// whose directory lost what it had acknowledged runs as well, and does nothing but say so. All that it draws is drawn
    /// from `random`.
    ///
    /// A node has its process for itself: with `[fence] dead-man`, which is the default, the kernel ends all of it when it
    /// stands still.
    pub async fn start(
        config: NodeConfig,
        clock: Arc<dyn Clock>,
        random: Random,
        stop: CancellationToken,
    ) -> Result<Self, NodeError> {
        let listeners = Listeners::bind(&config).await?;
        let (raft_runtime, on_raft) = RaftRuntime::start()?;
        let (inner, inner_spawner) = Supervisor::new();
        let (outer, outer_spawner) = Supervisor::new();
        let mut starting = Starting {
            config: &config,
            clock: &clock,
            random,
            raft: inner_spawner.on(on_raft.clone()),
            on_raft,
            inner: inner_spawner,
            egress: None,
            outer: outer_spawner.clone(),
        };
        let Ground { space, security, store } = starting.open().await?;
        let herald = Herald::start(Manager::of_this_process(), &outer_spawner);
        let Listeners { peers, admin, health } = listeners;
        let boards = Boards { admin: &admin, health: health.as_ref(), herald: &herald };
        let store = match store {
            Ok(store) => store,
            Err(Amnesic(reason)) => {
                let clock = Arc::clone(&clock);
                amnesia::stand_by(&config, &reason, (peers, boards), &security, clock, &outer_spawner)?;
                return Ok(Self { part: None, outer, inner, herald, _raft_runtime: raft_runtime });
            }
        };
        let mut gate = Gate::default();
        if config.fence.nftables {
            let egress = egress::start(config.listen.admin.port(), &starting.inner).await;
            let egress = egress.map_err(NodeError::Egress)?;
            starting.egress = Some(egress.told);
            gate = egress.gate;
        }
        let replica = starting.replica(store, space, &security, (peers, boards), &stop).await?;
        let (live, field) = (Live::default(), FieldDoor::default());
        let mark = config.fence.nftables.then(|| egress::mark(config.listen.admin.port()));
        let Duties { switchover, pushes } = Duties::start(DutyParts {
            replica: replica.clone(),
            clock: Arc::clone(&clock),
            live: live.clone(),
            destinations: Arc::new(node_facts(&config)),
            dialler: Arc::new(Origin { bind: config.field_bind, mark }),
            gate,
            field: field.clone(),
            memory: config.memory,
            hooks: config.hooks.clone(),
            random: branch(&mut starting.random),
            spawner: outer_spawner.clone(),
        });
        let service = AdminService::new(
            replica.clone(),
            live,
            switchover.clone(),
            Arc::clone(&clock),
            &*config.cluster,
        )
        .with_certificates(security.keeper().cloned())
        .with_memory(config.memory)
        .with_fence(config.fence)
        .with_field(field);
        let doors = Doors { admin, health, security };
        herald.runs(service.clone());
        serving::serve(service, pushes, &config, doors, &outer_spawner);
        info!(node = %replica.node(), name = config.name, cluster = config.cluster, "node is running");
        let part = Some(Part { replica, switchover, hook_limit: config.hooks.timeout });
        Ok(Self { part, outer, inner, herald, _raft_runtime: raft_runtime })
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
            self.herald.ends(&failure.to_string());
        } else {
            info!("stopping");
            self.herald.ends("stopping");
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
        // A lease that has run out may be that of a slow disk: that no majority answers is found out below.
        let Some(held) = self.replica.leadership().borrow().clone() else { return };
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
            () = given_up => warn!("leadership is given up, and nobody is known to reign yet"),
            () = sleep(OUTER_GRACE + self.hook_limit) => warn!("leadership was not handed over in time"),
        }
    }
}

fn node_facts(config: &NodeConfig) -> NodeFacts {
    NodeFacts {
        name: config.name.clone(),
        cluster: config.cluster.clone(),
        data_dir: config.data_dir.clone(),
        vars: config.vars.clone(),
    }
}
