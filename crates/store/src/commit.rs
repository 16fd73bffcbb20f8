//! The commit loop: every durable write of this node goes through one queue, in call order.
//!
//! - All that is queued, up to [`GROUP_BYTES`], becomes one atomic commit with one sync (group commit). The cap keeps
//!   a vote from waiting behind much.
//! - Callbacks are called in order, after the commit that covers them. A promise that only keeps the floor file fresh comes
//!   behind them.
//! - What is known to be committed may be lost, so it wakes nobody: the newest rides along with what is written next, at the
//!   latest with the rows of the ledger that follow.
//! - The first error is final: every callback from then on gets it, and the loop's task ends the node.
//! - The queue is not bounded in count: what may wait in it is bounded in bytes where it comes from (the leader's
//!   byte permits, the replication window of followers), and RaftCore must never wait here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use runtime::sleep_until;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::engine::{Durability, Engine, EngineError, Family, Write, index_key};
use crate::entry::ChainHash;
use crate::floor::{FloorFile, Promise};
use crate::ledger::{LogId, RowChange};
use crate::log::{Branch, Vote, Written};

/// Bytes of payload in one commit, at most (one entry may be larger).
const GROUP_BYTES: usize = 1 << 20;
/// A promise is renewed after this time or this many bytes.
const PROMISE_EVERY: Duration = Duration::from_millis(100);
const PROMISE_BYTES: usize = 16 << 20;

/// Called with the outcome once it is known.
pub type Done = Box<dyn FnOnce(Result<(), EngineError>) + Send>;

/// One thing to make durable.
pub(crate) enum Operation {
    /// Entries, already encoded, on a branch of the log: none of them was cut off when they were queued.
    Append { entries: Vec<(u64, Bytes)>, last: LogId, chain: ChainHash, branch: Branch, done: Done },
    /// Entries from the first to the last (both inclusive) are taken back; the log now ends at `last`.
    Truncate { from: u64, to: u64, last: LogId, chain: ChainHash },
    /// The vote.
    Vote { vote: Vote, done: Done },
    /// What is known to be committed; may be lost.
    Committed { committed: Option<LogId> },
    /// Rows of the ledger; may be lost, with what follows.
    Rows { changes: Vec<RowChange> },
    /// Nothing: it is synced with what lies before it.
    Barrier { done: Done },
    /// The log begins behind this entry.
    Floor { floor: LogId, chain: ChainHash, done: Done },
    /// The ledger and the log are replaced by a snapshot at `floor`. The log then ends at `last`.
    Install {
        rows: Vec<(Vec<u8>, Vec<u8>)>,
        floor: LogId,
        floor_chain: ChainHash,
        keep_tail: bool,
        last: LogId,
        chain: ChainHash,
        done: Done,
    },
}

impl Operation {
    fn bytes(&self) -> usize {
        match self {
            Self::Append { entries, .. } => entries.iter().map(|(_, value)| value.len() + 32).sum(),
            Self::Truncate { from, to, .. } => (to - from + 1) as usize * 16,
            Self::Vote { .. } | Self::Committed { .. } | Self::Floor { .. } => 64,
            Self::Rows { changes } => {
                changes.iter().map(|change| change.value.as_ref().map_or(32, Vec::len)).sum()
            }
            Self::Install { rows, .. } => rows.iter().map(|(key, value)| key.len() + value.len()).sum(),
            Self::Barrier { .. } => 0,
        }
    }

    fn durability(&self) -> Durability {
        match self {
            Self::Committed { .. } | Self::Rows { .. } => Durability::Lazy,
            Self::Vote { .. } if runtime::mutant("vote-is-not-synced") => Durability::Lazy,
            Self::Append { .. } if runtime::mutant("append-is-not-synced") => Durability::Lazy,
            _ => Durability::Sync,
        }
    }
}

/// Keys of the `raft` family.
pub(crate) mod keys {
    pub(crate) const VOTE: &[u8] = b"vote";
    pub(crate) const COMMITTED: &[u8] = b"committed";
    pub(crate) const FLOOR: &[u8] = b"floor";
    pub(crate) const IDENTITY: &[u8] = b"identity";
}

/// The way into the commit loop.
#[derive(Clone, Default)]
pub(crate) struct Queue {
    inner: Arc<QueueInner>,
}

#[derive(Default)]
struct QueueInner {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    operations: VecDeque<Operation>,
    /// What is known to be committed, newest only, if that was not written yet.
    committed: Option<Option<LogId>>,
    /// Set once the loop has failed: nothing is accepted any more.
    failed: Option<EngineError>,
}

impl Queue {
    /// Queues an operation; its callback gets the error at once if the loop has failed.
    pub(crate) fn push(&self, operation: Operation) {
        let refused = {
            let mut waiting = self.waiting();
            match waiting.failed.clone() {
                Some(error) => Some((operation, error)),
                None => {
                    waiting.operations.push_back(operation);
                    None
                }
            }
        };
        match refused {
            Some((operation, error)) => finish(operation, Err(error)),
            None => self.inner.arrived.notify_one(),
        }
    }

    /// Leaves what is known to be committed to be written with whatever comes next.
    pub(crate) fn leave_committed(&self, committed: Option<LogId>) {
        self.waiting().committed = Some(committed);
    }

    /// Waits until everything queued before this call is durable.
    pub(crate) async fn barrier(&self) -> Result<(), EngineError> {
        let (done, outcome) = oneshot_done();
        self.push(Operation::Barrier { done });
        outcome.await
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take_group(&self) -> Vec<Operation> {
        loop {
            let group = self.waiting().take_group();
            if !group.is_empty() {
                return group;
            }
            self.inner.arrived.notified().await;
        }
    }

    fn fail(&self, error: &EngineError) {
        let left = {
            let mut waiting = self.waiting();
            // The first reason is the true one.
            waiting.failed.get_or_insert_with(|| error.clone());
            std::mem::take(&mut waiting.operations)
        };
        for operation in left {
            finish(operation, Err(error.clone()));
        }
    }
}

impl Waiting {
    fn take_group(&mut self) -> Vec<Operation> {
        let mut bytes = 0;
        let mut group = Vec::new();
        while let Some(next) = self.operations.front() {
            bytes += next.bytes();
            if !group.is_empty() && bytes > GROUP_BYTES {
                break;
            }
            group.extend(self.operations.pop_front());
        }
        // Not before the entries that it speaks of.
        if !group.is_empty() && self.operations.is_empty() {
            group.extend(self.committed.take().map(|committed| Operation::Committed { committed }));
        }
        group
    }
}

/// A callback that wakes the returned future.
pub(crate) fn oneshot_done() -> (Done, impl Future<Output = Result<(), EngineError>>) {
    let (sender, receiver) = oneshot::channel();
    let done: Done = Box::new(move |outcome| {
        // The waiter may have been cancelled; the write happens all the same.
        drop(sender.send(outcome));
    });
    let outcome = async { receiver.await.unwrap_or_else(|_| Err(ended())) };
    (done, outcome)
}

fn finish(operation: Operation, outcome: Result<(), EngineError>) {
    match operation {
        Operation::Append { done, .. }
        | Operation::Vote { done, .. }
        | Operation::Barrier { done }
        | Operation::Floor { done, .. }
        | Operation::Install { done, .. } => done(outcome),
        Operation::Truncate { .. } | Operation::Committed { .. } | Operation::Rows { .. } => {}
    }
}

/// A group as the engine takes it.
struct Prepared {
    writes: Vec<Write>,
    durability: Durability,
    /// To be promised before the writes, where they shorten the log.
    lesser_promise: Option<Promise>,
    votes: bool,
    last_appended: Option<(u64, Branch)>,
}

/// Fails what is left in the queue, and whatever comes later, when the loop is gone.
struct FailOnDrop(Queue);

impl Drop for FailOnDrop {
    fn drop(&mut self) {
        self.0.fail(&ended());
    }
}

fn ended() -> EngineError {
    EngineError::Failed { operation: "commit", reason: "the commit loop has ended".to_owned() }
}

/// The task that empties the queue.
pub(crate) struct CommitLoop<E> {
    engine: Arc<E>,
    queue: Queue,
    written: Written,
    floor: FloorFile,
    promise: Promise,
    promised_at: Instant,
    bytes_since_promise: usize,
    unpromised: bool,
}

impl<E: Engine> CommitLoop<E> {
    pub(crate) fn new(
        engine: Arc<E>,
        queue: Queue,
        written: Written,
        floor: FloorFile,
        promise: Promise,
    ) -> Self {
        Self {
            engine,
            queue,
            written,
            floor,
            promise,
            promised_at: Instant::now(),
            bytes_since_promise: 0,
            unpromised: false,
        }
    }

    /// Runs until cancelled from outside or until the disk fails. However it ends, nobody waits for it afterwards.
    pub(crate) async fn run(mut self, stop: tokio_util::sync::CancellationToken) -> Result<(), EngineError> {
        let _nobody_waits = FailOnDrop(self.queue.clone());
        loop {
            let group = tokio::select! {
                biased;
                group = self.queue.take_group() => group,
                // An empty group: only the promise is due.
                () = sleep_until(self.unpromised.then(|| self.promised_at + PROMISE_EVERY)) => Vec::new(),
                () = stop.cancelled() => return Ok(()),
            };
            self.commit(group).await?;
        }
    }

    /// Commits a group and calls its callbacks; an error ends everything.
    async fn commit(&mut self, group: Vec<Operation>) -> Result<(), EngineError> {
        let prepared = self.prepare(&group);
        let outcome = self.write(prepared).await;
        for operation in group {
            finish(operation, outcome.clone());
        }
        let ended = match outcome {
            Ok(()) if self.is_promise_due() => self.write_promise().await,
            outcome => outcome,
        };
        if let Err(error) = &ended {
            self.queue.fail(error);
        }
        ended
    }

    /// Turns a group into writes, and moves the promise to what will be durable with them.
    fn prepare(&mut self, group: &[Operation]) -> Prepared {
        let before = self.promise;
        let mut prepared = Prepared {
            writes: Vec::new(),
            durability: Durability::Lazy,
            lesser_promise: None,
            votes: false,
            last_appended: None,
        };
        let mut shortest = before.last;
        for operation in group {
            prepared.durability = prepared.durability.max(operation.durability());
            match operation {
                Operation::Truncate { last, .. } | Operation::Install { last, .. } => {
                    if last.index < shortest.index {
                        shortest = *last;
                    }
                    prepared.lesser_promise = Some(before);
                }
                Operation::Vote { .. } => prepared.votes = true,
                Operation::Append { last, branch, .. } => {
                    prepared.last_appended = Some((last.index.0, *branch));
                }
                _ => {}
            }
            self.bytes_since_promise += operation.bytes();
            self.collect(operation, &mut prepared.writes);
        }
        if let Some(lesser) = &mut prepared.lesser_promise {
            // Whichever log a crash leaves, the one before or the one after, it reaches this far; what is there may
            // differ between the two, so nothing is said about it for so short a time.
            (lesser.last, lesser.chain) = (shortest, [0; 16]);
        }
        self.unpromised |= prepared.durability == Durability::Sync && self.promise != before;
        prepared
    }

    async fn write(&mut self, prepared: Prepared) -> Result<(), EngineError> {
        if let Some(lesser) = &prepared.lesser_promise {
            // Promise less before the log gets shorter, or a crash in between would look like amnesia.
            self.floor.write(&*self.engine, lesser).await?;
        }
        if !prepared.writes.is_empty() || prepared.durability == Durability::Sync {
            self.engine.commit(prepared.writes, prepared.durability).await?;
        }
        if let Some((index, branch)) = prepared.last_appended {
            self.written.up_to(index, branch);
        }
        let votes = prepared.votes && !runtime::mutant("vote-is-not-promised");
        if votes || prepared.lesser_promise.is_some() {
            self.write_promise().await?;
        }
        Ok(())
    }

    fn is_promise_due(&self) -> bool {
        let due = self.promised_at.elapsed() >= PROMISE_EVERY || self.bytes_since_promise >= PROMISE_BYTES;
        due && self.unpromised
    }

    async fn write_promise(&mut self) -> Result<(), EngineError> {
        self.floor.write(&*self.engine, &self.promise).await?;
        self.promised_at = Instant::now();
        self.bytes_since_promise = 0;
        self.unpromised = false;
        Ok(())
    }

    fn collect(&mut self, operation: &Operation, writes: &mut Vec<Write>) {
        let put = |key: &[u8], value: Vec<u8>| Write::Put(Family::Raft, key.to_owned(), Bytes::from(value));
        match operation {
            Operation::Append { entries, last, chain, .. } => {
                for (index, value) in entries {
                    writes.push(Write::Put(Family::Entries, index_key(*index).to_vec(), value.clone()));
                }
                (self.promise.last, self.promise.chain) = (*last, *chain);
            }
            Operation::Truncate { from, to, last, chain } => {
                writes.extend(
                    (*from..=*to).map(|index| Write::Delete(Family::Entries, index_key(index).to_vec())),
                );
                (self.promise.last, self.promise.chain) = (*last, *chain);
            }
            Operation::Vote { vote, .. } => {
                writes.push(put(keys::VOTE, vote.encode()));
                self.promise.vote = *vote;
            }
            Operation::Committed { committed } => match committed {
                Some(id) => writes.push(put(keys::COMMITTED, encode_log_id(id))),
                None => writes.push(Write::Delete(Family::Raft, keys::COMMITTED.to_vec())),
            },
            Operation::Rows { changes } => writes.extend(changes.iter().map(|change| match &change.value {
                Some(value) => Write::Put(Family::Ledger, change.key.clone(), Bytes::copy_from_slice(value)),
                None => Write::Delete(Family::Ledger, change.key.clone()),
            })),
            Operation::Barrier { .. } => {}
            Operation::Floor { floor, chain, .. } => {
                writes.push(put(keys::FLOOR, encode_floor(floor, chain)));
                if floor.index > self.promise.last.index {
                    (self.promise.last, self.promise.chain) = (*floor, *chain);
                }
            }
            Operation::Install { rows, floor, floor_chain, keep_tail, last, chain, .. } => {
                let entries_end =
                    if *keep_tail { index_key(floor.index.0 + 1).to_vec() } else { vec![0xFF; 9] };
                writes.push(Write::DeleteRange(Family::Entries, Vec::new(), entries_end));
                writes.push(Write::DeleteRange(Family::Ledger, Vec::new(), vec![0xFF; 2]));
                for (key, value) in rows {
                    writes.push(Write::Put(Family::Ledger, key.clone(), Bytes::copy_from_slice(value)));
                }
                writes.push(put(keys::FLOOR, encode_floor(floor, floor_chain)));
                (self.promise.last, self.promise.chain) = (*last, *chain);
            }
        }
    }
}

pub(crate) fn encode_log_id(id: &LogId) -> Vec<u8> {
    let mut value = Vec::with_capacity(16);
    value.extend(id.term.0.to_be_bytes());
    value.extend(id.index.0.to_be_bytes());
    value
}

pub(crate) fn decode_log_id(value: &[u8]) -> Option<LogId> {
    let term = u64::from_be_bytes(value.get(..8)?.try_into().ok()?);
    let index = u64::from_be_bytes(value.get(8..16)?.try_into().ok()?);
    Some(LogId { term: term.into(), index: index.into() })
}

fn encode_floor(floor: &LogId, chain: &ChainHash) -> Vec<u8> {
    let mut value = encode_log_id(floor);
    value.extend(chain);
    value
}

pub(crate) fn decode_floor(value: &[u8]) -> Option<(LogId, ChainHash)> {
    Some((decode_log_id(value)?, value.get(16..32)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sim::{SimDisk, SimEngine};

    fn commit_loop(queue: &Queue) -> CommitLoop<SimEngine> {
        let engine = Arc::new(SimEngine::open(&SimDisk::new(7)).expect("a fresh disk opens"));
        let stored = crate::log::load(&*engine).expect("it is empty");
        let log = crate::log::Log::new(Arc::clone(&engine), queue.clone(), stored, 0);
        let (floor, _) = FloorFile::open(&*engine).expect("there is none");
        CommitLoop::new(engine, queue.clone(), log.written(), floor, Promise::default())
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_loop_that_has_ended() {
        let queue = Queue::default();
        let stop = tokio_util::sync::CancellationToken::new();
        stop.cancel();
        commit_loop(&queue).run(stop).await.expect("an orderly end");
        let waited = tokio::time::timeout(Duration::from_secs(1), queue.barrier()).await;
        assert_eq!(waited, Ok(Err(ended())));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_queued_when_the_loop_is_dropped_gets_an_error() {
        let queue = Queue::default();
        let running = commit_loop(&queue).run(tokio_util::sync::CancellationToken::new());
        let mut running = Box::pin(running);
        assert!(futures_poll_once(running.as_mut()).await.is_none(), "it runs");
        let waiting = queue.barrier();
        drop(running);
        assert_eq!(tokio::time::timeout(Duration::from_secs(1), waiting).await, Ok(Err(ended())));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_committed_wakes_nobody_and_rides_along_with_what_is_written_next() {
        let queue = Queue::default();
        let running = commit_loop(&queue);
        let engine = Arc::clone(&running.engine);
        let held = || engine.get(Family::Raft, keys::COMMITTED).expect("it can be read");
        let mut running = Box::pin(running.run(tokio_util::sync::CancellationToken::new()));
        let id = LogId { term: 1.into(), index: 7.into() };
        queue.leave_committed(Some(id));
        let idle = tokio::time::timeout(PROMISE_EVERY * 10, running.as_mut()).await;
        assert!(idle.is_err() && held().is_none(), "nothing else was written");
        queue.push(Operation::Rows { changes: Vec::new() });
        let busy = tokio::time::timeout(PROMISE_EVERY, running.as_mut()).await;
        assert!(busy.is_err(), "it goes on");
        assert_eq!(held().and_then(|value| decode_log_id(&value)), Some(id));
    }

    #[test]
    fn what_is_committed_is_not_written_before_the_entries_that_it_speaks_of() {
        let append = |index: u64, bytes: usize| {
            let (last, done) = (LogId { term: 1.into(), index: index.into() }, oneshot_done().0);
            let entries = vec![(index, Bytes::from(vec![0; bytes]))];
            Operation::Append { entries, last, chain: Default::default(), branch: Branch::default(), done }
        };
        let queue = Queue::default();
        queue.push(append(7, GROUP_BYTES));
        queue.push(append(8, 1));
        queue.leave_committed(Some(LogId { term: 1.into(), index: 8.into() }));
        let first = queue.waiting().take_group();
        assert!(matches!(first[..], [Operation::Append { .. }]), "entry 8 is in the next group");
        let second = queue.waiting().take_group();
        assert!(matches!(second[..], [Operation::Append { .. }, Operation::Committed { .. }]));
    }

    async fn futures_poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = std::future::ready(()) => None,
        }
    }
}
