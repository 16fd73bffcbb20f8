//! nftables holds requests to devices back: devices are read through it, a leader that stands still has no grant any more,
//! and when it wakes up it asks nothing. In a network of its own, which takes root, `unshare`, `ip` and `nft`.

use anyhow::{Context, Result, bail, ensure};
use holdfast_tests::SOON;
use holdfast_tests::machine::{Unable, able};
use holdfast_tests::scene::Scene;
use simulator::account::Effect;
use simulator::history::monotonic_ns;
use tokio::process::Command;
use tokio::time::timeout;

/// Set inside the network of its own.
const INSIDE: &str = "HOLDFAST_TEST_INSIDE";

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_devices_leave_only_while_the_lease_lasts() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return inside().await;
    }
    let can = Command::new("unshare").args(["--net", "nft", "list", "tables"]).output().await;
    let can = match can.is_ok_and(|tried| tried.status.success()) {
        true => Ok(()),
        false => Err(Unable("it takes a network of its own (root, `unshare`) and `nft`".to_owned())),
    };
    let Some(()) = able(can) else { return Ok(()) };
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]);
    command.arg(std::env::current_exe()?);
    command.args(["--exact", "requests_to_devices_leave_only_while_the_lease_lasts", "--nocapture"]);
    command.env(INSIDE, "1").kill_on_drop(true);
    let ended = timeout(SOON * 3, command.status()).await.context("it ends")??;
    ensure!(ended.success(), "it ended with {ended}");
    Ok(())
}

async fn inside() -> Result<()> {
    let scene = Scene::polled(async |layout| {
        let fence = "[fence]\ndead-man = false\nnftables = true\n";
        layout.nodes.iter_mut().for_each(|node| node.tables.push_str(fence));
        Ok(())
    })
    .await?;
    scene.push_everywhere().await?;
    let trial = scene.trial();
    let victim = trial.victim().await?;
    let status = scene.status(victim.index).await?;
    ensure!(status.fences == ["lease", "nftables"], "it says that {:?} stand", status.fences);
    let port = scene.node(victim.index).admin.port();
    ensure!(is_granted(port).await?, "it reads without a grant");
    scene.pause(victim.index).await?;
    let no_grant = async || match is_granted(port).await? {
        true => bail!("it has a grant"),
        false => Ok(()),
    };
    scene.until("the grant of a leader that stands still to end", no_grant).await?;
    let taken_over = trial.taken_over(&victim).await?;
    let woke_ns = monotonic_ns();
    ensure!(scene.resume(victim.index).await?, "its process has ended");
    trial
        .recovered(format!("pause {}", victim.leader.name), Effect::Failover, &victim, Some(taken_over))
        .await?;
    let well_ns = monotonic_ns();
    let ended = scene.end().await?;
    let reads = ended.story.reads_of(victim.field, woke_ns, well_ns);
    ensure!(reads.is_empty(), "it asked devices {} times after it woke", reads.len());
    Ok(())
}

/// Whether the kernel lets a node's requests out.
async fn is_granted(admin_port: u16) -> Result<bool> {
    let table = format!("holdfast_fence_{admin_port}");
    let listed = Command::new("nft").args(["list", "set", "inet", &table, "lease"]).output().await?;
    ensure!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    Ok(String::from_utf8_lossy(&listed.stdout).contains("elements"))
}
