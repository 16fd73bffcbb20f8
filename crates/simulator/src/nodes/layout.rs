//! Where the nodes are: ports, folders, node files.
//!
//! - The usual local ports if all of them are free, others if not; never a mixture. A node's ports follow each other.
//! - Each node's field connections come from a loopback address of its own, so that devices can tell nodes apart.
//! - A node dials its peers at the relay; the membership holds their real addresses. Nodes on hosts of their own dial each
//!   other: what lies between them is the hosts'.
//! - The first three found the cluster; a node that is added asks them to belong.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use super::relay::Relay;

/// How many nodes found a cluster.
pub const NODES: usize = 3;
/// Ports of the first node: peers, API, health. The other nodes' are ten higher each.
const FIRST_PORT: u16 = 7610;
const PORTS_PER_NODE: u16 = 3;
const PORT_STEP: u16 = 10;
/// Other first ports lie below those that systems give to connections, and there are so many of them.
const OTHER_PORTS: u16 = 20_000;
const OTHERS: u16 = 900;

/// One node on paper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    /// Its name.
    pub name: String,
    /// Where peers reach it, past the relay.
    pub peers: SocketAddr,
    /// Its gRPC API.
    pub admin: SocketAddr,
    /// Where its API is asked by whoever runs it, in plaintext: the API itself, or what stands before it.
    pub api: SocketAddr,
    /// Its health listener.
    pub health: SocketAddr,
    /// Where devices see it come from.
    pub field: IpAddr,
    /// Its data directory.
    pub data: PathBuf,
    /// Its node file.
    pub file: PathBuf,
    /// What it writes to its outputs.
    pub log: PathBuf,
    /// Whether it asks the others to belong, instead of founding the cluster with them.
    pub joins: bool,
    /// Whether it is started later than the others, by hand.
    pub waits: bool,
    /// What its node file says before the first table.
    pub head: String,
    /// Further tables of its node file.
    pub tables: String,
    /// Environment of its process.
    pub variables: Vec<(String, String)>,
    /// A command line that runs the program, put before it. It must become the program (`exec`): whoever kills or pauses
    /// the process means the node.
    pub launcher: Vec<String>,
}

/// Nodes on paper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The cluster's name.
    pub cluster: String,
    /// The folder of everything.
    pub folder: PathBuf,
    /// The nodes.
    pub nodes: Vec<NodePlan>,
    /// Whether the ports are the usual ones.
    pub has_usual_ports: bool,
    /// Whether wires that can be cut run between the nodes.
    pub has_relay: bool,
}

impl Layout {
    /// Three nodes with files below `folder`, at the usual ports if they are free.
    pub fn plan(folder: &Path, cluster: &str) -> io::Result<Self> {
        let usual: Vec<u16> = (0..NODES as u16).map(|node| FIRST_PORT + PORT_STEP * node).collect();
        let has_usual_ports = usual.iter().all(|first| are_free(*first));
        let firsts = if has_usual_ports { usual } else { others(NODES, &[])? };
        Ok(Self::at(folder, cluster, &firsts, has_usual_ports))
    }

    /// Three nodes with files below `folder`, at ports that no other cluster of this machine is likely to take.
    pub fn apart(folder: &Path, cluster: &str) -> io::Result<Self> {
        Ok(Self::at(folder, cluster, &others(NODES, &[])?, false))
    }

    /// Nodes on hosts of their own, at the usual ports of these addresses. Whoever made the hosts says how a program is
    /// run there.
    pub fn on_hosts(folder: &Path, cluster: &str, hosts: &[IpAddr]) -> Self {
        let node = |(index, host): (usize, &IpAddr)| {
            let at = |port| SocketAddr::new(*host, FIRST_PORT + port);
            let plan = NodePlan::new(folder, &format!("node-{}", index + 1), index, FIRST_PORT);
            NodePlan { peers: at(0), admin: at(1), api: at(1), health: at(2), field: *host, ..plan }
        };
        Self {
            cluster: cluster.to_owned(),
            folder: folder.to_owned(),
            nodes: hosts.iter().enumerate().map(node).collect(),
            has_usual_ports: true,
            has_relay: false,
        }
    }

    fn at(folder: &Path, cluster: &str, firsts: &[u16], has_usual_ports: bool) -> Self {
        let node = |(index, first): (usize, &u16)| {
            NodePlan::new(folder, &format!("node-{}", index + 1), index, *first)
        };
        Self {
            cluster: cluster.to_owned(),
            folder: folder.to_owned(),
            nodes: firsts.iter().enumerate().map(node).collect(),
            has_usual_ports,
            has_relay: true,
        }
    }

    /// Plans another node, which asks the first three to belong; its index.
    pub fn add(&mut self, name: &str) -> io::Result<usize> {
        let index = self.nodes.len();
        let taken: Vec<u16> = self.nodes.iter().map(|node| node.peers.port()).collect();
        let node = NodePlan::new(&self.folder, name, index, others(1, &taken)?[0]);
        self.nodes.push(NodePlan { joins: true, waits: true, ..node });
        Ok(index)
    }

    /// The node file of node `index`, which dials its peers at `relay`.
    pub fn node_file(&self, index: usize, relay: &Relay) -> String {
        let node = &self.nodes[index];
        let founders = self.nodes.iter().filter(|node| !node.joins);
        let (key, others): (&str, Vec<String>) = match node.joins {
            true => ("join", founders.map(|node| node.peers.to_string()).collect()),
            false => ("members", founders.map(|node| format!("{}={}", node.name, node.peers)).collect()),
        };
        let others: Vec<String> = others.iter().map(|other| toml_text(other)).collect();
        let mut text = format!(
            "# One of several nodes on one machine.\nname = {}\ndata-dir = {}\n{}\n[cluster]\nname = {}\n\
             {key} = [{}]\n\n[listen]\npeers = \"{}\"\nadmin = \"{}\"\nhealth = \"{}\"\n\n[field]\nbind = \"{}\"\n\n{}",
            toml_text(&node.name),
            toml_text(&node.data.display().to_string()),
            node.head,
            toml_text(&self.cluster),
            others.join(", "),
            node.peers,
            node.admin,
            node.health,
            node.field,
            node.tables,
        );
        if self.has_relay {
            text.push_str(
                "\n# The wires between the nodes run through a relay, which can cut them.\n[dial]\n",
            );
        }
        for (other, peer) in self.nodes.iter().enumerate() {
            if let Some(address) = relay.address(index, other) {
                let _ = writeln!(text, "\"{}\" = \"{address}\"", peer.peers);
            }
        }
        text
    }

    /// The value of `HOLDFAST_ENDPOINTS`: plaintext, whatever certificates the user has for another cluster.
    pub fn endpoints(&self) -> String {
        self.nodes.iter().map(|node| format!("http://{}", node.admin)).collect::<Vec<_>>().join(",")
    }

    /// The node that devices see under an address.
    pub fn node_at(&self, field: IpAddr) -> Option<&NodePlan> {
        self.nodes.iter().find(|node| node.field == field)
    }

    /// Index of a node by name.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }
}

impl NodePlan {
    /// `first` is the first of its ports, which follow each other.
    fn new(folder: &Path, name: &str, index: usize, first: u16) -> Self {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, first + port));
        Self {
            name: name.to_owned(),
            peers: at(0),
            admin: at(1),
            api: at(1),
            health: at(2),
            field: IpAddr::from([127, 0, 0, 11 + index as u8]),
            data: folder.join(name),
            file: folder.join(format!("{name}.toml")),
            log: folder.join(format!("{name}.log")),
            joins: false,
            waits: false,
            head: "insecure = true\n".to_owned(),
            tables: String::new(),
            variables: Vec::new(),
            launcher: Vec::new(),
        }
    }
}

/// A TOML basic string.
pub fn toml_text(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The first ports of so many nodes, all of them free a moment ago and none of them in `taken`. Where the search begins
/// depends on the process, so that two of them hardly ever look at the same ports at one time.
fn others(nodes: usize, taken: &[u16]) -> io::Result<Vec<u16>> {
    let start = (std::process::id() % u32::from(OTHERS)) as u16;
    let candidates = (0..OTHERS).map(|step| OTHER_PORTS + PORT_STEP * ((start + step) % OTHERS));
    let firsts: Vec<u16> =
        candidates.filter(|first| !taken.contains(first) && are_free(*first)).take(nodes).collect();
    if firsts.len() < nodes {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "no free ports between 20000 and 29000"));
    }
    Ok(firsts)
}

/// Whether a node's ports are free.
fn are_free(first: u16) -> bool {
    let mut ports = first..first + PORTS_PER_NODE;
    ports.all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_ports_are_taken_when_a_usual_one_is_not_free() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, FIRST_PORT + PORT_STEP + 2));
        let layout = Layout::plan(Path::new("/nowhere"), "here").expect("free ports");
        assert!(!layout.has_usual_ports, "{taken:?} is not free");
        assert_eq!(layout.endpoints().split(',').count(), NODES);
    }

    #[tokio::test]
    async fn nodes_on_hosts_of_their_own_dial_each_other() {
        let hosts = [11, 12, 13].map(|last| IpAddr::from([10, 130, 7, last]));
        let layout = Layout::on_hosts(Path::new("/nowhere"), "here", &hosts);
        assert_eq!(layout.nodes[1].admin, SocketAddr::new(hosts[1], FIRST_PORT + 1));
        assert_eq!(layout.node_at(hosts[2]).map(|node| node.name.as_str()), Some("node-3"));
        let relay = Relay::start(&[]).await.expect("it needs no port");
        let text = layout.node_file(0, &relay);
        assert!(text.contains("\"node-2=10.130.7.12:7610\"") && !text.contains("[dial]"), "{text}");
    }

    #[test]
    fn no_port_is_given_twice() {
        let mut layout = Layout::apart(Path::new("/nowhere"), "here").expect("free ports");
        assert_eq!(layout.add("node-4").expect("free ports"), NODES);
        let ports = layout.nodes.iter().flat_map(|node| [node.peers, node.admin, node.health]);
        let distinct: std::collections::BTreeSet<_> = ports.collect();
        assert_eq!(distinct.len(), 12);
    }
}
