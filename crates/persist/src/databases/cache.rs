//! Values that were read lately, in memory: a `get` or `exists` of one is answered on the caller's own thread, which
//! otherwise would wait for a reader's to wake, and then to be woken itself.
//!
//! What it holds is never older than what the reader would answer:
//!
//! 1. Before a write begins its transaction, what is held under its keys is let go, and the keys are marked
//!    ([`Cache::writing`]). The mark goes when the transaction has ended, whichever way, and before anybody is answered.
//! 2. Who finds nothing gets a [`Miss`] before it asks the reader. Its answer is held only if no write of that key was
//!    marked from then on, nor is now: a snapshot from before a commit isn't held after it.
//! 3. So what is held under a key is what every reader sees, from the moment it was asked for until it is let go.
//!    While a key is being written, all its readers ask the file: nobody sees the old value after another saw the new.
//!
//! All of it happens under the lock of the key's shard; there is no other order to think of.
//!
//! Keys are found by a hash that nobody outside can guess, and compared in full: tenant, database, bucket and key.
//! A tenant has no more than its part of each shard, and its oldest values make room for its new ones. Where a shard is
//! full, the tenant that asked for nothing for the longest time gives its oldest.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base::limits::{
    DATABASES_DISTRUSTED_MAX, KV_CACHE_BYTES_MAX, KV_CACHE_BYTES_PER_TENANT_MAX, KV_CACHE_SHARDS,
    KV_CACHE_STRIPES_PER_SHARD, KV_CACHED_ENTRY_BYTES, KV_CACHED_VALUE_BYTES_MAX,
};
use base::{DatabaseId, Name, TenantId};
use bytes::Bytes;

use super::recent::Recent;
use super::tally::KvFigures;
use super::{Database, Operation};

const SHARD_BYTES_MAX: usize = KV_CACHE_BYTES_MAX / KV_CACHE_SHARDS;
const SHARE_BYTES_MAX: usize = KV_CACHE_BYTES_PER_TENANT_MAX / KV_CACHE_SHARDS;

pub(super) struct Cache {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

/// One key of a bucket, and where to look for it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    db: Database,
    bucket: &'a Name,
    key: &'a str,
    hash: u64,
}

/// Nothing was held at this moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Miss {
    /// What the stripe had.
    writes: u64,
}

/// Keys are being written; until it is dropped.
pub(super) struct Writing<'a> {
    cache: &'a Cache,
    hashes: Vec<u64>,
}

struct Shard {
    /// Who asked the longest time ago comes first.
    shares: Recent<TenantId, Share>,
    /// Of all shares.
    bytes: usize,
    stripes: [Stripe; KV_CACHE_STRIPES_PER_SHARD],
    distrusted: HashSet<Database>,
    closed: bool,
    /// Operations that were answered from it.
    gets: u64,
    exists: u64,
}

/// Writes of all keys whose hash leads here.
#[derive(Clone, Copy, Default)]
struct Stripe {
    /// That have ended.
    ended: u64,
    /// That go on.
    going_on: u32,
}

/// What a shard holds of one tenant. Never empty.
struct Share {
    held: Recent<u64, Held>,
    bytes: usize,
}

struct Held {
    database: DatabaseId,
    bucket: Name,
    key: Box<str>,
    /// None: there is no value, and that is known.
    value: Option<Bytes>,
}

impl Cache {
    pub(super) fn new() -> Self {
        let shards = (0..KV_CACHE_SHARDS).map(|_| Mutex::new(Shard::new())).collect();
        Self { shards, hasher: RandomState::new() }
    }

    pub(super) fn place<'a>(&self, db: Database, bucket: &'a Name, key: &'a str) -> Place<'a> {
        Place { db, bucket, key, hash: self.hasher.hash_one((db, bucket, key)) }
    }

    /// The value, or that there is none.
    pub(super) fn get(&self, place: Place<'_>) -> Result<Option<Bytes>, Miss> {
        let mut shard = self.shard(place.hash);
        let value = shard.held(place).cloned().ok_or_else(|| shard.miss(place))?;
        shard.gets += 1;
        Ok(value)
    }

    /// Is there a value?
    pub(super) fn exists(&self, place: Place<'_>) -> Result<bool, Miss> {
        let mut shard = self.shard(place.hash);
        let exists = shard.held(place).map(Option::is_some).ok_or_else(|| shard.miss(place))?;
        shard.exists += 1;
        Ok(exists)
    }

    /// Holds what a reader answered who was asked after the miss, unless it may be outdated by now.
    pub(super) fn hold(&self, place: Place<'_>, miss: &Miss, value: Option<&Bytes>) {
        if value.is_none_or(|value| value.len() <= KV_CACHED_VALUE_BYTES_MAX) {
            self.shard(place.hash).hold(place, miss, value);
        }
    }

    /// To call before the transaction begins, and to drop when it has ended and nobody was answered yet.
    pub(super) fn writing<'a>(
        &self,
        db: Database,
        operations: impl Iterator<Item = (&'a Name, &'a Operation)>,
    ) -> Writing<'_> {
        let mut hashes = Vec::new();
        for (bucket, operation) in operations {
            operation.each_written(|key| hashes.push(self.place(db, bucket, key).hash));
        }
        for hash in &hashes {
            let mut shard = self.shard(*hash);
            shard.stripe(*hash).going_on += 1;
            shard.change(db.tenant, |share| share.remove(*hash));
        }
        Writing { cache: self, hashes }
    }

    /// Lets go of what is held of a database, and of what its readers are about to bring.
    pub(super) fn forget(&self, db: Database) {
        self.shards.iter().for_each(|shard| lock(shard).forget(db));
    }

    /// Nothing of the database is held from now on: of a write that failed nobody knows whether, and when, it shows.
    pub(super) fn distrust(&self, db: Database) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            if shard.distrusted.len() < DATABASES_DISTRUSTED_MAX {
                shard.distrusted.insert(db);
                shard.forget(db);
            } else {
                shard.close();
            }
        }
    }

    /// Holds nothing any more.
    pub(super) fn close(&self) {
        self.shards.iter().for_each(|shard| lock(shard).close());
    }

    /// Adds what was answered from here.
    pub(super) fn add_to(&self, figures: &mut KvFigures) {
        for shard in &self.shards {
            let shard = lock(shard);
            figures.add_answered_from_memory(shard.gets, shard.exists);
        }
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        lock(&self.shards[index(hash, self.shards.len())])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn index(hash: u64, len: usize) -> usize {
    usize::try_from(hash % len as u64).expect("less than a length")
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        for hash in &self.hashes {
            let mut shard = self.cache.shard(*hash);
            let stripe = shard.stripe(*hash);
            stripe.going_on -= 1;
            stripe.ended += 1;
        }
    }
}

impl Shard {
    fn new() -> Self {
        Self {
            shares: Recent::new(),
            bytes: 0,
            stripes: [Stripe::default(); KV_CACHE_STRIPES_PER_SHARD],
            distrusted: HashSet::new(),
            closed: false,
            gets: 0,
            exists: 0,
        }
    }

    fn held(&mut self, place: Place<'_>) -> Option<&Option<Bytes>> {
        let held = self.shares.get(&place.db.tenant)?.held.get(&place.hash)?;
        held.is_of(place).then_some(&held.value)
    }

    fn miss(&mut self, place: Place<'_>) -> Miss {
        Miss { writes: self.stripe(place.hash).ended }
    }

    fn stripe(&mut self, hash: u64) -> &mut Stripe {
        // What of the hash chose the shard is the same for all in it.
        &mut self.stripes[index(hash / KV_CACHE_SHARDS as u64, KV_CACHE_STRIPES_PER_SHARD)]
    }

    fn hold(&mut self, place: Place<'_>, miss: &Miss, value: Option<&Bytes>) {
        let Stripe { ended, going_on } = *self.stripe(place.hash);
        let written = going_on > 0 || ended != miss.writes;
        if written || self.closed || self.distrusted.contains(&place.db) {
            return;
        }
        let tenant = place.db.tenant;
        if self.shares.get(&tenant).is_none() {
            self.bytes += KV_CACHED_ENTRY_BYTES;
            self.shares.insert(tenant, Share { held: Recent::new(), bytes: KV_CACHED_ENTRY_BYTES });
        }
        self.change(tenant, |share| share.insert(place, value));
        while self.bytes > SHARD_BYTES_MAX
            && let Some(oldest) = self.shares.oldest().copied()
        {
            self.change(oldest, Share::drop_oldest);
        }
    }

    fn forget(&mut self, db: Database) {
        self.stripes.iter_mut().for_each(|stripe| stripe.ended += 1);
        self.change(db.tenant, |share| share.forget(db.id));
    }

    fn close(&mut self) {
        self.closed = true;
        self.shares = Recent::new();
        self.bytes = 0;
    }

    /// Changes what is held of a tenant, if anything is.
    fn change(&mut self, tenant: TenantId, how: impl FnOnce(&mut Share)) {
        let Some(share) = self.shares.peek_mut(&tenant) else { return };
        self.bytes -= share.bytes;
        how(share);
        if share.held.is_empty() {
            self.shares.remove(&tenant);
        } else {
            self.bytes += share.bytes;
        }
    }
}

impl Share {
    fn insert(&mut self, place: Place<'_>, value: Option<&Bytes>) {
        self.remove(place.hash);
        let (bucket, key) = (place.bucket.clone(), place.key.into());
        let held = Held { database: place.db.id, bucket, key, value: value.cloned() };
        self.bytes += held.bytes();
        self.held.insert(place.hash, held);
        while self.bytes > SHARE_BYTES_MAX && !self.held.is_empty() {
            self.drop_oldest();
        }
    }

    fn remove(&mut self, hash: u64) {
        self.bytes -= self.held.remove(&hash).as_ref().map_or(0, Held::bytes);
    }

    fn drop_oldest(&mut self) {
        self.bytes -= self.held.remove_oldest().as_ref().map_or(0, Held::bytes);
    }

    fn forget(&mut self, database: DatabaseId) {
        let bytes = &mut self.bytes;
        self.held.retain(|held| {
            let stays = held.database != database;
            *bytes -= if stays { 0 } else { held.bytes() };
            stays
        });
    }
}

impl Held {
    fn is_of(&self, place: Place<'_>) -> bool {
        self.database == place.db.id && *self.key == *place.key && self.bucket == *place.bucket
    }

    fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len) + KV_CACHED_ENTRY_BYTES
    }
}

#[cfg(test)]
mod tests;
