//! Who this node is, and whether a message is meant for it.
//!
//! - The envelope in every message names cluster, sender, sender's store, target and target's store. Each of them
//!   is compared; "not known" (zero) is accepted only where said so.
//! - A node without a cluster answers nothing but `Hello`.

use std::ops::RangeInclusive;
use std::time::Duration;

use model::{BootId, ClusterId, Member, NodeId, Role, StoreId};
use wire::proto::peer as pb;

use super::convert::{self, Malformed};
use super::refusal::Refusal;

/// Bytes of the longest text in an introduction: a host name has at most 253. Connections remember introductions.
const LONGEST_TEXT: usize = 1_024;

/// What this node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster it belongs to; unknown before it was founded or joined.
    pub cluster: ClusterId,
    /// The cluster's name in the node file.
    pub cluster_name: String,
    /// Its number; 0 before the cluster gave it one.
    pub node: NodeId,
    /// What people type.
    pub name: String,
    /// Its data directory.
    pub store: StoreId,
    /// What it is for.
    pub role: Role,
    /// Format versions that it reads and writes.
    pub formats: RangeInclusive<u32>,
    /// The lease it was configured with.
    pub lease: Duration,
    /// This run of its process.
    pub boot: BootId,
    /// Its data directory has never belonged to a cluster.
    pub pristine: bool,
    /// Where its peers reach it, `host:port`.
    pub address: String,
    /// Where the other nodes reach its API, `host:port`; empty where it does not say. Told anew in every handshake, so
    /// that it may change at any restart.
    pub api: String,
}

/// Whom a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) node: NodeId,
    pub(super) store: StoreId,
}

/// Who sent a message, as far as the envelope says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sender {
    pub(super) node: NodeId,
    pub(super) store: StoreId,
}

impl Identity {
    /// The envelope of a message to `target`.
    pub(super) fn envelope(&self, target: Target) -> pb::Envelope {
        pb::Envelope {
            cluster: convert::id_to_bytes(self.cluster.as_bytes()),
            sender: self.node.0,
            sender_store: convert::id_to_bytes(self.store.as_bytes()),
            target: target.node.0,
            target_store: convert::id_to_bytes(target.store.as_bytes()),
        }
    }

    /// Checks that a message is meant for this node and comes from its cluster.
    pub(super) fn check(&self, envelope: Option<&pb::Envelope>) -> Result<Sender, Refusal> {
        let envelope = envelope.ok_or(Refusal::Malformed)?;
        let cluster = ClusterId(read(&envelope.cluster)?);
        if self.cluster.is_unknown() {
            return Err(Refusal::Unbound);
        }
        if cluster != self.cluster {
            return Err(Refusal::WrongCluster);
        }
        if envelope.target == 0 || envelope.target != self.node.0 || envelope.sender == self.node.0 {
            return Err(Refusal::WrongTarget);
        }
        let target_store = StoreId(read(&envelope.target_store)?);
        // A joining node's membership does not know the stores of the others yet.
        if !target_store.is_unknown() && target_store != self.store {
            return Err(Refusal::WrongStore);
        }
        let sender_store = StoreId(read(&envelope.sender_store)?);
        if envelope.sender == 0 || sender_store.is_unknown() {
            return Err(Refusal::Malformed);
        }
        Ok(Sender { node: NodeId(envelope.sender), store: sender_store })
    }

    /// Checks a peer's introduction against what we know of the peer that should stand there (`0` and unknown:
    /// whoever answers).
    pub(super) fn check_introduction(&self, peer: &Identity, expected: Target) -> Result<(), Refusal> {
        if peer.cluster_name != self.cluster_name {
            return Err(Refusal::WrongCluster);
        }
        let both_known = !peer.cluster.is_unknown() && !self.cluster.is_unknown();
        if both_known && peer.cluster != self.cluster {
            return Err(Refusal::WrongCluster);
        }
        if expected.node.0 != 0 && peer.node.0 != 0 && peer.node != expected.node {
            return Err(Refusal::WrongTarget);
        }
        if !expected.store.is_unknown() && peer.store != expected.store {
            return Err(Refusal::WrongStore);
        }
        let common =
            self.formats.start().max(peer.formats.start()) <= self.formats.end().min(peer.formats.end());
        if !common {
            return Err(Refusal::Incompatible);
        }
        Ok(())
    }

    /// Checks that a peer introduces itself by the name that its certificate proves, where there is one.
    pub(super) fn check_name(&self, proven: Option<&str>) -> Result<(), Refusal> {
        match proven {
            Some(name) if name != self.name => Err(Refusal::WrongName),
            _ => Ok(()),
        }
    }

    pub(super) fn to_proto(&self) -> pb::Introduction {
        pb::Introduction {
            cluster: convert::id_to_bytes(self.cluster.as_bytes()),
            cluster_name: self.cluster_name.clone(),
            node: self.node.0,
            name: self.name.clone(),
            store: convert::id_to_bytes(self.store.as_bytes()),
            role: convert::role_to_proto(self.role).into(),
            format_min: *self.formats.start(),
            format_max: *self.formats.end(),
            lease_nanos: convert::nanos(self.lease),
            boot: convert::id_to_bytes(self.boot.as_bytes()),
            pristine: self.pristine,
            address: self.address.clone(),
            api: self.api.clone(),
        }
    }

    pub(super) fn from_proto(peer: Option<pb::Introduction>) -> Result<Self, Malformed> {
        let peer = peer.ok_or(Malformed("introduction"))?;
        let role = convert::role_from_proto(peer.role())?;
        let texts = [&peer.cluster_name, &peer.name, &peer.address, &peer.api];
        if texts.iter().any(|text| text.len() > LONGEST_TEXT) {
            return Err(Malformed("introduction"));
        }
        Ok(Self {
            cluster: ClusterId(convert::id_from_bytes(&peer.cluster)?),
            cluster_name: peer.cluster_name,
            node: NodeId(peer.node),
            name: peer.name,
            store: StoreId(convert::id_from_bytes(&peer.store)?),
            role,
            formats: peer.format_min..=peer.format_max,
            lease: Duration::from_nanos(peer.lease_nanos),
            boot: BootId(convert::id_from_bytes(&peer.boot)?),
            pristine: peer.pristine,
            address: peer.address,
            api: peer.api,
        })
    }
}

impl Sender {
    /// Checks the sender against the member of that number, where the membership knows it, and the name that its
    /// certificate proves, where there is one.
    pub(super) fn check(&self, member: Option<&Member>, proven_name: Option<&str>) -> Result<(), Refusal> {
        let Some(member) = member else {
            // Newer than our membership, or older: the leader's vote decides what it may do.
            return Ok(());
        };
        if !member.store.is_unknown() && member.store != self.store {
            return Err(Refusal::WrongStore);
        }
        match proven_name {
            Some(name) if name != member.name => Err(Refusal::WrongName),
            _ => Ok(()),
        }
    }
}

fn read(bytes: &[u8]) -> Result<[u8; 16], Refusal> {
    convert::id_from_bytes(bytes).map_err(|_| Refusal::Malformed)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A node of the test cluster: store and boot follow from its number.
    pub(in super::super) fn identity(node: u64) -> Identity {
        Identity {
            cluster: ClusterId::from(0xC1),
            cluster_name: "plant-7".into(),
            node: NodeId(node),
            name: format!("gateway-{node}"),
            store: StoreId::from(u128::from(node)),
            role: Role::Gateway,
            formats: 1..=2,
            lease: Duration::from_millis(500),
            boot: BootId::from(0xB00 + u128::from(node)),
            pristine: false,
            address: format!("10.0.9.{node}:7610"),
            api: format!("10.0.9.{node}:7611"),
        }
    }

    fn target(node: u64) -> Target {
        Target { node: NodeId(node), store: StoreId::from(u128::from(node)) }
    }

    #[test]
    fn an_introduction_survives_the_wire() {
        let node = identity(2);
        assert_eq!(Identity::from_proto(Some(node.to_proto())), Ok(node));
        assert!(Identity::from_proto(None).is_err());
        let endless = Identity { api: "x".repeat(LONGEST_TEXT + 1), ..identity(2) };
        assert!(Identity::from_proto(Some(endless.to_proto())).is_err());
    }

    #[test]
    fn a_message_for_this_node_is_accepted_and_names_its_sender() {
        let envelope = identity(1).envelope(target(2));
        let sender = Sender { node: NodeId(1), store: StoreId::from(1) };
        assert_eq!(identity(2).check(Some(&envelope)), Ok(sender));
    }

    #[test]
    fn each_wrong_part_of_an_envelope_is_its_own_refusal() {
        let me = identity(2);
        let good = identity(1).envelope(target(2));
        type Spoil = fn(&mut pb::Envelope);
        let cases: [(&str, Spoil, Refusal); 7] = [
            ("other cluster", |e| e.cluster = vec![9; 16].into(), Refusal::WrongCluster),
            ("no cluster", |e| e.cluster = Default::default(), Refusal::WrongCluster),
            ("other node", |e| e.target = 3, Refusal::WrongTarget),
            ("ourselves", |e| e.sender = 2, Refusal::WrongTarget),
            ("other store", |e| e.target_store = vec![9; 16].into(), Refusal::WrongStore),
            ("nameless sender", |e| e.sender_store = Default::default(), Refusal::Malformed),
            ("short id", |e| e.target_store = vec![1].into(), Refusal::Malformed),
        ];
        for (what, spoil, expected) in cases {
            let mut envelope = good.clone();
            spoil(&mut envelope);
            assert_eq!(me.check(Some(&envelope)), Err(expected), "{what}");
        }
        assert_eq!(me.check(None), Err(Refusal::Malformed));
    }

    #[test]
    fn a_node_without_a_cluster_takes_no_part() {
        let mut me = identity(2);
        me.cluster = ClusterId::default();
        let mut envelope = identity(1).envelope(target(2));
        assert_eq!(me.check(Some(&envelope)), Err(Refusal::Unbound));
        envelope.cluster = Default::default();
        assert_eq!(me.check(Some(&envelope)), Err(Refusal::Unbound));
    }

    #[test]
    fn a_wiped_directory_is_a_stranger() {
        let sender = Sender { node: NodeId(1), store: StoreId::from(77) };
        let member = Member { name: "gateway-1".into(), store: StoreId::from(1), ..Member::default() };
        assert_eq!(sender.check(Some(&member), None), Err(Refusal::WrongStore));
        assert_eq!(sender.check(None, None), Ok(()));
    }

    #[test]
    fn a_certificate_of_another_member_is_refused() {
        let sender = Sender { node: NodeId(1), store: StoreId::from(1) };
        let member = Member { name: "gateway-1".into(), store: StoreId::from(1), ..Member::default() };
        assert_eq!(sender.check(Some(&member), Some("gateway-1")), Ok(()));
        assert_eq!(sender.check(Some(&member), Some("gateway-2")), Err(Refusal::WrongName));
    }

    #[test]
    fn an_introduction_by_another_name_than_the_certificates_is_refused() {
        let peer = identity(2);
        assert_eq!(peer.check_name(Some("gateway-2")), Ok(()));
        assert_eq!(peer.check_name(None), Ok(()));
        assert_eq!(peer.check_name(Some("gateway-3")), Err(Refusal::WrongName));
    }

    #[test]
    fn a_handshake_refuses_other_clusters_nodes_stores_and_formats() {
        let me = identity(1);
        let check = |spoil: fn(&mut Identity)| {
            let mut peer = identity(2);
            spoil(&mut peer);
            me.check_introduction(&peer, target(2))
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|p| p.cluster = ClusterId::from(9)), Err(Refusal::WrongCluster));
        assert_eq!(check(|p| p.cluster_name = "plant-8".into()), Err(Refusal::WrongCluster));
        assert_eq!(check(|p| p.node = NodeId(3)), Err(Refusal::WrongTarget));
        assert_eq!(check(|p| p.store = StoreId::from(9)), Err(Refusal::WrongStore));
        assert_eq!(check(|p| p.formats = 3..=4), Err(Refusal::Incompatible));
        // Not yet a member: it has neither cluster nor number.
        assert_eq!(check(|p| (p.cluster, p.node) = (ClusterId::default(), NodeId(0))), Ok(()));
    }
}
