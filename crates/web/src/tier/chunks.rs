//! Chunks as the cloud has them: here, or on the boxes of its persistence tier.
//!
//! What comes from another box is kept here for whoever asks next, and is checked against its name before anything else.

use std::collections::BTreeMap;

use base::limits::TIER_CHUNK_TIME_MAX;
use base::{BoxId, Digest, TenantId};
use bytes::Bytes;
use persist::chunks::{GetError, SettleError};
use serde::{Deserialize, Serialize};
use state::Boxes;

use super::holders::{LayError, in_order};
use super::{Far, Method};

/// A question for a chunk.
#[derive(Debug, Serialize, Deserialize)]
struct Ask {
    tenant: TenantId,
    digest: Digest,
}

/// The chunks of all tenants.
#[derive(Clone)]
pub(crate) struct Chunks {
    here: persist::Chunks,
    /// None of `firm up`.
    far: Option<Far>,
}

/// Why a chunk can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChunkError {
    #[error("the node is going down")]
    Gone,
    #[error("a chunk can't be read")]
    Get(#[source] GetError),
}

impl ChunkError {
    /// Nobody who could be asked has it.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Get(GetError::Missing(_)))
    }
}

impl Chunks {
    pub(crate) fn new(here: persist::Chunks, far: Option<Far>) -> Self {
        Self { here, far }
    }

    pub(super) fn here(&self) -> &persist::Chunks {
        &self.here
    }

    /// The bytes, checked against their digest. What comes from another box is kept here for whoever asks next.
    pub(crate) async fn get(&self, tenant: TenantId, digest: Digest) -> Result<Bytes, ChunkError> {
        let here = self.here.clone();
        let found = tokio::task::spawn_blocking(move || here.get(tenant, digest)).await;
        let (missing, far) = match (found.map_err(|_| ChunkError::Gone)?, &self.far) {
            // What the disk has spoilt is as good as missing: what is kept then takes its place.
            (Err(missing @ (GetError::Missing(_) | GetError::Damaged { .. })), Some(far)) => (missing, far),
            (found, _) => return found.map_err(ChunkError::Get),
        };
        let fetched = far.chunk(tenant, digest).await.ok_or(ChunkError::Get(missing))?;
        let (here, kept) = (self.here.clone(), fetched.clone());
        // A disk without room is no reason to send nothing: the bytes were checked on their way here.
        let keep = tokio::task::spawn_blocking(move || {
            if let Err(error) = here.put(tenant, digest, &kept) {
                tracing::warn!(%digest, "a chunk from another box can't be kept: {}", base::chain(&error));
            } else if let Err(error) = here.settle(tenant, &[digest]) {
                tracing::warn!(%digest, "a chunk from another box can't be made durable: {}", base::chain(&error));
            }
        });
        keep.await.map_err(|_| ChunkError::Gone)?;
        Ok(fetched)
    }

    /// How long each chunk is that is here, or with one of those that should hold it. The others must be uploaded.
    pub(crate) async fn held(
        &self,
        tenant: TenantId,
        digests: Vec<Digest>,
    ) -> Result<BTreeMap<Digest, u64>, ChunkError> {
        let here = self.here.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let found = here.held(tenant, &digests);
            let (mut held, mut missing) = (BTreeMap::new(), Vec::new());
            for (digest, bytes) in digests.into_iter().zip(found) {
                match bytes {
                    Some(bytes) => drop(held.insert(digest, bytes)),
                    None => missing.push(digest),
                }
            }
            (held, missing)
        });
        let (mut held, missing) = looked.await.map_err(|_| ChunkError::Gone)?;
        if let Some(far) = &self.far
            && !missing.is_empty()
        {
            held.extend(far.held(tenant, missing).await);
        }
        Ok(held)
    }

    /// Puts a chunk where it is durable with all the others, once they are laid.
    pub(crate) async fn lay(&self, tenant: TenantId, digests: Vec<Digest>) -> Result<(), LayError> {
        match &self.far {
            Some(far) => far.lay(self, tenant, digests).await,
            None => self.settle(tenant, digests).await?.map_err(LayError::Here),
        }
    }

    pub(super) async fn settle(
        &self,
        tenant: TenantId,
        digests: Vec<Digest>,
    ) -> Result<Result<(), SettleError>, LayError> {
        let here = self.here.clone();
        tokio::task::spawn_blocking(move || here.settle(tenant, &digests)).await.map_err(|_| LayError::Gone)
    }
}

impl Far {
    /// The bytes of a chunk, from whichever box of the persistence tier has them right. Those that should are asked first.
    async fn chunk(&self, tenant: TenantId, digest: Digest) -> Option<Bytes> {
        let body: Bytes = postcard::to_allocvec(&Ask { tenant, digest }).ok()?.into();
        for holder in self.others(&*self.known.load_full()?, digest) {
            match self.tier.ask(holder, Method::Chunk, body.clone(), TIER_CHUNK_TIME_MAX).await {
                Ok(bytes) if Digest::of(&bytes) == digest => return Some(bytes),
                Ok(_) => tracing::error!(%digest, holder = %holder.name(), "a box sends other bytes than a chunk's"),
                Err(error) => tracing::debug!(%digest, holder = %holder.name(), "no chunk from there: {error}"),
            }
        }
        None
    }

    fn others(&self, boxes: &Boxes, digest: Digest) -> Vec<BoxId> {
        let me = self.tier.me();
        in_order(boxes, digest).into_iter().filter(|holder| *holder != me).collect()
    }
}

/// Answers a question for a chunk. Blocks.
pub(crate) fn answer(chunks: &persist::Chunks, body: &[u8]) -> Result<Bytes, String> {
    let ask: Ask = postcard::from_bytes(body).map_err(|error| format!("no question for a chunk: {error}"))?;
    chunks.get(ask.tenant, ask.digest).map_err(|error| base::chain(&error))
}
