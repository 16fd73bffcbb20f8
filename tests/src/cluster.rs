//! Real nodes for a scenario: started, asked, broken and waited for. They end with it, and so do their files.
//!
//! - Nodes are named by their index; what can be done to one is in [`Nodes`].
//! - Nothing waits for a time: a wait is for a condition, and says in vain what was expected, what was seen, and what the
//!   nodes logged last.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use simulator::nodes::cluster::Leader;
use simulator::nodes::layout::{Layout, NodePlan};
use simulator::nodes::{Nodes, NodesConfig};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use wire::proto::v1 as pb;
use wire::proto::v1::admin_client::AdminClient;
use wire::proto::v1::member::Reach;

use crate::certificates::Certificates;
use crate::machine::hosts::Hosts;
use crate::said::{self, Said, program};
use crate::{LOOK_AGAIN, SOON, until};

/// How often the nodes are asked how they are.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// One call.
const CALL: Duration = Duration::from_secs(15);
/// A look at one node; one that is well answers much sooner.
const LOOK: Duration = Duration::from_secs(2);
/// Lines of a log that are shown.
const LAST_LINES: usize = 40;

/// Nodes of one cluster, and those that are to belong.
#[derive(Debug)]
pub struct Cluster {
    nodes: Nodes,
    ground: Ground,
}

/// A node whose data directory is gone: it runs, and the cluster does not know it any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// The number of the member that it was.
    pub old: u64,
    /// What it says is to be typed.
    pub command: String,
}

/// What nodes stand on: it outlives them.
#[derive(Debug)]
pub(crate) struct Ground {
    folder: PathBuf,
    /// Removes the folder, if it is nobody else's.
    _temporary: Option<TempDir>,
    /// The doors through which nodes are asked that speak TLS, unless the scenario holds them.
    _certificates: Option<Certificates>,
}

impl Deref for Cluster {
    type Target = Nodes;

    fn deref(&self) -> &Nodes {
        &self.nodes
    }
}

impl Cluster {
    /// Three nodes that have founded a cluster.
    pub async fn start() -> Result<Self> {
        Self::start_with(|_| Ok(())).await
    }

    /// Three nodes that have founded a cluster; `change` is made to their layout before.
    pub async fn start_with(change: impl FnOnce(&mut Layout) -> Result<()>) -> Result<Self> {
        let cluster = Self::begin_with(async |layout| change(layout)).await?;
        cluster.agreed().await?;
        Ok(cluster)
    }

    /// Three nodes that have just been started; `change` is made to their layout before.
    pub async fn begin_with(change: impl AsyncFnOnce(&mut Layout) -> Result<()>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut layout = Layout::apart(folder.path(), "scenario")?;
        change(&mut layout).await?;
        let path = folder.path().to_owned();
        let ground = Ground { folder: path, _temporary: Some(folder), _certificates: None };
        Self::begin(layout, program()?, ground).await
    }

    /// Three nodes on hosts of their own that have just been started. They speak TLS.
    pub async fn begin_on(hosts: &Hosts) -> Result<Self> {
        let mut layout = hosts.layout();
        let certificates = Certificates::make(&mut layout).await?;
        let folder = layout.folder.clone();
        let ground = Ground { folder, _temporary: None, _certificates: Some(certificates) };
        Self::begin(layout, hosts.program().to_owned(), ground).await
    }

    async fn begin(layout: Layout, program: PathBuf, ground: Ground) -> Result<Self> {
        let say = Arc::new(|text: &str| eprintln!("{text}"));
        let config = NodesConfig { program, look_every: LOOK_EVERY, say };
        Ok(Self { nodes: Nodes::start(layout, config).await?, ground })
    }

    /// What stays when the nodes are taken away.
    pub(crate) fn into_parts(self) -> (Nodes, Ground) {
        (self.nodes, self.ground)
    }

    /// The folder of everything.
    pub fn folder(&self) -> &Path {
        &self.ground.folder
    }

    /// A node on paper.
    pub fn node(&self, index: usize) -> &NodePlan {
        &self.nodes.layout.nodes[index]
    }

    /// The name of a node.
    pub fn name(&self, index: usize) -> &str {
        &self.node(index).name
    }

    /// The other two of the first three.
    pub fn others(&self, index: usize) -> [usize; 2] {
        [(index + 1) % 3, (index + 2) % 3]
    }

    /// What a node has logged.
    pub async fn log(&self, index: usize) -> String {
        self.nodes.process(index).await.log()
    }

    /// Stops a node in order (`SIGTERM`); it must end well.
    pub async fn stop_node(&self, index: usize) -> Result<()> {
        let ended = self.nodes.process(index).await.terminate(SOON).await?;
        let ended = ended.with_context(|| format!("{} does not end", self.name(index)))?;
        self.explain(ended.success().then_some(()).with_context(|| format!("it ended with {ended}")))
    }

    /// Waits until a node leads, whatever the others say; its index.
    pub async fn leader(&self) -> Result<usize> {
        let leader = self.nodes.leads(SOON).await;
        self.explain(leader.context("a leader").and_then(|leader| self.index(&leader)))
    }

    /// Waits until all nodes that run follow one leader; its index.
    pub async fn agreed(&self) -> Result<usize> {
        let leader = self.nodes.agreed(SOON).await;
        self.explain(leader.context("agreement").and_then(|leader| self.index(&leader)))
    }

    fn index(&self, leader: &Leader) -> Result<usize> {
        self.nodes.layout.index_of(&leader.name).with_context(|| format!("no node {}", leader.name))
    }

    /// Waits until `look` finds what it looks for, while no node ends by itself.
    pub async fn until<T, E: Debug>(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> Result<T, E>,
    ) -> Result<T> {
        let found = until(what, async || match self.nodes.casualty() {
            None => look().await.map(Ok).map_err(|seen| format!("{seen:?}")),
            Some(casualty) => Ok(Err(anyhow!("{casualty}; while waiting for {what}"))),
        });
        self.explain(found.await.and_then(|found| found))
    }

    /// A client of a node's API.
    pub fn client(&self, index: usize) -> AdminClient<Channel> {
        self.nodes.cluster.client(index)
    }

    /// What a node says of the cluster itself.
    pub async fn status(&self, index: usize) -> Result<pb::ClusterStatus> {
        let question = pb::GetStatusRequest { this_node: true, gaps_since: None };
        let mut client = self.client(index);
        let answer = timeout(LOOK, client.get_status(question)).await;
        let answer = answer.with_context(|| format!("{} does not answer", self.name(index)))?;
        Ok(answer.with_context(|| format!("{} refuses", self.name(index)))?.into_inner())
    }

    /// The buffer of a node.
    pub async fn buffer(&self, index: usize) -> Result<pb::BufferStats> {
        let status = self.status(index).await?;
        status.buffer.with_context(|| format!("{} says nothing of its buffer", self.name(index)))
    }

    /// Calls the leader, wherever it is, and again while leadership changes hands.
    pub async fn ask<Q: Clone, A>(
        &self,
        question: Q,
        call: impl AsyncFn(&mut AdminClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Status> {
        let deadline = Instant::now() + SOON;
        loop {
            let answer = async {
                let leader = self.nodes.leads(SOON).await.map_err(|error| error.to_string());
                let index = leader.and_then(|leader| self.index(&leader).map_err(|error| error.to_string()));
                let mut client = self.client(index.map_err(Status::unavailable)?);
                let mut request = Request::new(question.clone());
                request.set_timeout(CALL);
                call(&mut client, request).await.map(Response::into_inner)
            };
            match answer.await {
                Err(status)
                    if (code(&status) == "HF-3101" || code(&status).is_empty())
                        && Instant::now() < deadline =>
                {
                    sleep(LOOK_AGAIN).await;
                }
                other => return other,
            }
        }
    }

    /// The members, as the leader sees them.
    pub async fn members(&self) -> Result<Vec<pb::Member>> {
        let question = pb::ListMembersRequest { this_node: false };
        let list = self.ask(question, async |admin, question| admin.list_members(question).await).await?;
        Ok(list.members)
    }

    /// Starts a node whose data directory is gone, and waits until it says what to type and the leader refuses it.
    pub async fn run_wiped(&self, index: usize) -> Result<Stranger> {
        let (name, address) = (self.name(index).to_owned(), self.node(index).peers);
        let old = self.members().await?.iter().find(|member| member.name == name).context("a member")?.id;
        let command = format!("holdfast member replace {name} {name}={address}");
        // It may have been wiped before.
        let said = self.log(index).await.matches(&command).count();
        self.nodes.run(index).await?;
        let is_refused = async || {
            let log = self.log(index).await;
            ensure!(log.matches(&command).count() > said, "it does not say what to type:\n{log}");
            let members = self.members().await?;
            let old = members.iter().find(|member| member.id == old).context("it is still a member")?;
            ensure!(old.reach() == Reach::Refused, "the leader takes it for {:?}", old.reach());
            Ok(())
        };
        self.until("the wiped node to be a stranger and to say so", is_refused).await?;
        Ok(Stranger { old, command })
    }

    /// Types what a stranger says. The number that it has as a member: it votes in place of the old one.
    pub async fn replace(&self, stranger: &Stranger) -> Result<u64> {
        let before = voters(&self.members().await?);
        let words: Vec<&str> = stranger.command.split(' ').skip(1).collect();
        self.cli_done(&words).await?;
        let members = self.members().await?;
        let after = voters(&members);
        let new = *after.difference(&before).next().with_context(|| format!("nobody new in {members:?}"))?;
        let kept = before.into_iter().filter(|id| *id != stranger.old);
        ensure!(after == kept.chain([new]).collect::<BTreeSet<u64>>(), "{members:?}");
        Ok(new)
    }

    /// Makes a plant document the revision after `base`; the revision that is in force then.
    pub async fn apply(&self, document: &str, base: u64) -> Result<u64> {
        let question = configuration(document, base);
        let applied = self.ask(question, async |admin, question| admin.apply_config(question).await).await?;
        Ok(applied.revision)
    }

    /// Hands leadership over; the index of who leads then.
    pub async fn switch_over(&self) -> Result<usize> {
        let leader = self.agreed().await?;
        let next = self.nodes.cluster.transfer(leader).await?.to;
        self.nodes.layout.index_of(&next).with_context(|| format!("no node {next}"))
    }

    /// Runs the command line against all nodes, in plaintext.
    pub async fn cli(&self, arguments: &[&str]) -> Result<Said> {
        let endpoints: Vec<String> =
            self.nodes.layout.nodes.iter().map(|node| node.api.to_string()).collect();
        let mut command = said::command(arguments)?;
        command.env("HOLDFAST_ENDPOINTS", endpoints.join(","));
        said::run(command).await
    }

    /// Runs the command line, which must succeed; what it wrote.
    pub async fn cli_done(&self, arguments: &[&str]) -> Result<String> {
        let done = self.cli(arguments).await.and_then(Said::done);
        self.explain(done.with_context(|| format!("holdfast {}", arguments.join(" "))))
    }

    /// An error with the ends of all logs.
    pub fn explain<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| anyhow!("{error:#}{}", self.logs()))
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        logs_of(&self.nodes.layout)
    }
}

/// The numbers of those that vote.
fn voters(members: &[pb::Member]) -> BTreeSet<u64> {
    members.iter().filter(|member| member.voter).map(|member| member.id).collect()
}

/// The ends of the logs of all nodes.
pub(crate) fn logs_of(layout: &Layout) -> String {
    let last = |node: &NodePlan| {
        let log = std::fs::read_to_string(&node.log).unwrap_or_else(|error| format!("no log: {error}"));
        let lines: Vec<&str> = log.lines().collect();
        format!("\n--- {}\n{}", node.name, lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"))
    };
    layout.nodes.iter().map(last).collect()
}

/// The request that makes a plant document the revision after `base`.
pub fn configuration(document: &str, base: u64) -> pb::ApplyConfigRequest {
    let file = pb::ConfigFile { name: "plant.toml".to_owned(), content: document.as_bytes().to_vec().into() };
    pb::ApplyConfigRequest {
        files: vec![file],
        base_revision: base,
        comment: "the scenario's plant".to_owned(),
        ..pb::ApplyConfigRequest::default()
    }
}

/// The code of a refusal; empty if it has none.
pub fn code(status: &Status) -> &str {
    status.metadata().get("holdfast-code").and_then(|code| code.to_str().ok()).unwrap_or_default()
}

/// Fails unless the call was refused with this code; what it said.
pub fn refused_with<T: Debug>(answer: Result<T, Status>, expected: &str) -> Result<String> {
    match answer {
        Err(status) if code(&status) == expected => Ok(status.message().to_owned()),
        other => bail!("expected a refusal {expected}, saw {other:?}"),
    }
}
