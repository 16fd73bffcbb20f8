//! The watch: what a running node tells of itself and of its cluster without being asked.
//!
//! - While this node leads it writes the system tags ([`tags`]), raises and clears alarms ([`alarms`]), and puts devices
//!   back whose time out of service is over.
//! - Everything it says goes through the log, and only in the term in which it was seen: a leader that has lost its term
//!   says nothing any more, and nothing of it is passed on to the next.
//! - It logs that there is no majority ([`quorum`]) and that memory is more than it should be ([`memory`]); while it follows
//!   it looks whether file destinations lie on a share ([`shares`]).
//! - It decides little: what is wrong is the verdict's say, what is due is that of pure functions.

mod alarms;
mod memory;
mod quorum;
pub(crate) mod shares;
mod tags;

use std::time::Duration;

use destinations::NodeFacts;
use model::batch::{Batch, Sample, Source};
use model::command::{Command, Request};
use model::time::nanos;
use model::{Reading, Revision, SYSTEM_SESSION, SystemTag, Term, Timestamp, Value};
use replication::{Leadership, ProposeError, Replica, Status};
use runtime::Failure;
use store::engine::Engine;
use store::ledger::State;
use store::{BatchOutcome, Outcome};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use wire::EncodedBatch;
use wire::proto::v1 as pb;

use crate::admin::{AdminService, Facts};
use crate::steady::SteadyTime;
use alarms::Tracker;
use memory::MemoryWatch;
use quorum::Quorum;
use shares::Shares;
use tags::SystemTags;

/// From one look to the next: what has changed is in the log that soon.
const TICK: Duration = Duration::from_millis(500);
/// How often the disk is looked at.
const DISK_EVERY: Duration = Duration::from_secs(5);
/// How long one proposal is waited for; the next look comes afterwards.
const PATIENCE: Duration = Duration::from_secs(2);
/// Alarms that are raised or cleared in one look; the others have their turn in the next.
const ALARMS_AT_ONCE: usize = 32;
/// The wall clock runs apart from the monotonic one by more than this: it was set.
const STEP: Duration = Duration::from_millis(100);

/// What a watch is made of.
pub(crate) struct Watch<E: Engine> {
    admin: AdminService<E>,
    reign: Option<Reign>,
    tracker: Tracker,
    shares: Shares,
    steady: SteadyTime,
    buffer: Option<(Instant, pb::BufferStats)>,
    clocks: Option<(Instant, Timestamp)>,
    quorum: Quorum,
    memory: MemoryWatch,
}

/// System tags of one reign.
struct Reign {
    term: Term,
    /// A new revision may have new tags, and new destinations that know none of them yet.
    revision: Revision,
    tags: SystemTags,
    /// A batch that was proposed and not answered: it comes before everything else, as it was.
    undecided: Option<EncodedBatch>,
}

impl<E: Engine> Watch<E> {
    /// A watch that knows what `admin` knows. `node` says where file destinations lie here.
    pub(crate) fn new(admin: AdminService<E>, node: NodeFacts) -> Self {
        Self {
            admin,
            reign: None,
            tracker: Tracker::default(),
            shares: Shares::new(node, shares::EVERY),
            steady: SteadyTime::default(),
            buffer: None,
            clocks: None,
            quorum: Quorum::default(),
            memory: MemoryWatch::default(),
        }
    }

    /// Watches until told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Failure> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            tokio::select! {
                () = self.look() => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    async fn look(&mut self) {
        self.compare_clocks();
        self.memory.look(Instant::now(), || self.admin.memory());
        let quorum = self.admin.has_majority();
        let leadership = self.replica().leadership().borrow().clone();
        self.quorum.look(Instant::now(), quorum, leadership.as_ref().map(Leadership::term));
        match leadership {
            Some(leadership) if leadership.is_live() => {
                let status = self.replica().status();
                let facts = self.facts(&status);
                self.shares.forget();
                self.tell_loss(&leadership).await;
                self.write_tags(&leadership, &facts).await;
                self.tell_alarms(&leadership, &facts).await;
                self.put_back(&leadership).await;
            }
            // The lease may be renewed: what is undecided stays so.
            Some(_) => {}
            None => {
                self.reign = None;
                self.tracker.forget();
                if quorum {
                    let status = self.replica().status();
                    self.shares.look(self.admin.replica(), &status).await;
                }
            }
        }
    }

    fn replica(&self) -> &Replica<E> {
        self.admin.replica()
    }

    fn facts(&mut self, status: &Status) -> Facts {
        let now = Instant::now();
        let buffer = match self.buffer {
            Some((at, buffer)) if now.duration_since(at) < DISK_EVERY => buffer,
            _ => {
                let buffer = self.admin.buffer(status);
                self.buffer = Some((now, buffer));
                buffer
            }
        };
        self.admin.facts_with(status, buffer)
    }

    fn compare_clocks(&mut self) {
        let (now, wall) = (Instant::now(), self.admin.now());
        if let Some((before, wall_before)) = self.clocks.replace((now, wall))
            && let Some(nanos) = step(now.duration_since(before), wall.nanos_since(wall_before))
        {
            warn!(seconds = nanos as f64 / 1e9, "the wall clock was set");
            self.admin.live().note_clock_step(wall, nanos);
        }
    }

    /// Tells that there was no majority for long, if this node led then as it does now.
    async fn tell_loss(&mut self, leadership: &Leadership) {
        let Some(loss) = self.quorum.loss(leadership.term()) else { return };
        let command = loss.command(self.replica().name(), Instant::now(), self.admin.now());
        match self.replica().propose_in(leadership, &command, PATIENCE).await {
            Ok(_) => self.quorum.told(),
            Err(error) => debug!(%error, "an event was not committed; it is proposed again"),
        }
    }

    async fn write_tags(&mut self, leadership: &Leadership, facts: &Facts) {
        let term = leadership.term();
        let (revision, written) =
            self.replica().store().keeper().read(|state| (state.revision(), last_written(state)));
        let mut reign = match self.reign.take() {
            // A batch that is undecided may count, and has its turn first.
            Some(reign)
                if reign.term == term && (reign.revision == revision || reign.undecided.is_some()) =>
            {
                reign
            }
            // The ledger has decided everything that was proposed before.
            _ => Reign { term, revision, tags: SystemTags::new(written), undecided: None },
        };
        let batch = match reign.undecided.take() {
            Some(batch) => Some(batch),
            None => self.next_batch(&mut reign.tags, facts),
        };
        if let Some(batch) = batch {
            let proposed = self.replica().append_in(leadership, std::slice::from_ref(&batch), PATIENCE).await;
            match proposed.map(|applied| applied.outcome) {
                Ok(Outcome::Appended { batches, .. }) if is_in(&batches) => {}
                Ok(outcome) => {
                    debug!(%outcome, "system tags were refused");
                    reign.tags = SystemTags::new(self.replica().store().keeper().read(last_written));
                }
                Err(ProposeError::NotLeader { .. } | ProposeError::Stopped) => return,
                Err(error) => {
                    debug!(%error, "system tags were not committed; they are proposed again");
                    reign.undecided = Some(batch);
                }
            }
        }
        self.reign = Some(reign);
    }

    /// What is due, as a batch; `None` while nothing is.
    fn next_batch(&self, tags: &mut SystemTags, facts: &Facts) -> Option<EncodedBatch> {
        let values = tags::values(facts, self.replica().name());
        let (sequence, due) = tags.due(Instant::now(), values)?;
        let at = facts.at;
        let (revision, samples) = self.replica().store().keeper().read(|state| {
            let catalog = state.catalog();
            let sample = |(tag, value): (SystemTag, Value)| {
                let tag = catalog?.tag_named(&tag.to_string())?.id;
                Some(Sample { tag, source_time: at, reading: Reading::Good(value) })
            };
            (state.revision(), due.into_iter().filter_map(sample).collect())
        });
        let source = Source::Pushed { session: SYSTEM_SESSION, sequence };
        // Before the first revision there is no tag, and so no sample.
        let batch = Batch::new(source, self.replica().node(), revision, at, samples).ok()?;
        match EncodedBatch::encode(&batch) {
            Ok(batch) => {
                tags.written(sequence);
                Some(batch)
            }
            Err(error) => {
                warn!(%error, "system tags cannot be encoded");
                None
            }
        }
    }

    async fn tell_alarms(&mut self, leadership: &Leadership, facts: &Facts) {
        let changes = self.tracker.changes(Instant::now(), facts);
        for change in changes.into_iter().take(ALARMS_AT_ONCE) {
            match self.replica().propose_in(leadership, &change.command(), PATIENCE).await {
                Ok(_) => change.log(),
                Err(error) => {
                    // It is still due in the next look.
                    debug!(%error, "an alarm was not committed");
                    return;
                }
            }
        }
    }

    /// Puts devices back into service whose time is over.
    async fn put_back(&mut self, leadership: &Leadership) {
        let now = self.steady.at(&self.replica().store().keeper().read(|state| state.steady));
        for (device, until) in self.replica().store().keeper().read(|state| overdue(state, now)) {
            let command = Command::SetDeviceEnabled {
                device: device.clone(),
                enabled: true,
                until: Some(until),
                elapsed: Vec::new(),
                request: Request {
                    principal: "the cluster".to_owned(),
                    reason: "its time was over".to_owned(),
                },
            };
            match self.replica().propose_in(leadership, &command, PATIENCE).await {
                Ok(_) => info!(device, "device is put back into service: its time was over"),
                Err(error) => debug!(%error, device, "device is not yet put back into service"),
            }
        }
    }
}

/// Number of the last batch of system tags.
fn last_written(state: &State) -> u64 {
    state.sessions.get(&SYSTEM_SESSION).map_or(0, |session| session.last)
}

/// Whether the one batch is in the log, by this proposal or an earlier one.
fn is_in(batches: &[BatchOutcome]) -> bool {
    matches!(batches, [BatchOutcome::Accepted | BatchOutcome::Already])
}

/// Devices out of service whose time is over at `now`, in steady command time, and until when they were out for people.
fn overdue(state: &State, now: Duration) -> Vec<(String, Timestamp)> {
    let ends = state.disabled.iter().filter_map(|(device, standing)| Some((device, standing.until?)));
    ends.filter(|(_, end)| end.steady <= now).map(|(device, end)| (device.clone(), end.at)).collect()
}

/// By how many nanoseconds the wall clock was set, if it was, while `monotonic` passed and the wall clock moved on by
/// `wall_nanos`.
fn step(monotonic: Duration, wall_nanos: i64) -> Option<i64> {
    let passed = nanos(monotonic);
    let apart = wall_nanos.saturating_sub(passed);
    (u128::from(apart.unsigned_abs()) > STEP.as_nanos()).then_some(apart)
}

#[cfg(test)]
mod tests {
    use store::ledger::{End, Standing};

    use super::*;

    fn standing(steady: Option<u64>) -> Standing {
        // What people see says nothing.
        let until = steady.map(|steady| End { at: Timestamp(0), steady: Duration::from_secs(steady) });
        Standing { principal: "anna".into(), reason: "tool change".into(), at: Timestamp(0), until }
    }

    #[test]
    fn a_device_is_due_at_its_end_and_not_before() {
        let disabled = [("a", Some(10)), ("b", Some(20)), ("c", None)];
        let disabled = disabled.map(|(device, until)| (device.to_owned(), standing(until)));
        let state = State { disabled: disabled.into(), ..State::default() };
        assert_eq!(overdue(&state, Duration::from_secs(9)), []);
        assert_eq!(overdue(&state, Duration::from_secs(10)), [("a".to_owned(), Timestamp(0))]);
        assert_eq!(overdue(&state, Duration::from_secs(99)).len(), 2, "one without an end stays out");
    }

    #[test]
    fn a_clock_that_is_set_is_told_from_one_that_is_slewed() {
        let second = Duration::from_secs(1);
        assert_eq!(step(second, 1_000_500_000), None, "500 ppm is what a time service slews");
        assert_eq!(step(second, 3_601_000_000_000), Some(3_600_000_000_000));
        assert_eq!(step(second, -1_000_000_000), Some(-2_000_000_000));
    }
}
