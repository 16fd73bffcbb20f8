//! Why a node refuses a message: one closed list, carried in the metadata of a gRPC status.

use model::NodeId;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// Metadata key that names the refusal, so that people's words in the message may change.
const KEY: &str = "holdfast-refusal";

/// Why a peer refused a message, or we refused a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The message is for another node.
    #[error("another node was meant")]
    WrongTarget,
    /// The message is from, or for, another cluster.
    #[error("another cluster was meant")]
    WrongCluster,
    /// The data directory is not the one bound to this node id: a wiped or exchanged disk is a stranger.
    #[error("the data directory is not the one bound to this node")]
    WrongStore,
    /// The certificate speaks for another node.
    #[error("the certificate is not that of this node")]
    WrongName,
    /// The certificate is not from the authority of the cluster, or not that of a node.
    #[error("the certificate proves no node of this cluster")]
    Untrusted,
    /// The two nodes have no format version in common.
    #[error("no format version in common")]
    Incompatible,
    /// The node lost what it had acknowledged and takes no part; it must be replaced.
    #[error("the node lost what it had acknowledged")]
    Amnesic,
    /// The node belongs to no cluster yet: nobody has added it, or it has not heard of that.
    #[error("the node belongs to no cluster yet")]
    Unbound,
    /// The sender was removed from the cluster; its number is never given again.
    #[error("the node was removed from the cluster")]
    Removed,
    /// The node votes for nobody at present: it has just started, or its own leadership may still be live.
    #[error("no votes at present")]
    VotesWithheld,
    /// Free space is below the reserve.
    #[error("free space is below the reserve")]
    DiskFull,
    /// The message cannot be read.
    #[error("unreadable message")]
    Malformed,
    /// A snapshot arrived damaged or incomplete; nothing was installed.
    #[error("damaged snapshot")]
    DamagedSnapshot,
    /// Too many transfers at once.
    #[error("busy")]
    Busy,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

impl Refusal {
    const ALL: [Self; 15] = [
        Self::WrongTarget,
        Self::WrongCluster,
        Self::WrongStore,
        Self::WrongName,
        Self::Untrusted,
        Self::Incompatible,
        Self::Amnesic,
        Self::Unbound,
        Self::Removed,
        Self::VotesWithheld,
        Self::DiskFull,
        Self::Malformed,
        Self::DamagedSnapshot,
        Self::Busy,
        Self::Stopped,
    ];

    /// The word that travels.
    pub fn code(self) -> &'static str {
        match self {
            Self::WrongTarget => "wrong-target",
            Self::WrongCluster => "wrong-cluster",
            Self::WrongStore => "wrong-store",
            Self::WrongName => "wrong-name",
            Self::Untrusted => "untrusted",
            Self::Incompatible => "incompatible",
            Self::Amnesic => "amnesic",
            Self::Unbound => "unbound",
            Self::Removed => "removed",
            Self::VotesWithheld => "votes-withheld",
            Self::DiskFull => "disk-full",
            Self::Malformed => "malformed",
            Self::DamagedSnapshot => "damaged-snapshot",
            Self::Busy => "busy",
            Self::Stopped => "stopped",
        }
    }

    /// Whether only a person can end it.
    pub(super) fn is_lasting(self) -> bool {
        matches!(
            self,
            Self::WrongTarget
                | Self::WrongCluster
                | Self::WrongStore
                | Self::WrongName
                | Self::Untrusted
                | Self::Incompatible
                | Self::Amnesic
                | Self::Removed
        )
    }

    /// The refusal that a status carries, if it carries one.
    pub(super) fn of(status: &Status) -> Option<Self> {
        let word = status.metadata().get(KEY)?.to_str().ok()?;
        Self::ALL.into_iter().find(|refusal| refusal.code() == word)
    }

    /// The status that carries this refusal, with the node that speaks.
    pub(super) fn by(self, node: NodeId) -> Status {
        self.because(format!("node {node}: {self}"))
    }

    /// The status that carries this refusal, with an explanation for people.
    pub(super) fn because(self, detail: String) -> Status {
        let code = match self {
            Self::DiskFull | Self::Busy => Code::ResourceExhausted,
            Self::Malformed => Code::InvalidArgument,
            Self::DamagedSnapshot => Code::DataLoss,
            Self::Stopped | Self::VotesWithheld => Code::Unavailable,
            _ => Code::FailedPrecondition,
        };
        let mut status = Status::new(code, detail);
        status.metadata_mut().insert(KEY, MetadataValue::from_static(self.code()));
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_told_apart_on_the_other_side() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::of(&refusal.by(NodeId(3))), Some(refusal));
        }
        assert_eq!(Refusal::of(&Status::internal("anything")), None);
    }
}
