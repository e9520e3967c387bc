//! What the record holds. Changed by [`Record::apply`](crate::Record::apply) alone.
//!
//! Tenants and apps sit behind `Arc`, so that a copy of the record for readers costs a pointer a tenant, and a
//! change copies the one app that it touches.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use base::{AppId, BoxId, DatabaseId, Digest, Domain, Name, Rate, ReleaseNo, TenantId, Timestamp, TokenId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Actor, Boxes, Manifest};

/// The version of the stored record and of its commands. A change that an older build can't read raises it,
/// and the reader of the older version stays. 1: a lone box's log. 2: a group's, with terms and the ids of proposals.
pub const FORMAT: u32 = 2;

/// The stage that the public sees.
pub(crate) const LIVE: &str = "live";

/// The cloud's control state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Commands applied so far.
    pub(crate) index: u64,
    /// The next tenant, app or database id. Ids are never used again.
    pub(crate) next_id: u64,
    pub(crate) tenants: BTreeMap<TenantId, Arc<Tenant>>,
    pub(crate) tokens: BTreeMap<TokenId, Arc<Token>>,
    pub(crate) domains: BTreeMap<Domain, Arc<DomainClaim>>,
    /// None of `firm up`: a cloud that isn't made of boxes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boxes: Option<Arc<Boxes>>,
}

/// Who rents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    pub id: TenantId,
    pub name: Name,
    pub created: Timestamp,
    /// The tenant's own key, sealed under the box's: what seals its secrets and signs its share links.
    pub key: Sealed,
    pub apps: BTreeMap<Name, Arc<App>>,
    /// What all its apps together may be asked, whatever their manifests say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Ceiling>,
}

/// Requests of all of a tenant's apps and stages together. Set by operators alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ceiling {
    /// The sustained rate.
    pub rate: Rate,
    /// Requests that may come at once after a quiet time. The rate's count, unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub burst: Option<u32>,
}

/// Bytes that were encrypted before they came here. In hexadecimal when stored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(pub String);

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({} digits)", self.0.len())
    }
}

/// What a token's holder may do. Each grant includes those above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Grant {
    /// See the tenant's private stages.
    Visit,
    /// And read its apps, releases and logs.
    Read,
    /// And push, promote, roll back, and set variables and secrets.
    Deploy,
    /// And manage the tenant's tokens and domains, and delete apps.
    Own,
    /// And manage every tenant. Belongs to no tenant.
    Operate,
}

impl Grant {
    /// As people type it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Visit => "visit",
            Self::Read => "read",
            Self::Deploy => "deploy",
            Self::Own => "own",
            Self::Operate => "operate",
        }
    }
}

impl std::fmt::Display for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What proves somebody to the API. The secret itself is not here, only its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub id: TokenId,
    /// The tenant it belongs to; none for an operator's.
    pub tenant: Option<TenantId>,
    pub grant: Grant,
    /// What its owner calls it.
    pub label: String,
    /// BLAKE3 of the secret: 32 random bytes need no salt and no slow hash.
    pub hash: Digest,
    pub created: Timestamp,
    pub expires: Option<Timestamp>,
    /// By whom it was made, where the cloud has boxes for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Signed>,
}

/// Somebody's word for something, which others check: the record keeps it and believes nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    pub by: BoxId,
    /// Ed25519, in base64.
    pub signature: String,
}

/// An app: its releases, and the stages that run them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    pub id: AppId,
    pub name: Name,
    pub created: Timestamp,
    pub next_release: u32,
    pub releases: BTreeMap<ReleaseNo, Arc<Release>>,
    pub stages: BTreeMap<Name, Stage>,
}

/// One version of an app, as it was on one stage. It never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub no: ReleaseNo,
    /// The stage it was made for.
    pub stage: Name,
    pub at: Timestamp,
    pub by: Actor,
    pub origin: Origin,
    /// The digest of the release's index: its files and components.
    pub content: Digest,
    /// The whole manifest as pushed, overrides of all stages included.
    pub manifest: Manifest,
    /// Variables set with `firm env`, as they were. They win over the manifest's.
    pub env: BTreeMap<String, String>,
    /// What the pusher says about the source, such as a git revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// How a release came to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Built and uploaded.
    Push,
    /// The same content as this release, with other variables.
    Env(ReleaseNo),
    /// The same content as this release of another stage.
    Promote(ReleaseNo),
}

/// A named place that a release runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    pub name: Name,
    /// Its own data. No two stages ever share one.
    pub database: DatabaseId,
    /// None until the first push: secrets and variables may be set before.
    pub running: Option<ReleaseNo>,
    /// Variables set with `firm env`: what the next release of this stage gets.
    pub env: BTreeMap<String, String>,
    /// Secrets by name. They belong to the stage, not to a release: a rollback must not bring back a leaked one.
    pub secrets: BTreeMap<String, Sealed>,
    /// What happened here, newest last.
    pub history: VecDeque<Change>,
}

/// A change of what a stage runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    pub at: Timestamp,
    pub by: Actor,
    pub release: ReleaseNo,
    pub how: How,
}

/// How a stage came to run a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum How {
    Push,
    Env,
    Promote,
    Rollback,
}

/// A visitor's domain and the app whose live stage answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainClaim {
    pub tenant: TenantId,
    pub app: Name,
    pub at: Timestamp,
    /// The uploaded certificate; the cloud's own authority signs one where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
}

/// A certificate chain and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// PEM, leaf first.
    pub chain: String,
    /// PEM of the key, sealed under the tenant's key.
    pub key: Sealed,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            index: 0,
            next_id: 1,
            tenants: BTreeMap::new(),
            tokens: BTreeMap::new(),
            domains: BTreeMap::new(),
            boxes: None,
        }
    }
}

impl Record {
    /// Commands applied so far.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The cloud's boxes; none of `firm up`.
    pub fn boxes(&self) -> Option<&Arc<Boxes>> {
        self.boxes.as_ref()
    }

    /// The databases of all stages.
    pub(crate) fn databases(&self) -> impl Iterator<Item = DatabaseId> {
        let stages = self.tenants.values().flat_map(|tenant| tenant.apps.values()).flat_map(|app| app.stages.values());
        stages.map(|stage| stage.database)
    }

    pub fn tenants(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.tenants.values()
    }

    pub fn tenant(&self, id: TenantId) -> Option<&Arc<Tenant>> {
        self.tenants.get(&id)
    }

    /// Tenants are few and looked up by name only by the API.
    pub fn tenant_named(&self, name: &str) -> Option<&Arc<Tenant>> {
        self.tenants.values().find(|tenant| tenant.name.as_str() == name)
    }

    pub fn app(&self, tenant: TenantId, app: &str) -> Option<&Arc<App>> {
        self.tenants.get(&tenant)?.apps.get(app)
    }

    pub fn token(&self, id: TokenId) -> Option<&Arc<Token>> {
        self.tokens.get(&id)
    }

    pub fn tokens(&self) -> impl Iterator<Item = &Arc<Token>> {
        self.tokens.values()
    }

    pub fn domains(&self) -> impl Iterator<Item = (&Domain, &DomainClaim)> {
        self.domains.iter().map(|(domain, claim)| (domain, &**claim))
    }

    pub fn domain(&self, domain: &str) -> Option<&DomainClaim> {
        self.domains.get(domain).map(|claim| &**claim)
    }
}

impl App {
    pub fn stage(&self, stage: &str) -> Option<&Stage> {
        self.stages.get(stage)
    }

    /// The release that `stage` runs.
    pub fn running(&self, stage: &str) -> Option<&Arc<Release>> {
        self.releases.get(&self.stages.get(stage)?.running?)
    }
}

impl Release {
    /// The manifest and variables as the release's own stage runs them.
    pub fn effective(&self) -> Manifest {
        let mut manifest = self.manifest.for_stage(&self.stage);
        manifest.env.extend(self.env.clone());
        manifest
    }
}

impl Stage {
    /// Does everybody see it?
    pub fn is_live(&self) -> bool {
        self.name.as_str() == LIVE
    }
}
