//! Draining: an operator keeps a node from leading, if enough others are left that may.
//!
//! - Asked of the leader alone, one order at a time, so that two orders cannot take the same node for the one that is left.
//! - [`check_drain`] is a pure function: how many must be left follows from how many gateways vote.

use std::time::Duration;

use model::command::{Command, Request};
use model::{NodeId, Role};
use openraft::AsyncRuntime;
use store::engine::Engine;

use crate::membership::MembershipError;
use crate::network::{Applied, ProposeError};
use crate::replica::Replica;
use crate::successor::{Candidate, Unfit};

/// Too few would be left that may lead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "afterwards {} could lead, and at least {needed} must be left{}",
    if .left.is_empty() { "nobody".to_owned() } else { format!("only {}", .left.join(" and ")) },
    if .others.is_empty() { String::new() } else { format!(" ({})", .others.join("; ")) }
)]
pub struct DrainRefused {
    /// Who would be left.
    pub left: Vec<String>,
    /// How many must be left.
    pub needed: usize,
    /// The others, and what keeps each from leading.
    pub others: Vec<String>,
}

/// Why a node was not drained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    /// Too few would be left.
    #[error(transparent)]
    TooFew(#[from] DrainRefused),
    /// It is not this node's turn to say.
    #[error(transparent)]
    Turn(#[from] MembershipError),
    /// The order was not committed.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

/// Whether one of `gateways` voting gateways may be drained, if these are the other members. Where three or more vote, one
/// may fail, so two must be left. Of two none may fail, and whoever is left leads alone.
fn check_drain(gateways: usize, others: &[Candidate]) -> Result<(), DrainRefused> {
    let needed = gateways.saturating_sub(1).clamp(1, 2);
    let (left, cannot): (Vec<_>, Vec<_>) = others.iter().partition(|member| member.can_lead());
    if left.len() >= needed {
        return Ok(());
    }
    Err(DrainRefused {
        left: left.iter().map(|member| member.name.clone()).collect(),
        needed,
        others: cannot.iter().map(ToString::to_string).collect(),
    })
}

impl<E: Engine, RT: AsyncRuntime> Replica<E, RT> {
    /// Keeps a member from leading, as long as enough others are left. This node must lead. A leader that drains itself
    /// leads on until it has handed over.
    pub async fn drain(
        &self,
        node: NodeId,
        request: Request,
        patience: Duration,
    ) -> Result<Applied, DrainError> {
        let _turn = self.take_turn().await?;
        let leadership = self.own_leadership()?;
        self.check_drain(node)?;
        let command = Command::SetDrained { node, drained: true, request };
        Ok(self.propose_in(&leadership, &command, patience).await?)
    }

    fn check_drain(&self, node: NodeId) -> Result<(), DrainRefused> {
        let status = self.status();
        let drained = self.inner.store.keeper().read(|state| state.drained.clone());
        let is_gateway = |id: &NodeId| {
            status.votes(*id) && status.members.get(id).is_some_and(|member| member.role == Role::Gateway)
        };
        if drained.contains_key(&node) || !is_gateway(&node) {
            // It does not lead anyway.
            return Ok(());
        }
        let itself = Candidate {
            node: status.node,
            name: self.inner.name.clone(),
            preference: None,
            confirmed: status.last,
            unfit: drained.contains_key(&status.node).then_some(Unfit::Drained),
        };
        let mut others = self.candidates();
        others.push(itself);
        others.retain(|member| member.node != node);
        check_drain(status.members.keys().filter(|id| is_gateway(id)).count(), &others)
    }
}

#[cfg(test)]
mod tests {
    use model::Position;

    use super::*;

    fn others<const N: usize>(members: [(&str, Option<Unfit>); N]) -> [Candidate; N] {
        members.map(|(name, unfit)| Candidate {
            node: NodeId(1),
            name: name.to_owned(),
            preference: None,
            confirmed: Position(9),
            unfit,
        })
    }

    #[test]
    fn one_of_three_may_be_drained_and_not_a_second() {
        assert_eq!(check_drain(3, &others([("a", None), ("b", None)])), Ok(()));
        let second = check_drain(3, &others([("a", None), ("b", Some(Unfit::Drained))]));
        let refused = second.expect_err("nobody could lead if a failed");
        let text = "afterwards only a could lead, and at least 2 must be left (b is drained)";
        assert_eq!(refused.to_string(), text);
    }

    #[test]
    fn a_member_that_cannot_lead_now_is_not_counted() {
        let refused = check_drain(3, &others([("a", None), ("b", Some(Unfit::Unreachable))]));
        assert_eq!(refused.expect_err("b is away").others, ["b cannot be reached"]);
        let of_five =
            others([("a", None), ("b", None), ("c", Some(Unfit::Drained)), ("d", Some(Unfit::Learner))]);
        assert_eq!(check_drain(5, &of_five), Ok(()));
    }

    #[test]
    fn of_two_one_may_be_drained_and_of_one_none() {
        assert_eq!(check_drain(2, &others([("a", None)])), Ok(()));
        assert!(check_drain(2, &others([("a", Some(Unfit::Drained))])).is_err());
        let refused = check_drain(1, &[]).expect_err("there is nothing without it");
        assert_eq!(refused.to_string(), "afterwards nobody could lead, and at least 1 must be left");
    }
}
