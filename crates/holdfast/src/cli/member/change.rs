//! Changes of membership that take their time: what is waited for is shown on standard error, a line when it moves.
//!
//! - Each step can be done again: an interrupted command is simply typed again.
//! - Nothing is decided here: the leader says who is caught up, and refuses what must not be.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use wire::proto::v1 as pb;

use super::super::client::Client;
use super::super::error::CliError;
use super::super::format;
use super::list;

/// How often the leader is asked how far a node is.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Off a terminal a line is written at most this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Adds a node, or finds that it was added before.
pub(super) async fn add(
    client: &mut Client,
    name: String,
    address: String,
    reason: String,
    replaces: String,
) -> Result<pb::AddMemberResponse, CliError> {
    let question = pb::AddMemberRequest { name, address, reason, replaces };
    client.change(question, async |admin, question| admin.add_member(question).await).await
}

/// Add, wait, promote the new one and remove the old one.
pub(super) async fn replace(
    client: &mut Client,
    old: &str,
    name: String,
    address: String,
    reason: String,
) -> Result<pb::ReplaceMemberResponse, CliError> {
    // After an interruption the old one may be gone already.
    let still_there = number_of(client, old).await.is_ok();
    let replaces = if still_there { old.to_owned() } else { String::new() };
    let added = add(client, name, address, reason.clone(), replaces).await?;
    wait_until_caught_up(client, added.id).await?;
    let question = pb::ReplaceMemberRequest { old: old.to_owned(), id: added.id, reason };
    client.change(question, async |admin, question| admin.replace_member(question).await).await
}

/// The number of a member that is given by name or as `#number`; of several the oldest.
pub(super) async fn number_of(client: &mut Client, name: &str) -> Result<u64, CliError> {
    let members = list(client).await?.members;
    let number = name.strip_prefix('#').and_then(|number| number.parse::<u64>().ok());
    let found = members.iter().filter(|member| member.name == name || number == Some(member.id));
    found.map(|member| member.id).min().ok_or_else(|| {
        CliError::Usage(format!("there is no member {name:?}; `holdfast member list` names them"))
    })
}

/// Waits until a member may become a voter (or is one).
pub(super) async fn wait_until_caught_up(client: &mut Client, id: u64) -> Result<(), CliError> {
    let mut progress = Progress::new();
    loop {
        let members = list(client).await?.members;
        let Some(member) = members.iter().find(|member| member.id == id) else {
            progress.end();
            return Err(CliError::Usage(format!("member {id} was removed meanwhile")));
        };
        progress.show(member.caught_up, line(member, &members));
        if member.caught_up || member.voter {
            progress.end();
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
}

/// How far a member is, on standard error: one line that is written over on a terminal, a line now and then elsewhere.
struct Progress {
    terminal: bool,
    last: Option<(Instant, String)>,
}

impl Progress {
    fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), last: None }
    }

    fn show(&mut self, is_last: bool, line: String) {
        let due = match &self.last {
            None => true,
            Some((_, before)) if *before == line => false,
            Some((at, _)) => self.terminal || at.elapsed() >= LINE_EVERY || is_last,
        };
        if !due {
            return;
        }
        let mut stderr = io::stderr().lock();
        // There is nobody left to tell if this fails.
        drop(match self.terminal {
            true => write!(stderr, "\r\x1b[2K{line}").and_then(|()| stderr.flush()),
            false => writeln!(stderr, "{line}"),
        });
        self.last = Some((Instant::now(), line));
    }

    fn end(&mut self) {
        if self.terminal && self.last.is_some() {
            drop(writeln!(io::stderr()));
        }
    }
}

/// How far `member` is, as one of `members` says.
fn line(member: &pb::Member, members: &[pb::Member]) -> String {
    let name = &member.name;
    if member.caught_up || member.voter {
        return format!("{name} is caught up");
    }
    let asked = members.iter().find(|one| one.reach() == pb::member::Reach::Itself && !one.leader);
    if let Some(asked) = asked {
        return format!("{} cannot ask the leader how far {name} is; it is asked again", asked.name);
    }
    let confirmed = member.confirmed.unwrap_or(0);
    match (member.behind, member.behind_bytes) {
        (Some(behind), bytes) => {
            let bytes = bytes.map_or_else(String::new, |bytes| format!(", about {}", format::bytes(bytes)));
            format!("{name} is at position {confirmed}, {behind} behind{bytes}")
        }
        (None, _) => format!("{name} has not answered the leader yet"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_positions_and_bytes() {
        let member = pb::Member { name: "gateway-d".into(), ..pb::Member::default() };
        let leader = pb::Member { reach: pb::member::Reach::Itself.into(), leader: true, ..member.clone() };
        let line = |member: &pb::Member| super::line(member, std::slice::from_ref(&leader));
        assert_eq!(line(&member), "gateway-d has not answered the leader yet");
        let on_its_way =
            pb::Member { confirmed: Some(40), behind: Some(960), behind_bytes: Some(3 << 20), ..member };
        assert_eq!(line(&on_its_way), "gateway-d is at position 40, 960 behind, about 3.0 MiB");
        assert_eq!(line(&pb::Member { caught_up: true, ..on_its_way }), "gateway-d is caught up");
    }

    #[test]
    fn what_only_the_leader_knows_is_not_told_by_another() {
        let reach = pb::member::Reach::Itself.into();
        let follower = pb::Member { name: "gateway-b".into(), reach, ..pb::Member::default() };
        let member = pb::Member { name: "gateway-d".into(), ..pb::Member::default() };
        let said = line(&member, &[follower, member.clone()]);
        assert_eq!(said, "gateway-b cannot ask the leader how far gateway-d is; it is asked again");
    }
}
