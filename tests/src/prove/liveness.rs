//! How soon a cluster is whole again after each fault, and how long it is silent meanwhile: one judge for every class.
//!
//! - A class declares its bounds ([`super::profile::Class::bounds`]); [`Bounds::USUAL`] is what it has that says nothing.
//! - A fault ends when what was done is undone: wires are whole, a disk has room, a process was started again. From then on
//!   time counts until nodes say that the cluster is whole, and until a push is acknowledged, every device is read and
//!   something new is delivered. What nodes say decides nothing alone: each of the four must come in time.
//! - While a majority stays, acknowledgements go on: no silence between a fault's beginning and the moment at which the
//!   cluster was whole again may be longer than the class says. Which fault leaves a majority the fault itself says, and a
//!   class that promises nothing says why.
//! - Judged by what pushers, devices and the receiver saw. A fault after which the cluster was not whole has failed
//!   elsewhere, and is not judged here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use simulator::history::Kind;

use super::run::RunReport;
use crate::story::longest_silence;

const AGAIN: &str = "I17 whole, acknowledged, read and delivered again in time after every fault";
const LIVE: &str = "I10 acknowledgements go on wherever a majority stays";
const SILENCE: &str = "longest time without an acknowledgement where a majority stays, ms";

/// What a class promises of the time after its faults, and of the time in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// From the end of a fault until all is as before, on a machine that does much else.
    pub recovery: Duration,
    /// Without an acknowledgement while a majority stays.
    pub silence: Silence,
    /// Elections in a run that nobody caused and nothing excuses.
    pub elections: usize,
    /// Of a hundred slots: so many may be missed while nothing is done.
    pub missed_percent: u64,
}

/// How long nothing may be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// For so long, in faults that leave a majority.
    AtMost(Duration),
    /// The class promises nothing, for this reason.
    Unpromised(&'static str),
}

/// A fault, in monotonic nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// When it began.
    pub began_ns: u64,
    /// Whether two nodes stay that hear each other and can do their work, all the time.
    pub is_live: bool,
    /// Each end of it: when what was done was undone, and when the cluster was whole again.
    pub ends: Vec<(u64, u64)>,
}

/// When things came, in monotonic nanoseconds, each list ascending.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pulse {
    /// Acknowledgements of pushes.
    acknowledged: Vec<u64>,
    /// Answered reads of each device.
    reads: BTreeMap<String, Vec<u64>>,
    /// Records that came to the receiver for the first time.
    delivered: Vec<u64>,
}

/// What is looked at in a line of a history.
#[derive(Deserialize)]
struct Line<'a> {
    t_ns: u64,
    #[serde(borrow)]
    process: Cow<'a, str>,
    kind: Kind,
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(default)]
    is_new: bool,
}

/// The longest times until something came again; `None` if it never did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Slowest(Option<Duration>);

impl Bounds {
    /// An election takes two seconds at most, and a process that starts as long; the rest is for a machine with two
    /// processors that does much else.
    pub const USUAL: Self = Self {
        recovery: Duration::from_secs(15),
        silence: Silence::AtMost(Duration::from_secs(10)),
        elections: 0,
        missed_percent: 2,
    };
}

impl Span {
    /// A fault that begins now and promises nothing yet.
    pub fn begun(began_ns: u64) -> Self {
        Self { began_ns, is_live: false, ends: Vec::new() }
    }
}

impl Pulse {
    /// Reads a history, in which these devices must be read.
    pub fn read(history: &Path, devices: &[String]) -> io::Result<Self> {
        let mut pulse = Self::of(devices);
        for line in BufReader::new(File::open(history)?).lines() {
            pulse.enter(&line?)?;
        }
        pulse.acknowledged.sort_unstable();
        pulse.reads.values_mut().for_each(|moments| moments.sort_unstable());
        pulse.delivered.sort_unstable();
        Ok(pulse)
    }

    fn of(devices: &[String]) -> Self {
        let reads = devices.iter().map(|device| (device.clone(), Vec::new())).collect();
        Self { reads, ..Self::default() }
    }

    fn enter(&mut self, line: &str) -> io::Result<()> {
        let Line { t_ns, process, kind, op, is_new } = serde_json::from_str(line)?;
        match (&*op, kind) {
            ("push", Kind::Ok) => self.acknowledged.push(t_ns),
            ("read", Kind::Ok) => self.reads.entry(process.into_owned()).or_default().push(t_ns),
            ("sample" | "gap" | "opening", _) if is_new => self.delivered.push(t_ns),
            _ => {}
        }
        Ok(())
    }

    /// How long it took from a moment until every device had been read.
    fn read_after(&self, from_ns: u64) -> Option<Duration> {
        let each = self.reads.values().map(|moments| next(moments, from_ns));
        each.collect::<Option<Vec<Duration>>>()?.into_iter().max()
    }
}

/// How long it took from a moment until something came; `None` if nothing did any more.
fn next(moments: &[u64], from_ns: u64) -> Option<Duration> {
    let at = moments.partition_point(|moment| *moment < from_ns);
    moments.get(at).map(|moment| Duration::from_nanos(moment - from_ns))
}

impl Slowest {
    fn of(times: impl IntoIterator<Item = Option<Duration>>) -> Self {
        let all: Option<Vec<Duration>> = times.into_iter().collect();
        Self(all.map(|all| all.into_iter().max().unwrap_or_default()))
    }

    fn is_within(self, bound: Duration) -> bool {
        self.0.is_some_and(|time| time <= bound)
    }

    fn told(self) -> String {
        self.0.map_or_else(|| "never".to_owned(), |time| format!("{} ms", time.as_millis()))
    }
}

/// Enters how soon the cluster was whole again after each fault, and how long it was silent meanwhile.
pub fn judge(report: &mut RunReport, bounds: &Bounds, spans: &[Span], pulse: &Pulse) {
    recovery(report, bounds.recovery, spans, pulse);
    silence(report, bounds.silence, spans, pulse);
}

fn recovery(report: &mut RunReport, bound: Duration, spans: &[Span], pulse: &Pulse) {
    let ends: Vec<(u64, u64)> = spans.iter().flat_map(|span| span.ends.iter().copied()).collect();
    // A fault that has no end has failed as such.
    if ends.is_empty() {
        return;
    }
    let after =
        |came: &dyn Fn(u64) -> Option<Duration>| Slowest::of(ends.iter().map(|(end_ns, _)| came(*end_ns)));
    let whole =
        ends.iter().map(|(end_ns, whole_ns)| Some(Duration::from_nanos(whole_ns.saturating_sub(*end_ns))));
    let measured = [
        ("whole", "longest recovery, ms", Slowest::of(whole)),
        (
            "acknowledged",
            "longest until acknowledged again, ms",
            after(&|end_ns| next(&pulse.acknowledged, end_ns)),
        ),
        ("read", "longest until read again, ms", after(&|end_ns| pulse.read_after(end_ns))),
        ("delivered", "longest until delivered again, ms", after(&|end_ns| next(&pulse.delivered, end_ns))),
    ];
    for (_, figure, slowest) in &measured {
        if let Some(time) = slowest.0 {
            report.figures.insert((*figure).to_owned(), time.as_secs_f64() * 1e3);
        }
    }
    let told: Vec<String> =
        measured.iter().map(|(what, _, slowest)| format!("{what} after {}", slowest.told())).collect();
    let holds = measured.iter().all(|(_, _, slowest)| slowest.is_within(bound));
    let text = format!("{} ends, at the latest {}; {bound:?} are allowed", ends.len(), told.join(", "));
    report.judge(AGAIN, holds, text);
}

fn silence(report: &mut RunReport, bound: Silence, spans: &[Span], pulse: &Pulse) {
    let bound = match bound {
        Silence::AtMost(bound) => bound,
        Silence::Unpromised(_) => return,
    };
    let silent = |span: &Span| {
        let whole_ns = span.ends.iter().map(|(_, whole_ns)| *whole_ns).max()?;
        Some(longest_silence(pulse.acknowledged.iter().copied(), span.began_ns, whole_ns))
    };
    let silences: Vec<Duration> = spans.iter().filter(|span| span.is_live).filter_map(silent).collect();
    // Nothing is said of what was not drawn.
    let Some(longest) = silences.iter().max().copied() else { return };
    let millis = longest.as_secs_f64() * 1e3;
    report.figures.insert(SILENCE.to_owned(), millis);
    let text = format!(
        "{} faults, {millis:.0} ms without an acknowledgement at the longest; {bound:?} are allowed",
        silences.len()
    );
    report.judge(LIVE, longest <= bound, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prove::profile::Class;
    use crate::prove::run::Verdict;

    const SECOND: u64 = 1_000_000_000;
    const BOUNDS: Bounds = Bounds {
        recovery: Duration::from_secs(5),
        silence: Silence::AtMost(Duration::from_secs(3)),
        ..Bounds::USUAL
    };

    /// A fault from the tenth second to the twentieth, whole again two seconds later.
    fn span(is_live: bool) -> Span {
        Span { began_ns: 10 * SECOND, is_live, ends: vec![(20 * SECOND, 22 * SECOND)] }
    }

    /// Everything comes every second, until the thirtieth.
    fn pulse() -> Pulse {
        let every: Vec<u64> = (0..30).map(|second| second * SECOND).collect();
        let reads = ["press-1", "press-2"].map(|device| (device.to_owned(), every.clone()));
        Pulse { acknowledged: every.clone(), reads: reads.into(), delivered: every }
    }

    /// Nothing comes from one second up to another.
    fn without(moments: &mut Vec<u64>, from: u64, until: u64) {
        moments.retain(|moment| !(from * SECOND..until * SECOND).contains(moment));
    }

    fn judged(spans: &[Span], pulse: &Pulse) -> RunReport {
        let mut report = RunReport::new("kills", 1);
        judge(&mut report, &BOUNDS, spans, pulse);
        report
    }

    fn failed(spans: &[Span], pulse: &Pulse) -> Vec<String> {
        let findings = judged(spans, pulse).findings.into_iter();
        findings.filter(|finding| finding.verdict == Verdict::Failed).map(|finding| finding.check).collect()
    }

    #[test]
    fn a_cluster_that_comes_back_in_time_passes_and_its_times_are_figures() {
        let report = judged(&[span(true)], &pulse());
        assert_eq!(report.verdict(), Verdict::Passed, "{:?}", report.findings);
        assert_eq!(report.figures["longest recovery, ms"], 2_000.0);
        assert_eq!(report.figures["longest until read again, ms"], 0.0);
        assert_eq!(report.figures[SILENCE], 1_000.0);
    }

    #[test]
    fn each_thing_that_comes_again_too_late_or_never_fails_the_run() {
        type Spoil = fn(&mut Pulse, u64);
        let spoilt: [Spoil; 3] = [
            |pulse, until| without(&mut pulse.acknowledged, 20, until),
            |pulse, until| without(pulse.reads.get_mut("press-2").expect("a device"), 20, until),
            |pulse, until| without(&mut pulse.delivered, 20, until),
        ];
        for (place, spoil) in spoilt.into_iter().enumerate() {
            for (until, holds) in [(25, true), (26, false), (99, false)] {
                let mut pulse = pulse();
                spoil(&mut pulse, until);
                assert_eq!(failed(&[span(false)], &pulse).is_empty(), holds, "{place}, until {until}");
            }
        }
        let late = Span { ends: vec![(20 * SECOND, 26 * SECOND)], ..span(false) };
        assert_eq!(failed(&[span(false), late], &pulse()), [AGAIN], "nodes say so too late");
    }

    #[test]
    fn a_device_that_is_never_read_fails_the_run() {
        let mut unread = pulse();
        unread.reads.insert("press-3".to_owned(), Vec::new());
        assert_eq!(failed(&[span(false)], &unread), [AGAIN]);
    }

    #[test]
    fn silence_counts_only_where_a_majority_stays() {
        let mut silent = pulse();
        without(&mut silent.acknowledged, 12, 15);
        assert_eq!(failed(&[span(true)], &silent), [LIVE], "four seconds");
        assert_eq!(failed(&[span(false)], &silent), Vec::<String>::new());
        let mut across = pulse();
        without(&mut across.acknowledged, 18, 22);
        assert_eq!(failed(&[span(true)], &across), [LIVE], "also where a fault ends in the middle of it");
        let mut report = RunReport::new("leases", 1);
        let unpromised = Bounds { silence: Silence::Unpromised("so"), ..BOUNDS };
        judge(&mut report, &unpromised, &[span(true)], &silent);
        assert_eq!(report.verdict(), Verdict::Passed);
    }

    #[test]
    fn a_fault_without_an_end_is_not_judged_here() {
        assert!(judged(&[Span::begun(SECOND)], &pulse()).findings.is_empty());
    }

    #[test]
    fn a_history_says_what_came_when() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("history.jsonl");
        let lines = [
            r#"{"t_ns":7,"process":"robot","kind":"ok","op":"push","number":0}"#,
            r#"{"t_ns":5,"process":"robot","kind":"ok","op":"push","number":1}"#,
            r#"{"t_ns":6,"process":"robot","kind":"invoke","op":"push","number":2}"#,
            r#"{"t_ns":8,"process":"press-1","kind":"ok","op":"read","peer":"10.0.0.1:5"}"#,
            r#"{"t_ns":9,"process":"press-1","kind":"info","op":"read","peer":"10.0.0.1:5"}"#,
            r#"{"t_ns":10,"process":"historian","kind":"ok","op":"sample","is_new":true,"record":{}}"#,
            r#"{"t_ns":11,"process":"historian","kind":"ok","op":"sample","is_new":false,"record":{}}"#,
        ];
        std::fs::write(&path, lines.join("\n")).expect("room");
        let devices = ["press-1", "press-2"].map(str::to_owned);
        let pulse = Pulse::read(&path, &devices).expect("a history");
        let [first, second] = devices;
        let reads = BTreeMap::from([(first, vec![8]), (second, Vec::new())]);
        assert_eq!(pulse, Pulse { acknowledged: vec![5, 7], reads, delivered: vec![10] });
    }

    #[test]
    fn every_class_declares_its_bounds_or_says_why_not() {
        for class in Class::ALL {
            match class.bounds() {
                Ok(bounds) => assert!(bounds.recovery >= Bounds::USUAL.recovery, "{class} is stricter"),
                Err(why) => assert!(!why.is_empty(), "{class}"),
            }
        }
    }
}
