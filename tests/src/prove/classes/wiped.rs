//! The data directory of the leader or of a follower is lost under load: removed while its node runs, or after it was
//! killed, or with the whole disk, in whose place there is an empty one. The node comes back as a stranger, is refused, and
//! is replaced as the documentation says.
//!
//! A loss has bitten if the directory held what the node had promised, and is not there any more when it is started again.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::Rng as _;
use rand::rngs::SmallRng;
use tokio::time::{Instant, sleep};

use super::{World, one_after_the_other, one_of};
use crate::LOOK_AGAIN;
use crate::prove::run::{Assignment, RunReport};

/// A process that is being killed makes files for a moment.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is lost, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    /// The directory, while the node runs.
    AtWork,
    /// The directory of a node that was killed.
    Dead,
    /// The disk of a node that was killed.
    Disk,
}

/// Loses directories so often.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    Box::pin(one_after_the_other("wiped", assignment, lose)).await
}

async fn lose(world: &mut World) -> Result<()> {
    let leader = world.scene.agreed().await?;
    let victim = one_of(&mut world.random, leader);
    let loss = Loss::draw(&mut world.random);
    world.moment().await;
    world.leaves_majority(true);
    let had_promised = world.scene.node(victim).data.join("slots/floor").try_exists()?;
    world.scene.disturb(Box::pin(take_away(world, victim, loss))).await?;
    let is_gone = !world.scene.node(victim).data.try_exists()?;
    world.report.injected(had_promised && is_gone);
    *world.report.figures.entry(loss.name().to_owned()).or_default() += 1.0;
    let stranger = world.scene.run_wiped(victim).await?;
    world.scene.goes_on().await.context("the others go on without it")?;
    world.scene.replace(&stranger).await?;
    world.whole().await
}

async fn take_away(world: &World, node: usize, loss: Loss) -> Result<()> {
    // Who watches it must not see it end by itself, as it does when its files are gone.
    let mut process = world.scene.process(node).await;
    ensure!(process.has_ended()?.is_none() && process.is_running(), "it does not run");
    let data = &world.scene.node(node).data;
    if loss == Loss::AtWork {
        remove(data).await?;
    }
    process.kill().await?;
    match loss {
        Loss::AtWork | Loss::Dead => remove(data).await?,
        Loss::Disk => world.hosts.exchange_disk(node).await?,
    }
    Ok(())
}

/// Removes a directory in which something may still make files.
async fn remove(data: &Path) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match std::fs::remove_dir_all(data) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !data.try_exists()? => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => sleep(LOOK_AGAIN).await,
            Ok(()) => return Ok(()),
        }
    }
}

impl Loss {
    fn draw(random: &mut SmallRng) -> Self {
        [Self::AtWork, Self::Dead, Self::Disk][random.random_range(0..3)]
    }

    fn name(self) -> &'static str {
        match self {
            Self::AtWork => "directories removed while the node ran",
            Self::Dead => "directories removed of dead nodes",
            Self::Disk => "disks exchanged",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn everything_is_lost_sooner_or_later() {
        let mut random = SmallRng::seed_from_u64(7);
        let drawn: BTreeSet<Loss> = (0..100).map(|_| Loss::draw(&mut random)).collect();
        assert_eq!(drawn.len(), 3);
        let names: BTreeSet<&str> = drawn.into_iter().map(Loss::name).collect();
        assert_eq!(names.len(), 3, "each is counted by itself");
    }

    #[tokio::test]
    async fn what_is_gone_already_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        std::fs::create_dir_all(data.join("slots")).expect("room");
        for _ in 0..2 {
            remove(&data).await.expect("it is ours");
            assert!(!data.exists());
        }
    }
}
