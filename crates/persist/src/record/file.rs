//! `record.sqlite`: a snapshot of the record, and the log of what came after.
//!
//! SQLite in WAL mode with `synchronous=FULL`: a commit is on the disk when it returns. Every text has its BLAKE3
//! beside it, because SQLite's own checks see its pages and not what a disk did to the text inside.
//!
//! What can't be read is refused and left as it is, by name. A new file is made beside its place and renamed into
//! it when it is complete, so that an empty `record.sqlite` is never taken for a new one.
//!
//! Format 1 was a lone box's: a log without terms. It is read as it was, and written anew as a snapshot in one
//! transaction ([`format1`]).

mod format1;

use std::io;
use std::path::{Path, PathBuf};

use base::Digest;
use base::limits::RECORD_SNAPSHOT_PART_BYTES;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use state::FORMAT;

use super::applied::State;
use super::types::{LogEntry, LogId, Member, Payload, Vote, alone, log_id, term_of};
use crate::disk;

const NAME: &str = "record.sqlite";
/// `firm` in ASCII: what `file` and SQLite's own tools tell this file by.
const APPLICATION_ID: i32 = 0x6669_726d;

const META: &str = "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;";
const SCHEMA: &str = "
    -- Whom this box votes for, up to where the log is committed, and up to where it was forgotten.
    CREATE TABLE pointers (key TEXT PRIMARY KEY, value TEXT NOT NULL, blake3 TEXT NOT NULL) WITHOUT ROWID;
    -- The entries after the snapshot, and some before it for boxes that are a little behind. The hash is of all three.
    CREATE TABLE log (idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, entry TEXT NOT NULL, blake3 TEXT NOT NULL);
    -- One state as JSON, in parts: SQLite takes no text of more than 1 GB. idx is the record's.
    CREATE TABLE snapshot (part INTEGER PRIMARY KEY, idx INTEGER NOT NULL, state TEXT NOT NULL, blake3 TEXT NOT NULL);
";

/// The term and index from which a founded record's log goes on.
const FOUNDING_TERM: u64 = 1;

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
    #[error("{path} has an older format and can't be written anew: check that there is room; it was left as it is")]
    Upgrade {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("{path} is the record of a cloud of several boxes: start this box as one of them")]
    OfAGroup { path: PathBuf },
    #[error("{path} is the record of a lone box: it can found a cloud, but not join one")]
    OfALoneBox { path: PathBuf },
    #[error("the record's thread can't be started")]
    Thread(#[source] io::Error),
    #[error("the record's group can't be started: {0}")]
    Start(String),
}

/// A write to the log that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
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

/// An entry as the log stores it.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: LogId,
    pub(super) text: String,
}

impl Row {
    pub(super) fn of(entry: &LogEntry) -> Result<Self, serde_json::Error> {
        Ok(Self { id: entry.log_id, text: serde_json::to_string(&entry.payload)? })
    }
}

/// One change of what the file holds besides the snapshot.
#[derive(Debug)]
pub(super) enum Change {
    Append(Vec<Row>),
    Vote(Vote),
    /// Everything up to here is decided.
    Committed(LogId),
    /// Takes away all entries after this index.
    Truncate(Option<u64>),
    /// Forgets all entries up to this one.
    Purge(LogId),
}

/// To whom the record belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// One box without a cloud.
    Lone(Member),
    /// The box that a cloud begins with. It may have been a lone one.
    Founder { me: Member, lone: Member },
    /// One that others will tell everything, or told before.
    Joiner { lone: Member },
    /// One that never votes.
    Follower,
}

pub(super) struct RecordFile {
    connection: Connection,
    path: PathBuf,
}

/// An open file and what it held.
pub(super) struct Opened {
    pub(super) file: RecordFile,
    /// The snapshot, where there is one.
    pub(super) state: Option<State>,
    pub(super) log: Vec<(LogEntry, usize)>,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
}

impl RecordFile {
    pub(super) fn open(dir: &Path, owner: Owner) -> Result<Opened, OpenError> {
        let path = dir.join(NAME);
        if !path.exists() {
            make(dir, &path, owner).map_err(|source| OpenError::Make { path: path.clone(), source })?;
        }
        if path.metadata().is_ok_and(|meta| meta.len() == 0) {
            return Err(OpenError::Damaged { path, what: "it is empty".to_owned() });
        }
        let connection = connect(&path).map_err(|error| unreadable(&path, error))?;
        let file = Self { connection, path };
        // First the look: a file that isn't ours must not even change its journal mode.
        let format = file.check()?;
        if format == format1::FORMAT {
            file.upgrade(owner)?;
        }
        prepare(&file.connection).map_err(|error| unreadable(&file.path, error))?;
        let opened = file.load()?;
        opened.belong_to(owner)
    }

    /// Is it ours, whole, and of a format that we know? Says which.
    fn check(&self) -> Result<u32, OpenError> {
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
        if whole == "ok" { Ok(format) } else { Err(damaged(whole)) }
    }

    /// Reads all of format 1, then writes it as a founded record of this format: both or neither.
    fn upgrade(&self, owner: Owner) -> Result<(), OpenError> {
        let record = format1::read(&self.connection, &self.path)?;
        let voter = match owner {
            Owner::Lone(me) | Owner::Founder { me, .. } => me,
            Owner::Joiner { .. } | Owner::Follower => {
                return Err(OpenError::OfALoneBox { path: self.path.clone() });
            }
        };
        prepare(&self.connection).map_err(|error| unreadable(&self.path, error))?;
        let write = || {
            let transaction = self.connection.unchecked_transaction()?;
            transaction.execute_batch("DROP TABLE log; DROP TABLE snapshot;")?;
            transaction.execute_batch(SCHEMA)?;
            transaction.execute("UPDATE meta SET value = ?1 WHERE key = 'format'", [FORMAT.to_string()])?;
            let at = log_id(FOUNDING_TERM, record.index());
            begin_with(&transaction, &State::founded(record, at, alone(voter)), voter)?;
            transaction.commit()
        };
        write().map_err(|source| OpenError::Upgrade { path: self.path.clone(), source })
    }

    fn load(self) -> Result<Opened, OpenError> {
        let state = self.load_snapshot()?;
        let vote = self.pointer("vote")?;
        let committed = self.pointer("committed")?;
        let purged: Option<LogId> = self.pointer("purged")?;
        let mut log = Vec::new();
        let damaged = |what: String| OpenError::Damaged { path: self.path.clone(), what };
        {
            let unreadable = |error| unreadable(&self.path, error);
            let mut rows =
                self.connection.prepare("SELECT idx, term, entry, blake3 FROM log ORDER BY idx").map_err(unreadable)?;
            let mut rows = rows.query([]).map_err(unreadable)?;
            let mut wanted = purged.map_or(0, |purged| purged.index + 1);
            while let Some(row) = rows.next().map_err(unreadable)? {
                let (index, term): (i64, i64) = (row.get(0).map_err(unreadable)?, row.get(1).map_err(unreadable)?);
                let (text, hash): (String, String) = (row.get(2).map_err(unreadable)?, row.get(3).map_err(unreadable)?);
                let id = log_id(term.cast_unsigned(), index.cast_unsigned());
                if id.index != wanted {
                    return Err(damaged(format!("log entry {wanted} is missing")));
                }
                if hash_of(&id, &text) != hash {
                    return Err(damaged(format!("log entry {index} isn't what was written")));
                }
                let payload: Payload = serde_json::from_str(&text)
                    .map_err(|error| damaged(format!("log entry {index} can't be understood: {error}")))?;
                log.push((LogEntry { log_id: id, payload }, text.len()));
                wanted += 1;
            }
        }
        if purged.map(|purged| purged.index) > state.as_ref().map(State::index) {
            return Err(damaged("its log begins after its snapshot".to_owned()));
        }
        let mut last = purged.max(state.as_ref().and_then(|state| state.last).filter(|_| log.is_empty()));
        for (entry, _) in &log {
            if last.as_ref().map(term_of) > Some(term_of(&entry.log_id)) {
                return Err(damaged(format!(
                    "log entry {} is of an earlier term than the one before",
                    entry.log_id.index
                )));
            }
            last = Some(entry.log_id);
        }
        let newest = last.max(state.as_ref().and_then(|state| state.last));
        if vote.as_ref().is_some_and(|vote: &Vote| Some(vote.leader_id.term) < newest.as_ref().map(term_of)) {
            return Err(damaged("its vote is of an earlier term than its log".to_owned()));
        }
        Ok(Opened { file: self, state, log, vote, committed, purged })
    }

    fn pointer<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, OpenError> {
        let damaged = |what: String| OpenError::Damaged { path: self.path.clone(), what };
        let row: Option<(String, String)> = self
            .connection
            .query_row("SELECT value, blake3 FROM pointers WHERE key = ?1", [key], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .map_err(|error| unreadable(&self.path, error))?;
        let Some((text, hash)) = row else { return Ok(None) };
        if Digest::of(text.as_bytes()).hex() != hash {
            return Err(damaged(format!("the pointer `{key}` isn't what was written")));
        }
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| damaged(format!("the pointer `{key}` can't be understood: {error}")))
    }

    fn load_snapshot(&self) -> Result<Option<State>, OpenError> {
        let damaged = |what: String| OpenError::Damaged { path: self.path.clone(), what };
        let Some((text, index)) = read_parts(&self.connection, &self.path, "state")? else { return Ok(None) };
        let state: State = serde_json::from_str(&text)
            .map_err(|error| damaged(format!("the snapshot can't be understood: {error}")))?;
        if state.record.index() != index {
            return Err(damaged(format!("the snapshot is of index {}, not {index}", state.record.index())));
        }
        Ok(Some(state))
    }

    /// Makes the changes, in their order, all or none. On return they are on the disk.
    pub(super) fn write(&self, changes: &[Change]) -> Result<(), WriteError> {
        let write = || {
            let transaction = self.connection.unchecked_transaction()?;
            for change in changes {
                make_change(&transaction, change)?;
            }
            transaction.commit()
        };
        write().map_err(|source| self.failed(source))
    }

    /// Notes up to where the log is committed. A loss of power may take the note back.
    pub(super) fn note_committed(&self, committed: LogId) -> Result<(), WriteError> {
        let write = || {
            self.connection.pragma_update(None, "synchronous", "NORMAL")?;
            let written = set_pointer(&self.connection, "committed", &committed);
            self.connection.pragma_update(None, "synchronous", "FULL")?;
            written
        };
        write().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: rusqlite::Error) -> WriteError {
        let path = self.path.clone();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => WriteError::Full { path },
            _ => WriteError::Write { path, source },
        }
    }

    /// Writes the state as the snapshot, whole or not at all. The log stays as it is.
    pub(super) fn snapshot(&self, state: &State) -> Result<(), SnapshotError> {
        let text = serde_json::to_string(state).map_err(SnapshotError::Json)?;
        let write = || {
            let transaction = self.connection.unchecked_transaction()?;
            write_parts(&transaction, &text, state.record.index())?;
            transaction.commit()
        };
        write().map_err(|source| SnapshotError::Write { path: self.path.clone(), source })
    }
}

impl Opened {
    /// Is it this owner's? A founder takes over what was a lone box's.
    fn belong_to(mut self, owner: Owner) -> Result<Self, OpenError> {
        let path = || self.file.path.clone();
        let lone = |lone: Member| {
            let membership = self.membership();
            membership.is_some_and(|membership| super::types::only_voter(&membership) == Some(lone))
        };
        match owner {
            Owner::Lone(me) if !lone(me) => Err(OpenError::OfAGroup { path: path() }),
            Owner::Joiner { lone: other } if lone(other) => Err(OpenError::OfALoneBox { path: path() }),
            Owner::Founder { me, lone: other } if lone(other) => {
                let state = self.replayed().with_voters(alone(me));
                let write = || {
                    let transaction = self.file.connection.unchecked_transaction()?;
                    transaction.execute_batch("DELETE FROM log; DELETE FROM snapshot; DELETE FROM pointers;")?;
                    let vote = begin_with(&transaction, &state, me)?;
                    transaction.commit()?;
                    Ok(vote)
                };
                let vote = write().map_err(|source| OpenError::Upgrade { path: path(), source })?;
                (self.purged, self.committed, self.vote, self.log) = (state.last, None, Some(vote), Vec::new());
                self.state = Some(state);
                Ok(self)
            }
            _ => Ok(self),
        }
    }

    /// The voters by the last word on them that is in the file.
    fn membership(&self) -> Option<super::types::Membership> {
        let logged = self.log.iter().rev().find_map(|(entry, _)| match &entry.payload {
            Payload::Membership(membership) => Some(membership.clone()),
            _ => None,
        });
        logged.or_else(|| self.state.as_ref().map(|state| state.membership.membership().clone()))
    }

    /// The state after the whole log: for a lone box, whose log is all decided.
    fn replayed(&self) -> State {
        let mut state = self.state.clone().unwrap_or_default();
        for (entry, _) in
            self.log.iter().filter(|(entry, _)| Some(entry.log_id.index) > self.state.as_ref().map(State::index))
        {
            // A refusal was a refusal then, too.
            let _ = state.apply(entry);
        }
        state
    }

    /// Up to where the log is decided. Where `me` alone votes, all that is on its disk is.
    pub(super) fn decided(&self, me: Option<Member>) -> Option<LogId> {
        let last = self.log.last().map(|(entry, _)| entry.log_id).max(self.state.as_ref().and_then(|state| state.last));
        let alone =
            me.is_some() && self.membership().and_then(|membership| super::types::only_voter(&membership)) == me;
        if alone { last } else { self.committed.min(last) }
    }
}

/// What a record begins with: this state, and no log before it.
/// Whoever votes next does so in a later term than the state's.
fn begin_with(transaction: &Transaction<'_>, state: &State, voter: Member) -> rusqlite::Result<Vote> {
    let text = serde_json::to_string(state).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    write_parts(transaction, &text, state.record.index())?;
    set_pointer(transaction, "purged", &state.last)?;
    let vote = Vote::new(state.last.as_ref().map_or(0, term_of), voter);
    set_pointer(transaction, "vote", &vote)?;
    Ok(vote)
}

fn make_change(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Append(rows) => {
            let mut insert =
                transaction.prepare_cached("INSERT INTO log (idx, term, entry, blake3) VALUES (?1, ?2, ?3, ?4)")?;
            for Row { id, text } in rows {
                let hash = hash_of(id, text);
                insert.execute(params![id.index.cast_signed(), term_of(id).cast_signed(), text, hash])?;
            }
        }
        Change::Vote(vote) => set_pointer(transaction, "vote", vote)?,
        Change::Committed(id) => set_pointer(transaction, "committed", id)?,
        Change::Truncate(after) => {
            let after = after.map_or(-1, u64::cast_signed);
            transaction.prepare_cached("DELETE FROM log WHERE idx > ?1")?.execute([after])?;
        }
        Change::Purge(upto) => {
            transaction.prepare_cached("DELETE FROM log WHERE idx <= ?1")?.execute([upto.index.cast_signed()])?;
            set_pointer(transaction, "purged", upto)?;
        }
    }
    Ok(())
}

fn set_pointer(connection: &Connection, key: &str, value: &impl Serialize) -> rusqlite::Result<()> {
    let text = serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    connection
        .prepare_cached("INSERT OR REPLACE INTO pointers (key, value, blake3) VALUES (?1, ?2, ?3)")?
        .execute(params![key, text, Digest::of(text.as_bytes()).hex()])?;
    Ok(())
}

/// The hash beside an entry: its place is part of what was written.
fn hash_of(id: &LogId, text: &str) -> String {
    Digest::of(format!("{} {} {text}", id.index, term_of(id)).as_bytes()).hex()
}

fn write_parts(transaction: &Transaction<'_>, text: &str, index: u64) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM snapshot", [])?;
    let mut insert = transaction.prepare("INSERT INTO snapshot (part, idx, state, blake3) VALUES (?1, ?2, ?3, ?4)")?;
    let (mut rest, mut part) = (text, 0_i64);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(RECORD_SNAPSHOT_PART_BYTES));
        insert.execute(params![part, index.cast_signed(), piece, Digest::of(piece.as_bytes()).hex()])?;
        (rest, part) = (after, part + 1);
    }
    Ok(())
}

/// The snapshot's text and the index that is beside it. None where there is none.
fn read_parts(connection: &Connection, path: &Path, column: &str) -> Result<Option<(String, u64)>, OpenError> {
    let unreadable = |error| unreadable(path, error);
    let damaged = |what: String| OpenError::Damaged { path: path.to_owned(), what };
    let mut parts = connection
        .prepare(&format!("SELECT part, idx, {column}, blake3 FROM snapshot ORDER BY part"))
        .map_err(unreadable)?;
    let mut rows = parts.query([]).map_err(unreadable)?;
    let (mut text, mut wanted, mut count) = (String::new(), None, 0);
    while let Some(row) = rows.next().map_err(unreadable)? {
        let part: i64 = row.get(0).map_err(unreadable)?;
        let index: i64 = row.get(1).map_err(unreadable)?;
        let piece: String = row.get(2).map_err(unreadable)?;
        let hash: String = row.get(3).map_err(unreadable)?;
        if part != count || Digest::of(piece.as_bytes()).hex() != hash || wanted.is_some_and(|other| other != index) {
            return Err(damaged(format!("part {count} of the snapshot isn't what was written")));
        }
        count += 1;
        wanted = Some(index);
        // The common snapshot has one part, and is not copied.
        if text.is_empty() { text = piece } else { text.push_str(&piece) }
    }
    Ok(wanted.map(|index| (text, index.cast_unsigned())))
}

/// Makes a new record beside its place and renames it there: empty, or with the one who begins it as its voter.
fn make(dir: &Path, path: &Path, owner: Owner) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let unfinished = dir.join("record.sqlite.new");
    for leftover in ["", "-wal", "-shm", "-journal"] {
        disk::or_gone(std::fs::remove_file(dir.join(format!("record.sqlite.new{leftover}"))))?;
    }
    // SQLite would make it readable for all whom the umask lets; its companions take over what the file has.
    let file = disk::create_file(&unfinished)?;
    let connection = connect(&unfinished)?;
    prepare(&connection)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(META)?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute("INSERT INTO meta (key, value) VALUES ('format', ?1)", [FORMAT.to_string()])?;
    match owner {
        Owner::Lone(me) | Owner::Founder { me, .. } => {
            let state = State::founded(state::Record::default(), log_id(FOUNDING_TERM, 0), alone(me));
            begin_with(&transaction, &state, me)?;
        }
        Owner::Joiner { .. } | Owner::Follower => {}
    }
    transaction.commit()?;
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
