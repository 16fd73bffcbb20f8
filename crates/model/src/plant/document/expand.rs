//! Puts devices together: tag <- group <- device <- template <- defaults.
//!
//! Owns inheritance, and the rules of one device and one group. What concerns several devices is in `check`.
//!
//! - The nearest layer that says something wins. A template may have a template.
//! - Groups of the same id are one group; a tag of the same name in a nearer layer replaces the farther one whole.
//! - What a template says wrongly is complained about once, however many devices it serves.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::check::Placed;
use super::diagnostics::{Notes, Place, Spanned};
use super::names::suggest;
use super::patience::Patience;
use super::raw::{
    DEFAULT_GROUP, Driver, Origin, RawDevice, RawDocument, RawGroup, ScheduleSettings, Settings,
};
use super::tags::{RawTag, Setting, resolve_tag};
use crate::plant::{Device, Encoding, Group, Link, ModbusTcp, Schedule, Tag};

/// Tags of one group at most: so its slot fits one entry of the log.
const MAX_GROUP_TAGS: usize = 2_000;
/// Bytes of texts and raw bytes that the tags of one group may come to, for the same reason.
const MAX_GROUP_TEXT: usize = 384 << 10;
/// Tags of one plant at most.
const MAX_TAGS: usize = 250_000;

/// Everything that devices inherit from.
pub(super) struct Expansion<'r, 'd> {
    defaults: &'r Settings,
    templates: BTreeMap<&'d str, &'r RawDevice<'d>>,
    patience: Option<&'r Patience>,
    notes: &'r Notes<'d>,
    tags: usize,
}

/// A group with everything that adds to it, the farthest first.
struct Merged<'r> {
    parts: Vec<&'r RawGroup>,
    /// The tags, and how far the layer is that they come from (0 is the device).
    tags: Vec<(usize, &'r RawTag)>,
    by_name: HashMap<&'r str, usize>,
}

impl<'r, 'd> Expansion<'r, 'd> {
    /// Expands the devices of `document`, which are put together with the rows of its register lists already.
    pub(super) fn run(
        document: &'r RawDocument<'d>,
        patience: Option<&'r Patience>,
        notes: &'r Notes<'d>,
    ) -> Vec<Placed<'r, 'd>> {
        let mut templates = BTreeMap::new();
        for template in &document.templates {
            if let Some(earlier) = templates.insert(template.id.value, template) {
                let first = notes.name_of(earlier.id.place);
                let message = format!("expected each template once, found {:?} again", template.id.value);
                notes.error_with_help(template.id.place, message, format!("the other one is at {first}"));
            }
        }
        let mut expansion = Self { defaults: &document.defaults, templates, patience, notes, tags: 0 };
        expansion.check_templates(document);
        let mut devices = Vec::with_capacity(document.devices.len());
        for raw in &document.devices {
            if expansion.tags > MAX_TAGS {
                notes.error(
                    raw.id.place,
                    format!("expected at most {MAX_TAGS} tags in all devices, found more"),
                );
                break;
            }
            devices.push(expansion.device(raw));
        }
        devices
    }

    /// Complains about templates that lead nowhere or back, and about those that nobody uses.
    fn check_templates(&self, document: &'r RawDocument<'d>) {
        let users = document.templates.iter().chain(&document.devices);
        let used: Vec<&str> = users.filter_map(|user| user.template.map(|template| template.value)).collect();
        for template in &document.templates {
            self.layers(template);
            if !used.contains(&template.id.value) {
                let help = "write template = \"…\" in a device, or take the template out";
                self.notes.warning(
                    template.id.place,
                    format!("no device uses template {:?}", template.id.value),
                    help,
                );
            }
        }
    }

    /// A device, its template, the template's template, and so on.
    fn layers(&self, raw: &'r RawDevice<'d>) -> Vec<&'r RawDevice<'d>> {
        let mut layers = vec![raw];
        let mut current = raw;
        while let Some(wanted) = current.template {
            let Some(template) = self.templates.get(wanted.value) else {
                let help = suggest(wanted.value, self.templates.keys().copied(), "template");
                let message = format!("expected the id of a template, found {:?}", wanted.value);
                self.notes.error_with_help(wanted.place, message, help);
                break;
            };
            if layers.iter().any(|layer| std::ptr::eq(*layer, *template)) {
                let message = format!(
                    "expected templates that end somewhere, found that {:?} leads back to itself",
                    wanted.value
                );
                self.notes.error(wanted.place, message);
                break;
            }
            layers.push(template);
            current = template;
        }
        layers
    }

    fn device(&mut self, raw: &'r RawDevice<'d>) -> Placed<'r, 'd> {
        let layers = self.layers(raw);
        let ends_early = layers.last().is_some_and(|last| last.template.is_some());
        let is_broken = ends_early || self.defaults.broken || layers.iter().any(|layer| layer.broken);
        let driver = layers.iter().find_map(|layer| layer.driver).map(|driver| driver.value);
        if driver.is_none() && !is_broken {
            let help = "write driver = \"modbus-tcp\" or driver = \"push\" in the device or its template";
            self.notes.error_with_help(raw.id.place, "expected a driver for this device, found none", help);
        }
        let settings = Inherited { layers: &layers, defaults: self.defaults };
        let link = match driver {
            Some(Driver::ModbusTcp) => settings.modbus(raw, self.patience, self.notes),
            Some(Driver::Push) => {
                refuse_polling(&layers, self.notes);
                Some(Link::Push)
            }
            None => None,
        };
        let merged = self.merge(&layers);
        if merged.is_empty() && !is_broken {
            let help = "write tag = [ … ], tags = \"list.csv\" or [[device.group]]";
            self.notes.warning(raw.id.place, format!("device {:?} has no tags", raw.id.value), help);
        }
        let max_registers = settings.max_registers();
        let mut groups = Vec::with_capacity(merged.len());
        let mut tag_places = Vec::new();
        for group in &merged {
            let schedule = group.schedule(&settings);
            let setting = match driver {
                Some(Driver::ModbusTcp) => {
                    let word_order = schedule.word_order.map(|order| order.value).unwrap_or_default();
                    Some(Setting::Modbus { word_order, max_registers })
                }
                Some(Driver::Push) => Some(Setting::Push),
                None => None,
            };
            tag_places.extend(group.tags.iter().map(|(_, tag)| tag));
            self.tags += group.tags.len();
            groups
                .extend(setting.and_then(|setting| group.resolve(schedule, setting, is_broken, self.notes)));
        }
        let device = link.map(|link| Device {
            id: raw.id.value.to_owned(),
            link,
            enabled: layers.iter().find_map(|layer| layer.enabled).unwrap_or(true),
            labels: labels(&layers),
            description: layers.iter().find_map(|layer| layer.description).unwrap_or_default().to_owned(),
            groups,
        });
        Placed { id: raw.id, tags: tag_places, device }
    }

    /// The groups of all layers, put together by id, in the order in which they first appear from afar.
    fn merge(&self, layers: &[&'r RawDevice<'d>]) -> Vec<Merged<'r>> {
        let mut merged: Vec<Merged<'r>> = Vec::new();
        for (distance, layer) in layers.iter().enumerate().rev() {
            let mut declared: HashMap<&str, Place> = HashMap::new();
            for group in &layer.groups {
                let id = group.id.value.as_str();
                if group.origin == Origin::Declared
                    && let Some(first) = declared.insert(id, group.id.place)
                {
                    let help = format!("the other one is at {}", self.notes.name_of(first));
                    let message = format!("expected each group of a device once, found {id:?} again");
                    self.notes.error_with_help(group.id.place, message, help);
                }
                let known = merged.iter().position(|known| known.id() == id);
                if known.is_none() && group.origin == Origin::Listed && id != DEFAULT_GROUP {
                    let ids: Vec<&str> = merged.iter().map(Merged::id).collect();
                    let message = format!("expected a group of device {:?}, found {id:?}", layer.id.value);
                    self.notes.error_with_help(
                        group.id.place,
                        message,
                        suggest(id, ids.into_iter(), "group"),
                    );
                }
                let place = known.unwrap_or_else(|| {
                    merged.push(Merged { parts: Vec::new(), tags: Vec::new(), by_name: HashMap::new() });
                    merged.len() - 1
                });
                merged[place].add(distance, group);
            }
        }
        merged
    }
}

impl<'r> Merged<'r> {
    fn id(&self) -> &'r str {
        &self.first().id.value
    }

    /// Where the group was first written.
    fn first(&self) -> &'r RawGroup {
        self.parts.first().expect("it is made for its first part")
    }

    fn add(&mut self, distance: usize, group: &'r RawGroup) {
        self.parts.push(group);
        for tag in &group.tags {
            match self.by_name.get(tag.name.value.as_str()) {
                Some(&place) if self.tags[place].0 > distance => self.tags[place] = (distance, tag),
                // Twice in one layer: kept, so that it is found when all tags of the plant are compared.
                Some(_) => self.tags.push((distance, tag)),
                None => {
                    self.by_name.insert(&tag.name.value, self.tags.len());
                    self.tags.push((distance, tag));
                }
            }
        }
    }

    fn schedule(&self, inherited: &Inherited<'_, '_>) -> ScheduleSettings {
        let nearest = |settings: &dyn Fn(&ScheduleSettings) -> bool| {
            self.parts.iter().rev().map(|part| &part.schedule).find(|own| settings(own))
        };
        let above = inherited.schedule();
        ScheduleSettings {
            period: nearest(&|own| own.period.is_some()).map_or(above.period, |own| own.period),
            offset: nearest(&|own| own.offset.is_some()).map_or(above.offset, |own| own.offset),
            word_order: nearest(&|own| own.word_order.is_some())
                .map_or(above.word_order, |own| own.word_order),
        }
    }

    fn resolve(
        &self,
        schedule: ScheduleSettings,
        setting: Setting,
        device_is_broken: bool,
        notes: &Notes<'_>,
    ) -> Option<Group> {
        let place = self.first().id.place;
        let is_broken = device_is_broken || self.parts.iter().any(|part| part.broken);
        if self.tags.is_empty() && !is_broken {
            let help = "write tag = [ { name = …, address = …, type = … } ] or tags = \"list.csv\" in it";
            notes.error_with_help(place, format!("expected tags in group {:?}, found none", self.id()), help);
        }
        if self.tags.len() > MAX_GROUP_TAGS {
            let help = "split it: groups of the same period are read one after the other";
            let message = format!(
                "expected at most {MAX_GROUP_TAGS} tags in group {:?}, found {}",
                self.id(),
                self.tags.len()
            );
            notes.error_with_help(place, message, help);
        }
        let schedule = match setting {
            Setting::Push => {
                for part in &self.parts {
                    refuse_schedule(&part.schedule, notes);
                }
                None
            }
            Setting::Modbus { .. } => Some(polling_schedule(schedule, self.id(), place, is_broken, notes)?),
        };
        let tags: Vec<Tag> =
            self.tags.iter().filter_map(|(_, tag)| resolve_tag(tag, setting, notes)).collect();
        let text: usize = tags.iter().map(text_bytes).sum();
        if text > MAX_GROUP_TEXT {
            let message = format!(
                "expected at most {MAX_GROUP_TEXT} bytes of texts in group {:?}, found {text}",
                self.id()
            );
            notes.error_with_help(
                place,
                message,
                "split it: groups of the same period are read one after the other",
            );
        }
        let enabled = self.parts.iter().rev().find_map(|part| part.enabled).unwrap_or(true);
        Some(Group { id: self.id().to_owned(), schedule, enabled, tags })
    }
}

fn text_bytes(tag: &Tag) -> usize {
    match tag.point.map(|point| point.encoding) {
        Some(Encoding::Text(bytes) | Encoding::Raw(bytes)) => usize::from(bytes),
        _ => 0,
    }
}

fn polling_schedule(
    settings: ScheduleSettings,
    group: &str,
    place: Place,
    is_broken: bool,
    notes: &Notes<'_>,
) -> Option<Schedule> {
    let Some(period) = settings.period else {
        if !is_broken {
            let help = "write period = \"1s\" in the group, its device, its template or [defaults]";
            notes.error_with_help(place, format!("expected a period for group {group:?}, found none"), help);
        }
        return None;
    };
    let offset = settings.offset.map_or(Duration::ZERO, |offset| offset.value);
    if let Some(late) = settings.offset.filter(|_| offset >= period.value) {
        let help = format!("the period is written at {}", notes.name_of(period.place));
        notes.error_with_help(late.place, "expected an offset below the period, found one that is not", help);
        return None;
    }
    Some(Schedule { period: period.value, offset })
}

/// The settings of a device, from the nearest layer that has them.
struct Inherited<'l, 'd> {
    layers: &'l [&'l RawDevice<'d>],
    defaults: &'l Settings,
}

impl Inherited<'_, '_> {
    fn nearest<T>(&self, get: impl Fn(&Settings) -> Option<Spanned<T>>) -> Option<Spanned<T>> {
        self.layers.iter().find_map(|layer| get(&layer.settings)).or_else(|| get(self.defaults))
    }

    fn schedule(&self) -> ScheduleSettings {
        ScheduleSettings {
            period: self.nearest(|settings| settings.schedule.period),
            offset: self.nearest(|settings| settings.schedule.offset),
            word_order: self.nearest(|settings| settings.schedule.word_order),
        }
    }

    fn max_registers(&self) -> u16 {
        self.nearest(|settings| settings.max_registers).map_or(125, |most| most.value)
    }

    fn modbus(&self, raw: &RawDevice<'_>, patience: Option<&Patience>, notes: &Notes<'_>) -> Option<Link> {
        let Some(address) = &raw.address else {
            if !raw.broken {
                let help = "write address = \"10.0.5.11:502\"";
                notes.error_with_help(raw.id.place, "expected an address for this device, found none", help);
            }
            return None;
        };
        let timeout = self.nearest(|settings| settings.timeout);
        let slow = self.nearest(|settings| settings.slow).is_some_and(|slow| slow.value);
        if let (Some(patience), Some(timeout), false) = (patience, timeout, slow) {
            patience.check(timeout, notes);
        }
        Some(Link::ModbusTcp(ModbusTcp {
            host: address.value.host.clone(),
            port: address.value.port,
            unit_id: self.nearest(|settings| settings.unit_id).map_or(1, |unit| unit.value),
            timeout: timeout.map_or(Duration::from_secs(1), |timeout| timeout.value),
            slow,
            standby: self
                .nearest(|settings| settings.standby)
                .map(|standby| standby.value)
                .unwrap_or_default(),
            max_gap: self.nearest(|settings| settings.max_gap).map_or(16, |gap| gap.value),
            max_registers: self.max_registers(),
        }))
    }
}

/// Complains about what only a polled device can have. Defaults may have it: they are for all devices.
fn refuse_polling(layers: &[&RawDevice<'_>], notes: &Notes<'_>) {
    for layer in layers {
        let settings = &layer.settings;
        let given = [
            ("address", layer.address.as_ref().map(|given| given.place)),
            ("unit-id", settings.unit_id.map(|given| given.place)),
            ("timeout", settings.timeout.map(|given| given.place)),
            ("slow", settings.slow.map(|given| given.place)),
            ("standby", settings.standby.map(|given| given.place)),
            ("max-gap", settings.max_gap.map(|given| given.place)),
            ("max-registers", settings.max_registers.map(|given| given.place)),
        ];
        for (key, place) in given {
            refuse_key(key, place, notes);
        }
        refuse_schedule(&settings.schedule, notes);
    }
}

fn refuse_schedule(schedule: &ScheduleSettings, notes: &Notes<'_>) {
    refuse_key("period", schedule.period.map(|given| given.place), notes);
    refuse_key("offset", schedule.offset.map(|given| given.place), notes);
    refuse_key("word-order", schedule.word_order.map(|given| given.place), notes);
}

fn refuse_key(key: &str, place: Option<Place>, notes: &Notes<'_>) {
    if let Some(place) = place {
        notes.error(place, format!("expected no `{key}` for a device that pushes: it is not polled"));
    }
}

/// The labels of all layers; of the same label the nearest.
fn labels(layers: &[&RawDevice<'_>]) -> BTreeMap<String, String> {
    let far_to_near = layers.iter().rev().flat_map(|layer| &layer.labels);
    far_to_near.map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
}
