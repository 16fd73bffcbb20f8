//! The files of `cluster-config/` as somebody takes them who reads the README: three nodes from the local node files, asked at
//! the addresses that the command line has by itself, and the reference plant.
//!
//! - They have the usual ports: whatever else has these must end first.
//! - Nobody answers at the plant's addresses. That is told, and keeps nothing else from working.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use holdfast_tests::cluster::Cluster;
use holdfast_tests::said::{Said, command, get, run};
use simulator::nodes::layout::Layout;

const DEVICES: [&str; 4] = ["hall-1/press-1", "hall-1/press-2", "hall-2/press-3", "hall-2/robot-1"];
/// `csv-dir` in the node files.
const CSV: &str = "data/csv";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster-config").join(name)
}

/// Three nodes from the files as they are, but for where their data lies.
fn as_they_are(layout: &mut Layout) -> Result<()> {
    let folder = layout.folder.clone();
    *layout = Layout::plan(&folder, "local")?;
    let taken = "one of the ports 7610 to 7632 is taken: end the demo or the local cluster that has it";
    ensure!(layout.has_usual_ports, taken);
    for node in &mut layout.nodes {
        node.file = file(&format!("local/{}.toml", node.name));
        // Otherwise it would be written.
        ensure!(node.file.is_file(), "{} is missing", node.file.display());
        node.variables.push(("HOLDFAST_DATA_DIR".to_owned(), node.data.display().to_string()));
    }
    std::fs::create_dir_all(folder.join(CSV))?;
    // What else the files name is relative to where the program is started. No other test is in this process.
    Ok(std::env::set_current_dir(&folder)?)
}

/// What the command line says when it is not told whom to ask.
async fn say(words: &[&str]) -> Result<String> {
    run(command(words)?).await.and_then(Said::done)
}

/// Waits until `holdfast status` says this.
async fn until_status_says(cluster: &Cluster, wanted: &[&str]) -> Result<()> {
    cluster
        .until(&format!("`holdfast status` to say {wanted:?}"), async || {
            let said = say(&["status"]).await?;
            ensure!(wanted.iter().all(|words| said.contains(*words)), "{said}");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_nodes_and_the_reference_plant_work_as_they_are() -> Result<()> {
    let cluster = Cluster::start_with(as_they_are).await?;
    until_status_says(&cluster, &["local  OK  reads run on node-", "one node may fail"]).await?;
    for node in 0..3 {
        let (status, text) = get(cluster.node(node).health, "/readyz").await?;
        ensure!(status == 200, "{} answers {status}: {text}", cluster.name(node));
        let data = &cluster.node(node).data;
        ensure!(data.join("rocksdb").is_dir(), "nothing is in {}", data.display());
    }

    let plant = file("plant.toml");
    let plant = plant.to_str().context("a path in UTF-8")?;
    cluster.explain(say(&["config", "validate", plant]).await)?;
    cluster.explain(say(&["config", "apply", plant, "-m", "the reference plant"]).await)?;
    cluster
        .until("the plant to be in force on every node", async || {
            for node in 0..3 {
                let revision = cluster.status(node).await?.revision;
                ensure!(revision == 1, "{} has revision {revision}", cluster.name(node));
            }
            Ok(())
        })
        .await?;
    let listed = cluster.explain(say(&["device", "list"]).await)?;
    ensure!(DEVICES.iter().all(|device| listed.contains(*device)), "{listed}");
    let marker = cluster.folder().join(CSV).join("reports.leader.json");
    cluster
        .until("files of `reports` where the node files say", async || {
            ensure!(marker.is_file(), "there is no {}", marker.display());
            Ok(())
        })
        .await?;

    // Pull a cable.
    let first = cluster.agreed().await?;
    cluster.kill(first).await?;
    let second = cluster.agreed().await?;
    let reads = format!("reads run on {}", cluster.name(second));
    until_status_says(&cluster, &[reads.as_str(), "no further node may fail"]).await?;
    cluster.run(first).await?;
    cluster.agreed().await?;
    until_status_says(&cluster, &["one node may fail", "config rev 1"]).await?;
    ensure!(!Path::new("data/node-1").exists(), "HOLDFAST_DATA_DIR says where data lies");
    Ok(())
}
