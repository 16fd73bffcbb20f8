//! Delivery: cursors move forward and the buffer is truncated. What was refused goes to [`super::quarantine`].
//!
//! - `horizon <= every cursor`, required or optional, unless an overrun moved the horizon and said so in a record.
//! - A cursor never moves back here, and never behind what has been applied.

use model::command::{Rejection, Stamp};
use model::ids::DestinationId;
use model::{Cause, Cursor, Position};

use super::Change;
use super::rows::Row;
use super::state::EffectRecord;
use crate::outcome::{Outcome, Refusal, Thing};

impl Change<'_> {
    pub(super) fn acknowledge(
        &mut self,
        at: Position,
        stamp: Stamp,
        id: DestinationId,
        next: Cursor,
        rejected: Vec<Rejection>,
    ) -> Outcome {
        let limit = Cursor::at(self.state.applied_position().next());
        let Some(destination) = self.state.destinations.get_mut(&id) else {
            return Outcome::Refused(Refusal::Unknown { what: Thing::Destination, name: id.to_string() });
        };
        if next > destination.cursor || runtime::mutant("cursor-moves-back") {
            destination.cursor = next.min(limit);
            self.touch(Row::Destination(id));
        }
        self.set_aside(at, stamp, id, rejected);
        Outcome::Done
    }

    pub(super) fn truncate(
        &mut self,
        at: Position,
        below: Position,
        overrun: Option<&[(DestinationId, u64)]>,
    ) -> Outcome {
        let below = below.min(self.state.applied_position().next());
        let behind: Vec<DestinationId> = self
            .state
            .destinations
            .iter()
            .filter(|(_, destination)| destination.cursor.position < below)
            .map(|(id, _)| *id)
            .collect();
        if overrun.is_none()
            && let Some(id) = behind.first()
            && !runtime::mutant("truncation-passes-a-cursor")
        {
            return Outcome::Refused(Refusal::Horizon { below, destination: *id });
        }
        let lost = |id: DestinationId| {
            overrun
                .unwrap_or_default()
                .iter()
                .find(|(lost, _)| *lost == id)
                .map_or(0, |(_, samples)| *samples)
        };
        for id in behind {
            let destination = self.state.destinations.get_mut(&id).expect("its key was just listed");
            let record = EffectRecord::Expiry {
                destination: destination.name.clone(),
                id,
                from: destination.cursor,
                to: Cursor::at(below),
                cause: Cause::DiskFull,
                samples: lost(id),
            };
            destination.cursor = Cursor::at(below);
            self.touch(Row::Destination(id));
            self.record(at, record);
        }
        let horizon = Position(below.0.saturating_sub(1));
        if horizon > self.state.horizon {
            self.state.horizon = horizon;
            self.touch(Row::Cluster);
            self.forget_below_horizon();
        }
        Outcome::Done
    }

    /// Drops what only positions at or below the horizon need.
    fn forget_below_horizon(&mut self) {
        let horizon = self.state.horizon;
        let kept = self.state.effects.split_off(&horizon.next());
        for position in std::mem::replace(&mut self.state.effects, kept).into_keys() {
            self.touch(Row::Effects(position));
        }
        for position in self.state.fill.forget_below(horizon) {
            self.touch(Row::Mark(position));
        }
        // The reign in force just above the horizon is still needed.
        let needed = self.state.reigns.partition_point(|reign| reign.position <= horizon).saturating_sub(1);
        if needed > 0 {
            self.state.reigns.drain(..needed);
            self.touch(Row::Reigns);
        }
        self.forget_old_revisions();
    }
}
