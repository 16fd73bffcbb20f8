//! One poll group: wait for the slot, scan, hand over a batch.
//!
//! A batch has one reading for each tag of the group: where a driver gives another number, the slot is bad.

use std::sync::Arc;
use std::time::Duration;

use drivers::modbus::ModbusDevice;
use drivers::{Driver, GroupIndex, ScanError};
use model::batch::{Batch, Sample, Source};
use model::catalog::GroupEntry;
use model::command::Command;
use model::ids::TagId;
use model::plant::{Device, Schedule};
use model::{Cause, Clock, Reading, StatusCode, Timestamp};
use replication::{Leadership, Replica};
use store::engine::Engine;
use store::ledger::Grid;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::silence::Silence;
use super::timeline::Timeline;
use super::{AcquisitionParts, Batcher, PATIENCE};
use crate::live::{DeviceState, Live};

/// A task that is woken later than this, and than a period, was not late: its process stood still.
const STOOD_STILL: Duration = Duration::from_millis(100);

/// Reads one group on one grid.
pub(super) struct GroupTask<E: Engine> {
    replica: Replica<E>,
    leadership: Leadership,
    clock: Arc<dyn Clock>,
    timeline: Timeline,
    live: Live,
    batcher: Batcher,
    driver: Arc<ModbusDevice>,
    index: GroupIndex,
    device: String,
    name: Arc<str>,
    tags: Arc<[TagId]>,
    group: model::GroupId,
    schedule: Schedule,
    grid: Grid,
    silence: Silence,
    /// Why slots before the next batch were skipped, if any were.
    skipped: Option<Cause>,
    /// Whether the slot before was skipped, and nothing has been said of it.
    is_unsaid: bool,
}

impl<E: Engine> GroupTask<E> {
    pub(super) fn new(
        parts: &AcquisitionParts<E>,
        leadership: &Leadership,
        (batcher, timeline): (&Batcher, &Timeline),
        entry: &GroupEntry,
        device: &Device,
        grid: Grid,
        driver: Arc<ModbusDevice>,
    ) -> Self {
        let index = device.groups.iter().position(|group| group.id == *entry.name).unwrap_or_default();
        let schedule = device.groups[index]
            .schedule
            .unwrap_or(Schedule { period: grid.line.period, offset: Duration::ZERO });
        Self {
            replica: parts.replica.clone(),
            leadership: leadership.clone(),
            clock: Arc::clone(&parts.clock),
            timeline: timeline.clone(),
            live: parts.live.clone(),
            batcher: batcher.clone(),
            driver,
            index: GroupIndex(index),
            device: device.id.clone(),
            name: Arc::clone(&entry.name),
            tags: Arc::clone(&entry.tags),
            group: entry.id,
            schedule,
            grid,
            silence: Silence::default(),
            skipped: None,
            is_unsaid: false,
        }
    }

    /// Waits for the end of the task that read this grid before, and takes over what it had still to say: why slots are
    /// missing, which this one does not know.
    pub(super) async fn follow(&mut self, predecessor: oneshot::Receiver<Option<Command>>) {
        if let Ok(Some(Command::Missed { cause, .. })) = predecessor.await {
            self.skip(cause);
            self.is_unsaid = true;
        }
    }

    /// Reads until stopped or fenced. Stopped in order within a run of slots without samples, it gives what is to be
    /// said of them.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Option<Command> {
        let began = Instant::now();
        let mut slot = self.first_slot();
        loop {
            let nominal = self.grid.line.nominal(slot).plus(self.schedule.offset);
            let start = self.timeline.instant_of(nominal).max(began);
            let awake_by = start.max(Instant::now());
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.last_words(slot),
                () = sleep_until(start) => {}
            }
            if awake_by.elapsed() > self.schedule.period.max(STOOD_STILL) {
                self.skip(Cause::Paused);
            }
            if !self.read(slot, start).await {
                return None;
            }
            if self.is_unsaid {
                self.say_missed((slot + 1).max(self.slots_begun())).await;
            }
            let next = (slot + 1).max(self.slots_begun());
            if next > slot + 1 {
                self.is_unsaid = true;
                if !self.silence.is_silent() {
                    self.skip(Cause::Late);
                }
            }
            slot = next;
        }
    }

    /// How many slots of the grid have begun by now.
    fn slots_begun(&self) -> u64 {
        let now = self.timeline.at(Instant::now());
        self.grid.line.slots_until(now.minus(self.schedule.offset))
    }

    /// A run of slots without samples that goes on when this task ends in order: its cause is known here, and the next
    /// leader could only say that leadership was handed over.
    fn last_words(&self, next: u64) -> Option<Command> {
        let last = next.checked_sub(1).filter(|_| self.is_unsaid)?;
        Some(Command::Missed {
            group: self.group,
            grid: self.grid.id,
            last,
            cause: self.skipped.unwrap_or(Cause::Late),
        })
    }

    /// Where a reign begins to read. Slots that have begun are passed over: who led before may have read them. After a
    /// switchover it has not, because it ended in order, and on a grid that this reign opened or read nobody has: then the
    /// slot in progress is read too.
    fn first_slot(&self) -> u64 {
        let begun = self.slots_begun();
        let own = self.replica.store().keeper().read(|state| {
            state
                .reign()
                .is_some_and(|reign| reign.cause == Cause::Switchover || self.grid.touched > reign.position)
        });
        self.grid.next.max(if own { begun.saturating_sub(1) } else { begun })
    }

    /// Slots before the next batch are skipped for this cause. Any other one explains more than being late.
    fn skip(&mut self, cause: Cause) {
        if self.skipped.is_none_or(|known| known == Cause::Late) {
            self.skipped = Some(cause);
        }
    }

    /// Reads one slot. `false` when this task is over.
    async fn read(&mut self, slot: u64, start: Instant) -> bool {
        self.is_unsaid = true;
        let start_by = start + self.schedule.period.mul_f64(0.9);
        match self.driver.scan(self.index, start_by).await {
            Ok(scan) => {
                if self.silence.answered() {
                    self.skipped = Some(Cause::DeviceDown);
                }
                let entry = self.live.device(&self.device);
                let before = entry.set(DeviceState::Answering, self.clock.now(), None);
                if before == Some(DeviceState::Silent) {
                    info!(device = self.device, "device answers again");
                }
                entry.note_lateness(&self.name, scan.started.saturating_duration_since(start));
                self.hand_over(slot, scan.readings);
                true
            }
            Err(ScanError::Silent { status, reason }) => {
                let entry = self.live.device(&self.device);
                let before = entry.set(DeviceState::Silent, self.clock.now(), Some(reason.to_string()));
                if before != Some(DeviceState::Silent) {
                    warn!(device = self.device, %reason, "device does not answer");
                }
                self.say_silent(slot, status);
                true
            }
            Err(ScanError::Late) => {
                self.skip(Cause::Late);
                true
            }
            Err(ScanError::Fenced) => {
                // The lease has run out; it may be renewed. The slots meanwhile are a gap.
                self.skip(Cause::NoQuorum);
                true
            }
            Err(ScanError::Stopped) => {
                debug!(device = self.device, "the driver has ended");
                false
            }
        }
    }

    fn say_silent(&mut self, slot: u64, status: StatusCode) {
        if self.batcher.has_lost(self.grid.id) {
            // Perhaps it was the batch of bad readings, and the far side still takes the last value for good.
            self.silence = Silence::default();
        }
        if self.silence.failed(slot) {
            let samples = all_bad(&self.tags, self.clock.now(), status);
            self.push(slot, samples);
            self.skip(Cause::DeviceDown);
        }
    }

    /// Proposes what is due of a silent device's slots before `next`. Not in the step in which its bad readings were handed
    /// over: the proposal could overtake them.
    async fn say_missed(&mut self, next: u64) {
        while let Some(last) = self.silence.due(next, self.grid.line.period) {
            let (group, grid) = (self.group, self.grid.id);
            let missed = Command::Missed { group, grid, last, cause: Cause::DeviceDown };
            if let Err(error) = self.replica.propose_in(&self.leadership, &missed, PATIENCE).await {
                // Perhaps it will be: proposed again after the next slot, it says nothing a second time.
                debug!(%error, device = self.device, "a piece of a gap was not committed");
                return;
            }
            self.silence.committed(last);
        }
    }

    fn hand_over(&mut self, slot: u64, readings: Vec<(Timestamp, Reading)>) {
        let (answered, owed) = (readings.len(), self.tags.len());
        let samples = one_each(&self.tags, readings).unwrap_or_else(|| {
            error!(device = self.device, group = %self.name, answered, owed, "the driver did not read each tag");
            all_bad(&self.tags, self.clock.now(), StatusCode::BAD)
        });
        self.push(slot, samples);
    }

    fn push(&mut self, slot: u64, samples: Vec<Sample>) {
        let skipped = self.skipped.unwrap_or(Cause::Late);
        let source = Source::Polled { group: self.group, grid: self.grid.id, slot, skipped };
        let revision = self.replica.store().keeper().read(store::ledger::State::revision);
        let batch = Batch::new(source, self.replica.node(), revision, self.clock.now(), samples);
        match batch.map(|batch| self.batcher.push(&batch)) {
            Ok(Ok(())) => {
                self.skipped = None;
                self.is_unsaid = false;
            }
            Ok(Err(cause)) => self.skip(cause),
            Err(error) => warn!(device = self.device, %error, "a group without tags is not read"),
        }
    }
}

/// One sample for each tag of the group; `None` where the driver gave another number of readings than there are tags: then
/// nobody knows which reading is whose.
fn one_each(tags: &[TagId], readings: Vec<(Timestamp, Reading)>) -> Option<Vec<Sample>> {
    let sample = |(tag, (source_time, reading)): (&TagId, _)| Sample { tag: *tag, source_time, reading };
    (readings.len() == tags.len()).then(|| tags.iter().zip(readings).map(sample).collect())
}

/// A bad sample for each tag of the group.
fn all_bad(tags: &[TagId], source_time: Timestamp, status: StatusCode) -> Vec<Sample> {
    tags.iter().map(|tag| Sample { tag: *tag, source_time, reading: Reading::Bad(status) }).collect()
}

#[cfg(test)]
mod tests {
    use model::Value;

    use super::*;

    #[test]
    fn a_scan_without_one_reading_for_each_tag_is_not_cut_to_fit() {
        let tags = [TagId(3), TagId(1), TagId(2)];
        let readings = |count: i64| {
            let reading = |number: i64| (Timestamp(number), Reading::Good(Value::I64(number)));
            (0..count).map(reading).collect::<Vec<_>>()
        };
        let whole = one_each(&tags, readings(3)).expect("a reading for each");
        let seen: Vec<_> = whole.iter().map(|sample| (sample.tag, sample.source_time)).collect();
        assert_eq!(seen, [(TagId(3), Timestamp(0)), (TagId(1), Timestamp(1)), (TagId(2), Timestamp(2))]);
        for count in [0, 2, 4] {
            assert_eq!(one_each(&tags, readings(count)), None, "{count} readings for three tags");
        }
        let bad = all_bad(&tags, Timestamp(5), StatusCode::BAD);
        let of_tags: Vec<TagId> = bad.iter().map(|sample| sample.tag).collect();
        assert_eq!(of_tags, tags, "one bad reading for each");
        assert!(bad.iter().all(|sample| sample.reading == Reading::Bad(StatusCode::BAD)));
    }
}
