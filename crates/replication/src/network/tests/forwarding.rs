//! Proposals forwarded to the leader.

use tokio::sync::oneshot;

use super::proposals::Submitted;
use super::*;

type Waiting = Arc<Mutex<Vec<(Bytes, oneshot::Sender<Result<Applied, ProposeError>>)>>>;

/// A leader whose answers the test gives.
fn leader_by_hand() -> (Handler, Waiting) {
    let waiting = Waiting::default();
    let queue = waiting.clone();
    let answer_proposal = Box::new(move |command: Bytes| {
        let (answer, answered) = oneshot::channel();
        queue.lock().expect("no panic").push((command, answer));
        async move { answered.await.unwrap_or(Err(ProposeError::Unknown)) }.boxed()
    });
    (Handler { answer_proposal, ..Handler::new() }, waiting)
}

fn applied(position: u64) -> Applied {
    Applied { term: Term(3), position: Position(position), outcome: Outcome::Done }
}

fn proposals(
    caller: &Caller,
    leader: Option<(u64, Member)>,
    change: impl FnOnce(&mut NetworkOptions),
) -> (Proposals, watch::Sender<Option<(NodeId, Member)>>) {
    let leader = watch::Sender::new(leader.map(|(node, member)| (NodeId(node), member)));
    let mut options = NetworkOptions::for_lease(Duration::from_millis(500));
    change(&mut options);
    let proposals = Proposals::start(caller.network.clone(), leader.subscribe(), &options, &caller.spawner);
    (proposals, leader)
}

async fn submit(proposals: &Proposals, command: &'static str) -> Submitted {
    proposals.submit(Bytes::from_static(command.as_bytes()), SOON).await.expect("room")
}

async fn propose(proposals: &Proposals, patience: Duration) -> Result<Applied, ProposeError> {
    let submitted = proposals.submit(Bytes::from_static(b"command"), patience).await?;
    soon("an answer", submitted.answer()).await
}

async fn arrived(waiting: &Waiting, count: usize) {
    eventually("the proposals arrive", || waiting.lock().expect("no panic").len() == count).await;
}

#[tokio::test]
async fn answers_in_any_order_reach_who_asked() {
    let (handler, waiting) = leader_by_hand();
    let node = Node::start(2, handler).await;
    let caller = Caller::new();
    let (proposals, _leader) = proposals(&caller, Some((2, node.member(2))), |_| ());
    let first = submit(&proposals, "first").await;
    let second = submit(&proposals, "second").await;
    let third = submit(&proposals, "third").await;
    arrived(&waiting, 3).await;
    let mut queue = std::mem::take(&mut *waiting.lock().expect("no panic"));
    let order: Vec<_> = queue.iter().map(|(command, _)| command.clone()).collect();
    assert_eq!(order, ["first", "second", "third"], "the leader sees them as they were submitted");
    let overloaded = ProposeError::Overloaded { retry_after: Duration::from_millis(50) };
    queue.pop().expect("third").1.send(Ok(applied(43))).expect("waits");
    queue.pop().expect("second").1.send(Err(overloaded.clone())).expect("waits");
    assert_eq!(soon("third", third.answer()).await, Ok(applied(43)));
    assert_eq!(soon("second", second.answer()).await, Err(overloaded));
    queue.pop().expect("first").1.send(Ok(applied(41))).expect("waits");
    assert_eq!(soon("first", first.answer()).await, Ok(applied(41)));
}

#[tokio::test]
async fn a_lost_stream_leaves_every_outstanding_proposal_unknown() {
    let (handler, waiting) = leader_by_hand();
    let node = Node::start(2, handler).await;
    let caller = Caller::new();
    let (proposals, _leader) = proposals(&caller, Some((2, node.member(2))), |_| ());
    let outstanding = [submit(&proposals, "first").await, submit(&proposals, "second").await];
    arrived(&waiting, 2).await;
    let address = node.kill().await;
    for proposal in outstanding {
        assert_eq!(soon("an answer", proposal.answer()).await, Err(ProposeError::Unknown));
    }

    let later = propose(&proposals, SOON).await;
    assert!(matches!(later, Err(ProposeError::Unreachable(_))), "surely not proposed: {later:?}");
    let (handler, waiting) = leader_by_hand();
    let listener = TcpListener::bind(address).await.expect("the port is free again");
    let _node = Node::start_on(listener, identity(2), Arc::new(handler), None);
    let again = soon("a connection", async {
        loop {
            let answer = submit(&proposals, "again").await;
            tokio::pin!(let answered = answer.answer(););
            let reached = async {
                while waiting.lock().expect("no panic").is_empty() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            tokio::select! {
                refused = &mut answered => assert!(matches!(refused, Err(ProposeError::Unreachable(_))), "{refused:?}"),
                () = reached => {
                    let (_, answer) = waiting.lock().expect("no panic").pop().expect("arrived");
                    answer.send(Ok(applied(50))).expect("waits");
                    break answered.await;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(again, Ok(applied(50)));
}

#[tokio::test]
async fn a_new_leader_leaves_what_the_old_one_was_sent_unknown() {
    let (handler, waiting) = leader_by_hand();
    let old = Node::start(2, handler).await;
    let (handler, waiting_at_new) = leader_by_hand();
    let new = Node::start(3, handler).await;
    let caller = Caller::new();
    let (proposals, leader) = proposals(&caller, Some((2, old.member(2))), |_| ());
    let sent_to_old = submit(&proposals, "old").await;
    arrived(&waiting, 1).await;
    leader.send_replace(Some((NodeId(3), new.member(3))));
    assert_eq!(soon("an answer", sent_to_old.answer()).await, Err(ProposeError::Unknown));
    let sent_to_new = submit(&proposals, "new").await;
    arrived(&waiting_at_new, 1).await;
    let (command, answer) = waiting_at_new.lock().expect("no panic").pop().expect("arrived");
    assert_eq!(command, "new");
    answer.send(Ok(applied(60))).expect("waits");
    assert_eq!(soon("an answer", sent_to_new.answer()).await, Ok(applied(60)));
}

#[tokio::test]
async fn without_a_leader_nothing_is_proposed() {
    let caller = Caller::new();
    let (proposals, _leader) = proposals(&caller, None, |_| ());
    let answer = propose(&proposals, SOON).await;
    assert_eq!(answer, Err(ProposeError::NotLeader { leader: None }));
}

#[tokio::test]
async fn a_full_window_refuses_after_the_patience() {
    let (handler, waiting) = leader_by_hand();
    let node = Node::start(2, handler).await;
    let caller = Caller::new();
    let small = |options: &mut NetworkOptions| options.propose_window_bytes = 10;
    let (proposals, _leader) = proposals(&caller, Some((2, node.member(2))), small);
    let first = submit(&proposals, "eight by").await;
    arrived(&waiting, 1).await;
    let refused = proposals.submit(Bytes::from_static(b"too many"), Duration::from_millis(50)).await;
    assert!(matches!(refused.map(|_| ()), Err(ProposeError::Overloaded { .. })));
    let never = proposals.submit(Bytes::from_static(b"eleven byte"), SOON).await;
    assert!(matches!(never.map(|_| ()), Err(ProposeError::Invalid(_))));

    let (_, answer) = waiting.lock().expect("no panic").pop().expect("arrived");
    answer.send(Ok(applied(7))).expect("waits");
    assert_eq!(soon("an answer", first.answer()).await, Ok(applied(7)));
    let _second = submit(&proposals, "too many").await;
    arrived(&waiting, 1).await;
}

#[tokio::test]
async fn what_nobody_waits_for_is_not_sent() {
    let (handler, waiting) = leader_by_hand();
    let node = Node::start(2, handler).await;
    let caller = Caller::new();
    let (proposals, _leader) = proposals(&caller, Some((2, node.member(2))), |_| ());
    let _first = submit(&proposals, "first").await;
    arrived(&waiting, 1).await;
    drop(submit(&proposals, "given up").await);
    let _third = submit(&proposals, "third").await;
    arrived(&waiting, 2).await;
    let commands: Vec<_> =
        waiting.lock().expect("no panic").iter().map(|(command, _)| command.clone()).collect();
    assert_eq!(commands, ["first", "third"]);
}

#[tokio::test]
async fn a_leader_that_never_answers_leaves_the_outcome_unknown() {
    let (handler, _waiting) = leader_by_hand();
    let node = Node::start(2, handler).await;
    let caller = Caller::new();
    let (proposals, _leader) = proposals(&caller, Some((2, node.member(2))), |_| ());
    let answer = propose(&proposals, Duration::from_millis(100)).await;
    assert_eq!(answer, Err(ProposeError::Unknown));
}
