//! The kinds of alarms: a closed list.
//!
//! What raises each of them is decided by the gateway, from what is known; what stands is kept in the ledger, so that it
//! outlives the node that noticed it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::InvalidId;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlarmKind {
    /// No majority of the voters can be reached.
    NoQuorum,
    /// If one more voter fails, there is no majority.
    CannotLoseAnotherNode,
    /// A device does not answer.
    DeviceDown,
    /// The leader reaches few of the devices: it may be cut off from the field.
    LeaderReachesFewDevices,
    /// A destination does not take anything.
    DestinationStalled,
    /// The buffer, or the disk under it, is 70, 80 or 90 percent full.
    DiskFilling,
    /// Clocks of members are apart, or one was set.
    Clock,
    /// A certificate is valid for less than 90 days.
    CertificateExpires,
    /// With two voters (or one) there is no automatic failover.
    TwoVotersOnly,
    /// Files of a destination will lie on several machines.
    FilesNotOnAShare,
    /// A destination has refused records for good.
    QuarantineNotEmpty,
    /// Members run with different lease profiles.
    ProfilesDiffer,
    /// A member cannot be reached, or does not belong.
    MemberUnreachable,
}

impl AlarmKind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::NoQuorum,
        Self::CannotLoseAnotherNode,
        Self::DeviceDown,
        Self::LeaderReachesFewDevices,
        Self::DestinationStalled,
        Self::DiskFilling,
        Self::Clock,
        Self::CertificateExpires,
        Self::TwoVotersOnly,
        Self::FilesNotOnAShare,
        Self::QuarantineNotEmpty,
        Self::ProfilesDiffer,
        Self::MemberUnreachable,
    ];

    /// The name used in metrics, events and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoQuorum => "no-quorum",
            Self::CannotLoseAnotherNode => "cannot-lose-another-node",
            Self::DeviceDown => "device-down",
            Self::LeaderReachesFewDevices => "leader-reaches-few-devices",
            Self::DestinationStalled => "destination-stalled",
            Self::DiskFilling => "disk-filling",
            Self::Clock => "clock",
            Self::CertificateExpires => "certificate-expires",
            Self::TwoVotersOnly => "two-voters-only",
            Self::FilesNotOnAShare => "files-not-on-a-share",
            Self::QuarantineNotEmpty => "quarantine-not-empty",
            Self::ProfilesDiffer => "profiles-differ",
            Self::MemberUnreachable => "member-unreachable",
        }
    }

    /// What its subject is, as events name it: `device`, `destination` or `node`; a subject without a name is the
    /// cluster.
    pub fn subject_kind(self) -> &'static str {
        match self {
            Self::DeviceDown => "device",
            Self::DestinationStalled | Self::FilesNotOnAShare | Self::QuarantineNotEmpty => "destination",
            _ => "node",
        }
    }
}

impl fmt::Display for AlarmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for AlarmKind {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| InvalidId { expected: "a kind of alarm", found: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_their_text_form() {
        for kind in AlarmKind::ALL {
            assert_eq!(kind.name().parse::<AlarmKind>(), Ok(kind));
        }
    }
}
