//! Processes are killed (`kill -9`) under load: the leader, a follower, two nodes or all three.

use anyhow::Result;
use futures::future::try_join_all;
use rand::Rng as _;
use simulator::trial::HEALING;

use super::{World, victims};
use crate::prove::run::{Assignment, RunReport};

/// Kills so often.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    let mut world = World::open("kills", assignment).await?;
    for number in 1..=assignment.times {
        let killed = kill(&mut world).await;
        if !world.is_over(number, killed) {
            break;
        }
    }
    Ok(world.close().await)
}

async fn kill(world: &mut World) -> Result<()> {
    let leader = world.scene.agreed().await?;
    let victims = victims(&mut world.random, leader);
    let others_go_on = world.random.random_bool(0.5);
    world.moment().await;
    try_join_all(victims.iter().map(|node| world.scene.kill(*node))).await?;
    let mut are_dead = true;
    for node in &victims {
        are_dead &= !world.runs(*node).await;
    }
    world.report.injected(are_dead);
    // Half of those that leave a majority come back to one that has gone on without them.
    if victims.len() == 1 && others_go_on {
        world.scene.trial().reads_go_on(HEALING).await?;
    }
    world.revive(&victims).await
}
