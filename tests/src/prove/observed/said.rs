//! What a node says of itself, and what one answer alone, or two of one process, may not say.

use serde::{Deserialize, Serialize};
use wire::proto::v1 as pb;
use wire::times::nanos_from_proto;

/// What lines say that hold it.
pub(super) const SAID: &str = "said";

/// What a node said of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Said {
    /// When it was asked, in monotonic nanoseconds; it had answered at the time of the line.
    pub(super) asked_ns: u64,
    /// In which life of its process; `None` if another one began meanwhile.
    pub(super) life: Option<u32>,
    /// The leader's term, if it knew of one.
    pub(super) term: Option<u64>,
    /// It led, and its lease was live.
    pub(super) leads: bool,
    pub(super) floor: u64,
    pub(super) horizon: u64,
    pub(super) applied: u64,
    pub(super) committed: u64,
    pub(super) last: u64,
    pub(super) destinations: Vec<DestinationSaid>,
}

/// What a node said of a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DestinationSaid {
    pub(super) id: String,
    /// It is the HTTP receiver; the other one writes CSV files.
    pub(super) is_http: bool,
    pub(super) is_required: bool,
    /// The entry that holds the next record to deliver.
    pub(super) cursor: u64,
}

impl Said {
    /// `None` if the node says nothing of its buffer.
    pub(super) fn of(status: &pb::ClusterStatus, asked_ns: u64, life: Option<u32>) -> Option<Self> {
        let buffer = status.buffer.as_ref()?;
        let leader = status.leader.as_ref();
        let has_lease =
            |leader: &pb::Leader| leader.lease.as_ref().is_some_and(|lease| nanos_from_proto(lease) > 0);
        let destination = |destination: &pb::Destination| {
            Some(DestinationSaid {
                id: destination.id.clone(),
                is_http: destination.kind == "http",
                is_required: destination.required,
                cursor: destination.cursor.as_ref()?.position,
            })
        };
        Some(Self {
            asked_ns,
            life,
            term: leader.map(|leader| leader.term),
            leads: leader.is_some_and(|leader| leader.name == status.node && has_lease(leader)),
            floor: buffer.floor,
            horizon: buffer.horizon,
            applied: buffer.applied,
            committed: buffer.committed,
            last: buffer.last,
            destinations: status.destinations.iter().filter_map(destination).collect(),
        })
    }

    /// What is lower in what the same process said later.
    pub(super) fn goes_back_to(&self, later: &Self) -> Vec<String> {
        let figures = [
            ("the term", self.term, later.term),
            ("the floor", Some(self.floor), Some(later.floor)),
            ("the horizon", Some(self.horizon), Some(later.horizon)),
            ("what is applied", Some(self.applied), Some(later.applied)),
            ("what is committed", Some(self.committed), Some(later.committed)),
        ];
        let back = figures.into_iter().filter_map(|(what, before, now)| Some((what, before?, now?)));
        back.filter(|(_, before, now)| now < before)
            .map(|(what, before, now)| format!("{what} went back from {before} to {now} in one life"))
            .collect()
    }

    /// What does not lie where it must on the one number line. A node reads it from left to right, while it grows.
    pub(super) fn out_of_line(&self) -> Vec<String> {
        let Self { leads, floor, horizon, applied, committed, .. } = *self;
        let mut wrong = Vec::new();
        // Behind a snapshot a node must first apply that the horizon has passed it.
        let is_below = floor > if leads { horizon } else { applied };
        if is_below || horizon > applied || applied > committed {
            wrong.push(format!("floor {floor}, horizon {horizon}, applied {applied}, committed {committed}"));
        }
        let required = self.destinations.iter().filter(|destination| destination.is_required);
        for DestinationSaid { id, cursor, .. } in required.filter(|destination| destination.cursor <= horizon)
        {
            wrong.push(format!("{id} is to be sent {cursor} next, and the horizon is {horizon}"));
        }
        wrong
    }
}
