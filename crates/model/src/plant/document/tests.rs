//! What the document as a whole must do: its example, every rule once with the place that is named, and nothing but
//! complaints for nonsense.

use std::fmt::Write as _;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::plant::address::ModbusAddress;
use crate::plant::{
    DestinationKind, Encoding, Failback, Link, ModbusTcp, Plant, Scaling, Secret, Standby, Start,
};
use crate::value::ValueType;

const EXAMPLE: &str = include_str!("../../../../../cluster-config/plant.toml");

/// A sound plant to put faults into; what follows is inside its last table, a destination.
const SOUND: &str = r#"version = 1
[[device]]
id = "press"
driver = "modbus-tcp"
address = "10.0.5.11"
[[device.group]]
id = "fast"
period = "1s"
tag = [ { name = "level", address = "40101", type = "i16" } ]
[[destination]]
id = "historian"
kind = "http"
url = "http://historian/ingest"
"#;

fn read(text: &str) -> Result<ReadPlant, Diagnostics> {
    read_bundle(&Bundle::of_document(text))
}

fn sound(text: &str) -> Plant {
    let read = read(text).unwrap_or_else(|found| panic!("expected a plant, found:\n{found}"));
    assert!(read.warnings.is_empty(), "expected no warnings, found:\n{}", read.warnings);
    read.plant
}

fn modbus(plant: &Plant, device: usize) -> &ModbusTcp {
    match &plant.devices[device].link {
        Link::ModbusTcp(link) => link,
        Link::Push => panic!("expected a polled device"),
    }
}

/// The diagnostics of a document that is expected to have some, without its errors or with.
fn complaints(text: &str) -> String {
    match read(text) {
        Ok(read) => read.warnings.to_string(),
        Err(found) => found.to_string(),
    }
}

#[track_caller]
fn expect(text: &str, expected: &[&str]) {
    let found = complaints(text);
    for part in expected {
        assert!(found.contains(part), "expected {part:?} in:\n{found}\nfor:\n{text}");
    }
    let count = found.lines().filter(|line| !line.starts_with("  help")).count();
    assert_eq!(
        count,
        expected.len(),
        "expected {} complaints, found:\n{found}\nfor:\n{text}",
        expected.len()
    );
}

/// A polled device whose only tag is this.
fn with_tag(tag: &str) -> String {
    SOUND.replace("{ name = \"level\", address = \"40101\", type = \"i16\" }", tag)
}

#[test]
fn the_reference_example_reads_without_warnings() {
    let plant = sound(EXAMPLE);
    let ids: Vec<&str> = plant.devices.iter().map(|device| device.id.as_str()).collect();
    assert_eq!(ids, ["hall-1/press-1", "hall-1/press-2", "hall-2/press-3", "hall-2/robot-1"]);
    assert_eq!(plant.tags().count(), 10 + 10 + 11 + 4);
    assert_eq!((modbus(&plant, 1).port, modbus(&plant, 1).unit_id), (5022, 1));
    let (fast, slow) = (&plant.devices[2].groups[0], &plant.devices[2].groups[1]);
    assert_eq!(fast.schedule.expect("polled").period, Duration::from_millis(500));
    assert_eq!(slow.schedule.expect("polled").offset, Duration::from_millis(120));
    assert_eq!(
        slow.tags.last().expect("has tags").name,
        "debug/cycle-time",
        "the device's own adds to the template's"
    );
    let position = fast.tags[1].point.expect("polled");
    assert_eq!(position.scaling, Some(Scaling { factor: 1250.0 / 27648.0, offset: 0.0 }));
    assert_eq!(fast.tags[1].value_type, ValueType::F64, "a scaled value is delivered as f64");
    assert_eq!(fast.tags[2].point.expect("polled").address.to_string(), "holding:104.3");
    assert_eq!(slow.tags[5].point.expect("polled").encoding, Encoding::Text(16));
    assert_eq!(slow.tags[4].value_type, ValueType::U16, "bcd16 is delivered as u16");
    let robot = &plant.devices[3];
    assert_eq!((robot.groups.len(), robot.groups[0].id.as_str()), (1, "default"));
    assert!(robot.groups[0].schedule.is_none() && robot.groups[0].tags.iter().all(|tag| tag.point.is_none()));
    assert!(!plant.destinations[1].required);
}

#[test]
fn a_plant_survives_its_canonical_form() {
    let plant = sound(EXAMPLE);
    let text = serde_json::to_string(&plant).expect("a plant has a serde form");
    assert_eq!(serde_json::from_str::<Plant>(&text).expect("reads back"), plant);
}

#[test]
fn an_empty_document_is_the_empty_plant() {
    assert_eq!(sound("version = 1"), Plant::default());
    assert_eq!(sound("\u{feff}version = 1\r\n"), Plant::default());
    expect("", &["plant.toml:1:1: error: expected the key `version`"]);
    expect("version = 2", &["1:11: error: expected a whole number from 1 to 1, found the number 2"]);
}

#[test]
fn every_error_is_reported_at_once_with_its_place() {
    let text = r#"version = 1
[cluster]
failback = "automatic"
[retention]
max-bytes = "20 GB"
[[device]]
id = "press"
driver = "modbus-tcp"
adress = "10.0.5.11"
[[device.group]]
id = "fast"
period = "5 fortnights"
tag = [
  { name = "level", address = "50101", type = "i16" },
  { name = "speed", address = 40103, type = "float" },
  { name = "door", address = "coil:1.3", type = "bool" },
]
[[destination]]
id = "historian"
kind = "htp"
"#;
    expect(
        text,
        &[
            "plant.toml:3:12: error: expected \"manual\" or \"auto\", found \"automatic\"\n  help: did you mean \"auto\"?",
            "plant.toml:5:13: error: expected a size such as \"20GiB\"",
            "plant.toml:9:1: error: unknown key \"adress\"\n  help: did you mean `address`?",
            "plant.toml:12:10: error: expected a duration such as",
            "plant.toml:14:31: error: expected an address such as \"holding:100\" or \"40101\", found \"50101\"",
            "plant.toml:15:31: error: expected an address in quotes, found 40103\n  help: write address = \"40103\"",
            "plant.toml:15:45: error: expected a type (bool, i16, u16, i32, u32, i64, u64, f32, f64, string, bytes, \
             bcd16, bcd32, or INT, REAL, …), found \"float\"; did you mean \"f32\"?",
            "plant.toml:16:30: error: expected no bit behind a coil",
            "plant.toml:20:8: error: expected \"http\" or \"csv\", found \"htp\"\n  help: did you mean \"http\"?",
        ],
    );
}

#[test]
fn text_that_is_no_toml_is_one_error_with_its_place() {
    expect("version = 1\n[cluster\n", &["plant.toml:2:9: error: expected TOML"]);
    expect("version = 1\nversion = 1\n", &["plant.toml:2:1: error: expected TOML: duplicate key"]);
    let found = read_bundle(&Bundle::of_document(b"version = 1 # \xFF")).expect_err("no UTF-8").to_string();
    assert!(found.contains("plant.toml:1:15: error: expected UTF-8"), "{found}");
    let found = read_bundle(&Bundle::default()).expect_err("nothing").to_string();
    assert_eq!(found, "plant.toml:1:1: error: expected a file plant.toml, found none");
}

#[test]
fn the_nearest_layer_wins() {
    let plant = sound(
        r#"version = 1
[defaults]
timeout = "3s"
period = "10s"
unit-id = 9
word-order = "badc"
[[template]]
id = "base"
driver = "modbus-tcp"
timeout = "2s"
labels = { maker = "x", line = "0" }
[[template.group]]
id = "fast"
tag = [ { name = "a", address = "40001", type = "f32" }, { name = "b", address = "40003", type = "f32" } ]
[[template]]
id = "press"
template = "base"
standby = "warm"
[[template.group]]
id = "fast"
period = "2s"
word-order = "dcba"
[[device]]
id = "one"
template = "press"
address = "h:1"
unit-id = 4
labels = { line = "1" }
[[device.group]]
id = "fast"
tag = [ { name = "b", address = "40005", type = "f32", word-order = "abcd" } ]
[[device]]
id = "two"
template = "base"
address = "h:2"
enabled = false
tag = [ { name = "c", address = "00001", type = "bool" } ]
[[destination]]
id = "h"
kind = "http"
url = "http://h"
"#,
    );
    let (one, two) = (modbus(&plant, 0), modbus(&plant, 1));
    assert_eq!((one.timeout, two.timeout), (Duration::from_secs(2), Duration::from_secs(2)));
    assert_eq!((one.unit_id, two.unit_id), (4, 9));
    assert_eq!((one.standby, two.standby), (Standby::Warm, Standby::Cold));
    let labels = |device: usize, label: &str| plant.devices[device].labels[label].as_str();
    assert_eq!((labels(0, "line"), labels(0, "maker"), labels(1, "line")), ("1", "x", "0"));
    let fast = &plant.devices[0].groups[0];
    assert_eq!(fast.schedule.expect("polled").period, Duration::from_secs(2));
    let order = |tag: usize| fast.tags[tag].point.expect("polled").word_order.name();
    assert_eq!((order(0), order(1)), ("dcba", "abcd"));
    assert_eq!(fast.tags[1].point.expect("polled").address, "40005".parse::<ModbusAddress>().expect("sound"));
    assert_eq!(fast.tags.len(), 2, "a tag of the same name in a nearer layer replaces the farther one");
    let groups: Vec<&str> = plant.devices[1].groups.iter().map(|group| group.id.as_str()).collect();
    assert_eq!(groups, ["fast", "default"]);
    assert_eq!(plant.devices[1].groups[1].schedule.expect("polled").period, Duration::from_secs(10));
    assert!(!plant.devices[1].enabled);
}

#[test]
fn templates_that_lead_nowhere_or_back_are_errors() {
    let tail = "[[device]]\nid = \"d\"\ntemplate = \"b\"\naddress = \"h\"\n[[destination]]\nid = \"h\"\nkind = \"http\"\nurl = \"http://h\"\n";
    let cycle = format!(
        "version = 1\n[[template]]\nid = \"a\"\ntemplate = \"b\"\n[[template]]\nid = \"b\"\ntemplate = \"a\"\n{tail}"
    );
    let found = complaints(&cycle);
    assert!(found.contains("plant.toml:4:12: error: expected templates that end somewhere"), "{found}");
    expect(
        &SOUND.replace("driver = \"modbus-tcp\"", "template = \"pres\"\ndriver = \"modbus-tcp\""),
        &[
            "plant.toml:4:12: error: expected the id of a template, found \"pres\"\n  help: there is no template",
        ],
    );
    expect(
        &format!("{SOUND}[[template]]\nid = \"x\"\n[[template]]\nid = \"x\"\n"),
        &[
            "expected each template once, found \"x\" again\n  help: the other one is at plant.toml:15:6",
            "15:6: warning: no device uses",
            "17:6: warning: no device uses",
        ],
    );
}

#[test]
fn an_error_in_a_template_is_reported_once_for_all_its_devices() {
    let mut text = "version = 1\n[[template]]\nid = \"t\"\ndriver = \"modbus-tcp\"\nperiod = \"1s\"\n\
                    tag = [ { name = \"x\", address = \"40001\", type = \"bool\" } ]\n"
        .to_owned();
    for number in 0..50 {
        write!(text, "[[device]]\nid = \"d{number}\"\ntemplate = \"t\"\naddress = \"h{number}\"\n")
            .expect("a string");
    }
    text.push_str("[[destination]]\nid = \"h\"\nkind = \"http\"\nurl = \"http://h\"\n");
    expect(
        &text,
        &["plant.toml:6:33: error: expected a bit of the register for a bool, found holding:0 = 40001"],
    );
}

#[test]
fn what_could_not_be_read_is_not_also_missing() {
    let defaults = SOUND.replace("version = 1", "version = 1\n[defaults]\nperiod = \"1 s\"");
    expect(&defaults.replace("period = \"1s\"\n", ""), &["3:10: error: expected a duration"]);
    let in_device = SOUND.replace("[[device.group]]", "period = 5\n[[device.group]]");
    expect(
        &in_device.replace("period = \"1s\"\n", ""),
        &["6:10: error: expected a text in quotes, found the number 5"],
    );
    expect(&SOUND.replace("id = \"fast\"\n", ""), &["6:1: error: expected the key `id`"]);
    expect(
        &SOUND.replace("tag = [", "tags = \"x.csv\" #"),
        &["expected a file beside plant.toml, found none named \"x.csv\""],
    );
}

#[test]
fn one_id_names_one_thing() {
    expect(
        &format!("{SOUND}[[destination]]\nid = \"historian\"\nkind = \"http\"\nurl = \"http://b\"\n"),
        &[
            "plant.toml:15:6: error: expected each destination once, found \"historian\" again\n  help: the other one is at plant.toml:11:6",
        ],
    );
    expect(
        &format!(
            "{SOUND}[[device]]\nid = \"press\"\ndriver = \"push\"\ntag = [ {{ name = \"level\", type = \"i16\" }} ]\n"
        ),
        &["15:6: error: expected each device once"],
    );
    expect(
        &format!(
            "{SOUND}[[device]]\nid = \"press/a\"\ndriver = \"push\"\ntag = [ {{ name = \"b\", type = \"i16\" }} ]\n\
             [[device]]\nid = \"press/a/b\"\ndriver = \"push\"\ntag = [ {{ name = \"c\", type = \"i16\" }} ]\n\
             [[device]]\nid = \"press/a/b/c\"\ndriver = \"push\"\ntag = [ {{ name = \"c\", type = \"i16\" }} ]\n\
             [[device]]\nid = \"pres\"\ndriver = \"push\"\ntag = [ {{ name = \"s/a\", type = \"i16\" }} ]\n"
        ),
        &[],
    );
    expect(
        &format!("{SOUND}[[device]]\nid = \"press/a\"\ndriver = \"push\"\ntag = [ {{ name = \"b\", type = \"i16\" }} ]\n")
            .replace("\"level\"", "\"a/b\""),
        &["error: expected each tag once, found \"press/a/b\" again"],
    );
    let two = "{ name = \"level\", address = \"40101\", type = \"i16\" }, { name = \"level\", address = \"40102\", type = \"i16\" }";
    expect(&with_tag(two), &["error: expected each tag once, found \"press/level\" again"]);
    expect(
        &SOUND.replace("[[destination]]", "[[device.group]]\nid = \"fast\"\n[[destination]]"),
        &["11:6: error: expected each group of a device once"],
    );
}

#[test]
fn what_does_not_fit_a_tag_is_refused() {
    for (tag, expected) in [
        ("{ name = \"a\", address = \"40101\" }", "expected the key `type`"),
        ("{ address = \"40101\", type = \"i16\" }", "expected the key `name`"),
        ("{ name = \"a\", type = \"i16\" }", "expected an address for this tag, found none"),
        (
            "{ name = \"a\", address = \"465536\", type = \"f32\" }",
            "found 2 registers from holding:65535 = 465536",
        ),
        (
            "{ name = \"a\", address = \"40101\", type = \"bool\" }",
            "\n  help: the least significant bit is \"holding:100.0\"",
        ),
        (
            "{ name = \"a\", address = \"40101.1\", type = \"i16\" }",
            "expected type bool for a single bit (holding:100.1 = 40101.1)",
        ),
        (
            "{ name = \"a\", address = \"coil:1\", type = \"u16\" }",
            "expected type bool for a single bit (coil:1 = 00002)",
        ),
        ("{ name = \"a\", address = \"40101\", type = \"string\" }", "expected a length in bytes"),
        (
            "{ name = \"a\", address = \"40101\", type = \"string\", length = 0 }",
            "a whole number from 1 to 65535",
        ),
        (
            "{ name = \"a\", address = \"40101\", type = \"bytes\", length = 251 }",
            "(125 registers), found one of 126",
        ),
        ("{ name = \"a\", address = \"40101\", type = \"i16\", length = 2 }", "expected no length"),
        ("{ name = \"a\", address = \"40101.0\", type = \"bool\", scale = 2 }", "expected no scale"),
        ("{ name = \"a\", address = \"40101\", type = \"i16\", scale = 0 }", "expected a scale other than 0"),
        (
            "{ name = \"a\", address = \"40101\", type = \"i16\", scale = nan }",
            "expected a number, found the number NaN",
        ),
        (
            "{ name = \"a\", address = \"40101\", type = \"i16\", raw = [0, 1] }",
            "expected `range` beside `raw`",
        ),
        (
            "{ name = \"a\", address = \"40101\", type = \"i16\", raw = [1, 1], range = [0, 5] }",
            "two different numbers",
        ),
        (
            "{ name = \"a\", address = \"40101\", type = \"i16\", raw = [0, 1], range = [0, 5], scale = 1 }",
            "either `raw`",
        ),
        (
            "{ name = \"a\", address = \"40101\", type = \"f32\", word-order = \"abdc\" }",
            "expected a word order",
        ),
        ("{ name = \"$a\", address = \"40101\", type = \"i16\" }", "does not begin with $"),
        ("{ name = \"a${b}\", address = \"40101\", type = \"i16\" }", "reserved"),
        ("{ name = \"a*\", address = \"40101\", type = \"i16\" }", "found '*' in \"a*\""),
        ("{ name = \"a\", address = \"40101\", type = \"i16\", unit = \"${x}\" }", "without `${`"),
        ("{ name = \"a\", adress = \"40101\", type = \"i16\" }", "did you mean `address`?"),
        ("\"a\"", "expected { … }, found the text \"a\""),
    ] {
        let found = read(&with_tag(tag)).expect_err(tag);
        assert_eq!(found.errors().count(), 1, "{tag}:\n{found}");
        assert!(found.to_string().contains(expected), "expected {expected} for {tag} in:\n{found}");
    }
}

#[test]
fn what_is_odd_about_a_tag_is_a_warning_and_the_tag_is_kept() {
    for (tag, expected) in [
        (
            "{ name = \"a\", address = \"holding:40101\", type = \"i16\" }",
            "plant.toml:9:33: warning: \"holding:40101\" counts from zero: holding:40101 = 440102",
        ),
        ("{ name = \"a\", address = \"40101\", type = \"i16\", word-order = \"cdab\" }", "has no effect"),
    ] {
        let found = read(&with_tag(tag)).expect(tag);
        assert_eq!(found.plant.tags().count(), 1);
        assert!(found.warnings.to_string().contains(expected), "{tag}: {}", found.warnings);
    }
}

#[test]
fn schedules_have_bounds() {
    let period = |text: &str| SOUND.replace("period = \"1s\"", text);
    expect(
        &period("period = \"9ms\""),
        &["8:10: error: expected a duration from 10ms to 31d, found \"9ms\""],
    );
    expect(
        &period("period = \"1s\"\noffset = \"1s\""),
        &[
            "9:10: error: expected an offset below the period, found one that is not\n  help: the period is written at plant.toml:8:10",
        ],
    );
    expect(&period(""), &["7:6: error: expected a period for group \"fast\", found none"]);
    sound(&period("period = \"10ms\"\noffset = \"9ms\""));
}

#[test]
fn a_group_has_tags_and_not_too_many() {
    let many = |count: usize| {
        let tag =
            |number| format!("{{ name = \"t{number}\", address = \"holding:{number}\", type = \"i16\" }}, ");
        with_tag(&(0..count).map(tag).collect::<String>())
    };
    assert_eq!(sound(&many(2_000)).tags().count(), 2_000);
    expect(&many(2_001), &["7:6: error: expected at most 2000 tags in group \"fast\", found 2001"]);
    expect(&with_tag(""), &["7:6: error: expected tags in group \"fast\", found none"]);
    let text = |number| {
        format!("{{ name = \"t{number}\", address = \"40001\", type = \"string\", length = 250 }}, ")
    };
    expect(
        &with_tag(&(0..1_600).map(text).collect::<String>()),
        &["bytes of texts in group \"fast\", found 400000"],
    );
}

#[test]
fn a_device_that_pushes_is_not_polled() {
    expect(
        r#"version = 1
[defaults]
period = "1s"
timeout = "1s"
[[device]]
id = "robot"
driver = "push"
address = "10.0.0.1"
period = "1s"
tag = [ { name = "a", address = "40001", type = "i16" }, { name = "b", type = "i16", scale = 2 }, { name = "c", type = "bcd16" } ]
[[destination]]
id = "h"
kind = "http"
url = "http://h"
"#,
        &[
            "8:11: error: expected no `address` for a device that pushes",
            "9:10: error: expected no `period` for a device that pushes",
            "10:33: error: expected no address in a tag that is pushed",
            "10:94: error: expected no scale",
            "10:120: error: expected no type bcd",
        ],
    );
}

#[test]
fn a_device_says_how_and_where() {
    expect(&SOUND.replace("driver = \"modbus-tcp\"\n", ""), &["3:6: error: expected a driver"]);
    expect(
        &SOUND.replace("address = \"10.0.5.11\"\n", ""),
        &["3:6: error: expected an address for this device"],
    );
    expect(&SOUND.replace("\"10.0.5.11\"", "\"tcp://x\""), &["5:11: error: expected host:port"]);
    expect(
        &SOUND.replace("\"modbus-tcp\"", "\"modbus\""),
        &[
            "4:10: error: expected \"modbus-tcp\" or \"push\", found \"modbus\"\n  help: did you mean \"modbus-tcp\"?",
        ],
    );
    expect(&SOUND.replace("id = \"fast\"", "id = \"a/b\""), &["7:6: error: expected an id without slashes"]);
    expect(&SOUND.replace("id = \"press\"\n", ""), &["2:1: error: expected the key `id`"]);
    let second = SOUND.replace(
        "[[destination]]",
        "[[device]]\nid = \"b\"\ndriver = \"modbus-tcp\"\naddress = \"10.0.5.11:502\"\n[[destination]]",
    );
    expect(
        &second,
        &[
            "11:6: warning: device \"b\" has no tags",
            "11:6: warning: \"press\" and \"b\" have the same address",
        ],
    );
}

#[test]
fn destinations_keep_secrets_out_of_the_document_and_out_of_the_complaints() {
    let leak = "hunter2";
    for (key, expected) in [
        (
            "url = \"https://admin:hunter2@historian/\"",
            "13:7: error: expected a URL without user name and password",
        ),
        (
            "url = \"http://h\"\ntoken = \"hunter2\"",
            "14:9: error: expected a reference to a secret, found something else",
        ),
        ("url = \"http://h\"\ntoken = { value = \"hunter2\" }", "error: unknown key \"value\""),
        (
            "url = \"http://h\"\ntoken = { file = \"a\", env = \"B\" }",
            "error: expected one of `file` and `env`",
        ),
    ] {
        let text = SOUND.replace("url = \"http://historian/ingest\"", key);
        let found = read(&text).expect_err(key).to_string();
        assert!(found.contains(expected), "expected {expected} in:\n{found}");
        assert!(!found.contains(leak), "a secret is repeated in:\n{found}");
    }
    let plant = sound(&format!("{SOUND}token = {{ env = \"TOKEN\" }}\n"));
    let DestinationKind::Http(http) = &plant.destinations[0].kind else { panic!("expected http") };
    assert_eq!(http.token, Some(Secret::Env("TOKEN".into())));
}

#[test]
fn routes_are_read_in_both_forms() {
    let plant =
        sound(&format!("{SOUND}tags = [\"press/*\", \"!**/x\"]\nstart = \"oldest\"\nrequired = false\n"));
    let destination = &plant.destinations[0];
    assert_eq!((destination.start, destination.required), (Start::Oldest, false));
    assert_eq!(destination.routes[0].tags, ["press/*", "!**/x"]);
    let plant =
        sound(&format!("{SOUND}route = [ {{ tags = [\"press/*\"] }}, {{ tags = [\"$node/**\"] }} ]\n"));
    assert_eq!(plant.destinations[0].routes.len(), 2);
    assert!(plant.destinations[0].compiled_routes().matches("$node/gateway-a/up"));
    for (key, expected) in [
        ("tags = []", "expected a pattern without !"),
        ("tags = [\"!a/**\"]", "expected a pattern without !"),
        ("tags = [\"a/b**\"]", "expected ** to stand alone"),
        ("tags = [\"a//b\"]", "expected something between"),
        ("tags = \"a\"", "expected a list of texts"),
        ("route = []", "expected a route such as"),
        ("route = [ { tag = [\"a\"] } ]", "unknown key \"tag\""),
        ("tags = [\"press/*\"]\nroute = [ { tags = [\"press/*\"] } ]", "either `tags` or `route`"),
    ] {
        let found = read(&format!("{SOUND}{key}\n")).expect_err(key).to_string();
        assert!(found.contains(expected), "expected {expected} for {key} in:\n{found}");
    }
    expect(
        &format!("{SOUND}tags = [\"pres/*\"]\n"),
        &["14:9: warning: no tag of this plant matches \"pres/*\""],
    );
    let end = SOUND.find("[[destination]]").expect("it has one");
    expect(&SOUND[..end], &["3:6: warning: this plant has devices and no destination"]);
}

#[test]
fn a_csv_directory_may_hold_variables_and_nothing_else_may() {
    let csv = "[[destination]]\nid = \"c\"\nkind = \"csv\"\ndirectory = \"${var.csv-dir}/a\"\nevery = \"1m\"\nmax-rows = 10\n";
    let plant = sound(&format!("{SOUND}{csv}"));
    let DestinationKind::Csv(found) = &plant.destinations[1].kind else { panic!("expected csv") };
    assert_eq!(
        (found.directory.to_str(), found.every, found.max_rows),
        (Some("${var.csv-dir}/a"), Duration::from_secs(60), 10)
    );
    expect(&format!("{SOUND}{}", csv.replace("var.", "")), &["17:13: error: expected ${var.NAME}"]);
    expect(&SOUND.replace("historian/", "${var.x}/"), &["13:7: error: expected a text without `${`"]);
    expect(
        &format!("{SOUND}{}", csv.replace("directory", "dir")),
        &["unknown key \"dir\"", "expected the key `directory`"],
    );
}

#[test]
fn policies_are_read() {
    let plant = sound(
        "version = 1\n[cluster]\npreferred = [\"a\", \"b\"]\nfailback = \"auto\"\nfailback-settle = \"90s\"\n\
         [retention]\nmax-bytes = \"1GiB\"\nwhen-full = \"drop-oldest\"\nkeep-delivered = \"1h\"\n",
    );
    assert_eq!(plant.cluster.preferred, ["a", "b"]);
    assert_eq!(plant.cluster.failback, Failback::Auto { settle: Duration::from_secs(90) });
    assert_eq!(
        (plant.retention.max_bytes, plant.retention.keep_delivered),
        (1 << 30, Duration::from_secs(3_600))
    );
    expect(
        "version = 1\n[cluster]\nfailback-settle = \"90s\"",
        &["3:19: warning: failback-settle has no effect"],
    );
    expect("version = 1\n[cluster]\npreferred = [\"a\", \"a\"]", &["3:19: error: expected each node once"]);
    expect("version = 1\n[retention]\nmax-bytes = \"1KiB\"", &["3:13: error: expected at least 64MiB"]);
    expect(
        "version = 1\n[clutser]\n",
        &["2:2: error: unknown key \"clutser\"\n  help: did you mean `cluster`?"],
    );
}

fn with_lists(document: &str, lists: &[(&str, &str)]) -> Bundle {
    let mut bundle = Bundle::of_document(document);
    for (name, text) in lists {
        bundle.insert(name, *text).expect("a small file");
    }
    bundle
}

#[test]
fn a_list_at_the_top_gives_tags_to_devices_and_groups() {
    let document =
        SOUND.replace("version = 1", "version = 1\ntags = \"all.csv\"\n[defaults]\nperiod = \"5s\"");
    let list = "device;group;name;address;type\npress;fast;speed;40110;REAL\npress;;spare;40112;INT\n";
    let read = read_bundle(&with_lists(&document, &[("all.csv", list)])).expect("sound");
    assert!(read.warnings.is_empty(), "{}", read.warnings);
    let groups: Vec<(&str, usize)> =
        read.plant.devices[0].groups.iter().map(|group| (group.id.as_str(), group.tags.len())).collect();
    assert_eq!(groups, [("fast", 2), ("default", 1)]);

    let list = "device,group,name,address,type\npres,fast,a,40110,i16\npress,fest,b,40111,i16\npress,fast,level,40112,i16\n";
    let found =
        read_bundle(&with_lists(&document, &[("all.csv", list)])).expect_err("three faults").to_string();
    for expected in [
        "all.csv:2:1: error: expected the id of a device, found \"pres\"\n  help: did you mean \"press\"?",
        "all.csv:3:7: error: expected a group of device \"press\", found \"fest\"\n  help: did you mean \"fast\"?",
        "all.csv:4:12: error: expected each tag once, found \"press/level\" again",
    ] {
        assert!(found.contains(expected), "expected {expected} in:\n{found}");
    }
}

#[test]
fn files_are_those_of_the_bundle() {
    let document =
        with_tag("").replace("tag = [  ]", "tags = [\"lists/a.csv\", \"b.csv\"]") + "ca = \"ca.pem\"\n";
    assert_eq!(references(&document), ["lists/a.csv", "b.csv", "ca.pem"]);
    assert_eq!(references("no toml ["), Vec::<String>::new());
    let list = "name,address,type\nlevel,40101,i16\n";
    let bundle = with_lists(
        &document,
        &[("lists/a.csv", list), ("b.cvs", list), ("ca.pem", "-----BEGIN PRIVATE KEY-----")],
    );
    let found = read_bundle(&bundle).expect_err("three faults").to_string();
    for expected in [
        "plant.toml:1:1: warning: nothing refers to the file \"b.cvs\"",
        "plant.toml:9:24: error: expected a file beside plant.toml, found none named \"b.csv\"\n  help: did you mean \"b.cvs\"?",
        "plant.toml:14:6: error: expected certificates only, found a private key",
    ] {
        assert!(found.contains(expected), "expected {expected} in:\n{found}");
    }
    let outside = document.replace("b.csv", "../b.csv");
    let found = read_bundle(&with_lists(&outside, &[])).expect_err("outside").to_string();
    assert!(found.contains("\"../b.csv\"\n  help: a file lies beside plant.toml"), "{found}");
    let certificate = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
    let bundle = with_lists(
        &document,
        &[("lists/a.csv", list), ("b.csv", "name,address,type\nb,40102,i16\n"), ("ca.pem", certificate)],
    );
    let read = read_bundle(&bundle).expect("sound");
    let DestinationKind::Http(http) = &read.plant.destinations[0].kind else { panic!("expected http") };
    assert_eq!(http.ca.as_deref(), Some(certificate));
    assert!(read.warnings.is_empty(), "{}", read.warnings);
}

/// A plant of ten thousand lines in a list at the top, over ten groups.
pub(super) fn ten_thousand_lines() -> Bundle {
    let mut document = "version = 1\ntags = \"all.csv\"\n".to_owned();
    let mut list = "device,group,name,address,type,unit,scale,offset,description\n".to_owned();
    for device in 0..10 {
        write!(document, "[[device]]\nid = \"d{device}\"\ndriver = \"modbus-tcp\"\naddress = \"h{device}\"\n[[device.group]]\nid = \"g\"\nperiod = \"1s\"\n")
            .expect("a string");
        for tag in 0..1_000 {
            writeln!(
                list,
                "d{device},g,hall/line/tag-{tag},holding:{},f32,bar,0.1,,\"pressure, {tag}\"",
                tag * 2
            )
            .expect("a string");
        }
    }
    document
        .push_str("[[destination]]\nid = \"h\"\nkind = \"http\"\nurl = \"http://h\"\ntags = [\"d1/**\"]\n");
    with_lists(&document, &[("all.csv", &list)])
}

#[test]
fn ten_thousand_lines_are_normal() {
    let read = read_bundle(&ten_thousand_lines()).expect("sound");
    assert_eq!(read.plant.tags().count(), 10_000);
    assert!(read.warnings.is_empty(), "{}", read.warnings);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_damaged_document_gives_a_plant_or_complaints_and_never_panics(
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0..12_usize, "[a-z\"0-9{}=.,*$! \n\\[\\]-]{0,6}"), 1..4),
    ) {
        let mut text = EXAMPLE.to_owned();
        for (at, length, replacement) in cuts {
            let bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            let from = at.index(bounds.len());
            let to = (from + length).min(bounds.len() - 1);
            text.replace_range(bounds[from]..bounds[to], &replacement);
        }
        if let Err(found) = read(&text) {
            prop_assert!(found.has_errors(), "refused without an error:\n{found}");
            let lines = u32::try_from(text.lines().count()).expect("few") + 1;
            prop_assert!(found.list.iter().all(|diagnostic| diagnostic.line >= 1 && diagnostic.line <= lines));
        }
    }

    #[test]
    fn any_bytes_give_a_plant_or_complaints_and_never_panic(
        list in proptest::collection::vec(any::<u8>(), 0..200),
        lines in "(name|address|type|unit|device|scale|\"|[;,\n \r]|x|4000|i16|\\$\\{){0,60}",
    ) {
        let document = SOUND.replace("version = 1", "version = 1\ntags = [\"a.csv\", \"b.csv\"]");
        let mut bundle = Bundle::of_document(document);
        bundle.insert("a.csv", list).expect("small");
        bundle.insert("b.csv", lines).expect("small");
        if let Err(found) = read_bundle(&bundle) {
            prop_assert!(found.has_errors(), "refused without an error:\n{found}");
        }
    }
}
