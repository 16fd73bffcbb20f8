//! A call that reaches the disk of the leader or of a follower fails: a sync or a write of a node at work, or a rename of one
//! that starts.
//!
//! - A disk error is final, also where only one call fails: what is tried again may seem to work, because the kernel calls
//!   pages clean whose sync has failed. The process ends by itself, soon and with status 1, and says what the disk said.
//! - The database's own diary is no data: a node goes on if nothing but that cannot be written or renamed, and what it
//!   writes into other files meanwhile is written.
//! - Started again on a disk that is well, it is whole.
//! - A fault has bitten if a call was counted that failed.

use std::io;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Result;
use rand::Rng as _;
use rand::rngs::SmallRng;
use simulator::history::monotonic_ns;
use simulator::nodes::layout::NODES;

use super::World;
use crate::machine::preload::{Complaint, Counted, Failing, Operation};
use crate::prove::liveness::{Bounds, Silence};
use crate::prove::run::{Assignment, RunReport};
use crate::until;

/// A node at work syncs and writes so often within seconds.
const CALLS: u64 = 60;
/// A node renames so often when it opens its database: the diary, which manifest counts, its options.
const RENAMES: u64 = 3;
/// From arming a call to the end of the process.
const PATIENCE: Duration = Duration::from_secs(30);
/// From the first failed call to the end of the process. It is about a second, and more where the machine does much else.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// How a process ends that says why.
const REFUSED: i32 = 1;
/// What the store says where a thread of the database met the error.
const IN_THE_BACKGROUND: &str = "in the background failed";
/// The folder of the database, and the diary in it; older ones have this name with a time behind it.
const DATABASE: &str = "rocksdb";
const DIARY: &str = "LOG";
const OLD_DIARIES: &str = "LOG.old.";

/// A leader whose disk has failed may be gone only five seconds later; then somebody else is elected as ever.
pub const BOUNDS: Bounds = Bounds { silence: Silence::AtMost(Duration::from_secs(15)), ..Bounds::USUAL };

const FINAL: &str = "I16 a disk error is final: the process ends by itself within 5 s and says why";

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    victim: usize,
    failing: Failing,
}

/// How a node took it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Taken {
    plan: Plan,
    /// Calls that failed.
    failed: u64,
    /// What the first of them was about, if that is there still.
    file: Option<PathBuf>,
    /// How many of them were about other files.
    failed_elsewhere: u64,
    /// Calls of the same kind about other files that did not fail, after the last that was to.
    passed_elsewhere: u64,
    /// Absent if it went on.
    end: Option<End>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    /// Absent if a signal ended it.
    status: Option<i32>,
    /// Since the first failed call.
    after: Duration,
    says_why: bool,
}

/// Lets disks fail so often.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    let mut world = Box::pin(World::open_controlled("disk-errors", assignment)).await?;
    let mut all = Vec::new();
    for number in 1..=assignment.times {
        let suffered = Box::pin(suffer(&mut world, &mut all)).await;
        if !world.is_over(number, suffered) {
            break;
        }
    }
    judge(&mut world.report, &all);
    Ok(Box::pin(world.close()).await)
}

async fn suffer(world: &mut World, all: &mut Vec<Taken>) -> Result<()> {
    let leader = world.scene.agreed().await?;
    let plan = plan(&mut world.random, leader);
    world.moment().await;
    world.leaves_majority(true);
    let taken = match plan.failing.operation {
        Operation::Rename => world.scene.disturb(Box::pin(at_start(world, plan))).await?,
        Operation::Sync | Operation::Write => world.scene.disturb(Box::pin(at_work(world, plan))).await?,
    };
    world.report.injected(taken.failed > 0);
    let has_ended = taken.end.is_some();
    all.push(taken);
    if has_ended { world.revive(&[plan.victim]).await } else { world.whole().await }
}

fn plan(random: &mut SmallRng, leader: usize) -> Plan {
    let others = if random.random_bool(0.5) { 0 } else { random.random_range(1..NODES) };
    let (operation, complaint) = match random.random_range(0..6) {
        0 | 1 => (Operation::Sync, Complaint::Broken),
        2 => (Operation::Write, Complaint::Broken),
        3 => (Operation::Write, Complaint::Full),
        4 => (Operation::Rename, Complaint::Broken),
        _ => (Operation::Rename, Complaint::Full),
    };
    let skip = random.random_range(0..if operation == Operation::Rename { RENAMES } else { CALLS });
    let count = if random.random_bool(0.5) { 1 } else { u64::MAX };
    Plan { victim: (leader + others) % NODES, failing: Failing { operation, complaint, skip, count } }
}

async fn at_work(world: &World, plan: Plan) -> Result<Taken> {
    // Who watches it must not see it end by itself.
    let mut process = world.scene.process(plan.victim).await;
    let control = world.hosts.control(plan.victim);
    let said = process.log().len();
    control.fail(&plan.failing)?;
    let ended = process.ends(PATIENCE).await;
    let ended_ns = monotonic_ns();
    control.fail_no_more()?;
    taken(world, plan, ended?.map(|status| (status, ended_ns)), &said_since(&process.log(), said))
}

async fn at_start(world: &World, plan: Plan) -> Result<Taken> {
    world.scene.kill(plan.victim).await?;
    // Who watches it must not see it end by itself.
    let mut process = world.scene.process(plan.victim).await;
    let control = world.hosts.control(plan.victim);
    let said = process.log().len();
    control.fail(&plan.failing)?;
    process.start()?;
    let ended = until("the node to have ended, or to answer", async || match process.has_ended() {
        Ok(Some(status)) => Ok(Ok(Some(status))),
        Ok(None) => world.scene.status(plan.victim).await.map(|_| Ok(None)),
        Err(error) => Ok(Err(error)),
    })
    .await;
    let ended_ns = monotonic_ns();
    control.fail_no_more()?;
    taken(world, plan, ended??.map(|status| (status, ended_ns)), &said_since(&process.log(), said))
}

/// What a log says behind its first bytes.
fn said_since(log: &str, before: usize) -> String {
    log.get(before..).unwrap_or_default().to_owned()
}

fn taken(world: &World, plan: Plan, ended: Option<(ExitStatus, u64)>, said: &str) -> Result<Taken> {
    let counted = world.hosts.control(plan.victim).counted()?;
    let data = &world.scene.node(plan.victim).data;
    let file = match counted.first_failed {
        Some(first) => file_of(data, first.inode)?,
        None => None,
    };
    let first_ns = counted.first_failed.map(|first| first.at_ns);
    let end = ended.map(|(status, ended_ns)| End {
        status: status.code(),
        after: Duration::from_nanos(ended_ns.saturating_sub(first_ns.unwrap_or(ended_ns))),
        says_why: said.contains(plan.failing.complaint.words()) || said.contains(IN_THE_BACKGROUND),
    });
    let Counted { failed, failed_elsewhere, passed_elsewhere, .. } = counted;
    Ok(Taken { plan, failed, file, failed_elsewhere, passed_elsewhere, end })
}

/// The file of this inode in a folder or below it.
fn file_of(folder: &Path, inode: u64) -> io::Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.ino() == inode {
            return Ok(Some(entry.path()));
        }
        if entry.file_type()?.is_dir()
            && let Some(found) = file_of(&entry.path(), inode)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

impl Taken {
    fn is_right(&self) -> bool {
        match &self.end {
            Some(end) => end.status == Some(REFUSED) && end.after <= ENDS_WITHIN && end.says_why,
            None => self.failed == 0 || self.only_the_diary_failed(),
        }
    }

    /// RocksDB ignores errors of its info log (`AutoRollLogger`, `EnvLogger`), and of nothing else.
    fn only_the_diary_failed(&self) -> bool {
        let first = self.file.as_deref().is_some_and(is_diary);
        first && self.failed_elsewhere == 0 && self.passed_elsewhere > 0
    }
}

fn is_diary(file: &Path) -> bool {
    let is_of_database = file.parent().is_some_and(|folder| folder.ends_with(DATABASE));
    let name = file.file_name().and_then(|name| name.to_str());
    is_of_database && name.is_some_and(|name| name == DIARY || name.starts_with(OLD_DIARIES))
}

/// Enters how nodes took it.
fn judge(report: &mut RunReport, all: &[Taken]) {
    if all.is_empty() {
        return;
    }
    let ends: Vec<&End> = all.iter().filter_map(|taken| taken.end.as_ref()).collect();
    let wrong: Vec<String> =
        all.iter().filter(|taken| !taken.is_right()).map(|taken| format!("{taken:?}")).collect();
    let text =
        if wrong.is_empty() { format!("{} of {} ended", ends.len(), all.len()) } else { wrong.join("; ") };
    report.judge(FINAL, wrong.is_empty(), text);
    report.figures.insert("nodes that ended themselves".to_owned(), ends.len() as f64);
    if let Some(longest) = ends.iter().map(|end| end.after).max() {
        let name = "longest time from a disk error to the end, ms".to_owned();
        report.figures.insert(name, longest.as_secs_f64() * 1e3);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::MetadataExt as _;

    use rand::SeedableRng as _;

    use super::*;
    use crate::prove::run::Verdict;

    fn ended() -> Taken {
        let failing = Failing { operation: Operation::Sync, complaint: Complaint::Broken, skip: 7, count: 1 };
        let end = End { status: Some(REFUSED), after: Duration::from_millis(900), says_why: true };
        Taken {
            plan: Plan { victim: 1, failing },
            failed: 1,
            file: None,
            failed_elsewhere: 0,
            passed_elsewhere: 9,
            end: Some(end),
        }
    }

    fn verdict(taken: Taken) -> Verdict {
        let mut report = RunReport::new("disk-errors", 1);
        judge(&mut report, &[ended(), taken]);
        report.verdict()
    }

    #[test]
    fn a_node_ends_soon_by_itself_and_says_why() {
        assert_eq!(verdict(ended()), Verdict::Passed);
        type Spoil = fn(&mut End);
        let spoilt: [Spoil; 4] = [
            |end| end.status = None,
            |end| end.status = Some(101),
            |end| end.after = ENDS_WITHIN + Duration::from_millis(1),
            |end| end.says_why = false,
        ];
        for spoil in spoilt {
            let mut taken = ended();
            taken.end.iter_mut().for_each(spoil);
            assert_eq!(verdict(taken.clone()), Verdict::Failed, "{taken:?}");
        }
    }

    #[test]
    fn only_a_failed_diary_lets_a_node_go_on() {
        let went_on = |file: &str| Taken { end: None, file: Some(PathBuf::from(file)), ..ended() };
        for diary in ["/disk/data/rocksdb/LOG", "/disk/data/rocksdb/LOG.old.1764357000123456"] {
            assert_eq!(verdict(went_on(diary)), Verdict::Passed);
            // Every later call has failed, too, also on data.
            assert_eq!(verdict(Taken { failed: 9, failed_elsewhere: 1, ..went_on(diary) }), Verdict::Failed);
            // Nobody knows whether data could be written.
            assert_eq!(verdict(Taken { passed_elsewhere: 0, ..went_on(diary) }), Verdict::Failed);
        }
        for data in
            ["/disk/data/rocksdb/000012.log", "/disk/data/LOG", "/disk/data/rocksdb/LOGS", "/LOG/rocksdb"]
        {
            assert_eq!(verdict(went_on(data)), Verdict::Failed, "{data}");
        }
        assert_eq!(verdict(Taken { file: None, ..went_on("") }), Verdict::Failed);
    }

    #[test]
    fn every_kind_of_call_fails_at_leaders_and_followers_once_and_for_good() {
        let mut random = SmallRng::seed_from_u64(7);
        let plans: Vec<Plan> = (0..1000).map(|_| plan(&mut random, 1)).collect();
        let kind = |plan: &Plan| format!("{:?} {:?}", plan.failing.operation, plan.failing.complaint);
        let drawn: BTreeSet<_> =
            plans.iter().map(|plan| (kind(plan), plan.victim, plan.failing.count)).collect();
        assert_eq!(drawn.len(), 5 * NODES * 2, "{drawn:?}");
        let renames = plans.iter().filter(|plan| plan.failing.operation == Operation::Rename);
        assert_eq!(renames.map(|plan| plan.failing.skip).collect::<BTreeSet<_>>(), BTreeSet::from([0, 1, 2]));
    }

    #[test]
    fn a_file_is_found_by_its_inode_and_words_behind_those_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let below = folder.path().join("rocksdb");
        std::fs::create_dir(&below).expect("room");
        std::fs::write(below.join("LOG"), "x").expect("room");
        let inode = std::fs::metadata(below.join("LOG")).expect("it is there").ino();
        let found = |inode| file_of(folder.path(), inode).expect("readable");
        assert_eq!(found(inode), Some(below.join("LOG")));
        assert_eq!(found(u64::MAX), None);
        assert_eq!(
            (said_since("before, since", 8), said_since("less", 8)),
            ("since".to_owned(), String::new())
        );
    }
}
