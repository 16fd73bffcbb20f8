//! What the tests share: places to open a store, entries to put into it.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use holdfast_store::engine::rocks::{RocksEngine, RocksOptions};
use holdfast_store::engine::sim::{SimDisk, SimEngine};
use holdfast_store::engine::{Durability, Engine, EngineError, Family, SLOT_BYTES, Write};
use holdfast_store::ledger::{Body, LogId};
use holdfast_store::{Done, Entry, OpenError, Store, StoreOptions};
use model::batch::{Batch, Sample, Source};
use model::command::{Command, Request, Stamp};
use model::plant::{Csv, Destination, DestinationKind, Device, Group, Link, Plant, Schedule, Start, Tag};
use model::value::ValueType;
use model::{
    BootId, Cause, ClusterId, Cursor, DestinationId, GridId, GroupId, Lineage, NodeId, Position, Reading,
    Revision, SessionId, TagId, Term, Timestamp, Value,
};
use runtime::{Spawner, Supervisor};
use tokio::sync::oneshot;
use wire::entry::EncodedBatch;

/// The only poll group of [`plant`], and its first grid.
pub(crate) const GROUP: GroupId = GroupId(1);
pub(crate) const GRID: GridId = GridId(1);
pub(crate) const HISTORIAN: DestinationId = DestinationId(1);

/// No test waits longer than this for anything.
const DEADLINE: Duration = Duration::from_secs(20);

/// One opening of a store. Dropping it (with its runtime) is a killed process.
pub(crate) struct Opened<E> {
    pub(crate) store: Store<E>,
    /// To look past the store.
    pub(crate) engine: Arc<E>,
    pub(crate) supervisor: Supervisor,
    _spawner: Spawner,
}

impl<E> std::fmt::Debug for Opened<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an open store")
    }
}

pub(crate) async fn open<E: Engine>(engine: E, tail_bytes: usize) -> Result<Opened<E>, OpenError> {
    let (supervisor, spawner) = Supervisor::new();
    let options = StoreOptions { tail_bytes, birth: 7.into() };
    let engine = Arc::new(engine);
    let store = Store::open(Arc::clone(&engine), options, &spawner).await?;
    Ok(Opened { store, engine, supervisor, _spawner: spawner })
}

pub(crate) async fn open_sim(disk: &Arc<SimDisk>) -> Result<Opened<SimEngine>, OpenError> {
    open(SimEngine::open(disk).expect("nobody else has it open"), 1 << 20).await
}

pub(crate) fn rocks(path: &Path) -> RocksEngine {
    let options = RocksOptions { entries_memtable_bytes: 1 << 20, ..RocksOptions::default() };
    RocksEngine::open(path, &options).expect("a directory of this test opens")
}

/// Runs one opening in a runtime of its own, and drops its tasks at the end as a killed process would.
/// Time is simulated where the disk is.
pub(crate) fn life<T>(simulated: bool, body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(simulated)
        .build()
        .expect("a runtime without I/O");
    runtime.block_on(body)
}

/// Waits until the end of the log is promised in the floor file, or the disk has failed and nothing is promised any more.
pub(crate) async fn until_promised<E: Engine>(opened: &Opened<E>) {
    eventually("the end of the log is promised", || {
        let last = opened.store.log().ends().last.unwrap_or_default();
        promised(&*opened.engine).is_none_or(|promised| promised == last)
    })
    .await;
}

/// Up to where the floor file promises the log: the newer of its two slots. `None` where the disk has failed.
fn promised<E: Engine>(engine: &E) -> Option<LogId> {
    let slots = engine.read_slots("floor").ok()?.unwrap_or([[0; SLOT_BYTES]; 2]);
    let number = |slot: &[u8; SLOT_BYTES], from: usize| {
        u64::from_be_bytes(slot[from..from + 8].try_into().expect("eight bytes"))
    };
    let newest = slots.iter().max_by_key(|slot| number(slot, 8))?;
    Some(id(number(newest, 49), number(newest, 57)))
}

/// Waits for a condition that another task makes true.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"));
}

/// A callback, and what it was called with.
pub(crate) fn done() -> (Done, oneshot::Receiver<Result<(), EngineError>>) {
    let (sender, receiver) = oneshot::channel();
    (Box::new(move |outcome| drop(sender.send(outcome))), receiver)
}

pub(crate) fn id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), index: Position(index) }
}

pub(crate) fn entry(term: u64, index: u64, body: Body) -> Entry {
    Entry { id: id(term, index), body }
}

pub(crate) fn stamp(at: i64) -> Stamp {
    Stamp { at: Timestamp::from_millis(at), boot: BootId::from(1) }
}

pub(crate) fn command(at: i64, command: &Command) -> Body {
    Body::Command(wire::entry::encode(&stamp(at), command).expect("a command can be encoded"))
}

pub(crate) fn found() -> Body {
    let cluster = ClusterId::from(7_u128);
    command(0, &Command::Found { cluster, name: "plant-7".into(), lineage: Lineage::from_random(7) })
}

pub(crate) fn lead(node: u64) -> Body {
    let name = format!("node-{node}");
    command(0, &Command::Lead { node: NodeId(node), name, cause: Cause::Failover, leaderless: None })
}

/// One device polled each second, destinations by name (required).
pub(crate) fn plant(destinations: &[&str]) -> Plant {
    let tag = |name: &str| Tag {
        name: name.into(),
        point: None,
        value_type: ValueType::F64,
        unit: String::new(),
        description: String::new(),
    };
    let group = Group {
        id: "fast".into(),
        schedule: Some(Schedule { period: Duration::from_secs(1), offset: Duration::ZERO }),
        enabled: true,
        tags: vec![tag("ram"), tag("level")],
    };
    let device = Device {
        id: "press".into(),
        link: Link::Push,
        enabled: true,
        labels: BTreeMap::new(),
        description: String::new(),
        groups: vec![group],
    };
    let destination = |name: &&str| Destination {
        id: (*name).to_owned(),
        kind: DestinationKind::Csv(Csv {
            directory: "out".into(),
            every: Duration::from_secs(60),
            max_rows: 1_000,
        }),
        required: true,
        start: Start::Now,
        routes: Vec::new(),
    };
    Plant {
        devices: vec![device],
        destinations: destinations.iter().map(destination).collect(),
        ..Plant::default()
    }
}

pub(crate) fn configure(at: i64, base: u64, plant: Plant) -> Body {
    configure_with(at, base, plant, b"bundle".to_vec())
}

/// With this as what was written.
pub(crate) fn configure_with(at: i64, base: u64, plant: Plant, bundle: Vec<u8>) -> Body {
    command(
        at,
        &Command::Configure {
            base: Revision(base),
            bundle,
            plant: Box::new(plant),
            elapsed: Vec::new(),
            discard: Vec::new(),
            request: Request::default(),
        },
    )
}

pub(crate) fn acknowledge(next: u64) -> Body {
    let next = Cursor::at(Position(next));
    command(0, &Command::Acknowledge { destination: HISTORIAN, next, rejected: Vec::new() })
}

pub(crate) fn truncate(below: u64) -> Body {
    command(0, &Command::Truncate { below: Position(below), overrun: None })
}

pub(crate) fn polled(grid: GridId, slot: u64) -> EncodedBatch {
    batch(Source::Polled { group: GROUP, grid, slot, skipped: Cause::Late }, 2)
}

pub(crate) fn pushed(session: u128, sequence: u64) -> EncodedBatch {
    batch(Source::Pushed { session: SessionId::from(session), sequence }, 1)
}

fn batch(source: Source, count: u32) -> EncodedBatch {
    let sample = |number: u32| Sample {
        tag: TagId(1 + number),
        source_time: Timestamp(i64::from(number)),
        reading: Reading::Good(Value::F64(f64::from(number))),
    };
    let samples = (0..count).map(sample).collect();
    let batch = Batch::new(source, NodeId(1), Revision(1), Timestamp(0), samples).expect("it is not empty");
    EncodedBatch::encode(&batch).expect("a few samples can be encoded")
}

pub(crate) fn append(batches: &[EncodedBatch]) -> Body {
    Body::Command(wire::entry::encode_append(&stamp(0), batches))
}

/// Bytes that do not shrink, as one pushed sample.
pub(crate) fn noise(session: u128, sequence: u64, length: usize) -> Body {
    use rand::RngCore;
    let mut bytes = vec![0; length];
    runtime::random::generator(Some(sequence)).fill_bytes(&mut bytes);
    let sample = Sample {
        tag: TagId(1),
        source_time: Timestamp(0),
        reading: Reading::Good(Value::Bytes(bytes.into())),
    };
    let source = Source::Pushed { session: SessionId::from(session), sequence };
    let batch = Batch::new(source, NodeId(1), Revision(1), Timestamp(0), vec![sample]).expect("not empty");
    append(&[EncodedBatch::encode(&batch).expect("it fits")])
}

impl<E: Engine> Opened<E> {
    /// Appends, waits until it is durable, and applies.
    pub(crate) async fn commit(&self, entries: &[Entry]) {
        self.write(entries).await;
        self.apply(entries);
    }

    pub(crate) async fn write(&self, entries: &[Entry]) {
        let (done, outcome) = done();
        self.store.log().append(entries.iter().cloned(), done);
        outcome.await.expect("the callback is called").expect("the disk is well");
    }

    /// Makes the rows of what was applied durable.
    pub(crate) async fn flush(&self) {
        self.store.keeper().flush();
        // Behind them in the queue, and synced.
        self.write(&[]).await;
    }

    pub(crate) fn apply(&self, entries: &[Entry]) {
        for entry in entries {
            self.store.keeper().apply(entry.id, &entry.body).expect("the entry can be read");
        }
    }

    /// Applies what a crash took from the ledger.
    pub(crate) async fn apply_missing(&self) {
        let applied = self.store.keeper().read(|state| state.applied_position().0);
        let missing = self.store.log().read(applied + 1, u64::MAX, usize::MAX).expect("it is there");
        self.apply(&missing);
    }

    /// Ends the process in good order.
    pub(crate) async fn stop(self) {
        drop(self.store);
        assert!(self.supervisor.shut_down(DEADLINE).await, "the store's tasks end");
    }
}

/// The beginning of a cluster: founded, led by node 1 in term 1, configured with one destination; three entries.
pub(crate) fn beginning() -> Vec<Entry> {
    vec![entry(1, 1, found()), entry(1, 2, lead(1)), entry(1, 3, configure(9_000, 0, plant(&["historian"])))]
}

/// `beginning`, and polls of slots 0, 1, … up to the entry with index `last`, in term 1.
pub(crate) fn polls_up_to(last: u64) -> Vec<Entry> {
    let mut entries = beginning();
    entries.extend((4..=last).map(|index| entry(1, index, append(&[polled(GRID, index - 4)]))));
    entries
}

/// What lies on a disk, read past the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raw {
    /// The last entry's index.
    pub(crate) last: u64,
    /// Index and term of each entry above the floor.
    pub(crate) log: BTreeMap<u64, u64>,
    pub(crate) floor: Option<Bytes>,
    pub(crate) vote: Option<Bytes>,
}

pub(crate) fn raw(disk: &Arc<SimDisk>) -> Raw {
    let engine = SimEngine::open(disk).expect("nobody else has it open");
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
    let raft = |key: &[u8]| engine.get(Family::Raft, key).expect("it can be read");
    let floor = raft(b"floor");
    let above = floor.as_ref().map_or(0, |floor| number(&floor[8..16]) + 1);
    let rows = engine.range(Family::Entries, &above.to_be_bytes(), None, usize::MAX);
    let log: BTreeMap<u64, u64> = rows
        .expect("it can be read")
        .iter()
        .map(|(key, value)| (number(key), number(&value[2..10])))
        .collect();
    Raw { last: log.last_key_value().map_or(0, |(index, _)| *index), log, floor, vote: raft(b"vote") }
}

/// Writes past the store.
pub(crate) fn tamper(disk: &Arc<SimDisk>, writes: Vec<Write>) {
    let engine = SimEngine::open(disk).expect("nobody else has it open");
    life(true, engine.commit(writes, Durability::Sync)).expect("the disk is well");
}

/// Why a disk is refused.
pub(crate) fn amnesia(disk: &Arc<SimDisk>) -> String {
    match life(true, open_sim(disk)) {
        Err(OpenError::Amnesic { reason }) => reason,
        other => panic!("expected amnesia, seen {other:?}"),
    }
}

/// An engine that counts what is read through it, and can be interrupted in that.
pub(crate) struct Counting<E> {
    inner: E,
    pub(crate) read: Arc<Read>,
    /// Called once, before the next range is read.
    pub(crate) before_range: Arc<Mutex<Option<Hook<E>>>>,
}

type Hook<E> = Box<dyn FnOnce(&E) + Send>;

/// Calls that read, and bytes that they returned.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) calls: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

impl<E> Counting<E> {
    pub(crate) fn new(inner: E) -> Self {
        Self { inner, read: Arc::default(), before_range: Arc::default() }
    }

    fn count(&self, bytes: usize) {
        self.read.calls.fetch_add(1, Ordering::Relaxed);
        self.read.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl<E: Engine> Engine for Counting<E> {
    const COMMIT_BLOCKS: bool = E::COMMIT_BLOCKS;

    fn commit(
        &self,
        writes: Vec<Write>,
        durability: Durability,
    ) -> impl Future<Output = Result<(), EngineError>> + Send {
        self.inner.commit(writes, durability)
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.inner.get(family, key)?;
        self.count(value.as_ref().map_or(0, Bytes::len));
        Ok(value)
    }

    fn range(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        limit_bytes: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, EngineError> {
        let hook = self.before_range.lock().expect("nothing panics while it is held").take();
        if let Some(hook) = hook {
            hook(&self.inner);
        }
        let rows = self.inner.range(family, from, to, limit_bytes)?;
        self.count(rows.iter().map(|(_, value)| value.len()).sum());
        Ok(rows)
    }

    fn last(&self, family: Family) -> Result<Option<(Vec<u8>, Bytes)>, EngineError> {
        let last = self.inner.last(family)?;
        self.count(last.as_ref().map_or(0, |(_, value)| value.len()));
        Ok(last)
    }

    fn drop_below(
        &self,
        family: Family,
        key: &[u8],
    ) -> impl Future<Output = Result<u64, EngineError>> + Send {
        self.inner.drop_below(family, key)
    }

    fn disk_usage(&self) -> Result<u64, EngineError> {
        self.inner.disk_usage()
    }

    fn write_file(&self, name: &str, bytes: Bytes) -> impl Future<Output = Result<(), EngineError>> + Send {
        self.inner.write_file(name, bytes)
    }

    fn read_file(&self, name: &str) -> Result<Option<Bytes>, EngineError> {
        let file = self.inner.read_file(name)?;
        self.count(file.as_ref().map_or(0, Bytes::len));
        Ok(file)
    }

    fn list_files(&self) -> Result<Vec<String>, EngineError> {
        self.inner.list_files()
    }

    fn remove_file(&self, name: &str) -> impl Future<Output = Result<(), EngineError>> + Send {
        self.inner.remove_file(name)
    }

    fn write_slot(
        &self,
        name: &str,
        slot: usize,
        bytes: [u8; SLOT_BYTES],
    ) -> impl Future<Output = Result<(), EngineError>> + Send {
        self.inner.write_slot(name, slot, bytes)
    }

    fn read_slots(&self, name: &str) -> Result<Option<[[u8; SLOT_BYTES]; 2]>, EngineError> {
        self.inner.read_slots(name)
    }
}
