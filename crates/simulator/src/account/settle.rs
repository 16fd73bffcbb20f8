//! The account at the end: what adds up, what does not, and what is only worth a note.

use std::collections::BTreeMap;

use super::polled::{Clocks, DeviceBook};
use super::pushed::PusherBook;
use super::reigns::Reign;
use super::{Account, Effect, FailoverSeen, Report, SwitchoverSeen};

/// How exactly the machine's wall clock is known against its monotonic one.
const EXACT_NS: i64 = 1_000_000;

impl Account {
    /// The account at the end: what is pending now has been lost.
    pub fn settle(&self) -> Report {
        let mut report = Report {
            delivered: self.delivered,
            duplicates: self.duplicates,
            filed_twice: self.filed_twice,
            out_of_order: self.out_of_order,
            device_overlaps: self.overlaps,
            requests_astray: self.requests_astray(),
            uncaused: self.uncaused(),
            stale_reigns: self.reigns.stale(),
            conflicts: self.conflicts,
            keys_astray: self.keys.astray(),
            records_unfiled: if self.has_files { self.named.unfiled() } else { 0 },
            records_filed_twice: self.named.filed_twice(),
            ..Report::default()
        };
        let (mut wrong, mut hidden) = (self.phantoms, 0);
        let clocks = self.clocks();
        report.times_astray = self.devices.values().map(|book| book.times_astray(&clocks)).sum();
        report.notes.extend(note_of_clock(self.wall_moved));
        for tally in self.devices.values().map(DeviceBook::settle) {
            report.reads_answered += tally.reads;
            report.lost += tally.lost + tally.pending;
            report.slots_expected += tally.expected;
            report.slots_sampled += tally.sampled;
            report.slots_bad += tally.bad;
            report.slots_in_gaps += tally.in_gaps;
            report.slots_unaccounted += tally.unaccounted;
            report.keys_astray += tally.rekeyed;
            wrong += tally.wrong;
            hidden += tally.hidden;
        }
        for tally in self.pushers.values().map(PusherBook::settle) {
            report.pushed_acked += tally.acknowledged;
            report.lost += tally.lost + tally.pending;
            report.duplicates += tally.again;
            wrong += tally.wrong;
        }
        for fault in &self.faults {
            match fault.effect {
                Effect::Failover => report.failovers.push(FailoverSeen {
                    fault: fault.name.clone(),
                    gap_ms: self.longest_silence(fault.began_ns, fault.taken_over_ns) / 1_000_000,
                }),
                Effect::Switchover => {
                    let missed = self.slots_missed(fault.began_ns, fault.taken_over_ns);
                    report.notes.extend(note_of_switchover(&fault.name, &missed));
                    report.switchovers.push(SwitchoverSeen { slots_missed: missed.values().sum() });
                }
                Effect::None => {}
            }
        }
        let spurious = self.spurious_elections();
        report.spurious_elections = spurious.len() as u64;
        report.notes.extend(spurious.into_iter().map(|(term, reign)| note_of_election(term, reign)));
        let unfiled = if self.has_files { self.unfiled() } else { 0 };
        report.lost += unfiled;
        let gaps = self.judge_gaps(report.slots_expected, hidden);
        report.notes.extend(gaps.notes);
        report.calm = gaps.calm;
        let doubts = self.misread.iter().chain(&self.doubts).cloned().collect();
        report.judge(wrong, unfiled, gaps.problems, doubts);
        report
    }

    fn clocks(&self) -> Clocks<'_> {
        let (start, end) = (self.wall_offset, self.wall_offset.saturating_add(self.wall_moved));
        let (least, most) =
            (start.min(end).saturating_sub(EXACT_NS), start.max(end).saturating_add(EXACT_NS));
        Clocks { least, most, set: &self.clocks }
    }

    /// Reigns that no fault explains, with their terms.
    fn spurious_elections(&self) -> Vec<(u64, &Reign)> {
        let over = self.faults.iter().map(|fault| (fault.effect, fault.began_ns, fault.ended_ns));
        let begun = self.begun.iter().map(|begun| (begun.effect, begun.began_ns, u64::MAX));
        let disturbed = self.disturbed_windows().map(|(from, to)| (Effect::Failover, from, to));
        let causes = over
            .chain(begun)
            .chain(disturbed)
            .filter(|(effect, ..)| *effect != Effect::None)
            .map(|(_, began_ns, ended_ns)| self.wall(began_ns)..=self.wall(ended_ns));
        self.reigns.unexplained(causes.collect())
    }
}

fn note_of_election(term: u64, reign: &Reign) -> String {
    let node = reign.node().unwrap_or("a node");
    format!("an election that nobody caused: {node} led in term {term} from {}", reign.began())
}

fn note_of_clock(moved: i64) -> Option<String> {
    let is_worth_it = moved.abs() > EXACT_NS;
    is_worth_it.then(|| format!("this machine's own wall clock was set meanwhile, by {moved} ns"))
}

fn note_of_switchover(name: &str, missed: &BTreeMap<String, u64>) -> Option<String> {
    let causes: Vec<String> = missed.iter().map(|(cause, slots)| format!("{cause} {slots}")).collect();
    (!causes.is_empty()).then(|| format!("slots missed at the {name}: {}", causes.join(", ")))
}
