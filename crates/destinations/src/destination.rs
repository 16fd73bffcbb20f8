//! The seam: what every destination can do, and what its caller learns.
//!
//! Splitting a delivery (too large, or with a record that the far side refuses) happens *behind* the seam: how one
//! splits, and how large a request may be, is knowledge of the protocol, and the caller's loop stays the same for
//! every kind. What comes back is always a cursor.
//!
//! - `acknowledged <= taken` in every receipt. Only `acknowledged` may become a cursor of the cluster.
//! - A receipt may cover part of a delivery, or lag behind it (rows in a file that is not finished). The next
//!   delivery begins at `taken`.
//! - After an error nothing is held: the next delivery begins at the last acknowledged cursor.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use model::plant::{self, DestinationKind};
use model::{Cursor, Delivery, Fenced, Lineage, Permit, Position, SampleKey, Term, Timestamp};
use tokio::time::Instant;

use crate::csv::CsvFiles;
use crate::http::HttpEndpoint;
use crate::node::NodeFacts;

/// Somewhere records are delivered. One task owns it and calls it; no call blocks the runtime, and each ends by
/// itself (a request by its time-out, file work by a time-out of its own). Dropping a call half-way is safe.
pub trait Destination: Send {
    /// A reign begins, or a cursor was moved by something other than a receipt (replay, overrun): what is held is
    /// forgotten, and what lies at the far side beyond the cursor is removed where that is possible.
    fn begin_reign(
        &mut self,
        reign: &Reign,
        permit: &dyn Permit,
    ) -> impl Future<Output = Result<(), DeliverError>> + Send;

    /// Hands over a delivery, in as many requests as it needs, each preceded by a question to the permit.
    fn deliver(
        &mut self,
        delivery: &Delivery,
        permit: &dyn Permit,
    ) -> impl Future<Output = Result<Receipt, DeliverError>> + Send;

    /// Offers again what was refused before, the last of it at `refused`. It lies outside the order of deliveries: nothing
    /// that is held is touched, and no cursor moves.
    ///
    /// The receipt says how far it came within `delivery`, and what was refused once more. It may cover a part, because
    /// deliveries wait meanwhile; what lies beyond is offered another time. Here a refusal needs no proof that other
    /// records are accepted: nothing more is set aside by it.
    fn offer_again(
        &mut self,
        delivery: &Delivery,
        refused: Timestamp,
        permit: &dyn Permit,
    ) -> impl Future<Output = Result<Receipt, DeliverError>> + Send;

    /// When [`Destination::flush`] should be called although no delivery came; `None` while nothing is held.
    /// While something is held, no cursor may be acknowledged but by a receipt or a flush.
    fn due(&self) -> Option<Instant>;

    /// Finishes what is held. The cursor that may be acknowledged now, if anything was held.
    fn flush(
        &mut self,
        permit: &dyn Permit,
    ) -> impl Future<Output = Result<Option<Cursor>, DeliverError>> + Send;

    /// Lets go of connections and unfinished files. What was held is given up: flush first to keep it.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// One node's turn at delivering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reign {
    /// The term in which it leads.
    pub term: Term,
    /// Where the destination's cursor stands: everything before has been acknowledged.
    pub cursor: Cursor,
    /// From which position on each lineage holds, ascending; the first covers everything before it too.
    pub lineages: Vec<(Position, Lineage)>,
}

impl Reign {
    /// The lineage in force at a position, if any is known.
    pub fn lineage_at(&self, position: Position) -> Option<Lineage> {
        let after = self.lineages.partition_point(|(from, _)| *from <= position);
        self.lineages.get(after.saturating_sub(1)).map(|(_, lineage)| *lineage)
    }
}

/// How far a delivery came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Everything before this is safe at the far side, or named in a `rejected` list.
    pub acknowledged: Cursor,
    /// Where the next delivery begins. What lies between is held, and acknowledged by a later receipt.
    pub taken: Cursor,
    /// Records that the far side refused because of what they contain. They count as acknowledged.
    pub rejected: Vec<Rejected>,
}

/// A record that the far side refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Which.
    pub key: SampleKey,
    /// What the far side said, at most a few hundred characters of one line.
    pub reason: String,
}

/// Why nothing of a delivery was acknowledged: each variant is something else to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliverError {
    /// The far side is away or busy: try again after a growing pause.
    #[error("{reason}")]
    Unavailable {
        /// What happened, for people.
        reason: String,
        /// How long the far side asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// Trying again will not help until somebody changes something: raise an alarm, try again slowly.
    #[error("{reason}")]
    Misconfigured {
        /// What is wrong and where, for people.
        reason: String,
    },
    /// This node may not send any more: stop.
    #[error(transparent)]
    Fenced(#[from] Fenced),
}

impl DeliverError {
    pub(crate) fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into(), retry_after: None }
    }

    pub(crate) fn misconfigured(reason: impl Into<String>) -> Self {
        Self::Misconfigured { reason: reason.into() }
    }
}

/// Any destination that a plant document can name, or that was brought from outside.
#[derive(Debug)]
pub enum AnyDestination {
    /// Records are posted as JSON.
    Http(Box<HttpEndpoint>),
    /// Records are written to rotated files.
    Csv(Box<CsvFiles>),
    /// Records go where a simulation wants them.
    Foreign(Box<dyn Foreign>),
}

/// The end of a call of a [`Foreign`] destination.
pub type Answering<'a, T> = Pin<Box<dyn Future<Output = Result<T, DeliverError>> + Send + 'a>>;

/// A destination that is brought from outside and holds nothing back: the same promises as those of a [`Destination`].
pub trait Foreign: fmt::Debug + Send {
    /// See [`Destination::deliver`].
    fn deliver<'a>(&'a mut self, delivery: &'a Delivery, permit: &'a dyn Permit) -> Answering<'a, Receipt>;
}

/// Builds the destinations of a node.
pub trait Builder: fmt::Debug + Send + Sync + 'static {
    /// Builds what the plant describes; see [`AnyDestination::build`].
    fn build(&self, destination: &plant::Destination) -> Result<AnyDestination, DeliverError>;
}

impl Builder for NodeFacts {
    fn build(&self, destination: &plant::Destination) -> Result<AnyDestination, DeliverError> {
        AnyDestination::build(destination, self)
    }
}

impl AnyDestination {
    /// Builds what the plant describes, with what this node knows. Asks nobody and opens nothing, except that
    /// `https` without an authority of its own reads the system's certificates.
    ///
    /// The only error is [`DeliverError::Misconfigured`]: an unknown variable, an unusable URL or certificate
    /// authority on this node.
    pub fn build(destination: &plant::Destination, node: &NodeFacts) -> Result<Self, DeliverError> {
        Ok(match &destination.kind {
            DestinationKind::Http(http) => {
                Self::Http(Box::new(HttpEndpoint::build(&destination.id, http, node)?))
            }
            DestinationKind::Csv(csv) => Self::Csv(Box::new(CsvFiles::build(&destination.id, csv, node)?)),
        })
    }
}

impl Destination for AnyDestination {
    async fn begin_reign(&mut self, reign: &Reign, permit: &dyn Permit) -> Result<(), DeliverError> {
        match self {
            Self::Http(http) => http.begin_reign(reign, permit).await,
            Self::Csv(csv) => csv.begin_reign(reign, permit).await,
            Self::Foreign(_) => Ok(()),
        }
    }

    async fn deliver(&mut self, delivery: &Delivery, permit: &dyn Permit) -> Result<Receipt, DeliverError> {
        match self {
            Self::Http(http) => http.deliver(delivery, permit).await,
            Self::Csv(csv) => csv.deliver(delivery, permit).await,
            Self::Foreign(foreign) => foreign.deliver(delivery, permit).await,
        }
    }

    async fn offer_again(
        &mut self,
        delivery: &Delivery,
        refused: Timestamp,
        permit: &dyn Permit,
    ) -> Result<Receipt, DeliverError> {
        match self {
            Self::Http(http) => http.offer_again(delivery, refused, permit).await,
            Self::Csv(csv) => csv.offer_again(delivery, refused, permit).await,
            Self::Foreign(foreign) => foreign.deliver(delivery, permit).await,
        }
    }

    fn due(&self) -> Option<Instant> {
        match self {
            Self::Http(http) => http.due(),
            Self::Csv(csv) => csv.due(),
            Self::Foreign(_) => None,
        }
    }

    async fn flush(&mut self, permit: &dyn Permit) -> Result<Option<Cursor>, DeliverError> {
        match self {
            Self::Http(http) => http.flush(permit).await,
            Self::Csv(csv) => csv.flush(permit).await,
            Self::Foreign(_) => Ok(None),
        }
    }

    async fn close(&mut self) {
        match self {
            Self::Http(http) => http.close().await,
            Self::Csv(csv) => csv.close().await,
            Self::Foreign(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_has_the_lineage_that_began_last_before_it() {
        let (first, second) = (Lineage::from_random(1), Lineage::from_random(2));
        let reign = Reign {
            term: Term(3),
            cursor: Cursor::at(Position(5)),
            lineages: vec![(Position(1), first), (Position(10), second)],
        };
        assert_eq!(reign.lineage_at(Position(0)), Some(first));
        assert_eq!(reign.lineage_at(Position(9)), Some(first));
        assert_eq!(reign.lineage_at(Position(10)), Some(second));
        assert_eq!(Reign { lineages: Vec::new(), ..reign }.lineage_at(Position(1)), None);
    }
}
