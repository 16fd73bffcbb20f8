//! A leader loses its wire to both peers and still sees the devices, and a pusher that knows no other node.

use anyhow::{Result, ensure};
use holdfast_tests::scene::Scene;
use simulator::account::Effect;
use simulator::history::{Kind, monotonic_ns};

/// The pusher that knows the leader alone.
const LONELY: usize = 1;

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_leader_acts_no_more_and_acknowledges_nothing() -> Result<()> {
    let scene = Scene::polled(async |_| Ok(())).await?;
    let trial = scene.trial();
    let leader = scene.agreed().await?;
    let endpoints = scene.cluster.endpoints();
    scene.field.push(0, endpoints.to_vec()).await;
    scene.field.push(LONELY, vec![endpoints[leader].clone()]).await;
    let lonely = scene.field.plant.pushers[LONELY].id.clone();
    let acknowledged = async |what: &str, since_ns: u64| {
        scene
            .until(what, async || {
                let story = scene.story()?;
                ensure!(!story.notes(&lonely, Kind::Ok, since_ns, u64::MAX).is_empty(), "not yet");
                Ok(())
            })
            .await
    };
    acknowledged("both pushers to be acknowledged", 0).await?;

    let victim = trial.victim().await?;
    ensure!(victim.index == leader, "leadership has moved by itself");
    scene.cut(victim.index);
    let taken_over = trial.taken_over(&victim).await?;
    // It must have tried, or nothing is proven.
    scene
        .until("the lonely pusher to try in vain", async || {
            let story = scene.story()?;
            let tried = story.notes(&lonely, Kind::Invoke, victim.began_ns, u64::MAX).len();
            let in_vain = story.notes(&lonely, Kind::Info, taken_over.at_ns, u64::MAX).len()
                + story.notes(&lonely, Kind::Fail, taken_over.at_ns, u64::MAX).len();
            ensure!(tried > 0 && in_vain > 0, "tried {tried} times, {in_vain} in vain");
            Ok(())
        })
        .await?;
    let mended_ns = monotonic_ns();
    scene.mend(victim.index);
    let name = format!("cut {} off", victim.leader.name);
    trial.must_have_read_on(&name, &victim);
    trial.recovered(name, Effect::Failover, &victim, Some(taken_over)).await?;
    acknowledged("the lonely pusher to be acknowledged again", mended_ns).await?;
    let well_ns = monotonic_ns();

    let ended = scene.end().await?;
    let acks = ended.story.notes(&lonely, Kind::Ok, taken_over.at_ns, mended_ns);
    ensure!(acks.is_empty(), "acknowledged by a node that could reach nobody: {acks:?}");
    let reads = ended.story.reads_of(victim.field, taken_over.at_ns, well_ns);
    ensure!(reads.is_empty(), "it asked devices {} times after another had taken over", reads.len());
    ensure!(ended.report.failovers.len() == 1, "{:#?}", ended.report);
    Ok(())
}
