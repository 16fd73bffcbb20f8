//! What a device answered, for people: words, and what they say in every order.

use wire::proto::v1 as pb;
use wire::times::duration_from_proto;
use wire::values::text_of;

use super::format;
use super::output::table;

/// A reading in a few words: its value, or why there is none.
pub(super) fn reading(reading: Option<&pb::Reading>) -> String {
    let Some(reading) = reading else { return format::NOTHING.to_owned() };
    match (text_of(reading), reading.quality.as_str()) {
        (Some(value), "good") => value,
        (Some(value), _) => format!("{value} ({})", reading.status),
        (None, _) => reading.status.clone(),
    }
}

/// One line for each address.
pub(super) fn render(probes: &[pb::Probe]) -> String {
    let row = |probe: &pb::Probe| {
        let value =
            if probe.error.is_empty() { reading(probe.reading.as_ref()) } else { probe.error.clone() };
        [format::or_nothing(&probe.tag), probe.address.clone(), probe.r#type.clone(), value]
    };
    table(["tag", "address", "type", "value"], probes.iter().map(row).collect(), "Nothing was asked for.")
}

/// Words and every order of each address; a mark at the order that is configured.
pub(super) fn render_raw(probes: &[pb::Probe]) -> String {
    let mut rows = Vec::new();
    for probe in probes {
        let name = if probe.tag.is_empty() { format::NOTHING } else { &probe.tag };
        let head = |order: String, value: String| {
            let words: Vec<String> = probe.words.iter().map(|word| format!("{word:04X}")).collect();
            let (address, kind) = (probe.address.clone(), probe.r#type.clone());
            [name.to_owned(), address, kind, format::or_nothing(&words.join(" ")), order, value]
        };
        if !probe.error.is_empty() {
            rows.push(head(format::NOTHING.to_owned(), probe.error.clone()));
            continue;
        }
        for (number, ordered) in probe.orders.iter().enumerate() {
            let mark = if ordered.configured { "*" } else { " " };
            let (order, value) =
                (format!("{mark} {}", ordered.word_order), reading(ordered.reading.as_ref()));
            rows.push(match number {
                0 => head(order, value),
                _ => [String::new(), String::new(), String::new(), String::new(), order, value],
            });
        }
    }
    table(["tag", "address", "type", "words", "order", "value"], rows, "Nothing was asked for.")
}

/// A device with everything that was read of it.
pub(super) fn render_device(answer: &pb::ProbeDeviceResponse) -> String {
    let verdict = match (answer.answers, answer.probes.is_empty()) {
        (true, _) => {
            let took = answer.took.as_ref().and_then(duration_from_proto).map(format::length);
            format!("answers ({} for {} requests)", took.unwrap_or_default(), answer.probes.len())
        }
        (false, true) => "has no tags to ask for: name an --address".to_owned(),
        (false, false) => "does not answer".to_owned(),
    };
    let target = format!("{} unit {}", answer.target, answer.unit_id);
    let mut text = format!("{} at {target}, asked by {}: {verdict}", answer.device, answer.node);
    if !answer.probes.is_empty() {
        text.push('\n');
        text.push_str(&render_raw(&answer.probes));
    }
    let asked = answer.probes.len();
    if answer.tags as usize > asked && answer.probes.iter().any(|probe| !probe.tag.is_empty()) {
        text.push_str(&format!("\n{asked} of {} tags; --limit reads more", answer.tags));
    }
    text
}

#[cfg(test)]
mod tests {
    use model::{Reading, StatusCode, Timestamp, Value};
    use wire::values::reading_to_proto;

    use super::*;

    fn ordered(word_order: &str, configured: bool, value: f32) -> pb::OrderedReading {
        let reading = Some(reading_to_proto(&Reading::Good(Value::F32(value)), Timestamp(0)));
        pb::OrderedReading { word_order: word_order.into(), configured, reading }
    }

    fn float() -> pb::Probe {
        let orders = vec![ordered("abcd", false, 7.5), ordered("cdab", true, 42.0)];
        pb::Probe {
            tag: "press-1/level".into(),
            address: "holding:100 = 40101".into(),
            r#type: "f32".into(),
            words: vec![0, 0x4228],
            reading: orders[1].reading.clone(),
            orders,
            error: String::new(),
        }
    }

    #[test]
    fn words_and_every_order_are_shown_and_the_configured_one_is_marked() {
        let expected = "\
TAG            ADDRESS              TYPE  WORDS      ORDER   VALUE
press-1/level  holding:100 = 40101  f32   0000 4228    abcd  7.5
                                                     * cdab  42";
        assert_eq!(render_raw(&[float()]), expected);
        let plain = "TAG            ADDRESS              TYPE  VALUE\n\
            press-1/level  holding:100 = 40101  f32   42";
        assert_eq!(render(&[float()]), plain);
    }

    #[test]
    fn what_was_not_read_says_why() {
        let silent = pb::Probe { orders: Vec::new(), error: "no answer within 1s".into(), ..float() };
        assert!(render_raw(std::slice::from_ref(&silent)).ends_with("no answer within 1s"));
        let bad = reading_to_proto(&Reading::Bad(StatusCode::BAD_DECODING_ERROR), Timestamp(0));
        assert_eq!(reading(Some(&bad)), "BadDecodingError");
        let device = pb::ProbeDeviceResponse {
            device: "press-1".into(),
            target: "10.0.5.11:502".into(),
            unit_id: 1,
            node: "gateway-b".into(),
            probes: vec![silent],
            tags: 20,
            ..Default::default()
        };
        let text = render_device(&device);
        let head = "press-1 at 10.0.5.11:502 unit 1, asked by gateway-b: does not answer\n";
        assert!(text.starts_with(head) && text.ends_with("1 of 20 tags; --limit reads more"), "{text}");
    }
}
