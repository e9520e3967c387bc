//! openraft's own tests of a storage, on ours; and a disk that fills up.

use std::path::Path;
use std::sync::atomic::Ordering;

use openraft::StorageError;
use openraft::storage::RaftLogStorage as _;
use openraft::testing::log::{StoreBuilder, Suite};

use super::super::file::Opened;
use super::super::log::Log;
use super::super::machine::{Machine, Outward};
use super::super::types::{Types, Vote};
use super::super::writer::{Health, Writer};
use super::*;

fn storage(dir: &Path) -> (Log, Machine) {
    let opened = RecordFile::open(dir, Owner::Joiner { lone: LONE }).expect("it is new");
    let decided = opened.decided(None);
    let Opened { file, state, log, vote, purged, .. } = opened;
    let (writer, _) = Writer::start(file).expect("a thread");
    let out = Outward::new(Arc::default(), broadcast::channel(1).0);
    let machine = Machine::new(state, Arc::new(out), writer.clone());
    (Log::new(log, purged, vote, decided, writer), machine)
}

struct Builder;

impl StoreBuilder<Types, Log, Machine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, Log, Machine), StorageError<Types>> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (log, machine) = storage(dir.path());
        Ok((dir, log, machine))
    }
}

#[tokio::test]
async fn what_openraft_asks_of_a_storage_is_kept() {
    Suite::test_all(Builder).await.expect("ours is one");
}

#[tokio::test]
async fn a_full_disk_is_waited_for_and_nothing_is_lost() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut log, _machine) = storage(dir.path());
    let mut health = log.writer().health();
    log.writer().pages.store(1, Ordering::Relaxed);
    let mut other = log.clone();
    let voting = tokio::spawn(async move {
        // More than the free part of the file's last page takes.
        for term in 1..200 {
            other.save_vote(&Vote::new(term, LONE)).await.expect("it waits for room");
            let rows = (0..20).map(|number| Row { id: log_id(term, term * 20 + number), text: "x".repeat(4_000) });
            other.writer().make(Change::Append(rows.collect())).await.expect("it waits for room");
            if term == 3 {
                return;
            }
        }
    });
    health.wait_for(|health| matches!(health, Health::Full)).await.expect("it is writing");
    log.writer().pages.store(100_000, Ordering::Relaxed);
    voting.await.expect("there is room now");
    assert!(matches!(*health.borrow_and_update(), Health::Well));
    log.save_vote(&Vote::new(4, LONE)).await.expect("there is room");
}

#[tokio::test]
async fn a_full_disk_is_not_waited_for_at_the_end() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (log, _machine) = storage(dir.path());
    log.writer().pages.store(1, Ordering::Relaxed);
    log.writer().hurry();
    let rows = vec![Row { id: log_id(1, 1), text: "x".repeat(1_000_000) }];
    let error = log.writer().make(Change::Append(rows)).await.expect_err("there is no room");
    assert!(error.to_string().contains("the disk is full"), "{error}");
}
