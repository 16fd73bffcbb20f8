//! The state that `apply` builds: everything the cluster has agreed on besides the samples themselves.
//!
//! - It lives in memory and is the truth; rows on disk follow it ([`super::rows`]).
//! - Ordered maps only: whatever is walked here decides something, and must be walked in the same order everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::catalog::{Catalog, Registry};
use model::command::{Event, Severity};
use model::ids::{
    BootId, ClusterId, DestinationId, DocumentId, GridId, GroupId, Lineage, NodeId, Revision, SessionId, Term,
};
use model::plant::Plant;
use model::slots::GridLine;
use model::{AlarmKind, Cause, Cursor, Member, Ordinal, Position, Timestamp};
use serde::{Deserialize, Serialize};

use super::fill::Fill;
use crate::staging::Staged;

/// (term, index) of an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogId {
    /// The leader's term when it was proposed.
    pub term: Term,
    /// Its position.
    pub index: Position,
}

/// Who belongs to the cluster, as of one entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The entry that said so.
    pub log_id: Option<LogId>,
    /// Sets of voters; two while the membership is changing.
    pub configs: Vec<BTreeSet<u64>>,
    /// All members, voters or not.
    pub nodes: BTreeMap<u64, Member>,
}

/// What the cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its id.
    pub id: ClusterId,
    /// Its name.
    pub name: String,
}

/// A leader's time in office, from the position of its `Lead`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reign {
    /// Position of the `Lead`.
    pub position: Position,
    /// Its term.
    pub term: Term,
    /// The leader.
    pub node: NodeId,
    /// The leader's name.
    pub name: String,
    /// Why it took over.
    pub cause: Cause,
    /// Its process.
    pub boot: BootId,
    /// Its wall clock when it proposed to lead.
    pub since: Timestamp,
}

/// An open schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grid {
    /// This opening.
    pub id: GridId,
    /// Where it lies on the wall clock.
    pub line: GridLine,
    /// The first slot about which nothing has been said.
    pub next: u64,
    /// The entry that said something about slot `next − 1`, or opened the grid.
    pub touched: Position,
}

/// A schedule that ended in this reign. A poll that was in flight when it ended may still arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedGrid {
    /// Its group.
    pub group: GroupId,
    /// Where it lay on the wall clock.
    pub line: GridLine,
    /// The first slot about which nothing was said.
    pub end: u64,
    /// Why it ended.
    pub cause: Cause,
    /// The revision that was in force until then.
    pub revision: Revision,
}

/// What is known of a push session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The last sequence number accepted.
    pub last: u64,
    /// When it was last used, in steady command time.
    pub used: Duration,
}

/// Command time that no setting of a clock moves: the sum of the steps forward that the reigning leader's own stamps
/// took, less their steps back. It runs late (a leader without commands is counted for [`Steady::LONGEST`] at most). A
/// clock that is set forward makes it early by that much at most, until it is set back; going to and fro adds nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steady {
    /// Since the cluster was founded.
    pub now: Duration,
    /// The process whose stamps are followed.
    pub boot: BootId,
    /// Its last stamp.
    pub seen: Timestamp,
    /// Steps back that steps forward have not made good yet: until then no time passes. It outlives a reign, because what
    /// a step forward counted too early does, too.
    #[serde(default, skip_serializing_if = "Duration::is_zero")]
    pub owed: Duration,
}

impl Steady {
    /// No two commands count as further apart than this.
    pub const LONGEST: Duration = Duration::from_secs(600);

    /// Follows a stamp of the reigning process.
    pub(super) fn follow(&mut self, boot: BootId, at: Timestamp) {
        if self.boot == boot {
            let step = at.nanos_since(self.seen);
            let length = Duration::from_nanos(step.unsigned_abs()).min(Self::LONGEST);
            if step < 0 {
                self.owed = self.owed.saturating_add(length);
            } else {
                let paid = length.min(self.owed);
                self.owed -= paid;
                self.now += length - paid;
            }
        }
        (self.boot, self.seen) = (boot, at);
    }
}

/// What is known of a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationState {
    /// Its id in the plant.
    pub name: String,
    /// The next record to deliver.
    pub cursor: Cursor,
    /// Whether it holds back truncation.
    pub required: bool,
    /// Held by an operator.
    pub paused: Option<Standing>,
    /// Refused records that no longer fitted into its quarantine.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub given_up: u64,
    /// Refused records that it has accepted when they were offered again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub accepted_again: u64,
    /// How often it has refused one again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused_again: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Something that lasts until it is taken back: who asked for it, why, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Who.
    pub principal: String,
    /// Why; may be empty.
    pub reason: String,
    /// When, by the proposer's wall clock.
    pub at: Timestamp,
    /// When it ends by itself.
    pub until: Option<End>,
}

/// When something ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// For people, by the wall clock of who ordered it; it also tells one order from another.
    pub at: Timestamp,
    /// What decides: steady command time, which no setting of a clock moves.
    pub steady: Duration,
}

/// One revision of the plant.
#[derive(Debug, Clone)]
pub struct RevisionState {
    /// The entry that configured it.
    pub position: Position,
    /// When, by the proposer's wall clock.
    pub at: Timestamp,
    /// Who asked for it.
    pub principal: String,
    /// Why; may be empty.
    pub reason: String,
    /// What is in its plant.
    pub contents: Contents,
    /// The files as they were written, packed; of the newest revisions only.
    pub bundle: Option<Bytes>,
    /// The plant with its numbers, as long as something may ask for it; see [`super::revisions`].
    pub catalog: Option<Arc<Catalog>>,
}

/// How much is in a plant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Devices.
    pub devices: u32,
    /// Their tags.
    pub tags: u32,
    /// Destinations.
    pub destinations: u32,
}

impl Contents {
    pub(super) fn of(plant: &Plant) -> Self {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            devices: count(plant.devices.len()),
            tags: count(plant.tags().count()),
            destinations: count(plant.destinations.len()),
        }
    }
}

/// What `apply` did at a position besides accepting every batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effects {
    /// Numbers of the batches that were refused, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<u32>,
    /// Records made here; the i-th has the ordinal 2³¹ + i.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<EffectRecord>,
}

/// A record that `apply` made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EffectRecord {
    /// Slots without samples.
    Gap {
        /// The group.
        group: GroupId,
        /// The grid.
        grid: GridId,
        /// Where that grid lies.
        line: GridLine,
        /// First slot.
        first: u64,
        /// Last slot.
        last: u64,
        /// Why.
        cause: Cause,
        /// The revision under which they were due: it says which tags are missing, and who was to get them.
        revision: Revision,
    },
    /// A grid begins.
    Opening {
        /// The group.
        group: GroupId,
        /// The grid.
        grid: GridId,
        /// Where it lies.
        line: GridLine,
        /// The grid it replaces.
        replaces: Option<GridId>,
        /// Why.
        cause: Cause,
    },
    /// A destination lost its claim on a run of entries.
    Expiry {
        /// Its name; it may no longer be in the plant.
        destination: String,
        /// Its number.
        id: DestinationId,
        /// Where its cursor stood.
        from: Cursor,
        /// Where its cursor is now.
        to: Cursor,
        /// Why.
        cause: Cause,
        /// Samples between, before routing.
        samples: u64,
    },
}

/// A record that a destination refused for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// What the destination said.
    pub reason: String,
    /// When it was refused.
    pub at: Timestamp,
    /// The record as JSON.
    pub record: String,
    /// To be offered again.
    pub retry: bool,
}

/// An event in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedEvent {
    /// When, by the proposer's wall clock.
    pub at: Timestamp,
    /// What.
    pub event: Event,
}

/// An alarm that was raised and not cleared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingAlarm {
    /// When it was raised, by the proposer's wall clock.
    pub since: Timestamp,
    /// How grave it is.
    pub severity: Severity,
    /// What was wrong when it was raised.
    pub text: String,
}

/// Key of an alarm: what, and whom it concerns (empty for the cluster).
pub type AlarmKey = (AlarmKind, String);

/// Key of a quarantined record.
pub type QuarantineKey = (DestinationId, Position, Ordinal);

/// Everything the cluster has agreed on besides the samples.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The last entry applied.
    pub applied: Option<LogId>,
    /// Who belongs to the cluster.
    pub membership: Membership,
    /// What the cluster is; absent until it is founded.
    pub cluster: Option<Cluster>,
    /// From which position each lineage holds.
    pub lineages: Vec<(Position, Lineage)>,
    /// Everything at or before it may be deleted.
    pub horizon: Position,
    /// The last entry that holds anything to deliver.
    pub last_deliverable: Position,
    /// How much was accepted, and where.
    pub fill: Fill,
    /// Command time that no setting of a clock moves.
    pub steady: Steady,
    /// Reigns that positions above the horizon need, the current one last.
    pub reigns: Vec<Reign>,
    /// Names of all nodes that ever were members.
    pub node_names: BTreeMap<NodeId, String>,
    /// Numbers of names.
    pub registry: Arc<Registry>,
    /// Open schedules.
    pub grids: BTreeMap<GroupId, Grid>,
    /// Schedules that ended in this reign, the newest two of each group.
    pub closed: BTreeMap<GridId, ClosedGrid>,
    /// The last grid number given.
    pub last_grid: GridId,
    /// Push sessions.
    pub sessions: BTreeMap<SessionId, Session>,
    /// Destinations.
    pub destinations: BTreeMap<DestinationId, DestinationState>,
    /// Revisions of which something is kept, the one in force last.
    pub revisions: BTreeMap<Revision, RevisionState>,
    /// Revisions to which a position above the horizon refers although another was in force there, and the last such
    /// position.
    pub referred: BTreeMap<Revision, Position>,
    /// What happened at positions above the horizon besides acceptance.
    pub effects: BTreeMap<Position, Effects>,
    /// Refused records.
    pub quarantine: BTreeMap<QuarantineKey, Quarantined>,
    /// The newest events.
    pub events: BTreeMap<Position, LoggedEvent>,
    /// The alarms that stand.
    pub alarms: BTreeMap<AlarmKey, StandingAlarm>,
    /// Nodes that may not lead.
    pub drained: BTreeMap<NodeId, Standing>,
    /// How often in a row each node lost leadership soon after it had been handed over to it.
    pub relapses: BTreeMap<NodeId, u32>,
    /// Devices out of service by command.
    pub disabled: BTreeMap<String, Standing>,
    /// Documents of which parts have arrived, and that no command has used yet.
    pub staged: BTreeMap<DocumentId, Staged>,
}

impl State {
    /// Whether a node of that number was a member and is none any more; numbers are never given again.
    pub fn was_removed(&self, node: NodeId) -> bool {
        self.node_names.contains_key(&node) && !self.membership.nodes.contains_key(&node.0)
    }

    /// The reign in force.
    pub fn reign(&self) -> Option<&Reign> {
        self.reigns.last()
    }

    /// Whether an entry was proposed in another term than the one in which somebody reigns.
    pub fn is_fenced(&self, id: LogId) -> bool {
        let reign = self.reign().map(|reign| reign.term).unwrap_or_default();
        reign != id.term && !runtime::mutant("ended-term-is-not-fenced")
    }

    /// The reign in force at `position`.
    pub fn reign_at(&self, position: Position) -> Option<&Reign> {
        let behind = self.reigns.partition_point(|reign| reign.position <= position);
        self.reigns[..behind].last()
    }

    /// The lineage of `position`.
    pub fn lineage_at(&self, position: Position) -> Option<Lineage> {
        let behind = self.lineages.partition_point(|(from, _)| *from <= position);
        self.lineages[..behind].last().map(|(_, lineage)| *lineage)
    }

    /// The revision in force, 0 for a cluster that was never configured.
    pub fn revision(&self) -> Revision {
        self.revisions.last_key_value().map_or(Revision(0), |(revision, _)| *revision)
    }

    /// The catalog in force.
    pub fn catalog(&self) -> Option<&Arc<Catalog>> {
        self.revisions.last_key_value().and_then(|(_, state)| state.catalog.as_ref())
    }

    /// The catalog in force at `position`, where that is above the horizon.
    pub fn catalog_at(&self, position: Position) -> Option<&Arc<Catalog>> {
        self.revisions.values().rev().find(|state| state.position <= position)?.catalog.as_ref()
    }

    /// The catalog of a revision that something above the horizon refers to.
    pub fn catalog_of(&self, revision: Revision) -> Option<&Arc<Catalog>> {
        self.revisions.get(&revision)?.catalog.as_ref()
    }

    /// The plant in force.
    pub fn plant(&self) -> Arc<Plant> {
        self.catalog().map_or_else(Arc::default, |catalog| Arc::clone(catalog.plant()))
    }

    /// The position up to which nothing is undelivered, to required and optional destinations alike: only an overrun
    /// gives up what an optional one has not confirmed.
    pub fn delivered_horizon(&self) -> Position {
        self.confirmed(|_| true)
    }

    /// The position up to which nothing is undelivered to required destinations.
    pub fn required_horizon(&self) -> Position {
        self.confirmed(|destination| destination.required)
    }

    /// The position up to which all destinations that count have confirmed everything.
    fn confirmed(&self, counts: impl Fn(&DestinationState) -> bool) -> Position {
        let counting = self.destinations.values().filter(|destination| counts(destination));
        counting
            .map(|destination| Position(destination.cursor.position.0.saturating_sub(1)))
            .fold(self.applied_position(), Position::min)
    }

    /// No snapshot may lie above this: everything at or below it is delivered, or nothing is deliverable at all.
    pub fn snapshot_limit(&self) -> Position {
        let all = self.last_deliverable <= self.horizon || runtime::mutant("snapshot-lies-above-the-horizon");
        if all { self.applied_position() } else { self.horizon }
    }

    /// Position of the last entry applied.
    pub fn applied_position(&self) -> Position {
        self.applied.map_or(Position::ZERO, |id| id.index)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::{Loader, Row};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn followed(seconds: &[i64]) -> Steady {
        let mut steady = Steady::default();
        for at in seconds {
            steady.follow(BootId::from(1), Timestamp(at * 1_000_000_000));
        }
        steady
    }

    #[test]
    fn a_clock_that_goes_to_and_fro_does_not_make_command_time_early() {
        let steady = followed(&[1_000, 1_060, 1_000, 1_060, 1_000, 1_060, 1_070]);
        assert_eq!((steady.now, steady.owed), (SECOND * 70, Duration::ZERO));
        let years = 10 * 365 * 86_400;
        let steady = followed(&[1_000, years, 1_000, years, 1_000, 1_010]);
        assert_eq!(steady.now, Steady::LONGEST, "early by one longest step, however often it is set");
        let steady = followed(&[1_000, 900, 950]);
        assert_eq!((steady.now, steady.owed), (Duration::ZERO, SECOND * 50), "late is safe");
    }

    #[test]
    fn a_position_is_of_the_last_lineage_that_began_at_or_before_it() {
        let (first, second) = (Lineage::from_random(1), Lineage::from_random(2));
        let lineages = vec![(Position(3), first), (Position(10), second)];
        let state = State { lineages, ..State::default() };
        let at = |position| state.lineage_at(Position(position));
        assert_eq!((at(0), at(2)), (None, None), "before the cluster was founded");
        assert_eq!((at(3), at(9)), (Some(first), Some(first)));
        assert_eq!((at(10), at(1_000)), (Some(second), Some(second)));
    }

    #[test]
    fn what_a_clock_owes_is_kept_in_the_rows() {
        let row = |state: &State| Row::Applied.encode(state).expect("there is always one");
        let before = State { steady: followed(&[1_000, 990]), ..State::default() };
        let mut after = State::default();
        Loader::default().load(&mut after, &Row::Applied.key(), &row(&before)).expect("it was just encoded");
        assert_eq!(after.steady, before.steady);
    }
}
