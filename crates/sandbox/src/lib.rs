//! Runs tenants' WebAssembly components, a fresh instance for each request, and compiles them in a process
//! of its own.
//!
//! A component gets what its [`Cell`] holds and nothing else exists for it: no files, no sockets, no other
//! tenant's bucket, no address inside the hoster's network. Memory, CPU time, wall time and the outgoing
//! requests of an instance are bounded; what goes over a bound is stopped, explained in the app's log and
//! touches nothing else.
//!
//! Everything here works on a tokio current-thread runtime. Futures are `Send`, so no `LocalSet` is needed;
//! the task that carries a streaming response on is spawned on the runtime that called [`Sandbox::handle`],
//! so it stays on its core.
//!
//! *Architecture invariant:* nothing here knows apps, stages, routes or the record. The caller says what an
//! instance may do; the sandbox makes it so.

mod allocated;
mod artifact;
mod body;
mod cell;
mod clock;
mod compile;
mod engine;
mod fault;
mod gone;
mod guest;
mod instance;
mod keyvalue;
mod limiter;
mod lines;
mod memory;
mod need;
mod outbound;
mod pressure;
mod priority;
mod program;
mod reuse;
mod run;
mod watch;

pub use allocated::Counting;
pub use artifact::Keep;
pub use cell::{Body, BodyError, Cell, Log, Permit, Stream, Visit};
pub use compile::{CompileError, Compiled, Compiler, ConfineError, Flavour, compile_process, confine};
pub use fault::Fault;
pub use keyvalue::{Answer, Bucket, KeyPage, KeyValue, KeyValueError, Swap};
pub use limiter::Share;
pub use need::{Need, need};
pub use outbound::{HostPattern, HostPatternError, Outbound};
pub use program::{LoadError, Program};
pub use reuse::Reuse;
pub use run::{Options, Sandbox, StartError};
pub use watch::Watched;

#[cfg(test)]
#[path = "../../../tests/fuzzing.rs"]
mod fuzzing;
