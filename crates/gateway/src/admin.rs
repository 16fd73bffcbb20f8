//! The gRPC service `holdfast.v1.Admin` of one node.
//!
//! - Reads are served from this node's ledger; changes are proposed through the replica, which reaches the leader.
//! - What only the leader knows or does is answered by it alone: `forward` hands such a call on to it, once.
//! - Every change bears its principal and its reason.
//!
//! `verdict` makes alarms of facts, `views` makes messages of the ledger; `failure` has the codes of all errors.

mod acting;
mod caller;
mod config;
mod failure;
mod forward;
mod gaps;
mod members;
mod operate;
mod probe;
mod retries;
mod service;
mod status;
mod verdict;
mod views;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use model::command::{Command, Request};
use model::plant::document::Patience;
use model::plant::units::format_duration;
use model::{Clock, NodeId, Timestamp};
use replication::{Applied, LeaseTimes, ProposeError, Replica};
use runtime::Spawner;
use store::Outcome;
use store::engine::Engine;
use tls::Keeper;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use wire::proto::v1::admin_server::AdminServer;

pub(crate) use acting::Acting;
pub use acting::LEADER_SERVICE;
pub use caller::{HOP, PRINCIPAL};
pub use failure::{CODE, LEADER};
pub(crate) use verdict::CERTIFICATE_LIMIT;
pub(crate) use verdict::{Facts, complainant, has_grown, is_well, key as alarm_key, severity};

use crate::config::Fence;
use crate::field::FieldDoor;
use crate::leading::Switchover;
use crate::live::Live;
use crate::memory::Memory;
use acting::Absence;
use failure::Failure;
use forward::{Forwarder, connector};
use gaps::GapJournal;

/// How long a change may take; an election fits into it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before a change that surely did not happen is proposed again.
const PROPOSE_AGAIN: Duration = Duration::from_millis(100);
/// How long to wait until this node has applied what the leader has.
const CATCH_UP: Duration = Duration::from_secs(2);
/// How long a call takes at most that hands leadership over: the leader is sought, what is to be done and who goes is
/// written down, leadership goes. Every other call ends sooner by itself, but for a stream, and for a plant in very many
/// parts on slow disks.
pub const LONGEST_CALL: Duration = forward::REACHED_WITHIN
    .saturating_add(PATIENCE.saturating_add(CATCH_UP).saturating_mul(2))
    .saturating_add(members::HANDED_OVER_WITHIN);
/// Largest request and answer: a bundle with its names.
const MAX_MESSAGE: usize = (64 << 20) + (1 << 20);

/// The service. Cheap to clone.
pub struct AdminService<E: Engine> {
    replica: Replica<E>,
    live: Live,
    switchover: Switchover,
    clock: Arc<dyn Clock>,
    /// The cluster's name in the node file: what the ledger says once it is founded.
    cluster: Arc<str>,
    memory: Memory,
    fence: Fence,
    gaps: GapJournal,
    certificates: Option<Keeper>,
    forwarder: Forwarder,
    absence: Absence,
    field: FieldDoor,
    /// Ends what goes on until somebody ends it: watching.
    stop: CancellationToken,
}

impl<E: Engine> Clone for AdminService<E> {
    fn clone(&self) -> Self {
        Self {
            replica: self.replica.clone(),
            live: self.live.clone(),
            switchover: self.switchover.clone(),
            clock: Arc::clone(&self.clock),
            cluster: Arc::clone(&self.cluster),
            memory: self.memory,
            fence: self.fence,
            gaps: self.gaps.clone(),
            certificates: self.certificates.clone(),
            forwarder: self.forwarder.clone(),
            absence: self.absence.clone(),
            field: self.field.clone(),
            stop: self.stop.clone(),
        }
    }
}

impl<E: Engine> AdminService<E> {
    /// The service over a replica. `cluster` is the cluster's name in the node file.
    pub fn new(
        replica: Replica<E>,
        live: Live,
        switchover: Switchover,
        clock: Arc<dyn Clock>,
        cluster: impl Into<Arc<str>>,
    ) -> Self {
        let gaps = GapJournal::new(clock.now());
        Self {
            replica,
            live,
            switchover,
            clock,
            cluster: cluster.into(),
            memory: Memory::default(),
            fence: Fence::LEASE,
            gaps,
            certificates: None,
            forwarder: Forwarder::new(connector(None)),
            absence: Absence::default(),
            field: FieldDoor::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Says how devices are asked; without it none can be.
    pub fn with_field(self, field: FieldDoor) -> Self {
        Self { field, ..self }
    }

    /// Says whose certificates the node has seen, and with which it asks other nodes; without any it asks in plaintext.
    pub fn with_certificates(self, keeper: Option<Keeper>) -> Self {
        Self { forwarder: Forwarder::new(connector(keeper.clone())), certificates: keeper, ..self }
    }

    /// Says how much memory the node may use.
    pub fn with_memory(self, memory: Memory) -> Self {
        Self { memory, ..self }
    }

    /// Says what stands behind the lease.
    pub fn with_fence(self, fence: Fence) -> Self {
        Self { fence, ..self }
    }

    /// Starts the task that notes gaps as they are applied, and ends with `spawner` what somebody watches. Without it
    /// only gaps still in the buffer are known.
    pub fn keeping_gaps(self, spawner: &Spawner) -> Self {
        let (journal, keeper) = (self.gaps.clone(), self.replica.store().keeper().clone());
        let stop = spawner.token().clone();
        spawner.spawn("gap journal", async move {
            journal.follow(keeper, stop).await;
            Ok::<(), ProposeError>(())
        });
        Self { stop: spawner.token().clone(), ..self }
    }

    /// The tonic service with its message limits, ready to be mounted.
    pub fn into_server(self) -> AdminServer<Self> {
        AdminServer::new(self).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
    }

    /// The status as this node sees it, for the health listener.
    pub(crate) fn status_here(&self) -> wire::proto::v1::ClusterStatus {
        self.cluster_status(None)
    }

    /// The devices as this node sees them, for the health listener.
    pub(crate) fn devices_here(&self) -> Vec<wire::proto::v1::Device> {
        self.devices(self.replica().status().holds_lease)
    }

    /// The devices. `watching` says whether this node reads them.
    fn devices(&self, watching: bool) -> Vec<wire::proto::v1::Device> {
        let (live, patience) = (self.live().devices(), self.patience());
        let keeper = self.replica().store().keeper();
        let answered = keeper.answered();
        keeper.read(|state| views::devices(state, &answered, &live, &patience, watching))
    }

    /// How long devices may take to answer in this cluster.
    fn patience(&self) -> Patience {
        let lease = self.replica().lease();
        let by = match LeaseTimes::profile_of(lease) {
            Some(profile) => format!("the lease of profile {profile}"),
            None => format!("a lease of {}", format_duration(lease)),
        };
        Patience { cap: self.replica().usual_operation(), by }
    }

    /// What this process holds in memory, and what it may.
    pub(crate) fn memory(&self) -> wire::proto::v1::MemoryUse {
        wire::proto::v1::MemoryUse {
            resident_bytes: runtime::resident_bytes(),
            limit_bytes: self.memory.limit(),
        }
    }

    /// Whether a majority is known to answer.
    pub(crate) fn has_majority(&self) -> bool {
        self.has_quorum(&self.replica().status())
    }

    pub(crate) fn replica(&self) -> &Replica<E> {
        &self.replica
    }

    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    /// The journal of gaps, up to what this node has applied.
    fn gaps(&self) -> &GapJournal {
        self.gaps.catch_up(self.replica.store().keeper());
        &self.gaps
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Certificates of this node and of those it has met, with their dates.
    fn certificates(&self) -> Vec<tls::CertificateDates> {
        self.certificates.as_ref().map(Keeper::certificates).unwrap_or_default()
    }

    /// Proposes a command, again where it surely did not happen, and waits until this node has applied it: whoever is
    /// answered can read what they wrote.
    async fn change(&self, command: &Command) -> Result<Applied, Failure> {
        self.change_within(PATIENCE, command).await
    }

    /// The same, for what may take longer.
    async fn change_within(&self, patience: Duration, command: &Command) -> Result<Applied, Failure> {
        if self.replica().is_removed() {
            return Err(Failure::Removed);
        }
        let until = Instant::now() + patience;
        let applied = loop {
            // Sent to a leader that is gone, its outcome would not be known; not sent, it surely did not happen.
            if self.acting() == Acting::Nobody {
                if Instant::now() + PROPOSE_AGAIN > until {
                    return Err(self.no_leader());
                }
                sleep(PROPOSE_AGAIN).await;
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.replica().propose(command, left).await {
                Ok(applied) => break applied,
                Err(
                    ProposeError::NotLeader { .. } | ProposeError::Unreachable(_) | ProposeError::NoQuorum,
                ) if Instant::now() + PROPOSE_AGAIN < until => {
                    sleep(PROPOSE_AGAIN).await;
                }
                Err(error) => return Err(Failure::from_propose(error, patience)),
            }
        };
        let mut reached = self.replica().store().keeper().applied();
        let caught_up = reached.wait_for(|position| *position >= applied.position);
        if tokio::time::timeout(CATCH_UP, caught_up).await.is_err() {
            tracing::debug!(position = %applied.position, "this node has not yet applied what it was told is done");
        }
        match applied.outcome {
            Outcome::Refused(refusal) => Err(refusal.into()),
            _ => Ok(applied),
        }
    }

    /// The name of a member, or its number where it has none.
    fn name_of(&self, node: NodeId) -> String {
        let status = self.replica().status();
        status.members.get(&node).map_or_else(|| format!("node {node}"), |member| member.name.clone())
    }
}

/// The answer to a caller whose role is not enough.
pub(crate) fn forbidden(method: &str, needs: &'static str, caller: &tls::Subject) -> tonic::Status {
    Failure::Forbidden { method: method.to_owned(), needs, has: caller.to_string() }.into()
}

fn request(principal: &str, reason: &str) -> Request {
    Request { principal: principal.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
