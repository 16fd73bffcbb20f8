//! Each node is restarted while presses are polled and robots push: in order (`SIGTERM`), then with `kill -9`.

use anyhow::{Result, anyhow, ensure};
use holdfast_tests::scene::Scene;
use model::{Clock, Timestamp};
use simulator::history::WallClock;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    InOrder,
    Killed,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_is_restarted_under_load_and_nothing_is_lost() -> Result<()> {
    let scene = Scene::start().await?;
    let (mut killed_leaders, mut first_kill) = (0_u32, Timestamp(i64::MAX));
    for how in [How::InOrder, How::Killed] {
        let mut led = 0_u32;
        for node in 0..3 {
            let leads = scene.agreed().await? == node;
            led += u32::from(leads);
            match how {
                How::InOrder => scene.stop_node(node).await?,
                How::Killed => {
                    first_kill = first_kill.min(WallClock.now());
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
    // Who stops in order hands over first: nothing is missed for want of a leader until the first one is killed.
    let leaderless =
        account.gaps().filter(|gap| ["failover", "switchover", "no-quorum"].contains(&gap.cause.as_str()));
    let unexplained = leaderless.filter(|gap| gap.cause != "failover" || gap.to < first_kill).next();
    ended.explain(unexplained.map_or(Ok(()), |gap| Err(anyhow!("{gap:?}"))))?;
    let is_missed = account.gaps().any(|gap| gap.cause == "failover");
    ensure!(killed_leaders >= 1 && is_missed, "no leader was missed, so nothing is proven");
    Ok(())
}
