//! The HTTP destination against receivers that answer, refuse, hang and talk nonsense.

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use holdfast_destinations::{AnyDestination, DeliverError, Destination, NodeFacts};
use model::plant::{DestinationKind, Http, Secret};
use model::{Cursor, Delivery, Ordinal, Position, Timestamp, Value};
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use support::{
    Granted, Limited, build, delivery, expiry, gap, key, node, one_entry, opening, reign, sample, sample_of,
};

type Handler = Arc<dyn Fn(&Request) -> Response + Send + Sync>;

/// One request as a receiver saw it.
#[derive(Debug, Clone)]
struct Request {
    headers: HeaderMap,
    body: Json,
    bytes: usize,
}

impl Request {
    fn keys(&self) -> Vec<String> {
        let samples = self.body["samples"].as_array().expect("a list");
        samples.iter().map(|sample| sample["key"].as_str().expect("a key").to_owned()).collect()
    }
}

#[derive(Clone)]
struct Receiver {
    address: SocketAddr,
    handler: Handler,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Receiver {
    async fn start(handler: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let receiver = Self { address, handler: Arc::new(handler), seen: Arc::default() };
        let router =
            Router::new().fallback(receive).layer(DefaultBodyLimit::disable()).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    async fn answering(status: u16) -> Self {
        Self::start(move |_| status_of(status).into_response()).await
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("no panic").clone()
    }

    fn url(&self) -> String {
        format!("http://{}/ingest", self.address)
    }

    fn destination(&self) -> AnyDestination {
        self.destination_of(1_000)
    }

    fn destination_of(&self, max_records: u32) -> AnyDestination {
        build(DestinationKind::Http(Http { max_records, ..http(&self.url()) }), &node("gateway-a"))
    }
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> Response {
    let json = serde_json::from_slice(&body).expect("a request is JSON");
    let request = Request { headers, body: json, bytes: body.len() };
    receiver.seen.lock().expect("no panic").push(request.clone());
    (receiver.handler)(&request)
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).expect("a status")
}

fn http(url: &str) -> Http {
    Http { url: url.into(), token: None, ca: None, timeout: Duration::from_secs(10), max_records: 1_000 }
}

fn rejecting(status: u16, keys: &[String]) -> Response {
    let list: Vec<_> =
        keys.iter().map(|key| serde_json::json!({ "key": key, "reason": "unknown tag" })).collect();
    (status_of(status), serde_json::json!({ "rejected": list }).to_string()).into_response()
}

fn texts(ordinals: impl IntoIterator<Item = u32>) -> Vec<String> {
    ordinals.into_iter().map(|ordinal| key(1, ordinal).to_string()).collect()
}

fn reason_of_stall(result: Result<holdfast_destinations::Receipt, DeliverError>) -> String {
    match result {
        Err(DeliverError::Misconfigured { reason }) => reason,
        other => panic!("expected a stall, got {other:?}"),
    }
}

#[tokio::test]
async fn a_delivery_is_posted_whole_with_its_envelope_and_acknowledged() {
    let receiver = Receiver::answering(202).await;
    let delivery = delivery(vec![sample(1, 0), sample(1, 1), gap(1), opening(2), expiry(3)]);
    let receipt = receiver.destination().deliver(&delivery, &Granted).await.expect("accepted");
    assert_eq!((receipt.acknowledged, receipt.taken), (delivery.upto, delivery.upto));
    assert!(receipt.rejected.is_empty());
    let request = &receiver.seen()[0];
    assert_eq!(request.headers["content-type"], "application/json");
    let (first, last) = (&delivery.records[0], &delivery.records[4]);
    let expected = format!("historian:{}:{}", first.key(), last.key());
    assert_eq!(request.headers["idempotency-key"].to_str().expect("text"), expected);
    assert_eq!((&request.body["after"], &request.body["upto"]), (&"1/0".into(), &"4/0".into()));
    let counts =
        ["samples", "gaps", "openings", "expiries"].map(|list| request.body[list].as_array().map(Vec::len));
    assert_eq!(counts, [Some(2), Some(1), Some(1), Some(1)]);
    assert_eq!(request.body["openings"][0]["period"], "0.100s");
}

#[tokio::test]
async fn a_delivery_is_cut_into_requests_whose_cursors_meet() {
    let receiver = Receiver::answering(200).await;
    let delivery = one_entry(1, 25);
    receiver.destination_of(10).deliver(&delivery, &Granted).await.expect("accepted");
    let cursors: Vec<_> = receiver
        .seen()
        .iter()
        .map(|request| (request.body["after"].clone(), request.body["upto"].clone(), request.keys().len()))
        .collect();
    let expected = [("1/0", "1/10", 10), ("1/10", "1/20", 10), ("1/20", "2/0", 5)];
    assert_eq!(cursors, expected.map(|(after, upto, count)| (after.into(), upto.into(), count)));
}

#[tokio::test]
async fn long_records_are_cut_by_bytes() {
    let receiver = Receiver::answering(200).await;
    let long = Value::String("x".repeat(1 << 20).into());
    let records = (0..9).map(|ordinal| sample_of(1, ordinal, "log", long.clone())).collect();
    receiver.destination().deliver(&delivery(records), &Granted).await.expect("accepted");
    let seen = receiver.seen();
    assert!(seen.iter().all(|request| request.bytes < 6 << 20), "each request is bounded");
    assert_eq!(seen.iter().flat_map(Request::keys).collect::<Vec<_>>(), texts(0..9), "in order, each once");
}

#[tokio::test]
async fn a_named_record_is_rejected_and_the_others_count_as_delivered() {
    for status in [207, 422] {
        let receiver = Receiver::start(move |_| {
            let mut keys = texts([2, 4]);
            keys.push("00000000/9/9".into());
            rejecting(status, &keys)
        })
        .await;
        let delivery = one_entry(1, 6);
        let receipt = receiver.destination().deliver(&delivery, &Granted).await.expect("accepted");
        assert_eq!(receipt.acknowledged, delivery.upto);
        let rejected: Vec<_> = receipt.rejected.iter().map(|rejected| rejected.key).collect();
        assert_eq!(rejected, [key(1, 2), key(1, 4)], "{status}: a key that was not sent is ignored");
        assert_eq!(receipt.rejected[0].reason, "unknown tag");
        assert_eq!(receiver.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_refusal_that_names_records_is_repeated_without_them() {
    let receiver = Receiver::start(|request| {
        let bad: Vec<_> = request.keys().into_iter().filter(|key| texts([0, 3]).contains(key)).collect();
        if bad.is_empty() { StatusCode::OK.into_response() } else { rejecting(400, &bad) }
    })
    .await;
    let delivery = one_entry(1, 6);
    let receipt = receiver.destination().deliver(&delivery, &Granted).await.expect("accepted");
    assert_eq!(receipt.acknowledged, delivery.upto);
    assert_eq!(receipt.rejected.len(), 2);
    let sent: Vec<_> = receiver.seen()[1..].iter().flat_map(Request::keys).collect();
    assert_eq!(sent, texts([1, 2, 4, 5]), "the others, once, in order");
}

#[tokio::test]
async fn a_refusal_without_a_list_is_bisected_until_the_bad_sample_stands_alone() {
    for body in ["", "<html>Bad Request</html>", "{\"rejected\":[]}", "{\"rejected\":17}"] {
        for status in [400, 422] {
            let accepted = Arc::new(Mutex::new(Vec::new()));
            let kept = Arc::clone(&accepted);
            let receiver = Receiver::start(move |request| {
                if request.keys().contains(&key(1, 37).to_string()) {
                    return (status_of(status), body).into_response();
                }
                kept.lock().expect("no panic").extend(request.keys());
                StatusCode::OK.into_response()
            })
            .await;
            let delivery = one_entry(1, 100);
            let receipt = receiver.destination().deliver(&delivery, &Granted).await.expect("accepted");
            assert_eq!(receipt.acknowledged, delivery.upto);
            let rejected: Vec<_> = receipt.rejected.iter().map(|rejected| rejected.key).collect();
            assert_eq!(rejected, [key(1, 37)], "{status} {body}");
            let expected = texts((0..100).filter(|ordinal| *ordinal != 37));
            assert_eq!(*accepted.lock().expect("no panic"), expected, "each other once, in order");
            assert!(receiver.seen().len() < 20, "{} requests", receiver.seen().len());
        }
    }
}

#[tokio::test]
async fn a_receiver_that_refuses_everything_stalls_and_quarantines_nothing() {
    let receiver = Receiver::answering(400).await;
    let mut destination = receiver.destination();
    for count in [1, 3, 1_000] {
        let reason = reason_of_stall(destination.deliver(&one_entry(1, count), &Granted).await);
        assert!(reason.contains("refuses every record") && reason.contains("400"), "{reason}");
    }
    assert!(receiver.seen().len() < 200, "{} requests", receiver.seen().len());
}

#[tokio::test]
async fn a_receiver_that_turns_bad_in_the_middle_of_a_delivery_stalls_and_quarantines_nothing() {
    let taken = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&taken);
    let receiver = Receiver::start(move |_| {
        let mut taken = counted.lock().expect("no panic");
        *taken += 1;
        if *taken == 1 { StatusCode::OK.into_response() } else { status_of(400).into_response() }
    })
    .await;
    let mut destination = receiver.destination_of(100);
    let delivery = one_entry(1, 1_000);
    let receipt = destination.deliver(&delivery, &Granted).await.expect("a part was accepted");
    let reached = Cursor { position: Position(1), ordinal: Ordinal(100) };
    assert_eq!((receipt.acknowledged, receipt.taken), (reached, reached));
    assert_eq!(receipt.rejected.len(), 0, "what nobody looked at is not refused for its content");
    let rest = model::Delivery { after: reached, records: delivery.records[100..].to_vec(), ..delivery };
    let reason = reason_of_stall(destination.deliver(&rest, &Granted).await);
    assert!(reason.contains("refuses every record"), "{reason}");
}

#[tokio::test]
async fn a_lone_bad_sample_is_rejected_by_a_receiver_that_took_others_before() {
    let receiver = Receiver::start(|request| match request.keys().contains(&key(2, 0).to_string()) {
        true => StatusCode::BAD_REQUEST.into_response(),
        false => StatusCode::OK.into_response(),
    })
    .await;
    let mut destination = receiver.destination();
    destination.deliver(&one_entry(1, 10), &Granted).await.expect("accepted");
    let receipt = destination.deliver(&one_entry(2, 1), &Granted).await.expect("settled");
    assert_eq!(receipt.rejected.len(), 1);
    assert_eq!(receipt.acknowledged, Cursor::at(Position(3)));
}

#[tokio::test]
async fn too_large_a_request_is_halved_and_the_size_is_remembered() {
    let receiver = Receiver::start(|request| match request.keys().len() > 30 {
        true => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        false => StatusCode::OK.into_response(),
    })
    .await;
    let mut destination = receiver.destination();
    let receipt = destination.deliver(&one_entry(1, 100), &Granted).await.expect("accepted");
    assert_eq!((receipt.acknowledged, receipt.rejected.len()), (Cursor::at(Position(2)), 0));
    let first = receiver.seen().len();
    // After an error of the line, say: what was found out about the receiver still holds.
    destination.begin_reign(&reign(1, Cursor::at(Position(2))), &Granted).await.expect("begun");
    destination.deliver(&one_entry(2, 100), &Granted).await.expect("accepted");
    let refused = receiver.seen()[first..].iter().filter(|request| request.keys().len() > 30).count();
    assert_eq!(refused, 0, "it does not try the large size at once again");
}

#[tokio::test]
async fn a_record_that_is_too_large_alone_is_rejected_if_it_is_large_and_stalls_if_it_is_not() {
    let receiver = Receiver::answering(413).await;
    let reason = reason_of_stall(receiver.destination().deliver(&one_entry(1, 2), &Granted).await);
    assert!(reason.contains("413") && reason.contains("limit"), "{reason}");

    let receiver = Receiver::start(|request| match request.bytes > 100_000 {
        true => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        false => StatusCode::OK.into_response(),
    })
    .await;
    let long = sample_of(1, 1, "log", Value::String("x".repeat(200_000).into()));
    let delivery = delivery(vec![sample(1, 0), long, sample(1, 2)]);
    let receipt = receiver.destination().deliver(&delivery, &Granted).await.expect("accepted");
    assert_eq!(receipt.rejected.iter().map(|rejected| rejected.key).collect::<Vec<_>>(), [key(1, 1)]);
}

#[tokio::test]
async fn a_busy_receiver_is_tried_again_when_it_says() {
    for status in [408, 429, 500, 502, 503, 504] {
        let receiver =
            Receiver::start(move |_| (status_of(status), [("retry-after", "7")], "later").into_response())
                .await;
        let error =
            receiver.destination().deliver(&one_entry(1, 3), &Granted).await.expect_err("not accepted");
        let DeliverError::Unavailable { reason, retry_after } = error else {
            panic!("{status}: {error:?}");
        };
        assert_eq!(retry_after, Some(Duration::from_secs(7)), "{status}");
        assert!(reason.contains(&status.to_string()) && reason.contains("later"), "{reason}");
    }
}

#[tokio::test]
async fn what_a_person_must_correct_stalls_with_the_status() {
    for status in [401, 403, 404, 405, 410, 415] {
        let receiver = Receiver::answering(status).await;
        let reason = reason_of_stall(receiver.destination().deliver(&one_entry(1, 3), &Granted).await);
        assert!(reason.contains(&status.to_string()), "{reason}");
        assert_eq!(receiver.seen().len(), 1, "{status} is not bisected");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Receiver::answering(200).await;
    let location = elsewhere.url();
    let receiver = Receiver::start(move |_| {
        (StatusCode::TEMPORARY_REDIRECT, [("location", location.clone())]).into_response()
    })
    .await;
    let reason = reason_of_stall(receiver.destination().deliver(&one_entry(1, 3), &Granted).await);
    assert!(reason.contains(&elsewhere.url()), "{reason}");
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn a_multi_status_without_a_list_acknowledges_nothing() {
    let receiver = Receiver::start(|_| (StatusCode::MULTI_STATUS, "<html>").into_response()).await;
    reason_of_stall(receiver.destination().deliver(&one_entry(1, 3), &Granted).await);
}

#[tokio::test]
async fn what_was_accepted_before_a_failure_is_acknowledged() {
    let receiver = Receiver::start(|request| match request.keys().contains(&key(1, 20).to_string()) {
        true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        false => StatusCode::OK.into_response(),
    })
    .await;
    let mut destination = receiver.destination_of(10);
    let delivery = one_entry(1, 30);
    let receipt = destination.deliver(&delivery, &Granted).await.expect("a part was accepted");
    let expected = Cursor { position: Position(1), ordinal: Ordinal(20) };
    assert_eq!((receipt.acknowledged, receipt.taken), (expected, expected));
    let rest = model::Delivery { after: expected, records: delivery.records[20..].to_vec(), ..delivery };
    let error = destination.deliver(&rest, &Granted).await.expect_err("still busy");
    assert!(matches!(error, DeliverError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn nothing_is_sent_without_a_permit_and_it_is_asked_before_each_request() {
    let receiver = Receiver::answering(200).await;
    let mut destination = receiver.destination_of(10);
    let error = destination.deliver(&one_entry(1, 30), &Limited::to(0)).await.expect_err("fenced");
    assert!(matches!(error, DeliverError::Fenced(_)));
    assert!(receiver.seen().is_empty());
    let error = destination.deliver(&one_entry(1, 30), &Limited::to(2)).await.expect_err("fenced");
    assert!(matches!(error, DeliverError::Fenced(_)));
    assert_eq!(receiver.seen().len(), 2);
}

/// A receiver of raw bytes: reads a little, answers with `answer` (or nothing) and closes or keeps the connection.
async fn raw_receiver(answer: &'static [u8], keep_open: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut some = [0; 1024];
            if stream.read(&mut some).await.is_ok() && stream.write_all(answer).await.is_ok() && keep_open {
                open.push(stream);
            }
        }
    });
    url
}

#[tokio::test]
async fn a_receiver_that_hangs_is_given_up_in_time() {
    for answer in [&b""[..], b"HTTP/1.1 207 Multi-Status\r\ncontent-length: 100\r\n\r\n{\"rej"] {
        let url = raw_receiver(answer, true).await;
        let http = Http { timeout: Duration::from_millis(200), ..http(&url) };
        let mut destination = build(DestinationKind::Http(http), &node("gateway-a"));
        let began = tokio::time::Instant::now();
        let error = destination.deliver(&one_entry(1, 3), &Granted).await.expect_err("no answer");
        assert!(
            matches!(&error, DeliverError::Unavailable { reason, .. } if reason.contains("200ms")),
            "{error:?}"
        );
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn nonsense_and_cut_connections_are_tried_again() {
    for answer in [&b""[..], b"\x15\x03\x01 go away", b"HTTP/1.1 2"] {
        let url = raw_receiver(answer, false).await;
        let mut destination = build(DestinationKind::Http(http(&url)), &node("gateway-a"));
        let error = destination.deliver(&one_entry(1, 3), &Granted).await.expect_err("no answer");
        assert!(matches!(error, DeliverError::Unavailable { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_receiver_that_is_down_is_unavailable_and_a_name_that_does_not_exist_stalls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    drop(listener);
    let mut destination = build(DestinationKind::Http(http(&url)), &node("gateway-a"));
    let error = destination.deliver(&one_entry(1, 1), &Granted).await.expect_err("nobody listens");
    assert!(matches!(error, DeliverError::Unavailable { .. }), "{error:?}");

    let mut destination =
        build(DestinationKind::Http(http("http://no-such-host.invalid/")), &node("gateway-a"));
    reason_of_stall(destination.deliver(&one_entry(1, 1), &Granted).await);
}

#[tokio::test]
async fn the_bearer_token_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let wanted = Arc::new(Mutex::new("first".to_owned()));
    let known = Arc::clone(&wanted);
    let receiver = Receiver::start(move |request| {
        let given = request.headers.get("authorization").and_then(|value| value.to_str().ok());
        let expected = format!("Bearer {}", known.lock().expect("no panic"));
        if given == Some(&expected) { StatusCode::OK.into_response() } else { status_of(401).into_response() }
    })
    .await;
    let token = Some(Secret::File("token".into()));
    let node = NodeFacts { data_dir: folder.path().into(), ..node("gateway-a") };
    let mut destination = build(DestinationKind::Http(Http { token, ..http(&receiver.url()) }), &node);

    let reason = reason_of_stall(destination.deliver(&one_entry(1, 1), &Granted).await);
    assert!(reason.contains("token"), "an unreadable file is named: {reason}");
    std::fs::write(folder.path().join("token"), "first\n").expect("written");
    destination.deliver(&one_entry(1, 1), &Granted).await.expect("accepted");
    *wanted.lock().expect("no panic") = "second".into();
    reason_of_stall(destination.deliver(&one_entry(2, 1), &Granted).await);
    std::fs::write(folder.path().join("token"), "second\n").expect("written");
    destination.deliver(&one_entry(2, 1), &Granted).await.expect("accepted with the new token");
    assert!(!format!("{destination:?}").contains("second"), "a token is never shown");
}

/// A TLS receiver that answers 200 to everything, and the certificate to trust it by.
async fn tls_receiver(name: &str) -> (u16, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("they belong together");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let mut some = [0; 4096];
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                if stream.read(&mut some).await.is_ok() && stream.write_all(answer).await.is_ok() {
                    let _closed = stream.shutdown().await;
                }
            }
        }
    });
    (port, made.cert.pem())
}

#[tokio::test]
async fn the_plants_authority_is_trusted_instead_of_the_systems() {
    let (port, pem) = tls_receiver("localhost").await;
    let url = format!("https://localhost:{port}/");
    let mut trusting =
        build(DestinationKind::Http(Http { ca: Some(pem.clone()), ..http(&url) }), &node("gateway-a"));
    trusting.deliver(&one_entry(1, 1), &Granted).await.expect("accepted");

    let (_, other) = tls_receiver("localhost").await;
    let mut wary = build(DestinationKind::Http(Http { ca: Some(other), ..http(&url) }), &node("gateway-a"));
    let reason = reason_of_stall(wary.deliver(&one_entry(1, 1), &Granted).await);
    assert!(reason.to_lowercase().contains("certificate"), "{reason}");

    let by_address = format!("https://127.0.0.1:{port}/");
    let mut misnamed =
        build(DestinationKind::Http(Http { ca: Some(pem), ..http(&by_address) }), &node("gateway-a"));
    reason_of_stall(misnamed.deliver(&one_entry(1, 1), &Granted).await);
}

#[tokio::test]
async fn a_receiver_that_the_system_does_not_trust_stalls() {
    let (port, _) = tls_receiver("localhost").await;
    let http = http(&format!("https://localhost:{port}/"));
    let destination = model::plant::Destination {
        id: "historian".into(),
        kind: DestinationKind::Http(http),
        required: true,
        start: model::plant::Start::Now,
        routes: Vec::new(),
    };
    // A machine without any authorities cannot even build it.
    let outcome = match AnyDestination::build(&destination, &node("gateway-a")) {
        Ok(mut built) => built.deliver(&one_entry(1, 1), &Granted).await,
        Err(error) => Err(error),
    };
    reason_of_stall(outcome);
}

#[tokio::test]
async fn what_cannot_work_on_this_node_is_said_when_it_is_built() {
    let wrong = [
        http("historian/ingest"),
        http("ftp://historian/"),
        http("http://user:secret@historian/"),
        http("http://${var.nowhere}/"),
        Http { ca: Some("no certificate".into()), ..http("https://historian/") },
    ];
    for http in wrong {
        let url = http.url.clone();
        let destination = model::plant::Destination {
            id: "historian".into(),
            kind: DestinationKind::Http(http),
            required: true,
            start: model::plant::Start::Now,
            routes: Vec::new(),
        };
        let built = AnyDestination::build(&destination, &node("gateway-a"));
        assert!(matches!(built, Err(DeliverError::Misconfigured { .. })), "{url}: {built:?}");
    }
}

#[tokio::test]
async fn retries_of_the_same_records_bear_the_same_idempotency_key() {
    let receiver = Receiver::answering(503).await;
    let mut destination = receiver.destination();
    for _ in 0..3 {
        destination.deliver(&one_entry(1, 5), &Granted).await.expect_err("busy");
    }
    let keys: BTreeSet<_> = receiver
        .seen()
        .iter()
        .map(|request| request.headers["idempotency-key"].as_bytes().to_vec())
        .collect();
    assert_eq!(keys.len(), 1);
}

#[tokio::test]
async fn what_is_offered_again_is_another_request_and_says_so() {
    let receiver = Receiver::answering(200).await;
    let mut destination = receiver.destination();
    let delivery = delivery(vec![sample(1, 0), sample(1, 1)]);
    destination.deliver(&delivery, &Granted).await.expect("accepted");
    let again = destination.offer_again(&delivery, Timestamp(77), &Granted).await.expect("accepted");
    assert_eq!((again.acknowledged, again.rejected), (delivery.upto, Vec::new()));
    let seen = receiver.seen();
    let key = |request: &Request| request.headers["idempotency-key"].to_str().expect("text").to_owned();
    assert_eq!(key(&seen[1]), format!("{}:77", key(&seen[0])), "an answer that was kept is not repeated");
    assert_eq!((seen[0].body.get("retried"), &seen[1].body["retried"]), (None, &Json::Bool(true)));
    assert_eq!(seen[0].body["samples"], seen[1].body["samples"]);
}

#[tokio::test]
async fn a_record_that_is_refused_again_needs_no_proof_that_others_are_accepted() {
    let receiver = Receiver::answering(400).await;
    let mut destination = receiver.destination();
    let refused = one_entry(1, 100);
    reason_of_stall(destination.deliver(&refused, &Granted).await);
    let mut settled = Vec::new();
    let mut rest = refused.clone();
    while !rest.records.is_empty() {
        let receipt = destination.offer_again(&rest, Timestamp(77), &Granted).await.expect("an answer");
        settled.extend(receipt.rejected.iter().map(|rejected| rejected.key));
        rest.records.retain(|record| record.key() > settled[settled.len() - 1]);
        rest.after = receipt.acknowledged;
    }
    let expected: Vec<_> = refused.records.iter().map(|record| record.key()).collect();
    assert_eq!(settled, expected, "each once, in parts");
}

#[tokio::test]
async fn what_was_settled_counts_when_a_later_part_finds_no_answer() {
    let receiver = Receiver::start(|request| {
        let is_late = request.keys().contains(&key(1, 40).to_string());
        status_of(if is_late { 503 } else { 200 }).into_response()
    })
    .await;
    let mut destination = receiver.destination();
    let delivery = one_entry(1, 100);
    let receipt =
        destination.offer_again(&delivery, Timestamp(77), &Granted).await.expect("a part is accepted");
    assert_eq!(receipt.acknowledged, Cursor::behind(Position(1), Ordinal(31)));
    let rest = Delivery { after: receipt.acknowledged, ..one_entry(1, 100) };
    let rest = Delivery { records: rest.records[32..].to_vec(), ..rest };
    let error = destination.offer_again(&rest, Timestamp(77), &Granted).await;
    assert!(matches!(error, Err(DeliverError::Unavailable { .. })), "{error:?}");
}
