//! What people can read about later: events, and the alarms that stand.
//!
//! - What a command changed is an event made by its `apply`, with who asked for it and why: the audit trail is the log.
//! - An alarm stands from the command that raised it to the one that clears it, whoever leads meanwhile; raising it
//!   twice is raising it once, unless it has become graver.
//! - Events are bounded: the oldest is forgotten for the newest.

use model::command::{Event, Request, Severity, Stamp};
use model::{AlarmKind, Cause, Position, Timestamp};

use super::Change;
use super::rows::Row;
use super::state::{LoggedEvent, Reign, StandingAlarm};
use crate::outcome::Outcome;

/// How many events are kept.
const EVENTS_KEPT: usize = 2_000;

impl Change<'_> {
    /// Keeps an event.
    pub(super) fn event(&mut self, at: Position, time: Timestamp, event: Event) -> Outcome {
        self.state.events.insert(at, LoggedEvent { at: time, event });
        self.touch(Row::Event(at));
        while self.state.events.len() > EVENTS_KEPT {
            let (oldest, _) = self.state.events.pop_first().expect("longer than the limit");
            self.touch(Row::Event(oldest));
        }
        Outcome::Done
    }

    /// Keeps an event that says what the command at `at` did.
    pub(super) fn tell(&mut self, at: Position, time: Timestamp, subject: String, text: String) {
        self.event(at, time, Event { severity: Severity::Info, subject, text });
    }

    pub(super) fn tell_reign(&mut self, reign: &Reign) {
        let severity = match reign.cause {
            Cause::Switchover => Severity::Info,
            _ => Severity::Warning,
        };
        let text = format!("{} leads in term {}, after a {}", reign.name, reign.term, reign.cause);
        self.event(reign.position, reign.since, Event { severity, subject: "cluster".to_owned(), text });
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn set_alarm(
        &mut self,
        at: Position,
        stamp: Stamp,
        kind: AlarmKind,
        subject: String,
        raised: bool,
        severity: Severity,
        text: String,
    ) -> Outcome {
        let named = match subject.as_str() {
            "" => "cluster".to_owned(),
            subject => format!("{}/{subject}", kind.subject_kind()),
        };
        let key = (kind, subject);
        let standing = self.state.alarms.get(&key);
        let is_news = match (raised, standing) {
            (true, Some(standing)) => severity > standing.severity,
            (true, None) => true,
            (false, standing) => standing.is_some(),
        };
        if !is_news {
            return Outcome::Done;
        }
        let since = standing.map_or(stamp.at, |standing| standing.since);
        let event = match raised {
            true => {
                let alarm = StandingAlarm { since, severity, text: text.clone() };
                self.state.alarms.insert(key, alarm);
                Event { severity, subject: named, text: format!("alarm {kind}: {text}") }
            }
            false => {
                self.state.alarms.remove(&key);
                Event {
                    severity: Severity::Info,
                    subject: named,
                    text: format!("alarm {kind} is over: {text}"),
                }
            }
        };
        self.touch(Row::Alarms);
        self.event(at, stamp.at, event)
    }
}

/// Who asked for something, and why.
pub(super) fn by(request: &Request) -> String {
    match request.reason.as_str() {
        "" => format!("by {}", request.principal),
        reason => format!("by {}: {reason}", request.principal),
    }
}
