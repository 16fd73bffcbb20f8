//! Three real node processes whose wall clocks can be set one by one, a device and a receiver.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// No node answers its own health port later than this.
const ANSWER: Duration = Duration::from_secs(2);

/// One node.
struct Node {
    name: String,
    file: PathBuf,
    clock: PathBuf,
    admin: SocketAddr,
    health: SocketAddr,
    child: Option<Child>,
}

/// Three nodes.
pub(crate) struct Cluster {
    folder: PathBuf,
    nodes: Vec<Node>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child {
                drop(child.kill());
                drop(child.wait());
            }
        }
    }
}

impl Cluster {
    /// Starts three nodes with files in `folder`.
    pub(crate) fn start(folder: &Path) -> Self {
        let ports = free_ports(9);
        let peers: Vec<SocketAddr> = ports.iter().copied().step_by(3).collect();
        let members: Vec<String> =
            peers.iter().enumerate().map(|(place, peer)| format!("\"node-{}={peer}\"", place + 1)).collect();
        let mut cluster = Self { folder: folder.to_owned(), nodes: Vec::new() };
        for (place, ports) in ports.chunks(3).enumerate() {
            let name = format!("node-{}", place + 1);
            let (file, clock) = (folder.join(format!("{name}.toml")), folder.join(format!("{name}.clock")));
            let data = folder.join(&name);
            let text = format!(
                "name = \"{name}\"\ndata-dir = \"{}\"\ninsecure = true\n[cluster]\nname = \"clocks\"\nmembers = [{}]\n\
                 [listen]\npeers = \"{}\"\nadmin = \"{}\"\nhealth = \"{}\"\n[field]\nbind = \"127.0.0.{}\"\n",
                data.display(),
                members.join(", "),
                ports[0],
                ports[1],
                ports[2],
                place + 11,
            );
            std::fs::write(&file, text).expect("a file in a temporary folder");
            std::fs::write(&clock, "0").expect("a file in a temporary folder");
            let (admin, health) = (ports[1], ports[2]);
            cluster.nodes.push(Node { name, file, clock, admin, health, child: None });
        }
        for place in 0..cluster.nodes.len() {
            cluster.run(place);
        }
        cluster
    }

    /// Starts the process of a node.
    pub(crate) fn run(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("{}.log", node.name)))
            .expect("a log in a temporary folder");
        let child = Command::new(program())
            .args(["node", "--config"])
            .arg(&node.file)
            .env("HOLDFAST_TEST_CLOCK", &node.clock)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        node.child = Some(child);
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, place: usize) {
        let mut child = self.nodes[place].child.take().expect("it runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a killed child ends");
    }

    /// Puts a node's wall clock ahead, or behind.
    pub(crate) fn set_clock(&self, place: usize, ahead_millis: i64) {
        let clock = &self.nodes[place].clock;
        // Renamed into place: the node never reads half of it.
        let aside = clock.with_extension("new");
        std::fs::write(&aside, ahead_millis.to_string()).expect("a file in a temporary folder");
        std::fs::rename(&aside, clock).expect("a file in a temporary folder");
    }

    /// The node that says that it leads.
    pub(crate) fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|node| node.child.is_some() && leads(node.health))
    }

    /// Runs a command of the program against the cluster; whether it succeeded, and what it said.
    pub(crate) fn command(&self, arguments: &[&str]) -> (bool, String) {
        let endpoints: Vec<String> = self.nodes.iter().map(|node| node.admin.to_string()).collect();
        let output = Command::new(program())
            .args(arguments)
            .env("HOLDFAST_ENDPOINTS", endpoints.join(","))
            .stdin(Stdio::null())
            .output()
            .expect("the program starts");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// What the nodes wrote, for a failing test.
    pub(crate) fn logs(&self) -> String {
        let log = |node: &Node| {
            let path = self.folder.join(format!("{}.log", node.name));
            format!("--- {}\n{}", node.name, std::fs::read_to_string(path).unwrap_or_default())
        };
        self.nodes.iter().map(log).collect()
    }
}

/// The program, built beside the tests.
fn program() -> PathBuf {
    let tests = std::env::current_exe().expect("a test runs from a file");
    let folder =
        tests.parent().and_then(|deps| deps.parent()).expect("tests lie in a folder below the programs");
    let program = folder.join(format!("holdfast{}", std::env::consts::EXE_SUFFIX));
    assert!(program.is_file(), "{} is missing: build the workspace's programs first", program.display());
    program
}

fn leads(health: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&health, ANSWER).ok()?;
        stream.set_read_timeout(Some(ANSWER)).ok()?;
        stream.write_all(b"GET /leader HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    ask().is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

fn free_ports(count: usize) -> Vec<SocketAddr> {
    // All are held until the last is known: none is given twice.
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")).collect();
    held.iter().map(|listener| listener.local_addr().expect("bound")).collect()
}
