//! Why a request got no answer from a component, or only half of one.

use std::time::Duration;

use base::limits::INSTANCES_MAX;
use base::{Bytes, Span};

/// Why an instance gave no whole response. The sandbox has written it to the app's log as [`crate::Stream::Fault`];
/// a visitor is told nothing of it but that it happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The component hit a trap: unreachable code, a memory access out of bounds, a panic, an exit.
    #[error("the component trapped: {0}")]
    Trap(String),
    #[error("the component used more than the {} of CPU time that a request may: raise its `cpu` in firm.toml", Span(*.0))]
    OutOfCpu(Duration),
    #[error("the request took longer than the {} that it may: raise the component's `timeout` in firm.toml", Span(*.0))]
    OutOfTime(Duration),
    /// It trapped after it had asked for more memory than it may have.
    #[error("the component needed more than its {} of memory: raise its `memory` in firm.toml", Bytes(*.0))]
    OutOfMemory(u64),
    #[error("the component returned without a response")]
    NoResponse,
    /// It answered with a `wasi:http` error code in place of a response.
    #[error("the component answered with an error: {0}")]
    Failed(String),
    #[error("the box runs {INSTANCES_MAX} instances, which is all it may")]
    Busy,
    /// It asked for memory that the box doesn't have to spare, within what it may have itself.
    #[error("the box has no more memory for apps: other instances hold it")]
    BoxOutOfMemory,
    /// The instance couldn't be made: it needs more tables or memories than there may be.
    #[error("no instance could be made: {0}")]
    NoInstance(String),
    /// The request can't be put to a component: it names no host.
    #[error("the request can't be put to a component: {0}")]
    BadRequest(String),
}
