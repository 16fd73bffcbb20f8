//! The answers of forwarded proposals: [`Outcome`] to `holdfast.peer.v1` and back.

use model::ids::{DestinationId, GridId, Revision};
use model::{Position, Term};
use store::{BatchOutcome, Outcome, Refusal, Thing};
use wire::proto::peer as pb;
use wire::proto::peer::{batch_outcome, outcome, outcome_refusal};

use super::convert::Malformed;

pub(super) fn to_proto(outcome: &Outcome) -> pb::Outcome {
    use outcome::Outcome as Wire;
    let outcome = match outcome {
        Outcome::Nothing => Wire::Nothing(outcome::Nothing {}),
        Outcome::Done => Wire::Done(outcome::Done {}),
        Outcome::Leading { position } => Wire::Leading(outcome::Leading { position: position.0 }),
        Outcome::Appended { position, batches } => Wire::Appended(outcome::Appended {
            position: position.0,
            batches: batches.iter().map(batch_to_proto).collect(),
        }),
        Outcome::Configured { revision } => Wire::Configured(outcome::Configured { revision: revision.0 }),
        Outcome::Refused(refusal) => Wire::Refused(refusal_to_proto(refusal)),
    };
    pb::Outcome { outcome: Some(outcome) }
}

pub(super) fn from_proto(outcome: Option<pb::Outcome>) -> Result<Outcome, Malformed> {
    use outcome::Outcome as Wire;
    Ok(match outcome.and_then(|outcome| outcome.outcome).ok_or(Malformed("outcome"))? {
        Wire::Nothing(_) => Outcome::Nothing,
        Wire::Done(_) => Outcome::Done,
        Wire::Leading(leading) => Outcome::Leading { position: Position(leading.position) },
        Wire::Appended(appended) => Outcome::Appended {
            position: Position(appended.position),
            batches: appended.batches.into_iter().map(batch_from_proto).collect::<Result<_, _>>()?,
        },
        Wire::Configured(configured) => Outcome::Configured { revision: Revision(configured.revision) },
        Wire::Refused(refusal) => Outcome::Refused(refusal_from_proto(refusal)?),
    })
}

fn batch_to_proto(batch: &BatchOutcome) -> pb::BatchOutcome {
    use batch_outcome::Outcome as Wire;
    let outcome = match *batch {
        BatchOutcome::Accepted => Wire::Accepted(batch_outcome::Accepted {}),
        BatchOutcome::Already => Wire::Already(batch_outcome::Already {}),
        BatchOutcome::Expected { sequence } => Wire::Expected(batch_outcome::Expected { sequence }),
        BatchOutcome::Stale { grid } => Wire::Stale(batch_outcome::Stale { grid: grid.0 }),
        BatchOutcome::Fenced => Wire::Fenced(batch_outcome::Fenced {}),
        BatchOutcome::RevisionGone => Wire::RevisionGone(batch_outcome::RevisionGone {}),
    };
    pb::BatchOutcome { outcome: Some(outcome) }
}

fn batch_from_proto(batch: pb::BatchOutcome) -> Result<BatchOutcome, Malformed> {
    use batch_outcome::Outcome as Wire;
    Ok(match batch.outcome.ok_or(Malformed("batch outcome"))? {
        Wire::Accepted(_) => BatchOutcome::Accepted,
        Wire::Already(_) => BatchOutcome::Already,
        Wire::Expected(expected) => BatchOutcome::Expected { sequence: expected.sequence },
        Wire::Stale(stale) => BatchOutcome::Stale { grid: GridId(stale.grid) },
        Wire::Fenced(_) => BatchOutcome::Fenced,
        Wire::RevisionGone(_) => BatchOutcome::RevisionGone,
    })
}

fn refusal_to_proto(refusal: &Refusal) -> pb::OutcomeRefusal {
    use outcome_refusal::Reason;
    let reason = match refusal {
        Refusal::Fenced { proposed, reign } => {
            Reason::Fenced(outcome_refusal::Fenced { proposed: proposed.0, reign: reign.0 })
        }
        Refusal::Revision { base, current } => {
            Reason::Revision(outcome_refusal::Revision { base: base.0, current: current.0 })
        }
        Refusal::Backlog { name } => Reason::Backlog(outcome_refusal::Backlog { name: name.clone() }),
        Refusal::Horizon { below, destination } => {
            Reason::Horizon(outcome_refusal::Horizon { below: below.0, destination: destination.0 })
        }
        Refusal::Unknown { what, name } => {
            Reason::Unknown(outcome_refusal::UnknownThing { what: what.to_string(), name: name.clone() })
        }
    };
    pb::OutcomeRefusal { reason: Some(reason) }
}

fn refusal_from_proto(refusal: pb::OutcomeRefusal) -> Result<Refusal, Malformed> {
    use outcome_refusal::Reason;
    Ok(match refusal.reason.ok_or(Malformed("refusal"))? {
        Reason::Fenced(fenced) => {
            Refusal::Fenced { proposed: Term(fenced.proposed), reign: Term(fenced.reign) }
        }
        Reason::Revision(revision) => {
            Refusal::Revision { base: Revision(revision.base), current: Revision(revision.current) }
        }
        Reason::Backlog(backlog) => Refusal::Backlog { name: backlog.name },
        Reason::Horizon(horizon) => Refusal::Horizon {
            below: Position(horizon.below),
            destination: DestinationId(horizon.destination),
        },
        Reason::Unknown(unknown) => {
            Refusal::Unknown { what: Thing::from_word(&unknown.what), name: unknown.name }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_survive_the_wire() {
        let batches = vec![
            BatchOutcome::Accepted,
            BatchOutcome::Already,
            BatchOutcome::Expected { sequence: 12 },
            BatchOutcome::Stale { grid: GridId(7) },
            BatchOutcome::Fenced,
            BatchOutcome::RevisionGone,
        ];
        let refusals = [
            Refusal::Fenced { proposed: Term(3), reign: Term(4) },
            Refusal::Revision { base: Revision(40), current: Revision(41) },
            Refusal::Backlog { name: "historian".into() },
            Refusal::Horizon { below: Position(900), destination: DestinationId(2) },
            Refusal::Unknown { what: Thing::Device, name: "press-9".into() },
            Refusal::Unknown { what: Thing::Destination, name: "historian".into() },
            Refusal::Unknown { what: Thing::OpenGrid, name: "7".into() },
            Refusal::Unknown { what: Thing::StagedDocument, name: "9".into() },
            Refusal::Unknown { what: Thing::Other, name: "x".into() },
        ];
        let outcomes = [
            Outcome::Nothing,
            Outcome::Done,
            Outcome::Leading { position: Position(8) },
            Outcome::Appended { position: Position(9), batches },
            Outcome::Configured { revision: Revision(41) },
        ];
        for outcome in outcomes.into_iter().chain(refusals.map(Outcome::Refused)) {
            assert_eq!(from_proto(Some(to_proto(&outcome))), Ok(outcome));
        }
        assert_eq!(Thing::from_word("valve"), Thing::Other, "a newer version knows it");
        assert_eq!(from_proto(None), Err(Malformed("outcome")));
    }
}
