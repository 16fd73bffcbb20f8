//! What only the running node knows: states of devices and destinations, with times and reasons.
//!
//! - Written by acquisition and forwarding, read by the admin API, health and alarms. Cheap to clone.
//! - Nothing durable: a new leader starts with an empty registry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{Cursor, Timestamp};

/// States by id. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Live {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    devices: BTreeMap<String, DeviceLive>,
    destinations: BTreeMap<String, DestinationLive>,
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
    /// What it has confirmed.
    pub cursor: Cursor,
    /// Records delivered in this reign.
    pub delivered: u64,
    /// Age of the oldest record not delivered, seconds; 0 when there is none.
    pub backlog_seconds: f64,
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

    /// Forgets everything: this node does not lead any more.
    pub fn clear(&self) {
        let mut inner = self.inner();
        inner.devices.clear();
        inner.destinations.clear();
    }
}

impl DeviceEntry<'_> {
    /// Notes the outcome of a scan.
    pub fn set(&self, state: DeviceState, now: Timestamp, reason: Option<String>) {
        let mut inner = self.live.inner();
        let last_good = (state == DeviceState::Answering).then_some(now);
        match inner.devices.get_mut(self.id) {
            Some(device) => {
                if device.state != state {
                    (device.state, device.since) = (state, now);
                }
                device.last_good = last_good.or(device.last_good);
                device.reason = reason;
            }
            None => {
                let device = DeviceLive { state, since: now, last_good, reason };
                inner.devices.insert(self.id.to_owned(), device);
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

    /// Notes what it has confirmed, how many records more, and how old the oldest one is that it has not.
    pub fn progress(&self, cursor: Cursor, delivered: u64, backlog_seconds: f64, now: Timestamp) {
        self.update(now, |destination| {
            destination.cursor = cursor;
            destination.delivered += delivered;
            destination.backlog_seconds = backlog_seconds;
        });
    }

    fn update(&self, now: Timestamp, change: impl FnOnce(&mut DestinationLive)) {
        let mut inner = self.live.inner();
        let destination = inner.destinations.entry(self.id.to_owned()).or_insert_with(|| DestinationLive {
            state: DestinationState::Accepting,
            since: now,
            reason: None,
            cursor: Cursor::default(),
            delivered: 0,
            backlog_seconds: 0.0,
        });
        change(destination);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_keeps_the_time_when_it_began() {
        let live = Live::default();
        live.device("press").set(DeviceState::Answering, Timestamp(1), None);
        live.device("press").set(DeviceState::Answering, Timestamp(2), None);
        live.device("press").set(DeviceState::Silent, Timestamp(3), Some("no answer".into()));
        live.device("press").set(DeviceState::Silent, Timestamp(4), Some("no answer".into()));
        let device = live.devices()["press"].clone();
        assert_eq!((device.since, device.last_good), (Timestamp(3), Some(Timestamp(2))));
    }
}
