//! Everything that runs in a demo, and how to wait for it: nodes, relay, simulated plant.
//!
//! - One task watches the nodes; what it sees steers the demo and is shown, and is no part of the account.
//! - Every wait is for a condition and has a deadline; a node that ends by itself ends the wait.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use futures::future::join_all;
use simulator::history::monotonic_ns;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::cluster::{Cluster, Leader, View};
use super::field::Field;
use super::histories;
use super::journal::Journal;
use super::layout::Layout;
use super::process::Process;
use super::relay::Relay;

/// How often the nodes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often a condition is tried.
const TRY_EVERY: Duration = Duration::from_millis(20);
/// Three nodes that find each other, on a slow machine.
const FOUNDING: Duration = Duration::from_secs(60);
/// Until the cluster is whole again after a fault.
pub(super) const HEALING: Duration = Duration::from_secs(30);
/// Until everything is delivered at the end.
const DRAINING: Duration = Duration::from_secs(30);
/// Reads of each device that show that reading goes on.
pub(super) const STEADY_READS: usize = 10;

/// A demo that runs.
pub(super) struct Stage {
    pub(super) layout: Layout,
    pub(super) journal: Journal,
    pub(super) cluster: Cluster,
    pub(super) relay: Relay,
    pub(super) field: Field,
    processes: Arc<Vec<tokio::sync::Mutex<Process>>>,
    view: watch::Receiver<View>,
    /// Nodes that ended by themselves, with their last words.
    casualties: Arc<Mutex<Vec<String>>>,
    last_gap: Mutex<Option<(String, Duration)>>,
    watching: JoinSet<()>,
}

impl Stage {
    /// Starts everything, up to a cluster that reads and takes pushes.
    pub(super) async fn build(layout: Layout, journal: Journal) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&layout.csv)?;
        let field = Field::start(&layout).await.context("the simulated plant does not start")?;
        let peers: Vec<_> = layout.nodes.iter().map(|node| node.peers).collect();
        let relay = Relay::start(&peers).await.context("the relay between the nodes does not start")?;
        let program = std::env::current_exe().context("the path of this program is not known")?;
        let mut processes = Vec::new();
        for (index, node) in layout.nodes.iter().enumerate() {
            std::fs::write(&node.file, layout.node_file(index, &relay))?;
            let mut process = Process::new(node.clone(), program.clone());
            process.start().with_context(|| format!("{} does not start", node.name))?;
            processes.push(tokio::sync::Mutex::new(process));
        }
        let cluster = Cluster::new(&layout)?;
        let processes = Arc::new(processes);
        let casualties = Arc::<Mutex<Vec<String>>>::default();
        let (seen, view) = watch::channel(View::default());
        let mut watching = JoinSet::new();
        let watcher = Watcher {
            names: layout.nodes.iter().map(|node| node.name.clone()).collect(),
            cluster: cluster.clone(),
            processes: Arc::clone(&processes),
            casualties: Arc::clone(&casualties),
            journal: journal.clone(),
        };
        watching.spawn(watcher.run(seen));
        let last_gap = Mutex::default();
        let stage =
            Self { layout, journal, cluster, relay, field, processes, view, casualties, last_gap, watching };
        stage.open().await?;
        Ok(stage)
    }

    /// Founds, configures, and waits until every device is read.
    async fn open(&self) -> anyhow::Result<()> {
        self.journal.say("three nodes are starting");
        let leader = self.agreed(FOUNDING).await.context("the nodes do not agree on a leader")?;
        self.journal.say(format!("they agree: {} leads (term {})", leader.name, leader.term));
        self.cluster
            .apply(&self.field.document(&self.layout))
            .await
            .context("the plant document was refused")?;
        self.reads_go_on(HEALING).await?;
        self.journal.say("3 devices, 60 tags, each read every 100 ms");
        self.field.push_to(self.cluster.endpoints()).await;
        let acknowledges = || self.field.account.lock().settle().pushed_acked > 0;
        self.until("a pusher to be acknowledged", HEALING, || acknowledges().then_some(())).await?;
        self.journal.say("2 pushers are acknowledged; records go to an HTTP receiver and CSV files");
        Ok(())
    }

    /// What the nodes said last.
    pub(super) fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// The process of a node.
    pub(super) async fn process(&self, index: usize) -> tokio::sync::MutexGuard<'_, Process> {
        self.processes[index].lock().await
    }

    /// In a word, how each node's process is.
    pub(super) fn process_states(&self) -> Vec<&'static str> {
        let state = |process: &tokio::sync::Mutex<Process>| match process.try_lock() {
            Ok(process) if process.is_paused() => "paused",
            Ok(process) if process.is_running() => "running",
            Ok(_) => "dead",
            Err(_) => "changing",
        };
        self.processes.iter().map(state).collect()
    }

    /// The last gap between reads that a fault made, and the fault.
    pub(super) fn last_gap(&self) -> Option<(String, Duration)> {
        self.last_gap.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers the gap that a fault made.
    pub(super) fn note_gap(&self, fault: &str, gap: Duration) {
        *self.last_gap.lock().unwrap_or_else(PoisonError::into_inner) = Some((fault.to_owned(), gap));
    }

    /// Waits until all nodes answer, agree on a leader, reach each other and are caught up.
    pub(super) async fn agreed(&self, limit: Duration) -> anyhow::Result<Leader> {
        // What was seen before this call may be older than what was done before it.
        let mut view = self.view.clone();
        view.mark_unchanged();
        let mut is_fresh = false;
        self.until("all nodes to answer and agree on a leader", limit, || {
            is_fresh |= view.has_changed().unwrap_or(false);
            is_fresh.then(|| self.view.borrow().agreed()).flatten()
        })
        .await
    }

    /// Waits until every device has answered some reads from now on.
    pub(super) async fn reads_go_on(&self, limit: Duration) -> anyhow::Result<()> {
        let from_ns = monotonic_ns();
        self.until("every device to be read", limit, || {
            (self.field.account.lock().reads_since(from_ns, |_| true) >= STEADY_READS).then_some(())
        })
        .await
    }

    /// Tries a condition until it holds.
    pub(super) async fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut() -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = condition() {
                return Ok(found);
            }
            if let Some(casualty) = self.casualty() {
                bail!("{casualty}");
            }
            if Instant::now() >= deadline {
                bail!("waited {} s in vain for {what}", limit.as_secs());
            }
            sleep(TRY_EVERY).await;
        }
    }

    /// The first node that ended by itself, and what it said.
    pub(super) fn casualty(&self) -> Option<String> {
        self.casualties.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }

    /// Stops the sources, waits until everything is delivered, and stops the nodes. What keeps it from that is a
    /// doubt in the account.
    pub(super) async fn close(mut self) -> Field {
        if let Err(error) = self.drain().await {
            let mut account = self.field.account.lock();
            account.doubt(format!("the end was not in order: {error:#}"));
        }
        self.watching.shutdown().await;
        self.stop_nodes().await;
        let entered = histories::enter_files(&self.layout.csv, &mut self.field.account.lock());
        if let Err(error) = entered {
            self.field.account.lock().doubt(format!("the CSV files cannot be read: {error}"));
        }
        if self.field.conflicts().await > 0 {
            self.field.account.lock().doubt("a record came again with other bytes");
        }
        self.field
    }

    /// All at once: nothing is left to hand over to.
    async fn stop_nodes(&self) {
        let stopping = self.processes.iter().map(|process| async { process.lock().await.stop().await });
        for (stopped, node) in join_all(stopping).await.into_iter().zip(&self.layout.nodes) {
            match stopped {
                Ok(true) => {}
                Ok(false) => {
                    self.journal.say(format!("{} waited for peers that are gone, and was killed", node.name))
                }
                Err(error) => self.journal.say(format!("{} could not be stopped: {error}", node.name)),
            }
        }
    }

    async fn drain(&self) -> anyhow::Result<()> {
        self.journal.say("draining: pushers end");
        for node in 0..self.layout.nodes.len() {
            self.relay.set_all_of(node, true);
            let mut process = self.process(node).await;
            if process.is_paused() {
                process.pause(false)?;
            }
        }
        self.field.set_receiver(true).await?;
        self.field.stop_pushing().await;
        self.journal.say("draining: devices are taken out of service");
        for device in &self.field.plant.devices {
            self.cluster.disable(&device.id).await?;
        }
        self.until("everything to be delivered", DRAINING, || {
            let figures = self.field.account.lock().figures();
            (figures.pending == 0 && figures.lost == 0).then_some(())
        })
        .await?;
        let delivered = self.field.account.lock().figures().delivered;
        let rows = || histories::count_rows(&self.layout.csv).unwrap_or_default();
        self.until("everything to stand in files", DRAINING, || (rows() >= delivered).then_some(())).await?;
        self.journal.say("drained");
        Ok(())
    }
}

/// Watches the nodes.
struct Watcher {
    names: Vec<String>,
    cluster: Cluster,
    processes: Arc<Vec<tokio::sync::Mutex<Process>>>,
    casualties: Arc<Mutex<Vec<String>>>,
    journal: Journal,
}

impl Watcher {
    /// Looks until nobody wants to see it.
    async fn run(self, seen: watch::Sender<View>) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !seen.is_closed() {
            ticks.tick().await;
            for (process, name) in self.processes.iter().zip(&self.names) {
                let mut process = process.lock().await;
                match process.has_ended() {
                    Ok(None) => {}
                    Ok(Some(status)) => self.report(format!("{name} ended by itself ({status})"), &process),
                    Err(error) => self.report(format!("{name} cannot be watched: {error}"), &process),
                }
            }
            seen.send_replace(self.cluster.look().await);
        }
    }

    fn report(&self, what: String, process: &Process) {
        let text = format!("{what}; its last words:\n{}", process.last_lines());
        self.journal.say(&text);
        self.casualties.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}
