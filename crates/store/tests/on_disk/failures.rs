//! A commit or sync that fails acknowledges nothing from then on.

use std::time::Duration;

use holdfast_store::Vote;
use holdfast_store::engine::Family;
use holdfast_store::engine::sim::{Operation, SimDisk, SimEngine};
use holdfast_store::ledger::{ApplyError, Body};
use model::{NodeId, Term};

use crate::support::{beginning, done, entry, found, id, life, open, open_sim, until_promised};

#[test]
fn a_failed_sync_is_final() {
    for operation in [Operation::Commit, Operation::Sync, Operation::WriteSlot] {
        let disk = SimDisk::new(3);
        life(true, async {
            let mut opened = open_sim(&disk).await.unwrap();
            opened.commit(&beginning()).await;
            until_promised(&opened).await;
            disk.fail(operation, 1);
            let log = opened.store.log();
            let vote = Vote { term: Term(9), node: NodeId(2), committed: false };
            log.save_vote(vote).await.expect_err("the disk said no");
            // The fault is over, and still nothing is acknowledged: what was lost may have been a part of it.
            let (later, outcome) = done();
            log.append([entry(1, 4, Body::Blank)], later);
            outcome.await.expect("the callback is called").expect_err("after a failure nothing is durable");
            log.save_vote(vote).await.expect_err("after a failure nothing is durable");
            let failure = tokio::time::timeout(Duration::from_secs(5), opened.supervisor.failure()).await;
            failure.expect("the task has failed, and says so");
        });
        life(true, async {
            let opened = open_sim(&disk).await.unwrap_or_else(|error| panic!("{operation:?}: {error}"));
            let last = opened.store.log().ends().last;
            assert_eq!(last, Some(id(1, 3)), "{operation:?}: what was acknowledged is there, and no more");
        });
    }
}

#[test]
fn whoever_waits_for_a_checkpoint_learns_that_the_disk_has_failed() {
    let disk = SimDisk::new(3);
    life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        opened.commit(&beginning()).await;
        disk.fail(Operation::WriteFile, 1);
        // The first is being written, the second waits behind it, the third comes too late.
        let keeper = opened.store.keeper();
        let both = async { tokio::join!(keeper.write_checkpoint(), keeper.write_checkpoint()) };
        let (first, second) = tokio::time::timeout(Duration::from_secs(5), both).await.expect("answered");
        first.expect_err("it was not written");
        second.expect_err("it was not written");
        let third = tokio::time::timeout(Duration::from_secs(5), keeper.write_checkpoint()).await;
        third.expect("answered").expect_err("it was not written");
    });
}

#[test]
fn an_entry_that_cannot_be_read_when_a_checkpoint_is_due_ends_the_node() {
    let disk = SimDisk::new(3);
    life(true, async {
        // Nothing stays in memory once it is written.
        let opened = open(SimEngine::open(&disk).expect("a fresh disk opens"), 0).await.unwrap();
        opened.commit(&beginning()).await;
        let (durable, outcome) = done();
        opened.store.log().append([4, 5].map(|index| entry(1, index, found())), durable);
        outcome.await.expect("the callback is called").expect("the disk is well");
        until_promised(&opened).await;
        disk.damage(Family::Entries, &4_u64.to_be_bytes());
        // Half an hour later the next entry is due to be followed by a checkpoint.
        tokio::time::sleep(Duration::from_secs(1_800)).await;
        let keeper = opened.store.keeper();
        let applied = keeper.apply(id(1, 4), &found());
        assert!(matches!(applied, Err(ApplyError::Disk(_))), "{applied:?}");
        keeper.write_checkpoint().await.expect_err("it would not say where in the log it belongs");
    });
}

#[test]
fn a_ledger_beyond_the_end_of_its_log_is_cut_all_the_same() {
    let disk = SimDisk::new(3);
    life(true, async {
        let opened = open_sim(&disk).await.unwrap();
        opened.commit(&beginning()).await;
        let keeper = opened.store.keeper();
        keeper.apply(id(1, 4), &Body::Blank).expect("it can be read");
        keeper.write_checkpoint().await.expect("no entry could have been read");
    });
}
