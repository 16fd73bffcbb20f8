//! A backlog fills the disks of all nodes: what is pushed then is refused, and taken once the backlog is delivered.
//! Nothing that was acknowledged is lost.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use holdfast_tests::SOON;
use holdfast_tests::cluster::Cluster;
use simulator::history::WallClock;
use simulator::pusher::{Body, Content, Pusher, PusherConfig};
use simulator::receiver::{Mode, Receiver};
use tokio::task::JoinSet;
use tokio::time::timeout;

const MIB: u64 = 1 << 20;
/// A sparse file in each data directory. It leaves samples some 130 MiB of `limits.disk`. A reserve that was given up comes
/// back if the store holds less than 36 MiB, so only if nothing delivered waits for the schedule of checkpoints.
const OTHERS: u64 = 220 * MIB;
/// A node without room takes samples again from here on.
const ROOM_AGAIN: u64 = 80 * MIB;
/// 180 MiB in all.
const MESSAGES: u64 = 410;
const SAMPLES: u64 = 8;
const SAMPLE_BYTES: usize = 56 << 10;
/// Most of the time goes into writing it on three nodes of one machine.
const DELIVERED: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn full_disks_refuse_and_take_more_once_the_backlog_is_delivered() -> Result<()> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut receiver = Receiver::start(any_port, Mode::Counting).await?;
    let cluster = Cluster::start_with(|layout| {
        let limits = "[limits]\ndisk = \"512MiB\"\n";
        layout.nodes.iter_mut().for_each(|node| node.tables = limits.to_owned());
        Ok(())
    })
    .await?;
    let document = format!(
        "version = 1\n[[device]]\nid = \"flood\"\ndriver = \"push\"\n\
         tag = [{{ name = \"count\", type = \"u64\" }}, {{ name = \"noise\", type = \"bytes\" }}]\n\
         [[destination]]\nid = \"historian\"\nkind = \"http\"\nurl = \"{}\"\ntags = [\"flood/**\"]\n",
        receiver.url()
    );
    receiver.go_down().await;
    cluster.apply(&document, 0).await?;
    for node in 0..3 {
        File::create(cluster.node(node).data.join("others"))?.set_len(OTHERS)?;
    }
    let pusher = Pusher::new(
        PusherConfig {
            name: "flood".to_owned(),
            endpoints: cluster.cluster.endpoints().to_vec(),
            content: Content {
                counter: "flood/count".to_owned(),
                bodies: vec!["flood/noise".to_owned()],
                body: Body::Bytes(SAMPLE_BYTES),
                samples: usize::try_from(SAMPLES)?,
                apart_ns: 1,
                seed: 1,
            },
            // What is refused leaves nothing behind it in flight.
            window: 1,
            interval: None,
            messages: Some(MESSAGES),
            patience: Duration::from_secs(10),
            drain: Duration::ZERO,
            clock: Arc::new(WallClock),
        },
        None,
    );
    let stats = pusher.stats();
    let mut pushing = JoinSet::new();
    pushing.spawn(pusher.run(Default::default()));

    cluster
        .until("a backlog", async || {
            let counts = stats.counts();
            if counts.acknowledged > MESSAGES / 3 { Ok(()) } else { Err(counts) }
        })
        .await?;
    cluster
        .until("pushes to be refused by a leader without room", async || {
            let refused = stats.counts().refused;
            let free = cluster.buffer(cluster.leader().await?).await?.free_bytes.context("room is known")?;
            ensure!(refused > 0 && free < ROOM_AGAIN, "{free} bytes are free, {:?}", stats.counts());
            Ok(())
        })
        .await?;
    let before = stats.counts();
    ensure!(before.acknowledged < MESSAGES && before.rejected == 0, "{before:?}");

    receiver.come_up().await?;
    let wait_for = async |messages: u64| {
        let delivered = receiver.wait_for(DELIVERED, |counts| counts.samples >= messages * SAMPLES).await;
        cluster.explain(delivered.map_err(|seen| {
            anyhow!("{messages} messages were not delivered: {seen:?}, {:?}", stats.counts())
        }))
    };
    wait_for(before.acknowledged).await?;
    cluster
        .until("pushes to be taken again", async || {
            let counts = stats.counts();
            // One may have been on its way while it was counted.
            if counts.acknowledged > before.acknowledged + 1 { Ok(()) } else { Err(counts) }
        })
        .await?;
    wait_for(MESSAGES).await?;
    let report = timeout(SOON, pushing.join_next()).await?.context("the pusher runs")??;
    let (pushed, counts) = (report.counts, receiver.counts());
    ensure!(pushed.acknowledged == MESSAGES && report.unsettled == 0, "{report:?}");
    let most = (MESSAGES + pushed.unanswered) * SAMPLES;
    ensure!((MESSAGES * SAMPLES..=most).contains(&counts.samples), "{counts:?}, {report:?}");
    cluster.agreed().await?;
    Ok(())
}
