//! What may happen to the record, and what did.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use base::{AppId, BoxId, CloudId, DatabaseId, Digest, Domain, Name, ReleaseNo, TenantId, Timestamp, TokenId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Admission, Ceiling, Certificate, Grant, Manifest, Sealed, Signed};

/// A command, when it was proposed and by whom: one line of the record's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub at: Timestamp,
    pub by: Actor,
    pub command: Command,
}

/// Who proposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Actor {
    /// The holder of a token. Its label is kept, so that a ledger still reads well when the token is gone.
    Token { id: TokenId, label: String },
    /// The box itself: its first tenant, its first token.
    Box,
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token { label, .. } => f.write_str(label),
            Self::Box => f.write_str("the box"),
        }
    }
}

/// Everything that may be asked of the record. It was authorised before it was proposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    TenantCreate {
        name: Name,
        key: Sealed,
    },
    TenantDelete {
        tenant: TenantId,
    },
    /// Sets the tenant's ceiling or, with none, takes it away.
    TenantLimit {
        tenant: TenantId,
        ceiling: Option<Ceiling>,
    },
    /// An auth box's word for a token that has none, or whose maker goes.
    TokenSign {
        id: TokenId,
        /// Who signed it until now: a second box that would do the same comes too late.
        before: Option<BoxId>,
        signed: Signed,
    },
    TokenCreate {
        id: TokenId,
        tenant: Option<TenantId>,
        grant: Grant,
        label: String,
        hash: Digest,
        expires: Option<Timestamp>,
        /// By whom it is made, where the cloud has boxes for that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signed: Option<Signed>,
    },
    TokenRevoke {
        tenant: Option<TenantId>,
        id: TokenId,
    },
    /// Makes the app and the stage where they are missing, and runs the new release there. A stage that runs the same
    /// already stays as it is.
    ReleaseCreate {
        tenant: TenantId,
        app: Name,
        stage: Name,
        content: Digest,
        manifest: Box<Manifest>,
        source: Option<String>,
    },
    /// Runs what `from` runs on `to`, with `to`'s own variables, secrets and data. `release` refuses the promotion
    /// when `from` runs another one by now.
    StagePromote {
        tenant: TenantId,
        app: Name,
        from: Name,
        to: Name,
        release: Option<ReleaseNo>,
    },
    /// Runs an earlier release of the stage again, variables included; the one before the running, unless told.
    /// `running` refuses when the stage runs another one by now.
    StageRollback {
        tenant: TenantId,
        app: Name,
        stage: Name,
        to: Option<ReleaseNo>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        running: Option<ReleaseNo>,
    },
    StageDelete {
        tenant: TenantId,
        app: Name,
        stage: Name,
    },
    /// Sets or (with none) takes away variables. A stage that runs gets a new release of the same content, unless
    /// they are so already.
    EnvChange {
        tenant: TenantId,
        app: Name,
        stage: Name,
        changes: BTreeMap<String, Option<String>>,
    },
    SecretSet {
        tenant: TenantId,
        app: Name,
        stage: Name,
        name: String,
        value: Sealed,
    },
    SecretDelete {
        tenant: TenantId,
        app: Name,
        stage: Name,
        name: String,
    },
    DomainAdd {
        tenant: TenantId,
        app: Name,
        domain: Domain,
        certificate: Option<Certificate>,
    },
    DomainRemove {
        tenant: TenantId,
        app: Name,
        domain: Domain,
    },
    AppDelete {
        tenant: TenantId,
        app: Name,
    },
    /// The cloud is made of boxes from now on, and this is the first.
    CloudFound {
        cloud: CloudId,
        name: Name,
        domain: String,
        operators: BTreeSet<BoxId>,
        first: Admission,
        addresses: Vec<SocketAddr>,
    },
    /// An operator lets a box in.
    BoxAdmit {
        admission: Admission,
    },
    /// It came.
    BoxJoin {
        id: BoxId,
        order: String,
        addresses: Vec<SocketAddr>,
    },
    /// Its links are listened for elsewhere.
    BoxMoved {
        id: BoxId,
        addresses: Vec<SocketAddr>,
    },
    /// It is about to go: it gets no new data, what it has goes elsewhere, and others keep the record.
    BoxDrain {
        id: BoxId,
    },
    /// A database lives on another box from now on, where its file is by now.
    DatabaseMove {
        database: DatabaseId,
        from: BoxId,
        to: BoxId,
    },
    /// It goes in order.
    BoxLeave {
        id: BoxId,
        /// Also when it holds databases, which are lost then.
        #[serde(default)]
        lose_data: bool,
    },
    /// It is put out, and its key for good.
    BoxEvict {
        id: BoxId,
        /// Also when it holds databases, which are lost then.
        lose_data: bool,
    },
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Applied {
    /// What others must hear of.
    pub events: Vec<Event>,
    /// The tenant that was made.
    pub tenant: Option<TenantId>,
    /// The release that the stage now runs.
    pub release: Option<ReleaseNo>,
}

/// What changed, for those who keep something derived from the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Build the routes of this app anew; it may be gone.
    AppChanged { tenant: TenantId, app: Name },
    /// Nobody uses this data any more.
    DatabaseDropped { tenant: TenantId, database: DatabaseId },
    /// Nobody uses this app's log any more.
    AppDropped { tenant: TenantId, app: AppId },
    /// Nobody uses anything of this tenant's any more.
    TenantDropped { tenant: TenantId },
    /// A release was forgotten: its chunks may be swept.
    ReleaseDropped { tenant: TenantId, content: Digest },
    /// Domains or their certificates changed.
    DomainsChanged,
    /// Boxes came, moved or went.
    BoxesChanged,
}
