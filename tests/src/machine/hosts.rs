//! Three hosts for three nodes: each has an address and a disk of its own.
//!
//! - They outlive the nodes: who has both drops the nodes first.
//! - Logs, node files and histories are on this machine's disk, beside them, and survive every power cut. So do the files
//!   of the disks, which stay in the folder when the hosts are gone.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use simulator::nodes::layout::{Layout, NODES};
use tokio::task::spawn_blocking;

use super::network::Network;
use super::preload::Control;
use super::volume::Volume;
use super::wire::Wire;
use super::{Unable, left};

/// A sparse file. A run writes some hundred MiB.
const DISK: u64 = 1 << 30;

/// Hosts for the nodes of one cluster.
#[derive(Debug)]
pub struct Hosts {
    /// What they say to each other goes through this process, where this was laid. It goes before the network does.
    pub wire: Option<Wire>,
    /// What lies between them.
    pub network: Network,
    volumes: Vec<Arc<Volume>>,
    /// One for each node, or none.
    controls: Vec<Control>,
    /// What runs a program on each host, before what puts it into the network.
    launchers: Vec<Vec<String>>,
    folder: PathBuf,
    program: PathBuf,
    /// By which nodes are found that outlive this process.
    mark: (String, String),
}

impl Hosts {
    /// Makes three hosts, with everything that is theirs in `folder`. Nodes run `program` there.
    pub fn make(folder: &Path, program: &Path) -> Result<Self, Unable> {
        let absolute = |path: &Path| {
            let absolute = std::path::absolute(path);
            absolute.map_err(|error| Unable(format!("{} is nowhere: {error}", path.display())))
        };
        let (folder, program) = (absolute(folder)?, absolute(program)?);
        let mark =
            left::mark(&program).map_err(|error| Unable(format!("processes are not told apart: {error}")))?;
        let network = Network::make(NODES)?;
        let volume = |node: usize| {
            let (file, mount) = (format!("disk-{}.ext4", node + 1), format!("disk-{}", node + 1));
            Volume::make(&folder.join(file), &folder.join(mount), DISK).map(Arc::new)
        };
        let volumes = (0..NODES).map(volume).collect::<Result<_, Unable>>()?;
        let launchers = vec![Vec::new(); NODES];
        Ok(Self { wire: None, network, volumes, controls: Vec::new(), launchers, folder, program, mark })
    }

    /// Lets the nodes of every later layout obey control pages: their disk calls can fail or dawdle then, and their wall
    /// clocks be wrong.
    pub fn take_control(&mut self) -> io::Result<()> {
        let page = |(node, volume): (usize, &Arc<Volume>)| {
            Control::make(&self.folder.join(format!("control-{}.page", node + 1)), volume.path())
        };
        self.controls = self.volumes.iter().enumerate().map(page).collect::<io::Result<_>>()?;
        Ok(())
    }

    /// The control page of a node.
    ///
    /// # Panics
    /// If nobody took control.
    pub fn control(&self, host: usize) -> &Control {
        &self.controls[host]
    }

    /// The program that nodes run.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Lays a wire between them; what is left to chance on it follows from the seed. Connections stay.
    pub fn lay_wire(&mut self, seed: u64) -> Result<&Wire, Unable> {
        let wire = Wire::lay(&self.network, seed)?;
        Ok(&*self.wire.insert(wire))
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
            node.variables.push(self.mark.clone());
        }
        for (node, control) in layout.nodes.iter_mut().zip(&self.controls) {
            node.variables.extend(control.variables());
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

    /// Puts an empty disk in the place of a host's; nothing runs there.
    pub async fn exchange_disk(&self, host: usize) -> io::Result<()> {
        let volume = Arc::clone(&self.volumes[host]);
        spawn_blocking(move || volume.exchange()).await.map_err(io::Error::other)?
    }

    /// The disk of a host.
    pub fn disk(&self, host: usize) -> &Volume {
        &self.volumes[host]
    }
}
