//! Forwarding: while this node leads, every destination is handed the buffer in order.
//!
//! - One task a destination; a slow or dead one holds up nothing but itself.
//! - A cursor moves only by what the destination has acknowledged, and only through the log.
//! - A forwarder begins when the one before it has ended and nothing it acknowledged is undecided: the cursor it begins
//!   with is the last word. So forwarding as a whole ends when nothing is, or when its term is over.
//! - After an error the same records are offered again, after a pause; a destination that wants a person stalls.
//! - Refused records that an operator wants offered again are, between deliveries ([`retry`]).
//! - Records that nobody routes to a destination are passed over, and its cursor with them.

mod acknowledger;
pub(crate) mod reader;
mod retry;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use destinations::{AnyDestination, Builder, DeliverError, Destination, Reign, pause_after};
use model::command::Rejection;
use model::ids::DestinationId;
use model::plant;
use model::time::nanos;
use model::{Clock, Cursor, Delivery, Position, Record, Timestamp};
use replication::{Leadership, Replica};
use runtime::random::{Random, branch};
use runtime::{Failure, Spawner, sleep_until};
use store::engine::Engine;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::live::{DestinationState, Live};
use acknowledger::Acknowledger;
use reader::{Reader, Run};
use retry::Retries;

/// A delivery whose newest record is older than this is backlog.
const LIVE: Duration = Duration::from_secs(10);
/// How long a delivery in progress is waited for when forwarding stops in order.
const FINISH: Duration = Duration::from_secs(3);
/// How long forwarding takes to stop in order, at most: what was delivered last is acknowledged, too.
pub(crate) const ENDS_WITHIN: Duration = Duration::from_secs(4);

/// What forwarding needs of its node.
pub(crate) struct ForwardingParts<E: Engine> {
    pub(crate) replica: Replica<E>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) live: Live,
    /// The cluster's name.
    pub(crate) cluster: Arc<str>,
    pub(crate) destinations: Arc<dyn Builder>,
    /// For the jitter of pauses.
    pub(crate) random: Random,
    pub(crate) spawner: Spawner,
}

/// A destination being delivered to.
struct Running {
    spec: plant::Destination,
    stop: CancellationToken,
    /// Cancelled by the forwarder's end.
    ended: CancellationToken,
}

/// Delivers to every destination until `stop`, or until leadership has ended.
pub(crate) async fn run<E: Engine>(
    mut parts: ForwardingParts<E>,
    leadership: Leadership,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let mut running: BTreeMap<DestinationId, Running> = BTreeMap::new();
    let tasks = TaskTracker::new();
    let mut orders = parts.replica.store().keeper().orders();
    loop {
        let (current, revision) = parts.replica.store().keeper().read(|state| {
            let catalog = state.catalog();
            let current: Vec<(DestinationId, plant::Destination)> = catalog
                .map(|catalog| {
                    catalog.destinations().map(|(id, destination)| (id, destination.clone())).collect()
                })
                .unwrap_or_default();
            (current, state.revision())
        });
        let mut ending: BTreeMap<DestinationId, CancellationToken> = BTreeMap::new();
        running.retain(|id, known| {
            let stays = current.iter().any(|(current, spec)| current == id && *spec == known.spec);
            if !stays {
                known.stop.cancel();
                ending.insert(*id, known.ended.clone());
            }
            stays
        });
        for (id, spec) in current {
            if running.contains_key(&id) {
                continue;
            }
            let (token, ended) = (stop.child_token(), CancellationToken::new());
            running.insert(id, Running { spec: spec.clone(), stop: token.clone(), ended: ended.clone() });
            let forwarder = Forwarder::new(&mut parts, id, spec, leadership.clone());
            let (name, guarded, before) =
                (forwarder.name.to_string(), leadership.clone(), ending.remove(&id));
            parts.spawner.spawn(
                format!("destination {name}"),
                tasks.track_future(async move {
                    let _ended = ended.drop_guard();
                    if let Some(before) = before {
                        before.cancelled().await;
                    }
                    tokio::select! {
                        ended = forwarder.run(token) => ended,
                        () = guarded.over() => Ok(()),
                    }
                }),
            );
        }
        tokio::select! {
            () = new_revision(&parts.replica, &mut orders, revision) => {}
            () = leadership.over() => break,
            () = stop.cancelled() => break,
        }
    }
    tasks.close();
    if timeout(ENDS_WITHIN, tasks.wait()).await.is_err() {
        warn!("deliveries are still in progress, or not yet known to be acknowledged");
        tokio::select! {
            () = tasks.wait() => {}
            () = leadership.over() => {}
        }
    }
    info!(term = %leadership.term(), "forwarding has ended");
    Ok(())
}

async fn new_revision<E: Engine>(
    replica: &Replica<E>,
    orders: &mut watch::Receiver<Position>,
    known: model::Revision,
) {
    while replica.store().keeper().read(store::ledger::State::revision) == known {
        if orders.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Delivers to one destination.
struct Forwarder<E: Engine> {
    id: DestinationId,
    name: Arc<str>,
    cluster: Arc<str>,
    spec: plant::Destination,
    replica: Replica<E>,
    clock: Arc<dyn Clock>,
    live: Live,
    destinations: Arc<dyn Builder>,
    leadership: Leadership,
    spawner: Spawner,
    random: Random,
    /// Failures since the destination last confirmed something.
    failures: u32,
    retries: Retries<E>,
}

impl<E: Engine> Forwarder<E> {
    fn new(
        parts: &mut ForwardingParts<E>,
        id: DestinationId,
        spec: plant::Destination,
        leadership: Leadership,
    ) -> Self {
        let (name, cluster): (Arc<str>, Arc<str>) = (spec.id.as_str().into(), Arc::clone(&parts.cluster));
        let names = (Arc::clone(&cluster), Arc::clone(&name));
        let mut random = branch(&mut parts.random);
        let for_retries = branch(&mut random);
        let retries = Retries::new(parts.replica.clone(), leadership.clone(), id, names, for_retries);
        Self {
            id,
            name,
            cluster,
            spec,
            replica: parts.replica.clone(),
            clock: Arc::clone(&parts.clock),
            live: parts.live.clone(),
            destinations: Arc::clone(&parts.destinations),
            leadership,
            spawner: parts.spawner.clone(),
            random,
            failures: 0,
            retries,
        }
    }

    async fn run(mut self, stop: CancellationToken) -> Result<(), Failure> {
        let mut destination = None;
        while !stop.is_cancelled() {
            let (cursor, lineages) = self.replica.store().keeper().read(|state| {
                let cursor =
                    state.destinations.get(&self.id).map_or_else(Cursor::default, |known| known.cursor);
                (cursor, state.lineages.clone())
            });
            let reign = Reign { term: self.leadership.term(), cursor, lineages };
            let acknowledger = Acknowledger::start(
                self.replica.clone(),
                self.leadership.clone(),
                self.id,
                cursor,
                &self.spawner,
            );
            let outcome = self.deliver_until_error(&mut destination, &reign, &acknowledger, &stop).await;
            acknowledger.settle().await;
            match outcome {
                Ok(()) => return Ok(()),
                Err(error) => {
                    if matches!(error, DeliverError::Misconfigured { .. }) {
                        // What a person mends may be read when it is built: a file, a certificate.
                        destination = None;
                    }
                    let Some(pause) = pause_after(&error, self.failures, &mut self.random) else {
                        // The lease has run out; whether it is renewed or over is decided around us.
                        self.leadership.changed().await;
                        continue;
                    };
                    self.failures += 1;
                    self.note(&error).await;
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = stop.cancelled() => return Ok(()),
                    }
                }
            }
        }
        Ok(())
    }

    /// Begins at the reign's cursor and delivers until something goes wrong or `stop`.
    async fn deliver_until_error(
        &mut self,
        built: &mut Option<AnyDestination>,
        reign: &Reign,
        acknowledger: &Acknowledger,
        stop: &CancellationToken,
    ) -> Result<(), DeliverError> {
        let destination = match built {
            Some(built) => built,
            None => built.insert(self.destinations.build(&self.spec)?),
        };
        let permit = self.leadership.clone();
        destination.begin_reign(reign, &permit).await?;
        let (taken, acknowledged) = (reign.cursor, reign.cursor);
        let mut session = Session { destination, acknowledger, permit, taken, acknowledged };
        let mut reader = Reader::new(self.replica.clone(), self.id, &self.spec);
        let mut applied = self.replica.store().keeper().applied();
        loop {
            if self.is_paused() {
                session.flush().await?;
                if !self.wait_while_paused(&mut reader, session.taken, &mut applied, stop).await? {
                    return Ok(());
                }
            }
            let upto = *applied.borrow_and_update();
            self.retries.offer(session.destination, stop).await;
            let run =
                reader.read(session.taken).await.map_err(|reason| DeliverError::Misconfigured { reason })?;
            if run.records.is_empty() {
                if self.wait_for_more(&mut session, run.next, upto, &mut applied, stop).await? {
                    continue;
                }
                return Ok(());
            }
            let oldest = run.records.iter().find_map(gateway_time);
            self.live.destination(&self.name).waiting(oldest, self.clock.now());
            reader.read_behind(&run);
            let delivery = self.delivery(session.taken, run);
            if runtime::mutant("cursor-moves-before-the-answer") {
                session.acknowledge(delivery.upto, Vec::new());
            }
            let outcome = tokio::select! {
                outcome = session.destination.deliver(&delivery, &session.permit) => outcome,
                // In order: the far side's answer is not waited for longer than it takes to hand over.
                () = async { stop.cancelled().await; sleep(FINISH).await } => return Ok(()),
            };
            let receipt = outcome?;
            session.taken = receipt.taken;
            let has_moved = receipt.acknowledged > session.acknowledged;
            if has_moved {
                self.failures = 0;
            }
            if has_moved || !receipt.rejected.is_empty() {
                let rejected = acknowledger::rejections(&delivery, receipt.rejected);
                session.acknowledge(receipt.acknowledged, rejected);
            }
            self.note_taken(&delivery);
            if stop.is_cancelled() {
                return Ok(());
            }
        }
    }

    /// Nothing is there for it before `next`, of what was applied up to `upto`: waits for more, or until something is due;
    /// `false` if forwarding ends before.
    async fn wait_for_more(
        &mut self,
        session: &mut Session<'_>,
        next: Cursor,
        upto: Position,
        applied: &mut watch::Receiver<Position>,
        stop: &CancellationToken,
    ) -> Result<bool, DeliverError> {
        let held = session.destination.due();
        // A stretch without anything deliverable in it is not worth a command, which would be such a stretch itself.
        let last_deliverable = self.replica.store().keeper().read(|state| state.last_deliverable);
        if held.is_none() && next > session.acknowledged && last_deliverable >= session.acknowledged.position
        {
            session.acknowledge(next, Vec::new());
        }
        session.taken = next;
        if next.position <= upto {
            return Ok(true);
        }
        let (entry, now) = (self.live.destination(&self.name), self.clock.now());
        entry.waiting(None, now);
        if held.is_none() {
            // What was the matter with it is over: its session stands, and nothing is left for it. What it holds back may
            // fail yet.
            entry.set(DestinationState::Accepting, now, None);
            self.failures = 0;
        }
        tokio::select! {
            changed = applied.changed() => return Ok(changed.is_ok()),
            () = self.retries.due() => {}
            () = sleep_until(held) => {
                if session.flush().await? {
                    self.failures = 0;
                }
            }
            () = stop.cancelled() => {
                // What cannot be finished now is delivered again.
                drop(session.flush().await);
                session.destination.close().await;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until an operator lets it go on; `false` if forwarding ends before. The age of the backlog is that of its
    /// first record, which is looked for until there is one.
    async fn wait_while_paused(
        &self,
        reader: &mut Reader<E>,
        mut from: Cursor,
        applied: &mut watch::Receiver<Position>,
        stop: &CancellationToken,
    ) -> Result<bool, DeliverError> {
        let entry = self.live.destination(&self.name);
        entry.set(DestinationState::Paused, self.clock.now(), None);
        let mut oldest = None;
        loop {
            applied.mark_unchanged();
            if !self.is_paused() {
                entry.set(DestinationState::Accepting, self.clock.now(), None);
                return Ok(true);
            }
            if oldest.is_none() {
                let run = reader.read(from).await.map_err(|reason| DeliverError::Misconfigured { reason })?;
                oldest = run.records.iter().find_map(gateway_time);
                if oldest.is_none() {
                    from = run.next;
                }
                entry.waiting(oldest, self.clock.now());
            }
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return Ok(false) },
                () = stop.cancelled() => return Ok(false),
            }
        }
    }

    fn delivery(&self, after: Cursor, run: Run) -> Delivery {
        let now = self.clock.now();
        let newest = run.records.iter().rev().find_map(gateway_time);
        let historical = newest.is_some_and(|newest| now.nanos_since(newest) > nanos(LIVE));
        Delivery {
            cluster: Arc::clone(&self.cluster),
            destination: Arc::clone(&self.name),
            after,
            upto: run.next,
            historical,
            records: run.records,
        }
    }

    fn note_taken(&self, delivery: &Delivery) {
        let now = self.clock.now();
        let entry = self.live.destination(&self.name);
        // What comes behind is read next, and says itself how old it is; until then it is no older than this.
        entry.waiting(delivery.records.iter().rev().find_map(gateway_time), now);
        entry.set(DestinationState::Accepting, now, None);
    }

    async fn note(&self, error: &DeliverError) {
        let state = match error {
            DeliverError::Misconfigured { .. } => DestinationState::Stalled,
            _ => DestinationState::Unavailable,
        };
        if self.failures == 1 {
            warn!(destination = %self.name, %error, "delivery failed; it is tried again");
        }
        self.live.destination(&self.name).set(state, self.clock.now(), Some(error.to_string()));
        self.note_waiting().await;
    }

    /// Says how old the backlog is of a destination that could not even be begun with.
    async fn note_waiting(&self) {
        let entry = self.live.destination(&self.name);
        if entry.is_waiting() {
            return;
        }
        let look = |state: &store::ledger::State| state.destinations.get(&self.id).map(|known| known.cursor);
        let Some(cursor) = self.replica.store().keeper().read(look) else { return };
        match Reader::new(self.replica.clone(), self.id, &self.spec).read(cursor).await {
            Ok(run) => entry.waiting(run.records.iter().find_map(gateway_time), self.clock.now()),
            Err(reason) => warn!(destination = %self.name, reason, "its backlog cannot be read"),
        }
    }

    fn is_paused(&self) -> bool {
        self.replica
            .store()
            .keeper()
            .read(|state| state.destinations.get(&self.id).is_some_and(|known| known.paused.is_some()))
    }
}

/// What is under way at a destination, from the beginning of a reign until something goes wrong.
struct Session<'a> {
    destination: &'a mut AnyDestination,
    acknowledger: &'a Acknowledger,
    permit: Leadership,
    /// Where the next delivery begins.
    taken: Cursor,
    /// Everything before this is safe there; what lies between is held.
    acknowledged: Cursor,
}

impl Session<'_> {
    fn acknowledge(&mut self, next: Cursor, rejected: Vec<Rejection>) {
        self.acknowledged = next;
        self.acknowledger.acknowledge(next, rejected);
    }

    /// Finishes what is held, and acknowledges it; whether anything was.
    async fn flush(&mut self) -> Result<bool, DeliverError> {
        let flushed = self.destination.flush(&self.permit).await?;
        if let Some(flushed) = flushed {
            self.acknowledge(flushed, Vec::new());
        }
        Ok(flushed.is_some())
    }
}

fn gateway_time(record: &Record) -> Option<Timestamp> {
    match record {
        Record::Sample(sample) => Some(sample.gateway_time),
        // The end of a gap is when it could first have been delivered.
        Record::Gap(gap) => Some(gap.to),
        Record::Opening(_) | Record::Expiry(_) => None,
    }
}
