//! Whether the machine stood still: how late a task of this process wakes that wants to be woken every 20 ms.
//!
//! What keeps this process from the processors keeps nodes from them, too, which stand on the same machine and have no more
//! right to them. A leader that is kept from them for half its lease can lose it without anybody's fault.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use simulator::history::{History, Kind, monotonic_ns};
use tokio::time::{Instant, sleep};

/// What lines say that this writes.
pub(super) const STALLED: &str = "stalled";
/// In whose name.
const MACHINE: &str = "machine";
/// From one wake to the next, and how often the latest of them is written down.
const TICK: Duration = Duration::from_millis(20);
const SAY_EVERY: Duration = Duration::from_secs(1);
/// The machine stood still: half a lease of the nodes' profile.
const STILL: Duration = Duration::from_millis(250);
/// A lease that was lost is followed by an election, and that by a read, within this time.
const BEFORE: Duration = Duration::from_secs(3);

/// The latest wake of a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stall {
    /// When it was due, in monotonic nanoseconds.
    pub(super) due_ns: u64,
    /// How much later it came.
    pub(super) late_ns: u64,
}

impl Stall {
    /// Whether the machine stood still, and was so shortly before a moment.
    pub(super) fn explains(&self, at_ns: u64) -> bool {
        let (due_ns, woke_ns) = (self.due_ns, self.due_ns.saturating_add(self.late_ns));
        self.late() >= STILL && due_ns <= at_ns && woke_ns >= at_ns.saturating_sub(nanos(BEFORE))
    }

    pub(super) fn late(&self) -> Duration {
        Duration::from_nanos(self.late_ns)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Writes down how late it wakes, until it is ended.
pub(super) async fn watch(history: History) {
    let (mut latest, mut said_at) = (Stall::default(), Instant::now());
    loop {
        let due_ns = monotonic_ns().saturating_add(nanos(TICK));
        // How late this wakes is what is measured.
        sleep(TICK).await;
        let stall = Stall { due_ns, late_ns: monotonic_ns().saturating_sub(due_ns) };
        if stall.late_ns >= latest.late_ns {
            latest = stall;
        }
        if said_at.elapsed() >= SAY_EVERY {
            history.record(MACHINE, Kind::Info, STALLED, &latest);
            (latest, said_at) = (Stall::default(), Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn only_half_a_lease_explains_an_election_and_only_one_soon_behind_it() {
        let stall = |late_ms: u64| Stall { due_ns: 10_000 * MS, late_ns: late_ms * MS };
        for (late_ms, at_ms, explains) in [
            (249, 10_100, false),
            (250, 10_100, true),
            (250, 13_250, true),
            (250, 13_251, false),
            (250, 9_999, false),
            (5_000, 17_000, true),
        ] {
            assert_eq!(stall(late_ms).explains(at_ms * MS), explains, "{late_ms} ms late, at {at_ms}");
        }
    }
}
