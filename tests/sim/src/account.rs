//! What the nodes of a run have shown, and what must hold of it. The judge: it asks no node what is right.
//!
//! While a run goes on:
//! - no two machines may act at once: what a lease promised to an operation holds, whatever becomes of its holder;
//! - one term has one leader, and a new one has everything that was known to be committed in earlier terms;
//! - within one process, terms, what is committed and what is applied only grow;
//! - logs that have the same entry in the same place are the same up to it; what is committed never changes;
//! - ledgers that have applied the same are the same;
//! - `horizon <= applied`, and the horizon lies before every cursor, and no cursor beyond what was delivered;
//! - nobody forgets a push that was acknowledged.
//!
//! At its end:
//! - every position was seen, and holds the same on all nodes that had it;
//! - the pushes of a session are there once each, in order, without a hole, and none that was acknowledged is missing;
//! - each slot of each grid is in exactly one record.

use std::collections::BTreeMap;

use model::{Cursor, GridId, Permit as _, Position, SessionId, Source, Term};
use replication::Leadership;
use store::engine::Engine;
use store::ledger::{Digest, EffectRecord};
use store::{Buffered, ChainHash, LogId, Store};

/// What was found to be wrong, in one sentence.
pub(crate) type Violation = String;

/// Something that a position of the buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fact {
    /// A push that was accepted.
    Push(SessionId, u64),
    /// Slots of a grid in one record, the first and the last of them.
    Slots(GridId, u64, u64),
}

/// What one process has shown last.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    term: Term,
    committed: Position,
    applied: Position,
    /// Committed entries up to here were compared.
    compared: u64,
    /// The buffer was read up to here.
    read: Position,
}

impl Progress {
    /// Everything before this was read from the buffer, as far as it was applied.
    pub(crate) fn read(&self) -> Position {
        self.read
    }
}

/// Everything that is known of a run. Machines are meant by their number, from 0.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Until when an operation of each machine may be acting, and in which term it began.
    promises: BTreeMap<usize, (Term, u64)>,
    leaders: BTreeMap<Term, usize>,
    chains: BTreeMap<LogId, ChainHash>,
    committed: BTreeMap<u64, LogId>,
    digests: BTreeMap<LogId, Digest>,
    content: BTreeMap<Position, Vec<Fact>>,
    acknowledged: BTreeMap<SessionId, u64>,
    /// Everything before this was delivered, if anything was.
    delivered: Option<Position>,
}

impl Account {
    /// A machine holds a live lease at `now`, in milliseconds. `true` if it is the first time in this term.
    pub(crate) fn acts(&mut self, machine: usize, now: u64, held: &Leadership) -> Result<bool, Violation> {
        let until = now.saturating_add(u64::try_from(held.remaining().as_millis()).unwrap_or(u64::MAX));
        let other = self.promises.iter().find(|(other, (_, until))| **other != machine && *until > now);
        if let Some((other, (term, until))) = other {
            return Err(format!(
                "machines {other} and {machine} may act at once: one until {until} in term {term}, one now in term {}",
                held.term()
            ));
        }
        let promised = self.promises.entry(machine).or_insert((held.term(), until));
        *promised = (held.term(), promised.1.max(until));
        match self.leaders.insert(held.term(), machine) {
            None => Ok(true),
            Some(known) if known == machine => Ok(false),
            Some(known) => Err(format!("machines {known} and {machine} both lead in term {}", held.term())),
        }
    }

    /// A machine has given up leadership, all its operations having ended.
    pub(crate) fn gave_up(&mut self, machine: usize) {
        self.promises.remove(&machine);
    }

    /// The one that leads in `term` must have what was committed before.
    pub(crate) fn check_complete<E: Engine>(&self, term: Term, store: &Store<E>) -> Result<(), Violation> {
        let Some((_, last)) = self.committed.last_key_value() else { return Ok(()) };
        let ends = store.log().ends();
        let is_behind = ends.last.is_none_or(|own| own.index < last.index);
        if last.term < term && is_behind {
            return Err(format!(
                "the leader of term {term} has a log to {:?} and {last:?} is committed",
                ends.last
            ));
        }
        Ok(())
    }

    /// Compares what a process shows with what it showed before and with what the others have.
    pub(crate) fn look<E: Engine>(
        &mut self,
        progress: &mut Progress,
        (term, committed): (Term, Position),
        store: &Store<E>,
    ) -> Result<(), Violation> {
        let applied = store.keeper().read(|state| state.applied_position());
        let grows = |what: &str, before: u64, now: u64| match now < before {
            true => Err(format!("{what} went back from {before} to {now} in one process")),
            false => Ok(()),
        };
        grows("the term", progress.term.0, term.0)?;
        grows("what is committed", progress.committed.0, committed.0)?;
        grows("what is applied", progress.applied.0, applied.0)?;
        (progress.term, progress.committed, progress.applied) = (term, committed, applied);
        if let Some(last) = store.log().ends().last {
            self.compare_chain(last, store)?;
        }
        self.compare_committed(progress, store)?;
        self.check_line(store)?;
        self.read_buffer(progress, store)
    }

    /// The order on the one number line.
    fn check_line<E: Engine>(&self, store: &Store<E>) -> Result<(), Violation> {
        let (horizon, applied, cursors) = store.keeper().read(|state| {
            let cursors: Vec<_> = state.destinations.values().map(|destination| destination.cursor).collect();
            (state.horizon, state.applied_position(), cursors)
        });
        let is_beyond = |cursor: &Cursor| self.delivered.is_some_and(|delivered| cursor.position > delivered);
        if horizon > applied {
            return Err(format!("the horizon {horizon} lies beyond what is applied, {applied}"));
        }
        match cursors.iter().find(|cursor| cursor.position <= horizon || is_beyond(cursor)) {
            None => Ok(()),
            Some(cursor) => Err(format!(
                "a cursor stands at {cursor}, with the horizon at {horizon} and delivered up to {:?}",
                self.delivered
            )),
        }
    }

    /// A leader whose cursor stands at `from` has delivered everything before `to`.
    pub(crate) fn delivered(&mut self, from: Position, to: Position) -> Result<(), Violation> {
        let known = *self.delivered.get_or_insert(from);
        if from > known {
            return Err(format!(
                "a leader delivers from {from} on, and what lies between it and {known} was not"
            ));
        }
        self.delivered = Some(known.max(to));
        Ok(())
    }

    fn compare_committed<E: Engine>(
        &mut self,
        progress: &mut Progress,
        store: &Store<E>,
    ) -> Result<(), Violation> {
        let floor = store.log().ends().floor.map_or(0, |floor| floor.index.0);
        for index in progress.compared.max(floor) + 1..=progress.committed.0 {
            // The disk has failed: its process is about to end.
            let Ok(id) = store.log().id_at(Position(index)) else { return Ok(()) };
            // Purged meanwhile, or not here yet: what is committed may be known before.
            let Some(id) = id else { break };
            let known = *self.committed.entry(index).or_insert(id);
            if known != id {
                return Err(format!("{known:?} was committed at {index}, and now it is {id:?}"));
            }
            self.compare_chain(id, store)?;
            progress.compared = index;
        }
        Ok(())
    }

    fn compare_chain<E: Engine>(&mut self, id: LogId, store: &Store<E>) -> Result<(), Violation> {
        let Ok(chain) = store.log().chain_at(id.index) else { return Ok(()) };
        match *self.chains.entry(id).or_insert(chain) == chain {
            true => Ok(()),
            false => Err(format!("two logs have {id:?} and differ before it")),
        }
    }

    /// Reads what was applied since: nothing is given up before it was read.
    pub(crate) fn read_buffer<E: Engine>(
        &mut self,
        progress: &mut Progress,
        store: &Store<E>,
    ) -> Result<(), Violation> {
        let Ok((entries, next)) = store.read_buffer(progress.read, usize::MAX) else { return Ok(()) };
        for entry in entries {
            let (position, facts) = (entry.id.index, facts(&entry)?);
            let known = self.content.entry(position).or_insert_with(|| facts.clone());
            if *known != facts {
                return Err(format!("at {position} one node has {known:?} and another {facts:?}"));
            }
        }
        progress.read = next;
        Ok(())
    }

    /// Compares the ledger of a node with those of the others.
    pub(crate) fn compare_ledger<E: Engine>(&mut self, store: &Store<E>) -> Result<(), Violation> {
        let (Some(at), digest) = store.keeper().digest() else { return Ok(()) };
        match *self.digests.entry(at).or_insert(digest) == digest {
            true => Ok(()),
            false => Err(format!("two ledgers that have applied {at:?} differ")),
        }
    }

    /// A push was answered with acceptance, now or before.
    pub(crate) fn acknowledged(&mut self, session: SessionId, sequence: u64) {
        let last = self.acknowledged.entry(session).or_default();
        *last = sequence.max(*last);
    }

    /// How many pushes were acknowledged.
    pub(crate) fn pushes(&self) -> u64 {
        self.acknowledged.values().sum()
    }

    /// How many terms had a leader.
    pub(crate) fn reigns(&self) -> usize {
        self.leaders.len()
    }

    /// How many records of polled slots there are.
    pub(crate) fn slots(&self) -> usize {
        let is_slots = |fact: &&Fact| matches!(fact, Fact::Slots(..));
        self.content.values().flatten().filter(is_slots).count()
    }

    /// What must hold of a run that has ended.
    pub(crate) fn settle(&self) -> Result<(), Violation> {
        let last = self.content.last_key_value().map_or(0, |(position, _)| position.0);
        if let Some(hole) = (1..=last).find(|index| !self.content.contains_key(&Position(*index))) {
            return Err(format!("position {hole} was applied by nobody who was looked at"));
        }
        self.settle_pushes()?;
        self.settle_slots()
    }

    fn settle_pushes(&self) -> Result<(), Violation> {
        let mut there: BTreeMap<SessionId, u64> = BTreeMap::new();
        for (position, fact) in self.facts() {
            let Fact::Push(session, sequence) = fact else { continue };
            let last = there.entry(session).or_default();
            if sequence != *last + 1 {
                return Err(format!("at {position} push {sequence} of session {session} follows {last}"));
            }
            *last = sequence;
        }
        for (session, acknowledged) in &self.acknowledged {
            let last = there.get(session).copied().unwrap_or(0);
            if last < *acknowledged {
                return Err(format!(
                    "push {acknowledged} of session {session} was acknowledged, and the last one there is {last}"
                ));
            }
        }
        Ok(())
    }

    fn settle_slots(&self) -> Result<(), Violation> {
        let mut next: BTreeMap<GridId, u64> = BTreeMap::new();
        for (position, fact) in self.facts() {
            let Fact::Slots(grid, first, last) = fact else { continue };
            let expected = next.entry(grid).or_default();
            if first != *expected || last < first {
                return Err(format!(
                    "at {position} is a record of slots {first} to {last} of grid {grid}, expected {expected} next"
                ));
            }
            *expected = last + 1;
        }
        Ok(())
    }

    fn facts(&self) -> impl Iterator<Item = (Position, Fact)> {
        self.content.iter().flat_map(|(position, facts)| facts.iter().map(|fact| (*position, *fact)))
    }
}

/// What an entry of the buffer holds: gaps first, as the slots in them lie before those of the batches.
fn facts(entry: &Buffered) -> Result<Vec<Fact>, Violation> {
    let gap = |record: &EffectRecord| match record {
        EffectRecord::Gap { grid, first, last, .. } => Some(Fact::Slots(*grid, *first, *last)),
        _ => None,
    };
    let mut facts: Vec<Fact> = entry.effects.records.iter().filter_map(gap).collect();
    let Some(command) = &entry.command else { return Ok(facts) };
    let opened = wire::entry::open(command.clone())
        .map_err(|error| format!("the command at {} cannot be read: {error}", entry.id.index))?;
    for (number, batch) in (0_u32..).zip(opened.payloads.iter()) {
        if entry.effects.refused.contains(&number) {
            continue;
        }
        facts.push(match batch.header.source {
            Source::Pushed { session, sequence } => Fact::Push(session, sequence),
            Source::Polled { grid, slot, .. } => Fact::Slots(grid, slot, slot),
        });
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(facts: &[Fact]) -> Account {
        let content = (1..).map(Position).zip(facts.iter().map(|fact| vec![*fact])).collect();
        Account { content, ..Account::default() }
    }

    #[test]
    fn a_push_that_is_there_twice_or_missing_or_out_of_order_is_found() {
        let push = |sequence| Fact::Push(SessionId::from(7), sequence);
        assert_eq!(account(&[push(1), push(2)]).settle(), Ok(()));
        for wrong in [[push(1), push(1)], [push(1), push(3)], [push(2), push(1)]] {
            assert!(account(&wrong).settle().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_acknowledged_push_that_is_nowhere_is_found() {
        let mut account = account(&[Fact::Push(SessionId::from(7), 1)]);
        account.acknowledged(SessionId::from(7), 1);
        assert_eq!(account.settle(), Ok(()));
        account.acknowledged(SessionId::from(7), 2);
        assert!(account.settle().is_err());
    }

    #[test]
    fn a_slot_in_two_records_or_in_none_is_found() {
        let slots = |first, last| Fact::Slots(GridId(1), first, last);
        assert_eq!(account(&[slots(0, 3), slots(4, 4)]).settle(), Ok(()));
        for wrong in [[slots(0, 3), slots(3, 3)], [slots(0, 3), slots(5, 5)], [slots(1, 1), slots(2, 2)]] {
            assert!(account(&wrong).settle().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_no_leader_delivered_is_found() {
        let mut account = Account::default();
        assert_eq!(account.delivered(Position(3), Position(9)), Ok(()));
        assert_eq!(account.delivered(Position(5), Position(8)), Ok(()), "some of it twice");
        assert_eq!(account.delivered(Position(9), Position(12)), Ok(()));
        assert!(account.delivered(Position(13), Position(15)).is_err());
    }

    #[test]
    fn a_position_that_nobody_has_shown_is_found() {
        let mut account = account(&[Fact::Push(SessionId::from(7), 1); 1]);
        account.content.insert(Position(3), Vec::new());
        assert!(account.settle().is_err());
    }
}
