use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use base::{Digest, Name, ReleaseNo, Timestamp};
use bytes::Bytes;
use state::{Actor, Command, Entry, Manifest, Sealed};

use super::*;
use crate::{Line, Stream};

fn said(dir: &Path) -> String {
    let root = dir.parent().expect("a test's directory").display().to_string();
    let error = Store::open(dir).err().expect("it must be refused");
    base::chain(&error).replace(&root, "ROOT").replace(&std::process::id().to_string(), "PID")
}

#[test]
fn each_refusal_says_what_and_what_next() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let mut all = String::new();
    let mut say = |text: String| writeln!(all, "{text}").expect("a String");
    let dir = root.path().join("data");
    let store = Store::open(&dir).expect("it is new");
    assert_eq!(store.dir(), dir);
    assert_eq!(dir.metadata().expect("it was made").permissions().mode() & 0o777, 0o700);
    say(said(&dir));
    store.close();
    Store::open(&dir).expect("the lock went with the other").close();

    let file = root.path().join("file");
    std::fs::write(&file, "").expect("the disk has room");
    say(said(&file.join("data")).replace("(os error 20)", "").trim().to_owned());

    std::fs::create_dir_all(dir.join("databases/1")).expect("the disk has room");
    std::fs::remove_file(dir.join("record.sqlite")).expect("it was made");
    say(said(&dir));
    expect_test::expect![[r"
        ROOT/data is in use by another node (process PID): stop that one, or choose another one with --dir
        the data directory ROOT/data can't be made: choose another one with --dir: Not a directory
        ROOT/data has the data of apps, but no record.sqlite that says whose they are: put the record back from a backup, or choose another one with --dir
    "]].assert_eq(&all);
}

#[tokio::test]
async fn a_start_removes_what_the_record_has_forgotten_and_nothing_else() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(root.path()).expect("it is new");
    let name = |text: &str| text.parse::<Name>().expect("a test's name");
    let propose = |command| store.record.propose(Entry { at: Timestamp(1), by: Actor::Box, command });
    let mut tenants = Vec::new();
    for tenant in ["gone", "kept"] {
        let made = propose(Command::TenantCreate { name: name(tenant), key: Sealed(String::new()) }).await;
        let tenant = made.expect("the name is new").tenant.expect("it was made");
        for app in ["one", "two"] {
            let (app, stage, manifest) = (name(app), name("live"), Box::<Manifest>::default());
            let content = Digest::of(b"");
            let release = Command::ReleaseCreate { tenant, app, stage, content, manifest, source: None };
            propose(release).await.expect("the manifest is empty");
        }
        tenants.push(tenant);
    }
    let record = store.record.record();
    let mut databases = Vec::new();
    for tenant in record.tenants() {
        let digest = Digest::of(b"chunk");
        store.chunks.put(tenant.id, digest, &Bytes::from_static(b"chunk")).expect("it is what it is called");
        store.chunks.settle(tenant.id, &[digest]).expect("it was put");
        for app in tenant.apps.values() {
            let db = crate::Database { tenant: tenant.id, id: app.stages[&name("live")].database };
            store.databases.set(db, &name("b"), "k", Bytes::new()).await.expect("there is room");
            databases.push(db);
            let (at, stage, release, stream) = (Timestamp(1), name("live"), ReleaseNo(1), Stream::Stdout);
            let text = "G'day".to_owned();
            store.logs.write(tenant.id, app.id, Line { at, stage, release, request: None, stream, text });
        }
    }
    // Younger than all that the record knows: an older record was put back.
    let younger = crate::Database { tenant: TenantId(900), id: DatabaseId(901) };
    store.databases.set(younger, &name("b"), "k", Bytes::new()).await.expect("there is room");
    propose(Command::TenantDelete { tenant: tenants[0] }).await.expect("it is there");
    propose(Command::AppDelete { tenant: tenants[1], app: name("one") }).await.expect("it is there");
    store.close();

    let store = Store::open(root.path()).expect("it was closed");
    store.drop_unknown().await;
    let mut left = store.databases.all().expect("the directory is ours");
    left.sort_unstable();
    assert_eq!(left, [databases[3], younger]);
    assert_eq!(store.chunks.tenants().expect("the directory is ours"), [tenants[1]]);
    let app = record.app(tenants[1], "two").expect("made above").id;
    assert_eq!(store.logs.all().expect("the directory is ours"), [(tenants[1], app)]);
}
