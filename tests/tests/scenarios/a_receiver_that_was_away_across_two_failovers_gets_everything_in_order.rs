//! The HTTP receiver is away while the leader is killed twice. Before and after, its answers are lost, so that three
//! leaders send the same records: what comes again must be equal to the byte, under the key it had.

use anyhow::{Result, ensure};
use holdfast_tests::scene::Scene;
use simulator::receiver::Reply;

/// Samples that wait: more than several deliveries hold.
const BACKLOG: u64 = 4_000;
/// Most records of a delivery.
const IN_ONE: u64 = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_was_away_across_two_failovers_gets_everything_in_order() -> Result<()> {
    let scene = Scene::start().await?;
    let counts = async || scene.field.receiver.lock().await.counts();
    let duplicates = async |what: &str, before: u64| {
        scene
            .until(what, async || {
                let counts = counts().await;
                ensure!(counts.duplicates > before, "{counts:?}");
                Ok(counts)
            })
            .await
    };

    // Its answers are lost: the leader that was not told sends again.
    scene.field.receiver.lock().await.set_reply(Reply::LoseAnswer);
    let lost = duplicates("the first leader to send again", counts().await.duplicates).await?;
    scene.trial().set_receiver(false).await?;
    scene.trial().kill_leader().await?;
    scene.trial().kill_leader().await?;
    let waiting = scene
        .until_account("several deliveries to wait", |account| {
            let pending = account.figures().pending;
            (pending > BACKLOG).then_some(pending)
        })
        .await?;
    // The third leader begins where the first one was never told that it had arrived.
    scene.trial().set_receiver(true).await?;
    duplicates("the third leader to send it again", lost.duplicates).await?;
    let before = counts().await;
    scene.field.receiver.lock().await.set_reply(Reply::Accept);
    scene
        .until_account("the backlog to be delivered", |account| {
            (account.figures().pending < waiting).then_some(())
        })
        .await?;

    let ended = scene.end().await?;
    let counts = ended.field.receiver.lock().await.counts();
    ensure!(counts.out_of_order == 0 && counts.conflicts == 0, "{counts:?}");
    let deliveries = counts.requests - before.requests;
    ensure!(deliveries >= BACKLOG / IN_ONE, "{deliveries} deliveries: {counts:?}");
    ensure!(ended.report.failovers.len() == 2, "{:#?}", ended.report);
    Ok(())
}
