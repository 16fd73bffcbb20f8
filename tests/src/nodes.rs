//! Real node processes on free loopback ports: started, killed, wiped, asked, and told what to do.
//!
//! - A node ends with its [`Nodes`], whatever happens; its log is shown when something was waited for in vain.
//! - Nothing sleeps for a fixed time: [`until`] looks again until a condition holds or its time is over.

use std::fs::OpenOptions;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use wire::proto::v1 as pb;
use wire::proto::v1::admin_client::AdminClient;

/// Nothing that must happen takes longer, even on a machine that does much else.
pub const SOON: Duration = Duration::from_secs(60);
/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// One call.
const CALL: Duration = Duration::from_secs(15);
/// A look at one node; one that is well answers much sooner.
const LOOK: Duration = Duration::from_secs(2);
/// Lines of a log that are shown.
const LAST_LINES: usize = 40;

/// The program, built beside the tests.
pub fn program() -> Result<PathBuf> {
    let tests = std::env::current_exe()?;
    let folder = tests.parent().and_then(Path::parent).context("tests lie in a folder below the programs")?;
    let program = folder.join(format!("holdfast{}", std::env::consts::EXE_SUFFIX));
    ensure!(program.is_file(), "{} is missing: build the workspace's programs first", program.display());
    Ok(program)
}

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where its peers reach it.
    pub peers: SocketAddr,
    /// Its API.
    pub admin: SocketAddr,
    /// Its data directory.
    pub data: PathBuf,
    file: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// The nodes of one cluster, and those that are to belong.
#[derive(Debug)]
pub struct Nodes {
    folder: TempDir,
    program: PathBuf,
    nodes: Vec<Node>,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // What cannot be killed has ended by itself.
            drop(node.kill());
        }
    }
}

/// Looks again until `look` gives something, for at most [`SOON`]; else fails with what it said last.
pub async fn until<T, F: Future<Output = Result<T>>>(what: &str, mut look: impl FnMut() -> F) -> Result<T> {
    let deadline = Instant::now() + SOON;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(not_yet) if Instant::now() >= deadline => {
                return Err(not_yet.context(format!("expected within {SOON:?}: {what}")));
            }
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

impl Node {
    /// `kill -9`.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Lets its process stand still, or go on.
    pub fn pause(&self, stands_still: bool) -> Result<()> {
        let child = self.child.as_ref().context("it does not run")?;
        let signal = if stands_still { "-STOP" } else { "-CONT" };
        let done = Command::new("kill").args([signal, &child.id().to_string()]).status()?;
        ensure!(done.success(), "kill {signal} ended with {done}");
        Ok(())
    }

    /// Whether its process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Removes its data directory.
    pub fn wipe(&mut self) -> io::Result<()> {
        self.kill()?;
        std::fs::remove_dir_all(&self.data)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_else(|error| format!("no log: {error}"))
    }

    /// A client of its API.
    pub fn client(&self) -> Result<AdminClient<Channel>> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.admin))?.connect_timeout(LOOK);
        Ok(AdminClient::new(endpoint.connect_lazy()))
    }

    /// What it says of the cluster itself.
    pub async fn status(&self) -> Result<pb::ClusterStatus> {
        let mut client = self.client()?;
        let question = pb::GetStatusRequest { this_node: true, gaps_since: None };
        let answer = timeout(LOOK, client.get_status(question)).await;
        let answer = answer.with_context(|| format!("{} does not answer", self.name))?;
        Ok(answer.with_context(|| format!("{} refuses", self.name))?.into_inner())
    }

    /// Its buffer.
    pub async fn buffer(&self) -> Result<pb::BufferStats> {
        self.status().await?.buffer.with_context(|| format!("{} says nothing of its buffer", self.name))
    }
}

impl Nodes {
    /// Three nodes that found a cluster; returns when one leads and the others have heard of it.
    pub async fn founded() -> Result<Self> {
        let mut nodes = Self { folder: tempfile::tempdir()?, program: program()?, nodes: Vec::new() };
        for number in 1..=3 {
            nodes.plan(&format!("node-{number}"))?;
        }
        let members: Vec<String> =
            nodes.nodes.iter().map(|node| format!("\"{}={}\"", node.name, node.peers)).collect();
        let members = format!("members = [{}]", members.join(", "));
        for index in 0..3 {
            nodes.write_file(index, &members)?;
            nodes.start(index)?;
        }
        nodes.agreed().await?;
        Ok(nodes)
    }

    /// Another node on paper, which asks the first three to belong; its index.
    pub fn joining(&mut self, name: &str) -> Result<usize> {
        let index = self.plan(name)?;
        let whom: Vec<String> = self.nodes[..3].iter().map(|node| format!("\"{}\"", node.peers)).collect();
        self.write_file(index, &format!("join = [{}]", whom.join(", ")))?;
        Ok(index)
    }

    fn plan(&mut self, name: &str) -> Result<usize> {
        // All are held until the last is known: none is given twice.
        let held: Vec<TcpListener> =
            (0..2).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<io::Result<_>>()?;
        let folder = self.folder.path();
        self.nodes.push(Node {
            name: name.to_owned(),
            peers: held[0].local_addr()?,
            admin: held[1].local_addr()?,
            data: folder.join(name),
            file: folder.join(format!("{name}.toml")),
            log: folder.join(format!("{name}.log")),
            child: None,
        });
        Ok(self.nodes.len() - 1)
    }

    fn write_file(&self, index: usize, belongs: &str) -> io::Result<()> {
        let Node { name, peers, admin, data, file, .. } = &self.nodes[index];
        let text = format!(
            "name = \"{name}\"\ndata-dir = \"{}\"\ninsecure = true\n[cluster]\nname = \"scenario\"\n{belongs}\n\
             [listen]\npeers = \"{peers}\"\nadmin = \"{admin}\"\n",
            data.display()
        );
        std::fs::write(file, text)
    }

    /// Starts the process of a node.
    pub fn start(&mut self, index: usize) -> Result<()> {
        let node = &mut self.nodes[index];
        let log = OpenOptions::new().create(true).append(true).open(&node.log)?;
        let mut command = Command::new(&self.program);
        command.arg("node").arg("--config").arg(&node.file);
        for (key, _) in std::env::vars_os() {
            if key.to_str().is_some_and(|key| key.starts_with("HOLDFAST_")) {
                command.env_remove(key);
            }
        }
        command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        node.child = Some(command.spawn()?);
        Ok(())
    }

    /// One node.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// One node, to do something to it.
    pub fn node_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }

    /// The folder of everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The index of a node.
    pub fn index_of(&self, name: &str) -> Result<usize> {
        self.nodes.iter().position(|node| node.name == name).with_context(|| format!("no node {name}"))
    }

    /// Waits until a node leads; its index.
    pub async fn leader(&self) -> Result<usize> {
        self.explain(until("a leader", || self.leading()).await)
    }

    /// The node that says it leads, with a lease; of several that of the highest term.
    pub async fn leading(&self) -> Result<usize> {
        let mut best = None;
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.child.is_some()) {
            let Ok(status) = node.status().await else { continue };
            let Some(leader) = status.leader.filter(|leader| leader.name == node.name) else { continue };
            if leader.lease.is_some() && best.is_none_or(|(term, _)| leader.term > term) {
                best = Some((leader.term, index));
            }
        }
        best.map(|(_, index)| index).context("nobody leads")
    }

    /// Waits until a node leads and all running members know it; its index.
    pub async fn agreed(&self) -> Result<usize> {
        let look = || async {
            let leader = self.leading().await?;
            for node in self.nodes.iter().filter(|node| node.child.is_some()) {
                let named = node.status().await?.leader.context("knows no leader")?.name;
                ensure!(named == self.nodes[leader].name, "{} follows {named}", node.name);
            }
            Ok(leader)
        };
        self.explain(until("agreement on a leader", look).await)
    }

    /// Calls the leader, wherever it is, and again while leadership changes hands.
    pub async fn ask<Q: Clone, A>(
        &self,
        question: Q,
        call: impl AsyncFn(&mut AdminClient<Channel>, Request<Q>) -> Result<tonic::Response<A>, Status>,
    ) -> Result<A, Status> {
        let deadline = Instant::now() + SOON;
        loop {
            let answer = async {
                let leader = self.leading().await.map_err(|error| Status::unavailable(error.to_string()))?;
                let client = self.nodes[leader].client();
                let mut client = client.map_err(|error| Status::internal(error.to_string()))?;
                let mut request = Request::new(question.clone());
                request.set_timeout(CALL);
                call(&mut client, request).await.map(tonic::Response::into_inner)
            };
            match answer.await {
                Err(status)
                    if (code(&status) == "HF-3101" || code(&status).is_empty())
                        && Instant::now() < deadline =>
                {
                    sleep(LOOK_EVERY).await;
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

    /// Applies a plant document.
    pub async fn apply(&self, document: &str, base_revision: u64) -> Result<()> {
        let file =
            pb::ConfigFile { name: "plant.toml".to_owned(), content: document.as_bytes().to_vec().into() };
        let question =
            pb::ApplyConfigRequest { files: vec![file], base_revision, ..pb::ApplyConfigRequest::default() };
        self.ask(question, async |admin, question| admin.apply_config(question).await).await?;
        Ok(())
    }

    /// Runs the command line against all nodes.
    pub async fn cli(&self, arguments: &[&str]) -> Result<Output> {
        let endpoints: Vec<String> = self.nodes.iter().map(|node| node.admin.to_string()).collect();
        let mut command = Command::new(&self.program);
        command.args(arguments).env("HOLDFAST_ENDPOINTS", endpoints.join(",")).stdin(Stdio::null());
        Ok(tokio::task::spawn_blocking(move || command.output()).await??)
    }

    /// Runs the command line, which must succeed; what it wrote.
    pub async fn cli_done(&self, arguments: &[&str]) -> Result<String> {
        let output = self.cli(arguments).await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() {
            true => Ok(said),
            false => self.explain(Err(anyhow!(
                "`holdfast {}` ended with {}: {said}{}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ))),
        }
    }

    /// An error with the ends of all logs.
    pub fn explain<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| {
            let mut text = format!("{error:#}");
            for node in &self.nodes {
                let log = node.log();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
                text.push_str(&format!("\n--- {}\n{last}", node.name));
            }
            anyhow!(text)
        })
    }
}

/// The code of a refusal; empty if it has none.
pub fn code(status: &Status) -> &str {
    status.metadata().get("holdfast-code").and_then(|code| code.to_str().ok()).unwrap_or_default()
}

/// Fails unless the call was refused with this code; what it said.
pub fn refused_with<T: std::fmt::Debug>(answer: Result<T, Status>, expected: &str) -> Result<String> {
    match answer {
        Err(status) if code(&status) == expected => Ok(status.message().to_owned()),
        other => bail!("expected a refusal {expected}, saw {other:?}"),
    }
}
