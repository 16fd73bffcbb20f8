//! What goes into one request: how many records, how many bytes, under which idempotency key.

use std::ops::Range;

use bytes::Bytes;
use model::{Delivery, Timestamp};

use crate::json::Body;
use crate::text;

/// Bytes of records in one request, so that long strings do not make a request of gigabytes.
const MOST_BYTES: usize = 4 << 20;
/// A sample of an ordinary plant, for the first guess at a request's size.
const USUAL_BYTES: usize = 400;
/// Successful requests in a row before a larger one is tried again.
const STREAK: u32 = 16;

/// One request, encoded.
#[derive(Debug)]
pub(super) struct Request {
    /// Which records of the delivery it holds.
    pub(super) records: Range<usize>,
    /// The JSON.
    pub(super) body: Bytes,
    /// Destination, first and last key: the same for a retry of the same records. What was refused and is offered again
    /// on an operator's order is another request: a receiver that keeps answers must not repeat the refusal.
    pub(super) idempotency_key: String,
}

impl Request {
    /// Encodes the records of `range`, or as many from its start as fit one request; never none. `refused` is when they
    /// were refused, if they were.
    pub(super) fn encode(delivery: &Delivery, range: Range<usize>, refused: Option<Timestamp>) -> Self {
        let mut body = Body::with_capacity((range.len() * USUAL_BYTES).min(MOST_BYTES));
        let mut end = range.start;
        while end < range.end && (body.len() < MOST_BYTES || end == range.start) {
            body.push(&delivery.records[end]);
            end += 1;
        }
        let records = range.start..end;
        let after = match records.start {
            0 => delivery.after,
            start => delivery.records[start - 1].key().behind(),
        };
        let last = delivery.records[end - 1].key();
        let upto = if end == delivery.records.len() { delivery.upto } else { last.behind() };
        let first = delivery.records[records.start].key();
        let mut idempotency_key = format!("{}:{first}:{last}", text::plain_name(&delivery.destination));
        if let Some(refused) = refused {
            idempotency_key.push_str(&format!(":{}", refused.0));
        }
        let body = body.finish(delivery, after, upto, refused.is_some()).into();
        Self { records, body, idempotency_key }
    }
}

/// How many records a request may hold: less after the receiver found one too large, slowly more again.
#[derive(Debug)]
pub(super) struct RequestSize {
    now: usize,
    most: usize,
    streak: u32,
}

impl RequestSize {
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { now: most, most, streak: 0 }
    }

    pub(super) fn records(&self) -> usize {
        self.now
    }

    /// A request of `sent` records was too large.
    pub(super) fn shrink(&mut self, sent: usize) {
        self.now = (self.now.min(sent) / 2).max(1);
        self.streak = 0;
    }

    /// A request was accepted.
    pub(super) fn grow(&mut self) {
        self.streak += 1;
        if self.streak >= STREAK {
            self.streak = 0;
            self.now = (self.now * 2).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_shrinks_at_once_and_grows_slowly() {
        let mut size = RequestSize::new(1_000);
        size.shrink(600);
        assert_eq!(size.records(), 300);
        for _ in 0..STREAK - 1 {
            size.grow();
        }
        assert_eq!(size.records(), 300);
        size.grow();
        assert_eq!(size.records(), 600);
        (0..10).for_each(|_| size.shrink(size.records()));
        assert_eq!(size.records(), 1, "never none");
        (0..1_000).for_each(|_| size.grow());
        assert_eq!(size.records(), 1_000, "never more than the plant allows");
    }
}
