//! Places: so many API requests run at once on a box, and so many of them for one tenant.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base::TenantId;
use base::limits::{API_REQUESTS_AT_ONCE, API_REQUESTS_PER_TENANT_AT_ONCE};

/// Who runs how many requests. Operators, and who needs no token, count for none of the tenants.
#[derive(Default)]
pub(crate) struct Places(Mutex<Held>);

#[derive(Default)]
struct Held {
    all: usize,
    tenants: HashMap<TenantId, usize>,
}

/// A request's place, until it is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    tenant: Option<TenantId>,
}

impl Places {
    /// None when all are taken, or all that the tenant may have.
    pub(crate) fn take(self: &Arc<Self>, tenant: Option<TenantId>) -> Option<Place> {
        let mut held = self.lock();
        if held.all >= API_REQUESTS_AT_ONCE {
            return None;
        }
        if let Some(tenant) = tenant {
            let own = held.tenants.entry(tenant).or_default();
            if *own >= API_REQUESTS_PER_TENANT_AT_ONCE {
                return None;
            }
            *own += 1;
        }
        held.all += 1;
        Some(Place { places: Arc::clone(self), tenant })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.lock();
        held.all -= 1;
        if let Some(tenant) = self.tenant
            && let Some(own) = held.tenants.get_mut(&tenant)
        {
            *own -= 1;
            if *own == 0 {
                held.tenants.remove(&tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenant_leaves_places_to_the_others() {
        let places = Arc::new(Places::default());
        let one: Vec<_> = (0..API_REQUESTS_PER_TENANT_AT_ONCE).map_while(|_| places.take(Some(TenantId(1)))).collect();
        assert_eq!(one.len(), API_REQUESTS_PER_TENANT_AT_ONCE);
        assert!(places.take(Some(TenantId(1))).is_none());
        assert!(places.take(Some(TenantId(2))).is_some());
        drop(one);
        assert!(places.take(Some(TenantId(1))).is_some());
        let held = places.lock();
        assert!(held.all == 0 && held.tenants.is_empty());
    }

    #[test]
    fn the_box_has_so_many() {
        let places = Arc::new(Places::default());
        let all: Vec<_> = (0..API_REQUESTS_AT_ONCE).map_while(|_| places.take(None)).collect();
        assert_eq!(all.len(), API_REQUESTS_AT_ONCE);
        assert!(places.take(None).is_none());
    }
}
