//! Who asked when, all devices together: a node that leads asks alone.
//!
//! - A turn is what one node asked in one term, from its first request whose read was delivered to its last one: the term
//!   stands in the samples, and the moment is the device's, on the machine's monotonic clock.
//! - No request of another node comes in the midst of a turn, to whichever device, answered or not. A node that leads again
//!   has another term, and a turn of its own.
//! - One thing is excused: a request that was not answered, at a device to which something was being done. When a device
//!   that is silent or slow hears of a request is not when it was asked.
//! - What comes between two turns is not judged: it may be a turn of which nothing was delivered.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::causes::{meets, settled};
use super::reigns::Reign;
use super::{Account, Uncaused};

/// A request that a device got.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// When its first byte came, in monotonic nanoseconds.
    pub(super) at_ns: u64,
    pub(super) node: IpAddr,
    /// The number of the read, if it was answered with values.
    pub(super) ordinal: Option<u32>,
}

/// What one node asked in one term, in monotonic nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) node: IpAddr,
    pub(super) from_ns: u64,
    pub(super) until_ns: u64,
}

impl Turn {
    fn takes(&mut self, at_ns: u64) {
        (self.from_ns, self.until_ns) = (self.from_ns.min(at_ns), self.until_ns.max(at_ns));
    }

    fn is_broken_by(&self, request: &Request) -> bool {
        self.node != request.node && (self.from_ns..self.until_ns).contains(&request.at_ns)
    }
}

impl Account {
    /// All turns, by term.
    pub(super) fn turns(&self) -> BTreeMap<u64, Turn> {
        let mut turns: BTreeMap<u64, Turn> = BTreeMap::new();
        for (request, term) in self.devices.values().flat_map(|book| book.requests()) {
            let Some(term) = term else { continue };
            let Request { at_ns, node, .. } = *request;
            let turn = turns.entry(term).or_insert(Turn { node, from_ns: at_ns, until_ns: at_ns });
            // Two nodes in one term are found by who took what: a stale reign.
            if turn.node == node {
                turn.takes(at_ns);
            }
        }
        turns
    }

    /// Reigns that began outside of everything that was done to the cluster. When they began the devices know, whatever the
    /// nodes' clocks say; where nothing was polled that came, the clocks do.
    pub(super) fn uncaused(&self) -> Vec<Uncaused> {
        let (turns, windows) = (self.turns(), settled(self.windows()));
        let is_in = |at_ns: u64| meets(&windows, at_ns, at_ns);
        let of = |(term, reign): (u64, &Reign)| Uncaused {
            term,
            node: reign.node().unwrap_or_default().to_owned(),
            began_ns: turns.get(&term).map_or_else(|| self.monotonic(reign.began()), |turn| turn.from_ns),
        };
        self.reigns.later().map(of).filter(|reign| !is_in(reign.began_ns)).collect()
    }

    /// Requests that came to a device in the midst of another node's turn.
    pub(super) fn requests_astray(&self) -> u64 {
        let turns = self.turns();
        let mut astray = 0;
        for (device, book) in &self.devices {
            for (request, _) in book.requests() {
                let is_excused = || {
                    request.ordinal.is_none() && self.causes.has_failed(device, request.at_ns, request.at_ns)
                };
                let is_broken = turns.values().any(|turn| turn.is_broken_by(request));
                astray += u64::from(is_broken && !is_excused());
            }
        }
        astray
    }
}
