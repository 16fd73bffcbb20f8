//! Belonging: which cluster does this data directory belong to, and under which number?
//!
//! - A cluster is founded only if all listed members answer and are pristine, by the first of the list. The others take
//!   the cluster's id and their number from the founder.
//! - A directory that no cluster knows founds nothing where one exists already: a wiped box is a stranger, a new one a
//!   joiner. Both wait until an administrator has added them, and say what to type.
//! - What was found out is bound to the data directory, for ever, before Raft runs on it.
//! - A founder that was interrupted before the first entry goes on where it was: nobody else can have.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use futures::future::join_all;
use model::ids::ClusterId;
use model::{Member, NodeId};
use openraft::AsyncRuntime;
use runtime::random::id_bits;
use store::engine::Engine;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::network::{AskError, Identity, PeerNetworkFactory, Place};
use crate::start::{ReplicaParts, StartError};

/// How often a node without a cluster looks around.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a node that belongs to no cluster yet waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// For people, in one sentence.
    pub text: String,
    /// What the administrator types, where that would end it.
    pub command: Option<String>,
}

/// How a node without a cluster finds one, and says that it waits.
#[derive(Debug, Clone, Default)]
pub struct Belonging {
    /// Peer addresses of members that are asked to be known; empty for a founding member.
    pub join: Vec<String>,
    /// Where peers reach this node, `host:port`.
    pub address: String,
    /// What it waits for, while it does.
    pub waiting: watch::Sender<Option<Waiting>>,
}

/// What one address answered.
struct Answer {
    address: String,
    /// The name that should stand there, where the node file has one.
    listed: Option<String>,
    said: Result<(Identity, Place), AskError>,
}

impl Answer {
    /// What to do about it, where another node answers than the node file says.
    fn mismatch(&self) -> Option<String> {
        let (peer, _) = self.said.as_ref().ok()?;
        let listed = self.listed.as_ref()?;
        let text =
            || format!("at {} is {}: compare the member lists of the node files", self.address, peer.name);
        (*listed != peer.name).then(text)
    }
}

/// What follows from all answers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Decision {
    /// The members know this data directory.
    Belong { cluster: ClusterId, node: NodeId },
    /// All are here and pristine, and this node is the first.
    Found,
    /// Look again.
    Wait(Waiting),
}

/// Waits until it is known which cluster this node belongs to. Returns the members if this node founds it.
pub(crate) async fn belong<E: Engine, RT: AsyncRuntime>(
    parts: &mut ReplicaParts<E>,
    network: &PeerNetworkFactory<RT>,
    identity: &watch::Sender<Identity>,
    roster: &watch::Sender<BTreeMap<u64, Member>>,
) -> Result<Option<BTreeMap<u64, Member>>, StartError> {
    if parts.belonging.join.is_empty() && !parts.members.iter().any(|(name, _)| *name == parts.name) {
        let listed = parts.members.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(StartError::NotListed { name: parts.name.clone(), listed });
    }
    let stop = parts.spawner.token().clone();
    let mut learned = BTreeSet::new();
    loop {
        let answers = look_around(parts, network, &learned).await;
        let places = answers.iter().filter_map(|answer| answer.said.as_ref().ok());
        learned.extend(
            places.flat_map(|(_, place)| place.members.values()).map(|member| member.address.clone()),
        );
        let me = identity.borrow().clone();
        match decide(&me, &parts.members, &answers) {
            Decision::Belong { cluster, node } => {
                bind(parts, identity, cluster, node).await?;
                return Ok(None);
            }
            Decision::Found => {
                let cluster = match me.cluster.is_unknown() {
                    true => ClusterId::from(id_bits(&mut parts.random)),
                    false => me.cluster,
                };
                let members = founding_members(&me, &parts.members, &answers);
                roster.send_replace(members.clone());
                bind(parts, identity, cluster, NodeId(1)).await?;
                wait_until_others_belong(parts, network).await;
                return Ok(Some(members));
            }
            Decision::Wait(waiting) => say(parts, waiting),
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return Err(StartError::Cancelled),
        }
    }
}

/// Says once what is waited for.
fn say<E>(parts: &ReplicaParts<E>, waiting: Waiting) {
    parts.belonging.waiting.send_if_modified(|known| {
        let changed = known.as_ref() != Some(&waiting);
        if changed {
            match &waiting.command {
                Some(command) => warn!("{}; type on any machine: {command}", waiting.text),
                None => info!("{}", waiting.text),
            }
            *known = Some(waiting);
        }
        changed
    });
}

async fn bind<E: Engine>(
    parts: &mut ReplicaParts<E>,
    identity: &watch::Sender<Identity>,
    cluster: ClusterId,
    node: NodeId,
) -> Result<(), StartError> {
    parts.store.bind(cluster, node).await.map_err(io::Error::from)?;
    identity.send_modify(|identity| {
        (identity.cluster, identity.node, identity.pristine) = (cluster, node, false);
    });
    parts.belonging.waiting.send_replace(None);
    info!(%cluster, %node, "belonging to cluster {}", parts.cluster_name);
    Ok(())
}

/// Gives the other founding members time to take over their numbers, so that they answer the first request for a vote.
async fn wait_until_others_belong<E: Engine, RT: AsyncRuntime>(
    parts: &ReplicaParts<E>,
    network: &PeerNetworkFactory<RT>,
) {
    let until = Instant::now() + LOOK_EVERY * 10;
    while Instant::now() < until {
        let answers = look_around(parts, network, &BTreeSet::new()).await;
        let belongs = |answer: &Answer| matches!(&answer.said, Ok((peer, _)) if !peer.cluster.is_unknown());
        if answers.iter().all(belongs) {
            return;
        }
        sleep(LOOK_EVERY / 4).await;
    }
}

/// Asks every other listed member, every address to join at, and every member that these have named.
async fn look_around<E: Engine, RT: AsyncRuntime>(
    parts: &ReplicaParts<E>,
    network: &PeerNetworkFactory<RT>,
    learned: &BTreeSet<String>,
) -> Vec<Answer> {
    let mut whom: BTreeMap<&String, Option<&String>> =
        learned.iter().chain(&parts.belonging.join).map(|address| (address, None)).collect();
    whom.extend(
        parts.members.iter().filter(|(name, _)| *name != parts.name).map(|(name, at)| (at, Some(name))),
    );
    // This node's own address may be that of the member it is to replace.
    whom.remove(&parts.belonging.address);
    let asked = whom.into_iter().map(|(address, listed)| async move {
        let said = network.ask_to_join(address).await;
        if let Err(error) = &said {
            debug!(%error, address, "no answer yet");
        }
        Answer { address: address.clone(), listed: listed.cloned(), said }
    });
    join_all(asked).await
}

/// What follows from what the others have answered.
fn decide(me: &Identity, listed: &[(String, String)], answers: &[Answer]) -> Decision {
    let told: Vec<&(Identity, Place)> =
        answers.iter().filter_map(|answer| answer.said.as_ref().ok()).collect();
    if let Some((peer, place)) = told.iter().find(|(_, place)| place.node.0 != 0) {
        return Decision::Belong { cluster: peer.cluster, node: place.node };
    }
    if let Some((_, place)) = told.iter().find(|(_, place)| !place.members.is_empty()) {
        return Decision::Wait(stranger(me, &place.members));
    }
    let wait = |text: String| Decision::Wait(Waiting { text, command: None });
    let Some((first, _)) = listed.first() else {
        let whom: Vec<&str> = answers.iter().map(|answer| answer.address.as_str()).collect();
        let why = answers.iter().find_map(|answer| answer.said.as_ref().err());
        let why = why.map_or_else(String::new, |error| format!(" ({error})"));
        return wait(format!("waiting for an answer of a member at {}{why}", whom.join(", ")));
    };
    let is_missing = |answer: &&Answer| match &answer.said {
        _ if answer.mismatch().is_some() => true,
        // It belongs to the cluster that this node was founding when it was interrupted.
        Ok((peer, _)) if !peer.cluster.is_unknown() => peer.cluster != me.cluster,
        Ok((peer, _)) => !peer.pristine,
        Err(_) => true,
    };
    let missing: Vec<&str> =
        answers.iter().filter(is_missing).filter_map(|answer| answer.listed.as_deref()).collect();
    if !missing.is_empty() {
        let waiting = format!("waiting for {} to found the cluster", missing.join(", "));
        let wrong = answers.iter().filter_map(Answer::mismatch);
        return wait([waiting].into_iter().chain(wrong).collect::<Vec<_>>().join("; "));
    }
    match *first == me.name {
        true => Decision::Found,
        false => wait(format!("waiting for {first} to found the cluster")),
    }
}

/// What a node is told whose data directory no member knows.
fn stranger(me: &Identity, members: &BTreeMap<u64, Member>) -> Waiting {
    let Identity { name, address, .. } = me;
    match members.iter().find(|(_, member)| member.name == *name) {
        Some((number, _)) => Waiting {
            text: format!(
                "the data directory of this node is new, but the cluster knows {name} (number {number}) with another one: \
                 it was wiped or exchanged, and takes no part until it has replaced the old one"
            ),
            command: Some(format!("holdfast member replace {name} {name}={address}")),
        },
        None => {
            let names: Vec<&str> = members.values().map(|member| member.name.as_str()).collect();
            Waiting {
                text: format!(
                    "this node is no member yet (members: {}); it waits to be added",
                    names.join(", ")
                ),
                command: Some(format!(
                    "holdfast member add {name}={address} (or, in the place of an old one: holdfast member replace OLD \
                     {name}={address})"
                )),
            }
        }
    }
}

/// The member that a node becomes which has introduced itself.
pub(crate) fn member_of(peer: &Identity, address: &str) -> Member {
    Member {
        name: peer.name.clone(),
        address: address.to_owned(),
        store: peer.store,
        role: peer.role,
        lease: peer.lease,
    }
}

fn founding_members(me: &Identity, listed: &[(String, String)], answers: &[Answer]) -> BTreeMap<u64, Member> {
    let identity_of = |name: &str| {
        let said = answers.iter().filter_map(|answer| answer.said.as_ref().ok());
        said.map(|(peer, _)| peer).chain([me]).find(|peer| peer.name == name)
    };
    let known = (1..).zip(listed);
    known.filter_map(|(id, (name, address))| Some((id, member_of(identity_of(name)?, address)))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::{BootId, Role, StoreId};

    use super::*;

    const CLUSTER: u128 = 0xC1;

    fn listed() -> Vec<(String, String)> {
        (1..=3).map(|node| (format!("node-{node}"), format!("10.0.0.{node}:7610"))).collect()
    }

    fn identity(node: u64, cluster: u128) -> Identity {
        Identity {
            cluster: ClusterId::from(cluster),
            cluster_name: "plant-7".into(),
            node: NodeId(if cluster == 0 { 0 } else { node }),
            name: format!("node-{node}"),
            store: StoreId::from(u128::from(node)),
            role: Role::Gateway,
            formats: 1..=1,
            lease: Duration::from_millis(500),
            boot: BootId::from(1),
            pristine: cluster == 0,
            address: format!("10.0.0.{node}:7610"),
            api: String::new(),
        }
    }

    fn answer(node: u64, said: Result<(Identity, Place), AskError>) -> Answer {
        Answer { address: format!("10.0.0.{node}:7610"), listed: Some(format!("node-{node}")), said }
    }

    fn pristine(node: u64) -> Answer {
        answer(node, Ok((identity(node, 0), Place::default())))
    }

    fn members() -> BTreeMap<u64, Member> {
        (1..=3).map(|node| (node, member_of(&identity(node, CLUSTER), "10.0.0.9:7610"))).collect()
    }

    fn belonging(node: u64, place: Place) -> Answer {
        answer(node, Ok((identity(node, CLUSTER), place)))
    }

    fn silent(node: u64) -> Answer {
        answer(node, Err(AskError::Unreachable("nobody".into())))
    }

    #[test]
    fn the_first_founds_when_all_have_answered_and_are_pristine() {
        let me = identity(1, 0);
        assert_eq!(decide(&me, &listed(), &[pristine(2), pristine(3)]), Decision::Found);
        let Decision::Wait(waiting) = decide(&me, &listed(), &[pristine(2), silent(3)]) else {
            panic!("one is missing");
        };
        assert!(waiting.text.contains("node-3") && waiting.command.is_none(), "{waiting:?}");
        let Decision::Wait(_) = decide(&identity(2, 0), &listed(), &[pristine(1), pristine(3)]) else {
            panic!("the second founds nothing");
        };
    }

    #[test]
    fn who_waits_says_where_another_node_answers_than_is_listed() {
        let answers = [pristine(2), Answer { listed: Some("node-3".into()), ..pristine(4) }];
        let Decision::Wait(waiting) = decide(&identity(1, 0), &listed(), &answers) else {
            panic!("node-3 is missing");
        };
        let text = "waiting for node-3 to found the cluster; at 10.0.0.4:7610 is node-4: compare the member lists of the \
                    node files";
        assert_eq!(waiting.text, text);
    }

    #[test]
    fn a_node_that_is_not_pristine_founds_nothing_with_others() {
        let mut used = identity(3, 0);
        used.pristine = false;
        let answers = [pristine(2), answer(3, Ok((used, Place::default())))];
        assert!(matches!(decide(&identity(1, 0), &listed(), &answers), Decision::Wait(_)));
    }

    #[test]
    fn a_known_data_directory_takes_its_number_from_the_members() {
        let place = Place { node: NodeId(7), members: members() };
        let decision = decide(&identity(2, 0), &listed(), &[belonging(1, place), silent(3)]);
        assert_eq!(decision, Decision::Belong { cluster: ClusterId::from(CLUSTER), node: NodeId(7) });
    }

    #[test]
    fn a_wiped_node_is_a_stranger_and_says_which_replace_to_type() {
        let place = || Place { node: NodeId(0), members: members() };
        let Decision::Wait(waiting) =
            decide(&identity(1, 0), &listed(), &[belonging(2, place()), belonging(3, place())])
        else {
            panic!("it must never found a second cluster, nor take its old number");
        };
        assert_eq!(
            waiting.command.as_deref(),
            Some("holdfast member replace node-1 node-1=10.0.0.1:7610"),
            "{waiting:?}"
        );
    }

    #[test]
    fn a_new_node_says_which_add_to_type() {
        let place = Place { node: NodeId(0), members: members() };
        let answers = [Answer { listed: None, ..belonging(2, place) }];
        let Decision::Wait(waiting) = decide(&identity(4, 0), &[], &answers) else { panic!("it waits") };
        let command = waiting.command.expect("something to type");
        assert!(command.starts_with("holdfast member add node-4=10.0.0.4:7610"), "{command}");
    }

    #[test]
    fn a_founder_that_was_interrupted_goes_on() {
        let answers = [belonging(2, Place::default()), pristine(3)];
        assert_eq!(decide(&identity(1, CLUSTER), &listed(), &answers), Decision::Found);
        let Decision::Wait(_) = decide(&identity(1, 0), &listed(), &answers) else {
            panic!("another cluster's founding is not ours");
        };
    }
}
