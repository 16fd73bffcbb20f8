//! Commands into the log: three replicas in this process, sixteen proposers, batches of a thousand samples.
//!
//! Every commit is synced by a majority before it is answered; latency is from proposal to answer.

use std::time::Duration;

use crate::load::{self, Shape, Until};
use crate::replicas::Replicas;
use crate::table::{Figure, grouped, median, millis};
use crate::world::{Bench, remove};

const RATE: f64 = 1_000_000.0;
const LATENCY: Duration = Duration::from_millis(50);
const PROPOSERS: usize = 16;
/// A batch: a hundred tags at ten moments.
const SHAPE: Shape = Shape { batches: 1, tags: 100, times: 10 };

/// How commits are measured.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    /// Runs, of which the median counts.
    #[arg(long)]
    runs: Option<u32>,
    /// Seconds of one run.
    #[arg(long)]
    seconds: Option<u64>,
    /// Proposers at once, each with one proposal in flight.
    #[arg(long)]
    proposers: Option<usize>,
}

pub(crate) async fn run(bench: &Bench, args: &Args) -> anyhow::Result<Vec<Figure>> {
    let runs = bench.or_usual(args.runs, 5, 1);
    let time = Duration::from_secs(bench.or_usual(args.seconds, 10, 3));
    let proposers = args.proposers.unwrap_or(PROPOSERS).max(1);
    let folder = bench.subfolder("commit")?;
    let replicas = Replicas::start(&folder).await?;
    let (leader, before) = replicas.leader().await?;
    let (mut rates, mut p50s, mut p99s) = (Vec::new(), Vec::new(), Vec::new());
    // Connections, memtables and caches are as they will be.
    load::run(leader, proposers, SHAPE, Until::After(time / 5)).await?;
    for run in 1..=runs {
        let mut done = load::run(leader, proposers, SHAPE, Until::After(time)).await?;
        bench.say(&format!(
            "{run} of {runs}: {} samples/s, {}",
            grouped(done.rate()),
            done.latencies.summary()
        ));
        rates.push(done.rate());
        p50s.push(done.latencies.quantile(0.5).as_secs_f64());
        p99s.push(done.latencies.quantile(0.99).as_secs_f64());
    }
    let (_, after) = replicas.leader().await?;
    replicas.stop().await?;
    remove(&folder)?;
    let alone = load::alone(SHAPE, Duration::from_secs(1))?;
    let rate = median(rates);
    let (p50, p99) = (Duration::from_secs_f64(median(p50s)), Duration::from_secs_f64(median(p99s)));
    Ok(vec![
        Figure::judged(
            &format!("samples/s, batches of {}, {proposers} proposers", grouped(SHAPE.samples() as f64)),
            "≥ 1,000,000",
            grouped(rate),
            rate >= RATE,
        ),
        Figure::reported("latency p50", millis(p50)),
        Figure::judged("latency p99", "< 50 ms", millis(p99), p99 < LATENCY),
        Figure::elections(before.0, after.0),
        Figure::reported("the proposers without a log, samples/s on one thread", grouped(alone)),
    ])
}
