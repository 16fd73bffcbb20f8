//! When a slot began, on this node's monotonic clock: estimated from when slots were applied here.
//!
//! A follower may apply the newest entries of a dead leader only when it leads itself, so "when the last slot was applied"
//! says nothing about when that slot was. But slots come at a period, and some of them were applied with little delay:
//! the earliest phase seen, carried forward, is when a slot began, plus the least delay.
//!
//! - Pure; told of slots and of now.
//! - The phase may move later by [`LEAK`] of the time passed, more than two crystals differ, so that it cannot get stuck.

use std::time::Duration;

use model::GridId;
use tokio::time::Instant;

/// 1,000 ppm.
const LEAK: u32 = 1_000;

/// The phase of one group's grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Phase {
    grid: GridId,
    slot: u64,
    began: Instant,
}

impl Phase {
    /// The phase after slot `slot` of `grid` was applied at `now`.
    pub(crate) fn applied(
        known: Option<Self>,
        grid: GridId,
        slot: u64,
        period: Duration,
        now: Instant,
    ) -> Self {
        let predicted = known.filter(|known| known.grid == grid && known.slot <= slot).map(|known| {
            let passed = period.saturating_mul(u32::try_from(slot - known.slot).unwrap_or(u32::MAX));
            known.began + passed + passed / LEAK
        });
        Self { grid, slot, began: predicted.map_or(now, |predicted| predicted.min(now)) }
    }

    /// The phase of a grid that was opened at `now`: nothing is known of its slots, only since when they can have been
    /// missed.
    pub(crate) fn opened(grid: GridId, now: Instant) -> Self {
        Self { grid, slot: u64::MAX, began: now }
    }

    /// Time since the slot began.
    pub(crate) fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(100);
    const GRID: GridId = GridId(1);

    fn near(left: Duration, right: Duration) -> bool {
        left.abs_diff(right) < Duration::from_millis(2)
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_applied_late_is_known_to_have_begun_earlier() {
        let start = Instant::now();
        let mut phase = None;
        for slot in 0..5 {
            phase = Some(Phase::applied(phase, GRID, slot, PERIOD, start + PERIOD * slot as u32));
        }
        // The dead leader's last slot is applied by its successor, 600 ms after it was read.
        let now = start + PERIOD * 5 + Duration::from_millis(600);
        let phase = Phase::applied(phase, GRID, 5, PERIOD, now);
        assert!(near(phase.elapsed(now), Duration::from_millis(600)), "{:?}", phase.elapsed(now));
    }

    #[tokio::test(start_paused = true)]
    async fn one_slow_slot_does_not_move_the_phase() {
        let start = Instant::now();
        let phase = Phase::applied(None, GRID, 0, PERIOD, start);
        let phase = Phase::applied(Some(phase), GRID, 1, PERIOD, start + PERIOD + Duration::from_millis(80));
        assert!(near(phase.elapsed(start + PERIOD * 2), PERIOD));
    }

    #[tokio::test(start_paused = true)]
    async fn the_opening_says_nothing_of_when_slot_0_began() {
        let start = Instant::now();
        let opened = Phase::opened(GRID, start);
        assert_eq!(opened.elapsed(start + PERIOD), PERIOD);
        let read = start + PERIOD / 2;
        assert_eq!(Phase::applied(Some(opened), GRID, 0, PERIOD, read).elapsed(read), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn another_grid_begins_anew() {
        let start = Instant::now();
        let phase = Phase::applied(None, GRID, 7, PERIOD, start);
        let phase = Phase::applied(Some(phase), GridId(2), 0, PERIOD, start + PERIOD);
        assert_eq!(phase.elapsed(start + PERIOD), Duration::ZERO);
    }
}
