//! `holdfast destination`: where records are delivered, and how that is going.

use wire::proto::v1 as pb;

use super::client::Client;
use super::error::{CliError, Done};
use super::format;
use super::output::{Output, table};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum DestinationCommand {
    /// List the destinations: state, since when, backlog, quarantine, why.
    List,
    /// Show one destination.
    Show {
        /// Its id.
        id: String,
    },
    /// Hold deliveries; what is committed meanwhile waits while the buffer has room.
    #[command(
        long_about = "Hold deliveries to a destination. What is committed meanwhile waits while the buffer has room. \
        When that reaches max-bytes, a required destination keeps what waits, and new samples are refused. An optional \
        one (required = false), and with when-full = \"drop-oldest\" any, loses its oldest instead, by record.\n\n\
        Example:\n  holdfast destination pause historian --reason 'upgrade of the historian'"
    )]
    Pause {
        /// Its id.
        id: String,
        /// Why; kept with it.
        #[arg(long, short, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Release deliveries.
    Resume {
        /// Its id.
        id: String,
        /// Why; kept in the log.
        #[arg(long, short, default_value = "", hide_default_value = true)]
        reason: String,
    },
}

pub(super) async fn run(
    mut client: Client,
    output: Output,
    command: DestinationCommand,
) -> Result<Done, CliError> {
    match command {
        DestinationCommand::List => {
            let list = destinations(&mut client, Vec::new()).await?;
            output.show(&list, || render_list(&list.destinations))?;
        }
        DestinationCommand::Show { id } => {
            let list = destinations(&mut client, vec![id]).await?;
            let Some(destination) = list.destinations.first() else { return Ok(Done::Badly) };
            output.show(destination, || render_one(destination))?;
        }
        DestinationCommand::Pause { id, reason } => set_paused(&mut client, output, id, true, reason).await?,
        DestinationCommand::Resume { id, reason } => {
            set_paused(&mut client, output, id, false, reason).await?
        }
    }
    Ok(Done::Well)
}

async fn destinations(
    client: &mut Client,
    ids: Vec<String>,
) -> Result<pb::ListDestinationsResponse, CliError> {
    let question = pb::ListDestinationsRequest { ids, ..Default::default() };
    client.look(question, async |admin, question| admin.list_destinations(question).await).await
}

async fn set_paused(
    client: &mut Client,
    output: Output,
    id: String,
    paused: bool,
    reason: String,
) -> Result<(), CliError> {
    let question = pb::SetDestinationPausedRequest { id: id.clone(), paused, reason };
    let done =
        client.change(question, async |admin, question| admin.set_destination_paused(question).await).await?;
    output.show(&done, || match paused {
        true => format!(
            "{id} is held until `holdfast destination resume {id}`. What is committed waits while the buffer has room; \
             when it is full, new samples are refused, but with `required = false` or `when-full = \"drop-oldest\"` the \
             oldest are given up, by record."
        ),
        false => format!("{id} is released."),
    })?;
    Ok(())
}

fn state(destination: &pb::Destination) -> &'static str {
    use pb::destination::State;
    match destination.state() {
        State::Unspecified => "unknown",
        State::Current => "current",
        State::CatchingUp => "catching up",
        State::Retrying => "retrying",
        State::Stalled => "stalled",
        State::Paused => "paused",
    }
}

fn render_list(destinations: &[pb::Destination]) -> String {
    let row = |destination: &pb::Destination| {
        [
            destination.id.clone(),
            destination.kind.clone(),
            state(destination).to_owned(),
            format::moment(destination.since.as_ref()),
            format::backlog(destination.backlog.as_ref()),
            destination.quarantined.to_string(),
            if destination.required { "yes" } else { "no" }.to_owned(),
            format::or_nothing(&destination.reason),
        ]
    };
    let header = ["destination", "kind", "state", "since", "backlog", "quarantine", "required", "reason"];
    table(header, destinations.iter().map(row).collect(), "No destinations in the plant.")
}

fn quarantine(destination: &pb::Destination) -> String {
    let mut text = format!("{} records", destination.quarantined);
    if destination.retrying > 0 {
        text += &format!(", {} of them about to be offered again", destination.retrying);
    }
    let (accepted, refused) = (destination.accepted_again, destination.refused_again);
    if accepted + refused > 0 {
        text += &format!("; offered again so far: {accepted} accepted, {refused} refused again");
    }
    text
}

fn render_one(destination: &pb::Destination) -> String {
    let cursor = destination.cursor.unwrap_or_default();
    let mut lines = vec![
        format!("destination  {}", destination.id),
        format!("target       {} {}", destination.kind, destination.target),
        format!("state        {} since {}", state(destination), format::moment(destination.since.as_ref())),
        format!("cursor       {}/{}", cursor.position, cursor.ordinal),
        format!("backlog      {}", format::backlog(destination.backlog.as_ref())),
        format!("quarantine   {}", quarantine(destination)),
        format!("required     {}", if destination.required { "yes: it holds back truncation" } else { "no" }),
    ];
    if !destination.reason.is_empty() {
        lines.push(format!("reason       {}", destination.reason));
    }
    if let Some(standing) = &destination.paused {
        lines.push(format!("paused       {}", format::standing(standing)));
    }
    lines.join("\n")
}
