//! Members over the API: drain, resume, and handing leadership over.
//!
//! - Leadership goes only to a voting gateway that is well and not drained; of those to the most preferred.
//! - A drained leader hands over before it is answered.

use model::command::Command;
use model::ids::NodeId;
use model::{Position, Role};
use replication::Status;
use store::engine::Engine;
use wire::proto::v1 as pb;

use super::failure::Failure;
use super::{AdminService, request};

/// A member that leadership might go to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    node: NodeId,
    name: String,
    /// Its place among the preferred.
    preference: Option<usize>,
    /// How far it has confirmed the log.
    confirmed: Position,
    /// Why it may not lead now.
    unfit: Option<String>,
}

impl<E: Engine> AdminService<E> {
    pub(super) async fn drain(&self, name: &str, reason: &str, principal: &str) -> Result<String, Failure> {
        let status = self.replica().status();
        let node = member_named(&status, name)?;
        let candidates = self.candidates(&status);
        let others = || candidates.iter().filter(|candidate| candidate.node != node);
        if !others().any(|candidate| candidate.unfit.is_none()) {
            let why: Vec<String> = others().map(describe).collect();
            return Err(Failure::NoSuccessor(format!(
                "{name} is the last that may lead ({})",
                why.join("; ")
            )));
        }
        let leads = status.leader == Some(node);
        if leads {
            self.require_leader(false)?;
        }
        let command = Command::SetDrained { node, drained: true, request: request(principal, reason) };
        self.change(&command).await?;
        if !leads {
            return Ok(String::new());
        }
        let successor = choose(&candidates, None)?;
        self.hand_over(successor).await?;
        Ok(self.name_of(self.replica().status().leader.unwrap_or(successor)))
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
        self.require_leader(false)?;
        let before = self.replica().status();
        if before.leader != Some(before.node) {
            return Err(Failure::NotLeader { leader: None });
        }
        let wanted = match to {
            "" => None,
            name => Some(member_named(&before, name)?),
        };
        let from = self.replica().name().to_owned();
        if wanted == Some(before.node) {
            return Ok(pb::TransferLeadershipResponse { from: from.clone(), to: from, term: before.term.0 });
        }
        let successor = choose(&self.candidates(&before), wanted)?;
        tracing::info!(to = self.name_of(successor), reason, principal, "handing leadership over");
        self.hand_over(successor).await?;
        let after = self.replica().status();
        let to = self.name_of(after.leader.unwrap_or(successor));
        Ok(pb::TransferLeadershipResponse { from, to, term: after.term.0 })
    }

    async fn hand_over(&self, to: NodeId) -> Result<(), Failure> {
        self.switchover().switch_over(to).await.map_err(Failure::from)
    }

    /// All members but this one, with what keeps them from leading.
    fn candidates(&self, status: &Status) -> Vec<Candidate> {
        let members = self.members(status, self.now());
        let preferred = self.replica().store().keeper().read(|state| state.plant().cluster.preferred.clone());
        let others = members.into_iter().filter(|member| member.id != status.node.0);
        let candidate = |member: pb::Member| Candidate {
            node: NodeId(member.id),
            preference: preferred.iter().position(|name| *name == member.name),
            confirmed: Position(member.confirmed.unwrap_or(0)),
            unfit: unfit(&member, status),
            name: member.name,
        };
        others.map(candidate).collect()
    }
}

fn unfit(member: &pb::Member, status: &Status) -> Option<String> {
    use pb::member::Reach;
    let role = status.members.get(&NodeId(member.id)).map(|member| member.role);
    let why = match member.reach() {
        _ if !member.voter => "does not vote yet",
        _ if role == Some(Role::Witness) => "is a witness",
        _ if member.drained.is_some() => "is drained",
        Reach::Unreachable => "cannot be reached",
        Reach::Refused => "is refused",
        _ => return None,
    };
    Some(why.to_owned())
}

fn describe(candidate: &Candidate) -> String {
    let why = candidate.unfit.as_deref().unwrap_or("may lead");
    format!("{} {why}", candidate.name)
}

/// Whom leadership goes to: the one asked for, if it may lead, else the most preferred, then the one furthest on.
fn choose(candidates: &[Candidate], wanted: Option<NodeId>) -> Result<NodeId, Failure> {
    if let Some(wanted) = wanted {
        let candidate = candidates.iter().find(|candidate| candidate.node == wanted);
        return match candidate {
            Some(Candidate { unfit: None, node, .. }) => Ok(*node),
            Some(candidate) => Err(Failure::NoSuccessor(describe(candidate))),
            None => Err(Failure::NoSuccessor("it leads already".to_owned())),
        };
    }
    let fit = candidates.iter().filter(|candidate| candidate.unfit.is_none());
    let best = fit.min_by_key(|candidate| {
        let preference = candidate.preference.unwrap_or(usize::MAX);
        (preference, std::cmp::Reverse(candidate.confirmed), candidate.node)
    });
    best.map(|candidate| candidate.node).ok_or_else(|| {
        let why: Vec<String> = candidates.iter().map(describe).collect();
        Failure::NoSuccessor(format!("no other member may lead now ({})", why.join("; ")))
    })
}

fn member_named(status: &Status, name: &str) -> Result<NodeId, Failure> {
    let found = status.members.iter().find(|(_, member)| member.name == name);
    found.map(|(node, _)| *node).ok_or_else(|| Failure::NoSuchMember(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(node: u64, preference: Option<usize>, confirmed: u64, unfit: Option<&str>) -> Candidate {
        Candidate {
            node: NodeId(node),
            name: format!("node-{node}"),
            preference,
            confirmed: Position(confirmed),
            unfit: unfit.map(str::to_owned),
        }
    }

    #[test]
    fn leadership_goes_to_the_most_preferred_then_to_the_one_furthest_on() {
        let all =
            [candidate(2, None, 90, None), candidate(3, Some(1), 10, None), candidate(4, Some(0), 5, None)];
        assert_eq!(choose(&all, None), Ok(NodeId(4)));
        assert_eq!(choose(&[all[0].clone(), candidate(5, None, 91, None)], None), Ok(NodeId(5)));
    }

    #[test]
    fn leadership_never_goes_to_one_that_may_not_lead() {
        let all = [candidate(2, Some(0), 90, Some("is drained")), candidate(3, None, 10, None)];
        assert_eq!(choose(&all, None), Ok(NodeId(3)));
        assert_eq!(choose(&all, Some(NodeId(2))), Err(Failure::NoSuccessor("node-2 is drained".into())));
        let refused = choose(&all[..1], None).expect_err("nobody is left");
        assert!(refused.to_string().contains("node-2 is drained"), "{refused}");
    }
}
