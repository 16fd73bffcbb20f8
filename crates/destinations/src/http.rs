//! The HTTP destination: records posted as JSON, one request at a time, in order.
//!
//! - The permit is asked before every request; redirects are not followed; proxies named by the environment are
//!   not used, because only the plant document decides where data goes.
//! - A delivery is cut into requests by records and bytes. Too large an answer halves, and the smaller size is
//!   remembered; a refusal without a list is bisected until the refused record stands alone.
//! - Requests of a delivery that were accepted count even if a later one fails: the receipt then covers the part.
//! - Only a *content* error leads to quarantine, and without a list only if the receiver takes other records: one
//!   that refuses everything is not looking at the content.

mod answer;
mod client;
mod progress;
mod request;
mod token;

use std::time::Duration;

use model::plant::Http;
use model::{Cursor, Delivery, Permit, Timestamp};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::time::Instant;

use crate::destination::{DeliverError, Destination, Receipt, Reign};
use crate::node::NodeFacts;
use answer::Answer;
use progress::{MOST_TRUST, Progress};
use request::{Request, RequestSize};
use token::Token;

/// A record this long that is too large alone has itself to blame; a shorter one has met a wrong limit.
const LARGE_RECORD: usize = 64 << 10;
/// Bytes of an answer that are read: ten thousand refused keys with their reasons.
const LONGEST_ANSWER: usize = 4 << 20;
/// Records that are offered again in one request, and for how long another such request follows: deliveries wait.
const AGAIN_AT_ONCE: usize = 32;
const AGAIN_FOR: Duration = Duration::from_millis(250);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A receiver of records over HTTP.
#[derive(Debug)]
pub struct HttpEndpoint {
    id: String,
    client: Client,
    url: Url,
    timeout: Duration,
    token: Option<Token>,
    size: RequestSize,
    /// Records that may be refused one by one on the credit of records accepted earlier in this reign.
    trust: usize,
}

impl HttpEndpoint {
    pub(crate) fn build(id: &str, http: &Http, node: &NodeFacts) -> Result<Self, DeliverError> {
        let text = node.fill_in(&http.url)?;
        let url: Url = text
            .parse()
            .map_err(|error| DeliverError::misconfigured(format!("{text:?} is not a URL: {error}")))?;
        Ok(Self {
            id: id.to_owned(),
            client: client::build(&url, http)?,
            url,
            timeout: http.timeout,
            token: http.token.as_ref().map(|secret| Token::new(secret.clone(), node.clone())),
            size: RequestSize::new(http.max_records as usize),
            trust: 0,
        })
    }

    /// Posts a request and judges the answer. A refused token is read anew and tried once more if it has changed.
    async fn post(
        &mut self,
        delivery: &Delivery,
        request: &Request,
        permit: &dyn Permit,
    ) -> Result<Answer, DeliverError> {
        let mut authorization = match &mut self.token {
            Some(token) => Some(token.current().await?),
            None => None,
        };
        loop {
            permit.check()?;
            let response = match self.send(request, authorization.as_ref()).await {
                Ok(response) => response,
                Err(error) => return Ok(client::fault(&error, self.timeout)),
            };
            if response.status() == StatusCode::UNAUTHORIZED
                && let Some(token) = &mut self.token
            {
                let renewed = Some(token.renewed().await?);
                if renewed != authorization {
                    authorization = renewed;
                    continue;
                }
            }
            return Ok(self.judge(response, delivery, request).await);
        }
    }

    async fn send(
        &self,
        request: &Request,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, reqwest::Error> {
        let mut builder = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(IDEMPOTENCY_KEY, &request.idempotency_key)
            .body(request.body.clone());
        if let Some(authorization) = authorization {
            builder = builder.header(AUTHORIZATION, authorization);
        }
        builder.send().await
    }

    async fn judge(&self, mut response: Response, delivery: &Delivery, request: &Request) -> Answer {
        let status = response.status();
        let headers = response.headers().clone();
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= LONGEST_ANSWER => {
                    body.extend_from_slice(&chunk)
                }
                // Cut off here, it cannot be a list that we would understand.
                Ok(Some(_)) => {
                    body.clear();
                    break;
                }
                Ok(None) => break,
                // The status alone settles it where the body says nothing more.
                Err(_) if !answer::needs_body(status) => break,
                Err(error) => return client::fault(&error, self.timeout),
            }
        }
        let judged = answer::judge(status, &headers, &body, &delivery.records[request.records.clone()]);
        if judged.unknown_keys > 0 {
            tracing::warn!(
                destination = self.id,
                unknown_keys = judged.unknown_keys,
                "the receiver rejected keys that it was not sent; they are ignored"
            );
        }
        judged.answer
    }

    /// Posts what is pending, request after request. `refused` is when the records were refused, if they were.
    async fn post_all(
        &mut self,
        delivery: &Delivery,
        mut progress: Progress,
        refused: Option<Timestamp>,
        permit: &dyn Permit,
    ) -> Result<Receipt, DeliverError> {
        while let Some(range) = progress.next(self.size.records()) {
            let request = Request::encode(delivery, range.clone(), refused);
            // What did not fit comes next, and is not lost if this request fails.
            progress.put_back(request.records.end..range.end);
            let outcome = match self.post(delivery, &request, permit).await {
                Ok(answer) => self.take_in(&mut progress, delivery, &request, answer),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => {}
                Err(DeliverError::Fenced(fenced)) => return Err(fenced.into()),
                Err(error) => {
                    progress.put_back(request.records);
                    let (receipt, spent) = progress.part(delivery, self.trust).ok_or(error)?;
                    self.trust -= spent;
                    return Ok(receipt);
                }
            }
        }
        self.trust = self.trust.saturating_sub(progress.spent_trust());
        Ok(progress.finish(delivery))
    }

    /// Lets `progress` take in what was said of `request`, or gives the error that ends the delivery.
    fn take_in(
        &mut self,
        progress: &mut Progress,
        delivery: &Delivery,
        request: &Request,
        answer: Answer,
    ) -> Result<(), DeliverError> {
        let records = request.records.clone();
        match answer {
            Answer::Accepted { rejected } => {
                let accepted = records.len().saturating_sub(rejected.len());
                self.trust = self.trust.saturating_add(accepted).min(MOST_TRUST);
                self.size.grow();
                progress.accepted(records, rejected);
            }
            Answer::Resend { rejected } => progress.resend_without(delivery, records, rejected),
            Answer::Refused { reason } if records.len() == 1 => {
                progress.refused(delivery.records[records.start].key(), reason);
                progress.check_receiver(self.trust)?;
            }
            Answer::Refused { .. } => progress.split(records),
            Answer::TooLarge { reason } if records.len() == 1 => {
                let bytes = request.body.len();
                if bytes < LARGE_RECORD {
                    return Err(DeliverError::misconfigured(format!(
                        "{reason} for a single record of {bytes} bytes: raise the receiver's limit"
                    )));
                }
                progress.too_large(delivery.records[records.start].key(), reason);
            }
            Answer::TooLarge { .. } => {
                self.size.shrink(records.len());
                progress.split(records);
            }
            Answer::Cut(error) => {
                // It may have found the request too large, or the line too slow for it.
                self.size.shrink(records.len());
                return Err(error);
            }
            Answer::Failed(error) => return Err(error),
        }
        Ok(())
    }
}

impl Destination for HttpEndpoint {
    async fn begin_reign(&mut self, _reign: &Reign, _permit: &dyn Permit) -> Result<(), DeliverError> {
        // What is too large for the line or the receiver stays so: the size that was found is kept.
        self.trust = 0;
        Ok(())
    }

    async fn deliver(&mut self, delivery: &Delivery, permit: &dyn Permit) -> Result<Receipt, DeliverError> {
        self.post_all(delivery, Progress::new(delivery.records.len()), None, permit).await
    }

    async fn offer_again(
        &mut self,
        delivery: &Delivery,
        refused: Timestamp,
        permit: &dyn Permit,
    ) -> Result<Receipt, DeliverError> {
        let began = Instant::now();
        let mut settled =
            Receipt { acknowledged: delivery.after, taken: delivery.after, rejected: Vec::new() };
        for records in delivery.records.chunks(AGAIN_AT_ONCE) {
            let upto = records[records.len() - 1].key().behind();
            let part =
                Delivery { after: settled.acknowledged, upto, records: records.to_vec(), ..delivery.clone() };
            let posted = self.post_all(&part, Progress::again(records.len()), Some(refused), permit).await;
            let is_first = settled.acknowledged == delivery.after;
            match posted {
                Ok(more) => {
                    (settled.acknowledged, settled.taken) = (more.acknowledged, more.taken);
                    settled.rejected.extend(more.rejected);
                }
                Err(DeliverError::Fenced(fenced)) => return Err(fenced.into()),
                Err(error) if is_first => return Err(error),
                // What was settled counts. The rest is offered another time, and comes first.
                Err(_) => break,
            }
            if settled.acknowledged < upto || began.elapsed() >= AGAIN_FOR {
                break;
            }
        }
        if delivery.records.last().is_some_and(|last| settled.acknowledged == last.key().behind()) {
            (settled.acknowledged, settled.taken) = (delivery.upto, delivery.upto);
        }
        Ok(settled)
    }

    fn due(&self) -> Option<Instant> {
        None
    }

    async fn flush(&mut self, _permit: &dyn Permit) -> Result<Option<Cursor>, DeliverError> {
        Ok(None)
    }

    async fn close(&mut self) {}
}
