//! File destinations: whether this follower sees the leader's marker where its own node would write.
//!
//! - Looks now and then, once the leader has had time to write its markers. What it finds is an alarm that names this node.
//! - It takes back what it has said itself, and nothing else. What it said is void when it leads or is no member any more,
//!   and then the leader takes it back: see the verdict.

use std::time::Duration;

use destinations::{MarkerReader, NodeFacts};
use model::command::{Command, Severity};
use model::plant::DestinationKind;
use model::{AlarmKind, NodeId, Term};
use replication::{Replica, Status};
use store::engine::Engine;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::admin::complainant;

/// From one look to the next; also how long a leader has to write its markers.
pub(super) const EVERY: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(2);

/// What this follower looks for.
pub(crate) struct Shares {
    node: NodeFacts,
    every: Duration,
    /// The leader and its term, and when to look next.
    next: Option<(NodeId, Term, Instant)>,
}

impl Shares {
    /// `node` says where files lie here; `every` is the time from one look to the next.
    pub(crate) fn new(node: NodeFacts, every: Duration) -> Self {
        Self { node, every, next: None }
    }

    /// This node leads: the markers are its own.
    pub(super) fn forget(&mut self) {
        self.next = None;
    }

    /// Looks, if it is time to.
    pub(crate) async fn look<E: Engine>(&mut self, replica: &Replica<E>, status: &Status) {
        let Some(leader) = status.leader.filter(|leader| *leader != status.node) else { return };
        let now = Instant::now();
        match self.next {
            Some((known, term, at)) if (known, term) == (leader, status.term) => {
                if now < at {
                    return;
                }
            }
            _ => {
                self.next = Some((leader, status.term, now + self.every));
                return;
            }
        }
        self.next = Some((leader, status.term, now + self.every));
        let leader = status.members.get(&leader).map(|member| member.name.clone()).unwrap_or_default();
        let (plant, standing) = replica.store().keeper().read(|state| (state.plant(), state.alarms.clone()));
        for destination in &plant.destinations {
            let DestinationKind::Csv(csv) = &destination.kind else { continue };
            let found = match MarkerReader::new(&destination.id, csv, &self.node) {
                Ok(mut reader) => reader.read().await,
                Err(error) => Err(error),
            };
            let complaint = match found {
                Ok(Some(marker)) if marker.node == leader => None,
                Ok(_) => Some(complaint(replica.name(), &leader)),
                Err(error) => Some(format!("{}: {error}", replica.name())),
            };
            let key = (AlarmKind::FilesNotOnAShare, destination.id.clone());
            let is_raised = complaint.is_some();
            let text = match (complaint, standing.get(&key)) {
                (Some(text), None) => text,
                (None, Some(said)) if complainant(&said.text) == replica.name() => {
                    format!("{} sees the files of {leader}", replica.name())
                }
                _ => continue,
            };
            let command = Command::SetAlarm {
                kind: key.0,
                subject: key.1,
                raised: is_raised,
                severity: if is_raised { Severity::Warning } else { Severity::Info },
                text: text.clone(),
            };
            match replica.propose(&command, PATIENCE).await {
                Ok(_) if is_raised => {
                    warn!(destination = destination.id, "alarm files-not-on-a-share: {text}")
                }
                Ok(_) => info!(destination = destination.id, "alarm files-not-on-a-share is over: {text}"),
                Err(error) => debug!(%error, "an alarm was not committed"),
            }
        }
    }
}

fn complaint(own: &str, leader: &str) -> String {
    format!("{own} does not see the files of {leader}: they will lie on several machines")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_its_own_complaint() {
        assert_eq!(complainant(&complaint("gateway-c", "gateway-a")), "gateway-c");
        assert_eq!(complainant("gateway-c: no such directory"), "gateway-c");
    }
}
