//! Who led when, as far as delivered samples say: what was committed in each term.
//!
//! - A reign begins with the first sample that its leader polled: a follower may have taken a pushed one before that.
//! - The first reign explains itself; each later one needs a cause of its own.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use model::{Position, Timestamp};

use super::SampleSeen;

/// All reigns of a run, by term.
#[derive(Debug, Default)]
pub(super) struct Reigns(BTreeMap<u64, Reign>);

/// What was committed in one term.
#[derive(Debug)]
pub(super) struct Reign {
    /// When the first polled sample was taken.
    polled_from: Option<Timestamp>,
    /// When the last sample was taken.
    taken_until: Timestamp,
    /// Who polled the first sample that came.
    node: Option<String>,
    first: Position,
    last: Position,
    /// Somebody else polled, too.
    is_mixed: bool,
}

impl Reigns {
    /// Takes a sample that came for the first time.
    pub(super) fn received(&mut self, sample: &SampleSeen) {
        let (position, taken) = (sample.key.position, sample.gateway_time);
        let reign = self.0.entry(sample.term).or_insert_with(|| Reign {
            polled_from: None,
            taken_until: taken,
            node: None,
            first: position,
            last: position,
            is_mixed: false,
        });
        reign.taken_until = taken.max(reign.taken_until);
        reign.first = position.min(reign.first);
        reign.last = position.max(reign.last);
        if sample.slot.is_some() {
            reign.polled_from = Some(reign.polled_from.map_or(taken, |from| from.min(taken)));
            reign.is_mixed |= reign.node.get_or_insert_with(|| sample.node.clone()) != &sample.node;
        }
    }

    /// Terms that began outside of all `causes`; each of these explains one.
    pub(super) fn unexplained(&self, mut causes: Vec<RangeInclusive<Timestamp>>) -> Vec<(u64, &Reign)> {
        let mut unexplained = Vec::new();
        for (term, reign) in self.0.iter().skip(1) {
            match causes.iter().position(|cause| cause.contains(&reign.began())) {
                Some(at) => {
                    causes.remove(at);
                }
                None => unexplained.push((*term, reign)),
            }
        }
        unexplained
    }

    /// All that followed another, with their terms.
    pub(super) fn later(&self) -> impl Iterator<Item = (u64, &Reign)> {
        self.0.iter().skip(1).map(|(term, reign)| (*term, reign))
    }

    /// Whether one that followed another began then.
    pub(super) fn begin_within(&self, time: &RangeInclusive<Timestamp>) -> bool {
        self.0.values().skip(1).any(|reign| time.contains(&reign.began()))
    }

    /// Reigns in which two nodes polled, or of which something stands behind the beginning of a later one.
    pub(super) fn stale(&self) -> u64 {
        let mixed = self.0.values().filter(|reign| reign.is_mixed).count();
        let later = self.0.values().skip(1);
        let late = self.0.values().zip(later).filter(|(reign, later)| reign.last >= later.first).count();
        (mixed + late) as u64
    }
}

impl Reign {
    /// When it began.
    pub(super) fn began(&self) -> Timestamp {
        self.polled_from.unwrap_or(self.taken_until)
    }

    /// Who led, where something was polled.
    pub(super) fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }
}
