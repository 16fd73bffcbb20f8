//! The power of one, two or three nodes is cut under load: what their disks had not synced is gone, and so are they.
//!
//! The disk goes a moment before the process: what a node would still say meanwhile, it says without a disk.

use anyhow::{Context, Result};

use super::{World, one_after_the_other, victims};
use crate::prove::run::{Assignment, RunReport};

/// Cuts power so often.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    Box::pin(one_after_the_other("power", assignment, cut)).await
}

async fn cut(world: &mut World) -> Result<()> {
    let leader = world.scene.agreed().await?;
    let victims = victims(&mut world.random, leader);
    world.moment().await;
    world.leaves_majority(victims.len() == 1);
    let were_at_work = world.scene.disturb(cut_power(world, &victims)).await?;
    world.report.injected(were_at_work);
    for node in &victims {
        let restored = world.hosts.restore_power(*node).await;
        restored.with_context(|| format!("the disk of {}", world.scene.name(*node)))?;
    }
    world.revive(&victims).await
}

/// An error unless every later write to their disks fails. Whether all of them were at work until then.
async fn cut_power(world: &World, victims: &[usize]) -> Result<bool> {
    // Who watches them must not see one end by itself, as it does when its disk fails.
    let mut processes = Vec::new();
    for node in victims {
        processes.push(world.scene.process(*node).await);
    }
    for node in victims {
        world.hosts.cut_power(*node)?;
    }
    let mut were_at_work = true;
    for process in &mut processes {
        were_at_work &= process.kill().await?.is_some();
    }
    Ok(were_at_work)
}
