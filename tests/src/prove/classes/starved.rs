//! One, two or all three nodes are given no more than 2 to 20 % of one processor, for five to ten seconds.
//!
//! - Who leads may change meanwhile, and a leader whose dead-man timer is not wound up in time is ended by it (`SIGKILL`): it
//!   is started again.
//! - Where a follower alone is starved nothing may stop: pushes go on being acknowledged, and the account hears of no
//!   disturbance that would explain a gap.
//! - A share of a processor has bitten if the kernel has made each of them wait for it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::Rng as _;
use rand::rngs::SmallRng;
use simulator::history::monotonic_ns;
use simulator::nodes::layout::NODES;
use tokio::time::sleep;

use super::{World, pauses, victims};
use crate::machine::Unable;
use crate::machine::group::CpuQuota;
use crate::prove::run::{Assignment, RunReport};
use crate::story::Story;

/// A pusher leaves a node that does not answer it for a second, and each of two may meet the starved one on its way.
const STALLED: Duration = Duration::from_secs(3);
/// The figure of followers that were starved alone.
const ALONE: &str = "followers starved alone";
/// The figure of the time that the pushers waited.
const SILENCE: &str = "longest time without an acknowledgement beside a starved follower, ms";
/// The check on these.
const GOES_ON: &str = "I10 pushes are acknowledged while only a follower is starved";

/// Starves nodes so often.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    let quotas = (0..NODES).map(|_| CpuQuota::make()).collect::<Result<Vec<CpuQuota>, Unable>>()?;
    let mut world = Box::pin(World::open("starved", assignment)).await?;
    let mut alone = Vec::new();
    for number in 1..=assignment.times {
        let fault = Box::pin(starve(&mut world, &quotas)).await.map(|time| alone.extend(time));
        if !world.is_over(number, fault) {
            break;
        }
    }
    let (mut report, _, story) = Box::pin(world.close_with_story()).await?;
    judge(&mut report, &alone, &story);
    Ok(report)
}

/// What little is given, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Diet {
    percent: u32,
    time: Duration,
}

impl Diet {
    fn drawn(random: &mut SmallRng) -> Self {
        let time = Duration::from_millis(random.random_range(5_000..10_000));
        Self { percent: random.random_range(2..=20), time }
    }
}

/// What was seen of nodes that starved.
#[derive(Debug)]
struct Starved {
    /// Each of them had to wait for a processor.
    waited: bool,
    /// Those that have ended themselves.
    ended: Vec<usize>,
    /// From when until when, in monotonic nanoseconds.
    time: Time,
}

/// From one moment to another, in monotonic nanoseconds.
type Time = (u64, u64);

/// Starves some nodes; from when until when, if it was a follower alone.
async fn starve(world: &mut World, quotas: &[CpuQuota]) -> Result<Option<Time>> {
    let leader = world.scene.agreed().await?;
    let victims = victims(&mut world.random, leader);
    let diet = Diet::drawn(&mut world.random);
    let is_follower_alone = victims.len() == 1 && victims[0] != leader;
    world.moment().await;
    world.leaves_majority(is_follower_alone);
    let starving = Box::pin(starve_for(world, quotas, &victims, diet));
    // A follower alone is no excuse for anything.
    let starved = if is_follower_alone { starving.await } else { world.hold_up(starving).await }?;
    world.report.injected(starved.waited);
    if is_follower_alone {
        ensure!(starved.ended.is_empty(), "{} follows, and has ended itself", world.scene.name(victims[0]));
        world.count(ALONE);
    }
    for _ in &starved.ended {
        world.count(pauses::ENDED);
    }
    world.revive(&starved.ended).await?;
    Ok(is_follower_alone.then_some(starved.time))
}

/// Starves nodes, and waits until each answers again or has ended.
async fn starve_for(world: &World, quotas: &[CpuQuota], victims: &[usize], diet: Diet) -> Result<Starved> {
    // Who watches them must not see one end by itself.
    let mut processes = Vec::new();
    for node in victims {
        let process = world.scene.process(*node).await;
        quotas[*node].take_in(process.id().with_context(|| format!("{} runs", world.scene.name(*node)))?)?;
        processes.push(process);
    }
    let quotas: Vec<&CpuQuota> = victims.iter().map(|node| &quotas[*node]).collect();
    let starved = starved_for(&quotas, diet).await;
    // Whatever went wrong, nobody starves any longer.
    for quota in &quotas {
        quota.lift()?;
        quota.let_go()?;
    }
    world.healed();
    let (waited, time) = starved?;
    for (node, process) in victims.iter().zip(&mut processes) {
        pauses::goes_on(world, *node, process).await?;
    }
    // One that found out only now that it had stood still for too long may have answered once before its end.
    let mut ended = Vec::new();
    for (node, process) in victims.iter().zip(&mut processes) {
        if pauses::ended_itself(process)? {
            ended.push(*node);
        }
    }
    Ok(Starved { waited, ended, time })
}

/// Gives little for so long. Whether each of them had to wait, and from when until when.
async fn starved_for(quotas: &[&CpuQuota], diet: Diet) -> Result<(bool, Time)> {
    let mut before = Vec::new();
    for quota in quotas {
        before.push(quota.throttled()?);
        quota.set(diet.percent)?;
    }
    let from_ns = monotonic_ns();
    // How long they starve is the fault itself.
    sleep(diet.time).await;
    let until_ns = monotonic_ns();
    let mut waited = true;
    for (quota, before) in quotas.iter().zip(before) {
        waited &= quota.throttled()? > before;
    }
    Ok((waited, (from_ns, until_ns)))
}

/// Judges what pushers saw while followers starved alone; nothing is said where the seed drew none.
fn judge(report: &mut RunReport, alone: &[Time], story: &Story) {
    let silences = alone.iter().map(|(from_ns, until_ns)| story.silence(*from_ns, *until_ns));
    let Some(longest) = silences.max() else { return };
    let millis = longest.as_secs_f64() * 1e3;
    report.figures.insert(SILENCE.to_owned(), millis);
    report.judge(GOES_ON, longest < STALLED, format!("at the longest none for {millis:.0} ms"));
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::super::held::tests::{SECOND, push};
    use super::*;
    use crate::prove::run::Verdict;

    #[test]
    fn little_is_between_a_fiftieth_and_a_fifth_for_five_to_ten_seconds() {
        let mut random = SmallRng::seed_from_u64(7);
        let drawn: Vec<Diet> = (0..1000).map(|_| Diet::drawn(&mut random)).collect();
        let seconds = |diet: &Diet| (5..10).contains(&diet.time.as_secs());
        assert!(drawn.iter().all(|diet| (2..=20).contains(&diet.percent) && seconds(diet)));
        for end in [2, 20] {
            assert!(drawn.iter().any(|diet| diet.percent == end), "{end} % was never drawn");
        }
    }

    #[test]
    fn pushers_that_wait_for_long_beside_a_starved_follower_fail_the_run() {
        let (time, second) = ((10 * SECOND, 15 * SECOND), |second: u64| push(second * SECOND));
        let all = || (10..15).map(second).collect::<Vec<_>>();
        for (alone, pushes, expected) in [
            (vec![], Vec::new(), None),
            (vec![time], all(), Some(Verdict::Passed)),
            (vec![time], vec![second(12), second(14)], Some(Verdict::Passed)),
            (vec![time], vec![second(11), second(14)], Some(Verdict::Failed)),
            (vec![time], Vec::new(), Some(Verdict::Failed)),
        ] {
            let mut report = RunReport::new("starved", 7);
            judge(&mut report, &alone, &Story { pushes, ..Story::default() });
            assert_eq!(report.findings.first().map(|finding| finding.verdict), expected, "{alone:?}");
        }
    }
}
