//! The record of format 1, as it was: `log (idx, entry, blake3)` with the record's own index, and a snapshot that is the
//! record alone. One box wrote it, and whatever is in its log was decided.

use std::path::Path;

use base::Digest;
use rusqlite::Connection;
use state::{Entry, Record};

use super::{OpenError, read_parts, unreadable};

pub(super) const FORMAT: u32 = 1;

/// Reads it to the end, and changes nothing.
pub(super) fn read(connection: &Connection, path: &Path) -> Result<Record, OpenError> {
    let unreadable = |error| unreadable(path, error);
    let damaged = |what: String| OpenError::Damaged { path: path.to_owned(), what };
    let mut record = match read_parts(connection, path, "record")? {
        None => Record::default(),
        Some((text, wanted)) => {
            let record: Record = serde_json::from_str(&text)
                .map_err(|error| damaged(format!("the snapshot can't be understood: {error}")))?;
            if record.index() != wanted {
                return Err(damaged(format!("the snapshot is of index {}, not {wanted}", record.index())));
            }
            record
        }
    };
    let mut log = connection.prepare("SELECT idx, entry, blake3 FROM log ORDER BY idx").map_err(unreadable)?;
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
    }
    Ok(record)
}
