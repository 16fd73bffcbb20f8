//! When a leader that nobody answers stops its heartbeats.
//!
//! Followers that hear a leader elect nobody, although it hears nothing of them and commits nothing. So after it has
//! been without a lease for [`MUTE_AFTER`] a leader is silent, until its term is over or for twice L: time enough for
//! the others to elect another. Policy only; the caller switches the heartbeats.

use std::time::Duration;

use model::Term;
use tokio::time::Instant;

/// How long a leader may be without a lease before it is silent.
pub(crate) const MUTE_AFTER: Duration = Duration::from_secs(2);

/// What is remembered of the silence.
#[derive(Debug, Default)]
pub(crate) struct Muting {
    /// The term in which this node leads, and since when answers are waited for.
    waiting: Option<(Term, Instant)>,
    until: Option<Instant>,
}

impl Muting {
    /// Whether heartbeats are to be sent now.
    pub(crate) fn sends(
        &mut self,
        now: Instant,
        leads: Option<Term>,
        acknowledged: Option<Instant>,
        lease: Duration,
    ) -> bool {
        let Some(term) = leads else {
            *self = Self::default();
            return true;
        };
        let waiting_since = match self.waiting {
            Some((known, since)) if known == term => since,
            _ => {
                self.until = None;
                now
            }
        };
        self.waiting = Some((term, waiting_since));
        match self.until {
            Some(until) if now < until => return false,
            // They have elected nobody; perhaps they are back by now, and wait for a heartbeat.
            Some(_) => (self.waiting, self.until) = (Some((term, now)), None),
            None => {
                let lost_at = acknowledged.map_or(waiting_since, |at| waiting_since.max(at + lease));
                if now >= lost_at + MUTE_AFTER && !runtime::mutant("unanswered-leader-is-not-silent") {
                    self.until = Some(now + lease * 2);
                    return false;
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(500);
    const STEP: Duration = Duration::from_millis(50);

    /// Whether heartbeats are sent at each step, if what was sent at `acknowledged` was the last that was answered.
    fn sent(
        muting: &mut Muting,
        from: Instant,
        term: u64,
        acknowledged: Option<Instant>,
        steps: u32,
    ) -> String {
        (0..steps)
            .map(|step| match muting.sends(from + STEP * step, Some(Term(term)), acknowledged, LEASE) {
                true => '+',
                false => '-',
            })
            .collect()
    }

    #[test]
    fn a_leader_that_nobody_answers_is_silent_for_two_leases_at_a_time() {
        let (mut muting, now) = (Muting::default(), Instant::now());
        let steps = sent(&mut muting, now, 3, Some(now), 50 + 20 + 40 + 20 + 1);
        let expected = [(50, "+"), (20, "-"), (40, "+"), (20, "-"), (1, "+")];
        assert_eq!(steps, expected.map(|(count, sign)| sign.repeat(count)).concat());
    }

    #[test]
    fn a_leader_whose_lease_was_lost_for_less_goes_on_sending() {
        let (mut muting, now) = (Muting::default(), Instant::now());
        assert_eq!(sent(&mut muting, now, 3, Some(now), 49), "+".repeat(49));
        assert!(
            muting.sends(now + STEP * 60, Some(Term(3)), Some(now + STEP * 48), LEASE),
            "it was answered again"
        );
    }

    #[test]
    fn the_silence_ends_with_the_term() {
        let (mut muting, now) = (Muting::default(), Instant::now());
        assert!(sent(&mut muting, now, 3, None, 42).ends_with('-'));
        assert!(muting.sends(now + STEP * 42, Some(Term(5)), None, LEASE), "a new term");
        assert!(sent(&mut Muting::default(), now, 3, None, 42).ends_with('-'));
        assert!(muting.sends(now + STEP * 43, None, None, LEASE), "no longer a leader");
    }
}
