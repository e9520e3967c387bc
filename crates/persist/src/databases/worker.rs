//! A thread of databases: takes turns from its queue, keeps open what it used last, answers after the commit.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use base::limits::{
    DATABASE_BYTES_PER_TURN_MAX, DATABASE_DROPPED_KEPT, DATABASES_DROPPED_LOOK_THROUGH, DATABASES_OPEN_PER_THREAD_MAX,
};
use bytes::Bytes;

use super::cache::Cache;
use super::desk::Mail;
use super::file::{DatabaseFile, Undone};
use super::queue::{Job, Queue};
use super::tally::Tally;
use super::{Answer, Database, KvError, Operation, Page, dir_of, file_of, make_dir};
use crate::disk::{self, Room};

/// Which of a database's two threads this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lane {
    Read,
    Write,
}

pub(super) struct Worker {
    root: Arc<Path>,
    lane: Lane,
    bytes_max: u64,
    room: Arc<Room>,
    queue: Arc<Queue>,
    cache: Arc<Cache>,
    tally: Arc<Tally>,
    mail: Arc<Mail>,
    open: HashMap<Database, Open>,
    /// Databases that were dropped lately: a request that had begun before may still write.
    dropped: HashMap<Database, Instant>,
    /// Databases that are on their way to another box: the writer's alone.
    held: HashSet<Database>,
    /// Turns so far: what is oldest by it is closed first.
    turns: u64,
}

struct Open {
    file: DatabaseFile,
    used: u64,
}

impl Worker {
    pub(super) fn new(
        root: Arc<Path>,
        lane: Lane,
        (bytes_max, room): (u64, Arc<Room>),
        queue: Arc<Queue>,
        cache: Arc<Cache>,
        tally: Arc<Tally>,
    ) -> Self {
        let mail = Arc::new(Mail::new(Arc::clone(&tally)));
        let (open, dropped, held) = (HashMap::new(), HashMap::new(), HashSet::new());
        Self { root, lane, bytes_max, room, queue, cache, tally, mail, open, dropped, held, turns: 0 }
    }

    pub(super) fn run(mut self) {
        while let Some((db, jobs)) = self.queue.clone().next() {
            self.turns += 1;
            // A defect that one database brings to light must not end the others' thread. Those who wait for the
            // lost jobs are told that the outcome is unknown, which it is.
            if catch_unwind(AssertUnwindSafe(|| self.turn(db, jobs))).is_err() {
                tracing::error!(tenant = db.tenant.0, database = db.id.0, "an operation panicked");
                self.open.remove(&db);
            }
            self.mail.deliver();
            if let Some(open) = self.open.get(&db).filter(|_| self.lane == Lane::Write) {
                open.file.tidy();
            }
            self.tally.open(usize::from(self.lane == Lane::Write), self.open.len());
        }
    }

    fn turn(&mut self, db: Database, jobs: Vec<Job>) {
        let mut batch = Vec::with_capacity(jobs.len());
        for job in jobs {
            if !matches!(job.operation, Operation::Drop | Operation::Hold | Operation::Release) {
                batch.push(job);
                continue;
            }
            self.batch(db, std::mem::take(&mut batch));
            let done = match job.operation {
                Operation::Drop => self.drop_database(db),
                Operation::Hold => self.hold(db),
                _ => {
                    self.held.remove(&db);
                    Ok(())
                }
            };
            self.mail.answer(job, done.map(|()| Answer::Done));
        }
        self.batch(db, batch);
    }

    fn batch(&mut self, db: Database, mut batch: Vec<Job>) {
        if self.held.contains(&db) {
            for job in batch.drain(..) {
                self.mail.answer(job, Err(KvError::Busy));
            }
        }
        if self.lane == Lane::Write && self.room.is_gone() {
            let leaves_more = |job: &mut Job| !matches!(job.operation, Operation::Delete(_));
            for job in batch.extract_if(.., leaves_more) {
                self.mail.answer(job, Err(KvError::NoRoom));
            }
        }
        if batch.is_empty() {
            return;
        }
        let (queue, cache, mail) = (Arc::clone(&self.queue), Arc::clone(&self.cache), Arc::clone(&self.mail));
        let health = match (self.lane, self.file(db)) {
            (Lane::Read, Ok(Some(file))) => {
                let (left, health) = read(file, batch, &mail);
                queue.put_back(db, left);
                health
            }
            (Lane::Write, Ok(Some(file))) => write(file, db, batch, &cache, &mail),
            // Nobody has written to it yet.
            (_, Ok(None)) => {
                for job in batch {
                    let held = nothing(&job.operation);
                    mail.answer(job, Ok(held));
                }
                Ok(())
            }
            (_, Err(error)) => {
                for job in batch {
                    mail.answer(job, Err(error.clone()));
                }
                broken(&error)
            }
        };
        if let Err(error) = health {
            tracing::error!(tenant = db.tenant.0, database = db.id.0, %error, "a database failed");
            self.open.remove(&db);
        }
    }

    /// The open file. None, for a reader: there is nothing to read yet.
    fn file(&mut self, db: Database) -> Result<Option<&DatabaseFile>, KvError> {
        if !self.open.contains_key(&db) {
            let opened = match self.lane {
                Lane::Read => DatabaseFile::open_to_read(&self.path(db), self.bytes_max)?,
                Lane::Write if self.dropped.contains_key(&db) => return Err(KvError::Deleted),
                Lane::Write => {
                    make_dir(&self.root, db)
                        .map_err(|error| KvError::Broken(format!("its directory can't be made: {error}")))?;
                    Some(DatabaseFile::open_to_write(&self.path(db), self.bytes_max)?)
                }
            };
            let Some(file) = opened else { return Ok(None) };
            if self.open.len() >= DATABASES_OPEN_PER_THREAD_MAX
                && let Some(oldest) = self.open.iter().min_by_key(|(_, open)| open.used).map(|(db, _)| *db)
            {
                self.open.remove(&oldest);
            }
            self.open.insert(db, Open { file, used: 0 });
        }
        let open = self.open.get_mut(&db).expect("it was there or just opened");
        open.used = self.turns;
        Ok(Some(&open.file))
    }

    fn path(&self, db: Database) -> PathBuf {
        file_of(&self.root, db)
    }

    /// What is in the file then is all there is, and stays so.
    fn hold(&mut self, db: Database) -> Result<(), KvError> {
        if self.lane == Lane::Write {
            if self.path(db).exists() {
                self.file(db)?.expect("a writer has a file").whole()?;
            }
            self.held.insert(db);
        }
        self.open.remove(&db);
        Ok(())
    }

    fn drop_database(&mut self, db: Database) -> Result<(), KvError> {
        self.open.remove(&db);
        self.held.remove(&db);
        let removed = if self.lane == Lane::Write {
            self.remember_dropped(db);
            self.remove_files(db)
        } else {
            Ok(())
        };
        self.cache.forget(db);
        removed
    }

    fn remember_dropped(&mut self, db: Database) {
        if self.dropped.len() >= DATABASES_DROPPED_LOOK_THROUGH {
            self.dropped.retain(|_, since| since.elapsed() < DATABASE_DROPPED_KEPT);
        }
        self.dropped.insert(db, Instant::now());
    }

    fn remove_files(&self, db: Database) -> Result<(), KvError> {
        let path = self.path(db);
        // The database itself goes last: as long as it is there, the next start finds what is left to remove.
        for companion in [".new", "-wal", "-shm", ""] {
            let mut name = path.clone().into_os_string();
            name.push(companion);
            disk::or_gone(fs::remove_file(&name))
                .map_err(|error| KvError::Broken(format!("its file can't be removed: {error}")))?;
        }
        // It stays for as long as the tenant has another.
        let _ = fs::remove_dir(dir_of(&self.root, db));
        Ok(())
    }
}

/// Answers what fits a turn and gives back the rest.
fn read(file: &DatabaseFile, batch: Vec<Job>, mail: &Mail) -> (Vec<Job>, Result<(), KvError>) {
    let mut health = Ok(());
    let mut jobs = batch.into_iter();
    let mut bytes = 0;
    if let Err(error) = file.begin_read() {
        health = broken(&error);
        jobs.by_ref().for_each(|job| mail.answer(job, Err(error.clone())));
    }
    while bytes < DATABASE_BYTES_PER_TURN_MAX
        && let Some(job) = jobs.next()
    {
        let outcome = file.perform(&job.bucket, &job.operation);
        match &outcome {
            Ok(Answer::Values(values)) => bytes += values.iter().flatten().map(Bytes::len).sum::<usize>(),
            Ok(Answer::Page(page)) => bytes += page.keys.iter().map(String::len).sum::<usize>(),
            Ok(_) => {}
            Err(error) => health = health.and(broken(error)),
        }
        mail.answer(job, outcome);
    }
    file.end_read();
    (jobs.collect(), health)
}

/// Performs the jobs in one transaction. Where that can't be, each in its own: none undoes another.
fn write(file: &DatabaseFile, db: Database, batch: Vec<Job>, cache: &Cache, mail: &Mail) -> Result<(), KvError> {
    let writing = cache.writing(db, batch.iter().map(|job| (&job.bucket, &job.operation)));
    let outcomes: Vec<_> = file
        .write_together(batch.iter().map(|job| (&job.bucket, &job.operation)))
        .unwrap_or_else(|Undone| batch.iter().map(|job| file.write_alone(&job.bucket, &job.operation)).collect());
    let health = outcomes.iter().try_for_each(|outcome| outcome.as_ref().map_or_else(broken, |_| Ok(())));
    if health.is_err() {
        cache.distrust(db);
    }
    drop(writing);
    for (job, outcome) in batch.into_iter().zip(outcomes) {
        mail.answer(job, outcome);
    }
    health
}

/// Does this error say that the file should be opened anew?
fn broken(error: &KvError) -> Result<(), KvError> {
    if matches!(error, KvError::Broken(_)) { Err(error.clone()) } else { Ok(()) }
}

/// What a database without a file answers.
fn nothing(operation: &Operation) -> Answer {
    match operation {
        Operation::Get(keys) => Answer::Values(vec![None; keys.len()]),
        Operation::Exists(_) => Answer::Truth(false),
        Operation::List(_) => Answer::Page(Page::default()),
        other => unreachable!("{other:?} goes to the writer, which makes the file"),
    }
}
