//! What ingest hears of the cluster, on replicas in this process.

use ingest::Log as _;
use replication::MembershipError;

use super::*;
use crate::pushing::ReplicatedLog;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_hears_of_the_reign_that_decides_what_it_had_in_flight() {
    let nodes = cluster(3).await;
    let leading = leader(&nodes).await;
    let [stopping, next] = [&nodes[(leading + 1) % 3], &nodes[(leading + 2) % 3]];
    stopping.until("it follows", |state| state.reign().is_some()).await;
    let spawner = stopping.spawner.child();
    let log = ReplicatedLog::start(stopping.replica.clone(), &spawner);
    let mut reign = log.reign();
    let before = *reign.borrow_and_update();
    spawner.token().cancel();
    let to = Some(next.replica.node());
    let hand_over = async {
        // Until it is known to be caught up.
        while let Err(MembershipError::NoSuccessor(_)) = nodes[leading].replica.transfer_leadership(to).await
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, hand_over).await.expect("it takes over");
    let told = timeout(SOON, reign.wait_for(|term| *term > before)).await.expect("in time");
    assert!(told.is_ok(), "nobody tells of reigns any more");
}

#[tokio::test]
async fn what_was_made_under_a_revision_that_is_gone_is_refused_as_that() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    for _ in 0..5 {
        node.configure(plant(64 * MIB, WhenFull::Refuse)).await;
    }
    let below = node.read(State::applied_position).next();
    let overrun = Some(vec![(HISTORIAN, 0)]);
    assert_eq!(node.propose(Command::Truncate { below, overrun }).await, store::Outcome::Done);
    let log = ReplicatedLog::start(node.replica.clone(), &node.spawner);
    let source = Source::Pushed { session: SessionId::from(7), sequence: 1 };
    let batch = EncodedBatch::encode(&node.batch(source, 1, 8)).expect("it is small");
    let proposing = async {
        loop {
            match log.propose(vec![batch.clone()]).await {
                Err(ingest::ProposeError::NoQuorum) => tokio::time::sleep(Duration::from_millis(20)).await,
                other => break other.expect("it is committed"),
            }
        }
    };
    let proposed = timeout(SOON, proposing).await.expect("the log is led");
    assert_eq!(proposed.outcomes, [ingest::Outcome::RevisionGone]);
}
