//! The lease: until when this node may act, and the [`Leadership`] that carries it.
//!
//! - One task copies (state, term, last quorum-acknowledged sending time) from openraft into the [`LeaseCell`]; everybody
//!   else reads the cell. A stale cell is safe: its deadline only lies too early.
//! - `deadline = acknowledged + L·(1 − 2ρ) − guard`, where acknowledged is when a request that a majority has answered was
//!   *sent*: no voter that answered helps to elect another leader before `acknowledged + L`.
//! - L is the shortest lease of all voters ([`shortest`]): the one with the shortest is the first to help another.
//! - What was promised to an operation holds: however leadership ends, this node votes for nobody before the last deadline
//!   that it let an operation rely on. Only a barrier, raised when all operations have ended, releases it, and only for
//!   its own term. Who never handed leadership out has promised nothing.
//! - A barrier ends leadership for the rest of its term: it is raised before a transfer, whose failure cannot be seen.
//! - Whoever must know what operations may rely on is told before they can ([`LeaseEvents`]). Leadership that ends without a
//!   barrier is relied on until it lapses: an operation may have looked just before.
//! - Monotonic clocks stand still while a machine is suspended, leases do not: acknowledgements of requests that were sent
//!   before the machine woke up count for nothing.
//! - A [`Leadership`] is made here and nowhere else, after the `Lead` of its term was applied.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use model::{Fenced, Permit, Term};
use runtime::Lapse;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How far two monotonic clocks may differ in rate (0.5 %), as the fault budget says.
const RATE_ERROR: f64 = 0.005;
/// The part of L that an operation on the outside world may usually take.
const USUAL_OPERATION: f64 = 0.3;

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

    /// The profiles by name.
    pub const PROFILES: [(&str, Self); 3] =
        [("lan", Self::LAN), ("lan-fast", Self::LAN_FAST), ("wan", Self::WAN)];

    /// The profile with a lease of this length.
    pub fn profile_of(lease: Duration) -> Option<&'static str> {
        Self::PROFILES.into_iter().find(|(_, times)| times.lease == lease).map(|(name, _)| name)
    }

    /// How long an operation on the outside world may usually take, if this is the shortest lease of all voters.
    pub fn usual_operation(&self) -> Duration {
        self.lease.mul_f64(USUAL_OPERATION)
    }

    const fn new(lease: u64, heartbeat: u64, guard: u64) -> Self {
        Self {
            lease: Duration::from_millis(lease),
            heartbeat: Duration::from_millis(heartbeat),
            guard: Duration::from_millis(guard),
        }
    }
}

/// `L·(1 + 2ρ) + 100 ms`: how long a restarted voter keeps its vote, because it may have promised a lease.
pub(crate) fn quarantine(lease: Duration) -> Duration {
    lease.mul_f64(1.0 + 2.0 * RATE_ERROR) + Duration::from_millis(100)
}

/// The lease that counts: the shortest of this node's and all voters'. A voter's word of itself counts more than what the
/// membership says it once was configured with (zero: nothing).
pub(crate) fn shortest(
    own: Duration,
    voters: impl IntoIterator<Item = (Duration, Option<Duration>)>,
) -> Duration {
    let lease = |(configured, said): (Duration, Option<Duration>)| said.unwrap_or(configured);
    let counts = |lease: &Duration| !lease.is_zero() && !runtime::mutant("shorter-lease-is-overlooked");
    voters.into_iter().map(lease).filter(counts).fold(own, Duration::min)
}

/// How long this machine has been suspended in all.
#[derive(Clone)]
pub(crate) struct Suspension(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Suspension {
    /// As the machine's clocks tell.
    pub(crate) fn of_this_machine() -> Self {
        Self(Arc::new(runtime::suspended))
    }
}

impl fmt::Debug for Suspension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Suspension").field(&(self.0)()).finish()
    }
}

/// Whoever must know what this node's operations may rely on: hears of each change before they can rely on it, and must
/// not wait for anything.
#[derive(Clone)]
pub struct LeaseEvents(Arc<dyn Fn(Option<Lapse>) + Send + Sync>);

impl LeaseEvents {
    /// Changes are handed to `report`: when what operations rely on lapses; `None` if none can be acting.
    pub fn new(report: impl Fn(Option<Lapse>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(report))
    }
}

impl Default for LeaseEvents {
    /// Nobody hears of them.
    fn default() -> Self {
        Self::new(|_| ())
    }
}

impl fmt::Debug for LeaseEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseEvents")
    }
}

/// Suspension below this is the inexactness of comparing two clocks.
const AWAKE: Duration = Duration::from_millis(1);

/// What openraft says of this node's leadership.
#[derive(Debug, Clone, Copy)]
pub(crate) struct News {
    /// The term in which it leads.
    pub(crate) leads: Option<Term>,
    /// When the request was sent that a majority has acknowledged last.
    pub(crate) acknowledged: Option<Instant>,
    /// The shortest lease of all voters.
    pub(crate) lease: Duration,
}

/// What is known of this node's own leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lease {
    /// The term in which openraft says that this node leads.
    leads: Option<Term>,
    /// When the request was sent that a majority has acknowledged last.
    acknowledged: Option<Instant>,
    /// The shortest lease of all voters.
    length: Duration,
    /// The last term in which this node led with a majority, and until when.
    led: Option<(Term, Instant)>,
    /// Until when it did in an earlier one.
    led_before: Option<Instant>,
    /// No leadership in this term or an earlier one any more.
    barrier: Option<Term>,
    /// The term whose leadership was handed out last.
    handed_out: Option<Term>,
    /// What an operation may be relying on that acts under it.
    promised: Option<Promise>,
    /// What one may be relying on that acts under an earlier one.
    promised_before: Option<Promise>,
    /// What was reported last of what operations rely on.
    reported: Option<Promise>,
    /// How long the machine had been suspended when somebody looked last.
    suspended: Duration,
    /// What was sent before proves nothing: the machine was suspended since.
    awake_since: Option<Instant>,
}

/// That nobody else leads before a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Promise {
    until: Instant,
    /// The lease from which it follows.
    length: Duration,
}

impl Promise {
    /// When it lapses for operations, by the slowest clock, and when for those who might not have noticed.
    fn lapse(self, guard: Duration) -> Lapse {
        let deadly = self.until - (self.length - shortened(self.length));
        Lapse { at: deadly.checked_sub(guard).unwrap_or(deadly), deadly }
    }
}

impl Lease {
    /// What operations may rely on from now on, if leadership of this term is in anybody's hands.
    fn promise(&self) -> Option<Promise> {
        let in_hands = self.leads.is_some() && self.leads == self.handed_out && self.leads > self.barrier;
        let acknowledged = self.acknowledged.filter(|_| in_hands)?;
        Some(Promise { until: acknowledged + self.length, length: self.length })
    }

    fn note_promise(&mut self) {
        self.promised = self.promised.max(self.promise());
    }

    /// What operations may have been relying on at the latest, whatever has ended since.
    fn kept(&self) -> Option<Promise> {
        self.promised.max(self.promised_before)
    }
}

/// Where the lease is kept. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LeaseCell {
    lease: Arc<watch::Sender<Lease>>,
    times: LeaseTimes,
    suspension: Suspension,
    events: LeaseEvents,
}

impl LeaseCell {
    pub(crate) fn new(times: LeaseTimes, suspension: Suspension, events: LeaseEvents) -> Self {
        let lease = Lease {
            leads: None,
            acknowledged: None,
            length: times.lease,
            led: None,
            led_before: None,
            barrier: None,
            handed_out: None,
            promised: None,
            promised_before: None,
            reported: None,
            suspended: (suspension.0)(),
            awake_since: None,
        };
        Self { lease: Arc::new(watch::Sender::new(lease)), times, suspension, events }
    }

    /// Reports what operations rely on, if that has changed. Nobody sees `lease` before this returns.
    fn report(&self, lease: &mut Lease) {
        // What holds now may be shorter than what was promised once.
        let relied_on = lease.promise().or(lease.kept());
        if relied_on != lease.reported {
            lease.reported = relied_on;
            (self.events.0)(relied_on.map(|promise| promise.lapse(self.times.guard)));
        }
    }

    /// Notes what openraft says.
    pub(crate) fn update(&self, news: News) {
        let suspended = (self.suspension.0)();
        self.lease.send_if_modified(|lease| {
            let before = *lease;
            if suspended > lease.suspended + AWAKE {
                (lease.suspended, lease.awake_since) = (suspended, Some(Instant::now()));
            }
            let proves = |at: &Instant| lease.awake_since.is_none_or(|since| *at >= since);
            let is_late = runtime::mutant("lease-counts-from-the-answer");
            let sent = news.acknowledged.map(|sent| if is_late { Instant::now() } else { sent });
            lease.acknowledged = sent.filter(proves);
            (lease.leads, lease.length) = (news.leads, news.lease);
            if let (Some(term), Some(acknowledged)) = (lease.leads, lease.acknowledged) {
                match lease.led {
                    Some((known, until)) if known != term => lease.led_before = Some(until),
                    _ => {}
                }
                lease.led = Some((term, acknowledged));
            }
            lease.note_promise();
            self.report(lease);
            *lease != before
        });
    }

    /// When a majority last confirmed that this node led, in a term before `term`.
    pub(crate) fn led_before(&self, term: Term) -> Option<Instant> {
        let lease = *self.lease.borrow();
        match lease.led {
            Some((known, until)) if known < term => Some(until),
            _ => lease.led_before,
        }
    }

    /// Ends leadership for the rest of `term`. Every operation under it must have ended: for its sake this node need keep
    /// its vote no longer.
    pub(crate) fn raise_barrier(&self, term: Term) {
        self.lease.send_modify(|lease| {
            if !runtime::mutant("barrier-is-not-raised") {
                lease.barrier = lease.barrier.max(Some(term));
            }
            if lease.handed_out == Some(term) {
                lease.promised = None;
            }
            self.report(lease);
        });
    }

    /// Whether leadership in `term` was given up.
    pub(crate) fn is_barred(&self, term: Term) -> bool {
        self.lease.borrow().barrier >= Some(term)
    }

    /// The leadership of `term`, to be handed out once its `Lead` is applied. From now on operations rely on it.
    pub(crate) fn hand_out(&self, term: Term) -> Leadership {
        self.lease.send_modify(|lease| {
            if lease.handed_out != Some(term) {
                lease.promised_before = lease.promised_before.max(lease.promised.take());
                lease.handed_out = Some(term);
            }
            lease.note_promise();
            self.report(lease);
        });
        Leadership { term, since: Instant::now(), cell: self.clone() }
    }

    /// Whether this node leads, and its lease lasts now.
    pub(crate) fn is_live(&self) -> bool {
        let leads = self.lease.borrow().leads;
        leads.and_then(|term| self.deadline(term)).is_some_and(|deadline| Instant::now() < deadline)
    }

    /// Whether no operation of this node can be acting under an unexpired lease: only then may it help to elect another.
    pub(crate) fn is_over(&self) -> bool {
        let kept = self.lease.borrow().kept();
        kept.is_none_or(|promise| Instant::now() >= promise.until)
    }

    /// How long an operation on the outside world may usually take, by the shortest lease of all voters.
    pub(crate) fn usual_operation(&self) -> Duration {
        self.length().mul_f64(USUAL_OPERATION)
    }

    /// The shortest lease of all voters, as far as this node knows.
    pub(crate) fn length(&self) -> Duration {
        self.lease.borrow().length
    }

    fn deadline(&self, term: Term) -> Option<Instant> {
        let lease = *self.lease.borrow();
        if lease.leads != Some(term) || lease.barrier >= Some(term) {
            return None;
        }
        (lease.acknowledged? + shortened(lease.length)).checked_sub(self.times.guard)
    }

    /// Whether the machine was suspended since the lease was last confirmed.
    fn has_overslept(&self) -> bool {
        let is_known = runtime::mutant("suspension-is-overlooked");
        !is_known && (self.suspension.0)() > self.lease.borrow().suspended + AWAKE
    }
}

/// `L·(1 − 2ρ)`: L on the slowest clock of two.
fn shortened(lease: Duration) -> Duration {
    lease.mul_f64(1.0 - 2.0 * RATE_ERROR)
}

/// The right to touch devices and destinations: this node leads in `term`, has applied its `Lead`, and a majority has
/// lately confirmed it. Cheap to clone; clones end together.
#[derive(Debug, Clone)]
pub struct Leadership {
    term: Term,
    /// When it was handed out.
    since: Instant,
    cell: LeaseCell,
}

impl Leadership {
    /// The term, which every sample committed under it bears.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Until when the right surely lasts, as far as is known now; `None` when it has ended for good, or as long as no
    /// majority has confirmed it since this machine woke up.
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

    /// Resolves when the right of this term can never be used again, or its lease has run out and has not been renewed for
    /// `grace`: no majority answers.
    pub async fn lost(&self, grace: Duration) {
        let runs_out = || self.deadline().map_or_else(Instant::now, |deadline| deadline + grace);
        loop {
            // Without a deadline nothing was acknowledged lately.
            let until = self.deadline().map_or_else(|| Instant::now() + grace, |deadline| deadline + grace);
            tokio::select! {
                () = self.over() => return,
                () = sleep_until(until) => {}
            }
            if Instant::now() >= runs_out() {
                return;
            }
        }
    }

    /// Whether the right lasts now.
    pub fn is_live(&self) -> bool {
        self.check().is_ok()
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
            let Some(deadline) = self.deadline().filter(|_| self.check().is_ok()) else { return };
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
        let has_ended = self.remaining().is_zero() && !runtime::mutant("lease-is-ignored");
        if has_ended { Err(Fenced) } else { Ok(()) }
    }

    fn remaining(&self) -> Duration {
        if self.cell.has_overslept() {
            return Duration::ZERO;
        }
        self.deadline().map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn usual_operation(&self) -> Duration {
        self.cell.usual_operation()
    }

    fn held_for(&self) -> Duration {
        self.since.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::time::advance;

    use super::*;

    const TIMES: LeaseTimes = LeaseTimes::LAN;

    fn news(term: u64, acknowledged: Instant) -> News {
        News { leads: Some(Term(term)), acknowledged: Some(acknowledged), lease: TIMES.lease }
    }

    fn cell() -> LeaseCell {
        LeaseCell::new(TIMES, Suspension(Arc::new(|| Duration::ZERO)), LeaseEvents::default())
    }

    fn leading() -> (LeaseCell, Leadership) {
        let cell = cell();
        cell.update(news(3, Instant::now()));
        let leadership = cell.hand_out(Term(3));
        (cell, leadership)
    }

    #[tokio::test(start_paused = true)]
    async fn leadership_that_no_majority_has_confirmed_yet_is_not_over() {
        let cell = cell();
        cell.update(News { acknowledged: None, ..news(3, Instant::now()) });
        let leadership = cell.hand_out(Term(3));
        assert_eq!((leadership.deadline(), leadership.is_over()), (None, false), "what leads waits for it");
        cell.update(news(3, Instant::now()));
        assert!(leadership.is_live());
    }

    #[tokio::test(start_paused = true)]
    async fn leadership_ends_before_another_node_can_be_elected() {
        let (_cell, leadership) = leading();
        let began = Instant::now();
        assert_eq!(leadership.check(), Ok(()));
        leadership.ended().await;
        assert!(began.elapsed() + TIMES.guard < TIMES.lease);
        assert_eq!(leadership.check(), Err(Fenced));
        assert_eq!(leadership.remaining(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_acknowledged_heartbeat_extends_it() {
        let (cell, leadership) = leading();
        advance(Duration::from_millis(300)).await;
        cell.update(news(3, Instant::now()));
        advance(Duration::from_millis(300)).await;
        assert_eq!(leadership.check(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_barrier_ends_it_for_the_rest_of_the_term() {
        let (cell, leadership) = leading();
        cell.raise_barrier(Term(3));
        cell.update(news(3, Instant::now()));
        assert_eq!(leadership.check(), Err(Fenced));
        cell.update(news(4, Instant::now()));
        assert_eq!(leadership.check(), Err(Fenced), "the old term stays over");
        assert_eq!(cell.hand_out(Term(4)).check(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_remembered_until_when_this_node_led_before() {
        let (cell, _) = leading();
        let first = Instant::now();
        assert_eq!(cell.led_before(Term(3)), None, "the term itself is not before it");
        advance(Duration::from_secs(60)).await;
        cell.update(News { leads: Some(Term(4)), acknowledged: None, lease: TIMES.lease });
        assert_eq!(cell.led_before(Term(4)), Some(first));
        let second = Instant::now();
        cell.update(news(4, second));
        assert_eq!(
            cell.led_before(Term(4)),
            Some(first),
            "a majority that answers now says nothing of before"
        );
        assert_eq!(cell.led_before(Term(5)), Some(second));
    }

    #[tokio::test(start_paused = true)]
    async fn an_effect_is_dropped_when_the_lease_runs_out() {
        let (_cell, leadership) = leading();
        let outcome = leadership.guard(tokio::time::sleep(Duration::from_secs(60))).await;
        assert_eq!(outcome, Err(Fenced));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_lost_when_its_lease_was_not_renewed_for_long() {
        let (cell, leadership) = leading();
        let began = Instant::now();
        let renewed = async {
            tokio::time::sleep(TIMES.lease).await;
            assert_eq!(leadership.check(), Err(Fenced));
            cell.update(news(3, Instant::now()));
        };
        tokio::join!(leadership.lost(TIMES.lease), renewed);
        let after = began.elapsed();
        assert!(after > TIMES.lease * 2 && after < TIMES.lease * 3, "after {after:?}");
        cell.raise_barrier(Term(3));
        leadership.lost(Duration::from_secs(60)).await;
        assert_eq!(began.elapsed(), after, "what is over is lost at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leadership_that_ends_early_keeps_its_vote_until_its_operations_have_ended() {
        let (cell, leadership) = leading();
        advance(TIMES.lease / 5).await;
        cell.update(News { leads: None, ..news(3, Instant::now()) });
        assert_eq!(leadership.check(), Err(Fenced), "a higher vote was seen, whoever acknowledged what");
        assert!(!cell.is_over(), "a request may be under way");
        advance(TIMES.lease * 4 / 5).await;
        assert!(cell.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_hands_over_may_vote_for_its_successor() {
        let (cell, leadership) = leading();
        assert!(!cell.is_over());
        cell.raise_barrier(Term(3));
        assert_eq!(leadership.check(), Err(Fenced), "nothing acts any more");
        assert!(cell.is_over());
        cell.update(news(3, Instant::now()));
        assert!(cell.is_over(), "later acknowledgements of the same term promise nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_never_handed_leadership_out_may_vote_at_once() {
        let cell = cell();
        cell.update(news(3, Instant::now()));
        assert!(cell.is_over(), "nobody can have relied on it");
        let leadership = cell.hand_out(Term(3));
        assert!(!cell.is_over());
        cell.update(News { leads: None, acknowledged: None, lease: TIMES.lease });
        cell.update(news(5, Instant::now() + TIMES.lease));
        assert_eq!(leadership.check(), Err(Fenced));
        advance(TIMES.lease).await;
        assert!(cell.is_over(), "what a later term, in nobody's hands, adds is no promise");
    }

    #[tokio::test(start_paused = true)]
    async fn a_barrier_releases_no_promise_of_an_earlier_term() {
        for is_handed_out in [true, false] {
            let (cell, _earlier) = leading();
            let promised = Instant::now() + TIMES.lease;
            cell.update(News { leads: None, acknowledged: None, lease: TIMES.lease });
            advance(TIMES.lease / 5).await;
            cell.update(news(5, Instant::now()));
            let later = is_handed_out.then(|| cell.hand_out(Term(5)));
            cell.raise_barrier(Term(5));
            assert_eq!(later.map(|later| later.check()), is_handed_out.then_some(Err(Fenced)));
            assert!(!cell.is_over(), "a request of the earlier term may be under way");
            tokio::time::sleep_until(promised).await;
            assert!(cell.is_over(), "the later term promises nothing any more");
        }
    }

    #[test]
    fn what_a_voter_says_of_its_lease_counts_more_than_what_it_was_configured_with() {
        let ms = Duration::from_millis;
        assert_eq!(shortest(ms(500), []), ms(500));
        assert_eq!(shortest(ms(500), [(ms(300), None), (ms(500), Some(ms(500)))]), ms(300));
        assert_eq!(shortest(ms(3_000), [(ms(500), Some(ms(3_000)))]), ms(3_000), "it was configured anew");
        assert_eq!(shortest(ms(500), [(ms(500), Some(ms(300)))]), ms(300));
        assert_eq!(shortest(ms(500), [(ms(0), None)]), ms(500), "nothing is known of it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_was_suspended_acts_only_after_a_new_acknowledgement() {
        let slept = Arc::new(AtomicU64::new(7_000));
        let clock = Arc::clone(&slept);
        let suspension = Suspension(Arc::new(move || Duration::from_millis(clock.load(Ordering::SeqCst))));
        let cell = LeaseCell::new(TIMES, suspension, LeaseEvents::default());
        let before = Instant::now();
        cell.update(news(3, before));
        let leadership = cell.hand_out(Term(3));
        assert_eq!(leadership.check(), Ok(()));
        slept.fetch_add(60_000, Ordering::SeqCst);
        assert_eq!(leadership.check(), Err(Fenced), "the monotonic clock stood still, the others went on");
        advance(Duration::from_millis(10)).await;
        cell.update(news(3, before));
        assert_eq!(leadership.check(), Err(Fenced), "sent before the machine slept");
        cell.update(news(3, Instant::now()));
        assert_eq!(leadership.check(), Ok(()));
    }

    /// A cell, and what it has reported since somebody looked.
    fn reporting() -> (LeaseCell, impl Fn() -> Vec<Option<Lapse>>) {
        let reported = Arc::<Mutex<Vec<_>>>::default();
        let reports = Arc::clone(&reported);
        let events = LeaseEvents::new(move |lapse| reports.lock().expect("not poisoned").push(lapse));
        let cell = LeaseCell::new(TIMES, Suspension(Arc::new(|| Duration::ZERO)), events);
        (cell, move || std::mem::take(&mut *reported.lock().expect("not poisoned")))
    }

    #[tokio::test(start_paused = true)]
    async fn what_operations_rely_on_is_reported_until_a_barrier_releases_it() {
        let (cell, reported) = reporting();
        cell.update(news(3, Instant::now()));
        assert!(reported().is_empty(), "nobody can rely on it yet");
        let leadership = cell.hand_out(Term(3));
        let first = reported();
        let [Some(lapse)] = first[..] else { panic!("expected when it lapses, saw {first:?}") };
        assert_eq!(Some(lapse.at), leadership.deadline(), "then no operation acts any more");
        assert_eq!(lapse.deadly, lapse.at + TIMES.guard);
        assert!(lapse.deadly < Instant::now() + TIMES.lease, "another may be elected only later");
        let before = Instant::now();
        advance(Duration::from_millis(50)).await;
        cell.update(news(3, before));
        assert!(reported().is_empty(), "nothing has changed");
        cell.update(news(3, Instant::now()));
        let renewed = reported();
        assert_eq!(renewed, vec![leadership.deadline().map(|at| Lapse { at, deadly: at + TIMES.guard })]);
        cell.raise_barrier(Term(3));
        assert_eq!(reported(), vec![None]);
        cell.update(news(3, Instant::now()));
        assert!(reported().is_empty(), "the term is over");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leadership_that_ends_early_is_relied_on_until_it_lapses() {
        let (cell, reported) = reporting();
        cell.update(news(3, Instant::now()));
        let _leadership = cell.hand_out(Term(3));
        assert_eq!(reported().len(), 1);
        advance(TIMES.lease / 5).await;
        cell.update(News { leads: None, ..news(3, Instant::now()) });
        assert!(reported().is_empty(), "an operation may have looked just before");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_becomes_shorter_lapses_sooner() {
        let (cell, reported) = reporting();
        cell.update(news(3, Instant::now()));
        let leadership = cell.hand_out(Term(3));
        drop(reported());
        cell.update(News { lease: TIMES.lease / 2, ..news(3, Instant::now()) });
        let at = reported().pop().flatten().map(|lapse| lapse.at);
        assert_eq!(at, leadership.deadline());
    }
}
