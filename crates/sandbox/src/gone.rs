//! Instances that are done with, and the memory that goes back to the kernel.

use std::any::Any;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;

use base::limits::{GONE_WAITING_MAX, LET_GO_ASIDE_BYTES};

use crate::instance::Live;
use crate::pressure::Pressure;
use crate::priority::Priority;
use crate::watch::Report;

/// Whatever it holds.
type Holding = Box<dyn Any + Send>;

/// A thread that lets go of what would take a core milliseconds: a little at a time while others want the core, so that
/// nobody waits for it.
///
/// What waits counts as its tenant's, its memory and its place among the app's instances, as if it still ran: a tenant that
/// makes much of it has less to make more of, and waits for itself. When the box is short of memory, the thread hurries.
pub(crate) struct Gone {
    give: SyncSender<Holding>,
}

impl Gone {
    pub(crate) fn start(pressure: Arc<Pressure>) -> io::Result<Self> {
        let (give, taken) = sync_channel::<Holding>(GONE_WAITING_MAX);
        thread::Builder::new().name("guest-gone".to_owned()).spawn(move || {
            let mut now = None;
            for gone in taken {
                let wanted = if pressure.is_high() { Priority::Fair } else { Priority::Background };
                if now != Some(wanted) {
                    wanted.take();
                    now = Some(wanted);
                }
                drop(gone);
            }
        })?;
        Ok(Self { give })
    }

    /// Lets go of it beside the core if it holds much memory, or has had the time to make the host hold much for it, and
    /// here if it doesn't.
    pub(crate) fn let_go(&self, live: Live, report: &Report) {
        if live.memory() > LET_GO_ASIDE_BYTES || report.is_heavy() {
            self.let_go_of(Box::new(live));
        }
    }

    pub(crate) fn let_go_of(&self, gone: Holding) {
        match self.give.try_send(gone) {
            Ok(()) => {}
            // The thread ends with the sandbox.
            Err(TrySendError::Full(gone) | TrySendError::Disconnected(gone)) => drop(gone),
        }
    }
}
