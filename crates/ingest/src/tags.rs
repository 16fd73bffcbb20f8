//! The seam to the plant: which tags may be pushed.
//!
//! The gateway implements [`TagResolver`] on its catalog of the revision in force.

use model::{Revision, TagId, ValueType};

/// Looks tags up in the configuration in force.
pub trait TagResolver: Send + Sync + 'static {
    /// Finds a tag of a device that pushes, by its full id `device/name`.
    fn resolve(&self, name: &str) -> Result<(TagId, ValueType), Unresolved>;

    /// The revision in force. When it changes, what [`TagResolver::resolve`] said before may no longer hold.
    fn revision(&self) -> Revision;
}

/// Why a name is not that of a tag that may be pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unresolved {
    /// The plant has no such tag.
    #[error("the plant has no such tag")]
    Unknown,
    /// The gateway polls it.
    #[error("the tag is polled, it cannot be pushed")]
    Polled,
}
