//! The sweep: takes chunks and compiled components that no release names, once they are too old to belong to a push
//! under way.
//!
//! A reconciler: it takes no hint, reads what the record names and what the disk holds, and removes the difference.
//! A tenant whose releases can't all be read is left alone.

use std::collections::HashSet;
use std::sync::Arc;

use base::limits::{CHUNK_ORPHAN_AGE, SWEEP_EVERY};
use base::{Digest, chain};
use sandbox::Keep;
use state::Tenant;

use crate::cloud::Cloud;

/// Sweeps for as long as the node lives.
pub(crate) async fn sweep(cloud: Arc<Cloud>) {
    let mut every = tokio::time::interval(SWEEP_EVERY);
    loop {
        every.tick().await;
        let cloud = Arc::clone(&cloud);
        if let Err(error) = tokio::task::spawn_blocking(move || sweep_once(&cloud)).await {
            tracing::error!("the sweep broke off: {error}");
        }
    }
}

fn sweep_once(cloud: &Cloud) {
    let mut artifacts = Keep::new();
    for tenant in cloud.record().tenants() {
        let kept = sweep_chunks(cloud, tenant);
        if let Err(why) = &kept {
            tracing::warn!(tenant = %tenant.name, "not swept: {why}");
        }
        artifacts.insert(tenant.id, kept.ok());
    }
    match cloud.sandbox.sweep(&artifacts, CHUNK_ORPHAN_AGE) {
        Ok(0) => {}
        Ok(files) => tracing::info!(files, "compiled components swept"),
        Err(error) => tracing::warn!("compiled components can't be swept: {error}"),
    }
}

/// Sweeps a tenant's chunks, and gives the components that its releases name.
fn sweep_chunks(cloud: &Cloud, tenant: &Tenant) -> Result<HashSet<Digest>, String> {
    let (mut chunks, mut components) = (HashSet::new(), HashSet::new());
    let contents: HashSet<Digest> =
        tenant.apps.values().flat_map(|app| app.releases.values()).map(|release| release.content).collect();
    for content in contents {
        let bytes = cloud.store.chunks.get(tenant.id, content).map_err(|error| chain(&error))?;
        let index: api::Index = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        chunks.extend(index.chunks().map(|chunk| chunk.digest));
        chunks.insert(content);
        components.extend(index.components.values().map(|file| file.digest));
    }
    let swept = cloud.store.chunks.sweep(tenant.id, &chunks, CHUNK_ORPHAN_AGE).map_err(|error| chain(&error))?;
    if swept.chunks > 0 {
        tracing::info!(tenant = %tenant.name, chunks = swept.chunks, bytes = swept.bytes, "chunks swept");
    }
    Ok(components)
}
