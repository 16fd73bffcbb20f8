//! The catalog: what the small numbers in the log mean under one revision of the plant.
//!
//! - [`Registry`] gives numbers to names. A name keeps its number for ever; numbers are never reused.
//! - [`Catalog`] is a revision with its numbers resolved, built once when the revision is applied and shared.
//! - System tags (`$cluster/leader`, …) are tags like any other; a catalog has them for what exists in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{DestinationId, DeviceId, GroupId, Revision, TagId};
use crate::plant::{Destination, Device, Group, Link, Plant};
use crate::record::TagFacts;
use crate::system::SystemTag;

/// Numbers given to names, once and for ever.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    tags: BTreeMap<String, TagId>,
    devices: BTreeMap<String, DeviceId>,
    groups: BTreeMap<String, GroupId>,
    /// Current destinations only: a removed one leaves, and a new one of the same name gets a new number.
    destinations: BTreeMap<String, DestinationId>,
    next_destination: u32,
    nodes: BTreeSet<String>,
}

impl Registry {
    /// Gives numbers to all names of `plant` that have none; forgets the destinations it no longer has.
    pub fn assign(&mut self, plant: &Plant) {
        for device in &plant.devices {
            number(&mut self.devices, &device.id, DeviceId);
            for group in &device.groups {
                number(&mut self.groups, &device.group_id(group), GroupId);
                for tag in &group.tags {
                    number(&mut self.tags, &device.tag_id(tag), TagId);
                }
            }
        }
        self.destinations.retain(|id, _| plant.destinations.iter().any(|destination| destination.id == *id));
        for destination in &plant.destinations {
            if !self.destinations.contains_key(&destination.id) {
                self.next_destination += 1;
                self.destinations.insert(destination.id.clone(), DestinationId(self.next_destination));
            }
        }
        for tag in system_tags(plant, &self.nodes) {
            number(&mut self.tags, &tag.to_string(), TagId);
        }
    }

    /// Gives the members of these names their system tags. Whether one of them is new.
    pub fn add_nodes<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) -> bool {
        let mut is_new = false;
        for name in names {
            if self.nodes.insert(name.to_owned()) {
                number(&mut self.tags, &SystemTag::NodeUp(name.to_owned()).to_string(), TagId);
                is_new = true;
            }
        }
        is_new
    }

    /// The number of a current destination.
    pub fn destination(&self, id: &str) -> Option<DestinationId> {
        self.destinations.get(id).copied()
    }

    /// The number of a device.
    pub fn device(&self, id: &str) -> Option<DeviceId> {
        self.devices.get(id).copied()
    }
}

fn number<T: Copy>(numbers: &mut BTreeMap<String, T>, name: &str, make: impl Fn(u32) -> T) {
    if !numbers.contains_key(name) {
        let next = u32::try_from(numbers.len() + 1).expect("fewer than four billion names");
        numbers.insert(name.to_owned(), make(next));
    }
}

/// A poll group of a catalog.
#[derive(Debug, Clone)]
pub struct GroupEntry {
    /// Its number.
    pub id: GroupId,
    /// Id of its device.
    pub device: Arc<str>,
    /// Its own id, unique in the device.
    pub name: Arc<str>,
    /// Numbers of its tags, in the plant's order.
    pub tags: Arc<[TagId]>,
    place: (usize, usize),
}

/// A tag of a catalog.
#[derive(Debug, Clone)]
pub struct TagEntry {
    /// Its number.
    pub id: TagId,
    /// What every record of it says.
    pub facts: Arc<TagFacts>,
    /// Whether it is pushed (otherwise it is polled, or made by the cluster itself).
    pub pushed: bool,
}

/// One revision of the plant with its numbers resolved.
#[derive(Debug)]
pub struct Catalog {
    revision: Revision,
    plant: Arc<Plant>,
    tags: HashMap<TagId, TagEntry>,
    tag_ids: HashMap<String, TagId>,
    groups: HashMap<GroupId, GroupEntry>,
    group_order: Vec<GroupId>,
    destinations: Vec<(DestinationId, usize)>,
}

impl Catalog {
    /// Resolves `plant`, all of whose names must be in `registry`.
    pub fn new(revision: Revision, plant: Arc<Plant>, registry: &Registry) -> Self {
        Self::numbered(revision, plant, registry, &registry.destinations)
    }

    /// The same for a revision of old: its destinations have the numbers that they had then.
    pub fn numbered(
        revision: Revision,
        plant: Arc<Plant>,
        registry: &Registry,
        destinations: &BTreeMap<String, DestinationId>,
    ) -> Self {
        let mut catalog = Self {
            revision,
            tags: HashMap::new(),
            tag_ids: HashMap::new(),
            groups: HashMap::new(),
            group_order: Vec::new(),
            destinations: Vec::new(),
            plant: Arc::clone(&plant),
        };
        for (device_place, device) in plant.devices.iter().enumerate() {
            for (group_place, group) in device.groups.iter().enumerate() {
                catalog.add_group(registry, device, group, (device_place, group_place));
            }
        }
        for (place, destination) in plant.destinations.iter().enumerate() {
            if let Some(id) = destinations.get(&destination.id) {
                catalog.destinations.push((*id, place));
            }
        }
        for tag in system_tags(&plant, &registry.nodes) {
            let (value_type, unit) = (tag.value_type(), tag.unit().to_owned());
            let facts = TagFacts { id: tag.to_string(), value_type, unit, ..TagFacts::default() };
            catalog.add_tag(registry, facts, false);
        }
        catalog
    }

    /// The revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The plant.
    pub fn plant(&self) -> &Arc<Plant> {
        &self.plant
    }

    /// A tag by its number.
    pub fn tag(&self, id: TagId) -> Option<&TagEntry> {
        self.tags.get(&id)
    }

    /// A tag by its full id.
    pub fn tag_named(&self, id: &str) -> Option<&TagEntry> {
        self.tag_ids.get(id).and_then(|number| self.tags.get(number))
    }

    /// A group by its number.
    pub fn group(&self, id: GroupId) -> Option<&GroupEntry> {
        self.groups.get(&id)
    }

    /// All groups, in the plant's order, with what the plant says of them.
    pub fn groups(&self) -> impl Iterator<Item = (&GroupEntry, &Device, &Group)> {
        self.group_order.iter().filter_map(|id| self.placed(*id))
    }

    /// A group by its number, with what the plant says of it.
    pub fn placed(&self, id: GroupId) -> Option<(&GroupEntry, &Device, &Group)> {
        let entry = self.groups.get(&id)?;
        let device = &self.plant.devices[entry.place.0];
        Some((entry, device, &device.groups[entry.place.1]))
    }

    /// All destinations with their numbers.
    pub fn destinations(&self) -> impl Iterator<Item = (DestinationId, &Destination)> {
        self.destinations.iter().map(|&(id, place)| (id, &self.plant.destinations[place]))
    }

    fn add_group(&mut self, registry: &Registry, device: &Device, group: &Group, place: (usize, usize)) {
        let Some(&id) = registry.groups.get(&device.group_id(group)) else {
            return;
        };
        let pushed = matches!(device.link, Link::Push);
        let tags = group.tags.iter().filter_map(|tag| {
            let facts = TagFacts {
                id: device.tag_id(tag),
                value_type: tag.value_type,
                unit: tag.unit.clone(),
                device: device.id.clone(),
                group: if pushed { String::new() } else { group.id.clone() },
            };
            self.add_tag(registry, facts, pushed)
        });
        let tags = tags.collect();
        self.group_order.push(id);
        let entry =
            GroupEntry { id, device: device.id.as_str().into(), name: group.id.as_str().into(), tags, place };
        self.groups.insert(id, entry);
    }

    fn add_tag(&mut self, registry: &Registry, facts: TagFacts, pushed: bool) -> Option<TagId> {
        let id = *registry.tags.get(&facts.id)?;
        self.tag_ids.insert(facts.id.clone(), id);
        self.tags.insert(id, TagEntry { id, facts: Arc::new(facts), pushed });
        Some(id)
    }
}

/// The tags that the cluster itself writes, for what exists in `plant` and among `nodes`.
pub(crate) fn system_tags(plant: &Plant, nodes: &BTreeSet<String>) -> Vec<SystemTag> {
    let mut tags = vec![SystemTag::Leader, SystemTag::Redundant, SystemTag::Heartbeat];
    tags.extend(nodes.iter().cloned().map(SystemTag::NodeUp));
    for device in plant.devices.iter().filter(|device| !matches!(device.link, Link::Push)) {
        tags.push(SystemTag::DeviceState(device.id.clone()));
        tags.push(SystemTag::DeviceLastGood(device.id.clone()));
    }
    let destinations = plant.destinations.iter();
    tags.extend(destinations.map(|destination| SystemTag::DestinationBacklog(destination.id.clone())));
    tags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plant::Tag;
    use crate::value::ValueType;

    fn plant(tags: &[&str]) -> Plant {
        let tags = tags.iter().map(|name| Tag {
            name: (*name).to_owned(),
            point: None,
            value_type: ValueType::F64,
            unit: String::new(),
            description: String::new(),
        });
        let group = Group { id: "default".into(), schedule: None, enabled: true, tags: tags.collect() };
        let device = Device {
            id: "robot".into(),
            link: Link::Push,
            enabled: true,
            labels: BTreeMap::new(),
            description: String::new(),
            groups: vec![group],
        };
        Plant { devices: vec![device], ..Plant::default() }
    }

    #[test]
    fn a_name_keeps_its_number_through_removal_and_return() {
        let mut registry = Registry::default();
        registry.assign(&plant(&["a", "b"]));
        let before = registry.tags.clone();
        registry.assign(&plant(&["b", "c"]));
        registry.assign(&plant(&["a", "b", "c"]));
        for (name, id) in &before {
            assert_eq!(registry.tags.get(name), Some(id), "{name}");
        }
        let numbers: BTreeSet<_> = registry.tags.values().collect();
        assert_eq!(numbers.len(), registry.tags.len(), "no number is given twice");
    }

    #[test]
    fn a_member_that_joins_later_has_its_tag_at_once() {
        let mut registry = Registry::default();
        assert!(registry.add_nodes(["a", "b"]));
        let plant = Arc::new(plant(&["x"]));
        registry.assign(&plant);
        assert!(!registry.add_nodes(["b"]));
        assert!(registry.add_nodes(["c"]));
        let catalog = Catalog::new(Revision(1), plant, &registry);
        let numbers: BTreeSet<TagId> =
            ["a", "b", "c"].map(|name| catalog.tag_named(&format!("$node/{name}/up")).expect(name).id).into();
        assert_eq!(numbers.len(), 3);
    }

    #[test]
    fn a_catalog_resolves_both_ways() {
        let mut registry = Registry::default();
        let plant = plant(&["a", "b"]);
        registry.assign(&plant);
        let catalog = Catalog::new(Revision(3), Arc::new(plant), &registry);
        let tag = catalog.tag_named("robot/b").expect("it is in the plant");
        assert_eq!(catalog.tag(tag.id).expect("the same tag").facts.id, "robot/b");
        assert!(tag.pushed);
        assert!(catalog.tag_named("$cluster/leader").is_some());
        assert_eq!(catalog.groups().count(), 1);
    }
}
