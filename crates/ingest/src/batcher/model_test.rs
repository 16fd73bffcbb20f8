//! The batcher against a reference ledger, with random outcomes, losses, delays, leader changes and a ledger that
//! forgets; what clients were told is compared with what the ledger holds.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use model::batch::{BatchHeader, Source};
use model::{Lineage, NodeId, Ordinal, Position, Revision, SessionId, Term, Timestamp};
use proptest::prelude::*;
use wire::EncodedBatch;

use super::*;

/// What the tests put into the queue: a stream's message, recognisable in its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Content {
    pub(super) stream: u64,
    /// Index among the messages of the stream's client, in the order it wants them.
    pub(super) number: u64,
}

impl Content {
    pub(super) fn batch(self) -> EncodedBatch {
        let mut payload = self.stream.to_be_bytes().to_vec();
        payload.extend(self.number.to_be_bytes());
        let header = BatchHeader {
            source: Source::Pushed { session: SessionId::default(), sequence: 0 },
            node: NodeId(1),
            revision: Revision(1),
            gateway_time: Timestamp(0),
            count: 1,
            oldest: Timestamp(0),
            newest: Timestamp(0),
            all_bad: false,
        };
        EncodedBatch { header, payload: Bytes::from(payload) }
    }

    fn of(batch: &EncodedBatch) -> Self {
        let word = |at: usize| u64::from_be_bytes(batch.payload[at..at + 8].try_into().expect("eight bytes"));
        Self { stream: word(0), number: word(8) }
    }
}

/// The session and number of a batch.
pub(super) fn identity(batch: &EncodedBatch) -> (SessionId, u64) {
    match batch.header.source {
        Source::Pushed { session, sequence } => (session, sequence),
        Source::Polled { .. } => panic!("not pushed"),
    }
}

/// What `apply` does with pushed batches, on every node.
#[derive(Debug, Default)]
struct Ledger {
    last: HashMap<SessionId, u64>,
    position: u64,
    log: Vec<(Content, Place)>,
}

impl Ledger {
    fn append(&mut self, batches: &[EncodedBatch]) -> Proposed {
        self.position += 1;
        let (lineage, position) = (Lineage::from_random(7), Position(self.position));
        let outcomes = (0..).zip(batches).map(|(ordinal, batch)| {
            let (session, sequence) = identity(batch);
            let last = self.last.entry(session).or_default();
            if sequence == *last + 1 {
                *last = sequence;
                let ordinal = Ordinal(ordinal);
                self.log.push((Content::of(batch), Place { lineage, position, ordinal }));
                Outcome::Accepted { first_ordinal: ordinal }
            } else if sequence <= *last {
                Outcome::Already
            } else {
                Outcome::Expected { sequence: *last + 1 }
            }
        });
        Proposed { position, lineage, outcomes: outcomes.collect() }
    }

    fn applied(&self, session: SessionId) -> u64 {
        self.last.get(&session).copied().unwrap_or(0)
    }
}

/// A client that re-sends what was refused, in order.
#[derive(Debug, Default)]
struct Client {
    generation: Generation,
    next: u64,
    made: u64,
    /// The first message of this connection: answers to earlier ones reach nobody.
    since: u64,
}

/// What the client of a message was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Pending,
    Accepted(Option<Place>),
    Refused,
    Undecided,
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    CommitAndAnswer,
    CommitAndLose,
    Lose,
    Delay,
    Refuse(ProposeError),
}

#[derive(Debug, Clone)]
enum Step {
    Push {
        stream: u64,
    },
    Propose(Fate),
    /// The answer of a proposal in flight arrives.
    Settle {
        which: usize,
    },
    /// A copy that was lost on its way arrives after all.
    Arrive {
        which: usize,
    },
    Lead {
        lag: bool,
    },
    Observe,
    Pass {
        millis: u64,
    },
    Close {
        stream: u64,
    },
    Forget,
}

struct World {
    now: Instant,
    batcher: Batcher<Content>,
    ledger: Ledger,
    clients: BTreeMap<u64, Client>,
    told: BTreeMap<Content, Told>,
    /// Answers on their way back.
    answers: Vec<(FlightId, Result<Proposed, ProposeError>)>,
    /// Copies that may still arrive at a leader, and whose flight it will answer, if any.
    limbo: Vec<(Option<FlightId>, Vec<EncodedBatch>)>,
    /// What every copy ever proposed meant.
    meant: HashMap<(SessionId, u64), Content>,
    term: u64,
    forgot: bool,
}

impl World {
    fn new() -> Self {
        let limits = BatcherLimits { proposal_bytes: 48, ..BatcherLimits::default() };
        let mut batcher = Batcher::new(SessionId::from(1), limits);
        let clients: BTreeMap<_, _> = (0..3).map(|stream| (stream, Client::default())).collect();
        for stream in clients.keys() {
            batcher.open(StreamId(*stream));
        }
        Self {
            now: tokio::time::Instant::now().into_std(),
            batcher,
            ledger: Ledger::default(),
            clients,
            told: BTreeMap::new(),
            answers: Vec::new(),
            limbo: Vec::new(),
            meant: HashMap::new(),
            term: 0,
            forgot: false,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Push { stream } => self.push(stream),
            Step::Propose(fate) => self.propose(fate),
            Step::Settle { which } => self.settle(which),
            Step::Arrive { which } => self.arrive(which),
            Step::Lead { lag } => self.lead(lag),
            Step::Observe => {
                let applied = self.ledger.applied(self.batcher.session());
                let answers = self.batcher.observe_applied(self.now, applied);
                self.tell(answers);
            }
            Step::Pass { millis } => {
                self.now += Duration::from_millis(millis);
                let answers = self.batcher.tick(self.now);
                self.tell(answers);
            }
            Step::Close { stream } => self.reconnect(stream),
            Step::Forget => self.forget(),
        }
    }

    fn push(&mut self, stream: u64) {
        let client = self.clients.get_mut(&stream).expect("three clients");
        // This client does not repeat what may be there already.
        while self.told.get(&Content { stream, number: client.next }) == Some(&Told::Undecided) {
            client.next += 1;
        }
        let content = Content { stream, number: client.next };
        client.next += 1;
        client.made = client.made.max(client.next);
        let generation = client.generation;
        self.told.insert(content, Told::Pending);
        let refused =
            self.batcher.enqueue(self.now, StreamId(stream), generation, content.batch(), content).err();
        if let Some(NotQueued { ticket, verdict }) = refused {
            self.tell(vec![Answer { ticket, verdict }]);
        }
    }

    fn propose(&mut self, fate: Fate) {
        let Some(Proposal { flight, batches }) = self.batcher.next_proposal(self.now) else { return };
        for batch in &batches {
            let content = Content::of(batch);
            // A number may change its meaning only while no copy is under way; the end checks what came of it.
            self.meant.insert(identity(batch), content);
        }
        match fate {
            Fate::CommitAndAnswer => {
                let proposed = self.ledger.append(&batches);
                self.answers.push((flight, Ok(proposed)));
            }
            Fate::CommitAndLose => {
                self.ledger.append(&batches);
                self.answers.push((flight, Err(ProposeError::Unknown)));
            }
            Fate::Lose => {
                self.limbo.push((None, batches));
                self.answers.push((flight, Err(ProposeError::Unknown)));
            }
            Fate::Delay => self.limbo.push((Some(flight), batches)),
            Fate::Refuse(error) => self.answers.push((flight, Err(error))),
        }
    }

    fn settle(&mut self, which: usize) {
        if self.answers.is_empty() {
            return;
        }
        let (flight, result) = self.answers.remove(which % self.answers.len());
        let answers = self.batcher.settled(self.now, flight, result);
        self.tell(answers);
    }

    fn arrive(&mut self, which: usize) {
        if self.limbo.is_empty() {
            return;
        }
        let (flight, batches) = self.limbo.remove(which % self.limbo.len());
        let proposed = self.ledger.append(&batches);
        if let Some(flight) = flight {
            self.answers.push((flight, Ok(proposed)));
        }
    }

    /// A lagging ledger has applied the `Lead` but nothing after it; what is delayed may arrive later still.
    fn lead(&mut self, lag: bool) {
        self.term += 1;
        let mut applied = self.ledger.applied(self.batcher.session());
        if lag {
            applied = applied.min(self.batcher.applied);
        }
        let answers = self.batcher.new_reign(self.now, Term(self.term), applied);
        self.tell(answers);
    }

    fn reconnect(&mut self, stream: u64) {
        self.batcher.close(StreamId(stream));
        self.batcher.open(StreamId(stream));
        let client = self.clients.get_mut(&stream).expect("three clients");
        client.generation = Generation::default();
        // What is pending stays with the node or is dropped; this client sends only new messages.
        client.next = client.made;
        client.since = client.made;
    }

    /// The ledger drops sessions only after a day without use: nothing is under way then.
    fn forget(&mut self) {
        if self.limbo.is_empty() && self.answers.is_empty() {
            self.step(&Step::Pass { millis: 25 * 3_600_000 });
            self.ledger.last.clear();
            self.forgot = true;
        }
    }

    fn tell(&mut self, answers: Vec<Answer<Content>>) {
        for Answer { ticket, verdict } in answers {
            let client = self.clients.get_mut(&ticket.stream).expect("three clients");
            let sent_back = if ticket.number >= client.since { ticket.number } else { client.next };
            let told = self.told.get_mut(&ticket).expect("was pushed");
            assert_ne!(*told, Told::Undecided, "{ticket:?} was answered before");
            assert!(!matches!(told, Told::Accepted(_)), "{ticket:?} was answered before");
            *told = match verdict {
                Verdict::Accepted(place) => Told::Accepted(place),
                Verdict::Refused { generation, .. } => {
                    client.generation = client.generation.max(generation);
                    client.next = client.next.min(sent_back);
                    Told::Refused
                }
                Verdict::Undecided { generation } => {
                    client.generation = client.generation.max(generation);
                    client.next = client.next.min(sent_back);
                    Told::Undecided
                }
            };
        }
    }

    /// Faults end: everything proposed is committed and answered.
    fn heal(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "stuck: {:?}", self.batcher);
            self.propose(Fate::CommitAndAnswer);
            if self.answers.is_empty() && self.limbo.is_empty() {
                // Nothing can be done now: wait.
                self.now = self.now.max(self.batcher.deadline().unwrap_or(self.now));
            }
            while !self.limbo.is_empty() {
                self.arrive(0);
            }
            self.settle(0);
            let answers = self.batcher.tick(self.now);
            self.tell(answers);
            if self.batcher.is_idle() && self.answers.is_empty() {
                break;
            }
        }
    }

    fn check(&self) {
        let mut places: BTreeMap<Content, Vec<Place>> = BTreeMap::new();
        for (content, place) in &self.ledger.log {
            places.entry(*content).or_default().push(*place);
        }
        for (content, told) in &self.told {
            let found = places.get(content).map_or(&[][..], Vec::as_slice);
            match told {
                Told::Accepted(place) => {
                    assert_eq!(found.len(), 1, "{content:?} was acknowledged and is in the log at {found:?}");
                    assert!(place.is_none_or(|place| place == found[0]), "{content:?}: {place:?}, {found:?}");
                }
                Told::Refused => assert!(found.is_empty(), "{content:?} was refused and is at {found:?}"),
                Told::Undecided => assert!(self.forgot && found.len() <= 1, "{content:?} is at {found:?}"),
                // Only the messages of a stream that has ended have nobody to be told.
                Told::Pending => assert!(found.len() <= 1, "{content:?} is at {found:?}"),
            }
        }
        for stream in self.clients.keys() {
            let order: Vec<_> = self.ledger.log.iter().map(|(content, _)| content).collect();
            let numbers =
                order.iter().filter(|content| content.stream == *stream).map(|content| content.number);
            assert!(numbers.is_sorted(), "stream {stream} is out of order: {order:?}");
        }
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::CommitAndAnswer),
        2 => Just(Fate::CommitAndLose),
        2 => Just(Fate::Lose),
        2 => Just(Fate::Delay),
        2 => prop_oneof![
            Just(ProposeError::NoLeader),
            Just(ProposeError::NoQuorum),
            Just(ProposeError::NoSpace),
            Just(ProposeError::Overloaded),
        ].prop_map(Fate::Refuse),
    ]
}

fn step(with_forgetting: bool) -> impl Strategy<Value = Step> {
    let forget = if with_forgetting { 1 } else { 0 };
    prop_oneof![
        10 => (0..3_u64).prop_map(|stream| Step::Push { stream }),
        10 => fate().prop_map(Step::Propose),
        8 => (0..8_usize).prop_map(|which| Step::Settle { which }),
        3 => (0..8_usize).prop_map(|which| Step::Arrive { which }),
        1 => any::<bool>().prop_map(|lag| Step::Lead { lag }),
        1 => Just(Step::Observe),
        4 => (0..3_000_u64).prop_map(|millis| Step::Pass { millis }),
        1 => (0..3_u64).prop_map(|stream| Step::Close { stream }),
        forget => Just(Step::Forget),
    ]
}

fn run(steps: &[Step]) -> World {
    let mut world = World::new();
    for step in steps {
        world.step(step);
    }
    world.heal();
    world.check();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_acknowledged_is_in_the_log_once_and_in_order(
        steps in proptest::collection::vec(step(false), 1..120),
    ) {
        let world = run(&steps);
        // Whoever still has a stream has an answer to each message.
        let closed: Vec<_> = steps.iter().filter_map(|step| match step {
            Step::Close { stream } => Some(*stream),
            _ => None,
        }).collect();
        for (content, told) in &world.told {
            prop_assert!(
                *told != Told::Pending || closed.contains(&content.stream),
                "{:?} was never answered", content,
            );
        }
    }

    #[test]
    fn a_ledger_that_forgets_the_session_costs_no_acknowledged_message(
        steps in proptest::collection::vec(step(true), 1..120),
    ) {
        run(&steps);
    }
}
