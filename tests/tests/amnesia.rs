//! A node whose disk forgot what the node had acknowledged: it stays up and says so, the others name it, and it is replaced.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use holdfast_tests::cluster::{Cluster, code, refused_with};
use holdfast_tests::said::get;
use wire::proto::v1 as pb;

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to)?,
            false => drop(fs::copy(entry.path(), to)?),
        }
    }
    Ok(())
}

/// Makes the disk of a node forget a vote that the node has given since.
async fn forget(cluster: &Cluster, forgetful: usize, next_leader: usize) -> Result<()> {
    let (database, kept) = (cluster.node(forgetful).data.join("rocksdb"), cluster.folder().join("kept"));
    cluster.kill(forgetful).await?;
    copy(&database, &kept)?;
    cluster.run(forgetful).await?;
    cluster.agreed().await?;
    let next = cluster.name(next_leader);
    cluster.cli_done(&["leader", "transfer", "--to", next, "--reason", "scenario"]).await?;
    cluster.agreed().await?;
    cluster.kill(forgetful).await?;
    fs::remove_dir_all(&database)?;
    copy(&kept, &database)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_memory_says_so_and_is_replaced() -> Result<()> {
    let cluster = Cluster::start().await?;
    let leader = cluster.agreed().await?;
    let [forgetful, third] = cluster.others(leader);
    let (name, address) = (cluster.name(forgetful).to_owned(), cluster.node(forgetful).peers);
    let old = cluster.members().await?.iter().find(|member| member.name == name).context("a member")?.id;
    let health = cluster.node(forgetful).health;
    forget(&cluster, forgetful, third).await?;
    cluster.run(forgetful).await?;

    // On its own ports.
    let command = format!("holdfast member replace {name} {name}={address}");
    cluster
        .until("its API to say what happened and what to type", async || {
            let Err(refusal) = cluster.status(forgetful).await else { bail!("it takes itself for well") };
            let status = refusal.downcast_ref::<tonic::Status>().context("no status")?;
            ensure!(code(status) == "HF-4104" && status.message().ends_with(&command), "{status:?}");
            Ok(())
        })
        .await?;
    let (status, body) = get(health, "/readyz").await?;
    ensure!(status == 503 && body.contains("HF-4104"), "{status}: {body}");
    let (status, _) = get(health, "/healthz").await?;
    ensure!(status == 200, "starting it again would not help: {status}");
    let drain = pb::DrainMemberRequest { name: name.clone(), reason: String::new() };
    refused_with(cluster.client(forgetful).drain_member(drain).await, "HF-4104")?;

    // On the others.
    cluster
        .until("the leader to name it", async || {
            let status = cluster.status(cluster.leader().await?).await?;
            let alarm = status.alarms.iter().find(|alarm| alarm.subject == name).context("no alarm")?;
            ensure!(alarm.text.contains("lost what it had acknowledged"), "{alarm:?}");
            let member = status.members.iter().find(|member| member.id == old).context("it is a member")?;
            let is_refused = member.reach() == pb::member::Reach::Refused;
            ensure!(is_refused && member.reason.contains(&command), "{member:?}");
            Ok(())
        })
        .await?;
    let shown = cluster.cli_done(&["status"]).await?;
    ensure!(shown.contains(&name) && shown.contains(&command), "{shown}");
    ensure!(cluster.casualty().is_none(), "it stays up");

    // With its directory it is not taken back; emptied, it is.
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    let too_early = cluster.cli(&words).await?;
    ensure!(too_early.code != 0, "{too_early:?}");
    ensure!(too_early.errors.contains("HF-3111") && too_early.errors.contains("empty"), "{too_early:?}");
    cluster.process(forgetful).await.wipe().await?;
    cluster.run(forgetful).await?;
    cluster
        .until("the emptied node to ask to belong", async || {
            let log = cluster.log(forgetful).await;
            ensure!(log.matches(&command).count() > 1, "it does not ask to belong:\n{log}");
            Ok(())
        })
        .await?;
    cluster.cli_done(&words).await?;
    let members = cluster.members().await?;
    let is_voter = |member: &pb::Member| member.voter && member.id != old;
    ensure!(members.len() == 3 && members.iter().all(is_voter), "{members:?}");
    cluster.agreed().await?;
    Ok(())
}
