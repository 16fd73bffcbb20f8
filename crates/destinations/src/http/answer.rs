//! What an answer means: a pure function of status, headers, body and what was sent.
//!
//! - 2xx accepts all, 207 all but the records it names, and 422 with a list likewise.
//! - 400 with a list refuses the request because of the records it names; without one, 400 and 422 refuse it
//!   because of a record that has to be found.
//! - 413 is too large. 408, 425, 429 and 5xx pass by themselves. Everything else (401, 403, 404, 405, redirects,
//!   other refusals, a 207 that cannot be read) needs a person.
//! - Keys that were not sent are counted and otherwise ignored.

use std::collections::HashSet;
use std::time::Duration;

use jiff::fmt::rfc2822;
use model::{Record, SampleKey};
use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, LOCATION, RETRY_AFTER};
use serde::Deserialize;

use crate::destination::{DeliverError, Rejected};

/// Characters of a reason that are kept.
const LONGEST_REASON: usize = 300;
/// A receiver that asks for more is tried after this nevertheless.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// What a receiver said of one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It took all records but those it names.
    Accepted { rejected: Vec<Rejected> },
    /// It took none because of those it names: send the others again.
    Resend { rejected: Vec<Rejected> },
    /// It took none because of the content of some record.
    Refused { reason: String },
    /// It took none because there are too many bytes.
    TooLarge { reason: String },
    /// The connection broke, or the time was up, after the request began.
    Cut(DeliverError),
    /// Something else was wrong.
    Failed(DeliverError),
}

/// An answer, and what was odd about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) answer: Answer,
    /// How many of the rejected keys were not sent.
    pub(super) unknown_keys: usize,
}

#[derive(Deserialize)]
struct RejectionList {
    rejected: Vec<NamedRecord>,
}

#[derive(Deserialize)]
struct NamedRecord {
    key: String,
    #[serde(default)]
    reason: Option<String>,
}

/// Whether the body has a say.
pub(super) fn needs_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::MULTI_STATUS | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST)
}

/// Says what an answer to a request with the records `sent` means.
pub(super) fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8], sent: &[Record]) -> Judged {
    let plain = |answer| Judged { answer, unknown_keys: 0 };
    if !needs_body(status) {
        return plain(judge_status(status, headers, body));
    }
    let Ok(list) = serde_json::from_slice::<RejectionList>(body) else {
        return plain(match status {
            StatusCode::MULTI_STATUS => Answer::Failed(DeliverError::misconfigured(format!(
                "{status} without a readable list of rejected keys: nothing is known of the records"
            ))),
            _ => Answer::Refused { reason: explain(status, body) },
        });
    };
    let (rejected, unknown_keys) = match_keys(list, status, sent);
    let answer = match status {
        StatusCode::MULTI_STATUS => Answer::Accepted { rejected },
        // It refuses and names nothing that we sent: as good as no list.
        _ if rejected.is_empty() => Answer::Refused { reason: explain(status, body) },
        StatusCode::UNPROCESSABLE_ENTITY => Answer::Accepted { rejected },
        _ => Answer::Resend { rejected },
    };
    Judged { answer, unknown_keys }
}

fn judge_status(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Answer {
    match status {
        status if status.is_success() || runtime::mutant("any-answer-is-taken-for-yes") => {
            Answer::Accepted { rejected: Vec::new() }
        }
        StatusCode::PAYLOAD_TOO_LARGE => Answer::TooLarge { reason: explain(status, body) },
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Answer::Failed(busy(status, headers, body))
        }
        status if status.is_server_error() => Answer::Failed(busy(status, headers, body)),
        status if status.is_redirection() => {
            let to = headers.get(LOCATION).and_then(|location| location.to_str().ok()).unwrap_or("nowhere");
            let reason = one_line(&format!("{status} to {to}: redirects are not followed, correct the URL"));
            Answer::Failed(DeliverError::misconfigured(reason))
        }
        status => Answer::Failed(DeliverError::misconfigured(explain(status, body))),
    }
}

fn match_keys(list: RejectionList, status: StatusCode, sent: &[Record]) -> (Vec<Rejected>, usize) {
    let mut open: HashSet<SampleKey> = sent.iter().map(Record::key).collect();
    let named = list.rejected.len();
    let rejected: Vec<_> = list
        .rejected
        .into_iter()
        .filter_map(|record| {
            let key = record.key.parse().ok().filter(|key| open.remove(key))?;
            let reason = record.reason.map_or_else(|| status.to_string(), |reason| one_line(&reason));
            Some(Rejected { key, reason })
        })
        .collect();
    let unknown = named - rejected.len();
    (rejected, unknown)
}

fn busy(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> DeliverError {
    DeliverError::Unavailable { reason: explain(status, body), retry_after: retry_after(headers) }
}

/// RFC 9110 §10.2.3: seconds, or a date. A date is compared with that of the answer itself, so that neither our
/// clock nor the receiver's need be right.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = rfc2822::parse(text).ok()?.timestamp();
            let now = rfc2822::parse(headers.get(DATE)?.to_str().ok()?).ok()?.timestamp();
            Duration::try_from(until.duration_since(now)).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

/// The status and the beginning of what was said with it.
fn explain(status: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * LONGEST_REASON)]);
    match text.trim() {
        "" => status.to_string(),
        text => one_line(&format!("{status}: {text}")),
    }
}

fn one_line(text: &str) -> String {
    text.chars().take(LONGEST_REASON).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::record::{SampleRecord, TagFacts};
    use model::{Lineage, Ordinal, Position, Reading, StatusCode as Quality, Term, Timestamp};
    use reqwest::header::HeaderValue;

    use super::*;

    fn key(ordinal: u32) -> SampleKey {
        SampleKey { lineage: Lineage::from_random(0), position: Position(1), ordinal: Ordinal(ordinal) }
    }

    fn sent() -> Vec<Record> {
        let sample = |ordinal| {
            Record::Sample(SampleRecord {
                key: key(ordinal),
                tag: Arc::new(TagFacts::default()),
                reading: Reading::Bad(Quality::BAD),
                source_time: Timestamp(0),
                gateway_time: Timestamp(0),
                slot: None,
                node: "gateway-a".into(),
                term: Term(1),
            })
        };
        (0..4).map(sample).collect()
    }

    fn answer(status: u16, body: &str) -> Judged {
        let status = StatusCode::from_u16(status).expect("a status");
        judge(status, &HeaderMap::new(), body.as_bytes(), &sent())
    }

    #[test]
    fn every_success_accepts_everything_whatever_its_body_says() {
        for status in [200, 201, 202, 204] {
            assert_eq!(
                answer(status, "<html>").answer,
                Answer::Accepted { rejected: Vec::new() },
                "{status}"
            );
        }
    }

    #[test]
    fn a_list_rejects_what_it_names_and_nothing_else() {
        let body = r#"{"rejected":[{"key":"00000000/1/2","reason":"no such\ntag"},{"key":"00000000/1/2"},
                       {"key":"00000000/9/9"},{"key":"rubbish","reason":"?"}]}"#;
        for status in [207, 422] {
            let judged = answer(status, body);
            let rejected = vec![Rejected { key: key(2), reason: "no such tag".into() }];
            assert_eq!(judged, Judged { answer: Answer::Accepted { rejected }, unknown_keys: 3 }, "{status}");
        }
        assert!(matches!(answer(400, body).answer, Answer::Resend { rejected } if rejected.len() == 1));
    }

    #[test]
    fn a_refusal_that_names_nothing_we_sent_is_a_refusal_without_a_list() {
        for body in ["", "<html>", "[]", r#"{"rejected":[]}"#, r#"{"rejected":[{"key":"00000000/9/9"}]}"#] {
            assert!(matches!(answer(422, body).answer, Answer::Refused { .. }), "422 {body}");
            assert!(matches!(answer(400, body).answer, Answer::Refused { .. }), "400 {body}");
        }
    }

    #[test]
    fn a_multi_status_that_cannot_be_read_accepts_nothing() {
        assert!(matches!(answer(207, "<html>").answer, Answer::Failed(DeliverError::Misconfigured { .. })));
        assert_eq!(answer(207, r#"{"rejected":[]}"#).answer, Answer::Accepted { rejected: Vec::new() });
    }

    #[test]
    fn what_passes_by_itself_is_retried_and_what_needs_a_person_stalls() {
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert!(
                matches!(answer(status, "").answer, Answer::Failed(DeliverError::Unavailable { .. })),
                "{status}"
            );
        }
        for status in [301, 302, 307, 308, 401, 402, 403, 404, 405, 409, 410, 415] {
            assert!(
                matches!(answer(status, "").answer, Answer::Failed(DeliverError::Misconfigured { .. })),
                "{status}"
            );
        }
        assert!(matches!(answer(413, "").answer, Answer::TooLarge { .. }));
    }

    #[test]
    fn a_wish_to_wait_is_read_as_seconds_or_date_and_bounded() {
        let wait = |retry: &'static str, date: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(retry));
            if let Some(date) = date {
                headers.insert(DATE, HeaderValue::from_static(date));
            }
            retry_after(&headers)
        };
        assert_eq!(wait("7", None), Some(Duration::from_secs(7)));
        assert_eq!(wait("86400", None), Some(LONGEST_WAIT));
        let (early, late) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:50:07 GMT");
        assert_eq!(wait(late, Some(early)), Some(Duration::from_secs(30)));
        assert_eq!(wait(early, Some(late)), Some(Duration::ZERO));
        assert_eq!(wait(late, None), None);
        assert_eq!(wait("soon", Some(early)), None);
    }

    #[test]
    fn a_reason_is_short_and_one_line() {
        let Answer::Refused { reason } = answer(400, &"a\n".repeat(5_000)).answer else {
            panic!("expected a refusal");
        };
        assert!(reason.starts_with("400 Bad Request: a a a"), "{reason}");
        assert!(reason.len() <= LONGEST_REASON);
    }
}
