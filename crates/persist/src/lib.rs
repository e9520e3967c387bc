//! What outlives the process on one box, under one data directory.
//!
//! ```text
//!   DIR/lock                              held for as long as a node runs on DIR
//!   DIR/record.sqlite                     the record: snapshot and log            (record)
//!   DIR/chunks/TENANT/DIGEST              content-addressed bytes of releases     (chunks)
//!   DIR/databases/TENANT/DATABASE.sqlite  what apps store                         (databases)
//!   DIR/logs/TENANT/APP/{new,old}.jsonl   what apps say                           (logs)
//!   DIR/logs/TENANT/APP/faults/…          what went wrong with their requests     (logs)
//!   DIR/logs/TENANT/APP/access/…          what was asked of them                  (logs)
//! ```
//!
//! *Invariant*: a path is made of numbers and digests alone. Nothing that a tenant passes reaches one, so there
//! is no string by which a tenant could name another's file.

pub mod chunks;
pub mod databases;
mod disk;
pub mod logs;
pub mod record;
mod store;

pub use chunks::Chunks;
pub use databases::desk::{self, Desk};
pub use databases::{Arriving, Database, Databases, Held, KvError, KvFigures, MoveError};
pub use disk::free_bytes;
pub use logs::{Line, Logs, Stream};
pub use record::{Keeper, ProposeError};
pub use store::{Keeping, Store, StoreError};

#[cfg(test)]
mod fuzz;
#[cfg(test)]
#[path = "../../../tests/fuzzing.rs"]
mod fuzzing;
