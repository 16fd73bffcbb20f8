//! How each scenario is brought about, and whether it has bitten. What it leaves is mended afterwards.

use std::fs;
use std::io;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::Rng as _;
use rand::rngs::SmallRng;
use simulator::history::monotonic_ns;
use simulator::modbus::Behaviour;
use simulator::nodes::layout::NODES;
use simulator::trial::{HEALING, Victim};
use tokio::time::{Instant, sleep};
use tonic::{Request, Status};
use wire::proto::v1 as pb;
use wire::times::duration_from_proto;

use super::super::{World, pauses};
use super::Scenario;
use crate::SOON;
use crate::cluster::code;
use crate::machine::network::{EDGES, Network, WHOLE};

/// The lease of the nodes' profile.
const LEASE: Duration = Duration::from_millis(500);
/// What a leader says at most that it may go on alone, if the shortest lease of all voters is that of `lan-fast`. With that of
/// the nodes' own profile it says more within a heartbeat.
const SHORT_LEASE: Duration = Duration::from_millis(300);
/// How often a leader is asked for that, and how long after the time before: about a heartbeat.
const LOOKS: u32 = 20;
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// From one look at whether a device is being asked to the next.
const TICK: Duration = Duration::from_millis(1);
/// A hand-over to one that has just fallen silent is refused now and then, and nothing is given up then.
const TRIES: u32 = 5;
/// A hand-over, and the election that follows where it fails.
const CALL: Duration = Duration::from_secs(30);
/// What a leader says that hands over.
const HANDS_OVER: &str = "handing leadership over";
/// What a node answers that belongs to no cluster yet.
const BELONGS_NOWHERE: &str = "HF-3109";

/// How a scenario ended.
#[derive(Debug)]
pub(super) struct Played {
    /// Who led when it began.
    pub(super) old: Victim,
    /// What was to happen has happened.
    pub(super) bit: bool,
}

/// Plays a scenario.
pub(super) async fn play(world: &mut World, scenario: Scenario) -> Result<Played> {
    match scenario {
        Scenario::VoterRestarts => Box::pin(voter_restarts(world)).await,
        Scenario::HandOverFails => Box::pin(hand_over_fails(world)).await,
        Scenario::LeaderIsRemoved => Box::pin(leader_is_removed(world)).await,
        Scenario::StandsStillWhileAsking => Box::pin(stands_still_while_asking(world)).await,
        Scenario::UnequalLeases => Box::pin(unequal_leases(world)).await,
        Scenario::CutOffWhileAsking => Box::pin(cut_off_while_asking(world)).await,
        Scenario::NobodyHearsIt => Box::pin(nobody_hears_it(world)).await,
    }
}

/// Makes whole what scenarios break: devices, the network, and nodes, each of which may have been stopped or killed.
pub(super) async fn mend(world: &World) -> Result<()> {
    slow_down(world, Duration::ZERO);
    world.hosts.network.set_graph(WHOLE)?;
    for node in 0..NODES {
        let (runs, is_paused) = {
            let process = world.scene.process(node).await;
            (process.is_running(), process.is_paused())
        };
        if is_paused {
            world.scene.resume(node).await?;
        } else if !runs {
            world.scene.run(node).await?;
        }
    }
    Ok(())
}

/// The voter that starts again has promised the old leader a lease, and may not help another before that is over.
async fn voter_restarts(world: &mut World) -> Result<Played> {
    let old = victim(world).await?;
    let (voter, third) = in_any_order(&mut world.random, world.scene.others(old.index));
    let longer = drawn(&mut world.random, 0..1_000);
    let network = &world.hosts.network;
    network.set_graph(without(|from, to| {
        (from, to) == (old.index, third) || (from, to) == (third, old.index)
    }))?;
    // Until the lease rests on one voter alone, and how much longer, is the fault itself.
    sleep(LEASE).await;
    let rests_ns = monotonic_ns();
    sleep(longer + LEASE).await;
    let reads_on = world.scene.field.account.lock().reads_since(rests_ns, |node| node == old.field) > 0;
    let alone = alone(old.index);
    network.set_graph(alone)?;
    let killed = world.scene.kill(voter).await?;
    world.scene.run(voter).await?;
    let before = network.try_missing(alone)?;
    world.scene.trial().taken_over(&old).await?;
    let bit = reads_on && killed.is_some() && has_dropped(network, alone, &before)?;
    Ok(Played { old, bit })
}

/// A leader that has begun to hand over leads no more in its term, whether anybody takes over or not.
async fn hand_over_fails(world: &mut World) -> Result<Played> {
    for _ in 0..TRIES {
        if let Some(played) = hand_over_to_one_that_stands(world).await? {
            return Ok(played);
        }
        mend(world).await?;
        world.whole().await?;
    }
    bail!("no hand-over was begun in {TRIES} tries")
}

/// `None` if it was refused, and the leader leads on.
async fn hand_over_to_one_that_stands(world: &mut World) -> Result<Option<Played>> {
    let old = victim(world).await?;
    let (target, _) = in_any_order(&mut world.random, world.scene.others(old.index));
    let (dies, late) = (world.random.random_bool(0.5), drawn(&mut world.random, 0..2_000));
    let name = world.scene.name(target);
    let begun = world.scene.log(old.index).await.matches(HANDS_OVER).count();
    world.scene.pause(target).await?;
    let question = pb::TransferLeadershipRequest { to: name.to_owned(), reason: "a scenario".to_owned() };
    let mut question = Request::new(question);
    question.set_timeout(CALL);
    let answer = world.scene.client(old.index).transfer_leadership(question).await;
    if world.scene.log(old.index).await.matches(HANDS_OVER).count() == begun {
        ensure!(answer.is_err(), "nothing was handed over, and the answer is {answer:?}");
        return Ok(None);
    }
    let another = "somebody else than who stands to lead in a later term";
    world
        .scene
        .until_seen(another, HEALING, |view| {
            view.leader().filter(|leader| leader.term > old.leader.term && leader.name != name)
        })
        .await?;
    let stood = world.scene.process(target).await.is_paused();
    // How late it hears of what was handed to it is the fault itself.
    sleep(late).await;
    if dies {
        world.scene.kill(target).await?;
    }
    Ok(Some(Played { old, bit: stood }))
}

/// A leader that is to go hands over first, and asks nothing any more.
async fn leader_is_removed(world: &mut World) -> Result<Played> {
    let old = victim(world).await?;
    let (name, reason) = (old.leader.name.clone(), "a scenario".to_owned());
    let question = pb::RemoveMemberRequest { name: name.clone(), reason: reason.clone(), force: true };
    let removed =
        world.scene.ask(question, async |admin, question| admin.remove_member(question).await).await;
    removed.context("the leader is removed")?;
    let members = world.scene.members().await?;
    let bit = members.iter().all(|member| member.name != name);
    world.scene.trial().taken_over(&old).await?;

    // So that there are three again: with an empty disk, under another number.
    world.scene.wipe(old.index).await?;
    world.scene.run(old.index).await?;
    let is_waiting = async || match world.scene.status(old.index).await {
        Err(refusal)
            if refusal.downcast_ref::<Status>().is_some_and(|status| code(status) == BELONGS_NOWHERE) =>
        {
            Ok(())
        }
        other => Err(other),
    };
    world.scene.until("the removed node to wait, with an empty disk", is_waiting).await?;
    let question = pb::AddMemberRequest {
        name: name.clone(),
        address: world.scene.node(old.index).peers.to_string(),
        reason: reason.clone(),
        replaces: String::new(),
    };
    let add = async || {
        world.scene.ask(question.clone(), async |admin, question| admin.add_member(question).await).await
    };
    world.scene.until("the removed node to be added", add).await?;
    let question = pb::PromoteMemberRequest { name, reason };
    let promote = async || {
        world.scene.ask(question.clone(), async |admin, question| admin.promote_member(question).await).await
    };
    world.scene.until("the removed node to be caught up, and to vote", promote).await?;
    Ok(Played { old, bit })
}

/// It stops between its look at the lease and an answer, and goes on when another may have led for long.
async fn stands_still_while_asking(world: &mut World) -> Result<Played> {
    let old = victim(world).await?;
    let time = drawn(&mut world.random, 200..5_000);
    slowly_asked(world).await?;
    world.scene.pause(old.index).await?;
    let bit = is_asked(world);
    // How long it stands still is the fault itself.
    sleep(time).await;
    if !world.scene.resume(old.index).await? {
        world.count(pauses::ENDED);
    }
    Ok(Played { old, bit })
}

/// Of all voters the one with the shortest lease is the first to help another: the leader may count on no longer one.
async fn unequal_leases(world: &mut World) -> Result<Played> {
    let leader = world.scene.agreed().await?;
    let mut others = world.scene.others(leader).to_vec();
    if world.random.random_bool(0.5) {
        others.truncate(1);
    }
    let mut files = Vec::new();
    for node in &others {
        let file = world.scene.node(*node).file.clone();
        let text = fs::read_to_string(&file)?;
        files.push((file, text));
    }
    for (file, text) in &files {
        ensure!(text.contains("\ndata-dir"), "{} has no data-dir", file.display());
        fs::write(file, text.replacen("\ndata-dir", "\nprofile = \"lan-fast\"\ndata-dir", 1))?;
    }
    let played = Box::pin(cut_off_with_short_leases(world, &others)).await;
    // Whatever went wrong, what comes next is for equal ones.
    for (file, text) in &files {
        fs::write(file, text)?;
    }
    mend(world).await?;
    restart(world, &others).await?;
    played
}

async fn cut_off_with_short_leases(world: &World, others: &[usize]) -> Result<Played> {
    restart(world, others).await?;
    let old = victim(world).await?;
    ensure!(!others.contains(&old.index), "{} leads, whose lease is short itself", old.leader.name);
    let counts_on_it = async || {
        let lease = lease_left(world, old.index).await?;
        ensure!(lease.is_some_and(|lease| lease <= SHORT_LEASE), "it says that {lease:?} are left");
        Ok(())
    };
    world.scene.until("the leader to count on the shortest lease", counts_on_it).await?;
    for _ in 0..LOOKS {
        sleep(LOOK_EVERY).await;
        let lease = lease_left(world, old.index).await?;
        ensure!(lease.is_none_or(|lease| lease <= SHORT_LEASE), "it says that {lease:?} are left");
    }
    let (network, alone) = (&world.hosts.network, alone(old.index));
    network.set_graph(alone)?;
    let before = network.try_missing(alone)?;
    world.scene.trial().taken_over(&old).await?;
    let bit = has_dropped(network, alone, &before)?;
    Ok(Played { old, bit })
}

/// For how long a node says that it may lead on, if it does.
async fn lease_left(world: &World, node: usize) -> Result<Option<Duration>> {
    let leader = world.scene.status(node).await?.leader;
    Ok(leader.and_then(|leader| leader.lease.as_ref().and_then(duration_from_proto)))
}

/// Kills nodes, one after the other, and starts each again.
async fn restart(world: &World, nodes: &[usize]) -> Result<()> {
    for node in nodes {
        world.scene.agreed().await?;
        world.scene.kill(*node).await?;
        world.scene.run(*node).await?;
    }
    world.scene.agreed().await.map(drop)
}

/// An answer is under way when it loses the others, and comes late or never.
async fn cut_off_while_asking(world: &mut World) -> Result<Played> {
    let old = victim(world).await?;
    let time = drawn(&mut world.random, 1_500..4_000);
    slowly_asked(world).await?;
    let (network, alone) = (&world.hosts.network, alone(old.index));
    let was_asked = is_asked(world);
    network.set_graph(alone)?;
    let before = network.try_missing(alone)?;
    // How long devices stay slow is the fault itself.
    sleep(time).await;
    slow_down(world, Duration::ZERO);
    world.scene.trial().taken_over(&old).await?;
    let bit = was_asked && has_dropped(network, alone, &before)?;
    Ok(Played { old, bit })
}

/// What it says is lost, and answers to what it said before still come.
async fn nobody_hears_it(world: &mut World) -> Result<Played> {
    let old = victim(world).await?;
    let (network, graph) = (&world.hosts.network, without(|from, _| from == old.index));
    network.set_graph(graph)?;
    let before = network.try_missing(graph)?;
    world.scene.trial().taken_over(&old).await?;
    let bit = has_dropped(network, graph, &before)?;
    Ok(Played { old, bit })
}

/// Who leads the whole cluster.
async fn victim(world: &World) -> Result<Victim> {
    Ok(world.scene.trial().victim().await?)
}

fn in_any_order(random: &mut SmallRng, [first, second]: [usize; 2]) -> (usize, usize) {
    if random.random_bool(0.5) { (first, second) } else { (second, first) }
}

fn drawn(random: &mut SmallRng, millis: Range<u64>) -> Duration {
    Duration::from_millis(random.random_range(millis))
}

/// Lets all devices answer slowly, from far inside the time that they have for it to far behind it, and waits until one is
/// being asked.
async fn slowly_asked(world: &mut World) -> Result<()> {
    let delay = drawn(&mut world.random, 50..2_000);
    slow_down(world, delay);
    let deadline = Instant::now() + SOON;
    while !is_asked(world) {
        ensure!(Instant::now() < deadline, "no device is asked");
        sleep(TICK).await;
    }
    Ok(())
}

/// Lets all devices answer after so long.
fn slow_down(world: &World, delay: Duration) {
    for device in &world.scene.field.devices {
        device.behave(Behaviour { delay, ..Behaviour::default() });
    }
}

/// Whether a device owes somebody an answer.
fn is_asked(world: &World) -> bool {
    world.scene.field.devices.iter().any(|device| device.open_requests() > 0)
}

/// The graph that has all edges but those.
fn without(is_cut: impl Fn(usize, usize) -> bool) -> u8 {
    let edges = EDGES.into_iter().enumerate();
    edges.filter(|(_, (from, to))| !is_cut(*from, *to)).fold(0, |graph, (bit, _)| graph | 1 << bit)
}

/// The graph in which a node hears nobody, and nobody hears it.
fn alone(node: usize) -> u8 {
    without(|from, to| from == node || to == node)
}

/// Whether something was dropped on each edge that a graph lacks, since `before`.
fn has_dropped(network: &Network, graph: u8, before: &[u64]) -> io::Result<bool> {
    let after = network.dropped(graph)?;
    Ok(before.iter().zip(&after).all(|(before, after)| before < after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_lacks_what_is_cut_and_nothing_else() {
        assert_eq!(without(|_, _| false), WHOLE);
        assert_eq!(without(|from, to| (from, to) == (0, 2) || (from, to) == (2, 0)), 0b10_1101);
        assert_eq!(alone(1), 0b01_0010);
        assert_eq!(without(|from, _| from == 0), 0b11_1100);
    }
}
