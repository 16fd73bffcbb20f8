//! One node: its operations, and what may be found after each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_store::engine::{Engine, EngineError};
use holdfast_store::ledger::{Body, LogId};
use holdfast_store::{ChainHash, Done, Entry, Log, LogEnds, Store, Vote};
use model::{NodeId, Position, Term};
use rand::Rng;
use runtime::random::Random;

use super::Tally;
use super::cluster::Cluster;
use crate::support::{Opened, entry};

/// What is in the log and beside it, after some operation.
#[derive(Clone, Default, PartialEq)]
struct LogState {
    floor: Option<LogId>,
    log: BTreeMap<u64, LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

impl std::fmt::Debug for LogState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let short = |id: &LogId| format!("{}-{}", id.term, id.index);
        write!(f, "floor {:?}, log", self.floor.as_ref().map(short))?;
        let mut run: Option<(LogId, LogId)> = None;
        for id in self.log.values().map(Some).chain([None]) {
            match (run, id) {
                (Some((first, _)), Some(id)) if first.term == id.term => run = Some((first, *id)),
                (before, id) => {
                    if let Some((first, last)) = before {
                        write!(f, " {}..{}", short(&first), short(&last))?;
                    }
                    run = id.map(|id| (*id, *id));
                }
            }
        }
        let vote = self.vote.map(|vote| format!("{}-{}-{}", vote.term, vote.node, vote.committed));
        write!(f, ", vote {vote:?}, committed {:?}", self.committed.as_ref().map(short))
    }
}

impl LogState {
    fn last(&self) -> Option<LogId> {
        self.log.last_key_value().map(|(_, id)| *id).or(self.floor)
    }

    fn last_index(&self) -> u64 {
        self.last().map_or(0, |id| id.index.0)
    }

    fn first_index(&self) -> u64 {
        self.floor.map_or(1, |floor| floor.index.0 + 1)
    }

    /// The last entry that the cluster has committed, too.
    fn good(&self, cluster: &Cluster) -> u64 {
        let good = |(index, id): &(&u64, &LogId)| cluster.id(**index) == Some(**id);
        let last = self.log.iter().rev().find(good).map(|(index, _)| *index);
        last.unwrap_or(self.floor.map_or(0, |floor| floor.index.0))
    }

    fn truncate(&mut self, keep: u64) {
        self.log.retain(|index, _| *index <= keep);
    }

    fn purge(&mut self, floor: LogId) {
        if self.floor < Some(floor) {
            self.floor = Some(floor);
            self.log.retain(|index, _| *index > floor.index.0);
        }
    }

    fn install(&mut self, at: LogId) {
        if self.log.get(&at.index.0) != Some(&at) {
            self.log.clear();
        }
        self.purge(at);
    }
}

/// What the store has acknowledged.
#[derive(Debug, Default)]
struct Answers {
    acknowledged: u64,
    failed: Option<EngineError>,
    /// What was acknowledged although something before it had failed.
    wrong: Vec<u64>,
}

/// One node, across its lives.
#[derive(Default)]
pub(super) struct Node {
    now: LogState,
    /// What may be found: after each operation, by its number; the first is surely durable.
    candidates: Vec<(u64, LogState)>,
    operation: u64,
    /// What this life has applied, and the least that must be applied after it ends.
    applied: u64,
    applied_durably: u64,
    answers: Arc<Mutex<Answers>>,
    /// What every entry ever written holds, by its id.
    written: BTreeMap<LogId, Body>,
    chains: BTreeMap<LogId, ChainHash>,
    /// What was done, for whoever has to find out.
    story: Arc<Mutex<Vec<String>>>,
}

impl Node {
    pub(super) fn new(story: &Arc<Mutex<Vec<String>>>) -> Self {
        Self { story: Arc::clone(story), ..Self::default() }
    }

    pub(super) fn tell(&self, what: String) {
        self.story.lock().expect("no panic").push(what);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.answers.lock().expect("no panic").failed.is_some()
    }

    /// The process ended in good order: nothing may be missing.
    pub(super) fn all_is_durable(&mut self) {
        self.answers.lock().expect("no panic").acknowledged = self.operation;
        self.applied_durably = self.applied;
    }

    /// The life has ended.
    pub(super) fn end_of_life(&mut self) {
        let answers = std::mem::take(&mut *self.answers.lock().expect("no panic"));
        assert!(
            answers.wrong.is_empty(),
            "after {:?}, operations {:?} were acknowledged",
            answers.failed,
            answers.wrong
        );
        self.candidates.retain(|(operation, _)| *operation >= answers.acknowledged);
    }

    /// Checks what was found against what may be, and goes on from there. Whether anything was lost.
    pub(super) fn compare_after_opening<E: Engine>(&mut self, store: &Store<E>, cluster: &Cluster) -> bool {
        // Callbacks of the life before belong to nobody.
        self.answers = Arc::default();
        let found = read_state(store);
        let is_found = |(_, state): &&(u64, LogState)| *state == found;
        if !self.candidates.is_empty() {
            let (oldest, newest) = (&self.candidates[0], self.candidates.last().expect("not empty"));
            assert!(
                self.candidates.iter().rev().any(|candidate| is_found(&candidate)),
                "found {found:?}\nwhich was never there; the last surely durable (operation {}):\n{:?}\nthe newest \
                 (operation {}):\n{:?}",
                oldest.0,
                oldest.1,
                newest.0,
                newest.1
            );
        }
        let has_lost = self.now != found;
        self.now = found;
        self.operation += 1;
        self.candidates = vec![(self.operation, self.now.clone())];
        self.compare_log(store);
        let applied = store.keeper().read(|state| state.applied_position().0);
        let floor = self.now.floor.map_or(0, |floor| floor.index.0);
        assert!(
            floor <= applied && applied <= self.now.last_index(),
            "{floor} <= {applied} <= {:?}",
            self.now.last()
        );
        assert!(applied >= self.applied_durably, "{applied} >= {}", self.applied_durably);
        self.applied = applied;
        self.applied_durably = applied;
        cluster.compare_ledger(store);
        let limit = store.keeper().read(holdfast_store::ledger::State::snapshot_limit).0.max(floor);
        let snapshot = store.keeper().newest_snapshot().expect("checkpoints can be read");
        let at = snapshot.as_ref().map_or(0, |snapshot| snapshot.header.at.index.0);
        assert!(floor <= at && at <= limit, "a snapshot at {at}, the floor at {floor}, the limit at {limit}");
        if let Some(snapshot) = snapshot {
            assert_eq!(
                snapshot.header.digest,
                cluster.digest(at).to_string(),
                "the ledger as it was at {at}"
            );
        }
        has_lost
    }

    /// Every entry is there, holds what was written, and its chain hash is that of its id.
    fn compare_log<E: Engine>(&mut self, store: &Store<E>) {
        let log = store.log();
        let entries = log.read(0, u64::MAX, usize::MAX).expect("the log can be read");
        let ids: Vec<LogId> = entries.iter().map(|entry| entry.id).collect();
        assert_eq!(ids, self.now.log.values().copied().collect::<Vec<_>>());
        for entry in &entries {
            self.check_body(entry);
            let chain = log.chain_at(entry.id.index).expect("it is in the log");
            let known = self.chains.entry(entry.id).or_insert(chain);
            assert_eq!(*known, chain, "equal ids have equal histories: {:?}", entry.id);
        }
    }

    fn check_body(&self, entry: &Entry) {
        let is_same = match (&self.written[&entry.id], &entry.body) {
            (Body::Blank, Body::Blank) => true,
            (Body::Command(written), Body::Command(read)) => written == read,
            (Body::Membership(written), Body::Membership(read)) => written == read,
            _ => false,
        };
        assert!(is_same, "entry {:?} does not hold what was written", entry.id);
    }

    fn done(&mut self) -> Done {
        self.operation += 1;
        let (operation, answers) = (self.operation, Arc::clone(&self.answers));
        Box::new(move |outcome| {
            let mut answers = answers.lock().expect("no panic");
            match outcome {
                Ok(()) if answers.failed.is_some() => answers.wrong.push(operation),
                Ok(()) => answers.acknowledged = answers.acknowledged.max(operation),
                Err(error) => answers.failed = Some(error),
            }
        })
    }

    fn note(&mut self) {
        self.candidates.push((self.operation, self.now.clone()));
    }

    /// Does one thing. `false` if the process must end now.
    pub(super) async fn step<E: Engine>(
        &mut self,
        opened: &Opened<E>,
        cluster: &mut Cluster,
        random: &mut Random,
        tally: &mut Tally,
    ) -> bool {
        let store = &opened.store;
        let kind = random.random_range(0..24);
        self.tell(format!(
            "operation {}, kind {kind}, applied {}: {:?}",
            self.operation, self.applied, self.now
        ));
        let is_well = match kind {
            0..=5 => {
                self.append(store.log(), cluster, random);
                true
            }
            6 | 7 => {
                self.append_what_will_not_be_committed(store.log(), cluster, random);
                true
            }
            8 | 9 => self.truncate(store, cluster, random, tally).await,
            10 => self.vote(store, random).await,
            11 | 12 => {
                self.save_committed(store.log(), cluster, random);
                true
            }
            13..=15 => self.apply(store, cluster, random).await,
            16 => {
                store.keeper().flush();
                true
            }
            17 => self.checkpoint(store, cluster, random).await,
            18 => self.purge(store, tally).await,
            19 => self.install(store, cluster, random, tally).await,
            20 => {
                tokio::time::sleep(Duration::from_millis(random.random_range(0..30))).await;
                true
            }
            21 => {
                tokio::task::yield_now().await;
                true
            }
            22 => self.read(store, random).await,
            _ => self.read_buffer(store, cluster, random).await,
        };
        let ends = store.log().ends();
        assert_eq!(
            ends,
            LogEnds { floor: self.now.floor, last: self.now.last() },
            "the view is what was asked for"
        );
        is_well
    }

    fn push<E: Engine>(&mut self, log: &Log<E>, entries: Vec<Entry>) {
        let done = self.done();
        for entry in &entries {
            self.now.log.insert(entry.id.index.0, entry.id);
            self.written.insert(entry.id, entry.body.clone());
        }
        log.append(entries, done);
        self.note();
    }

    fn append<E: Engine>(&mut self, log: &Log<E>, cluster: &mut Cluster, random: &mut Random) {
        let last = self.now.last_index();
        if self.now.good(cluster) < last {
            return;
        }
        let upto = last + random.random_range(1..6);
        cluster.commit_up_to(upto, random);
        self.push(log, cluster.entries[last as usize..upto as usize].to_vec());
    }

    /// This node led, and the cluster went on without what it could not commit.
    fn append_what_will_not_be_committed<E: Engine>(
        &mut self,
        log: &Log<E>,
        cluster: &mut Cluster,
        random: &mut Random,
    ) {
        let last = self.now.last_index();
        if last < cluster.last() || last == 0 || self.now.good(cluster) < last {
            return;
        }
        cluster.term += 1;
        let own = (last + 1..=last + random.random_range(1..8)).map(|index| {
            let session = u128::from(cluster.term);
            entry(cluster.term, index, crate::support::noise(session, index, 50))
        });
        self.push(log, own.collect());
        cluster.term += 1;
    }

    async fn truncate<E: Engine>(
        &mut self,
        store: &Store<E>,
        cluster: &Cluster,
        random: &mut Random,
        tally: &mut Tally,
    ) -> bool {
        let (good, last) = (self.now.good(cluster), self.now.last_index());
        if good == last {
            return true;
        }
        let keep = if random.random_bool(0.7) { good } else { random.random_range(good..=last) };
        let keep_id = if keep == 0 { None } else { self.now.log.get(&keep).copied().or(self.now.floor) };
        self.operation += 1;
        match store.log().truncate_after(keep_id) {
            Ok(()) => {
                self.now.truncate(keep);
                self.note();
                tally.truncations += 1;
                true
            }
            Err(_) => self.must_have_failed(store).await,
        }
    }

    async fn vote<E: Engine>(&mut self, store: &Store<E>, random: &mut Random) -> bool {
        let before = self.now.vote.unwrap_or_default();
        let vote = match random.random_range(0..4) {
            0 if before != Vote::default() => Vote { committed: true, ..before },
            // Others elected another one.
            1 if before != Vote::default() && !before.committed => {
                Vote { node: NodeId(before.node.0 + 1), committed: true, ..before }
            }
            _ => Vote {
                term: Term(before.term.0 + random.random_range(1..4)),
                node: NodeId(random.random_range(1..4)),
                committed: random.random_bool(0.5),
            },
        };
        self.operation += 1;
        let operation = self.operation;
        self.now.vote = Some(vote);
        self.note();
        match store.log().save_vote(vote).await {
            Ok(()) => {
                let mut answers = self.answers.lock().expect("no panic");
                assert!(answers.failed.is_none(), "a vote was acknowledged after {:?}", answers.failed);
                answers.acknowledged = operation;
                true
            }
            Err(error) => {
                self.answers.lock().expect("no panic").failed = Some(error);
                // What comes after a failure must fail, too: go on for a while.
                random.random_bool(0.5)
            }
        }
    }

    fn save_committed<E: Engine>(&mut self, log: &Log<E>, cluster: &Cluster, random: &mut Random) {
        let known = self.now.committed.map_or(0, |id| id.index.0).max(self.applied);
        let good = self.now.good(cluster);
        if good <= known {
            return;
        }
        let committed = cluster.id(random.random_range(known + 1..=good));
        self.operation += 1;
        self.now.committed = committed;
        log.save_committed(committed);
        self.note();
    }

    async fn apply<E: Engine>(&mut self, store: &Store<E>, cluster: &Cluster, random: &mut Random) -> bool {
        let committed = self.now.committed.map_or(0, |id| id.index.0).min(self.now.good(cluster));
        if committed <= self.applied {
            return true;
        }
        let upto = random.random_range(self.applied + 1..=committed);
        let Ok(entries) = store.log().read(self.applied + 1, upto + 1, usize::MAX) else {
            return self.must_have_failed(store).await;
        };
        assert_eq!(
            entries.len() as u64,
            upto - self.applied,
            "nothing between applied and committed is missing"
        );
        for entry in &entries {
            self.check_body(entry);
            store.keeper().apply(entry.id, &entry.body).expect("it can be read");
        }
        self.applied = upto;
        cluster.compare_ledger(store);
        true
    }

    async fn checkpoint<E: Engine>(
        &mut self,
        store: &Store<E>,
        cluster: &Cluster,
        random: &mut Random,
    ) -> bool {
        if self.applied == 0 {
            return true;
        }
        if random.random_bool(0.5) {
            // It reads the log, and may be the first to find that the disk has failed.
            return store.keeper().cut_checkpoint().is_ok() || self.must_have_failed(store).await;
        }
        let written = store.keeper().write_checkpoint();
        let written = tokio::time::timeout(Duration::from_secs(5), written).await;
        if written.expect("it is answered in any case").is_err() {
            return self.must_have_failed(store).await;
        }
        if let Some(snapshot) = store.keeper().newest_snapshot().ok().flatten() {
            let at = snapshot.header.at.index.0;
            assert!(at <= self.applied);
            assert_eq!(snapshot.header.digest, cluster.digest(at).to_string());
        }
        true
    }

    async fn purge<E: Engine>(&mut self, store: &Store<E>, tally: &mut Tally) -> bool {
        let Some(at) = store.keeper().newest_snapshot_position() else { return true };
        if Some(at) <= self.now.floor {
            return true;
        }
        self.operation += 1;
        match store.keeper().purge(at) {
            Ok(()) => {
                self.now.purge(at);
                self.note();
                tally.purges += 1;
                true
            }
            Err(_) => self.must_have_failed(store).await,
        }
    }

    async fn install<E: Engine>(
        &mut self,
        store: &Store<E>,
        cluster: &mut Cluster,
        random: &mut Random,
        tally: &mut Tally,
    ) -> bool {
        let known = self.now.committed.map_or(0, |id| id.index.0).max(self.applied);
        cluster.commit_up_to(known + 5, random);
        let Some((at, bytes)) = cluster.snapshot_above(known, random).await else { return true };
        self.operation += 1;
        let operation = self.operation;
        // As far as the log is concerned, all or nothing.
        let mut after = self.now.clone();
        after.install(at);
        self.candidates.push((operation, after.clone()));
        let patience = if random.random_bool(0.3) {
            Duration::from_millis(random.random_range(0..25))
        } else {
            Duration::from_secs(60)
        };
        let keeper = store.keeper().clone();
        match tokio::time::timeout(patience, keeper.install(bytes)).await {
            Ok(Ok(())) => {
                let mut answers = self.answers.lock().expect("no panic");
                assert!(answers.failed.is_none(), "installed after {:?}", answers.failed);
                answers.acknowledged = operation;
                drop(answers);
                self.now = after;
                self.applied = at.index.0;
                self.applied_durably = at.index.0;
                tally.installs += 1;
                cluster.compare_ledger(store);
                true
            }
            Ok(Err(error)) => {
                self.answers.lock().expect("no panic").failed = Some(error);
                self.now = view(store, &after, &self.now);
                false
            }
            Err(_) => {
                tally.interrupted_installs += 1;
                self.now = view(store, &after, &self.now);
                false
            }
        }
    }

    async fn read<E: Engine>(&mut self, store: &Store<E>, random: &mut Random) -> bool {
        let last = self.now.last_index();
        let (start, limit) =
            (random.random_range(0..=last + 2), [0, 100, 1_000, usize::MAX][random.random_range(0..4)]);
        let end = start + random.random_range(0..20);
        let Ok(entries) = store.log().read(start, end, limit) else {
            return self.must_have_failed(store).await;
        };
        let first = start.max(self.now.first_index());
        let expected: Vec<LogId> =
            self.now.log.range(first.min(end)..end).map(|(_, id)| *id).take(entries.len().max(1)).collect();
        assert_eq!(
            entries.iter().map(|entry| entry.id).collect::<Vec<_>>(),
            expected,
            "{start}..{end}, {limit}"
        );
        entries.iter().for_each(|entry| self.check_body(entry));
        let whole = self.now.log.range(first.min(end)..end).count();
        let bytes: usize = entries.iter().map(Entry::len).sum();
        assert!(
            entries.len() <= 1 || limit == 0 || bytes <= limit.saturating_add(2_200),
            "{bytes} of at most {limit} bytes"
        );
        assert!(limit < usize::MAX || entries.len() == whole, "all of {start}..{end}");
        true
    }

    async fn read_buffer<E: Engine>(
        &mut self,
        store: &Store<E>,
        cluster: &Cluster,
        random: &mut Random,
    ) -> bool {
        let from = random.random_range(0..=self.applied + 1);
        let Ok((entries, next)) = store.read_buffer(Position(from), usize::MAX) else {
            return self.must_have_failed(store).await;
        };
        let horizon = store.keeper().read(|state| state.horizon.0);
        let floor = self.now.floor.map_or(0, |floor| floor.index.0);
        let first = from.max(horizon + 1).max(floor + 1);
        let indices: Vec<u64> = entries.iter().map(|entry| entry.id.index.0).collect();
        assert_eq!(indices, (first..=self.applied).collect::<Vec<_>>(), "(horizon, applied]");
        assert!(next.0 > self.applied || entries.is_empty());
        for entry in &entries {
            let index = entry.id.index.0;
            assert_eq!(entry.effects, cluster.effects(index), "effects at {index}");
            assert_eq!(Some(entry.id), cluster.id(index), "only what was committed is served");
        }
        true
    }

    /// Something could not be read or queued: that may be only because the disk has failed, and then nothing more is
    /// acknowledged.
    async fn must_have_failed<E: Engine>(&mut self, store: &Store<E>) -> bool {
        let vote = self.now.vote.unwrap_or(Vote { term: Term(1), node: NodeId(1), committed: false });
        self.operation += 1;
        self.now.vote = Some(vote);
        self.note();
        let error = store
            .log()
            .save_vote(vote)
            .await
            .expect_err("the disk is well, but something could not be read or queued");
        self.answers.lock().expect("no panic").failed = Some(error);
        false
    }
}

/// Which of two states the view shows, where that is not known.
fn view<E: Engine>(store: &Store<E>, after: &LogState, before: &LogState) -> LogState {
    let ends = store.log().ends();
    if ends == (LogEnds { floor: after.floor, last: after.last() }) { after.clone() } else { before.clone() }
}

fn read_state<E: Engine>(store: &Store<E>) -> LogState {
    let log = store.log();
    let ends = log.ends();
    let entries = log.read(0, u64::MAX, usize::MAX).expect("the log can be read");
    let log_state = LogState {
        floor: ends.floor,
        log: entries.iter().map(|entry| (entry.id.index.0, entry.id)).collect(),
        vote: log.vote(),
        committed: log.committed(),
    };
    assert_eq!(log_state.last(), ends.last, "the last entry is there");
    log_state
}
