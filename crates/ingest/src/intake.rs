//! The queue of a node at work: a thin loop that proposes what the [`Batcher`] gives and tells streams what became
//! of it.
//!
//! - The batcher is behind a lock that is held for a few steps of its rules, never across an await. Answers are
//!   handed to their streams under the same lock: a stream that finds its generation over has been told why already.
//! - A stream has room for one answer to each message of its window, so handing over never waits.
//! - The loop ends when it is cancelled: it refuses what was never proposed, waits for the rest up to the grace, and
//!   then says of what is left that it is undecided.
//! - A log that ends before is the end of the node: it would refuse every push from then on, and look well.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use model::{SessionId, Term};
use runtime::sleep_until;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use wire::EncodedBatch;

use crate::batcher::{Answer, Batcher, BatcherLimits, FlightId, Generation, Proposal, StreamId, Verdict};
use crate::log::{Log, ProposeError, Proposed};
use crate::memory::Room;

/// The queue of a node, for its streams.
#[derive(Debug)]
pub(crate) struct Intake {
    batcher: Mutex<Batcher<Ticket>>,
    wake: Notify,
    next_stream: AtomicU64,
}

/// What comes with a message through the queue.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// The message's number in its stream.
    pub(crate) sequence: u64,
    /// Where its stream listens.
    pub(crate) replies: mpsc::Sender<Settled>,
    /// Its share of the node's memory, given back with the ticket.
    pub(crate) _room: Room,
}

/// What became of a message of a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settled {
    pub(crate) sequence: u64,
    pub(crate) verdict: Verdict,
}

/// Times of the loop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) proposal_timeout: Duration,
    pub(crate) grace: Duration,
}

/// The log of this node has ended, and nobody had told the node to stop.
#[derive(Debug, thiserror::Error)]
#[error("the log of this node has ended: no pushed sample can be committed any more")]
pub(crate) struct LogEnded;

type Outcome = (FlightId, Result<Proposed, ProposeError>);
type Flights = FuturesUnordered<Pin<Box<dyn Future<Output = Outcome> + Send>>>;

impl Intake {
    pub(crate) fn new(session: SessionId, limits: BatcherLimits) -> Self {
        Self {
            batcher: Mutex::new(Batcher::new(session, limits)),
            wake: Notify::new(),
            next_stream: AtomicU64::new(0),
        }
    }

    /// A new stream, to be closed by its owner.
    pub(crate) fn open(&self) -> StreamId {
        let stream = StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed));
        self.lock().open(stream);
        stream
    }

    pub(crate) fn close(&self, stream: StreamId) {
        self.lock().close(stream);
    }

    /// Takes a message, or says why not. What the stream was told before is then in its channel. It need not be proposed before
    /// the stream says with [`Intake::begin`] that no other comes at once: what is queued wakes nobody.
    pub(crate) fn enqueue(
        &self,
        stream: StreamId,
        generation: Generation,
        batch: EncodedBatch,
        ticket: Ticket,
    ) -> Result<(), Settled> {
        let queued = self.lock().enqueue(now(), stream, generation, batch, ticket);
        queued.map_err(|refused| Settled { sequence: refused.ticket.sequence, verdict: refused.verdict })
    }

    /// Has what is queued proposed.
    pub(crate) fn begin(&self) {
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Batcher<Ticket>> {
        self.batcher.lock().expect("a panic in the batcher ends the node")
    }

    /// Does something to the batcher and hands its answers over, as one step.
    fn advance(&self, step: impl FnOnce(&mut Batcher<Ticket>) -> Vec<Answer<Ticket>>) {
        let mut batcher = self.lock();
        for Answer { ticket, verdict } in step(&mut batcher) {
            let Ticket { sequence, replies, .. } = ticket;
            if replies.try_send(Settled { sequence, verdict }).is_err() {
                // Only a stream that has ended has no room for an answer.
                debug!(sequence, ?verdict, "nobody waits for this answer any more");
            }
        }
    }
}

/// Proposes and settles until cancelled.
pub(crate) async fn run<L: Log>(
    intake: Arc<Intake>,
    log: Arc<L>,
    times: Times,
    token: CancellationToken,
) -> Result<(), LogEnded> {
    let mut reign = log.reign();
    follow_reign(&intake, &*log, &mut reign);
    let mut worker = Worker { intake, log, times, flights: FuturesUnordered::new(), reign, was_well: true };
    let mut give_up = None;
    let has_ended = loop {
        let has_ended = worker.propose_all().await;
        if has_ended || (give_up.is_some() && worker.intake.lock().is_idle()) {
            break has_ended;
        }
        tokio::select! {
            () = token.cancelled(), if give_up.is_none() => {
                worker.intake.advance(Batcher::stop);
                give_up = Some(Instant::now() + worker.times.grace);
            }
            () = sleep_until(give_up) => break false,
            has_ended = worker.step() => if has_ended { break true },
        }
    };
    worker.intake.advance(Batcher::abandon);
    if has_ended && !token.is_cancelled() { Err(LogEnded) } else { Ok(()) }
}

struct Worker<L> {
    intake: Arc<Intake>,
    log: Arc<L>,
    times: Times,
    flights: Flights,
    reign: watch::Receiver<Term>,
    was_well: bool,
}

impl<L: Log> Worker<L> {
    /// Makes every proposal that may be made now; true if the log has ended.
    async fn propose_all(&mut self) -> bool {
        loop {
            let proposal = self.intake.lock().next_proposal(now());
            let Some(Proposal { flight, batches }) = proposal else { return false };
            let (log, limit) = (self.log.clone(), self.times.proposal_timeout);
            let mut future: Pin<Box<dyn Future<Output = Outcome> + Send>> = Box::pin(async move {
                let answer = tokio::time::timeout(limit, log.propose(batches)).await;
                (flight, answer.unwrap_or(Err(ProposeError::Unknown)))
            });
            // Polled here, because the order of first polls is the order in the log.
            match futures::poll!(future.as_mut()) {
                std::task::Poll::Ready(outcome) => {
                    if self.settle(outcome) {
                        return true;
                    }
                }
                std::task::Poll::Pending => self.flights.push(future),
            }
        }
    }

    /// Waits for the next thing to happen; true if the log has ended.
    async fn step(&mut self) -> bool {
        let deadline = self.intake.lock().deadline().map(Instant::from_std);
        tokio::select! {
            Some(outcome) = self.flights.next() => self.settle(outcome),
            () = self.intake.wake.notified() => false,
            change = self.reign.changed() => {
                follow_reign(&self.intake, &*self.log, &mut self.reign);
                change.is_err()
            }
            () = sleep_until(deadline) => {
                let session = self.intake.lock().session();
                let applied = self.log.applied(session);
                self.intake.advance(|batcher| {
                    let mut answers = Vec::new();
                    // A re-proposal may be spared if the ledger has the first copy.
                    if batcher.session() == session {
                        answers.extend(batcher.observe_applied(now(), applied));
                    }
                    answers.extend(batcher.tick(now()));
                    answers
                });
                false
            }
        }
    }

    fn settle(&mut self, (flight, result): Outcome) -> bool {
        let failure = result.as_ref().err().copied();
        self.intake.advance(|batcher| batcher.settled(now(), flight, result));
        match failure {
            Some(error) if self.was_well => warn!(%error, "pushed samples cannot be committed; trying on"),
            None if !self.was_well => info!("pushed samples are committed again"),
            _ => {}
        }
        self.was_well = failure.is_none();
        failure == Some(ProposeError::Stopped)
    }
}

fn follow_reign(intake: &Intake, log: &impl Log, reign: &mut watch::Receiver<Term>) {
    let term = *reign.borrow_and_update();
    let session = intake.lock().session();
    // Read after the term: what is applied now includes everything before the `Lead` of that term.
    let applied = log.applied(session);
    intake.advance(|batcher| {
        // A session that has just begun has nothing that an earlier reign could have decided.
        let applied = if batcher.session() == session { applied } else { 0 };
        batcher.new_reign(now(), term, applied)
    });
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
