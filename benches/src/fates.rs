//! What became of a device's answers: the receiver has the value, or the slot is bad, or in a gap record, or no record
//! holds it.
//!
//! - A good sample says the number of the answer it comes from; what stands in for one says none. But a slot has one
//!   answer at most, and both are numbered in the same order: an answer whose value did not arrive belongs to a slot
//!   between the values that arrived before and behind it, and each of these slots accounts for one such answer.
//! - Bad slots come first: the gateway waited there, and the answer came too late for it.
//! - Told in any order: nothing is concluded before [`Book::tell`].

use std::collections::BTreeMap;
use std::time::Duration;

use crate::latency::Times;

/// Answers of one device, and slots of it that arrived.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// When the answer with this number left.
    answers: BTreeMap<u64, u64>,
    /// By grid and slot.
    slots: BTreeMap<(u64, u64), Slot>,
}

#[derive(Debug, Clone, Copy)]
enum Slot {
    /// The value of the answer with this number, and when it arrived.
    Good {
        number: u64,
        at_ns: u64,
    },
    Bad,
    /// So many slots from here on are in a gap record.
    Missed(u64),
}

/// What became of answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fates {
    /// Of those whose values arrived: how long it took.
    pub(crate) arrived: Times,
    /// Those whose slots are bad: they came too late.
    pub(crate) late: u64,
    /// Those whose slots are in gap records.
    pub(crate) missed: u64,
    /// Those that no record holds.
    pub(crate) lost: u64,
}

impl Fates {
    /// How many answers these are.
    pub(crate) fn total(&self) -> u64 {
        self.arrived.count() + self.late + self.missed + self.lost
    }
}

impl Book {
    /// An answer left.
    pub(crate) fn answered(&mut self, number: u64, at_ns: u64) {
        self.answers.insert(number, at_ns);
    }

    /// A slot arrived with the value of an answer.
    pub(crate) fn good(&mut self, place: (u64, u64), number: u64, at_ns: u64) {
        self.slots.insert(place, Slot::Good { number, at_ns });
    }

    /// A slot arrived with a bad reading.
    pub(crate) fn bad(&mut self, place: (u64, u64)) {
        self.slots.insert(place, Slot::Bad);
    }

    /// A gap record of so many slots arrived.
    pub(crate) fn missed(&mut self, first: (u64, u64), slots: u64) {
        self.slots.insert(first, Slot::Missed(slots));
    }

    /// When the newest answer left whose value has arrived.
    pub(crate) fn newest_arrived(&self) -> Option<u64> {
        let number = |slot: &Slot| match slot {
            Slot::Good { number, .. } => Some(*number),
            Slot::Bad | Slot::Missed(_) => None,
        };
        self.answers.get(&self.slots.values().rev().find_map(number)?).copied()
    }

    /// Adds what became of the answers that left in a stretch of time.
    pub(crate) fn tell(&self, from_ns: u64, until_ns: u64, fates: &mut Fates) {
        let is_asked_for = |left: &u64| (from_ns..until_ns).contains(left);
        let mut answers = self.answers.iter().peekable();
        let mut between = Between::default();
        for slot in self.slots.values() {
            match *slot {
                Slot::Bad => between.bad += 1,
                Slot::Missed(slots) => between.missed += slots,
                Slot::Good { number, at_ns } => {
                    while let Some((_, left)) = answers.next_if(|(known, _)| **known < number) {
                        *between.take(fates) += u64::from(is_asked_for(left));
                    }
                    if let Some((_, left)) = answers.next_if(|(known, _)| **known == number)
                        && is_asked_for(left)
                    {
                        fates.arrived.record(Duration::from_nanos(at_ns.saturating_sub(*left)));
                    }
                    between = Between::default();
                }
            }
        }
        for (_, left) in answers {
            *between.take(fates) += u64::from(is_asked_for(left));
        }
    }
}

/// Slots between two values that may account for an answer.
#[derive(Debug, Default)]
struct Between {
    bad: u64,
    missed: u64,
}

impl Between {
    /// Takes a slot for an answer whose value did not arrive; where such answers are counted.
    fn take<'a>(&mut self, fates: &'a mut Fates) -> &'a mut u64 {
        if self.bad > 0 {
            self.bad -= 1;
            &mut fates.late
        } else if self.missed > 0 {
            self.missed -= 1;
            &mut fates.missed
        } else {
            &mut fates.lost
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A device that was asked every 100 ms: answers 1 to `answers` left at 100 ms, 200 ms …
    fn book(answers: u64) -> Book {
        let mut book = Book::default();
        (1..=answers).for_each(|number| book.answered(number, number * 100 * MS));
        book
    }

    /// Answer `number` arrives in slot `number` of the grid, 10 ms after it left.
    fn arrive(book: &mut Book, number: u64) {
        book.good((1, number), number, (number * 100 + 10) * MS);
    }

    fn told(book: &Book, from_ms: u64, until_ms: u64) -> (u64, u64, u64, u64) {
        let mut fates = Fates::default();
        book.tell(from_ms * MS, until_ms * MS, &mut fates);
        (fates.arrived.count(), fates.late, fates.missed, fates.lost)
    }

    #[test]
    fn an_answer_arrives_or_its_slot_is_bad_or_in_a_gap_or_it_is_lost() {
        let mut book = book(8);
        for number in [1, 3, 6, 8] {
            arrive(&mut book, number);
        }
        book.bad((1, 2));
        book.missed((1, 4), 2);
        assert_eq!(told(&book, 0, 1_000), (4, 1, 2, 1), "nothing accounts for the seventh");
        assert_eq!(told(&book, 250, 650), (2, 0, 2, 0), "the third to the sixth");
    }

    #[test]
    fn a_slot_accounts_for_no_answer_beyond_the_values_around_it() {
        let mut book = book(4);
        for number in [1, 2, 4] {
            arrive(&mut book, number);
        }
        // It was not answered in this slot; the lost answer is another one.
        book.bad((0, 9));
        assert_eq!(told(&book, 0, 1_000), (3, 0, 0, 1));
    }

    #[test]
    fn a_late_answer_has_no_latency_and_one_that_arrived_has_its_own() {
        let mut book = book(3);
        book.bad((1, 1));
        arrive(&mut book, 3);
        arrive(&mut book, 2);
        let mut fates = Fates::default();
        book.tell(0, 1_000 * MS, &mut fates);
        assert_eq!((fates.late, fates.arrived.count(), fates.arrived.longest().as_millis()), (1, 2, 10));
        assert_eq!(fates.total(), 3);
        assert_eq!(book.newest_arrived(), Some(300 * MS));
    }

    #[test]
    fn what_is_behind_the_last_value_is_bad_or_has_not_arrived() {
        let mut book = book(3);
        arrive(&mut book, 1);
        book.bad((1, 2));
        assert_eq!(told(&book, 0, 1_000), (1, 1, 0, 1));
    }
}
