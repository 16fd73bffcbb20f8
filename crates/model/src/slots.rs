//! The slot rules: which reads a schedule expects, and what is said of those that did not happen.
//!
//! Pure arithmetic on grids; `store`'s ledger applies it, `gateway`'s acquisition asks it.
//!
//! - Nothing but the ledger decides which slot is next; clocks only say how many were missed.
//! - A slot is (group, grid, n); its nominal time is `first + n * period`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::{Timestamp, nanos};

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
        let period_nanos = of_period(period);
        let first = (at.0.div_euclid(period_nanos) + 1).saturating_mul(period_nanos);
        Self { first: Timestamp(first), period }
    }

    /// Nominal time of slot `n`.
    pub fn nominal(&self, n: u64) -> Timestamp {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        self.first.plus_nanos(n.saturating_mul(of_period(self.period)))
    }

    /// How many slots have a nominal time at or before `at`.
    pub fn slots_until(&self, at: Timestamp) -> u64 {
        let passed = at.nanos_since(self.first);
        if passed < 0 { 0 } else { (passed / of_period(self.period)) as u64 + 1 }
    }

    /// How many periods lie in `elapsed`, to the nearest.
    pub fn periods_in(&self, elapsed: Duration) -> u64 {
        let period = self.period.as_nanos().max(1);
        u64::try_from((elapsed.as_nanos() + period / 2) / period).unwrap_or(u64::MAX)
    }

    /// Where the grid ends when its group's schedule is closed at `at`: all slots from `next` up to the result
    /// (exclusive) are a gap.
    ///
    /// The wall clock proposes the end, and monotonic time since slot `next − 1` bounds it where it is known that it was
    /// `at_most` so long: a clock that is ahead invents no more than two slots. Where nothing is known, it is believed.
    pub fn end_at(&self, next: u64, at: Timestamp, at_most: Option<Duration>) -> u64 {
        let whole = |long: Duration| u64::try_from(long.as_nanos() / self.period.as_nanos().max(1));
        let bound =
            at_most.map(|long| next.saturating_add(2).saturating_add(whole(long).unwrap_or(u64::MAX)));
        self.slots_until(at).clamp(next, bound.unwrap_or(u64::MAX))
    }
}

/// How long ago something was, as far as a monotonic clock can tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Elapsed {
    /// Not less than this.
    pub least: Duration,
    /// Not more than this, where anything is known of that.
    pub most: Option<Duration>,
}

impl Elapsed {
    /// Just this long.
    pub fn exactly(long: Duration) -> Self {
        Self { least: long, most: Some(long) }
    }

    /// This long, or any longer.
    pub fn at_least(long: Duration) -> Self {
        Self { least: long, most: None }
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
        /// Monotonic time since the last slot, as much of it as is certain.
        elapsed: Duration,
    },
}

/// Decides how a new leader continues a grid whose next slot is `next`.
///
/// `now` is its wall clock; `elapsed` is by its monotonic clock, since slot `next − 1` began, or since a grid without any
/// slot was opened. Of a slot that it applied long after it began it knows only how long that has been at least: then a
/// wall clock that is behind is found out, and one that is ahead is believed.
pub fn resume(line: &GridLine, next: u64, now: Timestamp, elapsed: Elapsed) -> Resumption {
    // Slot `next − 1` is the last thing known. A grid without any slot was opened somewhere in the period that begins here.
    let last = line.nominal(next).plus_nanos(-of_period(line.period));
    let since = if next == 0 { of_period(line.period) } else { 0 };
    let bears = i64::try_from(tolerance(line.period)).unwrap_or(i64::MAX);
    let by_wall = now.nanos_since(last);
    let is_behind = by_wall < nanos(elapsed.least).saturating_sub(bears);
    let is_ahead =
        elapsed.most.is_some_and(|most| by_wall > nanos(most).saturating_add(since).saturating_add(bears));
    if is_behind || is_ahead {
        Resumption::Reclock { elapsed: elapsed.least }
    } else {
        Resumption::Continue { slot: next.max(line.slots_until(now)) }
    }
}

/// How long after its opening a grid may be seen for the first time: it took that long to commit and apply.
const SEEN_AFTER: Duration = Duration::from_secs(10);

/// Whether a grid may have been opened lately by a clock that shows `now`.
pub fn opens_now(line: &GridLine, now: Timestamp) -> bool {
    let ahead = line.first.nanos_since(now);
    let slack = i64::try_from(tolerance(line.period)).unwrap_or(i64::MAX);
    ahead >= -slack.saturating_add(nanos(SEEN_AFTER)) && ahead <= of_period(line.period).saturating_add(slack)
}

/// How far two clocks may differ before a grid is opened anew, in nanoseconds: half a period or 100 ms.
pub fn tolerance(period: Duration) -> u64 {
    (of_period(period) as u64 / 2).max(100_000_000)
}

/// A period in nanoseconds; never 0.
fn of_period(period: Duration) -> i64 {
    nanos(period).max(1)
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
        let elapsed = Elapsed::exactly(Duration::from_millis(2_300));
        assert_eq!(resume(&line(), 5, at(16.3), elapsed), Resumption::Continue { slot: 7 });
        assert_eq!(resume(&line(), 5, at(16.3), Elapsed::default()), Resumption::Continue { slot: 7 });
        let elapsed = Elapsed::exactly(Duration::from_millis(200));
        assert_eq!(resume(&line(), 5, at(14.2), elapsed), Resumption::Continue { slot: 5 });
    }

    #[test]
    fn clocks_agree_within_half_a_period_or_100_ms() {
        // Slot 4 began 50 ms ago; the wall clock is `off` from what it should show then.
        let elapsed = Duration::from_millis(50);
        let resumed = |period: Duration, off: i64| {
            let line = GridLine { first: at(10.0), period };
            let now = line.nominal(4).plus(elapsed).plus_nanos(off * 1_000_000);
            resume(&line, 5, now, Elapsed::exactly(elapsed))
        };
        let reclock = Resumption::Reclock { elapsed };
        let tenth = Duration::from_millis(100);
        assert_eq!(resumed(tenth, 90), Resumption::Continue { slot: 6 }, "slot 5 has passed");
        assert_eq!(resumed(tenth, -90), Resumption::Continue { slot: 5 });
        assert_eq!((resumed(tenth, 110), resumed(tenth, -110)), (reclock, reclock));
        assert_eq!(resumed(SECOND, 490), Resumption::Continue { slot: 5 });
        assert_eq!(resumed(SECOND, -490), Resumption::Continue { slot: 5 });
        assert_eq!((resumed(SECOND, 510), resumed(SECOND, -510)), (reclock, reclock));
    }

    #[test]
    fn a_new_leader_one_hour_behind_is_not_blind() {
        let elapsed = Duration::from_millis(700);
        let behind = |elapsed| resume(&line(), 4_000, at(500.0), elapsed);
        assert_eq!(behind(Elapsed::exactly(elapsed)), Resumption::Reclock { elapsed });
        assert_eq!(behind(Elapsed::at_least(elapsed)), Resumption::Reclock { elapsed });
        assert_eq!(behind(Elapsed::default()), Resumption::Reclock { elapsed: Duration::ZERO });
    }

    #[test]
    fn a_new_leader_one_hour_ahead_invents_no_gap() {
        let elapsed = Duration::from_millis(700);
        let ahead = resume(&line(), 5, at(3_614.7), Elapsed::exactly(elapsed));
        assert_eq!(ahead, Resumption::Reclock { elapsed });
    }

    #[test]
    fn a_slot_that_was_applied_late_accuses_no_clock_of_being_ahead() {
        // Read at 14 s, applied at 40 s when this node was back; it leads at 41 s.
        let since = |least, most| Elapsed {
            least: Duration::from_secs(least),
            most: Some(Duration::from_secs(most)).filter(|most| !most.is_zero()),
        };
        let four = GridLine { first: at(10.0), period: SECOND * 4 };
        assert_eq!(resume(&four, 2, at(41.0), since(1, 0)), Resumption::Continue { slot: 8 });
        assert_eq!(resume(&four, 2, at(41.0), since(1, 30)), Resumption::Continue { slot: 8 });
        // But what it has seen itself it knows.
        let reclock = Resumption::Reclock { elapsed: SECOND };
        assert_eq!(resume(&four, 2, at(41.0), since(1, 1)), reclock);
        assert_eq!(resume(&four, 2, at(12.9), since(1, 0)), reclock);
    }

    #[test]
    fn a_grid_without_any_slot_is_judged_by_when_it_opened() {
        let since = Elapsed::exactly(Duration::from_millis(300));
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
        let at_most = Some(Duration::from_millis(500));
        assert_eq!(line().end_at(3, at(13.5), at_most), 4);
        assert_eq!(line().end_at(3, at(3_600.0), at_most), 5, "a fast clock invents at most two");
        assert_eq!(line().end_at(3, at(0.0), at_most), 3, "a slow clock takes nothing back");
    }

    #[test]
    fn a_grid_whose_last_slot_is_of_unknown_age_ends_where_the_wall_clock_says() {
        assert_eq!(line().end_at(3, at(30.5), None), 21);
        assert_eq!(line().end_at(3, at(0.0), None), 3, "a slow clock takes nothing back");
    }
}
