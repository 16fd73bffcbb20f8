//! Quarantine: records that a destination refused for good, set aside where an operator can see and retry them.
//!
//! - Bounded in bytes for each destination, so that one that refuses everything cannot fill the disk of every node: at
//!   the bound the oldest are given up. They are counted, and an event says so at first and whenever their number has
//!   doubled. It is no record to be delivered, because the destination might refuse that, too, and so for ever.

use model::command::{Event, Rejection, Severity, Stamp};
use model::ids::DestinationId;
use model::{Ordinal, Position};

use super::Change;
use super::rows::Row;
use super::state::{QuarantineKey, Quarantined};

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

fn size(record: &Quarantined) -> usize {
    record.record.len() + record.reason.len() + OVERHEAD
}

/// The keys of one destination.
pub(super) fn of(id: DestinationId) -> std::ops::Range<QuarantineKey> {
    (id, Position::ZERO, Ordinal::ZERO)..(DestinationId(id.0 + 1), Position::ZERO, Ordinal::ZERO)
}
