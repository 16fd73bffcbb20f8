//! `[fence]`: what keeps a node from acting when its leadership may be over, beside the lease that each operation asks for.

use model::plant::document::Fields;

/// Which fences stand behind the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// The kernel ends the process if it stands still for longer than its lease.
    pub dead_man: bool,
    /// nftables lets requests to devices out only while the lease lasts.
    pub nftables: bool,
}

impl Fence {
    /// The lease alone.
    pub const LEASE: Self = Self { dead_man: false, nftables: false };

    /// All that stand, by name.
    pub(crate) fn names(self) -> Vec<String> {
        let behind = [("dead-man", self.dead_man), ("nftables", self.nftables)];
        let behind = behind.into_iter().filter(|(_, stands)| *stands);
        std::iter::once("lease").chain(behind.map(|(name, _)| name)).map(str::to_owned).collect()
    }
}

impl Default for Fence {
    fn default() -> Self {
        Self { dead_man: true, ..Self::LEASE }
    }
}

/// Reads the table.
pub(super) fn read(mut fields: Fields<'_>) -> Fence {
    let dead_man = fields.flag("dead-man").map(|flag| flag.value);
    let nftables = fields.flag("nftables").map(|flag| flag.value);
    fields.finish();
    let usual = Fence::default();
    Fence { dead_man: dead_man.unwrap_or(usual.dead_man), nftables: nftables.unwrap_or(usual.nftables) }
}
