//! Who may begin a handshake: it costs this box a third of a millisecond before anybody has proven anything.
//!
//! Bounded in all and for one address; and an address from which handshakes fail is turned away unheard for a while.
//! Only failures count, so that boxes behind one address are not held against each other. An attacker on the segment
//! can borrow a good box's address and have new connections from there turned away meanwhile; links that stand stay,
//! and a box that is turned away comes again.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::limits::{
    LINK_ADDRESSES_REMEMBERED_MAX, LINK_FAILURES_FORGIVEN_PER_SECOND, LINK_FAILURES_MAX, LINK_HANDSHAKES_MAX,
    LINK_HANDSHAKES_PER_ADDRESS_MAX,
};
use tokio::time::Instant;

/// What one failure takes to be forgiven.
const FORGIVEN_AFTER: Duration = Duration::from_millis(1000 / LINK_FAILURES_FORGIVEN_PER_SECOND as u64);

pub(super) struct Doors(Mutex<State>);

#[derive(Default)]
struct State {
    under_way: usize,
    addresses: HashMap<IpAddr, Address>,
}

struct Address {
    under_way: usize,
    /// When all its failures are forgiven.
    forgiven_at: Instant,
}

/// A handshake that is under way.
pub(super) struct Handshake<'a> {
    doors: &'a Doors,
    from: IpAddr,
}

impl Doors {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Lets a connection begin its handshake, or not.
    pub(super) fn enter(&self, from: IpAddr, now: Instant) -> Option<Handshake<'_>> {
        let from = party(from);
        let mut state = self.state();
        if state.under_way >= LINK_HANDSHAKES_MAX || !state.make_room(from, now) {
            return None;
        }
        let address = state.addresses.entry(from).or_insert(Address { under_way: 0, forgiven_at: now });
        let owed = address.forgiven_at.saturating_duration_since(now);
        if address.under_way >= LINK_HANDSHAKES_PER_ADDRESS_MAX || owed >= FORGIVEN_AFTER * LINK_FAILURES_MAX {
            return None;
        }
        address.under_way += 1;
        state.under_way += 1;
        Some(Handshake { doors: self, from })
    }

    /// Handshakes under way, in all.
    #[cfg(test)]
    pub(super) fn under_way(&self) -> usize {
        self.state().under_way
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Is there a place for `from`? What owes nothing and does nothing is forgotten first, then who owes the least.
    fn make_room(&mut self, from: IpAddr, now: Instant) -> bool {
        if self.addresses.len() < LINK_ADDRESSES_REMEMBERED_MAX || self.addresses.contains_key(&from) {
            return true;
        }
        self.addresses.retain(|_, address| address.under_way > 0 || address.forgiven_at > now);
        if self.addresses.len() < LINK_ADDRESSES_REMEMBERED_MAX {
            return true;
        }
        let resting = self.addresses.iter().filter(|(_, address)| address.under_way == 0);
        let Some(least) = resting.min_by_key(|(_, address)| address.forgiven_at).map(|(at, _)| *at) else {
            return false;
        };
        self.addresses.remove(&least);
        true
    }
}

impl Handshake<'_> {
    /// It led to nothing, by the other side's fault.
    pub(super) fn failed(self, now: Instant) {
        if let Some(address) = self.doors.state().addresses.get_mut(&self.from) {
            address.forgiven_at = address.forgiven_at.max(now) + FORGIVEN_AFTER;
        }
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        let mut state = self.doors.state();
        state.under_way -= 1;
        if let Some(address) = state.addresses.get_mut(&self.from) {
            address.under_way -= 1;
        }
    }
}

/// Whom an address stands for. Who has one IPv6 address of a network has the 2^64 of it; but on a segment's own
/// network, which all boxes are on, each is somebody.
fn party(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) if !address.is_unicast_link_local() => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + number).into()
    }

    #[test]
    fn handshakes_are_bounded_for_one_address_and_in_all() {
        let (doors, now) = (Doors::new(), Instant::now());
        let enter = |number| doors.enter(address(number), now);
        let ours: Vec<_> = (0..LINK_HANDSHAKES_PER_ADDRESS_MAX).map(|_| enter(1).expect("a place")).collect();
        assert!(enter(1).is_none());
        let others: Vec<_> = (2..).map_while(|number| (number < 10_000).then(|| enter(number)).flatten()).collect();
        assert_eq!(ours.len() + others.len(), LINK_HANDSHAKES_MAX);
        drop(ours);
        assert!(enter(1).is_some());
    }

    #[test]
    fn who_fails_much_is_turned_away_and_forgiven() {
        let (doors, now) = (Doors::new(), Instant::now());
        for _ in 0..LINK_FAILURES_MAX {
            doors.enter(address(1), now).expect("not yet").failed(now);
        }
        assert!(doors.enter(address(1), now).is_none());
        assert!(doors.enter(address(2), now).is_some());
        assert!(doors.enter(address(1), now + FORGIVEN_AFTER).is_some());
        // What succeeds is never held against anybody.
        for _ in 0..10 * LINK_FAILURES_MAX {
            assert!(doors.enter(address(3), now).is_some());
        }
    }

    #[test]
    fn no_flood_of_addresses_fills_the_memory_or_forgets_who_owes_most() {
        let (doors, now) = (Doors::new(), Instant::now());
        for _ in 0..LINK_FAILURES_MAX {
            doors.enter(address(0), now).expect("not yet").failed(now);
        }
        for number in 1..3 * u32::try_from(LINK_ADDRESSES_REMEMBERED_MAX).expect("a few thousand") {
            doors.enter(address(number), now).expect("a place").failed(now);
        }
        assert!(doors.state().addresses.len() <= LINK_ADDRESSES_REMEMBERED_MAX);
        assert!(doors.enter(address(0), now).is_none());
        assert_eq!(doors.under_way(), 0);
    }

    #[test]
    fn a_network_is_one_party_and_a_segment_many() {
        let of = |text: &str| party(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::2:3"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("fe80::1"), of("fe80::2"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
