#![allow(dead_code, reason = "the command that carries a plan out comes next; the tests use all of it")]
//! A whole cloud out of one file: what `cloud.toml` says, against what there is, is a plan.
//!
//! Everything here is pure. Whoever carries a plan out looks at the segments, asks the cloud, and makes a new plan after
//! each round until there is nothing left to do: so nothing has to be remembered, and a run that was cut off is just run
//! again.
//!
//! *Invariant*: a plan makes what the file says, and takes nothing away that the file merely doesn't say.

mod export;
mod file;
mod fit;
mod model;
mod plan;
mod seats;
mod show;
#[cfg(test)]
mod tests;
