//! Whether two nodes asked one device at the same time, judged at the device.
//!
//! A request lasts from its first byte to the last byte of its answer, or to the moment when the device gave it up.
//! Two requests of different nodes whose times intersect are an overlap. Nodes are told apart by their source
//! address: on one machine each binds a loopback address of its own.
//!
//! [`Watch`] counts while requests come and go; [`overlaps`] finds the same in a written history.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The life of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// Who asked.
    pub node: IpAddr,
    /// When the first byte of the request came, in monotonic nanoseconds.
    pub first_ns: u64,
    /// When the last byte of the answer left, or the request was given up.
    pub last_ns: u64,
}

/// Two requests of different nodes at one time: the one that ended first, and the other's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// The request that ended first.
    pub ended: Interval,
    /// The node whose request was open then.
    pub other: IpAddr,
    /// Since when it was.
    pub other_first_ns: u64,
}

/// Counts overlaps as they happen. Needs room for the open requests only: of two requests that intersect, the one
/// that ends first finds the other one open.
#[derive(Debug, Default)]
pub struct Watch {
    open: HashMap<u64, (IpAddr, u64)>,
    next: u64,
}

/// An open request.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(u64);

impl Watch {
    /// A request begins.
    pub fn begin(&mut self, node: IpAddr, first_ns: u64) -> Ticket {
        self.next += 1;
        self.open.insert(self.next, (node, first_ns));
        Ticket(self.next)
    }

    /// How many requests are open.
    pub fn open_requests(&self) -> usize {
        self.open.len()
    }

    /// A request ends; gives the overlaps with requests that are still open.
    pub fn end(&mut self, ticket: Ticket, last_ns: u64) -> Vec<Overlap> {
        let Some((node, first_ns)) = self.open.remove(&ticket.0) else { return Vec::new() };
        let ended = Interval { node, first_ns, last_ns };
        let others = self.open.values().filter(|(other, _)| *other != node);
        others
            .map(|(other, other_first_ns)| Overlap { ended, other: *other, other_first_ns: *other_first_ns })
            .collect()
    }
}

/// Every pair of requests of different nodes that intersect, in the order in which the first of each pair ends.
pub fn overlaps(intervals: &[Interval]) -> Vec<(Interval, Interval)> {
    // At one moment beginnings come before ends: requests that touch do intersect.
    let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(intervals.len() * 2);
    for (place, interval) in intervals.iter().enumerate() {
        moments.push((interval.first_ns, false, place));
        moments.push((interval.last_ns, true, place));
    }
    moments.sort_unstable();
    let mut open: Vec<usize> = Vec::new();
    let mut pairs = Vec::new();
    for (_, ends, place) in moments {
        if !ends {
            open.push(place);
            continue;
        }
        open.retain(|other| *other != place);
        let others = open.iter().map(|other| intervals[*other]);
        let ended = intervals[place];
        pairs.extend(others.filter(|other| other.node != ended.node).map(|other| (ended, other)));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn interval(node: u8, first_ns: u64, last_ns: u64) -> Interval {
        Interval { node: IpAddr::from([127, 0, 0, node]), first_ns, last_ns }
    }

    #[test]
    fn requests_of_two_nodes_at_one_time_overlap() {
        let (a, b, c) = (interval(11, 10, 20), interval(12, 15, 30), interval(12, 31, 40));
        assert_eq!(overlaps(&[a, b, c]), [(a, b)]);
        assert_eq!(overlaps(&[interval(11, 10, 20), interval(11, 15, 30)]), [], "one node may ask twice");
        assert_eq!(overlaps(&[interval(11, 10, 20), interval(12, 21, 30)]), []);
    }

    proptest! {
        #[test]
        fn counting_on_the_way_finds_what_the_history_shows(
            requests in prop::collection::vec((0_u8..3, 0_u64..200, 0_u64..40), 0..40)
        ) {
            // Moments are made distinct, as those of one clock read in turn are.
            let distinct = |moment: u64, place: usize, is_end: u64| (moment * 64 + place as u64) * 2 + is_end;
            let intervals: Vec<_> = requests
                .iter()
                .enumerate()
                .map(|(place, (node, first, length))| {
                    interval(*node, distinct(*first, place, 0), distinct(first + length, place, 1))
                })
                .collect();
            let mut moments: Vec<_> = (0..intervals.len())
                .flat_map(|place| {
                    [(intervals[place].first_ns, true, place), (intervals[place].last_ns, false, place)]
                })
                .collect();
            moments.sort_unstable();
            let mut watch = Watch::default();
            let mut tickets = HashMap::new();
            let mut counted = 0;
            for (moment, begins, place) in moments {
                if begins {
                    tickets.insert(place, watch.begin(intervals[place].node, moment));
                } else {
                    let ticket = tickets.remove(&place).expect("each begins before it ends");
                    counted += watch.end(ticket, moment).len();
                }
            }
            let pairs = || intervals.iter().enumerate().flat_map(|(place, a)| {
                intervals[place + 1..].iter().map(move |b| (a, b))
            });
            let by_definition = pairs()
                .filter(|(a, b)| a.node != b.node && a.first_ns <= b.last_ns && b.first_ns <= a.last_ns)
                .count();
            prop_assert_eq!(counted, by_definition);
            prop_assert_eq!(overlaps(&intervals).len(), by_definition);
        }
    }
}
