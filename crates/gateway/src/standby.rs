//! Idle connections to devices while this node follows, for those whose plant document says `standby = "warm"`.
//!
//! - They go to acquisition when this node begins to lead, and are closed when the plant changes or somebody takes the
//!   device out of service. Nothing is ever sent on them: they have no permit.
//! - Only a node that may lead holds any: a learner or a drained node would wear devices for nothing.

use std::sync::Arc;

use drivers::modbus::{Dialler, WarmConnections, WarmStandby};
use model::NodeId;
use model::ids::Revision;
use model::plant::{Device, Link, Standby as Wanted};
use replication::Replica;
use runtime::Spawner;
use runtime::random::{Random, branch};
use store::engine::Engine;
use store::ledger::State;

/// What this follower holds.
pub(crate) struct Standby<E: Engine> {
    replica: Replica<E>,
    dialler: Arc<dyn Dialler>,
    random: Random,
    spawner: Spawner,
    held: Option<Held>,
}

struct Held {
    devices: Vec<Device>,
    connections: WarmStandby,
}

impl<E: Engine> Standby<E> {
    pub(crate) fn new(
        replica: Replica<E>,
        dialler: Arc<dyn Dialler>,
        random: Random,
        spawner: Spawner,
    ) -> Self {
        Self { replica, dialler, random, spawner, held: None }
    }

    /// Holds what the plant wants, as it changes. Ends with the replica; may be dropped and begun again.
    pub(crate) async fn follow(&mut self) {
        let (node, keeper) = (self.replica.node(), self.replica.store().keeper().clone());
        let mut orders = keeper.orders();
        let mut seen = None;
        loop {
            let now = keeper.read(|state| Seen::of(state, node));
            if seen.as_ref() != Some(&now) {
                let wanted = keeper.read(|state| wanted(state, &now));
                let is_held = self.held.as_ref().map_or(&[][..], |held| &held.devices) == wanted;
                if !is_held {
                    self.hold(wanted);
                }
                seen = Some(now);
            }
            if orders.changed().await.is_err() {
                return;
            }
        }
    }

    fn hold(&mut self, devices: Vec<Device>) {
        // What was held is closed, and made anew where it is still wanted.
        self.held = None;
        if devices.is_empty() {
            return;
        }
        let (spawner, dialler) = (self.spawner.clone(), Arc::clone(&self.dialler));
        let mut connections = WarmStandby::new(spawner, dialler, branch(&mut self.random));
        devices.iter().for_each(|device| connections.hold(device));
        self.held = Some(Held { devices, connections });
    }

    /// What is open, for a reign that begins. Never waits for the network.
    pub(crate) async fn release(&mut self) -> WarmConnections {
        match self.held.take() {
            Some(held) => held.connections.release().await,
            None => WarmConnections::default(),
        }
    }
}

/// What decides which devices are held. Small, because it is looked at after every entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    revision: Revision,
    may_lead: bool,
    disabled: Vec<String>,
}

impl Seen {
    fn of(state: &State, node: NodeId) -> Self {
        let votes = state.membership.configs.iter().any(|voters| voters.contains(&node.0));
        Self {
            revision: state.revision(),
            may_lead: votes && !state.drained.contains_key(&node),
            disabled: state.disabled.keys().cloned().collect(),
        }
    }
}

/// The devices that a follower should be connected to.
fn wanted(state: &State, seen: &Seen) -> Vec<Device> {
    if !seen.may_lead {
        return Vec::new();
    }
    let is_warm = |device: &&Device| {
        let is_wanted = matches!(&device.link, Link::ModbusTcp(link) if link.standby == Wanted::Warm);
        is_wanted && device.enabled && !state.disabled.contains_key(&device.id)
    };
    state
        .catalog()
        .map_or_else(Vec::new, |catalog| catalog.plant().devices.iter().filter(is_warm).cloned().collect())
}
