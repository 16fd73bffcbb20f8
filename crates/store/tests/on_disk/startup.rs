//! How much an opening reads, and whose directory it opens.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use holdfast_store::OpenError;
use holdfast_store::engine::rocks::{self, RocksEngine, RocksOptions};
use holdfast_store::engine::sim::{SimDisk, SimEngine};
use holdfast_store::engine::{Engine, EngineError};

use crate::support::{Counting, acknowledge, entry, id, life, open, open_sim, polls_up_to, truncate};

/// Calls and bytes read by an opening of a log of `entries`, the first ten of which are purged.
fn read_at_opening(entries: u64) -> (u64, u64) {
    let disk = SimDisk::new(1);
    let log = polls_up_to(entries);
    life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        opened.commit(&log[..10]).await;
        opened.store.keeper().write_checkpoint().await.unwrap();
        opened.commit(&log[10..]).await;
        let end = [entry(1, entries + 1, acknowledge(11)), entry(1, entries + 2, truncate(11))];
        opened.commit(&end).await;
        opened.store.keeper().purge(id(1, 10)).unwrap();
        opened.stop().await;
    });
    life(true, async {
        let engine = Counting::new(SimEngine::open(&disk).unwrap());
        let read = std::sync::Arc::clone(&engine.read);
        let opened = open(engine, 1 << 20).await.unwrap();
        // What openraft asks for, too: the ends, and the ids of a few entries.
        let log = opened.store.log();
        assert_eq!(log.ends().floor, Some(id(1, 10)));
        assert_eq!(log.id_at((entries / 2).into()).unwrap(), Some(id(1, entries / 2)));
        (read.calls.load(Ordering::Relaxed), read.bytes.load(Ordering::Relaxed))
    })
}

#[test]
fn an_opening_reads_no_more_of_a_long_log_than_of_a_short_one() {
    let (few_calls, few_bytes) = read_at_opening(100);
    let (calls, bytes) = read_at_opening(20_000);
    assert!(calls <= few_calls + 2, "{calls} reads of 20,000 entries, {few_calls} of 100");
    assert!(bytes <= few_bytes + 1_000, "{bytes} bytes of 20,000 entries, {few_bytes} of 100");
}

/// What lies in a directory, in order.
fn names(path: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = fs::read_dir(path).unwrap().map(name).collect();
    names.sort();
    names
}

#[test]
fn a_foreign_or_newer_directory_is_refused_by_name() {
    let open = |path: &Path| RocksEngine::open(path, &RocksOptions::default());
    let folder = tempfile::tempdir().unwrap();

    // Somebody else's database, where ours would be.
    let path = folder.path().join("theirs");
    fs::create_dir_all(path.join("rocksdb")).unwrap();
    fs::write(path.join("rocksdb/CURRENT"), "MANIFEST-000001\n").unwrap();
    let error = open(&path).expect_err("it is not ours");
    assert!(matches!(error, rocks::OpenError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("theirs"), "{error}");
    assert_eq!(names(&path), ["rocksdb"], "it is left as it was");

    // Somebody else's file of that name.
    let path = folder.path().join("media");
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("format"), "ISO 9660").unwrap();
    let error = open(&path).expect_err("it is not ours");
    assert!(matches!(error, rocks::OpenError::Foreign { .. }), "{error}");

    // Ours, from the future.
    let path = folder.path().join("ours");
    drop(open(&path).expect("a new directory opens"));
    drop(open(&path).expect("it opens again"));
    let marker = fs::read_to_string(path.join("format")).unwrap();
    fs::write(path.join("format"), marker.replace('1', "2")).unwrap();
    let error = open(&path).expect_err("it is newer");
    assert!(matches!(error, rocks::OpenError::Newer { found: 2, .. }), "{error}");
    assert!(error.to_string().contains("ours") && error.to_string().contains("upgrade"), "{error}");
}

#[test]
fn a_directory_with_a_strangers_file_stays_byte_for_byte() {
    // Some of these names are our own, in a directory of which nothing says that it is ours.
    for file in ["thesis.txt", "reserve", "created", "files/.draft", "incoming/upload", "rocksdb/LOG"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "theirs").unwrap();
        let before = names(folder.path());
        let error = RocksEngine::open(folder.path(), &RocksOptions::default()).expect_err(file);
        assert!(matches!(error, rocks::OpenError::Foreign { .. }), "{file}: {error}");
        assert!(error.to_string().contains(before[0].as_str()), "{file}: {error}");
        assert_eq!(names(folder.path()), before, "{file}");
        assert_eq!(fs::read(&path).unwrap(), b"theirs", "{file}");
    }
}

#[test]
fn what_may_lie_in_a_directory_before_the_first_start_is_not_foreign() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("lost+found")).unwrap();
    // A start that was interrupted, a shell, a secret.
    for name in ["lock", ".format", ".bash_history", "historian.token"] {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    drop(RocksEngine::open(folder.path(), &RocksOptions::default()).expect("it is taken"));
    assert_eq!(fs::read(folder.path().join("historian.token")).unwrap(), b"x");
}

#[test]
fn a_lease_that_is_not_the_one_that_was_granted_is_damage() {
    const LEASE: Duration = Duration::from_millis(500);
    let disk = SimDisk::new(1);
    let written = life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        opened.store.grant_lease(LEASE).await.unwrap();
        let written = opened.engine.read_file("lease").unwrap().unwrap();
        opened.stop().await;
        written
    });
    let mut flipped = written.to_vec();
    flipped[0] ^= 0x10;
    let cases = [
        ("as it was written", written.clone(), true),
        ("without its CRC", written.slice(..8), false),
        ("cut short", written.slice(..7), false),
        ("cut short in its CRC", written.slice(..11), false),
        ("of centuries", Bytes::from(flipped), false),
        ("of zeros", Bytes::from(vec![0; 12]), false),
    ];
    for (name, bytes, is_well) in cases {
        life(true, async { SimEngine::open(&disk).unwrap().write_file("lease", bytes).await.unwrap() });
        let granted = life(true, async {
            let opened = open_sim(&disk).await?;
            Ok::<_, OpenError>(opened.store.granted_lease()?)
        });
        match granted {
            Ok(granted) => assert!(is_well && granted == Some(LEASE), "{name}: {granted:?}"),
            Err(OpenError::Engine(EngineError::Damaged(reason))) => assert!(!is_well, "{name}: {reason}"),
            Err(other) => panic!("{name}: {other}"),
        }
    }
}
