//! One poll group: wait for the slot, scan, hand over a batch.

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
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::silence::{Say, Silence};
use super::{AcquisitionParts, Batcher, PATIENCE};
use crate::live::{DeviceState, Live};

/// Reads one group on one grid.
pub(super) struct GroupTask<E: Engine> {
    replica: Replica<E>,
    leadership: Leadership,
    clock: Arc<dyn Clock>,
    live: Live,
    batcher: Batcher,
    driver: Arc<ModbusDevice>,
    index: GroupIndex,
    device: String,
    tags: Arc<[TagId]>,
    group: model::GroupId,
    schedule: Schedule,
    grid: Grid,
    silence: Silence,
    /// Why slots before the next batch were skipped, if any were.
    skipped: Cause,
    refusals_seen: u64,
}

impl<E: Engine> GroupTask<E> {
    pub(super) fn new(
        parts: &AcquisitionParts<E>,
        leadership: &Leadership,
        batcher: &Batcher,
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
            live: parts.live.clone(),
            batcher: batcher.clone(),
            driver,
            index: GroupIndex(index),
            device: device.id.clone(),
            tags: Arc::clone(&entry.tags),
            group: entry.id,
            schedule,
            grid,
            silence: Silence::default(),
            skipped: Cause::Late,
            refusals_seen: batcher.refusals(),
        }
    }

    /// Reads until stopped or fenced. The wall clock places the slots once; from then on the monotonic clock runs.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let origin = Instant::now();
        let wall_at_origin = self.clock.now();
        let mut slot = self.first_slot(wall_at_origin);
        loop {
            let start = self.instant_of(slot, origin, wall_at_origin) + self.schedule.offset;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep_until(start) => {}
            }
            if !self.read(slot, start).await {
                return;
            }
            let passed = self.slots_passed(origin, wall_at_origin);
            let next = (slot + 1).max(passed);
            if next > slot + 1 && !self.silence.is_silent() {
                self.skipped = Cause::Late;
            }
            slot = next;
        }
    }

    /// Where a reign begins to read. Slots that have begun are passed over: who led before may have read them. After a
    /// switchover it has not, because it ended in order: so a switchover misses none.
    fn first_slot(&self, now: Timestamp) -> u64 {
        let begun = self.grid.line.slots_until(now);
        let handed_over = self
            .replica
            .store()
            .keeper()
            .read(|state| state.reign().is_some_and(|reign| reign.cause == Cause::Switchover));
        self.grid.next.max(if handed_over { begun.saturating_sub(1) } else { begun })
    }

    /// Reads one slot. `false` when this task is over.
    async fn read(&mut self, slot: u64, start: Instant) -> bool {
        let start_by = start + self.schedule.period.mul_f64(0.9);
        match self.driver.scan(self.index, start_by).await {
            Ok(scan) => {
                if self.silence.answered() {
                    self.skipped = Cause::DeviceDown;
                    info!(device = self.device, "device answers again");
                }
                self.live.device(&self.device).set(DeviceState::Answering, self.clock.now(), None);
                self.hand_over(slot, scan.readings);
                true
            }
            Err(ScanError::Silent { status, reason }) => {
                if !self.silence.is_silent() {
                    warn!(device = self.device, %reason, "device does not answer");
                }
                self.live.device(&self.device).set(
                    DeviceState::Silent,
                    self.clock.now(),
                    Some(reason.to_string()),
                );
                self.say_silent(slot, status).await;
                true
            }
            Err(ScanError::Late) => {
                self.skipped = Cause::Late;
                true
            }
            Err(ScanError::Fenced) => {
                // The lease has run out; it may be renewed. The slots meanwhile are a gap.
                self.skipped = Cause::NoQuorum;
                true
            }
            Err(ScanError::Stopped) => {
                debug!(device = self.device, "the driver has ended");
                false
            }
        }
    }

    async fn say_silent(&mut self, slot: u64, status: StatusCode) {
        match self.silence.failed(Instant::now()) {
            Say::Nothing => {}
            Say::Bad => {
                let now = self.clock.now();
                let readings = self.tags.iter().map(|_| (now, Reading::Bad(status))).collect();
                self.hand_over(slot, readings);
                self.skipped = Cause::DeviceDown;
            }
            Say::Missed => {
                let missed = Command::Missed {
                    group: self.group,
                    grid: self.grid.id,
                    last: slot,
                    cause: Cause::DeviceDown,
                };
                if let Err(error) = self.replica.propose_in(&self.leadership, &missed, PATIENCE).await {
                    debug!(%error, device = self.device, "a piece of a gap was not committed");
                }
            }
        }
    }

    fn hand_over(&mut self, slot: u64, readings: Vec<(Timestamp, Reading)>) {
        let refusals = self.batcher.refusals();
        if refusals != self.refusals_seen {
            self.refusals_seen = refusals;
            self.skipped = Cause::NoQuorum;
        }
        let samples = self
            .tags
            .iter()
            .zip(readings)
            .map(|(tag, (source_time, reading))| Sample { tag: *tag, source_time, reading })
            .collect();
        let source = Source::Polled { group: self.group, grid: self.grid.id, slot, skipped: self.skipped };
        let revision = self.replica.store().keeper().read(store::ledger::State::revision);
        let batch = Batch::new(source, self.replica.node(), revision, self.clock.now(), samples);
        match batch.map(|batch| self.batcher.push(&batch)) {
            Ok(Ok(())) => self.skipped = Cause::Late,
            Ok(Err(cause)) => self.skipped = cause,
            Err(error) => warn!(device = self.device, %error, "a group without tags is not read"),
        }
    }

    fn instant_of(&self, slot: u64, origin: Instant, wall_at_origin: Timestamp) -> Instant {
        let ahead = self.grid.line.nominal(slot).nanos_since(wall_at_origin);
        match u64::try_from(ahead) {
            Ok(ahead) => origin + Duration::from_nanos(ahead),
            Err(_) => origin,
        }
    }

    /// How many slots of the grid have begun by now, on the monotonic clock.
    fn slots_passed(&self, origin: Instant, wall_at_origin: Timestamp) -> u64 {
        let now = wall_at_origin.plus(origin.elapsed()).plus_nanos(-nanos(self.schedule.offset));
        self.grid.line.slots_until(now)
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
