//! What nodes said, held against what was said before, against what the receiver accepted, and against finished files.
//!
//! What may go back, and what may not (I13):
//!
//! - Within one life of a process nothing may: no term, and none of the positions floor, horizon, applied, committed.
//! - From one life to the next positions may. What is committed is on a majority, to which this node need not belong. That
//!   it is, and what was applied, is written without a sync: the log brings both back.
//! - So may the term of a leader that a node has only heard of: its own vote may still be on its way to the disk. The term
//!   in which it led with a lease may not: it voted for itself, durably, before anybody else could elect it.
//! - What any node has called committed is in the log of whoever leads with a lease at a later look: that lease says that
//!   nobody was elected since. At the end it is in the logs of a majority ([`crate::prove::remains`]).

use std::collections::BTreeMap;

use model::Position;
use simulator::history::Entry;

use super::Observations;
use super::said::{DestinationSaid, Said};

/// What was called committed at looks that are over.
#[derive(Default)]
struct Committed {
    /// Said before the look at hand was begun.
    known: u64,
    /// Said since, and when.
    fresh: Vec<(u64, u64)>,
}

impl Committed {
    fn before(&mut self, asked_ns: u64) -> u64 {
        let over = self.fresh.iter().filter(|(answered_ns, _)| *answered_ns < asked_ns);
        self.known = over.map(|(_, committed)| *committed).fold(self.known, u64::max);
        self.fresh.retain(|(answered_ns, _)| *answered_ns >= asked_ns);
        self.known
    }
}

impl Observations {
    /// What went back that may not, a sentence each.
    pub(super) fn went_back(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut before: BTreeMap<&str, &Said> = BTreeMap::new();
        let mut led: BTreeMap<&str, u64> = BTreeMap::new();
        let mut committed = Committed::default();
        for Entry { t_ns, process, details: said, .. } in &self.said {
            if said.life.is_some()
                && let Some(earlier) = before.insert(process, said)
                && earlier.life == said.life
            {
                let back = earlier.goes_back_to(said).into_iter();
                wrong.extend(back.map(|what| format!("{process}: {what}")));
            }
            let led = led.entry(process).or_default();
            if said.term.is_some_and(|term| term < *led) {
                wrong.push(format!("{process} led in term {led}, and knows {:?} later", said.term));
            }
            if said.leads {
                *led = said.term.unwrap_or_default().max(*led);
                let known = committed.before(said.asked_ns);
                if said.last < known {
                    wrong.push(format!(
                        "{process} leads with a log to {}, and {known} is committed",
                        said.last
                    ));
                }
            }
            committed.fresh.push((*t_ns, said.committed));
        }
        wrong
    }

    /// Cursors of the HTTP receiver beyond what was accepted when they were seen. `accepted`: positions in order, and when
    /// everything up to there had been accepted that ever was. Of the entry at the cursor nothing is said.
    pub(super) fn passed(&self, accepted: &[(Position, u64)]) -> Vec<String> {
        let when = |cursor: u64| {
            let behind = accepted.partition_point(|(position, _)| position.0 < cursor);
            behind.checked_sub(1).map(|last| accepted[last])
        };
        let mut wrong = Vec::new();
        for (Entry { t_ns, process, .. }, DestinationSaid { id, cursor, .. }) in self.cursors(true) {
            if let Some((position, accepted_ns)) = when(*cursor).filter(|(_, accepted_ns)| accepted_ns > t_ns)
            {
                let late = (accepted_ns - t_ns) / 1_000_000;
                wrong.push(format!(
                    "{process}: {id} is to be sent {cursor} next, and accepts up to {position} only {late} ms later"
                ));
            }
        }
        wrong
    }

    /// Cursors of the CSV destination beyond what stood in finished files a moment later. What there is was accepted over
    /// HTTP some time: both get the same.
    pub(super) fn unfiled(&self, accepted: &[(Position, u64)]) -> Vec<String> {
        let mut wrong = Vec::new();
        for (Entry { t_ns, process, .. }, DestinationSaid { id, cursor, .. }) in self.cursors(false) {
            let later = self.filed.partition_point(|filed| filed.t_ns < *t_ns);
            let behind = accepted.partition_point(|(position, _)| position.0 < *cursor);
            let (Some(filed), Some(last)) = (self.filed.get(later), behind.checked_sub(1)) else { continue };
            let (filed, last) = (filed.details.position, accepted[last].0);
            if filed < last.0 {
                wrong.push(format!(
                    "{process}: {id} is to be sent {cursor} next, and its files end at {filed}, before {last}"
                ));
            }
        }
        wrong
    }

    pub(super) fn cursors(&self, is_http: bool) -> impl Iterator<Item = (&Entry<Said>, &DestinationSaid)> {
        self.said
            .iter()
            .flat_map(|entry| entry.details.destinations.iter().map(move |destination| (entry, destination)))
            .filter(move |(_, destination)| destination.is_http == is_http)
    }

    pub(super) fn out_of_line(&self) -> Vec<String> {
        let wrong = |entry: &Entry<Said>| {
            let Entry { process, details, .. } = entry;
            details.out_of_line().into_iter().map(|what| format!("{process}: {what}")).collect::<Vec<_>>()
        };
        self.said.iter().flat_map(wrong).collect()
    }
}
