//! What ingest hears of the cluster, on replicas in this process.

use futures::StreamExt as _;
use ingest::{IngestConfig, Log as _, Responses};
use replication::MembershipError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use wire::proto::v1::PushRequest;
use wire::proto::v1::push_request::{Content as Ask, Declare, DeclaredTag, Samples, Type};
use wire::proto::v1::push_response::Content as Answer;

use super::*;
use crate::pushing::{PushedTags, ReplicatedLog};

const PUSHED: &str = r#"version = 1
[[device]]
id = "robot"
driver = "push"
tag = [{ name = "count", type = "u64" }]
[[destination]]
id = "historian"
kind = "http"
url = "http://127.0.0.1:18080/ingest"
"#;
const SESSION: u128 = 7;
/// A proposal without an answer for so long is undecided.
const UNDECIDED: Duration = Duration::from_millis(100);
/// For how long it is watched that nothing is acknowledged which is undecided all the time.
const WATCHED: Duration = Duration::from_secs(2);

/// A stream of pushes into a node.
struct Pushing {
    requests: mpsc::Sender<Result<PushRequest, Status>>,
    responses: Responses,
}

impl Pushing {
    /// Lets a node take pushes, and opens a stream that has declared its tag.
    async fn start(node: &Node) -> Self {
        let log = Arc::new(ReplicatedLog::start(node.replica.clone(), &node.spawner));
        let tags = Arc::new(PushedTags(node.replica.clone()));
        let clock = Arc::clone(&node.clock) as Arc<dyn Clock>;
        let (number, session) = (node.replica.node(), SessionId::from(SESSION));
        let config = IngestConfig { proposal_timeout: UNDECIDED, ..IngestConfig::default() };
        let service = ingest::start(&node.spawner, log, tags, clock, number, session, config);
        let (requests, outbound) = mpsc::channel(16);
        let responses = service.open(ReceiverStream::new(outbound)).expect("it is let in");
        let mut pushing = Self { requests, responses };
        let tag = DeclaredTag { name: "robot/count".to_owned(), r#type: Type::U64.into() };
        pushing.send(Ask::Declare(Declare { tags: vec![tag] })).await;
        assert!(matches!(pushing.soon().await, Answer::Welcome(_)));
        assert!(matches!(pushing.soon().await, Answer::Declared(declared) if declared.errors.is_empty()));
        pushing
    }

    async fn send(&self, content: Ask) {
        let request = PushRequest { content: Some(content) };
        self.requests.send(Ok(request)).await.expect("the stream lives");
    }

    async fn push(&self, sequence: u64) {
        let unsigned = vec![sequence];
        self.send(Ask::Samples(Samples { sequence, tags: vec![0], unsigned, ..Samples::default() })).await;
    }

    async fn next(&mut self) -> Answer {
        let response = self.responses.next().await.expect("the stream goes on");
        response.expect("no rule is broken").content.expect("it is about something")
    }

    async fn soon(&mut self) -> Answer {
        timeout(SOON, self.next()).await.expect("in time")
    }

    /// The last message that is acknowledged next.
    async fn acknowledged(&mut self) -> u64 {
        match self.soon().await {
            Answer::Acknowledged(run) => run.last,
            other => panic!("expected an acknowledgement, found {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_no_majority_takes_is_acknowledged_only_when_one_does() {
    let nodes = cluster(3).await;
    let leading = leader(&nodes).await;
    let (node, others) = (&nodes[leading], [&nodes[(leading + 1) % 3], &nodes[(leading + 2) % 3]]);
    node.configure(read_bundle(&Bundle::of_document(PUSHED)).expect("it is valid").plant).await;
    let mut pushing = Pushing::start(node).await;
    pushing.push(1).await;
    assert_eq!(pushing.acknowledged().await, 1);

    // From now on nobody else takes an entry; but both are heard.
    others.iter().for_each(|other| other.free.store(0, Ordering::Relaxed));
    pushing.push(2).await;
    let answer = timeout(WATCHED, pushing.next()).await;
    assert!(answer.is_err(), "it is on one disk of three, and was answered: {answer:?}");
    assert_eq!(node.read(|state| state.sessions[&SessionId::from(SESSION)].last), 1, "it is not committed");

    others.iter().for_each(|other| other.free.store(1 << 40, Ordering::Relaxed));
    assert_eq!(pushing.acknowledged().await, 2);
    assert_eq!(node.read(|state| state.sessions[&SessionId::from(SESSION)].last), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_hears_of_the_reign_that_decides_what_it_had_in_flight() {
    let nodes = cluster(3).await;
    let leading = leader(&nodes).await;
    let [stopping, next] = [&nodes[(leading + 1) % 3], &nodes[(leading + 2) % 3]];
    stopping.until("it follows", |state| state.reign().is_some()).await;
    let spawner = stopping.spawner.child();
    let log = ReplicatedLog::start(stopping.replica.clone(), &spawner);
    let mut reign = log.reign();
    let before = *reign.borrow_and_update();
    spawner.token().cancel();
    let to = Some(next.replica.node());
    let hand_over = async {
        // Until it is known to be caught up.
        while let Err(MembershipError::NoSuccessor(_)) = nodes[leading].replica.transfer_leadership(to).await
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, hand_over).await.expect("it takes over");
    let told = timeout(SOON, reign.wait_for(|term| *term > before)).await.expect("in time");
    assert!(told.is_ok(), "nobody tells of reigns any more");
}

#[tokio::test]
async fn what_was_made_under_a_revision_that_is_gone_is_refused_as_that() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    for _ in 0..5 {
        node.configure(plant(64 * MIB, WhenFull::Refuse)).await;
    }
    let below = node.read(State::applied_position).next();
    let overrun = Some(vec![(HISTORIAN, 0)]);
    assert_eq!(node.propose(Command::Truncate { below, overrun }).await, store::Outcome::Done);
    let log = ReplicatedLog::start(node.replica.clone(), &node.spawner);
    let source = Source::Pushed { session: SessionId::from(7), sequence: 1 };
    let batch = EncodedBatch::encode(&node.batch(source, 1, 8)).expect("it is small");
    let proposing = async {
        loop {
            match log.propose(vec![batch.clone()]).await {
                Err(ingest::ProposeError::NoQuorum) => tokio::time::sleep(Duration::from_millis(20)).await,
                other => break other.expect("it is committed"),
            }
        }
    };
    let proposed = timeout(SOON, proposing).await.expect("the log is led");
    assert_eq!(proposed.outcomes, [ingest::Outcome::RevisionGone]);
}
