//! Fault classes: what is done to whole clusters, each node on a host of its own, while devices are read and pushers push.
//!
//! - A class injects so many faults, one after the other, each into a whole cluster: what is open is drawn from the seed.
//! - A fault is over when all nodes agree, every device is read and pushes are acknowledged again. If that does not come,
//!   the class ends with it. How long that takes is bounded in every class, and so is the silence in a fault that leaves a
//!   majority ([`liveness`]).
//! - Every class ends with the account of everything that was seen, with what the nodes said of themselves meanwhile, and
//!   with what their stores hold. What stays of it is not decided here ([`campaign`](super::campaign)).

pub mod clocks;
pub mod corruption;
pub mod devices;
pub mod disk_errors;
pub mod flapping;
pub mod freezes;
pub mod full_disks;
pub mod graphs;
mod held;
pub mod kills;
pub mod leases;
pub mod memory;
pub mod pauses;
pub mod power;
pub mod receivers;
pub mod slow_disks;
pub mod starved;
pub mod stops;
pub mod wiped;
pub mod wires;

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use simulator::history::monotonic_ns;
use simulator::nodes::layout::NODES;
use tokio::time::sleep;

use super::calm;
use super::elections;
use super::liveness::{self, Bounds, Pulse, Span};
use super::observed::{self, Observer};
use super::profile::Class;
use super::remains;
use super::run::{Assignment, RunReport, Verdict};
use crate::machine::hosts::Hosts;
use crate::scene::Scene;
use crate::story::Story;

/// The check on what comes back after each fault.
const HEALS: &str = "I17 the cluster is whole again after every fault";
/// Why slots are missed where a node, or a device, is slow.
const LATE: [&str; 2] = ["late", "device-down"];
/// A fault begins within so many milliseconds of a whole cluster.
const MOMENTS: u64 = 500;

/// A cluster at work on hosts of its own, and what has been found there.
struct World {
    report: RunReport,
    random: SmallRng,
    bounds: Bounds,
    /// Faults that are over, and the one that is not.
    spans: Vec<Span>,
    span: Option<Span>,
    /// When what was done was undone, if the cluster was not whole since.
    healed_ns: Cell<Option<u64>>,
    /// When the last fault was over, in monotonic nanoseconds.
    whole_since_ns: u64,
    observer: Observer,
    // Nodes go before what they stand on.
    scene: Scene,
    hosts: Hosts,
}

impl World {
    async fn open(class: &str, assignment: &Assignment) -> Result<Self> {
        let hosts = Hosts::make(&assignment.folder, &assignment.program)?;
        Self::on(hosts, class, assignment).await
    }

    /// The same, where disk calls of each node can fail or dawdle, and its wall clock be wrong.
    async fn open_controlled(class: &str, assignment: &Assignment) -> Result<Self> {
        let mut hosts = Hosts::make(&assignment.folder, &assignment.program)?;
        hosts.take_control()?;
        let world = Self::on(hosts, class, assignment).await?;
        for node in 0..NODES {
            let process = world.scene.process(node).await.id().context("a node does not run")?;
            let obeys = world.hosts.control(node).is_obeyed_by(process)?;
            ensure!(obeys, "{} does not obey its control page", world.scene.name(node));
        }
        Ok(world)
    }

    async fn on(hosts: Hosts, class: &str, assignment: &Assignment) -> Result<Self> {
        let class: Class = class.parse().map_err(|error: String| anyhow!(error))?;
        let bounds = class.bounds().map_err(|why| anyhow!("{class} has no cluster to judge: {why}"))?;
        let scene = Box::pin(Scene::on(&hosts)).await?;
        let observer = Observer::start(&scene, &assignment.folder).context("the observer")?;
        Ok(Self {
            report: RunReport::new(class.name(), assignment.seed),
            random: SmallRng::seed_from_u64(assignment.seed),
            bounds,
            spans: Vec::new(),
            span: None,
            healed_ns: Cell::new(None),
            whole_since_ns: monotonic_ns(),
            observer,
            scene,
            hosts,
        })
    }

    /// A moment of a cluster that is whole. A fault begins behind it.
    async fn moment(&mut self) {
        sleep(Duration::from_millis(self.random.random_range(0..MOMENTS))).await;
        self.span = Some(Span::begun(monotonic_ns()));
    }

    /// The fault that has begun leaves a majority, if it does: acknowledgements must go on.
    fn leaves_majority(&mut self, does: bool) {
        if let Some(span) = &mut self.span {
            span.is_live = does;
        }
    }

    /// What was done is undone now: from here on it counts how long the cluster takes to be whole. Where nothing is said it
    /// counts from when that is waited for.
    fn healed(&self) {
        self.healed_ns.set(self.healed_ns.get().or_else(|| Some(monotonic_ns())));
    }

    /// Starts nodes that are dead, and waits until the cluster is whole.
    async fn revive(&mut self, nodes: &[usize]) -> Result<()> {
        for node in nodes {
            self.scene.run(*node).await.with_context(|| format!("{} starts", self.scene.name(*node)))?;
        }
        self.whole().await
    }

    /// Waits until all nodes agree, every device is read, and pushes are acknowledged.
    async fn whole(&mut self) -> Result<()> {
        let healed_ns = self.healed_ns.take().unwrap_or_else(monotonic_ns);
        self.scene.agreed().await?;
        self.scene.goes_on().await?;
        for node in 0..NODES {
            ensure!(self.runs(node).await, "{} does not run", self.scene.name(node));
        }
        if let Some(span) = &mut self.span {
            span.ends.push((healed_ns, monotonic_ns()));
        }
        Ok(())
    }

    /// Whether a node's process runs, and does not stand still.
    async fn runs(&self, node: usize) -> bool {
        let process = self.scene.process(node).await;
        process.is_running() && !process.is_paused()
    }

    /// Does something to the cluster that keeps a node from reading in time, from which devices look silent. The account is
    /// told from when until when, and of the disturbance.
    async fn hold_up<T>(&self, held_up: impl Future<Output = T>) -> T {
        let began_ns = monotonic_ns();
        let done = self.scene.disturb(held_up).await;
        self.scene.field.account.lock().allow_within(&LATE, began_ns, monotonic_ns());
        done
    }

    /// Counts what has happened once more, under this name.
    fn count(&mut self, what: &str) {
        *self.report.figures.entry(what.to_owned()).or_default() += 1.0;
    }

    /// Notes how fault number `number` ended. Whether the next one can begin.
    fn is_over(&mut self, number: u32, fault: Result<()>) -> bool {
        if let Err(error) = &fault {
            self.report.failed(HEALS, format!("fault {number}: {error:#}"));
        }
        let now_ns = monotonic_ns();
        let silence = self.scene.field.account.lock().longest_silence(self.whole_since_ns, now_ns);
        self.report.silent_for(Duration::from_nanos(silence));
        self.whole_since_ns = now_ns;
        self.spans.extend(self.span.take());
        fault.is_ok()
    }

    /// Ends everything, and enters the account.
    async fn close(self) -> RunReport {
        let Self { mut report, bounds, spans, observer, scene, hosts, .. } = self;
        if let Some(casualty) = scene.casualty() {
            report.failed("no node ends by itself", casualty);
        }
        let (account, nodes) = (scene.field.account.clone(), scene.layout.nodes.clone());
        let devices: Vec<String> = scene.field.plant.devices.iter().map(|device| device.id.clone()).collect();
        let history = scene.field.history();
        let settled = Box::pin(scene.settle()).await;
        report.account(&settled);
        calm::judge(&mut report, &settled.calm, bounds.missed_percent);
        match Pulse::read(&history, &devices) {
            Ok(pulse) => liveness::judge(&mut report, &bounds, &spans, &pulse),
            Err(error) => report.failed("what came when is known", error.to_string()),
        }
        match observer.end().await {
            Ok(seen) => {
                observed::judge(&mut report, &seen, &account.lock().accepted());
                elections::judge(&mut report, &settled.uncaused, &seen, bounds.elections);
                Box::pin(remains::judge(&mut report, &nodes, &seen.highest())).await;
            }
            Err(error) => report.failed("what nodes said is known", error.to_string()),
        }
        // The stores lay on their disks until now.
        drop(hosts);
        if report.findings.iter().all(|finding| finding.verdict != Verdict::Failed) {
            report.passed(HEALS, format!("{} faults", report.injected));
        }
        report
    }

    /// Ends everything, and enters the account. Also the devices, and what they and the pushers saw.
    async fn close_with_story(self) -> Result<(RunReport, Vec<String>, Story)> {
        let devices = self.scene.field.plant.devices.iter().map(|device| device.id.clone()).collect();
        let history = self.scene.field.history();
        let report = Box::pin(self.close()).await;
        Ok((report, devices, Story::of_sources(&history)?))
    }
}

/// What is drawn each once, before any comes again.
struct Deck<T> {
    all: Vec<T>,
    left: Vec<T>,
}

impl<T: Copy> Deck<T> {
    fn of(all: impl IntoIterator<Item = T>) -> Self {
        Self { all: all.into_iter().collect(), left: Vec::new() }
    }

    fn draw(&mut self, random: &mut SmallRng) -> T {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
            self.left.shuffle(random);
        }
        self.left.pop().expect("there is something to draw")
    }
}

/// Injects as many faults as are assigned, one after the other, until the cluster is not whole again after one.
async fn one_after_the_other(
    class: &str,
    assignment: &Assignment,
    fault: impl AsyncFn(&mut World) -> Result<()>,
) -> Result<RunReport> {
    let world = World::open(class, assignment).await?;
    Box::pin(inject(world, assignment.times, fault)).await
}

/// The same in a cluster that is at work already.
async fn inject(
    mut world: World,
    times: u32,
    fault: impl AsyncFn(&mut World) -> Result<()>,
) -> Result<RunReport> {
    for number in 1..=times {
        let injected = fault(&mut world).await;
        if !world.is_over(number, injected) {
            break;
        }
    }
    Ok(world.close().await)
}

/// Who suffers: the leader, a follower, two nodes, or all, each as likely.
fn victims(random: &mut SmallRng, leader: usize) -> Vec<usize> {
    match random.random_range(0..4) {
        0 => vec![leader],
        1 => vec![(leader + random.random_range(1..NODES)) % NODES],
        2 => {
            let spared = random.random_range(0..NODES);
            (0..NODES).filter(|node| *node != spared).collect()
        }
        _ => (0..NODES).collect(),
    }
}

/// Between two numbers; each order of magnitude is as likely.
fn of_any_magnitude(random: &mut SmallRng, from: f64, to: f64) -> f64 {
    random.random_range(from.ln()..=to.ln()).exp().clamp(from, to)
}

/// The same of times, in milliseconds.
fn time_of_any_magnitude(random: &mut SmallRng, from_ms: u32, to_ms: u32) -> Duration {
    Duration::from_secs_f64(of_any_magnitude(random, from_ms.into(), to_ms.into()) / 1_000.0)
}

/// The leader or a follower, each as likely.
fn one_of(random: &mut SmallRng, leader: usize) -> usize {
    if random.random_bool(0.5) { leader } else { (leader + random.random_range(1..NODES)) % NODES }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_combination_of_nodes_suffers_sooner_or_later() {
        let mut random = SmallRng::seed_from_u64(7);
        let drawn: BTreeSet<Vec<usize>> = (0..1000).map(|_| victims(&mut random, 1)).collect();
        let expected = [vec![0], vec![1], vec![2], vec![0, 1], vec![0, 2], vec![1, 2], vec![0, 1, 2]];
        assert_eq!(drawn, BTreeSet::from(expected));
        let drawn: BTreeSet<usize> = (0..1000).map(|_| one_of(&mut random, 1)).collect();
        assert_eq!(drawn, BTreeSet::from([0, 1, 2]));
    }

    #[test]
    fn everything_in_a_deck_is_drawn_once_before_anything_comes_again() {
        let (mut random, mut deck) = (SmallRng::seed_from_u64(7), Deck::of(0..5));
        for _ in 0..3 {
            let drawn: BTreeSet<i32> = (0..5).map(|_| deck.draw(&mut random)).collect();
            assert_eq!(drawn.len(), 5, "{drawn:?}");
        }
    }

    #[test]
    fn short_times_are_as_likely_as_long_ones() {
        let mut random = SmallRng::seed_from_u64(7);
        let drawn: Vec<Duration> = (0..1000).map(|_| time_of_any_magnitude(&mut random, 10, 1_000)).collect();
        assert!(drawn.iter().all(|time| (10..=1_000).contains(&time.as_millis())));
        let short = drawn.iter().filter(|time| time.as_millis() < 100).count();
        assert!((400..600).contains(&short), "{short} of 1000 are below a tenth of a second");
    }
}
