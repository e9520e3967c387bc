//! Instances that have answered and wait for the next request of their release, where the manifest asks for it.
//!
//! A core keeps its own, so that a request finds one without waiting for another core, and the one that was used
//! last is used next: it is warm, and the others grow old enough to be let go. They never cross a release: the list
//! belongs to the cell, and a change of code, variables or secrets makes a new cell.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use base::limits::{REUSE_IDLE_MAX, REUSE_IDLE_PER_CORE_MAX, REUSE_REQUESTS_MAX, REUSE_TIME_MAX};

use crate::gone::Gone;
use crate::instance::Live;
use crate::limiter::{Budget, Share};

/// The instances of one cell that wait.
pub struct Reuse {
    cores: Box<[Mutex<Vec<Waiting>>]>,
    /// An instance has answered twice.
    works: AtomicBool,
    /// The component can't answer twice: each request gets a fresh instance after all.
    off: AtomicBool,
    /// Who lets go of what waits, once anything has: the registry knows of it from then on.
    gone: OnceLock<(Gone, Arc<Share>)>,
}

impl Drop for Reuse {
    /// A release has ended, and the last to know of it is a core that serves others now.
    fn drop(&mut self) {
        self.empty();
    }
}

struct Waiting {
    live: Live,
    since: Instant,
    _counted: Counted,
}

/// Counts one that waits, on the whole box, while it lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Reuse {
    /// For a box of so many cores.
    #[must_use]
    pub fn new(cores: usize) -> Arc<Self> {
        let cores = (0..cores.max(1)).map(|_| Mutex::default()).collect();
        Arc::new(Self { cores, works: AtomicBool::new(false), off: AtomicBool::new(false), gone: OnceLock::new() })
    }

    fn core(&self, core: usize) -> &Mutex<Vec<Waiting>> {
        &self.cores[core % self.cores.len()]
    }

    pub(crate) fn take(&self, core: usize) -> Option<Live> {
        let waiting = self.core(core).lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        Some(waiting.live)
    }

    /// Lets go of all that wait.
    fn empty(&self) {
        for core in &self.cores {
            let waiting = std::mem::take(&mut *core.lock().unwrap_or_else(PoisonError::into_inner));
            self.let_go(waiting);
        }
    }

    /// Beside the cores, and a little at a time: who finds them worn is as often a core as a thread that has equal rights
    /// with one.
    fn let_go(&self, worn: Vec<Waiting>) {
        if worn.is_empty() {
            return;
        }
        // It is set before the first is kept.
        if let Some((gone, share)) = self.gone.get() {
            gone.let_go_of(share, Box::new(worn));
        }
    }

    /// A used instance failed. Where none has ever answered twice, none will: gives whether that was found out just now.
    pub(crate) fn failed(&self) -> bool {
        if self.works.load(Ordering::Relaxed) {
            return false;
        }
        let news = !self.off.swap(true, Ordering::Relaxed);
        self.empty();
        news
    }

    /// Lets go what has waited since before `since`.
    fn retire(&self, since: Instant) {
        for core in &self.cores {
            let mut waiting = core.lock().unwrap_or_else(PoisonError::into_inner);
            // The newest are at the end.
            let old = waiting.iter().take_while(|waiting| waiting.since < since).count();
            let worn: Vec<Waiting> = waiting.drain(..old).collect();
            // A request may want the list.
            drop(waiting);
            self.let_go(worn);
        }
    }
}

/// All lists of the box.
pub(crate) struct Registry {
    budget: Arc<Budget>,
    waiting: Arc<AtomicUsize>,
    lists: Mutex<Vec<Weak<Reuse>>>,
}

impl Registry {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, waiting: Arc::default(), lists: Mutex::default() }
    }

    /// How many wait.
    pub(crate) fn count(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Keeps the instance for its cell's next request, or gives it back: it is worn, or there are enough.
    pub(crate) fn keep(
        &self,
        list: &Arc<Reuse>,
        core: usize,
        live: Live,
        (gone, share): (&Gone, &Arc<Share>),
    ) -> Option<Live> {
        if live.served == 2 {
            list.works.store(true, Ordering::Relaxed);
        }
        if live.served >= REUSE_REQUESTS_MAX || list.off.load(Ordering::Relaxed) || self.budget.is_short() {
            return Some(live);
        }
        let counted = Counted(Arc::clone(&self.waiting));
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= REUSE_IDLE_MAX {
            return Some(live);
        }
        if list.gone.get().is_none() && list.gone.set((gone.clone(), Arc::clone(share))).is_ok() {
            self.lists.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(list));
        }
        let mut waiting = list.core(core).lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= REUSE_IDLE_PER_CORE_MAX {
            return Some(live);
        }
        waiting.push(Waiting { live, since: Instant::now(), _counted: counted });
        None
    }

    /// Lets go what has waited too long, or all when memory is short. Called every `MEMORY_LOOK`.
    pub(crate) fn retire(&self, at_once: bool) {
        if self.count() == 0 {
            return;
        }
        let patience = if at_once || self.budget.is_short() { Duration::ZERO } else { REUSE_TIME_MAX };
        let Some(since) = Instant::now().checked_sub(patience) else { return };
        let lists: Vec<Arc<Reuse>> = {
            let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
            lists.retain(|list| list.strong_count() > 0);
            lists.iter().filter_map(Weak::upgrade).collect()
        };
        for list in lists {
            list.retire(since);
        }
    }
}
