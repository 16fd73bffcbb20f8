//! `holdfast quarantine`: records that a destination refused for good.

use wire::proto::v1 as pb;

use super::client::Client;
use super::error::{CliError, Done};
use super::format;
use super::output::{Output, table};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum QuarantineCommand {
    /// List refused records with what the destination said.
    List {
        /// Only those of this destination.
        #[arg(default_value = "", hide_default_value = true)]
        destination: String,
        /// At most this many.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
    /// Show a refused record as it was sent, with what the destination said.
    Show {
        /// The destination.
        destination: String,
        /// The record's key.
        #[arg(value_name = "KEY")]
        record: String,
    },
    /// Offer refused records again.
    #[command(long_about = "Offer refused records to their destination again.\n\n\
        Examples:\n  holdfast quarantine retry historian --all\n  \
        holdfast quarantine retry historian 0f3k9q2m/48213/17")]
    Retry {
        /// The destination.
        destination: String,
        /// Keys of the records.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        keys: Vec<String>,
        /// All that it has refused.
        #[arg(long)]
        all: bool,
        /// Why; kept in the log.
        #[arg(long, short, default_value = "", hide_default_value = true)]
        reason: String,
    },
}

pub(super) async fn run(
    mut client: Client,
    output: Output,
    command: QuarantineCommand,
) -> Result<Done, CliError> {
    match command {
        QuarantineCommand::List { destination, limit } => {
            let question = pb::ListQuarantineRequest { destination, limit, keys: Vec::new() };
            let list =
                client.look(question, async |admin, question| admin.list_quarantine(question).await).await?;
            output.show(&list, || render(&list))?;
        }
        QuarantineCommand::Show { destination, record } => {
            let question = pb::ListQuarantineRequest { destination, limit: 1, keys: vec![record] };
            let list =
                client.look(question, async |admin, question| admin.list_quarantine(question).await).await?;
            let Some(record) = list.records.first() else { return Ok(Done::Badly) };
            output.show(record, || render_one(record))?;
        }
        QuarantineCommand::Retry { destination, keys, all, reason } => {
            let question = pb::RetryQuarantineRequest { destination, keys, all, reason };
            let done = client
                .change(question, async |admin, question| admin.retry_quarantine(question).await)
                .await?;
            output.show(&done, || render_retried(&done))?;
            if done.accepted < done.records {
                return Ok(Done::Badly);
            }
        }
    }
    Ok(Done::Well)
}

fn render_retried(done: &pb::RetryQuarantineResponse) -> String {
    if done.records == 0 {
        return "Nothing is in quarantine.".to_owned();
    }
    let mut lines = vec![format!("{} records are offered again: {} accepted.", done.records, done.accepted)];
    if done.refused > 0 {
        lines.push(format!("{} were refused again: `holdfast quarantine list` says why.", done.refused));
    }
    if done.waiting > 0 {
        let text = "still wait for their turn: `holdfast destination show` says how it does.";
        lines.push(format!("{} {text}", done.waiting));
    }
    lines.join("\n")
}

fn render_one(record: &pb::QuarantinedRecord) -> String {
    let state = if record.retrying { "is about to be offered again" } else { "held" };
    [
        format!("destination  {}", record.destination),
        format!("key          {}", record.key),
        format!("refused      {}", format::moment(record.at.as_ref())),
        format!("reason       {}", format::or_nothing(&record.reason)),
        format!("state        {state}"),
        format!("record       {}", record.record),
    ]
    .join("\n")
}

fn render(list: &pb::ListQuarantineResponse) -> String {
    let row = |record: &pb::QuarantinedRecord| {
        [
            record.destination.clone(),
            record.key.clone(),
            format::moment(record.at.as_ref()),
            if record.retrying { "retrying" } else { "held" }.to_owned(),
            format::or_nothing(&record.reason),
        ]
    };
    let header = ["destination", "key", "refused", "state", "reason"];
    let mut text = table(header, list.records.iter().map(row).collect(), "Nothing is in quarantine.");
    let shown = list.records.len() as u64;
    if list.total > shown {
        text.push_str(&format!("\n{shown} of {} records; --limit shows more", list.total));
    }
    text
}
