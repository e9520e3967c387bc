//! Chunks that are too large for the cache, for as long as somebody is sent them.
//!
//! A visitor who asks for much and takes nothing keeps what he asked for in memory. So a core reads a chunk once for all
//! who are sent it at a time, and lends no more bytes than it has room for; who finds no room waits, for no longer than
//! slow visitors are borne with.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use base::limits::{CHUNK_BYTES_MAX, CHUNK_WAIT_MAX, CHUNKS_LENT_BYTES_PER_CORE, STATIC_CACHED_FILE_BYTES_MAX};
use base::{Digest, TenantId};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::AssetsError;

type Key = (TenantId, Digest);

/// Entries beyond which those of chunks that nobody has any more are swept out: twice as many as can be lent at once.
const ENTRIES_MAX: usize = 2 * CHUNKS_LENT_BYTES_PER_CORE / STATIC_CACHED_FILE_BYTES_MAX;

/// What the chunks of one tenant may take at the most, so that slow visitors of one leave room for others'.
const TENANT_BYTES_MAX: usize = CHUNKS_LENT_BYTES_PER_CORE / 2;

pub(super) struct Lent {
    held: RefCell<HashMap<Key, Weak<Held>>>,
    room: Arc<Semaphore>,
    /// Of each tenant that has something lent.
    rooms: RefCell<HashMap<TenantId, Weak<Semaphore>>>,
}

struct Held {
    bytes: Bytes,
    /// Of its tenant's room, and of all.
    _room: [Option<OwnedSemaphorePermit>; 2],
}

struct Loan(Arc<Held>);

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Lent {
    pub(super) fn new() -> Self {
        let room = Arc::new(Semaphore::new(CHUNKS_LENT_BYTES_PER_CORE));
        Self { held: RefCell::default(), room, rooms: RefCell::default() }
    }

    fn room_of(&self, tenant: TenantId) -> Arc<Semaphore> {
        let mut rooms = self.rooms.borrow_mut();
        if let Some(held) = rooms.get(&tenant).and_then(Weak::upgrade) {
            return held;
        }
        if rooms.len() >= ENTRIES_MAX {
            rooms.retain(|_, room| room.strong_count() > 0);
        }
        let room = Arc::new(Semaphore::new(TENANT_BYTES_MAX));
        rooms.insert(tenant, Arc::downgrade(&room));
        room
    }

    fn held(&self, key: &Key) -> Option<Bytes> {
        self.held.borrow().get(key).and_then(Weak::upgrade).map(|held| Bytes::from_owner(Loan(held)))
    }

    /// A chunk, read by `read` unless it is lent already. Small ones are given away.
    pub(super) async fn chunk(
        &self,
        key: Key,
        read: impl Future<Output = Result<Bytes, AssetsError>>,
    ) -> Result<Bytes, AssetsError> {
        if let Some(held) = self.held(&key) {
            return Ok(held);
        }
        // Of the largest size, until it is known which it has.
        let most = u32::try_from(CHUNK_BYTES_MAX).expect("4 MiB fit");
        let (own, all) = (self.room_of(key.0), Arc::clone(&self.room));
        let rooms = async { (own.acquire_many_owned(most).await, all.acquire_many_owned(most).await) };
        let Ok((Ok(mut own), Ok(mut all))) = tokio::time::timeout(CHUNK_WAIT_MAX, rooms).await else {
            return Err(AssetsError::NoRoom);
        };
        // While it waited, and while it reads, others do the same: of what they read one copy is kept.
        if let Some(held) = self.held(&key) {
            return Ok(held);
        }
        let bytes = read.await?;
        if let Some(held) = self.held(&key) {
            return Ok(held);
        }
        if bytes.len() <= STATIC_CACHED_FILE_BYTES_MAX {
            return Ok(bytes);
        }
        let held = Arc::new(Held { _room: [own.split(bytes.len()), all.split(bytes.len())], bytes });
        let mut others = self.held.borrow_mut();
        if others.len() >= ENTRIES_MAX {
            others.retain(|_, held| held.strong_count() > 0);
        }
        others.insert(key, Arc::downgrade(&held));
        Ok(Bytes::from_owner(Loan(held)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two tenants by turns.
    fn key(number: usize) -> Key {
        (TenantId(1 + number as u64 % 2), Digest::of(&number.to_be_bytes()))
    }

    /// Has it to wait for room, whatever else goes on meanwhile?
    async fn waits<F: Future + Unpin>(chunk: &mut F) -> bool {
        tokio::select! {
            biased;
            _ = chunk => false,
            () = tokio::task::yield_now() => true,
        }
    }

    #[tokio::test]
    async fn so_many_bytes_are_lent_and_no_more() {
        let lent = Lent::new();
        let chunk = |number| lent.chunk(key(number), async { Ok(Bytes::from(vec![0; CHUNK_BYTES_MAX])) });
        let mut loans = Vec::new();
        for number in 0..CHUNKS_LENT_BYTES_PER_CORE / CHUNK_BYTES_MAX {
            loans.push(chunk(number).await.expect("there is room"));
        }
        // What is lent is lent to others too.
        loans.push(lent.chunk(key(7), async { panic!("it is held") }).await.expect("it is held"));
        let next = chunk(9_998);
        tokio::pin!(next);
        assert!(waits(&mut next).await, "there is no room");
        loans.swap_remove(0);
        assert!(next.await.is_ok());
    }

    #[tokio::test]
    async fn a_tenant_leaves_room_for_others() {
        let lent = Lent::new();
        let chunk = |number| lent.chunk(key(number), async { Ok(Bytes::from(vec![0; CHUNK_BYTES_MAX])) });
        let mut loans = Vec::new();
        for number in 0..TENANT_BYTES_MAX / CHUNK_BYTES_MAX {
            loans.push(chunk(2 * number).await.expect("there is room"));
        }
        let more = chunk(2 * 9_999);
        tokio::pin!(more);
        assert!(waits(&mut more).await, "it is half of all");
        loans.push(chunk(1).await.expect("another has its own"));
        loans.swap_remove(0);
        assert!(more.await.is_ok());
    }

    #[tokio::test]
    async fn what_is_gone_is_forgotten() {
        let lent = Lent::new();
        for number in 0..3 * ENTRIES_MAX {
            let large = Bytes::from(vec![0; STATIC_CACHED_FILE_BYTES_MAX + 1]);
            drop(lent.chunk(key(number), async { Ok(large) }).await.expect("there is room"));
        }
        assert!(lent.held.borrow().len() <= ENTRIES_MAX && lent.rooms.borrow().len() <= ENTRIES_MAX);
        assert_eq!(lent.room.available_permits(), CHUNKS_LENT_BYTES_PER_CORE);
    }
}
