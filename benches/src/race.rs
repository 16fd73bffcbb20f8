//! The race: our `Ingest.Push` beside systems that people know, the same messages, on the same machine and disk; and
//! our polling beside a gateway that people know, which is `polling`'s.
//!
//! - Runs alternate. In each one a system is started with nothing, measured, its leader killed, and ended before the
//!   next one starts: nothing else runs meanwhile. The median of the runs counts.
//! - One client each, on one connection, to the node that leads. When that is killed, the client goes to the next node
//!   at once, rests only after a round of all of them, and sends again what is not acknowledged: in the same times all.
//! - What is sent is made when it is sent, by all in the same way: a hundred samples of new values, encoded.
//! - Silence is the longest time between two acknowledgements as the client hears them, from the kill on.

mod etcd;
mod nats;
mod ours;
mod platform;
mod polling;
mod rival;
mod thingsboard;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::BoxFuture;
use model::Clock as _;
use runtime::SystemClock;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::push::{self, PATIENCE, Progress, Pushed};
use crate::table::{Figure, median, millis};
use crate::world::Bench;

/// How many are in flight, and how many times the rates of NATS and etcd are to be reached then.
const TARGETS: [(usize, Option<f64>, Option<f64>); 3] =
    [(1, None, Some(1.3)), (64, Some(1.0), Some(3.5)), (512, Some(1.0), None)];
/// In flight when the leader is killed.
const AT_THE_KILL: usize = 64;
/// Pushing before the kill.
const STEADY: Duration = Duration::from_secs(3);
/// Silences are looked for so long after the kill.
const AFTERMATH: Duration = Duration::from_secs(10);
/// When the last acknowledgement is so old, the silence goes on.
const STILL_SILENT: Duration = Duration::from_secs(1);
/// A silence that is longer ends the measurement.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);
/// How exactly silence is measured.
const LISTEN_EVERY: Duration = Duration::from_millis(1);
/// After the kill a client that has heard no acknowledgement for so long sends again: to the next node, or where nodes
/// keep nothing for a leader that is to come (NATS), on the same connection.
const SEND_AGAIN: Duration = Duration::from_millis(250);
/// After a round of all nodes in vain.
const PAUSE: Duration = Duration::from_millis(10);

/// Which part of the race is run, and how.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Part {
    /// The same messages through NATS JetStream and etcd.
    Messages(Messages),
    /// The same devices read by thingsboard-gateway.
    Polling(polling::Args),
}

/// How messages are raced.
#[derive(Debug, Clone, Default, clap::Args)]
struct Messages {
    /// Runs of each system, of which the median counts.
    #[arg(long)]
    runs: Option<u32>,
    /// Seconds of one run with one number in flight.
    #[arg(long)]
    seconds: Option<u64>,
}

/// Those that take part, in the order in which they run.
#[derive(Debug, Clone, Copy)]
enum System {
    Ours,
    Nats,
    Etcd,
}

/// A system that runs.
trait Racer: Send + Sync {
    /// The node that leads, once nothing is amiss.
    fn leader(&self) -> BoxFuture<'_, anyhow::Result<usize>>;
    /// A client that does not work yet.
    fn client(&self, order: Order, stop: CancellationToken) -> anyhow::Result<Client>;
    /// `kill -9`.
    fn kill(&self, node: usize) -> BoxFuture<'_, anyhow::Result<()>>;
    /// Ends it and removes what it has written.
    fn end(self: Box<Self>) -> BoxFuture<'static, anyhow::Result<()>>;
}

/// What a client is to do.
#[derive(Debug, Clone, Copy)]
struct Order {
    /// The node that it begins with.
    node: usize,
    /// Messages in flight.
    window: usize,
    /// Whether it goes on at another node; if not, a message without acknowledgement is an error.
    goes_on: bool,
}

impl Order {
    /// How long a client waits for an acknowledgement.
    fn patience(&self) -> Duration {
        if self.goes_on { SEND_AGAIN } else { PATIENCE }
    }
}

/// A client: what it sees, and its work, which ends when it is told to stop.
struct Client {
    progress: Arc<dyn Progress>,
    work: BoxFuture<'static, anyhow::Result<()>>,
}

/// What the runs of one system have shown.
#[derive(Debug, Default)]
struct Results {
    /// For each number in flight.
    pushed: [Vec<Pushed>; TARGETS.len()],
    silences: Vec<Duration>,
}

impl Args {
    /// Each part by itself, of those that are asked for.
    pub(crate) fn parts(self) -> Vec<Self> {
        let all = || vec![Part::Messages(Messages::default()), Part::Polling(polling::Args::default())];
        let parts = self.part.map_or_else(all, |part| vec![part]);
        parts.into_iter().map(|part| Self { part: Some(part) }).collect()
    }

    /// The name of the table.
    pub(crate) fn name(&self) -> &'static str {
        match self.part {
            Some(Part::Polling(_)) => "race-polling",
            Some(Part::Messages(_)) | None => "race",
        }
    }
}

pub(crate) async fn run(bench: &Bench, args: &Args) -> anyhow::Result<Vec<Figure>> {
    match &args.part {
        Some(Part::Polling(args)) => Box::pin(polling::run(bench, args)).await,
        Some(Part::Messages(args)) => Box::pin(race_messages(bench, args)).await,
        None => Box::pin(race_messages(bench, &Messages::default())).await,
    }
}

async fn race_messages(bench: &Bench, args: &Messages) -> anyhow::Result<Vec<Figure>> {
    let runs = bench.or_usual(args.runs, 5, 1);
    let time = Duration::from_secs(bench.or_usual(args.seconds, 10, 3));
    let versions = [nats::version()?, etcd::version()?].join(", ");
    bench.say(&versions);
    let mut all = <[Results; System::ALL.len()]>::default();
    let mut order: Vec<usize> = (0..System::ALL.len()).collect();
    for number in 1..=runs {
        for &place in &order {
            let system = System::ALL[place];
            bench.say(&format!("run {number} of {runs}: {}", system.name()));
            run_once(bench, system, time, &mut all[place]).await.context(system.name())?;
        }
        // So that nobody always comes behind the same one.
        order.reverse();
    }
    let message_bytes = push::content().encoded(0, SystemClock.now()).len();
    let mut figures = figures(&all);
    figures.push(Figure::reported("bytes of a message", message_bytes.to_string()));
    figures.push(Figure::reported("versions", versions));
    Ok(figures)
}

async fn run_once(
    bench: &Bench,
    system: System,
    time: Duration,
    results: &mut Results,
) -> anyhow::Result<()> {
    let racer = system.start(bench).await?;
    let measured = measure(bench, &*racer, time, results).await;
    let ended = racer.end().await;
    // What it has left to be written must not be written in the next one's time.
    tokio::task::spawn_blocking(rustix::fs::sync).await?;
    measured.and(ended)
}

async fn measure(
    bench: &Bench,
    racer: &dyn Racer,
    time: Duration,
    results: &mut Results,
) -> anyhow::Result<()> {
    for ((window, ..), seen) in TARGETS.into_iter().zip(&mut results.pushed) {
        let order = Order { node: racer.leader().await?, window, goes_on: false };
        let stop = CancellationToken::new();
        let Client { progress, work } = racer.client(order, stop.clone())?;
        let measuring = async { anyhow::Ok(push::measured(&*progress, time, &stop).await) };
        let (pushed, ()) = futures::try_join!(measuring, work)?;
        ensure!(pushed.rate > 0.0, "nothing was acknowledged");
        bench.say(&format!("{window} in flight: {}", push::summary(&[pushed])));
        seen.push(pushed);
    }
    let order = Order { node: racer.leader().await?, window: AT_THE_KILL, goes_on: true };
    let stop = CancellationToken::new();
    let Client { progress, work } = racer.client(order, stop.clone())?;
    let listening = async {
        let heard = silence_after(&*progress, racer.kill(order.node)).await;
        stop.cancel();
        heard
    };
    let (silence, ()) = futures::try_join!(listening, work)?;
    bench.say(&format!("leader killed: {} without an acknowledgement", millis(silence)));
    results.silences.push(silence);
    Ok(())
}

/// Kills while a client works: the longest time that it hears nothing.
async fn silence_after(
    progress: &dyn Progress,
    kill: BoxFuture<'_, anyhow::Result<()>>,
) -> anyhow::Result<Duration> {
    let mut listener = Listener::new(progress);
    listener.listen(STEADY).await;
    ensure!(listener.count > 0, "nothing was acknowledged before the kill");
    listener.longest = Duration::ZERO;
    let aftermath = async {
        listener.listen(AFTERMATH).await;
        listener.hears_again().await?;
        anyhow::Ok(listener.longest)
    };
    let (killed, silence) = futures::join!(kill, aftermath);
    killed.context("the leader could not be killed")?;
    silence
}

/// Notes how long a client hears nothing.
struct Listener<'a> {
    progress: &'a dyn Progress,
    ticks: Interval,
    count: u64,
    heard: Instant,
    longest: Duration,
}

impl<'a> Listener<'a> {
    fn new(progress: &'a dyn Progress) -> Self {
        let mut ticks = interval(LISTEN_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let count = progress.acknowledged();
        Self { progress, ticks, count, heard: Instant::now(), longest: Duration::ZERO }
    }

    async fn look(&mut self) {
        self.ticks.tick().await;
        let (now, count) = (Instant::now(), self.progress.acknowledged());
        if count > self.count {
            self.longest = self.longest.max(now - self.heard);
            (self.heard, self.count) = (now, count);
        }
    }

    async fn listen(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.look().await;
        }
    }

    /// Waits for the end of a silence that goes on.
    async fn hears_again(&mut self) -> anyhow::Result<()> {
        while self.heard.elapsed() > STILL_SILENT {
            let seconds = LONGEST_SILENCE.as_secs();
            ensure!(self.heard.elapsed() < LONGEST_SILENCE, "nothing was acknowledged for {seconds} s");
            self.look().await;
        }
        Ok(())
    }
}

impl System {
    const ALL: [Self; 3] = [Self::Ours, Self::Nats, Self::Etcd];

    fn name(self) -> &'static str {
        match self {
            Self::Ours => "Holdfast",
            Self::Nats => "NATS JetStream (not synced)",
            Self::Etcd => "etcd",
        }
    }

    async fn start(self, bench: &Bench) -> anyhow::Result<Box<dyn Racer>> {
        let racer: Box<dyn Racer> = match self {
            Self::Ours => Box::new(ours::Ours::start(bench).await?),
            Self::Nats => Box::new(nats::Nats::start(bench).await?),
            Self::Etcd => Box::new(etcd::Etcd::start(bench).await?),
        };
        Ok(racer)
    }
}

fn figures(all: &[Results; System::ALL.len()]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (place, (window, of_nats, of_etcd)) in TARGETS.into_iter().enumerate() {
        for (system, results) in System::ALL.into_iter().zip(all) {
            let what = format!("messages/s, {window} in flight: {}", system.name());
            figures.push(Figure::reported(&what, push::summary(&results.pushed[place])));
        }
        let [ours, nats, etcd] = all.each_ref().map(|results| {
            let middle =
                |value: fn(&Pushed) -> f64| median(results.pushed[place].iter().map(value).collect());
            (middle(|pushed| pushed.rate), middle(|pushed| pushed.p99.as_secs_f64()))
        });
        let what = |what: &str| format!("{window} in flight: {what}");
        // Where its rate is the mark, its latency is, too.
        let below_nats = of_nats.map(|_| 1.0);
        figures.push(at_least(&what("rate, to that of NATS"), ours.0 / nats.0, of_nats));
        figures.push(below(&what("p99, to that of NATS"), ours.1 / nats.1, below_nats));
        figures.push(at_least(&what("rate, to that of etcd"), ours.0 / etcd.0, of_etcd));
        figures.push(below(&what("p99, to that of etcd"), ours.1 / etcd.1, None));
    }
    for (system, results) in System::ALL.into_iter().zip(all) {
        let times = results.silences.len();
        let what = format!("leader killed, {times} times, longest silence: {}", system.name());
        let most = results.silences.iter().max().copied().unwrap_or_default();
        let middle = Duration::from_secs_f64(middle_silence(results));
        figures.push(Figure::reported(&what, format!("{}, at most {}", millis(middle), millis(most))));
    }
    let [ours, nats, etcd] = all.each_ref().map(middle_silence);
    figures.push(below("leader killed: silence, to that of NATS", ours / nats, Some(1.0)));
    figures.push(below("leader killed: silence, to that of etcd", ours / etcd, Some(1.0)));
    figures
}

/// In seconds; nothing where nothing was measured.
fn middle_silence(results: &Results) -> f64 {
    let middle = median(results.silences.iter().map(Duration::as_secs_f64).collect());
    if middle.is_nan() { 0.0 } else { middle }
}

fn at_least(what: &str, ratio: f64, target: Option<f64>) -> Figure {
    compared(what, ratio, target.map(|target| (format!("≥ {target}"), ratio >= target)))
}

fn below(what: &str, ratio: f64, target: Option<f64>) -> Figure {
    compared(what, ratio, target.map(|target| (format!("< {target}"), ratio < target)))
}

fn compared(what: &str, ratio: f64, judged: Option<(String, bool)>) -> Figure {
    let measured = format!("{ratio:.2} times");
    match judged {
        Some((target, is_met)) => Figure::judged(what, &target, measured, is_met),
        None => Figure::reported(what, measured),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::FutureExt as _;
    use simulator::pusher::Latencies;

    use super::*;
    use crate::table::Section;

    #[derive(Default)]
    struct Told(AtomicU64);

    impl Progress for Told {
        fn acknowledged(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn take_latencies(&self) -> Latencies {
            Latencies::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_silence_is_the_one_after_the_kill() {
        let told = Told::default();
        // The first, before the kill, is longer and does not count.
        let mut pauses = vec![2_500, 400, 1_700];
        pauses.extend([100; 120]);
        let telling = async {
            for pause in pauses {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                told.0.fetch_add(1, Ordering::Relaxed);
            }
        };
        let kill = async { Ok(()) }.boxed();
        let (silence, ()) = futures::join!(silence_after(&told, kill), telling);
        let silence = silence.expect("it ends");
        assert!(silence.abs_diff(Duration::from_millis(1_700)) < Duration::from_millis(5), "{silence:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silence_without_an_end_is_an_error() {
        let told = Told::default();
        let telling = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            told.0.fetch_add(1, Ordering::Relaxed);
        };
        let kill = async { Ok(()) }.boxed();
        let (silence, ()) = futures::join!(silence_after(&told, kill), telling);
        assert!(silence.is_err(), "{silence:?}");
    }

    #[test]
    fn ratios_are_judged_where_there_is_a_target() {
        let figures = vec![
            at_least("rate", 3.6, Some(3.5)),
            at_least("rate", 3.4, Some(3.5)),
            below("p99", 1.0, Some(1.0)),
            below("p99", 2.0, None),
        ];
        let text = Section { subject: "race", figures }.markdown();
        let verdicts: Vec<&str> = text.lines().skip(2).filter_map(|line| line.split('|').nth(4)).collect();
        assert_eq!(verdicts, [" met ", " **missed** ", " **missed** ", "  "], "{text}");
    }
}
