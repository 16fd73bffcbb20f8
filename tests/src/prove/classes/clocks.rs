//! The wall clocks of one, two or three nodes jump by a tenth of a second to 25 hours under load, for some seconds; they stay
//! where they are then, or jump back.
//!
//! - Nobody but the nodes sees it: devices, pushers and whoever judges have the machine's clock.
//! - A leader whose clock jumps by more than its schedules bear opens its grids anew, and loses the slots of the time that
//!   takes: those are in gaps `clock`.
//! - No clock costs a leader. An election during a jump may be that of a busy machine: then the clocks are put right, and
//!   jump again in the same way. What comes twice was the clock's doing.
//! - No clock goes back by more than a day: there the certificates of callers begin, who are refused before, as they must be.
//! - A fault has bitten if each of them has looked at a wrong clock. It is not over before a leader that must open its grids
//!   anew has done so.

use std::time::Duration;

use anyhow::Result;
use rand::Rng as _;
use rand::rngs::SmallRng;
use simulator::account::{Account, ClockSet};
use simulator::history::monotonic_ns;
use simulator::nodes::layout::NODES;
use simulator::plant::Shape;
use tokio::time::sleep;

use super::{World, victims};
use crate::prove::liveness::Bounds;
use crate::prove::run::{Assignment, RunReport, TIMES};

/// In seconds: by how much a clock is wrong.
const LEAST: f64 = 0.1;
const MOST: f64 = 90_000.0;
const MOST_BACK: f64 = 86_000.0;
/// In nanoseconds: a clock that is set moves by so much at least.
const A_JUMP: u64 = 100_000_000;
/// In nanoseconds: schedules bear a tenth of a second, and make it up in some seconds. From here on they never do.
const TOO_MUCH: u64 = 300_000_000;
/// In milliseconds: how long clocks are wrong that jump back.
const HOLD: std::ops::Range<u64> = 2_000..4_000;
/// How often the same jump may cost a leader.
const ATTEMPTS: u32 = 2;
/// A leader's clock that is set, or another leader with another clock, may cost so much time, on a machine that does much
/// else. It is looked at three times in three tenths of a second before it is believed.
const COST: Duration = Duration::from_secs(3);
/// The cause of gaps and of openings.
const CLOCK: &str = "clock";

/// A leader whose clock is set by less than its schedules bear makes it up in some seconds, and reads late until then; the
/// account is not told of every jump, because a jump explains no other gap.
pub const BOUNDS: Bounds = Bounds { missed_percent: 5, ..Bounds::USUAL };

const LEADS_ON: &str = "I10 no wall clock that jumps costs a leader";
const CHEAP: &str = "I7 a leader's clock that is set costs 3 s of slots at most";

/// What clocks are to do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Jump {
    /// Nodes, and by how many nanoseconds their clocks are ahead then.
    to: Vec<(usize, i64)>,
    time: Duration,
    stays: bool,
}

/// What has been done, and what came of it.
#[derive(Debug, Default)]
struct Tally {
    /// By how many nanoseconds each node's clock is ahead.
    ahead: [i64; NODES],
    jumps: u32,
    /// How often the clock of a leader was set, or a leader came with another clock.
    set: u32,
    /// Changes of leader during jumps.
    changes: u32,
    /// Jumps that cost a leader each time.
    costly: Vec<Jump>,
}

/// Lets clocks jump so often.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    let mut world = Box::pin(World::open_controlled("clocks", assignment)).await?;
    {
        let mut account = world.scene.field.account.lock();
        account.allow(&[CLOCK]);
        // Whose clock is right at which moment is not told: from here on no sample's time is held against its read.
        account.clock_was_set(ClockSet { node: None, began_ns: monotonic_ns(), ended_ns: u64::MAX });
    }
    let mut tally = Tally::default();
    for number in 1..=assignment.times {
        let jumped = Box::pin(jump(&mut world, &mut tally)).await;
        if !world.is_over(number, jumped) {
            break;
        }
    }
    let (account, devices) = (world.scene.field.account.clone(), world.scene.field.plant.devices.len());
    let mut report = Box::pin(world.close()).await;
    let lost = account.lock().gap_causes().get(CLOCK).copied().unwrap_or_default();
    report.withdraw(TIMES);
    judge(&mut report, &tally, lost, devices);
    Ok(report)
}

async fn jump(world: &mut World, tally: &mut Tally) -> Result<()> {
    let leader = world.scene.agreed().await?;
    let jump = draw(&mut world.random, leader, &tally.ahead);
    world.moment().await;
    world.leaves_majority(true);
    tally.jumps += 1;
    for _ in 0..ATTEMPTS {
        if leads_on(world, &jump, tally).await? {
            if jump.stays {
                jump.to.iter().for_each(|(node, ahead)| tally.ahead[*node] = *ahead);
            }
            return Ok(());
        }
        set_right(world, &jump, tally)?;
        tally.set += 1;
        world.whole().await?;
    }
    tally.costly.push(jump);
    Ok(())
}

/// A few seconds ahead or behind are as likely as hours.
fn draw(random: &mut SmallRng, leader: usize, ahead: &[i64; NODES]) -> Jump {
    let victims = victims(random, leader);
    let to = victims.into_iter().map(|node| (node, elsewhere(random, ahead[node]))).collect();
    let time = Duration::from_millis(random.random_range(HOLD));
    Jump { to, time, stays: random.random_bool(0.5) }
}

/// Where a clock is to jump that is so many nanoseconds ahead.
fn elsewhere(random: &mut SmallRng, now: i64) -> i64 {
    loop {
        let seconds = random.random_range(LEAST.ln()..MOST.ln()).exp();
        let seconds = if random.random_bool(0.5) { seconds } else { -seconds.min(MOST_BACK) };
        let ahead = (seconds * 1e9) as i64;
        if ahead.abs_diff(now) >= A_JUMP {
            return ahead;
        }
    }
}

/// Lets clocks jump, and waits until the cluster is whole; whether it has kept its leader.
async fn leads_on(world: &mut World, jump: &Jump, tally: &mut Tally) -> Result<bool> {
    let before = world.scene.trial().victim().await?;
    let (openings, looks) = (openings(&world.scene.field.account.lock()), looks(world, jump)?);
    for (node, ahead) in &jump.to {
        world.hosts.control(*node).set_clock(*ahead)?;
    }
    // How long they are wrong is the fault itself.
    sleep(jump.time).await;
    let has_bitten = looks.iter().zip(self::looks(world, jump)?).all(|(before, after)| *before < after);
    if !jump.stays {
        set_right(world, jump, tally)?;
    }
    world.report.injected(has_bitten);
    world.whole().await?;
    let after = world.scene.trial().victim().await?;
    let of_leader = jump.to.iter().find(|(node, _)| *node == before.index);
    let times: u32 = if jump.stays { 1 } else { 2 };
    tally.set += if of_leader.is_some() { times } else { 0 };
    if after.leader != before.leader {
        (tally.changes, tally.set) = (tally.changes + 1, tally.set + 1);
        // By the wall clock of its leader nobody could tell when the reign began.
        world.scene.field.account.lock().disturbed(before.began_ns, monotonic_ns());
        return Ok(false);
    }
    let is_too_much = of_leader.is_some_and(|(node, ahead)| ahead.abs_diff(tally.ahead[*node]) >= TOO_MUCH);
    let anew = if is_too_much { times as usize } else { 0 };
    let wanted = openings + anew * world.scene.field.plant.devices.len();
    let opened = |account: &Account| (self::openings(account) >= wanted).then_some(());
    world.scene.until_account("the grids of the leader to be opened anew", opened).await?;
    Ok(true)
}

/// Puts clocks where they were before a jump.
fn set_right(world: &World, jump: &Jump, tally: &Tally) -> Result<()> {
    jump.to.iter().try_for_each(|(node, _)| Ok(world.hosts.control(*node).set_clock(tally.ahead[*node])?))
}

/// How often each of them has looked at a wrong clock.
fn looks(world: &World, jump: &Jump) -> Result<Vec<u64>> {
    jump.to.iter().map(|(node, _)| Ok(world.hosts.control(*node).counted()?.shifted)).collect()
}

/// Grids that were opened because of a clock.
fn openings(account: &Account) -> usize {
    account.openings().filter(|opening| opening.cause == CLOCK).count()
}

/// Enters what came of it; `lost` slots are in gaps `clock`.
fn judge(report: &mut RunReport, tally: &Tally, lost: u64, devices: usize) {
    let costly: Vec<String> = tally.costly.iter().map(|jump| format!("{jump:?}")).collect();
    let text = format!(
        "{} jumps, {} changes of leader {}",
        tally.jumps,
        tally.changes,
        if costly.is_empty() { "that did not come again".to_owned() } else { costly.join("; ") }
    );
    report.judge(LEADS_ON, costly.is_empty(), text);
    let slots = COST.as_nanos() / Shape::default().period.as_nanos();
    let allowed = u128::from(tally.set) * slots * devices as u128;
    let text = format!("{lost} slots of {devices} devices, {} times", tally.set);
    report.judge(CHEAP, u128::from(lost) <= allowed, text);
    report.figures.insert("slots in gaps because of clocks".to_owned(), lost as f64);
    report.figures.insert("changes of leader during jumps".to_owned(), f64::from(tally.changes));
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;
    use crate::prove::run::Verdict;

    const SECOND: i64 = 1_000_000_000;

    fn failed(tally: &Tally, lost: u64) -> Vec<String> {
        let mut report = RunReport::new("clocks", 1);
        judge(&mut report, tally, lost, 3);
        let failed = report.findings.into_iter().filter(|finding| finding.verdict == Verdict::Failed);
        failed.map(|finding| finding.check).collect()
    }

    #[test]
    fn clocks_jump_far_and_near_ahead_and_back_and_never_before_certificates_begin() {
        let mut random = SmallRng::seed_from_u64(7);
        let (mut now, mut all) = (0, Vec::new());
        for _ in 0..1000 {
            let next = elsewhere(&mut random, now);
            assert!(next.abs_diff(now) >= A_JUMP, "from {now} to {next}");
            now = next;
            all.push(now / SECOND);
        }
        assert!(all.iter().all(|seconds| (-86_000..=90_000).contains(seconds)));
        let hours_ahead = all.iter().filter(|seconds| **seconds > 3_600).count();
        let hours_behind = all.iter().filter(|seconds| **seconds < -3_600).count();
        let near = all.iter().filter(|seconds| seconds.abs() < 10).count();
        assert!(hours_ahead > 50 && hours_behind > 50 && near > 200, "{hours_ahead}, {hours_behind}, {near}");
    }

    #[test]
    fn a_jump_that_costs_a_leader_each_time_fails_and_a_chance_election_does_not() {
        let chance = Tally { jumps: 4, changes: 1, set: 3, ..Tally::default() };
        assert!(failed(&chance, 90).is_empty());
        let jump = Jump { to: vec![(1, SECOND)], time: Duration::from_secs(2), stays: false };
        let costly = Tally { changes: 2, costly: vec![jump], ..chance };
        assert_eq!(failed(&costly, 90), [LEADS_ON]);
    }

    #[test]
    fn slots_that_are_lost_to_clocks_are_few() {
        let set_once = Tally { jumps: 1, set: 1, ..Tally::default() };
        assert!(failed(&set_once, 90).is_empty());
        assert_eq!(failed(&set_once, 91), [CHEAP]);
        assert_eq!(failed(&Tally { jumps: 1, ..Tally::default() }, 1), [CHEAP], "no leader's clock was set");
    }
}
