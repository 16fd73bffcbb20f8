//! The outside world for the demo, tests and benches: field devices, pushers and receivers, which log what they saw,
//! and real node processes on this machine with wires between them that can be cut.

pub mod history;
pub mod modbus;
pub mod nodes;
pub mod pusher;
pub mod receiver;
