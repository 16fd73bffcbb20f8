//! Run one node: assembly, acquisition, forwarding, retention, admin, health, supervision.
//!
//! - [`config`]: the node file.
//! - [`node`]: from a node file to a running node, and back to nothing in order.
//! - [`security`]: who is talked to, and how; `roles`: which role may call what.
//! - [`Duties`]: what a node does whatever it stands on: leading, handing over, taking pushes.
//! - [`leading`]: what a node does while it leads: forwarding first, acquisition last; stopping goes the other way.
//! - [`failback`]: leadership returns to the preferred node.
//! - [`notice`]: what a node answers that cannot take part: [`waiting`] to belong, or in [`amnesia`].
//! - [`acquisition`], [`forwarding`], [`retention`]: the three loops of a leader; [`standby`]: what a follower holds open.
//! - `records`: what lies in the buffer, as one destination is handed it; `pushing`: how pushed batches enter the log.
//! - `field`: questions to devices from outside the poll groups.
//! - `dialing`: where peers are dialled, if not where the membership says; `api`: what stands beside admin and ingest.
//! - [`space`]: room on this node's disk, and the reserve for the time when there is none; `memory`: what each part of a
//!   node may hold of its memory; `steady`: time that no clock sets.
//! - `hooks`: what lets programs outside follow the active node; `watching`: system tags, alarms, what has its time.
//! - `systemd`: what the service manager is told.
//! - `egress`: what lets requests to devices out of the box only while the lease lasts.
//! - [`admin`], [`health`]: what people and machines ask a node; [`live`]: what only the running node knows.

mod acquisition;
pub mod admin;
mod amnesia;
mod api;
pub mod config;
mod dialing;
mod duties;
mod egress;
mod failback;
mod field;
mod forwarding;
mod health;
mod hooks;
pub mod leading;
pub mod live;
mod memory;
pub mod node;
mod notice;
mod pushing;
mod records;
mod retention;
mod roles;
#[cfg(test)]
mod scenarios;
pub mod security;
mod space;
mod standby;
mod steady;
mod systemd;
mod waiting;
mod watching;

pub use config::{ConfigError, NodeConfig};
pub use duties::{Duties, DutyParts};
pub use egress::Gate;
pub use field::FieldDoor;
pub use memory::Memory;
pub use node::{NodeError, RunningNode};
pub use pushing::PushedTags;
pub use replication::LeaseTimes;
