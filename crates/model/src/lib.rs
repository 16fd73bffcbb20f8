//! What things are: the words of Holdfast, valid by construction.
//!
//! This crate performs no I/O and knows no wire format, no database and no network library. Everything
//! above it speaks in these types.
//!
//! - [`ids`], [`position`], [`time`]: names and coordinates. A *position* is a Raft log index, always.
//! - [`value`], [`reading`], [`batch`]: what a device said, how good it is, and how it travels.
//! - [`slots`], [`gap`]: the grid that schedules reads, and what is said of the slots without one.
//! - [`command`]: the closed set of changes that a cluster can agree on; [`alarm`]: what can be wrong.
//! - [`record`]: what a destination is handed; [`system`]: the tags that the cluster itself writes.
//! - [`plant`]: the plant document, its validation and its canonical form.
//! - [`permit`]: the question that must be asked before anything leaves this node.

pub mod alarm;
pub mod batch;
pub mod catalog;
pub mod command;
pub mod gap;
pub mod ids;
pub mod member;
pub mod permit;
pub mod plant;
pub mod position;
pub mod reading;
pub mod record;
pub mod slots;
pub mod system;
pub mod time;
pub mod value;

pub use alarm::AlarmKind;
pub use batch::{Batch, Sample, Source};
pub use catalog::Catalog;
pub use command::Command;
pub use gap::Cause;
pub use ids::{
    BootId, ClusterId, DestinationId, DeviceId, GridId, GroupId, Lineage, NodeId, Revision, SessionId,
    StoreId, TagId, Term,
};
pub use member::{Member, Role};
pub use permit::{Fenced, Permit};
pub use position::{Cursor, Ordinal, Position, SampleKey};
pub use reading::{Quality, Reading, StatusCode};
pub use record::{Delivery, Record};
pub use system::{SYSTEM_SESSION, SystemTag};
pub use time::{Clock, Timestamp};
pub use value::{Value, ValueType};
