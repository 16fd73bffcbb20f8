//! `holdfast gap`: reads that did not happen, and why.

use wire::proto::v1 as pb;

use super::client::Client;
use super::error::{CliError, Done};
use super::format;
use super::output::{Output, table};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum GapCommand {
    /// List runs of slots without samples, with their causes.
    #[command(
        long_about = "List runs of slots without samples, with their causes. A node lists what it has seen since \
        it started; destinations are sent all of them.\n\n\
        Examples:\n  holdfast gap list\n  holdfast gap list --today --device hall-2/press-1"
    )]
    List {
        /// Only those that ended today.
        #[arg(long)]
        today: bool,
        /// Only those of this device.
        #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
        device: String,
        /// At most this many, the newest.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
}

pub(super) async fn run(mut client: Client, output: Output, command: GapCommand) -> Result<Done, CliError> {
    let GapCommand::List { today, device, limit } = command;
    let since = if today { format::midnight() } else { None };
    let question = pb::ListGapsRequest { since, device, limit };
    let list = client.look(question, async |admin, question| admin.list_gaps(question).await).await?;
    output.show(&list, || render(&list))?;
    Ok(Done::Well)
}

fn render(list: &pb::ListGapsResponse) -> String {
    let row = |gap: &pb::GapRecord| {
        [
            format::moment(gap.from.as_ref()),
            format::moment(gap.to.as_ref()),
            format!("{}/{}", gap.device, gap.group),
            gap.slots.to_string(),
            gap.cause.clone(),
            gap.node.clone(),
            gap.term.to_string(),
        ]
    };
    let header = ["from", "to", "group", "slots", "cause", "node", "term"];
    let since = format::moment(list.known_since.as_ref());
    let mut text =
        table(header, list.gaps.iter().map(row).collect(), &format!("No gaps (known since {since})."));
    let shown = list.gaps.len() as u64;
    if list.total > shown {
        text.push_str(&format!("\nthe newest {shown} of {}; --limit shows more", list.total));
    }
    text
}
