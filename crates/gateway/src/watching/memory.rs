//! The memory of this node: whether it is more than its node file wants.
//!
//! One line when it is, and one when it is not any more. It is no alarm: nothing stops, and the status shows it.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};
use wire::proto::v1 as pb;

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(5);
/// Percent of the limit below which it is told that it is over.
const CALM: u64 = 90;

/// What was told.
#[derive(Debug, Default)]
pub(super) struct MemoryWatch {
    next: Option<Instant>,
    is_over: bool,
}

impl MemoryWatch {
    /// Looks, if it is time to. Whether the node holds more than it should.
    pub(super) fn look(&mut self, now: Instant, memory: impl FnOnce() -> pb::MemoryUse) -> bool {
        if self.next.is_some_and(|next| now < next) {
            return self.is_over;
        }
        self.next = Some(now + EVERY);
        let pb::MemoryUse { resident_bytes, limit_bytes } = memory();
        let Some(resident) = resident_bytes else { return false };
        if !self.is_over && resident > limit_bytes {
            warn!(resident, limit = limit_bytes, "this node holds more memory than [limits] memory wants");
            self.is_over = true;
        } else if self.is_over && resident < limit_bytes / 100 * CALM {
            info!(resident, limit = limit_bytes, "this node holds less memory than [limits] memory again");
            self.is_over = false;
        }
        self.is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_is_told_until_it_is_clearly_less() {
        let (mut watch, start) = (MemoryWatch::default(), Instant::now());
        let mut look = |seconds, resident| {
            let now = start + Duration::from_secs(seconds);
            watch.look(now, || pb::MemoryUse { resident_bytes: resident, limit_bytes: 1_000 })
        };
        assert!(!look(0, Some(1_000)), "up to the limit all is well");
        assert!(!look(4, Some(2_000)), "it was looked at a moment ago");
        assert!(look(5, Some(1_001)));
        assert!(look(10, Some(950)), "it goes up and down");
        assert!(!look(15, Some(899)));
        assert!(!look(20, None), "not every system says");
    }
}
