//! What the nodes say to each other is delayed, lost, overtaken, doubled or squeezed: on one directed edge, on all edges of
//! a node, or on all.
//!
//! - While the leader and one follower hear each other well enough ([`is_good`]), pushes are acknowledged and leadership
//!   stays, whatever happens to the third. Otherwise the account alone judges.
//! - A fault has bitten if each thing that it should do was done to some packet on each of its edges.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use simulator::history::monotonic_ns;
use simulator::nodes::layout::NODES;
use tokio::time::sleep;

use super::held::{Held, Promise};
use super::{Deck, World, of_any_magnitude, time_of_any_magnitude};
use crate::machine::network::EDGES;
use crate::machine::wire::{Counts, Line};
use crate::prove::run::{Assignment, RunReport};
use crate::until;

/// Of the nodes' profile.
const LEASE: Duration = Duration::from_millis(500);
/// How long a fault stays at least, in milliseconds.
const TIME: (u64, u64) = (5_000, 10_000);
/// In milliseconds.
const DELAY: (u32, u32) = (5, 300);
/// Of a hundred packets.
const LOST: (f64, f64) = (1.0, 30.0);
/// The same. Fewer would hardly bite where little is said.
const OVERTAKEN: (f64, f64) = (10.0, 50.0);
const DOUBLED: (f64, f64) = (1.0, 30.0);
/// In bytes a second: 64 to 512 kbit/s. A cluster at work says more between any two nodes.
const RATE: (f64, f64) = (8_000.0, 64_000.0);
/// Of a hundred packets: so many may be lost where leadership stays.
const LITTLE: u8 = 5;

const PROMISE: Promise = Promise {
    acknowledged: "I10 acknowledged again within 5 s where the leader and one follower hear each other well",
    steady: "I10 leadership stays where the leader and one follower hear each other well",
    changes: 0,
};

/// What is done to packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Delayed,
    Lost,
    Overtaken,
    Doubled,
    Narrow,
    /// Two or three of these.
    Mixed,
}

/// Where it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Edge(usize, usize),
    Node(usize),
    Everywhere,
}

/// A fault, drawn beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    line: Line,
    place: Place,
    time: Duration,
}

/// Does so many things to the wires: each kind once, before any comes again.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    let mut world = World::open("wires", assignment).await?;
    world.hosts.lay_wire(assignment.seed)?;
    let (mut all, mut kinds) = (Vec::new(), Deck::of(Kind::ALL));
    for number in 1..=assignment.times {
        let kind = kinds.draw(&mut world.random);
        *world.report.figures.entry(format!("wires: {kind}")).or_default() += 1.0;
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
    let leader = world.scene.agreed().await?;
    world.moment().await;
    world.leaves_majority(plan.promises(leader));
    let set_ns = monotonic_ns();
    let counts = spoil(world, &plan).await;
    let healed_ns = monotonic_ns();
    let wire = world.hosts.wire.as_ref().context("it was laid")?;
    wire.mend();
    world.healed();
    world.scene.field.account.lock().disturbed(set_ns, monotonic_ns());
    let (has_bitten, counts) = counts?;
    world.report.injected(has_bitten);
    note(&mut world.report, &counts);
    world.whole().await?;
    let Plan { line, place, .. } = plan;
    let what = format!("{line:?} {place:?}, led by node {}", leader + 1);
    Ok(Held { what, set_ns, healed_ns, promises: plan.promises(leader) })
}

/// Does it for as long as it was drawn, and on until it has bitten. Whether it has, and what was done on its edges.
async fn spoil(world: &World, plan: &Plan) -> Result<(bool, Vec<Counts>)> {
    let wire = world.hosts.wire.as_ref().context("it was laid")?;
    let edges = plan.place.edges();
    let counts = || edges.iter().map(|(from, to)| wire.counts(*from, *to)).collect::<Vec<Counts>>();
    let before = counts();
    edges.iter().for_each(|(from, to)| wire.set(*from, *to, plan.line));
    // How long it stays is the fault itself.
    sleep(plan.time).await;
    let since =
        || -> Vec<Counts> { counts().iter().zip(&before).map(|(now, then)| now.since(then)).collect() };
    let bitten = until("the wire to do to packets what it was told", async || {
        let counts = since();
        if counts.iter().all(|counts| has_bitten(&plan.line, counts)) { Ok(()) } else { Err(counts) }
    });
    let bitten = bitten.await;
    if let Err(error) = &bitten {
        eprintln!("{plan:?} has not bitten: {error:#}");
    }
    Ok((bitten.is_ok(), since()))
}

/// Whether everything that a line does was done.
fn has_bitten(line: &Line, counts: &Counts) -> bool {
    let things = [
        (!line.delay.is_zero(), counts.delayed),
        (line.lost > 0, counts.lost),
        (line.overtaken > 0, counts.overtaken),
        (line.doubled > 0, counts.doubled),
        (line.rate.is_some(), counts.queued + counts.dropped),
    ];
    things.into_iter().all(|(is_told, done)| !is_told || done > 0)
}

/// Enters what was done to packets.
fn note(report: &mut RunReport, counts: &[Counts]) {
    for counts in counts {
        for (name, count) in [
            ("packets delayed", counts.delayed),
            ("packets lost", counts.lost),
            ("packets overtaken", counts.overtaken),
            ("packets doubled", counts.doubled),
            ("packets that queued", counts.queued),
            ("packets without room", counts.dropped),
        ] {
            *report.figures.entry(name.to_owned()).or_default() += count as f64;
        }
    }
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Delayed, Self::Lost, Self::Overtaken, Self::Doubled, Self::Narrow, Self::Mixed];
    const PURE: [Self; 5] = [Self::Delayed, Self::Lost, Self::Overtaken, Self::Doubled, Self::Narrow];

    /// Has a line do it, too.
    fn add(self, line: &mut Line, random: &mut SmallRng) {
        let mut percent = |(from, to)| of_any_magnitude(random, from, to).round() as u8;
        match self {
            Self::Delayed => {
                line.delay = time_of_any_magnitude(random, DELAY.0, DELAY.1);
                line.jitter = line.delay.mul_f64(random.random_range(0.0..=0.5));
            }
            Self::Lost => line.lost = percent(LOST),
            Self::Overtaken => line.overtaken = percent(OVERTAKEN),
            Self::Doubled => line.doubled = percent(DOUBLED),
            Self::Narrow => line.rate = Some(of_any_magnitude(random, RATE.0, RATE.1) as u64),
            Self::Mixed => {
                let mut kinds = Self::PURE;
                kinds.shuffle(random);
                let count = random.random_range(2..=3);
                kinds.into_iter().take(count).for_each(|kind| kind.add(line, random));
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Delayed => "delayed",
            Self::Lost => "lost",
            Self::Overtaken => "overtaken",
            Self::Doubled => "doubled",
            Self::Narrow => "narrow",
            Self::Mixed => "mixed",
        })
    }
}

impl Place {
    fn draw(random: &mut SmallRng) -> Self {
        match random.random_range(0..3) {
            0 => {
                let (from, to) = EDGES[random.random_range(0..EDGES.len())];
                Self::Edge(from, to)
            }
            1 => Self::Node(random.random_range(0..NODES)),
            _ => Self::Everywhere,
        }
    }

    /// The directed edges that it is made of.
    fn edges(self) -> Vec<(usize, usize)> {
        let is_part = |edge: &(usize, usize)| match self {
            Self::Edge(from, to) => *edge == (from, to),
            Self::Node(node) => [edge.0, edge.1].contains(&node),
            Self::Everywhere => true,
        };
        EDGES.into_iter().filter(is_part).collect()
    }
}

impl Plan {
    fn draw(kind: Kind, random: &mut SmallRng) -> Self {
        let mut line = Line::default();
        kind.add(&mut line, random);
        let place = Place::draw(random);
        Self { line, place, time: Duration::from_millis(random.random_range(TIME.0..=TIME.1)) }
    }

    /// Whether the leader and one follower hear each other well.
    fn promises(&self, leader: usize) -> bool {
        let edges = self.place.edges();
        let line = |from, to| if edges.contains(&(from, to)) { self.line } else { Line::default() };
        let mut followers = (0..NODES).filter(|node| *node != leader);
        followers.any(|node| is_good(&line(leader, node), &line(node, leader)))
    }
}

/// Whether two nodes hear each other well enough to promise something, over one line and back over another.
///
/// - Where nothing is lost, a connection stays if pings are answered within half a lease, and one is made within a lease if
///   three round trips fit into it. A round trip of a quarter of a lease leaves some time to a machine that does much else.
/// - Where a packet is lost, TCP says it again a fifth of a second later or more, and hardly anything may be late besides.
fn is_good(there: &Line, back: &Line) -> bool {
    let round_trip = there.longest() + back.longest();
    let most = if there.lost.max(back.lost) == 0 { LEASE / 4 } else { LEASE / 20 };
    let loses_little = there.lost.max(back.lost) <= LITTLE;
    there.rate.or(back.rate).is_none() && loses_little && round_trip <= most
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn drawn(kind: Kind) -> Vec<Plan> {
        let mut random = SmallRng::seed_from_u64(7);
        (0..200).map(|_| Plan::draw(kind, &mut random)).collect()
    }

    fn delay(millis: u64) -> Line {
        Line { delay: Duration::from_millis(millis), ..Line::default() }
    }

    #[test]
    fn each_kind_does_what_it_is_named_after_and_nothing_else() {
        for kind in Kind::PURE {
            for Plan { line, time, .. } in drawn(kind) {
                let only = match kind {
                    Kind::Delayed => Line { delay: line.delay, jitter: line.jitter, ..Line::default() },
                    Kind::Lost => Line { lost: line.lost, ..Line::default() },
                    Kind::Overtaken => Line { overtaken: line.overtaken, ..Line::default() },
                    Kind::Doubled => Line { doubled: line.doubled, ..Line::default() },
                    Kind::Narrow | Kind::Mixed => Line { rate: line.rate, ..Line::default() },
                };
                assert_eq!(line, only, "{kind}");
                assert!(line != Line::default(), "{kind}");
                assert!((5_000..=10_000).contains(&time.as_millis()), "{time:?}");
            }
        }
    }

    #[test]
    fn what_is_drawn_keeps_within_its_bounds_and_mixes_two_or_three() {
        for Plan { line, .. } in drawn(Kind::Mixed) {
            let delay = line.delay.as_millis();
            assert!(delay == 0 || (5..=300).contains(&delay), "{line:?}");
            assert!(line.jitter <= line.delay && line.lost <= 30 && line.doubled <= 30, "{line:?}");
            assert!(line.overtaken == 0 || (10..=50).contains(&line.overtaken), "{line:?}");
            assert!(line.rate.is_none_or(|rate| (8_000..=64_000).contains(&rate)), "{line:?}");
            let things =
                [delay > 0, line.lost > 0, line.overtaken > 0, line.doubled > 0, line.rate.is_some()];
            let count = things.into_iter().filter(|thing| *thing).count();
            assert!((2..=3).contains(&count), "{line:?}");
        }
    }

    #[test]
    fn every_edge_every_node_and_all_of_them_suffer_sooner_or_later() {
        let places: Vec<Vec<(usize, usize)>> =
            drawn(Kind::Lost).iter().map(|plan| plan.place.edges()).collect();
        for edge in EDGES {
            assert!(places.contains(&vec![edge]), "{edge:?}");
        }
        for node in 0..NODES {
            let mut of_node = places.iter().filter(|edges| edges.len() == 4);
            let all_touch =
                |edges: &Vec<(usize, usize)>| edges.iter().all(|(from, to)| [*from, *to].contains(&node));
            assert!(of_node.any(all_touch), "node {node}");
        }
        assert!(places.contains(&EDGES.to_vec()));
    }

    #[test]
    fn two_nodes_hear_each_other_well_within_a_quarter_of_a_lease_or_with_little_loss() {
        let whole = Line::default();
        let lost = |lost| Line { lost, ..Line::default() };
        for (there, back) in [(whole, whole), (delay(125), whole), (delay(62), delay(62)), (lost(5), lost(3))]
        {
            assert!(is_good(&there, &back), "{there:?} {back:?}");
        }
        let narrow = Line { rate: Some(64_000), ..Line::default() };
        for (there, back) in [
            (delay(126), whole),
            (delay(63), delay(63)),
            (lost(5), lost(6)),
            (Line { lost: 1, ..delay(30) }, whole),
            (whole, narrow),
        ] {
            assert!(!is_good(&there, &back), "{there:?} {back:?}");
        }
        assert!(is_good(&Line { doubled: 30, ..whole }, &Line { overtaken: 50, ..whole }));
    }

    #[test]
    fn what_happens_to_one_follower_breaks_no_promise() {
        let plan = |place| Plan { line: delay(300), place, time: Duration::ZERO };
        assert!(plan(Place::Node(1)).promises(0) && plan(Place::Node(1)).promises(2));
        assert!(!plan(Place::Node(1)).promises(1) && !plan(Place::Everywhere).promises(0));
        assert!((0..NODES).all(|leader| plan(Place::Edge(0, 1)).promises(leader)));
    }

    #[test]
    fn a_fault_has_bitten_when_all_of_it_was_done() {
        let line = Line { lost: 1, rate: Some(8_000), ..delay(5) };
        let done = Counts { delayed: 1, lost: 1, dropped: 1, ..Counts::default() };
        assert!(has_bitten(&line, &done) && has_bitten(&Line::default(), &Counts::default()));
        for missing in
            [Counts { delayed: 0, ..done }, Counts { lost: 0, ..done }, Counts { dropped: 0, ..done }]
        {
            assert!(!has_bitten(&line, &missing), "{missing:?}");
        }
        assert!(!has_bitten(&Line { overtaken: 10, ..line }, &done));
        assert!(!has_bitten(&Line { doubled: 10, ..line }, &done));
    }
}
