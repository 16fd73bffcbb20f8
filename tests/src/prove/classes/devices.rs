//! One, two or all devices fail for some seconds: they are silent, slow or away, refuse, or answer what nobody asked. Half of
//! the time the leader is killed meanwhile.
//!
//! - No value of a refused or mangled answer is ever delivered, each slot is in one record, and the account is told which
//!   device failed when: nothing else explains a gap.
//! - The first bad readings say in their status what was wrong.
//! - Other devices are read meanwhile as ever, where the leader lives; and those that failed are read again soon after.
//! - No device sees more connections than it can bear.
//! - A failure has bitten at a device that has refused a request, left one unanswered, or answered one late, as it was told
//!   to; where connections are closed, if a new one is closed too and nothing was read; where they are dropped once, if
//!   another one was made.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use serde::Deserialize;
use simulator::history::monotonic_ns;
use simulator::modbus::{Behaviour, Connections, Counts, Manner, ModbusServer};
use simulator::plant::Shape;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::World;
use crate::prove::run::{Assignment, RunReport};

/// For how long devices fail, in milliseconds.
const HOLD: Range<u64> = 2_000..6_000;
/// A connection that is not served is refused or closed at once.
const CLOSED: Duration = Duration::from_secs(1);
/// What was asked for before a device closed its connections has been answered by then.
const ANSWERED: Duration = Duration::from_millis(500);
/// A silent device is asked at least once in five seconds; connecting may take one more, and the machine is busy.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// Slots, of a hundred, in which a device must be read that nothing was done to.
const READ: u64 = 75;
/// Bad readings of a slot are delivered within this time, also by the next leader.
const DELIVERED: Duration = Duration::from_secs(5);
/// One, and another whose end the device has not noticed yet.
const CONNECTIONS: usize = 2;

/// Each exception code, and what it makes of readings.
const EXCEPTIONS: [(&str, u8, &str); 8] = [
    ("refusing, exception 1", 0x01, "BadNotSupported"),
    ("refusing, exception 2", 0x02, "BadNodeIdUnknown"),
    ("refusing, exception 3", 0x03, "BadNotSupported"),
    ("refusing, exception 4", 0x04, "BadDeviceFailure"),
    ("refusing, exception 5", 0x05, "BadResourceUnavailable"),
    ("refusing, exception 6", 0x06, "BadResourceUnavailable"),
    ("refusing, exception 10", 0x0A, "BadNoCommunication"),
    ("refusing, exception 11", 0x0B, "BadNoCommunication"),
];

const OTHERS: &str = "I7 devices that nothing is done to are read as ever";
const AGAIN: &str = "I17 a device that failed is read again within 10 s";
const REASONS: &str = "I3 bad readings say what was wrong";
const FEW: &str = "I19 no device has more than two connections, and none is turned away";

/// How devices fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failure {
    name: &'static str,
    behaviour: Behaviour,
    /// Whether all connections are dropped first.
    drops: bool,
    /// What bad readings say then; nothing is expected of some.
    status: Option<&'static str>,
}

/// What shows that a device failed as it was told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evidence {
    Refused,
    Unanswered,
    /// Any request: it was answered late.
    Asked,
    Reconnected,
    Closed,
}

/// What was seen of one failure.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    name: &'static str,
    status: Option<&'static str>,
    /// The devices that failed.
    failed: Vec<String>,
    began_ns: u64,
    ended_ns: u64,
    /// Until each was read again, at most.
    again: Duration,
    /// Others, and in how many slots of how many they were read; none where the leader was killed.
    others: Vec<(String, u64, u64)>,
}

/// A bad reading that was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bad {
    t_ns: u64,
    status: String,
}

/// Bad readings by device, in order of time.
type AllBad = BTreeMap<String, Vec<Bad>>;

/// What is looked at in a line of a history.
#[derive(Deserialize)]
struct Line<'a> {
    t_ns: u64,
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(default)]
    is_new: bool,
    #[serde(borrow)]
    record: Option<Record<'a>>,
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow, default)]
    device: Cow<'a, str>,
    #[serde(borrow, default)]
    quality: Cow<'a, str>,
    #[serde(borrow, default)]
    status: Cow<'a, str>,
}

/// Lets devices fail so often.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    let mut world = World::open("devices", assignment).await?;
    let mut all = Vec::new();
    for number in 1..=assignment.times {
        let fault = Box::pin(fail(&mut world)).await.map(|seen| all.push(seen));
        if !world.is_over(number, fault) {
            break;
        }
    }
    let field = &world.scene.field;
    let connections = field.devices.iter().zip(&field.plant.devices);
    let connections: Vec<(String, Connections)> =
        connections.map(|(server, device)| (device.id.clone(), server.connections())).collect();
    let history = field.history();
    let mut report = world.close().await;
    let bad = bad_readings(BufReader::new(File::open(&history)?))?;
    judge(&mut report, &all, &bad, &connections);
    Ok(report)
}

async fn fail(world: &mut World) -> Result<Seen> {
    let leader = world.scene.agreed().await?;
    let devices = world.scene.field.devices.len();
    let (failure, struck) = (draw(&mut world.random), some_of(&mut world.random, devices));
    let hold = Duration::from_millis(world.random.random_range(HOLD));
    let victim = world.random.random_bool(0.5).then_some(leader);
    world.moment().await;
    world.leaves_majority(true);
    for what in std::iter::once(failure.name).chain(victim.map(|_| "leaders killed meanwhile")) {
        *world.report.figures.entry(format!("faults: {what}")).or_default() += 1.0;
    }
    let began_ns = monotonic_ns();
    let suffered = Box::pin(suffer(world, &failure, &struck, hold, victim)).await;
    // Whatever went wrong, the end of the run needs devices that are well.
    struck.iter().for_each(|device| world.scene.field.devices[*device].behave(Behaviour::default()));
    let ended_ns = monotonic_ns();
    world.healed();
    let ids: Vec<String> = world.scene.field.plant.devices.iter().map(|device| device.id.clone()).collect();
    let failed: Vec<String> = struck.iter().map(|device| ids[*device].clone()).collect();
    for device in &failed {
        world.scene.field.account.lock().device_failed(device, began_ns, ended_ns);
    }
    let has_bitten = suffered.with_context(|| failure.name)?;
    world.report.injected(has_bitten);
    let again = read_again(world, &failed, ended_ns).await.with_context(|| failure.name)?;
    let others = ids.into_iter().filter(|id| victim.is_none() && !failed.contains(id));
    let others = others.map(|id| read_meanwhile(world, id, began_ns, ended_ns)).collect();
    let (name, status) = (failure.name, failure.status);
    match victim {
        Some(leader) => world.revive(&[leader]).await?,
        None => world.whole().await?,
    }
    Ok(Seen { name, status, failed, began_ns, ended_ns, again, others })
}

/// How devices fail next.
fn draw(random: &mut SmallRng) -> Failure {
    let at_once = |name, manner, status| Failure {
        name,
        behaviour: Behaviour { delay: Duration::ZERO, manner },
        drops: false,
        status,
    };
    let late = |name, millis, status| Failure {
        behaviour: Behaviour { delay: Duration::from_millis(millis), manner: Manner::Right },
        ..at_once(name, Manner::Right, status)
    };
    match random.random_range(0..13) {
        0 => at_once("silent", Manner::Paused, Some("BadTimeout")),
        1 => {
            let (name, code, status) = EXCEPTIONS[random.random_range(0..EXCEPTIONS.len())];
            at_once(name, Manner::Exception(code), Some(status))
        }
        2 => at_once("short", Manner::Short, Some("BadDecodingError")),
        3 => at_once("hanging up", Manner::HangUp, Some("BadCommunicationError")),
        // A device has 150 ms for an answer, and is read every 100 ms.
        4 => late("slow", random.random_range(60..140), None),
        5 => late("too slow", random.random_range(200..1_500), Some("BadTimeout")),
        6 => at_once("answering another request", Manner::OtherTransaction, Some("BadDecodingError")),
        7 => at_once("answering as another unit", Manner::OtherUnit, Some("BadDecodingError")),
        8 => at_once("framing as on a serial line", Manner::Serial, Some("BadDecodingError")),
        9 => at_once("answering by half", Manner::Half, Some("BadTimeout")),
        10 => Failure { drops: true, ..at_once("restarted", Manner::Right, None) },
        11 => at_once("away", Manner::Away, Some("BadNoCommunication")),
        _ => Failure { drops: true, ..at_once("full", Manner::Full, Some("BadCommunicationError")) },
    }
}

/// One or more of so many devices.
fn some_of(random: &mut SmallRng, devices: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..devices).collect();
    all.shuffle(random);
    all.truncate(random.random_range(1..=devices));
    all.sort_unstable();
    all
}

/// Lets devices fail for as long, and kills the leader in the middle of that, if it is to be killed. Whether each of them has
/// failed.
async fn suffer(
    world: &World,
    failure: &Failure,
    struck: &[usize],
    hold: Duration,
    victim: Option<usize>,
) -> Result<bool> {
    let servers: Vec<&ModbusServer> =
        struck.iter().map(|device| &world.scene.field.devices[*device]).collect();
    let before: Vec<(Counts, Connections)> =
        servers.iter().map(|server| (server.counts(), server.connections())).collect();
    for server in &servers {
        server.behave(failure.behaviour);
        if failure.drops {
            server.drop_connections();
        }
    }
    let began_ns = monotonic_ns();
    // How long they fail is the fault itself.
    sleep(hold / 2).await;
    if let Some(node) = victim {
        let ended = world.scene.kill(node).await?;
        ensure!(ended.is_some(), "{} had ended by itself", world.scene.name(node));
    }
    sleep(hold / 2).await;
    let mut have_failed = true;
    for ((server, before), device) in servers.iter().zip(&before).zip(struck) {
        have_failed &= match failure.evidence() {
            Evidence::Closed => {
                let id = &world.scene.field.plant.devices[*device].id;
                let settled_ns = began_ns + nanos(ANSWERED);
                let (reads, _) = world.scene.field.account.lock().reads_of(id, settled_ns, monotonic_ns());
                reads == 0 && is_closed(server.address()).await
            }
            evidence => evidence.is_in(*before, (server.counts(), server.connections())),
        };
    }
    Ok(have_failed)
}

impl Failure {
    fn evidence(&self) -> Evidence {
        match self.behaviour.manner {
            Manner::Exception(_) => Evidence::Refused,
            Manner::HangUp | Manner::Full | Manner::Away => Evidence::Closed,
            Manner::Right if self.drops => Evidence::Reconnected,
            Manner::Right => Evidence::Asked,
            Manner::Paused
            | Manner::Short
            | Manner::OtherTransaction
            | Manner::OtherUnit
            | Manner::Serial
            | Manner::Half => Evidence::Unanswered,
        }
    }
}

impl Evidence {
    /// Whether it lies between what a device had seen before and after.
    fn is_in(self, before: (Counts, Connections), after: (Counts, Connections)) -> bool {
        match self {
            Self::Refused => after.0.refused > before.0.refused,
            Self::Unanswered => after.0.unanswered > before.0.unanswered,
            Self::Asked => asked(&after.0) > asked(&before.0),
            Self::Reconnected => after.1.served > before.1.served,
            // Nothing that the device has seen shows it.
            Self::Closed => false,
        }
    }
}

fn asked(counts: &Counts) -> u64 {
    counts.answered + counts.refused + counts.unanswered
}

/// Whether a new connection is refused, or closed at once.
async fn is_closed(address: SocketAddr) -> bool {
    let opening = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.read(&mut [0]).await
    };
    matches!(timeout(CLOSED, opening).await, Ok(Ok(0) | Err(_)))
}

/// Waits until every device that failed is read again; how long that took.
async fn read_again(world: &World, failed: &[String], ended_ns: u64) -> Result<Duration> {
    let last = world.scene.until_account("the devices that failed to be read again", |account| {
        let first = |device: &String| account.reads_of(device, ended_ns, u64::MAX).1;
        failed.iter().map(first).collect::<Option<Vec<u64>>>()?.into_iter().max()
    });
    Ok(Duration::from_nanos(last.await?.saturating_sub(ended_ns)))
}

/// A device to which nothing was done, in how many slots of how many it was read.
fn read_meanwhile(world: &World, id: String, from_ns: u64, until_ns: u64) -> (String, u64, u64) {
    let (reads, _) = world.scene.field.account.lock().reads_of(&id, from_ns, until_ns);
    (id, reads as u64, (until_ns - from_ns) / nanos(Shape::default().period))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// All bad readings of a history.
fn bad_readings(history: impl BufRead) -> Result<AllBad> {
    let mut all = AllBad::new();
    for line in history.lines() {
        let line = line?;
        let line: Line<'_> = serde_json::from_str(&line)?;
        let record = line.record.filter(|record| {
            line.op == "sample" && line.is_new && record.quality == "bad" && !record.device.is_empty()
        });
        if let Some(record) = record {
            let bad = Bad { t_ns: line.t_ns, status: record.status.into_owned() };
            all.entry(record.device.into_owned()).or_default().push(bad);
        }
    }
    Ok(all)
}

fn judge(report: &mut RunReport, all: &[Seen], bad: &AllBad, connections: &[(String, Connections)]) {
    let mut enter = |check: &str, of: usize, wrong: Vec<String>| {
        let text = if wrong.is_empty() { format!("{of} seen") } else { wrong.join("; ") };
        // Nothing is said of what was never seen.
        if of > 0 {
            report.judge(check, wrong.is_empty(), text);
        }
    };
    let others = || all.iter().flat_map(|seen| seen.others.iter().map(move |other| (seen.name, other)));
    let missed = others().filter(|(_, (_, read, slots))| read * 100 < slots * READ);
    let missed =
        missed.map(|(name, (id, read, slots))| format!("{id}: {read} of {slots} while one was {name}"));
    enter(OTHERS, others().count(), missed.collect());
    let late = all.iter().filter(|seen| seen.again > READ_AGAIN);
    let late = late.map(|seen| format!("{}: {:?}", seen.name, seen.again));
    enter(AGAIN, all.len(), late.collect());
    let silent = all.iter().flat_map(|seen| seen.without_reason(bad));
    enter(REASONS, all.len(), silent.collect());
    let many = connections.iter().filter(|(_, seen)| seen.most > CONNECTIONS || seen.turned_away > 0);
    let many = many.map(|(id, seen)| format!("{id}: {seen:?}"));
    enter(FEW, connections.len(), many.collect());
    let slowest = all.iter().map(|seen| seen.again).max().unwrap_or_default();
    report
        .figures
        .insert("longest until a device was read again, ms".to_owned(), slowest.as_secs_f64() * 1e3);
}

impl Seen {
    /// Devices whose bad readings do not say what was wrong with them.
    fn without_reason(&self, bad: &AllBad) -> Vec<String> {
        let Some(status) = self.status else { return Vec::new() };
        let said = self.failed.iter().map(|device| (device, self.said(device, bad)));
        let silent = said.filter(|(_, said)| !said.contains(status));
        let says = |(device, said): (&String, BTreeSet<&str>)| {
            format!("{device} was {}: expected {status}, found {said:?}", self.name)
        };
        silent.map(says).collect()
    }

    /// What bad readings of a device said meanwhile.
    fn said<'a>(&self, device: &str, bad: &'a AllBad) -> BTreeSet<&'a str> {
        let meanwhile = self.began_ns..self.ended_ns + nanos(DELIVERED);
        let readings = bad.get(device).into_iter().flatten();
        let readings = readings.filter(|reading| meanwhile.contains(&reading.t_ns));
        readings.map(|reading| reading.status.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;
    use crate::prove::run::Verdict;

    const SECOND: u64 = 1_000_000_000;
    const PRESS: &str = "hall-1/press-1";

    #[test]
    fn every_failure_comes_sooner_or_later_at_every_combination_of_devices() {
        let mut random = SmallRng::seed_from_u64(7);
        let drawn: Vec<Failure> = (0..10_000).map(|_| draw(&mut random)).collect();
        let names: BTreeSet<&str> = drawn.iter().map(|failure| failure.name).collect();
        assert_eq!(names.len(), 12 + EXCEPTIONS.len(), "{names:?}");
        let combinations: BTreeSet<Vec<usize>> = (0..1_000).map(|_| some_of(&mut random, 3)).collect();
        assert_eq!(combinations.len(), 7, "{combinations:?}");
    }

    #[test]
    fn a_device_that_has_seen_nothing_has_not_failed() {
        let nothing = (Counts::default(), Connections::default());
        let counts = Counts { answered: 1, refused: 1, unanswered: 1, overlaps: 1 };
        let something = (counts, Connections { served: 1, ..Connections::default() });
        for evidence in [Evidence::Refused, Evidence::Unanswered, Evidence::Asked, Evidence::Reconnected] {
            assert!(
                evidence.is_in(nothing, something) && !evidence.is_in(something, something),
                "{evidence:?}"
            );
        }
        assert!(!Evidence::Closed.is_in(nothing, something));
    }

    fn seen() -> Seen {
        Seen {
            name: "silent",
            status: Some("BadTimeout"),
            failed: vec![PRESS.to_owned()],
            began_ns: 10 * SECOND,
            ended_ns: 14 * SECOND,
            again: Duration::from_secs(3),
            others: vec![("hall-1/press-2".to_owned(), 30, 40)],
        }
    }

    fn bad(t_ns: u64, status: &str) -> AllBad {
        let line = |is_new: bool, quality: &str| {
            let record = serde_json::json!({ "device": PRESS, "quality": quality, "status": status });
            let line =
                serde_json::json!({ "t_ns": t_ns, "op": "sample", "is_new": is_new, "record": record });
            format!("{line}\n")
        };
        let history = [line(true, "bad"), line(false, "bad"), line(true, "good")].concat();
        let all = bad_readings(history.as_bytes()).expect("it makes sense");
        assert_eq!(all[PRESS].len(), 1);
        all
    }

    fn failed(seen: &Seen, bad: &AllBad, connections: Connections) -> Vec<String> {
        let mut report = RunReport::new("devices", 1);
        judge(&mut report, std::slice::from_ref(seen), bad, &[(PRESS.to_owned(), connections)]);
        let failed = report.findings.into_iter().filter(|finding| finding.verdict == Verdict::Failed);
        failed.map(|finding| finding.check).collect()
    }

    #[test]
    fn each_check_fails_by_what_it_is_there_for() {
        let few = Connections { served: 9, turned_away: 0, most: 2 };
        let said = bad(11 * SECOND, "BadTimeout");
        assert_eq!(failed(&seen(), &said, few), Vec::<String>::new());
        let neglected = Seen { others: vec![("hall-1/press-2".to_owned(), 29, 40)], ..seen() };
        assert_eq!(failed(&neglected, &said, few), [OTHERS]);
        let forgotten = Seen { again: Duration::from_secs(11), ..seen() };
        assert_eq!(failed(&forgotten, &said, few), [AGAIN]);
        for (t_ns, status) in [(9, "BadTimeout"), (20, "BadTimeout"), (11, "BadDecodingError")] {
            assert_eq!(failed(&seen(), &bad(t_ns * SECOND, status), few), [REASONS], "{status} at {t_ns} s");
        }
        let without = Seen { status: None, ..seen() };
        assert_eq!(failed(&without, &AllBad::new(), few), Vec::<String>::new());
        for many in [Connections { most: 3, ..few }, Connections { turned_away: 1, ..few }] {
            assert_eq!(failed(&seen(), &said, many), [FEW]);
        }
    }
}
