//! Elections that nobody caused: reigns that begin while nothing is done to the cluster.
//!
//! - The account finds them, by what devices and the receiver saw: a fault explains every reign that begins in it, or while
//!   it settles.
//! - One that follows a time in which this machine stood still is excused, and counted by itself.
//! - A run that does not know whether the machine stood still, because it was made before that was measured, does not judge
//!   them.

use std::time::Duration;

use simulator::account::Uncaused;

use super::observed::Observations;
use super::run::RunReport;

const CALM: &str = "I10 nobody is elected while nothing is done, but where the machine stood still";

/// Enters reigns that nobody caused; so many may remain that nothing excuses.
pub fn judge(report: &mut RunReport, uncaused: &[Uncaused], seen: &Observations, most: usize) {
    let (excused, left): (Vec<&Uncaused>, Vec<&Uncaused>) =
        uncaused.iter().partition(|reign| seen.stood_still_before(reign.began_ns));
    for (name, count) in [
        ("elections outside of faults", left.len()),
        ("elections behind a machine that stood still", excused.len()),
    ] {
        report.figures.insert(name.to_owned(), count as f64);
    }
    let longest = seen.longest_stall();
    if let Some(longest) = longest {
        let name = "longest time in which the machine stood still, ms".to_owned();
        report.figures.insert(name, longest.as_secs_f64() * 1e3);
    }
    let told: Vec<String> = left
        .iter()
        .map(|reign| format!("{} in term {}, at {} ns", reign.node, reign.term, reign.began_ns))
        .collect();
    let text = format!(
        "{} of them, {most} allowed, {} excused; the machine stood still for {:?} at most {}",
        left.len(),
        excused.len(),
        longest.unwrap_or(Duration::ZERO),
        told.join("; ")
    );
    let text = text.trim_end();
    match longest {
        None if left.len() > most => {
            report.skipped(CALM, format!("whether the machine stood still is not known: {text}"));
        }
        _ => report.judge(CALM, left.len() <= most, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prove::run::Verdict;

    const SECOND: u64 = 1_000_000_000;

    fn verdict(began: &[u64], seen: &Observations, most: usize) -> Verdict {
        let reign = |second: &u64| Uncaused { term: 7, node: "node-2".to_owned(), began_ns: second * SECOND };
        let uncaused: Vec<Uncaused> = began.iter().map(reign).collect();
        let mut report = RunReport::new("kills", 1);
        judge(&mut report, &uncaused, seen, most);
        report.findings[0].verdict
    }

    #[test]
    fn an_election_that_nobody_caused_fails_the_run_unless_the_machine_stood_still() {
        let awake = Observations::of_stall(9 * SECOND, 1_000_000);
        let still = Observations::of_stall(9 * SECOND, SECOND / 2);
        assert_eq!(verdict(&[], &awake, 0), Verdict::Passed);
        assert_eq!(verdict(&[10], &awake, 0), Verdict::Failed);
        assert_eq!(verdict(&[10], &awake, 1), Verdict::Passed, "the class allows one");
        assert_eq!(verdict(&[10], &still, 0), Verdict::Passed);
        assert_eq!(verdict(&[10, 20], &still, 0), Verdict::Failed, "that was long before");
    }

    #[test]
    fn what_was_made_before_that_was_measured_is_not_judged() {
        let unknown = Observations::default();
        assert_eq!(verdict(&[10], &unknown, 0), Verdict::Skipped);
        assert_eq!(verdict(&[], &unknown, 0), Verdict::Passed);
    }

    #[test]
    fn they_are_always_counted() {
        let mut report = RunReport::new("kills", 1);
        judge(&mut report, &[], &Observations::default(), 0);
        assert_eq!(report.figures["elections outside of faults"], 0.0);
    }
}
