//! `holdfast event`: what happened.

use std::time::Duration;

use wire::proto::v1 as pb;

use super::client::Client;
use super::error::{CliError, Done};
use super::output::{Output, table};
use super::{following, format};

/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum EventCommand {
    /// List events, the oldest first.
    #[command(long_about = "List events, the oldest first.\n\n\
        Examples:\n  holdfast event list --severity warning\n  holdfast event list --subject device/hall-2/")]
    List {
        #[command(flatten)]
        which: WhichArgs,
        /// At most this many, the newest.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
    /// Show the newest events, and further ones as they happen, until Ctrl-C.
    #[command(long_about = "Show the newest events, and further ones as they happen, until Ctrl-C.\n\n\
        Examples:\n  holdfast event tail\n  holdfast event tail --severity alarm -o json")]
    Tail {
        #[command(flatten)]
        which: WhichArgs,
        /// At most this many that happened before.
        #[arg(long, value_name = "N", default_value_t = 10)]
        limit: u32,
        /// End after this time.
        #[arg(long = "for", value_name = "DURATION", value_parser = super::duration)]
        duration: Option<Duration>,
    },
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct WhichArgs {
    /// Only those at least this grave.
    #[arg(long, value_name = "SEVERITY", value_parser = ["info", "warning", "alarm"], default_value = "info")]
    severity: String,
    /// Only those whose subject begins with this.
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    subject: String,
}

pub(super) async fn run(mut client: Client, output: Output, command: EventCommand) -> Result<Done, CliError> {
    match command {
        EventCommand::List { which, limit } => {
            let list = look(&mut client, &which, 0, limit).await?;
            output.show(&list, || render(&list.events))?;
        }
        EventCommand::Tail { which, limit, duration } => {
            following(duration, tail(client, output, which, limit)).await?;
        }
    }
    Ok(Done::Well)
}

async fn look(
    client: &mut Client,
    which: &WhichArgs,
    after: u64,
    limit: u32,
) -> Result<pb::ListEventsResponse, CliError> {
    let WhichArgs { severity, subject } = which.clone();
    let question = pb::ListEventsRequest { after, subject, severity, limit };
    client.look(question, async |admin, question| admin.list_events(question).await).await
}

async fn tail(mut client: Client, output: Output, which: WhichArgs, before: u32) -> Result<(), CliError> {
    let (mut seen, mut limit) = (0, before.max(1));
    loop {
        for event in look(&mut client, &which, seen, limit).await?.events {
            output.show_line(&event, || row(&event).join("  "))?;
            seen = event.position;
        }
        limit = 0;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn row(event: &pb::Event) -> [String; 4] {
    [format::moment(event.at.as_ref()), event.severity.clone(), event.subject.clone(), event.text.clone()]
}

fn render(events: &[pb::Event]) -> String {
    table(["at", "severity", "subject", "event"], events.iter().map(row).collect(), "No events.")
}
