//! What nodes say of themselves while a run goes on, and what their processes use: written down, and judged afterwards.
//!
//! - Written as a history of its own ([`OBSERVED`]): it can be judged again, with that of the plant.
//! - Nobody is asked for it: whoever watches the nodes asks them ten times a second anyway, and half of that is written
//!   down. Processes and files are looked at from outside, once a second.
//! - How late this process itself is woken says whether the machine stood still.
//! - What a node says is held against what was said before, against what the receiver accepted, and against which files
//!   were finished. It proves nothing else.
//!
//! What may go back, and what may not (I13):
//!
//! - Within one life of a process nothing may: no term, and none of the positions floor, horizon, applied, committed.
//! - From one life to the next positions may. What is committed is on a majority, to which this node need not belong. That
//!   it is, and what was applied, is written without a sync: the log brings both back.
//! - So may the term of a leader that a node has only heard of: its own vote may still be on its way to the disk. The term
//!   in which it led with a lease may not: it voted for itself, durably, before anybody else could elect it.
//! - What any node has called committed is in the log of whoever leads with a lease at a later look: that lease says that
//!   nobody was elected since. At the end it is in the logs of a majority ([`super::remains`]).

mod stalls;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::{Position, SampleKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use simulator::history::{self, Entry, History, Kind};
use simulator::nodes::Nodes;
use simulator::nodes::cluster::View;
use simulator::nodes::layout::NodePlan;
use simulator::nodes::process::Lives;
use store::engine::rocks::size_of_directory;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::Instant;
use wire::proto::v1 as pb;
use wire::times::nanos_from_proto;

use self::stalls::{STALLED, Stall};
use super::campaign::FILES;
use super::run::RunReport;

/// Below the folder of a run.
pub const OBSERVED: &str = "observed.jsonl";
const SAID: &str = "said";
const USED: &str = "used";
const FILED: &str = "filed";
/// Less than two looks of whoever watches the nodes.
const SAY_EVERY: Duration = Duration::from_millis(150);
const USE_EVERY: Duration = Duration::from_secs(1);
/// What is told of a check that does not hold.
const TOLD: usize = 5;

const BACK: &str = "I13 no term and no position goes back, and who leads has what was committed";
const PASSED: &str = "I14 no cursor passes what its destination has acknowledged";
const LINE: &str = "I18 floor, horizon, cursors and what is applied keep their order at every look";
const BUDGETS: &str = "I19 memory, threads, files and disk of each node keep within their bounds";

const MIB: u64 = 1 << 20;
/// Half as much again as `[limits] memory` says where it says nothing: where docs/monitoring.md has systems end a node.
const MOST_MEMORY: u64 = 768 * MIB;
/// Both runtimes have a thread for each processor, RocksDB and the store have some each, and what blocks has those that
/// it needs at one time.
const MOST_THREADS: u64 = 64;
const THREADS_PER_CORE: u64 = 4;
/// What most systems let a process have if nobody asks for more.
const MOST_FILES: u64 = 1024;
/// A write-ahead log of 64 MiB, entries from the checkpoint before the last one on (64 MiB each) and the file behind them,
/// and as much again for what is about to be given back; without the reserve.
const MOST_DISK: u64 = 512 * MIB;

/// What a node said of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    /// When it was asked, in monotonic nanoseconds; it had answered at the time of the line.
    asked_ns: u64,
    /// In which life of its process; `None` if another one began meanwhile.
    life: Option<u32>,
    /// The leader's term, if it knew of one.
    term: Option<u64>,
    /// It led, and its lease was live.
    leads: bool,
    floor: u64,
    horizon: u64,
    applied: u64,
    committed: u64,
    last: u64,
    destinations: Vec<DestinationSaid>,
}

/// What a node said of a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct DestinationSaid {
    id: String,
    /// It is the HTTP receiver; the other one writes CSV files.
    is_http: bool,
    is_required: bool,
    /// The entry that holds the next record to deliver.
    cursor: u64,
}

/// What a node's process used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Used {
    resident_bytes: u64,
    threads: u64,
    files: u64,
    /// Of its data directory, without the reserve; `None` while its disk does not answer.
    disk_bytes: Option<u64>,
}

/// What stood in finished files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Filed {
    /// The entry of the last record.
    position: u64,
}

/// Finished files that were read: name, length, and the entry of the last record. They do not change, but one that was
/// never acknowledged may come again.
type Finished = BTreeMap<(PathBuf, u64), u64>;

/// Writes down what nodes say and use, until it is ended.
#[derive(Debug)]
pub struct Observer {
    history: History,
    path: PathBuf,
    watching: JoinSet<()>,
}

/// What was written down.
#[derive(Debug, Default)]
pub struct Observations {
    said: Vec<Entry<Said>>,
    used: Vec<Entry<Used>>,
    filed: Vec<Entry<Filed>>,
    /// Of every second; nothing in what was written before it was measured.
    stalled: Vec<Entry<Stall>>,
}

/// The highest that nodes have said.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Highest {
    /// What any of them called committed.
    pub committed: Position,
    /// The last term in which each of them led with a lease.
    pub led: BTreeMap<String, u64>,
}

impl Observer {
    /// Begins to write to a file in `folder`.
    pub fn start(nodes: &Nodes, folder: &Path) -> io::Result<Self> {
        let path = folder.join(OBSERVED);
        let history = History::create(&path)?;
        let plans = nodes.layout.nodes.iter().cloned();
        let watch = Watch {
            history: history.clone(),
            nodes: plans.zip(nodes.lives().iter().cloned()).collect(),
            files: folder.join(FILES),
        };
        let mut watching = JoinSet::new();
        watching.spawn(watch.run(nodes.views()));
        watching.spawn(stalls::watch(history.clone()));
        Ok(Self { history, path, watching })
    }

    /// Ceases to look; what was seen.
    pub async fn end(mut self) -> io::Result<Observations> {
        self.watching.abort_all();
        while let Some(ended) = self.watching.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                return Err(io::Error::other(error));
            }
        }
        self.history.flush()?;
        Observations::read(&self.path)
    }
}

/// Looks at the nodes.
struct Watch {
    history: History,
    nodes: Vec<(NodePlan, Lives)>,
    files: PathBuf,
}

impl Watch {
    /// Looks until nobody watches the nodes any more.
    async fn run(self, mut views: watch::Receiver<View>) {
        let (mut said_at, mut used_at) = (None, None);
        let mut finished = Finished::new();
        while views.changed().await.is_ok() {
            let now = Instant::now();
            let is_due = |last: Option<Instant>, every: Duration| last.is_none_or(|last| now - last >= every);
            if is_due(said_at, SAY_EVERY) {
                said_at = Some(now);
                self.note_said(&views.borrow());
            }
            if is_due(used_at, USE_EVERY) {
                used_at = Some(now);
                finished = self.note_used(finished).await;
            }
        }
    }

    fn note_said(&self, view: &View) {
        let answers = view.nodes.iter().zip(&view.lives);
        for ((plan, _), (status, life)) in self.nodes.iter().zip(answers) {
            let said = status.as_ref().and_then(|status| Said::of(status, view.asked_ns, *life));
            if let Some(said) = said {
                self.history.record_at(view.answered_ns, &plan.name, Kind::Ok, SAID, &said);
            }
        }
    }

    /// Looks at processes and files; with the files that are finished.
    async fn note_used(&self, mut finished: Finished) -> Finished {
        let runs =
            |(plan, lives): &(NodePlan, Lives)| Some((plan.name.clone(), plan.data.clone(), lives.now().id?));
        let running: Vec<(String, PathBuf, u32)> = self.nodes.iter().filter_map(runs).collect();
        let files = self.files.clone();
        let looking = spawn_blocking(move || {
            let look = |(name, data, id): (String, PathBuf, u32)| (name, Used::of(id, &data));
            let used: Vec<_> = running.into_iter().map(look).collect();
            let filed = Filed::of(&files, &mut finished);
            (used, filed, finished)
        });
        let (used, filed, finished) = looking.await.expect("who looks at files does not panic");
        // What cannot be looked at is not written down: a check that has seen nothing fails.
        if let Ok(filed) = filed {
            self.history.record(FILES, Kind::Ok, FILED, &filed);
        }
        for (name, used) in used {
            // One that has just ended is no process any more.
            if let Ok(used) = used {
                self.history.record(&name, Kind::Ok, USED, &used);
            }
        }
        finished
    }
}

impl Said {
    /// `None` if the node says nothing of its buffer.
    fn of(status: &pb::ClusterStatus, asked_ns: u64, life: Option<u32>) -> Option<Self> {
        let buffer = status.buffer.as_ref()?;
        let leader = status.leader.as_ref();
        let has_lease =
            |leader: &pb::Leader| leader.lease.as_ref().is_some_and(|lease| nanos_from_proto(lease) > 0);
        let destination = |destination: &pb::Destination| {
            Some(DestinationSaid {
                id: destination.id.clone(),
                is_http: destination.kind == "http",
                is_required: destination.required,
                cursor: destination.cursor.as_ref()?.position,
            })
        };
        Some(Self {
            asked_ns,
            life,
            term: leader.map(|leader| leader.term),
            leads: leader.is_some_and(|leader| leader.name == status.node && has_lease(leader)),
            floor: buffer.floor,
            horizon: buffer.horizon,
            applied: buffer.applied,
            committed: buffer.committed,
            last: buffer.last,
            destinations: status.destinations.iter().filter_map(destination).collect(),
        })
    }

    /// What is lower in what the same process said later.
    fn goes_back_to(&self, later: &Self) -> Vec<String> {
        let figures = [
            ("the term", self.term, later.term),
            ("the floor", Some(self.floor), Some(later.floor)),
            ("the horizon", Some(self.horizon), Some(later.horizon)),
            ("what is applied", Some(self.applied), Some(later.applied)),
            ("what is committed", Some(self.committed), Some(later.committed)),
        ];
        let back = figures.into_iter().filter_map(|(what, before, now)| Some((what, before?, now?)));
        back.filter(|(_, before, now)| now < before)
            .map(|(what, before, now)| format!("{what} went back from {before} to {now} in one life"))
            .collect()
    }

    /// What does not lie where it must on the one number line. A node reads it from left to right, while it grows.
    fn out_of_line(&self) -> Vec<String> {
        let Self { leads, floor, horizon, applied, committed, .. } = *self;
        let mut wrong = Vec::new();
        // Behind a snapshot a node must first apply that the horizon has passed it.
        let is_below = floor > if leads { horizon } else { applied };
        if is_below || horizon > applied || applied > committed {
            wrong.push(format!("floor {floor}, horizon {horizon}, applied {applied}, committed {committed}"));
        }
        let required = self.destinations.iter().filter(|destination| destination.is_required);
        for DestinationSaid { id, cursor, .. } in required.filter(|destination| destination.cursor <= horizon)
        {
            wrong.push(format!("{id} is to be sent {cursor} next, and the horizon is {horizon}"));
        }
        wrong
    }
}

impl Used {
    fn of(id: u32, data: &Path) -> io::Result<Self> {
        let process = PathBuf::from(format!("/proc/{id}"));
        let status = fs::read_to_string(process.join("status"))?;
        let figure = |name: &str| {
            let of = |line: &str| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok();
            status.lines().find_map(of).ok_or_else(|| io::Error::other(format!("no {name} in it")))
        };
        let reserve = fs::metadata(data.join("reserve")).map_or(0, |reserve| reserve.len());
        Ok(Self {
            resident_bytes: figure("VmRSS:")?.saturating_mul(1024),
            threads: figure("Threads:")?,
            files: fs::read_dir(process.join("fd"))?.count() as u64,
            disk_bytes: size_of_directory(data).ok().map(|bytes| bytes.saturating_sub(reserve)),
        })
    }

    /// The most of each.
    fn most<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        all.into_iter().fold(Self::default(), |most, used| Self {
            resident_bytes: most.resident_bytes.max(used.resident_bytes),
            threads: most.threads.max(used.threads),
            files: most.files.max(used.files),
            disk_bytes: most.disk_bytes.max(used.disk_bytes),
        })
    }

    /// What is too much.
    fn beyond(&self, cores: u64) -> Vec<String> {
        let bounds = [
            ("bytes of memory", self.resident_bytes, MOST_MEMORY),
            ("threads", self.threads, MOST_THREADS + THREADS_PER_CORE * cores),
            ("open files", self.files, MOST_FILES),
            ("bytes of data", self.disk_bytes.unwrap_or_default(), MOST_DISK),
        ];
        let beyond = bounds.into_iter().filter(|(_, used, most)| used > most);
        beyond.map(|(what, used, most)| format!("{used} {what}, and {most} are enough")).collect()
    }
}

impl Filed {
    fn of(folder: &Path, finished: &mut Finished) -> io::Result<Self> {
        let mut there = Finished::new();
        for file in fs::read_dir(folder)? {
            let path = file?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with('.') || !name.ends_with(".csv") {
                continue;
            }
            // One that was not acknowledged may be gone again.
            let Ok(found) = fs::metadata(&path) else { continue };
            let named = (path, found.len());
            let known = finished.get(&named).copied();
            let Some(position) = known.or_else(|| last_position(&named.0)) else { continue };
            there.insert(named, position);
        }
        *finished = there;
        Ok(Self { position: finished.values().copied().max().unwrap_or_default() })
    }
}

/// The entry of the last record in a file.
fn last_position(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let key = text.lines().next_back()?.split(',').next()?;
    key.parse::<SampleKey>().ok().map(|key| key.position.0)
}

/// What was called committed at looks that are over.
#[derive(Default)]
struct Committed {
    /// Said before the look at hand was begun.
    known: u64,
    /// Said since, and when.
    fresh: Vec<(u64, u64)>,
}

impl Committed {
    fn before(&mut self, asked_ns: u64) -> u64 {
        let over = self.fresh.iter().filter(|(answered_ns, _)| *answered_ns < asked_ns);
        self.known = over.map(|(_, committed)| *committed).fold(self.known, u64::max);
        self.fresh.retain(|(answered_ns, _)| *answered_ns >= asked_ns);
        self.known
    }
}

impl Observations {
    /// Reads what an observer wrote.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut all = Self::default();
        for entry in history::read::<Value>(path)? {
            match entry.op.as_str() {
                SAID => all.said.push(typed(entry)?),
                USED => all.used.push(typed(entry)?),
                FILED => all.filed.push(typed(entry)?),
                STALLED => all.stalled.push(typed(entry)?),
                _ => {}
            }
        }
        Ok(all)
    }

    /// Whether the machine stood still shortly before a moment, for long enough to cost somebody a lease.
    pub fn stood_still_before(&self, at_ns: u64) -> bool {
        self.stalled.iter().any(|entry| entry.details.explains(at_ns))
    }

    /// The longest time in which the machine stood still, if that was measured.
    pub fn longest_stall(&self) -> Option<Duration> {
        self.stalled.iter().map(|entry| entry.details.late()).max()
    }

    /// The highest that was said.
    pub fn highest(&self) -> Highest {
        let mut highest = Highest::default();
        for Entry { process, details: said, .. } in &self.said {
            highest.committed = highest.committed.max(Position(said.committed));
            if let Some(term) = said.term.filter(|_| said.leads) {
                let led = highest.led.entry(process.clone()).or_default();
                *led = term.max(*led);
            }
        }
        highest
    }

    /// What went back that may not, a sentence each.
    fn went_back(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut before: BTreeMap<&str, &Said> = BTreeMap::new();
        let mut led: BTreeMap<&str, u64> = BTreeMap::new();
        let mut committed = Committed::default();
        for Entry { t_ns, process, details: said, .. } in &self.said {
            if said.life.is_some()
                && let Some(earlier) = before.insert(process, said)
                && earlier.life == said.life
            {
                let back = earlier.goes_back_to(said).into_iter();
                wrong.extend(back.map(|what| format!("{process}: {what}")));
            }
            let led = led.entry(process).or_default();
            if said.term.is_some_and(|term| term < *led) {
                wrong.push(format!("{process} led in term {led}, and knows {:?} later", said.term));
            }
            if said.leads {
                *led = said.term.unwrap_or_default().max(*led);
                let known = committed.before(said.asked_ns);
                if said.last < known {
                    wrong.push(format!(
                        "{process} leads with a log to {}, and {known} is committed",
                        said.last
                    ));
                }
            }
            committed.fresh.push((*t_ns, said.committed));
        }
        wrong
    }

    /// Cursors of the HTTP receiver beyond what was accepted when they were seen. `accepted`: positions in order, and when
    /// everything up to there had been accepted that ever was. Of the entry at the cursor nothing is said.
    fn passed(&self, accepted: &[(Position, u64)]) -> Vec<String> {
        let when = |cursor: u64| {
            let behind = accepted.partition_point(|(position, _)| position.0 < cursor);
            behind.checked_sub(1).map(|last| accepted[last])
        };
        let mut wrong = Vec::new();
        for (Entry { t_ns, process, .. }, DestinationSaid { id, cursor, .. }) in self.cursors(true) {
            if let Some((position, accepted_ns)) = when(*cursor).filter(|(_, accepted_ns)| accepted_ns > t_ns)
            {
                let late = (accepted_ns - t_ns) / 1_000_000;
                wrong.push(format!(
                    "{process}: {id} is to be sent {cursor} next, and accepts up to {position} only {late} ms later"
                ));
            }
        }
        wrong
    }

    /// Cursors of the CSV destination beyond what stood in finished files a moment later. What there is was accepted over
    /// HTTP some time: both get the same.
    fn unfiled(&self, accepted: &[(Position, u64)]) -> Vec<String> {
        let mut wrong = Vec::new();
        for (Entry { t_ns, process, .. }, DestinationSaid { id, cursor, .. }) in self.cursors(false) {
            let later = self.filed.partition_point(|filed| filed.t_ns < *t_ns);
            let behind = accepted.partition_point(|(position, _)| position.0 < *cursor);
            let (Some(filed), Some(last)) = (self.filed.get(later), behind.checked_sub(1)) else { continue };
            let (filed, last) = (filed.details.position, accepted[last].0);
            if filed < last.0 {
                wrong.push(format!(
                    "{process}: {id} is to be sent {cursor} next, and its files end at {filed}, before {last}"
                ));
            }
        }
        wrong
    }

    fn cursors(&self, is_http: bool) -> impl Iterator<Item = (&Entry<Said>, &DestinationSaid)> {
        self.said
            .iter()
            .flat_map(|entry| entry.details.destinations.iter().map(move |destination| (entry, destination)))
            .filter(move |(_, destination)| destination.is_http == is_http)
    }

    fn out_of_line(&self) -> Vec<String> {
        let wrong = |entry: &Entry<Said>| {
            let Entry { process, details, .. } = entry;
            details.out_of_line().into_iter().map(|what| format!("{process}: {what}")).collect::<Vec<_>>()
        };
        self.said.iter().flat_map(wrong).collect()
    }
}

#[cfg(test)]
impl Observations {
    /// Of a machine that stood still once, from a moment on.
    pub(super) fn of_stall(due_ns: u64, late_ns: u64) -> Self {
        let details = Stall { due_ns, late_ns };
        let (process, op) = ("machine".to_owned(), STALLED.to_owned());
        let entry = Entry { t_ns: due_ns, process, kind: Kind::Info, op, details };
        Self { stalled: vec![entry], ..Self::default() }
    }
}

/// Enters what nodes said and used. `accepted`: what the account says of the receiver.
pub fn judge(report: &mut RunReport, seen: &Observations, accepted: &[(Position, u64)]) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let most = Used::most(seen.used.iter().map(|entry| &entry.details));
    let line = "looks; what was accepted, acknowledged and expired in samples, no node says";
    let cursors = seen.cursors(true).count().min(seen.cursors(false).count());
    let passed = [seen.passed(accepted), seen.unfiled(accepted)].concat();
    let checks = [
        (BACK, seen.said.len(), "looks", seen.went_back()),
        (PASSED, cursors.min(seen.filed.len()), "looks at cursors and files", passed),
        (LINE, seen.said.len(), line, seen.out_of_line()),
        (BUDGETS, seen.used.len(), "looks", most.beyond(cores)),
    ];
    for (check, looks, what, wrong) in checks {
        let text = match wrong.len() {
            0 => format!("{looks} {what}"),
            all => format!("{all} times: {}", wrong[..all.min(TOLD)].join("; ")),
        };
        // Where nothing was seen, nothing is known.
        report.judge(check, wrong.is_empty() && looks > 0, text);
    }
    let mib = |bytes: u64| bytes as f64 / MIB as f64;
    for (name, figure) in [
        ("most memory of a node, MiB", mib(most.resident_bytes)),
        ("largest data directory of a node, MiB", mib(most.disk_bytes.unwrap_or_default())),
        ("most threads of a node, count", most.threads as f64),
        ("most open files of a node, count", most.files as f64),
    ] {
        report.figures.insert(name.to_owned(), figure);
    }
}

fn typed<D: DeserializeOwned>(entry: Entry<Value>) -> io::Result<Entry<D>> {
    let Entry { t_ns, process, kind, op, details } = entry;
    Ok(Entry { t_ns, process, kind, op, details: serde_json::from_value(details)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prove::run::Verdict;

    fn entry<D>(t_ns: u64, process: &str, details: D) -> Entry<D> {
        Entry { t_ns, process: process.to_owned(), kind: Kind::Ok, op: SAID.to_owned(), details }
    }

    /// Said at a moment, in the first life, of a log of so many entries.
    fn said(at_ns: u64, entries: u64) -> Said {
        Said {
            asked_ns: at_ns - 1,
            life: Some(1),
            term: Some(3),
            applied: entries,
            committed: entries,
            last: entries,
            ..Said::default()
        }
    }

    fn seen(said: Vec<Entry<Said>>) -> Observations {
        Observations { said, ..Observations::default() }
    }

    fn failed(seen: &Observations, accepted: &[(Position, u64)]) -> Vec<String> {
        let mut report = RunReport::new("kills", 1);
        judge(&mut report, seen, accepted);
        let failed = report.findings.into_iter().filter(|finding| finding.verdict == Verdict::Failed);
        failed.map(|finding| finding.check).collect()
    }

    #[test]
    fn within_one_life_nothing_goes_back_and_from_one_to_the_next_positions_may() {
        let full = Said { floor: 2, horizon: 3, ..said(10, 9) };
        let lower: [fn(&mut Said); 5] = [
            |said| said.term = Some(2),
            |said| said.floor -= 1,
            |said| said.horizon -= 1,
            |said| said.applied -= 1,
            |said| said.committed -= 1,
        ];
        for (place, lower) in lower.into_iter().enumerate() {
            let mut later = full.clone();
            lower(&mut later);
            let both =
                |later: Said| seen(vec![entry(10, "node-1", full.clone()), entry(20, "node-1", later)]);
            assert_eq!(both(later.clone()).went_back().len(), 1, "figure {place}");
            let next_life = Said { life: Some(2), ..later.clone() };
            assert_eq!(both(next_life).went_back(), Vec::<String>::new(), "figure {place}");
            let unknown_life = Said { life: None, ..later };
            assert_eq!(both(unknown_life).went_back(), Vec::<String>::new(), "figure {place}");
        }
        let shorter = Said { last: 8, ..full.clone() };
        let truncated = seen(vec![entry(10, "node-1", full.clone()), entry(20, "node-1", shorter)]);
        assert_eq!(truncated.went_back(), Vec::<String>::new(), "what is not committed may go");
    }

    #[test]
    fn a_node_does_not_forget_the_term_in_which_it_led() {
        let led = Said { leads: true, ..said(10, 9) };
        let later = Said { life: Some(2), term: Some(2), ..said(20, 9) };
        let both = |first: Said| seen(vec![entry(10, "node-1", first), entry(20, "node-1", later.clone())]);
        assert_eq!(both(led.clone()).went_back().len(), 1);
        let heard = Said { leads: false, ..led };
        assert_eq!(both(heard).went_back(), Vec::<String>::new(), "its vote need not have been durable");
    }

    #[test]
    fn who_leads_has_what_was_called_committed_before_it_was_asked() {
        let leader = |asked_ns| Said { asked_ns, leads: true, term: Some(4), ..said(20, 8) };
        let both = |later: Said| seen(vec![entry(10, "node-1", said(10, 9)), entry(20, "node-2", later)]);
        assert_eq!(both(leader(11)).went_back().len(), 1);
        assert_eq!(both(leader(10)).went_back(), Vec::<String>::new(), "it may have answered before");
        let follower = Said { leads: false, ..leader(11) };
        assert_eq!(both(follower).went_back(), Vec::<String>::new(), "a follower may lack it");
    }

    #[test]
    fn a_leaders_log_does_not_begin_behind_its_horizon() {
        let follower = Said { floor: 8, horizon: 7, ..said(10, 9) };
        assert_eq!(follower.out_of_line(), Vec::<String>::new(), "it has just installed a snapshot");
        assert_eq!(Said { leads: true, ..follower }.out_of_line().len(), 1);
    }

    fn with_cursor(cursor: u64) -> Said {
        let destination = |id: &str| DestinationSaid {
            id: id.to_owned(),
            is_http: id == "historian",
            is_required: true,
            cursor,
        };
        Said {
            horizon: 4,
            destinations: vec![destination("historian"), destination("files")],
            ..said(50, 20)
        }
    }

    #[test]
    fn a_cursor_beyond_what_was_accepted_is_found() {
        let accepted = [(Position(5), 30), (Position(9), 40), (Position(12), 60)];
        let passed = |cursor| seen(vec![entry(50, "node-1", with_cursor(cursor))]).passed(&accepted).len();
        assert_eq!((passed(5), passed(10), passed(12), passed(13), passed(20)), (0, 0, 0, 1, 1));
    }

    #[test]
    fn a_cursor_beyond_what_stands_in_finished_files_is_found() {
        let accepted = [(Position(5), 30), (Position(9), 40), (Position(12), 60)];
        let unfiled = |cursor, at_ns, position| {
            let filed =
                vec![entry(40, FILES, Filed { position: 0 }), entry(at_ns, FILES, Filed { position })];
            let said = vec![entry(50, "node-1", with_cursor(cursor))];
            Observations { said, filed, ..Observations::default() }.unfiled(&accepted).len()
        };
        assert_eq!((unfiled(5, 60, 0), unfiled(10, 60, 9), unfiled(12, 50, 9)), (0, 0, 0));
        assert_eq!((unfiled(10, 60, 8), unfiled(13, 60, 9)), (1, 1));
        assert_eq!(unfiled(13, 45, 9), 0, "nobody looked later");
    }

    #[test]
    fn files_end_where_the_last_finished_one_does() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, keys: &[&str]| {
            let rows: String = keys.iter().map(|key| format!("{key},a\r\n")).collect();
            fs::write(folder.path().join(name), format!("key,tag\r\n{rows}")).expect("room");
        };
        let mut finished = Finished::new();
        let mut position = || Filed::of(folder.path(), &mut finished).expect("readable").position;
        assert_eq!(position(), 0);
        write("files.samples.1.csv", &["00000000/7/0", "00000000/8/3"]);
        write("files.gaps.1.csv", &["00000000/6/2147483648"]);
        write(".files.samples.2.csv.node-1.part", &["00000000/99/0"]);
        write("files.leader.json", &["00000000/99/0"]);
        assert_eq!(position(), 8);
        write("files.samples.2.csv", &["00000000/9/0"]);
        assert_eq!(position(), 9);
        write("files.samples.2.csv", &["00000000/9/0", "00000000/11/0"]);
        assert_eq!(position(), 11, "it came again, and is longer");
        fs::remove_file(folder.path().join("files.samples.2.csv")).expect("it is there");
        assert_eq!(position(), 8);
    }

    #[test]
    fn each_figure_that_is_wrong_fails_the_check_that_is_there_for_it() {
        let used = Used { resident_bytes: 100 * MIB, threads: 30, files: 90, disk_bytes: Some(80 * MIB) };
        let right = || Observations {
            said: vec![entry(50, "node-1", with_cursor(10)), entry(60, "node-1", with_cursor(10))],
            used: vec![entry(50, "node-1", used.clone())],
            filed: vec![entry(50, FILES, Filed { position: 9 }), entry(60, FILES, Filed { position: 9 })],
            stalled: Vec::new(),
        };
        let accepted = [(Position(5), 30), (Position(12), 60)];
        assert_eq!(failed(&right(), &accepted), Vec::<String>::new());
        assert_eq!(failed(&Observations::default(), &[]), [BACK, PASSED, LINE, BUDGETS], "nothing was seen");
        type Spoil = fn(&mut Observations);
        let spoilt: [(Spoil, &str); 11] = [
            (|seen| seen.said[0].details.committed = 21, BACK),
            (|seen| seen.said[0].details.destinations[0].cursor = 13, PASSED),
            (|seen| seen.filed[0].details.position = 4, PASSED),
            (|seen| seen.said[1].details.destinations[0].cursor = 4, LINE),
            (|seen| seen.said[1].details.horizon = 21, LINE),
            (|seen| seen.said[0].details.floor = 21, LINE),
            (|seen| seen.said[1].details.applied = 21, LINE),
            (|seen| seen.used[0].details.resident_bytes = MOST_MEMORY + 1, BUDGETS),
            (|seen| seen.used[0].details.threads = 100_000, BUDGETS),
            (|seen| seen.used[0].details.files = MOST_FILES + 1, BUDGETS),
            (|seen| seen.used[0].details.disk_bytes = Some(MOST_DISK + 1), BUDGETS),
        ];
        for (place, (spoil, check)) in spoilt.into_iter().enumerate() {
            let mut seen = right();
            spoil(&mut seen);
            assert!(failed(&seen, &accepted).contains(&check.to_owned()), "{place}: {check}");
        }
    }

    #[test]
    fn what_is_written_down_is_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(OBSERVED);
        let history = History::create(&path).expect("a file");
        let own = Used::of(std::process::id(), folder.path()).expect("this process runs");
        assert!(own.resident_bytes > 0 && own.threads > 0 && own.files > 0, "{own:?}");
        history.record_at(50, "node-1", Kind::Ok, SAID, &with_cursor(10));
        history.record_at(60, "node-1", Kind::Ok, USED, &own);
        history.record_at(70, FILES, Kind::Ok, FILED, &Filed { position: 9 });
        let stall = Stall { due_ns: 80, late_ns: 300_000_000 };
        history.record_at(90, "machine", Kind::Info, STALLED, &stall);
        history.flush().expect("room");
        let seen = Observations::read(&path).expect("it was written");
        assert_eq!(seen.said, [entry(50, "node-1", with_cursor(10))]);
        assert_eq!(seen.used.iter().map(|entry| &entry.details).collect::<Vec<_>>(), [&own]);
        assert_eq!(seen.filed[0].details, Filed { position: 9 });
        assert_eq!(seen.longest_stall(), Some(Duration::from_millis(300)));
        assert!(seen.stood_still_before(81) && !seen.stood_still_before(79));
        assert_eq!(seen.highest(), Highest { committed: Position(20), led: BTreeMap::new() });
    }

    #[test]
    fn a_status_is_taken_at_its_word_only_with_a_live_lease() {
        let lease = |nanos| Some(wire::times::nanos_to_proto(nanos));
        let status = |lease| pb::ClusterStatus {
            node: "node-1".to_owned(),
            leader: Some(pb::Leader { name: "node-1".to_owned(), term: 7, lease, ..pb::Leader::default() }),
            buffer: Some(pb::BufferStats { committed: 9, ..pb::BufferStats::default() }),
            ..pb::ClusterStatus::default()
        };
        let leads = |lease| Said::of(&status(lease), 1, Some(1)).map(|said| (said.leads, said.term));
        assert_eq!(leads(lease(1)), Some((true, Some(7))));
        assert_eq!(leads(lease(0)), Some((false, Some(7))));
        assert_eq!(leads(None), Some((false, Some(7))));
        assert_eq!(Said::of(&pb::ClusterStatus::default(), 1, Some(1)), None);
    }
}
