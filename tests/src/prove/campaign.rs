//! Runs kept in a folder, one sub-folder each, so that a campaign can be interrupted and go on.
//!
//! - A run is named by its class, its seed, how many faults it has, and the programs that it was made with: what another
//!   build has shown is no verdict on this one.
//! - Its report is written last and at once whole. A folder without one is a run that was broken off: it is removed, and
//!   the run begun anew. A run with a report is not made again, unless it was skipped.
//! - Histories, logs and the picture stay. Of a run that failed everything stays, the disks of its nodes too, wherever the
//!   failure was found: by a check, by the account at the end, by an error, a panic or a time-out. [`settle`] is the one
//!   place where that is decided.
//! - One program works in a campaign folder at a time.
//!
//! ```text
//! lock
//! kills-00000000deadbeef-x6-3f2a9c1d/
//!     report.json      what was found, and where
//!     history.jsonl    what devices, pushers and the receiver saw
//!     timeline.svg     the same as a picture
//!     *.log *.toml     the nodes' logs and files
//!     *.ext4           disks, where the run failed (`mount -o loop,ro`)
//! ```

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use futures::FutureExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::profile::Class;
use super::run::{Assignment, RunReport, Verdict};
use super::timeline::Timeline;
use crate::machine::{self, Unable};

const REPORT: &str = "report.json";
/// A history, wherever below a run's folder it lies.
pub const HISTORY: &str = "history.jsonl";
const TIMELINE: &str = "timeline.svg";
const LOCK: &str = "lock";
/// Below a run's folder: the CSV files, which belong to its account.
pub const FILES: &str = "csv";
/// The check on what a run leaves on the machine.
const LEFT: &str = "nothing of the run stays on the machine";
/// The check on what can be shown of a run.
const DRAWN: &str = "its history can be drawn";
/// What stays of a run in which nothing failed.
const KEPT: [&str; 6] = ["json", "jsonl", "svg", "log", "toml", "txt"];
/// A run's folder has histories in itself and in folders below it, no deeper than this.
const DEPTH: usize = 3;

/// A run that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// What it found.
    pub report: RunReport,
    /// How many faults were asked for.
    pub times: u32,
    /// How long it took.
    pub seconds: f64,
    /// Which programs it was made with.
    pub build: String,
    /// Their version.
    pub version: String,
    /// What the program under test says of itself; empty in runs of before it was asked.
    #[serde(default)]
    pub program: String,
    /// Where it lies, if it is not the one that tests build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<PathBuf>,
    /// The machine.
    pub machine: String,
}

impl Kept {
    /// What repeats it.
    pub fn command(&self) -> String {
        let RunReport { class, seed, .. } = &self.report;
        let named = self.named.as_ref().map(|path| format!("PROGRAM={} ", path.display()));
        let named = named.unwrap_or_default();
        format!("make prove {named}DO=\"run {class} --seed {seed} --times {}\"", self.times)
    }
}

/// Which programs are at work, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circumstances {
    /// Of the bytes of all programs.
    pub build: String,
    /// Of this kit, in words.
    pub version: String,
    /// What the program under test says of itself.
    pub program: String,
    /// Where it lies, if it is not the one that tests build.
    pub named: Option<PathBuf>,
    /// In words.
    pub machine: String,
}

impl Circumstances {
    /// A run that was made in them.
    pub fn of(&self, report: RunReport, times: u32, seconds: f64) -> Kept {
        let Self { build, version, program, named, machine } = self.clone();
        Kept { report, times, seconds, build, version, program, named, machine }
    }
}

/// A folder of runs.
#[derive(Debug)]
pub struct Campaign {
    folder: PathBuf,
    program: PathBuf,
    circumstances: Circumstances,
    /// Given back when this is dropped.
    _lock: File,
}

/// How a run comes to a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It is not made if it is there and was not skipped.
    IfMissing,
    /// It is made, and what is there stays.
    Always,
}

/// A run, and whether it was there.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// The run.
    pub kept: Kept,
    /// Its folder.
    pub folder: PathBuf,
    /// Whether it was made before.
    pub was_there: bool,
}

impl Campaign {
    /// Opens a folder of runs, or makes it. A folder of something else is refused: broken-off runs are removed here.
    pub fn open(folder: &Path, program: &Path, circumstances: Circumstances) -> Result<Self> {
        let folder = std::path::absolute(folder)?;
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let path = folder.join(LOCK);
        if !path.exists() && std::fs::read_dir(&folder)?.next().is_some() {
            bail!("{} is not empty, and holds no campaign", folder.display());
        }
        let lock = OpenOptions::new().create(true).append(true).open(&path);
        let lock = lock.with_context(|| path.display().to_string())?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another `prove` works in {}", folder.display()),
            Err(TryLockError::Error(error)) => return Err(error).context(path.display().to_string()),
        }
        Ok(Self { folder, program: program.to_owned(), circumstances, _lock: lock })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes a run, or finds it. An error says that it could not be kept; what went wrong in it is in its report.
    pub async fn make(&self, class: Class, seed: u64, times: u32, again: Again) -> Result<Made> {
        let folder = self.place(class, seed, times, again);
        // What the machine could not do then, it may be able to do now.
        if let Some(kept) = read(&folder)?.filter(|kept| kept.report.verdict() != Verdict::Skipped) {
            return Ok(Made { kept, folder, was_there: true });
        }
        begin_anew(&folder)?;
        let assignment = Assignment { seed, times, folder: folder.clone(), program: self.program.clone() };
        let began = Instant::now();
        let mut report = carry_out(class, &assignment).await;
        // What was broken off may have left mounts.
        let cleared = machine::clear(&folder);
        settle(&folder, &mut report, cleared)
            .with_context(|| format!("what stays of {}", folder.display()))?;
        let seconds = began.elapsed().as_secs_f64();
        let kept = self.circumstances.of(report, times, seconds);
        write(&folder, &kept).with_context(|| format!("writing the report of {}", folder.display()))?;
        Ok(Made { kept, folder, was_there: false })
    }

    /// Removes runs that were broken off, of any build.
    pub fn remove_broken_off(&self) -> Result<()> {
        for folder in folders(&self.folder)? {
            if !folder.join(REPORT).is_file() {
                remove(&folder)?;
            }
        }
        Ok(())
    }

    fn place(&self, class: Class, seed: u64, times: u32, again: Again) -> PathBuf {
        let name = format!("{class}-{seed:016x}-x{times}-{}", self.circumstances.build);
        let further = (2..).map(|number| format!("{name}-{number}"));
        let mut places = std::iter::once(name.clone()).chain(further).map(|name| self.folder.join(name));
        match again {
            Again::IfMissing => self.folder.join(&name),
            Again::Always => places.find(|place| !place.join(REPORT).exists()).expect("numbers do not end"),
        }
    }
}

/// Runs a class to its end, whatever that is.
async fn carry_out(class: Class, assignment: &Assignment) -> RunReport {
    let Assignment { seed, times, .. } = *assignment;
    let limit = class.limit(times);
    // A panic is the end of this run, and of nothing else: what it leaves behind is only its folder.
    let running = AssertUnwindSafe(class.run(assignment)).catch_unwind();
    let mut report = match timeout(limit, running).await {
        Ok(Ok(Ok(report))) => report,
        Ok(Ok(Err(error))) => match error.downcast_ref::<Unable>() {
            Some(why) => RunReport::unable(class.name(), seed, why),
            None => RunReport::broken_off(class.name(), seed, format!("{error:#}")),
        },
        Ok(Err(panic)) => {
            RunReport::broken_off(class.name(), seed, format!("panicked: {}", said_by(&*panic)))
        }
        Err(_) => RunReport::broken_off(class.name(), seed, format!("it does not end within {limit:?}")),
    };
    report.class = class.name().to_owned();
    report.seed = seed;
    report.conclude(times, class.must_bite(times));
    report
}

fn said_by(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it says nothing")
}

/// Which programs are at work: a hash of their bytes, which has no other use.
pub fn build_of(programs: &[&Path]) -> io::Result<String> {
    let mut hasher = DefaultHasher::new();
    let mut buffer = vec![0; 1 << 20];
    for program in programs {
        let mut file = File::open(program)?;
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.write(&buffer[..count]);
        }
    }
    Ok(format!("{:08x}", hasher.finish() >> 32))
}

/// All runs in a campaign folder that are over; an error names the report that cannot be read.
pub fn runs(campaign: &Path) -> Result<Vec<Kept>> {
    let mut all = Vec::new();
    for folder in folders(campaign)? {
        all.extend(read(&folder)?);
    }
    Ok(all)
}

/// Histories in a folder and below it.
pub fn histories(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut level = vec![folder.to_owned()];
    for _ in 0..DEPTH {
        let here = level.iter().map(|folder| folder.join(HISTORY));
        found.extend(here.filter(|path| path.is_file()));
        let below: Result<Vec<_>> = level.iter().map(|folder| folders(folder)).collect();
        level = below?.concat();
    }
    Ok(found)
}

/// Draws a history beside itself.
pub fn draw(history: &Path) -> io::Result<()> {
    let mut timeline = Timeline::default();
    for line in BufReader::new(File::open(history)?).lines() {
        timeline.enter(&line?);
    }
    std::fs::write(history.with_file_name(TIMELINE), timeline.svg())
}

/// The report in a run's folder, if the run is over.
pub fn read(folder: &Path) -> Result<Option<Kept>> {
    let path = folder.join(REPORT);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(path.display().to_string()),
    };
    serde_json::from_str(&text).map(Some).with_context(|| path.display().to_string())
}

/// Writes a report so that it is there as a whole or not at all.
fn write(folder: &Path, kept: &Kept) -> Result<()> {
    let unfinished = folder.join(format!("{REPORT}.part"));
    let mut file = File::create(&unfinished)?;
    file.write_all(&serde_json::to_vec_pretty(kept)?)?;
    file.sync_all()?;
    std::fs::rename(unfinished, folder.join(REPORT))?;
    Ok(())
}

fn begin_anew(folder: &Path) -> Result<()> {
    if folder.exists() {
        remove(folder)?;
    }
    std::fs::create_dir(folder).with_context(|| folder.display().to_string())
}

fn remove(folder: &Path) -> Result<()> {
    std::fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))
}

/// Decides what stays of a run that is over, and was `cleared` from the machine or not: everything, if anything failed.
fn settle(folder: &Path, report: &mut RunReport, cleared: io::Result<()>) -> Result<()> {
    if let Err(error) = cleared {
        report.failed(LEFT, format!("what is mounted there does not go: {error}"));
    }
    let drawn = histories(folder).and_then(|histories| {
        histories.iter().try_for_each(|path| draw(path).with_context(|| path.display().to_string()))
    });
    if let Err(error) = drawn {
        report.failed(DRAWN, format!("{error:#}"));
    }
    if report.verdict() != Verdict::Failed {
        tidy(folder)?;
    }
    Ok(())
}

/// Removes what only a failure needs: data directories and volumes.
fn tidy(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.join(HISTORY).is_file() {
                tidy(&path)?;
            } else if path.file_name() != Some(OsStr::new(FILES)) {
                std::fs::remove_dir_all(&path)?;
            }
        } else if !path.extension().is_some_and(|ending| KEPT.iter().any(|kept| ending == *kept)) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Folders in a folder, by name.
fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circumstances() -> Circumstances {
        let words = || "here".to_owned();
        let build = "3f2a9c1d".to_owned();
        Circumstances { build, version: words(), program: words(), named: None, machine: words() }
    }

    fn campaign(folder: &Path) -> Campaign {
        Campaign::open(folder, Path::new("/nowhere/holdfast"), circumstances()).expect("a folder")
    }

    fn kept(seed: u64) -> Kept {
        let mut report = RunReport::new("kills", seed);
        report.passed("I9 no overlap", "0");
        circumstances().of(report, 6, 1.5)
    }

    #[test]
    fn the_program_that_was_named_stands_in_what_repeats_a_run_and_old_runs_are_read() {
        let ours = kept(7);
        assert_eq!(ours.command(), "make prove DO=\"run kills --seed 7 --times 6\"");
        let named = Kept { named: Some(PathBuf::from("/opt/holdfast")), ..kept(7) };
        assert!(named.command().starts_with("make prove PROGRAM=/opt/holdfast DO=\"run kills "));
        let mut old = serde_json::to_value(&ours).expect("it is plain");
        old.as_object_mut().expect("it has fields").remove("program");
        let old: Kept = serde_json::from_value(old).expect("it is read");
        assert_eq!(old, Kept { program: String::new(), ..ours });
    }

    #[tokio::test]
    async fn a_run_that_is_over_is_found_and_not_made_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let campaign = campaign(folder.path());
        let place = campaign.place(Class::Kills, 7, 6, Again::IfMissing);
        std::fs::create_dir(&place).expect("room");
        write(&place, &kept(7)).expect("room");
        let made = campaign.make(Class::Kills, 7, 6, Again::IfMissing).await.expect("it is there");
        assert!(made.was_there);
        assert_eq!(made.kept, kept(7));
        assert_eq!(runs(folder.path()).expect("readable"), [kept(7)]);
        // Asked for explicitly, it is made beside the old one; as it is with other numbers of faults.
        assert_ne!(campaign.place(Class::Kills, 7, 6, Again::Always), place);
        assert_ne!(campaign.place(Class::Kills, 7, 5, Again::IfMissing), place);
    }

    #[test]
    fn a_run_that_was_broken_off_goes_and_one_that_is_over_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let campaign = campaign(folder.path());
        let [whole, broken] = ["kills-1", "kills-2"].map(|name| folder.path().join(name));
        for path in [&whole, &broken] {
            std::fs::create_dir(path).expect("room");
        }
        write(&whole, &kept(1)).expect("room");
        std::fs::write(broken.join("report.json.part"), "{").expect("room");
        campaign.remove_broken_off().expect("it can be removed");
        assert!(whole.exists() && !broken.exists());
        begin_anew(&whole).expect("room");
        assert_eq!(std::fs::read_dir(&whole).expect("it is there").count(), 0);
    }

    #[test]
    fn one_program_works_in_a_folder_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = campaign(folder.path());
        let circumstances = first.circumstances.clone();
        let open = || Campaign::open(folder.path(), Path::new("/nowhere"), circumstances.clone());
        assert!(open().expect_err("it is taken").to_string().contains("another `prove`"));
        drop(first);
        assert!(open().is_ok());
        std::fs::remove_file(folder.path().join(LOCK)).expect("it is there");
        std::fs::write(folder.path().join("diary"), "x").expect("room");
        assert!(open().expect_err("it is somebody's").to_string().contains("no campaign"));
    }

    #[test]
    fn data_goes_and_evidence_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["node-1", "csv", "round-1", "round-1/node-2"] {
            std::fs::create_dir(at(name)).expect("room");
        }
        let evidence = ["history.jsonl", "node-1.log", "csv/a.csv", "round-1/history.jsonl"];
        let data = ["node-1/data", "node-1.img", "round-1/node-2/data"];
        for name in evidence.iter().chain(&data) {
            std::fs::write(at(name), "x").expect("room");
        }
        tidy(folder.path()).expect("it can be removed");
        assert!(evidence.iter().all(|name| at(name).exists()));
        assert!(!data.iter().any(|name| at(name).exists()));
        let found = histories(folder.path()).expect("readable");
        assert_eq!(found, [at("history.jsonl"), at("round-1/history.jsonl")]);
    }

    #[test]
    fn disks_stay_wherever_a_run_failed_and_nowhere_else() {
        let passed = || kept(7).report;
        let failed = || {
            let mut report = passed();
            report.failed("I1 nothing is lost", "3 lost");
            report
        };
        let broken_off = || RunReport::broken_off("kills", 7, "it does not end within 300s");
        let unable = || RunReport::unable("kills", 7, &Unable("no root".to_owned()));
        let stays_mounted = || Err(io::Error::other("busy"));
        let (whole, no_text): (&[u8], &[u8]) = (b"", b"\xFF\n");
        for (mut report, cleared, history, stays) in [
            (passed(), Ok(()), whole, false),
            (unable(), Ok(()), whole, false),
            (failed(), Ok(()), whole, true),
            (broken_off(), Ok(()), whole, true),
            (passed(), stays_mounted(), whole, true),
            (passed(), Ok(()), no_text, true),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let (disk, log) = (folder.path().join("disk-1.ext4"), folder.path().join("node-1.log"));
            for path in [&disk, &log] {
                std::fs::write(path, "x").expect("room");
            }
            std::fs::write(folder.path().join(HISTORY), history).expect("room");
            settle(folder.path(), &mut report, cleared).expect("a folder");
            assert_eq!(disk.exists(), stays, "{report:?}");
            assert_eq!(report.verdict() == Verdict::Failed, stays, "{report:?}");
            assert!(log.exists());
        }
    }

    #[test]
    fn another_build_has_another_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("program");
        let build = |text: &str| {
            std::fs::write(&path, text).expect("room");
            build_of(&[&path]).expect("readable")
        };
        let (first, second) = (build("one"), build("two"));
        assert_ne!(first, second);
        assert_eq!(build("one"), first);
    }
}
