//! Messages of a hundred samples through `Ingest.Push` of real node processes, one client, so many in flight.
//!
//! Latency is what the client saw: from sending to acknowledgement, which means synced by a majority.

mod mirror;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use runtime::SystemClock;
use simulator::pusher::{Body, Content, Latencies, Pusher, PusherConfig, PusherReport, PusherStats};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::plant;
use crate::table::{Figure, grouped, median, millis};
use crate::world::{Bench, World};

/// Samples of a message.
const SAMPLES: usize = 100;
/// Tags that they are of.
const TAGS: usize = 20;
/// From one sample of a message to the next: with numbers of 8 bytes and times that take 6 or 7, 1.6 kB.
const MINUTE_NS: i64 = 60_000_000_000;
const IN_FLIGHT: [usize; 3] = [1, 64, 512];
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What is not counted at the beginning of a run.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long an acknowledgement may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// In flight where only the end counts.
const FLOOD: usize = 256;

/// How pushing is measured.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    /// Runs for each number in flight, of which the median counts.
    #[arg(long)]
    runs: Option<u32>,
    /// Seconds of one run.
    #[arg(long)]
    seconds: Option<u64>,
}

pub(crate) async fn run(bench: &Bench, args: &Args) -> anyhow::Result<Vec<Figure>> {
    let runs = bench.or_usual(args.runs, 3, 1);
    let time = Duration::from_secs(bench.or_usual(args.seconds, 10, 3));
    let world = World::start(bench, "push", LOOK_EVERY).await?;
    let content = content();
    world.apply(&plant::document(None, std::slice::from_ref(&content), None)).await?;
    let before = world.term().await?;
    let leader = world.leader().await?;
    let mut figures = Vec::new();
    for (whose, node) in [("the leader", leader), ("a follower", (leader + 1) % 3)] {
        let endpoint = world.nodes.cluster.endpoints()[node].clone();
        for window in IN_FLIGHT {
            let mut seen = Vec::new();
            for _ in 0..runs {
                seen.push(push(&endpoint, &content, window, time).await?);
            }
            let figure =
                Figure::reported(&format!("messages/s through {whose}, {window} in flight"), summary(&seen));
            bench.say(&format!("{whose}, {window} in flight: {}", summary(&seen)));
            figures.push(figure);
        }
    }
    figures.push(Figure::elections(before, world.term().await?));
    world.end().await?;
    let mirror = mirror::Mirror::start().await?;
    for window in IN_FLIGHT {
        let seen = push(&mirror.endpoint()?, &content, window, time.min(Duration::from_secs(3))).await?;
        figures.push(Figure::reported(
            &format!("the client alone (answered at once), {window} in flight"),
            format!("{} messages/s", grouped(seen.rate)),
        ));
    }
    Ok(figures)
}

/// What one run has shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pushed {
    /// Messages acknowledged a second.
    pub(crate) rate: f64,
    p50: Duration,
    /// From sending to acknowledgement.
    pub(crate) p99: Duration,
}

/// What a client has seen so far.
pub(crate) trait Progress: Send + Sync {
    /// Messages acknowledged.
    fn acknowledged(&self) -> u64;
    /// From first sending to acknowledgement, since this was called before.
    fn take_latencies(&self) -> Latencies;
}

impl Progress for PusherStats {
    fn acknowledged(&self) -> u64 {
        self.counts().acknowledged
    }

    fn take_latencies(&self) -> Latencies {
        PusherStats::take_latencies(self)
    }
}

/// Rate, p50 and p99: the median of each.
pub(crate) fn summary(seen: &[Pushed]) -> String {
    let of = |value: fn(&Pushed) -> f64| median(seen.iter().map(value).collect());
    let time = |value: fn(&Pushed) -> f64| millis(Duration::from_secs_f64(of(value)));
    format!(
        "{}, p50 {}, p99 {}",
        grouped(of(|pushed| pushed.rate)),
        time(|pushed| pushed.p50.as_secs_f64()),
        time(|pushed| pushed.p99.as_secs_f64())
    )
}

async fn push(
    endpoint: &Endpoint,
    content: &Content,
    window: usize,
    time: Duration,
) -> anyhow::Result<Pushed> {
    let pusher = Pusher::new(config(vec![endpoint.clone()], content, window, None), None);
    let (stats, stop) = (pusher.stats(), CancellationToken::new());
    let (pushed, report) = futures::join!(measured(&*stats, time, &stop), pusher.run(stop.clone()));
    ensure!(pushed.rate > 0.0, "nothing was acknowledged: {report:?}");
    check_all_acknowledged(&report)?;
    Ok(pushed)
}

/// Watches a client that has just begun, for so long, and tells it to stop.
pub(crate) async fn measured(progress: &dyn Progress, time: Duration, stop: &CancellationToken) -> Pushed {
    sleep(WARM_UP).await;
    drop(progress.take_latencies());
    let (began, before) = (Instant::now(), progress.acknowledged());
    sleep(time).await;
    let rate = (progress.acknowledged() - before) as f64 / began.elapsed().as_secs_f64();
    let latencies = progress.take_latencies();
    stop.cancel();
    Pushed { rate, p50: latencies.quantile(0.5), p99: latencies.quantile(0.99) }
}

/// Nothing may have to be sent again where nothing is broken.
pub(crate) fn check_all_acknowledged(report: &PusherReport) -> anyhow::Result<()> {
    let unanswered = report.counts.refused + report.counts.unanswered + report.unsettled;
    ensure!(unanswered == 0, "not everything was acknowledged at once: {report:?}");
    Ok(())
}

/// A client that pushes a number of messages as fast as they are acknowledged.
pub(crate) struct Flood<'a> {
    endpoint: &'a Endpoint,
    content: &'a Content,
}

impl<'a> Flood<'a> {
    /// Pushes to one node.
    pub(crate) fn new(endpoint: &'a Endpoint, content: &'a Content) -> Self {
        Self { endpoint, content }
    }

    /// Pushes so many messages: how many were acknowledged a second.
    pub(crate) async fn push(&self, messages: u64) -> anyhow::Result<f64> {
        let began = Instant::now();
        let endpoints = vec![self.endpoint.clone()];
        let config = config(endpoints, self.content, FLOOD, Some(messages));
        let report = Pusher::new(config, None).run(CancellationToken::new()).await;
        ensure!(report.counts.acknowledged >= messages, "not everything was acknowledged: {report:?}");
        Ok(messages as f64 / began.elapsed().as_secs_f64())
    }
}

/// What is pushed.
pub(crate) fn content() -> Content {
    Content { apart_ns: MINUTE_NS, ..plant::content(0, TAGS, SAMPLES, Body::Number) }
}

/// A pusher that pushes as fast as it is acknowledged, to the first of these nodes that takes its messages.
pub(crate) fn config(
    endpoints: Vec<Endpoint>,
    content: &Content,
    window: usize,
    messages: Option<u64>,
) -> PusherConfig {
    PusherConfig {
        name: "pusher".to_owned(),
        endpoints,
        content: content.clone(),
        window,
        interval: None,
        messages,
        patience: PATIENCE,
        drain: PATIENCE,
        clock: Arc::new(SystemClock),
    }
}

impl mirror::Mirror {
    fn endpoint(&self) -> anyhow::Result<Endpoint> {
        Endpoint::from_shared(format!("http://{}", self.address())).context("an address is an endpoint")
    }
}
