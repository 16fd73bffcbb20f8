//! A device that does not answer: its first failed slot is a batch of bad readings, so that the far side's last value
//! turns bad; the following slots are a gap, proposed in pieces. The first answer ends it.
//!
//! Pure: told what happened, it says what to propose.

use std::time::Duration;

use tokio::time::Instant;

/// The longest piece of a gap.
const PIECE: Duration = Duration::from_secs(60);

/// Whether a group's device is silent, and what was said of it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Silence {
    /// When the slots began that nothing has been proposed of yet.
    unsaid_since: Option<Instant>,
}

/// What to propose for a slot whose scan failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Say {
    /// A batch of bad readings.
    Bad,
    /// Nothing yet.
    Nothing,
    /// All slots up to and including this one as missed.
    Missed,
}

impl Silence {
    /// A scan failed at `now`.
    pub(super) fn failed(&mut self, now: Instant) -> Say {
        match self.unsaid_since {
            None => {
                self.unsaid_since = Some(now);
                Say::Bad
            }
            Some(since) if now.duration_since(since) >= PIECE => {
                self.unsaid_since = Some(now);
                Say::Missed
            }
            Some(_) => Say::Nothing,
        }
    }

    /// A scan succeeded. Whether the device had been silent.
    pub(super) fn answered(&mut self) -> bool {
        self.unsaid_since.take().is_some()
    }

    /// Whether the device is silent now.
    pub(super) fn is_silent(&self) -> bool {
        self.unsaid_since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_bad_batch_then_a_gap_in_pieces_then_an_answer() {
        let mut silence = Silence::default();
        let start = Instant::now();
        assert_eq!(silence.failed(start), Say::Bad);
        assert_eq!(silence.failed(start + Duration::from_secs(1)), Say::Nothing);
        assert_eq!(silence.failed(start + Duration::from_secs(60)), Say::Missed);
        assert_eq!(silence.failed(start + Duration::from_secs(61)), Say::Nothing);
        assert!(silence.is_silent());
        assert!(silence.answered());
        assert!(!silence.answered());
        assert_eq!(silence.failed(start + Duration::from_secs(70)), Say::Bad);
    }
}
