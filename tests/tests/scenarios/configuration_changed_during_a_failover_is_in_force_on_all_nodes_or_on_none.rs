//! The plant document is changed at the moment in which the leader is killed: just after, at once, and just before.
//!
//! Whoever asked is told that it is in force, that it is not, or that nobody knows; whatever it was, all nodes agree, and
//! an answer that it is in force holds. Grids that are closed and tags that are new are part of the account: so are the
//! slots between the death of one leader and the change by the next, which the node that was asked becomes itself.

use anyhow::{Context, Result, bail, ensure};
use holdfast_tests::cluster::{code, configuration};
use holdfast_tests::scene::Scene;
use simulator::plant::Shape;
use std::collections::BTreeSet;
use std::time::Duration;
use tonic::Status;
use wire::proto::v1 as pb;

/// When the leader is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    Before,
    Meanwhile,
    After,
}

/// Asks a follower for a revision, and kills the leader, so that the follower leads next. What it said.
async fn apply_and_kill(
    scene: &Scene,
    killed: Killed,
    leader: usize,
    document: &str,
    base: u64,
) -> Result<Result<u64, Status>> {
    let [asked, third] = scene.others(leader);
    // It votes and does not lead, whoever fails.
    scene.cli_done(&["member", "drain", scene.name(third), "--reason", "scenario"]).await?;
    let mut follower = scene.client(asked);
    let mut request = tonic::Request::new(configuration(document, base));
    request.set_timeout(Duration::from_secs(20));
    let applying =
        async { follower.apply_config(request).await.map(|applied| applied.into_inner().revision) };
    let said = match killed {
        Killed::Before => {
            scene.kill(leader).await?;
            applying.await
        }
        Killed::Meanwhile => {
            let (said, killed) = tokio::join!(applying, scene.kill(leader));
            killed?;
            said
        }
        Killed::After => {
            let said = applying.await;
            scene.kill(leader).await?;
            said
        }
    };
    scene.agreed().await?;
    scene.cli_done(&["member", "resume", scene.name(third)]).await?;
    Ok(said)
}

/// The revision that is in force on all nodes.
async fn in_force(scene: &Scene) -> Result<u64> {
    scene
        .until("one revision on all nodes", async || {
            let mut revisions = BTreeSet::new();
            for node in 0..3 {
                revisions.insert(scene.status(node).await?.revision);
            }
            ensure!(revisions.len() == 1, "{revisions:?}");
            revisions.first().copied().context("three nodes")
        })
        .await
}

/// The plant document that a node has.
async fn document_of(scene: &Scene, node: usize) -> Result<Vec<u8>> {
    let found = scene.client(node).get_config(pb::GetConfigRequest::default()).await?.into_inner();
    let file = found.files.into_iter().next().context("one file")?;
    Ok(file.content.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_changed_during_a_failover_is_in_force_on_all_nodes_or_on_none() -> Result<()> {
    let scene = Scene::start().await?;
    let shape = |millis, has_later| Shape { period: Duration::from_millis(millis), has_later };
    let steps = [
        (Killed::Before, shape(100, true)),
        (Killed::Meanwhile, shape(200, false)),
        (Killed::After, shape(100, true)),
    ];
    let mut revision = in_force(&scene).await?;
    for (killed, shape) in steps {
        let document = scene.field.document(shape);
        let leader = scene.agreed().await?;
        let said = apply_and_kill(&scene, killed, leader, &document, revision).await?;
        scene.run(leader).await?;
        scene.agreed().await?;
        let now = in_force(&scene).await?;
        let is_new = now == revision + 1;
        ensure!(is_new || now == revision, "revision {now} after {revision}");
        match &said {
            Ok(applied) => ensure!(*applied == now && is_new, "{killed:?}: promised {applied}, found {now}"),
            // Nothing was changed, or nobody knows.
            Err(status) if code(status) == "HF-3101" || code(status) == "HF-3102" => {
                ensure!(!is_new, "{killed:?}: {status:?}, and it is in force");
            }
            Err(status) if code(status) == "HF-3103" || code(status) == "HF-3104" => {}
            Err(status) => bail!("{killed:?}: {status:?}"),
        }
        ensure!(killed != Killed::After || said.is_ok(), "nothing was in its way: {said:?}");
        eprintln!("{killed:?}: {said:?}");
        if !is_new {
            ensure!(scene.apply(&document, revision).await? == revision + 1, "it was refused before");
        }
        revision = in_force(&scene).await?;
        for node in 0..3 {
            let found = document_of(&scene, node).await?;
            ensure!(found == document.as_bytes(), "{} has another document", scene.name(node));
        }
        scene.goes_on().await?;
        let later: Vec<&String> = scene
            .field
            .plant
            .devices
            .iter()
            .flat_map(|device| &device.later)
            .filter(|_| shape.has_later)
            .collect();
        scene
            .until("the new tags", async || {
                let story = scene.story()?;
                let came: BTreeSet<&str> =
                    story.new_records("sample").filter_map(|sample| sample["tag"].as_str()).collect();
                ensure!(later.iter().all(|tag| came.contains(tag.as_str())), "{came:?}");
                Ok(())
            })
            .await?;
    }

    let ended = scene.end().await?;
    let account = ended.field.account.lock();
    let opened = account.openings().filter(|opening| opening.cause == "configuration");
    // Those that replace one were closed by a change: in each of the three steps every device's.
    let replaced = opened.filter(|opening| opening.replaces.is_some()).count();
    let devices = ended.field.plant.devices.len();
    ensure!(replaced == steps.len() * devices, "{replaced} grids were replaced");
    Ok(())
}
