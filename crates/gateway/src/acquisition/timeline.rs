//! The time by which slots run within a reign: monotonic, and drawn towards the wall clock.
//!
//! - It never jumps and never goes back. What the wall clock is ahead or behind is made up at no more than [`LIMIT_PPM`].
//! - A wall clock further away than half a period or 100 ms was set: that is for the ledger to settle, by opening the
//!   grids anew. Tasks that run on the old grids keep the old timeline until they end.
//!
//! Pure, but for the lock: told what the clocks show.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::Timestamp;
use model::time::nanos;
use tokio::time::Instant;

/// How fast a difference is made up at most: 1 %.
const LIMIT_PPM: i64 = 10_000;
/// In what time a small difference is made up.
const WITHIN: Duration = Duration::from_secs(10);

/// The time of a reign's schedules. Cheap to clone; clones agree.
#[derive(Debug, Clone)]
pub(super) struct Timeline {
    pace: Arc<Mutex<Pace>>,
}

#[derive(Debug, Clone, Copy)]
struct Pace {
    at: Instant,
    wall: Timestamp,
    /// How much faster than the monotonic clock.
    ppm: i64,
}

impl Timeline {
    /// A timeline on which it is `wall` now.
    pub(super) fn starting(now: Instant, wall: Timestamp) -> Self {
        Self { pace: Arc::new(Mutex::new(Pace { at: now, wall, ppm: 0 })) }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time at `now`.
    pub(super) fn at(&self, now: Instant) -> Timestamp {
        self.pace().at(now)
    }

    /// When it will be, or was, `wall`.
    pub(super) fn instant_of(&self, wall: Timestamp) -> Instant {
        let pace = self.pace();
        let ahead = wall.nanos_since(pace.wall);
        let real = i128::from(ahead) * 1_000_000 / i128::from(1_000_000 + pace.ppm);
        let distance = Duration::from_nanos(u64::try_from(real.unsigned_abs()).unwrap_or(u64::MAX));
        let instant = if ahead < 0 { pace.at.checked_sub(distance) } else { pace.at.checked_add(distance) };
        instant.unwrap_or(pace.at)
    }

    /// Takes note of what the wall clock shows `now`; gives how far it is ahead, in nanoseconds.
    pub(super) fn follow(&self, now: Instant, wall: Timestamp) -> i64 {
        let mut pace = self.pace();
        let here = pace.at(now);
        let ahead = wall.nanos_since(here);
        let ppm = i128::from(ahead) * 1_000_000 / WITHIN.as_nanos() as i128;
        let ppm = i64::try_from(ppm).unwrap_or(LIMIT_PPM * ahead.signum()).clamp(-LIMIT_PPM, LIMIT_PPM);
        *pace = Pace { at: now, wall: here, ppm };
        ahead
    }
}

impl Pace {
    fn at(&self, now: Instant) -> Timestamp {
        let passed = nanos(now.saturating_duration_since(self.at));
        let gained = i128::from(passed) * i128::from(self.ppm) / 1_000_000;
        self.wall.plus_nanos(passed).plus_nanos(i64::try_from(gained).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    #[tokio::test(start_paused = true)]
    async fn a_small_difference_is_made_up_without_a_jump() {
        let start = Instant::now();
        let timeline = Timeline::starting(start, Timestamp(0));
        let mut before = Timestamp(0);
        for step in 1..=600_u32 {
            let now = start + Duration::from_millis(100) * step;
            let here = timeline.at(now);
            let passed = here.nanos_since(before);
            assert!((99 * MS..=101 * MS).contains(&passed), "step {step}: {passed} ns in 100 ms");
            before = here;
            // The wall clock is 50 ms ahead of the monotonic one.
            timeline.follow(now, Timestamp(i64::from(step) * 100 * MS + 50 * MS));
        }
        let end = start + Duration::from_secs(60);
        let apart = timeline.at(end).nanos_since(Timestamp(60_050 * MS));
        assert!(apart.abs() < MS, "{apart} ns apart after a minute");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_moves_nothing_by_more_than_a_hundredth() {
        let start = Instant::now();
        let timeline = Timeline::starting(start, Timestamp(0));
        let hour = 3_600_000 * MS;
        assert_eq!(timeline.follow(start, Timestamp(hour)), hour);
        assert_eq!(timeline.at(start + Duration::from_secs(1)), Timestamp(1_010 * MS));
        assert_eq!(timeline.follow(start + Duration::from_secs(1), Timestamp(-hour)), -hour - 1_010 * MS);
        assert_eq!(timeline.at(start + Duration::from_secs(2)), Timestamp(2_000 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn instants_and_times_agree() {
        let start = Instant::now() + Duration::from_secs(100);
        let timeline = Timeline::starting(start, Timestamp(0));
        timeline.follow(start, Timestamp(60 * MS));
        for ahead in [-5_000, 0, 1, 12_345] {
            let instant = timeline.instant_of(Timestamp(ahead * MS));
            if ahead >= 0 {
                let apart = timeline.at(instant).nanos_since(Timestamp(ahead * MS));
                assert!(apart.abs() <= 2, "{ahead} ms: {apart} ns apart");
            } else {
                assert!(instant < start);
            }
        }
    }
}
