//! How long to wait before the next attempt: a pure function of what happened, and a little chance.

use std::time::Duration;

use rand::Rng;
use runtime::Backoff;

use crate::destination::DeliverError;

/// Between attempts at a far side that is away or busy.
const AWAY: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(30) };
/// Between attempts at something that only a person can put right.
const STALLED: Backoff = Backoff { first: Duration::from_secs(20), most: Duration::from_secs(20) };

/// The pause after an error, the `attempt`-th in a row counted from 0; `None` where no attempt may follow.
///
/// A pause that the far side asked for is kept, and never shortened by ours.
pub fn pause_after(error: &DeliverError, attempt: u32, random: &mut impl Rng) -> Option<Duration> {
    match error {
        DeliverError::Unavailable { retry_after, .. } => {
            Some(AWAY.jittered(attempt, random).max(retry_after.unwrap_or_default()))
        }
        DeliverError::Misconfigured { .. } => Some(STALLED.jittered(attempt, random)),
        DeliverError::Fenced(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use model::Fenced;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        let mut random = SmallRng::seed_from_u64(7);
        let away = DeliverError::unavailable("503");
        for (attempt, most) in [(0, 200), (3, 1_600), (40, 30_000)] {
            let most = Duration::from_millis(most);
            let pause = pause_after(&away, attempt, &mut random).expect("tried again");
            assert!(pause >= most / 2 && pause <= most, "attempt {attempt}: {pause:?} of {most:?}");
        }
    }

    #[test]
    fn a_wish_of_the_far_side_is_kept() {
        let mut random = SmallRng::seed_from_u64(7);
        let busy =
            DeliverError::Unavailable { reason: "503".into(), retry_after: Some(Duration::from_secs(90)) };
        assert_eq!(pause_after(&busy, 0, &mut random), Some(Duration::from_secs(90)));
        assert_eq!(pause_after(&DeliverError::Fenced(Fenced), 0, &mut random), None);
        let wrong = DeliverError::misconfigured("401");
        assert!(pause_after(&wrong, 0, &mut random).expect("tried again") >= STALLED.first / 2);
    }
}
