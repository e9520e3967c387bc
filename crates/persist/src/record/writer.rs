//! The thread that owns `record.sqlite`: what waits becomes one transaction and one sync.
//!
//! It is a thread of its own so that a slow disk doesn't keep a leader from telling its followers that it lives, and so
//! that theirs and its own sync happen at the same time.
//!
//! A disk without room changes nothing and loses nothing: the writer holds what it has, says so ([`Health::Full`]), and
//! tries again. Any other failure is the end: after a failed `fdatasync` nobody knows what the disk holds, and going on
//! would build on it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use base::limits::{COMMANDS_PER_APPEND_MAX, RECORD_FULL_LOOK, RECORD_WRITES_WAITING_MAX};
use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot, watch};

use super::applied::State;
use super::file::{Change, RecordFile, WriteError};
use super::types::{LogId, Types};

/// What the writer is asked to do.
pub(super) enum Order {
    Change(Change, Done),
    /// Nobody waits for this, and a loss of power may take it back.
    Committed(LogId),
    Snapshot(Arc<State>, oneshot::Sender<bool>),
    /// Everything before this is on the disk.
    Close,
    /// Ends as a process does that is killed.
    #[cfg(test)]
    Crash,
}

/// Pages that the file may have: a test's small disk. 0 is no limit.
#[cfg(test)]
pub(super) type Pages = Arc<std::sync::atomic::AtomicI64>;

/// Who is told that it is on the disk.
pub(super) enum Done {
    Raft(IOFlushed<Types>),
    Waiting(oneshot::Sender<()>),
    Nobody,
}

/// How the disk does.
#[derive(Clone, Debug, Default)]
pub(super) enum Health {
    #[default]
    Well,
    /// There is no room. It goes on when there is.
    Full,
    /// It failed, and the writer has ended.
    Failed(Arc<str>),
}

/// Cheap to clone; all clones are one. The last to go ends the writer.
#[derive(Clone)]
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
    closing: Arc<AtomicBool>,
    health: watch::Receiver<Health>,
    #[cfg(test)]
    pub(super) pages: Pages,
}

impl Writer {
    pub(super) fn start(file: RecordFile) -> io::Result<(Self, JoinHandle<()>)> {
        let (orders, received) = mpsc::channel(RECORD_WRITES_WAITING_MAX);
        let (health, healths) = watch::channel(Health::Well);
        let closing = Arc::new(AtomicBool::new(false));
        #[cfg(test)]
        let pages = Pages::default();
        let owner = Owner {
            file,
            health,
            closing: Arc::clone(&closing),
            committed: None,
            #[cfg(test)]
            pages: Arc::clone(&pages),
        };
        let thread = std::thread::Builder::new().name("record-log".to_owned()).spawn(move || owner.run(received))?;
        let writer = Self {
            orders,
            closing,
            health: healths,
            #[cfg(test)]
            pages,
        };
        Ok((writer, thread))
    }

    pub(super) async fn order(&self, order: Order) -> io::Result<()> {
        self.orders.send(order).await.map_err(|_| self.ended())
    }

    /// Returns when the change is on the disk.
    pub(super) async fn make(&self, change: Change) -> io::Result<()> {
        let (done, told) = oneshot::channel();
        self.order(Order::Change(change, Done::Waiting(done))).await?;
        told.await.map_err(|_| self.ended())
    }

    /// Writes a snapshot. False where that failed: the log has it all then.
    pub(super) async fn snapshot(&self, state: Arc<State>) -> io::Result<bool> {
        let (done, told) = oneshot::channel();
        self.order(Order::Snapshot(state, done)).await?;
        told.await.map_err(|_| self.ended())
    }

    /// From now on a disk without room isn't waited for.
    pub(super) fn hurry(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    fn ended(&self) -> io::Error {
        match &*self.health.borrow() {
            Health::Failed(cause) => io::Error::other(cause.to_string()),
            Health::Well | Health::Full => io::Error::other("the record's log was closed"),
        }
    }
}

struct Owner {
    file: RecordFile,
    health: watch::Sender<Health>,
    closing: Arc<AtomicBool>,
    /// The last of [`Order::Committed`] that isn't written.
    committed: Option<LogId>,
    #[cfg(test)]
    pages: Pages,
}

impl Owner {
    fn run(mut self, mut received: mpsc::Receiver<Order>) {
        loop {
            let (mut changes, mut done) = (Vec::new(), Vec::new());
            let mut last = None;
            let mut next = self.next(&mut received);
            while let Some(order) = next.take() {
                match order {
                    Order::Change(change, who) => {
                        changes.push(change);
                        done.push(who);
                    }
                    Order::Committed(id) => self.committed = Some(id),
                    other => {
                        last = Some(other);
                        break;
                    }
                }
                if changes.len() < COMMANDS_PER_APPEND_MAX {
                    next = received.try_recv().ok();
                }
            }
            #[cfg(test)]
            if matches!(last, Some(Order::Crash)) {
                return;
            }
            let idle = changes.is_empty() && last.is_none() && self.committed.is_none();
            if idle {
                // The last writer is gone without a word: it was dropped.
                return;
            }
            if let Err(cause) = self.write(changes) {
                tracing::error!(%cause, "the record's log failed: no more commands are taken");
                // First the reason, then the answers: nobody who is answered finds it missing.
                self.health.send_replace(Health::Failed(Arc::clone(&cause)));
                for who in done {
                    if let Done::Raft(callback) = who {
                        callback.io_completed(Err(io::Error::other(cause.to_string())));
                    }
                }
                return;
            }
            for who in done {
                match who {
                    Done::Raft(callback) => callback.io_completed(Ok(())),
                    // Whoever no longer waits needs no telling.
                    Done::Waiting(told) => drop(told.send(())),
                    Done::Nobody => {}
                }
            }
            match last {
                Some(Order::Snapshot(state, told)) => drop(told.send(self.snapshot(&state))),
                Some(_) => return,
                None => {}
            }
        }
    }

    /// The next order; waits for one, but not with a note unwritten.
    fn next(&self, received: &mut mpsc::Receiver<Order>) -> Option<Order> {
        if self.committed.is_some() { received.try_recv().ok() } else { received.blocking_recv() }
    }

    fn write(&mut self, mut changes: Vec<Change>) -> Result<(), Arc<str>> {
        let committed = self.committed.take();
        if changes.is_empty() {
            return committed.map_or(Ok(()), |id| self.trying(|file| file.note_committed(id)));
        }
        changes.extend(committed.map(Change::Committed));
        self.trying(|file| file.write(&changes))
    }

    /// Again and again while the disk is full.
    fn trying(&self, write: impl Fn(&RecordFile) -> Result<(), WriteError>) -> Result<(), Arc<str>> {
        let mut was_full = false;
        loop {
            #[cfg(test)]
            match self.pages.load(Ordering::Relaxed) {
                0 => {}
                pages => self.file.limit_pages(pages),
            }
            match write(&self.file) {
                Ok(()) => {
                    if was_full {
                        tracing::info!("the disk has room again: the record's log goes on");
                        self.health.send_replace(Health::Well);
                    }
                    return Ok(());
                }
                Err(error @ WriteError::Full { .. }) if !self.closing.load(Ordering::Relaxed) => {
                    if !was_full {
                        tracing::error!(
                            error = base::chain(&error),
                            "the record takes no commands until there is room"
                        );
                        self.health.send_replace(Health::Full);
                    }
                    was_full = true;
                    std::thread::sleep(RECORD_FULL_LOOK);
                }
                Err(error) => return Err(base::chain(&error).into()),
            }
        }
    }

    fn snapshot(&self, state: &State) -> bool {
        let written = self.file.snapshot(state);
        if let Err(error) = &written {
            tracing::error!(
                error = base::chain(error),
                "no snapshot of the record was written; its log has everything"
            );
        }
        written.is_ok()
    }
}
