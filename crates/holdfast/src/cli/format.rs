//! Times, lengths of time and counts, for people.

use std::time::Duration;

use model::Timestamp;
use wire::proto::v1 as pb;
use wire::times::{
    ProtoDuration, ProtoTimestamp, duration_from_proto, nanos_from_proto, timestamp_from_proto,
    timestamp_to_proto,
};

/// What stands where nothing is known.
pub(super) const NOTHING: &str = "-";

/// A moment in local time with its offset.
pub(super) fn moment(at: Option<&ProtoTimestamp>) -> String {
    at.map_or_else(|| NOTHING.to_owned(), |at| timestamp_from_proto(at).to_local())
}

/// A moment as short as it can be read at `now`: the time of day within the last twelve hours, else all of it.
pub(super) fn moment_short(at: &ProtoTimestamp, now: Timestamp) -> String {
    const RECENT: i64 = 12 * 3_600 * 1_000_000_000;
    let at = timestamp_from_proto(at);
    if now.nanos_since(at).abs() < RECENT { at.to_local_time_of_day() } else { at.to_local() }
}

/// A length of time: `0.6 s`, `24 min`, `3.5 h`.
pub(super) fn length(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        0.0 => "0 s".to_owned(),
        s if s < 0.1 => format!("{:.0} ms", s * 1e3),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3_600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// A length of time from a message.
pub(super) fn duration(duration: Option<&ProtoDuration>) -> String {
    duration.and_then(duration_from_proto).map_or_else(|| NOTHING.to_owned(), length)
}

/// A signed length of time in milliseconds.
pub(super) fn offset(duration: Option<&ProtoDuration>) -> String {
    duration.map_or_else(
        || NOTHING.to_owned(),
        |offset| {
            let tenths = nanos_from_proto(offset) / 100_000;
            format!("{}{}.{} ms", if tenths < 0 { "-" } else { "+" }, tenths.abs() / 10, tenths.abs() % 10)
        },
    )
}

/// A number of bytes.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 10.0 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// What waits for a destination.
pub(super) fn backlog(backlog: Option<&pb::Backlog>) -> String {
    let Some(backlog) = backlog else { return NOTHING.to_owned() };
    if backlog.entries == 0 {
        return "none".to_owned();
    }
    let mut parts = Vec::new();
    parts.extend(backlog.age.as_ref().and_then(duration_from_proto).filter(|age| !age.is_zero()).map(length));
    parts.extend(backlog.bytes.map(bytes));
    parts.push(format!("{} entries", backlog.entries));
    parts.join(", ")
}

/// How late the last reads of a group began after their slots.
pub(super) fn lateness(group: &pb::Group) -> String {
    let parts = [&group.lateness_median, &group.lateness_p99, &group.lateness_max];
    match parts.map(Option::as_ref) {
        [None, None, None] => NOTHING.to_owned(),
        parts => parts.map(duration).join(" / "),
    }
}

/// A text, or the mark for nothing.
pub(super) fn or_nothing(text: &str) -> String {
    if text.is_empty() { NOTHING.to_owned() } else { text.to_owned() }
}

/// Who has standing orders, and why.
pub(super) fn standing(standing: &pb::Standing) -> String {
    let mut text = format!("by {} since {}", standing.principal, moment(standing.at.as_ref()));
    if let Some(until) = &standing.until {
        text.push_str(&format!(" until {}", moment(Some(until))));
    }
    if !standing.reason.is_empty() {
        text.push_str(&format!(": {}", standing.reason));
    }
    text
}

/// Now.
pub(super) fn now() -> Timestamp {
    Timestamp(i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX))
}

/// The beginning of this day where we are.
pub(super) fn midnight() -> Option<ProtoTimestamp> {
    let start = jiff::Zoned::now().start_of_day().ok()?;
    let nanos = i64::try_from(start.timestamp().as_nanosecond()).ok()?;
    Some(timestamp_to_proto(Timestamp(nanos)))
}

#[cfg(test)]
mod tests {
    use wire::times::nanos_to_proto;

    use super::*;

    #[test]
    fn lengths_of_time_are_as_exact_as_one_needs() {
        let cases = [
            (0, "0 s"),
            (3, "3 ms"),
            (600, "0.6 s"),
            (42_000, "42 s"),
            (1_440_000, "24 min"),
            (12_600_000, "3.5 h"),
            (259_200_000, "3.0 days"),
        ];
        for (millis, text) in cases {
            assert_eq!(length(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn sizes_and_offsets_are_short() {
        assert_eq!([bytes(0), bytes(1_181_116_006), bytes(20 << 30)], ["0 B", "1.1 GiB", "20 GiB"]);
        assert_eq!(offset(Some(&nanos_to_proto(-2_840_000))), "-2.8 ms");
        assert_eq!(offset(Some(&nanos_to_proto(300_000))), "+0.3 ms");
        assert_eq!(offset(None), "-");
    }

    #[test]
    fn a_backlog_names_what_is_known_of_it() {
        let waiting =
            pb::Backlog { entries: 12, bytes: Some(2048), age: Some(nanos_to_proto(1_440_000_000_000)) };
        assert_eq!(backlog(Some(&waiting)), "24 min, 2.0 KiB, 12 entries");
        assert_eq!(backlog(Some(&pb::Backlog::default())), "none");
        assert_eq!(backlog(None), "-");
    }
}
