//! A plant from a few words.

use std::collections::BTreeMap;
use std::time::Duration;

use model::plant::{
    Csv, Destination, DestinationKind, Device, Group, Link, ModbusTcp, Plant, Schedule, Standby, Start, Tag,
};
use model::value::ValueType;

use super::arguments::Arguments;

/// The plant that the lines below a `configure` describe.
pub(crate) fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Plant {
    let mut plant = Plant::default();
    for line in lines {
        let arguments = Arguments::parse(line);
        match arguments.word(0) {
            "device" => plant.devices.push(device(arguments.word(1), !arguments.has("off"))),
            "group" => {
                let device = plant.devices.last_mut().expect("a group follows its device");
                device.groups.push(group(&arguments));
            }
            "destination" => plant.destinations.push(destination(&arguments)),
            other => panic!("a plant has no {other}"),
        }
    }
    plant
}

fn device(id: &str, enabled: bool) -> Device {
    let link = Link::ModbusTcp(ModbusTcp {
        host: "10.0.5.11".to_owned(),
        port: 502,
        unit_id: 1,
        timeout: Duration::from_secs(1),
        slow: false,
        standby: Standby::Cold,
        max_gap: 8,
        max_registers: 120,
    });
    Device {
        id: id.to_owned(),
        link,
        enabled,
        labels: BTreeMap::new(),
        description: String::new(),
        groups: Vec::new(),
    }
}

fn group(arguments: &Arguments) -> Group {
    let period = arguments.duration("period").expect("a group has a period");
    let tag = |name: &str| Tag {
        name: name.to_owned(),
        point: None,
        value_type: ValueType::F64,
        unit: String::new(),
        description: String::new(),
    };
    Group {
        id: arguments.word(1).to_owned(),
        schedule: Some(Schedule { period, offset: Duration::ZERO }),
        enabled: !arguments.has("off"),
        tags: arguments.list("tags").map(tag).collect(),
    }
}

fn destination(arguments: &Arguments) -> Destination {
    Destination {
        id: arguments.word(1).to_owned(),
        kind: DestinationKind::Csv(Csv {
            directory: "out".into(),
            every: Duration::from_secs(60),
            max_rows: 1_000,
        }),
        required: !arguments.has("optional"),
        start: if arguments.has("oldest") { Start::Oldest } else { Start::Now },
        routes: Vec::new(),
    }
}
