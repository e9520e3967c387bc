//! The clock of all guests: it strikes while any of them runs, quickly while any of them computes for long, and leaves an idle
//! box alone.

use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use base::limits::{EPOCH_TICK, EPOCH_TICK_AT_EASE, IDLE_TICKS, SHORT_TICKS};

use crate::priority::Priority;

/// Who runs guests tells it so.
pub(crate) struct Clock {
    state: Arc<State>,
    ticker: Thread,
}

#[derive(Default)]
struct State {
    /// A guest has begun to run since this was looked at.
    wanted: AtomicBool,
    /// A guest has computed for long since this was looked at.
    hurried: AtomicBool,
    /// The tick that is waited for is a long one.
    at_ease: AtomicBool,
    stands_still: AtomicBool,
    stopped: AtomicBool,
}

/// Whether a guest runs on a thread just now. In a line of the cache of its own: its thread writes it again and again.
#[repr(align(128))]
#[derive(Default)]
struct Runs(AtomicBool);

/// Of all threads that have run a guest.
static THREADS: Mutex<Vec<Weak<Runs>>> = Mutex::new(Vec::new());

thread_local! {
    static HERE: Arc<Runs> = {
        let here = Arc::default();
        let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| thread.strong_count() > 0);
        threads.push(Arc::downgrade(&here));
        here
    };
}

fn anybody_runs() -> bool {
    let threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
    threads.iter().filter_map(Weak::upgrade).any(|thread| thread.0.load(Ordering::SeqCst))
}

/// A guest runs on this thread while this lives.
pub(crate) struct Running(PhantomData<*const ()>);

impl Drop for Running {
    fn drop(&mut self) {
        HERE.with(|here| here.0.store(false, Ordering::Release));
    }
}

/// The clock's thread. It ends when this is dropped.
pub(crate) struct Ticker {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

/// A clock that does `tick` every `EPOCH_TICK`, or every `EPOCH_TICK_AT_EASE`.
pub(crate) fn start(tick: impl Fn() + Send + 'static) -> io::Result<(Clock, Ticker)> {
    let state = Arc::new(State::default());
    let ticking = Arc::clone(&state);
    let thread = thread::Builder::new().name("guest-ticks".to_owned()).spawn(move || {
        Priority::Prompt.take();
        ticking.run(tick);
    })?;
    let clock = Clock { state: Arc::clone(&state), ticker: thread.thread().clone() };
    Ok((clock, Ticker { state, thread: Some(thread) }))
}

impl Clock {
    /// A guest is about to run on this thread. It strikes for as long as that takes, however long the guest stays in one
    /// piece of native code, or the system keeps the thread from running.
    pub(crate) fn run(&self) -> Running {
        // The ticker says that it stands still, then looks whether anybody runs; here it is the other way round. So one of
        // the two sees the other.
        HERE.with(|here| here.0.store(true, Ordering::SeqCst));
        if !self.state.wanted.load(Ordering::Relaxed) {
            self.state.wanted.store(true, Ordering::SeqCst);
        }
        if self.state.stands_still.load(Ordering::SeqCst) {
            self.ticker.unpark();
        }
        Running(PhantomData)
    }

    /// A guest computes for long, and others may have to wait for its turns: they are short from now on.
    pub(crate) fn hurry(&self) {
        if !self.state.hurried.load(Ordering::Relaxed) {
            self.state.hurried.store(true, Ordering::Relaxed);
        }
        if self.state.at_ease.load(Ordering::Relaxed) && self.state.at_ease.swap(false, Ordering::Relaxed) {
            self.ticker.unpark();
        }
    }
}

impl State {
    /// How long the next tick is to take. Who hurries it just now may come too late for this one, and is heard at the next.
    fn pause(&self, short_ticks: &mut u32) -> Duration {
        *short_ticks =
            if self.hurried.swap(false, Ordering::Relaxed) { SHORT_TICKS } else { short_ticks.saturating_sub(1) };
        let at_ease = *short_ticks == 0;
        self.at_ease.store(at_ease, Ordering::Relaxed);
        if at_ease { EPOCH_TICK_AT_EASE } else { EPOCH_TICK }
    }

    fn run(&self, tick: impl Fn()) {
        let mut short_ticks = 0;
        while !self.stopped.load(Ordering::Relaxed) {
            for _ in 0..IDLE_TICKS {
                thread::park_timeout(self.pause(&mut short_ticks));
                tick();
            }
            if self.wanted.swap(false, Ordering::SeqCst) {
                continue;
            }
            self.stands_still.store(true, Ordering::SeqCst);
            while !self.stopped.load(Ordering::SeqCst) && !self.wanted.load(Ordering::SeqCst) && !anybody_runs() {
                thread::park();
            }
            self.stands_still.store(false, Ordering::SeqCst);
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It can't have panicked, and there would be nothing to do about it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn it_stands_still_while_nobody_runs_and_goes_on_when_somebody_does() {
        let ticks = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&ticks);
        let (clock, ticker) = start(move || _ = counted.fetch_add(1, Ordering::Relaxed)).expect("a thread");
        let strikes_until = |wanted: &dyn Fn() -> bool| {
            let begun = Instant::now();
            while !wanted() {
                assert!(begun.elapsed() < Duration::from_mins(1), "it never comes to that");
                thread::sleep(EPOCH_TICK);
            }
        };
        for _ in 0..3 {
            let running = clock.run();
            // Far longer than it goes on for nobody.
            let before = ticks.load(Ordering::Relaxed);
            strikes_until(&|| ticks.load(Ordering::Relaxed) > before + 5 * u64::from(IDLE_TICKS));
            assert!(!clock.state.stands_still.load(Ordering::SeqCst));
            drop(running);
            strikes_until(&|| clock.state.stands_still.load(Ordering::SeqCst));
        }
        drop(ticker);
    }

    #[test]
    fn it_strikes_quickly_for_as_long_as_somebody_hurries_and_a_while_after() {
        let state = State::default();
        let mut short_ticks = 0;
        assert_eq!(state.pause(&mut short_ticks), EPOCH_TICK_AT_EASE);
        assert!(state.at_ease.load(Ordering::Relaxed));
        state.hurried.store(true, Ordering::Relaxed);
        let pauses: Vec<_> = (0..=SHORT_TICKS).map(|_| state.pause(&mut short_ticks)).collect();
        let (last, short) = pauses.split_last().expect("there are some");
        assert!(short.iter().all(|pause| *pause == EPOCH_TICK));
        assert_eq!(*last, EPOCH_TICK_AT_EASE);
    }

    #[test]
    fn who_hurries_it_wakes_it_from_a_long_tick() {
        let (clock, ticker) = start(|| ()).expect("a thread");
        let _running = clock.run();
        let begun = Instant::now();
        let mut hurried = 0;
        while hurried < 3 {
            assert!(begun.elapsed() < Duration::from_mins(1), "it never comes to that");
            hurried += u32::from(
                clock.state.at_ease.load(Ordering::SeqCst) && {
                    clock.hurry();
                    !clock.state.at_ease.load(Ordering::SeqCst)
                },
            );
            thread::sleep(EPOCH_TICK);
        }
        drop(ticker);
    }
}
