//! The process that writes until the power fails: a store on RocksDB, driven as Raft drives it, by chance from a seed.
//!
//! - Each life begins with what was found, and waits until it may go on. It then votes, takes back a part of what is
//!   not applied, and leads; and so again and again.
//! - What is applied is never taken back. Whatever is found at an opening is applied, so that it stays.
//! - The log is bounded, so that a small volume holds it: behind [`LOG_BYTES`] it is purged before it grows again. So
//!   is what waits to be durable.
//! - It never ends in good order: it is killed, or tells that the store failed.

use std::collections::{BTreeMap, VecDeque};
use std::io::BufRead;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use model::batch::{Batch, Sample, Source};
use model::command::{Command, Stamp};
use model::{
    BootId, Cause, ClusterId, Lineage, NodeId, Position, Reading, Revision, SessionId, StoreId, TagId, Term,
    Timestamp, Value,
};
use rand::{Rng, RngCore};
use runtime::Supervisor;
use runtime::random::{Random, generator, id_bits};
use store::engine::EngineError;
use store::engine::rocks::{RocksEngine, RocksOptions};
use store::engine::sim::{SimDisk, SimEngine};
use store::ledger::{Body, Digest, LogId};
use store::{Done, Entry, Store, StoreOptions, Vote};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use wire::EncodedBatch;

use super::UNSYNCED;
use super::said::{Found, Held, Operation, Said, Voted, clear, tell};

/// Of a log that may still grow.
const LOG_BYTES: usize = 10 << 20;
/// Of entries that wait to be durable.
const WINDOW_BYTES: usize = 1 << 20;
const TAIL_BYTES: usize = 1 << 20;
/// Small files, so that there are many: of entries gathered in memory, and of write-ahead log.
const MEMTABLE_BYTES: usize = 2 << 20;
const WAL_BYTES: u64 = 16 << 20;
/// A life that nobody ends.
const LIFE: Duration = Duration::from_secs(60);
/// For anything that the store is asked.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time from one operation to the next, drawn once for each life.
const PAUSES: [u64; 5] = [0, 0, 1, 3, 10];
const THREADS: usize = 2;
/// Who leads, in every term.
const OWN: NodeId = NodeId(1);

/// The writer as a process of its own: `arguments` end with the data directory and the seed. Returns once the store has
/// failed, which it has said then.
pub fn child(arguments: &[String]) -> Result<()> {
    let [.., directory, seed] = arguments else { bail!("expected a data directory and a seed") };
    let seed = seed.parse::<u64>().context("the seed is no number")?;
    clear()?;
    thread::scope(|scope| {
        // A thread of its own, because whoever calls may have a runtime already.
        let process = || process(Path::new(directory), seed);
        let writer = thread::Builder::new().name("writer".to_owned()).spawn_scoped(scope, process)?;
        writer.join().map_err(|_| anyhow!("the writer panicked"))?
    })
}

fn process(directory: &Path, seed: u64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    match runtime.block_on(live(directory, seed)) {
        Ok(()) => Ok(()),
        // Before the runtime ends, for which a store that has failed may take its time.
        Err(error) => Ok(tell(&Said::Failed(format!("{error:#}")))?),
    }
}

async fn live(directory: &Path, seed: u64) -> Result<()> {
    let mut random = generator(Some(seed));
    tell(&Said::Opens {})?;
    let options = RocksOptions {
        entries_memtable_bytes: MEMTABLE_BYTES,
        wal_bytes: WAL_BYTES,
        ..RocksOptions::default()
    };
    let engine = Arc::new(RocksEngine::open(directory, &options)?);
    let options = StoreOptions { tail_bytes: TAIL_BYTES, birth: StoreId::from(id_bits(&mut random)) };
    let (mut supervisor, spawner) = Supervisor::new();
    let store = Store::open(engine, options, &spawner).await?;
    let entries = store.log().read(0, u64::MAX, usize::MAX)?;
    tell(&Said::Found(found(&store, &entries).await?))?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    ensure!(!line.is_empty(), "nobody lets it go on");
    let mut writer = Writer::new(store, random, &entries);
    tokio::select! {
        ended = writer.work() => ended,
        failure = supervisor.failure() => Err(anyhow!("{failure}")),
        () = sleep(LIFE) => Err(anyhow!("nobody cut the power within {LIFE:?}")),
    }
}

/// What an open store holds.
async fn found(store: &Store<RocksEngine>, entries: &[Entry]) -> Result<Found> {
    let ends = store.log().ends();
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index.0);
    let (applied, digest) = store.keeper().digest();
    Ok(Found {
        store: store.identity().store.to_string(),
        vote: store.log().vote().map(Voted::from),
        floor: index(ends.floor),
        log: entries.iter().map(|entry| (entry.id.index.0, Held::from(entry))).collect(),
        last: index(ends.last),
        applied: index(applied),
        digest: digest.to_string(),
        recomputed: recomputed(store, entries).await?.to_string(),
    })
}

/// The digest of a ledger that applied the same entries elsewhere. Where they do not begin at the beginning, the newest
/// checkpoint is installed before.
async fn recomputed(store: &Store<RocksEngine>, entries: &[Entry]) -> Result<Digest> {
    let (supervisor, spawner) = Supervisor::new();
    let engine = Arc::new(SimEngine::open(&SimDisk::new(1))?);
    let options = StoreOptions { tail_bytes: 0, birth: StoreId::from(1) };
    let second = Store::open(engine, options, &spawner).await?;
    if store.log().ends().floor.is_some() {
        let snapshot = store.keeper().newest_snapshot()?.context("a log without beginning or checkpoint")?;
        second.keeper().install(snapshot.bytes).await?;
    }
    let from = second.keeper().read(|state| state.applied_position());
    let to = store.keeper().read(|state| state.applied_position());
    for entry in entries.iter().filter(|entry| entry.id.index > from && entry.id.index <= to) {
        second.keeper().apply(entry.id, &entry.body)?;
    }
    let (at, digest) = second.keeper().digest();
    let at = at.map_or(Position::ZERO, |id| id.index);
    drop(second);
    ensure!(supervisor.shut_down(PATIENCE).await, "a simulated store does not end");
    ensure!(at == to, "the ledger is at {to}, the log brings it to {at}");
    Ok(digest)
}

impl From<Vote> for Voted {
    fn from(vote: Vote) -> Self {
        Self { term: vote.term.0, node: vote.node.0, committed: vote.committed }
    }
}

struct Writer {
    store: Store<RocksEngine>,
    random: Random,
    pause: Duration,
    /// Acknowledges what it has only begun: a check that does not find that out is none.
    lies: bool,
    /// The last operation that was begun.
    operation: u64,
    term: u64,
    /// Of samples, one for each term; and the number of the last batch in it.
    session: u128,
    sequence: u64,
    /// Command time, in milliseconds.
    clock: i64,
    /// Bytes of each entry of the log.
    log: BTreeMap<u64, usize>,
    /// Appends that are not durable yet, and the bytes of each.
    waiting: VecDeque<(usize, oneshot::Receiver<Result<(), EngineError>>)>,
}

impl Writer {
    fn new(store: Store<RocksEngine>, mut random: Random, entries: &[Entry]) -> Self {
        let pause = PAUSES[random.random_range(0..PAUSES.len())];
        Self {
            pause: Duration::from_millis(pause),
            lies: std::env::var(UNSYNCED).is_ok_and(|value| value == "1"),
            operation: 0,
            term: store.log().vote().map_or(0, |vote| vote.term.0),
            session: 0,
            sequence: 0,
            clock: 0,
            log: entries.iter().map(|entry| (entry.id.index.0, entry.len())).collect(),
            waiting: VecDeque::new(),
            store,
            random,
        }
    }

    async fn work(&mut self) -> Result<()> {
        self.apply(self.last())?;
        self.lead().await?;
        loop {
            if self.log.values().sum::<usize>() > LOG_BYTES {
                self.make_room().await?;
            } else {
                self.step().await?;
            }
            if self.pause.is_zero() {
                tokio::task::yield_now().await;
            } else {
                sleep(self.pause).await;
            }
        }
    }

    async fn step(&mut self) -> Result<()> {
        match self.random.random_range(0..40) {
            0 => self.lead().await,
            1..=5 => {
                let (applied, last) = (self.applied(), self.last());
                let upto = self.random.random_range(applied..=last);
                self.apply(upto)
            }
            6 => {
                self.store.keeper().flush();
                Ok(())
            }
            7 => {
                let applied = self.store.keeper().read(|state| state.applied);
                self.store.log().save_committed(applied);
                Ok(())
            }
            8 => {
                self.store.keeper().cut_checkpoint()?;
                Ok(())
            }
            9 => self.release().await,
            10 => self.purge(),
            11..=13 => self.settle(0).await,
            _ => {
                let count = self.random.random_range(1..=6);
                let bodies = (0..count).map(|_| self.samples()).collect::<Result<Vec<_>>>()?;
                self.append(bodies).await
            }
        }
    }

    fn applied(&self) -> u64 {
        self.store.keeper().read(|state| state.applied_position().0)
    }

    fn last(&self) -> u64 {
        self.store.log().ends().last.map_or(0, |last| last.index.0)
    }

    /// Numbers an operation and says that it begins.
    fn begins(&mut self, operation: Operation) -> Result<u64> {
        self.operation += 1;
        tell(&Said::begins(self.operation, operation))?;
        if self.lies {
            tell(&Said::acknowledged(self.operation))?;
        }
        Ok(self.operation)
    }

    /// Wins an election: a new term, perhaps without the end of the log.
    async fn lead(&mut self) -> Result<()> {
        self.term += self.random.random_range(1..3_u64);
        self.session = id_bits(&mut self.random);
        self.sequence = 0;
        let others = NodeId(self.random.random_range(1..4));
        self.vote(others, false).await?;
        if self.random.random_bool(0.6) {
            self.truncate()?;
        }
        if others != OWN {
            self.term += 1;
            self.vote(OWN, false).await?;
        }
        self.vote(OWN, true).await?;
        let mut bodies = vec![Body::Blank];
        if self.store.keeper().read(|state| state.cluster.is_none()) {
            let cluster = ClusterId::from(7);
            let lineage = Lineage::from_random(7);
            bodies.push(self.command(&Command::Found { cluster, name: "plant-7".to_owned(), lineage })?);
        }
        let (name, cause) = ("node-1".to_owned(), Cause::Failover);
        bodies.push(self.command(&Command::Lead { node: OWN, name, cause, leaderless: None })?);
        self.append(bodies).await?;
        self.apply(self.last())
    }

    async fn vote(&mut self, node: NodeId, committed: bool) -> Result<()> {
        let vote = Vote { term: Term(self.term), node, committed };
        let number = self.begins(Operation::Vote(vote.into()))?;
        timeout(PATIENCE, self.store.log().save_vote(vote)).await.context("a vote is not answered")??;
        Ok(tell(&Said::acknowledged(number))?)
    }

    /// Takes back entries that are not applied, durable or not.
    fn truncate(&mut self) -> Result<()> {
        let (applied, last) = (self.applied(), self.last());
        if last <= applied {
            return Ok(());
        }
        let keep = self.random.random_range(applied..last);
        let id = if keep == applied {
            self.store.keeper().read(|state| state.applied)
        } else {
            self.store.log().id_at(Position(keep))?
        };
        self.begins(Operation::Truncate(keep))?;
        self.store.log().truncate_after(id)?;
        self.log.retain(|index, _| *index <= keep);
        Ok(())
    }

    async fn append(&mut self, bodies: Vec<Body>) -> Result<()> {
        let first = self.last() + 1;
        let id = |index| LogId { term: Term(self.term), index: Position(index) };
        let entries: Vec<Entry> =
            (first..).zip(bodies).map(|(index, body)| Entry { id: id(index), body }).collect();
        self.log.extend(entries.iter().map(|entry| (entry.id.index.0, entry.len())));
        let bytes: usize = entries.iter().map(Entry::len).sum();
        let number = self.begins(Operation::Append(first, entries.iter().map(Held::from).collect()))?;
        let (sender, receiver) = oneshot::channel();
        let done: Done = Box::new(move |outcome: Result<(), EngineError>| {
            if outcome.is_ok() {
                // If nobody listens any more, the next operation finds that out.
                drop(tell(&Said::acknowledged(number)));
            }
            drop(sender.send(outcome));
        });
        self.store.log().append(entries, done);
        self.waiting.push_back((bytes, receiver));
        self.settle(WINDOW_BYTES).await
    }

    /// Waits until no more than so many bytes wait to be durable.
    async fn settle(&mut self, bytes: usize) -> Result<()> {
        while self.waiting.iter().map(|(waiting, _)| *waiting).sum::<usize>() > bytes
            && let Some((_, oldest)) = self.waiting.pop_front()
        {
            timeout(PATIENCE, oldest).await.context("an append is not answered")???;
        }
        Ok(())
    }

    fn apply(&mut self, upto: u64) -> Result<()> {
        let entries = self.store.log().read(self.applied() + 1, upto + 1, usize::MAX)?;
        for entry in entries {
            self.store.keeper().apply(entry.id, &entry.body)?;
        }
        Ok(())
    }

    /// Lets go of everything applied, so that a checkpoint up to there can be purged to.
    async fn release(&mut self) -> Result<()> {
        let below = Position(self.applied()).next();
        let truncate = self.command(&Command::Truncate { below, overrun: None })?;
        self.append(vec![truncate]).await?;
        self.apply(self.last())
    }

    fn purge(&mut self) -> Result<()> {
        let floor = self.store.log().ends().floor;
        let Some(at) = self.store.keeper().newest_snapshot_position().filter(|at| Some(*at) > floor) else {
            return Ok(());
        };
        self.begins(Operation::Purge(at.index.0))?;
        self.store.keeper().purge(at)?;
        self.log.retain(|index, _| *index > at.index.0);
        Ok(())
    }

    /// All of it that the log allows, in the order in which it frees bytes.
    async fn make_room(&mut self) -> Result<()> {
        tell(&Said::MakesRoom {})?;
        self.apply(self.last())?;
        let written = self.store.keeper().write_checkpoint();
        timeout(PATIENCE, written).await.context("a checkpoint is not written")??;
        self.release().await?;
        self.purge()
    }

    fn stamp(&mut self) -> Stamp {
        self.clock += 1_000;
        Stamp { at: Timestamp::from_millis(self.clock), boot: BootId::from(1) }
    }

    fn command(&mut self, command: &Command) -> Result<Body> {
        Ok(Body::Command(wire::entry::encode(&self.stamp(), command)?))
    }

    /// One pushed sample, of bytes that do not shrink; mostly a small one.
    fn samples(&mut self) -> Result<Body> {
        let lengths: Range<usize> = match self.random.random_range(0..20) {
            0..=12 => 100..1_000,
            13..=18 => 1_000..20_000,
            _ => 20_000..200_000,
        };
        let mut bytes = vec![0; self.random.random_range(lengths)];
        self.random.fill_bytes(&mut bytes);
        self.sequence += 1;
        let source = Source::Pushed { session: SessionId::from(self.session), sequence: self.sequence };
        let reading = Reading::Good(Value::Bytes(bytes.into()));
        let sample = Sample { tag: TagId(1), source_time: Timestamp(0), reading };
        let batch = Batch::new(source, OWN, Revision(0), Timestamp(0), vec![sample])?;
        let batch = EncodedBatch::encode(&batch)?;
        Ok(Body::Command(wire::entry::encode_append(&self.stamp(), &[batch])))
    }
}
