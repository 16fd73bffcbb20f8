//! Turn field protocols into readings.
//!
//! - [`Driver`]: one handle per device; [`Driver::scan`] reads one poll group once and gives exactly one reading
//!   per tag, or says why there is none ([`ScanError`]).
//! - Under whatever protocol library wrote them, bytes leave only through a stream that asks the [`model::Permit`].
//! - [`modbus`]: Modbus TCP.
//!
//! Not here: when a group is read, what a slot is, who leads, what happens with a reading.

mod backoff;
mod driver;
mod fenced;
pub mod modbus;

pub use driver::{Driver, GroupIndex, Scan, ScanError, Silence};
