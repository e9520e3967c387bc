//! The folder of compiled components.
//!
//! An artifact is native code that the node maps and runs, so whoever can write here owns the node. The folder
//! is the node's own (0700), nothing but the compile process's answer is ever put here, and the node hashes
//! that answer as it arrives. The hash is kept beside the artifact and compared before the artifact is mapped:
//! a disk that forgets must not become code that runs. It doesn't protect from one who may write to the
//! folder, for he may write the hash as well. Nor does it prove that the code is harmless: that rests on the
//! compiler, which is why the compile process is confined but its answer is believed.
//!
//! `<tenant>/<component>-<engine>.cwasm` is the code, `….json` beside it is what is known of it and is written
//! last: without it there is no artifact. Both appear whole (temporary file, fsync, rename) or not at all.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use base::limits::ARTIFACT_BYTES_MAX;
use base::{Digest, TenantId};
use serde::{Deserialize, Serialize};
use wasmtime::component::Component;

use crate::compile::{Compiled, Flavour};
use crate::engine::Engines;
use crate::memory::{ContentAt, Contents};

/// The components whose artifacts are still wanted, by tenant. `None` leaves all of a tenant's alone; a tenant that
/// isn't named has none.
pub type Keep = HashMap<TenantId, Option<HashSet<Digest>>>;

pub(crate) struct Artifacts {
    folder: PathBuf,
    /// The engine's fingerprint.
    engine: String,
    /// Numbers temporary files.
    temporary: AtomicU64,
}

/// What lies beside an artifact.
#[derive(Serialize, Deserialize)]
struct Label {
    compiled: Compiled,
    /// What the memories hold at first, behind the code.
    contents: Vec<ContentAt>,
    artifact: Digest,
    bytes: u64,
}

pub(crate) enum ReadError {
    Missing,
    Damaged,
    Io(io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound { Self::Missing } else { Self::Io(error) }
    }
}

impl Artifacts {
    /// Makes the folder, and removes what an earlier start left unfinished.
    pub(crate) fn open(folder: PathBuf, engine: String) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "tmp") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { folder, engine, temporary: AtomicU64::new(0) })
    }

    fn path(&self, tenant: TenantId, component: Digest, end: &str) -> PathBuf {
        self.folder.join(tenant.to_string()).join(format!("{component}-{}.{end}", self.engine))
    }

    /// What is known of an artifact that is here.
    pub(crate) fn find(&self, tenant: TenantId, component: Digest) -> io::Result<Option<Compiled>> {
        match self.label(tenant, component) {
            Ok(label) => Ok(Some(label.compiled)),
            Err(ReadError::Missing | ReadError::Damaged) => Ok(None),
            Err(ReadError::Io(error)) => Err(error),
        }
    }

    fn label(&self, tenant: TenantId, component: Digest) -> Result<Label, ReadError> {
        let text = fs::read(self.path(tenant, component, "json"))?;
        let label: Label = serde_json::from_slice(&text).map_err(|_| ReadError::Damaged)?;
        let length = fs::metadata(self.path(tenant, component, "cwasm"))?.len();
        if label.compiled.component == component && label.bytes == length { Ok(label) } else { Err(ReadError::Damaged) }
    }

    /// A file for an artifact that is being compiled.
    pub(crate) fn begin(&self) -> io::Result<Unfinished> {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{}-{number}.tmp", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Unfinished { file, path, hash: Box::default(), bytes: 0 })
    }

    /// Puts a finished artifact and its label into place, durably.
    pub(crate) fn put(
        &self,
        tenant: TenantId,
        compiled: &Compiled,
        contents: &[ContentAt],
        unfinished: &Unfinished,
    ) -> io::Result<()> {
        let component = compiled.component;
        let folder = self.folder.join(tenant.to_string());
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        unfinished.file.sync_all()?;
        fs::rename(&unfinished.path, self.path(tenant, component, "cwasm"))?;
        let artifact = digest_with(unfinished.hash.clone(), contents)?;
        let contents = contents.to_vec();
        let label = Label { compiled: compiled.clone(), contents, artifact, bytes: unfinished.bytes };
        let mut beside = self.begin()?;
        beside.write_all(&serde_json::to_vec(&label)?)?;
        beside.file.sync_all()?;
        fs::rename(&beside.path, self.path(tenant, component, "json"))?;
        File::open(&folder)?.sync_all()?;
        File::open(&self.folder)?.sync_all()
    }

    pub(crate) fn remove(&self, tenant: TenantId, component: Digest) -> io::Result<()> {
        for end in ["json", "cwasm"] {
            match fs::remove_file(self.path(tenant, component, end)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes what `keep` doesn't hold and what another engine compiled, once it is older than a push lasts.
    /// Gives the components whose artifacts went.
    pub(crate) fn sweep(&self, keep: &Keep, older_than: Duration) -> io::Result<Vec<(TenantId, Digest)>> {
        let mut gone = Vec::new();
        let now = SystemTime::now();
        for folder in fs::read_dir(&self.folder)? {
            let folder = folder?;
            let Some(tenant) = folder.file_name().to_str().and_then(|name| name.parse().ok()).map(TenantId) else {
                continue;
            };
            if keep.get(&tenant) == Some(&None) {
                continue;
            }
            for entry in fs::read_dir(folder.path())? {
                let entry = entry?;
                let name = entry.file_name();
                let Some((component, engine)) = name.to_str().and_then(parts) else { continue };
                let kept = keep.get(&tenant).and_then(Option::as_ref).is_some_and(|kept| kept.contains(&component));
                let age = entry.metadata()?.modified().ok().and_then(|time| now.duration_since(time).ok());
                if (kept && engine == self.engine) || age.is_none_or(|age| age < older_than) {
                    continue;
                }
                fs::remove_file(entry.path())?;
                if !kept {
                    gone.push((tenant, component));
                }
            }
        }
        Ok(gone)
    }

    /// Checks an artifact and maps it.
    #[expect(unsafe_code, reason = "an artifact is native code; the comment inside says why it may be believed")]
    pub(crate) fn map(
        &self,
        engines: &Engines,
        tenant: TenantId,
        component: Digest,
    ) -> Result<(Component, Flavour, Contents), ReadError> {
        let path = self.path(tenant, component, "cwasm");
        let mapped = self.label(tenant, component).and_then(|label| {
            if digest_of(&path, &label.contents)? != label.artifact {
                return Err(ReadError::Damaged);
            }
            let flavour = label.compiled.flavour;
            let engine = engines.of(flavour);
            // SAFETY: the file holds what the compile process, our own binary, answered: wasmtime's
            // serialization of a component, hashed on its way here and unchanged since, as was just checked.
            // Files in this folder are never written to after their rename, only unlinked, and no one but this
            // user may write to them, so the mapping stays as it is while it's used. The name holds the
            // engines' fingerprint, and wasmtime compares the engine itself once more.
            let component = unsafe { Component::deserialize_file(engine, &path) }.map_err(|_| ReadError::Damaged)?;
            // They were checked with the code, and stay as they are with it.
            let contents = Contents::of(File::open(&path)?, &label.contents).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => ReadError::Damaged,
                _ => ReadError::Io(error),
            })?;
            Ok((component, flavour, contents))
        });
        if matches!(mapped, Err(ReadError::Damaged)) {
            self.remove(tenant, component)?;
        }
        mapped
    }
}

/// `<component>-<engine>.cwasm` or `.json`.
fn parts(name: &str) -> Option<(Digest, &str)> {
    let (component, rest) = name.split_once('-')?;
    Some((component.parse().ok()?, rest.split_once('.')?.0))
}

/// Of an artifact, and of where the contents lie in it.
fn digest_with(mut hash: Box<blake3::Hasher>, contents: &[ContentAt]) -> io::Result<Digest> {
    hash.update(&serde_json::to_vec(contents)?);
    Ok(hash.finalize().into())
}

fn digest_of(path: &Path, contents: &[ContentAt]) -> io::Result<Digest> {
    let mut hash = Box::<blake3::Hasher>::default();
    let mut file = File::open(path)?;
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return digest_with(hash, contents),
            read => hash.update(&piece[..read]),
        };
    }
}

/// An artifact that is being written; its file goes away with it unless it was put into place.
pub(crate) struct Unfinished {
    file: File,
    path: PathBuf,
    hash: Box<blake3::Hasher>,
    bytes: u64,
}

impl Unfinished {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Write for Unfinished {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes + bytes.len() as u64 > ARTIFACT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Renamed, it isn't there any more; else a failure leaves a file that the next start removes.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod sweep_tests {
    use super::*;

    fn lay(artifacts: &Artifacts, tenant: TenantId, component: Digest) {
        let mut unfinished = artifacts.begin().expect("a file");
        unfinished.write_all(b"code").expect("room for four bytes");
        let compiled = Compiled { component, imports: Vec::new(), flavour: Flavour::Http02 };
        artifacts.put(tenant, &compiled, &[], &unfinished).expect("it is put into place");
    }

    #[test]
    fn only_what_nobody_wants_is_swept() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let open = |engine: &str| Artifacts::open(dir.path().to_owned(), engine.to_owned()).expect("it opens");
        let (artifacts, older) = (open("new"), open("old"));
        let (wanted, unwanted) = (Digest::of(b"wanted"), Digest::of(b"unwanted"));
        let [named, alone, deleted] = [1, 2, 3].map(TenantId);
        for tenant in [named, alone, deleted] {
            lay(&artifacts, tenant, wanted);
            lay(&artifacts, tenant, unwanted);
        }
        lay(&older, named, wanted);
        let keep = Keep::from([(named, Some(HashSet::from([wanted]))), (alone, None)]);
        assert!(artifacts.sweep(&keep, Duration::from_hours(1)).expect("it can be read").is_empty(), "all is young");
        artifacts.sweep(&keep, Duration::ZERO).expect("it can be read");
        let has = |artifacts: &Artifacts, tenant, component| {
            artifacts.find(tenant, component).expect("it can be read").is_some()
        };
        assert!(has(&artifacts, named, wanted) && !has(&artifacts, named, unwanted));
        assert!(has(&artifacts, alone, wanted) && has(&artifacts, alone, unwanted));
        assert!(!has(&artifacts, deleted, wanted) && !has(&older, named, wanted));
    }
}
