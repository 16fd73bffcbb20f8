//! Memory of a node that has nothing to do, readiness after a restart with a backlog, and disk given back.
//!
//! - A node is ready when its `/readyz` says so: it has a role, and a majority answers.
//! - The backlog is made of samples of a kilobyte, so that gigabytes can be delivered in minutes.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};
use simulator::nodes::layout::NODES;
use simulator::pusher::Body;
use simulator::receiver::{Mode, Receiver};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::plant;
use crate::push::Flood;
use crate::table::{Figure, grouped, megabytes};
use crate::world::{Bench, World};

const RESIDENT: u64 = 60_000_000;
const READY: Duration = Duration::from_secs(3);
const GIVEN_BACK: u64 = 200 << 20;
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a node may take before it counts as not coming back at all.
const COMING_BACK: Duration = Duration::from_secs(120);
const ASK_EVERY: Duration = Duration::from_millis(20);
const ASK_PATIENCE: Duration = Duration::from_millis(500);
/// A pushed message: one count and so many samples of a kilobyte.
const SAMPLES: usize = 101;
const SAMPLE_BYTES: usize = 1_000;
/// Values of a message; the count is small.
const MESSAGE_BYTES: u64 = ((SAMPLES - 1) * SAMPLE_BYTES) as u64;
/// Messages that one client pushes before the next takes its place.
const PORTION: u64 = 5_000;
const DELIVERING: Duration = Duration::from_secs(1_800);

/// How the footprint is measured.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    /// Backlog on each node, in GB.
    #[arg(long, value_name = "GB")]
    backlog: Option<f64>,
    /// Seconds until memory is looked at.
    #[arg(long)]
    seconds: Option<u64>,
}

pub(crate) async fn run(bench: &Bench, args: &Args) -> anyhow::Result<Vec<Figure>> {
    let idle = Duration::from_secs(bench.or_usual(args.seconds, 60, 15));
    let backlog = (bench.or_usual(args.backlog, 5.0, 0.3) * 1e9) as u64;
    let mut figures = vec![empty(bench, idle).await?];
    figures.extend(loaded(bench, backlog).await?);
    Ok(figures)
}

/// Memory with an empty plant.
async fn empty(bench: &Bench, idle: Duration) -> anyhow::Result<Figure> {
    let world = World::start(bench, "empty", LOOK_EVERY).await?;
    sleep(idle).await;
    let usage = world.usage().await?;
    world.end().await?;
    let most = usage.iter().map(|usage| usage.resident).max().unwrap_or_default();
    let each = usage.iter().map(|usage| {
        format!("{} ({} of it without the program)", megabytes(usage.resident), megabytes(usage.anonymous))
    });
    let each: Vec<String> = each.collect();
    bench.say(&format!("empty plant: {}", each.join(", ")));
    Ok(Figure::judged(
        &format!("resident memory, empty plant, after {} s", idle.as_secs()),
        "< 60 MB",
        each.join(", "),
        most < RESIDENT,
    ))
}

/// Restarts with a backlog, then delivers it and watches the disk.
async fn loaded(bench: &Bench, backlog: u64) -> anyhow::Result<Vec<Figure>> {
    let content = plant::content(0, 10, SAMPLES, Body::Bytes(SAMPLE_BYTES));
    let mut receiver = Receiver::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Mode::Counting).await?;
    receiver.go_down().await;
    let world = World::start(bench, "backlog", LOOK_EVERY).await?;
    world.apply(&plant::document(None, std::slice::from_ref(&content), Some(&receiver.url()))).await?;
    let empty = world.disk();
    let term = world.term().await?;
    let endpoint = world.nodes.cluster.endpoints()[world.leader().await?].clone();
    let flood = Flood::new(&endpoint, &content);
    let mut messages = 0;
    let began = Instant::now();
    // By what was pushed: a directory is larger than what is in it, and values cannot be compressed.
    while messages * MESSAGE_BYTES < backlog {
        let portion = PORTION.min((backlog - messages * MESSAGE_BYTES).div_ceil(MESSAGE_BYTES));
        flood.push(portion).await?;
        messages += portion;
    }
    let written = (messages * MESSAGE_BYTES) as f64 / began.elapsed().as_secs_f64() / 1e6;
    let term_after = world.term().await?;
    bench.say(&format!("a backlog of {} on each node, pushed at {written:.0} MB/s", megabytes(backlog)));
    let mut figures = vec![Figure::elections(term, term_after)];
    figures.extend(restarts(bench, &world, backlog).await?);

    let samples = messages * SAMPLES as u64;
    let term = world.term().await?;
    let began = Instant::now();
    receiver.come_up().await?;
    receiver
        .wait_for(DELIVERING, |counts| counts.samples >= samples)
        .await
        .map_err(|counts| anyhow::anyhow!("the backlog was not delivered: {counts:?}"))?;
    bench.say(&format!("delivered in {:.0} s", began.elapsed().as_secs_f64()));
    figures.push(Figure::reported(
        &format!("{} delivered", megabytes(messages * MESSAGE_BYTES)),
        format!("{:.0} s, {} samples", began.elapsed().as_secs_f64(), grouped(samples as f64)),
    ));
    figures.push(given_back(bench, &world, &empty).await?);
    figures.push(Figure::elections(term, world.term().await?));
    world.end().await?;
    Ok(figures)
}

/// A follower after an orderly stop, a follower and all three nodes after `kill -9`.
async fn restarts(bench: &Bench, world: &World, backlog: u64) -> anyhow::Result<Vec<Figure>> {
    let follower = (world.leader().await? + 1) % NODES;
    let mut figures = Vec::new();
    let mut figure = |what: &str, time: Duration| {
        bench.say(&format!("{what}: ready after {:.2} s", time.as_secs_f64()));
        figures.push(Figure::judged(
            &format!("ready after a restart with {} behind it: {what}", megabytes(backlog)),
            "< 3 s",
            format!("{:.2} s", time.as_secs_f64()),
            time < READY,
        ));
    };
    world.nodes.process(follower).await.stop().await?;
    figure("a follower, stopped in order", restart(world, &[follower]).await?);
    world.term().await?;
    world.nodes.process(follower).await.kill().await?;
    figure("a follower, killed", restart(world, &[follower]).await?);
    world.term().await?;
    for node in 0..NODES {
        world.nodes.process(node).await.kill().await?;
    }
    figure("all three, killed", restart(world, &[0, 1, 2]).await?);
    world.term().await?;
    Ok(figures)
}

/// Starts nodes; the time until all of them are ready.
async fn restart(world: &World, nodes: &[usize]) -> anyhow::Result<Duration> {
    let began = Instant::now();
    for node in nodes {
        world.nodes.process(*node).await.start()?;
    }
    for node in nodes {
        let health = world.nodes.layout.nodes[*node].health;
        while !is_ready(health).await {
            ensure!(began.elapsed() < COMING_BACK, "{health} is not ready");
            ensure!(world.nodes.casualty().is_none(), "a node ended: {:?}", world.nodes.casualty());
            sleep(ASK_EVERY).await;
        }
    }
    Ok(began.elapsed())
}

async fn is_ready(health: SocketAddr) -> bool {
    let asking = async {
        let mut stream = TcpStream::connect(health).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.starts_with("HTTP/1.1 200"))
    };
    matches!(timeout(ASK_PATIENCE, asking).await, Ok(Ok(true)))
}

/// Watches the disk until it is given back, or the time for that is over.
async fn given_back(bench: &Bench, world: &World, empty: &[u64]) -> anyhow::Result<Figure> {
    let began = Instant::now();
    let over = || -> anyhow::Result<u64> {
        let now = world.disk();
        now.iter().zip(empty).map(|(now, empty)| now.saturating_sub(*empty)).max().context("three nodes")
    };
    let mut left = over()?;
    while left > GIVEN_BACK && began.elapsed() < GIVEN_BACK_WITHIN {
        sleep_until(Instant::now() + LOOK_EVERY).await;
        left = over()?;
    }
    let seconds = began.elapsed().as_secs_f64();
    bench.say(&format!("{} left on the disk {seconds:.0} s after delivery", megabytes(left)));
    Ok(Figure::judged(
        "disk given back after delivery, to within 200 MiB",
        "< 120 s",
        format!("{seconds:.0} s ({} left)", megabytes(left)),
        left <= GIVEN_BACK,
    ))
}
