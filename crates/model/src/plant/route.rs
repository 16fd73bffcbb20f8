//! Routes: which tags a destination is sent.

use serde::{Deserialize, Serialize};

/// A list of tag patterns; a tag is sent if some pattern takes it and no `!` pattern refuses it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Route {
    /// The patterns as they were written, `hall-2/**` or `!**/debug/**`.
    pub tags: Vec<String>,
}
