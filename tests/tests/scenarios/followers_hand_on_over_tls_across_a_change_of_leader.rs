//! Commands and pushes come in at followers, with certificates, and are handed on to the leader under the certificates of
//! the nodes; then the leader dies, and they are handed on to another.

use anyhow::{Context, Result, ensure};
use holdfast_tests::certificates::Certificates;
use holdfast_tests::scene::Scene;
use simulator::history::{Kind, monotonic_ns};
use simulator::plant::Shape;

const ADMIN: &str = "plant-7/admin";

/// Waits until both pushers are acknowledged, from now on.
async fn both_are_acknowledged(scene: &Scene) -> Result<()> {
    let from_ns = monotonic_ns();
    scene
        .until("both pushers to be acknowledged", async || {
            let story = scene.story()?;
            for pusher in &scene.field.plant.pushers {
                let acks = story.notes(&pusher.id, Kind::Ok, from_ns, u64::MAX);
                ensure!(!acks.is_empty(), "{} is not", pusher.id);
            }
            Ok(())
        })
        .await
}

/// Changes the plant and gives an order at a follower; both are in force, in the name of whoever asked there.
async fn commands_are_handed_on(
    scene: &Scene,
    certificates: &Certificates,
    follower: usize,
    shape: Shape,
) -> Result<()> {
    let at = scene.node(follower).admin;
    std::fs::write(scene.folder().join("plant.toml"), scene.field.document(shape))?;
    let applied = certificates.run_as(ADMIN, at, &["config", "apply", "plant.toml", "-y"]).await?;
    scene.explain(applied.done())?;
    let pause = ["destination", "pause", "historian", "--reason", "over TLS"];
    scene.explain(certificates.run_as("olga", at, &pause).await?.done())?;
    scene.explain(certificates.run_as("olga", at, &["destination", "resume", "historian"]).await?.done())?;
    let history = certificates.run_as(ADMIN, at, &["config", "history", "-o", "json"]).await?.json();
    ensure!(history["revisions"][0]["principal"] == "admin", "{history}");
    let events = certificates.run_as(ADMIN, at, &["event", "list", "-o", "json"]).await?.done()?;
    ensure!(events.contains("olga") && !events.contains("claimed"), "{events}");
    let refused = certificates.run_as("anna", at, &pause).await?;
    ensure!(refused.code == 1 && refused.errors.contains("HF-8103"), "{refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_hand_on_over_tls_across_a_change_of_leader() -> Result<()> {
    let mut made = None;
    let scene = Scene::polled(async |layout| {
        made = Some(Certificates::make(layout).await?);
        Ok(())
    })
    .await?;
    let certificates = made.context("they were made")?;
    for (role, name) in [("pusher", "robots"), ("operator", "olga"), ("viewer", "anna")] {
        certificates.issue(role, name, "plant-7/authority").await?;
    }
    let leader = scene.agreed().await?;
    let followers = scene.others(leader);
    // Each pusher knows one follower, so that whoever leads, at least one of them is handed on.
    let mut doors = Vec::new();
    for (place, follower) in followers.into_iter().enumerate() {
        let door = certificates.door("robots", scene.node(follower).admin).await?;
        scene.field.push(place, vec![door.endpoint()?]).await;
        doors.push(door);
    }
    both_are_acknowledged(&scene).await?;
    let later = Shape { has_later: true, ..Shape::default() };
    commands_are_handed_on(&scene, &certificates, followers[0], later).await?;

    scene.trial().kill_leader().await?;
    let next = scene.agreed().await?;
    ensure!(followers.contains(&next), "it was killed");
    both_are_acknowledged(&scene).await?;
    let follower = followers.into_iter().find(|follower| *follower != next).context("two followed")?;
    commands_are_handed_on(&scene, &certificates, follower, Shape::default()).await?;
    both_are_acknowledged(&scene).await?;

    let ended = scene.end().await?;
    ensure!(ended.report.failovers.len() == 1, "{:#?}", ended.report);
    Ok(())
}
