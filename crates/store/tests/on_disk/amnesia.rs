//! A directory that lost what it had promised is refused, and no other one is.

use std::sync::Arc;
use std::time::Duration;

use holdfast_store::engine::sim::SimDisk;
use holdfast_store::engine::{Engine, EngineError, Family, SLOT_BYTES, Write, index_key};
use holdfast_store::ledger::Body;
use holdfast_store::{OpenError, Store, StoreOptions, Vote};
use model::{NodeId, StoreId, Term};
use rand::Rng;
use runtime::Supervisor;
use runtime::random::generator;

use crate::support::{
    GRID, acknowledge, amnesia, append, beginning, entry, id, life, open, open_sim, polled, polls_up_to, raw,
    rocks, tamper, truncate, until_promised,
};

fn vote(term: u64, node: u64, committed: bool) -> Vote {
    Vote { term: Term(term), node: NodeId(node), committed }
}

/// A log of 20 entries, each its own commit, stopped in good order.
fn disk_with_a_log() -> Arc<SimDisk> {
    with_a_log(SimDisk::new(1))
}

fn with_a_log(disk: Arc<SimDisk>) -> Arc<SimDisk> {
    life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        for entry in polls_up_to(20) {
            opened.commit(&[entry]).await;
        }
        until_promised(&opened).await;
        opened.stop().await;
    });
    disk
}

/// As [`disk_with_a_log`], purged up to entry 10.
fn disk_with_a_floor() -> Arc<SimDisk> {
    let disk = SimDisk::new(1);
    life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        let log = polls_up_to(20);
        opened.commit(&log[..10]).await;
        opened.store.keeper().write_checkpoint().await.unwrap();
        opened.commit(&log[10..]).await;
        opened.commit(&[entry(1, 21, acknowledge(11)), entry(1, 22, truncate(11))]).await;
        opened.store.keeper().purge(id(1, 10)).unwrap();
        until_promised(&opened).await;
        opened.stop().await;
    });
    disk
}

#[test]
fn a_shortened_log_is_refused_before_openraft_sees_it() {
    let disk = disk_with_a_log();
    while raw(&disk).last == 20 {
        assert_eq!(disk.forget_last(1), 1, "there is something left to forget");
    }
    assert!(amnesia(&disk).contains("acknowledged entry 20"), "{}", amnesia(&disk));
}

#[test]
fn another_log_of_the_promised_length_is_refused() {
    let (disk, other) = (disk_with_a_log(), SimDisk::new(2));
    life(true, async {
        let opened = open_sim(&other).await.unwrap();
        opened.commit(&polls_up_to(19)).await;
        opened.commit(&[entry(1, 20, Body::Blank)]).await;
        opened.stop().await;
    });
    life(true, open_sim(&other)).expect("it is whole");
    let promised = holdfast_store::engine::sim::SimEngine::open(&disk).unwrap().read_slots("floor").unwrap();
    let engine = holdfast_store::engine::sim::SimEngine::open(&other).unwrap();
    for (number, slot) in promised.expect("it was written").into_iter().enumerate() {
        life(true, engine.write_slot("floor", number, slot)).unwrap();
    }
    drop(engine);
    assert!(amnesia(&other).contains("entry 20 is not the one it acknowledged"), "{}", amnesia(&other));
}

#[test]
fn a_log_whose_floor_file_is_missing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    life(false, async {
        let opened = open(rocks(folder.path()), 1 << 20).await.unwrap();
        opened.commit(&polls_up_to(20)).await;
        opened.stop().await;
    });
    std::fs::remove_file(folder.path().join("slots/floor")).unwrap();
    let opened = life(false, open(rocks(folder.path()), 1 << 20));
    assert!(
        matches!(&opened, Err(OpenError::Amnesic { reason }) if reason.contains("floor file is missing")),
        "{opened:?}"
    );
}

#[test]
fn a_forgotten_vote_is_amnesia() {
    for (last, later) in [
        (vote(5, 2, false), "node 2 in term 5"),
        (vote(5, 1, true), "node 1 in term 5"),
        (vote(5, 3, true), "node 3 in term 5"),
    ] {
        let disk = SimDisk::new(1);
        life(true, async {
            let opened = open_sim(&disk).await.unwrap();
            opened.commit(&beginning()).await;
            opened.store.log().save_vote(vote(3, 1, true)).await.unwrap();
            opened.store.log().save_vote(vote(5, 1, false)).await.unwrap();
            if last.committed {
                opened.store.log().save_vote(last).await.unwrap();
            } else {
                // Never answered by the same node in the same term, but what a mended disk may hold.
                opened.store.log().save_vote(vote(5, 2, false)).await.unwrap();
            }
            opened.stop().await;
        });
        let before = raw(&disk).vote;
        while raw(&disk).vote == before {
            assert_eq!(disk.forget_last(1), 1, "there is something left to forget");
        }
        assert!(amnesia(&disk).contains(later), "{}", amnesia(&disk));
    }
}

#[test]
fn a_vote_for_the_leader_whom_others_elected_is_not_amnesia() {
    let mut between = 0;
    for seed in 0..60 {
        let mut random = generator(Some(seed));
        let disk = SimDisk::new(seed);
        disk.set_latency(Duration::ZERO, Duration::from_millis(10));
        life(true, async {
            let opened = open_sim(&disk).await.unwrap();
            opened.store.log().save_vote(vote(5, 1, false)).await.unwrap();
            let patience = Duration::from_millis(random.random_range(0..25));
            let saved = tokio::time::timeout(patience, opened.store.log().save_vote(vote(5, 2, true))).await;
            between += u64::from(saved.is_err());
            disk.crash(&mut random);
        });
        life(true, async {
            let opened = open_sim(&disk).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let vote = opened.store.log().vote().expect("it was answered");
            assert_eq!(vote.term, Term(5), "seed {seed}");
        });
    }
    assert!(between > 10, "{between} crashes came before the answer");
}

#[test]
fn a_truncation_then_a_crash_is_not_amnesia() {
    let mut shortened = 0;
    for seed in 0..200 {
        let mut random = generator(Some(seed));
        let disk = SimDisk::new(seed);
        disk.set_latency(Duration::ZERO, Duration::from_millis(8));
        life(true, async {
            let opened = open_sim(&disk).await.unwrap();
            opened.commit(&beginning()).await;
            let own: Vec<_> = (4..=20).map(|index| entry(1, index, append(&[polled(GRID, index)]))).collect();
            opened.write(&own).await;
            until_promised(&opened).await;
            let log = opened.store.log();
            log.truncate_after(Some(id(1, 7))).unwrap();
            if random.random_bool(0.5) {
                log.append([entry(2, 8, Body::Blank)], Box::new(drop));
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(0..40))).await;
            disk.crash(&mut random);
        });
        life(true, async {
            let opened = open_sim(&disk).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let last = opened.store.log().ends().last.expect("it has entries");
            assert!([id(1, 20), id(1, 7), id(2, 8)].contains(&last), "seed {seed}: ends at {last:?}");
            shortened += u64::from(last != id(1, 20));
        });
    }
    assert!((20..180).contains(&shortened), "{shortened} of 200 truncations had happened");
}

#[test]
fn a_wiped_directory_is_a_stranger() {
    let disk = disk_with_a_log();
    let known = life(true, async { open_sim(&disk).await.unwrap().store.identity().store });
    // All is gone: a new directory, with an id of its own.
    let wiped = SimDisk::new(2);
    let (found, pristine) = life(true, async {
        let (_supervisor, spawner) = Supervisor::new();
        let engine = holdfast_store::engine::sim::SimEngine::open(&wiped).unwrap();
        let options = StoreOptions { tail_bytes: 1 << 20, birth: StoreId::from(8) };
        let store = Store::open(Arc::new(engine), options, &spawner).await.unwrap();
        (store.identity().store, store.is_pristine())
    });
    assert_ne!(found, known);
    assert!(pristine);
    // Only the database is gone: the floor file remembers.
    disk.forget_last(usize::MAX);
    assert_eq!(raw(&disk).last, 0, "everything was forgotten");
    assert!(amnesia(&disk).contains("acknowledged entry 20"), "{}", amnesia(&disk));
    tamper(&disk, vec![Write::Delete(Family::Raft, b"identity".to_vec())]);
    let engine = holdfast_store::engine::sim::SimEngine::open(&disk).unwrap();
    let reopened = life(true, async {
        let (_supervisor, spawner) = Supervisor::new();
        let options = StoreOptions { tail_bytes: 1 << 20, birth: StoreId::from(9) };
        Store::open(Arc::new(engine), options, &spawner).await.err()
    });
    assert!(
        matches!(&reopened, Some(OpenError::Amnesic { reason }) if reason.contains("belongs to store")),
        "{reopened:?}"
    );
}

#[test]
fn a_hole_at_either_end_of_the_log_is_found() {
    let without = |index: u64| Write::Delete(Family::Entries, index_key(index).to_vec());
    for (disk, gone, named) in [
        (disk_with_a_log(), 1, "entry 2, the first of the log"),
        (disk_with_a_log(), 19, "entry 20 does not follow"),
        (disk_with_a_floor(), 11, "begins at 11"),
    ] {
        tamper(&disk, vec![without(gone)]);
        assert!(amnesia(&disk).contains(named), "{}", amnesia(&disk));
    }
}

#[test]
fn a_floor_without_its_checkpoint_is_refused() {
    let disk = disk_with_a_floor();
    life(true, open_sim(&disk)).expect("it is whole");
    let engine = holdfast_store::engine::sim::SimEngine::open(&disk).unwrap();
    life(true, async {
        for name in engine.list_files().unwrap() {
            engine.remove_file(&name).await.unwrap();
        }
    });
    drop(engine);
    assert!(amnesia(&disk).contains("no checkpoint covers"), "{}", amnesia(&disk));
}

/// One above the horizon is none: openraft would cut another, above what is delivered.
#[test]
fn a_checkpoint_above_the_horizon_does_not_cover_the_floor() {
    let disk = disk_with_a_floor();
    life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        opened.commit(&[entry(1, 23, append(&[polled(GRID, 17)]))]).await;
        opened.store.keeper().write_checkpoint().await.unwrap();
        assert_eq!(opened.store.keeper().newest_snapshot_position(), Some(id(1, 10)));
        opened.stop().await;
    });
    let engine = holdfast_store::engine::sim::SimEngine::open(&disk).unwrap();
    let names = engine.list_files().unwrap();
    let covering = names.iter().find(|name| name.starts_with("checkpoint-")).expect("the oldest comes first");
    life(true, engine.remove_file(covering)).unwrap();
    drop(engine);
    assert!(amnesia(&disk).contains("no checkpoint covers"), "{}", amnesia(&disk));
}

#[test]
fn a_log_that_was_cut_between_the_two_floor_slots_is_refused_by_the_newer_one() {
    let disk = disk_with_a_log();
    let engine = holdfast_store::engine::sim::SimEngine::open(&disk).unwrap();
    let slots = engine.read_slots("floor").unwrap().expect("it was written");
    // The slot that is older becomes unreadable: the newer one stands alone, and is enough.
    let sequence = |slot: &[u8; SLOT_BYTES]| u64::from_be_bytes(slot[8..16].try_into().unwrap());
    let older = usize::from(sequence(&slots[0]) > sequence(&slots[1]));
    life(true, engine.write_slot("floor", older, [0xFF; SLOT_BYTES])).unwrap();
    drop(engine);
    life(true, open_sim(&disk)).expect("one slot is enough");
    while raw(&disk).last == 20 {
        assert_eq!(disk.forget_last(1), 1, "there is something left to forget");
    }
    assert!(amnesia(&disk).contains("acknowledged entry 20"), "{}", amnesia(&disk));
    // Both unreadable: nothing is known of what was promised, and that is not taken for "nothing".
    let engine = holdfast_store::engine::sim::SimEngine::open(&disk).unwrap();
    life(true, engine.write_slot("floor", 1 - older, [0xFF; SLOT_BYTES])).unwrap();
    drop(engine);
    let opened = life(true, open_sim(&disk));
    assert!(matches!(&opened, Err(OpenError::Engine(EngineError::Damaged(_)))), "{opened:?}");
}

#[test]
fn a_flipped_bit_in_an_entry_is_found_and_named() {
    for index in 2..20 {
        let disk = with_a_log(SimDisk::new(index));
        assert!(disk.flip_bit(Family::Entries, &index_key(index)));
        let found = life(true, async {
            match open_sim(&disk).await {
                Ok(opened) => opened.store.log().read(1, 21, usize::MAX).err().map(|error| error.to_string()),
                Err(error) => Some(error.to_string()),
            }
        });
        let found = found.unwrap_or_else(|| panic!("a bit of entry {index} was flipped, and nobody noticed"));
        assert!(found.contains(&format!("log entry {index}: ")), "entry {index}: {found}");
    }
}
