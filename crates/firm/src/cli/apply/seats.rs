//! Who gets which place: a largest matching of boxes to the groups that want some.
//!
//! Taking for each place in turn the box that suits it best would leave the one group without a box that alone could have
//! used a big one. So a place that finds nobody free looks for a box that another group can do without, since that finds
//! somebody else: augmenting paths, as in any book on matchings. What has a place never loses it to somebody who comes
//! later, it only moves; so those who are to come first are let in first ([`Seats::fill`] by tiers).

use std::collections::HashMap;

/// Who is let in first: a smaller tier.
pub(super) type Tier = u8;

/// How well a box suits a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suits {
    pub(super) tier: Tier,
    /// Less is better.
    pub(super) cost: u64,
}

/// Groups with so many places each, and boxes.
pub(super) struct Seats {
    places: Vec<usize>,
    /// By group, then by box.
    suits: Vec<Vec<Option<Suits>>>,
    /// What boxes are to be spread over: of each group and box the value of the group's label, of each box its segment.
    values: Vec<Vec<u32>>,
    segments: Vec<u32>,
    held: Vec<Vec<usize>>,
    holder: Vec<Option<usize>>,
}

impl Seats {
    pub(super) fn new(
        places: Vec<usize>,
        suits: Vec<Vec<Option<Suits>>>,
        values: Vec<Vec<u32>>,
        segments: Vec<u32>,
    ) -> Self {
        let (held, holder) = (vec![Vec::new(); places.len()], vec![None; segments.len()]);
        Self { places, suits, values, segments, held, holder }
    }

    /// The boxes of a group.
    pub(super) fn of(&self, group: usize) -> &[usize] {
        &self.held[group]
    }

    /// The group of a box.
    pub(super) fn holder(&self, it: usize) -> Option<usize> {
        self.holder[it]
    }

    pub(super) fn free(&self, group: usize) -> usize {
        self.places[group].saturating_sub(self.held[group].len())
    }

    /// Fills all places that can be filled with boxes of this tier and those before. An earlier group goes first.
    pub(super) fn fill(&mut self, tier: Tier) {
        for group in 0..self.places.len() {
            while self.free(group) > 0 && self.find(group, tier, &mut vec![false; self.places.len()]) {}
        }
    }

    /// Gives a box that has no place one that is free, whether it suits or not.
    pub(super) fn put(&mut self, group: usize, it: usize) {
        debug_assert!(self.holder[it].is_none() && self.free(group) > 0, "a box has one place, and a place one box");
        self.held[group].push(it);
        self.holder[it] = Some(group);
    }

    /// One box more for `group`, from among the free or from another group that finds one instead. Its depth is bounded by
    /// the number of groups, each of which is asked once.
    fn find(&mut self, group: usize, tier: Tier, asked: &mut [bool]) -> bool {
        asked[group] = true;
        let ranked = self.ranked(group, tier);
        if let Some(free) = ranked.iter().copied().find(|it| self.holder[*it].is_none()) {
            self.held[group].push(free);
            self.holder[free] = Some(group);
            return true;
        }
        for it in ranked {
            let Some(other) = self.holder[it].filter(|other| !asked[*other]) else { continue };
            if self.find(other, tier, asked) {
                self.held[other].retain(|held| *held != it);
                self.held[group].push(it);
                self.holder[it] = Some(group);
                return true;
            }
        }
        false
    }

    /// The boxes that suit a group, the best first: of an earlier tier, then where the group has fewest, then cheap.
    fn ranked(&self, group: usize, tier: Tier) -> Vec<usize> {
        let (mut by_value, mut by_segment): (HashMap<u32, usize>, HashMap<u32, usize>) = Default::default();
        for it in &self.held[group] {
            *by_value.entry(self.values[group][*it]).or_default() += 1;
            *by_segment.entry(self.segments[*it]).or_default() += 1;
        }
        let count = |counts: &HashMap<u32, usize>, key| counts.get(&key).copied().unwrap_or(0);
        let mut ranked: Vec<_> = self.suits[group]
            .iter()
            .enumerate()
            .filter_map(|(it, suits)| Some((it, suits.filter(|suits| suits.tier <= tier)?)))
            .map(|(it, suits)| {
                let value = count(&by_value, self.values[group][it]);
                (suits.tier, value, count(&by_segment, self.segments[it]), suits.cost, it)
            })
            .collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(.., it)| it).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The most boxes that can have a place, found by trying everything.
    fn most(places: &[usize], suits: &[Vec<bool>], it: usize) -> usize {
        if it == suits.first().map_or(0, Vec::len) {
            return 0;
        }
        let mut best = most(places, suits, it + 1);
        for group in 0..places.len() {
            if places[group] > 0 && suits[group][it] {
                let mut left = places.to_vec();
                left[group] -= 1;
                best = best.max(1 + most(&left, suits, it + 1));
            }
        }
        best
    }

    fn seats(places: &[usize], suits: &[Vec<bool>], tiers: &[Tier]) -> Seats {
        let boxes = tiers.len();
        let edges = suits.iter().map(|row| {
            let edge = |(it, suits): (usize, &bool)| suits.then(|| Suits { tier: tiers[it], cost: 0 });
            row.iter().enumerate().map(edge).collect()
        });
        Seats::new(places.to_vec(), edges.collect(), vec![vec![0; boxes]; places.len()], vec![0; boxes])
    }

    proptest! {
        #[test]
        fn as_many_places_are_filled_as_can_be(
            places in proptest::collection::vec(0..3_usize, 3),
            suits in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 6), 3),
            tiers in proptest::collection::vec(0..2_u8, 6),
        ) {
            let mut seats = seats(&places, &suits, &tiers);
            seats.fill(0);
            let first: Vec<usize> = (0..6).filter(|it| seats.holder(*it).is_some()).collect();
            let early: Vec<Vec<bool>> =
                suits.iter().map(|row| row.iter().zip(&tiers).map(|(suits, tier)| *suits && *tier == 0).collect()).collect();
            prop_assert_eq!(first.len(), most(&places, &early, 0));
            seats.fill(1);
            prop_assert!(first.iter().all(|it| seats.holder(*it).is_some()), "who has a place keeps one");
            let all: usize = (0..3).map(|group| seats.of(group).len()).sum();
            prop_assert_eq!(all, most(&places, &suits, 0));
            for group in 0..3 {
                prop_assert!(seats.of(group).len() <= places[group]);
                for it in seats.of(group) {
                    prop_assert!(suits[group][*it]);
                    prop_assert_eq!(seats.holder(*it), Some(group));
                }
            }
        }
    }

    #[test]
    fn boxes_are_spread() {
        let suits = vec![vec![Some(Suits { tier: 0, cost: 0 }); 6]];
        let mut seats = Seats::new(vec![4], suits, vec![vec![0; 6]], vec![1, 1, 1, 1, 2, 2]);
        seats.fill(0);
        assert_eq!(seats.of(0), [0, 4, 1, 5], "two on each segment");
    }
}
