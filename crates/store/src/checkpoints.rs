//! The checkpoints of this disk: which there are, their files, and which of them may go.
//!
//! - One is listed when its file and all its pages are durable. At most [`MOST`] are kept: where there are more, the one
//!   goes whose absence widens the spacing least.
//! - The one that covers the floor, the newest that may be a snapshot and the newest of this node's own are never removed.
//!   What was received above that stays while somebody may still install it.
//! - None that is listed by an opening lies above the ledger: what was received and not installed is not this node's, and
//!   what it cut itself and then forgot comes again.
//! - Files are written and removed by one task (the keeper's); what it had no time to remove goes at the next opening.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use model::Position;

use crate::checkpoint::paged::{Paged, is_page_name};
use crate::checkpoint::{Checkpoint, CheckpointHeader};
use crate::engine::{Engine, EngineError};
use crate::ledger::LogId;

/// Checkpoints on a disk, at most.
pub(crate) const MOST: usize = 64;

/// Owns the files of checkpoints and their pages.
pub(crate) struct Checkpoints<E> {
    engine: Arc<E>,
    /// Oldest first.
    listed: Mutex<Vec<Paged>>,
}

impl<E: Engine> Checkpoints<E> {
    /// Lists what is there, whole, and not above what is `applied`. One with a page missing was being removed.
    pub(crate) fn open(engine: Arc<E>, applied: Position) -> Result<Self, EngineError> {
        let names: BTreeSet<String> = engine.list_files()?.into_iter().collect();
        let mut listed = Vec::new();
        for name in names.iter().filter(|name| Checkpoint::is_file_name(name)) {
            let Some(file) = engine.read_file(name)? else { continue };
            let paged = Paged::decode(&file)?;
            if paged.header.at.index <= applied && paged.pages().all(|page| names.contains(&page)) {
                listed.push(paged);
            }
        }
        listed.sort_by_key(|paged| paged.header.at.index);
        Ok(Self { engine, listed: Mutex::new(listed) })
    }

    fn listed(&self) -> MutexGuard<'_, Vec<Paged>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest one at or below `limit`.
    pub(crate) fn newest(&self, limit: Position) -> Option<LogId> {
        self.listed().iter().rev().map(|paged| paged.header.at).find(|at| at.index <= limit)
    }

    /// The newest one at or below `limit`, and its bytes as they travel.
    pub(crate) fn read_newest(
        &self,
        limit: Position,
    ) -> Result<Option<(CheckpointHeader, Bytes)>, EngineError> {
        loop {
            let newest = self.listed().iter().rev().find(|paged| paged.header.at.index <= limit).cloned();
            let Some(paged) = newest else { return Ok(None) };
            if let Some(bytes) = paged.join(|page| self.engine.read_file(page))? {
                return Ok(Some((paged.header, bytes)));
            }
            // It went while it was read, because there is a newer one by now.
            let at = paged.header.at;
            if self.newest(limit) == Some(at) {
                return Err(EngineError::Damaged(format!(
                    "a page of {} is missing",
                    Checkpoint::file_name(at)
                )));
            }
        }
    }

    /// Writes a checkpoint and lists it: its pages first, so that no file names one that is not there.
    pub(crate) async fn write(&self, checkpoint: &Checkpoint) -> Result<(), EngineError> {
        let (paged, pages) = Paged::split(checkpoint);
        let known: BTreeSet<String> = self.listed().iter().flat_map(Paged::pages).collect();
        for (name, page) in pages {
            if !known.contains(&name) {
                self.engine.write_file(&name, page).await?;
            }
        }
        let at = paged.header.at;
        self.engine.write_file(&Checkpoint::file_name(at), paged.encode()).await?;
        let mut listed = self.listed();
        listed.retain(|known| known.header.at != at);
        listed.push(paged);
        listed.sort_by_key(|paged| paged.header.at.index);
        Ok(())
    }

    /// Removes those that a newer one at or below the durable `floor` replaces.
    pub(crate) async fn remove_below(&self, floor: Position) -> Result<(), EngineError> {
        let old: Vec<LogId> = {
            let mut listed = self.listed();
            let covering = listed.iter().rposition(|paged| paged.header.at.index <= floor);
            listed.drain(..covering.unwrap_or(0)).map(|paged| paged.header.at).collect()
        };
        self.remove(&old).await
    }

    /// Makes those up to `applied` at most [`MOST`]: one above it was received, and may be about to be installed. `floor` is
    /// where the log begins, no snapshot lies above `limit`.
    pub(crate) async fn thin(
        &self,
        floor: Position,
        limit: Position,
        applied: Position,
    ) -> Result<(), EngineError> {
        let surplus: Vec<LogId> = {
            let mut listed = self.listed();
            let mut surplus = Vec::new();
            loop {
                let positions = listed.iter().map(|paged| paged.header.at.index);
                let positions: Vec<Position> = positions.take_while(|at| *at <= applied).collect();
                let Some(place) = surplus_of(&positions, floor, limit, MOST) else { break surplus };
                surplus.push(listed.remove(place).header.at);
            }
        };
        self.remove(&surplus).await
    }

    /// Removes these, which nobody needs.
    pub(crate) async fn forget(&self, at: &[LogId]) -> Result<(), EngineError> {
        self.listed().retain(|paged| !at.contains(&paged.header.at));
        self.remove(at).await
    }

    /// Removes files that belong to no listed checkpoint.
    pub(crate) async fn remove_leftovers(&self) -> Result<(), EngineError> {
        let needed: BTreeSet<String> = {
            let listed = self.listed();
            let files = listed.iter().map(|paged| Checkpoint::file_name(paged.header.at));
            listed.iter().flat_map(Paged::pages).chain(files).collect()
        };
        for name in self.engine.list_files()? {
            if (is_page_name(&name) || Checkpoint::is_file_name(&name)) && !needed.contains(&name) {
                self.engine.remove_file(&name).await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, unlisted: &[LogId]) -> Result<(), EngineError> {
        for at in unlisted {
            self.engine.remove_file(&Checkpoint::file_name(*at)).await?;
        }
        // The file first, then the pages that nobody else names.
        if unlisted.is_empty() { Ok(()) } else { self.remove_leftovers().await }
    }
}

/// Which checkpoint to remove if there are more than `most`: the one whose neighbours are closest to each other.
fn surplus_of(at: &[Position], floor: Position, limit: Position, most: usize) -> Option<usize> {
    if at.len() <= most {
        return None;
    }
    let snapshot = at.iter().rposition(|at| *at <= limit);
    let may_go = |place: &usize| at[*place] > floor && Some(*place) != snapshot;
    let gap = |place: &usize| at[place + 1].0 - at[place - 1].0;
    (1..at.len() - 1).filter(may_go).min_by_key(gap)
}

#[cfg(test)]
mod tests {
    use model::Term;

    use super::*;
    use crate::engine::sim::{SimDisk, SimEngine};
    use crate::ledger::Ledger;

    fn positions(at: &[u64]) -> Vec<Position> {
        at.iter().copied().map(Position).collect()
    }

    #[test]
    fn few_checkpoints_are_all_kept() {
        assert_eq!(surplus_of(&positions(&[1, 2, 3]), Position(1), Position(1), 3), None);
    }

    #[test]
    fn the_one_that_widens_the_spacing_least_goes() {
        let at = positions(&[10, 30, 40, 45, 80]);
        assert_eq!(surplus_of(&at, Position(10), Position(10), 4), Some(2), "40 lies between 30 and 45");
    }

    #[test]
    fn floor_snapshot_and_newest_stay() {
        let at = positions(&[10, 11, 12, 13]);
        assert_eq!(surplus_of(&at, Position(10), Position(11), 3), Some(2));
        assert_eq!(surplus_of(&at, Position(11), Position(12), 3), None, "nothing else is left");
    }

    #[test]
    fn a_long_stall_leaves_them_evenly_spread() {
        let mut at = vec![Position(0)];
        for next in 1..=10_000 {
            at.push(Position(next));
            while let Some(place) = surplus_of(&at, Position(0), Position(0), MOST) {
                at.remove(place);
            }
        }
        let widest = at.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or(0);
        assert_eq!(at.len(), MOST);
        assert!(widest <= 4 * 10_000 / MOST as u64, "the widest spacing is {widest}");
    }

    #[tokio::test]
    async fn what_was_received_is_not_thinned_away_before_it_is_installed() {
        let engine = SimEngine::open(&SimDisk::new(7)).expect("a fresh disk opens");
        let checkpoints = Checkpoints::open(Arc::new(engine), Position::ZERO).expect("there is none");
        let own = (1..=MOST as u64).map(|number| number * 10);
        let applied = Position(MOST as u64 * 10);
        let received = applied.next();
        for index in own.chain([received.0, received.0 + 1]) {
            let at = LogId { term: Term(1), index: Position(index) };
            let checkpoint = Checkpoint::of(&Ledger::default(), at, [0; 16]);
            checkpoints.write(&checkpoint).await.expect("the disk works");
        }
        checkpoints.thin(Position(0), applied, applied).await.expect("the disk works");
        let newest = checkpoints.newest(received).map(|at| at.index);
        assert_eq!(newest, Some(received), "although its neighbours are the closest");
    }
}
