//! Phases of slots that were applied at once, late, and by whom.

use model::slots::{GridLine, Resumption, resume};
use model::{Cause, NodeId, Term, Timestamp};

use super::*;
use crate::ledger::Reign;

const PERIOD: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const GROUP: GroupId = GroupId(1);
const SLOW: GroupId = GroupId(2);
const MINUTE: Duration = Duration::from_secs(60);

/// A node that applies entries; steady command time is counted from where it began.
struct Follower {
    phases: Phases,
    state: State,
    began: Instant,
    at: Position,
    /// By the leader's wall clock; without it, all slots begin when they are proposed.
    said_at: Option<Timestamp>,
    /// When the leader's clock was set back, and by how much.
    set_back: (Duration, Duration),
}

impl Follower {
    /// A node that is up from now on, with a fast and a slow grid open and their leader in office.
    fn new() -> Self {
        let mut state = State::default();
        state.reigns.push(reign(1));
        for (group, period) in [(GROUP, PERIOD), (SLOW, MINUTE)] {
            let line = GridLine { first: Timestamp(0), period };
            state
                .grids
                .insert(group, Grid { id: GridId(group.0.into()), line, next: 0, touched: Position(1) });
        }
        let began = Instant::now();
        let phases = Phases::of(&state, began);
        Self { phases, state, began, at: Position(1), said_at: None, set_back: Default::default() }
    }

    /// Applies slot `slot` of `group`, which was proposed so long after the beginning, `now`.
    fn apply(&mut self, group: GroupId, slot: u64, proposed: Duration, now: Instant, is_in_office: bool) {
        self.at = self.at.next();
        let (set_at, by) = self.set_back;
        let since = proposed.saturating_sub(set_at);
        self.state.steady =
            Steady { now: proposed - since.min(by), owed: by.saturating_sub(since), ..Steady::default() };
        let grid = self.state.grids.get_mut(&group).expect("it is open");
        (grid.next, grid.touched) = (slot + 1, self.at);
        let term = self.state.reign().expect("somebody reigns").term;
        self.phases.applied(&self.state, (LogId { term, index: self.at }, self.said_at), is_in_office, now);
    }

    /// The same at once.
    fn apply_live(&mut self, group: GroupId, slot: u64, proposed: Duration) {
        self.apply(group, slot, proposed, self.began + proposed, true);
    }

    fn elapsed(&self, group: GroupId, now: Instant) -> Elapsed {
        self.phases.elapsed(group, &self.state.grids[&group], now)
    }
}

fn reign(term: u64) -> Reign {
    Reign {
        position: Position(term),
        term: Term(term),
        node: NodeId(term),
        name: "gateway-a".into(),
        cause: Cause::Failover,
        boot: Default::default(),
        since: Timestamp(0),
    }
}

fn near(left: Duration, right: Duration) -> bool {
    left.abs_diff(right) < Duration::from_millis(2)
}

#[track_caller]
fn assert_exactly(elapsed: Elapsed, long: Duration) {
    let most = elapsed.most.expect("it is known how long at most");
    assert!(near(elapsed.least, long) && near(most, long), "expected {long:?}, found {elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slot_applied_at_once_began_then() {
    let mut follower = Follower::new();
    follower.apply_live(GROUP, 0, SECOND);
    assert_exactly(follower.elapsed(GROUP, follower.began + SECOND * 3), SECOND * 2);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_always_read_late_in_its_period_began_at_its_beginning() {
    for (period, late) in [(MINUTE, SECOND * 40), (MINUTE * 60, MINUTE * 45)] {
        let line = GridLine { first: Timestamp(0), period };
        let mut follower = Follower::new();
        follower.state.grids.get_mut(&SLOW).expect("it is open").line = line;
        for slot in 0..3 {
            let said = period * slot + late;
            follower.said_at = Some(Timestamp(0).plus(said));
            follower.apply_live(SLOW, u64::from(slot), said);
        }
        // Ten seconds into the slot behind the next one: clocks agree.
        let passed = period * 4 + SECOND * 10;
        let (elapsed, began) = (follower.elapsed(SLOW, follower.began + passed), period * 2 + SECOND * 10);
        assert!(near(elapsed.least, began - late), "since it was applied: {elapsed:?}");
        assert!(near(elapsed.most.expect("it is known"), began), "since it began: {elapsed:?}");
        let next = follower.state.grids[&SLOW].next;
        let resumption = resume(&line, next, Timestamp(0).plus(passed), elapsed);
        assert_eq!(resumption, Resumption::Continue { slot: 5 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_leaders_last_slot_is_known_to_have_begun_earlier() {
    let mut follower = Follower::new();
    for slot in 0..5 {
        follower.apply_live(GROUP, slot, PERIOD * slot as u32);
    }
    // It is applied by its successor, 600 ms after it was read.
    let now = follower.began + PERIOD * 5 + Duration::from_millis(600);
    follower.apply(GROUP, 5, PERIOD * 5, now, false);
    assert_exactly(follower.elapsed(GROUP, now), Duration::from_millis(600));
}

#[tokio::test(start_paused = true)]
async fn one_slow_slot_does_not_move_the_phase() {
    let mut follower = Follower::new();
    follower.apply_live(GROUP, 0, Duration::ZERO);
    let now = follower.began + PERIOD + Duration::from_millis(80);
    follower.apply(GROUP, 1, PERIOD, now, true);
    assert_exactly(follower.elapsed(GROUP, follower.began + PERIOD * 2), PERIOD);
}

#[tokio::test(start_paused = true)]
async fn the_opening_says_nothing_of_when_slot_0_began() {
    let mut follower = Follower::new();
    assert_eq!(follower.elapsed(GROUP, follower.began + PERIOD), Elapsed::at_least(PERIOD));
    follower.apply_live(GROUP, 0, SECOND);
    assert_exactly(follower.elapsed(GROUP, follower.began + SECOND), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn another_grid_begins_anew() {
    let mut follower = Follower::new();
    follower.apply_live(GROUP, 7, SECOND);
    follower.state.grids.get_mut(&GROUP).expect("it is open").id = GridId(9);
    let now = follower.began + SECOND * 2;
    assert_eq!(follower.elapsed(GROUP, now), Elapsed::default(), "nothing was applied of it");
    follower.apply_live(GROUP, 0, SECOND * 2);
    assert_exactly(follower.elapsed(GROUP, now), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_another_slot_is_not_said_of_the_last() {
    let mut follower = Follower::new();
    follower.apply_live(GROUP, 7, SECOND);
    follower.state.grids.get_mut(&GROUP).expect("it is open").next = 100;
    assert_eq!(follower.elapsed(GROUP, follower.began + MINUTE), Elapsed::default());
}

#[tokio::test(start_paused = true)]
async fn what_was_applied_in_catching_up_began_at_any_time_before() {
    let mut follower = Follower::new();
    // Back after a minute: the slow slot was proposed at its beginning, the others each second after that.
    let back = follower.began + MINUTE;
    follower.apply(SLOW, 3, Duration::ZERO, back, true);
    for second in 1..60 {
        follower.apply(GROUP, u64::from(second) * 10, SECOND * second, back, true);
    }
    follower.apply_live(GROUP, 600, MINUTE);
    follower.apply_live(GROUP, 610, MINUTE + SECOND);
    let now = follower.began + MINUTE + SECOND * 2;
    let slow = follower.elapsed(SLOW, now);
    assert_eq!(slow.least, SECOND * 2, "since it was applied");
    assert!(slow.most.is_none_or(|most| most >= MINUTE + SECOND * 2), "it took a minute longer: {slow:?}");
    assert_exactly(follower.elapsed(GROUP, now), SECOND);
    // The next slow slot is applied at once.
    follower.apply_live(SLOW, 4, MINUTE + SECOND * 3);
    assert_exactly(follower.elapsed(SLOW, now + SECOND * 2), SECOND);
}

#[tokio::test(start_paused = true)]
async fn what_a_leader_proposed_that_is_not_in_office_any_more_may_be_of_any_age() {
    let mut follower = Follower::new();
    follower.apply(SLOW, 3, Duration::ZERO, follower.began + MINUTE, false);
    let elapsed = follower.elapsed(SLOW, follower.began + MINUTE + SECOND);
    assert_eq!(elapsed, Elapsed::at_least(SECOND));
}

#[tokio::test(start_paused = true)]
async fn each_reign_has_a_pace_of_its_own() {
    let mut follower = Follower::new();
    follower.apply_live(SLOW, 0, SECOND);
    // Nobody led for ten seconds, which are not in steady command time.
    follower.state.reigns.push(reign(2));
    for slot in 0..3 {
        let (proposed, ago) = (SECOND + PERIOD * slot, SECOND * 11 + PERIOD * slot);
        follower.apply(GROUP, u64::from(slot), proposed, follower.began + ago, true);
    }
    let now = follower.began + SECOND * 12;
    assert_exactly(follower.elapsed(GROUP, now), SECOND - PERIOD * 2);
    assert_exactly(follower.elapsed(SLOW, now), SECOND * 11);
}

#[tokio::test(start_paused = true)]
async fn after_a_step_back_a_clock_that_is_still_ahead_invents_no_gap() {
    let step = MINUTE * 5;
    // While command time stands, when it goes on again, and later.
    for slots in [600_u32, 3_001, 7_200] {
        let mut follower = Follower::new();
        follower.apply_live(SLOW, 0, Duration::ZERO);
        follower.apply_live(GROUP, 7, PERIOD);
        follower.set_back = (SECOND, step);
        let line = GridLine { first: Timestamp(0).plus(SECOND).minus(step), period: PERIOD };
        let grid = Grid { id: GridId(9), line, next: 0, touched: Position(0) };
        follower.state.grids.insert(GROUP, grid);
        for slot in 0..slots {
            follower.apply_live(GROUP, u64::from(slot), SECOND + PERIOD * slot);
        }
        let (since, next) = (PERIOD / 2, u64::from(slots));
        let passed = SECOND + PERIOD * (slots - 1) + since;
        let elapsed = follower.elapsed(GROUP, follower.began + passed);
        assert_exactly(elapsed, since);
        assert_exactly(follower.elapsed(SLOW, follower.began + passed), passed);
        let right = line.nominal(next - 1).plus(since);
        assert_eq!(resume(&line, next, right, elapsed), Resumption::Continue { slot: next });
        let ahead = resume(&line, next, right.plus(step), elapsed);
        assert!(matches!(ahead, Resumption::Reclock { .. }), "after {slots} slots: {ahead:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_applied_late_after_a_step_back_began_earlier() {
    let mut follower = Follower::new();
    follower.apply_live(GROUP, 0, SECOND);
    follower.set_back = (SECOND * 2, MINUTE);
    // It was away for ten seconds, in which the clock was set.
    let back = follower.began + SECOND * 12;
    for second in 2..12 {
        follower.apply(GROUP, u64::from(second) * 10, SECOND * second, back, true);
    }
    follower.apply(SLOW, 0, SECOND * 11, back, true);
    follower.apply_live(GROUP, 120, SECOND * 12);
    let slow = follower.elapsed(SLOW, back);
    let most = slow.most.expect("it is known");
    assert!(most >= SECOND, "it began a second ago: {slow:?}");
    assert!(most <= SECOND * 2, "the clock was set within a second: {slow:?}");
}

/// A follower that applied something a second after the beginning, and whose leader's clock is set back after another.
fn before_a_step_back() -> Follower {
    let mut follower = Follower::new();
    follower.apply_live(SLOW, 0, Duration::ZERO);
    follower.apply_live(GROUP, 0, SECOND);
    follower.set_back = (SECOND * 2, MINUTE);
    follower
}

#[tokio::test(start_paused = true)]
async fn a_step_back_while_this_node_stood_still_leaves_alone_what_was_known_before() {
    let mut follower = before_a_step_back();
    let back = follower.began + SECOND * 12;
    for second in 2..12 {
        follower.apply(GROUP, u64::from(second - 1) * 10, SECOND * second, back, true);
    }
    follower.apply_live(GROUP, 110, SECOND * 12);
    assert_exactly(follower.elapsed(SLOW, back), SECOND * 12);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_to_be_applied_at_once_because_the_clock_was_set_back_before_it() {
    // It stood still for ten seconds, and nothing comes behind these: their leader is dead.
    for entries in 0..3 {
        let mut follower = before_a_step_back();
        let back = follower.began + SECOND * 12;
        for second in 2..2 + entries {
            follower.apply(GROUP, u64::from(second - 1) * 10, SECOND * second, back, true);
        }
        follower.state.grids.get_mut(&SLOW).expect("it is open").id = GridId(9);
        follower.apply(SLOW, 0, SECOND * (2 + entries), back, true);
        let (slow, truly) = (follower.elapsed(SLOW, back), SECOND * (10 - entries));
        assert!(slow.most.is_none_or(|most| most >= truly), "it began {truly:?} ago: {slow:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_keeps_pace_after_a_step_back_knows_before_long_when_slots_began() {
    let mut follower = before_a_step_back();
    for second in 2..4 {
        follower.apply_live(GROUP, u64::from(second - 1) * 10, SECOND * second);
    }
    follower.state.grids.get_mut(&SLOW).expect("it is open").id = GridId(9);
    follower.apply_live(SLOW, 0, SECOND * 4);
    assert_exactly(follower.elapsed(SLOW, follower.began + SECOND * 5), SECOND);
}

#[tokio::test(start_paused = true)]
async fn stamps_that_come_out_of_order_show_no_step_back() {
    let (mut lateness, began) = (Lateness::default(), Instant::now());
    let mut follow = |made, applied| {
        let applied = began + Duration::from_millis(applied);
        let revised = lateness.follow(Position(1), Timestamp::from_millis(made), applied);
        (revised, lateness.late)
    };
    assert_eq!(follow(1_000, 1_000), (Duration::ZERO, Duration::ZERO));
    assert_eq!(follow(950, 1_001), (Duration::ZERO, Duration::from_millis(51)));
    assert_eq!(follow(1_050, 1_050), (Duration::ZERO, Duration::ZERO), "nothing was later than it seemed");
}
