//! Run tasks under supervision, tell the time, draw random numbers: everything that a simulation replaces.
//!
//! - [`Supervisor`] and [`Spawner`]: no task is detached. Each is spawned under a name, and an error or panic of
//!   one ends the node.
//! - [`blocking`]: work that would hold up a thread of the runtime.
//! - [`Backoff`]: how long to leave alone what has failed.
//! - [`SystemClock`]: the wall clock of this machine. Monotonic time is tokio's; it stands still while the machine is
//!   [`suspended`].
//! - [`resident_bytes`]: what this process holds in memory.
//! - [`DeadMan`]: the kernel ends this process if it stands still for longer than others wait for it.
//! - [`random`]: one seed for a whole process, from which each part draws by itself, so that a run can be repeated.
//! - [`mutant`]: which deliberate fault this process has, in a build that has any.

mod backoff;
mod deadman;
mod mutants;
pub mod random;
mod supervise;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::time::nanos;
use model::{Clock, Timestamp};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use backoff::Backoff;
pub use deadman::{DeadMan, Lapse};
pub use mutants::mutant;
pub use supervise::{Failure, Spawner, Supervisor};

/// The wall clock of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that may ask the system for the time of day")]
    fn now(&self) -> Timestamp {
        Timestamp(match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => nanos(since),
            Err(before) => -nanos(before.duration()),
        })
    }
}

/// Resolves at a moment; never, if there is none.
pub async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Does what blocks where it holds up nobody: on a thread for that. On a runtime of one thread it is a task like any other,
/// so that a simulation repeats. It ends by itself, whoever still waits for it.
#[allow(clippy::disallowed_methods, reason = "its end is awaited by whoever wants what it gives")]
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => tokio::spawn(async move { work() }),
        _ => tokio::task::spawn_blocking(work),
    }
}

/// How long this machine has been suspended in all: what the monotonic clock has not counted. Never too much.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn suspended() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    // In this order, so that a thread that is held up in between sees less and never more.
    let all = clock_gettime(ClockId::Boottime);
    let counted = clock_gettime(ClockId::Monotonic);
    let nanos = |at: rustix::time::Timespec| i128::from(at.tv_sec) * 1_000_000_000 + i128::from(at.tv_nsec);
    Duration::from_nanos(u64::try_from(nanos(all) - nanos(counted)).unwrap_or(0))
}

/// Not known here.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn suspended() -> Duration {
    Duration::ZERO
}

/// Bytes of memory that this process holds at present; `None` where the system does not say.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn resident_bytes() -> Option<u64> {
    // proc(5): `VmRSS:     12345 kB`, where a kB has 1024 bytes.
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = resident.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Not known here.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn resident_bytes() -> Option<u64> {
    None
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn on_one_thread_what_blocks_is_a_task_of_it() {
        let here = thread::current().id();
        assert_eq!(blocking(|| thread::current().id()).await.expect("it does not panic"), here);
    }

    #[test]
    fn what_a_process_holds_grows_with_what_it_takes() {
        const TAKEN: usize = 64 << 20;
        let before = resident_bytes().expect("Linux says");
        let taken = vec![1_u8; TAKEN];
        let after = resident_bytes().expect("Linux says");
        assert!(taken.iter().all(|byte| *byte == 1));
        assert!(after >= before + TAKEN as u64 / 2, "{before} before, {after} with {TAKEN} more");
    }
}
