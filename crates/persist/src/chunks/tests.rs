use proptest::prelude::*;

use super::*;

const ONE: TenantId = TenantId(1);
const TWO: TenantId = TenantId(2);

fn opened() -> (tempfile::TempDir, Chunks) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let chunks = Chunks::open(dir.path()).expect("it is new");
    (dir, chunks)
}

fn put(chunks: &Chunks, tenant: TenantId, bytes: &'static [u8]) -> Digest {
    let digest = Digest::of(bytes);
    chunks.put(tenant, digest, &Bytes::from_static(bytes)).expect("it is what it is called");
    digest
}

/// Makes the file look as if nobody had asked for it for two hours.
fn age(path: &Path) {
    let file = File::open(path).expect("it is there");
    file.set_modified(SystemTime::now() - Duration::from_hours(2)).expect("it is ours");
}

#[test]
fn only_what_is_settled_outlives_the_process() {
    let (dir, chunks) = opened();
    let (kept, lost) = (put(&chunks, ONE, b"kept"), put(&chunks, ONE, b"lost"));
    assert_eq!(chunks.missing(ONE, &[kept, lost]), []);
    assert_eq!(chunks.get(ONE, lost).expect("put is enough to read it"), "lost");
    chunks.settle(ONE, &[kept]).expect("it was put");
    chunks.settle(ONE, &[kept]).expect("settling again is fine");
    drop(chunks);
    // What a killed process was writing.
    std::fs::write(dir.path().join("incoming/1/7.tmp"), "half").expect("the disk has room");
    let chunks = Chunks::open(dir.path()).expect("it was used before");
    assert_eq!(chunks.missing(ONE, &[kept, lost]), [lost]);
    assert_eq!(chunks.get(ONE, kept).expect("it was settled"), "kept");
    assert!(matches!(chunks.settle(ONE, &[kept, lost]), Err(SettleError::Missing(digest)) if digest == lost));
    assert_eq!(std::fs::read_dir(dir.path().join("incoming")).expect("it is there").count(), 0);
}

#[test]
fn many_are_settled_at_once() {
    let (_dir, chunks) = opened();
    let digests: Vec<Digest> = (0..=CHUNKS_SYNCED_SINGLY_MAX)
        .map(|number| {
            let bytes = Bytes::from(number.to_string());
            let digest = Digest::of(&bytes);
            chunks.put(ONE, digest, &bytes).expect("it is what it is called");
            digest
        })
        .collect();
    chunks.settle(ONE, &digests).expect("all were put");
    assert!(digests.iter().all(|digest| chunks.path(ONE, *digest).exists()));
}

#[test]
fn bytes_under_a_wrong_name_are_refused() {
    let (dir, chunks) = opened();
    let digest = Digest::of(b"right");
    let error = chunks.put(ONE, digest, &Bytes::from_static(b"wrong")).expect_err("it is another");
    assert!(matches!(error, PutError::Mismatch { wanted, .. } if wanted == digest));
    let large = Bytes::from(vec![0; CHUNK_BYTES_MAX + 1]);
    let error = chunks.put(ONE, Digest::of(&large), &large).expect_err("it is too large");
    assert!(matches!(error, PutError::TooLarge { .. }));
    assert_eq!(chunks.missing(ONE, &[digest]), [digest]);
    assert!(!dir.path().join("incoming/1").exists(), "nothing is left behind");
}

#[test]
fn what_is_here_is_told_with_its_length_and_what_is_absent_without_a_touch() {
    let (_dir, chunks) = opened();
    let (settled, incoming, nowhere) =
        (put(&chunks, ONE, b"settled"), put(&chunks, ONE, b"in"), Digest::of(b"nowhere"));
    chunks.settle(ONE, &[settled]).expect("it was put");
    let path = chunks.path(ONE, settled);
    let age_of =
        || SystemTime::now().duration_since(path.metadata().and_then(|it| it.modified()).expect("it is there"));
    age(&path);
    let all = [nowhere, settled, incoming];
    assert_eq!(chunks.absent(ONE, all.into_iter()), [nowhere]);
    assert_eq!(chunks.absent(TWO, all.into_iter()), all);
    assert!(age_of().is_ok_and(|age| age > Duration::from_hours(1)));
    assert_eq!(chunks.held(ONE, &all), [None, Some(7), Some(2)]);
    assert_eq!(chunks.held(TWO, &all), [None; 3]);
    assert!(age_of().is_ok_and(|age| age < Duration::from_hours(1)), "a sweep could take what was told to be here");
    // What is damaged is as good as absent.
    std::fs::write(&path, "spoilt!").expect("it is there");
    assert!(chunks.get(ONE, settled).is_err());
    assert_eq!((chunks.absent(ONE, [settled].into_iter()), chunks.held(ONE, &[settled])), (vec![settled], vec![None]));
}

#[test]
fn tenants_never_share_a_chunk() {
    let (_dir, chunks) = opened();
    let digest = put(&chunks, ONE, b"secret");
    chunks.settle(ONE, &[digest]).expect("it was put");
    assert_eq!(chunks.missing(TWO, &[digest]), [digest]);
    assert!(matches!(chunks.get(TWO, digest), Err(GetError::Missing(_))));
    assert!(matches!(chunks.settle(TWO, &[digest]), Err(SettleError::Missing(_))));
    chunks.drop_tenant(TWO).expect("nothing is there");
    chunks.drop_tenant(ONE).expect("one chunk is there");
    assert_eq!(chunks.missing(ONE, &[digest]), [digest]);
}

#[test]
fn a_damaged_chunk_is_told_and_the_next_push_replaces_it() {
    let (_dir, chunks) = opened();
    let digest = put(&chunks, ONE, b"right");
    chunks.settle(ONE, &[digest]).expect("it was put");
    std::fs::write(chunks.path(ONE, digest), b"wrong").expect("the disk has room");
    assert!(matches!(chunks.get(ONE, digest), Err(GetError::Damaged { .. })));
    assert_eq!(chunks.missing(ONE, &[digest]), [digest]);
    assert!(matches!(chunks.settle(ONE, &[digest]), Err(SettleError::Missing(_))));
    put(&chunks, ONE, b"right");
    chunks.settle(ONE, &[digest]).expect("it was put again");
    assert_eq!(chunks.get(ONE, digest).expect("it is whole"), "right");
    assert_eq!(chunks.missing(ONE, &[digest]), []);
}

#[test]
fn a_sweep_spares_what_is_named_and_what_is_young() {
    let (_dir, chunks) = opened();
    let hour = Duration::from_hours(1);
    let named = put(&chunks, ONE, b"named");
    let (old, asked, young) = (put(&chunks, ONE, b"old"), put(&chunks, ONE, b"asked"), put(&chunks, ONE, b"young"));
    let abandoned = put(&chunks, ONE, b"abandoned");
    chunks.settle(ONE, &[named, old, asked]).expect("all were put");
    for digest in [named, old, asked] {
        age(&chunks.path(ONE, digest));
    }
    age(&chunks.incoming(ONE).join(abandoned.hex()));
    assert_eq!(chunks.missing(ONE, &[asked]), []);
    let swept = chunks.sweep(ONE, &HashSet::from([named]), hour).expect("the files are ours");
    assert_eq!(swept, Swept { chunks: 2, bytes: 3 + 9 });
    assert_eq!(chunks.missing(ONE, &[named, old, asked, young, abandoned]), [old, abandoned]);
    assert_eq!(chunks.sweep(TWO, &HashSet::new(), hour).expect("nothing is there"), Swept::default());
}

#[test]
fn a_full_disk_says_so_and_leaves_nothing_behind() {
    // A file system that is full: the kernel has one for every test that wants it.
    let error = File::options().write(true).open("/dev/full").and_then(|mut file| file.write_all(b"x"));
    assert!(disk::is_full(&error.expect_err("it is full")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_put_is_what_is_got(pieces in proptest::collection::vec((1..3_u64, proptest::collection::vec(any::<u8>(), 0..64)), 0..12)) {
        let (dir, chunks) = opened();
        for (tenant, bytes) in &pieces {
            chunks.put(TenantId(*tenant), Digest::of(bytes), &Bytes::copy_from_slice(bytes)).expect("it is what it is called");
        }
        for tenant in [ONE, TWO] {
            let own: Vec<Digest> = pieces.iter().filter(|(owner, _)| *owner == tenant.0).map(|(_, bytes)| Digest::of(bytes)).collect();
            chunks.settle(tenant, &own).expect("all were put");
        }
        drop(chunks);
        let chunks = Chunks::open(dir.path()).expect("it was used before");
        for (owner, bytes) in &pieces {
            for tenant in [ONE, TWO] {
                let holds = pieces.iter().any(|(other, same)| *other == tenant.0 && same == bytes);
                match chunks.get(tenant, Digest::of(bytes)) {
                    Ok(got) => prop_assert!(holds && got == *bytes),
                    Err(error) => prop_assert!(!holds && *owner != tenant.0, "{error}"),
                }
            }
        }
    }
}

#[test]
fn the_last_of_the_disk_is_not_for_chunks() {
    let (dir, chunks) = opened();
    let held = put(&chunks, ONE, b"held");
    chunks.settle(ONE, &[held]).expect("it was put");
    drop(chunks);
    let chunks = Chunks::open_within(dir.path(), Room::but(dir.path(), u64::MAX)).expect("it was used before");
    let one = Bytes::from_static(b"one");
    assert!(matches!(chunks.put(ONE, Digest::of(&one), &one), Err(PutError::NoRoom)));
    put(&chunks, ONE, b"held");
    assert_eq!(chunks.missing(ONE, &[held, Digest::of(&one)]), [Digest::of(&one)]);
    assert_eq!(chunks.sweep(ONE, &HashSet::new(), Duration::ZERO).expect("it is ours").chunks, 1);
}
