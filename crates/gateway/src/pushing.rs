//! The seams between `ingest` and the cluster: pushed batches enter the log here, on any node.

use std::time::Duration;

use ingest::{Log, Outcome, ProposeError, Proposed, TagResolver, Unresolved};
use model::{Lineage, Ordinal, Revision, SessionId, TagId, Term, ValueType};
use replication::Replica;
use store::BatchOutcome;
use store::engine::Engine;
use store::ledger::State;
use tokio::sync::watch;
use wire::EncodedBatch;

/// How long an answer is waited for before it counts as unknown.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Proposes pushed batches through this node's replica.
pub(crate) struct ReplicatedLog<E: Engine> {
    replica: Replica<E>,
    reign: watch::Receiver<Term>,
}

impl<E: Engine> ReplicatedLog<E> {
    /// Starts following reigns on this node's ledger, for as long as anybody listens.
    pub(crate) fn start(replica: Replica<E>, spawner: &runtime::Spawner) -> Self {
        let (sender, reign) = watch::channel(term(&replica));
        let mut orders = replica.store().keeper().orders();
        let followed = replica.clone();
        spawner.spawn("reigns for ingest", async move {
            loop {
                sender.send_if_modified(|known| {
                    let now = term(&followed);
                    std::mem::replace(known, now) != now
                });
                tokio::select! {
                    changed = orders.changed() => if changed.is_err() { return Ok::<(), runtime::Failure>(()) },
                    // Not when the node is told to stop: ingest then waits for what is in flight, and the next reign
                    // decides that.
                    () = sender.closed() => return Ok(()),
                }
            }
        });
        Self { replica, reign }
    }
}

fn term<E: Engine>(replica: &Replica<E>) -> Term {
    replica.store().keeper().read(|state| state.reign().map(|reign| reign.term).unwrap_or_default())
}

impl<E: Engine> Log for ReplicatedLog<E> {
    async fn propose(&self, batches: Vec<EncodedBatch>) -> Result<Proposed, ProposeError> {
        let counts: Vec<u32> = batches.iter().map(|batch| batch.header.count).collect();
        let applied = self.replica.append(&batches, PATIENCE).await.map_err(|error| match error {
            replication::ProposeError::NotLeader { .. } => ProposeError::NoLeader,
            replication::ProposeError::Unreachable(_) | replication::ProposeError::NoQuorum => {
                ProposeError::NoQuorum
            }
            replication::ProposeError::NoSpace { .. } => ProposeError::NoSpace,
            replication::ProposeError::Overloaded { .. } => ProposeError::Overloaded,
            replication::ProposeError::Invalid(_) | replication::ProposeError::Unknown => {
                ProposeError::Unknown
            }
            replication::ProposeError::Stopped => ProposeError::Stopped,
        })?;
        let store::Outcome::Appended { position, batches } = applied.outcome else {
            return Err(ProposeError::Unknown);
        };
        let outcomes = outcomes(&batches, &counts)?;
        let lineage = self.replica.store().keeper().read(|state| state.lineage_at(position));
        Ok(Proposed { position, lineage: lineage.unwrap_or_else(|| Lineage::from_random(0)), outcomes })
    }

    fn applied(&self, session: SessionId) -> u64 {
        self.replica.store().keeper().read(|state| state.sessions.get(&session).map_or(0, |known| known.last))
    }

    fn reign(&self) -> watch::Receiver<Term> {
        self.reign.clone()
    }
}

/// What `apply` said to the batches of one entry, which have so many samples each.
fn outcomes(batches: &[BatchOutcome], counts: &[u32]) -> Result<Vec<Outcome>, ProposeError> {
    let mut first = 0;
    let outcomes = batches.iter().zip(counts).map(|(outcome, count)| {
        let first_ordinal = Ordinal(first);
        first += count;
        match *outcome {
            BatchOutcome::Accepted => Ok(Outcome::Accepted { first_ordinal }),
            BatchOutcome::Expected { sequence } => Ok(Outcome::Expected { sequence }),
            BatchOutcome::RevisionGone => Ok(Outcome::RevisionGone),
            BatchOutcome::Already | BatchOutcome::Stale { .. } => Ok(Outcome::Already),
            // The whole entry did nothing, and never will.
            BatchOutcome::Fenced => Err(ProposeError::NoLeader),
        }
    });
    outcomes.collect()
}

/// Resolves tags in the revision in force on this node.
pub struct PushedTags<E: Engine>(pub(crate) Replica<E>);

impl<E: Engine> TagResolver for PushedTags<E> {
    fn resolve(&self, name: &str) -> Result<(TagId, ValueType), Unresolved> {
        self.0.store().keeper().read(|state| {
            let tag =
                state.catalog().and_then(|catalog| catalog.tag_named(name)).ok_or(Unresolved::Unknown)?;
            if tag.pushed { Ok((tag.id, tag.facts.value_type)) } else { Err(Unresolved::Polled) }
        })
    }

    fn revision(&self) -> Revision {
        self.0.store().keeper().read(State::revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_fenced_is_not_taken_to_be_there_already() {
        let fenced = [BatchOutcome::Fenced, BatchOutcome::Fenced];
        assert_eq!(outcomes(&fenced, &[2, 1]), Err(ProposeError::NoLeader));
        let stored = [BatchOutcome::Already, BatchOutcome::Accepted, BatchOutcome::Accepted];
        let accepted = |first| Outcome::Accepted { first_ordinal: Ordinal(first) };
        assert_eq!(outcomes(&stored, &[2, 1, 4]), Ok(vec![Outcome::Already, accepted(2), accepted(3)]));
    }
}
