//! Asks the cluster: tries the endpoints in order, and remembers which one answered.
//!
//! - A call has a deadline, and so has connecting.
//! - Any node will do: it hands on to the leader what only the leader can do. A node that is not reached, is stopping or
//!   cannot reach the leader has done nothing, and the next one is asked. A change whose connection breaks after it was
//!   sent is not tried elsewhere: it may have happened.
//! - A connection that TLS refused was never used: nothing can have happened on it.

use std::time::Duration;

use gateway::security::{connect_api, reason_of};
use tls::Keeper;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use wire::proto::v1::admin_client::AdminClient;

use super::access::Access;
use super::error::{CliError, code};

/// How long one node may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// Pause before the leader is looked for again.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// What may be the matter where plaintext is answered by nonsense.
const HINT: &str =
    " (this was plaintext; for a cluster with certificates, name yours with --tls-dir or --profile)";
/// Largest answer: a bundle, or a hundred thousand tags.
const MAX_MESSAGE: usize = 128 << 20;

/// The nodes of a cluster, to be asked.
pub(super) struct Client {
    /// Where nodes are, and whether they are talked to in plaintext.
    endpoints: Vec<(String, Scheme)>,
    names: Vec<String>,
    keeper: Option<Keeper>,
    timeout: Duration,
    /// The one that answered last, and its connection.
    current: usize,
    connected: Option<(usize, Channel)>,
    principal: String,
}

/// What a call does when its connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    /// It only looks: ask another node.
    Look,
    /// It changes something: say that it may have happened.
    Change,
}

/// What an endpoint says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    /// TLS if there are certificates.
    Open,
    /// Plaintext, certificates or not.
    Plaintext,
    /// TLS, or nothing.
    Tls,
}

/// One endpoint's answer.
enum Tried<T> {
    Answer(T),
    Refused(Status),
    NotReached(String),
    Broken(String),
}

impl Client {
    /// A client for the nodes that `access` names.
    pub(super) fn new(access: Access, timeout: Duration) -> Result<Self, CliError> {
        let Access { endpoints: names, keeper } = access;
        let endpoints: Vec<_> = names.iter().map(|name| endpoint(name)).collect::<Result<_, _>>()?;
        if keeper.is_none()
            && let Some(at) = endpoints.iter().position(|(_, scheme)| *scheme == Scheme::Tls)
        {
            let wanted =
                format!("{} wants TLS: name your certificates with --tls-dir or --profile", names[at]);
            return Err(CliError::Usage(wanted));
        }
        Ok(Self { endpoints, names, keeper, timeout, current: 0, connected: None, principal: local_user() })
    }

    /// Asks something; any node that answers will do.
    pub(super) async fn look<Q: Clone, A>(
        &mut self,
        question: Q,
        call: impl AsyncFn(&mut AdminClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, CliError> {
        self.each(&question, &call, Nature::Look).await
    }

    /// Asks for a stream that goes on until it is dropped.
    pub(super) async fn stream<Q: Clone, A>(
        &mut self,
        question: Q,
        call: impl AsyncFn(&mut AdminClient<Channel>, Request<Q>) -> Result<Response<Streaming<A>>, Status>,
    ) -> Result<Streaming<A>, CliError> {
        // A deadline would be that of the whole stream.
        let endless = async |admin: &mut AdminClient<Channel>, mut question: Request<Q>| {
            question.metadata_mut().remove("grpc-timeout");
            call(admin, question).await
        };
        self.each(&question, &endless, Nature::Look).await
    }

    /// Changes something.
    pub(super) async fn change<Q: Clone, A>(
        &mut self,
        question: Q,
        call: impl AsyncFn(&mut AdminClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, CliError> {
        let until = Instant::now() + self.timeout;
        loop {
            match self.each(&question, &call, Nature::Change).await {
                // The change was not made, and leadership may just be changing hands.
                Err(CliError::Refused(status))
                    if code(&status) == Some("HF-3101") && Instant::now() + ASK_AGAIN < until =>
                {
                    sleep(ASK_AGAIN).await;
                }
                other => return other,
            }
        }
    }

    async fn each<Q: Clone, A>(
        &mut self,
        question: &Q,
        call: &impl AsyncFn(&mut AdminClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
        nature: Nature,
    ) -> Result<A, CliError> {
        let mut not_reached = Vec::new();
        let mut passed_on = None;
        for step in 0..self.endpoints.len() {
            let index = (self.current + step) % self.endpoints.len();
            match self.one(index, question.clone(), call).await {
                Tried::Answer(answer) => {
                    self.current = index;
                    return Ok(answer);
                }
                Tried::Refused(status) if is_passed_on(&status) => {
                    // What the members say counts, if any of them says anything.
                    if code(&status) == Some("HF-3101") || passed_on.is_none() {
                        passed_on = Some(status);
                    }
                }
                Tried::Refused(status) => return Err(CliError::Refused(Box::new(status))),
                Tried::NotReached(reason) => not_reached.push((self.names[index].clone(), reason)),
                Tried::Broken(reason) if nature == Nature::Change => {
                    return Err(CliError::Unknown { endpoint: self.names[index].clone(), reason });
                }
                Tried::Broken(reason) => not_reached.push((self.names[index].clone(), reason)),
            }
        }
        Err(match passed_on {
            Some(status) => CliError::Refused(Box::new(status)),
            None => CliError::NotReached(not_reached),
        })
    }

    fn is_plaintext(&self, index: usize) -> bool {
        self.keeper.is_none() || self.endpoints[index].1 == Scheme::Plaintext
    }

    async fn connect(&self, index: usize) -> Result<Channel, String> {
        let keeper = self.keeper.clone().filter(|_| !self.is_plaintext(index));
        let (address, timeout) = (&self.endpoints[index].0, self.timeout);
        let tune = |endpoint: Endpoint| endpoint.connect_timeout(CONNECT).timeout(timeout);
        match tokio::time::timeout(CONNECT, connect_api(keeper, address, tune)).await {
            Ok(Err(reason)) if reason == tls::NO_TLS => {
                Err(format!("{reason}; http://{address} asks for plaintext"))
            }
            Ok(connected) => connected,
            Err(_) => Err(format!("no connection within {CONNECT:?}")),
        }
    }

    async fn one<Q, A>(
        &mut self,
        index: usize,
        question: Q,
        call: &impl AsyncFn(&mut AdminClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Tried<A> {
        let channel = match &self.connected {
            Some((known, channel)) if *known == index => channel.clone(),
            _ => match self.connect(index).await {
                Ok(channel) => channel,
                Err(reason) => return Tried::NotReached(reason),
            },
        };
        self.connected = Some((index, channel.clone()));
        let mut admin = AdminClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let mut request = Request::new(question);
        request.set_timeout(self.timeout);
        if let Ok(principal) = self.principal.parse() {
            request.metadata_mut().insert(gateway::admin::PRINCIPAL, principal);
        }
        match tokio::time::timeout(self.timeout, call(&mut admin, request)).await {
            Ok(Ok(answer)) => Tried::Answer(answer.into_inner()),
            Ok(Err(status)) if is_ours(&status) => Tried::Refused(status),
            Ok(Err(status)) => {
                self.connected = None;
                let reason = reason_of(&status);
                match self.is_plaintext(index) {
                    true => Tried::Broken(format!("{reason}{HINT}")),
                    false => Tried::Broken(reason),
                }
            }
            Err(_) => {
                self.connected = None;
                Tried::Broken(format!("no answer within {:?}", self.timeout))
            }
        }
    }
}

/// Whether another node should be asked: this one does not lead, is stopping, belongs to no cluster (any more), or lost its
/// memory.
fn is_passed_on(status: &Status) -> bool {
    matches!(code(status), Some("HF-3101" | "HF-3108" | "HF-3109" | "HF-3110" | "HF-4104"))
}

/// Whether a node decided this, rather than the way to it: what came over the wire has no cause on this side.
fn is_ours(status: &Status) -> bool {
    let transport = [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::Unknown];
    let came_from_there = std::error::Error::source(status).is_none();
    code(status).is_some() || (came_from_there && !transport.contains(&status.code()))
}

/// The address of an endpoint, and how it is talked to.
fn endpoint(name: &str) -> Result<(String, Scheme), CliError> {
    let wrong = |why: &str| CliError::Usage(format!("{name:?} is no endpoint ({why}); expected HOST:PORT"));
    let (rest, scheme) = match (name.strip_prefix("http://"), name.strip_prefix("https://")) {
        (Some(rest), _) => (rest, Scheme::Plaintext),
        (None, Some(rest)) => (rest, Scheme::Tls),
        (None, None) => (name, Scheme::Open),
    };
    let address = rest.trim_end_matches('/');
    let port = address.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
    if port.and_then(|port| port.parse::<u16>().ok()).is_none() {
        return Err(wrong("it has no port"));
    }
    Endpoint::from_shared(format!("http://{address}")).map_err(|error| wrong(&error.to_string()))?;
    Ok((address.to_owned(), scheme))
}

/// Who sits at this machine, as far as it says.
fn local_user() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok();
    let user = user.filter(|user| !user.is_empty() && user.is_ascii());
    user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for (good, scheme) in [
            ("127.0.0.1:7611", Scheme::Open),
            ("gateway-a:7611", Scheme::Open),
            ("http://gateway-a:7611/", Scheme::Plaintext),
            ("https://gateway-a:7611", Scheme::Tls),
            ("[::1]:7611", Scheme::Open),
        ] {
            assert_eq!(endpoint(good).expect("valid").1, scheme, "{good}");
        }
        for bad in ["gateway-a", ":7611", "https://gateway-a", "a:b", "a b:1"] {
            assert!(matches!(endpoint(bad), Err(CliError::Usage(_))), "{bad}");
        }
        let access = Access { endpoints: vec!["https://a:1".to_owned()], keeper: None };
        assert!(matches!(Client::new(access, CONNECT), Err(CliError::Usage(_))), "TLS without certificates");
    }

    #[tokio::test]
    async fn every_endpoint_is_tried_and_named_when_none_answers() {
        // A port that was just free: nobody listens there.
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
        let names = [free.to_string(), format!("localhost:{}", free.port())];
        let mut client =
            Client::new(Access { endpoints: names.to_vec(), keeper: None }, Duration::from_secs(1))
                .expect("valid");
        let question = wire::proto::v1::GetBufferStatsRequest {};
        let answer =
            client.look(question, async |admin, question| admin.get_buffer_stats(question).await).await;
        let Err(CliError::NotReached(reasons)) = answer else { panic!("expected that nobody is reached") };
        assert_eq!(reasons.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), names);
    }
}
