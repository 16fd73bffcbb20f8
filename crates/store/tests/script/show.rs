//! What scripts print.

use std::fmt::Write as _;

use holdfast_store::ledger::EffectRecord;
use holdfast_store::{BatchOutcome, Outcome};

use super::arguments::seconds;
use super::machine::Machine;

pub(super) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Appended { batches, .. } => batches.iter().map(batch).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn batch(outcome: &BatchOutcome) -> String {
    match outcome {
        BatchOutcome::Accepted => "accepted".to_owned(),
        BatchOutcome::Already => "already".to_owned(),
        BatchOutcome::Expected { sequence } => format!("expected {sequence}"),
        BatchOutcome::RevisionGone => "revision gone".to_owned(),
        BatchOutcome::Stale { grid } => format!("stale (grid {grid})"),
        BatchOutcome::Fenced => "fenced".to_owned(),
    }
}

pub(super) fn record(machine: &Machine, record: &EffectRecord) -> String {
    match record {
        EffectRecord::Gap { group, grid, line, first, last, cause, .. } => format!(
            "gap {} grid {grid} slots {first}-{last}, {} to {}, {cause}",
            machine.group_name(*group),
            seconds(line.nominal(*first).0),
            seconds(line.nominal(last + 1).0),
        ),
        EffectRecord::Opening { group, grid, line, replaces, cause } => {
            let replaces = replaces.map_or(String::new(), |grid| format!(", replaces {grid}"));
            format!(
                "opening {} grid {grid}, first {} period {}{replaces}, {cause}",
                machine.group_name(*group),
                seconds(line.first.0),
                seconds(line.period.as_nanos() as i64),
            )
        }
        EffectRecord::Expiry { destination, id, from, to, cause, samples } => {
            format!("expiry {destination} (#{id}) {from} to {to}, {samples} samples, {cause}")
        }
    }
}

pub(super) fn show(machine: &Machine, what: &str) -> String {
    let lines = match what {
        "grids" => grids(machine),
        "effects" => effects(machine),
        "cursors" => cursors(machine),
        "horizon" => vec![horizon(machine)],
        "sessions" => sessions(machine),
        "reigns" => reigns(machine),
        "revisions" => revisions(machine),
        "quarantine" => quarantine(machine),
        "standing" => standing(machine),
        "members" => members(machine),
        "relapses" => relapses(machine),
        "events" => events(machine),
        "staged" => staged(machine),
        "alarms" => alarms(machine),
        "node-tags" => node_tags(machine),
        "account" => account(machine),
        other => panic!("nothing is known of {other}"),
    };
    if lines.is_empty() {
        return format!("no {what}\n");
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

fn grids(machine: &Machine) -> Vec<String> {
    let line = |(group, grid): (_, &holdfast_store::ledger::Grid)| {
        format!(
            "{} grid {} first {} period {} next {}, touched at {}",
            machine.group_name(group),
            grid.id,
            seconds(grid.line.first.0),
            seconds(grid.line.period.as_nanos() as i64),
            grid.next,
            grid.touched
        )
    };
    machine.state().grids.iter().map(|(group, grid)| line((*group, grid))).collect()
}

fn staged(machine: &Machine) -> Vec<String> {
    let line = |staged: &holdfast_store::staging::Staged| {
        let parts: Vec<&u32> = staged.received.keys().collect();
        format!("since {}: parts {parts:?} of {}", staged.since, staged.parts)
    };
    let mut all: Vec<_> = machine.state().staged.values().collect();
    all.sort_by_key(|staged| staged.since);
    all.into_iter().map(line).collect()
}

fn effects(machine: &Machine) -> Vec<String> {
    let mut lines = Vec::new();
    for (position, effects) in &machine.state().effects {
        if !effects.refused.is_empty() {
            lines.push(format!("{position}: refused {:?}", effects.refused));
        }
        lines.extend(effects.records.iter().map(|effect| format!("{position}: {}", record(machine, effect))));
    }
    lines
}

fn cursors(machine: &Machine) -> Vec<String> {
    let destinations = machine.state().destinations.iter();
    destinations
        .map(|(id, destination)| {
            let kind = if destination.required { "required" } else { "optional" };
            let paused = if destination.paused.is_some() { ", paused" } else { "" };
            format!("{} (#{id}) {} {kind}{paused}", destination.name, destination.cursor)
        })
        .collect()
}

fn horizon(machine: &Machine) -> String {
    let state = machine.state();
    format!(
        "horizon {}, last deliverable {}, delivered {}, snapshots up to {}, applied {}",
        state.horizon,
        state.last_deliverable,
        state.delivered_horizon(),
        state.snapshot_limit(),
        state.applied_position()
    )
}

fn sessions(machine: &Machine) -> Vec<String> {
    let sessions = machine.state().sessions.iter();
    sessions
        .map(|(id, session)| {
            let number = u128::from_be_bytes(*id.as_bytes());
            format!("s{number} last {}, used {}", session.last, seconds(session.used.as_nanos() as i64))
        })
        .collect()
}

fn reigns(machine: &Machine) -> Vec<String> {
    let reigns = machine.state().reigns.iter();
    reigns
        .map(|reign| {
            format!(
                "{}: term {} node {} {}, {}, since {}",
                reign.position,
                reign.term,
                reign.node,
                reign.name,
                reign.cause,
                seconds(reign.since.0)
            )
        })
        .collect()
}

fn revisions(machine: &Machine) -> Vec<String> {
    let revisions = machine.state().revisions.iter();
    revisions
        .map(|(id, revision)| {
            let plant = revision.catalog.as_ref().map(|catalog| catalog.plant());
            let devices: Vec<_> =
                plant.iter().flat_map(|plant| &plant.devices).map(|device| device.id.as_str()).collect();
            format!(
                "{id}: at {}, {} by {}: {devices:?}",
                revision.position,
                seconds(revision.at.0),
                revision.principal
            )
        })
        .collect()
}

fn quarantine(machine: &Machine) -> Vec<String> {
    let records = machine.state().quarantine.iter();
    records
        .map(|((id, position, ordinal), record)| {
            let retry = if record.retry { ", to be retried" } else { "" };
            format!("#{id} {position}/{ordinal}: {}{retry}", record.reason)
        })
        .chain(
            machine
                .state()
                .destinations
                .iter()
                .filter(|(_, destination)| destination.given_up > 0)
                .map(|(id, destination)| format!("#{id}: {} given up", destination.given_up)),
        )
        .chain(machine.state().destinations.iter().filter_map(|(id, destination)| {
            let (accepted, refused) = (destination.accepted_again, destination.refused_again);
            (accepted + refused > 0)
                .then(|| format!("#{id}: {accepted} accepted at last, {refused} refused again"))
        }))
        .collect()
}

fn standing(machine: &Machine) -> Vec<String> {
    let state = machine.state();
    let text = |what: String, order: &holdfast_store::ledger::Standing| {
        let until = order.until.map_or(String::new(), |end| {
            let steady = i64::try_from(end.steady.as_nanos()).expect("a short script");
            format!(", until {}, when command time is {}", seconds(end.at.0), seconds(steady))
        });
        format!("{what} by {} at {}{until}", order.principal, seconds(order.at.0))
    };
    let mut lines: Vec<_> =
        state.disabled.iter().map(|(id, order)| text(format!("device {id} disabled"), order)).collect();
    lines.extend(state.drained.iter().map(|(id, order)| text(format!("node {id} drained"), order)));
    for destination in state.destinations.values() {
        let paused = destination.paused.iter();
        lines.extend(paused.map(|order| text(format!("destination {} paused", destination.name), order)));
    }
    lines
}

fn members(machine: &Machine) -> Vec<String> {
    let state = machine.state();
    let line = |(id, name): (&model::NodeId, &String)| {
        let removed = if state.was_removed(*id) { ", removed" } else { "" };
        format!("{id} {name}{removed}")
    };
    state.node_names.iter().map(line).collect()
}

fn relapses(machine: &Machine) -> Vec<String> {
    machine.state().relapses.iter().map(|(node, count)| format!("node {node}: {count}")).collect()
}

fn events(machine: &Machine) -> Vec<String> {
    let events = machine.state().events.iter();
    events
        .map(|(position, logged)| {
            let event = &logged.event;
            format!(
                "{position}: {} {:?} {}: {}",
                seconds(logged.at.0),
                event.severity,
                event.subject,
                event.text
            )
        })
        .collect()
}

fn alarms(machine: &Machine) -> Vec<String> {
    let alarms = machine.state().alarms.iter();
    alarms
        .map(|((kind, subject), alarm)| {
            format!("{kind} {subject} since {}: {}", seconds(alarm.since.0), alarm.text)
        })
        .collect()
}

fn node_tags(machine: &Machine) -> Vec<String> {
    let state = machine.state();
    let names = state.node_names.values().map(|name| format!("$node/{name}/up"));
    let number = |name: &String| state.catalog()?.tag_named(name).map(|tag| tag.id);
    names.filter_map(|name| Some(format!("{name} #{}", number(&name)?))).collect()
}

fn account(machine: &Machine) -> Vec<String> {
    let mut lines = Vec::new();
    for ((group, grid), said) in &machine.account {
        let mut line = format!("{} grid {grid}:", machine.group_name(*group));
        let mut runs: Vec<super::machine::Said> = Vec::new();
        for said in said {
            match runs.last_mut() {
                // Records of gaps stay apart, so that their number can be seen.
                Some(run) if run.by == said.by && run.by == "samples" => run.last = said.last,
                _ => runs.push(said.clone()),
            }
        }
        for run in runs {
            write!(line, " {}-{} {};", run.first, run.last, run.by).expect("a string takes everything");
        }
        lines.push(line);
    }
    lines
}
