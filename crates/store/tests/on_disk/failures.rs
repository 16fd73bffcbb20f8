//! A commit or sync that fails acknowledges nothing from then on.

use std::time::Duration;

use holdfast_store::Vote;
use holdfast_store::engine::sim::{Operation, SimDisk};
use holdfast_store::ledger::Body;
use model::{NodeId, Term};

use crate::support::{beginning, done, entry, id, life, open_sim, until_promised};

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
