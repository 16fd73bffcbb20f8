//! Whole-cluster scenarios: real node processes, real faults, judged from outside. The kit is in [`nodes`], the
//! scenarios in `tests/`.

pub mod nodes;
