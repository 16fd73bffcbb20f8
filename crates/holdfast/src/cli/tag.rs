//! `holdfast tag`: the tags of the plant, and what they say.

use std::time::Duration;

use wire::proto::v1 as pb;
use wire::times::{duration_to_proto, timestamp_from_proto};

use super::client::Client;
use super::error::{CliError, Done};
use super::output::{Output, table};
use super::{following, format, probe};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum TagCommand {
    /// List tags with type, unit, address, period and destinations.
    #[command(
        long_about = "List tags with type, unit, address (both notations), period and destinations.\n\n\
        Examples:\n  holdfast tag list\n  holdfast tag list 'hall-2/**' '!**/debug/**'\n  holdfast tag list --system"
    )]
    List {
        /// Patterns as in routes; all tags by default.
        patterns: Vec<String>,
        /// Also those that the cluster itself writes.
        #[arg(long)]
        system: bool,
        /// At most this many.
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        limit: u32,
    },
    /// Read tags from their devices now.
    #[command(
        long_about = "Read tags from their devices now, from the node that leads. What is read here is not \
        recorded.\n\nExamples:\n  holdfast tag read hall-2/press-1/level\n  \
        holdfast tag read --raw hall-2/press-1/level      (its words, and what every word order makes of them)"
    )]
    Read {
        /// Full ids of polled tags.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Show the words, and what they say in every word order.
        #[arg(long)]
        raw: bool,
    },
    /// Show readings as they are recorded, until Ctrl-C.
    #[command(
        long_about = "Show readings as they are recorded, until Ctrl-C: of several readings of a tag in one interval \
        the newest.\n\nExamples:\n  holdfast tag watch 'hall-2/**'\n  holdfast tag watch --every 200ms --for 10s -o json"
    )]
    Watch {
        /// Patterns as in routes; all tags by default.
        patterns: Vec<String>,
        /// How often to look, at least 100ms.
        #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "1s")]
        every: Duration,
        /// End after this time.
        #[arg(long = "for", value_name = "DURATION", value_parser = super::duration)]
        duration: Option<Duration>,
    },
}

pub(super) async fn run(mut client: Client, output: Output, command: TagCommand) -> Result<Done, CliError> {
    match command {
        TagCommand::List { patterns, system, limit } => {
            let question = pb::ListTagsRequest { patterns, system, limit };
            let list = client.look(question, async |admin, question| admin.list_tags(question).await).await?;
            output.show(&list, || render(&list))?;
        }
        TagCommand::Read { ids, raw } => {
            let question = pb::ReadTagsRequest { ids };
            let read = client.look(question, async |admin, question| admin.read_tags(question).await).await?;
            output.show(&read, || match raw {
                true => probe::render_raw(&read.probes),
                false => probe::render(&read.probes),
            })?;
            let is_read = |probe: &pb::Probe| probe.error.is_empty();
            return Ok(if read.probes.iter().all(is_read) { Done::Well } else { Done::Badly });
        }
        TagCommand::Watch { patterns, every, duration } => {
            let question = pb::WatchTagsRequest { patterns, interval: Some(duration_to_proto(every)) };
            following(duration, watch(client, output, question)).await?;
        }
    }
    Ok(Done::Well)
}

/// Shows what is recorded; goes on at another node when one stops.
async fn watch(mut client: Client, output: Output, question: pb::WatchTagsRequest) -> Result<(), CliError> {
    loop {
        let asked =
            client.stream(question.clone(), async |admin, question| admin.watch_tags(question).await).await;
        let mut answers = asked?;
        while let Ok(Some(answer)) = answers.message().await {
            output.show_line(&answer, || render_watched(&answer))?;
        }
    }
}

fn render_watched(answer: &pb::WatchTagsResponse) -> String {
    let line = |watched: &pb::WatchedReading| {
        let at = watched.reading.as_ref().and_then(|reading| reading.source_time.as_ref());
        let at = at.map_or_else(String::new, |at| timestamp_from_proto(at).to_local_time_of_day());
        let value = probe::reading(watched.reading.as_ref());
        format!("{at}  {}  {value} {}", watched.tag, watched.unit).trim_end().to_owned()
    };
    let mut lines: Vec<String> = answer.readings.iter().map(line).collect();
    if answer.skipped > 0 {
        lines.push(format!("({} entries of the log were passed over: too much to show)", answer.skipped));
    }
    if answer.more > 0 {
        lines.push(format!("({} more tags have readings: name fewer to see them)", answer.more));
    }
    lines.join("\n")
}

fn render(list: &pb::ListTagsResponse) -> String {
    let row = |tag: &pb::Tag| {
        [
            tag.id.clone(),
            tag.r#type.clone(),
            format::or_nothing(&tag.unit),
            format::or_nothing(&tag.address),
            format::duration(tag.period.as_ref()),
            format::or_nothing(&tag.destinations.join(", ")),
            format::or_nothing(&tag.description),
        ]
    };
    let header = ["tag", "type", "unit", "address", "period", "sent to", "about"];
    let mut text = table(header, list.tags.iter().map(row).collect(), "No such tags.");
    let shown = list.tags.len() as u64;
    if list.total > shown {
        text.push_str(&format!("\n{shown} of {} tags; --limit shows more", list.total));
    }
    text
}
