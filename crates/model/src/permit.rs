//! The question that must be asked before a byte leaves for a device or a destination.
//!
//! The only real implementation is `replication`'s `Leadership`; drivers and destinations see this trait alone.

use std::time::Duration;

/// The answer "no": this node is not, or no longer, the one that may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("leadership has ended or its lease has run out")]
pub struct Fenced;

/// The right to act on the outside world, as far as it is known at this moment.
pub trait Permit: Send + Sync + 'static {
    /// `Ok` while this node may send now.
    fn check(&self) -> Result<(), Fenced>;

    /// How long from now the right surely lasts; zero when it has ended. It may be renewed meanwhile.
    fn remaining(&self) -> Duration;
}
