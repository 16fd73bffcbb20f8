//! A node that cannot start says why, with a code, and leaves what it found as it was.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use holdfast_tests::cluster::Cluster;
use holdfast_tests::said::{Said, command, run};
use simulator::nodes::layout::{Layout, NodePlan, toml_text};

/// A variable that stands for a key of the node file, and its value.
type Variable<'a> = Option<(&'a str, &'a str)>;

/// Every file below a folder with what it holds; folders without.
fn contents(folder: &Path) -> Result<BTreeMap<PathBuf, Option<Vec<u8>>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(contents(&path)?);
            found.insert(path, None);
        } else {
            let bytes = fs::read(&path)?;
            found.insert(path, Some(bytes));
        }
    }
    Ok(found)
}

/// Runs a node, which must end by itself.
async fn start(file: &Path, variables: &[(&str, &str)]) -> Result<Said> {
    let mut command = command(&["node", "--config"])?;
    command.arg(file).envs(variables.iter().copied());
    run(command).await
}

fn refused(said: &Said, words: &[&str]) -> Result<()> {
    let is_told = said.code == 1 && words.iter().all(|word| said.errors.contains(*word));
    ensure!(is_told, "expected exit 1 and {words:?}, saw {said:?}");
    Ok(())
}

/// The file of a node that is its cluster's only member.
fn node_file(node: &NodePlan) -> String {
    format!(
        "name = \"{name}\"\ndata-dir = {data}\ninsecure = true\n\
         [cluster]\nname = \"scenario\"\nmembers = [\"{name}={peers}\"]\n\
         [listen]\npeers = \"{peers}\"\nadmin = \"{admin}\"\n",
        name = node.name,
        data = toml_text(&node.data.display().to_string()),
        peers = node.peers,
        admin = node.admin,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_start_says_why_and_changes_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let layout = Layout::apart(folder.path(), "scenario")?;
    let node = &layout.nodes[0];
    let [missing, wrong] = ["missing.toml", "wrong.toml"].map(|name| folder.path().join(name));
    fs::write(&node.file, node_file(node))?;
    fs::write(&wrong, format!("profile = \"fast\"\n{}[limits]\ndisk = \"1MiB\"\n", node_file(node)))?;
    let [foreign, newer] = ["foreign", "newer"].map(|name| folder.path().join(name));
    for (place, file, text) in [
        (&foreign, "thesis.txt", "theirs"),
        // A node would delete a file of this name and another size.
        (&foreign, "reserve", "for table 4"),
        (&newer, "format", "holdfast data directory, layout 2\n"),
        (&newer, "reserve", "of another size"),
    ] {
        fs::create_dir_all(place)?;
        fs::write(place.join(file), text)?;
    }
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let taken_at = taken.local_addr()?.to_string();
    let [foreign, newer] = [&foreign, &newer].map(|path| path.display().to_string());
    let [taken_at, foreign, newer] = [&taken_at, &foreign, &newer].map(String::as_str);
    let before = contents(folder.path())?;

    let cases: [(&Path, Variable<'_>, Vec<&str>); 5] = [
        (missing.as_path(), None, vec!["HF-1101", "missing.toml"]),
        (wrong.as_path(), None, vec!["HF-1102", "wrong.toml:1:11", "wrong.toml:12:8"]),
        (node.file.as_path(), Some(("HOLDFAST_LISTEN_ADMIN", taken_at)), vec!["HF-1103", taken_at]),
        (node.file.as_path(), Some(("HOLDFAST_DATA_DIR", foreign)), vec!["HF-1302", foreign]),
        (node.file.as_path(), Some(("HOLDFAST_DATA_DIR", newer)), vec!["HF-1303", newer, "upgrade"]),
    ];
    for (file, variables, words) in cases {
        refused(&start(file, variables.as_slice()).await?, &words)?;
        let after = contents(folder.path())?;
        let paths = after.keys().collect::<Vec<_>>();
        ensure!(after == before, "something was changed by {words:?}; there is now {paths:?}");
    }
    Ok(())
}

/// Which file the reserve is, and how large.
fn reserve(node: &NodePlan) -> Result<(u64, u64)> {
    let found = fs::metadata(node.data.join("reserve")).context("a node keeps a reserve")?;
    Ok((found.ino(), found.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_or_of_another_cluster_is_refused_and_goes_on_as_it_was() -> Result<()> {
    let cluster = Cluster::start().await?;
    let node = cluster.node(0);
    let before = reserve(node)?;

    // A second node on it, with other ports, and with a limit that asks for another reserve.
    let others = Layout::apart(cluster.folder(), "scenario")?;
    let spare = &others.nodes[0];
    let [peers, admin, health] = [spare.peers, spare.admin, spare.health].map(|port| port.to_string());
    let second = [
        ("HOLDFAST_LISTEN_PEERS", peers.as_str()),
        ("HOLDFAST_LISTEN_ADMIN", admin.as_str()),
        ("HOLDFAST_LISTEN_HEALTH", health.as_str()),
        ("HOLDFAST_LIMITS_DISK", "1GiB"),
    ];
    let data = node.data.display().to_string();
    refused(&start(&node.file, &second).await?, &["HF-1301", data.as_str()])?;
    ensure!(reserve(node)? == before, "the reserve of a node that runs was exchanged");
    cluster.agreed().await?;

    cluster.stop_node(0).await?;
    let elsewhere = [("HOLDFAST_CLUSTER_NAME", "elsewhere")];
    refused(&start(&node.file, &elsewhere).await?, &["HF-1305", "scenario", "elsewhere"])?;
    ensure!(reserve(node)? == before, "the reserve was exchanged");
    cluster.run(0).await?;
    cluster.agreed().await?;
    Ok(())
}
