//! Records: what lies in the buffer, as one destination is handed it.
//!
//! - Names, units and routes are those of the revision in force at a record's position; node and term those of its
//!   entry. So a record is the same whoever makes it, whenever.
//! - A sample whose tag went while it was on its way has those of the revision under which it was taken. A gap has those of
//!   the revision under which its slots were due.
//! - Ordinals count all samples of an entry, those of refused batches included; records made by `apply` count from 2³¹.
//! - A batch that cannot be decoded is damage, not data: the caller stops.

use std::collections::HashMap;
use std::sync::Arc;

use model::batch::{BatchHeader, Sample, Source};
use model::catalog::{Catalog, GroupEntry};
use model::command::Command;
use model::ids::{DestinationId, GroupId, NodeId, Revision, TagId};
use model::plant::Destination;
use model::plant::route::CompiledRoutes;
use model::record::{ExpiryRecord, GapRecord, GridSlot, OpeningRecord, Record, SampleRecord};
use model::{Cursor, Lineage, Ordinal, Position, SampleKey};
use store::ledger::{EffectRecord, State};
use store::{Buffered, LogId};

/// The buffer holds something that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("entry {position} of the buffer cannot be read: {reason}")]
pub(crate) struct Unreadable {
    position: Position,
    reason: String,
}

/// What the ledger says about a position, copied once for a run of entries.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) catalog: Option<Arc<Catalog>>,
    pub(crate) lineage: Lineage,
    pub(crate) leader: Arc<str>,
}

impl Context {
    pub(crate) fn at(state: &State, position: Position) -> Self {
        Self {
            catalog: state.catalog_at(position).cloned(),
            lineage: state.lineage_at(position).unwrap_or_else(|| Lineage::from_random(0)),
            leader: state.reign_at(position).map_or_else(|| "".into(), |reign| reign.name.as_str().into()),
        }
    }
}

/// What is asked of the ledger while records are made.
pub(crate) struct LookUp<'l> {
    /// The name of a node.
    pub(crate) node_name: &'l dyn Fn(NodeId) -> String,
    /// The catalog of a revision, where it is still kept.
    pub(crate) catalog: &'l dyn Fn(Revision) -> Option<Arc<Catalog>>,
}

/// Records that were made, and what they take of memory: a few bytes of the buffer may be megabytes of records.
#[derive(Default)]
pub(crate) struct Made {
    records: Vec<Record>,
    heap_bytes: usize,
}

impl Made {
    fn push(&mut self, record: Record) {
        if let Record::Sample(sample) = &record {
            self.heap_bytes += sample.reading.value().map_or(0, model::Value::heap_bytes);
        }
        self.records.push(record);
    }

    pub(crate) fn count(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.heap_bytes + self.records.len() * size_of::<Record>()
    }

    pub(crate) fn into_records(self) -> Vec<Record> {
        self.records
    }
}

/// Turns entries into the records of one destination.
pub(crate) struct RecordMaker {
    destination: DestinationId,
    names: HashMap<NodeId, Arc<str>>,
    routed: Option<(Revision, HashMap<TagId, bool>, CompiledRoutes)>,
    /// For positions from before the destination existed.
    routes_now: CompiledRoutes,
}

impl RecordMaker {
    pub(crate) fn new(id: DestinationId, destination: &Destination) -> Self {
        let routes_now = CompiledRoutes::new(&destination.routes);
        Self { destination: id, names: HashMap::new(), routed: None, routes_now }
    }

    /// Adds to `made` what `entry` holds for this destination from `from` on. Where `is_enough` says so it stops before
    /// the next batch, and says where that begins.
    pub(crate) fn make(
        &mut self,
        entry: &Buffered,
        context: &Context,
        look_up: &LookUp<'_>,
        from: Cursor,
        is_enough: impl Fn(&Made) -> bool,
        made: &mut Made,
    ) -> Result<Option<Cursor>, Unreadable> {
        let position = entry.id.index;
        let first = if from.position == position { from.ordinal } else { Ordinal::ZERO };
        let Some(catalog) = context.catalog.clone() else { return Ok(None) };
        if first < Ordinal::FIRST_EFFECT
            && let Some(command) = &entry.command
        {
            let unreadable = |reason: String| Unreadable { position, reason };
            let opened = wire::entry::open(command.clone()).map_err(|error| unreadable(error.to_string()))?;
            if let Command::Append { batches } = &opened.command {
                let mut next = 0;
                for (number, header) in batches.iter().enumerate() {
                    let start = next;
                    next += header.count;
                    let refused = entry.effects.refused.contains(&(number as u32));
                    if refused || next <= first.0 {
                        continue;
                    }
                    if is_enough(made) {
                        return Ok(Some(Cursor { position, ordinal: Ordinal(start) }));
                    }
                    let payload = opened.payloads.get(number).decode();
                    let batch = payload.map_err(|error| unreadable(error.to_string()))?;
                    let numbered = (start..).zip(batch.into_samples());
                    let samples = numbered.filter(|(ordinal, _)| *ordinal >= first.0);
                    self.make_batch(entry.id, header, samples, (&catalog, context), look_up, made);
                }
            }
        }
        self.make_effects(entry, &catalog, context, look_up, first, made);
        Ok(None)
    }

    /// Adds the samples of one batch that are routed here, each with its ordinal.
    fn make_batch(
        &mut self,
        id: LogId,
        header: &BatchHeader,
        samples: impl Iterator<Item = (u32, Sample)>,
        (catalog, context): (&Arc<Catalog>, &Context),
        look_up: &LookUp<'_>,
        made: &mut Made,
    ) {
        let node = self.names.entry(header.node).or_insert_with(|| (look_up.node_name)(header.node).into());
        let node = Arc::clone(node);
        let slot = match header.source {
            Source::Polled { grid, slot, .. } => Some(GridSlot { grid, slot }),
            Source::Pushed { .. } => None,
        };
        let mut taken_under = None;
        let astray = if runtime::mutant("key-differs-by-process") { std::process::id() } else { 0 };
        for (ordinal, sample) in samples {
            let catalog = match catalog.tag(sample.tag) {
                Some(_) => catalog,
                None => taken_under
                    .get_or_insert_with(|| (look_up.catalog)(header.revision))
                    .as_ref()
                    .unwrap_or(catalog),
            };
            if !self.is_routed(catalog, sample.tag) {
                continue;
            }
            let Some(tag) = catalog.tag(sample.tag) else { continue };
            made.push(Record::Sample(SampleRecord {
                key: SampleKey {
                    lineage: context.lineage,
                    position: id.index,
                    ordinal: Ordinal(ordinal + astray),
                },
                tag: Arc::clone(&tag.facts),
                reading: sample.reading,
                source_time: sample.source_time,
                gateway_time: header.gateway_time,
                slot,
                node: Arc::clone(&node),
                term: id.term,
            }));
        }
    }

    fn make_effects(
        &mut self,
        entry: &Buffered,
        catalog: &Arc<Catalog>,
        context: &Context,
        look_up: &LookUp<'_>,
        first: Ordinal,
        made: &mut Made,
    ) {
        let Buffered { effects, id, .. } = entry;
        let (position, term) = (id.index, id.term);
        for (offset, effect) in (0..).zip(&effects.records) {
            let ordinal = Ordinal(Ordinal::FIRST_EFFECT.0 + offset);
            if ordinal < first {
                continue;
            }
            let key = SampleKey { lineage: context.lineage, position, ordinal };
            let node = Arc::clone(&context.leader);
            match effect {
                EffectRecord::Gap { group, grid, line, first, last, cause, revision } => {
                    let due_under = match *revision == catalog.revision() {
                        true => Some(Arc::clone(catalog)),
                        false => (look_up.catalog)(*revision),
                    };
                    let Some(catalog) = due_under.as_ref() else { continue };
                    let Some(entry) = self.routed_group(catalog, *group) else { continue };
                    made.push(Record::Gap(GapRecord {
                        key,
                        device: entry.device,
                        group: entry.name,
                        grid: *grid,
                        first_slot: *first,
                        last_slot: *last,
                        from: line.nominal(*first),
                        to: line.nominal(*last + 1),
                        cause: *cause,
                        node,
                        term,
                    }));
                }
                EffectRecord::Opening { group, grid, line, replaces, cause } => {
                    let Some(entry) = self.routed_group(catalog, *group) else { continue };
                    made.push(Record::Opening(OpeningRecord {
                        key,
                        device: entry.device,
                        group: entry.name,
                        grid: *grid,
                        first: line.first,
                        period: line.period,
                        replaces: *replaces,
                        cause: *cause,
                        node,
                        term,
                    }));
                }
                EffectRecord::Expiry { destination, id, from, to, cause, samples } => {
                    if *id != self.destination {
                        continue;
                    }
                    made.push(Record::Expiry(ExpiryRecord {
                        key,
                        destination: destination.as_str().into(),
                        from: *from,
                        to: *to,
                        cause: *cause,
                        samples: *samples,
                        node,
                        term,
                    }));
                }
            }
        }
    }

    /// A group of which anything is routed here.
    fn routed_group(&mut self, catalog: &Arc<Catalog>, group: GroupId) -> Option<GroupEntry> {
        let entry = catalog.group(group)?;
        entry.tags.iter().any(|tag| self.is_routed(catalog, *tag)).then(|| entry.clone())
    }

    fn is_routed(&mut self, catalog: &Arc<Catalog>, tag: TagId) -> bool {
        if self.routed.as_ref().is_none_or(|(revision, ..)| *revision != catalog.revision()) {
            let routes = catalog.destinations().find(|(id, _)| *id == self.destination);
            let routes = match routes {
                Some((_, destination)) => CompiledRoutes::new(&destination.routes),
                None => self.routes_now.clone(),
            };
            self.routed = Some((catalog.revision(), HashMap::new(), routes));
        }
        let (_, known, routes) = self.routed.as_mut().expect("set just above");
        *known
            .entry(tag)
            .or_insert_with(|| catalog.tag(tag).is_some_and(|entry| routes.matches(&entry.facts.id)))
    }
}
