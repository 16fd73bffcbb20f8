//! Finds what differs between two plants.
//!
//! - Every struct is taken apart whole, so that a field that is added to the plant cannot be forgotten here.
//! - What a thing contains is not listed again when the thing itself comes or goes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::{Action, Change, Effect, FieldChange, Plan, Subject};
use crate::plant::units::{format_bytes, format_duration};
use crate::plant::{
    ClusterPolicy, Csv, Destination, DestinationKind, Device, Encoding, Failback, Group, Http, Link,
    ModbusPoint, ModbusTcp, Plant, Retention, Schedule, Secret, Standby, Start, Tag, WhenFull,
};

/// What applying `new` in place of `old` changes.
pub fn compare(old: &Plant, new: &Plant) -> Plan {
    let Plant { cluster, retention, devices, destinations } = old;
    let mut plan = Plan::default();
    plan.changed(Subject::Cluster, String::new(), cluster_fields(cluster, &new.cluster), Vec::new());
    plan.changed(Subject::Retention, String::new(), retention_fields(retention, &new.retention), Vec::new());
    for (id, pair) in pairs(devices, &new.devices, |device| &device.id) {
        compare_devices(&mut plan, id, pair);
    }
    for (id, pair) in pairs(destinations, &new.destinations, |destination| &destination.id) {
        compare_destinations(&mut plan, id, pair);
    }
    plan
}

/// Whether a group's grid goes on when `new` takes the place of `old`: it ran and runs, on the same schedule, and a
/// batch of it holds the same tags from the same points.
///
/// Units, descriptions and how the device is reached do not matter, nor does the order of the tags.
pub fn keeps_grid(old: (&Device, &Group), new: (&Device, &Group)) -> bool {
    fn tags(group: &Group) -> Vec<(&str, Option<&ModbusPoint>, crate::value::ValueType)> {
        let tags = group.tags.iter().map(|tag| (tag.name.as_str(), tag.point.as_ref(), tag.value_type));
        let mut tags: Vec<_> = tags.collect();
        tags.sort_by_key(|(name, ..)| *name);
        tags
    }
    has_grid(old) && has_grid(new) && old.1.schedule == new.1.schedule && tags(old.1) == tags(new.1)
}

fn has_grid((device, group): (&Device, &Group)) -> bool {
    device.enabled && group.enabled && group.schedule.is_some() && !matches!(device.link, Link::Push)
}

/// A thing of the old plant, of the new one, or of both.
enum Pair<'p, T> {
    Removed(&'p T),
    Added(&'p T),
    Both(&'p T, &'p T),
}

/// Things by id: those of the new plant in its order, then those that are gone.
fn pairs<'p, T>(old: &'p [T], new: &'p [T], id: impl Fn(&'p T) -> &'p str) -> Vec<(&'p str, Pair<'p, T>)> {
    let olds: HashMap<&str, &T> = old.iter().map(|thing| (id(thing), thing)).collect();
    let news: BTreeSet<&str> = new.iter().map(&id).collect();
    let kept = new.iter().map(|thing| match olds.get(id(thing)) {
        Some(before) => (id(thing), Pair::Both(*before, thing)),
        None => (id(thing), Pair::Added(thing)),
    });
    let gone =
        old.iter().filter(|thing| !news.contains(id(thing))).map(|thing| (id(thing), Pair::Removed(thing)));
    kept.chain(gone).collect()
}

impl Plan {
    fn push(&mut self, subject: Subject, id: String, action: Action, effects: Vec<Effect>) {
        self.changes.push(Change { subject, id, action, effects });
    }

    fn changed(&mut self, subject: Subject, id: String, fields: Fields, effects: Vec<Effect>) {
        if !fields.0.is_empty() {
            self.push(subject, id, Action::Changed { fields: fields.0 }, effects);
        }
    }
}

fn compare_devices(plan: &mut Plan, id: &str, pair: Pair<'_, Device>) {
    let all_grids = |device: &Device| {
        let running = device.groups.iter().filter(|group| has_grid((device, group)));
        running.map(|group| Effect::GridClosed { group: device.group_id(group) }).collect()
    };
    match pair {
        Pair::Added(device) => {
            let summary = device_summary(device);
            plan.push(Subject::Device, id.to_owned(), Action::Added { summary }, Vec::new());
        }
        Pair::Removed(device) => {
            let summary = device_summary(device);
            plan.push(Subject::Device, id.to_owned(), Action::Removed { summary }, all_grids(device));
        }
        Pair::Both(old, new) => {
            let is_stopped = !new.enabled || matches!(new.link, Link::Push);
            let effects = if is_stopped { all_grids(old) } else { Vec::new() };
            plan.changed(Subject::Device, id.to_owned(), device_fields(old, new), effects);
            compare_groups(plan, old, new);
        }
    }
}

fn compare_groups(plan: &mut Plan, old: &Device, new: &Device) {
    let closed: BTreeSet<&str> = closed_grids(old, new);
    let effect = |group: &str| Effect::GridClosed { group: format!("{}/{group}", old.id) };
    let groups = pairs(&old.groups, &new.groups, |group| group.id.as_str());
    let is_in_both =
        |name: &str| groups.iter().any(|(id, pair)| *id == name && matches!(pair, Pair::Both(..)));
    for (name, pair) in &groups {
        let id = format!("{}/{name}", new.id);
        let effects = closed.contains(name).then(|| effect(name)).into_iter().collect();
        match pair {
            Pair::Added(group) => {
                plan.push(Subject::Group, id, Action::Added { summary: group_summary(group) }, Vec::new());
            }
            Pair::Removed(group) => {
                plan.push(Subject::Group, id, Action::Removed { summary: group_summary(group) }, effects);
            }
            Pair::Both(old, new) => {
                let stops = old.schedule != new.schedule || old.enabled != new.enabled;
                plan.changed(
                    Subject::Group,
                    id,
                    group_fields(old, new),
                    if stops { effects } else { Vec::new() },
                );
            }
        }
    }
    compare_tags(plan, old, new, &closed, is_in_both);
}

fn compare_tags(
    plan: &mut Plan,
    old: &Device,
    new: &Device,
    closed: &BTreeSet<&str>,
    is_in_both: impl Fn(&str) -> bool,
) {
    let effects_of = |groups: &[&str]| -> Vec<Effect> {
        let closed = groups.iter().filter(|group| closed.contains(**group));
        closed.map(|group| Effect::GridClosed { group: format!("{}/{group}", old.id) }).collect()
    };
    let (old_tags, new_tags) = (placed_tags(old), placed_tags(new));
    for (name, pair) in pairs(&old_tags, &new_tags, |placed| placed.tag.name.as_str()) {
        let id = format!("{}/{name}", new.id);
        match pair {
            // A tag that comes or goes with its group is not listed beside it.
            Pair::Added(PlacedTag { group, tag }) if is_in_both(group) => {
                let action = Action::Added { summary: tag_summary(tag) };
                plan.push(Subject::Tag, id, action, effects_of(&[group]));
            }
            Pair::Removed(PlacedTag { group, tag }) if is_in_both(group) => {
                let action = Action::Removed { summary: tag_summary(tag) };
                plan.push(Subject::Tag, id, action, effects_of(&[group]));
            }
            Pair::Added(_) | Pair::Removed(_) => {}
            Pair::Both(before, after) => {
                let moved = before.group != after.group;
                let reread =
                    before.tag.point != after.tag.point || before.tag.value_type != after.tag.value_type;
                let effects = match (moved, reread) {
                    (true, _) => effects_of(&[before.group, after.group]),
                    (false, true) => effects_of(&[before.group]),
                    (false, false) => Vec::new(),
                };
                plan.changed(Subject::Tag, id, tag_fields(before, after), effects);
            }
        }
    }
}

/// A tag and the id of its group.
struct PlacedTag<'p> {
    group: &'p str,
    tag: &'p Tag,
}

fn placed_tags(device: &Device) -> Vec<PlacedTag<'_>> {
    let groups = device.groups.iter();
    groups.flat_map(|group| group.tags.iter().map(|tag| PlacedTag { group: &group.id, tag })).collect()
}

/// Groups of the old device that had a grid which does not go on.
fn closed_grids<'p>(old: &'p Device, new: &Device) -> BTreeSet<&'p str> {
    let news: HashMap<&str, &Group> = new.groups.iter().map(|group| (group.id.as_str(), group)).collect();
    let goes_on = |group: &Group| {
        news.get(group.id.as_str()).is_some_and(|after| keeps_grid((old, group), (new, after)))
    };
    let running = old.groups.iter().filter(|group| has_grid((old, group)));
    running.filter(|group| !goes_on(group)).map(|group| group.id.as_str()).collect()
}

fn compare_destinations(plan: &mut Plan, id: &str, pair: Pair<'_, Destination>) {
    match pair {
        Pair::Added(destination) => {
            let summary = destination_summary(destination);
            plan.push(Subject::Destination, id.to_owned(), Action::Added { summary }, Vec::new());
        }
        Pair::Removed(destination) => {
            let summary = destination_summary(destination);
            let effects = vec![Effect::BacklogDiscarded { destination: id.to_owned() }];
            plan.push(Subject::Destination, id.to_owned(), Action::Removed { summary }, effects);
        }
        // Nothing is lost by narrower routes: a record goes where the routes of its own revision send it.
        Pair::Both(old, new) => {
            plan.changed(Subject::Destination, id.to_owned(), destination_fields(old, new), Vec::new());
        }
    }
}

/// What differs in one thing.
#[derive(Default)]
struct Fields(Vec<FieldChange>);

impl Fields {
    /// Notes a field that differs.
    fn compare<T: PartialEq>(&mut self, field: &str, old: &T, new: &T, show: impl Fn(&T) -> String) {
        if old != new {
            self.0.push(FieldChange { field: field.to_owned(), old: show(old), new: show(new) });
        }
    }
}

fn cluster_fields(old: &ClusterPolicy, new: &ClusterPolicy) -> Fields {
    let ClusterPolicy { preferred, failback } = old;
    let mut fields = Fields::default();
    fields.compare("preferred", preferred, &new.preferred, |names| list(names));
    fields.compare("failback", failback, &new.failback, |failback| match failback {
        Failback::Manual => "manual".to_owned(),
        Failback::Auto { settle } => format!("auto after {}", format_duration(*settle)),
    });
    fields
}

fn retention_fields(old: &Retention, new: &Retention) -> Fields {
    let Retention { max_bytes, when_full, keep_delivered } = old;
    let mut fields = Fields::default();
    fields.compare("max-bytes", max_bytes, &new.max_bytes, |bytes| format_bytes(*bytes));
    fields.compare("when-full", when_full, &new.when_full, |when| match when {
        WhenFull::Refuse => "refuse".to_owned(),
        WhenFull::DropOldest => "drop-oldest".to_owned(),
    });
    fields.compare("keep-delivered", keep_delivered, &new.keep_delivered, duration);
    fields
}

fn device_fields(old: &Device, new: &Device) -> Fields {
    // The id is the same, groups are compared on their own.
    let Device { id: _, link, enabled, labels, description, groups: _ } = old;
    let mut fields = Fields::default();
    match (link, &new.link) {
        (Link::ModbusTcp(old), Link::ModbusTcp(new)) => modbus_fields(&mut fields, old, new),
        (old, new) => fields.compare("driver", old, new, link_summary),
    }
    fields.compare("enabled", enabled, &new.enabled, bool::to_string);
    fields.compare("labels", labels, &new.labels, labels_text);
    fields.compare("description", description, &new.description, quoted);
    fields
}

fn modbus_fields(fields: &mut Fields, old: &ModbusTcp, new: &ModbusTcp) {
    let ModbusTcp { host: _, port: _, unit_id, timeout, slow, standby, max_gap, max_registers } = old;
    fields.compare("address", &old.endpoint(), &new.endpoint(), String::clone);
    fields.compare("unit-id", unit_id, &new.unit_id, u8::to_string);
    fields.compare("timeout", timeout, &new.timeout, duration);
    fields.compare("slow", slow, &new.slow, bool::to_string);
    fields.compare("standby", standby, &new.standby, |standby| match standby {
        Standby::Cold => "cold".to_owned(),
        Standby::Warm => "warm".to_owned(),
    });
    fields.compare("max-gap", max_gap, &new.max_gap, u16::to_string);
    fields.compare("max-registers", max_registers, &new.max_registers, u16::to_string);
}

fn group_fields(old: &Group, new: &Group) -> Fields {
    // The id is the same, tags are compared on their own.
    let Group { id: _, schedule, enabled, tags: _ } = old;
    let mut fields = Fields::default();
    let part = |schedule: &Option<Schedule>, get: fn(&Schedule) -> Duration| schedule.as_ref().map(get);
    let show = |time: &Option<Duration>| time.map_or_else(none, format_duration);
    for (field, get) in [
        ("period", (|schedule| schedule.period) as fn(&Schedule) -> Duration),
        ("offset", |schedule| schedule.offset),
    ] {
        fields.compare(field, &part(schedule, get), &part(&new.schedule, get), show);
    }
    fields.compare("enabled", enabled, &new.enabled, bool::to_string);
    fields
}

fn tag_fields(old: &PlacedTag<'_>, new: &PlacedTag<'_>) -> Fields {
    let PlacedTag { group, tag: Tag { name: _, point, value_type, unit, description } } = old;
    let mut fields = Fields::default();
    fields.compare("group", group, &new.group, |group| (*group).to_owned());
    fields.compare("point", point, &new.tag.point, |point| point.as_ref().map_or_else(none, point_text));
    fields.compare("type", value_type, &new.tag.value_type, |value_type| value_type.name().to_owned());
    fields.compare("unit", unit, &new.tag.unit, quoted);
    fields.compare("description", description, &new.tag.description, quoted);
    fields
}

fn destination_fields(old: &Destination, new: &Destination) -> Fields {
    let Destination { id: _, kind, required, start, routes } = old;
    let mut fields = Fields::default();
    match (kind, &new.kind) {
        (DestinationKind::Http(old), DestinationKind::Http(new)) => http_fields(&mut fields, old, new),
        (DestinationKind::Csv(old), DestinationKind::Csv(new)) => csv_fields(&mut fields, old, new),
        (old, new) => fields.compare("kind", old, new, kind_summary),
    }
    fields.compare("required", required, &new.required, bool::to_string);
    fields.compare("start", start, &new.start, |start| match start {
        Start::Now => "now".to_owned(),
        Start::Oldest => "oldest".to_owned(),
    });
    fields.compare("route", routes, &new.routes, |routes| {
        let routes: Vec<String> = routes.iter().map(|route| list(&route.tags)).collect();
        if routes.is_empty() { "everything".to_owned() } else { routes.join(" or ") }
    });
    fields
}

fn http_fields(fields: &mut Fields, old: &Http, new: &Http) {
    let Http { url, token, ca, timeout, max_records } = old;
    fields.compare("url", url, &new.url, String::clone);
    fields.compare("token", token, &new.token, |token| match token {
        None => none(),
        Some(Secret::File(path)) => format!("file {}", path.display()),
        Some(Secret::Env(name)) => format!("env {name}"),
    });
    fields.compare("ca", ca, &new.ca, |ca| match ca {
        None => none(),
        Some(pem) => format!("certificates {}", &blake3::hash(pem.as_bytes()).to_hex()[..8]),
    });
    fields.compare("timeout", timeout, &new.timeout, duration);
    fields.compare("max-records", max_records, &new.max_records, u32::to_string);
}

fn csv_fields(fields: &mut Fields, old: &Csv, new: &Csv) {
    let Csv { directory, every, max_rows } = old;
    fields.compare("directory", directory, &new.directory, |directory| directory.display().to_string());
    fields.compare("every", every, &new.every, duration);
    fields.compare("max-rows", max_rows, &new.max_rows, u32::to_string);
}

fn device_summary(device: &Device) -> String {
    let tags: usize = device.groups.iter().map(|group| group.tags.len()).sum();
    format!("{}, {}, {}", link_summary(&device.link), count(device.groups.len(), "group"), count(tags, "tag"))
}

fn link_summary(link: &Link) -> String {
    match link {
        Link::ModbusTcp(link) => format!("modbus-tcp at {}", link.endpoint()),
        Link::Push => "push".to_owned(),
    }
}

fn group_summary(group: &Group) -> String {
    let tags = count(group.tags.len(), "tag");
    match group.schedule {
        Some(schedule) => format!("every {}, {tags}", format_duration(schedule.period)),
        None => tags,
    }
}

fn tag_summary(tag: &Tag) -> String {
    match &tag.point {
        Some(point) => format!("{} at {}", tag.value_type, point.address.both()),
        None => tag.value_type.to_string(),
    }
}

fn destination_summary(destination: &Destination) -> String {
    kind_summary(&destination.kind)
}

fn kind_summary(kind: &DestinationKind) -> String {
    match kind {
        DestinationKind::Http(http) => format!("http to {}", http.url),
        DestinationKind::Csv(csv) => format!("csv in {}", csv.directory.display()),
    }
}

fn point_text(point: &ModbusPoint) -> String {
    let ModbusPoint { address, encoding, word_order, scaling } = point;
    let encoding = match encoding {
        Encoding::Plain(value_type) => value_type.name().to_owned(),
        Encoding::Bcd16 => "bcd16".to_owned(),
        Encoding::Bcd32 => "bcd32".to_owned(),
        Encoding::Text(length) => format!("string of {length}"),
        Encoding::Raw(length) => format!("bytes of {length}"),
    };
    let scaling = scaling.map(|by| format!(" * {} + {}", by.factor, by.offset)).unwrap_or_default();
    format!("{} as {encoding} {word_order}{scaling}", address.both())
}

fn labels_text(labels: &BTreeMap<String, String>) -> String {
    let labels: Vec<String> = labels.iter().map(|(key, text)| format!("{key}={text}")).collect();
    if labels.is_empty() { none() } else { labels.join(" ") }
}

fn list(texts: &[String]) -> String {
    format!("[{}]", texts.join(", "))
}

fn quoted(text: &String) -> String {
    format!("{text:?}")
}

fn duration(time: &Duration) -> String {
    format_duration(*time)
}

fn none() -> String {
    "none".to_owned()
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
