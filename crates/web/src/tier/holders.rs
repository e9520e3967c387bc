//! Who holds which chunk, and how a push lays it there before its release is one.
//!
//! Each chunk has an order of the persistence boxes of its own, drawn from its name and theirs (rendezvous hashing: Thaler
//! and Ravishankar, 1998). The first [`CHUNK_COPIES`] of it hold the chunk, so that room and load spread over the tier,
//! and a box that comes or goes moves no chunk but its own. A box that can't be had is passed over for the next one.
//!
//! What isn't durable on more than half of those that should hold it doesn't count: the push is refused then, and nothing
//! names what was laid. The sweep brings later what is still missing, and takes what nobody named.

use std::collections::{BTreeMap, BTreeSet};

use base::limits::{
    CHUNK_BYTES_MAX, CHUNK_COPIES, CHUNK_HOLDERS_TRIED_MAX, TIER_BOXES_AT_ONCE, TIER_CHUNK_TIME_MAX, TIER_DIGESTS_MAX,
    TIER_HELD_TIME_MAX, TIER_PACK_BYTES_MAX, TIER_PACK_CHUNKS_MAX, TIER_SETTLE_TIME_MAX,
};
use base::{BoxId, Digest, Role, TenantId};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use persist::chunks::{PutError, SettleError};
use serde::{Deserialize, Serialize};
use state::Boxes;

use super::{CallError, ChunkError, Chunks, Far, Method, Raw, hears, written};
use crate::cloud::Cloud;

/// Chunks of a tenant that are asked about, or to be made durable.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Named {
    pub(super) tenant: TenantId,
    pub(super) digests: Vec<Digest>,
}

/// Chunks themselves.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pack {
    pub(super) tenant: TenantId,
    pub(super) chunks: Vec<(Digest, Raw)>,
}

/// Why a box doesn't take chunks, or hasn't got them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub(super) enum Declined {
    /// What isn't of the persistence tier keeps chunks for as long as it likes.
    #[error("it is no persistence box")]
    NoHolder,
    #[error("it knows no such tenant")]
    NoTenant,
    #[error("its disk is full")]
    NoRoom,
    #[error("chunk {0} came with bytes that aren't its own")]
    Mismatch(Digest),
    #[error("a chunk of {0} bytes came, and {CHUNK_BYTES_MAX} are the most")]
    TooLarge(u64),
    #[error("{TIER_PACK_CHUNKS_MAX} chunks, or {TIER_DIGESTS_MAX} names of them, are the most of one call")]
    TooMany,
    #[error("chunk {0} isn't there")]
    Missing(Digest),
    #[error("its disk failed: its own log says how")]
    Broken,
}

type Reply<T> = Result<T, Declined>;

/// Why a box doesn't hold what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HolderError {
    #[error(transparent)]
    Call(CallError),
    #[error("the box declines: {0}")]
    Declined(Declined),
    #[error("the box speaks of other chunks than it was asked about")]
    Confused,
    #[error("this box can't make them durable")]
    Here(#[source] SettleError),
}

impl HolderError {
    fn is_for_want_of_room(&self) -> bool {
        matches!(self, Self::Declined(Declined::NoRoom) | Self::Here(SettleError::Full { .. }))
    }
}

/// Why a release's chunks don't lie where they must.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayError {
    #[error("the node is going down")]
    Gone,
    #[error("this box can't make the release's chunks durable")]
    Here(#[source] SettleError),
    #[error("no box of the cloud's persistence tier is known here")]
    NoHolders,
    /// It is neither here nor with anybody who could be asked.
    #[error("chunk {digest} can't be had")]
    Source {
        digest: Digest,
        #[source]
        source: ChunkError,
    },
    #[error(
        "{copies} of the persistence boxes that should hold chunk {digest} have taken it, and {needed} must; the others \
         {}", if *.full { "have no room" } else { "can't be reached, or don't take it" }
    )]
    TooFew { digest: Digest, copies: usize, needed: usize, full: bool },
}

/// All persistence boxes, in the order in which they hold this chunk. Those that are about to go come last.
pub(super) fn in_order(boxes: &Boxes, digest: Digest) -> Vec<BoxId> {
    let score = |id: BoxId| {
        let mut both = [0; 64];
        both[..32].copy_from_slice(digest.as_bytes());
        both[32..].copy_from_slice(&id.0);
        Digest::of(&both)
    };
    let mut scored: Vec<_> = boxes.with(Role::Persistence).map(|it| (it.leaving, score(it.id), it.id)).collect();
    scored.sort_unstable();
    scored.into_iter().map(|(_, _, id)| id).collect()
}

/// Those that should hold this chunk.
fn holders(boxes: &Boxes, digest: Digest) -> Vec<BoxId> {
    let mut order = in_order(boxes, digest);
    order.truncate(CHUNK_COPIES);
    order
}

/// Should this box hold the chunk?
pub(crate) fn keeps(boxes: &Boxes, me: BoxId, digest: Digest) -> bool {
    holders(boxes, digest).contains(&me)
}

/// Which boxes are asked next to take which chunks. Pure: what came of it is told with [`Plan::end`].
struct Plan {
    chunks: Vec<Laid>,
    copies: usize,
    /// Boxes that failed. They are asked for nothing more.
    out: BTreeSet<BoxId>,
    /// All of them failed for want of room.
    full: bool,
}

struct Laid {
    digest: Digest,
    /// Who may still be tried, the next one last.
    untried: Vec<BoxId>,
    copies: usize,
}

impl Plan {
    fn new(boxes: &Boxes, digests: &BTreeSet<Digest>) -> Self {
        let chunks = digests.iter().map(|digest| {
            let mut untried = in_order(boxes, *digest);
            untried.truncate(CHUNK_HOLDERS_TRIED_MAX);
            untried.reverse();
            Laid { digest: *digest, untried, copies: 0 }
        });
        let copies = boxes.with(Role::Persistence).filter(|it| !it.leaving).count().min(CHUNK_COPIES);
        Self { chunks: chunks.collect(), copies, out: BTreeSet::new(), full: true }
    }

    /// More than half of those that should hold a chunk.
    fn needed(&self) -> usize {
        self.copies / 2 + 1
    }

    /// The chunks that each box is to take next, by their numbers. Empty: there is nobody left to ask, or no need to. Each
    /// chunk that is short tries a box that it hasn't tried, of [`CHUNK_HOLDERS_TRIED_MAX`], so this ends.
    fn round(&mut self) -> BTreeMap<BoxId, Vec<usize>> {
        let mut asked: BTreeMap<BoxId, Vec<usize>> = BTreeMap::new();
        for (number, chunk) in self.chunks.iter_mut().enumerate() {
            for _ in chunk.copies..self.copies {
                while let Some(next) = chunk.untried.pop() {
                    if !self.out.contains(&next) {
                        asked.entry(next).or_default().push(number);
                        break;
                    }
                }
            }
        }
        asked
    }

    fn end(&mut self, holder: BoxId, asked: &[usize], ended: Result<(), HolderError>) {
        match ended {
            Ok(()) => asked.iter().for_each(|number| self.chunks[*number].copies += 1),
            Err(error) => {
                tracing::warn!(holder = %holder.name(), chunks = asked.len(), "chunks can't be laid on a box: {}", base::chain(&error));
                self.full &= error.is_for_want_of_room();
                self.out.insert(holder);
            }
        }
    }

    fn digests(&self, numbers: &[usize]) -> Vec<Digest> {
        numbers.iter().map(|number| self.chunks[*number].digest).collect()
    }

    fn concluded(&self) -> Result<(), LayError> {
        let needed = self.needed();
        match self.chunks.iter().find(|chunk| chunk.copies < needed) {
            None => Ok(()),
            Some(Laid { digest, copies, .. }) => {
                let full = self.full && !self.out.is_empty();
                Err(LayError::TooFew { digest: *digest, copies: *copies, needed, full })
            }
        }
    }
}

impl Far {
    /// How long those chunks are that one of their holders has. Who can't be asked has none.
    pub(super) async fn held(&self, tenant: TenantId, digests: Vec<Digest>) -> BTreeMap<Digest, u64> {
        let (Some(boxes), me) = (self.known.load_full(), self.tier.me()) else { return BTreeMap::new() };
        // Up to 80,000 chunks and the hash of each with each box: not on a core.
        let sorted = tokio::task::spawn_blocking(move || {
            let mut asked: BTreeMap<BoxId, Vec<Digest>> = BTreeMap::new();
            for digest in digests {
                for holder in holders(&boxes, digest).into_iter().filter(|holder| *holder != me) {
                    asked.entry(holder).or_default().push(digest);
                }
            }
            asked
        });
        let asked = sorted.await.unwrap_or_default();
        let mut answers = stream::iter(asked)
            .map(|(holder, digests)| async move {
                let held = self.held_by(holder, tenant, &digests).await;
                (holder, held)
            })
            .buffer_unordered(TIER_BOXES_AT_ONCE);
        let mut held = BTreeMap::new();
        while let Some((holder, answer)) = answers.next().await {
            match answer {
                Ok(found) => held.extend(found),
                Err(error) => {
                    tracing::debug!(holder = %holder.name(), "what chunks it has is unknown: {}", base::chain(&error));
                }
            }
        }
        held
    }

    async fn held_by(
        &self,
        holder: BoxId,
        tenant: TenantId,
        digests: &[Digest],
    ) -> Result<BTreeMap<Digest, u64>, HolderError> {
        let mut held = BTreeMap::new();
        for digests in digests.chunks(TIER_DIGESTS_MAX) {
            let ask = Named { tenant, digests: digests.to_vec() };
            let answer: Reply<Vec<Option<u64>>> =
                self.call(holder, Method::ChunksHeld, &ask, TIER_HELD_TIME_MAX).await.map_err(HolderError::Call)?;
            let found = answer.map_err(HolderError::Declined)?;
            if found.len() != digests.len() {
                return Err(HolderError::Confused);
            }
            held.extend(ask.digests.into_iter().zip(found).filter_map(|(digest, bytes)| Some((digest, bytes?))));
        }
        Ok(held)
    }

    /// Makes these chunks durable on the persistence tier, from here or from whoever has them.
    pub(crate) async fn lay(&self, here: &Chunks, tenant: TenantId, digests: Vec<Digest>) -> Result<(), LayError> {
        let boxes = self.known.load_full().ok_or(LayError::NoHolders)?;
        let planned = tokio::task::spawn_blocking(move || Plan::new(&boxes, &digests.into_iter().collect()));
        let mut plan = planned.await.map_err(|_| LayError::Gone)?;
        if plan.copies == 0 {
            return Err(LayError::NoHolders);
        }
        loop {
            let asked: Vec<_> = plan.round().into_iter().map(|(holder, of)| (holder, plan.digests(&of), of)).collect();
            if asked.is_empty() {
                return plan.concluded();
            }
            let mut ended = stream::iter(asked)
                .map(|(holder, digests, of)| async move {
                    let ended = self.lay_on(holder, here, tenant, digests).await;
                    (holder, of, ended)
                })
                .buffer_unordered(TIER_BOXES_AT_ONCE);
            while let Some((holder, of, ended)) = ended.next().await {
                plan.end(holder, &of, ended?);
            }
        }
    }

    /// Outside, what keeps the push as a whole from going on; inside, what keeps this box from holding the chunks.
    async fn lay_on(
        &self,
        holder: BoxId,
        here: &Chunks,
        tenant: TenantId,
        digests: Vec<Digest>,
    ) -> Result<Result<(), HolderError>, LayError> {
        if holder == self.tier.me() {
            let (store, asked) = (here.here().clone(), digests.clone());
            let looked = tokio::task::spawn_blocking(move || store.missing(tenant, &asked));
            for digest in looked.await.map_err(|_| LayError::Gone)? {
                here.get(tenant, digest).await.map_err(|source| LayError::Source { digest, source })?;
            }
            return Ok(here.settle(tenant, digests).await?.map_err(HolderError::Here));
        }
        for digests in digests.chunks(TIER_DIGESTS_MAX) {
            let held = match self.held_by(holder, tenant, digests).await {
                Ok(held) => held,
                Err(error) => return Ok(Err(error)),
            };
            let mut lacks: Vec<Digest> = digests.iter().copied().filter(|digest| !held.contains_key(digest)).collect();
            while !lacks.is_empty() {
                let _place = self.packs.acquire().await.map_err(|_| LayError::Gone)?;
                let (chunks, rest) = pack(here, tenant, lacks).await?;
                lacks = rest;
                let answer = self.call(holder, Method::ChunksPut, &Pack { tenant, chunks }, TIER_CHUNK_TIME_MAX).await;
                if let Err(error) = answered(answer) {
                    return Ok(Err(error));
                }
            }
            let ask = Named { tenant, digests: digests.to_vec() };
            let answer = self.call(holder, Method::ChunksSettle, &ask, TIER_SETTLE_TIME_MAX).await;
            if let Err(error) = answered(answer) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }
}

fn answered(answer: Result<Reply<()>, CallError>) -> Result<(), HolderError> {
    answer.map_err(HolderError::Call)?.map_err(HolderError::Declined)
}

type Packed = Vec<(Digest, Raw)>;

/// As many of the chunks as one call carries, and the rest. One that isn't here is fetched, and goes alone.
async fn pack(here: &Chunks, tenant: TenantId, digests: Vec<Digest>) -> Result<(Packed, Vec<Digest>), LayError> {
    let store = here.here().clone();
    let read = tokio::task::spawn_blocking(move || {
        let (mut chunks, mut bytes) = (Vec::new(), 0);
        for digest in digests.iter().take(TIER_PACK_CHUNKS_MAX) {
            let length = store.file(tenant, *digest).ok().and_then(|file| file.metadata().ok()).map(|meta| meta.len());
            bytes += length.unwrap_or(u64::MAX).min(2 * TIER_PACK_BYTES_MAX as u64);
            if bytes > TIER_PACK_BYTES_MAX as u64 {
                break;
            }
            let Ok(chunk) = store.get(tenant, *digest) else { break };
            chunks.push((*digest, Raw(chunk)));
        }
        (chunks, digests)
    });
    let (mut chunks, mut digests) = read.await.map_err(|_| LayError::Gone)?;
    if let ([], Some(digest)) = (chunks.as_slice(), digests.first().copied()) {
        let chunk = here.get(tenant, digest).await.map_err(|source| LayError::Source { digest, source })?;
        chunks.push((digest, Raw(chunk)));
    }
    let rest = digests.split_off(chunks.len());
    Ok((chunks, rest))
}

/// Answers what another box asks of this one as a holder of chunks.
pub(crate) async fn answer(cloud: &Cloud, far: &Far, method: Method, body: Bytes) -> Result<Bytes, String> {
    let (store, holds) = (cloud.store.chunks.clone(), far.roles.has(Role::Persistence));
    if method == Method::ChunksPut {
        return put(cloud, store, holds, body).await;
    }
    let work = move || {
        let Named { tenant, digests } =
            postcard::from_bytes(&body).map_err(|error| format!("no names of chunks: {error}"))?;
        let few = if digests.len() > TIER_DIGESTS_MAX { Err(Declined::TooMany) } else { Ok(()) };
        if method == Method::ChunksHeld {
            return written(&few.map(|()| store.held(tenant, &digests)));
        }
        // No names make no folder of a tenant that there isn't.
        let settle = || match digests.as_slice() {
            _ if !holds => Err(Declined::NoHolder),
            [] => Ok(()),
            digests => store.settle(tenant, digests).map_err(unsettled),
        };
        written(&few.and_then(|()| settle()))
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| "the node is going down".to_owned())?
}

async fn put(cloud: &Cloud, store: persist::Chunks, holds: bool, body: Bytes) -> Result<Bytes, String> {
    let (tenant, _): (TenantId, _) =
        postcard::take_from_bytes(&body).map_err(|error| format!("no chunks of a tenant: {error}"))?;
    if !holds {
        return written(&Reply::<()>::Err(Declined::NoHolder));
    }
    if !hears(cloud, |record| record.tenant(tenant).is_some()).await {
        return written(&Reply::<()>::Err(Declined::NoTenant));
    }
    let work = move || {
        let Pack { tenant, chunks } = postcard::from_bytes(&body).map_err(|error| format!("no chunks: {error}"))?;
        let put = || {
            if chunks.len() > TIER_PACK_CHUNKS_MAX {
                return Err(Declined::TooMany);
            }
            chunks.into_iter().try_for_each(|(digest, Raw(bytes))| store.put(tenant, digest, &bytes).map_err(unput))
        };
        written(&put())
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| "the node is going down".to_owned())?
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` calls")]
fn unput(error: PutError) -> Declined {
    match error {
        PutError::TooLarge { bytes, .. } => Declined::TooLarge(bytes as u64),
        PutError::Mismatch { wanted, .. } => Declined::Mismatch(wanted),
        PutError::Full { .. } | PutError::NoRoom => Declined::NoRoom,
        PutError::Write { .. } => broken(&error),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` calls")]
fn unsettled(error: SettleError) -> Declined {
    match error {
        SettleError::Missing(digest) => Declined::Missing(digest),
        SettleError::Full { .. } => Declined::NoRoom,
        SettleError::Sync { .. } => broken(&error),
    }
}

fn broken(error: &dyn std::error::Error) -> Declined {
    tracing::error!("chunks from another box can't be kept: {}", base::chain(error));
    Declined::Broken
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use base::{CloudId, Name, Timestamp};
    use proptest::prelude::*;
    use state::CloudBox;

    use super::*;

    fn boxes(count: u8) -> Boxes {
        let named = |name: &str| name.parse::<Name>().expect("a name");
        let holder = |number: u8| {
            let id = BoxId([number; 32]);
            let it = CloudBox {
                id,
                name: named(&format!("box-{number}")),
                roles: "persistence".parse().expect("a role"),
                labels: BTreeMap::new(),
                admitted: Timestamp(1),
                order: String::new(),
                joined: Some(Timestamp(2)),
                addresses: Vec::new(),
                leaving: false,
                warrant: None,
            };
            (id, Arc::new(it))
        };
        Boxes {
            cloud: CloudId([1; 16]),
            name: named("hut"),
            domain: "localhost".to_owned(),
            operators: BTreeSet::new(),
            boxes: (0..count).map(holder).collect(),
            evicted: BTreeMap::new(),
            homes: BTreeMap::new(),
        }
    }

    fn digests(count: u32) -> BTreeSet<Digest> {
        (0..count).map(|number| Digest::of(&number.to_be_bytes())).collect()
    }

    #[test]
    fn room_is_shared_and_a_box_that_goes_moves_its_own_chunks_alone() {
        let (all, digests) = (boxes(5), digests(4_000));
        let mut fewer = all.clone();
        let gone = BoxId([3; 32]);
        fewer.boxes.remove(&gone);
        let mut held: BTreeMap<BoxId, usize> = BTreeMap::new();
        for digest in &digests {
            let before = holders(&all, *digest);
            for holder in &before {
                *held.entry(*holder).or_default() += 1;
            }
            let stay: Vec<_> = before.iter().filter(|holder| **holder != gone).copied().collect();
            assert_eq!(holders(&fewer, *digest)[..stay.len()], stay);
        }
        // 2,400 each: five standard deviations are 155.
        assert!(held.values().all(|count| count.abs_diff(2_400) < 155), "{held:?}");
    }

    #[test]
    fn a_box_that_is_about_to_go_holds_nothing_new() {
        let mut all = boxes(4);
        let going = BoxId([2; 32]);
        Arc::make_mut(all.boxes.get_mut(&going).expect("one of four")).leaving = true;
        for digest in digests(50) {
            assert!(!holders(&all, digest).contains(&going));
            assert_eq!(in_order(&all, digest).last(), Some(&going), "it is still asked for what it has");
        }
        assert_eq!(Plan::new(&all, &digests(1)).copies, 3);
    }

    #[test]
    fn a_chunk_is_for_as_many_boxes_as_there_are() {
        for (count, copies, needed) in [(0, 0, 1), (1, 1, 1), (2, 2, 2), (3, 3, 2), (9, 3, 2)] {
            let plan = Plan::new(&boxes(count), &digests(1));
            assert_eq!((plan.copies, plan.needed()), (copies, needed), "of {count}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

        /// Whichever boxes fail: nobody is asked for a chunk twice, nor anything after failing; what is told is what lies
        /// there; and a push that could be, is.
        #[test]
        fn a_plan_ends_with_what_can_be_had(count in 1_u8..12, failing in any::<u16>(), chunks in 1_u32..40) {
            let fails = |id: BoxId| failing >> id.0[0] & 1 == 1;
            let boxes = boxes(count);
            let mut plan = Plan::new(&boxes, &digests(chunks));
            let mut asked = BTreeSet::new();
            let (mut laid, mut out) = (BTreeMap::<usize, usize>::new(), BTreeSet::new());
            for rounds in 0.. {
                let round = plan.round();
                if round.is_empty() {
                    break;
                }
                prop_assert!(rounds < CHUNK_HOLDERS_TRIED_MAX);
                for (holder, numbers) in round {
                    prop_assert!(!out.contains(&holder));
                    for number in &numbers {
                        prop_assert!(asked.insert((holder, *number)));
                        if !fails(holder) {
                            *laid.entry(*number).or_default() += 1;
                        }
                    }
                    let ended = if fails(holder) {
                        out.insert(holder);
                        Err(HolderError::Declined(Declined::NoRoom))
                    } else {
                        Ok(())
                    };
                    plan.end(holder, &numbers, ended);
                }
            }
            let all = |number: &usize| {
                let tried = in_order(&boxes, plan.chunks[*number].digest).into_iter().take(CHUNK_HOLDERS_TRIED_MAX);
                let could = tried.filter(|holder| !fails(*holder)).count().min(plan.copies);
                laid.get(number).copied().unwrap_or(0) == could
            };
            prop_assert!((0..plan.chunks.len()).all(|number| all(&number)));
            let whole = (0..plan.chunks.len()).all(|number| laid.get(&number).copied().unwrap_or(0) >= plan.needed());
            match plan.concluded() {
                Ok(()) => prop_assert!(whole),
                Err(error) => {
                    let full = matches!(error, LayError::TooFew { full: true, .. });
                    prop_assert!(!whole && full);
                }
            }
        }
    }
}
