//! The ledger: what `apply` makes of the log.
//!
//! - [`Ledger::apply`] is the only way to change it, and takes committed entries in order; [`prepare`] does the part of it
//!   for which the ledger need not be held.
//! - It is a value without I/O: the [`crate::keeper`] writes its rows to disk behind the entries they cover.
//! - Two ledgers that applied the same entries have the same rows and so the same [`Digest`].

mod apply;
mod configure;
mod delivery;
mod events;
mod fill;
pub(crate) mod prepare;
mod quarantine;
mod revisions;
pub(crate) mod rows;
mod samples;
mod staged;
mod state;

use std::collections::{BTreeSet, HashMap};

use model::Timestamp;
use model::command::Request;

pub use apply::{ApplyError, Body};
use configure::ConfigureParts;
pub use events::LASTING_LOSS;
pub use fill::{Fill, Mark};
use prepare::{Prepared, Read};
use rows::Row;
pub use rows::{DamagedRow, Digest, RowChange};
pub use state::{
    AlarmKey, ClosedGrid, Cluster, Contents, DestinationState, EffectRecord, Effects, End, Grid, LogId,
    LoggedEvent, Membership, QuarantineKey, Quarantined, Reign, RevisionState, Session, Standing,
    StandingAlarm, State, Steady,
};

use crate::outcome::Outcome;

/// The state with the bookkeeping that keeps rows on disk in step with it. A clone shares plants, names and documents.
#[derive(Debug, Default, Clone)]
pub struct Ledger {
    state: State,
    dirty: BTreeSet<Row>,
    digest: Digest,
    hashes: HashMap<Row, u128>,
}

/// One entry being applied.
struct Change<'a> {
    state: &'a mut State,
    dirty: &'a mut BTreeSet<Row>,
}

impl Change<'_> {
    fn touch(&mut self, row: Row) {
        self.dirty.insert(row);
    }
}

impl Ledger {
    /// Applies one committed entry. What cannot be read changes nothing.
    pub fn apply(&mut self, id: LogId, body: &Body) -> Result<Outcome, ApplyError> {
        let read = Read::entry(id, body)?;
        let basis = read.basis(&self.state);
        Ok(self.apply_prepared(read.prepare(basis)?))
    }

    /// Applies one that was prepared for this ledger as it is.
    pub(crate) fn apply_prepared(&mut self, prepared: Prepared) -> Outcome {
        Change { state: &mut self.state, dirty: &mut self.dirty }.entry(prepared)
    }

    /// The state as it is now.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether rows have changed since the last [`Ledger::take_changes`].
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The rows that changed since the last call, as they are now.
    pub fn take_changes(&mut self) -> Vec<RowChange> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty
            .into_iter()
            .map(|row| {
                let value = row.encode(&self.state);
                let key = row.key();
                let before = match &value {
                    Some(value) => self.hashes.insert(row, self.digest.add(&key, value)),
                    None => self.hashes.remove(&row),
                };
                self.digest.remove(before);
                RowChange { key, value }
            })
            .collect()
    }

    /// Every row, for a checkpoint; to be called when nothing is dirty.
    pub fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        assert!(self.dirty.is_empty(), "changes are taken before rows are listed");
        let mut rows: Vec<_> =
            self.hashes.keys().filter_map(|row| Some((row.key(), row.encode(&self.state)?))).collect();
        rows.sort();
        rows
    }

    /// The ledger whose rows these are.
    pub fn from_rows(rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<Self, DamagedRow> {
        let mut ledger = Self::default();
        let mut loader = rows::Loader::default();
        for (key, value) in rows {
            let row = loader.load(&mut ledger.state, &key, &value)?;
            let hash = ledger.digest.add(&key, &value);
            ledger.hashes.insert(row, hash);
        }
        loader.finish(&mut ledger.state);
        Ok(ledger)
    }

    /// Equal on all nodes that have applied the same entries and taken their changes.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

fn standing(request: Request, at: Timestamp, until: Option<End>) -> Standing {
    Standing { principal: request.principal, reason: request.reason, at, until }
}
