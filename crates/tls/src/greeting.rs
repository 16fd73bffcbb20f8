//! A stream whose far end has spoken first.
//!
//! With TLS 1.3 a client believes that it is let in before the server has seen its certificate. A server of HTTP/2 speaks
//! first, so whoever waits for its first bytes knows, and learns the reason where it was refused.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// Enough for the settings that a server begins with.
const FIRST: usize = 1_024;

/// A stream on which the far end has spoken.
#[derive(Debug)]
pub struct Greeted<IO> {
    io: IO,
    first: Vec<u8>,
    /// Bytes of `first` that were read on.
    taken: usize,
}

/// Waits until the far end speaks. The caller bounds the time.
pub async fn greeted<IO: AsyncRead + Unpin>(mut io: IO) -> io::Result<Greeted<IO>> {
    let mut first = vec![0; FIRST];
    let read = io.read(&mut first).await?;
    if read == 0 {
        let silent = "the far side ended the connection before it said anything";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, silent));
    }
    first.truncate(read);
    Ok(Greeted { io, first, taken: 0 })
}

impl<IO: AsyncRead + Unpin> AsyncRead for Greeted<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let left = &this.first[this.taken..];
        if left.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, into);
        }
        let length = left.len().min(into.remaining());
        into.put_slice(&left[..length]);
        this.taken += length;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Greeted<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn no_byte_of_the_greeting_is_lost() {
        let (mut far, near) = duplex(64);
        far.write_all(b"settings").await.expect("room for it");
        let mut near = greeted(near).await.expect("it spoke");
        far.write_all(b" and more").await.expect("room for it");
        drop(far);
        let mut all = String::new();
        near.read_to_string(&mut all).await.expect("readable");
        assert_eq!(all, "settings and more");
    }

    #[tokio::test]
    async fn silence_is_no_greeting() {
        let (far, near) = duplex(64);
        drop(far);
        assert_eq!(greeted(near).await.expect_err("silence").kind(), io::ErrorKind::UnexpectedEof);
    }
}
