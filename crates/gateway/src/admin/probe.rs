//! Reading devices now: `probe` and `read`, for commissioning.
//!
//! - Done by the leader, through [`crate::field`]; what is read is shown and not recorded.
//! - A device that an operator took out of service is not touched. One that the plant document has out of service may be
//!   probed: that is how it is put into service.
//! - What is shown is pure: `describe` makes it of a point and an answer.

use std::collections::BTreeMap;
use std::time::Duration;

use drivers::modbus::decode::RawView;
use futures::future::join_all;
use model::plant::document::{Bundle, read_bundle};
use model::plant::{Device, Encoding, Link, ModbusPoint, ModbusTcp};
use model::{Reading, StatusCode, Timestamp};
use store::engine::Engine;
use tokio::time::Instant;
use wire::proto::v1 as pb;
use wire::times::duration_to_proto;
use wire::values::reading_to_proto;

use super::AdminService;
use super::failure::Failure;
use crate::field::{Answer, Answers, NobodyAcquires};

/// How long devices may be asked for one call.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tags of a device that are read where no limit is given.
const PROBED: usize = 20;
/// Addresses that one call reads, at most.
const MAX_PROBED: usize = 100;

/// An address to be read, and the tag it belongs to.
struct Wanted {
    tag: String,
    point: ModbusPoint,
}

impl<E: Engine> AdminService<E> {
    pub(super) async fn probe_device(
        &self,
        asked: &pb::ProbeDeviceRequest,
    ) -> Result<pb::ProbeDeviceResponse, Failure> {
        let (device, link) = self.device_to_ask(&asked.id)?;
        let wanted = match asked.address.as_str() {
            "" => tags_of(&device, asked)?,
            _ => vec![Wanted { tag: String::new(), point: point_at(asked)? }],
        };
        let tags = device.groups.iter().map(|group| group.tags.len()).sum();
        let Answers { answers, took } = self.ask_field(device, &wanted).await?;
        Ok(pb::ProbeDeviceResponse {
            device: asked.id.clone(),
            target: link.endpoint(),
            unit_id: u32::from(link.unit_id),
            node: self.replica().name().to_owned(),
            answers: answers.iter().any(|(_, answer)| answer.is_ok()),
            took: Some(duration_to_proto(took)),
            probes: described(&wanted, answers),
            tags: super::views::count(tags),
        })
    }

    pub(super) async fn read_tags(
        &self,
        asked: pb::ReadTagsRequest,
    ) -> Result<pb::ReadTagsResponse, Failure> {
        if asked.ids.is_empty() || asked.ids.len() > MAX_PROBED {
            let text = format!("expected 1 to {MAX_PROBED} tags, found {}", asked.ids.len());
            return Err(Failure::BadArgument(text));
        }
        let places = self.places_of(&asked.ids)?;
        let mut by_device: BTreeMap<String, Vec<(usize, Wanted)>> = BTreeMap::new();
        for (place, (device, wanted)) in places.into_iter().enumerate() {
            by_device.entry(device).or_default().push((place, wanted));
        }
        let one = |(id, wanted): (String, Vec<(usize, Wanted)>)| async move {
            let (device, _) = self.device_to_ask(&id)?;
            let (places, wanted): (Vec<usize>, Vec<Wanted>) = wanted.into_iter().unzip();
            let answers = self.ask_field(device, &wanted).await?.answers;
            Ok::<_, Failure>(places.into_iter().zip(described(&wanted, answers)).collect::<Vec<_>>())
        };
        let mut probes: Vec<(usize, pb::Probe)> = Vec::with_capacity(asked.ids.len());
        for answered in join_all(by_device.into_iter().map(one)).await {
            probes.extend(answered?);
        }
        probes.sort_by_key(|(place, _)| *place);
        Ok(pb::ReadTagsResponse {
            node: self.replica().name().to_owned(),
            probes: probes.into_iter().map(|(_, probe)| probe).collect(),
        })
    }

    async fn ask_field(&self, device: Device, wanted: &[Wanted]) -> Result<Answers, Failure> {
        let points = wanted.iter().map(|wanted| wanted.point).collect();
        let asked = self.field.ask(device, points, Instant::now() + PATIENCE).await;
        asked.map_err(|NobodyAcquires| Failure::LedNoMore)
    }

    /// A device that may be asked, and how it is reached.
    fn device_to_ask(&self, id: &str) -> Result<(Device, ModbusTcp), Failure> {
        let (device, disabled) = self.replica().store().keeper().read(|state| {
            let device = state.plant().devices.iter().find(|device| device.id == id).cloned();
            (device, state.disabled.get(id).cloned())
        });
        let device = device.ok_or_else(|| Failure::NoSuchDevice(id.to_owned()))?;
        let Link::ModbusTcp(link) = device.link.clone() else {
            return Err(Failure::BadArgument(format!("{id} pushes: it is never asked for anything")));
        };
        match disabled {
            Some(standing) => {
                Err(Failure::OutOfService { device: id.to_owned(), principal: standing.principal })
            }
            None => Ok((device, link)),
        }
    }

    /// Device and address of each tag.
    fn places_of(&self, ids: &[String]) -> Result<Vec<(String, Wanted)>, Failure> {
        let plant = self.replica().store().keeper().read(store::ledger::State::plant);
        let mut places = Vec::with_capacity(ids.len());
        for id in ids {
            let found = plant.tags().find(|(device, _, tag)| {
                id.strip_prefix(&device.id).and_then(|rest| rest.strip_prefix('/')) == Some(&tag.name)
            });
            let (device, _, tag) = found.ok_or_else(|| Failure::NoSuchTag(id.clone()))?;
            let point = tag.point.ok_or_else(|| {
                Failure::BadArgument(format!(
                    "{id} is pushed: it cannot be asked for; `holdfast tag watch` shows it"
                ))
            })?;
            places.push((device.id.clone(), Wanted { tag: id.clone(), point }));
        }
        Ok(places)
    }
}

fn tags_of(device: &Device, asked: &pb::ProbeDeviceRequest) -> Result<Vec<Wanted>, Failure> {
    if !asked.r#type.is_empty() || !asked.word_order.is_empty() || asked.length != 0 {
        return Err(Failure::BadArgument("a type, length or word order needs an address".to_owned()));
    }
    let limit = if asked.limit == 0 { PROBED } else { (asked.limit as usize).min(MAX_PROBED) };
    let tags = device.groups.iter().flat_map(|group| &group.tags);
    let wanted = tags.filter_map(|tag| Some(Wanted { tag: device.tag_id(tag), point: tag.point? }));
    Ok(wanted.take(limit).collect())
}

/// The point that an address, a type, a length and a word order amount to: judged like a tag of a plant document,
/// because that is what it is going to be.
fn point_at(asked: &pb::ProbeDeviceRequest) -> Result<ModbusPoint, Failure> {
    let is_bit = asked.address.contains('.') || asked.address.starts_with(['c', 'd', '0', '1']);
    let kind = match asked.r#type.as_str() {
        "" if is_bit => "bool",
        "" => "u16",
        given => given,
    };
    let mut tag = toml_edit::InlineTable::new();
    tag.insert("name", "probe".into());
    tag.insert("address", asked.address.as_str().into());
    tag.insert("type", kind.into());
    if asked.length != 0 {
        tag.insert("length", i64::from(asked.length).into());
    }
    if !asked.word_order.is_empty() {
        tag.insert("word-order", asked.word_order.as_str().into());
    }
    let document = format!(
        "version = 1\n[[device]]\nid = \"probe\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:502\"\n\
         [[device.group]]\nid = \"probe\"\nperiod = \"1s\"\ntag = [{tag}]\n"
    );
    let read = read_bundle(&Bundle::of_document(document.into_bytes())).map_err(|errors| {
        let texts = errors.errors().map(|error| match &error.help {
            Some(help) => format!("{}; {help}", error.message),
            None => error.message.clone(),
        });
        Failure::BadArgument(texts.collect::<Vec<_>>().join("; "))
    })?;
    let point = read.plant.tags().find_map(|(_, _, tag)| tag.point);
    point.ok_or_else(|| Failure::BadArgument(format!("{:?} is no address", asked.address)))
}

/// What was read, one for each that was wanted: what was not reached says so.
fn described(wanted: &[Wanted], answers: Vec<(Timestamp, Answer)>) -> Vec<pb::Probe> {
    let mut answers = answers.into_iter();
    let one = |wanted: &Wanted| match answers.next() {
        Some((at, answer)) => describe(&wanted.tag, &wanted.point, at, &answer),
        None => pb::Probe {
            error: "not asked any more: the device did not answer before".to_owned(),
            ..blank(&wanted.tag, &wanted.point)
        },
    };
    wanted.iter().map(one).collect()
}

fn blank(tag: &str, point: &ModbusPoint) -> pb::Probe {
    pb::Probe {
        tag: tag.to_owned(),
        address: point.address.both(),
        r#type: type_name(point.encoding),
        ..pb::Probe::default()
    }
}

fn describe(tag: &str, point: &ModbusPoint, at: Timestamp, answer: &Answer) -> pb::Probe {
    let blank = blank(tag, point);
    let view = match answer {
        Err(error) => return pb::Probe { error: error.to_string(), ..blank },
        Ok(Err(refused)) => {
            let status = match refused {
                Reading::Bad(status) | Reading::Uncertain(_, status) => *status,
                Reading::Good(_) => StatusCode::GOOD,
            };
            let error = format!("the device refuses this address ({status})");
            return pb::Probe { reading: Some(reading_to_proto(refused, at)), error, ..blank };
        }
        Ok(Ok(view)) => view,
    };
    let RawView { words, readings } = view;
    let registers = point.encoding.registers();
    let name = |order: model::plant::address::WordOrder| order.name_for(registers);
    let orders = readings.iter().map(|(order, reading)| pb::OrderedReading {
        word_order: name(*order).to_owned(),
        configured: name(*order) == name(point.word_order),
        reading: Some(reading_to_proto(reading, at)),
    });
    let orders: Vec<pb::OrderedReading> = orders.collect();
    let configured = orders.iter().find(|ordered| ordered.configured).or(orders.first());
    pb::Probe {
        words: words.iter().map(|word| u32::from(*word)).collect(),
        reading: configured.and_then(|ordered| ordered.reading.clone()),
        orders,
        ..blank
    }
}

fn type_name(encoding: Encoding) -> String {
    match encoding {
        Encoding::Plain(kind) => kind.to_string(),
        Encoding::Bcd16 => "bcd16".to_owned(),
        Encoding::Bcd32 => "bcd32".to_owned(),
        Encoding::Text(bytes) => format!("string({bytes})"),
        Encoding::Raw(bytes) => format!("bytes({bytes})"),
    }
}

#[cfg(test)]
mod tests {
    use drivers::modbus::decode::{Raw, view};
    use drivers::{ScanError, Silence};
    use model::Value;

    use super::*;

    fn asked(address: &str, kind: &str) -> pb::ProbeDeviceRequest {
        pb::ProbeDeviceRequest { address: address.into(), r#type: kind.into(), ..Default::default() }
    }

    #[test]
    fn an_answer_is_shown_in_every_order_and_both_notations() {
        let wanted = pb::ProbeDeviceRequest { word_order: "cdab".into(), ..asked("40101", "f32") };
        let point = point_at(&wanted).expect("a float");
        let words = [0x0FDB, 0x4049];
        let shown = describe("press/level", &point, Timestamp(5), &Ok(Ok(view(&point, Raw::Words(&words)))));
        assert_eq!((shown.address.as_str(), shown.r#type.as_str()), ("holding:100 = 40101", "f32"));
        assert_eq!(shown.words, [0x0FDB, 0x4049]);
        let names: Vec<&str> = shown.orders.iter().map(|ordered| ordered.word_order.as_str()).collect();
        assert_eq!(names, ["abcd", "badc", "cdab", "dcba"]);
        let configured: Vec<bool> = shown.orders.iter().map(|ordered| ordered.configured).collect();
        assert_eq!(configured, [false, false, true, false]);
        let pi = reading_to_proto(&Reading::Good(Value::F32(std::f32::consts::PI)), Timestamp(5));
        assert_eq!(shown.reading, Some(pi));
    }

    #[test]
    fn what_is_not_said_is_a_word_or_a_bit() {
        let kind = |address: &str| type_name(point_at(&asked(address, "")).expect(address).encoding);
        assert_eq!(
            ["40101", "holding:3", "holding:3.2", "coil:7", "00008"].map(kind),
            ["u16", "u16", "bool", "bool", "bool"]
        );
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said_as_in_a_plant_document() {
        let wrong =
            |address: &str, kind: &str| point_at(&asked(address, kind)).expect_err(address).to_string();
        assert!(wrong("holding:70000", "u16").contains("65535"), "{}", wrong("holding:70000", "u16"));
        assert!(wrong("40101", "real").contains("f32"), "{}", wrong("40101", "real"));
        assert!(wrong("40101", "string").contains("length"), "{}", wrong("40101", "string"));
        assert!(wrong("4\"1", "u16").contains("address"), "{}", wrong("4\"1", "u16"));
    }

    #[test]
    fn after_a_silence_nothing_more_was_asked_and_a_refusal_is_told_from_it() {
        let point = point_at(&asked("40101", "u16")).expect("a word");
        let wanted = ["a", "b", "c"].map(|tag| Wanted { tag: tag.into(), point });
        let silence = ScanError::from(Silence::NoAnswer { after: Duration::from_secs(1), of: None });
        let refused = Reading::Bad(StatusCode::BAD_NODE_ID_UNKNOWN);
        let shown = described(&wanted, vec![(Timestamp(1), Ok(Err(refused))), (Timestamp(2), Err(silence))]);
        let errors: Vec<&str> = shown.iter().map(|probe| probe.error.as_str()).collect();
        assert_eq!(
            errors,
            [
                "the device refuses this address (BadNodeIdUnknown)",
                "device is silent: no answer within 1s",
                "not asked any more: the device did not answer before",
            ]
        );
    }
}
