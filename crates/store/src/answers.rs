//! When each group last had a value: worked out from what was applied here.
//!
//! Known of what was applied since this node started or took over a snapshot. So it is no part of the ledger: nothing that
//! `apply` decides may rest on it, and no row, digest or checkpoint has any of it.

use std::collections::BTreeMap;

use model::Timestamp;
use model::ids::GroupId;

use crate::outcome::{BatchOutcome, Outcome};

/// A polled batch with a value in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Its number in its entry.
    pub(crate) batch: usize,
    /// Of which group it is.
    pub(crate) group: GroupId,
    /// When it was received.
    pub(crate) at: Timestamp,
}

/// When the last accepted batch with a value in it was received of each group.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    groups: BTreeMap<GroupId, Timestamp>,
}

impl Answers {
    /// Takes note of what became of the `answers` of an entry.
    pub(crate) fn applied(&mut self, answers: &[Answer], outcome: &Outcome) {
        let Outcome::Appended { batches, .. } = outcome else { return };
        for answer in answers {
            if batches.get(answer.batch) == Some(&BatchOutcome::Accepted) {
                self.groups.insert(answer.group, answer.at);
            }
        }
    }

    /// All that is known.
    pub(crate) fn groups(&self) -> &BTreeMap<GroupId, Timestamp> {
        &self.groups
    }
}

#[cfg(test)]
mod tests {
    use model::batch::{Batch, Sample, Source};
    use model::command::Stamp;
    use model::{BootId, Cause, GridId, NodeId, Position, Reading, Revision, StatusCode, TagId, Value};
    use wire::EncodedBatch;

    use super::*;
    use crate::ledger::prepare::Read;
    use crate::ledger::{Body, LogId};

    const GROUP: GroupId = GroupId(1);
    const OTHER: GroupId = GroupId(2);

    fn batch(group: GroupId, seconds: i64, reading: Reading) -> EncodedBatch {
        let at = Timestamp::from_millis(seconds * 1_000);
        let source = Source::Polled { group, grid: GridId(1), slot: 0, skipped: Cause::Late };
        let samples = vec![Sample { tag: TagId(1), source_time: at, reading }];
        let batch = Batch::new(source, NodeId(1), Revision(1), at, samples).expect("not empty");
        EncodedBatch::encode(&batch).expect("it is small")
    }

    fn good() -> Reading {
        Reading::Good(Value::F32(2.5))
    }

    impl Answers {
        fn append(&mut self, entry: &[EncodedBatch], outcomes: Vec<BatchOutcome>) {
            let stamp = Stamp { at: Timestamp(0), boot: BootId::from(1) };
            let body = Body::Command(wire::entry::encode_append(&stamp, entry));
            let answers = Read::entry(LogId::default(), &body).expect("it can be read").answers();
            self.applied(&answers, &Outcome::Appended { position: Position(1), batches: outcomes });
        }
    }

    #[test]
    fn a_group_answered_last_in_the_last_accepted_batch_that_has_a_value() {
        let mut answers = Answers::default();
        answers.append(&[batch(GROUP, 15, good())], vec![BatchOutcome::Accepted]);
        let silent = Reading::Bad(StatusCode::BAD_TIMEOUT);
        answers.append(&[batch(GROUP, 16, silent)], vec![BatchOutcome::Accepted]);
        let both = [batch(GROUP, 17, good()), batch(OTHER, 18, good())];
        answers.append(&both, vec![BatchOutcome::Already, BatchOutcome::Accepted]);
        let expected = [(GROUP, Timestamp::from_millis(15_000)), (OTHER, Timestamp::from_millis(18_000))];
        assert_eq!(*answers.groups(), BTreeMap::from(expected));
    }
}
