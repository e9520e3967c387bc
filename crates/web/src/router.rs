//! Host → site → route, derived from the record.
//!
//! A [`Router`] never changes. A change of an app makes its sites anew and swaps the whole; sites of other apps
//! are shared between the old and the new.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use auth::Key;
use base::limits::{
    APP_CONCURRENCY_DEFAULT, INSTANCE_MEMORY_DEFAULT, INSTANCES_PER_TENANT_MAX, REQUEST_CPU_DEFAULT,
    REQUEST_TIME_DEFAULT,
};
use base::{AppId, Digest, Name, ReleaseNo, TenantId, chain};
use http::HeaderValue;
use persist::Database;
use rustls::sign::CertifiedKey;
use state::manifest::{AccessLog, Component, Redirect, StaticFolder, Target, Throttle};
use state::{App, Manifest, Record, Release, Stage, Tenant};
use tokio::sync::Semaphore;

use crate::code::Turnstile;
use crate::observe::{Meter, Meters};
use crate::rules::Fields;
use crate::shared::Shared;
use crate::throttle::{About, Counter, Limit, Limits};
use crate::{files, tls};

/// Every host that the cloud answers.
#[derive(Default)]
pub(crate) struct Router {
    sites: HashMap<Arc<str>, Arc<Site>>,
    /// Uploaded certificates, by domain.
    certificates: HashMap<Arc<str>, Arc<CertifiedKey>>,
}

/// One stage as it serves: a release, with all that a request to it needs.
pub(crate) struct Site {
    pub tenant: TenantId,
    pub app: AppId,
    pub name: Name,
    pub stage: Name,
    pub release: ReleaseNo,
    pub content: Digest,
    pub public: bool,
    /// Longest prefix first.
    pub routes: Vec<SiteRoute>,
    /// The throttles of requests that no route is about.
    pub limits: Limits,
    pub redirects: Vec<Redirect>,
    pub fields: Vec<Fields>,
    pub database: Database,
    pub kv: Arc<BTreeSet<Name>>,
    pub env: Arc<[(String, String)]>,
    pub config: Arc<BTreeMap<String, String>>,
    pub outbound: Arc<sandbox::Outbound>,
    /// What signs and checks passes of a private stage.
    pub key: Key,
    /// The tenant's share of the box's instances.
    pub instances: Arc<Semaphore>,
    /// And of its memory.
    pub memory: Arc<sandbox::Share>,
    pub access_log: AccessLog,
    pub meter: Arc<Meter>,
}

/// A prefix and what answers it.
pub(crate) struct SiteRoute {
    /// Without a slash at its end; `/` is empty.
    pub prefix: String,
    pub target: SiteTarget,
    /// Its own throttle, the app's and the tenant's ceiling.
    pub limits: Limits,
}

pub(crate) enum SiteTarget {
    Component(Code),
    Static(Folder),
}

/// A static folder as it is shown.
pub(crate) struct Folder {
    pub name: Name,
    pub settings: StaticFolder,
    /// The `Cache-Control` of what isn't immutable.
    pub cache: HeaderValue,
}

/// A component and the bounds of a request to it.
pub(crate) struct Code {
    pub name: Name,
    pub memory: u64,
    pub cpu: Duration,
    pub timeout: Duration,
    pub turnstile: Arc<Turnstile>,
    /// Instances may answer more than one request.
    pub reuse: bool,
    /// What the instances are lent: made at the first request, for most of many apps get none.
    pub cell: OnceLock<Arc<sandbox::Cell>>,
}

impl Site {
    /// The number of a path's route. Prefixes are matched by whole segments, and one is the cloud's own: no app answers
    /// there.
    pub(crate) fn route(&self, path: &str) -> Option<usize> {
        if is_the_cloud_s(path) {
            return None;
        }
        self.routes.iter().position(|route| within(&route.prefix, path))
    }
}

/// Is this a path at which no app answers, redirects or says anything?
pub(crate) fn is_the_cloud_s(path: &str) -> bool {
    within("/.firm", path)
}

fn within(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Router {
    pub(crate) fn site(&self, host: &str) -> Option<&Arc<Site>> {
        self.sites.get(host)
    }

    pub(crate) fn certificate(&self, host: &str) -> Option<&Arc<CertifiedKey>> {
        self.certificates.get(host)
    }
}

/// Makes routers. Holds what must outlive one: the turnstiles that count an app's requests across releases.
pub(crate) struct Builder {
    domain: String,
    key: Key,
    turnstiles: Mutex<HashMap<(AppId, Name, Name), Arc<Turnstile>>>,
    /// The counters of throttles, by stage and route. A release that follows another finds those of the one before, which
    /// serves until then.
    counters: Mutex<Shared<String, AtomicU64>>,
    /// Each tenant's share of the box.
    shares: Mutex<HashMap<TenantId, Share>>,
    meters: Meters,
}

/// What all apps of a tenant share.
#[derive(Clone)]
struct Share {
    instances: Arc<Semaphore>,
    memory: Arc<sandbox::Share>,
    /// Counts against the tenant's ceiling, for as long as there is the tenant.
    counter: Counter,
}

impl Builder {
    pub(crate) fn new(domain: String, key: Key, meters: Meters) -> Self {
        let (turnstiles, counters, shares) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { domain, key, turnstiles, counters, shares, meters }
    }

    /// Instances that run now, of all tenants.
    pub(crate) fn instances(&self) -> usize {
        let shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.values().map(|share| INSTANCES_PER_TENANT_MAX.saturating_sub(share.instances.available_permits())).sum()
    }

    /// All of the record.
    pub(crate) fn whole(&self, record: &Record) -> Router {
        let mut router = Router::default();
        for tenant in record.tenants() {
            for app in tenant.apps.values() {
                self.lay(&mut router, record, tenant, app);
            }
        }
        self.certify(&mut router, record);
        router
    }

    /// `router` with these apps as the record has them now.
    pub(crate) fn with_changes(
        &self,
        router: &Router,
        record: &Record,
        changed: &BTreeSet<(TenantId, Name)>,
        certificates: bool,
    ) -> Router {
        let stays = |site: &Site| !changed.contains(&(site.tenant, site.name.clone()));
        let sites = router.sites.iter().filter(|(_, site)| stays(site));
        let mut next = Router {
            sites: sites.map(|(host, site)| (Arc::clone(host), Arc::clone(site))).collect(),
            certificates: router.certificates.clone(),
        };
        for (tenant, app) in changed {
            if let Some(tenant) = record.tenant(*tenant)
                && let Some(app) = tenant.apps.get(app)
            {
                self.lay(&mut next, record, tenant, app);
            }
        }
        if certificates {
            self.certify(&mut next, record);
        }
        next
    }

    /// The host of a stage within the cloud's own domain.
    pub(crate) fn host(&self, tenant: &Name, app: &Name, stage: &Name) -> String {
        let domain = &self.domain;
        match stage.as_str() {
            "live" => format!("{app}.{tenant}.{domain}"),
            stage => format!("{stage}--{app}.{tenant}.{domain}"),
        }
    }

    fn lay(&self, router: &mut Router, record: &Record, tenant: &Tenant, app: &App) {
        let key = match tenant_key(&self.key, tenant) {
            Ok(key) => key,
            Err(error) => {
                tracing::error!(tenant = %tenant.name, "the tenant's key doesn't open, so nothing of it serves: {}", chain(&error));
                return;
            }
        };
        for stage in app.stages.values() {
            let Some(release) = app.running(stage.name.as_str()) else { continue };
            let site = Arc::new(self.site(&key, tenant, app, stage, release));
            let host = self.host(&tenant.name, &app.name, &stage.name);
            router.sites.insert(host.into(), Arc::clone(&site));
            if stage.is_live() {
                let domains = record.domains().filter(|(_, claim)| claim.tenant == tenant.id && claim.app == app.name);
                for (domain, _) in domains {
                    router.sites.insert(domain.as_str().into(), Arc::clone(&site));
                }
            }
        }
    }

    fn site(&self, key: &Key, tenant: &Tenant, app: &App, stage: &Stage, release: &Release) -> Site {
        let manifest = release.effective();
        let env: Vec<_> = manifest.env.clone().into_iter().collect();
        let share = self.share(tenant.id);
        let ceiling = tenant.ceiling.as_ref().map(|ceiling| Limit::ceiling(ceiling, Arc::clone(&share.counter)));
        let whole = manifest.limit.as_ref().map(|limit| self.limit(app, stage, About::App, limit, ""));
        let shared: Vec<Arc<Limit>> = ceiling.into_iter().chain(whole).map(Arc::new).collect();
        let mut routes: Vec<_> = self.routes(app, stage, &manifest, &shared);
        routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        let hosts = manifest.outbound.hosts.iter().filter_map(|host| host.parse().ok());
        Site {
            tenant: tenant.id,
            app: app.id,
            name: app.name.clone(),
            stage: stage.name.clone(),
            release: release.no,
            content: release.content,
            public: stage.is_live(),
            routes,
            limits: Limits::new(shared),
            fields: manifest.headers.iter().map(|rule| Fields::new(rule, stage.is_live())).collect(),
            redirects: manifest.redirects.clone(),
            database: Database { tenant: tenant.id, id: stage.database },
            kv: Arc::new(manifest.bindings.kv.clone()),
            config: Arc::new(config(key, app, stage, &manifest)),
            outbound: Arc::new(sandbox::Outbound::new(hosts.collect())),
            env: env.into(),
            key: key.clone(),
            instances: share.instances,
            memory: share.memory,
            access_log: manifest.access_log.unwrap_or(AccessLog::Off),
            meter: self.meters.meter((tenant.id, &tenant.name), (app.id, &app.name), &stage.name),
        }
    }

    fn share(&self, tenant: TenantId) -> Share {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Share {
            instances: Arc::new(Semaphore::new(INSTANCES_PER_TENANT_MAX)),
            memory: Arc::default(),
            counter: Counter::default(),
        };
        shares.entry(tenant).or_insert_with(fresh).clone()
    }

    /// A throttle of the manifest's. The route is empty for the whole app, and `/` is a route.
    fn limit(&self, app: &App, stage: &Stage, about: About, throttle: &Throttle, route: &str) -> Limit {
        let name = format!("{}/{}{route}", app.id, stage.name);
        let counter = || {
            self.counters.lock().unwrap_or_else(PoisonError::into_inner).get_or_make(name.clone(), AtomicU64::default)
        };
        Limit::new(about, throttle, &name, counter)
    }

    fn routes(&self, app: &App, stage: &Stage, manifest: &Manifest, shared: &[Arc<Limit>]) -> Vec<SiteRoute> {
        let target = |target: Target<'_>| match target {
            Target::Component(name) => {
                let component = manifest.components.get(name)?;
                Some(SiteTarget::Component(self.code(app, stage, name, component)))
            }
            Target::Static(name) => {
                let settings = manifest.statics.get(name)?.clone();
                let cache = files::cache(&settings, stage.is_live());
                Some(SiteTarget::Static(Folder { name: name.clone(), settings, cache }))
            }
        };
        let route = |route: &state::manifest::Route| {
            let prefix = route.path.trim_end_matches('/').to_owned();
            let own = route.limit.as_ref();
            let own = own.map(|limit| Arc::new(self.limit(app, stage, About::Route, limit, &format!("{prefix}/"))));
            let limits = Limits::new(own.into_iter().chain(shared.iter().cloned()));
            Some(SiteRoute { prefix, target: target(route.target()?)?, limits })
        };
        manifest.routes.iter().filter_map(route).collect()
    }

    fn code(&self, app: &App, stage: &Stage, name: &Name, component: &Component) -> Code {
        let concurrency = component.concurrency.unwrap_or(APP_CONCURRENCY_DEFAULT);
        let mut turnstiles = self.turnstiles.lock().unwrap_or_else(PoisonError::into_inner);
        let turnstile = turnstiles
            .entry((app.id, stage.name.clone(), name.clone()))
            .and_modify(|held| {
                if held.places() != concurrency {
                    *held = Arc::new(Turnstile::new(concurrency));
                }
            })
            .or_insert_with(|| Arc::new(Turnstile::new(concurrency)));
        Code {
            name: name.clone(),
            memory: component.memory.map_or(INSTANCE_MEMORY_DEFAULT, |memory| memory.0),
            cpu: component.cpu.map_or(REQUEST_CPU_DEFAULT, |span| span.0),
            timeout: component.timeout.map_or(REQUEST_TIME_DEFAULT, |span| span.0),
            turnstile: Arc::clone(turnstile),
            reuse: component.reuse,
            cell: OnceLock::new(),
        }
    }

    /// Forgets turnstiles of stages that are gone, and shares of tenants.
    pub(crate) fn forget(&self, record: &Record) {
        let apps = record.tenants().flat_map(|tenant| tenant.apps.values());
        let held: BTreeSet<(AppId, &Name)> =
            apps.flat_map(|app| app.stages.values().map(|stage| (app.id, &stage.name))).collect();
        let mut turnstiles = self.turnstiles.lock().unwrap_or_else(PoisonError::into_inner);
        turnstiles.retain(|(app, stage, _), _| held.contains(&(*app, stage)));
        drop(turnstiles);
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|tenant, _| record.tenant(*tenant).is_some());
    }

    fn certify(&self, router: &mut Router, record: &Record) {
        router.certificates.clear();
        for (domain, claim) in record.domains() {
            let Some(certificate) = &claim.certificate else { continue };
            let Some(tenant) = record.tenant(claim.tenant) else { continue };
            let certified = tenant_key(&self.key, tenant)
                .and_then(|key| key.open(&domain_purpose(domain.as_str()), &certificate.key))
                .map_err(|error| chain(&error))
                .and_then(|key| tls::certified(certificate.chain.as_bytes(), &key).map_err(|error| chain(&error)));
            match certified {
                Ok(certified) => {
                    router.certificates.insert(domain.as_str().into(), Arc::new(certified));
                }
                Err(error) => tracing::error!(%domain, "the uploaded certificate can't be used: {error}"),
            }
        }
    }
}

/// The environment and the secrets that the manifest binds, as `wasi:config` shows them.
fn config(key: &Key, app: &App, stage: &Stage, manifest: &Manifest) -> BTreeMap<String, String> {
    let mut config = manifest.env.clone();
    for name in &manifest.bindings.secrets {
        let Some(sealed) = stage.secrets.get(name) else { continue };
        let opened = key.open(&secret_purpose(app.name.as_str(), stage.name.as_str(), name), sealed);
        if let Ok(Ok(value)) = opened.map(String::from_utf8) {
            config.insert(name.clone(), value);
        } else {
            tracing::error!(app = %app.name, stage = %stage.name, secret = name, "a secret doesn't open");
        }
    }
    config
}

const TENANT_KEY_PURPOSE: &str = "tenant key";

/// The tenant's own key.
pub(crate) fn tenant_key(box_key: &Key, tenant: &Tenant) -> Result<Key, auth::OpenError> {
    let bytes = box_key.open(TENANT_KEY_PURPOSE, &tenant.key)?;
    bytes.try_into().map(Key::from_bytes).map_err(|_| auth::OpenError::Malformed)
}

/// A new tenant's key, sealed under the box's.
pub(crate) fn seal_tenant_key(box_key: &Key, tenant_key: &Key) -> state::Sealed {
    box_key.seal(TENANT_KEY_PURPOSE, tenant_key.as_bytes())
}

/// What a secret is sealed for. Names can't contain `/`, so no two secrets have the same purpose.
pub(crate) fn secret_purpose(app: &str, stage: &str, name: &str) -> String {
    format!("secret {app}/{stage}/{name}")
}

pub(crate) fn domain_purpose(domain: &str) -> String {
    format!("certificate key {domain}")
}

#[cfg(test)]
mod tests {
    use base::{Digest, Timestamp};
    use state::{Actor, Command, Entry};

    use super::*;

    #[test]
    fn prefixes_end_at_a_segment() {
        assert!(within("/api", "/api"));
        assert!(within("/api", "/api/x"));
        assert!(!within("/api", "/apis"));
        assert!(within("", "/anything"));
    }

    #[test]
    fn a_turnstile_goes_with_its_stage() {
        let name = |text: &str| -> Name { text.parse().expect("a name") };
        let (mut record, key) = (Record::default(), Key::from_bytes([7; 32]));
        let mut apply =
            |command| record.apply(&Entry { at: Timestamp(0), by: Actor::Box, command }).expect("it is right");
        let made = apply(Command::TenantCreate { name: name("acme"), key: seal_tenant_key(&key, &key) });
        let tenant = made.tenant.expect("it has a number");
        for stage in ["live", "next"] {
            apply(Command::ReleaseCreate {
                tenant,
                app: name("shop"),
                stage: name(stage),
                content: Digest::of(b"content"),
                manifest: Box::default(),
                source: None,
            });
        }
        apply(Command::StageDelete { tenant, app: name("shop"), stage: name("next") });
        let app = record.tenant(tenant).expect("it was made").apps[&name("shop")].id;
        let builder = Builder::new("localhost".to_owned(), key, Meters::new(1));
        for stage in ["live", "next"] {
            let place = (app, name(stage), name("api"));
            builder.turnstiles.lock().expect("nobody panicked").insert(place, Arc::new(Turnstile::new(1)));
        }
        builder.forget(&record);
        let held = builder.turnstiles.into_inner().expect("nobody panicked");
        assert_eq!(held.into_keys().collect::<Vec<_>>(), [(app, name("live"), name("api"))]);
    }
}
