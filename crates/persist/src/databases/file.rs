//! One database file: its format, its bounds, and what each operation is in SQL.
//!
//! The app's own tables will lie in the same file one day, so ours begin with `firm_`.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use base::Name;
use base::limits::{DATABASE_CACHE_BYTES_MAX, DATABASE_LOG_PAGES, KV_BATCH_BYTES_MAX, KV_LIST_PAGE};
use bytes::Bytes;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, params};

use super::{Answer, KvError, Operation, Page, batch_too_large};
use crate::disk;

/// `fmkv` in ASCII.
const APPLICATION_ID: i32 = 0x666d_6b76;
/// The format of the file. A newer one is refused.
const FORMAT: i64 = 1;
const PAGE_BYTES: u64 = 4096;

/// One tree holds keys and values: a small value, which most are, then changes one page.
const SCHEMA: &str = "
    CREATE TABLE firm_kv (
        bucket TEXT NOT NULL,
        key TEXT NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (bucket, key)
    ) WITHOUT ROWID;
";

/// Nothing of the transaction happened, and its operations may be tried one by one.
#[derive(Debug)]
pub(super) struct Undone;

pub(super) struct DatabaseFile {
    connection: Connection,
    bytes_max: u64,
    /// Pages in the write-ahead log, as the last commit left it.
    log_pages: Arc<AtomicI32>,
}

/// Why an operation stops: SQLite says so, or we do.
enum Stop {
    Sqlite(rusqlite::Error),
    Refused(KvError),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn broken(error: impl Display) -> KvError {
    KvError::Broken(error.to_string())
}

impl DatabaseFile {
    /// Opens the file, or makes it.
    pub(super) fn open_to_write(path: &Path, bytes_max: u64) -> Result<Self, KvError> {
        if !path.exists() {
            make(path).map_err(|error| match error {
                MakeError::Disk(error) if disk::is_full(&error) => KvError::Full { max: bytes_max },
                MakeError::Disk(error) => broken(error),
                MakeError::Sqlite(error) => broken(error),
            })?;
        }
        let mut file = Self::connected(path, bytes_max)?;
        file.check()?;
        file.prepare_to_write().map_err(|error| file.said(&error))?;
        Ok(file)
    }

    /// Opens the file. None when there is none yet.
    pub(super) fn open_to_read(path: &Path, bytes_max: u64) -> Result<Option<Self>, KvError> {
        if !path.exists() {
            return Ok(None);
        }
        let file = Self::connected(path, bytes_max)?;
        file.check()?;
        file.connection.pragma_update(None, "query_only", true).map_err(broken)?;
        Ok(Some(file))
    }

    fn connected(path: &Path, bytes_max: u64) -> Result<Self, KvError> {
        Ok(Self { connection: connect(path).map_err(broken)?, bytes_max, log_pages: Arc::default() })
    }

    /// Is it ours, and of a format that we know?
    fn check(&self) -> Result<(), KvError> {
        let pragma = |name| {
            let value = self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            value.map_err(|error| self.said(&error))
        };
        let format = pragma("user_version")?;
        if format > FORMAT {
            return Err(broken(format!(
                "it has format {format}, and this build reads up to {FORMAT}: run the newer build"
            )));
        }
        // SQLite takes an empty file for a new database. Ours have their format from the start.
        if format == 0 || pragma("application_id")? != i64::from(APPLICATION_ID) {
            return Err(broken("its file is cut off, or another program's: it was left as it is"));
        }
        Ok(())
    }

    fn prepare_to_write(&mut self) -> rusqlite::Result<()> {
        // In place of SQLite's own, which brings the log into the file before a commit is answered.
        let log_pages = Arc::clone(&self.log_pages);
        self.connection.wal_hook(Some(move |_: &mut Wal, pages| {
            log_pages.store(pages, Ordering::Relaxed);
            Ok(())
        }))?;
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        let pages = i64::try_from(self.bytes_max / PAGE_BYTES).unwrap_or(i64::MAX);
        self.connection.pragma_update(None, "max_page_count", pages)?;
        self.connection.pragma_update(None, "journal_size_limit", 4 << 20)?;
        // After a sync that failed, the kernel may hold for clean what never reached the disk. Writing the WAL into
        // the database makes it dirty again, and syncs it; in every other case there is nothing to do.
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// Brings all that the log holds into the file. Nothing of it is anywhere else then.
    pub(super) fn whole(&self) -> Result<(), KvError> {
        let busy: i64 = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .map_err(|error| self.said(&error))?;
        if busy == 0 { Ok(()) } else { Err(KvError::Busy) }
    }

    /// Brings what the log holds into the file, if it is much: when those who wait for a commit have their answers.
    pub(super) fn tidy(&self) {
        if self.log_pages.load(Ordering::Relaxed) < DATABASE_LOG_PAGES {
            return;
        }
        // The log keeps what couldn't be moved, and the next turn tries again.
        if let Err(error) = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
            tracing::debug!(%error, "a write-ahead log can't be brought into its database");
        }
    }

    pub(super) fn begin_read(&self) -> Result<(), KvError> {
        self.connection.execute_batch("BEGIN").map_err(|error| self.said(&error))
    }

    pub(super) fn end_read(&self) {
        if !self.connection.is_autocommit() {
            // It only reads: there is nothing that could fail to be kept.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    /// Performs all in one transaction; on return what succeeded is on the disk.
    pub(super) fn write_together<'a>(
        &self,
        operations: impl ExactSizeIterator<Item = (&'a Name, &'a Operation)>,
    ) -> Result<Vec<Result<Answer, KvError>>, Undone> {
        let count = operations.len();
        let all = |error: KvError| Ok((0..count).map(|_| Err(error.clone())).collect());
        if let Err(error) = self.connection.execute_batch("BEGIN IMMEDIATE") {
            return all(self.said(&error));
        }
        let mut outcomes = Vec::with_capacity(count);
        for (bucket, operation) in operations {
            let outcome = self.undone_when_it_fails(bucket, operation);
            let lost = self.connection.is_autocommit() || matches!(outcome, Err(KvError::Broken(_)));
            if lost {
                self.roll_back();
                return Err(Undone);
            }
            outcomes.push(outcome);
        }
        match self.connection.execute_batch("COMMIT") {
            Ok(()) => Ok(outcomes),
            Err(error) => {
                self.roll_back();
                match self.said(&error) {
                    // SQLite found no room before the commit was complete, and took it back.
                    KvError::Full { .. } => Err(Undone),
                    // Nobody knows what the disk holds.
                    error => all(error),
                }
            }
        }
    }

    /// Performs one in a transaction of its own.
    pub(super) fn write_alone(&self, bucket: &Name, operation: &Operation) -> Result<Answer, KvError> {
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(|error| self.said(&error))?;
        let outcome = self.perform(bucket, operation).and_then(|answer| {
            self.connection.execute_batch("COMMIT").map_err(|error| self.said(&error))?;
            Ok(answer)
        });
        self.roll_back();
        outcome
    }

    /// Within a transaction: an operation that fails leaves no trace in it.
    fn undone_when_it_fails(&self, bucket: &Name, operation: &Operation) -> Result<Answer, KvError> {
        let statements = match operation {
            Operation::Set(pairs) => pairs.len(),
            Operation::Delete(keys) => keys.len(),
            _ => 1,
        };
        // SQLite undoes a single statement by itself.
        if statements <= 1 {
            return self.perform(bucket, operation);
        }
        let run = |sql| self.connection.prepare_cached(sql)?.execute([]).map(drop);
        run("SAVEPOINT one").map_err(|error| self.said(&error))?;
        let outcome = self.perform(bucket, operation);
        if self.connection.is_autocommit() {
            return outcome;
        }
        if outcome.is_err() {
            run("ROLLBACK TO one").map_err(|error| self.said(&error))?;
        }
        run("RELEASE one").map_err(|error| self.said(&error))?;
        outcome
    }

    fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            // A connection that can't even do this fails the next operation, and is closed for it.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    /// What SQLite's error is to the one who asked.
    fn said(&self, error: &rusqlite::Error) -> KvError {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => KvError::Full { max: self.bytes_max },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => KvError::Busy,
            _ => broken(error),
        }
    }

    pub(super) fn perform(&self, bucket: &Name, operation: &Operation) -> Result<Answer, KvError> {
        let bucket = bucket.as_str();
        let outcome = match operation {
            Operation::Get(keys) => self.get(bucket, keys).map(Answer::Values),
            Operation::Exists(key) => self.exists(bucket, key).map(Answer::Truth),
            Operation::List(cursor) => self.list(bucket, cursor.as_deref()).map(Answer::Page),
            Operation::Set(pairs) => {
                pairs.iter().try_for_each(|(key, value)| self.set(bucket, key, value)).map(|()| Answer::Done)
            }
            Operation::Delete(keys) => keys.iter().try_for_each(|key| self.delete(bucket, key)).map(|()| Answer::Done),
            Operation::Increment(key, delta) => self.increment(bucket, key, *delta).map(Answer::Number),
            Operation::Swap { key, expected, value } => {
                self.swap(bucket, key, expected.as_ref(), value).map(Answer::Truth)
            }
            Operation::Drop | Operation::Hold | Operation::Release => unreachable!("the worker does that itself"),
        };
        outcome.map_err(|stop| match stop {
            Stop::Sqlite(error) => self.said(&error),
            Stop::Refused(error) => error,
        })
    }

    fn value(&self, bucket: &str, key: &str) -> rusqlite::Result<Option<Bytes>> {
        self.connection
            .prepare_cached("SELECT value FROM firm_kv WHERE bucket = ?1 AND key = ?2")?
            .query_row([bucket, key], |row| Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?)))
            .optional()
    }

    fn get(&self, bucket: &str, keys: &[String]) -> Result<Vec<Option<Bytes>>, Stop> {
        let mut bytes = 0;
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            let value = self.value(bucket, key)?;
            bytes += value.as_ref().map_or(0, Bytes::len);
            if bytes > KV_BATCH_BYTES_MAX {
                return Err(Stop::Refused(batch_too_large()));
            }
            values.push(value);
        }
        Ok(values)
    }

    fn exists(&self, bucket: &str, key: &str) -> Result<bool, Stop> {
        Ok(self
            .connection
            .prepare_cached("SELECT 1 FROM firm_kv WHERE bucket = ?1 AND key = ?2")?
            .exists([bucket, key])?)
    }

    fn list(&self, bucket: &str, cursor: Option<&str>) -> Result<Page, Stop> {
        // One more than a page tells whether there is a next one.
        let limit = i64::try_from(KV_LIST_PAGE + 1).unwrap_or(i64::MAX);
        let mut keys: Vec<String> = match cursor {
            Some(cursor) => self
                .connection
                .prepare_cached("SELECT key FROM firm_kv WHERE bucket = ?1 AND key > ?2 ORDER BY key LIMIT ?3")?
                .query_map(params![bucket, cursor, limit], |row| row.get(0))?
                .collect::<Result<_, _>>()?,
            None => self
                .connection
                .prepare_cached("SELECT key FROM firm_kv WHERE bucket = ?1 ORDER BY key LIMIT ?2")?
                .query_map(params![bucket, limit], |row| row.get(0))?
                .collect::<Result<_, _>>()?,
        };
        let more = keys.len() > KV_LIST_PAGE;
        keys.truncate(KV_LIST_PAGE);
        let next = if more { keys.last().cloned() } else { None };
        Ok(Page { keys, next })
    }

    fn set(&self, bucket: &str, key: &str, value: &[u8]) -> Result<(), Stop> {
        let sql = "INSERT INTO firm_kv (bucket, key, value) VALUES (?1, ?2, ?3)
                   ON CONFLICT (bucket, key) DO UPDATE SET value = excluded.value";
        self.connection.prepare_cached(sql)?.execute(params![bucket, key, value])?;
        Ok(())
    }

    fn delete(&self, bucket: &str, key: &str) -> Result<(), Stop> {
        self.connection.prepare_cached("DELETE FROM firm_kv WHERE bucket = ?1 AND key = ?2")?.execute([bucket, key])?;
        Ok(())
    }

    fn increment(&self, bucket: &str, key: &str, delta: i64) -> Result<i64, Stop> {
        let held = self.value(bucket, key)?;
        let number = match &held {
            None => Some(0),
            Some(bytes) => std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()),
        };
        let sum = number.and_then(|number: i64| number.checked_add(delta)).ok_or(Stop::Refused(KvError::NotANumber))?;
        self.set(bucket, key, sum.to_string().as_bytes())?;
        Ok(sum)
    }

    fn swap(&self, bucket: &str, key: &str, expected: Option<&Bytes>, value: &[u8]) -> Result<bool, Stop> {
        if self.value(bucket, key)?.as_ref() != expected {
            return Ok(false);
        }
        self.set(bucket, key, value)?;
        Ok(true)
    }
}

/// Why a file can't be made.
enum MakeError {
    Disk(io::Error),
    Sqlite(rusqlite::Error),
}

impl From<io::Error> for MakeError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<rusqlite::Error> for MakeError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Makes an empty database beside its place and renames it there: a file that is there is complete.
fn make(path: &Path) -> Result<(), MakeError> {
    let unfinished = path.with_extension("sqlite.new");
    for companion in ["", "-wal", "-shm", "-journal"] {
        let mut leftover = unfinished.clone().into_os_string();
        leftover.push(companion);
        disk::or_gone(std::fs::remove_file(leftover))?;
    }
    // SQLite would make it readable for all whom the umask lets; its companions take over what the file has.
    let file = disk::create_file(&unfinished)?;
    let connection = connect(&unfinished)?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "page_size", PAGE_BYTES.cast_signed())?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.execute_batch(SCHEMA)?;
    connection.pragma_update(None, "user_version", FORMAT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.close().map_err(|(_, error)| error)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    if let Some(dir) = path.parent() {
        disk::sync_dir(dir)?;
    }
    Ok(())
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // Each connection belongs to one thread.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // The pair wait for each other only while the file is made or tidied.
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(16);
    connection.pragma_update(None, "cache_size", -i64::try_from(DATABASE_CACHE_BYTES_MAX >> 10).unwrap_or(i64::MAX))?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // A damaged page is an error, and never a read beyond it; nor does a file that shrinks under a map end the process.
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket() -> Name {
        "b".parse().expect("a name")
    }

    fn set(pairs: &[(&str, usize)]) -> Operation {
        Operation::Set(pairs.iter().map(|(key, bytes)| ((*key).to_owned(), Bytes::from(vec![7; *bytes]))).collect())
    }

    fn keys(file: &DatabaseFile) -> Vec<String> {
        match file.perform(&bucket(), &Operation::List(None)) {
            Ok(Answer::Page(page)) => page.keys,
            other => panic!("{other:?}"),
        }
    }

    /// As the worker does it.
    fn write(file: &DatabaseFile, operations: &[Operation]) -> Vec<Result<Answer, KvError>> {
        let bucket = bucket();
        file.write_together(operations.iter().map(|operation| (&bucket, operation)))
            .unwrap_or_else(|Undone| operations.iter().map(|operation| file.write_alone(&bucket, operation)).collect())
    }

    #[test]
    fn an_operation_that_fails_takes_no_neighbour_with_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = DatabaseFile::open_to_write(&dir.path().join("1.sqlite"), 256 << 10).expect("it is new");
        let operations = [
            set(&[("a", 10)]),
            Operation::Increment("n".to_owned(), 1),
            // Its first half fits, and must go with the second.
            set(&[("half", 10), ("other-half", 300 << 10)]),
            set(&[("too-large", 300 << 10)]),
            set(&[("text", 3)]),
            Operation::Increment("text".to_owned(), 1),
            Operation::Increment("n".to_owned(), 1),
            set(&[("b", 10), ("c", 10)]),
        ];
        let outcomes: Vec<String> = write(&file, &operations).iter().map(|outcome| format!("{outcome:?}")).collect();
        let full = "Err(Full { max: 262144 })";
        let wanted =
            ["Ok(Done)", "Ok(Number(1))", full, full, "Ok(Done)", "Err(NotANumber)", "Ok(Number(2))", "Ok(Done)"];
        assert_eq!(outcomes, wanted);
        assert_eq!(keys(&file), ["a", "b", "c", "n", "text"]);
    }

    #[test]
    fn its_log_stays_short_where_it_is_tidied() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("1.sqlite");
        let file = DatabaseFile::open_to_write(&path, 1 << 30).expect("it is new");
        let log_bytes = || path.with_extension("sqlite-wal").metadata().map_or(0, |log| log.len());
        let most = u64::try_from(DATABASE_LOG_PAGES).expect("some") * (PAGE_BYTES + 24);
        let rounds = |tidied: bool, which: std::ops::Range<u32>| {
            for round in which {
                let keys: Vec<_> = (0..50).map(|number| format!("{round}-{number}")).collect();
                let pairs: Vec<_> = keys.iter().map(|key| (key.as_str(), 4_000)).collect();
                assert!(write(&file, &[set(&pairs)])[0].is_ok());
                if tidied {
                    file.tidy();
                }
            }
        };
        rounds(true, 0..40);
        assert!(log_bytes() < 2 * most, "{}", log_bytes());
        rounds(false, 40..80);
        assert!(log_bytes() > 2 * most, "it isn't SQLite that does it: {}", log_bytes());
        file.tidy();
        assert_eq!(keys(&file).len(), KV_LIST_PAGE);
    }

    #[test]
    fn a_reader_sees_a_write_when_it_is_acknowledged_and_not_before() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("1.sqlite");
        assert!(DatabaseFile::open_to_read(&path, 1 << 20).expect("nothing is there").is_none());
        let writer = DatabaseFile::open_to_write(&path, 1 << 20).expect("it is new");
        let reader = DatabaseFile::open_to_read(&path, 1 << 20).expect("it is whole").expect("it is there");
        writer.connection.execute_batch("BEGIN IMMEDIATE").expect("nobody else writes");
        writer.perform(&bucket(), &set(&[("k", 1)])).expect("there is room");
        assert_eq!(keys(&reader), [""; 0]);
        writer.connection.execute_batch("COMMIT").expect("there is room");
        assert_eq!(keys(&reader), ["k"]);
        assert!(reader.perform(&bucket(), &set(&[("l", 1)])).is_err(), "a reader can't write");
    }
}
