//! `holdfast init`: everything that a new cluster needs, one folder for each box and one for its first admin.
//!
//! - A plan first, files afterwards: what is wrong is said before anything is written. Nothing is overwritten.
//! - No node gets a data directory in which these files lie: it would refuse it as somebody else's.
//! - What is printed is what to type next, in order.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tls::Role;

use super::access::{CA, CERT, KEY, PROFILE};
use super::error::{CliError, Done};
use super::output::Output;
use super::pki::{self, AUTHORITY_DAYS, DAYS, Secrecy, write_new};

/// Peers; the API and health follow.
const FIRST_PORT: u16 = 7610;
/// From one node to the next on one machine.
const PORT_STEP: u16 = 10;
/// What each node listens on.
const PORTS: u16 = 3;
/// Where a box keeps what is made for it.
const ON_A_BOX: &str = "/etc/holdfast";
/// Where the data of a node lies by custom; the unit makes this folder, and no other.
const DATA: &str = "/var/lib/holdfast";
/// The unit that the Debian package installs.
const UNIT: &str = include_str!("../../../../packaging/holdfast.service");

/// Make everything that a new cluster needs: node files, certificates, systemd units.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Make everything that a new cluster needs: for each box a folder with its node file, its certificate \
    and a systemd unit; the cluster's own authority; and a folder for its first admin.\n\n\
    HOST is the address under which the others reach the box. A port after it is that of the peers (7610 unless it is said); \
    the API and health listen on the two after it. Several nodes on one HOST get ports ten apart, and each a folder of its \
    own below the data directory.\n\n\
    Examples:\n  holdfast init plant-7 gateway-a=10.0.9.11 gateway-b=10.0.9.12 gateway-c=10.0.9.13\n  \
    holdfast init try node-1=127.0.0.1 node-2=127.0.0.1 node-3=127.0.0.1 --data-dir try-data"
)]
pub(crate) struct InitArgs {
    /// The cluster's name.
    #[arg(value_name = "PLANT")]
    cluster: String,
    /// The nodes: three, as a rule.
    #[arg(value_name = "NAME=HOST", required = true)]
    nodes: Vec<String>,
    /// Where to put the folders [default: a new folder named after the plant].
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Where each node keeps its data: nothing else may lie there.
    #[arg(long, value_name = "DIR", default_value = DATA)]
    data_dir: PathBuf,
    /// How long the certificates are valid.
    #[arg(long, default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

/// One box.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    name: String,
    host: String,
    port: u16,
}

impl Node {
    fn address(&self, offset: u16) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port + offset),
            false => format!("{}:{}", self.host, self.port + offset),
        }
    }

    /// Where it listens for peers: on its address, or on all of them if only a name is known.
    fn listen(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(_) => self.address(0),
            Err(_) => format!("0.0.0.0:{}", self.port),
        }
    }

    /// Where its API listens: everywhere, so that it can be asked on the box, too.
    fn listen_api(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(address) if address.is_loopback() => self.address(1),
            Ok(IpAddr::V6(_)) => format!("[::]:{}", self.port + 1),
            _ => format!("0.0.0.0:{}", self.port + 1),
        }
    }

    fn listen_health(&self) -> String {
        format!("127.0.0.1:{}", self.port + 2)
    }

    /// What its certificate speaks for.
    fn hosts(&self) -> Vec<String> {
        let mut hosts = vec![self.host.clone()];
        for local in ["localhost", "127.0.0.1", "::1"] {
            if local != self.host {
                hosts.push(local.to_owned());
            }
        }
        hosts
    }
}

#[derive(Debug, Serialize)]
struct Made {
    folder: PathBuf,
    endpoints: Vec<String>,
}

pub(super) fn run(output: Output, args: &InitArgs) -> Result<Done, CliError> {
    let nodes = plan(&args.nodes).map_err(CliError::Usage)?;
    let folder = args.into.clone().unwrap_or_else(|| PathBuf::from(&args.cluster));
    keep_apart(&args.data_dir, &nodes, &folder).map_err(CliError::Usage)?;
    if folder.exists() {
        let reason =
            "it exists already, and nothing is overwritten; name another folder with --into".to_owned();
        return Err(CliError::File { path: folder, reason });
    }
    let authority = pki::make_authority(&args.cluster, AUTHORITY_DAYS)?;
    let mut issued = Vec::new();
    for node in &nodes {
        let certificate = authority.issue(Role::Node, &node.name, &node.hosts(), pki::validity(args.days))?;
        issued.push((node, certificate));
    }
    let admin = authority.issue(Role::Admin, "admin", &[], pki::validity(args.days))?;

    pki::write_authority(&folder.join("authority"), &authority)?;
    for (node, certificate) in &issued {
        let place = folder.join(&node.name);
        pki::write_issued(&place, &node.name, certificate)?;
        write_new(&place.join(CA), authority.certificate(), Secrecy::Open)?;
        let data_dir = data_dir(&args.data_dir, node, &nodes);
        let text = node_file(&args.cluster, node, &nodes, &data_dir);
        write_new(&place.join("node.toml"), &text, Secrecy::Open)?;
        write_new(&place.join("holdfast.service"), &unit(&args.cluster, node, &data_dir), Secrecy::Open)?;
    }
    let place = folder.join("admin");
    pki::write_issued(&place, "client", &admin)?;
    write_new(&place.join(CA), authority.certificate(), Secrecy::Open)?;
    let endpoints: Vec<String> = nodes.iter().map(|node| node.address(1)).collect();
    write_new(&place.join(PROFILE), &profile(&args.cluster, &endpoints), Secrecy::Open)?;
    output.show(&Made { folder: folder.clone(), endpoints }, || next(&folder, &nodes, &args.data_dir))?;
    Ok(Done::Well)
}

/// Where a node keeps its data: no two on one machine in the same folder.
fn data_dir(given: &Path, node: &Node, nodes: &[Node]) -> PathBuf {
    match nodes.iter().filter(|other| other.host == node.host).count() {
        1 => given.to_owned(),
        _ => given.join(&node.name),
    }
}

/// A node takes no directory in which other files lie, and whoever empties one must not lose the node's key with it.
fn keep_apart(given: &Path, nodes: &[Node], folder: &Path) -> Result<(), String> {
    let absolute =
        |path: &Path| std::path::absolute(path).map_err(|error| format!("{:?}: {error}", path.display()));
    let mut taken = vec![PathBuf::from(ON_A_BOX)];
    for name in nodes.iter().map(|node| node.name.as_str()).chain(["admin", "authority"]) {
        taken.push(absolute(&folder.join(name))?);
    }
    for node in nodes {
        let data_dir = data_dir(given, node, nodes);
        let place = absolute(&data_dir)?;
        if let Some(taken) = taken.iter().find(|taken| taken.starts_with(&place)) {
            return Err(format!(
                "the data of {} cannot lie in {}: {} is for certificates and node files; \
                 name a folder for data alone with --data-dir, such as {}-data",
                node.name,
                data_dir.display(),
                taken.display(),
                folder.display()
            ));
        }
    }
    Ok(())
}

/// Who runs where.
fn plan(nodes: &[String]) -> Result<Vec<Node>, String> {
    let mut planned: Vec<Node> = Vec::new();
    let mut next_port: BTreeMap<String, u16> = BTreeMap::new();
    for text in nodes {
        let (name, place) = text
            .split_once('=')
            .filter(|(name, place)| !name.is_empty() && !place.is_empty())
            .ok_or_else(|| format!("{text:?} is not NAME=HOST or NAME=HOST:PORT"))?;
        let (host, port) =
            host_and_port(place).ok_or_else(|| format!("{place:?} is not HOST or HOST:PORT"))?;
        let usual = next_port.get(&host).copied().unwrap_or(FIRST_PORT);
        let port = port.unwrap_or(usual);
        if port > u16::MAX - PORTS {
            return Err(format!("{text:?}: there is no room for {PORTS} ports from {port}"));
        }
        next_port.insert(host.clone(), port.saturating_add(PORT_STEP));
        let node = Node { name: name.to_owned(), host, port };
        for other in &planned {
            if other.name == node.name {
                return Err(format!("{name} is named twice"));
            }
            if other.host == node.host && other.port.abs_diff(node.port) < PORTS {
                return Err(format!("{name} and {} want the same ports on {}", other.name, node.host));
            }
        }
        // Beside the folders of the boxes.
        if matches!(name, "admin" | "authority") {
            return Err(format!("a node cannot be called {name}: that folder is taken"));
        }
        planned.push(node);
    }
    Ok(planned)
}

/// The parts of `HOST`, `HOST:PORT`, `ADDRESS` or `[ADDRESS]:PORT`.
fn host_and_port(place: &str) -> Option<(String, Option<u16>)> {
    if let Ok(address) = place.parse::<std::net::SocketAddr>() {
        return Some((address.ip().to_string(), Some(address.port())));
    }
    if let Ok(address) = place.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Some((address.to_string(), None));
    }
    match place.split_once(':') {
        Some((host, port)) if !host.is_empty() => Some((host.to_owned(), Some(port.parse().ok()?))),
        Some(_) => None,
        None => Some((place.to_owned(), None)),
    }
}

fn node_file(cluster: &str, node: &Node, nodes: &[Node], data_dir: &Path) -> String {
    let members: Vec<String> = nodes
        .iter()
        .map(|node| format!("    {},\n", quoted(&format!("{}={}", node.name, node.address(0)))))
        .collect();
    format!(
        "# Node {name} of {cluster}. Made by `holdfast init`; yours to change.\n\
         name = {quoted_name}\n\
         data-dir = {data}\n\n\
         [cluster]\n\
         name = {quoted_cluster}\n\
         members = [\n{members}]\n\n\
         [listen]\n\
         peers = {peers}\n\
         admin = {admin}\n\
         health = {health}\n\n\
         # Paths are relative to this file. `holdfast pki renew` renews the certificate.\n\
         [tls]\n\
         ca = \"{CA}\"\n\
         cert = {cert}\n\
         key = {key}\n\n\
         # [limits]\n\
         # disk = \"40GiB\"              # what the data directory may hold, where it shares its disk\n\
         # memory = \"512MiB\"           # what the node aims to hold; queues, caches and windows follow from it\n",
        name = node.name,
        quoted_name = quoted(&node.name),
        data = quoted(&data_dir.display().to_string()),
        quoted_cluster = quoted(cluster),
        members = members.concat(),
        peers = quoted(&node.listen()),
        admin = quoted(&node.listen_api()),
        health = quoted(&node.listen_health()),
        cert = quoted(&format!("{}.pem", node.name)),
        key = quoted(&format!("{}.key", node.name)),
    )
}

fn profile(cluster: &str, endpoints: &[String]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|endpoint| quoted(endpoint)).collect();
    format!(
        "# How {cluster} is reached. Paths are relative to this file.\n\
         endpoints = [{}]\n\n[tls]\nca = \"{CA}\"\ncert = \"{CERT}\"\nkey = \"{KEY}\"\n",
        endpoints.join(", ")
    )
}

/// The unit of the package, as this box has it.
fn unit(cluster: &str, node: &Node, data_dir: &Path) -> String {
    UNIT.replace(
        "Description=Holdfast node",
        &format!("Description=Holdfast node {} of {cluster}", node.name),
    )
    .replace("/usr/bin/holdfast", "/usr/local/bin/holdfast")
    .replace("ReadWritePaths=/var/lib/holdfast", &format!("ReadWritePaths={}", data_dir.display()))
}

fn quoted(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}

/// What to type next.
fn next(folder: &Path, nodes: &[Node], data_dir: &Path) -> String {
    let folder = folder.display();
    if nodes.len() > 1 && nodes.iter().all(|node| node.host == nodes[0].host) {
        return next_on_one_machine(&folder.to_string(), nodes);
    }
    let mut text = format!(
        "{folder}/ holds everything for {} nodes.\n\n\
         1. On each box: put this program into /usr/local/bin, and make a user for it:\n\
         \x20    useradd --system --home-dir /var/lib/holdfast --shell /usr/sbin/nologin holdfast\n\
         2. Copy each box its folder:\n",
        nodes.len()
    );
    for node in nodes {
        let _ = writeln!(text, "     scp -r {folder}/{} root@{}:/etc/holdfast", node.name, node.host);
    }
    text.push_str(
        "3. On each box: only the node may read its key, and root writes the unit. Then start it:\n",
    );
    if data_dir != Path::new(DATA) {
        let _ = writeln!(text, "     install -d -o holdfast -g holdfast -m 0750 {}", data_dir.display());
    }
    text.push_str(
        "\
         \x20    mv /etc/holdfast/holdfast.service /etc/systemd/system/ && chown -R holdfast: /etc/holdfast\n\
         \x20    systemctl daemon-reload && systemctl enable --now holdfast\n\
         \x20  When all of them run, they found the cluster.\n",
    );
    let _ = write!(
        text,
        "4. Here: {folder}/admin is you. Use it in place, or move its files to ~/.config/holdfast:\n\
         \x20    export HOLDFAST_CLIENT_PROFILE={folder}/admin/{PROFILE}\n\
         \x20    holdfast status\n\
         \x20    holdfast config apply plant.toml\n\
         5. Put {folder}/authority away, where nobody else can read it: it makes further certificates\n\
         \x20  (`holdfast pki issue`), and renews these (`holdfast pki renew`)."
    );
    text
}

/// The same for nodes that share a machine, to try them: nothing is copied.
fn next_on_one_machine(folder: &str, nodes: &[Node]) -> String {
    let mut text = format!(
        "{folder}/ holds everything for {} nodes on one machine. Start each in a terminal of its own:\n",
        nodes.len()
    );
    for node in nodes {
        let _ = writeln!(text, "     holdfast node --config {folder}/{}/node.toml", node.name);
    }
    let _ = write!(
        text,
        "When all of them run, they found the cluster. Here you are its admin:\n\
         \x20    export HOLDFAST_CLIENT_PROFILE={folder}/admin/{PROFILE}\n\
         \x20    holdfast status\n\
         \x20    holdfast config apply plant.toml"
    );
    text
}

#[cfg(test)]
mod tests {
    use gateway::NodeConfig;

    use super::super::output::Format;
    use super::*;

    fn nodes(texts: &[&str]) -> Result<Vec<Node>, String> {
        plan(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn every_box_gets_what_a_node_of_the_cluster_starts_with() {
        let around = tempfile::tempdir().expect("a folder");
        let into = around.path().join("plant-7");
        let args = InitArgs {
            cluster: "plant-7".to_owned(),
            nodes: ["gateway-a=10.0.9.11", "gateway-b=box-b.example", "gateway-c=[fd00::3]"]
                .map(str::to_owned)
                .to_vec(),
            into: Some(into.clone()),
            data_dir: "/var/lib/holdfast".into(),
            days: 30,
        };
        run(Output::new(Format::Json), &args).expect("a new folder");
        for (name, peers) in [
            ("gateway-a", "10.0.9.11:7610"),
            ("gateway-b", "box-b.example:7610"),
            ("gateway-c", "[fd00::3]:7610"),
        ] {
            let config = NodeConfig::read(&into.join(name).join("node.toml"))
                .unwrap_or_else(|wrong| panic!("{wrong}"));
            let tls = config.tls.expect("certificates");
            assert_eq!(tls.subject().uri(), format!("holdfast://plant-7/node/{name}"));
            assert!(config.members.iter().any(|member| *member == (name.to_owned(), peers.to_owned())));
            assert!(!tls.key_is_exposed());
        }
        let admin = into.join("admin");
        let files = tls::Files { ca: admin.join(CA), cert: admin.join(CERT), key: admin.join(KEY) };
        let admin = tls::Credentials::load(&files).expect("they fit together");
        assert_eq!(admin.subject().uri(), "holdfast://plant-7/admin/admin");

        let again = run(Output::new(Format::Json), &args);
        assert!(matches!(again, Err(CliError::File { .. })), "nothing is overwritten");
    }

    #[test]
    fn a_box_gets_the_unit_of_the_package_for_its_own_program_and_data() {
        let node = &nodes(&["gateway-a=10.0.9.11"]).expect("valid")[0];
        let unit = unit("plant-7", node, Path::new("/mnt/data"));
        for line in [
            "Description=Holdfast node gateway-a of plant-7",
            "Type=notify",
            "ExecStart=/usr/local/bin/holdfast node --config /etc/holdfast/node.toml",
            "ReadWritePaths=/mnt/data",
        ] {
            assert!(unit.lines().any(|said| said == line), "{line:?} is missing in\n{unit}");
        }
        assert!(!unit.contains("/usr/bin/holdfast"), "{unit}");
    }

    #[test]
    fn nodes_on_one_machine_get_ports_of_their_own() {
        let planned =
            nodes(&["a=127.0.0.1", "b=127.0.0.1", "c=127.0.0.1:9000", "d=127.0.0.1"]).expect("room for all");
        assert_eq!(planned.iter().map(|node| node.port).collect::<Vec<_>>(), [7610, 7620, 9000, 9010]);
        assert_eq!(planned[1].listen_api(), "127.0.0.1:7621");
        assert!(
            nodes(&["a=127.0.0.1:9000", "b=127.0.0.1:9002"])
                .expect_err("they overlap")
                .contains("same ports")
        );
    }

    #[test]
    fn nodes_on_one_machine_do_not_share_their_data() {
        let at = |nodes: &[Node]| {
            nodes.iter().map(|node| data_dir(Path::new("/data"), node, nodes)).collect::<Vec<_>>()
        };
        let apart = nodes(&["a=h", "b=i"]).expect("valid");
        assert_eq!(at(&apart), [Path::new("/data"), Path::new("/data")]);
        let together = nodes(&["a=127.0.0.1", "b=127.0.0.1"]).expect("valid");
        assert_eq!(at(&together), [Path::new("/data/a"), Path::new("/data/b")]);
        let next = |folder: &str, nodes: &[Node], data: &str| next(Path::new(folder), nodes, Path::new(data));
        assert!(next("try", &together, "data").contains("holdfast node --config try/b/node.toml"));
        assert!(next("p", &apart, DATA).contains("scp -r p/a root@h:"));
        assert!(!next("p", &apart, DATA).contains("install -d"), "the unit makes it");
        assert!(
            next("p", &apart, "/mnt/data").contains("install -d -o holdfast -g holdfast -m 0750 /mnt/data")
        );
    }

    #[test]
    fn whoever_the_node_runs_as_cannot_write_its_unit() {
        let text = next(Path::new("p"), &nodes(&["a=h", "b=i"]).expect("valid"), Path::new(DATA));
        let (moved, given) =
            (text.find("mv /etc/holdfast/holdfast.service"), text.find("chown -R holdfast:"));
        assert!(moved.is_some() && moved < given, "{text}");
    }

    #[test]
    fn a_data_directory_among_what_is_made_is_refused_before_anything_is_written() {
        let around = tempfile::tempdir().expect("a folder");
        let into = around.path().join("try");
        let init = |nodes: &[&str], data_dir: &Path| {
            let args = InitArgs {
                cluster: "try".to_owned(),
                nodes: nodes.iter().map(|&node| node.to_owned()).collect(),
                into: Some(into.clone()),
                data_dir: data_dir.to_owned(),
                days: 30,
            };
            run(Output::new(Format::Json), &args)
        };
        let (one, two) = (&["a=127.0.0.1"][..], &["a=127.0.0.1", "b=127.0.0.1"][..]);
        let here = into.join(".");
        for (nodes, data_dir) in [
            (two, &*into),
            (two, &*here),
            (one, &*into),
            (one, &*into.join("a")),
            (one, around.path()),
            (&["a=h", "b=i"][..], Path::new("/etc/holdfast/")),
        ] {
            let Err(CliError::Usage(why)) = init(nodes, data_dir) else { panic!("{data_dir:?} is taken") };
            assert!(why.contains("--data-dir"), "{why}");
            assert!(!into.exists(), "{data_dir:?}");
        }
        init(two, &into.join("data")).expect("nothing else lies there");
        for name in ["a", "b"] {
            let config = NodeConfig::read(&into.join(name).join("node.toml"))
                .unwrap_or_else(|wrong| panic!("{wrong}"));
            assert_eq!(config.data_dir, into.join("data").join(name));
            assert!(!config.data_dir.exists(), "it is the node's to make");
        }
    }

    #[test]
    fn what_is_no_node_is_refused_before_anything_is_written() {
        for wrong in [
            &["a"][..],
            &["=h"],
            &["a="],
            &["a=h:x"],
            &["a=:1"],
            &["a=h", "a=i"],
            &["admin=h"],
            &["a=h:65534"],
        ] {
            assert!(nodes(wrong).is_err(), "{wrong:?}");
        }
    }
}
