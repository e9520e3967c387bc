//! Figures of requests: a block of counters for each stage and core, written by that core alone.
//!
//! A request counts with a few plain loads and stores on a cache line that no other core writes; whoever reads the
//! figures adds the cores up. A stage gets its counters with its first request and loses them with its last site, so
//! what is shown is what has traffic and is still there. How many have figures of their own is bounded, for the box and
//! for a tenant: the rest is counted together.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use base::limits::{METRIC_SITES_MAX, METRIC_SITES_PER_TENANT_MAX};
use base::{AppId, Name, TenantId};
use http::StatusCode;

use super::{End, FaultKind, Mark};
use crate::shared::Shared;

/// The upper ends of the histogram's buckets, in microseconds; one more has no end.
pub(super) const BUCKETS: [u64; 8] = [500, 2_000, 10_000, 50_000, 250_000, 1_000_000, 5_000_000, 30_000_000];
/// Classes of status codes: 2xx to 5xx.
pub(super) const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// A count that one thread writes and others read: no read-modify-write is needed.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    fn less(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one core counted of one stage. Two cache lines at least between those of two cores: processors fetch in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    pub(super) answers: [Count; CLASSES.len()],
    pub(super) bytes: Count,
    pub(super) micros: Count,
    /// Not cumulated.
    pub(super) buckets: [Count; BUCKETS.len() + 1],
    pub(super) throttled: Count,
    /// Answers that ended before their end, by the visitor and by the app.
    pub(super) broken: [Count; 2],
    pub(super) faults: [Count; FaultKind::ALL.len()],
}

impl Counters {
    /// An answer begins.
    pub(super) fn begun(&self, status: StatusCode, mark: Option<Mark>) {
        let class = usize::from(status.as_u16() / 100).clamp(2, 5) - 2;
        self.answers[class].add(1);
        match mark {
            None => {}
            Some(Mark::Throttled) => self.throttled.add(1),
            Some(Mark::Fault(kind)) => self.faults[kind as usize].add(1),
        }
    }

    /// It ended, after so many bytes and so long.
    pub(super) fn ended(&self, bytes: u64, took: Duration, end: End) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().position(|end| micros <= *end).unwrap_or(BUCKETS.len());
        self.buckets[bucket].add(1);
        self.micros.add(micros);
        self.bytes.add(bytes);
        match end {
            End::Whole => {}
            End::Cut => self.broken[0].add(1),
            End::Broken => self.broken[1].add(1),
        }
    }
}

/// A stage's counters on each core.
pub(crate) type Cores = Arc<[Counters]>;

/// A stage's figures. Lives as long as a site of the stage does.
pub(crate) struct Meter {
    pub(super) tenant: TenantId,
    pub(super) tenant_name: Name,
    pub(super) app: AppId,
    pub(super) app_name: Name,
    pub(super) stage: Name,
    /// Since its first request.
    cores: OnceLock<Seat>,
    meters: Arc<Inner>,
}

/// Where a stage's requests are counted.
enum Seat {
    Own(Cores),
    /// With the others', since there was no room.
    Shared(Cores),
}

impl Meter {
    pub(super) fn counters(&self, core: usize) -> &Counters {
        let (Seat::Own(cores) | Seat::Shared(cores)) = self.cores.get_or_init(|| self.meters.seat(self.tenant));
        &cores[core]
    }

    /// Its own figures, if it has some.
    pub(super) fn own(&self) -> Option<&Cores> {
        match self.cores.get() {
            Some(Seat::Own(cores)) => Some(cores),
            Some(Seat::Shared(_)) | None => None,
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.own().is_some() {
            self.meters.stand_up(self.tenant);
        }
    }
}

/// What one core counts of itself.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct CoreCounters {
    pub(super) open: Count,
    pub(super) accepted: Count,
    pub(super) refused: Count,
}

impl CoreCounters {
    pub(super) fn connected(&self) {
        self.open.add(1);
        self.accepted.add(1);
    }

    pub(super) fn gone(&self) {
        self.open.less();
    }

    /// A connection was closed unheard.
    pub(super) fn refused(&self) {
        self.refused.add(1);
    }
}

/// All figures of the box.
#[derive(Clone)]
pub(crate) struct Meters(Arc<Inner>);

struct Inner {
    /// What no app answered: requests to the API, and those that named nothing.
    pub api: Cores,
    pub nobody: Cores,
    /// Stages that found no room.
    others: Cores,
    cores: Box<[CoreCounters]>,
    held: Mutex<Shared<(AppId, Name), Meter>>,
    seats: Mutex<HashMap<TenantId, usize>>,
}

fn cores(count: usize) -> Cores {
    (0..count).map(|_| Counters::default()).collect()
}

impl Meters {
    /// For so many cores.
    pub(crate) fn new(count: usize) -> Self {
        let count = count.max(1);
        Self(Arc::new(Inner {
            api: cores(count),
            nobody: cores(count),
            others: cores(count),
            cores: (0..count).map(|_| CoreCounters::default()).collect(),
            held: Mutex::default(),
            seats: Mutex::default(),
        }))
    }

    /// The stage's meter: the one that its sites have, or a new one.
    pub(crate) fn meter(&self, tenant: (TenantId, &Name), app: (AppId, &Name), stage: &Name) -> Arc<Meter> {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.get_or_make((app.0, stage.clone()), || Meter {
            tenant: tenant.0,
            tenant_name: tenant.1.clone(),
            app: app.0,
            app_name: app.1.clone(),
            stage: stage.clone(),
            cores: OnceLock::new(),
            meters: Arc::clone(&self.0),
        })
    }

    /// Those that live, by their names.
    pub(super) fn all(&self) -> Vec<Arc<Meter>> {
        let held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = held.living().collect();
        drop(held);
        all.sort_by(|a, b| (&a.tenant_name, &a.app_name, &a.stage).cmp(&(&b.tenant_name, &b.app_name, &b.stage)));
        all
    }

    pub(super) fn api(&self) -> &Cores {
        &self.0.api
    }

    pub(super) fn nobody(&self) -> &Cores {
        &self.0.nobody
    }

    pub(super) fn others(&self) -> &Cores {
        &self.0.others
    }

    pub(super) fn cores(&self) -> &[CoreCounters] {
        &self.0.cores
    }
}

impl Inner {
    fn seats(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seat(&self, tenant: TenantId) -> Seat {
        let mut seats = self.seats();
        let of_tenant = seats.get(&tenant).copied().unwrap_or(0);
        if of_tenant >= METRIC_SITES_PER_TENANT_MAX || seats.values().sum::<usize>() >= METRIC_SITES_MAX {
            return Seat::Shared(Arc::clone(&self.others));
        }
        seats.insert(tenant, of_tenant + 1);
        Seat::Own(cores(self.cores.len()))
    }

    fn stand_up(&self, tenant: TenantId) {
        let mut seats = self.seats();
        if let Some(taken) = seats.get_mut(&tenant) {
            *taken -= 1;
            if *taken == 0 {
                seats.remove(&tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("a test's name")
    }

    fn meter(meters: &Meters, tenant: u64, app: u64) -> Arc<Meter> {
        meters.meter((TenantId(tenant), &name("acme")), (AppId(app), &name("shop")), &name("live"))
    }

    #[test]
    fn a_stage_keeps_its_figures_for_as_long_as_it_has_a_site() {
        let meters = Meters::new(2);
        let first = meter(&meters, 1, 1);
        assert!(first.own().is_none(), "it has had no request");
        first.counters(1).begun(StatusCode::OK, None);
        let second = meter(&meters, 1, 1);
        assert!(Arc::ptr_eq(&first, &second), "a new release is the same stage");
        drop(first);
        assert_eq!(second.own().map(|cores| cores[1].answers[0].get()), Some(1));
        drop(second);
        assert!(meters.all().is_empty());
        assert!(meters.0.seats().is_empty());
        assert!(meter(&meters, 1, 1).own().is_none(), "a new app of the name begins at nothing");
    }

    #[test]
    fn figures_are_bounded_for_a_tenant_and_for_the_box() {
        let meters = Meters::new(1);
        let per_tenant = u64::try_from(METRIC_SITES_PER_TENANT_MAX).expect("small");
        let tenants = u64::try_from(METRIC_SITES_MAX).expect("small") / per_tenant;
        let mut held = Vec::new();
        for tenant in 0..=tenants {
            for app in 0..=per_tenant {
                let meter = meter(&meters, tenant, tenant * 1_000 + app);
                meter.counters(0).begun(StatusCode::OK, None);
                let has_own = meter.own().is_some();
                assert_eq!(has_own, app < per_tenant && tenant < tenants, "{tenant} {app}");
                held.push(meter);
            }
        }
        assert_eq!(meters.others()[0].answers[0].get(), tenants + per_tenant + 1);
        held.remove(0);
        let next = meter(&meters, tenants, 9_999_999);
        next.counters(0).begun(StatusCode::OK, None);
        assert!(next.own().is_some(), "a place that came free is given again");
    }

    #[test]
    fn stages_that_come_and_go_leave_nothing() {
        let meters = Meters::new(1);
        for app in 0..10_000 {
            meter(&meters, 1, app).counters(0).begun(StatusCode::OK, None);
        }
        let held = meters.0.held.lock().expect("nobody panicked").keys();
        assert!(held <= 64, "{held}");
        assert!(meters.0.seats().is_empty());
    }
}
