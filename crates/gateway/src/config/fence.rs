//! `[fence]`: what keeps a node from acting when its leadership may be over, beside the lease that each operation asks for.

use model::plant::document::Fields;

/// Which fences stand behind the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// The kernel ends the process if it stands still for longer than its lease.
    pub dead_man: bool,
}

impl Fence {
    /// The lease alone.
    pub const LEASE: Self = Self { dead_man: false };

    /// All that stand, by name.
    pub(crate) fn names(self) -> Vec<String> {
        let behind = [("dead-man", self.dead_man)].into_iter().filter(|(_, stands)| *stands);
        std::iter::once("lease").chain(behind.map(|(name, _)| name)).map(str::to_owned).collect()
    }
}

impl Default for Fence {
    fn default() -> Self {
        Self { dead_man: true }
    }
}

/// Reads the table.
pub(super) fn read(mut fields: Fields<'_>) -> Fence {
    let dead_man = fields.flag("dead-man").map(|flag| flag.value);
    fields.finish();
    Fence { dead_man: dead_man.unwrap_or(Fence::default().dead_man) }
}
