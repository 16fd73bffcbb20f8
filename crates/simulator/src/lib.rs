//! Field devices, pushers and receivers for the demo, tests and benches; they log what they saw.

pub mod receiver;
