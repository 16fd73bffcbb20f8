//! The verdict and the alarms: a pure function of what is known.
//!
//! - The list of kinds is closed. What is not known raises no alarm.
//! - The gravest come first; within a gravity the order is that of the kinds, so that equal facts give equal lists.

use std::collections::BTreeMap;
use std::time::Duration;

use model::command::Severity;
use model::time::nanos;
use model::{AlarmKind, Timestamp};
use store::ledger::{AlarmKey, StandingAlarm};
use tls::{CertificateDates, Standing};
use wire::proto::v1 as pb;
use wire::times::{nanos_from_proto, timestamp_from_proto, timestamp_to_proto};

use pb::alarm::Kind;

/// How far the clocks of two members may be apart.
const CLOCK_LIMIT: Duration = Duration::from_millis(100);
/// How long it is told that a clock was set.
const STEP_TOLD: Duration = Duration::from_secs(3_600);
/// How long a destination may be away before somebody is told.
const AWAY_LIMIT: Duration = Duration::from_secs(30);
/// From when on a certificate is told of.
pub(crate) const CERTIFICATE_LIMIT: Duration = Duration::from_secs(90 * 24 * 3_600);
/// Percentages of the buffer's limit that raise an alarm, each anew.
const DISK_STEPS: [u64; 3] = [90, 80, 70];

/// What the verdict is made from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// Now.
    pub(crate) at: Timestamp,
    /// Whether a majority is known to answer.
    pub(crate) quorum: bool,
    /// The members.
    pub(crate) members: Vec<pb::Member>,
    /// The devices.
    pub(crate) devices: Vec<pb::Device>,
    /// The destinations.
    pub(crate) destinations: Vec<pb::Destination>,
    /// The buffer.
    pub(crate) buffer: pb::BufferStats,
    /// What the node itself has noticed.
    pub(crate) notices: Notices,
    /// The alarms that were raised and not cleared, by this leader or an earlier one.
    pub(crate) standing: BTreeMap<AlarmKey, StandingAlarm>,
}

/// What a node notices that lies in no ledger.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Notices {
    /// Certificates of nodes, and their dates.
    pub certificates: Vec<CertificateDates>,
    /// The last time the wall clock was set, and by how many nanoseconds.
    pub clock_step: Option<(Timestamp, i64)>,
}

impl Facts {
    /// Everything that is wrong.
    pub(crate) fn alarms(&self) -> Vec<pb::Alarm> {
        let mut alarms = Vec::new();
        self.quorum_alarms(&mut alarms);
        self.device_alarms(&mut alarms);
        self.destination_alarms(&mut alarms);
        self.disk_alarms(&mut alarms);
        self.member_alarms(&mut alarms);
        self.certificate_alarms(&mut alarms);
        for alarm in &mut alarms {
            self.date(alarm);
        }
        alarms.sort_by_key(|alarm| (!alarm.severe, alarm.kind));
        alarms
    }

    /// An alarm that was raised before began then, whatever a new leader has seen of it.
    fn date(&self, alarm: &mut pb::Alarm) {
        let Some(standing) = key(alarm).and_then(|key| self.standing.get(&key)) else { return };
        let seen = alarm.since.as_ref().map(timestamp_from_proto);
        if seen.is_none_or(|seen| standing.since < seen) {
            alarm.since = Some(timestamp_to_proto(standing.since));
        }
    }

    /// Whether too little is known to say that an alarm which is not raised now is over.
    pub(crate) fn is_undecided(&self, (kind, subject): &AlarmKey) -> bool {
        use pb::{destination, device};
        let unknown = |device: &&pb::Device| {
            matches!(device.state(), device::State::Unspecified | device::State::Connecting)
        };
        match kind {
            AlarmKind::DeviceDown => self.devices.iter().filter(unknown).any(|device| device.id == *subject),
            AlarmKind::LeaderReachesFewDevices => self.devices.iter().any(|device| unknown(&device)),
            AlarmKind::DestinationStalled => self.destinations.iter().any(|destination| {
                // Away, and not yet for long by the watch of a new leader, is still away.
                let is_open = matches!(
                    destination.state(),
                    destination::State::Unspecified | destination::State::Retrying
                );
                destination.id == *subject && is_open
            }),
            _ => false,
        }
    }

    /// The verdict that `alarms` amount to.
    pub(crate) fn verdict(&self, alarms: &[pb::Alarm]) -> pb::cluster_status::Verdict {
        use pb::cluster_status::Verdict;
        match (self.quorum, alarms.is_empty()) {
            (false, _) => Verdict::Down,
            (true, false) => Verdict::Degraded,
            (true, true) => Verdict::Ok,
        }
    }

    /// How many further voters may fail.
    pub(crate) fn may_fail(&self) -> u32 {
        let voters = self.members.iter().filter(|member| member.voter).count();
        let well = self.members.iter().filter(|member| member.voter && is_well(member)).count();
        let majority = voters / 2 + 1;
        u32::try_from(well.saturating_sub(majority)).unwrap_or(u32::MAX)
    }

    fn quorum_alarms(&self, alarms: &mut Vec<pb::Alarm>) {
        let voters = self.members.iter().filter(|member| member.voter).count();
        if !self.quorum {
            let text = "no majority of the nodes answers: nothing is read, accepted or delivered";
            alarms.push(alarm(Kind::NoQuorum, "", text, None, true));
        } else if voters > 0 && voters <= 2 {
            let text = format!("only {voters} voting: no automatic failover; add a third node");
            alarms.push(alarm(Kind::TwoVotersOnly, "", &text, None, false));
        } else if voters > 0 && self.may_fail() == 0 {
            let text = "no further node may fail";
            alarms.push(alarm(Kind::CannotLoseAnotherNode, "", text, None, false));
        }
    }

    fn member_alarms(&self, alarms: &mut Vec<pb::Alarm>) {
        for member in &self.members {
            let wrong = match member.reach() {
                pb::member::Reach::Unreachable => Some("unreachable"),
                pb::member::Reach::Refused => Some("refused"),
                _ => None,
            };
            if let Some(wrong) = wrong {
                let text = with_reason(wrong, &member.reason);
                alarms.push(alarm(Kind::MemberUnreachable, &member.name, &text, member.since, true));
            }
            if let Some(text) = clock_complaint(member) {
                alarms.push(alarm(Kind::Clock, &member.name, &text, None, false));
            }
        }
        let recent = |(at, _): &(Timestamp, i64)| self.at.nanos_since(*at) < nanos(STEP_TOLD);
        if let Some((at, nanos)) = self.notices.clock_step.filter(recent) {
            let text = format!("the clock was set by {}", clock_difference(nanos.unsigned_abs()));
            alarms.push(alarm(Kind::Clock, "", &text, Some(timestamp_to_proto(at)), false));
        }
        let mut leases: Vec<i64> =
            self.members.iter().filter(|member| member.voter).filter_map(lease).collect();
        leases.sort_unstable();
        leases.dedup();
        if leases.len() > 1 {
            let text = "members run with different lease profiles; the shortest counts";
            alarms.push(alarm(Kind::ProfilesDiffer, "", text, None, false));
        }
    }

    fn device_alarms(&self, alarms: &mut Vec<pb::Alarm>) {
        use pb::device::State;
        let polled: Vec<&pb::Device> = self
            .devices
            .iter()
            .filter(|device| !matches!(device.state(), State::Disabled | State::Pushing))
            .collect();
        let down: Vec<&&pb::Device> = polled.iter().filter(|device| device.state() == State::Down).collect();
        if down.len() >= 2 && down.len() * 2 > polled.len() {
            let text = format!(
                "the leader reaches {} of {} devices: it may be cut off from the field",
                polled.len() - down.len(),
                polled.len()
            );
            alarms.push(alarm(Kind::LeaderReachesFewDevices, "", &text, None, true));
        }
        for device in down {
            let text = with_reason("does not answer", &device.reason);
            alarms.push(alarm(Kind::DeviceDown, &device.id, &text, device.since, true));
        }
    }

    fn destination_alarms(&self, alarms: &mut Vec<pb::Alarm>) {
        use pb::destination::State;
        for destination in &self.destinations {
            let away = destination
                .since
                .is_some_and(|since| self.at.nanos_since(timestamp_from_proto(&since)) >= nanos(AWAY_LIMIT));
            let wrong = match destination.state() {
                State::Stalled => Some("refusing"),
                State::Retrying if away => Some("away"),
                _ => None,
            };
            if let Some(wrong) = wrong {
                let text = with_reason(wrong, &destination.reason);
                alarms.push(alarm(Kind::DestinationStalled, &destination.id, &text, destination.since, true));
            }
            if destination.quarantined > 0 {
                let text = format!("{} records in quarantine", destination.quarantined);
                alarms.push(alarm(Kind::QuarantineNotEmpty, &destination.id, &text, None, false));
            }
        }
        for ((kind, subject), standing) in &self.standing {
            if *kind == AlarmKind::FilesNotOnAShare && self.is_still_said(subject, &standing.text) {
                alarms.push(alarm(Kind::FilesNotOnAShare, subject, &standing.text, None, false));
            }
        }
    }

    /// Whether a follower stands by its complaint about a destination's files. It takes it back itself, because the leader
    /// sees its own directory alone. One that leads now, or is no member any more, has nothing to see there.
    fn is_still_said(&self, destination: &str, text: &str) -> bool {
        let by = complainant(text);
        self.destinations.iter().any(|known| known.id == destination && known.kind == "csv")
            && self.members.iter().any(|member| member.name == by && !member.leader)
    }

    fn disk_alarms(&self, alarms: &mut Vec<pb::Alarm>) {
        // All nodes keep the same: what one holds the others hold.
        let held = self.buffer.disk_bytes;
        let mut judge = |subject: &str, limit: u64, of: &str| {
            let percent = held.saturating_mul(100).checked_div(limit).unwrap_or_default();
            if let Some(step) = disk_step(percent) {
                let text = format!("{percent} % of {} used, {of}", model::plant::units::format_bytes(limit));
                alarms.push(alarm(Kind::DiskFilling, subject, &text, None, step >= 90));
            }
        };
        judge("", self.buffer.max_bytes, "the limit of the plant document");
        for member in &self.members {
            if let Some(free) = member.free_bytes {
                judge(&member.name, held.saturating_add(free), "all that its disk has left for the buffer");
            }
        }
    }

    fn certificate_alarms(&self, alarms: &mut Vec<pb::Alarm>) {
        // Of a member that was removed nobody takes its certificate back.
        let is_member = |dates: &&CertificateDates| self.members.iter().any(|known| known.name == dates.name);
        for dates in self.notices.certificates.iter().filter(is_member) {
            let left = dates.until.nanos_since(self.at);
            let (text, severe) = match dates.standing(self.at) {
                Standing::NotYet => {
                    (format!("its certificate is valid from {} only: is a clock wrong?", dates.from), true)
                }
                Standing::Expired => (format!("its certificate ended at {}", dates.until), true),
                Standing::Valid if left < nanos(CERTIFICATE_LIMIT) => {
                    let days = left / nanos(Duration::from_secs(86_400));
                    (format!("its certificate ends in {days} days"), false)
                }
                Standing::Valid => continue,
            };
            alarms.push(alarm(Kind::CertificateExpires, &dates.name, &text, None, severe));
        }
    }
}

/// The step of [`DISK_STEPS`] that so many percent have reached.
fn disk_step(percent: u64) -> Option<u64> {
    DISK_STEPS.into_iter().find(|step| percent >= *step)
}

/// Whether an alarm is graver than it was when it was raised, or has come a step further: then it is raised again.
pub(crate) fn has_grown(alarm: &pb::Alarm, standing: &StandingAlarm) -> bool {
    // The text of an alarm about a disk begins with the percentage.
    let step = |text: &str| disk_step(text.split(' ').next()?.parse().ok()?);
    severity(alarm) > standing.severity
        || alarm.kind() == Kind::DiskFilling && step(&alarm.text) > step(&standing.text)
}

/// How grave an alarm is, as the log has it.
pub(crate) fn severity(alarm: &pb::Alarm) -> Severity {
    if alarm.severe { Severity::Alarm } else { Severity::Warning }
}

/// The node that complains in the text of an alarm about a destination's files: its first word.
pub(crate) fn complainant(text: &str) -> &str {
    text.split([' ', ':']).next().unwrap_or_default()
}

/// What identifies an alarm.
pub(crate) fn key(alarm: &pb::Alarm) -> Option<AlarmKey> {
    // Both lists have the same numbers; a test compares their names.
    let kind = wire::convert::alarm_kind_from(alarm.kind).ok()?;
    Some((kind, alarm.subject.clone()))
}

/// Whether a member can be counted on. One that the answering node has no reason to talk to is.
pub(crate) fn is_well(member: &pb::Member) -> bool {
    !matches!(member.reach(), pb::member::Reach::Unreachable | pb::member::Reach::Refused)
}

fn lease(member: &pb::Member) -> Option<i64> {
    member.lease.as_ref().map(nanos_from_proto)
}

fn clock_complaint(member: &pb::Member) -> Option<String> {
    let offset = nanos_from_proto(member.clock_offset.as_ref()?);
    let error = member.clock_error.as_ref().map_or(0, nanos_from_proto).unsigned_abs();
    // Only what is surely apart: the error of the measurement is not the clock's.
    let surely = offset.unsigned_abs().saturating_sub(error);
    let direction = if offset > 0 { "ahead" } else { "behind" };
    (u128::from(surely) > CLOCK_LIMIT.as_nanos())
        .then(|| format!("its clock is {} {direction}", clock_difference(offset.unsigned_abs())))
}

fn clock_difference(nanos: u64) -> String {
    let millis = nanos / 1_000_000;
    if millis < 10_000 { format!("{millis} ms") } else { format!("{} s", millis / 1_000) }
}

fn with_reason(what: &str, reason: &str) -> String {
    if reason.is_empty() { what.to_owned() } else { format!("{what} ({reason})") }
}

fn alarm(
    kind: Kind,
    subject: &str,
    text: &str,
    since: Option<wire::times::ProtoTimestamp>,
    severe: bool,
) -> pb::Alarm {
    pb::Alarm { kind: kind.into(), subject: subject.to_owned(), text: text.to_owned(), since, severe }
}

#[cfg(test)]
mod tests;
