//! The rules of a whole plant: what no single table shows.
//!
//! - Every id names one thing: devices, destinations, and full tag ids across devices.
//! - What is probably not meant (a device read twice, a pattern that takes nothing) is a warning.

use std::collections::{BTreeMap, HashMap};

use super::bundle::normal_name;
use super::destinations::RawDestination;
use super::diagnostics::{Notes, Place, Spanned};
use super::names::suggest;
use super::raw::{Origin, RawDevice, RawDocument, RawGroup, ScheduleSettings};
use super::tags::RawTag;
use crate::plant::route::Pattern;
use crate::plant::{Device, Link};

/// A device with the places of what is compared.
pub(super) struct Placed<'r, 'd> {
    pub(super) id: Spanned<&'d str>,
    pub(super) tags: Vec<&'r RawTag>,
    /// What it comes to; nothing where it was complained about.
    pub(super) device: Option<Device>,
}

/// Gives the lines of register lists at the top to their devices.
pub(super) fn distribute_rows(document: &mut RawDocument<'_>, notes: &Notes<'_>) {
    let rows = std::mem::take(&mut document.rows);
    let ids: Vec<&str> = document.devices.iter().map(|device| device.id.value).collect();
    let by_id: HashMap<&str, usize> = ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    let mut groups: BTreeMap<(usize, String), RawGroup> = BTreeMap::new();
    for row in rows {
        let Some(&device) = by_id.get(row.device.value.as_str()) else {
            let message = format!("expected the id of a device, found {:?}", row.device.value);
            notes.error_with_help(
                row.device.place,
                message,
                suggest(&row.device.value, ids.iter().copied(), "device"),
            );
            continue;
        };
        let group = groups.entry((device, row.group.value.clone())).or_insert_with(|| RawGroup {
            id: row.group,
            schedule: ScheduleSettings::default(),
            enabled: None,
            tags: Vec::new(),
            origin: Origin::Listed,
            broken: false,
        });
        group.tags.push(row.tag);
    }
    let mut devices: Vec<&mut RawDevice<'_>> = document.devices.iter_mut().collect();
    for ((device, _), group) in groups {
        devices[device].groups.push(group);
    }
}

/// Complains where one id names two things.
pub(super) fn check_ids(devices: &[Placed<'_, '_>], destinations: &[RawDestination<'_>], notes: &Notes<'_>) {
    let mut device_ids = HashMap::new();
    let mut tag_ids = HashMap::new();
    for placed in devices {
        if let Some(first) = device_ids.insert(placed.id.value, placed.id.place) {
            twice("device", placed.id.value, placed.id.place, first, notes);
            // Its tags would all be complained about as well.
            continue;
        }
        for tag in &placed.tags {
            let id = format!("{}/{}", placed.id.value, tag.name.value);
            match tag_ids.get(&id) {
                Some(first) => twice("tag", &id, tag.name.place, *first, notes),
                None => {
                    tag_ids.insert(id, tag.name.place);
                }
            }
        }
    }
    let mut destination_ids = HashMap::new();
    for destination in destinations {
        if let Some(first) = destination_ids.insert(destination.id.value, destination.id.place) {
            twice("destination", destination.id.value, destination.id.place, first, notes);
        }
    }
}

fn twice(what: &str, id: &str, place: Place, first: Place, notes: &Notes<'_>) {
    let help = format!("the other one is at {}", notes.name_of(first));
    notes.error_with_help(place, format!("expected each {what} once, found {id:?} again"), help);
}

/// Warns of devices that are read twice.
pub(super) fn check_endpoints(devices: &[Placed<'_, '_>], notes: &Notes<'_>) {
    let mut endpoints = HashMap::new();
    for placed in devices {
        let Some(Device { link: Link::ModbusTcp(link), .. }) = &placed.device else { continue };
        if let Some(other) = endpoints.insert((link.host.as_str(), link.port, link.unit_id), placed.id.value)
        {
            let message = format!("{other:?} and {:?} have the same address and unit id", placed.id.value);
            notes.warning(
                placed.id.place,
                message,
                "both are read, one after the other, from the same device",
            );
        }
    }
}

/// Warns of patterns that take no tag, and of a plant whose tags nobody is sent.
pub(super) fn check_routes(
    devices: &[Placed<'_, '_>],
    destinations: &[RawDestination<'_>],
    notes: &Notes<'_>,
) {
    let ids: Vec<String> = devices
        .iter()
        .flat_map(|placed| placed.tags.iter().map(|tag| format!("{}/{}", placed.id.value, tag.name.value)))
        .collect();
    for text in destinations.iter().flat_map(|destination| &destination.patterns) {
        let Ok(pattern) = Pattern::parse(text.value) else { continue };
        // What the cluster says of itself depends on its members, which are not known here.
        if !text.value.starts_with('$') && !ids.iter().any(|id| pattern.matches(id)) {
            let message = format!("no tag of this plant matches {:?}", text.value);
            notes.warning(text.place, message, "a tag's id is that of its device, a slash, and its name");
        }
    }
    if let (Some(first), true) = (devices.first(), destinations.is_empty()) {
        let help = "write a [[destination]]";
        notes.warning(
            first.id.place,
            "this plant has devices and no destination: nothing is delivered",
            help,
        );
    }
}

/// Warns of files that nothing refers to.
pub(super) fn check_files(references: &[String], start: Place, notes: &Notes<'_>) {
    let used = |name: &str| references.iter().any(|used| normal_name(used) == Some(name));
    for name in notes.names().filter(|name| *name != super::Bundle::ROOT && !used(name)) {
        let help = "name it in the document, or leave it out";
        notes.warning(start, format!("nothing refers to the file {name:?}"), help);
    }
}
