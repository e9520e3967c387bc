//! What a connection does, as its core sees it: enough to tell who is idle, who is slow, and who only makes work.
//!
//! There is no timer a request or a connection. Reads, writes and requests leave numbers in cells; once a second the
//! core looks at all of its connections ([`Pulse::look`]) and gives its orders. So every time limit here may be
//! overrun by a second, and costs a request nothing but a few additions.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use base::limits::{
    CONNECTIONS_EVICTED_SHARE, HEADERS_TIME_MAX, IDLE_TIME_MAX, REQUESTS_CANCELLED_MIN, TRANSFER_BYTES_PER_SECOND_MIN,
    TRANSFER_GRACE, TRANSFER_OF_STREAMS_TIME_MAX,
};

/// Whole seconds since the core began.
type Second = u64;

/// A connection that was told to finish, and has nothing to finish, is cut after this.
const FAREWELL_SECONDS: Second = 5;

/// What a connection is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Serve,
    /// Finish what is under way, then close.
    Finish,
    /// Close now: there is no visitor worth an answer.
    Cut(Why),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// It was told to finish, had nothing to finish, and stayed.
    Stayed,
    /// A request's head didn't come to its end in time.
    SlowHead,
    /// An answer lies ready, and is hardly taken.
    SlowReader,
    /// It asks, and takes back more than half of what it asked.
    Cancels,
    /// The core's places are taken, and this one has been idle for longest.
    Room,
}

/// What lies ready for the visitor and is not taken, from when on.
#[derive(Clone, Copy, Debug)]
struct Slow {
    since: Second,
    written: u64,
    sent: u64,
}

#[derive(Debug)]
pub(super) struct Pulse {
    clock: Rc<Cell<Second>>,
    order: Cell<Order>,
    waker: RefCell<Option<Waker>>,
    /// A visitor of HTTP/2 may leave an answer in its stream and read everything else.
    is_http2: Cell<bool>,
    /// Bytes off and onto the wire.
    read: Cell<u64>,
    written: Cell<u64>,
    /// The wire takes no more just now.
    blocked: Cell<bool>,
    /// The visitor has said its last.
    ended: Cell<bool>,
    requests: Cell<u64>,
    cancelled: Cell<u64>,
    /// Requests whose answers haven't been handed over whole.
    under_way: Cell<u64>,
    /// Since when there is none, and what had been read by then.
    idle_since: Cell<Second>,
    idle_read: Cell<u64>,
    /// Since when there is a part of a request's head.
    head_since: Cell<Option<Second>>,
    /// Since when it should have gone.
    finish_since: Cell<Option<Second>>,
    /// Bytes of HTTP/2 answers that wait in their streams, and those that have left them.
    unsent: Cell<u64>,
    sent: Cell<u64>,
    slow: Cell<Option<Slow>>,
}

fn add(cell: &Cell<u64>, count: u64) {
    cell.set(cell.get().wrapping_add(count));
}

impl Pulse {
    fn new(clock: &Rc<Cell<Second>>) -> Self {
        let now = clock.get();
        Self {
            clock: Rc::clone(clock),
            order: Cell::new(Order::Serve),
            waker: RefCell::default(),
            is_http2: Cell::default(),
            read: Cell::default(),
            written: Cell::default(),
            blocked: Cell::default(),
            ended: Cell::default(),
            requests: Cell::default(),
            cancelled: Cell::default(),
            under_way: Cell::default(),
            idle_since: Cell::new(now),
            idle_read: Cell::default(),
            // Who connects and then says nothing gets no more than who says half a head.
            head_since: Cell::new(Some(now)),
            finish_since: Cell::default(),
            unsent: Cell::default(),
            sent: Cell::default(),
            slow: Cell::default(),
        }
    }

    /// The handshake is done. Over HTTP/1.1 the time of the first request's head begins; over HTTP/2 a connection may be
    /// opened before there is anything to ask, and is idle until then.
    pub(super) fn speaks(&self, http2: bool) {
        let now = self.clock.get();
        self.is_http2.set(http2);
        self.idle_since.set(now);
        self.head_since.set((!http2).then_some(now));
    }

    /// So many bytes were read; none is the end.
    pub(super) fn came(&self, bytes: usize) {
        if bytes == 0 {
            self.ended.set(true);
        }
        add(&self.read, bytes as u64);
    }

    pub(super) fn went(&self, polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Pending => self.blocked.set(true),
            Poll::Ready(written) => {
                self.blocked.set(false);
                add(&self.written, written.as_ref().map_or(0, |bytes| *bytes as u64));
            }
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    pub(super) fn order(&self) -> Order {
        self.order.get()
    }

    /// Gives an order, unless a harder one was given.
    pub(super) fn give(&self, order: Order) {
        match (self.order.get(), order) {
            (Order::Cut(_), _) | (_, Order::Serve) | (Order::Finish, Order::Finish) => return,
            (_, Order::Finish) => self.finish_since.set(Some(self.clock.get())),
            (_, Order::Cut(_)) => {}
        }
        self.order.set(order);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Whose connection is woken by an order.
    pub(super) fn wakes(&self, waker: &Waker) {
        let mut held = self.waker.borrow_mut();
        if !held.as_ref().is_some_and(|held| held.will_wake(waker)) {
            *held = Some(waker.clone());
        }
    }

    /// What the connection is to do, seen at `now`.
    fn look(&self, now: Second) -> Order {
        if self.is_slow(now) {
            return Order::Cut(Why::SlowReader);
        }
        if self.under_way.get() > 0 || self.blocked.get() || self.unsent.get() > 0 {
            // Its time without a request begins when the last answer has left.
            self.idle_since.set(now);
            return Order::Serve;
        }
        if self
            .finish_since
            .get()
            .is_some_and(|since| now.saturating_sub(since.max(self.idle_since.get())) > FAREWELL_SECONDS)
        {
            return Order::Cut(Why::Stayed);
        }
        // Over HTTP/2 there are other frames than requests, and whoever sends nothing else is idle.
        if self.head_since.get().is_none() && !self.is_http2.get() && self.read.get() != self.idle_read.get() {
            self.head_since.set(Some(now));
        }
        if self.head_since.get().is_some_and(|since| now.saturating_sub(since) > HEADERS_TIME_MAX.as_secs()) {
            return Order::Cut(Why::SlowHead);
        }
        if now.saturating_sub(self.idle_since.get()) > IDLE_TIME_MAX.as_secs() {
            return Order::Finish;
        }
        Order::Serve
    }

    /// Whether what lies ready is taken at less than the least rate. The rate is that of the last whole grace, so that
    /// a fast start earns no right to be slow later on.
    fn is_slow(&self, now: Second) -> bool {
        let blocked = self.blocked.get();
        if !blocked && self.unsent.get() == 0 {
            self.slow.set(None);
            return false;
        }
        let begun = Slow { since: now, written: self.written.get(), sent: self.sent.get() };
        let Some(slow) = self.slow.get() else {
            self.slow.set(Some(begun));
            return false;
        };
        let seconds = now.saturating_sub(slow.since);
        if seconds < TRANSFER_GRACE.as_secs() {
            return false;
        }
        self.slow.set(Some(begun));
        // Where the wire itself is full, all that leaves is progress, in the order in which it was written. Where streams
        // are kept waiting, answers to pings are none, and who keeps many waiting has much of the box's memory.
        if blocked {
            return begun.written.wrapping_sub(slow.written) < seconds * TRANSFER_BYTES_PER_SECOND_MIN;
        }
        let least = TRANSFER_BYTES_PER_SECOND_MIN.max(self.unsent.get() / TRANSFER_OF_STREAMS_TIME_MAX.as_secs());
        begun.sent.wrapping_sub(slow.sent) < seconds * least
    }
}

/// A request that is under way while this lives.
#[derive(Debug)]
pub(super) struct UnderWay {
    pulse: Rc<Pulse>,
    answered: bool,
}

impl UnderWay {
    pub(super) fn begin(pulse: &Rc<Pulse>) -> Self {
        add(&pulse.requests, 1);
        add(&pulse.under_way, 1);
        Self { pulse: Rc::clone(pulse), answered: false }
    }

    /// The answer's head is there.
    pub(super) fn answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let pulse = &self.pulse;
        pulse.under_way.set(pulse.under_way.get() - 1);
        if pulse.under_way.get() == 0 {
            pulse.idle_since.set(pulse.clock.get());
            pulse.idle_read.set(pulse.read.get());
            pulse.head_since.set(None);
        }
        if !self.answered {
            add(&pulse.cancelled, 1);
            let (requests, cancelled) = (pulse.requests.get(), pulse.cancelled.get());
            if requests >= REQUESTS_CANCELLED_MIN && cancelled > requests / 2 {
                pulse.give(Order::Cut(Why::Cancels));
            }
        }
    }
}

/// Bytes of an answer in its HTTP/2 stream.
#[derive(Debug)]
pub(super) struct Piece {
    bytes: bytes::Bytes,
    pulse: Rc<Pulse>,
}

impl Piece {
    pub(super) fn new(bytes: bytes::Bytes, pulse: &Rc<Pulse>) -> Self {
        add(&pulse.unsent, bytes.len() as u64);
        Self { bytes, pulse: Rc::clone(pulse) }
    }
}

impl bytes::Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.pulse.unsent.set(self.pulse.unsent.get().wrapping_sub(count as u64));
        add(&self.pulse.sent, count as u64);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // Of a stream that was reset.
        self.pulse.unsent.set(self.pulse.unsent.get().wrapping_sub(self.bytes.len() as u64));
    }
}

/// The connections of one core.
#[derive(Debug, Default)]
pub(super) struct Pulses {
    clock: Rc<Cell<Second>>,
    held: RefCell<Vec<Weak<Pulse>>>,
    draining: Cell<bool>,
}

impl Pulses {
    pub(super) fn add(&self) -> Rc<Pulse> {
        let pulse = Rc::new(Pulse::new(&self.clock));
        self.held.borrow_mut().push(Rc::downgrade(&pulse));
        pulse
    }

    /// A second has passed. Gives how many connections were cut, by reason.
    pub(super) fn tick(&self) -> BTreeMap<Why, usize> {
        let now = self.clock.get() + 1;
        self.clock.set(now);
        let mut cut = BTreeMap::new();
        self.held.borrow_mut().retain(|held| {
            let Some(pulse) = held.upgrade() else { return false };
            let order = pulse.look(now);
            if let Order::Cut(why) = order {
                *cut.entry(why).or_default() += 1;
            }
            pulse.give(if order == Order::Serve && self.draining.get() { Order::Finish } else { order });
            true
        });
        cut
    }

    /// The node drains: all finish what is under way, those too that are still to come.
    pub(super) fn drain(&self) {
        self.draining.set(true);
        for pulse in self.held.borrow().iter().filter_map(Weak::upgrade) {
            pulse.give(Order::Finish);
        }
    }

    /// Cuts those that have been idle for longest, a share of all at once, so that a flood of idle connections doesn't have
    /// them all looked at for each newcomer.
    pub(super) fn make_room(&self) -> usize {
        let is_idle = |pulse: &Rc<Pulse>| pulse.under_way.get() == 0 && pulse.order.get() == Order::Serve;
        let mut idle: Vec<Rc<Pulse>> = self.held.borrow().iter().filter_map(Weak::upgrade).filter(is_idle).collect();
        idle.sort_by_key(|pulse| pulse.idle_since.get());
        idle.truncate(idle.len().div_ceil(CONNECTIONS_EVICTED_SHARE));
        for pulse in &idle {
            pulse.give(Order::Cut(Why::Room));
        }
        idle.len()
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Buf as _, Bytes};

    use super::*;

    const HEADERS: Second = HEADERS_TIME_MAX.as_secs();
    const IDLE: Second = IDLE_TIME_MAX.as_secs();
    const GRACE: Second = TRANSFER_GRACE.as_secs();

    /// The order that a connection has after so many seconds, in each of which `does` happens.
    fn after(seconds: Second, pulses: &Pulses, pulse: &Rc<Pulse>, does: impl Fn(&Rc<Pulse>)) -> Order {
        for _ in 0..seconds {
            does(pulse);
            pulses.tick();
        }
        pulse.order()
    }

    fn answered(pulse: &Rc<Pulse>) {
        UnderWay::begin(pulse).answered();
    }

    #[test]
    fn a_head_comes_in_time_or_not_at_all() {
        let (pulses, drips) = (Pulses::default(), |pulse: &Rc<Pulse>| pulse.came(1));
        let first = pulses.add();
        assert_eq!(after(HEADERS, &pulses, &first, drips), Order::Serve);
        assert_eq!(after(1, &pulses, &first, drips), Order::Cut(Why::SlowHead));
        let later = pulses.add();
        answered(&later);
        assert_eq!(after(HEADERS, &pulses, &later, |_| ()), Order::Serve, "nothing has begun");
        assert_eq!(after(HEADERS + 1, &pulses, &later, drips), Order::Serve);
        assert_eq!(after(1, &pulses, &later, drips), Order::Cut(Why::SlowHead));
    }

    #[test]
    fn an_idle_connection_is_told_to_finish_and_cut_if_it_stays() {
        for http2 in [false, true] {
            let pulses = Pulses::default();
            let pulse = pulses.add();
            pulse.speaks(http2);
            answered(&pulse);
            // Pings, and what else may come over HTTP/2.
            let pings = |pulse: &Rc<Pulse>| pulse.came(if http2 { 17 } else { 0 });
            assert_eq!(after(IDLE, &pulses, &pulse, pings), Order::Serve);
            assert_eq!(after(1, &pulses, &pulse, pings), Order::Finish);
            assert_eq!(after(FAREWELL_SECONDS, &pulses, &pulse, pings), Order::Finish);
            assert_eq!(after(1, &pulses, &pulse, pings), Order::Cut(Why::Stayed));
        }
    }

    #[test]
    fn http2_may_be_opened_before_there_is_anything_to_ask() {
        let pulses = Pulses::default();
        let pulse = pulses.add();
        pulse.speaks(true);
        assert_eq!(after(IDLE, &pulses, &pulse, |pulse| pulse.came(17)), Order::Serve);
        assert_eq!(after(1, &pulses, &pulse, |_| ()), Order::Finish);
    }

    #[test]
    fn a_request_may_take_its_time() {
        let pulses = Pulses::default();
        let pulse = pulses.add();
        let under_way = UnderWay::begin(&pulse);
        assert_eq!(after(10 * IDLE, &pulses, &pulse, |pulse| pulse.came(1)), Order::Serve);
        drop(under_way);
        assert_eq!(after(IDLE, &pulses, &pulse, |_| ()), Order::Serve);
    }

    #[test]
    fn an_answer_is_taken_at_a_least_rate_by_the_socket() {
        let least = usize::try_from(TRANSFER_BYTES_PER_SECOND_MIN).expect("it fits");
        for (bytes, end) in [(least, Order::Serve), (least - 1, Order::Cut(Why::SlowReader))] {
            let pulses = Pulses::default();
            let pulse = pulses.add();
            let _under_way = UnderWay::begin(&pulse);
            let takes = |pulse: &Rc<Pulse>| {
                pulse.went(&Poll::Ready(Ok(bytes)));
                pulse.went(&Poll::Pending);
            };
            // The first look finds it waiting; the grace runs from then.
            assert_eq!(after(GRACE, &pulses, &pulse, takes), Order::Serve);
            assert_eq!(after(1, &pulses, &pulse, takes), end, "{bytes} bytes a second");
        }
    }

    #[test]
    fn an_answer_is_taken_at_a_least_rate_by_the_stream() {
        let least = usize::try_from(TRANSFER_BYTES_PER_SECOND_MIN).expect("it fits");
        for (bytes, end) in [(least, Order::Serve), (least - 1, Order::Cut(Why::SlowReader))] {
            let pulses = Pulses::default();
            let pulse = pulses.add();
            pulse.speaks(true);
            answered(&pulse);
            let piece = RefCell::new(Piece::new(Bytes::from(vec![0; 1 << 20]), &pulse));
            let takes = |pulse: &Rc<Pulse>| {
                piece.borrow_mut().advance(bytes);
                // Answers to pings are no progress.
                pulse.went(&Poll::Ready(Ok(1 << 16)));
            };
            assert_eq!(after(GRACE, &pulses, &pulse, takes), Order::Serve);
            assert_eq!(after(1, &pulses, &pulse, takes), end, "{bytes} bytes a second");
            drop(piece);
            assert_eq!(pulse.unsent.get(), 0);
        }
    }

    #[test]
    fn who_keeps_many_streams_waiting_takes_more() {
        let each = 4 << 20;
        for (streams, end) in [(1, Order::Serve), (64, Order::Cut(Why::SlowReader))] {
            let pulses = Pulses::default();
            let pulse = pulses.add();
            let _under_way = UnderWay::begin(&pulse);
            let pieces: Vec<_> = (0..streams).map(|_| Piece::new(Bytes::from(vec![0; each]), &pulse)).collect();
            let pieces = RefCell::new(pieces);
            let takes = |_: &Rc<Pulse>| pieces.borrow_mut()[0].advance(2_000);
            assert_eq!(after(GRACE + 1, &pulses, &pulse, takes), end, "{streams} streams");
        }
    }

    #[test]
    fn an_answer_on_its_way_is_not_idleness() {
        let pulses = Pulses::default();
        let pulse = pulses.add();
        pulse.speaks(true);
        answered(&pulse);
        let piece = RefCell::new(Piece::new(Bytes::from(vec![0; 1 << 20]), &pulse));
        assert_eq!(after(3 * IDLE, &pulses, &pulse, |_| piece.borrow_mut().advance(1_000)), Order::Serve);
        drop(piece);
        assert_eq!(after(IDLE, &pulses, &pulse, |_| ()), Order::Serve);
        assert_eq!(after(1, &pulses, &pulse, |_| ()), Order::Finish);
    }

    #[test]
    fn who_takes_back_what_it_asks_is_cut() {
        let pulses = Pulses::default();
        let pulse = pulses.add();
        for _ in 0..REQUESTS_CANCELLED_MIN / 2 {
            answered(&pulse);
        }
        for _ in 0..REQUESTS_CANCELLED_MIN / 2 {
            drop(UnderWay::begin(&pulse));
        }
        assert_eq!(pulse.order(), Order::Serve, "no more than half");
        drop(UnderWay::begin(&pulse));
        assert_eq!(pulse.order(), Order::Cut(Why::Cancels));
    }

    #[test]
    fn the_longest_idle_make_room() {
        let pulses = Pulses::default();
        let all: Vec<Rc<Pulse>> = (0..CONNECTIONS_EVICTED_SHARE)
            .map(|_| {
                pulses.tick();
                pulses.add()
            })
            .collect();
        let busy = UnderWay::begin(&all[0]);
        assert_eq!(pulses.make_room(), 1);
        let cut: Vec<usize> = (0..all.len()).filter(|number| all[*number].order() == Order::Cut(Why::Room)).collect();
        assert_eq!(cut, [1]);
        drop(busy);
        drop(all);
        pulses.tick();
        assert!(pulses.held.borrow().is_empty(), "who is gone is forgotten");
    }
}
