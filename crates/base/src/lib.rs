//! The words that every other crate speaks in: ids and names, units, limits, the error chain.
//!
//! Nothing here does I/O, reads a clock or draws a random number. A type of this crate proves what was
//! checked when it was made: a [`Name`] is a DNS label, a [`Digest`] is 32 bytes, a [`Rate`] is never zero.

mod boxes;
mod digest;
mod error;
mod id;
pub mod limits;
mod name;
mod text;
mod time;
mod units;

pub use boxes::{BoxId, BoxIdError, CloudId, CloudIdError, Role, Roles, RolesError};
pub use digest::{Digest, DigestError};
pub use error::chain;
pub use id::{AppId, DatabaseId, ReleaseNo, ReleaseNoError, TenantId, TokenId, TokenIdError};
pub use name::{Domain, DomainError, Name, NameError};
pub use time::Timestamp;
pub use units::{Bytes, Rate, Span, UnitError};
