//! Asks the cluster: tries the endpoints in order, and remembers which one answered.
//!
//! - A call has a deadline, and so has connecting.
//! - A node that is not reached, or not the right one to ask, is passed over. A change whose connection breaks after it
//!   was sent is not tried elsewhere: it may have happened.
//! - [`connect`] is the one place where a connection is made, and where TLS belongs.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use wire::proto::v1::admin_client::AdminClient;

use super::error::{CliError, code};

/// How long one node may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// Pause before the leader is looked for again.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// Largest answer: a bundle, or a hundred thousand tags.
const MAX_MESSAGE: usize = 128 << 20;

/// The nodes of a cluster, to be asked.
pub(super) struct Client {
    endpoints: Vec<Endpoint>,
    names: Vec<String>,
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

/// One endpoint's answer.
enum Tried<T> {
    Answer(T),
    Refused(Status),
    NotReached(String),
    Broken(String),
}

impl Client {
    /// A client for these endpoints, `HOST:PORT`.
    pub(super) fn new(endpoints: &[String], timeout: Duration) -> Result<Self, CliError> {
        let names: Vec<String> =
            endpoints.iter().map(|name| name.trim().to_owned()).filter(|n| !n.is_empty()).collect();
        if names.is_empty() {
            return Err(CliError::Usage("--endpoints names no node; expected HOST:PORT,…".to_owned()));
        }
        let endpoints = names.iter().map(|name| endpoint(name, timeout)).collect::<Result<_, _>>()?;
        let principal = local_user();
        Ok(Self { endpoints, names, timeout, current: 0, connected: None, principal })
    }

    /// Asks something; any node that answers will do.
    pub(super) async fn look<Q: Clone, A>(
        &mut self,
        question: Q,
        call: impl AsyncFn(&mut AdminClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, CliError> {
        self.each(&question, &call, Nature::Look).await
    }

    /// Asks something that the leader knows best; another node if the leader cannot be asked. `question` is told whether
    /// the answer of any node will do.
    pub(super) async fn look_at_leader<Q: Clone, A>(
        &mut self,
        question: impl Fn(bool) -> Q,
        call: impl AsyncFn(&mut AdminClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, CliError> {
        match self.each(&question(false), &call, Nature::Look).await {
            Err(CliError::Refused(status)) if code(&status) == Some("HF-3101") => {
                self.each(&question(true), &call, Nature::Look).await
            }
            other => other,
        }
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
                // Nothing was changed, and leadership may just be changing hands.
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

    async fn one<Q, A>(
        &mut self,
        index: usize,
        question: Q,
        call: &impl AsyncFn(&mut AdminClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Tried<A> {
        let channel = match &self.connected {
            Some((known, channel)) if *known == index => channel.clone(),
            _ => match connect(&self.endpoints[index]).await {
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
                Tried::Broken(reason_of(&status))
            }
            Err(_) => {
                self.connected = None;
                Tried::Broken(format!("no answer within {:?}", self.timeout))
            }
        }
    }
}

/// Whether another node should be asked: this one does not lead, is stopping, or belongs to no cluster (any more).
fn is_passed_on(status: &Status) -> bool {
    matches!(code(status), Some("HF-3101" | "HF-3108" | "HF-3109" | "HF-3110"))
}

/// Whether a node decided this, rather than the way to it.
fn is_ours(status: &Status) -> bool {
    let transport = [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::Unknown];
    code(status).is_some() || !transport.contains(&status.code())
}

fn reason_of(status: &Status) -> String {
    let mut reason = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(deeper) = cause {
        reason = deeper.to_string();
        cause = deeper.source();
    }
    reason
}

fn endpoint(name: &str, timeout: Duration) -> Result<Endpoint, CliError> {
    let wrong = |why: &str| CliError::Usage(format!("{name:?} is no endpoint ({why}); expected HOST:PORT"));
    if name.starts_with("https://") {
        return Err(wrong("this version speaks no TLS yet"));
    }
    let address = name.strip_prefix("http://").unwrap_or(name).trim_end_matches('/');
    let port = address.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
    if port.and_then(|port| port.parse::<u16>().ok()).is_none() {
        return Err(wrong("it has no port"));
    }
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).map_err(|error| wrong(&error.to_string()))?;
    Ok(endpoint.connect_timeout(CONNECT).timeout(timeout).tcp_nodelay(true))
}

/// Who sits at this machine, as far as it says.
fn local_user() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok();
    let user = user.filter(|user| !user.is_empty() && user.is_ascii());
    user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

/// Connects to one node.
async fn connect(endpoint: &Endpoint) -> Result<Channel, String> {
    match tokio::time::timeout(CONNECT, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => {
            let mut reason = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(deeper) = cause {
                reason = deeper.to_string();
                cause = deeper.source();
            }
            Err(reason)
        }
        Err(_) => Err(format!("no connection within {CONNECT:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for good in ["127.0.0.1:7611", "gateway-a:7611", "http://gateway-a:7611/", "[::1]:7611"] {
            assert!(endpoint(good, CONNECT).is_ok(), "{good}");
        }
        for bad in ["gateway-a", ":7611", "https://gateway-a:7611", "a:b", "a b:1"] {
            assert!(matches!(endpoint(bad, CONNECT), Err(CliError::Usage(_))), "{bad}");
        }
    }

    #[tokio::test]
    async fn every_endpoint_is_tried_and_named_when_none_answers() {
        // A port that was just free: nobody listens there.
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
        let names = [free.to_string(), format!("localhost:{}", free.port())];
        let mut client = Client::new(&names, Duration::from_secs(1)).expect("valid");
        let question = wire::proto::v1::GetBufferStatsRequest {};
        let answer =
            client.look(question, async |admin, question| admin.get_buffer_stats(question).await).await;
        let Err(CliError::NotReached(reasons)) = answer else { panic!("expected that nobody is reached") };
        assert_eq!(reasons.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), names);
    }
}
