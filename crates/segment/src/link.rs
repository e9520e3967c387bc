//! Links: calls between the boxes of a cloud, over connections that stand for hours.
//!
//! A link goes from the box that calls to the box that answers, one TCP and TLS connection for each [`Class`], so that
//! bulk never stands before control. Many calls are in flight on it and are answered in any order. What waits is
//! bounded everywhere and refused at once beyond the bound; each call's deadline travels with it. Whoever calls learns
//! one of: the answer; refused by the other side's handler; nothing happened; it may have happened ([`CallError`]).
//!
//! Who may speak is judged in the handshake, again when roots, certificates or the record change, and for each call:
//! an evicted box's links end at once. When a box's certificate is renewed each of its links dials anew beside the old
//! connection, which ends once its calls are answered.
//!
//! *Invariant*: no frame is read or written before both sides are judged. There is no streaming and no priority within a
//! class: who has more than a body holds calls it in parts.

mod accepted;
mod call;
mod dial;
mod dialled;
mod doors;
mod frame;
mod outbox;
mod tls;
mod wire;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use base::limits::{
    LINK_ADDRESSES_MAX, LINK_BACKOFF_MAX, LINK_BACKOFF_MIN, LINK_BOXES_MAX, LINK_BULK_BYTES_MAX,
    LINK_BULK_BYTES_WAITING_MAX, LINK_BULK_CALLS_MAX, LINK_CALL_TIME_MAX, LINK_CALLS_WAITING_MAX,
    LINK_CONTROL_BYTES_MAX, LINK_CONTROL_BYTES_WAITING_MAX, LINK_CONTROL_CALLS_MAX, LINK_DATA_BYTES_MAX,
    LINK_DATA_BYTES_WAITING_MAX, LINK_DATA_CALLS_MAX, LINK_DIAL_STAGGER, LINK_DIAL_TIME_MAX, LINK_FRAME_TIME_MAX,
    LINK_HANDSHAKE_TIME_MAX, LINK_IDLE_MAX, LINK_JUDGE_EVERY, LINK_LANES_MAX, LINK_PING_AFTER, LINK_REDIAL_SPREAD,
    LINK_SILENCE_MAX,
};
use base::{BoxId, CloudId};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::authority::{Certificate, Clock, Distrust, Subject, Trust};
use crate::identity::{Identity, IdentityError};
use call::{Ask, Held};
use dialled::Standing;
use doors::Doors;
use tls::{Beliefs, Shown};

pub(crate) use tls::no_tls12;

pub use call::{CallError, Refused, Unknown, Unreachable};
pub use dial::DialError;

/// What a call is about. Each class has connections of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// Votes, orders, news: small, and never behind anything large.
    Control,
    /// Reads and writes that a visitor waits for.
    Data,
    /// Chunks and snapshots.
    Bulk,
}

impl Class {
    pub const ALL: [Self; 3] = [Self::Control, Self::Data, Self::Bulk];

    /// Bytes of a body or an answer.
    #[must_use]
    pub fn body_bytes_max(self) -> usize {
        match self {
            Self::Control => LINK_CONTROL_BYTES_MAX,
            Self::Data => LINK_DATA_BYTES_MAX,
            Self::Bulk => LINK_BULK_BYTES_MAX,
        }
    }

    /// Calls in flight on one connection.
    #[must_use]
    pub fn calls_max(self) -> usize {
        match self {
            Self::Control => LINK_CONTROL_CALLS_MAX,
            Self::Data => LINK_DATA_CALLS_MAX,
            Self::Bulk => LINK_BULK_CALLS_MAX,
        }
    }

    fn bytes_waiting_max(self) -> usize {
        match self {
            Self::Control => LINK_CONTROL_BYTES_WAITING_MAX,
            Self::Data => LINK_DATA_BYTES_WAITING_MAX,
            Self::Bulk => LINK_BULK_BYTES_WAITING_MAX,
        }
    }

    /// The ALPN name. Its number is that of the frames.
    fn protocol(self) -> &'static [u8] {
        match self {
            Self::Control => b"firmament-1/control",
            Self::Data => b"firmament-1/data",
            Self::Bulk => b"firmament-1/bulk",
        }
    }

    fn of_protocol(protocol: Option<&[u8]>) -> Option<Self> {
        Self::ALL.into_iter().find(|class| Some(class.protocol()) == protocol)
    }
}

/// What the record says of a box: is it enrolled, with these roles, and not evicted? Asked in each handshake and for
/// each call, so it looks and doesn't wait.
pub trait Admission: Send + Sync + 'static {
    fn admits(&self, subject: &Subject) -> bool;
}

impl<F: Fn(&Subject) -> bool + Send + Sync + 'static> Admission for F {
    fn admits(&self, subject: &Subject) -> bool {
        self(subject)
    }
}

/// Who calls, as a handler is told.
#[derive(Clone, Debug)]
pub struct Caller {
    pub subject: Arc<Subject>,
    pub class: Class,
    /// When the caller gives up. The handler is dropped then: what must finish runs in a task of its own.
    pub deadline: Instant,
}

/// How long links wait for what. A node has [`Pace::of_limits`]; tests have a quicker one.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub handshake_max: Duration,
    pub dial_max: Duration,
    pub dial_stagger: Duration,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    pub ping_after: Duration,
    pub silence_max: Duration,
    pub frame_max: Duration,
    pub idle_max: Duration,
    pub judge_every: Duration,
    pub redial_spread: Duration,
}

impl Pace {
    #[must_use]
    pub const fn of_limits() -> Self {
        Self {
            handshake_max: LINK_HANDSHAKE_TIME_MAX,
            dial_max: LINK_DIAL_TIME_MAX,
            dial_stagger: LINK_DIAL_STAGGER,
            backoff_min: LINK_BACKOFF_MIN,
            backoff_max: LINK_BACKOFF_MAX,
            ping_after: LINK_PING_AFTER,
            silence_max: LINK_SILENCE_MAX,
            frame_max: LINK_FRAME_TIME_MAX,
            idle_max: LINK_IDLE_MAX,
            judge_every: LINK_JUDGE_EVERY,
            redial_spread: LINK_REDIAL_SPREAD,
        }
    }
}

/// Why a box has no links, or doesn't take a new certificate or new roots.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    #[error("the box's key can't be used for its links")]
    Identity(#[source] IdentityError),
    #[error("TLS takes no such key")]
    Key(#[source] rustls::Error),
    #[error("the box's own certificate is not believed: ask the authority for another one")]
    Certificate(#[source] Distrust),
    #[error("the certificate is for the box {found}, and this is {me}")]
    Other { me: BoxId, found: BoxId },
    #[error("the roots are those of the cloud {found}, and this box is of {ours}")]
    Cloud { ours: CloudId, found: CloudId },
    #[error("a box has {LINK_ADDRESSES_MAX} addresses at the most, and {to} was given {count}")]
    Addresses { to: BoxId, count: usize },
    #[error("links to {LINK_BOXES_MAX} boxes are known already, and {to} would be one more")]
    Boxes { to: BoxId },
}

/// What changed, for all connections to look at.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    /// How often a certificate was shown anew.
    shown: u64,
    is_closed: bool,
}

/// What connections share. It holds none of them, so that they end when [`Links`] is dropped.
struct Core {
    me: BoxId,
    beliefs: Arc<Beliefs>,
    shown: Arc<Shown>,
    pace: Pace,
    epoch: watch::Sender<Epoch>,
    addresses: Mutex<HashMap<BoxId, Addresses>>,
    doors: Doors,
    accepted: Mutex<HashMap<BoxId, usize>>,
    accepted_in_all: AtomicUsize,
}

/// Where a box may be, and which of the places worked last.
struct Addresses {
    all: Vec<SocketAddr>,
    good: Option<SocketAddr>,
}

/// One way to one box.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Way {
    to: BoxId,
    class: Class,
    lane: u8,
}

/// A way, and the task at its end.
#[derive(Clone)]
struct Line {
    asks: mpsc::Sender<Ask>,
    bytes_waiting: Arc<AtomicUsize>,
    standing: Arc<Mutex<Standing>>,
}

/// All links of a box. Cheap to clone; made once, used from any runtime.
#[derive(Clone)]
pub struct Links {
    core: Arc<Core>,
    lines: Arc<Lines>,
    lane: u8,
}

struct Lines {
    /// Swapped whole: each call reads it, and it changes when a box comes or goes.
    map: ArcSwap<HashMap<Way, Line>>,
    /// Held to change the map.
    change: Mutex<()>,
    busy: AtomicU64,
}

/// How a link stands.
#[derive(Clone, Debug)]
pub struct LinkState {
    pub to: BoxId,
    pub class: Class,
    pub lane: u8,
    /// The address of the connection that stands.
    pub address: Option<SocketAddr>,
    /// How often this box had shown a new certificate when that connection was made.
    pub shown: u64,
    /// Connections that were made so far.
    pub connections: u64,
    /// Why none stands, if one was tried.
    pub why: Option<String>,
}

impl Links {
    /// Links for the box of `identity`, which shows `certificate` and believes `trust`. Nothing is dialled before it is
    /// called, and nothing accepted before [`Links::serve`].
    pub fn new(
        identity: &Identity,
        certificate: &Certificate,
        trust: Trust,
        admission: impl Admission,
        clock: impl Clock,
        pace: Pace,
    ) -> Result<Self, LinksError> {
        let me = identity.id();
        check_own(&trust, certificate, me, &clock)?;
        let shown = Arc::new(Shown::new(identity, certificate)?);
        let (admission, clock) = (Arc::new(admission), Arc::new(clock));
        let beliefs = Arc::new(Beliefs { trust: ArcSwap::from_pointee(trust), admission, clock });
        let core = Core {
            me,
            beliefs,
            shown,
            pace,
            epoch: watch::Sender::new(Epoch { shown: 0, is_closed: false }),
            addresses: Mutex::default(),
            doors: Doors::new(),
            accepted: Mutex::default(),
            accepted_in_all: AtomicUsize::new(0),
        };
        let lines = Lines { map: ArcSwap::default(), change: Mutex::new(()), busy: AtomicU64::new(0) };
        Ok(Self { core: Arc::new(core), lines: Arc::new(lines), lane: 0 })
    }

    /// The same links by connections of their own: a core that calls much takes its own lane, and its calls are not
    /// handed from core to core. Numbers beyond [`LINK_LANES_MAX`] share.
    #[must_use]
    pub fn lane(&self, number: usize) -> Self {
        let lane = u8::try_from(number % usize::from(LINK_LANES_MAX)).expect("less than the lanes there are");
        Self { lane, ..self.clone() }
    }

    pub fn me(&self) -> BoxId {
        self.core.me
    }

    /// Calls `method` on the box `to`. The deadline is cut to [`LINK_CALL_TIME_MAX`] from now.
    ///
    /// When this future is dropped, the call isn't sent any more; if it was, the other side may still carry it out.
    pub async fn call(
        &self,
        to: BoxId,
        class: Class,
        method: u16,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        let bytes = body.len();
        if bytes > class.body_bytes_max() {
            return Err(CallError::TooLong { to, bytes, max: class.body_bytes_max() });
        }
        let deadline = deadline.min(Instant::now() + LINK_CALL_TIME_MAX);
        let (reply, answer) = oneshot::channel();
        let held = Held::new();
        let mut ask = Ask { method, body, deadline, held: held.clone(), reply };
        let mut line = self.line(Way { to, class, lane: self.lane })?;
        for _ in 0..2 {
            if line.bytes_waiting.fetch_add(bytes, Ordering::Relaxed) + bytes > class.bytes_waiting_max() {
                line.bytes_waiting.fetch_sub(bytes, Ordering::Relaxed);
                break;
            }
            ask = match line.asks.try_send(ask) {
                Ok(()) => return call::wait(to, deadline, &held, answer).await,
                Err(mpsc::error::TrySendError::Full(ask)) => {
                    line.bytes_waiting.fetch_sub(bytes, Ordering::Relaxed);
                    drop(ask);
                    break;
                }
                // The runtime that the line's task ran on is gone, or the box was dropped meanwhile.
                Err(mpsc::error::TrySendError::Closed(ask)) => ask,
            };
            line = self.line(Way { to, class, lane: self.lane })?;
        }
        self.lines.busy.fetch_add(1, Ordering::Relaxed);
        Err(CallError::Busy { to })
    }

    /// Answers calls that come to `listener`, until [`Links::close`]. May run for several listeners and on several
    /// runtimes; each connection stays on the one that accepted it.
    ///
    /// A handler is polled once where its call was read: one that has its answer at hand costs no task.
    pub async fn serve<H, F>(&self, listener: TcpListener, handler: H)
    where
        H: Fn(Caller, u16, Bytes) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Bytes, Refused>> + Send + 'static,
    {
        accepted::serve(self.core.clone(), listener, Arc::new(handler)).await;
    }

    /// Where `to` may be, the likeliest first. A connection that stands stays.
    pub fn set_addresses(&self, to: BoxId, all: Vec<SocketAddr>) -> Result<(), LinksError> {
        if all.len() > LINK_ADDRESSES_MAX {
            return Err(LinksError::Addresses { to, count: all.len() });
        }
        let mut addresses = self.core.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() >= LINK_BOXES_MAX && !addresses.contains_key(&to) {
            return Err(LinksError::Boxes { to });
        }
        let good = addresses.get(&to).and_then(|known| known.good).filter(|good| all.contains(good));
        addresses.insert(to, Addresses { all, good });
        Ok(())
    }

    /// Whose addresses are known.
    pub fn boxes(&self) -> Vec<BoxId> {
        self.core.addresses.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Forgets where `to` is and ends all links to it at once; calls in flight are unknown. What it dialled ends too if
    /// the record admits it no more.
    pub fn drop_box(&self, to: BoxId) {
        self.core.addresses.lock().unwrap_or_else(PoisonError::into_inner).remove(&to);
        self.change(|map| map.retain(|way, _| way.to != to));
        self.judge_all();
    }

    /// Judges the other side of every connection anew: to be called when the record changed whom it admits.
    pub fn judge_all(&self) {
        self.core.epoch.send_modify(|_| {});
    }

    /// Shows `certificate` from here on. Each link dials anew at some moment within [`Pace::redial_spread`] and ends its
    /// old connection once that has answered what is in flight.
    pub fn renew(&self, certificate: &Certificate) -> Result<(), LinksError> {
        check_own(&self.core.beliefs.trust.load(), certificate, self.core.me, &*self.core.beliefs.clock)?;
        self.core.shown.show(certificate);
        self.core.epoch.send_modify(|epoch| epoch.shown += 1);
        Ok(())
    }

    /// Believes these roots from here on. Connections that none of them stands for end at once.
    pub fn set_trust(&self, trust: Trust) -> Result<(), LinksError> {
        let (ours, found) = (self.core.beliefs.trust.load().cloud(), trust.cloud());
        if ours != found {
            return Err(LinksError::Cloud { ours, found });
        }
        self.core.beliefs.trust.store(Arc::new(trust));
        self.judge_all();
        Ok(())
    }

    /// Ends every connection and every [`Links::serve`]. Calls in flight are unknown.
    pub fn close(&self) {
        self.core.epoch.send_modify(|epoch| epoch.is_closed = true);
        self.change(HashMap::clear);
    }

    /// How the links of this box stand, for people.
    pub fn states(&self) -> Vec<LinkState> {
        let state = |(way, line): (&Way, &Line)| {
            let standing = line.standing.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let (Way { to, class, lane }, Standing { address, shown, connections, why }) = (*way, standing);
            LinkState { to, class, lane, address, shown, connections, why }
        };
        self.lines.map.load().iter().map(state).collect()
    }

    /// Connections that were accepted and stand.
    pub fn accepted(&self) -> usize {
        self.core.accepted_in_all.load(Ordering::Relaxed)
    }

    /// Calls that were refused at once because too many waited.
    pub fn busy(&self) -> u64 {
        self.lines.busy.load(Ordering::Relaxed)
    }

    /// The line of `way`, made if there is none whose task lives.
    fn line(&self, way: Way) -> Result<Line, CallError> {
        if let Some(line) = self.lines.map.load().get(&way)
            && !line.asks.is_closed()
        {
            return Ok(line.clone());
        }
        let _change = self.lines.change.lock().unwrap_or_else(PoisonError::into_inner);
        let map = self.lines.map.load();
        if let Some(line) = map.get(&way)
            && !line.asks.is_closed()
        {
            return Ok(line.clone());
        }
        let unreachable = |why| CallError::Unreachable { to: way.to, why };
        if self.core.epoch.borrow().is_closed {
            return Err(unreachable(Unreachable::Closed));
        }
        if !self.core.addresses.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&way.to) {
            return Err(unreachable(Unreachable::Dial(Arc::new(DialError::NoAddress))));
        }
        let (asks, asked) = mpsc::channel(LINK_CALLS_WAITING_MAX);
        let line = Line { asks, bytes_waiting: Arc::default(), standing: Arc::default() };
        // It ends when the line is taken from the map, and its runtime may end it sooner.
        tokio::spawn(dialled::run(self.core.clone(), way, asked, line.bytes_waiting.clone(), line.standing.clone()));
        let mut changed = HashMap::clone(&map);
        changed.insert(way, line.clone());
        self.lines.map.store(Arc::new(changed));
        Ok(line)
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<Way, Line>)) {
        let _change = self.lines.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut map = HashMap::clone(&self.lines.map.load());
        change(&mut map);
        self.lines.map.store(Arc::new(map));
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Links({})", self.core.me.long_name())
    }
}

/// A box that shows what others won't believe had better know it before they tell.
fn check_own(trust: &Trust, certificate: &Certificate, me: BoxId, clock: &dyn Clock) -> Result<(), LinksError> {
    let subject = trust.judge(&certificate.der, clock.now()).map_err(LinksError::Certificate)?;
    if subject.id != me {
        return Err(LinksError::Other { me, found: subject.id });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
