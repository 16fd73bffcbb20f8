//! The cluster as its own API tells it: what each node says, and the calls that change something.
//!
//! Steers a run; no judgement believes a word of it.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};
use wire::proto::v1::admin_client::AdminClient;
use wire::proto::v1::member::Reach;
use wire::proto::v1::{
    ApplyConfigRequest, ClusterStatus, ConfigFile, GetStatusRequest, SetDeviceEnabledRequest,
    TransferLeadershipRequest, TransferLeadershipResponse,
};

use super::layout::Layout;

/// A node on this machine that is well answers much sooner.
const LOOK_LIMIT: Duration = Duration::from_millis(400);
const CALL_LIMIT: Duration = Duration::from_secs(10);
const CONNECT_LIMIT: Duration = Duration::from_millis(300);
/// A node may be this many entries behind and still count as caught up.
const CAUGHT_UP: u64 = 500;

/// Talks to all nodes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cluster {
    endpoints: Vec<Endpoint>,
    clients: Vec<AdminClient<Channel>>,
}

/// What the nodes say at one moment, in their order.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// When they were asked; `None`: never.
    pub asked: Option<Instant>,
    /// Whose processes run and do not stand still.
    pub is_running: Vec<bool>,
    /// Each node's own word; `None`: no answer.
    pub nodes: Vec<Option<ClusterStatus>>,
    /// In which life of its process each node answered; `None`: another one began meanwhile.
    pub lives: Vec<Option<u32>>,
    /// When they were asked, and when the last answer had come, in monotonic nanoseconds.
    pub asked_ns: u64,
    /// See `asked_ns`.
    pub answered_ns: u64,
}

/// What was asked for was not done, in the words of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its name.
    pub name: String,
    /// Its term.
    pub term: u64,
}

impl Cluster {
    /// A client of every node; connects when it is needed.
    pub fn new(layout: &Layout) -> Result<Self, tonic::transport::Error> {
        let endpoint = |address| {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
            Ok(endpoint.connect_timeout(CONNECT_LIMIT).tcp_nodelay(true))
        };
        let endpoints: Vec<Endpoint> = layout
            .nodes
            .iter()
            .map(|node| endpoint(node.api))
            .collect::<Result<_, tonic::transport::Error>>()?;
        let clients = endpoints.iter().map(|endpoint| AdminClient::new(endpoint.connect_lazy())).collect();
        Ok(Self { endpoints, clients })
    }

    /// Where the nodes' APIs are.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// A client of one node.
    pub fn client(&self, index: usize) -> AdminClient<Channel> {
        self.clients[index].clone()
    }

    /// Asks every node; `is_running` says whose processes run.
    pub async fn look(&self, is_running: Vec<bool>) -> View {
        let asked_at = Instant::now();
        let asked = self.clients.iter().map(|client| {
            let mut client = client.clone();
            async move {
                let request = GetStatusRequest { this_node: true, ..GetStatusRequest::default() };
                let answer = tokio::time::timeout(LOOK_LIMIT, client.get_status(request)).await;
                answer.ok().and_then(Result::ok).map(tonic::Response::into_inner)
            }
        });
        View { asked: Some(asked_at), is_running, nodes: join_all(asked).await, ..View::default() }
    }

    /// Applies a plant document as the first revision.
    pub async fn apply(&self, document: &str) -> Result<(), Refused> {
        let file = ConfigFile { name: "plant.toml".to_owned(), content: document.as_bytes().to_vec().into() };
        let request = ApplyConfigRequest {
            files: vec![file],
            comment: "the simulated plant".to_owned(),
            ..ApplyConfigRequest::default()
        };
        self.of_any(|mut client| {
            let request = request.clone();
            async move { client.apply_config(limited(request)).await.map(drop) }
        })
        .await
    }

    /// Takes a device out of service.
    pub async fn disable(&self, device: &str) -> Result<(), Refused> {
        let request = SetDeviceEnabledRequest {
            id: device.to_owned(),
            enabled: false,
            reason: "the run ends".to_owned(),
            ..SetDeviceEnabledRequest::default()
        };
        self.of_any(|mut client| {
            let request = request.clone();
            async move { client.set_device_enabled(limited(request)).await.map(drop) }
        })
        .await
    }

    /// Hands leadership over; `leader` is the index of the node that leads.
    pub async fn transfer(&self, leader: usize) -> Result<TransferLeadershipResponse, Refused> {
        let request = TransferLeadershipRequest {
            reason: "a planned switchover".to_owned(),
            ..TransferLeadershipRequest::default()
        };
        let answer = self.clients[leader].clone().transfer_leadership(limited(request)).await;
        Ok(answer.map_err(|status| Refused(status.message().to_owned()))?.into_inner())
    }

    /// Asks one node after the other until one has done it.
    async fn of_any<F, A>(&self, ask: F) -> Result<(), Refused>
    where
        F: Fn(AdminClient<Channel>) -> A,
        A: Future<Output = Result<(), tonic::Status>>,
    {
        let mut last = None;
        for client in &self.clients {
            match ask(client.clone()).await {
                Ok(()) => return Ok(()),
                Err(status) => last = Some(status),
            }
        }
        let last = last.map(|status| status.message().to_owned()).unwrap_or_default();
        Err(Refused(format!("no node did it; the last one said: {last}")))
    }
}

impl View {
    /// The node that says it leads, with a lease; the one of the highest term, if several do.
    pub fn leader(&self) -> Option<Leader> {
        let leaders = self.nodes.iter().flatten().filter_map(|status| {
            let leader = status.leader.as_ref()?;
            let leads = leader.name == status.node && leader.lease.is_some();
            leads.then(|| Leader { name: leader.name.clone(), term: leader.term })
        });
        leaders.max_by_key(|leader| leader.term)
    }

    /// The leader that every node names that runs, if the leader reaches them all and none is far behind.
    pub fn agreed(&self) -> Option<Leader> {
        let leader = self.leader()?;
        let running = || {
            let all = self.nodes.iter().enumerate();
            all.filter(|(index, _)| self.is_running.get(*index) == Some(&true)).map(|(_, status)| status)
        };
        let names_it = |status: &Option<ClusterStatus>| {
            status
                .as_ref()
                .and_then(|status| status.leader.as_ref())
                .is_some_and(|named| (&named.name, named.term) == (&leader.name, leader.term))
        };
        let runs = |name: &str| running().flatten().any(|status| status.node == name);
        let own = self.nodes.iter().flatten().find(|status| status.node == leader.name)?;
        let is_whole = own.members.iter().filter(|member| runs(&member.name)).all(|member| {
            matches!(member.reach(), Reach::Itself | Reach::Reachable)
                && (member.name == leader.name || member.behind.is_none_or(|behind| behind <= CAUGHT_UP))
        });
        (running().all(names_it) && is_whole).then_some(leader)
    }

    /// What a node says of leadership, in words.
    pub fn says(&self, index: usize) -> String {
        match self.nodes.get(index).and_then(Option::as_ref) {
            None => "no answer".to_owned(),
            Some(status) => match &status.leader {
                Some(leader) if leader.name == status.node => format!("leads, term {}", leader.term),
                Some(leader) => format!("follows {}", leader.name),
                None => "knows no leader".to_owned(),
            },
        }
    }

    /// Whether the leader says that it does not reach this member.
    pub fn misses(&self, name: &str) -> bool {
        let Some(leader) = self.leader() else { return false };
        let own = self.nodes.iter().flatten().find(|status| status.node == leader.name);
        own.is_some_and(|status| {
            status.members.iter().any(|member| member.name == name && member.reach() == Reach::Unreachable)
        })
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for index in 0..self.nodes.len() {
            let process =
                if self.is_running.get(index) == Some(&true) { "" } else { " (its process stands)" };
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}node {}{process}: {}", index + 1, self.says(index))?;
        }
        Ok(())
    }
}

fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_LIMIT);
    request
}

#[cfg(test)]
mod tests {
    use wire::proto::v1;

    use super::*;

    fn status(
        node: &str,
        leader: Option<(&str, u64)>,
        reach: [Reach; 3],
        behind: u64,
    ) -> Option<ClusterStatus> {
        let members = ["node-1", "node-2", "node-3"].into_iter().zip(reach).map(|(name, reach)| v1::Member {
            name: name.to_owned(),
            reach: reach.into(),
            behind: Some(behind),
            ..v1::Member::default()
        });
        Some(ClusterStatus {
            node: node.to_owned(),
            leader: leader.map(|(name, term)| v1::Leader {
                name: name.to_owned(),
                term,
                lease: Some(wire::times::duration_to_proto(LEASE)),
                ..v1::Leader::default()
            }),
            members: members.collect(),
            ..ClusterStatus::default()
        })
    }

    const LEASE: Duration = Duration::from_millis(400);
    const WELL: [Reach; 3] = [Reach::Reachable; 3];

    fn view(leaders: [(&str, u64); 3], reach: [Reach; 3], behind: u64) -> View {
        let names = ["node-1", "node-2", "node-3"];
        let said = names.iter().zip(leaders).map(|(name, leader)| status(name, Some(leader), reach, behind));
        View { is_running: vec![true; 3], nodes: said.collect(), ..View::default() }
    }

    #[test]
    fn all_must_name_one_leader_reach_each_other_and_be_caught_up() {
        let one = ("node-1", 3);
        assert_eq!(view([one; 3], WELL, 0).agreed(), Some(Leader { name: "node-1".into(), term: 3 }));
        assert_eq!(view([one, one, ("node-2", 2)], WELL, 0).agreed(), None);
        assert_eq!(view([one; 3], [Reach::Itself, Reach::Reachable, Reach::Unreachable], 0).agreed(), None);
        assert_eq!(view([one; 3], WELL, CAUGHT_UP + 1).agreed(), None);
        let mut silent = view([one; 3], WELL, 0);
        silent.nodes[2] = None;
        assert_eq!(silent.agreed(), None);
        assert_eq!(silent.leader(), Some(Leader { name: "node-1".into(), term: 3 }));
    }

    #[test]
    fn who_does_not_run_is_not_asked_for_its_agreement() {
        let mut two = view([("node-1", 3); 3], [Reach::Itself, Reach::Reachable, Reach::Unreachable], 0);
        two.nodes[2] = None;
        assert_eq!(two.agreed(), None);
        two.is_running[2] = false;
        assert_eq!(two.agreed(), Some(Leader { name: "node-1".into(), term: 3 }));
        two.nodes[1] = status("node-1", None, WELL, 0);
        assert_eq!(two.agreed(), None, "the other one knows no leader");
    }

    #[test]
    fn a_leader_without_a_lease_does_not_lead() {
        let mut before = view([("node-1", 3); 3], WELL, 0);
        for status in before.nodes.iter_mut().flatten() {
            status.leader.as_mut().expect("it names one").lease = None;
        }
        assert_eq!((before.leader(), before.agreed()), (None, None));
    }

    #[test]
    fn of_two_that_claim_to_lead_the_later_one_does() {
        let both = view([("node-1", 3), ("node-2", 4), ("node-2", 4)], WELL, 0);
        assert_eq!(both.leader().map(|leader| leader.name), Some("node-2".to_owned()));
        let cut = view([("node-1", 3); 3], [Reach::Itself, Reach::Unreachable, Reach::Reachable], 0);
        assert!(cut.misses("node-2") && !cut.misses("node-3"));
    }
}
