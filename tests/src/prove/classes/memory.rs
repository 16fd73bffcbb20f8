//! One node may hold little more memory than it does, or a little less, for some seconds: it gives back what the kernel keeps
//! of its files for it, and goes on, or the kernel kills it for want of memory (`SIGKILL`) and it is started again.
//!
//! - Each node runs in a group of its own from its beginning, so that all it holds is counted there.
//! - A node is ended by nobody but the kernel: for want of memory, or, if it led, because it stood still meanwhile.
//! - A limit has bitten if the kernel has counted that the node wanted more.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use rand::Rng as _;
use rand::rngs::SmallRng;
use simulator::nodes::layout::NODES;
use simulator::nodes::process::Process;
use tokio::task::spawn_blocking;

use super::{World, inject, pauses};
use crate::machine::Unable;
use crate::machine::group::MemoryLimit;
use crate::machine::hosts::Hosts;
use crate::prove::run::{Assignment, RunReport};

/// A limit below what cannot be given back is refused; by so much more it is tried again.
const STEP: u64 = 1 << 20;
/// So many times. What the kernel holds for a node beside its own memory and its files is less.
const STEPS: u32 = 128;

/// Holds nodes to little memory so often.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    let limits = (0..NODES).map(|_| MemoryLimit::make().map(Arc::new));
    let limits = limits.collect::<Result<Vec<Arc<MemoryLimit>>, Unable>>()?;
    let mut hosts = Hosts::make(&assignment.folder, &assignment.program)?;
    for (host, limit) in limits.iter().enumerate() {
        hosts.launch_through(host, limit.launcher());
    }
    let world = Box::pin(World::on(hosts, "memory", assignment)).await?;
    let fault = async |world: &mut World| Box::pin(squeeze(world, &limits)).await;
    Box::pin(inject(world, assignment.times, fault)).await
}

/// How a node that was held to little memory ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Squeezed {
    /// It wanted more than it might hold.
    bit: bool,
    fate: Fate,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Survived,
    /// Killed for want of memory.
    Killed,
    /// It led, and was ended by its own timer because it stood still.
    EndedItself,
}

async fn squeeze(world: &mut World, limits: &[Arc<MemoryLimit>]) -> Result<()> {
    let leader = world.scene.agreed().await?;
    let node = world.random.random_range(0..NODES);
    let tightness = Tightness::drawn(&mut world.random);
    world.moment().await;
    // A leader that waits for memory may lead on, and be slow for as long.
    world.leaves_majority(node != leader);
    let squeezing = Box::pin(squeeze_for(world, &limits[node], node, tightness));
    let squeezed = world.hold_up(squeezing).await?;
    world.report.injected(squeezed.bit);
    let figure = match squeezed.fate {
        Fate::Survived => "nodes that survived with little memory",
        Fate::Killed => "nodes killed for want of memory",
        Fate::EndedItself => {
            let name = world.scene.name(node);
            ensure!(node == leader, "{name} has followed, and has ended for another reason than memory");
            pauses::ENDED
        }
    };
    world.count(figure);
    match squeezed.fate {
        Fate::Survived => world.whole().await,
        Fate::Killed | Fate::EndedItself => world.revive(&[node]).await,
    }
}

/// How little, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tightness {
    /// Half of them leave nothing of the files; the others so much of what is held of them.
    files: Option<f64>,
    time: Duration,
}

impl Tightness {
    fn drawn(random: &mut SmallRng) -> Self {
        let files = random.random_bool(0.5).then(|| random.random_range(0.0..1.0));
        Self { files, time: Duration::from_millis(random.random_range(3_000..8_000)) }
    }

    /// The limit of a node that holds so much, and so much of that itself.
    fn limit(self, held: u64, own: u64) -> u64 {
        let rest = held.saturating_sub(own);
        match self.files {
            Some(share) => own + (rest as f64 * share) as u64,
            // A little less than it cannot do without, which the kernel refuses to begin with.
            None => own - own / 20,
        }
    }
}

/// Holds a node to little memory for so long, or until that has ended it.
async fn squeeze_for(
    world: &World,
    limit: &Arc<MemoryLimit>,
    node: usize,
    tightness: Tightness,
) -> Result<Squeezed> {
    // Who watches it must not see it end by itself.
    let mut process = world.scene.process(node).await;
    ensure!(process.is_running(), "{} does not run", world.scene.name(node));
    let (hits, kills) = (limit.hits()?, limit.kills()?);
    let outcome = squeezed(limit, &mut process, tightness).await;
    // Whatever went wrong, it is held to nothing any longer.
    limit.lift()?;
    world.healed();
    outcome?;
    let goes_on = pauses::goes_on(world, node, &mut process).await?;
    let was_killed = limit.kills()? > kills;
    let fate = match (goes_on, was_killed) {
        (true, _) => Fate::Survived,
        (false, true) => Fate::Killed,
        (false, false) => Fate::EndedItself,
    };
    Ok(Squeezed { bit: was_killed || limit.hits()? > hits, fate })
}

async fn squeezed(limit: &Arc<MemoryLimit>, process: &mut Process, tightness: Tightness) -> Result<()> {
    let wanted = tightness.limit(limit.held()?, limit.own()?);
    let set = Arc::clone(limit);
    // To give memory back takes the kernel a while.
    spawn_blocking(move || set_near(&set, wanted)).await??;
    // How long it has little is the fault itself.
    if let Some(status) = process.ends(tightness.time).await? {
        pauses::was_killed(status)?;
    }
    Ok(())
}

/// Sets the limit that is the nearest above `wanted` to which the group can be brought.
fn set_near(limit: &MemoryLimit, wanted: u64) -> io::Result<()> {
    let mut tried = Ok(());
    for step in 0..STEPS {
        tried = limit.set(wanted + STEP * u64::from(step));
        if !tried.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy) {
            break;
        }
    }
    tried
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn limits_lie_around_what_a_node_cannot_do_without_and_below_what_it_holds() {
        let mut random = SmallRng::seed_from_u64(7);
        let (held, own) = (150 << 20, 100 << 20);
        let limits: Vec<u64> = (0..1000).map(|_| Tightness::drawn(&mut random).limit(held, own)).collect();
        assert!(limits.iter().all(|limit| (95 << 20..held).contains(limit)), "{limits:?}");
        let below = limits.iter().filter(|limit| **limit < own).count();
        assert!((400..600).contains(&below), "{below} of 1000 below what it cannot do without");
    }
}
