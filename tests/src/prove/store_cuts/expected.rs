//! What may be found after a power cut, from what the writer said. Knows no disk.
//!
//! - Everything durable goes through one queue: what is found is the log and the vote as they were behind one of the
//!   operations, at or behind the last one that was acknowledged. Which one the disk kept is not known before.
//! - What was found once is relied on from then on.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::said::{Found, Held, Operation, Said, Voted};

pub(super) const DURABILITY: &str = "store-durability";
pub(super) const VOTE: &str = "store-vote";
pub(super) const OPENS: &str = "store-opens";
pub(super) const LEDGER: &str = "store-ledger";
/// In the order in which they are told.
pub(super) const CHECKS: [&str; 4] = [DURABILITY, VOTE, OPENS, LEDGER];

/// A check that does not hold, and what was expected and seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) check: &'static str,
    pub(super) text: String,
}

impl Wrong {
    pub(super) fn new(check: &'static str, text: impl Into<String>) -> Self {
        Self { check, text: text.into() }
    }
}

/// The log and the vote.
#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    vote: Option<Voted>,
    floor: u64,
    log: BTreeMap<u64, Held>,
}

/// One data directory, across all cuts.
#[derive(Debug, Default)]
pub(super) struct Expected {
    store: Option<String>,
    /// Surely on the disk.
    durable: State,
    /// Begun and not acknowledged, oldest first.
    pending: VecDeque<Begun>,
    /// When a writer at work lost its power last, in monotonic nanoseconds.
    dark_since_ns: u64,
    counts: Counts,
}

/// An operation that was begun.
#[derive(Debug)]
struct Begun {
    number: u64,
    operation: Operation,
    /// When, in monotonic nanoseconds.
    at_ns: u64,
}

/// What was put to the test.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Entries that were acknowledged.
    pub(super) entries: u64,
    /// Votes that were acknowledged.
    pub(super) votes: u64,
    /// Truncations that were covered by an acknowledgement.
    pub(super) truncations: u64,
    /// Purges that were covered by an acknowledgement.
    pub(super) purges: u64,
    /// Cuts that took something that was begun before.
    pub(super) lossy: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        self.entries += other.entries;
        self.votes += other.votes;
        self.truncations += other.truncations;
        self.purges += other.purges;
        self.lossy += other.lossy;
    }
}

impl Expected {
    /// Takes note of what a writer said while it worked.
    pub(super) fn hear(&mut self, said: Said) {
        match said {
            Said::Begins(number, operation, at_ns) => {
                self.pending.push_back(Begun { number, operation, at_ns });
            }
            Said::Acknowledged(number, _) => self.acknowledged(number),
            Said::Opens {} | Said::Found(_) | Said::MakesRoom {} | Said::Failed(_) => {}
        }
    }

    /// The power of a writer at work goes. What it begins from now on cannot be kept, and was not at stake.
    pub(super) fn lose_power(&mut self, at_ns: u64) {
        self.dark_since_ns = at_ns;
    }

    /// Whether something was begun within this time, in monotonic nanoseconds, that the store acknowledges when it is
    /// synced, and has not.
    pub(super) fn is_under_way(&self, within_ns: &Range<u64>) -> bool {
        // What is taken back or purged may be on the disk, and nobody says so.
        let is_told = |operation: &Operation| matches!(operation, Operation::Vote(_) | Operation::Append(..));
        self.pending.iter().any(|begun| within_ns.contains(&begun.at_ns) && is_told(&begun.operation))
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    fn acknowledged(&mut self, number: u64) {
        while self.pending.front().is_some_and(|begun| begun.number <= number)
            && let Some(Begun { operation, .. }) = self.pending.pop_front()
        {
            match &operation {
                Operation::Append(_, entries) => self.counts.entries += entries.len() as u64,
                Operation::Vote(_) => self.counts.votes += 1,
                Operation::Truncate(_) => self.counts.truncations += 1,
                Operation::Purge(_) => self.counts.purges += 1,
            }
            self.durable.change(&operation);
        }
    }

    /// Holds what was found against what may be, and goes on from there.
    pub(super) fn judge(&mut self, found: &Found) -> Result<(), Wrong> {
        let known = self.store.get_or_insert_with(|| found.store.clone());
        if *known != found.store {
            let text = format!("expected the store {known}, found {}", found.store);
            return Err(Wrong::new(OPENS, text));
        }
        judge_ledger(found)?;
        let seen = State { vote: found.vote, floor: found.floor, log: found.log.iter().copied().collect() };
        if seen.log.len() != found.log.len() || seen.last() != found.last {
            let text = format!("the log is said to end at {}, and reads {}", found.last, seen.words());
            return Err(Wrong::new(DURABILITY, text));
        }
        let at_stake = self.pending.iter().take_while(|begun| begun.at_ns < self.dark_since_ns).count();
        let pending: Vec<Operation> = self.pending.drain(..).map(|begun| begun.operation).collect();
        let mut state = self.durable.clone();
        let mut kept = (state == seen).then_some(0);
        let mut votes = vec![state.vote];
        for (operation, place) in pending.iter().zip(1..) {
            state.change(operation);
            votes.push(state.vote);
            if state == seen {
                kept = Some(place);
            }
        }
        let Some(kept) = kept else {
            let check = if votes.contains(&seen.vote) { DURABILITY } else { VOTE };
            return Err(Wrong::new(check, self.durable.difference(&seen, &pending)));
        };
        self.counts.lossy += u64::from(kept < at_stake);
        self.durable = seen;
        Ok(())
    }
}

fn judge_ledger(found: &Found) -> Result<(), Wrong> {
    let Found { floor, applied, last, .. } = *found;
    if floor > applied || applied > last {
        let text = format!("expected floor <= applied <= last, found {floor}, {applied}, {last}");
        return Err(Wrong::new(LEDGER, text));
    }
    if found.digest != found.recomputed {
        let Found { digest, recomputed, .. } = found;
        let text = format!("the log gives a ledger {recomputed} at {applied}, found {digest}");
        return Err(Wrong::new(LEDGER, text));
    }
    Ok(())
}

impl State {
    fn change(&mut self, operation: &Operation) {
        match operation {
            Operation::Vote(vote) => self.vote = Some(*vote),
            Operation::Append(first, entries) => self.log.extend((*first..).zip(entries.iter().copied())),
            Operation::Truncate(keep) => self.log.retain(|index, _| index <= keep),
            Operation::Purge(floor) => {
                self.floor = self.floor.max(*floor);
                self.log.retain(|index, _| *index > self.floor);
            }
        }
    }

    fn last(&self) -> u64 {
        self.log.last_key_value().map_or(self.floor, |(index, _)| *index)
    }

    fn words(&self) -> String {
        let (first, count) = (self.log.first_key_value().map(|(index, _)| *index), self.log.len());
        let vote = self.vote;
        format!("floor {}, {count} entries {first:?}..={}, vote {vote:?}", self.floor, self.last())
    }

    /// What is found instead of this, in words.
    fn difference(&self, seen: &Self, pending: &[Operation]) -> String {
        let is_other = |(index, held): &(&u64, &Held)| seen.log.get(*index) != Some(*held);
        let other = self.log.iter().find(is_other).map(|(index, _)| *index);
        format!(
            "acknowledged: {}; found: {}; the first acknowledged entry that is missing or another one: {other:?}; not \
             acknowledged: {pending:?}",
            self.words(),
            seen.words()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(first: u64, terms: &[u64]) -> Operation {
        Operation::Append(first, terms.iter().map(|term| Held(*term, *term)).collect())
    }

    fn vote(term: u64) -> Voted {
        Voted { term, node: 1, committed: false }
    }

    /// Entries from the first on, by their terms.
    fn found(vote: Option<Voted>, first: u64, terms: &[u64]) -> Found {
        let log: Vec<_> = (first..).zip(terms.iter().map(|term| Held(*term, *term))).collect();
        let last = log.last().map_or(first - 1, |(index, _)| *index);
        Found { store: "a".into(), vote, floor: first - 1, log, last, applied: first - 1, ..Found::default() }
    }

    /// A vote, three entries, all acknowledged; two of these taken back and another one written, not acknowledged.
    fn expected() -> Expected {
        let mut expected = Expected::default();
        expected.hear(Said::begins(1, Operation::Vote(vote(1))));
        expected.hear(Said::begins(2, append(1, &[1, 1, 1])));
        expected.hear(Said::acknowledged(2));
        expected.hear(Said::begins(3, Operation::Vote(vote(2))));
        expected.hear(Said::begins(4, Operation::Truncate(1)));
        expected.hear(Said::begins(5, append(2, &[2])));
        expected.lose_power(u64::MAX);
        expected
    }

    fn wrong(found: &Found) -> &'static str {
        expected().judge(found).expect_err("it is wrong").check
    }

    #[test]
    fn what_was_there_behind_an_operation_at_or_behind_the_last_acknowledged_one_may_be_found() {
        for (seen, lossy) in [
            (found(Some(vote(1)), 1, &[1, 1, 1]), 1),
            (found(Some(vote(2)), 1, &[1, 1, 1]), 1),
            (found(Some(vote(2)), 1, &[1]), 1),
            (found(Some(vote(2)), 1, &[1, 2]), 0),
        ] {
            let mut expected = expected();
            assert_eq!(expected.judge(&seen), Ok(()));
            let counts = expected.counts();
            assert_eq!((counts.entries, counts.votes, counts.lossy), (3, 1, lossy));
            // And from then on nothing else.
            assert_eq!(expected.judge(&seen), Ok(()));
            assert!(expected.judge(&found(None, 1, &[])).is_err());
        }
    }

    #[test]
    fn what_was_begun_without_power_was_not_at_stake() {
        let cases: [(&[u64], u64); 3] = [(&[1, 1], 0), (&[1], 0), (&[], 1)];
        for (terms, lossy) in cases {
            let mut expected = Expected::default();
            expected.hear(Said::Begins(1, append(1, &[1]), 100));
            expected.lose_power(150);
            expected.hear(Said::Begins(2, append(2, &[1]), 200));
            assert_eq!(expected.judge(&found(None, 1, terms)), Ok(()));
            assert_eq!(expected.counts().lossy, lossy, "{terms:?}");
        }
    }

    #[test]
    fn a_write_is_under_way_from_its_beginning_to_its_acknowledgement() {
        let mut expected = Expected::default();
        let at = |number, operation, at_ns| Said::Begins(number, operation, at_ns);
        expected.hear(at(1, append(1, &[1]), 100));
        expected.hear(at(2, Operation::Purge(1), 200));
        assert!(expected.is_under_way(&(50..150)));
        // It began before this life, or when there was no power any more.
        assert!(!expected.is_under_way(&(101..300)) && !expected.is_under_way(&(50..100)));
        // A purge is not acknowledged by itself.
        expected.hear(Said::acknowledged(1));
        assert!(!expected.is_under_way(&(50..300)));
        expected.hear(at(3, Operation::Vote(vote(1)), 250));
        assert!(expected.is_under_way(&(50..300)));
        expected.hear(Said::acknowledged(3));
        assert!(!expected.is_under_way(&(50..300)));
    }

    #[test]
    fn what_was_acknowledged_and_is_missing_is_told() {
        assert_eq!(wrong(&found(Some(vote(1)), 1, &[1, 1])), DURABILITY);
        assert_eq!(wrong(&found(Some(vote(1)), 1, &[1, 2, 1])), DURABILITY);
        assert_eq!(wrong(&found(None, 1, &[1, 1, 1])), VOTE);
        // The operations in another order.
        assert_eq!(wrong(&found(Some(vote(1)), 1, &[1])), DURABILITY);
        // Entries that nobody began.
        assert_eq!(wrong(&found(Some(vote(2)), 1, &[1, 2, 2])), DURABILITY);
    }

    #[test]
    fn a_floor_takes_what_lies_below_it_and_nothing_else() {
        let mut expected = expected();
        expected.hear(Said::acknowledged(5));
        expected.hear(Said::begins(6, Operation::Purge(1)));
        assert_eq!(expected.judge(&found(Some(vote(2)), 2, &[2])), Ok(()));
        assert!(expected.judge(&found(Some(vote(2)), 3, &[])).is_err());
    }

    #[test]
    fn another_store_and_another_ledger_are_told() {
        let mut expected = expected();
        let seen = found(Some(vote(2)), 1, &[1, 2]);
        assert_eq!(expected.judge(&seen), Ok(()));
        let other = |change: fn(&mut Found)| {
            let mut found = seen.clone();
            change(&mut found);
            found
        };
        let mut check = |found: Found| expected.judge(&found).expect_err("it is wrong").check;
        assert_eq!(check(other(|found| found.store = "b".into())), OPENS);
        assert_eq!(check(other(|found| found.digest = "b".into())), LEDGER);
        assert_eq!(check(other(|found| found.applied = 3)), LEDGER);
        assert_eq!(check(other(|found| found.last = 3)), DURABILITY);
    }
}
