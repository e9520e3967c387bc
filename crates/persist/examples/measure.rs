//! Measures what the design asks of this crate, on the disk that holds the temporary directory or `$1`.
//!
//! `cargo run --release -p persist --example measure [DIR]`

#![expect(clippy::print_stdout, reason = "it is what a measurement is for")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{AppId, DatabaseId, Digest, Name, ReleaseNo, TenantId, Timestamp};
use bytes::Bytes;
use persist::{Chunks, Database, Databases, Keeper, Line, Logs, Store, Stream};
use state::{Actor, Command, Entry, Sealed};
use tokio::task::JoinSet;

const DATABASE: Database = Database { tenant: TenantId(1), id: DatabaseId(1) };

fn name(text: &str) -> Name {
    text.parse().expect("written here")
}

fn entry(command: Command) -> Entry {
    Entry { at: Timestamp(1), by: Actor::Box, command }
}

fn rate(what: &str, count: u32, took: Duration) {
    let each = took / count;
    println!("{what:<58} {:>10.0}/s {each:>12.1?} each", f64::from(count) / took.as_secs_f64());
}

fn push(tenant: TenantId, app: &str) -> Command {
    let text = include_str!("../../state/src/manifest/full.toml");
    let manifest = Box::new(state::manifest::parse(text, "full.toml").expect("the state's own example"));
    let (app, stage, content) = (name(app), name("live"), Digest::of(app.as_bytes()));
    Command::ReleaseCreate { tenant, app, stage, content, manifest, source: None }
}

/// `count` pushes by `proposers` at once.
async fn propose(keeper: &Keeper, tenant: TenantId, proposers: u32, count: u32) {
    let start = Instant::now();
    let mut all = JoinSet::new();
    for proposer in 0..proposers {
        let keeper = keeper.clone();
        all.spawn(async move {
            for _ in 0..count / proposers {
                keeper.propose(entry(push(tenant, &format!("app-{proposer}")))).await.expect("the disk has room");
            }
        });
    }
    all.join_all().await;
    rate(&format!("propose, {proposers} at once"), count, start.elapsed());
}

async fn record(dir: &Path) {
    let keeper = Keeper::open(dir).expect("it is new");
    let made = keeper.propose(entry(Command::TenantCreate { name: name("acme"), key: Sealed(String::new()) })).await;
    let tenant = made.expect("the name is new").tenant.expect("it was made");
    propose(&keeper, tenant, 1, 500).await;
    propose(&keeper, tenant, 64, 19_200).await;
    keeper.close();
}

async fn start(dir: &Path) {
    let keeper = Keeper::open(dir).expect("it is new");
    let made = keeper.propose(entry(Command::TenantCreate { name: name("acme"), key: Sealed(String::new()) })).await;
    let tenant = made.expect("the name is new").tenant.expect("it was made");
    let mut all = JoinSet::new();
    for number in 0..64 {
        let keeper = keeper.clone();
        all.spawn(async move {
            for app in (0..1_000).filter(|app| app % 64 == number) {
                for _ in 0..5 {
                    keeper
                        .propose(entry(push(tenant, &format!("of-thousand-{app}"))))
                        .await
                        .expect("the disk has room");
                }
            }
        });
    }
    all.join_all().await;
    let start = Instant::now();
    keeper.close();
    println!("{:<58} {:>12.1?}", "closing it, with a snapshot of 1,000 apps x 5 releases", start.elapsed());
    let size = dir.join("record.sqlite").metadata().expect("it is there").len();
    println!("{:<58} {:>9} KiB", "record.sqlite", size >> 10);
    let start = Instant::now();
    let keeper = Keeper::open(dir).expect("it was closed");
    println!("{:<58} {:>12.1?}", "opening it", start.elapsed());
    assert_eq!(keeper.record().tenant(tenant).map(|tenant| tenant.apps.len()), Some(1_000));
}

async fn put(databases: &Databases, writers: u32, count: u32, spread: u64) {
    let start = Instant::now();
    let mut all = JoinSet::new();
    for writer in 0..writers {
        let databases = databases.clone();
        all.spawn(async move {
            let db = Database { id: DatabaseId(1 + u64::from(writer) % spread), ..DATABASE };
            let (bucket, value) = (name("b"), Bytes::from(vec![7; 100]));
            for number in 0..count / writers {
                let key = format!("{writer}-{number}");
                databases.set(db, &bucket, &key, value.clone()).await.expect("the disk has room");
            }
        });
    }
    all.join_all().await;
    rate(&format!("KV set of 100 bytes, {writers} at once, {spread} databases"), count, start.elapsed());
}

/// Each key once: the file answers.
async fn get_first(databases: &Databases, count: u32) {
    let bucket = name("b");
    let start = Instant::now();
    for number in 0..count {
        let key = format!("{}-{}", 1 + number % 60, number / 60);
        assert!(databases.get(DATABASE, &bucket, &key).await.expect("it is whole").is_some());
    }
    rate("KV get of what nobody read lately, 1 at once", count, start.elapsed());
}

async fn get(databases: &Databases, readers: u32, count: u32) {
    let start = Instant::now();
    let mut all = JoinSet::new();
    for reader in 0..readers {
        let databases = databases.clone();
        all.spawn(async move {
            let bucket = name("b");
            for number in 0..count / readers {
                let key = format!("0-{}", (number * 7 + reader) % 500);
                assert!(databases.get(DATABASE, &bucket, &key).await.expect("it is whole").is_some());
            }
        });
    }
    all.join_all().await;
    rate(&format!("KV get, {readers} at once"), count, start.elapsed());
}

async fn databases(dir: &Path) {
    let databases = Databases::open(dir).expect("it is new");
    put(&databases, 1, 500, 1).await;
    put(&databases, 64, 19_200, 1).await;
    put(&databases, 64, 19_200, 16).await;
    get_first(&databases, 15_000).await;
    get(&databases, 1, 200_000).await;
    get(&databases, 64, 200_000).await;
    // Reads of another key while somebody writes all the time: they must not wait for its syncs.
    let writing = {
        let databases = databases.clone();
        tokio::spawn(async move {
            for number in 0_u64.. {
                databases
                    .set(DATABASE, &name("b"), "w", Bytes::from(number.to_string()))
                    .await
                    .expect("the disk has room");
            }
        })
    };
    let bucket = name("b");
    let mut times = Vec::new();
    for _ in 0..10_000 {
        let start = Instant::now();
        databases.get(DATABASE, &bucket, "0-1").await.expect("it is whole");
        times.push(start.elapsed());
    }
    writing.abort();
    times.sort_unstable();
    println!(
        "{:<58} p50 {:.1?}, p99 {:.1?}, max {:.1?}",
        "KV get while another writes", times[5_000], times[9_900], times[9_999]
    );
    let start = Instant::now();
    databases.close();
    println!("{:<58} {:>12.1?}", "closing 16 databases", start.elapsed());
}

fn chunks(dir: &Path) {
    let chunks = Chunks::open(dir).expect("it is new");
    for (count, bytes) in [(32_u32, 1 << 20), (1_000, 4 << 10)] {
        let all: Vec<Bytes> = (0..count)
            .map(|number| {
                let mut bytes = vec![7_u8; bytes];
                bytes[..4].copy_from_slice(&number.to_le_bytes());
                bytes.into()
            })
            .collect();
        let digests: Vec<Digest> = all.iter().map(|bytes| Digest::of(bytes)).collect();
        let start = Instant::now();
        for (digest, bytes) in digests.iter().zip(&all) {
            chunks.put(TenantId(1), *digest, bytes).expect("the disk has room");
        }
        rate(&format!("chunk put of {} KiB", bytes >> 10), count, start.elapsed());
        let start = Instant::now();
        chunks.settle(TenantId(1), &digests).expect("all were put");
        rate(&format!("chunk settle of {} KiB", bytes >> 10), count, start.elapsed());
        let start = Instant::now();
        for digest in &digests {
            chunks.get(TenantId(1), *digest).expect("it is whole");
        }
        rate(&format!("chunk get of {} KiB, checked", bytes >> 10), count, start.elapsed());
        let start = Instant::now();
        assert!(chunks.missing(TenantId(1), &digests).is_empty());
        rate("chunk missing", count, start.elapsed());
    }
}

fn logs(dir: &Path) {
    let logs = Logs::open(dir).expect("it is new");
    let line = |second| Line {
        at: Timestamp(second * 1_000),
        stage: name("live"),
        release: ReleaseNo(3),
        request: Some("01J0000000".to_owned()),
        stream: Stream::Stdout,
        text: "G'day from an app that says this much in a line, as apps do".to_owned(),
    };
    let count = 100_000_u32;
    let start = Instant::now();
    let mut asking = Duration::ZERO;
    for number in 0..count {
        logs.write(TenantId(1), AppId(1), line(u64::from(number) / 1_000));
        if number % 4_000 == 0 {
            let start = Instant::now();
            logs.tail(TenantId(1), AppId(1), 1, &persist::logs::Filter::default()).expect("the files are ours");
            asking += start.elapsed();
        }
    }
    rate("log write, the caller's side", count, start.elapsed().saturating_sub(asking));
    let start = Instant::now();
    let lines = logs.tail(TenantId(1), AppId(1), 100, &persist::logs::Filter::default()).expect("the files are ours");
    println!("{:<58} {:>12.1?} for {}", "log tail", start.elapsed(), lines.len());
}

/// One thread asks, as one core's loop does.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let root = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let dir = Arc::new(tempfile::tempdir_in(root).expect("a directory that can be written to"));
    let part = |name: &str| {
        let part = dir.path().join(name);
        std::fs::create_dir(&part).expect("the disk has room");
        part
    };
    record(&part("record")).await;
    start(&part("start")).await;
    databases(&part("databases")).await;
    chunks(&part("chunks"));
    logs(&part("logs"));
    let start = Instant::now();
    let store = Store::open(&part("store")).expect("it is new");
    println!("{:<58} {:>12.1?}", "a new store", start.elapsed());
    store.close();
    let start = Instant::now();
    Store::open(&dir.path().join("store")).expect("it was closed").close();
    println!("{:<58} {:>12.1?}", "opening and closing it again", start.elapsed());
}
