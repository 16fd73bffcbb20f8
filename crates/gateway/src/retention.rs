//! Retention: while this node leads, what every required destination has confirmed is given up.
//!
//! The policy is one pure function, [`horizon`]; limits and overruns build on it.

use std::time::Duration;

use model::Position;
use model::command::Command;
use replication::{Leadership, Replica};
use runtime::Failure;
use store::engine::Engine;
use store::ledger::State;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::acquisition::over;

/// How often the horizon is moved.
const EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

/// The position below which everything may be deleted now, if it is worth a command.
pub(crate) fn horizon(state: &State) -> Option<Position> {
    let reachable = state.deliverable_horizon();
    // Nothing but our own bookkeeping lies between: moving the horizon would only make more of it.
    let worthwhile = state.last_delivered > state.horizon && reachable > state.horizon;
    worthwhile.then_some(reachable)
}

/// Moves the horizon until leadership has ended.
pub(crate) async fn run<E: Engine>(
    replica: Replica<E>,
    leadership: Leadership,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = over(&leadership) => return Ok(()),
            () = stop.cancelled() => return Ok(()),
        }
        let Some(position) = replica.store().keeper().read(horizon) else { continue };
        let truncate = Command::Truncate { below: position.next(), overrun: None };
        if let Err(error) = replica.propose_in(&leadership, &truncate, PATIENCE).await {
            debug!(%error, "the horizon was not moved");
        }
    }
}

#[cfg(test)]
mod tests {
    use model::ids::DestinationId;
    use model::{Cursor, Term};
    use store::LogId;
    use store::ledger::DestinationState;

    use super::*;

    fn state(applied: u64, last_delivered: u64, cursors: &[(u64, bool)]) -> State {
        let destination = |(position, required): &(u64, bool)| DestinationState {
            name: "historian".into(),
            cursor: Cursor::at(Position(*position)),
            required: *required,
            paused: None,
            given_up: 0,
        };
        State {
            applied: Some(LogId { term: Term(1), index: Position(applied) }),
            last_delivered: Position(last_delivered),
            destinations: (1..).map(DestinationId).zip(cursors.iter().map(destination)).collect(),
            ..State::default()
        }
    }

    #[test]
    fn the_slowest_destination_holds_the_horizon() {
        assert_eq!(horizon(&state(100, 90, &[(50, true), (80, true)])), Some(Position(49)));
    }

    #[test]
    fn an_optional_destination_holds_it_too_until_an_overrun() {
        assert_eq!(horizon(&state(100, 90, &[(50, false), (80, true)])), Some(Position(49)));
    }

    #[test]
    fn bookkeeping_alone_does_not_move_it() {
        let mut state = state(100, 90, &[(101, true)]);
        state.horizon = Position(95);
        assert_eq!(horizon(&state), None);
    }
}
