//! Whose turn it is on a core.
//!
//! A core has one thread, and everything on it takes turns: connections, streams, what an instance does after its answer.
//! While there is little to do a task goes on at once, as it would without this. When there is more, tasks stand in a line
//! for each tenant, and the tenant that has had least of the core goes next ([`ledger`]): one with ten thousand
//! connections, or with requests that compute, keeps itself waiting and nobody else.
//!
//! Before each turn that is likely to make the time since the core last looked at its sockets longer than [`LOOK_AFTER`], by
//! what its tenant's turns take lately, it looks again. So whoever comes waits for that long, or for the one turn that had
//! begun, which an instance's clock ends after [`base::limits::EPOCH_TICK`], or, where no request of the box computed for
//! long lately, after [`base::limits::EPOCH_TICK_AT_EASE`]. To look only when the time was over let two turns of nearly a
//! tick follow one another: both are waited for.

mod ledger;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use base::TenantId;
use base::limits::{ARRIVALS_LOOK_AGAIN, HEAVY_AFTER, LOOK_AFTER, LOOKS_IN_A_ROW_MAX};

use self::ledger::{Account, Ledger};

/// For whom a task works.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Whose {
    /// Connections that haven't asked for anything yet, all together.
    Newcomers,
    /// The management API, and what isn't a site.
    House,
    Tenant(TenantId),
}

/// Time that this thread's tasks have had since the thread last looked at its sockets. Shared with the runtime's hooks,
/// which start it anew.
#[derive(Clone, Default)]
pub(crate) struct SinceLook(Arc<Since>);

#[derive(Default)]
struct Since {
    /// In nanoseconds.
    time: AtomicU64,
    /// The thread slept, and what the clock said before says nothing any more.
    slept: AtomicBool,
}

impl SinceLook {
    pub(crate) fn looked(&self) {
        self.0.time.store(0, Ordering::Relaxed);
    }

    /// The thread has slept, and looked.
    pub(crate) fn slept(&self) {
        self.looked();
        self.0.slept.store(true, Ordering::Relaxed);
    }

    fn add(&self, time: Duration) {
        // One thread: no other writes in between.
        let time = self.0.time.load(Ordering::Relaxed).saturating_add(nanos(time));
        self.0.time.store(time, Ordering::Relaxed);
    }

    fn is_long(&self) -> bool {
        self.0.time.load(Ordering::Relaxed) >= nanos(LOOK_AFTER)
    }

    /// Whether it would be when another turn of so many nanoseconds had ended. It isn't where the thread has just looked.
    fn would_be_long(&self, turn: u64) -> bool {
        let time = self.0.time.load(Ordering::Relaxed);
        time > 0 && time.saturating_add(turn) >= nanos(LOOK_AFTER)
    }

    /// Whether it slept since this was asked last.
    fn has_slept(&self) -> bool {
        self.0.slept.load(Ordering::Relaxed) && {
            self.0.slept.store(false, Ordering::Relaxed);
            true
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

type Line = Ledger<Whose, Rc<Seat>>;
type Of = Account<Whose, Rc<Seat>>;

/// The turns of one core.
pub(crate) struct Turns {
    ledger: RefCell<Line>,
    since_look: SinceLook,
    /// Tasks that were called and have yet to come.
    called: Cell<usize>,
    /// The task that is polled just now.
    current: RefCell<Option<Rc<Seat>>>,
    /// When the last turn ended. The next begins then, unless the thread slept in between: a look at the clock costs as
    /// much as a field of an answer.
    now: Cell<Instant>,
    /// Of the task that gives the turns, while it has nothing to do.
    dealer: RefCell<Option<Waker>>,
}

/// A task's place in the line.
struct Seat {
    account: RefCell<Rc<Of>>,
    state: Cell<State>,
    waker: RefCell<Option<Waker>>,
    /// What its request has had of the core.
    spent: Cell<Duration>,
    /// It has an answer to send, and needn't stand in line for that.
    answers: Cell<bool>,
    /// It was let past the line, and is polled.
    out_of_turn: Cell<bool>,
    /// In this turn it has sent an answer without letting others go first.
    at_once: Cell<bool>,
    /// The connection that it is a stream of.
    parent: Option<Rc<Seat>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// It waits for something else, or runs.
    Free,
    InLine,
    /// It is its turn, before those who were called with it: it has it whatever happens, so that there is progress.
    First,
    /// It is its turn, unless those before it take long.
    Called,
    Gone,
}

impl Seat {
    fn new(account: Rc<Of>, spent: Duration, parent: Option<Rc<Self>>) -> Self {
        Self {
            account: RefCell::new(account),
            state: Cell::new(State::Free),
            waker: RefCell::default(),
            spent: Cell::new(spent),
            answers: Cell::new(false),
            out_of_turn: Cell::new(false),
            at_once: Cell::new(false),
            parent,
        }
    }

    fn is_heavy(&self) -> bool {
        self.spent.get() >= HEAVY_AFTER
    }

    /// How long its tenant's turns are lately, in nanoseconds.
    fn turn(&self) -> u64 {
        self.account.borrow().turn()
    }

    fn note_waker(&self, cx: &Context<'_>) {
        let mut held = self.waker.borrow_mut();
        if !held.as_ref().is_some_and(|held| held.will_wake(cx.waker())) {
            *held = Some(cx.waker().clone());
        }
    }
}

/// A seat is given up with its task.
struct Taken(Rc<Seat>, Rc<Turns>);

impl Drop for Taken {
    fn drop(&mut self) {
        if matches!(self.0.state.replace(State::Gone), State::First | State::Called) {
            self.1.came();
        }
        // It may be the last to know of whom it would wake.
        self.0.waker.take();
    }
}

impl Turns {
    pub(crate) fn new(since_look: SinceLook) -> Rc<Self> {
        let (ledger, current, dealer) = (RefCell::new(Ledger::new()), RefCell::default(), RefCell::default());
        Rc::new(Self { ledger, since_look, called: Cell::new(0), current, now: Cell::new(Instant::now()), dealer })
    }

    /// When the turn that is under way began.
    pub(crate) fn begun(&self) -> Instant {
        self.now.get()
    }

    /// Runs a connection, or what else begins here, in turns: as a newcomer until it says whom it works for.
    pub(crate) fn in_turn<F: Future>(self: Rc<Self>, task: F) -> impl Future<Output = F::Output> {
        let account = self.ledger.borrow_mut().account(Whose::Newcomers);
        self.seated(task, Seat::new(account, Duration::ZERO, None))
    }

    /// Runs a stream of the connection that calls this in turns.
    pub(crate) fn stream_in_turn<F: Future>(self: Rc<Self>, task: F) -> impl Future<Output = F::Output> {
        let connection = self.current.borrow().clone();
        let seat = Seat::new(self.account_now(), Duration::ZERO, connection);
        self.seated(task, seat)
    }

    /// Runs what is left to do for the request of the task that calls this in turns.
    pub(crate) fn rest_in_turn<F: Future>(self: Rc<Self>, task: F) -> impl Future<Output = F::Output> {
        let spent = self.current.borrow().as_ref().map(|seat| seat.spent.get()).unwrap_or_default();
        let seat = Seat::new(self.account_now(), spent, None);
        self.seated(task, seat)
    }

    /// For whom the task works that is polled just now.
    fn account_now(&self) -> Rc<Of> {
        match &*self.current.borrow() {
            Some(seat) => Rc::clone(&seat.account.borrow()),
            None => self.ledger.borrow_mut().account(Whose::Newcomers),
        }
    }

    fn seated<F: Future>(self: Rc<Self>, task: F, seat: Seat) -> impl Future<Output = F::Output> {
        let taken = Taken(Rc::new(seat), Rc::clone(&self));
        async move {
            let mut task = pin!(task);
            poll_fn(|cx| self.poll(&taken.0, cx, |cx| task.as_mut().poll(cx))).await
        }
    }

    fn poll<T>(
        &self,
        seat: &Rc<Seat>,
        cx: &mut Context<'_>,
        go_on: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let answers = seat.answers.take();
        match seat.state.get() {
            // Those who were called with it have had long: what has come meanwhile may be more urgent.
            State::Called if self.since_look.would_be_long(seat.turn()) => {
                self.came();
                self.line_up(seat, cx, |line, account| line.go_back(account, Rc::clone(seat)));
                return Poll::Pending;
            }
            State::First | State::Called => {
                self.came();
                seat.state.set(State::Free);
            }
            State::InLine => {
                seat.note_waker(cx);
                return Poll::Pending;
            }
            State::Free | State::Gone if !answers && self.is_busy(seat) => {
                self.line_up(seat, cx, |line, account| line.line_up(account, Rc::clone(seat), seat.is_heavy()));
                return Poll::Pending;
            }
            State::Free | State::Gone => {}
        }
        seat.out_of_turn.set(answers);
        seat.at_once.set(false);
        self.ledger.borrow_mut().begin(&seat.account.borrow());
        let outer = self.current.replace(Some(Rc::clone(seat)));
        if self.since_look.has_slept() {
            self.now.set(Instant::now());
        }
        let begun = self.now.get();
        let polled = go_on(cx);
        let ended = Instant::now();
        self.now.set(ended);
        let took = ended.duration_since(begun);
        self.current.replace(outer);
        // Whose it was may have come out on the way: it is their bill.
        seat.account.borrow().charge(nanos(took), seat.is_heavy());
        seat.spent.set(seat.spent.get() + took);
        self.since_look.add(took);
        if self.since_look.is_long() {
            persist::desk::send();
        }
        polled
    }

    /// One of those who were called has come, or never will.
    fn came(&self) {
        self.called.set(self.called.get() - 1);
    }

    /// Somebody stands in line or was called out of it, or the sockets would not have been looked at for too long after this
    /// one's turn.
    fn is_busy(&self, seat: &Seat) -> bool {
        self.called.get() > 0 || self.ledger.borrow().waiting() > 0 || self.since_look.would_be_long(seat.turn())
    }

    fn line_up(&self, seat: &Seat, cx: &Context<'_>, enter: impl FnOnce(&mut Line, &Rc<Of>)) {
        seat.note_waker(cx);
        seat.state.set(State::InLine);
        enter(&mut self.ledger.borrow_mut(), &seat.account.borrow());
        if let Some(dealer) = self.dealer.borrow_mut().take() {
            dealer.wake();
        }
    }

    /// What the task does from now on is a new piece of work, for `whose`. It goes on when it is their turn. If it is a stream,
    /// so is its connection's, which parses and sends for it.
    pub(crate) async fn work_for(&self, whose: Whose) {
        if self.works_for(whose) {
            others_first().await;
        }
    }

    /// As [`Self::work_for`], and says whether others go first.
    #[must_use]
    pub(crate) fn works_for(&self, whose: Whose) -> bool {
        let current = self.current.borrow();
        let Some(seat) = &*current else { return false };
        seat.spent.set(Duration::ZERO);
        if let Some(connection) = &seat.parent {
            connection.spent.set(Duration::ZERO);
            if connection.account.borrow().whose() != whose {
                connection.account.replace(self.ledger.borrow_mut().account(whose));
            }
        }
        let known = seat.account.borrow().whose() == whose;
        if !known {
            let account = self.ledger.borrow_mut().account(whose);
            seat.account.replace(account);
        }
        (!known || seat.out_of_turn.get()) && self.is_busy(seat)
    }

    /// The task's answer is ready, and is sent when the core's other tasks that can go on have done so, unless somebody stands
    /// in line whose turn may be long.
    ///
    /// What came in together is then answered together: the first answer that is sent wakes its reader, and the others find
    /// it awake. To wake it for each of them would cost more than a small request does.
    pub(crate) async fn answer_soon(&self) {
        if self.answers_soon() {
            others_first().await;
        }
    }

    /// As [`Self::answer_soon`], for who lets others go first itself: says whether to.
    #[must_use]
    pub(crate) fn answers_soon(&self) -> bool {
        // It would come in between. But only one answer a turn is sent so: who has many to send would never come to an end.
        let at_once = |seat: &Rc<Seat>| !seat.at_once.replace(true);
        if self.ledger.borrow().long_wait() && self.current.borrow().as_ref().is_some_and(at_once) {
            return false;
        }
        // Who came here past the line pays for it now: what it answers was never anybody's turn, as where there is no site.
        if let Some(seat) = &*self.current.borrow()
            && !seat.out_of_turn.get()
        {
            seat.answers.set(true);
            // It is its connection that sends it.
            if let Some(connection) = &seat.parent {
                connection.answers.set(true);
            }
        }
        true
    }

    /// Gives the turns, for as long as the core serves.
    pub(crate) async fn deal(self: Rc<Self>) {
        let mut next = VecDeque::new();
        loop {
            poll_fn(|cx| {
                if self.ledger.borrow().waiting() > 0 {
                    return Poll::Ready(());
                }
                *self.dealer.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
            let turn = self.ledger.borrow().next_turn();
            if self.since_look.would_be_long(turn) {
                self.look().await;
            }
            self.ledger.borrow_mut().next(&mut next);
            let mut call = State::First;
            for seat in next.drain(..).filter(|seat| seat.state.get() == State::InLine) {
                seat.state.set(std::mem::replace(&mut call, State::Called));
                self.called.set(self.called.get() + 1);
                if let Some(waker) = seat.waker.borrow_mut().take() {
                    waker.wake();
                }
            }
            // They have their turns before this goes on, and whoever can go on after them is in line by the next.
            others_first().await;
            others_first().await;
        }
    }

    /// Has the runtime look at the sockets, and again while many have news: who is behind them may be next.
    async fn look(&self) {
        for _ in 0..LOOKS_IN_A_ROW_MAX {
            let before = self.ledger.borrow().waiting();
            tokio::task::yield_now().await;
            if self.ledger.borrow().waiting() < before + ARRIVALS_LOOK_AGAIN {
                break;
            }
        }
        self.since_look.looked();
    }
}

/// Lets the core's other tasks that can go on do so. It costs no system call: tokio's `yield_now` looks at all sockets in
/// between, which is three.
pub(crate) async fn others_first() {
    let mut stood_back = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut stood_back, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    fn on_a_core<F: Future>(run: impl FnOnce(Rc<Turns>) -> F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let turns = Turns::new(SinceLook::default());
            tokio::task::spawn_local(Rc::clone(&turns).deal());
            run(turns).await
        })
    }

    /// Makes the core busy, as a turn of that length does.
    fn busy(turns: &Turns) {
        turns.since_look.add(LOOK_AFTER);
    }

    async fn request(turns: Rc<Turns>, tenant: u64, done: Rc<RefCell<Vec<u64>>>) {
        turns.work_for(Whose::Tenant(TenantId(tenant))).await;
        let begun = Instant::now();
        while begun.elapsed() < LOOK_AFTER / 5 {}
        done.borrow_mut().push(tenant);
    }

    #[test]
    fn tenants_take_turns_where_there_is_much_to_do() {
        let order = on_a_core(|turns| async move {
            let done = Rc::new(RefCell::new(Vec::new()));
            busy(&turns);
            let many = (0..20).map(|_| 1).chain([2, 3]);
            let tasks: Vec<_> = many
                .map(|tenant| {
                    let task = request(Rc::clone(&turns), tenant, Rc::clone(&done));
                    tokio::task::spawn_local(Rc::clone(&turns).in_turn(task))
                })
                .collect();
            for task in tasks {
                task.await.expect("it doesn't panic");
            }
            done.take()
        });
        let place = |tenant| order.iter().position(|done| *done == tenant).expect("it was served");
        assert_eq!(order.len(), 22);
        // The first who are called have half a millisecond together.
        assert!(place(2) < 10 && place(3) < 10, "{order:?}");
    }

    #[test]
    fn where_there_is_little_to_do_nobody_waits() {
        on_a_core(|turns| async move {
            let done = Rc::default();
            let mut task = pin!(Rc::clone(&turns).in_turn(request(Rc::clone(&turns), 1, Rc::clone(&done))));
            let ended = poll_fn(|cx| Poll::Ready(task.as_mut().poll(cx).is_ready())).await;
            assert!(ended, "it waited");
            assert_eq!(*done.borrow(), [1]);
        });
    }

    #[test]
    fn who_takes_long_begins_with_a_look() {
        let since = on_a_core(|turns| async move {
            let since = Rc::new(RefCell::new(Vec::new()));
            let computes = || {
                let (turns, since) = (Rc::clone(&turns), Rc::clone(&since));
                async move {
                    turns.work_for(Whose::Tenant(TenantId(1))).await;
                    for _ in 0..20 {
                        since.borrow_mut().push(turns.since_look.0.time.load(Ordering::Relaxed));
                        let begun = Instant::now();
                        // Two would be longer than a core goes without a look, and one isn't.
                        while begun.elapsed() < LOOK_AFTER * 4 / 5 {}
                        others_first().await;
                    }
                }
            };
            let tasks = [(); 3].map(|()| tokio::task::spawn_local(Rc::clone(&turns).in_turn(computes())));
            for task in tasks {
                task.await.expect("it doesn't panic");
            }
            since.take()
        });
        assert_eq!(since.len(), 60);
        // How long they take is learned from the first, and a task's last turn, which ends it, is short.
        assert!(since[8..].iter().all(|since| *since < nanos(LOOK_AFTER / 2)), "{since:?}");
    }

    #[test]
    fn who_leaves_the_line_holds_up_nobody() {
        let order = on_a_core(|turns| async move {
            let done = Rc::new(RefCell::new(Vec::new()));
            busy(&turns);
            let spawn = |tenant| {
                let task = request(Rc::clone(&turns), tenant, Rc::clone(&done));
                tokio::task::spawn_local(Rc::clone(&turns).in_turn(task))
            };
            let (gone, stays) = (spawn(1), spawn(2));
            gone.abort();
            stays.await.expect("it doesn't panic");
            assert!(gone.await.expect_err("it was aborted").is_cancelled());
            // A line with nobody in it that is still there must not count as busy for ever.
            turns.since_look.looked();
            spawn(3).await.expect("it doesn't panic");
            assert_eq!(turns.ledger.borrow().waiting(), 0);
            done.take()
        });
        assert_eq!(order, [2, 3]);
    }

    /// Of the task that is polled, and of its connection.
    fn whose(turns: &Turns) -> (Option<Whose>, Option<Whose>) {
        let current = turns.current.borrow();
        let whose = |seat: &Rc<Seat>| seat.account.borrow().whose();
        (current.as_ref().map(whose), current.as_ref().and_then(|seat| seat.parent.as_ref().map(whose)))
    }

    #[test]
    fn a_connection_works_for_whom_its_last_stream_did() {
        on_a_core(|turns| async move {
            let connection = {
                let turns = Rc::clone(&turns);
                async move {
                    let stream = |tenant| {
                        let within = Rc::clone(&turns);
                        let asks = async move {
                            within.work_for(Whose::Tenant(TenantId(tenant))).await;
                            whose(&within)
                        };
                        tokio::task::spawn_local(Rc::clone(&turns).stream_in_turn(asks))
                    };
                    let first = Some(Whose::Tenant(TenantId(1)));
                    assert_eq!(stream(1).await.expect("it doesn't panic"), (first, first));
                    assert_eq!(whose(&turns), (first, None));
                }
            };
            Rc::clone(&turns).in_turn(connection).await;
        });
    }

    #[test]
    fn a_connection_is_no_part_of_what_accepts_it() {
        on_a_core(|turns| async move {
            let door = {
                let turns = Rc::clone(&turns);
                async move {
                    turns.work_for(Whose::House).await;
                    let asks = {
                        let turns = Rc::clone(&turns);
                        async move { whose(&turns) }
                    };
                    tokio::task::spawn_local(Rc::clone(&turns).in_turn(asks)).await.expect("it doesn't panic")
                }
            };
            assert_eq!(Rc::clone(&turns).in_turn(door).await, (Some(Whose::Newcomers), None));
        });
    }

    /// A pipelined flood that no site answers: each task asks again at once when it has answered.
    #[test]
    fn who_answers_without_end_past_the_line_holds_up_nobody() {
        on_a_core(|turns| async move {
            let over = Rc::new(Cell::new(false));
            let flood: Vec<_> = (0..100)
                .map(|_| {
                    let (pipelines, over) = (Rc::clone(&turns), Rc::clone(&over));
                    let task = async move {
                        while !over.get() {
                            let begun = Instant::now();
                            while begun.elapsed() < LOOK_AFTER / 20 {}
                            pipelines.answer_soon().await;
                        }
                    };
                    tokio::task::spawn_local(Rc::clone(&turns).in_turn(task))
                })
                .collect();
            let done = Rc::default();
            let asks = request(Rc::clone(&turns), 1, Rc::clone(&done));
            let asked = tokio::task::spawn_local(Rc::clone(&turns).in_turn(asks));
            tokio::time::timeout(Duration::from_secs(30), asked)
                .await
                .expect("it has its turn")
                .expect("it doesn't panic");
            over.set(true);
            for task in flood {
                task.await.expect("it doesn't panic");
            }
        });
    }

    #[test]
    fn what_a_task_begins_is_for_whom_it_works() {
        on_a_core(|turns| async move {
            let outer = {
                let turns = Rc::clone(&turns);
                async move {
                    turns.work_for(Whose::Tenant(TenantId(7))).await;
                    let seen = {
                        let turns = Rc::clone(&turns);
                        async move { turns.current.borrow().as_ref().map(|seat| seat.account.borrow().whose()) }
                    };
                    tokio::task::spawn_local(Rc::clone(&turns).rest_in_turn(seen)).await.expect("it doesn't panic")
                }
            };
            let whose = Rc::clone(&turns).in_turn(outer).await;
            assert_eq!(whose, Some(Whose::Tenant(TenantId(7))));
        });
    }
}
