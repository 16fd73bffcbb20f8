//! Every way in which a lease could be broken, tried on real replicas. The cluster itself watches for overlaps.

#![allow(clippy::disallowed_methods, reason = "a test is the end that everything it spawned comes to")]

use model::Cause;
use model::command::{Command, Request};
use openraft::network::{NetVote as _, RPCOption, RaftNetworkFactory as _};
use openraft::raft::VoteRequest;
use openraft::{ChangeMembers, ServerState};

use tokio::task::JoinHandle;

use super::*;
use crate::lease::quarantine;
use crate::membership::MembershipError;
use crate::network::{PeerStanding, Refusal};
use crate::replica::Standing;
use crate::type_config::Vote;

const LAN: LeaseTimes = LeaseTimes::LAN;
const L: Duration = LAN.lease;

impl Cluster {
    pub(super) async fn until_another_leads(&mut self, than: u64) -> u64 {
        self.until("another leader", |cluster| cluster.leader().is_some_and(|leader| leader != than)).await;
        self.leader().expect("just seen")
    }

    /// When a node last heard from its leader.
    fn heard(&self, node: u64) -> Instant {
        self.replica(node).inner.contact.last_leader()
    }

    /// Lets time pass to between two heartbeats, so that all followers have heard the same.
    pub(super) async fn until_nothing_is_under_way(&mut self, followers: &[u64]) {
        self.until("nothing is under way", |cluster| {
            followers.iter().all(|node| {
                let ago = cluster.heard(*node).elapsed();
                ago > LAN.heartbeat / 10 && ago < LAN.heartbeat / 2
            })
        })
        .await;
    }

    /// The lease of `leader` comes to rest on `voter` alone, whose log is that of `third`; then the leader is cut off.
    async fn leave_lease_to(&mut self, leader: u64, third: u64) {
        self.isolate(third, true);
        self.run_for(self.node(third).times.lease * 2).await;
        assert_eq!(self.leader(), Some(leader), "one voter is enough");
        self.isolate(leader, true);
        for other in self.others(third) {
            let cut = other == leader;
            self.wires.cut(third, other, cut);
            self.wires.cut(other, third, cut);
        }
    }

    /// Cuts the power of a node, and starts it again with a profile.
    async fn restart_with(&mut self, node: u64, times: LeaseTimes) {
        self.crash(node);
        self.nodes[node as usize - 1].times = times;
        self.restart(node).await;
    }

    /// Begins to hand leadership over.
    pub(super) fn hands_over(&self, from: u64, to: u64) -> JoinHandle<Result<NodeId, MembershipError>> {
        let replica = self.replica(from).clone();
        tokio::spawn(async move { replica.transfer_leadership(Some(NodeId(to))).await })
    }

    /// Why the last reign began that `node` knows of.
    fn cause(&self, node: u64) -> Option<Cause> {
        self.replica(node).store().keeper().read(|state| state.reign().map(|reign| reign.cause))
    }

    /// Whether the vote of `node` leaves it when `asker` asks for it: granted to nobody, because `asker` claims an empty
    /// log, but considered.
    async fn considers_a_vote(&self, node: u64, asker: u64) -> bool {
        let vote = Vote::new(self.term(asker) + 1, asker);
        let asker = self.replica(asker);
        let member = asker.status().members[&NodeId(node)].clone();
        let mut client = asker.inner.network.clone().new_client(node, &member).await;
        match client.vote(VoteRequest::new(vote, None), RPCOption::new(PATIENCE)).await {
            Ok(answer) => {
                assert!(!answer.vote_granted, "its log is empty");
                true
            }
            Err(error) => {
                let standing = asker.peers().get(NodeId(node)).map(|peer| peer.standing);
                let is_withheld =
                    matches!(standing, Some(PeerStanding::Refused { refusal: Refusal::VotesWithheld, .. }));
                assert!(is_withheld, "expected the vote to be withheld, found {error}");
                false
            }
        }
    }
}

/// Of `N` nodes the leader dies, and with it the followers whose turn comes before that of rank `rank`, which leads next.
async fn leads_in_its_turn<const N: usize>(rank: usize) {
    let mut cluster = Cluster::found([LAN; N]).await;
    cluster.run_for(L * 2).await;
    let leader = cluster.leader().expect("somebody leads");
    let followers = cluster.others(leader);
    cluster.until_nothing_is_under_way(&followers).await;
    let next = followers[rank];
    let last = cluster.heard(next);
    cluster.crash(leader);
    followers[..rank].iter().for_each(|node| cluster.crash(*node));
    assert_eq!(cluster.until_another_leads(leader).await, next);
    let turn = L + Duration::from_millis(2) + Duration::from_millis(60) * u32::try_from(rank).expect("small");
    let after = last.elapsed();
    // openraft's own timer, the backstop, comes no sooner than 0.8 L later.
    let latest = turn + Duration::from_millis(200);
    assert!(after >= turn && after < latest, "after {after:?}, expected from {turn:?} to {latest:?}");
    assert_eq!(cluster.cause(next), Some(Cause::Failover), "nobody has handed over");
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_is_succeeded_when_its_lease_is_over() {
    leads_in_its_turn::<3>(0).await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_second_leads_in_its_turn_when_the_first_is_dead_too() {
    leads_in_its_turn::<5>(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_voter_refuses_votes_for_a_lease() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (leader, voter, third) = cluster.three();
    cluster.leave_lease_to(leader, third).await;
    cluster.crash(voter);
    cluster.restart(voter).await;
    assert!(cluster.leadership(leader).check().is_ok(), "its lease rests on what the voter had promised");
    cluster.until_another_leads(leader).await;
}

#[tokio::test(start_paused = true)]
async fn a_voter_restarted_with_a_shorter_lease_keeps_the_longer_one_it_has_granted() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    cluster.until_all_applied_alike().await;
    // The membership goes on recording the shorter one.
    for node in [1, 2, 3] {
        cluster.restart_with(node, LeaseTimes::WAN).await;
    }
    cluster
        .until("somebody leads and counts on the longer one", |cluster| {
            cluster.leader().is_some_and(|leader| cluster.replica(leader).lease() == LeaseTimes::WAN.lease)
        })
        .await;
    cluster.until_all_applied_alike().await;
    let (leader, voter, third) = cluster.three();
    cluster.leave_lease_to(leader, third).await;
    cluster.restart_with(voter, LAN).await;
    let left = cluster.leadership(leader).remaining();
    assert!(left > quarantine(L) * 2, "{left:?} rests on what the voter had promised before");
    cluster.until_another_leads(leader).await;
}

#[tokio::test(start_paused = true)]
async fn a_voter_restarted_with_a_shorter_lease_keeps_the_longer_one_that_the_membership_records() {
    let mut cluster = Cluster::found([LeaseTimes::WAN; 3]).await;
    cluster.until_all_applied_alike().await;
    let (_, voter, _) = cluster.three();
    cluster.replica(voter).store().keeper().write_checkpoint().await.expect("the disk works");
    let granted = |cluster: &Cluster| cluster.replica(voter).store().granted_lease().expect("it can be read");
    cluster.restart_with(voter, LAN).await;
    cluster.until("it grants the shorter one", |cluster| granted(cluster) == Some(L)).await;
    let began = Instant::now();
    cluster.restart_with(voter, LAN).await;
    assert_eq!(granted(&cluster), Some(L), "it remembers no longer one itself");
    let ends = cluster.replica(voter).inner.contact.quarantine_ends();
    assert!(ends > began + LeaseTimes::WAN.lease, "it votes after {:?}", ends - began);
}

#[tokio::test(start_paused = true)]
async fn a_failed_transfer_leaves_no_leadership_in_its_term() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (leader, target, _) = cluster.three();
    let held = cluster.leadership(leader);
    cluster
        .until("the target need not be waited for", |cluster| {
            cluster.replica(leader).status().behind(NodeId(target)) == Some(0)
        })
        .await;
    cluster.wires.cut(leader, target, true);
    let handing = cluster.hands_over(leader, target);
    tokio::task::yield_now().await;
    while cluster.leader().is_none_or(|now| cluster.leadership(now).term() == held.term()) {
        assert!(held.check().is_err(), "term {} is over, whether the transfer succeeds or not", held.term());
        assert_eq!(held.deadline(), None);
        cluster.run_for(LOOK).await;
    }
    cluster.wires.cut(leader, target, false);
    handing.await.expect("no panic").expect("somebody else leads");
    assert!(held.check().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_transfer_succeeds_at_once() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (leader, target, _) = cluster.three();
    let began = Instant::now();
    cluster.hands_over(leader, target).await.expect("no panic").expect("it can take over");
    assert_eq!(cluster.until_another_leads(leader).await, target);
    assert!(began.elapsed() < L / 2, "after {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_that_takes_longer_than_a_lease_is_a_switchover_all_the_same() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    cluster.until_all_applied_alike().await;
    let (leader, target, _) = cluster.three();
    cluster.mischief(target).let_apply(false);
    let handing = cluster.hands_over(leader, target);
    cluster.run_for(L * 2).await;
    assert_eq!(cluster.leader(), None, "its reign begins when what came before it is applied");
    cluster.mischief(target).let_apply(true);
    assert_eq!(cluster.until_another_leads(leader).await, target);
    assert_eq!(handing.await.expect("no panic"), Ok(NodeId(target)));
    assert_eq!(cluster.cause(target), Some(Cause::Switchover));
}

#[tokio::test(start_paused = true)]
async fn a_vote_that_a_slow_disk_delays_counts_for_as_long_as_it_is_waited_for() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    cluster.until_all_applied_alike().await;
    cluster.run_for(L * 2).await;
    let (leader, target, third) = cluster.three();
    let term = cluster.term(leader);
    // Only the leader's own vote is left, which two writes delay, one after the other: a try lasts 0.8 L.
    cluster.isolate(third, true);
    cluster.disk(leader).set_latency(L * 7 / 20, L * 7 / 20);
    let handing = cluster.hands_over(leader, target);
    let leads = |cluster: &Cluster| cluster.replica(target).status().standing == Standing::Leader;
    cluster.until("it is elected", leads).await;
    assert_eq!(cluster.term(target), term + 1, "the first try was given up");
    cluster.disk(leader).set_latency(Duration::ZERO, Duration::from_millis(1));
    assert_eq!(handing.await.expect("no panic"), Ok(NodeId(target)));
}

#[tokio::test(start_paused = true)]
async fn who_hands_over_is_there_until_its_successor_reigns() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    cluster.until_all_applied_alike().await;
    let (leader, target, third) = cluster.three();
    // Nobody else confirms what the successor begins with.
    cluster.isolate(third, true);
    cluster.hands_over(leader, target).await.expect("no panic").expect("it can take over");
    cluster.isolate(leader, true);
    assert_eq!(cluster.until_another_leads(leader).await, target);
}

#[tokio::test(start_paused = true)]
async fn a_removed_leader_does_not_transfer_by_itself() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (leader, ..) = cluster.three();
    let (replica, term) = (cluster.replica(leader).clone(), cluster.term(leader));
    let removal = ChangeMembers::RemoveVoters([leader].into());
    replica.inner.raft.change_membership(removal, false).await.expect("a majority is there");
    cluster.run_for(L * 6).await;
    // Whom openraft asks to take over has refused that by now; openraft also ceases to lead itself.
    let metrics = replica.inner.raft.metrics();
    let seen = metrics.borrow_watched();
    assert_eq!((seen.state, seen.current_term), (ServerState::Leader, term));
}

#[tokio::test(start_paused = true)]
async fn no_election_bypasses_the_nodes_own_lease() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (leader, second, third) = cluster.three();
    let term = cluster.term(leader);
    for _ in 0..5 {
        for follower in [second, third] {
            assert!(cluster.replica(follower).stand().await, "raft runs");
        }
        cluster.run_for(LAN.heartbeat).await;
    }
    assert_eq!([leader, second, third].map(|node| cluster.term(node)), [term; 3]);
    assert_eq!(cluster.leader(), Some(leader));
}

#[tokio::test(start_paused = true)]
async fn a_higher_vote_ends_the_leadership_before_it_is_answered() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (leader, voter, third) = cluster.three();
    let held = cluster.leadership(leader);
    // So that it does not stand again itself.
    let drain = Command::SetDrained { node: NodeId(leader), drained: true, request: Request::default() };
    cluster.replica(leader).propose(&drain, PATIENCE).await.expect("a majority is there");
    cluster.until_all_applied_alike().await;
    cluster.isolate(third, true);
    let candidate = cluster.replica(third).clone();
    candidate.inner.raft.trigger().elect(false).await.expect("raft runs");
    cluster.run_for(L * 2).await;
    // From now on only the leader's own vote can elect the third.
    cluster.isolate(voter, true);
    cluster.wires.cut(leader, third, false);
    cluster.wires.cut(third, leader, false);
    cluster.until("the leader sees the higher vote", |_| held.deadline().is_none()).await;
    assert!(held.check().is_err());
    cluster.until_another_leads(leader).await;
}

#[tokio::test(start_paused = true)]
async fn no_vote_leaves_a_node_whose_leadership_is_live() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    cluster.run_for(L * 2).await;
    let (leader, follower, asker) = cluster.three();
    let held = cluster.leadership(leader);
    assert!(held.check().is_ok());
    assert!(!cluster.considers_a_vote(leader, asker).await);
    assert!(cluster.considers_a_vote(follower, asker).await, "its own lease is openraft's affair");
    cluster.replica(leader).inner.raft.runtime_config().heartbeat(false);
    cluster.until("its lease runs out", |_| held.check().is_err()).await;
    assert!(!cluster.considers_a_vote(leader, asker).await, "what began under it may still be under way");
    cluster.run_for(LAN.guard * 2).await;
    assert!(cluster.considers_a_vote(leader, asker).await);
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_the_shortest_of_all_voters() {
    let mut cluster = Cluster::found([LAN, LAN, LeaseTimes::LAN_FAST]).await;
    let leader = cluster.leader().expect("somebody leads");
    assert_ne!(leader, 3, "the first founds");
    let third = 3 - leader;
    let most = LeaseTimes::LAN_FAST.lease - LAN.guard;
    for _ in 0..500 {
        cluster.run_for(LOOK).await;
        assert!(cluster.leadership(leader).remaining() < most, "node 3 helps another after 300 ms");
    }
    cluster.leave_lease_to(leader, third).await;
    cluster.until_another_leads(leader).await;
}

#[tokio::test(start_paused = true)]
async fn the_lease_that_a_voter_tells_in_its_handshake_counts_whatever_the_membership_says() {
    for (founded, told) in [(LeaseTimes::LAN_FAST, LAN), (LAN, LeaseTimes::LAN_FAST)] {
        let mut cluster = Cluster::found([LAN, LAN, founded]).await;
        let leader = cluster.leader().expect("somebody leads");
        assert_ne!(leader, 3, "the first founds");
        let counts = |lease: Duration| move |cluster: &Cluster| cluster.replica(leader).lease() == lease;
        cluster.run_for(L * 2).await;
        cluster.until("what it was founded with counts", counts(founded.lease)).await;
        cluster.crash(3);
        cluster.nodes[2].times = told;
        cluster.restart(3).await;
        cluster.until("what it says now counts", counts(told.lease)).await;
        let recorded = cluster.replica(leader).status().members[&NodeId(3)].lease;
        assert_eq!(recorded, founded.lease, "nobody has changed the membership");
        // It lasts as long as was said, and not while node 3 may help another.
        let most = told.lease - LAN.guard;
        let lasts = |cluster: &Cluster| cluster.leadership(leader).remaining() > most - LAN.heartbeat * 2;
        cluster.until("it lasts so long", lasts).await;
        for _ in 0..500 {
            cluster.run_for(LOOK).await;
            assert!(cluster.leadership(leader).remaining() < most, "node 3 says {:?}", told.lease);
        }
        cluster.leave_lease_to(leader, 3 - leader).await;
        cluster.until_another_leads(leader).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_voter_leads_without_acks() {
    let mut cluster = Cluster::found([LAN]).await;
    let held = cluster.leadership(1);
    for _ in 0..(L * 10).as_millis() {
        cluster.run_for(LOOK).await;
        assert!(held.check().is_ok(), "nobody is there to answer, and nobody to lead instead");
    }
    assert_eq!(cluster.leadership(1).term(), held.term());
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_says_for_how_long_nobody_led() {
    let mut cluster = Cluster::found([LAN; 3]).await;
    let (leader, second, third) = cluster.three();
    cluster.run_for(L).await;
    let cut = |cluster: &Cluster, cut: bool| {
        cluster.wires.cut(second, third, cut);
        cluster.wires.cut(third, second, cut);
    };
    cut(&cluster, true);
    cluster.crash(leader);
    cluster.run_for(Duration::from_secs(60)).await;
    cut(&cluster, false);
    let next = cluster.until_another_leads(leader).await;
    // The other way round, with a leader that stays cut off; its successor was a follower of it a moment ago.
    cluster.restart(leader).await;
    cluster.until_all_applied_alike().await;
    cluster.run_for(L * 2).await;
    cluster.isolate(next, true);
    let last = cluster.until_another_leads(next).await;
    let told = cluster
        .replica(last)
        .store()
        .keeper()
        .read(|state| state.events.values().map(|logged| logged.event.text.clone()).collect::<Vec<_>>());
    let losses: Vec<&String> = told.iter().filter(|text| text.contains("no quorum")).collect();
    let [loss] = losses.as_slice() else { panic!("expected one loss of quorum: {told:#?}") };
    assert!(loss.starts_with(&format!("{} leads", name(next))), "{loss}");
    assert!(loss.contains("(1 min 0 s)"), "{loss}");
}
