//! A cluster is founded when all its nodes are there and not before; and what it promised survives the end of all three.

use anyhow::{Result, ensure};
use holdfast_tests::cluster::{Cluster, code};
use holdfast_tests::scene::Scene;
use std::collections::BTreeSet;

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_found_one_cluster_when_all_are_there_and_not_before() -> Result<()> {
    let cluster = Cluster::begin_with(async |layout| {
        layout.nodes[2].waits = true;
        Ok(())
    })
    .await?;
    let waits = async |node: usize| {
        cluster
            .until("a node to say that it waits for the others", async || {
                let Err(refusal) = cluster.status(node).await else { anyhow::bail!("it belongs already") };
                let status = refusal.downcast_ref::<tonic::Status>();
                ensure!(status.is_some_and(|status| code(status) == "HF-3109"), "{refusal:#}");
                Ok(())
            })
            .await
    };
    waits(0).await?;
    waits(1).await?;
    cluster.run(2).await?;
    cluster.agreed().await?;
    let members = cluster.members().await?;
    let numbers: BTreeSet<u64> =
        members.iter().filter(|member| member.voter).map(|member| member.id).collect();
    ensure!(numbers == BTreeSet::from([1, 2, 3]), "{members:?}");
    // A second founding would begin again at the first term and an empty plant.
    let revision = cluster.apply("version = 1\n", 0).await?;
    for node in 0..3 {
        cluster.kill(node).await?;
    }
    cluster.run(0).await?;
    cluster
        .until("one node alone to answer, and to lead nothing", async || {
            let status = cluster.status(0).await?;
            // Whether its last entry is committed it cannot know alone.
            ensure!(status.leader.is_none() && status.members.len() == 3, "{status:?}");
            Ok(())
        })
        .await?;
    cluster.run(1).await?;
    cluster.agreed().await?;
    cluster.run(2).await?;
    cluster.agreed().await?;
    for node in 0..3 {
        let status = cluster.status(node).await?;
        ensure!(status.revision == revision && status.members.len() == 3, "{status:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_that_are_killed_at_once_come_back_with_everything_they_promised() -> Result<()> {
    let scene = Scene::start().await?;
    for _ in 0..2 {
        scene.goes_on().await?;
        let (a, b, c) = tokio::join!(scene.kill(0), scene.kill(1), scene.kill(2));
        a.and(b).and(c)?;
        for node in 0..3 {
            scene.run(node).await?;
        }
        scene.agreed().await?;
    }
    scene.goes_on().await?;
    scene.end().await?;
    Ok(())
}
