//! Buckets: what the sandbox asks of a key-value store, asked of `persist`, here or on the box that holds the data.

use bytes::Bytes;
use persist::{Database, Databases, KvError};
use sandbox::{Answer, Bucket, KeyPage, KeyValue, KeyValueError, Swap};

use crate::tier::{Far, Home, Operation, Raw, homeless};

/// Lends instances the databases of the cloud.
pub(crate) struct Buckets {
    pub(crate) here: Databases,
    /// None of `firm up`: every database is here.
    pub(crate) far: Option<Far>,
}

fn database(bucket: &Bucket) -> Database {
    Database { tenant: bucket.tenant, id: bucket.database }
}

/// What a tenant is told.
pub(crate) fn refused(error: KvError) -> KeyValueError {
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

/// The operation, on the box where the bucket's database lives; `near`, where that is this one.
macro_rules! here_or_there {
    ($self:ident, $bucket:ident, $operation:expr, $answer:ident, $near:expr) => {
        match $self.far.as_ref().map(|far| (far, far.home($bucket))) {
            Some((far, Home::There(home))) => {
                Box::pin(async move { far.ask(home, $bucket, $operation).await?.$answer() })
            }
            Some((_, Home::Moving)) => Box::pin(async { Err(KeyValueError::Busy) }),
            Some((_, Home::Nowhere)) => Box::pin(async move { Err(homeless($bucket)) }),
            Some((_, Home::Here)) | None => Box::pin(async move { $near.await.map_err(refused) }),
        }
    };
}

impl KeyValue for Buckets {
    fn get<'a>(&'a self, bucket: &'a Bucket, key: String) -> Answer<'a, Option<Bytes>> {
        here_or_there!(self, bucket, Operation::Get(key), value, self.here.get(database(bucket), &bucket.name, &key))
    }

    fn set<'a>(&'a self, bucket: &'a Bucket, key: String, value: Bytes) -> Answer<'a, ()> {
        here_or_there!(
            self,
            bucket,
            Operation::Set(key, Raw(value)),
            done,
            self.here.set(database(bucket), &bucket.name, &key, value)
        )
    }

    fn delete<'a>(&'a self, bucket: &'a Bucket, key: String) -> Answer<'a, ()> {
        here_or_there!(
            self,
            bucket,
            Operation::Delete(key),
            done,
            self.here.delete(database(bucket), &bucket.name, &key)
        )
    }

    fn exists<'a>(&'a self, bucket: &'a Bucket, key: String) -> Answer<'a, bool> {
        here_or_there!(
            self,
            bucket,
            Operation::Exists(key),
            there,
            self.here.exists(database(bucket), &bucket.name, &key)
        )
    }

    fn list_keys<'a>(&'a self, bucket: &'a Bucket, cursor: Option<String>) -> Answer<'a, KeyPage> {
        here_or_there!(self, bucket, Operation::List(cursor), keys, async {
            let page = self.here.list(database(bucket), &bucket.name, cursor.as_deref()).await?;
            Ok(KeyPage { keys: page.keys, cursor: page.next })
        })
    }

    fn increment<'a>(&'a self, bucket: &'a Bucket, key: String, delta: i64) -> Answer<'a, i64> {
        here_or_there!(
            self,
            bucket,
            Operation::Increment(key, delta),
            sum,
            self.here.increment(database(bucket), &bucket.name, &key, delta)
        )
    }

    fn swap<'a>(&'a self, bucket: &'a Bucket, key: String, expected: Option<Bytes>, value: Bytes) -> Answer<'a, Swap> {
        here_or_there!(self, bucket, Operation::Swap(key, expected.map(Raw), Raw(value)), swapped, async {
            let (database, name) = (database(bucket), &bucket.name);
            if self.here.swap(database, name, &key, expected, value).await? {
                return Ok(Swap::Done);
            }
            // What it is by now: it may have changed once more, which the guest's next try will find.
            Ok(Swap::Lost(self.here.get(database, name, &key).await?))
        })
    }

    fn get_many<'a>(&'a self, bucket: &'a Bucket, keys: Vec<String>) -> Answer<'a, Vec<Option<Bytes>>> {
        here_or_there!(
            self,
            bucket,
            Operation::GetMany(keys),
            values,
            self.here.get_many(database(bucket), &bucket.name, keys)
        )
    }

    fn set_many<'a>(&'a self, bucket: &'a Bucket, pairs: Vec<(String, Bytes)>) -> Answer<'a, ()> {
        here_or_there!(
            self,
            bucket,
            Operation::SetMany(pairs.into_iter().map(|(key, value)| (key, Raw(value))).collect()),
            done,
            self.here.set_many(database(bucket), &bucket.name, pairs)
        )
    }

    fn delete_many<'a>(&'a self, bucket: &'a Bucket, keys: Vec<String>) -> Answer<'a, ()> {
        here_or_there!(
            self,
            bucket,
            Operation::DeleteMany(keys),
            done,
            self.here.delete_many(database(bucket), &bucket.name, keys)
        )
    }
}
