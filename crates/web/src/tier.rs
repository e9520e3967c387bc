//! What boxes of one cloud ask of each other for their tenants' sake, and answer: data, chunks and logs.
//!
//! How it travels, and that it comes from whom it says, is somebody else's ([`Tier`]). Here is what is asked, what it
//! means, and who may ask it: a box that the record has, by its roles there, for what this box holds.
//!
//! A box that is taken over can ask for any tenant's data, as it could read its own memory: docs/security.md says so.

mod beats;
mod chunks;
mod data;
mod holders;
mod logs;
mod moving;
mod tokens;
mod voters;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base::limits::{TIER_NEWS_TIME_MAX, TIER_PACKS_AT_ONCE};
use base::{BoxId, Role, Roles};
use bytes::Bytes;
use persist::record::News;
use serde::Serialize;
use serde::de::DeserializeOwned;
use state::{Boxes, Record};
use tokio::sync::Semaphore;

use crate::cloud::Cloud;

pub(crate) use beats::{Beats, Heard};
pub(crate) use chunks::{ChunkError, Chunks, answer as answer_chunk};
pub(crate) use data::{Home, Operation, Raw, answer as answer_data, homeless};
pub(crate) use holders::{LayError, answer as answer_holders, keeps};
pub(crate) use logs::{Asked, Merged, Told, answer as answer_logs, merged};
pub(crate) use moving::Arrivals;
pub use tokens::{AccessWish, MintError};
pub(crate) use tokens::{Makers, Wish};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The record's own: votes, entries, proposals, news.
    Record,
    /// An operation on a database that lives elsewhere.
    Data,
    /// The same of many keys at once, whose values may be much.
    DataOfMany,
    /// The bytes of a chunk.
    Chunk,
    /// Which chunks a box has, and how long they are.
    ChunksHeld,
    /// Here are chunks.
    ChunksPut,
    /// Make chunks durable.
    ChunksSettle,
    /// Lines of an app's log.
    Logs,
    /// How the box that asks is.
    Beat,
    /// How all the others are, as the one who is asked has heard.
    Vitals,
    /// A token, of an auth box.
    Mint,
    /// A part of a database that comes to live on the box that is asked.
    Database,
}

impl Method {
    const ALL: [Self; 12] = [
        Self::Record,
        Self::Data,
        Self::DataOfMany,
        Self::Chunk,
        Self::ChunksHeld,
        Self::ChunksPut,
        Self::ChunksSettle,
        Self::Logs,
        Self::Beat,
        Self::Vitals,
        Self::Mint,
        Self::Database,
    ];

    /// Its number between boxes, which stays what it is for ever.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Record => 1,
            Self::Data => 2,
            Self::Chunk => 3,
            Self::ChunksHeld => 4,
            Self::ChunksPut => 5,
            Self::ChunksSettle => 6,
            Self::Logs => 7,
            Self::DataOfMany => 8,
            Self::Beat => 16,
            Self::Vitals => 17,
            Self::Mint => 18,
            Self::Database => 19,
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

/// What other boxes have.
#[derive(Clone)]
pub(crate) struct Far {
    pub(crate) tier: Arc<dyn Tier>,
    /// This box's.
    pub(crate) roles: Roles,
    pub(crate) known: Known,
    /// Databases of this box for which somebody else may be asked by now.
    pub(crate) moving: moving::Moving,
    /// Places for calls that carry chunks to other boxes.
    packs: Arc<Semaphore>,
    /// Those of other boxes who read logs here.
    pub(crate) readers: Arc<logs::Readers>,
}

/// Why there is no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Tier(#[from] TierError),
    #[error("the question can't be written: {0}")]
    Unwritable(postcard::Error),
    #[error("the box's answer can't be read: {0}")]
    Garbled(postcard::Error),
}

impl Far {
    pub(crate) fn new(tier: Arc<dyn Tier>, roles: Roles, known: Known) -> Self {
        Self {
            tier,
            roles,
            known,
            moving: Arc::default(),
            packs: Arc::new(Semaphore::new(TIER_PACKS_AT_ONCE)),
            readers: Arc::default(),
        }
    }

    async fn call<A: DeserializeOwned>(
        &self,
        to: BoxId,
        method: Method,
        ask: &impl Serialize,
        within: Duration,
    ) -> Result<A, CallError> {
        let body = postcard::to_allocvec(ask).map_err(CallError::Unwritable)?;
        let answer = self.tier.ask(to, method, body.into(), within).await?;
        postcard::from_bytes(&answer).map_err(CallError::Garbled)
    }
}

/// Is it so, by the record? Whoever asks may have heard a moment earlier than this box.
async fn hears(cloud: &Cloud, is_so: impl Fn(&Record) -> bool + Send + Sync) -> bool {
    let (record, mut watcher) = cloud.store.record.subscribe();
    if is_so(&record) {
        return true;
    }
    let heard = async {
        while let Some(News::Changed { record, .. } | News::Lagged { record }) = watcher.next().await {
            if is_so(&record) {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(TIER_NEWS_TIME_MAX, heard).await.unwrap_or(false)
}

fn written(answer: &impl Serialize) -> Result<Bytes, String> {
    postcard::to_allocvec(answer).map(Bytes::from).map_err(|error| error.to_string())
}

/// May the box ask this? A push may land on any box, and so may a question for a log: whoever has come may read and lay
/// chunks and read logs. Data is for those who run code or hold it.
pub(crate) fn may_ask(known: &Known, from: BoxId, method: Method) -> bool {
    let known = known.load();
    let Some(it) = known.as_ref().and_then(|boxes| boxes.boxes.get(&from)) else { return false };
    let may = match method {
        Method::Data | Method::DataOfMany => it.roles.has(Role::Web) || it.roles.has(Role::Persistence),
        Method::Database => it.roles.has(Role::Persistence),
        Method::Record
        | Method::Chunk
        | Method::ChunksHeld
        | Method::ChunksPut
        | Method::ChunksSettle
        | Method::Logs
        | Method::Beat
        | Method::Vitals
        | Method::Mint => true,
    };
    it.joined.is_some() && may
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod town;
