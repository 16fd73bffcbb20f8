//! Plans of real documents as people see them, and of random plants as they must add up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::plant::address::{ModbusAddress, Table, WordOrder};
use crate::plant::document::{Bundle, read_bundle};
use crate::plant::route::Route;
use crate::plant::{
    ClusterPolicy, Csv, Destination, DestinationKind, Device, Encoding, Failback, Group, Http, Link,
    ModbusPoint, ModbusTcp, Plant, Retention, Schedule, Standby, Start, Tag, WhenFull,
};
use crate::value::ValueType;

const EXAMPLE: &str = include_str!("../../../../../cluster-config/plant.toml");

fn plant(text: &str) -> Plant {
    read_bundle(&Bundle::of_document(text)).unwrap_or_else(|found| panic!("{found}")).plant
}

fn plan_of(changes: &[(&str, &str)]) -> Plan {
    let mut text = EXAMPLE.to_owned();
    for (old, new) in changes {
        assert!(text.contains(old), "the example has no {old:?} any more");
        text = text.replacen(old, new, 1);
    }
    compare(&plant(EXAMPLE), &plant(&text))
}

#[test]
fn people_see_what_changes_and_what_is_stopped_or_lost() {
    let plan = plan_of(&[
        ("max-bytes = \"20GiB\"", "max-bytes = \"10GiB\""),
        ("period = \"500ms\"", "period = \"1s\""),
        ("\"127.0.0.1:5022\"", "\"127.0.0.1:5032\""),
        (
            "{ name = \"debug/cycle-time\", address = \"holding:130\", type = \"u16\", unit = \"ms\" }",
            "{ name = \"debug/cycle-time\", address = \"holding:131\", type = \"u16\", unit = \"s\" }",
        ),
        ("  { name = \"fault\", type = \"bool\" },\n", "  { name = \"alarm\", type = \"bool\" },\n"),
        ("id = \"historian\"", "id = \"mes\""),
        ("tags = [\"hall-2/**\", \"$cluster/**\"]", "tags = [\"hall-2/robot-1/**\", \"$cluster/**\"]"),
    ]);
    assert_eq!(
        plan.to_string(),
        "~ retention
    max-bytes: 20GiB -> 10GiB
~ group hall-1/press-1/fast
    period: 500ms -> 1s
~ device hall-1/press-2
    address: 127.0.0.1:5022 -> 127.0.0.1:5032
~ group hall-1/press-2/fast
    period: 500ms -> 1s
~ group hall-2/press-3/fast
    period: 500ms -> 1s
~ tag hall-2/press-3/debug/cycle-time
    point: holding:130 = 40131 as u16 abcd -> holding:131 = 40132 as u16 abcd
    unit: \"ms\" -> \"s\"
+ tag hall-2/robot-1/alarm (bool)
- tag hall-2/robot-1/fault (bool)
+ destination mes (http to http://127.0.0.1:8090/ingest)
~ destination reports
    route: [hall-2/**, $cluster/**] -> [hall-2/robot-1/**, $cluster/**]
- destination historian (http to http://127.0.0.1:8090/ingest)

2 to add, 7 to change, 2 to remove.
Stopped or lost:
  group hall-1/press-1/fast: its schedule ends here; what is missed until the next one is a gap
  group hall-1/press-2/fast: its schedule ends here; what is missed until the next one is a gap
  group hall-2/press-3/fast: its schedule ends here; what is missed until the next one is a gap
  group hall-2/press-3/slow: its schedule ends here; what is missed until the next one is a gap
  destination historian: what it has not acknowledged is discarded"
    );
    assert_eq!(plan.discards(), ["historian"], "narrower routes lose nothing");
}

#[test]
fn what_only_adds_or_describes_stops_nothing() {
    let plan = plan_of(&[
        ("unit = \"bar\"", "unit = \"MPa\""),
        ("\"127.0.0.1:5022\"", "\"127.0.0.1:5032\""),
        ("timeout = \"1s\"", "timeout = \"2s\""),
        ("tags = [\"hall-2/**\", \"$cluster/**\"]", "tags = [\"**\", \"$*/**\"]"),
        ("failback = \"manual\"", "failback = \"auto\""),
    ]);
    assert!(!plan.is_empty() && !plan.stops_or_loses(), "{plan}");
    assert!(plan.discards().is_empty());
}

#[test]
fn a_device_that_comes_or_goes_is_one_change() {
    let text = EXAMPLE.replace("id = \"hall-1/press-2\"", "id = \"hall-1/press-9\"");
    let plan = compare(&plant(EXAMPLE), &plant(&text));
    let lines: Vec<String> = plan.changes.iter().map(Change::to_string).collect();
    assert_eq!(
        lines,
        [
            "+ device hall-1/press-9 (modbus-tcp at 127.0.0.1:5022, 2 groups, 10 tags)",
            "- device hall-1/press-2 (modbus-tcp at 127.0.0.1:5022, 2 groups, 10 tags)"
        ]
    );
    assert_eq!(plan.effects().len(), 2, "the grids of the removed device");
}

#[test]
fn nothing_to_do_is_said() {
    assert_eq!(plan_of(&[]).to_string(), "No changes.");
}

fn pick<T: Clone + std::fmt::Debug + 'static>(choices: &[T]) -> impl Strategy<Value = T> + use<T> {
    prop::sample::select(choices.to_vec())
}

prop_compose! {
    fn any_tag()(
        offset in 0..3_u16, value_type in pick(&[ValueType::I16, ValueType::F64]), unit in "[ab]?",
        description in "[ab]?", order in any::<bool>(), is_bcd in any::<bool>(), is_pushed in any::<bool>(),
    ) -> Tag {
        let address = ModbusAddress { table: Table::Holding, offset, bit: None };
        let encoding = if is_bcd { Encoding::Bcd16 } else { Encoding::Plain(ValueType::I16) };
        let word_order = WordOrder { swap_bytes: order, ..WordOrder::default() };
        let point = ModbusPoint { address, encoding, word_order, scaling: None };
        let point = (!is_pushed).then_some(point);
        Tag { name: String::new(), point, value_type, unit, description }
    }
}

prop_compose! {
    fn any_device()(
        tags in proptest::collection::btree_map(pick(&["t1", "t2", "t3"]), (any_tag(), pick(&["g1", "g2", "g3"])), 0..4),
        groups in proptest::collection::btree_map(
            pick(&["g1", "g2", "g3"]), (any::<bool>(), proptest::option::of((1..3_u64, 0..2_u64))), 3,
        ),
        is_pushed in prop::bool::weighted(0.2), enabled in prop::bool::weighted(0.8), port in 1..3_u16,
        label in "[ab]?", description in "[ab]?", standby in pick(&[Standby::Cold, Standby::Warm]),
    ) -> Device {
        let link = ModbusTcp {
            host: "h".into(), port, unit_id: 1, timeout: Duration::from_secs(1), slow: false, standby, max_gap: 0, max_registers: 125,
        };
        let mut groups: Vec<Group> = groups.into_iter().map(|(id, (enabled, schedule))| {
            let schedule = schedule.map(|(period, offset)| Schedule {
                period: Duration::from_secs(period), offset: Duration::from_millis(offset),
            });
            Group { id: id.into(), schedule, enabled, tags: Vec::new() }
        }).collect();
        for (name, (tag, group)) in tags {
            if let Some(group) = groups.iter_mut().find(|known| known.id == group) {
                group.tags.push(Tag { name: name.into(), ..tag });
            }
        }
        Device {
            id: String::new(), link: if is_pushed { Link::Push } else { Link::ModbusTcp(link) }, enabled,
            labels: BTreeMap::from([("line".into(), label)]), description, groups,
        }
    }
}

prop_compose! {
    fn any_destination()(
        is_csv in any::<bool>(), required in any::<bool>(), start in pick(&[Start::Now, Start::Oldest]),
        number in 1..3_u32, routes in proptest::collection::vec(pick(&["**", "d1/**", "*/t1", "$cluster/**"]), 0..2),
    ) -> Destination {
        let time = Duration::from_secs(number.into());
        let kind = if is_csv {
            DestinationKind::Csv(Csv { directory: "d".into(), every: time, max_rows: number })
        } else {
            DestinationKind::Http(Http { url: "u".into(), token: None, ca: None, timeout: time, max_records: number })
        };
        let routes = routes.into_iter().map(|text| Route { tags: vec![text.into()] }).collect();
        Destination { id: String::new(), kind, required, start, routes }
    }
}

prop_compose! {
    fn any_plant()(
        devices in proptest::collection::btree_map(pick(&["d1", "d2", "d1/d2"]), any_device(), 0..4),
        destinations in proptest::collection::btree_map(pick(&["x", "y"]), any_destination(), 0..3),
        preferred in proptest::collection::vec(pick(&["a", "b"]), 0..2), settle in proptest::option::of(1..3_u64),
        max_bytes in 1..3_u64, when_full in pick(&[WhenFull::Refuse, WhenFull::DropOldest]),
    ) -> Plant {
        let settle = settle.map(|seconds| Failback::Auto { settle: Duration::from_secs(seconds) });
        Plant {
            cluster: ClusterPolicy {
                preferred: preferred.into_iter().map(str::to_owned).collect(), failback: settle.unwrap_or_default(),
            },
            retention: Retention { max_bytes, when_full, keep_delivered: Duration::ZERO },
            devices: devices.into_iter().map(|(id, device)| Device { id: id.into(), ..device }).collect(),
            destinations: destinations.into_iter().map(|(id, it)| Destination { id: id.into(), ..it }).collect(),
        }
    }
}

/// A plant one of whose parts was drawn anew, so that small differences are as likely as large ones.
fn two_plants() -> impl Strategy<Value = (Plant, Plant)> {
    (any_plant(), any_plant(), any::<[bool; 4]>(), any::<prop::sample::Index>()).prop_map(
        |(old, other, take, at)| {
            let mut new = old.clone();
            let [cluster, devices, one_device, destinations] = take;
            if cluster {
                new.cluster = other.cluster;
            }
            if destinations {
                new.destinations = other.destinations;
            }
            if devices {
                new.devices = other.devices;
            } else if one_device && !new.devices.is_empty() && !other.devices.is_empty() {
                let place = at.index(new.devices.len());
                let groups = other.devices[at.index(other.devices.len())].groups.clone();
                new.devices[place].groups = groups;
            }
            (old, new)
        },
    )
}

/// The plant with everything in the order of ids.
fn sorted(plant: &Plant) -> Plant {
    let mut plant = plant.clone();
    plant.devices.sort_by(|a, b| a.id.cmp(&b.id));
    plant.destinations.sort_by(|a, b| a.id.cmp(&b.id));
    for device in &mut plant.devices {
        device.groups.sort_by(|a, b| a.id.cmp(&b.id));
        for group in &mut device.groups {
            group.tags.sort_by(|a, b| a.name.cmp(&b.name));
        }
    }
    plant
}

proptest! {
    #[test]
    fn a_plant_differs_from_itself_in_nothing(plant in any_plant()) {
        prop_assert_eq!(compare(&plant, &plant), Plan::default());
    }

    #[test]
    fn order_is_no_change(plant in any_plant()) {
        let mut turned = plant.clone();
        turned.devices.reverse();
        turned.destinations.reverse();
        for device in &mut turned.devices {
            device.groups.reverse();
            for group in &mut device.groups {
                group.tags.reverse();
            }
        }
        prop_assert_eq!(compare(&plant, &turned), Plan::default());
    }

    #[test]
    fn a_plan_is_empty_exactly_when_the_plants_say_the_same((old, new) in two_plants()) {
        prop_assert_eq!(compare(&old, &new).is_empty(), sorted(&old) == sorted(&new));
    }

    #[test]
    fn the_effects_are_exactly_the_grids_that_close((old, new) in two_plants()) {
        let mut expected = BTreeSet::new();
        for device in &old.devices {
            for group in &device.groups {
                let after = new.devices.iter().find(|after| after.id == device.id);
                let after = after.and_then(|device| Some((device, device.groups.iter().find(|g| g.id == group.id)?)));
                let ran = keeps_grid((device, group), (device, group));
                if ran && !after.is_some_and(|after| keeps_grid((device, group), after)) {
                    expected.insert(device.group_id(group));
                }
            }
        }
        let plan = compare(&old, &new);
        let found: BTreeSet<String> = plan.effects().into_iter().filter_map(|effect| match effect {
            Effect::GridClosed { group } => Some(group.clone()),
            _ => None,
        }).collect();
        prop_assert_eq!(found, expected, "{}", plan);
    }

    #[test]
    fn a_destination_that_goes_is_named_and_no_other((old, new) in two_plants()) {
        let plan = compare(&old, &new);
        let stays = |id: &str| new.destinations.iter().any(|destination| destination.id == id);
        let gone = old.destinations.iter().map(|destination| destination.id.as_str()).filter(|id| !stays(id));
        let gone: BTreeSet<&str> = gone.collect();
        prop_assert_eq!(plan.discards().into_iter().collect::<BTreeSet<_>>(), gone, "{}", plan);
    }

    #[test]
    fn a_plan_survives_its_serde_form((old, new) in two_plants()) {
        let plan = compare(&old, &new);
        let text = serde_json::to_string(&plan).expect("a plan has a serde form");
        prop_assert_eq!(serde_json::from_str::<Plan>(&text).expect("reads back"), plan);
    }
}
