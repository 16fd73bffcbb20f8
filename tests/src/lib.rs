//! Whole-cluster scenarios: real node processes, real faults, judged from outside. The kit is in [`nodes`] and [`trio`],
//! the scenarios in `tests/`.

pub mod nodes;
pub mod trio;
