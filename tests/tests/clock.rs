//! Wrong clocks on real nodes: a leader dies and both that could follow it have clocks that are an hour wrong, one behind
//! and one ahead; then the clock of the new leader is set while it leads. Judged by what the receiver and the devices saw.
//!
//! - Reading goes on: a slow clock blinds nobody.
//! - Each slot of each grid is in exactly one record, and what is missing between two reads is no longer than the time
//!   between them, by the machine's monotonic clock: a fast clock invents nothing.
//! - Source times step back by the hour, and what bears them is delivered like everything else.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_tests::scene::Scene;
use holdfast_tests::story::{Story, number};
use model::Timestamp;
use simulator::account::GapSeen;
use simulator::nodes::layout::Layout;
use simulator::plant::{Polled, Shape};

const HOUR_MILLIS: i64 = 3_600_000;
/// A step of an hour, less what passed meanwhile.
const NEARLY_AN_HOUR: i64 = 59 * 60 * 1_000_000_000;

/// A slot that was sampled.
#[derive(Debug, Clone, Copy)]
struct Sampled {
    /// When its request came to the device, by the machine's monotonic clock.
    came_ns: u64,
    source_time: Timestamp,
}

/// The sampled slots of a device, by grid and slot, which is the order in which they were read.
fn sampled(story: &Story, device: &Polled) -> Result<BTreeMap<(u64, u64), Sampled>> {
    let reads = story.reads.iter().filter(|read| read.process == device.id).map(|read| &read.details);
    let came: HashMap<u64, u64> = reads.map(|read| (read.ordinal, read.first_byte_ns)).collect();
    let mut slots = BTreeMap::new();
    for sample in story.new_records("sample").filter(|sample| sample["tag"] == device.tags[0].as_str()) {
        let Some(ordinal) = sample["value"].as_u64() else { continue };
        let came_ns = *came.get(&ordinal).with_context(|| format!("{sample} was never read"))?;
        let source_time = sample["source_time"].as_str().unwrap_or_default().parse::<Timestamp>()?;
        let place = (number(&sample["grid"]), number(&sample["slot"]));
        slots.insert(place, Sampled { came_ns, source_time });
    }
    Ok(slots)
}

/// For each run of missing slots between two that were sampled: how many, and the time for which they account. It is taken
/// from the read before the first of the two: that one may itself have come late, but not before its nominal time.
fn runs<'a>(
    slots: &BTreeMap<(u64, u64), Sampled>,
    gaps: impl Iterator<Item = &'a GapSeen>,
) -> Vec<(u64, Duration)> {
    let mut runs = BTreeMap::new();
    for gap in gaps {
        let before = slots.range(..(gap.grid, gap.first)).rev().nth(1);
        let behind = slots.range((gap.grid, gap.last)..).next();
        if let (Some((_, before)), Some((place, behind))) = (before, behind) {
            let time = Duration::from_nanos(behind.came_ns.saturating_sub(before.came_ns));
            runs.entry(*place).or_insert((0, time)).0 += gap.last - gap.first + 1;
        }
    }
    runs.into_values().collect()
}

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
    // An election by itself, on a busy machine, has a time that is not to be compared.
    scene.field.account.lock().allow(&["clock", "failover"]);
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
    let period = Shape::default().period;
    for device in &ended.field.plant.devices {
        let slots = sampled(&ended.story, device)?;
        let runs = runs(&slots, account.gaps().filter(|gap| gap.device == device.id));
        ensure!(!runs.is_empty(), "the failover costs {} slots", device.id);
        for (missing, time) in runs {
            let accounted = period * u32::try_from(missing)?;
            ensure!(accounted <= time + 2 * period, "{}: {missing} slots in {time:?}", device.id);
        }
        let times: Vec<Timestamp> = slots.values().map(|slot| slot.source_time).collect();
        let back = times.windows(2).map(|pair| pair[0].nanos_since(pair[1])).max();
        ensure!(back >= Some(NEARLY_AN_HOUR), "{}: source times step back by {back:?} ns", device.id);
    }
    Ok(())
}
