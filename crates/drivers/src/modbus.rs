//! Modbus TCP: requests planned, sent one at a time, checked and decoded.
//!
//! [`Endpoints`] hands out a [`ModbusDevice`] for each device of the plant; devices behind one host and port share
//! one connection and the task that owns it. [`WarmStandby`] holds idle connections on a follower.
//!
//! | room | what it knows |
//! |---|---|
//! | [`plan`] | which tags are read by which request (pure) |
//! | [`decode`] | what words mean (pure) |
//! | `exception` | what an exception says about a tag, a block or a unit (pure) |
//! | `dial` | how a connection is made |
//! | `connection` | one exchange on one socket, bounded and checked |
//! | `endpoint` | one socket's owner task: order, reconnecting, leaving silent units alone |
//! | `device` | one device's scans: falling back and remembering |
//! | `registry` | who shares which connection, and the end of all of them |
//! | `standby` | idle connections of a follower |
//!
//! What the protocol library leaves to its user, and where it is done: time-outs, a connection thrown away after any
//! error, answers checked for length, end of stream told apart without `errno`, unit ids always given, exceptions
//! kept apart from failures (`connection`, `endpoint`); limits and merging ([`plan`]); falling back (`device`);
//! word orders ([`decode`]).

mod connection;
pub mod decode;
mod device;
mod dial;
mod endpoint;
mod exception;
pub mod plan;
mod registry;
mod standby;

pub use device::ModbusDevice;
pub use dial::{DeviceStream, Dialler, Dialling, Origin};
pub use registry::{Endpoints, NotPolled, Setup};
pub use standby::{WarmConnections, WarmStandby};
