//! Handshakes, identities, votes and heartbeats.

use openraft::network::NetTransferLeader;
use tonic::{Request, Response, Status, Streaming};
use wire::proto::peer as pb;
use wire::proto::peer::peer_client::PeerClient;
use wire::proto::peer::peer_server::{Peer, PeerServer};

use super::client::AskError;
use super::identity::Target;
use super::*;

#[tokio::test]
async fn a_refused_connection_is_unreachable_and_fails_fast_until_the_next_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let member = member_at(2, &listener.local_addr().expect("bound").to_string());
    drop(listener);
    let caller = Caller::with(|options| options.retry_pause = Duration::from_secs(60), Spoil::Nothing);
    for _ in 0..5 {
        assert_unreachable(&soon("a refusal", caller.vote(2, &member, TTL)).await);
    }
    assert_eq!(caller.attempts(), 1);
    assert!(matches!(caller.standing(2), Some(PeerStanding::Unreachable { .. })));
}

#[tokio::test]
async fn a_client_connects_when_it_is_used_and_shares_its_connection() {
    let node = Node::start(2, Handler::new()).await;
    let (caller, member) = (Caller::new(), node.member(2));
    let clients = futures::future::join_all((0..20).map(|_| caller.client(2, &member))).await;
    assert_eq!(caller.attempts(), 0);
    let votes = clients.into_iter().map(|mut client| async move {
        client.vote(VoteRequest::new(Vote::new(4, 1), None), RPCOption::new(TTL)).await
    });
    for vote in soon("votes", futures::future::join_all(votes)).await {
        assert!(vote.expect("answered").vote_granted);
    }
    assert_eq!(caller.attempts(), 1, "twenty clients of one peer share one connection");
}

#[tokio::test]
async fn a_server_that_never_speaks_costs_no_more_than_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let member = member_at(2, &listener.local_addr().expect("bound").to_string());
    let caller = Caller::new();
    let started = Instant::now();
    assert_unreachable(&caller.vote(2, &member, Duration::from_millis(200)).await);
    let waited = started.elapsed();
    assert!(waited < Duration::from_secs(2), "waited {waited:?} for a deadline of 150 ms");
    drop(listener);
}

#[tokio::test]
async fn a_call_that_is_never_answered_ends_at_its_deadline() {
    let node = Node::start(2, Handler::new()).await;
    let (caller, member) = (Caller::new(), node.member(2));
    caller.vote(2, &member, TTL).await.expect("the connection stands");
    node.handler.vote_hangs.store(true, Ordering::Relaxed);
    assert_unreachable(&soon("the deadline", caller.vote(2, &member, Duration::from_millis(200))).await);
    assert_eq!(node.handler.votes.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_pre_vote_that_cannot_be_delivered_is_no_grant() {
    let caller = Caller::new();
    let mut client = caller.client(2, &member_at(2, "127.0.0.1:1")).await;
    let answer = client.pre_vote(VoteRequest::new(Vote::new(4, 1), None), RPCOption::new(TTL)).await;
    assert_unreachable(&answer);
}

#[tokio::test]
async fn another_node_at_the_address_is_refused_and_asked_nothing() {
    let node = Node::start(3, Handler::new()).await;
    let caller = Caller::new();
    assert_unreachable(&soon("a refusal", caller.vote(2, &node.member(2), TTL)).await);
    assert_eq!(caller.events(), [PeerEvent::Refused { node: NodeId(2), refusal: Refusal::WrongTarget }]);
    assert_eq!(node.handler.votes.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn another_data_directory_under_the_same_number_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let wiped = Identity { store: StoreId::from(99), ..identity(2) };
    let node = Node::start_on(listener, wiped, Arc::new(Handler::new()), None);
    let caller = Caller::new();
    assert_unreachable(&soon("a refusal", caller.vote(2, &node.member(2), TTL)).await);
    assert_eq!(caller.events(), [PeerEvent::Refused { node: NodeId(2), refusal: Refusal::WrongStore }]);
    assert_eq!(node.handler.votes.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_caller_with_a_wiped_directory_is_refused_by_the_others() {
    let known = Member { store: StoreId::from(55), ..member_at(1, "") };
    let handler = Handler { members: [(1, known)].into(), ..Handler::new() };
    let node = Node::start(2, handler).await;
    let caller = Caller::new();
    assert_unreachable(&soon("a refusal", caller.vote(2, &node.member(2), TTL)).await);
    assert_eq!(caller.events(), [PeerEvent::Refused { node: NodeId(2), refusal: Refusal::WrongStore }]);
    assert_eq!(node.handler.votes.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_certificate_of_another_member_opens_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let handler = Handler { members: [(1, member_at(1, ""))].into(), ..Handler::new() };
    let node = Node::start_on(listener, identity(2), Arc::new(handler), Some("gateway-3"));
    let caller = Caller::new();
    assert_unreachable(&soon("a refusal", caller.vote(2, &node.member(2), TTL)).await);
    assert_eq!(caller.events(), [PeerEvent::Refused { node: NodeId(2), refusal: Refusal::WrongName }]);
}

#[tokio::test]
async fn a_member_that_introduced_itself_before_this_node_knew_its_members_is_known_once_it_does() {
    let handler = Handler { members: [(1, member_at(1, ""))].into(), ..Handler::new() };
    let node = Node::start(2, handler).await;
    node.handler.knows_members.store(false, Ordering::Relaxed);
    let caller = Caller::new();
    let member = node.member(2);
    soon("an answer", caller.heartbeat(2, &member)).await.expect("answered").expect("acknowledged");
    assert_eq!(node.table.get(NodeId(1)), None, "a stranger");

    node.handler.knows_members.store(true, Ordering::Relaxed);
    soon("an answer", caller.heartbeat(2, &member)).await.expect("answered").expect("acknowledged");
    assert_eq!(caller.attempts(), 1, "on the connection that stands");
    let known = node.table.get(NodeId(1)).and_then(|peer| peer.identity);
    assert_eq!(known, Some(identity(1)), "so it knows where the API of its leader is");
}

#[tokio::test]
async fn an_amnesic_node_answers_nothing_else() {
    let node = Node::start(2, Handler::new()).await;
    node.handler.amnesic.store(true, Ordering::Relaxed);
    let caller = Caller::new();
    assert_unreachable(&soon("a refusal", caller.vote(2, &node.member(2), TTL)).await);
    assert_unreachable(&soon("a refusal", caller.heartbeat(2, &node.member(2))).await);
    assert_eq!(caller.events(), [PeerEvent::Refused { node: NodeId(2), refusal: Refusal::Amnesic }]);
    assert!(node.handler.appends.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn no_vote_is_forwarded_while_the_node_may_not_vote() {
    let node = Node::start(2, Handler::new()).await;
    node.handler.may_vote.store(false, Ordering::Relaxed);
    let (caller, member) = (Caller::new(), node.member(2));
    let mut client = caller.client(2, &member).await;
    let option = || RPCOption::new(TTL);
    assert_unreachable(&client.vote(VoteRequest::new(Vote::new(4, 1), None), option()).await);
    assert_unreachable(&client.pre_vote(VoteRequest::new(Vote::new(4, 1), None), option()).await);
    let transfer = TransferLeaderRequest::new(Vote::new_committed(3, 1), 2, None);
    assert_unreachable(&client.transfer_leader(transfer.clone(), option()).await);
    assert_eq!(node.handler.votes.load(Ordering::Relaxed), 0);
    caller.heartbeat(2, &member).await.expect("quarantine does not concern appends").expect("acknowledged");

    node.handler.may_vote.store(true, Ordering::Relaxed);
    assert!(
        client.vote(VoteRequest::new(Vote::new(4, 1), None), option()).await.expect("answered").vote_granted
    );
    assert_eq!(client.transfer_leader(transfer, option()).await.expect("answered"), Ok(()));
}

#[tokio::test]
async fn heartbeats_tell_clock_and_free_space() {
    let node = Node::start(2, Handler::new()).await;
    let caller = Caller::new();
    let answer = soon("an answer", caller.heartbeat(2, &node.member(2))).await.expect("answered");
    assert_eq!(answer, Ok(Some(log_id(3, 5))));
    let peer = caller.table.get(NodeId(2)).expect("met");
    assert_eq!(peer.free_bytes, Some(1 << 30));
    assert_eq!(peer.standing, PeerStanding::Reachable);
    assert_eq!(peer.identity, Some(identity(2)));
    let clock = peer.clock.expect("measured");
    let bound = i64::try_from(clock.error.as_nanos()).expect("short") + 2_000_000;
    assert!(clock.offset_nanos.abs() <= bound, "one clock differs from itself by {clock:?}");
}

#[tokio::test]
async fn a_restarted_peer_is_met_again() {
    let node = Node::start(2, Handler::new()).await;
    let (caller, member) = (Caller::new(), node.member(2));
    caller.vote(2, &member, TTL).await.expect("answered");
    let address = node.kill().await;
    assert!(soon("a failure", caller.vote(2, &member, TTL)).await.is_err());

    let listener = TcpListener::bind(address).await.expect("the port is free again");
    let reborn = Identity { boot: model::BootId::from(77), ..identity(2) };
    let _node = Node::start_on(listener, reborn.clone(), Arc::new(Handler::new()), None);
    soon("an answer of the new process", async {
        while caller.vote(2, &member, TTL).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(caller.table.get(NodeId(2)).expect("met").identity, Some(reborn));
}

#[tokio::test]
async fn a_vote_reaches_a_peer_that_was_restarted_since_it_was_asked_last() {
    let node = Node::start(2, Handler::new()).await;
    let (caller, member) = (Caller::new(), node.member(2));
    caller.vote(2, &member, TTL).await.expect("answered");
    let address = node.kill().await;
    let listener = TcpListener::bind(address).await.expect("the port is free again");
    let _node = Node::start_on(listener, identity(2), Arc::new(Handler::new()), None);
    let vote = soon("an answer of the new process", caller.vote(2, &member, TTL)).await;
    assert!(vote.expect("nobody asks again").vote_granted);
    assert_eq!(caller.attempts(), 2, "a second connection");
}

#[tokio::test]
async fn anybody_can_be_asked_who_it_is() {
    let pristine = Identity { cluster: Default::default(), node: NodeId(0), pristine: true, ..identity(2) };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let node = Node::start_on(listener, pristine.clone(), Arc::new(Handler::new()), None);
    let caller = Caller::new();
    let address = node.address.to_string();
    assert_eq!(soon("an answer", caller.network.ask(&address)).await, Ok(pristine));
    node.kill().await;
    assert!(matches!(soon("a failure", caller.network.ask(&address)).await, Err(AskError::Unreachable(_))));
}

#[tokio::test]
async fn every_message_is_checked_not_only_the_handshake() {
    let handler = Handler { members: [(1, member_at(1, ""))].into(), ..Handler::new() };
    let node = Node::start(2, handler).await;
    let mut client = PeerClient::connect(format!("http://{}", node.address)).await.expect("listening");
    let me = Target { node: NodeId(2), store: StoreId::from(2) };
    let good = identity(1).envelope(me);
    type Spoil = fn(&mut pb::Envelope);
    let spoils: [(Spoil, Refusal); 4] = [
        (|envelope| envelope.cluster = vec![9; 16].into(), Refusal::WrongCluster),
        (|envelope| envelope.target = 3, Refusal::WrongTarget),
        (|envelope| envelope.target_store = vec![9; 16].into(), Refusal::WrongStore),
        (|envelope| envelope.sender_store = vec![9; 16].into(), Refusal::WrongStore),
    ];
    for (spoil, refusal) in spoils {
        let mut envelope = good.clone();
        spoil(&mut envelope);
        let envelope = Some(envelope);
        let request = append(5, 6, 1);
        let heartbeat = convert::heartbeat_to_proto::<TokioRuntime>(Default::default(), &append(5, 5, 0));
        let vote =
            convert::vote_request_to_proto(Default::default(), &VoteRequest::<C>::new(Vote::new(4, 1), None));
        let append = convert::append_to_proto::<TokioRuntime>(Default::default(), 0, request);
        let transfer = TransferLeaderRequest::<C>::new(Vote::new_committed(3, 1), 2, None);
        let transfer = convert::transfer_to_proto(Default::default(), &transfer);
        let header = pb::SnapshotHeader { envelope: envelope.clone(), ..Default::default() };
        let header = pb::SnapshotPart { part: Some(pb::snapshot_part::Part::Header(header)) };
        let proposal = pb::ProposeRequest { envelope: envelope.clone(), ..Default::default() };

        let vote = pb::VoteRequest { envelope: envelope.clone(), ..vote };
        let append = pb::AppendRequest { envelope: envelope.clone(), ..append };
        let heartbeat = pb::HeartbeatRequest { envelope: envelope.clone(), ..heartbeat };
        let transfer = pb::TransferLeaderRequest { envelope, ..transfer };
        let appended =
            client.append(futures::stream::iter([append])).await.expect("a stream").into_inner().next().await;
        let proposed = client
            .propose(futures::stream::iter([proposal]))
            .await
            .expect("a stream")
            .into_inner()
            .next()
            .await;
        let refused = [
            client.heartbeat(heartbeat).await.map(drop),
            client.vote(vote.clone()).await.map(drop),
            client.pre_vote(vote).await.map(drop),
            client.transfer_leader(transfer).await.map(drop),
            client.snapshot(futures::stream::iter([header])).await.map(drop),
            appended.expect("an answer").map(drop),
            proposed.expect("an answer").map(drop),
        ];
        for (call, refused) in refused.into_iter().enumerate() {
            let status = refused.expect_err("refused");
            assert_eq!(Refusal::of(&status), Some(refusal), "call {call}: {status:?}");
        }
    }
    assert_eq!(node.handler.votes.load(Ordering::Relaxed), 0);
    assert!(node.handler.appends.lock().expect("no panic").is_empty());
}

/// A server that agrees to everything and introduces itself as whoever it was told to be.
struct Impostor(Identity);

type Never<T> = futures::stream::Pending<Result<T, Status>>;

#[tonic::async_trait]
impl Peer for Impostor {
    type AppendStream = Never<pb::AppendResponse>;
    type ProposeStream = Never<pb::ProposeResponse>;

    async fn hello(&self, _: Request<pb::HelloRequest>) -> Result<Response<pb::HelloResponse>, Status> {
        let introduction = Some(self.0.to_proto());
        Ok(Response::new(pb::HelloResponse { introduction, ..Default::default() }))
    }
    async fn join(&self, _: Request<pb::JoinRequest>) -> Result<Response<pb::JoinResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
    async fn append(
        &self,
        _: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        Ok(Response::new(futures::stream::pending()))
    }
    async fn heartbeat(
        &self,
        _: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
    async fn vote(&self, _: Request<pb::VoteRequest>) -> Result<Response<pb::VoteResponse>, Status> {
        let vote = Some(convert::vote_to_proto(&Vote::new(4, 1)));
        Ok(Response::new(pb::VoteResponse { vote, granted: true, last: None }))
    }
    async fn pre_vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        self.vote(request).await
    }
    async fn transfer_leader(
        &self,
        _: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
    async fn snapshot(
        &self,
        _: Request<Streaming<pb::SnapshotPart>>,
    ) -> Result<Response<pb::SnapshotResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
    async fn propose(
        &self,
        _: Request<Streaming<pb::ProposeRequest>>,
    ) -> Result<Response<Self::ProposeStream>, Status> {
        Ok(Response::new(futures::stream::pending()))
    }
}

#[tokio::test]
async fn no_vote_is_taken_from_a_node_that_is_not_the_one_meant() {
    let others = [
        (Identity { node: NodeId(3), ..identity(2) }, Some(Refusal::WrongTarget)),
        (Identity { store: StoreId::from(9), ..identity(2) }, Some(Refusal::WrongStore)),
        (Identity { cluster: model::ClusterId::from(9), ..identity(2) }, Some(Refusal::WrongCluster)),
        (Identity { formats: 7..=8, ..identity(2) }, Some(Refusal::Incompatible)),
        (identity(2), None),
    ];
    for (other, refusal) in others {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let member = member_at(2, &listener.local_addr().expect("bound").to_string());
        let incoming = accept_peers(Box::new(listener), Duration::from_secs(1), Arc::new(PlainAcceptor));
        let server = tonic::transport::Server::builder().add_service(PeerServer::new(Impostor(other)));
        let serving = tokio::spawn(async move { server.serve_with_incoming(incoming).await });
        let caller = Caller::new();
        let answer = soon("an answer", caller.vote(2, &member, TTL)).await;
        match refusal {
            Some(refusal) => {
                assert_unreachable(&answer);
                assert_eq!(caller.events(), [PeerEvent::Refused { node: NodeId(2), refusal }]);
            }
            None => assert!(answer.expect("answered").vote_granted),
        }
        serving.abort();
    }
}

#[tokio::test]
async fn a_node_learns_its_number_from_whoever_knows_its_data_directory() {
    let known = Member { name: "gateway-1".into(), store: StoreId::from(1), ..Member::default() };
    let stranger = Node::start(2, Handler::new()).await;
    let member = Node::start(3, Handler { members: [(7, known.clone())].into(), ..Handler::new() }).await;
    let caller = Caller::new();
    let (peer, place) = soon("an answer", caller.network.ask_to_join(&stranger.address.to_string()))
        .await
        .expect("it answers");
    assert_eq!((peer.node, place), (NodeId(2), Place::default()), "it knows of no members yet");
    let (_, place) =
        soon("an answer", caller.network.ask_to_join(&member.address.to_string())).await.expect("it answers");
    assert_eq!(place, Place { node: NodeId(7), members: [(7, known)].into() });
}

#[tokio::test]
async fn a_removed_node_is_told_so_and_asked_nothing() {
    let node = Node::start(2, Handler { removed: vec![1], ..Handler::new() }).await;
    let caller = Caller::new();
    assert_unreachable(&soon("a refusal", caller.vote(2, &node.member(2), TTL)).await);
    assert_eq!(caller.events(), [PeerEvent::Refused { node: NodeId(2), refusal: Refusal::Removed }]);
    assert_eq!(node.handler.votes.load(Ordering::Relaxed), 0);
    let asked = soon("an answer", caller.network.ask(&node.address.to_string())).await;
    assert_eq!(asked.map(drop), Err(AskError::Refused(Refusal::Removed)));
}
