//! Prometheus text, written by hand (exposition format 0.0.4), and the figures of a node's status.
//!
//! - Names are `holdfast_<noun>_<unit>`, counters end in `_total`.
//! - A family is announced once, however many samples it has and whoever writes them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ingest::IngestCounters;
use model::Timestamp;
use wire::proto::v1 as pb;
use wire::times::{nanos_from_proto, timestamp_from_proto};

/// Collects metric families and writes them as text.
#[derive(Debug, Default)]
pub(super) struct MetricsWriter {
    families: BTreeMap<&'static str, Family>,
}

#[derive(Debug)]
struct Family {
    kind: &'static str,
    help: &'static str,
    samples: String,
}

impl MetricsWriter {
    /// A figure that goes up and down.
    pub(super) fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        self.sample(name, "gauge", help, labels, value);
    }

    /// A figure that only grows while the process runs.
    pub(super) fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        self.sample(name, "counter", help, labels, value);
    }

    /// Everything written so far.
    pub(super) fn into_text(self) -> String {
        let mut text = String::new();
        for (name, Family { kind, help, samples }) in self.families {
            text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}"));
        }
        text
    }

    fn sample(
        &mut self,
        name: &'static str,
        kind: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        let family =
            self.families.entry(name).or_insert_with(|| Family { kind, help, samples: String::new() });
        family.samples.push_str(name);
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        if !labels.is_empty() {
            family.samples.push_str(&format!("{{{}}}", labels.join(",")));
        }
        // Rust writes `NaN` and `inf`; Prometheus reads both.
        writeln!(family.samples, " {value}").expect("a String takes everything");
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The figures of a status.
pub(super) fn write_status(writer: &mut MetricsWriter, status: &pb::ClusterStatus) {
    write_agreement(writer, status);
    write_buffer(writer, &status.buffer.unwrap_or_default());
    write_memory(writer, &status.memory.unwrap_or_default());
    let devices = status.devices.unwrap_or_default();
    let states = [("answering", devices.answering), ("down", devices.down), ("unknown", devices.unknown)];
    for (state, number) in states {
        let help = "Devices in service, by state; only the leader knows more than unknown.";
        writer.gauge("holdfast_devices_count", help, &[("state", state)], f64::from(number));
    }
    for destination in &status.destinations {
        let labels = [("destination", destination.id.as_str())];
        let backlog = destination.backlog.unwrap_or_default();
        let help = "Entries that the destination has not confirmed.";
        writer.gauge("holdfast_destination_backlog_entries", help, &labels, backlog.entries as f64);
        if let Some(bytes) = backlog.bytes {
            let help = "Bytes of the entries that the destination has not confirmed, about.";
            writer.gauge("holdfast_destination_backlog_bytes", help, &labels, bytes as f64);
        }
        if let Some(age) = &backlog.age {
            let help = "Age of the oldest record that the destination has not confirmed.";
            writer.gauge(
                "holdfast_destination_backlog_seconds",
                help,
                &labels,
                seconds(nanos_from_proto(age)),
            );
        }
        let help = "Records that the destination has refused for good.";
        writer.gauge("holdfast_quarantine_records", help, &labels, destination.quarantined as f64);
        let help = "Refused records that were offered again, by what the destination said then.";
        let again = [("accepted", destination.accepted_again), ("refused", destination.refused_again)];
        for (result, records) in again {
            let labels = [("destination", destination.id.as_str()), ("result", result)];
            writer.counter("holdfast_quarantine_retried_records_total", help, &labels, records as f64);
        }
        let stalled = destination.state() == pb::destination::State::Stalled;
        let help = "Whether the destination refuses until somebody changes something.";
        writer.gauge("holdfast_destination_stalled_state", help, &labels, flag(stalled));
    }
}

fn write_agreement(writer: &mut MetricsWriter, status: &pb::ClusterStatus) {
    use pb::cluster_status::Verdict;
    let help = "Whether a majority of the nodes answers, as this node sees it.";
    writer.gauge("holdfast_quorum_state", help, &[], flag(status.verdict() != Verdict::Down));
    let leads = status.leader.as_ref().is_some_and(|leader| leader.name == status.node);
    writer.gauge("holdfast_leader_state", "Whether this node leads.", &[], flag(leads));
    if let Some(leader) = &status.leader {
        writer.gauge("holdfast_term_number", "The term of the leader.", &[], leader.term as f64);
        if let (Some(since), Some(at)) = (&leader.since, &status.at) {
            let reign = timestamp_from_proto(at).nanos_since(timestamp_from_proto(since));
            let help = "How long the leader has led, by its clock.";
            writer.gauge("holdfast_reign_seconds", help, &[], seconds(reign));
        }
        if let Some(lease) = &leader.lease {
            let help = "How long this node's lease lasts if nobody confirms it any more.";
            writer.gauge("holdfast_lease_seconds", help, &[], seconds(nanos_from_proto(lease)));
        }
    }
    let help = "How many further members may fail.";
    writer.gauge("holdfast_failures_allowed_count", help, &[], f64::from(status.may_fail));
    for alarm in &status.alarms {
        let kind = alarm.kind().as_str_name().trim_start_matches("KIND_").to_lowercase().replace('_', "-");
        let severity = if alarm.severe { "alarm" } else { "warning" };
        let labels = [("kind", kind.as_str()), ("subject", alarm.subject.as_str()), ("severity", severity)];
        writer.gauge("holdfast_alarm_state", "1 for each alarm that stands.", &labels, 1.0);
    }
    writer.gauge("holdfast_alarms_count", "Alarms that stand.", &[], status.alarms.len() as f64);
    writer.gauge("holdfast_revision_number", "Revision of the plant.", &[], status.revision as f64);
    for member in &status.members {
        let labels = [("member", member.name.as_str())];
        if let Some(offset) = &member.clock_offset {
            let help = "How far the member's clock is ahead of this node's.";
            writer.gauge(
                "holdfast_member_clock_offset_seconds",
                help,
                &labels,
                seconds(nanos_from_proto(offset)),
            );
        }
        if let Some(behind) = member.behind {
            let help = "Entries of the leader's log that the member has not confirmed.";
            writer.gauge("holdfast_member_behind_entries", help, &labels, behind as f64);
        }
    }
    let at = status.at.as_ref().map_or(Timestamp(0), timestamp_from_proto);
    writer.gauge("holdfast_clock_seconds", "This node's wall clock.", &[], seconds(at.0));
}

/// How late reads begin after their slots, by group.
pub(super) fn write_lateness(writer: &mut MetricsWriter, devices: &[pb::Device]) {
    let groups = devices.iter().flat_map(|device| device.groups.iter().map(move |group| (device, group)));
    for (device, group) in groups {
        let quantiles =
            [("0.5", &group.lateness_median), ("0.99", &group.lateness_p99), ("1", &group.lateness_max)];
        for (quantile, late) in quantiles {
            let Some(late) = late else { continue };
            let labels =
                [("device", device.id.as_str()), ("group", group.id.as_str()), ("quantile", quantile)];
            let help = "How late the last reads of a group began after their slots.";
            writer.gauge("holdfast_group_lateness_seconds", help, &labels, seconds(nanos_from_proto(late)));
        }
    }
}

/// What pushers have sent to this node.
pub(super) fn write_pushes(writer: &mut MetricsWriter, pushes: &IngestCounters) {
    let IngestCounters {
        streams,
        streams_refused,
        messages_acknowledged,
        samples_acknowledged,
        messages_rejected,
        messages_refused,
        bytes_held,
    } = *pushes;
    let help = "Push streams that are open.";
    writer.gauge("holdfast_push_streams_count", help, &[], streams as f64);
    let help = "Bytes of pushed messages that are not answered yet.";
    writer.gauge("holdfast_push_unanswered_bytes", help, &[], bytes_held as f64);
    let help = "Push streams turned away because there were too many.";
    writer.counter("holdfast_push_refused_streams_total", help, &[], streams_refused as f64);
    let help = "Pushed samples acknowledged: they are on a majority of disks.";
    writer.counter("holdfast_push_samples_total", help, &[], samples_acknowledged as f64);
    let outcomes = [
        ("acknowledged", messages_acknowledged),
        ("rejected", messages_rejected),
        ("refused", messages_refused),
    ];
    for (outcome, messages) in outcomes {
        let help = "Pushed messages by outcome: rejected ones were wrong, refused ones are to be sent again.";
        writer.counter("holdfast_push_messages_total", help, &[("outcome", outcome)], messages as f64);
    }
}

fn write_buffer(writer: &mut MetricsWriter, buffer: &pb::BufferStats) {
    let positions = [
        ("floor", buffer.floor),
        ("horizon", buffer.horizon),
        ("applied", buffer.applied),
        ("committed", buffer.committed),
        ("last", buffer.last),
    ];
    for (which, position) in positions {
        let help = "Positions on the one number line.";
        writer.gauge("holdfast_position_index", help, &[("of", which)], position as f64);
    }
    let help = "Entries that some required destination has not confirmed.";
    writer.gauge("holdfast_buffer_entries", help, &[], buffer.undelivered_entries as f64);
    writer.gauge("holdfast_disk_bytes", "Size of the data directory.", &[], buffer.disk_bytes as f64);
    if let Some(free) = buffer.free_bytes {
        let help = "Bytes free for the data directory above the reserve.";
        writer.gauge("holdfast_disk_free_bytes", help, &[], free as f64);
    }
}

fn write_memory(writer: &mut MetricsWriter, memory: &pb::MemoryUse) {
    if let Some(resident) = memory.resident_bytes {
        let help = "What the process holds in memory.";
        writer.gauge("holdfast_memory_resident_bytes", help, &[], resident as f64);
    }
    let help = "What it aims at: [limits] memory of the node file.";
    writer.gauge("holdfast_memory_limit_bytes", help, &[], memory.limit_bytes as f64);
}

fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

fn seconds(nanos: i64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_announced_once_and_labels_are_escaped() {
        let mut writer = MetricsWriter::default();
        writer.gauge("holdfast_b_count", "Bees.", &[("hive", "a\"b\\c\nd")], 2.0);
        writer.counter("holdfast_a_total", "Ants.", &[], 0.5);
        writer.gauge("holdfast_b_count", "Bees.", &[("hive", "e")], 3.0);
        assert_eq!(
            writer.into_text(),
            "# HELP holdfast_a_total Ants.\n# TYPE holdfast_a_total counter\nholdfast_a_total 0.5\n\
             # HELP holdfast_b_count Bees.\n# TYPE holdfast_b_count gauge\n\
             holdfast_b_count{hive=\"a\\\"b\\\\c\\nd\"} 2\nholdfast_b_count{hive=\"e\"} 3\n"
        );
    }

    /// A status in which nothing is missing.
    fn full_status() -> pb::ClusterStatus {
        let (length, time) = (wire::times::nanos_to_proto(2_000_000), wire::times::ProtoTimestamp::default());
        pb::ClusterStatus {
            at: Some(time),
            leader: Some(pb::Leader {
                name: "a".into(),
                since: Some(time),
                lease: Some(length),
                ..pb::Leader::default()
            }),
            members: vec![pb::Member {
                name: "b".into(),
                clock_offset: Some(length),
                behind: Some(7),
                ..pb::Member::default()
            }],
            destinations: vec![pb::Destination {
                id: "d".into(),
                backlog: Some(pb::Backlog { entries: 1, bytes: Some(2), age: Some(length) }),
                ..pb::Destination::default()
            }],
            alarms: vec![pb::Alarm {
                kind: pb::alarm::Kind::DeviceDown.into(),
                subject: "p1".into(),
                ..pb::Alarm::default()
            }],
            buffer: Some(pb::BufferStats { free_bytes: Some(1), ..pb::BufferStats::default() }),
            memory: Some(pb::MemoryUse { resident_bytes: Some(1), limit_bytes: 2 }),
            ..pb::ClusterStatus::default()
        }
    }

    fn full_text() -> String {
        let late = Some(wire::times::nanos_to_proto(2_000_000));
        let group = pb::Group { id: "fast".into(), lateness_p99: late, ..pb::Group::default() };
        let device = pb::Device { id: "p1".into(), groups: vec![group], ..pb::Device::default() };
        let mut writer = MetricsWriter::default();
        write_status(&mut writer, &full_status());
        write_lateness(&mut writer, &[device]);
        write_pushes(&mut writer, &IngestCounters::default());
        writer.into_text()
    }

    /// Names and kinds of all metrics.
    fn exported() -> BTreeMap<String, String> {
        let text = full_text();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let named = types.filter_map(|line| line.split_once(' '));
        named.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
    }

    /// Names in the first column of the tables of the page on monitoring, and their kinds.
    fn described() -> BTreeMap<String, String> {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/monitoring.md");
        let page = std::fs::read_to_string(page).expect("the page is there");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `holdfast_"));
        let row = |row: &str| {
            let (name, rest) = row.split_once('`').expect("the name ends");
            let kind = if rest.split('|').nth(1).is_some_and(|unit| unit.contains("total")) {
                "counter"
            } else {
                "gauge"
            };
            assert_eq!(rest.matches('|').count(), 4, "unit, meaning and what to alarm on: {row}");
            (format!("holdfast_{name}"), kind.to_owned())
        };
        rows.map(row).collect()
    }

    #[test]
    fn every_metric_is_described_and_every_described_one_is_exported() {
        assert_eq!(exported(), described(), "what /metrics gives, and what docs/monitoring.md describes");
    }

    #[test]
    fn every_metric_of_this_file_is_in_the_full_text() {
        let source = include_str!("metrics.rs");
        let (source, _) = source.split_once("#[cfg(test)]").expect("tests follow");
        let written = source.split('"').filter(|part| {
            part.strip_prefix("holdfast_")
                .is_some_and(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        });
        let written: std::collections::BTreeSet<String> = written.map(str::to_owned).collect();
        let exported: std::collections::BTreeSet<String> = exported().into_keys().collect();
        assert_eq!(written, exported, "a metric that the test's status does not have is described by nobody");
    }

    #[test]
    fn every_metric_bears_the_name_of_its_unit() {
        const UNITS: [&str; 10] = [
            "count", "state", "number", "seconds", "entries", "records", "index", "bytes", "streams",
            "samples",
        ];
        for (name, kind) in exported() {
            let counted = name.strip_suffix("_total");
            assert_eq!(counted.is_some(), kind == "counter", "{name} is a {kind}");
            let unit = counted.unwrap_or(&name).rsplit('_').next().unwrap_or_default();
            let is_known = UNITS.contains(&unit) || counted.is_some() && unit == "messages";
            assert!(name.starts_with("holdfast_") && is_known, "{name}");
        }
        for line in [
            "holdfast_position_index{of=\"horizon\"} 0\n",
            "holdfast_alarm_state{kind=\"device-down\",subject=\"p1\",severity=\"warning\"} 1\n",
            "holdfast_group_lateness_seconds{device=\"p1\",group=\"fast\",quantile=\"0.99\"} 0.002\n",
            "holdfast_push_messages_total{outcome=\"refused\"} 0\n",
        ] {
            assert!(full_text().contains(line), "{line} in {}", full_text());
        }
    }
}
