//! What a follower that comes to lead knows of when the last slots began, and what it makes of that.

use model::batch::{Batch, Sample, Source};
use model::command::{Command, Request};
use model::plant::{Device, Group, Link, Plant, Schedule, Tag};
use model::slots::{Elapsed, Resumption, resume};
use model::value::ValueType;
use model::{Cause, GroupId, Reading, Revision, SessionId, TagId, Value};
use store::ledger::{EffectRecord, Grid};
use store::{BatchOutcome, Outcome};
use wire::entry::EncodedBatch;

use super::*;

const LAN: LeaseTimes = LeaseTimes::LAN;
const BRIEFLY: Duration = Duration::from_millis(500);
/// From the beginning of a slot to its commit, at most.
const NEAR: Duration = Duration::from_millis(100);
/// The only group of the plant.
const GROUP: GroupId = GroupId(1);

fn plant(period: Duration) -> Plant {
    let tag = Tag {
        name: "level".into(),
        point: None,
        value_type: ValueType::U64,
        unit: String::new(),
        description: String::new(),
    };
    let schedule = Some(Schedule { period, offset: Duration::ZERO });
    let group = Group { id: "slow".into(), schedule, enabled: true, tags: vec![tag] };
    let device = Device {
        id: "tank".into(),
        link: Link::Push,
        enabled: true,
        labels: Default::default(),
        description: String::new(),
        groups: vec![group],
    };
    Plant { devices: vec![device], ..Plant::default() }
}

fn encoded(source: Source, node: u64) -> EncodedBatch {
    let reading = Reading::Good(Value::U64(1));
    let sample = Sample { tag: TagId(1), source_time: Timestamp(0), reading };
    let batch = Batch::new(source, NodeId(node), Revision(1), Timestamp(0), vec![sample]);
    EncodedBatch::encode(&batch.expect("it holds a sample")).expect("it can be encoded")
}

impl Cluster {
    async fn configure(&self, plant: Plant) {
        let command = Command::Configure {
            base: Revision(0),
            bundle: Vec::new(),
            plant: Box::new(plant),
            elapsed: Vec::new(),
            discard: Vec::new(),
            request: Request::default(),
        };
        let leader = self.leader().expect("somebody leads");
        let outcome = self.replica(leader).propose(&command, BRIEFLY).await.expect("it is committed").outcome;
        assert_eq!(outcome, Outcome::Configured { revision: Revision(1) });
    }

    async fn accept(&self, node: u64, source: Source) {
        let applied = self.replica(node).append(&[encoded(source, node)], BRIEFLY).await;
        let outcome = applied.expect("a majority is there").outcome;
        assert!(
            matches!(&outcome, Outcome::Appended { batches, .. } if batches == &[BatchOutcome::Accepted]),
            "expected it to be accepted, found {outcome}"
        );
    }

    /// The open grid as `node` knows it, and what it knows of when its last slot began.
    fn grid(&self, node: u64) -> (Grid, Elapsed) {
        let grids = self.replica(node).store().keeper().open_grids();
        let (_, grid, elapsed) = grids.into_iter().find(|(group, ..)| *group == GROUP).expect("it is open");
        (grid, elapsed)
    }

    /// Lets time pass until the next slot begins, and has `leader` commit it; when it began.
    async fn poll(&mut self, leader: u64) -> Instant {
        let (grid, _) = self.grid(leader);
        let nominal = grid.line.nominal(grid.next);
        self.until("the slot begins", |cluster| cluster.clock.now() >= nominal).await;
        let began = Instant::now();
        let source = Source::Polled { group: GROUP, grid: grid.id, slot: grid.next, skipped: Cause::Late };
        self.accept(leader, source).await;
        began
    }

    /// Lets time pass in which the leader commits something every quarter of a second.
    async fn run_with_traffic(&mut self, leader: u64, sequences: std::ops::RangeInclusive<u64>) {
        for sequence in sequences {
            self.accept(leader, Source::Pushed { session: SessionId::from(1), sequence }).await;
            self.run_for(Duration::from_millis(250)).await;
        }
    }

    async fn hand_over(&mut self, from: u64, to: u64) {
        self.until("it may take over", |cluster| cluster.replica(from).successor(Some(NodeId(to))).is_ok())
            .await;
        self.replica(from).clone().transfer_leadership(Some(NodeId(to))).await.expect("it can take over");
        assert_eq!(self.until_another_leads(from).await, to);
    }

    fn resumption(&self, node: u64) -> Resumption {
        let (grid, elapsed) = self.grid(node);
        resume(&grid.line, grid.next, self.clock.now(), elapsed)
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_knows_to_the_moment_when_a_slot_began_that_it_applied_at_once() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (leader, second, third) = cluster.three();
    cluster.configure(plant(Duration::from_secs(1))).await;
    let mut began = Instant::now();
    for _ in 0..3 {
        began = cluster.poll(leader).await;
    }
    cluster.until_all_applied_alike().await;
    cluster.run_for(Duration::from_millis(300)).await;
    for node in [leader, second, third] {
        let (_, known) = cluster.grid(node);
        let (most, truly) = (known.most.expect("it applied it at once"), began.elapsed());
        assert!(
            known.least.abs_diff(truly) < NEAR && most.abs_diff(truly) < NEAR,
            "node {node} knows {known:?}, expected {truly:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_caught_up_and_then_leads_opens_no_grid_anew() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (leader, follower, _) = cluster.three();
    cluster.configure(plant(Duration::from_secs(6))).await;
    cluster.until_all_applied_alike().await;
    cluster.crash(follower);
    let began = cluster.poll(leader).await;
    cluster.run_with_traffic(leader, 1..=16).await;
    cluster.restart(follower).await;
    cluster.until_all_applied_alike().await;
    cluster.run_with_traffic(leader, 17..=17).await;
    cluster.hand_over(leader, follower).await;

    let ((grid, known), truly) = (cluster.grid(follower), began.elapsed());
    assert_eq!(grid.next, 1, "the next slot has not begun");
    assert!(truly > Duration::from_secs(4), "long enough to tell: {truly:?}");
    assert!(known.least < Duration::from_secs(2), "it applied the slot when it was back: {known:?}");
    assert!(known.most.is_none_or(|most| most + NEAR >= truly), "it began {truly:?} ago: {known:?}");
    assert_eq!(cluster.resumption(follower), Resumption::Continue { slot: 1 });
}

#[tokio::test(start_paused = true)]
async fn a_node_that_installed_a_snapshot_and_then_leads_invents_no_gap() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (leader, late, third) = cluster.three();
    cluster.configure(plant(Duration::from_secs(1))).await;
    for _ in 0..2 {
        cluster.poll(leader).await;
    }
    cluster.until_all_applied_alike().await;
    // It has applied slot 1 itself; slots 2 to 9 it gets as part of a snapshot.
    cluster.isolate(late, true);
    let mut began = Instant::now();
    for _ in 0..8 {
        began = cluster.poll(leader).await;
    }
    let below = cluster.applied(leader).next();
    cluster
        .replica(leader)
        .propose(&Command::Truncate { below, overrun: None }, BRIEFLY)
        .await
        .expect("nothing is undelivered");
    for node in [leader, third] {
        cluster.replica(node).store().keeper().write_checkpoint().await.expect("the disk works");
    }
    cluster
        .until("the log is purged", |cluster| {
            let floor = cluster.replica(leader).store().log().ends().floor;
            floor.is_some_and(|floor| floor.index > cluster.applied(late))
        })
        .await;
    cluster.isolate(late, false);
    cluster.until_all_applied_alike().await;
    cluster.hand_over(leader, late).await;
    let ((grid, known), truly) = (cluster.grid(late), began.elapsed());
    assert_eq!(grid.next, 10);
    assert!(known.least <= truly, "slot 9 began {truly:?} ago: {known:?}");

    let next = vec![(grid.id, grid.next)];
    let reclock =
        Command::Reclock { elapsed: cluster.replica(late).store().keeper().elapsed_at_least(), next };
    let at = cluster.replica(late).propose(&reclock, BRIEFLY).await.expect("it is committed").position;
    let slots = cluster.replica(late).store().keeper().read(|state| {
        let records = state.effects[&at].records.iter();
        let gaps = records.filter_map(|record| match record {
            EffectRecord::Gap { first, last, .. } => Some(last - first + 1),
            _ => None,
        });
        gaps.sum::<u64>()
    });
    assert!(slots <= truly.as_secs() + 1, "a gap of {slots} slots after {truly:?}");
}
