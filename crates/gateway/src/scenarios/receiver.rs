//! Receivers in this process, and what is delivered to them.

use std::sync::Mutex;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use model::plant::DestinationKind;
use model::plant::route::Route;
use serde_json::Value as Json;
use tokio::sync::watch;

use super::*;
use crate::forwarding::{self, ForwardingParts};

/// What a receiver thinks of samples; it takes gaps and openings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Accept,
    /// 422, and names them.
    Reject(&'static str),
    /// 400, and names none.
    Refuse,
    /// It takes deliveries, and answers 503 to what is offered again.
    TooBusyForMore,
    /// It answers nothing at all.
    Hang,
}

/// A request that was answered.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) idempotency_key: String,
    pub(super) body: Json,
}

#[derive(Clone)]
pub(super) struct Receiver {
    url: String,
    mood: Arc<Mutex<Mood>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Requests, answered or not.
    asked: Arc<watch::Sender<u64>>,
}

impl Receiver {
    #[allow(clippy::disallowed_methods, reason = "it ends with the test")]
    pub(super) async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/ingest", listener.local_addr().expect("bound"));
        let (mood, asked) = (Arc::new(Mutex::new(mood)), Arc::new(watch::Sender::new(0)));
        let receiver = Self { url, mood, seen: Arc::default(), asked };
        let router = Router::new().fallback(receive).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    pub(super) fn set(&self, mood: Mood) {
        *self.mood.lock().expect("no test panics here") = mood;
    }

    /// Requests with samples, those of deliveries or those that were offered again.
    pub(super) fn seen(&self, retried: bool) -> Vec<Seen> {
        let seen = self.seen.lock().expect("no test panics here");
        let is_wanted = |seen: &&Seen| (seen.body["retried"] == true) == retried && !samples(seen).is_empty();
        seen.iter().filter(is_wanted).cloned().collect()
    }

    /// Waits until it was asked so often.
    pub(super) async fn until_asked(&self, times: u64) {
        let mut asked = self.asked.subscribe();
        let reached = timeout(SOON, asked.wait_for(|asked| *asked >= times)).await;
        reached.expect("it is asked").expect("the receiver runs");
    }
}

pub(super) fn samples(seen: &Seen) -> Vec<Json> {
    seen.body["samples"].as_array().expect("a list").clone()
}

async fn receive(Shared(receiver): Shared<Receiver>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Json = serde_json::from_slice(&body).expect("a request is JSON");
    let samples = body["samples"].as_array().expect("a list");
    let mood = *receiver.mood.lock().expect("no test panics here");
    receiver.asked.send_modify(|asked| *asked += 1);
    let (status, text) = match mood {
        Mood::Hang => std::future::pending().await,
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

/// The plant with a destination of its tags for each of these, in their order.
pub(super) fn delivering_to(receivers: &[&Receiver]) -> Plant {
    let mut plant = plant(64 * MIB, WhenFull::Refuse);
    let template = plant.destinations.remove(0);
    plant.destinations = (1..)
        .zip(receivers)
        .map(|(number, receiver)| {
            let mut destination = template.clone();
            let DestinationKind::Http(http) = &mut destination.kind else { panic!("it is HTTP") };
            http.url = receiver.url.as_str().into();
            destination.id = format!("receiver-{number}");
            destination.routes = vec![Route { tags: vec!["press/**".to_owned()] }];
            destination
        })
        .collect();
    plant
}

impl Node {
    /// Starts to deliver, and to say how destinations do; `facts` say what the plant document leaves open.
    pub(super) fn forward(&self, facts: NodeFacts) -> Live {
        let live = Live::default();
        let parts = ForwardingParts {
            replica: self.replica.clone(),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            live: live.clone(),
            cluster: facts.cluster.as_str().into(),
            destinations: Arc::new(facts),
            random: generator(Some(7)),
            spawner: self.spawner.clone(),
        };
        let stop = self.spawner.token().clone();
        self.spawner.spawn("forwarding", forwarding::run(parts, self.leads(), stop));
        live
    }
}
