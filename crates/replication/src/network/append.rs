//! One append stream from a leader to a follower: requests out, answers in, in order and pipelined.
//!
//! The session is one value polled by openraft: pulling a request, noting it as in flight and giving an answer
//! never happen at the same time, so what we think is in flight is what openraft thinks.
//!
//! - At most a window of requests, in count and bytes, is unanswered.
//! - The oldest of them waits no longer than the stall limit; then the stream ends with an error.
//! - A request that says only that everything before it is committed, where all of that is answered, waits a moment for the
//!   next entries, which say it as well. For openraft it is sent all the same, and unanswered: the answer to what says it
//!   instead answers both.
//! - Answers pass the [`HoldBack`] and the tripwire before openraft sees them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use openraft::AsyncRuntime;
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use runtime::sleep_until;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use wire::proto::peer as pb;

use super::answers::Answers;
use super::client::Peer;
use super::convert::{self, Malformed};
use super::hold_back::HoldBack;
use super::link::{CallFailure, Connection};
use crate::type_config::{LogId, TypeConfig, Vote};

/// How long a request without entries waits for the next ones.
const WAITS_FOR_ENTRIES: Duration = Duration::from_millis(2);

type Answer<RT> = Result<StreamAppendResult<TypeConfig<RT>>, RPCError<TypeConfig<RT>>>;

/// A request that was not answered yet.
struct Unanswered {
    sequence: u64,
    /// How many requests of openraft it answers.
    stands_for: usize,
    vote: Vote,
    last: Option<LogId>,
    bytes: usize,
    sent: Instant,
}

/// Requests without entries that wait for some. The newest says what the others say.
struct Waiting<RT: AsyncRuntime> {
    request: AppendEntriesRequest<TypeConfig<RT>>,
    count: usize,
    until: Instant,
}

/// The state of one stream.
struct Session<RT: AsyncRuntime, S> {
    peer: Arc<Peer>,
    connection: Connection,
    /// openraft's requests; gone when they have ended.
    input: Option<S>,
    waiting: Option<Waiting<RT>>,
    requests: mpsc::Sender<pb::AppendRequest>,
    answers: Answers<pb::AppendResponse>,
    unanswered: VecDeque<Unanswered>,
    unanswered_bytes: usize,
    hold_back: HoldBack<Option<LogId>, Option<LogId>>,
    sent: u64,
    stall_limit: Duration,
    over: bool,
}

/// Answers `input` on a stream to `peer`, which is opened when there is a first request. The returned stream ends after
/// the first error, after an answer that is no acknowledgement, or when all of `input` is answered.
pub(super) fn open<RT, S>(peer: Arc<Peer>, mut input: S, patience: Duration) -> BoxStream<'static, Answer<RT>>
where
    RT: AsyncRuntime,
    S: Stream<Item = AppendEntriesRequest<TypeConfig<RT>>> + Send + Unpin + 'static,
{
    let opening = async move {
        // Before anything can fail: it is when it is asked for a request that openraft waits after failures. A stream
        // that failed earlier would be tried again without a pause for as long as the peer is down.
        let Some(first) = input.next().await else { return futures::stream::empty().boxed() };
        match begin(peer, input, patience).await {
            Ok(mut session) => {
                session.take_request(first);
                let next =
                    |mut session: Session<RT, S>| async move { Some((session.next().await?, session)) };
                futures::stream::unfold(session, next).boxed()
            }
            Err(failure) => futures::stream::iter([Err(failure.into_rpc())]).boxed(),
        }
    };
    opening.into_stream().flatten().boxed()
}

async fn begin<RT: AsyncRuntime, S>(
    peer: Arc<Peer>,
    input: S,
    patience: Duration,
) -> Result<Session<RT, S>, CallFailure> {
    peer.check_tripwire()?;
    let connection = peer.bulk.connection(Instant::now() + patience).await?;
    let window = peer.context.options.append_window;
    let (requests, outgoing) = mpsc::channel(window);
    let mut client = connection.client.clone();
    let answers = Answers::to(async move { client.append(ReceiverStream::new(outgoing)).await });
    let stall_limit = peer.context.options.stall_limit.max(patience);
    Ok(Session {
        peer,
        connection,
        input: Some(input),
        waiting: None,
        requests,
        answers,
        unanswered: VecDeque::new(),
        unanswered_bytes: 0,
        hold_back: HoldBack::new(),
        sent: 0,
        stall_limit,
        over: false,
    })
}

impl<RT, S> Session<RT, S>
where
    RT: AsyncRuntime,
    S: Stream<Item = AppendEntriesRequest<TypeConfig<RT>>> + Send + Unpin + 'static,
{
    async fn next(&mut self) -> Option<Answer<RT>> {
        loop {
            if let Some(matching) = self.hold_back.release() {
                return Some(Ok(Ok(matching)));
            }
            let all_answered = self.input.is_none() && self.waiting.is_none() && self.unanswered.is_empty();
            if self.over || all_answered {
                return None;
            }
            match self.step().await {
                Ok(None) => {}
                Ok(Some(last_word)) => {
                    // What is still held back is dropped: openraft begins anew from what it knows.
                    self.over = true;
                    return Some(Ok(last_word));
                }
                Err(failure) => {
                    self.over = true;
                    return Some(Err(failure.into_rpc()));
                }
            }
        }
    }

    /// Waits for the next answer or request. `Some` is an answer that ends the stream.
    async fn step(&mut self) -> Result<Option<StreamAppendResult<TypeConfig<RT>>>, CallFailure> {
        let options = &self.peer.context.options;
        let room = self.unanswered.is_empty()
            || self.unanswered.len() < options.append_window
                && self.unanswered_bytes < options.append_window_bytes;
        let stalled_at = self.unanswered.front().map(|oldest| oldest.sent + self.stall_limit);
        let waits_until = self.waiting.as_ref().map(|waiting| waiting.until);
        let Self { input, answers, .. } = self;
        tokio::select! {
            biased;
            answer = answers.next() => match answer {
                Ok(Some(answer)) => self.take_answer(answer),
                Ok(None) => Err(self.peer.bulk.gave_up(CallFailure::Broken("the follower ended the stream".into()))),
                Err(status) => Err(self.peer.bulk.failed(&self.connection, &status)),
            },
            request = next_of(input), if room && input.is_some() => {
                match request {
                    Some(request) => self.take_request(request),
                    None => {
                        self.input = None;
                        self.wait_no_longer();
                    }
                }
                Ok(None)
            }
            () = sleep_until(waits_until) => {
                self.wait_no_longer();
                Ok(None)
            }
            () = sleep_until(stalled_at) => {
                Err(self.peer.bulk.gave_up(CallFailure::late("append")))
            }
        }
    }

    /// Sends a request that openraft has given, or lets it wait for entries.
    fn take_request(&mut self, request: AppendEntriesRequest<TypeConfig<RT>>) {
        self.hold_back.sent(last_of(&request));
        let before = self.waiting.take();
        let count = before.as_ref().map_or(0, |waiting| waiting.count) + 1;
        let says_only_that = request.entries.is_empty() && request.prev_log_id == request.leader_commit;
        // Answers to come are held back until this is answered: a majority may wait for them, and they would be lost with entries
        // that are refused.
        if says_only_that && self.unanswered.is_empty() {
            let until = before.map_or_else(|| Instant::now() + WAITS_FOR_ENTRIES, |waiting| waiting.until);
            self.waiting = Some(Waiting { request, count, until });
        } else {
            self.send(request, count);
        }
    }

    fn wait_no_longer(&mut self) {
        if let Some(Waiting { request, count, .. }) = self.waiting.take() {
            self.send(request, count);
        }
    }

    fn send(&mut self, request: AppendEntriesRequest<TypeConfig<RT>>, stands_for: usize) {
        let last = last_of(&request);
        let (vote, sequence) = (request.vote, self.sent);
        let message = convert::append_to_proto(self.peer.envelope(), sequence, request);
        let bytes = convert::payload_bytes(&message);
        let sent = Instant::now();
        self.unanswered.push_back(Unanswered { sequence, stands_for, vote, last, bytes, sent });
        self.unanswered_bytes += bytes;
        self.sent += 1;
        if let Err(unsent) = self.requests.try_send(message) {
            // There is room for a whole window, so the stream broke; the answering half says why.
            tracing::debug!(node = %self.peer.node, %unsent, "append not sent");
        }
    }

    fn take_answer(
        &mut self,
        answer: pb::AppendResponse,
    ) -> Result<Option<StreamAppendResult<TypeConfig<RT>>>, CallFailure> {
        let sequence = answer.sequence;
        let request = self.unanswered.pop_front().filter(|request| request.sequence == sequence);
        let request = request.ok_or(Malformed("order of answers"))?;
        self.unanswered_bytes -= request.bytes;
        let result = convert::append_result_from_proto::<RT>(answer)?;
        self.peer.watch_result(&request.vote, &result)?;
        match result {
            Ok(matching) if matching > request.last => Err(Malformed("acknowledgement").into()),
            Ok(matching) => {
                self.hold_back.acknowledged(request.stands_for, matching, matching);
                Ok(None)
            }
            last_word @ Err(_) => Ok(Some(last_word)),
        }
    }
}

fn last_of<RT: AsyncRuntime>(request: &AppendEntriesRequest<TypeConfig<RT>>) -> Option<LogId> {
    request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id)
}

async fn next_of<S: Stream + Unpin>(input: &mut Option<S>) -> Option<S::Item> {
    match input {
        Some(input) => input.next().await,
        None => None,
    }
}
