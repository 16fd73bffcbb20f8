//! The node file: what differs from box to box.
//!
//! Read once at start; each table has a file of its own.
//!
//! - Every problem is reported at once, with its line and column, in the way of the plant document. Only a file that is no
//!   TOML at all is read no further.
//! - A value from the environment (`HOLDFAST_DATA_DIR` for `data-dir`, `HOLDFAST_LISTEN_ADMIN` for `[listen] admin`)
//!   replaces that of the file, and is complained about by the name of its variable, see `environment`.

mod certificates;
mod cluster;
mod environment;
mod fence;
mod file;
mod hooks;
mod limits;
mod listen;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use model::Role;
use replication::LeaseTimes;
use tls::Credentials;

use crate::memory::Memory;
pub use fence::Fence;
pub use hooks::Hooks;
pub(crate) use hooks::LONGEST_HOOK;
pub use listen::Listen;

/// A node file, checked.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// What people type.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Where everything durable lies.
    pub data_dir: PathBuf,
    /// The lease profile.
    pub times: LeaseTimes,
    /// The cluster's name.
    pub cluster: String,
    /// Founding members, by name and peer address; empty for a node that joins.
    pub members: Vec<(String, String)>,
    /// Peer addresses of members at which a node asks to belong that was not there at the founding.
    pub join: Vec<String>,
    /// Where peers reach this node, `host:port`.
    pub address: String,
    /// What is listened on.
    pub listen: Listen,
    /// Certificates and key, read and checked; none if the node speaks plaintext.
    pub tls: Option<Credentials>,
    /// Local address of connections to field devices.
    pub field_bind: Option<IpAddr>,
    /// Peers that are dialled elsewhere than the membership says: its address → the address to dial.
    pub dial: BTreeMap<String, String>,
    /// Values for `${var.…}`.
    pub vars: BTreeMap<String, String>,
    /// Bytes that the data directory may hold, where that is less than the disk.
    pub disk_limit: Option<u64>,
    /// What the node may hold in memory.
    pub memory: Memory,
    /// What is run when this node begins or ceases to lead.
    pub hooks: Hooks,
    /// What stands behind the lease.
    pub fence: Fence,
}

/// A node file that cannot be used, with everything that is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("HF-1101: the node file {path} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It does not say what it must, or says what makes no sense.
    #[error("HF-1102: the node file is wrong, nothing was started:{}", listed(.problems))]
    Invalid {
        /// Every problem, with its place.
        problems: Vec<String>,
    },
}

impl NodeConfig {
    /// Reads and checks a node file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse_at(&text, path, |key| std::env::var(key).ok())
            .map_err(|problems| ConfigError::Invalid { problems })
    }

    /// Checks the text of a node file; `environment` is asked for replacements. Fails with every problem and its place.
    pub fn parse(text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<String>> {
        Self::parse_at(text, Path::new("node.toml"), environment)
    }

    /// The same for a file that lies at `path`: certificates are looked for beside it.
    pub fn parse_at(
        text: &str,
        path: &Path,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<String>> {
        file::read(text, path, environment)
    }

    /// Where the other nodes reach this node's API: what is advertised, else where it listens; on all addresses, the
    /// host under which its peers know it.
    pub fn api_address(&self) -> String {
        if let Some(advertised) = &self.listen.advertise_admin {
            return advertised.clone();
        }
        let admin = self.listen.admin;
        match self.address.rsplit_once(':') {
            Some((host, _)) if admin.ip().is_unspecified() => format!("{host}:{}", admin.port()),
            _ => admin.to_string(),
        }
    }
}

fn listed(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

fn is_host_and_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}
