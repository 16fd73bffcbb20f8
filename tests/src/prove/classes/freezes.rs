//! The leader is frozen in its control group, for a moment, for longer than its lease, or for a minute, and thawed.
//!
//! - Nothing tells a frozen process that it was: it gets no signal, and the kernel's timer, too, ends it only when it is
//!   thawed (in groups of version 1). Its connections stay, and what it had sent is answered. What it has begun before must
//!   not reach a device when it thaws: the account counts overlaps at the devices.
//! - A leader that is ended because it stood still for longer than it may lead (`SIGKILL`) has done right: it is started
//!   again.
//! - A freeze has bitten if the kernel says, before and behind its length, that everything in the group stands.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::sleep;

use super::{World, one_after_the_other, pauses};
use crate::machine::group::Freezer;
use crate::prove::run::{Assignment, RunReport};
use crate::until;

/// Freezes leaders so often.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    let freezer = Freezer::make()?;
    let fault = async |world: &mut World| Box::pin(freeze(world, &freezer)).await;
    Box::pin(one_after_the_other("freezes", assignment, fault)).await
}

/// How a freeze ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Thawed {
    /// It stood still to the end.
    stood: bool,
    /// It has not ended itself.
    goes_on: bool,
}

async fn freeze(world: &mut World, freezer: &Freezer) -> Result<()> {
    let leader = world.scene.agreed().await?;
    let time = pauses::length(&mut world.random);
    world.moment().await;
    world.leaves_majority(true);
    let thawed = world.scene.disturb(Box::pin(stand_still(world, freezer, leader, time))).await?;
    world.report.injected(thawed.stood);
    if thawed.goes_on {
        return world.whole().await;
    }
    world.count(pauses::ENDED);
    world.revive(&[leader]).await
}

/// Freezes a node for so long, and waits until it answers again or has ended.
async fn stand_still(world: &World, freezer: &Freezer, node: usize, time: Duration) -> Result<Thawed> {
    // Who watches it must not see it end by itself.
    let mut process = world.scene.process(node).await;
    freezer.take_in(process.id().context("the leader runs")?)?;
    let stood = stays_frozen(freezer, time).await;
    // Whatever went wrong: what is frozen cannot even be killed.
    freezer.thaw()?;
    world.healed();
    freezer.let_go()?;
    let stood = stood?;
    let goes_on = pauses::goes_on(world, node, &mut process).await?;
    Ok(Thawed { stood, goes_on })
}

/// Freezes who is in the group for so long. Whether all of it still stands then.
async fn stays_frozen(freezer: &Freezer, time: Duration) -> Result<bool> {
    freezer.freeze()?;
    until("the node to be frozen", async || match freezer.is_frozen() {
        Ok(true) => Ok(()),
        other => Err(other),
    })
    .await?;
    // How long it is frozen is the fault itself.
    sleep(time).await;
    Ok(freezer.is_frozen()?)
}
