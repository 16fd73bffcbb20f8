//! Polling beside thingsboard-gateway: the same simulated devices, read by one side after the other, and what arrives
//! of their answers at what each side delivers to.
//!
//! - Judged is what the devices answered and what of it arrived, not what a side says. A device is asked for all its
//!   registers at once: an answer is so many samples.
//! - Three stretches: nothing happens; the process that polls is killed and started again; the destination is away.
//!   Each is looked at once all that can still arrive has arrived.
//! - Ours is three nodes, the other one process: what the one that polls takes is told beside what all take.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::{BoxFuture, FutureExt};
use simulator::history::monotonic_ns;
use simulator::modbus::ModbusServer;
use simulator::receiver::{Mode, Receiver};
use tokio::time::{Instant, interval, sleep};

use super::thingsboard::{self, ThingsBoard};
use crate::plant::{Devices, destination, device_id};
use crate::process::Usage;
use crate::seen::{READS, Seen};
use crate::table::{Figure, grouped, megabytes};
use crate::world::{Bench, World};

/// What is read.
pub(super) const DEVICES: Devices = Devices { count: 100, registers: 50, period: Duration::from_secs(1) };
/// A supervisor starts a process that has ended again after so long; those of both sides.
const STARTED_AGAIN: Duration = Duration::from_secs(5);
/// What is not measured at the beginning, and after each stretch.
const SETTLING: Duration = Duration::from_secs(5);
/// How long it may take until the first answers, or the last that are measured, arrive.
const LAST_ANSWERS: Duration = Duration::from_secs(180);
/// Once newer answers have arrived, older ones are waited for as long as some still arrive in this time.
const STRAGGLERS: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Nodes are asked how they are seldom: it is work.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// How polling is raced.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Args {
    /// Seconds of each stretch: steady, around the kill, and without the destination.
    #[arg(long)]
    seconds: Option<u64>,
}

/// One side: what polls, and where it delivers.
pub(super) trait Side: Send {
    /// What each of its processes has used.
    fn usage(&mut self) -> BoxFuture<'_, anyhow::Result<Vec<Usage>>>;
    /// Which of its processes polls.
    fn poller(&mut self) -> BoxFuture<'_, anyhow::Result<usize>>;
    /// `kill -9`.
    fn kill(&mut self, process: usize) -> BoxFuture<'_, anyhow::Result<()>>;
    /// Starts a process that was killed.
    fn start_again(&mut self, process: usize) -> BoxFuture<'_, anyhow::Result<()>>;
    /// The destination closes its port and every connection.
    fn destination_leaves(&mut self) -> BoxFuture<'_, anyhow::Result<()>>;
    /// It is back at the same address.
    fn destination_returns(&mut self) -> BoxFuture<'_, anyhow::Result<()>>;
    /// What the destination has counted; an error if a process has ended by itself, or something made no sense.
    fn delivered(&mut self) -> anyhow::Result<Delivered>;
    /// Ends it and removes what it has written.
    fn end(self: Box<Self>) -> BoxFuture<'static, anyhow::Result<()>>;
}

/// Samples that a destination has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Delivered {
    /// Distinct ones.
    pub(super) samples: u64,
    /// Those that had come before.
    pub(super) again: u64,
}

/// Answers that devices gave in a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Stretch {
    /// Those that were due.
    due: u64,
    /// Those that were asked for.
    given: u64,
    /// Those that have arrived.
    arrived: u64,
}

/// What one side has shown.
#[derive(Debug)]
struct Measured {
    steady: Stretch,
    /// Cores that each process took meanwhile.
    cores: Vec<f64>,
    /// The most memory of each until then.
    peaks: Vec<u64>,
    poller: usize,
    killed: Stretch,
    away: Stretch,
    /// From the destination's return until the last answer of before it arrived.
    caught_up: Duration,
    /// The most memory of each process, the destination's absence included.
    peaks_away: Vec<u64>,
    delivered: Delivered,
}

pub(super) async fn run(bench: &Bench, args: &Args) -> anyhow::Result<Vec<Figure>> {
    let time = Duration::from_secs(bench.or_usual(args.seconds, 60, 20));
    ensure!(time >= 3 * STARTED_AGAIN, "a stretch takes at least {} s", 3 * STARTED_AGAIN.as_secs());
    let ours = Box::pin(of_ours(bench, time)).await?;
    let mut figures = ours.figures("Holdfast", time);
    match Box::pin(of_theirs(bench, time)).await {
        Ok((theirs, version)) => {
            figures.extend(theirs.figures("thingsboard-gateway", time));
            figures.extend(compared(&ours, &theirs));
            figures.push(Figure::reported("version", version));
        }
        Err(error) => {
            bench.say(&format!("THINGSBOARD-GATEWAY IS NOT MEASURED: {error:#}"));
            let text = format!("**NOT MEASURED**: {error:#}").replace('\n', " ");
            figures.push(Figure::judged("thingsboard-gateway", "measured", text, false));
        }
    }
    Ok(figures)
}

async fn of_ours(bench: &Bench, time: Duration) -> anyhow::Result<Measured> {
    let seen = Seen::start();
    let running = DEVICES.start(&seen.history()).await?;
    let mode = Mode::CountingSamples(seen.history(), "receiver".to_owned(), READS);
    let receiver = Receiver::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), mode).await?;
    let world = World::start_without_relay(bench, "race-polling", ASK_EVERY).await?;
    world.apply(&document(&running, &receiver.url())).await?;
    let ours = Box::new(Ours { world, receiver });
    measured(bench, "Holdfast", ours, &seen, time).await
}

async fn of_theirs(bench: &Bench, time: Duration) -> anyhow::Result<(Measured, String)> {
    let version = thingsboard::version()?;
    let seen = Seen::start();
    let running = DEVICES.start(&seen.history()).await?;
    let addresses: Vec<SocketAddr> = running.iter().map(ModbusServer::address).collect();
    let theirs = Box::new(ThingsBoard::start(bench, &addresses, seen.history()).await?);
    Ok((measured(bench, "thingsboard-gateway", theirs, &seen, time).await?, version))
}

async fn measured(
    bench: &Bench,
    name: &str,
    mut side: Box<dyn Side>,
    seen: &Seen,
    time: Duration,
) -> anyhow::Result<Measured> {
    let stage = Stage { bench, name, seen, time };
    let measured = stage.measure(&mut *side).await;
    let ended = side.end().await;
    let measured = measured.context(name.to_owned())?;
    ended?;
    Ok(measured)
}

/// Where one side is measured.
struct Stage<'a> {
    bench: &'a Bench,
    name: &'a str,
    seen: &'a Seen,
    /// Of each stretch.
    time: Duration,
}

impl Stage<'_> {
    async fn measure(&self, side: &mut dyn Side) -> anyhow::Result<Measured> {
        self.say("devices are connected to");
        let settled = self.settled(side, monotonic_ns()).await?;
        ensure!(settled.is_some(), "what devices answer does not arrive: {:?}", side.delivered()?);
        sleep(SETTLING).await;
        let poller = side.poller().await?;
        let (steady, cores, peaks) = self.steady(side).await?;
        self.say(&format!("steady: {steady}"));
        let killed = self.killed(side, poller).await?;
        self.say(&format!("killed: {killed}"));
        sleep(SETTLING).await;
        let (away, caught_up) = self.away(side).await?;
        self.say(&format!("destination away: {away}"));
        let peaks_away = peaks_of(&side.usage().await?);
        let delivered = side.delivered()?;
        Ok(Measured { steady, cores, peaks, poller, killed, away, caught_up, peaks_away, delivered })
    }

    /// Nothing happens.
    async fn steady(&self, side: &mut dyn Side) -> anyhow::Result<(Stretch, Vec<f64>, Vec<u64>)> {
        let (from_ns, before) = (monotonic_ns(), side.usage().await?);
        sleep(self.time).await;
        let (until_ns, after) = (monotonic_ns(), side.usage().await?);
        self.settled(side, until_ns).await?;
        let elapsed = Duration::from_nanos(until_ns - from_ns).as_secs_f64();
        let cores = |(after, before): (&Usage, &Usage)| (after.cpu - before.cpu).as_secs_f64() / elapsed;
        let cores = after.iter().zip(&before).map(cores).collect();
        Ok((self.stretch(from_ns, until_ns)?, cores, peaks_of(&after)))
    }

    /// The process that polls is killed after a third of the time, and started again as a supervisor would.
    async fn killed(&self, side: &mut dyn Side, poller: usize) -> anyhow::Result<Stretch> {
        let before = self.time / 3;
        let from_ns = monotonic_ns();
        sleep(before).await;
        side.kill(poller).await?;
        sleep(STARTED_AGAIN).await;
        side.start_again(poller).await?;
        sleep(self.time - before - STARTED_AGAIN).await;
        let until_ns = monotonic_ns();
        self.settled(side, until_ns).await?;
        self.stretch(from_ns, until_ns)
    }

    /// The destination is away; what was on its way when it left is looked at, too.
    async fn away(&self, side: &mut dyn Side) -> anyhow::Result<(Stretch, Duration)> {
        let from_ns = monotonic_ns();
        sleep(SETTLING).await;
        side.destination_leaves().await?;
        sleep(self.time).await;
        side.destination_returns().await?;
        let until_ns = monotonic_ns();
        let caught_up = self.settled(side, until_ns).await?.unwrap_or(LAST_ANSWERS);
        // An answer is known to have arrived by one of its samples.
        let fewest = self.stretch(0, until_ns)?.arrived * u64::from(DEVICES.registers);
        let counted = side.delivered()?.samples;
        ensure!(counted >= fewest, "answers of {fewest} samples have arrived, and {counted} samples");
        Ok((self.stretch(from_ns, until_ns)?, caught_up))
    }

    /// Waits until of each device an answer has arrived that it gave after a moment, and nothing older comes any more:
    /// how long it was until the last of these came. Nothing if it does not come to that.
    async fn settled(&self, side: &mut dyn Side, until_ns: u64) -> anyhow::Result<Option<Duration>> {
        let began = Instant::now();
        let mut ticks = interval(LOOK_EVERY);
        let (mut arrived, mut last) = (0, began);
        loop {
            ticks.tick().await;
            side.delivered()?;
            let (has_newer, older) = {
                let story = self.seen.look()?;
                let older = story.fates(0, until_ns).arrived.count();
                (story.has_each_arrived(DEVICES.count, until_ns), older)
            };
            let now = Instant::now();
            if older > arrived {
                (arrived, last) = (older, now);
            }
            if has_newer && now - last >= STRAGGLERS {
                return Ok(Some(last - began));
            }
            if now - began >= LAST_ANSWERS {
                self.say(&format!("waited {} s in vain for all devices' answers", LAST_ANSWERS.as_secs()));
                return Ok(None);
            }
        }
    }

    fn stretch(&self, from_ns: u64, until_ns: u64) -> anyhow::Result<Stretch> {
        let story = self.seen.look()?;
        let periods = Duration::from_nanos(until_ns - from_ns).div_duration_f64(DEVICES.period);
        Ok(Stretch {
            due: periods.floor() as u64 * DEVICES.count as u64,
            given: story.reads_between(from_ns, until_ns),
            arrived: story.fates(from_ns, until_ns).arrived.count(),
        })
    }

    fn say(&self, text: &str) {
        self.bench.say(&format!("{}: {text}", self.name));
    }
}

impl Stretch {
    /// Answers that were due and have not arrived.
    fn missing(self) -> u64 {
        self.due.saturating_sub(self.arrived)
    }

    /// What is missing, in samples, and where it went missing.
    fn told(self) -> String {
        format!(
            "{} of {} ({} never read, {} read and never delivered)",
            samples(self.missing()),
            samples(self.due),
            samples(self.due.saturating_sub(self.given)),
            samples(self.given.saturating_sub(self.arrived))
        )
    }
}

impl std::fmt::Display for Stretch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { due, given, arrived } = self;
        write!(f, "{due} answers due, {given} given, {arrived} arrived")
    }
}

impl Measured {
    fn figures(&self, name: &str, time: Duration) -> Vec<Figure> {
        let seconds = time.as_secs();
        let figure = |what: &str, measured: String| Figure::reported(&format!("{name}: {what}"), measured);
        vec![
            figure(
                &format!("samples delivered of {seconds} s"),
                format!("{} of {}", samples(self.steady.arrived), samples(self.steady.due)),
            ),
            figure("processor meanwhile", self.processor()),
            figure("most resident memory", self.memory(&self.peaks)),
            figure(&format!("samples missing, {seconds} s around a kill -9"), self.killed.told()),
            figure(&format!("samples missing, destination away for {seconds} s"), self.away.told()),
            figure("everything delivered after its return", format!("{:.1} s", self.caught_up.as_secs_f64())),
            figure("most resident memory, that included", self.memory(&self.peaks_away)),
            figure("samples that came again", grouped(self.delivered.again as f64)),
        ]
    }

    fn processor(&self) -> String {
        let all: f64 = self.cores.iter().sum();
        match self.cores.get(self.poller) {
            Some(polls) if self.cores.len() > 1 => {
                format!("{all:.2} cores ({polls:.2} of it by the one that polls)")
            }
            _ => format!("{all:.2} cores"),
        }
    }

    fn memory(&self, peaks: &[u64]) -> String {
        let all = megabytes(peaks.iter().sum());
        match peaks.get(self.poller) {
            Some(polls) if peaks.len() > 1 => {
                format!("{all} ({} of it by the one that polls)", megabytes(*polls))
            }
            _ => all,
        }
    }
}

/// What is held against the other side.
fn compared(ours: &Measured, theirs: &Measured) -> Vec<Figure> {
    let judged = |what: &str, of: fn(&Measured) -> Stretch| {
        let (ours, theirs) = (of(ours).missing(), of(theirs).missing());
        let measured = format!("{} and {}", samples(ours), samples(theirs));
        let what = format!("samples missing {what}, ours and theirs");
        // At the edges of a stretch, chance decides on an answer of each device.
        let is_met = ours <= theirs + DEVICES.count as u64;
        Figure::judged(&what, "no more, but an answer of each device", measured, is_met)
    };
    vec![
        judged("around a kill -9", |measured| measured.killed),
        judged("with the destination away", |measured| measured.away),
    ]
}

/// Answers, in samples.
fn samples(answers: u64) -> String {
    grouped((answers * u64::from(DEVICES.registers)) as f64)
}

fn peaks_of(usage: &[Usage]) -> Vec<u64> {
    usage.iter().map(|usage| usage.peak).collect()
}

/// Three nodes, and an HTTP receiver.
struct Ours {
    world: World,
    receiver: Receiver,
}

impl Side for Ours {
    fn usage(&mut self) -> BoxFuture<'_, anyhow::Result<Vec<Usage>>> {
        async move { self.world.usage().await }.boxed()
    }

    fn poller(&mut self) -> BoxFuture<'_, anyhow::Result<usize>> {
        async move { self.world.leader().await }.boxed()
    }

    fn kill(&mut self, process: usize) -> BoxFuture<'_, anyhow::Result<()>> {
        async move {
            self.world.nodes.kill(process).await?;
            Ok(())
        }
        .boxed()
    }

    fn start_again(&mut self, process: usize) -> BoxFuture<'_, anyhow::Result<()>> {
        async move { Ok(self.world.nodes.run(process).await?) }.boxed()
    }

    fn destination_leaves(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        async move {
            self.receiver.go_down().await;
            Ok(())
        }
        .boxed()
    }

    fn destination_returns(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        async move { Ok(self.receiver.come_up().await?) }.boxed()
    }

    fn delivered(&mut self) -> anyhow::Result<Delivered> {
        let casualty = self.world.nodes.casualty();
        ensure!(casualty.is_none(), "a node ended: {casualty:?}");
        let counts = self.receiver.counts();
        Ok(Delivered { samples: counts.samples, again: counts.duplicates })
    }

    fn end(self: Box<Self>) -> BoxFuture<'static, anyhow::Result<()>> {
        async move {
            let Self { world, receiver } = *self;
            let ended = world.end().await;
            drop(receiver);
            ended
        }
        .boxed()
    }
}

/// A plant of these devices, with a tag for each register. The one that numbers the answers is called as the history
/// knows it.
fn document(running: &[ModbusServer], url: &str) -> String {
    let mut text = format!(
        "version = 1\n[retention]\nmax-bytes = \"200GiB\"\n[[template]]\nid = \"machine\"\n\
         driver = \"modbus-tcp\"\nunit-id = 1\n[[template.group]]\nid = \"all\"\nperiod = \"{}ms\"\ntag = [\n",
        DEVICES.period.as_millis()
    );
    for register in 0..DEVICES.registers {
        let name = match register {
            1 => READS.trim_start_matches('/').to_owned(),
            other => format!("word-{other:02}"),
        };
        let _ =
            writeln!(text, "  {{ name = \"{name}\", address = \"holding:{register}\", type = \"u16\" }},");
    }
    text.push_str("]\n");
    for (number, device) in running.iter().enumerate() {
        let (id, address) = (device_id(number), device.address());
        let _ = writeln!(text, "[[device]]\nid = \"{id}\"\ntemplate = \"machine\"\naddress = \"{address}\"");
    }
    text.push_str(&destination(url));
    text
}

#[cfg(test)]
mod tests {
    use model::plant::document::{Bundle, read_bundle};
    use simulator::history::History;

    use super::*;
    use crate::table::Section;

    fn measured(killed: u64, away: u64) -> Measured {
        let stretch = |missing| Stretch { due: 6_000, given: 5_900, arrived: 6_000 - missing };
        Measured {
            steady: stretch(0),
            cores: vec![0.1, 0.02, 0.03],
            peaks: vec![90_000_000, 70_000_000, 60_000_000],
            poller: 0,
            killed: stretch(killed),
            away: stretch(away),
            caught_up: Duration::from_millis(1_500),
            peaks_away: vec![100_000_000],
            delivered: Delivered { samples: 900_000, again: 50 },
        }
    }

    fn markdown(figures: Vec<Figure>) -> String {
        Section { subject: "race-polling", figures }.markdown()
    }

    #[tokio::test]
    async fn the_plant_has_a_sample_for_each_register_of_each_device() {
        let running = DEVICES.start(&History::to_writer(std::io::sink())).await.expect("free ports");
        let text = document(&running, "http://127.0.0.1:9/ingest");
        let plant = read_bundle(&Bundle::of_document(text.clone()))
            .unwrap_or_else(|errors| panic!("{errors:?}\n{text}"))
            .plant;
        let tags: usize =
            plant.devices.iter().flat_map(|device| &device.groups).map(|group| group.tags.len()).sum();
        assert_eq!((plant.devices.len(), tags), (100, 5_000));
    }

    #[test]
    fn what_is_missing_was_never_read_or_never_delivered() {
        let text = markdown(measured(130, 0).figures("Holdfast", Duration::from_secs(60)));
        let killed =
            "around a kill -9 |  | 6,500 of 300,000 (5,000 never read, 1,500 read and never delivered)";
        let cores = "0.15 cores (0.10 of it by the one that polls)";
        for part in [killed, cores, "220 MB (90 MB of it by the one that polls)", "1.5 s", "| 100 MB |"] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
    }

    #[test]
    fn ours_may_miss_no_more_than_theirs_but_at_the_edges() {
        let text = markdown(compared(&measured(100, 205), &measured(700, 4)));
        assert!(
            compared(&measured(0, 100), &measured(0, 0)).iter().all(|figure| {
                Section { subject: "race-polling", figures: vec![figure.clone()] }.is_met()
            })
        );
        let verdicts: Vec<&str> = text.lines().skip(2).filter_map(|line| line.split('|').nth(4)).collect();
        assert_eq!(verdicts, [" met ", " **missed** "], "{text}");
    }
}
