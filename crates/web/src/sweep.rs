//! The sweep: takes chunks and compiled components that no release names, once they are too old to belong to a push
//! under way; and fetches those that this box should hold and hasn't.
//!
//! A reconciler: it takes no hint, reads what the record names and what the disk holds, and makes up the difference.
//! A tenant whose releases can't all be read is left alone.
//!
//! A box without the persistence role keeps chunks only so that it needn't fetch them again. There what no stage runs
//! goes, and all of it where the disk runs short.

use std::collections::HashSet;
use std::sync::Arc;

use base::limits::{CHUNK_ORPHAN_AGE, DISK_FREE_BYTES_MIN, SWEEP_EVERY, SWEEP_FETCHES_MAX, SWEEP_SOON};
use base::{Digest, Role, chain};
use persist::chunks::GetError;
use sandbox::Keep;
use state::Tenant;

use crate::cloud::Cloud;
use crate::tier::{self, ChunkError};

/// Sweeps for as long as the node lives.
pub(crate) async fn sweep(cloud: Arc<Cloud>) {
    let mut every = tokio::time::interval(SWEEP_EVERY);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            // Who holds what has changed: what belongs here by now is fetched, but not for each of many boxes that come.
            () = cloud.sweep_soon.notified() => tokio::time::sleep(SWEEP_SOON).await,
        }
        sweep_once(&cloud).await;
        if let Some(far) = &cloud.far {
            far.readers.expire();
        }
    }
}

/// What chunks are to this box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The only ones that there are.
    Alone,
    /// Its share of the cloud's.
    Holder,
    /// Copies.
    Cache,
    /// Nothing that is known yet: the record hasn't come.
    Unknown,
}

impl Part {
    fn of(cloud: &Cloud) -> Self {
        let Some(far) = &cloud.far else { return Self::Alone };
        match cloud.record().boxes() {
            Some(_) if far.roles.has(Role::Persistence) => Self::Holder,
            Some(_) => Self::Cache,
            None => Self::Unknown,
        }
    }
}

/// What a tenant's releases name.
#[derive(Default)]
struct Named {
    chunks: HashSet<Digest>,
    components: HashSet<Digest>,
}

pub(crate) async fn sweep_once(cloud: &Arc<Cloud>) {
    let part = Part::of(cloud);
    if part == Part::Unknown {
        return;
    }
    let mut artifacts = Keep::new();
    let mut fetches = SWEEP_FETCHES_MAX;
    for tenant in cloud.record().tenants() {
        let kept = sweep_tenant(cloud, part, tenant, &mut fetches).await;
        match &kept {
            Ok(_) => {}
            Err(SweepError::Away) => tracing::debug!(tenant = %tenant.name, "not swept: {}", SweepError::Away),
            Err(error) => tracing::warn!(tenant = %tenant.name, "not swept: {}", chain(error)),
        }
        artifacts.insert(tenant.id, kept.ok());
    }
    let sandbox = cloud.sandbox.clone();
    match tokio::task::spawn_blocking(move || sandbox.sweep(&artifacts, CHUNK_ORPHAN_AGE)).await {
        Ok(Ok(0)) => {}
        Ok(Ok(files)) => tracing::info!(files, "compiled components swept"),
        Ok(Err(error)) => tracing::warn!("compiled components can't be swept: {error}"),
        Err(error) => tracing::error!("the sweep broke off: {error}"),
    }
}

/// Lays all that releases name, and this box has, on those that should hold it: before it goes. What is said is why not.
pub(crate) async fn lay_away(cloud: &Arc<Cloud>) -> Result<(), String> {
    let Some(far) = &cloud.far else { return Ok(()) };
    for tenant in cloud.record().tenants() {
        let mut fetches = SWEEP_FETCHES_MAX;
        let named = named(cloud, Part::Holder, tenant, &mut fetches).await.map_err(|error| chain(&error))?;
        let (store, id) = (cloud.store.chunks.clone(), tenant.id);
        let all: Vec<Digest> = named.chunks.into_iter().collect();
        let look = move || {
            let missing: HashSet<Digest> = store.missing(id, &all).into_iter().collect();
            all.into_iter().filter(|digest| !missing.contains(digest)).collect::<Vec<_>>()
        };
        let here = tokio::task::spawn_blocking(look).await.map_err(|error| error.to_string())?;
        far.lay(&cloud.chunks, id, here).await.map_err(|error| chain(&error))?;
    }
    Ok(())
}

/// Why a tenant was left alone.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    /// Nothing is wrong with this box, and the next sweep asks again.
    #[error("an index of a release lies on boxes that give it not now")]
    Away,
    #[error("an index of a release can't be read")]
    Index(#[source] ChunkError),
    #[error("an index of a release isn't one")]
    Unreadable(#[source] serde_json::Error),
    #[error("chunks can't be removed")]
    Remove(#[source] persist::chunks::SweepError),
    #[error("the sweep broke off")]
    BrokeOff(#[source] tokio::task::JoinError),
}

/// Sweeps a tenant's chunks, fetches those that are missing here, and gives the components that its releases name.
async fn sweep_tenant(
    cloud: &Arc<Cloud>,
    part: Part,
    tenant: &Tenant,
    fetches: &mut usize,
) -> Result<HashSet<Digest>, SweepError> {
    let named = named(cloud, part, tenant, fetches).await?;
    let (store, id) = (cloud.store.chunks.clone(), tenant.id);
    let is_short = part == Part::Cache && is_short(cloud);
    let work = move || {
        let nothing = HashSet::new();
        let keep = if is_short { &nothing } else { &named.chunks };
        let swept = store.sweep(id, keep, CHUNK_ORPHAN_AGE).map_err(SweepError::Remove)?;
        Ok((swept, named))
    };
    let (swept, named) = tokio::task::spawn_blocking(work).await.map_err(SweepError::BrokeOff)??;
    if swept.chunks > 0 {
        tracing::info!(tenant = %tenant.name, chunks = swept.chunks, bytes = swept.bytes, "chunks swept");
    }
    if part == Part::Holder {
        return fetch(cloud, tenant, named, fetches).await;
    }
    Ok(named.components)
}

fn is_short(cloud: &Cloud) -> bool {
    persist::free_bytes(&cloud.settings.dir).is_ok_and(|free| free < DISK_FREE_BYTES_MIN)
}

/// Reads the indexes of the tenant's releases. A holder has each of them here from then on.
async fn named(cloud: &Arc<Cloud>, part: Part, tenant: &Tenant, fetches: &mut usize) -> Result<Named, SweepError> {
    let mut named = Named::default();
    for content in contents(part, tenant) {
        let (store, id) = (cloud.store.chunks.clone(), tenant.id);
        let read = tokio::task::spawn_blocking(move || store.get(id, content)).await.map_err(SweepError::BrokeOff)?;
        let bytes = match (read, part) {
            (Ok(bytes), _) => bytes,
            // What it never fetched it has nothing of.
            (Err(GetError::Missing(_)), Part::Cache) => continue,
            (Err(GetError::Missing(_) | GetError::Damaged { .. }), Part::Holder | Part::Cache) => {
                *fetches = fetches.checked_sub(1).ok_or(SweepError::Away)?;
                cloud.chunks.get(tenant.id, content).await.map_err(|error| match error {
                    ChunkError::Get(GetError::Missing(_)) => SweepError::Away,
                    error => SweepError::Index(error),
                })?
            }
            (Err(error), _) => return Err(SweepError::Index(ChunkError::Get(error))),
        };
        let parse = move || serde_json::from_slice::<api::Index>(&bytes);
        let index = tokio::task::spawn_blocking(parse).await.map_err(SweepError::BrokeOff)?;
        let index = index.map_err(SweepError::Unreadable)?;
        named.chunks.extend(index.chunks().map(|chunk| chunk.digest));
        named.chunks.insert(content);
        named.components.extend(index.components.values().map(|file| file.digest));
    }
    Ok(named)
}

/// The releases whose chunks are kept: all that the record remembers, or on a box that holds copies those that run.
fn contents(part: Part, tenant: &Tenant) -> HashSet<Digest> {
    let releases = tenant.apps.values().flat_map(|app| {
        app.releases.values().filter(move |release| {
            part != Part::Cache || app.stages.values().any(|stage| stage.running == Some(release.no))
        })
    });
    releases.map(|release| release.content).collect()
}

/// Fetches what this box should hold and doesn't: it came lately, or lost something, or was away at a push.
async fn fetch(
    cloud: &Arc<Cloud>,
    tenant: &Tenant,
    named: Named,
    fetches: &mut usize,
) -> Result<HashSet<Digest>, SweepError> {
    let (Some(far), Some(boxes)) = (&cloud.far, cloud.record().boxes().cloned()) else { return Ok(named.components) };
    let (store, id, me) = (cloud.store.chunks.clone(), tenant.id, far.tier.me());
    let look = move || store.absent(id, named.chunks.into_iter().filter(|digest| tier::keeps(&boxes, me, *digest)));
    let absent = tokio::task::spawn_blocking(look).await.map_err(SweepError::BrokeOff)?;
    let (mut fetched, lacking) = (0, absent.len());
    for digest in absent {
        let Some(less) = fetches.checked_sub(1) else { break };
        *fetches = less;
        match cloud.chunks.get(tenant.id, digest).await {
            Ok(_) => fetched += 1,
            Err(error) => tracing::debug!(%digest, "a chunk that belongs here can't be had: {}", chain(&error)),
        }
    }
    if lacking > 0 {
        tracing::info!(tenant = %tenant.name, lacking, fetched, "chunks that belong here fetched");
    }
    Ok(named.components)
}
