//! Pushers against servers that acknowledge, refuse, break off and fall silent.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::pin::Pin;

use model::{Timestamp, Value};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response};
use wire::proto::v1::ingest_server::{Ingest, IngestServer};
use wire::proto::v1::push_request::Samples;
use wire::proto::v1::push_response::{Acknowledged, RefusalReason, Refused};

use super::*;
use crate::history::{Entry, Kind};

/// What a node does after it has taken so many messages of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    Refuse,
    BreakOff,
    FallSilent,
}

/// A node that acknowledges at once.
#[derive(Clone)]
struct Node {
    after: u64,
    then: Then,
    log: Arc<Mutex<Vec<Samples>>>,
}

type Answers = Pin<Box<dyn futures::Stream<Item = Result<PushResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Ingest for Node {
    type PushStream = Answers;

    async fn push(&self, request: Request<Streaming<PushRequest>>) -> Result<Response<Answers>, Status> {
        let welcome = Welcome { window_messages: 8, ..Welcome::default() };
        let node = self.clone();
        let answers = request.into_inner().filter_map(move |request| {
            let answer = match request.expect("no error").content.expect("never empty") {
                Ask::Declare(declare) => {
                    let count = declare.tags.len() as u32;
                    Some(Ok(Answer::Declared(Declared { count, ..Declared::default() })))
                }
                Ask::Samples(samples) => node.take(samples),
            };
            std::future::ready(answer)
        });
        let first = futures::stream::iter([Ok(Answer::Welcome(welcome))]);
        let content = |answer: Result<_, _>| answer.map(|content| PushResponse { content: Some(content) });
        Ok(Response::new(Box::pin(first.chain(answers).map(content))))
    }
}

impl Node {
    fn take(&self, samples: Samples) -> Option<Result<Answer, Status>> {
        let sequence = samples.sequence;
        if sequence > self.after {
            match self.then {
                Then::GoOn => {}
                Then::FallSilent => return None,
                Then::BreakOff => return Some(Err(Status::unavailable("broken off"))),
                Then::Refuse => {
                    let (reason, text) = (RefusalReason::NoQuorum.into(), "no quorum".to_owned());
                    let refused = Refused {
                        first: sequence,
                        last: sequence,
                        reason,
                        text,
                        retry_after_ms: 1,
                        expected: sequence,
                    };
                    return Some(Ok(Answer::Refused(refused)));
                }
            }
        }
        let mut log = self.log.lock().expect("no test panics here");
        log.push(samples);
        let position = Some(log.len() as u64);
        let (lineage, ordinals) = ("00000001".to_owned(), vec![0]);
        Some(Ok(Answer::Acknowledged(Acknowledged {
            first: sequence,
            last: sequence,
            position,
            lineage,
            ordinals,
        })))
    }
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no test panics here").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_000)
    }
}

/// Servers that share one log, and what a pusher needs to reach them.
struct Plant {
    log: Arc<Mutex<Vec<Samples>>>,
    config: PusherConfig,
    memory: Memory,
    history: History,
}

impl Plant {
    async fn start(nodes: &[(u64, Then)]) -> Self {
        let log = Arc::<Mutex<Vec<Samples>>>::default();
        let mut endpoints = Vec::new();
        for (after, then) in nodes.iter().copied() {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound");
            let node = Node { after, then, log: log.clone() };
            let serving = Server::builder()
                .add_service(IngestServer::new(node))
                .serve_with_incoming(TcpListenerStream::new(listener));
            tokio::spawn(serving);
            endpoints.push(Endpoint::from_shared(format!("http://{address}")).expect("a URL"));
        }
        let content = Content {
            counter: "line/count".into(),
            bodies: vec!["line/a".into(), "line/b".into()],
            body: Body::Number,
            samples: 5,
            apart_ns: 1,
            seed: 1,
        };
        let config = PusherConfig {
            name: "pusher-1".into(),
            endpoints,
            content,
            window: 6,
            interval: None,
            messages: Some(50),
            patience: Duration::from_millis(500),
            drain: Duration::from_secs(2),
            clock: Arc::new(StoppedClock),
        };
        let memory = Memory::default();
        let history = History::to_writer(memory.clone());
        Self { log, config, memory, history }
    }

    async fn run(&self) -> (PusherReport, Arc<PusherStats>) {
        let pusher = Pusher::new(self.config.clone(), Some(self.history.clone()));
        let stats = pusher.stats();
        let running = pusher.run(CancellationToken::new());
        let report = tokio::time::timeout(Duration::from_secs(30), running).await.expect("it ends by itself");
        (report, stats)
    }

    fn notes(&self) -> Vec<Entry<PushNote>> {
        self.history.flush().expect("memory has room");
        let text =
            String::from_utf8(self.memory.0.lock().expect("no test panics here").clone()).expect("JSON");
        text.lines().map(|line| serde_json::from_str(line).expect("an entry")).collect()
    }

    /// Each message is in the log, in order of first arrival, with the values of its number.
    fn check_log(&self) {
        let log = self.log.lock().expect("no test panics here");
        let mut seen = BTreeSet::new();
        let mut times = BTreeMap::new();
        for samples in log.iter() {
            let number = samples.unsigned[0];
            if seen.insert(number) {
                assert_eq!(seen.len() as u64, number + 1, "message {number} came before an earlier one");
            }
            for (index, value) in (1..).zip(&samples.doubles) {
                assert_eq!(self.config.content.sample(number, index).1, Value::F64(*value));
            }
            assert_eq!(*times.entry(number).or_insert(samples.base_time), samples.base_time);
        }
        assert_eq!(seen.len(), 50);
        let distinct: BTreeSet<_> = times.values().collect();
        assert_eq!(distinct.len(), 50, "source times repeat");
    }
}

#[tokio::test]
async fn every_message_is_sent_once_and_its_acknowledgement_noted() {
    let plant = Plant::start(&[(0, Then::GoOn)]).await;
    let (report, stats) = plant.run().await;
    assert_eq!((report.counts.sent, report.counts.acknowledged, report.unsettled), (50, 50, 0));
    assert_eq!((stats.take_latencies().count(), stats.take_latencies().count()), (50, 0));
    plant.check_log();
    let notes = plant.notes();
    let acknowledged: Vec<_> = notes.iter().filter(|note| note.kind == Kind::Ok).collect();
    assert_eq!((notes.len(), acknowledged.len()), (100, 50));
    let first = &acknowledged[0].details;
    assert_eq!((first.number, first.position, first.ordinal), (0, Some(1), Some(0)));
    assert_eq!((first.lineage.as_deref(), first.base_time), (Some("00000001"), 1_000));
}

#[tokio::test]
async fn a_refusal_sends_it_to_the_next_node_with_all_that_is_unacknowledged() {
    let plant = Plant::start(&[(7, Then::Refuse), (0, Then::GoOn)]).await;
    let (report, _) = plant.run().await;
    assert_eq!((report.counts.acknowledged, report.counts.connections, report.unsettled), (50, 2, 0));
    assert!(report.counts.refused >= 1);
    plant.check_log();
    let failed = plant.notes().into_iter().find(|note| note.kind == Kind::Fail).expect("a refusal is noted");
    assert_eq!((failed.details.number, failed.details.reason.as_deref()), (7, Some("no quorum")));
}

#[tokio::test]
async fn a_broken_stream_leaves_unknown_messages_that_are_sent_again() {
    let plant = Plant::start(&[(4, Then::BreakOff), (9, Then::BreakOff), (0, Then::GoOn)]).await;
    let (report, _) = plant.run().await;
    assert_eq!((report.counts.acknowledged, report.counts.connections, report.unsettled), (50, 3, 0));
    plant.check_log();
    let notes = plant.notes();
    let unknown = notes.iter().filter(|note| note.kind == Kind::Info).count() as u64;
    assert_eq!(unknown, report.counts.unanswered);
    let again =
        notes.iter().filter(|note| note.kind == Kind::Invoke && note.details.attempt > 0).count() as u64;
    assert_eq!(again, report.counts.sent - 50);
}

#[tokio::test]
async fn a_silent_node_is_left() {
    let plant = Plant::start(&[(3, Then::FallSilent), (0, Then::GoOn)]).await;
    let (report, _) = plant.run().await;
    assert_eq!((report.counts.acknowledged, report.unsettled), (50, 0));
    plant.check_log();
}

#[tokio::test]
async fn a_node_that_is_not_there_is_passed_over() {
    let mut plant = Plant::start(&[(0, Then::GoOn)]).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound");
    plant.config.endpoints.insert(0, Endpoint::from_shared(format!("http://{closed}")).expect("a URL"));
    let (report, _) = plant.run().await;
    assert_eq!((report.counts.acknowledged, report.counts.connections), (50, 1));
    plant.check_log();
}

#[tokio::test]
async fn cancelled_it_makes_no_new_messages_and_waits_for_acknowledgements() {
    let mut plant = Plant::start(&[(0, Then::GoOn)]).await;
    plant.config.messages = None;
    plant.config.interval = Some(Duration::from_millis(5));
    let token = CancellationToken::new();
    let pusher = Pusher::new(plant.config.clone(), None);
    let stats = pusher.stats();
    let running = tokio::spawn(pusher.run(token.clone()));
    let some = async {
        while stats.counts().acknowledged < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), some).await.expect("three are acknowledged");
    token.cancel();
    let report =
        tokio::time::timeout(Duration::from_secs(10), running).await.expect("it ends").expect("no panic");
    assert_eq!((report.counts.sent, report.unsettled), (report.counts.acknowledged, 0));
}

#[tokio::test]
async fn cancelled_without_an_answer_it_gives_up_after_a_while_and_says_what_is_unsettled() {
    let mut plant = Plant::start(&[(3, Then::FallSilent)]).await;
    plant.config.drain = Duration::from_millis(100);
    plant.config.patience = Duration::from_secs(60);
    let token = CancellationToken::new();
    let pusher = Pusher::new(plant.config.clone(), None);
    let stats = pusher.stats();
    let running = tokio::spawn(pusher.run(token.clone()));
    let stuck = async {
        while stats.counts().sent < 9 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), stuck).await.expect("three acknowledged, six on their way");
    token.cancel();
    let report =
        tokio::time::timeout(Duration::from_secs(10), running).await.expect("it ends").expect("no panic");
    assert_eq!((report.counts.acknowledged, report.counts.unanswered, report.unsettled), (3, 6, 6));
}
