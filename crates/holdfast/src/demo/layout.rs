//! Where everything of a demo is: ports, folders, node files.
//!
//! - The usual local ports if all of them are free, others if not; never a mixture.
//! - Each node's field connections come from a loopback address of its own, so that devices can tell nodes apart.
//! - A node dials its peers at the relay; the membership holds their real addresses.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use super::plant::toml_text;
use super::relay::Relay;

/// How many nodes there are.
pub(super) const NODES: usize = 3;
const CLUSTER: &str = "demo";
/// Ports of the first node: peers, API, health. The other nodes' are ten higher each.
const FIRST_PORT: u16 = 7610;
const PORTS_PER_NODE: usize = 3;

/// One node on paper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodePlan {
    /// Its name.
    pub(super) name: String,
    /// Where peers reach it, past the relay.
    pub(super) peers: SocketAddr,
    /// Its gRPC API.
    pub(super) admin: SocketAddr,
    /// Its health listener.
    pub(super) health: SocketAddr,
    /// Where devices see it come from.
    pub(super) field: IpAddr,
    /// Its data directory.
    pub(super) data: PathBuf,
    /// Its node file.
    pub(super) file: PathBuf,
    /// What it writes to its outputs.
    pub(super) log: PathBuf,
}

/// A demo on paper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// The folder of everything.
    pub(super) folder: PathBuf,
    /// The nodes.
    pub(super) nodes: Vec<NodePlan>,
    /// Whether the ports are the usual ones.
    pub(super) has_usual_ports: bool,
    /// Where CSV files go.
    pub(super) csv: PathBuf,
    /// What the simulated parts saw.
    pub(super) history: PathBuf,
}

impl Layout {
    /// Chooses ports, and names files below `folder`.
    pub(super) fn plan(folder: &Path) -> io::Result<Self> {
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
            folder: folder.to_owned(),
            nodes: ports.chunks(PORTS_PER_NODE).enumerate().map(node).collect(),
            has_usual_ports,
            csv: folder.join("csv"),
            history: folder.join("history.jsonl"),
        })
    }

    /// The node file of node `index`, which dials its peers at `relay`.
    pub(super) fn node_file(&self, index: usize, relay: &Relay) -> String {
        let node = &self.nodes[index];
        let members: Vec<String> =
            self.nodes.iter().map(|node| toml_text(&format!("{}={}", node.name, node.peers))).collect();
        let mut text = format!(
            "# Made by `holdfast demo`.\nname = {}\ndata-dir = {}\ninsecure = true\n\n[cluster]\nname = \"{CLUSTER}\"\n\
             members = [{}]\n\n[listen]\npeers = \"{}\"\nadmin = \"{}\"\nhealth = \"{}\"\n\n[field]\nbind = \"{}\"\n\n\
             # The wires between the nodes run through the demo, which can cut them.\n[dial]\n",
            toml_text(&node.name),
            toml_text(&node.data.display().to_string()),
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
    pub(super) fn endpoints(&self) -> String {
        self.nodes.iter().map(|node| format!("http://{}", node.admin)).collect::<Vec<_>>().join(",")
    }

    /// The node that devices see under an address.
    pub(super) fn node_at(&self, field: IpAddr) -> Option<&NodePlan> {
        self.nodes.iter().find(|node| node.field == field)
    }

    /// Index of a node by name.
    pub(super) fn index_of(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }
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
    use gateway::NodeConfig;

    use super::*;

    #[tokio::test]
    async fn node_files_are_valid_and_lead_through_the_relay() {
        let layout = Layout::plan(Path::new("/nowhere/demo \"1\"")).expect("free ports");
        let peers: Vec<_> = layout.nodes.iter().map(|node| node.peers).collect();
        let relay = Relay::start(&peers).await.expect("free ports");
        for (index, node) in layout.nodes.iter().enumerate() {
            let text = layout.node_file(index, &relay);
            let config =
                NodeConfig::parse(&text, |_| None).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
            assert_eq!((&config.name, &config.data_dir), (&node.name, &node.data));
            assert_eq!(config.members.len(), NODES);
            assert_eq!(config.field_bind, Some(node.field));
            assert_eq!(config.dial.len(), NODES - 1);
            for (other, peer) in layout.nodes.iter().enumerate().filter(|(other, _)| *other != index) {
                let dialled = relay.address(index, other).map(|address| address.to_string());
                assert_eq!(config.dial.get(&peer.peers.to_string()).cloned(), dialled);
            }
        }
    }

    #[test]
    fn other_ports_are_taken_when_a_usual_one_is_not_free() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, usual(1, 2)));
        let layout = Layout::plan(Path::new("/nowhere")).expect("free ports");
        assert!(!layout.has_usual_ports, "{taken:?} is not free");
        assert_eq!(layout.endpoints().split(',').count(), NODES);
    }
}
