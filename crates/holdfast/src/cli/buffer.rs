//! `holdfast buffer`: what is kept until it is delivered.

use wire::proto::v1 as pb;

use super::client::Client;
use super::error::{CliError, Done};
use super::format;
use super::output::{Output, table};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum BufferCommand {
    /// Show how much is kept, and where everything stands, on the node that answers.
    Stats,
    /// List entries of the buffer on the node that answers: what they are, and how much is in them.
    #[command(
        long_about = "List entries of the buffer on the node that answers: what they are, and how much is in \
        them. Values are not shown: `holdfast tag watch` does.\n\n\
        Examples:\n  holdfast buffer peek\n  holdfast buffer peek --from 48213 --limit 5"
    )]
    Peek {
        /// From this position on; the newest by default.
        #[arg(long, value_name = "POSITION", default_value_t = 0, hide_default_value = true)]
        from: u64,
        /// At most this many.
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: u32,
    },
}

pub(super) async fn run(
    mut client: Client,
    output: Output,
    command: BufferCommand,
) -> Result<Done, CliError> {
    match command {
        BufferCommand::Stats => {
            let question = pb::GetBufferStatsRequest {};
            let stats =
                client.look(question, async |admin, question| admin.get_buffer_stats(question).await).await?;
            output.show(&stats, || render(&stats))?;
        }
        BufferCommand::Peek { from, limit } => {
            let question = pb::PeekBufferRequest { from, limit };
            let peeked =
                client.look(question, async |admin, question| admin.peek_buffer(question).await).await?;
            output.show(&peeked, || render_entries(&peeked))?;
        }
    }
    Ok(Done::Well)
}

fn render_entries(peeked: &pb::PeekBufferResponse) -> String {
    let row = |entry: &pb::BufferEntry| {
        let count = |number: u64| if number == 0 { format::NOTHING.to_owned() } else { number.to_string() };
        [
            entry.position.to_string(),
            entry.term.to_string(),
            entry.kind.clone(),
            format::moment(entry.at.as_ref()),
            format::bytes(entry.bytes),
            count(u64::from(entry.batches)),
            count(u64::from(entry.refused)),
            count(entry.samples),
            count(u64::from(entry.records)),
        ]
    };
    let header = ["position", "term", "kind", "at", "size", "batches", "refused", "samples", "records"];
    let nothing = format!("Nothing is kept there: delivered and truncated up to {}.", peeked.horizon);
    table(header, peeked.entries.iter().map(row).collect(), &nothing)
}

fn render(stats: &pb::BufferStats) -> String {
    let mut lines = vec![
        format!("undelivered  {} entries", stats.undelivered_entries),
        format!("on disk      {} of {}", format::bytes(stats.disk_bytes), format::bytes(stats.max_bytes)),
    ];
    lines.extend(stats.free_bytes.map(|free| format!("free         {}", format::bytes(free))));
    lines.extend([
        format!("last         {}", stats.last),
        format!("committed    {}", stats.committed),
        format!("applied      {}", stats.applied),
        format!("horizon      {}  (everything up to here is delivered)", stats.horizon),
        format!("floor        {}  (everything up to here is removed)", stats.floor),
    ]);
    lines.join("\n")
}
