//! The sweep: takes chunks and artifacts that no release names, once they are too old to belong to a push under way.
//!
//! A reconciler: it takes no hint, reads what the record names and what the disk holds, and removes the difference.
//! A tenant whose releases can't all be read is left alone.

use std::collections::HashSet;
use std::sync::Arc;

use base::limits::{CHUNK_ORPHAN_AGE, SWEEP_EVERY};
use base::{Digest, chain};
use state::Tenant;

use crate::cloud::Cloud;

/// Sweeps for as long as the node lives.
pub(crate) async fn sweep(cloud: Arc<Cloud>) {
    let mut every = tokio::time::interval(SWEEP_EVERY);
    loop {
        every.tick().await;
        let record = cloud.record();
        for tenant in record.tenants() {
            let (cloud, tenant) = (Arc::clone(&cloud), Arc::clone(tenant));
            let name = tenant.name.clone();
            match tokio::task::spawn_blocking(move || sweep_tenant(&cloud, &tenant)).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => tracing::warn!(tenant = %name, "not swept: {why}"),
                Err(error) => tracing::error!(tenant = %name, "the sweep broke off: {error}"),
            }
        }
    }
}

fn sweep_tenant(cloud: &Cloud, tenant: &Tenant) -> Result<(), String> {
    let mut keep = HashSet::new();
    let contents: HashSet<Digest> =
        tenant.apps.values().flat_map(|app| app.releases.values()).map(|release| release.content).collect();
    for content in contents {
        let bytes = cloud.store.chunks.get(tenant.id, content).map_err(|error| chain(&error))?;
        let index: api::Index = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        keep.extend(index.files().flat_map(|file| &file.chunks).map(|chunk| chunk.digest));
        keep.insert(content);
    }
    let swept = cloud.store.chunks.sweep(tenant.id, &keep, CHUNK_ORPHAN_AGE).map_err(|error| chain(&error))?;
    if swept.chunks > 0 {
        tracing::info!(tenant = %tenant.name, chunks = swept.chunks, bytes = swept.bytes, "swept");
    }
    Ok(())
}
