//! Asks the cluster: tries the endpoints in order, and remembers which one answered.
//!
//! - A call has a deadline, and so has connecting. A change may take as long as the cluster takes for the longest one: it
//!   ends every change by itself, and one that was given up here may still happen.
//! - Any node will do: it hands on to the leader what only the leader can do. A node that is not reached, is stopping or
//!   cannot reach the leader has done nothing, and the next one is asked. A change whose connection breaks after it was
//!   sent is not tried elsewhere: it may have happened.
//! - A connection that TLS refused was never used: nothing can have happened on it.

use std::pin::pin;
use std::time::Duration;

use gateway::admin::LONGEST_CALL;
use gateway::security::{connect_api, reason_of};
use model::plant::units::format_duration;
use tls::Keeper;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use wire::proto::v1::admin_client::AdminClient;

use super::access::Access;
use super::error::{CliError, code, note};

/// How long one node may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a question may take, and how long a change is tried again that was surely not made, where nobody said.
const USUAL: Duration = Duration::from_secs(15);
/// After this long without an answer, people are told that it is waited for.
const QUIET: Duration = Duration::from_secs(5);
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
    /// How long a call may take, if somebody said.
    timeout: Option<Duration>,
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
    pub(super) fn new(access: Access, timeout: Option<Duration>) -> Result<Self, CliError> {
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
        let mut until = None;
        loop {
            let outcome = self.each(&question, &call, Nature::Change).await;
            // Counted from the first refusal: it may have come after a long hand-over.
            let until = *until.get_or_insert_with(|| Instant::now() + self.timeout.unwrap_or(USUAL));
            match outcome {
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
            match self.one(index, question.clone(), call, nature).await {
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
        let address = &self.endpoints[index].0;
        let tune = |endpoint: Endpoint| endpoint.connect_timeout(CONNECT);
        match timeout(CONNECT, connect_api(keeper, address, tune)).await {
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
        nature: Nature,
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
        let limit = self.timeout.unwrap_or(match nature {
            Nature::Look => USUAL,
            Nature::Change => LONGEST_CALL,
        });
        request.set_timeout(limit);
        if let Ok(principal) = self.principal.parse() {
            request.metadata_mut().insert(gateway::admin::PRINCIPAL, principal);
        }
        let mut answering = pin!(timeout(limit, call(&mut admin, request)));
        let answered = match timeout(QUIET, answering.as_mut()).await {
            Ok(answered) => answered,
            Err(_) => {
                let (name, limit) = (&self.names[index], format_duration(limit));
                note(&format!("no answer from {name} yet; waiting for it up to {limit}"));
                answering.await
            }
        };
        match answered {
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
                Tried::Broken(format!("no answer within {}", format_duration(limit)))
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
        assert!(matches!(Client::new(access, None), Err(CliError::Usage(_))), "TLS without certificates");
    }

    #[tokio::test]
    async fn every_endpoint_is_tried_and_named_when_none_answers() {
        // A port that was just free: nobody listens there.
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
        let names = [free.to_string(), format!("localhost:{}", free.port())];
        let mut client =
            Client::new(Access { endpoints: names.to_vec(), keeper: None }, None).expect("valid");
        let question = wire::proto::v1::GetBufferStatsRequest {};
        let answer =
            client.look(question, async |admin, question| admin.get_buffer_stats(question).await).await;
        let Err(CliError::NotReached(reasons)) = answer else { panic!("expected that nobody is reached") };
        assert_eq!(reasons.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), names);
    }

    #[tokio::test]
    async fn a_change_has_the_time_that_a_hand_over_takes_and_a_question_has_not() {
        // It accepts connections, which is all that is asked of it.
        let node = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let name = node.local_addr().expect("bound").to_string();
        let mut client = Client::new(Access { endpoints: vec![name], keeper: None }, None).expect("valid");
        let slowly = async |_: &mut AdminClient<Channel>, _: Request<u8>| {
            tokio::time::pause();
            sleep(Duration::from_secs(100)).await;
            tokio::time::resume();
            Ok::<_, Status>(Response::new(7_u8))
        };
        assert_eq!(client.change(1, &slowly).await.expect("it has the time"), 7);
        let given_up = client.look(1, &slowly).await.expect_err("it has 15 s");
        assert!(given_up.to_string().ends_with("no answer within 15s"), "{given_up}");
    }
}
