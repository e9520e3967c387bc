use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base::limits::COMPILES_WAITING_PER_TENANT_MAX;
use futures_util::future::join_all;
use sandbox::Compiler;
use serde_json::json;

use super::*;
use crate::tier::Method;
use crate::tier::town::{TENANT, Town, eventually, name, release, town_with};

/// Where a box's compiler tells that it was started: the compile process may be nobody, who may write nowhere else.
fn started(dir: &Path) -> PathBuf {
    dir.join("open/started")
}

/// A compiler that takes everything for the same component, tells that it was started, and waits to be let on by whoever
/// opens the pipe beside that.
fn compiler(dir: &Path) -> Compiler {
    let open = dir.join("open");
    fs::create_dir(&open).expect("a folder");
    fs::set_permissions(dir, Permissions::from_mode(0o711)).expect("it is ours");
    fs::set_permissions(&open, Permissions::from_mode(0o777)).expect("it is ours");
    let (started, pipe) = (started(dir), open.join("pipe"));
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
    fs::set_permissions(&pipe, Permissions::from_mode(0o666)).expect("it is ours");
    let found = json!({ "Ok": { "imports": [], "flavour": "http02", "contents": [], "bytes": 4 } });
    let script = format!(
        "/bin/cat >/dev/null; echo started >>{}; read go <{}; echo '{found}'; printf code",
        started.display(),
        pipe.display()
    );
    Compiler { program: "/bin/sh".into(), args: vec!["-c".into(), script.into()] }
}

fn starts(town: &Town, number: usize) -> usize {
    fs::read_to_string(started(town.dirs[number].path())).map_or(0, |text| text.lines().count())
}

/// Lets the next one on, once it waits for it.
async fn let_on(town: &Town, number: usize) {
    let pipe = town.dirs[number].path().join("open/pipe");
    let open = tokio::task::spawn_blocking(move || fs::write(pipe, "go\n"));
    open.await.expect("it doesn't panic").expect("it reads");
}

/// A release of one component, laid from the first box: its index and its component.
async fn laid(town: &Town, code: &str) -> (Digest, Digest) {
    let wasm = town.upload(0, format!("\0asm{code}").as_bytes());
    let size = 4 + code.len();
    let file = json!({ "digest": wasm, "size": size, "chunks": [{ "digest": wasm, "size": size }] });
    let index = json!({ "statics": {}, "components": { "api": file } }).to_string();
    let index = town.upload(0, index.as_bytes());
    town.clouds[0].chunks.lay(TENANT, vec![wasm, index]).await.expect("laid");
    (index, wasm)
}

async fn boxes() -> Town {
    let town = town_with(&["persistence", "web"], &compiler).await;
    for cloud in &town.clouds {
        tokio::spawn(ahead(Arc::clone(cloud)));
    }
    town
}

#[tokio::test]
async fn what_the_record_brings_is_compiled_before_anybody_asks() {
    let town = boxes().await;
    let (index, wasm) = laid(&town, "code").await;
    let web = &town.clouds[1];
    assert!(!web.sandbox.is_compiled(TENANT, wasm));
    town.release(index).await;
    let_on(&town, 1).await;
    eventually("the component is compiled", || web.sandbox.is_compiled(TENANT, wasm)).await;
    assert_eq!(web.store.chunks.missing(TENANT, &[index, wasm]), []);
    // And nothing more, nor by a box that runs no apps.
    town.propose(release(Digest::of(b"of which there is no index"))).await;
    town.propose(release(index)).await;
    eventually("its index was asked for", || town.asked(0, Method::Chunk) >= 3).await;
    compiled(web, TENANT, index, wasm).await.expect("it is");
    assert_eq!((starts(&town, 0), starts(&town, 1)), (0, 1));
}

#[tokio::test]
async fn the_newest_comes_first_and_one_at_a_time() {
    let town = boxes().await;
    let releases = [laid(&town, "a").await, laid(&town, "b").await, laid(&town, "c").await];
    for (app, (index, _)) in ["one", "two", "three"].iter().zip(&releases) {
        let state::Command::ReleaseCreate { tenant, stage, content, manifest, source, .. } = release(*index) else {
            unreachable!("it is one")
        };
        town.propose(state::Command::ReleaseCreate { tenant, app: name(app), stage, content, manifest, source }).await;
        // The first one is under way before the others come.
        eventually("one is under way", || starts(&town, 1) == 1).await;
    }
    let is_ready = |number: usize| town.clouds[1].sandbox.is_compiled(TENANT, releases[number].1);
    for (number, ready) in [0, 2, 1].into_iter().zip(1..) {
        let_on(&town, 1).await;
        eventually("it is ready", || is_ready(number)).await;
        assert_eq!((0..3).filter(|number| is_ready(*number)).count(), ready);
    }
}

/// Before they waited for one another, those beyond the compiler's few places were refused.
#[tokio::test]
async fn all_who_want_a_component_wait_for_the_same_compilation() {
    let town = boxes().await;
    let (index, wasm) = laid(&town, "code").await;
    town.release(index).await;
    eventually("it is under way", || starts(&town, 1) == 1).await;
    let web = &town.clouds[1];
    let visitors = (0..3 * COMPILES_WAITING_PER_TENANT_MAX).map(|_| compiled(web, TENANT, index, wasm));
    let (ended, ()) = tokio::join!(join_all(visitors), let_on(&town, 1));
    for ready in ended {
        ready.expect("it is");
    }
    assert_eq!(starts(&town, 1), 1);
}

#[test]
fn the_oldest_are_left_to_their_visitors() {
    let mut waiting = Waiting::default();
    let app = |number: usize| name(&format!("app-{number}"));
    for number in 0..AHEAD_APPS_WAITING_MAX + 7 {
        waiting.add(TENANT, &app(number));
        waiting.add(TENANT, &app(8));
    }
    assert_eq!(waiting.apps.len(), AHEAD_APPS_WAITING_MAX);
    assert_eq!(waiting.apps.front(), Some(&(TENANT, app(8))));
    assert_eq!(waiting.apps.iter().filter(|(_, held)| *held == app(8)).count(), 1);
    assert!(!waiting.apps.contains(&(TENANT, app(0))));
}
