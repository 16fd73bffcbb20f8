//! How long to leave a silent device alone.

use std::time::Duration;

use rand::Rng;
use runtime::Backoff;

/// A device that has just restarted should be read within a fraction of a second; one that is gone for the
/// weekend should cost at most one time-out in five seconds.
const PAUSES: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5) };

/// The pause after the `attempt`-th failure in a row, counted from 0. Jitter keeps many devices behind one switch from
/// being asked again at once.
pub(crate) fn backoff(attempt: u32, random: &mut impl Rng) -> Duration {
    PAUSES.jittered(attempt, random)
}

#[cfg(test)]
mod tests {
    use runtime::random::generator;

    use super::*;

    #[test]
    fn pauses_grow_to_five_seconds_and_keep_half_of_their_length() {
        let mut random = generator(Some(7));
        for (attempt, longest) in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000].into_iter().enumerate() {
            let longest = Duration::from_millis(longest);
            for _ in 0..100 {
                let pause = backoff(attempt as u32, &mut random);
                assert!(
                    pause >= longest / 2 && pause <= longest,
                    "attempt {attempt}: {pause:?} of {longest:?}"
                );
            }
        }
        assert!(backoff(u32::MAX, &mut random) <= Duration::from_secs(5));
    }
}
