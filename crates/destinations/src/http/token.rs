//! The bearer token: read where the plant says it lies, and read again when it may have changed.
//!
//! - It is marked as sensitive and appears in no log, error or `Debug`.
//! - A file is looked at again after a second, and at once when the receiver answers 401.

use std::fmt;
use std::time::Duration;

use model::plant::Secret;
use reqwest::header::HeaderValue;
use tokio::time::Instant;

use crate::blocking::Blocking;
use crate::destination::DeliverError;
use crate::node::NodeFacts;

/// How long a token counts as unchanged without looking.
const FRESH: Duration = Duration::from_secs(1);
/// A file that cannot be read in this time lies on a dead file system.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Token {
    secret: Secret,
    node: NodeFacts,
    blocking: Blocking,
    read: Option<(HeaderValue, Instant)>,
}

impl Token {
    pub(super) fn new(secret: Secret, node: NodeFacts) -> Self {
        Self { secret, node, blocking: Blocking::new(READ_TIMEOUT), read: None }
    }

    /// The value of the `Authorization` header.
    pub(super) async fn current(&mut self) -> Result<HeaderValue, DeliverError> {
        match &self.read {
            Some((value, at)) if at.elapsed() < FRESH => Ok(value.clone()),
            _ => self.renewed().await,
        }
    }

    /// The value of the `Authorization` header, read this moment.
    pub(super) async fn renewed(&mut self) -> Result<HeaderValue, DeliverError> {
        let (secret, node) = (self.secret.clone(), self.node.clone());
        let token = self.blocking.run(move || node.read_secret(&secret)).await?;
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| DeliverError::misconfigured("the token holds characters that no header may hold"))?;
        value.set_sensitive(true);
        self.read = Some((value.clone(), Instant::now()));
        Ok(value)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("secret", &self.secret).finish_non_exhaustive()
    }
}
