//! Raft whose chance comes from a seed: what a simulation brings in the place of the machine's randomness.
//!
//! - Each task that such a Raft spawns draws by itself, from a seed branched off that of the task which spawned it.
//! - It spawns from seeded tasks only: whoever starts it, or asks it for anything, does so in a [`seeded`] one.

use std::future::Future;

use futures::FutureExt;
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;

/// Tokio, with openraft's own generator seeded.
pub type SeededRuntime = DeterministicRng<TokioRuntime>;

/// The same task with a seed: what Raft draws for it and spawns from it depends on nothing else.
pub fn seeded<F: Future>(seed: u64, task: F) -> impl Future<Output = F::Output> {
    SeededRuntime::scope(seed, task)
}

/// Lets Raft spawn a task for a caller that is none of its own; that task draws nothing from anywhere.
pub(crate) fn spawning<T>(spawn: impl FnOnce() -> T) -> T {
    SeededRuntime::scope(0, async { spawn() }).now_or_never().expect("it waits for nothing")
}
