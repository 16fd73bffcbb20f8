//! Checkpoints, installs, floors, and the disk that comes back behind them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_store::engine::rocks::{RocksEngine, RocksOptions};
use holdfast_store::engine::sim::{Operation, SimDisk, SimEngine};
use holdfast_store::engine::{Engine, EngineError};
use holdfast_store::{Entry, Relief};
use model::Position;
use rand::{Rng, RngCore};
use runtime::random::generator;

use crate::support::{
    GRID, Opened, acknowledge, append, beginning, configure_with, done, entry, eventually, id, life, noise,
    open, open_sim, plant, polled, polls_up_to, rocks, truncate, until_promised,
};

/// The log of a cluster: polls up to entry 15, delivered up to 10, and so said in entries 16 and 17.
fn delivered_up_to_ten() -> Vec<Entry> {
    let mut log = polls_up_to(15);
    log.push(entry(1, 16, acknowledge(11)));
    log.push(entry(1, 17, truncate(11)));
    log
}

/// A snapshot at `at` of a log, from a node that has applied all of it.
fn snapshot(log: &[Entry], at: u64) -> Bytes {
    life(true, async {
        let opened = open_sim(&SimDisk::new(9)).await.unwrap();
        opened.commit(&log[..at as usize]).await;
        opened.store.keeper().write_checkpoint().await.unwrap();
        opened.commit(&log[at as usize..]).await;
        let snapshot = opened.store.keeper().newest_snapshot().unwrap().expect("the horizon has passed it");
        assert_eq!(snapshot.header.at, id(1, at));
        snapshot.bytes
    })
}

fn names(disk: &Arc<SimDisk>) -> Vec<String> {
    SimEngine::open(disk).expect("nobody else has it open").list_files().expect("the disk is well")
}

#[test]
fn a_snapshot_never_lies_above_the_horizon() {
    let disk = SimDisk::new(1);
    life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        let keeper = opened.store.keeper();
        opened.commit(&beginning()).await;
        let mut seen = 0;
        for round in 0..20_u64 {
            let first = 4 + round * 6;
            for index in first..first + 4 {
                opened.commit(&[entry(1, index, append(&[polled(GRID, index)]))]).await;
                keeper.write_checkpoint().await.unwrap();
                let horizon = keeper.read(|state| state.horizon);
                let at = keeper.newest_snapshot_position().map_or(Position::ZERO, |at| at.index);
                assert!(at <= horizon, "a snapshot at {at}, the horizon at {horizon}");
            }
            // Between asking where it would be and building it, the horizon moves on.
            let asked = keeper.newest_snapshot_position();
            let end = [entry(1, first + 4, acknowledge(first + 3)), entry(1, first + 5, truncate(first + 3))];
            opened.commit(&end).await;
            let built = keeper.newest_snapshot().unwrap().expect("there is one").header.at;
            assert!(Some(built) >= asked, "{built:?} was built where {asked:?} was asked for");
            assert_eq!(
                built.index,
                keeper.read(|state| state.horizon),
                "the newest that the horizon has passed"
            );
            if round % 3 == 0 {
                keeper.purge(built).unwrap();
                seen += 1;
            }
            let floor = opened.store.log().ends().floor.map_or(Position::ZERO, |floor| floor.index);
            let at = keeper.newest_snapshot().unwrap().expect("there is one").header.at.index;
            assert!(floor <= at, "the log begins behind {floor}, the snapshot is at {at}");
        }
        assert!(seen > 3);
        opened.stop().await;
    });
}

/// The builder runs in a task of its own, beside apply, the janitor and the checkpoints being thinned out.
#[test]
fn a_snapshot_built_beside_apply_and_purge_lies_between_floor_and_horizon() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_time().build().unwrap();
    runtime.block_on(async {
        let opened = open_sim(&SimDisk::new(1)).await.unwrap();
        opened.commit(&beginning()).await;
        opened.store.keeper().write_checkpoint().await.unwrap();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let store = opened.store.clone();
        #[allow(clippy::disallowed_methods, reason = "it is waited for below")]
        let builder = tokio::task::spawn_blocking(move || {
            let mut built = 0_u64;
            while !*stopped.borrow() {
                let floor = store.log().ends().floor.map_or(Position::ZERO, |floor| floor.index);
                let snapshot = store.keeper().newest_snapshot().expect("it can be read");
                let limit = store.keeper().read(|state| state.horizon);
                if let Some(snapshot) = snapshot {
                    let at = snapshot.header.at.index;
                    let floor_after = store.log().ends().floor.map_or(Position::ZERO, |floor| floor.index);
                    assert!(floor <= at && at <= limit.max(floor_after), "{floor} <= {at} <= {limit}");
                    built += 1;
                }
            }
            built
        });
        for round in 0..150_u64 {
            let first = 4 + round * 4;
            for index in [first, first + 1] {
                opened.commit(&[entry(1, index, append(&[polled(GRID, index)]))]).await;
                opened.store.keeper().write_checkpoint().await.unwrap();
            }
            let end = [entry(1, first + 2, acknowledge(first + 1)), entry(1, first + 3, truncate(first + 1))];
            opened.commit(&end).await;
            if let Some(at) = opened.store.keeper().newest_snapshot_position() {
                opened.store.keeper().purge(at).unwrap();
            }
        }
        stop.send_replace(true);
        let built = builder.await.expect("the builder found nothing wrong");
        assert!(built > 10, "{built} snapshots were built");
        opened.stop().await;
    });
}

#[test]
fn a_refused_batch_is_never_delivered() {
    let disk = SimDisk::new(1);
    let mut log = beginning();
    log.push(entry(1, 4, append(&[polled(GRID, 0), polled(GRID, 0), polled(GRID, 1)])));
    log.push(entry(1, 5, append(&[polled(GRID, 1)])));
    let check = |opened: &Opened<SimEngine>| {
        let (buffered, _) = opened.store.read_buffer(Position(4), usize::MAX).unwrap();
        let refused: Vec<_> = buffered.iter().map(|entry| entry.effects.refused.clone()).collect();
        assert_eq!(refused, [vec![1], vec![0]], "readers are told which batches are none");
    };
    life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        opened.commit(&log).await;
        check(&opened);
        until_promised(&opened).await;
        opened.stop().await;
    });
    // Whatever the crash takes of the ledger is applied again, and says the same.
    for seed in 0..20 {
        life(true, async {
            let opened = open_sim(&disk).await.unwrap();
            let applied = opened.store.keeper().read(|state| state.applied_position().0);
            opened.apply(&log[applied as usize..]);
            check(&opened);
            disk.crash(&mut generator(Some(seed)));
        });
    }
}

/// The node that comes back has led in a lower term, and its log is longer than the snapshot.
#[test]
fn an_interrupted_install_leaves_the_old_state_or_the_new_one() {
    let log = delivered_up_to_ten();
    let bytes = snapshot(&log, 10);
    let (mut old, mut new) = (0, 0);
    for seed in 0..150 {
        let mut random = generator(Some(seed));
        let disk = SimDisk::new(seed);
        disk.set_latency(Duration::ZERO, Duration::from_millis(8));
        let before = life(true, async {
            let opened = open_sim(&disk).await.unwrap();
            opened.commit(&log[..5]).await;
            // A term below the snapshot's is written as that of a cluster that went on without it.
            let tail: Vec<_> =
                (6..=20).map(|index| entry(0, index, append(&[polled(GRID, index)]))).collect();
            opened.write(&tail).await;
            until_promised(&opened).await;
            let (_, digest) = opened.store.keeper().digest();
            let patience = Duration::from_millis(random.random_range(0..40));
            let installed =
                tokio::time::timeout(patience, opened.store.keeper().install(bytes.clone())).await;
            if let Ok(installed) = installed {
                installed.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            }
            disk.crash(&mut random);
            digest
        });
        life(true, async {
            let opened = open_sim(&disk).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let ends = opened.store.log().ends();
            let applied = opened.store.keeper().read(|state| state.applied);
            if ends.floor.is_none() {
                // The ledger may lag behind its log after any crash.
                assert!(applied.is_none() || applied == Some(id(1, 5)), "seed {seed}: {applied:?}");
                opened.apply(&log[applied.map_or(0, |id| id.index.0 as usize)..5]);
                assert_eq!(ends.last, Some(id(0, 20)), "seed {seed}");
                assert_eq!(opened.store.keeper().digest().1, before, "seed {seed}");
                old += 1;
            } else {
                assert_eq!(
                    (ends.floor, ends.last, applied),
                    (Some(id(1, 10)), Some(id(1, 10)), Some(id(1, 10)))
                );
                let snapshot =
                    opened.store.keeper().newest_snapshot().unwrap().expect("it is this node's, too");
                assert_eq!(snapshot.bytes, bytes, "seed {seed}");
                let (_, digest) = opened.store.keeper().digest();
                assert_eq!(digest.to_string(), snapshot.header.digest, "seed {seed}");
                new += 1;
            }
        });
    }
    assert!(old > 10 && new > 10, "{old} old states, {new} new ones");
}

#[test]
fn a_damaged_incoming_snapshot_is_never_installed() {
    let log = delivered_up_to_ten();
    let bytes = snapshot(&log, 10);
    life(true, async {
        let opened = open_sim(&SimDisk::new(1)).await.unwrap();
        opened.commit(&log[..5]).await;
        let keeper = opened.store.keeper();
        let before = (opened.store.log().ends(), keeper.digest());
        for place in (0..bytes.len()).step_by(7) {
            let mut damaged = bytes.to_vec();
            damaged[place] ^= 1 << (place % 8);
            let installed = keeper.install(damaged.into()).await;
            assert!(matches!(installed, Err(EngineError::Damaged(_))), "byte {place}: {installed:?}");
        }
        for length in [0, 7, 31, bytes.len() - 1] {
            let installed = keeper.install(bytes.slice(..length)).await;
            assert!(matches!(installed, Err(EngineError::Damaged(_))), "{length} bytes: {installed:?}");
        }
        assert_eq!((opened.store.log().ends(), keeper.digest()), before);
        assert_eq!(keeper.newest_snapshot_position(), None);
        keeper.install(bytes).await.expect("the whole one is taken");
        opened.stop().await;
    });
}

#[test]
fn equal_logs_give_equal_digests() {
    let log = delivered_up_to_ten();
    let bytes = snapshot(&log, 10);
    // However often rows are written, the process ends, and whether a snapshot was installed on the way.
    let apply_all = |seed: u64, installed: bool| {
        let mut random = generator(Some(seed));
        let disk = SimDisk::new(seed);
        if installed {
            life(true, async {
                let opened = open_sim(&disk).await.unwrap();
                opened.store.keeper().install(bytes.clone()).await.unwrap();
                opened.stop().await;
            });
        }
        loop {
            let digest = life(true, async {
                let opened = open_sim(&disk).await.unwrap();
                let keeper = opened.store.keeper();
                loop {
                    let last = opened.store.log().ends().last.map_or(0, |last| last.index.0);
                    let applied = keeper.read(|state| state.applied_position().0);
                    if applied == 17 {
                        return Some(keeper.digest());
                    }
                    match random.random_range(0..5) {
                        0 if last < 17 => opened.write(&log[last as usize..=last as usize]).await,
                        1 | 2 if applied < last => opened.apply(&log[applied as usize..=applied as usize]),
                        3 => keeper.flush(),
                        4 if random.random_bool(0.2) => return None,
                        _ => {}
                    }
                }
            });
            if let Some(digest) = digest {
                return digest;
            }
        }
    };
    let expected = apply_all(0, false);
    for seed in 1..40 {
        assert_eq!(apply_all(seed, seed % 3 == 0), expected, "seed {seed}");
    }
}

#[test]
fn at_most_sixty_four_checkpoints_are_kept_while_a_destination_stands_still() {
    let disk = SimDisk::new(1);
    let log = polls_up_to(300);
    life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        for entry in &log {
            opened.commit(std::slice::from_ref(entry)).await;
            opened.store.keeper().write_checkpoint().await.unwrap();
        }
        opened.stop().await;
    });
    let kept = names(&disk);
    let at = |name: &String| name.split('-').nth(1).and_then(|at| at.parse::<u64>().ok());
    let positions: Vec<u64> =
        kept.iter().filter(|name| name.starts_with("checkpoint-")).filter_map(at).collect();
    assert_eq!(positions.len(), 64);
    assert_eq!(positions.last(), Some(&300), "the newest is there");
    assert!(positions.windows(2).all(|pair| pair[1] - pair[0] <= 20), "evenly spread: {positions:?}");
    // When it goes on, there is one close to where it stands.
    life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        opened.commit(&[entry(1, 301, acknowledge(150)), entry(1, 302, truncate(150))]).await;
        let at = opened.store.keeper().newest_snapshot_position().expect("there is one").index.0;
        assert!((129..150).contains(&at), "a snapshot at {at}");
        opened.stop().await;
    });
}

#[test]
fn checkpoints_share_documents_and_leave_none_behind() {
    let mut bundle = vec![0; 300_000];
    generator(Some(1)).fill_bytes(&mut bundle);
    let disk = SimDisk::new(1);
    life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        let mut log = beginning();
        log[2] = entry(1, 3, configure_with(9_000, 0, plant(&["historian"]), bundle));
        opened.commit(&log).await;
        opened.flush().await;
        let empty = opened.store.disk_usage().unwrap();
        for index in 4..=13 {
            opened.commit(&[entry(1, index, append(&[polled(GRID, index - 4)]))]).await;
            opened.store.keeper().write_checkpoint().await.unwrap();
        }
        let used = opened.store.disk_usage().unwrap() - empty;
        assert!(used < 500_000, "{used} bytes for ten checkpoints with one document of 300,000");
        opened.stop().await;
    });
    // A crash while one is written leaves at most files that nobody names, and they go.
    for seed in 0..30 {
        let mut random = generator(Some(seed));
        disk.set_latency(Duration::ZERO, Duration::from_millis(5));
        life(true, async {
            let opened = open_sim(&disk).await.unwrap();
            let last = opened.store.log().ends().last.expect("it has entries").index.0;
            let base = opened.store.keeper().read(|state| state.revision().0);
            let change = configure_with(10_000, base, plant(&["historian"]), vec![seed as u8; 10_000]);
            opened.apply_missing().await;
            opened.commit(&[entry(1, last + 1, change)]).await;
            let patience = Duration::from_millis(random.random_range(0..30));
            let _ = tokio::time::timeout(patience, opened.store.keeper().write_checkpoint()).await;
            disk.crash(&mut random);
        });
    }
    life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        opened.apply_missing().await;
        let last = opened.store.log().ends().last.expect("it has entries").index.0;
        let end = [entry(1, last + 1, acknowledge(last + 1)), entry(1, last + 2, truncate(last + 1))];
        opened.commit(&end).await;
        opened.store.keeper().write_checkpoint().await.unwrap();
        let at = opened.store.keeper().newest_snapshot().unwrap().expect("all is delivered");
        assert_eq!(at.header.at.index.0, last + 2, "nothing is undelivered");
        opened.store.keeper().purge(at.header.at).unwrap();
        eventually("one checkpoint is left", || {
            let names = opened.engine.list_files().expect("the disk is well");
            names.iter().filter(|name| name.starts_with("checkpoint-")).count() == 1
        })
        .await;
        opened.stop().await;
    });
    let left = names(&disk);
    let checkpoints = left.iter().filter(|name| name.starts_with("checkpoint-")).count();
    assert_eq!(checkpoints, 1, "{left:?}");
    let engine = SimEngine::open(&disk).unwrap();
    let read = |name: &String| engine.read_file(name).unwrap().expect("it is listed").len();
    let bytes: usize = left.iter().map(read).sum();
    assert!(bytes < 800_000, "{bytes} bytes, of which 600,000 are documents of the history");
}

#[test]
fn a_checkpoint_is_listed_only_with_all_its_pages_and_what_is_left_of_one_goes() {
    // Two files: the page with the document, and the checkpoint that names it.
    for failing in 1..=2 {
        let disk = SimDisk::new(1);
        life(true, async {
            let opened = open_sim(&disk).await.unwrap();
            let mut log = beginning();
            log[2] = entry(1, 3, configure_with(9_000, 0, plant(&["historian"]), vec![7; 10_000]));
            opened.commit(&log).await;
            opened.flush().await;
            disk.fail(Operation::WriteFile, failing);
            opened.store.keeper().write_checkpoint().await.expect_err("the disk said no");
        });
        let left = names(&disk);
        assert_eq!(left.len() as u64, failing - 1, "what came before it was written: {left:?}");
        assert!(left.iter().all(|name| name.starts_with("page-")), "{left:?}");
        life(true, async {
            let opened = open_sim(&disk).await.unwrap();
            let is_gone = || opened.engine.list_files().expect("the disk is well").is_empty();
            eventually("it is gone after the next opening", is_gone).await;
            opened.stop().await;
        });
    }
}

#[test]
fn the_disk_comes_back_after_a_purge() {
    const ENTRY: usize = 256 << 10;
    let folder = tempfile::tempdir().unwrap();
    life(false, async {
        let opened = open(rocks(folder.path()), 1 << 20).await.unwrap();
        opened.commit(&beginning()).await;
        for index in 4..=64 {
            opened.commit(&[entry(1, index, noise(1, index - 3, ENTRY))]).await;
        }
        let full = opened.store.disk_usage().unwrap();
        assert!(full > 60 * ENTRY as u64, "15 MiB were written, {full} bytes are used");
        // Delivered up to 44; the rest is kept.
        opened.store.keeper().write_checkpoint().await.unwrap();
        assert_eq!(opened.store.keeper().newest_snapshot_position(), None, "nothing is delivered yet");
        opened.commit(&[entry(1, 65, acknowledge(65)), entry(1, 66, truncate(65))]).await;
        let at = opened.store.keeper().newest_snapshot_position().expect("the horizon has passed it");
        assert_eq!(at, id(1, 64));
        let (kept, outcome) = done();
        opened.store.log().append([entry(1, 67, noise(1, 62, ENTRY))], kept);
        outcome.await.unwrap().unwrap();
        opened.store.keeper().purge(at).unwrap();
        // One round of the janitor; RocksDB deletes the files in its own time.
        let store = opened.store.clone();
        eventually("less than 2 MiB are used", || store.disk_usage().unwrap() < 2 << 20).await;
        let left = opened.store.log().read(0, 100, usize::MAX).unwrap();
        assert_eq!(left.iter().map(|entry| entry.id.index.0).collect::<Vec<_>>(), [65, 66, 67]);
        opened.stop().await;
    });
    life(false, async {
        let opened = open(rocks(folder.path()), 1 << 20).await.unwrap();
        let left = opened.store.log().read(0, 100, usize::MAX).unwrap();
        assert_eq!(left.len(), 3, "what is behind the floor is there after reopening");
        opened.stop().await;
    });
}

/// A small backlog, all of it in one memtable, and then delivered: 10 MiB up to entry 43.
async fn backlog(opened: &Opened<RocksEngine>) {
    const ENTRY: usize = 256 << 10;
    opened.commit(&beginning()).await;
    for index in 4..=43 {
        opened.commit(&[entry(1, index, noise(1, index - 3, ENTRY))]).await;
    }
    let keeper = opened.store.keeper();
    assert_eq!(keeper.cut_for_room().unwrap(), Relief::Undelivered);
    opened.commit(&[entry(1, 44, acknowledge(44)), entry(1, 45, truncate(44))]).await;
    assert_eq!(keeper.newest_snapshot_position(), None, "the schedule has cut no checkpoint");
}

/// Does as the replica does on a disk without room, until the backlog is gone. Behind each checkpoint comes a little more at
/// once, so that it shares a file with what goes. Returns how many checkpoints it took.
async fn make_room(opened: &Opened<RocksEngine>) -> u64 {
    let (store, keeper) = (&opened.store, opened.store.keeper());
    let (mut last, mut purged) = (45, None);
    eventually("less than 2 MiB are used", || {
        // Only once its task has begun does the store know what lies on its disk.
        let relief = keeper.cut_for_room().expect("the log can be read");
        assert_ne!(relief, Relief::Undelivered);
        let newest = keeper.newest_snapshot_position();
        if let Some(at) = newest.filter(|at| purged < Some(*at)) {
            last += 1;
            let more = [entry(1, last, acknowledge(44))];
            store.log().append(more.clone(), Box::new(|_| ()));
            opened.apply(&more);
            keeper.purge(at).expect("a checkpoint covers it");
            purged = newest;
        }
        store.disk_usage().expect("it can be read") < 2 << 20
    })
    .await;
    last - 45
}

#[test]
fn a_disk_without_room_gets_back_what_was_delivered_before_the_schedule_would_give_it() {
    let folder = tempfile::tempdir().unwrap();
    life(false, async {
        let engine = RocksEngine::open(folder.path(), &RocksOptions::default()).unwrap();
        let opened = open(engine, 1 << 20).await.unwrap();
        backlog(&opened).await;
        assert_eq!(make_room(&opened).await, 2, "and one more for the file that the first had to leave");
        // There is nothing to gain any more, so nothing more is written, however often that is asked.
        let keeper = opened.store.keeper();
        let newest = keeper.newest_snapshot_position();
        opened.commit(&[entry(1, 48, acknowledge(44))]).await;
        assert_eq!(keeper.cut_for_room().unwrap(), Relief::Spent);
        opened.flush().await;
        assert_eq!(keeper.newest_snapshot_position(), newest);
        opened.stop().await;
    });
}

#[test]
fn a_disk_without_room_gets_back_what_was_delivered_before_the_node_was_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let rocks = || RocksEngine::open(folder.path(), &RocksOptions::default()).unwrap();
    life(false, async {
        let opened = open(rocks(), 1 << 20).await.unwrap();
        backlog(&opened).await;
        opened.stop().await;
    });
    life(false, async {
        let opened = open(rocks(), 1 << 20).await.unwrap();
        opened.apply_missing().await;
        let cut = make_room(&opened).await;
        assert!(cut >= 1, "nothing was applied since the opening, and it goes");
        opened.stop().await;
    });
}
