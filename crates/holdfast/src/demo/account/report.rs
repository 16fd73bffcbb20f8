//! The report of a run: the figures that must add up, and what they amount to.

use serde::Serialize;

/// What a run proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::demo) enum Verdict {
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
pub(in crate::demo) struct FailoverSeen {
    /// In words.
    pub(in crate::demo) fault: String,
    /// The longest time without an answered read, in milliseconds.
    pub(in crate::demo) gap_ms: u64,
}

/// A planned change of leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::demo) struct SwitchoverSeen {
    /// Slots that were not read, all groups together.
    pub(in crate::demo) slots_missed: u64,
}

/// The account of a run. Values are counted where nothing else is said.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(in crate::demo) struct Report {
    /// What it amounts to.
    pub(in crate::demo) verdict: Verdict,
    /// Read *requests* that devices answered with values.
    pub(in crate::demo) reads_answered: u64,
    /// Samples that pushers were told are safe.
    pub(in crate::demo) pushed_acked: u64,
    /// Distinct samples that the HTTP receiver accepted.
    pub(in crate::demo) delivered: u64,
    /// Answered or acknowledged, and neither delivered to every destination nor inside a gap.
    pub(in crate::demo) lost: u64,
    /// Records that came again under the same key, and pushed samples that came under a second one.
    pub(in crate::demo) duplicates: u64,
    /// Samples that came for the first time behind a later one of their tag.
    pub(in crate::demo) out_of_order: u64,
    /// Slots from 0 to the highest known one, all grids together.
    pub(in crate::demo) slots_expected: u64,
    /// Slots with a good sample of every tag.
    pub(in crate::demo) slots_sampled: u64,
    /// Slots with a sample of every tag, at least one of them bad.
    pub(in crate::demo) slots_bad: u64,
    /// Slots in one gap record.
    pub(in crate::demo) slots_in_gaps: u64,
    /// Slots that are in nothing, in part only, or in two things.
    pub(in crate::demo) slots_unaccounted: u64,
    /// Pairs of requests of two nodes at one device at one time.
    pub(in crate::demo) device_overlaps: u64,
    /// Faults after which another node took over.
    pub(in crate::demo) failovers: Vec<FailoverSeen>,
    /// Planned changes of leader.
    pub(in crate::demo) switchovers: Vec<SwitchoverSeen>,
    /// Reigns that nothing explains.
    pub(in crate::demo) spurious_elections: u64,
    /// Why it did not pass, a sentence each.
    pub(in crate::demo) problems: Vec<String>,
}

impl Report {
    /// Comes to a verdict. `wrong`: samples that nobody produced or that were changed; `unfiled`: samples that only
    /// one destination has; `doubts`: why the run proves nothing.
    pub(super) fn judge(&mut self, wrong: u64, unfiled: u64, doubts: &[String]) {
        let faults = [
            (self.lost, "samples were lost"),
            (unfiled, "samples of these were delivered over HTTP and stand in no CSV file"),
            (wrong, "samples arrived that nobody produced, or with another value"),
            (self.out_of_order, "samples came out of order"),
            (self.slots_unaccounted, "slots are not in exactly one sample or gap"),
            (self.device_overlaps, "times two nodes asked one device at one time"),
        ];
        self.problems = faults
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let has_failed = !self.problems.is_empty();
        let mut doubts = doubts.to_vec();
        if self.reads_answered == 0 || self.pushed_acked == 0 || self.delivered == 0 {
            doubts.push("nothing was read, pushed or delivered".to_owned());
        }
        self.verdict = match (has_failed, doubts.is_empty()) {
            (true, _) => Verdict::Fail,
            (false, true) => Verdict::Pass,
            (false, false) => Verdict::Unknown,
        };
        self.problems.append(&mut doubts);
    }
}
