//! `holdfast status`: the verdict first, then only what is wrong, then the rest.

use std::time::Duration;

use model::Timestamp;
use wire::proto::v1 as pb;
use wire::times::{duration_from_proto, timestamp_from_proto};

use super::client::Client;
use super::error::{CliError, Done};
use super::format;
use super::output::{Output, Tone};

/// Alarms that are listed; more are counted.
const LISTED: usize = 20;
/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How the cluster is doing.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "How the cluster is doing: the verdict first, then only what is wrong, then the rest.\n\n\
    OK        nothing is wrong\n\
    DEGRADED  work goes on, and something is wrong\n\
    DOWN      no majority of the nodes answers: nothing is read, accepted or delivered\n\n\
    Examples:\n  holdfast status\n  holdfast status --watch\n  holdfast status --check || page-somebody"
)]
pub(crate) struct StatusArgs {
    /// Look again every second, until Ctrl-C.
    #[arg(long, short, conflicts_with = "check")]
    watch: bool,
    /// Exit with 1 on any alarm, for monitoring systems.
    #[arg(long)]
    check: bool,
}

pub(super) async fn run(mut client: Client, output: Output, args: StatusArgs) -> Result<Done, CliError> {
    if args.watch {
        return watch(client, output).await;
    }
    let status = look(&mut client).await?;
    output.show(&status, || render(&status, format::now(), &output))?;
    let failed = args.check && !status.alarms.is_empty();
    Ok(if failed { Done::Badly } else { Done::Well })
}

async fn look(client: &mut Client) -> Result<pb::ClusterStatus, CliError> {
    let question = pb::GetStatusRequest { this_node: false, gaps_since: format::midnight() };
    client.look(question, async |admin, question| admin.get_status(question).await).await
}

async fn watch(client: Client, output: Output) -> Result<Done, CliError> {
    // Also while nobody answers, which may take long.
    tokio::select! {
        ended = show_again_and_again(client, output) => ended,
        _ = tokio::signal::ctrl_c() => Ok(Done::Well),
    }
}

async fn show_again_and_again(mut client: Client, output: Output) -> Result<Done, CliError> {
    loop {
        // Somebody who watches wants to see it come back: a cluster that cannot be reached is a state like another.
        let seen = look(&mut client).await;
        if !output.is_json() {
            output.clear()?;
        }
        match seen {
            Ok(status) => output.show(&status, || render(&status, format::now(), &output))?,
            Err(error @ (CliError::NotReached(_) | CliError::Refused(_))) => {
                super::complain(&error.to_string());
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The picture.
fn render(status: &pb::ClusterStatus, now: Timestamp, output: &Output) -> String {
    let mut lines = vec![headline(status, now, output)];
    let told: Vec<&pb::Alarm> = status.alarms.iter().filter(|alarm| !is_in_headline(alarm)).collect();
    let width = told.iter().take(LISTED).map(|alarm| subject(alarm).chars().count()).max().unwrap_or(0);
    for alarm in told.iter().take(LISTED) {
        let tone = if alarm.severe { Tone::Bad } else { Tone::Warning };
        let mark = output.paint(tone, "!");
        lines.push(format!("  {mark} {:width$}  {}", subject(alarm), complaint(alarm, status, now)));
    }
    if told.len() > LISTED {
        lines.push(format!(
            "  {} and {} more: holdfast alarm list",
            output.paint(Tone::Bad, "!"),
            told.len() - LISTED
        ));
    }
    lines.push(format!("  {} {}", output.paint(Tone::Good, "ok"), rest(status)));
    if let Some(too_much) = status.memory.as_ref().and_then(|memory| too_much(memory, &status.node)) {
        lines.push(format!("  - {too_much}"));
    }
    if let Some(failback) = &status.failback {
        lines.push(format!("  - {}", returning(failback)));
    }
    for waiting in &status.waiting {
        lines.push(format!(
            "  - {} at {} waits to belong: {}",
            waiting.name, waiting.address, waiting.command
        ));
    }
    let asked_leader = status.leader.as_ref().is_some_and(|leader| leader.name == status.node);
    if !asked_leader {
        lines.push(format!(
            "  (as {} sees it; the leader was not asked: devices and destinations may be unknown)",
            status.node
        ));
    }
    lines.join("\n")
}

/// That the node which answers holds more memory than it should, if it does.
fn too_much(memory: &pb::MemoryUse, node: &str) -> Option<String> {
    let resident = memory.resident_bytes.filter(|resident| *resident > memory.limit_bytes)?;
    let (resident, limit) = (format::bytes(resident), format::bytes(memory.limit_bytes));
    Some(format!("{node} holds {resident} of memory, more than its [limits] memory of {limit}"))
}

/// Where leadership should be.
fn returning(failback: &pb::Failback) -> String {
    let to = &failback.to;
    match failback.automatic {
        true => {
            let settle = format::duration(failback.settle.as_ref());
            format!(
                "leadership returns to {to} when it has been well for {settle} (longer after each relapse)"
            )
        }
        false => format!("leadership can return to {to}: holdfast leader transfer --to {to}"),
    }
}

fn headline(status: &pb::ClusterStatus, now: Timestamp, output: &Output) -> String {
    use pb::cluster_status::Verdict;
    let cluster = format::or_nothing(&status.cluster);
    let (tone, word) = match status.verdict() {
        Verdict::Ok => (Tone::Good, "OK"),
        Verdict::Degraded => (Tone::Warning, "DEGRADED"),
        Verdict::Down => (Tone::Bad, "DOWN"),
        Verdict::Unspecified => (Tone::Warning, "UNKNOWN"),
    };
    let reads = match &status.leader {
        Some(leader) => {
            let since =
                leader.since.as_ref().map(|since| format!(", since {}", format::moment_short(since, now)));
            format!("reads run on {} (term {}{})", leader.name, leader.term, since.unwrap_or_default())
        }
        None => "no majority of the nodes answers: nothing is read, accepted or delivered".to_owned(),
    };
    let spare = match (&status.leader, status.may_fail) {
        (None, _) => String::new(),
        (Some(_), 0) => "; no further node may fail".to_owned(),
        (Some(_), 1) => "; one node may fail".to_owned(),
        (Some(_), more) => format!("; {more} nodes may fail"),
    };
    format!("{cluster}  {}  {reads}{spare}", output.paint(tone, word))
}

/// What the first line already says.
fn is_in_headline(alarm: &pb::Alarm) -> bool {
    matches!(alarm.kind(), pb::alarm::Kind::NoQuorum | pb::alarm::Kind::CannotLoseAnotherNode)
}

fn subject(alarm: &pb::Alarm) -> &str {
    if alarm.subject.is_empty() { "cluster" } else { &alarm.subject }
}

/// An alarm with its time, and what waits where something is not delivered.
fn complaint(alarm: &pb::Alarm, status: &pb::ClusterStatus, now: Timestamp) -> String {
    let mut text = alarm.text.clone();
    if let Some(since) = &alarm.since {
        text.push_str(&format!(" since {}", format::moment_short(since, now)));
    }
    if alarm.kind() == pb::alarm::Kind::DestinationStalled
        && let Some(destination) = status.destinations.iter().find(|known| known.id == alarm.subject)
    {
        let limit = status.buffer.map_or(0, |buffer| buffer.max_bytes);
        text.push_str(&format!("; backlog {}", backlog(destination.backlog.unwrap_or_default(), limit)));
    }
    text
}

/// What waits, and how much of the buffer it takes.
fn backlog(backlog: pb::Backlog, limit: u64) -> String {
    let Some(bytes) = backlog.bytes.filter(|bytes| *bytes > 0 && limit > 0) else {
        return format::backlog(Some(&backlog));
    };
    let age = backlog.age.as_ref().and_then(duration_from_proto).filter(|age| !age.is_zero());
    let age = age.map_or(String::new(), |age| format!("{}, ", format::length(age)));
    format!("{age}{} of {}", format::bytes(bytes), format::bytes(limit))
}

fn rest(status: &pb::ClusterStatus) -> String {
    let devices = status.devices.unwrap_or_default();
    let mut parts = vec![format!("devices {}/{}", devices.answering, devices.enabled)];
    if let Some(gaps) = &status.gaps {
        // A node knows no gaps from before its start that were delivered since.
        let partly = gaps.known_since.filter(|since| {
            let midnight = format::midnight().as_ref().map(timestamp_from_proto);
            midnight.is_some_and(|midnight| timestamp_from_proto(since) > midnight)
        });
        let since = partly.map_or("today".to_owned(), |since| {
            format!("since {}", timestamp_from_proto(&since).to_local_time_of_day())
        });
        parts.push(match gaps.times {
            0 => format!("gaps {since} 0"),
            times => {
                let length = format::duration(gaps.duration.as_ref());
                format!("gaps {since} {times} ({length}, {})", gaps.causes.join(", "))
            }
        });
    }
    parts.push(format!("config rev {}", status.revision));
    if let Some(spread) = status.clock_spread.as_ref().and_then(duration_from_proto) {
        parts.push(format!("clocks within {}", format::length(spread.max(Duration::from_millis(1)))));
    }
    if let Some((resident, memory)) = status.memory.and_then(|memory| Some((memory.resident_bytes?, memory)))
    {
        parts.push(format!("memory {} of {}", format::bytes(resident), format::bytes(memory.limit_bytes)));
    }
    if !status.fences.is_empty() {
        parts.push(format!("fences {}", status.fences.join(", ")));
    }
    parts.join("   ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_says_how_leadership_returns() {
        let mut failback = pb::Failback { to: "gateway-a".into(), ..pb::Failback::default() };
        assert!(returning(&failback).ends_with("holdfast leader transfer --to gateway-a"));
        failback.automatic = true;
        failback.settle = Some(wire::times::duration_to_proto(Duration::from_secs(60)));
        assert!(returning(&failback).contains("well for"), "{}", returning(&failback));
    }

    use wire::times::{nanos_to_proto, timestamp_from_proto, timestamp_to_proto};

    use super::super::output::Format;
    use super::*;

    fn degraded() -> pb::ClusterStatus {
        let at = |millis: i64| Some(timestamp_to_proto(Timestamp::from_millis(1_700_000_000_000 + millis)));
        let alarm = |kind: pb::alarm::Kind, subject: &str, text: &str, since| pb::Alarm {
            kind: kind.into(),
            subject: subject.into(),
            text: text.into(),
            since,
            severe: true,
        };
        pb::ClusterStatus {
            cluster: "plant-7".into(),
            verdict: pb::cluster_status::Verdict::Degraded.into(),
            node: "gateway-b".into(),
            at: at(60_000),
            leader: Some(pb::Leader {
                name: "gateway-b".into(),
                term: 9,
                since: at(0),
                ..pb::Leader::default()
            }),
            alarms: vec![
                alarm(pb::alarm::Kind::CannotLoseAnotherNode, "", "no further node may fail", None),
                alarm(pb::alarm::Kind::MemberUnreachable, "gateway-a", "unreachable", at(0)),
                alarm(
                    pb::alarm::Kind::DestinationStalled,
                    "historian",
                    "refusing (401 Unauthorized)",
                    at(-1_440_000),
                ),
            ],
            revision: 41,
            devices: Some(pb::DeviceCounts {
                total: 61,
                enabled: 60,
                answering: 60,
                ..pb::DeviceCounts::default()
            }),
            gaps: Some(pb::GapSummary {
                records: 60,
                times: 1,
                duration: Some(nanos_to_proto(600_000_000)),
                causes: vec!["failover".into()],
                ..pb::GapSummary::default()
            }),
            destinations: vec![pb::Destination {
                id: "historian".into(),
                backlog: Some(pb::Backlog {
                    entries: 9,
                    bytes: Some(1_181_116_006),
                    age: Some(nanos_to_proto(1_440_000_000_000)),
                }),
                ..pb::Destination::default()
            }],
            buffer: Some(pb::BufferStats { max_bytes: 20 << 30, ..pb::BufferStats::default() }),
            clock_spread: Some(nanos_to_proto(3_000_000)),
            memory: Some(pb::MemoryUse { resident_bytes: Some(180 << 20), limit_bytes: 512 << 20 }),
            fences: vec!["lease".into(), "dead-man".into()],
            ..pb::ClusterStatus::default()
        }
    }

    #[test]
    fn the_verdict_comes_first_then_what_is_wrong_then_the_rest() {
        let status = degraded();
        let now = answered_at(&status);
        let time = |millis: i64| Timestamp::from_millis(1_700_000_000_000 + millis).to_local_time_of_day();
        let (since, refusing_since) = (time(0), time(-1_440_000));
        let expected = format!(
            "plant-7  DEGRADED  reads run on gateway-b (term 9, since {since}); no further node may fail\n  \
             ! gateway-a  unreachable since {since}\n  \
             ! historian  refusing (401 Unauthorized) since {refusing_since}; backlog 24 min, 1.1 GiB of 20 GiB\n  \
             ok devices 60/60   gaps today 1 (0.6 s, failover)   config rev 41   clocks within 3 ms   \
             memory 180 MiB of 512 MiB   fences lease, dead-man"
        );
        assert_eq!(render(&status, now, &plain()), expected);
    }

    #[test]
    fn the_picture_in_the_readme_is_what_is_printed() {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
        let readme = std::fs::read_to_string(readme).expect("it is there");
        let picture = readme.split("```").nth(1).expect("it begins with a picture");
        // Whatever the time of day.
        let form = |text: &str| {
            let is_time = |word: &str| word.len() == 8 && word.matches(':').count() == 2;
            let time_out = |word: &str| {
                let bare = word.trim_end_matches([')', ';']);
                if is_time(bare) { word.replace(bare, "TIME") } else { word.to_owned() }
            };
            text.trim()
                .lines()
                .map(|line| line.split(' ').map(time_out).collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
        };
        let status = degraded();
        assert_eq!(form(picture), form(&render(&status, answered_at(&status), &plain())));
    }

    #[test]
    fn more_memory_than_wanted_has_a_line_of_its_own() {
        let mut status = degraded();
        assert!(!render(&status, answered_at(&status), &plain()).contains("holds"));
        status.memory = Some(pb::MemoryUse { resident_bytes: Some(600 << 20), limit_bytes: 512 << 20 });
        let picture = render(&status, answered_at(&status), &plain());
        let line = "  - gateway-b holds 600 MiB of memory, more than its [limits] memory of 512 MiB";
        assert!(picture.lines().any(|seen| seen == line), "{picture}");
    }

    #[test]
    fn without_a_leader_nothing_is_said_to_run() {
        let down = pb::ClusterStatus {
            verdict: pb::cluster_status::Verdict::Down.into(),
            leader: None,
            alarms: Vec::new(),
            node: "gateway-c".into(),
            ..degraded()
        };
        let picture = render(&down, answered_at(&down), &plain());
        assert!(picture.starts_with("plant-7  DOWN  no majority of the nodes answers"), "{picture}");
        assert!(!picture.contains("may fail"), "{picture}");
        assert!(picture.contains("as gateway-c sees it"), "{picture}");
    }

    /// When the answering node answered.
    fn answered_at(status: &pb::ClusterStatus) -> Timestamp {
        status.at.as_ref().map(timestamp_from_proto).expect("every status has its time")
    }

    fn plain() -> Output {
        // Tests do not run on a terminal: no colours.
        Output::new(Format::Table)
    }
}
