//! Acknowledgements on their way into the log: coalesced, one in flight a destination.
//!
//! - Only the newest cursor matters; refused records are never coalesced away.
//! - A proposal that is not committed is made again with what is newest then; if the reign ends first, the records are
//!   delivered again under their keys.
//! - Whoever reads the cursor in order to begin anew waits until nothing is undecided ([`Acknowledger::settle`]): a
//!   destination removes what it holds beyond the cursor, and no acknowledgement of that may be committed afterwards.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use destinations::Rejected;
use model::command::{Command, Rejection};
use model::ids::DestinationId;
use model::{Cursor, Delivery, Record, SampleKey};
use replication::{Leadership, Replica};
use runtime::{Failure, Spawner};
use store::engine::Engine;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;

/// How long a proposal may wait: for its reign, because a proposal given up might still be committed.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);
const RETRY: Duration = Duration::from_millis(100);

/// What is waiting to be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    wanted: Cursor,
    /// Grows when refused records were added, so that they are noticed although the cursor stands still.
    rejections: u64,
}

/// The way into the acknowledger of one destination; its task ends when this is dropped.
pub(super) struct Acknowledger {
    wanted: watch::Sender<Progress>,
    /// Closed by the end of the task.
    ended: watch::Receiver<()>,
    rejected: Arc<Mutex<Vec<Rejection>>>,
}

impl Acknowledger {
    pub(super) fn start<E: Engine>(
        replica: Replica<E>,
        leadership: Leadership,
        destination: DestinationId,
        from: Cursor,
        spawner: &Spawner,
    ) -> Self {
        let (wanted, progress) = watch::channel(Progress { wanted: from, rejections: 0 });
        let (end, ended) = watch::channel(());
        let rejected: Arc<Mutex<Vec<Rejection>>> = Arc::default();
        let task = Task { replica, leadership, destination, progress, rejected: Arc::clone(&rejected) };
        spawner.spawn("acknowledgements", async move {
            let _end = end;
            task.run().await
        });
        Self { wanted, ended, rejected }
    }

    /// Everything before `next` is safe, or refused for good.
    pub(super) fn acknowledge(&self, next: Cursor, rejected: Vec<Rejection>) {
        let more = !rejected.is_empty();
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner).extend(rejected);
        self.wanted.send_modify(|progress| {
            progress.wanted = progress.wanted.max(next);
            progress.rejections += u64::from(more);
        });
    }

    /// Takes no more, and waits until what was acknowledged is committed, or surely never will be.
    pub(super) async fn settle(self) {
        let Self { wanted, mut ended, .. } = self;
        drop(wanted);
        while ended.changed().await.is_ok() {}
    }
}

struct Task<E: Engine> {
    replica: Replica<E>,
    leadership: Leadership,
    destination: DestinationId,
    progress: watch::Receiver<Progress>,
    rejected: Arc<Mutex<Vec<Rejection>>>,
}

impl<E: Engine> Task<E> {
    async fn run(mut self) -> Result<(), Failure> {
        while self.progress.changed().await.is_ok() {
            loop {
                let next = self.progress.borrow_and_update().wanted;
                let rejected =
                    std::mem::take(&mut *self.rejected.lock().unwrap_or_else(PoisonError::into_inner));
                let command = Command::Acknowledge { destination: self.destination, next, rejected };
                let error = tokio::select! {
                    proposed = self.replica.propose_in(&self.leadership, &command, PATIENCE) => match proposed {
                        Ok(_) => break,
                        Err(error) => error,
                    },
                    // Applying the next leader's `Lead` decides it.
                    () = self.leadership.over() => return Ok(()),
                };
                debug!(%error, "an acknowledgement was not committed");
                if let Command::Acknowledge { rejected, .. } = command {
                    let mut waiting = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
                    waiting.splice(0..0, rejected);
                }
                if self.leadership.is_over() || self.progress.has_changed().is_err() {
                    return Ok(());
                }
                sleep(RETRY).await;
            }
        }
        Ok(())
    }
}

/// The refused records of a delivery, with what is needed to offer them again.
pub(super) fn rejections(delivery: &Delivery, rejected: Vec<Rejected>) -> Vec<Rejection> {
    if rejected.is_empty() {
        return Vec::new();
    }
    let records: HashMap<SampleKey, &Record> =
        delivery.records.iter().map(|record| (record.key(), record)).collect();
    let with_record = |rejected: Rejected| {
        let record = records.get(&rejected.key)?;
        Some(Rejection {
            position: rejected.key.position,
            ordinal: rejected.key.ordinal,
            reason: rejected.reason,
            record: destinations::json::record(record),
        })
    };
    rejected.into_iter().filter_map(with_record).collect()
}
