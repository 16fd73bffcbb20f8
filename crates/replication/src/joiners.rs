//! The waiting room: nodes that ask to belong and that nobody has added yet.
//!
//! - In memory, for `member list` and `status`; a node that stops asking leaves it after a while.
//! - Bounded, because anybody who may speak on the peer port can ask.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{Role, StoreId};
use tokio::time::Instant;

use crate::network::Identity;

/// A node that has not asked for this long waits no more.
const PATIENCE: Duration = Duration::from_secs(5);
/// Nodes that may wait at once.
const ROOM: usize = 16;

/// A node that asks to belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joiner {
    /// Its name.
    pub name: String,
    /// Where peers reach it.
    pub address: String,
    /// What it is for.
    pub role: Role,
    /// Since when it has been asking.
    pub since: Instant,
    /// When it last asked.
    last: Instant,
}

/// All who wait. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Joiners {
    waiting: Arc<Mutex<BTreeMap<StoreId, Joiner>>>,
}

impl Joiners {
    /// A node has asked.
    pub(crate) fn note(&self, asker: &Identity) {
        let now = Instant::now();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, joiner| now.saturating_duration_since(joiner.last) < PATIENCE);
        let since = match waiting.get(&asker.store) {
            Some(known) => known.since,
            None if waiting.len() >= ROOM => return,
            None => now,
        };
        let Identity { name, address, role, .. } = asker.clone();
        waiting.insert(asker.store, Joiner { name, address, role, since, last: now });
    }

    /// A node was added.
    pub(crate) fn forget(&self, store: StoreId) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&store);
    }

    /// Who waits now, by name.
    pub(crate) fn list(&self) -> Vec<Joiner> {
        let now = Instant::now();
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |joiner: &&Joiner| now.saturating_duration_since(joiner.last) < PATIENCE;
        let mut all: Vec<Joiner> = waiting.values().filter(fresh).cloned().collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }
}

#[cfg(test)]
mod tests {
    use model::{BootId, ClusterId, NodeId};

    use super::*;

    fn identity(node: u128) -> Identity {
        Identity {
            cluster: ClusterId::default(),
            cluster_name: "plant-7".into(),
            node: NodeId(0),
            name: format!("node-{node}"),
            store: StoreId::from(node),
            role: Role::Gateway,
            formats: 1..=1,
            lease: Duration::from_millis(500),
            boot: BootId::from(1),
            pristine: true,
            address: "10.0.0.4:7610".into(),
            api: String::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_asking_waits_no_more() {
        let joiners = Joiners::default();
        joiners.note(&identity(4));
        let since = Instant::now();
        tokio::time::advance(PATIENCE / 2).await;
        joiners.note(&identity(4));
        tokio::time::advance(PATIENCE / 2).await;
        assert_eq!(joiners.list().iter().map(|joiner| joiner.since).collect::<Vec<_>>(), [since]);
        tokio::time::advance(PATIENCE).await;
        assert_eq!(joiners.list(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn the_room_is_bounded() {
        let joiners = Joiners::default();
        (1..=100).for_each(|node| joiners.note(&identity(node)));
        assert_eq!(joiners.list().len(), ROOM);
    }
}
