//! What could break the promise of a lease is brought about under load, from outside, in an order by seed: a voter restarts,
//! a hand-over fails, the leader is removed, stands still or is cut off while devices are slow, and more.
//!
//! - Judged at the devices: no two nodes ask one of them at one time, which the account counts, and once another node has
//!   asked any of them, the one that led asks none, unless it leads again in a later term.
//! - Each scenario says itself whether it has bitten. How often each was played is a figure of the run.
//! - What replicas do in a simulated network is shown by the trials of `replication`.

mod scenarios;

use std::collections::HashMap;
use std::net::IpAddr;

use anyhow::{Context, Result};
use simulator::history::{Entry, monotonic_ns};
use simulator::modbus::ReadSeen;

use super::{Deck, LATE, World};
use crate::prove::liveness::{Bounds, Silence};
use crate::prove::run::{Assignment, RunReport};
use crate::story::Story;
use scenarios::Played;

/// Where the one voter is killed on which a lease rests, or is gone to whom leadership was handed, nobody can acknowledge
/// until it is back or its promise has lapsed: only what comes afterwards is promised.
pub const BOUNDS: Bounds = Bounds {
    silence: Silence::Unpromised("scenarios take the majority away for as long as a lease or a start takes"),
    ..Bounds::USUAL
};

const YIELDS: &str = "I9 who led asks no device any more once another has";

/// What is done to a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scenario {
    /// The leader's lease rests on one voter alone, which is killed and starts again at once, while the leader is cut off.
    VoterRestarts,
    /// Whom leadership is handed to stands still just then. It hears of that late, or dies.
    HandOverFails,
    /// The leader is removed from the cluster, and joins it again with an empty disk.
    LeaderIsRemoved,
    /// The leader stands still while slow devices are being asked.
    StandsStillWhileAsking,
    /// Voters have a shorter lease than the leader, and the leader is cut off.
    UnequalLeases,
    /// The leader is cut off while slow devices are being asked.
    CutOffWhileAsking,
    /// Nobody hears the leader, and it hears everybody.
    NobodyHearsIt,
}

/// Who led when a scenario began, and until when it was watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watched {
    scenario: Scenario,
    /// Where devices see it come from.
    node: IpAddr,
    /// The term in which it led.
    term: u64,
    began_ns: u64,
    ended_ns: u64,
}

/// The term in which each read was committed that arrived, by device and number.
type Terms = HashMap<(String, u64), u64>;

impl Scenario {
    const ALL: [Self; 7] = [
        Self::VoterRestarts,
        Self::HandOverFails,
        Self::LeaderIsRemoved,
        Self::StandsStillWhileAsking,
        Self::UnequalLeases,
        Self::CutOffWhileAsking,
        Self::NobodyHearsIt,
    ];

    /// The figure of how often it was played.
    fn figure(self) -> &'static str {
        match self {
            Self::VoterRestarts => "lease: the voter restarts on which it rests",
            Self::HandOverFails => "lease: a hand-over fails",
            Self::LeaderIsRemoved => "lease: the leader is removed",
            Self::StandsStillWhileAsking => "lease: the leader stands still while asking slow devices",
            Self::UnequalLeases => "lease: voters have a shorter one than the leader",
            Self::CutOffWhileAsking => "lease: the leader is cut off while asking slow devices",
            Self::NobodyHearsIt => "lease: nobody hears the leader",
        }
    }

    /// Whether devices answer late meanwhile.
    fn slows_devices(self) -> bool {
        matches!(self, Self::StandsStillWhileAsking | Self::CutOffWhileAsking)
    }
}

/// Plays so many scenarios: each once, before any comes again.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    let mut world = Box::pin(World::open("leases", assignment)).await?;
    world.report.figures.extend(Scenario::ALL.map(|scenario| (scenario.figure().to_owned(), 0.0)));
    let mut all = Vec::new();
    let mut scenarios = Deck::of(Scenario::ALL);
    for number in 1..=assignment.times {
        let scenario = scenarios.draw(&mut world.random);
        let watched = Box::pin(play(&mut world, scenario)).await.with_context(|| scenario.figure());
        if !world.is_over(number, watched.map(|watched| all.push(watched))) {
            break;
        }
    }
    let history = world.scene.field.history();
    let mut report = Box::pin(world.close()).await;
    judge(&mut report, &all, &Story::of_sources(&history)?.reads, &Story::terms(&history)?);
    Ok(report)
}

async fn play(world: &mut World, scenario: Scenario) -> Result<Watched> {
    world.moment().await;
    let began_ns = monotonic_ns();
    let played = Box::pin(scenarios::play(world, scenario)).await;
    // Whatever went wrong, the end of the run needs nodes that run, a whole network, and devices that answer.
    let mended = scenarios::mend(world).await;
    world.healed();
    let done_ns = monotonic_ns();
    {
        let mut account = world.scene.field.account.lock();
        account.disturbed(began_ns, done_ns);
        if scenario.slows_devices() {
            account.allow_within(&LATE, began_ns, done_ns);
        }
    }
    let Played { old, bit } = played?;
    mended?;
    world.whole().await?;
    world.report.injected(bit);
    world.count(scenario.figure());
    let (node, term, began_ns) = (old.field, old.leader.term, old.began_ns);
    Ok(Watched { scenario, node, term, began_ns, ended_ns: monotonic_ns() })
}

/// Enters what devices saw of those that led.
fn judge(report: &mut RunReport, all: &[Watched], reads: &[Entry<ReadSeen>], terms: &Terms) {
    // Where no scenario came to its end, that has failed.
    if all.is_empty() {
        return;
    }
    let late = all.iter().map(|watched| (watched, requests_behind_another(watched, reads, terms)));
    let wrong: Vec<String> = late
        .filter(|(_, late)| *late > 0)
        .map(|(watched, late)| format!("{late} requests; {}", watched.scenario.figure()))
        .collect();
    let text = if wrong.is_empty() { format!("{} scenarios", all.len()) } else { wrong.join("; ") };
    report.judge(YIELDS, wrong.is_empty(), text);
}

/// How many requests of who led came to any device behind the first one of another node, and before it led again.
fn requests_behind_another(watched: &Watched, reads: &[Entry<ReadSeen>], terms: &Terms) -> usize {
    let begins = |read: &&Entry<ReadSeen>| read.details.first_byte_ns;
    let meanwhile = |read: &&Entry<ReadSeen>| (watched.began_ns..watched.ended_ns).contains(&begins(read));
    let (own, others): (Vec<_>, Vec<_>) =
        reads.iter().filter(meanwhile).partition(|read| read.details.peer.ip() == watched.node);
    let Some(first_ns) = others.iter().map(begins).min() else { return 0 };
    let is_later = |read: &&&Entry<ReadSeen>| {
        let committed = terms.get(&(read.process.clone(), read.details.ordinal));
        committed.is_some_and(|term| *term > watched.term)
    };
    let again_ns = own.iter().filter(is_later).map(begins).min().unwrap_or(u64::MAX);
    own.iter().filter(|read| (first_ns..again_ns).contains(&begins(read))).count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::SocketAddr;

    use simulator::history::Kind;

    use super::*;
    use crate::prove::run::Verdict;

    const MS: u64 = 1_000_000;
    const OLD: u8 = 11;
    const NEW: u8 = 12;

    /// A request of a node, by its number.
    fn read(at: u64, node: u8, ordinal: u64) -> Entry<ReadSeen> {
        let details = ReadSeen {
            peer: SocketAddr::from(([10, 130, 0, node], 4711)),
            unit: 1,
            function: 3,
            start: 0,
            count: 24,
            ordinal,
            first_byte_ns: at * MS,
            last_byte_ns: at * MS + 1,
            exception: None,
            hash: 0,
        };
        let (process, op) = ("press-1".to_owned(), "read".to_owned());
        Entry { t_ns: at * MS + 1, process, kind: Kind::Info, op, details }
    }

    /// How the check ends for one that led in term 5 and is watched from 100 to 2 000 ms, where numbers in `later` were
    /// committed in term 7.
    fn verdict(reads: &[Entry<ReadSeen>], later: &[u64]) -> Verdict {
        let watched = Watched {
            scenario: Scenario::VoterRestarts,
            node: IpAddr::from([10, 130, 0, OLD]),
            term: 5,
            began_ns: 100 * MS,
            ended_ns: 2_000 * MS,
        };
        let terms: Terms = later.iter().map(|ordinal| (("press-1".to_owned(), *ordinal), 7)).collect();
        let mut report = RunReport::new("leases", 1);
        judge(&mut report, &[watched], reads, &terms);
        report.findings[0].verdict
    }

    #[test]
    fn who_led_may_ask_until_another_has_asked() {
        assert_eq!(verdict(&[read(150, OLD, 1), read(700, NEW, 2), read(800, NEW, 3)], &[]), Verdict::Passed);
        assert_eq!(verdict(&[read(700, NEW, 2), read(701, OLD, 3)], &[]), Verdict::Failed);
        assert_eq!(verdict(&[read(700, OLD, 2), read(701, OLD, 3)], &[]), Verdict::Passed, "nobody else has");
        assert_eq!(verdict(&[read(50, NEW, 1), read(150, OLD, 2)], &[]), Verdict::Passed, "it led only then");
        assert_eq!(verdict(&[read(700, NEW, 1), read(2_500, OLD, 2)], &[]), Verdict::Passed, "it is over");
    }

    #[test]
    fn who_leads_again_in_a_later_term_may_ask_again() {
        let again = [read(700, NEW, 2), read(1_500, OLD, 3), read(1_600, OLD, 4)];
        assert_eq!((verdict(&again, &[3, 4]), verdict(&again, &[4])), (Verdict::Passed, Verdict::Failed));
    }

    #[test]
    fn every_scenario_has_a_figure_of_its_own() {
        let figures: BTreeSet<&str> = Scenario::ALL.map(Scenario::figure).into_iter().collect();
        assert_eq!(figures.len(), Scenario::ALL.len());
    }
}
