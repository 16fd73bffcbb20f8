//! Whoever runs the cluster: checkpoints, switchovers, nodes that are drained and let lead again, and a membership that is
//! always on the move.
//! Machines that are no members are added, learners are promoted, and of four voters one is removed, whose machine then
//! begins anew.

use model::NodeId;
use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use runtime::random::Random;

use crate::orders::Order;
use crate::world::{FOUNDERS, MACHINES, View, World, name};

/// Milliseconds from one order to the next, at most.
const WITHIN: u64 = 400;

/// Gives orders from time to time.
pub(crate) struct Operator {
    random: Random,
    next: u64,
}

impl Operator {
    pub(crate) fn new(random: Random) -> Self {
        Self { random, next: 0 }
    }

    /// Gives an order, if it is time.
    pub(crate) fn order(&mut self, world: &mut World) {
        if world.now() < self.next {
            return;
        }
        self.next = world.now() + self.random.random_range(20..WITHIN);
        give_up(world);
        let anybody = self.random.random_range(0..MACHINES);
        let Some((leader, view)) = world.leader() else { return };
        let (machine, order) = match self.random.random_range(0..100) {
            0..15 => (leader, Order::HandOver),
            15..30 => match self.drain(view) {
                Some(order) => (leader, order),
                None => return,
            },
            30..55 => (anybody, Order::Checkpoint),
            _ => match self.change(world, view) {
                Some(order) => (leader, order),
                None => return,
            },
        };
        if world.machines[machine].view.is_some() {
            world.note(Some(machine), format!("is asked: {order:?}"));
            world.machines[machine].orders.push_back(order);
        }
    }

    /// Lets one lead again that is drained, or drains one.
    fn drain(&mut self, view: &View) -> Option<Order> {
        if let Some(drained) = view.drained.first() {
            return Some(Order::Undrain(*drained));
        }
        let members: Vec<NodeId> = view.members.keys().copied().collect();
        members.choose(&mut self.random).copied().map(Order::Drain)
    }

    /// The next change of the membership.
    fn change(&mut self, world: &World, view: &View) -> Option<Order> {
        let is_member = |machine: &usize| node_on(view, *machine).is_some();
        let amnesic = (0..MACHINES).filter(|machine| world.machines[*machine].is_amnesic);
        if let Some((node, machine)) = amnesic.filter_map(|on| Some((node_on(view, on)?, on))).next() {
            return Some(Order::Remove(node, machine));
        }
        if let Some(stranger) = (0..MACHINES).find(|machine| !is_member(machine)) {
            return world.machines[stranger].is_on.then_some(Order::Add(stranger));
        }
        if let Some(learner) = view.members.keys().find(|node| !view.voters.contains(&node.0)) {
            return Some(Order::Promote(*learner));
        }
        if view.voters.len() <= FOUNDERS {
            return None;
        }
        let others: Vec<NodeId> = view.members.keys().copied().filter(|node| *node != view.node).collect();
        let goes = *others.choose(&mut self.random)?;
        let machine = (0..MACHINES).find(|machine| name(*machine) == view.members[&goes].name)?;
        Some(Order::Remove(goes, machine))
    }
}

/// The member that is on a machine.
fn node_on(view: &View, machine: usize) -> Option<NodeId> {
    let name = name(machine);
    view.members.iter().find(|(_, member)| member.name == name).map(|(node, _)| *node)
}

/// Machines that have forgotten something begin anew when their nodes are no members any more, whoever heard of that.
fn give_up(world: &mut World) {
    let Some((_, view)) = world.leader() else { return };
    let amnesic = (0..MACHINES).filter(|machine| world.machines[*machine].is_amnesic);
    let gone: Vec<usize> = amnesic.filter(|machine| node_on(view, *machine).is_none()).collect();
    for machine in gone {
        world.machines[machine].is_removed = true;
    }
}
