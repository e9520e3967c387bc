//! What all cores share: the stores, the sandbox, the router, the keys.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use auth::Key;
use base::limits::{DISK_FREE_BYTES_MIN, DISK_RESERVED_BYTES};
use base::{BoxId, CloudId, Name, Roles, TenantId, Timestamp, chain};
use bytes::Bytes;
use persist::record::News;
use persist::{Keeping, ProposeError, Store, StoreError};
use sandbox::{Compiler, Sandbox};
use state::{Actor, Admission, Applied, CloudBox, Command, Entry, Event, Grant, Record};
use tokio::sync::{Notify, watch};

use crate::ahead::Making;
use crate::manage::Places;
use crate::observe::{Export, Exporter, Meters, Otlp};
use crate::router::{Builder, Router, seal_tenant_key};
use crate::throttle::Throttles;
use crate::tier::{self, Arrivals, Beats, Chunks, Far, Known, Makers, Method, MintError, Tier, Wish};
use crate::tls::{self, Authority, TlsError};
use crate::{code, listen};

/// How a box is set up.
#[derive(Clone)]
pub struct Settings {
    /// The data directory.
    pub dir: PathBuf,
    /// Apps are found at `app.tenant.DOMAIN`, the API at `api.DOMAIN`.
    pub domain: String,
    /// Where TLS is listened for.
    pub tls: SocketAddr,
    /// Where plain HTTP is.
    pub plain: SocketAddr,
    /// Serve apps on plain HTTP too; otherwise it only redirects to TLS.
    pub serve_plain: bool,
    /// Connections that one client address may hold.
    pub connections_per_client: u32,
    /// The process that compiles components.
    pub compiler: Compiler,
    /// Private addresses that apps may reach all the same, when their manifest names them.
    pub private_hosts: Vec<SocketAddr>,
    /// Bytes of memory that all apps' instances may have together.
    pub guest_memory: u64,
    /// Bytes of its own that the node may use before it stops instances.
    pub process_memory: u64,
    /// Where spans of requests go, if anywhere.
    pub otlp: Option<Otlp>,
}

/// A box's place in a cloud that is made of boxes.
pub struct Place {
    /// The other boxes.
    pub tier: Arc<dyn Tier>,
    pub roles: Roles,
    pub keeping: Keeping,
    /// What is known of the boxes: what the box was told when it joined, then what the record says.
    pub known: Known,
}

/// Why a cloud can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    #[error("the data can't be opened")]
    Store(#[source] StoreError),
    #[error("the box's key {path} can't be read or written")]
    KeyFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the box's key {path} is damaged: it has {bytes} bytes, not 32. Restore it: without it no secret can be read"
    )]
    KeyDamaged { path: PathBuf, bytes: usize },
    #[error("the box's authority can't be opened")]
    Tls(#[source] TlsError),
    #[error("the sandbox can't start")]
    Sandbox(#[source] sandbox::StartError),
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
    #[error("the first tenant or an operator's token can't be made")]
    Found(#[source] ProposeError),
}

/// The whole cloud on this box.
pub struct Cloud {
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    /// The store's, and those of the other boxes.
    pub(crate) chunks: Chunks,
    pub(crate) far: Option<Far>,
    /// What the others said last of how they are.
    pub(crate) beats: Beats,
    /// What belongs here may have changed.
    pub(crate) sweep_soon: Notify,
    /// This box is about to go, and others have all that it held.
    pub(crate) drained: AtomicBool,
    /// Databases that come here from another box.
    pub(crate) arrivals: Arrivals,
    /// Whose tokens are believed.
    pub(crate) makers: Makers,
    pub(crate) sandbox: Sandbox,
    pub(crate) making: Making,
    pub(crate) key: Key,
    pub(crate) authority: Arc<Authority>,
    pub(crate) builder: Builder,
    pub(crate) router: Arc<ArcSwap<Router>>,
    pub(crate) throttles: Throttles,
    pub(crate) meters: Meters,
    pub(crate) export: Option<Export>,
    pub(crate) api_places: Arc<Places>,
    pub(crate) since: Timestamp,
    /// The record's index that the router shows.
    routed: watch::Sender<u64>,
    draining: AtomicBool,
    /// Connections and changes under way, on all cores.
    under_way: AtomicUsize,
}

/// Counts as under way while it lives.
pub(crate) struct UnderWay(Arc<Cloud>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Cloud {
    /// Opens what the data directory holds, or founds it. A box without a place is a cloud by itself. Blocks.
    pub fn open(settings: Settings, place: Option<Place>) -> Result<Arc<Self>, CloudError> {
        let (keeping, far) = match place {
            None => (Keeping::Alone, None),
            Some(Place { tier, roles, keeping, known }) => (keeping, Some(Far::new(tier, roles, known))),
        };
        let store = Store::open_as(&settings.dir, keeping).map_err(CloudError::Store)?;
        let key = box_key(&settings.dir)?;
        let authority = Arc::new(Authority::open(&settings.dir, &settings.domain).map_err(CloudError::Tls)?);
        let sandbox = Sandbox::new(sandbox::Options {
            artifacts: settings.dir.join("artifacts"),
            compiler: settings.compiler.clone(),
            private_hosts: settings.private_hosts.clone(),
            memory: settings.guest_memory,
            process_memory: settings.process_memory,
        })
        .map_err(CloudError::Sandbox)?;
        let meters = Meters::new(listen::cores());
        let builder = Builder::new(settings.domain.clone(), key.clone(), meters.clone());
        let export = settings.otlp.clone().map(Export::new);
        let record = store.record.record();
        let router = Arc::new(ArcSwap::from_pointee(builder.whole(&record)));
        Ok(Arc::new(Self {
            settings,
            chunks: Chunks::new(store.chunks.clone(), far.clone()),
            sweep_soon: Notify::new(),
            drained: AtomicBool::new(false),
            arrivals: Arrivals::default(),
            makers: Makers::new(far.as_ref()),
            far,
            beats: Beats::default(),
            store,
            sandbox,
            making: Making::default(),
            key,
            authority,
            builder,
            router,
            throttles: Throttles::new(),
            meters,
            export,
            api_places: Arc::default(),
            since: SystemTime::now().into(),
            routed: watch::Sender::new(record.index()),
            draining: AtomicBool::new(false),
            under_way: AtomicUsize::new(0),
        }))
    }

    /// Makes the first tenant and an operator's token when the record has none, and gives the token's secret.
    pub async fn found(&self, tenant: &Name, token: &auth::Minted) -> Result<bool, CloudError> {
        self.found_tenant(tenant).await?;
        if self.record().token(token.id).is_some_and(|held| held.hash == token.hash) {
            return Ok(false);
        }
        self.grant_operator(token, "the box's operator").await?;
        Ok(true)
    }

    /// Makes the record say that the cloud is made of boxes, and this its first.
    pub async fn found_boxes(
        &self,
        (cloud, name): (CloudId, Name),
        operators: BTreeSet<BoxId>,
        first: Admission,
        addresses: Vec<SocketAddr>,
    ) -> Result<(), CloudError> {
        let domain = self.settings.domain.clone();
        let command = Command::CloudFound { cloud, name, domain, operators, first, addresses };
        self.propose(Actor::Box, command).await.map_err(CloudError::Found)?;
        Ok(())
    }

    /// A box that was admitted has come, with the order that it was given. Gives what the record says of it.
    pub async fn box_joins(
        &self,
        id: BoxId,
        order: String,
        addresses: Vec<SocketAddr>,
    ) -> Result<Option<Arc<CloudBox>>, ProposeError> {
        self.propose(Actor::Box, Command::BoxJoin { id, order, addresses }).await?;
        Ok(self.record().boxes().and_then(|boxes| boxes.boxes.get(&id)).cloned())
    }

    /// For how long nobody has been known to lead the record, if nobody is.
    pub fn leaderless(&self) -> Option<Duration> {
        self.store.record.standing().leaderless
    }

    /// This box is elsewhere by now.
    pub async fn box_moved(&self, id: BoxId, addresses: Vec<SocketAddr>) -> Result<(), ProposeError> {
        self.propose(Actor::Box, Command::BoxMoved { id, addresses }).await?;
        Ok(())
    }

    /// A box was told to be something else, and goes.
    pub async fn box_leaves(&self, id: BoxId) -> Result<(), ProposeError> {
        self.propose(Actor::Box, Command::BoxLeave { id, lose_data: false }).await?;
        Ok(())
    }

    /// Makes the first tenant when the record has none.
    pub async fn found_tenant(&self, tenant: &Name) -> Result<(), CloudError> {
        if self.record().tenants().next().is_some() {
            return Ok(());
        }
        let command = self.tenant_create(tenant.clone()).map_err(CloudError::Random)?;
        self.propose(Actor::Box, command).await.map_err(CloudError::Found)?;
        Ok(())
    }

    /// A fresh operator's token under this label, in the place of those that had it before.
    pub(crate) async fn operator_token(&self, label: &str) -> Result<auth::Minted, MintError> {
        let record = self.record();
        let before: Vec<_> =
            record.tokens().filter(|held| held.tenant.is_none() && held.label == label).map(|held| held.id).collect();
        let wish = Wish { tenant: None, grant: Grant::Operate, label: label.to_owned(), expires: None };
        let token = self.mint_here(Actor::Box, wish).await?;
        for id in before {
            let command = Command::TokenRevoke { tenant: None, id };
            self.propose(Actor::Box, command).await.map_err(MintError::Propose)?;
        }
        Ok(token)
    }

    async fn grant_operator(&self, token: &auth::Minted, label: &str) -> Result<(), CloudError> {
        let command = Command::TokenCreate {
            id: token.id,
            tenant: None,
            grant: Grant::Operate,
            label: label.to_owned(),
            hash: token.hash,
            expires: None,
            signed: None,
        };
        self.propose(Actor::Box, command).await.map_err(CloudError::Found)?;
        Ok(())
    }

    /// The command that makes a tenant, its key drawn and sealed.
    pub(crate) fn tenant_create(&self, name: Name) -> Result<Command, getrandom::Error> {
        let key = Key::from_bytes(random()?);
        Ok(Command::TenantCreate { name, key: seal_tenant_key(&self.key, &key) })
    }

    /// Begins to send spans, where they are wanted. Must be called on a tokio runtime.
    pub fn export(&self) -> Option<Exporter> {
        self.export.as_ref()?.start()
    }

    /// PEM of the authority that signs for the cloud's own names.
    pub fn authority_pem(&self) -> &str {
        self.authority.pem()
    }

    pub fn record(&self) -> Arc<Record> {
        self.store.record.record()
    }

    /// The one way by which the record changes. On return the router shows it.
    pub(crate) async fn propose(&self, by: Actor, command: Command) -> Result<Applied, ProposeError> {
        let entry = Entry { at: SystemTime::now().into(), by, command };
        let applied = self.store.record.propose(entry).await?;
        let index = self.record().index();
        let mut routed = self.routed.subscribe();
        // An error says that the follower is gone, and so is the node then.
        let _ = routed.wait_for(|shown| *shown >= index).await;
        Ok(applied)
    }

    /// Keeps what is derived from the record true to it, for as long as the record lives.
    pub(crate) async fn follow(self: Arc<Self>) {
        let (record, mut watcher) = self.store.record.subscribe();
        self.show_whole(&record);
        self.show_makers(&record);
        self.store.drop_unknown().await;
        while let Some(news) = watcher.next().await {
            let record = match news {
                News::Changed { record, events } => {
                    self.show_changes(&record, &events);
                    record
                }
                News::Lagged { record } => {
                    self.show_whole(&record);
                    record
                }
            };
            self.show_makers(&record);
        }
    }

    /// Answers what another box of the cloud asks; the words of a refusal are for that box's log.
    pub async fn answer(&self, from: BoxId, method: Method, body: Bytes) -> Result<Bytes, String> {
        let far = self.far.as_ref().ok_or("this cloud isn't made of boxes")?;
        if method == Method::Record {
            // The record knows whom it believes what.
            return Ok(self.store.record.answer(from, body).await);
        }
        if method == Method::Mint {
            return self.answer_mint(from, &body).await;
        }
        if let Some(answered) = self.answer_beat(from, method, &body) {
            return answered;
        }
        if !tier::may_ask(&far.known, from, method) {
            return Err(format!("{} is no box that asks for tenants' data", from.long_name()));
        }
        match method {
            Method::Database => self.answer_database(from, &body).await,
            Method::Record | Method::Beat | Method::Vitals | Method::Mint => Err("it was answered before".to_owned()),
            Method::Data | Method::DataOfMany => {
                let (databases, me) = (&self.store.databases, far.tier.me());
                tier::answer_data(databases, &far.known, me, &body, code::refused).await
            }
            Method::Chunk => {
                let chunks = self.store.chunks.clone();
                let read = tokio::task::spawn_blocking(move || tier::answer_chunk(&chunks, &body));
                read.await.map_err(|_| "the node is going down".to_owned())?
            }
            Method::ChunksHeld | Method::ChunksPut | Method::ChunksSettle => {
                tier::answer_holders(self, far, method, body).await
            }
            Method::Logs => tier::answer_logs(self, far, from, body).await,
        }
    }

    /// Who the boxes are, for those who ask at every request. A box whose record hasn't come yet has what it was told when
    /// it joined.
    fn show_boxes(&self, record: &Record) {
        let (Some(far), Some(boxes)) = (&self.far, record.boxes()) else { return };
        if far.known.load().as_ref().is_none_or(|known| !Arc::ptr_eq(known, boxes)) {
            far.known.store(Some(Arc::clone(boxes)));
            far.tier.know(boxes);
            self.sweep_soon.notify_one();
        }
    }

    fn show_whole(&self, record: &Record) {
        self.show_boxes(record);
        self.router.store(Arc::new(self.builder.whole(record)));
        self.builder.forget(record);
        self.routed.send_replace(record.index());
    }

    fn show_changes(self: &Arc<Self>, record: &Arc<Record>, events: &[Event]) {
        let changed: BTreeSet<(TenantId, Name)> = events
            .iter()
            .filter_map(|event| match event {
                Event::AppChanged { tenant, app } => Some((*tenant, app.clone())),
                _ => None,
            })
            .collect();
        let certificates = events.contains(&Event::DomainsChanged);
        // A push may have given a new database a home.
        self.show_boxes(record);
        if !changed.is_empty() || certificates {
            let router = self.builder.with_changes(&self.router.load(), record, &changed, certificates);
            self.router.store(Arc::new(router));
        }
        self.routed.send_replace(record.index());
        // A stage that goes has its database dropped.
        let fewer = |event: &Event| {
            matches!(event, Event::DatabaseDropped { .. } | Event::AppDropped { .. } | Event::TenantDropped { .. })
        };
        if events.iter().any(fewer) {
            self.builder.forget(record);
        }
        self.drop_unused(events);
    }

    /// Deletes what nothing names any more. What a crash leaves behind is found at the next start.
    fn drop_unused(self: &Arc<Self>, events: &[Event]) {
        for event in events {
            let cloud = Arc::clone(self);
            match *event {
                Event::DatabaseDropped { tenant, database } => {
                    tokio::spawn(async move {
                        let database = persist::Database { tenant, id: database };
                        if let Err(error) = cloud.store.databases.drop_database(database).await {
                            tracing::error!(%tenant, ?database, "a database can't be deleted: {}", chain(&error));
                        }
                    });
                }
                Event::AppDropped { tenant, app } => {
                    tokio::task::spawn_blocking(move || cloud.store.logs.drop_app(tenant, app));
                }
                Event::TenantDropped { tenant } => {
                    tokio::task::spawn_blocking(move || {
                        cloud.store.logs.drop_tenant(tenant);
                        if let Err(error) = cloud.store.chunks.drop_tenant(tenant) {
                            tracing::error!(%tenant, "a tenant's chunks can't be deleted: {}", chain(&error));
                        }
                    });
                }
                Event::AppChanged { .. }
                | Event::ReleaseDropped { .. }
                | Event::DomainsChanged
                | Event::BoxesChanged => {}
            }
        }
    }

    /// What isn't as it should be, and what to do about it.
    pub(crate) fn concerns(&self) -> Vec<String> {
        let mut concerns = Vec::new();
        let dir = self.settings.dir.display();
        match persist::free_bytes(&self.settings.dir) {
            Ok(free) => {
                let mib = free >> 20;
                if free < DISK_RESERVED_BYTES {
                    concerns.push(format!(
                        "{mib} MiB are free in {dir}: pushes and what apps write are refused until there is more room"
                    ));
                } else if free < DISK_FREE_BYTES_MIN {
                    concerns.push(format!("{mib} MiB are free in {dir}: make room before writes are refused"));
                }
            }
            Err(error) => concerns.push(format!("the data directory {dir} can't be looked at: {error}")),
        }
        concerns
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Acquire)
    }

    pub(crate) fn count(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        UnderWay(Arc::clone(self))
    }

    /// Does the host lie within the cloud's own domain, which all tenants share?
    pub(crate) fn is_own(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').as_bytes();
        let domain = self.settings.domain.as_bytes();
        let Some(dot) = host.len().checked_sub(domain.len() + 1) else { return false };
        host[dot] == b'.' && host[dot + 1..].eq_ignore_ascii_case(domain)
    }

    /// The host that the API answers at.
    pub fn api_host(&self) -> &str {
        self.authority.api_host()
    }

    /// The address of a stage, as a visitor types it.
    pub(crate) fn url(&self, tenant: &Name, app: &Name, stage: &Name) -> String {
        let host = self.builder.host(tenant, app, stage);
        match self.settings.tls.port() {
            443 => format!("https://{host}/"),
            port => format!("https://{host}:{port}/"),
        }
    }
}

/// The box's own key: 32 random bytes in a file that only its user may read.
fn box_key(dir: &Path) -> Result<Key, CloudError> {
    let path = dir.join("box.key");
    let file = |source| CloudError::KeyFile { path: path.clone(), source };
    if !path.exists() {
        let fresh: [u8; 32] = random().map_err(CloudError::Random)?;
        tls::write_private(&path, &fresh).map_err(file)?;
    }
    let bytes = fs::read(&path).map_err(file)?;
    let length = bytes.len();
    let bytes = bytes.try_into().map_err(|_| CloudError::KeyDamaged { path, bytes: length })?;
    Ok(Key::from_bytes(bytes))
}

/// A token of fresh random bytes. The record doesn't know it yet.
pub fn mint_token() -> Result<auth::Minted, getrandom::Error> {
    random().map(auth::mint)
}

/// Random bytes from the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
