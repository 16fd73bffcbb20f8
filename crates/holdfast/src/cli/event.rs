//! `holdfast event`: what happened.

use wire::proto::v1 as pb;

use super::client::Client;
use super::error::{CliError, Done};
use super::format;
use super::output::{Output, table};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum EventCommand {
    /// List events, the oldest first.
    #[command(long_about = "List events, the oldest first.\n\n\
        Examples:\n  holdfast event list --severity warning\n  holdfast event list --subject device/hall-2/")]
    List {
        /// Only those at least this grave.
        #[arg(long, value_name = "SEVERITY", value_parser = ["info", "warning", "alarm"], default_value = "info")]
        severity: String,
        /// Only those whose subject begins with this.
        #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
        subject: String,
        /// At most this many, the newest.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
}

pub(super) async fn run(mut client: Client, output: Output, command: EventCommand) -> Result<Done, CliError> {
    let EventCommand::List { severity, subject, limit } = command;
    let question = pb::ListEventsRequest { after: 0, subject, severity, limit };
    let list = client.look(question, async |admin, question| admin.list_events(question).await).await?;
    output.show(&list, || render(&list.events))?;
    Ok(Done::Well)
}

fn render(events: &[pb::Event]) -> String {
    let row = |event: &pb::Event| {
        [format::moment(event.at.as_ref()), event.severity.clone(), event.subject.clone(), event.text.clone()]
    };
    table(["at", "severity", "subject", "event"], events.iter().map(row).collect(), "No events.")
}
