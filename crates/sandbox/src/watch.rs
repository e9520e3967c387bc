//! Watches a running instance: its CPU time, its wall time, and what becomes of it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use base::limits::{EPOCH_TICK_AT_EASE, HEAVY_AFTER, LONG_AFTER};
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::Frame;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Sleep;

use crate::allocated;
use crate::cell::{Cell, Stream, Voice};
use crate::fault::Fault;
use crate::instance::Ground;
use crate::limiter::Share;

/// Where an instance's first fault is kept, for whoever waits for its answer, and written to the app's log.
pub(crate) struct Report {
    voice: Arc<Voice>,
    fault: Mutex<Option<Fault>>,
    /// It is an instance that has answered before.
    reused: AtomicBool,
    /// It has answered this request.
    answered: AtomicBool,
    /// It has used much of its core for this request.
    heavy: AtomicBool,
    /// Bytes of the instance's memories.
    memory: OnceLock<Arc<AtomicU64>>,
    /// Bytes that the host has come to keep for it, on its tenant's bill until this is dropped.
    held: AtomicI64,
    share: Arc<Share>,
    /// The body that is being read, if any.
    reader: AtomicWaker,
}

impl Report {
    pub(crate) fn new(voice: Arc<Voice>, share: &Arc<Share>) -> Arc<Self> {
        Arc::new(Self {
            voice,
            fault: Mutex::new(None),
            reused: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            heavy: AtomicBool::new(false),
            memory: OnceLock::new(),
            held: AtomicI64::new(0),
            share: Arc::clone(share),
            reader: AtomicWaker::new(),
        })
    }

    pub(crate) fn voice(&self) -> Arc<Voice> {
        Arc::clone(&self.voice)
    }

    pub(crate) fn note_reused(&self) {
        self.reused.store(true, Ordering::Relaxed);
    }

    pub(crate) fn note_answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// The host keeps so much more for it.
    pub(crate) fn hold(&self, bytes: i64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.share.hold(bytes);
    }

    /// A piece of its answer is on its way, and is its no more.
    pub(crate) fn gave(&self, frame: &Frame<Bytes>) {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        self.hold(i64::try_from(bytes).map_or(i64::MIN, |bytes| -bytes));
    }

    pub(crate) fn is_heavy(&self) -> bool {
        self.heavy.load(Ordering::Relaxed)
    }

    /// Which instance it is, by where the bytes of its memories are counted.
    pub(crate) fn note_memory(&self, memory: &Arc<AtomicU64>) {
        // There is one to a request.
        let _ = self.memory.set(Arc::clone(memory));
    }

    pub(crate) fn memory(&self) -> u64 {
        self.memory.get().map_or(0, |memory| memory.load(Ordering::Relaxed))
    }

    pub(crate) fn is_reused(&self) -> bool {
        self.reused.load(Ordering::Relaxed)
    }

    /// Takes note of a fault. The first one is the cause and is answered; what comes after it is its consequence.
    pub(crate) fn fault(&self, fault: Fault) -> Fault {
        self.fault_with(fault, &[])
    }

    /// As [`Self::fault`], with lines that explain it.
    pub(crate) fn fault_with(&self, fault: Fault, details: &[String]) -> Fault {
        let mut kept = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = &*kept {
            return first.clone();
        }
        *kept = Some(fault.clone());
        drop(kept);
        self.line(&fault.to_string());
        for line in details {
            self.line(line);
        }
        self.reader.wake();
        fault
    }

    pub(crate) fn line(&self, text: &str) {
        let text = &text[..text.floor_char_boundary(base::limits::LOG_LINE_BYTES_MAX)];
        for line in text.lines() {
            self.voice.line(Stream::Fault, line);
        }
    }

    pub(crate) fn has_fault(&self) -> bool {
        self.found().is_some()
    }

    pub(crate) fn found(&self) -> Option<Fault> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Wakes this reader when a fault comes.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.reader.register(cx.waker());
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.share.hold(-*self.held.get_mut());
    }
}

/// A poll longer than this is worth the system call that measures it: a thousandth of it.
const LONG_POLL: Duration = Duration::from_micros(500);

/// When something began, by the wall or by this thread's CPU clock.
enum Moment {
    Wall(Instant),
    Thread(Duration),
}

impl Moment {
    fn now(long: bool) -> Self {
        if long { Self::Thread(thread_time()) } else { Self::Wall(Instant::now()) }
    }

    fn elapsed(&self) -> Duration {
        match self {
            Self::Wall(begun) => begun.elapsed(),
            Self::Thread(begun) => thread_time().saturating_sub(*begun),
        }
    }
}

fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The guest's own work: its faults are in the report when it ends.
pub(crate) type Guest = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A guest within its time: what it still does once it has answered, given back by [`crate::Sandbox::handle`].
///
/// CPU time is what passes while the guest is polled: instantiation, its code, and the host's work for it on
/// this thread. It is read off the wall, which is cheap, until a poll has taken long enough to count; from
/// then on off the thread's own CPU clock, which a busy machine doesn't advance for nothing. A poll ends at
/// the next tick at the latest, as the epoch callback yields, so the first long one errs by two ticks at most.
pub struct Watched {
    /// `None` when it has ended or was stopped.
    guest: Option<Guest>,
    spent: Duration,
    /// It has had a long poll, and its time is read off the thread's clock.
    long: bool,
    cell: Arc<Cell>,
    ground: Arc<Ground>,
    /// Made when the guest first waits: most never do.
    deadline: Option<Pin<Box<Sleep>>>,
    /// The same: the tenant's instances are to stop.
    stopped: Option<Pin<Box<OwnedNotified>>>,
    /// How often they had been stopped when it began.
    stops: u64,
    report: Arc<Report>,
}

impl Watched {
    pub(crate) fn new(guest: Guest, cell: Arc<Cell>, ground: Arc<Ground>, report: Arc<Report>) -> Self {
        let (stops, spent) = (cell.share.stops(), Duration::ZERO);
        let (deadline, stopped) = (None, None);
        Self { guest: Some(guest), spent, long: false, cell, ground, deadline, stopped, stops, report }
    }

    /// It waits, but no longer than it may.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let time = self.cell.timeout;
        let left = time.saturating_sub(self.spent);
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
        if deadline.as_mut().poll(cx).is_ready() {
            return self.stop(Fault::OutOfTime(time));
        }
        let share = &self.cell.share;
        let stopped = self.stopped.get_or_insert_with(|| Box::pin(share.stopped()));
        if stopped.as_mut().poll(cx).is_ready() || share.stops() != self.stops {
            return self.stop(Fault::BoxOutOfMemory);
        }
        Poll::Pending
    }

    /// The report comes first: the end of a body must never be seen without the fault that caused it.
    fn stop(&mut self, fault: Fault) -> Poll<()> {
        self.report.fault(fault);
        if let Some(guest) = self.guest.take() {
            self.ground.gone.let_go_of(&self.cell.share, Box::new(guest));
        }
        Poll::Ready(())
    }
}

impl Drop for Watched {
    /// Nobody waits for it any more: its visitor has gone away.
    fn drop(&mut self) {
        if let Some(guest) = self.guest.take() {
            self.ground.gone.let_go(&self.cell.share, guest, &self.report);
        }
    }
}

impl Future for Watched {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let running = self.ground.clock.run();
        let long = self.long;
        let Some(guest) = &mut self.guest else {
            return Poll::Ready(());
        };
        let before = allocated::here();
        let begun = Moment::now(long);
        let ended = guest.as_mut().poll(cx).is_ready();
        let took = begun.elapsed();
        drop(running);
        self.report.hold(allocated::here().wrapping_sub(before));
        self.long |= took > LONG_POLL;
        self.spent += if long { took } else { took.min(EPOCH_TICK_AT_EASE * 2) };
        if ended {
            self.guest = None;
            return Poll::Ready(());
        }
        if self.spent >= LONG_AFTER {
            self.ground.clock.hurry();
        }
        if self.spent >= HEAVY_AFTER {
            self.report.heavy.store(true, Ordering::Relaxed);
        }
        if self.spent > self.cell.cpu {
            let cpu = self.cell.cpu;
            return self.stop(Fault::OutOfCpu(cpu));
        }
        self.wait(cx)
    }
}
