//! What the nodes of a run have shown, and what must hold of it. The judge: it asks no node what is right.
//!
//! While a run goes on:
//! - no two machines may act at once: what a lease promised to an operation holds, whatever becomes of its holder;
//! - one term has one leader, and a new one has everything that was known to be committed in earlier terms;
//! - within one process, terms, what is committed and what is applied only grow;
//! - logs that have the same entry in the same place are the same up to it; what is committed never changes;
//! - ledgers that have applied the same are the same;
//! - `horizon <= applied`, and the horizon lies before every cursor;
//! - no cursor passes a record that the destination was not sent, and what it was sent twice is the same to the byte;
//! - no two machines ask the device at one time.
//!
//! At its end:
//! - every position was seen, and holds the same on all nodes that had it;
//! - the pushes of a session are there once each, in order, without a hole; the messages of a pusher are in order, without a
//!   hole, and none that was acknowledged is missing;
//! - each slot of each grid is in exactly one record, and what was read in it is what the device answered, once;
//! - everything was delivered, under its key.

use std::collections::{BTreeMap, BTreeSet};

use model::{Cursor, GridId, Ordinal, Permit as _, Position, Reading, SessionId, Source, Term, Value};
use replication::Leadership;
use store::engine::Engine;
use store::ledger::{Digest, EffectRecord};
use store::{Buffered, ChainHash, LogId, Store};
use wire::EncodedBatch;

use crate::archive::Delivered;
use crate::pushers::Message;

/// What was found to be wrong, in one sentence.
pub(crate) type Violation = String;

/// Something that a position of the buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fact {
    /// A push that was accepted: its number in the session.
    Push(SessionId, u64),
    /// What it holds.
    Message(Message),
    /// Slots of a grid in one record, the first and the last of them.
    Slots(GridId, u64, u64),
    /// A value that was read, by the number of the answer which it came in.
    Read(u32),
}

/// What a position of the buffer holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Content {
    facts: Vec<Fact>,
    /// Where the records stand that the destination is to be sent.
    records: Vec<Cursor>,
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

/// Everything that is known of a run. Machines are meant by their number, from 0.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Until when an operation of each machine may be acting, and in which term it began.
    promises: BTreeMap<usize, (Term, u64)>,
    leaders: BTreeMap<Term, usize>,
    chains: BTreeMap<LogId, ChainHash>,
    committed: BTreeMap<u64, LogId>,
    digests: BTreeMap<LogId, Digest>,
    content: BTreeMap<Position, Content>,
    /// The last message of each pusher that was acknowledged.
    acknowledged: BTreeMap<u32, u32>,
    /// Where each record stands that the destination was sent, and the record.
    received: BTreeMap<Cursor, String>,
    /// Where records stand that it was not.
    owed: BTreeSet<Cursor>,
    /// Requests at the device: which machine asks.
    asking: BTreeMap<u32, usize>,
    asked: u32,
    /// Which of them were answered with values.
    answered: BTreeSet<u32>,
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
        self.read_buffer(progress, store)?;
        self.check_line(store)
    }

    /// The order on the one number line.
    fn check_line<E: Engine>(&self, store: &Store<E>) -> Result<(), Violation> {
        let (horizon, applied, cursors) = store.keeper().read(|state| {
            let cursors: Vec<_> = state.destinations.values().map(|destination| destination.cursor).collect();
            (state.horizon, state.applied_position(), cursors)
        });
        let first_owed = self.owed.first();
        let is_beyond = |cursor: &Cursor| first_owed.is_some_and(|owed| cursor > owed);
        if horizon > applied {
            return Err(format!("the horizon {horizon} lies beyond what is applied, {applied}"));
        }
        match cursors.iter().find(|cursor| cursor.position <= horizon || is_beyond(cursor)) {
            None => Ok(()),
            Some(cursor) => Err(format!(
                "a cursor stands at {cursor}, with the horizon at {horizon}, and the destination was not sent {first_owed:?}"
            )),
        }
    }

    /// The destination was sent something.
    pub(crate) fn received(&mut self, delivered: Delivered) -> Result<(), Violation> {
        let Delivered { after, upto, records } = delivered;
        for (at, record) in records {
            if at < after || at >= upto {
                return Err(format!("a delivery from {after} to {upto} holds a record at {at}"));
            }
            self.owed.remove(&at);
            let known = self.received.entry(at).or_insert_with(|| record.clone());
            if *known != record {
                return Err(format!("the record at {at} was {known}, and now it is {record}"));
            }
        }
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
    fn read_buffer<E: Engine>(&mut self, progress: &mut Progress, store: &Store<E>) -> Result<(), Violation> {
        let Ok((entries, next)) = store.read_buffer(progress.read, usize::MAX) else { return Ok(()) };
        for entry in entries {
            let (position, content) = (entry.id.index, content(&entry)?);
            match self.content.get(&position) {
                Some(known) if *known == content => {}
                Some(known) => {
                    return Err(format!("at {position} one node has {known:?} and another {content:?}"));
                }
                None => {
                    let is_owed = |at: &&Cursor| !self.received.contains_key(*at);
                    self.owed.extend(content.records.iter().filter(is_owed));
                    self.content.insert(position, content);
                }
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

    /// A message was acknowledged, and with it all before it.
    pub(crate) fn acknowledged(&mut self, message: Message) {
        let last = self.acknowledged.entry(message.pusher).or_default();
        *last = message.number.max(*last);
    }

    /// How many messages were acknowledged.
    pub(crate) fn pushes(&self) -> u64 {
        self.acknowledged.values().copied().map(u64::from).sum()
    }

    /// A request of a machine has come to the device; gives its number.
    pub(crate) fn asks(&mut self, machine: usize) -> (u32, Result<(), Violation>) {
        self.asked += 1;
        let other = self.asking.values().find(|other| **other != machine);
        let checked = match other {
            Some(other) => Err(format!("machines {other} and {machine} ask the device at one time")),
            None => Ok(()),
        };
        self.asking.insert(self.asked, machine);
        (self.asked, checked)
    }

    /// The device is done with a request; with `is_read`, by answering with values.
    pub(crate) fn ends(&mut self, number: u32, is_read: bool) {
        self.asking.remove(&number);
        if is_read {
            self.answered.insert(number);
        }
    }

    /// How many requests the device has answered with values.
    pub(crate) fn reads(&self) -> usize {
        self.answered.len()
    }

    /// How many records the destination was sent.
    pub(crate) fn records(&self) -> usize {
        self.received.len()
    }

    /// Whether the destination was sent all that is known to be in the log.
    pub(crate) fn owes_nothing(&self) -> bool {
        self.owed.is_empty()
    }

    /// How many terms had a leader.
    pub(crate) fn reigns(&self) -> usize {
        self.leaders.len()
    }

    /// How many records of polled slots there are.
    pub(crate) fn slots(&self) -> usize {
        self.facts().filter(|(_, fact)| matches!(fact, Fact::Slots(..))).count()
    }

    /// What must hold of a run that has ended.
    pub(crate) fn settle(&self) -> Result<(), Violation> {
        let last = self.content.last_key_value().map_or(0, |(position, _)| position.0);
        if let Some(hole) = (1..=last).find(|index| !self.content.contains_key(&Position(*index))) {
            return Err(format!("position {hole} was applied by nobody who was looked at"));
        }
        self.settle_pushes()?;
        self.settle_messages()?;
        self.settle_slots()?;
        self.settle_reads()
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
        Ok(())
    }

    /// A message that was sent again may be there again.
    fn settle_messages(&self) -> Result<(), Violation> {
        let mut there: BTreeMap<u32, u32> = BTreeMap::new();
        for (position, fact) in self.facts() {
            let Fact::Message(Message { pusher, number }) = fact else { continue };
            let last = there.entry(pusher).or_default();
            if number > *last + 1 {
                return Err(format!("at {position} message {number} of pusher {pusher} follows {last}"));
            }
            *last = number.max(*last);
        }
        for (pusher, acknowledged) in &self.acknowledged {
            let last = there.get(pusher).copied().unwrap_or(0);
            if last < *acknowledged {
                return Err(format!(
                    "message {acknowledged} of pusher {pusher} was acknowledged, and the last one there is {last}"
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

    fn settle_reads(&self) -> Result<(), Violation> {
        let mut before = 0;
        for (position, fact) in self.facts() {
            let Fact::Read(number) = fact else { continue };
            if number <= before || !self.answered.contains(&number) {
                return Err(format!(
                    "at {position} is a value of answer {number}, which comes after {before} or was never given"
                ));
            }
            before = number;
        }
        Ok(())
    }

    fn facts(&self) -> impl Iterator<Item = (Position, Fact)> {
        self.content
            .iter()
            .flat_map(|(position, content)| content.facts.iter().map(|fact| (*position, *fact)))
    }
}

/// What an entry of the buffer holds: records of slots first, in their order.
fn content(entry: &Buffered) -> Result<Content, Violation> {
    let position = entry.id.index;
    let mut content = Content::default();
    for (offset, record) in (0..).zip(&entry.effects.records) {
        if let EffectRecord::Gap { grid, first, last, .. } = record {
            content.facts.push(Fact::Slots(*grid, *first, *last));
            let ordinal = Ordinal(Ordinal::FIRST_EFFECT.0 + offset);
            content.records.push(Cursor { position, ordinal });
        }
    }
    let Some(command) = &entry.command else { return Ok(content) };
    let opened = wire::entry::open(command.clone())
        .map_err(|error| format!("the command at {position} cannot be read: {error}"))?;
    let mut next = 0;
    for (number, batch) in (0_u32..).zip(opened.payloads.iter()) {
        let first = next;
        next += batch.header.count;
        if entry.effects.refused.contains(&number) {
            continue;
        }
        let records = (first..next).map(|ordinal| Cursor { position, ordinal: Ordinal(ordinal) });
        content.records.extend(records);
        content.facts.extend(facts(batch)?);
    }
    // A gap may lie between two batches of one entry.
    content.facts.sort_by_key(|fact| match fact {
        Fact::Slots(grid, first, _) => (false, Some((*grid, *first))),
        _ => (true, None),
    });
    Ok(content)
}

/// What a batch says.
fn facts(batch: &EncodedBatch) -> Result<Vec<Fact>, Violation> {
    let mut facts = vec![match batch.header.source {
        Source::Pushed { session, sequence } => Fact::Push(session, sequence),
        Source::Polled { grid, slot, .. } => Fact::Slots(grid, slot, slot),
    }];
    let decoded = batch.decode().map_err(|error| format!("a batch cannot be read: {error}"))?;
    let of = |reading: &Reading| match reading {
        Reading::Good(Value::U64(value)) => Some(Fact::Message(Message::from_value(*value))),
        Reading::Good(Value::U32(number)) => Some(Fact::Read(*number)),
        _ => None,
    };
    facts.extend(decoded.samples().iter().filter_map(|sample| of(&sample.reading)));
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(facts: &[Fact]) -> Account {
        let content = |fact: &Fact| Content { facts: vec![*fact], records: Vec::new() };
        let content = (1..).map(Position).zip(facts.iter().map(content)).collect();
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
    fn a_message_may_be_there_twice_and_none_before_another_or_nowhere_if_it_was_acknowledged() {
        let message = |number| Message { pusher: 7, number };
        let of = |numbers: &[u32]| -> Account {
            let facts: Vec<Fact> = numbers.iter().map(|number| Fact::Message(message(*number))).collect();
            account(&facts)
        };
        let mut twice = of(&[1, 2, 1, 2]);
        twice.acknowledged(message(2));
        assert_eq!(twice.settle(), Ok(()));
        twice.acknowledged(message(3));
        assert!(twice.settle().is_err());
        assert!(of(&[1, 3]).settle().is_err());
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
    fn a_value_that_the_device_never_gave_or_gave_once_is_found() {
        let read = |numbers: [u32; 2]| {
            let mut account = account(&numbers.map(Fact::Read));
            account.answered.extend([1, 2]);
            account.settle()
        };
        assert_eq!(read([1, 2]), Ok(()));
        for wrong in [[1, 1], [2, 1], [2, 3]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn two_machines_that_ask_at_one_time_are_found() {
        let mut account = Account::default();
        let (first, checked) = account.asks(0);
        assert_eq!(checked, Ok(()));
        assert_eq!(account.asks(0).1, Ok(()), "one may ask twice");
        assert!(account.asks(1).1.is_err());
        account.ends(first, true);
        assert!(account.asks(1).1.is_err(), "its second request is not answered yet");
        assert_eq!(account.reads(), 1);
    }

    #[test]
    fn a_record_that_changes_or_lies_outside_of_its_delivery_is_found() {
        let at = |position| Cursor::at(Position(position));
        let delivered = |position, record: &str| Delivered {
            after: at(3),
            upto: at(9),
            records: vec![(at(position), record.to_owned())],
        };
        let mut account = Account { owed: [at(4), at(5)].into(), ..Account::default() };
        assert_eq!(account.received(delivered(4, "four")), Ok(()));
        assert_eq!(account.received(delivered(4, "four")), Ok(()), "twice");
        assert!(account.received(delivered(4, "five")).is_err());
        assert!(account.received(delivered(9, "nine")).is_err());
        assert!(!account.owes_nothing());
        assert_eq!(account.received(delivered(5, "five")), Ok(()));
        assert!(account.owes_nothing());
    }

    #[test]
    fn a_position_that_nobody_has_shown_is_found() {
        let mut account = account(&[Fact::Push(SessionId::from(7), 1)]);
        account.content.insert(Position(3), Content::default());
        assert!(account.settle().is_err());
    }
}
