//! Revisions: how much of which is kept.
//!
//! - Its catalog, with the plant in it, is kept of a revision that was in force at a position above the horizon, and of one
//!   that something there refers to: samples that were resolved under it, a gap of slots that were due under it. Records
//!   are made with it.
//! - Beside these, of the [`CATALOGS_BEFORE`] before the first of those in force: what is on its way may refer to them.
//!   Pushed samples that refer to one that is gone are refused.
//! - Its bundle, the files as they were written, is kept of the newest [`BUNDLES_KEPT`] revisions, as far as
//!   [`BUNDLE_BYTES_KEPT`] reach.
//! - The revision in force keeps both. One that keeps neither is gone.
//!
//! Decided by `apply` where a revision comes into force and where the horizon moves, so the same on every node.

use bytes::Bytes;
use model::Position;
use model::ids::Revision;

use super::Change;
use super::rows::Row;
use super::state::{RevisionState, State};

/// Catalogs that are kept below those that were in force above the horizon.
pub(super) const CATALOGS_BEFORE: u64 = 3;
/// Revisions that keep their bundle, at most.
pub(super) const BUNDLES_KEPT: usize = 100;
/// Bytes of their bundles, at most; that of the revision in force may be larger.
pub(super) const BUNDLE_BYTES_KEPT: usize = 16 << 20;

impl Change<'_> {
    /// Something at `at` is understood by the catalog of `revision`, whatever is in force there.
    pub(super) fn refer(&mut self, at: Position, revision: Revision) {
        // The row is that of the position applied, which is written behind each entry.
        if revision < self.state.revision() && self.state.catalog_of(revision).is_some() {
            self.state.referred.insert(revision, at);
        }
    }

    /// Drops of old revisions what nobody needs any more.
    pub(super) fn forget_old_revisions(&mut self) {
        let State { referred, horizon, revisions, .. } = &mut *self.state;
        referred.retain(|_, at| *at > *horizon);
        let needed = first_with_catalog(revisions.iter(), *horizon);
        let bundled = first_with_bundle(revisions.iter());
        let mut changed = Vec::new();
        for (revision, state) in revisions.iter_mut() {
            let is_needed = *revision >= needed || referred.contains_key(revision);
            let plant = state.catalog.take_if(|_| !is_needed).is_some();
            let bundle = state.bundle.take_if(|_| *revision < bundled).is_some();
            if plant || bundle {
                changed.push(*revision);
            }
        }
        revisions.retain(|_, state| state.catalog.is_some() || state.bundle.is_some());
        for revision in changed {
            self.touch(Row::Revision(revision));
        }
    }
}

/// The bundle of a revision; one without a byte in it is one that is not kept, in a row too.
pub(super) fn kept(bundle: Bytes) -> Option<Bytes> {
    Some(bundle).filter(|bundle| !bundle.is_empty())
}

/// The oldest revision whose catalog is kept whether or not anything refers to it.
fn first_with_catalog<'a>(
    mut revisions: impl DoubleEndedIterator<Item = (&'a Revision, &'a RevisionState)>,
    horizon: Position,
) -> Revision {
    let in_force = revisions.rfind(|(_, revision)| revision.position <= horizon.next());
    in_force.map_or(Revision(0), |(revision, _)| Revision(revision.0.saturating_sub(CATALOGS_BEFORE)))
}

/// The oldest revision whose bundle is kept.
fn first_with_bundle<'a>(
    revisions: impl DoubleEndedIterator<Item = (&'a Revision, &'a RevisionState)>,
) -> Revision {
    let mut bytes = 0;
    let newest_first = revisions.rev().take(BUNDLES_KEPT).enumerate();
    let fitting = newest_first.take_while(|(place, (_, revision))| {
        bytes += revision.bundle.as_ref().map_or(0, Bytes::len);
        *place == 0 || bytes <= BUNDLE_BYTES_KEPT
    });
    fitting.last().map_or(Revision(0), |(_, (revision, _))| *revision)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::batch::{Batch, Sample, Source};
    use model::command::{Command, Request, Stamp};
    use model::plant::{Device, Group, Link, Plant, Schedule};
    use model::{BootId, Cause, GridId, GroupId, NodeId, Reading, SessionId, TagId, Term, Timestamp, Value};
    use wire::entry::EncodedBatch;

    use super::super::{Body, Ledger, LogId};
    use super::*;

    fn stamp() -> Stamp {
        Stamp { at: Timestamp(0), boot: BootId::from(1) }
    }

    /// A ledger that applies commands of one leader.
    struct Log(Ledger);

    impl Log {
        fn new() -> Self {
            let mut log = Self(Ledger::default());
            let (node, name, cause) = (NodeId(1), "gateway-a".to_owned(), Cause::Failover);
            log.apply(&Command::Lead { node, name, cause, leaderless: None });
            log
        }

        fn apply(&mut self, command: &Command) -> Position {
            self.next(wire::entry::encode(&stamp(), command).expect("it can be encoded"))
        }

        fn append(&mut self, batches: &[EncodedBatch]) -> Position {
            self.next(wire::entry::encode_append(&stamp(), batches))
        }

        fn next(&mut self, bytes: Bytes) -> Position {
            let index = self.0.state().applied_position().next();
            self.0.apply(LogId { term: Term(1), index }, &Body::Command(bytes)).expect("it can be read");
            self.0.take_changes();
            index
        }

        /// Makes a plant with the device `press-{number}` the next revision, with so many bytes of files.
        fn configure(&mut self, number: u32, bytes: usize) -> Position {
            let schedule = Some(Schedule { period: Duration::from_secs(1), offset: Duration::ZERO });
            let group = Group { id: "fast".into(), schedule, enabled: true, tags: Vec::new() };
            let device = Device {
                id: format!("press-{number}"),
                link: Link::Push,
                enabled: true,
                labels: Default::default(),
                description: String::new(),
                groups: vec![group],
            };
            let (base, request) = (self.0.state().revision(), Request::default());
            let (bundle, plant) = (vec![7; bytes], Plant { devices: vec![device], ..Plant::default() });
            let (plant, elapsed, discard) = (Box::new(plant), Vec::new(), Vec::new());
            self.apply(&Command::Configure { base, bundle, plant, elapsed, discard, request })
        }

        fn truncate(&mut self, horizon: Position) {
            self.apply(&Command::Truncate { below: horizon.next(), overrun: None });
            assert_eq!(self.0.state().horizon, horizon);
        }

        fn with(&self, has: impl Fn(&RevisionState) -> bool) -> Vec<u64> {
            let revisions = self.0.state().revisions.iter();
            revisions.filter(|(_, state)| has(state)).map(|(number, _)| number.0).collect()
        }

        fn catalogs(&self) -> Vec<u64> {
            self.with(|state| state.catalog.is_some())
        }

        fn bundles(&self) -> Vec<u64> {
            self.with(|state| state.bundle.is_some())
        }
    }

    #[test]
    fn a_plant_is_kept_as_long_as_a_position_above_the_horizon_needs_it() {
        let mut log = Log::new();
        let at: Vec<Position> = (0..10).map(|number| log.configure(number, 1)).collect();
        assert_eq!(log.catalogs(), (1..=10).collect::<Vec<_>>(), "nothing is delivered yet");
        // Revision 7 is in force right above the horizon, revision 6 no more.
        log.truncate(Position(at[6].0 - 1));
        assert_eq!(log.catalogs(), (4..=10).collect::<Vec<_>>());
        log.truncate(at[9]);
        assert_eq!(log.catalogs(), [7, 8, 9, 10]);
        log.configure(10, 1);
        assert_eq!(log.catalogs(), [7, 8, 9, 10, 11], "what lies below its position is not delivered");
        assert_eq!(log.bundles(), (1..=11).collect::<Vec<_>>(), "all files can be read all the same");
        let old = &log.0.state().revisions[&Revision(1)];
        assert_eq!((old.contents.devices, old.contents.destinations), (1, 0), "history says what was in it");
    }

    #[test]
    fn files_are_kept_of_the_newest_revisions_up_to_a_number() {
        let mut log = Log::new();
        for number in 0..150 {
            let at = log.configure(number, 1);
            log.truncate(at);
        }
        assert_eq!(log.bundles(), (51..=150).collect::<Vec<_>>());
        assert_eq!(log.catalogs(), [147, 148, 149, 150]);
        assert_eq!(log.0.state().revisions.len(), BUNDLES_KEPT, "what keeps nothing is gone");
    }

    #[test]
    fn files_are_kept_of_the_newest_revisions_up_to_a_size_and_always_those_in_force() {
        let mut log = Log::new();
        for number in 0..10 {
            log.configure(number, BUNDLE_BYTES_KEPT / 4);
        }
        assert_eq!(log.bundles(), [7, 8, 9, 10]);
        assert_eq!(log.catalogs(), (1..=10).collect::<Vec<_>>(), "nothing is delivered yet");
        log.configure(10, BUNDLE_BYTES_KEPT + 1);
        assert_eq!(log.bundles(), [11]);
    }

    #[test]
    fn a_ledger_that_has_forgotten_revisions_is_the_same_after_it_was_read_back() {
        let mut log = Log::new();
        for number in 0..120 {
            let at = log.configure(number, 1);
            if number < 110 {
                log.truncate(at);
            }
        }
        let mut read = Log(Ledger::from_rows(log.0.rows()).expect("rows can be read"));
        assert_eq!((read.catalogs(), read.bundles()), (log.catalogs(), log.bundles()));
        let at = log.0.state().applied_position();
        for log in [&mut log, &mut read] {
            log.configure(120, 0);
            log.truncate(at);
            log.configure(121, 1);
        }
        assert_eq!(read.0.rows(), log.0.rows());
        assert_eq!(read.0.digest(), log.0.digest());
        assert_eq!(Ledger::from_rows(log.0.rows()).expect("rows can be read").digest(), log.0.digest());
    }

    #[test]
    fn what_samples_and_gaps_above_the_horizon_refer_to_is_kept_until_the_horizon_has_passed_them() {
        let mut log = Log::new();
        let (group, grid) = (GroupId(1), GridId(1));
        log.configure(0, 1);
        log.configure(1, 1);
        // Slots of the device that revision 2 has removed.
        let gap = log.apply(&Command::Missed { group, grid, last: 5, cause: Cause::NoQuorum });
        for number in 2..8 {
            log.configure(number, 1);
        }
        let source = Source::Pushed { session: SessionId::from(1), sequence: 1 };
        let sample =
            Sample { tag: TagId(1), source_time: Timestamp(0), reading: Reading::Good(Value::U64(1)) };
        let batch = Batch::new(source, NodeId(1), Revision(2), Timestamp(0), vec![sample.clone()]);
        let batch = EncodedBatch::encode(&batch.expect("it holds a sample")).expect("it can be encoded");
        let pushed = log.append(&[batch]);
        for number in 8..10 {
            log.configure(number, 1);
        }
        let in_force = log.configure(10, 1);
        assert_eq!(log.0.state().referred, [(Revision(1), gap), (Revision(2), pushed)].into());
        log.truncate(Position(pushed.0 - 1));
        assert_eq!(log.catalogs(), [2, 5, 6, 7, 8, 9, 10, 11], "the gap is delivered, the samples are not");
        let read = Log(Ledger::from_rows(log.0.rows()).expect("rows can be read"));
        assert_eq!(read.0.state().referred, [(Revision(2), pushed)].into());
        assert_eq!(read.catalogs(), log.catalogs());
        log.truncate(in_force);
        assert_eq!(log.catalogs(), [8, 9, 10, 11]);
        // So late that nobody would know its name: nothing is said of it.
        let late = log.apply(&Command::Missed { group, grid, last: 9, cause: Cause::NoQuorum });
        assert!(!log.0.state().effects.contains_key(&late));
        // So are samples: they are refused rather than acknowledged and then delivered to nobody.
        let pushed = |sequence, revision| {
            let source = Source::Pushed { session: SessionId::from(1), sequence };
            let batch = Batch::new(source, NodeId(1), Revision(revision), Timestamp(0), vec![sample.clone()]);
            EncodedBatch::encode(&batch.expect("it holds a sample")).expect("it can be encoded")
        };
        let known = log.0.state().sessions[&SessionId::from(1)].last;
        let refused = log.append(&[pushed(known + 1, 2), pushed(known + 2, 11)]);
        assert_eq!(log.0.state().effects[&refused].refused, [0, 1], "the second lacks the first");
        assert_eq!(log.0.state().sessions[&SessionId::from(1)].last, known, "its number is not used up");
        let kept = log.append(&[pushed(known + 1, 8)]);
        assert_eq!(log.0.state().referred[&Revision(8)], kept, "a catalog that is kept is enough");
    }
}
