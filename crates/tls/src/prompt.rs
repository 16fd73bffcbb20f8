//! A stream whose far end must begin to speak in time.
//!
//! - Until the preface of HTTP/2 has arrived, reading fails once the time is over; afterwards this is only a stream.
//! - So that a connection on which nothing is ever said does not live for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Bytes of the preface (RFC 9113, section 3.4).
const PREFACE: usize = 24;

/// A stream with a time limit for its first bytes.
#[derive(Debug)]
pub struct Prompt<IO> {
    io: IO,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    missing: usize,
    until: Pin<Box<Sleep>>,
}

impl<IO> Prompt<IO> {
    /// `io`, whose far end has `limit` for the preface of HTTP/2.
    pub fn new(io: IO, limit: Duration) -> Self {
        Self { io, waiting: Some(Waiting { missing: PREFACE, until: Box::pin(sleep(limit)) }) }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Prompt<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, into);
        let Some(waiting) = &mut this.waiting else { return read };
        waiting.missing = waiting.missing.saturating_sub(into.filled().len() - before);
        if waiting.missing == 0 {
            this.waiting = None;
            return read;
        }
        match waiting.until.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the far side was let in and said nothing",
            ))),
            Poll::Pending => read,
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Prompt<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn whoever_says_too_little_is_cut_off() {
        let (mut far, near) = duplex(64);
        let mut near = Prompt::new(near, LIMIT);
        far.write_all(&[0; PREFACE - 1]).await.expect("room for it");
        let mut bytes = [0; 64];
        assert_eq!(near.read(&mut bytes).await.expect("in time"), PREFACE - 1);
        let error = near.read(&mut bytes).await.expect_err("nothing more comes");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_began_in_time_may_be_silent_afterwards() {
        let (mut far, near) = duplex(64);
        let mut near = Prompt::new(near, LIMIT);
        far.write_all(&[0; PREFACE]).await.expect("room for it");
        let mut bytes = [0; 64];
        assert_eq!(near.read(&mut bytes).await.expect("in time"), PREFACE);
        tokio::time::sleep(LIMIT * 10).await;
        far.write_all(&[1]).await.expect("room for it");
        assert_eq!(near.read(&mut bytes).await.expect("no limit any more"), 1);
    }
}
