//! What boxes ask of each other, in one process.

use std::time::SystemTime;

use base::limits::{CHUNK_BYTES_MAX, CHUNK_COPIES, TIER_DIGESTS_MAX, TIER_PACK_CHUNKS_MAX};
use base::{DatabaseId, Digest, TenantId};
use proptest::prelude::*;
use sandbox::{Bucket, KeyValue as _, KeyValueError, Swap};
use state::{Command, Sealed};

use super::town::{TENANT, Town, id, name, town, walk};
use super::*;
use crate::code::Buckets;

/// A box that holds data and one that serves, with an app.
async fn pair() -> (Town, Buckets, Bucket) {
    let town = town(&["persistence", "web"]).await;
    town.release(Digest::of(b"content")).await;
    let bucket = Bucket { tenant: TENANT, database: town.database(), name: name("cart") };
    let buckets = buckets(&town, 1);
    (town, buckets, bucket)
}

fn buckets(town: &Town, number: usize) -> Buckets {
    let cloud = &town.clouds[number];
    Buckets { here: cloud.store.databases.clone(), far: cloud.far.clone() }
}

// ---- data ----

#[tokio::test]
async fn every_operation_on_data_elsewhere_does_what_it_does_here() {
    let (town, it, at) = pair().await;
    let at = &at;
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
    // Values of many keys are more than a message of one may carry.
    assert_eq!(town.asked(0, Method::DataOfMany), 2);
    it.delete(at, key("a")).await.expect("deleted");
    it.delete_many(at, vec![key("b")]).await.expect("deleted");
    assert_eq!(it.list_keys(at, None).await.expect("listed").keys, ["c"]);
    // And it is on the box that holds it alone.
    assert_eq!(buckets(&town, 0).get(at, key("c")).await, Ok(Some(value("word"))));
    assert!(walk(&town.dirs[1].path().join("databases")).is_empty());
}

#[tokio::test]
async fn a_cut_cable_is_told_and_nothing_is_done_twice_or_elsewhere() {
    let (town, it, at) = pair().await;
    it.set(&at, "a".to_owned(), Bytes::from_static(b"1")).await.expect("set");
    town.cut(0);
    let told = it.increment(&at, "a".to_owned(), 1).await;
    assert!(matches!(&told, Err(KeyValueError::Broken(why)) if why.contains("nothing was done")), "{told:?}");
    assert!(town.clouds[1].chunks.get(TENANT, Digest::of(b"chunk")).await.is_err());
    town.mend(0);
    assert_eq!(it.get(&at, "a".to_owned()).await, Ok(Some(Bytes::from_static(b"1"))));
}

#[tokio::test]
async fn a_box_answers_for_the_databases_that_live_there_alone() {
    let (town, _, at) = pair().await;
    let asked = |of: usize, database: DatabaseId| {
        let cloud = Arc::clone(&town.clouds[of]);
        async move {
            let bucket = Bucket { tenant: TENANT, database, name: name("cart") };
            let body = super::data::written(&bucket, Operation::Get("a".to_owned())).expect("it can be written");
            cloud.answer(id(1), Method::Data, body).await
        }
    };
    assert!(asked(0, at.database).await.is_ok());
    assert!(asked(0, DatabaseId(99)).await.is_err(), "a database that there isn't is made");
    assert!(asked(1, at.database).await.is_err(), "a box answers for another's database");
}

/// Before a box told here from nowhere, one that hadn't heard of a database yet made one of its own, beside the right one.
#[tokio::test]
async fn a_database_without_a_home_is_made_nowhere() {
    let (town, web, at) = pair().await;
    let files = || [0, 1].map(|number: usize| walk(&town.dirs[number].path().join("databases")));
    let before = files();
    let unknown = Bucket { database: DatabaseId(99), ..at.clone() };
    for it in [&web, &buckets(&town, 0)] {
        let told = it.set(&unknown, "a".to_owned(), Bytes::from_static(b"1")).await;
        assert!(matches!(&told, Err(KeyValueError::Broken(why)) if why.contains("no box")), "{told:?}");
        assert!(it.get(&unknown, "a".to_owned()).await.is_err());
    }
    // Nor while the box hasn't heard of any box.
    let far = town.clouds[1].far.as_ref().expect("it is one of several");
    far.known.store(None);
    assert!(web.set(&at, "a".to_owned(), Bytes::from_static(b"1")).await.is_err());
    assert_eq!(far.home(&at), Home::Nowhere);
    assert_eq!(files(), before);
}

#[tokio::test]
async fn who_may_ask_what_is_told_by_the_record() {
    let town = town(&["persistence", "web", "auth"]).await;
    let known = &town.clouds[0].far.as_ref().expect("it is one of several").known;
    for method in Method::ALL {
        assert_eq!(Method::of(method.number()), Some(method));
        // Databases come from those that hold them, and are asked by those that hold data or run code.
        let of_data = [Method::Data, Method::DataOfMany].contains(&method);
        let sends = method == Method::Database;
        assert!(may_ask(known, id(0), method));
        assert_eq!(may_ask(known, id(1), method), !sends, "a web box asks for {method:?}");
        assert_eq!(may_ask(known, id(2), method), !of_data && !sends, "an auth box asks for {method:?}");
        assert!(!may_ask(known, id(7), method), "a stranger asks for {method:?}");
        assert!(!may_ask(&Arc::default(), id(0), method), "nobody is known, and somebody asks");
        // What the record is asked it judges by itself.
        let refused = town.clouds[0].answer(id(7), method, Bytes::new()).await.is_err();
        assert!(refused || method == Method::Record);
    }
}

// ---- chunks ----

#[tokio::test]
async fn chunks_come_from_the_persistence_tier_once_and_checked() {
    let town = town(&["persistence", "web"]).await;
    let digest = town.upload(0, b"the bytes of a file");
    let chunks = &town.clouds[1].chunks;
    assert_eq!(chunks.get(TENANT, digest).await.expect("fetched"), "the bytes of a file");
    town.cut(0);
    assert_eq!(chunks.get(TENANT, digest).await.expect("kept"), "the bytes of a file");
    // Another tenant's chunk of the same name is another chunk.
    assert!(chunks.get(TenantId(2), digest).await.is_err());
}

#[tokio::test]
async fn what_the_disk_has_spoilt_comes_anew_from_the_tier() {
    let town = town(&["persistence", "web"]).await;
    let digest = town.upload(0, b"the bytes of a file");
    let cloud = &town.clouds[1];
    cloud.chunks.get(TENANT, digest).await.expect("fetched");
    let path = cloud.store.chunks.path(TENANT, digest);
    std::fs::write(&path, "other bytes").expect("it is there");
    assert_eq!(cloud.chunks.get(TENANT, digest).await.expect("fetched"), "the bytes of a file");
    assert_eq!(std::fs::read(&path).expect("it is there"), b"the bytes of a file");
}

/// Chunks of some hundred sizes, more than one call carries.
fn uploads(town: &Town, on: usize) -> Vec<Digest> {
    let small = (0..TIER_PACK_CHUNKS_MAX + 40).map(|number| town.upload(on, format!("small {number}").as_bytes()));
    let mut digests: Vec<_> = small.collect();
    digests.extend((0..3_u8).map(|fill| town.upload(on, &vec![fill; CHUNK_BYTES_MAX])));
    digests
}

#[tokio::test]
async fn a_release_s_chunks_lie_on_those_that_should_hold_them() {
    let town = town(&["persistence", "persistence", "web", "persistence", "persistence"]).await;
    let digests = uploads(&town, 2);
    town.clouds[2].chunks.lay(TENANT, digests.clone()).await.expect("all are there");
    let boxes = town.clouds[0].record().boxes().cloned().expect("founded");
    for digest in &digests {
        let wanted: Vec<_> = (0..5).filter(|number| keeps(&boxes, id(*number), *digest)).collect();
        assert_eq!(wanted.len(), CHUNK_COPIES);
        assert_eq!(town.holding(*digest), wanted, "a box that serves keeps copies alone");
    }
    // Nothing is sent twice.
    let sent = |town: &Town| (0..5).map(|number| town.asked(number, Method::ChunksPut)).sum::<usize>();
    let before = sent(&town);
    town.clouds[2].chunks.lay(TENANT, digests.clone()).await.expect("they lie there");
    assert_eq!(sent(&town), before);
    // The box that it was pushed to isn't needed any more, and two others neither.
    for gone in [2, 0, 1] {
        town.cut(gone);
    }
    for digest in digests {
        assert_eq!(Digest::of(&town.clouds[3].chunks.get(TENANT, digest).await.expect("one has it")), digest);
    }
}

#[tokio::test]
async fn a_box_that_is_away_is_passed_over_for_the_next() {
    let town = town(&["persistence", "persistence", "persistence", "persistence", "web"]).await;
    town.cut(1);
    let digests: Vec<_> = (0..60).map(|number: u8| town.upload(4, &[number])).collect();
    town.clouds[4].chunks.lay(TENANT, digests.clone()).await.expect("three are there");
    assert!(digests.iter().all(|digest| town.holding(*digest) == [0, 2, 3]));
}

#[tokio::test]
async fn less_than_a_majority_of_those_that_should_hold_it_is_refused() {
    let town = town(&["persistence", "persistence", "persistence", "web"]).await;
    let digest = town.upload(3, b"a chunk");
    town.cut(0);
    town.cut(1);
    let told = town.clouds[3].chunks.lay(TENANT, vec![digest]).await;
    assert!(matches!(told, Err(LayError::TooFew { copies: 1, needed: 2, full: false, .. })), "{told:?}");
    town.mend(1);
    town.clouds[3].chunks.lay(TENANT, vec![digest]).await.expect("two of three");
    assert_eq!(town.holding(digest), [1, 2]);
    let nowhere = Digest::of(b"nowhere");
    let told = town.clouds[3].chunks.lay(TENANT, vec![nowhere]).await;
    assert!(matches!(told, Err(LayError::Source { digest, .. }) if digest == nowhere), "{told:?}");
}

#[tokio::test]
async fn a_persistence_box_that_is_pushed_to_counts_itself() {
    let town = town(&["persistence,web"]).await;
    let digest = town.upload(0, b"a chunk");
    assert!(town.holding(digest).is_empty());
    town.clouds[0].chunks.lay(TENANT, vec![digest]).await.expect("it is one of one");
    assert_eq!(town.holding(digest), [0]);
}

#[tokio::test]
async fn what_the_tier_has_need_not_be_uploaded_again() {
    let town = town(&["persistence", "persistence", "persistence", "persistence", "web", "web"]).await;
    let (there, here, nowhere) = (town.upload(4, b"there"), town.upload(5, b"here"), Digest::of(b"nowhere"));
    town.clouds[4].chunks.lay(TENANT, vec![there]).await.expect("all are there");
    let asked = vec![there, here, nowhere];
    let held = town.clouds[5].chunks.held(TENANT, asked.clone()).await.expect("answered");
    assert_eq!(held, [(there, 5), (here, 4)].into());
    // Those that should hold it are asked, each once, and nobody else.
    let asked_for = (0..4).map(|number| town.asked(number, Method::ChunksHeld)).collect::<Vec<_>>();
    assert!(asked_for.iter().sum::<usize>() <= 3 + 4, "{asked_for:?}");
    // Another tenant has nothing of it.
    assert!(town.clouds[5].chunks.held(TenantId(9), asked).await.expect("answered").is_empty());
}

#[tokio::test]
async fn a_holder_takes_nothing_that_isn_t_right() {
    let town = town(&["persistence", "web", "web"]).await;
    let far = town.clouds[1].far.as_ref().expect("it is one of several");
    let put = async |to: usize, tenant: TenantId, chunks: Vec<(Digest, Raw)>| {
        let pack = super::holders::Pack { tenant, chunks };
        far.call::<Result<(), super::holders::Declined>>(id(to), Method::ChunksPut, &pack, Duration::from_secs(9)).await
    };
    let chunk = |bytes: Vec<u8>| (Digest::of(&bytes), Raw(bytes.into()));
    let before = walk(town.dirs[0].path());
    for (told, to, tenant, chunks) in [
        ("NoHolder", 2, TENANT, vec![chunk(vec![1])]),
        ("NoTenant", 0, TenantId(99), vec![chunk(vec![1])]),
        ("Mismatch", 0, TENANT, vec![(Digest::of(b"another"), chunk(vec![1]).1)]),
        ("TooLarge", 0, TENANT, vec![chunk(vec![0; CHUNK_BYTES_MAX + 1])]),
        ("TooMany", 0, TENANT, (0..=TIER_PACK_CHUNKS_MAX).map(|it| chunk(it.to_be_bytes().into())).collect()),
    ] {
        let declined = put(to, tenant, chunks).await.expect("it is answered").expect_err("it is refused");
        assert!(format!("{declined:?}").starts_with(told), "{declined:?} where {told} was wanted");
    }
    let settle = async |tenant: TenantId, count: usize| {
        let named = super::holders::Named { tenant, digests: vec![Digest::of(b"nowhere"); count] };
        let within = Duration::from_secs(9);
        let answer = far.call::<Result<(), super::holders::Declined>>(id(0), Method::ChunksSettle, &named, within);
        answer.await.expect("it is answered").map_err(|declined| format!("{declined:?}"))
    };
    assert_eq!(settle(TENANT, TIER_DIGESTS_MAX + 1).await, Err("TooMany".to_owned()));
    assert!(settle(TENANT, 1).await.is_err_and(|told| told.starts_with("Missing")));
    assert_eq!(settle(TenantId(99), 0).await, Ok(()));
    assert_eq!(walk(town.dirs[0].path()), before, "something of it was kept");
}

#[tokio::test]
async fn a_holder_that_hears_of_a_tenant_a_moment_later_takes_its_chunks() {
    let town = town(&["persistence", "web"]).await;
    let made = Command::TenantCreate { name: name("new"), key: Sealed(String::new()) };
    town.propose_on(1, made.clone()).await;
    let new = town.clouds[1].record().tenant_named("new").expect("made").id;
    let bytes = Bytes::from_static(b"a chunk");
    let digest = Digest::of(&bytes);
    town.clouds[1].store.chunks.put(new, digest, &bytes).expect("there is room");
    let (laid, ()) = tokio::join!(town.clouds[1].chunks.lay(new, vec![digest]), town.propose_on(0, made));
    laid.expect("it heard");
    assert_eq!(town.clouds[0].store.chunks.get(new, digest).expect("taken"), bytes);
}

// ---- the sweep ----

/// Makes all chunks of a box look as if nobody had asked for them since yesterday.
fn age(town: &Town, number: usize) {
    for path in ["chunks", "incoming"].iter().flat_map(|folder| walk(&town.dirs[number].path().join(folder))) {
        let file = std::fs::File::open(path).expect("it is there");
        file.set_modified(SystemTime::now() - Duration::from_hours(24)).expect("it is ours");
    }
}

/// An index of one file, and both chunks, laid from this box.
async fn laid(town: &Town, from: usize, file: &[u8]) -> (Digest, Digest) {
    let digest = town.upload(from, file);
    let chunk = serde_json::json!({ "digest": digest, "size": file.len() });
    let file = serde_json::json!({ "digest": digest, "size": file.len(), "chunks": [chunk] });
    let index = serde_json::json!({ "statics": { "site": { "a.txt": file } }, "components": {} });
    let index = town.upload(from, index.to_string().as_bytes());
    town.clouds[from].chunks.lay(TENANT, vec![digest, index]).await.expect("laid");
    (index, digest)
}

#[tokio::test]
async fn a_holder_keeps_what_any_release_names_and_fetches_what_it_lacks() {
    let town = town(&["persistence", "persistence", "persistence", "web"]).await;
    town.cut(2);
    let (index, file) = laid(&town, 3, b"a file").await;
    town.release(index).await;
    let (newer, newer_file) = laid(&town, 3, b"a newer file").await;
    town.release(newer).await;
    assert_eq!(town.holding(file), [0, 1], "one was away");
    let orphan = town.upload(0, b"of no release");
    // What it can't learn from anybody now it doesn't take for nothing.
    let kept = town.upload(2, b"of no release");
    for number in 0..4 {
        age(&town, number);
    }
    for number in 0..3 {
        crate::sweep::sweep_once(&town.clouds[number]).await;
    }
    assert_eq!(town.clouds[0].store.chunks.missing(TENANT, &[orphan]), [orphan]);
    assert_eq!(town.clouds[2].store.chunks.missing(TENANT, &[kept]), []);
    assert_eq!(town.holding(file), [0, 1]);
    town.mend(2);
    age(&town, 2);
    crate::sweep::sweep_once(&town.clouds[2]).await;
    assert_eq!(town.clouds[2].store.chunks.missing(TENANT, &[kept]), [kept]);
    for digest in [index, file, newer, newer_file] {
        assert_eq!(town.holding(digest), [0, 1, 2]);
    }
}

#[tokio::test]
async fn a_box_that_serves_keeps_copies_of_what_runs() {
    let town = town(&["persistence", "web"]).await;
    let (old, old_file) = laid(&town, 0, b"a file").await;
    town.release(old).await;
    let (index, file) = laid(&town, 0, b"a newer file").await;
    town.release(index).await;
    let web = &town.clouds[1];
    for digest in [old, old_file, index, file] {
        web.chunks.get(TENANT, digest).await.expect("fetched");
    }
    age(&town, 1);
    // It has no index of what it never served, and says nothing of that.
    crate::sweep::sweep_once(web).await;
    assert_eq!(web.store.chunks.missing(TENANT, &[old, old_file, index, file]), [old, old_file]);
    assert_eq!(town.asked(0, Method::Chunk), 4, "the sweep of a box that keeps copies fetches none");
    assert_eq!(web.chunks.get(TENANT, old).await.expect("it is where it belongs").len() as u64, {
        town.clouds[0].store.chunks.held(TENANT, &[old])[0].expect("it lies there")
    });
}

// ---- garbage ----

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn garbage_from_a_box_is_refused_and_changes_nothing(body in prop::collection::vec(any::<u8>(), 0..200)) {
        thread_local! {
            static PAIR: (tokio::runtime::Runtime, Town) = {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                let town = runtime.block_on(async { pair().await.0 });
                (runtime, town)
            };
        }
        PAIR.with(|(runtime, town)| {
            let files = || walk(town.dirs[0].path());
            let before = files();
            for method in [Method::Data, Method::Chunk, Method::ChunksHeld, Method::ChunksPut, Method::ChunksSettle, Method::Logs] {
                // Of a tenant that there isn't it would wait to hear.
                let body = if method == Method::ChunksPut { [&[1][..], &body].concat() } else { body.clone() };
                // Random bytes that happen to be a question are answered; what they name isn't there.
                let _ = runtime.block_on(town.clouds[0].answer(id(1), method, body.into()));
            }
            assert_eq!(files(), before);
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
