//! Reading the buffer for one destination: runs of records, each entry read and checked once.
//!
//! - Entries are read a mebibyte at a time, and a run ends after so many records, or bytes that they take in memory: what
//!   was read and did not fit is kept for the next run, which begins where this one ended. A run that begins elsewhere,
//!   because less was taken than was offered, forgets what was kept.
//! - What was given up by record is not served, even where it was read before.
//! - Behind a run of a backlog the next one is made ready while the first is delivered; at the live end nothing is read
//!   ahead, so that a delivery holds whatever came until it begins.
//! - Nothing here moves a cursor: a run that was read ahead and never delivered is read again.

use std::collections::VecDeque;

use model::ids::DestinationId;
use model::{Cursor, Record, plant};
use replication::Replica;
use store::Buffered;
use store::engine::Engine;
use tokio::task::JoinHandle;

use crate::records::{Context, LookUp, Made, RecordMaker};

/// Bytes of entries that are read at a time.
const READ_BYTES: usize = 1 << 20;
/// Records after which a run ends, and bytes that they take in memory; the batch that reaches either is in it whole.
const RUN_RECORDS: usize = 10_000;
const RUN_BYTES: usize = 8 << 20;

/// What was read from the buffer for one delivery.
pub(crate) struct Run {
    pub(crate) records: Vec<Record>,
    /// Where the next one begins.
    pub(crate) next: Cursor,
    /// Whether more was applied when it was read.
    pub(crate) is_backlog: bool,
}

/// Reads the buffer on behalf of one destination.
pub(crate) struct Reader<E: Engine> {
    /// Absent while a run is read ahead.
    source: Option<Source<E>>,
    ahead: Option<Ahead<E>>,
}

/// A run in the making, on a thread for what blocks; it ends by itself after a read, whoever still wants it.
struct Ahead<E: Engine> {
    from: Cursor,
    reading: JoinHandle<(Source<E>, Result<Run, String>)>,
}

impl<E: Engine> Reader<E> {
    pub(crate) fn new(replica: Replica<E>, id: DestinationId, destination: &plant::Destination) -> Self {
        let maker = RecordMaker::new(id, destination);
        let source = Source { replica, maker, kept: VecDeque::new(), next: Cursor::default() };
        Self { source: Some(source), ahead: None }
    }

    /// The run that begins at `from`; without records if nothing is there for this destination.
    pub(crate) async fn read(&mut self, from: Cursor) -> Result<Run, String> {
        if let Some(ahead) = self.ahead.take() {
            let (source, run) = ahead.reading.await.map_err(|error| error.to_string())?;
            let source = self.source.insert(source);
            if ahead.from == from && source.is_kept(from) {
                return run;
            }
            source.kept.clear();
        }
        self.source.as_mut().ok_or("reading it has failed before")?.read(from)
    }

    /// Begins with the run behind `run` if it is surely wanted next.
    pub(crate) fn read_behind(&mut self, run: &Run) {
        if !run.is_backlog {
            return;
        }
        let Some(mut source) = self.source.take() else { return };
        let from = run.next;
        let reading = runtime::blocking(move || {
            let run = source.read(from);
            (source, run)
        });
        self.ahead = Some(Ahead { from, reading });
    }
}

struct Source<E: Engine> {
    replica: Replica<E>,
    maker: RecordMaker,
    /// Read, and not yet part of a run; they begin at `next`.
    kept: VecDeque<Buffered>,
    /// Where the last run ended.
    next: Cursor,
}

impl<E: Engine> Source<E> {
    fn read(&mut self, from: Cursor) -> Result<Run, String> {
        let (store, keeper) = (self.replica.store(), self.replica.store().keeper());
        let applied = *keeper.applied().borrow();
        if from != self.next {
            self.kept.clear();
        }
        if self.kept.is_empty() {
            let read = store.read_buffer(from.position, READ_BYTES);
            let (entries, next) = read.map_err(|error| error.to_string())?;
            self.kept = entries.into();
            self.next = Cursor::at(next).max(from);
        } else {
            self.next = from;
        }
        let look_up = LookUp {
            node_name: &|node| keeper.read(|state| state.node_names.get(&node).cloned().unwrap_or_default()),
            catalog: &|revision| keeper.read(|state| state.catalog_of(revision).cloned()),
        };
        let mut made = Made::default();
        let mut next = self.next;
        while let Some(entry) = self.kept.pop_front() {
            let position = entry.id.index;
            // What an overrun has passed meanwhile is accounted for by its record.
            let context =
                keeper.read(|state| (position > state.horizon).then(|| Context::at(state, position)));
            if let Some(context) = context {
                let stopped = self.maker.make(&entry, &context, &look_up, from, is_enough, &mut made);
                if let Some(stopped) = stopped.map_err(|error| error.to_string())? {
                    self.kept.push_front(entry);
                    next = stopped;
                    break;
                }
            }
            next = Cursor::at(position.next());
            if is_enough(&made) {
                break;
            }
        }
        self.next = next;
        let is_backlog = next.position <= applied;
        Ok(Run { records: made.into_records(), next, is_backlog })
    }

    /// Whether what lies behind `from` is still there for this destination.
    fn is_kept(&self, from: Cursor) -> bool {
        self.replica.store().keeper().read(|state| from.position > state.horizon)
    }
}

fn is_enough(made: &Made) -> bool {
    made.count() >= RUN_RECORDS || made.bytes() >= RUN_BYTES
}
