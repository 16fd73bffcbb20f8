//! One run of a fault class: what it is asked to do, and what it found.
//!
//! - A check passed, failed or was skipped; there is no fourth. What is not known has failed: a run that proves nothing
//!   fails the check on its faults (I22).
//! - Checks bear the numbers of the invariants that they judge; one that judges a part of an invariant says which.
//! - A run that does less than it was asked to has failed, unless the machine cannot do it at all.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use simulator::account;

use crate::machine::Unable;

const KEPT: &str = "I1 what was acknowledged or read is delivered, or inside a gap";
const GENUINE: &str = "I2 I3 nothing arrives that nobody produced, or with another value";
const ORDER: &str = "I4 first deliveries are in order";
const REPEATED: &str = "I5 what comes again under one key is the same, and stands in files once";
const KEYS: &str = "I6 a key names one record, at every destination and whoever leads";
const SLOTS: &str = "I7 every slot is in exactly one record";
const NAMED: &str = "I7 every gap and every opening stands in files once";
const GAPS: &str = "I7 every gap has a cause that explains it";
/// The check on the times that samples bear.
pub const TIMES: &str = "I8 what is polled bears a time from its own read";
const OVERLAPS: &str = "I9 no two nodes ask one device at one time";
const TURNS: &str = "I9 while a node leads and asks, no other asks any device";
const REIGNS: &str = "I9 one node polls in each term, and nothing of it stands behind a later one";
const SILENCE: &str = "longest time without a read, ms";
const JUDGED: &str = "what was seen is whole, and can be judged";
/// The check on the faults themselves.
pub const BIT: &str = "I22 every fault was injected, and bit";
/// The same where chance decides what a fault meets.
const ENOUGH_BIT: &str = "I22 every fault was injected, and enough of them bit";
const WHOLE: &str = "the run comes to its end";

/// What a run is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// How many faults are to be injected.
    pub times: u32,
    /// For everything that the run writes; it exists and is empty.
    pub folder: PathBuf,
    /// The program under test.
    pub program: PathBuf,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// It holds.
    Passed,
    /// It does not, or nobody knows.
    Failed,
    /// This machine cannot tell.
    Skipped,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The check: first the invariant, then words.
    pub check: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What was seen.
    pub text: String,
}

/// What a run found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// The fault class.
    pub class: String,
    /// The seed of this run.
    pub seed: u64,
    /// Faults injected.
    pub injected: u64,
    /// Of these, faults that provably did something.
    pub bit: u64,
    /// What the checks found, in the order in which they were made.
    pub findings: Vec<Finding>,
    /// What was counted and measured, by name; the unit stands in the name.
    pub figures: BTreeMap<String, f64>,
    /// What should not happen, and alone fails no run; absent in runs from before they were kept.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl RunReport {
    /// A report without findings.
    pub fn new(class: &str, seed: u64) -> Self {
        Self {
            class: class.to_owned(),
            seed,
            injected: 0,
            bit: 0,
            findings: Vec::new(),
            figures: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    /// The report of a run that this machine cannot do.
    pub fn unable(class: &str, seed: u64, why: &Unable) -> Self {
        let mut report = Self::new(class, seed);
        report.skipped(WHOLE, why.0.clone());
        report
    }

    /// The report of a run that broke off.
    pub fn broken_off(class: &str, seed: u64, why: impl Into<String>) -> Self {
        let mut report = Self::new(class, seed);
        report.failed(WHOLE, why);
        report
    }

    /// A check holds.
    pub fn passed(&mut self, check: &str, text: impl Into<String>) {
        self.found(check, Verdict::Passed, text);
    }

    /// A check does not hold, or it is not known.
    pub fn failed(&mut self, check: &str, text: impl Into<String>) {
        self.found(check, Verdict::Failed, text);
    }

    /// A check cannot be made on this machine.
    pub fn skipped(&mut self, check: &str, text: impl Into<String>) {
        self.found(check, Verdict::Skipped, text);
    }

    /// A check holds, or does not.
    pub fn judge(&mut self, check: &str, holds: bool, text: impl Into<String>) {
        self.found(check, if holds { Verdict::Passed } else { Verdict::Failed }, text);
    }

    /// A check has judged nothing in this class: what it found is taken back.
    pub fn withdraw(&mut self, check: &str) {
        self.findings.retain(|finding| finding.check != check);
    }

    fn found(&mut self, check: &str, verdict: Verdict, text: impl Into<String>) {
        self.findings.push(Finding { check: check.to_owned(), verdict, text: text.into() });
    }

    /// A fault was injected, and `bit` if it provably did something.
    pub fn injected(&mut self, bit: bool) {
        self.injected += 1;
        self.bit += u64::from(bit);
    }

    /// Enters what the account judges, and nothing that it does not.
    pub fn account(&mut self, report: &account::Report) {
        self.judge(
            KEPT,
            report.lost == 0,
            format!(
                "{} samples acknowledged, {} reads answered, {} samples delivered, {} lost",
                report.pushed_acked, report.reads_answered, report.delivered, report.lost
            ),
        );
        self.judge(GENUINE, report.wrong == 0, format!("{} wrong of {}", report.wrong, report.delivered));
        self.judge(ORDER, report.out_of_order == 0, format!("{} out of order", report.out_of_order));
        self.judge(
            REPEATED,
            report.conflicts == 0 && report.filed_twice == 0,
            format!(
                "{} records came again, {} of them with other bytes; {} rows stand in files twice",
                report.duplicates, report.conflicts, report.filed_twice
            ),
        );
        self.judge(KEYS, report.keys_astray == 0, format!("{} astray", report.keys_astray));
        self.judge(
            SLOTS,
            report.slots_unaccounted == 0,
            format!(
                "{} slots: {} read, {} bad, {} in gaps, {} unaccounted",
                report.slots_expected,
                report.slots_sampled,
                report.slots_bad,
                report.slots_in_gaps,
                report.slots_unaccounted
            ),
        );
        self.judge(
            NAMED,
            report.records_unfiled == 0 && report.records_filed_twice == 0,
            format!("{} are missing, {} rows too many", report.records_unfiled, report.records_filed_twice),
        );
        self.judge(GAPS, report.gap_problems.is_empty(), report.gap_problems.join("; "));
        let times = format!("{} slots of {} sampled ones do not", report.times_astray, report.slots_sampled);
        self.judge(TIMES, report.times_astray == 0, times);
        self.judge(OVERLAPS, report.device_overlaps == 0, format!("{} times", report.device_overlaps));
        self.judge(TURNS, report.requests_astray == 0, format!("{} requests", report.requests_astray));
        self.judge(REIGNS, report.stale_reigns == 0, format!("{} terms", report.stale_reigns));
        if !report.doubts.is_empty() {
            self.failed(JUDGED, report.doubts.join("; "));
        }
        self.notes.extend(report.notes.iter().cloned());
        self.count_of(report);
    }

    fn count_of(&mut self, report: &account::Report) {
        for (name, count) in [
            ("reads answered", report.reads_answered),
            ("samples acknowledged", report.pushed_acked),
            ("samples delivered", report.delivered),
            ("records that came again", report.duplicates),
            ("slots", report.slots_expected),
            ("slots in gaps", report.slots_in_gaps),
            ("elections that nobody caused", report.spurious_elections),
        ] {
            *self.figures.entry(name.to_owned()).or_default() += count as f64;
        }
        if let Some(longest) = report.failovers.iter().map(|failover| failover.gap_ms).max() {
            self.silent_for(Duration::from_millis(longest));
        }
    }

    /// Some device was not read for so long.
    pub fn silent_for(&mut self, time: Duration) {
        let figure = self.figures.entry(SILENCE.to_owned()).or_default();
        *figure = figure.max(time.as_secs_f64() * 1e3);
    }

    /// What the run amounts to: one failed check fails it, and it was skipped if nothing was judged.
    pub fn verdict(&self) -> Verdict {
        let has = |verdict| self.findings.iter().any(|finding| finding.verdict == verdict);
        match (has(Verdict::Failed), has(Verdict::Passed), has(Verdict::Skipped)) {
            (false, true, _) => Verdict::Passed,
            (false, false, true) => Verdict::Skipped,
            _ => Verdict::Failed,
        }
    }

    /// Judges whether the faults that were asked for were injected, and so many of them, or all, bit: nothing else counts
    /// otherwise.
    pub(super) fn conclude(&mut self, times: u32, must_bite: u32) {
        if self.verdict() == Verdict::Skipped {
            return;
        }
        let may_miss = u64::from(times.saturating_sub(must_bite));
        let is_whole = self.injected >= u64::from(times) && self.injected - self.bit <= may_miss;
        let mut text = format!("{times} asked for, {} injected, {} bit", self.injected, self.bit);
        let check = if may_miss == 0 { BIT } else { ENOUGH_BIT };
        if may_miss > 0 {
            text.push_str(&format!(" and {must_bite} must"));
        }
        self.judge(check, is_whole, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(report: &account::Report) -> RunReport {
        let mut run = RunReport::new("kills", 7);
        run.account(report);
        run
    }

    fn failed(run: &RunReport) -> Vec<&str> {
        let failed = run.findings.iter().filter(|finding| finding.verdict == Verdict::Failed);
        failed.map(|finding| finding.check.as_str()).collect()
    }

    #[test]
    fn every_figure_of_the_account_fails_the_check_that_is_there_for_it() {
        type Spoil = fn(&mut account::Report);
        let spoilt: [(Spoil, &str); 15] = [
            (|report| report.lost = 1, KEPT),
            (|report| report.wrong = 1, GENUINE),
            (|report| report.out_of_order = 1, ORDER),
            (|report| report.conflicts = 1, REPEATED),
            (|report| report.filed_twice = 1, REPEATED),
            (|report| report.keys_astray = 1, KEYS),
            (|report| report.times_astray = 1, TIMES),
            (|report| report.slots_unaccounted = 1, SLOTS),
            (|report| report.gap_problems.push("so".to_owned()), GAPS),
            (|report| report.records_unfiled = 1, NAMED),
            (|report| report.records_filed_twice = 1, NAMED),
            (|report| report.device_overlaps = 1, OVERLAPS),
            (|report| report.requests_astray = 1, TURNS),
            (|report| report.stale_reigns = 1, REIGNS),
            (|report| report.doubts.push("so".to_owned()), JUDGED),
        ];
        assert_eq!(judged(&account::Report::default()).verdict(), Verdict::Passed);
        for (spoil, check) in spoilt {
            let mut report = account::Report::default();
            spoil(&mut report);
            assert_eq!(failed(&judged(&report)), [check]);
        }
    }

    #[test]
    fn a_fault_that_is_missing_or_did_not_bite_fails_the_run() {
        for (bites, verdict) in [
            (vec![true, true], Verdict::Passed),
            (vec![true, true, true], Verdict::Passed),
            (vec![true], Verdict::Failed),
            (vec![true, false], Verdict::Failed),
            (vec![true, true, false], Verdict::Failed),
        ] {
            let mut run = judged(&account::Report::default());
            bites.iter().for_each(|bit| run.injected(*bit));
            run.conclude(2, 2);
            assert_eq!(run.verdict(), verdict, "{bites:?}");
        }
    }

    #[test]
    fn where_chance_decides_enough_faults_must_have_bitten() {
        for (bites, verdict) in [
            (vec![true, true, false, false, false], Verdict::Passed),
            (vec![true, false, false, false, false], Verdict::Failed),
            (vec![true, true, true, true], Verdict::Failed),
        ] {
            let mut run = judged(&account::Report::default());
            bites.iter().for_each(|bit| run.injected(*bit));
            run.conclude(5, 2);
            assert_eq!(run.verdict(), verdict, "{bites:?}");
        }
    }

    #[test]
    fn a_run_without_findings_has_failed_and_one_that_cannot_be_done_is_skipped() {
        assert_eq!(RunReport::new("kills", 7).verdict(), Verdict::Failed);
        let mut run = RunReport::unable("kills", 7, &Unable("no root".to_owned()));
        run.conclude(2, 2);
        assert_eq!((run.verdict(), run.findings.len()), (Verdict::Skipped, 1));
        run.skipped("I12 equal state", "no volume");
        run.passed("I15 no acknowledgements", "0");
        assert_eq!(run.verdict(), Verdict::Passed);
    }

    #[test]
    fn notes_of_the_account_are_kept_and_a_run_from_before_has_none() {
        let notes = vec!["an election".to_owned()];
        let run = judged(&account::Report { notes: notes.clone(), ..account::Report::default() });
        assert_eq!((run.verdict(), &run.notes), (Verdict::Passed, &notes));
        let mut text = serde_json::to_value(&run).expect("numbers and texts");
        text.as_object_mut().expect("an object").remove("notes");
        let old: RunReport = serde_json::from_value(text).expect("one from before");
        assert_eq!((old.findings.len(), old.notes), (run.findings.len(), Vec::new()));
    }

    #[test]
    fn longest_times_are_not_added_up() {
        let failover = |gap_ms| account::FailoverSeen { fault: "kill".to_owned(), gap_ms };
        let report = account::Report {
            delivered: 5,
            failovers: vec![failover(700), failover(900)],
            ..account::Report::default()
        };
        let mut run = judged(&report);
        run.account(&report);
        assert_eq!(run.figures[SILENCE], 900.0);
        for (millis, longest) in [(800, 900.0), (1_200, 1_200.0)] {
            run.silent_for(Duration::from_millis(millis));
            assert_eq!(run.figures[SILENCE], longest);
        }
        assert_eq!(run.figures["samples delivered"], 10.0);
    }
}
