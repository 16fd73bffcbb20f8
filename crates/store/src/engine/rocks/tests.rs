use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use super::*;
use crate::engine::contract::{Place, assert_failed, contract_tests, put};
use crate::engine::index_key;

impl Place for TempDir {
    type Engine = RocksEngine;

    fn open(&self) -> RocksEngine {
        RocksEngine::open(self.path(), &RocksOptions::default()).unwrap()
    }
}

contract_tests!(TempDir::new().unwrap());

const MIB: usize = 1024 * 1024;

/// Bytes that do not shrink when compressed.
fn noise(seed: u64, length: usize) -> Bytes {
    use rand::RngCore;
    let mut bytes = vec![0; length];
    runtime::random::generator(Some(seed)).fill_bytes(&mut bytes);
    Bytes::from(bytes)
}

fn entry(index: u64, value: Bytes) -> Write {
    Write::Put(Family::Entries, index_key(index).to_vec(), value)
}

/// The files of the database with this ending, oldest first.
fn database_files(path: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(path.join("rocksdb")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == ending));
    files.sort();
    files
}

/// What a killed process would leave: a copy of the directory while the engine still has it open.
fn as_if_killed(path: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    for directory in ["rocksdb", "files", "slots"] {
        fs::create_dir(copy.path().join(directory)).unwrap();
        for file in fs::read_dir(path.join(directory)).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.path().join(directory).join(file.file_name())).unwrap();
        }
    }
    for file in ["created", "format"] {
        fs::copy(path.join(file), copy.path().join(file)).unwrap();
    }
    copy
}

async fn filled(entries: u64) -> TempDir {
    let place = TempDir::new().unwrap();
    let engine = place.open();
    for index in 1..=entries {
        engine.commit(vec![entry(index, noise(index, 4096))], Durability::Sync).await.unwrap();
    }
    let copy = as_if_killed(place.path());
    drop(engine);
    copy
}

/// A memtable is full after a few entries, and a log ends with it.
fn small() -> RocksOptions {
    RocksOptions { entries_memtable_bytes: 512 * 1024, ..RocksOptions::default() }
}

/// 20 entries of 100 kB in several write-ahead logs. All are kept by what only the first one holds of the ledger.
async fn on_several_logs(path: &Path) -> RocksEngine {
    let engine = RocksEngine::open(path, &small()).unwrap();
    engine.commit(vec![put(Family::Ledger, "k", "v")], Durability::Lazy).await.unwrap();
    for index in 1..=20 {
        engine.commit(vec![entry(index, noise(index, 100_000))], Durability::Lazy).await.unwrap();
    }
    engine
}

#[tokio::test]
async fn what_was_synced_survives_a_killed_process() {
    let place = filled(20).await;
    let engine = place.open();
    for index in 1..=20 {
        let value = engine.get(Family::Entries, &index_key(index)).unwrap();
        assert_eq!(value, Some(noise(index, 4096)), "entry {index}");
    }
    engine.commit(vec![entry(21, Bytes::from("more"))], Durability::Sync).await.unwrap();
    let killed_again = as_if_killed(place.path());
    drop(engine);
    assert_eq!(killed_again.open().last(Family::Entries).unwrap().unwrap().0, index_key(21));
}

#[tokio::test]
async fn disk_space_comes_back_after_delivery() {
    let place = TempDir::new().unwrap();
    let engine = place.open();
    let value = noise(1, MIB);
    for index in 1..=200 {
        engine.commit(vec![entry(index, value.clone())], Durability::Lazy).await.unwrap();
    }
    let full = engine.disk_usage().unwrap();
    assert!(full >= 200 * MIB as u64, "200 MiB were written, {full} bytes are used");

    let half = given_back(&engine, 101, 180 * MIB as u64).await;
    let kept = engine.range(Family::Entries, &index_key(101), None, usize::MAX).unwrap();
    assert_eq!(kept.len(), 100, "nothing above the limit is touched");
    assert!(half >= 100 * MIB as u64, "100 MiB are kept, {half} bytes are used");

    given_back(&engine, 201, 8 * MIB as u64).await;
    drop(engine);
    assert_eq!(place.open().get(Family::Entries, &index_key(150)).unwrap(), None);
}

/// Gives back what lies below entry `index` until less than `most` bytes are used: RocksDB deletes files in its own time, and
/// one that it is moving down at the moment goes when space is given back the next time.
async fn given_back(engine: &RocksEngine, index: u64, most: u64) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        engine.drop_below(Family::Entries, &index_key(index)).await.unwrap();
        let used = engine.disk_usage().unwrap();
        if used < most {
            return used;
        }
        assert!(Instant::now() < deadline, "{used} bytes are used, expected fewer than {most}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_little_that_was_delivered_leaves_the_memtable_too() {
    let place = TempDir::new().unwrap();
    let engine = place.open();
    for index in 1..=100 {
        engine.commit(vec![entry(index, noise(index, 40_000))], Durability::Sync).await.unwrap();
    }
    given_back(&engine, 101, MIB as u64).await;
}

#[tokio::test]
async fn the_write_ahead_log_goes_although_no_memtable_holds_anything_that_may_go() {
    let place = TempDir::new().unwrap();
    let engine = on_several_logs(place.path()).await;
    let until = async |what: &str, holds: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < deadline, "expected: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let bytes_of = |ending| -> u64 {
        let files = database_files(place.path(), ending);
        files.iter().filter_map(|file| fs::metadata(file).ok()).map(|file| file.len()).sum()
    };
    until("the first entries lie in a file", &|| bytes_of("sst") > 0).await;
    assert!(bytes_of("log") > 2_000_000, "{} bytes of log", bytes_of("log"));
    let left = engine.drop_below(Family::Entries, &index_key(2)).await.unwrap();
    assert!(left >= 19 * 100_000, "all but one are needed, and {left} bytes are left");
    until("the log is gone", &|| bytes_of("log") < 10_000).await;
    assert_eq!(engine.get(Family::Ledger, b"k").unwrap(), Some(Bytes::from("v")));
}

#[test]
fn a_directory_in_use_is_refused_by_name() {
    let place = TempDir::new().unwrap();
    let first = place.open();
    let error = RocksEngine::open(place.path(), &RocksOptions::default()).unwrap_err();
    let path = place.path().display();
    assert_eq!(
        error.to_string(),
        format!("HF-1301: another holdfast node is running on this data directory: {path}")
    );
    drop(first);
    drop(place.open());
}

#[tokio::test]
async fn a_record_cut_short_at_the_end_is_dropped_and_nothing_before_it() {
    let place = filled(20).await;
    let log = database_files(place.path(), "log").pop().unwrap();
    let length = fs::metadata(&log).unwrap().len();
    fs::File::options().write(true).open(&log).unwrap().set_len(length - 100).unwrap();
    assert_eq!(place.open().last(Family::Entries).unwrap().unwrap().0, index_key(19));
}

#[tokio::test]
async fn a_last_record_of_which_a_page_is_missing_is_dropped_and_nothing_before_it() {
    let place = filled(20).await;
    let log = database_files(place.path(), "log").pop().unwrap();
    let mut bytes = fs::read(&log).unwrap();
    let end = bytes.len();
    bytes[end - 3_000..end - 1_000].fill(0);
    fs::write(&log, bytes).unwrap();
    assert_eq!(place.open().last(Family::Entries).unwrap().unwrap().0, index_key(19));
}

#[tokio::test]
async fn a_hole_between_two_write_ahead_logs_is_refused() {
    let place = TempDir::new().unwrap();
    let engine = on_several_logs(place.path()).await;
    let killed = as_if_killed(place.path());
    drop(engine);
    let logs = database_files(killed.path(), "log");
    assert!(logs.len() > 1, "several logs are alive: {logs:?}");
    let length = fs::metadata(&logs[0]).unwrap().len();
    fs::File::options().write(true).open(&logs[0]).unwrap().set_len(length - 100).unwrap();
    let error = RocksEngine::open(killed.path(), &small()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "seen: {error}");
}

#[tokio::test]
async fn a_failed_flush_in_the_background_is_final() {
    let place = TempDir::new().unwrap();
    let engine = place.open();
    engine.commit(vec![entry(1, Bytes::from("x"))], Durability::Sync).await.unwrap();
    // No new file can be created where the database was.
    let (database, elsewhere) = (place.path().join("rocksdb"), place.path().join("elsewhere"));
    fs::rename(&database, &elsewhere).unwrap();
    engine.drop_below(Family::Entries, &index_key(2)).await.unwrap_err();
    fs::rename(&elsewhere, &database).unwrap();
    assert_failed(&engine).await;
    drop(engine);
    assert!(
        place.open().get(Family::Entries, &index_key(1)).unwrap().is_some(),
        "the next opening works again"
    );
}

#[tokio::test]
async fn a_missing_write_ahead_log_is_refused() {
    let place = filled(20).await;
    drop(place.open());
    for log in database_files(place.path(), "log") {
        fs::remove_file(log).unwrap();
    }
    let error = RocksEngine::open(place.path(), &RocksOptions::default()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "seen: {error}");
}

#[tokio::test]
async fn a_database_that_vanished_is_not_created_anew() {
    let place = filled(1).await;
    fs::remove_dir_all(place.path().join("rocksdb")).unwrap();
    let error = RocksEngine::open(place.path(), &RocksOptions::default()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "seen: {error}");
}

#[tokio::test]
async fn a_file_that_is_missing_in_the_database_is_damage_and_no_matter_of_permissions() {
    for missing in ["CURRENT", "MANIFEST", ".sst"] {
        let place = filled(20).await;
        // Opening writes what the log holds to a file.
        drop(place.open());
        let entries = fs::read_dir(place.path().join("rocksdb")).unwrap();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.file_name().unwrap().to_string_lossy().contains(missing));
        assert!(!files.is_empty(), "no {missing}");
        files.iter().for_each(|file| fs::remove_file(file).unwrap());
        let error = RocksEngine::open(place.path(), &RocksOptions::default()).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{missing}: {error}");
    }
}

#[tokio::test]
async fn a_flipped_bit_in_a_stored_value_is_found_when_it_is_read() {
    let place = TempDir::new().unwrap();
    let engine = place.open();
    engine.commit(vec![entry(1, noise(1, 100_000))], Durability::Sync).await.unwrap();
    drop(engine);
    // Opening writes what the log holds to a file.
    drop(place.open());
    let table = database_files(place.path(), "sst").pop().unwrap();
    let mut bytes = fs::read(&table).unwrap();
    bytes[50_000] ^= 1;
    fs::write(&table, bytes).unwrap();
    let engine = place.open();
    for error in [
        engine.get(Family::Entries, &index_key(1)).unwrap_err(),
        engine.last(Family::Entries).unwrap_err(),
        engine.range(Family::Entries, &[], None, 1).unwrap_err(),
    ] {
        assert!(matches!(error, EngineError::Damaged(_)), "seen: {error}");
    }
}

#[tokio::test]
async fn the_first_failed_write_is_final() {
    let place = TempDir::new().unwrap();
    let engine = place.open();
    engine.write_file("before", Bytes::from("1")).await.unwrap();
    // A directory stands where the file must be written aside.
    fs::create_dir(place.path().join("files/.checkpoint")).unwrap();
    engine.write_file("checkpoint", Bytes::from("1")).await.unwrap_err();
    fs::remove_dir(place.path().join("files/.checkpoint")).unwrap();
    assert_failed(&engine).await;
    drop(engine);
    assert_eq!(place.open().list_files().unwrap(), ["before"], "the next opening works again");
}

#[tokio::test]
async fn leftovers_of_an_interrupted_write_are_seen_by_nobody() {
    let place = TempDir::new().unwrap();
    drop(place.open());
    let leftover = place.path().join("files/.checkpoint");
    fs::write(&leftover, "half").unwrap();
    let engine = place.open();
    assert_eq!(engine.list_files().unwrap(), [""; 0]);
    assert!(!leftover.exists());
    engine.write_file("checkpoint", Bytes::from("whole")).await.unwrap();
}

#[tokio::test]
async fn a_slot_file_of_another_size_is_damaged() {
    let place = TempDir::new().unwrap();
    let engine = place.open();
    engine.write_slot("floor", 0, [1; SLOT_BYTES]).await.unwrap();
    fs::write(place.path().join("slots/floor"), "short").unwrap();
    let error = engine.read_slots("floor").unwrap_err();
    assert!(matches!(error, EngineError::Damaged(_)), "seen: {error}");
}

#[allow(clippy::disallowed_methods, reason = "what is spawned is awaited")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_do_not_wait_for_commits() {
    let place = TempDir::new().unwrap();
    let engine = Arc::new(place.open());
    let value = noise(1, MIB);
    let writes = (1..=64).map(|index| entry(index, value.clone())).collect();
    let committing = Arc::clone(&engine);
    let commit = tokio::spawn(async move { committing.commit(writes, Durability::Sync).await });
    engine.write_slot("floor", 0, [1; SLOT_BYTES]).await.unwrap();
    let last = engine.get(Family::Entries, &index_key(64)).unwrap();
    commit.await.unwrap().unwrap();
    assert!(last.is_none(), "the slot was there before the large commit");
    assert!(engine.commit(vec![put(Family::Raft, "k", "v")], Durability::Lazy).await.is_ok());
}
