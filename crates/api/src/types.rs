//! What travels in requests and answers. All JSON; times are milliseconds since 1970, UTC.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use base::limits::{LABEL_TEXT_BYTES_MAX, SHARE_TIME_MAX};
use base::{BoxId, CloudId, Digest, Domain, Name, ReleaseNo, Roles, Timestamp, TokenId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use state::manifest::Fault;
use state::{Ceiling, Change, Grant, Manifest, Origin, Signed};

/// The answer to every request that didn't do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// A word for scripts, which never changes: `no_such_app`, `unauthorised` …
    pub code: String,
    /// What happened, to what.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// What is wrong with the manifest, when that is what happened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// Finds the request in the box's log.
    pub request: String,
}

/// Does the box serve?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    pub serving: bool,
    pub version: String,
    pub draining: bool,
}

/// The box and the cloud, as the caller may see them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    pub serving: bool,
    pub version: String,
    pub draining: bool,
    /// When this node started.
    pub since: Timestamp,
    /// Commands that the record holds.
    pub record_index: u64,
    /// Tenants and apps that the caller may see.
    pub tenants: u64,
    pub apps: u64,
    /// What isn't as it should be, and what to do about it. Empty when all is well.
    pub concerns: Vec<String>,
}

/// A cloud that is made of boxes, and what a new one has to know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CloudView {
    pub cloud: CloudId,
    pub name: Name,
    /// Apps answer at `APP.TENANT.DOMAIN`.
    pub domain: String,
    /// Whose orders its boxes take.
    pub operators: Vec<BoxId>,
    /// Who leads the record. None where nobody is known to: commands wait.
    pub leader: Option<BoxId>,
    pub boxes: Vec<BoxView>,
    /// Blank boxes that its boxes hear on their segments: hints of where to knock, and no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nearby: Vec<NearbyView>,
}

/// A box that says to be blank, heard by a box of the cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NearbyView {
    pub id: BoxId,
    /// Where it says to listen for those who knock.
    pub addresses: Vec<SocketAddr>,
    /// Who heard it.
    pub heard_by: BoxId,
}

/// What a box is to the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecordPart {
    Leads,
    Votes,
    /// It is told everything, and votes when another can't.
    StandsBy,
    /// It keeps a copy.
    Follows,
}

/// One box of the cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BoxView {
    pub id: BoxId,
    pub name: Name,
    pub roles: Roles,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Where its links are listened for. The port before it is where one knocks.
    pub addresses: Vec<SocketAddr>,
    /// None until it has come: it was only told to.
    pub joined: Option<Timestamp>,
    /// It is about to go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// Databases that it holds.
    pub databases: u64,
    /// What it is to the record.
    pub record: RecordPart,
    /// How it is, by its own word. None where it wasn't heard of since its cloud's leader began.
    pub vitals: Option<VitalsView>,
}

/// How a box is, by its own word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VitalsView {
    /// Milliseconds since it said so. It says so every second.
    pub heard_ms_ago: u64,
    pub version: String,
    /// When its node started.
    pub since: Timestamp,
    /// Commands that its record holds.
    pub record_index: u64,
    pub draining: bool,
    /// What isn't as it should be.
    pub concerns: Vec<String>,
}

/// A box that may come in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BoxAdmit {
    pub id: BoxId,
    pub roles: Roles,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The order that it is given: it comes with this one or not at all.
    pub order: String,
    /// An operator's word for its key and roles. Without one it makes no tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warrant: Option<Signed>,
}

/// The holder of the token that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Whoami {
    pub token: TokenId,
    pub label: String,
    pub grant: Grant,
    /// None for an operator.
    pub tenant: Option<Name>,
    pub expires: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TenantView {
    pub tenant: Name,
    pub created: Timestamp,
    pub apps: u64,
    /// What all its apps together may be asked, whatever their manifests say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Ceiling>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["limit"]))]
pub struct TenantChange {
    /// The ceiling of all its apps and stages together; null takes it away. It has to be there, so that an empty
    /// object takes nothing away.
    #[serde(deserialize_with = "Option::deserialize")]
    pub limit: Option<Ceiling>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantCreate {
    pub tenant: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenView {
    pub token: TokenId,
    pub label: String,
    pub grant: Grant,
    pub created: Timestamp,
    pub expires: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    #[schemars(length(min = 1, max = LABEL_TEXT_BYTES_MAX))]
    pub label: String,
    pub grant: Grant,
    /// Seconds from now. Never expires when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub expires_in: Option<u64>,
}

/// A new token. Its secret is shown this once and kept nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenCreated {
    pub token: TokenId,
    pub secret: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AppView {
    pub app: Name,
    pub created: Timestamp,
    /// The live stage's address.
    pub url: String,
    /// What the live stage runs.
    pub running: Option<ReleaseNo>,
    pub stages: Vec<Name>,
    pub domains: Vec<Domain>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChunksAsked {
    pub chunks: Vec<Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChunksMissing {
    pub missing: Vec<Digest>,
}

/// A file as its chunks, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// BLAKE3 of the whole file.
    pub digest: Digest,
    /// Bytes of the whole file.
    pub size: u64,
    pub chunks: Vec<Chunk>,
    /// The same file encoded, for visitors that take it so. Each is smaller than the file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub encodings: BTreeMap<Encoding, Encoded>,
}

/// A content coding (RFC 9110, 8.4.1; RFC 7932; RFC 9659).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    Br,
    Zstd,
    Gzip,
}

impl Encoding {
    pub const ALL: [Self; 3] = [Self::Br, Self::Zstd, Self::Gzip];

    /// As `Content-Encoding` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Br => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

/// A file in one encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Encoded {
    /// BLAKE3 of the encoded bytes.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
    /// Their chunks, in order; none where they are one chunk, as they mostly are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunks: Vec<Chunk>,
}

impl Encoded {
    /// The chunks, with the one that needn't be written.
    pub fn pieces(&self) -> Vec<Chunk> {
        match &*self.chunks {
            [] => vec![Chunk { digest: self.digest, size: self.size }],
            chunks => chunks.to_vec(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    pub digest: Digest,
    pub size: u64,
}

/// What a release is made of. Stored as a chunk itself; its digest is the release's content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Files of each static folder, by their path below it (`css/site.css`).
    #[serde(default)]
    pub statics: BTreeMap<Name, BTreeMap<String, File>>,
    /// The built component of each name.
    #[serde(default)]
    pub components: BTreeMap<Name, File>,
}

impl Index {
    /// Every file of it.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.statics.values().flat_map(BTreeMap::values).chain(self.components.values())
    }

    /// Every chunk that it names.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> {
        self.files()
            .flat_map(|file| file.chunks.iter().cloned().chain(file.encodings.values().flat_map(Encoded::pieces)))
    }
}

/// A push, after its chunks were uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// `live` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Name>,
    pub manifest: Manifest,
    pub index: Index,
    /// Where the source came from, such as a git revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// What a push, promotion, rollback or change of variables ended in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Deployed {
    pub url: String,
    pub tenant: Name,
    pub app: Name,
    pub stage: Name,
    pub release: ReleaseNo,
    /// Does everybody see it, or only members and holders of a share link?
    pub public: bool,
    /// Did the stage run the very same already, so that no release was made?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchanged: bool,
    /// What is likely not meant, such as a bound secret that isn't set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseView {
    pub release: ReleaseNo,
    pub stage: Name,
    /// Does its stage run it now?
    pub running: bool,
    pub at: Timestamp,
    pub by: String,
    pub origin: Origin,
    pub content: Digest,
    pub source: Option<String>,
    /// The manifest and variables as the stage runs them.
    pub manifest: Manifest,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StageView {
    pub stage: Name,
    pub url: String,
    pub public: bool,
    pub running: Option<ReleaseNo>,
    pub history: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Promote {
    /// The stage to run it on; `live` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Name>,
    /// Refuse when the stage runs another release by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseNo>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The one before the running release when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<ReleaseNo>,
    /// Refuse when the stage runs another release than this by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<ReleaseNo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Seconds that the link opens the stage. A day when absent, 30 days at the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = SHARE_TIME_MAX.as_secs()))]
    pub expires_in: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Shared {
    pub url: String,
    pub expires: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Env {
    /// Set with `firm env`.
    pub set: BTreeMap<String, String>,
    /// From the manifest of the running release, where nothing set wins over it.
    pub manifest: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvChange {
    /// A value sets, null takes away.
    pub changes: BTreeMap<String, Option<String>>,
}

/// The release that the change made; none when nothing runs there yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EnvChanged {
    pub release: Option<ReleaseNo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Secrets {
    /// Names only: a secret is never shown again.
    pub set: Vec<String>,
    /// Bound by the running release and not set.
    pub missing: Vec<String>,
    /// Set and not bound by the running release: no code gets them.
    #[serde(default)]
    pub unbound: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretSet {
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DomainView {
    pub domain: Domain,
    pub at: Timestamp,
    /// Was a certificate uploaded? Without one, TLS to the domain fails: the cloud signs for its own names alone.
    pub certificate: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DomainAdd {
    /// PEM, leaf first; with `key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// PEM of the private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// One line of an app's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    pub at: Timestamp,
    pub stage: String,
    pub release: String,
    /// The id that the visitor's answer carried in `x-request-id`.
    pub request: String,
    /// `stdout`, `stderr`, `fault` or `access`; `notice` where it is about the reading: a box that gives no lines.
    pub stream: String,
    pub text: String,
}

/// Done, with nothing more to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Done {
    pub done: bool,
}
