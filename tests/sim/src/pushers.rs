//! Pushers as ingest makes proposals of them: sessions whose messages are numbered, a window of them under way through
//! one node, and back to the first one without acknowledgement when anything went wrong.

use std::collections::BTreeMap;

use model::SessionId;
use rand::Rng as _;
use runtime::random::Random;

use crate::orders::Order;
use crate::world::{MACHINES, World};

/// Proposals of one pusher under way.
const WINDOW: usize = 3;
/// Messages in one proposal, at most.
const MESSAGES: u64 = 3;
/// How often it proposes, for each millisecond in which it may.
const EAGERNESS: f64 = 0.1;
/// How long it waits after something went wrong, in milliseconds.
const PAUSE: u64 = 20;

/// One session.
#[derive(Debug)]
pub(crate) struct Pusher {
    session: SessionId,
    /// The machine whose node takes its messages.
    at: usize,
    /// The next message to be sent.
    next: u64,
    /// Everything up to here is acknowledged.
    acknowledged: u64,
    /// Proposals without an answer, by their number: through which machine.
    under_way: BTreeMap<u64, usize>,
    proposals: u64,
    /// Something went wrong: nothing is sent before all is answered.
    goes_back: bool,
    pause_until: u64,
}

/// Some messages of one session, in one proposal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Messages {
    pub(crate) session: SessionId,
    pub(crate) proposal: u64,
    pub(crate) first: u64,
    pub(crate) count: u64,
}

/// What became of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The last message that is in the log now, if this says so of any.
    pub(crate) accepted: Option<u64>,
    /// Not all of it is, or nobody knows.
    pub(crate) goes_back: bool,
}

impl Pusher {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            session: SessionId::from(number as u128 + 1),
            at: number % MACHINES,
            next: 1,
            acknowledged: 0,
            under_way: BTreeMap::new(),
            proposals: 0,
            goes_back: false,
            pause_until: 0,
        }
    }

    /// The last message that was acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Whether everything was answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// The node of a machine will not answer any more.
    pub(crate) fn lose(&mut self, machine: usize) {
        let before = self.under_way.len();
        self.under_way.retain(|_, at| *at != machine);
        self.goes_back |= self.under_way.len() < before;
    }

    /// What it proposes now, if anything.
    fn propose(&mut self, now: u64, random: &mut Random) -> Option<Messages> {
        if self.goes_back && self.under_way.is_empty() {
            (self.goes_back, self.next) = (false, self.acknowledged + 1);
            self.at = random.random_range(0..MACHINES);
        }
        let may = !self.goes_back && now >= self.pause_until && self.under_way.len() < WINDOW;
        if !may || !random.random_bool(EAGERNESS) {
            return None;
        }
        let (first, count) = (self.next, random.random_range(1..=MESSAGES));
        self.next += count;
        self.proposals += 1;
        self.under_way.insert(self.proposals, self.at);
        Some(Messages { session: self.session, proposal: self.proposals, first, count })
    }
}

/// Lets every pusher propose what it has to.
pub(crate) fn push(world: &mut World, random: &mut Random) {
    let now = world.now();
    for number in 0..world.pushers.len() {
        let Some(messages) = world.pushers[number].propose(now, random) else { continue };
        let at = world.pushers[number].at;
        if world.machines[at].view.is_some() {
            world.machines[at].orders.push_back(Order::Push { pusher: number, messages });
        } else {
            // Nobody listens there.
            world.pushers[number].lose(at);
        }
    }
}

/// What became of a proposal that went through `machine`.
pub(crate) fn answered(
    world: &mut World,
    machine: usize,
    (number, messages): (usize, Messages),
    answer: Answer,
) {
    let now = world.now();
    let pusher = &mut world.pushers[number];
    pusher.under_way.remove(&messages.proposal);
    if answer.goes_back {
        (pusher.goes_back, pusher.pause_until) = (true, now + PAUSE);
    }
    let Some(last) = answer.accepted else { return };
    pusher.acknowledged = pusher.acknowledged.max(last);
    world.account.acknowledged(messages.session, last);
    world.note(Some(machine), format!("session {number} is acknowledged up to {last}"));
}
