//! The key-value store as a guest's host calls need it. `persist` stands behind it; tests put a map there.

mod host;

use std::pin::Pin;

use base::{DatabaseId, Name, TenantId};
use bytes::Bytes;

pub(crate) use host::{Access, add_to_linker};

/// The answer of a store, later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, KeyValueError>> + Send + 'a>>;

/// One bucket of one data set of one tenant. Made by the sandbox from the request's cell, never from what a
/// guest says beyond the bucket's name, which was on the cell's list.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Bucket {
    pub tenant: TenantId,
    pub database: DatabaseId,
    pub name: Name,
}

/// One page of a bucket's keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyPage {
    /// At the most `KV_LIST_PAGE` keys.
    pub keys: Vec<String>,
    /// Where the next page starts; `None` after the last. Opaque to guests, valid across requests.
    pub cursor: Option<String>,
}

/// What became of a compare-and-swap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Swap {
    /// The value was the expected one and is now the new one.
    Done,
    /// It was this instead, and nothing changed.
    Lost(Option<Bytes>),
}

/// Why a store refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyValueError {
    #[error("the database is full: delete keys, or ask for more room")]
    Full,
    #[error("the box's disk is full: what is there can be read and deleted")]
    NoRoom,
    #[error("the key or value is too large: {0}")]
    TooLarge(String),
    #[error("the value is not a number that can be incremented")]
    NotANumber,
    #[error("too many operations are waiting for this database: try again")]
    Busy,
    #[error("the database failed: {0}")]
    Broken(String),
}

/// Buckets of keys and values, durable when a write's answer is `Ok`.
///
/// Lengths of keys, values and batches are checked by the sandbox against `base::limits` before it asks.
pub trait KeyValue: Send + Sync {
    /// `None` if there is no such key.
    fn get<'a>(&'a self, bucket: &'a Bucket, key: String) -> Answer<'a, Option<Bytes>>;
    fn set<'a>(&'a self, bucket: &'a Bucket, key: String, value: Bytes) -> Answer<'a, ()>;
    /// A key that isn't there is no error.
    fn delete<'a>(&'a self, bucket: &'a Bucket, key: String) -> Answer<'a, ()>;
    fn exists<'a>(&'a self, bucket: &'a Bucket, key: String) -> Answer<'a, bool>;
    /// Keys after `cursor`, which came from an earlier page of any request, or from a guest that made it up.
    fn list_keys<'a>(&'a self, bucket: &'a Bucket, cursor: Option<String>) -> Answer<'a, KeyPage>;
    /// Adds `delta` to the decimal number under `key`, 0 if there is none, and answers the sum.
    fn increment<'a>(&'a self, bucket: &'a Bucket, key: String, delta: i64) -> Answer<'a, i64>;
    /// Sets `value` if the present one is `expected`.
    fn swap<'a>(&'a self, bucket: &'a Bucket, key: String, expected: Option<Bytes>, value: Bytes) -> Answer<'a, Swap>;
    /// One answer a key, in order; at the most `KV_BATCH_MAX`.
    fn get_many<'a>(&'a self, bucket: &'a Bucket, keys: Vec<String>) -> Answer<'a, Vec<Option<Bytes>>>;
    /// All or nothing.
    fn set_many<'a>(&'a self, bucket: &'a Bucket, pairs: Vec<(String, Bytes)>) -> Answer<'a, ()>;
    /// All or nothing.
    fn delete_many<'a>(&'a self, bucket: &'a Bucket, keys: Vec<String>) -> Answer<'a, ()>;
}
