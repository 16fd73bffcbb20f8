//! Why an admin call did not do what it was asked: one variant for each advice, each with its code.
//!
//! Owns the codes and their gRPC form: the code stands at the start of the message and in the metadata `holdfast-code`.
//! Each has a page in `docs/errors`.

use std::time::Duration;

use model::Timestamp;
use model::ids::Revision;
use model::plant::document::Diagnostics;
use replication::{DrainError, MembershipError, NoSuccessor, ProposeError};
use store::{Refusal, Thing};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::PATIENCE;

/// Metadata key of the error code.
pub const CODE: &str = "holdfast-code";
/// Metadata key of the leader's name, where another node must be asked.
pub const LEADER: &str = "holdfast-leader";

/// How many diagnostics an error message holds; the rest is counted. Messages travel in HTTP headers, which are small.
const MAX_DIAGNOSTICS: usize = 10;
/// Characters of an error message.
const MAX_CHARACTERS: usize = 3_000;

/// Why a call was not done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Failure {
    /// The plant document has errors.
    #[error("the plant document has errors, nothing was changed; `holdfast config validate` lists them all\n{}", head(.0))]
    InvalidDocument(Box<Diagnostics>),
    /// The files are no plant document.
    #[error("the files cannot be taken: {0}")]
    InvalidFiles(String),
    /// Somebody else applied a revision meanwhile.
    #[error(
        "revision {current} is in force, this change was made for {base}; run `holdfast config plan` again"
    )]
    RevisionMoved {
        /// What the caller had seen.
        base: Revision,
        /// What is in force.
        current: Revision,
    },
    /// Something undelivered would be lost.
    #[error(
        "{} would lose what is not delivered yet; wait until it is, or add `--discard-backlog {}`",
        .0.join(", "), .0.join(" --discard-backlog ")
    )]
    BacklogAtStake(Vec<String>),
    /// There is no such revision.
    #[error("there is no revision {0}; `holdfast config history` lists them")]
    NoSuchRevision(Revision),
    /// There was such a revision, and its files are kept no more.
    #[error(
        "the files of revision {0} are kept no more; `holdfast config history` lists the revisions that are kept"
    )]
    RevisionGone(Revision),
    /// The leader could not be asked by this node.
    #[error(
        "this needs the leader, {leader}, and it could not be asked: {reason}; ask another node, or again in a moment"
    )]
    LeaderElsewhere {
        /// Who leads.
        leader: String,
        /// Why it could not be asked.
        reason: String,
    },
    /// Who was asked for led, and had to hand leadership over before it can go.
    #[error(
        "{from} led: it was drained and has handed leadership over to {leader}, which does the rest; ask again"
    )]
    HandedOver {
        /// Who led.
        from: String,
        /// Who leads now.
        leader: String,
    },
    /// Leadership left this node while it worked on the call.
    #[error("leadership is just changing hands, nothing was done; try again in a moment")]
    LedNoMore,
    /// Nobody leads.
    #[error("no leader{}: no majority of the nodes answers; bring a node back, then try again", since(.0.as_ref()))]
    NoLeader(Option<Timestamp>),
    /// The connection to the leader was lost in the middle of a change.
    #[error(
        "the connection to the leader, {leader}, was lost ({reason}): the change may have happened; look before trying again"
    )]
    Interrupted {
        /// Who leads.
        leader: String,
        /// How it was lost.
        reason: String,
    },
    /// A majority does not answer.
    #[error(
        "nothing can be changed, no majority of the nodes answers ({0}); bring a node back, then try again"
    )]
    NoQuorum(String),
    /// It may have happened.
    #[error("no answer within {0:?}: the change may still happen; look before trying again")]
    Unknown(Duration),
    /// Too much to do.
    #[error("the cluster is overloaded; try again in {0:?}")]
    Overloaded(Duration),
    /// Other documents took the place of this one while it was handed over in parts.
    #[error("other large plant documents were applied at the same time, nothing was changed; try again")]
    Displaced,
    /// There is no such member.
    #[error("there is no member {0:?}; `holdfast member list` names them")]
    NoSuchMember(String),
    /// Leadership cannot go there.
    #[error("leadership cannot be handed over: {0}")]
    NoSuccessor(String),
    /// The hand-over was begun and did not end well.
    #[error("the hand-over did not succeed: {0}; `holdfast leader show` says who leads")]
    HandOver(String),
    /// This node takes no part any more.
    #[error("this node was removed from the cluster and knows nothing of it any more; ask another")]
    Removed,
    /// The node at that address cannot become a member.
    #[error("the node cannot be added: {0}")]
    NotTaken(String),
    /// A learner lacks too much to vote.
    #[error("{0}; wait until it has them (`--wait` does, `holdfast member list` shows how far it is)")]
    NotCaughtUp(String),
    /// A voter cannot go.
    #[error("the member cannot be removed: {0}")]
    QuorumAtStake(String),
    /// Too few would be left that may lead.
    #[error(
        "{name} is not drained: {why}; resume or bring back another first, or only move leadership with `holdfast leader \
         transfer`"
    )]
    TooFewToLead {
        /// Who was to be drained.
        name: String,
        /// Who would be left.
        why: String,
    },
    /// The membership was not changed.
    #[error("the membership was not changed: {0}")]
    NotChanged(String),
    /// There is no such device.
    #[error("there is no device {0:?}; `holdfast device list` names them")]
    NoSuchDevice(String),
    /// An operator took the device out of service.
    #[error(
        "{device} was taken out of service by {principal}, and is not touched; `holdfast device enable {device}` puts it back"
    )]
    OutOfService {
        /// The device.
        device: String,
        /// Who took it out.
        principal: String,
    },
    /// There is no such tag.
    #[error("there is no tag {0:?}; `holdfast tag list` names them")]
    NoSuchTag(String),
    /// There is no such destination.
    #[error("there is no destination {0:?}; `holdfast destination list` names them")]
    NoSuchDestination(String),
    /// There is no such record.
    #[error(
        "destination {destination} has no quarantined record {key}; `holdfast quarantine list` names them"
    )]
    NoSuchRecord {
        /// The destination.
        destination: String,
        /// The key asked for.
        key: String,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    BadArgument(String),
    /// The certificate's role is not enough.
    #[error(
        "{method} needs a certificate of the role {needs}; this one is that of {has}. `holdfast pki issue` makes another"
    )]
    Forbidden {
        /// What was called.
        method: String,
        /// The least that it needs.
        needs: &'static str,
        /// Who called.
        has: String,
    },
    /// The node is stopping.
    #[error("this node is stopping; ask another")]
    Stopping,
    /// Something that should not be possible.
    #[error("this node failed to answer: {0}; its log says more")]
    Internal(String),
}

impl Failure {
    /// The code, explained in `docs/errors`.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::InvalidDocument(_) => "HF-2001",
            Self::InvalidFiles(_) => "HF-2002",
            Self::RevisionMoved { .. } => "HF-2003",
            Self::BacklogAtStake(_) => "HF-2004",
            Self::NoSuchRevision(_) | Self::RevisionGone(_) => "HF-2005",
            Self::LeaderElsewhere { .. } | Self::HandedOver { .. } | Self::LedNoMore => "HF-3101",
            Self::NoQuorum(_) | Self::NoLeader(_) => "HF-3102",
            Self::Unknown(_) | Self::Interrupted { .. } => "HF-3103",
            Self::Overloaded(_) | Self::Displaced => "HF-3104",
            Self::NoSuchMember(_) => "HF-3105",
            Self::NoSuccessor(_) => "HF-3106",
            Self::HandOver(_) => "HF-3107",
            Self::Stopping => "HF-3108",
            Self::Removed => "HF-3110",
            Self::NotTaken(_) => "HF-3111",
            Self::NotCaughtUp(_) => "HF-3112",
            Self::QuorumAtStake(_) => "HF-3113",
            Self::NotChanged(_) => "HF-3114",
            Self::TooFewToLead { .. } => "HF-3115",
            Self::NoSuchDevice(_) => "HF-5101",
            Self::OutOfService { .. } => "HF-5102",
            Self::NoSuchTag(_) => "HF-5103",
            Self::NoSuchDestination(_) => "HF-7101",
            Self::NoSuchRecord { .. } => "HF-7102",
            Self::BadArgument(_) => "HF-8101",
            Self::Internal(_) => "HF-8102",
            Self::Forbidden { .. } => "HF-8103",
        }
    }

    fn grpc_code(&self) -> Code {
        match self {
            Self::InvalidDocument(_) | Self::InvalidFiles(_) | Self::BadArgument(_) => Code::InvalidArgument,
            Self::RevisionMoved { .. } => Code::Aborted,
            Self::BacklogAtStake(_)
            | Self::NoSuccessor(_)
            | Self::OutOfService { .. }
            | Self::Removed
            | Self::NotTaken(_)
            | Self::NotCaughtUp(_)
            | Self::QuorumAtStake(_)
            | Self::TooFewToLead { .. }
            | Self::NotChanged(_) => Code::FailedPrecondition,
            Self::NoSuchRevision(_)
            | Self::RevisionGone(_)
            | Self::NoSuchMember(_)
            | Self::NoSuchDevice(_)
            | Self::NoSuchTag(_)
            | Self::NoSuchDestination(_)
            | Self::NoSuchRecord { .. } => Code::NotFound,
            Self::LeaderElsewhere { .. }
            | Self::HandedOver { .. }
            | Self::LedNoMore
            | Self::NoLeader(_)
            | Self::NoQuorum(_)
            | Self::Overloaded(_)
            | Self::Displaced
            | Self::Stopping => Code::Unavailable,
            Self::Unknown(_) | Self::Interrupted { .. } | Self::HandOver(_) => Code::Unknown,
            Self::Internal(_) => Code::Internal,
            Self::Forbidden { .. } => Code::PermissionDenied,
        }
    }

    /// Why the membership was not changed.
    pub(crate) fn from_change(error: MembershipError) -> Self {
        match error {
            MembershipError::Refused(reason) => Self::NotChanged(reason),
            other => other.into(),
        }
    }

    /// Why `name` was not drained.
    pub(crate) fn from_drain(error: DrainError, name: &str) -> Self {
        match error {
            DrainError::TooFew(why) => Self::TooFewToLead { name: name.to_owned(), why: why.to_string() },
            DrainError::Turn(MembershipError::NotLeader { .. })
            | DrainError::Propose(ProposeError::NotLeader { .. }) => Self::LedNoMore,
            DrainError::Turn(error) => Self::from_change(error),
            DrainError::Propose(error) => Self::from_propose(error, PATIENCE),
        }
    }

    /// What became of a proposal that was not seen applied within `patience`.
    pub(crate) fn from_propose(error: ProposeError, patience: Duration) -> Self {
        match error {
            ProposeError::NotLeader { .. } => Self::NoQuorum("no leader is known".to_owned()),
            ProposeError::Unreachable(reason) => Self::NoQuorum(reason),
            ProposeError::NoQuorum => Self::NoQuorum("the leader hears no majority".to_owned()),
            // Only samples are refused for want of room, and nobody sends samples here.
            ProposeError::NoSpace { retry_after } => Self::Overloaded(retry_after),
            ProposeError::Overloaded { retry_after } => Self::Overloaded(retry_after),
            ProposeError::Invalid(reason) => Self::BadArgument(reason),
            ProposeError::Unknown => Self::Unknown(patience),
            ProposeError::Stopped => Self::Stopping,
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Revision { base, current } => Self::RevisionMoved { base, current },
            Refusal::Backlog { name } => Self::BacklogAtStake(vec![name]),
            Refusal::Unknown { what: Thing::Device, name } => Self::NoSuchDevice(name),
            Refusal::Unknown { what: Thing::Destination, name } => Self::NoSuchDestination(name),
            Refusal::Unknown { what: Thing::StagedDocument, .. } => Self::Displaced,
            Refusal::Fenced { .. } => Self::NoQuorum("leadership changed hands meanwhile".to_owned()),
            other @ (Refusal::Horizon { .. } | Refusal::Unknown { .. }) => {
                Self::BadArgument(other.to_string())
            }
        }
    }
}

impl From<MembershipError> for Failure {
    fn from(error: MembershipError) -> Self {
        match error {
            MembershipError::NotLeader { .. } => Self::LedNoMore,
            MembershipError::Refused(reason) => Self::HandOver(reason),
            MembershipError::NotTaken(reason) => Self::NotTaken(reason),
            MembershipError::Behind { name, lag } => {
                let bytes = model::plant::units::format_bytes(lag.bytes);
                Self::NotCaughtUp(format!("{name} lacks {} entries (about {bytes})", lag.entries))
            }
            MembershipError::QuorumAtStake(why) => Self::QuorumAtStake(why.to_string()),
            MembershipError::NoSuccessor(nobody) => nobody.into(),
            MembershipError::Unknown(patience) => Self::Unknown(patience),
        }
    }
}

impl From<NoSuccessor> for Failure {
    fn from(nobody: NoSuccessor) -> Self {
        Self::NoSuccessor(nobody.0)
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let code = failure.code();
        let mut message = format!("{code}: {failure}");
        if let Some((end, _)) = message.char_indices().nth(MAX_CHARACTERS) {
            message.truncate(end);
            message.push('…');
        }
        let mut status = Self::new(failure.grpc_code(), message);
        status.metadata_mut().insert(CODE, MetadataValue::from_static(code));
        if let Failure::LeaderElsewhere { leader, .. } | Failure::HandedOver { leader, .. } = &failure
            && let Ok(value) = MetadataValue::try_from(leader)
        {
            status.metadata_mut().insert(LEADER, value);
        }
        status
    }
}

/// ` since …`, to the second, where it is known.
fn since(at: Option<&Timestamp>) -> String {
    at.map_or_else(String::new, |at| format!(" since {}", at.to_utc_seconds()))
}

/// The first errors, and how many there are besides.
fn head(diagnostics: &Diagnostics) -> String {
    let errors: Vec<String> = diagnostics.errors().take(MAX_DIAGNOSTICS).map(ToString::to_string).collect();
    let more = diagnostics.errors().count() as u64 - errors.len() as u64 + diagnostics.more;
    let mut text = errors.join("\n");
    if more > 0 {
        text.push_str(&format!("\nand {more} more errors"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_bears_its_code_in_message_and_metadata() {
        let status = Status::from(Failure::RevisionMoved { base: Revision(40), current: Revision(41) });
        assert_eq!(status.code(), Code::Aborted);
        assert!(status.message().starts_with("HF-2003: revision 41 is in force"), "{}", status.message());
        assert_eq!(status.metadata().get(CODE).expect("present"), "HF-2003");
    }

    #[test]
    fn the_leader_that_could_not_be_asked_is_in_the_metadata() {
        let elsewhere = Failure::LeaderElsewhere { leader: "gateway-b".into(), reason: "refused".into() };
        let status = Status::from(elsewhere);
        assert_eq!(status.metadata().get(LEADER).expect("present"), "gateway-b");
        assert_eq!(status.code(), Code::Unavailable);
    }

    #[test]
    fn without_a_leader_it_is_said_since_when() {
        let status = Status::from(Failure::NoLeader(Some(Timestamp::from_millis(1_700_000_000_000))));
        assert_eq!(status.code(), Code::Unavailable);
        let expected = "HF-3102: no leader since 2023-11-14T22:13:20Z: no majority of the nodes answers";
        assert!(status.message().starts_with(expected), "{}", status.message());
        assert!(Failure::NoLeader(None).to_string().starts_with("no leader: "));
    }

    #[test]
    fn a_message_fits_into_a_header() {
        let status = Status::from(Failure::Internal("ä".repeat(50_000)));
        assert!(status.message().len() <= 2 * MAX_CHARACTERS + 3, "{} bytes", status.message().len());
    }
}
