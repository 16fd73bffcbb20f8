//! The simulated plant on paper: devices, tags and pushers, what their values prove, and the plant document.
//!
//! - Three devices of twenty tags, to which a later revision adds two, lie in one block of registers each, so that one
//!   request reads all of a device, and every value names the request that read it.
//! - Two pushers count, and send values that follow from the count.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use model::plant::address::Table;

use crate::account::Number;
use crate::modbus::{Proof, ReadRequest, RegisterSource};
use crate::nodes::layout::toml_text;
use crate::pusher::{Body, Content};

/// Registers of each device: four tags of their own, and one tag for each register from [`FIRST_WORD`] on; those from
/// [`LATER_WORD`] are read by a later revision alone.
const REGISTERS: u16 = 24;
const FIRST_WORD: u16 = 6;
const LATER_WORD: u16 = 22;
/// The tags before the words: the number of the read, the device's number, its unit id, a sine.
const HEAD: [(&str, u16, &str); 4] =
    [("reads", 0, "u32"), ("device-number", 2, "u16"), ("unit-id", 3, "u16"), ("sine", 4, "f32")];
const UNIT: u8 = 1;
/// Samples of one pushed message.
const PUSHED_SAMPLES: usize = 6;

/// What is simulated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plant {
    /// Polled devices.
    pub devices: Vec<Polled>,
    /// Pushers.
    pub pushers: Vec<Pushed>,
}

/// A polled device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Polled {
    /// Its id.
    pub id: String,
    /// Its number, which it answers with.
    pub number: u16,
    /// Full ids of its tags; the first holds the number of the read.
    pub tags: Vec<String>,
    /// Full ids of tags that a later revision adds.
    pub later: Vec<String>,
}

/// A pusher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Id of the device that pushes.
    pub id: String,
    /// What it sends.
    pub content: Content,
}

/// What a revision of the plant document says of the presses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// From one read of a device to the next.
    pub period: Duration,
    /// Whether the later tags are read, too.
    pub has_later: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self { period: Duration::from_millis(100), has_later: false }
    }
}

/// Where the parts of the plant are.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Polled devices, in order, `host:port`.
    pub devices: Vec<String>,
    /// The HTTP receiver.
    pub url: String,
}

impl Plant {
    /// Three presses of twenty tags, two robots.
    pub fn demo() -> Self {
        let device = |number: u16| {
            let id = format!("hall-1/press-{number}");
            let head = HEAD.iter().map(|(name, ..)| (*name).to_owned());
            let full = |name: String| format!("{id}/{name}");
            let tags = head.chain((FIRST_WORD..LATER_WORD).map(word)).map(full).collect();
            let later = (LATER_WORD..REGISTERS).map(word).map(full).collect();
            Polled { number, tags, later, id }
        };
        let pusher = |number: u64| {
            let id = format!("hall-2/robot-{number}");
            let content = Content {
                counter: format!("{id}/cycles"),
                bodies: vec![format!("{id}/torque"), format!("{id}/angle")],
                body: Body::Number,
                samples: PUSHED_SAMPLES,
                apart_ns: 1,
                seed: number,
            };
            Pushed { id, content }
        };
        Self { devices: (1..=3).map(device).collect(), pushers: (1..=2).map(pusher).collect() }
    }

    /// The plant document. Files go to `csv`, a folder that all nodes see.
    pub fn document(&self, addresses: &Addresses, csv: &Path, shape: Shape) -> String {
        let mut text = String::from("# A simulated plant.\nversion = 1\n\n");
        text.push_str("[[template]]\nid = \"press\"\ndriver = \"modbus-tcp\"\n");
        let _ = writeln!(text, "unit-id = {UNIT}");
        let period = shape.period.as_millis();
        let _ = writeln!(text, "[[template.group]]\nid = \"fast\"\nperiod = \"{period}ms\"\ntag = [");
        for (name, register, kind) in HEAD {
            let _ = writeln!(
                text,
                "  {{ name = \"{name}\", address = \"holding:{register}\", type = \"{kind}\" }},"
            );
        }
        for register in FIRST_WORD..if shape.has_later { REGISTERS } else { LATER_WORD } {
            let name = word(register);
            let _ = writeln!(
                text,
                "  {{ name = \"{name}\", address = \"holding:{register}\", type = \"u16\" }},"
            );
        }
        text.push_str("]\n");
        for (device, address) in self.devices.iter().zip(&addresses.devices) {
            let _ = write!(
                text,
                "\n[[device]]\nid = \"{}\"\ntemplate = \"press\"\naddress = \"{address}\"\n",
                device.id
            );
        }
        for pusher in &self.pushers {
            let _ = write!(text, "\n[[device]]\nid = \"{}\"\ndriver = \"push\"\ntag = [\n", pusher.id);
            let relative = |tag: &str| tag.rsplit('/').next().unwrap_or_default().to_owned();
            let _ =
                writeln!(text, "  {{ name = \"{}\", type = \"u64\" }},", relative(&pusher.content.counter));
            for body in &pusher.content.bodies {
                let _ = writeln!(text, "  {{ name = \"{}\", type = \"f64\" }},", relative(body));
            }
            text.push_str("]\n");
        }
        let _ = write!(
            text,
            "\n[[destination]]\nid = \"historian\"\nkind = \"http\"\nurl = \"{}\"\nstart = \"oldest\"\ntags = [\"hall-*/**\"]\n",
            addresses.url
        );
        let directory = toml_text(&csv.display().to_string());
        let _ = write!(
            text,
            "\n[[destination]]\nid = \"files\"\nkind = \"csv\"\ndirectory = {directory}\nevery = \"2s\"\nstart = \"oldest\"\ntags = [\"hall-*/**\"]\n"
        );
        text
    }
}

impl Polled {
    /// What its registers hold.
    pub fn source(&self) -> Proof {
        Proof { device: self.number, registers: REGISTERS }
    }

    /// Index of a tag; the later ones come behind the others.
    pub fn tag(&self, id: &str) -> Option<usize> {
        self.tags.iter().chain(&self.later).position(|tag| tag == id)
    }

    /// Whether it is one of the later tags.
    pub fn is_later(&self, tag: usize) -> bool {
        tag >= self.tags.len()
    }

    /// Whether a read of so many registers, from `start` on, reads all tags but the later ones.
    pub fn reads_all(&self, (start, count): (u16, u16)) -> bool {
        start == 0 && count >= LATER_WORD
    }

    /// Whether a read of so many registers, from `start` on, reads a tag.
    pub fn reads(&self, (start, count): (u16, u16), tag: usize) -> bool {
        (start..start.saturating_add(count)).contains(&register(tag))
    }

    /// Whether the device answers read number `ordinal` with this value of this tag.
    pub fn could_answer(&self, tag: usize, ordinal: u32, value: Number) -> bool {
        let ask = |register| self.source().word(&request(ordinal), register);
        let register = register(tag);
        let (Some(high), Some(low)) = (ask(register), ask((register + 1).min(REGISTERS - 1))) else {
            return false;
        };
        let both = u32::from(high) << 16 | u32::from(low);
        match (HEAD.get(tag).map(|(.., kind)| *kind), value) {
            (Some("f32"), Number::Real(came)) => (came as f32).to_bits() == both,
            // Zero prints like a whole number.
            (Some("f32"), Number::Whole(came)) => (came as f32).to_bits() == both,
            (Some("u32"), Number::Whole(came)) => came == u64::from(both),
            (_, Number::Whole(came)) => came == u64::from(high),
            _ => false,
        }
    }
}

/// The first register of a tag.
fn register(tag: usize) -> u16 {
    match HEAD.get(tag) {
        Some((_, register, _)) => *register,
        None => FIRST_WORD + (tag - HEAD.len()) as u16,
    }
}

/// The name of the tag of a register.
fn word(register: u16) -> String {
    format!("word-{register:02}")
}

/// Values depend on the ordinal and the unit alone.
fn request(ordinal: u32) -> ReadRequest {
    ReadRequest {
        peer: SocketAddr::from(([127, 0, 0, 1], 0)),
        unit: UNIT,
        table: Table::Holding,
        start: 0,
        count: REGISTERS,
        ordinal: u64::from(ordinal),
    }
}

#[cfg(test)]
mod tests {
    use model::plant::document::{Bundle, read_bundle};

    use super::*;

    #[test]
    fn the_plant_document_is_valid_and_says_what_is_simulated() {
        let plant = Plant::demo();
        let devices = (0..3).map(|port| format!("127.0.0.1:{}", 5020 + port)).collect();
        let addresses = Addresses { devices, url: "http://127.0.0.1:8090/ingest".into() };
        for (has_later, expected) in [(false, 60), (true, 66)] {
            let shape = Shape { has_later, ..Shape::default() };
            let text = plant.document(&addresses, Path::new("/tmp/a \"b\"\\c"), shape);
            let bundle = Bundle::of_document(text.clone());
            let document = read_bundle(&bundle).unwrap_or_else(|errors| panic!("{errors:?}\n{text}")).plant;
            let groups = || document.devices.iter().flat_map(|device| &device.groups);
            let polled: usize =
                groups().filter(|group| group.schedule.is_some()).map(|group| group.tags.len()).sum();
            assert_eq!(
                (polled, groups().map(|group| group.tags.len()).sum::<usize>()),
                (expected, expected + 6)
            );
            assert_eq!(document.destinations.len(), 2);
        }
    }

    #[test]
    fn a_device_can_answer_with_its_own_values_alone() {
        let press = &Plant::demo().devices[1];
        assert_eq!(press.tags.len(), 20);
        let sine = f64::from((70_000.0_f64 / 50.0).sin() as f32);
        let right = [
            (0, Number::Whole(70_000)),
            (1, Number::Whole(2)),
            (2, Number::Whole(1)),
            (3, Number::Real(sine)),
            (4, Number::Whole((6 + 70_000) % 65_536)),
            (19, Number::Whole((21 + 70_000) % 65_536)),
            (21, Number::Whole((23 + 70_000) % 65_536)),
        ];
        for (tag, value) in right {
            assert!(press.could_answer(tag, 70_000, value), "{tag}: {value:?}");
            let changed = match value {
                Number::Whole(number) => Number::Whole(number + 1),
                Number::Real(number) => Number::Real(number + 1e-6),
            };
            assert!(!press.could_answer(tag, 70_000, changed), "{tag}: {changed:?}");
        }
    }
}
