//! Retention: while this node leads, what destinations have confirmed is given up, and what does not fit is refused or
//! given up by record.
//!
//! - The policy is one pure function, [`decide`]: what may go, what must go, and whether samples are still taken.
//! - Full is full at `max-bytes`, and open again at 95 % of it: a buffer at its limit does not flap. The same for a disk.
//! - Refusing keeps everything that was accepted. Only what an *optional* destination has not confirmed is given up before
//!   anything is refused, and with `drop-oldest` what any of them has not; each by record, with cursors moved in the same
//!   apply.
//! - A full disk refuses in either mode: what fills it may be somebody else's, and giving up samples would not help.
//!   What was delivered is not kept on one.
//! - Samples alone are refused. Acknowledgements and truncation pass, because they are the way out.

mod count;

use std::time::Duration;

use model::Position;
use model::command::Command;
use model::plant::WhenFull;
use replication::{Leadership, Replica};
use runtime::Failure;
use store::engine::Engine;
use store::ledger::State;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::space::{ROOM_AGAIN, ROOM_FOR_SAMPLES};
use crate::steady::SteadyTime;

/// How often the buffer and the disks are looked at.
const EVERY: Duration = Duration::from_millis(100);
/// How often the horizon is moved, where nothing presses.
const MOVE_EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(2);

/// What has no room for samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// The buffer, by the plant's limit.
    Buffer,
    /// The disk of this node, or of so many voters that no majority has room.
    Disk,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Why samples are refused, if they are.
    pub(crate) full: Option<Full>,
    /// The position up to which everything is given up, if that is worth a command.
    pub(crate) give_up: Option<GiveUp>,
}

/// A new horizon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GiveUp {
    /// Everything up to here is confirmed.
    Delivered(Position),
    /// Something up to here is not: it is recorded.
    Overrun(Position),
}

/// Decides from the ledger, steady time, the room that samples have on the disks, and what was full before.
pub(crate) fn decide(state: &State, now: Duration, room: u64, before: Option<Full>) -> Decision {
    let retention = state.plant().retention.clone();
    let (applied, delivered) = (state.applied_position(), state.delivered_horizon());
    let kept = match retention.keep_delivered {
        Duration::ZERO => delivered,
        keep => {
            let aged = now.checked_sub(keep).and_then(|by| state.fill.marked_by(by));
            delivered.min(aged.unwrap_or(state.horizon))
        }
    };
    let behind = |horizon: Position| match state.last_deliverable <= horizon {
        true => 0,
        false => state.fill.bytes_behind(horizon, applied),
    };
    let needed = if before == Some(Full::Disk) { ROOM_AGAIN } else { ROOM_FOR_SAMPLES };
    let has_room = room >= needed && behind(kept.max(state.horizon)) < retention.max_bytes;
    // What was delivered is kept only while there is room for it.
    let reachable = if has_room { kept } else { delivered };
    let mut horizon = reachable.max(state.horizon);
    // Nothing but our own bookkeeping lies between: moving the horizon would only make more of it.
    let worthwhile = state.last_deliverable > state.horizon && reachable > state.horizon;
    let mut give_up = worthwhile.then_some(GiveUp::Delivered(reachable));

    if behind(horizon) >= retention.max_bytes {
        let limit = match retention.when_full {
            WhenFull::DropOldest => applied,
            WhenFull::Refuse => state.required_horizon(),
        };
        // Where a mark is, so that what is lost is known without reading it all.
        let wanted = state.fill.keeping(retention.max_bytes / 10 * 9).unwrap_or(applied);
        let marked = state.fill.marked_until(wanted.min(limit));
        if let Some(marked) = marked.filter(|marked| *marked > horizon) {
            horizon = marked;
            give_up = Some(GiveUp::Overrun(horizon));
        }
    }
    let limit = match before {
        Some(Full::Buffer) => retention.max_bytes / 100 * 95,
        _ => retention.max_bytes,
    };
    let full = if room < needed {
        Some(Full::Disk)
    } else if behind(horizon) >= limit {
        Some(Full::Buffer)
    } else {
        None
    };
    Decision { full, give_up }
}

/// Moves the horizon and keeps the gate until `stop`, or until leadership has ended.
pub(crate) async fn run<E: Engine>(
    replica: Replica<E>,
    leadership: Leadership,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut steady = SteadyTime::default();
    let mut full = None;
    let mut moved = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = leadership.over() => return Ok(()),
            () = stop.cancelled() => return Ok(()),
        }
        let room = replica.room();
        let decision =
            replica.store().keeper().read(|state| decide(state, steady.at(&state.steady), room, full));
        if decision.full != full {
            say(decision.full, full);
            full = decision.full;
        }
        replica.close_to_samples(full.is_some());
        let command = match decision.give_up {
            None => continue,
            Some(GiveUp::Delivered(horizon)) => {
                let presses = full.is_some();
                if !presses && moved.is_some_and(|at: Instant| at.elapsed() < MOVE_EVERY) {
                    continue;
                }
                Command::Truncate { below: horizon.next(), overrun: None }
            }
            Some(GiveUp::Overrun(horizon)) => match count::lost(replica.store(), horizon) {
                Ok(lost) => {
                    warn!(upto = %horizon, ?lost, "the buffer is full: the oldest samples are given up, by record");
                    Command::Truncate { below: horizon.next(), overrun: Some(lost) }
                }
                Err(error) => {
                    error!(%error, "what would be given up cannot be counted, so it is kept");
                    continue;
                }
            },
        };
        moved = Some(Instant::now());
        if let Err(error) = replica.propose_in(&leadership, &command, PATIENCE).await {
            debug!(%error, "the horizon was not moved");
        }
    }
}

fn say(now: Option<Full>, before: Option<Full>) {
    match now {
        Some(Full::Buffer) => {
            error!(
                "HF-4101: the buffer holds max-bytes: samples are refused until destinations have taken some of it"
            );
        }
        Some(Full::Disk) => {
            error!("HF-4102: too few disks have room: samples are refused until there is some");
        }
        None => info!(?before, "there is room: samples are taken again"),
    }
}

#[cfg(test)]
mod tests;
