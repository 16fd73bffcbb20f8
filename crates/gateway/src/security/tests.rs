#![allow(clippy::disallowed_methods, reason = "a test is the end that everything it spawned comes to")]

use std::net::SocketAddr;

use replication::Listener;
use tls::{Authority, Credentials, Files, Role, Validity};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;
use wire::proto::v1 as pb;
use wire::proto::v1::admin_client::AdminClient;

use super::*;
use crate::roles::RoleLayer;

/// No test waits longer for what must happen.
const SOON: Duration = Duration::from_secs(20);

fn authority() -> Authority {
    Authority::create("plant-7", Validity::days(SystemClock.now(), 30)).expect("an authority")
}

/// The credentials of somebody whom `authority` knows.
fn keeper(authority: &Authority, role: Role, name: &str) -> Keeper {
    let issued = authority.issue(role, name, &[], Validity::days(SystemClock.now(), 30)).expect("issued");
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let files = Files {
        ca: file("ca.pem", authority.certificate()),
        cert: file("cert.pem", &issued.certificate),
        key: file("key.pem", &issued.key),
    };
    let credentials = Credentials::load(&files).unwrap_or_else(|problems| panic!("{problems:?}"));
    Keeper::new(credentials, Arc::new(SystemClock)).expect("usable")
}

fn tcp() -> TcpConnector {
    TcpConnector::new(Duration::from_millis(500))
}

/// A peer port that lets one peer in, speaks first as HTTP/2 does, and says who it was.
async fn peer_port(security: Security) -> (SocketAddr, tokio::task::JoinHandle<io::Result<Option<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let serving = tokio::spawn(async move {
        let arrival = Listener::accept(&listener, PATIENCE).await?;
        let mut connection = security.acceptor().accept(arrival).await?;
        connection.io.write_all(b"settings").await?;
        connection.io.flush().await?;
        Ok(connection.proven)
    });
    (address, serving)
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("in time")
}

#[tokio::test]
async fn peers_of_one_cluster_find_each_other_by_name() {
    let ca = authority();
    let (address, serving) = peer_port(Security::new(Some(keeper(&ca, Role::Node, "a")))).await;
    let connector = Security::new(Some(keeper(&ca, Role::Node, "b"))).connector(tcp());
    let mut connection = soon(connector.connect(&address.to_string(), Some("a"))).await.expect("let in");
    assert_eq!(connection.proven.as_deref(), Some("a"));
    let mut greeting = [0; 8];
    soon(connection.io.read_exact(&mut greeting)).await.expect("it spoke");
    assert_eq!(&greeting, b"settings");
    assert_eq!(soon(serving).await.expect("no panic").expect("let in").as_deref(), Some("b"));
}

#[tokio::test]
async fn a_peer_that_is_not_the_one_meant_is_refused_with_the_reason() {
    let (ours, theirs) = (authority(), authority());
    let cases = [
        (keeper(&ours, Role::Node, "c"), Refusal::WrongName),
        (keeper(&theirs, Role::Node, "a"), Refusal::Untrusted),
    ];
    for (answering, expected) in cases {
        let (address, serving) = peer_port(Security::new(Some(answering))).await;
        let connector = Security::new(Some(keeper(&ours, Role::Node, "b"))).connector(tcp());
        match soon(connector.connect(&address.to_string(), Some("a"))).await {
            Err(ConnectError::Refused { refusal, .. }) => assert_eq!(refusal, expected),
            other => panic!("expected {expected}, saw {other:?}"),
        }
        assert!(soon(serving).await.expect("no panic").is_err(), "{expected}: it let us in");
    }
}

#[tokio::test]
async fn only_nodes_reach_the_peer_port_and_nobody_in_plaintext() {
    let ca = authority();
    let node = || Security::new(Some(keeper(&ca, Role::Node, "a")));
    let (address, serving) = peer_port(node()).await;
    let admin = Security::new(Some(keeper(&ca, Role::Admin, "anna"))).connector(tcp());
    let error = soon(admin.connect(&address.to_string(), Some("a"))).await.expect_err("an admin is no node");
    assert!(error.to_string().contains("refuses this side's certificate"), "{error}");
    assert!(soon(serving).await.expect("no panic").is_err());

    let (address, serving) = peer_port(node()).await;
    let mut plain = TcpStream::connect(address).await.expect("it listens");
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("it listens");
    assert!(soon(serving).await.expect("no panic").is_err());
}

/// An API without services behind its roles: what passes is not implemented.
async fn api(security: Security) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let stop = CancellationToken::new();
    let until = stop.clone();
    let (_, health) = tonic_health::server::health_reporter();
    let server = tonic::transport::Server::builder().layer(RoleLayer).add_service(health);
    tokio::spawn(async move {
        server.serve_with_incoming_shutdown(security.callers(listener), until.cancelled_owned()).await
    });
    (address, stop)
}

async fn call(keeper: Option<Keeper>, address: SocketAddr) -> (Code, Code) {
    let channel = soon(connect_api(keeper, &address.to_string(), |endpoint| endpoint)).await.expect("let in");
    let mut admin = AdminClient::new(channel);
    let looked = soon(admin.get_status(pb::GetStatusRequest::default())).await.expect_err("no service");
    let applied = soon(admin.apply_config(pb::ApplyConfigRequest::default())).await.expect_err("no service");
    (looked.code(), applied.code())
}

#[tokio::test]
async fn each_role_gets_as_far_as_it_may() {
    let ca = authority();
    let (address, _stop) = api(Security::new(Some(keeper(&ca, Role::Node, "a")))).await;
    for (role, expected) in [
        (Role::Admin, (Code::Unimplemented, Code::Unimplemented)),
        (Role::Node, (Code::Unimplemented, Code::Unimplemented)),
        (Role::Operator, (Code::Unimplemented, Code::PermissionDenied)),
        (Role::Viewer, (Code::Unimplemented, Code::PermissionDenied)),
        (Role::Pusher, (Code::PermissionDenied, Code::PermissionDenied)),
    ] {
        assert_eq!(call(Some(keeper(&ca, role, "anna")), address).await, expected, "{role}");
    }
}

#[tokio::test]
async fn a_caller_without_a_good_certificate_is_told_why() {
    let (address, _stop) = api(Security::new(Some(keeper(&authority(), Role::Node, "a")))).await;
    let stranger = keeper(&authority(), Role::Admin, "eve");
    let refused = soon(connect_api(Some(stranger), &address.to_string(), |endpoint| endpoint)).await;
    assert!(refused.as_ref().is_err_and(|reason| reason.contains("authority")), "{refused:?}");
}

#[tokio::test]
async fn plaintext_knows_no_roles() {
    let (address, _stop) = api(Security::new(None)).await;
    assert_eq!(call(None, address).await, (Code::Unimplemented, Code::Unimplemented));
    let ca = authority();
    let (anna, address) = (keeper(&ca, Role::Admin, "anna"), address.to_string());
    let refused = soon(connect_api(Some(anna), &address, |endpoint| endpoint)).await;
    assert!(refused.as_ref().is_err_and(|reason| reason.contains("no TLS")), "{refused:?}");
}

#[tokio::test]
async fn whoever_says_nothing_holds_up_nobody() {
    let ca = authority();
    let (address, _stop) = api(Security::new(Some(keeper(&ca, Role::Node, "a")))).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(address).await.expect("it listens"));
    }
    assert_eq!(call(Some(keeper(&ca, Role::Viewer, "anna")), address).await.0, Code::Unimplemented);
}
