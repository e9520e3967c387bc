//! Who has had how much of a core, and who is next: start-time fair queueing (Goyal, Vin and Cheng, 1996), pure.
//!
//! Each account has a virtual time, which advances by what it has used. The account that is furthest behind goes next.
//! One that comes back after a pause starts where the others are: to have been away earns no credit, and to have used an
//! idle core is held against nobody.
//!
//! Within an account those go first that haven't had much, and the others in between: they are never starved.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::rc::{Rc, Weak};

use base::limits::{HEAVY_AFTER, LOOK_AFTER, TURNS_AT_ONCE_MAX};

/// Virtual time, in nanoseconds of the core.
type Time = u64;

/// What the light ones of an account have at the most between two turns of its heavy ones.
#[expect(clippy::cast_possible_truncation, reason = "4 ms in nanoseconds")]
const LIGHT_IN_A_ROW: Time = HEAVY_AFTER.as_nanos() as Time;

/// What the light ones of an account that are called together have together.
#[expect(clippy::cast_possible_truncation, reason = "half a millisecond in nanoseconds")]
const TOGETHER: Time = LOOK_AFTER.as_nanos() as Time;

#[expect(clippy::cast_possible_truncation, reason = "100 µs in nanoseconds")]
const LONG_TURN: Time = base::limits::LONG_TURN.as_nanos() as Time;

pub(super) struct Account<W, T> {
    whose: W,
    time: Cell<Time>,
    line: RefCell<Line<T>>,
    /// It stands in the ledger's order, or has just been served.
    listed: Cell<bool>,
    /// What its light ones have had since a heavy one's turn.
    light_used: Cell<Time>,
    /// How long its turns are lately: a mean in which one turn counts an eighth.
    turn: Cell<Time>,
    /// Its turns were long when it was listed.
    listed_long: Cell<bool>,
}

struct Line<T> {
    light: VecDeque<T>,
    heavy: VecDeque<T>,
    /// Light ones at the front that were called together and went back.
    back: usize,
}

impl<W: Copy, T> Account<W, T> {
    pub(super) fn whose(&self) -> W {
        self.whose
    }

    pub(super) fn charge(&self, used: Time, heavy: bool) {
        self.time.set(self.time.get().saturating_add(used));
        self.light_used.set(if heavy { 0 } else { self.light_used.get().saturating_add(used) });
        self.turn.set(self.turn.get() - self.turn.get() / 8 + used / 8);
    }

    /// How long its turns are lately, in the mean.
    pub(super) fn turn(&self) -> Time {
        self.turn.get()
    }

    fn is_long(&self) -> bool {
        self.turn.get() >= LONG_TURN
    }

    fn is_waiting(&self) -> bool {
        let line = self.line.borrow();
        !line.light.is_empty() || !line.heavy.is_empty()
    }

    /// As many light ones as are likely to have the time, or a heavy one.
    fn next(&self, into: &mut VecDeque<T>) {
        let mut line = self.line.borrow_mut();
        let heavy_first = self.light_used.get() >= LIGHT_IN_A_ROW;
        line.back = 0;
        let Line { light, heavy, .. } = &mut *line;
        if light.is_empty() || (heavy_first && !heavy.is_empty()) {
            into.extend(heavy.pop_front());
        } else {
            let fit = TOGETHER.checked_div(self.turn.get()).and_then(|fit| usize::try_from(fit).ok());
            let fit = fit.unwrap_or(TURNS_AT_ONCE_MAX).clamp(1, TURNS_AT_ONCE_MAX);
            into.extend(light.drain(..light.len().min(fit)));
        }
    }
}

pub(super) struct Ledger<W, T> {
    /// Those that a task works for.
    accounts: HashMap<W, Weak<Account<W, T>>>,
    /// Accounts are looked through for those that are gone when there are so many.
    look_through_at: usize,
    /// Accounts with somebody in line, by their time, and then by who came first.
    order: BTreeMap<(Time, u64), Rc<Account<W, T>>>,
    /// The account that was served last: it comes back into the order when what it used is known.
    served: Option<Rc<Account<W, T>>>,
    /// The time of whoever was served last.
    now: Time,
    listings: u64,
    waiting: usize,
    /// Of those in the order, accounts whose turns are long.
    long: usize,
}

/// Fewer accounts than this are never looked through.
const ACCOUNTS_MIN: usize = 64;

impl<W: Copy + Eq + Hash, T> Ledger<W, T> {
    pub(super) fn new() -> Self {
        let (accounts, order) = (HashMap::new(), BTreeMap::new());
        Self { accounts, look_through_at: ACCOUNTS_MIN, order, served: None, now: 0, listings: 0, waiting: 0, long: 0 }
    }

    pub(super) fn account(&mut self, whose: W) -> Rc<Account<W, T>> {
        if let Some(held) = self.accounts.get(&whose).and_then(Weak::upgrade) {
            return held;
        }
        if self.accounts.len() >= self.look_through_at {
            self.accounts.retain(|_, account| account.strong_count() > 0);
            self.look_through_at = (2 * self.accounts.len()).max(ACCOUNTS_MIN);
        }
        let line = RefCell::new(Line { light: VecDeque::new(), heavy: VecDeque::new(), back: 0 });
        let (time, listed, listed_long) = (Cell::new(self.now), Cell::new(false), Cell::new(false));
        let (light_used, turn) = (Cell::new(0), Cell::new(0));
        let account = Rc::new(Account { whose, time, line, listed, light_used, turn, listed_long });
        self.accounts.insert(whose, Rc::downgrade(&account));
        account
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Somebody stands in line whose turn is likely to be long.
    pub(super) fn long_wait(&self) -> bool {
        self.long > 0 || self.served.as_ref().is_some_and(|served| served.is_waiting() && served.is_long())
    }

    /// A turn of the account's begins, whether it stood in line for it or not.
    pub(super) fn begin(&mut self, account: &Account<W, T>) {
        self.now = self.now.max(account.time.get());
        account.time.set(self.now);
    }

    pub(super) fn line_up(&mut self, account: &Rc<Account<W, T>>, who: T, heavy: bool) {
        let mut line = account.line.borrow_mut();
        let line = if heavy { &mut line.heavy } else { &mut line.light };
        line.push_back(who);
        self.lined_up(account);
    }

    /// Its turn had come with others', and comes later after all: before all who came later, and behind those who went
    /// back before it.
    ///
    /// It is a light one: a heavy one is called alone, and has its turn.
    pub(super) fn go_back(&mut self, account: &Rc<Account<W, T>>, who: T) {
        let mut line = account.line.borrow_mut();
        let Line { light, back, .. } = &mut *line;
        light.insert((*back).min(light.len()), who);
        *back += 1;
        drop(line);
        self.lined_up(account);
    }

    fn lined_up(&mut self, account: &Rc<Account<W, T>>) {
        self.waiting += 1;
        if !account.listed.replace(true) {
            self.list(Rc::clone(account));
        }
    }

    fn list(&mut self, account: Rc<Account<W, T>>) {
        account.time.set(account.time.get().max(self.now));
        self.listings += 1;
        account.listed_long.set(account.is_long());
        self.long += usize::from(account.is_long());
        self.order.insert((account.time.get(), self.listings), account);
    }

    /// How long the turn is likely to be that is next.
    pub(super) fn next_turn(&self) -> Time {
        let first = self.order.first_key_value().map(|((time, _), account)| (*time, account));
        let served = self.served.as_ref().filter(|served| served.is_waiting());
        let served = served.map(|served| (served.time.get().max(self.now), served));
        // Of equal ones the one that was served last comes last.
        let next = [first, served].into_iter().flatten().min_by_key(|(time, _)| *time);
        next.map_or(0, |(_, account)| account.turn())
    }

    /// Those who are next leave the line: some of one account.
    pub(super) fn next(&mut self, into: &mut VecDeque<T>) {
        if let Some(served) = self.served.take() {
            if served.is_waiting() {
                self.list(served);
            } else {
                served.listed.set(false);
            }
        }
        let Some((_, account)) = self.order.pop_first() else { return };
        self.long -= usize::from(account.listed_long.get());
        let before = into.len();
        account.next(into);
        self.waiting -= into.len() - before;
        self.served = Some(account);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Names = Ledger<char, u32>;

    const HEAVY: Time = LIGHT_IN_A_ROW;

    fn line_up(ledger: &mut Names, whose: char, who: u32, heavy: bool) {
        let account = ledger.account(whose);
        ledger.line_up(&account, who, heavy);
    }

    /// Serves until nobody waits; a turn of `whose` costs as much as `cost` says.
    fn serve(ledger: &mut Names, cost: impl Fn(u32) -> (char, Time, bool)) -> Vec<u32> {
        let (mut order, mut next) = (Vec::new(), VecDeque::new());
        loop {
            ledger.next(&mut next);
            let Some(who) = next.pop_front() else { return order };
            // Only the first of those who were called goes on: the others' turns go to whoever is behind.
            while let Some(called) = next.pop_front() {
                let account = ledger.account(cost(called).0);
                ledger.go_back(&account, called);
            }
            let (whose, used, heavy) = cost(who);
            let account = ledger.account(whose);
            ledger.begin(&account);
            account.charge(used, heavy);
            order.push(who);
        }
    }

    #[test]
    fn each_tenant_has_as_much_however_many_it_sends() {
        let mut ledger = Names::new();
        // Somebody works for each of them all the time.
        let held = ['a', 'b'].map(|whose| ledger.account(whose));
        for number in 0..100 {
            line_up(&mut ledger, 'a', number, false);
        }
        for number in 100..103 {
            line_up(&mut ledger, 'b', number, false);
        }
        // A turn of the first costs ten times as much.
        let order = serve(&mut ledger, |who| if who < 100 { ('a', 1_000, false) } else { ('b', 100, false) });
        let place = |wanted| order.iter().position(|who| *who == wanted).expect("it was served");
        assert_eq!(order.len(), 103);
        assert_eq!([place(100), place(101), place(102)], [1, 2, 3], "{order:?}");
        assert_eq!(ledger.waiting(), 0);
        drop(held);
    }

    #[test]
    fn nobody_of_a_tenant_is_overtaken_by_who_came_later() {
        let mut ledger = Names::new();
        let account = ledger.account('a');
        let (mut came, mut order, mut next) = (0, Vec::new(), VecDeque::new());
        // One is served, those who were called with it go back, and somebody comes, again and again.
        while order.len() < 200 {
            while ledger.waiting() < 50 {
                ledger.line_up(&account, came, false);
                came += 1;
            }
            ledger.next(&mut next);
            order.extend(next.pop_front());
            ledger.begin(&account);
            account.charge(1, false);
            for called in next.drain(..) {
                ledger.go_back(&account, called);
            }
        }
        assert!(order.is_sorted(), "{order:?}");
    }

    #[test]
    fn to_have_been_away_earns_nothing() {
        let mut ledger = Names::new();
        let (busy, away) = (ledger.account('a'), ledger.account('b'));
        for _ in 0..1_000 {
            ledger.begin(&busy);
            busy.charge(1_000, false);
        }
        for number in 0..10 {
            ledger.line_up(&busy, number, false);
            ledger.line_up(&away, 10 + number, false);
        }
        let order = serve(&mut ledger, |who| (if who < 10 { 'a' } else { 'b' }, 1_000, false));
        let first_half = order[..10].iter().filter(|who| **who < 10).count();
        assert!((4..=6).contains(&first_half), "{order:?}");
    }

    #[test]
    fn the_light_ones_of_a_tenant_go_first_but_not_for_ever() {
        let mut ledger = Names::new();
        let account = ledger.account('a');
        for number in 0..2 {
            ledger.line_up(&account, number, true);
        }
        for number in 10..16 {
            ledger.line_up(&account, number, false);
        }
        let order = serve(&mut ledger, |who| ('a', HEAVY / 2, who < 10));
        assert_eq!(order, [10, 11, 0, 12, 13, 1, 14, 15]);
    }

    #[test]
    fn a_line_is_long_while_somebody_in_it_takes_long() {
        let mut ledger = Names::new();
        let (short, long) = (ledger.account('a'), ledger.account('b'));
        for _ in 0..20 {
            for (account, used) in [(&short, LONG_TURN / 4), (&long, LONG_TURN * 4)] {
                ledger.begin(account);
                account.charge(used, false);
            }
        }
        assert!(!ledger.long_wait());
        line_up(&mut ledger, 'a', 0, false);
        assert!(!ledger.long_wait());
        line_up(&mut ledger, 'b', 1, false);
        assert!(ledger.long_wait());
        let mut next = VecDeque::new();
        ledger.next(&mut next);
        assert_eq!((next.pop_front(), ledger.long_wait()), (Some(0), true));
        ledger.next(&mut next);
        assert_eq!((next.pop_front(), ledger.long_wait()), (Some(1), false));
        // One that became quick is known to be when it comes again.
        for _ in 0..40 {
            long.charge(0, false);
        }
        line_up(&mut ledger, 'b', 2, false);
        assert!(!ledger.long_wait());
    }

    #[test]
    fn the_next_turn_is_told_before_it_is_given() {
        let mut ledger = Names::new();
        let (short, long) = (ledger.account('a'), ledger.account('b'));
        for _ in 0..100 {
            for (account, used) in [(&short, 1_000), (&long, TOGETHER)] {
                ledger.begin(account);
                account.charge(used, false);
            }
        }
        assert_eq!(ledger.next_turn(), 0);
        let mut next = VecDeque::new();
        for number in 0..40 {
            line_up(&mut ledger, 'a', number, false);
            line_up(&mut ledger, 'b', 100 + number, false);
        }
        while ledger.waiting() > 0 {
            let told = ledger.next_turn();
            ledger.next(&mut next);
            let account = if next[0] < 100 { &short } else { &long };
            assert_eq!(told, account.turn(), "{next:?}");
            // No more than have the time.
            assert!(next.len() <= if next[0] < 100 { TURNS_AT_ONCE_MAX } else { 2 }, "{next:?}");
            ledger.begin(account);
            account.charge(if next[0] < 100 { 1_000 } else { TOGETHER }, false);
            next.clear();
        }
        assert_eq!((ledger.waiting(), ledger.next_turn()), (0, 0));
    }

    #[test]
    fn accounts_that_nobody_works_for_are_forgotten() {
        let mut ledger = Ledger::<u32, u32>::new();
        let held = ledger.account(0);
        for whose in 1..10_000 {
            ledger.account(whose);
        }
        assert!(ledger.accounts.len() <= ACCOUNTS_MIN);
        assert!(Rc::ptr_eq(&held, &ledger.account(0)));
    }
}
