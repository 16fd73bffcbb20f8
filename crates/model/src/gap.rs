//! Why there are no samples: the closed list of causes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::InvalidId;

/// Why a run of slots has no samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A leader died or was cut off, and another took over.
    Failover,
    /// Leadership was handed over on purpose.
    Switchover,
    /// No majority of the voters could be reached.
    NoQuorum,
    /// The device did not answer.
    DeviceDown,
    /// The scan took longer than its period.
    Late,
    /// The node's process stood still.
    Paused,
    /// More was asked of the node than it could do.
    Overload,
    /// There was no room to store samples.
    DiskFull,
    /// An operator or the plant document disabled the device or group.
    Disabled,
    /// The wall clock was found to be wrong and the schedule was opened anew.
    Clock,
    /// The schedule or its tags were changed.
    Configuration,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 11] = [
        Self::Failover,
        Self::Switchover,
        Self::NoQuorum,
        Self::DeviceDown,
        Self::Late,
        Self::Paused,
        Self::Overload,
        Self::DiskFull,
        Self::Disabled,
        Self::Clock,
        Self::Configuration,
    ];

    /// The name used in records and listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Switchover => "switchover",
            Self::NoQuorum => "no-quorum",
            Self::DeviceDown => "device-down",
            Self::Late => "late",
            Self::Paused => "paused",
            Self::Overload => "overload",
            Self::DiskFull => "disk-full",
            Self::Disabled => "disabled",
            Self::Clock => "clock",
            Self::Configuration => "configuration",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Cause {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::ALL
            .into_iter()
            .find(|cause| cause.name() == text)
            .ok_or_else(|| InvalidId { expected: "a gap cause", found: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_their_text_form() {
        for cause in Cause::ALL {
            assert_eq!(cause.name().parse::<Cause>(), Ok(cause));
        }
    }
}
