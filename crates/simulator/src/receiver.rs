//! An HTTP receiver: takes what a gateway delivers, remembers which keys it saw, and misbehaves when told to.
//!
//! - [`Mode::Counting`] looks at keys alone and keeps a bit for each (fast: for benches and long runs);
//!   [`Mode::CountingSamples`] does so with most samples and writes a history of what is worth a look.
//! - [`Mode::Recording`] reads every record, compares the bytes of repeated ones, watches the order of each tag and
//!   writes a history.
//! - What a request holds is counted only if it is kept: what was answered with an error never happened, unless it is the
//!   answer alone that is lost.
//! - A record that is refused for its content, named in a list or alone in its request, has a line of its own: whoever
//!   delivers may go on without it then.
//! - One task serves; [`Receiver::go_down`] closes the listener *and* every connection.

mod connection;
mod keys;
mod tally;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::history::History;
use connection::{Listener, Speech};
use tally::Tally;
pub use tally::{Counts, Received, Refused};

/// Larger requests are answered with 413.
const LARGEST_BODY: usize = 64 << 20;
/// How long connections may take to end when the receiver goes down.
const DOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a receiver keeps of what it sees.
#[derive(Debug, Clone, Default)]
pub enum Mode {
    /// Which keys, as bits.
    #[default]
    Counting,
    /// Which keys, as bits; as lines of this history, under this name: gaps, openings and expiries, samples that are not
    /// good, and those of the tags whose ids end so.
    CountingSamples(History, String, &'static str),
    /// Every record: as a line of this history, under this name, where one is given (see [`Received`]).
    Recording(Option<(History, String)>),
}

/// What a receiver answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reply {
    /// 200, and it keeps what it was sent.
    #[default]
    Accept,
    /// 504, and it keeps what it was sent: whoever sent it cannot know that, and sends it again.
    LoseAnswer,
    /// This status, with a `Retry-After` in seconds where one is given.
    Refuse {
        /// The status.
        status: u16,
        /// Seconds to stay away.
        retry_after: Option<u32>,
    },
    /// 413 for requests of more bytes than this.
    TooLargeAbove(usize),
    /// 422 with a list of the samples of this tag; it keeps the others.
    RejectTag(String),
    /// 400 without a list if a sample of this tag is in the request, which it keeps nothing of.
    RefuseTag(String),
    /// None: the request is read and never answered.
    Hang,
    /// 200, so much later; it keeps what it was sent at once.
    Late(Duration),
    /// None: it keeps what it was sent, and the connection ends.
    Die,
    /// Bytes that are no HTTP; it keeps nothing.
    Rubbish,
}

/// A receiver that is up, or can be brought up again at the same address.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// The serving task and what ends it; `None` while down.
    serving: Option<(CancellationToken, JoinSet<std::io::Result<()>>)>,
}

#[derive(Debug)]
struct Shared {
    reply: Mutex<Reply>,
    /// `Authorization` that is demanded, if any.
    authorization: Mutex<Option<String>>,
    tally: Mutex<Tally>,
    /// What becomes of answers on their way out.
    speech: watch::Sender<Speech>,
    /// Requests that have been answered with success, to wait for.
    accepted: watch::Sender<u64>,
    /// Requests that were not answered with success at once.
    spoilt: AtomicU64,
}

/// What a handler needs.
#[derive(Debug, Clone)]
struct Served {
    shared: Arc<Shared>,
    closing: CancellationToken,
}

impl Receiver {
    /// Starts a receiver; port 0 takes any free one.
    pub async fn start(address: SocketAddr, mode: Mode) -> std::io::Result<Self> {
        let shared = Shared {
            reply: Mutex::default(),
            authorization: Mutex::default(),
            tally: Mutex::new(Tally::new(mode)),
            speech: watch::Sender::default(),
            accepted: watch::Sender::new(0),
            spoilt: AtomicU64::new(0),
        };
        let mut receiver = Self { shared: Arc::new(shared), address, serving: None };
        receiver.come_up().await?;
        Ok(receiver)
    }

    /// Where to post.
    pub fn url(&self) -> String {
        format!("http://{}/ingest", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers every following request like this.
    pub fn set_reply(&self, reply: Reply) {
        self.shared.speech.send_replace(match reply {
            Reply::Die => Speech::Broken,
            Reply::Rubbish => Speech::Rubbish,
            _ => Speech::Plain,
        });
        *lock(&self.shared.reply) = reply;
    }

    /// Answers 401 to requests without this bearer token; `None` asks for none.
    pub fn demand_token(&self, token: Option<&str>) {
        *lock(&self.shared.authorization) = token.map(|token| format!("Bearer {token}"));
    }

    /// What it has seen so far.
    pub fn counts(&self) -> Counts {
        lock(&self.shared.tally).counts()
    }

    /// The highest position of which it has kept a record.
    pub fn highest(&self) -> u64 {
        lock(&self.shared.tally).highest()
    }

    /// Requests that came and were not answered with success at once.
    pub fn spoilt(&self) -> u64 {
        self.shared.spoilt.load(Ordering::Relaxed)
    }

    /// Waits until the counts are as wanted. An error names the counts at the end of the wait.
    pub async fn wait_for(
        &self,
        limit: Duration,
        is_enough: impl Fn(&Counts) -> bool,
    ) -> Result<Counts, Counts> {
        let mut accepted = self.shared.accepted.subscribe();
        let reached = tokio::time::timeout(limit, async {
            loop {
                accepted.mark_unchanged();
                let counts = self.counts();
                if is_enough(&counts) || accepted.changed().await.is_err() {
                    return counts;
                }
            }
        });
        reached.await.map_err(|_| self.counts())
    }

    /// Closes the listener and every connection; requests that have not been answered will not be.
    pub async fn go_down(&mut self) {
        if let Some((closing, mut task)) = self.serving.take() {
            closing.cancel();
            if tokio::time::timeout(DOWN_TIMEOUT, task.join_next()).await.is_err() {
                tracing::warn!(address = %self.address, "connections did not end in time and are dropped");
            }
        }
    }

    /// Listens again, at the address it had.
    pub async fn come_up(&mut self) -> std::io::Result<()> {
        if self.serving.is_some() {
            return Ok(());
        }
        let listener = TcpListener::bind(self.address).await?;
        self.address = listener.local_addr()?;
        let closing = CancellationToken::new();
        let served = Served { shared: Arc::clone(&self.shared), closing: closing.clone() };
        let router =
            Router::new().fallback(receive).layer(DefaultBodyLimit::max(LARGEST_BODY)).with_state(served);
        let listener = Listener::new(listener, closing.clone(), self.shared.speech.subscribe());
        let stop = closing.clone().cancelled_owned();
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, router).with_graceful_shutdown(stop).await });
        self.serving = Some((closing, task));
        Ok(())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some((closing, _)) = &self.serving {
            closing.cancel();
        }
    }
}

async fn receive(State(served): State<Served>, headers: HeaderMap, body: Bytes) -> Response {
    let shared = &served.shared;
    let demanded = lock(&shared.authorization).clone();
    if let Some(demanded) = demanded
        && headers.get("authorization").is_none_or(|given| given.as_bytes() != demanded.as_bytes())
    {
        shared.spoil();
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let reply = lock(&shared.reply).clone();
    match reply {
        Reply::Hang => {
            shared.spoil();
            served.closing.cancelled().await;
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
        Reply::Late(time) => {
            shared.spoil();
            let kept = shared.accept(&body);
            // How late it is, is what was asked for.
            sleep(time).await;
            kept
        }
        Reply::Die => {
            shared.spoil();
            shared.accept(&body)
        }
        reply => {
            let answer = shared.answer(reply, &body);
            if !answer.status().is_success() {
                shared.spoil();
            }
            answer
        }
    }
}

impl Shared {
    fn spoil(&self) {
        self.spoilt.fetch_add(1, Ordering::Relaxed);
    }

    /// What is answered at once.
    fn answer(&self, reply: Reply, body: &[u8]) -> Response {
        match reply {
            Reply::LoseAnswer => {
                let kept = self.accept(body);
                if kept.status().is_success() { StatusCode::GATEWAY_TIMEOUT.into_response() } else { kept }
            }
            Reply::Refuse { status, retry_after } => self.refuse(body, status, retry_after),
            Reply::TooLargeAbove(bytes) if body.len() > bytes => {
                StatusCode::PAYLOAD_TOO_LARGE.into_response()
            }
            Reply::RejectTag(tag) => self.accept_without(body, &tag),
            Reply::RefuseTag(tag) => match tally::keys_of_tag(body, &tag) {
                Ok(keys) if keys.is_empty() => self.accept(body),
                Ok(_) => self.refuse(body, StatusCode::BAD_REQUEST.as_u16(), None),
                Err(error) => unreadable(&error),
            },
            // What goes out is not this.
            Reply::Rubbish => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            Reply::Accept | Reply::TooLargeAbove(_) | Reply::Hang | Reply::Late(_) | Reply::Die => {
                self.accept(body)
            }
        }
    }

    /// Refuses a request as a whole. Whoever is told that its content is wrong, and sends one record alone, knows which.
    fn refuse(&self, body: &[u8], status: u16, retry_after: Option<u32>) -> Response {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY) {
            match tally::key_alone(body) {
                Ok(alone) => lock(&self.tally).refused(alone.as_slice()),
                Err(error) => return unreadable(&error),
            }
        }
        match retry_after {
            Some(seconds) => (status, [(RETRY_AFTER, seconds.to_string())]).into_response(),
            None => status.into_response(),
        }
    }

    fn accept(&self, body: &[u8]) -> Response {
        let taken = lock(&self.tally).take(body, None);
        match taken {
            Ok(()) => {
                self.accepted.send_modify(|accepted| *accepted += 1);
                StatusCode::OK.into_response()
            }
            Err(error) => unreadable(&error),
        }
    }

    fn accept_without(&self, body: &[u8], tag: &str) -> Response {
        let rejected = match tally::keys_of_tag(body, tag) {
            Ok(rejected) => rejected,
            Err(error) => return unreadable(&error),
        };
        let taken = {
            let mut tally = lock(&self.tally);
            tally.refused(&rejected);
            tally.take(body, Some(&rejected))
        };
        if let Err(error) = taken {
            return unreadable(&error);
        }
        self.accepted.send_modify(|accepted| *accepted += 1);
        if rejected.is_empty() {
            return StatusCode::OK.into_response();
        }
        let list: Vec<_> = rejected
            .iter()
            .map(|key| serde_json::json!({ "key": key, "reason": "this tag is not wanted here" }))
            .collect();
        let body = serde_json::json!({ "rejected": list }).to_string();
        (StatusCode::UNPROCESSABLE_ENTITY, body).into_response()
    }
}

/// What a real receiver would answer to something it cannot read.
fn unreadable(error: &tally::Unreadable) -> Response {
    (StatusCode::BAD_REQUEST, error.to_string()).into_response()
}

/// What lies behind the lock is whole after every statement, so that a panic elsewhere does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
