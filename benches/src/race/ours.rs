//! Three real nodes, and the simulated pusher.
//!
//! - Nodes dial each other, as those of the others do: no relay runs between them.
//! - An election under load ends the race.

use std::time::Duration;

use anyhow::ensure;
use futures::future::{BoxFuture, FutureExt};
use simulator::pusher::{Content, Pusher, PusherConfig};
use tokio_util::sync::CancellationToken;

use super::{Client, Order, PAUSE, Racer};
use crate::plant;
use crate::push;
use crate::world::{Bench, World};

/// Nodes are asked how they are seldom: it is work.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Ours {
    world: World,
    content: Content,
    /// In which it was founded.
    term: u64,
}

impl Ours {
    pub(super) async fn start(bench: &Bench) -> anyhow::Result<Self> {
        let world = World::start_without_relay(bench, "race-ours", LOOK_EVERY).await?;
        let content = push::content();
        world.apply(&plant::document(None, std::slice::from_ref(&content), None)).await?;
        let term = world.term().await?;
        Ok(Self { world, content, term })
    }
}

impl Racer for Ours {
    fn leader(&self) -> BoxFuture<'_, anyhow::Result<usize>> {
        async move {
            let term = self.world.term().await?;
            ensure!(term == self.term, "an election under load: term {term} after {}", self.term);
            self.world.leader().await
        }
        .boxed()
    }

    fn client(&self, order: Order, stop: CancellationToken) -> anyhow::Result<Client> {
        let mut endpoints = self.world.nodes.cluster.endpoints().to_vec();
        endpoints.rotate_left(order.node);
        let config = push::config(endpoints, &self.content, order.window, None);
        let config = PusherConfig { patience: order.patience(), ..config };
        let pusher = Pusher::new(config, None).pausing_at_most(PAUSE);
        let progress = pusher.stats();
        let work = async move {
            let report = pusher.run(stop).await;
            if order.goes_on { Ok(()) } else { push::check_all_acknowledged(&report) }
        };
        Ok(Client { progress, work: work.boxed() })
    }

    fn kill(&self, node: usize) -> BoxFuture<'_, anyhow::Result<()>> {
        async move {
            self.world.nodes.kill(node).await?;
            Ok(())
        }
        .boxed()
    }

    fn end(self: Box<Self>) -> BoxFuture<'static, anyhow::Result<()>> {
        self.world.end().boxed()
    }
}
