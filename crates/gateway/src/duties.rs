//! What a node does in its cluster, whatever it stands on: it leads when it may, hands over where another should lead, and
//! takes pushes.
//!
//! - [`RunningNode`](crate::RunningNode) starts it on the disks, sockets and clocks of a machine, a simulation on its own.
//! - Not here: where callers come in and who is let in, the egress lease, the dead man, alarms and system tags, what the
//!   service manager is told.

use std::sync::Arc;

use destinations::Builder;
use drivers::modbus::Dialler;
use ingest::PushService;
use model::{Clock, SessionId};
use replication::Replica;
use runtime::Spawner;
use runtime::random::{Random, branch, id_bits};
use store::engine::Engine;

use crate::config::Hooks;
use crate::egress::Gate;
use crate::failback;
use crate::field::FieldDoor;
use crate::hooks;
use crate::leading::{Leading, LeadingParts, Switchover};
use crate::live::Live;
use crate::memory::Memory;
use crate::pushing::{PushedTags, ReplicatedLog};
use crate::space;

/// What it needs of its node.
pub struct DutyParts<E: Engine> {
    /// What is agreed on, and who leads.
    pub replica: Replica<E>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Where acquisition and forwarding say how devices and destinations do.
    pub live: Live,
    /// Builds what is delivered to.
    pub destinations: Arc<dyn Builder>,
    /// Reaches devices.
    pub dialler: Arc<dyn Dialler>,
    /// Lets requests to devices out.
    pub gate: Gate,
    /// Where devices are asked from outside the poll groups.
    pub field: FieldDoor,
    /// Bounds what waits.
    pub memory: Memory,
    /// What follows this node outside.
    pub hooks: Hooks,
    /// All that is drawn is drawn from it.
    pub random: Random,
    /// Starts the tasks that touch the outside world.
    pub spawner: Spawner,
}

/// What its node asks of it.
pub struct Duties<E: Engine> {
    /// Hands leadership over.
    pub switchover: Switchover,
    /// Takes pushed samples.
    pub pushes: PushService<PushedTags<E>>,
}

impl<E: Engine> Duties<E> {
    /// Starts all of it; it ends with the spawner.
    pub fn start(mut parts: DutyParts<E>) -> Self {
        let session = SessionId::from(id_bits(&mut parts.random));
        let pushes = start_taking_pushes(&parts, session);
        let switchover = start_leading(&mut parts);
        let (replica, stop) = (&parts.replica, parts.spawner.token());
        let watching = failback::run(replica.clone(), switchover.clone(), stop.clone());
        parts.spawner.spawn("failback", watching);
        let yielding = space::hand_over_when_full(replica.clone(), switchover.clone(), stop.clone());
        parts.spawner.spawn("room", yielding);
        Self { switchover, pushes }
    }
}

fn start_leading<E: Engine>(parts: &mut DutyParts<E>) -> Switchover {
    let DutyParts { replica, spawner, .. } = &*parts;
    let hooks = hooks::start(parts.hooks.clone(), replica.cluster_name(), replica, spawner);
    let random = branch(&mut parts.random);
    let (leading, switchover) = Leading::new(LeadingParts {
        replica: parts.replica.clone(),
        clock: Arc::clone(&parts.clock),
        live: parts.live.clone(),
        destinations: Arc::clone(&parts.destinations),
        dialler: Arc::clone(&parts.dialler),
        gate: parts.gate.clone(),
        field: parts.field.clone(),
        readings: parts.memory.readings(),
        hooks,
        random,
        spawner: parts.spawner.clone(),
    });
    parts.spawner.spawn("leading", leading.run());
    switchover
}

/// What is pushed is numbered in `session`.
fn start_taking_pushes<E: Engine>(parts: &DutyParts<E>, session: SessionId) -> PushService<PushedTags<E>> {
    let DutyParts { replica, clock, spawner, memory, .. } = parts;
    let log = Arc::new(ReplicatedLog::start(replica.clone(), spawner));
    let tags = Arc::new(PushedTags(replica.clone()));
    ingest::start(spawner, log, tags, Arc::clone(clock), replica.node(), session, memory.pushes())
}
