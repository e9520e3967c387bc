//! Who are you, may you: tokens, grants, share links, and the sealing of what the record must not show.
//!
//! Pure but for the random bytes that it is handed: no I/O, no clock. Cryptography is aws-lc's and BLAKE3's;
//! here it is only put to use.

mod allow;
mod seal;
mod share;
mod token;
mod word;

pub use allow::{Caller, Denied, Wants, identify, may};
pub use seal::{Key, OpenError};
pub use share::{Pass, PassError};
pub use token::{Minted, mint};
pub use word::{access_word, token_word, warrant_word};

#[cfg(test)]
mod fuzz;
#[cfg(test)]
#[path = "../../../tests/fuzzing.rs"]
mod fuzzing;
