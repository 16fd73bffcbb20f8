//! The journal of gaps: gap records as this node applies them, kept after their entries are delivered and gone.
//!
//! - For people: the log and the destinations have every gap, this has the newest [`KEPT`] since the node started
//!   (and those still in the buffer then).
//! - Follows the ledger; never holds it for longer than the entries of one step.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{Ordinal, Position, SampleKey, Timestamp};
use store::Keeper;
use store::engine::Engine;
use store::ledger::{EffectRecord, State};
use tokio_util::sync::CancellationToken;
use wire::proto::v1 as pb;
use wire::times::{duration_to_proto, timestamp_from_proto, timestamp_to_proto};

/// How many gap records are kept.
const KEPT: usize = 10_000;

/// Gap records, the oldest first. Cheap to clone.
#[derive(Clone)]
pub(super) struct GapJournal {
    kept: Arc<Mutex<Kept>>,
    since: Timestamp,
}

#[derive(Default)]
struct Kept {
    gaps: VecDeque<pb::GapRecord>,
    /// Everything up to here was looked at.
    seen: Position,
}

impl GapJournal {
    /// An empty journal, begun now.
    pub(super) fn new(now: Timestamp) -> Self {
        Self { kept: Arc::default(), since: now }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when it is complete.
    pub(super) fn known_since(&self) -> wire::times::ProtoTimestamp {
        timestamp_to_proto(self.since)
    }

    /// Notes gaps as they are applied, until told to stop.
    pub(super) async fn follow<E: Engine>(self, keeper: Keeper<E>, stop: CancellationToken) {
        let mut records = keeper.records();
        loop {
            records.mark_unchanged();
            self.catch_up(&keeper);
            tokio::select! {
                changed = records.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }

    /// Notes the gaps of everything applied since the last time.
    pub(super) fn catch_up<E: Engine>(&self, keeper: &Keeper<E>) {
        let mut kept = self.kept();
        let (gaps, reached) = keeper.read(|state| (collect(state, kept.seen), state.applied_position()));
        kept.note(gaps, reached);
    }

    /// The gaps that ended after `since`, of one device where one is named.
    pub(super) fn list(&self, since: Option<Timestamp>, device: &str) -> Vec<pb::GapRecord> {
        let wanted = |gap: &&pb::GapRecord| {
            let ended = gap.to.as_ref().map(timestamp_from_proto);
            since.is_none_or(|since| ended.is_some_and(|ended| ended > since))
                && (device.is_empty() || gap.device == device)
        };
        self.kept().gaps.iter().filter(wanted).cloned().collect()
    }
}

impl Kept {
    fn note(&mut self, gaps: Vec<pb::GapRecord>, reached: Position) {
        self.gaps.extend(gaps);
        let surplus = self.gaps.len().saturating_sub(KEPT);
        self.gaps.drain(..surplus);
        self.seen = self.seen.max(reached);
    }
}

/// The gap records of entries behind `after`.
fn collect(state: &State, after: Position) -> Vec<pb::GapRecord> {
    let mut gaps = Vec::new();
    for (position, effects) in state.effects.range(after.next()..) {
        for (number, record) in (0_u32..).zip(&effects.records) {
            let ordinal = Ordinal(Ordinal::FIRST_EFFECT.0 + number);
            gaps.extend(view(state, *position, ordinal, record));
        }
    }
    gaps
}

fn view(state: &State, position: Position, ordinal: Ordinal, record: &EffectRecord) -> Option<pb::GapRecord> {
    let EffectRecord::Gap { group, grid, line, first, last, cause, revision } = record else { return None };
    let entry = state.catalog_of(*revision).and_then(|catalog| catalog.group(*group));
    let reign = state.reign_at(position);
    let key = state.lineage_at(position).map(|lineage| SampleKey { lineage, position, ordinal }.to_string());
    Some(pb::GapRecord {
        key: key.unwrap_or_default(),
        device: entry.map(|entry| entry.device.to_string()).unwrap_or_default(),
        group: entry.map(|entry| entry.name.to_string()).unwrap_or_default(),
        grid: grid.0,
        first_slot: *first,
        last_slot: *last,
        slots: last - first + 1,
        from: Some(timestamp_to_proto(line.nominal(*first))),
        to: Some(timestamp_to_proto(line.nominal(last + 1))),
        cause: cause.name().to_owned(),
        node: reign.map(|reign| reign.name.clone()).unwrap_or_default(),
        term: reign.map_or(0, |reign| reign.term.0),
    })
}

/// Gaps, added up; time that is missing in several groups counts once.
pub(super) fn summarise(gaps: &[pb::GapRecord], known_since: wire::times::ProtoTimestamp) -> pb::GapSummary {
    let mut spans: Vec<(i64, i64)> = gaps
        .iter()
        .filter_map(|gap| {
            let nanos = |at: &Option<_>| at.as_ref().map(|at| timestamp_from_proto(at).0);
            Some((nanos(&gap.from)?, nanos(&gap.to)?))
        })
        .collect();
    spans.sort_unstable();
    let (mut covered, mut times) = (0_u64, 0_u64);
    let mut end = i64::MIN;
    for (from, to) in spans {
        times += u64::from(from > end);
        let from = from.max(end);
        covered += u64::try_from(to.saturating_sub(from)).unwrap_or(0);
        end = end.max(to);
    }
    let mut causes: Vec<String> = gaps.iter().map(|gap| gap.cause.clone()).collect();
    causes.sort();
    causes.dedup();
    pb::GapSummary {
        records: gaps.len() as u64,
        slots: gaps.iter().map(|gap| gap.slots).sum(),
        duration: Some(duration_to_proto(std::time::Duration::from_nanos(covered))),
        causes,
        known_since: Some(known_since),
        times,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::Cause;
    use model::ids::{GridId, GroupId, Revision};
    use model::slots::GridLine;
    use store::ledger::Effects;

    use super::*;

    fn state_with_gap() -> State {
        let line = GridLine { first: Timestamp::from_millis(1_000), period: Duration::from_millis(100) };
        let gap = EffectRecord::Gap {
            group: GroupId(1),
            grid: GridId(4),
            line,
            first: 2,
            last: 6,
            cause: Cause::Failover,
            revision: Revision(1),
        };
        let effects = Effects { refused: Vec::new(), records: vec![gap] };
        State { effects: [(Position(9), effects)].into(), ..State::default() }
    }

    #[test]
    fn a_gap_is_named_by_its_slots_and_their_nominal_times() {
        let gaps = collect(&state_with_gap(), Position::ZERO);
        assert_eq!(gaps.len(), 1);
        assert_eq!((gaps[0].slots, gaps[0].cause.as_str()), (5, "failover"));
        assert_eq!(gaps[0].from, Some(timestamp_to_proto(Timestamp::from_millis(1_200))));
        assert_eq!(gaps[0].to, Some(timestamp_to_proto(Timestamp::from_millis(1_700))));
        assert!(collect(&state_with_gap(), Position(9)).is_empty(), "it was seen before");
    }

    #[test]
    fn a_gap_stays_in_the_journal_after_its_entry_is_gone() {
        let journal = GapJournal::new(Timestamp(0));
        journal.kept().note(collect(&state_with_gap(), Position::ZERO), Position(9));
        assert_eq!(journal.list(None, "").len(), 1);
        assert_eq!(journal.list(Some(Timestamp::from_millis(1_700)), "").len(), 0, "it had ended by then");
        assert_eq!(journal.list(None, "another").len(), 0);
    }

    #[test]
    fn time_missing_in_two_groups_counts_once() {
        let span = |from: i64, to: i64| pb::GapRecord {
            from: Some(timestamp_to_proto(Timestamp::from_millis(from))),
            to: Some(timestamp_to_proto(Timestamp::from_millis(to))),
            slots: 1,
            cause: "failover".into(),
            ..pb::GapRecord::default()
        };
        let summary =
            summarise(&[span(0, 600), span(100, 700), span(5_000, 5_100)], timestamp_to_proto(Timestamp(0)));
        assert_eq!(summary.duration, Some(duration_to_proto(Duration::from_millis(800))));
        assert_eq!((summary.records, summary.slots, summary.causes.len()), (3, 3, 1));
        assert_eq!(summary.times, 2, "one failover is one time, whatever the number of groups");
    }
}
