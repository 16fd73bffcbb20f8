//! Each node is restarted while presses are polled and robots push: in order (`SIGTERM`), then with `kill -9`.

use anyhow::{Context, Result, ensure};
use holdfast_tests::scene::Scene;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    InOrder,
    Killed,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_is_restarted_under_load_and_nothing_is_lost() -> Result<()> {
    let scene = Scene::start().await?;
    let mut killed_leaders = 0_u32;
    for how in [How::InOrder, How::Killed] {
        let mut led = 0_u32;
        for node in 0..3 {
            let leads = scene.agreed().await? == node;
            led += u32::from(leads);
            match how {
                How::InOrder => {
                    scene.stop_node(node).await?;
                    // How long that takes is not judged here: a planned switchover is (`a_planned_switchover_…`).
                    let handed_over = scene.log(node).await.contains("leadership was handed over");
                    let done = (handed_over || !leads).then_some(());
                    scene
                        .explain(done.with_context(|| format!("led: {leads}, handed over: {handed_over}")))?;
                }
                How::Killed => {
                    killed_leaders += u32::from(leads);
                    scene.kill(node).await?;
                }
            }
            scene.goes_on().await?;
            scene.run(node).await?;
        }
        ensure!(led >= 1, "the leader was not among the nodes that were restarted ({how:?})");
        scene.agreed().await?;
    }

    let ended = scene.end().await?;
    let account = ended.field.account.lock();
    let is_missed = account.gaps().any(|gap| gap.cause == "failover");
    ensure!(killed_leaders >= 1 && is_missed, "no leader was missed, so nothing is proven");
    Ok(())
}
