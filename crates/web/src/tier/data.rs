//! Operations on databases that live on another box.

use base::limits::{KV_BATCH_MAX, TIER_DATA_TIME_MAX};
use base::{BoxId, DatabaseId, Name, TenantId};
use bytes::Bytes;
use persist::{Database, Databases, KvError};
use sandbox::{Bucket, KeyPage, KeyValueError, Swap};
use serde::{Deserialize, Serialize};

use super::{Far, Known, Method, TierError};

/// A value, which travels as it is and not byte by byte.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Raw(pub(crate) Bytes);

impl Serialize for Raw {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl serde::de::Visitor<'_> for Whole {
            type Value = Raw;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Raw, E> {
                Ok(Raw(Bytes::copy_from_slice(bytes)))
            }
        }
        deserializer.deserialize_bytes(Whole)
    }
}

/// One operation, as it travels.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Operation {
    Get(String),
    Set(String, Raw),
    Delete(String),
    Exists(String),
    List(Option<String>),
    Increment(String, i64),
    Swap(String, Option<Raw>, Raw),
    GetMany(Vec<String>),
    SetMany(Vec<(String, Raw)>),
    DeleteMany(Vec<String>),
}

#[derive(Debug, Serialize, Deserialize)]
struct Ask {
    tenant: TenantId,
    database: DatabaseId,
    bucket: Name,
    operation: Operation,
}

/// What came of it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Done,
    Value(Option<Raw>),
    Values(Vec<Option<Raw>>),
    There(bool),
    Keys(Vec<String>, Option<String>),
    Sum(i64),
    Lost(Option<Raw>),
    Refused(Refused),
}

/// Why not, in words that a tenant may read.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Refused {
    Full,
    NoRoom,
    TooLarge(String),
    NotANumber,
    Busy,
    Broken(String),
}

/// An operation as it is sent.
pub(super) fn written(bucket: &Bucket, operation: Operation) -> Result<Bytes, postcard::Error> {
    let ask = Ask { tenant: bucket.tenant, database: bucket.database, bucket: bucket.name.clone(), operation };
    postcard::to_allocvec(&ask).map(Bytes::from)
}

/// Where a database lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    Here,
    There(BoxId),
    /// It is on its way from here to another box.
    Moving,
    /// The record gives it no home, or isn't known yet. Whoever made it now would make a second one beside the right one.
    Nowhere,
}

impl Far {
    pub(crate) fn home(&self, bucket: &Bucket) -> Home {
        match self.known.load().as_ref().and_then(|boxes| boxes.home(bucket.database)) {
            Some(home) if home == self.tier.me() && self.moving.load().contains(&bucket.database) => Home::Moving,
            Some(home) if home == self.tier.me() => Home::Here,
            Some(home) => Home::There(home),
            None => Home::Nowhere,
        }
    }

    pub(crate) async fn ask(
        &self,
        home: BoxId,
        bucket: &Bucket,
        operation: Operation,
    ) -> Result<Outcome, KeyValueError> {
        let broken = |why: String| KeyValueError::Broken(why);
        let method = match operation {
            Operation::GetMany(_) | Operation::SetMany(_) => Method::DataOfMany,
            _ => Method::Data,
        };
        let body = written(bucket, operation).map_err(|error| broken(error.to_string()))?;
        let answer = self.tier.ask(home, method, body, TIER_DATA_TIME_MAX).await.map_err(|error| match error {
            TierError::Busy => KeyValueError::Busy,
            TierError::Unknown(_) => {
                broken("the box that holds it didn't answer: whether it was done is unknown".to_owned())
            }
            TierError::Unreachable(_) => {
                broken("the box that holds it can't be reached: nothing was done; try again in a moment".to_owned())
            }
            // It names boxes and homes: for the operator's log, not the tenant's.
            TierError::Refused(why) => {
                tracing::error!(home = %home.name(), database = bucket.database.0, "a database's box refuses: {why}");
                broken("its operator finds the reason in the box's log".to_owned())
            }
        })?;
        match postcard::from_bytes(&answer) {
            Ok(Outcome::Refused(refused)) => Err(refused.into()),
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                tracing::error!(home = %home.name(), "a box's answer about a database can't be read: {error}");
                Err(broken("its operator finds the reason in the box's log".to_owned()))
            }
        }
    }
}

/// No box holds the database.
pub(crate) fn homeless(bucket: &Bucket) -> KeyValueError {
    tracing::warn!(tenant = %bucket.tenant, database = bucket.database.0, "the record names no box that holds a database");
    KeyValueError::Broken("no box of the cloud holds this data: nothing was done; try again in a moment".to_owned())
}

/// The answer was of another kind than what was asked: a fault of ours on either side.
pub(crate) fn confused(outcome: &Outcome) -> KeyValueError {
    tracing::error!(?outcome, "a box answers something else about a database than it was asked");
    KeyValueError::Broken("its operator finds the reason in the box's log".to_owned())
}

impl From<Refused> for KeyValueError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::Full,
            Refused::NoRoom => Self::NoRoom,
            Refused::TooLarge(why) => Self::TooLarge(why),
            Refused::NotANumber => Self::NotANumber,
            Refused::Busy => Self::Busy,
            Refused::Broken(why) => Self::Broken(why),
        }
    }
}

impl From<KeyValueError> for Refused {
    fn from(error: KeyValueError) -> Self {
        match error {
            KeyValueError::Full => Self::Full,
            KeyValueError::NoRoom => Self::NoRoom,
            KeyValueError::TooLarge(why) => Self::TooLarge(why),
            KeyValueError::NotANumber => Self::NotANumber,
            KeyValueError::Busy => Self::Busy,
            KeyValueError::Broken(why) => Self::Broken(why),
        }
    }
}

/// Answers an operation on a database of this box. `Err` is for the log of the one who asked.
pub(crate) async fn answer(
    databases: &Databases,
    known: &Known,
    me: BoxId,
    body: &[u8],
    told: impl Fn(KvError) -> KeyValueError,
) -> Result<Bytes, String> {
    let ask: Ask = postcard::from_bytes(body).map_err(|error| format!("no operation on a database: {error}"))?;
    let home = known.load().as_ref().and_then(|boxes| boxes.home(ask.database));
    if home != Some(me) {
        // A box that hasn't heard of a move yet; or one that asks for what there never was, which must make nothing here.
        return Err(format!("database {} doesn't live here", ask.database));
    }
    let database = Database { tenant: ask.tenant, id: ask.database };
    let outcome = run(databases, database, &ask.bucket, ask.operation)
        .await
        .unwrap_or_else(|error| Outcome::Refused(told(error).into()));
    postcard::to_allocvec(&outcome).map(Bytes::from).map_err(|error| error.to_string())
}

async fn run(
    databases: &Databases,
    database: Database,
    bucket: &Name,
    operation: Operation,
) -> Result<Outcome, KvError> {
    Ok(match operation {
        Operation::Get(key) => Outcome::Value(databases.get(database, bucket, &key).await?.map(Raw)),
        Operation::Set(key, value) => {
            databases.set(database, bucket, &key, value.0).await?;
            Outcome::Done
        }
        Operation::Delete(key) => {
            databases.delete(database, bucket, &key).await?;
            Outcome::Done
        }
        Operation::Exists(key) => Outcome::There(databases.exists(database, bucket, &key).await?),
        Operation::List(cursor) => {
            let page = databases.list(database, bucket, cursor.as_deref()).await?;
            Outcome::Keys(page.keys, page.next)
        }
        Operation::Increment(key, delta) => Outcome::Sum(databases.increment(database, bucket, &key, delta).await?),
        Operation::Swap(key, expected, value) => {
            if databases.swap(database, bucket, &key, expected.map(|raw| raw.0), value.0).await? {
                Outcome::Done
            } else {
                // What it is by now: it may have changed once more, which the guest's next try will find.
                Outcome::Lost(databases.get(database, bucket, &key).await?.map(Raw))
            }
        }
        Operation::GetMany(keys) => {
            let values = databases.get_many(database, bucket, bounded(keys)?).await?;
            Outcome::Values(values.into_iter().map(|value| value.map(Raw)).collect())
        }
        Operation::SetMany(pairs) => {
            let pairs = bounded(pairs)?.into_iter().map(|(key, value)| (key, value.0)).collect();
            databases.set_many(database, bucket, pairs).await?;
            Outcome::Done
        }
        Operation::DeleteMany(keys) => {
            databases.delete_many(database, bucket, bounded(keys)?).await?;
            Outcome::Done
        }
    })
}

/// The sandbox has looked at this on the other box; a box may be anything.
fn bounded<T>(batch: Vec<T>) -> Result<Vec<T>, KvError> {
    if batch.len() > KV_BATCH_MAX { Err(KvError::Busy) } else { Ok(batch) }
}

impl Outcome {
    pub(crate) fn done(self) -> Result<(), KeyValueError> {
        match self {
            Self::Done => Ok(()),
            other => Err(confused(&other)),
        }
    }

    pub(crate) fn value(self) -> Result<Option<Bytes>, KeyValueError> {
        match self {
            Self::Value(value) => Ok(value.map(|raw| raw.0)),
            other => Err(confused(&other)),
        }
    }

    pub(crate) fn values(self) -> Result<Vec<Option<Bytes>>, KeyValueError> {
        match self {
            Self::Values(values) => Ok(values.into_iter().map(|value| value.map(|raw| raw.0)).collect()),
            other => Err(confused(&other)),
        }
    }

    pub(crate) fn there(self) -> Result<bool, KeyValueError> {
        match self {
            Self::There(there) => Ok(there),
            other => Err(confused(&other)),
        }
    }

    pub(crate) fn keys(self) -> Result<KeyPage, KeyValueError> {
        match self {
            Self::Keys(keys, cursor) => Ok(KeyPage { keys, cursor }),
            other => Err(confused(&other)),
        }
    }

    pub(crate) fn sum(self) -> Result<i64, KeyValueError> {
        match self {
            Self::Sum(sum) => Ok(sum),
            other => Err(confused(&other)),
        }
    }

    pub(crate) fn swapped(self) -> Result<Swap, KeyValueError> {
        match self {
            Self::Done => Ok(Swap::Done),
            Self::Lost(value) => Ok(Swap::Lost(value.map(|raw| raw.0))),
            other => Err(confused(&other)),
        }
    }
}
