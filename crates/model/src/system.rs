//! System tags: the tags that the cluster itself writes, so that the far side can alarm on silence.
//!
//! - They are ordinary tags with ordinary samples. Their ids begin with `$`, which no tag of a plant does.
//! - Only the leader writes them, as batches of one session that belongs to the cluster and never to a node. Its
//!   number goes on from reign to reign, because the ledger knows the last one.

use std::fmt;

use crate::ids::SessionId;
use crate::value::ValueType;

/// The session of all system tags: the same in every cluster and every reign.
pub const SYSTEM_SESSION: SessionId = SessionId(*b"holdfast.system\0");

/// One system tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SystemTag {
    /// Name of the node that leads.
    Leader,
    /// Whether one more node may fail.
    Redundant,
    /// Counts up by one with each batch of system tags, across failovers: a number left out was not delivered.
    Heartbeat,
    /// Whether a member answers.
    NodeUp(String),
    /// `connecting`, `answering`, `down` or `disabled`.
    DeviceState(String),
    /// When a device last answered, RFC 3339.
    DeviceLastGood(String),
    /// Age of the oldest record that waits for a destination.
    DestinationBacklog(String),
}

impl SystemTag {
    /// The type of its values.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::Leader | Self::DeviceState(_) | Self::DeviceLastGood(_) => ValueType::String,
            Self::Redundant | Self::NodeUp(_) => ValueType::Bool,
            Self::Heartbeat => ValueType::U64,
            Self::DestinationBacklog(_) => ValueType::F64,
        }
    }

    /// The unit of its values; empty where there is none.
    pub fn unit(&self) -> &'static str {
        match self {
            Self::DestinationBacklog(_) => "s",
            _ => "",
        }
    }
}

/// The full id.
impl fmt::Display for SystemTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => f.write_str("$cluster/leader"),
            Self::Redundant => f.write_str("$cluster/redundant"),
            Self::Heartbeat => f.write_str("$cluster/heartbeat"),
            Self::NodeUp(node) => write!(f, "$node/{node}/up"),
            Self::DeviceState(device) => write!(f, "$device/{device}/state"),
            Self::DeviceLastGood(device) => write!(f, "$device/{device}/last-good"),
            Self::DestinationBacklog(destination) => write!(f, "$destination/{destination}/backlog-seconds"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_system_tag_begins_with_a_dollar_sign() {
        let tags = [
            SystemTag::Leader,
            SystemTag::NodeUp("gateway-a".into()),
            SystemTag::DeviceLastGood("hall-2/press-1".into()),
            SystemTag::DestinationBacklog("historian".into()),
        ];
        let ids: Vec<String> = tags.iter().map(ToString::to_string).collect();
        assert_eq!(
            ids,
            [
                "$cluster/leader",
                "$node/gateway-a/up",
                "$device/hall-2/press-1/last-good",
                "$destination/historian/backlog-seconds"
            ]
        );
    }
}
