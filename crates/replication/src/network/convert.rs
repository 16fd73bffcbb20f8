//! `holdfast.peer.v1` to openraft's types and back.
//!
//! - Payload bytes are handed on, never copied.
//! - Reading is total: whatever arrives gives a value or [`Malformed`], and nothing that openraft would assert on
//!   later (gaps between entries, a conflict without a log id, a voter without a member).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use model::{Member, Role, StoreId, Timestamp};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AsyncRuntime, EntryPayload, StoredMembership};
pub(super) use wire::convert::nanos;
use wire::proto::peer as pb;

use crate::type_config::{CommittedLeaderId, Entry, EntryBody, LogId, Payload, TypeConfig, Vote};

/// Meaning of [`pb::Entry`] and [`pb::SnapshotHeader`] that this version writes, and the highest that it reads.
const FORMAT: u32 = 1;

pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, u64, Member>;

/// A message that says nothing we could act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unreadable {0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// Random ids travel as 16 bytes, "not known" as none.
pub(super) fn id_to_bytes(id: &[u8; 16]) -> Bytes {
    match id {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] => Bytes::new(),
        known => Bytes::copy_from_slice(known),
    }
}

pub(super) fn id_from_bytes(bytes: &[u8]) -> Result<[u8; 16], Malformed> {
    match bytes {
        [] => Ok([0; 16]),
        known => known.try_into().map_err(|_| Malformed("id")),
    }
}

/// A wall clock reading travels as the bits of its `i64`.
pub(super) fn timestamp_to_bits(timestamp: Timestamp) -> u64 {
    timestamp.0.cast_unsigned()
}

pub(super) fn timestamp_from_bits(bits: u64) -> Timestamp {
    Timestamp(bits.cast_signed())
}

pub(super) fn role_to_proto(role: Role) -> pb::Role {
    match role {
        Role::Gateway => pb::Role::Gateway,
        Role::Witness => pb::Role::Witness,
    }
}

pub(super) fn role_from_proto(role: pb::Role) -> Result<Role, Malformed> {
    match role {
        pb::Role::Gateway => Ok(Role::Gateway),
        pb::Role::Witness => Ok(Role::Witness),
        pb::Role::Unspecified => Err(Malformed("role")),
    }
}

pub(super) fn vote_to_proto(vote: &Vote) -> pb::RaftVote {
    pb::RaftVote { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

pub(super) fn vote_from_proto(vote: Option<pb::RaftVote>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(Malformed("vote"))?;
    Ok(match vote.committed {
        true => Vote::new_committed(vote.term, vote.node),
        false => Vote::new(vote.term, vote.node),
    })
}

pub(super) fn log_id_to_proto(log_id: &LogId) -> pb::LogId {
    pb::LogId { term: log_id.leader_id.term, index: log_id.index }
}

pub(super) fn log_id_from_proto(log_id: pb::LogId) -> LogId {
    LogId::new(log_id.term.into(), log_id.index)
}

fn some_log_id_to_proto(log_id: &Option<LogId>) -> Option<pb::LogId> {
    log_id.as_ref().map(log_id_to_proto)
}

fn some_log_id_from_proto(log_id: Option<pb::LogId>) -> Option<LogId> {
    log_id.map(log_id_from_proto)
}

pub(super) fn member_to_proto(node: u64, member: &Member) -> pb::Member {
    pb::Member {
        node,
        name: member.name.clone(),
        address: member.address.clone(),
        store: id_to_bytes(member.store.as_bytes()),
        role: role_to_proto(member.role).into(),
        lease_nanos: nanos(member.lease),
    }
}

pub(super) fn member_from_proto(member: pb::Member) -> Result<(u64, Member), Malformed> {
    let role = role_from_proto(member.role())?;
    let store = StoreId(id_from_bytes(&member.store)?);
    let lease = Duration::from_nanos(member.lease_nanos);
    Ok((member.node, Member { name: member.name, address: member.address, store, role, lease }))
}

pub(super) fn membership_to_proto(membership: &Membership) -> pb::Membership {
    let configs = membership.get_joint_config().iter();
    let members = membership.nodes().map(|(node, member)| member_to_proto(*node, member));
    pb::Membership {
        configs: configs.map(|set| pb::VoterSet { voters: set.iter().copied().collect() }).collect(),
        members: members.collect(),
    }
}

pub(super) fn membership_from_proto(membership: pb::Membership) -> Result<Membership, Malformed> {
    let mut members = BTreeMap::new();
    for member in membership.members {
        let (node, known) = member_from_proto(member)?;
        members.insert(node, known);
    }
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.into_iter().map(|set| set.voters.into_iter().collect()).collect();
    match configs.is_empty() && members.is_empty() {
        // The membership of a node that belongs to none; openraft's constructor refuses it.
        true => Ok(Membership::default()),
        false => Membership::new(configs, members).map_err(|_| Malformed("membership")),
    }
}

pub(super) fn entry_to_proto(entry: Entry) -> pb::Entry {
    let body = match entry.payload {
        EntryPayload::Blank => pb::entry::Body::Blank(pb::Blank {}),
        EntryPayload::Normal(Payload(command)) => pb::entry::Body::Command(command),
        EntryPayload::Membership(membership) => pb::entry::Body::Membership(membership_to_proto(&membership)),
    };
    pb::Entry { format: FORMAT, log_id: Some(log_id_to_proto(&entry.log_id)), body: Some(body) }
}

pub(super) fn entry_from_proto(entry: pb::Entry) -> Result<Entry, Malformed> {
    if entry.format == 0 || entry.format > FORMAT {
        return Err(Malformed("entry format"));
    }
    let log_id = log_id_from_proto(entry.log_id.ok_or(Malformed("entry log id"))?);
    let payload: EntryBody = match entry.body.ok_or(Malformed("entry body"))? {
        pb::entry::Body::Blank(pb::Blank {}) => EntryPayload::Blank,
        pb::entry::Body::Command(command) => EntryPayload::Normal(Payload(command)),
        pb::entry::Body::Membership(membership) => {
            EntryPayload::Membership(membership_from_proto(membership)?)
        }
    };
    Ok(Entry { log_id, payload })
}

pub(super) fn append_to_proto<RT: AsyncRuntime>(
    envelope: pb::Envelope,
    sequence: u64,
    request: AppendEntriesRequest<TypeConfig<RT>>,
) -> pb::AppendRequest {
    pb::AppendRequest {
        envelope: Some(envelope),
        sequence,
        vote: Some(vote_to_proto(&request.vote)),
        previous: some_log_id_to_proto(&request.prev_log_id),
        entries: request.entries.into_iter().map(entry_to_proto).collect(),
        committed: some_log_id_to_proto(&request.leader_commit),
    }
}

/// Bytes of the commands in an append: what its memory and time on the wire depend on.
pub(super) fn payload_bytes(request: &pb::AppendRequest) -> usize {
    let commands = request.entries.iter().map(|entry| match &entry.body {
        Some(pb::entry::Body::Command(command)) => command.len(),
        _ => 0,
    });
    commands.sum()
}

pub(super) fn append_from_proto<RT: AsyncRuntime>(
    request: pb::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig<RT>>, Malformed> {
    let prev_log_id = some_log_id_from_proto(request.previous);
    let entries = request.entries.into_iter().map(entry_from_proto).collect::<Result<Vec<_>, _>>()?;
    // openraft's first entry has index 0 (the founding membership).
    let first =
        prev_log_id.map_or(Some(0), |previous| previous.index.checked_add(1)).ok_or(Malformed("index"))?;
    let contiguous = entries.iter().zip(first..).all(|(entry, index)| entry.log_id.index == index);
    if !contiguous {
        return Err(Malformed("order of entries"));
    }
    Ok(AppendEntriesRequest {
        vote: vote_from_proto(request.vote)?,
        prev_log_id,
        entries,
        leader_commit: some_log_id_from_proto(request.committed),
    })
}

pub(super) fn append_result_to_proto<RT: AsyncRuntime>(
    sequence: u64,
    result: &StreamAppendResult<TypeConfig<RT>>,
) -> pb::AppendResponse {
    use pb::append_response::Result as Answer;
    let answer = match result {
        Ok(matching) => Answer::Matching(pb::Matching { log_id: some_log_id_to_proto(matching) }),
        Err(StreamAppendError::Conflict(at)) => Answer::Conflict(log_id_to_proto(at)),
        Err(StreamAppendError::HigherVote(vote)) => Answer::HigherVote(vote_to_proto(vote)),
    };
    pb::AppendResponse { sequence, result: Some(answer) }
}

pub(super) fn append_result_from_proto<RT: AsyncRuntime>(
    response: pb::AppendResponse,
) -> Result<StreamAppendResult<TypeConfig<RT>>, Malformed> {
    use pb::append_response::Result as Answer;
    Ok(match response.result.ok_or(Malformed("append result"))? {
        Answer::Matching(matching) => Ok(some_log_id_from_proto(matching.log_id)),
        Answer::Conflict(at) => Err(StreamAppendError::Conflict(log_id_from_proto(at))),
        Answer::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote_from_proto(Some(vote))?)),
    })
}

pub(super) fn heartbeat_to_proto<RT: AsyncRuntime>(
    envelope: pb::Envelope,
    request: &AppendEntriesRequest<TypeConfig<RT>>,
) -> pb::HeartbeatRequest {
    assert!(request.entries.is_empty(), "a heartbeat carries no entries");
    pb::HeartbeatRequest {
        envelope: Some(envelope),
        vote: Some(vote_to_proto(&request.vote)),
        previous: some_log_id_to_proto(&request.prev_log_id),
        committed: some_log_id_to_proto(&request.leader_commit),
    }
}

pub(super) fn heartbeat_from_proto<RT: AsyncRuntime>(
    request: pb::HeartbeatRequest,
) -> Result<AppendEntriesRequest<TypeConfig<RT>>, Malformed> {
    Ok(AppendEntriesRequest {
        vote: vote_from_proto(request.vote)?,
        prev_log_id: some_log_id_from_proto(request.previous),
        entries: Vec::new(),
        leader_commit: some_log_id_from_proto(request.committed),
    })
}

pub(super) fn vote_request_to_proto<RT: AsyncRuntime>(
    envelope: pb::Envelope,
    request: &VoteRequest<TypeConfig<RT>>,
) -> pb::VoteRequest {
    pb::VoteRequest {
        envelope: Some(envelope),
        vote: Some(vote_to_proto(&request.vote)),
        last: some_log_id_to_proto(&request.last_log_id),
        transfer: request.leadership_transfer,
    }
}

pub(super) fn vote_request_from_proto<RT: AsyncRuntime>(
    request: pb::VoteRequest,
) -> Result<VoteRequest<TypeConfig<RT>>, Malformed> {
    Ok(VoteRequest {
        vote: vote_from_proto(request.vote)?,
        last_log_id: some_log_id_from_proto(request.last),
        leadership_transfer: request.transfer,
    })
}

pub(super) fn vote_response_to_proto<RT: AsyncRuntime>(
    response: &VoteResponse<TypeConfig<RT>>,
) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: Some(vote_to_proto(&response.vote)),
        granted: response.vote_granted,
        last: some_log_id_to_proto(&response.last_log_id),
    }
}

pub(super) fn vote_response_from_proto<RT: AsyncRuntime>(
    response: pb::VoteResponse,
) -> Result<VoteResponse<TypeConfig<RT>>, Malformed> {
    Ok(VoteResponse {
        vote: vote_from_proto(response.vote)?,
        vote_granted: response.granted,
        last_log_id: some_log_id_from_proto(response.last),
    })
}

pub(super) fn transfer_to_proto<RT: AsyncRuntime>(
    envelope: pb::Envelope,
    request: &TransferLeaderRequest<TypeConfig<RT>>,
) -> pb::TransferLeaderRequest {
    pb::TransferLeaderRequest {
        envelope: Some(envelope),
        from: Some(vote_to_proto(request.from_leader())),
        to: *request.to_node_id(),
        last: request.last_log_id().map(log_id_to_proto),
    }
}

pub(super) fn transfer_from_proto<RT: AsyncRuntime>(
    request: pb::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<TypeConfig<RT>>, Malformed> {
    let from = vote_from_proto(request.from)?;
    Ok(TransferLeaderRequest::new(from, request.to, some_log_id_from_proto(request.last)))
}

pub(super) fn transfer_response_to_proto<RT: AsyncRuntime>(
    response: &TransferLeaderResponse<TypeConfig<RT>>,
) -> pb::TransferLeaderResponse {
    use pb::transfer_leader_response::{Accepted, LogNotFlushed, Result as Answer, VoteChanged};
    let answer = match response {
        Ok(()) => Answer::Accepted(Accepted {}),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => Answer::VoteChanged(VoteChanged {
            expected: Some(vote_to_proto(expected)),
            actual: Some(vote_to_proto(actual)),
        }),
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            Answer::LogNotFlushed(LogNotFlushed {
                expected: some_log_id_to_proto(expected),
                actual: some_log_id_to_proto(actual),
            })
        }
    };
    pb::TransferLeaderResponse { result: Some(answer) }
}

pub(super) fn transfer_response_from_proto<RT: AsyncRuntime>(
    response: pb::TransferLeaderResponse,
) -> Result<TransferLeaderResponse<TypeConfig<RT>>, Malformed> {
    use pb::transfer_leader_response::Result as Answer;
    Ok(match response.result.ok_or(Malformed("transfer result"))? {
        Answer::Accepted(_) => Ok(()),
        Answer::VoteChanged(changed) => Err(TransferLeaderError::VoteChanged {
            expected: vote_from_proto(changed.expected)?,
            actual: vote_from_proto(changed.actual)?,
        }),
        Answer::LogNotFlushed(short) => Err(TransferLeaderError::LogNotFlushed {
            expected: some_log_id_from_proto(short.expected),
            actual: some_log_id_from_proto(short.actual),
        }),
    })
}

/// What precedes the chunks of a snapshot.
pub(super) fn snapshot_header_to_proto(
    envelope: pb::Envelope,
    vote: &Vote,
    meta: &SnapshotMeta,
    length: u64,
) -> pb::SnapshotHeader {
    pb::SnapshotHeader {
        envelope: Some(envelope),
        format: FORMAT,
        vote: Some(vote_to_proto(vote)),
        last: some_log_id_to_proto(&meta.last_log_id),
        membership: Some(membership_to_proto(meta.last_membership.membership())),
        membership_at: some_log_id_to_proto(meta.last_membership.log_id()),
        length,
    }
}

pub(super) fn snapshot_header_from_proto(
    header: pb::SnapshotHeader,
) -> Result<(Vote, SnapshotMeta, u64), Malformed> {
    if header.format == 0 || header.format > FORMAT {
        return Err(Malformed("snapshot format"));
    }
    let membership = membership_from_proto(header.membership.ok_or(Malformed("snapshot membership"))?)?;
    let last = header.last.ok_or(Malformed("snapshot position"))?;
    let meta = SnapshotMeta {
        last_log_id: Some(log_id_from_proto(last)),
        last_membership: StoredMembership::new(some_log_id_from_proto(header.membership_at), membership),
    };
    Ok((vote_from_proto(header.vote)?, meta, header.length))
}

#[cfg(test)]
mod tests {
    use openraft_rt_tokio::TokioRuntime;

    use super::*;

    type C = TypeConfig<TokioRuntime>;

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new(term.into(), index)
    }

    fn member(name: &str, role: Role) -> Member {
        Member {
            name: name.into(),
            address: "10.0.9.11:7610".into(),
            store: StoreId::from(0xAB),
            role,
            lease: Duration::from_millis(500),
        }
    }

    fn joint_membership() -> Membership {
        let members = [(1, Role::Gateway), (2, Role::Gateway), (3, Role::Witness), (4, Role::Gateway)];
        let members: BTreeMap<_, _> = members.map(|(id, role)| (id, member("gateway", role))).into();
        Membership::new(vec![[1, 2, 3].into(), [1, 2, 4].into()], members).expect("each voter is a member")
    }

    fn entries() -> Vec<Entry> {
        let bodies = [
            EntryPayload::Blank,
            EntryPayload::Normal(Payload(Bytes::from_static(b"command"))),
            EntryPayload::Membership(joint_membership()),
            EntryPayload::Normal(Payload(Bytes::new())),
        ];
        (8..).zip(bodies).map(|(index, payload)| Entry { log_id: log_id(3, index), payload }).collect()
    }

    fn append(previous: Option<LogId>, entries: Vec<Entry>) -> AppendEntriesRequest<C> {
        AppendEntriesRequest {
            vote: Vote::new_committed(3, 2),
            prev_log_id: previous,
            entries,
            leader_commit: Some(log_id(2, 5)),
        }
    }

    #[test]
    fn votes_survive_the_wire() {
        for vote in [Vote::new(0, 0), Vote::new(7, 2), Vote::new_committed(u64::MAX, 3)] {
            assert_eq!(vote_from_proto(Some(vote_to_proto(&vote))), Ok(vote));
        }
        assert!(vote_from_proto(None).is_err());
    }

    #[test]
    fn memberships_survive_the_wire() {
        let uniform = Membership::new(vec![[1].into()], BTreeMap::from([(1, member("a", Role::Gateway))]))
            .expect("each voter is a member");
        for membership in [Membership::default(), uniform, joint_membership()] {
            assert_eq!(membership_from_proto(membership_to_proto(&membership)), Ok(membership));
        }
    }

    #[test]
    fn a_voter_that_is_no_member_is_refused() {
        let mut membership = membership_to_proto(&joint_membership());
        membership.members.pop();
        assert_eq!(membership_from_proto(membership), Err(Malformed("membership")));
    }

    #[test]
    fn appends_survive_the_wire() {
        for (previous, entries) in
            [(Some(log_id(2, 7)), entries()), (Some(log_id(2, 7)), Vec::new()), (None, Vec::new())]
        {
            let request = append(previous, entries);
            let sent = append_to_proto(pb::Envelope::default(), 4, request.clone());
            assert_eq!(sent.sequence, 4);
            let read = append_from_proto::<TokioRuntime>(sent).expect("what we wrote");
            assert_eq!(read.vote, request.vote);
            assert_eq!(read.prev_log_id, request.prev_log_id);
            assert_eq!(read.entries, request.entries);
            assert_eq!(read.leader_commit, request.leader_commit);
        }
    }

    #[test]
    fn a_payload_is_handed_on_without_a_copy() {
        let command = Bytes::from(vec![7; 1 << 16]);
        let entry = Entry { log_id: log_id(1, 0), payload: EntryPayload::Normal(Payload(command.clone())) };
        let read = entry_from_proto(entry_to_proto(entry)).expect("what we wrote");
        let EntryPayload::Normal(Payload(read)) = read.payload else { panic!("expected a command") };
        assert_eq!(read.as_ptr(), command.as_ptr());
    }

    #[test]
    fn entries_that_do_not_follow_each_other_are_refused() {
        let mut holed = entries();
        holed.remove(1);
        let cases = [(Some(log_id(2, 6)), entries()), (None, entries()), (Some(log_id(2, 7)), holed)];
        for (previous, entries) in cases {
            let sent = append_to_proto(pb::Envelope::default(), 0, append(previous, entries));
            let read = append_from_proto::<TokioRuntime>(sent).map(|_| ());
            assert_eq!(read, Err(Malformed("order of entries")), "after {previous:?}");
        }
    }

    #[test]
    fn an_entry_of_a_newer_format_is_refused() {
        let mut entry = entry_to_proto(entries().remove(0));
        entry.format = FORMAT + 1;
        assert_eq!(entry_from_proto(entry), Err(Malformed("entry format")));
    }

    #[test]
    fn append_results_survive_the_wire() {
        let results: [StreamAppendResult<C>; 4] = [
            Ok(None),
            Ok(Some(log_id(3, 9))),
            Err(StreamAppendError::Conflict(log_id(2, 8))),
            Err(StreamAppendError::HigherVote(Vote::new(9, 1))),
        ];
        for result in results {
            let read = append_result_from_proto::<TokioRuntime>(append_result_to_proto(6, &result));
            assert_eq!(read, Ok(result));
        }
    }

    #[test]
    fn heartbeats_survive_the_wire() {
        let request = append(Some(log_id(2, 7)), Vec::new());
        let read =
            heartbeat_from_proto::<TokioRuntime>(heartbeat_to_proto(pb::Envelope::default(), &request))
                .expect("what we wrote");
        assert_eq!((read.vote, read.prev_log_id), (request.vote, request.prev_log_id));
        assert_eq!(read.leader_commit, request.leader_commit);
        assert!(read.entries.is_empty());
    }

    #[test]
    fn vote_requests_and_responses_survive_the_wire() {
        for transfer in [false, true] {
            let mut request = VoteRequest::<C>::new(Vote::new(4, 2), Some(log_id(3, 9)));
            request.leadership_transfer = transfer;
            let sent = vote_request_to_proto(pb::Envelope::default(), &request);
            assert_eq!(vote_request_from_proto::<TokioRuntime>(sent), Ok(request));
        }
        for granted in [false, true] {
            let response = VoteResponse::<C>::new(Vote::new(4, 2), None, granted);
            let read = vote_response_from_proto::<TokioRuntime>(vote_response_to_proto(&response));
            assert_eq!(read, Ok(response));
        }
    }

    #[test]
    fn transfers_survive_the_wire() {
        let request = TransferLeaderRequest::<C>::new(Vote::new_committed(4, 1), 2, Some(log_id(4, 9)));
        let sent = transfer_to_proto(pb::Envelope::default(), &request);
        assert_eq!(transfer_from_proto::<TokioRuntime>(sent), Ok(request));
        let responses: [TransferLeaderResponse<C>; 3] = [
            Ok(()),
            Err(TransferLeaderError::VoteChanged { expected: Vote::new(4, 1), actual: Vote::new(5, 2) }),
            Err(TransferLeaderError::LogNotFlushed { expected: Some(log_id(4, 9)), actual: None }),
        ];
        for response in responses {
            let read = transfer_response_from_proto::<TokioRuntime>(transfer_response_to_proto(&response));
            assert_eq!(read, Ok(response));
        }
    }

    #[test]
    fn snapshot_headers_survive_the_wire() {
        let vote = Vote::new_committed(4, 1);
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(3, 40)),
            last_membership: StoredMembership::new(Some(log_id(1, 2)), joint_membership()),
        };
        let sent = snapshot_header_to_proto(pb::Envelope::default(), &vote, &meta, 12_345);
        assert_eq!(snapshot_header_from_proto(sent), Ok((vote, meta, 12_345)));
    }

    #[test]
    fn an_id_is_sixteen_bytes_or_not_known() {
        assert_eq!(id_from_bytes(&id_to_bytes(&[0; 16])), Ok([0; 16]));
        assert_eq!(id_from_bytes(&id_to_bytes(&[3; 16])), Ok([3; 16]));
        assert_eq!(id_from_bytes(&[1; 15]), Err(Malformed("id")));
    }
}
