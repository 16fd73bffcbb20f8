//! How long to wait before the next attempt: pure functions of what happened, and a little chance.
//!
//! Jitter keeps many gateways from returning to a recovering receiver in step (Brooker, "Exponential Backoff and
//! Jitter", AWS Architecture Blog, 2015; the "equal jitter" variant, which never waits less than half).

use std::time::Duration;

use rand::Rng;

use crate::destination::DeliverError;

const FIRST: Duration = Duration::from_millis(200);
const MOST: Duration = Duration::from_secs(30);
/// Between attempts at something that only a person can put right.
const STALLED: Duration = Duration::from_secs(20);

/// The pause after the `attempt`-th failure in a row, counted from 0: doubling from 200 ms to 30 s, of which the
/// upper half is drawn by chance.
fn backoff(attempt: u32, random: &mut impl Rng) -> Duration {
    jitter(FIRST.saturating_mul(1 << attempt.min(16)).min(MOST), random)
}

/// The pause after an error, the `attempt`-th in a row counted from 0; `None` where no attempt may follow.
///
/// A pause that the far side asked for is kept, and never shortened by ours.
pub fn pause_after(error: &DeliverError, attempt: u32, random: &mut impl Rng) -> Option<Duration> {
    match error {
        DeliverError::Unavailable { retry_after, .. } => {
            Some(backoff(attempt, random).max(retry_after.unwrap_or_default()))
        }
        DeliverError::Misconfigured { .. } => Some(jitter(STALLED, random)),
        DeliverError::Fenced(_) => None,
    }
}

fn jitter(pause: Duration, random: &mut impl Rng) -> Duration {
    pause.mul_f64(random.random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use model::Fenced;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn pauses_grow_stay_bounded_and_differ() {
        let mut random = SmallRng::seed_from_u64(7);
        for attempt in 0..40 {
            let full = FIRST.saturating_mul(1 << attempt.min(16)).min(MOST);
            let pause = backoff(attempt, &mut random);
            assert!(pause >= full / 2 && pause <= full, "attempt {attempt}: {pause:?} of {full:?}");
        }
        let draws: std::collections::BTreeSet<_> = (0..20).map(|_| backoff(5, &mut random)).collect();
        assert!(draws.len() > 10, "jitter spreads the pauses: {draws:?}");
    }

    #[test]
    fn a_wish_of_the_far_side_is_kept() {
        let mut random = SmallRng::seed_from_u64(7);
        let busy =
            DeliverError::Unavailable { reason: "503".into(), retry_after: Some(Duration::from_secs(90)) };
        assert_eq!(pause_after(&busy, 0, &mut random), Some(Duration::from_secs(90)));
        assert_eq!(pause_after(&DeliverError::Fenced(Fenced), 0, &mut random), None);
        let wrong = DeliverError::misconfigured("401");
        assert!(pause_after(&wrong, 0, &mut random).expect("tried again") >= STALLED / 2);
    }
}
