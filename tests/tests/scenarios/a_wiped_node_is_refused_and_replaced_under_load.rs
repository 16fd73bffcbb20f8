//! A node's data directory is lost while presses are polled and robots push. It comes back as a stranger, is exchanged in
//! one change, and then holds everything: the leader dies, and the cluster goes on with it.

use anyhow::{Result, ensure};
use holdfast_tests::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_is_refused_and_replaced_under_load() -> Result<()> {
    let scene = Scene::start().await?;
    let leader = scene.agreed().await?;
    let wiped = scene.others(leader)[0];
    scene.wipe(wiped).await?;
    let stranger = scene.run_wiped(wiped).await?;
    scene.goes_on().await?;

    let new = scene.replace(&stranger).await?;
    let (name, address, old) = (scene.name(wiped), scene.node(wiped).peers, stranger.old);
    ensure!(new == 4, "no number is given twice: {new}");
    scene.agreed().await?;
    // Typed again it changes nothing.
    let words: Vec<&str> = stranger.command.split(' ').skip(1).collect();
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
