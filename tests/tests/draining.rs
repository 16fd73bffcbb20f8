//! Draining in a cluster of real nodes: what is refused, and the way out where only drained nodes are left.

use anyhow::{Context, Result, ensure};
use holdfast_tests::cluster::{Cluster, code, refused_with};
use wire::proto::v1 as pb;

fn drained(name: &str) -> pb::DrainMemberRequest {
    pb::DrainMemberRequest { name: name.to_owned(), reason: "scenario".to_owned() }
}

/// Waits until this node leads.
async fn until_it_leads(cluster: &Cluster, index: usize, what: &str) -> Result<()> {
    let leads = async || {
        let leader = cluster.leader().await?;
        ensure!(leader == index, "{} leads", cluster.name(leader));
        Ok(())
    };
    cluster.until(what, leads).await
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_drained_nodes_are_left_one_of_them_leads_until_another_may() -> Result<()> {
    let cluster = Cluster::start().await?;
    let first = cluster.agreed().await?;
    let name = cluster.name(first).to_owned();
    cluster.ask(drained(&name), async |admin, question| admin.drain_member(question).await).await?;
    let second = cluster.until("another to lead", async || {
        let leader = cluster.leader().await?;
        ensure!(leader != first, "{name} leads although it is drained");
        Ok(leader)
    });
    let second = second.await?;
    let third = 3 - first - second;
    for other in [second, third] {
        let question = drained(cluster.name(other));
        let asked = cluster.ask(question, async |admin, question| admin.drain_member(question).await).await;
        let said = refused_with(asked, "HF-3115")?;
        ensure!(said.contains(&format!("{name} is drained")), "{said}");
    }

    // A removal that was begun and not gone on with leaves the second drained as well.
    let question =
        pb::RemoveMemberRequest { name: cluster.name(second).to_owned(), reason: String::new(), force: true };
    let begun = cluster.client(second).remove_member(question).await;
    ensure!(begun.as_ref().is_err_and(|status| code(status) == "HF-3101"), "{begun:?}");
    until_it_leads(&cluster, third, "the only one that may lead").await?;

    cluster.kill(third).await?;
    cluster
        .until("a drained node to lead, as the last resort", async || {
            let leader = cluster.leader().await?;
            ensure!(leader != third, "it is dead");
            Ok(())
        })
        .await?;
    cluster.run(third).await?;
    until_it_leads(&cluster, third, "a drained leader to yield as soon as another may lead").await?;

    // Without it, whoever is asked lets a drained node lead again.
    cluster.kill(third).await?;
    let question = pb::ResumeMemberRequest { name: name.clone(), reason: "scenario".to_owned() };
    let resumed = cluster.client(first).resume_member(question).await;
    cluster.explain(resumed.context("a drained node is resumed although nobody led"))?;
    until_it_leads(&cluster, first, "the resumed node to lead").await
}
