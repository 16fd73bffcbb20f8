//! How forgetting is found out: what a data directory holds is held against itself and against what this node had promised.
//!
//! - `floor <= applied <= last` on disk, the log is contiguous at both ends, and a floor has its checkpoint.
//! - Vote and log do not fall short of the floor file ([`crate::floor`]), which lies beside the database.
//! - Bounded, however long the log is: a hole in its middle is found where it is read.

use model::Position;

use crate::checkpoints::Checkpoints;
use crate::engine::{Engine, EngineError, Family, index_key};
use crate::entry::{ChainHash, Entry};
use crate::floor::Promise;
use crate::ledger::Ledger;
use crate::log::Stored;
use crate::store::{Identity, OpenError};

fn amnesic(reason: impl Into<String>) -> Result<(), OpenError> {
    Err(OpenError::Amnesic { reason: reason.into() })
}

/// Everything that must hold before Raft may see this directory.
pub(crate) fn check<E: Engine>(
    engine: &E,
    identity: &Identity,
    stored: &Stored,
    ledger: &Ledger,
    promised: Option<&Promise>,
    checkpoints: &Checkpoints<E>,
) -> Result<(), OpenError> {
    let floor = stored.ends.floor.map_or(0, |id| id.index.0);
    let last = stored.ends.last.map_or(0, |id| id.index.0);
    let applied = ledger.state().applied_position().0;
    if floor > applied {
        return amnesic(format!("the log begins behind {floor}, the ledger ends at {applied}"));
    }
    if applied > last {
        return amnesic(format!("the ledger ends at {applied}, the log at {last}"));
    }
    check_ends(engine, stored)?;
    // openraft would cut a new one at what is applied, above what is delivered.
    let limit = ledger.state().snapshot_limit().max(Position(floor));
    if floor > 0 && checkpoints.newest(limit).is_none_or(|newest| newest.index.0 < floor) {
        return amnesic(format!("the log begins behind {floor}, and no checkpoint covers that"));
    }
    let Some(promise) = promised else {
        return if stored.ends.last.is_some() || stored.vote.is_some() {
            amnesic("the floor file is missing")
        } else {
            Ok(())
        };
    };
    if promise.store != identity.store {
        return amnesic(format!(
            "the floor file belongs to store {}, the database to {}",
            promise.store, identity.store
        ));
    }
    if runtime::mutant("amnesia-is-overlooked") {
        return Ok(());
    }
    check_promise(engine, stored, promise, floor, last)
}

/// The first and the last entry are there and follow what lies before them: bounded, however long the log is. A hole in
/// the middle is found where it is read.
fn check_ends<E: Engine>(engine: &E, stored: &Stored) -> Result<(), OpenError> {
    let (Some(last), floor) = (stored.ends.last, stored.ends.floor) else { return Ok(()) };
    if floor == Some(last) {
        return Ok(());
    }
    let read = |index: u64| -> Result<Option<(Entry, ChainHash)>, EngineError> {
        let value = engine.get(Family::Entries, &index_key(index))?;
        value.map(|value| Entry::decode(Position(index), &value)).transpose()
    };
    let follows = |index: u64, before: &ChainHash| -> Result<bool, EngineError> {
        Ok(read(index)?.is_some_and(|(entry, chain)| entry.encode(before).1 == chain))
    };
    let first = floor.map_or(stored.first, |floor| floor.index.0 + 1);
    if read(first)?.is_none() {
        return amnesic(format!("the log begins at {first}, but that entry is missing"));
    }
    // Behind a floor that was moved in whole, nothing is known of what lay before.
    let is_known = floor.is_none() || stored.floor_chain != [0; 16];
    if is_known && !follows(first, &stored.floor_chain)? {
        return amnesic(format!("entry {first}, the first of the log, does not follow what lay before it"));
    }
    if last.index.0 > first {
        let before = read(last.index.0 - 1)?;
        let follows_it = match before {
            Some((_, chain)) => follows(last.index.0, &chain)?,
            None => false,
        };
        if !follows_it {
            return amnesic(format!("entry {} does not follow the one before it", last.index));
        }
    }
    Ok(())
}

fn check_promise<E: Engine>(
    engine: &E,
    stored: &Stored,
    promise: &Promise,
    floor: u64,
    last: u64,
) -> Result<(), OpenError> {
    let vote = stored.vote.unwrap_or_default();
    if vote.falls_short_of(&promise.vote) {
        return amnesic(format!(
            "it answered a vote for node {} in term {}, but remembers one for node {} in term {}",
            promise.vote.node, promise.vote.term, vote.node, vote.term
        ));
    }
    let promised = promise.last.index.0;
    if last < promised {
        return amnesic(format!("it acknowledged entry {promised}, but its log ends at {last}"));
    }
    if promised > floor && promise.chain != [0; 16] {
        let value = engine.get(Family::Entries, &index_key(promised))?;
        let chain = match &value {
            Some(value) => Some(Entry::decode(Position(promised), value)?.1),
            None => None,
        };
        if chain != Some(promise.chain) {
            return amnesic(format!("the log up to entry {promised} is not the one it acknowledged"));
        }
    }
    Ok(())
}
