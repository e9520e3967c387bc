//! Code that is ready before it is asked for.
//!
//! A push compiles on the box that it came to. What the record then brings to the other boxes that run apps is fetched and
//! compiled there right away, one after the other, the newest first: the first visitor doesn't wait for it. Only the index
//! of a release and its components are fetched ahead; files come when somebody asks.
//!
//! What is asked for before it is ready is made then, as it always was ([`compiled`]); nothing is compiled twice for that.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use base::limits::AHEAD_APPS_WAITING_MAX;
use base::{Digest, Name, Role, TenantId, chain};
use persist::record::News;
use state::{Event, Record};
use tokio::sync::{AcquireError, Semaphore};

use crate::assets::{self, AssetsError};
use crate::cloud::Cloud;
use crate::shared::Shared;
use crate::tier::ChunkError;

/// Components that are being compiled, so that all who want one wait for the same. Whoever waits here holds neither the
/// wasm nor one of the compiler's few places.
#[derive(Default)]
pub(crate) struct Making(Mutex<Shared<(TenantId, Digest), Turn>>);

struct Turn(Semaphore);

impl Making {
    fn turn(&self, tenant: TenantId, component: Digest) -> Arc<Turn> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.get_or_make((tenant, component), || Turn(Semaphore::new(1)))
    }
}

/// Why a component isn't ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MakeError {
    #[error("the node is going down")]
    Gone,
    #[error("the release's index can't be had")]
    Index(#[source] ChunkError),
    #[error("the release's index can't be read")]
    Unreadable(#[source] serde_json::Error),
    #[error("the release has no component {0}")]
    NoComponent(Digest),
    #[error("the component's bytes can't be had")]
    Wasm(#[source] AssetsError),
    #[error("the component can't be compiled")]
    Compile(#[source] sandbox::CompileError),
}

impl From<AcquireError> for MakeError {
    fn from(_: AcquireError) -> Self {
        Self::Gone
    }
}

/// Compiles a component of the release with this content, unless it is compiled.
pub(crate) async fn compiled(
    cloud: &Cloud,
    tenant: TenantId,
    content: Digest,
    component: Digest,
) -> Result<(), MakeError> {
    let turn = cloud.making.turn(tenant, component);
    let _turn = turn.0.acquire().await?;
    let sandbox = cloud.sandbox.clone();
    let there = tokio::task::spawn_blocking(move || sandbox.is_compiled(tenant, component));
    if there.await.map_err(|_| MakeError::Gone)? {
        return Ok(());
    }
    let index = index(cloud, tenant, content).await?;
    let file = index.components.values().find(|file| file.digest == component);
    let file = file.ok_or(MakeError::NoComponent(component))?;
    let wasm = assets::whole(&cloud.chunks, tenant, file).await.map_err(MakeError::Wasm)?;
    cloud.sandbox.compile(tenant, &wasm).await.map_err(MakeError::Compile)?;
    Ok(())
}

async fn index(cloud: &Cloud, tenant: TenantId, content: Digest) -> Result<api::Index, MakeError> {
    let bytes = cloud.chunks.get(tenant, content).await.map_err(MakeError::Index)?;
    // Up to 4 MiB of JSON: away from the core, where others would wait for it.
    let read = tokio::task::spawn_blocking(move || serde_json::from_slice(&bytes));
    read.await.map_err(|_| MakeError::Gone)?.map_err(MakeError::Unreadable)
}

/// Makes ready what the record brings to a box that runs apps, for as long as the node lives. `firm up` has compiled all
/// that it runs.
pub(crate) async fn ahead(cloud: Arc<Cloud>) {
    if !cloud.far.as_ref().is_some_and(|far| far.roles.has(Role::Web)) {
        return;
    }
    let (record, mut watcher) = cloud.store.record.subscribe();
    let mut waiting = Waiting::default();
    waiting.add_all(&record);
    let mut work: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
    loop {
        if work.is_none()
            && let Some((tenant, app)) = waiting.apps.pop_front()
        {
            let cloud = Arc::clone(&cloud);
            work = Some(Box::pin(async move { make_ready(&cloud, tenant, &app).await }));
        }
        tokio::select! {
            news = watcher.next() => match news {
                Some(News::Changed { events, .. }) => waiting.add_changed(&events),
                Some(News::Lagged { record }) => waiting.add_all(&record),
                None => return,
            },
            () = async { work.as_mut().expect("looked at before").await }, if work.is_some() => work = None,
        }
    }
}

/// The apps that are looked at next, the newest first. Of more than [`AHEAD_APPS_WAITING_MAX`] the oldest are left to
/// their first visitor.
#[derive(Default)]
struct Waiting {
    apps: VecDeque<(TenantId, Name)>,
}

impl Waiting {
    fn add(&mut self, tenant: TenantId, app: &Name) {
        self.apps.retain(|(owner, held)| (*owner, held) != (tenant, app));
        self.apps.push_front((tenant, app.clone()));
        self.apps.truncate(AHEAD_APPS_WAITING_MAX);
    }

    fn add_changed(&mut self, events: &[Event]) {
        for event in events {
            if let Event::AppChanged { tenant, app } = event {
                self.add(*tenant, app);
            }
        }
    }

    fn add_all(&mut self, record: &Record) {
        let apps = record.tenants().flat_map(|tenant| tenant.apps.values().map(|app| (tenant.id, app)));
        let mut apps: Vec<_> = apps.map(|(tenant, app)| (newest(app), tenant, &app.name)).collect();
        apps.sort_unstable();
        self.apps = apps.into_iter().rev().map(|(_, tenant, app)| (tenant, app.clone())).collect();
        self.apps.truncate(AHEAD_APPS_WAITING_MAX);
    }
}

/// When the app's newest release was made.
fn newest(app: &state::App) -> Option<base::Timestamp> {
    app.releases.values().map(|release| release.at).max()
}

async fn make_ready(cloud: &Cloud, tenant: TenantId, app: &Name) {
    let record = cloud.record();
    let Some(held) = record.app(tenant, app.as_str()) else { return };
    for stage in held.stages.values() {
        let Some(release) = held.running(stage.name.as_str()) else { continue };
        if let Err(error) = make_release_ready(cloud, tenant, release.content).await {
            let (stage, release) = (&stage.name, release.no);
            tracing::info!(%tenant, %app, %stage, %release, "it isn't ready before it is asked for: {}", chain(&error));
        }
    }
}

async fn make_release_ready(cloud: &Cloud, tenant: TenantId, content: Digest) -> Result<(), MakeError> {
    let index = index(cloud, tenant, content).await?;
    for file in index.components.values() {
        compiled(cloud, tenant, content, file.digest).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
