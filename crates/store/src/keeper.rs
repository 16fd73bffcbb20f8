//! The keeper of the ledger: applies entries to the one in memory, and lets the disk follow.
//!
//! - The ledger in memory is the truth; `apply` never waits for the disk.
//! - Rows that changed are queued behind the entries they cover, at most every [`FLUSH_EVERY`] or when a floor needs
//!   them, with the applied position in the same commit.
//! - While applying, a checkpoint is cut every [`CHECKPOINT_BYTES`] of entries or [`CHECKPOINT_EVERY`]; one that the
//!   horizon has passed can become a snapshot, and what lies below it can be purged. What the schedule leaves lying is too
//!   much for a small disk: [`Keeper::cut_for_room`] does not wait for it.
//! - For a checkpoint the ledger is held only while it is copied, which shares what is large. The keeper's task encodes it.
//! - What another node sent is kept while somebody holds it, who may install it. What nobody holds any more goes, unless
//!   the ledger has come up to it: from then on it is a checkpoint like any other.
//! - No snapshot lies above the horizon, or what is undelivered would not be in the log of who installs it. The limit is
//!   read anew wherever a snapshot is picked; that something lies at or below it never becomes untrue.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use bytes::Bytes;
use model::ids::GroupId;
use model::slots::Elapsed;
use model::{Position, Timestamp};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::entry::Kind;

use crate::answers::Answers;
use crate::checkpoint::{Checkpoint, CheckpointHeader, Rows};
use crate::checkpoints::Checkpoints;
use crate::commit::{Operation, oneshot_done};
use crate::engine::{Engine, EngineError, Family, index_key};
use crate::entry::ChainHash;
use crate::ledger::prepare::Read;
use crate::ledger::{ApplyError, Body, Grid, Ledger, LogId, State};
use crate::log::Log;
use crate::outcome::Outcome;
use crate::phases::Phases;

/// How far the rows on disk may lag behind the ledger in memory.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Bytes of entries from one checkpoint to the next.
const CHECKPOINT_BYTES: usize = 64 << 20;
/// Time from one checkpoint to the next, if anything was applied.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(600);
/// Bytes of entries that are worth a checkpoint where the disk has no room.
const WORTHWHILE: u64 = 4 << 20;

/// Owns the ledger and its checkpoints. Cheap to clone.
pub struct Keeper<E> {
    shared: Arc<Shared<E>>,
}

impl<E> Clone for Keeper<E> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

struct Shared<E> {
    engine: Arc<E>,
    log: Log<E>,
    held: RwLock<Held>,
    applied: watch::Sender<Position>,
    /// The last applied entry that carries no samples.
    orders: watch::Sender<Position>,
    /// The last applied entry that made a record.
    records: watch::Sender<Position>,
    checkpoints: Checkpoints<E>,
    errands: Mutex<Errands>,
    /// Held while the ledger is moved, from before an entry is prepared for it: what was prepared fits.
    moving: Mutex<()>,
    /// Entries up to here are replayed from the disk: when they were applied says nothing about when they were proposed.
    replayed_to: Position,
    /// Something for the keeper's task to do: a checkpoint to write or bytes to give back.
    work: Notify,
}

/// The ledger and what only this node knows of it, in step.
struct Held {
    ledger: Ledger,
    /// When each group's last slot began, as seen from here.
    phases: Phases,
    /// When each group last had a value, of what was applied here.
    answers: Answers,
}

impl Held {
    fn new(ledger: Ledger) -> Self {
        let phases = Phases::of(ledger.state(), Instant::now());
        Self { ledger, phases, answers: Answers::default() }
    }
}

/// A checkpoint on its way to the disk.
enum Cut {
    /// The ledger as it was, its position, and the chain hash there.
    Ledger(Box<Ledger>, LogId, ChainHash),
    /// As another node sent it, and whether anybody may still install it.
    Sent(Checkpoint, Weak<()>),
}

impl Cut {
    fn checkpoint(self) -> Checkpoint {
        match self {
            Self::Ledger(ledger, at, chain) => Checkpoint::of(&ledger, at, chain),
            Self::Sent(checkpoint, _) => checkpoint,
        }
    }
}

/// What waits for the keeper's task.
#[derive(Default)]
struct Errands {
    /// Checkpoints on their way to the disk, and who waits for them. Those of the schedule wait for one another.
    cut: VecDeque<(Cut, Option<oneshot::Sender<()>>)>,
    /// Checkpoints that were received, and whether anybody may still install them.
    received: Vec<(LogId, Weak<()>)>,
    bytes_since_cut: usize,
    /// Bytes that entries had on disk when bytes were given back last (at the opening: no more than so many), and that no
    /// checkpoint cut since will let go.
    left: u64,
    cut_at: Option<Instant>,
    /// The durable floor up to which bytes may be given back.
    droppable: Option<LogId>,
    /// The task has ended: nothing is written any more.
    ended: bool,
}

/// What a disk without room can still hope for from this store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relief {
    /// Nothing before more is delivered.
    Undelivered,
    /// A checkpoint is being written; once it is purged to, bytes come back.
    Coming,
    /// Nothing: what was delivered is gone, or goes with the last checkpoint.
    Spent,
}

/// A ledger checkpoint that can be sent or installed: the snapshot of a cluster.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What it covers.
    pub header: CheckpointHeader,
    /// The checkpoint file.
    pub bytes: Bytes,
}

/// A snapshot of another node, checked, and here already as a checkpoint, which stays while this or a clone of it exists.
#[derive(Debug, Clone)]
pub struct Received {
    header: CheckpointHeader,
    rows: Rows,
    ledger: Ledger,
    held: Arc<()>,
}

impl Received {
    /// The last entry it covers.
    pub fn at(&self) -> LogId {
        self.header.at
    }
}

impl<E: Engine> Keeper<E> {
    pub(crate) fn new(engine: Arc<E>, log: Log<E>, ledger: Ledger, checkpoints: Checkpoints<E>) -> Self {
        let log_end = log.ends().last.map_or(Position::ZERO, |last| last.index);
        let (applied, _) = watch::channel(ledger.state().applied_position());
        let (orders, _) = watch::channel(ledger.state().applied_position());
        let (records, _) = watch::channel(ledger.state().applied_position());
        // What a crash kept from being given back goes now.
        let droppable = log.ends().floor;
        let errands = Errands { cut_at: Some(Instant::now()), droppable, ..Errands::default() };
        let shared = Shared {
            engine,
            log,
            held: RwLock::new(Held::new(ledger)),
            applied,
            orders,
            records,
            checkpoints,
            errands: Mutex::new(errands),
            moving: Mutex::default(),
            replayed_to: log_end,
            work: Notify::new(),
        };
        shared.work.notify_one();
        Self { shared: Arc::new(shared) }
    }

    fn held(&self) -> RwLockReadGuard<'_, Held> {
        self.shared.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Held> {
        self.shared.held.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn errands(&self) -> MutexGuard<'_, Errands> {
        self.shared.errands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the state; `read` must be short, because `apply` waits for it.
    pub fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        read(self.held().ledger.state())
    }

    /// The last applied position, and every later one.
    pub fn applied(&self) -> watch::Receiver<Position> {
        self.shared.applied.subscribe()
    }

    /// Changes with every applied entry that carries anything but samples: for whoever follows the configuration, reigns,
    /// memberships or schedules, which samples never change.
    pub fn orders(&self) -> watch::Receiver<Position> {
        self.shared.orders.subscribe()
    }

    /// Changes with every applied entry that made a record: a gap, an opening, an overrun.
    pub fn records(&self) -> watch::Receiver<Position> {
        self.shared.records.subscribe()
    }

    /// Wakes as few as possible: samples come all the time, and each of them would wake all.
    fn tell_applied(&self, at: Position, gives_orders: bool, makes_records: bool) {
        self.shared.applied.send_replace(at);
        if gives_orders {
            self.shared.orders.send_replace(at);
        }
        if makes_records {
            self.shared.records.send_replace(at);
        }
    }

    /// Applies one committed entry. While that is made ready, the ledger can be read. An error of the disk is final.
    pub fn apply(&self, id: LogId, body: &Body) -> Result<Outcome, ApplyError> {
        let vote = self.shared.log.vote();
        let is_in_office =
            id.index > self.shared.replayed_to && vote.is_some_and(|vote| vote.term == id.term);
        let (outcome, makes_records) = {
            let _moving = self.shared.moving.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = Read::entry(id, body)?;
            let (said_at, values) = (entry.said_at(), entry.answers());
            let basis = self.read(|state| entry.basis(state));
            let entry = entry.prepare(basis)?;
            let Held { ledger, phases, answers } = &mut *self.change();
            let outcome = ledger.apply_prepared(entry);
            phases.applied(ledger.state(), (id, said_at), is_in_office, Instant::now());
            answers.applied(&values, &outcome);
            let last = ledger.state().effects.last_key_value();
            (outcome, last.is_some_and(|(at, effects)| *at == id.index && !effects.records.is_empty()))
        };
        let carries_samples =
            matches!(body, Body::Command(bytes) if wire::entry::kind(bytes) == Some(Kind::Append));
        self.tell_applied(id.index, !carries_samples, makes_records);
        let size = if let Body::Command(bytes) = body { bytes.len() } else { 0 };
        let due = {
            let mut errands = self.errands();
            errands.bytes_since_cut += size;
            let due = errands.bytes_since_cut >= CHECKPOINT_BYTES
                || errands.cut_at.is_some_and(|cut| cut.elapsed() >= CHECKPOINT_EVERY);
            // A disk that is slower than the log gets fewer, not a queue of them.
            due && errands.cut.is_empty()
        };
        if due {
            // The log cannot be read: no snapshot of this node would bear what it stands on.
            self.cut_checkpoint()?;
        }
        Ok(outcome)
    }

    /// Every open grid, and the monotonic time since its last slot began, or since it was opened.
    pub fn open_grids(&self) -> Vec<(GroupId, Grid, Elapsed)> {
        let held = self.held();
        let now = Instant::now();
        let grids = held.ledger.state().grids.iter();
        grids.map(|(group, grid)| (*group, *grid, held.phases.elapsed(*group, grid, now))).collect()
    }

    /// How long ago the last slot of each open grid began at least, or its opening.
    pub fn elapsed_at_least(&self) -> Vec<(GroupId, Duration)> {
        self.open_grids().into_iter().map(|(group, _, elapsed)| (group, elapsed.least)).collect()
    }

    /// How long ago it began at most, of the grids of which anything is known of that.
    pub fn elapsed_at_most(&self) -> Vec<(GroupId, Duration)> {
        let known = |(group, _, elapsed): (GroupId, Grid, Elapsed)| Some((group, elapsed.most?));
        self.open_grids().into_iter().filter_map(known).collect()
    }

    /// When the last accepted batch with a value in it was received of each group: of what was applied since this node
    /// started or took over a snapshot.
    pub fn answered(&self) -> BTreeMap<GroupId, Timestamp> {
        self.held().answers.groups().clone()
    }

    /// The digest of the ledger and the entry it was taken at; queues what changed.
    pub fn digest(&self) -> (Option<LogId>, crate::ledger::Digest) {
        // At once: an entry applied in between would be in one of the two.
        let ledger = &mut self.change().ledger;
        self.flush_locked(ledger);
        (ledger.state().applied, ledger.digest())
    }

    /// Queues the rows that changed.
    pub fn flush(&self) {
        self.flush_locked(&mut self.change().ledger);
    }

    fn flush_locked(&self, ledger: &mut Ledger) {
        if ledger.is_dirty() {
            self.shared.log.queue().push(Operation::Rows { changes: ledger.take_changes() });
        }
    }

    /// Cuts a checkpoint of the ledger as it is now; it is listed once it is on disk.
    pub fn cut_checkpoint(&self) -> Result<Option<LogId>, EngineError> {
        self.cut(None)
    }

    /// Cuts a checkpoint and waits until it is listed.
    pub async fn write_checkpoint(&self) -> Result<(), EngineError> {
        let (written, listed) = oneshot::channel();
        if self.cut(Some(written))?.is_some() {
            listed.await.map_err(|_| ended())?;
        }
        Ok(())
    }

    fn cut(&self, written: Option<oneshot::Sender<()>>) -> Result<Option<LogId>, EngineError> {
        let (ledger, at, chain) = {
            let ledger = &mut self.change().ledger;
            let Some(at) = ledger.state().applied else { return Ok(None) };
            self.flush_locked(ledger);
            // A log that was moved in whole (a test suite, a snapshot) need not hold the applied entry.
            let chain = self.shared.log.chain_or_none(at.index)?;
            (Box::new(ledger.clone()), at, chain)
        };
        self.errands().left = 0;
        self.hand_over(Cut::Ledger(ledger, at, chain), written);
        Ok(Some(at))
    }

    /// For a disk without room, to be asked again and again: cuts a checkpoint as soon as nothing is undelivered, if that lets
    /// go of some MiB. It may take two: what is flushed while the first is purged to can share a file with entries behind
    /// it, and goes with the second.
    pub fn cut_for_room(&self) -> Result<Relief, EngineError> {
        if self.read(|state| state.last_deliverable > state.horizon) {
            return Ok(Relief::Undelivered);
        }
        let (held, is_cutting) = {
            let errands = self.errands();
            (errands.left.saturating_add(errands.bytes_since_cut as u64), !errands.cut.is_empty())
        };
        if held < WORTHWHILE {
            return Ok(Relief::Spent);
        }
        if !is_cutting {
            self.cut_checkpoint()?;
        }
        Ok(Relief::Coming)
    }

    /// Gives a checkpoint to the keeper's task; `written` is dropped unanswered if that has ended.
    fn hand_over(&self, cut: Cut, written: Option<oneshot::Sender<()>>) {
        let mut errands = self.errands();
        errands.bytes_since_cut = 0;
        errands.cut_at = Some(Instant::now());
        if !errands.ended {
            errands.cut.push_back((cut, written));
        }
        drop(errands);
        self.shared.work.notify_one();
    }

    /// Writes what was cut, oldest first. Only the keeper's task does this.
    async fn write_checkpoints(&self) -> Result<(), EngineError> {
        loop {
            let Some((cut, written)) = self.errands().cut.pop_front() else { return Ok(()) };
            if let Cut::Sent(sent, held) = &cut {
                self.errands().received.push((sent.header.at, Weak::clone(held)));
            }
            self.shared.checkpoints.write(&cut.checkpoint()).await?;
            if let Some(written) = written {
                // Whoever waited may have gone.
                let _ = written.send(());
            }
            // Before the floor: a checkpoint that is being installed lies above the one, or is covered by the other.
            let applied = self.read(State::applied_position);
            self.shared.checkpoints.thin(self.floor(), self.snapshot_limit(), applied).await?;
        }
    }

    /// Removes what was received and nobody can install any more. Only the keeper's task does this.
    async fn forget_received(&self) -> Result<(), EngineError> {
        let mut unheld = {
            let mut errands = self.errands();
            let received = std::mem::take(&mut errands.received).into_iter();
            let (held, unheld): (Vec<_>, Vec<_>) = received.partition(|(_, held)| held.strong_count() > 0);
            errands.received = held;
            // The same may have been received twice, and be about to be installed once.
            let is_held = |at: &LogId| errands.received.iter().any(|(held, _)| held == at);
            unheld.into_iter().map(|(at, _)| at).filter(|at| !is_held(at)).collect::<Vec<_>>()
        };
        // Read only now: who installed one let go of it after the ledger had come up to it.
        let applied = self.read(State::applied_position);
        unheld.retain(|at| at.index > applied);
        self.shared.checkpoints.forget(&unheld).await
    }

    fn floor(&self) -> Position {
        self.shared.log.ends().floor.map_or(Position::ZERO, |floor| floor.index)
    }

    /// No snapshot lies above this. What covers the floor always qualifies: it was below the limit when it was purged to.
    fn snapshot_limit(&self) -> Position {
        self.read(State::snapshot_limit).max(self.floor())
    }

    /// The newest checkpoint that may be a snapshot: one that the horizon has passed.
    pub fn newest_snapshot(&self) -> Result<Option<Snapshot>, EngineError> {
        let newest = self.shared.checkpoints.read_newest(self.snapshot_limit())?;
        Ok(newest.map(|(header, bytes)| Snapshot { header, bytes }))
    }

    /// Position of the newest checkpoint that the horizon has passed.
    pub fn newest_snapshot_position(&self) -> Option<LogId> {
        self.shared.checkpoints.newest(self.snapshot_limit())
    }

    /// Purges the log up to `floor`, which must be covered by a checkpoint; bytes are given back in the background.
    pub fn purge(&self, floor: LogId) -> Result<(), EngineError> {
        // The rows first: the floor must not become durable before the ledger that covers it. Those of a checkpoint that was
        // cut here are on their way already, those of one that was received need not be.
        if !runtime::mutant("floor-comes-before-its-rows") {
            self.flush();
        }
        // Weak, because the queue that holds the callback belongs to what it would keep alive.
        let shared = Arc::downgrade(&self.shared);
        let done = Box::new(move |outcome: Result<(), EngineError>| {
            if outcome.is_ok()
                && let Some(shared) = shared.upgrade()
            {
                Self { shared }.may_drop(floor);
            }
        });
        self.shared.log.purge(floor, done)
    }

    /// What lies below a durable floor may go.
    fn may_drop(&self, floor: LogId) {
        let mut errands = self.errands();
        let known = errands.droppable.filter(|known| known.index > floor.index);
        errands.droppable = known.or(Some(floor));
        drop(errands);
        self.shared.work.notify_one();
    }

    /// Replaces ledger and log by a snapshot. Durable when this returns.
    pub async fn install(&self, bytes: Bytes) -> Result<(), EngineError> {
        let received = self.receive(&bytes).await?;
        self.install_received(received).await
    }

    /// Reads and checks a snapshot, and writes it as a checkpoint. Durable when this returns; ledger and log stay as they
    /// are, and whether it is ever installed is open: if what is returned is dropped instead, the checkpoint goes.
    pub async fn receive(&self, bytes: &Bytes) -> Result<Received, EngineError> {
        let checkpoint = Checkpoint::decode(bytes)?;
        let ledger = checkpoint.ledger()?;
        let (header, rows) = (checkpoint.header.clone(), checkpoint.rows.clone());
        let (written, listed) = oneshot::channel();
        let held = Arc::new(());
        self.hand_over(Cut::Sent(checkpoint, Arc::downgrade(&held)), Some(written));
        listed.await.map_err(|_| ended())?;
        Ok(Received { header, rows, ledger, held })
    }

    /// Replaces ledger and log by a snapshot whose checkpoint is written: the log begins behind it then. One commit, and
    /// durable when this returns.
    pub async fn install_received(&self, received: Received) -> Result<(), EngineError> {
        // Held until the ledger has come up to it.
        let Received { header, rows, ledger, held: _held } = received;
        let (done, outcome) = oneshot_done();
        {
            // Queued under the ledger's lock: rows of the ledger that is replaced must not come behind the install.
            let _moving = self.shared.moving.lock().unwrap_or_else(PoisonError::into_inner);
            let mut held = self.change();
            self.shared.log.install(header.at, header.chain, rows, done)?;
            *held = Held::new(ledger);
        }
        outcome.await?;
        self.may_drop(header.at);
        self.tell_applied(header.at.index, true, true);
        Ok(())
    }

    /// Runs the keeper's task: rows, checkpoint files, bytes given back.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), EngineError> {
        let ended = self.keep(stop).await;
        let mut errands = self.errands();
        errands.ended = true;
        // Whoever waits for one of them is told so.
        errands.cut.clear();
        ended
    }

    async fn keep(&self, stop: CancellationToken) -> Result<(), EngineError> {
        self.shared.checkpoints.remove_leftovers().await?;
        // Entries from before this opening are not counted as they are applied.
        self.errands().left = self.shared.engine.disk_usage()?;
        let mut ticks = tokio::time::interval(FLUSH_EVERY);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    self.flush();
                    self.forget_received().await?;
                }
                () = self.shared.work.notified() => {
                    self.write_checkpoints().await?;
                    self.give_back().await?;
                }
                () = stop.cancelled() => {
                    self.flush();
                    return self.shared.log.queue().barrier().await;
                }
            }
        }
    }

    /// Deletes what lies below the floor: entries, and checkpoints older than the one that covers it.
    async fn give_back(&self) -> Result<(), EngineError> {
        let Some(floor) = self.errands().droppable.take() else { return Ok(()) };
        let left = self.shared.engine.drop_below(Family::Entries, &index_key(floor.index.0 + 1)).await?;
        self.errands().left = left;
        self.shared.checkpoints.remove_below(floor.index).await
    }
}

fn ended() -> EngineError {
    EngineError::Failed { operation: "write a checkpoint", reason: "the ledger's task has ended".to_owned() }
}

#[cfg(test)]
mod tests;
