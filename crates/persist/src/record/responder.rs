//! Where openraft tells what became of a command that it was given.

use openraft::raft::responder::Responder;
use openraft::{OptionalSend, RaftTypeConfig};

/// Calls once with the outcome. One that is dropped without it was given to a core that ended.
pub(super) struct Told<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Told<T> {
    pub(super) fn new(tell: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(tell))
    }
}

impl<C: RaftTypeConfig, T: OptionalSend + 'static> Responder<C, T> for Told<T> {
    fn on_complete(self, outcome: T) {
        (self.0)(outcome);
    }
}
