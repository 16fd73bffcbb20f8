//! For tests alone: a wall clock that can be set while the node runs, without setting that of the machine.
//!
//! `HOLDFAST_TEST_CLOCK` names a file that holds the milliseconds by which this node's clock is ahead. It is read again
//! every few milliseconds; while it is missing or unreadable, the clock stays as it is. The monotonic clock is not touched.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use model::{Clock, Timestamp};
use runtime::SystemClock;

/// Names the file.
pub(super) const VARIABLE: &str = "HOLDFAST_TEST_CLOCK";
/// How often it is read.
const EVERY: Duration = Duration::from_millis(5);

/// The system's clock, ahead by what the file says.
#[derive(Debug)]
pub(super) struct BentClock {
    ahead_nanos: Arc<AtomicI64>,
}

impl BentClock {
    /// A clock that follows `file` for the rest of the process.
    pub(super) fn follow(file: PathBuf) -> Self {
        let ahead_nanos = Arc::new(AtomicI64::new(read(&file).unwrap_or(0)));
        let known = Arc::clone(&ahead_nanos);
        #[allow(clippy::disallowed_methods, reason = "for tests alone; it lives as long as the process")]
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(EVERY).await;
                if let Some(ahead) = read(&file) {
                    known.store(ahead, Ordering::Relaxed);
                }
            }
        });
        Self { ahead_nanos }
    }
}

impl Clock for BentClock {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus_nanos(self.ahead_nanos.load(Ordering::Relaxed))
    }
}

fn read(file: &Path) -> Option<i64> {
    let millis: i64 = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
    millis.checked_mul(1_000_000)
}
