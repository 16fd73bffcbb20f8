//! openraft's view of the store: the log, the state machine, and translations of what they hold.
//!
//! Nothing is decided here. Errors of the store pass through; openraft treats each as the end, and so do we.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use model::ids::Term;
use model::{Member, NodeId, Position};
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::entry::RaftEntry;
use openraft::storage::{
    EntryResponder, IOFlushed, LogState, RaftLogStorage, RaftStateMachine, Snapshot, SnapshotMeta,
};
use openraft::{
    AsyncRuntime, EntryPayload, OptionalSend, RaftLogReader, RaftSnapshotBuilder, StoredMembership,
};
use store::engine::Engine;
use store::{Body, Keeper, Log, Store};

use crate::network::{SnapshotFile, read_staged};
use crate::type_config::{CommittedLeaderId, Entry, LogId, Payload, TypeConfig, Vote};

/// Bytes of entries that one replication request carries.
const REPLICATION_BYTES: usize = 1 << 20;

pub(crate) fn to_log_id(id: store::LogId) -> LogId {
    LogId::new(CommittedLeaderId::new(id.term.0), id.index.0)
}

pub(crate) fn from_log_id(id: &LogId) -> store::LogId {
    store::LogId { term: Term(id.committed_leader_id().term), index: Position(id.index()) }
}

pub(crate) fn to_membership(
    membership: &store::Membership,
) -> Result<openraft::Membership<u64, Member>, io::Error> {
    openraft::Membership::new(membership.configs.clone(), membership.nodes.clone()).map_err(io::Error::other)
}

fn to_stored_membership(
    membership: &store::Membership,
) -> Result<StoredMembership<CommittedLeaderId, u64, Member>, io::Error> {
    let config = match membership.configs.is_empty() {
        true => openraft::Membership::default(),
        false => to_membership(membership)?,
    };
    Ok(StoredMembership::new(membership.log_id.map(to_log_id), config))
}

pub(crate) fn from_membership(
    log_id: Option<&LogId>,
    membership: &openraft::Membership<u64, Member>,
) -> store::Membership {
    store::Membership {
        log_id: log_id.map(from_log_id),
        configs: membership.get_joint_config().clone(),
        nodes: membership.nodes().map(|(id, member)| (*id, member.clone())).collect::<BTreeMap<_, _>>(),
    }
}

fn to_entry(entry: store::Entry) -> Result<Entry, io::Error> {
    let payload = match entry.body {
        Body::Blank => EntryPayload::Blank,
        Body::Command(bytes) => EntryPayload::Normal(Payload(bytes)),
        Body::Membership(membership) => EntryPayload::Membership(to_membership(&membership)?),
    };
    Ok(Entry::new(to_log_id(entry.id), payload))
}

fn from_entry(entry: Entry) -> store::Entry {
    let log_id = entry.log_id();
    let body = match entry.payload {
        EntryPayload::Blank => Body::Blank,
        EntryPayload::Normal(payload) => Body::Command(payload.0),
        EntryPayload::Membership(membership) => Body::Membership(from_membership(Some(&log_id), &membership)),
    };
    store::Entry { id: from_log_id(&log_id), body }
}

fn to_vote(vote: store::Vote) -> Vote {
    match vote.committed {
        true => Vote::new_committed(vote.term.0, vote.node.0),
        false => Vote::new(vote.term.0, vote.node.0),
    }
}

pub(crate) fn from_vote(vote: &Vote) -> store::Vote {
    let leader = vote.leader_id();
    store::Vote { term: Term(leader.term), node: NodeId(leader.voted_for), committed: vote.is_committed() }
}

/// The log, as openraft asks for it.
pub(crate) struct LogStore<E> {
    log: Log<E>,
    /// Purges, because the ledger that covers a floor must be durable before it.
    keeper: Keeper<E>,
    #[cfg(test)]
    mischief: crate::trial::Mischief,
}

impl<E> Clone for LogStore<E> {
    fn clone(&self) -> Self {
        Self {
            log: self.log.clone(),
            keeper: self.keeper.clone(),
            #[cfg(test)]
            mischief: self.mischief.clone(),
        }
    }
}

impl<E: Engine> LogStore<E> {
    pub(crate) fn new(store: &Store<E>) -> Self {
        Self {
            log: store.log().clone(),
            keeper: store.keeper().clone(),
            #[cfg(test)]
            mischief: Default::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn with(self, mischief: &crate::trial::Mischief) -> Self {
        Self { mischief: mischief.clone(), ..self }
    }

    fn read<RB: RangeBounds<u64>>(&self, range: RB, limit_bytes: usize) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.log.read(start, end, limit_bytes)?.into_iter().map(to_entry).collect()
    }
}

impl<E: Engine, RT: AsyncRuntime> RaftLogReader<TypeConfig<RT>> for LogStore<E> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(range, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log.vote().map(to_vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, REPLICATION_BYTES)
    }
}

impl<E: Engine, RT: AsyncRuntime> RaftLogStorage<TypeConfig<RT>> for LogStore<E> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig<RT>>, io::Error> {
        let ends = self.log.ends();
        Ok(LogState { last_purged_log_id: ends.floor.map(to_log_id), last_log_id: ends.last.map(to_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        Ok(self.log.save_vote(from_vote(vote)).await?)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.log.save_committed(committed.as_ref().map(from_log_id));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log.committed().map(to_log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig<RT>>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let done = Box::new(move |outcome: Result<(), store::engine::EngineError>| {
            callback.io_completed(outcome.map_err(io::Error::from));
        });
        #[cfg(test)]
        self.mischief.on_append();
        self.log.append(entries.into_iter().map(from_entry), done);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        Ok(self.log.truncate_after(last_log_id.as_ref().map(from_log_id))?)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        Ok(self.keeper.purge(from_log_id(&log_id))?)
    }
}

/// The ledger, as openraft asks for it.
pub(crate) struct StateMachine<E> {
    keeper: Keeper<E>,
    #[cfg(test)]
    mischief: crate::trial::Mischief,
}

impl<E> Clone for StateMachine<E> {
    fn clone(&self) -> Self {
        Self {
            keeper: self.keeper.clone(),
            #[cfg(test)]
            mischief: self.mischief.clone(),
        }
    }
}

impl<E: Engine> StateMachine<E> {
    pub(crate) fn new(keeper: Keeper<E>) -> Self {
        Self {
            keeper,
            #[cfg(test)]
            mischief: Default::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn with(self, mischief: &crate::trial::Mischief) -> Self {
        Self { mischief: mischief.clone(), ..self }
    }

    fn current<RT: AsyncRuntime>(
        &self,
    ) -> Result<Option<SnapshotOf<TypeConfig<RT>, SnapshotFile>>, io::Error> {
        let Some(snapshot) = self.keeper.newest_snapshot()? else { return Ok(None) };
        let header = snapshot.header;
        let meta = SnapshotMeta {
            last_log_id: Some(to_log_id(header.at)),
            last_membership: to_stored_membership(&header.membership)?,
        };
        Ok(Some(Snapshot { meta, snapshot: SnapshotFile::Bytes(snapshot.bytes) }))
    }
}

/// Hands out the newest checkpoint that may be a snapshot.
pub(crate) struct SnapshotBuilder<E> {
    machine: StateMachine<E>,
    /// Cut one first: nothing undelivered lies at or below what is applied.
    cut: bool,
}

impl<E: Engine, RT: AsyncRuntime> RaftSnapshotBuilder<TypeConfig<RT>> for SnapshotBuilder<E> {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig<RT>, SnapshotFile>, io::Error> {
        if self.cut {
            if self.machine.keeper.read(|state| state.applied.is_none()) {
                // Nothing was ever applied: the snapshot of an empty ledger.
                return Ok(Snapshot {
                    meta: SnapshotMeta::default(),
                    snapshot: SnapshotFile::Bytes(Bytes::new()),
                });
            }
            self.machine.keeper.write_checkpoint().await?;
        }
        self.machine
            .current::<RT>()?
            .ok_or_else(|| io::Error::other("the checkpoint is gone that was there a moment ago"))
    }
}

impl<E: Engine, RT: AsyncRuntime> RaftStateMachine<TypeConfig<RT>> for StateMachine<E> {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder<E>;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId>, StoredMembershipOf<TypeConfig<RT>>), io::Error> {
        let (applied, membership) = self.keeper.read(|state| (state.applied, state.membership.clone()));
        Ok((applied.map(to_log_id), to_stored_membership(&membership)?))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig<RT>>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let entry = from_entry(entry);
            #[cfg(test)]
            self.mischief.before_apply().await;
            let outcome = self.keeper.apply(entry.id, &entry.body).map_err(io::Error::other)?;
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Self::SnapshotBuilder> {
        let machine = self.clone();
        if force {
            return Some(SnapshotBuilder { machine, cut: true });
        }
        self.keeper.newest_snapshot_position().map(|_| SnapshotBuilder { machine, cut: false })
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        SnapshotBuilder { machine: self.clone(), cut: true }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<TypeConfig<RT>>,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let bytes = match snapshot {
            SnapshotFile::Received(received) => return Ok(self.keeper.install_received(*received).await?),
            SnapshotFile::Bytes(bytes) => bytes,
            SnapshotFile::Path(path) => read_staged(&path).await?,
        };
        Ok(self.keeper.install(bytes).await?)
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig<RT>, SnapshotFile>>, io::Error> {
        self.current::<RT>()
    }
}
