//! Both ends in one process, over a pipe: who is let in, who is refused, and what each is told.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use model::{Clock, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsStream;

use super::*;

const DAY: i64 = 86_400_000_000_000;
/// 2030-01-01.
const NOW: Timestamp = Timestamp(1_893_456_000_000_000_000);

/// A clock that stands where it was put.
#[derive(Clone)]
struct At(Arc<AtomicI64>);

impl At {
    fn new(at: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(at.0)))
    }
}

impl Clock for At {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

fn authority(cluster: &str) -> Authority {
    Authority::create(cluster, Validity::days(NOW.plus_nanos(-400 * DAY), 4_000)).expect("an authority")
}

fn write(folder: &Path, ca: &str, issued: &Issued) -> Files {
    let files =
        Files { ca: folder.join("ca.pem"), cert: folder.join("cert.pem"), key: folder.join("key.pem") };
    for (path, text) in
        [(&files.ca, ca), (&files.cert, issued.certificate.as_str()), (&files.key, issued.key.as_str())]
    {
        std::fs::write(path, text).expect("written");
    }
    files
}

/// Credentials of `authority`, valid as given, trusting `trusted`.
fn credentials(
    authority: &Authority,
    trusted: &Authority,
    role: Role,
    name: &str,
    validity: Validity,
) -> (tempfile::TempDir, Credentials) {
    let folder = tempfile::tempdir().expect("a folder");
    let issued = authority.issue(role, name, &["localhost".to_owned()], validity).expect("issued");
    // Those who are refused have checked their own files against their own authority.
    let both = format!("{}{}", trusted.certificate(), authority.certificate());
    let files = write(folder.path(), &both, &issued);
    let loaded = Credentials::load(&files).unwrap_or_else(|problems| panic!("{problems:?}"));
    (folder, loaded)
}

fn keeper(authority: &Authority, role: Role, name: &str, validity: Validity) -> Keeper {
    let (_folder, credentials) = credentials(authority, authority, role, name, validity);
    Keeper::new(credentials, Arc::new(At::new(NOW))).expect("usable")
}

fn valid() -> Validity {
    Validity::days(NOW, 365)
}

fn expired() -> Validity {
    Validity { from: NOW.plus_nanos(-300 * DAY), until: NOW.plus_nanos(-10 * DAY) }
}

fn not_yet() -> Validity {
    Validity { from: NOW.plus_nanos(10 * DAY), until: NOW.plus_nanos(300 * DAY) }
}

type Outcome<T> = Result<(TlsStream<DuplexStream>, T), std::io::Error>;

async fn peers(server: &Keeper, client: &Keeper, name: Option<&str>) -> (Outcome<String>, Outcome<String>) {
    let (near, far) = duplex(1 << 16);
    let (served, mut connected) = tokio::join!(server.accept_peer(near), client.connect_peer(far, name));
    // A client learns only when it reads that its own certificate was refused.
    if let (Err(_), Ok((stream, _))) = (&served, &mut connected)
        && let Err(error) = stream.read_u8().await
    {
        connected = Err(error);
    }
    (served, connected)
}

async fn call(server: &Keeper, client: &Keeper) -> (Outcome<Subject>, Outcome<String>) {
    let (near, far) = duplex(1 << 16);
    let (served, mut connected) = tokio::join!(server.accept_caller(near), client.connect_api(far));
    if let (Err(_), Ok((stream, _))) = (&served, &mut connected)
        && let Err(error) = stream.read_u8().await
    {
        connected = Err(error);
    }
    (served, connected)
}

fn objection<T>(outcome: &Outcome<T>) -> Option<Wrong> {
    outcome.as_ref().err().and_then(Keeper::objection)
}

fn told<T>(outcome: &Outcome<T>) -> String {
    let error = outcome.as_ref().err().expect("refused");
    explain(error).unwrap_or_else(|| panic!("no word of TLS in {error}"))
}

#[tokio::test]
async fn two_nodes_of_one_cluster_prove_their_names_to_each_other() {
    let ca = authority("plant-7");
    let (a, b) = (keeper(&ca, Role::Node, "a", valid()), keeper(&ca, Role::Node, "b", valid()));
    let (served, connected) = peers(&a, &b, Some("a")).await;
    let ((mut near, caller), (mut far, answerer)) = (served.expect("let in"), connected.expect("let in"));
    assert_eq!((caller.as_str(), answerer.as_str()), ("b", "a"));
    far.write_all(b"hello").await.expect("open");
    far.flush().await.expect("open");
    let mut bytes = [0; 5];
    near.read_exact(&mut bytes).await.expect("open");
    assert_eq!(&bytes, b"hello");
}

#[tokio::test]
async fn whoever_was_not_dialled_is_refused_by_name() {
    let ca = authority("plant-7");
    let (a, b) = (keeper(&ca, Role::Node, "a", valid()), keeper(&ca, Role::Node, "b", valid()));
    let (_, connected) = peers(&a, &b, Some("c")).await;
    assert_eq!(objection(&connected), Some(Wrong::Name { expected: "c".into(), found: "a".into() }));
    let (served, connected) = peers(&a, &b, None).await;
    assert!(served.is_ok() && connected.is_ok(), "anybody of the cluster will do");
}

#[tokio::test]
async fn another_chain_is_refused_at_both_ends() {
    let (ours, theirs) = (authority("plant-7"), authority("plant-7"));
    let us = keeper(&ours, Role::Node, "a", valid());
    // They trust us; we do not trust them.
    let (_folder, trusting) = credentials(&theirs, &ours, Role::Node, "b", valid());
    let them = Keeper::new(trusting, Arc::new(At::new(NOW))).expect("usable");
    let (served, connected) = peers(&us, &them, Some("a")).await;
    assert!(told(&served).contains("not signed by the authority"), "{}", told(&served));
    assert!(told(&connected).contains("does not trust"), "{}", told(&connected));
    let (_, connected) = peers(&them, &us, Some("b")).await;
    assert!(told(&connected).contains("not signed by the authority"), "{}", told(&connected));
    let (served, _) = call(&us, &them).await;
    assert!(told(&served).contains("not signed by the authority"), "{}", told(&served));
}

#[tokio::test]
async fn another_cluster_is_refused_even_if_its_chain_is_trusted() {
    let (ours, theirs) = (authority("plant-7"), authority("plant-8"));
    let (_one, a) = credentials(&ours, &theirs, Role::Node, "a", valid());
    let (_two, b) = credentials(&theirs, &ours, Role::Node, "b", valid());
    let clock = || Arc::new(At::new(NOW));
    let (a, b) = (Keeper::new(a, clock()).expect("usable"), Keeper::new(b, clock()).expect("usable"));
    let (_, connected) = peers(&a, &b, None).await;
    let wrong = Wrong::Cluster { expected: "plant-8".into(), found: "plant-7".into() };
    assert_eq!(objection(&connected), Some(wrong));
    let (_, connected) = call(&a, &b).await;
    assert!(matches!(objection(&connected), Some(Wrong::Cluster { .. })), "{connected:?}");
}

#[tokio::test]
async fn only_a_node_is_a_peer_and_only_a_node_serves() {
    let ca = authority("plant-7");
    let a = keeper(&ca, Role::Node, "a", valid());
    for role in [Role::Admin, Role::Operator, Role::Viewer, Role::Pusher] {
        let person = keeper(&ca, role, "anna", valid());
        let (served, connected) = peers(&a, &person, Some("a")).await;
        assert!(matches!(objection(&served), Some(Wrong::NotANode(_))), "{role}: {served:?}");
        assert!(told(&connected).contains("refuses this side's certificate"), "{role}");
        let (served, connected) = call(&person, &a).await;
        assert!(served.is_err() && connected.is_err(), "{role} serves");
    }
}

#[tokio::test]
async fn every_role_may_call_and_says_who_it_is() {
    let ca = authority("plant-7");
    let a = keeper(&ca, Role::Node, "a", valid());
    for role in Role::ALL {
        let (served, connected) = call(&a, &keeper(&ca, role, "anna", valid())).await;
        let subject = served.expect("let in").1;
        assert_eq!((subject.role(), subject.name()), (role, "anna"));
        assert_eq!(connected.expect("let in").1, "a");
    }
}

#[tokio::test]
async fn dates_refuse_no_peer_and_are_noted() {
    let ca = authority("plant-7");
    let b = keeper(&ca, Role::Node, "b", valid());
    for (validity, standing) in [(expired(), Standing::Expired), (not_yet(), Standing::NotYet)] {
        let a = keeper(&ca, Role::Node, "a", validity);
        let (served, connected) = peers(&a, &b, Some("a")).await;
        assert!(served.is_ok() && connected.is_ok(), "{served:?} {connected:?}");
        let (served, connected) = peers(&b, &a, Some("b")).await;
        assert!(served.is_ok() && connected.is_ok(), "{served:?} {connected:?}");
        for keeper in [&a, &b] {
            let noted = keeper.certificates();
            let of_a = noted.iter().find(|dates| dates.name == "a").expect("it was met");
            assert_eq!(of_a.standing(NOW), standing);
        }
    }
}

#[tokio::test]
async fn a_bad_date_does_not_excuse_a_bad_chain_or_name() {
    let (ours, theirs) = (authority("plant-7"), authority("plant-7"));
    let us = keeper(&ours, Role::Node, "a", valid());
    let (_folder, trusting) = credentials(&theirs, &ours, Role::Node, "b", expired());
    let them = Keeper::new(trusting, Arc::new(At::new(NOW))).expect("usable");
    let (served, _) = peers(&us, &them, Some("a")).await;
    assert!(told(&served).contains("not signed by the authority"), "{}", told(&served));
    let late = keeper(&ours, Role::Node, "b", expired());
    let (_, connected) = peers(&late, &us, Some("c")).await;
    assert!(matches!(objection(&connected), Some(Wrong::Name { .. })), "{connected:?}");
}

#[tokio::test]
async fn dates_refuse_callers_but_not_nodes_that_call() {
    let ca = authority("plant-7");
    let a = keeper(&ca, Role::Node, "a", valid());
    for validity in [expired(), not_yet()] {
        let (served, connected) = call(&a, &keeper(&ca, Role::Admin, "anna", validity)).await;
        assert!(served.is_err(), "let in");
        assert!(told(&connected).contains("renew"), "{}", told(&connected));
        let (served, _) = call(&a, &keeper(&ca, Role::Node, "b", validity)).await;
        assert!(served.is_ok(), "{served:?}");
        // And whoever calls a node with such a certificate is told.
        let (_, connected) =
            call(&keeper(&ca, Role::Node, "b", validity), &keeper(&ca, Role::Admin, "anna", valid())).await;
        assert!(told(&connected).contains("compare the clocks"), "{}", told(&connected));
    }
}

#[test]
fn everything_that_is_wrong_with_the_files_is_said_at_once() {
    let (ours, theirs) = (authority("plant-7"), authority("plant-8"));
    let folder = tempfile::tempdir().expect("a folder");
    let issued = theirs.issue(Role::Viewer, "anna", &[], valid()).expect("issued");
    let other = theirs.issue(Role::Viewer, "anna", &[], valid()).expect("issued");
    let mixed = Issued { certificate: issued.certificate, key: other.key };
    let files = write(folder.path(), ours.certificate(), &mixed);
    let problems = Credentials::load(&files).expect_err("two problems");
    assert!(
        matches!(problems[..], [Problem::NotSigned { .. }, Problem::OtherKey { .. }]),
        "expected chain and key, saw {problems:?}"
    );
    std::fs::write(&files.ca, "nothing").expect("written");
    std::fs::write(&files.cert, &mixed.key).expect("written");
    std::fs::remove_file(&files.key).expect("removed");
    let problems = Credentials::load(&files).expect_err("three problems");
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems.iter().any(|problem| matches!(problem, Problem::Unreadable { .. })), "{problems:?}");
}

#[test]
fn a_node_takes_only_its_own_certificate() {
    let ca = authority("plant-7");
    let (_folder, node) = credentials(&ca, &ca, Role::Node, "a", valid());
    assert_eq!(node.check_node("plant-7", "a"), []);
    assert!(matches!(node.check_node("plant-8", "a")[..], [Problem::OtherCluster { .. }]));
    assert!(matches!(node.check_node("plant-7", "b")[..], [Problem::OtherHolder { .. }]));
    let (_folder, admin) = credentials(&ca, &ca, Role::Admin, "a", valid());
    assert!(matches!(admin.check_node("plant-7", "a")[..], [Problem::OtherHolder { .. }]));
}

#[tokio::test]
async fn new_files_serve_new_connections_and_bad_ones_change_nothing() {
    let ca = authority("plant-7");
    let (folder, old) = credentials(&ca, &ca, Role::Node, "a", expired());
    let files = old.files().clone();
    let a = Keeper::new(old, Arc::new(At::new(NOW))).expect("usable");
    let anna = keeper(&ca, Role::Admin, "anna", valid());
    assert_eq!(a.reload(), Ok(false));
    assert!(call(&a, &anna).await.1.is_err(), "it has expired");

    std::fs::write(&files.cert, "half a fi").expect("written");
    assert!(a.reload().is_err());
    let renewed = {
        let old = ca.issue(Role::Node, "a", &[], expired()).expect("issued");
        std::fs::write(&files.key, &old.key).expect("written");
        ca.renew(&old.certificate, valid()).expect("ours")
    };
    std::fs::write(&files.cert, renewed).expect("written");
    assert_eq!(a.reload(), Ok(true));
    assert!(call(&a, &anna).await.1.is_ok(), "it was renewed");
    assert_eq!(a.certificates()[0].standing(NOW), Standing::Valid);

    let other = ca.issue(Role::Node, "b", &[], valid()).expect("issued");
    write(folder.path(), ca.certificate(), &other);
    assert!(a.reload().is_err(), "the certificate of another node");
    assert_eq!(a.subject().name(), "a");
}

#[test]
fn a_renewal_keeps_key_holder_and_hosts() {
    let ca = authority("plant-7");
    let hosts = ["gateway-a.example".to_owned(), "10.0.9.11".to_owned(), "::1".to_owned()];
    let issued = ca.issue(Role::Node, "a", &hosts, expired()).expect("issued");
    let renewed = ca.renew(&issued.certificate, valid()).expect("ours");
    let folder = tempfile::tempdir().expect("a folder");
    let files = write(folder.path(), ca.certificate(), &Issued { certificate: renewed, key: issued.key });
    let loaded = Credentials::load(&files).expect("the old key fits");
    assert_eq!(loaded.subject().uri(), "holdfast://plant-7/node/a");
    assert_eq!(loaded.certificate().hosts, hosts);
    assert!(loaded.certificate().is_valid_at(NOW));
    let stranger = authority("plant-7").issue(Role::Node, "a", &[], valid()).expect("issued");
    assert!(matches!(ca.renew(&stranger.certificate, valid()), Err(AuthorityError::NotOurs(_))));
}

#[test]
fn an_authority_is_read_back_and_goes_on_issuing() {
    let made = authority("plant-7");
    let read = Authority::read(made.certificate(), &made.key()).expect("its own files");
    assert_eq!(read.cluster(), "plant-7");
    let issued = read.issue(Role::Admin, "anna", &[], valid()).expect("issued");
    let folder = tempfile::tempdir().expect("a folder");
    assert!(Credentials::load(&write(folder.path(), made.certificate(), &issued)).is_ok());
    assert!(matches!(
        Authority::read(made.certificate(), &authority("plant-7").key()),
        Err(AuthorityError::OtherKey)
    ));
    assert!(matches!(Authority::read(&issued.certificate, &issued.key), Err(AuthorityError::NoAuthority)));
    assert!(read.issue(Role::Node, "a/b", &[], valid()).is_err());
    assert!(matches!(
        read.issue(Role::Node, "a", &["no host".to_owned()], valid()),
        Err(AuthorityError::BadHost(_))
    ));
}

#[test]
fn no_certificate_outlives_the_authority() {
    let short = Authority::create("plant-7", Validity::days(NOW, 30)).expect("an authority");
    let (_folder, credentials) = credentials(&short, &short, Role::Node, "a", Validity::days(NOW, 365));
    assert_eq!(credentials.certificate().until, NOW.plus_nanos(30 * DAY));
}

#[cfg(unix)]
#[test]
fn a_key_that_everybody_can_read_is_told() {
    use std::os::unix::fs::PermissionsExt as _;
    let ca = authority("plant-7");
    let (_folder, credentials) = credentials(&ca, &ca, Role::Node, "a", valid());
    for (mode, exposed) in [(0o600, false), (0o640, false), (0o644, true)] {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&credentials.files().key, permissions).expect("ours");
        assert_eq!(credentials.key_is_exposed(), exposed, "{mode:o}");
    }
}
