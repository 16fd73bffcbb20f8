//! An ingest service that acknowledges at once and keeps nothing: what a pusher can do where nobody holds it up.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;

use futures::{Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use wire::proto::v1::ingest_server::{Ingest, IngestServer};
use wire::proto::v1::push_request::Content as Ask;
use wire::proto::v1::push_response::{Acknowledged, Content as Answer, Declared, Welcome};
use wire::proto::v1::{PushRequest, PushResponse};

/// More than any client asks for.
const WINDOW: u32 = 1 << 16;

/// Serves for as long as it lives.
pub(super) struct Mirror {
    address: SocketAddr,
    _serving: JoinSet<Result<(), tonic::transport::Error>>,
}

impl Mirror {
    pub(super) async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mut serving = JoinSet::new();
        let server = Server::builder().tcp_nodelay(true).add_service(IngestServer::new(AtOnce));
        serving.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(Self { address, _serving: serving })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

struct AtOnce;

#[tonic::async_trait]
impl Ingest for AtOnce {
    type PushStream = Pin<Box<dyn Stream<Item = Result<PushResponse, Status>> + Send>>;

    async fn push(
        &self,
        request: Request<Streaming<PushRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let welcome = Answer::Welcome(Welcome { window_messages: WINDOW, ..Welcome::default() });
        let answers = request.into_inner().map(|asked| {
            asked.map(|asked| match asked.content {
                Some(Ask::Samples(samples)) => Answer::Acknowledged(Acknowledged {
                    first: samples.sequence,
                    last: samples.sequence,
                    ..Acknowledged::default()
                }),
                Some(Ask::Declare(declare)) => {
                    let count = u32::try_from(declare.tags.len()).unwrap_or(u32::MAX);
                    Answer::Declared(Declared { count, ..Declared::default() })
                }
                None => Answer::Declared(Declared::default()),
            })
        });
        let all = futures::stream::iter([Ok(welcome)]).chain(answers);
        let said =
            |answer: Result<Answer, Status>| answer.map(|content| PushResponse { content: Some(content) });
        Ok(Response::new(Box::pin(all.map(said))))
    }
}
