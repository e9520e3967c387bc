//! `wasi:keyvalue@0.2.0-draft2` for guests, on top of [`KeyValue`].
//!
//! A guest can name nothing but a bucket on its cell's list and keys within it: tenant and data set are put
//! in here, from the cell. Lengths are checked here, before the database is asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use base::limits::{GUEST_SWAP_BYTES_MAX, KV_BATCH_MAX, KV_KEY_BYTES_MAX, KV_VALUE_BYTES_MAX, NAME_BYTES_MAX};
use base::{DatabaseId, Name, TenantId};
use bytes::Bytes;
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use super::{Bucket, KeyValue, KeyValueError, Swap};
use crate::cell::{Cell, Stream, Voice};
use crate::guest::Guest;

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "wasi:keyvalue/imports",
        imports: { default: async | trappable },
        with: {
            "wasi:keyvalue/store.bucket": crate::keyvalue::Bucket,
            "wasi:keyvalue/atomics.cas": crate::keyvalue::host::Cas,
        },
    });
}

use bindings::wasi::keyvalue::{atomics, batch, store};

type Answer<T> = Result<Result<T, store::Error>>;

/// What of the databases an instance may reach.
pub(crate) struct Access {
    tenant: TenantId,
    database: DatabaseId,
    buckets: Arc<BTreeSet<Name>>,
    store: Arc<dyn KeyValue>,
    voice: Arc<Voice>,
    /// Bytes that the compare-and-swaps begun remember: the host's memory, which no guest's limit counts.
    swap_bytes: usize,
}

impl Access {
    pub(crate) fn new(cell: &Cell, voice: Arc<Voice>) -> Self {
        Self {
            tenant: cell.tenant,
            database: cell.database,
            buckets: Arc::clone(&cell.kv),
            store: Arc::clone(&cell.store),
            voice,
            swap_bytes: 0,
        }
    }

    fn bucket(&self, identifier: &str) -> Result<Bucket, store::Error> {
        let Some(name) = granted(&self.buckets, identifier) else {
            let shown: String = identifier.chars().take(NAME_BYTES_MAX).collect();
            let line = format!("the bucket {shown:?} was refused: add it to `kv` under [bindings] in firm.toml");
            self.voice.line(Stream::Fault, &line);
            return Err(store::Error::NoSuchStore);
        };
        Ok(Bucket { tenant: self.tenant, database: self.database, name })
    }
}

/// The one place where a guest's words become a bucket: they are compared with names, never put into one.
fn granted(buckets: &BTreeSet<Name>, identifier: &str) -> Option<Name> {
    buckets.get(identifier).cloned()
}

/// A compare-and-swap begun: the value as it was.
#[expect(unreachable_pub, reason = "the generated code re-exports it")]
pub struct Cas {
    bucket: Bucket,
    key: String,
    current: Option<Bytes>,
}

impl Cas {
    fn bytes(&self) -> usize {
        self.key.len() + self.current.as_ref().map_or(0, Bytes::len)
    }
}

struct View<'a> {
    access: &'a mut Access,
    table: &'a mut ResourceTable,
}

struct HasView;

impl HasData for HasView {
    type Data<'a> = View<'a>;
}

pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    fn view(guest: &mut Guest) -> View<'_> {
        let (access, table) = guest.keyvalue();
        View { access, table }
    }
    store::add_to_linker::<_, HasView>(linker, view)?;
    atomics::add_to_linker::<_, HasView>(linker, view)?;
    batch::add_to_linker::<_, HasView>(linker, view)
}

impl From<KeyValueError> for store::Error {
    fn from(error: KeyValueError) -> Self {
        Self::Other(error.to_string())
    }
}

fn check_key(key: &str) -> Result<(), KeyValueError> {
    if key.is_empty() {
        return Err(KeyValueError::TooLarge("an empty key is none at all".to_owned()));
    }
    if key.len() > KV_KEY_BYTES_MAX {
        let len = key.len();
        return Err(KeyValueError::TooLarge(format!("a key of {len} bytes, {KV_KEY_BYTES_MAX} are allowed")));
    }
    Ok(())
}

fn check_value(value: &[u8]) -> Result<(), KeyValueError> {
    if value.len() > KV_VALUE_BYTES_MAX {
        let len = value.len();
        return Err(KeyValueError::TooLarge(format!("a value of {len} bytes, {KV_VALUE_BYTES_MAX} are allowed")));
    }
    Ok(())
}

fn check_batch<'a>(keys: impl ExactSizeIterator<Item = &'a String>) -> Result<(), KeyValueError> {
    if keys.len() > KV_BATCH_MAX {
        let len = keys.len();
        return Err(KeyValueError::TooLarge(format!("a batch of {len} keys, {KV_BATCH_MAX} are allowed")));
    }
    keys.map(String::as_str).try_for_each(check_key)
}

impl View<'_> {
    /// Begins a compare-and-swap, as long as the instance's remember little enough.
    fn begin(&mut self, cas: Cas) -> Answer<Resource<Cas>> {
        let total = self.access.swap_bytes.saturating_add(cas.bytes());
        if total > GUEST_SWAP_BYTES_MAX {
            let said = format!(
                "compare-and-swaps begun would remember {total} bytes, {GUEST_SWAP_BYTES_MAX} are allowed: drop some"
            );
            return Ok(Err(KeyValueError::TooLarge(said).into()));
        }
        let cas = self.table.push(cas)?;
        self.access.swap_bytes = total;
        Ok(Ok(cas))
    }

    fn end(&mut self, cas: Resource<Cas>) -> Result<Cas> {
        let cas = self.table.delete(cas)?;
        self.access.swap_bytes = self.access.swap_bytes.saturating_sub(cas.bytes());
        Ok(cas)
    }

    /// The bucket behind a handle. Not a handle of ours: the guest traps.
    fn bucket(&self, handle: &Resource<Bucket>) -> Result<&Bucket> {
        Ok(self.table.get(handle)?)
    }
}

impl store::Host for View<'_> {
    async fn open(&mut self, identifier: String) -> Answer<Resource<Bucket>> {
        match self.access.bucket(&identifier) {
            Ok(bucket) => Ok(Ok(self.table.push(bucket)?)),
            Err(refused) => Ok(Err(refused)),
        }
    }
}

impl store::HostBucket for View<'_> {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        let bucket = self.bucket(&bucket)?;
        Ok(async {
            check_key(&key)?;
            Ok(self.access.store.get(bucket, key).await?.map(Vec::from))
        }
        .await)
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        let bucket = self.bucket(&bucket)?;
        Ok(async {
            check_key(&key)?;
            check_value(&value)?;
            Ok(self.access.store.set(bucket, key, value.into()).await?)
        }
        .await)
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        let bucket = self.bucket(&bucket)?;
        Ok(async {
            check_key(&key)?;
            Ok(self.access.store.delete(bucket, key).await?)
        }
        .await)
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<bool> {
        let bucket = self.bucket(&bucket)?;
        Ok(async {
            check_key(&key)?;
            Ok(self.access.store.exists(bucket, key).await?)
        }
        .await)
    }

    async fn list_keys(&mut self, bucket: Resource<Bucket>, cursor: Option<String>) -> Answer<store::KeyResponse> {
        let bucket = self.bucket(&bucket)?;
        Ok(async {
            let page = self.access.store.list_keys(bucket, cursor).await?;
            Ok(store::KeyResponse { keys: page.keys, cursor: page.cursor })
        }
        .await)
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for View<'_> {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: i64) -> Answer<i64> {
        let bucket = self.bucket(&bucket)?;
        Ok(async {
            check_key(&key)?;
            Ok(self.access.store.increment(bucket, key, delta).await?)
        }
        .await)
    }

    async fn swap(&mut self, cas: Resource<Cas>, value: Vec<u8>) -> Result<Result<(), atomics::CasError>> {
        let Cas { bucket, key, current } = self.end(cas)?;
        if let Err(refused) = check_value(&value) {
            return Ok(Err(atomics::CasError::StoreError(refused.into())));
        }
        match self.access.store.swap(&bucket, key.clone(), current, value.into()).await {
            Ok(Swap::Done) => Ok(Ok(())),
            Ok(Swap::Lost(current)) => Ok(Err(match self.begin(Cas { bucket, key, current })? {
                Ok(again) => atomics::CasError::CasFailed(again),
                Err(refused) => atomics::CasError::StoreError(refused),
            })),
            Err(error) => Ok(Err(atomics::CasError::StoreError(error.into()))),
        }
    }
}

impl atomics::HostCas for View<'_> {
    async fn new(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Resource<Cas>> {
        let bucket = self.bucket(&bucket)?.clone();
        if let Err(refused) = check_key(&key) {
            return Ok(Err(refused.into()));
        }
        match self.access.store.get(&bucket, key.clone()).await {
            Ok(current) => self.begin(Cas { bucket, key, current }),
            Err(error) => Ok(Err(error.into())),
        }
    }

    async fn current(&mut self, cas: Resource<Cas>) -> Answer<Option<Vec<u8>>> {
        let cas = self.table.get(&cas)?;
        Ok(Ok(cas.current.as_ref().map(|value| value.to_vec())))
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> Result<()> {
        self.end(cas)?;
        Ok(())
    }
}

impl batch::Host for View<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Answer<Vec<Option<(String, Vec<u8>)>>> {
        let bucket = self.bucket(&bucket)?;
        Ok(async {
            check_batch(keys.iter())?;
            let values = self.access.store.get_many(bucket, keys.clone()).await?;
            let pair = |(key, value): (String, Option<Bytes>)| Some((key, value?.into()));
            Ok(keys.into_iter().zip(values).map(pair).collect())
        }
        .await)
    }

    async fn set_many(&mut self, bucket: Resource<Bucket>, pairs: Vec<(String, Vec<u8>)>) -> Answer<()> {
        let bucket = self.bucket(&bucket)?;
        Ok(async {
            check_batch(pairs.iter().map(|(key, _)| key))?;
            pairs.iter().try_for_each(|(_, value)| check_value(value))?;
            let pairs = pairs.into_iter().map(|(key, value)| (key, value.into())).collect();
            Ok(self.access.store.set_many(bucket, pairs).await?)
        }
        .await)
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        let bucket = self.bucket(&bucket)?;
        Ok(async {
            check_batch(keys.iter())?;
            Ok(self.access.store.delete_many(bucket, keys).await?)
        }
        .await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_can_only_name_what_it_was_granted() {
        let name = |text: &str| text.parse::<Name>().expect("a name");
        let buckets = BTreeSet::from([name("notes")]);
        assert_eq!(granted(&buckets, "notes"), Some(name("notes")));
        for other in [
            "",
            "default",
            "Notes",
            "notes ",
            "notes\0",
            "../notes",
            "8/1/notes",
            "notes/../other",
            "%",
            "*",
            "notes'--",
        ] {
            assert_eq!(granted(&buckets, other), None, "{other}");
        }
        assert_eq!(granted(&BTreeSet::new(), "notes"), None);
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(check_key("k").is_ok());
        assert!(check_key("").is_err());
        assert!(check_key(&"k".repeat(KV_KEY_BYTES_MAX)).is_ok());
        assert!(check_key(&"k".repeat(KV_KEY_BYTES_MAX + 1)).is_err());
        assert!(check_value(&vec![0; KV_VALUE_BYTES_MAX]).is_ok());
        assert!(check_value(&vec![0; KV_VALUE_BYTES_MAX + 1]).is_err());
        let keys = vec!["k".to_owned(); KV_BATCH_MAX + 1];
        assert!(check_batch(keys[..KV_BATCH_MAX].iter()).is_ok());
        assert!(check_batch(keys.iter()).is_err());
    }
}
