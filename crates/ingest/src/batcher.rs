//! One FIFO per node from accepted client messages to proposals, with go-back-N: the rules alone, without I/O or
//! clock (`now` is an argument).
//!
//! A message *waits* without a number until it is first proposed; then it is *numbered* and stays under its number
//! until it is known to be committed. The only way back is when every copy of it, and of all behind it, is known to
//! be dead.
//!
//! Invariants
//! - Numbers are given in the order of [`Batcher::enqueue`], without holes; `numbered[i]` has the number `first + i`.
//! - A number never means two contents while a copy of the first may still be committed: only numbers at the end,
//!   without a copy that may be alive, are taken back, and only when nothing is in flight.
//! - [`Verdict::Accepted`] means committed and applied; [`Verdict::Refused`] means never proposed, or every copy
//!   certainly dead. What is neither is proposed again until it is decided.
//! - After a refusal of a stream's message, later messages of that stream are refused until it goes back: it then
//!   uses the generation that the refusal told.
//! - A message whose revision is gone is refused, and what is behind it goes on in a new session: in the old one the
//!   ledger accepts nothing any more, so every copy there is dead.
//! - After a failure nothing is proposed until all that is in flight has settled; then one proposal at a time until
//!   one succeeds.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use model::batch::Source;
use model::{SessionId, Term};
use runtime::Backoff;
use wire::EncodedBatch;

use crate::log::{Outcome, ProposeError, Proposed};

mod words;

#[cfg(test)]
mod model_test;
#[cfg(test)]
mod rule_tests;

pub use words::{
    Answer, BatcherLimits, FlightId, Generation, NotQueued, Place, Proposal, RefusalReason, StreamId, Verdict,
};

/// The queue of one node.
#[derive(Debug)]
pub struct Batcher<T> {
    limits: BatcherLimits,
    session: SessionId,
    streams: HashMap<StreamId, Generation>,
    /// Messages that were proposed at least once.
    numbered: VecDeque<Numbered<T>>,
    /// Number of `numbered[0]`, or the next number where that is empty.
    first: u64,
    /// Number to propose next; at most `first + numbered.len()`.
    cursor: u64,
    /// The ledger is known to hold everything up to here.
    applied: u64,
    /// Messages that were never proposed, or whose number was taken back.
    waiting: VecDeque<Message<T>>,
    flights: Vec<Flight>,
    next_flight: u64,
    reign: Term,
    trouble: Option<Trouble>,
    /// While set, and not before it, messages are refused at once.
    refusing_until: Option<Instant>,
    /// The ledger does not know the session any more.
    forgotten: bool,
    /// The ledger will never accept the first undecided number of the session, nor any after it.
    revision_gone: bool,
    stopping: bool,
}

#[derive(Debug)]
struct Message<T> {
    stream: StreamId,
    batch: EncodedBatch,
    ticket: T,
}

#[derive(Debug)]
struct Numbered<T> {
    message: Message<T>,
    /// When it got its number.
    since: Instant,
    /// A copy may be in the log, now or later, although no flight will tell. Once true it stays so: a delayed copy
    /// can survive a change of leader.
    maybe: bool,
    /// Where it was committed, once an answer said so; told in the order of numbers.
    place: Option<Place>,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    id: FlightId,
    first: u64,
    count: u64,
    /// What was known to be applied when it was proposed.
    known: u64,
}

/// Proposals fail.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    since: Instant,
    failures: u32,
    reason: RefusalReason,
    retry_at: Instant,
}

impl<T> Batcher<T> {
    /// An empty queue for a new session.
    pub fn new(session: SessionId, limits: BatcherLimits) -> Self {
        Self {
            limits,
            session,
            streams: HashMap::new(),
            numbered: VecDeque::new(),
            first: 1,
            cursor: 1,
            applied: 0,
            waiting: VecDeque::new(),
            flights: Vec::new(),
            next_flight: 0,
            reign: Term(0),
            trouble: None,
            refusing_until: None,
            forgotten: false,
            revision_gone: false,
            stopping: false,
        }
    }

    /// The session that messages are numbered in. It changes when the ledger has forgotten it, or accepts no more in it.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Whether nothing waits, is in flight or undecided.
    pub fn is_idle(&self) -> bool {
        self.numbered.is_empty() && self.waiting.is_empty() && self.flights.is_empty()
    }

    /// Makes a stream known, in its first generation.
    pub fn open(&mut self, stream: StreamId) {
        self.streams.insert(stream, Generation::default());
    }

    /// Forgets a stream. Its messages that were never proposed are dropped: its client will send them elsewhere.
    pub fn close(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
        self.waiting.retain(|message| message.stream != stream);
    }

    /// Takes a message to the end of the queue. The sequence in the batch's header is given later.
    pub fn enqueue(
        &mut self,
        now: Instant,
        stream: StreamId,
        generation: Generation,
        batch: EncodedBatch,
        ticket: T,
    ) -> Result<(), NotQueued<T>> {
        let current = self.streams.get(&stream).copied().unwrap_or_default();
        if current != generation {
            let (reason, retry_after) = (RefusalReason::OutOfOrder, Duration::ZERO);
            return Err(NotQueued {
                ticket,
                verdict: Verdict::Refused { reason, retry_after, generation: current },
            });
        }
        let Some((reason, retry_after)) = self.refuses(now) else {
            self.waiting.push_back(Message { stream, batch, ticket });
            return Ok(());
        };
        let generation = self.send_back(stream);
        Err(NotQueued { ticket, verdict: Verdict::Refused { reason, retry_after, generation } })
    }

    /// The next proposal, if one may be made now. Call until it gives none.
    pub fn next_proposal(&mut self, now: Instant) -> Option<Proposal> {
        let most = if self.trouble.is_some() { 1 } else { self.limits.in_flight };
        let is_early = self.trouble.is_some_and(|trouble| now < trouble.retry_at);
        if self.flights.len() >= most || is_early || self.is_settling() || self.is_outdated(now) {
            return None;
        }
        let first = self.cursor;
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while batches.len() < self.limits.proposal_messages {
            let Some(size) = self.next_size() else { break };
            if !batches.is_empty() && bytes + size > self.limits.proposal_bytes {
                break;
            }
            bytes += size;
            batches.push(self.take_next(now));
        }
        if batches.is_empty() {
            return None;
        }
        let flight = FlightId(self.next_flight);
        self.next_flight += 1;
        self.flights.push(Flight { id: flight, first, count: batches.len() as u64, known: self.applied });
        Some(Proposal { flight, batches })
    }

    /// The outcome of a proposal. An outcome of a flight that a new reign decided is of no more use.
    pub fn settled(
        &mut self,
        now: Instant,
        flight: FlightId,
        result: Result<Proposed, ProposeError>,
    ) -> Vec<Answer<T>> {
        let Some(index) = self.flights.iter().position(|known| known.id == flight) else { return Vec::new() };
        let flight = self.flights.remove(index);
        match result {
            Ok(proposed) if proposed.outcomes.len() as u64 == flight.count => {
                self.apply(now, flight, &proposed)
            }
            // An answer about other batches than were proposed says nothing about these.
            Ok(_) => self.fail(now, flight, ProposeError::Unknown),
            Err(_) if runtime::mutant("unknown-outcome-is-acknowledged") => {
                self.applied = self.applied.max(flight.first + flight.count - 1);
            }
            Err(error) => self.fail(now, flight, error),
        }
        let mut answers = self.collect_decided();
        self.recover(&mut answers);
        self.refuse_overdue(now, &mut answers);
        answers
    }

    /// A later `Lead` has been applied here, and `applied` is the session's last sequence since then: everything
    /// proposed before is decided.
    pub fn new_reign(&mut self, now: Instant, term: Term, applied: u64) -> Vec<Answer<T>> {
        if term <= self.reign {
            return Vec::new();
        }
        self.reign = term;
        for flight in std::mem::take(&mut self.flights) {
            // A copy that was on its way to the new leader already, or is delayed, can still arrive.
            self.mark_maybe(flight);
            self.cursor = self.cursor.min(flight.first);
        }
        // A new leader deserves new patience.
        self.refusing_until = None;
        self.trouble = None;
        self.observe_applied(now, applied)
    }

    /// The session's last sequence on this node's ledger, which may lag behind but never leads astray.
    pub fn observe_applied(&mut self, now: Instant, applied: u64) -> Vec<Answer<T>> {
        // A ledger that knows more than we proposed speaks of something else.
        if applied < self.end() {
            self.applied = self.applied.max(applied);
        }
        let mut answers = self.collect_decided();
        self.recover(&mut answers);
        self.refuse_overdue(now, &mut answers);
        answers
    }

    /// Refuses what has waited too long, and gives up what nobody could decide. Call at [`Batcher::deadline`].
    pub fn tick(&mut self, now: Instant) -> Vec<Answer<T>> {
        let mut answers = Vec::new();
        self.refuse_overdue(now, &mut answers);
        answers
    }

    /// When something is to be done although nothing happens; `None` if never.
    pub fn deadline(&self) -> Option<Instant> {
        let is_free = self.flights.is_empty();
        let retry = self.trouble.filter(|_| is_free && self.has_work()).map(|trouble| trouble.retry_at);
        let patience = self.trouble.filter(|_| !self.waiting.is_empty());
        let patience = patience.map(|trouble| trouble.since + self.limits.patience);
        let oldest =
            self.numbered.front().filter(|_| is_free).map(|oldest| oldest.since + self.limits.undecided);
        [retry, patience, oldest].into_iter().flatten().min()
    }

    /// Refuses everything that was never proposed, and all that comes from now on. What is in flight goes on.
    pub fn stop(&mut self) -> Vec<Answer<T>> {
        self.stopping = true;
        let mut answers = Vec::new();
        self.refuse_waiting(RefusalReason::Stopping, &mut answers);
        answers
    }

    /// Gives up: says of everything undecided that nobody can say.
    pub fn abandon(&mut self) -> Vec<Answer<T>> {
        self.flights.clear();
        let mut answers = self.collect_decided();
        let end = self.end();
        for numbered in std::mem::take(&mut self.numbered) {
            let generation = self.send_back(numbered.message.stream);
            let verdict = Verdict::Undecided { generation };
            answers.push(Answer { ticket: numbered.message.ticket, verdict });
        }
        (self.first, self.cursor) = (end, end);
        answers.extend(self.stop());
        answers
    }
}

impl<T> Batcher<T> {
    /// The number after the last given one.
    fn end(&self) -> u64 {
        self.first + self.numbered.len() as u64
    }

    /// Whether the oldest undecided message has been so for too long.
    fn is_outdated(&self, now: Instant) -> bool {
        self.numbered.front().is_some_and(|oldest| now >= oldest.since + self.limits.undecided)
    }

    fn has_work(&self) -> bool {
        self.cursor < self.end() || !self.waiting.is_empty()
    }

    /// Whether a failure is being waited out: the cursor has gone back, or the session is forgotten, with proposals
    /// still in flight.
    fn is_settling(&self) -> bool {
        !self.flights.is_empty()
            && (self.forgotten
                || self.revision_gone
                || self.flights.iter().any(|flight| self.cursor <= flight.first))
    }

    fn next_size(&self) -> Option<usize> {
        let message = match self.numbered.get((self.cursor - self.first) as usize) {
            Some(numbered) => &numbered.message,
            None => self.waiting.front()?,
        };
        Some(message.batch.payload.len())
    }

    /// A copy of the batch at the cursor, under its number; the cursor moves on.
    fn take_next(&mut self, now: Instant) -> EncodedBatch {
        if self.cursor == self.end() {
            let mut message = self.waiting.pop_front().expect("next_size saw a message");
            message.batch.header.source = Source::Pushed { session: self.session, sequence: self.cursor };
            self.numbered.push_back(Numbered { message, since: now, maybe: false, place: None });
        }
        let index = (self.cursor - self.first) as usize;
        self.cursor += 1;
        self.numbered[index].message.batch.clone()
    }

    /// The entry is in the log and applied.
    fn apply(&mut self, now: Instant, flight: Flight, proposed: &Proposed) {
        let mut expected = None;
        for (sequence, outcome) in (flight.first..).zip(&proposed.outcomes) {
            match *outcome {
                Outcome::Accepted { first_ordinal } => {
                    self.applied = self.applied.max(sequence);
                    if let Some(numbered) = self.get_mut(sequence) {
                        let Proposed { lineage, position, .. } = *proposed;
                        numbered.place = Some(Place { lineage, position, ordinal: first_ordinal });
                    }
                }
                Outcome::Already => self.applied = self.applied.max(sequence),
                Outcome::Expected { sequence } => expected = Some(sequence),
                Outcome::RevisionGone => {
                    self.revision_gone = true;
                    self.applied = self.applied.max(sequence - 1);
                    self.cursor = self.cursor.min(flight.first);
                }
            }
        }
        if let Some(next) = expected {
            // A session never goes back: a ledger that now knows less than before the proposal has dropped it.
            if next <= flight.known {
                self.forgotten = true;
            } else if next <= self.end() {
                self.applied = self.applied.max(next - 1);
            }
            self.cursor = self.cursor.min(flight.first);
        }
        // What stands behind a message whose revision is gone was not lost on the way.
        if expected.is_none() || self.revision_gone {
            self.trouble = None;
            self.refusing_until = None;
        } else {
            self.note_trouble(now, None);
        }
    }

    fn fail(&mut self, now: Instant, flight: Flight, error: ProposeError) {
        if error.may_commit() {
            self.mark_maybe(flight);
        }
        self.cursor = self.cursor.min(flight.first);
        let reason = match error {
            ProposeError::NoLeader | ProposeError::NoQuorum | ProposeError::Unknown => {
                RefusalReason::NoQuorum
            }
            ProposeError::NoSpace => RefusalReason::NoSpace,
            ProposeError::Overloaded => RefusalReason::Overloaded,
            ProposeError::Stopped => RefusalReason::Stopping,
        };
        self.stopping |= error == ProposeError::Stopped;
        self.note_trouble(now, Some(reason));
    }

    fn note_trouble(&mut self, now: Instant, reason: Option<RefusalReason>) {
        let BatcherLimits { first_pause, longest_pause, .. } = self.limits;
        let fresh = Trouble { since: now, failures: 0, reason: RefusalReason::NoQuorum, retry_at: now };
        let trouble = self.trouble.get_or_insert(fresh);
        trouble.reason = reason.unwrap_or(trouble.reason);
        // What was in flight together fails together, and is one failure.
        if now >= trouble.retry_at {
            let pauses = Backoff { first: first_pause, most: longest_pause };
            trouble.retry_at = now + pauses.after(trouble.failures);
            trouble.failures += 1;
        }
    }

    fn mark_maybe(&mut self, flight: Flight) {
        for sequence in flight.first..flight.first + flight.count {
            if let Some(numbered) = self.get_mut(sequence) {
                numbered.maybe = true;
            }
        }
    }

    fn get_mut(&mut self, sequence: u64) -> Option<&mut Numbered<T>> {
        let index = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        self.numbered.get_mut(index)
    }

    /// Answers for all that is known to be applied, as far as no flight can still tell where.
    fn collect_decided(&mut self) -> Vec<Answer<T>> {
        let untold = self.flights.iter().map(|flight| flight.first).min().unwrap_or(u64::MAX);
        let mut answers = Vec::new();
        while self.first <= self.applied {
            let Some(front) = self.numbered.front() else { break };
            if front.place.is_none() && untold <= self.first {
                break;
            }
            let numbered = self.numbered.pop_front().expect("just seen");
            self.first += 1;
            let verdict = Verdict::Accepted(numbered.place);
            answers.push(Answer { ticket: numbered.message.ticket, verdict });
        }
        self.cursor = self.cursor.max(self.first);
        answers
    }

    /// Once nothing is in flight: goes back to the first undecided number, and takes numbers back where that is safe.
    fn recover(&mut self, answers: &mut Vec<Answer<T>>) {
        if !self.flights.is_empty() {
            return;
        }
        if self.forgotten || self.revision_gone {
            self.begin_session(answers);
        }
        self.cursor = self.first;
        let is_dead = |last: &Numbered<T>| !last.maybe || runtime::mutant("number-changes-its-message");
        while self.numbered.back().is_some_and(is_dead) {
            let numbered = self.numbered.pop_back().expect("just seen");
            // The stream may have ended meanwhile: its client will send the message elsewhere.
            if self.streams.contains_key(&numbered.message.stream) {
                let place = if runtime::mutant("order-is-lost-on-retry") { self.waiting.len() } else { 0 };
                self.waiting.insert(place, numbered.message);
            }
        }
    }

    /// Starts numbering anew. What the old session may hold cannot be found out any more.
    fn begin_session(&mut self, answers: &mut Vec<Answer<T>>) {
        self.forgotten = false;
        self.session = SessionId::from(u128::from_be_bytes(*self.session.as_bytes()).wrapping_add(1).max(1));
        let mut sent_back = HashMap::new();
        let (mut numbered, waiting) = (std::mem::take(&mut self.numbered), std::mem::take(&mut self.waiting));
        let mut gone = None;
        if std::mem::take(&mut self.revision_gone) {
            gone = numbered.front().map(|front| front.message.batch.header.revision);
            numbered.iter_mut().for_each(|dead| dead.maybe = false);
        }
        let undecided = numbered.into_iter().map(|numbered| (numbered.message, numbered.maybe));
        for (message, maybe) in undecided.chain(waiting.into_iter().map(|message| (message, false))) {
            let stream = message.stream;
            let verdict = match (maybe, sent_back.get(&stream)) {
                (true, _) => {
                    let generation = *sent_back.entry(stream).or_insert_with(|| self.send_back(stream));
                    Verdict::Undecided { generation }
                }
                (false, Some(&generation)) => {
                    let (reason, retry_after) = (RefusalReason::OutOfOrder, Duration::ZERO);
                    Verdict::Refused { reason, retry_after, generation }
                }
                // This node may have to learn of the new revision first.
                (false, None) if gone == Some(message.batch.header.revision) => {
                    let generation = self.send_back(stream);
                    sent_back.insert(stream, generation);
                    let (reason, retry_after) = (RefusalReason::RevisionGone, self.limits.retry_after);
                    Verdict::Refused { reason, retry_after, generation }
                }
                (false, None) => {
                    // The stream may have ended meanwhile: its client will send the message elsewhere.
                    if self.streams.contains_key(&stream) {
                        self.waiting.push_back(message);
                    }
                    continue;
                }
            };
            answers.push(Answer { ticket: message.ticket, verdict });
        }
        (self.first, self.cursor, self.applied) = (1, 1, 0);
    }

    fn refuses(&self, now: Instant) -> Option<(RefusalReason, Duration)> {
        if self.stopping {
            return Some((RefusalReason::Stopping, self.limits.retry_after));
        }
        let left = self.refusing_until?.checked_duration_since(now).filter(|left| !left.is_zero())?;
        Some((self.trouble?.reason, left))
    }

    fn refuse_overdue(&mut self, now: Instant, answers: &mut Vec<Answer<T>>) {
        if self.flights.is_empty() && self.is_outdated(now) {
            self.begin_session(answers);
        }
        if self.stopping {
            return self.refuse_waiting(RefusalReason::Stopping, answers);
        }
        let Some(trouble) = self.trouble else { return };
        if now < trouble.since + self.limits.patience || self.waiting.is_empty() {
            return;
        }
        self.refuse_waiting(trouble.reason, answers);
        self.refusing_until = Some(now + self.limits.retry_after);
    }

    /// All at once: were an earlier message of a stream refused and a later one kept, their order would be lost.
    fn refuse_waiting(&mut self, reason: RefusalReason, answers: &mut Vec<Answer<T>>) {
        let retry_after = self.limits.retry_after;
        let mut sent_back = HashMap::new();
        for message in std::mem::take(&mut self.waiting) {
            let generation =
                *sent_back.entry(message.stream).or_insert_with(|| self.send_back(message.stream));
            let verdict = Verdict::Refused { reason, retry_after, generation };
            answers.push(Answer { ticket: message.ticket, verdict });
        }
    }

    fn send_back(&mut self, stream: StreamId) -> Generation {
        let Some(generation) = self.streams.get_mut(&stream) else { return Generation::default() };
        generation.0 += 1;
        *generation
    }
}
