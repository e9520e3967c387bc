//! What waits for one thread, and whose turn it is.
//!
//! Turns go round by tenant, and for each tenant by database. One turn is one database's oldest operations, up to
//! a count and a size. So a tenant with a thousand waiting operations, or a thousand databases, is served as often
//! as one with a single operation. What a tenant may keep waiting is bounded below what all may.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::desk::Reply;
use super::{Database, KvError, Operation};
use base::limits::{
    DATABASE_BYTES_PER_TURN_MAX, DATABASE_BYTES_WAITING_MAX, DATABASE_BYTES_WAITING_PER_TENANT_MAX,
    DATABASE_OPERATIONS_PER_COMMIT_MAX, DATABASE_OPERATIONS_WAITING_MAX, DATABASE_OPERATIONS_WAITING_PER_TENANT_MAX,
};
use base::{DatabaseId, Name, TenantId};

/// An operation and who waits for it.
pub(super) struct Job {
    pub bucket: Name,
    pub operation: Operation,
    /// Bytes that wait with it.
    pub bytes: usize,
    pub reply: Reply,
}

pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Default)]
struct Waiting {
    tenants: HashMap<TenantId, Line>,
    /// Every tenant of `tenants` once, the next to be served first.
    turns: VecDeque<TenantId>,
    held: Held,
    closed: bool,
}

/// What one tenant has waiting. Never empty.
#[derive(Default)]
struct Line {
    databases: HashMap<DatabaseId, VecDeque<Job>>,
    /// Every database of `databases` once.
    turns: VecDeque<DatabaseId>,
    held: Held,
}

#[derive(Clone, Copy, Default)]
struct Held {
    jobs: usize,
    bytes: usize,
}

impl Held {
    fn add(&mut self, job: &Job) {
        self.jobs += 1;
        self.bytes += job.bytes;
    }

    fn take(&mut self, job: &Job) {
        self.jobs -= 1;
        self.bytes -= job.bytes;
    }

    /// Is there room for one more? A queue that is empty takes any one.
    fn takes(self, job: &Job, jobs_max: usize, bytes_max: usize) -> bool {
        self.jobs < jobs_max && (self.jobs == 0 || self.bytes + job.bytes <= bytes_max)
    }
}

impl Queue {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::default(), arrived: Condvar::new() })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The caller [wakes](Self::wake) the thread.
    pub(super) fn push(&self, db: Database, job: Job) -> Result<(), KvError> {
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(KvError::Closed);
        }
        let own = waiting.tenants.get(&db.tenant).map(|line| line.held).unwrap_or_default();
        let room = waiting.held.takes(&job, DATABASE_OPERATIONS_WAITING_MAX, DATABASE_BYTES_WAITING_MAX)
            && own.takes(&job, DATABASE_OPERATIONS_WAITING_PER_TENANT_MAX, DATABASE_BYTES_WAITING_PER_TENANT_MAX);
        if !room {
            return Err(KvError::Busy);
        }
        waiting.enter(db, job, VecDeque::push_back);
        Ok(())
    }

    pub(super) fn wake(&self) {
        self.arrived.notify_one();
    }

    /// What a turn left undone goes back to where it was: before all that came later for the same database.
    pub(super) fn put_back(&self, db: Database, jobs: Vec<Job>) {
        let mut waiting = self.waiting();
        for job in jobs.into_iter().rev() {
            waiting.enter(db, job, VecDeque::push_front);
        }
    }

    /// The next turn; waits for one. None when the queue was closed and is empty.
    pub(super) fn next(&self) -> Option<(Database, Vec<Job>)> {
        let mut waiting = self.waiting();
        loop {
            if let Some(turn) = waiting.turn() {
                return Some(turn);
            }
            if waiting.closed {
                return None;
            }
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes nothing more. What waits is still served.
    pub(super) fn close(&self) {
        self.waiting().closed = true;
        self.arrived.notify_all();
    }
}

impl Waiting {
    fn enter(&mut self, db: Database, job: Job, put: fn(&mut VecDeque<Job>, Job)) {
        self.held.add(&job);
        let line = self.tenants.entry(db.tenant).or_insert_with(|| {
            self.turns.push_back(db.tenant);
            Line::default()
        });
        line.held.add(&job);
        let jobs = line.databases.entry(db.id).or_insert_with(|| {
            line.turns.push_back(db.id);
            VecDeque::new()
        });
        put(jobs, job);
    }

    fn turn(&mut self) -> Option<(Database, Vec<Job>)> {
        let tenant = self.turns.pop_front()?;
        let line = self.tenants.get_mut(&tenant).expect("whoever has a turn has a line");
        let id = line.turns.pop_front().expect("a line is never empty");
        let jobs = line.databases.get_mut(&id).expect("whatever has a turn has jobs");
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while taken.len() < DATABASE_OPERATIONS_PER_COMMIT_MAX
            && bytes < DATABASE_BYTES_PER_TURN_MAX
            && let Some(job) = jobs.pop_front()
        {
            bytes += job.bytes;
            line.held.take(&job);
            self.held.take(&job);
            taken.push(job);
        }
        if jobs.is_empty() {
            line.databases.remove(&id);
        } else {
            line.turns.push_back(id);
        }
        if line.turns.is_empty() {
            self.tenants.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        Some((Database { tenant, id }, taken))
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::databases::Answer;

    fn job(mark: &str) -> (Job, oneshot::Receiver<Result<Answer, KvError>>) {
        let (answer, answered) = oneshot::channel();
        let operation = Operation::Exists(mark.to_owned());
        (
            Job {
                bucket: "b".parse().expect("a name"),
                bytes: operation.bytes(),
                operation,
                reply: Reply::new(answer),
            },
            answered,
        )
    }

    fn db(tenant: u64, id: u64) -> Database {
        Database { tenant: TenantId(tenant), id: DatabaseId(id) }
    }

    #[test]
    fn a_tenant_that_floods_waits_for_itself() {
        let queue = Queue::new();
        let mut refused = 0;
        for number in 0..2 * DATABASE_OPERATIONS_WAITING_PER_TENANT_MAX as u64 {
            // A hundred databases of its own don't help it either.
            refused += u64::from(queue.push(db(1, number % 100), job("flood").0) == Err(KvError::Busy));
        }
        assert_eq!(refused, DATABASE_OPERATIONS_WAITING_PER_TENANT_MAX as u64);
        queue.push(db(2, 1_000), job("one").0).expect("another tenant has room");
        let turns: Vec<_> = std::iter::from_fn(|| queue.waiting().turn()).map(|(db, _)| db.tenant.0).collect();
        assert_eq!(turns.iter().position(|tenant| *tenant == 2), Some(1), "it is served second: {turns:?}");
        assert_eq!(turns.len(), 101);
        let Held { jobs, bytes } = queue.waiting().held;
        assert_eq!((jobs, bytes), (0, 0));
    }

    #[test]
    fn what_is_put_back_comes_before_what_came_later() {
        let queue = Queue::new();
        for mark in ["a", "b", "c"] {
            queue.push(db(1, 1), job(mark).0).expect("there is room");
        }
        let (place, mut turn) = queue.next().expect("three wait");
        queue.push(place, job("d").0).expect("there is room");
        queue.put_back(place, turn.split_off(1));
        let (_, turn) = queue.next().expect("three wait again");
        let marks: Vec<_> = turn.iter().map(|job| format!("{:?}", job.operation)).collect();
        assert_eq!(marks, [r#"Exists("b")"#, r#"Exists("c")"#, r#"Exists("d")"#]);
    }

    #[test]
    fn what_waits_when_it_closes_is_still_served() {
        let queue = Queue::new();
        queue.push(db(1, 1), job("a").0).expect("there is room");
        queue.close();
        assert_eq!(queue.push(db(1, 1), job("b").0), Err(KvError::Closed));
        assert_eq!(queue.next().map(|(_, jobs)| jobs.len()), Some(1));
        assert!(queue.next().is_none());
    }
}
