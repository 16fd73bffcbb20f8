//! A device that does not answer: its first failed slot is a batch of bad readings, so that the far side's last value
//! turns bad; the following slots are a gap, proposed in pieces. The first answer ends it.
//!
//! - A piece is the slots of [`PIECE`], or a single one of a longer period; it is due when all of them have begun.
//! - What is due stays due until it is committed, and what came after it is another piece: none becomes longer by
//!   waiting. Only what could not be committed before the first answer is one gap, with the rest of the silence.
//!
//! Pure: told what happened, it says what to propose.

use std::time::Duration;

/// The longest piece of a gap.
const PIECE: Duration = Duration::from_secs(60);

/// Whether a group's device is silent, and what was said of it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Silence {
    /// The last slot of which something was said: that its readings are bad, or that it was missed.
    said: Option<u64>,
}

impl Silence {
    /// The scan of `slot` failed. Whether it is to be a batch of bad readings.
    pub(super) fn failed(&mut self, slot: u64) -> bool {
        let is_first = self.said.is_none();
        self.said.get_or_insert(slot);
        is_first
    }

    /// The last slot of the piece that is due when nothing before `next` will be read any more.
    pub(super) fn due(&self, next: u64, period: Duration) -> Option<u64> {
        let fit = PIECE.as_nanos() / period.as_nanos().max(1);
        let fit = u64::try_from(fit).unwrap_or(u64::MAX).max(1);
        self.said.map(|said| said.saturating_add(fit)).filter(|last| *last < next)
    }

    /// The piece that ends with `last` is committed.
    pub(super) fn committed(&mut self, last: u64) {
        self.said = Some(last);
    }

    /// A scan succeeded. Whether the device had been silent.
    pub(super) fn answered(&mut self) -> bool {
        self.said.take().is_some()
    }

    /// Whether the device is silent now.
    pub(super) fn is_silent(&self) -> bool {
        self.said.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces, as first and last slot, of a device that answers no slot before `next`.
    fn pieces(period: Duration, next: u64) -> Vec<(u64, u64)> {
        let mut silence = Silence::default();
        let (mut pieces, mut first) = (Vec::new(), 1);
        for slot in 0..next {
            assert_eq!(silence.failed(slot), slot == 0, "slot {slot}");
            while let Some(last) = silence.due(slot + 1, period) {
                assert_eq!(last, slot, "a piece is due as soon as its last slot is over");
                silence.committed(last);
                pieces.push((first, last));
                first = last + 1;
            }
        }
        pieces
    }

    #[test]
    fn a_piece_is_as_many_slots_as_a_minute_holds_and_at_least_one() {
        let seconds = Duration::from_secs;
        assert_eq!(pieces(seconds(1), 122), [(1, 60), (61, 120)]);
        assert_eq!(pieces(seconds(7), 18), [(1, 8), (9, 16)], "56 s each; 9 slots would be 63 s");
        assert_eq!(pieces(seconds(45), 4), [(1, 1), (2, 2), (3, 3)], "2 slots would be 90 s");
        assert_eq!(pieces(seconds(90), 3), [(1, 1), (2, 2)]);
    }

    #[test]
    fn a_piece_that_was_not_committed_stays_due_and_becomes_no_longer() {
        let second = Duration::from_secs(1);
        let mut silence = Silence::default();
        assert!(silence.failed(0));
        for next in [61, 62, 125] {
            assert_eq!(silence.due(next, second), Some(60), "before {next}");
        }
        silence.committed(60);
        assert_eq!(silence.due(125, second), Some(120));
        silence.committed(120);
        assert_eq!(silence.due(125, second), None);
    }

    #[test]
    fn slots_that_a_slow_scan_passed_over_make_no_piece_longer() {
        let tenth = Duration::from_millis(100);
        let mut silence = Silence::default();
        assert!(silence.failed(0));
        assert!(!silence.failed(590));
        assert_eq!(silence.due(600, tenth), None);
        assert_eq!(silence.due(630, tenth), Some(600));
    }

    #[test]
    fn an_answer_ends_the_silence_and_the_next_one_begins_with_a_bad_batch() {
        let second = Duration::from_secs(1);
        let mut silence = Silence::default();
        assert!(silence.failed(3) && !silence.failed(4) && silence.is_silent());
        assert!(silence.answered() && !silence.answered() && !silence.is_silent());
        assert_eq!(silence.due(1_000, second), None);
        assert!(silence.failed(70));
        assert_eq!(silence.due(130, second), None);
        assert_eq!(silence.due(131, second), Some(130));
    }
}
