//! A leader stands still for longer than its lease (`SIGSTOP`), another takes over, and then it goes on (`SIGCONT`). No timer
//! ends it: what keeps it from acting is the lease alone.

use anyhow::{Result, ensure};
use holdfast_tests::scene::Scene;
use simulator::account::Effect;
use simulator::history::monotonic_ns;

/// How often: the moment in which it stands still differs.
const TIMES: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_wakes_and_gives_up() -> Result<()> {
    let scene = Scene::polled(async |layout| {
        layout.nodes.iter_mut().for_each(|node| node.tables.push_str("[fence]\ndead-man = false\n"));
        Ok(())
    })
    .await?;
    scene.push_everywhere().await?;
    let trial = scene.trial();
    let mut wakings = Vec::new();
    for _ in 0..TIMES {
        let victim = trial.victim().await?;
        scene.pause(victim.index).await?;
        let taken_over = trial.taken_over(&victim).await?;
        let woke_ns = monotonic_ns();
        ensure!(scene.resume(victim.index).await?, "its process has ended");
        // It follows the new leader. That it costs another election is a note: a busy machine can do so, too.
        let name = format!("pause {}", victim.leader.name);
        trial.recovered(name, Effect::Failover, &victim, Some(taken_over)).await?;
        let status = scene.status(victim.index).await?;
        let followed = status.leader.as_ref().is_some_and(|leader| leader.name != victim.leader.name);
        ensure!(followed, "it follows {:?}", status.leader);
        wakings.push((victim.field, woke_ns, monotonic_ns()));
    }
    let ended = scene.end().await?;
    ensure!(ended.report.failovers.len() == TIMES, "{:#?}", ended.report);
    for (field, woke_ns, well_ns) in wakings {
        let reads = ended.story.reads_of(field, woke_ns, well_ns);
        ensure!(reads.is_empty(), "it asked devices {} times after it woke", reads.len());
    }
    Ok(())
}
