//! Samples and slots: which batches are accepted, and what becomes a gap.
//!
//! - Each slot of a grid is said exactly once: by a batch, or inside one gap.
//! - Nothing but `next` of the open grid decides whether a batch is new; clocks have no say here.

use std::time::Duration;

use model::batch::{BatchHeader, Source};
use model::command::Stamp;
use model::ids::{GridId, GroupId};
use model::slots::GridLine;
use model::{Cause, Position};

use super::Change;
use super::rows::Row;
use super::state::{EffectRecord, Effects, Grid, Session};
use crate::outcome::{BatchOutcome, Outcome, Refusal};

impl Change<'_> {
    pub(super) fn append(
        &mut self,
        at: Position,
        stamp: Stamp,
        batches: &[BatchHeader],
        fenced: bool,
    ) -> Outcome {
        let mut outcomes = Vec::with_capacity(batches.len());
        let mut refused = Vec::new();
        for (number, batch) in batches.iter().enumerate() {
            let outcome = match batch.source {
                _ if fenced => BatchOutcome::Fenced,
                Source::Polled { group, grid, slot, skipped } => self.polled(at, group, grid, slot, skipped),
                Source::Pushed { session, sequence } => {
                    let known = self.state.sessions.get(&session).map_or(0, |known| known.last);
                    if sequence <= known {
                        BatchOutcome::Already
                    } else if sequence > known + 1 {
                        BatchOutcome::Expected { sequence: known + 1 }
                    } else {
                        self.state.sessions.insert(session, Session { last: sequence, used: stamp.at });
                        self.touch(Row::Session(session));
                        BatchOutcome::Accepted
                    }
                }
            };
            if outcome != BatchOutcome::Accepted {
                refused.push(u32::try_from(number).expect("an entry holds far fewer batches"));
            }
            outcomes.push(outcome);
        }
        if refused.len() < batches.len() {
            self.state.last_delivered = at;
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
            return BatchOutcome::Stale { grid };
        };
        if slot < open.next {
            return BatchOutcome::Already;
        }
        if slot > open.next {
            self.gap(at, group, &open, slot - 1, self.cause_since(&open, skipped));
        }
        self.advance(at, group, slot + 1);
        BatchOutcome::Accepted
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
            return Outcome::Refused(Refusal::Unknown { what: "open grid", name: grid.to_string() });
        };
        if last >= open.next {
            self.gap(at, group, &open, last, self.cause_since(&open, cause));
            self.advance(at, group, last + 1);
        }
        Outcome::Done
    }

    pub(super) fn reclock(&mut self, at: Position, stamp: Stamp, elapsed: &[(GroupId, Duration)]) -> Outcome {
        let groups: Vec<GroupId> = self.state.grids.keys().copied().collect();
        for group in groups {
            let open = self.state.grids[&group];
            let missed = open.line.periods_in(elapsed_of(elapsed, group));
            if missed > 0 {
                self.gap(at, group, &open, open.next + missed - 1, Cause::Clock);
            }
            let line = GridLine::opening(stamp.at, open.line.period);
            self.open_grid(at, group, line, Some(open.id), Cause::Clock);
        }
        Outcome::Done
    }

    /// Ends the open grid of `group`, with a gap up to where its schedule had come.
    pub(super) fn close_grid(
        &mut self,
        at: Position,
        stamp: Stamp,
        group: GroupId,
        elapsed: &[(GroupId, Duration)],
        cause: Cause,
    ) -> Option<GridId> {
        let open = self.state.grids.remove(&group)?;
        self.touch(Row::Grid(group));
        let end = open.line.end_at(open.next, stamp.at, elapsed_of(elapsed, group));
        if end > open.next {
            self.gap(at, group, &open, end - 1, cause);
        }
        Some(open.id)
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
        self.effects(at).records.push(record);
        self.state.last_delivered = at;
    }

    fn gap(&mut self, at: Position, group: GroupId, open: &Grid, last: u64, cause: Cause) {
        let record =
            EffectRecord::Gap { group, grid: open.id, line: open.line, first: open.next, last, cause };
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

fn elapsed_of(elapsed: &[(GroupId, Duration)], group: GroupId) -> Duration {
    elapsed.iter().find(|(id, _)| *id == group).map_or(Duration::ZERO, |(_, elapsed)| *elapsed)
}
