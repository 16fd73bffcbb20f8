//! Five hundred simulated Modbus devices, sixty samples each every second, to one HTTP receiver, for minutes.
//!
//! - Missed slots come from the receiver's gap records; that nothing is missing otherwise, from the devices' answers: a
//!   tag of each device counts them, and what the receiver does not see of them must be bad slots or in gap records, of
//!   which there may be none. How often each device must have been read, the time says.
//! - Processor time and memory of the three nodes come from /proc, of a stretch that begins when everything runs.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use model::{Clock, Timestamp};
use runtime::SystemClock;
use simulator::history::monotonic_ns;
use simulator::receiver::{Mode, Receiver};
use tokio::time::{Instant, sleep_until};

use crate::plant::{self, Devices};
use crate::process;
use crate::seen::{READS, Seen};
use crate::table::{Figure, grouped, megabytes, millis};
use crate::world::{Bench, World};

/// Tags of a device: those before the words, and a word each.
const REGISTERS: u16 = 62;
const PERIOD: Duration = Duration::from_secs(1);
/// Nodes are asked how they are seldom: it is work.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What is not measured at the beginning.
const SETTLING: Duration = Duration::from_secs(5);
const ONE_CORE: f64 = 1.0;

/// How polling is measured.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    /// Seconds that are measured.
    #[arg(long)]
    seconds: Option<u64>,
    /// Devices.
    #[arg(long)]
    devices: Option<usize>,
}

pub(crate) async fn run(bench: &Bench, args: &Args) -> anyhow::Result<Vec<Figure>> {
    let time = Duration::from_secs(bench.or_usual(args.seconds, 600, 30));
    let devices = Devices { count: args.devices.unwrap_or(500), registers: REGISTERS, period: PERIOD };
    let seen = Seen::start();
    let running = devices.start(&seen.history()).await?;
    let mode = Mode::CountingSamples(seen.history(), "receiver".to_owned(), READS);
    let receiver = Receiver::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), mode).await?;
    let world = World::start(bench, "polling", LOOK_EVERY).await?;
    world.apply(&plant::document(Some((&devices, &running)), &[], Some(&receiver.url()))).await?;
    let applied_ns = monotonic_ns();
    let read = || seen.look().map(|story| story.reads_since(devices.count, applied_ns, |_| true));
    world.until_all_read(read).await?;
    bench.say(&format!("{} devices are read; {} s are measured", devices.count, time.as_secs()));
    sleep_until(Instant::now() + SETTLING).await;
    let measured = measure(bench, &world, &seen, &receiver, &devices, time).await;
    world.end().await?;
    measured
}

async fn measure(
    bench: &Bench,
    world: &World,
    seen: &Seen,
    receiver: &Receiver,
    devices: &Devices,
    time: Duration,
) -> anyhow::Result<Vec<Figure>> {
    let own = std::process::id();
    let term = world.term().await?;
    let (began, from_ns, from) = (Instant::now(), monotonic_ns(), SystemClock.now());
    let (before, own_before) = (world.usage().await?, process::usage(own)?);
    let mut resident = vec![0; before.len()];
    while began.elapsed() < time {
        sleep_until(Instant::now() + PERIOD.min(time)).await;
        for (most, usage) in resident.iter_mut().zip(world.usage().await?) {
            *most = usage.resident.max(*most);
        }
        anyhow::ensure!(world.nodes.casualty().is_none(), "a node ended: {:?}", world.nodes.casualty());
    }
    let (until_ns, until, elapsed) = (monotonic_ns(), SystemClock.now(), began.elapsed());
    let (after, own_after) = (world.usage().await?, process::usage(own)?);
    let counts = world.settled(seen, receiver, devices.count, until_ns).await?;
    let term_after = world.term().await?;

    let cores = |used: Duration| used.as_secs_f64() / elapsed.as_secs_f64();
    let nodes: Vec<f64> =
        after.iter().zip(&before).map(|(after, before)| cores(after.cpu - before.cpu)).collect();
    let all: f64 = nodes.iter().sum();
    let each: Vec<String> = nodes.iter().map(|cores| format!("{cores:.2}")).collect();
    let story = seen.look()?;
    let (slots, causes) = story.slots_missed(from, until);
    let (at_first, first_causes) = story.slots_missed(Timestamp(0), from);
    let reads = story.reads_between(from_ns, until_ns);
    let mut jitter = story.jitter(devices.period, from_ns);
    bench.say(&format!("{slots} slots missed {causes:?}, {all:.2} cores, {counts:?}"));
    let fates = story.fates(from_ns, until_ns);
    let not_good = story.not_good_since(from_ns);
    let fewest = story.fewest_reads_between(from_ns, until_ns);
    let due = (elapsed.as_secs_f64() / devices.period.as_secs_f64()).floor() as u64;
    let rate = reads as f64 * devices.tags() as f64 / elapsed.as_secs_f64();
    let memory: Vec<String> = resident.iter().map(|bytes| megabytes(*bytes)).collect();
    Ok(vec![
        Figure::judged(
            &format!(
                "slots missed in {} s, {} devices × {} tags",
                time.as_secs(),
                devices.count,
                devices.tags()
            ),
            "0",
            format!(
                "{slots} {} of {}",
                causes.join(" "),
                grouped(devices.count as f64 * elapsed.as_secs_f64())
            ),
            slots == 0,
        ),
        Figure::reported(
            "slots missed before, while every device was connected to",
            format!("{at_first} {}", first_causes.join(" ")),
        ),
        Figure::judged(
            "answers that no record holds",
            "0",
            format!("{} of {}", fates.lost, grouped(fates.total() as f64)),
            fates.lost == 0,
        ),
        Figure::judged(
            &format!("reads of the device that was read least often, of {due}"),
            &format!("≥ {}", due.saturating_sub(1)),
            fewest.to_string(),
            fewest + 1 >= due,
        ),
        Figure::judged("samples that were not good", "0", grouped(not_good as f64), not_good == 0),
        Figure::elections(term, term_after),
        Figure::judged(
            "processor, three nodes together",
            "< 1 core",
            format!("{all:.2} cores ({})", each.join(" + ")),
            all < ONE_CORE,
        ),
        Figure::reported("resident memory of each node", memory.join(", ")),
        Figure::reported("samples/s read", grouped(rate)),
        Figure::reported(
            "time between reads of a device, from its period",
            format!("p50 {}, p99 {}", millis(jitter.quantile(0.5)), millis(jitter.quantile(0.99))),
        ),
        Figure::reported(
            "samples that came again, or out of order",
            format!("{}, {}", counts.duplicates, counts.out_of_order),
        ),
        Figure::reported(
            "devices and receiver themselves",
            format!("{:.2} cores", cores(own_after.cpu - own_before.cpu)),
        ),
    ])
}
