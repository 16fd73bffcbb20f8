//! Wrong clocks on real nodes: a leader dies and both that could follow it have clocks that are an hour wrong, one behind
//! and one ahead; then the clock of the new leader is set while it leads. Judged by what the receiver and the devices saw.
//!
//! - Reading goes on: a slow clock blinds nobody.
//! - Each slot of each grid is in exactly one record, and no gap is longer than the seconds it really took: a fast clock
//!   invents nothing.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use holdfast_tests::SOON;
use holdfast_tests::scene::Scene;
use simulator::nodes::layout::Layout;
use simulator::plant::Shape;

const HOUR_MILLIS: i64 = 3_600_000;

/// The file that says by how many milliseconds a node's clock is ahead.
fn clock(folder: &Path, node: &str) -> PathBuf {
    folder.join(format!("{node}.clock"))
}

/// Puts a node's wall clock ahead, or behind.
fn set_clock(scene: &Scene, index: usize, ahead_millis: i64) -> Result<()> {
    let clock = clock(scene.folder(), scene.name(index));
    // Renamed into place: the node never reads half of it.
    let aside = clock.with_extension("new");
    std::fs::write(&aside, ahead_millis.to_string())?;
    Ok(std::fs::rename(&aside, clock)?)
}

fn with_clocks(layout: &mut Layout) -> Result<()> {
    for node in &mut layout.nodes {
        let clock = clock(&layout.folder, &node.name);
        std::fs::write(&clock, "0")?;
        node.variables.push(("HOLDFAST_TEST_CLOCK".to_owned(), clock.display().to_string()));
    }
    Ok(())
}

/// Waits until the receiver has `more` further samples.
async fn samples(scene: &Scene, more: u64) -> Result<()> {
    let wanted = scene.field.account.lock().figures().delivered + more;
    scene
        .until_account("samples to arrive", |account| (account.figures().delivered >= wanted).then_some(()))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_or_set_costs_the_seconds_without_a_leader_and_no_more() -> Result<()> {
    let scene = Scene::polled(async |layout| with_clocks(layout)).await?;
    scene.push_everywhere().await?;
    samples(&scene, 1_000).await?;

    let first = scene.agreed().await?;
    let [behind, ahead] = scene.others(first);
    set_clock(&scene, behind, -HOUR_MILLIS)?;
    set_clock(&scene, ahead, HOUR_MILLIS)?;
    // Long enough that they have applied slots since, and know by their monotonic clocks when the last one was.
    samples(&scene, 1_000).await?;
    scene.kill(first).await?;
    let second = scene.agreed().await?;
    ensure!(second != first, "{first} was killed");
    samples(&scene, 2_000).await?;

    // Its clock is put right while it leads: another step of an hour.
    set_clock(&scene, second, 0)?;
    samples(&scene, 2_000).await?;
    scene.run(first).await?;
    set_clock(&scene, second, 2 * HOUR_MILLIS)?;
    samples(&scene, 2_000).await?;

    let ended = scene.end().await?;
    let account = ended.field.account.lock();
    let devices = ended.field.plant.devices.len();
    let causes: Vec<&str> = account.openings().map(|opening| opening.cause.as_str()).collect();
    let clocks = causes.iter().filter(|cause| **cause == "clock").count();
    ensure!(clocks >= 3 * devices, "each wrong clock opens the grids anew: {causes:?}");
    // Everything that was missed was missed within the seconds that the cluster had no leader.
    let longest = account.gaps().map(|gap| gap.last - gap.first + 1).max().unwrap_or(0);
    let bound = SOON.as_millis() / Shape::default().period.as_millis();
    ensure!(u128::from(longest) < bound, "a gap of {longest} slots");
    let explained = ["failover", "clock", "late", "paused", "no-quorum", "disabled"];
    for gap in account.gaps() {
        ensure!(explained.contains(&gap.cause.as_str()), "{gap:?}");
    }
    Ok(())
}
