//! Nodes on hosts of their own, at work: what can be done to hosts is done to real clusters. Takes root.

use anyhow::{Context, Result, ensure};
use holdfast_tests::machine::able;
use holdfast_tests::machine::hosts::Hosts;
use holdfast_tests::machine::network::WHOLE;
use holdfast_tests::said::program;
use holdfast_tests::scene::Scene;
use simulator::account::Effect;
use simulator::history::monotonic_ns;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_all_hosts_lose_power_at_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Some(hosts) = able(Hosts::make(folder.path(), &program()?)) else { return Ok(()) };
    let scene = Scene::on(&hosts).await?;
    let began_ns = monotonic_ns();
    {
        // Who watches them must not see one end by itself, as it does when its disk fails.
        let mut processes = Vec::new();
        for node in 0..3 {
            processes.push(scene.process(node).await);
        }
        for node in 0..3 {
            hosts.cut_power(node)?;
        }
        for process in &mut processes {
            process.kill().await?;
        }
    }
    for node in 0..3 {
        hosts.restore_power(node).await.with_context(|| format!("the disk of {}", scene.name(node)))?;
        scene.run(node).await?;
    }
    scene.agreed().await?;
    scene.field.account.lock().disturbed(began_ns, monotonic_ns());
    scene.goes_on().await?;
    scene.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hears_nobody_is_followed_by_another() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Some(hosts) = able(Hosts::make(folder.path(), &program()?)) else { return Ok(()) };
    let scene = Scene::on(&hosts).await?;
    let trial = scene.trial();
    // What it says arrives, and no answer comes back; then the whole cable is pulled.
    for cuts_both_ways in [false, true] {
        let victim = trial.victim().await?;
        for other in scene.others(victim.index) {
            hosts.network.block(other, victim.index)?;
            if cuts_both_ways {
                hosts.network.block(victim.index, other)?;
            }
        }
        let taken_over = trial.taken_over(&victim).await?;
        let deaf = scene.others(victim.index)[0];
        ensure!(hosts.network.blocked_packets(deaf, victim.index)? > 0, "nothing was dropped");
        hosts.network.set_graph(WHOLE)?;
        let name = format!("cut the host of {} off", victim.leader.name);
        trial.recovered(name, Effect::Failover, &victim, Some(taken_over)).await?;
    }
    let ended = scene.end().await?;
    ensure!(ended.report.failovers.len() == 2, "{:#?}", ended.report);
    Ok(())
}
