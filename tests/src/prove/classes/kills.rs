//! Processes are killed (`kill -9`) under load: the leader, a follower, two nodes or all three.
//!
//! A kill has bitten if it is what ended each of them: one that had ended by itself just before was not killed.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use anyhow::Result;
use futures::future::try_join_all;
use rand::Rng as _;
use rustix::process::Signal;
use simulator::trial::HEALING;

use super::{World, one_after_the_other, victims};
use crate::prove::run::{Assignment, RunReport};

/// Kills so often.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    Box::pin(one_after_the_other("kills", assignment, kill)).await
}

async fn kill(world: &mut World) -> Result<()> {
    let leader = world.scene.agreed().await?;
    let victims = victims(&mut world.random, leader);
    let others_go_on = world.random.random_bool(0.5);
    world.moment().await;
    world.leaves_majority(victims.len() == 1);
    let ended = try_join_all(victims.iter().map(|node| world.scene.kill(*node))).await?;
    let by_kill = |status: ExitStatus| status.signal() == Some(Signal::KILL.as_raw());
    world.report.injected(ended.into_iter().all(|status| status.is_some_and(by_kill)));
    // Half of those that leave a majority come back to one that has gone on without them.
    if victims.len() == 1 && others_go_on {
        world.scene.trial().reads_go_on(HEALING).await?;
    }
    world.revive(&victims).await
}
