//! The outside world for the demo, tests and benches: field devices, pushers and receivers, which log what they saw, and
//! real node processes on this machine with wires between them that can be cut.
//!
//! Put together: a simulated plant ([`plant`], [`field`]), a cluster at work in it ([`trial`]), and an [`account`] of
//! what devices answered and pushers were promised against what arrived.

pub mod account;
pub mod field;
pub mod history;
pub mod modbus;
pub mod nodes;
pub mod plant;
pub mod pusher;
pub mod receiver;
pub mod trial;
