//! What lies between the nodes goes down and comes up again, in a rhythm that is drawn: an edge, both ways or one, a node,
//! a ring, a bridge. Connections are reset; and a host's link goes without a word and comes back.
//!
//! - Where two nodes hear each other all the time, pushes are acknowledged within five seconds, and leadership changes
//!   hands twice at most. Where the edges that are ever down leave no such two, the account alone judges.
//! - Edges that flap have bitten if a packet was dropped or refused on each; a link, if its host could be reached from
//!   here before, and could not while it was down.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::join;
use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use simulator::history::monotonic_ns;
use simulator::nodes::layout::NODES;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::held::{Held, Promise};
use super::{Deck, World, time_of_any_magnitude};
use crate::machine::network::{EDGES, Network, WHOLE, is_live};
use crate::prove::run::{Assignment, RunReport};

/// How long edges are down or up, in milliseconds.
const BEATS: (u32, u32) = (50, 2_000);
/// How long a link is down, in milliseconds: short enough for connections to live on, and long enough for none to.
const LINK: (u32, u32) = (500, 10_000);
/// How long edges flap, in milliseconds.
const TIME: (u64, u64) = (5_000, 10_000);
/// Who is there answers much sooner. Shorter than the shortest time that a link is down.
const ANSWER: Duration = Duration::from_millis(400);

const PROMISE: Promise = Promise {
    acknowledged: "I10 acknowledged again within 5 s where two nodes hear each other all the time",
    steady: "I10 two changes of leader at most where two nodes hear each other all the time",
    changes: 2,
};

/// What flaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    OneWay,
    BothWays,
    Node,
    /// Each hears only the next.
    Ring,
    /// Two hear only the third: other two each time.
    Bridge,
    Link,
    Resets,
}

/// How it is brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// Packets on the edges that are down are dropped.
    Dropped,
    /// They are refused, with a reset.
    Refused,
    /// The host's link is taken down: this process does not reach it either.
    Unplugged(usize),
}

/// What is done, drawn beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    how: How,
    beats: Vec<Beat>,
}

/// Once down and up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Beat {
    /// The edges that are up all the time.
    graph: u8,
    down: Duration,
    up: Duration,
}

/// Lets so many things flap: each kind once, before any comes again.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    let mut world = World::open("flapping", assignment).await?;
    let (mut all, mut kinds) = (Vec::new(), Deck::of(Kind::ALL));
    for number in 1..=assignment.times {
        let kind = kinds.draw(&mut world.random);
        *world.report.figures.entry(format!("flapping: {kind}")).or_default() += 1.0;
        let held = Box::pin(hold(&mut world, kind)).await;
        let held = held.with_context(|| kind.to_string()).map(|held| all.push(held));
        if !world.is_over(number, held) {
            break;
        }
    }
    let (mut report, devices, story) = world.close_with_story().await?;
    PROMISE.judge(&mut report, &all, &devices, &story);
    Ok(report)
}

async fn hold(world: &mut World, kind: Kind) -> Result<Held> {
    let plan = Plan::draw(kind, &mut world.random);
    world.moment().await;
    world.leaves_majority(is_live(plan.common()));
    let set_ns = monotonic_ns();
    let has_bitten = play(world, &plan).await;
    let healed_ns = monotonic_ns();
    // Whatever went wrong, the end of the run needs a whole network.
    let mended = plan.how.set(&world.hosts.network, WHOLE);
    world.healed();
    world.scene.field.account.lock().disturbed(set_ns, monotonic_ns());
    world.report.injected(has_bitten?);
    mended?;
    world.whole().await?;
    let what = format!("{kind} (edges {:06b} up all the time, {} times)", plan.common(), plan.beats.len());
    Ok(Held { what, set_ns, healed_ns, promises: is_live(plan.common()) })
}

/// Plays the rhythm to its end. Whether it has bitten.
async fn play(world: &World, plan: &Plan) -> Result<bool> {
    let network = &world.hosts.network;
    let before = network.dropped(plan.common())?;
    let was_heard = plan.is_heard(world).await;
    let (mut is_heard, mut tried) = (false, BTreeSet::new());
    for beat in &plan.beats {
        plan.how.set(network, beat.graph)?;
        if plan.how == How::Dropped && tried.insert(beat.graph) {
            // Nodes that have given up on each other may say nothing for a while.
            network.try_missing(beat.graph)?;
        }
        // How long edges are down and up is the fault itself.
        let ((), heard) = join(sleep(beat.down), plan.is_heard(world)).await;
        is_heard |= heard;
        plan.how.set(network, WHOLE)?;
        sleep(beat.up).await;
    }
    let after = network.dropped(plan.common())?;
    Ok(match plan.how {
        How::Unplugged(_) => was_heard && !is_heard,
        How::Dropped | How::Refused => before.iter().zip(&after).all(|(before, after)| before < after),
    })
}

impl Kind {
    const ALL: [Self; 7] =
        [Self::OneWay, Self::BothWays, Self::Node, Self::Ring, Self::Bridge, Self::Link, Self::Resets];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneWay => "an edge one way",
            Self::BothWays => "an edge both ways",
            Self::Node => "a node",
            Self::Ring => "a ring",
            Self::Bridge => "a bridge",
            Self::Link => "a link",
            Self::Resets => "resets",
        })
    }
}

impl How {
    /// Makes exactly these edges whole.
    fn set(self, network: &Network, graph: u8) -> io::Result<()> {
        match self {
            Self::Dropped => network.set_graph(graph),
            Self::Refused => network.set_graph_of_resets(graph),
            Self::Unplugged(host) if graph == WHOLE => network.link_up(host),
            Self::Unplugged(host) => network.link_down(host),
        }
    }
}

impl Plan {
    fn draw(kind: Kind, random: &mut SmallRng) -> Self {
        let [first, second, third] = three(random);
        let how = match kind {
            Kind::Link => How::Unplugged(first),
            Kind::Resets => How::Refused,
            _ => How::Dropped,
        };
        let graph = match kind {
            Kind::OneWay => without(&[(first, second)]),
            Kind::BothWays | Kind::Bridge => apart(first, second),
            Kind::Node | Kind::Link => without(&edges_of(first)),
            Kind::Ring => without(&ring([third, second, first])),
            Kind::Resets => resets([first, second, third], random),
        };
        let mut beats = Vec::new();
        if kind == Kind::Link {
            let down = time_of_any_magnitude(random, LINK.0, LINK.1);
            return Self { how, beats: vec![Beat { graph, down, up: Duration::ZERO }] };
        }
        let whole = Duration::from_millis(random.random_range(TIME.0..=TIME.1));
        let mut time = Duration::ZERO;
        while time < whole {
            let [other, another, _] = three(random);
            let graph = if kind == Kind::Bridge { apart(other, another) } else { graph };
            let [down, up] = [(); 2].map(|()| time_of_any_magnitude(random, BEATS.0, BEATS.1));
            time += down + up;
            beats.push(Beat { graph, down, up });
        }
        Self { how, beats }
    }

    /// The edges that are up all the time.
    fn common(&self) -> u8 {
        self.beats.iter().fold(WHOLE, |common, beat| common & beat.graph)
    }

    /// Whether the host whose link is taken down is reached from here; `false` where none is.
    async fn is_heard(&self, world: &World) -> bool {
        match self.how {
            How::Unplugged(host) => answers(world.scene.node(host).health).await,
            How::Dropped | How::Refused => false,
        }
    }
}

/// Whether a connection is made in time.
async fn answers(address: SocketAddr) -> bool {
    matches!(timeout(ANSWER, TcpStream::connect(address)).await, Ok(Ok(_)))
}

/// The nodes in any order.
fn three(random: &mut SmallRng) -> [usize; NODES] {
    let mut nodes = [0, 1, 2];
    nodes.shuffle(random);
    nodes
}

/// The whole graph without these edges.
fn without(edges: &[(usize, usize)]) -> u8 {
    let is_missing = |(_, edge): &(usize, (usize, usize))| edges.contains(edge);
    EDGES.into_iter().enumerate().filter(is_missing).fold(WHOLE, |graph, (bit, _)| graph & !(1 << bit))
}

/// The graph in which two nodes do not hear each other.
fn apart(one: usize, other: usize) -> u8 {
    without(&[(one, other), (other, one)])
}

/// From each to the next, and from the last to the first.
fn ring([first, second, third]: [usize; NODES]) -> [(usize, usize); NODES] {
    [(first, second), (second, third), (third, first)]
}

fn edges_of(node: usize) -> Vec<(usize, usize)> {
    EDGES.into_iter().filter(|(from, to)| [*from, *to].contains(&node)).collect()
}

/// Edges that reset, of each two nodes in one direction at most: a reset goes back over the other one. The end that hears
/// it has no connection any more, and the other end has one.
fn resets(nodes: [usize; NODES], random: &mut SmallRng) -> u8 {
    let [first, second, third] = nodes;
    match random.random_range(0..4) {
        0 => without(&[(first, second)]),
        1 => without(&[(first, second), (first, third)]),
        2 => without(&[(second, first), (third, first)]),
        _ => without(&ring(nodes)),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn drawn(kind: Kind) -> Vec<Plan> {
        let mut random = SmallRng::seed_from_u64(7);
        (0..200).map(|_| Plan::draw(kind, &mut random)).collect()
    }

    #[test]
    fn graphs_lack_the_edges_that_are_named() {
        assert_eq!(without(&[]), WHOLE);
        assert_eq!(without(&[(0, 1), (2, 1)]), 0b01_1110);
        assert_eq!(apart(0, 1), 0b11_1010);
        assert_eq!(without(&edges_of(2)), 0b00_0101);
        assert_eq!(without(&ring([2, 1, 0])), 0b01_1001);
    }

    #[test]
    fn edges_flap_for_five_to_ten_seconds_in_beats_of_at_most_two() {
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Link) {
            for Plan { beats, .. } in drawn(kind) {
                let time: Duration = beats.iter().map(|beat| beat.down + beat.up).sum();
                assert!((5..14).contains(&time.as_secs()), "{kind}: {time:?}");
                let times = beats.iter().flat_map(|beat| [beat.down, beat.up]);
                let mut times = times.map(|time| time.as_millis());
                assert!(times.all(|millis| (50..=2_000).contains(&millis)), "{kind}: {beats:?}");
            }
        }
    }

    #[test]
    fn every_kind_leaves_two_who_hear_each_other_or_none() {
        for (kind, expected) in [
            (Kind::OneWay, vec![true]),
            (Kind::BothWays, vec![true]),
            (Kind::Node, vec![true]),
            (Kind::Ring, vec![false]),
            // Where the third of the three bridges never comes, its two ends always hear each other.
            (Kind::Bridge, vec![false, true]),
            (Kind::Link, vec![true]),
            (Kind::Resets, vec![false, true]),
        ] {
            let live: BTreeSet<bool> = drawn(kind).iter().map(|plan| is_live(plan.common())).collect();
            assert_eq!(live, BTreeSet::from_iter(expected), "{kind}");
        }
        for plan in drawn(Kind::Bridge) {
            assert!(plan.beats.iter().all(|beat| is_live(beat.graph)), "{plan:?}");
        }
    }

    #[test]
    fn every_node_and_every_edge_suffers_sooner_or_later() {
        let graphs = |kind| drawn(kind).iter().map(Plan::common).collect::<BTreeSet<u8>>().len();
        let counts = [Kind::OneWay, Kind::BothWays, Kind::Node, Kind::Ring, Kind::Link].map(graphs);
        assert_eq!(counts, [6, 3, 3, 2, 3]);
        // Six edges, three nodes outwards, three inwards, two rings.
        assert_eq!(graphs(Kind::Resets), 14);
    }

    #[test]
    fn no_two_nodes_reset_each_other() {
        for plan in drawn(Kind::Resets) {
            for (from, to) in EDGES {
                let lacks = |edge| plan.common() & !without(&[edge]) == 0;
                assert!(!(lacks((from, to)) && lacks((to, from))), "{plan:?}");
            }
        }
    }
}
