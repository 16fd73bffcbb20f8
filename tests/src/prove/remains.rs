//! What the stores of all nodes hold when these have ended: one log, as far as it is committed, and one ledger.
//!
//! - Each store is opened as its node would open it, which also finds out whether it has forgotten anything. That changes
//!   no more than the node's next start would.
//! - Committed is what any of them knew to be committed or had applied. What follows need not be the same.
//! - Ledgers end where they were written down last. Each is brought to the last committed entry by the real `apply`, with
//!   the entries of the logs, and their digests are compared there.
//! - Logs are compared entry by entry where they are there, and by their chain hashes as far as they reach back.
//! - A store that cannot be read fails the check: it is not known what it holds.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use model::{Position, StoreId};
use runtime::Supervisor;
use simulator::nodes::layout::NodePlan;
use store::engine::rocks::{RocksEngine, RocksOptions};
use store::engine::{Engine, Family};
use store::ledger::{Body, Digest, Ledger, LogId};
use store::{ChainHash, Entry, LogEnds, Store, StoreOptions, Vote};
use tokio::task::spawn_blocking;

use super::observed::Highest;
use super::run::RunReport;

const EQUAL: &str = "I12 all nodes end with one log, as far as it is committed, and one ledger";
const KEPT: &str = "I13 no node has forgotten at its end what it had said";
/// Bytes of entries that are read at one time.
const CHUNK: usize = 8 << 20;
/// For tasks that have nothing to do.
const PATIENCE: Duration = Duration::from_secs(20);

/// The store of a node, open.
struct Opened<E> {
    node: String,
    store: Store<E>,
    ledger: Ledger,
    supervisor: Supervisor,
}

/// What a store holds.
#[derive(Debug)]
struct Remains {
    node: String,
    vote: Vote,
    ends: LogEnds,
    /// The last entry that is known there to be committed.
    committed: Position,
    ledger: Ledger,
    /// Each entry of the log, and a hash of what it holds.
    log: BTreeMap<u64, (LogId, u64)>,
    /// Entries that the ledger of some node may lack.
    newest: BTreeMap<u64, Entry>,
    /// The chain hash up to where all logs reach; zeros where nothing is known of what lay before.
    chain: Option<ChainHash>,
}

/// What was compared.
#[derive(Debug, PartialEq, Eq)]
struct Compared {
    /// The first and the last position of the logs, and how many entries.
    from: u64,
    to: u64,
    entries: usize,
    digest: Digest,
}

/// Opens the stores of nodes that have ended, and enters what they hold.
pub async fn judge(report: &mut RunReport, nodes: &[NodePlan], highest: &Highest) {
    match read(nodes).await {
        Ok(all) => {
            match compare(&all) {
                Ok(Compared { from, to, entries, digest }) => {
                    let text = format!(
                        "{} stores, {entries} entries from {from} on, ledgers at {to}: {digest}",
                        all.len()
                    );
                    report.passed(EQUAL, text);
                }
                Err(wrong) => report.failed(EQUAL, wrong.join("; ")),
            }
            let forgotten = forgotten(&all, highest);
            let text = match forgotten.is_empty() {
                true => format!("{} was committed, terms {:?}", highest.committed, highest.led),
                false => forgotten.join("; "),
            };
            report.judge(KEPT, forgotten.is_empty(), text);
        }
        Err(error) => {
            for check in [EQUAL, KEPT] {
                report.failed(check, format!("{error:#}"));
            }
        }
    }
}

async fn read(nodes: &[NodePlan]) -> Result<Vec<Remains>> {
    let mut all = Vec::new();
    let opened = open_each(nodes, &mut all).await;
    let looked = opened.and_then(|()| look(&all));
    // Whatever was found, and each of them, or their volumes could not be taken away.
    let mut stay = Vec::new();
    for Opened { node, store, supervisor, .. } in all {
        drop(store);
        if !supervisor.shut_down(PATIENCE).await {
            stay.push(node);
        }
    }
    ensure!(stay.is_empty(), "these stores do not end: {}", stay.join(", "));
    looked
}

async fn open_each(nodes: &[NodePlan], all: &mut Vec<Opened<RocksEngine>>) -> Result<()> {
    for node in nodes.iter().filter(|node| !node.waits || node.data.exists()) {
        let store = open(&node.name, &node.data).await;
        all.push(store.with_context(|| format!("the store of {} cannot be read", node.name))?);
    }
    Ok(())
}

async fn open(node: &str, data: &Path) -> Result<Opened<RocksEngine>> {
    // It would be made.
    ensure!(data.is_dir(), "there is no {}", data.display());
    let path = data.to_owned();
    let engine = spawn_blocking(move || RocksEngine::open(path, &RocksOptions::default())).await??;
    opened(node, Arc::new(engine)).await
}

async fn opened<E: Engine>(node: &str, engine: Arc<E>) -> Result<Opened<E>> {
    let rows = engine.range(Family::Ledger, &[], None, usize::MAX)?;
    let ledger = Ledger::from_rows(rows.into_iter().map(|(key, value)| (key, value.to_vec())))?;
    let (supervisor, spawner) = Supervisor::new();
    let options = StoreOptions { tail_bytes: 0, birth: StoreId::from(1) };
    let store = Store::open(engine, options, &spawner).await?;
    Ok(Opened { node: node.to_owned(), store, ledger, supervisor })
}

/// Reads what can be compared.
fn look<E: Engine>(opened: &[Opened<E>]) -> Result<Vec<Remains>> {
    let applied = opened.iter().map(|one| one.ledger.state().applied_position());
    let lacked_from = applied.min().unwrap_or_default();
    let ends = opened.iter().map(|one| one.store.log().ends().last.unwrap_or_default().index);
    let committed = opened.iter().map(Opened::committed).max().unwrap_or_default();
    let common = ends.min().unwrap_or_default().min(committed);
    opened.iter().map(|one| one.look(lacked_from, common)).collect()
}

impl<E: Engine> Opened<E> {
    fn committed(&self) -> Position {
        let committed = self.store.log().committed().unwrap_or_default().index;
        committed.max(self.ledger.state().applied_position())
    }

    fn look(&self, lacked_from: Position, common: Position) -> Result<Remains> {
        let log = self.store.log();
        let ends = log.ends();
        let floor = ends.floor.unwrap_or_default().index;
        let chain = if common > floor { Some(log.chain_at(common)?) } else { None };
        let mut remains = Remains {
            node: self.node.clone(),
            vote: log.vote().unwrap_or_default(),
            ends,
            committed: self.committed(),
            ledger: self.ledger.clone(),
            log: BTreeMap::new(),
            newest: BTreeMap::new(),
            chain,
        };
        let mut next = floor.0 + 1;
        loop {
            let entries = log.read(next, u64::MAX, CHUNK)?;
            let Some(last) = entries.last() else { return Ok(remains) };
            next = last.id.index.0 + 1;
            for entry in entries {
                remains.log.insert(entry.id.index.0, (entry.id, hash(&entry.body)));
                if entry.id.index > lacked_from {
                    remains.newest.insert(entry.id.index.0, entry);
                }
            }
        }
    }
}

fn hash(body: &Body) -> u64 {
    let mut hasher = DefaultHasher::new();
    match body {
        Body::Blank => hasher.write(b"blank"),
        Body::Membership(membership) => hasher.write(format!("{membership:?}").as_bytes()),
        Body::Command(bytes) => hasher.write(bytes),
    }
    hasher.finish()
}

/// Compares what stores hold; what differs, a sentence each.
fn compare(all: &[Remains]) -> Result<Compared, Vec<String>> {
    let last = all.iter().map(|one| one.ends.last.unwrap_or_default().index.0).max().unwrap_or_default();
    let committed = all.iter().map(|one| one.committed.0).max().unwrap_or_default();
    // That something is committed may be known before it is there.
    let to = committed.min(last);
    if to == 0 {
        return Err(vec!["nothing is committed".to_owned()]);
    }
    let mut wrong: Vec<String> = differing_entries(all, to).into_iter().collect();
    wrong.extend(differing_chains(all));
    let digests: Vec<Result<Digest, String>> = all.iter().map(|one| one.digest_at(to, all)).collect();
    let mut digest = None;
    for (one, found) in all.iter().zip(digests) {
        match found {
            Err(error) => wrong.push(format!("{}: {error}", one.node)),
            Ok(found) => {
                let first = *digest.get_or_insert(found);
                if first != found {
                    let (node, other) = (&one.node, &all[0].node);
                    wrong.push(format!("at {to} the ledger of {node} is {found}, that of {other} {first}"));
                }
            }
        }
    }
    let from = all.iter().filter_map(|one| one.log.keys().next().copied()).min().unwrap_or_default();
    let entries = all.iter().map(|one| one.log.range(..=to).count()).max().unwrap_or_default();
    match (wrong.is_empty(), digest) {
        (true, Some(digest)) => Ok(Compared { from, to, entries, digest }),
        _ => Err(wrong),
    }
}

/// The first committed entry that is not the same in all logs that have it.
fn differing_entries(all: &[Remains], to: u64) -> Option<String> {
    let mut known: BTreeMap<u64, (&str, (LogId, u64))> = BTreeMap::new();
    for one in all {
        for (index, entry) in one.log.range(..=to) {
            let (node, first) = *known.entry(*index).or_insert((one.node.as_str(), *entry));
            if first != *entry {
                return Some(format!(
                    "at {index}, which is committed, {node} has {first:?} and {} has {entry:?}",
                    one.node
                ));
            }
        }
    }
    None
}

fn differing_chains(all: &[Remains]) -> Option<String> {
    let known = |one: &&Remains| one.chain.is_some_and(|chain| chain != ChainHash::default());
    let mut known = all.iter().filter(known);
    let first = known.next()?;
    let other = known.find(|one| one.chain != first.chain)?;
    Some(format!("the logs of {} and {} were not the same once", first.node, other.node))
}

/// What was said and is not held any more: votes below a term, and entries that were committed.
fn forgotten(all: &[Remains], highest: &Highest) -> Vec<String> {
    let mut wrong = Vec::new();
    for Remains { node, vote, ends, .. } in all {
        let led = highest.led.get(node).copied().unwrap_or_default();
        let last = ends.last.unwrap_or_default();
        if vote.term.0 < led {
            wrong.push(format!("{node} led in term {led}, and its vote is of term {}", vote.term));
        }
        if vote.term < last.term {
            wrong.push(format!(
                "{node} has an entry of term {}, and its vote is of term {}",
                last.term, vote.term
            ));
        }
    }
    let has_it = |one: &&Remains| one.ends.last.unwrap_or_default().index >= highest.committed;
    let having = all.iter().filter(has_it).count();
    if having <= all.len() / 2 {
        wrong.push(format!(
            "{} was committed, and only {having} of {} logs reach it",
            highest.committed,
            all.len()
        ));
    }
    wrong
}

impl Remains {
    /// The digest of its ledger once it has applied everything up to `to`.
    fn digest_at(&self, to: u64, all: &[Self]) -> Result<Digest, String> {
        let mut ledger = self.ledger.clone();
        for index in ledger.state().applied_position().0 + 1..=to {
            let entry = all.iter().find_map(|one| one.newest.get(&index));
            let entry = entry.ok_or_else(|| format!("nobody has entry {index} any more, which it lacks"))?;
            ledger.apply(entry.id, &entry.body).map_err(|error| error.to_string())?;
        }
        drop(ledger.take_changes());
        Ok(ledger.digest())
    }
}

#[cfg(test)]
mod tests {
    use model::command::{Command, Stamp};
    use model::{BootId, ClusterId, Lineage, NodeId, Term, Timestamp};
    use store::Done;
    use store::engine::sim::{SimDisk, SimEngine};
    use tokio::sync::oneshot;

    use super::*;
    use crate::prove::run::Verdict;

    fn id(term: u64, index: u64) -> LogId {
        LogId { term: Term(term), index: Position(index) }
    }

    /// Each founds a cluster of another name, which only the first one does.
    fn entry(term: u64, index: u64, name: &str) -> Entry {
        let command = Command::Found {
            cluster: ClusterId::from(7),
            name: name.to_owned(),
            lineage: Lineage::from_random(7),
        };
        let stamp = Stamp { at: Timestamp(0), boot: BootId::from(1) };
        let bytes = wire::entry::encode(&stamp, &command).expect("a small command");
        Entry { id: id(term, index), body: Body::Command(bytes) }
    }

    /// A node that holds these entries, and has applied some of them.
    async fn holding(node: &str, entries: &[Entry], applied: usize) -> Remains {
        let disk = SimDisk::new(1);
        let engine = Arc::new(SimEngine::open(&disk).expect("a fresh disk"));
        let one = opened(node, Arc::clone(&engine)).await.expect("a fresh store");
        let vote = Vote { term: Term(2), node: NodeId(1), committed: true };
        one.store.log().save_vote(vote).await.expect("a disk");
        let (sender, appended) = oneshot::channel();
        let done: Done = Box::new(move |outcome| drop(sender.send(outcome)));
        one.store.log().append(entries.to_vec(), done);
        appended.await.expect("it is told").expect("a disk");
        for entry in &entries[..applied] {
            one.store.keeper().apply(entry.id, &entry.body).expect("it is readable");
        }
        one.store.keeper().flush();
        let Opened { store, supervisor, .. } = one;
        drop(store);
        assert!(supervisor.shut_down(PATIENCE).await, "what was queued is written");
        let again = opened(node, engine).await.expect("it has forgotten nothing");
        assert_eq!(again.ledger.state().applied_position(), Position(applied as u64));
        again.look(Position::ZERO, Position(1)).expect("readable")
    }

    fn entries(names: [&str; 4]) -> Vec<Entry> {
        names.iter().zip(1..).map(|(name, index)| entry(1, index, name)).collect()
    }

    #[tokio::test]
    async fn stores_that_stopped_at_different_positions_are_compared_at_the_last_committed_one() {
        let all = entries(["a", "b", "c", "d"]);
        let stores = [
            holding("node-1", &all, 4).await,
            holding("node-2", &all, 2).await,
            // It lacks the end of the log, and takes it from the others.
            holding("node-3", &all[..3], 1).await,
        ];
        let compared = compare(&stores).expect("they hold the same");
        assert_eq!((compared.from, compared.to, compared.entries), (1, 4, 4));
        let mut ledger = Ledger::default();
        for entry in &all {
            ledger.apply(entry.id, &entry.body).expect("it is readable");
        }
        drop(ledger.take_changes());
        assert_eq!(compared.digest, ledger.digest());
    }

    #[tokio::test]
    async fn what_differs_below_what_is_committed_is_found_and_what_differs_behind_it_is_not() {
        let all = entries(["a", "b", "c", "d"]);
        let other_end = [&all[..3], &[entry(2, 4, "other")][..]].concat();
        let with_other = |applied| {
            let (all, other_end) = (all.clone(), other_end.clone());
            async move { [holding("node-1", &all, 2).await, holding("node-2", &other_end, applied).await] }
        };
        assert!(compare(&with_other(3).await).is_ok(), "the last entry is nobody's yet");
        let wrong = compare(&with_other(4).await).expect_err("one of them has applied it");
        assert!(wrong.iter().any(|wrong| wrong.contains("at 4, which is committed")), "{wrong:?}");

        let mut differing = with_other(2).await;
        differing[1].chain = Some([9; 16]);
        let wrong = compare(&differing).expect_err("their logs had another beginning");
        assert!(wrong[0].contains("not the same once"), "{wrong:?}");
        differing[1].chain = Some([0; 16]);
        assert!(compare(&differing).is_ok(), "nothing is known of its beginning");
    }

    #[tokio::test]
    async fn ledgers_that_differ_where_logs_do_not_are_found() {
        let all = entries(["a", "b", "c", "d"]);
        let mut stores = [holding("node-1", &all, 2).await, holding("node-2", &all, 4).await];
        let mut ledger = Ledger::default();
        ledger.apply(id(1, 1), &entry(1, 1, "other").body).expect("it is readable");
        ledger.apply(id(1, 2), &Body::Blank).expect("it is readable");
        drop(ledger.take_changes());
        stores[0].ledger = ledger;
        let wrong = compare(&stores).expect_err("the ledger was told another story");
        assert!(wrong[0].contains("at 4 the ledger of node-2"), "{wrong:?}");
        stores[0].newest.clear();
        stores[1].newest.clear();
        let wrong = compare(&stores).expect_err("what it lacks is gone");
        assert!(wrong[0].contains("nobody has entry 3 any more"), "{wrong:?}");
    }

    #[tokio::test]
    async fn a_vote_or_a_committed_entry_that_is_gone_is_found() {
        let all = entries(["a", "b", "c", "d"]);
        let stores = [
            holding("node-1", &all, 4).await,
            holding("node-2", &all[..2], 2).await,
            holding("node-3", &all[..3], 2).await,
        ];
        let highest = |committed, led| Highest {
            committed: Position(committed),
            led: BTreeMap::from([("node-2".to_owned(), led)]),
        };
        assert_eq!(forgotten(&stores, &highest(3, 2)), Vec::<String>::new());
        assert_eq!(forgotten(&stores, &highest(4, 2)).len(), 1, "on one of three");
        assert_eq!(forgotten(&stores, &highest(3, 3)).len(), 1, "its vote is of term 2");
        let mut stores = stores;
        stores[0].vote.term = Term(0);
        assert_eq!(forgotten(&stores, &highest(3, 2)).len(), 1, "it has entries of term 1");
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_read_fails_both_checks() {
        let plans = simulator::nodes::layout::Layout::on_hosts(
            Path::new("/nowhere"),
            "here",
            &[std::net::IpAddr::from([127, 0, 0, 1])],
        );
        let mut report = RunReport::new("kills", 1);
        judge(&mut report, &plans.nodes, &Highest::default()).await;
        assert!(report.findings.iter().all(|finding| finding.verdict == Verdict::Failed), "{report:?}");
        assert_eq!(report.findings.len(), 2);
    }
}
