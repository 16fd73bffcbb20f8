//! The proof kit: campaigns of runs with real faults, judged from outside, for whoever does not take our word for it.
//!
//! `docs/proof/README.md` says how it is run and what it cannot show; the program is `src/bin/prove.rs`.
//!
//! - [`run`]: what one run is asked to do, and what it found.
//! - [`profile`]: how many runs of which class belong together, and what a lesser machine may leave out.
//! - [`campaign`]: runs kept in a folder, so that a campaign can be interrupted and go on.
//! - [`report`]: what several campaigns amount to.
//! - [`timeline`]: a run as a picture.
//! - [`liveness`]: how soon a cluster is whole again after each fault, and how long it is silent meanwhile.
//! - [`observed`]: what nodes say and use meanwhile.
//! - [`remains`]: what their stores hold at the end.
//! - [`calm`]: what was missed while nothing was done.
//! - [`elections`]: who was elected while nothing was done.
//! - [`classes`], [`store_cuts`]: the faults themselves.
//! - [`mutants`]: faults in the product's own code, and what must notice each.

pub mod calm;
pub mod campaign;
pub mod classes;
pub mod elections;
pub mod liveness;
pub mod mutants;
pub mod observed;
pub mod profile;
pub mod remains;
pub mod report;
pub mod run;
pub mod store_cuts;
pub mod timeline;
