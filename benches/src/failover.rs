//! What a group that is read every 100 ms sees of a failover: the leader killed, cut off from its peers, or relieved.
//!
//! - The gap between reads is the longest time between two answered reads of any device, the last by the old leader,
//!   the first by the new one, at the device. The gap in the data is longer by what the old leader still read and
//!   could not commit: the missed slots of a device, and one period.
//! - A planned switchover is judged by the slot rules: slots in gap records that reached the receiver.
//! - The moment of each fault is random against the schedule; a fault is done to a whole cluster.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use model::Clock;
use rand::Rng;
use runtime::SystemClock;
use runtime::random::generator;
use simulator::history::monotonic_ns;
use simulator::receiver::{Mode, Receiver};
use tokio::time::sleep;

use crate::latency::Times;
use crate::plant::{self, Devices};
use crate::seen::{READS, Seen, Story};
use crate::table::{Figure, millis};
use crate::world::{Bench, World};

const DEVICES: Devices = Devices { count: 3, registers: 22, period: Duration::from_millis(100) };
const LOOK_EVERY: Duration = Duration::from_millis(200);
const STARTING: Duration = Duration::from_secs(60);
/// Until another node reads every device.
const TAKE_OVER: Duration = Duration::from_secs(30);
/// Reads of each device that show that reading goes on.
const STEADY_READS: usize = 10;
const HALF: Duration = Duration::from_millis(700);
const LONGEST: Duration = Duration::from_millis(1_200);

/// How failover is measured.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    /// How often the leader is killed.
    #[arg(long)]
    kills: Option<u32>,
    /// How often the leader is cut off; as often as killed if not said.
    #[arg(long)]
    cuts: Option<u32>,
    /// How often leadership is handed over; as often as killed if not said.
    #[arg(long)]
    switchovers: Option<u32>,
}

/// What is done to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Cut,
    Switchover,
}

/// What faults of one kind have shown.
#[derive(Debug, Default)]
struct Outcome {
    gaps: Times,
    /// Gaps in the data that arrives.
    data_gaps: Times,
    /// Slots missed, of all devices together.
    slots: u64,
    causes: Vec<String>,
    /// Terms that began and were not needed.
    surplus_terms: u64,
}

struct Stage<'a> {
    bench: &'a Bench,
    world: World,
    seen: Seen,
}

pub(crate) async fn run(bench: &Bench, args: &Args) -> anyhow::Result<Vec<Figure>> {
    let kills = bench.or_usual(args.kills, 100, 5);
    let plan = [
        (Fault::Kill, kills),
        (Fault::Cut, args.cuts.unwrap_or(kills)),
        (Fault::Switchover, args.switchovers.unwrap_or(kills)),
    ];
    let seen = Seen::start();
    let running = DEVICES.start(&seen.history()).await?;
    let mode = Mode::CountingSamples(seen.history(), "receiver".to_owned(), READS);
    let receiver = Receiver::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), mode).await?;
    let world = World::start(bench, "failover", LOOK_EVERY).await?;
    world.apply(&plant::document(Some((&DEVICES, &running)), &[], Some(&receiver.url()))).await?;
    let stage = Stage { bench, world, seen };
    let mut figures = Vec::new();
    for (fault, times) in plan.into_iter().filter(|(_, times)| *times > 0) {
        let outcome = stage.repeat(fault, times).await?;
        figures.extend(fault.figures(times, outcome));
    }
    let overlaps = stage.seen.look()?.overlaps;
    figures.push(Figure::judged(
        "requests of two nodes at one device at one time",
        "0",
        overlaps.to_string(),
        overlaps == 0,
    ));
    stage.world.end().await?;
    Ok(figures)
}

impl Stage<'_> {
    async fn repeat(&self, fault: Fault, times: u32) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut random = generator(None);
        let first_term = self.world.term().await?;
        for time in 1..=times {
            self.reads_go_on().await?;
            let leader = self.world.leader().await?;
            // What was waited for is looked at on a schedule; the fault comes at a random moment of the devices'.
            sleep(DEVICES.period.mul_f64(random.random())).await;
            let victim = self.world.nodes.layout.nodes[leader].field;
            let (began_ns, began) = (monotonic_ns(), SystemClock.now());
            self.begin(fault, leader).await?;
            let taken_over = self.taken_over(began_ns, victim).await;
            self.mend(fault, leader).await?;
            let gap = taken_over.with_context(|| format!("{fault:?} {time}"))?;
            // The cluster is whole before the next fault.
            self.world.term().await?;
            self.reads_go_on().await?;
            // A gap record is delivered before the reads behind it.
            self.reads_arrive().await?;
            let (slots, causes) = self.seen.look()?.slots_missed(began, SystemClock.now());
            self.bench.say(&format!("{fault:?} {time} of {times}: {}, {slots} slots missed", millis(gap)));
            outcome.gaps.record(gap);
            let of_a_device = slots.div_ceil(DEVICES.count as u64) + 1;
            outcome.data_gaps.record(DEVICES.period * u32::try_from(of_a_device)?);
            outcome.slots += slots;
            for cause in causes {
                if !outcome.causes.contains(&cause) {
                    outcome.causes.push(cause);
                }
            }
        }
        // Those between two faults are counted, too.
        let terms = self.world.term().await?.saturating_sub(first_term);
        outcome.surplus_terms = terms.saturating_sub(u64::from(times));
        Ok(outcome)
    }

    async fn begin(&self, fault: Fault, leader: usize) -> anyhow::Result<()> {
        match fault {
            Fault::Kill => {
                self.world.nodes.process(leader).await.kill().await?;
            }
            Fault::Cut => self.world.nodes.relay.set_all_of(leader, false),
            Fault::Switchover => drop(self.world.nodes.cluster.transfer(leader).await?),
        }
        Ok(())
    }

    async fn mend(&self, fault: Fault, leader: usize) -> anyhow::Result<()> {
        match fault {
            Fault::Kill => self.world.nodes.process(leader).await.start()?,
            Fault::Cut => self.world.nodes.relay.set_all_of(leader, true),
            Fault::Switchover => {}
        }
        Ok(())
    }

    /// Waits until another node has read every device some times, and says how long nobody did.
    async fn taken_over(&self, from_ns: u64, victim: IpAddr) -> anyhow::Result<Duration> {
        let others = |story: &Story| story.reads_since(DEVICES.count, from_ns, |node| node != victim);
        self.until("another node to read every device", TAKE_OVER, |story| {
            (others(story) >= STEADY_READS).then(|| story.gap_of_take_over(from_ns, victim)).flatten()
        })
        .await
    }

    async fn reads_go_on(&self) -> anyhow::Result<()> {
        let from_ns = monotonic_ns();
        self.until("every device to be read", STARTING, |story| {
            (story.reads_since(DEVICES.count, from_ns, |_| true) >= STEADY_READS).then_some(())
        })
        .await
    }

    /// Waits until the receiver has seen a read of every device that is answered from now on.
    async fn reads_arrive(&self) -> anyhow::Result<()> {
        let from_ns = monotonic_ns();
        self.until("every device's reads to arrive", STARTING, |story| {
            story.has_each_arrived(DEVICES.count, from_ns).then_some(())
        })
        .await
    }

    async fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Story) -> Option<T>,
    ) -> anyhow::Result<T> {
        let looked = || match self.seen.look() {
            Ok(story) => condition(&story).map(Ok),
            Err(error) => Some(Err(error)),
        };
        self.world.nodes.until(what, limit, looked).await?
    }
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "leader killed (kill -9)",
            Self::Cut => "leader cut off from its peers",
            Self::Switchover => "planned switchover",
        }
    }

    fn figures(self, times: u32, mut outcome: Outcome) -> Vec<Figure> {
        let name = self.name();
        let gap = |share| outcome.gaps.clone().quantile(share);
        let (half, longest) = (gap(0.5), outcome.gaps.longest());
        let causes = outcome.causes.join(" ");
        let missed = format!("{} {causes}, {} devices", outcome.slots, DEVICES.count);
        let mut figures = match self {
            Self::Switchover => vec![
                Figure::judged(
                    &format!("{name}, {times} times: slots missed"),
                    "0",
                    missed,
                    outcome.slots == 0,
                ),
                Figure::reported(&format!("{name}: gap between reads"), outcome.gaps.summary()),
            ],
            Self::Kill | Self::Cut => vec![
                Figure::judged(
                    &format!("{name}, {times} times: gap between reads, p50"),
                    "< 0.7 s",
                    millis(half),
                    half < HALF,
                ),
                Figure::reported(&format!("{name}: p99"), millis(gap(0.99))),
                Figure::judged(&format!("{name}: longest"), "< 1.2 s", millis(longest), longest < LONGEST),
                Figure::reported(&format!("{name}: gap in the data"), outcome.data_gaps.summary()),
                Figure::reported(&format!("{name}: slots missed"), missed),
            ],
        };
        figures.push(Figure::judged(
            &format!("{name}: elections beyond one a fault"),
            "0",
            outcome.surplus_terms.to_string(),
            outcome.surplus_terms == 0,
        ));
        figures
    }
}
