//! Field devices, pushers and receivers for the demo, tests and benches; they log what they saw.

pub mod history;
pub mod modbus;
pub mod pusher;
pub mod receiver;
