//! Buckets: what the sandbox asks of a key-value store, asked of `persist`.

use bytes::Bytes;
use persist::{Database, Databases, KvError};
use sandbox::{Answer, Bucket, KeyPage, KeyValue, KeyValueError, Swap};

/// Lends instances the databases of the box.
pub(crate) struct Buckets(pub Databases);

fn database(bucket: &Bucket) -> Database {
    Database { tenant: bucket.tenant, id: bucket.database }
}

fn refused(error: KvError) -> KeyValueError {
    match error {
        KvError::Full { .. } => KeyValueError::Full,
        KvError::NoRoom => KeyValueError::NoRoom,
        KvError::KeyTooLong { .. } | KvError::ValueTooLarge { .. } | KvError::BatchTooLarge { .. } => {
            KeyValueError::TooLarge(error.to_string())
        }
        KvError::NotANumber => KeyValueError::NotANumber,
        KvError::Busy => KeyValueError::Busy,
        KvError::Closed => KeyValueError::Broken("the box is going down".to_owned()),
        KvError::Deleted => KeyValueError::Broken("the app or its stage was deleted".to_owned()),
        KvError::Broken(why) => {
            // It names paths and SQLite's own words: for the operator's log, not the tenant's.
            tracing::error!("a database failed: {why}");
            KeyValueError::Broken("its operator finds the reason in the box's log".to_owned())
        }
    }
}

impl KeyValue for Buckets {
    fn get<'a>(&'a self, bucket: &'a Bucket, key: String) -> Answer<'a, Option<Bytes>> {
        Box::pin(async move { self.0.get(database(bucket), &bucket.name, &key).await.map_err(refused) })
    }

    fn set<'a>(&'a self, bucket: &'a Bucket, key: String, value: Bytes) -> Answer<'a, ()> {
        Box::pin(async move { self.0.set(database(bucket), &bucket.name, &key, value).await.map_err(refused) })
    }

    fn delete<'a>(&'a self, bucket: &'a Bucket, key: String) -> Answer<'a, ()> {
        Box::pin(async move { self.0.delete(database(bucket), &bucket.name, &key).await.map_err(refused) })
    }

    fn exists<'a>(&'a self, bucket: &'a Bucket, key: String) -> Answer<'a, bool> {
        Box::pin(async move { self.0.exists(database(bucket), &bucket.name, &key).await.map_err(refused) })
    }

    fn list_keys<'a>(&'a self, bucket: &'a Bucket, cursor: Option<String>) -> Answer<'a, KeyPage> {
        Box::pin(async move {
            let page = self.0.list(database(bucket), &bucket.name, cursor.as_deref()).await.map_err(refused)?;
            Ok(KeyPage { keys: page.keys, cursor: page.next })
        })
    }

    fn increment<'a>(&'a self, bucket: &'a Bucket, key: String, delta: i64) -> Answer<'a, i64> {
        Box::pin(async move { self.0.increment(database(bucket), &bucket.name, &key, delta).await.map_err(refused) })
    }

    fn swap<'a>(&'a self, bucket: &'a Bucket, key: String, expected: Option<Bytes>, value: Bytes) -> Answer<'a, Swap> {
        Box::pin(async move {
            let (database, name) = (database(bucket), &bucket.name);
            if self.0.swap(database, name, &key, expected, value).await.map_err(refused)? {
                return Ok(Swap::Done);
            }
            // What it is by now: it may have changed once more, which the guest's next try will find.
            Ok(Swap::Lost(self.0.get(database, name, &key).await.map_err(refused)?))
        })
    }

    fn get_many<'a>(&'a self, bucket: &'a Bucket, keys: Vec<String>) -> Answer<'a, Vec<Option<Bytes>>> {
        Box::pin(async move { self.0.get_many(database(bucket), &bucket.name, keys).await.map_err(refused) })
    }

    fn set_many<'a>(&'a self, bucket: &'a Bucket, pairs: Vec<(String, Bytes)>) -> Answer<'a, ()> {
        Box::pin(async move { self.0.set_many(database(bucket), &bucket.name, pairs).await.map_err(refused) })
    }

    fn delete_many<'a>(&'a self, bucket: &'a Bucket, keys: Vec<String>) -> Answer<'a, ()> {
        Box::pin(async move { self.0.delete_many(database(bucket), &bucket.name, keys).await.map_err(refused) })
    }
}
