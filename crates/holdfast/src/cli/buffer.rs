//! `holdfast buffer`: what is kept until it is delivered.

use wire::proto::v1 as pb;

use super::client::Client;
use super::error::{CliError, Done};
use super::format;
use super::output::Output;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum BufferCommand {
    /// Show how much is kept, and where everything stands, on the node that answers.
    Stats,
}

pub(super) async fn run(
    mut client: Client,
    output: Output,
    command: BufferCommand,
) -> Result<Done, CliError> {
    let BufferCommand::Stats = command;
    let question = pb::GetBufferStatsRequest {};
    let stats = client.look(question, async |admin, question| admin.get_buffer_stats(question).await).await?;
    output.show(&stats, || render(&stats))?;
    Ok(Done::Well)
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
