//! `record.sqlite`: a snapshot of the record, and the log of what came after.
//!
//! SQLite in WAL mode with `synchronous=FULL`: a commit is on the disk when it returns. Every text has its BLAKE3
//! beside it, because SQLite's own checks see its pages and not what a disk did to the text inside.
//!
//! What can't be read is refused and left as it is, by name. A new file is made beside its place and renamed into
//! it when it is complete, so that an empty `record.sqlite` is never taken for a new one.

use std::io;
use std::path::{Path, PathBuf};

use base::Digest;
use base::limits::RECORD_SNAPSHOT_PART_BYTES;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use state::{Entry, FORMAT, Record};

use crate::disk;

const NAME: &str = "record.sqlite";
/// `firm` in ASCII: what `file` and SQLite's own tools tell this file by.
const APPLICATION_ID: i32 = 0x6669_726d;

const SCHEMA: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    -- The entries after the snapshot, by the index that they bring the record to.
    CREATE TABLE log (idx INTEGER PRIMARY KEY, entry TEXT NOT NULL, blake3 TEXT NOT NULL);
    -- One record as JSON, in parts: SQLite takes no text of more than 1 GB.
    CREATE TABLE snapshot (part INTEGER PRIMARY KEY, idx INTEGER NOT NULL, record TEXT NOT NULL, blake3 TEXT NOT NULL);
";

/// Why the record can't be opened. Nothing on the disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path} can't be made: check that the directory exists, is writable, and has room")]
    Make {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{path} is in use by another node: stop that one, or choose another --dir")]
    InUse { path: PathBuf },
    #[error("{path} can't be read: check that it belongs to the user who runs the node, and the disk")]
    Read {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("{path} is damaged ({what}): it was left as it is; put a copy of it from a backup in its place")]
    Damaged { path: PathBuf, what: String },
    #[error("{path} has format {found}, and this build reads up to {ours}: run the newer build that wrote it")]
    Newer { path: PathBuf, found: u32, ours: u32 },
    #[error("the record's thread can't be started")]
    Thread(#[source] io::Error),
}

/// A write to the log that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum AppendError {
    /// SQLite found no room before the commit was complete, and took it back: nothing was written.
    #[error("the disk is full: {path} can't grow")]
    Full { path: PathBuf },
    /// What the disk holds now is unknown.
    #[error("{path} can't be written")]
    Write {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
}

/// A snapshot that wasn't written.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error("the record can't be written as JSON")]
    Json(#[source] serde_json::Error),
    #[error("{path} can't be written")]
    Write {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
}

pub(super) struct RecordFile {
    connection: Connection,
    path: PathBuf,
}

/// An open file and what it held.
pub(super) struct Opened {
    pub file: RecordFile,
    pub record: Record,
    pub log_entries: u64,
    pub log_bytes: usize,
}

impl RecordFile {
    pub(super) fn open(dir: &Path) -> Result<Opened, OpenError> {
        let path = dir.join(NAME);
        if !path.exists() {
            make(dir, &path).map_err(|source| OpenError::Make { path: path.clone(), source })?;
        }
        if path.metadata().is_ok_and(|meta| meta.len() == 0) {
            return Err(OpenError::Damaged { path, what: "it is empty".to_owned() });
        }
        let connection = connect(&path).map_err(|error| unreadable(&path, error))?;
        let file = Self { connection, path };
        // First the look: a file that isn't ours must not even change its journal mode.
        file.check()?;
        prepare(&file.connection).map_err(|error| unreadable(&file.path, error))?;
        file.load()
    }

    /// Is it ours, whole, and of a format that we know?
    fn check(&self) -> Result<(), OpenError> {
        let unreadable = |error| unreadable(&self.path, error);
        let damaged = |what: String| OpenError::Damaged { path: self.path.clone(), what };
        let application: i32 =
            self.connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(unreadable)?;
        if application != APPLICATION_ID {
            return Err(damaged("it is another program's".to_owned()));
        }
        let format: Option<String> = self
            .connection
            .query_row("SELECT value FROM meta WHERE key = 'format'", [], |row| row.get(0))
            .optional()
            .map_err(unreadable)?;
        let format: u32 = format
            .and_then(|format| format.parse().ok())
            .ok_or_else(|| damaged("it doesn't say its format".to_owned()))?;
        if format > FORMAT {
            return Err(OpenError::Newer { path: self.path.clone(), found: format, ours: FORMAT });
        }
        let whole: String =
            self.connection.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(unreadable)?;
        if whole == "ok" { Ok(()) } else { Err(damaged(whole)) }
    }

    fn load(self) -> Result<Opened, OpenError> {
        let mut record = self.load_snapshot()?;
        let (mut log_entries, mut log_bytes) = (0, 0);
        let damaged = |what: String| OpenError::Damaged { path: self.path.clone(), what };
        {
            let unreadable = |error| unreadable(&self.path, error);
            let mut log =
                self.connection.prepare("SELECT idx, entry, blake3 FROM log ORDER BY idx").map_err(unreadable)?;
            let mut rows = log.query([]).map_err(unreadable)?;
            while let Some(row) = rows.next().map_err(unreadable)? {
                let (index, text, hash): (i64, String, String) =
                    (row.get(0).map_err(unreadable)?, row.get(1).map_err(unreadable)?, row.get(2).map_err(unreadable)?);
                if index.cast_unsigned() != record.index() + 1 {
                    return Err(damaged(format!("log entry {} is missing", record.index() + 1)));
                }
                if Digest::of(text.as_bytes()).hex() != hash {
                    return Err(damaged(format!("log entry {index} isn't what was written")));
                }
                let entry: Entry = serde_json::from_str(&text)
                    .map_err(|error| damaged(format!("log entry {index} can't be understood: {error}")))?;
                // A refusal was a refusal then, too: it was answered, and changed only the index.
                let _ = record.apply(&entry);
                log_entries += 1;
                log_bytes += text.len();
            }
        }
        Ok(Opened { file: self, record, log_entries, log_bytes })
    }

    fn load_snapshot(&self) -> Result<Record, OpenError> {
        let unreadable = |error| unreadable(&self.path, error);
        let damaged = |what: String| OpenError::Damaged { path: self.path.clone(), what };
        let mut parts = self
            .connection
            .prepare("SELECT part, idx, record, blake3 FROM snapshot ORDER BY part")
            .map_err(unreadable)?;
        let mut rows = parts.query([]).map_err(unreadable)?;
        let (mut text, mut wanted, mut count) = (String::new(), None, 0);
        while let Some(row) = rows.next().map_err(unreadable)? {
            let part: i64 = row.get(0).map_err(unreadable)?;
            let index: i64 = row.get(1).map_err(unreadable)?;
            let piece: String = row.get(2).map_err(unreadable)?;
            let hash: String = row.get(3).map_err(unreadable)?;
            if part != count || Digest::of(piece.as_bytes()).hex() != hash || wanted.is_some_and(|other| other != index)
            {
                return Err(damaged(format!("part {count} of the snapshot isn't what was written")));
            }
            count += 1;
            wanted = Some(index);
            // The common snapshot has one part, and is not copied.
            if text.is_empty() { text = piece } else { text.push_str(&piece) }
        }
        let Some(wanted) = wanted else { return Ok(Record::default()) };
        let record: Record = serde_json::from_str(&text)
            .map_err(|error| damaged(format!("the snapshot can't be understood: {error}")))?;
        if record.index() != wanted.cast_unsigned() {
            return Err(damaged(format!("the snapshot is of index {}, not {wanted}", record.index())));
        }
        Ok(record)
    }

    /// Writes entries that follow each other, the first of index `first`. On return they are on the disk.
    pub(super) fn append<'a>(&self, first: u64, entries: impl Iterator<Item = &'a str>) -> Result<(), AppendError> {
        let write = || {
            let transaction = self.connection.unchecked_transaction()?;
            {
                let mut insert =
                    transaction.prepare_cached("INSERT INTO log (idx, entry, blake3) VALUES (?1, ?2, ?3)")?;
                for (index, text) in (first..).zip(entries) {
                    insert.execute(params![index.cast_signed(), text, Digest::of(text.as_bytes()).hex()])?;
                }
            }
            transaction.commit()
        };
        write().map_err(|source| {
            let path = self.path.clone();
            match source.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => AppendError::Full { path },
                _ => AppendError::Write { path, source },
            }
        })
    }

    /// Writes the record as the snapshot and forgets the log up to it, both or neither.
    pub(super) fn snapshot(&self, record: &Record) -> Result<(), SnapshotError> {
        let text = serde_json::to_string(record).map_err(SnapshotError::Json)?;
        let write = || {
            let transaction = self.connection.unchecked_transaction()?;
            transaction.execute("DELETE FROM snapshot", [])?;
            {
                let mut insert =
                    transaction.prepare("INSERT INTO snapshot (part, idx, record, blake3) VALUES (?1, ?2, ?3, ?4)")?;
                let (mut rest, mut part) = (text.as_str(), 0_i64);
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at(rest.floor_char_boundary(RECORD_SNAPSHOT_PART_BYTES));
                    insert.execute(params![
                        part,
                        record.index().cast_signed(),
                        piece,
                        Digest::of(piece.as_bytes()).hex()
                    ])?;
                    (rest, part) = (after, part + 1);
                }
            }
            transaction.execute("DELETE FROM log WHERE idx <= ?1", [record.index().cast_signed()])?;
            transaction.commit()
        };
        write().map_err(|source| SnapshotError::Write { path: self.path.clone(), source })
    }
}

/// Makes an empty record beside its place and renames it there.
fn make(dir: &Path, path: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let unfinished = dir.join("record.sqlite.new");
    for leftover in ["", "-wal", "-shm", "-journal"] {
        disk::or_gone(std::fs::remove_file(dir.join(format!("record.sqlite.new{leftover}"))))?;
    }
    // SQLite would make it readable for all whom the umask lets; its companions take over what the file has.
    let file = disk::create_file(&unfinished)?;
    let connection = connect(&unfinished)?;
    prepare(&connection)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.execute_batch(SCHEMA)?;
    connection.execute("INSERT INTO meta (key, value) VALUES ('format', ?1)", [FORMAT.to_string()])?;
    connection.close().map_err(|(_, error)| error)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    disk::sync_dir(dir)?;
    Ok(())
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // One process, one connection: no shared memory file, no lock to take for each transaction.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A file from a backup may just have changed its mode, and SQLite only finishes that with the next statement.
    connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // A snapshot passes through the WAL; what it needed beyond this is given back.
    connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
    // After a sync that failed, the kernel may hold for clean what never reached the disk. Writing the WAL into the
    // database makes it dirty again, and syncs it.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

fn unreadable(path: &Path, source: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::InUse { path },
        // The last two are a table or column that isn't there, a value of the wrong type: not what we wrote.
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt | ErrorCode::Unknown) | None => {
            OpenError::Damaged { path, what: source.to_string() }
        }
        _ => OpenError::Read { path, source },
    }
}

#[cfg(test)]
impl RecordFile {
    /// A small disk.
    pub(super) fn limit_pages(&self, pages: i64) {
        self.connection.pragma_update(None, "max_page_count", pages).expect("a number");
    }
}
