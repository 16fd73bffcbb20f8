//! Refused records that are offered again, to a receiver in this process.

use std::sync::Mutex;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use destinations::NodeFacts;
use model::plant::DestinationKind;
use model::plant::route::Route;
use serde_json::Value as Json;

use super::*;
use crate::forwarding::{self, ForwardingParts};

/// What a receiver thinks of samples; it takes gaps and openings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Accept,
    /// 422, and names them.
    Reject(&'static str),
    /// 400, and names none.
    Refuse,
    /// It takes deliveries, and answers 503 to what is offered again.
    TooBusyForMore,
}

/// A request.
#[derive(Debug, Clone)]
struct Seen {
    idempotency_key: String,
    body: Json,
}

#[derive(Clone)]
struct Receiver {
    url: String,
    mood: Arc<Mutex<Mood>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Receiver {
    #[allow(clippy::disallowed_methods, reason = "it ends with the test")]
    async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/ingest", listener.local_addr().expect("bound"));
        let receiver = Self { url, mood: Arc::new(Mutex::new(mood)), seen: Arc::default() };
        let router = Router::new().fallback(receive).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().expect("no test panics here") = mood;
    }

    /// Requests with samples, those of deliveries or those that were offered again.
    fn seen(&self, retried: bool) -> Vec<Seen> {
        let seen = self.seen.lock().expect("no test panics here");
        let is_wanted = |seen: &&Seen| (seen.body["retried"] == true) == retried && !samples(seen).is_empty();
        seen.iter().filter(is_wanted).cloned().collect()
    }
}

fn samples(seen: &Seen) -> Vec<Json> {
    seen.body["samples"].as_array().expect("a list").clone()
}

async fn receive(Shared(receiver): Shared<Receiver>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Json = serde_json::from_slice(&body).expect("a request is JSON");
    let samples = body["samples"].as_array().expect("a list");
    let mood = *receiver.mood.lock().expect("no test panics here");
    let (status, text) = match mood {
        _ if samples.is_empty() => (StatusCode::OK, String::new()),
        Mood::TooBusyForMore if body["retried"] == true => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
        Mood::Accept | Mood::TooBusyForMore => (StatusCode::OK, String::new()),
        Mood::Reject(reason) => {
            let named =
                samples.iter().map(|sample| serde_json::json!({ "key": sample["key"], "reason": reason }));
            let list = serde_json::json!({ "rejected": named.collect::<Vec<_>>() });
            (StatusCode::UNPROCESSABLE_ENTITY, list.to_string())
        }
        Mood::Refuse => (StatusCode::BAD_REQUEST, "it is wrong".to_owned()),
    };
    let idempotency_key = headers["idempotency-key"].to_str().expect("text").to_owned();
    receiver.seen.lock().expect("no test panics here").push(Seen { idempotency_key, body });
    (status, text).into_response()
}

impl Node {
    /// Starts to deliver to a receiver.
    async fn forward_to(&self, receiver: &Receiver) {
        let mut plant = plant(64 * MIB, WhenFull::Refuse);
        let DestinationKind::Http(http) = &mut plant.destinations[0].kind else { panic!("it is HTTP") };
        http.url = receiver.url.as_str().into();
        plant.destinations[0].routes = vec![Route { tags: vec!["press/**".to_owned()] }];
        self.configure(plant).await;
        let facts = NodeFacts {
            name: self.replica.name().to_owned(),
            cluster: "plant-7".to_owned(),
            data_dir: self._staging.path().to_owned(),
            vars: BTreeMap::new(),
        };
        let parts = ForwardingParts {
            replica: self.replica.clone(),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            live: Live::default(),
            facts,
            spawner: self.spawner.clone(),
        };
        let stop = self.spawner.token().clone();
        self.spawner.spawn("forwarding", forwarding::run(Arc::new(parts), self.leads(), stop));
    }

    /// Pushes so many entries with one sample each for the receiver, and waits until it has refused them.
    async fn push_refused(&self, sequences: std::ops::RangeInclusive<u64>) {
        let held = *sequences.end() as usize;
        for sequence in sequences {
            self.push(sequence).await.expect("there is room");
        }
        self.until("they are set aside", |state| state.quarantine.len() == held).await;
    }

    async fn order(&self, keys: Vec<(model::Position, model::Ordinal)>) {
        let destination = "historian".to_owned();
        let command = Command::RetryQuarantine { destination, keys, request: Request::default() };
        assert_eq!(self.propose(command).await, store::Outcome::Done);
    }
}

#[tokio::test]
async fn what_is_offered_again_and_accepted_leaves_quarantine_as_the_record_it_was() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let receiver = Receiver::start(Mood::Reject("not wanted")).await;
    node.forward_to(&receiver).await;
    node.push_refused(1..=3).await;
    receiver.set(Mood::Accept);
    node.order(Vec::new()).await;
    node.until("nothing is left", |state| state.quarantine.is_empty()).await;

    let again = receiver.seen(true);
    let offered: Vec<Json> = again.iter().flat_map(samples).collect();
    let first: Vec<Json> = receiver.seen(false).iter().flat_map(samples).collect();
    assert_eq!(offered, first, "the same records under the same keys, each once");
    let before: Vec<String> = receiver.seen(false).into_iter().map(|seen| seen.idempotency_key).collect();
    let is_new = |seen: &Seen| !before.contains(&seen.idempotency_key);
    assert!(again.iter().all(is_new), "a receiver that keeps its answers must not repeat them: {again:?}");
    let counted = node.read(|state| {
        let known = &state.destinations[&HISTORIAN];
        (known.accepted_again, known.refused_again)
    });
    assert_eq!(counted, (3, 0));
}

#[tokio::test]
async fn what_is_refused_again_stays_with_the_new_reason_until_another_order() {
    for mood in [Mood::Reject("still not wanted"), Mood::Refuse] {
        let nodes = cluster(1).await;
        let node = &nodes[leader(&nodes).await];
        let receiver = Receiver::start(Mood::Reject("not wanted")).await;
        node.forward_to(&receiver).await;
        node.push_refused(1..=3).await;
        receiver.set(mood);
        let (_, at, ordinal) = node.read(|state| *state.quarantine.keys().next().expect("three are held"));
        node.order(vec![(at, ordinal)]).await;
        let held = || node.read(|state| state.quarantine.values().cloned().collect::<Vec<_>>());
        node.until("it was refused again", |state| {
            let known = &state.destinations[&HISTORIAN];
            (known.accepted_again, known.refused_again) == (0, 1)
        })
        .await;
        let reasons: Vec<String> = held().into_iter().map(|record| record.reason).collect();
        let reason = if mood == Mood::Refuse { "400 Bad Request: it is wrong" } else { "still not wanted" };
        assert_eq!(reasons, [reason, "not wanted", "not wanted"]);
        assert!(held().iter().all(|record| !record.retry), "it waits for another order");
        assert_eq!(receiver.seen(true).len(), 1, "offered once, and none of the others");
    }
}

#[tokio::test]
async fn deliveries_go_on_while_what_is_offered_again_finds_no_answer() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let receiver = Receiver::start(Mood::Reject("not wanted")).await;
    node.forward_to(&receiver).await;
    node.push_refused(1..=3).await;
    receiver.set(Mood::TooBusyForMore);
    node.order(Vec::new()).await;
    let offered = async {
        while receiver.seen(true).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, offered).await.expect("it is offered");
    for sequence in 4..=6 {
        node.push(sequence).await.expect("there is room");
        let at = node.read(|state| state.last_delivered);
        node.until("it is delivered", |state| state.destinations[&HISTORIAN].cursor > Cursor::at(at)).await;
    }
    assert!(
        node.read(|state| state.quarantine.values().all(|record| record.retry)),
        "no answer is no refusal"
    );
    receiver.set(Mood::Accept);
    node.until("nothing is left", |state| state.quarantine.is_empty()).await;
}
