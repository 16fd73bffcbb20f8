//! Slots that are missed while nothing is done: what a busy machine takes by itself.
//!
//! - The account finds them: gaps that blame a slow scan, a device, a lost majority or a process that stood still, outside of
//!   everything that was done to the cluster or to a device, and not in the two seconds behind it.
//! - They may be a small share of all slots of that time, or one hiccup of the machine where that is more: runs are short.

use std::collections::BTreeSet;

use simulator::account::Calm;

use super::run::RunReport;

const HARDLY: &str = "I7 hardly a slot is missed while nothing is done";
/// Three devices that are read ten times a second, for half a second.
const HICCUP: u64 = 15;
/// What a gap may blame on a busy machine: always among the figures.
const CAUSES: [&str; 4] = ["late", "device-down", "no-quorum", "paused"];

/// Enters what was missed; so much of a hundred slots may be.
pub fn judge(report: &mut RunReport, calm: &Calm, most_percent: u64) {
    let Calm { slots, missed } = calm;
    let causes: BTreeSet<&str> = CAUSES.into_iter().chain(missed.keys().map(String::as_str)).collect();
    for cause in causes {
        let count = missed.get(cause).copied().unwrap_or_default();
        let percent = if *slots == 0 { 0.0 } else { count as f64 * 100.0 / *slots as f64 };
        report.figures.insert(format!("missed while nothing was done by `{cause}`, %"), percent);
    }
    report.figures.insert("slots while nothing was done".to_owned(), *slots as f64);
    let all: u64 = missed.values().sum();
    let most = (slots * most_percent / 100).max(HICCUP);
    let text = format!("{all} of {slots} slots, {most} allowed: {missed:?}");
    report.judge(HARDLY, all <= most, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prove::run::Verdict;

    fn judged(slots: u64, late: u64, paused: u64) -> RunReport {
        let missed = [("late", late), ("paused", paused)].map(|(cause, slots)| (cause.to_owned(), slots));
        let mut report = RunReport::new("kills", 1);
        judge(&mut report, &Calm { slots, missed: missed.into() }, 2);
        report
    }

    #[test]
    fn more_than_a_small_share_of_the_slots_fails_the_run() {
        for (slots, late, paused, verdict) in [
            (10_000, 150, 50, Verdict::Passed),
            (10_000, 150, 51, Verdict::Failed),
            (100, 15, 0, Verdict::Passed),
            (100, 15, 1, Verdict::Failed),
            (0, 0, 0, Verdict::Passed),
        ] {
            assert_eq!(judged(slots, late, paused).verdict(), verdict, "{late} and {paused} of {slots}");
        }
    }

    #[test]
    fn the_share_of_each_cause_is_a_figure_also_where_it_is_none() {
        let report = judged(1_000, 15, 0);
        let share = |cause: &str| report.figures[&format!("missed while nothing was done by `{cause}`, %")];
        assert_eq!(
            [share("late"), share("paused"), share("no-quorum"), share("device-down")],
            [1.5, 0.0, 0.0, 0.0]
        );
    }
}
