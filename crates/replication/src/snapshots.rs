//! Snapshots: checkpoints that the horizon has passed become openraft's snapshot, and the log behind them is purged.
//!
//! - On a disk without room what was delivered does not wait for the schedule of checkpoints: one is cut as soon as nothing
//!   is undelivered, and again as long as there is something to gain. Then it is said that somebody else fills the disk.

use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::async_runtime::WatchReceiver as _;
use store::Relief;
use store::engine::Engine;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::replica::Replica;
use crate::successor::ROOM_TO_LEAD;

/// How often the horizon is compared with the checkpoints.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(5);
/// So many times in a row a disk has no room and nothing to hope for, then that is said: deleting takes its time.
const IN_VAIN: u32 = 6;

impl<E: Engine, RT: AsyncRuntime> Replica<E, RT> {
    /// Turns checkpoints that the horizon has passed into snapshots, and purges the log behind them.
    pub(crate) async fn purge_behind_horizon(self, stop: CancellationToken) -> Result<(), String> {
        let inner = &self.inner;
        let mut ticks = interval(SNAPSHOT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut purged = None;
        let mut in_vain = 0_u32;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            let has_room = (inner.free_bytes)() >= ROOM_TO_LEAD;
            let keeper = inner.store.keeper();
            if has_room || keeper.cut_for_room().map_err(|error| error.to_string())? != Relief::Spent {
                in_vain = 0;
            } else {
                in_vain = in_vain.saturating_add(1);
            }
            if in_vain == IN_VAIN {
                error!(
                    "HF-4102: this disk has too little room, and nothing that was delivered is left to be given back: what \
                     fills it is not the backlog"
                );
            }
            let Some(at) = keeper.newest_snapshot_position() else { continue };
            if purged >= Some(at) {
                continue;
            }
            let ended = |_| "raft has ended".to_owned();
            inner.raft.trigger().snapshot().await.map_err(ended)?;
            inner.raft.trigger().purge_log(at.index.0).await.map_err(ended)?;
            let snapshot =
                inner.raft.metrics().borrow_watched().snapshot.as_ref().map(crate::storage::from_log_id);
            if snapshot >= Some(at) {
                purged = Some(at);
            }
        }
    }
}
