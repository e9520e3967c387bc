//! Instances that are done with, and the memory that goes back to the kernel.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use base::limits::{GONE_WAITING_MAX, LET_GO_ASIDE_BYTES};

use crate::limiter::Share;
use crate::pressure::Pressure;
use crate::priority::Priority;
use crate::watch::Report;

/// Whatever it holds.
type Holding = Box<dyn Any + Send>;

/// The tenants whose instances wait, and what of each: they take turns, as else one with gibibytes would keep the places
/// of everybody's apps.
#[derive(Default)]
struct Waiting(VecDeque<(Arc<Share>, VecDeque<Holding>)>);

impl Waiting {
    fn put(&mut self, (share, gone): (Arc<Share>, Holding)) {
        match self.0.iter_mut().find(|(held, _)| Arc::ptr_eq(held, &share)) {
            Some((_, waiting)) => waiting.push_back(gone),
            None => self.0.push_back((share, VecDeque::from([gone]))),
        }
    }

    /// Of the tenant who has waited longest, that which has.
    fn next(&mut self) -> Option<Holding> {
        let (share, mut waiting) = self.0.pop_front()?;
        let gone = waiting.pop_front();
        if !waiting.is_empty() {
            self.0.push_back((share, waiting));
        }
        gone
    }

    /// The next, when there is one. What has come meanwhile stands behind what its tenant has here.
    fn wait(&mut self, taken: &Receiver<(Arc<Share>, Holding)>) -> Option<Holding> {
        if self.0.is_empty() {
            self.put(taken.recv().ok()?);
        }
        for come in taken.try_iter() {
            self.put(come);
        }
        self.next()
    }
}

/// A thread that lets go of what would take a core milliseconds: a little at a time while others want the core, so that
/// nobody waits for it.
///
/// What waits counts as its tenant's, its memory and its place among the app's instances, as if it still ran: a tenant that
/// makes much of it has less to make more of, and waits for itself. When the box is short of memory the thread hurries, where
/// the system lets it.
#[derive(Clone)]
pub(crate) struct Gone {
    give: SyncSender<(Arc<Share>, Holding)>,
}

impl Gone {
    pub(crate) fn start(pressure: Arc<Pressure>) -> io::Result<Self> {
        let (give, taken) = sync_channel(GONE_WAITING_MAX);
        thread::Builder::new().name("guest-gone".to_owned()).spawn(move || {
            let (mut now, mut waiting) = (None, Waiting::default());
            while let Some(gone) = waiting.wait(&taken) {
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
    pub(crate) fn let_go(&self, share: &Arc<Share>, gone: impl Send + 'static, report: &Report) {
        if report.memory() > LET_GO_ASIDE_BYTES || report.is_heavy() {
            self.let_go_of(share, Box::new(gone));
        }
    }

    pub(crate) fn let_go_of(&self, share: &Arc<Share>, gone: Holding) {
        match self.give.try_send((Arc::clone(share), gone)) {
            Ok(()) => {}
            // The thread ends with the sandbox.
            Err(TrySendError::Full(gone) | TrySendError::Disconnected(gone)) => drop(gone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_take_turns_however_much_each_has() {
        let (give, taken) = sync_channel(8);
        let [greedy, other] = [(); 2].map(|()| Arc::<Share>::default());
        let come = |share: &Arc<Share>, number: u32| {
            give.send((Arc::clone(share), Box::new(number) as Holding)).expect("there is room");
        };
        let mut waiting = Waiting::default();
        let mut next = || *waiting.wait(&taken).expect("there is one").downcast::<u32>().expect("a number");
        for number in [0, 1, 2, 3] {
            come(&greedy, number);
        }
        assert_eq!(next(), 0);
        come(&other, 10);
        come(&other, 11);
        let order: Vec<u32> = (0..5).map(|_| next()).collect();
        assert_eq!(order, [1, 10, 2, 11, 3]);
        drop(give);
        assert!(waiting.wait(&taken).is_none());
    }
}
