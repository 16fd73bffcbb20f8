//! What people can read about later: events, and the alarms that stand.
//!
//! - What a command changed is an event made by its `apply`, with who asked for it and why: the audit trail is the log.
//! - An alarm stands from the command that raised it to the one that clears it, whoever leads meanwhile; raising it
//!   twice is raising it once, unless it has become graver.
//! - Who joins, votes and goes is told by the entry that makes it so. Such an entry bears no time: its event has that of
//!   the last command before it.
//! - A loss of quorum is told by the `Lead` that ends it, because nothing can be told while it lasts.
//! - Events are bounded: the oldest is forgotten for the newest.

use std::collections::BTreeSet;
use std::time::Duration;

use model::command::{Event, Request, Severity, Stamp};
use model::time::in_words;
use model::{AlarmKind, Cause, Position, Timestamp};

use super::Change;
use super::rows::Row;
use super::state::{LoggedEvent, Membership, Reign, StandingAlarm, State};
use crate::outcome::Outcome;

/// How many events are kept.
const EVENTS_KEPT: usize = 2_000;
/// Nobody led for this long: that is a loss of quorum. An election is shorter, even of the slowest profile.
pub const LASTING_LOSS: Duration = Duration::from_secs(10);

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

    /// Says who leads from now on, and whether a majority was missing before. `leaderless` is what the new leader knows
    /// of that.
    pub(super) fn tell_reign(&mut self, reign: &Reign, leaderless: Option<Duration>) {
        let (cause, loss) = (reign.cause, quorum_loss(self.state, reign.since, leaderless));
        let severity = match (cause, &loss) {
            (_, Some(_)) => Severity::Alarm,
            (Cause::Switchover, None) => Severity::Info,
            (_, None) => Severity::Warning,
        };
        let loss = loss.map_or(String::new(), |loss| format!("; {loss}"));
        let text = format!("{} leads in term {}, after a {cause}{loss}", reign.name, reign.term);
        self.event(reign.position, reign.since, Event { severity, subject: "cluster".to_owned(), text });
    }

    /// Says who joins, votes and goes by the membership `after`, before it is in force.
    pub(super) fn tell_members(&mut self, at: Position, after: &Membership) {
        // Founders join nothing: there was no cluster, and no command to take the time from.
        if self.state.reign().is_none() {
            return;
        }
        if let Some((subject, text)) = member_changes(&self.state.membership, after) {
            self.tell(at, self.state.steady.seen, format!("node/{subject}"), text);
        }
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
            // A disk is told of again at each step; which they are is decided by who raises it.
            (true, Some(standing)) if severity == standing.severity => {
                kind == AlarmKind::DiskFilling && text != standing.text
            }
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

/// What can honestly be said about the time before a reign that begins at `now`, if nobody led for long. A new leader
/// that was running knows when it last heard of one, and could not lead without all that was committed since. One that
/// has just started knows only that the log is silent.
fn quorum_loss(state: &State, now: Timestamp, leaderless: Option<Duration>) -> Option<String> {
    state.reign()?;
    if let Some(leaderless) = leaderless {
        let from = now.minus(leaderless);
        let (from, to) = (from.to_utc_seconds(), now.to_utc_seconds());
        let lasted = in_words(leaderless);
        return (leaderless >= LASTING_LOSS).then(|| format!("no quorum from {from} to {to} ({lasted})"));
    }
    // Without a plant nothing is written all the time, so that silence says nothing.
    let silent = now.since(state.steady.seen);
    let is_lasting = silent >= LASTING_LOSS && !state.revisions.is_empty();
    is_lasting.then(|| {
        let (since, to) = (state.steady.seen.to_utc_seconds(), now.to_utc_seconds());
        format!("no quorum until {to}: nothing was committed since {since} ({})", in_words(silent))
    })
}

/// Whom a change of membership concerns, and what it does; nothing while it is under way.
fn member_changes(before: &Membership, after: &Membership) -> Option<(String, String)> {
    let settled = |membership: &Membership| membership.configs.first().cloned().unwrap_or_default();
    let (voted, votes) = (settled(before), settled(after));
    let members = |membership: &Membership| membership.nodes.keys().copied().collect::<BTreeSet<u64>>();
    let (were, are) = (members(before), members(after));
    let name = |id: u64| {
        let member = after.nodes.get(&id).or_else(|| before.nodes.get(&id));
        member.map_or_else(|| format!("#{id}"), |member| member.name.clone())
    };
    let named = |id: u64| format!("{} (#{id})", name(id));
    let come: Vec<u64> = votes.difference(&voted).copied().collect();
    let gone: Vec<u64> = were.difference(&are).copied().collect();
    if let ([new], [old]) = (come.as_slice(), gone.as_slice()) {
        let text = format!("{} votes in place of {}, which is no member any more", named(*new), named(*old));
        return Some((name(*old), text));
    }
    let joined = are.difference(&were).filter(|id| !votes.contains(id)).map(|id| {
        let address = after.nodes.get(id).map_or("", |member| member.address.as_str());
        (*id, format!("{} joins as a learner, at {address}", named(*id)))
    });
    let promoted = come.iter().map(|id| (*id, format!("{} votes", named(*id))));
    let demoted = voted.difference(&votes).filter(|id| are.contains(id));
    let demoted = demoted.map(|id| (*id, format!("{} votes no longer", named(*id))));
    let removed = gone.iter().map(|id| (*id, format!("{} is no member any more", named(*id))));
    let changes: Vec<(u64, String)> = joined.chain(promoted).chain(demoted).chain(removed).collect();
    let subject = name(changes.first()?.0);
    let texts: Vec<String> = changes.into_iter().map(|(_, text)| text).collect();
    Some((subject, texts.join("; ")))
}
