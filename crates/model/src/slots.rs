//! The slot rules: which reads a schedule expects, and what is said of those that did not happen.
//!
//! Pure arithmetic on grids; `store`'s ledger applies it, `gateway`'s acquisition asks it.
//!
//! - Nothing but the ledger decides which slot is next; clocks only say how many were missed.
//! - A slot is (group, grid, n); its nominal time is `first + n * period`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Where a schedule lies on the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GridLine {
    /// Nominal time of slot 0.
    pub first: Timestamp,
    /// From one slot to the next; never 0.
    pub period: Duration,
}

impl GridLine {
    /// The line for a schedule that opens at `at`: it starts with the first multiple of the period after `at`.
    pub fn opening(at: Timestamp, period: Duration) -> Self {
        let period_nanos = nanos(period);
        let first = (at.0.div_euclid(period_nanos) + 1).saturating_mul(period_nanos);
        Self { first: Timestamp(first), period }
    }

    /// Nominal time of slot `n`.
    pub fn nominal(&self, n: u64) -> Timestamp {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        self.first.plus_nanos(n.saturating_mul(nanos(self.period)))
    }

    /// How many slots have a nominal time at or before `at`.
    pub fn slots_until(&self, at: Timestamp) -> u64 {
        let passed = at.nanos_since(self.first);
        if passed < 0 { 0 } else { (passed / nanos(self.period)) as u64 + 1 }
    }

    /// How many periods lie in `elapsed`, to the nearest.
    pub fn periods_in(&self, elapsed: Duration) -> u64 {
        let period = self.period.as_nanos().max(1);
        u64::try_from((elapsed.as_nanos() + period / 2) / period).unwrap_or(u64::MAX)
    }

    /// Where the grid ends when its group's schedule is closed at `at`: all slots from `next` up to the result
    /// (exclusive) are a gap.
    ///
    /// The wall clock proposes the end and the monotonic time since slot `next − 1` bounds it, so that a wrong
    /// clock can neither lose slots nor invent many.
    pub fn end_at(&self, next: u64, at: Timestamp, elapsed: Duration) -> u64 {
        let whole = u64::try_from(elapsed.as_nanos() / self.period.as_nanos().max(1)).unwrap_or(u64::MAX);
        self.slots_until(at).clamp(next, next.saturating_add(2).saturating_add(whole))
    }
}

/// What a new leader does with a grid it finds in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumption {
    /// Clocks agree: the next read is of this slot.
    Continue {
        /// The slot to read next.
        slot: u64,
    },
    /// Clocks disagree: the grid must be closed and opened anew, with a gap of this length.
    Reclock {
        /// Monotonic time since the last slot, where it is known.
        elapsed: Duration,
    },
}

/// Decides how a new leader continues a grid whose next slot is `next`.
///
/// `now` is its wall clock, `elapsed` its own monotonic time since slot `next − 1` began, or since it applied the opening
/// of a grid without any slot, if it has run since.
pub fn resume(line: &GridLine, next: u64, now: Timestamp, elapsed: Option<Duration>) -> Resumption {
    // Slot `next − 1` is the last thing known; for a grid without any slot it is one period before the first.
    let last = line.nominal(next).plus_nanos(-nanos(line.period));
    let by_wall = now.nanos_since(last);
    let agrees = match elapsed {
        Some(elapsed) if next == 0 => {
            // Opened somewhere in the period before the first slot.
            let after_opening = i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX);
            let since_opening = by_wall.saturating_sub(after_opening).saturating_sub(nanos(line.period) / 2);
            since_opening.unsigned_abs() <= nanos(line.period) as u64 / 2 + tolerance(line.period)
        }
        Some(elapsed) => {
            let by_monotonic = i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX);
            by_wall.saturating_sub(by_monotonic).unsigned_abs() <= tolerance(line.period)
        }
        // A grid that opens in the future (its first multiple has not come) is not evidence of a wrong clock.
        None => by_wall >= 0 || (next == 0 && by_wall >= -nanos(line.period)),
    };
    if agrees {
        Resumption::Continue { slot: next.max(line.slots_until(now)) }
    } else {
        Resumption::Reclock { elapsed: elapsed.unwrap_or(Duration::ZERO) }
    }
}

/// How long after its opening a grid may be seen for the first time: it took that long to commit and apply.
const SEEN_AFTER: Duration = Duration::from_secs(10);

/// Whether a grid may have been opened lately by a clock that shows `now`.
pub fn opens_now(line: &GridLine, now: Timestamp) -> bool {
    let ahead = line.first.nanos_since(now);
    let slack = i64::try_from(tolerance(line.period)).unwrap_or(i64::MAX);
    ahead >= -slack.saturating_add(nanos(SEEN_AFTER)) && ahead <= nanos(line.period).saturating_add(slack)
}

/// How far two clocks may differ before a grid is opened anew, in nanoseconds: half a period or 100 ms.
pub fn tolerance(period: Duration) -> u64 {
    (nanos(period) as u64 / 2).max(100_000_000)
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: f64) -> Timestamp {
        Timestamp((seconds * 1e9) as i64)
    }

    fn line() -> GridLine {
        GridLine { first: at(10.0), period: SECOND }
    }

    #[test]
    fn a_schedule_opens_on_the_next_multiple_of_its_period() {
        assert_eq!(GridLine::opening(at(9.2), SECOND), line());
        assert_eq!(GridLine::opening(at(9.0), SECOND), line());
    }

    #[test]
    fn slots_are_counted_up_to_and_including_their_nominal_time() {
        assert_eq!(line().slots_until(at(9.9)), 0);
        assert_eq!(line().slots_until(at(10.0)), 1);
        assert_eq!(line().slots_until(at(12.5)), 3);
        assert_eq!(line().nominal(3), at(13.0));
    }

    #[test]
    fn a_new_leader_whose_clocks_agree_skips_the_grid_points_that_passed() {
        let elapsed = Some(Duration::from_millis(2_300));
        assert_eq!(resume(&line(), 5, at(16.3), elapsed), Resumption::Continue { slot: 7 });
        assert_eq!(resume(&line(), 5, at(16.3), None), Resumption::Continue { slot: 7 });
        assert_eq!(
            resume(&line(), 5, at(14.2), Some(Duration::from_millis(200))),
            Resumption::Continue { slot: 5 }
        );
    }

    #[test]
    fn a_new_leader_one_hour_behind_is_not_blind() {
        let elapsed = Duration::from_millis(700);
        assert_eq!(resume(&line(), 4_000, at(500.0), Some(elapsed)), Resumption::Reclock { elapsed });
        assert_eq!(resume(&line(), 4_000, at(500.0), None), Resumption::Reclock { elapsed: Duration::ZERO });
    }

    #[test]
    fn a_new_leader_one_hour_ahead_invents_no_gap() {
        let elapsed = Duration::from_millis(700);
        assert_eq!(resume(&line(), 5, at(3_614.7), Some(elapsed)), Resumption::Reclock { elapsed });
    }

    #[test]
    fn a_grid_without_any_slot_is_judged_by_when_it_opened() {
        let since = Some(Duration::from_millis(300));
        // Opened between 9 s and 10 s, 300 ms ago.
        for now in [9.31, 9.8, 10.29] {
            assert!(matches!(resume(&line(), 0, at(now), since), Resumption::Continue { .. }), "{now}");
        }
        for now in [3_609.8, 7.9] {
            assert!(matches!(resume(&line(), 0, at(now), since), Resumption::Reclock { .. }), "{now}");
        }
        assert!(opens_now(&line(), at(9.0)) && opens_now(&line(), at(10.0)));
        assert!(opens_now(&line(), at(15.0)), "a large plant takes its time to be applied");
        assert!(!opens_now(&line(), at(3_600.0)) && !opens_now(&line(), at(8.0)));
    }

    #[test]
    fn closing_a_grid_bounds_the_gap_by_monotonic_time() {
        assert_eq!(line().end_at(3, at(13.5), Duration::from_millis(500)), 4);
        assert_eq!(
            line().end_at(3, at(3_600.0), Duration::from_millis(500)),
            5,
            "a fast clock invents at most two"
        );
        assert_eq!(
            line().end_at(3, at(0.0), Duration::from_millis(500)),
            3,
            "a slow clock takes nothing back"
        );
    }
}
