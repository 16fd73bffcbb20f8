//! Append streams: order, pipelining, lost and stalled streams, the hold-back and the tripwire on the wire.

use tokio::sync::Semaphore;

use super::*;

/// A stream to node 2 that is fed by hand and driven all the time, as openraft does.
struct Feed {
    requests: mpsc::Sender<Append>,
    answers: mpsc::Receiver<Result<AppendResult, RPCError<C>>>,
}

impl Feed {
    async fn open(caller: &Caller, member: &Member) -> Self {
        let (requests, input) = mpsc::channel(256);
        let (collected, answers) = mpsc::channel(256);
        let mut client = caller.client(2, member).await;
        tokio::spawn(async move {
            match client.stream_append(ReceiverStream::new(input), RPCOption::new(TTL)).await {
                Ok(mut stream) => {
                    while let Some(answer) = stream.next().await {
                        if collected.send(answer).await.is_err() {
                            break;
                        }
                    }
                }
                Err(error) => drop(collected.send(Err(error)).await),
            }
        });
        Self { requests, answers }
    }

    async fn send(&self, request: Append) {
        self.requests.send(request).await.expect("the stream takes requests");
    }

    async fn next(&mut self) -> Option<Result<AppendResult, RPCError<C>>> {
        soon("an answer", self.answers.recv()).await
    }

    async fn acknowledged(&mut self) -> u64 {
        match self.next().await {
            Some(Ok(Ok(Some(matching)))) => matching.index,
            other => panic!("expected an acknowledgement, found {other:?}"),
        }
    }

    fn is_silent(&mut self) -> bool {
        self.answers.try_recv().is_err()
    }
}

#[tokio::test]
async fn requests_are_sent_before_earlier_ones_are_answered_and_answered_in_order() {
    // Nothing is answered before all ten requests have arrived.
    let (arrived, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let handler = Handler::answering(move |request| {
        if arrived.fetch_add(1, Ordering::Relaxed) == 9 {
            all.add_permits(10);
        }
        let all = all.clone();
        async move {
            all.acquire().await.expect("open").forget();
            Ok(last_of(&request))
        }
        .boxed()
    });
    let node = Node::start(2, handler).await;
    let (caller, member) =
        (Caller::with(|options| options.stall_limit = SOON, Spoil::Nothing), node.member(2));
    let mut feed = Feed::open(&caller, &member).await;
    for previous in 10..20 {
        feed.send(append(previous, previous + 1, 10)).await;
    }
    for last in 11..=20 {
        assert_eq!(feed.acknowledged().await, last);
    }
    drop(feed.requests);
    assert!(soon("the end", feed.answers.recv()).await.is_none(), "the stream ends when all is answered");
    assert_eq!(caller.attempts(), 1);
}

#[tokio::test]
async fn entries_arrive_as_they_were_sent_even_above_four_mebibytes() {
    let node = Node::start(2, Handler::new()).await;
    let (caller, member) = (Caller::new(), node.member(2));
    let mut feed = Feed::open(&caller, &member).await;
    let request = append(0, 3, 2_500_000);
    feed.send(request.clone()).await;
    assert_eq!(feed.acknowledged().await, 3);
    let arrived = node.handler.appends.lock().expect("no panic");
    assert_eq!(arrived.len(), 1);
    assert!(arrived[0].entries == request.entries, "7.5 MB in one message arrived changed");
}

#[tokio::test]
async fn an_acknowledgement_waits_for_a_later_request_with_the_same_end() {
    // The commit-only request is answered when the test says so; its link might be dead for all the leader knows.
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let handler = Handler::answering(move |request| {
        let (gate, is_data) = (gate.clone(), !request.entries.is_empty());
        async move {
            if !is_data {
                gate.acquire().await.expect("open").forget();
            }
            Ok(last_of(&request))
        }
        .boxed()
    });
    let node = Node::start(2, handler).await;
    let (caller, member) =
        (Caller::with(|options| options.stall_limit = SOON, Spoil::Nothing), node.member(2));
    let mut feed = Feed::open(&caller, &member).await;
    // The first answer shows that the stream is open; then data and commit leave in one breath.
    feed.send(append(9, 10, 1)).await;
    assert_eq!(feed.acknowledged().await, 10);
    feed.requests.try_send(append(10, 11, 1)).expect("room");
    feed.requests.try_send(append(11, 11, 0)).expect("room");
    let arrivals = node.handler.appends.clone();
    eventually("both requests arrive", || arrivals.lock().expect("no panic").len() == 3).await;
    // Whatever was answered has been delivered once another answer has come on the same connection.
    let mut other = Feed::open(&caller, &member).await;
    other.send(append(20, 21, 1)).await;
    assert_eq!(other.acknowledged().await, 21);
    assert!(feed.is_silent(), "the answer to the data vouches for the commit that is not answered");
    opened.add_permits(1);
    assert_eq!(feed.acknowledged().await, 11);
    assert_eq!(feed.acknowledged().await, 11);
}

#[tokio::test]
async fn a_request_that_is_never_answered_ends_the_stream() {
    let handler = Handler::answering(|_| std::future::pending().boxed());
    let node = Node::start(2, handler).await;
    let caller = Caller::with(|options| options.stall_limit = Duration::from_millis(100), Spoil::Nothing);
    let (requests, input) = mpsc::channel(1);
    let mut client = caller.client(2, &node.member(2)).await;
    let option = RPCOption::new(Duration::from_millis(200));
    let mut answers = client.stream_append(ReceiverStream::new(input), option).await.expect("a stream");
    requests.send(append(5, 6, 1)).await.expect("room");
    let started = Instant::now();
    let answer = soon("an error", answers.next()).await.expect("an error");
    assert_unreachable(&answer);
    assert!(started.elapsed() >= Duration::from_millis(140), "gave up after {:?}", started.elapsed());
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn a_stream_that_breaks_in_the_middle_is_an_error_and_the_next_one_works() {
    let node = Node::start(
        2,
        Handler::answering(|request| {
            let last = last_of(&request);
            let answered = last.is_some_and(|last| last.index <= 6);
            async move { if answered { Ok(last) } else { std::future::pending().await } }.boxed()
        }),
    )
    .await;
    let (caller, member) =
        (Caller::with(|options| options.stall_limit = SOON, Spoil::Nothing), node.member(2));
    let mut feed = Feed::open(&caller, &member).await;
    feed.send(append(5, 6, 1)).await;
    assert_eq!(feed.acknowledged().await, 6);
    feed.send(append(6, 7, 1)).await;
    let arrivals = node.handler.appends.clone();
    eventually("the second request arrives", || arrivals.lock().expect("no panic").len() == 2).await;
    let address = node.kill().await;
    let failure = feed.next().await.expect("an error");
    assert!(matches!(failure, Err(RPCError::Network(_) | RPCError::Unreachable(_))), "found {failure:?}");
    assert!(feed.next().await.is_none(), "an error ends the stream");

    let listener = TcpListener::bind(address).await.expect("the port is free again");
    let _node = Node::start_on(listener, identity(2), Arc::new(Handler::new()), None);
    let mut feed = Feed::open(&caller, &member).await;
    feed.send(append(5, 7, 1)).await;
    assert_eq!(feed.acknowledged().await, 7);
}

#[tokio::test]
async fn a_conflict_and_a_higher_vote_end_the_stream() {
    let refusals: [AppendResult; 2] =
        [Err(StreamAppendError::Conflict(log_id(3, 9))), Err(StreamAppendError::HigherVote(Vote::new(8, 3)))];
    for refusal in refusals {
        let answer = refusal.clone();
        let handler = Handler::answering(move |_| std::future::ready(answer.clone()).boxed());
        let node = Node::start(2, handler).await;
        let (caller, member) = (Caller::new(), node.member(2));
        let mut feed = Feed::open(&caller, &member).await;
        feed.send(append(9, 10, 1)).await;
        let found = feed.next().await.expect("an answer").expect("no transport error");
        assert_eq!(found, refusal);
        assert!(feed.next().await.is_none());
        assert_eq!(caller.events(), [], "probing is ordinary");
    }
}

#[tokio::test]
async fn a_shortened_log_is_refused_before_openraft_sees_it() {
    let shortened = Arc::new(AtomicBool::new(false));
    let now = shortened.clone();
    let handler = Handler::answering(move |request| {
        let lost = now.load(Ordering::Relaxed);
        let previous = request.prev_log_id.expect("not the first");
        std::future::ready(if lost {
            Err(StreamAppendError::Conflict(previous))
        } else {
            Ok(last_of(&request))
        })
        .boxed()
    });
    let node = Node::start(2, handler).await;
    let (caller, member) = (Caller::new(), node.member(2));
    let mut feed = Feed::open(&caller, &member).await;
    feed.send(append(5, 10, 1)).await;
    assert_eq!(feed.acknowledged().await, 10);
    shortened.store(true, Ordering::Relaxed);
    feed.send(append(10, 11, 1)).await;
    assert_unreachable(&feed.next().await.expect("an error"));
    let alarm = PeerEvent::LogShortened { node: NodeId(2), acknowledged: 10, conflict: 10 };
    assert_eq!(caller.events(), std::slice::from_ref(&alarm));

    // Neither streams nor heartbeats bring it back, and the alarm is raised once.
    shortened.store(false, Ordering::Relaxed);
    let mut again = Feed::open(&caller, &member).await;
    again.send(append(10, 11, 1)).await;
    assert_unreachable(&again.next().await.expect("an error"));
    assert_unreachable(&caller.heartbeat(2, &member).await);
    assert_eq!(caller.events(), [alarm]);
}

#[tokio::test]
async fn a_heartbeat_that_finds_the_log_shortened_does_not_renew_the_lease() {
    let shortened = Arc::new(AtomicBool::new(false));
    let now = shortened.clone();
    let handler = Handler::answering(move |request| {
        let lost = now.load(Ordering::Relaxed);
        let previous = request.prev_log_id.expect("not the first");
        std::future::ready(if lost {
            Err(StreamAppendError::Conflict(previous))
        } else {
            Ok(last_of(&request))
        })
        .boxed()
    });
    let node = Node::start(2, handler).await;
    let (caller, member) = (Caller::new(), node.member(2));
    caller.heartbeat(2, &member).await.expect("answered").expect("acknowledged");
    shortened.store(true, Ordering::Relaxed);
    assert_unreachable(&caller.heartbeat(2, &member).await);
    assert_eq!(caller.events(), [PeerEvent::LogShortened { node: NodeId(2), acknowledged: 5, conflict: 5 }]);
}

#[tokio::test]
async fn a_follower_without_room_takes_heartbeats_but_no_entries() {
    let node = Node::start(2, Handler::new()).await;
    node.handler.disk_full.store(true, Ordering::Relaxed);
    let (caller, member) = (Caller::new(), node.member(2));
    caller.heartbeat(2, &member).await.expect("answered").expect("acknowledged");
    let mut feed = Feed::open(&caller, &member).await;
    feed.send(append(5, 6, 1)).await;
    assert_unreachable(&feed.next().await.expect("an error"));
    assert!(matches!(caller.standing(2), Some(PeerStanding::Refused { refusal: Refusal::DiskFull, .. })));
    assert!(node.handler.appends.lock().expect("no panic").iter().all(|request| request.entries.is_empty()));
    assert_eq!(caller.events(), [], "it passes by itself");

    node.handler.disk_full.store(false, Ordering::Relaxed);
    let mut feed = Feed::open(&caller, &member).await;
    feed.send(append(5, 6, 1)).await;
    assert_eq!(feed.acknowledged().await, 6);
}

#[tokio::test]
async fn the_window_bounds_what_is_in_flight() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let handler = Handler::answering(move |request| {
        let gate = gate.clone();
        async move {
            gate.acquire().await.expect("open").forget();
            Ok(last_of(&request))
        }
        .boxed()
    });
    let node = Node::start(2, handler).await;
    let small = |options: &mut NetworkOptions| {
        options.append_window = 4;
        options.stall_limit = SOON;
    };
    let (caller, member) = (Caller::with(small, Spoil::Nothing), node.member(2));
    let mut feed = Feed::open(&caller, &member).await;
    for previous in 0..12 {
        feed.send(append(previous, previous + 1, 1)).await;
    }
    let arrivals = node.handler.appends.clone();
    let arrived = || arrivals.lock().expect("no panic").len();
    eventually("the window is filled", || arrived() == 4).await;
    // Time for more to arrive, if more were sent.
    for _ in 0..5 {
        caller.vote(2, &member, TTL).await.expect("answered");
    }
    assert_eq!(arrived(), 4);
    opened.add_permits(12);
    for last in 1..=12 {
        assert_eq!(feed.acknowledged().await, last);
    }
}

#[tokio::test]
async fn a_peer_that_is_down_is_not_called_before_there_is_a_request() {
    let nobody = member_at(2, "127.0.0.1:1");
    let caller = Caller::new();
    let mut feed = Feed::open(&caller, &nobody).await;
    tokio::task::yield_now().await;
    assert!(feed.is_silent(), "openraft waits, after a failure, with its next request");
    assert_eq!(caller.attempts(), 0);
    feed.send(append(5, 6, 1)).await;
    assert_unreachable(&feed.next().await.expect("an error"));
    assert!(feed.next().await.is_none(), "the stream has ended");
}

/// Says only that everything up to its end is committed.
fn commit(last: u64) -> Append {
    AppendEntriesRequest { leader_commit: Some(log_id(3, last)), ..append(last, last, 0) }
}

#[tokio::test]
async fn what_only_tells_of_a_commit_goes_with_the_next_entries() {
    let node = Node::start(2, Handler::new()).await;
    let (caller, member) = (Caller::new(), node.member(2));
    let mut client = caller.client(2, &member).await;
    let requests = [commit(20), commit(20), append(20, 21, 10)];
    let answers = client.stream_append(futures::stream::iter(requests), RPCOption::new(TTL)).await;
    let answers: Vec<_> = soon("all answers", answers.expect("a stream").collect()).await;
    let matching: Vec<_> = answers.into_iter().map(|answer| answer.expect("answered")).collect();
    assert_eq!(matching, [Ok(Some(log_id(3, 21)))]);
    assert_eq!(node.handler.appends.lock().expect("no panic").len(), 1, "nothing was sent without entries");
}

#[tokio::test]
async fn an_acknowledgement_is_not_lost_with_entries_that_take_a_commit_along() {
    let handler = Handler::answering(|request| {
        let refused = last_of(&request) == Some(log_id(3, 21));
        let answer =
            if refused { Err(StreamAppendError::Conflict(log_id(3, 20))) } else { Ok(last_of(&request)) };
        std::future::ready(answer).boxed()
    });
    let node = Node::start(2, handler).await;
    let (caller, member) = (Caller::new(), node.member(2));
    let mut client = caller.client(2, &member).await;
    let requests = [append(19, 20, 10), commit(20), append(20, 21, 10)];
    let answers = client.stream_append(futures::stream::iter(requests), RPCOption::new(TTL)).await;
    let answers: Vec<_> = soon("all answers", answers.expect("a stream").collect()).await;
    let acknowledged =
        answers.iter().filter(|answer| matches!(answer, Ok(Ok(Some(id))) if *id == log_id(3, 20)));
    assert_eq!(acknowledged.count(), 2, "{answers:?}");
}

#[tokio::test]
async fn what_only_tells_of_a_commit_waits_for_entries_only_a_moment() {
    let node = Node::start(2, Handler::new()).await;
    let (caller, member) = (Caller::new(), node.member(2));
    let mut feed = Feed::open(&caller, &member).await;
    feed.send(commit(20)).await;
    assert_eq!(feed.acknowledged().await, 20);
    // Nothing waits where a majority may wait for its answer.
    feed.send(AppendEntriesRequest { leader_commit: Some(log_id(3, 19)), ..append(20, 20, 0) }).await;
    assert_eq!(feed.acknowledged().await, 20);
    let mut client = caller.client(2, &member).await;
    let last = futures::stream::iter([commit(21)]);
    let mut answers = client.stream_append(last, RPCOption::new(TTL)).await.expect("a stream");
    let answer = soon("an answer to the last request", answers.next()).await;
    assert_eq!(answer.expect("there is one").expect("answered"), Ok(Some(log_id(3, 21))));
}
