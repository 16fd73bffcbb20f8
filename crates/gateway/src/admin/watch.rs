//! What is recorded, for people: readings as they are committed, and the entries of the buffer.
//!
//! - Any node shows what it has applied. It reads the log again rather than keep the newest value of every tag, so that
//!   what nobody watches costs nothing.
//! - Bounded: a look reads at most [`LOOK_BYTES`] and shows at most [`SHOWN`] tags, of several readings of a tag the
//!   newest; what does not fit is passed over and counted, entries and tags alike. A watcher that does not read is not read for.
//! - Batches that the ledger refused are left out as far as that is still known: below the horizon it is forgotten.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::Stream;
use model::Position;
use model::batch::Source;
use model::catalog::Catalog;
use model::command::Command;
use model::plant::route::CompiledRoutes;
use store::Entry;
use store::engine::Engine;
use store::ledger::{Body, Effects};
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use wire::entry::Kind;
use wire::proto::v1 as pb;
use wire::times::{duration_from_proto, timestamp_to_proto};
use wire::values::reading_to_proto;

use super::AdminService;
use super::failure::Failure;

/// Bytes of entries that one look reads.
const LOOK_BYTES: usize = 4 << 20;
/// Tags that one answer shows.
const SHOWN: usize = 1_000;
/// From one look to the next: by default, at least, at most.
const EVERY: [Duration; 3] = [Duration::from_secs(1), Duration::from_millis(100), Duration::from_secs(60)];
/// Entries that are listed where no limit is given, and at most.
const LISTED: [usize; 2] = [20, 1_000];

/// One caller that watches.
struct Watcher<E: Engine> {
    service: AdminService<E>,
    wanted: CompiledRoutes,
    every: Duration,
    next: Instant,
    /// Everything up to here was looked at.
    seen: Position,
}

impl<E: Engine> AdminService<E> {
    /// What is recorded from now on.
    pub(super) fn watch(
        &self,
        asked: &pb::WatchTagsRequest,
    ) -> Result<impl Stream<Item = Result<pb::WatchTagsResponse, Status>> + Send + use<E>, Failure> {
        let wanted = super::operate::patterns(&asked.patterns)?;
        let [usual, least, most] = EVERY;
        let every = asked.interval.as_ref().and_then(duration_from_proto).unwrap_or(usual);
        let watcher = Watcher {
            service: self.clone(),
            wanted,
            every: every.clamp(least, most),
            next: Instant::now(),
            seen: self.replica().store().keeper().read(store::ledger::State::applied_position),
        };
        Ok(futures::stream::unfold(watcher, |mut watcher| async move {
            let answer = watcher.next().await?;
            Some((answer, watcher))
        }))
    }

    /// What lies in the buffer.
    pub(super) fn peek(&self, asked: &pb::PeekBufferRequest) -> Result<pb::PeekBufferResponse, Failure> {
        let [usual, most] = LISTED;
        let limit = if asked.limit == 0 { usual } else { (asked.limit as usize).min(most) };
        let store = self.replica().store();
        let (horizon, applied) = store.keeper().read(|state| (state.horizon, state.applied_position()));
        let from = match asked.from {
            0 => Position((applied.0 + 1).saturating_sub(limit as u64)),
            from => Position(from),
        };
        let mut entries = Vec::with_capacity(limit);
        let mut next = from.max(horizon.next());
        while entries.len() < limit && next <= applied {
            let (read, behind) = store.read_buffer(next, LOOK_BYTES).map_err(unreadable)?;
            if behind <= next {
                break;
            }
            next = behind;
            for buffered in read.into_iter().take(limit - entries.len()) {
                let command = buffered.command.as_ref();
                entries.push(entry(buffered.id, command, &buffered.effects)?);
            }
        }
        Ok(pb::PeekBufferResponse { entries, horizon: horizon.0, applied: applied.0 })
    }
}

impl<E: Engine> Watcher<E> {
    /// The next answer; `None` when this node stops.
    async fn next(&mut self) -> Option<Result<pb::WatchTagsResponse, Status>> {
        loop {
            tokio::select! {
                () = sleep_until(self.next) => {}
                () = self.service.stop.cancelled() => return None,
            }
            self.next = Instant::now() + self.every;
            match self.look() {
                Ok(answer) if answer.readings.is_empty() => {}
                Ok(answer) => return Some(Ok(answer)),
                Err(failure) => return Some(Err(failure.into())),
            }
        }
    }

    fn look(&mut self) -> Result<pb::WatchTagsResponse, Failure> {
        let store = self.service.replica().store();
        let applied = store.keeper().read(store::ledger::State::applied_position);
        let floor = store.log().ends().floor.map_or(Position::ZERO, |floor| floor.index);
        let first = self.seen.max(floor).next();
        let entries = store.log().read(first.0, applied.0 + 1, LOOK_BYTES).map_err(unreadable)?;
        let read_to = entries.last().map_or(self.seen, |entry| entry.id.index);
        let skipped = applied.0.saturating_sub(read_to.0);
        self.seen = applied;
        let mut newest = BTreeMap::new();
        for entry in entries {
            let (catalog, effects) = store.keeper().read(|state| {
                let effects = state.effects.get(&entry.id.index).cloned().unwrap_or_default();
                (state.catalog_at(entry.id.index).cloned(), effects)
            });
            if let Some(catalog) = catalog {
                note(&mut newest, &entry, &catalog, &effects, &self.wanted)?;
            }
        }
        Ok(answer(newest, applied, skipped))
    }
}

fn answer(
    newest: BTreeMap<String, pb::WatchedReading>,
    looked_at: Position,
    skipped: u64,
) -> pb::WatchTagsResponse {
    let more = newest.len().saturating_sub(SHOWN) as u64;
    let readings = newest.into_values().take(SHOWN).collect();
    pb::WatchTagsResponse { readings, position: looked_at.0, skipped, more }
}

/// Notes the wanted readings of one entry.
fn note(
    newest: &mut BTreeMap<String, pb::WatchedReading>,
    entry: &Entry,
    catalog: &Catalog,
    effects: &Effects,
    wanted: &CompiledRoutes,
) -> Result<(), Failure> {
    let Body::Command(command) = &entry.body else { return Ok(()) };
    if wire::entry::peek(command).map_err(unreadable)?.kind != Kind::Append {
        return Ok(());
    }
    let opened = wire::entry::open(command.clone()).map_err(unreadable)?;
    let Command::Append { batches } = &opened.command else { return Ok(()) };
    let is_wanted = |tag| {
        catalog.tag(tag).is_some_and(|entry: &model::catalog::TagEntry| wanted.matches(&entry.facts.id))
    };
    for (number, header) in batches.iter().enumerate() {
        if effects.refused.contains(&(number as u32)) {
            continue;
        }
        // What a poll group holds is known without decoding it.
        if let Source::Polled { group, .. } = header.source
            && !catalog.group(group).is_some_and(|group| group.tags.iter().any(|tag| is_wanted(*tag)))
        {
            continue;
        }
        let batch = opened.payloads.get(number).decode().map_err(unreadable)?;
        for sample in batch.into_samples() {
            let Some(tag) = catalog.tag(sample.tag).filter(|_| is_wanted(sample.tag)) else { continue };
            let reading = pb::WatchedReading {
                tag: tag.facts.id.clone(),
                reading: Some(reading_to_proto(&sample.reading, sample.source_time)),
                unit: tag.facts.unit.clone(),
                gateway_time: Some(timestamp_to_proto(header.gateway_time)),
            };
            newest.insert(tag.facts.id.clone(), reading);
        }
    }
    Ok(())
}

fn entry(
    id: store::LogId,
    command: Option<&bytes::Bytes>,
    effects: &Effects,
) -> Result<pb::BufferEntry, Failure> {
    let mut view = pb::BufferEntry {
        position: id.index.0,
        term: id.term.0,
        kind: "internal".to_owned(),
        refused: super::views::count(effects.refused.len()),
        records: super::views::count(effects.records.len()),
        ..pb::BufferEntry::default()
    };
    if let Some(command) = command {
        let summary = wire::entry::peek(command).map_err(unreadable)?;
        view.kind = kind_name(summary.kind);
        view.bytes = command.len() as u64;
        view.at = Some(timestamp_to_proto(summary.stamp.at));
        view.batches = super::views::count(summary.batches);
        view.samples = summary.samples;
        view.oldest = summary.oldest.map(timestamp_to_proto);
        view.newest = summary.newest.map(timestamp_to_proto);
    }
    Ok(view)
}

/// `SetDeviceEnabled` is `set-device-enabled`.
fn kind_name(kind: Kind) -> String {
    let mut name = String::new();
    for letter in format!("{kind:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

fn unreadable(error: impl std::fmt::Display) -> Failure {
    Failure::Internal(format!("the log cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_are_not_shown_are_counted() {
        let of = |tags: usize| {
            let reading = |number| (format!("press/{number:05}"), pb::WatchedReading::default());
            let answer = answer((0..tags).map(reading).collect(), Position(9), 0);
            (answer.readings.len(), answer.more)
        };
        assert_eq!(of(SHOWN), (SHOWN, 0));
        assert_eq!(of(SHOWN + 234), (SHOWN, 234));
    }

    #[test]
    fn kinds_of_entries_are_named_in_small_letters() {
        assert_eq!(kind_name(Kind::Append), "append");
        assert_eq!(kind_name(Kind::SetDeviceEnabled), "set-device-enabled");
    }
}
