//! Alarms: when one is raised and when it is cleared.
//!
//! - What is wrong is the verdict's say; what stands is the ledger's. What is wrong and does not stand is raised; what
//!   stands and has not been wrong for a while is cleared. So a new leader raises nothing twice.
//! - What becomes graver, or fills a disk to its next step, is raised again.
//! - What cannot be known yet is neither: a device that a new leader is still connecting to may be down.
//! - Something that comes and goes is one alarm, until it has been well for [`CALM`].
//! - Pure but for the log line.

use std::collections::BTreeMap;
use std::time::Duration;

use model::command::{Command, Severity};
use model::time::in_words;
use store::ledger::AlarmKey;
use tokio::time::Instant;
use tracing::{error, info, warn};
use wire::proto::v1 as pb;

use crate::admin::{Facts, alarm_key, has_grown, severity};

/// How long something must have been well before its alarm is cleared.
const CALM: Duration = Duration::from_secs(5);

/// What has been well, and since when.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    well_since: BTreeMap<AlarmKey, Instant>,
}

/// An alarm to be raised or cleared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    key: AlarmKey,
    raised: bool,
    severity: Severity,
    text: String,
}

impl Tracker {
    /// Another node leads: what this one saw says nothing of now.
    pub(super) fn forget(&mut self) {
        self.well_since.clear();
    }

    /// What is to be raised and cleared at `now`, the raised first.
    pub(super) fn changes(&mut self, now: Instant, facts: &Facts) -> Vec<Change> {
        let wrong: BTreeMap<AlarmKey, pb::Alarm> =
            facts.alarms().into_iter().filter_map(|alarm| Some((alarm_key(&alarm)?, alarm))).collect();
        let mut changes: Vec<Change> = wrong
            .iter()
            .filter(|(key, alarm)| facts.standing.get(key).is_none_or(|standing| has_grown(alarm, standing)))
            .map(|(key, alarm)| Change {
                key: key.clone(),
                raised: true,
                severity: severity(alarm),
                text: alarm.text.clone(),
            })
            .collect();
        self.well_since.retain(|key, _| facts.standing.contains_key(key));
        for (key, standing) in &facts.standing {
            if wrong.contains_key(key) || facts.is_undecided(key) {
                self.well_since.remove(key);
                continue;
            }
            let since = *self.well_since.entry(key.clone()).or_insert(now);
            if now.duration_since(since) >= CALM {
                let text = format!("it lasted {}", in_words(facts.at.since(standing.since)));
                changes.push(Change { key: key.clone(), raised: false, severity: Severity::Info, text });
            }
        }
        changes
    }
}

impl Change {
    /// The command that makes it so.
    pub(super) fn command(&self) -> Command {
        Command::SetAlarm {
            kind: self.key.0,
            subject: self.key.1.clone(),
            raised: self.raised,
            severity: self.severity,
            text: self.text.clone(),
        }
    }

    /// The one line when it is raised, and the one when it is cleared.
    pub(super) fn log(&self) {
        let Self { key: (kind, subject), raised, severity, text } = self;
        match (raised, severity) {
            (true, Severity::Alarm) => error!(subject, "alarm {kind}: {text}"),
            (true, _) => warn!(subject, "alarm {kind}: {text}"),
            (false, _) => info!(subject, "alarm {kind} is over: {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{AlarmKind, Timestamp};
    use store::ledger::StandingAlarm;

    use super::*;

    fn facts(state: pb::device::State) -> Facts {
        let device = pb::Device { id: "press".into(), state: state.into(), ..pb::Device::default() };
        let member = |name: &str| pb::Member {
            name: name.into(),
            voter: true,
            reach: pb::member::Reach::Reachable.into(),
            ..pb::Member::default()
        };
        Facts {
            quorum: true,
            at: Timestamp::from_millis(130_000),
            devices: vec![device],
            members: ["a", "b", "c"].map(member).into(),
            ..Facts::default()
        }
    }

    fn standing(mut facts: Facts, severity: Severity) -> Facts {
        let alarm = StandingAlarm { since: Timestamp::from_millis(5_000), severity, text: "silent".into() };
        facts.standing.insert((AlarmKind::DeviceDown, "press".into()), alarm);
        facts
    }

    fn raised(changes: &[Change]) -> Vec<(AlarmKind, bool)> {
        changes.iter().map(|change| (change.key.0, change.raised)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_is_raised_once_and_cleared_after_a_calm_while() {
        use pb::device::State;
        let (mut tracker, start) = (Tracker::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let first = tracker.changes(start, &facts(State::Down));
        assert_eq!(raised(&first), [(AlarmKind::DeviceDown, true)]);
        let stands = |state| standing(facts(state), Severity::Alarm);
        assert_eq!(tracker.changes(after(1), &stands(State::Down)), []);
        assert_eq!(tracker.changes(after(2), &stands(State::Answering)), []);
        assert_eq!(tracker.changes(after(3), &stands(State::Down)), [], "it came back for a moment only");
        assert_eq!(tracker.changes(after(4), &stands(State::Answering)), []);
        assert_eq!(tracker.changes(after(8), &stands(State::Answering)), []);
        let last = tracker.changes(after(9), &stands(State::Answering));
        assert_eq!(raised(&last), [(AlarmKind::DeviceDown, false)]);
        assert_eq!(last[0].text, "it lasted 2 min 5 s");
        assert_eq!(tracker.changes(after(10), &facts(State::Answering)), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_neither_repeats_nor_clears_what_it_does_not_know() {
        use pb::device::State;
        let (mut tracker, start) = (Tracker::default(), Instant::now());
        let stands = |state| standing(facts(state), Severity::Alarm);
        assert_eq!(tracker.changes(start, &stands(State::Connecting)), []);
        let later = start + Duration::from_secs(100);
        assert_eq!(tracker.changes(later, &stands(State::Connecting)), []);
        assert_eq!(tracker.changes(later, &stands(State::Down)), []);
    }

    #[tokio::test(start_paused = true)]
    async fn what_becomes_graver_is_raised_again() {
        let (mut tracker, now) = (Tracker::default(), Instant::now());
        let graver = standing(facts(pb::device::State::Down), Severity::Warning);
        assert_eq!(raised(&tracker.changes(now, &graver)), [(AlarmKind::DeviceDown, true)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_is_told_of_again_at_each_step_and_not_in_between() {
        let (mut tracker, mut seen) = (Tracker::default(), facts(pb::device::State::Answering));
        let mut told = Vec::new();
        for percent in [69, 70, 79, 80, 78, 85, 89, 90, 95, 85] {
            (seen.buffer.disk_bytes, seen.buffer.max_bytes) = (percent, 100);
            for Change { key, severity, text, .. } in tracker.changes(Instant::now(), &seen) {
                told.push((percent, severity));
                seen.standing.insert(key, StandingAlarm { since: seen.at, severity, text });
            }
        }
        assert_eq!(told, [(70, Severity::Warning), (80, Severity::Warning), (90, Severity::Alarm)]);
    }
}
