use persist::KvError;
use sandbox::{Bucket, KeyValue as _, KeyValueError};

use super::super::town::{TENANT, Town, eventually, id, name, town};
use super::*;
use crate::code::Buckets;

/// A town of two that keep data, and one that serves; and which of them has the app's database.
async fn pair() -> (Town, usize, usize) {
    let town = town(&["persistence", "persistence", "web"]).await;
    town.release(Digest::of(b"content")).await;
    let home = town.clouds[0].record().boxes().expect("founded").home(town.database()).expect("it has one");
    let (from, to) = if home == id(0) { (0, 1) } else { (1, 0) };
    for cloud in &town.clouds {
        let far = cloud.far.clone().expect("a town");
        eventually("who has what is known", || far.known.load().as_ref().is_some_and(|it| !it.homes.is_empty())).await;
    }
    (town, from, to)
}

fn buckets(town: &Town, number: usize) -> (Buckets, Bucket) {
    let cloud = &town.clouds[number];
    let buckets = Buckets { here: cloud.store.databases.clone(), far: cloud.far.clone() };
    (buckets, Bucket { tenant: TENANT, database: town.database(), name: name("cart") })
}

fn home(town: &Town, number: usize) -> Option<BoxId> {
    town.clouds[number].record().boxes().and_then(|boxes| boxes.home(town.database()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_a_box_that_goes_lives_on_with_one_that_stays() {
    let (town, from, to) = pair().await;
    let (web, at) = buckets(&town, 2);
    for number in 0..50 {
        web.set(&at, format!("k{number}"), Bytes::from(vec![1; 50_000])).await.expect("set");
    }
    town.propose(Command::BoxDrain { id: id(from) }).await;
    tokio::spawn(Arc::clone(&town.clouds[from]).tend_data());
    eventually("the record says where it lives", || home(&town, from) == Some(id(to))).await;
    // A box that hasn't heard of it yet is told so, and gets no old value.
    let late = web.get(&at, "k1".to_owned()).await;
    assert!(!matches!(late, Ok(Some(_))), "an old value is read where it was");
    for number in [to, 2] {
        let command = Command::DatabaseMove { database: town.database(), from: id(from), to: id(to) };
        town.propose_on(number, command).await;
    }
    let far = town.clouds[2].far.clone().expect("a town");
    eventually("it is known", || far.known.load().as_ref().and_then(|it| it.home(at.database)) == Some(id(to))).await;
    assert_eq!(web.list_keys(&at, None).await.expect("listed").keys.len(), 50);
    web.set(&at, "new".to_owned(), Bytes::from_static(b"1")).await.expect("set where it lives now");
    let gone = Database { tenant: TENANT, id: at.database };
    let databases = &town.clouds[from].store.databases;
    let path = town.dirs[from].path().join(format!("databases/{TENANT}/{}.sqlite", at.database));
    eventually("its file is gone where it was", || !path.exists()).await;
    assert_eq!(databases.set(gone, &at.name, "k", Bytes::new()).await, Err(KvError::Deleted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_nobody_can_take_stays_and_is_written_on() {
    let (town, from, to) = pair().await;
    let (near, at) = buckets(&town, from);
    near.set(&at, "a".to_owned(), Bytes::from_static(b"1")).await.expect("set");
    town.propose(Command::BoxDrain { id: id(from) }).await;
    town.cut(to);
    let far = town.clouds[from].far.clone().expect("a town");
    let db = Database { tenant: TENANT, id: at.database };
    let sent = town.clouds[from].send_away(&far, db).await;
    assert!(matches!(sent, Err(SendError::Call(_))), "{sent:?}");
    near.set(&at, "a".to_owned(), Bytes::from_static(b"2")).await.expect("it takes writes again");
    assert_eq!(home(&town, from), Some(id(from)));
    town.mend(to);
    town.clouds[from].send_away(&far, db).await.expect("it goes");
    assert_eq!(near.get(&at, "a".to_owned()).await.map_err(|error| matches!(error, KeyValueError::Busy)), Err(false));
    let there = town.clouds[to].store.databases.get(db, &at.name, "a").await;
    assert_eq!(there.expect("read"), Some(Bytes::from_static(b"2")), "the last that was acknowledged");
}

#[tokio::test]
async fn a_database_comes_from_its_own_box_alone() {
    let (town, from, to) = pair().await;
    let piece = |tenant: u64, database: u64, at: u64| Piece {
        tenant: TenantId(tenant),
        database: DatabaseId(database),
        from: at,
        bytes: Raw(Bytes::from_static(b"SQLite")),
        whole: None,
    };
    let database = town.database().0;
    let ask = |who: usize, piece: &Piece| {
        let body = postcard::to_allocvec(piece).expect("it can be written");
        let cloud = Arc::clone(&town.clouds[to]);
        async move { cloud.answer(id(who), Method::Database, body.into()).await }
    };
    let right = piece(TENANT.0, database, 0);
    for (who, piece) in
        [(2, &right), (to, &right), (from, &piece(TENANT.0, 999, 0)), (from, &piece(TENANT.0 + 1, database, 0))]
    {
        assert!(ask(who, piece).await.is_err(), "{who} {piece:?}");
    }
    assert!(ask(from, &piece(TENANT.0, database, 7)).await.is_err(), "it begins in the middle");
    ask(from, &right).await.expect("its own box sends it");
    assert!(ask(from, &piece(TENANT.0, database, 99)).await.is_err(), "there is a hole");
}
