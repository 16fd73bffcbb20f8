//! Members of the cluster, as the membership in the log records them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::StoreId;

/// What a member is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// May lead: reads devices and delivers.
    #[default]
    Gateway,
    /// Votes and stores the log; never touches field or destinations.
    Witness,
}

/// What the cluster knows of one member besides its id.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Member {
    /// What people type.
    pub name: String,
    /// Where peers reach it, `host:port`.
    pub address: String,
    /// The data directory bound to this member: another directory under the same id is refused.
    pub store: StoreId,
    /// What it is for.
    pub role: Role,
    /// The lease it was configured with; the effective lease is the shortest of all voters'.
    pub lease: Duration,
}
