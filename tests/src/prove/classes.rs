//! Fault classes: what is done to whole clusters, each node on a host of its own, while devices are read and pushers push.
//!
//! - A class injects so many faults, one after the other, each into a whole cluster: what is open is drawn from the seed.
//! - A fault is over when all nodes agree, every device is read and pushes are acknowledged again. If that does not come,
//!   the class ends with it.
//! - Every class ends with the account of everything that was seen, with what the nodes said of themselves meanwhile, and
//!   with what their stores hold. Its histories and the logs of the nodes stay in the folder; where a check has failed, so
//!   do the disks.

pub mod graphs;
pub mod kills;
pub mod pauses;
pub mod power;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use simulator::history::monotonic_ns;
use simulator::nodes::layout::NODES;
use tokio::time::{Instant, sleep};

use super::observed::{self, Observer};
use super::remains;
use super::run::{Assignment, RunReport, Verdict};
use crate::machine::hosts::Hosts;
use crate::scene::Scene;

/// The check on what comes back after each fault.
const HEALS: &str = "I17 the cluster is whole again after every fault";
/// A fault begins within so many milliseconds of a whole cluster.
const MOMENTS: u64 = 500;

/// A cluster at work on hosts of its own, and what has been found there.
struct World {
    report: RunReport,
    random: SmallRng,
    longest_recovery: Duration,
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
        let scene = Scene::on(&hosts).await?;
        let observer = Observer::start(&scene, &assignment.folder).context("the observer")?;
        Ok(Self {
            report: RunReport::new(class, assignment.seed),
            random: SmallRng::seed_from_u64(assignment.seed),
            longest_recovery: Duration::ZERO,
            whole_since_ns: monotonic_ns(),
            observer,
            scene,
            hosts,
        })
    }

    /// A moment of a cluster that is whole.
    async fn moment(&mut self) {
        sleep(Duration::from_millis(self.random.random_range(0..MOMENTS))).await;
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
        let began = Instant::now();
        self.scene.agreed().await?;
        self.scene.goes_on().await?;
        for node in 0..NODES {
            ensure!(self.runs(node).await, "{} does not run", self.scene.name(node));
        }
        self.longest_recovery = self.longest_recovery.max(began.elapsed());
        Ok(())
    }

    /// Whether a node's process runs, and does not stand still.
    async fn runs(&self, node: usize) -> bool {
        let process = self.scene.process(node).await;
        process.is_running() && !process.is_paused()
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
        fault.is_ok()
    }

    /// Ends everything, and enters the account.
    async fn close(self) -> RunReport {
        let Self { mut report, longest_recovery, observer, scene, hosts, .. } = self;
        report.figures.insert("longest recovery, ms".to_owned(), longest_recovery.as_secs_f64() * 1e3);
        if let Some(casualty) = scene.casualty() {
            report.failed("no node ends by itself", casualty);
        }
        let (account, nodes) = (scene.field.account.clone(), scene.layout.nodes.clone());
        report.account(&scene.settle().await);
        match observer.end().await {
            Ok(seen) => {
                observed::judge(&mut report, &seen, &account.lock().accepted());
                Box::pin(remains::judge(&mut report, &nodes, &seen.highest())).await;
            }
            Err(error) => report.failed("what nodes said is known", error.to_string()),
        }
        let has_failed = report.findings.iter().any(|finding| finding.verdict == Verdict::Failed);
        if has_failed {
            hosts.keep();
        } else {
            report.passed(HEALS, format!("{} faults", report.injected));
        }
        report
    }
}

/// Injects as many faults as are assigned, one after the other, until the cluster is not whole again after one.
async fn one_after_the_other(
    class: &str,
    assignment: &Assignment,
    fault: impl AsyncFn(&mut World) -> Result<()>,
) -> Result<RunReport> {
    let mut world = World::open(class, assignment).await?;
    for number in 1..=assignment.times {
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
    }
}
