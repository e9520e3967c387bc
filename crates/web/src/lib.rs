//! The road of a request: socket → TLS → router → throttle → gate → file or tenant's code; and the server of
//! the management API.
//!
//! Each core has its own listening socket, runtime and caches; a connection stays on the core that accepted it.
//! Looking a route up takes no lock and no I/O: the router is a snapshot that is derived from the record and
//! swapped whole.
//!
//! *Invariant*: below [`front`] nothing is reached without the `TenantId` that the route gave. HTTP status codes
//! are chosen in this crate and nowhere else.

mod ahead;
mod answer;
mod assets;
mod cloud;
mod code;
mod files;
mod front;
mod gate;
mod listen;
mod manage;
mod observe;
mod router;
mod rules;
mod shared;
mod sweep;
mod throttle;
mod tier;
mod tls;
mod turns;
mod upload;

pub use cloud::{Cloud, CloudError, Place, Settings, mint_token};
pub use listen::{ListenError, Node};
pub use observe::{Exporter, Otlp};
pub use tier::{AccessWish, Answered, Known, Method, MintError, Tier, TierError};
pub use tls::write_private;

#[cfg(test)]
#[path = "../../../tests/fuzzing.rs"]
mod fuzzing;
