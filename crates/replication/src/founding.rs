//! Founding: which cluster does this directory belong to?
//!
//! - A cluster is founded only if all listed members answer and are pristine. The first of the list founds it; the
//!   others take the cluster's id from the founder.
//! - What was found out is bound to the data directory, for ever, before Raft runs on it.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use model::ids::ClusterId;
use model::{Member, NodeId};
use openraft::AsyncRuntime;
use runtime::random::id_bits;
use store::engine::Engine;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::network::{Identity, PeerNetworkFactory};
use crate::start::{ReplicaParts, StartError};

/// How often a founding node looks for the others, and says whom it waits for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Waits until it is known which cluster this node belongs to. Returns the members if this node founds it.
pub(crate) async fn found<E: Engine, RT: AsyncRuntime>(
    parts: &mut ReplicaParts<E>,
    network: &PeerNetworkFactory<RT>,
    identity: &watch::Sender<Identity>,
) -> Result<Option<BTreeMap<u64, Member>>, StartError> {
    let place = parts.members.iter().position(|(name, _)| *name == parts.name);
    let Some(place) = place else {
        let listed = parts.members.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(StartError::NotListed { name: parts.name.clone(), listed });
    };
    let node = NodeId(place as u64 + 1);
    let stop = parts.spawner.token().clone();
    let mut waiting_for = String::new();
    loop {
        let (known, missing) = look_around(parts, network, node, identity).await;
        let founded = known.values().find(|peer| !peer.cluster.is_unknown()).map(|peer| peer.cluster);
        let adopted = match founded {
            Some(cluster) => Some((cluster, None)),
            None if missing.is_empty() && place == 0 => {
                let cluster = ClusterId::from(id_bits(&mut parts.random));
                Some((cluster, Some(founding_members(parts, &known))))
            }
            None => None,
        };
        if let Some((cluster, members)) = adopted {
            parts.store.bind(cluster, node).await.map_err(io::Error::from)?;
            identity.send_modify(|identity| (identity.cluster, identity.node) = (cluster, node));
            info!(%cluster, %node, founder = members.is_some(), "belonging to cluster {}", parts.cluster_name);
            if members.is_some() {
                wait_until_others_belong(parts, network, node, identity).await;
            }
            return Ok(members);
        }
        let missing = if missing.is_empty() { parts.members[0].0.clone() } else { missing.join(", ") };
        if missing != waiting_for {
            info!("waiting for {missing} to found cluster {}", parts.cluster_name);
            waiting_for = missing;
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return Err(StartError::Cancelled),
        }
    }
}

/// Gives the other founding members time to take over the cluster's id, so that they answer the first request for a vote.
async fn wait_until_others_belong<E: Engine, RT: AsyncRuntime>(
    parts: &ReplicaParts<E>,
    network: &PeerNetworkFactory<RT>,
    me: NodeId,
    identity: &watch::Sender<Identity>,
) {
    let until = Instant::now() + LOOK_EVERY * 10;
    while Instant::now() < until {
        let (known, _) = look_around(parts, network, me, identity).await;
        let belonging = known.values().filter(|peer| !peer.cluster.is_unknown()).count();
        if belonging == parts.members.len() {
            return;
        }
        sleep(LOOK_EVERY / 4).await;
    }
}

/// Asks every other listed member who it is. Those that do not answer, or are not pristine members of no cluster, are
/// missing.
async fn look_around<E: Engine, RT: AsyncRuntime>(
    parts: &ReplicaParts<E>,
    network: &PeerNetworkFactory<RT>,
    me: NodeId,
    identity: &watch::Sender<Identity>,
) -> (BTreeMap<u64, Identity>, Vec<String>) {
    let mut known = BTreeMap::from([(me.0, identity.borrow().clone())]);
    let mut missing = Vec::new();
    for (id, (name, address)) in (1..).zip(&parts.members) {
        if id == me.0 {
            continue;
        }
        match network.ask(address).await {
            Ok(peer) if peer.name != *name => {
                warn!("{address} is {}, not {name}: compare the member lists of the node files", peer.name);
                missing.push(name.clone());
            }
            Ok(peer) if peer.pristine || !peer.cluster.is_unknown() => {
                known.insert(id, peer);
            }
            Ok(_) => missing.push(name.clone()),
            Err(error) => {
                tracing::debug!(%error, name, "member does not answer yet");
                missing.push(name.clone());
            }
        }
    }
    (known, missing)
}

fn founding_members<E>(parts: &ReplicaParts<E>, known: &BTreeMap<u64, Identity>) -> BTreeMap<u64, Member> {
    let member = |(id, (name, address)): (u64, &(String, String))| {
        let peer = &known[&id];
        let member = Member {
            name: name.clone(),
            address: address.clone(),
            store: peer.store,
            role: peer.role,
            lease: peer.lease,
        };
        (id, member)
    };
    (1..).zip(&parts.members).map(member).collect()
}
