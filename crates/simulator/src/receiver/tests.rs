//! A receiver as its clients see it, over real connections.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

async fn start(mode: Mode) -> Receiver {
    Receiver::start("127.0.0.1:0".parse().expect("an address"), mode).await.expect("a free port")
}

fn body(samples: &[(u64, u32, &str, f64)]) -> String {
    let samples: Vec<_> = samples
        .iter()
        .map(|(position, ordinal, tag, value)| {
            format!(
                "{{\"key\":\"00000000/{position}/{ordinal}\",\"tag\":\"{tag}\",\"value\":{value},\"quality\":\"good\"}}"
            )
        })
        .collect();
    format!("{{\"historical\":true,\"samples\":[{}],\"gaps\":[]}}", samples.join(","))
}

/// Posts over a connection of its own; the whole answer.
async fn post(receiver: &Receiver, body: &str, headers: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(receiver.address()).await?;
    let head = format!(
        "POST /ingest HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn status(receiver: &Receiver, body: &str) -> u16 {
    let answer = post(receiver, body, "").await.expect("an answer");
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line")
}

#[tokio::test]
async fn counting_tells_new_keys_from_repeated_and_late_ones() {
    let receiver = start(Mode::Counting).await;
    assert_eq!(status(&receiver, &body(&[(1, 0, "a", 1.0), (1, 1, "b", 1.0), (3, 0, "a", 2.0)])).await, 200);
    assert_eq!(status(&receiver, &body(&[(1, 1, "b", 1.0), (2, 0, "a", 3.0), (4, 0, "a", 4.0)])).await, 200);
    let gaps = r#"{"samples":[],"gaps":[{"key":"00000000/4/2147483648","slots":"3"}]}"#;
    assert_eq!(status(&receiver, gaps).await, 200);
    let expected =
        Counts { requests: 3, samples: 5, duplicates: 1, out_of_order: 1, gaps: 1, ..Counts::default() };
    assert_eq!(receiver.counts(), expected);
}

#[tokio::test]
async fn counting_samples_writes_down_what_is_worth_a_look() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("receiver.jsonl");
    let history = History::create(&path).expect("a new file");
    let receiver = start(Mode::CountingSamples(history.clone(), "historian".into(), "/reads")).await;
    assert_eq!(status(&receiver, &body(&[(1, 0, "a", 1.0), (1, 1, "b", 1.0)])).await, 200);
    let looked_at = r#"{"samples":[{"key":"00000000/2/0","tag":"a/reads","value":7,"quality":"good"},
        {"key":"00000000/2/1","tag":"b","value":null,"quality":"bad"}]}"#;
    assert_eq!(status(&receiver, looked_at).await, 200);
    let others = r#"{"samples":[],"gaps":[{"key":"00000000/4/2147483648","first_slot":"3","cause":"late"}],
        "openings":[{"key":"00000000/4/2147483649","period":"0.100s"}],
        "expiries":[{"key":"00000000/4/2147483650","samples":"7"}]}"#;
    for _ in 0..2 {
        assert_eq!(status(&receiver, others).await, 200);
    }
    let expected = Counts {
        requests: 4,
        samples: 4,
        duplicates: 3,
        gaps: 1,
        openings: 1,
        expiries: 1,
        ..Counts::default()
    };
    assert_eq!(receiver.counts(), expected);
    history.flush().expect("written");
    let lines = crate::history::read::<Received<serde_json::Value>>(&path).expect("a history");
    let told: Vec<_> = lines.iter().map(|line| (line.op.as_str(), line.details.is_new)).collect();
    let kinds = ["gap", "opening", "expiry"];
    let others = [true, false].map(|is_new| kinds.map(|kind| (kind, is_new))).concat();
    assert_eq!(told, [vec![("sample", true); 2], others].concat());
    assert_eq!(lines[0].details.record["value"], 7);
    assert_eq!(lines[2].details.record["cause"], "late");
}

#[tokio::test]
async fn recording_compares_bytes_and_watches_each_tag() {
    let receiver = start(Mode::Recording(None)).await;
    assert_eq!(status(&receiver, &body(&[(1, 0, "a", 1.0), (3, 0, "a", 2.0), (2, 0, "b", 3.0)])).await, 200);
    assert_eq!(receiver.counts().out_of_order, 0, "tags are independent");
    assert_eq!(status(&receiver, &body(&[(1, 0, "a", 1.0), (3, 0, "a", 9.0), (2, 1, "a", 0.5)])).await, 200);
    let expected =
        Counts { requests: 2, samples: 4, duplicates: 2, conflicts: 1, out_of_order: 1, ..Counts::default() };
    assert_eq!(receiver.counts(), expected);
}

#[tokio::test]
async fn a_recording_writes_each_record_as_it_came() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("receiver.jsonl");
    let history = History::create(&path).expect("a new file");
    let receiver = start(Mode::Recording(Some((history.clone(), "historian".into())))).await;
    for _ in 0..2 {
        assert_eq!(status(&receiver, &body(&[(1, 0, "a", 1.5)])).await, 200);
    }
    history.flush().expect("written");
    let lines = crate::history::read::<Received<serde_json::Value>>(&path).expect("a history");
    let told: Vec<_> = lines.iter().map(|line| (line.op.as_str(), line.details.is_new)).collect();
    assert_eq!(told, [("sample", true), ("sample", false)]);
    assert_eq!(lines[0].details.record["value"], 1.5);
    assert!(lines[0].details.historical && lines[0].process == "historian");
}

#[tokio::test]
async fn it_misbehaves_as_it_is_told() {
    let receiver = start(Mode::Counting).await;
    let request = body(&[(1, 0, "good", 1.0), (1, 1, "bad", 1.0)]);
    receiver.set_reply(Reply::Refuse { status: 503, retry_after: Some(7) });
    let answer = post(&receiver, &request, "").await.expect("an answer");
    assert!(answer.contains(" 503 ") && answer.contains("retry-after: 7"), "{answer}");
    receiver.set_reply(Reply::TooLargeAbove(10));
    assert_eq!(status(&receiver, &request).await, 413);
    receiver.set_reply(Reply::RefuseTag("bad".into()));
    assert_eq!(status(&receiver, &request).await, 400);
    assert_eq!(receiver.counts(), Counts::default(), "nothing of all this was taken");

    receiver.set_reply(Reply::RejectTag("bad".into()));
    let answer = post(&receiver, &request, "").await.expect("an answer");
    assert!(answer.contains(" 422 ") && answer.contains("00000000/1/1") && !answer.contains("00000000/1/0"));
    assert_eq!(receiver.counts().samples, 1);

    receiver.set_reply(Reply::LoseAnswer);
    assert_eq!(status(&receiver, &request).await, 504);
    assert_eq!((receiver.counts().samples, receiver.counts().duplicates), (2, 1), "it was kept all the same");

    receiver.set_reply(Reply::Accept);
    receiver.demand_token(Some("s3cret"));
    assert_eq!(status(&receiver, &request).await, 401);
    let answer = post(&receiver, &request, "authorization: Bearer s3cret\r\n").await.expect("an answer");
    assert!(answer.contains(" 200 "), "{answer}");
}

#[tokio::test]
async fn an_answer_can_be_late_be_lost_with_its_connection_or_be_no_answer() {
    let receiver = start(Mode::Counting).await;
    let request = |position| body(&[(position, 0, "a", 1.0)]);
    let began = tokio::time::Instant::now();
    receiver.set_reply(Reply::Late(Duration::from_millis(30)));
    assert_eq!(status(&receiver, &request(1)).await, 200);
    assert!(began.elapsed() >= Duration::from_millis(30));

    receiver.set_reply(Reply::Die);
    let answer = post(&receiver, &request(2), "").await.unwrap_or_default();
    assert_eq!(answer, "", "the connection ends");
    assert_eq!((receiver.counts().samples, receiver.highest()), (2, 2), "it was kept all the same");

    receiver.set_reply(Reply::Rubbish);
    // What is no text is no HTTP either.
    let answer = post(&receiver, &request(3), "").await.unwrap_or_default();
    assert!(!answer.contains("HTTP"), "{answer}");
    assert_eq!(receiver.counts().samples, 2);
    assert_eq!(receiver.spoilt(), 3);

    receiver.set_reply(Reply::Accept);
    assert_eq!(status(&receiver, &request(3)).await, 200);
    assert_eq!((receiver.spoilt(), receiver.highest()), (3, 3));
}

#[tokio::test]
async fn what_is_refused_for_what_it_holds_has_a_line_and_may_come_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("receiver.jsonl");
    let history = History::create(&path).expect("a new file");
    let receiver = start(Mode::Recording(Some((history.clone(), "historian".into())))).await;
    receiver.set_reply(Reply::Refuse { status: 400, retry_after: None });
    let (two, alone) = (body(&[(1, 0, "a", 1.0), (1, 1, "b", 1.0)]), body(&[(1, 0, "a", 1.0)]));
    for request in [&two, &alone] {
        assert_eq!(status(&receiver, request).await, 400);
    }
    receiver.set_reply(Reply::Refuse { status: 503, retry_after: None });
    assert_eq!(status(&receiver, &alone).await, 503);
    receiver.set_reply(Reply::RejectTag("b".into()));
    assert_eq!(status(&receiver, &body(&[(1, 1, "b", 1.0), (2, 0, "a", 1.0)])).await, 422);
    receiver.set_reply(Reply::Accept);
    for (late, out_of_order) in [((1, 0, "a", 1.0), 0), ((1, 5, "a", 1.0), 1)] {
        assert_eq!(status(&receiver, &body(&[late])).await, 200);
        assert_eq!(receiver.counts().out_of_order, out_of_order, "{late:?}");
    }
    history.flush().expect("written");
    let lines = crate::history::read::<serde_json::Value>(&path).expect("a history");
    let refused = lines.iter().filter(|line| line.op == "refused").map(|line| &line.details["key"]);
    assert_eq!(refused.collect::<Vec<_>>(), ["00000000/1/0", "00000000/1/1"]);
}

#[tokio::test]
async fn rubbish_is_refused_and_not_counted() {
    for mode in [Mode::Counting, Mode::Recording(None)] {
        let receiver = start(mode).await;
        assert_eq!(status(&receiver, "{\"samples\":[{\"key\":\"nonsense\"}]}").await, 400);
        assert_eq!(receiver.counts(), Counts::default());
    }
}

#[tokio::test]
async fn going_down_ends_every_connection_and_coming_up_keeps_the_address() {
    let mut receiver = start(Mode::Counting).await;
    let address = receiver.address();
    receiver.set_reply(Reply::Hang);
    let request = body(&[(1, 0, "a", 1.0)]);
    let mut hung = TcpStream::connect(address).await.expect("it is up");
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{request}", request.len());
    hung.write_all(head.as_bytes()).await.expect("sent");
    receiver.go_down().await;
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(LIMIT, hung.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection has ended");
    assert!(rest.is_empty(), "it was not answered");
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
    receiver.set_reply(Reply::Accept);
    receiver.come_up().await.expect("the address is free");
    assert_eq!(receiver.address(), address);
    assert_eq!(status(&receiver, &request).await, 200);
}

#[tokio::test]
async fn waiting_ends_when_the_counts_are_reached_or_the_time_is_up() {
    let receiver = Arc::new(start(Mode::Counting).await);
    let waiting = tokio::spawn({
        let receiver = Arc::clone(&receiver);
        async move { receiver.wait_for(LIMIT, |counts| counts.samples == 1).await }
    });
    assert_eq!(status(&receiver, &body(&[(1, 0, "a", 1.0)])).await, 200);
    assert_eq!(waiting.await.expect("no panic").map(|counts| counts.samples), Ok(1));
    let late = receiver.wait_for(Duration::from_millis(1), |counts| counts.samples == 2).await;
    assert_eq!(late.map_err(|counts| counts.samples), Err(1));
}
