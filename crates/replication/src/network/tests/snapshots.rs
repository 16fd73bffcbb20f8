//! Whole transfers of snapshots.

use super::convert::Membership;
use super::*;

type Sent = Result<openraft::raft::SnapshotResponse<C>, StreamingError<C>>;

fn meta() -> SnapshotMeta {
    let members = BTreeMap::from([(1, member_at(1, "")), (2, member_at(2, ""))]);
    let membership = Membership::new(vec![[1, 2].into()], members).expect("each voter is a member");
    SnapshotMeta {
        last_log_id: Some(log_id(3, 40)),
        last_membership: StoredMembership::new(Some(log_id(1, 2)), membership),
    }
}

async fn send(caller: &Caller, member: &Member, bytes: Bytes) -> Sent {
    send_until(caller, member, bytes, std::future::pending()).await
}

async fn send_until(
    caller: &Caller,
    member: &Member,
    bytes: Bytes,
    cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
) -> Sent {
    send_as_leader_of(3, caller, member, bytes, cancel).await
}

async fn send_as_leader_of(
    term: u64,
    caller: &Caller,
    member: &Member,
    bytes: Bytes,
    cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
) -> Sent {
    let mut client = caller.client(2, member).await;
    let snapshot = openraft::Snapshot { meta: meta(), snapshot: SnapshotFile::Bytes(bytes) };
    let sending = client.full_snapshot(Vote::new_committed(term, 1), snapshot, cancel, RPCOption::new(SOON));
    soon("the transfer", sending).await
}

fn staged(node: &Node) -> usize {
    std::fs::read_dir(node.handler.staging.path()).expect("the folder exists").count()
}

#[tokio::test]
async fn a_snapshot_of_several_mebibytes_is_installed_as_it_was() {
    let node = Node::start(2, Handler::new()).await;
    let caller = Caller::new();
    let content: Vec<u8> = (0..5_000_003_u32).map(|at| (at / 7) as u8).collect();
    let sent = Bytes::copy_from_slice(&content);
    let answer = send(&caller, &node.member(2), sent).await.expect("installed");
    assert_eq!(answer.vote, Vote::new_committed(3, 1));
    let installed = node.handler.installed.lock().expect("no panic").clone();
    assert_eq!(installed.len(), 1);
    assert_eq!(installed[0].0, meta());
    assert!(installed[0].1 == content, "the content changed on the way");
    assert_eq!(staged(&node), 0, "the staged file is removed after the installation");
}

#[tokio::test]
async fn a_snapshot_with_one_changed_byte_is_refused_and_not_installed() {
    let node = Node::start(2, Handler::new()).await;
    let caller = Caller::with(|_| (), Spoil::OneByteOfARun);
    let content = Bytes::from(vec![0x5A; 3 << 20]);
    let answer = send(&caller, &node.member(2), content).await;
    assert!(matches!(answer, Err(StreamingError::Unreachable(_))), "found {answer:?}");
    let standing = caller.standing(2);
    assert!(
        matches!(standing, Some(PeerStanding::Refused { refusal: Refusal::DamagedSnapshot, .. })),
        "found {standing:?}"
    );
    assert_eq!((node.handler.installed(), staged(&node)), (0, 0));
}

#[tokio::test]
async fn a_cancelled_transfer_leaves_nothing_behind() {
    let node = Node::start(2, Handler::new()).await;
    let caller = Caller::new();
    let content = Bytes::from(vec![1; 64 << 20]);
    let staging = node.handler.staging.path().to_owned();
    let begun = async move {
        while std::fs::read_dir(&staging).expect("the folder exists").count() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        ReplicationClosed::new("no longer leader")
    };
    let answer = send_until(&caller, &node.member(2), content, begun).await;
    assert!(matches!(answer, Err(StreamingError::Closed(_))), "found {answer:?}");
    eventually("the unfinished file is removed", || staged(&node) == 0).await;
    assert_eq!(node.handler.installed(), 0);
}

#[tokio::test]
async fn a_follower_without_room_for_entries_takes_a_snapshot_that_fits_and_no_other() {
    let node = Node::start(2, Handler::new()).await;
    node.handler.disk_full.store(true, Ordering::Relaxed);
    node.handler.snapshot_fits.store(1 << 20, Ordering::Relaxed);
    let (caller, of) = (Caller::new(), |bytes| Bytes::from(vec![1; bytes]));
    let answer = send(&caller, &node.member(2), of((1 << 20) + 1)).await;
    assert!(matches!(answer, Err(StreamingError::Unreachable(_))), "found {answer:?}");
    assert_eq!((node.handler.installed(), staged(&node)), (0, 0));
    send(&caller, &node.member(2), of(1 << 20)).await.expect("it fits");
    assert_eq!(node.handler.installed(), 1);
}

#[tokio::test]
async fn a_leader_that_sends_again_is_put_off_until_its_snapshot_is_installed() {
    let node = Node::start(2, Handler::new()).await;
    let (caller, content, member) = (Caller::new(), Bytes::from(vec![1; 1000]), node.member(2));
    node.handler.installs_end.send_replace(false);
    // Each gives up while its snapshot is being installed.
    for (before, term) in [3, 4].into_iter().enumerate() {
        let handler = Arc::clone(&node.handler);
        let given_up = async move {
            eventually("it is being installed", || handler.installed() > before).await;
            ReplicationClosed::new("no answer in time")
        };
        let answer = send_as_leader_of(term, &caller, &member, content.clone(), given_up).await;
        assert!(matches!(answer, Err(StreamingError::Closed(_))), "found {answer:?}");
        let answer = send_as_leader_of(term, &caller, &member, content.clone(), std::future::pending()).await;
        assert!(matches!(answer, Err(StreamingError::Unreachable(_))), "found {answer:?}");
        let standing = caller.standing(2);
        let is_busy = matches!(standing, Some(PeerStanding::Refused { refusal: Refusal::Busy, .. }));
        assert!(is_busy, "found {standing:?}");
    }
    let third = send_as_leader_of(5, &caller, &member, content.clone(), std::future::pending()).await;
    assert!(matches!(third, Err(StreamingError::Unreachable(_))), "memory is for two: {third:?}");
    assert_eq!((node.handler.installed(), staged(&node)), (2, 2), "and nothing else was taken in");
    node.handler.installs_end.send_replace(true);
    eventually("both are done with", || staged(&node) == 0).await;
    let again = async { while send(&caller, &member, content.clone()).await.is_err() {} };
    soon("it is let in again", again).await;
    assert_eq!(node.handler.installed(), 3);
}
