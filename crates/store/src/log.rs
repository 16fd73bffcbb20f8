//! The log: entries in order, their in-memory view, and the vote.
//!
//! - The visible log is `(floor, last]`, and it is what this view says: keys in the engine outside it do not exist.
//!   So a truncation hides entries at once, although their deletion is still queued.
//! - The tail of the log is in memory, and always holds every entry that is not yet in the engine.
//! - Nothing here waits for the disk but [`Log::save_vote`]; order of durability is order of calls.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use model::ids::Term;
use model::{NodeId, Position};

use crate::commit::{Done, Operation, Queue, decode_log_id, keys, oneshot_done};
use crate::engine::{Engine, EngineError, Family, index_key};
use crate::entry::{ChainHash, Entry};
use crate::ledger::LogId;

/// A vote of this node: the term, for whom, and whether that node is known to have won.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vote {
    /// The term.
    pub term: Term,
    /// Whom it is for.
    pub node: NodeId,
    /// Whether a quorum granted it.
    pub committed: bool,
}

impl Vote {
    /// Whether a node that remembers this vote has forgotten `promised`. In one term a vote for one candidate may be
    /// followed by that of the leader whom others elected, and by nothing after that.
    pub(crate) fn falls_short_of(&self, promised: &Self) -> bool {
        let is_later = self.term > promised.term
            || (self.term == promised.term && self.committed && !promised.committed);
        *promised != Self::default() && !is_later && self != promised
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(17);
        value.extend(self.term.0.to_be_bytes());
        value.extend(self.node.0.to_be_bytes());
        value.push(u8::from(self.committed));
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let LogId { term, index } = decode_log_id(value)?;
        Some(Self { term, node: NodeId(index.0), committed: *value.get(16)? == 1 })
    }
}

/// Both ends of the visible log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogEnds {
    /// The last entry that was purged.
    pub floor: Option<LogId>,
    /// The last entry; equals `floor` in a log without entries.
    pub last: Option<LogId>,
}

struct Tailed {
    entry: Entry,
    chain: ChainHash,
}

struct View {
    floor: Option<LogId>,
    floor_chain: ChainHash,
    /// Index of the first entry, for a log that was never purged.
    first: u64,
    last: Option<LogId>,
    last_chain: ChainHash,
    /// Contiguous, ending at `last`.
    tail: VecDeque<Tailed>,
    tail_bytes: usize,
    tail_limit: usize,
    /// Entries up to this index are in the engine.
    written: u64,
    branch: Branch,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

/// How often the end of the log was cut off: entries of different branches at one place are different ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Branch(u64);

/// What the commit loop tells the view.
#[derive(Clone)]
pub(crate) struct Written(Arc<Mutex<View>>);

impl Written {
    /// Entries of `branch` up to `index` are in the engine now: older ones may leave memory.
    pub(crate) fn up_to(&self, index: u64, branch: Branch) {
        let mut view = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What was cut off since may have other successors at the same places, which are not written yet.
        if view.branch == branch {
            view.written = view.written.max(index);
            view.trim();
        }
    }
}

/// The log of this node. Cheap to clone.
pub struct Log<E> {
    engine: Arc<E>,
    queue: Queue,
    view: Arc<Mutex<View>>,
}

impl<E> Clone for Log<E> {
    fn clone(&self) -> Self {
        Self { engine: Arc::clone(&self.engine), queue: self.queue.clone(), view: Arc::clone(&self.view) }
    }
}

/// What is on disk when a log is opened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stored {
    pub(crate) ends: LogEnds,
    pub(crate) floor_chain: ChainHash,
    pub(crate) first: u64,
    pub(crate) last_chain: ChainHash,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
}

impl<E: Engine> Log<E> {
    pub(crate) fn new(engine: Arc<E>, queue: Queue, stored: Stored, tail_limit: usize) -> Self {
        let view = View {
            floor: stored.ends.floor,
            floor_chain: stored.floor_chain,
            first: stored.first,
            last: stored.ends.last,
            last_chain: stored.last_chain,
            tail: VecDeque::new(),
            tail_bytes: 0,
            tail_limit,
            written: stored.ends.last.map_or(0, |id| id.index.0),
            branch: Branch::default(),
            vote: stored.vote,
            committed: stored.committed,
        };
        Self { engine, queue, view: Arc::new(Mutex::new(view)) }
    }

    pub(crate) fn written(&self) -> Written {
        Written(Arc::clone(&self.view))
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both ends of the log.
    pub fn ends(&self) -> LogEnds {
        let view = self.view();
        LogEnds { floor: view.floor, last: view.last }
    }

    /// Adds entries; they can be read when this returns, and `done` is called once they are durable.
    pub fn append(&self, entries: impl IntoIterator<Item = Entry>, done: Done) {
        let mut view = self.view();
        let mut encoded = Vec::new();
        for entry in entries {
            let (value, chain) = entry.encode(&view.last_chain);
            encoded.push((entry.id.index.0, value));
            view.push(entry, chain);
        }
        let (last, chain, branch) = (view.last.unwrap_or_default(), view.last_chain, view.branch);
        // Queued under the lock, so that the order in the queue is the order in the view.
        self.queue.push(Operation::Append { entries: encoded, last, chain, branch, done });
    }

    /// Takes back every entry after `last` (all, for `None`).
    pub fn truncate_after(&self, last: Option<LogId>) -> Result<(), EngineError> {
        let mut view = self.view();
        let Some(old) = view.last else { return Ok(()) };
        let keep = last.or(view.floor);
        if keep.is_some_and(|keep| keep.index >= old.index) {
            return Ok(());
        }
        let chain = match keep {
            Some(keep) => view.chain_at(&*self.engine, keep.index)?,
            None => [0; 16],
        };
        let first = keep.map_or(view.first, |keep| keep.index.0 + 1);
        view.truncate(keep, chain);
        self.queue.push(Operation::Truncate {
            from: first,
            to: old.index.0,
            last: keep.unwrap_or_default(),
            chain,
        });
        Ok(())
    }

    /// Moves the beginning of the log behind `floor`, which must be applied durably or be so by what is queued before;
    /// `done` is called once that is durable and the bytes below may go.
    pub fn purge(&self, floor: LogId, done: Done) -> Result<(), EngineError> {
        let mut view = self.view();
        if view.floor.is_some_and(|known| known.index >= floor.index) {
            done(Ok(()));
            return Ok(());
        }
        let chain = view.chain_or_none(&*self.engine, floor.index)?;
        view.set_floor(floor, chain);
        self.queue.push(Operation::Floor { floor, chain, done });
        Ok(())
    }

    /// Stores the vote; durable, and promised in the floor file, when this returns.
    pub async fn save_vote(&self, vote: Vote) -> Result<(), EngineError> {
        let (done, outcome) = oneshot_done();
        {
            let mut view = self.view();
            view.vote = Some(vote);
            self.queue.push(Operation::Vote { vote, done });
        }
        outcome.await
    }

    /// The last vote.
    pub fn vote(&self) -> Option<Vote> {
        self.view().vote
    }

    /// Notes what is committed; not durable by itself.
    pub fn save_committed(&self, committed: Option<LogId>) {
        let mut view = self.view();
        view.committed = committed;
        self.queue.leave_committed(committed);
    }

    /// What was last known to be committed.
    pub fn committed(&self) -> Option<LogId> {
        self.view().committed
    }

    /// Entries from `start` to `end` (exclusive) that exist, until `limit_bytes` of payload; at least one if there is
    /// one.
    pub fn read(&self, start: u64, end: u64, limit_bytes: usize) -> Result<Vec<Entry>, EngineError> {
        let (start, end, tail_start, mut from_tail) = {
            let view = self.view();
            let start = start.max(view.first());
            let end = end.min(view.last.map_or(0, |last| last.index.0 + 1)).max(start);
            let tail_start = view.tail.front().map_or(u64::MAX, |tailed| tailed.entry.id.index.0);
            (start, end, tail_start, view.read_tail(start.max(tail_start), end, limit_bytes))
        };
        let stored_end = end.min(tail_start);
        if start >= stored_end {
            return Ok(from_tail);
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut next = start;
        while next < stored_end && (entries.is_empty() || bytes < limit_bytes) {
            let rows = self.engine.range(
                Family::Entries,
                &index_key(next),
                Some(&index_key(stored_end)),
                limit_bytes - bytes.min(limit_bytes),
            )?;
            let is_there = rows.first().is_some_and(|(key, _)| *key == index_key(next));
            if !is_there && self.first() > next {
                // It was purged and given back while it was read.
                return self.read(self.first(), end, limit_bytes);
            }
            if rows.is_empty() {
                return Err(EngineError::Damaged(format!("log entry {next} is missing")));
            }
            for (key, value) in rows {
                let (entry, _) = self.decode(&key, &value, next)?;
                bytes += entry.len();
                next += 1;
                entries.push(entry);
            }
        }
        if next == stored_end && bytes < limit_bytes {
            from_tail.retain(|entry| {
                bytes += entry.len();
                bytes <= limit_bytes
            });
            entries.append(&mut from_tail);
        }
        Ok(entries)
    }

    /// Index of the first entry, if there is any.
    fn first(&self) -> u64 {
        self.view().first()
    }

    /// The chain hash behind the entry at `index`, which must be in the log or be its floor.
    pub fn chain_at(&self, index: Position) -> Result<ChainHash, EngineError> {
        self.view().chain_at(&*self.engine, index)
    }

    /// The same; zeros where `index` lies outside the log. What cannot be read is an error all the same.
    pub(crate) fn chain_or_none(&self, index: Position) -> Result<ChainHash, EngineError> {
        self.view().chain_or_none(&*self.engine, index)
    }

    /// The id of the entry at `index`, if it is in the log.
    pub fn id_at(&self, index: Position) -> Result<Option<LogId>, EngineError> {
        Ok(self.read(index.0, index.0 + 1, 0)?.first().map(|entry| entry.id))
    }

    /// Replaces what a snapshot at `floor` covers; entries behind it stay only where the entry at `floor` is the same.
    pub(crate) fn install(
        &self,
        floor: LogId,
        floor_chain: ChainHash,
        rows: Vec<(Vec<u8>, Vec<u8>)>,
        done: Done,
    ) -> Result<(), EngineError> {
        let keep_tail = self.id_at(floor.index)? == Some(floor);
        let mut view = self.view();
        // Where a tail stays it goes on from this log's chain, whatever the sender's looks like there.
        let floor_chain = if keep_tail { view.chain_at(&*self.engine, floor.index)? } else { floor_chain };
        if keep_tail {
            view.set_floor(floor, floor_chain);
        } else {
            view.tail.clear();
            view.tail_bytes = 0;
            view.floor = Some(floor);
            view.floor_chain = floor_chain;
            view.last = Some(floor);
            view.last_chain = floor_chain;
            view.written = floor.index.0;
            view.branch.0 += 1;
        }
        let (last, chain) = (view.last.unwrap_or(floor), view.last_chain);
        self.queue.push(Operation::Install { rows, floor, floor_chain, keep_tail, last, chain, done });
        Ok(())
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    fn decode(&self, key: &[u8], value: &Bytes, expected: u64) -> Result<(Entry, ChainHash), EngineError> {
        if key != index_key(expected) {
            return Err(EngineError::Damaged(format!(
                "log entry {expected} is missing, found key {key:02x?}"
            )));
        }
        Entry::decode(Position(expected), value)
    }
}

impl View {
    fn first(&self) -> u64 {
        self.floor.map_or(self.first, |floor| floor.index.0 + 1)
    }

    fn push(&mut self, entry: Entry, chain: ChainHash) {
        assert!(
            self.tail.back().is_none_or(|last| last.entry.id.index.next() == entry.id.index),
            "the tail of the log is contiguous: {:?} does not follow {:?}",
            entry.id,
            self.last
        );
        if self.last.is_none() {
            self.first = entry.id.index.0;
        }
        self.last = Some(entry.id);
        self.last_chain = chain;
        self.tail_bytes += entry.len();
        self.tail.push_back(Tailed { entry, chain });
    }

    fn truncate(&mut self, keep: Option<LogId>, chain: ChainHash) {
        while let Some(tailed) = self.tail.back()
            && keep.is_none_or(|keep| tailed.entry.id.index > keep.index)
        {
            self.tail_bytes -= tailed.entry.len();
            self.tail.pop_back();
        }
        self.last = keep;
        self.last_chain = chain;
        self.written = self.written.min(keep.map_or(0, |keep| keep.index.0));
        self.branch.0 += 1;
    }

    fn set_floor(&mut self, floor: LogId, chain: ChainHash) {
        self.floor = Some(floor);
        self.floor_chain = chain;
        while let Some(tailed) = self.tail.front()
            && tailed.entry.id.index <= floor.index
        {
            self.tail_bytes -= tailed.entry.len();
            self.tail.pop_front();
        }
        if self.last.is_none_or(|last| last.index < floor.index) {
            self.last = Some(floor);
            self.last_chain = chain;
        }
    }

    fn trim(&mut self) {
        while self.tail_bytes > self.tail_limit
            && let Some(tailed) = self.tail.front()
            && tailed.entry.id.index.0 <= self.written
        {
            self.tail_bytes -= tailed.entry.len();
            self.tail.pop_front();
        }
    }

    fn read_tail(&self, start: u64, end: u64, limit_bytes: usize) -> Vec<Entry> {
        let Some(front) = self.tail.front() else { return Vec::new() };
        let skip = start.saturating_sub(front.entry.id.index.0) as usize;
        let count = end.saturating_sub(start) as usize;
        let mut bytes = 0;
        let mut entries = Vec::new();
        for tailed in self.tail.iter().skip(skip).take(count) {
            bytes += tailed.entry.len();
            if !entries.is_empty() && bytes > limit_bytes {
                break;
            }
            entries.push(tailed.entry.clone());
        }
        entries
    }

    /// Beyond either end there is no entry whose chain hash could be taken over.
    fn chain_or_none<E: Engine>(&self, engine: &E, index: Position) -> Result<ChainHash, EngineError> {
        let begins = self.floor.map_or(self.first, |floor| floor.index.0);
        let is_inside = index.0 >= begins && self.last.is_some_and(|last| index <= last.index);
        if is_inside { self.chain_at(engine, index) } else { Ok([0; 16]) }
    }

    fn chain_at<E: Engine>(&self, engine: &E, index: Position) -> Result<ChainHash, EngineError> {
        if self.last.is_some_and(|last| last.index == index) {
            return Ok(self.last_chain);
        }
        if self.floor.is_some_and(|floor| floor.index == index) {
            return Ok(self.floor_chain);
        }
        if let Some(front) = self.tail.front()
            && front.entry.id.index <= index
        {
            let place = (index.0 - front.entry.id.index.0) as usize;
            if let Some(tailed) = self.tail.get(place) {
                return Ok(tailed.chain);
            }
        }
        let value = engine.get(Family::Entries, &index_key(index.0))?;
        let value = value.ok_or_else(|| EngineError::Damaged(format!("log entry {index} is missing")))?;
        Ok(Entry::decode(index, &value)?.1)
    }
}

/// Reads what the `raft` and `entries` families say of the log.
pub(crate) fn load<E: Engine>(engine: &E) -> Result<Stored, EngineError> {
    let damaged = |what: &str| EngineError::Damaged(format!("stored {what} cannot be read"));
    let raft = |key: &[u8]| engine.get(Family::Raft, key);
    let vote =
        raft(keys::VOTE)?.map(|value| Vote::decode(&value).ok_or_else(|| damaged("vote"))).transpose()?;
    let committed = raft(keys::COMMITTED)?
        .map(|value| decode_log_id(&value).ok_or_else(|| damaged("commit")))
        .transpose()?;
    let floor = raft(keys::FLOOR)?
        .map(|value| crate::commit::decode_floor(&value).ok_or_else(|| damaged("floor")))
        .transpose()?;
    let mut stored = Stored { vote, committed, ..Stored::default() };
    if let Some((floor, chain)) = floor {
        stored.ends = LogEnds { floor: Some(floor), last: Some(floor) };
        stored.floor_chain = chain;
        stored.last_chain = chain;
    }
    if let Some((key, value)) = engine.last(Family::Entries)? {
        let index = key.as_slice().try_into().map(u64::from_be_bytes).map_err(|_| damaged("log key"))?;
        if stored.ends.floor.is_none_or(|floor| floor.index.0 < index) {
            let (entry, chain) = Entry::decode(Position(index), &value)?;
            stored.ends.last = Some(entry.id);
            stored.last_chain = chain;
        }
        if let Some((key, _)) = engine.range(Family::Entries, &[], None, 0)?.first() {
            stored.first =
                key.as_slice().try_into().map(u64::from_be_bytes).map_err(|_| damaged("log key"))?;
        }
    }
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sim::{SimDisk, SimEngine};
    use crate::ledger::Body;

    fn entry(term: u64, index: u64) -> Entry {
        Entry {
            id: LogId { term: Term(term), index: Position(index) },
            body: Body::Command(Bytes::from_static(b"some bytes")),
        }
    }

    #[test]
    fn an_entry_behind_a_truncation_stays_in_memory_until_it_is_written_itself() {
        let engine = Arc::new(SimEngine::open(&SimDisk::new(7)).expect("a fresh disk opens"));
        let log = Log::new(engine, Queue::default(), Stored::default(), 0);
        let unheard = || Box::new(|_| ()) as Done;
        log.append((1..=5).map(|index| entry(1, index)), unheard());
        let branch = log.view().branch;
        log.truncate_after(Some(entry(1, 2).id)).expect("in memory");
        log.append([entry(2, 3)], unheard());
        // Only now comes the news that entries up to 5 are written: those before the truncation.
        log.written().up_to(5, branch);
        let found = log.read(3, 4, usize::MAX).expect("it is nowhere but in memory");
        assert_eq!(found.iter().map(|entry| entry.id).collect::<Vec<_>>(), [entry(2, 3).id]);
    }
}
