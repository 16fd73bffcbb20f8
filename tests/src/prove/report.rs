//! What runs amount to: one page of Markdown, and the verdict on a profile.
//!
//! - A profile has passed if nothing failed, something passed in each of its classes, and nothing was skipped, except
//!   whole classes where it lets a lesser machine do so. What a machine could do in one run it can do in all: a class
//!   that was skipped in some runs only has failed, and so has one that was skipped where another was done that needs as
//!   much of the machine.
//! - Runs of several campaigns and machines may stand on one page, which names them all; of several builds only if whoever
//!   makes it says so ([`builds`]), and the page says so, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::Command;

use super::campaign::Kept;
use super::profile::{Class, Needs, Profile};
use super::run::{Finding, Verdict};

/// What is said of dependencies: those that the promise depends on most.
const NAMED: [&str; 2] = ["openraft", "rocksdb"];

/// Fewer faults than this say nothing of how often the next one fails.
const ENOUGH: u64 = 30;

/// How many checks ended how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// They hold.
    pub passed: u64,
    /// They do not.
    pub failed: u64,
    /// This machine cannot tell.
    pub skipped: u64,
}

impl Tally {
    /// Counts findings.
    pub fn of<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Self {
        let mut tally = Self::default();
        for finding in findings {
            *match finding.verdict {
                Verdict::Passed => &mut tally.passed,
                Verdict::Failed => &mut tally.failed,
                Verdict::Skipped => &mut tally.skipped,
            } += 1;
        }
        tally
    }
}

/// Counts all findings of runs.
pub fn tally(runs: &[Kept]) -> Tally {
    Tally::of(runs.iter().flat_map(|run| &run.report.findings))
}

/// Why a profile has not passed, a sentence each; empty if it has. `may_skip`: whether this machine may skip what the
/// profile lets it.
pub fn objections(profile: &Profile, may_skip: bool, runs: &[Kept]) -> Vec<String> {
    let mut objections = Vec::new();
    for run in runs.iter().filter(|run| run.report.verdict() == Verdict::Failed) {
        objections.push(format!("{} with seed {} has failed", run.report.class, run.report.seed));
    }
    for part in &profile.parts {
        let class = part.class.name();
        let verdicts: Vec<Verdict> =
            runs.iter().filter(|run| run.report.class == class).map(|run| run.report.verdict()).collect();
        if verdicts.len() < part.runs as usize {
            objections.push(format!("{class}: {} of {} runs were made", verdicts.len(), part.runs));
        }
        let shows = |run: &Kept| {
            let needs = run.report.class.parse::<Class>().map(Class::needs);
            let needs_as_much = part.class.needs() < Needs::More && needs >= Ok(part.class.needs());
            (run.report.class == class || needs_as_much) && run.report.verdict() != Verdict::Skipped
        };
        if verdicts.contains(&Verdict::Skipped) && runs.iter().any(shows) {
            objections.push(format!("{class}: it could be done in some runs, and was skipped in others"));
        }
    }
    // A class as a whole may be left out, and no single check of one that was run.
    let is_left_out = |run: &Kept| may_skip && profile.may_skip && run.report.verdict() == Verdict::Skipped;
    let skipped = findings(runs).filter(|(_, finding)| finding.verdict == Verdict::Skipped);
    let unallowed: BTreeSet<(&str, &str)> = skipped
        .filter(|(run, _)| !is_left_out(run))
        .map(|(run, finding)| (run.report.class.as_str(), finding.check.as_str()))
        .collect();
    for (class, check) in unallowed {
        objections.push(format!("{class}: \"{check}\" was skipped, which is not allowed"));
    }
    if tally(runs).passed == 0 {
        objections.push("nothing was proven".to_owned());
    }
    objections
}

fn findings(runs: &[Kept]) -> impl Iterator<Item = (&Kept, &Finding)> {
    runs.iter().flat_map(|run| run.report.findings.iter().map(move |finding| (run, finding)))
}

/// The page.
pub fn markdown(runs: &[Kept]) -> String {
    let mut page = String::new();
    let Tally { passed, failed, skipped } = tally(runs);
    let hours = runs.iter().map(|run| run.seconds).sum::<f64>() / 3_600.0;
    let _ = writeln!(
        page,
        "# What was proven\n\n{} runs in {hours:.2} hours: **{passed} checks passed, {failed} failed, {skipped} \
         skipped**. [How these runs are made and judged](README.md).\n",
        runs.len()
    );
    circumstances(&mut page, runs);
    faults(&mut page, runs);
    checks(&mut page, runs);
    not_passed(&mut page, "Failed", Verdict::Failed, runs);
    not_passed(&mut page, "Skipped", Verdict::Skipped, runs);
    notes(&mut page, runs);
    figures(&mut page, runs);
    seeds(&mut page, runs);
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

/// The builds that runs were made with, a line each.
pub fn builds(runs: &[Kept]) -> Vec<String> {
    // The checkout beside a program may have gone on since it was built: a build has one version.
    let mut builds: BTreeMap<&str, (&Kept, u32)> = BTreeMap::new();
    for run in runs {
        builds.entry(&run.build).or_insert((run, 0)).1 += 1;
    }
    let line = |(build, (first, count)): (&str, (&Kept, u32))| {
        let Kept { version, program, .. } = first;
        let runs = if count == 1 { "run" } else { "runs" };
        let said = if program.is_empty() { "nobody asked it what it is" } else { program.as_str() };
        format!("{version}, build {build}, {count} {runs}; the program: {said}")
    };
    builds.into_iter().map(line).collect()
}

fn circumstances(page: &mut String, runs: &[Kept]) {
    let builds = builds(runs);
    if builds.len() > 1 {
        let count = builds.len();
        let _ = writeln!(page, "**{count} builds**: what one of them has shown is no verdict on another.\n");
    }
    for build in builds {
        let _ = writeln!(page, "- {build}");
    }
    for machine in runs.iter().map(|run| &run.machine).collect::<BTreeSet<_>>() {
        let _ = writeln!(page, "- {machine}");
    }
}

fn by_class(runs: &[Kept]) -> BTreeMap<&str, Vec<&Kept>> {
    let mut classes: BTreeMap<&str, Vec<&Kept>> = BTreeMap::new();
    for run in runs {
        classes.entry(&run.report.class).or_default().push(run);
    }
    classes
}

/// Where nothing failed in N faults, fewer than 3/N of them fail, at 95 %: the rule of three (Hanley and Lippman-Hand,
/// JAMA 1983).
fn faults(page: &mut String, runs: &[Kept]) {
    page.push_str(
        "\n## Faults\n\n| class | runs | injected | bit | runs failed | skipped | failures, at 95 % |\n",
    );
    page.push_str("|---|---|---|---|---|---|---|\n");
    for (class, runs) in by_class(runs) {
        let ended = |verdict: Verdict| runs.iter().filter(|run| run.report.verdict() == verdict).count();
        let injected: u64 = runs.iter().map(|run| run.report.injected).sum();
        let bit: u64 = runs.iter().map(|run| run.report.bit).sum();
        let failed = ended(Verdict::Failed);
        let bound = match (failed, bit) {
            (0, 1..ENOUGH) => "too few to say".to_owned(),
            (0, ENOUGH..) => format!("fewer than {:.2} %", 300.0 / bit as f64),
            _ => String::new(),
        };
        let skipped = ended(Verdict::Skipped);
        let all = runs.len();
        let _ = writeln!(page, "| {class} | {all} | {injected} | {bit} | {failed} | {skipped} | {bound} |");
    }
}

fn checks(page: &mut String, runs: &[Kept]) {
    let mut checks: BTreeMap<&str, Vec<&Finding>> = BTreeMap::new();
    for (_, finding) in findings(runs) {
        checks.entry(&finding.check).or_default().push(finding);
    }
    page.push_str("\n## Checks\n\n| check | passed | failed | skipped |\n|---|---|---|---|\n");
    for (check, findings) in checks {
        let Tally { passed, failed, skipped } = Tally::of(findings);
        let _ = writeln!(page, "| {check} | {passed} | {failed} | {skipped} |");
    }
}

fn not_passed(page: &mut String, title: &str, verdict: Verdict, runs: &[Kept]) {
    let mut found = findings(runs).filter(|(_, finding)| finding.verdict == verdict).peekable();
    if found.peek().is_none() {
        return;
    }
    let _ = writeln!(page, "\n## {title}\n");
    for (run, finding) in found {
        let text = finding.text.split_whitespace().collect::<Vec<_>>().join(" ");
        let class = &run.report.class;
        let _ = writeln!(page, "- {class}, {}: {text} (`{}`)", finding.check, run.command());
    }
}

/// What should not have happened, and alone has failed no run.
fn notes(page: &mut String, runs: &[Kept]) {
    let mut noted =
        runs.iter().flat_map(|run| run.report.notes.iter().map(move |note| (run, note))).peekable();
    if noted.peek().is_none() {
        return;
    }
    page.push_str("\n## Notes\n\n");
    for (run, note) in noted {
        let _ = writeln!(page, "- {}: {note} (`{}`)", run.report.class, run.command());
    }
}

fn figures(page: &mut String, runs: &[Kept]) {
    page.push_str(
        "\n## Figures\n\n| class | figure of a run | smallest | median | largest | all together |\n",
    );
    page.push_str("|---|---|---|---|---|---|\n");
    for (class, runs) in by_class(runs) {
        let mut figures: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, figure) in runs.iter().flat_map(|run| &run.report.figures) {
            figures.entry(name).or_default().push(*figure);
        }
        for (name, mut all) in figures {
            all.sort_by(f64::total_cmp);
            let [smallest, median, largest] = [0, all.len() / 2, all.len() - 1].map(|at| short(all[at]));
            // What is measured has a unit behind a comma, and is not added up.
            let sum = if name.contains(", ") { String::new() } else { short(all.iter().sum()) };
            let _ = writeln!(page, "| {class} | {name} | {smallest} | {median} | {largest} | {sum} |");
        }
    }
}

fn short(figure: f64) -> String {
    if figure.fract() == 0.0 { format!("{figure:.0}") } else { format!("{figure:.2}") }
}

fn seeds(page: &mut String, runs: &[Kept]) {
    page.push_str("\n## Seeds\n\n`make prove DO=\"run CLASS --seed SEED --times TIMES\"` repeats a run.\n\n");
    for (class, runs) in by_class(runs) {
        let mut seeds: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for run in runs {
            seeds.entry(run.times).or_default().push(run.report.seed.to_string());
        }
        for (times, seeds) in seeds {
            let _ = writeln!(page, "- {class}, {times} times: {}", seeds.join(" "));
        }
    }
}

/// Which version is at work, in words.
pub fn version() -> String {
    let mut text = format!("holdfast {}", env!("CARGO_PKG_VERSION"));
    let git = ["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"];
    if let Some(revision) = said(Command::new("git").args(git)) {
        let _ = write!(text, " ({revision})");
    }
    for name in NAMED {
        if let Some(version) = locked(include_str!("../../../Cargo.lock"), name) {
            let _ = write!(text, ", {name} {version}");
        }
    }
    text
}

fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The version of a package in Cargo.lock.
fn locked<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    rest.split('"').next()
}

/// The machine, in words.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (cpuinfo, meminfo) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let processor = field(&cpuinfo, "model name").unwrap_or("unknown processor");
    let memory = field(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    let memory = memory.unwrap_or_default() / 1e6;
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cores} × {processor} ({memory:.0} GB), Linux {}", kernel.trim())
}

/// The value of `name : value` in a file of /proc.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prove::campaign::Circumstances;
    use crate::prove::profile::Part;
    use crate::prove::run::RunReport;

    fn profile() -> Profile {
        let part = |class, runs| Part { class, runs, times: 3 };
        Profile {
            name: "short",
            parts: vec![part(Class::StoreCuts, 2), part(Class::Kills, 1)],
            may_skip: true,
        }
    }

    fn run(class: &str, seed: u64, verdicts: &[(&str, Verdict)]) -> Kept {
        let mut report = RunReport::new(class, seed);
        for (check, verdict) in verdicts {
            let text = format!("{seed}\nseen");
            report.findings.push(Finding { check: (*check).to_owned(), verdict: *verdict, text });
        }
        report.injected = 3;
        report.bit = 3;
        report.figures.insert("samples".to_owned(), 10.0 * seed as f64);
        report.figures.insert("longest gap, ms".to_owned(), 700.5);
        let words = || "here".to_owned();
        let (build, version, program) = (words(), words(), words());
        Circumstances { build, version, program, named: None, machine: words() }.of(report, 3, 1.5)
    }

    const PASSED: (&str, Verdict) = ("I9 no overlap", Verdict::Passed);
    const FAILED: (&str, Verdict) = ("I9 no overlap", Verdict::Failed);
    const UNABLE: (&str, Verdict) = ("the run comes to its end", Verdict::Skipped);

    fn three(first: &[(&str, Verdict)], second: &[(&str, Verdict)], third: &[(&str, Verdict)]) -> Vec<Kept> {
        vec![run("store-cuts", 1, first), run("store-cuts", 2, second), run("kills", 3, third)]
    }

    #[test]
    fn a_profile_passes_only_if_nothing_failed_and_only_whole_classes_were_skipped() {
        let state = ("I12 equal state", Verdict::Skipped);
        let passes = |runs: &[Kept], may_skip| objections(&profile(), may_skip, runs).is_empty();
        let whole = three(&[PASSED], &[PASSED], &[PASSED]);
        assert!(passes(&whole, true) && passes(&whole, false));
        assert!(!passes(&whole[1..], true), "a run is missing");
        assert!(!passes(&three(&[PASSED], &[FAILED, PASSED], &[PASSED]), true));
        let lesser = three(&[PASSED], &[PASSED], &[UNABLE]);
        assert!(passes(&lesser, true), "{:?}", objections(&profile(), true, &lesser));
        assert!(!passes(&lesser, false));
        assert!(!objections(&Profile { may_skip: false, ..profile() }, true, &lesser).is_empty());
        assert!(!passes(&three(&[PASSED], &[PASSED, state], &[PASSED]), true), "a single check may not");
        assert!(!passes(&three(&[PASSED], &[PASSED], &[PASSED, ("I13 no regress", Verdict::Failed)]), true));
    }

    #[test]
    fn a_class_that_was_skipped_in_some_runs_only_has_failed_and_skipping_everything_proves_nothing() {
        for (some, count) in [
            (three(&[PASSED], &[UNABLE], &[PASSED]), 1),
            (three(&[UNABLE], &[UNABLE], &[PASSED]), 1),
            (three(&[PASSED], &[PASSED], &[UNABLE]), 0),
        ] {
            let found = objections(&profile(), true, &some);
            assert_eq!(found.len(), count, "{found:?}");
        }
        let nothing = three(&[UNABLE], &[UNABLE], &[UNABLE]);
        assert_eq!(objections(&profile(), true, &nothing), ["nothing was proven"]);
    }

    #[test]
    fn a_class_that_needs_more_than_others_may_be_skipped_beside_them() {
        let part = |class| Part { class, runs: 1, times: 3 };
        let profile = Profile { parts: vec![part(Class::Kills), part(Class::Wires)], ..profile() };
        let found = |kills, wires| {
            objections(&profile, true, &[run("kills", 1, &[kills]), run("wires", 2, &[wires])])
        };
        assert!(found(PASSED, UNABLE).is_empty(), "{:?}", found(PASSED, UNABLE));
        assert_eq!(found(UNABLE, PASSED).len(), 1, "{:?}", found(UNABLE, PASSED));
    }

    #[test]
    fn the_page_has_counts_failures_and_seeds() {
        let mut runs = three(&[PASSED], &[FAILED], &[UNABLE]);
        assert!(!markdown(&runs).contains("## Notes"));
        runs[2].report.notes.push("slots missed".to_owned());
        let page = markdown(&runs);
        for line in [
            "3 runs in 0.00 hours: **1 checks passed, 1 failed, 1 skipped**",
            "| store-cuts | 2 | 6 | 6 | 1 | 0 |  |",
            "| kills | 1 | 3 | 3 | 0 | 1 | too few to say |",
            "| I9 no overlap | 1 | 1 | 0 |",
            "- store-cuts, I9 no overlap: 2 seen (`make prove DO=\"run store-cuts --seed 2 --times 3\"`)",
            "- kills, the run comes to its end: 3 seen",
            "## Notes\n\n- kills: slots missed (`make prove DO=\"run kills --seed 3 --times 3\"`)",
            "| store-cuts | samples | 10 | 20 | 20 | 30 |",
            "| store-cuts | longest gap, ms | 700.50 | 700.50 | 700.50 |  |",
            "- kills, 3 times: 3",
        ] {
            assert!(page.contains(line), "{line} is missing in\n{page}");
        }
        assert!(page.ends_with("store-cuts, 3 times: 1 2\n"));
    }

    #[test]
    fn builds_are_told_apart_and_a_page_of_several_says_so() {
        let mut runs = three(&[PASSED], &[PASSED], &[PASSED]);
        assert_eq!(builds(&runs), ["here, build here, 3 runs; the program: here"]);
        assert!(!markdown(&runs).contains("builds**"));
        runs[2].build = "there".to_owned();
        runs[2].program = "holdfast 0.1.0, without debug assertions".to_owned();
        let page = markdown(&runs);
        for line in [
            "**2 builds**",
            "- here, build here, 2 runs; the program: here",
            "build there, 1 run; the program: holdfast 0.1.0, without debug assertions",
        ] {
            assert!(page.contains(line), "{line} is missing in\n{page}");
        }
        runs[2].program.clear();
        assert!(builds(&runs)[1].contains("nobody asked it"), "{:?}", builds(&runs));
    }

    #[test]
    fn every_named_dependency_has_a_version() {
        for name in NAMED {
            assert!(version().contains(&format!("{name} ")), "{}", version());
        }
    }
}
