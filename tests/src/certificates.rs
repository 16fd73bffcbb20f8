//! Certificates for a cluster, as `holdfast init` makes them, and callers who have some.
//!
//! - Everything lies in the cluster's folder: `plant-7` is what `init` made, beside it what was issued since.
//! - A [`Door`] lets what speaks plaintext reach an API under somebody's certificate. The kit itself asks the nodes through
//!   doors of the first admin.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, anyhow};
use simulator::history::WallClock;
use simulator::nodes::layout::{Layout, toml_text};
use simulator::nodes::relay::carry_each;
use tls::{Credentials, Files, Keeper};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

use crate::said::{self, Said};

/// The folder of the first admin.
const ADMIN: &str = "plant-7/admin";

/// What `init` made.
#[derive(Debug)]
pub struct Certificates {
    folder: PathBuf,
    /// How it was called.
    pub init: Vec<String>,
    /// What it said is to be done next.
    pub next: String,
    doors: Vec<Door>,
}

impl Certificates {
    /// Calls `init` for a layout, whose nodes speak TLS from then on.
    pub async fn make(layout: &mut Layout) -> Result<Self> {
        let folder = layout.folder.clone();
        let mut init = vec!["init".to_owned(), "plant-7".to_owned()];
        init.extend(layout.nodes.iter().map(|node| format!("{}={}", node.name, node.peers)));
        let words: Vec<&str> = init.iter().map(String::as_str).collect();
        let next = run_in(&folder, &words).await?.done()?;
        let mut made = Self { folder, init, next, doors: Vec::new() };
        layout.cluster = "plant-7".to_owned();
        for node in &mut layout.nodes {
            let own = made.folder.join("plant-7").join(&node.name);
            let path = |file: &str| toml_text(&own.join(file).display().to_string());
            let (cert, key) = (format!("{}.pem", node.name), format!("{}.key", node.name));
            node.head.clear();
            node.tables.push_str(&format!(
                "[tls]\nca = {}\ncert = {}\nkey = {}\n",
                path("ca.pem"),
                path(&cert),
                path(&key)
            ));
            let door = made.door(ADMIN, node.admin).await?;
            node.api = door.address();
            made.doors.push(door);
        }
        Ok(made)
    }

    /// Lets the nodes start from the files that `init` wrote for them, as they are.
    pub fn use_files_of_init(&self, layout: &mut Layout) {
        for node in &mut layout.nodes {
            node.file = self.folder.join("plant-7").join(&node.name).join("node.toml");
            node.variables.push(("HOLDFAST_DATA_DIR".to_owned(), node.data.display().to_string()));
        }
    }

    /// Runs the command line beside the certificates.
    pub async fn run(&self, arguments: &[&str]) -> Result<Said> {
        run_in(&self.folder, arguments).await
    }

    /// Runs the command line at one node, as the holder of the certificate in a folder.
    pub async fn run_as(&self, holder: &str, at: SocketAddr, arguments: &[&str]) -> Result<Said> {
        let at = at.to_string();
        self.run(&[arguments, &["--tls-dir", holder, "--endpoints", &at]].concat()).await
    }

    /// Issues a certificate, into a folder named after its holder.
    pub async fn issue(&self, role: &str, name: &str, authority: &str) -> Result<()> {
        let words =
            ["pki", "issue", "--role", role, "--name", name, "--authority", authority, "--into", name];
        self.run(&words).await?.done().map(drop)
    }

    /// Opens a door to an API, for the holder of the certificate in a folder.
    pub async fn door(&self, holder: &str, to: SocketAddr) -> Result<Door> {
        let file = |name: &str| self.folder.join(holder).join(name);
        let files = Files { ca: file("ca.pem"), cert: file("client.pem"), key: file("client.key") };
        let credentials = Credentials::load(&files).map_err(|problems| anyhow!("{problems:?}"))?;
        Ok(Door::open(Keeper::new(credentials, Arc::new(WallClock))?, to).await?)
    }
}

async fn run_in(folder: &Path, arguments: &[&str]) -> Result<Said> {
    let mut command = said::command(arguments)?;
    command.current_dir(folder);
    said::run(command).await
}

/// A plaintext listener before an API, for one caller. It closes, with all its connections, when this is dropped.
#[derive(Debug)]
pub struct Door {
    address: SocketAddr,
    _carrying: JoinSet<()>,
}

impl Door {
    async fn open(keeper: Keeper, to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mut carrying = JoinSet::new();
        carrying.spawn(carry_each(listener, move |near| carry(near, keeper.clone(), to)));
        Ok(Self { address, _carrying: carrying })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For a client.
    pub fn endpoint(&self) -> Result<Endpoint> {
        Ok(Endpoint::from_shared(format!("http://{}", self.address))?)
    }
}

/// Whoever is not let in finds its connection closed, which is what it would find without a door.
async fn carry(mut near: TcpStream, keeper: Keeper, to: SocketAddr) -> io::Result<()> {
    let far = TcpStream::connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (mut far, _) = keeper.connect_api(far).await?;
    copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}
