//! Raft's chance: from a seed where a simulation gives one, from the operating system where nobody does.
//!
//! - Each task that Raft spawns draws by itself, from a seed branched off that of the task which spawned it.
//! - In a [`seeded`] task, and in those that Raft spawns from it, everything follows from the seed. Whoever is none of them
//!   may ask Raft for anything: what it spawns for them has a seed that nobody knows.
//! - Below it is tokio, and openraft's own way to seed a generator, which knows seeded tasks only.

use std::future::Future;
use std::io;
use std::time::Duration;

use futures::FutureExt;
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::TokioRuntime;
use rand::Rng as _;
use runtime::random::generator;

type Tokio = TokioRuntime;
type Seeded = DeterministicRng<Tokio>;

tokio::task_local! {
    /// Set in every task that has a seed.
    static HAS_SEED: ();
}

/// What Raft runs on: tokio, with a generator that can be seeded.
#[derive(Debug)]
pub struct SeededRuntime(Seeded);

impl SeededRuntime {
    /// The same task with a seed.
    pub(crate) fn scope<F: Future>(seed: u64, task: F) -> impl Future<Output = F::Output> {
        Seeded::scope(seed, HAS_SEED.scope((), task))
    }
}

/// The same task with a seed: what Raft draws for it and spawns from it depends on nothing else.
pub fn seeded<F: Future>(seed: u64, task: F) -> impl Future<Output = F::Output> {
    SeededRuntime::scope(seed, task)
}

/// Does what draws, with the seed of this task or, where it has none, with one that nobody knows.
fn with_seed<T>(draw: impl FnOnce() -> T) -> T {
    if HAS_SEED.try_with(|()| ()).is_ok() {
        return draw();
    }
    let seed = generator(None).random();
    Seeded::scope(seed, async { draw() }).now_or_never().expect("it waits for nothing")
}

impl AsyncRuntime for SeededRuntime {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Tokio as AsyncRuntime>::Sleep;
    type Instant = <Tokio as AsyncRuntime>::Instant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Tokio as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Seeded as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = <Tokio as AsyncRuntime>::Watch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        with_seed(|| Seeded::spawn(HAS_SEED.scope((), future)))
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Tokio::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Tokio::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Tokio::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        with_seed(Seeded::thread_rng)
    }

    fn new(threads: usize) -> Self {
        Self(Seeded::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(work: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Tokio::spawn_blocking(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Generator = <SeededRuntime as AsyncRuntime>::ThreadLocalRng;

    /// The generators of two tasks that are spawned one after the other.
    async fn drawn() -> [Generator; 2] {
        let draw = || SeededRuntime::spawn(async { SeededRuntime::thread_rng() });
        let (first, second) = (draw(), draw());
        [first.await.expect("it does not panic"), second.await.expect("it does not panic")]
    }

    #[tokio::test]
    async fn one_seed_decides_what_is_drawn_and_whoever_has_none_may_ask_too() {
        let one = seeded(7, drawn()).await;
        assert_eq!(seeded(7, drawn()).await, one);
        assert_ne!(seeded(8, drawn()).await, one);
        assert_ne!(drawn().await, drawn().await, "nobody knows the seed");
    }
}
