//! The batcher of polled samples: many groups share one entry.
//!
//! - What arrives within [`LINGER`], or fills [`ENTRY_BYTES`], is one proposal; a few are in flight, in order.
//! - What waits is bounded in number and in bytes.
//! - It never waits for a group, and a group never waits for it: a full queue is refused, and the slot becomes a gap.
//! - Nothing is proposed twice, and nothing is handed to another leader: what was read in a reign is committed in it,
//!   or is a gap. What is refused is noted, and the next batch of its group says why.

use std::sync::Arc;
use std::time::Duration;

use model::batch::{Batch, Source};
use model::{Cause, GridId};
use replication::{Applied, Leadership, ProposeError, Replica};
use runtime::{Failure, Spawner};
use store::engine::Engine;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};
use wire::EncodedBatch;

use super::losses::{Losses, cause_of};

/// How long an entry waits for company.
const LINGER: Duration = Duration::from_millis(4);
/// Payload of one entry, at most (one batch may be larger).
const ENTRY_BYTES: usize = 256 << 10;
/// Batches waiting to be proposed: a second of 500 groups at 100 ms would be 5,000.
const QUEUE: usize = 8_192;
/// Proposals in flight.
const IN_FLIGHT: usize = 8;
/// How long an outcome is waited for; it is only counted.
const PATIENCE: Duration = Duration::from_secs(10);

/// The way into the batcher. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Batcher {
    queue: mpsc::Sender<Waiting>,
    /// One permit for each byte that may wait.
    room: Arc<Semaphore>,
    bytes: u32,
    losses: Losses,
    in_flight: Arc<Semaphore>,
}

/// A batch, and its room in the queue.
struct Waiting {
    batch: EncodedBatch,
    _room: OwnedSemaphorePermit,
}

impl Batcher {
    /// Starts the task that proposes. At most `bytes` wait for it.
    pub(crate) fn start<E: Engine>(
        replica: Replica<E>,
        leadership: Leadership,
        bytes: usize,
        spawner: &Spawner,
    ) -> Self {
        let (queue, batches) = mpsc::channel(QUEUE);
        let losses = Losses::default();
        let lost = losses.clone().run(replica.clone(), leadership.clone(), spawner.token().clone());
        spawner.spawn("lost slots", lost);
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
        let task = BatcherTask {
            replica,
            leadership,
            batches,
            losses: losses.clone(),
            in_flight: Arc::clone(&in_flight),
            spawner: spawner.clone(),
        };
        spawner.spawn("acquisition batcher", task.run());
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self { queue, room: Arc::new(Semaphore::new(bytes as usize)), bytes, losses, in_flight }
    }

    /// Queues a batch; `Err` with the cause that the gap will bear if there is no room.
    pub(crate) fn push(&self, batch: &Batch) -> Result<(), Cause> {
        let encoded = EncodedBatch::encode(batch).map_err(|error| {
            // Validation bounds what a group can hold; a device that sends more than that is cut off here.
            warn!(%error, "a batch cannot be encoded");
            Cause::Overload
        })?;
        let header = encoded.header;
        let is_dropped = runtime::mutant("full-queue-drops-in-silence").then_some(());
        self.queue(encoded).or(is_dropped).ok_or_else(|| {
            self.losses.lost(&header, Cause::Overload);
            Cause::Overload
        })
    }

    /// Whether something of this grid was refused, and nothing behind it is in the buffer yet.
    pub(crate) fn has_lost(&self, grid: GridId) -> bool {
        self.losses.has(grid)
    }

    fn queue(&self, batch: EncodedBatch) -> Option<()> {
        let bytes = u32::try_from(batch.encoded_len()).ok()?;
        let room = Arc::clone(&self.room).try_acquire_many_owned(bytes).ok()?;
        self.queue.try_send(Waiting { batch, _room: room }).ok()
    }

    /// Waits until everything queued is decided.
    pub(crate) async fn drain(&self) {
        // What has left the queue keeps its room until its proposal has taken its place. Neither is ever closed.
        drop(self.room.acquire_many(self.bytes).await);
        let all = u32::try_from(IN_FLIGHT).expect("a handful");
        drop(self.in_flight.acquire_many(all).await);
    }
}

struct BatcherTask<E: Engine> {
    replica: Replica<E>,
    leadership: Leadership,
    batches: mpsc::Receiver<Waiting>,
    losses: Losses,
    in_flight: Arc<Semaphore>,
    spawner: Spawner,
}

impl<E: Engine> BatcherTask<E> {
    async fn run(mut self) -> Result<(), Failure> {
        let stop = self.spawner.token().clone();
        while let Some(first) = tokio::select! {
            first = self.batches.recv() => first,
            () = stop.cancelled() => None,
        } {
            let Ok(room) = Arc::clone(&self.in_flight).acquire_owned().await else { break };
            // The others have a proposal in flight already when they give up their room.
            let Waiting { batch, _room } = first;
            let entry = self.collect(batch).await;
            // In order: it has its place before the next one is collected.
            let placed = self.replica.place_in(&self.leadership, &entry, PATIENCE).await;
            let losses = self.losses.clone();
            self.spawner.spawn("polled proposal", async move {
                let outcome = match placed {
                    Ok(placed) => placed.outcome().await,
                    Err(error) => Err(error),
                };
                note(&outcome, &entry, &losses);
                drop(room);
                Ok::<(), Failure>(())
            });
        }
        Ok(())
    }

    async fn collect(&mut self, first: EncodedBatch) -> Vec<EncodedBatch> {
        let until = Instant::now() + LINGER;
        let mut bytes = first.encoded_len();
        let mut entry = vec![first];
        while bytes < ENTRY_BYTES
            && let Ok(Some(next)) = timeout_at(until, self.batches.recv()).await
        {
            bytes += next.batch.encoded_len();
            entry.push(next.batch);
        }
        for batch in &mut entry {
            self.losses.explain(&mut batch.header);
        }
        entry
    }
}

fn note(outcome: &Result<Applied, ProposeError>, entry: &[EncodedBatch], losses: &Losses) {
    match outcome {
        Ok(Applied { outcome: store::Outcome::Appended { batches, .. }, .. }) => {
            for (batch, outcome) in entry.iter().zip(batches) {
                if *outcome == store::BatchOutcome::Accepted {
                    losses.accepted(&batch.header);
                } else if let Source::Polled { group, slot, .. } = batch.header.source {
                    debug!(%group, slot, ?outcome, "a slot's batch was refused");
                }
            }
        }
        Ok(Applied { position, outcome, .. }) => {
            warn!(%position, %outcome, "unexpected answer to samples");
        }
        Err(error) => {
            for batch in entry {
                losses.lost(&batch.header, cause_of(error));
            }
            debug!(%error, batches = entry.len(), "samples were not committed");
        }
    }
}
