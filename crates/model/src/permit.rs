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

    /// The longest that an operation may take without anybody having to wait for it: whoever has this right next waits
    /// for the rest of a longer one.
    fn usual_operation(&self) -> Duration;

    /// How long ago this right began. Before that another node may have had it.
    fn held_for(&self) -> Duration;

    /// `Ok` while an operation that takes no longer than `operation` would end before the right does.
    fn check_for(&self, operation: Duration) -> Result<(), Fenced> {
        self.check()?;
        if self.remaining() < operation { Err(Fenced) } else { Ok(()) }
    }
}
