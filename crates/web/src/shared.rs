//! What is shared by name for as long as somebody uses it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

/// Values that live outside, by key. Whoever asks gets the one that lives, or makes it; of those that nobody has any more
/// only the keys are held, and swept out before they are more than those in use.
pub(crate) struct Shared<K, V> {
    held: HashMap<K, Weak<V>>,
    /// So many are held before those that are gone are looked for: twice as many as lived the last time, so that each
    /// costs little.
    sweep_at: usize,
}

impl<K, V> Default for Shared<K, V> {
    fn default() -> Self {
        Self { held: HashMap::new(), sweep_at: 0 }
    }
}

impl<K: Eq + Hash, V> Shared<K, V> {
    pub(crate) fn get_or_make(&mut self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        if let Some(living) = self.held.get(&key).and_then(Weak::upgrade) {
            return living;
        }
        if self.held.len() >= self.sweep_at {
            self.held.retain(|_, value| value.strong_count() > 0);
            self.sweep_at = 2 * self.held.len() + 64;
        }
        let fresh = Arc::new(make());
        self.held.insert(key, Arc::downgrade(&fresh));
        fresh
    }

    /// Keys that are held, those of the gone among them.
    #[cfg(test)]
    pub(crate) fn keys(&self) -> usize {
        self.held.len()
    }

    /// Those that live.
    pub(crate) fn living(&self) -> impl Iterator<Item = Arc<V>> {
        self.held.values().filter_map(Weak::upgrade)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_shared_while_it_lives_and_forgotten_after() {
        let mut shared = Shared::default();
        let first = shared.get_or_make(1, || "first");
        assert!(Arc::ptr_eq(&first, &shared.get_or_make(1, || "second")));
        drop(first);
        assert_eq!(*shared.get_or_make(1, || "second"), "second");
        for key in 0..1_000 {
            shared.get_or_make(key, || "gone at once");
        }
        assert!(shared.keys() <= 64 + 1, "{}", shared.keys());
        assert_eq!(shared.living().count(), 0);
    }
}
