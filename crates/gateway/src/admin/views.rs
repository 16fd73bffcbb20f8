//! The ledger and the live facts, as messages of the admin API.
//!
//! Owns the translation and nothing else: pure functions of what they are given. Decides no alarm.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::ids::{GroupId, Revision};
use model::plant::document::Patience;
use model::plant::plan::{Action, Change, Effect, Plan};
use model::plant::route::CompiledRoutes;
use model::plant::{DestinationKind, Device, Link, ModbusTcp};
use model::{Position, SystemTag, Timestamp};
use store::ledger::{DestinationState as Ledgered, RevisionState, Standing, State};
use wire::proto::v1 as pb;
use wire::times::{duration_to_proto, timestamp_to_proto};

use crate::live::{DestinationLive, DestinationState, DeviceLive, DeviceState, Lateness};

/// A backlog younger than this is no more than what is on its way.
const CURRENT: Duration = Duration::from_secs(5);

/// A standing order.
pub(super) fn standing(standing: &Standing) -> pb::Standing {
    pb::Standing {
        principal: standing.principal.clone(),
        reason: standing.reason.clone(),
        at: Some(timestamp_to_proto(standing.at)),
        until: standing.until.map(|end| timestamp_to_proto(end.at)),
    }
}

/// The devices of the plant in force. `answered`: when each group last had a value, as far as this node has applied it.
/// `watching` says whether this node reads them.
pub(super) fn devices(
    state: &State,
    answered: &BTreeMap<GroupId, Timestamp>,
    live: &BTreeMap<String, DeviceLive>,
    patience: &Patience,
    watching: bool,
) -> Vec<pb::Device> {
    let plant = state.plant();
    let groups = groups_by_device(state);
    let answered = by_device(state, answered);
    let one = |device: &Device| {
        let groups = groups.get(device.id.as_str()).cloned().unwrap_or_default();
        let disabled = state.disabled.get(&device.id);
        let mut view = pb::Device {
            id: device.id.clone(),
            description: device.description.clone(),
            labels: device.labels.clone().into_iter().collect(),
            enabled_in_plant: device.enabled,
            disabled: disabled.map(standing),
            tags: groups.iter().map(|group| group.tags).sum(),
            groups,
            ..pb::Device::default()
        };
        match &device.link {
            Link::ModbusTcp(modbus) => {
                view.driver = "modbus-tcp".into();
                view.address = modbus.endpoint();
                describe_patience(&mut view, modbus, patience);
            }
            Link::Push => view.driver = "push".into(),
        }
        let live = live.get(&device.id);
        describe_device(&mut view, device, disabled, live, watching);
        // What this reign has not seen is known from what earlier ones recorded.
        let last_good = live.and_then(|live| live.last_good).or(answered.get(device.id.as_str()).copied());
        view.last_good = last_good.map(timestamp_to_proto);
        if let Some(live) = live {
            describe_lateness(&mut view.groups, live);
        }
        view
    };
    plant.devices.iter().map(one).collect()
}

/// How long a device has for an answer, and what bounds that.
fn describe_patience(view: &mut pb::Device, modbus: &ModbusTcp, patience: &Patience) {
    let is_bounded = !modbus.slow && modbus.timeout > patience.cap;
    view.slow = modbus.slow;
    view.timeout = Some(duration_to_proto(modbus.timeout));
    view.response_cap = Some(duration_to_proto(if is_bounded { patience.cap } else { modbus.timeout }));
    view.capped_by = if is_bounded { patience.by.clone() } else { String::new() };
}

fn describe_device(
    view: &mut pb::Device,
    device: &Device,
    disabled: Option<&Standing>,
    live: Option<&DeviceLive>,
    watching: bool,
) {
    use pb::device::State as Is;
    let state = match (disabled, live) {
        (Some(standing), _) => {
            view.since = Some(timestamp_to_proto(standing.at));
            view.reason = standing.reason.clone();
            Is::Disabled
        }
        _ if !device.enabled => Is::Disabled,
        _ if matches!(device.link, Link::Push) => Is::Pushing,
        (None, Some(live)) => {
            view.since = Some(timestamp_to_proto(live.since));
            view.reason = live.reason.clone().unwrap_or_default();
            match live.state {
                DeviceState::Answering => Is::Answering,
                DeviceState::Silent => Is::Down,
            }
        }
        (None, None) if watching => Is::Connecting,
        (None, None) => Is::Unspecified,
    };
    view.state = state.into();
}

fn describe_lateness(groups: &mut [pb::Group], live: &DeviceLive) {
    for group in groups {
        let Some(lateness) = live.lateness.get(&group.id).and_then(Lateness::summary) else { continue };
        group.lateness_median = Some(duration_to_proto(lateness.median));
        group.lateness_p99 = Some(duration_to_proto(lateness.p99));
        group.lateness_max = Some(duration_to_proto(lateness.max));
    }
}

fn groups_by_device(state: &State) -> BTreeMap<&str, Vec<pb::Group>> {
    let mut groups: BTreeMap<&str, Vec<pb::Group>> = BTreeMap::new();
    let Some(catalog) = state.catalog() else { return groups };
    for (entry, device, group) in catalog.groups() {
        let grid = state.grids.get(&entry.id);
        groups.entry(device.id.as_str()).or_default().push(pb::Group {
            id: group.id.clone(),
            period: group.schedule.map(|schedule| duration_to_proto(schedule.period)),
            tags: count(group.tags.len()),
            grid: grid.map_or(0, |grid| grid.id.0),
            next_slot: grid.map_or(0, |grid| grid.next),
            ..pb::Group::default()
        });
    }
    groups
}

/// When each device last had a value.
fn by_device<'a>(state: &'a State, answered: &BTreeMap<GroupId, Timestamp>) -> BTreeMap<&'a str, Timestamp> {
    let mut devices: BTreeMap<&str, Timestamp> = BTreeMap::new();
    let Some(catalog) = state.catalog() else { return devices };
    for (entry, device, _) in catalog.groups() {
        let Some(at) = answered.get(&entry.id) else { continue };
        devices.entry(device.id.as_str()).and_modify(|last| *last = (*at).max(*last)).or_insert(*at);
    }
    devices
}

/// Numbers of devices.
pub(super) fn device_counts(devices: &[pb::Device]) -> pb::DeviceCounts {
    use pb::device::State as Is;
    let number = |is: fn(Is) -> bool| count(devices.iter().filter(|device| is(device.state())).count());
    let disabled = number(|state| state == Is::Disabled);
    pb::DeviceCounts {
        total: count(devices.len()),
        enabled: count(devices.len()) - disabled,
        answering: number(|state| matches!(state, Is::Answering | Is::Pushing)),
        down: number(|state| state == Is::Down),
        unknown: number(|state| matches!(state, Is::Unspecified | Is::Connecting)),
    }
}

/// The destinations of the plant in force.
pub(super) fn destinations(
    state: &State,
    live: &BTreeMap<String, DestinationLive>,
    now: Timestamp,
) -> Vec<pb::Destination> {
    let plant = state.plant();
    let mut views = Vec::with_capacity(plant.destinations.len());
    for destination in &plant.destinations {
        let Some(number) = state.registry.destination(&destination.id) else { continue };
        let ledgered = state.destinations.get(&number);
        let (kind, target) = match &destination.kind {
            DestinationKind::Http(http) => ("http", http.url.clone()),
            DestinationKind::Csv(csv) => ("csv", csv.directory.display().to_string()),
        };
        let quarantined = state.quarantined(number).count();
        let retrying = state.quarantined(number).filter(|(_, record)| record.retry).count();
        let mut view = pb::Destination {
            id: destination.id.clone(),
            kind: kind.to_owned(),
            target,
            required: destination.required,
            quarantined: quarantined as u64,
            retrying: retrying as u64,
            ..pb::Destination::default()
        };
        if let Some(ledgered) = ledgered {
            let cursor = ledgered.cursor;
            view.cursor = Some(pb::Cursor { position: cursor.position.0, ordinal: cursor.ordinal.0 });
            view.paused = ledgered.paused.as_ref().map(standing);
            (view.accepted_again, view.refused_again) = (ledgered.accepted_again, ledgered.refused_again);
            describe_destination(&mut view, ledgered, live.get(&destination.id), state.last_deliverable, now);
            if let Some(backlog) = view.backlog.as_mut() {
                let behind = Position(cursor.position.0.saturating_sub(1));
                let bytes = || state.fill.bytes_behind(behind, state.applied_position());
                backlog.bytes = Some(if backlog.entries == 0 { 0 } else { bytes() });
            }
        }
        views.push(view);
    }
    views
}

fn describe_destination(
    view: &mut pb::Destination,
    ledgered: &Ledgered,
    live: Option<&DestinationLive>,
    last_deliverable: Position,
    now: Timestamp,
) {
    use pb::destination::State as Is;
    let entries = undelivered(ledgered, last_deliverable);
    let age = live.map(|live| live.backlog(now));
    view.backlog = Some(pb::Backlog { entries, bytes: None, age: age.map(duration_to_proto) });
    let state = match (&ledgered.paused, live) {
        (Some(paused), _) => {
            view.since = Some(timestamp_to_proto(paused.at));
            view.reason = paused.reason.clone();
            Is::Paused
        }
        (None, Some(live)) => {
            view.since = Some(timestamp_to_proto(live.since));
            view.reason = live.reason.clone().unwrap_or_default();
            match live.state {
                DestinationState::Accepting if live.backlog(now) > CURRENT => Is::CatchingUp,
                DestinationState::Accepting => Is::Current,
                DestinationState::Unavailable => Is::Retrying,
                DestinationState::Stalled => Is::Stalled,
                DestinationState::Paused => Is::Paused,
            }
        }
        (None, None) => Is::Unspecified,
    };
    view.state = state.into();
}

/// Entries that a destination has not confirmed.
pub(super) fn undelivered(destination: &Ledgered, last_deliverable: Position) -> u64 {
    (last_deliverable.0 + 1).saturating_sub(destination.cursor.position.0)
}

/// Entries that some required destination has not confirmed.
pub(super) fn undelivered_by_required(state: &State) -> u64 {
    let required = state.destinations.values().filter(|destination| destination.required);
    required.map(|destination| undelivered(destination, state.last_deliverable)).max().unwrap_or(0)
}

/// The tags of the plant in force that `wanted` takes, at most `limit` of them, and how many there are.
pub(super) fn tags(
    state: &State,
    wanted: &CompiledRoutes,
    system: bool,
    limit: usize,
) -> (Vec<pb::Tag>, u64) {
    let Some(catalog) = state.catalog() else { return (Vec::new(), 0) };
    let routes: Vec<(String, CompiledRoutes)> = catalog
        .destinations()
        .map(|(_, destination)| (destination.id.clone(), destination.compiled_routes()))
        .collect();
    let sent_to = |tag: &str| {
        let takers = routes.iter().filter(|(_, routes)| routes.matches(tag));
        takers.map(|(id, _)| id.clone()).collect::<Vec<_>>()
    };
    let mut views = Vec::new();
    let mut total = 0_u64;
    let mut add = |id: &str, view: &dyn Fn() -> pb::Tag| {
        if wanted.matches(id) {
            total += 1;
            if views.len() < limit {
                views.push(pb::Tag { destinations: sent_to(id), ..view() });
            }
        }
    };
    for (device, group, tag) in catalog.plant().tags() {
        let id = device.tag_id(tag);
        add(&id, &|| pb::Tag {
            id: id.clone(),
            r#type: tag.value_type.to_string(),
            unit: tag.unit.clone(),
            description: tag.description.clone(),
            device: device.id.clone(),
            group: group.schedule.map(|_| group.id.clone()).unwrap_or_default(),
            address: tag.point.map(|point| point.address.both()).unwrap_or_default(),
            period: group.schedule.map(|schedule| duration_to_proto(schedule.period)),
            destinations: Vec::new(),
        });
    }
    if system {
        for facts in system_tags(state) {
            add(&facts.0, &|| pb::Tag { id: facts.0.clone(), r#type: facts.1.clone(), ..pb::Tag::default() });
        }
    }
    (views, total)
}

/// Names and types of the tags that the cluster itself writes.
fn system_tags(state: &State) -> BTreeSet<(String, String)> {
    let Some(catalog) = state.catalog() else { return BTreeSet::new() };
    let plant = catalog.plant();
    let mut tags = vec![SystemTag::Leader, SystemTag::Redundant, SystemTag::Heartbeat];
    tags.extend(state.node_names.values().cloned().map(SystemTag::NodeUp));
    for device in &plant.devices {
        tags.extend([SystemTag::DeviceState, SystemTag::DeviceLastGood].map(|make| make(device.id.clone())));
    }
    let destinations = plant.destinations.iter();
    tags.extend(destinations.map(|destination| SystemTag::DestinationBacklog(destination.id.clone())));
    let known = tags.iter().filter_map(|tag| {
        let tag = catalog.tag_named(&tag.to_string())?;
        Some((tag.facts.id.clone(), tag.facts.value_type.to_string()))
    });
    known.collect()
}

/// A revision.
pub(super) fn revision(number: Revision, state: &RevisionState) -> pb::Revision {
    pb::Revision {
        number: number.0,
        at: Some(timestamp_to_proto(state.at)),
        principal: state.principal.clone(),
        comment: state.reason.clone(),
        position: state.position.0,
        devices: state.contents.devices,
        tags: state.contents.tags,
        destinations: state.contents.destinations,
    }
}

/// The changes of a plan.
pub(super) fn changes(plan: &Plan) -> Vec<pb::ConfigChange> {
    plan.changes.iter().map(change).collect()
}

fn change(change: &Change) -> pb::ConfigChange {
    use pb::config_change::Action as Is;
    let mut view = pb::ConfigChange {
        subject: change.subject.to_string(),
        id: change.id.clone(),
        ..pb::ConfigChange::default()
    };
    let action = match &change.action {
        Action::Added { summary } => {
            view.summary = summary.clone();
            Is::Added
        }
        Action::Removed { summary } => {
            view.summary = summary.clone();
            Is::Removed
        }
        Action::Changed { fields } => {
            let field = |field: &model::plant::plan::FieldChange| pb::config_change::Field {
                field: field.field.clone(),
                old: field.old.clone(),
                new: field.new.clone(),
            };
            view.fields = fields.iter().map(field).collect();
            Is::Changed
        }
    };
    view.action = action.into();
    view
}

/// What a plan stops or loses, with what each destination has not confirmed.
pub(super) fn effects(plan: &Plan, state: &State) -> Vec<pb::ConfigEffect> {
    use pb::config_effect::Kind;
    let one = |effect: &&Effect| {
        let (kind, subject) = match effect {
            Effect::GridClosed { group } => (Kind::ScheduleEnds, group),
            Effect::BacklogDiscarded { destination } => (Kind::BacklogDiscarded, destination),
        };
        let undelivered = effect.discards().map_or(0, |destination| backlog_of(state, destination));
        let mut text = effect.to_string();
        if effect.discards().is_some() {
            text.push_str(&format!(" ({undelivered} log entries, each of up to thousands of samples)"));
        }
        pb::ConfigEffect {
            kind: kind.into(),
            subject: subject.clone(),
            undelivered_entries: undelivered,
            text,
        }
    };
    plan.effects().iter().map(one).collect()
}

/// Destinations with a backlog that `plan` gives up.
pub(super) fn discards(plan: &Plan, state: &State) -> Vec<String> {
    let named: BTreeSet<&str> = plan.discards().into_iter().collect();
    named.into_iter().filter(|id| backlog_of(state, id) > 0).map(str::to_owned).collect()
}

fn backlog_of(state: &State, destination: &str) -> u64 {
    let number = state.registry.destination(destination);
    let ledgered = number.and_then(|number| state.destinations.get(&number));
    ledgered.map_or(0, |ledgered| undelivered(ledgered, state.last_deliverable))
}

/// A count for a message.
pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A moment that lies `age` before `now`.
pub(super) fn moment(now: Timestamp, age: Duration) -> wire::times::ProtoTimestamp {
    timestamp_to_proto(now.minus(age))
}
