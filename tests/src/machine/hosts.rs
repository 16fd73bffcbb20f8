//! Three hosts for three nodes: each has an address and a disk of its own.
//!
//! - They outlive the nodes: who has both drops the nodes first.
//! - Logs, node files and histories are on this machine's disk, beside them, and survive every power cut.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use simulator::nodes::layout::{Layout, NODES};
use tokio::task::spawn_blocking;

use super::Unable;
use super::network::Network;
use super::volume::Volume;

/// A sparse file. A run writes some hundred MiB.
const DISK: u64 = 1 << 30;

/// Hosts for the nodes of one cluster.
#[derive(Debug)]
pub struct Hosts {
    /// What lies between them.
    pub network: Network,
    volumes: Vec<Arc<Volume>>,
    /// What runs a program on each host, before what puts it into the network.
    launchers: Vec<Vec<String>>,
    folder: PathBuf,
    program: PathBuf,
}

impl Hosts {
    /// Makes three hosts, with everything that is theirs in `folder`. Nodes run `program` there.
    pub fn make(folder: &Path, program: &Path) -> Result<Self, Unable> {
        let absolute = |path: &Path| {
            let absolute = std::path::absolute(path);
            absolute.map_err(|error| Unable(format!("{} is nowhere: {error}", path.display())))
        };
        let (folder, program) = (absolute(folder)?, absolute(program)?);
        let network = Network::make(NODES)?;
        let volume = |node: usize| {
            let (file, mount) = (format!("disk-{}.ext4", node + 1), format!("disk-{}", node + 1));
            Volume::make(&folder.join(file), &folder.join(mount), DISK).map(Arc::new)
        };
        let volumes = (0..NODES).map(volume).collect::<Result<_, Unable>>()?;
        let launchers = vec![Vec::new(); NODES];
        Ok(Self { network, volumes, launchers, folder, program })
    }

    /// The program that nodes run.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Nodes that are laid out from now on are run through this command line on this host. It must become the program.
    pub fn launch_through(&mut self, host: usize, launcher: Vec<String>) {
        self.launchers[host] = launcher;
    }

    /// Nodes on these hosts.
    pub fn layout(&self) -> Layout {
        let mut layout = Layout::on_hosts(&self.folder, "proof", &self.network.addresses());
        for (host, (node, volume)) in layout.nodes.iter_mut().zip(&self.volumes).enumerate() {
            node.launcher = [&self.launchers[host][..], &self.network.launcher(host)[..]].concat();
            node.data = volume.path().join("data");
        }
        layout
    }

    /// Cuts the power of a host's disk at once. Whoever calls this kills what runs there.
    pub fn cut_power(&self, host: usize) -> io::Result<()> {
        self.volumes[host].cut_power()
    }

    /// Gives a host's disk power again; nothing runs there.
    pub async fn restore_power(&self, host: usize) -> io::Result<()> {
        let volume = Arc::clone(&self.volumes[host]);
        spawn_blocking(move || volume.restore_power()).await.map_err(io::Error::other)?
    }

    /// Leaves the files of the disks where they are at the end: they are evidence.
    pub fn keep(&self) {
        self.volumes.iter().for_each(|volume| volume.keep());
    }
}
