//! Proposers: each sends entries of slowly changing `f32` samples to the leader, one after the other.
//!
//! - Readings are drawn, batches made and encoded for every entry, as a node would; [`alone`] says what that takes
//!   without any replica.
//! - A proposal that is not accepted ends the measurement: nothing is tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use model::command::Stamp;
use model::{Batch, NodeId, Revision, SessionId, Source, Timestamp};
use replication::Replica;
use runtime::SystemClock;
use runtime::random::{generator, id_bits};
use store::engine::rocks::RocksEngine;
use store::{BatchOutcome, Outcome};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use wire::EncodedBatch;

use crate::latency::Times;
use crate::signal::Signal;

/// A proposal that takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// From one moment of a batch to the next.
const APART_NS: i64 = 100_000_000;

/// What an entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Batches of an entry.
    pub(crate) batches: usize,
    /// Tags of a batch.
    pub(crate) tags: usize,
    /// Moments of a batch.
    pub(crate) times: usize,
}

/// When proposers end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    /// After this time.
    After(Duration),
    /// After so many samples of all together.
    Samples(u64),
}

/// What proposers have done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Done {
    /// Samples that are in the log.
    pub(crate) samples: u64,
    /// Bytes of the entries they are in.
    pub(crate) entry_bytes: u64,
    /// From the proposal of each entry to its acceptance.
    pub(crate) latencies: Times,
    /// How long it took.
    pub(crate) elapsed: Duration,
}

impl Shape {
    /// Samples of an entry.
    pub(crate) fn samples(&self) -> u64 {
        (self.batches * self.tags * self.times) as u64
    }
}

impl Done {
    /// Samples a second.
    pub(crate) fn rate(&self) -> f64 {
        self.samples as f64 / self.elapsed.as_secs_f64()
    }

    fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.entry_bytes += other.entry_bytes;
        self.latencies.merge(&other.latencies);
        self.elapsed = self.elapsed.max(other.elapsed);
    }
}

/// A source of entries: one push session for each batch of an entry.
struct Sessions {
    shape: Shape,
    batches: Vec<(SessionId, Signal)>,
    sequence: u64,
}

impl Sessions {
    fn new(shape: Shape) -> Self {
        let mut random = generator(None);
        let session = |place: usize| {
            let first_tag = u32::try_from(place * shape.tags + 1).unwrap_or(1);
            (SessionId::from(id_bits(&mut random)), Signal::new(shape.tags, first_tag, generator(None)))
        };
        Self { shape, batches: (0..shape.batches).map(session).collect(), sequence: 0 }
    }

    fn entry(&mut self, stamp: &Stamp) -> anyhow::Result<bytes::Bytes> {
        self.sequence += 1;
        let mut encoded = Vec::with_capacity(self.batches.len());
        for (session, signal) in &mut self.batches {
            let source = Source::Pushed { session: *session, sequence: self.sequence };
            let samples = signal.samples(stamp.at, self.shape.times, APART_NS);
            let batch = Batch::new(source, NodeId(1), Revision::default(), stamp.at, samples)?;
            encoded.push(EncodedBatch::encode(&batch)?);
        }
        Ok(wire::entry::encode_append(stamp, &encoded))
    }
}

/// Ends its task with itself.
struct Owned<T>(JoinHandle<T>);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `proposers` at once.
pub(crate) async fn run(
    replica: &Replica<RocksEngine>,
    proposers: usize,
    shape: Shape,
    until: Until,
) -> anyhow::Result<Done> {
    let samples_left = Arc::new(AtomicU64::new(match until {
        Until::After(_) => u64::MAX,
        Until::Samples(samples) => samples,
    }));
    let is_over = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let tasks = (0..proposers).map(|_| {
        let (replica, left, is_over) = (replica.clone(), Arc::clone(&samples_left), Arc::clone(&is_over));
        Owned(tokio::spawn(propose(replica, shape, left, is_over)))
    });
    let mut tasks: Vec<_> = tasks.collect();
    let proposing = try_join_all(tasks.iter_mut().map(|task| async { (&mut task.0).await? }));
    let ending = async {
        if let Until::After(time) = until {
            tokio::time::sleep(time).await;
            is_over.store(true, Ordering::Relaxed);
        }
    };
    let (all, ()) = futures::join!(proposing, ending);
    let mut total = Done { elapsed: began.elapsed(), ..Done::default() };
    all?.iter().for_each(|done| total.add(done));
    Ok(total)
}

async fn propose(
    replica: Replica<RocksEngine>,
    shape: Shape,
    samples_left: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
) -> anyhow::Result<Done> {
    let mut sessions = Sessions::new(shape);
    let mut done = Done::default();
    let take = |left: u64| left.checked_sub(shape.samples());
    while !is_over.load(Ordering::Relaxed)
        && samples_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    {
        let entry = sessions.entry(&replica.stamp())?;
        let bytes = entry.len() as u64;
        let began = Instant::now();
        let applied = replica.propose_encoded(entry, PATIENCE).await.context("a proposal was not taken")?;
        done.latencies.record(began.elapsed());
        let is_accepted = matches!(&applied.outcome, Outcome::Appended { batches, .. }
            if batches.iter().all(|batch| *batch == BatchOutcome::Accepted));
        ensure!(is_accepted, "samples were not accepted: {:?}", applied.outcome);
        done.samples += shape.samples();
        done.entry_bytes += bytes;
    }
    Ok(done)
}

/// What the proposers could do if committing took no time: samples a second, on one thread.
pub(crate) fn alone(shape: Shape, time: Duration) -> anyhow::Result<f64> {
    let mut sessions = Sessions::new(shape);
    let stamp = Stamp { at: now(), boot: Default::default() };
    let began = Instant::now();
    let mut samples = 0;
    while began.elapsed() < time {
        std::hint::black_box(sessions.entry(&stamp)?);
        samples += shape.samples();
    }
    Ok(samples as f64 / began.elapsed().as_secs_f64())
}

fn now() -> Timestamp {
    use model::Clock as _;
    SystemClock.now()
}
