//! Connections that are needed only when a leader goes: kept up, so that its successor need not make them first.
//!
//! - A leader's own are in use all the time. A voter that follows calls each other voter on both connections at a slow
//!   pace: one that was never made, or has broken unnoticed, is made then. In between HTTP/2 pings keep them up.
//! - Only who votes now is called, and once a round whether it answers or not: one that is gone or refuses this node is
//!   not pressed.

use std::time::Duration;

use futures::future::join_all;
use openraft::AsyncRuntime;
use store::engine::Engine;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::replica::{Replica, Standing};

/// From one round to the next.
pub(crate) const ROUND: Duration = Duration::from_secs(5);

impl<E: Engine, RT: AsyncRuntime> Replica<E, RT> {
    /// Calls the other voters while this node follows.
    pub(crate) async fn keep_links_warm(self, stop: CancellationToken) -> Result<(), String> {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = rounds.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            let status = self.status();
            if status.standing != Standing::Follower {
                continue;
            }
            let others = status.members.iter();
            let others = others.filter(|(node, _)| **node != status.node && status.votes(**node));
            let calls = join_all(others.map(|(node, member)| self.inner.network.keep_warm(*node, member)));
            tokio::select! {
                _ = calls => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }
}
