//! Random operations, crashes and reopenings, against a model.
//!
//! The model knows that everything durable goes through one queue: after a crash the log, vote and floor must be
//! those after some operation, at or behind the last one that was acknowledged. It never knows which one the disk
//! kept, and goes on from what it finds.
//!
//! - [`cluster`]: what the cluster committed, its ledger at each position, and snapshots of it.
//! - [`node`]: one node's operations, and what may be found after each.
//!
//! A run that fails prints its seed and its operations. `STORE_MODEL_SEED=n` repeats one, `STORE_MODEL_RUNS=n` changes how
//! many there are.

mod cluster;
mod node;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_store::OpenError;
use holdfast_store::engine::rocks::RocksEngine;
use holdfast_store::engine::sim::{Operation, SimDisk, SimEngine};
use holdfast_store::engine::{Engine, EngineError};
use rand::Rng;
use runtime::random::{Random, generator};

use super::support::{Raw, done, life, open, open_sim, raw, rocks, until_promised};
use cluster::Cluster;
use node::Node;

/// Somewhere a store can be opened again and again.
trait Place {
    type Engine: Engine;
    /// Time is simulated, and power can be cut.
    const SIMULATED: bool;

    fn open(&self) -> Self::Engine;
    fn cut_power(&self, random: &mut Random);
    fn make_trouble(&self, random: &mut Random);
}

impl Place for Arc<SimDisk> {
    type Engine = SimEngine;
    const SIMULATED: bool = true;

    fn open(&self) -> SimEngine {
        SimEngine::open(self).expect("nobody else has it open")
    }

    fn cut_power(&self, random: &mut Random) {
        self.crash(random);
    }

    fn make_trouble(&self, random: &mut Random) {
        let most = random.random_range(0..20);
        self.set_latency(std::time::Duration::ZERO, std::time::Duration::from_millis(most));
        if random.random_bool(0.3) {
            let operations = [
                Operation::Commit,
                Operation::Sync,
                Operation::WriteFile,
                Operation::WriteSlot,
                Operation::RemoveFile,
                Operation::DropBelow,
            ];
            self.fail(operations[random.random_range(0..operations.len())], random.random_range(1..15));
        }
    }
}

impl Place for PathBuf {
    type Engine = RocksEngine;
    const SIMULATED: bool = false;

    fn open(&self) -> RocksEngine {
        rocks(self)
    }

    fn cut_power(&self, _random: &mut Random) {}

    fn make_trouble(&self, _random: &mut Random) {}
}

/// How one opening ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    PowerCut,
    Killed,
    Stopped,
}

/// What a run did, told when a check fails.
struct Story {
    seed: u64,
    operations: Arc<Mutex<Vec<String>>>,
}

impl Story {
    fn of(seed: u64) -> Self {
        Self { seed, operations: Arc::default() }
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
            eprintln!("{}\nrepeat this run with STORE_MODEL_SEED={}", operations.join("\n"), self.seed);
        }
    }
}

fn seeds(runs: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match number("STORE_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("STORE_MODEL_RUNS").unwrap_or(runs),
    }
}

/// What happened in a run, so that a test can tell that something did.
#[derive(Debug, Default)]
struct Tally {
    openings: u64,
    crashes_that_lost: u64,
    failures: u64,
    installs: u64,
    interrupted_installs: u64,
    purges: u64,
    truncations: u64,
}

fn run(place: &impl Place, seed: u64, openings: u64, tally: &mut Tally) {
    let story = Story::of(seed);
    let mut random = generator(Some(seed));
    let mut cluster = Cluster::default();
    let mut node = Node::new(&story.operations);
    for _ in 0..openings {
        let tail_bytes = [0, 400, 1 << 20][random.random_range(0..3)];
        life(simulated(place), async {
            let mut opening = open(place.open(), tail_bytes).await;
            // Trouble that did not come in the life before comes now: the process ends, and is started again.
            for _ in 0..10 {
                if !matches!(&opening, Err(OpenError::Engine(EngineError::Failed { .. }))) {
                    break;
                }
                tally.failures += 1;
                opening = open(place.open(), tail_bytes).await;
            }
            let opened = opening.unwrap_or_else(|error| panic!("no promise was broken, and yet: {error}"));
            if node.compare_after_opening(&opened.store, &cluster) {
                tally.crashes_that_lost += 1;
            }
            place.make_trouble(&mut random);
            let mut is_alive = true;
            for _ in 0..random.random_range(1..40) {
                is_alive = node.step(&opened, &mut cluster, &mut random, tally).await;
                if !is_alive {
                    tally.failures += 1;
                    break;
                }
            }
            let ends = [End::PowerCut, End::PowerCut, End::Killed, End::Stopped];
            let mut end = ends[random.random_range(0..ends.len())];
            if !is_alive && end == End::Stopped {
                end = End::Killed;
            }
            node.tell(format!("{end:?}"));
            match end {
                End::PowerCut => place.cut_power(&mut random),
                End::Killed => {}
                End::Stopped => {
                    opened.store.keeper().flush();
                    let (done, outcome) = done();
                    opened.store.log().append([], done);
                    let is_durable = outcome.await.expect("the callback is called").is_ok();
                    opened.stop().await;
                    if is_durable && !node.has_failed() {
                        node.all_is_durable();
                    }
                }
            }
        });
        tally.openings += 1;
        node.end_of_life();
    }
}

fn simulated<P: Place>(_place: &P) -> bool {
    P::SIMULATED
}

#[test]
fn after_any_crash_the_store_is_what_it_was_after_an_operation_at_or_behind_the_last_acknowledged_one() {
    let mut tally = Tally::default();
    let runs = seeds(150);
    let count = runs.end - runs.start;
    for seed in runs {
        run(&SimDisk::new(seed), seed, 10, &mut tally);
    }
    eprintln!("{tally:?}");
    if count >= 100 {
        let Tally {
            openings,
            crashes_that_lost,
            failures,
            installs,
            interrupted_installs,
            purges,
            truncations,
        } = tally;
        assert!(openings >= count, "{openings} openings");
        assert!(crashes_that_lost > count / 10, "{crashes_that_lost} crashes took something");
        assert!(failures > count / 10, "{failures} failing disks");
        assert!(installs > count / 10 && interrupted_installs > 0, "{installs}, {interrupted_installs}");
        assert!(purges > count / 10, "{purges} purges");
        assert!(truncations > count / 10, "{truncations} truncations");
    }
}

#[test]
fn on_rocksdb_a_killed_process_loses_nothing_acknowledged() {
    let mut tally = Tally::default();
    for seed in seeds(6) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        run(&folder.path().to_owned(), seed, 5, &mut tally);
    }
    eprintln!("{tally:?}");
}

/// Whether a disk that forgot is refused.
enum Expected {
    Refused,
    Opened,
    /// It forgot where its log begins, or that it was shortened: harmless, or noticed.
    Either,
}

impl Expected {
    fn after_forgetting(before: &Raw, after: &Raw) -> Self {
        if after.vote != before.vote
            || before.log.iter().any(|(index, term)| after.log.get(index) != Some(term))
        {
            Self::Refused
        } else if after == before {
            Self::Opened
        } else {
            Self::Either
        }
    }
}

#[test]
fn a_disk_that_forgets_is_refused_if_what_it_forgot_was_acknowledged_and_only_then() {
    let (mut refused, mut opened_again) = (0, 0);
    let runs = seeds(200);
    let count = runs.end - runs.start;
    for seed in runs {
        let story = Story::of(seed);
        let mut random = generator(Some(seed));
        let disk = SimDisk::new(seed);
        let mut cluster = Cluster::default();
        let mut node = Node::new(&story.operations);
        let mut tally = Tally::default();
        for _ in 0..random.random_range(1..4) {
            life(true, async {
                let opened =
                    open_sim(&disk).await.unwrap_or_else(|error| panic!("nothing was forgotten: {error}"));
                node.compare_after_opening(&opened.store, &cluster);
                let mut is_alive = true;
                for _ in 0..random.random_range(5..40) {
                    is_alive = is_alive && node.step(&opened, &mut cluster, &mut random, &mut tally).await;
                }
                until_promised(&opened).await;
                opened.stop().await;
                if is_alive {
                    node.all_is_durable();
                }
            });
            node.end_of_life();
        }
        let before = raw(&disk);
        disk.forget_last(random.random_range(1..12));
        let expected = Expected::after_forgetting(&before, &raw(&disk));
        let found = life(true, async { open_sim(&disk).await.map(drop) });
        match (expected, found) {
            (Expected::Refused, Err(OpenError::Amnesic { .. })) => refused += 1,
            (Expected::Opened, Ok(())) => opened_again += 1,
            (Expected::Either, Ok(()) | Err(OpenError::Amnesic { .. })) => {}
            (Expected::Refused, other) => panic!("it lost what it had acknowledged, and: {other:?}"),
            (_, other) => panic!("nothing that was acknowledged is lost, and yet: {other:?}"),
        }
    }
    if count >= 100 {
        assert!(refused > count / 5, "{refused} of {count} were refused");
        assert!(opened_again > count / 20, "{opened_again} of {count} were opened");
    }
}
