use super::*;

fn db(tenant: u64, id: u64) -> Database {
    Database { tenant: TenantId(tenant), id: DatabaseId(id) }
}

fn name(text: &str) -> Name {
    text.parse().expect("a test's name")
}

fn of(bytes: usize) -> Bytes {
    Bytes::from(vec![7; bytes])
}

/// As who asks does it: misses, asks the reader, who answers this, and holds it.
fn read(cache: &Cache, place: Place<'_>, value: Option<&Bytes>) {
    if let Err(miss) = cache.get(place) {
        cache.hold(place, &miss, value);
    }
}

fn bytes(cache: &Cache) -> usize {
    cache.shards.iter().map(|shard| lock(shard).bytes).sum()
}

fn bytes_of(cache: &Cache, tenant: TenantId) -> usize {
    cache.shards.iter().filter_map(|shard| lock(shard).shares.get(&tenant).map(|share| share.bytes)).sum()
}

/// Counts anew what the shards believe to hold.
fn check_counts(cache: &Cache) {
    for shard in &cache.shards {
        let mut shard = lock(shard);
        let mut all = 0;
        while let Some(share) = shard.shares.remove_oldest() {
            let (believed, mut counted, mut held) = (share.bytes, KV_CACHED_ENTRY_BYTES, share.held);
            assert!(!held.is_empty(), "an empty share stays");
            while let Some(held) = held.remove_oldest() {
                counted += held.bytes();
            }
            assert_eq!(counted, believed);
            all += counted;
        }
        assert_eq!(all, shard.bytes);
    }
}

#[test]
fn a_value_is_held_under_all_that_names_it() {
    let cache = Cache::new();
    let (bucket, other) = (name("b"), name("c"));
    let place = cache.place(db(1, 1), &bucket, "k");
    assert_eq!(cache.exists(place), Err(Miss { writes: 0 }));
    read(&cache, place, Some(&of(3)));
    assert_eq!(cache.get(place), Ok(Some(of(3))));
    assert_eq!(cache.exists(place), Ok(true));
    let none = cache.place(db(1, 1), &bucket, "l");
    read(&cache, none, None);
    assert_eq!(cache.get(none), Ok(None));
    assert_eq!(cache.exists(none), Ok(false));
    for elsewhere in [
        cache.place(db(2, 1), &bucket, "k"),
        cache.place(db(1, 2), &bucket, "k"),
        cache.place(db(1, 1), &other, "k"),
        cache.place(db(1, 1), &bucket, ""),
    ] {
        assert!(cache.get(elsewhere).is_err());
        // Even if all of them had one hash.
        assert!(cache.get(Place { hash: place.hash, ..elsewhere }).is_err());
    }
    let mut figures = KvFigures::default();
    cache.add_to(&mut figures);
    assert_eq!((figures.operations[0].1, figures.operations[1].1), (2, 2), "only what it answered");
    check_counts(&cache);
}

#[test]
fn what_was_read_before_a_write_ended_is_not_held() {
    let cache = Cache::new();
    let bucket = name("b");
    let place = cache.place(db(1, 1), &bucket, "k");
    let operation = Operation::Set(vec![("k".to_owned(), of(1)), ("k".to_owned(), of(1))]);
    let write = || cache.writing(db(1, 1), [(&bucket, &operation)].into_iter());

    let before = cache.get(place).expect_err("nothing was read");
    read(&cache, place, Some(&of(3)));
    let (first, second) = (write(), write());
    let meanwhile = cache.get(place).expect_err("it is let go when a write begins, not when it has ended");
    cache.hold(place, &meanwhile, Some(&of(3)));
    assert!(cache.get(place).is_err(), "it may be either value");
    drop(first);
    let between = cache.get(place).expect_err("nothing is held while it is written");
    cache.hold(place, &between, Some(&of(3)));
    assert!(cache.get(place).is_err(), "another goes on");
    drop(second);
    for outdated in [before, meanwhile, between] {
        cache.hold(place, &outdated, Some(&of(3)));
        assert!(cache.get(place).is_err(), "its reader may have begun before the commit");
    }
    let after = cache.get(place).expect_err("nothing is held");
    cache.hold(place, &after, Some(&of(4)));
    assert_eq!(cache.get(place), Ok(Some(of(4))));
    assert!(lock(&cache.shards[index(place.hash, KV_CACHE_SHARDS)]).stripes.iter().all(|stripe| stripe.going_on == 0));
    check_counts(&cache);
}

#[test]
fn each_kind_of_write_lets_go_of_its_keys_alone() {
    let cache = Cache::new();
    let bucket = name("b");
    let other = cache.place(db(1, 1), &bucket, "other");
    read(&cache, other, None);
    for operation in [
        Operation::Set(vec![("l".to_owned(), of(1)), ("k".to_owned(), of(1))]),
        Operation::Delete(vec!["l".to_owned(), "k".to_owned()]),
        Operation::Increment("k".to_owned(), 1),
        Operation::Swap { key: "k".to_owned(), expected: None, value: of(1) },
    ] {
        let place = cache.place(db(1, 1), &bucket, "k");
        read(&cache, place, Some(&of(3)));
        drop(cache.writing(db(1, 1), [(&bucket, &operation)].into_iter()));
        assert!(cache.get(place).is_err(), "{operation:?}");
        assert_eq!(cache.get(other), Ok(None), "{operation:?}");
    }
}

#[test]
fn a_database_is_forgotten_distrusted_or_all_are_closed() {
    let cache = Cache::new();
    let bucket = name("b");
    let keys: Vec<String> = (0..1_000).map(|key| key.to_string()).collect();
    let all = |db| keys.iter().map(|key| cache.place(db, &bucket, key)).collect::<Vec<_>>();
    let (own, twin, foreign) = (all(db(1, 1)), all(db(1, 2)), all(db(2, 1)));
    let fill = || [&own, &twin, &foreign].into_iter().flatten().for_each(|place| read(&cache, *place, None));
    let held = |places: &[Place<'_>]| places.iter().filter(|place| cache.get(**place).is_ok()).count();
    fill();
    let misses: Vec<Miss> = own.iter().map(|place| lock(&cache.shards[index(place.hash, 64)]).miss(*place)).collect();
    cache.forget(db(1, 1));
    assert_eq!((held(&own), held(&twin), held(&foreign)), (0, 1_000, 1_000));
    own.iter().zip(&misses).for_each(|(place, miss)| cache.hold(*place, miss, None));
    assert_eq!(held(&own), 0, "what a reader brings from before is not held");
    fill();
    assert_eq!(held(&own), 1_000);
    cache.distrust(db(1, 1));
    fill();
    assert_eq!((held(&own), held(&twin), held(&foreign)), (0, 1_000, 1_000));
    for number in 0..DATABASES_DISTRUSTED_MAX as u64 {
        cache.distrust(db(3, number));
    }
    fill();
    assert_eq!((held(&own), held(&twin), held(&foreign)), (0, 0, 0), "the disk is failing");
    assert_eq!(bytes(&cache), 0);
    check_counts(&cache);
}

#[test]
fn memory_is_bounded_and_a_tenant_who_reads_without_end_pushes_out_its_own() {
    let cache = Cache::new();
    let bucket = name("b");
    let flood = |tenant, size: usize| {
        for number in 0..4 * KV_CACHE_BYTES_PER_TENANT_MAX / (size + KV_CACHED_ENTRY_BYTES) {
            let key = number.to_string();
            read(&cache, cache.place(db(tenant, number as u64 % 7), &bucket, &key), Some(&of(size)));
        }
    };
    read(&cache, cache.place(db(100, 1), &bucket, "quiet"), Some(&of(10)));
    for size in [KV_CACHED_VALUE_BYTES_MAX, 4_000, 100] {
        flood(1, size);
        let held = bytes_of(&cache, TenantId(1));
        assert!(held <= KV_CACHE_BYTES_PER_TENANT_MAX, "{held} bytes of a tenant");
        assert!(held > KV_CACHE_BYTES_PER_TENANT_MAX / 10 * 9, "{held} bytes are too few");
    }
    let quiet = cache.place(db(100, 1), &bucket, "quiet");
    assert_eq!(cache.get(quiet), Ok(Some(of(10))), "one tenant doesn't push out another");
    for tenant in 2..=6 {
        flood(tenant, 1_000);
        assert!(cache.get(quiet).is_ok(), "who goes on asking isn't the one who asked the longest time ago");
    }
    let held = bytes(&cache);
    assert!(held <= KV_CACHE_BYTES_MAX && held > KV_CACHE_BYTES_MAX / 10 * 9, "{held} bytes");
    assert!(bytes_of(&cache, TenantId(1)) < KV_CACHE_BYTES_PER_TENANT_MAX / 10, "who asked longest ago made room");
    let large = cache.place(db(100, 1), &bucket, "large");
    read(&cache, large, Some(&of(KV_CACHED_VALUE_BYTES_MAX + 1)));
    assert!(cache.get(large).is_err());
    check_counts(&cache);
}

#[test]
fn what_holding_a_value_takes_is_counted() {
    // A place in the list: the entry and two links. And a pointer and a byte in a table that is half full.
    let place = size_of::<(u64, Held)>() + 2 * size_of::<usize>();
    let table = 2 * (size_of::<usize>() + 1) + 2;
    // The name's counts and text; the allocator's words of key, value and name's block; who has the value.
    let beside = 2 * size_of::<usize>() + base::limits::NAME_BYTES_MAX + 3 * 2 * size_of::<usize>() + 32;
    assert!(2 * (place + table) + beside <= KV_CACHED_ENTRY_BYTES, "{place} {table} {beside}");
    let share = size_of::<(TenantId, Share)>() + 2 * size_of::<usize>() + table;
    // Its list has a place that is no entry's.
    assert!(2 * share + place <= KV_CACHED_ENTRY_BYTES, "{share}");
}
