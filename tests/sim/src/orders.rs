//! What a node is asked to do, by pushers, by an operator and by what would be the gateway around it.

use std::time::Duration;

use model::batch::{Batch, Sample, Source};
use model::command::{Command, Request};
use model::plant::{Csv, Destination, DestinationKind, Device, Group, Link, Plant, Schedule, Start, Tag};
use model::value::ValueType;
use model::{Cursor, NodeId, Reading, Revision, TagId, Timestamp, Value};
use replication::{Applied, ProposeError};
use store::{BatchOutcome, Outcome};
use wire::entry::EncodedBatch;

use crate::account::Violation;
use crate::network::address;
use crate::node::Process;
use crate::pushers::{self, Answer, Messages};
use crate::world::name;

/// How long an answer is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// From one slot of the only polled group to the next.
const PERIOD: Duration = Duration::from_millis(200);

/// Something to do.
#[derive(Debug, Clone)]
pub(crate) enum Order {
    /// Take messages of a pusher.
    Push {
        /// Its number.
        pusher: usize,
        /// What it sends.
        messages: Messages,
    },
    /// Give the cluster its plant.
    Configure,
    /// Write a checkpoint.
    Checkpoint,
    /// Deliver what the buffer holds, and acknowledge it.
    Deliver,
    /// Give up what was delivered.
    Truncate,
    /// Hand leadership over.
    HandOver,
    /// Add a machine as a learner.
    Add(usize),
    /// Make a learner a voter.
    Promote(NodeId),
    /// Remove a member, which is on that machine.
    Remove(NodeId, usize),
}

/// The plant of every run: one polled group, and a destination that gets everything.
fn plant() -> Plant {
    let tag = Tag {
        name: "level".into(),
        point: None,
        value_type: ValueType::U64,
        unit: String::new(),
        description: String::new(),
    };
    let schedule = Some(Schedule { period: PERIOD, offset: Duration::ZERO });
    let group = Group { id: "fast".into(), schedule, enabled: true, tags: vec![tag] };
    let device = Device {
        id: "tank".into(),
        link: Link::Push,
        enabled: true,
        labels: Default::default(),
        description: String::new(),
        groups: vec![group],
    };
    let destination = Destination {
        id: "archive".into(),
        kind: DestinationKind::Csv(Csv { directory: "archive".into(), every: PERIOD, max_rows: 1_000 }),
        required: true,
        start: Start::default(),
        routes: Vec::new(),
    };
    Plant { devices: vec![device], destinations: vec![destination], ..Plant::default() }
}

/// A batch of one sample.
pub(crate) fn batch(source: Source, node: NodeId, revision: Revision, at: Timestamp) -> EncodedBatch {
    let sample = Sample { tag: TagId(1), source_time: at, reading: Reading::Good(Value::U64(7)) };
    let batch = Batch::new(source, node, revision, at, vec![sample]).expect("it holds a sample");
    EncodedBatch::encode(&batch).expect("one sample can be encoded")
}

/// What a proposal of `messages` came to.
fn answer(messages: &Messages, proposed: Result<Applied, ProposeError>) -> Result<Answer, Violation> {
    let go_back = Answer { accepted: None, goes_back: true };
    let outcome = match proposed {
        Ok(applied) => applied.outcome,
        Err(ProposeError::Invalid(reason)) => return Err(format!("a push is called invalid: {reason}")),
        Err(_) => return Ok(go_back),
    };
    let Outcome::Appended { batches, .. } = outcome else {
        return Err(format!("a push was answered with: {outcome}"));
    };
    let mut answer = Answer { accepted: None, goes_back: false };
    for (sequence, batch) in (messages.first..).zip(batches) {
        match batch {
            BatchOutcome::Accepted | BatchOutcome::Already => answer.accepted = Some(sequence),
            // The last: by a node that had not heard of the plant yet.
            BatchOutcome::Expected { .. } | BatchOutcome::Fenced | BatchOutcome::RevisionGone => {
                answer.goes_back = true;
            }
            other => return Err(format!("a push was answered with {other:?}")),
        }
    }
    Ok(answer)
}

impl Process {
    /// Does what it was asked, and notes what came of it.
    pub(crate) async fn carry_out(&self, order: Order) {
        match order {
            Order::Push { pusher, messages } => self.take(pusher, messages).await,
            Order::Configure => self.configure().await,
            Order::Checkpoint => {
                let written = self.replica.store().keeper().write_checkpoint().await;
                self.note_outcome("checkpoint", written.map(|()| "written"));
            }
            Order::Deliver => self.deliver().await,
            Order::Truncate => self.truncate().await,
            Order::HandOver => self.hand_over().await,
            Order::Add(machine) => {
                let name = name(machine);
                let added = Box::pin(self.replica.add(&name, &address(&name), None)).await;
                self.note_outcome(&format!("adding {name}"), added.map(|added| added.node));
            }
            Order::Promote(node) => {
                let promoted = Box::pin(self.replica.promote(node)).await;
                self.note_outcome(&format!("promoting {node}"), promoted.map(|()| "done"));
            }
            Order::Remove(node, machine) => {
                let removed = Box::pin(self.replica.remove(node, false)).await;
                if removed.is_ok() {
                    self.world().machines[machine].is_removed = true;
                }
                self.note_outcome(&format!("removing {node}"), removed.map(|()| "done"));
            }
        }
    }

    async fn take(&self, pusher: usize, messages: Messages) {
        let (at, revision) = (self.wall_clock(), self.revision());
        let known = self.world().pushers[pusher].acknowledged();
        let Messages { session, first, count, .. } = messages;
        let node = self.replica.node();
        let pushed = |sequence| batch(Source::Pushed { session, sequence }, node, revision, at);
        let batches: Vec<EncodedBatch> = (first..first + count).map(pushed).collect();
        let proposed = Box::pin(self.replica.append(&batches, PATIENCE)).await;
        let mut world = self.world();
        if let Some(expected) = expected(&proposed)
            && expected <= known
        {
            world.violated(format!("push {expected} is expected, and {known} had been acknowledged"));
        }
        match answer(&messages, proposed) {
            Ok(answer) => pushers::answered(&mut world, self.machine, (pusher, messages), answer),
            Err(violation) => world.violated(violation),
        }
    }

    async fn configure(&self) {
        let command = Command::Configure {
            base: Revision(0),
            bundle: Vec::new(),
            plant: Box::new(plant()),
            elapsed: Vec::new(),
            discard: Vec::new(),
            request: Request::default(),
        };
        let configured = Box::pin(self.replica.propose(&command, PATIENCE)).await;
        self.note_outcome("configuring", configured.map(|applied| applied.outcome));
    }

    /// The destination is the account of the run: what was read from the buffer has arrived there.
    async fn deliver(&self) {
        let Some(leadership) = self.leadership_held() else { return };
        let destinations = self.replica.store().keeper().read(|state| state.destinations.clone());
        let Some((destination, state)) = destinations.into_iter().next() else { return };
        let next = self.read_buffer();
        {
            let mut world = self.world();
            let delivered = world.account.delivered(state.cursor.position, next);
            world.check(delivered);
        }
        let next = Cursor::at(next);
        let command = Command::Acknowledge { destination, next, rejected: Vec::new() };
        let acknowledged = Box::pin(self.replica.propose_in(&leadership, &command, PATIENCE)).await;
        self.note_outcome(&format!("acknowledging to {next}"), acknowledged.map(|applied| applied.outcome));
    }

    async fn truncate(&self) {
        let below = self.replica.store().keeper().read(|state| state.required_horizon()).next();
        let command = Command::Truncate { below, overrun: None };
        let truncated = Box::pin(self.replica.propose(&command, PATIENCE)).await;
        self.note_outcome(&format!("truncating below {below}"), truncated.map(|applied| applied.outcome));
    }

    async fn hand_over(&self) {
        self.begin_to_hand_over();
        let handed_over = Box::pin(self.replica.transfer_leadership(None)).await;
        self.end_to_hand_over();
        self.note_outcome("handing over", handed_over);
    }
}

/// Which push is expected, where others were sent.
fn expected(proposed: &Result<Applied, ProposeError>) -> Option<u64> {
    let Ok(Applied { outcome: Outcome::Appended { batches, .. }, .. }) = proposed else { return None };
    batches.iter().find_map(|batch| match batch {
        BatchOutcome::Expected { sequence } => Some(*sequence),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use model::{Position, SessionId, Term};

    use super::*;

    fn appended(batches: Vec<BatchOutcome>) -> Result<Applied, ProposeError> {
        let outcome = Outcome::Appended { position: Position(5), batches };
        Ok(Applied { term: Term(2), position: Position(5), outcome })
    }

    #[test]
    fn what_was_accepted_counts_and_the_rest_is_sent_again() {
        let messages = Messages { session: SessionId::from(1), proposal: 1, first: 4, count: 2 };
        let answer = |proposed| answer(&messages, proposed).expect("no violation");
        let all = appended(vec![BatchOutcome::Already, BatchOutcome::Accepted]);
        assert_eq!(answer(all), Answer { accepted: Some(5), goes_back: false });
        let none = appended(vec![BatchOutcome::Expected { sequence: 3 }; 2]);
        assert_eq!(answer(none), Answer { accepted: None, goes_back: true });
        let unnamed = appended(vec![BatchOutcome::RevisionGone, BatchOutcome::Expected { sequence: 4 }]);
        assert_eq!(answer(unnamed), Answer { accepted: None, goes_back: true });
        assert_eq!(answer(Err(ProposeError::Unknown)), Answer { accepted: None, goes_back: true });
    }
}
