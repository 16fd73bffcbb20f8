//! How long devices may take to answer in a cluster, and the timeouts that promise more.
//!
//! A request ends inside the lease that it is asked under, so a device that is not declared slow has no more than a part
//! of the lease for its answer, whatever its timeout says. Which part is the cluster's to say; here authors are warned.

use std::time::Duration;

use super::diagnostics::{Notes, Spanned};
use crate::plant::units::format_duration;

/// How long a device that is not slow may take to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// That long.
    pub cap: Duration,
    /// What bounds it, for people: `the lease of profile lan`.
    pub by: String,
}

impl Patience {
    /// Warns of a timeout that is the nearest one of a device which is not slow.
    pub(super) fn check(&self, timeout: Spanned<Duration>, notes: &Notes<'_>) {
        if timeout.value <= self.cap {
            return;
        }
        let (whole, cap) = (format_duration(timeout.value), format_duration(self.cap));
        let message = format!("a device has {cap} of this timeout of {whole} to answer in, by {}", self.by);
        let help = "write slow = true for a device that needs longer (connecting may take the whole timeout)";
        notes.warning(timeout.place, message, help);
    }
}
