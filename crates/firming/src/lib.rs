//! How a box becomes what it is told to be, and stops being it: pure.
//!
//! [`Standing`] is all that outlives a crash. [`Firming`] turns it, and what happened since the box started, into the
//! next [`Step`]; somebody else takes the step and says what came of it. No I/O, no clock, no randomness in here, so that
//! a test can cut the power after every single step.
//!
//! *Invariants*, each tested over random histories with a power cut anywhere:
//! - A node runs only on data that was written for its own membership: before a box firms, it is wiped.
//! - What a box acknowledged survives: an order that was taken is on the disk first.
//! - From every standing the box gets to blank or firm by itself. There is nothing in between to be stuck in.

mod machine;
mod order;

pub use machine::{Firming, Happened, Step};
pub use order::{
    Assignment, Door, Membership, NotTaken, Order, OrderId, Standing, Task, Then, Warrant, Way, What, is_cloud_domain,
};
