//! A node's data directory is lost while presses are polled and robots push. It comes back as a stranger, is exchanged in
//! one change, and then holds everything: the leader dies, and the cluster goes on with it.

use anyhow::{Context, Result, ensure};
use holdfast_tests::scene::Scene;
use wire::proto::v1::member::Reach;

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_is_refused_and_replaced_under_load() -> Result<()> {
    let scene = Scene::start().await?;
    let leader = scene.agreed().await?;
    let wiped = scene.others(leader)[0];
    let (name, address) = (scene.name(wiped).to_owned(), scene.node(wiped).peers);
    let old = scene.members().await?.iter().find(|member| member.name == name).context("a member")?.id;
    scene.wipe(wiped).await?;
    scene.run(wiped).await?;

    let command = format!("holdfast member replace {name} {name}={address}");
    scene
        .until("the wiped node to be a stranger and to say so", async || {
            let log = scene.log(wiped).await;
            ensure!(log.contains(&command), "it does not say what to type:\n{log}");
            let members = scene.members().await?;
            let old = members.iter().find(|member| member.id == old).context("it is still a member")?;
            ensure!(old.reach() == Reach::Refused, "the leader takes it for {:?}", old.reach());
            Ok(())
        })
        .await?;
    scene.goes_on().await?;

    let words: Vec<&str> = command.split(' ').skip(1).collect();
    scene.cli_done(&words).await?;
    let members = scene.members().await?;
    let numbers: Vec<u64> = members.iter().filter(|member| member.voter).map(|member| member.id).collect();
    ensure!(numbers == [1, 2, 3, 4].into_iter().filter(|id| *id != old).collect::<Vec<u64>>(), "{members:?}");
    scene.agreed().await?;
    // Typed again it changes nothing.
    scene.cli_done(&words).await?;
    ensure!(scene.members().await?.len() == 3);
    let events = scene.cli_done(&["event", "list"]).await?;
    for told in [
        format!("{name} (#4) joins as a learner, at {address}"),
        format!("{name} (#4) votes in place of {name} (#{old}), which is no member any more"),
    ] {
        ensure!(events.matches(&told).count() == 1, "expected {told:?} once in\n{events}");
    }

    // Without the leader nothing is committed but by the node that was replaced and the one that never failed.
    scene.trial().kill_leader().await?;
    scene.goes_on().await?;
    let ended = scene.end().await?;
    ensure!(ended.report.failovers.len() == 1, "{:#?}", ended.report);
    Ok(())
}
