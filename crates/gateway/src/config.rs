//! The node file: what differs from box to box.
//!
//! Read once at start. Every problem is reported at once; a value from the environment (`HOLDFAST_DATA_DIR` for
//! `data-dir`, `HOLDFAST_LISTEN_ADMIN` for `[listen] admin`) replaces that of the file, see [`environment`].

mod environment;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::Role;
use model::plant::units::{format_bytes, parse_bytes};
use replication::LeaseTimes;
use serde::Deserialize;
use tls::Credentials;

use crate::memory::Memory;

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
}

/// What is listened on, each on its own.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Peers.
    pub peers: SocketAddr,
    /// gRPC API: admin, ingest.
    pub admin: SocketAddr,
    /// Health and metrics over HTTP; off if absent.
    pub health: Option<SocketAddr>,
    /// Where the other nodes reach this node's API, `host:port`, if that is not the address it listens on.
    pub advertise_admin: Option<String>,
}

/// Commands that let other programs follow the active node. Each is a program and its arguments; empty: none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// Run when this node begins to lead.
    pub on_lead: Vec<String>,
    /// Run when it ceases to lead, and once when it starts.
    pub on_yield: Vec<String>,
    /// How long each may take.
    pub timeout: Duration,
}

impl Default for Hooks {
    fn default() -> Self {
        Self { on_lead: Vec::new(), on_yield: Vec::new(), timeout: Duration::from_secs(5) }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct HooksFile {
    on_lead: Option<Vec<String>>,
    on_yield: Option<Vec<String>>,
    timeout: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct NodeFile {
    name: String,
    role: Option<String>,
    data_dir: PathBuf,
    profile: Option<String>,
    #[serde(default)]
    insecure: bool,
    tls: Option<TlsFile>,
    cluster: ClusterFile,
    #[serde(default)]
    listen: ListenFile,
    #[serde(default)]
    field: FieldFile,
    #[serde(default)]
    dial: BTreeMap<String, String>,
    #[serde(default)]
    vars: BTreeMap<String, String>,
    #[serde(default)]
    limits: LimitsFile,
    #[serde(default)]
    hooks: HooksFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ListenFile {
    peers: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    health: Option<SocketAddr>,
    /// Where peers reach `peers`, `host:port`, if that is another address; only for a node that joins.
    advertise: Option<String>,
    advertise_admin: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsFile {
    disk: Option<String>,
    memory: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterFile {
    name: String,
    #[serde(default)]
    members: Vec<String>,
    #[serde(default)]
    join: Vec<String>,
}

/// Paths relative to the node file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsFile {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldFile {
    bind: Option<IpAddr>,
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
    #[error("HF-1102: {path}:\n{}", problems.iter().map(|problem| format!("  {problem}")).collect::<Vec<_>>().join("\n"))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Every problem.
        problems: Vec<String>,
    },
}

impl NodeConfig {
    /// Reads and checks a node file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse_in(&text, folder, |key| std::env::var(key).ok())
            .map_err(|problems| ConfigError::Invalid { path: path.to_owned(), problems })
    }

    /// Checks the text of a node file; `environment` is asked for replacements.
    pub fn parse(text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<String>> {
        Self::parse_in(text, Path::new(""), environment)
    }

    /// The same for a file that lies in `folder`: certificates are looked for there.
    pub fn parse_in(
        text: &str,
        folder: &Path,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let text = environment::replace(text, environment, &mut problems);
        let file: NodeFile = match toml_edit::de::from_str(&text) {
            Ok(file) => file,
            Err(error) => {
                problems.push(error.to_string());
                return Err(problems);
            }
        };
        let role = match file.role.as_deref() {
            None | Some("gateway") => Role::Gateway,
            Some("witness") => {
                problems
                    .push("role: \"witness\" is reserved and cannot be run yet; use \"gateway\"".to_owned());
                Role::Gateway
            }
            Some(other) => {
                problems.push(format!("role: {other:?} is not known; expected \"gateway\""));
                Role::Gateway
            }
        };
        let times = match file.profile.as_deref() {
            None | Some("lan") => LeaseTimes::LAN,
            Some("lan-fast") => LeaseTimes::LAN_FAST,
            Some("wan") => LeaseTimes::WAN,
            Some(other) => {
                problems.push(format!(
                    "profile: {other:?} is not known; expected \"lan\", \"lan-fast\" or \"wan\""
                ));
                LeaseTimes::LAN
            }
        };
        let members = members(&file, &mut problems);
        check_join(&file, &mut problems);
        let listed = members.iter().find(|(name, _)| *name == file.name).map(|(_, address)| address.clone());
        let address = listed.or_else(|| file.listen.advertise.clone());
        let address =
            address.or_else(|| file.listen.peers.map(|peers| peers.to_string())).unwrap_or_default();
        check_dial(&file, &mut problems);
        let disk_limit = disk_limit(&file, &mut problems);
        let memory = memory(&file, &mut problems);
        let hooks = hooks(&file.hooks, &mut problems);
        let listen = listeners(&file, &mut problems);
        let tls = load_tls(&file, folder, &mut problems);
        let Some(listen) = listen.filter(|_| problems.is_empty()) else { return Err(problems) };
        Ok(Self {
            name: file.name,
            role,
            data_dir: file.data_dir,
            times,
            cluster: file.cluster.name,
            members,
            join: file.cluster.join,
            address,
            listen,
            tls,
            field_bind: file.field.bind,
            dial: file.dial,
            vars: file.vars,
            disk_limit,
            memory,
            hooks,
        })
    }
}

impl NodeConfig {
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

fn members(file: &NodeFile, problems: &mut Vec<String>) -> Vec<(String, String)> {
    let mut members: Vec<(String, String)> = Vec::new();
    for member in &file.cluster.members {
        match member.split_once('=') {
            Some((name, address)) if !name.is_empty() && address.contains(':') => {
                if members.iter().any(|(known, _)| known == name) {
                    problems.push(format!("cluster.members: {name} is listed twice"));
                }
                members.push((name.to_owned(), address.to_owned()));
            }
            _ => problems.push(format!("cluster.members: {member:?} is not NAME=HOST:PORT")),
        }
    }
    if file.cluster.members.is_empty() && file.cluster.join.is_empty() {
        problems.push(
            "cluster.members: at least one member, this node, must be listed (or, for a node that is added to a cluster, \
             cluster.join)"
                .to_owned(),
        );
    } else if !file.cluster.join.is_empty() {
        if !file.cluster.members.is_empty() {
            problems
                .push("cluster.join: a node founds with `members` or joins with `join`, not both".to_owned());
        }
    } else if !members.iter().any(|(name, _)| *name == file.name) {
        problems.push(format!("cluster.members: this node, {:?}, is not listed", file.name));
    }
    members
}

fn check_join(file: &NodeFile, problems: &mut Vec<String>) {
    for address in &file.cluster.join {
        if !is_host_and_port(address) {
            problems.push(format!("cluster.join: {address:?} is not HOST:PORT of a member's peer port"));
        }
    }
    match &file.listen.advertise {
        Some(address) if !is_host_and_port(address) => {
            problems.push(format!("listen.advertise: {address:?} is not HOST:PORT"));
        }
        _ => {}
    }
}

fn is_host_and_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// The least that a data directory can work in: logs, flushes and the reserve.
const LEAST_DISK: u64 = 512 << 20;

fn disk_limit(file: &NodeFile, problems: &mut Vec<String>) -> Option<u64> {
    match parse_bytes(file.limits.disk.as_ref()?) {
        Ok(bytes) if bytes >= LEAST_DISK => Some(bytes),
        Ok(_) => {
            problems.push(format!("limits.disk: expected at least {}", format_bytes(LEAST_DISK)));
            None
        }
        Err(error) => {
            problems.push(format!("limits.disk: {error}"));
            None
        }
    }
}

fn memory(file: &NodeFile, problems: &mut Vec<String>) -> Memory {
    let Some(text) = &file.limits.memory else { return Memory::default() };
    match parse_bytes(text).map(Memory::limited_to) {
        Ok(Some(memory)) => return memory,
        Ok(None) => {
            let (least, usual) = (format_bytes(Memory::LEAST), format_bytes(Memory::default().limit()));
            problems.push(format!(
                "limits.memory: expected at least {least} ({usual} is the default), found {text}"
            ));
        }
        Err(error) => problems.push(format!("limits.memory: {error}")),
    }
    Memory::default()
}

/// The longest time that a hook may be given: a hand-over waits for it.
const LONGEST_HOOK: Duration = Duration::from_secs(60);

fn hooks(file: &HooksFile, problems: &mut Vec<String>) -> Hooks {
    let mut command = |key: &str, command: &Option<Vec<String>>| match command.as_deref() {
        Some([]) => {
            problems.push(format!("hooks.{key}: expected a program and its arguments, found nothing"));
            Vec::new()
        }
        Some([program, ..]) if program.is_empty() => {
            problems.push(format!("hooks.{key}: expected a program, found an empty text"));
            Vec::new()
        }
        Some(command) => command.to_vec(),
        None => Vec::new(),
    };
    let on_lead = command("on-lead", &file.on_lead);
    let on_yield = command("on-yield", &file.on_yield);
    let timeout = match file.timeout.as_deref().map(model::plant::units::parse_duration) {
        None => Hooks::default().timeout,
        Some(Ok(timeout)) if !timeout.is_zero() && timeout <= LONGEST_HOOK => timeout,
        Some(Ok(_)) => {
            problems.push("hooks.timeout: expected more than nothing and at most 60s".to_owned());
            Hooks::default().timeout
        }
        Some(Err(error)) => {
            problems.push(format!("hooks.timeout: {error}"));
            Hooks::default().timeout
        }
    };
    Hooks { on_lead, on_yield, timeout }
}

fn check_dial(file: &NodeFile, problems: &mut Vec<String>) {
    for (address, instead) in &file.dial {
        if !address.contains(':') || !instead.contains(':') {
            problems.push(format!("dial: {address:?} = {instead:?} is not \"HOST:PORT\" = \"HOST:PORT\""));
        }
    }
}

/// The listeners; none only where there is a problem.
fn listeners(file: &NodeFile, problems: &mut Vec<String>) -> Option<Listen> {
    if let Some(advertise) = &file.listen.advertise_admin
        && !is_host_and_port(advertise)
    {
        problems.push(format!("listen.advertise-admin: {advertise:?} is not HOST:PORT"));
    }
    let required = [("listen.peers", file.listen.peers), ("listen.admin", file.listen.admin)];
    for (key, address) in required {
        if address.is_none() {
            problems.push(format!("{key}: missing; expected IP:PORT"));
        }
    }
    match (file.insecure, &file.tls) {
        (false, None) => problems.push(
            "tls: HF-1201: without certificates a node starts only with insecure = true, on loopback addresses; `holdfast \
             init` makes certificates"
                .to_owned(),
        ),
        (true, Some(_)) => {
            problems.push("insecure: HF-1201: this asks for plaintext, and [tls] for TLS; keep one".to_owned());
        }
        _ => {}
    }
    let all = [
        ("listen.peers", file.listen.peers),
        ("listen.admin", file.listen.admin),
        ("listen.health", file.listen.health),
    ];
    for (key, address) in all {
        if file.insecure && address.is_some_and(|address| !address.ip().is_loopback()) {
            problems.push(format!("{key}: HF-1201: plaintext is allowed on loopback addresses only"));
        }
    }
    Some(Listen {
        peers: file.listen.peers?,
        admin: file.listen.admin?,
        health: file.listen.health,
        advertise_admin: file.listen.advertise_admin.clone(),
    })
}

/// The certificates that a node file names, if they are those of this node.
fn load_tls(file: &NodeFile, folder: &Path, problems: &mut Vec<String>) -> Option<Credentials> {
    let named = file.tls.as_ref()?;
    let files = tls::Files {
        ca: folder.join(&named.ca),
        cert: folder.join(&named.cert),
        key: folder.join(&named.key),
    };
    let wrong = match Credentials::load(&files) {
        Ok(credentials) => match credentials.check_node(&file.cluster.name, &file.name) {
            wrong if wrong.is_empty() => return Some(credentials),
            wrong => wrong,
        },
        Err(wrong) => wrong,
    };
    problems.extend(wrong.iter().map(|problem| format!("tls: {problem}")));
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        name = "node-1"
        data-dir = "/var/lib/holdfast"
        insecure = true
        [cluster]
        name = "plant-7"
        members = ["node-1=127.0.0.1:7610", "node-2=127.0.0.1:7620"]
        [listen]
        peers = "127.0.0.1:7610"
        admin = "127.0.0.1:7611"
    "#;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn a_plain_file_is_read() {
        let config = NodeConfig::parse(FILE, nothing).expect("it is valid");
        assert_eq!(config.members[1], ("node-2".to_owned(), "127.0.0.1:7620".to_owned()));
        assert_eq!(config.times, LeaseTimes::LAN);
    }

    #[test]
    fn the_environment_replaces_values() {
        let config = NodeConfig::parse(FILE, |key| (key == "HOLDFAST_DATA_DIR").then(|| "/tmp/x".to_owned()));
        assert_eq!(config.expect("it is valid").data_dir, Path::new("/tmp/x"));
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let text = FILE
            .replace("node-2=127.0.0.1:7620", "node-2")
            .replace("\"127.0.0.1:7611\"", "\"10.0.0.1:7611\"");
        let problems = NodeConfig::parse(&text, nothing).expect_err("two problems");
        assert_eq!(problems.len(), 2, "{problems:?}");
    }

    #[test]
    fn a_peer_may_be_dialled_elsewhere() {
        let text = format!("{FILE}\n[dial]\n\"127.0.0.1:7620\" = \"127.0.0.1:40001\"\n");
        let config = NodeConfig::parse(&text, nothing).expect("it is valid");
        assert_eq!(config.dial["127.0.0.1:7620"], "127.0.0.1:40001");
        let problems = NodeConfig::parse(&text.replace(":40001", ""), nothing).expect_err("no port");
        assert!(problems[0].starts_with("dial:"), "{problems:?}");
    }

    #[test]
    fn a_node_founds_or_joins_and_not_both() {
        let members = "members = [\"node-1=127.0.0.1:7610\", \"node-2=127.0.0.1:7620\"]";
        let joins = FILE.replace(members, "join = [\"127.0.0.1:7620\"]");
        let config = NodeConfig::parse(&joins, nothing).expect("it is valid");
        assert_eq!((config.members.len(), config.join.as_slice()), (0, &["127.0.0.1:7620".to_owned()][..]));
        assert_eq!(config.address, "127.0.0.1:7610", "where it listens, if nothing else is said");
        let behind = joins.replace("[listen]", "[listen]\n        advertise = \"plant-7:7610\"");
        assert_eq!(NodeConfig::parse(&behind, nothing).expect("it is valid").address, "plant-7:7610");
        let both = FILE.replace(members, &format!("{members}\n        join = [\"127.0.0.1:7620\"]"));
        for (wrong, what) in [(both, "not both"), (joins.replace(":7620", ""), "HOST:PORT")] {
            let problems = NodeConfig::parse(&wrong, nothing).expect_err(what);
            assert!(problems.len() == 1 && problems[0].contains(what), "{problems:?}");
        }
    }

    #[test]
    fn a_limit_on_the_disk_is_a_size() {
        let limited = |disk| format!("{FILE}\n[limits]\ndisk = \"{disk}\"\n");
        let config = NodeConfig::parse(&limited("40GiB"), nothing).expect("it is valid");
        assert_eq!(config.disk_limit, Some(40 << 30));
        for wrong in ["40", "1MiB"] {
            let problems = NodeConfig::parse(&limited(wrong), nothing).expect_err("no room to work in");
            assert!(problems[0].starts_with("limits.disk:"), "{problems:?}");
        }
    }

    #[test]
    fn a_limit_on_the_memory_is_a_size_with_a_least() {
        let limited = |memory| format!("{FILE}\n[limits]\nmemory = \"{memory}\"\n");
        let limit = |text: &str| NodeConfig::parse(text, nothing).map(|config| config.memory.limit());
        assert_eq!(limit(FILE), Ok(512 << 20));
        assert_eq!(limit(&limited("1GiB")), Ok(1 << 30));
        let from_outside = |key: &str| (key == "HOLDFAST_LIMITS_MEMORY").then(|| "300MiB".to_owned());
        let config = NodeConfig::parse(&limited("1GiB"), from_outside).expect("it is valid");
        assert_eq!(config.memory.limit(), 300 << 20);
        for wrong in ["512", "255MiB"] {
            let problems = limit(&limited(wrong)).expect_err("no memory to work in");
            assert!(problems.len() == 1 && problems[0].starts_with("limits.memory:"), "{problems:?}");
        }
        assert!(limit(&limited("64MiB")).expect_err("too little")[0].contains("at least 256MiB"));
    }

    #[test]
    fn the_api_is_reached_where_it_listens_or_where_it_is_advertised() {
        let address = |text: &str| NodeConfig::parse(text, nothing).expect("it is valid").api_address();
        assert_eq!(address(FILE), "127.0.0.1:7611");
        let named = FILE.replace("admin =", "advertise-admin = \"gateway-a:8611\"\n admin =");
        assert_eq!(address(&named), "gateway-a:8611");
        let problems = NodeConfig::parse(&named.replace(":8611", ""), nothing).expect_err("no port");
        assert!(problems[0].starts_with("listen.advertise-admin:"), "{problems:?}");
        let mut everywhere = NodeConfig::parse(FILE, nothing).expect("it is valid");
        everywhere.listen.admin = ([0, 0, 0, 0], 7611).into();
        everywhere.address = "gateway-a:7610".to_owned();
        assert_eq!(everywhere.api_address(), "gateway-a:7611");
    }

    #[test]
    fn hooks_are_programs_with_arguments_and_a_time() {
        let text =
            format!("{FILE}\n[hooks]\non-lead = [\"systemctl\", \"start\", \"line\"]\ntimeout = \"2s\"\n");
        let hooks = NodeConfig::parse(&text, nothing).expect("it is valid").hooks;
        assert_eq!(
            (hooks.on_lead.len(), hooks.on_yield.len(), hooks.timeout),
            (3, 0, Duration::from_secs(2))
        );
        assert_eq!(NodeConfig::parse(FILE, nothing).expect("it is valid").hooks, Hooks::default());
        let text = format!("{FILE}\n[hooks]\non-lead = []\non-yield = [\"\"]\ntimeout = \"5m\"\n");
        let problems = NodeConfig::parse(&text, nothing).expect_err("three problems");
        assert_eq!(problems.len(), 3, "{problems:?}");
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let problems = NodeConfig::parse(&format!("colour = 1\n{FILE}"), nothing).expect_err("no such key");
        assert!(problems[0].contains("colour"), "{problems:?}");
    }

    /// A folder with certificates for `subject`, and the node file that names them.
    fn with_tls(cluster: &str, role: tls::Role, name: &str) -> (tempfile::TempDir, String) {
        let now = model::Timestamp(1_893_456_000_000_000_000);
        let ca = tls::Authority::create(cluster, tls::Validity::days(now, 365)).expect("an authority");
        let issued = ca.issue(role, name, &[], tls::Validity::days(now, 365)).expect("issued");
        let folder = tempfile::tempdir().expect("a folder");
        for (file, text) in
            [("ca.pem", ca.certificate()), ("n.pem", &issued.certificate), ("n.key", &issued.key)]
        {
            std::fs::write(folder.path().join(file), text).expect("written");
        }
        let tls = "[tls]\nca = \"ca.pem\"\ncert = \"n.pem\"\nkey = \"n.key\"\n";
        (
            folder,
            format!(
                "{}\n{tls}",
                FILE.replace("insecure = true", "").replace("127.0.0.1:7611", "0.0.0.0:7611")
            ),
        )
    }

    #[test]
    fn with_certificates_any_address_may_be_listened_on() {
        let (folder, text) = with_tls("plant-7", tls::Role::Node, "node-1");
        let config = NodeConfig::parse_in(&text, folder.path(), nothing).expect("it is valid");
        assert_eq!(config.tls.expect("they were read").subject().uri(), "holdfast://plant-7/node/node-1");
    }

    #[test]
    fn certificates_and_plaintext_exclude_each_other_and_one_of_them_is_needed() {
        let (folder, text) = with_tls("plant-7", tls::Role::Node, "node-1");
        for text in [
            format!("insecure = true\n{}", text.replace("0.0.0.0", "127.0.0.1")),
            FILE.replace("insecure = true", ""),
        ] {
            let problems = NodeConfig::parse_in(&text, folder.path(), nothing).expect_err("neither or both");
            assert!(problems.len() == 1 && problems[0].contains("HF-1201"), "{problems:?}");
        }
    }

    #[test]
    fn everything_that_is_wrong_with_certificates_is_said_with_the_rest() {
        for (cluster, role, name, code) in [
            ("plant-8", tls::Role::Node, "node-1", "HF-1206"),
            ("plant-7", tls::Role::Node, "node-2", "HF-1207"),
            ("plant-7", tls::Role::Admin, "node-1", "HF-1207"),
        ] {
            let (folder, text) = with_tls(cluster, role, name);
            let text = text.replace("node-2=127.0.0.1:7620", "node-2");
            let problems = NodeConfig::parse_in(&text, folder.path(), nothing).expect_err("two problems");
            assert!(problems.len() == 2 && problems[1].contains(code), "{problems:?}");
        }
        let (folder, text) = with_tls("plant-7", tls::Role::Node, "node-1");
        for file in ["ca.pem", "n.key"] {
            std::fs::write(folder.path().join(file), "").expect("written");
        }
        std::fs::remove_file(folder.path().join("n.pem")).expect("removed");
        let problems = NodeConfig::parse_in(&text, folder.path(), nothing).expect_err("three problems");
        assert_eq!(problems.len(), 3, "{problems:?}");
    }
}
