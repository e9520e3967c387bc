//! What stops tenants before the box is out of memory.
//!
//! Guests' linear memory is counted to the byte and refused beyond its bound ([`crate::limiter`]). What the host keeps for
//! them, such as header fields and the values of compare-and-swaps, isn't: it is bounded for each instance, and all
//! instances at their bounds would be more than most boxes have. So the box looks at what it really uses. Beyond
//! its bound it stops the instances of the tenant for whom the host keeps most, and looks again.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::allocated;
use crate::limiter::Share;

/// A tenant with less than this part of what the process may use is left alone.
const LARGE_PART: u64 = 16;

pub(crate) struct Pressure {
    /// Bytes of its own that the process may use.
    max: u64,
    high: AtomicBool,
    shares: Mutex<Vec<Weak<Share>>>,
}

impl Pressure {
    pub(crate) fn new(max: u64) -> Self {
        Self { max, high: AtomicBool::new(false), shares: Mutex::default() }
    }

    /// Memory goes back at once rather than when somebody has time for it.
    pub(crate) fn is_high(&self) -> bool {
        self.high.load(Ordering::Relaxed)
    }

    /// A tenant's instance is about to run.
    pub(crate) fn knows(&self, share: &Arc<Share>) {
        if share.make_known() {
            self.shares.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(share));
        }
    }

    /// Looks at what the process uses. Called again and again.
    pub(crate) fn look(&self) {
        let Some(used) = anonymous_bytes() else { return };
        let high = used > self.max;
        self.high.store(high, Ordering::Relaxed);
        if high {
            self.relieve();
            // Where it can't be done the next look finds as much, and stops the next tenant.
            let _ = allocated::give_back();
        }
    }

    fn relieve(&self) {
        let shares: Vec<Arc<Share>> = {
            let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
            shares.retain(|share| share.strong_count() > 0);
            shares.iter().filter_map(Weak::upgrade).collect()
        };
        let largest = shares.iter().max_by_key(|share| share.bytes());
        // Where nobody has much, it isn't in any tenant's instances.
        if let Some(largest) = largest.filter(|share| share.bytes() >= self.max / LARGE_PART) {
            largest.stop();
        }
    }
}

/// Bytes that are this process's alone and in memory: not those of mapped files, which the kernel can have back.
fn anonymous_bytes() -> Option<u64> {
    // Pages: size, resident, of files and shared, … (proc_pid_statm(5)).
    let told = fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = told.split_ascii_whitespace().skip(1).map(str::parse::<u64>);
    let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    Some(resident.saturating_sub(shared).saturating_mul(rustix::param::page_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenant_who_has_most_is_stopped() {
        let pressure = Pressure::new(1 << 14);
        let (small, large) = (Arc::new(Share::default()), Arc::new(Share::default()));
        for share in [&small, &large] {
            pressure.knows(share);
            pressure.knows(share);
        }
        small.hold(1_000);
        large.hold(5_000);
        pressure.look();
        assert!(pressure.is_high());
        assert_eq!((small.stops(), large.stops()), (0, 1));
        large.hold(-4_500);
        pressure.look();
        assert_eq!((small.stops(), large.stops()), (0, 1), "neither has much");
        small.hold(1_000);
        pressure.look();
        assert_eq!((small.stops(), large.stops()), (1, 1));
        assert_eq!(pressure.shares.lock().expect("nobody panicked").len(), 2);
    }

    #[test]
    fn who_keeps_within_the_bound_is_left_alone() {
        let (pressure, share) = (Pressure::new(u64::MAX), Arc::new(Share::default()));
        pressure.knows(&share);
        share.hold(1 << 40);
        pressure.look();
        assert!(!pressure.is_high());
        assert_eq!(share.stops(), 0);
        assert!(anonymous_bytes().is_some_and(|bytes| bytes > 0));
    }
}
