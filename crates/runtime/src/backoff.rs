//! Pauses between attempts: pure but for a little chance.
//!
//! Jitter keeps many who failed together from returning in step (Brooker, "Exponential Backoff and Jitter", AWS
//! Architecture Blog, 2015; the "equal jitter" variant, which never waits less than half).

use std::time::Duration;

use rand::Rng;

/// Pauses before another attempt: doubling from `first` to `most`.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub most: Duration,
}

impl Backoff {
    /// The pause after the `attempt`-th failure in a row, counted from 0.
    pub fn after(&self, attempt: u32) -> Duration {
        self.first.saturating_mul(1 << attempt.min(16)).min(self.most)
    }

    /// The same, of which a random part of up to a half is taken away.
    pub fn jittered(&self, attempt: u32, random: &mut impl Rng) -> Duration {
        self.after(attempt).mul_f64(random.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::generator;

    const PAUSES: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(1) };

    #[test]
    fn pauses_double_up_to_a_limit() {
        let pauses: Vec<_> = (0..6).map(|attempt| PAUSES.after(attempt).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(PAUSES.after(u32::MAX), PAUSES.most);
    }

    #[test]
    fn chance_takes_up_to_a_half() {
        let mut random = generator(Some(7));
        for attempt in 0..40 {
            let full = PAUSES.after(attempt);
            for _ in 0..100 {
                let pause = PAUSES.jittered(attempt, &mut random);
                assert!(pause >= full / 2 && pause <= full, "attempt {attempt}: {pause:?} of {full:?}");
            }
        }
    }

    #[test]
    fn two_do_not_pause_alike() {
        let mut random = generator(Some(7));
        let draws: std::collections::BTreeSet<_> = (0..20).map(|_| PAUSES.jittered(6, &mut random)).collect();
        assert!(draws.len() > 10, "jitter spreads the pauses: {draws:?}");
    }
}
