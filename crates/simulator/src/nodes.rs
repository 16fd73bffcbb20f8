//! Real node processes on this machine: started, watched, broken, and waited for.
//!
//! - One task watches the nodes; what it sees steers a run, and is no part of any judgement.
//! - Every wait is for a condition and has a deadline; a node that ends by itself ends the wait.
//! - Processes end with this value, whatever happens.

pub mod cluster;
pub mod folder;
pub mod layout;
pub mod process;
pub mod relay;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use cluster::{Cluster, Leader, View};
use layout::Layout;
use process::{Lives, Process};
use relay::Relay;

use crate::history::monotonic_ns;

/// How often a condition is tried.
const TRY_EVERY: Duration = Duration::from_millis(20);
/// Lines of a log that are shown when a node ends by itself.
const LAST_WORDS: usize = 8;

/// Is told what happens, a sentence or several lines at a time.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// How nodes are run.
#[derive(Clone)]
pub struct NodesConfig {
    /// The program whose `node` command is run.
    pub program: PathBuf,
    /// How often the nodes are asked how they are.
    pub look_every: Duration,
    /// Where to say what happens.
    pub say: Say,
}

/// Nodes that run, or could.
pub struct Nodes {
    /// Where they are.
    pub layout: Layout,
    /// Their API.
    pub cluster: Cluster,
    /// The wires between them; none, if they are on hosts of their own.
    pub relay: Relay,
    processes: Arc<Vec<tokio::sync::Mutex<Process>>>,
    view: watch::Receiver<View>,
    lives: Vec<Lives>,
    /// Nodes that ended by themselves, with their last words.
    casualties: Arc<Mutex<Vec<String>>>,
    watching: JoinSet<()>,
    program: PathBuf,
    say: Say,
}

/// Why nodes do not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The relay between them has no ports.
    #[error("the relay between the nodes does not start: {0}")]
    Relay(#[source] io::Error),
    /// A node file cannot be written, or the program not be run.
    #[error("{name} does not start: {source}")]
    Node {
        /// Which.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// An address is none.
    #[error("the API of the nodes has no usable address: {0}")]
    Address(#[from] tonic::transport::Error),
}

/// Why a wait ended without what was waited for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// A node ended by itself.
    #[error("{0}")]
    Casualty(String),
    /// It did not come.
    #[error("waited {} s in vain for {what}; seen last: {seen}", limit.as_secs())]
    InVain {
        /// What was waited for.
        what: String,
        /// For how long.
        limit: Duration,
        /// What the nodes said at the end.
        seen: String,
    },
}

impl Nodes {
    /// Writes the node files that are not there yet, and starts the nodes that do not wait.
    pub async fn start(layout: Layout, config: NodesConfig) -> Result<Self, StartError> {
        let peers: Vec<_> = layout.nodes.iter().filter(|_| layout.has_relay).map(|node| node.peers).collect();
        let relay = Relay::start(&peers).await.map_err(StartError::Relay)?;
        let (mut processes, mut lives) = (Vec::new(), Vec::new());
        for (index, node) in layout.nodes.iter().enumerate() {
            let failed = |source| StartError::Node { name: node.name.clone(), source };
            if !node.file.exists() {
                std::fs::write(&node.file, layout.node_file(index, &relay)).map_err(failed)?;
            }
            let mut process = Process::new(node.clone(), config.program.clone());
            if !node.waits {
                process.start().map_err(failed)?;
            }
            lives.push(process.lives());
            processes.push(tokio::sync::Mutex::new(process));
        }
        let cluster = Cluster::new(&layout)?;
        let processes = Arc::new(processes);
        let casualties = Arc::<Mutex<Vec<String>>>::default();
        let (seen, view) = watch::channel(View::default());
        let mut watching = JoinSet::new();
        let watcher = Watcher {
            lives: lives.clone(),
            names: layout.nodes.iter().map(|node| node.name.clone()).collect(),
            cluster: cluster.clone(),
            processes: Arc::clone(&processes),
            casualties: Arc::clone(&casualties),
            say: Arc::clone(&config.say),
        };
        watching.spawn(watcher.run(config.look_every, seen));
        let NodesConfig { program, say, .. } = config;
        Ok(Self { layout, cluster, relay, processes, view, lives, casualties, watching, program, say })
    }

    /// The program that the nodes run.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Says what happens.
    pub fn say(&self, text: &str) {
        (self.say)(text);
    }

    /// What the nodes said last.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// What the nodes say, as they are asked: every look replaces the one before.
    pub fn views(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// The lives of each node's process.
    pub fn lives(&self) -> &[Lives] {
        &self.lives
    }

    /// The process of a node.
    pub async fn process(&self, index: usize) -> tokio::sync::MutexGuard<'_, Process> {
        self.processes[index].lock().await
    }

    /// In a word, how each node's process is.
    pub fn process_states(&self) -> Vec<&'static str> {
        let state = |process: &tokio::sync::Mutex<Process>| match process.try_lock() {
            Ok(process) if process.is_paused() => "paused",
            Ok(process) if process.is_running() => "running",
            Ok(_) => "dead",
            Err(_) => "changing",
        };
        self.processes.iter().map(state).collect()
    }

    /// Starts the process of a node.
    pub async fn run(&self, index: usize) -> io::Result<()> {
        self.process(index).await.start()
    }

    /// `kill -9`; how it ended, as [`Process::kill`] says it.
    pub async fn kill(&self, index: usize) -> io::Result<Option<ExitStatus>> {
        self.process(index).await.kill().await
    }

    /// Lets a node stand still (`SIGSTOP`).
    pub async fn pause(&self, index: usize) -> io::Result<()> {
        self.process(index).await.pause(true)
    }

    /// Lets a node go on (`SIGCONT`), or starts it again if its own timer ended it while it stood still; whether it went
    /// on.
    pub async fn resume(&self, index: usize) -> io::Result<bool> {
        let mut process = self.process(index).await;
        process.comes_to_rest().await?;
        process.pause(false)?;
        let was_ended = process.ended_by_timer();
        if was_ended {
            process.start()?;
        }
        Ok(!was_ended)
    }

    /// Cuts everything between a node and its peers; nothing, where no relay runs between them.
    pub fn cut(&self, index: usize) {
        self.relay.set_all_of(index, false);
    }

    /// Mends everything between a node and its peers.
    pub fn mend(&self, index: usize) {
        self.relay.set_all_of(index, true);
    }

    /// Waits until all nodes that run answer, agree on a leader, reach each other and are caught up.
    pub async fn agreed(&self, limit: Duration) -> Result<Leader, WaitError> {
        self.until_seen("all nodes that run to answer and agree on a leader", limit, View::agreed).await
    }

    /// Waits until a node says that it leads, whatever the others say.
    pub async fn leads(&self, limit: Duration) -> Result<Leader, WaitError> {
        self.until_seen("a leader", limit, View::leader).await
    }

    /// Waits until what the nodes say satisfies a condition; what they were asked before this call does not count.
    pub async fn until_seen<T>(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&View) -> Option<T>,
    ) -> Result<T, WaitError> {
        let called = Instant::now();
        self.until(what, limit, || {
            let view = self.view.borrow();
            view.asked.filter(|asked| *asked >= called).and_then(|_| condition(&view))
        })
        .await
    }

    /// Tries a condition until it holds.
    pub async fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = condition() {
                return Ok(found);
            }
            if let Some(casualty) = self.casualty() {
                return Err(WaitError::Casualty(casualty));
            }
            if Instant::now() >= deadline {
                let seen = self.view.borrow().to_string();
                return Err(WaitError::InVain { what: what.to_owned(), limit, seen });
            }
            sleep(TRY_EVERY).await;
        }
    }

    /// The first node that ended by itself, and what it said.
    pub fn casualty(&self) -> Option<String> {
        self.casualties.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }

    /// Ceases to watch, and stops all nodes at once: nothing is left to hand over to.
    pub async fn stop(&mut self) {
        self.watching.shutdown().await;
        let stopping = self.processes.iter().map(|process| async { process.lock().await.stop().await });
        for (stopped, node) in join_all(stopping).await.into_iter().zip(&self.layout.nodes) {
            match stopped {
                Ok(true) => {}
                Ok(false) => {
                    (self.say)(&format!("{} waited for peers that are gone, and was killed", node.name))
                }
                Err(error) => (self.say)(&format!("{} could not be stopped: {error}", node.name)),
            }
        }
    }
}

impl Drop for Nodes {
    /// At once: the task that watches them ends later, and what they write would outlive their folder.
    fn drop(&mut self) {
        for mut process in self.processes.iter().filter_map(|process| process.try_lock().ok()) {
            process.end_at_once();
        }
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("layout", &self.layout).finish_non_exhaustive()
    }
}

/// Watches the nodes.
struct Watcher {
    names: Vec<String>,
    cluster: Cluster,
    processes: Arc<Vec<tokio::sync::Mutex<Process>>>,
    lives: Vec<Lives>,
    casualties: Arc<Mutex<Vec<String>>>,
    say: Say,
}

impl Watcher {
    /// Looks until nobody wants to see it.
    async fn run(self, look_every: Duration, seen: watch::Sender<View>) {
        let mut ticks = interval(look_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !seen.is_closed() {
            ticks.tick().await;
            let is_running = self.processes.iter().zip(&self.names);
            let is_running = is_running.map(|(process, name)| self.runs(name, process)).collect();
            let (lives, asked_ns) = (self.lives_now(), monotonic_ns());
            let mut view = self.cluster.look(is_running).await;
            (view.asked_ns, view.answered_ns) = (asked_ns, monotonic_ns());
            let same = |(before, now): (u32, u32)| Some(now).filter(|now| *now == before);
            view.lives = lives.into_iter().zip(self.lives_now()).map(same).collect();
            seen.send_replace(view);
        }
    }

    fn lives_now(&self) -> Vec<u32> {
        self.lives.iter().map(|lives| lives.now().number).collect()
    }

    /// Whether a node's process runs and does not stand still. One that is just being stopped or killed does not.
    fn runs(&self, name: &str, process: &tokio::sync::Mutex<Process>) -> bool {
        let Ok(mut process) = process.try_lock() else { return false };
        match process.has_ended() {
            Ok(None) => process.is_running() && !process.is_paused(),
            // Whoever let it stand still for so long knows.
            Ok(Some(_)) if process.ended_by_timer() => false,
            Ok(Some(status)) => {
                self.report(format!("{name} ended by itself ({status})"), &process);
                false
            }
            Err(error) => {
                self.report(format!("{name} cannot be watched: {error}"), &process);
                false
            }
        }
    }

    fn report(&self, what: String, process: &Process) {
        let text = format!("{what}; its last words:\n{}", process.last_lines(LAST_WORDS));
        (self.say)(&text);
        self.casualties.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}
