//! What only the running node knows: states of devices and destinations, with times and reasons.
//!
//! - Written by acquisition and forwarding, read by the admin API, health and alarms. Cheap to clone.
//! - Nothing durable: a new leader starts with an empty registry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::Timestamp;

/// States by id. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Live {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    devices: BTreeMap<String, DeviceLive>,
    destinations: BTreeMap<String, DestinationLive>,
    /// Not of a reign: the last time the wall clock was set, and by how many nanoseconds.
    clock_step: Option<(Timestamp, i64)>,
}

/// Reads of a group that its lateness is said of.
const READS_SEEN: usize = 128;

/// How late the last reads of a group began after their slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lateness {
    /// Microseconds, a ring.
    reads: Vec<u32>,
    next: usize,
}

/// A summary of [`Lateness`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LatenessSummary {
    /// Half of the reads began no later than this.
    pub median: Duration,
    /// Of a hundred reads one began later.
    pub p99: Duration,
    /// The latest.
    pub max: Duration,
}

impl Lateness {
    fn note(&mut self, late: Duration) {
        let micros = u32::try_from(late.as_micros()).unwrap_or(u32::MAX);
        if self.reads.len() < READS_SEEN {
            self.reads.push(micros);
        } else {
            self.reads[self.next] = micros;
        }
        self.next = (self.next + 1) % READS_SEEN;
    }

    /// The summary of the last reads; `None` before the first.
    pub fn summary(&self) -> Option<LatenessSummary> {
        let mut sorted = self.reads.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
            sorted.get(place).map(|micros| Duration::from_micros(u64::from(*micros)))
        };
        Some(LatenessSummary { median: at(50)?, p99: at(99)?, max: at(100)? })
    }
}

/// Whether a device answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceState {
    /// The last scan was answered.
    Answering,
    /// The last scan was not.
    Silent,
}

/// A device, as acquisition sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceLive {
    /// Whether it answers.
    pub state: DeviceState,
    /// Since when.
    pub since: Timestamp,
    /// When it last answered.
    pub last_good: Option<Timestamp>,
    /// Why it does not.
    pub reason: Option<String>,
    /// How late its reads began, by group.
    pub lateness: BTreeMap<String, Lateness>,
}

/// How a destination does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestinationState {
    /// It takes what it is sent.
    Accepting,
    /// It is away or busy; deliveries are retried.
    Unavailable,
    /// Somebody must change something; deliveries are retried slowly.
    Stalled,
    /// Held by an operator.
    Paused,
}

/// A destination, as forwarding sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct DestinationLive {
    /// How it does.
    pub state: DestinationState,
    /// Since when.
    pub since: Timestamp,
    /// Why not better.
    pub reason: Option<String>,
    /// When the gateway got the oldest record that waits for it; `None` when none does.
    pub waiting_since: Option<Timestamp>,
}

impl DestinationLive {
    /// Age of the oldest record that waits for it.
    pub fn backlog(&self, now: Timestamp) -> Duration {
        self.waiting_since.map_or(Duration::ZERO, |since| now.since(since))
    }
}

/// One device's place in the registry.
pub struct DeviceEntry<'a> {
    live: &'a Live,
    id: &'a str,
}

/// One destination's place in the registry.
pub struct DestinationEntry<'a> {
    live: &'a Live,
    id: &'a str,
}

impl Live {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a device.
    pub fn device<'a>(&'a self, id: &'a str) -> DeviceEntry<'a> {
        DeviceEntry { live: self, id }
    }

    /// The place of a destination.
    pub fn destination<'a>(&'a self, id: &'a str) -> DestinationEntry<'a> {
        DestinationEntry { live: self, id }
    }

    /// All devices that were scanned.
    pub fn devices(&self) -> BTreeMap<String, DeviceLive> {
        self.inner().devices.clone()
    }

    /// All destinations that were delivered to.
    pub fn destinations(&self) -> BTreeMap<String, DestinationLive> {
        self.inner().destinations.clone()
    }

    /// Notes that the wall clock was set.
    pub fn note_clock_step(&self, at: Timestamp, nanos: i64) {
        self.inner().clock_step = Some((at, nanos));
    }

    /// The last time the wall clock was set, and by how many nanoseconds.
    pub fn clock_step(&self) -> Option<(Timestamp, i64)> {
        self.inner().clock_step
    }

    /// Forgets what a reign knew: this node does not lead any more.
    pub fn clear(&self) {
        let mut inner = self.inner();
        inner.devices.clear();
        inner.destinations.clear();
    }
}

impl DeviceEntry<'_> {
    /// Notes the outcome of a scan; how the device did before, if it was asked before. Its groups share that, so that what
    /// happens to it is told once.
    pub fn set(&self, state: DeviceState, now: Timestamp, reason: Option<String>) -> Option<DeviceState> {
        let mut inner = self.live.inner();
        let last_good = (state == DeviceState::Answering).then_some(now);
        match inner.devices.get_mut(self.id) {
            Some(device) => {
                let before = device.state;
                if before != state {
                    (device.state, device.since) = (state, now);
                }
                device.last_good = last_good.or(device.last_good);
                device.reason = reason;
                Some(before)
            }
            None => {
                let lateness = BTreeMap::new();
                let device = DeviceLive { state, since: now, last_good, reason, lateness };
                inner.devices.insert(self.id.to_owned(), device);
                None
            }
        }
    }

    /// Notes how late a read of a group began. Of a device that has answered; [`DeviceEntry::set`] comes first.
    pub fn note_lateness(&self, group: &str, late: Duration) {
        let mut inner = self.live.inner();
        if let Some(device) = inner.devices.get_mut(self.id) {
            match device.lateness.get_mut(group) {
                Some(lateness) => lateness.note(late),
                None => device.lateness.entry(group.to_owned()).or_default().note(late),
            }
        }
    }
}

impl DestinationEntry<'_> {
    /// Notes how it does.
    pub fn set(&self, state: DestinationState, now: Timestamp, reason: Option<String>) {
        self.update(now, |destination| {
            if destination.state != state {
                (destination.state, destination.since) = (state, now);
            }
            destination.reason = reason;
        });
    }

    /// Notes when the gateway got the oldest record that waits for it; `None` when none does.
    pub fn waiting(&self, since: Option<Timestamp>, now: Timestamp) {
        self.update(now, |destination| destination.waiting_since = since);
    }

    /// Whether something is known to wait for it.
    pub fn is_waiting(&self) -> bool {
        self.live.inner().destinations.get(self.id).is_some_and(|known| known.waiting_since.is_some())
    }

    fn update(&self, now: Timestamp, change: impl FnOnce(&mut DestinationLive)) {
        let mut inner = self.live.inner();
        let destination = inner.destinations.entry(self.id.to_owned()).or_insert_with(|| DestinationLive {
            state: DestinationState::Accepting,
            since: now,
            reason: None,
            waiting_since: None,
        });
        change(destination);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_that_of_the_last_reads() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.summary(), None);
        for _ in 0..READS_SEEN {
            lateness.note(Duration::from_secs(9));
        }
        for millis in 1..=128 {
            lateness.note(Duration::from_millis(millis));
        }
        let expected = LatenessSummary {
            median: Duration::from_millis(64),
            p99: Duration::from_millis(127),
            max: Duration::from_millis(128),
        };
        assert_eq!(lateness.summary(), Some(expected));
    }

    #[test]
    fn a_backlog_grows_while_nothing_is_delivered() {
        let live = Live::default();
        live.destination("historian").waiting(Some(Timestamp::from_millis(1_000)), Timestamp(0));
        let historian = live.destinations()["historian"].clone();
        assert_eq!(historian.backlog(Timestamp::from_millis(61_000)), Duration::from_secs(60));
        assert_eq!(historian.backlog(Timestamp::from_millis(500)), Duration::ZERO, "the clock was set back");
    }

    #[test]
    fn a_state_keeps_the_time_when_it_began() {
        let live = Live::default();
        use DeviceState::{Answering, Silent};
        let silent = |at| live.device("press").set(Silent, Timestamp(at), Some("no answer".into()));
        let answers = |at| live.device("press").set(Answering, Timestamp(at), None);
        let before = [answers(1), answers(2), silent(3), silent(4)];
        assert_eq!(
            before,
            [None, Some(Answering), Some(Answering), Some(Silent)],
            "each change is seen once"
        );
        let device = live.devices()["press"].clone();
        assert_eq!((device.since, device.last_good), (Timestamp(3), Some(Timestamp(2))));
    }
}
