//! What every engine must do, run against each of them.

use std::task::{Context, Waker};

use bytes::Bytes;

use super::{Durability, Engine, EngineError, Family, SLOT_BYTES, Write, index_key};

/// Somewhere an engine can be opened again and again.
pub(super) trait Place {
    type Engine: Engine;

    fn open(&self) -> Self::Engine;
}

/// Makes one test of each check for one kind of place.
macro_rules! contract_tests {
    ($place:expr) => {
        contract_tests!($place;
            keys_come_in_order_and_families_are_apart,
            a_commit_applies_its_writes_in_order,
            a_range_ends_at_its_bound_and_at_its_limit,
            a_delete_range_takes_the_first_and_leaves_the_last,
            the_last_key_is_the_greatest,
            what_was_committed_is_there_after_reopening,
            keys_at_or_above_the_limit_survive_giving_back_space,
            a_file_is_replaced_as_a_whole_and_listed_in_order,
            slots_are_written_one_at_a_time,
            a_cancelled_commit_keeps_its_place_in_the_order,
        );
    };
    ($place:expr; $($check:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $check() {
                crate::engine::contract::$check(&$place).await;
            }
        )+
    };
}
pub(super) use contract_tests;

pub(super) fn put(family: Family, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Write {
    Write::Put(family, key.as_ref().to_vec(), Bytes::copy_from_slice(value.as_ref()))
}

fn entry(index: u64) -> Write {
    put(Family::Entries, index_key(index), format!("entry {index}"))
}

fn rows(engine: &impl Engine, family: Family) -> Vec<(Vec<u8>, Bytes)> {
    engine.range(family, &[], None, usize::MAX).unwrap()
}

fn keys(engine: &impl Engine, family: Family, from: &[u8], to: Option<&[u8]>, limit: usize) -> Vec<String> {
    let rows = engine.range(family, from, to, limit).unwrap();
    rows.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
}

pub(super) async fn keys_come_in_order_and_families_are_apart(place: &impl Place) {
    let engine = place.open();
    let writes = [300, 2, 256, 1].map(entry).to_vec();
    engine.commit(writes, Durability::Lazy).await.unwrap();
    engine.commit(vec![put(Family::Ledger, index_key(2), "row")], Durability::Sync).await.unwrap();
    let expected: Vec<_> = [1, 2, 256, 300].map(|index| index_key(index).to_vec()).to_vec();
    let seen: Vec<_> = rows(&engine, Family::Entries).into_iter().map(|(key, _)| key).collect();
    assert_eq!(seen, expected);
    assert_eq!(engine.get(Family::Ledger, &index_key(2)).unwrap(), Some(Bytes::from("row")));
    assert_eq!(engine.get(Family::Entries, &index_key(2)).unwrap(), Some(Bytes::from("entry 2")));
    assert_eq!(engine.get(Family::Raft, &index_key(2)).unwrap(), None);
}

pub(super) async fn a_commit_applies_its_writes_in_order(place: &impl Place) {
    let engine = place.open();
    let writes = vec![
        put(Family::Ledger, "a", "first"),
        put(Family::Ledger, "b", "first"),
        Write::DeleteRange(Family::Ledger, b"a".to_vec(), b"c".to_vec()),
        put(Family::Ledger, "a", "second"),
        put(Family::Raft, "c", "kept"),
        put(Family::Ledger, "d", "first"),
        Write::Delete(Family::Ledger, b"d".to_vec()),
        Write::Delete(Family::Ledger, b"never there".to_vec()),
    ];
    engine.commit(writes, Durability::Sync).await.unwrap();
    assert_eq!(rows(&engine, Family::Ledger), vec![(b"a".to_vec(), Bytes::from("second"))]);
    assert_eq!(rows(&engine, Family::Raft), vec![(b"c".to_vec(), Bytes::from("kept"))]);
    engine.commit(Vec::new(), Durability::Sync).await.unwrap();
}

pub(super) async fn a_range_ends_at_its_bound_and_at_its_limit(place: &impl Place) {
    let engine = place.open();
    let writes = ["a", "b", "c", "d"].map(|key| put(Family::Ledger, key, "12345")).to_vec();
    engine.commit(writes, Durability::Lazy).await.unwrap();
    let all = usize::MAX;
    assert_eq!(keys(&engine, Family::Ledger, b"b", None, all), ["b", "c", "d"]);
    assert_eq!(keys(&engine, Family::Ledger, b"b", Some(b"d"), all), ["b", "c"]);
    assert_eq!(keys(&engine, Family::Ledger, b"bb", Some(b"cc"), all), ["c"]);
    assert_eq!(keys(&engine, Family::Ledger, b"b", Some(b"b"), all), [""; 0]);
    assert_eq!(keys(&engine, Family::Ledger, b"c", Some(b"a"), all), [""; 0]);
    assert_eq!(keys(&engine, Family::Ledger, b"e", None, all), [""; 0]);
    assert_eq!(keys(&engine, Family::Ledger, b"a", None, 0), ["a"], "at least one");
    assert_eq!(keys(&engine, Family::Ledger, b"a", None, 5), ["a"]);
    assert_eq!(keys(&engine, Family::Ledger, b"a", None, 6), ["a", "b"]);
}

pub(super) async fn a_delete_range_takes_the_first_and_leaves_the_last(place: &impl Place) {
    let engine = place.open();
    engine.commit((1..=9).map(entry).collect(), Durability::Lazy).await.unwrap();
    let range =
        |from, to| Write::DeleteRange(Family::Entries, index_key(from).to_vec(), index_key(to).to_vec());
    engine.commit(vec![range(3, 7), range(8, 8), range(9, 1)], Durability::Sync).await.unwrap();
    let expected: Vec<_> = [1, 2, 7, 8, 9].map(|index| index_key(index).to_vec()).to_vec();
    let seen: Vec<_> = rows(&engine, Family::Entries).into_iter().map(|(key, _)| key).collect();
    assert_eq!(seen, expected);
}

pub(super) async fn the_last_key_is_the_greatest(place: &impl Place) {
    let engine = place.open();
    assert_eq!(engine.last(Family::Entries).unwrap(), None);
    engine.commit([7, 1, 5].map(entry).to_vec(), Durability::Lazy).await.unwrap();
    assert_eq!(engine.last(Family::Entries).unwrap().unwrap().0, index_key(7));
    let delete = Write::Delete(Family::Entries, index_key(7).to_vec());
    engine.commit(vec![delete], Durability::Lazy).await.unwrap();
    let last = engine.last(Family::Entries).unwrap();
    assert_eq!(last, Some((index_key(5).to_vec(), Bytes::from("entry 5"))));
    assert_eq!(engine.last(Family::Raft).unwrap(), None);
}

pub(super) async fn what_was_committed_is_there_after_reopening(place: &impl Place) {
    for round in 0..3 {
        let engine = place.open();
        assert_eq!(rows(&engine, Family::Entries).len(), 2 * round);
        let round = round as u64;
        engine.commit(vec![entry(2 * round)], Durability::Sync).await.unwrap();
        engine.commit(vec![entry(2 * round + 1)], Durability::Lazy).await.unwrap();
        engine.write_file(&format!("file-{round}"), Bytes::from("whole")).await.unwrap();
        engine.write_slot("floor", 0, [round as u8; SLOT_BYTES]).await.unwrap();
    }
    let engine = place.open();
    assert_eq!(engine.last(Family::Entries).unwrap().unwrap().0, index_key(5));
    assert_eq!(engine.list_files().unwrap(), ["file-0", "file-1", "file-2"]);
    assert_eq!(engine.read_slots("floor").unwrap().unwrap(), [[2; SLOT_BYTES], [0; SLOT_BYTES]]);
}

pub(super) async fn keys_at_or_above_the_limit_survive_giving_back_space(place: &impl Place) {
    let engine = place.open();
    engine.drop_below(Family::Entries, &index_key(10)).await.unwrap();
    engine.commit((0..100).map(entry).collect(), Durability::Sync).await.unwrap();
    engine.commit(vec![put(Family::Ledger, index_key(1), "row")], Durability::Sync).await.unwrap();
    for limit in [0, 10, 60, 60, 99] {
        engine.drop_below(Family::Entries, &index_key(limit)).await.unwrap();
        let kept = engine.range(Family::Entries, &index_key(limit), None, usize::MAX).unwrap();
        assert_eq!(kept.len() as u64, 100 - limit, "everything from {limit} on is kept");
    }
    assert_eq!(engine.last(Family::Entries).unwrap().unwrap().0, index_key(99));
    engine.drop_below(Family::Entries, &index_key(100)).await.unwrap();
    assert_eq!(rows(&engine, Family::Ledger).len(), 1, "other families are left alone");
    engine.commit((100..110).map(entry).collect(), Durability::Sync).await.unwrap();
    drop(engine);
    let engine = place.open();
    assert_eq!(engine.range(Family::Entries, &index_key(100), None, usize::MAX).unwrap().len(), 10);
}

pub(super) async fn a_file_is_replaced_as_a_whole_and_listed_in_order(place: &impl Place) {
    let engine = place.open();
    assert_eq!(engine.read_file("checkpoint-2").unwrap(), None);
    for (name, bytes) in
        [("checkpoint-2", "old and long"), ("checkpoint-10", "x"), ("checkpoint-2", "new"), ("a", "")]
    {
        engine.write_file(name, Bytes::from(bytes)).await.unwrap();
    }
    assert_eq!(engine.read_file("checkpoint-2").unwrap(), Some(Bytes::from("new")));
    assert_eq!(engine.read_file("a").unwrap(), Some(Bytes::new()));
    assert_eq!(engine.list_files().unwrap(), ["a", "checkpoint-10", "checkpoint-2"]);
    engine.remove_file("checkpoint-2").await.unwrap();
    engine.remove_file("checkpoint-2").await.unwrap();
    assert_eq!(engine.list_files().unwrap(), ["a", "checkpoint-10"]);
}

pub(super) async fn slots_are_written_one_at_a_time(place: &impl Place) {
    let engine = place.open();
    assert_eq!(engine.read_slots("floor").unwrap(), None);
    engine.write_slot("floor", 1, [7; SLOT_BYTES]).await.unwrap();
    assert_eq!(engine.read_slots("floor").unwrap(), Some([[0; SLOT_BYTES], [7; SLOT_BYTES]]));
    engine.write_slot("floor", 0, [8; SLOT_BYTES]).await.unwrap();
    engine.write_slot("floor", 1, [9; SLOT_BYTES]).await.unwrap();
    assert_eq!(engine.read_slots("floor").unwrap(), Some([[8; SLOT_BYTES], [9; SLOT_BYTES]]));
    assert_eq!(engine.list_files().unwrap(), [""; 0], "slot files are not among the files");
    assert_eq!(engine.read_file("floor").unwrap(), None);
}

pub(super) async fn a_cancelled_commit_keeps_its_place_in_the_order(place: &impl Place) {
    let engine = place.open();
    let mut commit = Box::pin(engine.commit(vec![put(Family::Raft, "k", "cancelled")], Durability::Sync));
    // Asked once, so that it has begun, and then left alone.
    let _ = commit.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    drop(commit);
    engine.commit(vec![put(Family::Raft, "after", "1")], Durability::Sync).await.unwrap();
    assert_eq!(engine.get(Family::Raft, b"k").unwrap(), Some(Bytes::from("cancelled")));
}

/// That an engine says no, and goes on saying so.
pub(super) async fn assert_failed(engine: &impl Engine) {
    let commit = engine.commit(vec![put(Family::Raft, "after", "failure")], Durability::Sync).await;
    let read = engine.get(Family::Raft, b"after");
    let file = engine.write_file("after", Bytes::new()).await;
    for error in [commit.unwrap_err(), read.unwrap_err(), file.unwrap_err()] {
        assert!(matches!(error, EngineError::Failed { .. }), "the first failure is final, seen: {error}");
    }
}
