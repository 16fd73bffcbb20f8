//! What stands behind the peer port: openraft, and the rules that it does not know.
//!
//! - A vote leaves this node only outside quarantine, and only when no leadership of its own can still be live.
//! - A vote refused to a candidate with a shorter log is noted: if nobody else can win, this node must pass on what it has.
//! - Hearing from a leader is noted when openraft has accepted what it sent.
//! - A node whose disk takes no entries any more still takes a snapshot that fits: what the log held is given back behind
//!   it, and nothing else could bring such a node back.
//! - A snapshot is read, checked and written before openraft hears of it: installing it is one commit then. One that
//!   cannot be read is refused, and openraft does not hear of it. What it does not install goes when it is dropped.
//! - Until its replica runs, this node leads nobody.
//! - What opens or closes schedules is stamped anew by the leader: grids lie on its clock, whoever was asked.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use model::command::{Command, Stamp};
use model::{GroupId, Member, NodeId, Term};
use openraft::AsyncRuntime;
use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use store::Keeper;
use store::engine::{Engine, EngineError};
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;
use wire::entry::{EncodeError, Opened};

use crate::joiners::Joiners;
use crate::lease::Leadership;
use crate::network::{
    Applied, Identity, PeerHandler, Place, ProposeError, Refusal, SnapshotFile, SnapshotMeta, Stopped,
    read_staged,
};
use crate::proposer::Pending;
use crate::replica::Replica;
use crate::storage::from_log_id;
use crate::type_config::{LogId, TypeConfig, Vote};

/// The handler of one node; answers once its replica exists.
pub(crate) struct Handler<E: Engine, RT: AsyncRuntime> {
    pub(crate) replica: Arc<OnceCell<Replica<E, RT>>>,
    pub(crate) keeper: Keeper<E>,
    /// The members that this node is founding a cluster with.
    pub(crate) roster: watch::Receiver<BTreeMap<u64, Member>>,
    pub(crate) joiners: Joiners,
    pub(crate) staging: PathBuf,
    /// Bytes free above the reserve.
    pub(crate) free_bytes: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Bytes free for a snapshot.
    pub(crate) snapshot_bytes: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl<E: Engine, RT: AsyncRuntime> Handler<E, RT> {
    fn replica(&self) -> Result<&Replica<E, RT>, Stopped> {
        self.replica.get().ok_or(Stopped)
    }

    /// Does beforehand what can be done of an installation: during it openraft answers no heartbeat and no vote, and a
    /// failure would be the end of this node, whatever it was sent.
    async fn receive(&self, meta: &SnapshotMeta, file: SnapshotFile) -> Result<SnapshotFile, Refusal> {
        let SnapshotFile::Path(path) = &file else { return Ok(file) };
        let last = meta.last_log_id.as_ref().map(from_log_id);
        if last <= self.keeper.read(|state| state.applied) {
            // openraft will not install it.
            return Ok(file);
        }
        let refused = |refusal: Refusal, reason: &dyn Display| {
            tracing::warn!(%reason, "a snapshot cannot be installed");
            refusal
        };
        let bytes = read_staged(path).await;
        let bytes = bytes.map_err(|error| refused(Refusal::DamagedSnapshot, &error))?;
        let received = self.keeper.receive(&bytes).await.map_err(|error| match error {
            EngineError::Damaged(_) => refused(Refusal::DamagedSnapshot, &error),
            EngineError::Failed { .. } => refused(Refusal::Stopped, &error),
        })?;
        if Some(received.at()) != last {
            return Err(refused(Refusal::DamagedSnapshot, &"it is not the one that was announced"));
        }
        Ok(SnapshotFile::Received(Box::new(received)))
    }

    /// Notes a vote that is refused because the candidate lacks what this node has.
    fn note_refusal(&self, last: Option<&LogId>, answer: &VoteResponse<TypeConfig<RT>>) {
        let Ok(replica) = self.replica() else { return };
        let own = replica.inner.store.log().ends().last;
        if !answer.vote_granted && last.map(from_log_id) < own {
            replica.inner.contact.refused_shorter();
        }
    }

    /// Puts the command of another node in the order of proposals, stamped anew where it must be.
    fn begin(&self, command: Bytes) -> Result<Pending, ProposeError> {
        // It is still starting: who led when it ended may be asked again before the others have another leader.
        let replica = self.replica().map_err(|Stopped| ProposeError::NotLeader { leader: None })?;
        // What cannot be read must not be committed: it would stop every node that applies it.
        let opened = wire::entry::open(command.clone());
        let opened = opened.map_err(|error| ProposeError::Invalid(error.to_string()))?;
        let term = replica.inner.leadership.borrow().as_ref().map(Leadership::term);
        let Some(term) = term else {
            // This node itself is nobody to hand on to.
            let leader = replica.status().leader.filter(|leader| *leader != replica.node());
            return Err(ProposeError::NotLeader { leader });
        };
        let elapsed = || replica.store().keeper().elapsed_at_most();
        let stamped = on_our_clock(opened, replica.stamp(), elapsed).transpose();
        let stamped = stamped.map_err(|error| ProposeError::Invalid(error.to_string()))?;
        replica.inner.proposer.try_propose(term, stamped.unwrap_or(command))
    }
}

#[tonic::async_trait]
impl<E: Engine, RT: AsyncRuntime> PeerHandler<RT> for Handler<E, RT> {
    fn member(&self, node: NodeId) -> Option<Member> {
        let metrics = self.replica.get()?.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&node.0).cloned()
    }

    fn was_removed(&self, node: NodeId) -> bool {
        self.keeper.read(|state| state.was_removed(node))
    }

    fn place(&self, asker: &Identity) -> Place {
        let committed = self.keeper.read(|state| state.membership.nodes.clone());
        let members = if committed.is_empty() { self.roster.borrow().clone() } else { committed };
        let is_it = |member: &Member| member.store == asker.store && member.name == asker.name;
        let known = members.iter().find(|(_, member)| is_it(member)).map(|(node, _)| NodeId(*node));
        if known.is_none() && asker.pristine && !members.is_empty() {
            self.joiners.note(asker);
        }
        Place { node: known.unwrap_or_default(), members }
    }

    fn free_bytes(&self) -> u64 {
        (self.free_bytes)()
    }

    fn is_amnesic(&self) -> bool {
        false
    }

    fn may_vote(&self) -> bool {
        self.replica.get().is_some_and(|replica| {
            let is_over = replica.inner.cell.is_over() || runtime::mutant("live-leader-votes");
            Instant::now() >= replica.inner.contact.quarantine_ends() && is_over
        })
    }

    fn may_append(&self) -> Result<(), Refusal> {
        if (self.free_bytes)() == 0 { Err(Refusal::DiskFull) } else { Ok(()) }
    }

    fn may_install(&self, bytes: u64) -> Result<(), Refusal> {
        let fits = installing(bytes) <= (self.snapshot_bytes)() || runtime::mutant("snapshot-is-not-bounded");
        if fits { Ok(()) } else { Err(Refusal::DiskFull) }
    }

    fn staging(&self) -> &Path {
        &self.staging
    }

    fn append(
        &self,
        requests: BoxStream<'static, AppendEntriesRequest<TypeConfig<RT>>>,
    ) -> BoxStream<'static, Result<StreamAppendResult<TypeConfig<RT>>, Stopped>> {
        let Ok(replica) = self.replica() else {
            return futures::stream::iter([Err(Stopped)]).boxed();
        };
        let contact = replica.inner.contact.clone();
        let answers = replica.inner.raft.stream_append(requests);
        let answers = answers.map(move |answer| {
            if !matches!(answer, Ok(Err(StreamAppendError::HigherVote(_))) | Err(_)) {
                contact.heard_leader();
            }
            answer.map_err(|_| Stopped)
        });
        answers.boxed()
    }

    async fn vote(
        &self,
        request: VoteRequest<TypeConfig<RT>>,
    ) -> Result<VoteResponse<TypeConfig<RT>>, Stopped> {
        let last = request.last_log_id;
        let answer = self.replica()?.inner.raft.vote(request).await.map_err(|_| Stopped)?;
        self.note_refusal(last.as_ref(), &answer);
        Ok(answer)
    }

    async fn pre_vote(
        &self,
        request: VoteRequest<TypeConfig<RT>>,
    ) -> Result<VoteResponse<TypeConfig<RT>>, Stopped> {
        let last = request.last_log_id;
        let answer = self.replica()?.inner.raft.pre_vote(request).await.map_err(|_| Stopped)?;
        self.note_refusal(last.as_ref(), &answer);
        Ok(answer)
    }

    async fn transfer_leader(
        &self,
        request: TransferLeaderRequest<TypeConfig<RT>>,
    ) -> Result<TransferLeaderResponse<TypeConfig<RT>>, Stopped> {
        let inner = &self.replica()?.inner;
        let asked_by = Term(request.from_leader().leader_id().term);
        inner.contact.asked_to_take_over(asked_by);
        inner.raft.handle_transfer_leader(request).await.map_err(|_| Stopped)
    }

    async fn install_snapshot(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        file: SnapshotFile,
    ) -> Result<Vote, Refusal> {
        let inner = &self.replica()?.inner;
        let snapshot = Snapshot { snapshot: self.receive(&meta, file).await?, meta };
        let answer = inner.raft.install_full_snapshot(vote, snapshot).await.map_err(|_| Stopped)?;
        if answer.vote == vote {
            inner.contact.heard_leader();
        }
        Ok(answer.vote)
    }

    fn propose(
        &self,
        command: Bytes,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Applied, ProposeError>> {
        let pending = self.begin(command);
        async move {
            let answer = pending?.answer();
            tokio::time::timeout(patience, answer).await.unwrap_or(Err(ProposeError::Unknown))
        }
        .boxed()
    }
}

/// What installing a snapshot of so many bytes takes of a disk, before anything below it goes: the staged file, the
/// checkpoint, and its rows in the engine's log and in its tables.
fn installing(bytes: u64) -> u64 {
    const BESIDE: u64 = 1 << 20;
    bytes.saturating_mul(4).saturating_add(BESIDE)
}

/// A command that opens or closes schedules, as if this node had proposed it with `our` stamp; `None` for every other
/// command.
fn on_our_clock(
    opened: Opened,
    our: Stamp,
    ours: impl FnOnce() -> Vec<(GroupId, Duration)>,
) -> Option<Result<Bytes, EncodeError>> {
    let Opened { stamp, mut command, .. } = opened;
    *command.elapsed_at_most_mut()? = ours();
    // "For four hours" means four hours from now, whatever the clock that it was counted on shows. Where a device is put
    // back it names the order that is taken back.
    if let Command::SetDeviceEnabled { enabled: false, until, .. } = &mut command {
        *until = until.map(|until| our.at.plus_nanos(until.nanos_since(stamp.at)));
    }
    Some(wire::entry::encode(&our, &command))
}

#[cfg(test)]
mod tests {
    use model::command::Request;
    use model::ids::{DocumentId, Revision};
    use model::{Lineage, Position, Timestamp};
    use runtime::Supervisor;
    use store::engine::sim::{SimDisk, SimEngine};
    use store::{Body, Store, StoreOptions};

    use super::*;
    use crate::chance::SeededRuntime;
    use crate::lease::LeaseTimes;
    use crate::trial::Cluster;

    const NOW: Timestamp = Timestamp(1_000_000_000_000);
    const OURS: u128 = 9;

    fn stamped(command: &Command) -> Option<Opened> {
        let wrong = Stamp { at: Timestamp(77), boot: 3.into() };
        let bytes = wire::entry::encode(&wrong, command).expect("it can be encoded");
        let opened = wire::entry::open(bytes).expect("it was just encoded");
        let elapsed = || vec![(GroupId(1), Duration::from_secs(2))];
        let our = Stamp { at: NOW, boot: OURS.into() };
        let bytes = on_our_clock(opened, our, elapsed)?.expect("it can be encoded");
        Some(wire::entry::open(bytes).expect("it was just encoded"))
    }

    #[test]
    fn a_schedule_opens_on_the_leaders_clock_whoever_was_asked() {
        let disable = Command::SetDeviceEnabled {
            device: "press".into(),
            enabled: false,
            until: Some(Timestamp(77 + 5)),
            elapsed: Vec::new(),
            request: Request::default(),
        };
        let opened = stamped(&disable).expect("it closes a schedule");
        assert_eq!(opened.stamp, Stamp { at: NOW, boot: OURS.into() }, "it moves command time, as ours do");
        let Command::SetDeviceEnabled { until, elapsed, .. } = opened.command else {
            panic!("the same command")
        };
        assert_eq!((until, elapsed.len()), (Some(NOW.plus_nanos(5)), 1));
        let staged = Command::ConfigureStaged {
            base: Revision(1),
            document: DocumentId::from(7),
            elapsed: Vec::new(),
            discard: Vec::new(),
            request: Request::default(),
        };
        assert_eq!(stamped(&staged).expect("it opens schedules").stamp.at, NOW);
    }

    /// The handler of a node that is starting, with so much room for entries and for a snapshot.
    async fn starting(entries: u64, snapshot: u64) -> (Handler<SimEngine, SeededRuntime>, Supervisor) {
        let (supervisor, spawner) = Supervisor::new();
        let engine = SimEngine::open(&SimDisk::new(7)).expect("a fresh disk opens");
        let options = StoreOptions { tail_bytes: 1 << 20, birth: 7.into() };
        let store = Store::open(Arc::new(engine), options, &spawner).await.expect("a new store opens");
        let handler = Handler {
            replica: Arc::default(),
            keeper: store.keeper().clone(),
            roster: watch::channel(BTreeMap::new()).1,
            joiners: Joiners::default(),
            staging: PathBuf::new(),
            free_bytes: Arc::new(move || entries),
            snapshot_bytes: Arc::new(move || snapshot),
        };
        (handler, supervisor)
    }

    #[tokio::test]
    async fn a_disk_that_takes_no_entries_takes_a_snapshot_while_it_fits_four_times() {
        let (handler, _supervisor) = starting(0, 24 << 20).await;
        assert_eq!(handler.may_append(), Err(Refusal::DiskFull));
        assert_eq!(handler.may_install(5 << 20), Ok(()));
        assert_eq!(handler.may_install(6 << 20), Err(Refusal::DiskFull));
        assert_eq!(handler.may_install(u64::MAX), Err(Refusal::DiskFull));
    }

    #[tokio::test]
    async fn a_snapshot_that_cannot_be_read_is_refused_and_no_error_of_this_node() {
        let (handler, _supervisor) = starting(u64::MAX, u64::MAX).await;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("staged");
        std::fs::write(&path, b"of a version that is not known here").expect("writable");
        let meta = SnapshotMeta { last_log_id: Some(LogId::new(1.into(), 9)), ..SnapshotMeta::default() };
        let received = handler.receive(&meta, SnapshotFile::Path(path)).await;
        assert!(matches!(received, Err(Refusal::DamagedSnapshot)), "{received:?}");
    }

    #[tokio::test]
    async fn a_snapshot_that_is_not_the_one_announced_is_refused() {
        let (sender, _senders) = starting(u64::MAX, u64::MAX).await;
        let found =
            Command::Found { cluster: 7.into(), name: String::new(), lineage: Lineage::from_random(7) };
        let bytes =
            wire::entry::encode(&Stamp { at: NOW, boot: 3.into() }, &found).expect("it can be encoded");
        let at = store::LogId { term: Term(1), index: Position(9) };
        sender.keeper.apply(at, &Body::Command(bytes)).expect("it can be read");
        sender.keeper.write_checkpoint().await.expect("the disk works");
        let snapshot = sender.keeper.newest_snapshot().expect("it can be read").expect("it was just written");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("staged");
        std::fs::write(&path, &snapshot.bytes).expect("writable");

        let (handler, _supervisor) = starting(u64::MAX, u64::MAX).await;
        for (announced, is_it) in [(10, false), (9, true)] {
            let last_log_id = Some(LogId::new(1.into(), announced));
            let meta = SnapshotMeta { last_log_id, ..SnapshotMeta::default() };
            let received = handler.receive(&meta, SnapshotFile::Path(path.clone())).await;
            assert_eq!(received.is_ok(), is_it, "announced: {announced}, found {received:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_of_a_leader_whose_term_is_over_is_no_sign_of_one() {
        let cluster = Cluster::found([LeaseTimes::LAN]).await;
        let (handler, _supervisor) = starting(u64::MAX, u64::MAX).await;
        assert!(handler.replica.set(cluster.replica(1).clone()).is_ok(), "nobody else has set it");
        let vote = Vote::new_committed(0, 2);
        let answer =
            handler.install_snapshot(vote, SnapshotMeta::default(), SnapshotFile::Bytes(Bytes::new())).await;
        assert!(matches!(answer, Ok(later) if later != vote), "expected a later vote, found {answer:?}");
        assert_eq!(cluster.replica(1).inner.contact.heard(), None);
    }

    #[tokio::test]
    async fn a_node_that_is_still_starting_is_no_leader() {
        let (handler, _supervisor) = starting(u64::MAX, u64::MAX).await;
        let command = Command::Truncate { below: 7.into(), overrun: None };
        let stamp = Stamp { at: NOW, boot: 3.into() };
        let bytes = wire::entry::encode(&stamp, &command).expect("it can be encoded");
        let answer = handler.propose(bytes, Duration::from_secs(1)).await;
        assert_eq!(answer, Err(ProposeError::NotLeader { leader: None }), "nothing of it has ended");
    }

    #[test]
    fn other_commands_stay_as_they_were_proposed() {
        assert_eq!(stamped(&Command::Truncate { below: 7.into(), overrun: None }), None);
    }
}
