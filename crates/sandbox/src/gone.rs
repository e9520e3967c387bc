//! Instances that are done with, and the memory that goes back to the kernel.

use std::any::Any;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use base::limits::{GONE_WAITING_MAX, LET_GO_ASIDE_BYTES};

use crate::instance::Live;
use crate::pressure::Pressure;
use crate::priority::Priority;
use crate::watch::Report;

/// Whatever it holds.
type Holding = Box<dyn Any + Send>;

/// A thread that lets go of what would take a core milliseconds, when nobody else wants the core.
///
/// On a busy box it comes to that late. Until then what waits counts as its tenant's, as if it still ran, so that a tenant
/// that makes much of it has less to make more of. When [`GONE_WAITING_MAX`] wait, or the box is short of memory, the next
/// goes where it is, in a turn of its tenant's.
pub(crate) struct Gone {
    give: Sender<Holding>,
    waiting: Arc<AtomicUsize>,
    pressure: Arc<Pressure>,
}

impl Gone {
    pub(crate) fn start(pressure: Arc<Pressure>) -> io::Result<Self> {
        let (give, taken) = channel::<Holding>();
        let waiting = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&waiting);
        thread::Builder::new().name("guest-gone".to_owned()).spawn(move || {
            Priority::Idle.take();
            for gone in taken {
                drop(gone);
                counted.fetch_sub(1, Ordering::Relaxed);
            }
        })?;
        Ok(Self { give, waiting, pressure })
    }

    /// Lets go of it beside the core if it holds much memory, or has had the time to make the host hold much for it, and
    /// here if it doesn't.
    pub(crate) fn let_go(&self, live: Live, report: &Report) {
        if live.memory() > LET_GO_ASIDE_BYTES || report.is_heavy() {
            self.let_go_of(Box::new(live));
        }
    }

    pub(crate) fn let_go_of(&self, gone: Holding) {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        if before >= GONE_WAITING_MAX || self.pressure.is_high() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return drop(gone);
        }
        // The thread ends with the sandbox, and then all goes at once.
        let _ = self.give.send(gone);
    }
}
