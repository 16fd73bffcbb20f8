//! Everything that runs in a demo, and how to wait for it: nodes, relay, simulated plant.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use simulator::history::monotonic_ns;
use simulator::nodes::layout::Layout;
use simulator::nodes::{Nodes, NodesConfig, WaitError};

use super::field::Field;
use super::histories;
use super::journal::Journal;

/// How often the nodes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
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
    pub(super) journal: Journal,
    pub(super) nodes: Nodes,
    pub(super) field: Field,
    /// Where CSV files go.
    csv: PathBuf,
    last_gap: Mutex<Option<(String, Duration)>>,
}

impl Stage {
    /// Starts everything, up to a cluster that reads and takes pushes.
    pub(super) async fn build(layout: Layout, journal: Journal) -> anyhow::Result<Self> {
        let csv = layout.folder.join("csv");
        std::fs::create_dir_all(&csv)?;
        let history = layout.folder.join("history.jsonl");
        let field = Field::start(&history).await.context("the simulated plant does not start")?;
        let program = std::env::current_exe().context("the path of this program is not known")?;
        let said = journal.clone();
        let say = Arc::new(move |text: &str| said.say(text));
        let nodes = Nodes::start(layout, NodesConfig { program, look_every: LOOK_EVERY, say }).await?;
        let stage = Self { journal, nodes, field, csv, last_gap: Mutex::default() };
        stage.open().await?;
        Ok(stage)
    }

    /// Founds, configures, and waits until every device is read.
    async fn open(&self) -> anyhow::Result<()> {
        self.journal.say("three nodes are starting");
        let leader = self.nodes.agreed(FOUNDING).await.context("the nodes do not agree on a leader")?;
        self.journal.say(format!("they agree: {} leads (term {})", leader.name, leader.term));
        self.nodes
            .cluster
            .apply(&self.field.document(&self.csv))
            .await
            .context("the plant document was refused")?;
        self.reads_go_on(HEALING).await?;
        self.journal.say("3 devices, 60 tags, each read every 100 ms");
        self.field.push_to(self.nodes.cluster.endpoints()).await;
        let acknowledges = || self.field.account.lock().settle().pushed_acked > 0;
        self.nodes.until("a pusher to be acknowledged", HEALING, || acknowledges().then_some(())).await?;
        self.journal.say("2 pushers are acknowledged; records go to an HTTP receiver and CSV files");
        Ok(())
    }

    /// The last gap between reads that a fault made, and the fault.
    pub(super) fn last_gap(&self) -> Option<(String, Duration)> {
        self.last_gap.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers the gap that a fault made.
    pub(super) fn note_gap(&self, fault: &str, gap: Duration) {
        *self.last_gap.lock().unwrap_or_else(PoisonError::into_inner) = Some((fault.to_owned(), gap));
    }

    /// Waits until every device has answered some reads from now on.
    pub(super) async fn reads_go_on(&self, limit: Duration) -> Result<(), WaitError> {
        let from_ns = monotonic_ns();
        self.nodes
            .until("every device to be read", limit, || {
                (self.field.account.lock().reads_since(from_ns, |_| true) >= STEADY_READS).then_some(())
            })
            .await
    }

    /// Stops the sources, waits until everything is delivered, and stops the nodes. What keeps it from that is a
    /// doubt in the account.
    pub(super) async fn close(mut self) -> Field {
        if let Err(error) = self.drain().await {
            let mut account = self.field.account.lock();
            account.doubt(format!("the end was not in order: {error:#}"));
        }
        self.nodes.stop().await;
        let entered = histories::enter_files(&self.csv, &mut self.field.account.lock());
        if let Err(error) = entered {
            self.field.account.lock().doubt(format!("the CSV files cannot be read: {error}"));
        }
        if self.field.conflicts().await > 0 {
            self.field.account.lock().doubt("a record came again with other bytes");
        }
        self.field
    }

    async fn drain(&self) -> anyhow::Result<()> {
        self.journal.say("draining: pushers end");
        for node in 0..self.nodes.layout.nodes.len() {
            self.nodes.relay.set_all_of(node, true);
            let mut process = self.nodes.process(node).await;
            if process.is_paused() {
                process.pause(false)?;
            }
        }
        self.field.set_receiver(true).await?;
        self.field.stop_pushing().await;
        self.journal.say("draining: devices are taken out of service");
        for device in &self.field.plant.devices {
            self.nodes.cluster.disable(&device.id).await?;
        }
        self.nodes
            .until("everything to be delivered", DRAINING, || {
                let figures = self.field.account.lock().figures();
                (figures.pending == 0 && figures.lost == 0).then_some(())
            })
            .await?;
        let delivered = self.field.account.lock().figures().delivered;
        let rows = || histories::count_rows(&self.csv).unwrap_or_default();
        self.nodes
            .until("everything to stand in files", DRAINING, || (rows() >= delivered).then_some(()))
            .await?;
        self.journal.say("drained");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use gateway::NodeConfig;
    use simulator::nodes::layout::NODES;
    use simulator::nodes::relay::Relay;

    use super::*;

    #[tokio::test]
    async fn node_files_are_valid_and_lead_through_the_relay() {
        let layout = Layout::plan(Path::new("/nowhere/demo \"1\""), "a \"demo\"").expect("free ports");
        let peers: Vec<_> = layout.nodes.iter().map(|node| node.peers).collect();
        let relay = Relay::start(&peers).await.expect("free ports");
        for (index, node) in layout.nodes.iter().enumerate() {
            let text = layout.node_file(index, &relay);
            let config =
                NodeConfig::parse(&text, |_| None).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
            assert_eq!((&config.name, &config.data_dir), (&node.name, &node.data));
            assert_eq!(config.members.len(), NODES);
            assert_eq!(config.field_bind, Some(node.field));
            assert_eq!(config.dial.len(), NODES - 1);
            for (other, peer) in layout.nodes.iter().enumerate().filter(|(other, _)| *other != index) {
                let dialled = relay.address(index, other).map(|address| address.to_string());
                assert_eq!(config.dial.get(&peer.peers.to_string()).cloned(), dialled);
            }
        }
    }
}
