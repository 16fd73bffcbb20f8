//! Streams on a scripted log, in virtual time.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Mutex;

use model::{Lineage, Ordinal, Position, Reading, TagId, Term, Value, ValueType};
use runtime::{Supervisor, SystemClock};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use wire::proto::v1::push_request::Type;
use wire::proto::v1::push_response::{ContentProblem, RefusalReason as Reason};

use super::*;
use crate::dictionary::tests::{Catalog, declare};
use crate::intake::{self, Times};
use crate::log::{Log, Outcome, ProposeError, Proposed};

/// What the log does with proposals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Commit,
    CommitAndLoseTheAnswer,
    Refuse(ProposeError),
    Hang,
}

/// A log that applies as the ledger does, in the mood a test gives it.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) mood: watch::Sender<Mood>,
    reign: watch::Sender<Term>,
    ledger: Mutex<(HashMap<SessionId, u64>, Vec<EncodedBatch>, u64)>,
}

impl Script {
    pub(crate) fn new(mood: Mood) -> Arc<Self> {
        let (mood, reign) = (watch::Sender::new(mood), watch::Sender::new(Term(1)));
        Arc::new(Self { mood, reign, ledger: Mutex::default() })
    }

    fn append(&self, batches: Vec<EncodedBatch>) -> Proposed {
        let mut ledger = self.ledger.lock().expect("no test panics here");
        let (last, log, position) = &mut *ledger;
        *position += 1;
        let mut ordinal = 0;
        let mut outcomes = Vec::new();
        for batch in batches {
            let Source::Pushed { session, sequence } = batch.header.source else { panic!("not pushed") };
            let last = last.entry(session).or_default();
            let first_ordinal = Ordinal(ordinal);
            ordinal += batch.header.count;
            outcomes.push(if sequence == *last + 1 {
                *last = sequence;
                log.push(batch);
                Outcome::Accepted { first_ordinal }
            } else if sequence <= *last {
                Outcome::Already
            } else {
                Outcome::Expected { sequence: *last + 1 }
            });
        }
        Proposed { position: Position(*position), lineage: Lineage::from_random(5), outcomes }
    }

    /// The values of all accepted samples, in the order of the log.
    fn values(&self) -> Vec<f32> {
        let ledger = self.ledger.lock().expect("no test panics here");
        let samples = ledger.1.iter().flat_map(|batch| batch.decode().expect("was encoded").into_samples());
        let value = |sample: model::Sample| match sample.reading {
            Reading::Good(Value::F32(value)) => value,
            other => panic!("{other:?} was not pushed"),
        };
        samples.map(value).collect()
    }
}

impl Log for Script {
    async fn propose(&self, batches: Vec<EncodedBatch>) -> Result<Proposed, ProposeError> {
        let mood = *self.mood.borrow();
        match mood {
            Mood::Commit => Ok(self.append(batches)),
            Mood::CommitAndLoseTheAnswer => {
                self.append(batches);
                Err(ProposeError::Unknown)
            }
            Mood::Refuse(error) => Err(error),
            Mood::Hang => {
                let mut mood = self.mood.subscribe();
                mood.wait_for(|mood| *mood != Mood::Hang).await.expect("the script lives");
                Err(ProposeError::Unknown)
            }
        }
    }

    fn applied(&self, session: SessionId) -> u64 {
        self.ledger.lock().expect("no test panics here").0.get(&session).copied().unwrap_or(0)
    }

    fn reign(&self) -> watch::Receiver<Term> {
        self.reign.subscribe()
    }
}

struct Node {
    shared: Arc<Shared<Catalog>>,
    log: Arc<Script>,
    supervisor: Supervisor,
}

impl Node {
    fn start(mood: Mood, config: IngestConfig) -> Self {
        let log = Script::new(mood);
        let (supervisor, spawner) = Supervisor::new();
        let intake = Arc::new(Intake::new(SessionId::from(1), config.batcher));
        let token = spawner.token().clone();
        let times = Times { proposal_timeout: config.proposal_timeout, grace: config.grace };
        spawner.spawn("ingest", intake::run(intake.clone(), log.clone(), times, token.clone()));
        let shared = Shared {
            intake,
            tags: Arc::new(Catalog::new(&[("press/force", 7, ValueType::F32)])),
            clock: Arc::new(SystemClock),
            node: NodeId(3),
            counts: Counts::default(),
            memory: Memory::new(config.memory_bytes),
            dictionaries: Arc::new(Semaphore::new(config.dictionary_bytes as usize)),
            streams: Arc::new(Semaphore::new(config.max_streams)),
            token,
            config,
        };
        Self { shared: Arc::new(shared), log, supervisor }
    }

    fn connect(&self) -> Client {
        let (requests, inbound) = tokio::sync::mpsc::channel(64);
        let permit = self.shared.streams.clone().try_acquire_owned().expect("a stream is free");
        let stream = PushStream::new(self.shared.clone(), ReceiverStream::new(inbound), permit);
        Client { requests: Some(requests), responses: Box::pin(stream.into_responses()) }
    }

    /// A stream that has been welcomed and has declared the one tag of the plant.
    async fn connect_and_declare(&self) -> Client {
        let mut client = self.connect();
        client.send(Asked::Declare(declare(&[("press/force", Type::F32)]))).await;
        assert!(matches!(client.next().await, Answered::Welcome(_)));
        assert!(matches!(client.next().await, Answered::Declared(declared) if declared.errors.is_empty()));
        client
    }
}

struct Client {
    requests: Option<mpsc::Sender<Result<PushRequest, Status>>>,
    responses: Pin<Box<dyn Stream<Item = Result<PushResponse, Status>> + Send>>,
}

impl Client {
    async fn send(&mut self, content: Asked) {
        let request = PushRequest { content: Some(content) };
        self.requests.as_ref().expect("still open").send(Ok(request)).await.expect("the stream lives");
    }

    /// Sends messages of one sample each, whose value is the message's number.
    async fn push(&mut self, sequences: impl IntoIterator<Item = u64>) {
        for sequence in sequences {
            self.send(Asked::Samples(message(sequence))).await;
        }
    }

    async fn next_or_end(&mut self) -> Option<Result<Answered, Status>> {
        let next = tokio::time::timeout(Duration::from_secs(60), self.responses.next());
        let response = next.await.expect("a response within a minute")?;
        Some(response.map(|response| response.content.expect("never empty")))
    }

    async fn next(&mut self) -> Answered {
        self.next_or_end().await.expect("the stream goes on").expect("no error")
    }

    /// Reads acknowledgements up to this message; gives the number of the first.
    async fn acknowledged_to(&mut self, last: u64) -> u64 {
        let mut first = None;
        loop {
            match self.next().await {
                Answered::Acknowledged(run) => {
                    first.get_or_insert(run.first);
                    if run.last == last {
                        return first.expect("just set");
                    }
                }
                other => panic!("expected an acknowledgement, got {other:?}"),
            }
        }
    }

    async fn refused(&mut self) -> Refused {
        match self.next().await {
            Answered::Refused(refused) => refused,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    /// Drives the stream as far as it goes without a response.
    async fn is_silent(&mut self) -> bool {
        for _ in 0..100 {
            if !matches!(futures::poll!(self.responses.next()), Poll::Pending) {
                return false;
            }
            tokio::task::yield_now().await;
        }
        true
    }
}

fn message(sequence: u64) -> Samples {
    Samples { sequence, base_time: 17, tags: vec![0], floats: vec![sequence as f32], ..Samples::default() }
}

fn numbers(range: std::ops::RangeInclusive<u16>) -> Vec<f32> {
    range.map(f32::from).collect()
}

#[tokio::test(start_paused = true)]
async fn messages_are_acknowledged_in_order_with_the_keys_of_their_samples() {
    let node = Node::start(Mood::Commit, IngestConfig::default());
    let mut client = node.connect_and_declare().await;
    client.push(1..=10).await;
    let mut next = 1;
    while next <= 10 {
        let Answered::Acknowledged(run) = client.next().await else { panic!("expected an acknowledgement") };
        assert_eq!(run.first, next);
        assert_eq!(run.lineage, Lineage::from_random(5).to_string());
        assert!(run.position.is_some());
        assert_eq!(run.ordinals.len() as u64, run.last - run.first + 1);
        next = run.last + 1;
    }
    assert_eq!(node.log.values(), numbers(1..=10));
    let ledger = node.log.ledger.lock().expect("no test panics here");
    let first = ledger.1[0].decode().expect("was encoded");
    assert_eq!((first.samples()[0].tag, first.samples()[0].source_time), (TagId(7), Timestamp(17)));
    assert_eq!(first.header().node, NodeId(3));
}

#[tokio::test(start_paused = true)]
async fn a_rejected_message_uses_up_its_number_and_the_stream_goes_on() {
    let node = Node::start(Mood::Commit, IngestConfig::default());
    let mut client = node.connect_and_declare().await;
    client.send(Asked::Samples(Samples { sequence: 1, ..Samples::default() })).await;
    client.push([2]).await;
    let Answered::Rejected(rejected) = client.next().await else { panic!("expected a rejection") };
    assert_eq!((rejected.sequence, rejected.reasons[0].problem()), (1, ContentProblem::Empty));
    assert_eq!(client.acknowledged_to(2).await, 2);
    assert_eq!(node.shared.counts.read().messages_rejected, 1);
}

#[tokio::test(start_paused = true)]
async fn only_the_next_number_is_taken() {
    let node = Node::start(Mood::Commit, IngestConfig::default());
    let mut client = node.connect_and_declare().await;
    client.push([2, 3]).await;
    for sequence in [2, 3] {
        let refused = client.refused().await;
        assert_eq!((refused.first, refused.expected, refused.reason()), (sequence, 1, Reason::OutOfOrder));
    }
    client.push([1, 2]).await;
    client.acknowledged_to(2).await;
    assert_eq!(node.log.values(), numbers(1..=2));
}

#[tokio::test(start_paused = true)]
async fn without_a_quorum_messages_are_refused_in_time_and_taken_when_sent_again() {
    let node = Node::start(Mood::Refuse(ProposeError::NoQuorum), IngestConfig::default());
    let mut client = node.connect_and_declare().await;
    let begun = Instant::now();
    client.push(1..=5).await;
    let refused = client.refused().await;
    assert_eq!((refused.first, refused.last, refused.expected), (1, 5, 1));
    assert_eq!(refused.reason(), Reason::NoQuorum);
    assert!(begun.elapsed() >= Duration::from_secs(5) && begun.elapsed() < Duration::from_secs(6));
    assert!(refused.retry_after_ms > 0);
    assert!(node.log.values().is_empty());

    node.log.mood.send_replace(Mood::Commit);
    tokio::time::sleep(Duration::from_millis(refused.retry_after_ms.into())).await;
    client.push(1..=5).await;
    client.acknowledged_to(5).await;
    assert_eq!(node.log.values(), numbers(1..=5));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_later_messages_overtakes_an_undecided_one() {
    let node = Node::start(Mood::Hang, IngestConfig::default());
    let mut client = node.connect_and_declare().await;
    client.push([1]).await;
    assert!(client.is_silent().await);
    // The first proposal is lost, all that follows is refused.
    node.log.mood.send_replace(Mood::Refuse(ProposeError::NoSpace));
    client.push([2, 3]).await;
    let refused = client.refused().await;
    assert_eq!((refused.first, refused.last, refused.expected, refused.reason()), (2, 3, 2, Reason::NoSpace));
    node.log.mood.send_replace(Mood::Commit);
    assert_eq!(client.acknowledged_to(1).await, 1);
    client.push([2, 3]).await;
    client.acknowledged_to(3).await;
    assert_eq!(node.log.values(), numbers(1..=3));
}

#[tokio::test(start_paused = true)]
async fn lost_answers_and_a_new_leader_leave_every_message_in_the_log_once() {
    let node = Node::start(Mood::CommitAndLoseTheAnswer, IngestConfig::default());
    let mut client = node.connect_and_declare().await;
    client.push(1..=3).await;
    assert!(client.is_silent().await);
    node.log.reign.send_replace(Term(2));
    assert_eq!(client.acknowledged_to(3).await, 1);
    node.log.mood.send_replace(Mood::Hang);
    client.push(4..=6).await;
    assert!(client.is_silent().await);
    node.log.mood.send_replace(Mood::Commit);
    node.log.reign.send_replace(Term(3));
    client.acknowledged_to(6).await;
    assert_eq!(node.log.values(), numbers(1..=6));
}

#[tokio::test(start_paused = true)]
async fn a_full_window_is_not_read_beyond() {
    let config = IngestConfig { window_messages: 4, ..IngestConfig::default() };
    let node = Node::start(Mood::Hang, config);
    let mut client = node.connect_and_declare().await;
    client.push(1..=10).await;
    assert!(client.is_silent().await);
    let waiting = 64 - client.requests.as_ref().expect("still open").capacity();
    assert_eq!(waiting, 6, "four of ten messages are read");
    node.log.mood.send_replace(Mood::Commit);
    client.acknowledged_to(10).await;
    assert_eq!(node.log.values(), numbers(1..=10));
}

#[tokio::test(start_paused = true)]
async fn the_memory_of_a_node_bounds_all_its_streams_and_nothing_is_dropped() {
    let size = u32::try_from(size_of(&message(1))).expect("small");
    let config = IngestConfig { memory_bytes: 3 * size, max_message_bytes: size, ..IngestConfig::default() };
    let node = Node::start(Mood::Hang, config);
    let (mut first, mut second) = (node.connect_and_declare().await, node.connect_and_declare().await);
    first.push(1..=8).await;
    second.push(1..=8).await;
    assert!(first.is_silent().await && second.is_silent().await);
    assert_eq!(node.shared.memory.free(), 0);
    let unread = |client: &Client| 64 - client.requests.as_ref().expect("still open").capacity();
    let left = (unread(&first), unread(&second));
    assert_eq!(left.0 + left.1, 13, "three are queued, and nothing else is read: {left:?}");
    node.log.mood.send_replace(Mood::Commit);
    let (_, _) = tokio::join!(first.acknowledged_to(8), second.acknowledged_to(8));
    assert_eq!(node.log.values().len(), 16);
    assert_eq!(node.shared.memory.free(), 3 * size as usize);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_answers_keeps_no_memory_from_the_others() {
    let size = u32::try_from(size_of(&message(1))).expect("small");
    let config = IngestConfig { memory_bytes: size, max_message_bytes: size, ..IngestConfig::default() };
    let node = Node::start(Mood::Hang, config);
    let (mut first, mut second) = (node.connect_and_declare().await, node.connect_and_declare().await);
    let mut deaf = node.connect_and_declare().await;
    first.push([1]).await;
    assert!(first.is_silent().await);
    assert_eq!(node.shared.memory.free(), 0);
    // It waits for memory, and is not polled any more.
    assert!(matches!(futures::poll!(deaf.responses.next()), Poll::Pending));
    node.log.mood.send_replace(Mood::Commit);
    first.acknowledged_to(1).await;
    second.push([1]).await;
    second.acknowledged_to(1).await;
    assert_eq!(node.shared.memory.free(), size as usize);
}

#[tokio::test(start_paused = true)]
async fn a_large_message_waits_for_one_message_of_a_client_that_always_has_more() {
    let large = Samples { tags: vec![0; 3], floats: vec![1_000.0; 3], ..message(1) };
    let size = u32::try_from(size_of(&large)).expect("small");
    let config = IngestConfig { memory_bytes: size, max_message_bytes: size, ..IngestConfig::default() };
    let node = Node::start(Mood::Hang, config);
    let (mut busy, mut other) = (node.connect_and_declare().await, node.connect_and_declare().await);
    busy.push(1..=60).await;
    assert!(busy.is_silent().await, "the first is queued");
    other.send(Asked::Samples(large)).await;
    assert!(other.is_silent().await, "there is no room for it");
    node.log.mood.send_replace(Mood::Commit);
    let busy = tokio::spawn(async move { busy.acknowledged_to(60).await });
    let other = tokio::spawn(async move { other.acknowledged_to(1).await });
    busy.await.expect("all is acknowledged");
    other.await.expect("it is acknowledged");
    let values = node.log.values();
    let before = values.iter().take_while(|value| **value < 1_000.0).count();
    assert!(before <= 2, "{before} messages of the other client went before it");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_not_read_for_want_of_memory_is_not_silent() {
    let node = Node::start(Mood::Commit, IngestConfig::default());
    let IngestConfig { memory_bytes, first_message, .. } = node.shared.config;
    let held = node.shared.memory.take(memory_bytes).expect("nothing is taken");
    let mut client = node.connect();
    client.send(Asked::Declare(declare(&[("press/force", Type::F32)]))).await;
    assert!(matches!(client.next().await, Answered::Welcome(_)));
    let sent_away = tokio::time::timeout(first_message * 3, client.responses.next()).await;
    assert!(sent_away.is_err(), "{sent_away:?}");
    drop(held);
    assert!(matches!(client.next().await, Answered::Declared(_)));
}

#[tokio::test(start_paused = true)]
async fn a_stopping_node_answers_what_is_decided_and_says_what_is_not() {
    let node = Node::start(Mood::Hang, IngestConfig::default());
    let mut client = node.connect_and_declare().await;
    client.push(1..=9).await;
    assert!(client.is_silent().await);
    let listen = async {
        let mut told = HashMap::new();
        loop {
            match client.next_or_end().await.expect("a status at the end") {
                Ok(Answered::Refused(run)) => {
                    told.extend((run.first..=run.last).map(|number| (number, run.reason())));
                }
                Ok(other) => panic!("nothing can be acknowledged, got {other:?}"),
                Err(status) => break (told, status),
            }
        }
    };
    let (ended_by_itself, (told, end)) =
        tokio::join!(node.supervisor.shut_down(Duration::from_secs(30)), listen);
    assert!(ended_by_itself);
    assert_eq!(end.code(), tonic::Code::Unavailable);
    assert_eq!(told.len(), 9);
    assert!(told.values().all(|reason| matches!(reason, Reason::Stopping | Reason::Undecided)), "{told:?}");
    assert_eq!(told[&1], Reason::Undecided);
    assert!(client.next_or_end().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_log_that_ends_is_the_end_of_the_node() {
    let mut node = Node::start(Mood::Refuse(ProposeError::Stopped), IngestConfig::default());
    let mut client = node.connect_and_declare().await;
    client.push([1]).await;
    assert_eq!(client.refused().await.reason(), Reason::Undecided, "it may be in the log");
    let failure = tokio::time::timeout(Duration::from_secs(60), node.supervisor.failure()).await;
    assert_eq!(failure.expect("it does not look well and refuse everything").task, "ingest");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_ends_after_its_node_was_told_to_stop_is_no_failure() {
    let mut node = Node::start(Mood::Hang, IngestConfig::default());
    let mut client = node.connect_and_declare().await;
    client.push([1]).await;
    assert!(client.is_silent().await);
    node.shared.token.cancel();
    node.log.mood.send_replace(Mood::Refuse(ProposeError::Stopped));
    assert_eq!(client.refused().await.reason(), Reason::Undecided);
    let failure = node.supervisor.failure();
    assert!(matches!(futures::poll!(std::pin::pin!(failure)), Poll::Pending));
    assert!(node.supervisor.shut_down(Duration::from_secs(30)).await);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_no_more_gets_its_answers_and_the_end() {
    let node = Node::start(Mood::Commit, IngestConfig::default());
    let mut client = node.connect_and_declare().await;
    client.push(1..=3).await;
    client.requests = None;
    client.acknowledged_to(3).await;
    assert!(client.next_or_end().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_sent_away() {
    let node = Node::start(Mood::Commit, IngestConfig::default());
    let mut client = node.connect();
    assert!(matches!(client.next().await, Answered::Welcome(_)));
    let end = client.next_or_end().await.expect("a status").expect_err("sent away");
    assert_eq!(end.code(), tonic::Code::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn a_request_without_content_ends_the_stream() {
    let node = Node::start(Mood::Commit, IngestConfig::default());
    let mut client = node.connect_and_declare().await;
    client.push([1]).await;
    client.requests.as_ref().expect("open").send(Ok(PushRequest { content: None })).await.expect("lives");
    client.acknowledged_to(1).await;
    let end = client.next_or_end().await.expect("a status").expect_err("it breaks the rules");
    assert_eq!(end.code(), tonic::Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn a_new_revision_under_a_stream_is_followed() {
    let node = Node::start(Mood::Commit, IngestConfig::default());
    let mut client = node.connect_and_declare().await;
    node.shared.tags.set(&[("press/speed", 8, ValueType::F32)]);
    client.push([1]).await;
    let Answered::Declared(declared) = client.next().await else { panic!("the tag is gone") };
    assert_eq!(declared.errors.len(), 1);
    let Answered::Rejected(rejected) = client.next().await else { panic!("the tag is gone") };
    assert_eq!(rejected.reasons[0].problem(), ContentProblem::Tag);
    node.shared.tags.set(&[("press/force", 7, ValueType::F32)]);
    client.push([2]).await;
    assert!(matches!(client.next().await, Answered::Declared(declared) if declared.errors.is_empty()));
    client.acknowledged_to(2).await;
}

#[tokio::test(start_paused = true)]
async fn dictionaries_share_a_bound_and_give_it_back() {
    let config = IngestConfig { dictionary_bytes: 100, ..IngestConfig::default() };
    let node = Node::start(Mood::Commit, config);
    let first = node.connect_and_declare().await;
    let mut second = node.connect();
    second.send(Asked::Declare(declare(&[("press/force", Type::F32)]))).await;
    assert!(matches!(second.next().await, Answered::Welcome(_)));
    let end = second.next_or_end().await.expect("a status").expect_err("no room");
    assert_eq!(end.code(), tonic::Code::ResourceExhausted);
    drop(first);
    node.connect_and_declare().await;
}
