//! Randomness from one seed.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// A generator for jitter and ids. Not for keys or certificates.
pub type Random = SmallRng;

/// A generator from a seed, or from the operating system's entropy where there is none.
pub fn generator(seed: Option<u64>) -> Random {
    match seed {
        Some(seed) => Random::seed_from_u64(seed),
        None => Random::from_os_rng(),
    }
}

/// 128 random bits, for ids.
pub fn id_bits(random: &mut Random) -> u128 {
    // The all-zero id stands for "not known".
    random.random::<u128>().max(1)
}
