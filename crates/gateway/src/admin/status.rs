//! How the cluster is doing, as this node sees it: gathers the facts and hands them to the verdict.

use std::time::Duration;

use model::ids::NodeId;
use model::{Permit as _, Role, Timestamp};
use replication::{PeerInfo, PeerStanding, Refusal, Status};
use store::engine::Engine;
use store::ledger::State;
use wire::proto::v1 as pb;
use wire::times::{
    duration_to_proto, nanos_from_proto, nanos_to_proto, timestamp_from_proto, timestamp_to_proto,
};

use super::verdict::{Facts, Notices};
use super::{AdminService, gaps, views};

/// A leader that was not heard of for this many leases is taken for gone.
const LEASES_UNTIL_GONE: u32 = 3;

impl<E: Engine> AdminService<E> {
    /// The whole status.
    pub(super) fn cluster_status(&self, gaps_since: Option<Timestamp>) -> pb::ClusterStatus {
        let status = self.replica().status();
        let facts = self.facts(&status);
        let alarms = facts.alarms();
        let spread = facts.members.iter().filter(|member| member.reach() == pb::member::Reach::Reachable);
        let spread =
            spread.filter_map(|member| Some(nanos_from_proto(member.clock_offset.as_ref()?).unsigned_abs()));
        let (cluster, revision) = self.replica().store().keeper().read(|state| {
            let name = state.cluster.as_ref().map(|cluster| cluster.name.clone());
            (name.unwrap_or_else(|| self.cluster.to_string()), state.revision())
        });
        let listed = self.gaps().list(gaps_since, "");
        pb::ClusterStatus {
            cluster,
            verdict: facts.verdict(&alarms).into(),
            node: self.replica().name().to_owned(),
            at: Some(timestamp_to_proto(facts.at)),
            leader: if facts.quorum { self.leader(&status) } else { None },
            alarms,
            may_fail: facts.may_fail(),
            revision: revision.0,
            devices: Some(views::device_counts(&facts.devices)),
            gaps: Some(gaps::summarise(&listed, self.gaps().known_since())),
            clock_spread: spread.max().map(|nanos| duration_to_proto(Duration::from_nanos(nanos))),
            members: facts.members,
            destinations: facts.destinations,
            buffer: Some(facts.buffer),
            memory: Some(self.memory()),
            fences: self.fence.names(),
            waiting: self.waiting(),
            failback: self.failback(),
        }
    }

    /// Everything the verdict is made from.
    pub(super) fn facts(&self, status: &Status) -> Facts {
        self.facts_with(status, self.buffer(status))
    }

    /// The same with figures of the buffer from before: they cost a look at the disk.
    pub(crate) fn facts_with(&self, status: &Status, buffer: pb::BufferStats) -> Facts {
        let at = self.now();
        let keeper = self.replica().store().keeper();
        let live_destinations = self.live().destinations();
        let devices = self.devices(status.holds_lease);
        let (destinations, standing) =
            keeper.read(|state| (views::destinations(state, &live_destinations, at), state.alarms.clone()));
        let notices = Notices { certificates: self.certificates(), clock_step: self.live().clock_step() };
        Facts {
            at,
            quorum: self.has_quorum(status),
            members: self.members(status, at),
            devices,
            destinations,
            buffer,
            notices,
            standing,
        }
    }

    /// Whether a majority is known to answer: a leader by its lease, the others by hearing the leader.
    pub(super) fn has_quorum(&self, status: &Status) -> bool {
        match status.leader {
            Some(leader) if leader == status.node => status.holds_lease,
            Some(leader) => {
                let patience = self.replica().times().lease * LEASES_UNTIL_GONE;
                let peer = self.replica().peers().get(leader);
                peer.and_then(|peer| peer.last_seen).is_some_and(|seen| seen.elapsed() < patience)
            }
            None => false,
        }
    }

    fn leader(&self, status: &Status) -> Option<pb::Leader> {
        let leader = status.leader?;
        let own = self.replica().leadership().borrow().clone();
        let lease = own.map(|leadership| duration_to_proto(leadership.remaining()));
        let reign = self.replica().store().keeper().read(|state| state.reign().cloned());
        let reign = reign.filter(|reign| reign.node == leader);
        Some(pb::Leader {
            name: self.name_of(leader),
            term: status.term.0,
            since: reign.as_ref().map(|reign| timestamp_to_proto(reign.since)),
            cause: reign.map(|reign| reign.cause.name().to_owned()).unwrap_or_default(),
            lease,
        })
    }

    /// The members, by number.
    pub(super) fn members(&self, status: &Status, at: Timestamp) -> Vec<pb::Member> {
        let peers = self.replica().peers().subscribe().borrow().clone();
        let mut members: Vec<pb::Member> = self.replica().store().keeper().read(|state| {
            let one = |id: &NodeId| member(status, state, *id, peers.get(id), at);
            status.members.keys().map(one).collect()
        });
        for member in &mut members {
            if member.id == status.node.0 {
                member.free_bytes = Some(self.replica().free_bytes());
                member.lease = Some(duration_to_proto(self.replica().times().lease));
            }
            // What a voter lacks is on its way; what a learner lacks decides when it may vote.
            if status.leader == Some(status.node) && !member.voter {
                let lag = self.replica().lag(NodeId(member.id));
                member.behind = member.behind.or(lag.map(|lag| lag.entries));
                member.behind_bytes = lag.map(|lag| lag.bytes);
                member.caught_up = self.replica().check_caught_up(NodeId(member.id)).is_ok();
            }
        }
        members
    }

    /// The buffer's figures.
    pub(crate) fn buffer(&self, status: &Status) -> pb::BufferStats {
        let store = self.replica().store();
        let floor = store.log().ends().floor.map_or(0, |floor| floor.index.0);
        let disk_bytes = store.disk_usage().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell the size of the data directory");
            0
        });
        let (horizon, applied, undelivered, max_bytes) = store.keeper().read(|state| {
            let undelivered = views::undelivered_by_required(state);
            (state.horizon, state.applied_position(), undelivered, state.plant().retention.max_bytes)
        });
        pb::BufferStats {
            floor,
            horizon: horizon.0,
            applied: applied.0,
            committed: status.committed.0.max(applied.0),
            last: status.last.0,
            undelivered_entries: undelivered,
            disk_bytes,
            max_bytes,
            free_bytes: Some(self.replica().free_bytes()),
        }
    }
}

fn member(status: &Status, state: &State, id: NodeId, peer: Option<&PeerInfo>, at: Timestamp) -> pb::Member {
    use pb::member::Reach;
    let known = &status.members[&id];
    let leads = status.leader == Some(status.node);
    let (reach, since, reason) = match peer.map(|peer| &peer.standing) {
        _ if id == status.node => (Reach::Itself, None, String::new()),
        Some(PeerStanding::Refused { since, refusal }) => {
            (Reach::Refused, Some(views::moment(at, since.elapsed())), why_refused(*refusal, known))
        }
        // Followers seldom talk to each other: what one knows of another says little of now, and the leader knows more.
        _ if status.leader.is_some_and(|leader| leader != status.node && leader != id) => {
            (Reach::Unspecified, None, String::new())
        }
        Some(PeerStanding::Unreachable { since, reason }) => {
            (Reach::Unreachable, Some(views::moment(at, since.elapsed())), reason.clone())
        }
        Some(_) if leads || status.leader == Some(id) => (Reach::Reachable, None, String::new()),
        Some(_) => (Reach::Unspecified, None, String::new()),
        None if leads => (Reach::Unreachable, None, "never met".to_owned()),
        None => (Reach::Unspecified, None, String::new()),
    };
    let clock = peer.and_then(|peer| peer.clock);
    let confirmed = match id == status.node {
        true => leads.then_some(status.last),
        false => status.matched.get(&id).copied(),
    };
    pb::Member {
        id: id.0,
        name: known.name.clone(),
        address: known.address.clone(),
        role: match known.role {
            Role::Gateway => pb::member::Role::Gateway.into(),
            Role::Witness => pb::member::Role::Witness.into(),
        },
        voter: status.voters.iter().any(|set| set.contains(&id.0)),
        leader: status.leader == Some(id),
        reach: reach.into(),
        since,
        reason,
        clock_offset: clock.map(|clock| nanos_to_proto(clock.offset_nanos)),
        clock_error: clock.map(|clock| duration_to_proto(clock.error)),
        confirmed: confirmed.map(|position| position.0),
        behind: confirmed.map(|position| status.last.0.saturating_sub(position.0)),
        free_bytes: peer.and_then(|peer| peer.free_bytes),
        // What it runs with now, where it has said so: the membership records what it ran with when it was added.
        lease: Some(duration_to_proto(
            peer.and_then(|peer| Some(peer.identity.as_ref()?.lease)).unwrap_or(known.lease),
        )),
        drained: state.drained.get(&id).map(views::standing),
        behind_bytes: None,
        caught_up: false,
    }
}

/// Why a member and this node refuse each other, and what to type where only that helps.
fn why_refused(refusal: Refusal, member: &model::Member) -> String {
    let model::Member { name, address, .. } = member;
    match refusal {
        Refusal::Amnesic => format!(
            "{refusal}: replace this node: empty its data directory, start it again, then `holdfast member replace {name} \
             {name}={address}`"
        ),
        refusal => refusal.to_string(),
    }
}

/// Only what was asked for, in the order it has.
pub(super) fn only<T>(all: Vec<T>, ids: &[String], id: impl Fn(&T) -> &str) -> Vec<T> {
    let wanted = |one: &T| ids.is_empty() || ids.iter().any(|wanted| wanted == id(one));
    all.into_iter().filter(wanted).collect()
}

/// A moment from a request.
pub(super) fn moment_of(at: Option<wire::times::ProtoTimestamp>) -> Option<Timestamp> {
    at.as_ref().map(timestamp_from_proto)
}
