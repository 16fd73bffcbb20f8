//! `holdfast health`: asks the health listener of a node on this machine, for health checks of containers.
//!
//! - It needs no certificate and no node file: the listener says nothing that is secret.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the listener may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Much more than it says.
const MAX_ANSWER: u64 = 64 << 10;

/// Ask the health listener of a node on this machine.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Ask the health listener of a node on this machine. The exit code is 0 if the node is alive, with \
    --ready if it belongs to a cluster with a majority.\n\nExample:\n  holdfast health --ready"
)]
pub(crate) struct HealthArgs {
    /// Whether it belongs to a cluster with a majority, too.
    #[arg(long)]
    ready: bool,
    /// Where the node's health listener is.
    #[arg(long, value_name = "IP:PORT", env = "HOLDFAST_LISTEN_HEALTH", default_value = "127.0.0.1:7612")]
    listener: SocketAddr,
}

/// Asks, to an exit code.
pub(crate) async fn run(args: HealthArgs) -> anyhow::Result<ExitCode> {
    let HealthArgs { ready, listener } = args;
    let path = if ready { "/readyz" } else { "/healthz" };
    let answer = timeout(PATIENCE, ask(listener, path)).await;
    let answer = answer.with_context(|| format!("{listener} does not answer"))?;
    let answer = answer.with_context(|| format!("{listener} is not reached"))?;
    let (head, body) =
        answer.split_once("\r\n\r\n").with_context(|| format!("{listener} does not speak HTTP"))?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{}", body.trim());
    }
    io::stdout().write_all(body.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(listener: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(listener).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {listener}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn asked(answer: &'static str) -> anyhow::Result<ExitCode> {
        let node = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let listener = node.local_addr().expect("bound");
        let answering = async {
            let (mut stream, _) = node.accept().await.expect("a caller");
            let mut request = [0; 14];
            stream.read_exact(&mut request).await.expect("a request");
            assert_eq!(&request, b"GET /readyz HT");
            stream.write_all(answer.as_bytes()).await.expect("it is read");
            stream.shutdown().await.expect("it is open");
            // Closed with something unread, it would be reset.
            stream.read_to_end(&mut Vec::new()).await.expect("the rest");
        };
        let (said, ()) = tokio::join!(run(HealthArgs { ready: true, listener }), answering);
        said
    }

    #[tokio::test]
    async fn what_the_listener_says_decides() {
        assert!(asked("HTTP/1.1 200 OK\r\n\r\nready\n").await.is_ok());
        let unwell = asked("HTTP/1.1 503 Service Unavailable\r\n\r\nno majority\n").await;
        assert_eq!(unwell.expect_err("it is not ready").to_string(), "no majority");
        assert!(asked("220 mail\r\n").await.is_err());
    }
}
