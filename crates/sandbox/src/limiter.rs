//! An instance's memory and tables, and the memory of all instances together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use base::limits::{
    GUEST_MEMORY_OF_FREE_MAX, GUEST_TABLE_ELEMENTS_MAX, INSTANCE_CORES_MAX, INSTANCE_MEMORIES_MAX, INSTANCE_TABLES_MAX,
};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use wasmtime::ResourceLimiter;

/// The memory that all instances of a box may have together: each may ask for 1 GiB, and 1,000 of them would be more
/// than any box has. What counts is what a guest may touch, not what it has touched.
///
/// A tenant may have a multiple of what is left ([`GUEST_MEMORY_OF_FREE_MAX`]). However many take as much as they can,
/// there is some for whoever comes next; and one that is alone on the box has most of it.
pub(crate) struct Budget {
    max: u64,
    used: AtomicU64,
}

/// What all instances of a tenant have of the box's memory.
#[derive(Debug, Default)]
pub struct Share {
    /// Bytes of linear memory.
    linear: AtomicU64,
    /// Bytes that the host keeps for them, near enough to tell tenants apart: what is freed elsewhere isn't seen.
    host: AtomicI64,
    known: AtomicBool,
    /// Memories that its instances have.
    pub(crate) memories: AtomicUsize,
    /// How often all instances were told to stop, and what wakes those that wait.
    stops: AtomicU64,
    stop: Arc<Notify>,
}

impl Share {
    /// Whether that is news.
    pub(crate) fn make_known(&self) -> bool {
        !self.known.load(Ordering::Relaxed) && !self.known.swap(true, Ordering::Relaxed)
    }

    /// The host keeps so much more, or less.
    pub(crate) fn hold(&self, bytes: i64) {
        self.host.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        let host = u64::try_from(self.host.load(Ordering::Relaxed)).unwrap_or(0);
        self.linear.load(Ordering::Relaxed).saturating_add(host)
    }

    /// Stops all instances that run now.
    pub(crate) fn stop(&self) {
        self.stops.fetch_add(1, Ordering::Release);
        self.stop.notify_waiters();
    }

    pub(crate) fn stops(&self) -> u64 {
        self.stops.load(Ordering::Acquire)
    }

    /// Resolves at the next [`Self::stop`].
    pub(crate) fn stopped(&self) -> OwnedNotified {
        Arc::clone(&self.stop).notified_owned()
    }
}

impl Budget {
    pub(crate) fn new(max: u64) -> Arc<Self> {
        Arc::new(Self { max, used: AtomicU64::new(0) })
    }

    fn take(&self, share: &Share, bytes: u64) -> Result<(), Refused> {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let own = share.linear.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let taken = match self.max.checked_sub(used) {
            None => Err(Refused::Box),
            Some(free) if own > free.saturating_mul(GUEST_MEMORY_OF_FREE_MAX) => Err(Refused::Tenant),
            Some(_) => Ok(()),
        };
        if taken.is_err() {
            self.give(share, bytes);
        }
        taken
    }

    fn give(&self, share: &Share, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        share.linear.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Is less than half of it left? Then nothing should be held that isn't at work.
    pub(crate) fn is_short(&self) -> bool {
        self.used() > self.max / 2
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// Why memory was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The instance may have no more.
    Instance,
    /// All instances of the tenant may have no more.
    Tenant,
    /// All instances together may have no more.
    Box,
}

/// Refuses growth past the cell's bounds and the box's. A guest sees `memory.grow` fail, as the standard has it, and
/// mostly aborts; the refusal is remembered so that the trap which follows can be explained.
pub(crate) struct Limiter {
    memory_max: u64,
    /// Bytes of its memories, which whoever lets go of it wants to know.
    memory: Arc<AtomicU64>,
    elements: usize,
    refused: Option<Refused>,
    budget: Arc<Budget>,
    share: Arc<Share>,
}

impl Limiter {
    pub(crate) fn new(memory_max: u64, budget: &Arc<Budget>, share: &Arc<Share>) -> Self {
        let (budget, share) = (Arc::clone(budget), Arc::clone(share));
        Self { memory_max, memory: Arc::default(), elements: 0, refused: None, budget, share }
    }

    /// What was refused to another request explains nothing of this one's.
    pub(crate) fn begin(&mut self) {
        self.refused = None;
    }

    /// Was memory refused, and by whom?
    pub(crate) fn refused(&self) -> Option<Refused> {
        self.refused
    }

    pub(crate) fn memory(&self) -> &Arc<AtomicU64> {
        &self.memory
    }

    pub(crate) fn memory_max(&self) -> u64 {
        self.memory_max
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.budget.give(&self.share, self.memory.load(Ordering::Relaxed));
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // wasmtime refuses that, but asks here first: it would stay on the bill.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let more = desired.saturating_sub(current) as u64;
        let total = self.memory.load(Ordering::Relaxed).saturating_add(more);
        if total > self.memory_max {
            self.refused = Some(Refused::Instance);
            return Ok(false);
        }
        if let Err(refused) = self.budget.take(&self.share, more) {
            self.refused = Some(refused);
            return Ok(false);
        }
        self.memory.store(total, Ordering::Relaxed);
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.elements.saturating_add(desired.saturating_sub(current));
        if total > GUEST_TABLE_ELEMENTS_MAX {
            return Ok(false);
        }
        self.elements = total;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCE_CORES_MAX as usize
    }

    fn tables(&self) -> usize {
        INSTANCE_TABLES_MAX as usize
    }

    fn memories(&self) -> usize {
        INSTANCE_MEMORIES_MAX as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grows(limiter: &mut Limiter, current: usize, desired: usize) -> bool {
        limiter.memory_growing(current, desired, None).expect("it never fails")
    }

    #[test]
    fn memories_count_together() {
        let mut limiter = Limiter::new(300, &Budget::new(u64::MAX), &Arc::default());
        assert!(grows(&mut limiter, 0, 100));
        assert!(grows(&mut limiter, 0, 100));
        assert!(grows(&mut limiter, 100, 200));
        assert_eq!(limiter.refused(), None);
        assert!(!grows(&mut limiter, 100, 101));
        assert_eq!(limiter.refused(), Some(Refused::Instance));
    }

    #[test]
    fn what_is_beyond_a_memory_s_own_maximum_is_on_no_bill() {
        let budget = Budget::new(u64::MAX);
        let mut limiter = Limiter::new(300, &budget, &Arc::default());
        assert!(limiter.memory_growing(0, 100, Some(200)).is_ok_and(|allowed| allowed));
        assert!(limiter.memory_growing(100, 201, Some(200)).is_ok_and(|allowed| !allowed));
        assert_eq!((limiter.refused(), budget.used()), (None, 100));
    }

    #[test]
    fn instances_share_the_box_and_give_back() {
        let budget = Budget::new(500);
        let mut first = Limiter::new(300, &budget, &Arc::default());
        let mut second = Limiter::new(400, &budget, &Arc::default());
        assert!(grows(&mut first, 0, 300) && grows(&mut second, 0, 150));
        assert!(!grows(&mut second, 150, 351));
        assert_eq!(second.refused(), Some(Refused::Box));
        drop(first);
        assert!(grows(&mut second, 150, 300));
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_tenant_leaves_some_for_the_next() {
        let budget = Budget::new(1_000);
        let (greedy, share) = (Arc::new(Share::default()), Arc::default());
        let mut instances = Vec::new();
        let all = loop {
            let mut instance = Limiter::new(100, &budget, &greedy);
            if !grows(&mut instance, 0, 50) {
                assert_eq!(instance.refused(), Some(Refused::Tenant));
                break instances.len() * 50;
            }
            instances.push(instance);
        };
        assert_eq!(all, 800);
        assert!(grows(&mut Limiter::new(100, &budget, &share), 0, 100));
        drop(instances);
        assert_eq!((budget.used(), greedy.bytes(), share.bytes()), (0, 0, 0));
    }

    #[test]
    fn tables_count_together() {
        let mut limiter = Limiter::new(0, &Budget::new(0), &Arc::default());
        assert!(limiter.table_growing(0, GUEST_TABLE_ELEMENTS_MAX, None).is_ok_and(|allowed| allowed));
        assert!(limiter.table_growing(0, 1, None).is_ok_and(|allowed| !allowed));
    }
}
