//! Faults that hold for a while: what devices and pushers saw meanwhile, and what two nodes promise that hear each other.
//!
//! - Judged from what devices and pushers saw, which are beside the nodes and never cut off.
//! - That something is acknowledged again is not enough: no silence may be longer than [`GOES_ON`].
//! - Nothing is said of a fault that promises nothing: the account judges it all the same.

use std::collections::BTreeMap;
use std::time::Duration;

use simulator::history::Kind;

use crate::prove::run::RunReport;
use crate::story::Story;

/// The lease of the nodes' profile, and a read that had just been sent when it ended, of which a device of ours that is
/// woken late hears late. Who reads without a lease reads on for much longer.
const LEASE_ENDS: Duration = Duration::from_millis(500 + 500);
/// The same, and how long a pusher waits for an answer at most.
const CALLS_END: Duration = Duration::from_millis(500 + 1_000 + 500);
/// Who acknowledges again does so within this time, and is never silent for longer.
const GOES_ON: Duration = Duration::from_secs(5);

/// A fault that held, in monotonic nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// In words.
    pub(super) what: String,
    /// When it began to be set.
    pub(super) set_ns: u64,
    /// When it began to be healed.
    pub(super) healed_ns: u64,
    /// Whether two nodes heard each other all the time, well enough to agree.
    pub(super) promises: bool,
}

/// What is promised while two nodes hear each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise {
    /// The check on acknowledgements, where a fault holds long enough for one.
    pub(super) acknowledged: &'static str,
    /// The check on leadership.
    pub(super) steady: &'static str,
    /// How often leadership may change hands.
    pub(super) changes: usize,
}

/// What was seen between two moments.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Messages acknowledged after calls that were under way may have ended.
    pub(super) acknowledged: usize,
    /// The longest time without an acknowledgement.
    pub(super) silence: Duration,
    /// Reads answered after the lease may have ended.
    pub(super) reads: usize,
    /// The same of the device that was read least.
    pub(super) fewest_reads: usize,
    /// How often another node read a device than before, at most.
    pub(super) changes: usize,
}

impl Promise {
    /// Enters whether it was kept.
    pub(super) fn judge(&self, report: &mut RunReport, all: &[Held], devices: &[String], story: &Story) {
        let promised: Vec<(&Held, Seen)> = all
            .iter()
            .filter(|held| held.promises)
            .map(|held| (held, Seen::of(held.set_ns, held.healed_ns, devices, story)))
            .collect();
        let long: Vec<_> = promised.iter().filter(|(held, _)| held.time() >= GOES_ON).collect();
        enter(report, self.acknowledged, long, Seen::is_silent);
        enter(report, self.steady, promised.iter().collect(), |seen| seen.changes > self.changes);
        report.figures.insert("faults with two nodes that hear each other".to_owned(), promised.len() as f64);
    }
}

/// Enters a check on what was seen; nothing, where nothing was.
fn enter(report: &mut RunReport, check: &str, seen: Vec<&(&Held, Seen)>, is_wrong: impl Fn(&Seen) -> bool) {
    if seen.is_empty() {
        return;
    }
    let wrong = seen.iter().filter(|(_, seen)| is_wrong(seen));
    let wrong: Vec<String> = wrong.map(|(held, seen)| format!("{}: {seen:?}", held.what)).collect();
    let text = if wrong.is_empty() { format!("{} faults", seen.len()) } else { wrong.join("; ") };
    report.judge(check, wrong.is_empty(), text);
}

impl Held {
    fn time(&self) -> Duration {
        Duration::from_nanos(self.healed_ns.saturating_sub(self.set_ns))
    }
}

impl Seen {
    /// What devices and pushers saw from when a fault was set until it was healed, in monotonic nanoseconds.
    pub(super) fn of(set_ns: u64, healed_ns: u64, devices: &[String], story: &Story) -> Self {
        let behind = |time: Duration| set_ns + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2);
        let (lease_ends, calls_end) = (behind(LEASE_ENDS), behind(CALLS_END));
        let acknowledged = story.acknowledged(calls_end, healed_ns);
        let (mut reads, mut changes) = (BTreeMap::<&str, usize>::new(), BTreeMap::<&str, usize>::new());
        let mut readers = BTreeMap::new();
        for read in story.reads.iter().filter(|read| read.kind == Kind::Ok) {
            let (device, node, at) =
                (read.process.as_str(), read.details.peer.ip(), read.details.first_byte_ns);
            if !(set_ns..healed_ns).contains(&at) {
                continue;
            }
            *reads.entry(device).or_default() += usize::from(at >= lease_ends);
            let before = readers.insert(device, node);
            *changes.entry(device).or_default() += usize::from(before.is_some_and(|before| before != node));
        }
        let of = |device: &String| reads.get(device.as_str()).copied().unwrap_or_default();
        Self {
            acknowledged,
            silence: story.silence(set_ns, healed_ns),
            reads: reads.values().sum(),
            fewest_reads: devices.iter().map(of).min().unwrap_or_default(),
            changes: changes.values().copied().max().unwrap_or_default(),
        }
    }

    /// Whether nothing was acknowledged for too long, or again.
    pub(super) fn is_silent(&self) -> bool {
        self.acknowledged == 0 || self.silence > GOES_ON
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::SocketAddr;

    use simulator::history::Entry;
    use simulator::modbus::ReadSeen;
    use simulator::pusher::PushNote;

    use super::*;
    use crate::prove::run::Verdict;

    pub(in crate::prove::classes) const SECOND: u64 = 1_000_000_000;
    const PROMISE: Promise = Promise { acknowledged: "acknowledged", steady: "steady", changes: 1 };

    fn entry<D>(t_ns: u64, process: &str, op: &str, details: D) -> Entry<D> {
        Entry { t_ns, process: process.to_owned(), kind: Kind::Ok, op: op.to_owned(), details }
    }

    /// A device answers a node.
    pub(in crate::prove::classes) fn read(at: u64, device: &str, node: u8) -> Entry<ReadSeen> {
        let details = ReadSeen {
            peer: SocketAddr::from(([10, 130, 0, node], 4711)),
            unit: 1,
            function: 3,
            start: 0,
            count: 24,
            ordinal: 1,
            first_byte_ns: at,
            last_byte_ns: at + 1,
            exception: None,
            hash: 0,
        };
        entry(at + 1, device, "read", details)
    }

    /// A message of a pusher is acknowledged.
    pub(in crate::prove::classes) fn push(at: u64) -> Entry<PushNote> {
        entry(at, "robot", "push", PushNote::default())
    }

    /// The names of checks that fail.
    pub(in crate::prove::classes) fn failed(report: RunReport) -> Vec<String> {
        let failed = report.findings.into_iter().filter(|finding| finding.verdict == Verdict::Failed);
        failed.map(|finding| finding.check).collect()
    }

    /// What is found of a fault that holds from the tenth second on, for so many.
    fn judged(seconds: u64, promises: bool, nodes: &[u8], pushes: Vec<Entry<PushNote>>) -> RunReport {
        let healed_ns = (10 + seconds) * SECOND;
        let held = Held { what: "so".to_owned(), set_ns: 10 * SECOND, healed_ns, promises };
        let read = |(at, node): (u64, &u8)| read(10 * SECOND + at, "press-1", *node);
        let story = Story { reads: (1..).zip(nodes).map(read).collect(), pushes, records: Vec::new() };
        let mut report = RunReport::new("wires", 1);
        PROMISE.judge(&mut report, &[held], &["press-1".to_owned()], &story);
        report
    }

    #[test]
    fn where_two_hear_each_other_messages_are_acknowledged_and_leadership_hardly_changes() {
        let late = || vec![push(14 * SECOND)];
        assert_eq!(failed(judged(5, true, &[11, 12], late())), Vec::<String>::new());
        assert_eq!(failed(judged(5, true, &[11, 12, 11], late())), ["steady"]);
        assert_eq!(
            failed(judged(5, true, &[11], vec![push(11 * SECOND), push(15 * SECOND)])),
            ["acknowledged"]
        );
    }

    #[test]
    fn an_acknowledgement_now_and_then_is_not_enough() {
        let pushes = |seconds: &[u64]| seconds.iter().map(|second| push(second * SECOND)).collect::<Vec<_>>();
        assert_eq!(failed(judged(10, true, &[11], pushes(&[13, 18]))), Vec::<String>::new());
        for silent in [&[16][..], &[12, 13], &[13, 19]] {
            assert_eq!(failed(judged(10, true, &[11], pushes(silent))), ["acknowledged"], "{silent:?}");
        }
    }

    #[test]
    fn nothing_is_said_of_what_promises_nothing_and_of_acknowledgements_in_a_moment() {
        assert!(judged(5, false, &[11, 12, 11], Vec::new()).findings.is_empty());
        let moment = judged(4, true, &[11], Vec::new());
        assert_eq!((moment.findings.len(), failed(moment)), (1, Vec::new()));
    }
}
