//! System tags: which of them are due, and with which values.
//!
//! - What people wait for (who leads, who is up, how a device does) is due when it changes; what moves all the time is
//!   due with the heartbeat; everything is due at the beginning of a reign and once a minute.
//! - Every batch has the heartbeat in it, whose value is the number of the batch: it goes on from reign to reign.
//! - Pure: told the time and the facts, it says what to write.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{SystemTag, Value};
use tokio::time::Instant;
use wire::proto::v1 as pb;
use wire::times::{nanos_from_proto, timestamp_from_proto};

use crate::admin::{Facts, is_well};

/// From one heartbeat to the next.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// From one time that everything is written to the next.
const EVERYTHING: Duration = Duration::from_secs(60);

/// What was written in a reign, and when.
#[derive(Debug)]
pub(super) struct SystemTags {
    written: BTreeMap<SystemTag, Value>,
    /// Number of the last batch.
    sequence: u64,
    heartbeat_at: Option<Instant>,
    everything_at: Option<Instant>,
}

impl SystemTags {
    /// Nothing is written yet in this reign; `sequence` is the number of the last batch of an earlier one.
    pub(super) fn new(sequence: u64) -> Self {
        Self { written: BTreeMap::new(), sequence, heartbeat_at: None, everything_at: None }
    }

    /// What is due at `now`, with the number of its batch; `None` while nothing is. Counts as written afterwards, but for
    /// the number: see [`SystemTags::written`].
    pub(super) fn due(
        &mut self,
        now: Instant,
        values: BTreeMap<SystemTag, Value>,
    ) -> Option<(u64, Vec<(SystemTag, Value)>)> {
        let is_over =
            |since: Option<Instant>, time| since.is_none_or(|since| now.duration_since(since) >= time);
        let (everything, heartbeat) =
            (is_over(self.everything_at, EVERYTHING), is_over(self.heartbeat_at, HEARTBEAT));
        let is_due = |(tag, value): &(&SystemTag, &Value)| {
            let has_changed = self.written.get(tag).is_none_or(|written| !written.is_identical(value));
            everything
                || has_changed
                    && match tag {
                        SystemTag::DestinationBacklog(_) => heartbeat,
                        // Moves with every read: once a minute is enough to alarm on.
                        SystemTag::DeviceLastGood(_) | SystemTag::Heartbeat => false,
                        _ => true,
                    }
        };
        let mut due: Vec<(SystemTag, Value)> = values
            .iter()
            .filter(|pair| is_due(pair))
            .map(|(tag, value)| (tag.clone(), value.clone()))
            .collect();
        if due.is_empty() && !heartbeat {
            return None;
        }
        // A device whose state has changed says when it was last well.
        for (tag, value) in &values {
            let SystemTag::DeviceLastGood(device) = tag else { continue };
            let changed = SystemTag::DeviceState(device.clone());
            if !everything && due.iter().any(|(known, _)| *known == changed) {
                due.push((tag.clone(), value.clone()));
            }
        }
        let sequence = self.sequence + 1;
        due.push((SystemTag::Heartbeat, Value::U64(sequence)));
        self.written.extend(due.iter().cloned());
        // What no longer exists must be written anew when it comes back.
        self.written.retain(|tag, _| values.contains_key(tag) || *tag == SystemTag::Heartbeat);
        self.heartbeat_at = Some(now);
        if everything {
            self.everything_at = Some(now);
        }
        Some((sequence, due))
    }

    /// The batch of this number is on its way: the next one has the next number.
    pub(super) fn written(&mut self, sequence: u64) {
        self.sequence = sequence;
    }
}

/// The value of every system tag but the heartbeat, as far as it is known. `leader` is this node.
pub(super) fn values(facts: &Facts, leader: &str) -> BTreeMap<SystemTag, Value> {
    let text = |text: &str| Value::String(text.into());
    let mut values = BTreeMap::from([
        (SystemTag::Leader, text(leader)),
        (SystemTag::Redundant, Value::Bool(facts.may_fail() > 0)),
    ]);
    for member in &facts.members {
        values.insert(SystemTag::NodeUp(member.name.clone()), Value::Bool(is_well(member)));
    }
    for device in &facts.devices {
        let Some(state) = state_of(device) else { continue };
        values.insert(SystemTag::DeviceState(device.id.clone()), text(state));
        if let Some(at) = &device.last_good {
            let at = timestamp_from_proto(at).to_string();
            values.insert(SystemTag::DeviceLastGood(device.id.clone()), text(&at));
        }
    }
    for destination in &facts.destinations {
        let Some(age) = destination.backlog.as_ref().and_then(|backlog| backlog.age.as_ref()) else {
            continue;
        };
        // Tenths: what is merely on its way does not make a new value each time.
        let tenths = nanos_from_proto(age) / 100_000_000;
        let seconds = tenths as f64 / 10.0;
        values.insert(SystemTag::DestinationBacklog(destination.id.clone()), Value::F64(seconds));
    }
    values
}

/// The state of a device in one word; `None` where nobody asks it, or nothing is known.
fn state_of(device: &pb::Device) -> Option<&'static str> {
    use pb::device::State;
    match device.state() {
        State::Connecting => Some("connecting"),
        State::Answering => Some("answering"),
        State::Down => Some("down"),
        State::Disabled => Some("disabled"),
        State::Pushing | State::Unspecified => None,
    }
}

#[cfg(test)]
mod tests {
    use model::Timestamp;
    use wire::times::{nanos_to_proto, timestamp_to_proto};

    use super::*;

    fn facts(state: pb::device::State, last_good: i64, backlog_nanos: i64) -> Facts {
        use pb::member::Reach;
        let member = |name: &str, reach: Reach| pb::Member {
            name: name.into(),
            voter: true,
            reach: reach.into(),
            ..pb::Member::default()
        };
        let device = pb::Device {
            id: "press".into(),
            state: state.into(),
            last_good: Some(timestamp_to_proto(Timestamp(last_good))),
            ..pb::Device::default()
        };
        let backlog = pb::Backlog { age: Some(nanos_to_proto(backlog_nanos)), ..pb::Backlog::default() };
        let destination =
            pb::Destination { id: "historian".into(), backlog: Some(backlog), ..pb::Destination::default() };
        Facts {
            quorum: true,
            members: vec![
                member("a", Reach::Itself),
                member("b", Reach::Reachable),
                member("c", Reach::Unreachable),
            ],
            devices: vec![device],
            destinations: vec![destination],
            ..Facts::default()
        }
    }

    fn names(due: Option<(u64, Vec<(SystemTag, Value)>)>) -> Vec<String> {
        let due = due.into_iter().flat_map(|(_, due)| due);
        due.map(|(tag, value)| format!("{tag} = {value:?}")).collect()
    }

    #[test]
    fn every_tag_has_the_value_that_the_status_shows() {
        let values = values(&facts(pb::device::State::Down, 1_000_000_000, 1_260_000_000), "a");
        let seen: Vec<String> = values.iter().map(|(tag, value)| format!("{tag} = {value:?}")).collect();
        assert_eq!(
            seen,
            [
                "$cluster/leader = String(\"a\")",
                "$cluster/redundant = Bool(false)",
                "$node/a/up = Bool(true)",
                "$node/b/up = Bool(true)",
                "$node/c/up = Bool(false)",
                "$device/press/state = String(\"down\")",
                "$device/press/last-good = String(\"1970-01-01T00:00:01.000000000Z\")",
                "$destination/historian/backlog-seconds = F64(1.2)",
            ]
        );
        for (tag, value) in &values {
            assert_eq!(tag.value_type(), value.value_type(), "{tag}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reign_begins_with_everything_and_goes_on_with_what_changes() {
        use pb::device::State;
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut tags = SystemTags::new(41);
        let mut look = |at, facts: Facts| {
            let due = tags.due(at, values(&facts, "a"));
            if let Some((sequence, _)) = &due {
                tags.written(*sequence);
            }
            names(due)
        };
        assert_eq!(look(start, facts(State::Answering, 1, 0)).len(), 9, "all of them, and the heartbeat");
        assert!(look(after(1), facts(State::Answering, 2, 900_000_000)).is_empty());
        assert_eq!(
            look(after(2), facts(State::Down, 3, 900_000_000)),
            [
                "$device/press/state = String(\"down\")",
                "$device/press/last-good = String(\"1970-01-01T00:00:00.000000003Z\")",
                "$cluster/heartbeat = U64(43)"
            ]
        );
        assert!(
            look(after(6), facts(State::Down, 3, 900_000_000)).is_empty(),
            "a heartbeat was just written"
        );
        assert_eq!(
            look(after(7), facts(State::Down, 3, 900_000_000)),
            ["$destination/historian/backlog-seconds = F64(0.9)", "$cluster/heartbeat = U64(44)"]
        );
        assert_eq!(look(after(12), facts(State::Down, 3, 900_000_000)), ["$cluster/heartbeat = U64(45)"]);
        assert_eq!(look(after(60), facts(State::Down, 3, 900_000_000)).len(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_proposed_uses_up_no_number() {
        let mut tags = SystemTags::new(7);
        let values = || values(&facts(pb::device::State::Answering, 1, 0), "a");
        let (first, _) = tags.due(Instant::now(), values()).expect("everything");
        let later = Instant::now() + HEARTBEAT;
        let (second, _) = tags.due(later, values()).expect("a heartbeat");
        assert_eq!((first, second), (8, 8));
    }
}
