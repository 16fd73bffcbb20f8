//! `holdfast member`: the nodes of the cluster.

mod change;

use wire::proto::v1 as pb;

use super::client::Client;
use super::error::{CliError, Done};
use super::format;
use super::output::{Output, table};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum MemberCommand {
    /// List the nodes: who votes, who leads, who can be reached, how far each is; and who waits to be added.
    List,
    /// Add a node; it receives the log and does not vote until it is promoted.
    #[command(
        long_about = "Add a node as a learner: it receives a checkpoint and everything undelivered, and does not \
        vote. Start it first, with an empty data directory and `join = [\"HOST:PORT of any member\"]` in its node file; \
        it says in its log what to type here. When it is caught up, promote it.\n\n\
        The progress is shown until the node is caught up; ending that with Ctrl-C, or --no-wait, leaves the node \
        catching up. Doing it again changes nothing.\n\n\
        Example:\n  holdfast member add gateway-d=10.0.9.14:7610 --reason 'fourth box'\n  \
        holdfast member promote gateway-d"
    )]
    Add {
        /// Its name, as in its node file, and where its peers reach it.
        #[arg(value_name = "NAME=HOST:PORT", value_parser = name_and_address)]
        node: (String, String),
        /// Why; kept in the log.
        #[arg(long, short, default_value = "", hide_default_value = true)]
        reason: String,
        /// Do not wait until it is caught up.
        #[arg(long)]
        no_wait: bool,
    },
    /// Make a node that is caught up a voter.
    #[command(
        long_about = "Make a learner a voter. It is refused, with what is missing, until the node has caught up: a \
        voter that lags would hold the others up.\n\n\
        Example:\n  holdfast member promote gateway-d --wait"
    )]
    Promote {
        /// Its name, or its number as #4.
        name: String,
        /// Why; kept in the log.
        #[arg(long, short, default_value = "", hide_default_value = true)]
        reason: String,
        /// Wait until it is caught up, and show how far it is.
        #[arg(long)]
        wait: bool,
    },
    /// Put a new node in the place of an old one: add, wait, promote the new and remove the old.
    #[command(
        long_about = "Put a new node in the place of an old one, which may be dead or wiped. The new one is added, \
        catches up, and takes the old one's vote in one change; the old one is a stranger from then on. If the old one \
        leads, it hands over first.\n\n\
        Start the new one first, as for `member add`. It may have the name of the old one (a box whose disk was \
        exchanged). If this command is interrupted, type it again: it goes on where it was.\n\n\
        Examples:\n  holdfast member replace gateway-b gateway-d=10.0.9.14:7610 --reason 'board failed'\n  \
        holdfast member replace gateway-b gateway-b=10.0.9.12:7610 --reason 'new disk'"
    )]
    Replace {
        /// The one that goes: its name, or its number as #2.
        old: String,
        /// The one that comes: its name, as in its node file, and where its peers reach it.
        #[arg(value_name = "NEW=HOST:PORT", value_parser = name_and_address)]
        new: (String, String),
        /// Why; kept in the log.
        #[arg(long, short, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Keep a node from leading, for maintenance; if it leads, it hands over first.
    #[command(
        long_about = "Keep a node from leading, for maintenance. It goes on voting and keeping data. If it \
        leads, it hands over first, and no slot is missed. It stays drained, whoever leads, until it is resumed.\n\n\
        It is refused if too few would be left to lead: two where three or more gateways vote, one where two do. Only \
        if nobody else can be reached for ten leases (5 s with profile lan) does a drained node lead, so that there is a \
        leader at all; it yields as soon as another may.\n\n\
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
    /// Remove a node for ever; if it leads, it hands over first.
    #[command(
        long_about = "Remove a node for ever. Its number is never given again and its data directory belongs nowhere \
        any more; to use the box again, empty the directory and add it. If it leads, it hands over first.\n\n\
        It is refused if the remaining voters that answer would be no majority, which nothing can force, and, without \
        --force, if afterwards no further node may fail although one may now. To exchange a node, use \
        `member replace`.\n\n\
        Example:\n  holdfast member remove gateway-d --reason 'no longer needed'"
    )]
    Remove {
        /// Its name, or its number as #4.
        name: String,
        /// Why; kept in the log.
        #[arg(long, short, default_value = "", hide_default_value = true)]
        reason: String,
        /// Accept that afterwards no further node may fail.
        #[arg(long)]
        force: bool,
    },
}

pub(super) async fn run(
    mut client: Client,
    output: Output,
    command: MemberCommand,
) -> Result<Done, CliError> {
    match command {
        MemberCommand::List => {
            let list = list(&mut client).await?;
            output.show(&list, || render(&list))?;
        }
        MemberCommand::Add { node: (name, address), reason, no_wait } => {
            let done = change::add(&mut client, name.clone(), address, reason, String::new()).await?;
            if !no_wait {
                change::wait_until_caught_up(&mut client, done.id).await?;
            }
            output.show(&done, || {
                let standing = if done.already { "was added before" } else { "is a member" };
                format!(
                    "{name} {standing}, number {}; it does not vote yet: `holdfast member promote {name}`.",
                    done.id
                )
            })?;
        }
        MemberCommand::Promote { name, reason, wait } => {
            if wait {
                let id = change::number_of(&mut client, &name).await?;
                change::wait_until_caught_up(&mut client, id).await?;
            }
            let question = pb::PromoteMemberRequest { name: name.clone(), reason };
            let done =
                client.change(question, async |admin, question| admin.promote_member(question).await).await?;
            output.show(&done, || format!("{name} votes."))?;
        }
        MemberCommand::Replace { old, new: (name, address), reason } => {
            let done = change::replace(&mut client, &old, name.clone(), address, reason).await?;
            output.show(&done, || format!("{name} votes, the old {old} is removed."))?;
        }
        MemberCommand::Remove { name, reason, force } => {
            let question = pb::RemoveMemberRequest { name: name.clone(), reason, force };
            let done =
                client.change(question, async |admin, question| admin.remove_member(question).await).await?;
            output
                .show(&done, || format!("{name} is removed; stop its process, it takes no part any more."))?;
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

/// All members, as the leader sees them where it can be asked.
async fn list(client: &mut Client) -> Result<pb::ListMembersResponse, CliError> {
    let question = pb::ListMembersRequest { this_node: false };
    client.look(question, async |admin, question| admin.list_members(question).await).await
}

/// `NAME=HOST:PORT`.
fn name_and_address(text: &str) -> Result<(String, String), String> {
    let wrong = || format!("expected NAME=HOST:PORT, found {text:?}");
    let (name, address) = text.split_once('=').ok_or_else(wrong)?;
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    match !name.is_empty() && !host.is_empty() && port.parse::<u16>().is_ok() {
        true => Ok((name.to_owned(), address.to_owned())),
        false => Err(wrong()),
    }
}

fn render(list: &pb::ListMembersResponse) -> String {
    let row = |member: &pb::Member| {
        [
            member.id.to_string(),
            member.name.clone(),
            member.address.clone(),
            standing(member),
            reach(member),
            behind(member),
            format::offset(member.clock_offset.as_ref()),
            member.free_bytes.map_or_else(|| format::NOTHING.to_owned(), format::bytes),
        ]
    };
    let header = ["id", "name", "address", "role", "state", "behind", "clock", "free"];
    let rows = list.members.iter().map(row).collect();
    let mut text = table(header, rows, "No members: the cluster is not founded yet.");
    for waiting in &list.waiting {
        text.push_str(&format!(
            "\n{} at {} waits to belong: `{}`",
            waiting.name, waiting.address, waiting.command
        ));
    }
    text
}

/// Positions that a member lacks, and their bytes where they matter.
fn behind(member: &pb::Member) -> String {
    match (member.behind, member.behind_bytes) {
        (None, _) => format::NOTHING.to_owned(),
        (Some(behind), Some(bytes)) if !member.caught_up => format!("{behind} (~{})", format::bytes(bytes)),
        (Some(behind), _) => behind.to_string(),
    }
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
    if !member.voter && member.caught_up {
        words.push("caught up");
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
        let learner =
            pb::Member { behind: Some(4_000), behind_bytes: Some(3 << 20), ..pb::Member::default() };
        assert_eq!((standing(&learner).as_str(), behind(&learner).as_str()), ("learner", "4000 (~3.0 MiB)"));
        let caught_up = pb::Member { behind: Some(2), caught_up: true, ..learner };
        assert_eq!((standing(&caught_up).as_str(), behind(&caught_up).as_str()), ("learner, caught up", "2"));
    }

    #[test]
    fn a_node_is_named_with_its_address() {
        assert_eq!(name_and_address("a=10.0.0.1:7610"), Ok(("a".to_owned(), "10.0.0.1:7610".to_owned())));
        for wrong in ["a", "=10.0.0.1:7610", "a=10.0.0.1", "a=:7610", "a=10.0.0.1:port"] {
            assert!(name_and_address(wrong).is_err(), "{wrong}");
        }
    }
}
