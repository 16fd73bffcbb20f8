//! Who may lead next: whom a planned switchover, a drain or a failback hands leadership to.
//!
//! - Asked before anything is given up: a leader that finds nobody goes on leading. Asked again at the moment of the
//!   transfer, when all that was read is committed: whoever has confirmed that can stand for election at once, and one
//!   that has not is waited for only briefly.
//! - Leadership goes only to a voting gateway that has answered lately, votes at present (not in quarantine), is caught
//!   up, not drained and has room for samples; of those to the most preferred, then to the one furthest on. One without
//!   room gets it only where nobody else may lead: it would hand over again to whoever has some.
//! - [`choose`] and [`choose_ready`] are pure functions of what is known; [`Replica::candidates`] gathers that.

use std::fmt;
use std::time::Duration;

use model::{NodeId, Position, Role};
use openraft::AsyncRuntime;
use openraft::async_runtime::WatchReceiver as _;
use store::engine::Engine;
use tokio::time::{Instant, timeout_at};

use crate::network::{PeerInfo, PeerStanding};
use crate::replica::{Replica, Status};

/// A node that has not answered for this many leases is not handed anything.
const SILENT_LEASES: u32 = 2;
/// Entries that a successor may still lack; the transfer waits for them.
const MAY_LACK: u64 = 1_000;
/// How long a transfer waits for the best successor to confirm what was read. Devices are not read meanwhile.
const READY_WITHIN: Duration = Duration::from_millis(100);

/// A node with less room than this, in bytes above its reserve, is handed nothing as long as another may lead.
pub const ROOM_TO_LEAD: u64 = 80 << 20;

/// A member besides this one, and what keeps it from leading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its number.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its place among the preferred, 0 the most.
    pub preference: Option<usize>,
    /// How far it has confirmed the log.
    pub confirmed: Position,
    /// Why it may not lead now.
    pub unfit: Option<Unfit>,
}

/// Why a member may not lead now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It does not vote (in every set of voters) yet.
    #[error("does not vote yet")]
    Learner,
    /// It only votes.
    #[error("is a witness")]
    Witness,
    /// An operator keeps it from leading.
    #[error("is drained")]
    Drained,
    /// One of the two nodes refuses the other.
    #[error("is refused")]
    Refused,
    /// It has not answered lately.
    #[error("cannot be reached")]
    Unreachable,
    /// It has just started and votes for nobody yet.
    #[error("has just started")]
    Quarantined,
    /// It lacks too much of the log.
    #[error("is {0} entries behind")]
    Behind(u64),
    /// Its disk is almost full.
    #[error("has too little room for samples")]
    Full,
}

impl Candidate {
    /// Whether it answers and may lead, at once or when it has what it lacks.
    pub(crate) fn is_there(&self) -> bool {
        matches!(self.unfit, None | Some(Unfit::Quarantined | Unfit::Behind(_) | Unfit::Full))
    }

    /// Whether it may lead, if only because nobody else may.
    pub(crate) fn can_lead(&self) -> bool {
        matches!(self.unfit, None | Some(Unfit::Full))
    }
}

/// Nobody can take over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoSuccessor(pub String);

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unfit {
            Some(unfit) => write!(f, "{} {unfit}", self.name),
            None => write!(f, "{} may lead", self.name),
        }
    }
}

/// Whom leadership goes to: the one asked for, if it may lead, else the best.
pub fn choose(candidates: &[Candidate], wanted: Option<NodeId>) -> Result<NodeId, NoSuccessor> {
    best(candidates, wanted, Position::default()).map(|candidate| candidate.node)
}

/// The same at the moment of the transfer; `None` while it is worth waiting for the best to confirm the log up to `last`.
/// When it is late, whoever has confirmed that goes before the others.
fn choose_ready(
    candidates: &[Candidate],
    wanted: Option<NodeId>,
    last: Position,
    is_late: bool,
) -> Result<Option<NodeId>, NoSuccessor> {
    let best = best(candidates, wanted, if is_late { last } else { Position::default() })?;
    Ok((is_late || best.confirmed >= last).then_some(best.node))
}

/// The one asked for, if it may lead, else the best of those that have confirmed the log up to `confirmed`, else of the
/// others.
fn best(
    candidates: &[Candidate],
    wanted: Option<NodeId>,
    confirmed: Position,
) -> Result<&Candidate, NoSuccessor> {
    let some_are_fit = candidates.iter().any(|candidate| candidate.unfit.is_none());
    let may_lead = |candidate: &&Candidate| match some_are_fit {
        true => candidate.unfit.is_none(),
        false => candidate.can_lead(),
    };
    if let Some(wanted) = wanted {
        return match candidates.iter().find(|candidate| candidate.node == wanted) {
            Some(candidate) if may_lead(&candidate) => Ok(candidate),
            Some(candidate) => Err(NoSuccessor(candidate.to_string())),
            None => Err(NoSuccessor("it leads already, or is no member".to_owned())),
        };
    }
    let best = candidates.iter().filter(may_lead).min_by_key(|candidate| {
        let preference = candidate.preference.unwrap_or(usize::MAX);
        (candidate.confirmed < confirmed, preference, std::cmp::Reverse(candidate.confirmed), candidate.node)
    });
    best.ok_or_else(|| {
        let why: Vec<String> = candidates.iter().map(ToString::to_string).collect();
        NoSuccessor(format!("no other member may lead now ({})", why.join("; ")))
    })
}

/// What is known of one member, besides its standing in the cluster.
struct Known<'a> {
    role: Role,
    votes_everywhere: bool,
    is_drained: bool,
    peer: Option<&'a PeerInfo>,
    behind: Option<u64>,
}

/// Why a member may not lead, the gravest first.
fn unfit(known: &Known<'_>, silence: Duration, now: Instant) -> Option<Unfit> {
    if !known.votes_everywhere {
        return Some(Unfit::Learner);
    }
    if known.role == Role::Witness {
        return Some(Unfit::Witness);
    }
    if known.is_drained {
        return Some(Unfit::Drained);
    }
    let Some(peer) = known.peer else { return Some(Unfit::Unreachable) };
    if matches!(peer.standing, PeerStanding::Refused { .. }) {
        return Some(Unfit::Refused);
    }
    let silent = peer.last_seen.is_none_or(|seen| now.saturating_duration_since(seen) > silence);
    if silent || matches!(peer.standing, PeerStanding::Unreachable { .. }) {
        return Some(Unfit::Unreachable);
    }
    if peer.votes == Some(false) {
        return Some(Unfit::Quarantined);
    }
    match known.behind {
        None => Some(Unfit::Unreachable),
        Some(behind) if behind > MAY_LACK => Some(Unfit::Behind(behind)),
        Some(_) if peer.free_bytes.is_some_and(|free| free < ROOM_TO_LEAD) => Some(Unfit::Full),
        Some(_) => None,
    }
}

impl<E: Engine, RT: AsyncRuntime> Replica<E, RT> {
    /// All members but this one, with what keeps each from leading. Only a leader knows enough.
    pub fn candidates(&self) -> Vec<Candidate> {
        let status = self.status();
        let peers = self.inner.peers.subscribe().borrow().clone();
        let now = Instant::now();
        let silence = self.inner.times.lease * SILENT_LEASES;
        self.inner.store.keeper().read(|state| {
            let preferred = &state.plant().cluster.preferred;
            let others = status.members.iter().filter(|(node, _)| **node != status.node);
            let candidate = |(node, member): (&NodeId, &model::Member)| {
                let known = Known {
                    role: member.role,
                    votes_everywhere: status.may_succeed(*node),
                    is_drained: state.drained.contains_key(node),
                    peer: peers.get(node),
                    behind: status.behind(*node),
                };
                Candidate {
                    node: *node,
                    name: member.name.clone(),
                    preference: preferred.iter().position(|name| *name == member.name),
                    confirmed: status.matched.get(node).copied().unwrap_or_default(),
                    unfit: unfit(&known, silence, now),
                }
            };
            others.map(candidate).collect()
        })
    }

    /// Whom leadership would go to now.
    pub fn successor(&self, wanted: Option<NodeId>) -> Result<NodeId, NoSuccessor> {
        choose(&self.candidates(), wanted)
    }

    /// Whom leadership goes to at this moment, once that has confirmed all that is in the log now, or is not waited for
    /// any longer.
    pub(crate) async fn ready_successor(&self, wanted: Option<NodeId>) -> Result<NodeId, NoSuccessor> {
        let last = self.inner.store.log().ends().last.map_or(Position::default(), |last| last.index);
        let mut metrics = self.inner.raft.metrics();
        let until = Instant::now() + READY_WITHIN;
        loop {
            drop(metrics.borrow_and_update());
            let is_late = Instant::now() >= until;
            if let Some(to) = choose_ready(&self.candidates(), wanted, last, is_late)? {
                return Ok(to);
            }
            if let Ok(Err(_)) = timeout_at(until, metrics.changed()).await {
                // Raft has ended, which whoever asks it to hand over is told.
                return self.successor(wanted);
            }
        }
    }
}

impl Status {
    /// Whether a member votes, in both sets while the membership changes.
    pub fn votes(&self, node: NodeId) -> bool {
        !self.voters.is_empty() && self.voters.iter().all(|voters| voters.contains(&node.0))
    }

    /// Whether a member votes enough to lead after this node: in both sets while the membership changes; in the one that
    /// stays, if this node is not in it, because somebody must finish that change.
    fn may_succeed(&self, node: NodeId) -> bool {
        let stays = || self.voters.last().is_some_and(|voters| voters.contains(&node.0));
        self.votes(node) || (self.is_leaving() && stays())
    }

    /// Whether this node will vote no more once the change of membership is finished that has begun.
    pub fn is_leaving(&self) -> bool {
        self.voters.last().is_some_and(|voters| !voters.contains(&self.node.0))
    }

    /// Entries of this leader's log that a member has not confirmed, where that is known.
    pub fn behind(&self, node: NodeId) -> Option<u64> {
        match node == self.node {
            true => Some(0),
            false => self.matched.get(&node).map(|at| self.last.0.saturating_sub(at.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::Term;

    use super::*;
    use crate::replica::Standing;

    fn candidate(node: u64, preference: Option<usize>, confirmed: u64, unfit: Option<Unfit>) -> Candidate {
        Candidate {
            node: NodeId(node),
            name: format!("node-{node}"),
            preference,
            confirmed: Position(confirmed),
            unfit,
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
        let all = [candidate(2, Some(0), 90, Some(Unfit::Drained)), candidate(3, None, 10, None)];
        assert_eq!(choose(&all, None), Ok(NodeId(3)));
        assert_eq!(choose(&all, Some(NodeId(2))), Err(NoSuccessor("node-2 is drained".into())));
        let refused = choose(&all[..1], None).expect_err("nobody is left");
        assert!(refused.to_string().contains("node-2 is drained"), "{refused}");
    }

    #[test]
    fn whoever_has_all_that_was_read_goes_first_when_the_preferred_one_was_waited_for_in_vain() {
        let last = Position(91);
        let slow = candidate(2, Some(0), 90, None);
        let all = [slow.clone(), candidate(3, None, 91, None), candidate(4, Some(1), 91, None)];
        assert_eq!(choose_ready(&all, None, last, false), Ok(None), "it is waited for");
        assert_eq!(
            choose_ready(&all, None, last, true),
            Ok(Some(NodeId(4))),
            "the most preferred of the others"
        );
        let ready = [candidate(2, Some(0), 92, None), all[1].clone()];
        assert_eq!(choose_ready(&ready, None, last, false), Ok(Some(NodeId(2))));
        let full = [slow.clone(), candidate(3, None, 91, Some(Unfit::Full))];
        assert_eq!(
            choose_ready(&full, None, last, true),
            Ok(Some(NodeId(2))),
            "the other would hand over again"
        );
        assert_eq!(choose_ready(&[slow], None, last, true), Ok(Some(NodeId(2))), "nobody else may lead");
    }

    #[test]
    fn the_one_asked_for_is_waited_for_and_then_taken_as_it_is() {
        let last = Position(91);
        let all = [candidate(2, None, 90, None), candidate(3, Some(0), 91, None)];
        assert_eq!(choose_ready(&all, Some(NodeId(2)), last, false), Ok(None));
        assert_eq!(choose_ready(&all, Some(NodeId(2)), last, true), Ok(Some(NodeId(2))));
        let gone = [candidate(2, None, 90, Some(Unfit::Unreachable)), all[1].clone()];
        assert!(choose_ready(&gone, Some(NodeId(2)), last, false).is_err(), "and nobody instead of it");
        assert_eq!(choose_ready(&gone, None, last, false), Ok(Some(NodeId(3))));
    }

    #[test]
    fn one_without_room_is_chosen_only_where_nobody_else_may_lead() {
        let full = candidate(2, Some(0), 90, Some(Unfit::Full));
        let all = [full.clone(), candidate(3, None, 10, None)];
        assert_eq!(choose(&all, None), Ok(NodeId(3)), "though the other is preferred");
        let refused = NoSuccessor("node-2 has too little room for samples".into());
        assert_eq!(choose(&all, Some(NodeId(2))), Err(refused));
        let nobody_else = [full, candidate(3, None, 10, Some(Unfit::Drained))];
        assert_eq!(choose(&nobody_else, None), Ok(NodeId(2)));
        assert_eq!(choose(&nobody_else, Some(NodeId(2))), Ok(NodeId(2)));
    }

    fn well(now: Instant) -> PeerInfo {
        PeerInfo {
            identity: None,
            standing: PeerStanding::Reachable,
            last_seen: Some(now),
            clock: None,
            free_bytes: None,
            votes: Some(true),
        }
    }

    const SILENCE: Duration = Duration::from_secs(1);

    #[test]
    fn who_stays_may_take_over_from_a_leader_that_is_being_removed() {
        let status = |node, voters: &[&[u64]]| Status {
            node: NodeId(node),
            term: Term(3),
            leader: Some(NodeId(node)),
            standing: Standing::Leader,
            last: Position(9),
            committed: Position(9),
            applied: Position(9),
            voters: voters.iter().map(|voters| voters.iter().copied().collect()).collect(),
            members: BTreeMap::new(),
            holds_lease: true,
            matched: BTreeMap::new(),
        };
        let (old, new): (&[u64], &[u64]) = (&[1, 2, 3], &[1, 2, 4]);
        let succeed = |status: &Status| (1..=4).filter(|node| status.may_succeed(NodeId(*node))).collect();
        let cases: [(Status, Vec<u64>); 3] = [
            (status(3, &[old]), vec![1, 2, 3]),
            (status(1, &[old, new]), vec![1, 2]),
            (status(3, &[old, new]), vec![1, 2, 4]),
        ];
        for (status, expected) in cases {
            assert_eq!(status.is_leaving(), expected.contains(&4));
            let found: Vec<u64> = succeed(&status);
            assert_eq!(found, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_reason_not_to_lead_is_named() {
        let now = Instant::now();
        let peer = well(now);
        let known = || Known {
            role: Role::Gateway,
            votes_everywhere: true,
            is_drained: false,
            peer: Some(&peer),
            behind: Some(3),
        };
        assert_eq!(unfit(&known(), SILENCE, now), None);
        let learner = Known { votes_everywhere: false, ..known() };
        assert_eq!(unfit(&learner, SILENCE, now), Some(Unfit::Learner));
        assert_eq!(unfit(&Known { is_drained: true, ..known() }, SILENCE, now), Some(Unfit::Drained));
        assert_eq!(unfit(&Known { role: Role::Witness, ..known() }, SILENCE, now), Some(Unfit::Witness));
        assert_eq!(unfit(&Known { peer: None, ..known() }, SILENCE, now), Some(Unfit::Unreachable));
        let behind = Known { behind: Some(MAY_LACK + 1), ..known() };
        assert_eq!(unfit(&behind, SILENCE, now), Some(Unfit::Behind(MAY_LACK + 1)));
        let quarantined = PeerInfo { votes: Some(false), ..well(now) };
        let just_started = Known { peer: Some(&quarantined), ..known() };
        assert_eq!(unfit(&just_started, SILENCE, now), Some(Unfit::Quarantined));
        let filled = |free| PeerInfo { free_bytes: Some(free), ..well(now) };
        let (full, roomy) = (filled(ROOM_TO_LEAD - 1), filled(ROOM_TO_LEAD));
        assert_eq!(unfit(&Known { peer: Some(&full), ..known() }, SILENCE, now), Some(Unfit::Full));
        assert_eq!(unfit(&Known { peer: Some(&roomy), ..known() }, SILENCE, now), None);
        let later = now + SILENCE + Duration::from_millis(1);
        assert_eq!(unfit(&known(), SILENCE, later), Some(Unfit::Unreachable), "it went silent");
    }
}
