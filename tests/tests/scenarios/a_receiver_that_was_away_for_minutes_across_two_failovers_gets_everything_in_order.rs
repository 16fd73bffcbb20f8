//! The HTTP receiver is away for two minutes. Meanwhile presses are polled and robots push, and the leader is killed twice and
//! comes back. Before and after, the receiver's answers are lost, so that three leaders send the same records: what comes
//! again must be equal to the byte, under the key it had.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_tests::scene::Scene;
use simulator::plant::Shape;
use simulator::receiver::Reply;
use tokio::time::{Instant, sleep_until};
use wire::proto::v1::alarm::Kind;

/// How long it is away, and when the leaders are killed meanwhile: they are the fault itself. The third leader knows it
/// away for long enough to raise the alarm.
const AWAY: Duration = Duration::from_secs(120);
const KILLS: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(75)];
/// Samples that wait at the end; more than 200 come each second.
const BACKLOG: u64 = 20_000;
/// Most records of a delivery.
const IN_ONE: u64 = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_was_away_for_minutes_across_two_failovers_gets_everything_in_order() -> Result<()> {
    let scene = Scene::start().await?;
    // Slow reads: it lasts long, and other tests run beside it.
    let shape = Shape { period: Duration::from_millis(500), has_later: false };
    scene.apply(&scene.field.document(shape), scene.status(0).await?.revision).await?;
    scene.goes_on().await?;
    let counts = async || scene.field.receiver.lock().await.counts();
    let duplicates = async |what: &str, before: u64| {
        scene
            .until(what, async || {
                let counts = counts().await;
                ensure!(counts.duplicates > before, "{counts:?}");
                Ok(())
            })
            .await
    };

    // Its answers are lost: the leader that was not told sends again.
    scene.field.receiver.lock().await.set_reply(Reply::LoseAnswer);
    duplicates("the first leader to send again", counts().await.duplicates).await?;
    scene.trial().set_receiver(false).await?;
    let gone = Instant::now();
    let sent_again = counts().await.duplicates;
    for moment in KILLS {
        sleep_until(gone + moment).await;
        scene.trial().kill_leader().await?;
    }
    sleep_until(gone + AWAY).await;
    scene.goes_on().await?;
    scene
        .until("the third leader to say that it is away", async || {
            let status = scene.status(scene.leader().await?).await?;
            let mut alarms = status.alarms.iter().filter(|alarm| alarm.kind() == Kind::DestinationStalled);
            ensure!(alarms.any(|alarm| alarm.subject == "historian"), "{:?}", status.alarms);
            Ok(())
        })
        .await?;
    scene
        .until_account("many deliveries to wait", |account| {
            (account.figures().pending > BACKLOG).then_some(())
        })
        .await?;
    // The third leader begins where the first one was never told that it had arrived.
    scene.trial().set_receiver(true).await?;
    duplicates("the third leader to send it again", sent_again).await?;
    let before = counts().await;
    scene.field.receiver.lock().await.set_reply(Reply::Accept);
    scene
        .until_account("the backlog to be delivered", |account| {
            (account.figures().pending < IN_ONE).then_some(())
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
