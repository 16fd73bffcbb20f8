//! Slots that were read and not committed: why, until a gap record holds them.
//!
//! - A batch that is accepted later on the same grid leaves a gap that holds them, and bears the cause noted here.
//! - When their grid was closed meanwhile, behind the gap of its closing or not, they are proposed as missed: a closed
//!   grid's gap grows over what it did not hold.
//! - What an earlier leader lost is the next one's gap, and not kept here.
//! - Kept by grid: what is lost of the next one hides nothing of one that was closed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::batch::Source;
use model::command::Command;
use model::ids::{GridId, GroupId};
use model::{Cause, batch::BatchHeader};
use replication::{Leadership, ProposeError, Replica};
use runtime::Failure;
use store::engine::Engine;
use store::ledger::State;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::PATIENCE;

/// Pause before what could not be proposed is proposed again.
const RETRY: Duration = Duration::from_millis(200);

/// What is lost of one grid, up to one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Loss {
    group: GroupId,
    last: u64,
    cause: Cause,
}

/// What is lost of all grids. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Losses {
    grids: Arc<Mutex<BTreeMap<GridId, Loss>>>,
    noted: Arc<Notify>,
}

/// Why samples that were refused with `error` are missing.
pub(super) fn cause_of(error: &ProposeError) -> Cause {
    match error {
        ProposeError::NoSpace { .. } => Cause::DiskFull,
        ProposeError::Overloaded { .. } | ProposeError::Invalid(_) => Cause::Overload,
        ProposeError::NoQuorum
        | ProposeError::NotLeader { .. }
        | ProposeError::Unreachable(_)
        | ProposeError::Unknown
        | ProposeError::Stopped => Cause::NoQuorum,
    }
}

impl Losses {
    fn grids(&self) -> MutexGuard<'_, BTreeMap<GridId, Loss>> {
        self.grids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This batch will not be committed, or nobody knows whether it will.
    pub(super) fn lost(&self, header: &BatchHeader, cause: Cause) {
        let Source::Polled { group, grid, slot, .. } = header.source else { return };
        // The cause with which the gap began.
        let mut grids = self.grids();
        let loss = grids.entry(grid).or_insert(Loss { group, last: slot, cause });
        loss.last = loss.last.max(slot);
        drop(grids);
        self.noted.notify_one();
    }

    /// Whether something of `grid` is lost that is not said yet.
    pub(super) fn has(&self, grid: GridId) -> bool {
        self.grids().contains_key(&grid)
    }

    /// This batch is in the buffer, and with it the gap before it.
    pub(super) fn accepted(&self, header: &BatchHeader) {
        let Source::Polled { grid, slot, .. } = header.source else { return };
        self.settle(grid, slot);
    }

    /// Has the batch say why slots before it are missing.
    pub(super) fn explain(&self, header: &mut BatchHeader) {
        let Source::Polled { grid, skipped, .. } = &mut header.source else { return };
        if let Some(loss) = self.grids().get(grid) {
            *skipped = loss.cause;
        }
    }

    /// What is lost of grids that are not open any more, to be proposed as missed.
    fn orphans(&self, state: &State) -> Vec<Command> {
        let mut grids = self.grids();
        let is_open =
            |grid: &GridId, loss: &Loss| state.grids.get(&loss.group).is_some_and(|open| open.id == *grid);
        // A grid that the ledger does not remember was accounted for by a later reign, or ended before others of its
        // group: all of it is said.
        grids.retain(|grid, loss| is_open(grid, loss) || state.closed.contains_key(grid));
        let orphans = grids.iter().filter(|(grid, loss)| !is_open(grid, loss));
        orphans
            .map(|(grid, loss)| Command::Missed {
                group: loss.group,
                grid: *grid,
                last: loss.last,
                cause: loss.cause,
            })
            .collect()
    }

    fn settled(&self, command: &Command) {
        let Command::Missed { grid, last, .. } = command else { return };
        self.settle(*grid, *last);
    }

    /// Everything of `grid` up to `slot` is said.
    fn settle(&self, grid: GridId, slot: u64) {
        let mut grids = self.grids();
        if grids.get(&grid).is_some_and(|loss| loss.last <= slot) {
            grids.remove(&grid);
        }
    }

    /// Proposes what is lost of closed grids, until `stop`.
    pub(super) async fn run<E: Engine>(
        self,
        replica: Replica<E>,
        leadership: Leadership,
        stop: CancellationToken,
    ) -> Result<(), Failure> {
        let mut orders = replica.store().keeper().orders();
        loop {
            tokio::select! {
                changed = orders.changed() => if changed.is_err() { return Ok(()) },
                () = self.noted.notified() => {}
                () = leadership.over() => return Ok(()),
                () = stop.cancelled() => return Ok(()),
            }
            if self.grids().is_empty() {
                continue;
            }
            for command in replica.store().keeper().read(|state| self.orphans(state)) {
                match replica.propose_in(&leadership, &command, PATIENCE).await {
                    Ok(_) => self.settled(&command),
                    Err(_) if leadership.is_over() => return Ok(()),
                    Err(error) => {
                        debug!(%error, "a slot of a closed schedule is not yet said to be missed");
                        sleep(RETRY).await;
                        self.noted.notify_one();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use model::slots::GridLine;
    use model::{NodeId, Position, Revision, Timestamp};
    use store::ledger::{ClosedGrid, Grid};

    use super::*;

    const GROUP: GroupId = GroupId(1);

    fn header(grid: u64, slot: u64) -> BatchHeader {
        BatchHeader {
            source: Source::Polled { group: GROUP, grid: GridId(grid), slot, skipped: Cause::Late },
            node: NodeId(1),
            revision: Revision(1),
            gateway_time: Timestamp(0),
            count: 1,
            oldest: Timestamp(0),
            newest: Timestamp(0),
            all_bad: false,
        }
    }

    fn explained(losses: &Losses, grid: u64, slot: u64) -> Cause {
        let mut header = header(grid, slot);
        losses.explain(&mut header);
        let Source::Polled { skipped, .. } = header.source else { panic!("a polled batch") };
        skipped
    }

    const LINE: GridLine = GridLine { first: Timestamp(0), period: Duration::from_secs(1) };

    fn state(open: u64, closed: Option<u64>) -> State {
        let mut state = State::default();
        let grid = Grid { id: GridId(open), line: LINE, next: 0, touched: Position(1) };
        state.grids.insert(GROUP, grid);
        if let Some(id) = closed {
            let closed = ClosedGrid {
                group: GROUP,
                line: LINE,
                end: 3,
                cause: Cause::Configuration,
                revision: Revision(1),
            };
            state.closed.insert(GridId(id), closed);
        }
        state
    }

    #[test]
    fn a_gap_bears_the_cause_for_which_its_slots_were_refused() {
        let losses = Losses::default();
        losses.lost(&header(1, 5), cause_of(&ProposeError::NoSpace { retry_after: Duration::ZERO }));
        losses.lost(&header(1, 6), cause_of(&ProposeError::NoQuorum));
        assert_eq!(explained(&losses, 1, 7), Cause::DiskFull, "the cause with which it began");
        assert_eq!(explained(&losses, 2, 0), Cause::Late, "another grid has another gap");
        losses.accepted(&header(1, 4));
        assert_eq!(explained(&losses, 1, 7), Cause::DiskFull, "what came before it explains nothing");
        losses.accepted(&header(1, 7));
        assert_eq!(explained(&losses, 1, 9), Cause::Late);
    }

    #[test]
    fn what_is_lost_of_a_closed_grid_is_proposed_as_missed() {
        let losses = Losses::default();
        losses.lost(&header(1, 5), Cause::NoQuorum);
        assert_eq!(losses.orphans(&state(1, None)), [], "its next batch will say it");
        let missed = Command::Missed { group: GROUP, grid: GridId(1), last: 5, cause: Cause::NoQuorum };
        assert_eq!(losses.orphans(&state(2, Some(1))), std::slice::from_ref(&missed));
        losses.settled(&missed);
        assert_eq!(losses.orphans(&state(2, Some(1))), []);
    }

    #[test]
    fn what_is_lost_of_the_next_grid_hides_nothing_of_the_closed_one() {
        let losses = Losses::default();
        losses.lost(&header(1, 5), Cause::NoQuorum);
        losses.lost(&header(2, 0), Cause::NoQuorum);
        let missed = Command::Missed { group: GROUP, grid: GridId(1), last: 5, cause: Cause::NoQuorum };
        assert_eq!(losses.orphans(&state(2, Some(1))), std::slice::from_ref(&missed));
        losses.accepted(&header(2, 1));
        assert_eq!(losses.orphans(&state(2, Some(1))), std::slice::from_ref(&missed));
        losses.settled(&missed);
        assert_eq!(losses.orphans(&state(2, Some(1))), []);
    }

    #[test]
    fn what_a_later_reign_has_accounted_for_is_forgotten() {
        let losses = Losses::default();
        losses.lost(&header(1, 5), Cause::NoQuorum);
        assert_eq!(losses.orphans(&state(2, None)), []);
        assert_eq!(losses.orphans(&state(2, Some(1))), []);
    }
}
