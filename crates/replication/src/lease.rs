//! The lease: until when this node may act, and the [`Leadership`] that carries it.
//!
//! - One task copies (state, term, last quorum-acknowledged sending time) from openraft into the [`LeaseCell`]; everybody
//!   else reads the cell. A stale cell is safe: its deadline only lies too early.
//! - `deadline = acknowledged + L·(1 − 2ρ) − guard`, where acknowledged is when a request that a majority has answered was
//!   *sent*: no voter that answered helps to elect another leader before `acknowledged + L`.
//! - A barrier ends leadership for the rest of its term: it is raised before a transfer, whose failure cannot be seen.
//! - A [`Leadership`] is made here and nowhere else, after the `Lead` of its term was applied.

use std::sync::Arc;
use std::time::Duration;

use model::{Fenced, Permit, Term};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How far two monotonic clocks may differ in rate (0.5 %), as the fault budget says.
const RATE_ERROR: f64 = 0.005;

/// The times of one lease profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimes {
    /// L: how long an acknowledged request keeps others from being elected.
    pub lease: Duration,
    /// From one heartbeat to the next.
    pub heartbeat: Duration,
    /// What is kept back for a thread that is scheduled late.
    pub guard: Duration,
}

impl LeaseTimes {
    /// Wired networks in one place: 50 ms heartbeats, L = 500 ms.
    pub const LAN: Self = Self::new(500, 50, 50);
    /// Fast disks and nothing beside: L = 300 ms.
    pub const LAN_FAST: Self = Self::new(300, 40, 40);
    /// Sites joined by slow links: L = 3 s.
    pub const WAN: Self = Self::new(3_000, 300, 200);

    const fn new(lease: u64, heartbeat: u64, guard: u64) -> Self {
        Self {
            lease: Duration::from_millis(lease),
            heartbeat: Duration::from_millis(heartbeat),
            guard: Duration::from_millis(guard),
        }
    }

    /// `L·(1 − 2ρ)`: L on the slowest clock of two.
    pub fn shortened(&self) -> Duration {
        self.lease.mul_f64(1.0 - 2.0 * RATE_ERROR)
    }

    /// `L·(1 + 2ρ) + 100 ms`: how long a restarted voter keeps its vote, because it may have promised a lease.
    pub fn quarantine(&self) -> Duration {
        self.lease.mul_f64(1.0 + 2.0 * RATE_ERROR) + Duration::from_millis(100)
    }
}

/// What is known of this node's own leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lease {
    /// The term in which openraft says that this node leads.
    leads: Option<Term>,
    /// When the request was sent that a majority has acknowledged last.
    acknowledged: Option<Instant>,
    /// No leadership in this term or an earlier one any more.
    barrier: Option<Term>,
}

/// Where the lease is kept. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LeaseCell {
    lease: Arc<watch::Sender<Lease>>,
    times: LeaseTimes,
}

impl LeaseCell {
    pub(crate) fn new(times: LeaseTimes) -> Self {
        let lease = Lease { leads: None, acknowledged: None, barrier: None };
        Self { lease: Arc::new(watch::Sender::new(lease)), times }
    }

    /// Notes what openraft says.
    pub(crate) fn update(&self, leads: Option<Term>, acknowledged: Option<Instant>) {
        self.lease.send_if_modified(|lease| {
            let changed = (lease.leads, lease.acknowledged) != (leads, acknowledged);
            (lease.leads, lease.acknowledged) = (leads, acknowledged);
            changed
        });
    }

    /// Ends leadership for the rest of `term`.
    pub(crate) fn raise_barrier(&self, term: Term) {
        self.lease.send_modify(|lease| lease.barrier = lease.barrier.max(Some(term)));
    }

    /// Whether leadership in `term` was given up.
    pub(crate) fn is_barred(&self, term: Term) -> bool {
        self.lease.borrow().barrier >= Some(term)
    }

    /// The leadership of `term`, to be handed out once its `Lead` is applied.
    pub(crate) fn leadership(&self, term: Term) -> Leadership {
        Leadership { term, cell: self.clone() }
    }

    /// Whether no request of this node can be acting under an unexpired lease: only then may it help to elect another.
    pub(crate) fn is_over(&self) -> bool {
        let lease = *self.lease.borrow();
        match (lease.leads, lease.acknowledged) {
            // Given up by a barrier: nothing acts under it any more, and the successor needs this vote.
            (Some(term), _) if lease.barrier >= Some(term) => true,
            (Some(_), Some(acknowledged)) => Instant::now() >= acknowledged + self.times.lease,
            _ => true,
        }
    }

    fn deadline(&self, term: Term) -> Option<Instant> {
        let lease = *self.lease.borrow();
        if lease.leads != Some(term) || lease.barrier >= Some(term) {
            return None;
        }
        Some(lease.acknowledged? + self.times.shortened() - self.times.guard)
    }
}

/// The right to touch devices and destinations: this node leads in `term`, has applied its `Lead`, and a majority has
/// lately confirmed it. Cheap to clone; clones end together.
#[derive(Debug, Clone)]
pub struct Leadership {
    term: Term,
    cell: LeaseCell,
}

impl Leadership {
    /// The term, which every sample committed under it bears.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Until when the right surely lasts, as far as is known now; `None` when it has ended for good.
    pub fn deadline(&self) -> Option<Instant> {
        self.cell.deadline(self.term)
    }

    /// Resolves when something about the lease has changed, or its deadline may have passed.
    pub async fn changed(&self) {
        let mut changes = self.cell.lease.subscribe();
        // An error means that the replica is gone; its tasks are about to end.
        drop(changes.changed().await);
    }

    /// Resolves when the right of this term can never be used again. A lease that has run out may be renewed.
    pub async fn over(&self) {
        let mut changes = self.cell.lease.subscribe();
        while !self.is_over() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether the right of this term can never be used again.
    pub fn is_over(&self) -> bool {
        let lease = *self.cell.lease.borrow();
        lease.leads != Some(self.term) || lease.barrier >= Some(self.term)
    }

    /// Runs `effect` for as long as the right lasts; dropped in the middle when it ends.
    pub async fn guard<F: Future>(&self, effect: F) -> Result<F::Output, Fenced> {
        tokio::select! {
            biased;
            () = self.ended() => Err(Fenced),
            output = effect => Ok(output),
        }
    }

    /// Resolves when the right has ended or its lease has run out. (A lease that has run out may be renewed later.)
    pub async fn ended(&self) {
        let mut changes = self.cell.lease.subscribe();
        loop {
            let Some(deadline) = self.deadline().filter(|deadline| *deadline > Instant::now()) else {
                return;
            };
            tokio::select! {
                () = sleep_until(deadline) => {}
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

impl PartialEq for Leadership {
    fn eq(&self, other: &Self) -> bool {
        self.term == other.term
    }
}

impl Permit for Leadership {
    fn check(&self) -> Result<(), Fenced> {
        match self.deadline() {
            Some(deadline) if Instant::now() < deadline => Ok(()),
            _ => Err(Fenced),
        }
    }

    fn remaining(&self) -> Duration {
        self.deadline().map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const TIMES: LeaseTimes = LeaseTimes::LAN;

    fn leading() -> (LeaseCell, Leadership) {
        let cell = LeaseCell::new(TIMES);
        cell.update(Some(Term(3)), Some(Instant::now()));
        let leadership = cell.leadership(Term(3));
        (cell, leadership)
    }

    #[tokio::test(start_paused = true)]
    async fn leadership_ends_before_another_node_can_be_elected() {
        let (_cell, leadership) = leading();
        assert_eq!(leadership.check(), Ok(()));
        leadership.ended().await;
        let elapsed = TIMES.shortened() - TIMES.guard;
        assert!(elapsed < TIMES.lease);
        assert_eq!(leadership.check(), Err(Fenced));
        assert_eq!(leadership.remaining(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_acknowledged_heartbeat_extends_it() {
        let (cell, leadership) = leading();
        advance(Duration::from_millis(300)).await;
        cell.update(Some(Term(3)), Some(Instant::now()));
        advance(Duration::from_millis(300)).await;
        assert_eq!(leadership.check(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_barrier_ends_it_for_the_rest_of_the_term() {
        let (cell, leadership) = leading();
        cell.raise_barrier(Term(3));
        cell.update(Some(Term(3)), Some(Instant::now()));
        assert_eq!(leadership.check(), Err(Fenced));
        cell.update(Some(Term(4)), Some(Instant::now()));
        assert_eq!(leadership.check(), Err(Fenced), "the old term stays over");
        assert_eq!(cell.leadership(Term(4)).check(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_effect_is_dropped_when_the_lease_runs_out() {
        let (_cell, leadership) = leading();
        let outcome = leadership.guard(tokio::time::sleep(Duration::from_secs(60))).await;
        assert_eq!(outcome, Err(Fenced));
    }

    #[tokio::test(start_paused = true)]
    async fn no_vote_leaves_a_node_whose_leadership_is_live() {
        let (cell, _leadership) = leading();
        assert!(!cell.is_over());
        advance(TIMES.lease).await;
        assert!(cell.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_hands_over_may_vote_for_its_successor() {
        let (cell, leadership) = leading();
        cell.raise_barrier(Term(3));
        assert_eq!(leadership.check(), Err(Fenced), "nothing acts any more");
        assert!(cell.is_over());
    }
}
