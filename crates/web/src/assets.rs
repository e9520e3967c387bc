//! What a release is made of, as a core keeps it: the parsed index of recent releases, and small recent files.

mod lent;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use api::{Chunk, Encoding};
use base::limits::{
    INDEX_BYTES_CACHED_PER_CORE_MAX, INDEXES_CACHED_PER_CORE_MAX, INDEXES_READ_AT_ONCE_PER_CORE,
    STATIC_CACHE_BYTES_PER_CORE, STATIC_CACHED_FILE_BYTES_MAX,
};
use base::{Digest, Name, TenantId};
use bytes::Bytes;
use hashlink::LruCache;
use http::HeaderValue;
use tokio::sync::Semaphore;

use crate::files;
use crate::tier::{ChunkError, Chunks};

use self::lent::Lent;

/// The files and components of one release.
pub(crate) struct Assets {
    pub statics: BTreeMap<Name, Files>,
    pub components: BTreeMap<Name, Digest>,
}

/// The files of a static folder, by their path below it.
pub(crate) type Files = HashMap<Box<str>, Prepared>;

/// A file, with what its answers say of it.
pub(crate) struct Prepared {
    pub content_type: HeaderValue,
    pub plain: Representation,
    /// Smallest first.
    pub encoded: Box<[(Encoding, Representation)]>,
}

/// A file in one encoding, or in none.
pub(crate) struct Representation {
    pub etag: HeaderValue,
    pub size: u64,
    pub chunks: Box<[Chunk]>,
}

impl Prepared {
    fn of(file: api::File, content_type: HeaderValue) -> Self {
        let representation = |digest: Digest, size, chunks: Vec<Chunk>| {
            let etag = HeaderValue::try_from(format!("\"{}\"", &digest.hex()[..32])).expect("hexadecimal digits");
            Representation { etag, size, chunks: chunks.into() }
        };
        let encoded = file
            .encodings
            .iter()
            .map(|(encoding, encoded)| (*encoding, representation(encoded.digest, encoded.size, encoded.pieces())));
        let mut encoded: Vec<_> = encoded.collect();
        encoded.sort_by_key(|(_, encoded)| encoded.size);
        Self { content_type, plain: representation(file.digest, file.size, file.chunks), encoded: encoded.into() }
    }
}

impl Assets {
    fn of(index: api::Index) -> Self {
        // A folder has many files of few types, which share their text.
        let mut types: HashMap<String, HeaderValue> = HashMap::new();
        let mut prepared = |path: String, file| {
            let named = files::content_type(&path);
            let fallback = HeaderValue::from_static("application/octet-stream");
            let named = types.entry(named).or_insert_with_key(|named| HeaderValue::try_from(named).unwrap_or(fallback));
            (path.into_boxed_str(), Prepared::of(file, named.clone()))
        };
        let mut folder = |files: BTreeMap<String, api::File>| -> Files {
            files.into_iter().map(|(path, file)| prepared(path, file)).collect()
        };
        Self {
            statics: index.statics.into_iter().map(|(name, files)| (name, folder(files))).collect(),
            components: index.components.into_iter().map(|(name, file)| (name, file.digest)).collect(),
        }
    }
}

/// Why a release's content can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssetsError {
    #[error("a chunk of the release can't be had")]
    Chunk(#[source] ChunkError),
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
    indexes: RefCell<Bounded<Rc<Assets>>>,
    files: RefCell<Bounded<Bytes>>,
    lent: Lent,
    /// To read an index.
    turns: Semaphore,
}

/// What was used last, of so many bytes together.
struct Bounded<T> {
    /// With the bytes of each.
    held: LruCache<(TenantId, Digest), (T, usize)>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self {
            indexes: RefCell::new(Bounded::new(INDEX_BYTES_CACHED_PER_CORE_MAX)),
            files: RefCell::new(Bounded::new(STATIC_CACHE_BYTES_PER_CORE)),
            lent: Lent::new(),
            turns: Semaphore::new(INDEXES_READ_AT_ONCE_PER_CORE),
        }
    }

    /// The release's index, where it is held.
    pub(crate) fn held(&self, tenant: TenantId, content: Digest) -> Option<Rc<Assets>> {
        self.indexes.borrow_mut().get(&(tenant, content))
    }

    /// The release's index, read and parsed where it isn't held.
    pub(crate) async fn assets(
        &self,
        chunks: &Chunks,
        tenant: TenantId,
        content: Digest,
    ) -> Result<Rc<Assets>, AssetsError> {
        if let Some(assets) = self.held(tenant, content) {
            return Ok(assets);
        }
        // Who asks for the same meanwhile finds it afterwards; many at once would each hold a copy.
        let _turn = self.turns.acquire().await.map_err(|_| AssetsError::Gone)?;
        if let Some(assets) = self.held(tenant, content) {
            return Ok(assets);
        }
        let bytes = chunks.get(tenant, content).await.map_err(AssetsError::Chunk)?;
        // Up to 4 MiB of JSON: away from the core, where others would wait for it.
        let read = tokio::task::spawn_blocking(move || {
            let index: api::Index = serde_json::from_slice(&bytes).map_err(AssetsError::Index)?;
            Ok::<_, AssetsError>((Assets::of(index), bytes.len()))
        });
        let (assets, bytes) = read.await.map_err(|_| AssetsError::Gone)??;
        let assets = Rc::new(assets);
        let mut indexes = self.indexes.borrow_mut();
        indexes.hold((tenant, content), Rc::clone(&assets), bytes);
        if indexes.held.len() > INDEXES_CACHED_PER_CORE_MAX {
            indexes.drop_oldest();
        }
        Ok(assets)
    }

    /// The bytes of a chunk, where memory holds them.
    pub(crate) fn held_chunk(&self, tenant: TenantId, digest: Digest) -> Option<Bytes> {
        self.files.borrow_mut().get(&(tenant, digest))
    }

    /// The bytes of a chunk, read where they aren't held.
    pub(crate) async fn chunk(&self, chunks: &Chunks, tenant: TenantId, digest: Digest) -> Result<Bytes, AssetsError> {
        if let Some(bytes) = self.held_chunk(tenant, digest) {
            return Ok(bytes);
        }
        let bytes = self
            .lent
            .chunk((tenant, digest), async { chunks.get(tenant, digest).await.map_err(AssetsError::Chunk) })
            .await?;
        if bytes.len() <= STATIC_CACHED_FILE_BYTES_MAX {
            self.files.borrow_mut().hold((tenant, digest), bytes.clone(), bytes.len());
        }
        Ok(bytes)
    }
}

impl<T: Clone> Bounded<T> {
    fn new(bytes_max: usize) -> Self {
        Self { held: LruCache::new_unbounded(), bytes: 0, bytes_max }
    }

    fn get(&mut self, key: &(TenantId, Digest)) -> Option<T> {
        self.held.get(key).map(|(held, _)| held.clone())
    }

    fn hold(&mut self, key: (TenantId, Digest), value: T, bytes: usize) {
        self.bytes += bytes;
        if let Some((_, before)) = self.held.insert(key, (value, bytes)) {
            self.bytes -= before;
        }
        while self.bytes > self.bytes_max && self.drop_oldest() {}
    }

    fn drop_oldest(&mut self) -> bool {
        let oldest = self.held.remove_lru();
        self.bytes -= oldest.as_ref().map_or(0, |(_, (_, bytes))| *bytes);
        oldest.is_some()
    }
}

/// A component's wasm, put together from its chunks. For compilation only.
pub(crate) async fn whole(chunks: &Chunks, tenant: TenantId, file: &api::File) -> Result<Arc<[u8]>, AssetsError> {
    let mut bytes = Vec::with_capacity(usize::try_from(file.size).unwrap_or(0));
    for chunk in &file.chunks {
        bytes.extend_from_slice(&chunks.get(tenant, chunk.digest).await.map_err(AssetsError::Chunk)?);
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_share_a_bounded_memory() {
        let mut files = Bounded::new(STATIC_CACHE_BYTES_PER_CORE);
        let one = Bytes::from(vec![0; STATIC_CACHED_FILE_BYTES_MAX]);
        for number in 0..1_000_u64 {
            files.hold((TenantId(1), Digest::of(&number.to_be_bytes())), one.clone(), one.len());
        }
        assert!(files.bytes <= STATIC_CACHE_BYTES_PER_CORE);
        assert_eq!(files.bytes, files.held.len() * STATIC_CACHED_FILE_BYTES_MAX);
    }

    #[test]
    fn an_index_of_before_there_were_encodings_reads_as_it_did() {
        let digest = Digest::of(b"x");
        let text = format!(
            r#"{{"statics":{{"site":{{"a.css":{{"digest":"{digest}","size":1,"chunks":[{{"digest":"{digest}","size":1}}]}}}}}},"components":{{}}}}"#
        );
        let index: api::Index = serde_json::from_str(&text).expect("the first build wrote it so");
        // What it is called doesn't change either: a release's content is the digest of these bytes.
        assert_eq!(serde_json::to_string(&index).expect("it is plain data"), text);
        let assets = Assets::of(index);
        let file = &assets.statics[&"site".parse::<Name>().expect("a name")]["a.css"];
        assert_eq!((file.plain.size, file.plain.chunks.len(), file.encoded.len()), (1, 1, 0));
        assert_eq!(file.content_type, "text/css; charset=utf-8");
        assert_eq!(file.plain.etag, format!("\"{}\"", &digest.hex()[..32]));
    }

    #[test]
    fn encodings_stand_smallest_first() {
        let of = |text: &str, size| api::Encoded { digest: Digest::of(text.as_bytes()), size, chunks: Vec::new() };
        let encodings =
            BTreeMap::from([(Encoding::Br, of("b", 7)), (Encoding::Zstd, of("z", 5)), (Encoding::Gzip, of("g", 9))]);
        let file = api::File { digest: Digest::of(b"x"), size: 10, chunks: Vec::new(), encodings };
        let prepared = Prepared::of(file, HeaderValue::from_static("text/plain"));
        let order: Vec<_> = prepared.encoded.iter().map(|(encoding, encoded)| (*encoding, encoded.size)).collect();
        assert_eq!(order, [(Encoding::Zstd, 5), (Encoding::Br, 7), (Encoding::Gzip, 9)]);
        // An encoding of one chunk doesn't name it twice.
        assert_eq!(prepared.encoded[0].1.chunks[..], [Chunk { digest: Digest::of(b"z"), size: 5 }]);
    }
}
