//! What a subject measures in: three real node processes on this machine's disk, and what every subject asks of them.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use simulator::nodes::layout::{Layout, NODES};
use simulator::nodes::{Nodes, NodesConfig, WaitError};
use simulator::receiver::{Counts, Receiver};
use tokio::time::Instant;

use crate::process::{self, Usage};
use crate::seen::Seen;

/// Three nodes that find each other, on a slow machine.
const FOUNDING: Duration = Duration::from_secs(60);

/// Where nodes are that dial each other.
const HOSTS: [IpAddr; NODES] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 31)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 32)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 33)),
];

/// A run of this program.
#[derive(Debug, Clone)]
pub(crate) struct Bench {
    /// The program to measure.
    pub(crate) program: PathBuf,
    /// Where everything is written.
    pub(crate) folder: PathBuf,
    /// Whether short runs are asked for.
    pub(crate) quick: bool,
    began: Instant,
}

impl Bench {
    /// A run that begins now.
    pub(crate) fn new(program: PathBuf, folder: PathBuf, quick: bool) -> Self {
        Self { program, folder, quick, began: Instant::now() }
    }

    /// What was asked for, or one of two usual values.
    pub(crate) fn or_usual<T>(&self, asked: Option<T>, full: T, quick: T) -> T {
        asked.unwrap_or(if self.quick { quick } else { full })
    }

    /// Tells how it goes.
    pub(crate) fn say(&self, text: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        for line in text.lines() {
            eprintln!("{seconds:8.1}  {line}");
        }
    }

    /// A new folder for one part of the run.
    pub(crate) fn subfolder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

/// Three nodes.
pub(crate) struct World {
    /// The nodes.
    pub(crate) nodes: Nodes,
    folder: PathBuf,
}

/// How long reading every device for the first time may take: there may be hundreds.
const FIRST_READS: Duration = Duration::from_secs(120);
/// How long delivering the last answers that are measured may take.
const LAST_ANSWERS: Duration = Duration::from_secs(30);

impl World {
    /// Starts three nodes in a new folder and waits until they agree on a leader. They are asked how they are so often.
    pub(crate) async fn start(bench: &Bench, name: &str, look_every: Duration) -> anyhow::Result<Self> {
        let folder = bench.subfolder(name)?;
        let layout = Layout::plan(&folder, "bench")?;
        Self::run(bench, folder, layout, look_every).await
    }

    /// The same with nodes that dial each other: where they stand beside other systems, whose nodes have no relay between
    /// them either, which costs processor time.
    pub(crate) async fn start_without_relay(
        bench: &Bench,
        name: &str,
        look_every: Duration,
    ) -> anyhow::Result<Self> {
        let folder = bench.subfolder(name)?;
        let layout = Layout::on_hosts(&folder, "bench", &HOSTS);
        Self::run(bench, folder, layout, look_every).await
    }

    async fn run(
        bench: &Bench,
        folder: PathBuf,
        layout: Layout,
        look_every: Duration,
    ) -> anyhow::Result<Self> {
        let saying = bench.clone();
        let say = Arc::new(move |text: &str| saying.say(text));
        let config = NodesConfig { program: bench.program.clone(), look_every, say };
        let nodes = Nodes::start(layout, config).await?;
        nodes.agreed(FOUNDING).await.context("the nodes do not agree on a leader")?;
        Ok(Self { nodes, folder })
    }

    /// Waits until `reads` says that every device has been read.
    pub(crate) async fn until_all_read(
        &self,
        reads: impl Fn() -> anyhow::Result<usize>,
    ) -> anyhow::Result<usize> {
        let looking = self.nodes.until("every device to be read", FIRST_READS, || match reads() {
            Ok(0) => None,
            other => Some(other),
        });
        looking.await?
    }

    /// Waits until everything has arrived that devices answered before a moment, or will not: delivery is in order, so
    /// until an answer of each device has arrived that left later. In vain, what has not arrived counts as lost. What the
    /// receiver has counted then.
    pub(crate) async fn settled(
        &self,
        seen: &Seen,
        receiver: &Receiver,
        devices: usize,
        until_ns: u64,
    ) -> anyhow::Result<Counts> {
        let have_arrived = || match seen.look() {
            Ok(story) => story.has_each_arrived(devices, until_ns).then_some(Ok(())),
            Err(error) => Some(Err(error)),
        };
        match self.nodes.until("what was answered to arrive", LAST_ANSWERS, have_arrived).await {
            Ok(looked) => looked?,
            Err(WaitError::InVain { .. }) => {}
            Err(casualty) => return Err(casualty.into()),
        }
        // It counts whole requests: what stood beside the last answer, a gap record perhaps, has been seen, too.
        Ok(receiver.counts())
    }

    /// Applies a plant document.
    pub(crate) async fn apply(&self, document: &str) -> anyhow::Result<()> {
        self.nodes.cluster.apply(document).await.context("the plant document was refused")
    }

    /// The term in which all nodes agree on a leader, once they do.
    pub(crate) async fn term(&self) -> anyhow::Result<u64> {
        Ok(self.nodes.agreed(FOUNDING).await?.term)
    }

    /// The index of the leader, once all agree on it.
    pub(crate) async fn leader(&self) -> anyhow::Result<usize> {
        let leader = self.nodes.agreed(FOUNDING).await?;
        self.nodes.layout.index_of(&leader.name).with_context(|| format!("{} is none of ours", leader.name))
    }

    /// What each node's process has used.
    pub(crate) async fn usage(&self) -> anyhow::Result<Vec<Usage>> {
        let mut all = Vec::new();
        for node in 0..NODES {
            let id = self.nodes.process(node).await.id().context("a node does not run")?;
            all.push(process::usage(id)?);
        }
        Ok(all)
    }

    /// Bytes on disk of each node.
    pub(crate) fn disk(&self) -> Vec<u64> {
        self.nodes.layout.nodes.iter().map(|node| process::disk_usage(&node.data)).collect()
    }

    /// Stops the nodes and removes their folder.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        self.nodes.stop().await;
        remove(&self.folder)
    }
}

/// Removes everything in a folder, trying again for a while if something is still being written there.
pub(crate) fn clear(folder: &Path) {
    const TRIES: u32 = 100;
    for tried in 1..=TRIES {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        let remove = |path: &Path| match path.is_dir() {
            true => std::fs::remove_dir_all(path),
            false => std::fs::remove_file(path),
        };
        let mut failed = entries.flatten().filter_map(|entry| remove(&entry.path()).err()).peekable();
        match failed.peek() {
            None => return,
            Some(error) if tried == TRIES => eprintln!("{}: {error}", folder.display()),
            Some(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Removes what a part of the run has written.
pub(crate) fn remove(folder: &Path) -> anyhow::Result<()> {
    std::fs::remove_dir_all(folder).with_context(|| folder.display().to_string())
}
