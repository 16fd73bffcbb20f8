use std::collections::BTreeMap;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::engine::contract::{Place, assert_failed, contract_tests, put};
use crate::engine::index_key;

impl Place for Arc<SimDisk> {
    type Engine = SimEngine;

    fn open(&self) -> SimEngine {
        SimEngine::open(self).unwrap()
    }
}

contract_tests!(SimDisk::new(1));

type Model = BTreeMap<(Family, Vec<u8>), Bytes>;

const LATENCY: Duration = Duration::from_millis(10);

fn contents(engine: &SimEngine) -> Model {
    let rows = |family| engine.range(family, &[], None, usize::MAX).unwrap();
    Family::ALL
        .into_iter()
        .flat_map(|family| rows(family).into_iter().map(move |(key, value)| ((family, key), value)))
        .collect()
}

/// A commit of a few random writes, and what it makes of the model.
fn random_commit(random: &mut SmallRng, model: &mut Model) -> Vec<Write> {
    let count = random.random_range(1..5);
    let mut writes = Vec::new();
    for _ in 0..count {
        let family = Family::ALL[random.random_range(0..3)];
        let key = vec![random.random_range(0..20_u8)];
        let write = match random.random_range(0..6) {
            0 => {
                model.remove(&(family, key.clone()));
                Write::Delete(family, key)
            }
            1 => {
                let to = vec![random.random_range(0..20_u8)];
                model.retain(|(of, at), _| *of != family || *at < key || *at >= to);
                Write::DeleteRange(family, key, to)
            }
            _ => {
                let value = Bytes::from(random.random::<u32>().to_string());
                model.insert((family, key.clone()), value.clone());
                Write::Put(family, key, value)
            }
        };
        writes.push(write);
    }
    writes
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_the_state_is_a_prefix_with_everything_synced() {
    let (mut lost, mut survived) = (0, 0);
    for seed in 0..200 {
        let mut random = SmallRng::seed_from_u64(seed);
        let disk = SimDisk::new(seed);
        if seed % 2 == 0 {
            disk.set_latency(Duration::ZERO, LATENCY);
        }
        // All states since the last one that is known to be durable, which comes first.
        let mut states = vec![Model::new()];
        for _ in 0..8 {
            let engine = disk.open();
            assert_eq!(&contents(&engine), states.last().unwrap(), "seed {seed}, at opening");
            for _ in 0..random.random_range(0..60) {
                let mut state = states.last().unwrap().clone();
                let writes = random_commit(&mut random, &mut state);
                let durability = if random.random_bool(0.3) { Durability::Sync } else { Durability::Lazy };
                engine.commit(writes, durability).await.unwrap();
                states.push(state);
                if durability == Durability::Sync {
                    states.drain(..states.len() - 1);
                }
                assert_eq!(&contents(&engine), states.last().unwrap(), "seed {seed}");
            }
            if random.random_bool(0.3) {
                // Killed, not cut off: nothing is lost, and what is found next is durable.
                drop(engine);
                states.drain(..states.len() - 1);
                continue;
            }
            let crash = disk.crash(&mut random);
            assert_eq!(
                crash.lost + crash.survived,
                states.len() - 1,
                "seed {seed}: only lazy commits are at risk"
            );
            lost += crash.lost;
            survived += crash.survived;
            assert_failed(&engine).await;
            states = vec![states.swap_remove(crash.survived)];
        }
    }
    assert!(lost > 100 && survived > 100, "the crashes bit: {lost} lost, {survived} survived");
}

#[tokio::test(start_paused = true)]
async fn a_commit_cut_off_in_its_sync_is_there_as_a_whole_or_not_at_all() {
    let mut seen = [0, 0];
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        disk.set_latency(LATENCY, LATENCY);
        let engine = Arc::new(disk.open());
        let writes = vec![put(Family::Raft, "a", "1"), put(Family::Ledger, "b", "2")];
        let commit = tokio::time::timeout(LATENCY / 2, engine.commit(writes, Durability::Sync)).await;
        assert!(commit.is_err(), "the sync takes longer");
        assert_eq!(contents(&engine).len(), 0, "not visible before it returns");
        disk.crash(&mut SmallRng::seed_from_u64(seed));
        let found = contents(&disk.open()).len();
        assert!(found == 0 || found == 2, "seed {seed}: {found} of 2 rows");
        seen[found / 2] += 1;
    }
    assert!(seen[0] > 0 && seen[1] > 0, "both happen: {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn an_engine_from_before_the_crash_can_finish_nothing() {
    let disk = SimDisk::new(1);
    disk.set_latency(LATENCY, LATENCY);
    let old = disk.open();
    let file = old.write_file("file", Bytes::from("old"));
    let commit = old.commit(vec![put(Family::Raft, "k", "old")], Durability::Sync);
    let (file, commit, new) = tokio::join!(file, commit, async {
        tokio::time::sleep(LATENCY / 2).await;
        disk.crash(&mut SmallRng::seed_from_u64(1));
        let new = disk.open();
        let at_opening = (contents(&new), new.list_files().unwrap());
        tokio::time::sleep(LATENCY).await;
        assert_eq!((contents(&new), new.list_files().unwrap()), at_opening);
        new
    });
    assert!(file.is_err() && commit.is_err(), "the power went before they were done");
    drop(old);
    new.commit(vec![put(Family::Raft, "k", "new")], Durability::Sync).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_file_cut_off_while_written_is_the_old_or_the_new_one() {
    let mut seen = BTreeMap::new();
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let engine = disk.open();
        engine.write_file("file", Bytes::from("old")).await.unwrap();
        engine.write_file("other", Bytes::from("kept")).await.unwrap();
        disk.set_latency(LATENCY, LATENCY);
        let write = engine.write_file("file", Bytes::from("new"));
        assert!(tokio::time::timeout(LATENCY / 2, write).await.is_err(), "the write takes longer");
        disk.crash(&mut SmallRng::seed_from_u64(seed));
        let engine = disk.open();
        assert_eq!(engine.list_files().unwrap(), ["file", "other"], "leftovers are not listed");
        *seen.entry(engine.read_file("file").unwrap().unwrap()).or_insert(0) += 1;
    }
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["new", "old"], "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_crash_tears_only_the_slot_being_written() {
    let (mut old, mut new, mut torn) = (0, 0, 0);
    for seed in 0..60 {
        let disk = SimDisk::new(seed);
        let engine = disk.open();
        engine.write_slot("floor", 0, [1; SLOT_BYTES]).await.unwrap();
        engine.write_slot("floor", 1, [2; SLOT_BYTES]).await.unwrap();
        disk.set_latency(LATENCY, LATENCY);
        let write = engine.write_slot("floor", 1, [3; SLOT_BYTES]);
        assert!(tokio::time::timeout(LATENCY / 2, write).await.is_err(), "the write takes longer");
        disk.crash(&mut SmallRng::seed_from_u64(seed));
        let slots = disk.open().read_slots("floor").unwrap().unwrap();
        assert_eq!(slots[0], [1; SLOT_BYTES], "seed {seed}: the other slot");
        match slots[1] {
            slot if slot == [2; SLOT_BYTES] => old += 1,
            slot if slot == [3; SLOT_BYTES] => new += 1,
            _ => torn += 1,
        }
    }
    assert!(old > 0 && new > 0 && torn > 0, "all three happen: {old} old, {new} new, {torn} torn");
}

#[tokio::test]
async fn the_chosen_operation_fails_and_all_after_it() {
    let disk = SimDisk::new(1);
    disk.fail(Operation::Commit, 3);
    let engine = disk.open();
    for index in 1..=2 {
        engine.commit(vec![put(Family::Entries, index_key(index), "x")], Durability::Sync).await.unwrap();
    }
    engine.commit(vec![put(Family::Entries, index_key(3), "x")], Durability::Sync).await.unwrap_err();
    assert_failed(&engine).await;
    drop(engine);
    assert_eq!(disk.open().last(Family::Entries).unwrap().unwrap().0, index_key(2));

    for operation in [Operation::WriteFile, Operation::WriteSlot, Operation::RemoveFile, Operation::DropBelow]
    {
        disk.fail(operation, 1);
        let engine = disk.open();
        let error = match operation {
            Operation::WriteFile => engine.write_file("f", Bytes::from("x")).await,
            Operation::WriteSlot => engine.write_slot("s", 0, [1; SLOT_BYTES]).await,
            Operation::RemoveFile => engine.remove_file("f").await,
            _ => engine.drop_below(Family::Entries, &index_key(2)).await.map(|_| ()),
        };
        assert!(error.is_err(), "{operation:?}");
        assert_failed(&engine).await;
    }
    let engine = disk.open();
    assert_eq!((engine.list_files().unwrap(), engine.read_slots("s").unwrap()), (vec![], None));
}

#[tokio::test]
async fn a_commit_whose_sync_failed_may_survive_or_not() {
    let mut seen = [0, 0];
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        disk.fail(Operation::Sync, 1);
        let engine = disk.open();
        engine.commit(vec![put(Family::Raft, "k", "v")], Durability::Lazy).await.unwrap();
        engine.commit(vec![put(Family::Raft, "l", "v")], Durability::Sync).await.unwrap_err();
        assert_failed(&engine).await;
        disk.crash(&mut SmallRng::seed_from_u64(seed));
        seen[usize::from(disk.open().get(Family::Raft, b"l").unwrap().is_some())] += 1;
    }
    assert!(seen[0] > 0 && seen[1] > 0, "both happen: {seen:?}");
}

#[tokio::test]
async fn a_full_disk_refuses_and_room_helps_only_the_next_opening() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(1000));
    let engine = disk.open();
    engine.commit(vec![put(Family::Raft, "k", [0; 600])], Durability::Sync).await.unwrap();
    let error = engine.write_file("f", Bytes::from(vec![0; 600])).await.unwrap_err();
    assert_eq!(error.to_string(), "write_file: no space left on device");
    disk.set_capacity(None);
    assert_failed(&engine).await;
    drop(engine);
    disk.open().write_file("f", Bytes::from(vec![0; 600])).await.unwrap();
}

#[tokio::test]
async fn a_disk_that_lied_forgets_synced_commits_from_the_end() {
    let disk = SimDisk::new(1);
    let engine = disk.open();
    for index in 1..=600 {
        engine.commit(vec![put(Family::Entries, index_key(index), "x")], Durability::Sync).await.unwrap();
    }
    engine.write_slot("floor", 0, [1; SLOT_BYTES]).await.unwrap();
    disk.crash(&mut SmallRng::seed_from_u64(1));
    assert_eq!(disk.forget_last(13), 13);
    let engine = disk.open();
    assert_eq!(engine.last(Family::Entries).unwrap().unwrap().0, index_key(587));
    assert!(engine.read_slots("floor").unwrap().is_some(), "files are not forgotten");
    drop(engine);
    let more = disk.forget_last(1000) as u64;
    assert!(more > 200, "a few hundred are remembered, not {more}");
    assert_eq!(disk.open().last(Family::Entries).unwrap().unwrap().0, index_key(587 - more));
}

#[tokio::test]
async fn damage_is_silent_or_found_as_asked() {
    let disk = SimDisk::new(1);
    let engine = disk.open();
    engine
        .commit(
            vec![put(Family::Entries, "a", "value"), put(Family::Entries, "b", "value")],
            Durability::Sync,
        )
        .await
        .unwrap();
    engine.write_file("f", Bytes::from("whole")).await.unwrap();
    assert!(disk.flip_bit(Family::Entries, b"a") && disk.flip_bit_in_file("f"));
    assert!(!disk.flip_bit(Family::Entries, b"absent") && !disk.flip_bit_in_file("absent"));
    drop(engine);
    let engine = disk.open();
    let flipped = engine.get(Family::Entries, b"a").unwrap().unwrap();
    assert_eq!((flipped.len(), flipped == "value"), (5, false), "the damage is on the platter");
    assert_ne!(engine.read_file("f").unwrap().unwrap(), "whole");

    disk.damage(Family::Entries, b"b");
    assert!(matches!(engine.get(Family::Entries, b"b"), Err(EngineError::Damaged(_))));
    assert!(matches!(engine.last(Family::Entries), Err(EngineError::Damaged(_))));
    assert!(matches!(engine.range(Family::Entries, b"", None, usize::MAX), Err(EngineError::Damaged(_))));
    assert_eq!(engine.range(Family::Entries, b"", Some(b"b"), usize::MAX).unwrap().len(), 1);
    engine.commit(vec![put(Family::Entries, "b", "again")], Durability::Sync).await.unwrap();
    assert_eq!(engine.get(Family::Entries, b"b").unwrap().unwrap(), "again");
}

#[test]
fn a_disk_is_open_once() {
    let disk = SimDisk::new(1);
    let engine = disk.open();
    assert!(SimEngine::open(&disk).is_err());
    drop(engine);
    drop(disk.open());
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let mut random = SmallRng::seed_from_u64(7);
        let disk = SimDisk::new(7);
        disk.set_latency(Duration::ZERO, LATENCY);
        let start = tokio::time::Instant::now();
        let mut seen = Vec::new();
        for index in 0..40 {
            let engine = disk.open();
            engine.commit(vec![put(Family::Entries, index_key(index), "x")], Durability::Sync).await.unwrap();
            engine.commit(vec![put(Family::Ledger, index_key(index), "x")], Durability::Lazy).await.unwrap();
            engine.drop_below(Family::Entries, &index_key(index)).await.unwrap();
            seen.push((contents(&engine), disk.crash(&mut random), start.elapsed()));
        }
        runs.push(seen);
    }
    assert_eq!(runs[0], runs[1]);
}
