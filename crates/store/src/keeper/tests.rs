//! The ledger is held for what is small, and not while a plant is decoded and its names are resolved, or a checkpoint is
//! encoded.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use model::command::{Command, Event, Request, Severity, Stamp};
use model::plant::{Device, Group, Link, Plant, Schedule, Tag};
use model::value::ValueType;
use model::{BootId, Cause, NodeId, Revision, Term, Timestamp};

use super::*;
use crate::commit::Queue;
use crate::engine::sim::{SimDisk, SimEngine};
use crate::{slow, staging};

fn keeper() -> Keeper<SimEngine> {
    let engine = Arc::new(SimEngine::open(&SimDisk::new(7)).expect("a fresh disk opens"));
    let stored = crate::log::load(&*engine).expect("it is empty");
    let log = Log::new(Arc::clone(&engine), Queue::default(), stored, 0);
    let checkpoints = Checkpoints::open(Arc::clone(&engine), Position::ZERO).expect("there is none");
    Keeper::new(engine, log, Ledger::default(), checkpoints)
}

/// A hundred devices with a hundred tags each.
fn large_plant() -> Plant {
    let tag = |number: usize| Tag {
        name: format!("tag-{number}"),
        point: None,
        value_type: ValueType::F64,
        unit: "bar".into(),
        description: String::new(),
    };
    let device = |number: usize| Device {
        id: format!("press-{number}"),
        link: Link::Push,
        enabled: true,
        labels: BTreeMap::new(),
        description: String::new(),
        groups: vec![Group {
            id: "fast".into(),
            schedule: Some(Schedule { period: Duration::from_secs(1), offset: Duration::ZERO }),
            enabled: true,
            tags: (0..100).map(tag).collect(),
        }],
    };
    Plant { devices: (0..100).map(device).collect(), ..Plant::default() }
}

impl Keeper<SimEngine> {
    fn apply_next(&self, command: &Command) -> Outcome {
        let stamp = Stamp { at: Timestamp(0), boot: BootId::from(1) };
        let body = Body::Command(wire::entry::encode(&stamp, command).expect("it can be encoded"));
        let index = self.read(State::applied_position).next();
        self.apply(LogId { term: Term(1), index }, &body).expect("it can be read")
    }
}

/// Counts how often something slow is done, an entry prepared or a checkpoint encoded; each time the ledger must be free.
fn watch(keeper: &Keeper<SimEngine>) -> Rc<Cell<u32>> {
    let slow = Rc::new(Cell::new(0));
    let (keeper, count) = (keeper.clone(), Rc::clone(&slow));
    slow::call_when_it_begins(move || {
        assert!(keeper.shared.held.try_write().is_ok(), "the ledger is held while something slow is done");
        count.set(count.get() + 1);
    });
    slow
}

fn lead() -> Command {
    Command::Lead { node: NodeId(1), name: "gateway-a".into(), cause: Cause::Failover, leaderless: None }
}

fn configure() -> Command {
    Command::Configure {
        base: Revision(0),
        bundle: b"bundle".to_vec(),
        plant: Box::new(large_plant()),
        elapsed: Vec::new(),
        discard: Vec::new(),
        request: Request::default(),
    }
}

#[tokio::test]
async fn the_ledger_can_be_read_while_a_large_plant_is_made_ready() {
    let keeper = keeper();
    keeper.apply_next(&lead());
    let prepared = watch(&keeper);
    assert_eq!(keeper.apply_next(&configure()), Outcome::Configured { revision: Revision(1) });
    assert_eq!(prepared.get(), 1);

    let document = wire::packed::pack_documents(b"bundle", &large_plant()).expect("it can be packed");
    let id = staging::document_id(&document);
    let parts = staging::parts(&document);
    let count = u32::try_from(parts.len()).expect("a few");
    for (part, data) in (0..).zip(parts) {
        keeper.apply_next(&Command::Stage { document: id, part, parts: count, data: data.to_vec() });
    }
    let staged = Command::ConfigureStaged {
        base: Revision(1),
        document: id,
        elapsed: Vec::new(),
        discard: Vec::new(),
        request: Request::default(),
    };
    assert_eq!(keeper.apply_next(&staged), Outcome::Configured { revision: Revision(2) });
    assert_eq!(prepared.get(), 2 + count);
    let tags = keeper.read(|state| state.catalog().expect("configured").groups().count());
    assert_eq!(tags, 100);
}

#[tokio::test]
async fn the_ledger_can_be_changed_while_a_checkpoint_of_a_large_plant_is_encoded() {
    let keeper = keeper();
    keeper.apply_next(&lead());
    keeper.apply_next(&configure());
    let slow = watch(&keeper);
    let at = keeper.cut_checkpoint().expect("the log can be read").expect("something was applied");
    assert_eq!(slow.get(), 0, "cutting one encodes nothing");
    let digest = keeper.digest();
    let (subject, text) = ("cluster".to_owned(), "later".to_owned());
    keeper.apply_next(&Command::Event(Event { severity: Severity::Info, subject, text }));
    assert_ne!(keeper.digest(), digest);
    let before = slow.get();
    keeper.write_checkpoints().await.expect("the disk works");
    assert_eq!(slow.get(), before + 1);

    let (header, bytes) =
        keeper.shared.checkpoints.read_newest(at.index).expect("it can be read").expect("it is listed");
    let ledger = Checkpoint::decode(&bytes).expect("it is whole").ledger().expect("it is what it says");
    assert_eq!((header.at, ledger.state().applied), (at, Some(at)));
    assert_eq!((Some(at), ledger.digest()), digest, "as the ledger was when it was cut");
}

fn note(text: &str) -> Command {
    Command::Event(Event { severity: Severity::Info, subject: "cluster".to_owned(), text: text.to_owned() })
}

impl Keeper<SimEngine> {
    /// A checkpoint of the ledger as it is, as it travels.
    async fn sent(&self) -> (LogId, Bytes) {
        let at = self.cut_checkpoint().expect("the log can be read").expect("something was applied");
        self.write_checkpoints().await.expect("the disk works");
        let newest = self.shared.checkpoints.read_newest(at.index).expect("it can be read");
        (at, newest.expect("it is listed").1)
    }

    async fn received(&self, sent: &Bytes) -> Received {
        let (received, written) = tokio::join!(self.receive(sent), self.write_checkpoints());
        written.expect("the disk works");
        received.expect("it is whole")
    }

    async fn newest_after_a_round(&self) -> Option<LogId> {
        self.forget_received().await.expect("the disk works");
        self.shared.checkpoints.newest(Position(u64::MAX))
    }
}

#[tokio::test]
async fn what_was_received_stays_while_somebody_may_install_it() {
    let (sender, receiver) = (keeper(), keeper());
    sender.apply_next(&lead());
    receiver.apply_next(&lead());
    let (own, _) = receiver.sent().await;
    let files = receiver.shared.engine.list_files();
    sender.apply_next(&configure());
    let (at, sent) = sender.sent().await;

    let (first, second) = (receiver.received(&sent).await, receiver.received(&sent).await);
    drop(first);
    assert_eq!(receiver.newest_after_a_round().await, Some(at), "the second may be installed");
    drop(second);
    assert_eq!(receiver.newest_after_a_round().await, Some(own));
    assert_eq!(receiver.shared.engine.list_files(), files, "with its pages");
}

#[tokio::test]
async fn what_was_received_stays_once_the_ledger_has_come_up_to_it() {
    let (sender, receiver) = (keeper(), keeper());
    for text in ["one", "two"] {
        sender.apply_next(&note(text));
    }
    let (at, sent) = sender.sent().await;
    receiver.apply_next(&note("one"));
    let received = receiver.received(&sent).await;
    receiver.apply_next(&note("two"));
    drop(received);
    assert_eq!(receiver.newest_after_a_round().await, Some(at));
}
