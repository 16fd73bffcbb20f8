//! The owner task of one (host, port): the only one that reads or writes its socket.
//!
//! Owns the connection, the order of requests on it, reconnecting, and the pauses of silent units. Knows nothing of
//! tags and groups.
//!
//! - One request is on the socket at a time, whatever the number of units behind it.
//! - A request that fails costs the connection; a request whose caller has gone while it was in flight, too.
//! - While a unit (or the whole endpoint) is left alone, its requests are answered at once with the reason, never
//!   held: a scan of a dead device ends within its slot.
//! - A unit that does not answer is left alone by itself; the others only wait while it is being asked.
//! - The task ends when it is cancelled or its last handle is gone; the socket is reset then.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use model::{Clock, Permit};
use runtime::random::Random;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::connection::{Answer, Connection, Failure};
use super::dial::{Dialler, HostPort};
use super::exception::{Verdict, verdict};
use super::plan::Span;
use crate::backoff::backoff;
use crate::driver::{ScanError, Silence};

/// Requests that wait for one socket. A group has one request waiting at most, so this is the number of groups,
/// over all units of one serial converter, that can queue before a scan waits at the door (until its `start_by`).
const QUEUE: usize = 64;

/// A cheap handle in front of an [`Endpoint`].
#[derive(Debug, Clone)]
pub(super) struct EndpointHandle {
    queue: mpsc::Sender<Job>,
    connected: Arc<AtomicBool>,
}

/// A handle that does not keep the endpoint alive.
#[derive(Debug, Clone)]
pub(super) struct WeakEndpointHandle {
    queue: mpsc::WeakSender<Job>,
    connected: Arc<AtomicBool>,
}

/// One request for one unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) unit: u8,
    pub(super) span: Span,
    /// How long the device may take to answer.
    pub(super) cap: Duration,
    /// How long the permit must last when the request is sent.
    pub(super) operation: Duration,
    /// How long connecting may take.
    pub(super) connect: Duration,
}

/// What an endpoint needs to know.
pub(super) struct Surroundings {
    pub(super) permit: Arc<dyn Permit>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) dialler: Arc<dyn Dialler>,
    pub(super) random: Random,
    pub(super) token: CancellationToken,
}

/// Owns one socket.
pub(super) struct Endpoint {
    remote: HostPort,
    connection: Option<Connection>,
    /// Why, how often in a row, and how long the endpoint is left alone.
    pause: Option<Pause>,
    /// The same for each unit that does not answer; at most 256.
    unit_pauses: HashMap<u8, Pause>,
    queue: mpsc::Receiver<Job>,
    connected: Arc<AtomicBool>,
    surroundings: Surroundings,
}

struct Job {
    ask: Ask,
    /// Told when the request is about to be sent; dropped untold if it never is.
    begun: Option<oneshot::Sender<()>>,
    reply: oneshot::Sender<Result<Answer, Failure>>,
}

#[derive(Debug)]
struct Pause {
    failures: u32,
    until: Instant,
    reason: Silence,
}

impl EndpointHandle {
    pub(super) fn downgrade(&self) -> WeakEndpointHandle {
        WeakEndpointHandle { queue: self.queue.downgrade(), connected: Arc::clone(&self.connected) }
    }

    /// Sends the first request of a scan, which must begin by `start_by`.
    pub(super) async fn begin(&self, ask: Ask, start_by: Instant) -> Result<Answer, ScanError> {
        let (begun, has_begun) = oneshot::channel();
        let (reply, answer) = oneshot::channel();
        let entering = async {
            self.queue.send(Job { ask, begun: Some(begun), reply }).await.map_err(|_| ScanError::Stopped)?;
            // An error means that the request was answered, or given up, without being sent.
            Ok(has_begun.await.is_ok())
        };
        match timeout_at(start_by, entering).await {
            Ok(Ok(_sent_or_refused)) => outcome(answer.await),
            Ok(Err(stopped)) => Err(stopped),
            // Dropping `answer` withdraws the request.
            Err(_elapsed) if self.connected.load(Ordering::Relaxed) => Err(ScanError::Late),
            Err(_elapsed) => Err(Silence::Connecting.into()),
        }
    }

    /// Sends a further request of a scan. Bounded by the requests before it, each of which is bounded.
    pub(super) async fn go_on(&self, ask: Ask) -> Result<Answer, ScanError> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Job { ask, begun: None, reply }).await.map_err(|_| ScanError::Stopped)?;
        outcome(answer.await)
    }
}

impl WeakEndpointHandle {
    /// The handle, if the endpoint still runs.
    pub(super) fn upgrade(&self) -> Option<EndpointHandle> {
        let queue = self.queue.upgrade().filter(|queue| !queue.is_closed())?;
        Some(EndpointHandle { queue, connected: Arc::clone(&self.connected) })
    }
}

fn outcome(answer: Result<Result<Answer, Failure>, oneshot::error::RecvError>) -> Result<Answer, ScanError> {
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Failure::Silent(reason))) => Err(reason.into()),
        Ok(Err(Failure::Fenced)) => Err(ScanError::Fenced),
        Err(_gone) => Err(ScanError::Stopped),
    }
}

impl Endpoint {
    /// An endpoint, with the connection that a standby held or none, and its first handle.
    pub(super) fn new(
        remote: HostPort,
        connection: Option<Connection>,
        surroundings: Surroundings,
    ) -> (Self, EndpointHandle) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let connected = Arc::new(AtomicBool::new(connection.is_some()));
        let handle = EndpointHandle { queue: sender, connected: Arc::clone(&connected) };
        let (pause, unit_pauses) = (None, HashMap::new());
        (Self { remote, connection, pause, unit_pauses, queue, connected, surroundings }, handle)
    }

    /// Serves requests until cancelled or until no handle is left. Never fails.
    pub(super) async fn run(mut self) -> Result<(), Infallible> {
        let token = self.surroundings.token.clone();
        let serving = async {
            while let Some(job) = self.queue.recv().await {
                self.serve(job).await;
            }
        };
        // Cancelling drops the request in flight; the socket goes with `self`.
        token.run_until_cancelled(serving).await;
        debug!(endpoint = %self.remote, "endpoint closed");
        Ok(())
    }

    async fn serve(&mut self, job: Job) {
        let Job { ask, begun, mut reply } = job;
        if reply.is_closed() {
            return;
        }
        let connection = if let Some(reason) = self.reason_to_wait(ask.unit) {
            Err(Failure::Silent(reason))
        } else if self.surroundings.permit.check_for(ask.operation).is_err() {
            Err(Failure::Fenced)
        } else {
            // Not given up when the caller leaves: its slot may be shorter than connecting takes.
            self.ready_connection(ask.connect).await
        };
        let outcome = match connection {
            Err(failure) => Err(failure),
            // Too late for its slot: nothing may be sent for it any more.
            Ok((connection, _)) if begun.is_some_and(|begun| begun.send(()).is_err()) => {
                self.connection = Some(connection);
                return;
            }
            Ok((connection, was_idle)) => tokio::select! {
                biased;
                // The caller has gone: what is in flight is dropped, and the connection with it.
                () = reply.closed() => {
                    self.connected.store(false, Ordering::Relaxed);
                    return;
                }
                outcome = self.exchange(ask, connection, was_idle) => outcome,
            },
        };
        self.connected.store(self.connection.is_some(), Ordering::Relaxed);
        if let Err(unheard) = reply.send(outcome) {
            debug!(endpoint = %self.remote, unit = ask.unit, ?unheard, "caller left before the answer");
        }
    }

    /// Why neither this unit nor, perhaps, any other is asked at present.
    fn reason_to_wait(&self, unit: u8) -> Option<Silence> {
        let now = Instant::now();
        let pauses = [self.pause.as_ref(), self.unit_pauses.get(&unit)];
        pauses.into_iter().flatten().find(|pause| now < pause.until).map(|pause| pause.reason.clone())
    }

    /// The open connection, or a new one; and whether it is the open one. It is taken out for the time of a request:
    /// if that is abandoned, so is the connection.
    async fn ready_connection(&mut self, cap: Duration) -> Result<(Connection, bool), Failure> {
        match self.connection.take().filter(|connection| !connection.is_stale()) {
            Some(connection) => Ok((connection, true)),
            None => Ok((self.connect(cap).await?, false)),
        }
    }

    async fn exchange(
        &mut self,
        ask: Ask,
        mut connection: Connection,
        was_idle: bool,
    ) -> Result<Answer, Failure> {
        let clock = Arc::clone(&self.surroundings.clock);
        let mut outcome = connection.read(&ask, clock.as_ref()).await;
        if was_idle && is_broken(&outcome) && connection.has_heard_nothing() {
            // The device closed the idle connection while the request was under way: not a failure of the device.
            drop(connection);
            connection = self.connect(ask.connect).await?;
            outcome = connection.read(&ask, clock.as_ref()).await;
        }
        self.account(ask.unit, &outcome, is_broken(&outcome) && connection.has_heard_nothing());
        if outcome.is_ok() {
            self.connection = Some(connection);
        }
        outcome
    }

    /// Connects. If the endpoint is known to be silent, other requests are turned away meanwhile.
    async fn connect(&mut self, cap: Duration) -> Result<Connection, Failure> {
        self.connected.store(false, Ordering::Relaxed);
        let HostPort { host, port } = &self.remote;
        let mut dialling = self.surroundings.dialler.dial(host, *port, cap);
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut dialling => break outcome,
                Some(waiting) = self.queue.recv(), if self.pause.is_some() => {
                    if let Some(pause) = &self.pause {
                        waiting.refuse(pause.reason.clone());
                    }
                }
            }
        };
        match outcome {
            Ok(stream) => {
                debug!(endpoint = %self.remote, "connected");
                self.connected.store(true, Ordering::Relaxed);
                Ok(Connection::new(stream, Arc::clone(&self.surroundings.permit)))
            }
            Err(reason) => {
                debug!(endpoint = %self.remote, %reason, "not connected");
                lengthen(&mut self.pause, reason.clone(), &mut self.surroundings.random);
                Err(Failure::Silent(reason))
            }
        }
    }

    /// Draws the consequences of an exchange for the next ones.
    fn account(&mut self, unit: u8, outcome: &Result<Answer, Failure>, closed_unheard: bool) {
        let random = &mut self.surroundings.random;
        let reason = match outcome {
            Err(Failure::Fenced) => return,
            Err(Failure::Silent(reason)) => reason.clone(),
            Ok(answer) => {
                self.pause = None;
                match answer.data.as_ref().err().map(|exception| verdict(*exception)) {
                    Some(Verdict::UnitDown(code)) => Silence::UnitDown { unit, code },
                    _ => {
                        self.unit_pauses.remove(&unit);
                        return;
                    }
                }
            }
        };
        if closed_unheard {
            // Accepted and closed without a word: whoever listens there serves nobody at present.
            lengthen(&mut self.pause, reason.clone(), random);
        }
        let mut pause = self.unit_pauses.remove(&unit);
        lengthen(&mut pause, reason, random);
        self.unit_pauses.extend(pause.map(|pause| (unit, pause)));
    }
}

impl Job {
    fn refuse(self, reason: Silence) {
        if let Err(unheard) = self.reply.send(Err(Failure::Silent(reason))) {
            debug!(unit = self.ask.unit, ?unheard, "caller left before the refusal");
        }
    }
}

fn is_broken(outcome: &Result<Answer, Failure>) -> bool {
    matches!(outcome, Err(Failure::Silent(Silence::Broken { .. })))
}

fn lengthen(pause: &mut Option<Pause>, reason: Silence, random: &mut Random) {
    let failures = pause.as_ref().map_or(0, |pause| pause.failures);
    let until = Instant::now() + backoff(failures, random);
    *pause = Some(Pause { failures: failures.saturating_add(1), until, reason });
}
