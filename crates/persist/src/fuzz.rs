//! Fuzz targets of what the disk gives back, and of what a push uploads.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base::{Digest, TenantId, Timestamp};
use bytes::Bytes;
use proptest::prelude::*;
use rusqlite::{Connection, params};
use state::{Actor, Command, Entry, Record, Sealed};

use crate::fuzzing::{damaged, fuzz, mutated, mutated_text};
use crate::{Chunks, Keeper};

fn entry(name: &str) -> Entry {
    let name = name.parse().expect("a test's name");
    Entry { at: Timestamp(1), by: Actor::Box, command: Command::TenantCreate { name, key: Sealed("00".to_owned()) } }
}

/// Writes a record with a snapshot and a log to `dir`, as a process leaves it that was killed, and gives every state
/// that it went through.
fn lived(dir: &Path) -> BTreeMap<u64, Record> {
    let kept = dir.join("kept");
    fs::create_dir(&kept).expect("a temporary directory");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime of one thread");
    let mut states = BTreeMap::from([(0, Record::default())]);
    let mut add = |keeper: &Keeper, name: &str| {
        runtime.block_on(keeper.propose(entry(name))).expect("the name is new");
        let record = keeper.record();
        states.insert(record.index(), Record::clone(&record));
    };
    let keeper = Keeper::open(&kept).expect("it is new");
    for name in ["one", "two", "three"] {
        add(&keeper, name);
    }
    // Closing writes the snapshot.
    keeper.close();
    let keeper = Keeper::open(&kept).expect("it was closed");
    for name in ["four", "five", "six"] {
        add(&keeper, name);
    }
    for name in FILES {
        fs::copy(kept.join(name), dir.join(name)).expect("SQLite has both open");
    }
    states
}

const FILES: [&str; 2] = ["record.sqlite", "record.sqlite-wal"];

/// Whatever became of the bytes: the record is one that it once was, or it isn't opened.
#[test]
fn a_damaged_record_is_never_another_one() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let states = lived(dir.path());
    let [file, log] = FILES.map(|name| damaged(fs::read(dir.path().join(name)).expect("it was just copied")));
    fuzz("damaged record", &(file, log), |(file, log)| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join(FILES[0]), &*file).expect("room for a small file");
        fs::write(dir.path().join(FILES[1]), &*log).expect("room for a small file");
        match Keeper::open(dir.path()) {
            Ok(keeper) => {
                let record = keeper.record();
                prop_assert_eq!(states.get(&record.index()), Some(&*record));
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        Ok(())
    });
}

/// Text that has the right hash and was written by nobody: it is understood as far as it goes, or refused by name.
#[test]
fn a_foreign_log_or_snapshot_is_read_or_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    lived(dir.path());
    let copy = || {
        let copy = tempfile::tempdir().expect("a temporary directory");
        for name in FILES {
            fs::copy(dir.path().join(name), copy.path().join(name)).expect("a small file");
        }
        copy
    };
    let (snapshot, log, index, term) = {
        let copy = copy();
        let connection = Connection::open(copy.path().join(FILES[0])).expect("it is there");
        let text = |sql| connection.query_row(sql, [], |row| row.get::<_, String>(0)).expect("the schema");
        let number = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("the schema");
        (
            text("SELECT state FROM snapshot"),
            text("SELECT entry FROM log WHERE entry LIKE '%four%'"),
            number("SELECT idx FROM log WHERE entry LIKE '%four%'"),
            number("SELECT term FROM log WHERE entry LIKE '%four%'"),
        )
    };
    let words: &[&str] = &[
        "{",
        "}",
        "[",
        "null",
        "\"\"",
        ":",
        ",",
        "-1",
        "18446744073709551615",
        "\"index\":3",
        "1e999",
        "\"Blank\"",
        "\"Membership\"",
        "\"leader_id\":9",
    ];
    let inputs = (any::<bool>(), mutated_text(&[&snapshot, &log], words));
    fuzz("foreign log", &inputs, |(in_log, text)| {
        let dir_now = copy();
        let connection = Connection::open(dir_now.path().join(FILES[0])).expect("it is there");
        let (set, hashed) = if in_log {
            ("UPDATE log SET entry = ?1, blake3 = ?2 WHERE entry LIKE '%four%'", format!("{index} {term} {text}"))
        } else {
            ("UPDATE snapshot SET state = ?1, blake3 = ?2", text.clone())
        };
        let hash = Digest::of(hashed.as_bytes()).hex();
        prop_assert_eq!(connection.execute(set, params![text, hash]).expect("it is well formed"), 1);
        drop(connection);
        if let Ok(keeper) = Keeper::open(dir_now.path()) {
            // Three in the snapshot; after it three, or fewer where the fourth is no command any more, or where the
            // snapshot says that it has them.
            let index = keeper.record().index();
            prop_assert!((3..=6).contains(&index), "{index}");
        }
        Ok(())
    });
}

/// A chunk is held under the digest of its bytes, and under no other.
#[test]
fn a_chunk_is_what_its_name_says() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let chunks = Chunks::open(dir.path()).expect("it is new");
    let tenant = TenantId(1);
    let seeds = vec![b"Hello, world!".to_vec(), vec![b'x'; 5_000], Vec::new()];
    let named = seeds.clone();
    fuzz("chunks", &(mutated(seeds, &[]), 0..named.len()), |(bytes, name)| {
        let wanted = Digest::of(&named[name]);
        let bytes = bytes.0;
        let put = chunks.put(tenant, wanted, &Bytes::from(bytes.clone()));
        prop_assert_eq!(put.is_ok(), bytes == named[name]);
        let missing = chunks.missing(tenant, &[wanted, Digest::of(&bytes)]);
        prop_assert_eq!(missing.contains(&wanted), chunks.get(tenant, wanted).is_err());
        if bytes != named[name] && !named.contains(&bytes) {
            prop_assert!(chunks.get(tenant, Digest::of(&bytes)).is_err(), "it was refused, and is here");
        }
        Ok(())
    });
}
