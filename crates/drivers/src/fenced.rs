//! A byte stream that asks for permission each time bytes leave.
//!
//! Owns the question, not the answer: that is the [`Permit`]'s. Knows no protocol.
//! - No call of `poll_write` reaches the stream below without an `Ok` from the permit at that moment, so a frame
//!   built before a pause of the process does not leave after it.
//! - The permit must outlast what remains of the operation that the bytes belong to: nothing is asked whose answer could
//!   come under another's right.
//! - A refusal is an [`io::Error`] that [`is_fenced`] recognises through any library that passes it on.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use model::{Fenced, Permit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// A stream whose writes need a permit.
pub(crate) struct FencedStream<S> {
    inner: S,
    permit: Arc<dyn Permit>,
    facts: Arc<LineFacts>,
}

/// What passed over a [`FencedStream`] since the last [`LineFacts::begin`]; shared with whoever times the exchange.
#[derive(Debug, Default)]
pub(crate) struct LineFacts(Mutex<Facts>);

#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    /// How long what is being asked for may take.
    operation: Duration,
    first_sent: Option<Instant>,
    received: u64,
    ended: bool,
}

impl<S> FencedStream<S> {
    /// Puts the permit in front of the stream.
    pub(crate) fn new(inner: S, permit: Arc<dyn Permit>) -> Self {
        Self { inner, permit, facts: Arc::default() }
    }

    /// What passes over this stream.
    pub(crate) fn facts(&self) -> Arc<LineFacts> {
        Arc::clone(&self.facts)
    }
}

impl LineFacts {
    /// Forgets what passed: an operation begins that ends within `operation` of its first byte.
    pub(crate) fn begin(&self, operation: Duration) {
        self.update(|facts| *facts = Facts { operation, ..Facts::default() });
    }

    /// What remains of the operation.
    fn rest(&self, now: Instant) -> Duration {
        let since = |at: Instant| now.saturating_duration_since(at);
        self.update(|facts| facts.operation.saturating_sub(facts.first_sent.map_or(Duration::ZERO, since)))
    }

    /// When the first byte left.
    pub(crate) fn first_sent(&self) -> Option<Instant> {
        self.update(|facts| facts.first_sent)
    }

    /// Number of bytes that came.
    pub(crate) fn received(&self) -> u64 {
        self.update(|facts| facts.received)
    }

    /// Whether the other side has ended the stream.
    pub(crate) fn has_ended(&self) -> bool {
        self.update(|facts| facts.ended)
    }

    fn update<T>(&self, change: impl FnOnce(&mut Facts) -> T) -> T {
        // Plain numbers cannot be left half changed by a panic.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether an error is a refusal of the permit.
pub(crate) fn is_fenced(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<Fenced>())
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FencedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let asked = Instant::now();
        if let Err(fenced) = self.permit.check_for(self.facts.rest(asked))
            && !runtime::mutant("bytes-leave-without-a-permit")
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::PermissionDenied, fenced)));
        }
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        if written > 0 {
            self.facts.update(|facts| facts.first_sent.get_or_insert(asked).to_owned());
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FencedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let received = buf.filled().len() - before;
        self.facts.update(|facts| {
            facts.received += received as u64;
            facts.ended |= received == 0;
        });
        Poll::Ready(Ok(()))
    }
}

impl<S> fmt::Debug for FencedStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FencedStream").field("facts", &self.facts).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Switch(AtomicBool);

    impl Permit for Switch {
        fn check(&self) -> Result<(), Fenced> {
            if self.0.load(Ordering::SeqCst) { Ok(()) } else { Err(Fenced) }
        }

        fn remaining(&self) -> Duration {
            if self.check().is_ok() { Duration::from_secs(1) } else { Duration::ZERO }
        }

        fn usual_operation(&self) -> Duration {
            Duration::from_secs(1)
        }

        fn held_for(&self) -> Duration {
            Duration::MAX
        }
    }

    #[tokio::test]
    async fn not_one_byte_leaves_without_a_permit() {
        let permit = Arc::new(Switch(AtomicBool::new(false)));
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = FencedStream::new(near, permit.clone());
        let refusal = stream.write_all(b"refused").await.expect_err("there is no permit");
        assert!(is_fenced(&refusal), "{refusal:?}");
        assert_eq!(stream.facts().first_sent(), None);

        permit.0.store(true, Ordering::SeqCst);
        stream.write_all(b"ok").await.expect("there is a permit");
        drop(stream);
        let mut seen = Vec::new();
        far.read_to_end(&mut seen).await.expect("reads from memory");
        assert_eq!(seen, b"ok");
    }

    #[tokio::test]
    async fn nothing_is_begun_that_could_outlast_the_permit() {
        let permit = Arc::new(Switch(AtomicBool::new(true)));
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = FencedStream::new(near, permit);
        stream.facts().begin(Duration::from_millis(1_001));
        let refusal = stream.write_all(b"refused").await.expect_err("the permit lasts a second");
        assert!(is_fenced(&refusal), "{refusal:?}");
        stream.facts().begin(Duration::from_millis(1_000));
        stream.write_all(b"ok").await.expect("it lasts long enough");
        drop(stream);
        let mut seen = Vec::new();
        far.read_to_end(&mut seen).await.expect("reads from memory");
        assert_eq!(seen, b"ok");
    }

    #[tokio::test]
    async fn a_permit_lost_between_two_writes_stops_the_second() {
        let permit = Arc::new(Switch(AtomicBool::new(true)));
        // Two bytes of room: the second half of the frame waits until the far side has read.
        let (near, mut far) = tokio::io::duplex(2);
        let mut stream = FencedStream::new(near, permit.clone());
        let writing = async {
            let outcome = stream.write_all(b"abcd").await;
            drop(stream);
            outcome
        };
        let reading = async {
            let mut rest = Vec::new();
            far.read_exact(&mut [0]).await.expect("the first byte is there");
            permit.0.store(false, Ordering::SeqCst);
            far.read_to_end(&mut rest).await.expect("reads from memory");
            rest
        };
        let (written, rest) = tokio::join!(writing, reading);
        assert!(is_fenced(&written.expect_err("the permit is gone")));
        assert_eq!(rest, b"b", "what had left before");
    }

    #[tokio::test]
    async fn facts_tell_what_passed() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = FencedStream::new(near, Arc::new(Switch(AtomicBool::new(true))));
        let facts = stream.facts();
        stream.write_all(b"question").await.expect("there is a permit");
        assert!(facts.first_sent().is_some());
        far.write_all(b"answer").await.expect("there is room");
        drop(far);
        let mut seen = Vec::new();
        stream.read_to_end(&mut seen).await.expect("reads from memory");
        assert_eq!((facts.received(), facts.has_ended()), (6, true));
        facts.begin(Duration::ZERO);
        assert_eq!((facts.first_sent(), facts.received(), facts.has_ended()), (None, 0, false));
    }
}
