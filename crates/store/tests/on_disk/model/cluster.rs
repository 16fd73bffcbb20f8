//! What the cluster committed: entries that never change, the ledger at each position, snapshots.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use holdfast_store::engine::sim::SimDisk;
use holdfast_store::ledger::{Body, Digest, Effects, Ledger, LogId, Membership};
use holdfast_store::{Entry, Store};
use model::command::{Command, Event, Request, Severity};
use model::plant::Schedule;
use model::{Cause, Cursor, GridId, Member, NodeId, Position, Term};
use rand::Rng;
use runtime::random::Random;

use crate::support::{
    self, GROUP, HISTORIAN, append, command, configure, entry, lead, noise, open_sim, plant, polled, pushed,
    truncate,
};

/// The truth that nodes follow.
#[derive(Default)]
pub(super) struct Cluster {
    /// Committed; the entry with index i is at place i − 1.
    pub(super) entries: Vec<Entry>,
    pub(super) term: u64,
    ledger: Ledger,
    digests: Vec<Digest>,
    effects: BTreeMap<u64, Effects>,
    clock: i64,
}

impl Cluster {
    pub(super) fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(super) fn id(&self, index: u64) -> Option<LogId> {
        Some(self.entries.get(usize::try_from(index.checked_sub(1)?).expect("small"))?.id)
    }

    /// The digest of the ledger behind the entry at `index`.
    pub(super) fn digest(&self, index: u64) -> Digest {
        index.checked_sub(1).map_or(Digest::default(), |place| self.digests[place as usize])
    }

    /// What apply did at `index`, while that is above the horizon.
    pub(super) fn effects(&self, index: u64) -> Effects {
        self.effects.get(&index).cloned().unwrap_or_default()
    }

    /// Commits entries up to `index`.
    pub(super) fn commit_up_to(&mut self, index: u64, random: &mut Random) {
        while self.last() < index {
            let body = self.next_body(random);
            let next = entry(self.term, self.last() + 1, body);
            self.ledger.apply(next.id, &next.body).expect("it can be read");
            self.ledger.take_changes();
            self.digests.push(self.ledger.digest());
            if let Some(effects) = self.ledger.state().effects.get(&next.id.index) {
                self.effects.insert(next.id.index.0, effects.clone());
            }
            self.entries.push(next);
        }
    }

    fn next_body(&mut self, random: &mut Random) -> Body {
        let state = self.ledger.state();
        if state.cluster.is_none() {
            self.term = self.term.max(1);
            return support::found();
        }
        if random.random_bool(0.05) {
            self.term += 1;
        }
        if state.reign().is_none_or(|reign| reign.term != Term(self.term)) {
            return lead(1 + self.term % 3);
        }
        self.clock += 700;
        if state.revision().0 == 0 {
            return configure(self.clock, 0, plant(&["historian"]));
        }
        let applied = state.applied_position().0;
        let grid = state.grids.get(&GROUP).copied();
        let session = u128::from(random.random_range(1..3_u32));
        let sequence = state.sessions.get(&(session.into())).map_or(0, |session| session.last);
        match random.random_range(0..20) {
            0 => Body::Blank,
            1 => {
                let at = Command::Event(Event {
                    severity: Severity::Info,
                    subject: "cluster".into(),
                    text: format!("event {applied}"),
                });
                command(self.clock, &at)
            }
            2 => {
                let mut plant = plant(&["historian"]);
                let period = Duration::from_millis(random.random_range(1..4) * 500);
                plant.devices[0].groups[0].schedule = Some(Schedule { period, offset: Duration::ZERO });
                configure(self.clock, state.revision().0 - random.random_range(0..2), plant)
            }
            3 => {
                let enabled = grid.is_none();
                let request = Request::default();
                let elapsed = vec![(GROUP, Duration::from_millis(random.random_range(0..3_000)))];
                let device = "press".to_owned();
                let change = Command::SetDeviceEnabled { device, enabled, until: None, elapsed, request };
                command(self.clock, &change)
            }
            4 => {
                let elapsed = vec![(GROUP, Duration::from_millis(random.random_range(0..3_000)))];
                let next = grid.map(|grid| (grid.id, grid.next.saturating_sub(random.random_range(0..3))));
                command(self.clock, &Command::Reclock { elapsed, next: next.into_iter().collect() })
            }
            5 => {
                let (grid, next) = grid.map_or((GridId(9), 0), |grid| (grid.id, grid.next));
                let last = next + random.random_range(0..3);
                command(self.clock, &Command::Missed { group: GROUP, grid, last, cause: Cause::DeviceDown })
            }
            6 => {
                let member = |id: u64| (id, Member { name: format!("node-{id}"), ..Member::default() });
                let log_id = Some(LogId { term: Term(self.term), index: Position(applied + 1) });
                let voters = 3 + random.random_range(0..2);
                Body::Membership(Membership {
                    log_id,
                    configs: vec![(1..=voters).collect()],
                    nodes: (1..=voters).map(member).collect(),
                })
            }
            7..=9 => {
                let next = Cursor::at(Position(random.random_range(0..=applied + 1)));
                let rejected = Vec::new();
                command(self.clock, &Command::Acknowledge { destination: HISTORIAN, next, rejected })
            }
            10 | 11 => truncate(state.delivered_horizon().0 + random.random_range(0..3)),
            12 => noise(session, sequence + 1, random.random_range(1..2_000)),
            13 => {
                let node = NodeId(2);
                let drained = !state.drained.contains_key(&node);
                command(self.clock, &Command::SetDrained { node, drained, request: Request::default() })
            }
            _ => {
                let (grid, next) = grid.map_or((GridId(9), 0), |grid| (grid.id, grid.next));
                let slot = (next + [0, 0, 0, 1, 4][random.random_range(0..5)])
                    .saturating_sub(random.random_range(0..2));
                let sequence = sequence + [1, 1, 1, 0, 2][random.random_range(0..5)];
                let batches = [polled(grid, slot), pushed(session, sequence), polled(grid, slot)];
                append(&batches[..random.random_range(1..=3)])
            }
        }
    }

    /// The bytes of a snapshot at some position above `above`, from a node that has applied everything.
    pub(super) async fn snapshot_above(&self, above: u64, random: &mut Random) -> Option<(LogId, Bytes)> {
        if above >= self.last() {
            return None;
        }
        let at = random.random_range(above + 1..=self.last());
        let peer = open_sim(&SimDisk::new(1)).await.expect("a new disk opens");
        let (before, after) = self.entries.split_at(at as usize);
        peer.commit(before).await;
        peer.store.keeper().write_checkpoint().await.expect("the disk is well");
        peer.commit(after).await;
        let snapshot = peer.store.keeper().newest_snapshot().expect("the disk is well")?;
        assert_eq!(snapshot.header.at.index.0, at, "there is only one checkpoint");
        assert_eq!(snapshot.header.digest, self.digest(at).to_string(), "the ledger as it was at {at}");
        self.compare_ledger(&peer.store);
        peer.stop().await;
        Some((snapshot.header.at, snapshot.bytes))
    }

    /// A store's ledger is that of the cluster at the position it has applied.
    pub(super) fn compare_ledger<E: holdfast_store::engine::Engine>(&self, store: &Store<E>) {
        let (applied, digest) = store.keeper().digest();
        let applied = applied.map_or(0, |id| id.index.0);
        assert_eq!(digest, self.digest(applied), "two ledgers of the same log, at {applied}");
    }
}
