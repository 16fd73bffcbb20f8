//! Steady command time, going on between commands: in an idle cluster, too, samples grow old and orders end.
//!
//! It stands in the ledger and moves with the commands of the leader; in between this node's monotonic clock counts on,
//! but for what the leader's clock owes.

use std::time::Duration;

use store::ledger::Steady;
use tokio::time::Instant;

/// Steady command time as one node sees it.
#[derive(Debug, Default)]
pub(crate) struct SteadyTime {
    /// Command time and what it owed, and when they were first seen.
    seen: Option<((Duration, Duration), Instant)>,
}

impl SteadyTime {
    /// The time now, where the ledger's stands at `steady`.
    pub(crate) fn at(&mut self, steady: &Steady) -> Duration {
        let stands = (steady.now, steady.owed);
        match self.seen {
            Some((known, since)) if known == stands => {
                steady.now + since.elapsed().saturating_sub(steady.owed)
            }
            _ => {
                self.seen = Some((stands, Instant::now()));
                steady.now
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn steady(now: u32, owed: u32) -> Steady {
        Steady { now: SECOND * now, owed: SECOND * owed, ..Steady::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn time_goes_on_between_commands_and_begins_again_with_each() {
        let mut time = SteadyTime::default();
        assert_eq!(time.at(&steady(1, 0)), SECOND);
        advance(SECOND * 10).await;
        assert_eq!(time.at(&steady(1, 0)), SECOND * 11);
        assert_eq!(time.at(&steady(12, 0)), SECOND * 12);
        advance(SECOND).await;
        assert_eq!(time.at(&steady(12, 0)), SECOND * 13);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_step_back_of_the_clock_owes_is_paid_between_commands_too() {
        let mut time = SteadyTime::default();
        time.at(&steady(100, 7));
        advance(SECOND * 5).await;
        assert_eq!(time.at(&steady(100, 7)), SECOND * 100);
        advance(SECOND * 5).await;
        assert_eq!(time.at(&steady(100, 7)), SECOND * 103);
        assert_eq!(time.at(&steady(100, 1)), SECOND * 100, "each command says anew what is owed");
    }
}
