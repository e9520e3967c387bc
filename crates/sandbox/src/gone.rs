//! Instances that are done with, and the memory that goes back to the kernel.

use std::any::Any;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use base::limits::LET_GO_ASIDE_BYTES;

use crate::instance::Live;

/// How far the thread stands back for the cores: as far as the compiler.
const NICE: i32 = 10;

/// A thread that lets go of what would take a core milliseconds.
///
/// What waits for it is bounded by what instances may have together: their memory, and their places in their tenant's
/// share, are free when it has let go of them.
pub(crate) struct Gone(Sender<Box<dyn Any + Send>>);

impl Gone {
    pub(crate) fn start() -> io::Result<Self> {
        let (give, taken) = channel::<Box<dyn Any + Send>>();
        thread::Builder::new().name("guest-gone".to_owned()).spawn(move || {
            // Of this thread alone, on Linux. Refused, it is as it was.
            let _ = rustix::process::nice(NICE);
            taken.into_iter().for_each(drop);
        })?;
        Ok(Self(give))
    }

    /// Lets go of it beside the core if it holds much memory, and here if it doesn't.
    pub(crate) fn let_go(&self, live: Live) {
        if live.memory() > LET_GO_ASIDE_BYTES {
            self.let_go_of(Box::new(live));
        }
    }

    pub(crate) fn let_go_of(&self, gone: Box<dyn Any + Send>) {
        // The thread ends with the sandbox, and then all goes at once.
        let _ = self.0.send(gone);
    }
}
