//! Turns commands into entries, applies them, and keeps the account of slots.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use holdfast_store::ledger::{Body, EffectRecord, Ledger, LogId, Membership, RevisionState, State};
use holdfast_store::{BatchOutcome, Outcome};
use model::batch::{Batch, Sample, Source};
use model::command::{Command, Event, RefusedAgain, Rejection, Request, Severity, Stamp};
use model::slots::{Elapsed, Resumption, resume};
use model::{
    BootId, Cause, ClusterId, Cursor, DestinationId, GridId, GroupId, Lineage, Member, NodeId, Position,
    Reading, Revision, SessionId, TagId, Term, Timestamp, Value,
};
use wire::entry::EncodedBatch;

use super::arguments::{Arguments, duration, seconds};
use super::{plant, show};

/// What was said of slots `first..=last` of a grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) by: String,
}

/// A ledger and what the outside saw of it.
#[derive(Default)]
pub(super) struct Machine {
    /// Takes its changes after each command.
    ledger: Ledger,
    /// Applies the same, and takes its changes only at the end.
    lazy: Ledger,
    position: u64,
    term: u64,
    now: Timestamp,
    groups: BTreeMap<String, GroupId>,
    /// What is staged under each name.
    documents: BTreeMap<String, Vec<u8>>,
    pub(super) account: BTreeMap<(GroupId, GridId), Vec<Said>>,
}

impl Machine {
    pub(super) fn state(&self) -> &State {
        self.ledger.state()
    }

    /// Runs one command; returns what it prints.
    pub(super) fn run(&mut self, command: &str) -> String {
        let (head, below) = command.split_once('\n').unwrap_or((command, ""));
        let arguments = Arguments::parse(head.split(" + ").next().expect("split gives at least one"));
        self.now = arguments.timestamp("at").unwrap_or(self.now);
        match arguments.word(0) {
            "show" => show::show(self, arguments.word(1)),
            "resume" => self.resume(&arguments),
            "poll" => self.poll(&arguments),
            "append" => {
                let batches: Vec<_> = head
                    .split(" + ")
                    .enumerate()
                    .map(|(place, words)| {
                        self.batch(&Arguments::parse(words), if place == 0 { 1 } else { 0 })
                    })
                    .collect();
                self.append(&arguments, &batches)
            }
            "pass" => self.pass(&arguments),
            "blank" => self.apply(&arguments, &Body::Blank),
            "membership" => {
                let membership = self.membership(&arguments);
                self.apply(&arguments, &Body::Membership(membership))
            }
            name => {
                let command = self.command(name, &arguments, below);
                self.propose(&arguments, &command)
            }
        }
    }

    /// Checks at the end of a script that how often rows are written makes no difference.
    pub(super) fn finish(mut self) {
        self.lazy.take_changes();
        assert_eq!(self.lazy.digest(), self.ledger.digest(), "rows written once, and after each command");
    }

    pub(super) fn group(&self, name: &str) -> GroupId {
        *self.groups.get(name).unwrap_or_else(|| panic!("no group {name} was ever configured"))
    }

    pub(super) fn group_name(&self, id: GroupId) -> &str {
        let found = self.groups.iter().find(|(_, known)| **known == id);
        found.map(|(name, _)| name.as_str()).unwrap_or_else(|| panic!("no group {id} was ever configured"))
    }

    fn destination(&self, name: &str) -> DestinationId {
        let number = || DestinationId(name.trim_start_matches('#').parse().expect("a number"));
        if name.starts_with('#') { number() } else { self.state().registry.destination(name).expect(name) }
    }

    fn elapsed(&self, arguments: &Arguments) -> Vec<(GroupId, Duration)> {
        arguments.pairs("elapsed").map(|(group, time)| (self.group(group), duration(time))).collect()
    }

    fn stamp(&self) -> Stamp {
        Stamp { at: self.now, boot: BootId::from(1) }
    }

    fn command(&mut self, name: &str, arguments: &Arguments, below: &str) -> Command {
        let request = || Request { principal: "eva".to_owned(), reason: "script".to_owned() };
        let second = || arguments.word(1).to_owned();
        match name {
            "found" => Command::Found {
                cluster: ClusterId::from(arguments.get("cluster").unwrap_or(7_u128)),
                name: "plant-7".to_owned(),
                lineage: Lineage::from_random(7),
            },
            "lead" => {
                let term = arguments.word(1).parse().expect("lead TERM");
                self.term = self.term.max(term);
                Command::Lead {
                    node: NodeId(arguments.need("node")),
                    name: arguments.text("name").to_owned(),
                    cause: arguments.need("cause"),
                    leaderless: arguments.duration("leaderless"),
                }
            }
            "configure" => Command::Configure {
                base: Revision(arguments.get("base").unwrap_or(self.state().revision().0)),
                bundle: b"bundle".to_vec(),
                plant: Box::new(plant::parse(below.lines())),
                elapsed: self.elapsed(arguments),
                discard: arguments.list("discard").map(str::to_owned).collect(),
                request: request(),
            },
            "stage" => self.stage(arguments, below),
            "configure-staged" => Command::ConfigureStaged {
                base: Revision(arguments.get("base").unwrap_or(self.state().revision().0)),
                document: self.document(arguments.word(1)),
                elapsed: self.elapsed(arguments),
                discard: arguments.list("discard").map(str::to_owned).collect(),
                request: request(),
            },
            "missed" => Command::Missed {
                group: self.group(arguments.word(1)),
                grid: GridId(arguments.need("grid")),
                last: arguments.need("last"),
                cause: arguments.need("cause"),
            },
            "reclock" => Command::Reclock {
                elapsed: self.elapsed(arguments),
                next: {
                    let number = |text: &str| text.parse().expect("a number");
                    arguments.pairs("next").map(|(grid, slot)| (GridId(number(grid)), number(slot))).collect()
                },
            },
            "disable" | "enable" => Command::SetDeviceEnabled {
                device: second(),
                enabled: name == "enable",
                until: arguments.timestamp("until"),
                elapsed: self.elapsed(arguments),
                request: request(),
            },
            "ack" => Command::Acknowledge {
                destination: self.destination(arguments.word(1)),
                next: arguments.need("next"),
                rejected: {
                    let bytes = arguments.get("bytes").unwrap_or(2);
                    arguments.list("rejected").map(|text| rejection(text, bytes)).collect()
                },
            },
            "truncate" => {
                let mut lost = arguments.pairs("overrun").map(|(name, samples)| {
                    (self.destination(name), samples.parse().expect("a number of samples"))
                });
                let first = lost.next();
                Command::Truncate {
                    below: Position(arguments.need("below")),
                    overrun: first.map(|first| std::iter::once(first).chain(lost).collect()),
                }
            }
            "pause" | "release" => Command::SetDestinationPaused {
                destination: second(),
                paused: name == "pause",
                request: request(),
            },
            "retry" => Command::RetryQuarantine {
                destination: second(),
                keys: arguments.words[2..].iter().map(|key| place(key)).collect(),
                request: request(),
            },
            "settle" => Command::SettleRetries {
                destination: self.destination(arguments.word(1)),
                accepted: arguments.list("accepted").map(place).collect(),
                refused: arguments.list("refused").map(refused_again).collect(),
            },
            "drain" | "undrain" => Command::SetDrained {
                node: NodeId(second().parse().expect("a node")),
                drained: name == "drain",
                request: request(),
            },
            "event" => Command::Event(Event {
                severity: match arguments.word(1) {
                    "info" => Severity::Info,
                    "warning" => Severity::Warning,
                    "alarm" => Severity::Alarm,
                    other => panic!("no severity {other}"),
                },
                subject: arguments.word(2).to_owned(),
                text: arguments.words[3..].join(" "),
            }),
            "alarm" => Command::SetAlarm {
                kind: arguments.word(1).parse().expect("a kind of alarm"),
                subject: arguments.get("subject").unwrap_or_default(),
                raised: arguments.word(2) == "raised",
                severity: if arguments.has("(severe)") { Severity::Alarm } else { Severity::Warning },
                text: arguments.words[3..].join(" "),
            },
            other => panic!("no command {other}"),
        }
    }

    /// Members in the order of their numbers, `-` for one that is gone; all vote where no voters are given.
    fn membership(&self, arguments: &Arguments) -> Membership {
        let named = (1..).zip(&arguments.words[1..]).filter(|(_, name)| *name != "-");
        let member = |name: &String| Member {
            name: name.clone(),
            address: "host:7610".to_owned(),
            ..Member::default()
        };
        let nodes: BTreeMap<u64, Member> = named.map(|(id, name)| (id, member(name))).collect();
        let config = |text: &str| text.split('+').map(|id| id.parse().expect("a node")).collect();
        let configs: Vec<_> = arguments.list("voters").map(config).collect();
        let all = || vec![nodes.keys().copied().collect()];
        Membership {
            log_id: Some(LogId { term: Term(self.term), index: Position(self.position + 1) }),
            configs: if configs.is_empty() { all() } else { configs },
            nodes,
        }
    }

    fn resume(&self, arguments: &Arguments) -> String {
        let group = self.group(arguments.word(1));
        let grid = self.state().grids.get(&group).expect("the grid is open");
        let now = arguments.timestamp("now").expect("now= is given");
        let exactly = arguments.duration("elapsed").map(Elapsed::exactly);
        let at_least = arguments.duration("at-least").map(Elapsed::at_least);
        match resume(&grid.line, grid.next, now, exactly.or(at_least).unwrap_or_default()) {
            Resumption::Continue { slot } => format!("continue with slot {slot}\n"),
            Resumption::Reclock { elapsed } => {
                format!("reclock, {} since the last slot\n", seconds(elapsed.as_nanos() as i64))
            }
        }
    }

    /// Time passes, with a command of the leader every ten minutes.
    fn pass(&mut self, arguments: &Arguments) -> String {
        let end = self.now.plus(duration(arguments.word(1)));
        let (subject, text) = ("cluster".to_owned(), "time passes".to_owned());
        let event = Command::Event(Event { severity: Severity::Info, subject, text });
        while self.now < end {
            self.now = self.now.plus(Duration::from_secs(600)).min(end);
            self.propose(arguments, &event);
        }
        format!("{}: the time is {}\n", self.position, seconds(self.now.0))
    }

    fn poll(&mut self, arguments: &Arguments) -> String {
        let (first, last) = arguments.text("slots").split_once('-').expect("slots=FIRST-LAST");
        let slots = first.parse::<u64>().expect("a slot")..=last.parse().expect("a slot");
        let mut printed = String::new();
        for slot in slots {
            let source = Source::Polled {
                group: self.group(arguments.word(1)),
                grid: GridId(arguments.need("grid")),
                slot,
                skipped: arguments.get("skipped").unwrap_or(Cause::Late),
            };
            printed += &self.append(arguments, &[encoded(source, 1, self.reigning(), Timestamp(0))]);
        }
        printed
    }

    /// The node that leads: polled samples are its own.
    fn reigning(&self) -> NodeId {
        self.ledger.state().reign().map_or(NodeId(1), |reign| reign.node)
    }

    fn batch(&self, arguments: &Arguments, first: usize) -> EncodedBatch {
        let source = match arguments.word(first) {
            "polled" => Source::Polled {
                group: self.group(arguments.word(first + 1)),
                grid: GridId(arguments.need("grid")),
                slot: arguments.need("slot"),
                skipped: arguments.get("skipped").unwrap_or(Cause::Late),
            },
            "pushed" => Source::Pushed {
                session: session(arguments.word(first + 1)),
                sequence: arguments.need("seq"),
            },
            other => panic!("a batch is polled or pushed, not {other}"),
        };
        let oldest = arguments.timestamp("source").unwrap_or_default();
        encoded(source, arguments.get("count").unwrap_or(1), self.reigning(), oldest)
    }

    /// One part of a plant's documents, which are cut into `of` equal parts.
    fn stage(&mut self, arguments: &Arguments, below: &str) -> Command {
        let name = arguments.word(1).to_owned();
        if !below.is_empty() {
            let plant = plant::parse(below.lines());
            let bytes = wire::packed::pack_documents(b"bundle", &plant).expect("a small plant");
            self.documents.insert(name.clone(), bytes);
        }
        let bytes = self.documents.get(&name).unwrap_or_else(|| panic!("what is in {name}?"));
        let (part, parts): (u32, u32) = (arguments.need("part"), arguments.need("of"));
        let length = bytes.len().div_ceil(parts as usize);
        let data = bytes.chunks(length).nth(part as usize).unwrap_or_default().to_vec();
        Command::Stage { document: self.document(&name), part, parts, data }
    }

    fn document(&self, name: &str) -> model::ids::DocumentId {
        self.documents
            .get(name)
            .map_or(model::ids::DocumentId::from(99), |bytes| holdfast_store::staging::document_id(bytes))
    }

    fn append(&mut self, arguments: &Arguments, batches: &[EncodedBatch]) -> String {
        self.apply(arguments, &Body::Command(wire::entry::encode_append(&self.stamp(), batches)))
    }

    fn propose(&mut self, arguments: &Arguments, command: &Command) -> String {
        let bytes = wire::entry::encode(&self.stamp(), command).expect("a command can be encoded");
        self.apply(arguments, &Body::Command(bytes))
    }

    fn apply(&mut self, arguments: &Arguments, body: &Body) -> String {
        self.position += 1;
        let term = match arguments.word(0) {
            "lead" => arguments.word(1).parse().expect("lead TERM"),
            _ => arguments.get("term").unwrap_or(self.term),
        };
        let id = LogId { term: Term(term), index: Position(self.position) };
        let outcome = self.ledger.apply(id, body).expect("the entry can be read");
        assert_eq!(self.lazy.apply(id, body).expect("the entry can be read"), outcome);
        for (entry, ..) in self.state().catalog().cloned().iter().flat_map(|catalog| catalog.groups()) {
            self.groups.insert(format!("{}/{}", entry.device, entry.name), entry.id);
        }
        self.check_rows();
        self.note(body, &outcome);
        self.check_account();
        let mut printed = format!("{}: {}\n", self.position, show::outcome(&outcome));
        // The id is that of compressed bytes: another version of the library gives another.
        for (name, bytes) in &self.documents {
            let id = holdfast_store::staging::document_id(bytes);
            printed = printed.replace(&id.to_string(), name);
        }
        let records = self.state().effects.get(&id.index).map(|effects| effects.records.as_slice());
        for record in records.unwrap_or_default() {
            writeln!(printed, "   {}", show::record(self, record)).expect("a string takes everything");
        }
        printed
    }

    /// A ledger loaded from the rows has the digest that was kept up to date row by row, and means the same by them.
    fn check_rows(&mut self) {
        self.ledger.take_changes();
        let loaded = Ledger::from_rows(self.ledger.rows()).expect("rows can be read");
        assert_eq!(loaded.digest(), self.ledger.digest(), "some row changed and was not written");
        let numbers = |ledger: &Ledger| -> Vec<(Revision, Vec<DestinationId>)> {
            let revisions = ledger.state().revisions.iter();
            let of = |one: &RevisionState| {
                one.catalog.iter().flat_map(|catalog| catalog.destinations()).map(|(id, _)| id).collect()
            };
            revisions.map(|(id, one)| (*id, of(one))).collect()
        };
        assert_eq!(numbers(&loaded), numbers(&self.ledger), "a restart must not number destinations anew");
    }

    fn note(&mut self, body: &Body, outcome: &Outcome) {
        if let (Body::Command(bytes), Outcome::Appended { batches, .. }) = (body, outcome) {
            let opened = wire::entry::open(bytes.clone()).expect("it was just encoded");
            let Command::Append { batches: headers } = opened.command else { panic!("an append") };
            for (header, outcome) in headers.iter().zip(batches) {
                if let (Source::Polled { group, grid, slot, .. }, BatchOutcome::Accepted) =
                    (header.source, outcome)
                {
                    self.say(group, grid, slot, slot, "samples".to_owned());
                }
            }
        }
        let effects = self.state().effects.get(&Position(self.position)).cloned().unwrap_or_default();
        for record in effects.records {
            if let EffectRecord::Gap { group, grid, first, last, cause, .. } = record {
                self.say(group, grid, first, last, cause.to_string());
            }
        }
    }

    fn say(&mut self, group: GroupId, grid: GridId, first: u64, last: u64, by: String) {
        self.account.entry((group, grid)).or_default().push(Said { first, last, by });
    }

    /// Of each grid, slots 0 … end−1 have been said once each, and `next` of an open one is its end.
    fn check_account(&mut self) {
        for ((group, grid), said) in &mut self.account {
            said.sort_by_key(|said| said.first);
            let mut end = 0;
            for said in said.iter() {
                assert!(
                    said.first == end && said.last >= said.first,
                    "grid {grid}: {said:?}, but slots up to {end} have been said"
                );
                end = said.last + 1;
            }
            if let Some(open) = self.ledger.state().grids.get(group).filter(|open| open.id == *grid) {
                assert_eq!(
                    open.next, end,
                    "grid {grid}: its next slot is the first that nothing was said of"
                );
            }
        }
    }
}

fn session(name: &str) -> SessionId {
    let number: u128 = name.trim_start_matches('s').parse().expect("a session is s1, s2, …");
    SessionId::from(number)
}

fn place(text: &str) -> (Position, model::Ordinal) {
    let Cursor { position, ordinal } = text.parse().expect("POSITION/ORDINAL");
    (position, ordinal)
}

fn rejection(text: &str, bytes: usize) -> Rejection {
    let (position, ordinal) = place(text);
    Rejection { position, ordinal, reason: "too large".to_owned(), record: vec![b'x'; bytes] }
}

fn refused_again(text: &str) -> RefusedAgain {
    let (position, ordinal) = place(text);
    RefusedAgain { position, ordinal, reason: "still too large".to_owned() }
}

fn encoded(source: Source, count: u32, node: NodeId, oldest: Timestamp) -> EncodedBatch {
    let sample = |number: u32| Sample {
        tag: TagId(1 + number),
        source_time: oldest.plus_nanos(i64::from(number)),
        reading: Reading::Good(Value::F64(f64::from(number))),
    };
    let samples = (0..count).map(sample).collect();
    let batch =
        Batch::new(source, node, Revision(1), Timestamp(0), samples).expect("it holds at least one sample");
    EncodedBatch::encode(&batch).expect("a few samples can be encoded")
}
