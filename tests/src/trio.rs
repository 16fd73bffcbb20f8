//! Three real node processes on this machine, for scenarios that judge them from outside.
//!
//! - Each node has a folder, a file and a log below one temporary folder; all of it goes when the scenario ends.
//! - Nothing here waits for a time: [`until`] waits for a condition, up to a deadline, and says what it saw last.

use std::fmt::Debug;
use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use wire::proto::v1 as pb;
use wire::proto::v1::admin_client::AdminClient;

/// No scenario waits longer for what must happen.
pub const SOON: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(8);
const LOOK: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The program, built beside the tests.
pub fn program() -> Result<PathBuf> {
    let tests = std::env::current_exe()?;
    let folder = tests.parent().and_then(Path::parent).context("tests lie in a folder below the programs")?;
    let program = folder.join(format!("holdfast{}", std::env::consts::EXE_SUFFIX));
    ensure!(program.is_file(), "{} is missing: build the workspace's programs first", program.display());
    Ok(program)
}

/// One node on paper, and its process while it runs.
#[derive(Debug)]
struct Node {
    name: String,
    admin: SocketAddr,
    file: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// Three nodes.
#[derive(Debug)]
pub struct Nodes {
    folder: TempDir,
    program: PathBuf,
    nodes: Vec<Node>,
}

impl Nodes {
    /// Writes the files of three nodes; `more` is added to each node's file, by its name.
    pub fn plan(more: impl Fn(&str) -> String) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let ports = free_ports(6)?;
        let names = ["node-1", "node-2", "node-3"];
        let members: Vec<String> = names
            .iter()
            .zip(ports.chunks(2))
            .map(|(name, ports)| format!("\"{name}={}\"", ports[0]))
            .collect();
        let mut nodes = Vec::new();
        for (name, ports) in names.iter().zip(ports.chunks(2)) {
            let file = folder.path().join(format!("{name}.toml"));
            let text = format!(
                "name = \"{name}\"\ndata-dir = \"{}\"\ninsecure = true\n[cluster]\nname = \"scenario\"\n\
                 members = [{}]\n[listen]\npeers = \"{}\"\nadmin = \"{}\"\n{}\n",
                folder.path().join(name).display(),
                members.join(", "),
                ports[0],
                ports[1],
                more(name)
            );
            std::fs::write(&file, text)?;
            let log = folder.path().join(format!("{name}.log"));
            nodes.push(Node { name: (*name).to_owned(), admin: ports[1], file, log, child: None });
        }
        Ok(Self { folder, program: program()?, nodes })
    }

    /// Where the scenario's files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The names.
    pub fn names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// Starts every node that does not run.
    pub fn start_all(&mut self) -> Result<()> {
        for name in self.names() {
            self.start(&name)?;
        }
        Ok(())
    }

    /// Starts a node, unless it runs.
    pub fn start(&mut self, name: &str) -> Result<()> {
        let program = self.program.clone();
        let node = self.node_mut(name)?;
        if node.child.is_some() {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(&node.log)?;
        let mut command = Command::new(program);
        command.arg("node").arg("--config").arg(&node.file);
        for (key, _) in std::env::vars_os() {
            if key.to_str().is_some_and(|key| key.starts_with("HOLDFAST_")) {
                command.env_remove(key);
            }
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        node.child = Some(command.spawn()?);
        Ok(())
    }

    /// `kill -9`.
    pub async fn kill(&mut self, name: &str) -> Result<()> {
        let mut child = self.node_mut(name)?.child.take().context("it runs")?;
        child.kill().await?;
        Ok(())
    }

    /// Stops a node in order.
    pub async fn stop(&mut self, name: &str) -> Result<()> {
        let mut child = self.node_mut(name)?.child.take().context("it runs")?;
        let id = child.id().context("it runs")?.to_string();
        let asked = Command::new("kill").arg("-TERM").arg(&id).status().await?;
        ensure!(asked.success(), "kill -TERM {id} ended with {asked}");
        let ended = timeout(SOON, child.wait()).await.with_context(|| format!("{name} does not end"))??;
        ensure!(ended.success(), "{name} ended with {ended}\n{}", self.logs());
        Ok(())
    }

    /// A client of one node's API.
    pub fn client(&self, name: &str) -> Result<AdminClient<Channel>> {
        let node = self.nodes.iter().find(|node| node.name == name).context("no such node")?;
        let endpoint = Endpoint::from_shared(format!("http://{}", node.admin))?;
        Ok(AdminClient::new(endpoint.connect_timeout(LOOK).timeout(CALL).connect_lazy()))
    }

    /// What the node says of itself that leads, if one does.
    pub async fn leader_status(&self) -> Option<pb::ClusterStatus> {
        for node in self.nodes.iter().filter(|node| node.child.is_some()) {
            let Ok(mut client) = self.client(&node.name) else { continue };
            let question = pb::GetStatusRequest { this_node: true, ..pb::GetStatusRequest::default() };
            let Ok(Ok(status)) = timeout(LOOK, client.get_status(question)).await else { continue };
            let status = status.into_inner();
            if status.leader.as_ref().is_some_and(|leader| leader.name == node.name) {
                return Some(status);
            }
        }
        None
    }

    /// Waits until one of `among` leads, and all members that run answer it; returns its name.
    pub async fn wait_for_leader(&self, among: &[String]) -> Result<String> {
        let running: Vec<&str> =
            self.nodes.iter().filter(|node| node.child.is_some()).map(|node| node.name.as_str()).collect();
        let found = until("a leader whom all hear", async || {
            let status = self.leader_status().await.ok_or("no leader")?;
            let leader = status.leader.as_ref().map(|leader| leader.name.clone()).unwrap_or_default();
            let is_well = |member: &pb::Member| {
                use pb::member::Reach;
                !running.contains(&member.name.as_str())
                    || matches!(member.reach(), Reach::Itself | Reach::Reachable)
            };
            let wanted = among.contains(&leader) && status.members.iter().all(is_well);
            if wanted {
                Ok(leader)
            } else {
                Err(format!("{:?}, members {:?}", status.leader, status.members))
            }
        });
        found.await.map_err(|error| anyhow!("{error}\n{}", self.logs()))
    }

    /// Makes a plant document the revision after `base`, through the leader.
    pub async fn apply(&self, document: &str, base: u64) -> Result<()> {
        let leader = self.wait_for_leader(&self.names()).await?;
        let file =
            pb::ConfigFile { name: "plant.toml".to_owned(), content: document.as_bytes().to_vec().into() };
        let request = pb::ApplyConfigRequest {
            files: vec![file],
            base_revision: base,
            comment: "the scenario's plant".to_owned(),
            ..pb::ApplyConfigRequest::default()
        };
        self.client(&leader)?.apply_config(request).await?;
        Ok(())
    }

    /// Hands leadership over; returns who leads then.
    pub async fn switch_over(&self) -> Result<String> {
        let leader = self.wait_for_leader(&self.names()).await?;
        let request = pb::TransferLeadershipRequest { to: String::new(), reason: "scenario".to_owned() };
        Ok(self.client(&leader)?.transfer_leadership(request).await?.into_inner().to)
    }

    /// The end of every node's log, for a message.
    pub fn logs(&self) -> String {
        let tail = |node: &Node| {
            let text = std::fs::read_to_string(&node.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {}\n{}\n", node.name, lines[lines.len().saturating_sub(30)..].join("\n"))
        };
        self.nodes.iter().map(tail).collect()
    }

    fn node_mut(&mut self, name: &str) -> Result<&mut Node> {
        self.nodes.iter_mut().find(|node| node.name == name).with_context(|| format!("there is no {name}"))
    }
}

/// Waits until `look` finds what it looks for; an error says what it saw last.
pub async fn until<T, E: Debug>(what: &str, look: impl AsyncFn() -> Result<T, E>) -> Result<T> {
    let deadline = Instant::now() + SOON;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(seen) if Instant::now() >= deadline => {
                return Err(anyhow!("expected {what} within {SOON:?}, saw {seen:?}"));
            }
            Err(_) => sleep(LOOK_AGAIN).await,
        }
    }
}

/// Ports that were free a moment ago, all different.
fn free_ports(number: usize) -> Result<Vec<SocketAddr>> {
    let held: Vec<TcpListener> =
        (0..number).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<std::io::Result<_>>()?;
    Ok(held.iter().map(TcpListener::local_addr).collect::<std::io::Result<_>>()?)
}
