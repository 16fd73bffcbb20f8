//! Syncs of one, two or three nodes take 20 ms to 2 s each, for some seconds, under load.
//!
//! - Where the leader or a majority is slow, nothing is promised but that nothing is lost: leadership may change hands, and
//!   acknowledgements wait for a majority of disks.
//! - A slow follower alone holds up no acknowledgement: the other two are a majority.
//! - A fault has bitten if a sync has waited at each of them.

use std::time::Duration;

use anyhow::Result;
use rand::Rng as _;
use rand::rngs::SmallRng;
use simulator::history::monotonic_ns;
use tokio::time::sleep;

use super::{World, victims};
use crate::prove::run::{Assignment, RunReport};
use crate::story::Story;

/// In milliseconds: how long a sync takes, and for how long all of them do.
const SHORTEST: f64 = 20.0;
const LONGEST: f64 = 2_000.0;
const HOLD: std::ops::Range<u64> = 4_000..8_000;
/// Without an acknowledgement while a follower alone is slow. A pusher that is connected to it goes to another node after a
/// second; whatever waits for its disk waits for longer, again and again.
const SILENCE: Duration = Duration::from_secs(3);

const ACKNOWLEDGED: &str = "I10 a slow follower alone holds up no acknowledgement for longer than 3 s";

/// Nodes whose disks were slow, in monotonic nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    is_follower_alone: bool,
    set_ns: u64,
    healed_ns: u64,
    has_bitten: bool,
}

/// Slows disks down so often.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    let mut world = Box::pin(World::open_controlled("slow-disks", assignment)).await?;
    let mut all = Vec::new();
    for number in 1..=assignment.times {
        let held = Box::pin(hold(&mut world)).await.map(|held| all.push(held));
        if !world.is_over(number, held) {
            break;
        }
    }
    let (mut report, _, story) = Box::pin(world.close_with_story()).await?;
    judge(&mut report, &all, &story);
    Ok(report)
}

async fn hold(world: &mut World) -> Result<Held> {
    let leader = world.scene.agreed().await?;
    let slow: Vec<(usize, Duration)> = victims(&mut world.random, leader)
        .into_iter()
        .map(|node| (node, length(&mut world.random)))
        .collect();
    let time = Duration::from_millis(world.random.random_range(HOLD));
    world.moment().await;
    let is_follower_alone = slow.len() == 1 && slow[0].0 != leader;
    world.leaves_majority(is_follower_alone);
    let held = world.scene.disturb(Box::pin(slow_down(world, &slow, time))).await;
    let mended = mend(world, &slow);
    world.healed();
    let held = Held { is_follower_alone, ..held? };
    mended?;
    world.report.injected(held.has_bitten);
    world.whole().await?;
    Ok(held)
}

/// A sync takes about as often 20 to 200 ms as up to 2 s.
fn length(random: &mut SmallRng) -> Duration {
    let exponent = random.random_range(SHORTEST.ln()..LONGEST.ln());
    Duration::from_secs_f64(exponent.exp() / 1e3)
}

async fn slow_down(world: &World, slow: &[(usize, Duration)], time: Duration) -> Result<Held> {
    let before = delayed(world, slow)?;
    for (node, length) in slow {
        world.hosts.control(*node).delay_syncs(*length)?;
    }
    let set_ns = monotonic_ns();
    // How long they are slow is the fault itself.
    sleep(time).await;
    let after = delayed(world, slow)?;
    let healed_ns = monotonic_ns();
    mend(world, slow)?;
    let has_bitten = before.iter().zip(&after).all(|(before, after)| before < after);
    Ok(Held { is_follower_alone: false, set_ns, healed_ns, has_bitten })
}

fn mend(world: &World, slow: &[(usize, Duration)]) -> Result<()> {
    slow.iter().try_for_each(|(node, _)| Ok(world.hosts.control(*node).delay_syncs(Duration::ZERO)?))
}

/// How many syncs have waited at each of them.
fn delayed(world: &World, slow: &[(usize, Duration)]) -> Result<Vec<u64>> {
    slow.iter().map(|(node, _)| Ok(world.hosts.control(*node).counted()?.delayed)).collect()
}

/// Enters what pushers saw while a follower alone was slow.
fn judge(report: &mut RunReport, all: &[Held], story: &Story) {
    let alone: Vec<&Held> = all.iter().filter(|held| held.is_follower_alone).collect();
    report.figures.insert("slow followers".to_owned(), alone.len() as f64);
    // Nothing is said of what was not drawn.
    let Some(longest) = alone.iter().map(|held| story.silence(held.set_ns, held.healed_ns)).max() else {
        return;
    };
    let millis = longest.as_secs_f64() * 1e3;
    report.judge(
        ACKNOWLEDGED,
        longest <= SILENCE,
        format!("{} times, {millis:.0} ms without an acknowledgement at most", alone.len()),
    );
    report
        .figures
        .insert("longest time without an acknowledgement at a slow follower, ms".to_owned(), millis);
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use simulator::history::{Entry, Kind};
    use simulator::pusher::PushNote;

    use super::*;
    use crate::prove::run::Verdict;

    const SECOND: u64 = 1_000_000_000;

    fn verdict(is_follower_alone: bool, acknowledged: &[u64]) -> Verdict {
        let held = Held { is_follower_alone, set_ns: 10 * SECOND, healed_ns: 15 * SECOND, has_bitten: true };
        let push = |at: &u64| Entry {
            t_ns: *at,
            process: "robot".to_owned(),
            kind: Kind::Ok,
            op: "push".to_owned(),
            details: PushNote::default(),
        };
        let story = Story { pushes: acknowledged.iter().map(push).collect(), ..Story::default() };
        let mut report = RunReport::new("slow-disks", 1);
        report.passed("the control", "");
        judge(&mut report, &[held], &story);
        report.verdict()
    }

    #[test]
    fn while_a_follower_alone_is_slow_acknowledgements_go_on() {
        assert_eq!(verdict(true, &[12 * SECOND, 14 * SECOND]), Verdict::Passed);
        assert_eq!(verdict(true, &[11 * SECOND, 15 * SECOND - 1]), Verdict::Failed);
        assert_eq!(verdict(true, &[9 * SECOND, 16 * SECOND]), Verdict::Failed, "before and behind it");
        assert_eq!(verdict(false, &[]), Verdict::Passed, "nothing is promised where others are slow");
    }

    #[test]
    fn syncs_take_from_20_ms_to_2_s_and_are_as_often_short_as_long() {
        let mut random = SmallRng::seed_from_u64(7);
        let lengths: Vec<Duration> = (0..1000).map(|_| length(&mut random)).collect();
        assert!(lengths.iter().all(|length| (20..=2_000).contains(&length.as_millis())));
        let short = lengths.iter().filter(|length| length.as_millis() < 200).count();
        assert!((400..600).contains(&short), "{short} of 1000 are short");
    }
}
