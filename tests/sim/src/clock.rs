//! The wall clock of a simulated machine: it drifts, and somebody sets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use model::{Clock, Timestamp};

/// What it shows when a run begins, if nobody has set it.
const BEGINNING: i64 = 1_700_000_000_000;

/// Milliseconds of simulated time since the run began, the same for all machines.
pub(crate) type TrueTime = Arc<AtomicU64>;

/// One machine's clock.
#[derive(Debug)]
pub(crate) struct DriftingClock {
    truth: TrueTime,
    /// How much too fast it goes, parts per million.
    drift: AtomicI64,
    /// By how much it was set wrong, in milliseconds.
    offset: AtomicI64,
}

impl DriftingClock {
    pub(crate) fn new(truth: &TrueTime) -> Self {
        Self { truth: Arc::clone(truth), drift: AtomicI64::new(0), offset: AtomicI64::new(0) }
    }

    /// Lets it go too fast by so much from now on, without setting it.
    pub(crate) fn set_drift(&self, parts_per_million: i64) {
        let before = self.wrong_by();
        self.drift.store(parts_per_million, Ordering::Relaxed);
        self.offset.fetch_add(before - self.wrong_by(), Ordering::Relaxed);
    }

    /// Sets it forward or back.
    pub(crate) fn set_by(&self, millis: i64) {
        self.offset.fetch_add(millis, Ordering::Relaxed);
    }

    fn elapsed(&self) -> i64 {
        i64::try_from(self.truth.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
    }

    fn wrong_by(&self) -> i64 {
        self.elapsed() * self.drift.load(Ordering::Relaxed) / 1_000_000 + self.offset.load(Ordering::Relaxed)
    }
}

impl Clock for DriftingClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(BEGINNING + self.elapsed() + self.wrong_by())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_drifts_and_changing_the_drift_does_not_set_it() {
        let truth = TrueTime::default();
        let clock = DriftingClock::new(&truth);
        clock.set_drift(500);
        truth.store(2_000, Ordering::Relaxed);
        assert_eq!(clock.now(), Timestamp::from_millis(BEGINNING + 2_001));
        clock.set_drift(-500);
        assert_eq!(clock.now(), Timestamp::from_millis(BEGINNING + 2_001));
        truth.store(4_000, Ordering::Relaxed);
        assert_eq!(clock.now(), Timestamp::from_millis(BEGINNING + 4_000));
        clock.set_by(-3_000);
        assert_eq!(clock.now(), Timestamp::from_millis(BEGINNING + 1_000));
    }
}
