//! How far a delivery has come: what is still to be sent, what was refused. Pure bookkeeping.
//!
//! - `pending` is a stack of disjoint ranges, the next one on top, ascending from top to bottom: requests go out in
//!   key order however often a range is split. Everything before the top is settled.
//! - A record refused alone, without having been named in a list, is a *suspect*: it counts as refused for its
//!   content once the receiver accepts one behind it, or on the credit of those that it accepted before. A receiver
//!   that refuses one after the other is misconfigured, whatever it took earlier, and its records are not.
//! - A record that was refused before and is offered again is no suspect: whatever the receiver says, it stays where it is.

use std::collections::HashSet;
use std::ops::Range;

use model::{Delivery, SampleKey};

use crate::destination::{DeliverError, Receipt, Rejected};

/// The most suspects on credit, and the most that are looked for before one record was accepted.
pub(super) const MOST_TRUST: usize = 64;

#[derive(Debug)]
pub(super) struct Progress {
    pending: Vec<Range<usize>>,
    /// Everything before this record is settled for good.
    sure: usize,
    /// Suspects since then.
    suspects: usize,
    rejected: Vec<Rejected>,
    /// The records were refused before.
    again: bool,
}

impl Progress {
    /// Nothing of `records` records is settled yet.
    pub(super) fn new(records: usize) -> Self {
        let mut progress =
            Self { pending: Vec::new(), sure: 0, suspects: 0, rejected: Vec::new(), again: false };
        progress.put_back(0..records);
        progress
    }

    /// Nothing of `records` records is settled yet, all of which were refused before.
    pub(super) fn again(records: usize) -> Self {
        Self { again: true, ..Self::new(records) }
    }

    /// The next run of records to send, at most `most` of them; `None` when all are settled.
    pub(super) fn next(&mut self, most: usize) -> Option<Range<usize>> {
        let range = self.pending.pop()?;
        let end = range.end.min(range.start.saturating_add(most.max(1)));
        self.put_back(end..range.end);
        Some(range.start..end)
    }

    /// `range` is to be sent before everything else that is pending.
    pub(super) fn put_back(&mut self, range: Range<usize>) {
        if !range.is_empty() {
            self.pending.push(range);
        }
    }

    /// A request was taken, except for the records that it named.
    pub(super) fn accepted(&mut self, range: Range<usize>, rejected: Vec<Rejected>) {
        if rejected.len() < range.len() {
            self.sure = range.end;
            self.suspects = 0;
        }
        self.rejected.extend(rejected);
    }

    /// A request was refused whole because of the records named: the others are sent again.
    pub(super) fn resend_without(
        &mut self,
        delivery: &Delivery,
        range: Range<usize>,
        rejected: Vec<Rejected>,
    ) {
        let named: HashSet<SampleKey> = rejected.iter().map(|rejected| rejected.key).collect();
        let mut end = range.end;
        for at in range.clone().rev() {
            if named.contains(&delivery.records[at].key()) {
                self.put_back(at + 1..end);
                end = at;
            }
        }
        self.put_back(range.start..end);
        self.rejected.extend(rejected);
    }

    /// A request was refused whole, and does not say why: one half after the other.
    pub(super) fn split(&mut self, range: Range<usize>) {
        let middle = range.start + range.len() / 2;
        self.put_back(middle..range.end);
        self.put_back(range.start..middle);
    }

    /// A record was refused alone.
    pub(super) fn refused(&mut self, key: SampleKey, reason: String) {
        self.suspects += usize::from(!self.again);
        if !runtime::mutant("refused-record-is-dropped") {
            self.rejected.push(Rejected { key, reason });
        }
    }

    /// A record is larger than the receiver takes.
    pub(super) fn too_large(&mut self, key: SampleKey, reason: String) {
        self.rejected.push(Rejected { key, reason });
    }

    /// An error if the receiver refuses one record after the other and accepts none. `trust` records may be refused on
    /// the credit of those that it accepted.
    pub(super) fn check_receiver(&self, trust: usize) -> Result<(), DeliverError> {
        let limit = if self.pending.is_empty() { trust } else { MOST_TRUST };
        if self.suspects <= limit {
            return Ok(());
        }
        let reason = self.rejected.last().map_or("", |rejected| rejected.reason.as_str());
        Err(DeliverError::misconfigured(format!("the receiver refuses every record: {reason}")))
    }

    /// How much credit is used, because no record was accepted behind the suspects.
    pub(super) fn spent_trust(&self) -> usize {
        self.suspects
    }

    /// The receipt for what was settled before an error, and the credit that it uses; `None` if nothing was.
    pub(super) fn part(mut self, delivery: &Delivery, trust: usize) -> Option<(Receipt, usize)> {
        let tried = self.pending.last().map_or(delivery.records.len(), |range| range.start);
        let (settled, spent) = if self.suspects <= trust { (tried, self.suspects) } else { (self.sure, 0) };
        if settled == 0 {
            return None;
        }
        let cursor = delivery.records[settled - 1].key().behind();
        // What was named beyond it is sent, and named, again.
        self.rejected.retain(|rejected| rejected.key.before() < cursor);
        Some((Receipt { acknowledged: cursor, taken: cursor, rejected: self.rejected }, spent))
    }

    /// The receipt for the whole delivery.
    pub(super) fn finish(self, delivery: &Delivery) -> Receipt {
        assert!(self.pending.is_empty(), "a delivery is finished when nothing of it is pending");
        Receipt { acknowledged: delivery.upto, taken: delivery.upto, rejected: self.rejected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_come_in_order_and_each_record_once() {
        let mut progress = Progress::new(10);
        let mut alone = Vec::new();
        while let Some(range) = progress.next(7) {
            if range.len() > 1 {
                progress.split(range);
            } else {
                alone.push(range.start);
            }
        }
        assert_eq!(alone, (0..10).collect::<Vec<_>>());
    }
}
