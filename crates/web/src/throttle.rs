//! Throttles: so many requests in a period, exact on a box.
//!
//! The generic cell rate algorithm: one number a key, the time at which its bucket will be empty again. A key
//! whose time has passed is the same as a key that was never seen, so forgetting it loses nothing.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base::AppId;
use base::limits::THROTTLE_KEYS_MAX;
use hashlink::LinkedHashMap;
use state::manifest::{Throttle, ThrottleKey};

/// Shards, so that cores seldom wait for one another.
const SHARDS: usize = 16;

/// Whose requests are counted together, for which throttle.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub app: AppId,
    pub stage: base::Name,
    /// The route's prefix; none for the throttle of the whole app.
    pub route: Option<String>,
    pub client: Option<IpAddr>,
}

/// What a throttle says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may pass; so many more may come at once.
    Pass { left: u64 },
    /// Not before so long.
    Wait(Duration),
}

/// Counts the requests of every throttled key on the box.
pub(crate) struct Throttles {
    shards: [Mutex<LinkedHashMap<Key, Duration>>; SHARDS],
    hasher: RandomState,
    start: Instant,
}

impl Throttles {
    pub(crate) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new(), start: Instant::now() }
    }

    /// Counts one request.
    pub(crate) fn take(&self, throttle: &Throttle, key: Key, now: Instant) -> Verdict {
        let now = now.saturating_duration_since(self.start);
        let shard = usize::try_from(self.hasher.hash_one(&key) % SHARDS as u64).expect("less than 16");
        let mut shard = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        let empty_at = shard.remove(&key).unwrap_or_default();
        let (verdict, empty_at) = admit(throttle, empty_at, now);
        shard.insert(key, empty_at);
        // The longest untouched key goes first. It is empty, or its bucket starts full again: the bound is worth that.
        if shard.len() > THROTTLE_KEYS_MAX / SHARDS {
            shard.pop_front();
        }
        verdict
    }
}

/// One request at `now` against a bucket that is empty at `empty_at`.
fn admit(throttle: &Throttle, empty_at: Duration, now: Duration) -> (Verdict, Duration) {
    let rate = &throttle.rate;
    let each = nanos(rate.period()) / u128::from(rate.count());
    let burst = throttle.burst.map_or(rate.count(), u64::from).max(1);
    let room = each * u128::from(burst);
    let (now_ns, empty_ns) = (nanos(now), nanos(empty_at));
    let after = empty_ns.max(now_ns) + each;
    if after > now_ns + room {
        return (Verdict::Wait(span(after - now_ns - room)), empty_at);
    }
    // A rate of more than one a nanosecond limits nothing.
    let left = (now_ns + room - after).checked_div(each).unwrap_or(u128::from(burst));
    (Verdict::Pass { left: u64::try_from(left).unwrap_or(u64::MAX) }, span(after))
}

fn nanos(span: Duration) -> u128 {
    span.as_nanos()
}

fn span(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The client that an address is counted as: an IPv6 subscriber holds a whole /64.
pub(crate) fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & (u128::MAX << 64)).into()),
    }
}

/// The client part of a throttle's key.
pub(crate) fn client_key(throttle: &Throttle, address: IpAddr) -> Option<IpAddr> {
    match throttle.per {
        ThrottleKey::App => None,
        ThrottleKey::Client => Some(client(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle(rate: &str, burst: Option<u32>) -> Throttle {
        Throttle { rate: rate.parse().expect("a rate"), burst, per: ThrottleKey::App }
    }

    fn key() -> Key {
        Key { app: AppId(1), stage: "live".parse().expect("a name"), route: None, client: None }
    }

    /// So many of `tries` requests pass when they come `apart`.
    fn passed(throttle: &Throttle, tries: u32, apart: Duration) -> u32 {
        let throttles = Throttles::new();
        let start = Instant::now();
        let pass = |at: u32| matches!(throttles.take(throttle, key(), start + apart * at), Verdict::Pass { .. });
        (0..tries).map(|at| u32::from(pass(at))).sum()
    }

    #[test]
    fn a_burst_passes_and_no_more() {
        assert_eq!(passed(&throttle("10/s", Some(20)), 100, Duration::ZERO), 20);
        assert_eq!(passed(&throttle("10/s", None), 100, Duration::ZERO), 10);
    }

    #[test]
    fn the_rate_is_exact_over_time() {
        // 10 s at 100 tries a second: the burst of 10 and ten a second from then on.
        assert_eq!(passed(&throttle("10/s", None), 1_000, Duration::from_millis(10)), 10 + 99);
        assert_eq!(passed(&throttle("10/s", None), 100, Duration::from_millis(100)), 100);
    }

    #[test]
    fn who_waits_as_long_as_told_passes() {
        let throttles = Throttles::new();
        let limit = throttle("1/m", None);
        let start = Instant::now();
        assert_eq!(throttles.take(&limit, key(), start), Verdict::Pass { left: 0 });
        let Verdict::Wait(wait) = throttles.take(&limit, key(), start) else { panic!("one a minute") };
        assert!(wait <= Duration::from_mins(1), "{wait:?}");
        assert_eq!(throttles.take(&limit, key(), start + wait), Verdict::Pass { left: 0 });
    }

    #[test]
    fn keys_are_bounded() {
        let throttles = Throttles::new();
        let limit = throttle("1/m", None);
        for number in 0..2 * u32::try_from(THROTTLE_KEYS_MAX).expect("it fits") {
            let client = Some(IpAddr::V4(number.into()));
            throttles.take(&limit, Key { client, ..key() }, Instant::now());
        }
        let held: usize = throttles.shards.iter().map(|shard| shard.lock().expect("nobody panicked").len()).sum();
        assert!(held <= THROTTLE_KEYS_MAX, "{held}");
    }

    #[test]
    fn ipv6_clients_are_their_prefix() {
        let parse = |text: &str| client(text.parse().expect("an address"));
        assert_eq!(parse("2001:db8:1:2:3::4"), parse("2001:db8:1:2:ffff::1"));
        assert_ne!(parse("2001:db8:1:2::4"), parse("2001:db8:1:3::4"));
        assert_eq!(parse("::ffff:192.0.2.1"), parse("192.0.2.1"));
    }
}
