//! The HTTP receiver is away for some seconds, slow, or wrong, or takes what it is sent and never says so. Half of the time
//! the leader is killed meanwhile.
//!
//! - Whatever it answers, nothing is lost, and what comes again is the same. What it refuses for what it holds is set aside;
//!   once it is well again all of it is offered again, as an operator would, and must arrive.
//! - Files are finished meanwhile as ever.
//! - A trouble has bitten if a request was answered as it says, or not at all; where nobody listens, if nothing was taken
//!   while more was committed.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::Rng as _;
use rand::rngs::SmallRng;
use simulator::plant::Plant;
use simulator::receiver::Reply;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use wire::proto::v1 as pb;

use super::World;
use crate::prove::liveness::Bounds;
use crate::prove::run::{Assignment, RunReport};
use crate::scene::Scene;

const HISTORIAN: &str = "historian";
/// For how long it is in trouble, in milliseconds, and how much longer at most where no file is finished.
const HOLD: Range<u64> = 3_000..8_000;
const FILES_END: Duration = Duration::from_secs(20);
/// From one look at the files to the next.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A connection to an address at which nobody listens is refused at once.
const REFUSED: Duration = Duration::from_secs(1);

/// One that was away is tried again half a minute later at most, and the run waits until it has everything.
pub const BOUNDS: Bounds = Bounds { recovery: Duration::from_secs(45), ..Bounds::USUAL };

const FILES: &str = "G2 files are finished while the receiver is in trouble";

/// What is the matter with the receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wrong {
    /// Nobody listens.
    Away,
    /// It wants a token that the gateway has not.
    Token,
    /// It answers like this.
    Reply(Reply),
}

/// A trouble, and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trouble {
    name: &'static str,
    wrong: Wrong,
}

/// What is found on the way.
#[derive(Debug, Default)]
struct Notes {
    /// Troubles in which no file was finished.
    without_files: Vec<String>,
    /// Until it had what had been committed when it was well again.
    slowest: Duration,
}

/// Gives the receiver so much trouble, one after the other.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    let mut world = World::open("receivers", assignment).await?;
    let mut notes = Notes::default();
    for number in 1..=assignment.times {
        let fault = Box::pin(trouble(&mut world, &mut notes)).await;
        if !world.is_over(number, fault) {
            break;
        }
    }
    let mut report = world.close().await;
    judge(&mut report, &notes);
    Ok(report)
}

async fn trouble(world: &mut World, notes: &mut Notes) -> Result<()> {
    let leader = world.scene.agreed().await?;
    let trouble = draw(&mut world.random, &world.scene.field.plant);
    let hold = Duration::from_millis(world.random.random_range(HOLD));
    let victim = world.random.random_bool(0.5).then_some(leader);
    world.moment().await;
    world.leaves_majority(true);
    count(world, trouble.name);
    let (_, spoilt) = taken(&world.scene).await;
    begin(&world.scene, &trouble.wrong).await?;
    let suffered = Box::pin(suffer(world, &trouble, hold, victim, notes)).await;
    // Whatever went wrong, the end of the run needs a receiver that is well.
    let ended = end(&world.scene).await;
    world.healed();
    let has_bitten = suffered.with_context(|| trouble.name)?;
    ended?;
    let is_spoilt = taken(&world.scene).await.1 > spoilt;
    world.report.injected(has_bitten && (is_spoilt || trouble.wrong == Wrong::Away));
    let caught_up = Box::pin(caught_up(world, notes)).await;
    caught_up.with_context(|| format!("it is well again: {}", trouble.name))?;
    match victim {
        Some(leader) => world.revive(&[leader]).await,
        None => world.whole().await,
    }
}

/// What happens to the receiver next.
fn draw(random: &mut SmallRng, plant: &Plant) -> Trouble {
    let (name, reply) = match random.random_range(0..14) {
        0 => return Trouble { name: "away", wrong: Wrong::Away },
        1 => return Trouble { name: "wants a token", wrong: Wrong::Token },
        2 => ("late", Reply::Late(Duration::from_millis(random.random_range(200..3_000)))),
        3 => {
            let status = one_of(random, &[408, 429, 500, 502, 503, 504]);
            let retry_after = random.random_bool(0.5).then(|| random.random_range(1..=3));
            ("busy", Reply::Refuse { status, retry_after })
        }
        4 => {
            let status = one_of(random, &[301, 403, 404, 409, 415]);
            ("needs a person", Reply::Refuse { status, retry_after: None })
        }
        5 => {
            let status = one_of(random, &[400, 422]);
            ("refuses everything", Reply::Refuse { status, retry_after: None })
        }
        // A record has some hundred bytes, and what a press answers twenty of them.
        6 => ("takes little", Reply::TooLargeAbove(random.random_range(1_000..6_000))),
        7 => ("takes too little", Reply::TooLargeAbove(100)),
        8 => ("rejects a tag by name", Reply::RejectTag(any_tag(random, plant))),
        9 => ("refuses a tag", Reply::RefuseTag(any_tag(random, plant))),
        10 => ("hangs", Reply::Hang),
        11 => ("speaks rubbish", Reply::Rubbish),
        12 => ("loses its answers", Reply::LoseAnswer),
        _ => ("dies before it answers", Reply::Die),
    };
    Trouble { name, wrong: Wrong::Reply(reply) }
}

fn one_of(random: &mut SmallRng, statuses: &[u16]) -> u16 {
    statuses[random.random_range(0..statuses.len())]
}

fn any_tag(random: &mut SmallRng, plant: &Plant) -> String {
    let polled = plant.devices.iter().flat_map(|device| &device.tags);
    let pushed = plant.pushers.iter().flat_map(|pusher| &pusher.content.bodies);
    let tags: Vec<&String> = polled.chain(pushed).collect();
    tags[random.random_range(0..tags.len())].clone()
}

async fn begin(scene: &Scene, wrong: &Wrong) -> Result<()> {
    match wrong {
        Wrong::Away => scene.field.set_receiver(false).await?,
        Wrong::Token => scene.field.receiver.lock().await.demand_token(Some("of another")),
        Wrong::Reply(reply) => scene.field.receiver.lock().await.set_reply(reply.clone()),
    }
    Ok(())
}

async fn end(scene: &Scene) -> Result<()> {
    let receiver = scene.field.receiver.lock().await;
    receiver.set_reply(Reply::Accept);
    receiver.demand_token(None);
    drop(receiver);
    Ok(scene.field.set_receiver(true).await?)
}

/// Lets it be in trouble for as long, kills the leader in the middle of that, if it is to be killed, and goes on until a file
/// is finished that was begun meanwhile. Whether nothing was taken of what was committed, where nobody listens.
async fn suffer(
    world: &mut World,
    trouble: &Trouble,
    hold: Duration,
    mut victim: Option<usize>,
    notes: &mut Notes,
) -> Result<bool> {
    let began = Instant::now();
    let (highest, _) = taken(&world.scene).await;
    let committed = world.scene.buffer(world.scene.leader().await?).await?.committed;
    let files = world.scene.field.files();
    loop {
        if let Some(node) = victim.take_if(|_| began.elapsed() >= hold / 2) {
            let ended = world.scene.kill(node).await?;
            ensure!(ended.is_some(), "{} had ended by itself", world.scene.name(node));
            count(world, "leaders killed meanwhile");
        }
        if began.elapsed() >= hold && finished_behind(&files, committed)? > 0 {
            break;
        }
        if began.elapsed() >= hold + FILES_END {
            notes.without_files.push(format!("{} for {:?}", trouble.name, began.elapsed()));
            break;
        }
        // From one look to the next; how long all of it lasts is the fault itself.
        sleep(LOOK_EVERY).await;
    }
    if trouble.wrong != Wrong::Away {
        return Ok(true);
    }
    let goes_on = world.scene.buffer(world.scene.leader().await?).await?.committed > committed;
    Ok(goes_on && is_away(&world.scene).await && taken(&world.scene).await.0 == highest)
}

/// The highest position of which the receiver has kept something, and how many requests it has not taken as usual.
async fn taken(scene: &Scene) -> (u64, u64) {
    let receiver = scene.field.receiver.lock().await;
    (receiver.highest(), receiver.spoilt())
}

/// Whether nobody listens where the receiver was.
async fn is_away(scene: &Scene) -> bool {
    let address = scene.field.receiver.lock().await.address();
    matches!(timeout(REFUSED, TcpStream::connect(address)).await, Ok(Err(_)))
}

/// Samples of files that are finished and were begun behind a position.
fn finished_behind(folder: &Path, position: u64) -> io::Result<usize> {
    let mut files = 0;
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let first = name.to_str().and_then(first_of);
        files += usize::from(first.is_some_and(|first| first > position));
    }
    Ok(files)
}

/// The position of the first sample in a finished file, by its name.
fn first_of(name: &str) -> Option<u64> {
    let (destination, key) = name.split_once(".samples.")?;
    let is_finished = !destination.starts_with('.') && key.ends_with(".csv");
    key.split('-').nth(1).filter(|_| is_finished)?.parse().ok()
}

/// Waits until the receiver has what was committed when it was well again, and what it had refused.
async fn caught_up(world: &mut World, notes: &mut Notes) -> Result<()> {
    let began = Instant::now();
    let scene = &world.scene;
    let committed = scene.buffer(scene.leader().await?).await?.committed;
    let is_beyond = async || {
        let historian = historian(scene).await?;
        let cursor = historian.cursor.context("it has a cursor")?;
        ensure!(
            cursor.position > committed,
            "it is at {} of {committed}: {}",
            cursor.position,
            historian.reason
        );
        Ok(historian.quarantined)
    };
    let set_aside = scene.until("the receiver to have everything", is_beyond).await?;
    notes.slowest = notes.slowest.max(began.elapsed());
    if set_aside > 0 {
        let all = pb::RetryQuarantineRequest {
            destination: HISTORIAN.to_owned(),
            keys: Vec::new(),
            all: true,
            reason: "it is well again".to_owned(),
        };
        let offered = scene.ask(all, async |admin, question| admin.retry_quarantine(question).await).await?;
        ensure!(offered.refused == 0, "some were refused again: {offered:?}");
        let is_empty = async || {
            let left = historian(scene).await?.quarantined;
            ensure!(left == 0, "{left} records of {set_aside}");
            Ok(())
        };
        scene.until("nothing to be set aside any more", is_empty).await?;
    }
    let figure = world.report.figures.entry("records set aside, and taken later".to_owned());
    *figure.or_default() += set_aside as f64;
    Ok(())
}

/// The receiver as the leader sees it.
async fn historian(scene: &Scene) -> Result<pb::Destination> {
    let question = pb::ListDestinationsRequest { this_node: false, ids: vec![HISTORIAN.to_owned()] };
    let answer = scene.ask(question, async |admin, question| admin.list_destinations(question).await).await?;
    answer.destinations.into_iter().next().context("it is a destination")
}

fn count(world: &mut World, what: &str) {
    *world.report.figures.entry(format!("faults: {what}")).or_default() += 1.0;
}

fn judge(report: &mut RunReport, notes: &Notes) {
    let text = match notes.without_files.is_empty() {
        true => format!("{} faults", report.injected),
        false => format!("none while it was {}", notes.without_files.join(", ")),
    };
    report.judge(FILES, notes.without_files.is_empty(), text);
    let slowest = notes.slowest.as_secs_f64() * 1e3;
    report.figures.insert("longest until the receiver had everything, ms".to_owned(), slowest);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng as _;

    use super::*;
    use crate::prove::run::Verdict;

    #[test]
    fn every_trouble_comes_sooner_or_later() {
        let mut random = SmallRng::seed_from_u64(7);
        let plant = Plant::demo();
        let drawn: Vec<Trouble> = (0..10_000).map(|_| draw(&mut random, &plant)).collect();
        let names: BTreeSet<&str> = drawn.iter().map(|trouble| trouble.name).collect();
        assert_eq!(names.len(), 14, "{names:?}");
        let tags = drawn.iter().filter_map(|trouble| match &trouble.wrong {
            Wrong::Reply(Reply::RejectTag(tag) | Reply::RefuseTag(tag)) => Some(tag.as_str()),
            _ => None,
        });
        let tags: BTreeSet<&str> = tags.collect();
        assert!(
            tags.iter().any(|tag| tag.ends_with("/reads")) && tags.iter().any(|tag| tag.ends_with("/torque"))
        );
    }

    #[test]
    fn a_trouble_without_files_fails_the_run() {
        let failed = |notes: &Notes| {
            let mut report = RunReport::new("receivers", 1);
            judge(&mut report, notes);
            report.verdict() == Verdict::Failed
        };
        let mut notes = Notes::default();
        assert!(!failed(&notes));
        notes.without_files.push("away".to_owned());
        assert!(failed(&notes));
    }

    #[test]
    fn a_finished_file_says_where_it_begins() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in [
            "files.samples.00000000-00000000000000000041-0000000007.t9.csv",
            "files.samples.00000000-00000000000000000043-0000000000.t9.csv",
            "files.gaps.00000000-00000000000000000044-2147483648.t9.csv",
            ".files.samples.00000000-00000000000000000045-0000000000.t9.csv.node-1.part",
            "files.leader.json",
        ] {
            std::fs::write(folder.path().join(name), "").expect("room");
        }
        for (position, files) in [(40, 2), (41, 1), (43, 0)] {
            assert_eq!(finished_behind(folder.path(), position).expect("readable"), files, "{position}");
        }
    }
}
