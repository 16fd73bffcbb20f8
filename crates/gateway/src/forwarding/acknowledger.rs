//! Acknowledgements on their way into the log: coalesced, one in flight a destination.
//!
//! - Only the newest cursor matters; refused records are never coalesced away.
//! - A command bears at most [`MOST_REJECTED`] bytes of them. The rest waits for the next, and the cursor does not pass it:
//!   what is neither delivered nor set aside must be delivered again.
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
/// Bytes of refused records in one command.
const MOST_REJECTED: usize = 1 << 20;
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
                let wanted = self.progress.borrow_and_update().wanted;
                if runtime::mutant("cursor-is-not-replicated") {
                    break;
                }
                let (next, rejected) = {
                    let mut waiting = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
                    portion(&mut waiting, wanted, MOST_REJECTED)
                };
                let command = Command::Acknowledge { destination: self.destination, next, rejected };
                let error = tokio::select! {
                    proposed = self.replica.propose_in(&self.leadership, &command, PATIENCE) => match proposed {
                        Ok(_) if next == wanted => break,
                        Ok(_) => continue,
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

/// Takes what one command may bear of the refused records, the oldest first and at least one; and how far the cursor may
/// go with it.
fn portion(waiting: &mut Vec<Rejection>, wanted: Cursor, most: usize) -> (Cursor, Vec<Rejection>) {
    waiting.sort_by_key(|rejection| (rejection.position, rejection.ordinal));
    let mut bytes = 0;
    let fits = |rejection: &&Rejection| {
        bytes += rejection.record.len() + rejection.reason.len();
        bytes <= most
    };
    let count = waiting.iter().take_while(fits).count().max(1).min(waiting.len());
    let rest = waiting.split_off(count);
    let taken = std::mem::replace(waiting, rest);
    let first_left = waiting.first().map(|left| Cursor { position: left.position, ordinal: left.ordinal });
    (first_left.map_or(wanted, |left| left.min(wanted)), taken)
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

#[cfg(test)]
mod tests {
    use model::{Ordinal, Position};

    use super::*;

    fn rejection(position: u64, bytes: usize) -> Rejection {
        let record = vec![b'x'; bytes];
        Rejection { position: Position(position), ordinal: Ordinal(3), reason: String::new(), record }
    }

    fn positions(rejected: &[Rejection]) -> Vec<u64> {
        rejected.iter().map(|rejection| rejection.position.0).collect()
    }

    #[test]
    fn few_refused_records_go_with_the_cursor() {
        let mut waiting = vec![rejection(7, 10), rejection(5, 10)];
        let (next, taken) = portion(&mut waiting, Cursor::at(Position(9)), 100);
        assert_eq!((next, positions(&taken)), (Cursor::at(Position(9)), vec![5, 7]));
        assert!(waiting.is_empty());
    }

    #[test]
    fn the_cursor_does_not_pass_a_refused_record_that_waits() {
        let mut waiting = vec![rejection(5, 60), rejection(6, 60), rejection(7, 600), rejection(8, 1)];
        let wanted = Cursor::at(Position(9));
        let mut seen = Vec::new();
        while !waiting.is_empty() {
            let (next, taken) = portion(&mut waiting, wanted, 100);
            seen.push((next, positions(&taken)));
        }
        let before = |position| Cursor { position: Position(position), ordinal: Ordinal(3) };
        let expected = [(before(6), vec![5]), (before(7), vec![6]), (before(8), vec![7]), (wanted, vec![8])];
        assert_eq!(seen, expected, "one at a time, the large one too");
    }
}
