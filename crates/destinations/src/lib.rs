//! Hand a delivery to the far side and report its answer.
//!
//! - [`Destination`]: the seam. A caller owns one, tells it when a reign begins, hands it deliveries and learns how
//!   far they are safe ([`Receipt`]) or what to do instead ([`DeliverError`]).
//! - [`AnyDestination`]: what a plant document can name, built from it: HTTP and CSV files. A [`Builder`] builds them; that of
//!   a simulation brings a [`Foreign`] one.
//! - [`json`]: the record as text, the same on every destination and in quarantine.
//! - [`pause_after`]: how long to wait before the next attempt.
//!
//! This crate knows nothing of agreement: it asks a [`model::Permit`] before each request and each file that
//! becomes visible, and keeps nothing across restarts. Cursors, quarantine, alarms and retry loops are the caller's;
//! so is isolation, one task for each destination. Nothing here blocks the runtime.

mod blocking;
mod csv;
mod destination;
mod http;
pub mod json;
mod node;
mod retry;
mod text;

pub use crate::csv::{CsvFiles, Marker, MarkerReader};
pub use destination::{
    Answering, AnyDestination, Builder, DeliverError, Destination, Foreign, Receipt, Reign, Rejected,
};
pub use http::HttpEndpoint;
pub use node::NodeFacts;
pub use retry::pause_after;
