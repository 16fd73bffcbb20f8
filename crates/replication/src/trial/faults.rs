//! Stalls, crashes, lost answers and the order of proposals, on real replicas.

#![allow(clippy::disallowed_methods, reason = "a test is the end that everything it spawned comes to")]

use std::process::{Command as Process, Stdio};

use futures::future::join_all;
use model::batch::{Batch, Sample, Source};
use model::command::Command;
use model::{Position, Reading, Revision, SessionId, TagId, Timestamp, Value};
use store::{BatchOutcome, Outcome};
use tokio::task::JoinHandle;
use wire::entry::EncodedBatch;

use super::*;
use crate::network::ProposeError;

const LAN: LeaseTimes = LeaseTimes::LAN;
/// How long a proposal of these tests is waited for.
const BRIEFLY: Duration = Duration::from_millis(200);

/// One pushed sample, the number `sequence` of its session.
fn pushed(session: u128, sequence: u64) -> EncodedBatch {
    let sample = Sample {
        tag: TagId(1),
        source_time: Timestamp::from_millis(i64::try_from(sequence).expect("small")),
        reading: Reading::Good(Value::U64(sequence)),
    };
    let source = Source::Pushed { session: SessionId::from(session), sequence };
    let batch = Batch::new(source, NodeId(1), Revision(0), Timestamp::from_millis(0), vec![sample]);
    EncodedBatch::encode(&batch.expect("it holds a sample")).expect("it can be encoded")
}

impl Cluster {
    async fn push(&self, node: u64, session: u128, sequence: u64) -> Result<BatchOutcome, ProposeError> {
        let applied = self.replica(node).append(&[pushed(session, sequence)], BRIEFLY).await?;
        match applied.outcome {
            Outcome::Appended { batches, .. } => Ok(batches[0]),
            other => panic!("expected an answer to samples, found {other:?}"),
        }
    }

    async fn push_all(&self, node: u64, session: u128, sequences: std::ops::RangeInclusive<u64>) {
        for sequence in sequences {
            assert_eq!(self.push(node, session, sequence).await, Ok(BatchOutcome::Accepted));
        }
    }

    /// Proposes without waiting.
    fn push_unseen(&self, node: u64, session: u128, sequence: u64) -> JoinHandle<()> {
        let replica = self.replica(node).clone();
        tokio::spawn(async move {
            drop(replica.append(&[pushed(session, sequence)], PATIENCE).await);
        })
    }

    /// What a node's buffer would deliver: (position, session, sequence) of each accepted batch.
    fn deliverable(&self, node: u64) -> Vec<(Position, SessionId, u64)> {
        let (entries, _) =
            self.replica(node).store().read_buffer(Position(0), usize::MAX).expect("it can be read");
        let mut found = Vec::new();
        for entry in entries {
            let Some(command) = entry.command else { continue };
            let opened = wire::entry::open(command).expect("it was encoded here");
            for (number, batch) in (0..).zip(opened.payloads.iter()) {
                if let Source::Pushed { session, sequence } = batch.header.source
                    && !entry.effects.refused.contains(&number)
                {
                    found.push((entry.id.index, session, sequence));
                }
            }
        }
        found
    }
}

#[tokio::test(start_paused = true)]
async fn a_returning_leader_with_an_uncommitted_tail_serves_only_committed_samples() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (old, second, third) = cluster.three();
    cluster.push_all(old, 1, 1..=5).await;
    // The tail: nobody else gets it.
    cluster.isolate(old, true);
    let tail = join_all((1..=6).map(|sequence| cluster.push(old, 2, sequence))).await;
    assert!(tail.iter().all(Result::is_err), "{tail:?}");
    let tail_ends = cluster.replica(old).store().log().ends().last.expect("it holds entries").index;
    let new = cluster.until_another_leads(old).await;
    // Where the tail lies, the others have something else; and they forget the entries that the old leader would need.
    cluster.push_all(new, 3, 1..=20).await;
    cluster.until("the new entries are beyond the tail", |cluster| cluster.applied(new) > tail_ends).await;
    let write_checkpoints = async |cluster: &Cluster| {
        for node in [second, third] {
            cluster.replica(node).store().keeper().write_checkpoint().await.expect("the disk works");
        }
    };
    write_checkpoints(&cluster).await;
    let below = cluster.applied(new).next();
    cluster.push_all(new, 3, 21..=30).await;
    let truncate = Command::Truncate { below, overrun: None };
    cluster.replica(new).propose(&truncate, BRIEFLY).await.expect("nothing is undelivered");
    write_checkpoints(&cluster).await;
    cluster
        .until("the log is purged", |cluster| {
            let floor = cluster.replica(new).store().log().ends().floor;
            floor.is_some_and(|floor| floor.index > tail_ends)
        })
        .await;
    cluster.isolate(old, false);
    cluster.until_all_applied_alike().await;

    let expected: Vec<_> = (21..=30).map(|sequence| (SessionId::from(3), sequence)).collect();
    for node in [new, second, third, old] {
        let found = cluster.deliverable(node);
        let found: Vec<_> = found.into_iter().map(|(_, session, sequence)| (session, sequence)).collect();
        assert_eq!(found, expected, "the buffer of node {node}");
    }
    assert_eq!(cluster.deliverable(old), cluster.deliverable(new), "at the same positions");
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_the_backlog_has_filled_comes_back_with_a_snapshot_once_it_is_delivered() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (leader, full, third) = cluster.three();
    cluster.push_all(leader, 1, 1..=5).await;
    cluster.until_all_applied_alike().await;
    cluster.set_free(full, 0);
    cluster.push_all(leader, 1, 6..=20).await;
    let stopped_at = cluster.replica(full).store().log().ends().last.expect("it holds entries").index;
    assert!(stopped_at < cluster.applied(leader), "it takes no entries");
    for node in [leader, third] {
        cluster.replica(node).store().keeper().write_checkpoint().await.expect("the disk works");
    }
    let below = cluster.applied(leader).next();
    let truncate = Command::Truncate { below, overrun: None };
    cluster.replica(leader).propose(&truncate, BRIEFLY).await.expect("a majority has room");
    cluster
        .until("the full one has a snapshot, and the log before it is gone", |cluster| {
            let floor = cluster.replica(full).store().log().ends().floor;
            floor.is_some_and(|floor| floor.index > stopped_at)
        })
        .await;
    // What the log held is given back.
    cluster.set_free(full, 1 << 30);
    cluster.push_all(leader, 1, 21..=25).await;
    cluster.until_all_applied_alike().await;
}

#[tokio::test(start_paused = true)]
async fn an_install_does_not_cost_the_lease() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (leader, late, third) = cluster.three();
    cluster.push_all(leader, 1, 1..=5).await;
    cluster.until_all_applied_alike().await;
    cluster.set_free(late, 0);
    cluster.push_all(leader, 1, 6..=20).await;
    let stopped_at = cluster.replica(late).store().log().ends().last.expect("it holds entries").index;
    cluster.replica(leader).store().keeper().write_checkpoint().await.expect("the disk works");
    let below = cluster.applied(leader).next();
    let truncate = Command::Truncate { below, overrun: None };
    cluster.replica(leader).propose(&truncate, BRIEFLY).await.expect("a majority has room");
    // From now on the lease rests on the one that is to install, which takes seconds to write the snapshot.
    cluster.disk(late).set_file_latency(Duration::from_secs(1));
    cluster.isolate(third, true);
    let (term, held) = (cluster.term(leader), cluster.leadership(leader));
    cluster
        .until("the snapshot is installed", |cluster| {
            assert!(held.check().is_ok(), "{}", cluster.account());
            let floor = cluster.replica(late).store().log().ends().floor;
            floor.is_some_and(|floor| floor.index > stopped_at)
        })
        .await;
    cluster.run_for(LAN.lease).await;
    assert!(held.check().is_ok());
    cluster.set_free(late, 1 << 30);
    cluster.isolate(third, false);
    let pushing = cluster.push_unseen(leader, 1, 21);
    cluster.until("it takes entries again", |_| pushing.is_finished()).await;
    cluster.until_all_applied_alike().await;
    assert_eq!(cluster.term(leader), term);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_has_ended_says_nothing_of_the_logs_of_others() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (old, follower, _) = cluster.three();
    assert_eq!(cluster.push(follower, 1, 1).await, Ok(BatchOutcome::Accepted));
    // As when its disk fails: Raft has ended, and its peer port still answers.
    cluster.replica(old).inner.raft.shutdown().await.expect("it ends");
    let answer = cluster.push(follower, 1, 2).await;
    assert_eq!(answer, Err(ProposeError::NotLeader { leader: None }), "surely not proposed, and no more");
    cluster.crash(old);
    cluster.until_another_leads(old).await;
    assert_eq!(cluster.push(follower, 1, 2).await, Ok(BatchOutcome::Accepted));
}

#[tokio::test(start_paused = true)]
async fn what_was_placed_has_its_place_whoever_is_waited_for_first() {
    let cluster = Cluster::found([LAN; 3]).await;
    let (leader, ..) = cluster.three();
    let (replica, leadership) = (cluster.replica(leader), cluster.leadership(leader));
    let first = replica.place_in(&leadership, &[pushed(1, 1)], BRIEFLY).await.expect("there is room");
    let second = replica.place_in(&leadership, &[pushed(1, 2)], BRIEFLY).await.expect("there is room");
    let second = second.outcome().await.expect("a majority is there");
    let first = first.outcome().await.expect("a majority is there");
    assert!(first.position < second.position, "{} and {}", first.position, second.position);
    assert_eq!(cluster.push(leader, 1, 3).await, Ok(BatchOutcome::Accepted), "neither was refused");
}

#[tokio::test(start_paused = true)]
async fn a_push_of_unknown_outcome_survives_a_failover_once() {
    // Nobody else may have got it, or everybody has and only the answers were lost.
    for is_lost in [true, false] {
        let mut cluster = Cluster::found([LAN; 3]).await;
        let (old, ..) = cluster.three();
        cluster.push_all(old, 1, 1..=3).await;
        for other in cluster.others(old) {
            cluster.wires.cut(old, other, is_lost);
            cluster.wires.cut(other, old, true);
        }
        assert_eq!(cluster.push(old, 1, 4).await, Err(ProposeError::Unknown));
        cluster.crash(old);
        let new = cluster.until_another_leads(old).await;
        let known =
            cluster.replica(new).store().keeper().read(|state| state.sessions[&SessionId::from(1)].last);
        assert_eq!(known, if is_lost { 3 } else { 4 }, "applying `Lead` has decided it");
        let again = cluster.push(new, 1, 4).await.expect("the new leader decides");
        assert_eq!(again, if is_lost { BatchOutcome::Accepted } else { BatchOutcome::Already });
        assert_eq!(cluster.push(new, 1, 5).await, Ok(BatchOutcome::Accepted));
        cluster.isolate(old, false);
        cluster.restart(old).await;
        cluster.until_all_applied_alike().await;
        for node in [1, 2, 3] {
            let sequences: Vec<_> =
                cluster.deliverable(node).into_iter().map(|(_, _, sequence)| sequence).collect();
            assert_eq!(sequences, [1, 2, 3, 4, 5], "node {node}, lost: {is_lost}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_second_of_flush_stall_on_both_followers_elects_nobody() {
    for times in [LAN, LeaseTimes::LAN_FAST] {
        let mut cluster = Cluster::found([times; 3]).await;
        cluster.run_for(times.lease * 2).await;
        let (leader, second, third) = cluster.three();
        let (term, held) = (cluster.term(leader), cluster.leadership(leader));
        let second_long = Duration::from_secs(1);
        for follower in [second, third] {
            cluster.disk(follower).set_latency(second_long, second_long);
        }
        let pushing = cluster.push_unseen(leader, 1, 1);
        cluster.run_for(Duration::from_millis(20)).await;
        for follower in [second, third] {
            cluster.disk(follower).set_latency(Duration::ZERO, Duration::from_millis(1));
        }
        cluster.run_for(times.lease).await;
        assert!(held.check().is_err(), "nobody has answered for so long: the lease must be lost");
        cluster.until("the entry is committed", |_| pushing.is_finished()).await;
        cluster.run_for(times.lease * 2).await;
        assert_eq!([leader, second, third].map(|node| cluster.term(node)), [term; 3], "{times:?}");
        assert!(held.check().is_ok(), "the same leadership goes on");
    }
}

#[tokio::test(start_paused = true)]
async fn leadership_goes_to_whoever_has_what_was_read_and_not_to_one_whose_disk_is_slow() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    cluster.run_for(LAN.lease * 2).await;
    // Where both have the same, the slow one comes first, by its number.
    let (leader, slow, third) = cluster.three();
    cluster.disk(slow).set_latency(LAN.lease / 2, LAN.lease / 2);
    cluster.disk(third).set_latency(LAN.lease / 50, LAN.lease / 50);
    let ends = |cluster: &Cluster| cluster.replica(leader).store().log().ends().last;
    let before = ends(&cluster);
    let pushing = cluster.push_unseen(leader, 1, 1);
    cluster.until("it is in the log, and nobody has confirmed it", |cluster| ends(cluster) > before).await;
    let began = Instant::now();
    let handed_over = cluster.replica(leader).clone().transfer_leadership(None).await;
    assert_eq!(handed_over, Ok(NodeId(third)), "{}", cluster.account());
    assert!(began.elapsed() < LAN.lease / 2, "it was asked in vain: after {:?}", began.elapsed());
    cluster.until("it is decided", |_| pushing.is_finished()).await;
}

#[tokio::test(start_paused = true)]
async fn a_stalled_disk_of_the_leader_does_not_depose_it() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    cluster.run_for(LAN.lease * 2).await;
    let (leader, ..) = cluster.three();
    let (term, held) = (cluster.term(leader), cluster.leadership(leader));
    let second_long = Duration::from_secs(1);
    cluster.disk(leader).set_latency(second_long, second_long);
    for sequence in 1..=40 {
        // The followers are a majority.
        cluster.push_all(leader, 1, sequence..=sequence).await;
        cluster.run_for(LAN.heartbeat).await;
        assert!(held.check().is_ok(), "after {sequence} entries");
    }
    cluster.disk(leader).set_latency(Duration::ZERO, Duration::from_millis(1));
    cluster.until_all_applied_alike().await;
    assert_eq!(cluster.term(leader), term);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_nobody_answers_falls_silent() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (leader, second, third) = cluster.three();
    cluster.run_for(LAN.lease * 2).await;
    for follower in [second, third] {
        cluster.disk(follower).set_latency(Duration::from_secs(8), Duration::from_secs(8));
    }
    let pushing = cluster.push_unseen(leader, 1, 1);
    cluster.run_for(Duration::from_millis(20)).await;
    for follower in [second, third] {
        cluster.disk(follower).set_latency(Duration::ZERO, Duration::from_millis(1));
    }
    let unheard = |cluster: &Cluster| {
        let peer = cluster.replica(second).peers().get(NodeId(leader)).expect("it is a peer");
        peer.last_seen.expect("it was heard").elapsed()
    };
    cluster.run_for(Duration::from_secs(2)).await;
    assert!(unheard(&cluster) < LAN.lease, "it goes on for two seconds after its lease");
    cluster.until("silence", |cluster| unheard(cluster) > LAN.lease).await;
    // Whoever leads in the end, the cluster works again and nothing is lost.
    cluster.until("the entry is decided", |_| pushing.is_finished()).await;
    cluster.until("a leader", |cluster| cluster.leader().is_some()).await;
    let leader = cluster.leader().expect("just seen");
    cluster.push_all(leader, 2, 1..=1).await;
    cluster.until_all_applied_alike().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_apply_does_not_depose_the_leader() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    cluster.run_for(LAN.lease * 2).await;
    let (leader, ..) = cluster.three();
    let (term, held) = (cluster.term(leader), cluster.leadership(leader));
    cluster.mischief(leader).let_apply(false);
    let mut pushing = Vec::new();
    for sequence in 1..=300 {
        pushing.push(cluster.push_unseen(leader, 1, sequence));
        cluster.run_for(Duration::from_millis(5)).await;
        assert!(held.check().is_ok(), "after {sequence} entries");
    }
    cluster.mischief(leader).let_apply(true);
    cluster.until("all are applied", |_| pushing.iter().all(JoinHandle::is_finished)).await;
    assert_eq!(cluster.term(leader), term);
    assert_eq!(cluster.deliverable(leader).len(), 300);
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_disk_fails_ends_and_does_not_hang() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (leader, follower, _) = cluster.three();
    cluster.disk(follower).fail(store::engine::sim::Operation::Sync, 1);
    let pushing = cluster.push_unseen(leader, 1, 1);
    cluster.until("a majority has it", |_| pushing.is_finished()).await;
    let node = &mut cluster.nodes[follower as usize - 1];
    let mut running = node.running.take().expect("it runs");
    running.supervisor.failure().await;
    let began = Instant::now();
    running.replica.shut_down().await;
    assert!(running.supervisor.shut_down(PATIENCE).await, "every task has ended");
    assert!(began.elapsed() < Duration::from_secs(2), "after {:?}", began.elapsed());
}

/// Set in the process that is going to end.
const CHILD: &str = "HOLDFAST_TEST_CHILD";
/// What it ends with when a failure was reported to its owner, as a node does.
const ENDED: i32 = 7;

#[test]
fn a_panicked_core_ends_the_process() {
    if std::env::var_os(CHILD).is_some() {
        return panic_in_the_core();
    }
    let this = std::env::current_exe().expect("this program");
    let mut child = Process::new(this)
        .args(["--exact", "trial::faults::a_panicked_core_ends_the_process", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it can be started again");
    let until = std::time::Instant::now() + PATIENCE;
    let ended = loop {
        match child.try_wait().expect("it is our child") {
            Some(status) => break status,
            None if std::time::Instant::now() > until => {
                child.kill().expect("it is our child");
                panic!("expected the process to end, found it running without a core");
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert_eq!(ended.code(), Some(ENDED));
}

/// A node with one task of its own that would go on for ever.
fn panic_in_the_core() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let failure = runtime.expect("a runtime").block_on(async {
        let mut cluster = Cluster::found([LAN]).await;
        let mut running = cluster.nodes[0].running.take().expect("it runs");
        running.mischief.panic_in_core();
        let replica = running.replica.clone();
        tokio::spawn(async move { replica.append(&[pushed(1, 1)], PATIENCE).await });
        running.supervisor.failure().await
    });
    assert_eq!(failure.task, "raft watch", "{failure}");
    std::process::exit(ENDED);
}
