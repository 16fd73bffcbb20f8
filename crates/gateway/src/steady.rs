//! Steady command time, going on between commands: in an idle cluster, too, samples grow old and orders end.
//!
//! It stands in the ledger and moves with the commands of the leader; in between this node's monotonic clock counts on. It
//! may run late, never early.

use std::time::Duration;

use tokio::time::Instant;

/// Steady command time as one node sees it.
#[derive(Debug, Default)]
pub(crate) struct SteadyTime {
    seen: Option<(Duration, Instant)>,
}

impl SteadyTime {
    /// The time now, where the ledger's stands at `command_time`.
    pub(crate) fn at(&mut self, command_time: Duration) -> Duration {
        match self.seen {
            Some((known, since)) if known == command_time => known + since.elapsed(),
            _ => {
                self.seen = Some((command_time, Instant::now()));
                command_time
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_goes_on_between_commands_and_begins_again_with_each() {
        let (second, mut time) = (Duration::from_secs(1), SteadyTime::default());
        assert_eq!(time.at(second), second);
        advance(second * 10).await;
        assert_eq!(time.at(second), second * 11);
        assert_eq!(time.at(second * 12), second * 12);
        advance(second).await;
        assert_eq!(time.at(second * 12), second * 13);
    }
}
