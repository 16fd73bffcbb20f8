//! The closed set of changes that a cluster can agree on.
//!
//! - Each command bears the proposer's wall time and boot id; `apply`'s "now" is that, never its own.
//! - `apply` is total and deterministic: a refusal is a result, the same on every node.
//! - Samples travel encoded ([`Command::Append`] has only their headers here); the payload is opaque to everything
//!   but the forwarder.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::alarm::AlarmKind;
use crate::batch::BatchHeader;
use crate::gap::Cause;
use crate::ids::{BootId, ClusterId, DestinationId, DocumentId, GridId, GroupId, Lineage, NodeId, Revision};
use crate::plant::Plant;
use crate::position::{Cursor, Ordinal, Position};
use crate::time::Timestamp;

/// Who proposed a command, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// The proposer's wall clock: "now" for `apply`.
    pub at: Timestamp,
    /// The proposer's process.
    pub boot: BootId,
}

/// A person or program that asked for an administrative command, and why. The audit trail is the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// Name from the certificate, or the local user.
    pub principal: String,
    /// What they gave as the reason; may be empty.
    pub reason: String,
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// The cluster is born: its identity and the lineage of its positions.
    Found {
        /// The cluster's id.
        cluster: ClusterId,
        /// The cluster's name, as in the node files.
        name: String,
        /// Lineage of positions from here on.
        lineage: Lineage,
    },
    /// A leader begins its reign. Applying a later one decides everything proposed before it.
    Lead {
        /// The leader.
        node: NodeId,
        /// Its name, for records.
        name: String,
        /// Why there is a new leader: `Failover` or `Switchover`.
        cause: Cause,
        /// For how long it had known of nobody who leads; absent if it has known of nobody since its start.
        leaderless: Option<Duration>,
    },
    /// Samples. The payload follows the headers in the entry and is not copied by `apply`.
    Append {
        /// What is known of each batch without its samples.
        batches: Vec<BatchHeader>,
    },
    /// A destination has confirmed everything before `next`.
    Acknowledge {
        /// The destination.
        destination: DestinationId,
        /// Its new cursor.
        next: Cursor,
        /// What it refused for good, by key and reason, with the refused record.
        rejected: Vec<Rejection>,
    },
    /// Slots that were not read, for a group whose next batch may be long in coming.
    Missed {
        /// The poll group.
        group: GroupId,
        /// The grid.
        grid: GridId,
        /// The last slot that was missed; the first is the grid's next.
        last: u64,
        /// Why.
        cause: Cause,
    },
    /// The wall clock disagrees with the grids: close each with a gap of monotonic length, and open it anew.
    Reclock {
        /// Monotonic time since each group's last slot, at least, where the proposer knows it.
        elapsed: Vec<(GroupId, Duration)>,
        /// The next slot of each grid when that was measured: slots that were said since, because they were on their way
        /// then, lie within that time and were not missed.
        next: Vec<(GridId, u64)>,
    },
    /// Everything before `below` may be deleted.
    Truncate {
        /// The new horizon is one before this.
        below: Position,
        /// Whether undelivered entries are given up, and how many samples each required or optional destination
        /// loses (counted by the proposer, because `apply` decodes nothing).
        overrun: Option<Vec<(DestinationId, u64)>>,
    },
    /// A new revision of the plant.
    Configure {
        /// The revision this one was made from; refused if another is in force.
        base: Revision,
        /// The files as they were written, packed.
        bundle: Vec<u8>,
        /// The plant they describe.
        plant: Box<Plant>,
        /// Monotonic time since each group's last slot, at most, where it is known. Who proposes it fills it in.
        elapsed: Vec<(GroupId, Duration)>,
        /// Destinations whose backlog may be discarded.
        discard: Vec<String>,
        /// Who and why.
        request: Request,
    },
    /// A part of documents that are too large for one entry. Changes nothing until a
    /// [`ConfigureStaged`](Self::ConfigureStaged) names them.
    Stage {
        /// What they are.
        document: DocumentId,
        /// Which part, from 0.
        part: u32,
        /// How many there are.
        parts: u32,
        /// The part.
        data: Vec<u8>,
    },
    /// A new revision of the plant from documents that were staged before. Uses them up.
    ConfigureStaged {
        /// The revision this one was made from; refused if another is in force.
        base: Revision,
        /// The documents: files and plant.
        document: DocumentId,
        /// Monotonic time since each group's last slot, at most, where it is known. Who proposes it fills it in.
        elapsed: Vec<(GroupId, Duration)>,
        /// Destinations whose backlog may be discarded.
        discard: Vec<String>,
        /// Who and why.
        request: Request,
    },
    /// A device is taken out of or put back into service, whatever the plant says.
    SetDeviceEnabled {
        /// The device's id.
        device: String,
        /// In or out.
        enabled: bool,
        /// Taken out: when it comes back by itself, by the clock of the stamp; how long that is counts, in steady command
        /// time. Put back: only if it was taken out until just then, so that who was faster with another order is not
        /// overruled.
        until: Option<Timestamp>,
        /// Monotonic time since each group's last slot, at most, where it is known. Who proposes it fills it in.
        elapsed: Vec<(GroupId, Duration)>,
        /// Who and why.
        request: Request,
    },
    /// A destination is held or released.
    SetDestinationPaused {
        /// The destination's id.
        destination: String,
        /// Held or released.
        paused: bool,
        /// Who and why.
        request: Request,
    },
    /// A node may lead, or may not.
    SetDrained {
        /// The node.
        node: NodeId,
        /// May not lead.
        drained: bool,
        /// Who and why.
        request: Request,
    },
    /// Quarantined records are to be offered again.
    RetryQuarantine {
        /// The destination's id.
        destination: String,
        /// Which, by position and ordinal; all where empty.
        keys: Vec<(Position, Ordinal)>,
        /// Who and why.
        request: Request,
    },
    /// Quarantined records were offered again. What is not in quarantine any more is passed over.
    SettleRetries {
        /// The destination.
        destination: DestinationId,
        /// What it has accepted: they leave quarantine.
        accepted: Vec<(Position, Ordinal)>,
        /// What it has refused again: they stay, and wait for another order.
        refused: Vec<RefusedAgain>,
    },
    /// Something happened that people should be able to read about later.
    Event(Event),
    /// An alarm is raised or cleared. One that stands already and is no graver, or does not stand, is left as it is.
    SetAlarm {
        /// What.
        kind: AlarmKind,
        /// Whom it concerns: name of a member, id of a device or destination; empty for the cluster.
        subject: String,
        /// Raised or cleared.
        raised: bool,
        /// How grave.
        severity: Severity,
        /// What is wrong, in half a sentence; for a cleared one how it ended.
        text: String,
    },
}

impl Command {
    /// Of what closes schedules: how long ago the last slot of each group was at most.
    pub fn elapsed_at_most_mut(&mut self) -> Option<&mut Vec<(GroupId, Duration)>> {
        match self {
            Self::Configure { elapsed, .. }
            | Self::ConfigureStaged { elapsed, .. }
            | Self::SetDeviceEnabled { elapsed, .. } => Some(elapsed),
            _ => None,
        }
    }
}

/// A record that a destination refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The record's position.
    pub position: Position,
    /// The record's ordinal.
    pub ordinal: Ordinal,
    /// What the destination said.
    pub reason: String,
    /// The record as JSON, so that it can be shown and offered again after its entry is gone.
    pub record: Vec<u8>,
}

/// A record in quarantine that its destination has refused once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedAgain {
    /// The record's position.
    pub position: Position,
    /// The record's ordinal.
    pub ordinal: Ordinal,
    /// What the destination said this time.
    pub reason: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// How grave it is.
    pub severity: Severity,
    /// What it concerns: `device/hall-2/press-1`, `node/gateway-a`, `destination/historian`, `cluster`.
    pub subject: String,
    /// What happened, in one sentence.
    pub text: String,
}

/// How grave an event or alarm is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A state changed.
    Info,
    /// Unexpected; work goes on.
    Warning,
    /// A person must act.
    Alarm,
}
