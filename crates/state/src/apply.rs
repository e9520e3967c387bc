//! The transition function. Each arm checks everything before it changes anything, so a refusal leaves no trace.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use base::limits::{
    APPS_PER_TENANT_MAX, DOMAINS_PER_APP_MAX, ENV_BYTES_MAX, ENV_VALUE_BYTES_MAX, ENV_VARS_MAX, LABEL_BYTES_MAX,
    LABEL_TEXT_BYTES_MAX, RELEASES_PER_APP_MAX, STAGE_HISTORY_MAX, STAGES_PER_APP_MAX, TENANTS_MAX,
    TOKENS_PER_TENANT_MAX,
};
use base::{AppId, BoxId, DatabaseId, Digest, Domain, Name, ReleaseNo, Roles, TenantId, TokenId};

use crate::command::{Applied, Command, Entry, Event};
use crate::manifest::variable_name;
use crate::record::{
    App, Change, DomainClaim, How, LIVE, Origin, Record, Release, Sealed, Signed, Stage, Tenant, Token,
};
use crate::{Ceiling, Certificate, Grant, Manifest};

/// Why the record didn't take a command. The record is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no tenant with id {0}")]
    NoTenant(TenantId),
    #[error("there is a tenant {0} already")]
    TenantExists(Name),
    #[error("a burst of 0 lets nothing through: write 1 or more, or leave it out")]
    NoBurst,
    #[error("there is no app {0}")]
    NoApp(Name),
    #[error("app {app} has no stage {stage}")]
    NoStage { app: Name, stage: Name },
    #[error("stage {stage} of app {app} runs nothing yet: push to it first")]
    NothingRuns { app: Name, stage: Name },
    #[error("app {app} has no release {release} on stage {stage}")]
    NoRelease { app: Name, stage: Name, release: ReleaseNo },
    #[error("stage {stage} of app {app} has no earlier release to go back to")]
    NothingEarlier { app: Name, stage: Name },
    #[error("stage {stage} of app {app} already runs {release}")]
    RunsAlready { app: Name, stage: Name, release: ReleaseNo },
    #[error("stage {stage} of app {app} runs {running} by now, not {wanted}")]
    Overtaken { app: Name, stage: Name, running: ReleaseNo, wanted: ReleaseNo },
    #[error("a stage can't be promoted to itself")]
    PromotedToItself,
    #[error("stage live is the app itself: delete the app instead")]
    LiveStays,
    #[error("stage {stage} and app {app} are together too long for a host name: shorten the stage's name")]
    HostTooLong { app: Name, stage: Name },
    #[error("there is no token {0}")]
    NoToken(TokenId),
    #[error("token {0} exists already")]
    TokenExists(TokenId),
    #[error("an operator's token belongs to no tenant, and every other token to one")]
    TokenMisplaced,
    #[error("{0} can't be removed: it is the last token that may operate the cloud and never expires")]
    LastOperator(TokenId),
    #[error("domain {0} is taken by another app")]
    DomainTaken(Domain),
    #[error("app {app} has no domain {domain}")]
    NoDomain { app: Name, domain: Domain },
    #[error("the manifest has a fault: {0}")]
    Manifest(String),
    #[error("{0}")]
    Variable(String),
    #[error("stage {stage} of app {app} has no secret {name}")]
    NoSecret { app: Name, stage: Name, name: String },
    #[error("this cloud has its first box already")]
    FoundedAlready,
    #[error("this cloud isn't made of boxes: it is `firm up` on one machine")]
    NotFounded,
    #[error("a cloud needs an operator")]
    NoOperators,
    #[error("the database isn't that box's to give, or the other isn't one to have it")]
    NoMove,
    #[error("that is no signature")]
    Signature,
    #[error("the cloud has no box {0}")]
    NoBox(Name),
    #[error("box {0} was not admitted, or by another order: firm it anew")]
    NotAdmitted(Name),
    #[error("box {0} was put out of this cloud for good: reset it, and it comes back with a new key")]
    Evicted(Name),
    #[error("box {name} is in the cloud already, as {roles}")]
    BoxThere { name: Name, roles: Roles },
    #[error("box {0} is the only one that keeps the record: add another persistence box first")]
    LastPersistence(Name),
    #[error(
        "box {0} is the only one that makes tokens, and without it nobody could manage the cloud: add another auth box first"
    )]
    LastAuth(Name),
    #[error("box {name} holds {databases} databases, which would be lost")]
    HoldsData { name: Name, databases: usize },
    #[error("`{0}` can't be part of a label: lower-case letters, digits and single hyphens can")]
    Label(String),
    #[error("there is room for {max} {what}, and no more")]
    Full { what: &'static str, max: usize },
}

/// A signature of a length that one has. Whether it is one is for those who check it.
pub(crate) fn short(signed: &Signed) -> Result<Signed, Refusal> {
    if signed.signature.len() > SIGNATURE_CHARS_MAX { Err(Refusal::Signature) } else { Ok(signed.clone()) }
}

/// Characters of an Ed25519 signature in base64.
const SIGNATURE_CHARS_MAX: usize = 88;

pub(crate) type Outcome = Result<Applied, Refusal>;

impl Record {
    /// Takes the next entry. A refused one counts as applied too: every box skips it alike.
    pub fn apply(&mut self, entry: &Entry) -> Outcome {
        self.index += 1;
        let applied = self.decide(entry)?;
        self.unsettle(&applied.events);
        Ok(applied)
    }

    fn decide(&mut self, entry: &Entry) -> Outcome {
        match &entry.command {
            Command::TenantCreate { name, key } => self.tenant_create(entry, name, key),
            Command::TenantDelete { tenant } => self.tenant_delete(*tenant),
            Command::TenantLimit { tenant, ceiling } => self.tenant_limit(*tenant, ceiling.as_ref()),
            Command::TokenCreate { .. } => self.token_create(entry),
            Command::TokenSign { id, before, signed } => self.token_sign(*id, *before, signed),
            Command::TokenRevoke { tenant, id } => self.token_revoke(*tenant, *id),
            Command::ReleaseCreate { tenant, app, stage, content, manifest, source } => {
                self.release_create(entry, *tenant, app, stage, *content, manifest, source.as_deref())
            }
            Command::StagePromote { tenant, app, from, to, release } => {
                self.stage_promote(entry, *tenant, app, from, to, *release)
            }
            Command::StageRollback { tenant, app, stage, to, running } => {
                self.stage_rollback(entry, *tenant, app, stage, *to, *running)
            }
            Command::StageDelete { tenant, app, stage } => self.stage_delete(*tenant, app, stage),
            Command::EnvChange { tenant, app, stage, changes } => self.env_change(entry, *tenant, app, stage, changes),
            Command::SecretSet { tenant, app, stage, name, value } => {
                self.secret_set(entry, *tenant, app, stage, name, value)
            }
            Command::SecretDelete { tenant, app, stage, name } => self.secret_delete(*tenant, app, stage, name),
            Command::DomainAdd { tenant, app, domain, certificate } => {
                self.domain_add(entry, *tenant, app, domain, certificate.as_ref())
            }
            Command::DomainRemove { tenant, app, domain } => self.domain_remove(*tenant, app, domain),
            Command::AppDelete { tenant, app } => self.app_delete(*tenant, app),
            Command::CloudFound { cloud, name, domain, operators, first, addresses } => {
                self.cloud_found(entry, (*cloud, name, domain), operators, first, addresses)
            }
            Command::BoxAdmit { admission } => self.box_admit(entry, admission),
            Command::BoxJoin { id, order, addresses } => self.box_join(entry, *id, order, addresses),
            Command::BoxMoved { id, addresses } => self.box_moved(*id, addresses),
            Command::BoxDrain { id } => self.box_drain(*id),
            Command::DatabaseMove { database, from, to } => self.database_move(*database, *from, *to),
            Command::BoxLeave { id, lose_data } => self.box_leave(*id, *lose_data),
            Command::BoxEvict { id, lose_data } => self.box_evict(entry, *id, *lose_data),
        }
    }

    fn tenant_create(&mut self, entry: &Entry, name: &Name, key: &Sealed) -> Outcome {
        if self.tenant_named(name.as_str()).is_some() {
            return Err(Refusal::TenantExists(name.clone()));
        }
        room("tenants", self.tenants.len(), TENANTS_MAX)?;
        let id = TenantId(self.take_id());
        let tenant = Tenant {
            id,
            name: name.clone(),
            created: entry.at,
            key: key.clone(),
            apps: BTreeMap::new(),
            ceiling: None,
        };
        self.tenants.insert(id, Arc::new(tenant));
        Ok(Applied { tenant: Some(id), ..Applied::default() })
    }

    fn tenant_delete(&mut self, id: TenantId) -> Outcome {
        let tenant = self.tenants.remove(&id).ok_or(Refusal::NoTenant(id))?;
        self.tokens.retain(|_, token| token.tenant != Some(id));
        self.domains.retain(|_, claim| claim.tenant != id);
        let mut events: Vec<_> =
            tenant.apps.keys().map(|app| Event::AppChanged { tenant: id, app: app.clone() }).collect();
        for app in tenant.apps.values() {
            events.extend(
                app.stages.values().map(|stage| Event::DatabaseDropped { tenant: id, database: stage.database }),
            );
        }
        events.extend([Event::DomainsChanged, Event::TenantDropped { tenant: id }]);
        Ok(Applied { events, ..Applied::default() })
    }

    fn tenant_limit(&mut self, id: TenantId, ceiling: Option<&Ceiling>) -> Outcome {
        let tenant = self.tenants.get_mut(&id).ok_or(Refusal::NoTenant(id))?;
        if ceiling.is_some_and(|ceiling| ceiling.burst == Some(0)) {
            return Err(Refusal::NoBurst);
        }
        if tenant.ceiling.as_ref() == ceiling {
            return Ok(Applied::default());
        }
        Arc::make_mut(tenant).ceiling = ceiling.cloned();
        let events = tenant.apps.keys().map(|app| changed(id, app)).collect();
        Ok(Applied { events, ..Applied::default() })
    }

    fn token_create(&mut self, entry: &Entry) -> Outcome {
        let Command::TokenCreate { id, tenant, grant, label, hash, expires, signed } = &entry.command else {
            unreachable!("called for this command alone");
        };
        if tenant.is_none() != (*grant == Grant::Operate) {
            return Err(Refusal::TokenMisplaced);
        }
        if let Some(tenant) = tenant {
            self.tenants.get(tenant).ok_or(Refusal::NoTenant(*tenant))?;
        }
        if self.tokens.contains_key(id) {
            return Err(Refusal::TokenExists(*id));
        }
        let held = self.tokens.values().filter(|token| token.tenant == *tenant).count();
        room("tokens of a tenant", held, TOKENS_PER_TENANT_MAX)?;
        let label = cut(label);
        let token = Token {
            id: *id,
            tenant: *tenant,
            grant: *grant,
            label,
            hash: *hash,
            created: entry.at,
            expires: *expires,
            signed: signed.as_ref().map(short).transpose()?,
        };
        self.tokens.insert(*id, Arc::new(token));
        Ok(Applied::default())
    }

    fn token_sign(&mut self, id: TokenId, before: Option<BoxId>, signed: &Signed) -> Outcome {
        let signed = short(signed)?;
        let token = self.tokens.get_mut(&id).ok_or(Refusal::NoToken(id))?;
        if token.signed.as_ref().map(|signed| signed.by) == before {
            Arc::make_mut(token).signed = Some(signed);
        }
        Ok(Applied::default())
    }

    fn token_revoke(&mut self, tenant: Option<TenantId>, id: TokenId) -> Outcome {
        let lasting = |token: &Token| token.grant == Grant::Operate && token.expires.is_none();
        let token = self.tokens.get(&id).filter(|token| token.tenant == tenant).ok_or(Refusal::NoToken(id))?;
        if lasting(token) && self.tokens.values().filter(|token| lasting(token)).count() == 1 {
            return Err(Refusal::LastOperator(id));
        }
        self.tokens.remove(&id);
        Ok(Applied::default())
    }

    #[expect(clippy::too_many_arguments, reason = "they are the command's fields")]
    fn release_create(
        &mut self,
        entry: &Entry,
        tenant: TenantId,
        app: &Name,
        stage: &Name,
        content: Digest,
        manifest: &Manifest,
        source: Option<&str>,
    ) -> Outcome {
        if let Some(fault) = manifest.faults().first() {
            return Err(Refusal::Manifest(fault.to_string()));
        }
        if let Some(running) = self.runs_already(tenant, app, stage, content, manifest, source) {
            return Ok(Applied { release: Some(running), ..Applied::default() });
        }
        let app = self.app_or_new(entry, tenant, app, stage)?;
        let env = app.stages[stage].env.clone();
        let made = Made { origin: Origin::Push, how: How::Push, content, manifest, env, source };
        Ok(release(entry, tenant, app, stage, made))
    }

    /// The release that `stage` runs, when a push of this would make its like.
    fn runs_already(
        &self,
        tenant: TenantId,
        app: &Name,
        stage: &Name,
        content: Digest,
        manifest: &Manifest,
        source: Option<&str>,
    ) -> Option<ReleaseNo> {
        let app = self.app(tenant, app.as_str())?;
        let (running, stage) = (app.running(stage.as_str())?, app.stage(stage.as_str())?);
        let same = running.content == content
            && running.env == stage.env
            && running.source == source.map(cut)
            && running.manifest == *manifest;
        same.then_some(running.no)
    }

    fn stage_promote(
        &mut self,
        entry: &Entry,
        tenant: TenantId,
        name: &Name,
        from: &Name,
        to: &Name,
        wanted: Option<ReleaseNo>,
    ) -> Outcome {
        if from == to {
            return Err(Refusal::PromotedToItself);
        }
        let app = self.app(tenant, name.as_str()).ok_or_else(|| Refusal::NoApp(name.clone()))?;
        stage_of(app, from)?;
        let promoted = app
            .running(from.as_str())
            .cloned()
            .ok_or_else(|| Refusal::NothingRuns { app: name.clone(), stage: from.clone() })?;
        if let Some(wanted) = wanted
            && wanted != promoted.no
        {
            return Err(Refusal::Overtaken { app: name.clone(), stage: from.clone(), running: promoted.no, wanted });
        }
        let app = self.app_or_new(entry, tenant, name, to)?;
        let made = Made {
            origin: Origin::Promote(promoted.no),
            how: How::Promote,
            content: promoted.content,
            manifest: &promoted.manifest,
            env: app.stages[to].env.clone(),
            source: promoted.source.as_deref(),
        };
        Ok(release(entry, tenant, app, to, made))
    }

    fn stage_rollback(
        &mut self,
        entry: &Entry,
        tenant: TenantId,
        name: &Name,
        stage: &Name,
        to: Option<ReleaseNo>,
        wanted: Option<ReleaseNo>,
    ) -> Outcome {
        let app = self.app(tenant, name.as_str()).ok_or_else(|| Refusal::NoApp(name.clone()))?;
        let (app_name, stage_name) = (name.clone(), stage.clone());
        let running = stage_of(app, stage)?
            .running
            .ok_or_else(|| Refusal::NothingRuns { app: app_name.clone(), stage: stage_name.clone() })?;
        if let Some(wanted) = wanted
            && wanted != running
        {
            return Err(Refusal::Overtaken { app: app_name, stage: stage_name, running, wanted });
        }
        let target =
            match to {
                Some(no) => app.releases.get(&no).filter(|release| release.stage == *stage).ok_or_else(|| {
                    Refusal::NoRelease { app: app_name.clone(), stage: stage_name.clone(), release: no }
                })?,
                None => earlier(app, stage, running)
                    .ok_or_else(|| Refusal::NothingEarlier { app: app_name.clone(), stage: stage_name.clone() })?,
            };
        if target.no == running {
            return Err(Refusal::RunsAlready { app: app_name, stage: stage_name, release: running });
        }
        let (no, env) = (target.no, target.env.clone());
        let app = self.app_mut(tenant, name)?;
        let place = app.stages.get_mut(stage).expect("stage_of found it above");
        place.env = env;
        run(place, entry, no, How::Rollback);
        Ok(Applied { events: vec![changed(tenant, name)], release: Some(no), ..Applied::default() })
    }

    fn stage_delete(&mut self, tenant: TenantId, name: &Name, stage: &Name) -> Outcome {
        if stage.as_str() == LIVE {
            return Err(Refusal::LiveStays);
        }
        let app = self.app_mut(tenant, name)?;
        let gone =
            app.stages.remove(stage).ok_or_else(|| Refusal::NoStage { app: name.clone(), stage: stage.clone() })?;
        let mut events = vec![changed(tenant, name), Event::DatabaseDropped { tenant, database: gone.database }];
        let dropped = app.releases.extract_if(.., |_, release| release.stage == *stage);
        events.extend(dropped.map(|(_, release)| Event::ReleaseDropped { tenant, content: release.content }));
        Ok(Applied { events, ..Applied::default() })
    }

    fn env_change(
        &mut self,
        entry: &Entry,
        tenant: TenantId,
        name: &Name,
        stage: &Name,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Outcome {
        for (variable, value) in changes {
            variable_checked(variable, value.as_deref().unwrap_or_default())?;
        }
        let before = self.app(tenant, name.as_str()).and_then(|app| app.stage(stage.as_str()));
        let mut env = before.map(|stage| stage.env.clone()).unwrap_or_default();
        for (variable, value) in changes {
            match value {
                Some(value) => env.insert(variable.clone(), value.clone()),
                None => env.remove(variable),
            };
        }
        if let Some(stage) = before
            && stage.env == env
        {
            return Ok(Applied { release: stage.running, ..Applied::default() });
        }
        room("variables of a stage", env.len().saturating_sub(1), ENV_VARS_MAX)?;
        let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len()).sum();
        room("bytes of variables of a stage", bytes.saturating_sub(1), ENV_BYTES_MAX)?;
        let app = self.app_or_new(entry, tenant, name, stage)?;
        app.stages.get_mut(stage).expect("app_or_new makes it").env.clone_from(&env);
        let Some(running) = app.running(stage.as_str()).cloned() else {
            return Ok(Applied::default());
        };
        let made = Made {
            origin: Origin::Env(running.no),
            how: How::Env,
            content: running.content,
            manifest: &running.manifest,
            env,
            source: running.source.as_deref(),
        };
        Ok(release(entry, tenant, app, stage, made))
    }

    fn secret_set(
        &mut self,
        entry: &Entry,
        tenant: TenantId,
        name: &Name,
        stage: &Name,
        secret: &str,
        value: &Sealed,
    ) -> Outcome {
        variable_checked(secret, "")?;
        let held = self.app(tenant, name.as_str()).and_then(|app| app.stage(stage.as_str()));
        if let Some(held) = held
            && !held.secrets.contains_key(secret)
        {
            room("secrets of a stage", held.secrets.len(), ENV_VARS_MAX)?;
        }
        // Sealed, two digits a byte.
        let others = held.into_iter().flat_map(|held| &held.secrets).filter(|(name, _)| *name != secret);
        let bytes: usize = others.map(|(_, value)| value.0.len()).sum::<usize>() + value.0.len();
        room("bytes of secrets of a stage", (bytes / 2).saturating_sub(1), ENV_BYTES_MAX)?;
        let app = self.app_or_new(entry, tenant, name, stage)?;
        let place = app.stages.get_mut(stage).expect("app_or_new makes it");
        place.secrets.insert(secret.to_owned(), value.clone());
        Ok(Applied { events: vec![changed(tenant, name)], ..Applied::default() })
    }

    fn secret_delete(&mut self, tenant: TenantId, name: &Name, stage: &Name, secret: &str) -> Outcome {
        let app = self.app_mut(tenant, name)?;
        let no_stage = || Refusal::NoStage { app: name.clone(), stage: stage.clone() };
        let place = app.stages.get_mut(stage).ok_or_else(no_stage)?;
        if place.secrets.remove(secret).is_none() {
            return Err(Refusal::NoSecret { app: name.clone(), stage: stage.clone(), name: secret.to_owned() });
        }
        Ok(Applied { events: vec![changed(tenant, name)], ..Applied::default() })
    }

    fn domain_add(
        &mut self,
        entry: &Entry,
        tenant: TenantId,
        app: &Name,
        domain: &Domain,
        certificate: Option<&Certificate>,
    ) -> Outcome {
        self.app(tenant, app.as_str()).ok_or_else(|| Refusal::NoApp(app.clone()))?;
        if self.domains.get(domain).is_some_and(|claim| claim.tenant != tenant || claim.app != *app) {
            return Err(Refusal::DomainTaken(domain.clone()));
        }
        let held = self.domains.values().filter(|claim| claim.tenant == tenant && claim.app == *app).count();
        if !self.domains.contains_key(domain) {
            room("domains of an app", held, DOMAINS_PER_APP_MAX)?;
        }
        let claim = DomainClaim { tenant, app: app.clone(), at: entry.at, certificate: certificate.cloned() };
        self.domains.insert(domain.clone(), Arc::new(claim));
        Ok(Applied { events: vec![changed(tenant, app), Event::DomainsChanged], ..Applied::default() })
    }

    fn domain_remove(&mut self, tenant: TenantId, app: &Name, domain: &Domain) -> Outcome {
        let ours = self.domains.get(domain).is_some_and(|claim| claim.tenant == tenant && claim.app == *app);
        if !ours {
            return Err(Refusal::NoDomain { app: app.clone(), domain: domain.clone() });
        }
        self.domains.remove(domain);
        Ok(Applied { events: vec![changed(tenant, app), Event::DomainsChanged], ..Applied::default() })
    }

    fn app_delete(&mut self, id: TenantId, name: &Name) -> Outcome {
        let tenant = self.tenants.get_mut(&id).ok_or(Refusal::NoTenant(id))?;
        let app = Arc::make_mut(tenant).apps.remove(name).ok_or_else(|| Refusal::NoApp(name.clone()))?;
        self.domains.retain(|_, claim| claim.tenant != id || claim.app != *name);
        let mut events = vec![changed(id, name), Event::DomainsChanged, Event::AppDropped { tenant: id, app: app.id }];
        events.extend(app.stages.values().map(|stage| Event::DatabaseDropped { tenant: id, database: stage.database }));
        events.extend(
            app.releases.values().map(|release| Event::ReleaseDropped { tenant: id, content: release.content }),
        );
        Ok(Applied { events, ..Applied::default() })
    }

    fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn app_mut(&mut self, tenant: TenantId, name: &Name) -> Result<&mut App, Refusal> {
        let tenant = self.tenants.get_mut(&tenant).ok_or(Refusal::NoTenant(tenant))?;
        let app = Arc::make_mut(tenant).apps.get_mut(name).ok_or_else(|| Refusal::NoApp(name.clone()))?;
        Ok(Arc::make_mut(app))
    }

    /// The app with the stage in it, both made where missing. Refuses before it makes either.
    fn app_or_new(&mut self, entry: &Entry, id: TenantId, name: &Name, stage: &Name) -> Result<&mut App, Refusal> {
        if name.as_str().len() + stage.as_str().len() + 2 > LABEL_BYTES_MAX {
            return Err(Refusal::HostTooLong { app: name.clone(), stage: stage.clone() });
        }
        let tenant = self.tenants.get(&id).ok_or(Refusal::NoTenant(id))?;
        match tenant.apps.get(name) {
            Some(app) if !app.stages.contains_key(stage) => {
                room("stages of an app", app.stages.len(), STAGES_PER_APP_MAX)?;
            }
            Some(_) => {}
            None => room("apps of a tenant", tenant.apps.len(), APPS_PER_TENANT_MAX)?,
        }
        let fresh = [self.take_id(), self.take_id()];
        if !tenant_has(self.tenants.get(&id), name, stage) {
            self.settle(DatabaseId(fresh[1]));
        }
        let tenant = Arc::make_mut(self.tenants.get_mut(&id).expect("found above"));
        let app = tenant.apps.entry(name.clone()).or_insert_with(|| {
            Arc::new(App {
                id: AppId(fresh[0]),
                name: name.clone(),
                created: entry.at,
                next_release: 1,
                releases: BTreeMap::new(),
                stages: BTreeMap::new(),
            })
        });
        let app = Arc::make_mut(app);
        app.stages.entry(stage.clone()).or_insert_with(|| Stage {
            name: stage.clone(),
            database: DatabaseId(fresh[1]),
            running: None,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            history: VecDeque::new(),
        });
        Ok(app)
    }
}

/// What a new release is made of.
struct Made<'a> {
    origin: Origin,
    how: How,
    content: Digest,
    manifest: &'a Manifest,
    env: BTreeMap<String, String>,
    source: Option<&'a str>,
}

/// Makes the release, runs it on `stage`, and forgets the oldest where there are too many.
fn release(entry: &Entry, tenant: TenantId, app: &mut App, stage: &Name, made: Made<'_>) -> Applied {
    let no = ReleaseNo(app.next_release);
    app.next_release += 1;
    let release = Release {
        no,
        stage: stage.clone(),
        at: entry.at,
        by: entry.by.clone(),
        origin: made.origin,
        content: made.content,
        manifest: made.manifest.clone(),
        env: made.env,
        source: made.source.map(cut),
    };
    app.releases.insert(no, Arc::new(release));
    run(app.stages.get_mut(stage).expect("the caller made the stage"), entry, no, made.how);
    let mut events = vec![changed(tenant, &app.name)];
    while app.releases.len() > RELEASES_PER_APP_MAX {
        let runs = |no: &ReleaseNo| app.stages.values().any(|stage| stage.running == Some(*no));
        let Some(oldest) = app.releases.keys().copied().find(|no| !runs(no)) else { break };
        let gone = app.releases.remove(&oldest).expect("the key was just read");
        events.push(Event::ReleaseDropped { tenant, content: gone.content });
    }
    Applied { events, release: Some(no), ..Applied::default() }
}

fn run(stage: &mut Stage, entry: &Entry, release: ReleaseNo, how: How) {
    stage.running = Some(release);
    stage.history.push_back(Change { at: entry.at, by: entry.by.clone(), release, how });
    while stage.history.len() > STAGE_HISTORY_MAX {
        stage.history.pop_front();
    }
}

/// The newest release of the stage that is older than `running`: rolling back twice goes back twice.
fn earlier<'a>(app: &'a App, stage: &Name, running: ReleaseNo) -> Option<&'a Arc<Release>> {
    app.releases.range(..running).rev().map(|(_, release)| release).find(|release| release.stage == *stage)
}

fn tenant_has(tenant: Option<&Arc<Tenant>>, app: &Name, stage: &Name) -> bool {
    tenant.and_then(|tenant| tenant.apps.get(app)).is_some_and(|app| app.stages.contains_key(stage))
}

fn stage_of<'a>(app: &'a App, stage: &Name) -> Result<&'a Stage, Refusal> {
    app.stages.get(stage).ok_or_else(|| Refusal::NoStage { app: app.name.clone(), stage: stage.clone() })
}

fn changed(tenant: TenantId, app: &Name) -> Event {
    Event::AppChanged { tenant, app: app.clone() }
}

pub(crate) fn room(what: &'static str, held: usize, max: usize) -> Result<(), Refusal> {
    if held < max { Ok(()) } else { Err(Refusal::Full { what, max }) }
}

fn variable_checked(name: &str, value: &str) -> Result<(), Refusal> {
    variable_name(name).map_err(Refusal::Variable)?;
    if value.len() > ENV_VALUE_BYTES_MAX || value.contains('\0') {
        return Err(Refusal::Variable(format!(
            "the value of {name} is longer than {ENV_VALUE_BYTES_MAX} bytes, or has a NUL"
        )));
    }
    Ok(())
}

/// People's words, as long as a ledger shows them.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(LABEL_TEXT_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests;
