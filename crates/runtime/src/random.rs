//! Randomness from one seed.
//!
//! - Only the program itself asks the operating system for a seed; every part of it gets a generator that was branched off
//!   its owner's. So one seed determines what each of them draws, whatever the others do meanwhile.

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

/// A generator for a part, which draws by itself from then on.
pub fn branch(random: &mut Random) -> Random {
    Random::from_rng(random)
}

/// 128 random bits, for ids.
pub fn id_bits(random: &mut Random) -> u128 {
    // The all-zero id stands for "not known".
    random.random::<u128>().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_determines_what_all_parts_draw_and_no_two_draw_the_same() {
        let drawn = |seed| {
            let mut random = generator(Some(seed));
            let (mut first, mut second) = (branch(&mut random), branch(&mut random));
            let nested = id_bits(&mut branch(&mut first));
            [nested, id_bits(&mut first), id_bits(&mut second), id_bits(&mut random)]
        };
        assert_eq!(drawn(7), drawn(7));
        let all: std::collections::BTreeSet<u128> = drawn(7).into_iter().chain(drawn(8)).collect();
        assert_eq!(all.len(), 8, "{all:?}");
    }

    #[test]
    fn what_a_part_draws_does_not_depend_on_how_often_its_owner_and_its_siblings_draw() {
        let second = |draws| {
            let mut random = generator(Some(7));
            let (mut first, mut second) = (branch(&mut random), branch(&mut random));
            for _ in 0..draws {
                id_bits(&mut first);
                id_bits(&mut random);
            }
            id_bits(&mut second)
        };
        assert_eq!(second(0), second(5));
    }
}
