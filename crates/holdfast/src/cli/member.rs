//! `holdfast member`: the nodes of the cluster.

use wire::proto::v1 as pb;

use super::client::Client;
use super::error::{CliError, Done};
use super::format;
use super::output::{Output, table};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum MemberCommand {
    /// List the nodes: who votes, who leads, who can be reached, how far clocks are apart.
    List,
    /// Keep a node from leading, for maintenance; if it leads, it hands over first.
    #[command(
        long_about = "Keep a node from leading, for maintenance. It goes on voting and keeping data. If it \
        leads, it hands over first, and no slot is missed.\n\n\
        Example:\n  holdfast member drain gateway-a --reason 'new power supply'"
    )]
    Drain {
        /// Its name.
        name: String,
        /// Why; kept with it.
        #[arg(long, short, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Let a drained node lead again.
    Resume {
        /// Its name.
        name: String,
        /// Why; kept in the log.
        #[arg(long, short, default_value = "", hide_default_value = true)]
        reason: String,
    },
}

pub(super) async fn run(
    mut client: Client,
    output: Output,
    command: MemberCommand,
) -> Result<Done, CliError> {
    match command {
        MemberCommand::List => {
            let question = |this_node| pb::ListMembersRequest { this_node };
            let list = client
                .look_at_leader(question, async |admin, question| admin.list_members(question).await)
                .await?;
            output.show(&list, || render(&list.members))?;
        }
        MemberCommand::Drain { name, reason } => {
            let question = pb::DrainMemberRequest { name: name.clone(), reason };
            let done =
                client.change(question, async |admin, question| admin.drain_member(question).await).await?;
            output.show(&done, || match done.leader.as_str() {
                "" => format!("{name} does not lead until it is resumed."),
                leader => format!("{leader} leads now; {name} does not until it is resumed."),
            })?;
        }
        MemberCommand::Resume { name, reason } => {
            let question = pb::ResumeMemberRequest { name: name.clone(), reason };
            let done =
                client.change(question, async |admin, question| admin.resume_member(question).await).await?;
            output.show(&done, || format!("{name} may lead again."))?;
        }
    }
    Ok(Done::Well)
}

fn render(members: &[pb::Member]) -> String {
    let row = |member: &pb::Member| {
        let behind = member.behind.map_or_else(|| format::NOTHING.to_owned(), |behind| behind.to_string());
        [
            member.id.to_string(),
            member.name.clone(),
            member.address.clone(),
            standing(member),
            reach(member),
            behind,
            format::offset(member.clock_offset.as_ref()),
            member.free_bytes.map_or_else(|| format::NOTHING.to_owned(), format::bytes),
        ]
    };
    let header = ["id", "name", "address", "role", "state", "behind", "clock", "free"];
    table(header, members.iter().map(row).collect(), "No members: the cluster is not founded yet.")
}

fn standing(member: &pb::Member) -> String {
    let mut words = vec![match (member.leader, member.voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    }];
    if member.role() == pb::member::Role::Witness {
        words.push("witness");
    }
    if member.drained.is_some() {
        words.push("drained");
    }
    words.join(", ")
}

fn reach(member: &pb::Member) -> String {
    use pb::member::Reach;
    let word = match member.reach() {
        Reach::Itself | Reach::Reachable => return "ok".to_owned(),
        Reach::Unspecified => return "not known".to_owned(),
        Reach::Unreachable => "unreachable",
        Reach::Refused => "refused",
    };
    let since = member.since.as_ref().map(|since| format!(" since {}", format::moment(Some(since))));
    let reason = if member.reason.is_empty() { String::new() } else { format!(" ({})", member.reason) };
    format!("{word}{}{reason}", since.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_described_in_the_words_of_the_operator() {
        let member = pb::Member {
            voter: true,
            drained: Some(pb::Standing::default()),
            reach: pb::member::Reach::Unreachable.into(),
            reason: "connection refused".into(),
            ..pb::Member::default()
        };
        assert_eq!(standing(&member), "voter, drained");
        assert_eq!(reach(&member), "unreachable (connection refused)");
    }
}
