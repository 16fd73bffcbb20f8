//! A simulated pusher: it pushes on one stream with several messages in flight, and goes on at the next node where
//! one refuses or dies.
//!
//! Owns one client's view of `Ingest.Push` and its history. What it sends is [`Content`]'s.
//!
//! - Messages go out in order; after a refusal or a broken stream all without acknowledgement go out again, in order,
//!   before any new one.
//! - At most `window` messages are without acknowledgement, here and on the way.
//! - History: operation `push`; each sending of a message is `invoke`, followed by `ok` (acknowledged), `fail`
//!   (rejected or refused: not taken) or `info` (the stream broke, or the node could not say: it may be committed).

mod content;
mod latency;
mod sending;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use model::Clock;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};
use tracing::debug;
use wire::proto::v1::ingest_client::IngestClient;
use wire::proto::v1::push_request::Content as Ask;
use wire::proto::v1::push_response::{Content as Answer, Declared, Welcome};
use wire::proto::v1::{PushRequest, PushResponse};

use crate::history::History;

/// How long a pusher waits at most after a round of all nodes without success, unless it is told otherwise.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub use content::{Body, Content};
pub use latency::Latencies;
use sending::Sending;

/// How a pusher behaves.
#[derive(Clone)]
pub struct PusherConfig {
    /// Its name in the history.
    pub name: String,
    /// The nodes, in the order in which they are tried; at least one.
    pub endpoints: Vec<Endpoint>,
    /// What it sends.
    pub content: Content,
    /// Messages in flight at most; the server's window applies too.
    pub window: usize,
    /// From one message to the next; `None`: as fast as they are acknowledged.
    pub interval: Option<Duration>,
    /// It ends by itself once so many messages are acknowledged.
    pub messages: Option<u64>,
    /// A node that takes longer for a connection, a declaration or the next answer is left.
    pub patience: Duration,
    /// After cancellation: how long acknowledgements are waited for.
    pub drain: Duration,
    /// Where source times come from.
    pub clock: Arc<dyn Clock>,
}

/// What a pusher says of one message in its history.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PushNote {
    /// The message, from 0.
    pub number: u64,
    /// How often it was sent before.
    pub attempt: u32,
    /// Source time of its first sample, nanoseconds since 1970 UTC.
    pub base_time: i64,
    /// Which of the endpoints it was sent to.
    pub endpoint: usize,
    /// Where it was committed, if that was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// The lineage of the position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<String>,
    /// Ordinal of its first sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordinal: Option<u32>,
    /// Why it was not acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a pusher has seen so far. Shared with whoever shows it.
#[derive(Debug, Default)]
pub struct PusherStats {
    sent: AtomicU64,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    rejected: AtomicU64,
    unanswered: AtomicU64,
    connections: AtomicU64,
    latencies: Mutex<Latencies>,
}

/// Counts of [`PusherStats`] at one moment, in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PusherCounts {
    /// Sent, repetitions included.
    pub sent: u64,
    /// Acknowledged.
    pub acknowledged: u64,
    /// Refused; sent again later.
    pub refused: u64,
    /// Rejected; never sent again.
    pub rejected: u64,
    /// Sent, and the stream ended without an answer; sent again later.
    pub unanswered: u64,
    /// Streams begun.
    pub connections: u64,
}

impl PusherStats {
    /// The counts now.
    pub fn counts(&self) -> PusherCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        PusherCounts {
            sent: read(&self.sent),
            acknowledged: read(&self.acknowledged),
            refused: read(&self.refused),
            rejected: read(&self.rejected),
            unanswered: read(&self.unanswered),
            connections: read(&self.connections),
        }
    }

    /// From the first sending of each message to its acknowledgement, failovers included: of those that were acknowledged
    /// since this was called before.
    pub fn take_latencies(&self) -> Latencies {
        std::mem::take(&mut *self.latencies.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How a pusher ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PusherReport {
    /// The counts at the end.
    pub counts: PusherCounts,
    /// Messages that were sent and never acknowledged or rejected.
    pub unsettled: u64,
}

/// A simulated pusher.
pub struct Pusher {
    config: PusherConfig,
    longest_pause: Duration,
    sending: Sending,
    stats: Arc<PusherStats>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error("finished")]
    Finished,
    #[error("{0}")]
    Broken(#[from] Status),
    #[error("no answer in time")]
    Silent,
    #[error("the node ended the stream")]
    Ended,
    #[error("the node does not know the tags: {0}")]
    Tags(String),
    #[error("the node refused: {text}")]
    Refused { text: String, retry_after: Duration },
}

impl Pusher {
    /// A pusher that has sent nothing yet.
    pub fn new(config: PusherConfig, history: Option<History>) -> Self {
        let stats = Arc::<PusherStats>::default();
        let sending = Sending::new(&config, history, stats.clone());
        Self { config, longest_pause: LONGEST_PAUSE, sending, stats }
    }

    /// Waits no longer than this after a round of all nodes without success, whatever they ask for.
    pub fn pausing_at_most(self, longest_pause: Duration) -> Self {
        Self { longest_pause, ..self }
    }

    /// What it sees while it runs.
    pub fn stats(&self) -> Arc<PusherStats> {
        self.stats.clone()
    }

    /// Pushes until it has sent what it should, or is cancelled and all is acknowledged or the time for that is over.
    pub async fn run(mut self, token: CancellationToken) -> PusherReport {
        let mut stop = Stop { token, drain: self.config.drain, deadline: None };
        let mut endpoint = 0;
        let mut failures = 0_u32;
        while !(self.sending.is_done() || stop.is_over(&self.sending)) {
            let before = self.stats.counts().acknowledged;
            let left = tokio::select! {
                left = self.push_to(endpoint, stop.token.clone()) => left,
                () = stop.over() => Left::Silent,
            };
            self.sending.leave(&left.to_string());
            debug!(pusher = self.config.name, endpoint, %left, "stream ended");
            endpoint = (endpoint + 1) % self.config.endpoints.len();
            failures = if self.stats.counts().acknowledged > before { 0 } else { failures + 1 };
            // The next node is tried at once; after a round without success a pause is due.
            if failures as usize >= self.config.endpoints.len() {
                let pause = match left {
                    Left::Refused { retry_after, .. } => retry_after,
                    _ => Duration::from_millis(50).saturating_mul(1 << failures.min(5)),
                };
                tokio::select! {
                    () = tokio::time::sleep(pause.min(self.longest_pause)) => {}
                    () = stop.over() => {}
                }
            }
        }
        PusherReport { counts: self.stats.counts(), unsettled: self.sending.unsettled() }
    }

    async fn push_to(&mut self, endpoint: usize, token: CancellationToken) -> Left {
        let opened = timeout(self.config.patience, self.open(endpoint)).await;
        let (requests, responses, welcome) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(left)) => return left,
            Err(_) => return Left::Silent,
        };
        self.stats.connections.fetch_add(1, Ordering::Relaxed);
        self.sending.begin(endpoint, self.config.window.min(welcome.window_messages as usize));
        self.exchange(requests, responses, token).await
    }

    /// Connects, and declares the tags.
    async fn open(&self, endpoint: usize) -> Result<Stream, Left> {
        let connecting = self.config.endpoints[endpoint].connect();
        let channel = connecting.await.map_err(|error| Status::unavailable(error.to_string()))?;
        // Room for the whole window, so that sending never waits.
        let (requests, outbound) = mpsc::channel(self.config.window + 1);
        let declare = PushRequest { content: Some(Ask::Declare(self.config.content.declare())) };
        requests.try_send(declare).expect("a new channel has room");
        let response = IngestClient::new(channel).push(ReceiverStream::new(outbound)).await?;
        let mut responses = response.into_inner();
        let welcome = match next_answer(&mut responses).await? {
            Answer::Welcome(welcome) => welcome,
            other => return Err(Left::Tags(format!("expected a welcome, got {other:?}"))),
        };
        match next_answer(&mut responses).await? {
            Answer::Declared(declared) => check_tags(&declared)?,
            other => return Err(Left::Tags(format!("expected the tags, got {other:?}"))),
        }
        Ok((requests, responses, welcome))
    }

    async fn exchange(
        &mut self,
        requests: mpsc::Sender<PushRequest>,
        mut responses: Streaming<PushResponse>,
        token: CancellationToken,
    ) -> Left {
        let mut answer_by = Instant::now() + self.config.patience;
        loop {
            let accepts_new = !token.is_cancelled();
            while let Some(samples) = self.sending.next(Instant::now(), accepts_new) {
                let request = PushRequest { content: Some(Ask::Samples(samples)) };
                if requests.try_send(request).is_err() {
                    return Left::Ended;
                }
            }
            if self.sending.is_done() || (token.is_cancelled() && self.sending.unsettled() == 0) {
                return Left::Finished;
            }
            if !self.sending.has_unanswered() {
                answer_by = Instant::now() + self.config.patience;
            }
            let due = self.sending.due();
            tokio::select! {
                biased;
                response = responses.next() => {
                    answer_by = Instant::now() + self.config.patience;
                    let left = match response {
                        None => Some(Left::Ended),
                        Some(Err(status)) => Some(Left::Broken(status)),
                        Some(Ok(response)) => self.hear(response),
                    };
                    if let Some(left) = left {
                        return left;
                    }
                }
                () = sleep_until(due), if accepts_new => {}
                () = token.cancelled(), if accepts_new => {}
                () = tokio::time::sleep_until(answer_by), if self.sending.has_unanswered() => return Left::Silent,
            }
        }
    }

    /// Notes an answer; says why the stream should be left, if it should.
    fn hear(&mut self, response: PushResponse) -> Option<Left> {
        match response.content {
            Some(Answer::Acknowledged(run)) => self.sending.acknowledge(&run),
            Some(Answer::Rejected(rejected)) => self.sending.reject(&rejected),
            Some(Answer::Refused(run)) => {
                self.sending.refuse(&run);
                let retry_after = Duration::from_millis(run.retry_after_ms.into());
                return Some(Left::Refused { text: run.text, retry_after });
            }
            Some(Answer::Declared(declared)) => return check_tags(&declared).err(),
            Some(Answer::Welcome(_)) | None => {}
        }
        None
    }
}

type Stream = (mpsc::Sender<PushRequest>, Streaming<PushResponse>, Welcome);

/// When a cancelled pusher gives up.
struct Stop {
    token: CancellationToken,
    drain: Duration,
    deadline: Option<Instant>,
}

impl Stop {
    /// Whether there is nothing left to wait for.
    fn is_over(&self, sending: &Sending) -> bool {
        self.token.is_cancelled()
            && (sending.unsettled() == 0 || self.deadline.is_some_and(|deadline| Instant::now() >= deadline))
    }

    /// Resolves when the time after the cancellation is over.
    async fn over(&mut self) {
        self.token.cancelled().await;
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + self.drain);
        tokio::time::sleep_until(deadline).await;
    }
}

async fn next_answer(responses: &mut Streaming<PushResponse>) -> Result<Answer, Left> {
    responses.message().await?.and_then(|response| response.content).ok_or(Left::Ended)
}

fn check_tags(declared: &Declared) -> Result<(), Left> {
    match declared.errors.first() {
        Some(error) => Err(Left::Tags(error.text.clone())),
        None => Ok(()),
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
