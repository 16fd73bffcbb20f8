//! Samples and slots: which batches are accepted, and what becomes a gap.
//!
//! - Each slot of a grid is said exactly once: by a batch, or inside one gap.
//! - Nothing but `next` of the open grid decides whether a batch is new; clocks have no say here.
//! - Nor has the number of its samples: each names its tag, so none is taken for another's, and the tags of a group may
//!   have changed since it was read. Who reads a device sees to one sample for each tag.

use std::collections::BTreeMap;
use std::time::Duration;

use model::batch::{BatchHeader, Source};
use model::command::Stamp;
use model::ids::{GridId, GroupId, Revision};
use model::slots::GridLine;
use model::{Cause, Position};

use super::Change;
use super::revisions::CATALOGS_BEFORE;
use super::rows::Row;
use super::state::{ClosedGrid, EffectRecord, Effects, Grid, Session};
use crate::outcome::{BatchOutcome, Outcome, Refusal, Thing};

/// Closed grids that are remembered of each group, the newest. What was read of one is on its way for seconds at most, and
/// a group would have to be closed three times meanwhile for it to find its grid forgotten. Then it is refused as stale
/// and no gap grows: the grid ended where its closing said, and all slots up to there are in a record. So are those of a
/// grid that was closed too many revisions ago, from whose catalog a late gap would take its names. Counted, because a
/// clock that is set again and again closes grids without end, and steady command time stands still then.
const CLOSED_KEPT: usize = 2;

impl Change<'_> {
    pub(super) fn append(
        &mut self,
        at: Position,
        size: usize,
        batches: &[BatchHeader],
        fenced: bool,
    ) -> Outcome {
        let mut outcomes = Vec::with_capacity(batches.len());
        let mut refused = Vec::new();
        let mut samples = 0;
        for (number, batch) in batches.iter().enumerate() {
            let outcome = match batch.source {
                _ if fenced => BatchOutcome::Fenced,
                // Read by a node that does not reign: queued under an earlier reign and forwarded to this one.
                Source::Polled { .. } if self.state.reign().is_some_and(|reign| reign.node != batch.node) => {
                    BatchOutcome::Fenced
                }
                Source::Polled { group, grid, slot, skipped } => self.polled(at, group, grid, slot, skipped),
                Source::Pushed { session, sequence } => {
                    let known = self.state.sessions.get(&session).map_or(0, |known| known.last);
                    if sequence <= known && !runtime::mutant("message-is-taken-twice") {
                        BatchOutcome::Already
                    } else if sequence > known + 1 {
                        BatchOutcome::Expected { sequence: known + 1 }
                    } else if batch.revision < self.state.revision()
                        && self.state.catalog_of(batch.revision).is_none()
                    {
                        // Nobody could say what its samples are of, where a tag is gone meanwhile.
                        BatchOutcome::RevisionGone
                    } else {
                        self.state
                            .sessions
                            .insert(session, Session { last: sequence, used: self.state.steady.now });
                        self.touch(Row::Session(session));
                        BatchOutcome::Accepted
                    }
                }
            };
            match outcome {
                BatchOutcome::Accepted => {
                    samples += u64::from(batch.count);
                    self.refer(at, batch.revision);
                }
                _ => refused.push(u32::try_from(number).expect("an entry holds far fewer batches")),
            }
            outcomes.push(outcome);
        }
        if refused.len() < batches.len() {
            self.state.last_deliverable = at;
            for position in self.state.fill.add(at, self.state.steady.now, size, samples) {
                self.touch(Row::Mark(position));
            }
        }
        if !refused.is_empty() {
            self.effects(at).refused = refused;
        }
        Outcome::Appended { position: at, batches: outcomes }
    }

    fn polled(
        &mut self,
        at: Position,
        group: GroupId,
        grid: GridId,
        slot: u64,
        skipped: Cause,
    ) -> BatchOutcome {
        let Some(open) = self.state.grids.get(&group).copied().filter(|open| open.id == grid) else {
            self.read_after_closing(at, grid, slot);
            return BatchOutcome::Stale { grid };
        };
        if slot < open.next && !runtime::mutant("slot-is-taken-twice") {
            return BatchOutcome::Already;
        }
        if slot > open.next && !runtime::mutant("gap-is-not-recorded") {
            let revision = self.state.revision();
            let last = slot - u64::from(!runtime::mutant("gap-overlaps-a-sample"));
            self.gap(at, group, &open, last, self.cause_since(&open, skipped), revision);
        }
        self.advance(at, group, slot + 1);
        BatchOutcome::Accepted
    }

    /// A poll that was in flight when its grid was closed, or could not be committed before, at a slot behind the gap that
    /// was said then: the gap grows.
    fn read_after_closing(&mut self, at: Position, grid: GridId, slot: u64) {
        let Some(closed) = self.state.closed.get_mut(&grid).filter(|closed| slot >= closed.end) else {
            return;
        };
        let ClosedGrid { group, line, end: first, cause, revision } = *closed;
        closed.end = slot + 1;
        self.touch(Row::Closed);
        self.record(at, EffectRecord::Gap { group, grid, line, first, last: slot, cause, revision });
    }

    pub(super) fn missed(
        &mut self,
        at: Position,
        group: GroupId,
        grid: GridId,
        last: u64,
        cause: Cause,
    ) -> Outcome {
        let Some(open) = self.state.grids.get(&group).copied().filter(|open| open.id == grid) else {
            if !self.state.closed.contains_key(&grid) {
                return Outcome::Refused(Refusal::Unknown { what: Thing::OpenGrid, name: grid.to_string() });
            }
            self.read_after_closing(at, grid, last);
            return Outcome::Done;
        };
        if last >= open.next {
            self.gap(at, group, &open, last, self.cause_since(&open, cause), self.state.revision());
            self.advance(at, group, last + 1);
        }
        Outcome::Done
    }

    /// Slots that were said since `elapsed` was measured, when `next` was next, lie within that time.
    pub(super) fn reclock(
        &mut self,
        at: Position,
        stamp: Stamp,
        elapsed: &[(GroupId, Duration)],
        next: &[(GridId, u64)],
    ) -> Outcome {
        let groups: Vec<GroupId> = self.state.grids.keys().copied().collect();
        let revision = self.state.revision();
        for group in groups {
            let open = self.state.grids[&group];
            let measured =
                next.iter().find(|(grid, _)| *grid == open.id).map_or(open.next, |(_, next)| *next);
            let said = open.next.saturating_sub(measured);
            let missed =
                open.line.periods_in(elapsed_of(elapsed, group).unwrap_or_default()).saturating_sub(said);
            if missed > 0 {
                self.gap(at, group, &open, open.next + missed - 1, Cause::Clock, revision);
            }
            self.remember_closed(group, &open, open.next + missed, Cause::Clock, revision);
            let line = GridLine::opening(stamp.at, open.line.period);
            self.open_grid(at, group, line, Some(open.id), Cause::Clock);
        }
        self.forget_older_closed();
        Outcome::Done
    }

    /// Ends the open grid of `group`, with a gap up to where its schedule had come under the revision in force until now.
    pub(super) fn close_grid(
        &mut self,
        at: Position,
        stamp: Stamp,
        group: GroupId,
        elapsed: &[(GroupId, Duration)],
        (cause, revision): (Cause, Revision),
    ) -> Option<GridId> {
        let open = self.state.grids.remove(&group)?;
        self.touch(Row::Grid(group));
        let end = open.line.end_at(open.next, stamp.at, elapsed_of(elapsed, group));
        if end > open.next {
            self.gap(at, group, &open, end - 1, cause, revision);
        }
        self.remember_closed(group, &open, end, cause, revision);
        Some(open.id)
    }

    fn remember_closed(&mut self, group: GroupId, open: &Grid, end: u64, cause: Cause, revision: Revision) {
        self.state.closed.insert(open.id, ClosedGrid { group, line: open.line, end, cause, revision });
        self.touch(Row::Closed);
    }

    /// Forgets all closed grids but the newest two of each group, and those of revisions of old.
    pub(super) fn forget_older_closed(&mut self) {
        let mut newer: BTreeMap<GroupId, usize> = BTreeMap::new();
        let newest_first = self.state.closed.iter().rev();
        let older: Vec<GridId> = newest_first
            .filter_map(|(grid, closed)| {
                let newer = newer.entry(closed.group).or_default();
                *newer += 1;
                let is_old = closed.revision.0 + CATALOGS_BEFORE < self.state.revision().0;
                (*newer > CLOSED_KEPT || is_old).then_some(*grid)
            })
            .collect();
        for grid in older {
            self.state.closed.remove(&grid);
            self.touch(Row::Closed);
        }
    }

    /// Begins a grid for `group`.
    pub(super) fn open_grid(
        &mut self,
        at: Position,
        group: GroupId,
        line: GridLine,
        replaces: Option<GridId>,
        cause: Cause,
    ) {
        let id = GridId(self.state.last_grid.0 + 1);
        self.state.last_grid = id;
        self.state.grids.insert(group, Grid { id, line, next: 0, touched: at });
        self.touch(Row::Grid(group));
        self.touch(Row::Cluster);
        self.record(at, EffectRecord::Opening { group, grid: id, line, replaces, cause });
    }

    /// Adds a record made at `at`.
    pub(super) fn record(&mut self, at: Position, record: EffectRecord) {
        if let EffectRecord::Gap { revision, .. } = &record {
            self.refer(at, *revision);
        }
        self.effects(at).records.push(record);
        self.state.last_deliverable = at;
    }

    fn gap(
        &mut self,
        at: Position,
        group: GroupId,
        open: &Grid,
        last: u64,
        cause: Cause,
        revision: Revision,
    ) {
        let (grid, line, first) = (open.id, open.line, open.next);
        let record = EffectRecord::Gap { group, grid, line, first, last, cause, revision };
        self.record(at, record);
    }

    /// A leader that took over since the grid was last touched explains the gap better than the proposer can.
    fn cause_since(&self, open: &Grid, otherwise: Cause) -> Cause {
        match self.state.reign() {
            Some(reign) if reign.position > open.touched => reign.cause,
            _ => otherwise,
        }
    }

    fn advance(&mut self, at: Position, group: GroupId, next: u64) {
        let open = self.state.grids.get_mut(&group).expect("the caller has just looked it up");
        open.next = next;
        open.touched = at;
        self.touch(Row::Grid(group));
    }

    fn effects(&mut self, at: Position) -> &mut Effects {
        self.touch(Row::Effects(at));
        self.state.effects.entry(at).or_default()
    }
}

fn elapsed_of(elapsed: &[(GroupId, Duration)], group: GroupId) -> Option<Duration> {
    elapsed.iter().find(|(id, _)| *id == group).map(|(_, elapsed)| *elapsed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use model::Timestamp;
    use model::ids::{NodeId, Revision};

    use super::super::state::{Reign, State};
    use super::*;

    const GROUP: GroupId = GroupId(1);
    const AT: Position = Position(20);

    fn polled(grid: GridId, slot: u64) -> BatchHeader {
        BatchHeader {
            source: Source::Polled { group: GROUP, grid, slot, skipped: Cause::Late },
            node: NodeId(1),
            revision: Revision(1),
            gateway_time: Timestamp(0),
            count: 1,
            oldest: Timestamp(0),
            newest: Timestamp(0),
            all_bad: false,
        }
    }

    fn stamp(seconds: f64) -> Stamp {
        Stamp { at: Timestamp((seconds * 1e9) as i64), boot: Default::default() }
    }

    fn reign_of(node: NodeId) -> Reign {
        Reign {
            position: AT,
            term: model::Term(2),
            node,
            name: "gateway-b".into(),
            cause: Cause::Failover,
            boot: Default::default(),
            since: Timestamp(0),
        }
    }

    fn gaps(state: &State) -> Vec<(u64, u64, Cause)> {
        let records = state.effects.values().flat_map(|effects| &effects.records);
        records
            .filter_map(|record| match record {
                EffectRecord::Gap { first, last, cause, .. } => Some((*first, *last, *cause)),
                _ => None,
            })
            .collect()
    }

    /// A state in which the group's grid is open since 10 s with a period of 1 s, and slots 0 to 4 were read.
    fn reading() -> (State, GridId) {
        let mut state = State::default();
        let mut dirty = BTreeSet::new();
        let mut change = Change { state: &mut state, dirty: &mut dirty };
        let line = GridLine { first: Timestamp(10_000_000_000), period: Duration::from_secs(1) };
        change.open_grid(Position(5), GROUP, line, None, Cause::Configuration);
        let grid = change.state.grids[&GROUP].id;
        for slot in 0..5 {
            change.append(Position(6 + slot), 100, &[polled(grid, slot)], false);
        }
        (state, grid)
    }

    #[test]
    fn a_poll_in_flight_when_its_grid_is_closed_is_inside_the_gap() {
        let (mut state, grid) = reading();
        let mut dirty = BTreeSet::new();
        let mut change = Change { state: &mut state, dirty: &mut dirty };
        // Stamped just before slot 5, applied just after it was read.
        change.close_grid(
            AT,
            stamp(14.99),
            GROUP,
            &[(GROUP, Duration::from_millis(990))],
            (Cause::Disabled, Revision(1)),
        );
        let outcome = change.append(Position(21), 100, &[polled(grid, 5)], false);
        assert_eq!(
            outcome,
            Outcome::Appended { position: Position(21), batches: vec![BatchOutcome::Stale { grid }] }
        );
        assert_eq!(gaps(&state), [(5, 5, Cause::Disabled)]);
        assert_eq!(state.effects[&Position(21)].refused, [0]);
    }

    #[test]
    fn a_slot_inside_the_gap_of_its_closing_is_not_said_twice() {
        let (mut state, grid) = reading();
        let mut dirty = BTreeSet::new();
        let mut change = Change { state: &mut state, dirty: &mut dirty };
        change.close_grid(
            AT,
            stamp(15.5),
            GROUP,
            &[(GROUP, Duration::from_millis(1_500))],
            (Cause::Configuration, Revision(1)),
        );
        change.append(Position(21), 100, &[polled(grid, 5)], false);
        assert_eq!(gaps(&state), [(5, 5, Cause::Configuration)]);
    }

    #[test]
    fn a_slot_is_taken_whatever_number_of_samples_its_batch_has() {
        let (mut state, grid) = reading();
        let before = state.fill.samples;
        let mut dirty = BTreeSet::new();
        let mut change = Change { state: &mut state, dirty: &mut dirty };
        // An entry with so many cannot be read; still nothing overflows here.
        let batch = |(slot, count)| BatchHeader { count, ..polled(grid, slot) };
        let batches = [(5, 7), (6, 1), (7, u32::MAX), (8, u32::MAX)].map(batch);
        let outcome = change.append(Position(21), 100, &batches, false);
        let accepted = vec![BatchOutcome::Accepted; 4];
        assert_eq!(outcome, Outcome::Appended { position: Position(21), batches: accepted });
        assert_eq!(state.fill.samples - before, 8 + 2 * u64::from(u32::MAX));
        assert_eq!((state.grids[&GROUP].next, gaps(&state)), (9, Vec::new()));
    }

    #[test]
    fn what_an_earlier_leader_read_is_fenced_in_a_later_reign() {
        let (mut state, grid) = reading();
        state.reigns.push(reign_of(NodeId(2)));
        let mut dirty = BTreeSet::new();
        let mut change = Change { state: &mut state, dirty: &mut dirty };
        let outcome = change.append(Position(21), 100, &[polled(grid, 5)], false);
        assert_eq!(
            outcome,
            Outcome::Appended { position: Position(21), batches: vec![BatchOutcome::Fenced] }
        );
    }

    #[test]
    fn a_gap_bears_the_cause_of_the_reign_that_began_in_it() {
        let (mut state, grid) = reading();
        state.reigns.push(reign_of(NodeId(2)));
        let mut dirty = BTreeSet::new();
        let mut change = Change { state: &mut state, dirty: &mut dirty };
        let by_the_new_leader = |slot| BatchHeader { node: NodeId(2), ..polled(grid, slot) };
        change.append(Position(21), 100, &[by_the_new_leader(8)], false);
        change.append(Position(22), 100, &[by_the_new_leader(10)], false);
        assert_eq!(gaps(&state), [(5, 7, Cause::Failover), (9, 9, Cause::Late)]);
    }
}
