//! Two boxes in one process: what one asks, the other answers from its disk.

use std::collections::{BTreeMap, BTreeSet};

use base::{CloudId, DatabaseId, Name, Timestamp};
use persist::Databases;
use proptest::prelude::*;
use sandbox::{Bucket, KeyValue as _, KeyValueError, Swap};
use state::{Actor, Admission, Command, Entry, Record, Sealed};
use tempfile::TempDir;

use super::*;
use crate::code::{Buckets, refused};

const WEB: BoxId = BoxId([1; 32]);
const HOLDER: BoxId = BoxId([2; 32]);
const TENANT: TenantId = TenantId(1);

fn name(text: &str) -> Name {
    text.parse().expect("a test's name")
}

/// A cloud of a box that holds data and one that serves, with an app; and the id of the app's database.
fn boxes() -> (Arc<Boxes>, DatabaseId) {
    let admission = |id, roles: &str| Admission {
        id,
        roles: roles.parse().expect("roles"),
        labels: BTreeMap::new(),
        order: "a".to_owned(),
        warrant: None,
    };
    let mut record = Record::default();
    let commands = [
        Command::CloudFound {
            cloud: CloudId([7; 16]),
            name: name("hut"),
            domain: "localhost".to_owned(),
            operators: BTreeSet::from([BoxId([9; 32])]),
            first: admission(HOLDER, "persistence"),
            addresses: Vec::new(),
        },
        Command::BoxAdmit { admission: admission(WEB, "web") },
        Command::BoxJoin { id: WEB, order: "a".to_owned(), addresses: Vec::new() },
        Command::TenantCreate { name: name("acme"), key: Sealed(String::new()) },
    ];
    for command in commands {
        record.apply(&Entry { at: Timestamp(1), by: Actor::Box, command }).expect("it is in order");
    }
    let tenant = record.tenants().next().expect("made").id;
    assert_eq!(tenant, TENANT);
    let push = Command::ReleaseCreate {
        tenant,
        app: name("shop"),
        stage: name("live"),
        content: Digest::of(b"content"),
        manifest: Box::new(state::manifest::parse("", "firm.toml").expect("an empty manifest")),
        source: None,
    };
    record.apply(&Entry { at: Timestamp(2), by: Actor::Box, command: push }).expect("it is in order");
    let database = record.app(tenant, "shop").and_then(|app| app.stage("live")).expect("pushed").database;
    (record.boxes().expect("founded").clone(), database)
}

/// The holder's disk, reached without a network.
#[derive(Clone)]
struct Wire {
    databases: Databases,
    chunks: persist::Chunks,
    known: Known,
    cut: Arc<std::sync::atomic::AtomicBool>,
}

impl Tier for Wire {
    fn me(&self) -> BoxId {
        WEB
    }

    fn know(&self, _: &Arc<Boxes>) {}

    fn nearby(&self) -> Vec<(BoxId, Vec<SocketAddr>)> {
        Vec::new()
    }

    fn vouch(&self, _: &[u8]) -> String {
        String::new()
    }

    fn is_vouched(&self, _: BoxId, _: &[u8], _: &str) -> bool {
        false
    }

    fn operators(&self) -> &BTreeSet<BoxId> {
        static NOBODY: BTreeSet<BoxId> = BTreeSet::new();
        &NOBODY
    }

    fn has_auth(&self) -> bool {
        false
    }

    fn keep_auth(&self) {}

    fn ask(&self, to: BoxId, method: Method, body: Bytes, _: Duration) -> Answered {
        let wire = self.clone();
        Box::pin(async move {
            if wire.cut.load(std::sync::atomic::Ordering::Acquire) || to != HOLDER {
                return Err(TierError::Unreachable("the cable is cut".to_owned()));
            }
            let answered = match method {
                Method::Data => answer_data(&wire.databases, &wire.known, HOLDER, &body, refused).await,
                Method::Chunk => answer_chunk(&wire.chunks, &body),
                Method::Record | Method::Beat | Method::Vitals | Method::Mint => Err("not here".to_owned()),
            };
            answered.map_err(TierError::Refused)
        })
    }
}

/// Every file below a folder.
fn walk(folder: &std::path::Path) -> BTreeSet<std::path::PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("listed").filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.insert(path);
        }
    }
    found
}

struct Pair {
    disks: [TempDir; 2],
    wire: Wire,
    buckets: Buckets,
    chunks: Chunks,
    bucket: Bucket,
}

fn pair() -> Pair {
    let disks = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let [there, here] = [0, 1].map(|number: usize| disks[number].path());
    let (boxes, database) = boxes();
    let known: Known = Arc::new(ArcSwapOption::new(Some(boxes)));
    let wire = Wire {
        databases: Databases::open(there).expect("opened"),
        chunks: persist::Chunks::open(there).expect("opened"),
        known: Arc::clone(&known),
        cut: Arc::default(),
    };
    let far = Far { tier: Arc::new(wire.clone()), roles: "web".parse().expect("roles"), known };
    Pair {
        buckets: Buckets { here: Databases::open(here).expect("opened"), far: Some(far.clone()) },
        chunks: Chunks::new(persist::Chunks::open(here).expect("opened"), Some(far)),
        bucket: Bucket { tenant: TENANT, database, name: name("cart") },
        disks,
        wire,
    }
}

#[tokio::test]
async fn every_operation_on_data_elsewhere_does_what_it_does_here() {
    let pair = pair();
    let (it, at) = (&pair.buckets, &pair.bucket);
    let value = |text: &'static str| Bytes::from_static(text.as_bytes());
    let key = |text: &str| text.to_owned();
    assert_eq!(it.get(at, key("a")).await, Ok(None));
    it.set(at, key("a"), value("1")).await.expect("set");
    assert_eq!(it.get(at, key("a")).await, Ok(Some(value("1"))));
    assert_eq!(it.exists(at, key("a")).await, Ok(true));
    assert_eq!(it.increment(at, key("a"), 4).await, Ok(5));
    assert_eq!(it.swap(at, key("a"), Some(value("5")), value("6")).await, Ok(Swap::Done));
    assert_eq!(it.swap(at, key("a"), Some(value("5")), value("7")).await, Ok(Swap::Lost(Some(value("6")))));
    it.set_many(at, vec![(key("b"), value("x")), (key("c"), value("word"))]).await.expect("set");
    let got = it.get_many(at, vec![key("a"), key("nothing"), key("c")]).await;
    assert_eq!(got, Ok(vec![Some(value("6")), None, Some(value("word"))]));
    assert_eq!(it.list_keys(at, None).await.expect("listed").keys, ["a", "b", "c"]);
    assert_eq!(it.increment(at, key("c"), 1).await, Err(KeyValueError::NotANumber));
    it.delete(at, key("a")).await.expect("deleted");
    it.delete_many(at, vec![key("b")]).await.expect("deleted");
    assert_eq!(it.list_keys(at, None).await.expect("listed").keys, ["c"]);
    // And nothing of it is on the box that serves.
    let here = it.here.get(persist::Database { tenant: TENANT, id: at.database }, &at.name, "c").await;
    assert_eq!(here.expect("read"), None);
}

#[tokio::test]
async fn a_cut_cable_is_told_and_nothing_is_done_twice_or_elsewhere() {
    let pair = pair();
    let (it, at) = (&pair.buckets, &pair.bucket);
    it.set(at, "a".to_owned(), Bytes::from_static(b"1")).await.expect("set");
    pair.wire.cut.store(true, std::sync::atomic::Ordering::Release);
    let told = it.increment(at, "a".to_owned(), 1).await;
    assert!(matches!(&told, Err(KeyValueError::Broken(why)) if why.contains("nothing was done")), "{told:?}");
    let digest = Digest::of(b"chunk");
    assert!(pair.chunks.get(TENANT, digest).await.is_err());
    pair.wire.cut.store(false, std::sync::atomic::Ordering::Release);
    assert_eq!(it.get(at, "a".to_owned()).await, Ok(Some(Bytes::from_static(b"1"))));
}

#[tokio::test]
async fn a_box_answers_for_the_databases_that_live_there_alone() {
    let pair = pair();
    // One that there isn't, one of another box, and one of a box that asks for itself.
    let there = |me: BoxId, database: DatabaseId| {
        let wire = pair.wire.clone();
        async move {
            let bucket = Bucket { tenant: TENANT, database, name: name("cart") };
            let body = super::data::written(&bucket, Operation::Get("a".to_owned())).expect("it can be written");
            answer_data(&wire.databases, &wire.known, me, &body, refused).await
        }
    };
    let database = pair.bucket.database;
    assert!(there(HOLDER, database).await.is_ok());
    assert!(there(HOLDER, DatabaseId(99)).await.is_err(), "a database that there isn't is made");
    assert!(there(WEB, database).await.is_err(), "a box answers for another's database");
    assert!(may_ask(&pair.wire.known, WEB));
    assert!(!may_ask(&pair.wire.known, BoxId([3; 32])), "a stranger may ask");
    assert!(!may_ask(&Arc::default(), WEB), "nobody is known, and somebody may ask");
}

#[tokio::test]
async fn chunks_come_from_the_persistence_tier_once_and_checked() {
    let pair = pair();
    let bytes = Bytes::from_static(b"the bytes of a file");
    let digest = Digest::of(&bytes);
    pair.wire.chunks.put(TENANT, digest, &bytes).expect("put");
    pair.wire.chunks.settle(TENANT, &[digest]).expect("settled");
    assert_eq!(pair.chunks.get(TENANT, digest).await.expect("fetched"), bytes);
    pair.wire.cut.store(true, std::sync::atomic::Ordering::Release);
    assert_eq!(pair.chunks.get(TENANT, digest).await.expect("kept"), bytes);
    // Another tenant's chunk of the same name is another chunk.
    assert!(pair.chunks.get(TenantId(2), digest).await.is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn garbage_from_a_box_is_refused_and_changes_nothing(body in prop::collection::vec(any::<u8>(), 0..200)) {
        thread_local! {
            static PAIR: Pair = pair();
        }
        PAIR.with(|pair| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let files = || walk(pair.disks[0].path());
            let before = files();
            let _ = answer_chunk(&pair.wire.chunks, &body);
            let answered = runtime.block_on(answer_data(&pair.wire.databases, &pair.wire.known, HOLDER, &body, refused));
            // Random bytes that happen to be a question are answered; what they name doesn't live here.
            if answered.is_err() {
                assert_eq!(files(), before);
            }
        });
    }

    #[test]
    fn an_operation_reads_back_as_it_was_written(
        key in ".{0,40}", value in prop::collection::vec(any::<u8>(), 0..300), delta in any::<i64>()
    ) {
        for operation in [
            Operation::Set(key.clone(), Raw(value.clone().into())),
            Operation::Swap(key.clone(), Some(Raw(value.clone().into())), Raw(Bytes::new())),
            Operation::Increment(key.clone(), delta),
            Operation::SetMany(vec![(key.clone(), Raw(value.clone().into()))]),
            Operation::List(Some(key)),
        ] {
            let bytes = postcard::to_allocvec(&operation).expect("it can be written");
            prop_assert_eq!(postcard::from_bytes::<Operation>(&bytes).expect("it reads"), operation);
        }
    }
}
