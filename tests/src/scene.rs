//! A cluster at work in a simulated plant: three presses that are polled, two robots that push, an HTTP receiver and CSV
//! files. Judged at its end by an account of what they saw, which must add up.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::process::ExitStatus;

use anyhow::{Context, Result, ensure};
use simulator::account::{Report, Verdict};
use simulator::field::Field;
use simulator::history::monotonic_ns;
use simulator::nodes::layout::Layout;
use simulator::trial::{self, End, HEALING, Trial};

use crate::cluster::{Cluster, Ground, logs_of};
use crate::machine::hosts::Hosts;
use crate::story::Story;

/// A scenario's world.
#[derive(Debug)]
pub struct Scene {
    cluster: Cluster,
    /// The simulated plant.
    pub field: Field,
}

/// What is left of it.
#[derive(Debug)]
pub struct Ended {
    /// The account, which adds up.
    pub report: Report,
    /// What the plant saw.
    pub story: Story,
    /// The plant, whose account can still be asked.
    pub field: Field,
    _ground: Ground,
}

impl Deref for Scene {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Scene {
    /// A cluster that reads and takes pushes at every node.
    pub async fn start() -> Result<Self> {
        let scene = Self::polled(async |_| Ok(())).await?;
        scene.push_everywhere().await?;
        Ok(scene)
    }

    /// A cluster that reads, and that nobody pushes to yet; `change` is made to the layout before.
    pub async fn polled(change: impl AsyncFnOnce(&mut Layout) -> Result<()>) -> Result<Self> {
        Self::open(Cluster::begin_with(change).await?, Ipv4Addr::LOCALHOST.into()).await
    }

    /// A cluster on hosts of its own that reads and takes pushes at every node. The plant is beside the hosts: nothing that
    /// is done between them touches it.
    pub async fn on(hosts: &Hosts) -> Result<Self> {
        let scene = Self::open(Cluster::begin_on(hosts).await?, hosts.network.outside()).await?;
        scene.push_everywhere().await?;
        Ok(scene)
    }

    async fn open(cluster: Cluster, plant: IpAddr) -> Result<Self> {
        let field = Field::start_at(cluster.folder(), SocketAddr::new(plant, 0)).await;
        let field = field.context("the simulated plant does not start")?;
        let scene = Self { cluster, field };
        let opened = scene.trial().open().await;
        scene.explain(opened.context("the plant is read"))?;
        Ok(scene)
    }

    /// Starts both pushers, which try all nodes in turn, and waits until they are acknowledged.
    pub async fn push_everywhere(&self) -> Result<()> {
        self.field.push_to(self.cluster.cluster.endpoints()).await;
        self.explain(self.trial().is_acknowledged().await.context("pushes"))
    }

    /// Waits until every press is read and pushes are acknowledged, from now on.
    pub async fn goes_on(&self) -> Result<()> {
        // To settle the whole account each time would hold up devices and pushers, which write to it.
        let acknowledged = || self.field.account.lock().pushed_acked();
        let before = acknowledged();
        self.explain(self.trial().reads_go_on(HEALING).await.context("reading goes on"))?;
        self.until("further pushes to be acknowledged", async || {
            let now = acknowledged();
            if now > before { Ok(()) } else { Err(now) }
        })
        .await
    }

    /// What can be done to it as a whole.
    pub fn trial(&self) -> Trial<'_> {
        Trial { nodes: &self.cluster, field: &self.field }
    }

    /// `kill -9`. Like everything here that a scenario does to a node, the account is told of it.
    pub async fn kill(&self, index: usize) -> io::Result<Option<ExitStatus>> {
        self.disturb(self.cluster.kill(index)).await
    }

    /// Kills a node, and removes its data directory.
    pub async fn wipe(&self, index: usize) -> io::Result<()> {
        self.disturb(async { self.cluster.process(index).await.wipe().await }).await
    }

    /// Stops a node in order (`SIGTERM`); it must end well.
    pub async fn stop_node(&self, index: usize) -> Result<()> {
        self.disturb(self.cluster.stop_node(index)).await
    }

    /// Does something to it that may cost slots, and a leader; the account is told from when until when.
    pub async fn disturb<T>(&self, disturbance: impl Future<Output = T>) -> T {
        let began_ns = monotonic_ns();
        let done = disturbance.await;
        self.field.account.lock().disturbed(began_ns, monotonic_ns());
        done
    }

    /// Waits until the account says something.
    pub async fn until_account<T>(
        &self,
        what: &str,
        mut condition: impl FnMut(&simulator::account::Account) -> Option<T>,
    ) -> Result<T> {
        self.until(what, async || {
            let account = self.field.account.lock();
            condition(&account).ok_or_else(|| account.figures())
        })
        .await
    }

    /// What has been seen until now.
    pub fn story(&self) -> Result<Story> {
        drop(self.field.account.lock());
        Story::read(&self.field.history())
    }

    /// Ends it in order: everything is delivered. The account, whether it adds up or not; its history is in the folder.
    pub async fn settle(self) -> Report {
        let Self { cluster, field } = self;
        let (nodes, _ground) = cluster.into_parts();
        trial::close(nodes, &field, End::AtOnce).await
    }

    /// Ends it in order: everything is delivered, and the account adds up. Its notes are told, and fail nothing.
    pub async fn end(self) -> Result<Ended> {
        let Self { cluster, field } = self;
        let (nodes, ground) = cluster.into_parts();
        let layout = nodes.layout.clone();
        let report = trial::close(nodes, &field, End::AtOnce).await;
        let adds_up = report.verdict == Verdict::Pass;
        ensure!(adds_up, "the account does not add up: {report:#?}{}", logs_of(&layout));
        report.notes.iter().for_each(|note| eprintln!("note: {note}"));
        let story = Story::read(&field.history())?;
        Ok(Ended { report, story, field, _ground: ground })
    }
}
