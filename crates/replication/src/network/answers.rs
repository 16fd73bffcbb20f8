//! The answering half of a stream to a peer: the call resolves only when the far side has begun to answer.

use std::future::Future;

use futures::StreamExt;
use futures::future::BoxFuture;
use tonic::{Response, Status, Streaming};

/// Answers of one stream, from before its call has resolved.
pub(super) enum Answers<T> {
    Opening(BoxFuture<'static, Result<Response<Streaming<T>>, Status>>),
    Open(Box<Streaming<T>>),
}

impl<T> Answers<T> {
    /// Those to `call`, which is made when the first of them is asked for.
    pub(super) fn to(
        call: impl Future<Output = Result<Response<Streaming<T>>, Status>> + Send + 'static,
    ) -> Self {
        Self::Opening(Box::pin(call))
    }

    /// The next answer. Giving up in between loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<T>, Status> {
        if let Self::Opening(opening) = self {
            let stream = opening.await?.into_inner();
            *self = Self::Open(Box::new(stream));
        }
        match self {
            Self::Open(stream) => stream.next().await.transpose(),
            Self::Opening(_) => Ok(None),
        }
    }
}
