//! Connections that end, all of them, when their receiver goes down.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Every bit of an answer that is rubbish is another where this has one.
const NOISE: u8 = 0x5A;

/// What becomes of answers on their way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Speech {
    /// They go out as they are.
    #[default]
    Plain,
    /// Other bytes go out.
    Rubbish,
    /// The connection ends instead.
    Broken,
}

/// A listener whose connections know when to end.
#[derive(Debug)]
pub(super) struct Listener {
    listener: TcpListener,
    closing: CancellationToken,
    speech: watch::Receiver<Speech>,
}

impl Listener {
    pub(super) fn new(
        listener: TcpListener,
        closing: CancellationToken,
        speech: watch::Receiver<Speech>,
    ) -> Self {
        Self { listener, closing, speech }
    }
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "answers may be slow");
        }
        (
            Connection {
                stream,
                closing: Box::pin(self.closing.clone().cancelled_owned()),
                speech: self.speech.clone(),
                is_closed: false,
            },
            address,
        )
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails once its receiver goes down.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    speech: watch::Receiver<Speech>,
    is_closed: bool,
}

impl Connection {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if !self.is_closed {
            self.is_closed = self.closing.as_mut().poll(context).is_ready();
        }
        if self.is_closed { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let speech = *self.speech.borrow();
        match speech {
            Speech::Plain => Pin::new(&mut self.stream).poll_write(context, bytes),
            Speech::Rubbish => {
                let rubbish: Vec<u8> = bytes.iter().map(|byte| byte ^ NOISE).collect();
                Pin::new(&mut self.stream).poll_write(context, &rubbish)
            }
            Speech::Broken => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
