//! Content-addressed chunks: the bytes of releases, a directory for each tenant.
//!
//! ```text
//!   chunks/TENANT/DIGEST      settled: durable, named by its content
//!   incoming/TENANT/DIGEST    put, and not yet known to be on the disk
//! ```
//!
//! A put costs no `fsync`: [`Chunks::settle`] makes all that a release names durable at once, before the release
//! is proposed. After a loss of power a file that was never synced may hold anything, so what wasn't settled is
//! thrown away at the next start, and the push that brought it asks again what is missing.
//!
//! Tenants never share a file. Two who push the same library store it twice: whether a chunk is here already
//! must not tell one tenant what another one has.
//!
//! Every function blocks: call it from `spawn_blocking`.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base::limits::{CHUNK_BYTES_MAX, CHUNKS_DAMAGED_MAX, CHUNKS_SYNCED_SINGLY_MAX};
use base::{Digest, TenantId};
use bytes::Bytes;

use crate::disk::{self, Room};

/// Why the chunks can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("the chunks' directory {path} can't be made or cleaned: check that it belongs to the user who runs the node")]
pub struct OpenError {
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// Why a chunk wasn't taken. Nothing of it is kept.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    #[error("a chunk has at the most {max} bytes, and this one has {bytes}")]
    TooLarge { bytes: usize, max: usize },
    #[error("the bytes sent as chunk {wanted} are chunk {got}: send them again")]
    Mismatch { wanted: Digest, got: Digest },
    #[error("the disk is full: {path} can't be written")]
    Full {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the disk is full but for what is kept for the record")]
    NoRoom,
    #[error("{path} can't be written")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Why chunks aren't known to be durable.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    #[error("chunk {0} is not here: upload it")]
    Missing(Digest),
    #[error("the disk is full: {path} can't be made durable")]
    Full {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} can't be made durable")]
    Sync {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Why a chunk can't be had.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    #[error("chunk {0} is not here")]
    Missing(Digest),
    /// The disk gave back other bytes than it got.
    #[error("{path} is damaged: push the release again, and check the disk")]
    Damaged { path: PathBuf },
    #[error("{path} can't be read")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Why chunks can't be removed. What was removed before stays so.
#[derive(Debug, thiserror::Error)]
#[error("{path} can't be removed")]
pub struct SweepError {
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub chunks: u64,
    pub bytes: u64,
}

/// The chunks of all tenants. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Chunks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settled: PathBuf,
    incoming: PathBuf,
    /// Held while a chunk is looked at and then touched or removed: a sweep never removes one that somebody was
    /// just told is here. In it, the settled chunks that were found damaged: they count as missing, so that the
    /// next push replaces them.
    damaged: Mutex<HashSet<(TenantId, Digest)>>,
    /// Tells files apart that are being written.
    writing: AtomicU64,
    room: Room,
}

impl Chunks {
    /// Opens `dir/chunks`, and throws away what was put and never settled.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        Self::open_within(dir, Room::on(dir))
    }

    fn open_within(dir: &Path, room: Room) -> Result<Self, OpenError> {
        let (settled, incoming) = (dir.join("chunks"), dir.join("incoming"));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError { path, source }
        };
        disk::or_gone(fs::remove_dir_all(&incoming)).map_err(failed(&incoming))?;
        for path in [&settled, &incoming] {
            disk::create_dir(path).map_err(failed(path))?;
        }
        disk::sync_dir(dir).map_err(failed(dir))?;
        let (damaged, writing) = (Mutex::default(), AtomicU64::new(0));
        Ok(Self { inner: Arc::new(Inner { settled, incoming, damaged, writing, room }) })
    }

    /// Those that must be put. The others are safe from a sweep for its age from now on.
    pub fn missing(&self, tenant: TenantId, digests: &[Digest]) -> Vec<Digest> {
        digests.iter().copied().filter(|digest| !self.touch(tenant, *digest)).collect()
    }

    /// The bytes of each that is here, in the order that was asked. They are safe from a sweep likewise.
    pub fn held(&self, tenant: TenantId, digests: &[Digest]) -> Vec<Option<u64>> {
        let bytes = |file: File| Some(file.metadata().ok()?.len());
        digests.iter().map(|digest| self.touched(tenant, *digest).and_then(bytes)).collect()
    }

    /// Those that aren't here, or are damaged. Looks, and touches nothing.
    pub fn absent(&self, tenant: TenantId, digests: impl Iterator<Item = Digest>) -> Vec<Digest> {
        let damaged = self.damaged().clone();
        let (settled, incoming) = (self.inner.settled.join(tenant.to_string()), self.incoming(tenant));
        let here = |digest: &Digest| {
            let settled = !damaged.contains(&(tenant, *digest)) && settled.join(digest.hex()).exists();
            settled || incoming.join(digest.hex()).exists()
        };
        digests.filter(|digest| !here(digest)).collect()
    }

    /// Takes a chunk, after checking that it is the one it is called.
    pub fn put(&self, tenant: TenantId, digest: Digest, bytes: &Bytes) -> Result<(), PutError> {
        if bytes.len() > CHUNK_BYTES_MAX {
            return Err(PutError::TooLarge { bytes: bytes.len(), max: CHUNK_BYTES_MAX });
        }
        let got = Digest::of(bytes);
        if got != digest {
            return Err(PutError::Mismatch { wanted: digest, got });
        }
        if self.touch(tenant, digest) {
            return Ok(());
        }
        if self.inner.room.is_gone() {
            return Err(PutError::NoRoom);
        }
        let dir = self.incoming(tenant);
        // A number that nobody else writes to, so that two pushes of one chunk don't meet.
        let unfinished = dir.join(format!("{}.tmp", self.inner.writing.fetch_add(1, Ordering::Relaxed)));
        let path = dir.join(digest.hex());
        let write = || {
            disk::create_dir(&dir)?;
            disk::create_file(&unfinished)?.write_all(bytes)?;
            fs::rename(&unfinished, &path)
        };
        write().map_err(|source| {
            // What is left of it frees the room that was missing.
            let _ = fs::remove_file(&unfinished);
            if disk::is_full(&source) { PutError::Full { path, source } } else { PutError::Write { path, source } }
        })
    }

    /// Makes all of these durable. When it returns, a release may name them.
    pub fn settle(&self, tenant: TenantId, digests: &[Digest]) -> Result<(), SettleError> {
        let (settled, incoming) = (self.inner.settled.join(tenant.to_string()), self.incoming(tenant));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| {
                if disk::is_full(&source) {
                    SettleError::Full { path, source }
                } else {
                    SettleError::Sync { path, source }
                }
            }
        };
        if let Some(missing) = digests.iter().find(|digest| !self.touch(tenant, **digest)) {
            return Err(SettleError::Missing(*missing));
        }
        let new: Vec<PathBuf> =
            digests.iter().map(|digest| incoming.join(digest.hex())).filter(|path| path.exists()).collect();
        // First the bytes, then the name: a name among the settled never stands for bytes that a loss of power took.
        if new.len() > CHUNKS_SYNCED_SINGLY_MAX {
            File::open(&incoming).and_then(|dir| Ok(rustix::fs::syncfs(dir)?)).map_err(failed(&incoming))?;
        } else {
            for path in &new {
                // Another push that settles the same chunk may have moved it, and synced it before that.
                disk::or_gone(File::open(path).and_then(|file| file.sync_all())).map_err(failed(path))?;
            }
        }
        disk::create_dir(&settled).map_err(failed(&settled))?;
        for path in &new {
            let place = settled.join(path.file_name().expect("it was joined above"));
            disk::or_gone(fs::rename(path, &place)).map_err(failed(&place))?;
        }
        self.damaged().retain(|(owner, digest)| *owner != tenant || !new.contains(&incoming.join(digest.hex())));
        // Also when nothing is new: the other push may have renamed, and not yet synced.
        disk::sync_dir(&settled).map_err(failed(&settled))?;
        disk::sync_dir(&self.inner.settled).map_err(failed(&self.inner.settled))?;
        match digests.iter().find(|digest| !settled.join(digest.hex()).exists()) {
            Some(missing) => Err(SettleError::Missing(*missing)),
            None => Ok(()),
        }
    }

    /// The bytes, checked against their digest.
    ///
    /// Reading and hashing a chunk of 1 MiB took 1 ms on two busy cores. What is read whole is compiled, cached or
    /// parsed: there a wrong byte lives on, and the hash costs little beside what follows.
    pub fn get(&self, tenant: TenantId, digest: Digest) -> Result<Bytes, GetError> {
        let file = self.file(tenant, digest)?;
        let path = || self.path(tenant, digest);
        // Not more than a chunk may have, whatever the file has become.
        let mut bytes = Vec::new();
        file.take(CHUNK_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| GetError::Read { path: path(), source })?;
        if Digest::of(&bytes) == digest {
            return Ok(bytes.into());
        }
        let mut damaged = self.damaged();
        if damaged.len() < CHUNKS_DAMAGED_MAX {
            damaged.insert((tenant, digest));
        }
        Err(GetError::Damaged { path: path() })
    }

    /// The file, for those who read a range of it. Not checked: a hash would have to read it all.
    pub fn file(&self, tenant: TenantId, digest: Digest) -> Result<File, GetError> {
        let settled = self.path(tenant, digest);
        let incoming = self.incoming(tenant).join(digest.hex());
        // Settled again at the end: it may have moved there between the two looks.
        for path in [&settled, &incoming, &settled] {
            match File::open(path) {
                Ok(file) => return Ok(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(GetError::Read { path: path.clone(), source }),
            }
        }
        Err(GetError::Missing(digest))
    }

    /// Removes the tenant's chunks that are not in `keep` and that nobody put, settled or asked for in `older_than`.
    ///
    /// `keep` must come from the record as it is now; `older_than` spares what a push in progress brought.
    pub fn sweep(&self, tenant: TenantId, keep: &HashSet<Digest>, older_than: Duration) -> Result<Swept, SweepError> {
        let mut swept = Swept::default();
        let now = SystemTime::now();
        for dir in [&self.inner.settled, &self.inner.incoming] {
            let dir = dir.join(tenant.to_string());
            let failed = |source| SweepError { path: dir.clone(), source };
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            for entry in entries {
                let entry = entry.map_err(failed)?;
                let named: Option<Digest> = entry.file_name().to_str().and_then(|name| name.parse().ok());
                if named.is_some_and(|digest| keep.contains(&digest)) {
                    continue;
                }
                let _guard = self.damaged();
                // Gone by now: settled, or swept by another.
                let Ok(meta) = entry.metadata() else { continue };
                let age = meta.modified().ok().and_then(|time| now.duration_since(time).ok()).unwrap_or_default();
                if age < older_than {
                    continue;
                }
                let path = entry.path();
                disk::or_gone(fs::remove_file(&path)).map_err(|source| SweepError { path, source })?;
                swept.chunks += 1;
                swept.bytes += meta.len();
            }
        }
        Ok(swept)
    }

    /// Removes all that the tenant has.
    pub fn drop_tenant(&self, tenant: TenantId) -> Result<(), SweepError> {
        for dir in [&self.inner.incoming, &self.inner.settled] {
            let path = dir.join(tenant.to_string());
            disk::or_gone(fs::remove_dir_all(&path)).map_err(|source| SweepError { path, source })?;
        }
        Ok(())
    }

    /// The tenants that have chunks here.
    pub(crate) fn tenants(&self) -> io::Result<Vec<TenantId>> {
        Ok(disk::numbered(&self.inner.settled, "")?.into_iter().map(TenantId).collect())
    }

    /// Where a settled chunk lies.
    pub fn path(&self, tenant: TenantId, digest: Digest) -> PathBuf {
        self.inner.settled.join(tenant.to_string()).join(digest.hex())
    }

    fn incoming(&self, tenant: TenantId) -> PathBuf {
        self.inner.incoming.join(tenant.to_string())
    }

    fn damaged(&self) -> MutexGuard<'_, HashSet<(TenantId, Digest)>> {
        self.inner.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is it here? If so it counts as new from now on.
    fn touch(&self, tenant: TenantId, digest: Digest) -> bool {
        self.touched(tenant, digest).is_some()
    }

    fn touched(&self, tenant: TenantId, digest: Digest) -> Option<File> {
        let damaged = self.damaged();
        let file = if damaged.contains(&(tenant, digest)) {
            File::open(self.incoming(tenant).join(digest.hex())).ok()
        } else {
            self.file(tenant, digest).ok()
        };
        // A chunk that can't be touched is here all the same; a sweep may then come early, and settling tells.
        file.inspect(|file| drop(file.set_modified(SystemTime::now())))
    }
}

#[cfg(test)]
mod tests;
