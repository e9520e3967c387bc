//! How many connections each client address holds, on all cores together.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::throttle;

/// Locks that clients are spread over: one is taken as a connection comes and as it goes.
const SHARDS: usize = 16;

pub(crate) struct Clients {
    most: u32,
    random: RandomState,
    /// No more entries than there are connections.
    shards: [Mutex<HashMap<IpAddr, u32>>; SHARDS],
}

/// A connection of a client, counted while this lives.
pub(super) struct Counted {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Clients {
    pub(crate) fn new(most: u32) -> Arc<Self> {
        Arc::new(Self { most, random: RandomState::new(), shards: Default::default() })
    }

    fn shard(&self, client: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        let hash = usize::try_from(self.random.hash_one(client) % SHARDS as u64).unwrap_or(0);
        self.shards[hash].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another connection from that address; none if its client holds as many as it may.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Counted> {
        let client = throttle::client(address);
        let mut shard = self.shard(client);
        let held = shard.entry(client).or_default();
        if *held >= self.most {
            return None;
        }
        *held += 1;
        Some(Counted { clients: Arc::clone(self), client })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut shard = self.clients.shard(self.client);
        let held = shard.get_mut(&self.client).map_or(0, |held| {
            *held -= 1;
            *held
        });
        if held == 0 {
            shard.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_holds_so_many_and_no_more() {
        let clients = Clients::new(2);
        let enter = |address: &str| clients.enter(address.parse().expect("an address"));
        let (first, _second) = (enter("192.0.2.1"), enter("::ffff:192.0.2.1"));
        assert!(first.is_some() && enter("192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some());
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        let _held = (enter("2001:db8::1"), enter("2001:db8::ffff:1"));
        assert!(enter("2001:db8::2").is_none() && enter("2001:db8:0:1::2").is_some());
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let clients = Clients::new(1);
        for number in 0..1_000_u32 {
            drop(clients.enter(IpAddr::from(number.to_be_bytes())));
        }
        assert!(clients.shards.iter().all(|shard| shard.lock().expect("no panic").is_empty()));
    }
}
