//! A map that knows which entry was asked for the longest time ago, and doesn't keep the memory of those it lost:
//! `hashlink`'s keeps the places of its entries for ever.

use std::hash::Hash;

use hashlink::LinkedHashMap;

pub(super) struct Recent<K, V> {
    /// The one that was asked for last is the last.
    entries: LinkedHashMap<K, V>,
    /// Places that it has, taken or free.
    places: usize,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    pub(super) fn new() -> Self {
        Self { entries: LinkedHashMap::new(), places: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value; it is now the one that was asked for last.
    pub(super) fn get(&mut self, key: &K) -> Option<&mut V> {
        self.entries.to_back(key)
    }

    /// The value; it stays where it is.
    pub(super) fn peek_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.entries.insert(key, value);
        self.places = self.places.max(self.entries.len());
    }

    pub(super) fn oldest(&self) -> Option<&K> {
        self.entries.front().map(|(key, _)| key)
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let value = self.entries.remove(key);
        self.give_back();
        value
    }

    pub(super) fn remove_oldest(&mut self) -> Option<V> {
        let oldest = self.entries.pop_front();
        self.give_back();
        oldest.map(|(_, value)| value)
    }

    pub(super) fn retain(&mut self, mut stays: impl FnMut(&V) -> bool) {
        self.entries.retain(|_, value| stays(value));
        self.give_back();
    }

    /// Half of the places may be free. To give them back costs as much as as many removals.
    fn give_back(&mut self) {
        if self.entries.len() < self.places / 2 {
            self.entries.shrink_to_fit();
            self.places = self.entries.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_and_its_place_with_it() {
        let mut recent = Recent::new();
        (0..1_000).for_each(|number| recent.insert(number, number));
        assert_eq!(recent.get(&0).copied(), Some(0));
        assert_eq!(recent.peek_mut(&1).copied(), Some(1));
        assert_eq!(recent.oldest(), Some(&1), "a peek is no question");
        assert_eq!(recent.remove_oldest(), Some(1));
        assert_eq!(recent.remove(&2), Some(2));
        recent.retain(|number| number % 10 == 0);
        assert!(recent.places <= 2 * 100, "{}", recent.places);
        assert_eq!(recent.oldest(), Some(&10));
        while recent.remove_oldest().is_some() {}
        assert!(recent.is_empty() && recent.places <= 1);
    }
}
