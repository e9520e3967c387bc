//! What a sandbox needs around it: a folder, a log, a store, a runtime.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{DatabaseId, Digest, TenantId};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use sandbox::{
    Answer, Body, BodyError, Bucket, Cell, CompileError, Compiled, Compiler, Fault, KeyPage, KeyValue, KeyValueError,
    Log, Options, Outbound, Permit, Program, Sandbox, Stream, Swap, Visit,
};
use tempfile::TempDir;

pub(crate) const TENANT: TenantId = TenantId(7);

/// A sandbox in a folder of its own, and what was written to the log.
pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) folder: TempDir,
    pub(crate) log: Arc<Lines>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::compiled_by("compile")
    }

    pub(crate) fn compiled_by(arg: &str) -> Self {
        Self::of(arg, 16 << 30)
    }

    /// Where all instances together have so many bytes.
    pub(crate) fn with_memory(memory: u64) -> Self {
        Self::of("compile", memory)
    }

    fn of(arg: &str, memory: u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = Options {
            artifacts: folder.path().join("artifacts"),
            compiler: Compiler {
                program: std::env::current_exe().expect("this program has a path"),
                args: vec![arg.into()],
            },
            private_hosts: vec![],
            memory,
            process_memory: u64::MAX,
        };
        Self { sandbox: Sandbox::new(options).expect("the sandbox starts"), folder, log: Arc::default() }
    }

    pub(crate) async fn compile(&self, wasm: &[u8]) -> Result<Compiled, CompileError> {
        self.sandbox.compile(TENANT, wasm).await
    }

    pub(crate) async fn program(&self, wasm: &[u8]) -> Arc<Program> {
        let component = self.compile(wasm).await.expect("it compiles").component;
        self.load(component)
    }

    pub(crate) fn load(&self, component: Digest) -> Arc<Program> {
        self.sandbox.load(TENANT, component).expect("it loads")
    }

    pub(crate) fn cell(&self) -> Cell {
        Cell {
            tenant: TENANT,
            database: DatabaseId(1),
            kv: Arc::default(),
            env: Arc::default(),
            config: Arc::default(),
            outbound: Arc::new(Outbound::default()),
            memory: 1 << 20,
            share: Arc::default(),
            cpu: Duration::from_secs(10),
            timeout: Duration::from_secs(20),
            log: Arc::clone(&self.log) as Arc<dyn Log>,
            store: Arc::new(NoStore),
            reuse: None,
        }
    }

    pub(crate) async fn ask(&self, program: &Arc<Program>, cell: Cell) -> Result<Response<Body>, Fault> {
        self.ask_with(program, cell, None).await
    }

    /// Asks, and has the permit held for as long as the instance is at it.
    pub(crate) async fn ask_with(
        &self,
        program: &Arc<Program>,
        cell: Cell,
        permit: Option<Permit>,
    ) -> Result<Response<Body>, Fault> {
        self.sandbox.handle(program, &Arc::new(cell), visit(permit), get(), tokio::spawn).await
    }

    /// Everything below the artifacts' folder.
    pub(crate) fn files(&self) -> BTreeSet<PathBuf> {
        fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) {
            for entry in std::fs::read_dir(folder).expect("the folder is there") {
                let path = entry.expect("it can be listed").path();
                if path.is_dir() {
                    walk(&path, found);
                } else {
                    found.insert(path);
                }
            }
        }
        let mut found = BTreeSet::new();
        walk(self.folder.path(), &mut found);
        found
    }
}

pub(crate) fn ends_in(path: &Path, end: &str) -> bool {
    path.extension().is_some_and(|extension| extension == end)
}

pub(crate) fn visit(permit: Option<Permit>) -> Visit {
    Visit { request: "request-1".into(), core: 0, permit }
}

pub(crate) fn get() -> Request<Body> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    Request::builder().uri("/").header("host", "app.example").body(body).expect("a request")
}

pub(crate) async fn text(response: Response<Body>) -> Result<String, BodyError> {
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(bytes.into()).expect("it is text"))
}

/// A core's runtime: one thread.
pub(crate) fn on_a_core<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(Duration::from_mins(1), work).await.expect("it ends") })
}

/// Waits until whatever holds the permit is gone.
pub(crate) fn permit() -> (Permit, impl Future<Output = ()>) {
    let (held, gone) = tokio::sync::oneshot::channel::<()>();
    (Box::new(held), async { drop(gone.await) })
}

#[derive(Default)]
pub(crate) struct Lines(Mutex<Vec<String>>);

impl Lines {
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no test panics while it logs"))
    }
}

impl Log for Lines {
    fn line(&self, request: &str, stream: Stream, text: &str) {
        let line = format!("{request} {stream:?}: {text}");
        self.0.lock().expect("no test panics while it logs").push(line);
    }
}

/// Refuses everything: the guests here keep nothing.
struct NoStore;

fn broken<T>() -> Answer<'static, T> {
    Box::pin(async { Err(KeyValueError::Broken("there is no store".to_owned())) })
}

impl KeyValue for NoStore {
    fn get<'a>(&'a self, _: &'a Bucket, _: String) -> Answer<'a, Option<Bytes>> {
        broken()
    }
    fn set<'a>(&'a self, _: &'a Bucket, _: String, _: Bytes) -> Answer<'a, ()> {
        broken()
    }
    fn delete<'a>(&'a self, _: &'a Bucket, _: String) -> Answer<'a, ()> {
        broken()
    }
    fn exists<'a>(&'a self, _: &'a Bucket, _: String) -> Answer<'a, bool> {
        broken()
    }
    fn list_keys<'a>(&'a self, _: &'a Bucket, _: Option<String>) -> Answer<'a, KeyPage> {
        broken()
    }
    fn increment<'a>(&'a self, _: &'a Bucket, _: String, _: i64) -> Answer<'a, i64> {
        broken()
    }
    fn swap<'a>(&'a self, _: &'a Bucket, _: String, _: Option<Bytes>, _: Bytes) -> Answer<'a, Swap> {
        broken()
    }
    fn get_many<'a>(&'a self, _: &'a Bucket, _: Vec<String>) -> Answer<'a, Vec<Option<Bytes>>> {
        broken()
    }
    fn set_many<'a>(&'a self, _: &'a Bucket, _: Vec<(String, Bytes)>) -> Answer<'a, ()> {
        broken()
    }
    fn delete_many<'a>(&'a self, _: &'a Bucket, _: Vec<String>) -> Answer<'a, ()> {
        broken()
    }
}
