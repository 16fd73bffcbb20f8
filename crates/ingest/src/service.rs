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
        memory: Arc::new(Semaphore::new(config.memory_bytes as usize)),
        dictionaries: Arc::new(Semaphore::new(config.dictionary_bytes as usize)),
        streams: Arc::new(Semaphore::new(config.max_streams)),
        token,
        config,
    };
    PushService { shared: Arc::new(shared) }
}

impl<R: TagResolver> PushService<R> {
    /// The tonic service with its message limits, ready to be mounted.
    pub fn into_server(self) -> IngestServer<Self> {
        IngestServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    /// What it has done since it started.
    pub fn counters(&self) -> IngestCounters {
        let Shared { config, counts, memory, streams, .. } = &*self.shared;
        let used =
            |all: usize, semaphore: &Semaphore| all.saturating_sub(semaphore.available_permits()) as u64;
        IngestCounters {
            streams: used(config.max_streams, streams),
            bytes_held: used(config.memory_bytes as usize, memory),
            ..counts.read()
        }
    }
}

#[tonic::async_trait]
impl<R: TagResolver> Ingest for PushService<R> {
    type PushStream = Pin<Box<dyn Stream<Item = Result<PushResponse, Status>> + Send>>;

    async fn push(
        &self,
        request: Request<Streaming<PushRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let shared = &self.shared;
        if shared.token.is_cancelled() {
            return Err(Status::unavailable("this node is stopping; go on with another"));
        }
        let Ok(permit) = shared.streams.clone().try_acquire_owned() else {
            add(&shared.counts.streams_refused, 1);
            return Err(Status::resource_exhausted("this node has too many push streams; try another"));
        };
        let stream = PushStream::new(shared.clone(), request.into_inner(), permit);
        Ok(Response::new(Box::pin(stream.into_responses())))
    }
}
