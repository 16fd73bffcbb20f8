//! Forwarded proposals: a follower's one stream to the leader, and the answers that come back on it in any order.
//!
//! - One task owns the stream. It opens when something is to be forwarded and follows the leader.
//! - What was sent and not answered when the stream is lost, or the leader changes, is [`ProposeError::Unknown`];
//!   what was not sent is refused as surely not proposed. Nothing is sent twice.
//! - In flight are at most a window of proposals, in count and bytes; who wants more waits, up to its patience.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::{Member, NodeId, Position, Term};
use openraft::AsyncRuntime;
use runtime::{Spawner, sleep_until};
use store::Outcome;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use wire::proto::peer as pb;
use wire::proto::peer::proposal_failure::Kind;
use wire::proto::peer::propose_response::Result as Answer;

use super::answers::Answers;
use super::client::{Peer, PeerNetworkFactory};
use super::convert::{self, Malformed};
use super::link::{CallFailure, Connection};
use super::{NetworkOptions, outcome};
use crate::type_config::LogId;

/// A command is committed and applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The term of its entry.
    pub term: Term,
    /// Its place in the log.
    pub position: Position,
    /// What applying it gave.
    pub outcome: Outcome,
}

/// Why a proposal was not seen applied. All but `Unknown` say that it surely is not in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Ask the leader, where it is known.
    #[error("not the leader (it is {leader:?})")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// The leader cannot be reached.
    #[error("the leader cannot be reached: {0}")]
    Unreachable(String),
    /// There is a leader, and no majority answers it.
    #[error("no majority of the voters answers")]
    NoQuorum,
    /// The buffer is at its limit, or too few disks have room: samples are refused until destinations take some.
    #[error("there is no room for more samples, try again in {retry_after:?}")]
    NoSpace {
        /// When.
        retry_after: Duration,
    },
    /// No room in memory; try again later.
    #[error("overloaded, try again in {retry_after:?}")]
    Overloaded {
        /// When.
        retry_after: Duration,
    },
    /// Too large, or unreadable: never try again.
    #[error("invalid proposal: {0}")]
    Invalid(String),
    /// It may be applied now, later or never.
    #[error("the outcome is unknown")]
    Unknown,
    /// The log of this node has ended: nothing more will be answered here. Never another node's word.
    #[error("the node is stopping")]
    Stopped,
}

/// Who leads, and how to reach it; `None` while nobody is known or this node leads.
pub(crate) type LeaderWatch = watch::Receiver<Option<(NodeId, Member)>>;

/// Forwards proposals to the leader. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Proposals {
    queue: mpsc::Sender<Submission>,
    room: Arc<Semaphore>,
    room_bytes: usize,
    retry_after: Duration,
}

struct Submission {
    command: Bytes,
    deadline: Instant,
    answer: oneshot::Sender<Result<Applied, ProposeError>>,
    room: OwnedSemaphorePermit,
}

/// A proposal in the queue; its answer comes from [`Submitted::answer`].
pub(crate) struct Submitted {
    answer: oneshot::Receiver<Result<Applied, ProposeError>>,
    deadline: Instant,
}

impl Submitted {
    /// Waits for the answer, up to the patience given when it was submitted.
    pub(crate) async fn answer(self) -> Result<Applied, ProposeError> {
        match timeout_at(self.deadline, self.answer).await {
            Ok(Ok(answer)) => answer,
            // The task ended, or no answer in time: either may be after it was sent.
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }
}

impl Proposals {
    /// Starts the task that forwards to whom `leader` names.
    pub(crate) fn start<RT: AsyncRuntime>(
        network: PeerNetworkFactory<RT>,
        leader: LeaderWatch,
        options: &NetworkOptions,
        spawner: &Spawner,
    ) -> Self {
        let (queue, submissions) = mpsc::channel(options.propose_window);
        let forwarder = Forwarder { network, leader, submissions, window: options.propose_window };
        let token = spawner.token().clone();
        spawner.spawn("forward proposals", async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = forwarder.run() => {}
            }
            Ok::<(), CallFailure>(())
        });
        Self {
            queue,
            room: Arc::new(Semaphore::new(options.propose_window_bytes)),
            room_bytes: options.propose_window_bytes,
            retry_after: options.retry_pause,
        }
    }

    /// Queues an encoded command; commands are sent in the order in which these calls return.
    pub(crate) async fn submit(&self, command: Bytes, patience: Duration) -> Result<Submitted, ProposeError> {
        if command.len() > self.room_bytes {
            return Err(ProposeError::Invalid(format!("{} bytes are too many", command.len())));
        }
        let deadline = Instant::now() + patience;
        let bytes =
            u32::try_from(command.len()).map_err(|_| ProposeError::Invalid("too many bytes".into()))?;
        let overloaded = || ProposeError::Overloaded { retry_after: self.retry_after };
        let room = timeout_at(deadline, self.room.clone().acquire_many_owned(bytes)).await;
        let room = room.map_err(|_| overloaded())?.map_err(|_| ProposeError::Stopped)?;
        let place = timeout_at(deadline, self.queue.reserve()).await;
        let place = place.map_err(|_| overloaded())?.map_err(|_| ProposeError::Stopped)?;
        let (sender, answer) = oneshot::channel();
        place.send(Submission { command, deadline, answer: sender, room });
        Ok(Submitted { answer, deadline })
    }
}

struct Forwarder<RT> {
    network: PeerNetworkFactory<RT>,
    leader: LeaderWatch,
    submissions: mpsc::Receiver<Submission>,
    window: usize,
}

impl<RT: AsyncRuntime> Forwarder<RT> {
    async fn run(mut self) {
        while let Some(submission) = self.submissions.recv().await {
            let leader = self.leader.borrow_and_update().clone();
            let Some((node, member)) = leader else {
                submission.answer(Err(ProposeError::NotLeader { leader: None }));
                continue;
            };
            let peer = self.network.peer(node, &member);
            match Session::open(peer, submission.deadline, self.window).await {
                Ok(mut session) => {
                    session.send(submission);
                    session.run(&mut self.submissions, &mut self.leader).await;
                }
                Err(failure) => submission.answer(Err(ProposeError::Unreachable(failure.to_string()))),
            }
        }
    }
}

impl Submission {
    fn answer(self, answer: Result<Applied, ProposeError>) {
        if self.answer.send(answer).is_err() {
            tracing::trace!("nobody waits for this proposal any more");
        }
    }
}

struct Outstanding {
    answer: oneshot::Sender<Result<Applied, ProposeError>>,
    deadline: Instant,
    /// Given back when the proposal is answered.
    _room: OwnedSemaphorePermit,
}

/// One stream to one leader. Dropping it leaves every outstanding proposal unknown.
struct Session {
    peer: Arc<Peer>,
    connection: Connection,
    requests: mpsc::Sender<pb::ProposeRequest>,
    answers: Answers<pb::ProposeResponse>,
    outstanding: BTreeMap<u64, Outstanding>,
    next_id: u64,
    window: usize,
}

impl Session {
    async fn open(peer: Arc<Peer>, deadline: Instant, window: usize) -> Result<Self, CallFailure> {
        let limit = Instant::now() + peer.context.options.connect_timeout;
        let connection = peer.bulk.connection(deadline.min(limit)).await?;
        let (requests, outgoing) = mpsc::channel(window);
        let mut client = connection.client.clone();
        let answers = Answers::to(async move { client.propose(ReceiverStream::new(outgoing)).await });
        Ok(Self { peer, connection, requests, answers, outstanding: BTreeMap::new(), next_id: 0, window })
    }

    fn send(&mut self, submission: Submission) {
        let Submission { command, deadline, answer, room } = submission;
        let now = Instant::now();
        if deadline <= now || answer.is_closed() {
            // Nobody waits for it: rather not propose it than propose it unknown.
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        let patience_nanos = convert::nanos(deadline.duration_since(now));
        let request =
            pb::ProposeRequest { envelope: Some(self.peer.envelope()), id, command, patience_nanos };
        self.outstanding.insert(id, Outstanding { answer, deadline, _room: room });
        if let Err(unsent) = self.requests.try_send(request) {
            // There is room for a whole window, so the stream broke; the answering half says why.
            tracing::debug!(node = %self.peer.node, %unsent, "proposal not sent");
        }
    }

    /// Forwards and answers until the stream is lost, falls silent, or another node leads.
    async fn run(mut self, submissions: &mut mpsc::Receiver<Submission>, leader: &mut LeaderWatch) {
        let node = self.peer.node;
        let failure = loop {
            let silent_at = self.outstanding.values().next().map(|oldest| {
                // The leader gives up at the deadline and says so; more silence than that means a lost stream.
                oldest.deadline + self.peer.context.options.stall_limit
            });
            tokio::select! {
                biased;
                changed = leader.changed() => {
                    let same = changed.is_ok()
                        && leader.borrow_and_update().as_ref().is_some_and(|(leader, _)| *leader == node);
                    if !same {
                        break CallFailure::Unreachable("another node leads".into());
                    }
                }
                answer = self.answers.next() => match answer {
                    Ok(Some(answer)) => if let Err(malformed) = self.take(answer) {
                        break malformed.into();
                    },
                    Ok(None) => break CallFailure::Broken("the leader ended the stream".into()),
                    Err(status) => break self.peer.bulk.failed(&self.connection, &status),
                },
                submission = submissions.recv(), if self.outstanding.len() < self.window => match submission {
                    Some(submission) => self.send(submission),
                    None => break CallFailure::Unreachable("stopping".into()),
                },
                () = sleep_until(silent_at) => {
                    break self.peer.bulk.gave_up(CallFailure::late("propose"));
                }
            }
        };
        let unknown = self.outstanding.len();
        tracing::debug!(%node, %failure, unknown, "proposal stream ended");
        for (_, proposal) in std::mem::take(&mut self.outstanding) {
            proposal.answer(Err(ProposeError::Unknown));
        }
    }

    fn take(&mut self, response: pb::ProposeResponse) -> Result<(), Malformed> {
        let answer = answer_from_proto(response.result)?;
        match self.outstanding.remove(&response.id) {
            Some(proposal) => proposal.answer(answer),
            None => return Err(Malformed("proposal id")),
        }
        Ok(())
    }
}

impl Outstanding {
    fn answer(self, answer: Result<Applied, ProposeError>) {
        if self.answer.send(answer).is_err() {
            tracing::trace!("nobody waits for this proposal any more");
        }
    }
}

pub(super) fn answer_to_proto(id: u64, answer: Result<Applied, ProposeError>) -> pb::ProposeResponse {
    let result = match answer {
        Ok(Applied { term, position, outcome }) => Answer::Applied(pb::Applied {
            log_id: Some(convert::log_id_to_proto(&LogId::new(term.0.into(), position.0))),
            outcome: Some(outcome::to_proto(&outcome)),
        }),
        Err(error) => Answer::Failure(failure_to_proto(&error)),
    };
    pb::ProposeResponse { id, result: Some(result) }
}

fn failure_to_proto(error: &ProposeError) -> pb::ProposalFailure {
    let (kind, leader, retry_after) = match error {
        ProposeError::NotLeader { leader } => {
            (Kind::NotLeader, leader.map_or(0, |leader| leader.0), Duration::ZERO)
        }
        ProposeError::Overloaded { retry_after } => (Kind::Overloaded, 0, *retry_after),
        ProposeError::NoSpace { retry_after } => (Kind::NoSpace, 0, *retry_after),
        ProposeError::NoQuorum => (Kind::NoQuorum, 0, Duration::ZERO),
        ProposeError::Invalid(_) => (Kind::Invalid, 0, Duration::ZERO),
        // A leader that forwards again and fails proposed nothing, but nobody should build on that.
        ProposeError::Unreachable(_) | ProposeError::Unknown => (Kind::Unknown, 0, Duration::ZERO),
        // That this node's log has ended is nothing to the asker's: all it says is that nothing was proposed here.
        ProposeError::Stopped => (Kind::NotLeader, 0, Duration::ZERO),
    };
    let retry_after_nanos = convert::nanos(retry_after);
    pb::ProposalFailure { kind: kind.into(), leader, retry_after_nanos, detail: error.to_string() }
}

fn answer_from_proto(result: Option<Answer>) -> Result<Result<Applied, ProposeError>, Malformed> {
    match result.ok_or(Malformed("proposal result"))? {
        Answer::Applied(applied) => {
            let log_id = applied.log_id.ok_or(Malformed("proposal position"))?;
            let outcome = outcome::from_proto(applied.outcome)?;
            Ok(Ok(Applied { term: Term(log_id.term), position: Position(log_id.index), outcome }))
        }
        Answer::Failure(failure) => Ok(Err(match failure.kind() {
            Kind::NotLeader => {
                let leader = (failure.leader != 0).then_some(NodeId(failure.leader));
                ProposeError::NotLeader { leader }
            }
            Kind::Overloaded => {
                ProposeError::Overloaded { retry_after: Duration::from_nanos(failure.retry_after_nanos) }
            }
            Kind::NoSpace => {
                ProposeError::NoSpace { retry_after: Duration::from_nanos(failure.retry_after_nanos) }
            }
            Kind::NoQuorum => ProposeError::NoQuorum,
            Kind::Invalid => ProposeError::Invalid(failure.detail),
            // A kind that a newer version knows promises nothing to us.
            Kind::Unknown | Kind::Unspecified => ProposeError::Unknown,
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_survive_the_wire() {
        let applied = Applied { term: Term(3), position: Position(41), outcome: Outcome::Done };
        let answers = [
            Ok(applied),
            Err(ProposeError::NotLeader { leader: None }),
            Err(ProposeError::NotLeader { leader: Some(NodeId(2)) }),
            Err(ProposeError::Overloaded { retry_after: Duration::from_millis(250) }),
            Err(ProposeError::NoSpace { retry_after: Duration::from_secs(1) }),
            Err(ProposeError::NoQuorum),
            Err(ProposeError::Unknown),
        ];
        for answer in answers {
            let sent = answer_to_proto(9, answer.clone());
            assert_eq!(sent.id, 9);
            assert_eq!(answer_from_proto(sent.result), Ok(answer));
        }
    }

    #[test]
    fn no_answer_of_another_node_says_that_the_log_of_this_one_has_ended() {
        let sent = answer_to_proto(9, Err(ProposeError::Stopped));
        assert_eq!(answer_from_proto(sent.result), Ok(Err(ProposeError::NotLeader { leader: None })));
        for kind in 0..=i32::from(u8::MAX) {
            let failure = pb::ProposalFailure { kind, ..Default::default() };
            let answer = answer_from_proto(Some(Answer::Failure(failure)));
            assert_ne!(answer, Ok(Err(ProposeError::Stopped)), "kind {kind}");
        }
    }

    #[test]
    fn a_failure_of_an_unknown_kind_promises_nothing() {
        let failure = pb::ProposalFailure { kind: 77, ..Default::default() };
        assert_eq!(answer_from_proto(Some(Answer::Failure(failure))), Ok(Err(ProposeError::Unknown)));
    }
}
