//! What boxes of one cloud ask of each other for their tenants' sake, and answer: data and chunks.
//!
//! How it travels, and that it comes from whom it says, is somebody else's ([`Tier`]). Here is what is asked, what it
//! means, and who may ask it: a box that the record has, by its roles there, for what this box holds.
//!
//! A box that is taken over can ask for any tenant's data, as it could read its own memory: docs/security.md says so.

mod beats;
mod data;
mod tokens;
mod voters;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base::limits::TIER_CHUNK_TIME_MAX;
use base::{BoxId, Digest, Role, TenantId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use state::Boxes;

use persist::chunks::GetError;

pub(crate) use beats::{Beats, Heard};
pub use tokens::{AccessWish, MintError};
pub(crate) use tokens::{Makers, Wish};
pub(crate) use data::{Far, Operation, Raw, answer as answer_data};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The record's own: votes, entries, proposals, news.
    Record,
    /// An operation on a database that lives elsewhere.
    Data,
    /// The bytes of a chunk.
    Chunk,
    /// How the box that asks is.
    Beat,
    /// How all the others are, as the one who is asked has heard.
    Vitals,
    /// A token, of an auth box.
    Mint,
}

impl Method {
    const ALL: [Self; 6] = [Self::Record, Self::Data, Self::Chunk, Self::Beat, Self::Vitals, Self::Mint];

    /// Its number between boxes, which stays what it is for ever.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Record => 1,
            Self::Data => 2,
            Self::Chunk => 3,
            Self::Beat => 16,
            Self::Vitals => 17,
            Self::Mint => 18,
        }
    }

    #[must_use]
    pub fn of(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.number() == number)
    }
}

/// Why another box didn't answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TierError {
    /// Nothing happened.
    #[error("the box can't be reached: {0}")]
    Unreachable(String),
    /// Nothing happened.
    #[error("the box has too much to do")]
    Busy,
    /// Nothing happened.
    #[error("the box refuses: {0}")]
    Refused(String),
    /// It may have happened.
    #[error("whether it was done is unknown: {0}")]
    Unknown(String),
}

/// An answer, later.
pub type Answered = Pin<Box<dyn Future<Output = Result<Bytes, TierError>> + Send>>;

/// The other boxes.
pub trait Tier: Send + Sync + 'static {
    /// This box.
    fn me(&self) -> BoxId;

    /// Blank boxes that said G'day on this box's segments, and where they say to be. Hints, and no more: an operator's
    /// program knocks there and is shown who it is.
    fn nearby(&self) -> Vec<(BoxId, Vec<SocketAddr>)>;

    /// What the record says of the boxes has changed.
    fn know(&self, boxes: &Arc<Boxes>);

    /// Signs with this box's key what it vouches for.
    fn vouch(&self, word: &[u8]) -> String;

    /// Did the holder of this key vouch for it?
    fn is_vouched(&self, by: BoxId, word: &[u8], signature: &str) -> bool;

    /// Whose orders this box takes: by its own order, whatever the record says.
    fn operators(&self) -> &BTreeSet<BoxId>;

    /// Has this box ever known its cloud to have an auth box?
    fn has_auth(&self) -> bool;

    /// It has, from now on for ever.
    fn keep_auth(&self);

    /// Asks a box, and waits no longer than `within`. May be called from any thread and runtime.
    fn ask(&self, to: BoxId, method: Method, body: Bytes, within: Duration) -> Answered;
}

/// What the record says of the boxes, for those who ask at every request. None until it is known, and of `firm up`.
pub type Known = Arc<ArcSwapOption<Boxes>>;

/// A question for a chunk.
#[derive(Debug, Serialize, Deserialize)]
struct ChunkAsk {
    tenant: TenantId,
    digest: Digest,
}

/// Chunks as the cloud has them: here, or on the boxes of its persistence tier.
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
    Get(#[source] persist::chunks::GetError),
}

impl Chunks {
    pub(crate) fn new(here: persist::Chunks, far: Option<Far>) -> Self {
        Self { here, far }
    }

    /// The bytes, checked against their digest. What comes from another box is kept here for whoever asks next.
    pub(crate) async fn get(&self, tenant: TenantId, digest: Digest) -> Result<Bytes, ChunkError> {
        let here = self.here.clone();
        let found = tokio::task::spawn_blocking(move || here.get(tenant, digest)).await;
        let missing = match (found.map_err(|_| ChunkError::Gone)?, &self.far) {
            (Err(missing @ GetError::Missing(_)), Some(far)) => (missing, far),
            (found, _) => return found.map_err(ChunkError::Get),
        };
        let (missing, far) = missing;
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
}

impl Far {
    /// The bytes of a chunk, from whichever box of the persistence tier has them right.
    async fn chunk(&self, tenant: TenantId, digest: Digest) -> Option<Bytes> {
        let body: Bytes = postcard::to_allocvec(&ChunkAsk { tenant, digest }).ok()?.into();
        let boxes = self.known.load_full()?;
        let me = self.tier.me();
        for holder in boxes.with(Role::Persistence).map(|it| it.id).filter(|id| *id != me) {
            match self.tier.ask(holder, Method::Chunk, body.clone(), TIER_CHUNK_TIME_MAX).await {
                Ok(bytes) if Digest::of(&bytes) == digest => return Some(bytes),
                Ok(_) => tracing::error!(%digest, holder = %holder.name(), "a box sends other bytes than a chunk's"),
                Err(error) => tracing::debug!(%digest, holder = %holder.name(), "no chunk from there: {error}"),
            }
        }
        None
    }
}

/// Answers a question for a chunk. Blocks.
pub(crate) fn answer_chunk(chunks: &persist::Chunks, body: &[u8]) -> Result<Bytes, String> {
    let ask: ChunkAsk = postcard::from_bytes(body).map_err(|error| format!("no question for a chunk: {error}"))?;
    chunks.get(ask.tenant, ask.digest).map_err(|error| base::chain(&error))
}

/// May the box ask for databases and chunks?
pub(crate) fn may_ask(known: &Known, from: BoxId) -> bool {
    known.load().as_ref().is_some_and(|boxes| {
        boxes
            .boxes
            .get(&from)
            .is_some_and(|it| it.joined.is_some() && (it.roles.has(Role::Web) || it.roles.has(Role::Persistence)))
    })
}

#[cfg(test)]
mod tests;
