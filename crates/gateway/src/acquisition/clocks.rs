//! Whether the wall clock fits the grids, and what is done where it does not: they are opened anew.
//!
//! - A clock that was set is believed when it stays where it was set to, and one that jumps to and fro is not followed.
//! - Opening anew goes through the log, and leaves a gap of monotonic length: no clock decides which slot is next.

use std::collections::BTreeSet;
use std::time::Duration;

use model::Timestamp;
use model::command::Command;
use model::ids::GridId;
use model::slots::{Resumption, opens_now, resume, tolerance};
use replication::Leadership;
use store::engine::Engine;
use store::ledger::Grid;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::timeline::Timeline;
use super::{AcquisitionParts, PATIENCE};

/// How often the schedules are compared with the wall clock.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);
/// Pause before grids that could not be opened anew are tried again.
const RECLOCK_AGAIN: Duration = Duration::from_millis(100);
/// Looks at a clock that was set agree within this, and so many of them after the first are believed.
const SAME: Duration = Duration::from_millis(50);
const AGREEING: u32 = 2;

/// Whether this node's wall clock disagrees with what it knows of the grids that it takes over.
pub(super) fn clocks_disagree<E: Engine>(parts: &AcquisitionParts<E>) -> bool {
    let now = parts.clock.now();
    parts.replica.store().keeper().open_grids().iter().any(|(_, grid, elapsed)| {
        matches!(resume(&grid.line, grid.next, now, *elapsed), Resumption::Reclock { .. })
    })
}

/// Whether one of the grids, new since there were those that are `known`, was opened on a clock that does not show `now`.
pub(super) fn opened_on_another_clock<'a>(
    grids: impl IntoIterator<Item = &'a Grid>,
    known: &BTreeSet<GridId>,
    now: Timestamp,
) -> bool {
    let mut fresh = grids.into_iter().filter(|grid| !known.contains(&grid.id));
    fresh.any(|grid| grid.next == 0 && !opens_now(&grid.line, now))
}

/// Resolves when the wall clock is further from the timeline than some open grid bears, and stays there: a clock that
/// jumps to and fro is not followed. Says how far it is ahead.
pub(super) async fn clock_was_set<E: Engine>(parts: &AcquisitionParts<E>, timeline: &Timeline) -> i64 {
    let mut looks = Looks::default();
    loop {
        sleep(FOLLOW_EVERY).await;
        let ahead = timeline.follow(Instant::now(), parts.clock.now());
        let bears = |grid: &Grid| ahead.unsigned_abs() <= tolerance(grid.line.period);
        let borne = parts.replica.store().keeper().read(|state| state.grids.values().all(bears));
        if looks.believe(ahead, borne) {
            return ahead;
        }
    }
}

/// Closes every grid with a gap of monotonic length and opens it on this node's clock as it is now; tries until that is
/// done or nothing may be read any more. The timeline is the one that the new grids lie on.
pub(super) async fn open_grids_anew<E: Engine>(
    parts: &AcquisitionParts<E>,
    leadership: &Leadership,
    stop: &CancellationToken,
) -> Timeline {
    loop {
        let timeline = Timeline::starting(Instant::now(), parts.clock.now());
        // Before the time since: what is applied in between is then counted as said, and not as missed.
        let next = parts.replica.store().keeper().read(|state| {
            state.grids.values().map(|grid| (grid.id, grid.next)).collect::<Vec<(GridId, u64)>>()
        });
        let reclock = Command::Reclock { elapsed: parts.replica.store().keeper().elapsed_at_least(), next };
        tokio::select! {
            proposed = parts.replica.propose_in(leadership, &reclock, PATIENCE) => match proposed {
                Ok(_) => return timeline,
                Err(error) => debug!(%error, "grids were not yet opened anew"),
            },
            () = leadership.over() => return timeline,
            () = stop.cancelled() => return timeline,
        }
        sleep(RECLOCK_AGAIN).await;
    }
}

/// What the last looks at the wall clock showed: one that was set is believed when it stays as it is.
#[derive(Debug, Default)]
struct Looks {
    ahead: i64,
    agreeing: u32,
}

impl Looks {
    /// Takes a look that showed the clock `ahead`, in nanoseconds, which the schedules bear or not; whether the clock was
    /// set.
    fn believe(&mut self, ahead: i64, borne: bool) -> bool {
        let stays = u128::from(ahead.abs_diff(self.ahead)) < SAME.as_nanos();
        self.agreeing = if !borne && stays { self.agreeing + 1 } else { 0 };
        self.ahead = ahead;
        self.agreeing >= AGREEING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    #[test]
    fn a_clock_that_jumps_to_and_fro_is_not_believed() {
        let hour = 3_600_000 * MS;
        let mut looks = Looks::default();
        for _ in 0..100 {
            assert!(
                !looks.believe(hour, false) && !looks.believe(hour, false) && !looks.believe(-hour, false)
            );
        }
        assert!(!looks.believe(hour, false) && !looks.believe(hour - MS, false));
        assert!(looks.believe(hour - 2 * MS, false), "it stays where it was set to");
        let mut looks = Looks::default();
        assert!((0..10).all(|_| !looks.believe(20 * MS, true)), "a small difference is made up");
    }
}
