use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use base::limits::{DATABASES_OPEN_PER_THREAD_MAX, KV_LIST_PAGE};
use proptest::prelude::*;

use super::*;

fn opened() -> (tempfile::TempDir, Databases) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let databases = Databases::open(dir.path()).expect("it is new");
    (dir, databases)
}

fn db(tenant: u64, id: u64) -> Database {
    Database { tenant: TenantId(tenant), id: DatabaseId(id) }
}

fn name(text: &str) -> Name {
    text.parse().expect("a test's name")
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime without a driver").block_on(future)
}

#[tokio::test]
async fn what_was_acknowledged_is_read_at_once_and_after_a_start() {
    let (dir, databases) = opened();
    let (db, bucket) = (db(1, 7), name("b"));
    assert_eq!(databases.get(db, &bucket, "k").await, Ok(None));
    assert_eq!(databases.get_many(db, &bucket, vec!["k".into(), "l".into()]).await, Ok(vec![None, None]));
    assert_eq!(databases.list(db, &bucket, None).await, Ok(Page::default()));
    assert!(!dir.path().join("databases/1").exists(), "reading makes no file");
    databases.set(db, &bucket, "k", bytes("v")).await.expect("there is room");
    assert_eq!(databases.get(db, &bucket, "k").await, Ok(Some(bytes("v"))));
    assert_eq!(databases.get(db, &name("c"), "k").await, Ok(None), "another bucket");
    databases.close();
    assert_eq!(databases.get(db, &bucket, "k").await, Err(KvError::Closed));
    assert_eq!(databases.set(db, &bucket, "k", bytes("w")).await, Err(KvError::Closed));
    let databases = Databases::open(dir.path()).expect("it was closed");
    assert_eq!(databases.get(db, &bucket, "k").await, Ok(Some(bytes("v"))));
    assert_eq!(databases.exists(db, &bucket, "k").await, Ok(true));
    databases.delete(db, &bucket, "k").await.expect("there is room");
    assert_eq!(databases.exists(db, &bucket, "k").await, Ok(false));
}

#[tokio::test]
async fn pages_hold_every_key_once_and_in_order() {
    let (_dir, databases) = opened();
    let (db, bucket) = (db(1, 1), name("b"));
    let wanted: Vec<String> = (0..=KV_LIST_PAGE).map(|number| format!("{number:05}")).collect();
    for keys in wanted.chunks(KV_BATCH_MAX) {
        let pairs = keys.iter().rev().map(|key| (key.clone(), Bytes::new())).collect();
        databases.set_many(db, &bucket, pairs).await.expect("there is room");
    }
    databases.set(db, &name("a"), "00000-another-bucket", Bytes::new()).await.expect("there is room");
    let first = databases.list(db, &bucket, None).await.expect("readable");
    assert_eq!(first.keys, wanted[..KV_LIST_PAGE]);
    let second = databases.list(db, &bucket, first.next.as_deref()).await.expect("readable");
    assert_eq!(second, Page { keys: wanted[KV_LIST_PAGE..].to_vec(), next: None });
    databases.delete(db, &bucket, &wanted[0]).await.expect("there is room");
    let only = databases.list(db, &bucket, None).await.expect("readable");
    assert_eq!((only.keys.len(), only.next), (KV_LIST_PAGE, None), "a full page may be the last");
}

#[tokio::test]
async fn numbers_count() {
    let (_dir, databases) = opened();
    let (db, bucket) = (db(1, 1), name("b"));
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (databases, bucket) = (databases.clone(), bucket.clone());
        waiting.spawn(async move { databases.increment(db, &bucket, "visits", 2).await });
    }
    let mut sums: Vec<i64> = waiting.join_all().await.into_iter().collect::<Result<_, _>>().expect("numbers");
    sums.sort_unstable();
    assert_eq!(sums, (1..=64).map(|count| 2 * count).collect::<Vec<_>>(), "each got its own");
    assert_eq!(databases.get(db, &bucket, "visits").await, Ok(Some(bytes("128"))));
    assert_eq!(databases.increment(db, &bucket, "visits", -129).await, Ok(-1));
    assert_eq!(databases.increment(db, &bucket, "visits", i64::MIN).await, Err(KvError::NotANumber));
    databases.set(db, &bucket, "text", bytes("many")).await.expect("there is room");
    assert_eq!(databases.increment(db, &bucket, "text", 1).await, Err(KvError::NotANumber));
    assert_eq!(databases.get(db, &bucket, "text").await, Ok(Some(bytes("many"))));
}

#[tokio::test]
async fn a_swap_happens_only_on_what_was_expected() {
    let (_dir, databases) = opened();
    let (db, bucket) = (db(1, 1), name("b"));
    assert_eq!(databases.swap(db, &bucket, "k", Some(bytes("a")), bytes("b")).await, Ok(false));
    assert_eq!(databases.swap(db, &bucket, "k", None, bytes("a")).await, Ok(true));
    assert_eq!(databases.swap(db, &bucket, "k", None, bytes("b")).await, Ok(false));
    assert_eq!(databases.swap(db, &bucket, "k", Some(bytes("a")), bytes("b")).await, Ok(true));
    assert_eq!(databases.get(db, &bucket, "k").await, Ok(Some(bytes("b"))));
}

#[tokio::test]
async fn each_limit_has_its_refusal() {
    let (dir, databases) = opened();
    let (db, bucket) = (db(1, 1), name("b"));
    let key = "k".repeat(KV_KEY_BYTES_MAX);
    let long = format!("{key}k");
    let too_long = KvError::KeyTooLong { bytes: KV_KEY_BYTES_MAX + 1, max: KV_KEY_BYTES_MAX };
    let value = Bytes::from(vec![7; KV_VALUE_BYTES_MAX]);
    let large = Bytes::from(vec![7; KV_VALUE_BYTES_MAX + 1]);
    let too_large = KvError::ValueTooLarge { bytes: KV_VALUE_BYTES_MAX + 1, max: KV_VALUE_BYTES_MAX };
    assert_eq!(databases.get(db, &bucket, &long).await, Err(too_long.clone()));
    assert_eq!(databases.exists(db, &bucket, &long).await, Err(too_long.clone()));
    assert_eq!(databases.list(db, &bucket, Some(&long)).await, Err(too_long.clone()));
    assert_eq!(databases.set(db, &bucket, &long, Bytes::new()).await, Err(too_long.clone()));
    assert_eq!(databases.increment(db, &bucket, &long, 1).await, Err(too_long));
    assert_eq!(databases.set(db, &bucket, "k", large.clone()).await, Err(too_large.clone()));
    assert_eq!(databases.swap(db, &bucket, "k", None, large).await, Err(too_large));
    let many = vec!["k".to_owned(); KV_BATCH_MAX + 1];
    assert_eq!(databases.get_many(db, &bucket, many.clone()).await, Err(batch_too_large()));
    assert_eq!(databases.delete_many(db, &bucket, many).await, Err(batch_too_large()));
    assert!(!dir.path().join("databases/1").exists(), "nothing was written");
    databases.set(db, &bucket, &key, value.clone()).await.expect("both are just small enough");
    assert_eq!(databases.get(db, &bucket, &key).await, Ok(Some(value)));
    let answer = vec![key; KV_BATCH_BYTES_MAX / KV_VALUE_BYTES_MAX + 1];
    assert_eq!(databases.get_many(db, &bucket, answer).await, Err(batch_too_large()), "the answer would be");
}

#[tokio::test]
async fn a_full_database_refuses_takes_deletions_and_goes_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let databases = Databases::open_bounded(dir.path(), 256 << 10, Room::on(dir.path())).expect("it is new");
    let (db, bucket) = (db(1, 1), name("b"));
    let half = Bytes::from(vec![7; 128 << 10]);
    databases.set(db, &bucket, "first", half.clone()).await.expect("there is room");
    let full = databases.set(db, &bucket, "second", half.clone()).await;
    assert_eq!(full, Err(KvError::Full { max: 256 << 10 }));
    assert_eq!(databases.exists(db, &bucket, "second").await, Ok(false));
    databases.set(db, &bucket, "small", bytes("fits")).await.expect("there is room");
    databases.delete(db, &bucket, "first").await.expect("deleting makes room");
    databases.set(db, &bucket, "second", half).await.expect("there is room again");
    assert_eq!(databases.get(db, &bucket, "small").await, Ok(Some(bytes("fits"))));
}

#[tokio::test]
async fn a_damaged_database_is_its_own_tenants_alone() {
    let (dir, databases) = opened();
    let bucket = name("b");
    // Both belong to one thread.
    let (damaged, whole) = (db(1, 1), db(2, 1 + DATABASE_THREADS as u64));
    for db in [damaged, whole] {
        databases.set(db, &bucket, "k", bytes("v")).await.expect("there is room");
    }
    drop(databases);
    let path = dir.path().join("databases/1/1.sqlite");
    for garbage in [vec![0xaa; 8192], b"SQLite format 3\0".repeat(512), vec![7]] {
        std::fs::write(&path, garbage).expect("the disk has room");
        let databases = Databases::open(dir.path()).expect("no database is opened yet");
        for _ in 0..2 {
            assert!(matches!(databases.get(damaged, &bucket, "k").await, Err(KvError::Broken(_))));
            assert!(matches!(databases.set(damaged, &bucket, "k", bytes("w")).await, Err(KvError::Broken(_))));
            assert_eq!(databases.get(whole, &bucket, "k").await, Ok(Some(bytes("v"))));
            databases.set(whole, &bucket, "k", bytes("v")).await.expect("it is whole");
        }
    }
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let (dir, databases) = opened();
    let (db, bucket) = (db(1, 1), name("b"));
    databases.set(db, &bucket, "k", bytes("v")).await.expect("there is room");
    drop(databases);
    let connection = rusqlite::Connection::open(dir.path().join("databases/1/1.sqlite")).expect("it is there");
    connection.pragma_update(None, "user_version", 9).expect("it is ours");
    drop(connection);
    let databases = Databases::open(dir.path()).expect("no database is opened yet");
    let wanted = KvError::Broken("it has format 9, and this build reads up to 1: run the newer build".to_owned());
    assert_eq!(databases.get(db, &bucket, "k").await, Err(wanted.clone()));
    assert_eq!(databases.set(db, &bucket, "k", bytes("w")).await, Err(wanted));
}

#[tokio::test]
async fn more_databases_than_stay_open() {
    let (dir, databases) = opened();
    let bucket = name("b");
    let all: Vec<Database> =
        (0..=DATABASES_OPEN_PER_THREAD_MAX as u64).map(|number| db(1, number * DATABASE_THREADS as u64)).collect();
    let mut waiting = tokio::task::JoinSet::new();
    for db in all.clone() {
        let (databases, bucket) = (databases.clone(), bucket.clone());
        waiting.spawn(async move { databases.increment(db, &bucket, "k", db.id.0.cast_signed()).await });
    }
    assert!(waiting.join_all().await.iter().all(Result::is_ok));
    for db in &all {
        let wanted = Bytes::from(db.id.0.to_string());
        assert_eq!(databases.get(*db, &bucket, "k").await, Ok(Some(wanted)));
    }
    let mut listed = databases.all().expect("the directory is ours");
    listed.sort_unstable();
    assert_eq!(listed, all);
    for db in all {
        databases.drop_database(db).await.expect("it is ours");
        assert_eq!(databases.get(db, &bucket, "k").await, Ok(None));
    }
    assert!(!dir.path().join("databases/1").exists());
}

#[tokio::test]
async fn a_caller_who_leaves_does_not_take_its_write_back() {
    let (_dir, databases) = opened();
    let (db, bucket) = (db(1, 1), name("b"));
    {
        let mut left = std::pin::pin!(databases.set(db, &bucket, "k", bytes("v")));
        let once = std::future::poll_fn(|context| std::task::Poll::Ready(left.as_mut().poll(context).is_pending()));
        once.await;
    }
    // A later write of the same database comes after it.
    databases.set(db, &bucket, "l", bytes("v")).await.expect("there is room");
    assert_eq!(databases.exists(db, &bucket, "k").await, Ok(true));
}

fn answered_from_memory(databases: &Databases) -> [u64; 2] {
    let mut figures = KvFigures::default();
    databases.inner.cache.add_to(&mut figures);
    [figures.operations[0].1, figures.operations[1].1]
}

#[tokio::test]
async fn what_was_read_lately_is_answered_from_memory_and_counted() {
    let (_dir, databases) = opened();
    let (db, bucket) = (db(1, 1), name("b"));
    for key in ["k", "nothing"] {
        databases.set(db, &bucket, "k", bytes("v")).await.expect("there is room");
        let value = (key == "k").then(|| bytes("v"));
        for _ in 0..4 {
            assert_eq!(databases.get(db, &bucket, key).await, Ok(value.clone()));
            assert_eq!(databases.exists(db, &bucket, key).await, Ok(value.is_some()));
        }
    }
    assert_eq!(answered_from_memory(&databases), [6, 8]);
    let figures = databases.figures();
    assert_eq!(figures.operations[..4], [("get", 8), ("exists", 8), ("list", 0), ("set", 2)]);
    databases.drop_database(db).await.expect("it is ours");
    assert_eq!(databases.get(db, &bucket, "k").await, Ok(None));
    assert_eq!(databases.exists(db, &bucket, "k").await, Ok(false));
}

#[tokio::test]
async fn who_still_writes_to_a_dropped_database_is_refused() {
    let (_dir, databases) = opened();
    let (dropped, other, bucket) = (db(1, 1), db(1, 1 + DATABASE_THREADS as u64), name("b"));
    for db in [dropped, other] {
        databases.set(db, &bucket, "k", bytes("v")).await.expect("there is room");
    }
    databases.drop_database(dropped).await.expect("it is ours");
    assert_eq!(databases.set(dropped, &bucket, "k", bytes("w")).await, Err(KvError::Deleted));
    assert_eq!(databases.increment(dropped, &bucket, "n", 1).await, Err(KvError::Deleted));
    assert_eq!(databases.get(dropped, &bucket, "k").await, Ok(None));
    assert_eq!(databases.all().expect("the folder can be read"), [other]);
    assert_eq!(databases.set(other, &bucket, "k", bytes("w")).await, Ok(()));
}

#[tokio::test]
async fn a_dropped_database_is_gone_for_whoever_read_meanwhile() {
    let (_dir, databases) = opened();
    let bucket = name("b");
    for id in 0..16 {
        let db = db(1, id);
        databases.set(db, &bucket, "k", bytes("v")).await.expect("there is room");
        let (reading, name) = (databases.clone(), bucket.clone());
        let reads = tokio::spawn(async move {
            while reading.get_many(db, &name, vec!["k".to_owned()]).await == Ok(vec![Some(bytes("v"))]) {
                assert!(reading.get(db, &name, "k").await.is_ok());
            }
        });
        databases.drop_database(db).await.expect("it is ours");
        assert_eq!(databases.get(db, &bucket, "k").await, Ok(None));
        reads.await.expect("it reads until there is nothing");
    }
}

/// What a key holds goes through states 1, 2, 3…: each fifth is none, each other has its own number for a value.
struct Course {
    key: String,
    /// The last state whose write was begun, and the last that somebody knows to have been: its write was acknowledged,
    /// or it was seen.
    begun: AtomicU64,
    known: AtomicU64,
}

impl Course {
    const NONE_EVERY: u64 = 5;

    /// The first state from `known` on that looks like this.
    fn state(known: u64, value: Option<&Bytes>) -> u64 {
        match value {
            None => known.next_multiple_of(Self::NONE_EVERY),
            Some(value) => std::str::from_utf8(value).expect("digits").parse().expect("a number"),
        }
    }

    /// What was answered to somebody who began to ask when `known` was.
    fn saw(&self, known: u64, value: Option<&Bytes>) {
        let (state, begun) = (Self::state(known, value), self.begun.load(SeqCst));
        assert!((known..=begun).contains(&state), "{}: {value:?} after {known}, up to {begun}", self.key);
        self.known.fetch_max(state, SeqCst);
    }

    async fn go_on(&self, databases: &Databases, db: Database, bucket: &Name) {
        let before = self.begun.fetch_add(1, SeqCst);
        let state = before + 1;
        let (key, value) = (self.key.as_str(), Bytes::from(state.to_string()));
        let expected = (!before.is_multiple_of(Self::NONE_EVERY)).then(|| Bytes::from(before.to_string()));
        match state % Self::NONE_EVERY {
            0 if state.is_multiple_of(2) => databases.delete(db, bucket, key).await.expect("there is room"),
            0 => {
                let keys = vec!["beside".to_owned(), key.to_owned()];
                databases.delete_many(db, bucket, keys).await.expect("there is room");
            }
            1 if state.is_multiple_of(2) => databases.set(db, bucket, key, value).await.expect("there is room"),
            1 => {
                let pairs = vec![("beside".to_owned(), value.clone()), (key.to_owned(), value)];
                databases.set_many(db, bucket, pairs).await.expect("there is room");
            }
            2 => assert_eq!(databases.increment(db, bucket, key, 1).await, Ok(state.cast_signed())),
            _ => assert_eq!(databases.swap(db, bucket, key, expected, value).await, Ok(true)),
        }
        self.known.fetch_max(state, SeqCst);
    }

    async fn look(&self, how: u64, databases: &Databases, db: Database, bucket: &Name) {
        let known = self.known.load(SeqCst);
        match how % 8 {
            // From the file, which memory must not contradict.
            0 => {
                let values = databases.get_many(db, bucket, vec![self.key.clone()]).await.expect("readable");
                self.saw(known, values[0].as_ref());
            }
            1 => {
                let exists = databases.exists(db, bucket, &self.key).await.expect("readable");
                let state = if exists { known } else { Self::state(known, None) };
                assert!(state <= self.begun.load(SeqCst), "{} is gone after {known}", self.key);
            }
            _ => self.saw(known, databases.get(db, bucket, &self.key).await.expect("readable").as_ref()),
        }
    }
}

#[test]
fn nobody_reads_less_than_what_anybody_knows() {
    const WRITES: u64 = 250;
    let (_dir, databases) = opened();
    let bucket = name("b");
    // Two databases of one pair of threads, and one of another's.
    let dbs = [db(1, 4), db(2, 8), db(1, 5)];
    let course = |number: usize| Course { key: format!("k{number}"), begun: 0.into(), known: 0.into() };
    let courses: Vec<(Database, Course)> = (0..6).map(|number| (dbs[number % 3], course(number))).collect();
    let writing = AtomicU64::new(courses.len() as u64);
    std::thread::scope(|threads| {
        for (db, course) in &courses {
            let (databases, bucket, writing) = (&databases, &bucket, &writing);
            threads.spawn(move || {
                block_on(async {
                    for number in 0..WRITES {
                        course.go_on(databases, *db, bucket).await;
                        course.look(number, databases, *db, bucket).await;
                    }
                });
                writing.fetch_sub(1, SeqCst);
            });
        }
        for reader in 0..3_u64 {
            let (databases, bucket, courses, writing) = (&databases, &bucket, &courses, &writing);
            threads.spawn(move || {
                block_on(async {
                    for number in reader.. {
                        let (db, course) = &courses[usize::try_from(number).expect("small") % courses.len()];
                        course.look(number / 3, databases, *db, bucket).await;
                        if writing.load(SeqCst) == 0 {
                            break;
                        }
                    }
                });
            });
        }
    });
    assert!(answered_from_memory(&databases)[0] > WRITES, "memory answered too few to prove anything");
}

/// A write and what the model says of it.
#[derive(Clone, Debug)]
enum Write {
    Set(Vec<(String, Bytes)>),
    Delete(Vec<String>),
    Increment(String, i64),
    Swap(String, Option<Bytes>, Bytes),
}

fn key() -> impl Strategy<Value = String> {
    // Few keys, so that operations meet; all that a key may hold, so that none is special.
    prop_oneof![4 => "[a-d]", 1 => any::<String>().prop_filter("short", |key| key.len() < 200)]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        2 => (-9..9_i64).prop_map(|number| Bytes::from(number.to_string())),
        1 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from),
        1 => (0..100_000_usize).prop_map(|bytes| Bytes::from(vec![b'x'; bytes])),
    ]
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        3 => proptest::collection::vec((key(), value()), 1..4).prop_map(Write::Set),
        1 => proptest::collection::vec(key(), 1..4).prop_map(Write::Delete),
        2 => (key(), -9..9_i64).prop_map(|(key, delta)| Write::Increment(key, delta)),
        1 => (key(), proptest::option::of(value()), value()).prop_map(|(key, old, new)| Write::Swap(key, old, new)),
    ]
}

type Model = BTreeMap<String, Bytes>;

/// What the model does and answers, as text.
fn modelled(model: &mut Model, write: &Write) -> String {
    match write {
        Write::Set(pairs) => {
            model.extend(pairs.iter().cloned());
            "done".to_owned()
        }
        Write::Delete(keys) => {
            model.retain(|key, _| !keys.contains(key));
            "done".to_owned()
        }
        Write::Increment(key, delta) => {
            let held = model.get(key).map_or(Some(0), |held| std::str::from_utf8(held).ok()?.parse::<i64>().ok());
            match held.and_then(|held| held.checked_add(*delta)) {
                Some(sum) => {
                    model.insert(key.clone(), Bytes::from(sum.to_string()));
                    sum.to_string()
                }
                None => "NotANumber".to_owned(),
            }
        }
        Write::Swap(key, old, new) => {
            let fits = model.get(key) == old.as_ref();
            if fits {
                model.insert(key.clone(), new.clone());
            }
            fits.to_string()
        }
    }
}

async fn performed(databases: Databases, db: Database, bucket: Name, write: Write) -> String {
    let done = |outcome: Result<(), KvError>| outcome.map(|()| "done".to_owned());
    let outcome = match write {
        Write::Set(pairs) => done(databases.set_many(db, &bucket, pairs).await),
        Write::Delete(keys) => done(databases.delete_many(db, &bucket, keys).await),
        Write::Increment(key, delta) => databases.increment(db, &bucket, &key, delta).await.map(|sum| sum.to_string()),
        Write::Swap(key, old, new) => databases.swap(db, &bucket, &key, old, new).await.map(|fits| fits.to_string()),
    };
    outcome.unwrap_or_else(|error| format!("{error:?}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Groups of writes that wait together, to two tenants' databases of one thread, against two maps.
    #[test]
    fn it_is_a_map(groups in proptest::collection::vec(proptest::collection::vec((0..2_usize, write()), 1..12), 1..5)) {
        let (dir, mut databases) = opened();
        let dbs = [db(1, 4), db(2, 8)];
        let bucket = name("b");
        let mut models = [Model::new(), Model::new()];
        block_on(async {
            for group in groups {
                let mut waiting = Vec::new();
                for (which, write) in group {
                    let wanted = modelled(&mut models[which], &write);
                    let performed = performed(databases.clone(), dbs[which], bucket.clone(), write);
                    waiting.push((wanted, tokio::spawn(performed)));
                }
                for (wanted, got) in waiting {
                    prop_assert_eq!(got.await.expect("no panic"), wanted);
                }
                for (db, model) in dbs.iter().zip(&models) {
                    let page = databases.list(*db, &bucket, None).await.expect("readable");
                    prop_assert!(page.keys.iter().eq(model.keys()), "{:?} {:?}", page, model.keys());
                    let keys: Vec<String> = model.keys().take(KV_BATCH_MAX).cloned().collect();
                    let values = databases.get_many(*db, &bucket, keys).await.expect("readable");
                    prop_assert!(values.iter().flatten().eq(model.values()));
                    // The file answers the first time, and memory the second, where the value is small.
                    for key in model.keys().map(String::as_str).chain(["a", "b", "c", "d"]) {
                        for _ in 0..2 {
                            prop_assert_eq!(databases.exists(*db, &bucket, key).await, Ok(model.contains_key(key)));
                            prop_assert_eq!(databases.get(*db, &bucket, key).await, Ok(model.get(key).cloned()));
                        }
                    }
                }
                databases.close();
                databases = Databases::open(dir.path()).expect("it was closed");
            }
            Ok(())
        })?;
    }

    /// Whatever a tenant writes as a key, it stays in its own bucket of its own file.
    #[test]
    fn no_string_reaches_another_tenant(odd in prop_oneof![
        Just("../../2/2".to_owned()),
        Just("/etc/passwd\0".to_owned()),
        Just("'; DROP TABLE firm_kv; --".to_owned()),
        Just("other\0k".to_owned()),
        Just(String::new()),
        Just("%".to_owned()),
        any::<String>().prop_filter("a key", |key| key.len() <= KV_KEY_BYTES_MAX),
    ]) {
        let (dir, databases) = opened();
        let (own, other, bucket) = (db(1, 1), db(2, 2), name("b"));
        block_on(async {
            databases.set(other, &bucket, "k", bytes("theirs")).await.expect("there is room");
            databases.set(own, &name("other"), "k", bytes("other bucket's")).await.expect("there is room");
            prop_assert_eq!(databases.get(own, &bucket, &odd).await, Ok(None));
            prop_assert_eq!(databases.list(own, &bucket, Some(&odd)).await, Ok(Page::default()));
            databases.set(own, &bucket, &odd, bytes("mine")).await.expect("there is room");
            prop_assert_eq!(databases.get(own, &bucket, &odd).await, Ok(Some(bytes("mine"))));
            prop_assert_eq!(databases.list(own, &bucket, None).await.map(|page| page.keys), Ok(vec![odd.clone()]));
            databases.delete(own, &bucket, &odd).await.expect("there is room");
            prop_assert_eq!(databases.list(other, &bucket, None).await.map(|page| page.keys), Ok(vec!["k".to_owned()]));
            prop_assert_eq!(databases.get(other, &bucket, "k").await, Ok(Some(bytes("theirs"))));
            Ok(())
        })?;
        drop(databases);
        let mut files: Vec<String> = ["1", "2"].iter().flat_map(|tenant| {
            let entries = std::fs::read_dir(dir.path().join("databases").join(tenant)).expect("it was made");
            entries.map(move |entry| format!("{tenant}/{}", entry.expect("readable").file_name().display()))
        }).collect();
        files.sort_unstable();
        prop_assert_eq!(files, ["1/1.sqlite", "2/2.sqlite"]);
        let beside: Vec<_> = std::fs::read_dir(dir.path()).expect("it is there").map(|entry| entry.expect("readable").file_name()).collect();
        prop_assert_eq!(beside, ["databases"]);
    }
}

#[tokio::test]
async fn the_last_of_the_disk_is_not_for_tenants() {
    let (dir, databases) = opened();
    let (kept, fresh, bucket) = (db(1, 1), db(2, 2), name("b"));
    databases
        .set_many(kept, &bucket, vec![("k".into(), bytes("v")), ("l".into(), bytes("v"))])
        .await
        .expect("there is room");
    databases.close();
    let full = Room::but(dir.path(), u64::MAX);
    let databases = Databases::open_bounded(dir.path(), DATABASE_BYTES_MAX, full).expect("it was closed");
    assert_eq!(databases.set(kept, &bucket, "k", bytes("w")).await, Err(KvError::NoRoom));
    assert_eq!(databases.increment(kept, &bucket, "n", 1).await, Err(KvError::NoRoom));
    assert_eq!(databases.swap(kept, &bucket, "k", None, bytes("w")).await, Err(KvError::NoRoom));
    assert_eq!(databases.set(fresh, &bucket, "k", bytes("w")).await, Err(KvError::NoRoom));
    assert!(!dir.path().join("databases/2").exists(), "nothing is made for who is refused");
    assert_eq!(databases.get(kept, &bucket, "k").await, Ok(Some(bytes("v"))));
    assert_eq!(databases.delete(kept, &bucket, "k").await, Ok(()));
    assert_eq!(databases.get(kept, &bucket, "k").await, Ok(None));
    assert_eq!(databases.drop_database(kept).await, Ok(()));
}

#[tokio::test]
async fn a_database_is_carried_to_another_box_with_all_that_was_acknowledged() {
    let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let [from, to] = [&here, &there].map(|dir| Databases::open(dir.path()).expect("opened"));
    let (db, bucket): (Database, Name) =
        (Database { tenant: TenantId(1), id: DatabaseId(7) }, "cart".parse().expect("a name"));
    for number in 0..200 {
        from.set(db, &bucket, &format!("k{number}"), Bytes::from(vec![7; 1_000])).await.expect("set");
    }
    // Somebody writes on while it is held: what is acknowledged is carried, what is refused isn't there.
    let writer = {
        let (from, bucket) = (from.clone(), bucket.clone());
        tokio::spawn(async move {
            let mut acknowledged = 0;
            while from.increment(db, &bucket, "count", 1).await.is_ok() {
                acknowledged += 1;
            }
            acknowledged
        })
    };
    while from.get(db, &bucket, "count").await.expect("read").is_none() {
        tokio::task::yield_now().await;
    }
    let held = from.hold(db).await.expect("held").expect("it has a file");
    let acknowledged: i64 = writer.await.expect("it ends when it is refused");
    assert_eq!(from.set(db, &bucket, "late", Bytes::new()).await, Err(KvError::Busy));
    assert!(from.get(db, &bucket, "k1").await.expect("read").is_some(), "it is read on");
    let mut arriving = to.receive(db).expect("there is room");
    assert!(matches!(arriving.take(5, b"x"), Err(MoveError::Order { wanted: 0, found: 5 })));
    while arriving.bytes() < held.bytes {
        let piece = held.piece(arriving.bytes(), 10_000).expect("read");
        arriving.take(arriving.bytes(), &piece).expect("written");
    }
    arriving.finish(held.digest().expect("read")).expect("laid down");
    assert_eq!(to.increment(db, &bucket, "count", 0).await, Ok(acknowledged));
    assert_eq!(to.list(db, &bucket, None).await.expect("listed").keys.len(), 201);
    // It stays, if it can't go after all.
    from.release(db).await.expect("released");
    from.set(db, &bucket, "late", Bytes::new()).await.expect("set again");
}

#[tokio::test]
async fn what_arrives_damaged_or_in_part_is_no_database() {
    let dir = tempfile::tempdir().expect("a folder");
    let databases = Databases::open(dir.path()).expect("opened");
    let db = Database { tenant: TenantId(1), id: DatabaseId(7) };
    let mut arriving = databases.receive(db).expect("there is room");
    arriving.take(0, b"some bytes").expect("written");
    assert!(matches!(arriving.finish(base::Digest::of(b"others")), Err(MoveError::Digest)));
    drop(databases.receive(db).expect("there is room"));
    assert_eq!(databases.all().expect("listed"), []);
    assert_eq!(std::fs::read_dir(dir.path().join("databases/1")).expect("made").count(), 0);
}
