//! What a node does while it leads.
//!
//! - One task follows this node's leadership. A reign begins with forwarding and ends with it; acquisition is opened
//!   last and closed first.
//! - A planned switchover ends acquisition between two slots, waits until what was read is committed, and hands over.
//! - When leadership is lost instead, everything ends at once: nothing may be sent any more.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use destinations::NodeFacts;
use model::{Clock, NodeId, Role};
use replication::{Leadership, MembershipError, Replica};
use runtime::{Failure, Spawner};
use store::engine::Engine;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::acquisition::{self, AcquisitionParts, over};
use crate::forwarding::{self, ForwardingParts};
use crate::live::Live;
use crate::retention;

/// How long the parts of a reign may take to end.
const FINISH: Duration = Duration::from_secs(5);

/// What leading needs of its node.
pub(crate) struct LeadingParts<E: Engine> {
    pub(crate) replica: Replica<E>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) live: Live,
    pub(crate) facts: NodeFacts,
    pub(crate) bind: Option<IpAddr>,
    pub(crate) spawner: Spawner,
}

/// A request to hand leadership over.
struct HandOver {
    to: Option<NodeId>,
    answer: oneshot::Sender<Result<NodeId, MembershipError>>,
}

/// Asks for planned switchovers. Cheap to clone.
#[derive(Clone)]
pub struct Switchover {
    requests: mpsc::Sender<HandOver>,
}

impl Switchover {
    /// Hands leadership to `to`, or to the best other voter; resolves when somebody else leads.
    pub async fn request(&self, to: Option<NodeId>) -> Result<NodeId, MembershipError> {
        let stopping = |_| MembershipError::Refused("this node is stopping".to_owned());
        let (answer, outcome) = oneshot::channel();
        self.requests
            .send(HandOver { to, answer })
            .await
            .map_err(|_| MembershipError::Refused("this node is stopping".to_owned()))?;
        outcome.await.map_err(stopping)?
    }
}

/// The task that leads whenever this node has leadership.
pub(crate) struct Leading<E: Engine> {
    parts: LeadingParts<E>,
    requests: mpsc::Receiver<HandOver>,
}

/// One reign in progress.
struct Reign {
    leadership: Leadership,
    stop_acquisition: CancellationToken,
    stop_forwarding: CancellationToken,
    acquisition: TaskTracker,
    forwarding: TaskTracker,
}

impl<E: Engine> Leading<E> {
    pub(crate) fn new(parts: LeadingParts<E>) -> (Self, Switchover) {
        // One switchover at a time; more requests wait their turn.
        let (sender, requests) = mpsc::channel(4);
        (Self { parts, requests }, Switchover { requests: sender })
    }

    /// Runs until the node stops; then what is being done is ended in order.
    pub(crate) async fn run(mut self) -> Result<(), Failure> {
        let stop = self.parts.spawner.token().clone();
        let mut leadership = self.parts.replica.leadership();
        loop {
            // One that has ended for good is about to be taken back: nothing begins under it any more.
            let current = leadership.borrow_and_update().clone().filter(|held| held.deadline().is_some());
            let Some(current) = current else {
                tokio::select! {
                    changed = leadership.changed() => if changed.is_err() { return Ok(()) },
                    Some(request) = self.requests.recv() => self.refuse(request),
                    () = stop.cancelled() => return Ok(()),
                }
                continue;
            };
            let reign = self.begin(current);
            tokio::select! {
                () = over(&reign.leadership) => reign.end_at_once().await,
                changed = leadership.changed() => {
                    reign.end_at_once().await;
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                Some(request) = self.requests.recv() => {
                    reign.end_in_order().await;
                    let outcome = self.hand_over(request.to).await;
                    drop(request.answer.send(outcome));
                }
                () = stop.cancelled() => {
                    reign.end_in_order().await;
                    return Ok(());
                }
            }
            self.parts.live.clear();
        }
    }

    fn begin(&self, leadership: Leadership) -> Reign {
        let parts = &self.parts;
        let reign = Reign {
            leadership: leadership.clone(),
            stop_acquisition: CancellationToken::new(),
            stop_forwarding: CancellationToken::new(),
            acquisition: TaskTracker::new(),
            forwarding: TaskTracker::new(),
        };
        let forwarding = Arc::new(ForwardingParts {
            replica: parts.replica.clone(),
            clock: Arc::clone(&parts.clock),
            live: parts.live.clone(),
            facts: parts.facts.clone(),
            spawner: parts.spawner.clone(),
        });
        let run = forwarding::run(forwarding, leadership.clone(), reign.stop_forwarding.clone());
        parts.spawner.spawn("forwarding", reign.forwarding.track_future(run));
        let run = retention::run(parts.replica.clone(), leadership.clone(), reign.stop_forwarding.clone());
        parts.spawner.spawn("retention", reign.forwarding.track_future(run));
        let acquisition = Arc::new(AcquisitionParts {
            replica: parts.replica.clone(),
            clock: Arc::clone(&parts.clock),
            live: parts.live.clone(),
            bind: parts.bind,
            spawner: parts.spawner.clone(),
        });
        let run = acquisition::run(acquisition, leadership, reign.stop_acquisition.clone());
        parts.spawner.spawn("acquisition", reign.acquisition.track_future(run));
        reign
    }

    async fn hand_over(&self, to: Option<NodeId>) -> Result<NodeId, MembershipError> {
        let replica = &self.parts.replica;
        let to = match to {
            Some(to) => to,
            None => best_successor(replica, 0)
                .ok_or_else(|| MembershipError::Refused("no other voter could take over".to_owned()))?,
        };
        info!(%to, "handing leadership over");
        replica.transfer_leadership(to).await?;
        Ok(to)
    }

    fn refuse(&self, request: HandOver) {
        let leader = self.parts.replica.status().leader;
        if request.answer.send(Err(MembershipError::NotLeader { leader })).is_err() {
            warn!("nobody waits for the answer to a switchover any more");
        }
    }
}

/// The voter that has most of the log, may lead, and has `room` bytes free.
pub(crate) fn best_successor<E: Engine>(replica: &Replica<E>, room: u64) -> Option<NodeId> {
    let status = replica.status();
    let drained = replica.store().keeper().read(|state| state.drained.clone());
    let may_lead = |node: &NodeId| {
        *node != status.node
            && !drained.contains_key(node)
            && status.members.get(node).is_some_and(|member| member.role == Role::Gateway)
            && status.voters.iter().all(|voters| voters.contains(&node.0))
    };
    let has_room = |node: &NodeId| {
        let free = replica.peers().get(*node).and_then(|peer| peer.free_bytes);
        free.is_none_or(|free| free >= room)
    };
    let candidates = status.matched.iter().filter(|(node, _)| may_lead(node) && has_room(node));
    candidates.max_by_key(|(_, matched)| **matched).map(|(node, _)| *node)
}

impl Reign {
    /// Acquisition first, so that nothing new arrives; then what was delivered is acknowledged.
    async fn end_in_order(&self) {
        self.stop_acquisition.cancel();
        self.acquisition.close();
        if tokio::time::timeout(FINISH, self.acquisition.wait()).await.is_err() {
            warn!("acquisition did not end in time");
        }
        self.stop_forwarding.cancel();
        self.forwarding.close();
        if tokio::time::timeout(FINISH, self.forwarding.wait()).await.is_err() {
            warn!("forwarding did not end in time");
        }
    }

    /// Everything at once: the tasks end by themselves, because their permit is gone.
    async fn end_at_once(&self) {
        self.stop_acquisition.cancel();
        self.stop_forwarding.cancel();
        self.acquisition.close();
        self.forwarding.close();
        let ended = async {
            self.acquisition.wait().await;
            self.forwarding.wait().await;
        };
        if tokio::time::timeout(FINISH, ended).await.is_err() {
            warn!("the tasks of a reign did not end in time");
        }
    }
}
