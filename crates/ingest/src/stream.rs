//! One push stream, driven by whoever reads its responses.
//!
//! - Every message that was read is answered once, before the stream ends (unless the connection breaks).
//! - While the window or the node's memory is full, or the client does not read its answers, nothing is read: what waits
//!   for memory waits in its connection.
//! - Messages that have come together are proposed together, unless the queue is just being looked at for another reason: an
//!   entry costs a sync on every node.
//! - `expected` is the only number that is taken next. It goes back when a message was refused.

use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::{Stream, StreamExt};
use model::batch::{Batch, Source};
use model::{Clock, NodeId, SessionId, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use wire::EncodedBatch;
use wire::proto::v1::push_request::{Content as Asked, Declare, Samples};
use wire::proto::v1::push_response::{
    Acknowledged, Content as Answered, Declared, RefusalReason as WireReason, Refused, Rejected, Welcome,
};
use wire::proto::v1::{PushRequest, PushResponse};

use crate::batcher::{Generation, Place, RefusalReason, StreamId, Verdict};
use crate::config::IngestConfig;
use crate::counters::{Counts, add};
use crate::dictionary::{BrokenRule, Dictionary};
use crate::intake::{Intake, Settled, Ticket};
use crate::memory::{Memory, Room};
use crate::samples::{read_samples, reject_too_large, size_of};
use crate::tags::TagResolver;

/// Payload bytes that are worth an entry: messages that have come together wait for no more of them.
const GATHERED_BYTES: usize = 32 << 10;
/// Answers taken from the queue at a time.
const ANSWERS: usize = 256;

/// What all streams of a node share.
pub(crate) struct Shared<R> {
    pub(crate) intake: Arc<Intake>,
    pub(crate) tags: Arc<R>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) node: NodeId,
    pub(crate) config: IngestConfig,
    pub(crate) counts: Counts,
    /// Of unanswered messages.
    pub(crate) memory: Memory,
    /// One permit for each byte of dictionaries.
    pub(crate) dictionaries: Arc<Semaphore>,
    /// One permit for each stream.
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) token: CancellationToken,
}

impl<R> Shared<R> {
    /// Bytes that the largest message may take; never more than there are.
    fn largest(&self) -> u32 {
        self.config.max_message_bytes.clamp(1, self.config.memory_bytes.max(1))
    }
}

/// One stream and what it waits for.
pub(crate) struct PushStream<R: TagResolver, I> {
    shared: Arc<Shared<R>>,
    requests: I,
    id: StreamId,
    generation: Generation,
    dictionary: Dictionary,
    expected: u64,
    /// Messages without an answer, in the order in which they were taken.
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    /// Bytes of those that are queued and wait for others that have come with them.
    gathered: usize,
    /// The newest of them may still wait for memory that another stream took while it was read.
    parked: Option<Parked>,
    replies: mpsc::Receiver<Settled>,
    to_replies: mpsc::Sender<Settled>,
    buffer: Vec<Settled>,
    outbox: VecDeque<Answered>,
    idle_at: Instant,
    /// Set once nothing more is read: how the stream ends when all is answered.
    ending: Option<Result<(), Status>>,
    has_ended: bool,
    _permit: OwnedSemaphorePermit,
    /// The share of the dictionary in the node's memory.
    vocabulary: Option<OwnedSemaphorePermit>,
}

struct Pending {
    sequence: u64,
    size: usize,
    samples: u64,
}

struct Parked {
    sequence: u64,
    batch: EncodedBatch,
    bytes: u32,
}

/// What happened while the stream waited.
#[allow(clippy::large_enum_variant, reason = "it lives for a moment; a box for each request would cost more")]
enum Happening {
    Answers,
    Room(Room),
    /// There is no room for another message, so none is read.
    Full,
    /// There is again, and none has come.
    NotFull,
    Request(Option<Result<PushRequest, Status>>),
    Stopping,
    Idle,
}

impl<R, I> PushStream<R, I>
where
    R: TagResolver,
    I: Stream<Item = Result<PushRequest, Status>> + Send + Unpin + 'static,
{
    pub(crate) fn new(shared: Arc<Shared<R>>, requests: I, permit: OwnedSemaphorePermit) -> Self {
        let IngestConfig { window_messages, window_bytes, max_message_bytes, max_tags, .. } = shared.config;
        let (to_replies, replies) = mpsc::channel(window_messages.max(1) as usize);
        let welcome = Welcome {
            window_messages,
            window_bytes: u64::from(window_bytes),
            max_message_bytes: u64::from(max_message_bytes),
            max_tags,
        };
        Self {
            id: shared.intake.open(),
            generation: Generation::default(),
            dictionary: Dictionary::default(),
            expected: 1,
            pending: VecDeque::new(),
            pending_bytes: 0,
            gathered: 0,
            parked: None,
            replies,
            to_replies,
            buffer: Vec::new(),
            outbox: VecDeque::from([Answered::Welcome(welcome)]),
            idle_at: Instant::now() + shared.config.first_message,
            ending: None,
            has_ended: false,
            _permit: permit,
            vocabulary: None,
            requests,
            shared,
        }
    }

    /// The responses; reading them drives the stream.
    pub(crate) fn into_responses(self) -> impl Stream<Item = Result<PushResponse, Status>> + Send {
        futures::stream::unfold(self, |mut stream| async move {
            let response = stream.next_response().await?;
            Some((response, stream))
        })
    }

    /// The next response; `None` at the end of the stream.
    async fn next_response(&mut self) -> Option<Result<PushResponse, Status>> {
        loop {
            if let Some(content) = self.outbox.pop_front() {
                // It may be a while until another one is asked for.
                self.begin();
                return Some(Ok(PushResponse { content: Some(content) }));
            }
            if self.has_ended {
                return None;
            }
            if self.pending.is_empty()
                && let Some(end) = self.ending.take()
            {
                self.has_ended = true;
                if let Err(status) = end {
                    return Some(Err(status));
                }
                return None;
            }
            match self.wait().await {
                Happening::Answers => self.answer(),
                Happening::Room(room) => self.submit(room),
                Happening::Full => {}
                // Whatever it would have said was not read.
                Happening::NotFull => {
                    self.idle_at = self.idle_at.max(Instant::now() + self.shared.config.first_message);
                }
                Happening::Request(request) => self.handle(request),
                Happening::Stopping => {
                    self.end(Err(Status::unavailable("this node is stopping; go on with another")))
                }
                Happening::Idle => self.end(Err(Status::deadline_exceeded("nothing was sent for too long"))),
            }
        }
    }

    async fn wait(&mut self) -> Happening {
        let IngestConfig { window_messages, window_bytes, .. } = self.shared.config;
        let is_open = self.ending.is_none();
        let has_window =
            self.pending.len() < window_messages as usize && self.pending_bytes < window_bytes as usize;
        let is_quiet = self.pending.is_empty();
        let (memory, largest) = (&self.shared.memory, self.shared.largest());
        let is_full = !memory.has(largest);
        let parked = self.parked.as_ref();
        let can_read = is_open && has_window && parked.is_none();
        let happening = async {
            tokio::select! {
                biased;
                _ = self.replies.recv_many(&mut self.buffer, ANSWERS) => Happening::Answers,
                room = wait_for_room(memory, parked) => Happening::Room(room),
                () = self.shared.token.cancelled(), if is_open => Happening::Stopping,
                happening = next_request(&mut self.requests, memory, largest, is_full), if can_read => happening,
                () = tokio::time::sleep_until(self.idle_at), if is_open && is_quiet && !is_full => Happening::Idle,
            }
        };
        let (mut happening, gathered) = (std::pin::pin!(happening), &mut self.gathered);
        // What has come together is proposed together: as soon as nothing else is there.
        poll_fn(|context| {
            let polled = happening.as_mut().poll(context);
            if polled.is_pending() && std::mem::take(gathered) > 0 {
                self.shared.intake.begin();
            }
            polled
        })
        .await
    }

    /// Has proposed what has come together.
    fn begin(&mut self) {
        if std::mem::take(&mut self.gathered) > 0 {
            self.shared.intake.begin();
        }
    }

    /// Nothing more is read; what was read is answered.
    fn end(&mut self, how: Result<(), Status>) {
        self.ending = Some(how);
        // What was not even queued is refused at once if the node stops, and queued otherwise.
        if self.shared.token.is_cancelled()
            && let Some(parked) = self.parked.take()
        {
            let (reason, retry_after) = (RefusalReason::Stopping, self.shared.config.batcher.retry_after);
            let verdict = Verdict::Refused { reason, retry_after, generation: self.generation };
            self.buffer.push(Settled { sequence: parked.sequence, verdict });
            self.answer();
        }
    }

    fn handle(&mut self, request: Option<Result<PushRequest, Status>>) {
        self.idle_at = Instant::now() + self.shared.config.idle;
        let content = match request {
            None => return self.end(Ok(())),
            Some(Err(status)) => return self.end(Err(status)),
            Some(Ok(request)) => request.content,
        };
        match content {
            None => self.end(Err(Status::invalid_argument("a request without content"))),
            Some(Asked::Declare(declare)) => match self.declare(declare) {
                Ok(declared) => self.outbox.push_back(Answered::Declared(declared)),
                Err(status) => self.end(Err(status)),
            },
            Some(Asked::Samples(samples)) => self.take(samples),
        }
    }

    fn declare(&mut self, declare: Declare) -> Result<Declared, Status> {
        let cost = u32::try_from(Dictionary::cost(&declare))
            .map_err(|_| Status::invalid_argument("a declaration larger than any message"))?;
        let shared = &self.shared;
        let Ok(permit) = shared.dictionaries.clone().try_acquire_many_owned(cost) else {
            return Err(Status::resource_exhausted("the streams of this node have declared too many tags"));
        };
        match &mut self.vocabulary {
            Some(vocabulary) => vocabulary.merge(permit),
            None => self.vocabulary = Some(permit),
        }
        self.dictionary.declare(&*shared.tags, declare, shared.config.max_tags).map_err(|broken| match broken
        {
            BrokenRule::TooManyTags { .. } | BrokenRule::LongName { .. } => {
                Status::invalid_argument(broken.to_string())
            }
        })
    }

    fn take(&mut self, message: Samples) {
        if let Some(changed) = self.dictionary.refresh(&*self.shared.tags) {
            self.outbox.push_back(Answered::Declared(changed));
        }
        let sequence = message.sequence;
        if sequence != self.expected {
            self.refuse(sequence, WireReason::OutOfOrder, Duration::ZERO, "the message is not the next one");
            return;
        }
        self.expected += 1;
        let size = size_of(&message);
        match self.encode(&message) {
            Err(rejected) => {
                add(&self.shared.counts.messages_rejected, 1);
                self.outbox.push_back(Answered::Rejected(rejected));
            }
            Ok(batch) => {
                let samples = u64::from(batch.header.count);
                self.pending.push_back(Pending { sequence, size, samples });
                self.pending_bytes += size;
                self.park(sequence, size, batch);
            }
        }
    }

    fn encode(&self, message: &Samples) -> Result<EncodedBatch, Rejected> {
        let Shared { config, clock, node, .. } = &*self.shared;
        let samples = read_samples(message, &self.dictionary, config.max_message_bytes)?;
        // The batcher gives the identity when it proposes.
        let source = Source::Pushed { session: SessionId::default(), sequence: 0 };
        let gateway_time: Timestamp = clock.now();
        let too_large = |text| reject_too_large(message.sequence, text);
        let batch = Batch::new(source, *node, self.dictionary.revision(), gateway_time, samples)
            .map_err(|error| too_large(error.to_string()))?;
        EncodedBatch::encode(&batch).map_err(|error| too_large(error.to_string()))
    }

    /// Queues the message, or has it wait for memory; nothing is read meanwhile.
    fn park(&mut self, sequence: u64, size: usize, batch: EncodedBatch) {
        let Shared { memory, config, .. } = &*self.shared;
        // Bounded by max_message_bytes; never more than there is.
        let bytes = u32::try_from(size).unwrap_or(u32::MAX).clamp(1, config.memory_bytes.max(1));
        let room = memory.take(bytes);
        self.parked = Some(Parked { sequence, batch, bytes });
        if let Some(room) = room {
            self.submit(room);
        }
    }

    fn submit(&mut self, room: Room) {
        let Some(Parked { sequence, batch, .. }) = self.parked.take() else { return };
        let ticket = Ticket { sequence, replies: self.to_replies.clone(), _room: room };
        let bytes = batch.payload.len();
        if let Err(refused) = self.shared.intake.enqueue(self.id, self.generation, batch, ticket) {
            // What ended the generation is in the channel already and comes first.
            while let Ok(earlier) = self.replies.try_recv() {
                self.buffer.push(earlier);
            }
            self.buffer.push(refused);
            self.answer();
            return;
        }
        self.gathered += bytes.max(1);
        if self.gathered >= GATHERED_BYTES {
            self.begin();
        }
    }

    /// Tells the client what became of its messages.
    fn answer(&mut self) {
        self.idle_at = Instant::now() + self.shared.config.idle;
        let mut settled = std::mem::take(&mut self.buffer);
        for Settled { sequence, verdict } in settled.drain(..) {
            let samples = self.forget(sequence);
            match verdict {
                Verdict::Accepted(place) => self.acknowledge(sequence, samples, place),
                Verdict::Refused { reason, retry_after, generation } => {
                    self.go_back(sequence, generation);
                    self.refuse(sequence, wire_reason(reason), retry_after, &reason.to_string());
                }
                Verdict::Undecided { generation } => {
                    self.go_back(sequence, generation);
                    let text = "whether it was committed cannot be found out here";
                    self.refuse(sequence, WireReason::Undecided, Duration::ZERO, text);
                }
            }
        }
        self.buffer = settled;
    }

    /// Takes a message out of the window; gives the number of its samples.
    fn forget(&mut self, sequence: u64) -> u64 {
        // Nearly always the first: answers come in order, but for refusals.
        let index = self.pending.iter().position(|pending| pending.sequence == sequence);
        let pending =
            index.and_then(|index| self.pending.remove(index)).expect("each message is answered once");
        self.pending_bytes -= pending.size;
        pending.samples
    }

    fn go_back(&mut self, sequence: u64, generation: Generation) {
        self.generation = self.generation.max(generation);
        self.expected = self.expected.min(sequence);
    }

    fn acknowledge(&mut self, sequence: u64, samples: u64, place: Option<Place>) {
        add(&self.shared.counts.messages_acknowledged, 1);
        add(&self.shared.counts.samples_acknowledged, samples);
        let position = place.map(|place| place.position.0);
        let ordinal = place.map(|place| place.ordinal.0);
        if let Some(Answered::Acknowledged(run)) = self.outbox.back_mut()
            && run.last + 1 == sequence
            && run.position == position
        {
            run.last = sequence;
            run.ordinals.extend(ordinal);
            return;
        }
        self.outbox.push_back(Answered::Acknowledged(Acknowledged {
            first: sequence,
            last: sequence,
            position,
            lineage: place.map(|place| place.lineage.to_string()).unwrap_or_default(),
            ordinals: ordinal.into_iter().collect(),
        }));
    }

    fn refuse(&mut self, sequence: u64, reason: WireReason, retry_after: Duration, text: &str) {
        add(&self.shared.counts.messages_refused, 1);
        if let Some(Answered::Refused(run)) = self.outbox.back_mut()
            && run.last + 1 == sequence
            && run.reason() == reason
            && run.expected == self.expected
        {
            run.last = sequence;
            return;
        }
        self.outbox.push_back(Answered::Refused(Refused {
            first: sequence,
            last: sequence,
            reason: reason.into(),
            retry_after_ms: u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX),
            expected: self.expected,
            text: text.to_owned(),
        }));
    }
}

impl<R: TagResolver, I> Drop for PushStream<R, I> {
    fn drop(&mut self) {
        self.shared.intake.close(self.id);
    }
}

/// The next request, not read while there is no room for the largest message, nor before those who wait for room. Where
/// memory `is_full`, it waits for room itself, and gives way to nobody then.
async fn next_request<I>(requests: &mut I, memory: &Memory, largest: u32, is_full: bool) -> Happening
where
    I: Stream<Item = Result<PushRequest, Status>> + Unpin,
{
    if is_full {
        memory.wait_for(largest).await;
    } else {
        memory.give_way().await;
    }
    // Asked again each time that a part of a message has come: memory may have become full meanwhile.
    poll_fn(|context| match memory.has(largest) {
        true => match requests.poll_next_unpin(context) {
            Poll::Pending if is_full => Poll::Ready(Happening::NotFull),
            polled => polled.map(Happening::Request),
        },
        false => Poll::Ready(Happening::Full),
    })
    .await
}

async fn wait_for_room(memory: &Memory, parked: Option<&Parked>) -> Room {
    match parked {
        Some(parked) => memory.wait_to_take(parked.bytes).await,
        None => std::future::pending().await,
    }
}

fn wire_reason(reason: RefusalReason) -> WireReason {
    match reason {
        RefusalReason::NoQuorum => WireReason::NoQuorum,
        RefusalReason::NoSpace => WireReason::NoSpace,
        RefusalReason::Overloaded => WireReason::Overloaded,
        RefusalReason::Stopping => WireReason::Stopping,
        RefusalReason::OutOfOrder => WireReason::OutOfOrder,
        RefusalReason::RevisionGone => WireReason::RevisionGone,
    }
}

#[cfg(test)]
pub(crate) mod tests;
