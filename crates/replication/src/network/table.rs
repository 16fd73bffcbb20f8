//! What peers said of themselves, and when: the source of `status`, alarms, admission and the effective lease.
//!
//! - Written by handshakes (both directions), heartbeat answers and calls that keep connections up; read through a watch.
//! - A peer that was never met is not in the table; one that was stays in it, with the time it was last seen.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use model::{NodeId, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use super::identity::Identity;
use super::refusal::Refusal;

/// How long a clock estimate stands against less exact ones. Crystals drift by at most 100 ppm: 3 ms in this time.
const ESTIMATE_LIFE: Duration = Duration::from_secs(30);

/// All peers met by this node. Cheap to clone.
#[derive(Clone)]
pub struct PeerTable {
    peers: Arc<watch::Sender<BTreeMap<NodeId, PeerInfo>>>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerInfo {
    /// What it said of itself in the last handshake; absent while none succeeded.
    pub identity: Option<Identity>,
    /// How we stand with it.
    pub standing: PeerStanding,
    /// When it last answered us or spoke to us.
    pub last_seen: Option<Instant>,
    /// How far its wall clock is from ours.
    pub clock: Option<ClockEstimate>,
    /// Bytes free for its data directory above the reserve, when it last said.
    pub free_bytes: Option<u64>,
    /// Whether it votes and takes leadership over at present, when it last said.
    pub votes: Option<bool>,
}

/// How we stand with a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerStanding {
    /// It speaks to us; we have not called it since.
    Heard,
    /// Our last call was answered.
    Reachable,
    /// It does not answer us, and has not been heard for a while.
    Unreachable {
        /// Since when.
        since: Instant,
        /// Why, for people.
        reason: String,
    },
    /// It refused us, or we refused it.
    Refused {
        /// Since when.
        since: Instant,
        /// Why.
        refusal: Refusal,
    },
}

/// How far a peer's wall clock is from ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockEstimate {
    /// Its clock minus ours, nanoseconds.
    pub offset_nanos: i64,
    /// The true offset lies within this of the estimate: half the round trip.
    pub error: Duration,
    /// When it was measured.
    pub at: Instant,
}

/// One exchange with a peer, from which the clocks are compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchange {
    /// Our wall clock when we sent.
    pub(super) sent: Timestamp,
    /// Its wall clock when it answered.
    pub(super) theirs: Timestamp,
    /// From sending to the answer, on our monotonic clock.
    pub(super) round_trip: Duration,
}

impl Exchange {
    fn estimate(self, at: Instant) -> ClockEstimate {
        let half = self.round_trip / 2;
        ClockEstimate { offset_nanos: self.theirs.nanos_since(self.sent.plus(half)), error: half, at }
    }
}

impl ClockEstimate {
    /// The better of two estimates: the more exact one while both can be true, otherwise the newer, because then
    /// a clock was set.
    fn or_newer(self, newer: Self) -> Self {
        let apart = self.offset_nanos.abs_diff(newer.offset_nanos);
        let compatible = u128::from(apart) <= (self.error + newer.error).as_nanos();
        let fresh = newer.at.duration_since(self.at) < ESTIMATE_LIFE;
        match compatible && fresh && self.error < newer.error {
            true => self,
            false => newer,
        }
    }
}

impl PeerTable {
    /// A table without peers.
    pub fn new() -> Self {
        Self { peers: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }

    /// What is known of one peer.
    pub fn get(&self, node: NodeId) -> Option<PeerInfo> {
        self.peers.borrow().get(&node).cloned()
    }

    /// All peers, now and whenever something changes. Do not hold the borrow across an await.
    pub fn subscribe(&self) -> watch::Receiver<BTreeMap<NodeId, PeerInfo>> {
        self.peers.subscribe()
    }

    /// A handshake of ours succeeded.
    pub(super) fn met(&self, node: NodeId, identity: Identity, exchange: Exchange, free_bytes: u64) {
        self.answered(node, exchange, free_bytes);
        self.update(node, |peer| peer.identity = Some(identity));
    }

    /// The peer introduced itself to us.
    pub(super) fn heard(&self, node: NodeId, identity: Identity) {
        self.update(node, |peer| {
            peer.identity = Some(identity);
            peer.last_seen = Some(Instant::now());
        });
    }

    /// The peer answered a call that carried its clock and free space.
    pub(super) fn answered(&self, node: NodeId, exchange: Exchange, free_bytes: u64) {
        self.told(node, exchange, free_bytes);
        self.update(node, |peer| peer.last_seen = Some(Instant::now()));
    }

    /// The same of a call that only keeps a connection up. It does not count as seen: a follower sees a leader as long as
    /// that leads, not as long as it answers.
    pub(super) fn told(&self, node: NodeId, exchange: Exchange, free_bytes: u64) {
        let now = Instant::now();
        self.update(node, |peer| {
            let newer = exchange.estimate(now);
            peer.clock = Some(peer.clock.map_or(newer, |older| older.or_newer(newer)));
            peer.free_bytes = Some(free_bytes);
            peer.standing = PeerStanding::Reachable;
        });
    }

    /// The peer said whether it votes at present.
    pub(super) fn votes(&self, node: NodeId, votes: bool) {
        self.update(node, |peer| peer.votes = Some(votes));
    }

    /// The peer sent us a message that it could only send as a member, on a connection on which it had introduced itself
    /// like this.
    pub(super) fn spoke(&self, node: NodeId, introduction: Option<&Identity>) {
        self.update(node, |peer| {
            peer.last_seen = Some(Instant::now());
            if peer.identity.is_none() {
                peer.identity = introduction.cloned();
            }
            if matches!(peer.standing, PeerStanding::Unreachable { .. }) {
                peer.standing = PeerStanding::Heard;
            }
        });
    }

    /// A call was not answered. One that was seen within `grace` is only slow.
    pub(super) fn unreachable(&self, node: NodeId, reason: &str, grace: Duration) {
        self.update(node, |peer| {
            if peer.last_seen.is_some_and(|seen| seen.elapsed() < grace) {
                return;
            }
            let since = match peer.standing {
                PeerStanding::Unreachable { since, .. } => since,
                _ => Instant::now(),
            };
            peer.standing = PeerStanding::Unreachable { since, reason: reason.to_owned() };
        });
    }

    /// A call was refused. `true` if this is news.
    pub(super) fn refused(&self, node: NodeId, refusal: Refusal) -> bool {
        let mut news = false;
        self.update(node, |peer| {
            let since = match peer.standing {
                PeerStanding::Refused { since, refusal: before } if before == refusal => since,
                _ => {
                    news = true;
                    Instant::now()
                }
            };
            peer.standing = PeerStanding::Refused { since, refusal };
        });
        news
    }

    fn update(&self, node: NodeId, change: impl FnOnce(&mut PeerInfo)) {
        self.peers.send_modify(|peers| change(peers.entry(node).or_insert_with(PeerInfo::stranger)));
    }
}

impl Default for PeerTable {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for PeerTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.peers.borrow().iter()).finish()
    }
}

impl PeerInfo {
    fn stranger() -> Self {
        Self {
            identity: None,
            standing: PeerStanding::Heard,
            last_seen: None,
            clock: None,
            free_bytes: None,
            votes: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::tests::identity;
    use super::*;

    const PEER: NodeId = NodeId(2);

    fn exchange(sent: i64, theirs: i64, round_trip: u64) -> Exchange {
        let ms = |ms: i64| Timestamp::from_millis(ms);
        Exchange { sent: ms(sent), theirs: ms(theirs), round_trip: Duration::from_millis(round_trip) }
    }

    fn offset(table: &PeerTable) -> (i64, u128) {
        let clock = table.get(PEER).expect("met").clock.expect("measured");
        (clock.offset_nanos / 1_000_000, clock.error.as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_exact_clock_reading_stands_until_it_is_old() {
        let table = PeerTable::new();
        table.answered(PEER, exchange(1_000, 1_007, 10), 1);
        assert_eq!(offset(&table), (2, 5));
        table.answered(PEER, exchange(2_000, 2_060, 100), 1);
        assert_eq!(offset(&table), (2, 5), "a slow answer tells less");
        table.answered(PEER, exchange(3_000, 3_003, 2), 1);
        assert_eq!(offset(&table), (2, 1));
        tokio::time::advance(ESTIMATE_LIFE).await;
        table.answered(PEER, exchange(33_000, 33_052, 100), 1);
        assert_eq!(offset(&table), (2, 50), "clocks drift: an old reading does not stand for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_is_noticed_at_the_next_answer() {
        let table = PeerTable::new();
        table.answered(PEER, exchange(1_000, 1_001, 2), 1);
        table.answered(PEER, exchange(2_000, 62_050, 100), 1);
        assert_eq!(offset(&table), (60_000, 50));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_unreachable_since_the_first_failure() {
        let table = PeerTable::new();
        let grace = Duration::from_millis(500);
        table.heard(PEER, identity(2));
        table.unreachable(PEER, "late", grace);
        assert_eq!(table.get(PEER).expect("met").standing, PeerStanding::Heard, "it was seen a moment ago");
        tokio::time::advance(grace).await;
        let since = Instant::now();
        table.unreachable(PEER, "connection refused", grace);
        tokio::time::advance(Duration::from_secs(3)).await;
        table.unreachable(PEER, "timed out", grace);
        let peer = table.get(PEER).expect("met");
        assert_eq!(peer.standing, PeerStanding::Unreachable { since, reason: "timed out".into() });
        assert_eq!(peer.identity, Some(identity(2)));
        table.spoke(PEER, None);
        assert_eq!(table.get(PEER).expect("met").standing, PeerStanding::Heard);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_only_answers_is_not_seen() {
        let table = PeerTable::new();
        let grace = Duration::from_millis(500);
        table.heard(PEER, identity(2));
        let seen = table.get(PEER).expect("met").last_seen;
        tokio::time::advance(grace).await;
        table.unreachable(PEER, "late", grace);
        table.told(PEER, exchange(1_000, 1_000, 2), 7);
        let peer = table.get(PEER).expect("met");
        assert_eq!((peer.standing, peer.free_bytes), (PeerStanding::Reachable, Some(7)));
        assert_eq!(peer.last_seen, seen);
    }

    #[test]
    fn a_refusal_is_news_once() {
        let table = PeerTable::new();
        assert!(table.refused(PEER, Refusal::Amnesic));
        assert!(!table.refused(PEER, Refusal::Amnesic));
        assert!(table.refused(PEER, Refusal::WrongStore));
    }
}
