//! The document as it is written: typed, with places, before templates and defaults are put together.
//!
//! Owns which keys there are, except for those of tags and destinations. Looks at one table at a time.

use std::time::Duration;

use toml_edit::TableLike;

use super::destinations::{RawDestination, read_destination};
use super::diagnostics::{Notes, Place, Spanned};
use super::names::{Named, check_id, read_id};
use super::reader::Fields;
use super::register_list::{ListKind, read_list};
use super::tags::{MAX_DESCRIPTION, RawTag, read_tag, too_long};
use crate::plant::address::WordOrder;
use crate::plant::{ClusterPolicy, Failback, Retention, Standby, WhenFull};

/// Id of the group of tags that are written without one.
pub(super) const DEFAULT_GROUP: &str = "default";

/// What stands in `plant.toml`.
#[derive(Debug)]
pub(super) struct RawDocument<'d> {
    pub(super) cluster: ClusterPolicy,
    pub(super) retention: Retention,
    pub(super) defaults: Settings,
    pub(super) templates: Vec<RawDevice<'d>>,
    pub(super) devices: Vec<RawDevice<'d>>,
    pub(super) destinations: Vec<RawDestination<'d>>,
    /// Lines of register lists at the top.
    pub(super) rows: Vec<TopRow>,
}

/// A line of a register list at the top of the document.
#[derive(Debug)]
pub(super) struct TopRow {
    pub(super) device: Spanned<String>,
    pub(super) group: Spanned<String>,
    pub(super) tag: RawTag,
}

/// A device, or a template of devices.
#[derive(Debug)]
pub(super) struct RawDevice<'d> {
    pub(super) id: Spanned<&'d str>,
    pub(super) template: Option<Spanned<&'d str>>,
    pub(super) driver: Option<Spanned<Driver>>,
    pub(super) address: Option<Spanned<Endpoint>>,
    pub(super) settings: Settings,
    pub(super) enabled: Option<bool>,
    pub(super) labels: Vec<(&'d str, &'d str)>,
    pub(super) description: Option<&'d str>,
    pub(super) groups: Vec<RawGroup>,
    pub(super) broken: bool,
}

/// How a device is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Driver {
    ModbusTcp,
    Push,
}

/// Host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
}

/// What is inherited: tag <- group <- device <- template <- defaults.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Settings {
    pub(super) unit_id: Option<Spanned<u8>>,
    pub(super) timeout: Option<Spanned<Duration>>,
    pub(super) slow: Option<Spanned<bool>>,
    pub(super) standby: Option<Spanned<Standby>>,
    pub(super) max_gap: Option<Spanned<u16>>,
    pub(super) max_registers: Option<Spanned<u16>>,
    pub(super) schedule: ScheduleSettings,
    /// Something beside them could not be read, so one that is absent may not be missing.
    pub(super) broken: bool,
}

/// What a group may say itself, and otherwise inherits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ScheduleSettings {
    pub(super) period: Option<Spanned<Duration>>,
    pub(super) offset: Option<Spanned<Duration>>,
    pub(super) word_order: Option<Spanned<WordOrder>>,
}

/// A group, or what a list adds to one.
#[derive(Debug)]
pub(super) struct RawGroup {
    pub(super) id: Spanned<String>,
    pub(super) schedule: ScheduleSettings,
    pub(super) enabled: Option<bool>,
    pub(super) tags: Vec<RawTag>,
    pub(super) origin: Origin,
    pub(super) broken: bool,
}

/// How a group came to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// As `[[….group]]`: once per device or template.
    Declared,
    /// By tags written in the device itself.
    Implied,
    /// By a register list at the top, which adds to groups that exist.
    Listed,
}

/// Reads the whole document.
pub(super) fn read_document<'d>(
    root: &'d dyn TableLike,
    start: Place,
    notes: &'d Notes<'d>,
) -> RawDocument<'d> {
    let mut fields = Fields::new(root, start, notes);
    if fields.integer("version", 1, 1).is_none() && !fields.has("version") {
        fields.error_with_help(
            start,
            "expected the key `version`, found none",
            "begin the document with version = 1",
        );
    }
    let cluster = fields.table("cluster").map(read_cluster).unwrap_or_default();
    let retention = fields.table("retention").map(read_retention).unwrap_or_default();
    let defaults = fields.table("defaults").map(read_defaults).unwrap_or_default();
    let templates =
        fields.tables("template").into_iter().filter_map(|table| read_device(table, true)).collect();
    let devices = fields.tables("device").into_iter().filter_map(|table| read_device(table, false)).collect();
    let destinations = fields.tables("destination").into_iter().filter_map(read_destination).collect();
    let mut rows = Vec::new();
    for file in fields.text_or_texts("tags") {
        for row in read_list(file, ListKind::Top, notes).unwrap_or_default() {
            let group =
                row.group.unwrap_or(Spanned { value: DEFAULT_GROUP.to_owned(), place: row.tag.name.place });
            // Without its device a line was complained about.
            rows.extend(row.device.map(|device| TopRow { device, group, tag: row.tag }));
        }
    }
    fields.finish();
    RawDocument { cluster, retention, defaults, templates, devices, destinations, rows }
}

fn read_cluster(mut fields: Fields<'_>) -> ClusterPolicy {
    let mut preferred: Vec<String> = Vec::new();
    for name in fields.texts("preferred").map(|list| list.value).unwrap_or_default() {
        if let Err(message) = check_id(name.value, Named::Word) {
            fields.error(name.place, message);
        } else if preferred.iter().any(|known| known == name.value) {
            fields.error(name.place, format!("expected each node once, found {:?} again", name.value));
        } else {
            preferred.push(name.value.to_owned());
        }
    }
    let is_auto =
        fields.choice("failback", &[("manual", false), ("auto", true)]).is_some_and(|auto| auto.value);
    let settle = fields.duration("failback-settle", "1s", "7d");
    let failback = if is_auto {
        Failback::Auto { settle: settle.map_or(Duration::from_secs(60), |settle| settle.value) }
    } else {
        Failback::Manual
    };
    if let Some(settle) = settle.filter(|_| !is_auto) {
        let help = "write failback = \"auto\" beside it, or leave it out";
        fields.notes().warning(settle.place, "failback-settle has no effect while failback is manual", help);
    }
    fields.finish();
    ClusterPolicy { preferred, failback }
}

fn read_retention(mut fields: Fields<'_>) -> Retention {
    let default = Retention::default();
    let max_bytes = fields.bytes("max-bytes");
    if let Some(small) = max_bytes.filter(|bytes| bytes.value < 64 << 20) {
        fields.error(small.place, format!("expected at least 64MiB, found {} bytes", small.value));
    }
    let when_full =
        fields.choice("when-full", &[("refuse", WhenFull::Refuse), ("drop-oldest", WhenFull::DropOldest)]);
    let keep_delivered = fields.duration("keep-delivered", "0s", "3660d");
    fields.finish();
    Retention {
        max_bytes: max_bytes.map_or(default.max_bytes, |bytes| bytes.value),
        when_full: when_full.map_or(default.when_full, |when| when.value),
        keep_delivered: keep_delivered.map_or(default.keep_delivered, |keep| keep.value),
    }
}

fn read_defaults(mut fields: Fields<'_>) -> Settings {
    let settings = read_settings(&mut fields);
    fields.finish();
    Settings { broken: fields.is_broken(), ..settings }
}

fn read_settings(fields: &mut Fields<'_>) -> Settings {
    let small = |number: Spanned<i64>| number.map(|value| u16::try_from(value).expect("within its bounds"));
    Settings {
        unit_id: fields
            .integer("unit-id", 0, 255)
            .map(|unit| unit.map(|value| u8::try_from(value).expect("within its bounds"))),
        timeout: fields.duration("timeout", "10ms", "60s"),
        slow: fields.flag("slow"),
        standby: fields.choice("standby", &[("cold", Standby::Cold), ("warm", Standby::Warm)]),
        max_gap: fields.integer("max-gap", 0, 124).map(small),
        max_registers: fields.integer("max-registers", 1, 125).map(small),
        schedule: read_schedule(fields),
        broken: fields.is_broken(),
    }
}

fn read_schedule(fields: &mut Fields<'_>) -> ScheduleSettings {
    ScheduleSettings {
        period: fields.duration("period", "10ms", "31d"),
        offset: fields.duration("offset", "0s", "31d"),
        word_order: fields.parsed("word-order", str::parse::<WordOrder>),
    }
}

fn read_device(mut fields: Fields<'_>, is_template: bool) -> Option<RawDevice<'_>> {
    let id = read_id(&mut fields, "id", Named::Path);
    let template = fields.text("template");
    let driver = fields.choice("driver", &[("modbus-tcp", Driver::ModbusTcp), ("push", Driver::Push)]);
    let address = fields.parsed("address", parse_endpoint);
    let settings = read_settings(&mut fields);
    let enabled = fields.boolean("enabled");
    let labels = fields.table("labels").map(Fields::free_texts).unwrap_or_default();
    let labels = labels.into_iter().map(|(name, text)| (name, text.value)).collect();
    let description = fields.text("description");
    if let Some(long) = description.filter(|text| text.value.len() > MAX_DESCRIPTION) {
        fields.error(long.place, too_long(long.value, MAX_DESCRIPTION));
    }
    if let Some(item) = fields.item("address").filter(|_| is_template) {
        let help = "write it in each [[device]]";
        fields.error_with_help(
            item.place,
            "expected no address in a template: each device has its own",
            help,
        );
    }
    let mut groups = all_or_broken("group", &mut fields, read_group);
    let place = fields.place();
    let tags = read_tags(&mut fields);
    if !tags.is_empty() {
        groups.push(RawGroup {
            id: Spanned { value: DEFAULT_GROUP.to_owned(), place },
            schedule: ScheduleSettings::default(),
            enabled: None,
            tags,
            origin: Origin::Implied,
            broken: false,
        });
    }
    fields.finish();
    Some(RawDevice {
        id: id?,
        template,
        driver,
        address,
        settings,
        enabled,
        labels,
        description: description.map(|text| text.value),
        groups,
        broken: fields.is_broken(),
    })
}

fn read_group(mut fields: Fields<'_>) -> Option<RawGroup> {
    let id = read_id(&mut fields, "id", Named::Word);
    let schedule = read_schedule(&mut fields);
    let enabled = fields.boolean("enabled");
    let tags = read_tags(&mut fields);
    fields.finish();
    Some(RawGroup {
        id: id?.map(str::to_owned),
        schedule,
        enabled,
        tags,
        origin: Origin::Declared,
        broken: fields.is_broken(),
    })
}

/// The tags written here (`tag = [ … ]`), and those of register lists (`tags = "list.csv"`).
fn read_tags(fields: &mut Fields<'_>) -> Vec<RawTag> {
    let notes = fields.notes();
    let mut tags: Vec<RawTag> = all_or_broken("tag", fields, read_tag);
    for file in fields.text_or_texts("tags") {
        match read_list(file, ListKind::Group, notes) {
            Some(rows) => tags.extend(rows.into_iter().map(|row| row.tag)),
            None => fields.mark_broken(),
        }
    }
    tags
}

/// Reads the tables of one key. Where one comes to nothing, which was complained about, its owner is not understood.
fn all_or_broken<'d, T>(
    key: &'static str,
    fields: &mut Fields<'d>,
    read: impl Fn(Fields<'d>) -> Option<T>,
) -> Vec<T> {
    let tables = fields.tables(key);
    let count = tables.len();
    let found: Vec<T> = tables.into_iter().filter_map(read).collect();
    if found.len() < count {
        fields.mark_broken();
    }
    found
}

/// Reads `host`, `host:port`, `[v6]:port`; the port of Modbus TCP is 502.
fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    let wrong = || format!("expected host:port such as \"10.0.5.11:502\", found {text:?}");
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_host = match text.starts_with('[') {
        true => host.parse::<std::net::Ipv6Addr>().is_ok(),
        false => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
    };
    let port = match port {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port > 0)
        }
        Some(_) => None,
        None => Some(502),
    };
    match port {
        Some(port) if is_host => Ok(Endpoint { host: host.to_owned(), port }),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_as_they_are_written() {
        let endpoint = |text: &str| parse_endpoint(text).map(|found| (found.host, found.port)).ok();
        assert_eq!(endpoint("10.0.5.11:502"), Some(("10.0.5.11".into(), 502)));
        assert_eq!(endpoint("press-1.plant"), Some(("press-1.plant".into(), 502)));
        assert_eq!(endpoint("[::1]:5020"), Some(("::1".into(), 5020)));
        assert_eq!(endpoint("[::1]"), Some(("::1".into(), 502)));
        for text in [
            "",
            ":502",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "::1",
            "[::1",
            "[x]:1",
            "[::1]502",
            "tcp://a:1",
            "a b",
        ] {
            assert_eq!(endpoint(text), None, "{text}");
        }
    }
}
