//! Configuration: a new revision of the plant, and what operators switch beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::catalog::Catalog;
use model::command::{Request, Stamp};
use model::ids::{DestinationId, GridId, GroupId, NodeId, Revision};
use model::plant::plan::keeps_grid;
use model::plant::{Plant, Schedule, Start};
use model::slots::GridLine;
use model::{Cause, Cursor, Position, Timestamp};

use super::events::by;
use super::prepare::Named;
use super::revisions::kept;
use super::rows::Row;
use super::state::{Contents, DestinationState, EffectRecord, End, RevisionState};
use super::{Change, standing};
use crate::outcome::{Outcome, Refusal, Thing};

/// What a `Configure` carries.
#[derive(Debug)]
pub(super) struct ConfigureParts {
    pub(super) base: Revision,
    pub(super) bundle: Bytes,
    pub(super) plant: Arc<Plant>,
    /// `None` where another revision than `base` is in force.
    pub(super) named: Option<Named>,
    pub(super) elapsed: Vec<(GroupId, Duration)>,
    pub(super) discard: Vec<String>,
    pub(super) request: Request,
}

impl Change<'_> {
    pub(super) fn configure(&mut self, at: Position, stamp: Stamp, mut parts: ConfigureParts) -> Outcome {
        let current = self.state.revision();
        let (Some(Named { registry, catalog: Some(catalog) }), true) =
            (parts.named.take(), parts.base == current)
        else {
            return Outcome::Refused(Refusal::Revision { base: parts.base, current });
        };
        if let Some(name) = self.backlog_at_stake(&parts) {
            return Outcome::Refused(Refusal::Backlog { name });
        }
        let before = self.state.catalog().cloned();
        let revision = catalog.revision();
        let text = format!("revision {revision} of the plant {}", by(&parts.request));
        self.tell(at, stamp.at, "cluster".to_owned(), text);
        self.state.registry = registry;
        let state = RevisionState {
            position: at,
            at: stamp.at,
            principal: parts.request.principal,
            reason: parts.request.reason,
            contents: Contents::of(&parts.plant),
            bundle: kept(parts.bundle),
            catalog: Some(Arc::clone(&catalog)),
        };
        self.state.revisions.insert(revision, state);
        self.touch(Row::Registry);
        self.touch(Row::Revision(revision));
        self.forget_orders_of_removed_devices(&catalog);
        self.renew_grids(at, stamp, before.as_deref(), &catalog, &parts.elapsed);
        self.renew_destinations(at, &catalog);
        self.forget_old_revisions();
        Outcome::Configured { revision }
    }

    /// An order about a device ends with it: nobody could take it back any more.
    fn forget_orders_of_removed_devices(&mut self, catalog: &Catalog) {
        let before = self.state.disabled.len();
        let devices = &catalog.plant().devices;
        self.state.disabled.retain(|device, _| devices.iter().any(|known| known.id == *device));
        if self.state.disabled.len() != before {
            self.touch(Row::Disabled);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn set_device_enabled(
        &mut self,
        at: Position,
        stamp: Stamp,
        device: String,
        enabled: bool,
        until: Option<Timestamp>,
        elapsed: &[(GroupId, Duration)],
        request: Request,
    ) -> Outcome {
        let Some(catalog) = self.state.catalog().cloned() else {
            return Outcome::Refused(Refusal::Unknown { what: Thing::Device, name: device });
        };
        if !catalog.plant().devices.iter().any(|known| known.id == device) {
            return Outcome::Refused(Refusal::Unknown { what: Thing::Device, name: device });
        }
        let known = self.state.disabled.get(&device);
        let ends = known.and_then(|known| known.until).map(|end| end.at);
        if enabled && until.is_some() && ends != until {
            return Outcome::Done;
        }
        let what = match (enabled, until) {
            (true, _) => "put back into service".to_owned(),
            (false, None) => "taken out of service".to_owned(),
            (false, Some(until)) => format!("taken out of service until {until}"),
        };
        self.tell(at, stamp.at, format!("device/{device}"), format!("{what} {}", by(&request)));
        if enabled {
            self.state.disabled.remove(&device);
        } else {
            let now = self.state.steady.now;
            let end = until.map(|at| End { at, steady: now.saturating_add(at.since(stamp.at)) });
            self.state.disabled.insert(device, standing(request, stamp.at, end));
        }
        self.touch(Row::Disabled);
        self.renew_grids(at, stamp, Some(&catalog), &catalog, elapsed);
        Outcome::Done
    }

    pub(super) fn set_destination_paused(
        &mut self,
        at: Position,
        stamp: Stamp,
        name: &str,
        paused: bool,
        request: Request,
    ) -> Outcome {
        let Some(id) = self.state.registry.destination(name) else {
            return Outcome::Refused(Refusal::Unknown { what: Thing::Destination, name: name.to_owned() });
        };
        let what = if paused { "held" } else { "released" };
        self.tell(at, stamp.at, format!("destination/{name}"), format!("{what} {}", by(&request)));
        if let Some(destination) = self.state.destinations.get_mut(&id) {
            destination.paused = paused.then(|| standing(request, stamp.at, None));
            self.touch(Row::Destination(id));
        }
        Outcome::Done
    }

    pub(super) fn set_drained(
        &mut self,
        at: Position,
        stamp: Stamp,
        node: NodeId,
        drained: bool,
        request: Request,
    ) -> Outcome {
        let name = self.state.node_names.get(&node).cloned().unwrap_or_else(|| node.to_string());
        let what = if drained { "drained" } else { "may lead again," };
        self.tell(at, stamp.at, format!("node/{name}"), format!("{what} {}", by(&request)));
        if drained {
            self.state.drained.insert(node, standing(request, stamp.at, None));
        } else {
            self.state.drained.remove(&node);
        }
        self.touch(Row::Drained);
        Outcome::Done
    }

    /// A destination that would be removed although something for it may be undelivered.
    fn backlog_at_stake(&self, parts: &ConfigureParts) -> Option<String> {
        let stays = |name: &str| parts.plant.destinations.iter().any(|destination| destination.id == name);
        let lost = self.state.destinations.values().find(|destination| {
            !stays(&destination.name)
                && destination.cursor.position <= self.state.last_deliverable
                && !parts.discard.contains(&destination.name)
        });
        lost.map(|destination| destination.name.clone())
    }

    /// Closes the grids whose schedule, tags or state changed, and opens those that should be open.
    fn renew_grids(
        &mut self,
        at: Position,
        stamp: Stamp,
        before: Option<&Catalog>,
        after: &Catalog,
        elapsed: &[(GroupId, Duration)],
    ) {
        let mut kept = BTreeSet::new();
        let mut opened: BTreeMap<GroupId, Schedule> = BTreeMap::new();
        for (entry, device, group) in after.groups() {
            let Some(schedule) = group.schedule else { continue };
            if !device.enabled || !group.enabled || self.state.disabled.contains_key(&device.id) {
                continue;
            }
            let known = before.and_then(|catalog| catalog.placed(entry.id));
            let unchanged =
                known.is_some_and(|(_, old_device, old)| keeps_grid((old_device, old), (device, group)));
            if unchanged && self.state.grids.contains_key(&entry.id) {
                kept.insert(entry.id);
            } else {
                opened.insert(entry.id, schedule);
            }
        }
        let ended: Vec<GroupId> =
            self.state.grids.keys().copied().filter(|group| !kept.contains(group)).collect();
        let mut replaced: BTreeMap<GroupId, GridId> = BTreeMap::new();
        let under = before.unwrap_or(after).revision();
        for group in ended {
            let reopens = opened.contains_key(&group);
            let cause =
                if reopens || after.group(group).is_none() { Cause::Configuration } else { Cause::Disabled };
            if let Some(grid) = self.close_grid(at, stamp, group, elapsed, (cause, under)) {
                replaced.insert(group, grid);
            }
        }
        for (group, schedule) in opened {
            let replaces = replaced.get(&group).copied();
            let line = GridLine::opening(stamp.at, schedule.period);
            self.open_grid(at, group, line, replaces, Cause::Configuration);
        }
        self.forget_older_closed();
    }

    /// Makes the destinations those of `catalog`: removed ones expire by record, new ones get their first cursor.
    fn renew_destinations(&mut self, at: Position, catalog: &Catalog) {
        let current: Vec<(DestinationId, _)> = catalog.destinations().collect();
        let removed: Vec<DestinationId> = self
            .state
            .destinations
            .keys()
            .copied()
            .filter(|id| !current.iter().any(|(known, _)| known == id))
            .collect();
        for id in removed {
            let gone = self.state.destinations.remove(&id).expect("its key was just listed");
            self.touch(Row::Destination(id));
            if gone.cursor.position <= self.state.last_deliverable {
                let record = EffectRecord::Expiry {
                    destination: gone.name,
                    id,
                    from: gone.cursor,
                    to: Cursor::at(at.next()),
                    cause: Cause::Configuration,
                    samples: 0,
                };
                self.record(at, record);
            }
        }
        for (id, destination) in current {
            let first = match destination.start {
                Start::Now => Cursor::at(at),
                Start::Oldest => Cursor::at(self.state.horizon.next()),
            };
            let state = self.state.destinations.entry(id).or_insert_with(|| DestinationState {
                name: destination.id.clone(),
                cursor: first,
                required: destination.required,
                paused: None,
                given_up: 0,
                accepted_again: 0,
                refused_again: 0,
            });
            state.required = destination.required;
            self.touch(Row::Destination(id));
        }
    }
}
