use std::fmt::Write as _;
use std::path::PathBuf;

use base::limits::{
    COMMANDS_KEPT_AFTER_SNAPSHOT, COMMANDS_PER_SNAPSHOT, COMMANDS_WAITING_MAX, RECORD_NEWS_WAITING_MAX,
};
use base::{Name, Timestamp};
use rusqlite::Connection;
use state::{Actor, Command, Sealed};

use super::file::{Change, RecordFile, Row, WriteError};
use super::types::log_id;
use super::*;

mod cluster;
mod follow;
mod storage;

fn tenant(name: &str) -> Entry {
    let name: Name = name.parse().expect("a test's name");
    Entry { at: Timestamp(1), by: Actor::Box, command: Command::TenantCreate { name, key: Sealed("00".to_owned()) } }
}

async fn add(keeper: &Keeper, name: &str) {
    keeper.propose(tenant(name)).await.expect("the name is new");
}

fn names(record: &Record) -> Vec<&str> {
    record.tenants().map(|tenant| tenant.name.as_str()).collect()
}

/// A record with a snapshot and a log, closed by a copy: what a process leaves that was killed.
async fn left_behind(dir: &Path) -> PathBuf {
    let (kept, copy) = (dir.join("kept"), dir.join("copy"));
    std::fs::create_dir_all(&kept).expect("a temporary directory");
    std::fs::create_dir_all(&copy).expect("a temporary directory");
    let keeper = Keeper::open(&kept).expect("it is new");
    add(&keeper, "in-the-snapshot").await;
    keeper.close();
    let keeper = Keeper::open(&kept).expect("it was closed");
    add(&keeper, "in-the-log").await;
    add(&keeper, "in-the-log-too").await;
    for name in ["record.sqlite", "record.sqlite-wal"] {
        std::fs::copy(kept.join(name), copy.join(name)).expect("SQLite has both open");
    }
    copy
}

/// Changes a closed file behind the keeper's back.
fn tamper(dir: &Path, sql: &str) {
    let connection = Connection::open(dir.join("record.sqlite")).expect("it is there");
    connection.execute_batch(sql).expect("a test's SQL");
}

fn refused(dir: &Path) -> String {
    let path = dir.join("record.sqlite");
    let before = std::fs::read(&path).expect("it is there");
    let error = Keeper::open(dir).err().expect("it must not be opened");
    assert_eq!(std::fs::read(&path).expect("it is still there"), before, "nothing was overwritten");
    base::chain(&error).replace(&dir.display().to_string(), "DIR")
}

#[tokio::test]
async fn what_was_acknowledged_is_there_at_the_next_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let keeper = Keeper::open(dir.path()).expect("it is new");
    add(&keeper, "acme").await;
    let refusal = keeper.propose(tenant("acme")).await;
    assert!(matches!(refusal, Err(ProposeError::Refused(Refusal::TenantExists(_)))), "{refusal:?}");
    let before = keeper.record();
    assert_eq!((before.index(), names(&before)), (2, vec!["acme"]), "a refusal counts");
    keeper.close();
    assert!(matches!(keeper.propose(tenant("late")).await, Err(ProposeError::Closed)));
    let keeper = Keeper::open(dir.path()).expect("it was closed");
    assert_eq!(*keeper.record(), *before);
}

#[tokio::test]
async fn a_killed_process_leaves_a_snapshot_and_a_log() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let copy = left_behind(dir.path()).await;
    let keeper = Keeper::open(&copy).expect("whole");
    let record = keeper.record();
    assert_eq!((record.index(), names(&record)), (3, vec!["in-the-snapshot", "in-the-log", "in-the-log-too"]));
}

#[tokio::test]
async fn the_log_is_cut_when_it_is_long() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let keeper = Keeper::open(dir.path()).expect("it is new");
    let count = COMMANDS_PER_SNAPSHOT + 100;
    // All at once: they share appends, and none is refused because the queue takes as many as wait here.
    for from in (0..count).step_by(COMMANDS_WAITING_MAX / 2) {
        let to = count.min(from + COMMANDS_WAITING_MAX as u64 / 2);
        let mut waiting = tokio::task::JoinSet::new();
        for number in from..to {
            let keeper = keeper.clone();
            waiting.spawn(async move { add(&keeper, &format!("t{number}")).await });
        }
        waiting.join_all().await;
    }
    let record = keeper.record();
    assert_eq!(record.index(), count);
    drop(keeper);
    let connection = Connection::open(dir.path().join("record.sqlite")).expect("it was closed");
    let counts: (i64, i64) = connection
        .query_row("SELECT (SELECT count(*) FROM log), (SELECT max(idx) FROM snapshot)", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .expect("the schema");
    assert_eq!(counts.1, count.cast_signed(), "dropping the last keeper closes it");
    assert!(counts.0 <= COMMANDS_KEPT_AFTER_SNAPSHOT.cast_signed(), "{} entries are left", counts.0);
    drop(connection);
    assert_eq!(*Keeper::open(dir.path()).expect("it was closed").record(), *record);
}

#[tokio::test]
async fn a_watcher_hears_everything_in_order() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let keeper = Keeper::open(dir.path()).expect("it is new");
    add(&keeper, "before").await;
    let (record, mut watcher) = keeper.subscribe();
    assert_eq!(names(&record), ["before"]);
    add(&keeper, "after").await;
    let id = record.tenant_named("before").expect("made above").id;
    let gone = Command::TenantDelete { tenant: id };
    keeper.propose(Entry { at: Timestamp(2), by: Actor::Box, command: gone }).await.expect("it exists");
    keeper.close();
    let mut heard = Vec::new();
    while let Some(news) = watcher.next().await {
        let News::Changed { record, events } = news else { panic!("it isn't late") };
        heard.push((names(&record).join(" "), events.to_vec()));
    }
    let dropped = vec![Event::DomainsChanged, Event::TenantDropped { tenant: id }];
    assert_eq!(heard, [("before after".to_owned(), vec![]), ("after".to_owned(), dropped)]);
}

#[tokio::test]
async fn a_watcher_that_is_late_is_told_to_start_anew() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let keeper = Keeper::open(dir.path()).expect("it is new");
    let (_, mut watcher) = keeper.subscribe();
    for number in 0..=RECORD_NEWS_WAITING_MAX {
        add(&keeper, &format!("t{number}")).await;
    }
    let Some(News::Lagged { record }) = watcher.next().await else { panic!("it missed one") };
    assert_eq!(record.index(), RECORD_NEWS_WAITING_MAX as u64 + 1);
    add(&keeper, "new").await;
    let Some(News::Changed { record, .. }) = watcher.next().await else { panic!("what it was given isn't told again") };
    assert_eq!(record.index(), RECORD_NEWS_WAITING_MAX as u64 + 2);
}

#[test]
fn a_full_disk_refuses_and_a_disk_with_room_goes_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = RecordFile::open(dir.path(), Owner::Lone(LONE)).expect("it is new").file;
    let append = || [Change::Append(vec![Row { id: log_id(1, 1), text: "x".repeat(100_000) }])];
    file.limit_pages(20);
    let error = file.write(&append()).expect_err("there is no room");
    assert!(matches!(error, WriteError::Full { .. }), "{error:?}");
    file.limit_pages(1_000);
    file.write(&append()).expect("there is room");
}

#[tokio::test]
async fn a_second_keeper_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let _keeper = Keeper::open(dir.path()).expect("it is new");
    let error = Keeper::open(dir.path()).err().expect("it is in use");
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = left_behind(dir.path()).await;
    let file = path.join("record.sqlite");
    tamper(&path, "PRAGMA wal_checkpoint(TRUNCATE)");
    let whole = std::fs::read(&file).expect("it is there");
    let mut said = String::new();
    let mut say = |what: &str, text: String| writeln!(said, "{what}: {text}").expect("a String");
    for (what, sql) in [
        ("newer", "UPDATE meta SET value = 7"),
        ("no format", "DELETE FROM meta"),
        ("another program's", "PRAGMA application_id = 1"),
        ("no table", "DROP TABLE log"),
        ("a gap", "DELETE FROM log WHERE idx = 2"),
        ("a wrong entry", "UPDATE log SET entry = replace(entry, 'too', 'two')"),
        ("a wrong snapshot", "UPDATE snapshot SET state = replace(state, 'in-', 'on-')"),
        ("an entry of the wrong type", "UPDATE log SET entry = x'00'"),
    ] {
        std::fs::write(&file, &whole).expect("the disk has room");
        tamper(&path, sql);
        say(what, refused(&path));
    }
    std::fs::write(&file, &whole[..whole.len() / 2]).expect("the disk has room");
    say("cut", refused(&path));
    std::fs::write(&file, "Dear diary").expect("the disk has room");
    say("no database", refused(&path));
    std::fs::write(&file, "").expect("the disk has room");
    say("empty", refused(&path));
    expect_test::expect![[r"
        newer: DIR/record.sqlite has format 7, and this build reads up to 2: run the newer build that wrote it
        no format: DIR/record.sqlite is damaged (it doesn't say its format): it was left as it is; put a copy of it from a backup in its place
        another program's: DIR/record.sqlite is damaged (it is another program's): it was left as it is; put a copy of it from a backup in its place
        no table: DIR/record.sqlite is damaged (no such table: log): it was left as it is; put a copy of it from a backup in its place
        a gap: DIR/record.sqlite is damaged (log entry 2 is missing): it was left as it is; put a copy of it from a backup in its place
        a wrong entry: DIR/record.sqlite is damaged (log entry 5 isn't what was written): it was left as it is; put a copy of it from a backup in its place
        a wrong snapshot: DIR/record.sqlite is damaged (part 0 of the snapshot isn't what was written): it was left as it is; put a copy of it from a backup in its place
        an entry of the wrong type: DIR/record.sqlite is damaged (Invalid column type Blob at index: 2, name: entry): it was left as it is; put a copy of it from a backup in its place
        cut: DIR/record.sqlite is damaged (database disk image is malformed): it was left as it is; put a copy of it from a backup in its place
        no database: DIR/record.sqlite is damaged (file is not a database): it was left as it is; put a copy of it from a backup in its place
        empty: DIR/record.sqlite is damaged (it is empty): it was left as it is; put a copy of it from a backup in its place
    "]].assert_eq(&said);
}
