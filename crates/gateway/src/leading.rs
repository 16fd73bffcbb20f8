//! What a node does while it leads.
//!
//! - One task follows this node's leadership. A reign begins with forwarding; acquisition is opened last.
//! - A planned switchover ends deliveries while devices are still read, then acquisition between two slots, waits until what
//!   was read is committed, and hands over to whoever is best placed then. Leadership is given up only when the sockets of
//!   all devices are closed: a node that cannot close them ends instead.
//! - A hand-over that is broken off costs devices no more than the time it took: they are read again at once, and only
//!   forwarding waits until what was delivered before is decided.
//! - An orderly end that needs a majority is broken off when none has answered for a lease after this node's own ran out.
//! - Before it, what follows this node outside is ended (`hooks`): bounded in time, and while devices are still read.
//! - Retention ends last, when the last reads are in: what is read and pushed while a reign ends fills the buffer and the
//!   disks, too. Nobody waits for it: whoever leads next decides anew from the ledger.
//! - When leadership is lost instead, everything ends at once: nothing may be sent any more.

use std::sync::Arc;
use std::time::Duration;

use destinations::Builder;
use drivers::modbus::{Dialler, WarmConnections};
use model::{Clock, NodeId};
use replication::{Leadership, MembershipError, Replica};
use runtime::random::{Random, branch};
use runtime::{Failure, Spawner};
use store::engine::Engine;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::acquisition::{self, AcquisitionParts};
use crate::egress::Gate;
use crate::field::FieldDoor;
use crate::forwarding::{self, ForwardingParts};
use crate::hooks::HookHandle;
use crate::live::Live;
use crate::retention;
use crate::standby::Standby;

/// What is added to the time in which a part of a reign has to end.
const MARGIN: Duration = Duration::from_secs(1);
/// How long a reign takes to end in order, at most; hooks excepted.
pub(crate) const ENDS_WITHIN: Duration =
    acquisition::ENDS_WITHIN.saturating_add(forwarding::ENDS_WITHIN).saturating_add(MARGIN.saturating_mul(2));

/// What leading needs of its node.
pub(crate) struct LeadingParts<E: Engine> {
    pub(crate) replica: Replica<E>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) live: Live,
    /// Builds what is delivered to.
    pub(crate) destinations: Arc<dyn Builder>,
    /// Reaches devices.
    pub(crate) dialler: Arc<dyn Dialler>,
    /// Lets requests to devices out.
    pub(crate) gate: Gate,
    pub(crate) field: FieldDoor,
    /// Bytes of readings that may wait to be proposed.
    pub(crate) readings: usize,
    pub(crate) hooks: HookHandle,
    /// What each reign and the time before it draw from.
    pub(crate) random: Random,
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
    /// Hands leadership to `to`, or to the best other voter; resolves with who leads then. If nobody can take over, this
    /// node goes on leading as if nobody had asked.
    pub async fn request(&self, to: Option<NodeId>) -> Result<NodeId, MembershipError> {
        let (answer, outcome) = oneshot::channel();
        self.requests.send(HandOver { to, answer }).await.map_err(|_| stopping())?;
        outcome.await.map_err(|_| stopping())?
    }

    /// Where nobody leads: every request is refused.
    #[cfg(test)]
    pub(crate) fn of_nobody() -> Self {
        Self { requests: mpsc::channel(1).0 }
    }
}

fn stopping() -> MembershipError {
    MembershipError::Refused("this node is stopping".to_owned())
}

/// The task that leads whenever this node has leadership.
pub(crate) struct Leading<E: Engine> {
    parts: LeadingParts<E>,
    requests: mpsc::Receiver<HandOver>,
    standby: Standby<E>,
}

/// How a reign ends.
enum End {
    /// Leadership is lost.
    AtOnce,
    /// The replica is gone.
    Stopped,
    /// Leadership goes to another node.
    HandOver(HandOver),
    /// The node stops.
    InOrder,
}

/// One reign in progress.
pub(crate) struct Reign {
    leadership: Leadership,
    stop_acquisition: CancellationToken,
    stop_forwarding: CancellationToken,
    stop_retention: CancellationToken,
    acquisition: TaskTracker,
    forwarding: TaskTracker,
}

impl<E: Engine> Leading<E> {
    pub(crate) fn new(mut parts: LeadingParts<E>) -> (Self, Switchover) {
        // One switchover at a time; more requests wait their turn.
        let (sender, requests) = mpsc::channel(4);
        let random = branch(&mut parts.random);
        let dialler = Arc::clone(&parts.dialler);
        let standby = Standby::new(parts.replica.clone(), dialler, random, parts.spawner.clone());
        (Self { parts, requests, standby }, Switchover { requests: sender })
    }

    /// Runs until the node stops; then what is being done is ended in order.
    pub(crate) async fn run(mut self) -> Result<(), Failure> {
        let stop = self.parts.spawner.token().clone();
        let mut leadership = self.parts.replica.leadership();
        // What was delivered in it may be undecided still.
        let mut before = None;
        loop {
            // One that has ended for good is about to be taken back: nothing begins under it any more.
            let current = leadership.borrow_and_update().clone().filter(|held| !held.is_over());
            let Some(current) = current else {
                tokio::select! {
                    changed = leadership.changed() => if changed.is_err() { return Ok(()) },
                    Some(request) = self.requests.recv() => self.refuse(request),
                    // Ends with the replica, which is noticed above.
                    () = self.standby.follow() => {}
                    () = stop.cancelled() => return Ok(()),
                }
                continue;
            };
            let warm = self.standby.release().await;
            let reign = self.begin(current, warm, before.take());
            let end = tokio::select! {
                () = reign.leadership.over() => End::AtOnce,
                changed = leadership.changed() => match changed {
                    Ok(()) => End::AtOnce,
                    Err(_) => End::Stopped,
                },
                request = next_hand_over(&mut self.requests, &self.parts.replica) => End::HandOver(request),
                () = stop.cancelled() => End::InOrder,
            };
            match end {
                End::AtOnce => reign.end_at_once().await,
                End::Stopped => {
                    reign.end_at_once().await;
                    return Ok(());
                }
                End::HandOver(request) => {
                    let ended = tokio::select! {
                        ended = self.end_for_another(&reign) => { ended?; true }
                        () = reign.leadership.lost(self.parts.replica.times().lease) => false,
                    };
                    let outcome = if ended {
                        // All has ended: whom leadership goes to, and who leads then, is all that is waited for.
                        let handed_over = self.parts.replica.transfer_leadership(request.to);
                        let handed_over = stop.run_until_cancelled(handed_over).await;
                        handed_over.unwrap_or_else(|| Err(stopping()))
                    } else {
                        if stop.run_until_cancelled(reign.end_at_once()).await.is_none() {
                            return self.end_with_the_node(&reign).await;
                        }
                        Err(MembershipError::Refused("no majority answers any more".to_owned()))
                    };
                    drop(request.answer.send(outcome));
                }
                End::InOrder => return self.end_with_the_node(&reign).await,
            }
            self.parts.hooks.end();
            self.parts.live.clear();
            before = Some(reign);
        }
    }

    /// Ends a reign that goes on elsewhere. Devices are read until the hooks have ended, and then what is delivered: neither
    /// costs a slot.
    async fn end_for_another(&self, reign: &Reign) -> Result<(), Failure> {
        tokio::select! {
            () = self.parts.hooks.end_and_wait() => {}
            () = reign.leadership.over() => {}
        }
        reign.end_in_order().await
    }

    /// Ends a reign that nobody takes over.
    async fn end_with_the_node(&self, reign: &Reign) -> Result<(), Failure> {
        tokio::select! {
            ended = reign.end_in_order() => ended?,
            () = reign.leadership.lost(self.parts.replica.times().lease) => {
                warn!("no majority answers: what is not committed by now is left to the next leader");
            }
        }
        self.parts.replica.give_up(&reign.leadership);
        reign.end_at_once().await;
        Ok(())
    }

    /// Begins everything but forwarding at once; that when what was delivered in the reign before is decided.
    fn begin(&mut self, leadership: Leadership, warm: WarmConnections, before: Option<Reign>) -> Reign {
        let parts = &mut self.parts;
        parts.hooks.begin(leadership.clone());
        let reign = Reign::without_parts(leadership.clone());
        let forwarding = ForwardingParts {
            replica: parts.replica.clone(),
            clock: Arc::clone(&parts.clock),
            live: parts.live.clone(),
            cluster: parts.replica.cluster_name().into(),
            destinations: Arc::clone(&parts.destinations),
            random: branch(&mut parts.random),
            spawner: parts.spawner.clone(),
        };
        let (held, stop) = (leadership.clone(), reign.stop_forwarding.clone());
        let run = async move {
            // Not broken off: what is undecided of that reign is undecided of this one.
            if let Some(before) = before {
                before.is_decided().await;
            }
            forwarding::run(forwarding, held, stop).await
        };
        parts.spawner.spawn("forwarding", reign.forwarding.track_future(run));
        reign.retain(parts.replica.clone(), &parts.spawner);
        let acquisition = Arc::new(AcquisitionParts {
            replica: parts.replica.clone(),
            clock: Arc::clone(&parts.clock),
            live: parts.live.clone(),
            dialler: Arc::clone(&parts.dialler),
            field: parts.field.clone(),
            readings: parts.readings,
            random: branch(&mut parts.random),
            spawner: parts.spawner.clone(),
        });
        let (gate, stop) = (parts.gate.clone(), reign.stop_acquisition.clone());
        let run = async move {
            // A first request that is held back would have its answer too late.
            gate.opened(&leadership, &stop).await;
            acquisition::run(acquisition, leadership, warm, stop).await
        };
        parts.spawner.spawn("acquisition", reign.acquisition.track_future(run));
        reign
    }

    fn refuse(&self, request: HandOver) {
        let leader = self.parts.replica.status().leader;
        if request.answer.send(Err(MembershipError::NotLeader { leader })).is_err() {
            warn!("nobody waits for the answer to a switchover any more");
        }
    }
}

/// The next request that can be fulfilled. The others are refused while this node goes on leading.
async fn next_hand_over<E: Engine>(
    requests: &mut mpsc::Receiver<HandOver>,
    replica: &Replica<E>,
) -> HandOver {
    while let Some(request) = requests.recv().await {
        match replica.successor(request.to) {
            Ok(_) => return request,
            Err(nobody) => {
                if request.answer.send(Err(nobody.into())).is_err() {
                    warn!("nobody waits for the answer to a switchover any more");
                }
            }
        }
    }
    // Nobody can ask any more; the reign ends otherwise.
    std::future::pending().await
}

impl Reign {
    pub(crate) fn without_parts(leadership: Leadership) -> Self {
        Self {
            leadership,
            stop_acquisition: CancellationToken::new(),
            stop_forwarding: CancellationToken::new(),
            stop_retention: CancellationToken::new(),
            acquisition: TaskTracker::new(),
            forwarding: TaskTracker::new(),
        }
    }

    /// Moves the horizon and keeps the gate until the reign has ended.
    pub(crate) fn retain<E: Engine>(&self, replica: Replica<E>, spawner: &Spawner) {
        let run = retention::run(replica, self.leadership.clone(), self.stop_retention.clone());
        spawner.spawn("retention", run);
    }

    #[cfg(test)]
    pub(crate) fn acquisition(&self) -> &TaskTracker {
        &self.acquisition
    }

    #[cfg(test)]
    pub(crate) fn forwarding(&self) -> &TaskTracker {
        &self.forwarding
    }

    #[cfg(test)]
    pub(crate) fn reads(&self) -> bool {
        !self.stop_acquisition.is_cancelled()
    }

    /// Forwarding first, and what was delivered is acknowledged: a slow destination is waited for while devices are read.
    /// Fails if the sockets of the devices may be open still.
    pub(crate) async fn end_in_order(&self) -> Result<(), Failure> {
        self.stop_forwarding.cancel();
        self.forwarding.close();
        if timeout(forwarding::ENDS_WITHIN + MARGIN, self.forwarding.wait()).await.is_err() {
            warn!("forwarding did not end in time");
        }
        self.stop_acquisition.cancel();
        self.acquisition.close();
        if timeout(acquisition::ENDS_WITHIN + MARGIN, self.acquisition.wait()).await.is_err() {
            let reason = "it did not end in time, and devices may still be asked".to_owned();
            return Err(Failure { task: "acquisition".to_owned(), reason });
        }
        self.stop_retention.cancel();
        Ok(())
    }

    /// Resolves when nothing that was delivered is undecided, or when the next `Lead` decides it: a reign that begins in the
    /// same term would otherwise begin before an acknowledgement that is then committed.
    async fn is_decided(&self) {
        tokio::select! {
            () = self.forwarding.wait() => {}
            () = self.leadership.over() => {}
        }
    }

    /// Everything at once: the tasks end by themselves, because their permit is gone. Deliveries whose term is not over are
    /// waited for by those that come next.
    async fn end_at_once(&self) {
        self.stop_acquisition.cancel();
        self.stop_forwarding.cancel();
        self.stop_retention.cancel();
        self.acquisition.close();
        self.forwarding.close();
        let ended = async {
            self.acquisition.wait().await;
            if self.leadership.is_over() {
                self.forwarding.wait().await;
            }
        };
        if timeout(ENDS_WITHIN, ended).await.is_err() {
            warn!("the tasks of a reign did not end in time");
        }
    }
}
