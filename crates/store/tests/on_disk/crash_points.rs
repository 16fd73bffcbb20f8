//! The crash points of checkpoints, purges and installs, and what must hold between them.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use holdfast_store::engine::sim::{Operation, SimDisk, SimEngine};
use holdfast_store::engine::{Durability, Engine, Family, Write};
use holdfast_store::ledger::ApplyError;
use holdfast_store::{Entry, staging};
use model::command::{Command, Request};
use model::ids::DocumentId;
use model::{Position, Revision};
use rand::Rng;
use runtime::random::generator;

use crate::support::{
    Counting, GRID, Opened, acknowledge, amnesia, beginning, command, configure_with, entry, eventually, id,
    life, open, open_sim, plant, polls_up_to, rocks, tamper, truncate, until_promised,
};

/// A log of which everything is delivered: polls up to entry `last`, and two more entries that say so.
fn delivered(last: u64) -> Vec<Entry> {
    let mut log = polls_up_to(last);
    log.push(entry(1, last + 1, acknowledge(last + 1)));
    log.push(entry(1, last + 2, truncate(last + 1)));
    log
}

fn entries_below(engine: &SimEngine, index: u64) -> usize {
    engine.range(Family::Entries, &[], Some(&index.to_be_bytes()), usize::MAX).expect("it can be read").len()
}

fn checkpoints<E: Engine>(engine: &E) -> Vec<String> {
    let names = engine.list_files().expect("they can be listed");
    names.into_iter().filter(|name| name.starts_with("checkpoint-")).collect()
}

/// Applies `log`, with checkpoints at entries 5 and 10, and purges up to entry 10.
async fn purge_up_to_ten(opened: &Opened<SimEngine>, log: &[Entry]) {
    let keeper = opened.store.keeper();
    opened.commit(&log[..5]).await;
    keeper.write_checkpoint().await.unwrap();
    opened.commit(&log[5..10]).await;
    keeper.write_checkpoint().await.unwrap();
    opened.commit(&log[10..]).await;
    keeper.purge(id(1, 10)).unwrap();
}

#[test]
fn what_a_crash_kept_from_being_given_back_goes_at_the_next_opening() {
    let disk = SimDisk::new(1);
    let log = delivered(15);
    life(true, async {
        let mut opened = open_sim(&disk).await.unwrap();
        disk.fail(Operation::DropBelow, 1);
        purge_up_to_ten(&opened, &log).await;
        opened.supervisor.failure().await;
    });
    life(true, async {
        let engine = SimEngine::open(&disk).unwrap();
        assert!(engine.get(Family::Raft, b"floor").unwrap().is_some(), "the floor is durable");
        assert_eq!((entries_below(&engine, 11), checkpoints(&engine).len()), (10, 2), "and nothing is gone");
    });
    life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        eventually("entries and checkpoints below the floor are gone", || {
            // Space is given back coarsely.
            entries_below(&opened.engine, 11) < 10 && checkpoints(&*opened.engine).len() == 1
        })
        .await;
        assert_eq!(opened.store.keeper().newest_snapshot_position(), Some(id(1, 10)));
        opened.stop().await;
    });
}

#[test]
fn an_installed_snapshot_leaves_no_older_checkpoint() {
    let log = delivered(15);
    life(true, async {
        let sender = open_sim(&SimDisk::new(1)).await.unwrap();
        sender.commit(&log).await;
        sender.store.keeper().write_checkpoint().await.unwrap();
        let snapshot = sender.store.keeper().newest_snapshot().unwrap().expect("all is delivered");

        let receiver = open_sim(&SimDisk::new(2)).await.unwrap();
        receiver.commit(&log[..5]).await;
        receiver.store.keeper().write_checkpoint().await.unwrap();
        receiver.store.keeper().install(snapshot.bytes).await.unwrap();
        eventually("the older checkpoint is gone", || checkpoints(&*receiver.engine).len() == 1).await;
        assert_eq!(receiver.store.keeper().newest_snapshot_position(), Some(snapshot.header.at));
        receiver.stop().await;
        sender.stop().await;
    });
}

/// A snapshot of all of `log`, of which everything is delivered.
fn snapshot_of(log: &[Entry]) -> Bytes {
    life(true, async {
        let sender = open_sim(&SimDisk::new(9)).await.unwrap();
        sender.commit(log).await;
        sender.store.keeper().write_checkpoint().await.unwrap();
        let snapshot = sender.store.keeper().newest_snapshot().unwrap().expect("all is delivered");
        sender.stop().await;
        snapshot.bytes
    })
}

/// A log with a document that is large enough for a page, of which everything is delivered.
fn delivered_with_a_page() -> Vec<Entry> {
    let mut log = delivered(15);
    log[2] = entry(1, 3, configure_with(9_000, 0, plant(&["historian"]), vec![7; 10_000]));
    log
}

/// Applies what comes before the page, durably, and writes a checkpoint. Gives the files.
async fn begin<E: Engine>(opened: &Opened<E>, log: &[Entry]) -> Vec<String> {
    opened.commit(&log[..2]).await;
    opened.flush().await;
    opened.store.keeper().write_checkpoint().await.unwrap();
    files(opened)
}

fn files<E: Engine>(opened: &Opened<E>) -> Vec<String> {
    opened.engine.list_files().expect("the disk is well")
}

/// Receives a snapshot. What is dropped with it is a killed process.
async fn receive<E: Engine>(opened: Opened<E>, log: &[Entry], snapshot: &Bytes) -> Vec<String> {
    let own = begin(&opened, log).await;
    let _received = opened.store.keeper().receive(snapshot).await.unwrap();
    assert!(files(&opened).len() >= own.len() + 2, "a checkpoint and its page");
    own
}

/// Receives a snapshot and drops it.
async fn give_up<E: Engine>(opened: Opened<E>, log: &[Entry], snapshot: &Bytes) {
    let own = begin(&opened, log).await;
    drop(opened.store.keeper().receive(snapshot).await.unwrap());
    is_cleaned_up(opened, &own).await;
}

async fn is_cleaned_up<E: Engine>(opened: Opened<E>, own: &[String]) {
    eventually("what was received is gone", || files(&opened) == own).await;
    assert_eq!(opened.store.log().ends().floor, None);
    opened.stop().await;
}

#[test]
fn what_was_received_and_is_not_installed_goes() {
    let log = delivered_with_a_page();
    let snapshot = snapshot_of(&log);
    life(true, async { give_up(open_sim(&SimDisk::new(1)).await.unwrap(), &log, &snapshot).await });
    let folder = tempfile::tempdir().unwrap();
    life(false, async {
        give_up(open(rocks(folder.path()), 1 << 20).await.unwrap(), &log, &snapshot).await;
    });
}

#[test]
fn what_a_killed_process_had_received_and_not_installed_goes_at_the_next_opening() {
    let log = delivered_with_a_page();
    let snapshot = snapshot_of(&log);
    let disk = SimDisk::new(1);
    let own = life(true, async { receive(open_sim(&disk).await.unwrap(), &log, &snapshot).await });
    life(true, async { is_cleaned_up(open_sim(&disk).await.unwrap(), &own).await });

    let folder = tempfile::tempdir().unwrap();
    let own = life(false, async {
        receive(open(rocks(folder.path()), 1 << 20).await.unwrap(), &log, &snapshot).await
    });
    life(false, async { is_cleaned_up(open(rocks(folder.path()), 1 << 20).await.unwrap(), &own).await });
}

#[test]
fn a_crash_while_a_snapshot_comes_or_goes_leaves_what_was_there_before() {
    let log = delivered_with_a_page();
    let snapshot = snapshot_of(&log);
    let (mut left, mut clean) = (0, 0);
    for seed in 0..100 {
        let mut random = generator(Some(seed));
        let disk = SimDisk::new(seed);
        let own = life(true, async {
            let opened = open_sim(&disk).await.unwrap();
            let own = begin(&opened, &log).await;
            disk.set_latency(Duration::from_millis(1), Duration::from_millis(8));
            // It comes at once, and goes with the keeper's next round, a second after the last one.
            let begins = [0, 1_000][random.random_range(0..2)];
            let patience = Duration::from_millis(begins + random.random_range(0..40));
            let comes_and_goes = async {
                drop(opened.store.keeper().receive(&snapshot).await.unwrap());
                std::future::pending::<()>().await;
            };
            let _ = tokio::time::timeout(patience, comes_and_goes).await;
            disk.crash(&mut random);
            own
        });
        let found = SimEngine::open(&disk).unwrap().list_files().unwrap();
        if found == own {
            clean += 1;
        } else {
            left += 1;
        }
        life(true, async { is_cleaned_up(open_sim(&disk).await.unwrap(), &own).await });
    }
    assert!(left > 10 && clean > 10, "something was left {left} times, and nothing {clean} times");
}

#[test]
fn a_floor_at_a_checkpoint_that_was_received_comes_behind_the_rows_that_cover_it() {
    let log = delivered(15);
    let snapshot = snapshot_of(&log);
    for seed in 0..50 {
        let mut random = generator(Some(seed));
        let disk = SimDisk::new(seed);
        life(true, async {
            let opened = open_sim(&disk).await.unwrap();
            begin(&opened, &log).await;
            let received = opened.store.keeper().receive(&snapshot).await.unwrap();
            // The log brings what it would have brought: now it is a checkpoint like those that are cut here.
            opened.commit(&log[2..]).await;
            drop(received);
            let at = opened.store.keeper().newest_snapshot_position().expect("all is delivered");
            assert_eq!(at, id(1, 17));
            disk.set_latency(Duration::from_millis(1), Duration::from_millis(8));
            opened.store.keeper().purge(at).unwrap();
            tokio::time::sleep(Duration::from_millis(random.random_range(0..40))).await;
            disk.crash(&mut random);
        });
        life(true, async { open_sim(&disk).await.expect("it has lost nothing").stop().await });
    }
}

#[test]
fn where_a_tail_stays_behind_a_snapshot_so_does_its_chain() {
    let log = delivered(15);
    // A node whose log was moved in whole knows no chain from before; what it writes goes on from there.
    let moved = life(true, async {
        let opened = open_sim(&SimDisk::new(1)).await.unwrap();
        opened.apply(&log[..17]);
        opened.store.keeper().write_checkpoint().await.unwrap();
        let moved = opened.store.keeper().newest_snapshot().unwrap().expect("all is delivered");
        assert_eq!(moved.header.chain, [0; 16]);
        moved.bytes
    });
    let more = [entry(1, 18, acknowledge(18)), entry(1, 19, truncate(18)), entry(1, 20, acknowledge(20))];
    let snapshot = life(true, async {
        let opened = open_sim(&SimDisk::new(2)).await.unwrap();
        opened.store.keeper().install(moved).await.unwrap();
        opened.commit(&more).await;
        opened.store.keeper().write_checkpoint().await.unwrap();
        let snapshot = opened.store.keeper().newest_snapshot().unwrap().expect("all is delivered");
        assert_ne!(snapshot.header.chain, [0; 16]);
        snapshot.bytes
    });
    // A node that has the same entries, and one more, but has applied little.
    let disk = SimDisk::new(3);
    life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        opened.write(&log).await;
        opened.write(&more).await;
        opened.write(&[entry(1, 21, acknowledge(21))]).await;
        opened.apply(&log[..5]);
        opened.store.keeper().install(snapshot).await.unwrap();
        assert_eq!(opened.store.log().ends().last, Some(id(1, 21)), "the tail stays");
        opened.stop().await;
    });
    life(true, async {
        let opened = open_sim(&disk).await.expect("it has lost nothing");
        assert_eq!(opened.store.log().ends().last, Some(id(1, 21)));
        opened.stop().await;
    });
}

#[test]
fn what_an_opening_finds_is_promised_from_then_on() {
    let disk = SimDisk::new(1);
    life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        opened.commit(&polls_up_to(6)).await;
        // Ends before a promise is due.
    });
    life(true, async {
        open_sim(&disk).await.expect("nothing is lost");
    });
    tamper(&disk, vec![Write::Delete(Family::Entries, 6_u64.to_be_bytes().to_vec())]);
    assert_eq!(amnesia(&disk), "it acknowledged entry 6, but its log ends at 5");
}

#[test]
fn a_digest_is_that_of_the_entry_it_names() {
    const LAST: u64 = 2_000;
    let log = polls_up_to(LAST);
    let expected: BTreeMap<Position, String> = life(true, async {
        let opened = open_sim(&SimDisk::new(1)).await.unwrap();
        let digest_behind = |entry: &Entry| {
            opened.apply(std::slice::from_ref(entry));
            (entry.id.index, opened.store.keeper().digest().1.to_string())
        };
        log.iter().map(digest_behind).collect()
    });
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let opened = runtime.block_on(async { open_sim(&SimDisk::new(2)).await.unwrap() });
    let keeper = opened.store.keeper();
    std::thread::scope(|scope| {
        scope.spawn(|| opened.apply(&log));
        while keeper.read(|state| state.applied_position()) < Position(LAST) {
            let (applied, digest) = keeper.digest();
            let Some(at) = applied.map(|applied| applied.index) else { continue };
            assert_eq!(digest.to_string(), expected[&at], "the digest of entry {at}");
        }
    });
}

#[test]
fn an_entry_that_is_given_back_while_it_is_read_is_passed_over() {
    let disk = SimDisk::new(1);
    life(true, async {
        let engine = Counting::new(SimEngine::open(&disk).unwrap());
        let before_range = Arc::clone(&engine.before_range);
        let opened = open(engine, 0).await.unwrap();
        opened.commit(&delivered(15)).await;
        let log = opened.store.log().clone();
        *before_range.lock().unwrap() = Some(Box::new(move |engine: &SimEngine| {
            log.purge(id(1, 10), Box::new(drop)).unwrap();
            let below = Write::DeleteRange(Family::Entries, Vec::new(), 11_u64.to_be_bytes().to_vec());
            let given_back = pin!(engine.commit(vec![below], Durability::Lazy));
            assert!(given_back.poll(&mut Context::from_waker(Waker::noop())).is_ready());
        }));
        let read = opened.store.log().read(5, 16, usize::MAX).expect("nothing is damaged");
        assert!(before_range.lock().unwrap().is_none(), "it was purged in the middle");
        let read: Vec<u64> = read.iter().map(|entry| entry.id.index.0).collect();
        assert_eq!(read, (11..16).collect::<Vec<_>>());
        opened.stop().await;
    });
}

/// A staged document that a newer version packed, and the entries that stage and use it.
fn newer_document() -> (DocumentId, Vec<Entry>) {
    let mut document = wire::packed::pack_documents(b"bundle", &plant(&["historian"])).unwrap();
    // The version of the bundle is the first field of the first.
    let version = document.windows(2).position(|pair| pair == [0x08, 0x01]).expect("it has a version") + 1;
    document[version] = 99;
    let id = staging::document_id(&document);
    let parts = staging::parts(&document);
    let count = u32::try_from(parts.len()).unwrap();
    let mut log = beginning();
    for (part, data) in (0..).zip(parts) {
        let stage = Command::Stage { document: id, part, parts: count, data: data.to_vec() };
        log.push(entry(1, log.len() as u64 + 1, command(0, &stage)));
    }
    let configure = Command::ConfigureStaged {
        base: Revision(1),
        document: id,
        elapsed: Vec::new(),
        discard: Vec::new(),
        request: Request::default(),
    };
    log.push(entry(1, log.len() as u64 + 1, command(0, &configure)));
    (id, log)
}

#[test]
fn an_entry_that_cannot_be_read_changes_nothing_before_the_upgrade() {
    let (document, log) = newer_document();
    let (readable, newer) = (&log[..log.len() - 1], log.last().unwrap());
    let disk = SimDisk::new(1);
    let before = life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        opened.commit(readable).await;
        opened.write(std::slice::from_ref(newer)).await;
        let keeper = opened.store.keeper();
        let before = keeper.digest();
        let refused = keeper.apply(newer.id, &newer.body);
        assert!(matches!(refused, Err(ApplyError::Unreadable { .. })), "{refused:?}");
        assert_eq!(keeper.digest(), before);
        until_promised(&opened).await;
        opened.stop().await;
        before
    });
    life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        let keeper = opened.store.keeper();
        assert_eq!(keeper.digest(), before);
        assert!(keeper.read(|state| state.staged.contains_key(&document)), "the newer version finds it");
        opened.stop().await;
    });
}

#[test]
fn nothing_is_known_of_slots_that_came_with_a_snapshot() {
    let log = delivered(15);
    life(true, async {
        let sender = open_sim(&SimDisk::new(1)).await.unwrap();
        sender.commit(&log).await;
        sender.store.keeper().write_checkpoint().await.unwrap();
        let snapshot = sender.store.keeper().newest_snapshot().unwrap().expect("all is delivered");

        let receiver = open_sim(&SimDisk::new(2)).await.unwrap();
        let keeper = receiver.store.keeper();
        receiver.commit(&log[..6]).await;
        // It hears nothing for an hour.
        tokio::time::advance(Duration::from_secs(3_600)).await;
        keeper.install(snapshot.bytes).await.unwrap();
        let [(_, grid, elapsed)] = keeper.open_grids()[..] else { panic!("one grid is open") };
        assert_eq!((grid.id, grid.next), (GRID, 12));
        assert!(elapsed.least < Duration::from_secs(1), "not since slot 2: {elapsed:?}");
        assert_eq!(elapsed.most, None);
        receiver.stop().await;
        sender.stop().await;
    });
}
