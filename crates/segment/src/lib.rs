//! Boxes on a network: who a box is, how boxes find each other (G'day), how a blank one and its owner come to trust each
//! other (introductions and orders), and the mutual-TLS links that the boxes of one cloud speak over.
//!
//! *Invariant*: nothing that a network said is believed before the one who said it is verified. What G'day hears is a
//! hint of where to knock, and no more.

mod addresses;
pub mod authority;
pub mod gday;
pub mod identity;
pub mod knock;
pub mod link;
pub mod seal;
pub mod words;

pub use addresses::own_addresses;
pub use authority::{Authority, Certificate, Clock, Trust};
pub use gday::{Announcement, Gday, Sighting};
pub use identity::{Identity, IdentityError};
pub use knock::{Door, Introduction, Visit};
pub use link::Links;
pub use seal::Seal;
pub use words::ProofWords;

#[cfg(test)]
#[path = "../../../tests/fuzzing.rs"]
mod fuzzing;
