//! Mutants: deliberate faults, by which it is shown that tests would notice real ones.
//!
//! - Only a build with `--cfg mutants` has any, and even that is none until it is told to be. In every other build the
//!   question is a constant: nothing of a mutant is left in the program.
//! - A mutant is one short expression where its fault would be made. Each is asked for in one place, and has a row in
//!   `tests/src/prove/mutants.rs`, which names the test that must fail.

/// Whether this process was told to be the mutant of this name: its variable `MUTANT_OF_HOLDFAST` says which.
#[cfg(mutants)]
pub fn mutant(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("MUTANT_OF_HOLDFAST").ok()).as_deref() == Some(name)
}

/// Whether this process was told to be the mutant of this name. It was not: this build has none.
#[cfg(not(mutants))]
#[inline(always)]
pub const fn mutant(_name: &str) -> bool {
    false
}
