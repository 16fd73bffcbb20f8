//! The proof kit's command: `make prove PROFILE=quick SEED=1`. See docs/proof/README.md.
//!
//! - Progress goes to the error output, the report to the output, and into a document with `--write`.
//! - Exit code 0: nothing failed, and nothing was skipped but what the profile lets a lesser machine skip. 1: it is not so.
//!   2: it could not be found out, or somebody ended it.
//! - Processes are gone at every end, and so is the folder of a run that was broken off.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};
use holdfast_tests::machine;
use holdfast_tests::prove::calm;
use holdfast_tests::prove::campaign::{self, Again, Campaign, Circumstances, FILES, Kept, Made};
use holdfast_tests::prove::elections;
use holdfast_tests::prove::liveness::Bounds;
use holdfast_tests::prove::mutants::{self, Fate};
use holdfast_tests::prove::observed::{self, OBSERVED, Observations};
use holdfast_tests::prove::profile::{Class, Profile, seed_of};
use holdfast_tests::prove::report;
use holdfast_tests::prove::run::{Finding, RunReport, Verdict};
use holdfast_tests::prove::store_cuts;
use holdfast_tests::said;
use simulator::account;
use simulator::plant::Plant;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

/// What this program is called as by itself: the process whose power is cut.
const CHILD: &str = "store-child";
/// Killed processes may write for a moment.
const CLEAR_EVERY: Duration = Duration::from_millis(100);
const CLEAR_TRIES: u32 = 50;
/// Faults of a class in which a mutant must show.
const CUTS_FOR_A_MUTANT: &str = "100";

/// Break Holdfast in every way that this machine allows, and judge it from outside.
#[derive(Debug, Parser)]
#[command(name = "prove", version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// All runs of a profile: quick, nightly or release.
    Profile(ProfileArgs),
    /// One run, again and again the same by its seed.
    Run(RunArgs),
    /// What the runs in campaign folders amount to.
    Report(ReportArgs),
    /// Whether each deliberate fault in the code is noticed: `make prove-mutants` makes a build that has them.
    Mutants {
        /// Only this one.
        #[arg(long, value_name = "NAME")]
        only: Option<String>,
    },
    /// Judge old histories with the checks of today.
    Replay {
        /// The folder of a run or of a campaign.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
struct ProfileArgs {
    /// Its name.
    profile: Profile,
    /// The seed of all runs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Skip nothing: what this machine cannot do has failed.
    #[arg(long)]
    require_all: bool,
    /// Only runs of this class; the profile has not passed then.
    #[arg(long, value_name = "CLASS")]
    only: Option<Class>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The fault class.
    class: Class,
    /// The run's own seed, as a report tells it.
    #[arg(long)]
    seed: u64,
    /// How many faults.
    #[arg(long, default_value_t = 1)]
    times: u32,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// Campaign folders.
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// Write the page to this file.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Put runs of several builds on one page, which says so.
    #[arg(long)]
    several_builds: bool,
}

#[derive(Debug, Args)]
struct Place {
    /// The folder that keeps the runs; what is in it is not made again. The default lies beside this program.
    #[arg(long, value_name = "DIR")]
    campaign: Option<PathBuf>,
    /// The program whose nodes are broken. The default is the one that tests build, beside this program.
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
}

/// A run to be made.
#[derive(Debug, Clone, Copy)]
struct Job {
    class: Class,
    seed: u64,
    times: u32,
    again: Again,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(CHILD) {
        let rest: Vec<String> = words.collect();
        return ended(store_cuts::child(&rest).map(|()| true));
    }
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    ended(runtime.context("cannot start threads").and_then(|runtime| match arguments.what {
        What::Profile(args) => runtime.block_on(Box::pin(profile(&args))),
        What::Run(args) => runtime.block_on(Box::pin(run(&args))),
        What::Report(args) => merge(&args),
        What::Mutants { only } => runtime.block_on(Box::pin(meet_mutants(only.as_deref()))),
        What::Replay { folder } => replay(&folder),
    }))
}

fn ended(ended: Result<bool>) -> ExitCode {
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

/// Makes all runs of a profile. `false` if it has not passed.
async fn profile(args: &ProfileArgs) -> Result<bool> {
    let profile = &args.profile;
    let campaign = open(&args.place, &format!("{}-{}", profile.name, args.seed)).await?;
    let may_skip = !args.require_all;
    tell_what_is_skipped(may_skip && profile.may_skip);
    let parts = profile.parts.iter().filter(|part| args.only.is_none_or(|only| only == part.class));
    let jobs: Vec<Job> = parts
        .flat_map(|part| {
            let seed = |number| seed_of(args.seed, part.class, number);
            let job = move |seed| Job { class: part.class, seed, times: part.times, again: Again::IfMissing };
            (0..part.runs).map(seed).map(job).collect::<Vec<_>>()
        })
        .collect();
    let runs = make(&campaign, &jobs).await?;
    let page = report::markdown(&runs);
    std::fs::write(campaign.folder().join("report.md"), &page)?;
    print(&page);
    let objections = report::objections(profile, may_skip, &runs);
    objections.iter().for_each(|objection| eprintln!("{objection}"));
    eprintln!("{} with seed {} has {}", profile.name, args.seed, word(objections.is_empty()));
    Ok(objections.is_empty())
}

/// Makes one run, whether or not it was made before.
async fn run(args: &RunArgs) -> Result<bool> {
    let campaign = open(&args.place, "single").await?;
    let job = Job { class: args.class, seed: args.seed, times: args.times, again: Again::Always };
    let runs = make(&campaign, &[job]).await?;
    print(&report::markdown(&runs));
    Ok(runs.iter().all(|kept| kept.report.verdict() == Verdict::Passed))
}

async fn open(place: &Place, name: &str) -> Result<Campaign> {
    let own = std::env::current_exe().context("the path of this program is not known")?;
    if let Some(named) = &place.program {
        said::name_program(named)?;
    }
    let program = said::program()?;
    let library = machine::preload::library()?;
    let build = campaign::build_of(&[&program, &own, &library]).context("the programs cannot be read")?;
    let words = said::version().await.with_context(|| format!("asking {} what it is", program.display()))?;
    eprintln!("{}: {words}", program.display());
    let circumstances = Circumstances {
        build,
        version: report::version(),
        program: words,
        named: place.program.is_some().then(|| program.clone()),
        machine: report::machine(),
    };
    let beside = own.parent().unwrap_or(Path::new("."));
    let usual = || beside.join("campaigns").join(name);
    Campaign::open(&place.campaign.clone().unwrap_or_else(usual), &program, circumstances)
}

fn tell_what_is_skipped(may_skip: bool) {
    use std::os::unix::fs::MetadataExt as _;
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if is_root {
        return;
    }
    let needed = "network namespaces and volumes need root, which this is not";
    eprintln!("{needed}: what needs them will {}", if may_skip { "be skipped" } else { "fail" });
}

/// Makes runs, one after the other, until somebody ends this.
async fn make(campaign: &Campaign, jobs: &[Job]) -> Result<Vec<Kept>> {
    // What a run has left whose process was killed.
    machine::clear(campaign.folder()).context("what is mounted there does not go")?;
    campaign.remove_broken_off()?;
    eprintln!("{} runs, kept in {}", jobs.len(), campaign.folder().display());
    let made = tokio::select! {
        made = make_each(campaign, jobs) => made,
        told = told_to_stop() => Err(told),
    };
    if made.is_err() {
        clear(campaign).await;
    }
    made
}

async fn make_each(campaign: &Campaign, jobs: &[Job]) -> Result<Vec<Kept>> {
    let began = Instant::now();
    let mut all = Vec::new();
    for (place, job) in jobs.iter().enumerate() {
        let Job { class, seed, times, again } = *job;
        let of_class = |jobs: &[Job]| jobs.iter().filter(|job| job.class == class).count();
        let number = format!("{class} {}/{}", of_class(&jobs[..=place]), of_class(jobs));
        eprintln!("{:8.1}  {number}: seed {seed}, {times} times", began.elapsed().as_secs_f64());
        let made = Box::pin(campaign.make(class, seed, times, again)).await?;
        eprintln!("{:8.1}  {number}: {}", began.elapsed().as_secs_f64(), told(&made));
        all.push(made.kept);
    }
    eprintln!("{:8.1}  all runs", began.elapsed().as_secs_f64());
    Ok(all)
}

/// How a run ended; of one that did not pass also why, where the evidence lies, and what repeats it.
fn told(made: &Made) -> String {
    let Kept { report, seconds, .. } = &made.kept;
    let verdict = match report.verdict() {
        Verdict::Passed => "passed",
        Verdict::Failed => "FAILED",
        Verdict::Skipped => "SKIPPED",
    };
    let when = if made.was_there { "earlier, " } else { "" };
    let (injected, bit) = (report.injected, report.bit);
    let mut text = format!("{verdict} ({when}{seconds:.1} s; {injected} faults, {bit} bit)");
    for Finding { check, verdict, text: seen } in &report.findings {
        if *verdict != Verdict::Passed {
            text.push_str(&format!("\n          {verdict:?}: {check}: {seen}"));
        }
    }
    if report.verdict() == Verdict::Failed {
        text.push_str(&format!("\n          evidence: {}", made.folder.display()));
        text.push_str(&format!("\n          again:    {}", made.kept.command()));
    }
    text
}

/// Removes the run that was broken off.
async fn clear(campaign: &Campaign) {
    if let Err(error) = machine::clear(campaign.folder()) {
        eprintln!("what is mounted below {} does not go: {error}", campaign.folder().display());
        return;
    }
    for tried in 1..=CLEAR_TRIES {
        match campaign.remove_broken_off() {
            Ok(()) => return,
            Err(error) if tried == CLEAR_TRIES => eprintln!("{error:#}"),
            Err(_) => sleep(CLEAR_EVERY).await,
        }
    }
}

/// Has each mutant meet its killer. `false` unless all were killed.
async fn meet_mutants(only: Option<&str>) -> Result<bool> {
    let own = std::env::current_exe().context("the path of this program is not known")?;
    let class = |class: &str| {
        let mut command = Command::new(&own);
        command.args(["run", class, "--seed", "1", "--times", CUTS_FOR_A_MUTANT]);
        Some(command)
    };
    let results = tokio::select! {
        results = mutants::run(only, class) => results?,
        told = told_to_stop() => return Err(told),
    };
    Ok(results.iter().all(|result| result.fate == Fate::Killed))
}

/// Puts the runs of several campaigns on one page. `false` if one of them failed.
fn merge(args: &ReportArgs) -> Result<bool> {
    let mut runs = Vec::new();
    for folder in &args.folders {
        runs.extend(campaign::runs(folder)?);
    }
    ensure!(!runs.is_empty(), "there are no runs in these folders");
    let builds = report::builds(&runs);
    ensure!(
        builds.len() == 1 || args.several_builds,
        "these runs were made with {} builds, and what one has shown is no verdict on another; `--several-builds` puts \
         them on one page\n{}",
        builds.len(),
        builds.join("\n")
    );
    let page = report::markdown(&runs);
    match &args.write {
        Some(path) => std::fs::write(path, page).with_context(|| path.display().to_string())?,
        None => print(&page),
    }
    Ok(report::tally(&runs).failed == 0)
}

/// Judges every history below a folder again, and draws it. `false` if a check fails.
fn replay(folder: &Path) -> Result<bool> {
    let histories = campaign::histories(folder)?;
    ensure!(!histories.is_empty(), "there is no {} in {}", campaign::HISTORY, folder.display());
    let mut holds = true;
    for history in histories {
        let folder = history.parent().unwrap_or(folder);
        let files = Some(folder.join(FILES)).filter(|files| files.is_dir());
        let account = account::replay(&Plant::demo(), &history, files.as_deref());
        let account = account.with_context(|| history.display().to_string())?;
        let mut now = RunReport::new("replay", 0);
        let settled = account.settle();
        now.account(&settled);
        let kept = campaign::read(folder)?;
        let bounds = kept.as_ref().map_or(Bounds::USUAL, bounds_of);
        calm::judge(&mut now, &settled.calm, bounds.missed_percent);
        let path = folder.join(OBSERVED);
        // Store cuts and older runs have none.
        if path.is_file() {
            let seen = Observations::read(&path).with_context(|| path.display().to_string())?;
            observed::judge(&mut now, &seen, &account.accepted());
            elections::judge(&mut now, &settled.uncaused, &seen, bounds.elections);
        }
        let before = kept.map(|kept| kept.report.findings).unwrap_or_default();
        campaign::draw(&history).with_context(|| history.display().to_string())?;
        let notes: String = now.notes.iter().map(|note| format!("  note: {note}\n")).collect();
        print(&format!("{}\n{}{notes}", history.display(), compared(&before, &now.findings)));
        holds &= now.verdict() == Verdict::Passed;
    }
    Ok(holds)
}

/// What the class of a run promises; the usual, where it is none of today.
fn bounds_of(kept: &Kept) -> Bounds {
    let class = kept.report.class.parse::<Class>().ok();
    class.and_then(|class| class.bounds().ok()).unwrap_or(Bounds::USUAL)
}

/// What checks find now, and what they found before where that differs.
fn compared(before: &[Finding], now: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let Finding { check, verdict, text } = finding;
        let old = before.iter().filter(|old| old.check == *check).map(|old| old.verdict).max();
        let changed = match old {
            Some(old) if old != *verdict => format!(" (it was {old:?})"),
            _ => String::new(),
        };
        format!("  {verdict:?}{changed}: {check}: {text}\n")
    };
    now.iter().map(line).collect()
}

fn word(has_passed: bool) -> &'static str {
    if has_passed { "passed" } else { "NOT passed" }
}

#[allow(clippy::print_stdout, reason = "its output is its purpose")]
fn print(page: &str) {
    println!("{page}");
}

async fn told_to_stop() -> anyhow::Error {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let signals: Result<Vec<_>, _> = kinds.into_iter().map(signal).collect();
    match signals {
        Ok(mut signals) => {
            let received = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
            futures::future::select_all(received).await;
            anyhow::anyhow!("told to stop; the same command goes on from here")
        }
        Err(error) => anyhow::Error::new(error).context("signals cannot be caught"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_command_that_a_report_names_is_one() {
        let kept = kept("");
        let command = kept.command();
        let told = command.split('"').nth(1).expect("it stands in quotes");
        let parsed = Arguments::try_parse_from(["prove"].into_iter().chain(told.split(' ')));
        let What::Run(args) = parsed.expect("valid").what else { panic!("no run: {command}") };
        assert_eq!((args.class, args.seed, args.times), (Class::StoreCuts, u64::MAX, 50));
    }

    fn kept(build: &str) -> Kept {
        let mut report = RunReport::new("store-cuts", u64::MAX);
        report.failed("I1 lost", "1");
        let words = String::new;
        let (build, version, program) = (build.to_owned(), words(), words());
        Circumstances { build, version, program, named: None, machine: words() }.of(report, 50, 1.0)
    }

    #[test]
    fn runs_of_several_builds_stand_on_one_page_only_if_somebody_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        for build in ["a", "b"] {
            let place = folder.path().join(build);
            std::fs::create_dir(&place).expect("room");
            let text = serde_json::to_string(&kept(build)).expect("it is plain");
            std::fs::write(place.join("report.json"), text).expect("room");
        }
        let write = Some(folder.path().join("page.md"));
        let args = |several_builds| ReportArgs {
            folders: vec![folder.path().to_owned()],
            write: write.clone(),
            several_builds,
        };
        let refused = merge(&args(false)).expect_err("they are two").to_string();
        assert!(refused.contains("2 builds") && refused.contains("--several-builds"), "{refused}");
        assert!(!merge(&args(true)).expect("somebody says so"), "both have failed");
        assert!(folder.path().join("page.md").is_file());
    }

    #[test]
    fn what_a_check_found_before_is_told_where_it_differs() {
        let finding = |verdict| Finding { check: "I4 order".to_owned(), verdict, text: "0".to_owned() };
        let [passed, failed] = [finding(Verdict::Passed), finding(Verdict::Failed)];
        let now = std::slice::from_ref(&passed);
        assert_eq!(compared(&[failed], now), "  Passed (it was Failed): I4 order: 0\n");
        assert_eq!(compared(now, now), "  Passed: I4 order: 0\n");
    }
}
