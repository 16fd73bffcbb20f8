//! One exchange on one socket: bounded in time, checked to the last word.
//!
//! - One request is in flight at most.
//! - After any error, time-out or cancellation the connection must be dropped: a late answer could otherwise be taken
//!   for that of the next request. Callers keep a connection only after an `Ok`.
//! - An exception is an `Ok`.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Task, Poll, Waker};
use std::time::Duration;

use model::plant::address::Table;
use model::{Clock, Permit, Timestamp};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, timeout_at};
use tokio_modbus::client::{Client as _, Context, tcp};
use tokio_modbus::slave::SlaveContext as _;
use tokio_modbus::{Error, ExceptionCode, ProtocolError, Request, Response, Slave};

use super::dial::DeviceStream;
use super::endpoint::Ask;
use super::plan::Span;
use crate::driver::Silence;
use crate::fenced::{FencedStream, LineFacts, is_fenced};

/// An open connection that may send while its permit lasts.
pub(super) struct Connection {
    context: Context,
    socket: SharedSocket,
    facts: Arc<LineFacts>,
    permit: Arc<dyn Permit>,
}

/// What a device answered to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// As many values as were asked for, or an exception.
    pub(super) data: Result<Data, ExceptionCode>,
    /// When the first byte of the request left.
    pub(super) sent: Instant,
    /// When the answer was complete.
    pub(super) arrived: Instant,
    /// The wall clock at that moment.
    pub(super) at: Timestamp,
}

/// Values of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    Words(Vec<u16>),
    Bits(Vec<bool>),
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    Silent(Silence),
    Fenced,
}

impl Connection {
    pub(super) fn new(stream: Box<dyn DeviceStream>, permit: Arc<dyn Permit>) -> Self {
        let socket = SharedSocket(Arc::new(Mutex::new(stream)));
        let fenced = FencedStream::new(socket.clone(), Arc::clone(&permit));
        let facts = fenced.facts();
        // The unit id is set before each request; the library's default would be 255.
        Self { context: tcp::attach(fenced), socket, facts, permit }
    }

    /// Whether the device has closed the connection meanwhile, or has said something that nobody asked for.
    pub(super) fn is_stale(&self) -> bool {
        let mut byte = [0];
        // Nobody waits for it: whoever reads next says anew that they do. And it is asked what has come, whatever this task
        // has done before it lets others have their turn.
        let mut nobody = Task::from_waker(Waker::noop());
        let looked = poll_fn(|task| {
            Pin::new(&mut **self.socket.stream()).poll_read(task, &mut ReadBuf::new(&mut byte))
        });
        pin!(unconstrained(looked)).poll(&mut nobody).is_ready()
    }

    /// Whether nothing at all came back since the last request was begun.
    pub(super) fn has_heard_nothing(&self) -> bool {
        self.facts.received() == 0
    }

    /// Reads `span` from `unit` within its cap, and not beyond the end of the permit. Sends nothing if the permit could
    /// end before the operation does.
    pub(super) async fn read(&mut self, ask: &Ask, clock: &dyn Clock) -> Result<Answer, Failure> {
        let Ask { unit, span, cap, operation, connect } = *ask;
        self.facts.begin(operation);
        self.context.set_slave(Slave(unit));
        let call = self.context.call(request_for(span));
        let result = match within(cap, self.permit.as_ref(), call).await {
            Ok(result) => result,
            Err(Expired::Lease) => return Err(Failure::Fenced),
            Err(Expired::Cap) => {
                // Connecting has the whole timeout of the device; an answer may have less.
                let of = (connect > cap).then_some(connect);
                return Err(Failure::Silent(Silence::NoAnswer { after: cap, of }));
            }
        };
        let (arrived, at) = (Instant::now(), clock.now());
        let data = match result {
            Ok(Ok(response)) => Ok(check(span, response).map_err(Failure::Silent)?),
            Ok(Err(exception)) => Err(exception),
            Err(error) => return Err(self.failure(error)),
        };
        Ok(Answer { data, sent: self.facts.first_sent().unwrap_or(arrived), arrived, at })
    }

    fn failure(&self, error: Error) -> Failure {
        match error {
            Error::Transport(error) if is_fenced(&error) => Failure::Fenced,
            Error::Transport(error)
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) =>
            {
                malformed(error)
            }
            // At the end of the stream the library reports whatever `errno` happens to hold.
            Error::Transport(_) if self.facts.has_ended() => {
                Failure::Silent(Silence::Broken { reason: "closed by the device".to_owned() })
            }
            // An answer that ends before its own length says so.
            Error::Transport(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                malformed("it is too short")
            }
            Error::Transport(error) => Failure::Silent(Silence::Broken { reason: error.to_string() }),
            Error::Protocol(ProtocolError::HeaderMismatch { message, .. }) => {
                malformed(format!("transaction or unit id differ: {message}"))
            }
            Error::Protocol(ProtocolError::FunctionCodeMismatch { request, result }) => {
                let found = match result {
                    Ok(response) => response.function_code(),
                    Err(exception) => exception.function,
                };
                malformed(format!("expected function {request}, found {found}"))
            }
        }
    }
}

fn malformed(reason: impl ToString) -> Failure {
    Failure::Silent(Silence::Malformed { reason: reason.to_string() })
}

fn request_for(span: Span) -> Request<'static> {
    match span.table {
        Table::Coil => Request::ReadCoils(span.start, span.count),
        Table::Discrete => Request::ReadDiscreteInputs(span.start, span.count),
        Table::Input => Request::ReadInputRegisters(span.start, span.count),
        Table::Holding => Request::ReadHoldingRegisters(span.start, span.count),
    }
}

/// Takes the values out of a response whose length is right. Bits come in whole bytes; the padding is cut off.
fn check(span: Span, response: Response) -> Result<Data, Silence> {
    let asked = usize::from(span.count);
    let (found, unit, data) = match (span.table, response) {
        (Table::Holding, Response::ReadHoldingRegisters(words))
        | (Table::Input, Response::ReadInputRegisters(words)) => {
            (words.len(), "registers", Data::Words(words))
        }
        (Table::Coil, Response::ReadCoils(mut bits))
        | (Table::Discrete, Response::ReadDiscreteInputs(mut bits)) => {
            let found = if bits.len() == asked.next_multiple_of(8) { asked } else { bits.len() };
            bits.truncate(asked);
            (found, "bits", Data::Bits(bits))
        }
        (_, other) => {
            return Err(Silence::Malformed {
                reason: format!("unexpected function {}", other.function_code()),
            });
        }
    };
    if found != asked {
        return Err(Silence::Malformed { reason: format!("expected {asked} {unit}, found {found}") });
    }
    Ok(data)
}

/// Which bound a call ran into.
#[derive(Debug, PartialEq, Eq)]
enum Expired {
    Cap,
    Lease,
}

/// Waits for `call` until `cap` has passed or the permit has ended; a permit renewed meanwhile counts.
async fn within<F: Future>(cap: Duration, permit: &dyn Permit, call: F) -> Result<F::Output, Expired> {
    let end = Instant::now() + cap;
    let mut call = pin!(call);
    loop {
        let now = Instant::now();
        let lease_end = now.checked_add(permit.remaining()).unwrap_or(end);
        if let Ok(output) = timeout_at(end.min(lease_end), &mut call).await {
            return Ok(output);
        }
        if permit.remaining().is_zero() {
            return Err(Expired::Lease);
        }
        if Instant::now() >= end {
            return Err(Expired::Cap);
        }
    }
}

/// A socket that both the protocol library and [`Connection::is_stale`] read from, never at the same time. Locked for one
/// step of either, never while waiting.
#[derive(Clone)]
struct SharedSocket(Arc<Mutex<Box<dyn DeviceStream>>>);

impl SharedSocket {
    fn stream(&self) -> MutexGuard<'_, Box<dyn DeviceStream>> {
        // A panic half-way through a step ends the node.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for SharedSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Task<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.stream()).poll_read(cx, buf)
    }
}

impl AsyncWrite for SharedSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut **self.stream()).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.stream()).poll_flush(cx)
    }

    /// Connections end by being dropped, which resets them.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Task<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for SharedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stream().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use model::Fenced;

    use super::*;

    /// A permit of so many milliseconds, renewed so many times.
    struct Lease {
        end: Instant,
        renewals: AtomicU64,
    }

    impl Permit for Lease {
        fn check(&self) -> Result<(), Fenced> {
            if self.remaining().is_zero() { Err(Fenced) } else { Ok(()) }
        }

        fn remaining(&self) -> Duration {
            let renewals = self.renewals.load(Ordering::SeqCst);
            (self.end + Duration::from_millis(100) * renewals as u32)
                .saturating_duration_since(Instant::now())
        }

        fn usual_operation(&self) -> Duration {
            Duration::from_millis(150)
        }

        fn held_for(&self) -> Duration {
            Duration::MAX
        }
    }

    fn lease(millis: u64) -> Lease {
        Lease { end: Instant::now() + Duration::from_millis(millis), renewals: AtomicU64::new(0) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_at_the_earlier_of_cap_and_lease() {
        let began = Instant::now();
        let never = std::future::pending::<()>;
        assert_eq!(within(Duration::from_millis(50), &lease(500), never()).await, Err(Expired::Cap));
        assert_eq!(began.elapsed().as_millis(), 50);
        assert_eq!(within(Duration::from_millis(500), &lease(50), never()).await, Err(Expired::Lease));
        assert_eq!(began.elapsed().as_millis(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_lease_lets_a_call_go_on_to_its_cap() {
        let lease = lease(30);
        let call = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            lease.renewals.store(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(60)).await;
        };
        assert_eq!(within(Duration::from_millis(100), &lease, call).await, Ok(()));
        let never = std::future::pending::<()>;
        assert_eq!(within(Duration::from_millis(40), &lease, never()).await, Err(Expired::Cap));
    }

    #[test]
    fn a_response_must_hold_exactly_what_was_asked_for() {
        let words = |count| Response::ReadHoldingRegisters(vec![0; count]);
        let span = Span { table: Table::Holding, start: 0, count: 3 };
        assert_eq!(check(span, words(3)), Ok(Data::Words(vec![0; 3])));
        for count in [0, 2, 4] {
            assert!(matches!(check(span, words(count)), Err(Silence::Malformed { .. })), "{count} words");
        }
        assert!(check(span, Response::ReadInputRegisters(vec![0; 3])).is_err());

        let span = Span { table: Table::Coil, start: 0, count: 9 };
        assert_eq!(check(span, Response::ReadCoils(vec![true; 16])), Ok(Data::Bits(vec![true; 9])));
        for count in [8, 24] {
            assert!(check(span, Response::ReadCoils(vec![true; count])).is_err(), "{count} bits");
        }
    }
}
