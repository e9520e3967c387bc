//! What a release is made of, as a core keeps it: the parsed index of recent releases, and small recent files.

mod lent;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use base::limits::{INDEXES_CACHED_PER_CORE_MAX, STATIC_CACHE_BYTES_PER_CORE, STATIC_CACHED_FILE_BYTES_MAX};
use base::{Digest, Name, TenantId};
use bytes::Bytes;
use hashlink::LruCache;
use persist::Chunks;
use persist::chunks::GetError;

use self::lent::Lent;

/// The files and components of one release.
pub(crate) struct Assets {
    pub statics: HashMap<Name, HashMap<String, api::File>>,
    pub components: BTreeMap<Name, Digest>,
}

/// Why a release's content can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssetsError {
    #[error("a chunk of the release can't be read")]
    Chunk(#[source] GetError),
    #[error("the release's index can't be read")]
    Index(#[source] serde_json::Error),
    #[error("the reading thread is gone")]
    Gone,
    /// Visitors who take what they asked for slowly have all of it.
    #[error("there is no room to read a large file")]
    NoRoom,
}

/// One core's caches.
pub(crate) struct Cache {
    indexes: RefCell<LruCache<(TenantId, Digest), Rc<Assets>>>,
    files: RefCell<Files>,
    lent: Lent,
}

struct Files {
    held: LruCache<(TenantId, Digest), Bytes>,
    bytes: usize,
}

impl Cache {
    pub(crate) fn new() -> Self {
        let files = Files { held: LruCache::new_unbounded(), bytes: 0 };
        Self {
            indexes: RefCell::new(LruCache::new(INDEXES_CACHED_PER_CORE_MAX)),
            files: RefCell::new(files),
            lent: Lent::new(),
        }
    }

    /// The release's index, read and parsed where it isn't held.
    pub(crate) async fn assets(
        &self,
        chunks: &Chunks,
        tenant: TenantId,
        content: Digest,
    ) -> Result<Rc<Assets>, AssetsError> {
        if let Some(assets) = self.indexes.borrow_mut().get(&(tenant, content)) {
            return Ok(Rc::clone(assets));
        }
        let bytes = read(chunks, tenant, content).await?;
        let index: api::Index = serde_json::from_slice(&bytes).map_err(AssetsError::Index)?;
        let assets = Rc::new(Assets {
            statics: index.statics.into_iter().map(|(name, files)| (name, files.into_iter().collect())).collect(),
            components: index.components.into_iter().map(|(name, file)| (name, file.digest)).collect(),
        });
        self.indexes.borrow_mut().insert((tenant, content), Rc::clone(&assets));
        Ok(assets)
    }

    /// The bytes of a chunk, from memory where they are held there.
    pub(crate) async fn chunk(&self, chunks: &Chunks, tenant: TenantId, digest: Digest) -> Result<Bytes, AssetsError> {
        if let Some(bytes) = self.files.borrow_mut().held.get(&(tenant, digest)) {
            return Ok(bytes.clone());
        }
        let bytes = self.lent.chunk((tenant, digest), read(chunks, tenant, digest)).await?;
        if bytes.len() <= STATIC_CACHED_FILE_BYTES_MAX {
            self.files.borrow_mut().hold((tenant, digest), bytes.clone());
        }
        Ok(bytes)
    }
}

impl Files {
    fn hold(&mut self, key: (TenantId, Digest), bytes: Bytes) {
        self.bytes += bytes.len();
        if let Some(before) = self.held.insert(key, bytes) {
            self.bytes -= before.len();
        }
        while self.bytes > STATIC_CACHE_BYTES_PER_CORE {
            let Some((_, gone)) = self.held.remove_lru() else { break };
            self.bytes -= gone.len();
        }
    }
}

async fn read(chunks: &Chunks, tenant: TenantId, digest: Digest) -> Result<Bytes, AssetsError> {
    let chunks = chunks.clone();
    let read = tokio::task::spawn_blocking(move || chunks.get(tenant, digest)).await;
    read.map_err(|_| AssetsError::Gone)?.map_err(AssetsError::Chunk)
}

/// A component's wasm, put together from its chunks. For compilation only.
pub(crate) async fn whole(chunks: &Chunks, tenant: TenantId, file: &api::File) -> Result<Arc<[u8]>, AssetsError> {
    let mut bytes = Vec::with_capacity(usize::try_from(file.size).unwrap_or(0));
    for chunk in &file.chunks {
        bytes.extend_from_slice(&read(chunks, tenant, chunk.digest).await?);
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_share_a_bounded_memory() {
        let mut files = Files { held: LruCache::new_unbounded(), bytes: 0 };
        let one = Bytes::from(vec![0; STATIC_CACHED_FILE_BYTES_MAX]);
        for number in 0..1_000_u64 {
            files.hold((TenantId(1), Digest::of(&number.to_be_bytes())), one.clone());
        }
        assert!(files.bytes <= STATIC_CACHE_BYTES_PER_CORE);
        assert_eq!(files.bytes, files.held.len() * STATIC_CACHED_FILE_BYTES_MAX);
    }
}
