//! Where the nodes are: ports, folders, node files.
//!
//! - The usual local ports if all of them are free, others if not; never a mixture.
//! - Each node's field connections come from a loopback address of its own, so that devices can tell nodes apart.
//! - A node dials its peers at the relay; the membership holds their real addresses.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use super::relay::Relay;

/// How many nodes there are.
pub const NODES: usize = 3;
/// Ports of the first node: peers, API, health. The other nodes' are ten higher each.
const FIRST_PORT: u16 = 7610;
const PORTS_PER_NODE: usize = 3;

/// One node on paper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    /// Its name.
    pub name: String,
    /// Where peers reach it, past the relay.
    pub peers: SocketAddr,
    /// Its gRPC API.
    pub admin: SocketAddr,
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
}

/// Three nodes on paper.
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
}

impl Layout {
    /// Chooses ports, and names files below `folder`.
    pub fn plan(folder: &Path, cluster: &str) -> io::Result<Self> {
        let usual: Vec<u16> =
            (0..NODES as u16).flat_map(|node| (0..3).map(move |port| usual(node, port))).collect();
        let (ports, has_usual_ports) = match free(&usual) {
            Ok(ports) => (ports, true),
            Err(_) => (free(&[0; NODES * PORTS_PER_NODE])?, false),
        };
        let node = |(number, ports): (usize, &[SocketAddr])| {
            let name = format!("node-{}", number + 1);
            NodePlan {
                peers: ports[0],
                admin: ports[1],
                health: ports[2],
                field: IpAddr::from([127, 0, 0, 11 + number as u8]),
                data: folder.join(&name),
                file: folder.join(format!("{name}.toml")),
                log: folder.join(format!("{name}.log")),
                name,
            }
        };
        Ok(Self {
            cluster: cluster.to_owned(),
            folder: folder.to_owned(),
            nodes: ports.chunks(PORTS_PER_NODE).enumerate().map(node).collect(),
            has_usual_ports,
        })
    }

    /// The node file of node `index`, which dials its peers at `relay`.
    pub fn node_file(&self, index: usize, relay: &Relay) -> String {
        let node = &self.nodes[index];
        let members: Vec<String> =
            self.nodes.iter().map(|node| toml_text(&format!("{}={}", node.name, node.peers))).collect();
        let mut text = format!(
            "# One of three nodes on one machine.\nname = {}\ndata-dir = {}\ninsecure = true\n\n[cluster]\nname = {}\n\
             members = [{}]\n\n[listen]\npeers = \"{}\"\nadmin = \"{}\"\nhealth = \"{}\"\n\n[field]\nbind = \"{}\"\n\n\
             # The wires between the nodes run through a relay, which can cut them.\n[dial]\n",
            toml_text(&node.name),
            toml_text(&node.data.display().to_string()),
            toml_text(&self.cluster),
            members.join(", "),
            node.peers,
            node.admin,
            node.health,
            node.field,
        );
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

/// A TOML basic string.
pub fn toml_text(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn usual(node: u16, port: u16) -> u16 {
    FIRST_PORT + 10 * node + port
}

/// Addresses for these ports, 0 for any. An error if one is taken.
fn free(ports: &[u16]) -> io::Result<Vec<SocketAddr>> {
    // All are held until the last is known: none is given twice.
    let held: Vec<TcpListener> = ports
        .iter()
        .map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)))
        .collect::<io::Result<_>>()?;
    let addresses: Vec<SocketAddr> = held.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
    let distinct: HashSet<&SocketAddr> = addresses.iter().collect();
    assert_eq!(distinct.len(), addresses.len(), "ports that are held at one time are distinct");
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_ports_are_taken_when_a_usual_one_is_not_free() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, usual(1, 2)));
        let layout = Layout::plan(Path::new("/nowhere"), "here").expect("free ports");
        assert!(!layout.has_usual_ports, "{taken:?} is not free");
        assert_eq!(layout.endpoints().split(',').count(), NODES);
    }
}
