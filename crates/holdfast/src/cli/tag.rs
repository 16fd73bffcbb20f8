//! `holdfast tag`: the tags of the plant.

use wire::proto::v1 as pb;

use super::client::Client;
use super::error::{CliError, Done};
use super::format;
use super::output::{Output, table};

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
}

pub(super) async fn run(mut client: Client, output: Output, command: TagCommand) -> Result<Done, CliError> {
    let TagCommand::List { patterns, system, limit } = command;
    let question = pb::ListTagsRequest { patterns, system, limit };
    let list = client.look(question, async |admin, question| admin.list_tags(question).await).await?;
    output.show(&list, || render(&list))?;
    Ok(Done::Well)
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
