//! Snapshots: checkpoints that the horizon has passed become openraft's snapshot, and the log behind them is purged.

use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::async_runtime::WatchReceiver as _;
use store::engine::Engine;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::replica::Replica;

/// How often the horizon is compared with the checkpoints.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(5);

impl<E: Engine, RT: AsyncRuntime> Replica<E, RT> {
    /// Turns checkpoints that the horizon has passed into snapshots, and purges the log behind them.
    pub(crate) async fn purge_behind_horizon(self, stop: CancellationToken) -> Result<(), String> {
        let inner = &self.inner;
        let mut ticks = interval(SNAPSHOT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut purged = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            let Some(at) = inner.store.keeper().newest_snapshot_position() else { continue };
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
