//! Plant documents of the benches, and the simulated devices in them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use simulator::history::History;
use simulator::modbus::{self, ModbusServer, Proof};
use simulator::pusher::{Body, Content};

/// How many tags lie before those of one register each: the number of the read (two registers), the device's number,
/// the unit id, a sine (two registers).
const HEAD: [(&str, u16, &str); 4] =
    [("reads", 0, "u32"), ("device-number", 2, "u16"), ("unit-id", 3, "u16"), ("sine", 4, "f32")];
/// The first register with a tag of its own.
const FIRST_WORD: u16 = 6;
const UNIT: u8 = 1;

/// Devices of one kind: a block of registers that is read at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Devices {
    /// How many.
    pub(crate) count: usize,
    /// Registers of each.
    pub(crate) registers: u16,
    /// From one read of it to the next.
    pub(crate) period: Duration,
}

impl Devices {
    /// Tags of one device.
    pub(crate) fn tags(&self) -> usize {
        HEAD.len() + usize::from(self.registers.saturating_sub(FIRST_WORD))
    }

    /// Starts them; they write what they see to `history`.
    pub(crate) async fn start(&self, history: &History) -> std::io::Result<Vec<ModbusServer>> {
        let mut running = Vec::new();
        for number in 0..self.count {
            let source = Proof { device: number as u16, registers: self.registers };
            let config = modbus::Config {
                history: Some(history.clone()),
                ..modbus::Config::new(device_id(number), source)
            };
            running.push(ModbusServer::start(config).await?);
        }
        Ok(running)
    }

    /// Template and devices of the plant document.
    fn document(&self, addresses: impl IntoIterator<Item = SocketAddr>) -> String {
        let period = self.period.as_millis();
        let mut text = format!(
            "[[template]]\nid = \"machine\"\ndriver = \"modbus-tcp\"\nunit-id = {UNIT}\n\
             [[template.group]]\nid = \"all\"\nperiod = \"{period}ms\"\ntag = [\n"
        );
        let mut tag = |name: &str, register: u16, kind: &str| {
            let _ = writeln!(
                text,
                "  {{ name = \"{name}\", address = \"holding:{register}\", type = \"{kind}\" }},"
            );
        };
        for (name, register, kind) in HEAD {
            tag(name, register, kind);
        }
        for register in FIRST_WORD..self.registers {
            tag(&format!("word-{register:02}"), register, "u16");
        }
        text.push_str("]\n");
        for (number, address) in addresses.into_iter().enumerate() {
            let id = device_id(number);
            let _ =
                writeln!(text, "[[device]]\nid = \"{id}\"\ntemplate = \"machine\"\naddress = \"{address}\"");
        }
        text
    }
}

/// The id of the device with this number.
pub(crate) fn device_id(number: usize) -> String {
    format!("bench/machine-{number:03}")
}

/// The number of the device with this id.
pub(crate) fn device_number(id: &str) -> Option<usize> {
    id.strip_prefix("bench/machine-")?.parse().ok()
}

/// Messages of a pusher: a count and `samples − 1` body values on `tags` tags.
pub(crate) fn content(pusher: usize, tags: usize, samples: usize, body: Body) -> Content {
    let device = format!("bench/pusher-{pusher}");
    Content {
        counter: format!("{device}/count"),
        bodies: (0..tags).map(|tag| format!("{device}/body-{tag:03}")).collect(),
        body,
        samples,
        apart_ns: 1,
        seed: pusher as u64,
    }
}

/// A whole document: polled devices, pushers, one HTTP destination if there is one.
pub(crate) fn document(
    devices: Option<(&Devices, &[ModbusServer])>,
    pushers: &[Content],
    url: Option<&str>,
) -> String {
    let mut text = "version = 1\n[retention]\nmax-bytes = \"200GiB\"\n".to_owned();
    if let Some((devices, running)) = devices {
        text.push_str(&devices.document(running.iter().map(ModbusServer::address)));
    }
    for content in pushers {
        let device = content.counter.rsplit_once('/').map_or("bench", |(device, _)| device);
        let _ = writeln!(text, "[[device]]\nid = \"{device}\"\ndriver = \"push\"\ntag = [");
        let _ = writeln!(text, "  {{ name = \"count\", type = \"u64\" }},");
        let kind = match content.body {
            Body::Number => "f64",
            Body::Bytes(_) => "bytes",
        };
        for body in &content.bodies {
            let name = body.rsplit('/').next().unwrap_or_default();
            let _ = writeln!(text, "  {{ name = \"{name}\", type = \"{kind}\" }},");
        }
        text.push_str("]\n");
    }
    if let Some(url) = url {
        text.push_str(&destination(url));
    }
    text
}

/// Everything goes to a receiver.
pub(crate) fn destination(url: &str) -> String {
    format!(
        "[[destination]]\nid = \"receiver\"\nkind = \"http\"\nurl = \"{url}\"\nstart = \"oldest\"\n\
         tags = [\"bench/**\"]\n"
    )
}

#[cfg(test)]
mod tests {
    use model::plant::document::{Bundle, read_bundle};

    use super::*;

    #[tokio::test]
    async fn a_document_holds_what_is_simulated() {
        let devices = Devices { count: 2, registers: 20, period: Duration::from_millis(100) };
        let history = History::to_writer(std::io::sink());
        let running = devices.start(&history).await.expect("free ports");
        let pushers = [content(0, 3, 10, Body::Number), content(1, 2, 10, Body::Bytes(8))];
        let text = document(Some((&devices, &running)), &pushers, Some("http://127.0.0.1:9/ingest"));
        let plant = read_bundle(&Bundle::of_document(text.clone()))
            .unwrap_or_else(|errors| panic!("{errors:?}\n{text}"))
            .plant;
        let tags: usize =
            plant.devices.iter().flat_map(|device| &device.groups).map(|group| group.tags.len()).sum();
        assert_eq!((plant.devices.len(), tags), (4, 2 * devices.tags() + 4 + 3));
        assert_eq!(devices.tags(), 18);
        assert_eq!(device_number(&device_id(7)), Some(7));
    }

    #[test]
    fn an_empty_plant_is_a_document() {
        assert!(read_bundle(&Bundle::of_document(document(None, &[], None))).is_ok());
    }
}
