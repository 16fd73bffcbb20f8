//! The leader stands still (`SIGSTOP`), for a moment, for longer than its lease, or for a minute, and goes on.
//!
//! What it has begun before must not reach a device when it wakes: the account counts overlaps at the devices.
//!
//! A leader that ends itself because it stood still for longer than it may lead (`SIGKILL`, from the kernel's timer) has
//! done right: it is started again.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Result, ensure};
use rand::Rng as _;
use rand::rngs::SmallRng;
use rustix::process::Signal;
use simulator::nodes::process::Process;
use tokio::time::sleep;

use super::{World, one_after_the_other};
use crate::prove::run::{Assignment, RunReport};
use crate::until;

/// The figure of those that did.
pub(super) const ENDED: &str = "leaders that ended themselves";

/// Lets leaders stand still so often.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    Box::pin(one_after_the_other("pauses", assignment, pause)).await
}

async fn pause(world: &mut World) -> Result<()> {
    let leader = world.scene.agreed().await?;
    let time = length(&mut world.random);
    world.moment().await;
    world.leaves_majority(true);
    let went_on = world.scene.disturb(Box::pin(stand_still(world, leader, time))).await?;
    world.report.injected(true);
    if went_on {
        return world.whole().await;
    }
    world.count(ENDED);
    world.revive(&[leader]).await
}

/// Most are short: about as long as a lease.
pub(super) fn length(random: &mut SmallRng) -> Duration {
    let millis = match random.random_range(0..20) {
        0..14 => 100..2_000,
        14..19 => 2_000..10_000,
        _ => 10_000..60_000,
    };
    Duration::from_millis(random.random_range(millis))
}

/// An error unless it stood still. Whether it went on; it may have ended itself instead.
async fn stand_still(world: &World, node: usize, time: Duration) -> Result<bool> {
    // Who watches it must not see it end by itself.
    let mut process = world.scene.process(node).await;
    process.pause(true)?;
    let stood = until("the process to stand still", async || match state(&process) {
        Some('T') => Ok(()),
        other => Err(other),
    })
    .await;
    // How long it stands still is the fault itself.
    sleep(time).await;
    let has_ended = ended_itself(&mut process);
    process.pause(false)?;
    world.healed();
    stood?;
    if has_ended? {
        return Ok(false);
    }
    goes_on(world, node, &mut process).await
}

/// Waits until a process that was held up answers again, or has ended. Whether it goes on.
pub(super) async fn goes_on(world: &World, node: usize, process: &mut Process) -> Result<bool> {
    until("the process to answer again, or to have ended", async || match ended_itself(process) {
        Ok(false) => world.scene.status(node).await.map(|_| Ok(true)),
        Ok(true) => Ok(Ok(false)),
        Err(error) => Ok(Err(error)),
    })
    .await?
}

/// Whether it has ended; an error if in any other way than it may.
pub(super) fn ended_itself(process: &mut Process) -> Result<bool> {
    if let Some(status) = process.has_ended()? {
        was_killed(status)?;
    }
    Ok(!process.is_running())
}

/// An error unless it was the kernel that has ended a process.
pub(super) fn was_killed(status: ExitStatus) -> Result<()> {
    ensure!(status.signal() == Some(Signal::KILL.as_raw()), "it ended by itself ({status})");
    Ok(())
}

/// The state of a process's first thread (proc(5)); `T` is stopped.
fn state(process: &Process) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id()?)).ok()?;
    // The name before it may hold anything.
    stat.rsplit_once(") ")?.1.chars().next()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn pauses_last_from_a_tenth_of_a_second_to_a_minute_and_most_are_short() {
        let mut random = SmallRng::seed_from_u64(7);
        let lengths: Vec<Duration> = (0..1000).map(|_| length(&mut random)).collect();
        let is_within = |length: &Duration| (100..60_000).contains(&length.as_millis());
        assert!(lengths.iter().all(is_within));
        let short = lengths.iter().filter(|length| length.as_secs() < 2).count();
        let long = lengths.iter().filter(|length| length.as_secs() >= 10).count();
        assert!((600..800).contains(&short) && (20..100).contains(&long), "{short} short, {long} long");
    }
}
