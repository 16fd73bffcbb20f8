//! A backlog delivered to a receiver that only counts keys, and the latency of live samples.
//!
//! - The backlog is pushed while the receiver is away; the clock runs from the first key that arrives to the last.
//! - Live latency is from the last byte of a device's answer to the moment when the receiver has the sample. An answer that
//!   came too late for the lease has none: its slot is bad, and it is counted apart. One that no record holds is a failure.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use simulator::history::monotonic_ns;
use simulator::pusher::Body;
use simulator::receiver::{Counts, Mode, Receiver};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::plant::{self, Devices};
use crate::push::Flood;
use crate::seen::Seen;
use crate::table::{Figure, grouped, median, millis};
use crate::world::{Bench, World};

const RATE: f64 = 300_000.0;
const LATENCY: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Samples of a pushed message, on so many tags.
const SAMPLES: usize = 1_000;
const TAGS: usize = 100;
/// Until a backlog has arrived, after its first sample.
const DRAINING: Duration = Duration::from_secs(900);
/// A destination that was away is tried again within this time.
const TRIED_AGAIN: Duration = Duration::from_secs(120);
/// 1,000 samples a second.
const LIVE: Devices = Devices { count: 5, registers: 22, period: Duration::from_millis(100) };
/// Live samples that are not measured at the beginning.
const SETTLING: Duration = Duration::from_secs(3);

/// How delivery is measured.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    /// Backlogs that are drained, of which the median counts.
    #[arg(long)]
    runs: Option<u32>,
    /// Samples of a backlog, in thousands.
    #[arg(long, value_name = "THOUSANDS")]
    backlog: Option<u64>,
    /// Seconds of live samples.
    #[arg(long)]
    seconds: Option<u64>,
}

pub(crate) async fn run(bench: &Bench, args: &Args) -> anyhow::Result<Vec<Figure>> {
    let mut figures = backlog(bench, args).await?;
    figures.extend(live(bench, args).await?);
    let alone = receiver_alone(bench.or_usual(None, 2_000, 200)).await?;
    figures.push(Figure::reported("the receiver and a client alone, samples/s", grouped(alone)));
    Ok(figures)
}

async fn backlog(bench: &Bench, args: &Args) -> anyhow::Result<Vec<Figure>> {
    let runs = bench.or_usual(args.runs, 3, 1);
    let samples = bench.or_usual(args.backlog, 5_000, 300) * 1_000;
    let messages = samples.div_ceil(SAMPLES as u64);
    let content = plant::content(0, TAGS, SAMPLES, Body::Number);
    let mut receiver = Receiver::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Mode::Counting).await?;
    let world = World::start(bench, "drain", LOOK_EVERY).await?;
    world.apply(&plant::document(None, std::slice::from_ref(&content), Some(&receiver.url()))).await?;
    let term = world.term().await?;
    let leader = world.leader().await?;
    let endpoint = world.nodes.cluster.endpoints()[leader].clone();
    let (mut rates, mut pushed) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        receiver.go_down().await;
        let before = receiver.counts().samples;
        let rate = Flood::new(&endpoint, &content).push(messages).await?;
        pushed.push(rate * SAMPLES as f64);
        receiver.come_up().await?;
        let wanted = before + messages * SAMPLES as u64;
        let rate = drained(&receiver, before, wanted).await?;
        bench.say(&format!("{run} of {runs}: {} samples/s delivered", grouped(rate)));
        rates.push(rate);
    }
    let counts = receiver.counts();
    let term_after = world.term().await?;
    world.end().await?;
    let rate = median(rates);
    Ok(vec![
        Figure::judged(
            &format!("samples/s of a backlog of {}", grouped(samples as f64)),
            "≥ 300,000",
            grouped(rate),
            rate >= RATE,
        ),
        Figure::elections(term, term_after),
        Figure::reported(
            "samples that came again, or out of order",
            format!("{}, {}", counts.duplicates, counts.out_of_order),
        ),
        Figure::reported("samples/s pushed while the receiver was away", grouped(median(pushed))),
    ])
}

/// Samples a second, from the first that arrives to the last.
async fn drained(receiver: &Receiver, before: u64, wanted: u64) -> anyhow::Result<f64> {
    let in_vain = |what: &'static str| move |counts: Counts| anyhow::anyhow!("{what}: {counts:?}");
    let first = receiver
        .wait_for(TRIED_AGAIN, |counts| counts.samples > before)
        .await
        .map_err(in_vain("nothing arrived"))?;
    let began = Instant::now();
    let last = receiver
        .wait_for(DRAINING, |counts| counts.samples >= wanted)
        .await
        .map_err(in_vain("the backlog did not arrive"))?;
    Ok((last.samples - first.samples) as f64 / began.elapsed().as_secs_f64())
}

async fn live(bench: &Bench, args: &Args) -> anyhow::Result<Vec<Figure>> {
    let time = Duration::from_secs(bench.or_usual(args.seconds, 60, 10));
    let seen = Seen::start();
    let running = LIVE.start(&seen.history()).await?;
    let mode = Mode::Recording(Some((seen.history(), "receiver".to_owned())));
    let receiver = Receiver::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), mode).await?;
    let world = World::start(bench, "live", LOOK_EVERY).await?;
    world.apply(&plant::document(Some((&LIVE, &running)), &[], Some(&receiver.url()))).await?;
    let from_ns = monotonic_ns();
    let read = || seen.look().map(|story| story.reads_since(LIVE.count, from_ns, |_| true));
    world.until_all_read(read).await?;
    sleep_until(Instant::now() + SETTLING).await;
    let term = world.term().await?;
    let before = receiver.counts().samples;
    let (began, from_ns) = (Instant::now(), monotonic_ns());
    sleep_until(began + time).await;
    let rate = (receiver.counts().samples - before) as f64 / began.elapsed().as_secs_f64();
    let until_ns = monotonic_ns();
    world.settled(&seen, &receiver, LIVE.count, until_ns).await?;
    let mut fates = seen.look()?.fates(from_ns, until_ns);
    let term_after = world.term().await?;
    world.end().await?;
    anyhow::ensure!(fates.arrived.count() > 0, "no sample could be traced to its read");
    bench.say(&format!("{rate:.0} samples/s live: {}", fates.arrived.summary()));
    let p99 = fates.arrived.quantile(0.99);
    let of_all = |answers: u64| format!("{answers} of {}", grouped(fates.total() as f64));
    let (late, missed, lost) = (of_all(fates.late), of_all(fates.missed), of_all(fates.lost));
    Ok(vec![
        Figure::judged(
            &format!("device's answer to receiver at {} samples/s, p99", grouped(rate)),
            "< 100 ms",
            millis(p99),
            p99 < LATENCY,
        ),
        Figure::reported("device's answer to receiver", fates.arrived.summary()),
        Figure::reported("answers too late for the lease", late),
        Figure::reported("answers whose slots are in gap records", missed),
        Figure::judged("answers that no record holds", "0", lost, fates.lost == 0),
        Figure::elections(term, term_after),
    ])
}

/// What the receiver takes from a client that has its requests ready, over a connection that is kept: samples a second.
async fn receiver_alone(requests: u64) -> anyhow::Result<f64> {
    const RECORDS: usize = 1_000;
    let receiver = Receiver::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Mode::Counting).await?;
    // About as long as a record is.
    let padding = "x".repeat(300);
    let sample = |ordinal| format!("{{\"key\":\"00000000/POSITION/{ordinal}\",\"tag\":\"{padding}\"}}");
    let samples: Vec<String> = (0..RECORDS).map(sample).collect();
    let template = format!("{{\"samples\":[{}]}}", samples.join(","));
    let mut stream = TcpStream::connect(receiver.address()).await?;
    stream.set_nodelay(true)?;
    let mut spent = Duration::ZERO;
    for position in 1..=requests {
        let body = template.replace("POSITION", &position.to_string());
        let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        let began = Instant::now();
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut answer = [0; 1_024];
        let length = stream.read(&mut answer).await?;
        spent += began.elapsed();
        anyhow::ensure!(answer[..length].starts_with(b"HTTP/1.1 200"), "the receiver did not take a request");
    }
    let samples = receiver.counts().samples;
    anyhow::ensure!(samples == requests * RECORDS as u64, "the receiver counted {samples}");
    Ok(samples as f64 / spent.as_secs_f64())
}
