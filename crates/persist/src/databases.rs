//! Databases: KV on SQLite, one file for each.
//!
//! A database belongs to one pair of threads for good: one writes, one reads. The writer puts all operations that
//! wait for the same database into one transaction, so that one `fdatasync` makes them all durable, and answers
//! after the commit: acknowledged is durable. The reader has its own connection to the same file and sees every
//! acknowledged write without ever waiting for a sync. What was read lately is answered from memory ([`cache`]).
//!
//! A core puts its operations together before it wakes these threads ([`desk`]).
//!
//! Turns go round by tenant, then by database ([`queue`]), so a tenant that hammers waits for itself.
//!
//! A path is made of the tenant's and the database's numbers. Buckets and keys are values in SQL, never its text.
//! A file that is damaged gives its own tenant errors, and nobody else.

mod cache;
pub mod desk;
mod file;
mod moving;
mod queue;
mod recent;
mod tally;
mod worker;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use base::limits::{
    DATABASE_BYTES_MAX, DATABASE_THREADS, KV_BATCH_BYTES_MAX, KV_BATCH_MAX, KV_KEY_BYTES_MAX, KV_VALUE_BYTES_MAX,
};
use base::{DatabaseId, Name, TenantId};
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::disk::{self, Room};
use cache::{Cache, Place};
use desk::Reply;
pub use moving::{Arriving, Held, MoveError};
use queue::{Job, Queue};
pub use tally::KvFigures;
use tally::Tally;
use worker::{Lane, Worker};

/// Why the databases can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the databases' directory {path} can't be made: check that its parent is writable")]
    Make {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("a thread for databases can't be started")]
    Thread(#[source] io::Error),
}

/// Which database: one stage's data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Database {
    pub tenant: TenantId,
    pub id: DatabaseId,
}

/// Why an operation wasn't done. Nothing of it happened, except where a variant says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    #[error("the database is full: it may hold {max} bytes. Delete keys to make room")]
    Full { max: u64 },
    #[error("the box's disk is full: what is there can be read and deleted")]
    NoRoom,
    #[error("a key has at the most {max} bytes, and this one has {bytes}")]
    KeyTooLong { bytes: usize, max: usize },
    #[error("a value has at the most {max} bytes, and this one has {bytes}")]
    ValueTooLarge { bytes: usize, max: usize },
    #[error("a batch has at the most {keys} keys and {bytes} bytes")]
    BatchTooLarge { keys: usize, bytes: usize },
    #[error("the value is no whole number that can take this increment")]
    NotANumber,
    #[error("too many operations wait for the database: try again in a moment")]
    Busy,
    #[error("the node is going down")]
    Closed,
    #[error("the database was deleted")]
    Deleted,
    /// What happened is unknown. The text is for the operator; it may name paths of the box.
    #[error("the database can't be used: {0}")]
    Broken(String),
}

/// A page of keys, in the order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Page {
    pub keys: Vec<String>,
    /// The cursor of the next page; none at the end.
    pub next: Option<String>,
}

/// All databases of the box. Cheap to clone; all clones are one. The last to go closes them.
///
/// A caller who stops waiting doesn't take its operation back.
#[derive(Clone)]
pub struct Databases {
    inner: Arc<Inner>,
}

struct Inner {
    root: Arc<Path>,
    room: Arc<Room>,
    pairs: Vec<Pair>,
    cache: Arc<Cache>,
    /// One of each thread.
    tallies: Vec<Arc<Tally>>,
    threads: Mutex<Threads>,
}

#[derive(Default)]
struct Threads {
    readers: Vec<JoinHandle<()>>,
    writers: Vec<JoinHandle<()>>,
}

struct Pair {
    reads: Arc<Queue>,
    writes: Arc<Queue>,
}

/// What is asked of a database.
#[derive(Debug)]
enum Operation {
    Get(Vec<String>),
    Exists(String),
    List(Option<String>),
    Set(Vec<(String, Bytes)>),
    Delete(Vec<String>),
    Increment(String, i64),
    Swap {
        key: String,
        expected: Option<Bytes>,
        value: Bytes,
    },
    /// The reader lets go of the file; the writer removes it.
    Drop,
    /// The reader lets go of the file; the writer brings its log into it, and takes no writes from then on.
    Hold,
    /// The writer takes writes again.
    Release,
}

/// What came of it.
#[derive(Debug)]
enum Answer {
    Values(Vec<Option<Bytes>>),
    Page(Page),
    Number(i64),
    Truth(bool),
    Done,
}

impl Operation {
    /// Bytes that wait with it.
    fn bytes(&self) -> usize {
        match self {
            Self::Get(keys) | Self::Delete(keys) => keys.iter().map(String::len).sum(),
            Self::Set(pairs) => pairs.iter().map(|(key, value)| key.len() + value.len()).sum(),
            Self::Exists(key) | Self::Increment(key, _) => key.len(),
            Self::List(cursor) => cursor.as_ref().map_or(0, String::len),
            Self::Swap { key, expected, value } => key.len() + expected.as_ref().map_or(0, Bytes::len) + value.len(),
            Self::Drop | Self::Hold | Self::Release => 0,
        }
    }

    /// Calls back with each key whose value it may change.
    fn each_written(&self, mut written: impl FnMut(&str)) {
        match self {
            Self::Set(pairs) => pairs.iter().for_each(|(key, _)| written(key)),
            Self::Delete(keys) => keys.iter().for_each(|key| written(key)),
            Self::Increment(key, _) | Self::Swap { key, .. } => written(key),
            Self::Get(_) | Self::Exists(_) | Self::List(_) | Self::Drop | Self::Hold | Self::Release => {}
        }
    }

    /// Is it within what an operation may carry?
    fn check(&self) -> Result<(), KvError> {
        match self {
            Self::Get(keys) | Self::Delete(keys) => {
                batch_checked(keys.len(), self.bytes())?;
                keys.iter().try_for_each(|key| key_checked(key))
            }
            Self::Set(pairs) => {
                batch_checked(pairs.len(), self.bytes())?;
                pairs.iter().try_for_each(|(key, value)| key_checked(key).and_then(|()| value_checked(value)))
            }
            Self::Exists(key) | Self::Increment(key, _) => key_checked(key),
            Self::List(cursor) => cursor.as_deref().map_or(Ok(()), key_checked),
            Self::Swap { key, value, .. } => key_checked(key).and_then(|()| value_checked(value)),
            Self::Drop | Self::Hold | Self::Release => Ok(()),
        }
    }
}

fn key_checked(key: &str) -> Result<(), KvError> {
    let (bytes, max) = (key.len(), KV_KEY_BYTES_MAX);
    if bytes <= max { Ok(()) } else { Err(KvError::KeyTooLong { bytes, max }) }
}

fn value_checked(value: &Bytes) -> Result<(), KvError> {
    let (bytes, max) = (value.len(), KV_VALUE_BYTES_MAX);
    if bytes <= max { Ok(()) } else { Err(KvError::ValueTooLarge { bytes, max }) }
}

fn batch_checked(keys: usize, bytes: usize) -> Result<(), KvError> {
    if keys <= KV_BATCH_MAX && bytes <= KV_BATCH_BYTES_MAX { Ok(()) } else { Err(batch_too_large()) }
}

fn batch_too_large() -> KvError {
    KvError::BatchTooLarge { keys: KV_BATCH_MAX, bytes: KV_BATCH_BYTES_MAX }
}

impl Databases {
    /// Opens `dir/databases` and starts the threads. Opens no database yet. Blocks.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        Self::open_bounded(dir, DATABASE_BYTES_MAX, Room::on(dir))
    }

    /// As [`open`](Self::open), with `bytes_max` for each database, and `room` for all.
    fn open_bounded(dir: &Path, bytes_max: u64, room: Room) -> Result<Self, OpenError> {
        let root: Arc<Path> = dir.join("databases").into();
        let made = disk::create_dir(&root).and_then(|()| disk::sync_dir(dir));
        made.map_err(|source| OpenError::Make { path: root.to_path_buf(), source })?;
        let (cache, room) = (Arc::new(Cache::new()), Arc::new(room));
        let (mut pairs, mut tallies, mut threads) = (Vec::new(), Vec::new(), Threads::default());
        for number in 0..DATABASE_THREADS {
            let mut start = |lane, name: &str| {
                let (queue, tally) = (Queue::new(), Arc::new(Tally::default()));
                tallies.push(Arc::clone(&tally));
                let bounds = (bytes_max, Arc::clone(&room));
                let worker =
                    Worker::new(Arc::clone(&root), lane, bounds, Arc::clone(&queue), Arc::clone(&cache), tally);
                let thread = std::thread::Builder::new().name(format!("{name}-{number}"));
                Ok((queue, thread.spawn(move || worker.run()).map_err(OpenError::Thread)?))
            };
            let (reads, thread) = start(Lane::Read, "kv-read")?;
            threads.readers.push(thread);
            let (writes, thread) = start(Lane::Write, "kv-write")?;
            threads.writers.push(thread);
            pairs.push(Pair { reads, writes });
        }
        Ok(Self { inner: Arc::new(Inner { root, room, pairs, cache, tallies, threads: Mutex::new(threads) }) })
    }

    /// The value, if there is one.
    pub async fn get(&self, db: Database, bucket: &Name, key: &str) -> Result<Option<Bytes>, KvError> {
        key_checked(key)?;
        let (cache, place) = self.place(db, bucket, key);
        let miss = match cache.get(place) {
            Ok(value) => return Ok(value),
            Err(miss) => miss,
        };
        let values = self.get_many(db, bucket, vec![key.to_owned()]).await?;
        let value = values.into_iter().next().flatten();
        cache.hold(place, &miss, value.as_ref());
        Ok(value)
    }

    /// The values, in the order of the keys. All are of one moment.
    pub async fn get_many(
        &self,
        db: Database,
        bucket: &Name,
        keys: Vec<String>,
    ) -> Result<Vec<Option<Bytes>>, KvError> {
        match self.ask(db, bucket, Operation::Get(keys)).await? {
            Answer::Values(values) => Ok(values),
            other => unreachable!("a get answers values, not {other:?}"),
        }
    }

    /// Is there a value?
    pub async fn exists(&self, db: Database, bucket: &Name, key: &str) -> Result<bool, KvError> {
        key_checked(key)?;
        let (cache, place) = self.place(db, bucket, key);
        let miss = match cache.exists(place) {
            Ok(exists) => return Ok(exists),
            Err(miss) => miss,
        };
        let exists = self.ask(db, bucket, Operation::Exists(key.to_owned())).await.map(truth)?;
        if !exists {
            cache.hold(place, &miss, None);
        }
        Ok(exists)
    }

    /// A page of the bucket's keys: the first, or the one after `cursor`, which is a page's `next`.
    pub async fn list(&self, db: Database, bucket: &Name, cursor: Option<&str>) -> Result<Page, KvError> {
        match self.ask(db, bucket, Operation::List(cursor.map(str::to_owned))).await? {
            Answer::Page(page) => Ok(page),
            other => unreachable!("a list answers a page, not {other:?}"),
        }
    }

    /// Sets the value; durable on return.
    pub async fn set(&self, db: Database, bucket: &Name, key: &str, value: Bytes) -> Result<(), KvError> {
        self.set_many(db, bucket, vec![(key.to_owned(), value)]).await
    }

    /// Sets all of them or none. Of a key that comes twice, the last value stays.
    pub async fn set_many(&self, db: Database, bucket: &Name, pairs: Vec<(String, Bytes)>) -> Result<(), KvError> {
        self.ask(db, bucket, Operation::Set(pairs)).await.map(drop)
    }

    /// Deletes the key, if it is there.
    pub async fn delete(&self, db: Database, bucket: &Name, key: &str) -> Result<(), KvError> {
        self.delete_many(db, bucket, vec![key.to_owned()]).await
    }

    /// Deletes all of them or none.
    pub async fn delete_many(&self, db: Database, bucket: &Name, keys: Vec<String>) -> Result<(), KvError> {
        self.ask(db, bucket, Operation::Delete(keys)).await.map(drop)
    }

    /// Adds to a number that is stored as decimal text, and answers the sum. No value counts as 0.
    pub async fn increment(&self, db: Database, bucket: &Name, key: &str, delta: i64) -> Result<i64, KvError> {
        match self.ask(db, bucket, Operation::Increment(key.to_owned(), delta)).await? {
            Answer::Number(number) => Ok(number),
            other => unreachable!("an increment answers a number, not {other:?}"),
        }
    }

    /// Sets the value if it is `expected` now (none: if there is none), and says whether it did.
    pub async fn swap(
        &self,
        db: Database,
        bucket: &Name,
        key: &str,
        expected: Option<Bytes>,
        value: Bytes,
    ) -> Result<bool, KvError> {
        self.ask(db, bucket, Operation::Swap { key: key.to_owned(), expected, value }).await.map(truth)
    }

    /// Removes the database and its file. Its id is never used again, and who still writes to it is refused.
    pub async fn drop_database(&self, db: Database) -> Result<(), KvError> {
        let Pair { reads, writes } = self.pair(db);
        // No bucket is meant; the queue wants one.
        let bucket: Name = "all".parse().expect("three letters are a name");
        put(reads, db, bucket.clone(), Operation::Drop).await?;
        put(writes, db, bucket.clone(), Operation::Drop).await?;
        // Who read in between made the reader open it again.
        put(reads, db, bucket, Operation::Drop).await.map(drop)
    }

    /// What was done since the start, and what is open now.
    #[must_use]
    pub fn figures(&self) -> KvFigures {
        let mut figures = KvFigures::default();
        self.inner.tallies.iter().for_each(|tally| tally.add_to(&mut figures));
        self.inner.cache.add_to(&mut figures);
        figures
    }

    /// Finishes what waits and takes nothing more. Blocks.
    pub fn close(&self) {
        self.inner.close();
    }

    /// The databases that have a file.
    pub(crate) fn all(&self) -> io::Result<Vec<Database>> {
        let mut all = Vec::new();
        for tenant in disk::numbered(&self.inner.root, "")? {
            let ids = disk::numbered(&self.inner.root.join(tenant.to_string()), ".sqlite")?;
            all.extend(ids.into_iter().map(|id| Database { tenant: TenantId(tenant), id: DatabaseId(id) }));
        }
        Ok(all)
    }

    async fn ask(&self, db: Database, bucket: &Name, operation: Operation) -> Result<Answer, KvError> {
        operation.check()?;
        let Pair { reads, writes } = self.pair(db);
        let reads_only = matches!(operation, Operation::Get(_) | Operation::Exists(_) | Operation::List(_));
        put(if reads_only { reads } else { writes }, db, bucket.clone(), operation).await
    }

    fn place<'a>(&self, db: Database, bucket: &'a Name, key: &'a str) -> (&Cache, Place<'a>) {
        (&self.inner.cache, self.inner.cache.place(db, bucket, key))
    }

    fn pair(&self, db: Database) -> &Pair {
        // Ids are counted up, so they spread evenly by themselves.
        let pairs = &self.inner.pairs;
        &pairs[usize::try_from(db.id.0 % pairs.len() as u64).expect("less than a length")]
    }
}

/// Where a database's file lies. Made of numbers alone.
fn file_of(root: &Path, db: Database) -> PathBuf {
    dir_of(root, db).join(format!("{}.sqlite", db.id))
}

fn dir_of(root: &Path, db: Database) -> PathBuf {
    root.join(db.tenant.to_string())
}

/// The directory of a tenant's databases, made where it is missing.
fn make_dir(root: &Path, db: Database) -> io::Result<()> {
    let dir = dir_of(root, db);
    if !dir.exists() {
        disk::create_dir(&dir)?;
        disk::sync_dir(root)?;
    }
    Ok(())
}

async fn put(queue: &Arc<Queue>, db: Database, bucket: Name, operation: Operation) -> Result<Answer, KvError> {
    let (answer, answered) = oneshot::channel();
    queue.push(db, Job { bucket, bytes: operation.bytes(), operation, reply: Reply::new(answer) })?;
    desk::call(queue);
    answered.await.unwrap_or_else(|_| Err(KvError::Broken("its thread failed on the operation".to_owned())))
}

fn truth(answer: Answer) -> bool {
    match answer {
        Answer::Truth(truth) => truth,
        other => unreachable!("a question answers yes or no, not {other:?}"),
    }
}

impl Inner {
    fn close(&self) {
        self.cache.close();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        self.pairs.iter().for_each(|pair| pair.reads.close());
        join(threads.readers);
        // The writers last: whoever closes the last connection to a file tidies it, and two at once would not.
        self.pairs.iter().for_each(|pair| pair.writes.close());
        join(threads.writers);
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a thread of the databases panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
