//! The demo's plant alone, beside a cluster that it knows by its endpoints: described, read, pushed, accounted for.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use holdfast_tests::SOON;
use holdfast_tests::cluster::Cluster;
use holdfast_tests::said;
use rustix::process::{Pid, Signal, kill_process};
use simulator::account::count_rows;
use simulator::nodes::layout::Layout;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn a_plant_alone_says_what_it_is_and_its_account_adds_up() -> Result<()> {
    let cluster = Cluster::start().await?;
    let folder = cluster.folder().join("plant");
    // Ports that follow each other.
    let listen = Layout::apart(cluster.folder(), "plant")?.nodes[0].peers.to_string();
    let mut command = said::command(&["simulate", "--listen", &listen, "--into"])?;
    command.arg(&folder).env("HOLDFAST_ENDPOINTS", cluster.layout.endpoints()).stdout(Stdio::null());
    let mut plant = command.spawn()?;

    let document = cluster
        .until("a plant document", async || match std::fs::read_to_string(folder.join("plant.toml")) {
            Ok(text) if !text.is_empty() => Ok(text),
            other => Err(other),
        })
        .await?;
    cluster.apply(&document, 0).await?;
    cluster
        .until("an acknowledged push and rows in files", async || {
            let history = std::fs::read_to_string(folder.join("history.jsonl")).unwrap_or_default();
            let is_ok = |line: &str| line.contains("\"op\":\"push\"") && line.contains("\"kind\":\"ok\"");
            match (history.lines().any(is_ok), count_rows(&folder.join("csv")).unwrap_or_default()) {
                (true, rows) if rows > 0 => Ok(()),
                seen => Err(seen),
            }
        })
        .await?;

    let pid = plant.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("it runs")?;
    kill_process(pid, Signal::TERM)?;
    let ended = timeout(2 * SOON, plant.wait()).await.context("it does not end")??;
    let account = std::fs::read_to_string(folder.join("account.json")).unwrap_or_default();
    ensure!(ended.success(), "expected an account that adds up, saw {ended} and {account}{}", cluster.logs());
    Ok(())
}
