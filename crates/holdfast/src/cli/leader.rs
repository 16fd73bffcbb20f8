//! `holdfast leader`: who leads, and handing leadership over.

use wire::proto::v1 as pb;
use wire::times::timestamp_from_proto;

use super::client::Client;
use super::error::{CliError, Done};
use super::format;
use super::output::Output;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum LeaderCommand {
    /// Say who leads, in which term, and since when.
    Show,
    /// Hand leadership over; no slot is missed.
    #[command(
        long_about = "Hand leadership over: running scans are finished first, so that no slot is missed.\n\n\
        Examples:\n  holdfast leader transfer\n  holdfast leader transfer --to gateway-b"
    )]
    Transfer {
        /// The next leader; by default the most preferred node that is well.
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        to: String,
        /// Why; kept in the log.
        #[arg(long, short, default_value = "", hide_default_value = true)]
        reason: String,
    },
}

pub(super) async fn run(
    mut client: Client,
    output: Output,
    command: LeaderCommand,
) -> Result<Done, CliError> {
    match command {
        LeaderCommand::Show => {
            let question = pb::GetStatusRequest { this_node: false, gaps_since: None };
            let status =
                client.look(question, async |admin, question| admin.get_status(question).await).await?;
            let leader = status.leader.clone().unwrap_or_default();
            output.show(&leader, || match &status.leader {
                Some(leader) => render(leader),
                None => "Nobody is known to lead: no majority of the nodes answers.".to_owned(),
            })?;
            Ok(if status.leader.is_some() { Done::Well } else { Done::WithoutQuorum })
        }
        LeaderCommand::Transfer { to, reason } => {
            let question = pb::TransferLeadershipRequest { to, reason };
            let done = client
                .change(question, async |admin, question| admin.transfer_leadership(question).await)
                .await?;
            output.show(&done, || match done.from == done.to {
                true => format!("{} leads already (term {}).", done.to, done.term),
                false => format!("{} leads now (term {}), {} before.", done.to, done.term, done.from),
            })?;
            Ok(Done::Well)
        }
    }
}

fn render(leader: &pb::Leader) -> String {
    let mut text = format!("{} (term {})", leader.name, leader.term);
    if let Some(since) = &leader.since {
        text.push_str(&format!(", since {}", timestamp_from_proto(since).to_local()));
    }
    if !leader.cause.is_empty() {
        text.push_str(&format!(", after a {}", leader.cause));
    }
    if leader.lease.is_some() {
        text.push_str(&format!("; its lease lasts {}", format::duration(leader.lease.as_ref())));
    }
    text
}
