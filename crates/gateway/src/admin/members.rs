//! Members over the API: add, promote, replace, remove, drain, resume, and handing leadership over.
//!
//! - Every change is written into the log with who asked for it and why, before it is made.
//! - A drained leader hands over before it is answered. A leader that is to be removed or replaced is drained and hands
//!   over, and the next leader does the rest: whoever asked is told to ask again (HF-3101).
//! - Who may lead, who may vote and who may go is decided in `replication`; here it is asked.

use std::time::Duration;

use model::command::{Command, Event, Severity};
use model::ids::NodeId;
use model::plant::Failback;
use replication::{Joiner, MEMBERSHIP_PATIENCE, Status, check_removal};
use store::Outcome;
use store::engine::Engine;
use tokio::time::{Instant, sleep};
use wire::proto::v1 as pb;
use wire::times::duration_to_proto;

use super::failure::Failure;
use super::{AdminService, PATIENCE, PROPOSE_AGAIN, request, views};
use crate::config::LONGEST_HOOK;
use crate::failback::{Decision, Watch, facts};
use crate::leading;

/// How long another leader may take to show after a hand-over.
const HAND_OVER: Duration = Duration::from_secs(10);
/// How long handing leadership over takes at most: what follows the leader outside ends, then its reign; leadership goes,
/// and where it went is seen here.
pub(super) const HANDED_OVER_WITHIN: Duration = LONGEST_HOOK
    .saturating_add(leading::ENDS_WITHIN)
    .saturating_add(MEMBERSHIP_PATIENCE)
    .saturating_add(HAND_OVER);

impl<E: Engine> AdminService<E> {
    pub(super) async fn add_member(
        &self,
        asked: pb::AddMemberRequest,
        principal: &str,
    ) -> Result<pb::AddMemberResponse, Failure> {
        let status = self.leading()?;
        let pb::AddMemberRequest { name, address, reason, replaces } = asked;
        if name.is_empty() || !address.contains(':') {
            return Err(Failure::BadArgument(format!("expected NAME=HOST:PORT, found \"{name}={address}\"")));
        }
        let instead_of = match replaces.as_str() {
            "" => None,
            old => Some(oldest_named(&status, old)?),
        };
        let what = format!("{name} at {address} is to be added as a learner");
        self.write_down(&name, what, principal, &reason).await?;
        let added = self.replica().add(&name, &address, instead_of).await.map_err(Failure::from_change)?;
        Ok(pb::AddMemberResponse { id: added.node.0, already: added.already })
    }

    pub(super) async fn promote_member(
        &self,
        asked: &pb::PromoteMemberRequest,
        principal: &str,
    ) -> Result<(), Failure> {
        let status = self.leading()?;
        let node = member_named(&status, &asked.name)?;
        if status.votes(node) {
            return Ok(());
        }
        self.check_caught_up(node)?;
        let name = self.name_of(node);
        self.write_down(&name, format!("{name} (#{node}) is to vote"), principal, &asked.reason).await?;
        self.replica().promote(node).await.map_err(Failure::from_change)
    }

    pub(super) async fn replace_member(
        &self,
        asked: &pb::ReplaceMemberRequest,
        principal: &str,
    ) -> Result<(), Failure> {
        let status = self.leading()?;
        let new = NodeId(asked.id);
        if !status.members.contains_key(&new) {
            return Err(Failure::NoSuchMember(format!("#{new}")));
        }
        let old = match oldest_named(&status, &asked.old) {
            Ok(old) if old != new => old,
            // It was replaced before.
            Ok(_) | Err(Failure::NoSuchMember(_)) if status.votes(new) => return Ok(()),
            Ok(_) => return Err(Failure::NoSuchMember(asked.old.clone())),
            Err(failure) => return Err(failure),
        };
        if !status.votes(new) {
            self.check_caught_up(new)?;
        }
        let (gone, come) = (self.name_of(old), self.name_of(new));
        let what = format!("{come} (#{new}) is to take the place of {gone} (#{old})");
        self.write_down(&gone, what, principal, &asked.reason).await?;
        self.hand_over_first(&status, old, &asked.reason, principal).await?;
        self.replica().replace(old, new).await.map_err(Failure::from_change)
    }

    pub(super) async fn remove_member(
        &self,
        asked: &pb::RemoveMemberRequest,
        principal: &str,
    ) -> Result<(), Failure> {
        let status = self.leading()?;
        let node = member_named(&status, &asked.name)?;
        if status.votes(node) {
            let voters = self.replica().voters(&status, node);
            check_removal(voters, asked.force).map_err(|why| Failure::QuorumAtStake(why.to_string()))?;
        }
        let name = self.name_of(node);
        let what = format!("{name} (#{node}) is to be removed from the cluster");
        self.write_down(&name, what, principal, &asked.reason).await?;
        self.hand_over_first(&status, node, &asked.reason, principal).await?;
        self.replica().remove(node, asked.force).await.map_err(Failure::from_change)
    }

    pub(super) async fn drain(&self, name: &str, reason: &str, principal: &str) -> Result<String, Failure> {
        let status = self.leading()?;
        let node = member_named(&status, name)?;
        let drained = self.replica().drain(node, request(principal, reason), PATIENCE).await;
        if let Outcome::Refused(refusal) = drained.map_err(|error| Failure::from_drain(error, name))?.outcome
        {
            return Err(refusal.into());
        }
        if node != status.node {
            return Ok(String::new());
        }
        let leader = self.hand_over(None).await?;
        Ok(self.name_of(leader))
    }

    pub(super) async fn resume(&self, name: &str, reason: &str, principal: &str) -> Result<(), Failure> {
        let node = member_named(&self.replica().status(), name)?;
        let command = Command::SetDrained { node, drained: false, request: request(principal, reason) };
        self.change(&command).await.map(|_| ())
    }

    pub(super) async fn transfer(
        &self,
        to: &str,
        reason: &str,
        principal: &str,
    ) -> Result<pb::TransferLeadershipResponse, Failure> {
        let before = self.leading()?;
        let wanted = match to {
            "" => None,
            name => Some(member_named(&before, name)?),
        };
        let from = self.replica().name().to_owned();
        if wanted == Some(before.node) {
            return Ok(pb::TransferLeadershipResponse { from: from.clone(), to: from, term: before.term.0 });
        }
        self.replica().successor(wanted)?;
        let whom = wanted.map_or_else(|| "whoever is best placed".to_owned(), |node| self.name_of(node));
        let what = format!("leadership is handed from {from} to {whom}");
        self.write_down(&from, what, principal, reason).await?;
        let leader = self.hand_over(wanted).await?;
        let after = self.replica().status();
        Ok(pb::TransferLeadershipResponse { from, to: self.name_of(leader), term: after.term.0 })
    }

    /// Nodes that ask to belong, as far as this node has heard of them.
    pub(super) fn waiting(&self) -> Vec<pb::WaitingNode> {
        let status = self.replica().status();
        let is_taken = |name: &str| status.members.values().any(|member| member.name == name);
        let waiting = |joiner: Joiner| {
            let Joiner { name, address, since, .. } = joiner;
            let command = match is_taken(&name) {
                true => format!("holdfast member replace {name} {name}={address}"),
                false => format!("holdfast member add {name}={address}"),
            };
            let since = views::moment(self.now(), since.elapsed());
            pb::WaitingNode { name, address, since: Some(since), command }
        };
        self.replica().joiners().into_iter().map(waiting).collect()
    }

    /// Where leadership should go, if this node leads and another is preferred.
    pub(super) fn failback(&self) -> Option<pb::Failback> {
        self.replica().leadership().borrow().as_ref()?;
        let facts = facts(self.replica());
        let settle = match facts.mode {
            Failback::Auto { settle } => Some(duration_to_proto(settle)),
            Failback::Manual => None,
        };
        match Watch::default().decide(Instant::now(), &facts) {
            Decision::Stay => None,
            Decision::Possible(to) | Decision::Settling(to, _) | Decision::HandOver(to, _) => {
                Some(pb::Failback { to: self.name_of(to), automatic: settle.is_some(), settle })
            }
        }
    }

    /// What only the leader may do: its status.
    fn leading(&self) -> Result<Status, Failure> {
        let status = self.replica().status();
        match status.leader == Some(status.node) {
            true => Ok(status),
            false => Err(Failure::LedNoMore),
        }
    }

    fn check_caught_up(&self, node: NodeId) -> Result<(), Failure> {
        self.replica().check_caught_up(node).map_err(Failure::from_change)
    }

    /// Writes into the log what is about to be done, by whom and why.
    async fn write_down(
        &self,
        name: &str,
        what: String,
        principal: &str,
        reason: &str,
    ) -> Result<(), Failure> {
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let event = Event {
            severity: Severity::Info,
            subject: format!("node/{name}"),
            text: format!("{what}, asked for by {principal}{why}"),
        };
        self.change(&Command::Event(event)).await.map(|_| ())
    }

    /// A leader that is about to go is drained, so that leadership does not come back to it, and hands over; the rest is
    /// for the next leader.
    async fn hand_over_first(
        &self,
        status: &Status,
        goes: NodeId,
        reason: &str,
        principal: &str,
    ) -> Result<(), Failure> {
        if goes != status.node {
            return Ok(());
        }
        self.replica().successor(None)?;
        let command = Command::SetDrained { node: goes, drained: true, request: request(principal, reason) };
        self.change(&command).await?;
        let leader = self.hand_over(None).await?;
        Err(Failure::HandedOver { from: self.name_of(goes), leader: self.name_of(leader) })
    }

    /// Hands leadership over and says who leads then. A drained leader may be handing over by itself already.
    async fn hand_over(&self, to: Option<NodeId>) -> Result<NodeId, Failure> {
        let me = self.replica().node();
        let asked = self.switchover.request(to).await.map_err(Failure::from);
        let until = Instant::now() + HAND_OVER;
        loop {
            let status = self.replica().status();
            match (status.leader, &asked) {
                (Some(leader), _) if leader != me => return Ok(leader),
                // It was refused, and this node leads on.
                (Some(_), Err(failure)) if self.replica().leadership().borrow().is_some() => {
                    return Err(failure.clone());
                }
                (Some(_), Ok(_)) if self.replica().leadership().borrow().is_some() => {
                    return Err(Failure::HandOver("leadership came back to this node".to_owned()));
                }
                _ if Instant::now() >= until => {
                    return Err(Failure::HandOver("nobody is known to lead".to_owned()));
                }
                _ => sleep(PROPOSE_AGAIN).await,
            }
        }
    }
}

/// The member of that name, or of that number (`#3`).
fn member_named(status: &Status, name: &str) -> Result<NodeId, Failure> {
    let named = all_named(status, name);
    match named.as_slice() {
        [] => Err(Failure::NoSuchMember(name.to_owned())),
        [node] => Ok(*node),
        several => {
            let numbers: Vec<String> = several.iter().map(|node| format!("#{node}")).collect();
            let text =
                format!("{} members are called {name}: say which, {}", several.len(), numbers.join(" or "));
            Err(Failure::BadArgument(text))
        }
    }
}

/// The member of that name that has been one for longest: the one to be replaced, where the new one has its name already.
fn oldest_named(status: &Status, name: &str) -> Result<NodeId, Failure> {
    all_named(status, name).into_iter().min().ok_or_else(|| Failure::NoSuchMember(name.to_owned()))
}

fn all_named(status: &Status, name: &str) -> Vec<NodeId> {
    let number = name.strip_prefix('#').and_then(|number| number.parse().ok()).map(NodeId);
    let fits = |node: NodeId, member: &model::Member| member.name == name || number == Some(node);
    status.members.iter().filter(|(node, member)| fits(**node, member)).map(|(node, _)| *node).collect()
}
