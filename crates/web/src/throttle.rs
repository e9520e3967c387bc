//! Throttles: so many requests in a period, exact on a box.
//!
//! The generic cell rate algorithm: one number a key, the time at which its bucket will be empty again. A throttle that
//! counts everybody together keeps its number itself, and nothing makes it forget. Those of clients share a bounded
//! table; a client whose time has passed is the same as one that was never seen, so forgetting it loses nothing.
//!
//! A request passes all throttles that are about it or is refused by one, the narrowest first: a visitor who is stopped
//! by its own throttle takes nothing from what everybody shares.

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use base::limits::THROTTLE_KEYS_MAX;
use base::{Digest, Rate};
use hashlink::LinkedHashMap;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use state::Ceiling;
use state::manifest::{Throttle, ThrottleKey};

use crate::answer::{Body, Page};
use crate::observe::Mark;

/// Shards, so that cores seldom wait for one another.
const SHARDS: usize = 16;

const SECOND: u128 = 1_000_000_000;

/// The largest number that a structured field has (RFC 9651, 3.3.1).
const FIELD_NUMBER_MAX: u128 = 999_999_999_999_999;

// draft-ietf-httpapi-ratelimit-headers-10.
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// When a bucket will be empty, in nanoseconds of [`Throttles`]' clock.
pub(crate) type Counter = Arc<AtomicU64>;

/// What a throttle is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    Route,
    App,
    /// All apps and stages of a tenant. Its operator's, so visitors hear of it only when it refuses them: what is left
    /// of it would tell them of the tenant's other apps.
    Tenant,
}

impl About {
    fn as_str(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::App => "app",
            Self::Tenant => "tenant",
        }
    }
}

/// Whose requests are counted together, and where.
enum Counts {
    Together(Counter),
    /// Each client's own, in the table, under this number.
    Clients(u128),
}

/// One throttle, ready to count.
pub(crate) struct Limit {
    about: About,
    rate: Rate,
    /// Nanoseconds that one request takes up, and that a full burst does.
    each: u128,
    room: u128,
    policy: String,
    counts: Counts,
}

impl Limit {
    /// A throttle of the manifest's. `name` is the stage's, and of the route in it: the same for all its releases, so
    /// that a push doesn't start the count anew.
    pub(crate) fn new(about: About, throttle: &Throttle, name: &str, counter: impl FnOnce() -> Counter) -> Self {
        let counts = match throttle.per {
            ThrottleKey::App => Counts::Together(counter()),
            ThrottleKey::Client => {
                let digest = Digest::of(name.as_bytes());
                let (first, _) = digest.as_bytes().split_first_chunk().expect("a digest has 32 bytes");
                Counts::Clients(u128::from_le_bytes(*first))
            }
        };
        Self::counting(about, &throttle.rate, throttle.burst, counts)
    }

    /// A tenant's ceiling.
    pub(crate) fn ceiling(ceiling: &Ceiling, counter: Counter) -> Self {
        Self::counting(About::Tenant, &ceiling.rate, ceiling.burst, Counts::Together(counter))
    }

    fn counting(about: About, rate: &Rate, burst: Option<u32>, counts: Counts) -> Self {
        let each = rate.period().as_nanos() / u128::from(rate.count());
        let burst = u128::from(burst.map_or(rate.count(), u64::from).max(1));
        let room = each * burst;
        // The quota is what may come at once, and its window the time in which as much comes again: both together say
        // the sustained rate too.
        let quota = burst.min(FIELD_NUMBER_MAX);
        let window = room.div_ceil(SECOND).clamp(1, FIELD_NUMBER_MAX);
        let policy = format!("\"{}\";q={quota};w={window}", about.as_str());
        Self { about, rate: *rate, each, room, policy, counts }
    }

    /// One request at `now` against a bucket that is empty at `empty_at`: the verdict, and when it is empty then.
    fn admit(&self, empty_at: u64, now: u64) -> (Verdict, u64) {
        let (now, full) = (u128::from(now), u128::from(now) + self.room);
        // A limit that was raised takes over what was counted, but no more than would fill it: who had used up a day's
        // hundred waits no day for his next under a hundred a second.
        let empty = u128::from(empty_at).clamp(now, full);
        let after = empty + self.each;
        if after > full {
            return (Verdict::Wait(after - full), u64::try_from(empty).unwrap_or(u64::MAX));
        }
        // A rate of more than one a nanosecond limits nothing.
        let left = (full - after).checked_div(self.each).unwrap_or(FIELD_NUMBER_MAX);
        // The time until one more may come: the bucket empties evenly.
        let more = (after - now).checked_rem(self.each).filter(|rest| *rest > 0).unwrap_or(self.each);
        (Verdict::Pass { left, more }, u64::try_from(after).unwrap_or(u64::MAX))
    }
}

/// What a throttle says to a request. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It may pass; so many more may come at once, and one more after this time.
    Pass { left: u128, more: u128 },
    /// Not before so long.
    Wait(u128),
}

/// All throttles that are about the requests of a route, the narrowest first.
#[derive(Default)]
pub(crate) struct Limits {
    list: Box<[Arc<Limit>]>,
    /// `RateLimit-Policy` of answers that passed.
    policy: Option<HeaderValue>,
}

/// What an answer tells of the throttles that it passed.
#[derive(Default)]
pub(crate) struct Quota(Option<(HeaderValue, HeaderValue)>);

/// A request that is refused.
pub(crate) struct TooMany<'a> {
    limit: &'a Limit,
    wait: u128,
}

impl Limits {
    pub(crate) fn new(limits: impl IntoIterator<Item = Arc<Limit>>) -> Self {
        let mut list: Vec<_> = limits.into_iter().collect();
        list.sort_by_key(|limit| (matches!(limit.counts, Counts::Together(_)), limit.about as u8));
        let shown = list.iter().filter(|limit| limit.about != About::Tenant);
        let policy = shown.map(|limit| &*limit.policy).collect::<Vec<_>>().join(", ");
        let policy = (!policy.is_empty()).then(|| HeaderValue::try_from(policy).expect("a policy is ASCII"));
        Self { list: list.into(), policy }
    }

    /// Counts one request from `client` in each of them. Costs nothing where there is none.
    pub(crate) fn admit(&self, throttles: &Throttles, client: IpAddr) -> Result<Quota, TooMany<'_>> {
        if self.list.is_empty() { Ok(Quota::default()) } else { self.admit_at(throttles, client, Instant::now()) }
    }

    fn admit_at(&self, throttles: &Throttles, client: IpAddr, now: Instant) -> Result<Quota, TooMany<'_>> {
        let now = throttles.clock(now);
        let mut told = String::new();
        for limit in &self.list {
            let (left, more) = match throttles.take(limit, client, now) {
                Verdict::Pass { left, more } => (left, more),
                Verdict::Wait(wait) => return Err(TooMany { limit, wait }),
            };
            if limit.about != About::Tenant {
                let comma = if told.is_empty() { "" } else { ", " };
                let (name, left, more) = (limit.about.as_str(), left.min(FIELD_NUMBER_MAX), seconds(more));
                write!(told, "{comma}\"{name}\";r={left};t={more}").expect("a String takes it");
            }
        }
        let told = self.policy.clone().zip(HeaderValue::try_from(told).ok());
        Ok(Quota(told))
    }
}

impl Quota {
    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        if let Some((policy, limit)) = self.0 {
            headers.insert(POLICY, policy);
            headers.insert(LIMIT, limit);
        }
    }
}

impl TooMany<'_> {
    pub(crate) fn answer(&self, id: &str) -> Response<Body> {
        let Limit { about, rate, policy, counts, .. } = self.limit;
        let wait = seconds(self.wait);
        let whose = match (about, counts) {
            (About::Tenant, _) => "All apps of this tenant together take",
            (About::App, Counts::Together(_)) => "This app takes",
            (About::App, Counts::Clients(_)) => "From each client this app takes",
            (About::Route, Counts::Together(_)) => "This part of the app takes",
            (About::Route, Counts::Clients(_)) => "From each client this part of the app takes",
        };
        let ceiling = if *about == About::Tenant { ", a ceiling that the operator set" } else { "" };
        let help = format!("{whose} {rate} requests{ceiling}. Try again in {wait} s.");
        let page = Page { status: StatusCode::TOO_MANY_REQUESTS, said: "Too many requests.", help: &help };
        let mut answer = page.answer(id);
        answer.extensions_mut().insert(Mark::Throttled);
        let headers = answer.headers_mut();
        let told = format!("\"{}\";r=0;t={wait}", about.as_str());
        for (name, value) in [(header::RETRY_AFTER, wait.to_string()), (POLICY, policy.clone()), (LIMIT, told)] {
            headers.insert(name, HeaderValue::try_from(value).expect("names and numbers are ASCII"));
        }
        answer
    }
}

/// Whole seconds, at least one: who waits as long as told mustn't come too early.
fn seconds(nanos: u128) -> u128 {
    nanos.div_ceil(SECOND).clamp(1, FIELD_NUMBER_MAX)
}

/// The clock of all throttles, and the clients that they count.
pub(crate) struct Throttles {
    shards: [Mutex<LinkedHashMap<(u128, IpAddr), u64>>; SHARDS],
    hasher: RandomState,
    start: Instant,
}

impl Throttles {
    pub(crate) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new(), start: Instant::now() }
    }

    /// Nanoseconds since the start: enough for 584 years.
    fn clock(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    fn take(&self, limit: &Limit, address: IpAddr, now: u64) -> Verdict {
        match &limit.counts {
            Counts::Together(counter) => together(limit, counter, now),
            Counts::Clients(number) => {
                let key = (*number, client(address));
                let shard = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).expect("less than 16");
                let mut shard = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
                let (verdict, empty_at) = limit.admit(shard.remove(&key).unwrap_or_default(), now);
                shard.insert(key, empty_at);
                // The longest untouched client goes first. Its bucket is empty, or starts empty again: the bound is
                // worth that.
                if shard.len() > THROTTLE_KEYS_MAX / SHARDS {
                    shard.pop_front();
                }
                verdict
            }
        }
    }
}

/// Counts without a lock: whoever comes second to a number counts again from what the first left.
fn together(limit: &Limit, counter: &AtomicU64, now: u64) -> Verdict {
    let mut held = counter.load(Ordering::Relaxed);
    loop {
        let (verdict, next) = limit.admit(held, now);
        if next == held {
            return verdict;
        }
        match counter.compare_exchange_weak(held, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return verdict,
            Err(other) => held = other,
        }
    }
}

/// The client that an address is counted as: an IPv6 subscriber holds a whole /64.
pub(crate) fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & (u128::MAX << 64)).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn limit(about: About, rate: &str, burst: Option<u32>, per: ThrottleKey) -> Arc<Limit> {
        let throttle = Throttle { rate: rate.parse().expect("a rate"), burst, per };
        Arc::new(Limit::new(about, &throttle, "1/live", Counter::default))
    }

    fn limits(rate: &str, burst: Option<u32>) -> Limits {
        Limits::new([limit(About::App, rate, burst, ThrottleKey::App)])
    }

    /// So many of `tries` requests pass when they come `apart`.
    fn passed(limits: &Limits, tries: u32, apart: Duration) -> u32 {
        let throttles = Throttles::new();
        let start = Instant::now();
        (0..tries).map(|at| u32::from(limits.admit_at(&throttles, HERE, start + apart * at).is_ok())).sum()
    }

    #[test]
    fn a_burst_passes_and_no_more() {
        assert_eq!(passed(&limits("10/s", Some(20)), 100, Duration::ZERO), 20);
        assert_eq!(passed(&limits("10/s", None), 100, Duration::ZERO), 10);
        let clients = Limits::new([limit(About::App, "10/s", None, ThrottleKey::Client)]);
        assert_eq!(passed(&clients, 100, Duration::ZERO), 10);
    }

    #[test]
    fn the_rate_is_exact_over_time() {
        // 10 s at 100 tries a second: the burst of 10 and ten a second from then on.
        assert_eq!(passed(&limits("10/s", None), 1_000, Duration::from_millis(10)), 10 + 99);
        assert_eq!(passed(&limits("10/s", None), 100, Duration::from_millis(100)), 100);
    }

    #[test]
    fn periods_and_rates_may_be_of_any_size() {
        assert_eq!(passed(&limits("1/18446744073709551615ms", None), 3, Duration::from_hours(9_000)), 1);
        assert_eq!(passed(&limits("18446744073709551615/ms", None), 100, Duration::ZERO), 100);
        assert_eq!(passed(&limits("1/18446744073709551615ms", Some(u32::MAX)), 100, Duration::ZERO), 100);
    }

    #[test]
    fn who_waits_as_long_as_told_passes() {
        let throttles = Throttles::new();
        let limits = limits("1/m", None);
        let start = Instant::now();
        assert!(limits.admit_at(&throttles, HERE, start).is_ok());
        let wait = limits.admit_at(&throttles, HERE, start).err().expect("one a minute").wait;
        assert_eq!(seconds(wait), 60);
        let later = start + Duration::from_nanos(u64::try_from(wait).expect("a minute"));
        assert!(limits.admit_at(&throttles, HERE, later).is_ok());
    }

    #[test]
    fn a_limit_that_was_raised_holds_nobody_to_what_it_was() {
        let (slow, fast) =
            (limit(About::App, "1/d", None, ThrottleKey::App), limit(About::App, "100/s", None, ThrottleKey::App));
        let now = 5;
        let (first, counted) = slow.admit(0, now);
        assert!(matches!(first, Verdict::Pass { .. }));
        assert!(matches!(slow.admit(counted, now).0, Verdict::Wait(wait) if seconds(wait) == 86_400));
        // What was counted is all that the new one takes at once, and a hundredth of a second later there is room for one.
        let (verdict, counted) = fast.admit(counted, now);
        assert_eq!(verdict, Verdict::Wait(10_000_000));
        assert!(matches!(fast.admit(counted, now + 10_000_000).0, Verdict::Pass { left: 0, .. }));
    }

    #[test]
    fn cores_count_together_exactly() {
        let (throttles, limits) = (Throttles::new(), limits("1000/d", None));
        let now = Instant::now();
        let passed: usize = thread::scope(|scope| {
            let count = || (0..1_000).filter(|_| limits.admit_at(&throttles, HERE, now).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it doesn't panic")).sum()
        });
        assert_eq!(passed, 1_000);
    }

    #[test]
    fn answers_tell_what_is_left_but_of_the_ceiling() {
        let throttles = Throttles::new();
        let ceiling = Ceiling { rate: "500/s".parse().expect("a rate"), burst: None };
        let limits = Limits::new([
            Arc::new(Limit::ceiling(&ceiling, Counter::default())),
            limit(About::App, "100/s", Some(200), ThrottleKey::App),
            limit(About::Route, "10/5m", None, ThrottleKey::Client),
        ]);
        let mut headers = HeaderMap::new();
        limits.admit(&throttles, HERE).ok().expect("it is the first").tell(&mut headers);
        assert_eq!(headers[POLICY], r#""route";q=10;w=300, "app";q=200;w=2"#);
        assert_eq!(headers[LIMIT], r#""route";r=9;t=30, "app";r=199;t=1"#);
    }

    #[test]
    fn the_narrowest_refuses_first_and_takes_nothing_from_the_others() {
        let throttles = Throttles::new();
        let app = limit(About::App, "3/d", None, ThrottleKey::App);
        let route = limit(About::Route, "1/d", None, ThrottleKey::Client);
        let limits = Limits::new([Arc::clone(&app), route]);
        for _ in 0..10 {
            let _ = limits.admit(&throttles, HERE);
        }
        let others = Limits::new([app]);
        assert!(others.admit(&throttles, HERE).is_ok() && others.admit(&throttles, HERE).is_ok());
        let answer = others.admit(&throttles, HERE).err().expect("three a day").answer("7");
        assert_eq!(answer.headers()[LIMIT], r#""app";r=0;t=28800"#);
        assert_eq!(answer.headers()[header::RETRY_AFTER], "28800");
    }

    #[test]
    fn clients_are_bounded() {
        let throttles = Throttles::new();
        let limits = Limits::new([limit(About::App, "1/m", None, ThrottleKey::Client)]);
        for number in 0..2 * u32::try_from(THROTTLE_KEYS_MAX).expect("it fits") {
            let _ = limits.admit(&throttles, IpAddr::V4(number.into()));
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
