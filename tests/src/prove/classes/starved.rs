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
use simulator::nodes::layout::NODES;
use tokio::time::{Instant, sleep};

use super::{World, one_after_the_other, pauses, victims};
use crate::machine::Unable;
use crate::machine::group::CpuQuota;
use crate::prove::run::{Assignment, RunReport};

/// From one look at what is acknowledged to the next.
const LOOK_EVERY: Duration = Duration::from_millis(250);
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
    let fault = async |world: &mut World| Box::pin(starve(world, &quotas)).await;
    let mut report = Box::pin(one_after_the_other("starved", assignment, fault)).await?;
    judge(&mut report);
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
    /// The longest time without an acknowledgement.
    silence: Duration,
}

async fn starve(world: &mut World, quotas: &[CpuQuota]) -> Result<()> {
    let leader = world.scene.agreed().await?;
    let victims = victims(&mut world.random, leader);
    let diet = Diet::drawn(&mut world.random);
    let is_follower_alone = victims.len() == 1 && victims[0] != leader;
    world.moment().await;
    let starving = Box::pin(starve_for(world, quotas, &victims, diet));
    // A follower alone is no excuse for anything.
    let starved = if is_follower_alone { starving.await } else { world.hold_up(starving).await }?;
    world.report.injected(starved.waited);
    if is_follower_alone {
        ensure!(starved.ended.is_empty(), "{} follows, and has ended itself", world.scene.name(victims[0]));
        world.count(ALONE);
        let longest = world.report.figures.entry(SILENCE.to_owned()).or_default();
        *longest = longest.max(starved.silence.as_secs_f64() * 1e3);
    }
    for _ in &starved.ended {
        world.count(pauses::ENDED);
    }
    world.revive(&starved.ended).await
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
    let starved = starved_for(world, &quotas, diet).await;
    // Whatever went wrong, nobody starves any longer.
    for quota in &quotas {
        quota.lift()?;
        quota.let_go()?;
    }
    let (waited, silence) = starved?;
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
    Ok(Starved { waited, ended, silence })
}

/// Gives little for so long. Whether each of them had to wait, and the longest time without an acknowledgement.
async fn starved_for(world: &World, quotas: &[&CpuQuota], diet: Diet) -> Result<(bool, Duration)> {
    let mut before = Vec::new();
    for quota in quotas {
        before.push(quota.throttled()?);
        quota.set(diet.percent)?;
    }
    let silence = silence_within(world, diet.time).await;
    let mut waited = true;
    for (quota, before) in quotas.iter().zip(before) {
        waited &= quota.throttled()? > before;
    }
    Ok((waited, silence))
}

/// The longest time without an acknowledgement within so long, to one look.
async fn silence_within(world: &World, time: Duration) -> Duration {
    let acknowledged = || world.scene.field.account.lock().pushed_acked();
    let began = Instant::now();
    let (mut last, mut since, mut longest) = (acknowledged(), began, Duration::ZERO);
    // How long they starve is the fault itself.
    while began.elapsed() < time {
        sleep(LOOK_EVERY).await;
        longest = longest.max(since.elapsed());
        let now = acknowledged();
        if now > last {
            (last, since) = (now, Instant::now());
        }
    }
    longest
}

/// Judges what was seen of followers that starved alone; nothing is said where the seed drew none.
fn judge(report: &mut RunReport) {
    if let Some(silence) = report.figures.get(SILENCE).copied() {
        let holds = silence < STALLED.as_secs_f64() * 1e3;
        report.judge(GOES_ON, holds, format!("at the longest none for {silence:.0} ms"));
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

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
        for (silence, expected) in
            [(None, None), (Some(900.0), Some(Verdict::Passed)), (Some(3_000.0), Some(Verdict::Failed))]
        {
            let mut report = RunReport::new("starved", 7);
            report.figures.extend(silence.map(|silence| (SILENCE.to_owned(), silence)));
            judge(&mut report);
            assert_eq!(report.findings.first().map(|finding| finding.verdict), expected, "{silence:?}");
        }
    }
}
