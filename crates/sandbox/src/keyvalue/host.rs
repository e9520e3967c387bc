//! `wasi:keyvalue@0.2.0-draft2` for guests, on top of [`KeyValue`].
//!
//! A guest can name nothing but a bucket on its cell's list and keys within it: tenant and data set are put
//! in here, from the cell. Lengths are checked here, before the database is asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use base::limits::{KV_BATCH_MAX, KV_KEY_BYTES_MAX, KV_VALUE_BYTES_MAX};
use base::{DatabaseId, Name, TenantId};
use bytes::Bytes;
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use super::{Bucket, KeyValue, KeyValueError, Swap};
use crate::guest::Guest;

#[expect(clippy::all, clippy::pedantic, reason = "generated")]
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
}

impl Access {
    pub(crate) fn new(
        tenant: TenantId,
        database: DatabaseId,
        buckets: Arc<BTreeSet<Name>>,
        store: Arc<dyn KeyValue>,
    ) -> Self {
        Self { tenant, database, buckets, store }
    }

    fn bucket(&self, identifier: &str) -> Result<Bucket, store::Error> {
        let name = self.buckets.get(identifier).ok_or(store::Error::NoSuchStore)?;
        Ok(Bucket { tenant: self.tenant, database: self.database, name: name.clone() })
    }
}

/// A compare-and-swap begun: the value as it was.
#[expect(unreachable_pub, reason = "the generated code re-exports it")]
pub struct Cas {
    bucket: Bucket,
    key: String,
    current: Option<Bytes>,
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
        let Cas { bucket, key, current } = self.table.delete(cas)?;
        if let Err(refused) = check_value(&value) {
            return Ok(Err(atomics::CasError::StoreError(refused.into())));
        }
        match self.access.store.swap(&bucket, key.clone(), current, value.into()).await {
            Ok(Swap::Done) => Ok(Ok(())),
            Ok(Swap::Lost(current)) => {
                let again = self.table.push(Cas { bucket, key, current })?;
                Ok(Err(atomics::CasError::CasFailed(again)))
            }
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
            Ok(current) => Ok(Ok(self.table.push(Cas { bucket, key, current })?)),
            Err(error) => Ok(Err(error.into())),
        }
    }

    async fn current(&mut self, cas: Resource<Cas>) -> Answer<Option<Vec<u8>>> {
        let cas = self.table.get(&cas)?;
        Ok(Ok(cas.current.as_ref().map(|value| value.to_vec())))
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> Result<()> {
        self.table.delete(cas)?;
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
