//! What operators switch and look up beside the plant: devices, destinations, quarantine, events.

use model::command::{Command, Severity};
use model::ids::DestinationId;
use model::plant::route::{CompiledRoutes, Pattern, Route};
use model::{Ordinal, Position, SampleKey};
use store::engine::Engine;
use store::ledger::{LoggedEvent, Quarantined, State};
use wire::proto::v1 as pb;
use wire::times::{duration_from_proto, timestamp_to_proto};

use super::failure::Failure;
use super::retries::Order;
use super::{AdminService, request, views};

/// How many items are listed where no limit is given.
const LISTED: usize = 1_000;
/// How many tags are listed where no limit is given.
const LISTED_TAGS: usize = 100_000;

impl<E: Engine> AdminService<E> {
    pub(super) async fn set_device_enabled(
        &self,
        asked: pb::SetDeviceEnabledRequest,
        principal: &str,
    ) -> Result<(), Failure> {
        let until = match asked.duration {
            Some(_) if asked.enabled => {
                return Err(Failure::BadArgument(
                    "a device is put back for good: leave the duration out".to_owned(),
                ));
            }
            Some(duration) => {
                let wrong = || Failure::BadArgument("the duration must be longer than nothing".to_owned());
                let duration = duration_from_proto(&duration).filter(|duration| !duration.is_zero());
                Some(self.now().plus(duration.ok_or_else(wrong)?))
            }
            None => None,
        };
        let command = Command::SetDeviceEnabled {
            device: asked.id,
            enabled: asked.enabled,
            until,
            elapsed: Vec::new(),
            request: request(principal, &asked.reason),
        };
        self.change(&command).await.map(|_| ())
    }

    pub(super) async fn set_destination_paused(
        &self,
        asked: pb::SetDestinationPausedRequest,
        principal: &str,
    ) -> Result<(), Failure> {
        let command = Command::SetDestinationPaused {
            destination: asked.id,
            paused: asked.paused,
            request: request(principal, &asked.reason),
        };
        self.change(&command).await.map(|_| ())
    }

    pub(super) fn tags(&self, asked: &pb::ListTagsRequest) -> Result<pb::ListTagsResponse, Failure> {
        let names_system = asked.patterns.iter().any(|pattern| pattern.starts_with('$'));
        let mut asked_for = asked.patterns.clone();
        // Asked for besides: what the patterns say is about the plant's.
        if asked.system && !asked_for.is_empty() && !names_system {
            if asked_for.iter().all(|pattern| pattern.starts_with('!')) {
                asked_for.push("**".to_owned());
            }
            asked_for.push("$*/**".to_owned());
        }
        let system = asked.system || names_system;
        let wanted = patterns(&asked_for)?;
        let limit = limit(asked.limit, LISTED_TAGS);
        let keeper = self.replica().store().keeper();
        let (tags, total) = keeper.read(|state| views::tags(state, &wanted, system, limit));
        Ok(pb::ListTagsResponse { tags, total })
    }

    pub(super) fn quarantine(
        &self,
        asked: &pb::ListQuarantineRequest,
    ) -> Result<pb::ListQuarantineResponse, Failure> {
        let limit = limit(asked.limit, LISTED);
        self.replica().store().keeper().read(|state| {
            let only = match asked.destination.as_str() {
                "" => None,
                name => Some(number_of(state, name)?),
            };
            let keys = match only {
                Some(number) => places(state, &asked.destination, number, &asked.keys)?,
                None if asked.keys.is_empty() => Vec::new(),
                None => {
                    let text = "a key belongs to a destination: name it, too".to_owned();
                    return Err(Failure::BadArgument(text));
                }
            };
            let wanted = state.quarantine.iter().filter(|((id, position, ordinal), _)| {
                only.is_none_or(|only| only == *id)
                    && (keys.is_empty() || keys.contains(&(*position, *ordinal)))
            });
            let total = wanted.clone().count() as u64;
            let records = wanted.take(limit).map(|(key, record)| quarantined(state, *key, record)).collect();
            Ok(pb::ListQuarantineResponse { records, total })
        })
    }

    pub(super) async fn retry_quarantine(
        &self,
        asked: pb::RetryQuarantineRequest,
        principal: &str,
    ) -> Result<pb::RetryQuarantineResponse, Failure> {
        if asked.all != asked.keys.is_empty() {
            return Err(Failure::BadArgument(
                "name records by their keys, or ask for all of them".to_owned(),
            ));
        }
        let destination = asked.destination;
        let order = self.replica().store().keeper().read(|state| {
            let number = number_of(state, &destination)?;
            let places = match asked.all {
                true => state.quarantined(number).map(|((_, at, ordinal), _)| (*at, *ordinal)).collect(),
                false => places(state, &destination, number, &asked.keys)?,
            };
            Ok::<_, Failure>(Order::new(state, number, places))
        })?;
        if order.places.is_empty() {
            return Ok(pb::RetryQuarantineResponse::default());
        }
        let (keys, request) = (order.places.clone(), request(principal, &asked.reason));
        self.change(&Command::RetryQuarantine { destination, keys, request }).await?;
        Ok(self.see_retried(order).await)
    }

    pub(super) fn events(&self, asked: &pb::ListEventsRequest) -> Result<pb::ListEventsResponse, Failure> {
        let least = match asked.severity.as_str() {
            "" | "info" => Severity::Info,
            "warning" => Severity::Warning,
            "alarm" => Severity::Alarm,
            other => {
                let text = format!("expected a severity (info, warning, alarm), found {other:?}");
                return Err(Failure::BadArgument(text));
            }
        };
        let limit = limit(asked.limit, LISTED);
        Ok(self.replica().store().keeper().read(|state| {
            let newest_first = state.events.range(Position(asked.after).next()..).rev();
            let wanted = newest_first.filter(|(_, logged)| {
                logged.event.severity >= least && logged.event.subject.starts_with(&asked.subject)
            });
            let mut events: Vec<pb::Event> =
                wanted.take(limit).map(|(at, logged)| event(*at, logged)).collect();
            events.reverse();
            pb::ListEventsResponse { events }
        }))
    }

    pub(super) fn gap_records(&self, asked: &pb::ListGapsRequest) -> pb::ListGapsResponse {
        let since = super::status::moment_of(asked.since);
        let mut gaps = self.gaps().list(since, &asked.device);
        let total = gaps.len() as u64;
        let surplus = gaps.len().saturating_sub(limit(asked.limit, LISTED));
        gaps.drain(..surplus);
        pb::ListGapsResponse { gaps, total, known_since: Some(self.gaps().known_since()) }
    }
}

/// Tag patterns of a call; none takes every tag.
pub(super) fn patterns(asked: &[String]) -> Result<CompiledRoutes, Failure> {
    for pattern in asked {
        Pattern::parse(pattern).map_err(|error| Failure::BadArgument(error.to_string()))?;
    }
    let mut patterns = asked.to_vec();
    // Refusing alone would take nothing: what is not refused is meant.
    if !patterns.is_empty() && patterns.iter().all(|pattern| pattern.starts_with('!')) {
        patterns.push("**".to_owned());
    }
    Ok(match patterns.is_empty() {
        true => CompiledRoutes::default(),
        false => CompiledRoutes::new(&[Route { tags: patterns }]),
    })
}

fn limit(asked: u32, otherwise: usize) -> usize {
    if asked == 0 { otherwise } else { asked as usize }
}

fn number_of(state: &State, name: &str) -> Result<DestinationId, Failure> {
    state.registry.destination(name).ok_or_else(|| Failure::NoSuchDestination(name.to_owned()))
}

/// The places of quarantined records, by their keys.
fn places(
    state: &State,
    destination: &str,
    number: DestinationId,
    keys: &[String],
) -> Result<Vec<(Position, Ordinal)>, Failure> {
    let place = |text: &String| {
        let key: SampleKey = text.parse().map_err(|error| Failure::BadArgument(format!("{error}")))?;
        let is_known = state.lineage_at(key.position) == Some(key.lineage)
            && state.quarantine.contains_key(&(number, key.position, key.ordinal));
        match is_known {
            true => Ok((key.position, key.ordinal)),
            false => Err(Failure::NoSuchRecord { destination: destination.to_owned(), key: text.clone() }),
        }
    };
    keys.iter().map(place).collect()
}

fn quarantined(
    state: &State,
    (id, position, ordinal): store::ledger::QuarantineKey,
    record: &Quarantined,
) -> pb::QuarantinedRecord {
    let key = state.lineage_at(position).map(|lineage| SampleKey { lineage, position, ordinal }.to_string());
    pb::QuarantinedRecord {
        destination: state.destinations.get(&id).map_or_else(|| id.to_string(), |known| known.name.clone()),
        key: key.unwrap_or_default(),
        reason: record.reason.clone(),
        at: Some(timestamp_to_proto(record.at)),
        record: record.record.clone(),
        retrying: record.retry,
    }
}

fn event(position: Position, logged: &LoggedEvent) -> pb::Event {
    pb::Event {
        position: position.0,
        at: Some(timestamp_to_proto(logged.at)),
        severity: match logged.event.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Alarm => "alarm",
        }
        .to_owned(),
        subject: logged.event.subject.clone(),
        text: logged.event.text.clone(),
    }
}
