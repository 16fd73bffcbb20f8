//! What nodes say of themselves while a run goes on, and what their processes use: written down, and judged afterwards.
//!
//! - Written as a history of its own ([`OBSERVED`]): it can be judged again, with that of the plant.
//! - Nobody is asked for it: whoever watches the nodes asks them ten times a second anyway, and half of that is written
//!   down. Processes and files are looked at from outside, once a second.
//! - How late this process itself is woken says whether the machine stood still.
//! - What a node says is held against what was said before, against what the receiver accepted, and against which files
//!   were finished. It proves nothing else.

mod filed;
mod order;
mod said;
mod stalls;
mod used;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::Position;
use serde::de::DeserializeOwned;
use serde_json::Value;
use simulator::history::{self, Entry, History};
use simulator::nodes::Nodes;
use tokio::task::JoinSet;

use self::filed::{FILED, Filed};
use self::said::{SAID, Said};
use self::stalls::{STALLED, Stall};
use self::used::{MIB, USED, Used};
use self::watch::Watch;
use super::campaign::FILES;
use super::run::RunReport;

/// Below the folder of a run.
pub const OBSERVED: &str = "observed.jsonl";
/// What is told of a check that does not hold.
const TOLD: usize = 5;

const BACK: &str = "I13 no term and no position goes back, and who leads has what was committed";
const PASSED: &str = "I14 no cursor passes what its destination has acknowledged";
const LINE: &str = "I18 floor, horizon, cursors and what is applied keep their order at every look";
const BUDGETS: &str = "I19 memory, threads, files and disk of each node keep within their bounds";

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
}

#[cfg(test)]
impl Observations {
    /// Of a machine that stood still once, from a moment on.
    pub(super) fn of_stall(due_ns: u64, late_ns: u64) -> Self {
        let details = Stall { due_ns, late_ns };
        let (process, op) = ("machine".to_owned(), STALLED.to_owned());
        let entry = Entry { t_ns: due_ns, process, kind: history::Kind::Info, op, details };
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
mod tests;
