//! Quarantine: records that a destination refused for good, set aside where an operator can see and retry them.
//!
//! - Bounded in bytes for each destination, so that one that refuses everything cannot fill the disk of every node: at
//!   the bound the oldest are given up. They are counted, and an event says so at first and whenever their number has
//!   doubled. It is no record to be delivered, because the destination might refuse that, too, and so for ever.
//! - An operator marks records, and the leader offers them again: one that is accepted leaves, one that is refused stays
//!   and is not marked any more. Both are counted; an event says so when nothing is marked any more.

use model::command::{Event, RefusedAgain, Rejection, Severity, Stamp};
use model::ids::DestinationId;
use model::{Ordinal, Position};

use super::Change;
use super::rows::Row;
use super::state::{QuarantineKey, Quarantined, State};
use crate::outcome::{Outcome, Refusal, Thing};

/// Bytes of quarantine for each destination.
const KEPT_BYTES: usize = 4 << 20;
/// What a record costs besides its text.
const OVERHEAD: usize = 100;

impl Change<'_> {
    /// Sets refused records aside; of too many, the oldest go.
    pub(super) fn set_aside(
        &mut self,
        at: Position,
        stamp: Stamp,
        id: DestinationId,
        rejected: Vec<Rejection>,
    ) {
        if rejected.is_empty() {
            return;
        }
        for rejection in rejected {
            let key = (id, rejection.position, rejection.ordinal);
            let record = Quarantined {
                reason: rejection.reason,
                at: stamp.at,
                record: String::from_utf8_lossy(&rejection.record).into_owned(),
                retry: false,
            };
            self.state.quarantine.insert(key, record);
            self.touch(Row::Quarantined(key));
        }
        self.give_up_oldest(at, stamp, id);
    }

    /// Marks records to be offered again; all of the destination where none is named.
    pub(super) fn retry_quarantine(&mut self, name: &str, keys: &[(Position, Ordinal)]) -> Outcome {
        let Some(id) = self.state.registry.destination(name) else {
            return Outcome::Refused(Refusal::Unknown { what: Thing::Destination, name: name.to_owned() });
        };
        let wanted =
            |(_, position, ordinal): &QuarantineKey| keys.is_empty() || keys.contains(&(*position, *ordinal));
        let mut touched = Vec::new();
        for (key, record) in self.state.quarantine.range_mut(of(id)).filter(|(key, _)| wanted(key)) {
            record.retry = true;
            touched.push(*key);
        }
        for key in touched {
            self.touch(Row::Quarantined(key));
        }
        Outcome::Done
    }

    /// Records were offered again: what was accepted goes, what was refused stays with what was said this time.
    pub(super) fn settle_retries(
        &mut self,
        at: Position,
        stamp: Stamp,
        id: DestinationId,
        accepted: &[(Position, Ordinal)],
        refused: Vec<RefusedAgain>,
    ) -> Outcome {
        if !self.state.destinations.contains_key(&id) {
            return Outcome::Refused(Refusal::Unknown { what: Thing::Destination, name: id.to_string() });
        }
        let (mut gone, mut stay) = (0, 0);
        for (position, ordinal) in accepted {
            let key = (id, *position, *ordinal);
            if self.state.quarantine.remove(&key).is_some() {
                gone += 1;
                self.touch(Row::Quarantined(key));
            }
        }
        for RefusedAgain { position, ordinal, reason } in refused {
            let key = (id, position, ordinal);
            if let Some(record) = self.state.quarantine.get_mut(&key) {
                (record.reason, record.at, record.retry) = (reason, stamp.at, false);
                stay += 1;
                self.touch(Row::Quarantined(key));
            }
        }
        if gone + stay > 0 {
            self.count_retries(at, stamp, id, gone, stay);
            // What is said may be longer than what was said before.
            self.give_up_oldest(at, stamp, id);
        }
        Outcome::Done
    }

    fn count_retries(&mut self, at: Position, stamp: Stamp, id: DestinationId, accepted: u64, refused: u64) {
        let is_done = !self.state.quarantined(id).any(|(_, record)| record.retry);
        let Some(destination) = self.state.destinations.get_mut(&id) else { return };
        destination.accepted_again += accepted;
        destination.refused_again += refused;
        let (accepted, refused) = (destination.accepted_again, destination.refused_again);
        let subject = format!("destination/{}", destination.name);
        self.touch(Row::Destination(id));
        if is_done {
            let text = format!(
                "refused records were offered again; so far {accepted} were accepted at last, and {refused} refused again"
            );
            self.tell(at, stamp.at, subject, text);
        }
    }

    fn give_up_oldest(&mut self, at: Position, stamp: Stamp, id: DestinationId) {
        let mut bytes_kept: usize =
            self.state.quarantine.range(of(id)).map(|(_, record)| size(record)).sum::<usize>();
        let mut given_up = 0;
        while bytes_kept > KEPT_BYTES
            && let Some((key, record)) = self.state.quarantine.range(of(id)).next()
        {
            let (key, bytes) = (*key, size(record));
            bytes_kept -= bytes;
            given_up += 1;
            self.state.quarantine.remove(&key);
            self.touch(Row::Quarantined(key));
        }
        let Some(destination) = self.state.destinations.get_mut(&id).filter(|_| given_up > 0) else { return };
        let before = destination.given_up;
        destination.given_up += given_up;
        let (name, total) = (destination.name.clone(), destination.given_up);
        self.touch(Row::Destination(id));
        if before.checked_ilog2() != total.checked_ilog2() {
            let event = Event {
                severity: Severity::Warning,
                subject: format!("destination/{name}"),
                text: format!(
                    "its quarantine is full; refused records given up so far, oldest first: {total}"
                ),
            };
            self.event(at, stamp.at, event);
        }
    }
}

impl State {
    /// What a destination has refused for good, in the order of its keys.
    pub fn quarantined(&self, id: DestinationId) -> impl Iterator<Item = (&QuarantineKey, &Quarantined)> {
        self.quarantine.range(of(id))
    }
}

fn size(record: &Quarantined) -> usize {
    record.record.len() + record.reason.len() + OVERHEAD
}

/// The keys of one destination.
pub(super) fn of(id: DestinationId) -> std::ops::Range<QuarantineKey> {
    (id, Position::ZERO, Ordinal::ZERO)..(DestinationId(id.0 + 1), Position::ZERO, Ordinal::ZERO)
}
