//! The disks of one, two or three nodes fill up under load, by something that is not the node's: to the last byte, or to
//! some hundred KiB. They stay full for some seconds, and are freed.
//!
//! - Half of what fills them takes what is there once, so that a node goes on with its reserve; the other half takes that,
//!   too, and whatever else comes back.
//! - Where a majority has room, pushes are acknowledged and every device is read again within five seconds, and neither stops
//!   for longer afterwards. Where none has, nothing is acknowledged once calls that were under way have ended, and polled
//!   slots are in gaps `disk-full`.
//! - A node whose reserve was taken, too, may end by itself: an error of the disk is final, and the node says which one it
//!   was. It is started again when there is room. Any other end is a failure.
//! - A full disk has bitten if the file system had no room as often as it was looked at, and what was written there failed;
//!   or if the node gave up its reserve, where that was left to it.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::Rng as _;
use rand::rngs::SmallRng;
use simulator::account::Account;
use simulator::history::{Kind, monotonic_ns};
use simulator::nodes::cluster::View;
use simulator::nodes::layout::NODES;
use simulator::nodes::process::Process;
use simulator::trial::HEALING;
use tokio::sync::MutexGuard;
use tokio::time::{Instant, sleep};

use super::{World, victims};
use crate::machine::volume::Volume;
use crate::prove::liveness::Bounds;
use crate::prove::run::{Assignment, RunReport};
use crate::story::{Story, longest_silence};
use crate::until;

/// How long disks stay full, in milliseconds.
const HOLD: std::ops::Range<u64> = 8_000..12_000;
/// How often is filled what has come back.
const FILL_EVERY: Duration = Duration::from_millis(50);
const FILL_TRIES: u32 = 5;
/// Bytes that are left, where some are.
const LEFT: std::ops::Range<u64> = (100 << 10)..(800 << 10);
/// What nobody can write to a full disk.
const TOO_MUCH: usize = 1 << 20;
/// What a node says that gives up its reserve.
const RESERVE_GIVEN_UP: &str = "HF-4103";
/// Until somebody with room leads, and the longest silence: a look at the disk, one at the others, and a hand-over or an
/// election.
const GOES_ON: Duration = Duration::from_secs(5);
/// A look at the disk, what was in the log by then, and how long a pusher waits for an answer at most.
const CALLS_END: Duration = Duration::from_millis(500 + 1_000 + 1_000 + 500);

/// Samples come back only when a disk has been looked at and has room for some time, and nodes that ended for want of it are
/// started again.
pub const BOUNDS: Bounds = Bounds { recovery: HEALING, ..Bounds::USUAL };

const LIVE: &str = "I10 acknowledged and read again within 5 s wherever a majority has room";
const SILENT: &str = "I15 nothing is acknowledged where no majority has room";
const COMES_BACK: &str = "I17 the cluster is whole again within 30 s of having room";
/// What gaps say that are due to it.
const CAUSE: &str = "disk-full";
/// What a node says that ends because of it: the system's words, or that of RocksDB's own threads.
const WORDS: [&str; 2] = ["No space left on device", "a flush or compaction in the background failed"];

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fill {
    victims: Vec<usize>,
    /// Bytes that are left to the node.
    leave: u64,
    /// Whether what comes back is taken as well.
    takes_all: bool,
    hold: Duration,
}

/// Disks that were full, in monotonic nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    /// In words.
    name: String,
    /// Whether two nodes had room.
    has_majority: bool,
    /// When all of them were full.
    full_ns: u64,
    /// When they began to be freed.
    freed_ns: u64,
    /// From then until the cluster was whole.
    recovery: Duration,
}

/// What a fault has shown.
struct Shown {
    full_ns: u64,
    freed_ns: u64,
    has_bitten: bool,
    /// Nodes that ended by themselves.
    ended: usize,
}

/// Fills disks so often.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    let mut world = World::open("full-disks", assignment).await?;
    let mut all = Vec::new();
    for number in 1..=assignment.times {
        let held = Box::pin(fill(&mut world)).await.map(|held| all.push(held));
        if !world.is_over(number, held) {
            break;
        }
    }
    let (mut report, devices, story) = world.close_with_story().await?;
    judge(&mut report, &all, &devices, &story);
    Ok(report)
}

async fn fill(world: &mut World) -> Result<Held> {
    let leader = world.scene.agreed().await?;
    let fill = Fill::draw(&mut world.random, leader);
    world.moment().await;
    world.leaves_majority(fill.victims.len() == 1);
    let gaps_before = slots_without_room(&world.scene.field.account.lock());
    let began_ns = monotonic_ns();
    let shown = Box::pin(suffer(world, &fill)).await;
    {
        let mut account = world.scene.field.account.lock();
        account.disturbed(began_ns, monotonic_ns());
        // A leader and a follower with room are enough: nothing may be refused then.
        if fill.victims.contains(&leader) || fill.victims.len() > 1 {
            account.allow_within(&[CAUSE], began_ns, monotonic_ns());
        }
    }
    let Shown { full_ns, freed_ns, has_bitten, ended } = shown.with_context(|| fill.name())?;
    world.report.injected(has_bitten);
    *world.report.figures.entry("nodes that ended for want of room".to_owned()).or_default() += ended as f64;
    world.whole().await?;
    let recovery = Duration::from_nanos(monotonic_ns() - freed_ns);
    let held = Held { name: fill.name(), has_majority: fill.victims.len() == 1, full_ns, freed_ns, recovery };
    if !held.has_majority && ended == 0 {
        let what = "slots that nobody had room for to be in gaps";
        let more = |account: &Account| (slots_without_room(account) > gaps_before).then_some(());
        world.scene.until_account(what, more).await?;
    }
    Ok(held)
}

fn slots_without_room(account: &Account) -> u64 {
    account.gap_causes().get(CAUSE).copied().unwrap_or_default()
}

impl Fill {
    fn draw(random: &mut SmallRng, leader: usize) -> Self {
        Self {
            victims: victims(random, leader),
            leave: if random.random_bool(0.5) { 0 } else { random.random_range(LEFT) },
            takes_all: random.random_bool(0.5),
            hold: Duration::from_millis(random.random_range(HOLD)),
        }
    }

    fn name(&self) -> String {
        let reserve = if self.takes_all { "also of the reserve" } else { "but for the reserve" };
        format!("disks of {:?} full up to {} bytes, {reserve}", self.victims, self.leave)
    }
}

/// Fills disks, frees them, and waits until all nodes take entries again.
async fn suffer(world: &World, fill: &Fill) -> Result<Shown> {
    let mut suffering = Suffering::of(world, &fill.victims).await;
    let full = stay_full(world, fill, &suffering).await;
    let freed_ns = monotonic_ns();
    // Whatever went wrong, the end of the run needs room.
    let freed: Vec<_> = fill.victims.iter().map(|node| world.hosts.disk(*node).free()).collect();
    world.healed();
    let (full_ns, has_bitten) = full?;
    freed.into_iter().collect::<io::Result<()>>()?;
    suffering.recover(world).await?;
    Ok(Shown { full_ns, freed_ns, has_bitten, ended: suffering.ended })
}

/// Keeps disks full. When all of them were, and whether they were all the time.
async fn stay_full(world: &World, fill: &Fill, suffering: &Suffering<'_>) -> Result<(u64, bool)> {
    let disks: Vec<&Volume> = fill.victims.iter().map(|node| world.hosts.disk(*node)).collect();
    let mut has_bitten = true;
    for disk in &disks {
        has_bitten &= becomes_full(disk, fill.leave)?;
    }
    let full_ns = monotonic_ns();
    let ends = Instant::now() + fill.hold;
    while Instant::now() < ends {
        // How long they stay full is the fault itself.
        sleep(FILL_EVERY).await;
        for disk in disks.iter().filter(|_| fill.takes_all) {
            disk.fill(fill.leave)?;
            has_bitten &= disk.available()? < TOO_MUCH as u64;
        }
    }
    for (place, disk) in disks.iter().enumerate() {
        has_bitten &= match fill.takes_all {
            true => becomes_full(disk, fill.leave)?,
            // One that had none any more has nothing to give.
            false => {
                suffering.said_since(place).contains(RESERVE_GIVEN_UP) || !disk.has_room_for(TOO_MUCH)?
            }
        };
    }
    Ok((full_ns, has_bitten))
}

/// Fills a disk, and shows that nothing can be written to it. Its node may give something back in between, which is taken.
fn becomes_full(disk: &Volume, leave: u64) -> io::Result<bool> {
    for _ in 0..FILL_TRIES {
        disk.fill(leave)?;
        if disk.available()? < TOO_MUCH as u64 && !disk.has_room_for(TOO_MUCH)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Nodes on full disks. Who watches them does not see one end by itself as long as this lives.
struct Suffering<'a> {
    processes: Vec<MutexGuard<'a, Process>>,
    /// The lengths of their logs before.
    said: Vec<usize>,
    /// How often one has ended by itself.
    ended: usize,
}

impl<'a> Suffering<'a> {
    async fn of(world: &'a World, victims: &[usize]) -> Self {
        let mut processes = Vec::new();
        for node in victims {
            processes.push(world.scene.process(*node).await);
        }
        let said = processes.iter().map(|process| process.log().len()).collect();
        Self { processes, said, ended: 0 }
    }

    /// Starts those again that have ended, and waits until all nodes take entries.
    async fn recover(&mut self, world: &World) -> Result<()> {
        let freed = Instant::now();
        let mut target = None;
        until("all nodes to take entries again", async || {
            if let Err(error) = self.start_again() {
                return Ok(Err(error));
            }
            match takes_entries(world, freed, &mut target).await {
                Ok(()) => Ok(Ok(())),
                Err(missing) => Err(format!("{missing:#}")),
            }
        })
        .await?
    }

    fn start_again(&mut self) -> Result<()> {
        for place in 0..self.processes.len() {
            if let Some(status) = self.processes[place].has_ended()? {
                says_why(status, &self.said_since(place))?;
                self.processes[place].start()?;
                self.ended += 1;
            }
        }
        Ok(())
    }

    /// What one of them has logged since.
    fn said_since(&self, place: usize) -> String {
        let log = self.processes[place].log();
        log.get(self.said[place]..).unwrap_or(&log).to_owned()
    }
}

/// An error unless a node that ended by itself said that its disk has no room.
fn says_why(status: ExitStatus, said: &str) -> Result<()> {
    let is_told = WORDS.iter().any(|words| said.contains(words));
    ensure!(status.code() == Some(1) && is_told, "it ended by itself ({status}), and said\n{said}");
    Ok(())
}

/// An error unless all nodes agree, and each has more than was there when they first did: up to `target`.
async fn takes_entries(world: &World, since: Instant, target: &mut Option<u64>) -> Result<()> {
    // Those that are held here are taken for dead by who watches them.
    let view = View { is_running: vec![true; NODES], ..world.scene.view() };
    ensure!(view.asked.is_some_and(|asked| asked >= since), "they were not asked yet");
    let leader = view.agreed().with_context(|| format!("they do not agree: {view}"))?;
    let target = match *target {
        Some(target) => target,
        None => {
            let leader = world.scene.layout.index_of(&leader.name).context("one of ours")?;
            *target.insert(world.scene.buffer(leader).await?.last)
        }
    };
    for node in 0..NODES {
        let committed = world.scene.buffer(node).await?.committed;
        ensure!(committed > target, "{} is at {committed}, and not behind {target}", world.scene.name(node));
    }
    Ok(())
}

/// Enters what pushers and devices saw while disks were full.
fn judge(report: &mut RunReport, all: &[Held], devices: &[String], story: &Story) {
    let (live, silent): (Vec<&Held>, Vec<&Held>) = all.iter().partition(|held| held.has_majority);
    let is_missing = |held: &Held| {
        let from = held.full_ns + nanos(GOES_ON);
        let stops = story.acknowledged(from, held.freed_ns) == 0
            || fewest_reads(story, devices, from, held.freed_ns) == 0;
        stops
            || story.silence(held.full_ns, held.freed_ns) > GOES_ON
            || longest_unread(story, devices, held.full_ns, held.freed_ns) > GOES_ON
    };
    let is_loud = |held: &Held| story.acknowledged(held.full_ns + nanos(CALLS_END), held.freed_ns) > 0;
    let is_late = |held: &Held| held.recovery > HEALING;
    let names = |held: &[&Held], is_wrong: &dyn Fn(&Held) -> bool| {
        let wrong = held.iter().filter(|held| is_wrong(held));
        wrong.map(|held| held.name.as_str()).collect::<Vec<&str>>().join("; ")
    };
    let both: Vec<&Held> = all.iter().collect();
    let checks = [
        (LIVE, live.len(), names(&live, &is_missing)),
        (SILENT, silent.len(), names(&silent, &is_loud)),
        (COMES_BACK, both.len(), names(&both, &is_late)),
    ];
    for (check, of, wrong) in checks {
        // Nothing is said of what the seed left out.
        if of > 0 {
            let text = if wrong.is_empty() { format!("{of} times") } else { wrong.clone() };
            report.judge(check, wrong.is_empty(), text);
        }
    }
    let longest = all.iter().map(|held| held.recovery).max().unwrap_or_default();
    report.figures.insert("longest recovery with room, ms".to_owned(), longest.as_secs_f64() * 1e3);
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2)
}

/// When a device got the requests that it answered.
fn answered<'a>(story: &'a Story, device: &'a str) -> impl Iterator<Item = u64> + 'a {
    let answered = story.reads.iter().filter(move |read| read.kind == Kind::Ok && read.process == device);
    answered.map(|read| read.details.first_byte_ns)
}

/// Reads answered between two moments, of the device that was read least.
fn fewest_reads(story: &Story, devices: &[String], from_ns: u64, until_ns: u64) -> usize {
    let of = |device: &String| {
        answered(story, device).filter(|moment| (from_ns..until_ns).contains(moment)).count()
    };
    devices.iter().map(of).min().unwrap_or_default()
}

/// The longest time between two moments in which some device was not read.
fn longest_unread(story: &Story, devices: &[String], from_ns: u64, until_ns: u64) -> Duration {
    let of = |device: &String| longest_silence(answered(story, device), from_ns, until_ns);
    devices.iter().map(of).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::SocketAddr;
    use std::os::unix::process::ExitStatusExt as _;

    use rand::SeedableRng as _;
    use simulator::history::Entry;
    use simulator::modbus::ReadSeen;
    use simulator::pusher::PushNote;

    use super::*;
    use crate::prove::run::Verdict;

    const SECOND: u64 = 1_000_000_000;

    fn entry<D>(t_ns: u64, process: &str, op: &str, details: D) -> Entry<D> {
        Entry { t_ns, process: process.to_owned(), kind: Kind::Ok, op: op.to_owned(), details }
    }

    fn read(at: u64, device: &str) -> Entry<ReadSeen> {
        let details = ReadSeen {
            peer: SocketAddr::from(([10, 130, 0, 11], 4711)),
            unit: 1,
            function: 3,
            start: 0,
            count: 24,
            ordinal: 1,
            first_byte_ns: at,
            last_byte_ns: at + 1,
            exception: None,
            hash: 0,
        };
        entry(at + 1, device, "read", details)
    }

    fn push(at: u64) -> Entry<PushNote> {
        entry(at, "robot", "push", PushNote::default())
    }

    /// Checks that fail, for disks that are full from the tenth second to the twentieth.
    fn failed(
        has_majority: bool,
        recovery: Duration,
        reads: Vec<Entry<ReadSeen>>,
        pushes: Vec<Entry<PushNote>>,
    ) -> Vec<String> {
        let (full_ns, freed_ns) = (10 * SECOND, 20 * SECOND);
        let held = Held { name: "so".to_owned(), has_majority, full_ns, freed_ns, recovery };
        let story = Story { reads, pushes, records: Vec::new() };
        let mut report = RunReport::new("full-disks", 1);
        judge(&mut report, &[held], &["press-1".to_owned(), "press-2".to_owned()], &story);
        let failed = report.findings.into_iter().filter(|finding| finding.verdict == Verdict::Failed);
        failed.map(|finding| finding.check).collect()
    }

    #[test]
    fn with_room_on_a_majority_it_must_go_on() {
        let pushes = |seconds: &[u64]| seconds.iter().map(|second| push(second * SECOND)).collect::<Vec<_>>();
        let reads = |first: &[u64], second: &[u64]| {
            let of = |device, seconds: &[u64]| {
                seconds.iter().map(|second| read(second * SECOND, device)).collect::<Vec<_>>()
            };
            [of("press-1", first), of("press-2", second)].concat()
        };
        let failed = |reads, pushes| failed(true, Duration::from_secs(1), reads, pushes);
        let both = || reads(&[14, 18], &[14, 18]);
        assert_eq!(failed(both(), pushes(&[14, 18])), Vec::<String>::new());
        assert_eq!(failed(both(), pushes(&[14, 21])), [LIVE], "nothing any more");
        assert_eq!(failed(both(), pushes(&[17, 19])), [LIVE], "nothing for seven seconds");
        assert_eq!(failed(reads(&[14, 18], &[14]), pushes(&[14, 18])), [LIVE], "a device is read no more");
        assert_eq!(
            failed(reads(&[14, 18], &[17, 19]), pushes(&[14, 18])),
            [LIVE],
            "and one for seven seconds"
        );
    }

    #[test]
    fn without_room_on_a_majority_nothing_is_acknowledged_once_calls_have_ended() {
        let failed = |pushes| failed(false, Duration::from_secs(1), Vec::new(), pushes);
        assert_eq!(failed(vec![push(12 * SECOND), push(21 * SECOND)]), Vec::<String>::new());
        assert_eq!(failed(vec![push(14 * SECOND)]), [SILENT]);
    }

    #[test]
    fn it_must_be_whole_again_in_time() {
        assert_eq!(failed(false, HEALING * 2, Vec::new(), Vec::new()), [COMES_BACK]);
    }

    #[test]
    fn a_node_may_end_for_want_of_room_alone_and_must_say_so() {
        let (failed, killed) = (ExitStatus::from_raw(1 << 8), ExitStatus::from_raw(9));
        let words = "the node has ended: task commit ended: commit: IO error: No space left on device: x";
        assert!(says_why(failed, words).is_ok());
        assert!(says_why(failed, "the node has ended: dry").is_err());
        assert!(says_why(killed, words).is_err() && says_why(ExitStatus::default(), words).is_err());
    }

    #[test]
    fn everything_is_drawn_sooner_or_later() {
        let mut random = SmallRng::seed_from_u64(7);
        let drawn = (0..1000).map(|_| Fill::draw(&mut random, 1));
        let kinds = drawn.map(|fill| (fill.victims, fill.leave == 0, fill.takes_all));
        assert_eq!(kinds.collect::<BTreeSet<_>>().len(), 7 * 4);
    }
}
