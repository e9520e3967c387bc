//! Pushes a project: builds it, cuts its files into chunks, sends those that the cloud lacks, and asks for the
//! release.
//!
//! Until the last request nothing has changed in the cloud, wherever a push ends before it: chunks that no
//! release names are swept. Every limit is checked before the first byte goes up.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use api::{ChunksAsked, ChunksMissing, Client, ClientError, Deployed, Done, Encoding, Index, Push};
use base::limits::{
    CHUNK_BYTES_MAX, CLIENT_ANSWER_TIME_MAX, COMPONENT_BYTES_MAX, LABEL_TEXT_BYTES_MAX, MISSING_DIGESTS_MAX,
    PUSH_ANSWER_TIME_MAX, RELEASE_BYTES_MAX, UPLOADS_AT_ONCE,
};
use base::{Bytes, Digest, Name};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::assets::{self, AssetsError, Tally};
use crate::build::{self, BuildError, Grants, Kind, Tools};
use crate::chunk::{self, ChunkError};
use crate::encode;
use crate::project::Project;

/// What a push is about.
#[derive(Clone, Debug)]
pub struct Order {
    pub project: Project,
    pub tenant: Name,
    pub app: Name,
    /// `live` when absent.
    pub stage: Option<Name>,
    pub tools: Tools,
}

/// How far a push is. Sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// What a build says.
    Building(&'a str),
    Hashing {
        done: u64,
        total: u64,
    },
    /// Of what is worth it and wasn't encoded before.
    Encoding {
        done: u64,
        total: u64,
    },
    /// Of what the cloud lacks.
    Uploading {
        done: u64,
        total: u64,
    },
    /// From here on the outcome is the cloud's to say.
    Releasing,
}

/// Who is told. Builds tell from a thread of their own.
pub type Told = Arc<dyn Fn(Step<'_>) + Send + Sync>;

/// Why nothing was deployed; after [`PushError::Release`] alone that may be unknown.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("component `{name}`: there is no `{}`\n  help: correct its `source` in firm.toml", path.display())]
    NoSource { name: Name, path: PathBuf },
    #[error(
        "component `{name}`: `{}` holds nothing that can be built\n  help: its `source` needs a package.json, Cargo.toml \
         or pyproject.toml, or is a .wasm file", path.display()
    )]
    Unknown { name: Name, path: PathBuf },
    #[error("component `{name}` couldn't be built")]
    Build { name: Name, source: BuildError },
    #[error(
        "component `{name}` has {size} bytes; a component has {} at the most\n  help: leave out dependencies or data that it can do without",
        Bytes(COMPONENT_BYTES_MAX)
    )]
    ComponentSize { name: Name, size: u64 },
    #[error(transparent)]
    Assets(#[from] AssetsError),
    #[error("`{}` can't be pushed", path.display())]
    File { path: PathBuf, source: ChunkError },
    #[error(
        "the list of the release's files has {size} bytes, more than {}\n  help: publish fewer files, or give them shorter paths",
        Bytes(CHUNK_BYTES_MAX as u64)
    )]
    IndexSize { size: usize },
    #[error("an encoded file can't be kept in `{}`", path.display())]
    Encoded { path: PathBuf, source: io::Error },
    #[error("a thread of the push ended early")]
    Thread(#[source] tokio::task::JoinError),
    #[error("the cloud couldn't be asked what it lacks")]
    Missing(#[source] ClientError),
    #[error("a chunk of `{}` couldn't be uploaded", path.display())]
    Upload { path: PathBuf, source: ClientError },
    #[error("the cloud didn't answer within {} s; nothing was deployed\n  help: try again: what was uploaded needn't be again", .0.as_secs())]
    Late(std::time::Duration),
    #[error("the release was not made")]
    Release(#[source] ClientError),
    #[error(
        "the cloud didn't answer within {} s; whether the release was made is unknown\n  help: look with: firm releases", .0.as_secs()
    )]
    ReleaseLate(std::time::Duration),
}

impl PushError {
    /// What the cloud said, where it was the cloud that said it.
    #[must_use]
    pub fn client(&self) -> Option<&ClientError> {
        match self {
            Self::Missing(error) | Self::Upload { source: error, .. } | Self::Release(error) => Some(error),
            _ => None,
        }
    }

    /// May there be a release all the same?
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Release(error) => !matches!(error, ClientError::Refused(..)),
            Self::ReleaseLate(_) => true,
            _ => false,
        }
    }
}

/// Where a chunk lies on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    digest: Digest,
    path: Arc<Path>,
    offset: u64,
    size: u64,
}

/// What a release will be made of.
struct Prepared {
    index: Index,
    /// By digest, so that what several files share goes up once.
    pieces: BTreeMap<Digest, Piece>,
    source: Option<String>,
    /// What is likely not meant.
    warnings: Vec<String>,
    /// Holds encoded files where the project has no place for them.
    _encoded: encode::Shelf,
}

/// Builds, uploads and releases. To be dropped at any moment: until [`Step::Releasing`] nothing is deployed.
pub async fn push(client: &Client, order: Order, told: Told) -> Result<Deployed, PushError> {
    let (tenant, app, stage) = (order.tenant.clone(), order.app.clone(), order.stage.clone());
    let mut manifest = order.project.manifest.clone();
    manifest.app = Some(app.clone());
    let telling = Arc::clone(&told);
    let prepared =
        tokio::task::spawn_blocking(move || prepare(&order, &*telling)).await.map_err(PushError::Thread)??;
    upload(client, &tenant, &prepared.pieces, &told).await?;
    told(Step::Releasing);
    let path = format!("/v1/tenants/{tenant}/apps/{app}/releases");
    let push = Push { stage, manifest, index: prepared.index, source: prepared.source };
    let mut deployed: Deployed =
        tokio::time::timeout(PUSH_ANSWER_TIME_MAX, client.send(http::Method::POST, &path, &push))
            .await
            .map_err(|_| PushError::ReleaseLate(PUSH_ANSWER_TIME_MAX))?
            .map_err(PushError::Release)?;
    deployed.warnings.extend(prepared.warnings);
    Ok(deployed)
}

fn prepare(order: &Order, told: &dyn Fn(Step<'_>)) -> Result<Prepared, PushError> {
    let (root, manifest) = (&order.project.root, &order.project.manifest);
    let mut tally = Tally::default();
    let mut components = Vec::new();
    for (name, part) in &manifest.components {
        let path = built(order, name, &root.join(&part.source), told)?;
        let size = std::fs::metadata(&path)
            .map_err(|source| PushError::File { path: path.clone(), source: ChunkError::Read(source) })?
            .len();
        if size > COMPONENT_BYTES_MAX {
            return Err(PushError::ComponentSize { name: name.clone(), size });
        }
        tally.count(&path, size)?;
        components.push((name, path, size));
    }
    let mut statics = Vec::new();
    for (name, folder) in &manifest.statics {
        statics.push((name, assets::list(root, &folder.dir, &mut tally)?));
    }
    let mut cutting = Cutting { done: 0, total: tally.bytes(), pieces: BTreeMap::new(), told };
    let mut index = Index::default();
    for (name, path, size) in components {
        index.components.insert(name.clone(), cutting.cut(&path, size)?);
    }
    for (name, assets) in &statics {
        let mut files = BTreeMap::new();
        for asset in assets {
            files.insert(asset.path.clone(), cutting.cut(&asset.file, asset.size)?);
        }
        index.statics.insert((*name).clone(), files);
    }
    // Both in order of their names.
    let folders = statics.iter().zip(index.statics.values_mut()).map(|((_, assets), files)| (&**assets, files));
    let encoded = encode::encode(root, folders.collect(), told)?;
    cutting.pieces.extend(encoded.pieces);
    fit(&mut index)?;
    let named: HashSet<Digest> = index.chunks().map(|chunk| chunk.digest).collect();
    cutting.pieces.retain(|digest, _| named.contains(digest));
    let source = revision(root);
    Ok(Prepared { index, pieces: cutting.pieces, source, warnings: encoded.warnings, _encoded: encoded.shelf })
}

/// Leaves out encodings, the least useful first, until the release is within its limits.
fn fit(index: &mut Index) -> Result<(), PushError> {
    let mut least_useful = [Encoding::Gzip, Encoding::Zstd, Encoding::Br].into_iter();
    loop {
        let size = serde_json::to_vec(index).map_or(0, |text| text.len());
        let bytes: u64 = index.chunks().map(|chunk| chunk.size).sum();
        if size <= CHUNK_BYTES_MAX && bytes <= RELEASE_BYTES_MAX {
            return Ok(());
        }
        // Without encodings its bytes were counted before.
        let Some(encoding) = least_useful.next() else { return Err(PushError::IndexSize { size }) };
        for file in index.statics.values_mut().flat_map(BTreeMap::values_mut) {
            file.encodings.remove(&encoding);
        }
    }
}

/// The path of a component, built where it isn't yet.
fn built(order: &Order, name: &Name, source: &Path, told: &dyn Fn(Step<'_>)) -> Result<PathBuf, PushError> {
    let bindings = &order.project.manifest.bindings;
    let grants = Grants { kv: !bindings.kv.is_empty(), config: !bindings.secrets.is_empty() };
    if !source.exists() {
        return Err(PushError::NoSource { name: name.clone(), path: source.to_owned() });
    }
    let kind = build::detect(source)
        .filter(|kind| *kind != Kind::Static)
        .ok_or_else(|| PushError::Unknown { name: name.clone(), path: source.to_owned() })?;
    build::component(source, kind, &grants, &order.tools, &mut |line| told(Step::Building(line)))
        .map_err(|source| PushError::Build { name: name.clone(), source })
}

/// Files on their way to chunks.
struct Cutting<'a> {
    done: u64,
    total: u64,
    pieces: BTreeMap<Digest, Piece>,
    told: &'a dyn Fn(Step<'_>),
}

impl Cutting<'_> {
    fn cut(&mut self, path: &Path, size: u64) -> Result<api::File, PushError> {
        let file = chunk::cut(path, size, &mut |more| {
            self.done += more;
            (self.told)(Step::Hashing { done: self.done, total: self.total });
        })
        .map_err(|source| PushError::File { path: path.to_owned(), source })?;
        self.pieces.extend(pieces(path, &file.chunks));
        Ok(file)
    }
}

/// Where the chunks of the file at `path` lie.
pub(crate) fn pieces(path: &Path, chunks: &[api::Chunk]) -> Vec<(Digest, Piece)> {
    let path: Arc<Path> = path.into();
    let mut next = 0;
    let piece = |api::Chunk { digest, size }: &api::Chunk| {
        let offset = next;
        next += size;
        (*digest, Piece { digest: *digest, path: Arc::clone(&path), offset, size: *size })
    };
    chunks.iter().map(piece).collect()
}

/// Sends what the tenant's store lacks.
async fn upload(
    client: &Client,
    tenant: &Name,
    pieces: &BTreeMap<Digest, Piece>,
    told: &Told,
) -> Result<(), PushError> {
    let digests: Vec<Digest> = pieces.keys().copied().collect();
    let mut missing: Vec<&Piece> = Vec::new();
    for page in digests.chunks(MISSING_DIGESTS_MAX) {
        let path = format!("/v1/tenants/{tenant}/chunks/missing");
        let asked = ChunksAsked { chunks: page.to_vec() };
        let answer: ChunksMissing =
            in_time(client.send(http::Method::POST, &path, &asked)).await?.map_err(PushError::Missing)?;
        missing.extend(answer.missing.iter().filter_map(|digest| pieces.get(digest)));
    }
    let total: u64 = missing.iter().map(|piece| piece.size).sum();
    let mut done = 0;
    if total > 0 {
        told(Step::Uploading { done, total });
    }
    let mut sent = stream::iter(missing).map(|piece| send(client, tenant, piece)).buffer_unordered(UPLOADS_AT_ONCE);
    while let Some(size) = sent.try_next().await? {
        done += size;
        told(Step::Uploading { done, total });
    }
    Ok(())
}

async fn send(client: &Client, tenant: &Name, piece: &Piece) -> Result<u64, PushError> {
    let reading = piece.clone();
    let bytes =
        tokio::task::spawn_blocking(move || chunk::read(&reading.path, reading.offset, reading.size, &reading.digest))
            .await
            .map_err(PushError::Thread)?
            .map_err(|source| PushError::File { path: piece.path.to_path_buf(), source })?;
    let path = format!("/v1/tenants/{tenant}/chunks/{}", piece.digest);
    let _: Done = in_time(client.put_bytes(&path, bytes))
        .await?
        .map_err(|source| PushError::Upload { path: piece.path.to_path_buf(), source })?;
    Ok(piece.size)
}

async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, PushError> {
    tokio::time::timeout(CLIENT_ANSWER_TIME_MAX, answer).await.map_err(|_| PushError::Late(CLIENT_ANSWER_TIME_MAX))
}

/// The git revision of what is pushed, with `+changes` where the folder differs from it. Quietly none where
/// there is no git, or no repository.
fn revision(root: &Path) -> Option<String> {
    let head = git(root, &["rev-parse", "--short", "HEAD"]).ok()??;
    let changes = git(root, &["status", "--porcelain", "--", "."]).ok()??;
    let revision = if changes.is_empty() { head } else { format!("{head}+changes") };
    Some(revision).filter(|text| !text.is_empty() && text.len() <= LABEL_TEXT_BYTES_MAX)
}

/// What git says; none where it fails.
fn git(root: &Path, arguments: &[&str]) -> io::Result<Option<String>> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(arguments)
        // Reading must not get in the way of a git that writes.
        .env("GIT_OPTIONAL_LOCKS", "0")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    let text = output.status.success().then(|| String::from_utf8(output.stdout).ok()).flatten();
    Ok(text.map(|text| text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Mutex;

    use super::*;

    fn order(root: &Path) -> Order {
        Order {
            project: Project::find(root).expect("the test made one"),
            tenant: "acme".parse().expect("a name"),
            app: "shop".parse().expect("a name"),
            stage: None,
            tools: Tools { cache: root.join(".firm/tools") },
        }
    }

    #[test]
    fn files_that_are_alike_go_up_once() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        for (name, text) in [("index.html", "same"), ("copy.html", "same"), ("empty.txt", "")] {
            fs::write(folder.path().join(name), text).expect("a file for the test");
        }
        let steps = Mutex::new(Vec::new());
        let prepared = prepare(&order(folder.path()), &|step| {
            if let Step::Hashing { done, total } = step {
                steps.lock().expect("no test panics with it").push((done, total));
            }
        })
        .expect("nothing is wrong with it");
        assert_eq!(prepared.index.files().count(), 3);
        assert_eq!(prepared.pieces.len(), 1);
        assert_eq!(steps.into_inner().expect("no test panics with it"), [(4, 8), (8, 8)]);
    }

    #[test]
    fn a_component_without_source_is_named() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let write = |text: &str| fs::write(folder.path().join("firm.toml"), text).expect("a file for the test");
        write("[components.api]\nsource = \"api\"\n");
        assert!(matches!(prepare(&order(folder.path()), &|_| {}), Err(PushError::NoSource { .. })));
        fs::create_dir(folder.path().join("api")).expect("a folder for the test");
        assert!(matches!(prepare(&order(folder.path()), &|_| {}), Err(PushError::Unknown { .. })));
    }

    #[test]
    fn a_folder_without_git_has_no_revision() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        assert_eq!(revision(folder.path()), None);
    }

    #[test]
    fn a_changed_work_tree_says_so() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let root = folder.path();
        let run = |arguments: &[&str]| git(root, arguments).ok().flatten();
        // Where git is missing there is nothing to test.
        if run(&["init", "-q"]).is_none() {
            return;
        }
        fs::write(root.join("index.html"), "1").expect("a file for the test");
        run(&["add", "."]).expect("git adds");
        let who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"];
        run(&[&who[..], &["commit", "-qm", "First"]].concat()).expect("git commits");
        let clean = revision(root).expect("there is a commit");
        fs::write(root.join("index.html"), "2").expect("a file for the test");
        assert_eq!(revision(root), Some(format!("{clean}+changes")));
    }
}
