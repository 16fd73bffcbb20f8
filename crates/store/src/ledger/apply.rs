//! `apply`: one committed entry in, one outcome out, the same on every node.
//!
//! - Total: a command that cannot be done is refused, and the refusal is the result.
//! - Deterministic: it reads the entry and the state, never a clock, a random number or another file.
//! - The fence is the entry's own term: but for `Lead` and `Found`, a command whose term is not that of the reign
//!   is refused.
//! - An entry that cannot be read is not skipped: the node stops, because going on would make replicas differ. That is found
//!   out in [`super::prepare`], and so is everything that takes long.

use std::time::Duration;

use model::command::{Command, Stamp};
use model::ids::{NodeId, SessionId};
use model::{Cause, Position, Timestamp};
use wire::entry::OpenError;

use super::Change;
use super::events::by;
use super::prepare::{Named, Prepared, Task, Work};
use super::rows::Row;
use super::staged::unknown;
use super::state::{Cluster, LogId, Membership, Reign, Session, State};
use crate::engine::EngineError;
use crate::outcome::{Outcome, Refusal};

/// A push session unused for this long is forgotten, in steady command time: a clock that is set ends none.
const SESSION_LIFETIME: Duration = Duration::from_secs(24 * 3_600);
/// A reign that lasted this long is no relapse when it ends.
const STEADY_NANOS: i64 = 3_600 * 1_000_000_000;

/// What an entry holds.
#[derive(Debug, Clone)]
pub enum Body {
    /// Nothing: a new leader's first entry.
    Blank,
    /// A change of membership.
    Membership(Membership),
    /// An encoded command.
    Command(bytes::Bytes),
}

/// `apply` cannot go on; the node must stop.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The entry cannot be read, or was written by a newer version.
    #[error("entry at {position} cannot be applied: {source}")]
    Unreadable {
        /// Its position.
        position: Position,
        /// Why.
        source: OpenError,
    },
    /// The disk has failed.
    #[error(transparent)]
    Disk(#[from] EngineError),
}

impl Change<'_> {
    /// Applies one entry, which was prepared for this state.
    pub(super) fn entry(&mut self, prepared: Prepared) -> Outcome {
        let Prepared { id, behind, work } = prepared;
        assert_eq!(behind, self.state.applied, "entry {id:?} was prepared for another state");
        let outcome = match work {
            Work::Nothing => Outcome::Nothing,
            Work::Membership { membership, named } => self.membership(id.index, membership, named),
            Work::Command { stamp, task } => self.task(id, stamp, task),
        };
        self.state.applied = Some(id);
        if !runtime::mutant("applied-is-not-written-with-its-rows") {
            self.touch(Row::Applied);
        }
        outcome
    }

    fn membership(&mut self, at: Position, membership: Membership, named: Option<Named>) -> Outcome {
        self.tell_members(at, &membership);
        for (id, member) in &membership.nodes {
            self.state.node_names.insert(NodeId(*id), member.name.clone());
        }
        if let Some(Named { registry, catalog }) = named {
            self.state.registry = registry;
            // The catalog in force names members that have joined since: they have system tags.
            let revision = self.state.revisions.values_mut().next_back();
            if let (Some(revision), Some(catalog)) = (revision, catalog) {
                revision.catalog = Some(catalog);
            }
            self.touch(Row::Registry);
        }
        self.state.membership = membership;
        self.forget_standing_of_removed();
        self.touch(Row::Membership);
        Outcome::Nothing
    }

    fn task(&mut self, id: LogId, stamp: Stamp, task: Task) -> Outcome {
        let fenced = self.state.is_fenced(id);
        if !fenced && self.state.reign().is_some_and(|reign| reign.boot == stamp.boot) {
            self.state.steady.follow(stamp.boot, stamp.at);
        }
        match task {
            Task::Plain { size, command } => self.command(id, stamp, size, command),
            Task::Configure(_) | Task::ConfigureStaged { .. } if fenced => self.fenced(id),
            Task::Configure(parts) => self.configure(id.index, stamp, parts),
            Task::ConfigureStaged { document, parts } => {
                self.drop_staged(document);
                match parts {
                    Some(parts) => self.configure(id.index, stamp, parts),
                    None => unknown(document),
                }
            }
        }
    }

    fn fenced(&self, id: LogId) -> Outcome {
        let reign = self.state.reign().map(|reign| reign.term).unwrap_or_default();
        Outcome::Refused(Refusal::Fenced { proposed: id.term, reign })
    }

    fn command(&mut self, id: LogId, stamp: Stamp, size: usize, command: Command) -> Outcome {
        let at = id.index;
        let fenced = self.state.is_fenced(id);
        match command {
            Command::Found { cluster, name, lineage } => {
                self.found(at, Cluster { id: cluster, name }, lineage)
            }
            Command::Lead { node, name, cause, leaderless } => {
                self.lead(id, stamp, node, name, cause, leaderless)
            }
            Command::Append { batches } => self.append(at, size, &batches, fenced),
            _ if fenced => self.fenced(id),
            Command::Acknowledge { destination, next, rejected } => {
                self.acknowledge(at, stamp, destination, next, rejected)
            }
            Command::Missed { group, grid, last, cause } => self.missed(at, group, grid, last, cause),
            Command::Reclock { elapsed, next } => self.reclock(at, stamp, &elapsed, &next),
            Command::Truncate { below, overrun } => self.truncate(at, below, overrun.as_deref()),
            Command::SetDeviceEnabled { device, enabled, until, elapsed, request } => {
                self.set_device_enabled(at, stamp, device, enabled, until, &elapsed, request)
            }
            Command::SetDestinationPaused { destination, paused, request } => {
                self.set_destination_paused(at, stamp, &destination, paused, request)
            }
            Command::SetDrained { node, drained, request } => {
                self.set_drained(at, stamp, node, drained, request)
            }
            Command::RetryQuarantine { destination, keys, request } => {
                let outcome = self.retry_quarantine(&destination, &keys);
                if outcome == Outcome::Done {
                    let text = format!("refused records are offered again {}", by(&request));
                    self.tell(at, stamp.at, format!("destination/{destination}"), text);
                }
                outcome
            }
            Command::SettleRetries { destination, accepted, refused } => {
                self.settle_retries(at, stamp, destination, &accepted, refused)
            }
            Command::Event(event) => self.event(at, stamp.at, event),
            Command::Stage { document, part, parts, data } => self.stage(at, document, part, parts, data),
            Command::SetAlarm { kind, subject, raised, severity, text } => {
                self.set_alarm(at, stamp, kind, subject, raised, severity, text)
            }
            Command::Configure { .. } | Command::ConfigureStaged { .. } => {
                unreachable!("a configuration is prepared as one")
            }
        }
    }

    fn found(&mut self, at: Position, cluster: Cluster, lineage: model::Lineage) -> Outcome {
        if self.state.cluster.is_none() {
            self.state.cluster = Some(cluster);
            self.state.lineages.push((at, lineage));
            self.touch(Row::Cluster);
        }
        Outcome::Done
    }

    fn lead(
        &mut self,
        id: LogId,
        stamp: Stamp,
        node: NodeId,
        name: String,
        cause: Cause,
        leaderless: Option<Duration>,
    ) -> Outcome {
        let position = match self.state.reign() {
            Some(reign) if reign.term >= id.term => reign.position,
            before => {
                let lost = before.filter(|before| before.node != node && cause == Cause::Failover).cloned();
                if let Some(lost) = lost {
                    self.count_relapse(&lost, stamp.at);
                }
                let reign = Reign {
                    position: id.index,
                    term: id.term,
                    node,
                    name,
                    cause,
                    boot: stamp.boot,
                    since: stamp.at,
                };
                self.tell_reign(&reign, leaderless);
                self.state.reigns.push(reign);
                self.touch(Row::Reigns);
                self.state.steady.follow(stamp.boot, stamp.at);
                // What an earlier reign still had in flight is fenced from here on.
                self.state.closed.clear();
                self.touch(Row::Closed);
                id.index
            }
        };
        self.forget_old_sessions();
        Outcome::Leading { position }
    }

    /// Leadership was lost without a hand-over. Soon after it had been handed there, that is a relapse; otherwise the
    /// count begins anew.
    fn count_relapse(&mut self, lost: &Reign, now: Timestamp) {
        let was_handed_over = lost.cause == Cause::Switchover;
        let is_soon = now.nanos_since(lost.since) < STEADY_NANOS;
        let before = self.state.relapses.get(&lost.node).copied().unwrap_or(0);
        match was_handed_over && is_soon {
            true => self.state.relapses.insert(lost.node, before.saturating_add(1)),
            false => self.state.relapses.remove(&lost.node),
        };
        self.touch(Row::Relapses);
    }

    /// What operators and history say of a node that is no member any more says nothing of anybody.
    fn forget_standing_of_removed(&mut self) {
        let State { membership, drained, relapses, .. } = &mut *self.state;
        let before = (drained.len(), relapses.len());
        drained.retain(|node, _| membership.nodes.contains_key(&node.0));
        relapses.retain(|node, _| membership.nodes.contains_key(&node.0));
        if (drained.len(), relapses.len()) != before {
            self.touch(Row::Drained);
            self.touch(Row::Relapses);
        }
    }

    fn forget_old_sessions(&mut self) {
        let now = self.state.steady.now;
        let is_old = |session: &Session| now.saturating_sub(session.used) > SESSION_LIFETIME;
        let old: Vec<SessionId> =
            self.state.sessions.iter().filter(|(_, session)| is_old(session)).map(|(id, _)| *id).collect();
        for session in old {
            self.state.sessions.remove(&session);
            self.touch(Row::Session(session));
        }
    }
}
