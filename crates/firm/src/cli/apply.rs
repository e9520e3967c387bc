//! A whole cloud out of one file: what `cloud.toml` says, against what there is, is a plan.
//!
//! Everything but `run` is pure. It looks at the segments, asks the cloud, does what the plan says, and makes a new one after
//! each round until there is nothing left to do: so nothing has to be remembered, and a run that was cut off is just run
//! again.
//!
//! *Invariant*: a plan makes what the file says, and takes nothing away that the file merely doesn't say.

mod export;
mod file;
mod fit;
mod model;
mod plan;
mod run;
mod seats;
mod show;

pub(super) use run::{Args, ExportArgs, apply, write_back};

/// What may stand in a `cloud.toml`.
pub fn schema() -> schemars::Schema {
    file::CloudFile::schema()
}

#[cfg(test)]
mod tests;
