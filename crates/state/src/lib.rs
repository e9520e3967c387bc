//! The record: the cloud's control state, as a pure state machine.
//!
//! [`Record::apply`] takes an [`Entry`] (a command, when it was proposed and by whom) and answers what it did,
//! or why it refused. The same entries in the same order give the same record on every box.
//!
//! *Invariant*: no I/O, clock, randomness or thread is to be found here. Time and random ids come in with the
//! entry; what must be secret comes in sealed or hashed.

mod apply;
mod boxes;
mod command;
pub mod manifest;
mod record;

pub use apply::Refusal;
pub use boxes::{Admission, Boxes, CloudBox};
pub use command::{Actor, Applied, Command, Entry, Event};
pub use manifest::Manifest;
pub use record::{
    App, Ceiling, Certificate, Change, DomainClaim, FORMAT, Grant, How, Origin, Record, Release, Sealed, Signed, Stage,
    Tenant, Token,
};

#[cfg(test)]
mod fuzz;
#[cfg(test)]
#[path = "../../../tests/fuzzing.rs"]
mod fuzzing;
