//! Commands to messages and back, field by field, so that a new command or field does not compile until it has its
//! place here.

use std::time::Duration;

use model::batch::BatchHeader;
use model::command::{Command, RefusedAgain, Rejection};
use model::ids::DocumentId;
use model::{ClusterId, Cursor, DestinationId, GroupId, Ordinal, Position, Timestamp};

use super::EncodeError;
use crate::convert::{
    ConvertError, alarm_kind_from, alarm_kind_number, cause_from, cause_number, id_bytes, id_from, nanos,
    required, severity_from,
};
use crate::packed::{pack, pack_plant, unpack, unpack_plant};
use crate::proto::log as proto;
use proto::entry_header::Command as Body;

/// The message of a command; none for an append, whose message needs its payloads.
pub(super) fn to_body(command: &Command) -> Result<Option<Body>, EncodeError> {
    Ok(Some(match command {
        Command::Append { batches: _ } => return Ok(None),
        Command::Found { cluster, name, lineage } => Body::Found(proto::Found {
            cluster: id_bytes(cluster.0),
            name: name.clone(),
            lineage: lineage.as_str().to_owned(),
        }),
        Command::Lead { node, name, cause, leaderless } => Body::Lead(proto::Lead {
            node: node.0,
            name: name.clone(),
            cause: cause_number(*cause),
            leaderless_nanos: leaderless.map(nanos),
        }),
        Command::Acknowledge { destination, next, rejected } => Body::Acknowledge(proto::Acknowledge {
            destination: destination.0,
            next: Some((*next).into()),
            rejected: rejected.iter().map(Into::into).collect(),
        }),
        Command::Missed { group, grid, last, cause } => Body::Missed(proto::Missed {
            group: group.0,
            grid: grid.0,
            last: *last,
            cause: cause_number(*cause),
        }),
        Command::Reclock { elapsed, next } => {
            let next = next.iter().map(|(grid, slot)| proto::NextSlot { grid: grid.0, slot: *slot });
            Body::Reclock(proto::Reclock { elapsed: elapsed_to(elapsed), next: next.collect() })
        }
        Command::Truncate { below, overrun } => {
            Body::Truncate(proto::Truncate { below: below.0, overrun: overrun.as_deref().map(overrun_to) })
        }
        Command::Configure { base, bundle, plant, elapsed, discard, request } => {
            Body::Configure(proto::Configure {
                base: base.0,
                bundle: Some(pack(bundle)?),
                plant: Some(pack_plant(plant)?),
                elapsed: elapsed_to(elapsed),
                discard: discard.clone(),
                request: Some(request.into()),
            })
        }
        Command::SetDeviceEnabled { device, enabled, until, elapsed, request } => {
            Body::SetDeviceEnabled(proto::SetDeviceEnabled {
                device: device.clone(),
                enabled: *enabled,
                until: until.map(|until| until.0),
                elapsed: elapsed_to(elapsed),
                request: Some(request.into()),
            })
        }
        Command::SetDestinationPaused { destination, paused, request } => {
            Body::SetDestinationPaused(proto::SetDestinationPaused {
                destination: destination.clone(),
                paused: *paused,
                request: Some(request.into()),
            })
        }
        Command::SetDrained { node, drained, request } => {
            let request = Some(request.into());
            Body::SetDrained(proto::SetDrained { node: node.0, drained: *drained, request })
        }
        Command::RetryQuarantine { destination, keys, request } => {
            Body::RetryQuarantine(proto::RetryQuarantine {
                destination: destination.clone(),
                keys: places_to(keys),
                request: Some(request.into()),
            })
        }
        Command::SettleRetries { destination, accepted, refused } => {
            Body::SettleRetries(proto::SettleRetries {
                destination: destination.0,
                accepted: places_to(accepted),
                refused: refused.iter().map(Into::into).collect(),
            })
        }
        Command::Event(event) => Body::Event(event.into()),
        Command::SetAlarm { kind, subject, raised, severity, text } => Body::SetAlarm(proto::SetAlarm {
            kind: alarm_kind_number(*kind),
            subject: subject.clone(),
            raised: *raised,
            severity: proto::Severity::from(*severity).into(),
            text: text.clone(),
        }),
        Command::Stage { document, part, parts, data } => Body::Stage(proto::Stage {
            document: id_bytes(document.0),
            part: *part,
            parts: *parts,
            data: data.clone().into(),
        }),
        Command::ConfigureStaged { base, document, elapsed, discard, request } => {
            Body::ConfigureStaged(proto::ConfigureStaged {
                base: base.0,
                document: id_bytes(document.0),
                elapsed: elapsed_to(elapsed),
                discard: discard.clone(),
                request: Some(request.into()),
            })
        }
    }))
}

/// The command of a message.
pub(super) fn from_body(body: Body) -> Result<Command, ConvertError> {
    Ok(match body {
        Body::Found(proto::Found { cluster, name, lineage }) => Command::Found {
            cluster: ClusterId(id_from(&cluster, "a cluster id")?),
            name,
            lineage: lineage.parse().map_err(|_| ConvertError::Malformed("a lineage"))?,
        },
        Body::Lead(proto::Lead { node, name, cause, leaderless_nanos }) => {
            let leaderless = leaderless_nanos.map(Duration::from_nanos);
            Command::Lead { node: node.into(), name, cause: cause_from(cause)?, leaderless }
        }
        Body::Append(proto::Append { batches }) => {
            let headers: Result<Vec<BatchHeader>, _> = batches.into_iter().map(TryInto::try_into).collect();
            Command::Append { batches: headers? }
        }
        Body::Acknowledge(proto::Acknowledge { destination, next, rejected }) => Command::Acknowledge {
            destination: destination.into(),
            next: required(next, "a cursor")?.into(),
            rejected: rejected.into_iter().map(Rejection::from).collect(),
        },
        Body::Missed(proto::Missed { group, grid, last, cause }) => {
            Command::Missed { group: group.into(), grid: grid.into(), last, cause: cause_from(cause)? }
        }
        Body::Reclock(proto::Reclock { elapsed, next }) => {
            let next = next.into_iter().map(|next| (next.grid.into(), next.slot)).collect();
            Command::Reclock { elapsed: elapsed_from(elapsed), next }
        }
        Body::Truncate(proto::Truncate { below, overrun }) => {
            Command::Truncate { below: below.into(), overrun: overrun.map(overrun_from) }
        }
        Body::Configure(configure) => configure_from(configure)?,
        Body::SetDeviceEnabled(proto::SetDeviceEnabled { device, enabled, until, elapsed, request }) => {
            Command::SetDeviceEnabled {
                device,
                enabled,
                until: until.map(Timestamp),
                elapsed: elapsed_from(elapsed),
                request: required(request, "a request")?.into(),
            }
        }
        Body::SetDestinationPaused(proto::SetDestinationPaused { destination, paused, request }) => {
            Command::SetDestinationPaused {
                destination,
                paused,
                request: required(request, "a request")?.into(),
            }
        }
        Body::SetDrained(proto::SetDrained { node, drained, request }) => Command::SetDrained {
            node: node.into(),
            drained,
            request: required(request, "a request")?.into(),
        },
        Body::RetryQuarantine(proto::RetryQuarantine { destination, keys, request }) => {
            let request = required(request, "a request")?.into();
            Command::RetryQuarantine { destination, keys: places_from(keys), request }
        }
        Body::SettleRetries(proto::SettleRetries { destination, accepted, refused }) => {
            Command::SettleRetries {
                destination: destination.into(),
                accepted: places_from(accepted),
                refused: refused.into_iter().map(RefusedAgain::from).collect(),
            }
        }
        Body::Event(event) => Command::Event(event.try_into()?),
        Body::SetAlarm(proto::SetAlarm { kind, subject, raised, severity, text }) => Command::SetAlarm {
            kind: alarm_kind_from(kind)?,
            subject,
            raised,
            severity: severity_from(severity)?,
            text,
        },
        Body::Stage(proto::Stage { document, part, parts, data }) => Command::Stage {
            document: DocumentId(id_from(&document, "the id of a document")?),
            part,
            parts,
            data: data.to_vec(),
        },
        Body::ConfigureStaged(configure) => {
            let proto::ConfigureStaged { base, document, elapsed, discard, request } = configure;
            Command::ConfigureStaged {
                base: base.into(),
                document: DocumentId(id_from(&document, "the id of a document")?),
                elapsed: elapsed_from(elapsed),
                discard,
                request: required(request, "a request")?.into(),
            }
        }
    })
}

fn configure_from(configure: proto::Configure) -> Result<Command, ConvertError> {
    let proto::Configure { base, bundle, plant, elapsed, discard, request } = configure;
    Ok(Command::Configure {
        base: base.into(),
        bundle: unpack(&required(bundle, "a bundle")?)?,
        plant: Box::new(unpack_plant(&required(plant, "a plant")?)?),
        elapsed: elapsed_from(elapsed),
        discard,
        request: required(request, "a request")?.into(),
    })
}

fn elapsed_to(elapsed: &[(GroupId, std::time::Duration)]) -> Vec<proto::Elapsed> {
    elapsed.iter().map(Into::into).collect()
}

fn elapsed_from(elapsed: Vec<proto::Elapsed>) -> Vec<(GroupId, std::time::Duration)> {
    elapsed.into_iter().map(Into::into).collect()
}

fn places_to(places: &[(Position, Ordinal)]) -> Vec<proto::Cursor> {
    places
        .iter()
        .map(|(position, ordinal)| Cursor { position: *position, ordinal: *ordinal }.into())
        .collect()
}

fn places_from(places: Vec<proto::Cursor>) -> Vec<(Position, Ordinal)> {
    let places = places.into_iter().map(Cursor::from);
    places.map(|Cursor { position, ordinal }| (position, ordinal)).collect()
}

fn overrun_to(losses: &[(DestinationId, u64)]) -> proto::Overrun {
    let losses = losses
        .iter()
        .map(|(destination, samples)| proto::Loss { destination: destination.0, samples: *samples });
    proto::Overrun { losses: losses.collect() }
}

fn overrun_from(overrun: proto::Overrun) -> Vec<(DestinationId, u64)> {
    overrun.losses.into_iter().map(|loss| (loss.destination.into(), loss.samples)).collect()
}
