//! Three processes of another system, and what its client has seen.
//!
//! - They have folders and loopback ports of their own, and end with this value, whatever happens. Each names a file
//!   below its folder on its command line, by which also a panic finds it.
//! - Every wait is for a condition and has a deadline; a process that ends by itself ends the wait.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use simulator::nodes::layout::{Layout, NodePlan};
use simulator::pusher::Latencies;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::machine::said;
use crate::push::Progress;
use crate::world::{self, Bench};

/// Where systems keep servers, which is not in everybody's PATH.
const SERVERS: [&str; 2] = ["/usr/local/sbin", "/usr/sbin"];
/// Three nodes that find each other, on a slow machine.
const STARTING: Duration = Duration::from_secs(60);
const TRY_EVERY: Duration = Duration::from_millis(50);
/// How long one question to a node may take.
pub(super) const ASKING: Duration = Duration::from_secs(2);
/// The kernel ends a killed process at once.
const KILLED: Duration = Duration::from_secs(5);
const LAST_WORDS: usize = 8;

/// Three processes.
pub(super) struct Rival {
    /// Where they are: clients are served at `api`.
    pub(super) nodes: Vec<NodePlan>,
    folder: PathBuf,
    processes: Vec<tokio::sync::Mutex<Child>>,
}

impl Rival {
    /// Starts them in a new folder; `command` says how each of them is called.
    pub(super) fn start(
        bench: &Bench,
        name: &str,
        command: impl Fn(&[NodePlan], &NodePlan) -> anyhow::Result<Command>,
    ) -> anyhow::Result<Self> {
        let folder = bench.subfolder(name)?;
        let nodes = Layout::apart(&folder, name)?.nodes;
        let mut processes = Vec::new();
        for node in &nodes {
            let log = File::create(&node.log)?;
            let mut command = command(&nodes, node)?;
            // Whatever the surroundings say to such servers.
            command.env_clear().stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            let child = command.process_group(0).kill_on_drop(true).spawn();
            processes.push(tokio::sync::Mutex::new(child.with_context(|| format!("{name} does not start"))?));
        }
        Ok(Self { nodes, folder, processes })
    }

    /// Asks again and again until there is an answer.
    pub(super) async fn until<T, F>(&self, what: &str, ask: impl Fn() -> F) -> anyhow::Result<T>
    where
        F: Future<Output = Option<T>>,
    {
        let deadline = Instant::now() + STARTING;
        loop {
            if let Some(answer) = timeout(ASKING, ask()).await.ok().flatten() {
                return Ok(answer);
            }
            self.check_all_run()?;
            ensure!(
                Instant::now() < deadline,
                "waited {} s in vain for {what}; a node's last words:\n{}",
                STARTING.as_secs(),
                last_words(&self.nodes[0].log)
            );
            sleep(TRY_EVERY).await;
        }
    }

    fn check_all_run(&self) -> anyhow::Result<()> {
        for (process, node) in self.processes.iter().zip(&self.nodes) {
            let Ok(mut process) = process.try_lock() else { continue };
            if let Some(status) = process.try_wait()? {
                bail!("{} ended ({status}); its last words:\n{}", node.name, last_words(&node.log));
            }
        }
        Ok(())
    }

    /// `kill -9`.
    pub(super) async fn kill(&self, node: usize) -> anyhow::Result<()> {
        let mut process = self.processes[node].lock().await;
        process.start_kill()?;
        timeout(KILLED, process.wait()).await.context("a killed process goes on")??;
        Ok(())
    }

    /// Kills them and removes what they have written.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        for node in 0..self.processes.len() {
            self.kill(node).await?;
        }
        world::remove(&self.folder)
    }
}

/// A program that must be installed.
pub(super) fn find(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SERVERS.map(PathBuf::from));
    folders
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("{name} is missing: `make race` installs it"))
}

/// What a program says of itself in one line.
pub(super) fn version(name: &str) -> anyhow::Result<String> {
    let text = said(std::process::Command::new(find(name)?).arg("--version"));
    let line = text.as_deref().and_then(|text| text.lines().next()).map(str::to_owned);
    line.with_context(|| format!("{name} does not say its version"))
}

pub(super) fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
}

/// What a client of another system has seen.
#[derive(Debug, Default)]
pub(super) struct Tally {
    acknowledged: AtomicU64,
    latencies: Mutex<Latencies>,
}

impl Tally {
    /// Notes an acknowledgement.
    pub(super) fn acknowledge(&self, latency: Duration) {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).record(latency);
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

impl Progress for Tally {
    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    fn take_latencies(&self) -> Latencies {
        std::mem::take(&mut *self.latencies.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
