//! The service over a replica of one, through a real connection.

use std::time::Duration;

use model::batch::{Batch, Sample, Source};
use model::{BootId, Cause, Reading, Revision, Role, StatusCode, TagId, Value};
use replication::{Belonging, LeaseTimes, PeerEvents, PlainAcceptor, ReplicaParts, TcpConnector};
use runtime::random::generator;
use runtime::{Supervisor, SystemClock};
use store::engine::sim::{SimDisk, SimEngine};
use store::{Store, StoreOptions};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Status};
use wire::EncodedBatch;
use wire::proto::v1 as pb;
use wire::proto::v1::admin_client::AdminClient;

use super::*;

/// No test waits longer for what must happen.
const SOON: Duration = Duration::from_secs(20);

const PLANT: &str = r#"version = 1
[[device]]
id = "press-1"
driver = "modbus-tcp"
address = "127.0.0.1:15020"
[[device.group]]
id = "fast"
period = "1s"
tag = [{ name = "pressure", address = "40101", type = "f32", unit = "bar" }]
[[destination]]
id = "historian"
kind = "http"
url = "http://127.0.0.1:18080/ingest"
"#;

struct Cluster {
    admin: AdminClient<Channel>,
    service: AdminService<SimEngine>,
    _supervisor: Supervisor,
    _staging: tempfile::TempDir,
}

/// A cluster of one node that leads.
async fn cluster() -> Cluster {
    let (supervisor, spawner) = Supervisor::new();
    let staging = tempfile::tempdir().expect("a temporary folder");
    let engine = SimEngine::open(&SimDisk::new(7)).expect("a fresh disk opens");
    let options = StoreOptions { tail_bytes: 1 << 20, birth: 7.into() };
    let store = Store::open(Arc::new(engine), options, &spawner).await.expect("a new store opens");
    let peers = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = peers.local_addr().expect("bound").to_string();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let parts = ReplicaParts {
        store,
        cluster_name: "plant-7".into(),
        name: "solo".into(),
        role: Role::Gateway,
        boot: BootId::from(1),
        members: vec![("solo".into(), address)],
        belonging: Belonging::default(),
        times: LeaseTimes::LAN,
        windows: replication::Windows::default(),
        api: String::new(),
        clock: Arc::clone(&clock),
        connector: Arc::new(TcpConnector::new(Duration::from_millis(250))),
        acceptor: Arc::new(PlainAcceptor),
        listener: Some(Box::new(peers)),
        staging: staging.path().join("incoming"),
        free_bytes: Arc::new(|| 1 << 40),
        snapshot_bytes: Arc::new(|| 1 << 40),
        events: PeerEvents::new(|_| ()),
        lease_events: replication::LeaseEvents::default(),
        spawner: spawner.clone(),
        random: generator(Some(7)),
    };
    let replica: Replica<SimEngine> = tokio::time::timeout(SOON, Replica::start(parts))
        .await
        .expect("in time")
        .expect("it founds its cluster");
    let mut leadership = replica.leadership();
    let leads = tokio::time::timeout(SOON, leadership.wait_for(Option::is_some)).await;
    drop(leads.expect("a node alone leads").expect("the replica runs"));

    let service = AdminService::new(replica, Live::default(), Switchover::of_nobody(), clock, "plant-7")
        .keeping_gaps(&spawner);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = Server::builder().add_service(service.clone().into_server());
    let stop = spawner.token().clone();
    spawner.spawn("api", async move {
        server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned()).await
    });
    let admin = AdminClient::connect(format!("http://{address}")).await.expect("it listens");
    Cluster { admin, service, _supervisor: supervisor, _staging: staging }
}

fn files(document: &str) -> Vec<pb::ConfigFile> {
    vec![pb::ConfigFile { name: "plant.toml".into(), content: document.to_owned().into() }]
}

fn apply(document: &str, base_revision: u64) -> pb::ApplyConfigRequest {
    pb::ApplyConfigRequest { files: files(document), base_revision, ..pb::ApplyConfigRequest::default() }
}

#[track_caller]
fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("it is refused");
    let code =
        status.metadata().get(CODE).expect("every error has a code").to_str().expect("ascii").to_owned();
    assert!(status.message().starts_with(&code), "{}", status.message());
    (status.code(), code)
}

#[tokio::test]
async fn a_plant_is_applied_from_the_revision_in_force_and_comes_back_as_it_was_written() {
    let mut cluster = cluster().await;
    let admin = &mut cluster.admin;
    let plan =
        admin.plan_config(pb::PlanConfigRequest { files: files(PLANT) }).await.expect("valid").into_inner();
    assert_eq!((plan.base_revision, plan.changes.is_empty()), (0, false));

    let mut first = Request::new(apply(PLANT, 0));
    first.metadata_mut().insert(PRINCIPAL, "anna".parse().expect("ascii"));
    let applied = admin.apply_config(first).await.expect("valid").into_inner();
    assert_eq!((applied.revision, applied.changed), (1, true));
    let again = admin.apply_config(apply(PLANT, 1)).await.expect("the same").into_inner();
    assert_eq!((again.revision, again.changed), (1, false), "the same bytes are no new revision");
    let late = admin.apply_config(apply(&format!("{PLANT}\n# late\n"), 0)).await;
    assert_eq!(code(late), (Code::Aborted, "HF-2003".to_owned()));

    let found = admin.get_config(pb::GetConfigRequest { revision: 0 }).await.expect("in force").into_inner();
    assert_eq!(found.files, files(PLANT));
    assert_eq!(found.revision.expect("present").principal, "anna (claimed)");
    let unknown = admin.get_config(pb::GetConfigRequest { revision: 9 }).await;
    assert_eq!(code(unknown), (Code::NotFound, "HF-2005".to_owned()));
}

#[tokio::test]
async fn a_document_with_errors_is_never_proposed_and_every_error_is_listed() {
    let mut cluster = cluster().await;
    let wrong = "version = 1\ncolour = 3\n[[device]]\nid = \"a b\"\n";
    let question = pb::ValidateConfigRequest { files: files(wrong) };
    let found = cluster.admin.validate_config(question).await.expect("it can be asked").into_inner();
    assert!(!found.valid && found.diagnostics.len() > 1, "{found:?}");
    let refused = cluster.admin.apply_config(apply(wrong, 0)).await;
    assert_eq!(code(refused), (Code::InvalidArgument, "HF-2001".to_owned()));
    assert_eq!(cluster.service.status_here().revision, 0);
}

#[tokio::test]
async fn a_backlog_is_given_up_only_by_name_and_a_rollback_is_a_new_revision() {
    let mut cluster = cluster().await;
    let admin = &mut cluster.admin;
    admin.apply_config(apply(PLANT, 0)).await.expect("valid");
    // The opening of the press's grid waits for the historian, which does not exist.
    let without = PLANT.split("[[destination]]").next().expect("a beginning");
    let refused = admin.apply_config(apply(without, 1)).await;
    assert_eq!(code(refused), (Code::FailedPrecondition, "HF-2004".to_owned()));
    let agreed = pb::ApplyConfigRequest { discard_backlog: vec!["historian".into()], ..apply(without, 1) };
    assert_eq!(admin.apply_config(agreed).await.expect("agreed to").into_inner().revision, 2);

    let back = pb::RollbackConfigRequest { to: 1, base_revision: 2, ..pb::RollbackConfigRequest::default() };
    assert_eq!(admin.rollback_config(back).await.expect("possible").into_inner().revision, 3);
    let diff =
        admin.diff_config(pb::DiffConfigRequest { from: 1, to: None }).await.expect("known").into_inner();
    assert_eq!((diff.to, diff.changes.len()), (3, 0), "the plant of 3 is that of 1");
    let list = admin.list_revisions(pb::ListRevisionsRequest { limit: 0 }).await.expect("known").into_inner();
    assert_eq!(list.revisions.iter().map(|revision| revision.number).collect::<Vec<_>>(), [3, 2, 1]);
    assert_eq!(list.revisions[0].comment, "back to revision 1");
}

#[tokio::test]
async fn a_revision_that_is_kept_no_more_is_said_to_be_gone_and_a_newer_one_is_read_from_its_files() {
    let mut cluster = cluster().await;
    let admin = &mut cluster.admin;
    // Nothing holds the horizon back where there is no destination.
    let without = PLANT.split("[[destination]]").next().expect("a beginning");
    for base in 0..102 {
        admin.apply_config(apply(&format!("{without}# {base}\n"), base)).await.expect("valid");
    }
    let replica = cluster.service.replica();
    let below = replica.store().keeper().read(store::ledger::State::applied_position).next();
    replica.propose(&Command::Truncate { below, overrun: None }, SOON).await.expect("nothing is behind");

    let gone = admin.get_config(pb::GetConfigRequest { revision: 2 }).await;
    assert!(gone.as_ref().is_err_and(|status| status.message().contains("kept no more")), "{gone:?}");
    assert_eq!(code(gone), (Code::NotFound, "HF-2005".to_owned()));
    let back = pb::RollbackConfigRequest { to: 2, base_revision: 102, ..Default::default() };
    assert_eq!(code(admin.rollback_config(back).await), (Code::NotFound, "HF-2005".to_owned()));
    let gone = admin.diff_config(pb::DiffConfigRequest { from: 2, to: None }).await;
    assert_eq!(code(gone), (Code::NotFound, "HF-2005".to_owned()));

    let diff = admin.diff_config(pb::DiffConfigRequest { from: 3, to: None }).await.expect("from its files");
    assert_eq!(diff.into_inner().changes, []);
    let list = admin.list_revisions(pb::ListRevisionsRequest { limit: 0 }).await.expect("known").into_inner();
    let numbers: Vec<_> = list.revisions.iter().map(|revision| revision.number).collect();
    assert_eq!((numbers.len(), numbers.last()), (100, Some(&3)));
    assert_eq!((list.revisions[99].devices, list.revisions[99].tags), (1, 1), "history says what was in it");
}

#[tokio::test]
async fn what_operators_switch_is_seen_at_once_with_who_and_why() {
    let mut cluster = cluster().await;
    let admin = &mut cluster.admin;
    admin.apply_config(apply(PLANT, 0)).await.expect("valid");
    let off = pb::SetDeviceEnabledRequest {
        id: "press-1".into(),
        enabled: false,
        reason: "tool change".into(),
        duration: Some(wire::times::duration_to_proto(Duration::from_secs(60))),
    };
    admin.set_device_enabled(off.clone()).await.expect("it exists");
    let list = admin.list_devices(pb::ListDevicesRequest::default()).await.expect("the leader").into_inner();
    assert_eq!(list.devices[0].state(), pb::device::State::Disabled);
    let standing = list.devices[0].disabled.clone().expect("present");
    assert_eq!((standing.reason.as_str(), standing.until.is_some()), ("tool change", true));
    let unknown = admin.set_device_enabled(pb::SetDeviceEnabledRequest { id: "press-9".into(), ..off }).await;
    assert_eq!(code(unknown), (Code::NotFound, "HF-5101".to_owned()));

    let pause =
        pb::SetDestinationPausedRequest { id: "historian".into(), paused: true, reason: String::new() };
    admin.set_destination_paused(pause).await.expect("it exists");
    let list = admin.list_destinations(pb::ListDestinationsRequest::default()).await.expect("the leader");
    assert_eq!(list.into_inner().destinations[0].state(), pb::destination::State::Paused);
    let tags = admin.list_tags(pb::ListTagsRequest::default()).await.expect("known").into_inner();
    assert_eq!((tags.total, tags.tags[0].address.as_str()), (1, "holding:100 = 40101"));
    assert_eq!(tags.tags[0].destinations, ["historian"]);
    let retry = pb::RetryQuarantineRequest { destination: "historian".into(), ..Default::default() };
    assert_eq!(code(admin.retry_quarantine(retry).await), (Code::InvalidArgument, "HF-8101".to_owned()));
}

#[tokio::test]
async fn a_leader_that_a_device_has_not_answered_yet_knows_when_it_answered_an_earlier_one() {
    let mut cluster = cluster().await;
    cluster.admin.apply_config(apply(PLANT, 0)).await.expect("valid");
    let replica = cluster.service.replica();
    let (group, grid) = replica
        .store()
        .keeper()
        .read(|state| state.grids.iter().map(|(group, grid)| (*group, grid.id)).next().expect("one is open"));
    let answered = Timestamp::from_millis(1_000);
    let silent = Timestamp::from_millis(2_000);
    let read = [(answered, Reading::Good(Value::F32(2.5))), (silent, Reading::Bad(StatusCode::BAD_TIMEOUT))];
    for (slot, (at, reading)) in (0..).zip(read) {
        let source = Source::Polled { group, grid, slot, skipped: Cause::Late };
        let samples = vec![Sample { tag: TagId(1), source_time: at, reading }];
        let batch = Batch::new(source, replica.node(), Revision(1), at, samples).expect("not empty");
        let batch = EncodedBatch::encode(&batch).expect("it is small");
        replica.append(&[batch], SOON).await.expect("a node alone is a majority");
    }
    let list = cluster.admin.list_devices(pb::ListDevicesRequest::default()).await.expect("the leader");
    let device = &list.get_ref().devices[0];
    assert_eq!(device.groups[0].next_slot, 2, "both were accepted");
    assert_eq!(device.state(), pb::device::State::Connecting, "nobody has asked it in this reign");
    assert_eq!(device.last_good, Some(wire::times::timestamp_to_proto(answered)));
}

#[tokio::test]
async fn a_node_alone_leads_and_hands_over_to_nobody() {
    let mut cluster = cluster().await;
    let status = cluster.admin.get_status(pb::GetStatusRequest::default()).await.expect("asked").into_inner();
    assert_eq!(status.verdict(), pb::cluster_status::Verdict::Degraded);
    assert_eq!(status.leader.expect("it leads").name, "solo");
    assert_eq!(status.fences, ["lease"], "a node in a test must not end the test");
    let kinds: Vec<_> = status.alarms.iter().map(pb::Alarm::kind).collect();
    assert_eq!(kinds, [pb::alarm::Kind::TwoVotersOnly]);
    let transfer = cluster.admin.transfer_leadership(pb::TransferLeadershipRequest::default()).await;
    assert_eq!(code(transfer), (Code::FailedPrecondition, "HF-3106".to_owned()));
    let drain = pb::DrainMemberRequest { name: "solo".into(), reason: String::new() };
    assert_eq!(
        code(cluster.admin.drain_member(drain).await),
        (Code::FailedPrecondition, "HF-3115".to_owned())
    );
    let stranger = pb::ResumeMemberRequest { name: "gateway-x".into(), reason: String::new() };
    assert_eq!(code(cluster.admin.resume_member(stranger).await), (Code::NotFound, "HF-3105".to_owned()));
}
