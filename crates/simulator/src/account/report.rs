//! The report of a run: the figures that must add up, and what they amount to.

use std::collections::BTreeMap;

use serde::Serialize;

/// What a run proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything adds up, and every fault did what it should.
    Pass,
    /// Something is lost, changed, unexplained or was read twice.
    Fail,
    /// Nothing is wrong, and the run proves nothing.
    #[default]
    Unknown,
}

/// A fault after which another node took over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailoverSeen {
    /// In words.
    pub fault: String,
    /// The longest time without an answered read, in milliseconds.
    pub gap_ms: u64,
}

/// A planned change of leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SwitchoverSeen {
    /// Slots that were not read, all groups together.
    pub slots_missed: u64,
}

/// A reign that began while nothing was done to the cluster, and nothing had been done a moment before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Uncaused {
    /// Its term.
    pub term: u64,
    /// Who led, or nobody's name where nothing was polled.
    pub node: String,
    /// When a device heard of it first, in monotonic nanoseconds.
    pub began_ns: u64,
}

/// The time in which nothing was done to the cluster or to a device, nor had been a moment before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Calm {
    /// Slots in it.
    pub slots: u64,
    /// Those in gaps that only a busy machine explains, by cause.
    pub missed: BTreeMap<String, u64>,
}

/// The account of a run. Values are counted where nothing else is said.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// What it amounts to.
    pub verdict: Verdict,
    /// Read *requests* that devices answered with values.
    pub reads_answered: u64,
    /// Samples that pushers were told are safe.
    pub pushed_acked: u64,
    /// Distinct samples that the HTTP receiver accepted.
    pub delivered: u64,
    /// Answered or acknowledged, and neither delivered to every destination nor inside a gap.
    pub lost: u64,
    /// Records that came again under the same key, and pushed samples that came under a second one.
    pub duplicates: u64,
    /// Rows of CSV files whose sample stands in a file already and was not committed again.
    pub filed_twice: u64,
    /// Gaps and openings that were delivered over HTTP, and stand in no CSV file.
    pub records_unfiled: u64,
    /// Rows of CSV files whose gap or opening stands in a file already.
    pub records_filed_twice: u64,
    /// Samples that came for the first time behind a later one of their tag.
    pub out_of_order: u64,
    /// Slots from 0 to the highest known one, all grids together.
    pub slots_expected: u64,
    /// Slots with a good sample of every tag.
    pub slots_sampled: u64,
    /// Slots with a sample of every tag, at least one of them bad.
    pub slots_bad: u64,
    /// Slots in one gap record.
    pub slots_in_gaps: u64,
    /// What was missed while nothing was done.
    pub calm: Calm,
    /// Slots that are in nothing, in part only, or in two things.
    pub slots_unaccounted: u64,
    /// Pairs of requests of two nodes at one device at one time.
    pub device_overlaps: u64,
    /// Requests that came to a device in the midst of what another node asked in one term.
    pub requests_astray: u64,
    /// Faults after which another node took over.
    pub failovers: Vec<FailoverSeen>,
    /// Planned changes of leader.
    pub switchovers: Vec<SwitchoverSeen>,
    /// Reigns that nothing explains: a fault explains one.
    pub spurious_elections: u64,
    /// Reigns that began outside of every fault: a fault explains all that begin in it.
    pub uncaused: Vec<Uncaused>,
    /// Reigns in which two nodes polled, or of which something stands behind the beginning of a later one.
    pub stale_reigns: u64,
    /// Records that came again with other bytes.
    pub conflicts: u64,
    /// Samples that nobody produced, or that came with another value.
    pub wrong: u64,
    /// Keys that name two records, and records that have two keys, or another one in CSV files than over HTTP.
    pub keys_astray: u64,
    /// Slots whose samples bear a time at which their read was not under way.
    pub times_astray: u64,
    /// Why it did not pass, a sentence each.
    pub problems: Vec<String>,
    /// Of these: what is wrong with the causes of gaps.
    #[serde(skip)]
    pub gap_problems: Vec<String>,
    /// Of these: why the run proves nothing.
    #[serde(skip)]
    pub doubts: Vec<String>,
    /// What should not happen, and alone fails no run: elections that nobody caused, slots missed at switchovers, and
    /// those that only a busy machine explains.
    pub notes: Vec<String>,
}

impl Report {
    /// Comes to a verdict. `wrong`: samples that nobody produced or that were changed; `unfiled`: samples that only
    /// one destination has; `gaps`: what is wrong with the causes of gaps; `doubts`: why the run proves nothing.
    pub(super) fn judge(&mut self, wrong: u64, unfiled: u64, gaps: Vec<String>, mut doubts: Vec<String>) {
        self.wrong = wrong;
        let faults = [
            (self.lost, "samples were lost"),
            (unfiled, "samples of these were delivered over HTTP and stand in no CSV file"),
            (self.filed_twice, "samples stand in CSV files twice"),
            (self.records_unfiled, "gaps and openings were delivered over HTTP and stand in no CSV file"),
            (self.records_filed_twice, "rows of gaps and openings stand in CSV files twice"),
            (wrong, "samples arrived that nobody produced, or with another value"),
            (self.out_of_order, "samples came out of order"),
            (self.slots_unaccounted, "slots are not in exactly one sample or gap"),
            (self.device_overlaps, "times two nodes asked one device at one time"),
            (self.requests_astray, "requests came to a device while another node led and asked"),
            (self.stale_reigns, "terms in which two nodes polled, or something stands behind a later one"),
            (self.conflicts, "records came again with other bytes"),
            (self.keys_astray, "keys name two records, or records have two keys"),
            (self.times_astray, "slots bear times at which their reads were not under way"),
        ];
        self.problems = faults
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .chain(gaps.iter().cloned())
            .collect();
        let has_failed = !self.problems.is_empty();
        if self.reads_answered == 0 || self.pushed_acked == 0 || self.delivered == 0 {
            doubts.push("nothing was read, pushed or delivered".to_owned());
        }
        self.verdict = match (has_failed, doubts.is_empty()) {
            (true, _) => Verdict::Fail,
            (false, true) => Verdict::Pass,
            (false, false) => Verdict::Unknown,
        };
        self.problems.extend(doubts.iter().cloned());
        (self.gap_problems, self.doubts) = (gaps, doubts);
    }
}
