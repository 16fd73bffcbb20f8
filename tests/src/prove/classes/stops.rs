//! Processes are told to end (`SIGTERM`) under load: the leader, a follower, two nodes or all three. Each ends in order, with
//! the status 0, within what the documents promise, and is started again.
//!
//! - A leader that ends alone hands over first: no slot is missed for another reason than a switchover, which is judged by the
//!   gap records that arrived.
//! - A stop has bitten if each of them ran when it was told to end.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use rand::Rng as _;
use simulator::account::{Account, Effect, replay};
use simulator::plant::Plant;
use simulator::trial::HEALING;
use tokio::time::Instant;

use super::{World, victims};
use crate::prove::run::{Assignment, RunReport};

/// What all parts of an orderly end take at most together (`docs/deployment.md`).
const ENDS_WITHIN: Duration = Duration::from_secs(54);
/// What a node says that has handed leadership over before it ended.
const HANDED_OVER: &str = "leadership was handed over";
/// Why slots are missed where leadership was not handed over.
const UNPLANNED: [&str; 2] = ["failover", "no-quorum"];

const ORDERLY: &str = "every node that is told to end ends in order";
const PLANNED: &str = "I7 a leader that ends in order misses no slot but by a switchover";

/// A leader that ended alone, and how long nobody else read, in monotonic nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HandOver {
    began_ns: u64,
    taken_over_ns: u64,
    /// It said that it had handed over.
    is_told: bool,
}

/// Tells nodes to end so often.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    let mut world = World::open("stops", assignment).await?;
    let mut all = Vec::new();
    for number in 1..=assignment.times {
        let stopped = Box::pin(stop(&mut world)).await.map(|handed_over| all.extend(handed_over));
        if !world.is_over(number, stopped) {
            break;
        }
    }
    let history = world.scene.field.history();
    let mut report = Box::pin(world.close()).await;
    judge(&mut report, &all, &history)?;
    Ok(report)
}

async fn stop(world: &mut World) -> Result<Option<HandOver>> {
    let leader = world.scene.agreed().await?;
    let victims = victims(&mut world.random, leader);
    let others_go_on = world.random.random_bool(0.5);
    world.moment().await;
    world.leaves_majority(victims.len() == 1);
    if victims == [leader] {
        return Box::pin(hand_over(world, leader)).await.map(Some);
    }
    let ended = world.scene.disturb(Box::pin(end_all(world, &victims))).await;
    note(world, ended)?;
    // Half of those that leave a majority come back to one that has gone on without them.
    if victims.len() == 1 && others_go_on {
        world.scene.trial().reads_go_on(HEALING).await?;
    }
    world.revive(&victims).await?;
    Ok(None)
}

/// Ends the leader alone, and starts it again once another node reads.
async fn hand_over(world: &mut World, leader: usize) -> Result<HandOver> {
    let victim = world.scene.trial().victim().await?;
    ensure!(victim.index == leader, "leadership has moved by itself");
    world.scene.field.account.lock().begins_to_suffer(Effect::Switchover, victim.began_ns);
    let told = world.scene.log(leader).await.matches(HANDED_OVER).count();
    let ended = end_all(world, &[leader]).await;
    note(world, ended)?;
    let trial = world.scene.trial();
    let taken_over = trial.taken_over(&victim).await?;
    let is_told = world.scene.log(leader).await.matches(HANDED_OVER).count() > told;
    world.scene.run(leader).await?;
    world.healed();
    let name = format!("stop {}", victim.leader.name);
    trial.recovered(name, Effect::Switchover, &victim, Some(taken_over)).await?;
    world.whole().await?;
    world.count("leaders that ended alone");
    Ok(HandOver { began_ns: victim.began_ns, taken_over_ns: taken_over.at_ns, is_told })
}

/// How nodes ended that were told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ended {
    /// It ran when it was told.
    ran: bool,
    took: Duration,
}

/// Tells nodes to end, all at once, and waits until all have.
async fn end_all(world: &World, victims: &[usize]) -> Result<Vec<Ended>> {
    try_join_all(victims.iter().map(|node| end_in_order(world, *node))).await
}

async fn end_in_order(world: &World, node: usize) -> Result<Ended> {
    let name = world.scene.name(node);
    let mut process = world.scene.process(node).await;
    let ran = process.is_running();
    let asked = Instant::now();
    let ended = process.terminate(ENDS_WITHIN).await?;
    let ended = ended.with_context(|| format!("{name} has not ended within {ENDS_WITHIN:?}"))?;
    ensure!(ended.success(), "{name} ended with {ended}");
    Ok(Ended { ran, took: asked.elapsed() })
}

/// Enters how nodes have ended; an error if one has not, or in another way.
fn note(world: &mut World, ended: Result<Vec<Ended>>) -> Result<()> {
    let ended = ended.inspect_err(|error| world.report.failed(ORDERLY, format!("{error:#}")))?;
    world.report.injected(ended.iter().all(|ended| ended.ran));
    let longest = world.report.figures.entry("longest orderly end, ms".to_owned()).or_default();
    *longest = ended.iter().map(|ended| ended.took.as_secs_f64() * 1e3).fold(*longest, f64::max);
    Ok(())
}

/// Enters how all have ended, and what leaders cost that ended alone; of these nothing is said where the seed drew none.
fn judge(report: &mut RunReport, all: &[HandOver], history: &Path) -> Result<()> {
    if report.findings.iter().all(|finding| finding.check != ORDERLY) {
        report.passed(ORDERLY, format!("{} times", report.injected));
    }
    if all.is_empty() {
        return Ok(());
    }
    let account = replay(&Plant::demo(), history, None).context("the history is read again")?;
    let wrong: Vec<String> = all.iter().filter_map(|handed_over| unplanned(&account, handed_over)).collect();
    let text = if wrong.is_empty() { format!("{} leaders", all.len()) } else { wrong.join("; ") };
    report.judge(PLANNED, wrong.is_empty(), text);
    Ok(())
}

/// What was wrong with the end of a leader, in words.
fn unplanned(account: &Account, handed_over: &HandOver) -> Option<String> {
    let HandOver { began_ns, taken_over_ns, is_told } = *handed_over;
    if !is_told {
        return Some("it has not handed over".to_owned());
    }
    let missed = account.slots_missed(began_ns, taken_over_ns);
    let wrong: Vec<String> = UNPLANNED
        .iter()
        .filter_map(|cause| missed.get(*cause).map(|slots| format!("{slots} slots missed by {cause}")))
        .collect();
    (!wrong.is_empty()).then(|| wrong.join(", "))
}

#[cfg(test)]
mod tests {
    use model::{Lineage, Ordinal, Position, SampleKey, Timestamp};
    use simulator::account::GapSeen;

    use super::*;

    const MS: u64 = 1_000_000;

    /// What is wrong with the end of a leader from 400 to 700 ms, where three slots from `from` ms on were missed.
    fn seen(cause: &str, from: i64, is_told: bool) -> Option<String> {
        let plant = Plant::demo();
        let mut account = Account::new(&plant, 0);
        let at = |millis: i64| Timestamp(millis * 1_000_000);
        let gap = GapSeen {
            key: SampleKey { lineage: Lineage::from_random(1), position: Position(1), ordinal: Ordinal(0) },
            device: plant.devices[0].id.clone(),
            grid: 1,
            first: 4,
            last: 6,
            from: at(from),
            to: at(from + 300),
            cause: cause.to_owned(),
        };
        account.received_gap(&gap, true);
        let handed_over = HandOver { began_ns: 400 * MS, taken_over_ns: 700 * MS, is_told };
        unplanned(&account, &handed_over)
    }

    #[test]
    fn a_leader_that_ends_in_order_may_cost_a_switchover_and_no_failover() {
        assert_eq!(seen("switchover", 500, true), None);
        assert_eq!(seen("failover", 500, true).as_deref(), Some("3 slots missed by failover"));
        assert_eq!(seen("no-quorum", 500, true).as_deref(), Some("3 slots missed by no-quorum"));
        assert_eq!(seen("failover", 800, true), None, "that was something else");
        assert_eq!(seen("switchover", 500, false).as_deref(), Some("it has not handed over"));
    }
}
