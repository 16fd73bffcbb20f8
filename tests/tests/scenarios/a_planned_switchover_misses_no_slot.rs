//! Leadership is handed over as planned, again and again, while presses are polled and robots push.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_tests::scene::Scene;
use simulator::plant::Shape;

/// How often: the moment in a slot at which it happens differs.
const TIMES: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_switchover_misses_no_slot() -> Result<()> {
    let scene = Scene::start().await?;
    // A slot that has begun is still read: so much time has the hand-over, on a machine that is busy with other things.
    let shape = Shape { period: Duration::from_millis(500), has_later: false };
    scene.apply(&scene.field.document(shape), scene.status(0).await?.revision).await?;
    scene.goes_on().await?;
    for _ in 0..TIMES {
        scene.trial().switch_over().await?;
    }
    let ended = scene.end().await?;
    ensure!(ended.report.switchovers.len() == TIMES, "{:#?}", ended.report);
    let causes = ended.field.account.lock().gap_causes();
    // What an election costs that nobody caused, on a busy machine, says nothing of hand-overs; it is a note.
    let others: &[&str] = if ended.report.spurious_elections == 0 { &["failover", "no-quorum"] } else { &[] };
    for cause in ["switchover"].iter().chain(others) {
        ensure!(!causes.contains_key(*cause), "slots in gaps by cause: {causes:?}");
    }
    Ok(())
}
