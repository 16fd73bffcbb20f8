//! Everything that runs in a demo: nodes, simulated plant, and what is said of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use simulator::account::Report;
use simulator::field::Field;
use simulator::nodes::layout::Layout;
use simulator::nodes::{Nodes, NodesConfig};
use simulator::trial::{self, End, Outcome, Trial, TrialError};

use super::journal::Journal;

/// How often the nodes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A demo that runs.
pub(super) struct Stage {
    pub(super) journal: Journal,
    pub(super) nodes: Nodes,
    pub(super) field: Field,
    last_gap: Mutex<Option<(String, Duration)>>,
}

impl Stage {
    /// Starts everything, up to a cluster that reads and takes pushes.
    pub(super) async fn build(layout: Layout, journal: Journal) -> anyhow::Result<Self> {
        let field = Field::start(&layout.folder).await.context("the simulated plant does not start")?;
        let program = std::env::current_exe().context("the path of this program is not known")?;
        let said = journal.clone();
        let say = Arc::new(move |text: &str| said.say(text));
        let nodes = Nodes::start(layout, NodesConfig { program, look_every: LOOK_EVERY, say }).await?;
        let stage = Self { journal, nodes, field, last_gap: Mutex::default() };
        stage.trial().open().await?;
        stage.field.push_to(stage.nodes.cluster.endpoints()).await;
        stage.trial().is_acknowledged().await?;
        stage.journal.say("2 pushers are acknowledged; records go to an HTTP receiver and CSV files");
        Ok(stage)
    }

    /// What can be done to it.
    pub(super) fn trial(&self) -> Trial<'_> {
        Trial { nodes: &self.nodes, field: &self.field }
    }

    /// Does something to it, and remembers the gap that it made.
    pub(super) async fn suffer(
        &self,
        fault: impl Future<Output = Result<Outcome, TrialError>>,
    ) -> anyhow::Result<()> {
        let Outcome { name, gap } = fault.await?;
        if let Some(gap) = gap {
            *self.last_gap.lock().unwrap_or_else(PoisonError::into_inner) = Some((name, gap));
        }
        Ok(())
    }

    /// The last gap between reads that a fault made, and the fault.
    pub(super) fn last_gap(&self) -> Option<(String, Duration)> {
        self.last_gap.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it in order, and settles the account.
    pub(super) async fn close(self) -> (Report, Field) {
        let report = trial::close(self.nodes, &self.field, End::InOrder).await;
        (report, self.field)
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
        let mut layout = Layout::plan(Path::new("/nowhere/demo \"1\""), "a \"demo\"").expect("free ports");
        layout.add("node-4").expect("free ports");
        let peers: Vec<_> = layout.nodes.iter().map(|node| node.peers).collect();
        let relay = Relay::start(&peers).await.expect("free ports");
        for (index, node) in layout.nodes.iter().enumerate() {
            let text = layout.node_file(index, &relay);
            let config =
                NodeConfig::parse(&text, |_| None).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
            assert_eq!((&config.name, &config.data_dir), (&node.name, &node.data));
            assert_eq!(config.members.len(), if node.joins { 0 } else { NODES });
            assert_eq!(config.field_bind, Some(node.field));
            assert_eq!(config.dial.len(), NODES);
            for (other, peer) in layout.nodes.iter().enumerate().filter(|(other, _)| *other != index) {
                let dialled = relay.address(index, other).map(|address| address.to_string());
                assert_eq!(config.dial.get(&peer.peers.to_string()).cloned(), dialled);
            }
        }
    }
}
