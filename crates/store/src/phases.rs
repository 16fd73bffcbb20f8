//! When slots began, on this node's monotonic clock: worked out from when they were applied here.
//!
//! A slot began before it was applied, but nobody says how long before: a follower that was down, or far behind, applies
//! within a moment what took minutes, and the newest entries of a dead leader only when it leads itself. So a phase is a
//! span of time:
//! - *Not later*: slots come at a period, so the earliest one seen, carried forward, is when a slot began, plus the least
//!   delay. That holds whatever was applied late.
//! - *Not earlier*: only where the slot was proposed by who is in office, and this node can tell how late it applies what
//!   that one proposes ([`Lateness`]). How long before that the slot began (a shifted schedule, a slow scan, a line that is
//!   shared) says the clock of who read it, which the grid lies on. Otherwise nothing is known of it but what was known of
//!   the slots before.
//!
//! Pure; told of what was applied and of now. Spans widen by [`LEAK`] of the time they are carried over.

use std::collections::BTreeMap;
use std::time::Duration;

use model::slots::Elapsed;
use model::{GridId, GroupId, Position, Timestamp};
use tokio::time::Instant;

use crate::ledger::{Grid, LogId, State, Steady};

/// 1,000 ppm: more than two crystals differ.
const LEAK: u32 = 1_000;

/// When the last slot of each open grid began.
#[derive(Debug, Default)]
pub(crate) struct Phases {
    groups: BTreeMap<GroupId, Phase>,
    lateness: Lateness,
}

impl Phases {
    /// Of a ledger that was read or installed just now: it says nothing of when its slots began.
    pub(crate) fn of(state: &State, now: Instant) -> Self {
        let phase = |(group, grid): (&GroupId, &Grid)| (*group, Phase::applied(None, grid, None, now));
        Self { groups: state.grids.iter().map(phase).collect(), lateness: Lateness::default() }
    }

    /// Takes note of what `state` became when entry `id`, proposed at `said_at` by its leader's wall clock, was applied,
    /// `now`. Whether that leader `is_in_office`, as far as this node knows: what an earlier one proposed may be much older.
    pub(crate) fn applied(
        &mut self,
        state: &State,
        (id, said_at): (LogId, Option<Timestamp>),
        is_in_office: bool,
        now: Instant,
    ) {
        let reign = state.reign().filter(|reign| is_in_office && reign.term == id.term);
        let late = reign.map(|reign| {
            let revised = self.lateness.follow(reign.position, made(&state.steady), now);
            if !revised.is_zero() {
                self.groups.values_mut().for_each(|phase| phase.revise(reign.position, revised));
            }
            (reign.position, self.lateness.late)
        });
        for (group, grid) in state.grids.iter().filter(|(_, grid)| grid.touched == id.index) {
            let known = self.groups.get(group).copied();
            let under_way = said_at.map_or(Duration::ZERO, |at| under_way(grid, at));
            let late = late.map(|(reign, late)| (reign, late + under_way));
            self.groups.insert(*group, Phase::applied(known, grid, late, now));
        }
        if self.groups.len() > state.grids.len() {
            self.groups.retain(|group, _| state.grids.contains_key(group));
        }
    }

    /// Time since the last slot of `group` began, or since its grid was opened. Of another grid, or another slot than the
    /// last, nothing is known.
    pub(crate) fn elapsed(&self, group: GroupId, grid: &Grid, now: Instant) -> Elapsed {
        let phase = self.groups.get(&group).filter(|phase| (phase.grid, phase.next) == (grid.id, grid.next));
        phase.map_or_else(Elapsed::default, |phase| phase.elapsed(now))
    }
}

/// The longest that is believed of the time from a slot's beginning to what was said of it, or its period where that is
/// longer: the wall clock says it.
const LONGEST_READ: Duration = Duration::from_secs(60);

/// For how long the last slot of a grid had been under way when something was said of it, at `said_at`.
fn under_way(grid: &Grid, said_at: Timestamp) -> Duration {
    let Some(last) = grid.next.checked_sub(1) else { return Duration::ZERO };
    said_at.since(grid.line.nominal(last)).min(LONGEST_READ.max(grid.line.period))
}

/// The phase of one group's grid: of the slot before `next`, or of its opening where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Phase {
    grid: GridId,
    next: u64,
    earliest: Option<Instant>,
    latest: Instant,
    /// The reign whose lateness `earliest` rests on.
    reign: Position,
}

impl Phase {
    /// The phase after something was said of `grid` that was applied at `now`, so much later than it was proposed in a
    /// reign, if that is known.
    fn applied(known: Option<Self>, grid: &Grid, late: Option<(Position, Duration)>, now: Instant) -> Self {
        let carried = known.and_then(|known| known.carried(grid));
        let latest = carried.map_or(now, |carried| carried.latest.min(now));
        let here = late.and_then(|(_, late)| now.checked_sub(late));
        let earliest = here.max(carried.and_then(|carried| carried.earliest));
        Self {
            grid: grid.id,
            next: grid.next,
            earliest: earliest.map(|earliest| earliest.min(latest)),
            latest,
            reign: late.map(|(reign, _)| reign).or(carried.map(|carried| carried.reign)).unwrap_or_default(),
        }
    }

    /// The same grid's phase at its slot now. An opening says nothing of when slot 0 began.
    fn carried(self, grid: &Grid) -> Option<Self> {
        let is_before = self.grid == grid.id && self.next > 0 && self.next <= grid.next;
        let slots = is_before.then(|| u32::try_from(grid.next - self.next).unwrap_or(u32::MAX))?;
        let passed = grid.line.period.saturating_mul(slots);
        let latest = self.latest.checked_add(passed + passed / LEAK)?;
        let earliest = self.earliest.and_then(|earliest| earliest.checked_add(passed - passed / LEAK));
        Some(Self { next: grid.next, earliest, latest, ..self })
    }

    /// What was taken to be applied at once in this reign had been under way for so long.
    fn revise(&mut self, reign: Position, revised: Duration) {
        if self.reign == reign {
            self.earliest = self.earliest.and_then(|earliest| earliest.checked_sub(revised));
        }
    }

    fn elapsed(&self, now: Instant) -> Elapsed {
        Elapsed {
            least: now.saturating_duration_since(self.latest),
            most: self.earliest.map(|earliest| now.saturating_duration_since(earliest)),
        }
    }
}

/// Stamps that come out of order differ by less, and every grid bears as much. Beyond it, the clock was set back.
const SET_BACK: Duration = Duration::from_millis(100);

/// When the last command was made, by the leader's clock and from any beginning. Steady command time stands while a step
/// back is made good; the clock goes on.
fn made(steady: &Steady) -> Timestamp {
    Timestamp(0).plus(steady.now).minus(steady.owed)
}

/// How late this node applies what the leader in office proposes: more than the entry with the least delay, by the
/// leader's clock.
///
/// A follower that catches up gets entries faster than they were made, so each shows that those before were later than it
/// seemed. A leader's clock that is set forward makes entries seem later than they were; only where this node stood still
/// meanwhile, the first entry behind the step seems just made until a later one shows otherwise.
///
/// With one that is set back, what came before cannot be compared: it begins anew, as with a reign. But the first entry
/// was made after the one before it, of which it is known how late it was, so there is a most that it can be late. That is
/// what is believed, less what passes by the leader's clock from then on: a follower that catches up finds it out, and one
/// that has kept pace for as long is not behind. Only what shows more than that says anything of the entries before.
#[derive(Debug, Default)]
struct Lateness {
    reign: Position,
    /// The entry with the least delay: when it was made, and when it was applied.
    least: Option<(Timestamp, Instant)>,
    /// The last entry: when it was made, and when it was applied.
    last: Option<(Timestamp, Instant)>,
    late: Duration,
    /// When the first entry was made on a clock that was set back, and how late that can have been at most.
    doubt: (Timestamp, Duration),
}

impl Lateness {
    /// Takes note of an entry that was applied at `now`. Gives by how much all before it were later than they seemed.
    fn follow(&mut self, reign: Position, made: Timestamp, now: Instant) -> Duration {
        let last = self.last.filter(|_| self.reign == reign);
        let seen = last.map_or(made, |(seen, _)| seen);
        let (least, applied) = match self.least.filter(|_| last.is_some()) {
            // What another node stamped does not move command time, and is as late as what came before it.
            Some(_) if made == seen => return Duration::ZERO,
            Some(least) if seen.since(made) <= SET_BACK => least,
            _ => {
                let at_most = last.map(|(_, applied)| self.late + now.saturating_duration_since(applied));
                self.doubt = (made, at_most.unwrap_or_default());
                (made, now)
            }
        };
        let passed = made.since(least);
        let expected = (applied + passed).checked_sub(least.since(made)).unwrap_or(applied);
        let late = now.saturating_duration_since(expected + passed / LEAK);
        if late.is_zero() {
            self.least = Some((made, now));
        }
        let (since, at_most) = self.doubt;
        let doubt = |made: Timestamp| at_most.saturating_sub(made.since(since));
        let revised = expected.saturating_duration_since(now).saturating_sub(doubt(seen));
        (self.reign, self.last, self.late) = (reign, Some((made, now)), late + doubt(made));
        revised
    }
}

#[cfg(test)]
mod tests;
