//! What a node is asked to do, by pushers and by an operator.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::poll_fn;
use ingest::Responses;
use model::command::{Command, Request};
use model::plant::address::{ModbusAddress, Table, WordOrder};
use model::plant::{
    Csv, Destination, DestinationKind, Device, Encoding, Group, Link, ModbusPoint, ModbusTcp, Plant,
    Schedule, Standby, Start, Tag,
};
use model::value::ValueType;
use model::{NodeId, Revision};
use tokio::sync::mpsc;
use wire::proto::v1::PushRequest;
use wire::proto::v1::push_request::{Content, Declare, DeclaredTag, Samples, Type};

use crate::field;
use crate::network::address;
use crate::node::{Door, Process};
use crate::pushers::{self, Message, Messages};
use crate::world::{TANK, name};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// From one slot of the only polled group to the next.
const PERIOD: Duration = Duration::from_millis(200);
/// Requests that wait to be read by their stream: more than a pusher has under way.
const WAITING: usize = 64;

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
    /// Hand leadership over.
    HandOver,
    /// Keep a member from leading.
    Drain(NodeId),
    /// Let it lead again.
    Undrain(NodeId),
    /// Add a machine as a learner.
    Add(usize),
    /// Make a learner a voter.
    Promote(NodeId),
    /// Remove a member, which is on that machine.
    Remove(NodeId, usize),
}

/// The plant of every run: one polled group, one tag that is pushed, and a destination that gets everything.
fn plant() -> Plant {
    let destination = Destination {
        id: "archive".into(),
        // What is built of it is brought from here.
        kind: DestinationKind::Csv(Csv { directory: "archive".into(), every: PERIOD, max_rows: 1_000 }),
        required: true,
        start: Start::Oldest,
        routes: Vec::new(),
    };
    Plant { devices: vec![tank(), pushing()], destinations: vec![destination], ..Plant::default() }
}

/// The device that is polled.
fn tank() -> Device {
    let link = ModbusTcp {
        host: name(TANK),
        port: field::PORT,
        unit_id: 1,
        timeout: Duration::from_millis(300),
        slow: false,
        standby: Standby::Warm,
        max_gap: 0,
        max_registers: 125,
    };
    let point = ModbusPoint {
        address: ModbusAddress { table: Table::Holding, offset: 0, bit: None },
        encoding: Encoding::Plain(ValueType::U32),
        word_order: WordOrder::default(),
        scaling: None,
    };
    let schedule = Schedule { period: PERIOD, offset: Duration::ZERO };
    device("tank", Link::ModbusTcp(link), Some(schedule), tag("level", Some(point), ValueType::U32))
}

/// What pushers push for.
fn pushing() -> Device {
    device("line", Link::Push, None, tag("count", None, ValueType::U64))
}

fn device(id: &str, link: Link, schedule: Option<Schedule>, tag: Tag) -> Device {
    Device {
        id: id.into(),
        link,
        enabled: true,
        labels: Default::default(),
        description: String::new(),
        groups: vec![Group { id: "fast".into(), schedule, enabled: true, tags: vec![tag] }],
    }
}

fn tag(name: &str, point: Option<ModbusPoint>, value_type: ValueType) -> Tag {
    Tag { name: name.into(), point, value_type, unit: String::new(), description: String::new() }
}

/// What a stream says first: which tag it is about.
fn declaration() -> PushRequest {
    let tag = DeclaredTag { name: "line/count".into(), r#type: Type::U64.into() };
    PushRequest { content: Some(Content::Declare(Declare { tags: vec![tag] })) }
}

/// One message, under its number in the stream.
fn samples(sequence: u64, message: Message, at: i64) -> PushRequest {
    let samples = Samples {
        sequence,
        base_time: at,
        tags: vec![0],
        unsigned: vec![message.to_value()],
        ..Samples::default()
    };
    PushRequest { content: Some(Content::Samples(samples)) }
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
            Order::HandOver => self.hand_over().await,
            Order::Drain(node) => {
                let drained = Box::pin(self.replica.drain(node, Request::default(), PATIENCE)).await;
                self.note_outcome(&format!("draining {node}"), drained.map(|applied| applied.outcome));
            }
            Order::Undrain(node) => {
                let command = Command::SetDrained { node, drained: false, request: Request::default() };
                let undrained = Box::pin(self.replica.propose(&command, PATIENCE)).await;
                self.note_outcome(&format!("undraining {node}"), undrained.map(|applied| applied.outcome));
            }
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

    /// Hands messages to their stream; whoever opens it hears what it is answered, to its end.
    async fn take(&self, pusher: usize, messages: Messages) {
        let stream = (pusher, messages.stream);
        let opened = match self.send(pusher, messages) {
            Ok(opened) => opened,
            Err(reason) => {
                let mut world = self.world();
                world.note(Some(self.machine), format!("a stream of pusher {pusher} breaks: {reason}"));
                return pushers::lost(&mut world, stream);
            }
        };
        let Some(mut responses) = opened else { return };
        while let Some(Ok(response)) = responses.next().await {
            if let Some(answer) = response.content {
                pushers::heard(&mut self.world(), self.machine, stream, &answer);
            }
        }
        pushers::lost(&mut self.world(), stream);
    }

    /// The answers to come, if the stream had to be opened.
    fn send(&self, pusher: usize, messages: Messages) -> Result<Option<Responses>, String> {
        let Messages { stream, sequence, first, count } = messages;
        let mut doors = self.doors();
        let mut opened = None;
        if doors.get(&pusher).is_none_or(|door| door.stream != stream) {
            let (requests, mut waiting) = mpsc::channel(WAITING);
            let incoming = poll_fn(move |cx| waiting.poll_recv(cx).map(|request| request.map(Ok)));
            let responses = self.duties.pushes.open(incoming).map_err(|status| status.to_string())?;
            requests.try_send(declaration()).map_err(|error| error.to_string())?;
            doors.insert(pusher, Door { stream, requests });
            opened = Some(responses);
        }
        let door = doors.get(&pusher).ok_or("it is not open")?;
        let at = self.wall_clock().0;
        for (sequence, number) in (sequence..).zip(first..first + count) {
            let request = samples(sequence, Message { pusher: pusher as u32, number }, at);
            door.requests.try_send(request).map_err(|error| error.to_string())?;
        }
        Ok(opened)
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

    async fn hand_over(&self) {
        self.begin_to_hand_over();
        let handed_over = Box::pin(self.duties.switchover.request(None)).await;
        self.end_to_hand_over();
        self.note_outcome("handing over", handed_over);
    }
}
