//! Draining in a cluster of real nodes: what is refused, and the way out where only drained nodes are left.

use anyhow::{Context, Result, ensure};
use holdfast_tests::nodes::{Nodes, code, refused_with, until};
use wire::proto::v1 as pb;

fn drained(name: &str) -> pb::DrainMemberRequest {
    pb::DrainMemberRequest { name: name.to_owned(), reason: "scenario".to_owned() }
}

/// Waits until this node leads.
async fn until_it_leads(nodes: &Nodes, index: usize, what: &str) -> Result<()> {
    let leads = || async {
        let leader = nodes.leading().await?;
        ensure!(leader == index, "{} leads", nodes.node(leader).name);
        Ok(())
    };
    nodes.explain(until(what, leads).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_drained_nodes_are_left_one_of_them_leads_until_another_may() -> Result<()> {
    let mut nodes = Nodes::founded().await?;
    let first = nodes.agreed().await?;
    let name = nodes.node(first).name.clone();
    nodes.ask(drained(&name), async |admin, question| admin.drain_member(question).await).await?;
    let second = nodes.leader().await?;
    let third = 3 - first - second;
    for other in [second, third] {
        let question = drained(&nodes.node(other).name);
        let asked = nodes.ask(question, async |admin, question| admin.drain_member(question).await).await;
        let said = refused_with(asked, "HF-3115")?;
        ensure!(said.contains(&format!("{name} is drained")), "{said}");
    }

    // A removal that was begun and not gone on with leaves the second drained as well.
    let question =
        pb::RemoveMemberRequest { name: nodes.node(second).name.clone(), reason: String::new(), force: true };
    let begun = nodes.node(second).client()?.remove_member(question).await;
    ensure!(begun.as_ref().is_err_and(|status| code(status) == "HF-3101"), "{begun:?}");
    until_it_leads(&nodes, third, "the only one that may lead").await?;

    nodes.node_mut(third).kill()?;
    let resort = nodes.leader().await?;
    ensure!(resort != third, "it is dead");
    nodes.start(third)?;
    until_it_leads(&nodes, third, "a drained leader yields as soon as another may lead").await?;

    // Without it, whoever is asked lets a drained node lead again.
    nodes.node_mut(third).kill()?;
    let question = pb::ResumeMemberRequest { name: name.clone(), reason: "scenario".to_owned() };
    let resumed = nodes.node(first).client()?.resume_member(question).await;
    nodes.explain(resumed.context("a drained node is resumed although nobody led"))?;
    until_it_leads(&nodes, first, "the resumed node leads").await
}
