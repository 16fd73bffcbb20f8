//! The gRPC service `Ingest`, to be mounted by the gateway.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use model::{Clock, NodeId, SessionId};
use runtime::Spawner;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};
use wire::proto::v1::ingest_server::{Ingest, IngestServer};
use wire::proto::v1::{PushRequest, PushResponse};

use crate::config::IngestConfig;
use crate::counters::{Counts, IngestCounters, add};
use crate::intake::{self, Intake, Times};
use crate::log::Log;
use crate::memory::Memory;
use crate::stream::{PushStream, Shared};
use crate::tags::TagResolver;

/// Largest request that the transport takes: a full message in its widest encoding, or a full declaration.
const MAX_REQUEST: usize = 4 << 20;

/// The service `holdfast.v1.Ingest` of one node. Cheap to clone.
pub struct PushService<R> {
    shared: Arc<Shared<R>>,
}

impl<R> Clone for PushService<R> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

/// Starts the queue of a node and gives the service that feeds it.
///
/// `session` is drawn at random for each start of the process. When the spawner is cancelled, streams are answered
/// and ended within `config.grace`; so it should be cancelled before the log is.
pub fn start<L: Log, R: TagResolver>(
    spawner: &Spawner,
    log: Arc<L>,
    tags: Arc<R>,
    clock: Arc<dyn Clock>,
    node: NodeId,
    session: SessionId,
    config: IngestConfig,
) -> PushService<R> {
    let intake = Arc::new(Intake::new(session, config.batcher));
    let token = spawner.token().clone();
    let times = Times { proposal_timeout: config.proposal_timeout, grace: config.grace };
    spawner.spawn("ingest", intake::run(intake.clone(), log, times, token.clone()));
    let shared = Shared {
        intake,
        tags,
        clock,
        node,
        counts: Counts::default(),
        memory: Memory::new(config.memory_bytes),
        dictionaries: Arc::new(Semaphore::new(config.dictionary_bytes as usize)),
        streams: Arc::new(Semaphore::new(config.max_streams)),
        token,
        config,
    };
    PushService { shared: Arc::new(shared) }
}

/// What a stream is answered; reading it drives the stream.
pub type Responses = Pin<Box<dyn Stream<Item = Result<PushResponse, Status>> + Send>>;

impl<R: TagResolver> PushService<R> {
    /// Opens a stream, whatever its requests come over.
    pub fn open<I>(&self, requests: I) -> Result<Responses, Status>
    where
        I: Stream<Item = Result<PushRequest, Status>> + Send + Unpin + 'static,
    {
        let shared = &self.shared;
        if shared.token.is_cancelled() {
            return Err(Status::unavailable("this node is stopping; go on with another"));
        }
        let Ok(permit) = shared.streams.clone().try_acquire_owned() else {
            add(&shared.counts.streams_refused, 1);
            return Err(Status::resource_exhausted("this node has too many push streams; try another"));
        };
        Ok(Box::pin(PushStream::new(shared.clone(), requests, permit).into_responses()))
    }

    /// The tonic service with its message limits, ready to be mounted.
    pub fn into_server(self) -> IngestServer<Self> {
        IngestServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    /// What it has done since it started.
    pub fn counters(&self) -> IngestCounters {
        let Shared { config, counts, memory, streams, .. } = &*self.shared;
        let used = |all: usize, free: usize| all.saturating_sub(free) as u64;
        IngestCounters {
            streams: used(config.max_streams, streams.available_permits()),
            bytes_held: used(config.memory_bytes as usize, memory.free()),
            ..counts.read()
        }
    }
}

#[tonic::async_trait]
impl<R: TagResolver> Ingest for PushService<R> {
    type PushStream = Responses;

    async fn push(
        &self,
        request: Request<Streaming<PushRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        Ok(Response::new(self.open(request.into_inner())?))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::ValueType;
    use runtime::{Supervisor, SystemClock};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio::time::timeout;
    use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
    use tonic::Code;
    use tonic::transport::{Channel, Server};
    use wire::proto::v1::ingest_client::IngestClient;
    use wire::proto::v1::push_request::{Content as Ask, Samples, Type};
    use wire::proto::v1::push_response::{Content as Answer, ContentProblem};

    use super::*;
    use crate::dictionary::tests::{Catalog, declare};
    use crate::stream::tests::{Mood, Script};

    const LIMIT: Duration = Duration::from_secs(20);

    struct Node {
        service: PushService<Catalog>,
        client: IngestClient<Channel>,
        _supervisor: Supervisor,
    }

    impl Node {
        async fn start(config: IngestConfig) -> Self {
            let (supervisor, spawner) = Supervisor::new();
            let tags = Arc::new(Catalog::new(&[("press/note", 7, ValueType::String)]));
            let (log, clock) = (Script::new(Mood::Commit), Arc::new(SystemClock));
            let service = start(&spawner, log, tags, clock, NodeId(1), SessionId::from(8), config);
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound");
            let router = Server::builder().add_service(service.clone().into_server());
            spawner.spawn("server", router.serve_with_incoming(TcpListenerStream::new(listener)));
            let client = IngestClient::connect(format!("http://{address}")).await.expect("it listens");
            Self { service, client, _supervisor: supervisor }
        }

        /// A stream that has been welcomed and has declared its tag.
        async fn push(&mut self) -> Result<Pushing, Status> {
            let (requests, outbound) = mpsc::channel(16);
            let responses =
                timeout(LIMIT, self.client.push(ReceiverStream::new(outbound))).await.expect("in time");
            let mut pushing = Pushing { requests, responses: responses?.into_inner() };
            pushing.send(Ask::Declare(declare(&[("press/note", Type::String)]))).await;
            assert!(matches!(pushing.next().await?, Answer::Welcome(_)));
            assert!(matches!(pushing.next().await?, Answer::Declared(_)));
            Ok(pushing)
        }
    }

    struct Pushing {
        requests: mpsc::Sender<PushRequest>,
        responses: Streaming<PushResponse>,
    }

    impl Pushing {
        async fn send(&mut self, content: Ask) {
            self.requests.send(PushRequest { content: Some(content) }).await.expect("the stream lives");
        }

        async fn send_text(&mut self, sequence: u64, bytes: usize) {
            let strings = vec!["x".repeat(bytes)];
            self.send(Ask::Samples(Samples { sequence, tags: vec![0], strings, ..Samples::default() })).await;
        }

        async fn next(&mut self) -> Result<Answer, Status> {
            let response = timeout(LIMIT, self.responses.message()).await.expect("in time")?;
            Ok(response.and_then(|response| response.content).expect("the stream goes on"))
        }

        async fn is_acknowledged(&mut self, sequence: u64) -> bool {
            matches!(self.next().await, Ok(Answer::Acknowledged(run)) if run.last == sequence)
        }
    }

    #[tokio::test]
    async fn a_client_is_served_over_a_connection_and_counted() {
        let mut node = Node::start(IngestConfig::default()).await;
        let mut pushing = node.push().await.expect("it is let in");
        pushing.send_text(1, 9).await;
        assert!(pushing.is_acknowledged(1).await);
        let counters = node.service.counters();
        assert_eq!((counters.streams, counters.messages_acknowledged, counters.bytes_held), (1, 1, 0));
        assert_eq!(counters.samples_acknowledged, 1);
    }

    #[tokio::test]
    async fn a_stream_too_many_is_turned_away_until_another_has_ended() {
        let mut node = Node::start(IngestConfig { max_streams: 1, ..IngestConfig::default() }).await;
        let first = node.push().await.expect("it is let in");
        let refused = node.push().await.err().expect("one is the limit");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(node.service.counters().streams_refused, 1);
        drop(first);
        let freed = async {
            while node.service.counters().streams > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, freed).await.expect("its end is noticed");
        node.push().await.expect("there is room again");
    }

    #[tokio::test]
    async fn a_large_message_is_rejected_and_one_beyond_the_transport_ends_the_stream() {
        let mut node = Node::start(IngestConfig::default()).await;
        let mut pushing = node.push().await.expect("it is let in");
        pushing.send_text(1, 600 << 10).await;
        let Ok(Answer::Rejected(rejected)) = pushing.next().await else { panic!("expected a rejection") };
        assert_eq!(rejected.reasons[0].problem(), ContentProblem::TooLarge);
        pushing.send_text(2, 500 << 10).await;
        assert!(pushing.is_acknowledged(2).await);
        pushing.send_text(3, MAX_REQUEST).await;
        let end = pushing.next().await.expect_err("it is beyond the limit");
        assert_eq!(end.code(), Code::OutOfRange);
    }
}
