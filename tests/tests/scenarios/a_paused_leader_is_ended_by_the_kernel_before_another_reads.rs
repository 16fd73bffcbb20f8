//! A leader stands still for longer than its lease (`SIGSTOP`). Before another node reads any device the kernel has ended
//! it, while it stood: it cannot go on with what it was about to send. Started again, it follows.

use std::os::unix::process::ExitStatusExt as _;

use anyhow::{Context, Result, ensure};
use holdfast_tests::SOON;
use holdfast_tests::scene::Scene;
use rustix::process::Signal;
use simulator::account::Effect;
use simulator::history::monotonic_ns;

/// How often: the moment in which it stands still differs.
const TIMES: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_is_ended_by_the_kernel_before_another_reads() -> Result<()> {
    let scene = Scene::start().await?;
    let trial = scene.trial();
    let mut ends = Vec::new();
    for _ in 0..TIMES {
        let victim = trial.victim().await?;
        let status = scene.status(victim.index).await?;
        ensure!(status.fences == ["lease", "dead-man"], "it says that {:?} stand", status.fences);
        let mut process = scene.process(victim.index).await;
        process.pause(true)?;
        let ended = process.ends(SOON).await?.with_context(|| format!("{} stands", victim.leader.name))?;
        let died_ns = monotonic_ns();
        ensure!(ended.signal() == Some(Signal::KILL.as_raw()) && process.ended_by_timer(), "{ended}");
        drop(process);
        let taken_over = trial.taken_over(&victim).await?;
        ensure!(!scene.resume(victim.index).await?, "a process that has ended goes on");
        let name = format!("pause {}", victim.leader.name);
        trial.recovered(name, Effect::Failover, &victim, Some(taken_over)).await?;
        let status = scene.status(victim.index).await?;
        let followed = status.leader.as_ref().is_some_and(|leader| leader.name != victim.leader.name);
        ensure!(followed, "it follows {:?}", status.leader);
        ends.push((victim.field, victim.began_ns, died_ns));
    }
    let ended = scene.end().await?;
    ensure!(ended.report.failovers.len() == TIMES, "{:#?}", ended.report);
    for (field, began_ns, died_ns) in ends {
        let reads = ended.story.reads.iter().map(|read| &read.details);
        let others = reads.filter(|read| read.peer.ip() != field && read.first_byte_ns >= began_ns);
        let first_ns = others.map(|read| read.first_byte_ns).min().context("another node reads")?;
        ensure!(
            died_ns < first_ns,
            "it was found dead {} us after another read",
            (died_ns - first_ns) / 1_000
        );
    }
    Ok(())
}
