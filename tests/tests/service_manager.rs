//! What a service manager hears of a real node: ready while it waits for the others, who leads, signs of life, the end.

use anyhow::{Context, Result};
use holdfast_tests::SOON;
use holdfast_tests::cluster::Cluster;
use tokio::net::UnixDatagram;
use tokio::time::{Instant, timeout_at};

/// Hears what a node tells, as systemd does.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    /// Waits for a line that satisfies a condition; lines before it are not asked about again.
    async fn hears(&mut self, what: &str, is_it: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(at) = self.heard.iter().position(|line| is_it(line)) {
                return self.heard.drain(..=at).next_back().context("a line");
            }
            let mut message = vec![0; 4096];
            let read = timeout_at(deadline, self.socket.recv(&mut message)).await;
            let read = read.with_context(|| format!("expected {what}, heard last {:?}", self.heard))??;
            self.heard.extend(String::from_utf8_lossy(&message[..read]).lines().map(str::to_owned));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_hears_what_a_node_waits_for_who_leads_that_it_lives_and_that_it_stops()
-> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("notify");
    let mut manager = Manager { socket: UnixDatagram::bind(&path)?, heard: Vec::new() };
    let cluster = Cluster::begin_with(async |layout| {
        let told = [("NOTIFY_SOCKET", path.display().to_string()), ("WATCHDOG_USEC", "2000000".to_owned())];
        layout.nodes[0].variables.extend(told.map(|(name, value)| (name.to_owned(), value)));
        layout.nodes[1].waits = true;
        layout.nodes[2].waits = true;
        Ok(())
    })
    .await?;
    manager.hears("that it is ready while it waits", |line| line == "READY=1").await?;
    manager.hears("what it waits for", |line| line.starts_with("STATUS=HF-3109")).await?;
    manager.hears("that it lives while it waits", |line| line == "WATCHDOG=1").await?;

    cluster.run(1).await?;
    cluster.run(2).await?;
    let is_leading =
        |line: &str| line.starts_with("STATUS=leads") || line.starts_with("STATUS=follows node-");
    manager.hears("who leads", is_leading).await?;
    for _ in 0..2 {
        manager.hears("that Raft's core answers", |line| line == "WATCHDOG=1").await?;
    }

    let (stopped, heard) =
        tokio::join!(cluster.stop_node(0), manager.hears("that it stops", |line| line == "STOPPING=1"));
    heard?;
    stopped
}
