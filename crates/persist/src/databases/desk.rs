//! A core's desk: what its tasks ask of databases goes out together, and what comes back comes in together.
//!
//! To wake another thread costs a core as much as a small operation, and a database's thread that is woken by the first of
//! many writes makes a transaction for it alone. So on a thread that has a [`Desk`] nobody wakes them for one operation:
//! [`send`] does it for all that were asked since, when the core has nothing else to do, or hasn't for long enough. And the
//! answers of one turn wake it once: [`Desk::hand_out`] gives them to those who wait, on their own thread.
//!
//! Threads without a desk ask and are answered at once.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::queue::{Job, Queue};
use super::tally::Tally;
use super::{Answer, KvError};

type Outcome = Result<Answer, KvError>;

thread_local! {
    static HERE: RefCell<Option<Open>> = const { RefCell::new(None) };
}

/// What a thread with a desk has.
struct Open {
    inbox: Arc<Inbox>,
    /// Whom to wake.
    asked: Vec<Arc<Queue>>,
}

/// The desk of this thread, until it is dropped.
pub struct Desk {
    inbox: Arc<Inbox>,
    /// It belongs to its thread.
    here: PhantomData<Rc<()>>,
}

#[derive(Default)]
struct Inbox {
    held: Mutex<Held>,
    filled: Notify,
}

#[derive(Default)]
struct Held {
    /// As many as wait at the most.
    answers: Vec<(oneshot::Sender<Outcome>, Outcome)>,
    /// There is no desk any more.
    closed: bool,
}

impl Inbox {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    /// Opens a desk on this thread, which must call [`send`] before it sleeps, and keep [`hand_out`](Self::hand_out) running.
    #[must_use]
    pub fn open() -> Self {
        let inbox = Arc::<Inbox>::default();
        HERE.set(Some(Open { inbox: Arc::clone(&inbox), asked: Vec::new() }));
        Self { inbox, here: PhantomData }
    }

    /// Gives answers to those who wait for them, and never ends.
    pub async fn hand_out(self) {
        loop {
            self.inbox.filled.notified().await;
            let answers = std::mem::take(&mut self.inbox.held().answers);
            for (to, outcome) in answers {
                // Whoever no longer waits has no use for it.
                let _ = to.send(outcome);
            }
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        send();
        // The thread may end just now, and its desk with it.
        let _ = HERE.try_with(RefCell::take);
        let mut held = self.inbox.held();
        held.closed = true;
        for (to, outcome) in held.answers.drain(..) {
            let _ = to.send(outcome);
        }
    }
}

/// Wakes the threads that this one has asked since it did so last.
pub fn send() {
    let _ = HERE.try_with(|here| {
        if let Some(open) = &mut *here.borrow_mut() {
            open.asked.drain(..).for_each(|queue| queue.wake());
        }
    });
}

/// Wakes the queue's thread: at once, or with the others.
pub(super) fn call(queue: &Arc<Queue>) {
    let put_off = HERE.try_with(|here| {
        let mut here = here.borrow_mut();
        let Some(Open { asked, .. }) = &mut *here else { return false };
        if !asked.iter().any(|held| Arc::ptr_eq(held, queue)) {
            asked.push(Arc::clone(queue));
        }
        true
    });
    if !put_off.unwrap_or(false) {
        queue.wake();
    }
}

/// Where an answer goes.
pub(super) struct Reply {
    to: oneshot::Sender<Outcome>,
    inbox: Option<Arc<Inbox>>,
}

impl Reply {
    /// To this thread's desk, if it has one.
    pub(super) fn new(to: oneshot::Sender<Outcome>) -> Self {
        let inbox = HERE.try_with(|here| here.borrow().as_ref().map(|open| Arc::clone(&open.inbox)));
        Self { to, inbox: inbox.ok().flatten() }
    }
}

/// What a thread of databases answers in one turn.
pub(super) struct Mail {
    tally: Arc<Tally>,
    /// Desks that have got an answer, and don't know it.
    filled: Mutex<Vec<Arc<Inbox>>>,
}

impl Mail {
    /// What is answered is counted there.
    pub(super) fn new(tally: Arc<Tally>) -> Self {
        Self { tally, filled: Mutex::default() }
    }

    pub(super) fn answer(&self, job: Job, outcome: Outcome) {
        self.tally.performed(&job.operation, &outcome);
        let Reply { to, inbox } = job.reply;
        if let Some(inbox) = inbox {
            let mut held = inbox.held();
            if !held.closed {
                held.answers.push((to, outcome));
                drop(held);
                let mut filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner);
                if !filled.iter().any(|held| Arc::ptr_eq(held, &inbox)) {
                    filled.push(inbox);
                }
                return;
            }
        }
        // Whoever no longer waits has no use for it.
        let _ = to.send(outcome);
    }

    /// Wakes whom the answers are for.
    pub(super) fn deliver(&self) {
        for inbox in self.filled.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            inbox.filled.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base::{DatabaseId, TenantId};
    use bytes::Bytes;
    use tokio::task::LocalSet;

    use super::*;
    use crate::databases::{Database, Databases};

    const DB: Database = Database { tenant: TenantId(1), id: DatabaseId(1) };

    fn sets(databases: &Databases) -> u64 {
        databases.figures().operations.iter().find(|(name, _)| *name == "set").expect("sets are counted").1
    }

    #[test]
    fn what_is_asked_goes_out_when_it_is_sent_and_comes_back_together() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let databases = Databases::open(dir.path()).expect("it is new");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let desk = Desk::open();
            let inbox = Arc::clone(&desk.inbox);
            let tasks: Vec<_> = (0..9)
                .map(|number| {
                    let databases = databases.clone();
                    tokio::task::spawn_local(async move {
                        let bucket = "b".parse().expect("a name");
                        databases.set(DB, &bucket, &number.to_string(), Bytes::from_static(b"v")).await
                    })
                })
                .collect();
            let to_wake = || HERE.with(|here| here.borrow().as_ref().expect("it is open").asked.len());
            tokio::task::yield_now().await;
            assert_eq!(to_wake(), 1, "nine operations for one thread");
            send();
            assert_eq!(to_wake(), 0);
            while sets(&databases) < 9 || inbox.held().answers.len() < 9 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(tasks.iter().all(|task| !task.is_finished()), "nobody hands them out");
            tokio::task::spawn_local(desk.hand_out());
            for task in tasks {
                assert_eq!(task.await.expect("it doesn't panic"), Ok(()));
            }
        });
    }

    #[test]
    fn where_the_desk_is_gone_they_are_answered_at_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let databases = Databases::open(dir.path()).expect("it is new");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let bucket = "b".parse().expect("a name");
            for number in 0..3 {
                let desk = Desk::open();
                let set = databases.set(DB, &bucket, "k", Bytes::from(number.to_string()));
                tokio::pin!(set);
                // It asks, and waits.
                tokio::select! { biased; _ = &mut set => panic!("nobody woke the writer"), () = tokio::task::yield_now() => {} }
                if number == 1 {
                    send();
                    while desk.inbox.held().answers.is_empty() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                drop(desk);
                assert_eq!(set.await, Ok(()));
            }
            assert_eq!(databases.set(DB, &bucket, "k", Bytes::new()).await, Ok(()), "there is none");
        });
    }
}
