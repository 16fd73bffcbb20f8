//! The six directed edges between three nodes form each of the 64 graphs, in an order by seed, under load.
//!
//! - Where two nodes hear each other (37 graphs), pushes are acknowledged and every device is read again within five
//!   seconds, and leadership changes hands twice at most.
//! - Where no two do (27), nothing is acknowledged once calls that were under way have ended, and nothing is read once the
//!   lease has.
//! - Judged from what devices and pushers saw, which are beside the nodes and never cut off.
//! - A graph has bitten if a packet was dropped on each edge that it lacks. The whole graph lacks none: it is the control.

use std::time::Duration;

use anyhow::{Context as _, Result};
use simulator::history::monotonic_ns;
use tokio::time::sleep;

use super::held::Seen;
use super::{Deck, World};
use crate::machine::network::{GRAPHS, WHOLE, is_live};
use crate::prove::run::{Assignment, RunReport};
use crate::story::Story;

/// How long a graph stays, where two nodes must find each other and where none can.
const HOLD_LIVE: Duration = Duration::from_secs(5);
const HOLD_DEAD: Duration = Duration::from_secs(4);
/// Changes of leader while two nodes hear each other.
const CHANGES: usize = 2;

const LIVE: &str = "I10 acknowledged and read again within 5 s wherever two nodes hear each other";
const STEADY: &str = "I10 two changes of leader at most wherever two nodes hear each other";
const SILENT: &str = "I15 nothing is acknowledged where no two nodes hear each other";
const STILL: &str = "I9 nothing is read after the lease where no two nodes hear each other";

/// A graph that the nodes were under, in monotonic nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    graph: u8,
    /// When all of it was in force.
    set_ns: u64,
    /// When it began to be healed.
    healed_ns: u64,
}

/// Puts the nodes under so many graphs: each of the 64 once, before any comes again.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    let mut world = World::open("graphs", assignment).await?;
    let mut all = Vec::new();
    let mut graphs = Deck::of(0..GRAPHS);
    for number in 1..=assignment.times {
        let graph = graphs.draw(&mut world.random);
        let held = hold(&mut world, graph).await;
        let held = held.with_context(|| format!("graph {graph:06b}")).map(|held| all.push(held));
        if !world.is_over(number, held) {
            break;
        }
    }
    let (mut report, devices, story) = world.close_with_story().await?;
    judge(&mut report, &all, &devices, &story);
    Ok(report)
}

async fn hold(world: &mut World, graph: u8) -> Result<Held> {
    world.moment().await;
    world.leaves_majority(is_live(graph));
    let began_ns = monotonic_ns();
    let held = set(world, graph).await;
    // Whatever went wrong, the end of the run needs a whole network.
    let mended = world.hosts.network.set_graph(WHOLE);
    world.healed();
    world.scene.field.account.lock().disturbed(began_ns, monotonic_ns());
    let held = held?;
    mended?;
    world.whole().await?;
    Ok(held)
}

async fn set(world: &mut World, graph: u8) -> Result<Held> {
    let network = &world.hosts.network;
    network.set_graph(graph)?;
    let set_ns = monotonic_ns();
    let before = network.try_missing(graph)?;
    // How long it stays is the fault itself.
    sleep(if is_live(graph) { HOLD_LIVE } else { HOLD_DEAD }).await;
    let after = network.dropped(graph)?;
    world.report.injected(before.iter().zip(&after).all(|(before, after)| before < after));
    Ok(Held { graph, set_ns, healed_ns: monotonic_ns() })
}

type IsWrong = fn(&Seen) -> bool;

/// Enters what devices and pushers saw under each graph.
fn judge(report: &mut RunReport, all: &[Held], devices: &[String], story: &Story) {
    let seen = |held: &Held| Seen::of(held.set_ns, held.healed_ns, devices, story);
    let (live, dead): (Vec<&Held>, Vec<&Held>) = all.iter().partition(|held| is_live(held.graph));
    let says = |wrong: Vec<String>, of: usize| {
        (wrong.is_empty(), if wrong.is_empty() { format!("{of} graphs") } else { wrong.join("; ") })
    };
    let wrong = |held: &[&Held], is_wrong: IsWrong| {
        let seen = held.iter().map(|held| (held.graph, seen(held)));
        let wrong = seen.filter(|(_, seen)| is_wrong(seen));
        wrong.map(|(graph, seen)| format!("{graph:06b}: {seen:?}")).collect::<Vec<String>>()
    };
    let checks: [(&str, &[&Held], IsWrong); 4] = [
        (LIVE, &live, |seen| seen.is_silent() || seen.fewest_reads == 0),
        (STEADY, &live, |seen| seen.changes > CHANGES),
        (SILENT, &dead, |seen| seen.acknowledged > 0),
        (STILL, &dead, |seen| seen.reads > 0),
    ];
    for (check, held, is_wrong) in checks {
        // Nothing is said of what the order by seed left out.
        if !held.is_empty() {
            let (holds, text) = says(wrong(held, is_wrong), held.len());
            report.judge(check, holds, text);
        }
    }
    report.figures.insert("live graphs".to_owned(), live.len() as f64);
    report.figures.insert("dead graphs".to_owned(), dead.len() as f64);
}

#[cfg(test)]
mod tests {
    use simulator::history::Entry;
    use simulator::modbus::ReadSeen;
    use simulator::pusher::PushNote;

    use super::super::held::tests::{self, SECOND, push, read};
    use super::*;

    const RING: u8 = 0b01_1001;
    const PAIR: u8 = 0b00_0101;

    /// Checks that fail, for one graph that stays from the tenth second to the fifteenth.
    fn failed(graph: u8, reads: Vec<Entry<ReadSeen>>, pushes: Vec<Entry<PushNote>>) -> Vec<String> {
        let held = Held { graph, set_ns: 10 * SECOND, healed_ns: 15 * SECOND };
        let story = Story { reads, pushes, records: Vec::new() };
        let mut report = RunReport::new("graphs", 1);
        judge(&mut report, &[held], &["press-1".to_owned(), "press-2".to_owned()], &story);
        tests::failed(report)
    }

    #[test]
    fn a_live_graph_must_acknowledge_read_every_device_and_keep_its_leader() {
        let (second, fourth) = (12 * SECOND, 14 * SECOND);
        let both = |node| vec![read(second, "press-1", node), read(fourth, "press-2", node)];
        assert_eq!(failed(PAIR, both(11), vec![push(fourth)]), Vec::<String>::new());
        assert_eq!(failed(PAIR, both(11), vec![push(9 * SECOND), push(16 * SECOND)]), [LIVE]);
        assert_eq!(failed(PAIR, vec![read(second, "press-1", 11)], vec![push(fourth)]), [LIVE]);
        let mut changing = both(11);
        changing.extend([12, 11, 12].map(|node| read(fourth, "press-1", node)));
        assert_eq!(failed(PAIR, changing, vec![push(fourth)]), [STEADY]);
    }

    #[test]
    fn a_dead_graph_acknowledges_nothing_and_reads_nothing_once_what_was_under_way_has_ended() {
        let under_way = 10 * SECOND + SECOND / 2;
        assert!(failed(RING, vec![read(under_way, "press-1", 11)], vec![push(under_way)]).is_empty());
        assert_eq!(failed(RING, Vec::new(), vec![push(13 * SECOND)]), [SILENT]);
        assert_eq!(failed(RING, vec![read(11 * SECOND, "press-1", 11)], Vec::new()), [STILL]);
    }
}
