//! What this node remembers of the others' leading: when it last heard from a leader and last refused a candidate with a
//! shorter log, and who last asked it to take over.
//!
//! - In memory: a restart forgets it, and the quarantine after a start stands in for it.
//! - Each moment only moves forward, whoever notes it last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::ids::Term;
use tokio::time::Instant;

/// When this node last heard from a leader, by whom it was last asked to take over, and when it may vote again. Cheap to
/// clone.
#[derive(Debug, Clone)]
pub(crate) struct Contact {
    inner: Arc<ContactInner>,
}

#[derive(Debug)]
struct ContactInner {
    /// Times are kept as nanoseconds since this.
    origin: Instant,
    leader: AtomicU64,
    /// A term.
    handed_over: AtomicU64,
    refused_shorter: AtomicU64,
    quarantine_ends: Instant,
}

impl Contact {
    pub(crate) fn new(quarantine: Duration) -> Self {
        let origin = Instant::now();
        let inner = ContactInner {
            origin,
            leader: AtomicU64::new(0),
            handed_over: AtomicU64::new(0),
            refused_shorter: AtomicU64::new(0),
            quarantine_ends: origin + quarantine,
        };
        Self { inner: Arc::new(inner) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.inner.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn note(&self, at: &AtomicU64) {
        at.fetch_max(self.now(), Ordering::Relaxed);
    }

    /// A leader was heard.
    pub(crate) fn heard_leader(&self) {
        self.note(&self.inner.leader);
    }

    /// The leader of this term has ended and asked one of its voters to take over: all of them are told.
    pub(crate) fn asked_to_take_over(&self, by: Term) {
        self.inner.handed_over.fetch_max(by.0, Ordering::Relaxed);
    }

    /// This node refused its vote to a candidate whose log is shorter than its own.
    pub(crate) fn refused_shorter(&self) {
        self.note(&self.inner.refused_shorter);
    }

    /// When a leader was last heard; the start of this process, if none was.
    pub(crate) fn last_leader(&self) -> Instant {
        self.inner.origin + Duration::from_nanos(self.inner.leader.load(Ordering::Relaxed))
    }

    /// When a leader was last heard; `None` if none was since this process started.
    pub(crate) fn heard(&self) -> Option<Instant> {
        let at = self.inner.leader.load(Ordering::Relaxed);
        (at > 0).then(|| self.inner.origin + Duration::from_nanos(at))
    }

    /// The term of the last leader that asked a voter, this one or another, to take over; 0 if none did.
    pub(crate) fn handed_over_by(&self) -> Term {
        Term(self.inner.handed_over.load(Ordering::Relaxed))
    }

    /// Whether this node refused its vote within `window` to a candidate whose log is shorter than its own.
    pub(crate) fn has_refused_shorter(&self, window: Duration) -> bool {
        let at = self.inner.refused_shorter.load(Ordering::Relaxed);
        at > 0 && self.now().saturating_sub(at) < u64::try_from(window.as_nanos()).unwrap_or(u64::MAX)
    }

    /// When this node may vote and campaign.
    pub(crate) fn quarantine_ends(&self) -> Instant {
        self.inner.quarantine_ends
    }
}
