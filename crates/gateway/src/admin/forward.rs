//! A call that needs the leader, asked of another node: it is handed on to the leader, once.
//!
//! - A call that bears [`HOP`] was handed on before and is never handed on again: two nodes that each take the other for
//!   the leader must not play ping-pong.
//! - Deadline and principal go along; without one it is the longest that a call takes. What the leader answers, errors included, is answered as it is.
//! - The address is the one the leader gave in its last handshake, so that it may change at any restart.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use model::NodeId;
use replication::Standing;
use store::engine::Engine;
use tls::Keeper;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use wire::proto::v1::admin_client::AdminClient;

use super::caller::{self, HOP, PRINCIPAL};
use super::failure::Failure;
use super::{AdminService, LONGEST_CALL, MAX_MESSAGE};
use crate::security::{connect_api, reason_of};

/// How long the leader may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a leader is waited for where none is known: an election fits into it.
const WAIT_FOR_LEADER: Duration = Duration::from_secs(2);
/// How long the leader is sought at most; but see [`LEASES_TO_LAST_RESORT`].
pub(super) const REACHED_WITHIN: Duration = WAIT_FOR_LEADER.saturating_add(CONNECT);
/// For how many leases it is waited for by who would let a drained node lead again, besides: if all are drained, one of
/// them leads as the last resort, ten leases after the last leader and two after its election.
const LEASES_TO_LAST_RESORT: u32 = 13;
/// How long the leader's better answer is waited for.
const SOON: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Metadata key of a call's deadline.
const DEADLINE: &str = "grpc-timeout";

/// Connects to the API of another node, `host:port`.
type ApiConnector = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Channel, String>> + Send + Sync>;

/// Connects with these certificates, or in plaintext.
pub(super) fn connector(keeper: Option<Keeper>) -> ApiConnector {
    Arc::new(move |address| {
        let keeper = keeper.clone();
        Box::pin(
            async move { connect_api(keeper, &address, |endpoint| endpoint.connect_timeout(CONNECT)).await },
        )
    })
}

/// The connection to the leader's API. Cheap to clone.
#[derive(Clone)]
pub(super) struct Forwarder {
    connect: ApiConnector,
    /// The address that was connected to last, and its connection.
    known: Arc<Mutex<Option<(String, Channel)>>>,
}

/// The leader, ready to be asked.
pub(super) struct Leader {
    name: String,
    here: String,
    api: AdminClient<Channel>,
    forwarder: Forwarder,
}

/// What becomes of a call that needs the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    /// This node leads.
    Here,
    /// Another one does.
    To(NodeId),
    /// Another one does, but this call was handed on already.
    Twice(NodeId),
    /// Nobody does.
    Nowhere,
}

/// What is lost if the connection to the leader breaks in the middle of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    /// Nothing: it only looks.
    Look,
    /// Knowledge of whether it was done.
    Change,
}

fn route(here: NodeId, leader: Option<NodeId>, holds_lease: bool, is_forwarded: bool) -> Route {
    match leader {
        Some(leader) if leader != here && is_forwarded => Route::Twice(leader),
        Some(leader) if leader != here => Route::To(leader),
        // Without a lease it may have been replaced already, and must do nothing.
        Some(_) if holds_lease => Route::Here,
        Some(_) | None => Route::Nowhere,
    }
}

impl Forwarder {
    pub(super) fn new(connect: ApiConnector) -> Self {
        Self { connect, known: Arc::default() }
    }

    async fn channel(&self, address: &str) -> Result<Channel, String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, channel)) = known.filter(|(known, _)| known == address) {
            return Ok(channel);
        }
        let connecting = tokio::time::timeout(CONNECT, (self.connect)(address.to_owned()));
        let channel = connecting.await.map_err(|_| format!("no connection within {CONNECT:?}"))??;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((address.to_owned(), channel.clone()));
        Ok(channel)
    }

    /// The next call connects anew.
    fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl<E: Engine> AdminService<E> {
    /// The leader, if this call must be handed on to it; `None` where it is answered here. `this_node` says that the
    /// caller wants the answer of this node, whoever leads.
    async fn leader_elsewhere<T>(
        &self,
        request: &Request<T>,
        this_node: bool,
    ) -> Result<Option<Leader>, Failure> {
        if this_node {
            return Ok(None);
        }
        self.leader_within(request, WAIT_FOR_LEADER).await
    }

    /// The same, where a drained node may have to lead first.
    pub(super) async fn leader_at_last<T>(&self, request: &Request<T>) -> Result<Option<Leader>, Failure> {
        let last_resort = self.replica().times().lease * LEASES_TO_LAST_RESORT;
        self.leader_within(request, WAIT_FOR_LEADER + last_resort).await
    }

    /// The same, where a leader may take this long to show.
    async fn leader_within<T>(
        &self,
        request: &Request<T>,
        patience: Duration,
    ) -> Result<Option<Leader>, Failure> {
        let until = Instant::now() + patience;
        loop {
            let status = self.replica().status();
            if status.standing == Standing::Removed {
                return Err(Failure::Removed);
            }
            // A leader that is not heard any more is named until there is another.
            let is_heard = |leader: &NodeId| *leader == status.node || self.has_quorum(&status);
            let leader = status.leader.filter(is_heard);
            match route(status.node, leader, status.holds_lease, caller::is_forwarded(request)) {
                Route::Here => return Ok(None),
                Route::To(leader) => match self.reach(leader).await {
                    // It may have died a moment ago, and another may lead in a moment.
                    Err(_) if Instant::now() < until => sleep(LOOK_AGAIN).await,
                    reached => return reached.map(Some),
                },
                Route::Twice(leader) => {
                    let reason = "leadership is changing hands".to_owned();
                    return Err(Failure::LeaderElsewhere { leader: self.name_of(leader), reason });
                }
                Route::Nowhere if Instant::now() < until => sleep(LOOK_AGAIN).await,
                Route::Nowhere => return Err(self.no_leader()),
            }
        }
    }

    /// The leader's answer, where the call must be handed on to it; `None` where it is answered here. For `this_node` see
    /// [`AdminService::leader_elsewhere`].
    pub(super) async fn at_leader<Q, A, F>(
        &self,
        request: &Request<Q>,
        this_node: bool,
        nature: Nature,
        call: impl FnOnce(AdminClient<Channel>, Request<Q>) -> F,
    ) -> Result<Option<Response<A>>, Status>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        match self.leader_elsewhere(request, this_node).await? {
            Some(leader) => leader.ask(nature, request, call).await.map(Some),
            None => Ok(None),
        }
    }

    /// The leader's answer to what any node can answer, and the leader answers better; `None` where it cannot be had
    /// soon. A node that was removed knows nothing.
    pub(super) async fn best_answer<Q, A, F>(
        &self,
        request: &Request<Q>,
        this_node: bool,
        call: impl FnOnce(AdminClient<Channel>, Request<Q>) -> F,
    ) -> Result<Option<Response<A>>, Failure>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let status = self.replica().status();
        if status.standing == Standing::Removed {
            return Err(Failure::Removed);
        }
        let route = route(status.node, status.leader, status.holds_lease, caller::is_forwarded(request));
        let Route::To(leader) = route else { return Ok(None) };
        if this_node || !self.has_quorum(&status) {
            return Ok(None);
        }
        let answer = async { self.reach(leader).await.ok()?.ask(Nature::Look, request, call).await.ok() };
        Ok(tokio::time::timeout(SOON, answer).await.ok().flatten())
    }

    async fn reach(&self, leader: NodeId) -> Result<Leader, Failure> {
        let name = self.name_of(leader);
        let elsewhere = |reason: String| Failure::LeaderElsewhere { leader: name.clone(), reason };
        let peer = self.replica().peers().get(leader).and_then(|peer| peer.identity);
        let address = peer.map(|peer| peer.api).filter(|address| !address.is_empty());
        let address = address.ok_or_else(|| elsewhere("it has not said yet where its API is".to_owned()))?;
        let forwarder = self.forwarder.clone();
        let channel = forwarder
            .channel(&address)
            .await
            .map_err(|reason| elsewhere(format!("{address} cannot be reached from here: {reason}")))?;
        let api = AdminClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Ok(Leader { name, here: self.replica().name().to_owned(), api, forwarder })
    }
}

impl Leader {
    /// Hands a call on; what the leader answers is the answer.
    pub(super) async fn ask<Q, A, F>(
        self,
        nature: Nature,
        request: &Request<Q>,
        call: impl FnOnce(AdminClient<Channel>, Request<Q>) -> F,
    ) -> Result<Response<A>, Status>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let Self { name, here, api, forwarder } = self;
        match call(api, handed_on(request, &here)).await {
            Err(status) if !is_answer(&status) => {
                forwarder.forget();
                let reason = reason_of(&status);
                Err(match nature {
                    Nature::Look => Failure::LeaderElsewhere { leader: name, reason },
                    Nature::Change => Failure::Interrupted { leader: name, reason },
                }
                .into())
            }
            answered => answered,
        }
    }
}

/// The same call, from this node in the caller's name.
fn handed_on<Q: Clone>(request: &Request<Q>, here: &str) -> Request<Q> {
    let principal = caller::principal(request);
    let deadline = request.metadata().get(DEADLINE).cloned();
    let mut onward = Request::new(request.get_ref().clone());
    match deadline {
        Some(deadline) => {
            onward.metadata_mut().insert(DEADLINE, deadline);
        }
        None => onward.set_timeout(LONGEST_CALL),
    }
    let texts = [(PRINCIPAL, principal.as_str()), (HOP, here)];
    for (key, text) in texts {
        // Names that are not ASCII cannot travel in metadata; the mark that it was handed on must.
        let value = text.parse().unwrap_or_else(|_| "unnamed".parse().expect("ASCII"));
        onward.metadata_mut().insert(key, value);
    }
    onward
}

/// Whether the leader said this, rather than the way to it.
fn is_answer(status: &Status) -> bool {
    status.metadata().contains_key(super::CODE) || std::error::Error::source(status).is_none()
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;

    const HERE: NodeId = NodeId(1);
    const THERE: NodeId = NodeId(2);

    #[test]
    fn a_call_goes_to_the_leader_and_never_twice() {
        assert_eq!(route(HERE, Some(HERE), true, false), Route::Here);
        assert_eq!(route(HERE, Some(HERE), true, true), Route::Here);
        assert_eq!(route(HERE, Some(THERE), false, false), Route::To(THERE));
        assert_eq!(route(HERE, Some(THERE), false, true), Route::Twice(THERE));
    }

    #[test]
    fn without_a_leader_or_its_lease_nobody_is_asked() {
        assert_eq!(route(HERE, None, false, false), Route::Nowhere);
        assert_eq!(route(HERE, Some(HERE), false, false), Route::Nowhere);
    }

    #[test]
    fn a_call_is_handed_on_with_its_deadline_and_in_the_callers_name() {
        let mut request = Request::new(7);
        request.set_timeout(Duration::from_secs(3));
        request.metadata_mut().insert(PRINCIPAL, "anna".parse().expect("ASCII"));
        let deadline = request.metadata().get(DEADLINE).cloned();
        let onward = handed_on(&request, "gateway-b");
        assert_eq!(onward.metadata().get(DEADLINE).cloned(), deadline);
        assert_eq!(caller::principal(&onward), "anna (claimed)");
        assert!(caller::is_forwarded(&onward));
        assert!(!caller::is_forwarded(&Request::new(7)));
        assert_eq!(onward.into_inner(), 7);
    }

    #[test]
    fn a_call_without_a_deadline_gets_one_and_an_odd_name_does_not_lose_the_mark() {
        let onward = handed_on(&Request::new(()), "gäteway");
        assert!(onward.metadata().contains_key(DEADLINE));
        assert!(caller::is_forwarded(&onward));
    }

    #[tokio::test]
    async fn a_connection_is_kept_until_the_address_changes_or_it_fails() {
        let dialled = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&dialled);
        let forwarder = Forwarder::new(Arc::new(move |address: String| {
            noted.lock().expect("no panic elsewhere").push(address.clone());
            Box::pin(async move {
                match address.as_str() {
                    "c:1" => Err("connection refused".to_owned()),
                    _ => Ok(Endpoint::from_shared(format!("http://{address}"))
                        .expect("an address")
                        .connect_lazy()),
                }
            })
        }));
        for address in ["a:1", "a:1", "b:1"] {
            forwarder.channel(address).await.expect("reached");
        }
        forwarder.forget();
        forwarder.channel("b:1").await.expect("reached");
        assert_eq!(forwarder.channel("c:1").await.err(), Some("connection refused".to_owned()));
        assert_eq!(*dialled.lock().expect("no panic"), ["a:1", "b:1", "b:1", "c:1"]);
    }
}
